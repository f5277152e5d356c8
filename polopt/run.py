"""Runs: a folder that holds everything about one training, and from which it goes on exactly where it was killed.

::

    runs/cheetah/
        config.json        what was asked for: algorithm, environment, every hyperparameter, steps, seed
        manifest.json      on what it ran: versions, commit, processor, threads (one entry per start)
        progress.csv       the log, one line per iteration; TensorBoard event files beside it
        checkpoints/       step_XXXXXXXX.zip, the last two; a replay's rows beside them, each written once
        model.zip          at the end

A checkpoint is taken between two iterations: parameters, optimizer, normalisers, generators, environment, and how far
the log had come. ``resume`` cuts the log back to it. What comes out is bit-identical to the run that was never killed,
on the same machine and versions; times and rates apart.
"""

from __future__ import annotations

import csv
import io
import os
import re
import secrets
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import HumanOutputFormat, KVWriter, Logger, TensorBoardOutputFormat

from . import kwargs as kwargs_codec
from . import segments
from .agent import Agent
from .config import whole_number
from .dataset import Dataset
from .errors import NonFiniteError
from .evaluate import checkpoints
from .files import FileError, atomic, load_state, read_json, save_state, write_json
from .loop import threads_for
from .manifest import DECISIVE, manifest
from .model_file import restore
from .registry import agent_class

__all__ = ["CSVLog", "Run", "RunError", "Session", "new_run", "reopen", "resume", "train_run"]

KEPT = 2
"""Checkpoints kept: the newest, and one more in case the disk damages it."""
_SPARE = 64 * 2**20
"""Room [bytes] asked of the disk beside the checkpoints."""


class RunError(RuntimeError):
    """A run directory cannot be used as asked: it holds a run already, holds none, or cannot be written."""


@dataclass(frozen=True)
class Run:
    """What :func:`train_run` and :func:`resume` return."""

    model: Agent
    folder: Path
    finished: bool
    """Whether all steps were run; false after a signal, or where a callback stopped it."""
    signal: int | None = None
    """The signal that stopped it."""


def train_run(
    algorithm: str,
    env: str,
    total_timesteps: int,
    out: str | os.PathLike[str],
    *,
    progress_bar: bool = False,
    callback: Any = None,
    **kwargs: Any,
) -> Run:
    """Train an algorithm in a new run directory: :func:`new_run`, and :meth:`Session.train`."""
    return new_run(algorithm, env, total_timesteps, out, **kwargs).train(progress_bar, callback)


def resume(
    folder: str | os.PathLike[str],
    *,
    total_timesteps: int | None = None,
    progress_bar: bool = False,
    callback: Any = None,
    verbose: int = 0,
) -> Run:
    """Go on from a run's last checkpoint as if it had never stopped: :func:`reopen`, and :meth:`Session.train`."""
    return reopen(folder, total_timesteps=total_timesteps, verbose=verbose).train(progress_bar, callback)


