"""Datasets: D4RL's rules for the two views, Minari's and D4RL's files, what is refused."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.classic_control import PendulumEnv

import polopt
from polopt.dataset import Collector, Dataset, DatasetError, d4rl_score
from polopt.dataset_files import list_datasets, load_dataset, read_d4rl, write_d4rl, write_minari
from polopt.rollout import rollout

COLUMNS = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
OBS, ACT = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(-1, 1, (1,), np.float32)


def flags(n: int, *at: int) -> np.ndarray:
    return np.isin(np.arange(n), at)


def three_episodes(**changes) -> Dataset:
    """Rows 0-3 end by a terminal, 4-6 by a timeout, 7-9 by the end of the file."""
    n = 10
    rows = dict(
        obs=np.arange(2 * n, dtype=np.float32).reshape(n, 2), action=np.linspace(-1, 1, n), reward=np.arange(n) + 1.0,
        terminated=flags(n, 3), truncated=flags(n, 6),
    )  # fmt: skip
    return Dataset(**rows | changes)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture(scope="module")
def recorded() -> Dataset:
    """Two worlds of Hopper, falling often, recorded from a random policy."""
    world = Collector(polopt.make_env("Hopper-v5", num_envs=2, seed=0, threads=1, max_episode_steps=15))
    model = polopt.TD3(
        "MlpPolicy", world, seed=0, learning_starts=1000, policy_kwargs=dict(net_arch=[4]), buffer_size=9
    )
    rollout(world, model, world.reset_host(0), 100)
    return world.dataset()


# -- the two views -----------------------------------------------------------------------------------------------------


def test_transitions_and_episodes_by_d4rls_rules():
    data = three_episodes()
    b = data.transitions()
    assert b.row.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]  # not 6, a timeout; not 9, the last
    assert len(b) == len(data) - 1 - 1
    assert torch.equal(b.next_obs, torch.tensor(data.obs)[b.row + 1])
    assert b.terminated.tolist() == [False] * 3 + [True] + [False] * 4
    assert b.truncated.tolist() == [False, False, False, True, False, True, False, True]  # no successor among the rows
    assert data.episodes() == [slice(0, 4), slice(4, 7), slice(7, 10)]
    assert data.returns().tolist() == [10, 18, 27]


def test_with_the_true_successors_every_row_is_a_transition():
    data = three_episodes()
    b = Dataset(**{k: getattr(data, k) for k in COLUMNS if k != "next_obs"}, next_obs=data.obs + 0.5).transitions()
    assert len(b) == 10 and torch.equal(b.next_obs, torch.tensor(data.obs) + 0.5)
    assert b.terminated.tolist() == flags(10, 3).tolist() and b.truncated.tolist() == flags(10, 3, 6, 9).tolist()


def test_the_mask_of_a_terminal_row_zeroes_what_is_bootstrapped():
    model = polopt.TD3BC(seed=0, gamma=0.9, policy_kwargs=dict(net_arch=[4]))
    model.learn_offline(three_episodes(observation_space=OBS, action_space=ACT), 0)
    assert model.memory.rows().discount.tolist() == pytest.approx([0.9] * 3 + [0.0] + [0.9] * 4)


def test_returns_over_several_steps_end_with_the_episode():
    model = polopt.TD3BC(seed=0, gamma=0.5, n_steps=2, standardize=False, policy_kwargs=dict(net_arch=[4]))
    model.learn_offline(three_episodes(observation_space=OBS, action_space=ACT), 0)
    b = model.memory.rows()
    # Rows 0-5, 7 and 8, after which none comes.
    assert b.reward.tolist() == [1 + 1, 2 + 1.5, 3 + 2, 4, 5 + 3, 6, 8 + 4.5, 9]
    assert b.discount.tolist() == [0.25, 0.25, 0, 0, 0.25, 0.5, 0.25, 0.5]


def test_a_stretch_of_rows_and_what_is_put_together():
    data = three_episodes()
    assert len(data[2:5]) == 3 and data[2:5].reward.tolist() == [3, 4, 5]
    both = Dataset.concatenate([data, data])
    assert len(both) == 20 and len(both.episodes()) == 6 and both.truncated[9]
    with pytest.raises(DatasetError, match="next_obs"):
        Dataset.concatenate([data, three_episodes(next_obs=data.obs)])
    with pytest.raises(TypeError):
        data[3]
    with pytest.raises(DatasetError, match="no parts to put together"):
        Dataset.concatenate([])
    with pytest.raises(DatasetError, match=r"obs has 2 numbers a row in dataset, 3 in dataset"):
        Dataset.concatenate([data, three_episodes(obs=np.zeros((10, 3)))])
    parts = [three_episodes(env_id=name, reference=(0, 1)) for name in ("Hopper-v5", "Ant-v5")]
    mixed = Dataset.concatenate(parts)
    assert mixed.env_id is None and mixed.reference == (0, 1)


def test_the_hash_is_that_of_the_rows():
    data, changed = three_episodes(), three_episodes(reward=np.arange(10) + 1.5)
    assert data.hash == three_episodes(name="another").hash != changed.hash
    assert data.hash != three_episodes(truncated=flags(10, 7)).hash


# -- what is refused ---------------------------------------------------------------------------------------------------

NAN = np.full((10, 2), 1.0)
NAN[4, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(obs=NAN), r"obs is not finite in row 4: \[1.0, nan\]"),
        (dict(reward=np.where(flags(10, 2), np.inf, 0)), "reward is not finite in row 2"),
        (dict(action=np.zeros((9, 1))), "action has 9 rows where reward has 10"),
        (dict(terminated=flags(11, 3)), "terminated has 11 rows"),
        (dict(next_obs=np.zeros((10, 3))), "next_obs of shape"),
        (dict(observation_space=spaces.Box(-1, 1, (3,))), "obs has 2 numbers a row"),
        (dict(infos={"qpos": np.zeros((3, 2))}), "infos/qpos has 3 rows"),
        (dict(obs={"position": np.zeros((10, 2))}), "obs is a dict"),
        ({k: np.zeros((0, 1)) for k in ("obs", "action", "reward", "terminated", "truncated")}, "no row"),
    ],
)
def test_bad_rows(changes, message):
    with pytest.raises(DatasetError, match=message):
        three_episodes(**changes)


def test_what_does_not_fit_a_model():
    data = three_episodes(observation_space=OBS, action_space=ACT, action=np.linspace(-1, 1, 10))
    with pytest.raises(DatasetError, match="observations of 2 numbers do not fit"):
        polopt.TD3BC("MlpPolicy", "Pendulum-v1").learn_offline(data, 1)
    model = polopt.TD3BC(seed=0, policy_kwargs=dict(net_arch=[4])).learn_offline(data, 1)
    with pytest.raises(DatasetError, match=r"its actions are of"):
        model.learn_offline(three_episodes(action_space=spaces.Box(-2, 2, (1,), np.float32)), 1)
    with pytest.raises(DatasetError, match=r"the action of row 0, .* is outside"):
        model.learn_offline(three_episodes(action=np.linspace(-3, 3, 10)), 1)
    with pytest.raises(DatasetError, match="does not say its spaces"):
        polopt.TD3BC().learn_offline(three_episodes(), 1)
    with pytest.raises(ValueError, match="numbered actions"):
        polopt.DQN("MlpPolicy", "CartPole-v1").learn_offline(data, 1)
    with pytest.raises(ValueError, match="gradient_steps=-1"):
        model.learn_offline(data, -1)


# -- scores ------------------------------------------------------------------------------------------------------------


def test_scores():
    assert polopt.normalized_score("HalfCheetah-v5", -280.178953) == 0
    assert polopt.normalized_score("halfcheetah-medium-replay-v2", 12135.0) == 100
    assert polopt.normalized_score("polopt/Hopper-v4", 1607.0139) == pytest.approx(50.0, abs=5e-5)
    for name in ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed", "AntMaze_UMaze-v5", "antmaze-umaze-v2",
                 "AntMaze_Large_Diverse_GR-v4"):  # fmt: skip
        assert polopt.normalized_score(name, 1.0) == 100
    assert polopt.normalized_score("mini_kitchen_microwave_kettle_light_slider-v0", 4.0) == 100
    assert polopt.normalized_score("pen-v0_demos_clipped", 96.262799) == 0
    for name in ("dm_control/hopper-hop-v0", "dm_control/hopper-v0", "hopper-hop-v0", "AntMaze_UMazeDense-v5", ""):
        with pytest.raises(ValueError, match="no reference returns"):
            polopt.normalized_score(name, 0.0)
    assert polopt.normalized_score("maze2d-umaze-dense-v1", [68.537689, 193.66285642381482]).tolist() == [0, 100]
    with pytest.raises(ValueError, match=r"Swimmer-v5.*halfcheetah"):
        polopt.normalized_score("Swimmer-v5", 1.0)
    assert three_episodes(env_id="Hopper-v5").score(3234.3) == 100
    assert three_episodes(env_id="Hopper-v5", reference=(0.0, 1.0)).score(0.25) == 25
    with pytest.raises(DatasetError, match="no reference returns"):
        three_episodes().score(1.0)
    for score in (three_episodes(env_id="Hopper-v5").score, partial(polopt.normalized_score, "Hopper-v5")):
        assert type(score(3234.3)) is float and score(np.array([3234.3, -20.272305])).tolist() == [100, 0]
    assert d4rl_score([-1.0, 1.0], (-1.0, 3.0)).tolist() == [0, 50]


# -- files -------------------------------------------------------------------------------------------------------------


def assert_same_rows(a: Dataset, b: Dataset) -> None:
    for name in COLUMNS:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert a.hash == b.hash


def test_the_collector_saw_what_happened(recorded: Dataset):
    ends = recorded.terminated | recorded.truncated
    assert len(recorded) == 200 and ends[99] and ends[199] and recorded.terminated.any() and recorded.truncated.any()
    goes_on = np.flatnonzero(~ends)
    assert np.array_equal(recorded.next_obs[goes_on], recorded.obs[goes_on + 1])
    assert not np.array_equal(recorded.next_obs[:-1][ends[:-1]], recorded.obs[1:][ends[:-1]])  # the true successor
    assert max(e.stop - e.start for e in recorded.episodes()) == 15


def test_rollouts_to_minari_to_d4rl_bit_for_bit(recorded: Dataset, root: Path):
    write_minari(replace(recorded, reference=(-1.0, 3.0)), "local/hopper/random-v0")
    minari = load_dataset("local/hopper/random-v0")
    assert minari.score(1.0) == 50
    flat = load_dataset(write_d4rl(minari, root / "hopper.hdf5"))
    for other in (minari, flat):
        assert_same_rows(recorded, other)
        assert other.env_id == "Hopper-v5" and other.action_space == recorded.action_space
        a, b = recorded.transitions(), other.transitions()
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert list_datasets() == ["local/hopper/random-v0"]
    assert_same_rows(recorded, load_dataset(root / "local" / "hopper" / "random-v0"))


def test_minari_reads_what_is_written(recorded: Dataset, root: Path):
    minari = pytest.importorskip("minari")
    write_minari(recorded, "local/hopper/random-v0")
    theirs = minari.load_dataset("local/hopper/random-v0")
    assert theirs.total_steps == 200 and theirs.env_spec.id == "Hopper-v5"
    assert theirs.observation_space == recorded.observation_space and theirs.action_space == recorded.action_space
    for episode, rows in zip(theirs.iterate_episodes(), recorded.episodes(), strict=True):
        assert np.array_equal(episode.observations[:-1], recorded.obs[rows])
        assert np.array_equal(episode.observations[1:], recorded.next_obs[rows])
        assert np.array_equal(episode.actions, recorded.action[rows])
        assert np.array_equal(episode.rewards, recorded.reward[rows])
        assert np.array_equal(episode.terminations, recorded.terminated[rows])


def test_what_minari_writes_is_read(recorded: Dataset, root: Path):
    minari = pytest.importorskip("minari")
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=np.concatenate([recorded.obs[rows], recorded.next_obs[rows][-1:]]),
            actions=recorded.action[rows], rewards=recorded.reward[rows], terminations=recorded.terminated[rows],
            truncations=recorded.truncated[rows], infos={"qpos": np.zeros((rows.stop - rows.start + 1, 3))},
        )
        for rows in recorded.episodes()
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "local/theirs-v3", buffers, observation_space=recorded.observation_space,
            action_space=recorded.action_space,
        )  # fmt: skip
    mine = load_dataset("local/theirs-v3")
    assert_same_rows(recorded, mine)
    assert mine.infos["qpos"].shape == (200, 3) and mine.env_id is None


def test_goals_are_put_beside_observations_and_it_is_said(root: Path):
    data = root / "D4RL" / "antmaze-v1" / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as f:
        for name, width in dict(achieved_goal=2, desired_goal=2, observation=3).items():
            f[f"episode_0/observations/{name}"] = np.full((6, width), width + (name == "desired_goal"), np.float64)
        f["episode_0/actions"], f["episode_0/rewards"] = np.zeros((5, 1)), np.arange(5.0)
        f["episode_0/terminations"], f["episode_0/truncations"] = np.zeros(5, bool), np.zeros(5, bool)
    (data / "metadata.json").write_text(json.dumps({"dataset_id": "D4RL/antmaze-v1", "data_format": "hdf5"}))
    with pytest.warns(UserWarning, match=r"read as \[observation, desired_goal\].*polopt.envs.flatten_goal\(env\)"):
        mine = load_dataset("D4RL/antmaze-v1")
    assert mine.obs[0].tolist() == [3, 3, 3, 3, 3] and mine.truncated.tolist() == [False] * 4 + [True]


def test_an_id_that_is_not_there(recorded: Dataset, root: Path):
    with pytest.raises(FileNotFoundError, match="none at all"):
        load_dataset("local/hopper/random-v0")
    write_minari(recorded, "local/hopper/random-v0")
    with pytest.raises(FileNotFoundError, match="nearest: local/hopper/random-v0"):
        load_dataset("local/hoper/random-v0")
    with pytest.raises(FileExistsError):
        write_minari(recorded, "local/hopper/random-v0")
    with pytest.raises(ValueError, match="namespace/name-vN"):
        write_minari(recorded, "hopper")
    assert not list(root.rglob(".*"))  # no half-written folder


def d4rl_file(path: Path, **arrays) -> Path:
    data = three_episodes()
    rows = dict(
        observations=data.obs,
        actions=data.action,
        rewards=data.reward,
        terminals=data.terminated,
        timeouts=data.truncated,
    )
    with h5py.File(path, "w") as f:
        for name, x in (rows | arrays).items():
            if x is not None:
                f[name] = x
    return path


def test_d4rl_files(tmp_path: Path):
    path = d4rl_file(tmp_path / "hopper_medium-v2.hdf5", **{"infos/qpos": np.zeros((10, 6))})
    data = load_dataset(path)
    assert len(data.transitions()) == 8 and len(data.episodes()) == 3 and data.score(3234.3) == 100
    assert data.infos["qpos"].shape == (10, 6) and data.action_space is None
    with pytest.raises(DatasetError, match="has no rewards; it has actions"):
        read_d4rl(d4rl_file(tmp_path / "a.hdf5", rewards=None))
    with pytest.raises(DatasetError, match="terminated has 7 rows"):
        read_d4rl(d4rl_file(tmp_path / "b.hdf5", terminals=np.zeros(7)))
    (tmp_path / "c.hdf5").write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match="damaged"):
        load_dataset(tmp_path / "c.hdf5")
    with pytest.raises(FileExistsError):
        write_d4rl(data, path)


def test_d4rl_files_without_timeouts(tmp_path: Path):
    bare = d4rl_file(tmp_path / "a.hdf5", timeouts=None)
    with pytest.raises(DatasetError, match=r"read_d4rl\(path, horizon="):
        read_d4rl(bare)
    assert read_d4rl(bare, horizon=3).truncated.tolist() == flags(10, 2, 6, 9).tolist()  # counted anew after row 3
    after = three_episodes().obs + 2
    after[6] += 1  # the only row whose successor is not the next row's observation
    jumpy = d4rl_file(tmp_path / "b.hdf5", timeouts=None, next_observations=after)
    assert read_d4rl(jumpy).truncated.tolist() == flags(10, 6).tolist()


# -- recorded, and not read wrongly ------------------------------------------------------------------------------------


def walked(episodes: int = 3, steps: int = 10) -> Collector:
    world, rng = Collector(polopt.make_env("Pendulum-v1")), np.random.default_rng(0)
    for seed in range(episodes):
        world.reset_host(seed)
        for _ in range(steps):
            world.step_host(rng.uniform(-2, 2, (1, 1)).astype(np.float32))
    return world


def test_a_reset_inside_an_episode_ends_it(root: Path):
    data = walked().dataset()
    assert np.flatnonzero(data.truncated).tolist() == [9, 19, 29] and len(data.episodes()) == 3
    again = load_dataset(write_minari(data, "a/b-v0"))
    assert np.array_equal(again.next_obs, data.next_obs)
    world = Collector(polopt.make_env("Pendulum-v1"))
    model = polopt.SAC("MlpPolicy", world, seed=0, learning_starts=1000, policy_kwargs={"net_arch": [4]})
    for _ in range(3):
        model.learn(20)
    assert [rows.stop - rows.start for rows in world.dataset().episodes()] == [20, 20, 20]


def test_only_what_was_walked():
    world = walked(1)
    assert len(world.dataset(steps=4)) == 4
    for steps in (0, -1, 11, 2.0):
        with pytest.raises(
            ValueError, match=f"steps={steps} must be a whole number from 1 to the 10 that were recorded"
        ):
            world.dataset(steps=steps)


def test_rows_that_do_not_follow_each_other_are_no_minari_episodes(root: Path):
    data = walked().dataset()
    with pytest.raises(DatasetError, match="row 9 is inside an episode, and its successor is not the next row's"):
        write_minari(replace(data, truncated=np.zeros(30, bool)), "a/b-v0")
    assert list_datasets() == []
    half = root / "a" / ".b-v0.x1y2" / "data"
    half.mkdir(parents=True)
    (half / "main_data.hdf5").touch()
    assert list_datasets() == []


@pytest.fixture
def unnamed():
    """An environment that is registered by its class, which no file can name."""
    gym.register("Unnamed-v0", entry_point=PendulumEnv, max_episode_steps=5)
    yield "Unnamed-v0"
    del gym.registry["Unnamed-v0"]


def test_an_environment_that_no_file_can_name(root: Path, unnamed: str):
    world = Collector(polopt.make_env(unnamed))
    world.reset_host(0)
    world.step_host(np.zeros((1, 1), np.float32))
    with pytest.warns(UserWarning, match="the file does not say its environment, Unnamed-v0"):
        path = write_minari(world.dataset(), "a/unnamed-v0")
    assert load_dataset(path).env_id is None


def test_arguments_of_the_environment_are_in_the_files(root: Path, tmp_path: Path):
    given = dict(g=9.0, max_episode_steps=7)
    data = replace(walked(1).dataset(), env_kwargs=given)
    for path in (write_minari(data, "a/b-v0"), write_d4rl(data, tmp_path / "b.hdf5")):
        assert load_dataset(path).env_kwargs == given and load_dataset(path).env_id == "Pendulum-v1"
    spec = json.loads(json.loads((root / "a/b-v0/data/metadata.json").read_text())["env_spec"])
    assert spec["kwargs"]["g"] == 9 and spec["max_episode_steps"] == 7
    assert load_dataset(write_minari(walked(1).dataset(), "a/c-v0")).env_kwargs == {}
    assert Dataset.concatenate([data, walked(1).dataset()]).env_id is None


def test_one_row_and_returns_of_numpys(root: Path, tmp_path: Path):
    data = replace(walked(1, 1).dataset(), reference=(np.float32(0), np.float32(2)))
    assert load_dataset(write_minari(data, "a/one-v0")).score(1.0) == 50
    assert load_dataset(write_d4rl(data, tmp_path / "one.hdf5")).reference == (0, 2)
    with pytest.raises(DatasetError, match=r"reference=\(1.0, 1.0\): the returns .* must differ"):
        replace(data, reference=(1, 1)).score(1.0)


def test_a_horizon_is_a_number_of_steps(tmp_path: Path):
    path = write_d4rl(walked().dataset(), tmp_path / "x.hdf5")
    for horizon in (0, -5):
        with pytest.raises(ValueError, match=f"horizon={horizon} must be at least 1"):
            read_d4rl(path, horizon=horizon)
