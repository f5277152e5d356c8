"""``polopt/__init__.pyi``: what editors and type checkers see of the lazy names. ``python -m polopt.stub`` writes it."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import polopt
from polopt.registry import agent_class, list_agents

__all__ = ["render"]

_HEAD = """\
# Written by `python -m polopt.stub`; a test keeps it true.
from collections.abc import Callable
from typing import Any, Literal

import torch

{imports}

__version__: str
"""
_CLASS = """
class {name}(_{name}):
    def __init__(
        self,
        policy: Literal["MlpPolicy", "MultiInputPolicy", "CnnPolicy"] = ...,
        env: Any = ...,
        *,
{hyperparameters}
        tensorboard_log: str | None = ...,
        policy_kwargs: dict[str, Any] | None = ...,
        verbose: int = ...,
        seed: int | None = ...,
        device: torch.device | str = ...,
        env_kwargs: dict[str, Any] | None = ...,
        _init_setup_model: bool = ...,
    ) -> None: ...
"""


def render() -> str:
    """The text of the stub: every algorithm with its hyperparameters as keyword arguments, and the lazy functions."""
    lazy = polopt._LAZY
    imports = [(home, name, name) for name, home in lazy.items()]
    imports += [(module, name, f"_{name}") for name, module in list_agents().items()]
    lines = [f"from {home} import {name} as {seen}" for home, name, seen in imports]
    head = _HEAD.format(imports="\n".join(sorted([*lines, "from polopt.schedule import Schedule"])))
    return head + "".join(_class(name) for name in list_agents())


def _class(name: str) -> str:
    rows = []
    for f in fields(agent_class(name).Config):
        default: Any = f.default if f.default is not MISSING else ...
        shown = repr(default) if default is None or isinstance(default, (bool, int, float)) else "..."
        rows.append(f"        {f.name}: {f.type} = {shown},")
    return _CLASS.format(name=name, hyperparameters="\n".join(rows))


if __name__ == "__main__":
    Path(polopt.__file__).with_suffix(".pyi").write_text(render())
