"""Run directories: what is in them, what is refused before training, what stays after an accident."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import threading
import time
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import CSVOutputFormat, Logger

import polopt
from polopt.agent import NonFiniteError
from polopt.env import EnvError
from polopt.evaluate import checkpoints
from polopt.files import FileError, load_state, save_state
from polopt.run import CSVLog, RunError, new_run, reopen, resume, train_run

TINY: dict[str, Any] = {
    "num_envs": 2,
    "n_steps": 16,
    "batch_size": 16,
    "n_epochs": 1,
    "policy_kwargs": {"net_arch": [4]},
    "env_kwargs": {"max_episode_steps": 11},
}


def tiny(out: Path, steps: int = 96, **changes: Any) -> Any:
    return train_run("PPO", "Pendulum-v1", steps, out, **TINY | changes)


class Shaky(gymnasium.Env):
    """Works for a while, then does what it was told to."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, trouble: str = "raise", after: int = 50) -> None:
        self.trouble, self.after, self.steps = trouble, after, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs = np.full(2, self.steps % 7, np.float32)
        if self.steps > self.after:
            if self.trouble == "raise":
                raise ZeroDivisionError("the sensor fell off")
            obs[1] = np.nan
        return obs, 1.0, False, self.steps % 10 == 0, {}


@pytest.fixture(scope="module", autouse=True)
def shaky() -> Any:
    gymnasium.register("Shaky-v0", Shaky)
    yield
    del gymnasium.registry["Shaky-v0"]


def test_a_finished_run_holds_everything(tmp_path: Path):
    run = tiny(tmp_path / "run", seed=5, checkpoint_every=32, learning_rate="lin_1e-3")
    folder = run.folder
    assert run.finished and run.signal is None and run.model.num_timesteps == 96
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("events.")) == [
        "checkpoints",
        "config.json",
        "manifest.json",
        "model.zip",
        "progress.csv",
    ]
    assert [p.name for p in checkpoints(folder)] == ["step_00000064.zip", "step_00000096.zip"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["algorithm"], config["env"], config["num_envs"], config["seed"]) == ("PPO", "Pendulum-v1", 2, 5)
    assert (config["total_timesteps"], config["env_kwargs"]) == (96, {"max_episode_steps": 11})
    assert config["hyperparameters"] == run.model.config.to_json()
    assert config["hyperparameters"]["learning_rate"] == "lin_1e-3"
    [start] = json.loads((folder / "manifest.json").read_text())["starts"]
    assert start["packages"]["torch"] == torch.__version__ and start["threads"] == 1 and start["device"] == "cpu"
    assert start["cpu"]["cores"] >= 1
    with open(folder / "progress.csv", newline="") as f:
        lines = list(csv.DictReader(f))
    assert [int(line["time/total_timesteps"]) for line in lines] == [32, 64, 96]
    assert "rollout/ep_rew_mean" in lines[0]
    model = polopt.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), run.model.policy.parameters(), strict=True))


def test_the_model_of_a_run_is_the_model_of_learn(tmp_path: Path):
    run = tiny(tmp_path / "run", seed=1)
    model = polopt.PPO(env="Pendulum-v1", seed=1, **TINY).learn(96)
    assert all(torch.equal(a, b) for a, b in zip(model.policy.parameters(), run.model.policy.parameters(), strict=True))


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path):
    folder = tiny(tmp_path / "run").folder
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = resume(folder)
    assert again.finished and again.model.num_timesteps >= 96
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path):
    folder = tiny(tmp_path / "run").folder
    with pytest.raises(RunError, match=r"already holds a run.*--resume"):
        tiny(folder)


def test_a_directory_that_holds_other_files_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"notes\.txt"):
        tiny(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "mine" / "checkpoints").mkdir(parents=True)  # named as ours, and yet somebody's
    (tmp_path / "mine" / "checkpoints" / "step_100.zip").write_text("years of work")
    with pytest.raises(RunError, match="checkpoints"):
        tiny(tmp_path / "mine")
    assert (tmp_path / "mine" / "checkpoints" / "step_100.zip").read_text() == "years of work"


