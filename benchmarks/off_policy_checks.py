"""Whether critics believe too much: their values of what the policy does, beside the returns that it then gets.

    python benchmarks/off_policy_checks.py twins --seeds 0
    python benchmarks/off_policy_checks.py layer_norm --seeds 0 1 2

``twins`` is TD3 beside DDPG with the same hyperparameters; ``layer_norm`` is RLPD with and without its critics' normalisation,
beside the prior data that the head of ``suites/rlpd_learning.toml`` makes. Every finished run is added to
``records/off_policy_checks/CHECK.json``; one that is there is not run again.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import torch
from recording import RECORDS, made_with, run_checks

import polopt

HERE = RECORDS / "off_policy_checks"
# TD3's official settings.
TWINS = dict(
    learning_rate=3e-4,
    batch_size=256,
    learning_starts=25_000,
    buffer_size=100_000,
    action_noise=0.1,
    policy_kwargs=dict(net_arch=[256, 256]),
)
# Smaller than the paper's (E = 10, U = 20), as in suites/rlpd_learning.toml.
PRIOR = dict(learning_starts=1000, buffer_size=10_000, gradient_steps=4, policy_delay=4, n_critics=5)
CHECKS: dict[str, dict[str, Any]] = {
    "twins": dict(
        env="Hopper-v5", steps=100_000, every=10_000,
        methods={"TD3": ("TD3", TWINS), "DDPG": ("DDPG", TWINS)},
    ),
    "layer_norm": dict(
        env="Hopper-v5", steps=10_000, every=1000, prior="polopt/hopper/medium-td3-v0",
        methods={"RLPD": ("RLPD", PRIOR), "RLPD without": ("RLPD", PRIOR | {"layer_norm": False})},
    ),
}  # fmt: skip
SEED = 10_000
EPISODES = 10
TAIL = 500
"""Steps before a time limit that are not counted: what they would still have earned is not known (0.99^500 = 0.7 %)."""


def belief(model: Any, env: gymnasium.Env) -> dict[str, float]:
    """Means over the steps of some episodes of the policy that the critics value: what the first one says (for RLPD with the
    entropy bonus, which the returns are without), and what came."""
    said: list[float] = []
    came: list[float] = []
    returns = []
    explores = isinstance(model, polopt.RLPD)
    for episode in range(EPISODES):
        obs, _ = env.reset(seed=SEED + episode)
        pairs, rewards, terminated, truncated = [], [], False, False
        while not (terminated or truncated):
            action, _ = model.predict(obs, deterministic=not explores)
            pairs.append(np.concatenate([obs, action]))
            obs, reward, terminated, truncated, _ = env.step(action)
            rewards.append(float(reward))
        ahead, g = np.zeros(len(rewards)), 0.0
        for t in reversed(range(len(rewards))):
            ahead[t] = g = rewards[t] + model.gamma * g
        kept = len(rewards) if terminated else max(len(rewards) - TAIL, 0)
        rows = torch.as_tensor(np.array(pairs[:kept]), dtype=torch.float32)
        size = len(obs)
        with torch.no_grad():
            said += model.nets["critic"](rows[:, :size], rows[:, size:])[0].tolist() if kept else []
        came += ahead[:kept].tolist()
        returns.append(sum(rewards))
    return {
        "return": round(float(np.mean(returns)), 1),
        "value": round(float(np.mean(said)), 2),
        "discounted_return": round(float(np.mean(came)), 2),
        "rows": len(said),
    }


def play(check: str, method: str, seed: int) -> dict[str, Any]:
    """One run: its beliefs every so many steps."""
    c = CHECKS[check]
    name, config = c["methods"][method]
    model = getattr(polopt, name)("MlpPolicy", c["env"], seed=seed, threads=1, compile=True, **config)
    if "prior" in c:
        model.add_prior(c["prior"])
    env, curve = gymnasium.make(c["env"]), []
    started, processor = time.perf_counter(), time.process_time()
    while model.num_timesteps < c["steps"]:
        model.learn(c["every"], log_interval=None, reset_num_timesteps=not model.num_timesteps)
        curve.append({"steps": model.num_timesteps} | belief(model, env))
        print(method, seed, curve[-1], flush=True)
    return {
        "method": method, "seed": seed, "config": model.config.to_json(),
        "wall_s": round(time.perf_counter() - started, 1), "processor_s": round(time.process_time() - processor, 1),
        **made_with("torch", "numpy", "mujoco", "gymnasium"),
        "curve": curve,
    }  # fmt: skip


def summary(run: dict[str, Any]) -> str:
    """Over the last half of the run: return, value, discounted return, and by how much the value is above it."""
    late = run["curve"][len(run["curve"]) // 2 :]
    mean = {k: sum(row[k] for row in late) / len(late) for k in ("return", "value", "discounted_return")}
    excess = mean["value"] - mean["discounted_return"]
    return (
        f"{run['method']:>12} seed {run['seed']}: return {mean['return']:7.1f}; value {mean['value']:8.1f}, "
        f"discounted return {mean['discounted_return']:6.1f}, excess {excess:+8.1f}"
    )


if __name__ == "__main__":
    run_checks(__doc__, CHECKS, HERE, play, summary)
