"""Vectorised simulation: N episodes side by side, one uniform draw a choice, inverted through the cumulative law."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Paths", "sample", "simulate"]


class Paths(NamedTuple):
    """N trajectories."""

    states: np.ndarray
    """``[N, H]`` int64."""
    actions: np.ndarray
    """``[N, H]`` int64."""


def sample(law: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Indices ``[...]`` of laws ``[..., K]`` drawn by uniforms ``[...]``: the first whose cumulative mass exceeds u."""
    index = (law.cumsum(-1) <= u[..., None]).sum(-1)
    return np.minimum(index, law.shape[-1] - 1)


def simulate(
    P: np.ndarray, pi: np.ndarray, mu: np.ndarray, rng: np.random.Generator, num_paths: int | None = None
) -> Paths:
    """One episode for each of N seeds.

    Args:
        P: ``[H, S, A, S]``.
        pi: ``[N, H, S, A]``, or ``[H, S, A]`` with ``num_paths``.
        mu: start law ``[S]``.
    """
    if pi.ndim == 3:
        if num_paths is None:
            raise ValueError("num_paths must say how many paths a single policy pi [H, S, A] should run")
        pi = np.broadcast_to(pi, (num_paths, *pi.shape))
    N, H = pi.shape[:2]
    seeds = np.arange(N)
    states, actions = np.empty((N, H), np.int64), np.empty((N, H), np.int64)
    s = sample(np.broadcast_to(mu, (N, len(mu))), rng.random(N))
    for h in range(H):
        a = sample(pi[seeds, h, s], rng.random(N))
        states[:, h], actions[:, h] = s, a
        if h + 1 < H:
            s = sample(P[h, s, a], rng.random(N))
    return Paths(states, actions)
