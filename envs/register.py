"""Make the built-in worlds known to Gymnasium as ``polopt/...``.

``gymnasium.make_vec("polopt/HalfCheetah-v5", num_envs=64)`` gives the native batch behind Gymnasium's vector face and
``gymnasium.make("polopt/HalfCheetah-v5")`` an ordinary single environment, once this package is imported or named:
``"polopt.envs:polopt/HalfCheetah-v5"``. Gymnasium 1.0 gave up plugins that load by themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from .table import TABLE

__all__ = ["register", "register_when_loaded"]


def register() -> None:
    """Register every row of the table with Gymnasium under the namespace ``polopt``; again is harmless."""
    import gymnasium

    for id, world in TABLE.items():
        name = f"polopt/{id.removeprefix('polopt/')}"
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="polopt.envs.vector_face:make_single",
                vector_entry_point="polopt.envs.vector_face:make_vector",
                max_episode_steps=world.max_episode_steps,
                reward_threshold=world.reward_threshold,
                kwargs={"world": id},
            )


def register_when_loaded() -> None:
    """Register now if Gymnasium is loaded, else at the moment it is: so that importing this package stays free."""
    if "gymnasium" in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())


class _AfterGymnasium(MetaPathFinder):
    """Finds nothing itself: sees Gymnasium being imported, once, and registers after it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                del loader.exec_module  # the class's own again
                execute(module)
                register()

            loader.exec_module = execute_and_register
        return spec
