"""R2VPO: the spec's exact checks."""

import math

import pytest
import torch
from polopt.agents.on_policy.r2vpo import lagrangian

import polopt
from polopt.distributions import DiagGaussian


def make(**kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=2, num_envs=2, seed=0) | kwargs
    return polopt.R2VPO("MlpPolicy", "Pendulum-v1", **kwargs)


def test_without_a_multiplier_it_is_the_unclipped_surrogate(prepared):
    model = make(multiplier=0.0, multiplier_lr=0.0)
    b = prepared(model)
    model.minibatch_step(b)
    b = model.evaluate(b)
    assert model.policy_loss(b).item() == pytest.approx(-(b.ratio * b.advantage).mean().item(), abs=1e-8)
    assert model.dual.multiplier.item() == 0.0


def test_without_a_multiplier_an_update_is_ppos_without_a_clip(same_update):
    how = dict(n_steps=64, batch_size=32, n_epochs=3, num_envs=2, seed=0, max_grad_norm=None)
    same_update(make(multiplier=0.0, multiplier_lr=0.0, **how), "Pendulum-v1", **how)


@pytest.mark.parametrize("multiplier", [0.0, 1.0, 50.0])
def test_the_first_step_is_a2cs_whatever_the_multiplier(multiplier, prepared):
    model = make(multiplier=multiplier)
    model.policy.double()
    b = model.evaluate(prepared(model))
    actor = model.policy.actor_parameters()
    g = torch.autograd.grad(model.policy_loss(b), actor, retain_graph=True)
    a2c = torch.autograd.grad(-(b.new_log_prob * b.advantage).mean(), actor)
    for x, y in zip(g, a2c, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-10)


def test_a_gaussians_moment_is_twice_its_kl_for_small_shifts():
    d, sigma = DiagGaussian(1), 0.7
    a = torch.linspace(-12, 12, 200_001, dtype=torch.float64)[:, None]
    old = torch.tensor([0.0, math.log(sigma)], dtype=torch.float64)
    for shift in (0.5, 0.1, 0.01):
        new = torch.tensor([shift, math.log(sigma)], dtype=torch.float64)
        log_p, log_q = d.log_prob(old.expand(len(a), 2), a), d.log_prob(new.expand(len(a), 2), a)
        moment = torch.trapezoid(log_p.exp() * ((log_q - log_p).exp() - 1).square(), a[:, 0]).item()
        assert moment == pytest.approx(math.expm1(shift**2 / sigma**2), rel=1e-8)
        kl = d.kl(old, new).item()
        assert kl == pytest.approx(shift**2 / (2 * sigma**2))
    assert moment / kl == pytest.approx(2, abs=1e-3)


def test_the_multiplier_rises_when_violated_falls_with_slack_and_stays_in_bounds(prepared):
    model = make(multiplier=0.5)
    b = prepared(model)
    lam = model.dual.multiplier
    model.minibatch_step(b)  # ratio 1: slack
    assert lam.item() == pytest.approx(0.5 - 0.03, abs=1e-6)
    model.minibatch_step(b.plus(log_prob=model.evaluate(b).new_log_prob.detach() - 0.5))
    assert lam.item() == pytest.approx(0.47 + math.expm1(0.5) ** 2 - 0.03, abs=1e-5)
    for _ in range(35):
        model.minibatch_step(b.plus(log_prob=model.evaluate(b).new_log_prob.detach()))
    assert lam.item() == 0.0


def test_the_multiplier_outlives_an_update_and_a_file(tmp_path):
    model = make(delta=1e-6).learn(256, log_interval=None)
    value = model.dual.multiplier.item()
    assert value != 1.0
    model.save(tmp_path / "r2vpo")
    assert polopt.R2VPO.load(tmp_path / "r2vpo").dual.multiplier.item() == value


def test_one_sample_cannot_move_the_multiplier_without_bound(prepared):
    model = make()
    b = model.evaluate(prepared(model))
    b.ratio[0] = 148.0
    assert model.multiplier_loss(b, {}).item() == pytest.approx(0.03 - 1 / len(b), abs=1e-6)


def test_the_lagrangian_by_hand():
    r, a = torch.tensor([1.5, 0.5]), torch.tensor([2.0, -1.0])
    torch.testing.assert_close(lagrangian(r, a, 3.0, 0.1), torch.tensor([3.0 - 0.45, -0.5 - 0.45]))


def test_delta_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"delta=0\.0 is outside"):
        make(delta=0.0)
