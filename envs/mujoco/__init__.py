"""Gymnasium's MuJoCo v5 tasks, N worlds at a time, on MuJoCo's own batched engine.

Importing this package is cheap: a task's module, and with it MuJoCo, loads when its class is first used.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# MuJoCo chooses its OpenGL backend when it is first imported, and its default needs a display.
HEADLESS = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
if HEADLESS:
    os.environ.setdefault("MUJOCO_GL", "egl")

if TYPE_CHECKING:
    from .ant import Ant
    from .arm import Pusher, Reacher
    from .base import MujocoEnv
    from .humanoid import Humanoid, HumanoidStandup
    from .pendulum import InvertedDoublePendulum, InvertedPendulum
    from .planar import HalfCheetah, Hopper, Swimmer, Walker2d

__all__ = [
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "MujocoEnv",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
]

_MODULES = {
    "Ant": "ant",
    "HalfCheetah": "planar",
    "Hopper": "planar",
    "Humanoid": "humanoid",
    "HumanoidStandup": "humanoid",
    "InvertedDoublePendulum": "pendulum",
    "InvertedPendulum": "pendulum",
    "MujocoEnv": "base",
    "Pusher": "arm",
    "Reacher": "arm",
    "Swimmer": "planar",
    "Walker2d": "planar",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
