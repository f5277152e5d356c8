"""The minimal checks of FPO's specification, run for real: which modes a policy keeps, and Pendulum at two clip ranges.

    python benchmarks/fpo_checks.py bandit --seeds 0 1 2 3 4
    python benchmarks/fpo_checks.py pendulum --contenders FPO PPO --seeds 0 1 2
    python benchmarks/fpo_checks.py bandit --figure docs/agents/figures/fpo_bandit.png

Every finished run is added to ``records/fpo/CHECK.json``; one that is there is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from polopt.envs.classic import FourPeaks
from recording import RECORDS, Runs, made_with

import polopt

GOOD = 0.9
"""A bandit's reward at which its peaks are counted, beside the end of training."""
HERE = RECORDS / "fpo"
NETS = dict(policy_kwargs=dict(net_arch=dict(pi=[32] * 4, vf=[64, 64])))
# Velocity errors, many epochs at a high rate and a gradient clip, near the authors' own gridworld script: see the page.
BANDIT = dict(num_envs=16, n_steps=128, batch_size=512, learning_rate=1e-3, max_grad_norm=0.5)
PENDULUM = dict(
    num_envs=16, n_steps=128, batch_size=512, n_epochs=10, normalize_obs=True, normalize_reward=True, gamma=0.99
)  # fmt: skip
RAW = PENDULUM | dict(normalize_obs=False)
PLAIN = dict(reward_scale=1.0, **NETS)
CHECKS: dict[str, dict[str, Any]] = {
    "bandit": dict(
        env="polopt/FourPeaks-v0", steps=61_440,
        contenders={
            "FPO": ("FPO", BANDIT | dict(n_epochs=20, error="velocity") | PLAIN),
            # Fewer and less noisy steps: what moves samples between equal peaks is the advantages' noise.
            "FPO, large batches": (
                "FPO",
                BANDIT | dict(n_epochs=20, error="velocity", n_steps=512, batch_size=2048, normalize_advantage=False) | PLAIN,
                163_840,
            ),
            "PPO": ("PPO", BANDIT | dict(n_epochs=10), 204_800),  # slower: until it has settled
        },
    ),
    # The same worlds, rollouts and epochs for all; PPO with stable-baselines3's networks, clip and clipping of gradients.
    "pendulum": dict(
        env="Pendulum-v1", steps=300_000,
        contenders={
            "FPO": ("FPO", PENDULUM | PLAIN),
            "FPO, clip 0.2": ("FPO", PENDULUM | PLAIN | dict(clip_range=0.2)),
            "PPO": ("PPO", PENDULUM),
            "FPO, raw observations": ("FPO", RAW | PLAIN),
            "FPO, clip 0.2, raw observations": ("FPO", RAW | PLAIN | dict(clip_range=0.2)),
            "PPO, raw observations": ("PPO", RAW),
        },
    ),
}  # fmt: skip


def play(check: str, contender: str, seed: int) -> dict[str, Any]:
    """One run: its metrics per update, and what its policy does in the end."""
    c = CHECKS[check]
    method, config, *steps = c["contenders"][contender]
    model = getattr(polopt, method)("MlpPolicy", c["env"], seed=seed, threads=1, **config)
    curve: list[dict[str, Any]] = []
    run: dict[str, Any] = {}
    update = model.update

    def watched(batch: Any) -> dict[str, torch.Tensor]:
        metrics = update(batch)
        row: dict[str, float] = {"steps": model.num_timesteps}
        if model.ep_info_buffer:
            row["return"] = round(sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer), 3)
        if check == "bandit" and model.num_timesteps % 10_240 == 0:
            now = modes(model)
            if now["reward"] >= GOOD and "then" not in run:
                run["then"] = {"steps": model.num_timesteps} | now
            row |= {k: x for k, x in now.items() if k != "actions"}
        curve.append(row | {k: float(f"{float(x):.4g}") for k, x in metrics.items()})
        return metrics

    model.update = watched
    started, processor = time.perf_counter(), time.process_time()
    model.learn(*(steps or [c["steps"]]), log_interval=None, progress_bar=True)
    run |= {
        "contender": contender, "method": method, "seed": seed, "config": model.config.to_json(),
        "net_arch": config.get("policy_kwargs", {}).get("net_arch"),
        "wall_s": round(time.perf_counter() - started, 1), "processor_s": round(time.process_time() - processor, 1),
        **made_with("torch", "numpy"),
        "curve": curve,
    }  # fmt: skip
    return run | (modes(model) if check == "bandit" else returns(model, c["env"]))


