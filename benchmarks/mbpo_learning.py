"""MBPO over real steps, beside the SAC that it holds: the minimal check of its specification, run for real.

    python benchmarks/mbpo_learning.py pendulum --seeds 0 1 2
    python benchmarks/mbpo_learning.py hopper --methods MBPO --seeds 0

Methods: ``MBPO``; ``MBPO-20``, with branches of 20 steps, fewer random steps and more updates (Pendulum); ``Oracle``, that
with the true simulator for a model; ``SAC-G``, that with ``real_ratio=1``, which is SAC with as many updates; ``SAC``, one
update a step. Every finished run is added to ``records/mbpo/CHECK.json``, one that is there is not run again, and
``CHECK.png`` is drawn of all there are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from polopt.envs.classic.pendulum import Pendulum
from recording import RECORDS, Runs, made_with
from torch import Tensor

import polopt
from polopt.model import Model

HERE = RECORDS / "mbpo"
CHECKS: dict[str, dict[str, Any]] = {
    "pendulum": dict(
        env="Pendulum-v1", level=-250.0, every=100, episodes=20, methods=("MBPO", "SAC", "MBPO-20", "Oracle", "SAC-G"),
        steps={"SAC": 10_000, "MBPO": 2500, None: 1200},
        agent=dict(policy_kwargs=dict(net_arch=[64, 64])),
        # A thousand rows are four batches: the paper's five idle passes would end a fit after a hundred steps.
        config=dict(
            learning_starts=1000, gradient_steps=10, model_train_freq=200, rollout_batch_size=5000, num_networks=5,
            num_elites=3, model_patience=20, model_max_passes=200,
        ),
        longer=dict(
            learning_starts=500, gradient_steps=20, model_train_freq=100, rollout_batch_size=2000, epoch_length=200,
            rollout_schedule=(0, 1, 20, 20), model_batch_size=32, model_max_passes=100,
        ),
    ),
    "hopper": dict(
        env="Hopper-v5", level=1000.0, every=500, episodes=10, methods=("MBPO", "SAC"), steps={"SAC": 20_000, None: 5_000},
        agent={},
        # Smaller than the paper's (5000 random steps, G = 20, M = 100k), so that a seed takes a quarter of an hour of one core.
        config=dict(
            learning_starts=1000, gradient_steps=10, target_entropy=-1.0, rollout_schedule=(20, 150, 1, 15),
            rollout_batch_size=20_000, compile=True,
        ),
    ),
}  # fmt: skip


class TruePendulum(Model):
    """The simulator itself, as a model that needs no fit."""

    task = Pendulum()

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.atan2(obs[:, 1], obs[:, 0]).double(), obs[:, 2].double()
        state, reward, _ = self.task.dynamics(torch, state, action.double())
        return reward.float(), torch.stack(self.task.observe(torch, state), -1).float()


def make(check: str, method: str, seed: int, **more: Any) -> Any:
    """A model of one of the methods."""
    c = CHECKS[check]
    if method == "SAC":
        return polopt.SAC("MlpPolicy", c["env"], seed=seed, **c["agent"], **more)
    config = c["agent"] | c["config"] | (c["longer"] if method != "MBPO" and "longer" in c else {}) | more
    if method == "SAC-G":
        config["real_ratio"] = 1.0
    model = polopt.MBPO("MlpPolicy", c["env"], seed=seed, **config)
    if method == "Oracle":
        model.model = TruePendulum(model.observation_space, model.action_space, model._terminated, model.generator)
    return model


def timed(owner: Any, name: str, seconds: dict[str, float]) -> None:
    """Count the seconds spent in a method."""
    method: Callable[..., Any] = getattr(owner, name)
    seconds[name] = 0.0

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    setattr(owner, name, call)


def play(check: str, method: str, seed: int, compiled: bool) -> dict[str, Any]:
    """One run: the deterministic policy's mean return over the real steps, and where the time went."""
    c = CHECKS[check]
    model = make(check, method, seed, threads=1, compile=compiled)
    steps = c["steps"].get(method, c["steps"][None])
    worlds = polopt.make_env(c["env"], num_envs=c["episodes"], seed=10_000)
    curve: list[dict[str, float]] = []
    seconds: dict[str, float] = {}
    timed(getattr(model, "agent", model), "train_steps", seconds)
    if hasattr(model, "model"):
        timed(model.model, "fit", seconds)
        timed(model, "imagine", seconds)
    update, kept = model.update, ("model_loss", "model_holdout_mse", "model_passes", "branch_length", "ent_coef")
    latest: dict[str, Tensor] = {}

    def watched(batch: Any) -> dict[str, Tensor]:
        latest.update(metrics := update(batch))
        if model.num_timesteps % c["every"] == 0:
            returns = evaluate(model, worlds)
            row = {"steps": model.num_timesteps, "return": round(float(returns.mean()), 2)}
            curve.append(row | {k: float(f"{float(latest[k]):.4g}") for k in kept if k in latest})
            print(f"{check} {method} seed {seed}: {row}", flush=True)
        return metrics

    model.update = watched
    timed(worlds, "step_host", seconds)
    started = time.perf_counter()
    model.learn(steps, log_interval=None)
    return {
        "method": method, "seed": seed, "config": model.config.to_json(), "steps": steps,
        "wall_s": round(time.perf_counter() - started, 1),
        "seconds": {k: round(v, 1) for k, v in seconds.items() if k != "step_host"},
        **made_with("torch", "numpy", "mujoco", "gymnasium"),
        "curve": curve,
    }  # fmt: skip


