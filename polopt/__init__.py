"""polopt: policy optimization for classical control.

One engine, thin method files. ``polopt.PPO`` and every other algorithm load on first use::

    import polopt

    model = polopt.PPO("MlpPolicy", "HalfCheetah-v5", seed=0)
    model.learn(total_timesteps=100_000, progress_bar=True)
    mean, std = polopt.evaluate_policy(model, "HalfCheetah-v5", n_eval_episodes=10)

``polopt.list_agents()`` lists the algorithms, ``polopt.list_envs()`` the environments that run natively.
"""

from __future__ import annotations

import importlib
from typing import Any

from .hook import when_loaded

__version__ = "0.1.0"

_LAZY = {
    "list_agents": "polopt.registry",
    "as_env": "polopt.envs",
    "evaluate_policy": "polopt.evaluate",
    "list_envs": "polopt.envs",
    "load": "polopt.evaluate",
    "load_dataset": "polopt.dataset_files",
    "make_env": "polopt.envs",
    "normalized_score": "polopt.evaluate",
    "preset": "polopt.presets",
    "resume": "polopt.run",
}


when_loaded("gymnasium", lambda: importlib.import_module("polopt.envs"))  # makes the ids "polopt/..." known to it


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name.startswith("_") or name.islower():
        raise AttributeError(f"module 'polopt' has no attribute {name!r}")
    else:
        registry = importlib.import_module("polopt.registry")
        if name not in registry.list_agents():
            raise AttributeError(f"polopt has no algorithm {name!r}; it has {', '.join(registry.list_agents())}")
        value = registry.agent_class(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    registry = importlib.import_module("polopt.registry")
    return sorted({*_LAZY, *registry.list_agents(), "__version__"})
