"""Environment steps per second under random actions: polopt and its peers in turn, in one process.

Short windows alternate, so that whatever else the machine does falls on all alike: only the ratios mean anything. A
ratio is the median over the rounds of polopt's figure over the peer's in the same round.

    python benchmarks/env_throughput.py --envs HalfCheetah-v5 Hopper-v5 --num-envs 1 64 --rounds 9 --seconds 0.5

Each figure is given twice, by the wall clock and by the processor time of the process: the second says how much work a
step is, whatever else runs, but nothing of how well threads share it.

Peers: Gymnasium's ``SyncVectorEnv`` and (where it has one) its own vectorized environment, stable-baselines3's
``DummyVecEnv``, EnvPool if it is installed, and for MuJoCo tasks the bare ``mujoco.batch.Batch.step``: the physics of
the same states and actions, without observation, reward or reset.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from polopt.envs.make import make_env
from polopt.envs.mujoco import MujocoEnv
from recording import RECORDS, made_with, write
from stable_baselines3.common.vec_env import DummyVecEnv

MUJOCO = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"]
RECORD = RECORDS / "env_throughput.json"
ACTIONS = 512
"""How many random joint actions are drawn beforehand, to be cycled through."""

PACKAGES = ("mujoco", "gymnasium", "stable_baselines3", "envpool", "numpy", "torch")

Act = Callable[[np.ndarray], object]


def polopt(id: str, n: int, threads: int) -> Act | None:
    env = make_env(id, n, seed=0, **({"threads": threads} if id in MUJOCO else {}))
    if env.host:
        env.reset_host()
        return env.step_host
    env.reset()
    return lambda action: env.step(torch.from_numpy(action))


def polopt_torch(id: str, n: int, threads: int) -> Act | None:
    if id in MUJOCO:
        return None
    env = make_env(id, n, seed=0, backend="torch")
    env.reset()
    return lambda action: env.step(torch.from_numpy(action))


def sync(id: str, n: int, threads: int) -> Act | None:
    if n > 1024:
        return None  # minutes to build
    envs = SyncVectorEnv([lambda: gymnasium.make(id)] * n)
    envs.reset(seed=0)
    return envs.step


def vectorized(id: str, n: int, threads: int) -> Act | None:
    if gymnasium.spec(id).vector_entry_point is None:
        return None
    envs = gymnasium.make_vec(id, num_envs=n, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    return envs.step


def dummy(id: str, n: int, threads: int) -> Act | None:
    if n > 1024:
        return None
    envs = DummyVecEnv([lambda: gymnasium.make(id)] * n)
    envs.seed(0)
    envs.reset()
    return envs.step


def envpool(id: str, n: int, threads: int) -> Act | None:
    if importlib.util.find_spec("envpool") is None:
        return None
    import envpool

    envs = envpool.make_gymnasium(id, num_envs=n, num_threads=min(threads, n), seed=0)
    envs.reset()
    return envs.step


def physics(id: str, n: int, threads: int) -> Act | None:
    if id not in MUJOCO:
        return None
    from mujoco.batch import Batch

    env = make_env(id, n, seed=0, threads=threads)
    assert isinstance(env, MujocoEnv)
    env.reset_host()
    rng = np.random.default_rng(1)
    for _ in range(20):
        env.step_host(rng.uniform(env.action_space.low, env.action_space.high, (n, *env.action_space.shape)))
    qpos, qvel = env.get_state()
    batch = Batch(env.model, n, min(threads, n))
    ctrl, position, velocity, t = batch.bind("ctrl"), batch.bind("qpos"), batch.bind("qvel"), 0

    def step(action: np.ndarray) -> None:
        nonlocal t
        if t % 10 == 0:  # so that the worlds stay where episodes are
            position[:], velocity[:] = qpos, qvel
        t += 1
        ctrl[:] = action
        batch.step(None, env.frame_skip)

    return step


CONTENDERS: dict[str, Callable[[str, int, int], Act | None]] = {
    "polopt": polopt,
    "polopt torch": polopt_torch,
    "Gymnasium Sync": sync,
    "Gymnasium vectorized": vectorized,
    "SB3 Dummy": dummy,
    "EnvPool": envpool,
    "Batch.step": physics,
}
"""Each makes N worlds of an id and returns what steps them, or None where it has none."""


def draw_actions(id: str, n: int) -> np.ndarray:
    """``[ACTIONS, n, ...]`` uniform, in the dtype of the action space."""
    space = gymnasium.make(id).action_space
    rng = np.random.default_rng(0)
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(space.n, size=(ACTIONS, n))
    return rng.uniform(space.low, space.high, (ACTIONS, n, *space.shape)).astype(space.dtype)


def window(step: Act, actions: np.ndarray, seconds: float) -> tuple[float, float]:
    """Environment steps per second, and per second of processor time, over at least ``seconds``."""
    t, start, work = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        for _ in range(max(1, 64 // actions.shape[1])):
            step(actions[t % ACTIONS])
            t += 1
    return t * actions.shape[1] / elapsed, t * actions.shape[1] / (time.process_time() - work)


def busy() -> float:
    """Processor seconds used by everything on this machine so far (Linux)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience: float, cores: float = 0.3) -> None:
    """Until other processes use less than so many cores, but no longer than ``patience`` [s]."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        before, start = busy(), time.perf_counter()
        time.sleep(0.2)
        if busy() - before < cores * (time.perf_counter() - start):
            return


def measure(id: str, n: int, threads: int, rounds: int, seconds: float, patience: float) -> dict[str, object]:
    """One row of the table: figures of every round, medians, and the ratios of polopt to each peer."""
    actions = draw_actions(id, n)
    steps = {name: step for name, make in CONTENDERS.items() if (step := make(id, n, threads)) is not None}
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for step in steps.values():
        window(step, actions, seconds / 4)
    for _ in range(rounds):
        if patience:
            wait_for_quiet(patience)
        for name, step in steps.items():
            figures[name].append(window(step, actions, seconds))
    row: dict[str, object] = {"env": id, "num_envs": n, "threads": min(threads, n) if id in MUJOCO else 1}
    for k, clock in enumerate(("wall", "cpu")):
        row[clock] = {
            "steps_per_second": {name: [round(x[k]) for x in values] for name, values in figures.items()},
            "median": {name: round(statistics.median(x[k] for x in values)) for name, values in figures.items()},
            "ratio": {
                name: round(statistics.median(a[k] / b[k] for a, b in zip(figures["polopt"], values, strict=True)), 3)
                for name, values in figures.items()
                if name != "polopt"
            },
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=MUJOCO, metavar="ID")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 64], metavar="N")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each window")
    parser.add_argument("--threads", type=int, default=2, help="physics threads, EnvPool's too")
    parser.add_argument(
        "--patience", type=float, default=0, help="wait so long [s] for others to rest, before each round"
    )
    parser.add_argument("--out", type=Path, default=RECORD, help="rows of other envs and sizes are kept there")
    args = parser.parse_args()
    torch.set_num_threads(1)

    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    for n in args.num_envs:
        for id in args.envs:
            about = made_with("mujoco", "gymnasium", "stable-baselines3", "envpool", "numpy", "torch")
            row = measure(id, n, args.threads, args.rounds, args.seconds, args.patience) | {"measured": about}
            for clock in ("wall", "cpu"):
                ratios = "  ".join(f"{name} {ratio:.2f}x" for name, ratio in row[clock]["ratio"].items())
                print(
                    f"{id:14} N={n:<5} {clock:4} polopt {row[clock]['median']['polopt']:>9,}/s   {ratios}", flush=True
                )
            rows = [old for old in rows if (old["env"], old["num_envs"]) != (id, n)] + [row]
            write(args.out, {"rows": rows})


if __name__ == "__main__":
    main()
