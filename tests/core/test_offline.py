"""``learn_offline``: the one loop without an environment, standardised observations, files, and going on online."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

import polopt
from polopt.dataset import Dataset, DatasetError
from polopt.dataset_files import write_d4rl
from polopt.run import RunError, new_run, reopen
from polopt.spaces import encoded_size

NET = dict(net_arch=[8])
COLUMNS = ("obs", "action", "reward", "terminated", "truncated", "next_obs")


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
    torch.testing.assert_close(model.memory.rows().reward, 4 * torch.tensor(data.reward) - 0.5)
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


@pytest.mark.parametrize("standardize", [False, True])
def test_rlpd_takes_a_dataset_as_prior_data_and_as_its_own(standardize: bool, tmp_path: Path):
    """Prior data stays beside a memory that is filled from a dataset and goes on online."""
    prior, own = recorded(60, 1), recorded(40, 2)
    prior = replace(prior, action=np.concatenate([[[2.0], [-2.0]], prior.action[2:]]))
    model = make("RLPD", learning_starts=0, n_critics=2, gradient_steps=1, standardize=standardize).add_prior(prior)
    given = model.memory.second.table.clone()
    held = model.memory.second
    assert len(model.memory.second) == 60
    model.learn_offline(own, 2)
    assert len(model.memory) == 40 and len(model.memory.second) == 60
    model.learn(5)
    assert len(model.memory) == 45 and len(model.memory.second) == 60
    inside = model.as_replay(prior, edge=1e-5)
    torch.testing.assert_close(inside.table, model.memory.second.table)
    assert inside.unpack(inside.table).action.abs().max() < 1
    assert torch.equal(held.table, given), "another model's memory is written into"
    model.save(tmp_path / "full", full=True)
    again = polopt.load(tmp_path / "full", env="Pendulum-v1")
    assert torch.equal(again.memory.second.table, model.memory.second.table)


def test_prior_data_outlives_an_interrupted_start(monkeypatch):
    model = make("RLPD", learning_starts=0, n_critics=2, standardize=True).add_prior(recorded(60, 1))

    def interrupted(self, prior):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(type(model), "_standardized", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.learn_offline(recorded(40, 2), 2)
    assert model.dataset is None and len(model.memory.second) == 60 and not model.policy.encoder.has_moments
    model.learn_offline(recorded(40, 2), 2)
    assert len(model.memory) == 40 and len(model.memory.second) == 60 and model.policy.encoder.has_moments


def test_a_run_on_a_dataset_beside_prior_data(tmp_path: Path):
    """The first checkpoint holds the prior rows before there are moments, the later ones standardised."""
    own, prior = (write_d4rl(recorded(n, n), tmp_path / f"{n}.hdf5") for n in (40, 60))
    session = new_run("RLPD", "Pendulum-v1", 20, tmp_path / "run", dataset=own, prior=prior, policy_kwargs=NET, batch_size=16,
                      standardize=True, n_critics=2)  # fmt: skip
    session.cadence.every = 5
    model = session.train(callback=lambda scope, _: scope["self"].num_timesteps < 12).model
    again = reopen(tmp_path / "run").train().model
    assert torch.equal(again.memory.second.table, model.memory.second.table)
    torch.testing.assert_close(again.as_replay(recorded(60, 60), 1e-5).table, model.memory.second.table)


def test_no_row_of_a_trajectory_is_lost_to_several_steps():
    data = recorded(60, 1)
    data = replace(data, next_obs=np.roll(data.obs, -1, 0))
    model = make("SAC", n_steps=3, learning_starts=0, num_envs=2)
    model.learn_offline(data, 1)
    assert len(model.memory) == len(data.transitions())
    model.learn(6)  # two worlds after the dataset's one


def test_rewards_of_several_steps_are_of_rows_that_follow_each_other():
    with pytest.raises(DatasetError, match="row 0 is inside an episode, and its successor is not the next row's"):
        make("SAC", n_steps=2).learn_offline(recorded(60), 1)
    with pytest.raises(DatasetError, match="row 0 is inside an episode"):
        make("RLPD", n_steps=2).add_prior(recorded(60))


def test_a_dataset_that_is_refused_leaves_nothing_behind():
    none, good, n = recorded(10), recorded(60), 10
    none = replace(none, next_obs=None, truncated=np.ones(n, bool))
    model = make()
    with pytest.raises(DatasetError, match="no whole transition"):
        model.learn_offline(none, 0)
    model.learn_offline(good, 0)
    np.testing.assert_allclose(model.policy.encoder.mean, good.obs.mean(0), rtol=1e-4)
    bare = make(env=None)
    with pytest.raises(DatasetError, match="a dataset has observations of a Box"):
        bare.learn_offline(
            replace(good, obs=good.obs[:, :1], next_obs=good.obs[:, :1], observation_space=Discrete(3)), 1
        )
    assert len(bare.learn_offline(good, 1).memory) == 60


def test_an_interrupted_index_is_made_again(monkeypatch: pytest.MonkeyPatch):
    def interrupted(memory):
        raise KeyboardInterrupt

    model = make("PRDC").learn_offline(recorded(60), 1)
    before = model.memory
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(model, "pretrain", interrupted)
        model.learn_offline(recorded(60, 3), 1)
    assert model.memory is before and model.dataset.hash == recorded(60).hash
    model.learn_offline(recorded(60, 3), 1)
    assert np.array_equal(model.index.actions, model.memory.rows().action)


@pytest.mark.parametrize("log_interval", [1000, None])
def test_training_that_diverged_says_so_at_its_end(log_interval: int | None):
    with pytest.raises(polopt.agent.NonFiniteError, match="training diverged"):
        make(learning_rate=1e30).learn_offline(recorded(60), 50, log_interval=log_interval)


def test_the_rows_of_a_dataset_stay_as_they_are():
    data = recorded(60)
    with pytest.raises(ValueError, match="read-only"):
        data.reward[:] -= 100
    batch = data.transitions()
    for name in ("obs", "next_obs", "reward"):
        batch[name].zero_()
    assert data.hash == recorded(60).hash == Dataset(**{k: getattr(data, k) for k in COLUMNS}).hash


def test_the_dataset_is_kept_where_learn_cannot_begin():
    model = make(env=None, learning_starts=0).learn_offline(recorded(60), 1)
    with pytest.raises(ValueError, match="no environment"):
        model.learn(5)
    assert model.dataset is not None and model.memory.capacity == 60


def test_a_callback_that_asks_for_an_environment_where_there_is_none():
    from stable_baselines3.common.callbacks import EvalCallback

    evaluation = EvalCallback(polopt.envs.to_sb3(polopt.make_env("Pendulum-v1", max_episode_steps=3)), eval_freq=2)
    with pytest.raises(ValueError, match="callback=EvalCallback asks for the model's environment, and it has none"):
        make(env=None).learn_offline(recorded(60), 4, callback=evaluation)


def test_rows_that_give_way_to_a_dataset_are_counted():
    model = make("SAC", learning_starts=0).learn(7)
    with pytest.warns(UserWarning, match="7 transitions"):
        model.learn_offline(recorded(60, 1), 1)
