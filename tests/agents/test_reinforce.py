"""REINFORCE: hand-worked returns, and the exact policy gradient of a random MDP as oracle."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.agents.on_policy.reinforce import score_loss
from polopt.theory.generators import garnet
from polopt.theory.gradients import policy_gradient, softmax
from polopt.theory.simulate import simulate
from polopt.theory.solvers import evaluate

import polopt
from polopt.advantage import elapsed, finished
from polopt.batch import Batch

S, A, HORIZON = 5, 3, 24


class Table(gym.Env):
    """The spaces of a tabular MDP; it is never stepped."""

    observation_space, action_space = spaces.Discrete(S), spaces.Discrete(A)

    def reset(self, *, seed=None, options=None):
        return 0, {}


def column(*x):
    return torch.tensor(x).unsqueeze(1)


def test_which_steps_have_a_return_and_how_old_they_are():
    done = column(False, True, False, False, True, False)
    assert finished(done).flatten().tolist() == [True] * 5 + [False]
    assert elapsed(done).flatten().tolist() == [0, 1, 0, 1, 2, 0, 1]
    assert elapsed(done, start=torch.tensor([5])).flatten().tolist() == [5, 6, 0, 1, 2, 0, 1]
    fake = column(True, True, False, True, True, True)  # the row after an end that Gymnasium's NEXT_STEP mode fills in
    assert elapsed(done, fake).flatten().tolist() == [0, 1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("kwargs", "advantage"),
    [
        (dict(baseline="none"), [1 + 0.5 * 2, 2.0, 3 + 0.5 * 4, 4.0]),
        (dict(baseline="mean"), [2.0 - 3.25, 2.0 - 3.25, 5.0 - 3.25, 4.0 - 3.25]),
        (dict(baseline="none", tail="zero"), [2.0, 2.0, 5.0, 4.0, 8.0, 6.0]),
        (dict(baseline="none", discount_states=True), [2.0, 0.5 * 2, 5.0, 0.5 * 4]),
    ],
)
def test_returns_by_hand(kwargs, advantage):
    """γ = 1/2; the episodes end after 2 steps (terminated) and after 4 (truncated); the last two steps have no end."""
    model = polopt.REINFORCE(env=Table(), gamma=0.5, n_steps=6, **kwargs)
    b = Batch(
        obs=column(0, 1, 2, 3, 4, 0),
        next_obs=column(1, 2, 3, 4, 0, 1),
        action=column(0, 1, 2, 0, 1, 2),
        reward=column(1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        terminated=column(False, True, False, False, False, False),
        truncated=column(False, False, False, True, False, False),
    )
    torch.testing.assert_close(model.prepare(b).advantage, torch.tensor(advantage))


def test_loss_by_hand():
    assert score_loss(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, -0.5])).item() == pytest.approx((3.0 - 1.0) / 2)


@pytest.fixture(scope="module")
def world():
    """A random MDP, tabular softmax logits, and 10^5 episodes, cut where γ^t < 1e-7."""
    mdp = garnet(S, A, 3, gamma=0.5, rng=3)
    theta = np.random.default_rng(0).normal(size=(S, A))
    paths = simulate(
        np.broadcast_to(mdp.P, (HORIZON, S, A, S)),
        np.broadcast_to(softmax(theta), (HORIZON, S, A)),
        mdp.rho,
        np.random.default_rng(1),
        100_000,
    )
    return mdp, theta, paths


def gradients(world, baseline):
    """Negated gradients of the agent's loss in the table of logits, an estimate for each of 100 chunks of episodes,
    ``[100, S, A]``; scaled to the sum over an episode. ``baseline``: None, or values ``[S]``."""
    mdp, theta, paths = world
    kwargs = dict(policy_kwargs=dict(net_arch=[]), gamma=mdp.gamma, discount_states=True, n_steps=HORIZON, vf_coef=0.0)
    model = polopt.REINFORCE(env=Table(), baseline="none" if baseline is None else "value", **kwargs)
    model.policy.double()
    with torch.no_grad():
        model.policy.head.linear.weight.copy_(torch.from_numpy(theta.T))
        if baseline is not None:
            model.policy.critic_head.weight.copy_(torch.from_numpy(baseline)[None])
    states, actions = torch.from_numpy(paths.states).T, torch.from_numpy(paths.actions).T
    rewards = torch.tensor(mdp.r)[states, actions]
    no, end = torch.zeros_like(rewards, dtype=torch.bool), torch.zeros_like(rewards, dtype=torch.bool)
    end[-1] = True
    out = []
    for s, a, r, n, e in zip(*(x.split(1000, 1) for x in (states, actions, rewards, no, end)), strict=True):
        b = Batch(obs=s, next_obs=s, action=a, reward=r, terminated=n, truncated=e)
        loss = model.policy_loss(model.evaluate(model.prepare(b)))
        (g,) = torch.autograd.grad(loss, [model.policy.head.linear.weight])
        out.append(-g.T * HORIZON)
    return torch.stack(out).numpy()


@pytest.fixture(scope="module")
def estimates(world):
    exact = evaluate(world[0], softmax(world[1])).V
    odd = np.array([3.0, -2.0, 0.5, 4.0, -1.0])
    return {name: gradients(world, b) for name, b in dict(none=None, value=exact, odd=odd).items()}


@pytest.mark.parametrize("baseline", ["none", "value", "odd"])
def test_mean_gradient_is_the_exact_one_whatever_the_baseline(world, estimates, baseline):
    """Within three standard errors of sum_s d(s) π(a|s) A(s, a) / (1 - γ), over 10^5 episodes."""
    mdp, theta, _ = world
    g = estimates[baseline]
    error = g.std(0, ddof=1) / np.sqrt(len(g))
    np.testing.assert_array_less(np.abs(g.mean(0) - policy_gradient(mdp, theta)), 3 * error)
    # no vacuous bound: the errors are small beside the gradient
    assert error.max() < 0.05 * np.abs(policy_gradient(mdp, theta)).max()


def test_the_value_as_baseline_lowers_the_variance(estimates):
    spread = {name: g.var(0).sum() for name, g in estimates.items()}
    assert spread["value"] < 0.5 * spread["none"]


def test_a_rollout_without_an_end_is_refused():
    with pytest.raises(ValueError, match=r"n_steps=64 is less than the 200 steps"):
        polopt.REINFORCE(env="Pendulum-v1", n_steps=64)
    polopt.REINFORCE(env="Pendulum-v1", n_steps=64, tail="zero")
    model = polopt.REINFORCE(env=Table(), n_steps=4)
    never = torch.zeros(4, 1, dtype=torch.bool)
    states, rewards = torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1)
    with pytest.raises(ValueError, match="no episode ended"):
        model.prepare(
            Batch(obs=states, next_obs=states, action=states, reward=rewards, terminated=never, truncated=never)
        )


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_an_update_is_one_adam_step_down_the_loss(baseline):
    kwargs = dict(n_steps=500, num_envs=1, baseline=baseline, seed=0)
    model, twin = (polopt.REINFORCE(env="CartPole-v1", **kwargs) for _ in range(2))
    from polopt.rollout import rollout

    batch, _ = rollout(model.env, model, model.env.reset_host(0), 500)
    model.update(batch)
    b = twin.evaluate(twin.prepare(batch))
    loss = -(b.new_log_prob * b.advantage).mean()
    if baseline == "value":
        loss = loss + 0.5 * (b.new_value - b.returns).square().mean()
    twin.parts["policy"].descend(loss)
    assert torch.equal(model.parts["policy"].vector(), twin.parts["policy"].vector())
    assert ("value" in b) == (baseline == "value")


class Bandit(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action == 2), True, False, {}


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
def test_bandit_is_solved(baseline):
    model = polopt.REINFORCE(env=Bandit(), n_steps=64, learning_rate=1e-2, baseline=baseline, seed=0).learn(4000)
    assert model.policy(torch.ones(1, 1)).softmax(-1)[0, 2] > 0.9
