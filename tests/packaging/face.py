"""A user's file. Nobody runs it: `make lint` type-checks it against the installed wheel, as a user's editor would."""

from typing import assert_type

import torch
from gymnasium import Space

import polopt
from polopt.env import Env, Episode, Step

assert_type(polopt.__version__, str)


def use(env: Env) -> float:
    obs = env.reset(seed=0)
    step = env.step(torch.zeros(env.num_envs, 1))
    assert_type(step, Step)
    assert_type(env.pop_episodes(), list[Episode])
    assert_type(env.device, torch.device)
    space: Space = env.action_space
    del obs, space
    return sum(episode.r for episode in env.pop_episodes())


def train() -> None:
    model = polopt.PPO("MlpPolicy", "HalfCheetah-v5", seed=0, tensorboard_log="runs")
    model.learn(total_timesteps=1_000_000, callback=None, progress_bar=True)
    polopt.evaluate_policy(model, "HalfCheetah-v5", n_eval_episodes=10)
    model.save("ppo_cheetah")
    model = polopt.PPO.load("ppo_cheetah", env="HalfCheetah-v5")
    model.predict(model.get_env(), deterministic=True)
