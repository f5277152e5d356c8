"""What is measured of a curve: its log-log slope with a bootstrap over seeds, and its ratio to a theorem's bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["RegretRecorder", "Slope", "bound_ratio", "log_checkpoints", "slope"]


class Slope(NamedTuple):
    """A fitted exponent and its 95 % bootstrap interval over seeds (equal to the estimate where there is one seed)."""

    estimate: float
    low: float
    high: float


def slope(x: np.ndarray, y: np.ndarray, low: float | None = None, num_boot: int = 500, rng: int = 0) -> Slope:
    """The least-squares slope of log y on log x over ``x >= low``.

    Args:
        x: ``[T]`` > 0.
        y: ``[T]`` or ``[N, T]`` for N seeds, whose mean is fitted; > 0.
        low: where the tail begins; the last half of the points where None.
    """
    x, y = np.asarray(x, np.float64), np.atleast_2d(np.asarray(y, np.float64))
    if y.shape[1] != len(x):
        raise ValueError(f"y has shape {y.shape}; x of length {len(x)} needs y [{len(x)}] or [N, {len(x)}]")
    tail = x >= (x[len(x) // 2] if low is None else low)
    if tail.sum() < 2:
        raise ValueError(f"low={low} leaves {int(tail.sum())} points of x in [{x.min():g}, {x.max():g}]; 2 are needed")
    x, y = x[tail], y[:, tail]
    if x.min() <= 0 or y.mean(0).min() <= 0:
        raise ValueError(f"a log-log slope needs positive x and y; the least are {x.min():g} and {y.mean(0).min():g}")
    u = np.log(x) - np.log(x).mean()

    def fit(curves: np.ndarray) -> np.ndarray:
        return np.log(curves) @ u / (u @ u)

    estimate = float(fit(y.mean(0)))
    if len(y) == 1:
        return Slope(estimate, estimate, estimate)
    draws = np.random.default_rng(rng).integers(len(y), size=(num_boot, len(y)))
    low_end, high_end = np.quantile(fit(y[draws].mean(1)), [0.025, 0.975])
    return Slope(estimate, float(low_end), float(high_end))


def bound_ratio(error: np.ndarray, bound: np.ndarray) -> float:
    """``max_t error_t / bound_t``: the theorem holds on this run where it is at most 1 (+ 1e-9 of rounding)."""
    return float(np.max(np.asarray(error) / np.asarray(bound)))


def log_checkpoints(last: int, per_decade: int = 20) -> np.ndarray:
    """Increasing integers from 1 to ``last``, about ``per_decade`` a decade, ``last`` included."""
    points = np.unique(np.round(10 ** np.arange(0, np.log10(last), 1 / per_decade)).astype(int))
    return np.unique(np.append(points, last))


class RegretRecorder:
    """Cumulative expected regret of N seeds, kept at checkpoints.

    It is fed the exact value that each episode's policy gives up, not sampled reward: the variance is far lower.
    """

    def __init__(self, num_seeds: int, checkpoints: np.ndarray) -> None:
        self.checkpoints = np.asarray(checkpoints)
        self.regret = np.empty((num_seeds, len(self.checkpoints)))
        """``[N, checkpoints]``."""
        self._total = np.zeros(num_seeds)
        self._episode = 0
        self._next = 0

    def add(self, loss: np.ndarray) -> None:
        """Count one episode's regret ``[N]``."""
        self._total += loss
        self._episode += 1
        if self._next < len(self.checkpoints) and self._episode == self.checkpoints[self._next]:
            self.regret[:, self._next] = self._total
            self._next += 1
