"""V-MPO: the spec's exact checks, its losses against plain sums, and the lagged policy."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.agents.on_policy.vmpo import best_half, temperature_loss, weights

import polopt


def make(env="Pendulum-v1", **kwargs):
    return polopt.VMPO(env=env, **(dict(n_steps=128, num_envs=2, batch_size=64, n_epochs=2, seed=0) | kwargs))


def test_the_better_half():
    a = torch.tensor([1.0, -2.0, 5.0, 0.0, 3.0])
    assert best_half(a).tolist() == [2, 4]
    assert best_half(a[:1]).tolist() == [0]


def test_weights_between_cloning_all_and_cloning_the_best():
    a = torch.tensor([0.3, -1.0, 2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(weights(a, torch.tensor(1e12)), torch.full_like(a, 0.25), rtol=1e-9, atol=0)
    torch.testing.assert_close(weights(a, torch.tensor(1e-3)), torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    assert torch.isfinite(weights(1e6 * a, torch.tensor(1e-8))).all()
    by_hand = torch.exp(a / 0.7) / torch.exp(a / 0.7).sum()
    torch.testing.assert_close(weights(a, torch.tensor(0.7, dtype=torch.float64)), by_hand)


@pytest.mark.parametrize("eta", [0.2, 1.0, 5.0])
def test_slope_of_the_temperature_loss(eta):
    """dL_η/dη = ε_η - KL(ψ || uniform)."""
    a = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    temperature = torch.tensor(eta, dtype=torch.float64, requires_grad=True)
    loss = temperature_loss(temperature, a, 0.1)
    by_hand = eta * 0.1 + eta * math.log(np.mean(np.exp(a.numpy() / eta)))
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    (slope,) = torch.autograd.grad(loss, temperature)
    psi = weights(a, temperature.detach())
    assert slope.item() == pytest.approx(0.1 - (psi * (psi * len(a)).log()).sum().item(), rel=1e-9)


def test_the_temperature_settles_where_the_weights_kl_is_its_bound():
    from polopt.dual import DualPart, Multipliers

    a = torch.randn(50, generator=torch.Generator().manual_seed(1))
    m = Multipliers(eta=5.0)
    part = DualPart(m, lr=0.01)
    for _ in range(3000):
        part.descend(temperature_loss(m.eta, a, 0.2))
    psi = weights(a, m.eta.detach())
    assert (psi * (psi * 50).log()).sum().item() == pytest.approx(0.2, rel=0.02)


@pytest.mark.parametrize("moved", ["mean", "log_std"])
def test_the_two_kls_of_a_gaussian(moved, prepared):
    """Zero with zero gradient at the old policy; the one that moved is the whole KL(old || new)."""
    model = make()
    model.policy.double()
    model.nets["old"].double()
    b = model.evaluate(prepared(model))
    for _, kl, _ in model.constraints(b):
        assert abs(kl.item()) < 1e-12
        assert max(g.abs().max() for g in model.parts["policy"].gradient(kl, retain_graph=True)) < 1e-9
    with torch.no_grad():
        (model.policy.head.linear.bias if moved == "mean" else model.policy.head.log_std).add_(0.3)
    b = model.evaluate(prepared(model))
    mean, covariance = (kl for _, kl, _ in model.constraints(b))
    whole, rest = (mean, covariance) if moved == "mean" else (covariance, mean)
    torch.testing.assert_close(whole, b.kl.mean(), rtol=1e-10, atol=0)
    assert whole > 1e-3 and abs(rest.item()) < 1e-12


def test_the_two_kls_of_a_gaussian_that_moved_and_widened():
    """C_μ measures the mean's move in the old covariance, C_Σ is the rest; d = 1, from N(0, 1) to N(1, e)."""
    d = polopt.distributions.DiagGaussian(1)
    old, new = torch.tensor([[0.0, 0.0]], dtype=torch.float64), torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    mean, covariance = (kl.item() for kl in d.kl_parts(old, new))
    assert mean == pytest.approx(0.5, abs=1e-12)
    assert covariance == pytest.approx(0.5 * (math.exp(-2) - 1) + 1, abs=1e-12)
    assert covariance + 0.5 * math.exp(-2) == pytest.approx(d.kl(old, new).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("env", "names"), [("Pendulum-v1", {"eta", "alpha_mu", "alpha_sigma"}), ("CartPole-v1", {"eta", "alpha"})]
)
def test_losses_as_written(env, names, prepared):
    """L_π + sg[α] KL and L_η + L_α against plain sums, after the policy has moved."""
    model = make(env, eps_alpha=0.02, eps_mu=0.03, eps_sigma=0.04)
    assert {n for n, _ in model.dual.named_parameters()} == names
    model.learn(256)
    b = prepared(model)
    model.improve(b)  # away from the policy that acted
    b = model.evaluate(b)
    a, n = b.advantage.detach().numpy().astype(np.float64), len(b) // 2
    top = np.argsort(-a)[:n]
    eta = model.dual.eta.item()
    psi = np.exp((a[top] - a[top].max()) / eta)
    psi /= psi.sum()
    expected = -(psi * b.new_log_prob.detach().numpy()[top]).sum()
    dual = eta * 0.01 + eta * (np.log(np.mean(np.exp((a[top] - a[top].max()) / eta))) + a[top].max() / eta)
    if env == "CartPole-v1":
        pairs = [(model.dual.alpha, b.kl.mean(), 0.02)]
    else:
        kls = model.policy.distribution.kl_parts(b.params, b.new_params)
        pairs = list(
            zip((model.dual.alpha_mu, model.dual.alpha_sigma), (k.mean() for k in kls), (0.03, 0.04), strict=True)
        )
    for alpha, kl, eps in pairs:
        assert kl > 1e-7
        expected += alpha.item() * kl.item()
        dual += alpha.item() * (eps - kl.item())
    assert model.policy_loss(b).item() == pytest.approx(expected, rel=1e-4)
    assert model.dual_loss(b, {}).item() == pytest.approx(dual, rel=1e-4)


