"""What there is: the file system is the registry. Nothing is imported to list it."""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
from importlib.resources import files
from typing import Any

__all__ = ["agent_class", "list_agents"]


@functools.cache
def list_agents() -> dict[str, str]:
    """Algorithm name -> module, of every file in the family folders of ``polopt.agents``; none of them is imported."""
    found = {}
    for family in sorted(files("polopt.agents").iterdir(), key=lambda p: p.name):
        if family.name.startswith(("_", ".")) or not family.is_dir():
            continue
        for file in sorted(family.iterdir(), key=lambda p: p.name):
            if file.name.endswith(".py") and not file.name.startswith("_"):
                name = _first_export(file.read_text("utf-8"))
                if name is not None:
                    found[name] = f"polopt.agents.{family.name}.{file.name.removesuffix('.py')}"
    return found


def _first_export(source: str) -> str | None:
    """The class a file is about: the first name in its ``__all__``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)[0]
    return None


def agent_class(name: str) -> Any:
    """The algorithm of this name, whatever its case.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known = list_agents()
    exact = {k.lower(): k for k in known}.get(name.lower().replace("-", "").replace("_", ""))
    if exact is None:
        near = difflib.get_close_matches(name.upper(), known, n=3, cutoff=0.4) or list(known)
        raise ValueError(f"there is no algorithm {name!r}; did you mean {' or '.join(near)}?")
    return getattr(importlib.import_module(known[exact]), exact)
