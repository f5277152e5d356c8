"""One cell, from nothing to its record: make the model, train it, evaluate it on the way, alike for every library."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from .suite import Cell

__all__ = ["Evaluator", "make_model", "play", "run_cell"]

SCHEMA = 1
_PACKAGES = ("polopt", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")
_SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")

Predict = Callable[[np.ndarray], np.ndarray]
"""Observations ``[N, ...]`` in the environment's own units to greedy actions ``[N, ...]``."""


def make_model(cell: Cell) -> tuple[Any, Predict]:
    """The untrained model of a cell, and its greedy policy on raw observations.

    This is the one place that knows how each library spells what a suite says:

    * ``normalize`` is a ``VecNormalize`` around the peers' environments, frozen in evaluation; a polopt model
      normalises by itself (``normalize_obs``, ``normalize_reward``).
    * ``n_envs`` copies of the environment are a ``DummyVecEnv`` for the peers and ``num_envs`` for polopt.

    Raises:
        ValueError: the library has no such algorithm.
    """
    config = dict(cell.config)
    policy = config.pop("policy", "MlpPolicy")
    n_envs = config.pop("n_envs", 1)
    normalize = config.pop("normalize", False)
    if "policy_kwargs" in config:
        config["policy_kwargs"] = _policy_kwargs(config["policy_kwargs"])
    library = importlib.import_module({"sb3": "stable_baselines3"}.get(cell.library, cell.library))
    algorithm = getattr(library, cell.algorithm, None)
    if algorithm is None:
        raise ValueError(f"{library.__name__} has no algorithm {cell.algorithm!r}")

    if cell.library == "polopt":
        if normalize:
            config |= {"normalize_obs": True, "normalize_reward": True}
        model = algorithm(policy, cell.env, num_envs=n_envs, seed=cell.seed, device="cpu", **config)
        return model, lambda obs: model.predict(obs, deterministic=True)[0]

    for name in _SCHEDULED:
        if isinstance(config.get(name), str):
            config[name] = LinearSchedule(float(config[name].removeprefix("lin_")), 0.0, 1.0)
    env = make_vec_env(cell.env, n_envs=n_envs, seed=cell.seed)
    if not normalize:
        model = algorithm(policy, env, seed=cell.seed, device="cpu", **config)
        return model, lambda obs: model.predict(obs, deterministic=True)[0]
    env = VecNormalize(env, gamma=config.get("gamma", 0.99))
    model = algorithm(policy, env, seed=cell.seed, device="cpu", **config)
    return model, lambda obs: model.predict(env.normalize_obs(obs), deterministic=True)[0]


