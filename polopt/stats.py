"""Statistics of few runs: robust aggregates over runs and tasks, with stratified-bootstrap intervals.

Scores are arrays ``[runs, tasks]`` or ``[runs, tasks, points]``; an aggregate reduces the first two axes, so it gives a
number for the former and a curve ``[points]`` for the latter. Names follow the rliable package.

Source: Agarwal, Schwarzer, Castro, Courville, Bellemare, Deep Reinforcement Learning at the Edge of the Statistical
Precipice (2021, arXiv 2108.13264). It differs from rliable in that a seed decides the result, in each algorithm's
interval being independent of which others stand beside it, and in aggregates taking whole curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = [
    "aggregate_iqm",
    "aggregate_mean",
    "aggregate_median",
    "aggregate_optimality_gap",
    "create_performance_profile",
    "get_interval_estimates",
    "probability_of_improvement",
    "sample_efficiency_curve",
]

Scores = np.ndarray | tuple[np.ndarray, ...]
"""The scores of one algorithm, or of several that a statistic compares (each resampled by itself)."""


def aggregate_iqm(scores: np.ndarray) -> Any:
    """Interquartile mean: the mean of runs x tasks without the lowest and highest ``floor(n / 4)`` of the n scores.

    Returns a float for ``[runs, tasks]``, ``[points]`` for ``[runs, tasks, points]``.
    """
    scores = _scores(scores)
    pooled = np.sort(scores.reshape(-1, *scores.shape[2:]), axis=0)
    cut = len(pooled) // 4
    return pooled[cut : len(pooled) - cut].mean(axis=0)


def aggregate_mean(scores: np.ndarray) -> Any:
    """The mean over runs and tasks; shapes as :func:`aggregate_iqm`."""
    return _scores(scores).mean(axis=(0, 1))


def aggregate_median(scores: np.ndarray) -> Any:
    """The median over tasks of the mean over runs; shapes as :func:`aggregate_iqm`."""
    return np.median(_scores(scores).mean(axis=0), axis=0)


def aggregate_optimality_gap(scores: np.ndarray, gamma: float = 1.0) -> Any:
    """By how much runs fall short of the score ``gamma`` on average, ``gamma - mean(min(score, gamma))``."""
    return gamma - np.minimum(_scores(scores), gamma).mean(axis=(0, 1))


def probability_of_improvement(scores_x: np.ndarray, scores_y: np.ndarray) -> float:
    """The probability that a run of X scores above one of Y on a task drawn at random, ties counting one half.

    ``mean over tasks of U / (n_x n_y)`` with U the Mann-Whitney statistic.

    Args:
        scores_x: ``[runs_x, tasks]``.
        scores_y: ``[runs_y, tasks]``.
    """
    x, y = _scores(scores_x, ndim=2), _scores(scores_y, ndim=2)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"scores_x has {x.shape[1]} tasks and scores_y {y.shape[1]}; they must be the same tasks")
    difference = np.sign(x[:, None] - y[None])
    return float((difference + 1.0).mean() / 2.0)


def get_interval_estimates(
    score_dict: Mapping[str, Scores],
    func: Callable[..., Any],
    reps: int = 2000,
    confidence_interval_size: float = 0.95,
    task_bootstrap: bool = False,
    random_state: int | None = 0,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A statistic of each algorithm and its percentile interval under the stratified bootstrap.

    Each of ``reps`` resamples draws, within every task by itself, as many runs as there are, with replacement. With
    few runs such intervals are too narrow (for 5 runs of a Gaussian, a nominal 95 % covers 83 %).

    Args:
        score_dict: ``[runs, tasks]`` or ``[runs, tasks, points]`` by algorithm, or a tuple of them, which ``func`` then
            takes as so many arguments.
        func: from scores to a number or an array.
        confidence_interval_size: in (0, 1).
        task_bootstrap: resample the tasks too, as where they are a sample of a larger set.
        random_state: seed of the resampling, the same for each algorithm; None draws one.

    Returns:
        Per algorithm ``func(scores)``, and its interval ``[2, ...]``, low then high.
    """
    if reps < 1:
        raise ValueError(f"reps is {reps}; it takes at least 1")
    if not 0 < confidence_interval_size < 1:
        raise ValueError(f"confidence_interval_size is {confidence_interval_size}; it takes a value in (0, 1)")
    tail = (1 - confidence_interval_size) / 2
    estimates: dict[str, Any] = {}
    intervals: dict[str, np.ndarray] = {}
    for name, value in score_dict.items():
        given = value if isinstance(value, tuple) else (value,)
        samples = tuple(_scores(s, name=f"score_dict[{name!r}]") for s in given)
        rng = np.random.default_rng(random_state)
        estimates[name] = func(*samples)
        resampled = [func(*_resample(samples, rng, task_bootstrap)) for _ in range(reps)]
        intervals[name] = np.quantile(np.asarray(resampled), [tail, 1 - tail], axis=0)
    return estimates, intervals


