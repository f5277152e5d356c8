"""On what a run was made: versions, commit, processor. Bit-identical resume holds on the same manifest only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["DECISIVE", "commit", "manifest"]

_PACKAGES = ("polopt", "torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "safetensors")
DECISIVE = ("packages", "python", "cpu", "threads", "device")
"""What has to be equal for two machines to compute the same bits."""


def manifest(device: Any, threads: int) -> dict[str, Any]:
    """What the present process runs on, as JSON values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "commit": commit(),
        "platform": platform.platform(),
        "cpu": _cpu() | {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()},
        "threads": threads,
        "device": str(device),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of polopt's checkout, with ``+`` where its code differs from it (records written beside the code do not
    count); None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    code = [name for name in ("polopt", "agents", "envs", "theory") if (root / name).is_dir()]
    try:
        git = ("git", "-C", str(root))
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = [*git, "status", "--porcelain", "--", *code]
        differs = subprocess.run(changed, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(differs)


def _cpu() -> dict[str, str]:
    """Model and instruction sets: the math libraries choose their kernels by them."""
    found = {"model": platform.processor(), "flags": ""}
    if sys.platform == "linux":
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines())
        told = {name.strip(): value.strip() for name, _, value in lines}
        found = {"model": told.get("model name", found["model"]), "flags": told.get("flags", told.get("Features", ""))}
    return found
