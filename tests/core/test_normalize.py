import numpy as np
import pytest
import torch
from gymnasium import spaces

from polopt.env import HostEnv, Step
from polopt.normalize import Normalize, RunningMoments


class Drift(HostEnv):
    """Observations of unlike scales, rewards of growing size, and episodes of 7 steps; no reaction to actions."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)  # SB3 takes a batch's moments in its own dtype
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, num_envs=2, seed=0):
        self._start(num_envs)
        self.rng, self.t = np.random.default_rng(seed), 0

    def _draw(self):
        return self.rng.normal(size=(self.num_envs, 3)) * [1, 100, 0.01] + [0, 1000, -5]

    def _reset(self, seed):
        self.t = 0
        return self._draw()

    def _step(self, action):
        self.t += 1
        obs = self._draw()
        done = np.full(self.num_envs, self.t % 7 == 0)
        reward = (self.rng.normal(size=self.num_envs) * self.t).astype(np.float32)
        first = self._draw() if done.any() else obs
        return Step(first, reward, done, np.zeros_like(done), obs)

    def state_dict(self):
        return {"rng": self.rng.bit_generator.state, "t": self.t} | self._episode_state()

    def load_state_dict(self, state):
        self.rng.bit_generator.state, self.t = state["rng"], state["t"]
        self._load_episode_state(state)


@pytest.mark.parametrize("chunk", [1, 2, 17])
def test_moments_equal_those_of_the_whole_stream(chunk):
    x = np.random.default_rng(0).normal(size=(204, 3)) * [1, 1e3, 1e-3] + [0, 1e6, 1]
    m = RunningMoments((3,))
    m.count = 1e-12
    for rows in np.split(x, range(chunk, 204, chunk)):
        m.update(rows)
    np.testing.assert_allclose(m.mean, x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(m.var, x.var(0), rtol=1e-6)


def test_torch_and_numpy_moments_agree():
    a, b = RunningMoments((3,)), RunningMoments((3,))
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    for rows in x:
        a.update(rows)
        b.update(torch.from_numpy(rows))
    np.testing.assert_allclose(a.mean, b.mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(a.var, b.var.numpy(), rtol=1e-12)


def test_equals_stable_baselines3_step_by_step():
    from polopt.envs import to_sb3
    from stable_baselines3.common.vec_env import VecNormalize

    theirs = VecNormalize(to_sb3(Drift()), gamma=0.9, clip_obs=3.0, clip_reward=2.0)
    ours = Normalize(Drift(), gamma=0.9, clip_obs=3.0, clip_reward=2.0)
    np.testing.assert_allclose(ours.reset_host(), theirs.reset(), rtol=1e-6)
    for t in range(50):
        action = np.zeros((2, 1), np.float32)
        obs, reward, done, infos = theirs.step(action)
        step = ours.step_host(action)
        np.testing.assert_allclose(step.obs, obs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(step.reward, reward, rtol=1e-5, atol=1e-6)
        assert (step.terminated == done).all()
        if done.any():
            np.testing.assert_allclose(
                step.next_obs, np.stack([i["terminal_observation"] for i in infos]), rtol=1e-5, atol=1e-6
            )
        elif t:
            assert step.next_obs is step.obs


def test_episodes_are_reported_raw_and_statistics_freeze():
    env = Normalize(Drift())
    raw = Drift()
    env.reset_host(), raw.reset_host()
    for _ in range(21):
        env.step_host(np.zeros((2, 1), np.float32)), raw.step_host(np.zeros((2, 1), np.float32))
    assert env.pop_episodes() == raw.pop_episodes() and len(raw.pop_episodes()) == 0
    env.training = False
    before = env.statistics()
    env.step_host(np.zeros((2, 1), np.float32))
    assert (before["obs"]["obs"]["mean"] == env.statistics()["obs"]["obs"]["mean"]).all()


def test_state_continues_exactly():
    env = Normalize(Drift())
    env.reset_host()
    for _ in range(10):
        env.step_host(np.zeros((2, 1), np.float32))
    other = Normalize(Drift(seed=5))
    other.env.load_state_dict(env.state_dict()["env"])
    other.load_statistics(env.statistics())
    other._return = env._return.copy()
    for _ in range(10):
        a, b = (e.step_host(np.zeros((2, 1), np.float32)) for e in (env, other))
        assert (a.obs == b.obs).all() and (a.reward == b.reward).all()


def test_nothing_to_normalise_is_refused():
    env = Drift()
    env.observation_space = spaces.Discrete(3)
    with pytest.raises(ValueError, match="nothing to normalise"):
        Normalize(env)
