from collections.abc import Callable

import pytest

from polopt.batch import Batch
from polopt.rollout import rollout


@pytest.fixture
def prepared() -> Callable[..., Batch]:
    """The rows of one fresh rollout of a model, as ``improve`` sees them."""

    def rows(model, seed: int = 0) -> Batch:
        batch, _ = rollout(model.env, model, model.env.reset_host(seed), model.horizon)
        return model.prepare(batch)

    return rows
