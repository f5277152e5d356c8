"""TRPO: what holds after every update, and sb3-contrib's TRPO as oracle."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.agents.on_policy.trpo import surrogate

import polopt
from polopt.natural import longest_step, natural_gradient


def test_surrogate_by_hand():
    assert surrogate(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -4.0])).item() == 0.0


def test_arguments_and_defaults_are_sb3_contribs():
    import inspect

    from sb3_contrib import TRPO

    ours, theirs = inspect.signature(polopt.TRPO).parameters, inspect.signature(TRPO).parameters
    for name, p in theirs.items():
        assert name in ours, name
        if p.default is not p.empty and name not in ("self", "policy", "env"):
            assert ours[name].default == p.default, name


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize(
    ("kwargs", "both"),
    [({}, False), (dict(target_kl=0.3, cg_damping=1e-4, line_search_max_iter=1, cg_max_steps=3), True)],
    ids=["default", "reckless"],
)
def test_every_update_stays_in_the_trust_region_and_improves_or_changes_nothing(env, kwargs, both):
    """Eight iterations on a real environment; the reckless settings make the line search fail too."""
    model = polopt.TRPO(env=env, n_steps=256, num_envs=2, seed=1, n_critic_updates=2, **kwargs)
    model.policy.double()
    delta, outcomes, improve = model.config.target_kl, [], model.improve

    def watched(b):
        part = model.parts["policy"]
        before = part.vector()
        with torch.no_grad():
            old = model.evaluate(b)
        log = improve(b)
        with torch.no_grad():
            new = model.evaluate(b)
        outcomes.append(bool(log["is_line_search_success"]))
        if outcomes[-1]:
            assert new.kl.mean() <= delta
            assert surrogate(new.ratio, new.advantage) > surrogate(old.ratio, old.advantage)
            assert not torch.equal(part.vector(), before)
            assert log["kl_divergence_loss"] == new.kl.mean()
            assert log["policy_objective"] == surrogate(new.ratio, new.advantage)
        else:
            assert torch.equal(part.vector(), before)
        return log

    model.improve = watched
    model.learn(8 * 512)
    assert len(outcomes) == 8
    assert set(outcomes) == {True, False} if both else all(outcomes)


def test_the_constraint_is_kl_from_old_to_new(prepared):
    model = polopt.TRPO(env="Pendulum-v1", n_steps=128, target_kl=0.2, cg_damping=0.01, seed=0)
    b = prepared(model)
    log = model.improve(b)
    assert log["is_line_search_success"] == 1.0

    def normal(params):
        mean, log_std = params.detach().chunk(2, -1)
        return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)

    old, new = normal(b.params), normal(model.policy(b.obs))
    forward, reverse = (torch.distributions.kl_divergence(*pair).mean() for pair in ((old, new), (new, old)))
    torch.testing.assert_close(log["kl_divergence_loss"], forward, rtol=1e-4, atol=1e-6)
    assert abs(forward - reverse) > 1e-2 * forward


def test_no_advantage_no_update(prepared):
    model = polopt.TRPO(env="CartPole-v1", n_steps=128, seed=0)
    b = prepared(model)
    before = model.parts["policy"].vector()
    log = model.improve(b.plus(advantage=torch.zeros(128)))
    assert log["is_line_search_success"] == 0.0 and torch.equal(before, model.parts["policy"].vector())


class Double(torch.nn.Module):
    """A features extractor that casts: stable-baselines3 makes every observation float32."""

    def __init__(self, space):
        super().__init__()
        self.features_dim = space.shape[0]

    def forward(self, obs):
        return obs.double()


def peer_of(model, env, b, monkeypatch, **kwargs):
    """sb3-contrib's TRPO with our parameters and our batch, float64; and its actor parameters in our order."""
    import sb3_contrib.trpo.trpo as module
    from sb3_contrib import TRPO

    # It starts conjugate gradient at random numbers of size 1e-4, we at 0.
    solver = module.conjugate_gradient_solver
    found = {}

    def from_zero(product, g, max_iter):
        with monkeypatch.context() as m:
            m.setattr(torch, "randn_like", torch.zeros_like)
            x = solver(product, g, max_iter=max_iter)
        found.update(direction=x.clone(), product=product(x).detach())
        return x

    monkeypatch.setattr(module, "conjugate_gradient_solver", from_zero)
    peer = TRPO("MlpPolicy", env, policy_kwargs=dict(features_extractor_class=Double), n_critic_updates=1, **kwargs)
    peer.policy.double()
    order = [*peer.policy.mlp_extractor.policy_net.parameters()]
    ours = [*model.policy.trunk.parameters(), *model.policy.head.linear.parameters()]
    order += peer.policy.action_net.parameters()
    if hasattr(peer.policy, "log_std"):
        ours.append(model.policy.head.log_std)
        order.append(peer.policy.log_std)
    with torch.no_grad():
        for x, y in zip(ours, order, strict=True):
            y.copy_(x)
    rows = SimpleNamespace(
        observations=b.obs.double(),
        actions=b.action,
        old_log_prob=b.log_prob,
        advantages=b.advantage,
        returns=b.returns,
    )
    peer.rollout_buffer = SimpleNamespace(
        get=lambda batch_size: [rows], values=b.value.numpy(), returns=b.returns.numpy()
    )
    peer._setup_learn(1)
    return peer, ours, order, found


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize(("steps", "damping", "tolerance"), [(5, 1e-3, 1e-6), (8, 0.1, 1e-6), (15, 0.1, 1e-5)])
def test_step_equals_sb3_contribs(env, steps, damping, tolerance, prepared, monkeypatch):
    """Same data, same parameters, float64: the same direction, full step, and parameters after the accepted step.

    It constrains KL(new || old), which has the same Hessian at the old parameters, and damps β's denominator as we do.
    Conjugate gradient amplifies rounding: by the tenth iteration on Pendulum-v1 a mere permutation of the rows moves x
    by 2e-6 of its length, by the eighth 2e-8.
    """
    kwargs = dict(n_steps=256, cg_max_steps=steps, cg_damping=damping, target_kl=0.001)
    model = polopt.TRPO(env=env, seed=0, **kwargs)
    model.policy.double()
    b = prepared(model)
    peer, ours, order, found = peer_of(model, env, b, monkeypatch, **kwargs)

    x, Fx = natural_gradient(model, b)
    step = longest_step(x, Fx, 0.001)
    part = model.parts["policy"]
    sizes = [p.numel() for p in part.params]
    mine = {id(p): (d, s) for p, d, s in zip(part.params, x.split(sizes), step.split(sizes), strict=True)}
    before = [p.detach().clone() for p in order]
    peer.train()
    assert peer.logger.name_to_value["train/is_line_search_success"] == 1.0

    # their flat vectors run over named_parameters
    names = {id(p): i for i, (n, p) in enumerate(peer.policy.named_parameters()) if "value" not in n}
    flat_order = sorted(range(len(order)), key=lambda i: names[id(order[i])])
    pieces = dict(zip(flat_order, found["direction"].split([order[i].numel() for i in flat_order]), strict=True))
    beta = (2 * 0.001 / (found["direction"] @ found["product"])).sqrt()
    theirs = torch.cat([pieces[i] for i in range(len(ours))])
    for got, expected in zip(zip(*(mine[id(p)] for p in ours), strict=True), (theirs, beta * theirs), strict=True):
        assert (torch.cat(got) - expected).norm() < tolerance * expected.norm()
    log = model.improve(b)
    assert log["is_line_search_success"] == 1.0
    for p, q, old in zip(ours, order, before, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance * 1e-2)
        assert not torch.equal(q, old)
    assert log["policy_objective"].item() == pytest.approx(
        peer.logger.name_to_value["train/policy_objective"], rel=1e-6
    )


