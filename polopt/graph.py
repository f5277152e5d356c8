"""Static steps: tensor-only methods that run eager or as one compiled graph; the agent does not know which."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiler_available", "static"]


def static(method: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a method whose arguments and result are tensors (or batches of them) of unchanging shape. An argument that
    is a tuple, string or integer is a constant: each of its values gets a graph of its own.

    Where ``self.compiled`` is true, the method is compiled as one full graph for the first shapes it is called with
    (whichever come first: the full minibatch); calls of other shapes, such as a last smaller minibatch, run eager.
    """

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> Any:
        if not self.compiled:
            return method(self, *args)
        graphs = self.__dict__.setdefault("_graphs", {})
        shapes = tuple(_shape(a) for a in args)
        key = (method.__name__, *(a for a in args if isinstance(a, (tuple, str, int))))
        entry = graphs.get(key)
        if entry is None:
            entry = graphs[key] = (shapes, torch.compile(method.__get__(self), fullgraph=True, dynamic=False))
        if entry[0] != shapes:
            _count_eager(self, method.__name__)
            return method(self, *args)
        self.__dict__["_eager_calls"] = 0
        return entry[1](*args)

    return call


def _count_eager(self: Any, name: str) -> None:
    """Say once where compiling is in vain: hundreds of calls, none of them of the compiled shapes."""
    self.__dict__["_eager_calls"] = calls = self.__dict__.get("_eager_calls", 0) + 1
    if calls == 300 and not self.__dict__.get("_told_of_eager"):
        self.__dict__["_told_of_eager"] = True
        warnings.warn(
            f"compile=True: {name} keeps coming in other shapes than it was compiled for, and runs eager; fix the batch size",
            stacklevel=3,
        )


def _shape(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return x.shape
    if isinstance(x, dict):
        return tuple((k, _shape(v)) for k, v in x.items())
    if hasattr(x, "__dict__"):
        return _shape(x.__dict__)
    return x


@functools.cache
def compiler_available() -> bool:
    """Whether ``torch.compile`` can build kernels here; says so once where it cannot."""
    dynamo = torch._dynamo.config
    dynamo.trace_autograd_ops = True  # gradients inside the graph
    # Every agent of a process compiles the same methods anew: the limits are on the method, not on the agent.
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(dynamo, limit, max(getattr(dynamo, limit), 4096))
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("c++", "g++", "clang++", "icpx")):
        return True
    warnings.warn("no C++ compiler was found: compile=True runs eager", stacklevel=2)
    return False
