"""A run killed with SIGKILL at a random moment and resumed ends exactly as the run that was never killed."""

from __future__ import annotations

import csv
import multiprocessing
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import polopt
from polopt import segments
from polopt.cli import main
from polopt.dataset import Collector, Dataset
from polopt.dataset_files import write_d4rl
from polopt.evaluate import checkpoints
from polopt.files import load_state
from polopt.run import train_run

NET = {"net_arch": [8], "log_std_init": -1.0}
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 24, "n_epochs": 2, "num_envs": 2, "seed": 3}
NORMALIZED = {"normalize_obs": True, "normalize_reward": True, "learning_rate": "lin_1e-3", "clip_range": "lin_0.3"}

# Everything that a checkpoint has to hold: normaliser and schedules, episodes that end often, worlds whose state can be
# read (native, torch, Gymnasium's MuJoCo) and worlds whose state cannot (any other of Gymnasium's: replayed).
RUNS: dict[str, dict[str, Any]] = {
    "native": {"env": "Hopper-v5", "env_kwargs": {"threads": 1}, "policy_kwargs": NET, **SMALL, **NORMALIZED},
    "classic": {"env": "Pendulum-v1", "env_kwargs": {"max_episode_steps": 23}, "policy_kwargs": NET, **SMALL},
    "torch": {
        "env": "Pendulum-v1",
        "env_kwargs": {"backend": "torch", "max_episode_steps": 23},
        "policy_kwargs": NET,
        **SMALL,
        **NORMALIZED,
    },
    "gymnasium-mujoco": {"env": "Hopper-v5", "env_kwargs": {"backend": "gymnasium"}, "policy_kwargs": NET, **SMALL},
    # Draws made once per rollout, and a policy without a likelihood.
    "flow": {
        "algorithm": "FPO",
        "env": "Pendulum-v1",
        "env_kwargs": {"max_episode_steps": 23},
        "policy_kwargs": {"net_arch": [8]},
        **SMALL,
    },
    "gymnasium-replayed": {"env": "CartPole-v1", "env_kwargs": {"backend": "gymnasium"}, **SMALL, **NORMALIZED},
    # Two agents, two memories, two generators, and a model that is fitted several times.
    "model-based": {
        "algorithm": "MBPO", "env": "Pendulum-v1", "env_kwargs": {"max_episode_steps": 4}, "total_timesteps": 80 * 16,
        "checkpoint_every": 16 * 7, "policy_kwargs": {"net_arch": [8]}, "seed": 3, "learning_starts": 60, "train_freq": 4,
        "gradient_steps": 1, "batch_size": 32, "buffer_size": 700, "model_train_freq": 200, "rollout_batch_size": 100,
        "epoch_length": 400, "rollout_schedule": (0, 2, 1, 3), "num_networks": 3, "num_elites": 2, "model_arch": (8,),
        "model_weight_decay": 1e-5, "model_max_passes": 3,
    },
}  # fmt: skip
STEPS = 64 * 80
# Methods with a memory log less often; what they learn from alone is no part of their checkpoints.
OFF_POLICY: dict[str, dict[str, Any]] = {
    "SAC": {"learning_starts": 50, "env_kwargs": {"max_episode_steps": 23}, "total_timesteps": 1100},
    # Noise that an episode holds, whose steps are iterations of their own.
    "SAC, episodes": {
        "algorithm": "SAC", "learning_starts": 50, "env_kwargs": {"max_episode_steps": 23}, "total_timesteps": 1100,
        "use_sde": True, "sde_sample_freq": 9, "use_sde_at_warmup": True, "train_freq": (1, "episode"), "gradient_steps": -1,
    },
    "PRDC": {"dataset": "pendulum.hdf5", "total_timesteps": 3000, "neighbours": 8},
}  # fmt: skip
TIMES = ("time/fps", "time/time_elapsed")


def arguments(out: Path, run: dict[str, Any]) -> dict[str, Any]:
    return {"algorithm": "PPO", "total_timesteps": STEPS, "out": str(out), "checkpoint_every": 64 * 7, **run}