def new_run(
    algorithm: str,
    env: str,
    total_timesteps: int,
    out: str | os.PathLike[str],
    *,
    seed: int | None = 0,
    dataset: str | os.PathLike[str] | None = None,
    prior: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 30.0,
    **kwargs: Any,
) -> Session:
    """A run directory with everything but the training.

    Args:
        total_timesteps: environment steps; with a dataset, gradient steps.
        out: the directory; new, empty, or as a start that was killed left it.
        dataset: learn from this alone: a local Minari id, a Minari folder or a D4RL file. The run keeps its hash, not its
            rows; ``env`` is what the policy is evaluated in.
        prior: learn from this beside the environment, where the method can (RLPD); named as ``dataset`` is. The run keeps
            its hash, and the checkpoints its rows.
        checkpoint_every: steps between checkpoints; None goes by time.
        checkpoint_seconds: seconds between checkpoints where ``checkpoint_every`` is None.
        kwargs: the constructor's: hyperparameters, ``num_envs``, ``env_kwargs``, ``policy_kwargs``, ``device``, ...

    Raises:
        RunError: ``out`` holds a run or other files, cannot be written, or its disk is full.
        ValueError, TypeError: as the constructor.
        FileNotFoundError, DatasetError: as ``learn_offline``.
    """
    folder = Path(out)
    check_free(folder)
    if not isinstance(env, str):
        raise TypeError(f"env={env!r} must be an environment id: a run is made again from its directory")
    whole_number("total_timesteps", total_timesteps, 1)
    if kwargs.get("tensorboard_log") is not None or not kwargs.get("_init_setup_model", True):
        raise TypeError("tensorboard_log and _init_setup_model are not for a run: its events lie beside its log")
    cadence = _Cadence(checkpoint_every, checkpoint_seconds)
    cls = agent_class(algorithm)
    model = cls(env=env, seed=secrets.randbits(31) if seed is None else seed, **kwargs)  # a run has one, ever
    data = None if dataset is None else _load_dataset(model, dataset)
    prior_data = None if prior is None else _load_prior(model, prior)
    if prior_data is not None:
        model.add_prior(prior_data)
    for name, value in model.config.to_json().items():
        if isinstance(value, dict) and "callable" in value:
            raise ValueError(f"{name} is a function, which config.json cannot hold: give a number or 'lin_NUMBER'")
    for kwargs_ in (model.policy_kwargs, model.env_kwargs):  # what could not be read back is refused now
        kwargs_codec.decode(kwargs_codec.encode(kwargs_), None, folder)
    config = {
        "algorithm": type(model).__name__,
        "env": env,
        "env_kwargs": kwargs_codec.encode(model.env_kwargs),
        "num_envs": model.n_envs,
        "policy": model.policy_class,
        "hyperparameters": model.config.to_json(),
        "policy_kwargs": kwargs_codec.encode(model.policy_kwargs),
        "total_timesteps": int(total_timesteps),
        "dataset": None if data is None else {"source": _whole_path(dataset), "sha256": data.hash},
        "prior": None if prior_data is None else {"source": _whole_path(prior), "sha256": prior_data.hash},
        "seed": model.seed,
        "device": str(kwargs.get("device", "auto")),
        "checkpoint_every": checkpoint_every,
        "checkpoint_seconds": checkpoint_seconds,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            check_free(folder)  # again: another may have begun here while this model was made
            try:
                _clear(folder)
                log = _Log(folder, model.verbose)
                first = _write_checkpoint(folder, model, log)
                need, free = 10 * first.stat().st_size + _SPARE, shutil.disk_usage(folder).free
                if free < need:
                    raise RunError(
                        f"the disk of {folder} has {free / 2**20:.0f} MB left, this run needs {need / 2**20:.0f} MB"
                    )
                write_json(folder / "config.json", config)
            except BaseException:  # a signal, too: config.json is written last, and without it nothing here is a run
                _clear(folder)
                raise
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error}") from error
    return Session(folder, model, log, int(total_timesteps), cadence, first.name, data)


_BEGUN = re.compile(
    r"progress\.csv|events\.out\.tfevents\..*|\.(progress\.csv|config\.json)\..*"
    r"|checkpoints/(\.lock|step_0+\.zip|\.step_0+\.zip\..*|(rows|\.arrays\.[^/]*)/.*)"
)
"""What a start writes before ``config.json``."""


def check_free(folder: Path) -> None:
    """Raise where a run cannot begin: in anything but a new directory, an empty one, or what a start that was killed left,
    which its lock tells from somebody's files."""
    if (folder / "config.json").exists():
        raise RunError(f"{folder} already holds a run: go on with it (--resume {folder}), or choose another directory")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: choose another directory")
    if any(parent.is_file() for parent in folder.parents):
        raise RunError(f"cannot write to {folder}: it lies below a file")
    others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if (folder / "checkpoints" / ".lock").exists():
        files = [p for p in folder.rglob("*") if not p.is_dir()]
        others = sorted(p.name for p in files if not _BEGUN.fullmatch(p.relative_to(folder).as_posix()))
        log = folder / "progress.csv"
        others += [log.name] if log.exists() and log.stat().st_size else []  # a start has no lines
    if others:
        raise RunError(f"{folder} holds other files ({', '.join(others[:3])}): choose a new directory, or an empty one")


def discard(folder: Path) -> None:
    """Remove a run, and whatever lies with it.

    Raises:
        RunError: a process trains in it.
    """
    with _alone(folder):
        _clear(folder)


