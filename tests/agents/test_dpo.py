"""DPO: the spec's exact checks."""

import pytest
import torch
from polopt.agents.on_policy.dpo import discovered_drift
from polopt.agents.on_policy.ppo import surrogate
from polopt.agents.on_policy.spo import simple_objective

import polopt

R = torch.cat([torch.linspace(0.01, 2, 400), torch.linspace(2, 20, 400)]).double()
A = torch.linspace(-5, 5, 101).double()
RATIO, ADVANTAGE = (x.flatten() for x in torch.meshgrid(R, A, indexing="ij"))


def drift(r, advantage, alpha=2.0, beta=0.6):
    return discovered_drift(r, r.log(), advantage, alpha, beta)


def slope(f, r):
    r = r.clone().requires_grad_()
    return torch.autograd.grad(f(r).sum(), r)[0]


def test_the_drift_is_a_drift():
    one = torch.ones_like(A)
    assert (drift(one, A) == 0).all()
    for side in (-1e-6, 1e-6):  # at 1 itself a relu's slope is 0 by torch's choice
        assert (slope(lambda r: drift(r, A), one + side)).abs().max() < 1e-3
    assert (drift(RATIO, ADVANTAGE) >= 0).all() and (drift(RATIO, ADVANTAGE) > 0).any()


def test_its_slope_is_the_papers():
    up = torch.linspace(1.01, 4, 50).double()
    a = torch.full_like(up, 1.5)
    expected = a / torch.cosh((up - 1) * a / 2.0).square()
    torch.testing.assert_close(slope(lambda r: r * a - drift(r, a), up), expected)
    down, a = torch.linspace(0.05, 0.99, 50).double(), torch.full_like(up, -1.5)
    expected = a - a / down * (1 - 1 / torch.cosh(a * down.log() / 0.6).square())
    torch.testing.assert_close(slope(lambda r: r * a - drift(r, a), down), expected)
    assert (expected[:10] > 0).all(), "a small ratio is pulled back up"
    for r, a in ((down, 1.5), (up, -1.5)):  # no drift on the side that corrects
        a = torch.full_like(r, a)
        torch.testing.assert_close(slope(lambda r, a=a: r * a - drift(r, a), r), a)


def test_infinite_reach_is_no_drift():
    assert drift(RATIO, ADVANTAGE, 1e9, 1e9).max() < 1e-9


def test_ppo_and_spo_are_mirror_learning_too():
    clip_drift = ((RATIO - RATIO.clamp(0.8, 1.2)) * ADVANTAGE).relu()
    torch.testing.assert_close(RATIO * ADVANTAGE - clip_drift, surrogate(RATIO, ADVANTAGE, 0.2))
    inside = (RATIO - 0.8).abs().gt(1e-6) & (RATIO - 1.2).abs().gt(1e-6) & (ADVANTAGE != 0)
    mirror = slope(lambda r: r * ADVANTAGE - ((r - r.clamp(0.8, 1.2)) * ADVANTAGE).relu(), RATIO)
    torch.testing.assert_close(mirror[inside], slope(lambda r: surrogate(r, ADVANTAGE, 0.2), RATIO)[inside])
    quadratic = ADVANTAGE.abs() * (RATIO - 1).square() / (2 * 0.2)
    torch.testing.assert_close(RATIO * ADVANTAGE - quadratic, simple_objective(RATIO, ADVANTAGE, 0.2))


def test_a_vanished_ratio_keeps_a_finite_slope(prepared):
    model = polopt.DPO("MlpPolicy", "Pendulum-v1", n_steps=64, seed=0)
    b = prepared(model)
    for shift in (200.0, -200.0):
        shifted = model.evaluate(b.plus(log_prob=b.log_prob + shift))
        (g,) = torch.autograd.grad(model.policy_loss(shifted), shifted.new_log_prob)
        assert torch.isfinite(g).all()


def test_learns_to_balance_a_pole():
    model = polopt.DPO(
        "MlpPolicy", "CartPole-v1", n_steps=32, num_envs=8, batch_size=256, n_epochs=20, learning_rate="lin_1e-3",
        gamma=0.98, gae_lambda=0.8, seed=0,
    )  # fmt: skip
    model.learn(16_384, log_interval=None)
    assert sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer) > 100


@pytest.mark.parametrize("field", ["alpha", "beta"])
def test_a_reach_of_zero_is_refused(field):
    with pytest.raises(ValueError, match=field):
        polopt.DPO("MlpPolicy", "CartPole-v1", **{field: 0.0})
