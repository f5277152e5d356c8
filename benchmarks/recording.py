"""What every script here writes beside its figures, and a record that grows by one finished run at a time."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

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


def run_checks(
    doc: str,
    checks: dict[str, Any],
    folder: Path,
    play: Callable[[str, str, int], dict[str, Any]],
    summary: Callable[[dict[str, Any]], str],
) -> None:
    """The command line of a script of checks: ``CHECK [--methods ...] [--seeds ...]``. What is not in the check's record is
    played and added, one thread each; then every run's summary is printed."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("check", choices=checks)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    args = parser.parse_args()
    if unknown := sorted(set(args.methods or ()) - set(checks[args.check]["methods"])):
        parser.error(f"--methods {' '.join(unknown)}: {args.check} has {', '.join(checks[args.check]['methods'])}")
    torch.set_num_threads(1)
    record = Runs(folder / f"{args.check}.json", args.check)
    for seed in args.seeds:
        for method in args.methods or checks[args.check]["methods"]:
            if (method, seed) not in record:
                record.add(play(args.check, method, seed))
    for run in record.runs:
        print(summary(run))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
