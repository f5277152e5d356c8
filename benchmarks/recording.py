"""What every script here writes beside its figures, and a record that grows by one finished run at a time."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polopt.files import atomic
from polopt.manifest import manifest

RECORDS = Path(__file__).parent / "records"


def made_with(*packages: str) -> dict[str, Any]:
    """When, at which commit (``+`` where polopt's code differs from it), with which versions of these packages, on what."""
    m = manifest("cpu", 1)
    return {
        "date": m["started"],
        "commit": m["commit"],
        "versions": {p: _installed(p) for p in packages} | {"python": m["python"]},
        "machine": {"cpu": m["cpu"]["model"], "cores": m["cpu"]["cores"], "load": round(os.getloadavg()[0], 2)},
    }


def write(path: Path, record: Any, indent: int | None = 1) -> None:
    """The record as JSON, whole or not at all; on one line where ``indent`` is None."""
    separators = (",", ":") if indent is None else None
    with atomic(path) as f:
        f.write((json.dumps(record, indent=indent, separators=separators) + "\n").encode())


class Runs:
    """The finished runs of one check, ``{"check": ..., "runs": [...]}``, told apart by the values of their ``key``.

    Several processes may add to one file, if not at the same instant: it is read anew before it is written.
    """

    def __init__(self, path: Path, check: str, key: Iterable[str] = ("method", "seed")) -> None:
        self.path, self.check, self.key = path, check, tuple(key)

    @property
    def runs(self) -> list[dict[str, Any]]:
        return json.loads(self.path.read_text())["runs"] if self.path.exists() else []

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return any(tuple(run[k] for k in self.key) == key for run in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        write(self.path, {"check": self.check, "runs": [*self.runs, run]}, indent=None)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
