"""The minimal checks of the first-order methods' specifications, run for real: what each says it constrains, per update.

    python benchmarks/on_policy_checks.py cartpole --seeds 0 1 2
    python benchmarks/on_policy_checks.py cheetah --methods PPO FixPO --seeds 0
    python benchmarks/on_policy_checks.py stale --seeds 0 1 2

Every finished run is added to ``records/on_policy_checks/CHECK.json``; one that is there is not run again.
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from recording import RECORDS, made_with, run_checks

import polopt

HERE = RECORDS / "on_policy_checks"
KEPT = (
    "ratio_deviation", "ratio_variance", "kl_mean", "kl_max", "clip_fraction", "entropy_loss", "fixup_steps",
    "fixup_kept", "beta", "multiplier", "frequency_loss",
)  # fmt: skip
MUJOCO = dict(
    num_envs=8,
    n_steps=256,
    batch_size=512,
    n_epochs=10,
    learning_rate="lin_3e-4",
    normalize_obs=True,
    normalize_reward=True,
)
FIRST_ORDER = ("PPO", "SPO", "DPO", "PPOPenalty", "R2VPO", "FixPO", "TayPO", "PMOE")
CHECKS: dict[str, dict[str, Any]] = {
    # Thirty epochs at a high learning rate: what pulls a ratio back, and what does not.
    "cartpole": dict(
        env="CartPole-v1", steps=50_000, methods=("PPO", "SPO"),
        config=dict(num_envs=8, n_steps=128, batch_size=64, n_epochs=30, learning_rate=1e-3),
    ),
    # SPO's script, which is also the usual PPO setting.
    "cheetah": dict(env="HalfCheetah-v5", steps=300_000, methods=FIRST_ORDER, config=MUJOCO),
    # The SPO paper's seven layers.
    "deep": dict(
        env="HalfCheetah-v5", steps=300_000, methods=("PPO", "SPO"),
        config=MUJOCO | dict(policy_kwargs=dict(net_arch=dict(pi=[256, 256, 128, 128, 64, 64], vf=[64, 64]))),
    ),
    # One rollout of a young policy, learned from a dozen times as long as usual: how far each is willing to go.
    "longer": dict(env="Hopper-v5", steps=8192, repeats=12, methods=("PPO", "SPO"), config=MUJOCO | dict(learning_rate=3e-4)),
    # Data of a policy up to four updates old: what the terms beyond the first order are for.
    "stale": dict(
        env="CartPole-v1", steps=100_000, refresh=4, methods=("PPO", "TayPO K=1", "TayPO c=0.1", "TayPO c=1"),
        config=dict(num_envs=8, n_steps=128, batch_size=256, n_epochs=4, learning_rate=1e-3),
    ),
    "stale_hopper": dict(
        env="Hopper-v5", steps=300_000, refresh=4, methods=("PPO", "TayPO K=1", "TayPO c=0.1", "TayPO c=1"), config=MUJOCO,
    ),
}  # fmt: skip
VARIANTS = {
    "TayPO K=1": ("TayPO", {"order": 1}),
    "TayPO c=0.1": ("TayPO", {"coef": 0.1}),
    "TayPO c=1": ("TayPO", {"coef": 1.0}),
}


def stale(method: type[polopt.PPO], refresh: int) -> type[polopt.PPO]:
    """The method, acting with a copy of its policy that is made anew every ``refresh`` updates."""

    class Stale(method):
        def make_parts(self, **optimizer: Any) -> None:
            super().make_parts(**optimizer)
            self.nets["acting"] = copy.deepcopy(self.policy).requires_grad_(False)
            self.age = 0

        @property
        def behaviour(self) -> Any:
            return self.nets["acting"]

        def finish(self, b: Any) -> dict[str, torch.Tensor]:
            self.age += 1
            if self.age % refresh == 0:
                self.behaviour.load_state_dict(self.policy.state_dict())
            return super().finish(b)

    return Stale


def play(check: str, method: str, seed: int) -> dict[str, Any]:
    """One run: its metrics per update, and the mean return of the episodes that ended lately."""
    c = CHECKS[check]
    name, changes = VARIANTS.get(method, (method, {}))
    cls = getattr(polopt, name)
    cls = stale(cls, c["refresh"]) if "refresh" in c else cls
    model = cls("MlpPolicy", c["env"], seed=seed, threads=1, **c["config"] | changes)
    curve: list[dict[str, float]] = []
    update = model.update

    def watched(batch: Any) -> dict[str, torch.Tensor]:
        metrics = update(batch)
        row: dict[str, float] = {"steps": model.num_timesteps}
        if model.ep_info_buffer:
            row["return"] = round(sum(e["r"] for e in model.ep_info_buffer) / len(model.ep_info_buffer), 2)
        curve.append(row | {k: float(f"{float(metrics[k]):.4g}") for k in KEPT if k in metrics})
        return metrics

    model.update = watched
    started, processor = time.perf_counter(), time.process_time()
    model.learn(c["steps"], log_interval=None)
    if "repeats" in c:
        curve = linger(model, c["repeats"])
    steps = model.config.n_steps * model.config.num_envs
    return {
        "method": method, "seed": seed, "config": model.config.to_json(), "rollout": steps,
        "wall_s": round(time.perf_counter() - started, 1), "processor_s": round(time.process_time() - processor, 1),
        **made_with("torch", "numpy", "mujoco", "gymnasium"),
        "curve": curve,
    }  # fmt: skip


def linger(model: Any, repeats: int) -> list[dict[str, float]]:
    """Metrics of the policy against the one that acted, after each of ``repeats`` times the epochs on one rollout."""
    kept: list[Any] = []
    model.update = lambda batch: kept.append(batch) or {}
    model.learn(model.config.n_steps * model.config.num_envs, log_interval=None, reset_num_timesteps=False)
    b, rows = model.prepare(kept[-1]), []
    for i in range(repeats):
        model.improve(b)
        measured = {k: float(f"{float(v):.4g}") for k, v in model.diagnose(b).items() if k in KEPT}
        rows.append({"epochs": (i + 1) * model.config.n_epochs} | measured)
    return rows


def summary(run: dict[str, Any]) -> str:
    """Last return, and over the updates the mean and the largest of what was measured."""
    words = [f"{run['method']:>12} seed {run['seed']}: return {run['curve'][-1].get('return', float('nan')):8.1f}"]
    for key in ("ratio_deviation", "ratio_variance", "kl_mean", "kl_max", "fixup_steps"):
        values = [row[key] for row in run["curve"] if key in row]
        if values:
            late = values[len(values) // 2 :]
            words.append(
                f"{key} mean {sum(values) / len(values):.4g} late {sum(late) / len(late):.4g} max {max(values):.4g}"
            )
    return "; ".join(words)


if __name__ == "__main__":
    run_checks(__doc__, CHECKS, HERE, play, summary)
