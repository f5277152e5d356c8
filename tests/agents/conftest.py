from collections.abc import Callable

import pytest
import torch

import polopt
from polopt.batch import Batch
from polopt.rollout import rollout


@pytest.fixture
def prepared() -> Callable[..., Batch]:
    """The rows of one fresh rollout of a model, as ``improve`` sees them."""

    def rows(model, seed: int = 0) -> Batch:
        batch, _ = rollout(model.env, model, model.env.reset_host(seed), model.horizon)
        return model.prepare(batch)

    return rows


@pytest.fixture
def same_update(prepared) -> Callable[..., None]:
    """Assert that a model's whole update equals PPO's without a clip, on the same rollout, parameter by parameter."""

    def check(model, env: str, **how) -> None:
        ppo = polopt.PPO("MlpPolicy", env, clip_range=1e9, **how)
        for m in (ppo, model):
            m.policy.double()
        b, before = prepared(ppo), [p.clone() for p in ppo.policy.parameters()]
        model.generator.set_state(ppo.generator.get_state())
        ppo.improve(b), model.improve(b)
        for x, y, old in zip(model.policy.parameters(), ppo.policy.parameters(), before, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12)
            assert not torch.equal(x, old)

    return check
