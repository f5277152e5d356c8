"""The deep agents against exact answers: gradients of every first-order method, and the bias and variance of GAE."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.theory.generators import garnet
from polopt.theory.gradients import policy_gradient, softmax
from polopt.theory.simulate import simulate
from polopt.theory.solvers import evaluate, occupancy

import polopt
from polopt.advantage import gae
from polopt.batch import Batch

S, A = 5, 3


class Table(gym.Env):
    """The spaces of a tabular MDP; it is never stepped."""

    observation_space, action_space = spaces.Discrete(S), spaces.Discrete(A)

    def reset(self, *, seed=None, options=None):
        return 0, {}


@pytest.fixture(scope="module")
def world():
    mdp = garnet(S, A, 3, gamma=0.8, rng=3)
    theta = np.random.default_rng(0).normal(size=(S, A))
    return mdp, theta, evaluate(mdp, softmax(theta))


@pytest.mark.parametrize("name", ["A2C", "PPO", "PPOPenalty", "SPO", "DPO", "R2VPO", "FixPO", "TRPO"])
def test_the_gradient_at_the_old_policy_is_the_exact_one_in_expectation(name, world):
    """States and actions drawn from d(s) π(a|s), exact advantages: the mean of the sampled gradient is (1 - γ) ∇J."""
    mdp, theta, values = world
    n = 200_000
    rng = np.random.default_rng(1)
    law = (occupancy(mdp, softmax(theta))[:, None] * softmax(theta)).ravel()
    cells = torch.from_numpy(rng.choice(S * A, size=n, p=law))
    obs, action = cells // A, cells % A
    advantage = torch.from_numpy(values.Q - values.V[:, None])[obs, action]
    kwargs = dict(
        policy_kwargs=dict(net_arch=[], share_features_extractor=False), normalize_advantage=False, n_steps=64
    )
    kwargs |= {} if name in ("A2C",) else dict(batch_size=64)
    model = getattr(polopt, name)("MlpPolicy", Table(), **kwargs)
    model.policy.double()
    with torch.no_grad():
        model.policy.head.linear.weight.copy_(torch.from_numpy(theta.T))
        model.policy.head.linear.bias.zero_()
        params = model.policy(obs)
        log_prob = model.policy.distribution.log_prob(params, action)
    zeros = torch.zeros(n, dtype=torch.float64)
    b = Batch(
        obs=obs,
        action=action,
        reward=zeros,
        value=zeros,
        returns=zeros,
        advantage=advantage,
        params=params,
        log_prob=log_prob,
    )
    chunks = []
    for rows in b.split(n // 100):
        loss = model.policy_loss(model.evaluate(rows))
        chunks.append(-torch.autograd.grad(loss, [model.policy.head.linear.weight])[0].T)
    g = torch.stack(chunks).numpy()
    exact = (1 - mdp.gamma) * policy_gradient(mdp, theta)
    error = g.std(0, ddof=1) / np.sqrt(len(g))
    np.testing.assert_array_less(np.abs(g.mean(0) - exact), 4 * error + 1e-12)
    assert error.max() < 0.05 * np.abs(exact).max(), "the bound says something"


def estimates(world, value, lam, episodes=4000, horizon=60):
    """GAE of the first step of every episode, less its exact advantage; and the state-action of that step."""
    mdp, theta, values = world
    paths = simulate(
        np.broadcast_to(mdp.P, (horizon + 1, S, A, S)), np.broadcast_to(softmax(theta), (horizon + 1, S, A)), mdp.rho,
        np.random.default_rng(2), episodes,
    )  # fmt: skip
    states, actions = torch.from_numpy(paths.states).T, torch.from_numpy(paths.actions).T
    s, after, a = states[:horizon], states[1 : horizon + 1], actions[:horizon]
    v = torch.from_numpy(value)
    never = torch.zeros(s.shape, dtype=torch.bool)
    out = gae(torch.tensor(mdp.r)[s, a], v[s], v[after], never, never, mdp.gamma, lam)
    return (out[0] - torch.from_numpy(values.Q - value[:, None])[s[0], a[0]]).numpy()


def test_gae_is_unbiased_where_the_value_or_lambda_is_exact_and_biased_elsewhere(world):
    """E[A^λ | s, a] = Q(s, a) - V̂(s) for any V̂ at λ = 1, and for the exact V at any λ (Schulman et al., 2016, section 3)."""
    exact = world[2].V
    wrong = exact + np.array([2.0, 3.0, 1.0, 2.0, 4.0])
    for value, lam in ((exact, 0.0), (exact, 0.95), (wrong, 1.0)):
        x = estimates(world, value, lam)
        assert abs(x.mean()) < 4 * x.std() / np.sqrt(len(x))
    x = estimates(world, wrong, 0.0)
    assert abs(x.mean()) > 8 * x.std() / np.sqrt(len(x))


def test_with_the_exact_value_lambda_buys_variance_for_nothing(world):
    spread = [estimates(world, world[2].V, lam).var() for lam in (0.0, 0.5, 0.95, 1.0)]
    assert spread == sorted(spread) and spread[-1] > 1.5 * spread[0]
