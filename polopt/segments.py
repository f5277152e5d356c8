"""Segments: the rows of a growing table, kept beside a folder's states, each row written once.

A checkpoint of a replay of a million rows would write hundreds of megabytes of which nearly all were written before. Here
each checkpoint adds one file with the rows that came since the last, ``rows/KEY/START-STOP.safetensors``, numbered from the
first row ever added, and refers to the numbers it needs. Files are written whole or not at all and never changed; those
that no state refers to any more are removed.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import DAMAGE, FileError, Rows, atomic

__all__ = ["beside", "cut", "prune", "read", "write"]

FOLDER = "rows"


def write(folder: Path, key: str, rows: Rows) -> dict[str, Any]:
    """Add what is new of the rows to the segments of ``folder``. Returns what a state keeps of them."""
    from safetensors.torch import save

    first = rows.added - len(rows.table)
    start = max(first, max((stop for _, stop, _ in _segments(folder, key)), default=0))
    if start < rows.added:
        new = rows.table.roll(-rows.position, 0)[start - first :].cpu().contiguous()
        with atomic(folder / FOLDER / key / f"{start:012d}-{rows.added:012d}.safetensors") as f:
            f.write(save({"rows": new}))
    return {"$rows": key, "first": first, "added": rows.added, "position": rows.position, "width": rows.table.shape[1]}


def read(folder: Path, node: dict[str, Any]) -> Tensor:
    """The table that :func:`write` gave this node for, in its ring's order.

    Raises:
        FileError: rows of it are missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    at, parts = node["first"], []
    for start, stop, path in _segments(folder, node["$rows"]):
        if start <= at < stop and at < node["added"]:
            try:
                rows = load(path.read_bytes())["rows"]
            except (SafetensorError, KeyError) as error:
                raise FileError(f"{path} is damaged: {error}") from error
            parts.append(rows[at - start : node["added"] - start])
            at = min(stop, node["added"])
    if at != node["added"]:
        raise FileError(f"the rows {at} to {node['added']} of {folder / FOLDER / node['$rows']} are missing")
    return torch.cat(parts).roll(node["position"], 0) if parts else torch.empty(0, node["width"])


def beside(state: str | os.PathLike[str]) -> Callable[[dict[str, Any]], Rows] | None:
    """How rows that lie beside a state's file are found: read when they are asked for, so that a policy is had without its
    replay. None where it is an open file, which lies nowhere."""
    if not isinstance(state, (str, os.PathLike)):
        return None
    folder = Path(state).absolute().parent
    return lambda node: Rows(partial(read, folder, node), node["position"], node["added"])


def cut(state: Path) -> None:
    """Remove what was written after this state, beside which the segments lie, and what was left half written."""
    for half_written in (state.parent / FOLDER).glob("*/.*"):
        half_written.unlink()
    for key, node in _references(state).items():
        for _, stop, path in _segments(state.parent, key):
            if stop > node["added"]:
                path.unlink()


def prune(folder: Path, states: Iterable[Path]) -> None:
    """Remove the segments of ``folder`` that none of these states refers to."""
    needed: dict[str, int] = {}
    for state in states:
        for key, node in _references(state).items():
            needed[key] = min(node["first"], needed.get(key, node["first"]))
    for key, first in needed.items():
        for _, stop, path in _segments(folder, key):
            if stop <= first:
                path.unlink()


def _segments(folder: Path, key: str) -> list[tuple[int, int, Path]]:
    """``(start, stop, path)`` in order."""
    found = sorted((folder / FOLDER / key).glob("[0-9]*.safetensors"))
    return [(*map(int, path.stem.split("-")), path) for path in found]


def _references(state: Path) -> dict[str, dict[str, Any]]:
    """Every reference to rows in a state's file, by key; none in one that is damaged."""
    try:
        with zipfile.ZipFile(state) as z:
            tree = json.loads(z.read("state.json"))["tree"]
    except DAMAGE:
        return {}
    found: dict[str, dict[str, Any]] = {}

    def walk(x: Any) -> None:
        if isinstance(x, dict):
            if "$rows" in x:
                found[x["$rows"]] = x
            for y in x.values():
                walk(y)
        elif isinstance(x, list):
            for y in x:
                walk(y)

    walk(tree)
    return found
