"""The rollout: what is stored, and that the host's and torch's ways to act are one."""

import numpy as np
import pytest
import torch
from polopt.envs import make_env

import polopt
from polopt.advantage import gae
from polopt.rollout import rollout


def model(**kwargs):
    return polopt.PPO("MlpPolicy", "Pendulum-v1", n_steps=16, batch_size=16, seed=0, **({"num_envs": 3} | kwargs))


def test_rows_are_a_consistent_chain():
    m = polopt.PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, num_envs=3, seed=0)
    obs = m.env.reset_host(0).copy()
    batch, after = rollout(m.env, m, obs, 64)
    assert batch.obs.shape == (64, 3, 4) and batch.action.shape == (64, 3)
    np.testing.assert_array_equal(batch.obs[0], obs)
    done = batch.terminated | batch.truncated
    assert done.any()
    follows = (batch.next_obs[:-1] == batch.obs[1:]).all(-1)
    assert (follows == ~done[:-1]).all(), "the successor is the next row's observation but where an episode ended"
    np.testing.assert_array_equal(
        np.where(done[-1][:, None], 0, batch.next_obs[-1]), np.where(done[-1][:, None], 0, after)
    )


def test_the_host_acts_as_torch_does(monkeypatch):
    a, b = model(), model()
    monkeypatch.setattr(b, "host_actor", lambda: None)
    rows = []
    for m in (a, b):
        obs = m.env.reset_host(0).copy()
        rows.append(rollout(m.env, m, obs, 16)[0])
    for name in ("obs", "action", "reward"):
        torch.testing.assert_close(rows[0][name], rows[1][name], rtol=1e-4, atol=1e-4)


def test_a_torch_env_gives_the_same_kind_of_batch():
    env = make_env("Pendulum-v1", 3, backend="torch", seed=0)
    m = polopt.PPO("MlpPolicy", env, n_steps=16, batch_size=16, seed=0)
    assert not env.host
    m.learn(96)
    batch, _ = rollout(m.env, m, m._last_obs, 16)
    assert batch.obs.shape == (16, 3, 3) and batch.next_obs.device == env.device


def test_stored_rows_do_not_alias_the_environments_arrays():
    m = model()
    obs = m.env.reset_host(0)
    batch, after = rollout(m.env, m, obs, 16)
    before = batch.next_obs.clone(), after.copy()
    m.env.step_host(np.zeros((3, 1), np.float32))
    assert torch.equal(before[0], batch.next_obs) and (before[1] == after).all()


def test_actions_reach_the_environment_clipped_but_are_stored_raw():
    m = model(policy_kwargs=dict(log_std_init=2.0))
    seen = []
    step = m.env.step_host
    m.env.step_host = lambda action: (seen.append(action.copy()), step(action))[1]
    batch, _ = rollout(m.env, m, m.env.reset_host(0).copy(), 16)
    assert batch.action.abs().max() > 2.0
    np.testing.assert_array_equal(np.stack(seen), batch.action.clamp(-2, 2))


def test_next_step_autoreset_trains_on_valid_rows_only():
    import gymnasium as gym

    venv = gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="sync")
    m = polopt.PPO("MlpPolicy", venv, n_steps=64, batch_size=64, seed=0)
    m._last_obs = m.env.reset_host(0).copy()
    batch, _ = rollout(m.env, m, m._last_obs, 64)
    fake = ~batch.valid
    assert fake.any() and (batch.reward[fake] == 0).all()
    rows = m.prepare(batch)
    assert len(rows) == int(batch.valid.sum())
    m.learn(64 * 3)
    assert m.num_timesteps >= 192 and m.num_timesteps < 400


@pytest.mark.parametrize("vectorised_by", ["polopt", "gymnasium"])
def test_a_cut_episode_is_worth_what_its_last_observation_is(vectorised_by):
    """Pendulum ends by its time limit alone: the successor's value is V of the last observation, not of the reset's."""
    import gymnasium as gym

    env = "Pendulum-v1" if vectorised_by == "polopt" else gym.make_vec("Pendulum-v1", 2, vectorization_mode="sync")
    m = polopt.PPO(
        "MlpPolicy", env, n_steps=450, batch_size=None, seed=0, **({"num_envs": 2} if env == "Pendulum-v1" else {})
    )
    batch, _ = rollout(m.env, m, m.env.reset_host(0).copy(), 450)
    valid = batch.valid if "valid" in batch else torch.ones_like(batch.truncated)
    assert batch.truncated[:-1].sum() == 4 and not batch.terminated.any()
    b = m.appraise(batch)
    true = m.policy.value(batch.next_obs.flatten(0, 1)).view(450, 2)
    torch.testing.assert_close(b.next_value[valid], true[valid])
    if vectorised_by == "polopt":  # the next row is the next episode's; Gymnasium puts a fake row between
        after_reset = torch.roll(b.value, -1, 0)
        assert ((b.next_value - after_reset).abs() > 1e-3)[batch.truncated].all()
    expected = gae(
        batch.reward, b.value, true, batch.terminated, batch.truncated, 0.99, 0.95, valid if "valid" in batch else None
    )
    torch.testing.assert_close(m.prepare(batch).advantage, expected[valid], rtol=1e-4, atol=1e-5)


def test_what_an_actor_remembers_is_stored_beside_the_action(monkeypatch):
    """On the host as through torch: a choice may leave something behind, a chain of intermediate steps say."""
    a, b = model(), model()
    host = a.host_actor()
    monkeypatch.setattr(
        a, "host_actor", lambda: lambda obs, noise: (host(obs, noise), {"chain": np.stack([noise] * 2, 1)})
    )
    monkeypatch.setattr(b, "host_actor", lambda: None)
    act = b.act
    monkeypatch.setattr(b, "act", lambda obs, noise: (act(obs, noise)[0], {"chain": torch.stack([noise] * 2, 1)}))
    chains = []
    for m in (a, b):
        batch, _ = rollout(m.env, m, m.env.reset_host(0).copy(), 16)
        assert batch.chain.shape == (16, 3, 2, 1) and m.prepare(batch).chain.shape == (48, 2, 1)
        chains.append(batch.chain)
    assert torch.equal(*chains)
