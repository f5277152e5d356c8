"""Tuned hyperparameters: ``agents/presets/ALGORITHM.toml``, one table an environment."""

from __future__ import annotations

import difflib
import tomllib
from importlib.resources import files
from typing import Any

from .registry import list_agents

__all__ = ["preset", "presets"]


def presets(algorithm: str) -> dict[str, dict[str, Any]]:
    """Environment id -> hyperparameters as the file has them, of every preset of an algorithm; empty without any."""
    file = files("polopt.agents") / "presets" / f"{algorithm.lower()}.toml"
    if not file.is_file():
        return {}
    table = tomllib.loads(file.read_text("utf-8"))
    common = table.pop("every", {})
    return {env: common | own for env, own in table.items()}


def preset(algorithm: str, env: str) -> dict[str, Any]:
    """Keyword arguments for ``algorithm`` on ``env``: ``polopt.PPO("MlpPolicy", env, **polopt.preset("PPO", env))``.

    Raises:
        ValueError: there is no preset; names the nearest.
    """
    known = presets(algorithm)
    name = env.removeprefix("polopt/")
    if name not in known:
        if not known:
            have = [a for a in list_agents() if presets(a)]
            raise ValueError(f"there are no presets for {algorithm!r}; there are for {', '.join(have)}")
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or list(known)
        raise ValueError(f"there is no preset for {algorithm} on {env!r}; did you mean {' or '.join(near)}?")
    found = dict(known[name])
    if "policy_kwargs" in found:
        found["policy_kwargs"] = policy_kwargs(found["policy_kwargs"])
    return found


def policy_kwargs(table: dict[str, Any]) -> dict[str, Any]:
    """``policy_kwargs`` as text has them: ``activation_fn`` is the name of a class of ``torch.nn``.

    Raises:
        ValueError: torch.nn has no such class.
    """
    from torch import nn

    table = dict(table)
    name = table.get("activation_fn")
    if isinstance(name, str):
        if not isinstance(getattr(nn, name, None), type):
            near = difflib.get_close_matches(name, dir(nn), n=3)
            raise ValueError(
                f"activation_fn={name!r} must be a class of torch.nn; did you mean {' or '.join(near) or 'ReLU'}?"
            )
        table["activation_fn"] = getattr(nn, name)
    return table
