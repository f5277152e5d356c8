"""``learn_offline``: the one loop without an environment, standardised observations, files, and going on online."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import polopt
from polopt.dataset import Dataset, DatasetError
from polopt.dataset_files import write_d4rl
from polopt.run import RunError, new_run, reopen
from polopt.spaces import encoded_size

NET = dict(net_arch=[8])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path / "cache"))


def recorded(n: int = 300, seed: int = 0, env: str = "Pendulum-v1") -> Dataset:
    """Random steps of Pendulum's spaces, whose observations are far from standard."""
    rng = np.random.default_rng(seed)
    worlds = polopt.make_env(env)
    obs = rng.normal(size=(n, encoded_size(worlds.observation_space))) * [0.1, 0.4, 3.0] + [0.7, 0.0, 2.0]
    return Dataset(
        obs=obs, action=rng.uniform(-2, 2, (n, 1)), reward=rng.normal(size=n), terminated=np.zeros(n, bool),
        truncated=np.arange(n) % 50 == 49, next_obs=obs + 0.1, observation_space=worlds.observation_space,
        action_space=worlds.action_space, env_id=env,
    )  # fmt: skip


def make(name: str = "TD3BC", env: str | None = "Pendulum-v1", **kwargs):
    return getattr(polopt, name)("MlpPolicy", env, **(dict(seed=0, batch_size=16, policy_kwargs=NET) | kwargs))


def vector(model) -> torch.Tensor:
    return torch.cat([x.reshape(-1).double() for net in model.nets.values() for x in net.state_dict().values()])


def test_standardised_by_the_observations_moments_everywhere(tmp_path: Path):
    data, model = recorded(), make()
    model.learn_offline(data, 0)
    x = data.obs.astype(np.float64)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    rows = model.memory.rows()
    np.testing.assert_allclose(rows.obs, (data.obs - mean) / scale, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows.next_obs, (data.next_obs - mean) / scale, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows.action, data.action / 2, rtol=1e-6)
    # predict takes raw observations, acting on the host and in torch as well, and the file holds the moments.
    z = torch.from_numpy((data.obs[:5] - mean) / scale).float()
    expected = 2 * model.action(z).detach().numpy()
    np.testing.assert_allclose(model.predict(data.obs[:5], deterministic=True)[0], expected, rtol=1e-4, atol=1e-5)
    host = model.policy.host_act()(data.obs[:5], np.zeros((5, 1), np.float32))
    np.testing.assert_allclose(2 * host, expected, rtol=1e-4, atol=1e-5)
    model.save(tmp_path / "m")
    loaded = polopt.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict(data.obs[:5])[0], model.predict(data.obs[:5])[0])


def test_moments_stay_when_another_dataset_follows():
    model = make().learn_offline(recorded(), 4)
    before = model.policy.encoder.mean.clone()
    model.learn_offline(recorded(seed=1), 4)
    assert torch.equal(model.policy.encoder.mean, before) and before.abs().max() > 0.5


def test_rewards_are_transformed_once_offline_and_online():
    data, model = recorded(), make(reward_scale=4.0, reward_shift=-0.5, learning_starts=0)
    model.learn_offline(data, 0)
    torch.testing.assert_close(model.memory.rows().reward, 4 * torch.from_numpy(data.reward) - 0.5)
    seen = []
    model.learn(3, callback=lambda scope, _: seen.append(float(scope["rewards"][0])) or True)
    assert model.memory.rows().reward[300:].tolist() == pytest.approx([4 * r - 0.5 for r in seen])


def test_it_goes_on_online_with_the_rows_of_the_dataset():
    model = make("TD3", learning_starts=0, buffer_size=100).learn_offline(recorded(), 10)
    assert len(model.memory) == 300 and model.num_timesteps == 10 and model._n_updates == 10
    rows = model.memory.table[:300].clone()
    model.learn(20)
    assert len(model.memory) == 320 and model.memory.capacity == 400 and model.num_timesteps == 20
    assert torch.equal(model.memory.table[:300], rows) and model._n_updates == 30


def test_without_an_environment_and_then_with_one():
    model = make(env=None, learning_starts=0).learn_offline(recorded(), 5)
    assert model.env is None and model.predict(np.zeros(3, np.float32))[0].shape == (1,)
    with pytest.raises(ValueError, match="no environment"):
        model.learn(5)
    model.set_env(polopt.make_env("Pendulum-v1", num_envs=2))
    assert len(model.learn(10).memory) == 310


