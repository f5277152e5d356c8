"""Gradient updates per second of SAC and TD3: polopt (eager and compiled) beside stable-baselines3 and SBX, in turn.

    python benchmarks/off_policy_throughput.py                       # the whole table
    python benchmarks/off_policy_throughput.py --cases SAC --rounds 5 --updates 100
    python benchmarks/off_policy_throughput.py --sbx OTHER/bin/python       # an interpreter that has sbx-rl (and so JAX)

Batch 256, 2 x 256 ReLU, observations of 17 numbers, actions of 6, one thread, one update per call, from a replay filled
with noise. In each round every contender makes the same number of updates; a figure is updates over CPU time (fair on a
machine that others use too), ratios are taken within a round, and their median is quoted. ``matmul`` is the same update's
matrix products alone, forwards and backwards, without anything between them (and without those of a single row or column,
which are sums): nothing that computes them can be faster.
SBX takes part where an interpreter with it is named; it makes one update a call too, its graph compiled for one thread.
``RLPD`` compares its own critic steps, of 10 critics with those of 2 (one policy step in 20).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OBS, ACT, BATCH, HIDDEN, FILLED = 17, 6, 256, 256, 20_000
CASES = {
    "SAC": ("sb3", "eager", "compiled", "matmul"),
    "TD3": ("sb3", "eager", "compiled", "matmul"),
    "RLPD": ("eager 2 critics", "eager 10 critics", "compiled 2 critics", "compiled 10 critics"),
}
RECORD = Path(__file__).parent / "records" / "off_policy_throughput.json"


def world() -> Any:
    import gymnasium as gym
    import numpy as np

    class Noise(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (ACT,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(OBS, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(OBS, np.float32), 0.0, False, False, {}

    return Noise()


def products(case: str) -> list[tuple[int, int, int, int]]:
    """``(members, m, k, n)`` of every matrix product of one update (of TD3: the mean over its delay of 2)."""
    B, H = BATCH, HIDDEN

    def network(size: int, out: int, members: int, weights: bool, inputs: bool, backward: bool) -> list[Any]:
        layers = [(size, H), (H, H), (H, out)]
        rows = [(members, B, a, b) for a, b in layers]
        if backward:
            rows += [(members, a, B, b) for a, b in layers] if weights else []
            rows += [(members, B, b, a) for a, b in (layers if inputs else layers[1:])]
        return rows

    heads = 2 * ACT if case == "SAC" else ACT
    next_action, target = network(OBS, heads, 1, False, False, False), network(OBS + ACT, 1, 2, False, False, False)
    critic = network(OBS + ACT, 1, 2, True, False, True)
    actor = network(OBS, heads, 1, True, False, True)
    actor += network(OBS + ACT, 1, 2 if case == "SAC" else 1, False, True, True)
    return 2 * (next_action + target + critic) + (2 if case == "SAC" else 1) * actor


def updater(case: str, name: str) -> Callable[[int], None]:
    """A function that makes so many updates."""
    import numpy as np
    import torch

    arch = dict(net_arch=[HIDDEN, HIDDEN])
    if name == "matmul":
        made = [
            (torch.randn(e, m, k), torch.randn(e, k, n), torch.empty(e, m, n))
            for e, m, k, n in products(case)
            if min(m, k, n) > 1
        ]

        def multiply(updates: int) -> None:
            for _ in range(updates // 2):  # the list is that of two updates
                for a, b, out in made:
                    torch.bmm(a, b, out=out)

        return multiply
    if name in ("sb3", "sbx"):
        import importlib

        from stable_baselines3.common.logger import Logger

        peer = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[name])
        model = getattr(peer, case)("MlpPolicy", world(), policy_kwargs=arch, device="cpu", seed=0, buffer_size=FILLED)
        model.set_logger(Logger(None, []))
        buffer, g = model.replay_buffer, np.random.default_rng(0)
        for array in (buffer.observations, buffer.next_observations, buffer.rewards):
            array[:] = g.normal(size=array.shape)
        buffer.actions[:] = g.uniform(-1, 1, buffer.actions.shape)
        buffer.full = True

        def train(updates: int) -> None:
            for _ in range(updates):
                model.train(gradient_steps=1, batch_size=BATCH)

        return train
    import polopt

    more: dict[str, Any] = {}
    if case == "RLPD":
        more = dict(n_critics=int(name.split()[1]), prior_share=0.0)
    model = getattr(polopt, case)(
        "MlpPolicy",
        world(),
        policy_kwargs=arch,
        seed=0,
        buffer_size=FILLED,
        compile=name.startswith("compiled"),
        **more,
    )
    table = model.memory.table
    table.normal_(generator=torch.Generator().manual_seed(0))
    table[:, OBS : OBS + ACT] = table[:, OBS : OBS + ACT].tanh()
    table[:, -1] = 0.99
    model.memory.count = FILLED

    def steps(updates: int) -> None:
        for _ in range(updates):
            model.train_steps(1)

    return steps


def worker(case: str, name: str, updates: int) -> None:
    """Serve rounds: a line on stdin runs one, its updates per CPU second go to stdout."""
    import torch

    torch.set_num_threads(1)
    update = updater(case, name)
    update(40)
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        update(updates)
        print(json.dumps(updates / (time.process_time() - started)), flush=True)


ONE_THREAD = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1"}


def measure(case: str, rounds: int, updates: int, sbx: str | None) -> dict[str, Any]:
    processes = {}
    names = [*CASES[case][:1], "sbx", *CASES[case][1:]] if sbx and "sb3" in CASES[case] else CASES[case]
    for name in names:
        python = sbx if name == "sbx" else sys.executable
        processes[name] = subprocess.Popen(
            [python, "-W", "ignore", __file__, "--worker", json.dumps([case, name, updates])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD,
        )  # fmt: skip
        if json.loads(processes[name].stdout.readline()) != "ready":
            raise RuntimeError(f"{name} did not start")
    figures: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            process.stdin.write("\n")
            process.stdin.flush()
            figures[name].append(json.loads(process.stdout.readline()))
    for process in processes.values():
        process.stdin.close()
        process.wait()

    def ratio(a: str, b: str) -> dict[str, float]:
        each = [x / y for x, y in zip(figures[a], figures[b], strict=True)]
        return dict(median=statistics.median(each), least=min(each), most=max(each))

    first = CASES[case][0]
    ratios = {f"{name} / {first}": ratio(name, first) for name in names[1:]}
    if "sbx" in names:
        ratios |= {f"{name} / sbx": ratio(name, "sbx") for name in ("eager", "compiled")}
    if "matmul" in figures:
        ratios |= {f"{name} / matmul": ratio(name, "matmul") for name in ("sb3", "eager", "compiled")}
    else:
        ratios["compiled 2 critics / compiled 10 critics"] = ratio("compiled 2 critics", "compiled 10 critics")
    return dict(
        case=case,
        updates_per_second={k: statistics.median(v) for k, v in figures.items()},
        ratios=ratios,
        figures=figures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=100, help="updates a round, even")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--sbx", help="an interpreter that has sbx-rl")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(*json.loads(args.worker))
    rows = []
    for case in args.cases:
        row = measure(case, args.rounds, args.updates, args.sbx)
        rows.append(row)
        print(case, "  ".join(f"{k} {v:.0f}/s" for k, v in row["updates_per_second"].items()), flush=True)
        for k, v in row["ratios"].items():
            print(f"    {k:45} {v['median']:.2f}  ({v['least']:.2f} to {v['most']:.2f})", flush=True)
    from recording import made_with, write  # not above: a peer's environment need not have polopt

    about = made_with("torch", "numpy", "stable-baselines3")
    record = dict(benchmark="off_policy_throughput", **about, threads=1, clock="cpu", rows=rows)
    write(args.record, record)


if __name__ == "__main__":
    main()
