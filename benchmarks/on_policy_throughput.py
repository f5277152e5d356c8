"""Time per environment step of every on-policy method, beside PPO's on the same rollouts, minibatches and epochs.

Rounds are interleaved: in each, every method rolls out and updates once, so that whatever else the machine does falls
on all alike. A ratio is the median over the rounds of a method's figure over PPO's in the same round, by processor time
and by the wall clock. What a method does beside its policy and critic (FixPO's fixup, V-MPO's dual step) is timed apart.

    python benchmarks/on_policy_throughput.py --env HalfCheetah-v5 --num-envs 8 --rounds 9
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recording import RECORDS, made_with, write

import polopt
from polopt.registry import list_agents

RECORD = RECORDS / "on_policy_throughput.json"
ASIDE = {
    "FixPO": lambda model: [(model, "fixup")],
    "VMPO": lambda model: [(model, "dual_loss"), (model.parts["dual"], "descend")],
}
"""The functions of a method that are timed apart, by their owner and name."""
NEEDS = {"REINFORCE": {"tail": "zero"}}
"""What a method does not start without, where a rollout is shorter than an episode."""


def clock() -> tuple[float, float]:
    """Processor and wall time [s]."""
    return time.process_time(), time.perf_counter()


class Timed:
    """A function, and the time spent in it since the last ``take``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.spent = function, (0.0, 0.0)

    def __call__(self, *args: Any) -> Any:
        before = clock()
        result = self.function(*args)
        self.spent = tuple(s + b - a for s, a, b in zip(self.spent, before, clock(), strict=True))
        return result

    def take(self) -> tuple[float, float]:
        spent, self.spent = self.spent, (0.0, 0.0)
        return spent


def make(name: str, args: argparse.Namespace) -> tuple[Any, list[Timed]]:
    cls = getattr(polopt, name)
    wanted = dict(
        n_steps=args.n_steps,
        batch_size=args.batch_size,
        n_epochs=args.n_epochs,
        num_envs=args.num_envs,
        compile=args.compile,
    )
    wanted |= NEEDS.get(name, {})
    known = {f.name for f in dataclasses.fields(cls.Config)}
    model = cls("MlpPolicy", args.env, seed=0, threads=1, **{k: v for k, v in wanted.items() if k in known})
    apart = []
    for owner, function in ASIDE.get(name, lambda _: [])(model):
        apart.append(Timed(getattr(owner, function)))
        setattr(owner, function, apart[-1])
    return model, apart


def measure(args: argparse.Namespace) -> dict[str, Any]:
    names = ["PPO", *(n for n, module in list_agents().items() if ".on_policy." in module and n != "PPO")]
    names = [n for n in names if args.only is None or n in ("PPO", *args.only)]
    models = {name: make(name, args) for name in names}
    steps = args.n_steps * args.num_envs
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    asides: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for round_ in range(args.rounds + 1):
        for name, (model, timed) in models.items():
            before = clock()
            model.learn(steps, log_interval=None, reset_num_timesteps=False)
            spent = tuple(b - a for a, b in zip(before, clock(), strict=True))
            apart = tuple(sum(x) for x in zip((0.0, 0.0), *(t.take() for t in timed), strict=True))
            if round_:  # the first warms up
                times[name].append(spent)
                asides[name].append(apart)
    out = {}
    for name in names:
        rows, apart, base = times[name], asides[name], times["PPO"]
        out[name] = {
            f"{kind}_{what}": statistics.median(values)
            for i, kind in enumerate(("processor", "wall"))
            for what, values in {
                "us_per_step": [1e6 * t[i] / steps for t in rows],
                "over_ppo": [(t[i] - a[i]) / p[i] for t, a, p in zip(rows, apart, base, strict=True)],
                "aside_over_ppo": [a[i] / p[i] for a, p in zip(apart, base, strict=True)],
            }.items()
        }
        if name in ASIDE:
            out[name]["aside"] = [function for _, function in ASIDE[name](models[name][0])]
        print(name, {k: v if isinstance(v, list) else round(v, 3) for k, v in out[name].items()}, flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--n-steps", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--n-epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        **made_with("torch", "numpy", "mujoco", "gymnasium"),
        "settings": {k: v for k, v in vars(args).items() if k not in ("record", "only")},
        "methods": measure(args),
    }
    write(args.record, record)


if __name__ == "__main__":
    main()