def test_callbacks_are_called_once_a_gradient_step(tmp_path: Path):
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.logger import configure

    steps = []
    evaluation = EvalCallback(polopt.envs.to_sb3(polopt.make_env("Pendulum-v1", max_episode_steps=5)), eval_freq=20,
                              n_eval_episodes=1, log_path=str(tmp_path), verbose=0)  # fmt: skip
    model = make()
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    counting = lambda scope, _: steps.append(scope["self"].num_timesteps) or True
    from stable_baselines3.common.callbacks import CallbackList, ConvertCallback

    every = CallbackList([ConvertCallback(counting), evaluation, CheckpointCallback(30, str(tmp_path / "c"))])
    model.learn_offline(recorded(), 60, callback=every, log_interval=20)
    assert steps == list(range(1, 61))
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [20, 40, 60]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["rl_model_30_steps.zip", "rl_model_60_steps.zip"]
    head, *lines = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    keys = {"train/actor_loss", "train/critic_loss", "train/learning_rate", "train/n_updates", "time/fps"}
    at = head.split(",").index("train/critic_loss")
    assert keys <= set(head.split(",")) and sum(bool(line.split(",")[at]) for line in lines) == 3
    stopped = make().learn_offline(recorded(), 60, callback=lambda scope, _: scope["self"].num_timesteps < 7)
    assert stopped.num_timesteps == stopped._n_updates == 7


@pytest.mark.parametrize("name", ["TD3BC", "PRDC", "SAC"])
def test_saved_in_full_and_resumed_is_the_uninterrupted_run(name: str, tmp_path: Path):
    whole = make(name).learn_offline(recorded(), 30)
    half = make(name).learn_offline(recorded(), 15)
    half.save(tmp_path / "half", full=True)
    assert (tmp_path / "half.zip").stat().st_size < 60_000, "the rows are in it"
    resumed = polopt.load(tmp_path / "half", env="Pendulum-v1")
    with pytest.raises(DatasetError, match="learn_offline"):
        resumed.learn(1)
    with pytest.raises(DatasetError, match="holds other rows"):
        resumed.learn_offline(recorded(seed=1), 15, reset_num_timesteps=False)
    resumed.learn_offline(recorded(), 15, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed)) and resumed.num_timesteps == 30
    # and so online, where the memory is in the file
    whole.learn(20)
    resumed.learn(10).save(tmp_path / "online", full=True)
    assert torch.equal(vector(whole), vector(polopt.load(tmp_path / "online", env="Pendulum-v1").learn(10, reset_num_timesteps=False)))  # fmt: skip


def test_a_run_holds_the_hash_and_not_the_rows(tmp_path: Path):
    path = write_d4rl(recorded(), tmp_path / "pendulum.hdf5")
    session = new_run("TD3BC", "Pendulum-v1", 40, tmp_path / "run", dataset=path, policy_kwargs=NET, batch_size=16)
    session.cadence.every = 10
    model = session.train(callback=lambda scope, _: scope["self"].num_timesteps < 25).model
    assert model.num_timesteps == 25
    assert torch.equal(
        vector(reopen(tmp_path / "run").train().model), vector(make(seed=0).learn_offline(recorded(), 40))
    )
    path.unlink()
    (tmp_path / "run" / "model.zip").unlink()
    with pytest.raises(FileNotFoundError):
        reopen(tmp_path / "run")
    write_d4rl(recorded(seed=1), path)
    with pytest.raises(RunError, match="holds other rows"):
        reopen(tmp_path / "run")
    with pytest.raises(ValueError, match="PPO learns from its own rollouts only"):
        new_run("PPO", "Pendulum-v1", 40, tmp_path / "other", dataset=path)
    with pytest.raises(DatasetError, match="do not fit"):
        new_run("TD3BC", "Hopper-v5", 40, tmp_path / "other", dataset=path)
    assert not (tmp_path / "other").exists()


def test_rlpd_takes_a_dataset_as_prior_data_and_as_its_own(tmp_path: Path):
    """Prior data stays beside a memory that is filled from a dataset and goes on online."""
    prior, own = recorded(60, 1), recorded(40, 2)
    prior.action[:2] = [[2.0], [-2.0]]
    model = make("RLPD", learning_starts=0, n_critics=2, gradient_steps=1).add_prior(prior)
    assert len(model.memory.second) == 60
    model.learn_offline(own, 2)
    assert len(model.memory) == 40 and len(model.memory.second) == 60
    model.learn(5)
    assert len(model.memory) == 45 and len(model.memory.second) == 60
    inside = model.as_replay(prior, edge=1e-5)
    torch.testing.assert_close(inside.table, model.memory.second.table)
    assert inside.unpack(inside.table).action.abs().max() < 1


def test_no_row_of_a_trajectory_is_lost_to_several_steps():
    data = recorded(60, 1)
    model = make("SAC", n_steps=3, learning_starts=0, num_envs=2)
    model.learn_offline(data, 1)
    assert len(model.memory) == len(data.transitions())
    model.learn(6)  # two worlds after the dataset's one


def test_rows_that_give_way_to_a_dataset_are_counted():
    model = make("SAC", learning_starts=0).learn(7)
    with pytest.warns(UserWarning, match="7 transitions"):
        model.learn_offline(recorded(60, 1), 1)
