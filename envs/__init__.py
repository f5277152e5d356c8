"""The worlds: every environment polopt can act in, behind one face.

``make_env(id)`` builds worlds from an id, ``as_env(x)`` takes what another library made (a Gymnasium environment or
vector environment, a stable-baselines3 ``VecEnv``), ``list_envs()`` names what is built in. Importing this package
loads neither torch nor Gymnasium; it makes the ``polopt/...`` ids known to Gymnasium as soon as Gymnasium is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polopt.hook import when_loaded

from .register import register
from .table import list_envs

if TYPE_CHECKING:
    from .gymnasium import GymnasiumEnv, GymnasiumVector, flatten_goal
    from .make import as_env, make_env
    from .sb3 import SB3VecEnv, to_sb3
    from .wrappers import TimeAware, TimeLimit

__all__ = [
    "GymnasiumEnv",
    "GymnasiumVector",
    "SB3VecEnv",
    "TimeAware",
    "TimeLimit",
    "as_env",
    "flatten_goal",
    "list_envs",
    "make_env",
    "to_sb3",
]

_HOME = {
    "GymnasiumEnv": "gymnasium",
    "GymnasiumVector": "gymnasium",
    "SB3VecEnv": "sb3",
    "TimeAware": "wrappers",
    "TimeLimit": "wrappers",
    "as_env": "make",
    "flatten_goal": "gymnasium",
    "make_env": "make",
    "to_sb3": "sb3",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


when_loaded("gymnasium", register)
