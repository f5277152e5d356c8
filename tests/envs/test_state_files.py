"""Every environment's state survives being written to a file and read back, and continues bit for bit."""

import gymnasium
import numpy as np
import pytest
import torch
from polopt.envs import TimeAware, TimeLimit, as_env, make_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from polopt.files import load_state, save_state

ENVS = {
    "native": lambda: make_env("Ant-v5", 2, max_episode_steps=12),
    "host": lambda: make_env("CartPole-v1", 2),
    "torch": lambda: make_env("CartPole-v1", 2, backend="torch"),
    "gymnasium mujoco": lambda: make_env("Ant-v5", 2, backend="gymnasium", max_episode_steps=12),
    "gymnasium": lambda: make_env("FrozenLake-v1", 2),
    "vector": lambda: as_env(gymnasium.make_vec("Acrobot-v1", 2, vectorization_mode="sync")),
    "sb3": lambda: as_env(VecNormalize(DummyVecEnv([lambda: Monitor(gymnasium.make("CartPole-v1"))] * 2))),
    "wrapped": lambda: TimeAware(TimeLimit(make_env("Pendulum-v1", 2), 9)),
}


@pytest.mark.parametrize("name", ENVS)
def test_state_goes_through_a_file(name, tmp_path):
    env, other = ENVS[name](), ENVS[name]()
    env.action_space.seed(0)
    plan = np.array([[env.action_space.sample() for _ in range(2)] for _ in range(50)])
    step = env.step_host if env.host else lambda action: env.step(torch.from_numpy(action))
    again = other.step_host if env.host else lambda action: other.step(torch.from_numpy(action))
    env.reset(5)
    for action in plan[:17]:
        step(action)
    env.pop_episodes()
    save_state(tmp_path / "state", env.state_dict(), "env")
    other.load_state_dict(load_state(tmp_path / "state", "env"))
    assert other.exact_state
    for action in plan[17:]:
        for a, b in zip(step(action), again(action), strict=True):
            np.testing.assert_array_equal(a, b)
    assert env.pop_episodes() == other.pop_episodes()
