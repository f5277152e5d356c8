"""Batches of transitions: named tensors with shared leading axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["Batch", "tree_map"]


def tree_map(fn: Callable[[Any], Any], x: Any) -> Any:
    """``fn`` of every leaf of an observation: an array, or a dict of them."""
    if isinstance(x, dict):
        return {k: tree_map(fn, v) for k, v in x.items()}
    return fn(x)


class Batch:
    """Named tensors whose first axis (or axes) is the same: ``b.obs``, ``b.action``, ``b.reward``, ...

    What a policy remembers of its own choice (a log_prob, noise, a denoising chain) lies beside the transition's
    fields. A value may be a dict of tensors (Dict observations).
    """

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __getitem__(self, name: str) -> Any:
        return self.__dict__[name]

    def __contains__(self, name: str) -> bool:
        return name in self.__dict__

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.reward)

    def __repr__(self) -> str:
        shapes = {k: tuple(v.shape) if hasattr(v, "shape") else type(v).__name__ for k, v in self.__dict__.items()}
        return f"Batch({shapes})"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this batch has no {name!r}; it has {', '.join(self.__dict__)}")

    def plus(self, **fields: Any) -> Batch:
        """A new batch with these fields added or replaced; tensors are shared."""
        return Batch(**{**self.__dict__, **fields})

    def without(self, *names: str) -> Batch:
        """A new batch without these fields."""
        return Batch(**{k: v for k, v in self.__dict__.items() if k not in names})

    @property
    def transitions(self) -> int:
        """How many of its rows are transitions: all, or those that are ``valid``."""
        return int(self.valid.sum()) if "valid" in self else self.reward.numel()

    def only(self, *names: str) -> Batch:
        """A new batch of these fields."""
        return Batch(**{k: self.__dict__[k] for k in names})

    def map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """``fn`` of every tensor."""
        return Batch(**{k: tree_map(fn, v) for k, v in self.__dict__.items()})

    def flatten(self) -> Batch:
        """``[T, N, ...]`` -> ``[T*N, ...]``."""
        return self.map(lambda x: x.flatten(0, 1))

    def take(self, index: torch.Tensor) -> Batch:
        """Rows ``index`` (int64, or a bool mask)."""
        return self.map(lambda x: x[index])

    def split(self, size: int) -> Iterator[Batch]:
        """Consecutive batches of ``size`` rows, views; the last may be smaller."""
        names = list(self.__dict__)
        columns = [_split(self.__dict__[name], size) for name in names]
        for row in zip(*columns, strict=True):
            yield Batch(**dict(zip(names, row, strict=True)))


def _split(x: Any, size: int) -> Any:
    if isinstance(x, dict):
        columns = {k: _split(v, size) for k, v in x.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return x.split(size)
