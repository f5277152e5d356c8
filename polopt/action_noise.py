"""stable-baselines3's action noise: one process a world, drawn under a seed, and what a file keeps of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["from_json", "numpy_seeded", "to_json", "vectorized"]

_KEPT = {
    "NormalActionNoise": {"mean": "_mu", "sigma": "_sigma"},
    "OrnsteinUhlenbeckActionNoise": {
        "mean": "_mu", "sigma": "_sigma", "theta": "_theta", "dt": "_dt", "initial_noise": "initial_noise",
    },
}  # fmt: skip
"""Processes that a file holds: each argument of their constructor, and the attribute that it became."""


def to_json(noise: Any) -> dict[str, Any] | None:
    """What a process is made of, as JSON values; None of one that is not known here."""
    base = getattr(noise, "base_noise", noise)
    kept = _KEPT.get(type(base).__name__)
    if kept is None:
        return None
    values = {name: getattr(base, attribute) for name, attribute in kept.items()}
    plain = {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in values.items()}
    return {"process": type(base).__name__, **plain}


def from_json(told: dict[str, Any], path: Any) -> Any:
    """The process that :func:`to_json` told of. One that a file could not hold is None, with a warning: the model predicts,
    and explores without it."""
    if told.get("process") not in _KEPT:
        warnings.warn(
            f"{path}: action_noise was {told.get('callable', told)}, which a file cannot hold: the model explores without "
            "it; pass action_noise=... to load",
            stacklevel=6,
        )
        return None
    from stable_baselines3.common import noise

    values = {k: np.array(v) if isinstance(v, list) else v for k, v in told.items() if k in _KEPT[told["process"]]}
    return getattr(noise, told["process"])(**values)


def check(noise: Any) -> None:
    """Raise where it is no noise process of stable-baselines3's.

    Raises:
        TypeError: it is a class, or something else that can be called.
    """
    from stable_baselines3.common.noise import ActionNoise

    if not isinstance(noise, ActionNoise):
        raise TypeError(
            f"action_noise={noise!r} must be a number or an ActionNoise of stable-baselines3, such as NormalActionNoise(mean, sigma)"
        )


def vectorized(noise: Any, num_envs: int) -> Any:
    """One process a world."""
    from stable_baselines3.common.noise import VectorizedActionNoise

    return VectorizedActionNoise(getattr(noise, "base_noise", noise), num_envs)


@contextmanager
def numpy_seeded(generator: torch.Generator) -> Iterator[None]:
    """Inside, NumPy's global generator, from which stable-baselines3's noise draws, is seeded by ours; then it is as before."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
