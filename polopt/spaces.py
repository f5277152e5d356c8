"""Gymnasium spaces as the networks see them: which are supported, how they become flat float vectors, how they are stored."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch.nn.functional import one_hot

__all__ = [
    "check_action_space", "check_observation_space", "encode", "encoded_size", "from_json", "is_image", "same", "to_json",
]  # fmt: skip

SIMPLE = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


def check_observation_space(space: Space) -> None:
    """Raise ValueError where the networks cannot read the space."""
    leaves = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
    for name, leaf in leaves:
        where = f"observation space {space}" + (f", entry {name!r}" if name else "")
        if not isinstance(leaf, SIMPLE):
            raise ValueError(
                f"{where}: {type(leaf).__name__} is not supported; Box, Discrete, MultiDiscrete, MultiBinary and a Dict of these are"
            )
        if isinstance(leaf, spaces.Discrete) and leaf.start != 0:
            raise ValueError(f"{where}: Discrete(start={leaf.start}) is not supported; let it start at 0")
        _check_multi_discrete(where, leaf)


def is_image(space: Space) -> bool:
    """Whether it is a picture as Gymnasium has them: a ``Box`` uint8 of three axes from 0 to 255."""
    picture = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3
    return picture and bool((space.low == 0).all() and (space.high == 255).all())


def _check_multi_discrete(where: str, space: Space) -> None:
    if not isinstance(space, spaces.MultiDiscrete):
        return
    if space.nvec.ndim != 1:
        raise ValueError(f"{where}: MultiDiscrete of {space.nvec.ndim} axes is not supported; flatten it")
    if np.any(space.start):
        raise ValueError(f"{where}: MultiDiscrete(start={space.start.tolist()}) is not supported; let it start at 0")


def check_action_space(space: Space, allowed: tuple[type, ...], who: str) -> None:
    """Raise ValueError where an agent cannot act in the space."""
    names = ", ".join(kind.__name__ for kind in allowed)
    if not isinstance(space, allowed):
        raise ValueError(f"{who} does not support the action space {space}; it supports {names}")
    if isinstance(space, spaces.Box) and not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ValueError(
            f"{who} needs an action space with finite bounds, not {space}: give it some, "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, Box(low, high, shape))"
        )
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(f"{who}: Discrete(start={space.start}) is not supported; let it start at 0")
    _check_multi_discrete(who, space)


def encoded_size(space: Space) -> int:
    """The length of :func:`encode`'s vectors."""
    if isinstance(space, spaces.Dict):
        return sum(encoded_size(s) for s in space.spaces.values())
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec.sum())
    return math.prod(space.shape)


def encode(space: Space, obs: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Observations ``[B, ...]`` as float vectors ``[B, encoded_size(space)]``: integers one-hot, Dict entries side by side."""
    if isinstance(space, spaces.Dict):
        return torch.cat([encode(s, obs[k], dtype) for k, s in space.spaces.items()], -1)
    if isinstance(space, spaces.Discrete):
        return one_hot(obs.long(), int(space.n)).to(dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return torch.cat([one_hot(obs[..., i].long(), int(n)) for i, n in enumerate(space.nvec)], -1).to(dtype)
    x = obs.to(dtype)
    return x if len(space.shape) == 1 else x.reshape(*x.shape[: x.ndim - len(space.shape)], -1)


def same(a: Space, b: Space) -> bool:
    """Whether two spaces are the same but for float precision (an env may hand out float64 where a model saw float32)."""
    if type(a) is not type(b):
        return False
    if isinstance(a, spaces.Dict):
        return list(a.spaces) == list(b.spaces) and all(same(a[k], b[k]) for k in a.spaces)
    if isinstance(a, spaces.Box):
        kind = np.issubdtype(a.dtype, np.floating) == np.issubdtype(b.dtype, np.floating)
        if a.shape != b.shape or not kind:
            return False
        # As floats: NumPy's tolerance overflows at an integer type's own bounds.
        return all(
            np.allclose(x.astype(np.float64), y.astype(np.float64)) for x, y in ((a.low, b.low), (a.high, b.high))
        )
    return a == b


def to_json(space: Space) -> dict[str, Any]:
    """A space as JSON values; infinities as strings."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {k: to_json(s) for k, s in space.spaces.items()}}
    if isinstance(space, spaces.Box):
        number = int if np.issubdtype(space.dtype, np.integer) else float
        low, high = ([repr(number(v)) for v in x.ravel().tolist()] for x in (space.low, space.high))
        low, high = (x[:1] if len(set(x)) == 1 else x for x in (low, high))
        return {"type": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else [int(n) for n in space.n]}
    raise ValueError(f"cannot store the space {space}")


def from_json(data: dict[str, Any]) -> Space:
    """The space that :func:`to_json` wrote."""
    kind = data["type"]
    if kind == "Dict":
        return spaces.Dict([(k, from_json(s)) for k, s in data["spaces"].items()])  # of a dict it would sort the names
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"]).type
        low, high = (
            np.broadcast_to(_bounds(data[k], dtype).reshape(shape if len(data[k]) > 1 else ()), shape)
            for k in ("low", "high")
        )
        return spaces.Box(low, high, shape, dtype)
    if kind == "Discrete":
        return spaces.Discrete(data["n"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(data["nvec"])
    if kind == "MultiBinary":
        return spaces.MultiBinary(data["n"])
    raise ValueError(f"unknown space {kind!r} in a model file")


def _bounds(written: list[str], dtype: type[np.generic]) -> np.ndarray:
    if not np.issubdtype(dtype, np.integer):
        return np.array([float(v) for v in written], dtype)
    # Older files hold integers as floats, which round beyond the type's own bounds.
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([min(max(int(Decimal(v)), least), most) for v in written], dtype)
