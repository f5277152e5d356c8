"""Tabular problems as environments: Gymnasium's checker, the exact values, and exact resumption."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from polopt.theory import AverageRewardMDP, finite
from polopt.theory.env import TabularWorlds
from polopt.theory.generators import garnet, gridworld, lock, random_finite, riverswim
from polopt.theory.gym import TabularEnv

from polopt.env import Env

GRID = gridworld(["S..", ".#.", "..G"])


@pytest.mark.parametrize("mdp", [GRID, lock(4, 3), garnet(5, 2, 2)], ids=["grid", "lock", "garnet"])
def test_gymnasium_checks_it(mdp):
    env = TabularEnv(mdp, max_episode_steps=50)
    check_env(env, skip_render_check=True)
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)


def test_an_optimal_walk_through_the_grid():
    env = TabularEnv(GRID)
    assert env.reset(seed=0)[0] == 0
    rewards = [env.step(a)[1:3] for a in (1, 1, 3, 3)]
    assert rewards == [(-0.01, False), (-0.01, False), (-0.01, False), (1.0, True)]


def test_time_is_part_of_a_finite_horizons_observation():
    mdp = lock(3, 2)
    code = finite.plan(mdp.P, mdp.r)[2][:, 0]
    env = TabularEnv(mdp)
    observations = [env.reset(seed=0)[0]]
    for h in range(3):
        obs, reward, terminated, truncated, _ = env.step(int(code[h]))
        observations.append(obs)
        assert (reward, terminated, truncated) == (float(h == 2), h == 2, False)
    assert observations[:3] == [0, 2, 4]
    worlds = TabularWorlds(mdp, 2, seed=0)
    assert worlds.reset().tolist() == [0, 0]
    steps = [worlds.step(torch.tensor([code[h], 1 - code[h]])) for h in range(3)]
    assert steps[-1].terminated.tolist() == [True, True]
    assert steps[-1].reward.tolist() == [1.0, 0.0]
    assert steps[-1].obs.tolist() == [0, 0]
    assert [(e.index, e.r, e.l) for e in worlds.pop_episodes()] == [(0, 1.0, 3), (1, 0.0, 3)]


def test_bad_input():
    with pytest.raises(TypeError, match="AverageRewardMDP"):
        TabularEnv(AverageRewardMDP(riverswim().P, riverswim().r))
    with pytest.raises(ValueError, match="max_episode_steps=0"):
        TabularEnv(GRID, 0)
    with pytest.raises(ValueError, match="num_envs=0"):
        TabularWorlds(GRID, 0)
    env = TabularEnv(GRID)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 4 is not in Discrete"):
        env.step(4)
    worlds = TabularWorlds(GRID, 2, seed=0)
    with pytest.raises(RuntimeError, match="reset"):
        worlds.step(torch.zeros(2))
    worlds.reset()
    with pytest.raises(ValueError, match=r"action has shape \(3,\): must be \(2,\)"):
        worlds.step(torch.zeros(3))
    for bad in (-1, 4):
        with pytest.raises(ValueError, match=rf"action {bad} is not in Discrete\(4\)"):
            worlds.step(torch.tensor([0, bad]))


@pytest.mark.parametrize("make", ["gym", "torch"])
def test_mean_returns_are_the_exact_value(make):
    mdp = random_finite(4, 3, 2)
    pi = np.random.default_rng(0).dirichlet(np.ones(2), (4, 3))
    value = finite.evaluate(mdp.P, mdp.r, pi)[0][0, 0]
    flat = pi.reshape(-1, 2)
    if make == "torch":
        worlds = TabularWorlds(mdp, 4000, seed=0)
        assert isinstance(worlds, Env)
        obs, generator = worlds.reset(), torch.Generator().manual_seed(1)
        assert obs.dtype == torch.int64
        for _ in range(4):
            obs = worlds.step(torch.multinomial(torch.tensor(flat)[obs], 1, generator=generator)[:, 0]).obs
        returns = np.array([episode.r for episode in worlds.pop_episodes()])
        assert len(returns) == 4000
    else:
        env, rng, returns = TabularEnv(mdp), np.random.default_rng(2), []
        for k in range(1500):
            obs, total, done = env.reset(seed=k)[0], 0.0, False
            while not done:
                obs, reward, done, _, _ = env.step(int(rng.random() < flat[obs, 1]))
                total += reward
            returns.append(total)
    assert np.mean(returns) == pytest.approx(value, abs=4 * np.std(returns) / np.sqrt(len(returns)))


def test_truncation_and_the_true_successor():
    worlds = TabularWorlds(garnet(6, 2, 2), 3, max_episode_steps=5, seed=3)
    worlds.reset()
    for t in range(5):
        step = worlds.step(torch.zeros(3, dtype=torch.int64))
        assert not step.terminated.any()
        assert (step.next_obs is step.obs) == (t < 4)
    assert step.truncated.all()
    assert len(worlds.pop_episodes()) == 3
    worlds.step(torch.zeros(3, dtype=torch.int64))
    worlds.reset_where(torch.tensor([True, False, False]))
    assert [(e.index, e.l) for e in worlds.pop_episodes()] == [(0, 1)]


def test_resumption_is_exact():
    worlds, other = (TabularWorlds(garnet(6, 3, 2), 4, max_episode_steps=7, seed=s) for s in (0, 1))
    worlds.reset()
    actions = torch.randint(3, (40, 4), generator=torch.Generator().manual_seed(0))
    for a in actions[:15]:
        worlds.step(a)
    saved = worlds.state_dict()
    other.load_state_dict(saved)
    for a in actions[15:]:
        for left, right in zip(worlds.step(a), other.step(a), strict=True):
            assert left is None or torch.equal(left, right)
    assert worlds.pop_episodes() == other.pop_episodes()
    with pytest.raises(ValueError, match="4 worlds"):
        TabularWorlds(garnet(6, 3, 2), 5).load_state_dict(saved)
