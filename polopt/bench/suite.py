"""A suite: the grid of runs x environments x seeds that one TOML file states, cut into content-addressed cells."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..presets import presets
from ..registry import list_agents

__all__ = ["LIBRARIES", "Cell", "Evaluation", "Suite", "load_suite"]

LIBRARIES = ("polopt", "sb3", "sb3_contrib")


@dataclass(frozen=True)
class Evaluation:
    """How every library of a suite is measured.

    Every ``every`` environment steps, ``episodes`` episodes are played with the deterministic policy on the bare
    Gymnasium environment, episode ``k`` seeded with ``seed + k``, so that all runs meet the same starts.
    """

    every: int
    episodes: int = 10
    seed: int = 10_000

    def __post_init__(self) -> None:
        for name in ("every", "episodes"):
            _positive(f"evaluation.{name}", getattr(self, name))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"evaluation.seed is {self.seed!r}; it takes an integer of at least 0")


@dataclass(frozen=True)
class Cell:
    """One training run: what decides its outcome, and the label it is drawn under.

    ``config`` takes rl-zoo's keys: ``policy``, ``n_envs``, ``normalize`` (running observation and reward
    normalisation), and the algorithm's own arguments.
    """

    library: str
    algorithm: str
    env: str
    seed: int
    steps: int
    evaluation: Evaluation
    config: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    prior: str | None = None
    """A dataset to learn from beside the environment: a local Minari id, a Minari folder or a D4RL file."""

    @property
    def content(self) -> dict[str, Any]:
        """What the cell's address is made of: everything but the label; the prior data only where there is any."""
        content = asdict(self)
        del content["label"]
        if self.prior is None:
            del content["prior"]
        return content

    @property
    def address(self) -> str:
        """The first 12 hex digits of the SHA-256 of the content's canonical JSON."""
        text = json.dumps(self.content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """``label/env/seed``: what ``only`` patterns are matched against."""
        return f"{self.label}/{self.env}/{self.seed}"

    @property
    def stem(self) -> str:
        """The cell's file name, without suffix."""
        env = self.env.replace("/", "_")
        return f"{self.library}-{self.algorithm}-{env}-s{self.seed}-{self.address}"


@dataclass(frozen=True)
class Suite:
    """The cells of one TOML file, in the order in which they are run: all of the first seed, then the second, ...

    ``reference[env] = (low, high)`` maps returns to scores ``(R - low) / (high - low)``, for what is drawn over
    several environments.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    reference: Mapping[str, tuple[float, float]]
    path: Path

    def select(self, only: str | Sequence[str] | None) -> tuple[Cell, ...]:
        """The cells whose name (``label/env/seed``) matches one of the shell patterns ``only``; all for None.

        Raises:
            ValueError: a pattern matches no cell.
        """
        if only is None:
            return self.cells
        patterns = [only] if isinstance(only, str) else list(only)
        for pattern in patterns:
            if not any(fnmatch(cell.name, pattern) for cell in self.cells):
                names = ", ".join(sorted({cell.name.rsplit("/", 1)[0] + "/*" for cell in self.cells}))
                raise ValueError(f"only={pattern!r} matches no cell of suite {self.name!r}; it has {names}")
        return tuple(c for c in self.cells if any(fnmatch(c.name, p) for p in patterns))


def load_suite(path: str | Path) -> Suite:
    """Read a suite file. ``docs/bench.md`` describes its keys.

    Raises:
        ValueError: an unknown, missing or contradictory key, named with what would be right.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    _only_keys(str(path), table, {"title", "steps", "seeds", "envs", "evaluation", "reference", "base", "run"})
    for key in ("steps", "seeds", "envs", "evaluation", "run"):
        if key not in table:
            raise ValueError(f"{path} lacks {key!r}")
    _of_kind(str(path), table, "evaluation", dict, "a table, [evaluation]")
    _of_kind(str(path), table, "run", list, "tables, each [[run]]")
    for key in ("reference", "base"):
        _of_kind(str(path), table, key, dict, f"a table, [{key}]")
    for name in table.get("base", {}):
        _of_kind(str(path), table["base"], name, dict, f"a table, [base.{name}]")
    _of_kind(str(path), table, "title", str, "words")
    if not all(isinstance(run, dict) for run in table["run"]):
        raise ValueError(f"{path}: run is {table['run']!r}; it takes tables, each [[run]]")
    evaluation_table = table["evaluation"]
    _only_keys("[evaluation]", evaluation_table, {"every", "episodes", "seed"}, {"every"})
    evaluation = Evaluation(**evaluation_table)

    rows: list[list[Cell]] = []
    for owner, where in (
        (table, str(path)),
        *((run, f"[[run]] {run.get('label', run.get('algorithm', ''))!r}") for run in table["run"]),
    ):
        _listed(where, owner, "seeds", int, "integers of at least 0, such as [0, 1, 2]")
        _listed(where, owner, "envs", str, 'ids, such as ["Hopper-v5"]')
    for run in table["run"]:
        rows.append(_cells_of(run, table, evaluation))
    seeds = sorted({seed for run in table["run"] for seed in run.get("seeds", table["seeds"])})
    cells = tuple(cell for seed in seeds for row in rows for cell in row if cell.seed == seed)
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.address in seen:
            raise ValueError(f"{path}: {cell.name} and {seen[cell.address].name} are the same cell")
        if cell.name in seen:
            raise ValueError(f"{path}: there are two {cell.name}; give each [[run]] a label of its own")
        seen[cell.address] = seen[cell.name] = cell

    reference = {}
    for env, bounds in table.get("reference", {}).items():
        numbers = isinstance(bounds, list) and all(isinstance(x, (int, float)) and math.isfinite(x) for x in bounds)
        if not numbers or len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(f"[reference] {env!r} is {bounds}; it takes [low, high], numbers with low < high")
        reference[env] = (float(bounds[0]), float(bounds[1]))
    return Suite(path.stem, table.get("title", path.stem), cells, reference, path)


def _cells_of(run: Mapping[str, Any], table: Mapping[str, Any], evaluation: Evaluation) -> list[Cell]:
    """The cells of one ``[[run]]``: its own ``envs``, ``seeds``, ``steps`` where given, else the suite's."""
    where = f"[[run]] {run.get('label', run.get('algorithm', ''))!r}"
    known = {"label", "library", "algorithm", "base", "envs", "seeds", "steps", "config", "env_config", "prior"}
    _only_keys(where, run, known, {"library", "algorithm"})
    for key in ("label", "library", "algorithm", "base"):
        _of_kind(where, run, key, str, "a name in quotes")
    _of_kind(where, run, "prior", str, "the id or the path of a dataset")
    library, algorithm = run["library"], run["algorithm"]
    if library not in LIBRARIES:
        raise ValueError(f"{where}: library is {library!r}; it is one of {', '.join(LIBRARIES)}")
    if library == "polopt" and algorithm not in list_agents():
        raise ValueError(f"{where}: algorithm is {algorithm!r}; polopt has {', '.join(list_agents())}")
    prior = run.get("prior")
    if prior is not None and library != "polopt":
        raise ValueError(f"{where}: prior data is polopt's; {library} takes none")
    envs = run.get("envs", table["envs"])
    seeds = run.get("seeds", table["seeds"])
    steps = _positive(f"{where}: steps", run.get("steps", table["steps"]))
    base = {}
    if "base" in run:
        if run["base"] not in (bases := table.get("base", {})):
            raise ValueError(f"{where}: base is {run['base']!r}; the suite has {', '.join(bases) or 'none'}")
        base = bases[run["base"]]
    _only_keys(f"[base.{run.get('base')}]", base, {"config", "env_config"})
    for owner, name in ((run, where), (base, f"[base.{run.get('base')}]")):
        for key in ("config", "env_config"):
            _of_kind(name, owner, key, dict, f"a table, such as {key} = {{ gamma = 0.99 }}")
            _plain(name, key, owner.get(key, {}))
        for env in owner.get("env_config", {}):
            _of_kind(f"{name}: env_config", owner["env_config"], env, dict, "a table, such as { gamma = 0.99 }")
    stray = sorted(set(run.get("env_config", {})) - set(envs))
    if stray:
        raise ValueError(f"{where}: env_config names {', '.join(stray)}, which this run does not train on")
    cells = []
    for env in envs:
        config: dict[str, Any] = {}
        for source in (base, run):
            config = _merged(config, source.get("config", {}))
            config = _merged(config, source.get("env_config", {}).get(env, {}))
        for key in ("preset", "normalize"):
            _of_kind(where, config, key, bool, "true or false")
        if config.pop("preset", False):
            config = _merged(_preset(where, library, algorithm, env), config)
        for seed in seeds:
            label = run.get("label", f"{library} {algorithm}")
            cells.append(Cell(library, algorithm, env, seed, steps, evaluation, config, label, prior))
    return cells


def _preset(where: str, library: str, algorithm: str, env: str) -> dict[str, Any]:
    """The preset's values, not its name: a preset that changes is another cell."""
    if library != "polopt":
        raise ValueError(f"{where}: preset is polopt's; {library} has none")
    known = presets(algorithm)
    if env not in known:
        raise ValueError(
            f"{where}: there is no preset of {algorithm} for {env}; there are {', '.join(known) or 'none'}"
        )
    return known[env]


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, tables key by key."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def _only_keys(where: str, table: Mapping[str, Any], known: Set[str], required: Set[str] = frozenset()) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}; it takes {', '.join(sorted(known))}")
    missing = sorted(required - set(table))
    if missing:
        raise ValueError(f"{where} lacks {missing[0]!r}")


def _of_kind(where: str, table: Mapping[str, Any], key: str, kind: type, words: str) -> None:
    """Raise where ``key`` is there and of another kind, or an empty name or list."""
    if key in table and (not isinstance(table[key], kind) or (kind in (str, list) and not table[key])):
        raise ValueError(f"{where}: {key} is {table[key]!r}; it takes {words}")


def _listed(where: str, table: Mapping[str, Any], key: str, kind: type, words: str) -> None:
    """Raise where ``key`` is there and no list of this kind, booleans apart."""
    _of_kind(where, table, key, list, f"a list of {words}")
    if not all(
        isinstance(x, kind) and not isinstance(x, bool) and (x >= 0 if kind is int else x) for x in table.get(key, ())
    ):
        raise ValueError(f"{where}: {key} is {table[key]!r}; it takes a list of {words}")


def _plain(where: str, key: str, value: Any) -> None:
    """Raise where a value, or one inside it, is none that a record could hold, such as a date or ``inf``."""
    if isinstance(value, (dict, list)):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _plain(where, f"{key}.{name}", inner)
    elif not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(
            f"{where}: {key} is {value}; it takes numbers that are finite, words, true, false, lists of them"
        )


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}; it takes an integer of at least 1")
    return value
