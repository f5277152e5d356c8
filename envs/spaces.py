"""Which spaces are taken, and rows of observations of any of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces

from polopt.env import Obs

__all__ = ["cast", "check_spaces", "equal_obs", "numpy_dtype", "put", "put_rows", "row", "zeros"]

_SIMPLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_NAMES = "Box, Discrete, MultiDiscrete, MultiBinary"


def check_spaces(observation_space: Space, action_space: Space) -> None:
    """Refuse what no part of polopt handles.

    Raises:
        TypeError: a space is none of Box, Discrete, MultiDiscrete, MultiBinary (or, for observations, a Dict of them).
    """
    if not isinstance(action_space, _SIMPLE):
        raise TypeError(f"action space {action_space} is not supported: it must be one of {_NAMES}")
    parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {None: observation_space}
    for key, part in parts.items():
        if not isinstance(part, _SIMPLE):
            where = "" if key is None else f" at key {key!r}"
            raise TypeError(
                f"observation space {part}{where} is not supported: it must be one of {_NAMES} or a Dict of these;"
                " gymnasium.wrappers.FlattenObservation turns nested Dicts and Tuples into a Box"
            )
        if isinstance(part, spaces.MultiDiscrete) and part.nvec.ndim != 1:
            raise TypeError(f"observation space {part} is not supported: MultiDiscrete must be one-dimensional")


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """The NumPy dtype of a floating torch dtype.

    Raises:
        ValueError: it is neither float32 nor float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} must be torch.float32 or torch.float64")
    return np.dtype(np.float32 if dtype is torch.float32 else np.float64)


def zeros(space: Space, n: int, dtype: np.dtype) -> Obs:
    """``n`` rows for observations of a space; floating ones in ``dtype``, the others in the space's own."""
    if isinstance(space, spaces.Dict):
        return {key: zeros(part, n, dtype) for key, part in space.spaces.items()}
    return np.zeros((n, *space.shape), dtype if np.issubdtype(space.dtype, np.floating) else space.dtype)


def put(rows: Obs, i: int, obs: Obs) -> None:
    """Write one observation into row ``i``."""
    if isinstance(rows, dict):
        for key, part in rows.items():
            part[i] = obs[key]
    else:
        rows[i] = obs


def put_rows(rows: Obs, index: np.ndarray, source: Obs) -> None:
    """Write ``source[index]`` into ``rows[index]``."""
    if isinstance(rows, dict):
        for key, part in rows.items():
            part[index] = source[key][index]
    else:
        rows[index] = source[index]


def cast(obs: Any, like: Obs) -> Obs:
    """A fresh copy of batched observations in the dtypes of ``like``."""
    if isinstance(like, dict):
        return {key: cast(obs[key], part) for key, part in like.items()}
    return np.array(obs, dtype=like.dtype, order="C")


def row(rows: Obs, i: int) -> Obs:
    """Row ``i``, as a copy."""
    return {key: part[i].copy() for key, part in rows.items()} if isinstance(rows, dict) else rows[i].copy()


def equal_obs(a: Any, b: Any) -> bool:
    """Whether two observations are equal bit for bit (a NaN equals itself)."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal_obs(a[key], b[key]) for key in a)
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
