"""One cell, from nothing to its record: make the model, train it, evaluate it on the way, alike for every library."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import resource
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
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize

from ..agent import Agent
from ..dataset import Dataset
from ..dataset_files import load_dataset
from ..errors import NonFiniteError
from ..files import write_json
from ..loop import unwritten
from ..manifest import commit, manifest
from ..presets import policy_kwargs
from .pool import SCHEMA
from .suite import Cell

__all__ = ["Evaluator", "make_model", "play", "run_cell"]

_SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")

Predict = Callable[[np.ndarray], np.ndarray]
"""Observations ``[N, ...]`` in the environment's own units to greedy actions ``[N, ...]``."""


def make_model(cell: Cell, checkpoint: Path | None = None) -> tuple[Any, Predict]:
    """The model of a cell, and its greedy policy on raw observations.

    This is the one place that knows how each library spells what a suite says: ``normalize`` is a ``VecNormalize``
    around the peers' environments, frozen in evaluation, and ``normalize_obs`` with ``normalize_reward`` for polopt; an
    ``action_noise`` that is a number is the peers' ``NormalActionNoise``.

    Args:
        checkpoint: a polopt model file to go on from exactly; None makes an untrained model.

    Raises:
        ValueError: the library has no such algorithm, or it takes no prior data.
        FileNotFoundError, DatasetError: as ``add_prior``.
    """
    library = importlib.import_module({"sb3": "stable_baselines3"}.get(cell.library, cell.library))
    algorithm = getattr(library, cell.algorithm, None)
    if algorithm is None:
        raise ValueError(f"{library.__name__} has no algorithm {cell.algorithm!r}")
    if checkpoint is not None:
        model = algorithm.load(checkpoint, env=cell.env, device="cpu")
        return model, lambda obs: model.predict(obs, deterministic=True)[0]

    config = dict(cell.config)
    policy = config.pop("policy", "MlpPolicy")
    normalize = config.pop("normalize", False)
    if not isinstance(normalize, bool):
        raise ValueError(f"normalize={normalize!r} must be true (observations and rewards) or false")
    if "policy_kwargs" in config:
        config["policy_kwargs"] = policy_kwargs(config["policy_kwargs"])
    if cell.library == "polopt":
        if normalize:
            config |= {"normalize_obs": True, "normalize_reward": True}
        model = algorithm(policy, cell.env, seed=cell.seed, device="cpu", **config)
        if cell.prior is not None:
            if not hasattr(model, "add_prior"):
                raise ValueError(f"{cell.algorithm} takes no prior data; RLPD does")
            model.add_prior(cell.prior)
        return model, lambda obs: model.predict(obs, deterministic=True)[0]

    for name in _SCHEDULED:
        if isinstance(given := config.get(name), str):
            start = float(given.removeprefix("lin_"))
            config[name] = LinearSchedule(start, 0.0, 1.0) if given.startswith("lin_") else start
    env = make_vec_env(cell.env, n_envs=config.pop("n_envs", 1), seed=cell.seed)
    if isinstance(std := config.get("action_noise"), (int, float)):
        config["action_noise"] = NormalActionNoise(
            np.zeros(env.action_space.shape), np.full(env.action_space.shape, std)
        )
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
    """Plays the evaluation episodes between updates, keeps the curve, and checkpoints where it is told to.

    A point is taken before the first rollout that starts at or after each multiple of ``evaluation.every`` steps, and
    after the last update; ``curve["steps"]`` holds the steps actually trained. Beside the evaluation it keeps the
    mean return of the last training episodes (SB3's ``rollout/ep_rew_mean``), the last update's ``train/`` values, and
    the time trained so far [s], evaluations and checkpoints excluded.

    Args:
        checkpoint: the stem of two files written at each point, ``.json`` with the curve and then ``.zip`` with the
            model; None writes none.
    """

    def __init__(self, cell: Cell, predict: Predict, checkpoint: Path | None = None) -> None:
        super().__init__()
        self._evaluation = cell.evaluation
        self._predict = predict
        self._checkpoint = checkpoint
        self._envs = [gymnasium.make(cell.env) for _ in range(cell.evaluation.episodes)]
        self._next = 0
        self._logged = _Latest()
        self._resumed = 0
        self.starts: list[dict[str, Any]] = []
        self.eval_seconds = 0.0
        self.prior: dict[str, Any] | None = None
        """What the cell's prior data is, where it has any."""
        columns = ("steps", "returns", "lengths", "ep_rew_mean", "train_seconds", "train_cpu_seconds")
        self.curve: dict[str, list[Any]] = {column: [] for column in columns}
        self.diagnostics: dict[str, list[float | None]] = {}

    def restore(self, kept: dict[str, Any], step: int) -> None:
        """Take the curve of a former start back, up to the checkpoint at ``step``."""
        if kept.get("prior") != self.prior:
            raise ValueError(
                f"the prior data is another than this cell was started on: {self.prior}, not {kept.get('prior')}"
            )
        points = kept["curve"]["steps"].index(step) + 1
        self.curve = {column: values[:points] for column, values in kept["curve"].items()}
        self.diagnostics = {key: values[:points] for key, values in kept["diagnostics"].items()}
        self._logged.values = {key: values[-1] for key, values in self.diagnostics.items() if values[-1] is not None}
        self.starts, self.eval_seconds = kept["starts"], kept["eval_seconds"]
        self._plan(step)

    def start(self, step: int) -> None:
        """Note that training starts, or goes on, at ``step``."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.starts.append({"step": step, "time": started, "commit": commit()})
        self._resumed = step

    def _init_callback(self) -> None:
        self.model.set_logger(Logger(folder=None, output_formats=[self._logged]))

    def _on_training_start(self) -> None:
        before = [self.curve[column][-1] if self._resumed else 0.0 for column in ("train_seconds", "train_cpu_seconds")]
        self._wall, self._cpu = time.perf_counter() - before[0], time.process_time() - before[1]

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
        step, trained = int(self.model.num_timesteps), wall - self._wall
        returns, lengths = play(self._envs, self._predict, self._evaluation.seed)
        episodes = [float(np.asarray(info["r"])) for info in self.model.ep_info_buffer or ()]
        point = {
            "steps": step,
            "returns": [round(float(r), 3) for r in returns],
            "lengths": lengths.tolist(),
            "ep_rew_mean": round(float(np.mean(episodes)), 3) if episodes else None,
            "train_seconds": round(trained, 2),
            "train_cpu_seconds": round(cpu - self._cpu, 2),
        }
        if not np.isfinite([*returns, *episodes]).all():  # now: no record and no checkpoint could hold it
            raise NonFiniteError(f"a return is not finite at step {step:,}: evaluated {point['returns']}")
        for column, value in point.items():
            self.curve[column].append(value)
        self._keep_diagnostics()
        self._plan(step)
        score = f"{returns.mean():>9.1f} ± {returns.std():<8.1f}"
        print(f"step {step:>9,}  return {score} {step / max(trained, 1e-9):>7.0f} steps/s", flush=True)
        if self._checkpoint is not None:
            kept = {"curve": self.curve, "diagnostics": self.diagnostics, "starts": self.starts, "prior": self.prior}
            write_json(self._checkpoint.with_suffix(".json"), kept | {"eval_seconds": self.eval_seconds})
            model: Any = self.model
            model.save(self._checkpoint.with_suffix(".zip"), full=True)
        self.eval_seconds += time.perf_counter() - wall
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu

    def _plan(self, step: int) -> None:
        self._next = (step // self._evaluation.every + 1) * self._evaluation.every

    def _keep_diagnostics(self) -> None:
        # What is recorded but not yet written is newer than what was written last.
        recorded = self._logged.values | self.model.logger.name_to_value
        if isinstance(self.model, Agent):  # which writes its updates when a line is due
            recorded |= {f"train/{k}": v for k, v in unwritten(self.model).items()} | {
                "train/n_updates": self.model._n_updates
            }
        values = {k: float(v) for k, v in recorded.items() if k.startswith("train/") and np.ndim(v) == 0}
        points = len(self.curve["steps"])
        for key in values.keys() | self.diagnostics.keys():
            column = self.diagnostics.setdefault(key, [None] * (points - 1))
            value = values.get(key)
            column.append(None if value is None or not np.isfinite(value) else float(f"{value:.5g}"))


def run_cell(cell: Cell, checkpoint: Path | None = None) -> dict[str, Any]:
    """Train a cell and return its record, as JSON values.

    Args:
        checkpoint: the stem of the files from which a polopt cell that was killed goes on, exactly, and which it
            writes on its way. The peers have no exact checkpoint and start anew.

    Raises:
        NonFiniteError: a return is NaN or infinite; the checkpoint before it stays.
        ValueError: as :func:`make_model`.
    """
    if cell.library != "polopt":
        checkpoint = None
    kept = checkpoint.with_suffix(".zip") if checkpoint is not None else None
    resumed = kept if kept is not None and kept.exists() else None
    model, predict = make_model(cell, resumed)
    evaluator = Evaluator(cell, predict, checkpoint)
    done = model.num_timesteps if resumed else 0
    evaluator.prior = None if cell.prior is None else _described(load_dataset(cell.prior))
    if checkpoint is not None and resumed:
        evaluator.restore(json.loads(checkpoint.with_suffix(".json").read_text()), done)
    evaluator.start(done)
    if done < cell.steps:
        # A checkpoint at step 0 too holds worlds that have begun: they are not reset once more.
        model.learn(total_timesteps=cell.steps - done, callback=evaluator, reset_num_timesteps=resumed is None)
    steps, curve = evaluator.curve["steps"][-1], evaluator.curve
    machine = manifest("cpu", torch.get_num_threads())
    versions = machine["packages"] | {"python": machine["python"]}
    if cell.library == "sb3_contrib":
        versions["sb3-contrib"] = importlib.metadata.version("sb3-contrib")
    return {
        "schema": SCHEMA,
        "address": cell.address,
        "label": cell.label,
        "cell": cell.content,
        "commit": evaluator.starts[-1]["commit"],
        "starts": evaluator.starts,
        **({} if cell.prior is None else {"prior": evaluator.prior}),
        "versions": versions,
        "machine": {
            "cpu": machine["cpu"]["model"],
            "cores": machine["cpu"]["cores"],
            "torch_threads": torch.get_num_threads(),
        },
        "steps": steps,
        "train_seconds": curve["train_seconds"][-1],
        "train_cpu_seconds": curve["train_cpu_seconds"][-1],
        "eval_seconds": round(evaluator.eval_seconds, 2),
        "steps_per_second": _rate(steps, curve["train_seconds"][-1]),
        "steps_per_cpu_second": _rate(steps, curve["train_cpu_seconds"][-1]),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "curve": curve,
        "diagnostics": dict(sorted(evaluator.diagnostics.items())),
    }


def _rate(steps: int, seconds: float) -> float:
    """Steps a second; of a run too short to be timed, of a hundredth of one."""
    return round(steps / max(seconds, 0.01), 1)


def _described(data: Dataset) -> dict[str, Any]:
    """What a record says of a dataset; its rows are not kept."""
    returns = data.returns()
    mean = round(float(returns.mean()), 3) if len(returns) else None
    return {"name": data.name, "rows": len(data), "mean_return": mean, "sha256": data.hash}
