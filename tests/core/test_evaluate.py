"""evaluate_policy against stable-baselines3's own function on stable-baselines3's own environments; load by file."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from polopt.envs import make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy as sb3_evaluate_policy

import polopt
from polopt.files import FileError

ENV = "Reacher-v5"
TINY = {"num_envs": 2, "n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}


@pytest.fixture(scope="module")
def model() -> polopt.PPO:
    """A model that normalises both, on statistics that are far from their start."""
    return polopt.PPO(env=ENV, seed=0, normalize_obs=True, normalize_reward=True, **TINY).learn(1024)


@pytest.fixture(scope="module")
def truth(model: polopt.PPO) -> tuple[list[float], list[int]]:
    """Gymnasium's own environments, stepped one after the other: episode k seeded with 7 + k, in its own units."""
    returns, lengths = [], []
    for k in range(4):
        env = gymnasium.make(ENV)
        obs, _ = env.reset(seed=7 + k)
        total, steps, done = 0.0, 0, False
        while not done:
            action, _ = model.predict(obs, deterministic=True)
            obs, reward, terminated, truncated, _ = env.step(action)
            total, steps, done = total + float(reward), steps + 1, terminated or truncated
        returns.append(total)
        lengths.append(steps)
    return returns, lengths


def close(got: tuple, truth: tuple) -> None:
    assert got[1] == truth[1]
    np.testing.assert_allclose(got[0], truth[0], rtol=1e-4)  # observations are rounded to float32 on the way


def test_an_id_a_vector_env_and_an_env_give_the_returns_of_gymnasium(model: polopt.PPO, truth: tuple):
    kwargs = {"n_eval_episodes": 4, "return_episode_rewards": True, "seed": 7}
    close(polopt.evaluate_policy(model, ENV, **kwargs), truth)
    close(polopt.evaluate_policy(model, make_env(ENV, 4), **kwargs), truth)
    close(
        polopt.evaluate_policy(model, gymnasium.make_vec(ENV, num_envs=4, vectorization_mode="sync"), **kwargs), truth
    )
    close(polopt.evaluate_policy(model, make_vec_env(ENV, n_envs=4), **kwargs), truth)
    vec = make_vec_env(ENV, n_envs=4, seed=7)
    close(sb3_evaluate_policy(model, vec, n_eval_episodes=4, return_episode_rewards=True), truth)


def test_a_single_gymnasium_env(model: polopt.PPO, truth: tuple):
    returns, lengths = polopt.evaluate_policy(
        model, gymnasium.make(ENV), 1, return_episode_rewards=True, seed=7, warn=False
    )
    np.testing.assert_allclose(returns, truth[0][:1], rtol=1e-4)
    assert lengths == truth[1][:1]


def test_the_training_environment_is_seen_in_its_own_units(model: polopt.PPO, truth: tuple):
    first_two = truth[0][:2], truth[1][:2]
    for env in (model.env, model.get_env()):  # the normaliser around the worlds; stable-baselines3's face of them
        close(polopt.evaluate_policy(model, env, 2, return_episode_rewards=True, seed=7), first_two)
    vec = model.get_env()
    vec.seed(7)
    close(sb3_evaluate_policy(model, vec, 2, return_episode_rewards=True), first_two)


def test_evaluation_leaves_the_statistics_alone(model: polopt.PPO):
    before = model.normalizer.obs_moments[""].state_dict()
    polopt.evaluate_policy(model, ENV, 2)
    after = model.normalizer.obs_moments[""].state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("backend", ["auto", "torch", "gymnasium"])
def test_learning_goes_on_from_where_the_worlds_are(backend: str):
    """After an evaluation in the training environment no transition joins an episode of before to one of after."""

    class Look(BaseCallback):
        def _on_rollout_start(self):
            there = model.env.load_state_dict(model.env.state_dict())
            np.testing.assert_array_equal(self.model._last_obs, there)
            looked.append(self.num_timesteps)

        def _on_step(self):
            return True

    kwargs = TINY | {"n_steps": 8, "batch_size": 16}
    model = polopt.PPO(env="Pendulum-v1", seed=0, env_kwargs={"backend": backend}, **kwargs).learn(16)
    looked: list[int] = []
    for worlds in (model.get_env(), model.env):
        polopt.evaluate_policy(model, worlds, 2)
        model.learn(16, Look(), reset_num_timesteps=False)
    assert looked == [16, 32]


def test_our_worlds_need_no_monitor(model: polopt.PPO):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        polopt.evaluate_policy(model, ENV, 2)
    with pytest.warns(UserWarning, match="Monitor"):
        polopt.evaluate_policy(model, gymnasium.make(ENV), 1)


def test_the_same_seed_gives_the_same_returns(model: polopt.PPO):
    one, two = (polopt.evaluate_policy(model, ENV, 3, seed=3, return_episode_rewards=True) for _ in range(2))
    assert one == two


def test_each_world_plays_its_quota(model: polopt.PPO):
    returns, lengths = polopt.evaluate_policy(model, ENV, 5, num_envs=2, return_episode_rewards=True)
    assert len(returns) == len(lengths) == 5
    assert polopt.evaluate_policy(model, ENV, 2, env_kwargs={"max_episode_steps": 13}, return_episode_rewards=True)[
        1
    ] == [13, 13]


def test_reward_threshold(model: polopt.PPO):
    with pytest.raises(AssertionError, match="Mean reward below threshold"):
        polopt.evaluate_policy(model, ENV, 2, reward_threshold=0.0)


def test_bad_arguments(model: polopt.PPO):
    with pytest.raises(ValueError, match="n_eval_episodes=0"):
        polopt.evaluate_policy(model, ENV, 0)
    with pytest.raises(ValueError, match="Reacher-v5"):
        polopt.evaluate_policy(model, "Reachr-v5", 1)
    with pytest.raises(ValueError, match="num_envs and env_kwargs are for an environment id"):
        polopt.evaluate_policy(model, make_env(ENV), 1, num_envs=2)


def test_load_takes_any_algorithm_from_any_file(model: polopt.PPO, tmp_path: Path):
    model.save(tmp_path / "ppo")
    a2c = polopt.A2C(env="CartPole-v1", seed=0)
    a2c.save(tmp_path / "a2c.zip")
    for file, original in (("ppo", model), ("ppo.zip", model), ("a2c", a2c)):
        loaded = polopt.load(tmp_path / file)
        assert type(loaded) is type(original)
        pairs = zip(loaded.policy.parameters(), original.policy.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    obs = np.linspace(-1, 1, 10, dtype=np.float32)[None]
    loaded = polopt.load(tmp_path / "ppo")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    assert polopt.load(tmp_path / "ppo", env=ENV, learning_rate=1e-5).learning_rate == 1e-5


def test_load_says_what_is_wrong(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.zip"):
        polopt.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"neither model\.zip nor checkpoints"):
        polopt.load(tmp_path)
    (tmp_path / "other.zip").write_bytes(b"no zip at all")
    with pytest.raises(FileError, match=r"other\.zip"):
        polopt.load(tmp_path / "other")