def evaluate(model: Any, worlds: Any) -> np.ndarray:
    """Returns of one deterministic episode a world, always from the same starts."""
    obs, total, alive = worlds.reset_host(10_000), np.zeros(worlds.num_envs), np.ones(worlds.num_envs, bool)
    while alive.any():
        step = worlds.step_host(model.predict(obs, deterministic=True)[0])
        total += np.where(alive, step.reward, 0.0)
        alive &= ~(step.terminated | step.truncated)
        obs = step.obs
    worlds.pop_episodes()
    return total


def reached(run: dict[str, Any], level: float) -> float:
    """The first step from which all evaluations to the run's end are above the level; infinite where there is none."""
    step = float("inf")
    for row in reversed(run["curve"]):
        if row["return"] <= level:
            break
        step = row["steps"]
    return step


def draw(check: str, runs: list[dict[str, Any]]) -> None:
    """All seeds thin, their mean thick, over real steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = {
        "MBPO-20": "MBPO, k = 20", "Oracle": "the same, true simulator", "SAC-G": "the same, all real (SAC)",
        "SAC": "SAC, 1 update per step",
    }  # fmt: skip
    fig, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    methods = [m for m in CHECKS[check]["methods"] if any(run["method"] == m for run in runs)]
    for i, method in enumerate(methods):
        curves = [run["curve"] for run in runs if run["method"] == method]
        for curve in curves:
            axes.plot([r["steps"] for r in curve], [r["return"] for r in curve], color=f"C{i}", alpha=0.35, lw=0.8)
        shortest = min(len(curve) for curve in curves)
        mean = np.mean([[row["return"] for row in curve[:shortest]] for curve in curves], 0)
        label = f"{names.get(method, method)} ({len(curves)} seed{'s' * (len(curves) > 1)})"
        axes.plot([row["steps"] for row in curves[0][:shortest]], mean, color=f"C{i}", lw=2, label=label)
    axes.axhline(CHECKS[check]["level"], color="0.6", lw=0.8, ls="--")
    axes.set(xlabel="real environment steps", ylabel="return of the deterministic policy", title=CHECKS[check]["env"])
    axes.legend(frameon=False)
    fig.savefig(HERE / f"{check}.png", dpi=150)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--methods", nargs="*", choices=("MBPO", "MBPO-20", "Oracle", "SAC", "SAC-G"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--eager", action="store_true", help="do not compile the updates")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = Runs(HERE / f"{args.check}.json", args.check)
    for seed in args.seeds:
        for method in args.methods or CHECKS[args.check]["methods"]:
            if (method, seed) not in record:
                record.add(play(args.check, method, seed, not args.eager))
                draw(args.check, record.runs)
    for run in record.runs:
        at = reached(run, CHECKS[args.check]["level"])
        last = np.mean([row["return"] for row in run["curve"][-5:]])
        print(
            f"{run['method']:>7} seed {run['seed']}: above {CHECKS[args.check]['level']:.0f} from step {at}, "
            f"last five {last:.1f}, {run['wall_s']:.0f} s, of them {run['seconds']}"
        )


if __name__ == "__main__":
    main()
