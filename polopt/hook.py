"""Doing something the moment another package is imported, so that importing this one stays free."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["when_loaded"]


def when_loaded(package: str, do: Callable[[], object]) -> None:
    """Call ``do`` now if the package is loaded, else once, right after it is."""
    if package in sys.modules:
        do()
    else:
        sys.meta_path.insert(0, _After(package, do))


class _After(MetaPathFinder):
    """Finds nothing itself: sees one package being imported, once, and acts after it."""

    def __init__(self, package: str, do: Callable[[], object]) -> None:
        self.package, self.do = package, do

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.package:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_act(module: ModuleType) -> None:
                vars(loader).pop("exec_module", None)  # the class's own again
                execute(module)
                self.do()

            loader.exec_module = execute_and_act
        return spec