def test_a_run_that_a_callback_stopped_is_not_finished_and_goes_on(tmp_path: Path):
    session = new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", **TINY)
    run = session.train(callback=lambda scope, _: scope["self"].num_timesteps < 40)
    assert not run.finished and run.signal is None and run.model.num_timesteps < 96
    assert (tmp_path / "run" / "model.zip").exists()  # what there is can be used
    again = resume(tmp_path / "run")
    assert again.finished and again.model.num_timesteps >= 96


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot write"):
        new_run("PPO", "Pendulum-v1", 100, tmp_path / "run", **TINY)


def test_a_directory_below_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to"):
        new_run("PPO", "Pendulum-v1", 100, tmp_path / "file" / "run", **TINY)
    with pytest.raises(RunError, match="is a file"):
        new_run("PPO", "Pendulum-v1", 100, tmp_path / "file", **TINY)


def test_a_full_disk_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "total used free")(9, 9, 2**20))
    with pytest.raises(RunError, match="has 1 MB left, this run needs 64 MB"):
        new_run("PPO", "Pendulum-v1", 100, tmp_path / "run", **TINY)


def test_a_start_that_is_broken_off_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr("polopt.run.write_json", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").rglob("*")] == ["checkpoints", ".lock"]
    tiny(tmp_path / "run")


def test_a_start_that_is_killed_leaves_a_folder_that_can_be_begun_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing tidies up after SIGKILL: what lies there is known for a start's."""

    def killed(*_: Any) -> None:
        os.chdir(tmp_path / "run")
        shutil.copytree(".", "../left")
        raise KeyboardInterrupt

    for name in ("write_json", "_write_checkpoint"):
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(f"polopt.run.{name}", killed)
            tiny(tmp_path / "run")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "left" / "checkpoints" / ".step_00000000.zip.x7").write_text("half of it")
        assert (tmp_path / "left" / "progress.csv").exists()
        (tmp_path / "left" / "progress.csv").write_text("a,b\n1,2\n")  # of another library's, which a start never has
        with pytest.raises(RunError, match=r"holds other files \(progress\.csv\)"):
            tiny(tmp_path / "left")
        (tmp_path / "left" / "progress.csv").write_text("")
        assert tiny(tmp_path / "left").finished
        assert not list((tmp_path / "left" / "checkpoints").glob(".step*"))
        assert len(list((tmp_path / "left").glob("events.*"))) == 1
        shutil.rmtree(tmp_path / "left")


