"""Files: written whole or not at all, and read without running anything that is in them.

A *state* is a tree of dicts (str keys) whose leaves are tensors, NumPy arrays and JSON values. It is stored as one zip
of ``safetensors`` files and JSON: no pickle, so a file from a stranger is data and nothing else. What grows for the whole
of a run (:class:`Rows`) may be kept beside it, see :mod:`polopt.segments`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

__all__ = [
    "FileError",
    "Rows",
    "atomic",
    "cache_folder",
    "load_state",
    "read_json",
    "save_state",
    "with_zip",
    "write_json",
]

FORMAT = "polopt-state"
VERSION = 1


class FileError(ValueError):
    """A file is not what it should be: truncated, of another version, or not polopt's."""


DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)
"""What reading JSON from a zip raises where bits have changed: whichever field they are in, it may be any of these."""


@dataclass(frozen=True)
class Rows:
    """A leaf of a state: a ring's rows ``[size, width]``, of which a folder of checkpoints writes each only once."""

    source: torch.Tensor | Callable[[], torch.Tensor]
    """The rows, or what reads them: whoever wants the policy alone need not hold a replay."""
    position: int
    """Where the next row goes: the oldest row's place in a ring that is full, else ``size``."""
    added: int
    """Rows ever added."""

    @cached_property
    def table(self) -> torch.Tensor:
        """The rows, read when they are first asked for.

        Raises:
            FileError: they lie in files, and some are missing or damaged.
        """
        return self.source if isinstance(self.source, torch.Tensor) else self.source()

    def __len__(self) -> int:
        return len(self.table)


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears under ``path`` whole, or not at all: temporary name, fsync, rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cache_folder() -> Path:
    """Where what can be made again is kept: the environment variable POLOPT_CACHE, else the platform's folder for it."""
    if given := os.environ.get("POLOPT_CACHE"):
        return Path(given)
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "polopt"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """JSON, atomically, indented."""
    with atomic(path) as f:
        f.write((json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    """A JSON object that has these keys.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it holds none.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise FileError(f"{path} is damaged: it holds no object")
    if lacking := [key for key in keys if key not in value]:
        raise FileError(f"{path} is damaged: it lacks {lacking[0]!r}")
    return value


def save_state(
    file: str | os.PathLike[str] | IO[bytes],
    state: dict[str, Any],
    kind: str,
    apart: Callable[[str, Rows], dict[str, Any]] | None = None,
) -> None:
    """Write a state of this ``kind`` ("model", "training", ...) to a path, atomically, or to an open binary file.

    Args:
        apart: ``(key, rows) -> reference`` keeps :class:`Rows` beside the file (:func:`polopt.segments.write`); without it
            they go into it.

    Raises:
        TypeError: a leaf is neither a tensor, an array nor JSON.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _split(state, "", tensors, apart)
    payload = {"format": FORMAT, "version": VERSION, "kind": kind, "tree": tree}
    if isinstance(file, (str, os.PathLike)):
        with atomic(file) as f:
            _write_zip(f, payload, tensors, Path(file).parent)
    else:
        buffer = io.BytesIO()
        _write_zip(buffer, payload, tensors)
        file.write(buffer.getbuffer())


LARGE = 2**26
"""From so many bytes on, arrays go through a file of their own instead of through memory once more."""


def _write_zip(
    f: IO[bytes], payload: dict[str, Any], tensors: dict[str, torch.Tensor], folder: Path | None = None
) -> None:
    from safetensors.torch import save, save_file

    with zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
        z.writestr("state.json", json.dumps(payload, indent=1))
        if folder is None or sum(x.nbytes for x in tensors.values()) < LARGE:
            z.writestr("arrays.safetensors", save(tensors))
            return
        with tempfile.TemporaryDirectory(prefix=".arrays.", dir=folder) as apart:
            save_file(tensors, Path(apart) / "arrays.safetensors")
            z.write(Path(apart) / "arrays.safetensors", "arrays.safetensors")


def load_state(
    file: str | os.PathLike[str] | IO[bytes],
    kind: str,
    apart: Callable[[dict[str, Any]], Rows | torch.Tensor] | None = None,
) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; arrays come back as CPU tensors, or NumPy arrays where they were.

    Args:
        apart: ``reference -> rows`` finds :class:`Rows` that were kept beside the file (:func:`polopt.segments.beside` when
            they are asked for, :func:`polopt.segments.read` at once); without it a reference stays what it is.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is truncated, of another version or kind, or not polopt's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        with zipfile.ZipFile(file) as z:
            names = z.namelist()
            if "state.json" not in names:
                whose = "a stable-baselines3 model" if "data" in names else "some other program's"
                raise FileError(f"{file} is not a polopt file (it looks like {whose})")
            payload = json.loads(z.read("state.json"))
            if payload.get("format") != FORMAT:
                raise FileError(f"{file} is not a polopt file")
            if payload.get("version") != VERSION:
                raise FileError(
                    f"{file} has format version {payload.get('version')!r}; this polopt reads version {VERSION}: use the polopt that wrote it"
                )
            if payload.get("kind") != kind:
                raise FileError(f"{file} holds a {payload.get('kind')!r} state where a {kind!r} state is needed")
            tensors = load(z.read("arrays.safetensors"))
    except (FileError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (*DAMAGE, SafetensorError) as error:
        raise FileError(f"{file} is not a whole polopt file (truncated or damaged): {error}") from error
    return _join(payload["tree"], tensors, apart)


def _split(x: Any, path: str, tensors: dict[str, torch.Tensor], apart: Callable[[str, Rows], Any] | None) -> Any:
    if isinstance(x, Rows):
        if apart is not None:
            return apart(path.strip("/").replace("/", "."), x)
        x = x.table
    if isinstance(x, torch.Tensor):
        tensors[path] = _alone(x.detach().cpu().contiguous(), tensors)
        return {"$tensor": path}
    if isinstance(x, (np.ndarray, np.generic)) and not isinstance(x, (np.bool_, np.integer, np.floating)):
        array = np.ascontiguousarray(x)
        if array.dtype == np.uint32:  # safetensors for torch has no such type on every version
            tensors[path] = torch.from_numpy(array.view(np.int32).copy())
        elif array.dtype == np.uint64:
            tensors[path] = torch.from_numpy(array.view(np.int64).copy())
        else:
            tensors[path] = torch.from_numpy(array.copy())
        return {"$array": path, "dtype": str(array.dtype), "shape": list(x.shape)}
    if isinstance(x, np.generic):
        return x.item()
    if isinstance(x, dict):
        for k in x:
            if not isinstance(k, str):
                raise TypeError(f"state{path} has the key {k!r}: only strings can be stored")
        return {k: _split(v, f"{path}/{k}", tensors, apart) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_split(v, f"{path}/{i}", tensors, apart) for i, v in enumerate(x)]
    if x is None or isinstance(x, (bool, int, float, str)):
        return x
    raise TypeError(f"state{path} is a {type(x).__name__}: only tensors, arrays and JSON values can be stored")


def _alone(x: torch.Tensor, others: dict[str, torch.Tensor]) -> torch.Tensor:
    """The tensor, or a copy where another one lies in the same memory: safetensors holds each by itself."""
    mine = x.untyped_storage().data_ptr()
    return x.clone() if any(y.untyped_storage().data_ptr() == mine for y in others.values()) else x


def _join(
    x: Any, tensors: dict[str, torch.Tensor], apart: Callable[[dict[str, Any]], Rows | torch.Tensor] | None
) -> Any:
    if isinstance(x, dict):
        if "$tensor" in x:
            return tensors[x["$tensor"]]
        if "$array" in x:
            return tensors[x["$array"]].numpy().view(np.dtype(x["dtype"])).reshape(x["shape"])
        if "$rows" in x:
            return x if apart is None else apart(x)
        return {k: _join(v, tensors, apart) for k, v in x.items()}
    if isinstance(x, list):
        return [_join(v, tensors, apart) for v in x]
    return x


def with_zip(path: Any) -> Any:
    """A path with ``.zip`` where it has no suffix; anything else as it is."""
    if isinstance(path, (str, os.PathLike)) and not os.path.splitext(path)[1]:
        return f"{os.fspath(path)}.zip"
    return path
