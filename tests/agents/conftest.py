from collections.abc import Callable

import pytest
import torch

from polopt.batch import Batch
from polopt.rollout import rollout


@pytest.fixture
def prepared() -> Callable[..., Batch]:
    """The rows of one fresh rollout of a model, as ``improve`` sees them."""

    def rows(model, seed: int = 0) -> Batch:
        batch, _ = rollout(model.env, model, model.env.reset_host(seed), model.horizon)
        return model.prepare(batch)

    return rows


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As ``learn`` sets for small networks: a second thread's wake-up costs more than it computes."""
    torch.set_num_threads(1)
