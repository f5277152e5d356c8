"""Normalisation of what a replay holds: raw rows, read by the moments of now."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import polopt
from polopt.normalize import Normalize

TINY = dict(
    seed=0, learning_starts=8, batch_size=16, buffer_size=500, policy_kwargs=dict(net_arch=[8]), normalize_obs=True,
    normalize_reward=True,
)  # fmt: skip


def make(name="SAC", env="Pendulum-v1", **kwargs):
    return getattr(polopt, name)("MlpPolicy", env, **TINY | kwargs)


def vector(model):
    return torch.cat([p.detach().reshape(-1) for net in model.nets.values() for p in net.parameters()])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_rows_are_as_the_environment_gave_them_and_read_by_the_moments_of_now(num_envs):
    model = make(num_envs=num_envs).learn(60)
    rows, moments = model.memory.rows(), model.normalizer.obs_moments[""]
    assert torch.allclose(rows.obs[:, 0] ** 2 + rows.obs[:, 1] ** 2, torch.ones(len(rows)), atol=1e-5)  # cos² + sin²
    b = model.memory.sample(32, torch.Generator().manual_seed(0))
    raw = rows.take(b.index)
    expected = (raw.obs.double() - torch.tensor(moments.mean)) / torch.tensor(moments.var + 1e-8).sqrt()
    torch.testing.assert_close(b.obs, expected.clamp(-10, 10).float())
    scale = float(model.normalizer.reward_moments.var + 1e-8) ** 0.5
    torch.testing.assert_close(b.reward, (raw.reward / scale).clamp(-10, 10))
    torch.testing.assert_close(b.discount, raw.discount)


def test_the_moments_are_those_of_stable_baselines3():
    """The same worlds, the same random actions."""
    ours, theirs = make(learning_starts=100, num_envs=2), VecNormalize(make_vec_env("Pendulum-v1", 2))
    ours.learn(80)
    rows = ours.memory.rows()
    theirs.obs_rms.update(ours.env.env.reset_host(0))  # the first observations, which no row's successor is
    for obs in rows.next_obs.view(-1, 2, 3).numpy():
        theirs.obs_rms.update(obs)
    np.testing.assert_allclose(ours.normalizer.obs_moments[""].mean, theirs.obs_rms.mean, rtol=1e-5)
    np.testing.assert_allclose(ours.normalizer.obs_moments[""].var, theirs.obs_rms.var, rtol=1e-5)


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG"])
def test_it_acts_on_what_it_learns_from(name, tmp_path):
    model = make(name).learn(60)
    obs = np.array([[0.6, 0.8, 5.0], [-1.0, 0.0, -7.0]], np.float32)
    action = model.predict(obs, deterministic=True)[0]
    seen = model.normalizer.normalize_obs(obs)
    np.testing.assert_array_equal(action, model.policy.predict(seen, deterministic=True)[0])
    assert not np.allclose(action, model.policy.predict(obs, deterministic=True)[0])
    noise = model.policy.distribution.noise((2,), model.generator, model.device)
    host = model.host_actor()(obs, noise.numpy())
    np.testing.assert_allclose(host, model.act(torch.from_numpy(obs), noise)[0], atol=1e-5)
    model.save(tmp_path / "m")
    for loaded in (
        getattr(polopt, name).load(tmp_path / "m"),
        getattr(polopt, name).load(tmp_path / "m", env="Pendulum-v1"),
    ):
        np.testing.assert_array_equal(action, loaded.predict(obs, deterministic=True)[0])
    loaded.learn(20, reset_num_timesteps=False)


def test_saved_in_full_it_goes_on_as_if_it_had_not_been(tmp_path):
    whole, half = make().learn(50), make().learn(50)
    half.save(tmp_path / "half", full=True)
    resumed = polopt.SAC.load(tmp_path / "half", env="Pendulum-v1")
    for model in (whole, resumed):
        model.learn(50, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed))
    assert whole.normalizer.obs_moments[""].count == resumed.normalizer.obs_moments[""].count


def test_what_cannot_be_normalised_is_refused():
    with pytest.raises(ValueError, match="standardize=True"):
        make("TD3BC").learn_offline("nothing", 1)
    with pytest.raises(
        NotImplementedError, match="normalize_obs=True: observations and rewards are modelled as they are"
    ):
        make("MBPO")
    with pytest.raises(ValueError, match="without Normalize"):
        polopt.SAC("MlpPolicy", Normalize(polopt.make_env("Pendulum-v1")))

    class Numbered(gymnasium.Env):
        observation_space, action_space = spaces.Discrete(3), spaces.Discrete(2)

    with pytest.raises((NotImplementedError, ValueError), match="normalise"):
        polopt.DQN("MlpPolicy", Numbered(), normalize_obs=True)
    with pytest.warns(UserWarning, match="stay as VecNormalize showed them"):
        polopt.SAC("MlpPolicy", VecNormalize(make_vec_env("Pendulum-v1", 1)), buffer_size=10)