def _clear(folder: Path) -> None:
    """Remove all there is but the lock, which is held; ``config.json``, which says what the rest is, at last."""
    found = [*(folder / "checkpoints").iterdir(), *folder.iterdir()]
    for path in sorted(found, key=lambda p: p.name == "config.json"):
        if path.name not in ("checkpoints", ".lock"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def reopen(folder: str | os.PathLike[str], *, total_timesteps: int | None = None, verbose: int = 0) -> Session:
    """A run as it was at its last checkpoint; what the log has after it is cut off.

    Args:
        total_timesteps: run on to so many steps, more than the run was begun for; schedules are then of the longer run.

    Raises:
        ValueError, TypeError: ``total_timesteps`` is no whole number, or less than what the run was begun for.
        RunError: there is no run, or no whole checkpoint; another process trains in it.
        FileError: a file of the run is damaged.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise RunError(f"{folder} holds no run (there is no config.json)")
    if total_timesteps is not None:
        whole_number("total_timesteps", total_timesteps, 1)
    may_write = os.access(folder / "checkpoints", os.W_OK)  # who may not can look at a finished run
    with _alone(folder) if may_write else nullcontext():  # else the log of the one that trains would be cut
        config = read_json(folder / "config.json", _CONFIG)
        if total_timesteps is not None and total_timesteps != config["total_timesteps"]:
            if total_timesteps < config["total_timesteps"]:
                raise ValueError(
                    f"total_timesteps={total_timesteps} is less than the {config['total_timesteps']} that {folder} was begun for"
                )
            config["total_timesteps"] = int(total_timesteps)
        for half_written in (folder / "checkpoints").glob(".step_*"):
            half_written.unlink()
        for half_written in (folder / "checkpoints").glob(".arrays.*"):
            shutil.rmtree(half_written)
        path, state = _last_checkpoint(folder)
        segments.cut(path)
        cls = agent_class(config["algorithm"])
        model = restore(cls, state, path, config["env"], config["device"], {"verbose": verbose})
        cadence = _Cadence(config["checkpoint_every"], config["checkpoint_seconds"], model.num_timesteps)
        session = Session(folder, model, None, config["total_timesteps"], cadence, checkpoints(folder)[-1].name)
        if not session.finished:
            if given := config.get("dataset"):
                session.dataset = _load_dataset(model, given["source"])
                if session.dataset.hash != given["sha256"]:
                    raise RunError(f"{given['source']} holds other rows than the dataset that {folder} was started on")
            write_json(folder / "config.json", config)
            session.log = _Log(folder, verbose, cut_to=state["log"])
        return session


@dataclass
class Session:
    """A model in its run directory, ready to train."""

    folder: Path
    model: Agent
    log: _Log | None
    """None of a finished run, which writes no more"""
    total_timesteps: int
    cadence: _Cadence
    checkpoint: str
    """The name of the newest checkpoint when it was opened"""
    dataset: Dataset | None = None
    """What it learns from alone, where it does"""

    @property
    def finished(self) -> bool:
        """Whether all steps were run and ``model.zip`` is there."""
        return self.model.num_timesteps >= self.total_timesteps and (self.folder / "model.zip").exists()

    def train(
        self, progress_bar: bool = False, callback: Any = None, watch: Callable[[Agent], None] | None = None
    ) -> Run:
        """Train to the end; or to the first SIGINT or SIGTERM, which finishes the iteration and takes a checkpoint.

        Args:
            callback: as for ``learn``. Its own counters are not part of a checkpoint.
            watch: called with the model after each iteration.

        Raises:
            RunError: another process trains in this directory.
            FileError: ``manifest.json`` is damaged.
            EnvError, NonFiniteError: as ``learn``; the checkpoints stay.
            OSError: a checkpoint could not be written; the former ones stay.
        """
        model, folder, log, stop = self.model, self.folder, self.log, _Stop()
        if log is None:
            return Run(model, folder, finished=True)

        def commit(model: Agent) -> bool:
            if stop.signal is not None or self.cadence.due(model.num_timesteps):
                _write_checkpoint(folder, model, log)
                self.cadence.taken(model.num_timesteps)
            if watch is not None:
                watch(model)
            return stop.signal is None

        try:
            with _alone(folder), stop:  # nothing is touched before it is known that nobody else trains here
                if [p.name for p in checkpoints(folder)[-1:]] != [self.checkpoint]:
                    raise RunError(f"{folder} has gone on since this session was opened: open it anew")
                (folder / "model.zip").unlink(missing_ok=True)  # of a training that a callback had stopped: it goes on
                _note_start(folder, model)
                model.set_logger(log.logger)
                model._commit = commit
                if model.num_timesteps == 0:
                    torch.manual_seed(model.seed)  # what callbacks draw; the model has a generator of its own
                left, how = max(self.total_timesteps - model.num_timesteps, 0), dict(callback=callback)
                how |= dict(reset_num_timesteps=model.num_timesteps == 0, progress_bar=progress_bar)
                if self.dataset is None:
                    model.learn(left, **how)
                else:
                    model.learn_offline(self.dataset, left, **how)
                if stop.signal is None:
                    _write_checkpoint(folder, model, log)
                    model.save(folder / "model.zip")
        finally:
            model._commit = None
            log.close()
        return Run(model, folder, finished=self.finished, signal=stop.signal)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Inside, no other process trains in the directory. The system lets go of the lock when the process ends, however it does.

    Raises:
        RunError: one does already.
    """
    (folder / "checkpoints").mkdir(exist_ok=True)
    with open(folder / "checkpoints" / ".lock", "w") as lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError:
            raise RunError(
                f"another process is training in {folder}: wait for it, or choose another directory"
            ) from None
        yield


_CONFIG = ("algorithm", "env", "device", "total_timesteps", "checkpoint_every", "checkpoint_seconds")
"""What :func:`reopen` needs of ``config.json``; the rest is for people."""


def _load_dataset(model: Agent, source: str | os.PathLike[str]) -> Dataset:
    """The dataset, if the model can learn from it."""
    if not hasattr(model, "learn_offline"):
        raise ValueError(f"{type(model).__name__} learns from its own rollouts only: it does not take a dataset")
    model.check_offline()
    data = _read_named("dataset", source)
    data.check(model.observation_space, model.action_space)
    if model.config.n_steps > 1:
        data.check_order()
    return data


def _load_prior(model: Agent, source: str | os.PathLike[str]) -> Dataset:
    """The prior data, if the model takes any."""
    if not hasattr(model, "add_prior"):
        raise ValueError(f"{type(model).__name__} does not take prior data; RLPD does")
    return _read_named("prior", source)


def _read_named(argument: str, source: str | os.PathLike[str]) -> Dataset:
    """A dataset whose place ``config.json`` can name."""
    from .dataset_files import load_dataset

    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"{argument}={source!r} must be an id or a path: config.json names where the rows are from")
    return load_dataset(source)


