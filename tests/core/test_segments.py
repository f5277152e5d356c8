"""A memory's rows beside the checkpoints: each written once, none missing, none kept that nobody needs."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import polopt
from polopt import segments
from polopt.batch import Batch
from polopt.evaluate import checkpoints
from polopt.files import FileError, load_state, save_state
from polopt.memory import Replay
from polopt.run import new_run, reopen

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


def experience(steps: int, start: int) -> Batch:
    """Rows that say which they are."""
    number = torch.arange(start, start + steps, dtype=torch.float32).unsqueeze(1)
    no = torch.zeros(steps, 1, dtype=torch.bool)
    obs = number.unsqueeze(-1).expand(-1, -1, 3)
    return Batch(obs=obs, action=obs[..., :2], reward=number, next_obs=obs + 1, terminated=no, truncated=no)


def checkpoint(folder: Path, name: str, memory: Replay) -> Path:
    path = folder / name
    state = {"memory": memory.state_dict()}
    save_state(path, state, "test", apart=lambda key, rows: segments.write(folder, key, rows))
    return path


@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(1, 12), adds=st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_every_checkpoint_kept_gives_its_memory_back(tmp_path_factory, capacity, adds):
    folder, memory, added, kept = tmp_path_factory.mktemp("run"), Replay(capacity, OBS, ACT), 0, []
    for i, n in enumerate(adds):
        if n:
            memory.add(experience(n, added))
        added += n
        kept.append((checkpoint(folder, f"{i}.zip", memory), memory.table[: len(memory)].clone(), memory.position))
        for path, *_ in kept[:-2]:
            path.unlink(missing_ok=True)
        kept = kept[-2:]
        segments.prune(folder, [path for path, *_ in kept])
        for path, table, position in kept:
            other = Replay(capacity, OBS, ACT)
            other.load_state_dict(load_state(path, "test", segments.beside(path))["memory"])
            assert torch.equal(other.table[: len(other)], table) and other.position == position
        stored = sum(p.stat().st_size > 0 for p in (folder / "rows").glob("*/*")) if (folder / "rows").exists() else 0
        assert stored <= 2 + 2 * capacity  # two checkpoints need no more, however long the run


def test_rows_are_written_once_and_missing_ones_are_named(tmp_path):
    memory = Replay(100, OBS, ACT)
    memory.add(experience(30, 0))
    checkpoint(tmp_path, "a.zip", memory)
    memory.add(experience(5, 30))
    path = checkpoint(tmp_path, "b.zip", memory)
    written = sorted((tmp_path / "rows" / "memory.table").iterdir())
    assert [p.stem for p in written] == ["000000000000-000000000030", "000000000030-000000000035"]
    assert path.stat().st_size < written[0].stat().st_size + 1500  # the rows are not in it
    written[1].write_bytes(written[1].read_bytes()[:-4])
    rows = load_state(path, "test", segments.beside(path))["memory"]["table"]  # nothing is read yet
    with pytest.raises(FileError, match="damaged"):
        load_state(path, "test", partial(segments.read, tmp_path))
    with pytest.raises(FileError, match="damaged"):
        len(rows)
    written[1].unlink()
    with pytest.raises(FileError, match="rows 30 to 35"):
        memory.load_state_dict({"table": rows, "position": 35, "added": 35, "pending": []})


def test_what_came_after_a_checkpoint_is_cut(tmp_path):
    memory = Replay(100, OBS, ACT)
    memory.add(experience(30, 0))
    path = checkpoint(tmp_path, "a.zip", memory)
    memory.add(experience(5, 30))
    checkpoint(tmp_path, "b.zip", memory)
    (tmp_path / "rows" / "memory.table" / ".half").write_bytes(b"")
    segments.cut(path)
    assert len(list((tmp_path / "rows" / "memory.table").iterdir())) == 1
    again = Replay(100, OBS, ACT)
    again.load_state_dict(load_state(path, "test", segments.beside(path))["memory"])
    again.add(experience(7, 100))  # another future
    path = checkpoint(tmp_path, "b.zip", again)
    assert load_state(path, "test", segments.beside(path))["memory"]["table"].table[-1, 5] == 106


def test_a_damaged_last_checkpoint_leaves_the_one_before_whole(tmp_path):
    run = new_run(
        "SAC", "Pendulum-v1", 60, tmp_path / "run", checkpoint_every=20, learning_starts=10, buffer_size=25, batch_size=4,
        policy_kwargs=dict(net_arch=[8]),
    )  # fmt: skip
    run.train()
    older, newest = checkpoints(tmp_path / "run")
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(UserWarning, match="the checkpoint before"):
        session = reopen(tmp_path / "run")
    assert session.model.num_timesteps == 40 and len(session.model.memory) == 25
    done = session.train()
    assert done.finished and len(done.model.memory) == 25
    assert polopt.load(older, env="Pendulum-v1").num_timesteps == 40


def test_a_policy_is_loaded_without_its_replay(tmp_path, monkeypatch):
    small = dict(policy_kwargs=dict(net_arch=[8]), learning_starts=10, buffer_size=100, batch_size=4)
    run = new_run("SAC", "Pendulum-v1", 20, tmp_path / "run", checkpoint_every=10, **small)
    model = run.train().model
    (tmp_path / "run" / "model.zip").unlink()  # as of one that still trains
    monkeypatch.chdir(tmp_path)
    loaded, other = polopt.load("run"), polopt.SAC.load(checkpoints(Path("run"))[-1])
    monkeypatch.chdir("/")  # where the rows lie does not depend on where one is
    obs = model.observation_space.sample()
    for one in (loaded, other):
        assert one.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]
    loaded.save(tmp_path / "full", full=True)  # they are wanted now
    loaded.set_env("Pendulum-v1")
    whole = polopt.load(tmp_path / "full", env="Pendulum-v1")
    for one in (loaded, whole):
        assert len(one.memory) == 20 and torch.equal(one.memory.table[:20], model.memory.table[:20])
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "rows")
    assert (
        polopt.load(tmp_path / "run").predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]
    )
    with pytest.raises(FileError, match="rows 0 to 20"):
        other.set_env("Pendulum-v1")