def play(envs: list[gymnasium.Env], predict: Predict, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One episode in each environment, number ``k`` seeded with ``seed + k``.

    They are stepped side by side so that one call of ``predict`` serves all that still run; each plays exactly one
    episode, so short episodes are not favoured.

    Returns:
        Returns ``[episodes]`` (undiscounted, the environment's own rewards) and lengths ``[episodes]`` [steps].
    """
    returns = np.zeros(len(envs))
    lengths = np.zeros(len(envs), np.int64)
    obs = {k: env.reset(seed=seed + k)[0] for k, env in enumerate(envs)}
    while obs:
        actions = predict(np.stack(list(obs.values())))
        for k, action in zip(list(obs), actions, strict=True):
            obs[k], reward, terminated, truncated, _ = envs[k].step(action)
            returns[k] += reward
            lengths[k] += 1
            if terminated or truncated:
                del obs[k]
    return returns, lengths


class _Latest(KVWriter):
    """A logger's output that keeps the last value of each key."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.values.update(key_values)

    def close(self) -> None:
        pass


class Evaluator(BaseCallback):
    """Plays the evaluation episodes between updates, and keeps the curve.

    A point is taken before the first rollout that starts at or after each multiple of ``evaluation.every`` steps, and
    after the last update; ``curve["steps"]`` holds the steps actually trained. Beside the evaluation it keeps the
    mean return of the last training episodes (SB3's ``rollout/ep_rew_mean``) and the last update's ``train/`` values.
    """

    def __init__(self, cell: Cell, predict: Predict) -> None:
        super().__init__()
        self._evaluation = cell.evaluation
        self._predict = predict
        self._envs = [gymnasium.make(cell.env) for _ in range(cell.evaluation.episodes)]
        self._next = 0
        self._started = time.perf_counter()
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.curve: dict[str, list[Any]] = {"steps": [], "returns": [], "lengths": [], "ep_rew_mean": []}
        self.diagnostics: dict[str, list[float | None]] = {}
        self._logged = _Latest()

    def _init_callback(self) -> None:
        self.model.set_logger(Logger(folder=None, output_formats=[self._logged]))

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps >= self._next:
            self._evaluate()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if self.model.num_timesteps > self.curve["steps"][-1]:
            self._evaluate()
        for env in self._envs:
            env.close()

    def _evaluate(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        step = int(self.model.num_timesteps)
        returns, lengths = play(self._envs, self._predict, self._evaluation.seed)
        episodes = [float(np.asarray(info["r"])) for info in self.model.ep_info_buffer or ()]
        self.curve["steps"].append(step)
        self.curve["returns"].append([round(float(r), 3) for r in returns])
        self.curve["lengths"].append(lengths.tolist())
        self.curve["ep_rew_mean"].append(round(float(np.mean(episodes)), 3) if episodes else None)
        self._keep_diagnostics()
        every = self._evaluation.every
        self._next = (step // every + 1) * every
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        rate = step / (time.perf_counter() - self._started - self.seconds)
        score = f"{returns.mean():>9.1f} ± {returns.std():<8.1f}"
        print(f"step {step:>9,}  return {score} {rate:>7.0f} steps/s", flush=True)

    def _keep_diagnostics(self) -> None:
        # What is recorded but not yet written is newer than what was written last.
        recorded = self._logged.values | self.model.logger.name_to_value
        values = {k: float(v) for k, v in recorded.items() if k.startswith("train/") and np.ndim(v) == 0}
        points = len(self.curve["steps"])
        for key in values.keys() | self.diagnostics.keys():
            column = self.diagnostics.setdefault(key, [None] * (points - 1))
            value = values.get(key)
            column.append(None if value is None or not np.isfinite(value) else float(f"{value:.5g}"))


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train a cell and return its record, as JSON values."""
    started = datetime.now(UTC)
    model, predict = make_model(cell)
    evaluator = Evaluator(cell, predict)
    wall, cpu = time.perf_counter(), time.process_time()
    model.learn(total_timesteps=cell.steps, callback=evaluator)
    train_seconds = time.perf_counter() - wall - evaluator.seconds
    train_cpu_seconds = time.process_time() - cpu - evaluator.cpu_seconds
    steps = int(model.num_timesteps)
    return {
        "schema": SCHEMA,
        "address": cell.address,
        "label": cell.label,
        "cell": cell.content,
        "commit": _commit(),
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "torch_threads": torch.get_num_threads()},
        "started": started.isoformat(timespec="seconds"),
        "steps": steps,
        "train_seconds": round(train_seconds, 2),
        "train_cpu_seconds": round(train_cpu_seconds, 2),
        "eval_seconds": round(evaluator.seconds, 2),
        "steps_per_second": round(steps / train_seconds, 1),
        "steps_per_cpu_second": round(steps / train_cpu_seconds, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "curve": evaluator.curve,
        "diagnostics": dict(sorted(evaluator.diagnostics.items())),
    }


def _policy_kwargs(table: dict[str, Any]) -> dict[str, Any]:
    """A suite's ``policy_kwargs``, where ``activation_fn`` is the name of a class of ``torch.nn``."""
    kwargs = dict(table)
    if "activation_fn" in kwargs:
        name = kwargs["activation_fn"]
        if not hasattr(torch.nn, name):
            raise ValueError(f"policy_kwargs.activation_fn is {name!r}; it takes the name of a class of torch.nn")
        kwargs["activation_fn"] = getattr(torch.nn, name)
    return kwargs


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with ``+`` where polopt's own files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    wings = [name for name in ("polopt", "envs", "agents") if (root / name).is_dir()]
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", *wings], cwd=root, capture_output=True, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
