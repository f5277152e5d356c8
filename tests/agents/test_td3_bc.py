"""TD3+BC: the spec's exact checks."""

from __future__ import annotations

import copy

import pytest
import torch
from polopt.agents.offline.td3_bc import leashed

import polopt
from polopt.batch import Batch

NET = dict(net_arch=[16, 16])


def make(name="TD3BC", **kwargs):
    return getattr(polopt, name)(
        "MlpPolicy", "Pendulum-v1", **(dict(seed=0, buffer_size=10, policy_kwargs=NET) | kwargs)
    )


def batch(size=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g)
    return Batch(
        obs=draw(size, 3), action=draw(size, 1).tanh(), reward=draw(size), next_obs=draw(size, 3),
        discount=0.99 * (draw(size) > -1).float(), next_noise=draw(size, 1),
    )  # fmt: skip


def gradient(model, b):
    return torch.cat([g.flatten() for g in model.parts["policy"].gradient(model.policy_loss(b))])


def test_the_loss_by_hand():
    q, gaps = torch.tensor([1.0, -3.0]), torch.tensor([[0.0, 4.0], [1.0, 1.0]])
    assert float(leashed(q, 2.5, gaps)) == pytest.approx(-2.5 / 2 * -1 + 6 / 4)  # mean over actions too, not the sum


def test_without_the_value_it_is_behaviour_cloning():
    model, b = make(alpha=0.0), batch()
    cloning = (torch.tanh(model.policy.of(b.obs)) - b.action).square().mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(cloning, model.parts["policy"].params)])
    torch.testing.assert_close(gradient(model, b), expected, rtol=0, atol=0)


def test_without_the_leash_and_with_lambda_1_it_is_td3_bit_for_bit():
    td3, mine = make("TD3", learning_rate=3e-4), make()
    for name in td3.nets:
        td3.nets[name].load_state_dict({k: v for k, v in mine.nets[name].state_dict().items() if "encoder" not in k})

    def free(b):
        u = mine.action(b.obs)
        q = mine.nets["critic"](b.obs, u)[0]
        return leashed(q, float(q.detach().abs().mean()), 0 * (u - b.action).square())

    mine.policy_loss = free
    for n in range(6):
        for model in (td3, mine):
            model.gradient_step(batch(seed=n), model.due(n + 1))
    for name in td3.nets:
        for x, y in zip(td3.nets[name].parameters(), mine.nets[name].parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_the_scale_of_the_values_does_not_matter():
    model, b = make(), batch()
    before = gradient(model, b)
    scaled = copy.deepcopy(model.nets["critic"])
    with torch.no_grad():
        for x in (scaled.weights[-1], scaled.biases[-1]):
            x.mul_(64.0)
    model.nets["critic"] = scaled
    torch.testing.assert_close(gradient(model, b), before, rtol=1e-5, atol=1e-8)