def modes(model: Any, n: int = 2000) -> dict[str, Any]:
    """Of n sampled actions: the share within a width of each peak, their mean reward, and some to draw. A peak is kept at 5 %."""
    task = FourPeaks()
    torch.manual_seed(0)
    action = model.predict(np.ones((n, 1), np.float32))[0]
    which = task.peak(action)
    share = [float((which == k).mean()) for k in range(4)]
    reward = task.reward(torch.empty(0), torch.from_numpy(action), torch.empty(0)).mean()
    return {
        "share": share, "kept": sum(s >= 0.05 for s in share), "reward": round(float(reward), 4),
        "actions": [[round(float(x), 3) for x in a] for a in action[:400]],
    }  # fmt: skip


def returns(model: Any, env: str) -> dict[str, Any]:
    """Mean return of 50 episodes from fixed starts, sampled as in training and without chance."""
    torch.manual_seed(0)
    means = {}
    for name, deterministic in (("sampled", False), ("deterministic", True)):
        worlds = polopt.make_env(env, 10, seed=12345)
        means[name] = round(float(polopt.evaluate_policy(model, worlds, 50, deterministic=deterministic)[0]), 1)
    return means


def summary(check: str, run: dict[str, Any]) -> str:
    words = f"{run['contender']:>31} seed {run['seed']}: "
    if check == "bandit":
        then = run.get("then", {"kept": 0, "reward": 0.0, "steps": 0})
        return words + (
            f"{then['kept']} peaks kept at reward {then['reward']:.2f}, after {then['steps']} steps; in the end, after "
            f"{run['curve'][-1]['steps']}, {run['kept']} at {run['reward']:.2f}"
        )
    late = [row["return"] for row in run["curve"][-10:]]
    deviation = float(np.mean([row["ratio_deviation"] for row in run["curve"]]))
    return words + (
        f"training {np.mean(late):.0f}, sampled {run['sampled']}, deterministic {run['deterministic']}, "
        f"mean |ratio - 1| {deviation:.3f}, {run['processor_s']} s"
    )


def draw(check: str, runs: list[dict[str, Any]], path: str) -> None:
    """Bandit: each contender's samples, a column a seed. Pendulum: every curve, and the seeds' mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names, seeds = list(CHECKS[check]["contenders"]), sorted({run["seed"] for run in runs})
    if check == "bandit":
        rows = [(name, when) for name in names for when in ("then", "end")]
        figure, axes = plt.subplots(len(rows), len(seeds), figsize=(2.2 * len(seeds), 2.3 * len(rows)), squeeze=False)
        x = np.linspace(-1, 1, 201)
        plane = torch.from_numpy(np.stack(np.meshgrid(x, x), -1))
        height = FourPeaks().reward(torch.empty(0), plane, torch.empty(0))
        for run in runs:
            for when in ("then", "end"):
                shown = run.get("then") if when == "then" else run | {"steps": run["curve"][-1]["steps"]}
                ax = axes[rows.index((run["contender"], when))][seeds.index(run["seed"])]
                ax.contourf(x, x, height, levels=8, cmap="Greys", alpha=0.6)
                ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=[], yticks=[])
                if shown:
                    ax.scatter(*np.array(shown["actions"]).T, s=3, alpha=0.5, color="tab:red")
                    ax.set_title(
                        f"{run['contender']}, {shown['steps'] // 1000}k steps\n{shown['kept']} of 4, reward {shown['reward']:.2f}",
                        fontsize=8,
                    )
    else:
        figure, ax = plt.subplots(figsize=(8, 3.6))
        curves = defaultdict(list)
        for run in runs:
            curves[run["contender"]].append({row["steps"]: row["return"] for row in run["curve"] if "return" in row})
        for i, name in enumerate(n for n in names if n in curves):
            color = f"C{i}"
            for curve in curves[name]:
                ax.plot(*zip(*curve.items(), strict=True), color=color, alpha=0.3, lw=0.8)
            steps = sorted(set.intersection(*(set(curve) for curve in curves[name])))
            label = f"{name} ({len(curves[name])} seeds)"
            ax.plot(steps, [np.mean([curve[t] for curve in curves[name]]) for t in steps], color=color, label=label)
        ax.axhline(-400, color="grey", lw=0.8, ls=":")
        ax.set(xlabel="environment steps", ylabel="return, last 100 episodes", title=CHECKS[check]["env"])
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--contenders", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record = Runs(HERE / f"{args.check}.json", args.check, ("contender", "seed"))
    for seed in args.seeds:
        for contender in args.contenders or CHECKS[args.check]["contenders"]:
            if (contender, seed) not in record:
                record.add(play(args.check, contender, seed))
    for run in record.runs:
        print(summary(args.check, run))
    if args.figure:
        draw(args.check, record.runs, args.figure)


if __name__ == "__main__":
    main()