def test_multipliers_follow_their_constraints(prepared):
    """With a bound that is broken at once the multiplier rises, with one that never is it falls; both stay positive."""
    tight, loose = make(eps_mu=1e-9, eps_sigma=1e-12), make(eps_mu=1e3, eps_sigma=1e3, dual_learning_rate=0.1)
    for model in (tight, loose):
        model.learn(1024)
    assert tight.dual.alpha_mu > 1.0 and tight.dual.alpha_sigma > 1.0
    assert 1e-8 <= loose.dual.alpha_mu < 0.1 and 1e-8 <= loose.dual.alpha_sigma < 0.1


def test_the_trust_region_holds_the_policy():
    """Mean KL per rollout with the constraint against without (its multiplier as good as 0)."""
    moved = {}
    for name, kwargs in dict(on=dict(alpha_init=5.0), off=dict(alpha_init=1e-8, eps_mu=1e6, eps_sigma=1e6)).items():
        model = make(n_epochs=10, learning_rate=1e-3, **kwargs)
        kls, update = [], model.update
        model.update = lambda batch, update=update, kls=kls: (m := update(batch), kls.append(m["kl_mean"].item()))[0]
        model.learn(256 * 6)
        moved[name] = np.mean(kls)
    assert moved["on"] < 0.3 * moved["off"]


def test_the_policy_that_acts_is_the_lagged_one():
    model = make(target_interval=3)
    seen = []
    update = model.update
    model.update = lambda batch: (seen.append(torch.equal(*vectors(model))), update(batch))[1]
    model.learn(256 * 7)
    assert seen == [True, False, False, True, False, False, True]
    old = model.nets["old"]
    assert model.behaviour is old and not any(p.requires_grad for p in old.parameters())


def vectors(model):
    return [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (model.policy, model.nets["old"])]


class Bandit(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action == 2), True, False, {}


def test_bandit_is_solved():
    model = polopt.VMPO(env=Bandit(), n_steps=128, batch_size=64, learning_rate=3e-3, eps_alpha=0.05, seed=0).learn(
        4000
    )
    assert model.policy(torch.ones(1, 1)).softmax(-1)[0, 2] > 0.9
