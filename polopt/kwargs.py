"""Keyword arguments as JSON: numbers, strings, lists, and classes by their name.

A file may name classes of torch's and stable-baselines3's, and of these only modules and optimizers: looking one up runs no
code of the file's.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["decode", "encode"]

_TRUSTED = ("torch.nn.", "torch.optim.", "stable_baselines3.")


def encode(kwargs: Any) -> Any:
    """As JSON values.

    Raises:
        TypeError: there is something that no file could give back.
    """
    if isinstance(kwargs, dict):
        if _names_class(kwargs):
            raise TypeError(
                f"{kwargs!r} in policy_kwargs or env_kwargs would be read back as a class: give the class itself"
            )
        return {k: encode(v) for k, v in kwargs.items()}
    if isinstance(kwargs, (list, tuple)):
        return [encode(v) for v in kwargs]
    if inspect.isclass(kwargs) or inspect.isfunction(kwargs):
        return {"class": f"{kwargs.__module__}:{kwargs.__qualname__}"}
    if isinstance(kwargs, (np.generic, np.ndarray)):
        return kwargs.tolist()
    if kwargs is None or isinstance(kwargs, (bool, int, float, str)):
        return kwargs
    raise TypeError(
        f"{kwargs!r} in policy_kwargs or env_kwargs cannot be kept in a file: give numbers, strings and classes"
    )


def _names_class(x: Any) -> bool:
    """Whether it is what a class is stored as."""
    return isinstance(x, dict) and x.keys() == {"class"} and isinstance(x["class"], str) and ":" in x["class"]


def decode(stored: Any, given: Any, path: Any) -> Any:
    """What :func:`encode` made JSON of; where they are ``given`` anew, those, if they are the same.

    Raises:
        ValueError: ``given`` differs from ``stored``, or a class is named that is not looked up from a file.
    """
    if given is not None:
        if encode(given) != stored:
            raise ValueError(f"policy_kwargs={given!r} differ from those stored in {path}: {stored!r}")
        return dict(given)
    if _names_class(stored):
        module, _, name = stored["class"].partition(":")
        if not stored["class"].startswith(_TRUSTED):
            raise ValueError(
                f"{path} uses the class {stored['class']}, which is not looked up from a file: pass policy_kwargs=... to load"
            )
        value: Any = sys.modules.get(module) or importlib.import_module(module)
        for piece in name.split("."):
            value = getattr(value, piece, None)
        # The name's beginning is not enough: what lies behind it may be anything that torch has imported.
        kinds = (nn.Module, torch.optim.Optimizer)
        if not (isinstance(value, type) and issubclass(value, kinds) and f"{value.__module__}.".startswith(_TRUSTED)):
            raise ValueError(
                f"{path} uses {stored['class']}, which is no module or optimizer of torch's or stable-baselines3's: pass "
                "policy_kwargs=... to load"
            )
        return value
    if isinstance(stored, dict):
        return {k: decode(v, None, path) for k, v in stored.items()}
    if isinstance(stored, list):
        return [decode(v, None, path) for v in stored]
    return stored