@pytest.fixture(scope="module")
def processes() -> Any:
    """Fresh processes, forked from one that has everything imported and nothing started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["polopt.run", "polopt.agents.on_policy.ppo", "polopt.envs.mujoco", "torch._dynamo"])
    return context


def lines(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as f:
        return list(csv.DictReader(f))


def wait_for_lines(folder: Path, least: int, process: Any) -> None:
    while not (folder / "config.json").exists() or len((folder / "progress.csv").read_bytes().splitlines()) <= least:
        assert process.is_alive(), "the run ended before it could be killed"
        time.sleep(0.002)


def kill_somewhere(
    processes: Any, folder: Path, run: dict[str, Any], rng: random.Random, lines: tuple[int, int] = (8, 40)
) -> None:
    process = processes.Process(target=train_run, kwargs=arguments(folder, run))
    process.start()
    try:
        wait_for_lines(folder, rng.randrange(*lines), process)
        time.sleep(rng.uniform(0.0, 0.03))
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "model.zip").exists()


def any_checkpoint(folder: Path) -> bool:
    """Whether it was killed after its first checkpoint: else to go on is to begin anew."""
    return any(int(path.stem.removeprefix("step_")) for path in checkpoints(folder))


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Bit for bit, whatever the tree holds."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), where
    else:
        assert a == b, where


def assert_same_run(one: Path, two: Path) -> None:
    assert_same(load_state(one / "model.zip", "model"), load_state(two / "model.zip", "model"))
    last, other = checkpoints(one)[-1], checkpoints(two)[-1]
    assert last.name == other.name
    mine, theirs = (load_state(path, "model", partial(segments.read, path.parent)) for path in (last, other))
    assert mine["log"]["progress"] == theirs["log"]["progress"]
    del mine["log"], theirs["log"]  # event files are named by time and host
    assert_same(mine, theirs)
    first, second = lines(one), lines(two)
    assert len(first) == len(second) > 2
    assert list(first[0]) == list(second[0])
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}
    assert scalars(one) == scalars(two)


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard shows, rates apart."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [
        (tag, e.step, e.value)
        for tag in sorted(events.Tags()["scalars"])
        if tag not in TIMES
        for e in events.Scalars(tag)
    ]


@pytest.mark.filterwarnings("ignore:batch_size")
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_is_the_uninterrupted_run(name: str, processes: Any, tmp_path: Path):
    run = RUNS[name]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(**arguments(whole, run))
    kill_somewhere(processes, killed, run, random.Random(name))
    assert any_checkpoint(killed)
    assert main(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed)


@pytest.mark.parametrize("name", OFF_POLICY)
def test_killed_and_resumed_with_a_memory(name: str, processes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path / "cache"))
    run = {"algorithm": name, "env": "Pendulum-v1", "policy_kwargs": {"net_arch": [8]}, "seed": 3, "batch_size": 16}
    run |= {"checkpoint_every": 310} | OFF_POLICY[name]
    if "dataset" in run:
        run["dataset"] = write_d4rl(recorded(), tmp_path / run["dataset"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(**arguments(whole, run))
    kill_somewhere(processes, killed, run, random.Random(name), lines=(1, 3) if "dataset" in run else (5, 8))
    assert any_checkpoint(killed)
    assert main(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed)


def recorded() -> Dataset:
    """Random actions in the pendulum's world."""
    world = Collector(polopt.make_env("Pendulum-v1", max_episode_steps=50))
    rng = np.random.default_rng(0)
    world.reset_host(0)
    for _ in range(400):
        world.step_host(rng.uniform(-2, 2, (1, 1)).astype(np.float32))
    return world.dataset()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:batch_size")
def test_compiled(processes: Any, tmp_path: Path):
    run = RUNS["native"] | {"compile": True}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_run(**arguments(whole, run))
    kill_somewhere(processes, killed, run, random.Random(1))
    assert main(["train", "--resume", str(killed)]) == 0
    assert_same_run(whole, killed)
