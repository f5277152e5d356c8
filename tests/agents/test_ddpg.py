"""DDPG: the spec's exact checks. Its limit, TD3 without TD3's three changes, is in test_td3.py."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.batch import Batch
from polopt.env import HostEnv, Step

NET = dict(net_arch=[16, 8])


def make(env="Pendulum-v1", **kwargs):
    return polopt.DDPG(
        "MlpPolicy", env, **(dict(seed=0, buffer_size=1000, learning_starts=10, policy_kwargs=NET) | kwargs)
    )


def test_losses_by_definition():
    model = make()
    for net in model.nets.values():
        net.double()
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    b = Batch(
        obs=draw(5, 3), action=draw(5, 1).tanh(), reward=draw(5), next_obs=draw(5, 3), discount=0.9 * (draw(5) > 0)
    )

    def q(name, obs, action):
        net, x = model.nets[name], torch.cat([obs, action])
        for i in range(3):
            x = x @ net.weights[i][0] + net.biases[i][0, 0]
            x = x.relu() if i < 2 else x
        return x.squeeze()

    mu = lambda name, obs: model.nets[name].head.linear(model.nets[name].trunk(obs)).tanh()
    errors, values = [], []
    for i in range(5):
        y = b.reward[i] + b.discount[i] * q("target_critic", b.next_obs[i], mu("target_policy", b.next_obs[i]))
        errors.append((q("critic", b.obs[i], b.action[i]) - y) ** 2)
        values.append(q("critic", b.obs[i], mu("policy", b.obs[i])))
    torch.testing.assert_close(model.critic_loss(b, {}), sum(errors) / 5)
    torch.testing.assert_close(model.policy_loss(b), -sum(values) / 5)


def test_one_critic_only():
    assert make().nets["critic"].members == 1
    assert make(policy_kwargs=dict(n_critics=1)).nets["critic"].members == 1  # as stable-baselines3's DDPG sets it
    with pytest.raises(ValueError, match="n_critics=2"):
        make(policy_kwargs=dict(n_critics=2))


class Regulator(HostEnv):
    """x' = x + 0.1 a, reward -(x² + 0.1 a²), from x ~ U(-1, 1); cut after 20 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-3.0, 3.0, (1,), np.float32)

    def __init__(self, num_envs):
        self._start(num_envs)

    def _reset(self, seed):
        self.random, self.t = np.random.default_rng(seed), 0
        self.x = self.random.uniform(-1, 1, (self.num_envs, 1)).astype(np.float32)
        return self.x.copy()

    def _step(self, action):
        reward = -(self.x**2 + 0.1 * action**2)[:, 0]
        self.x = (self.x + 0.1 * action).astype(np.float32)
        self.t += 1
        no, cut = np.zeros(self.num_envs, bool), np.full(self.num_envs, self.t == 20)
        next_obs = obs = self.x.copy()
        if self.t == 20:
            self.t, self.x = 0, self.random.uniform(-1, 1, (self.num_envs, 1)).astype(np.float32)
            obs = self.x.copy()
        return Step(obs, reward.astype(np.float32), no, cut, next_obs)

    def state_dict(self):
        raise NotImplementedError

    load_state_dict = state_dict


def riccati_gain(a=1.0, b=0.1, q=1.0, r=0.1, gamma=0.99):
    p = q
    for _ in range(10_000):
        p = q + gamma * a * a * p - (gamma * a * b * p) ** 2 / (r + gamma * b * b * p)
    return gamma * a * b * p / (r + gamma * b * b * p)


@pytest.mark.slow
def test_learns_the_riccati_gain():
    """The learned action is within 5 % of the optimum's -k x, relative to the largest, on |x| < 1."""
    model = make(
        Regulator(4), learning_rate=1e-3, action_noise=0.2, batch_size=128, buffer_size=50_000, learning_starts=400,
        gradient_steps=2, policy_kwargs=dict(net_arch=[64, 64]), tau=0.01,
    )  # fmt: skip
    model.learn(24_000)
    x = np.linspace(-1, 1, 41, dtype=np.float32)[:, None]
    action = model.predict(x, deterministic=True)[0]
    k = riccati_gain()
    assert math.isclose(k, 2.659332, rel_tol=1e-6)
    assert np.sqrt(np.mean((action + k * x) ** 2)) < 0.05 * k
    fitted = -(action * x).sum() / (x * x).sum()
    assert abs(fitted / k - 1) < 0.05
