"""TRPO end to end, environment steps per second: polopt beside sb3-contrib at the same settings, in turn.

    python benchmarks/trpo_throughput.py
    python benchmarks/trpo_throughput.py --env Hopper-v5 --rounds 7

Both train for real, on one thread, from the same seed, with 2 x 64 tanh networks and sb3-contrib's defaults (1 world x
2048 steps, 15 iterations of conjugate gradient, 10 critic passes in minibatches of 128). Each has run two iterations
before the first round. In a round each runs two iterations; its figure is steps over CPU time, which is fair on a machine
that others use too. The ratio is taken within each round, and the median is quoted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

STEPS, ITERATIONS = 2048, 2
RECORD = Path(__file__).parent / "records" / "trpo_throughput.json"


def contenders(env: str) -> dict[str, Any]:
    """Both models, two iterations old, so that nothing is left to set up."""
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env

    import polopt

    models = {
        "polopt": polopt.TRPO("MlpPolicy", env, seed=0, threads=1),
        "sb3-contrib": TRPO("MlpPolicy", make_vec_env(env, 1, seed=0), seed=0, device="cpu"),
    }
    return {name: model.learn(2 * STEPS) for name, model in models.items()}


def rate(model: Any) -> dict[str, float]:
    """Steps per second of CPU and of wall time, over the next iterations."""
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(ITERATIONS * STEPS, reset_num_timesteps=False)
    steps = ITERATIONS * STEPS
    return {"cpu": steps / (time.process_time() - cpu), "wall": steps / (time.perf_counter() - wall)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()

    torch.set_num_threads(1)
    models = contenders(args.env)
    rounds = []
    for i in range(args.rounds):
        order = list(models) if i % 2 == 0 else list(models)[::-1]
        figures = {name: rate(models[name]) for name in order}
        rounds.append(figures)
        print(
            "  ".join(f"{name} {figures[name]['cpu']:.0f}/s" for name in models),
            f"ratio {figures['polopt']['cpu'] / figures['sb3-contrib']['cpu']:.2f}",
            flush=True,
        )
    ratios = [r["polopt"]["cpu"] / r["sb3-contrib"]["cpu"] for r in rounds]
    record = {
        "what": "TRPO, environment steps per second, rollout and update, one thread",
        "env": args.env,
        "unit": "steps/s",
        "median": {
            name: {clock: statistics.median(r[name][clock] for r in rounds) for clock in ("cpu", "wall")}
            for name in models
        },
        "ratio_of_cpu_rates": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "rounds": rounds,
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "versions": {
            name: version(name)
            for name in ("polopt", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco")
        },
    }
    args.record.parent.mkdir(parents=True, exist_ok=True)
    args.record.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratio_of_cpu_rates"]))


if __name__ == "__main__":
    main()