def create_performance_profile(
    score_dict: Mapping[str, np.ndarray],
    tau_list: np.ndarray,
    use_score_distribution: bool = True,
    reps: int = 2000,
    confidence_interval_size: float = 0.95,
    task_bootstrap: bool = False,
    random_state: int | None = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """How much of each algorithm lies above each score: the tail distribution over ``tau_list``.

    Args:
        score_dict: ``[runs, tasks]`` by algorithm.
        tau_list: ``[taus]`` scores.
        use_score_distribution: take the share of runs x tasks above tau; otherwise that of tasks whose mean is.

    Returns:
        Per algorithm the profile ``[taus]`` and its interval ``[2, taus]``.
    """
    taus = np.asarray(tau_list, float)

    def profile(scores: np.ndarray) -> np.ndarray:
        values = scores.ravel() if use_score_distribution else scores.mean(axis=0)
        return (values[:, None] > taus).mean(axis=0)

    return get_interval_estimates(score_dict, profile, reps, confidence_interval_size, task_bootstrap, random_state)


def sample_efficiency_curve(
    score_dict: Mapping[str, np.ndarray],
    func: Callable[[np.ndarray], Any] = aggregate_iqm,
    reps: int = 2000,
    confidence_interval_size: float = 0.95,
    random_state: int | None = 0,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """An aggregate at every point of training, with pointwise intervals.

    Whole runs are resampled, so a run's points stay together.

    Args:
        score_dict: ``[runs, tasks, points]`` by algorithm.

    Returns:
        Per algorithm the curve ``[points]`` and its band ``[2, points]``.
    """
    for name, scores in score_dict.items():
        if np.ndim(scores) != 3:
            raise ValueError(f"score_dict[{name!r}] has shape {np.shape(scores)}; it takes [runs, tasks, points]")
    return get_interval_estimates(score_dict, func, reps, confidence_interval_size, random_state=random_state)


def _resample(samples: tuple[np.ndarray, ...], rng: np.random.Generator, task_bootstrap: bool) -> list[np.ndarray]:
    """Each sample with its runs redrawn within every task; the tasks, where redrawn, are the same for all samples."""
    tasks = samples[0].shape[1]
    columns = rng.integers(tasks, size=tasks) if task_bootstrap else np.arange(tasks)
    return [scores[rng.integers(len(scores), size=(len(scores), tasks)), columns] for scores in samples]


def _scores(scores: np.ndarray, ndim: int | None = None, name: str = "scores") -> np.ndarray:
    scores = np.asarray(scores, float)
    shapes = "[runs, tasks]" if ndim == 2 else "[runs, tasks] or [runs, tasks, points]"
    if scores.ndim not in ((2, 3) if ndim is None else (ndim,)) or 0 in scores.shape:
        raise ValueError(f"{name} has shape {scores.shape}; it takes {shapes}, none of them 0")
    if not np.isfinite(scores).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(scores))[0])
        raise ValueError(f"{name}{list(where)} is {scores[where]}; every score must be finite, a failed run's too")
    return scores
