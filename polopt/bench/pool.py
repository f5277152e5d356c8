"""Run a suite's cells on a pool of processes, resumably: a finished cell never runs again, a dead one is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic
from .suite import Cell, Suite, load_suite

__all__ = ["Outcome", "read_record", "records_folder", "run_suite", "write_record"]

SCHEMA = 1
"""The version of a record's form."""
_RECORD = ("label", "cell", "commit", "versions", "machine", "steps_per_cpu_second", "curve", "diagnostics")
_CELL = ("library", "env", "seed", "steps", "evaluation")
LEASE = 900.0
"""Seconds without a heartbeat after which a claim of another machine counts as dead."""
_HEARTBEAT = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of a suite's selected cells, by name."""

    finished: tuple[str, ...]
    """Run to their record by this call."""
    skipped: tuple[str, ...]
    """Already had a record."""
    elsewhere: tuple[str, ...]
    """Claimed by another live process."""
    failed: tuple[str, ...]
    """Ended without a record; the log says why."""


def records_folder(suite: Suite, root: str | Path | None = None) -> Path:
    """Where a suite's records lie: ``root/records/<suite>``, root being by default the suite's own folder, or the one above where that is
    called ``suites``."""
    if root is None:
        folder = suite.path.resolve().parent
        root = folder.parent if folder.name == "suites" else folder
    root = Path(root)
    return root / "records" / suite.name


def run_suite(
    path: str | Path,
    workers: int = 2,
    only: str | Sequence[str] | None = None,
    root: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Run what is unfinished of a suite, each cell in a fresh process with one torch thread.

    Several calls, on one machine or on several that share the file system, divide the cells among them. A call that is
    killed loses nothing of a polopt cell but what came after its last evaluation; a peer's cell starts anew.

    Args:
        path: the suite file.
        workers: how many cells run at once.
        only: shell patterns on ``label/env/seed``; None runs all.
        root: records go to ``root/records/<suite>``, claims and logs to ``root/.cells/<suite>``.
        say: takes a line for every cell that starts or ends.

    Raises:
        ValueError: a bad suite file, ``workers`` below 1, or a pattern that matches nothing.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}; it takes at least 1")
    suite = load_suite(path)
    cells = suite.select(only)
    records = records_folder(suite, root)
    scratch = records.parent.parent / ".cells" / suite.name
    records.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)

    todo = list(cells)
    running: dict[Any, tuple[Any, Cell, float]] = {}
    outcome: dict[str, list[str]] = {"finished": [], "skipped": [], "elsewhere": [], "failed": []}
    context = multiprocessing.get_context("spawn")
    try:
        while todo or running:
            while todo and len(running) < workers:
                cell = todo.pop(0)
                claim = scratch / f"{cell.stem}.claim"
                if _has_record(records, cell):
                    outcome["skipped"].append(cell.name)
                    continue
                if not _claim(claim):
                    outcome["elsewhere"].append(cell.name)
                    say(f"elsewhere {cell.name}")
                    continue
                if _has_record(records, cell):  # finished by another process between the look and the claim
                    claim.unlink()
                    outcome["skipped"].append(cell.name)
                    continue
                process = context.Process(target=_work, args=(cell, records, scratch), name=cell.name)
                process.start()
                running[process.sentinel] = (process, cell, time.monotonic())
                say(f"started   {cell.name}  log {scratch / cell.stem}.log")
            for sentinel in wait(list(running)) if running else ():
                process, cell, since = running.pop(sentinel)
                process.join()
                done = _has_record(records, cell)
                outcome["finished" if done else "failed"].append(cell.name)
                what = "finished " if done else f"FAILED (exit code {process.exitcode})"
                say(f"{what} {cell.name}  {(time.monotonic() - since) / 60:.1f} min  log {scratch / cell.stem}.log")
    finally:
        for process, _, _ in running.values():
            process.terminate()
            process.join()
    return Outcome(**{key: tuple(names) for key, names in outcome.items()})


def read_record(path: Path) -> dict[str, Any]:
    """A record of :func:`write_record`.

    Raises:
        ValueError: the file is no record, or of another version.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
        schema = record["schema"]
        for table, keys in ((record, _RECORD), (record["cell"], _CELL), (record["machine"], ("cpu", "cores"))):
            for key in keys:
                table[key]
        steps, returns = np.array(record["curve"]["steps"], float), np.array(record["curve"]["returns"], float)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a benchmark record: {error!r}") from error
    if schema != SCHEMA:
        raise ValueError(f"{path} is a record of version {schema!r}; this polopt reads version {SCHEMA}")
    if returns.ndim != 2 or not returns.size or len(steps) != len(returns) or not np.isfinite(returns).all():
        raise ValueError(f"{path} is not a benchmark record: its curve is empty, or holds what is no number")
    return record


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write JSON with one line for every top-level key; readers see the old file or the new one, never a part."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items())
    with atomic(path) as file:
        file.write(("{\n" + lines + "\n}\n").encode())


def _has_record(records: Path, cell: Cell) -> bool:
    return (records / f"{cell.stem}.json").exists()


def _work(cell: Cell, records: Path, scratch: Path) -> None:
    """The life of a worker process: one cell. It goes on, claim and all, should the process that started it die."""
    claim = scratch / f"{cell.stem}.claim"
    claim.write_text(json.dumps(_owner()))
    threading.Thread(target=_beat, args=(claim,), daemon=True).start()
    log = (scratch / f"{cell.stem}.log").open("a", buffering=1, encoding="utf-8")
    for descriptor in (1, 2):  # of the process, not only of Python: MuJoCo writes there too
        os.dup2(log.fileno(), descriptor)
    try:
        import torch

        torch.set_num_threads(1)
        from .cell import run_cell

        write_record(records / f"{cell.stem}.json", run_cell(cell, scratch / cell.stem))
        for suffix in (".zip", ".json"):
            (scratch / f"{cell.stem}{suffix}").unlink(missing_ok=True)
    finally:
        claim.unlink(missing_ok=True)


def _beat(claim: Path) -> None:
    while True:
        time.sleep(_HEARTBEAT)
        if claim.exists():
            os.utime(claim)


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _claim(path: Path) -> bool:
    """Take a cell by creating its claim, which only one process can do; a dead owner's claim is moved away first.

    Should two processes bury the same dead claim at the same moment, both may run the cell; they write the same record.
    """
    try:
        with path.open("x") as file:
            json.dump(_owner(), file)
        return True
    except FileExistsError:
        if _alive(path):
            return False
    grave = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return False
    grave.unlink()
    return _claim(path)


def _alive(claim: Path) -> bool:
    """Whether a claim's owner still works: its process on this machine, its heartbeat on another."""
    try:
        fresh = time.time() - claim.stat().st_mtime < LEASE
        owner = json.loads(claim.read_text())
        host, pid, born = owner["host"], owner["pid"], owner["born"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):  # being written this very moment, or its writer died doing so
        return fresh
    if host != socket.gethostname():
        return fresh
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(pid) == born


def _born(pid: int) -> str | None:
    """When a process started [clock ticks since boot], which tells it from a later one of the same pid; Linux only."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else None
