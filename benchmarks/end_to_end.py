"""Whole training, environment steps per second: polopt beside its peer at the same settings, in turn.

    python benchmarks/end_to_end.py TRPO                  # sb3-contrib's
    python benchmarks/end_to_end.py SAC --rounds 7        # stable-baselines3's

Both train for real, on one thread, from the same seed, in one world. TRPO: sb3-contrib's defaults, 2 x 64 tanh, 2048 steps,
15 iterations of conjugate gradient, 10 critic passes in minibatches of 128, a round of two iterations. SAC:
stable-baselines3's defaults, 2 x 256 ReLU, batch 256, one update a step, a round of 500 steps; polopt compiled, as the other
peers' fast forms are. Each has run for a while before the first round. A figure is steps over CPU time, which is fair on a
machine that others use too. The ratio is taken within each round, and the median is quoted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from recording import RECORDS, made_with, write

HERE = RECORDS / "end_to_end"
PEERS = {"TRPO": "sb3_contrib", "SAC": "stable_baselines3"}
STEPS = {"TRPO": 2 * 2048, "SAC": 500}
"""Steps of a round."""
OWN: dict[str, dict[str, Any]] = {"TRPO": {}, "SAC": {"compile": True}}


def contenders(algorithm: str, env: str) -> dict[str, Any]:
    """Both models, a round old, so that nothing is left to set up."""
    from stable_baselines3.common.env_util import make_vec_env

    import polopt

    peer = getattr(importlib.import_module(PEERS[algorithm]), algorithm)
    models = {
        "polopt": getattr(polopt, algorithm)("MlpPolicy", env, seed=0, threads=1, **OWN[algorithm]),
        PEERS[algorithm]: peer("MlpPolicy", make_vec_env(env, 1, seed=0), seed=0, device="cpu"),
    }
    return {name: model.learn(STEPS[algorithm]) for name, model in models.items()}


def rate(model: Any, steps: int) -> dict[str, float]:
    """Steps per second of CPU and of wall time, over the next steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    return {"cpu": steps / (time.process_time() - cpu), "wall": steps / (time.perf_counter() - wall)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithm", choices=PEERS)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", type=Path, help="default: records/end_to_end/ALGORITHM.json")
    args = parser.parse_args()
    peer, path = PEERS[args.algorithm], args.record or HERE / f"{args.algorithm}.json"

    torch.set_num_threads(1)
    models = contenders(args.algorithm, args.env)
    rounds = []
    for i in range(args.rounds):
        order = list(models) if i % 2 == 0 else list(models)[::-1]
        figures = {name: rate(models[name], STEPS[args.algorithm]) for name in order}
        rounds.append(figures)
        print(
            "  ".join(f"{name} {figures[name]['cpu']:.0f}/s" for name in models),
            f"ratio {figures['polopt']['cpu'] / figures[peer]['cpu']:.2f}",
            flush=True,
        )
    ratios = [r["polopt"]["cpu"] / r[peer]["cpu"] for r in rounds]
    record = {
        "what": f"{args.algorithm}, environment steps per second, rollout and update, one thread",
        "env": args.env,
        "unit": "steps/s",
        "median": {
            name: {clock: statistics.median(r[name][clock] for r in rounds) for clock in ("cpu", "wall")}
            for name in models
        },
        "ratio_of_cpu_rates": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "rounds": rounds,
        **made_with("polopt", "torch", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco"),
    }
    write(path, record)
    print(json.dumps(record["ratio_of_cpu_rates"]))


if __name__ == "__main__":
    main()
