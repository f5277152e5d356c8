"""What holds for every method that sweeps epochs of minibatches."""

import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.registry import list_agents


def first_order(name: str) -> bool:
    cls = getattr(polopt, name)
    return issubclass(cls, OnPolicy) and issubclass(cls.Config, EpochsConfig)


NAMES = [name for name in list_agents() if first_order(name)]


def make(name, **kwargs):
    cls = getattr(polopt, name)
    env = "CartPole-v1" if spaces.Discrete in cls.action_spaces else "Pendulum-v1"
    kwargs = dict(n_steps=32, batch_size=32, n_epochs=2, num_envs=2, seed=0) | kwargs
    return cls("MlpPolicy", env, **kwargs)


@pytest.mark.parametrize("name", NAMES)
def test_each_row_of_the_table_moves_its_part_and_no_other(name, prepared):
    model = make(name)
    b = next(iter(model.minibatches(prepared(model))))
    model.minibatch_step(b)  # away from the old policy, where some gradients are 0
    everything = {id(p): p for net in model.nets.values() for p in net.parameters()}
    assert set(everything) >= {id(p) for part in model.parts.values() for p in part.params}
    for part, loss in model.table():
        before = {i: p.detach().clone() for i, p in everything.items()}
        model.parts[part].descend(loss(model.evaluate(b), {}))
        moved = {i for i, p in everything.items() if not torch.equal(p, before[i])}
        assert moved and moved <= {id(p) for p in model.parts[part].params}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_minibatch_step_is_the_eager_one(name, prepared):
    eager, compiled = make(name), make(name, compile=True)
    if not compiled.compiled:
        pytest.skip("no C++ compiler")
    b = next(iter(eager.minibatches(prepared(eager))))
    for _ in range(2):
        eager.minibatch_step(b)
        compiled.minibatch_step(b)
    for x, y in zip(eager.nets.values(), compiled.nets.values(), strict=True):
        for p, q in zip(x.parameters(), y.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