def test_sub_sampling_changes_the_metric_alone(prepared):
    """Every k-th state in the Fisher matrix; surrogate, KL and acceptance still over the whole batch."""
    steps = {}
    for k in (1, 4):
        model = polopt.TRPO(env="Pendulum-v1", n_steps=256, sub_sampling_factor=k, seed=0)
        b = prepared(model)
        steps[k] = natural_gradient(model, b)[0]
        model.improve(b)
        assert model.diagnose(b)["kl_mean"] <= 0.01
    cosine = torch.nn.functional.cosine_similarity(steps[1], steps[4], dim=0)
    assert 0.8 < cosine < 1 - 1e-6


def test_an_update_in_float64_moves_both_parts(prepared):
    model = polopt.TRPO(env="Pendulum-v1", n_steps=128, batch_size=32, seed=0)
    model.policy.double()
    before = {name: part.vector() for name, part in model.parts.items()}
    model.learn(256)
    for name, part in model.parts.items():
        assert part.vector().dtype == torch.float64 and not torch.equal(part.vector(), before[name])


class Bandit(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action == 2), True, False, {}


@pytest.mark.parametrize("name", ["TRPO", "NPG"])
def test_bandit_is_solved(name):
    model = getattr(polopt, name)(env=Bandit(), n_steps=128, target_kl=0.05, seed=0).learn(4000)
    assert model.policy(torch.ones(1, 1)).softmax(-1)[0, 2] > 0.9