def test_two_starts_in_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both find it empty; the one that was faster keeps its run."""
    first: list[Any] = []

    def slow(name: str) -> Any:
        monkeypatch.undo()
        first.append(new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", seed=1, **TINY))
        return polopt.PPO

    monkeypatch.setattr("polopt.run.agent_class", slow)
    with pytest.raises(RunError, match="already holds a run"):
        new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", seed=2, **TINY)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 1
    assert first[0].train().finished


@pytest.mark.parametrize("file", ["config.json", "manifest.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_json_file_is_named(tmp_path: Path, file: str, text: str):
    folder = tiny(tmp_path / "run").folder
    (folder / "model.zip").unlink()
    (folder / file).write_text(text)
    with pytest.raises(FileError, match=rf"{file} is damaged"):
        resume(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_finished_run_is_looked_at_where_nothing_can_be_written(tmp_path: Path):
    folder = tiny(tmp_path / "run").folder
    for path in (folder / "checkpoints" / ".lock", folder / "checkpoints", folder):
        path.chmod(0o500)
    assert reopen(folder).finished


def test_a_drawn_seed_is_the_run_s(tmp_path: Path):
    session = new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", seed=None, **TINY)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == session.model.seed
    assert reopen(tmp_path / "run").model.seed == session.model.seed


def test_events_dated_ahead_of_the_clock_are_said(tmp_path: Path):
    new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", **TINY)
    path = checkpoints(tmp_path / "run")[-1]
    state = load_state(path, "model")
    (file,) = (tmp_path / "run").glob("events.*")
    later = file.name.replace(file.name.split(".")[3], str(int(time.time()) + 3600))
    state["log"]["events"] = {later: file.stat().st_size}
    file.rename(file.with_name(later))
    save_state(path, state, "model")
    with pytest.warns(UserWarning, match=r"dated 3\d\d\d s ahead of the clock"):
        reopen(tmp_path / "run")


def test_a_bad_hyperparameter_leaves_nothing_behind(tmp_path: Path):
    wrong: tuple[dict[str, Any], ...] = (
        {"gamma": 2.0},
        {"env_kwargs": {"nonsense": 1}},
        {"checkpoint_every": 0},
        {"checkpoint_seconds": float("nan")},
        {"checkpoint_seconds": "30"},
        {"seed": -1},
        {"tensorboard_log": "elsewhere"},
        {"_init_setup_model": False},
    )
    for changes in wrong:
        with pytest.raises((ValueError, TypeError)):
            new_run("PPO", "Pendulum-v1", 100, tmp_path / "run", **TINY | changes)
    with pytest.raises(ValueError, match="total_timesteps=0"):
        new_run("PPO", "Pendulum-v1", 0, tmp_path / "run", **TINY)
    with pytest.raises(ValueError, match="learning_rate is a function"):
        new_run("PPO", "Pendulum-v1", 100, tmp_path / "run", **TINY, learning_rate=lambda p: 1e-3 * p)
    assert not (tmp_path / "run").exists()


def test_resume_without_a_run(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        resume(tmp_path)


def test_the_first_signal_ends_the_iteration_with_a_checkpoint(tmp_path: Path):
    before = signal.getsignal(signal.SIGINT)
    session = new_run("PPO", "Pendulum-v1", 32 * 1000, tmp_path / "run", **TINY)
    update, calls = session.model.update, []

    def interrupting(batch: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return update(batch)

    session.model.update = interrupting
    run = session.train()
    assert not run.finished and run.signal == signal.SIGINT and len(calls) == 3
    assert checkpoints(run.folder)[-1].name == "step_00000096.zip"
    assert not (run.folder / "model.zip").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once(tmp_path: Path, request: pytest.FixtureRequest):
    # A job in a shell's background starts with SIGINT ignored, and the second signal acts as it would have before.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    session = new_run("PPO", "Pendulum-v1", 32 * 1000, tmp_path / "run", **TINY)

    def interrupting(batch: Any) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # Python runs a handler at the next bytecode that looks
        raise AssertionError("went on")

    session.model.update = interrupting
    with pytest.raises(KeyboardInterrupt):
        session.train()


def test_training_outside_the_main_thread(tmp_path: Path):
    runs: list[Any] = []
    thread = threading.Thread(target=lambda: runs.append(tiny(tmp_path / "run")))
    thread.start()
    thread.join()
    assert runs[0].finished


@pytest.mark.filterwarnings("ignore:resume is not exact")
@pytest.mark.parametrize("trouble, message", [("raise", "raised in step"), ("nan", "environment 0 at step")])
def test_an_environment_that_breaks_leaves_the_checkpoints(tmp_path: Path, trouble: str, message: str):
    kwargs = {**TINY, "num_envs": 1, "env_kwargs": {"trouble": trouble, "disable_env_checker": True}}
    with pytest.raises(EnvError, match=message):
        train_run("PPO", "Shaky-v0", 1000, tmp_path / "run", checkpoint_every=16, **kwargs)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step_00000032.zip", "step_00000048.zip"]
    assert reopen(tmp_path / "run").model.num_timesteps == 48


def test_divergence_leaves_the_checkpoints_finite(tmp_path: Path):
    session = new_run("PPO", "Pendulum-v1", 320, tmp_path / "run", **TINY, checkpoint_every=32)
    update = session.model.update

    def diverging(batch: Any) -> Any:
        metrics = update(batch)
        if session.model.num_timesteps == 128:
            with torch.no_grad():
                next(session.model.policy.parameters()).fill_(torch.nan)
        return metrics

    session.model.update = diverging
    with pytest.raises(NonFiniteError, match="not finite at step 128"):
        session.train()
    for path in checkpoints(tmp_path / "run"):
        state = load_state(path, "model")["parameters"]["policy"]
        assert all(bool(torch.isfinite(x).all()) for x in state.values())


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(tmp_path: Path):
    folder = tiny(tmp_path / "run", checkpoint_every=32).folder
    (folder / "model.zip").unlink()
    older, newest = checkpoints(folder)
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="truncated or damaged.*going on from the checkpoint before"):
        session = reopen(folder)
    assert session.model.num_timesteps == 64
    older.write_bytes(b"")
    with warnings.catch_warnings(), pytest.raises(RunError, match="no whole checkpoint"):
        warnings.simplefilter("ignore")
        reopen(folder)


def test_a_copy_among_the_checkpoints_is_left_alone(tmp_path: Path):
    session = new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", checkpoint_every=32, **TINY)
    copy = tmp_path / "run" / "checkpoints" / "step_00000000_keep.zip"
    shutil.copy(tmp_path / "run" / "checkpoints" / "step_00000000.zip", copy)
    assert session.train().finished and copy.exists()
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step_00000064.zip", "step_00000096.zip"]
    assert resume(tmp_path / "run").finished


def test_an_event_file_shorter_than_its_checkpoint_is_refused(tmp_path: Path):
    folder = tiny(tmp_path / "run").folder
    (folder / "model.zip").unlink()
    (file,) = folder.glob("events.*")
    os.truncate(file, 10)
    with pytest.raises(RunError, match=r"has 10 bytes, fewer than the \d+ at the checkpoint: restore the file"):
        reopen(folder)
    assert file.stat().st_size == 10


def test_what_is_loaded_of_a_run_is_its_last_whole_checkpoint(tmp_path: Path):
    tiny(tmp_path / "run", checkpoint_every=32)
    (tmp_path / "run" / "model.zip").unlink()
    newest, before = checkpoints(tmp_path / "run")[-1], checkpoints(tmp_path / "run")[-2]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged; taking the checkpoint before it"):
        model = polopt.load(tmp_path / "run")
    assert int(before.stem.removeprefix("step_")) == model.num_timesteps


def test_another_machine_is_said(tmp_path: Path):
    folder = tiny(tmp_path / "run").folder
    (folder / "model.zip").unlink()
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["starts"][0]["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="other packages.*not bit for bit"):
        resume(folder)
    assert len(json.loads(path.read_text())["starts"]) == 2


# -- progress.csv --


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def log(writer: Any, *records: dict[str, Any]) -> None:
    logger = Logger(None, [writer])
    for step, record in enumerate(records):
        for key, value in record.items():
            logger.record(key, value)
        logger.record("hidden", 1, exclude="csv")
        logger.dump(step)


RECORDS = ({"a": 1, "b": 0.1 + 0.2}, {"a": 2}, {"a": 3, "c": 'x,"y"'}, {"b": 4, "d": None})


def test_csv_reads_as_stable_baselines3s(tmp_path: Path):
    log(CSVLog(tmp_path / "ours.csv"), *RECORDS)
    log(CSVOutputFormat(str(tmp_path / "theirs.csv")), *RECORDS)
    assert rows(tmp_path / "ours.csv") == rows(tmp_path / "theirs.csv")
    assert list(rows(tmp_path / "ours.csv")[0]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("at", range(5))
def test_csv_cut_back_and_gone_on_with_is_the_uninterrupted_one(tmp_path: Path, at: int):
    log(CSVLog(tmp_path / "whole.csv"), *RECORDS)
    path = tmp_path / "cut.csv"
    first = CSVLog(path)
    log(first, *RECORDS[:at])
    position = json.loads(json.dumps(first.position()))
    log(first, *RECORDS[at:], {"late": 1})  # after the checkpoint
    log(CSVLog(path, cut_to=position), *RECORDS[at:])
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_csv_shorter_than_its_checkpoint_is_refused(tmp_path: Path):
    (tmp_path / "p.csv").write_text("a\n1\n")
    with pytest.raises(RunError, match="fewer than the 3"):
        CSVLog(tmp_path / "p.csv", cut_to={"columns": ["a"], "rows": 3})


def test_a_foreign_file_is_no_model(tmp_path: Path):
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(FileError):
        polopt.load(tmp_path / "x")


def test_a_run_is_extended(tmp_path: Path):
    tiny(tmp_path / "run", 96)
    with pytest.raises(ValueError, match="total_timesteps=64 is less than the 96"):
        resume(tmp_path / "run", total_timesteps=64)
    for words in (160.5, "160"):
        with pytest.raises(TypeError, match=f"total_timesteps={words!r} must be a whole number"):
            resume(tmp_path / "run", total_timesteps=words)
    (tmp_path / "run" / "checkpoints").rename(tmp_path / "away")
    with pytest.raises(RunError):
        resume(tmp_path / "run", total_timesteps=160)
    shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)
    (tmp_path / "away").rename(tmp_path / "run" / "checkpoints")
    assert reopen(tmp_path / "run").finished, "what was refused has changed nothing"
    longer = resume(tmp_path / "run", total_timesteps=160)
    assert longer.finished and longer.model.num_timesteps == 160
    assert reopen(tmp_path / "run").finished and reopen(tmp_path / "run").total_timesteps == 160


def test_prior_data_is_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from polopt.dataset import Collector
    from polopt.dataset_files import write_d4rl
    from polopt.rollout import rollout

    worlds = Collector(polopt.make_env("Pendulum-v1", 1, seed=0))
    actor = polopt.SAC("MlpPolicy", worlds, seed=0, learning_starts=1000, policy_kwargs={"net_arch": [4]})
    rollout(worlds, actor, worlds.reset_host(), 50)
    write_d4rl(worlds.dataset(), tmp_path / "data.hdf5")
    small = dict(
        policy_kwargs={"net_arch": [4]},
        n_critics=2,
        learning_starts=5,
        batch_size=8,
        buffer_size=100,
        checkpoint_every=10,
    )
    with pytest.raises(ValueError, match="does not take prior data"):
        new_run("PPO", "Pendulum-v1", 20, tmp_path / "no", prior=tmp_path / "data.hdf5", **TINY)
    with pytest.raises(TypeError, match=r"prior=Dataset\(.*must be an id or a path"):
        new_run("RLPD", "Pendulum-v1", 20, tmp_path / "no", prior=worlds.dataset(), **small)
    monkeypatch.chdir(tmp_path)
    run = train_run("RLPD", "Pendulum-v1", 20, tmp_path / "run", prior="data.hdf5", **small)
    assert len(run.model.memory.second) == 50
    named = json.loads((tmp_path / "run" / "config.json").read_text())["prior"]
    assert named == {"source": str(tmp_path / "data.hdf5"), "sha256": worlds.dataset().hash}
    (tmp_path / "data.hdf5").unlink()  # a run goes on without it: its rows are in the checkpoint
    again = resume(tmp_path / "run", total_timesteps=24)
    (tmp_path / "run" / "model.zip").unlink()
    loaded = polopt.load(tmp_path / "run", env="Pendulum-v1")  # of the checkpoint, and of its rows
    for model in (again.model, loaded):
        assert len(model.memory.second) == 50 and len(model.memory) == 24


@pytest.mark.skipif(os.name == "nt", reason="no flock")
def test_two_processes_cannot_train_in_one_directory(tmp_path: Path):
    import fcntl

    session, folder = new_run("PPO", "Pendulum-v1", 96, tmp_path / "run", **TINY), tmp_path / "run"
    for name, text in (("model.zip", "a model"), ("manifest.json", '{"starts": []}'), ("checkpoints/.lock", "")):
        (folder / name).write_text(text)  # the other's
    files = lambda: {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith("events.")}
    before = files()
    with open(folder / "checkpoints" / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is training"):
            session.train()
        with pytest.raises(RunError, match="another process is training"):
            reopen(folder)
    assert files() == before
    assert resume(folder).finished


def test_a_session_that_another_has_passed_is_refused(tmp_path):
    from polopt.run import new_run, reopen

    new_run("PPO", "CartPole-v1", 64, tmp_path / "r", n_steps=32, batch_size=32, policy="MlpPolicy")
    first, second = reopen(tmp_path / "r"), reopen(tmp_path / "r")
    assert first.train().finished
    lines = (tmp_path / "r" / "progress.csv").read_text()
    with pytest.raises(RunError, match="has gone on since this session was opened"):
        second.train()
    assert (tmp_path / "r" / "progress.csv").read_text() == lines