def _whole_path(source: str | os.PathLike[str]) -> str:
    """Where it lies, from any working directory; an id stays one."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@dataclass
class _Cadence:
    """When a checkpoint is due: every so many steps, or every so many seconds."""

    every: int | None
    seconds: float
    at: int = 0
    clock: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.every is not None and (not isinstance(self.every, int) or self.every < 1):
            raise ValueError(f"checkpoint_every={self.every!r} must be a whole number of steps, at least 1, or None")
        if not isinstance(self.seconds, Real) or not self.seconds >= 0:  # NaN is not
            raise ValueError(f"checkpoint_seconds={self.seconds!r} must be a number of seconds, at least 0")

    def due(self, step: int) -> bool:
        if self.every is not None:
            return step - self.at >= self.every
        return time.monotonic() - self.clock >= self.seconds

    def taken(self, step: int) -> None:
        self.at, self.clock = step, time.monotonic()


def _write_checkpoint(folder: Path, model: Agent, log: _Log) -> Path:
    for part in model.parts.values():
        for p in part.params:
            if not bool(torch.isfinite(p).all()):
                raise NonFiniteError(
                    f"a parameter is not finite at step {model.num_timesteps}: training diverged. {model.remedy}; earlier "
                    "checkpoints are kept"
                )
    state = model.model_state() | {"training": model.training_state(), "log": log.position()}
    path = folder / "checkpoints" / f"step_{model.num_timesteps:08d}.zip"
    save_state(path, state, "model", apart=lambda key, rows: segments.write(path.parent, key, rows))
    for old in checkpoints(folder)[:-KEPT]:
        old.unlink()
    segments.prune(path.parent, checkpoints(folder))
    return path


def _last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            return path, load_state(path, "model", partial(segments.read, path.parent))  # now: its rows may be damaged
        except FileError as error:
            warnings.warn(f"{error}; going on from the checkpoint before it", stacklevel=3)
    raise RunError(f"{folder} has no {'whole ' if found else ''}checkpoint to go on from")


# -- the log -----------------------------------------------------------------------------------------------------------


class CSVLog(KVWriter):
    """``progress.csv``: a logger's output that goes on where a former process stopped.

    A key that appears later is a new last column; the lines before it are filled with nothing.

    Args:
        path: the file.
        cut_to: ``{"columns": [...], "rows": n}``, a former :meth:`position`; what came after it is cut off.
    """

    def __init__(self, path: Path, cut_to: dict[str, Any] | None = None) -> None:
        self.path = path
        self._columns: list[str] = [] if cut_to is None else list(cut_to["columns"])
        self._rows = 0 if cut_to is None else cut_to["rows"]
        lines = self._read() if self._rows else []
        if len(lines) < self._rows:
            raise RunError(
                f"{path} has {len(lines)} lines, fewer than the {self._rows} at the checkpoint: restore the file"
            )
        self._rewrite(lines[: self._rows])

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        values = {k: v for k, v in key_values.items() if "csv" not in (key_excluded.get(k) or ())}
        if new := [k for k in values if k not in self._columns]:
            lines = self._read()
            self._columns += new
            self._rewrite(lines)
        with open(self.path, "a", newline="") as f:
            csv.DictWriter(f, self._columns, lineterminator="\n").writerow(values)
        self._rows += 1

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, newline="") as f:
            return list(csv.DictReader(f))

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore", lineterminator="\n")
        if self._columns:
            writer.writeheader()
        writer.writerows(lines)
        with atomic(self.path) as f:
            f.write(text.getvalue().encode())

    def position(self) -> dict[str, Any]:
        """How far the file has come."""
        return {"columns": list(self._columns), "rows": self._rows}

    def close(self) -> None:
        """Nothing is held open."""


class _Log:
    """stable-baselines3's logger onto the files of a run, cut back to where a checkpoint was taken."""

    def __init__(self, folder: Path, verbose: int, cut_to: dict[str, Any] | None = None) -> None:
        self.folder = folder
        if cut_to is not None:
            for file in self._events():
                size = file.stat().st_size
                if size < cut_to["events"].get(file.name, 0):
                    raise RunError(
                        f"{file} has {size} bytes, fewer than the {cut_to['events'][file.name]} at the checkpoint: "
                        "restore the file"
                    )
            for file in self._events():
                if file.name in cut_to["events"]:
                    os.truncate(file, cut_to["events"][file.name])
                else:
                    file.unlink()
            # TensorBoard reads event files in the order of their names, which begin with the second they were made in.
            latest = max((int(file.name.split(".")[3]) for file in self._events()), default=0)
            if (ahead := latest + 1 - time.time()) > 2:
                warnings.warn(
                    f"the event files of {folder} are dated {ahead:.0f} s ahead of the clock: TensorBoard may draw what follows "
                    "before them",
                    stacklevel=3,
                )
            elif ahead > 0:
                time.sleep(ahead + 0.01)
        self.csv = CSVLog(folder / "progress.csv", None if cut_to is None else cut_to["progress"])
        self.tensorboard = TensorBoardOutputFormat(str(folder))
        table = [HumanOutputFormat(sys.stdout)] if verbose else []
        self.logger = Logger(str(folder), [*table, self.csv, self.tensorboard])

    def _events(self) -> list[Path]:
        return sorted(self.folder.glob("events.out.tfevents.*"))

    def position(self) -> dict[str, Any]:
        """How far the files have come; they are on the disk by then, as the checkpoint will be."""
        self.tensorboard.writer.flush()
        for file in (self.csv.path, *self._events()):
            with open(file, "rb+") as f:
                os.fsync(f.fileno())
        return {"progress": self.csv.position(), "events": {f.name: f.stat().st_size for f in self._events()}}

    def close(self) -> None:
        self.logger.close()


def _note_start(folder: Path, model: Agent) -> None:
    """Add this start to ``manifest.json``, and say where it differs from the first in what decides the bits."""
    path = folder / "manifest.json"
    starts = read_json(path, ["starts"])["starts"] if path.exists() else []
    now = manifest(model.device, threads_for(model))
    if starts and (changed := [k for k in DECISIVE if now[k] != starts[0].get(k)]):
        warnings.warn(
            f"the run started with other {' and '.join(changed)} (see {path}): it goes on, but not bit for bit as it"
            " would have there",
            stacklevel=4,
        )
    write_json(path, {"starts": [*starts, now]})


class _Stop:
    """Takes the first SIGINT or SIGTERM as a wish to stop after this iteration; a second one acts as ever."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():  # no other may listen to signals
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)

    def _take(self, number: int, frame: Any) -> None:
        self.signal = number
        self._restore()
        print(
            "\nstopping after this iteration, with a checkpoint; once more to stop at once", file=sys.stderr, flush=True
        )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __exit__(self, *_: object) -> None:
        self._restore()
