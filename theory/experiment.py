"""An experiment: what a method's file returns, how it is found, run and printed.

The files of ``methods/`` are the registry: each has ``experiment(seed) -> Experiment``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

__all__ = ["Curve", "Experiment", "Finding", "Panel", "list_experiments", "load_experiment", "run"]


@dataclass(frozen=True, eq=False)
class Curve:
    """One line of a panel.

    Attributes:
        y: ``[T]``, or ``[N, T]`` for N seeds: their mean is drawn with the band of 95 % of the seeds.
        kind: ``bound`` is dotted and takes the colour of the curve before it; ``steps`` is a staircase.
        label: the legend's words; empty for a bound that needs none.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    kind: Literal["line", "bound", "steps", "marks", "level"] = "line"


@dataclass(frozen=True, eq=False)
class Panel:
    """One axes: curves, or a picture ``image [rows, columns]`` of small integers over ``extent`` (left, right, bottom, top)."""

    title: str
    xlabel: str
    ylabel: str
    curves: Sequence[Curve] = ()
    xscale: Literal["linear", "log"] = "linear"
    yscale: Literal["linear", "log"] = "linear"
    ylim: tuple[float, float] | None = None
    image: np.ndarray | None = None
    extent: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Finding:
    """A measured number beside the theory's."""

    what: str
    measured: float
    theory: str
    holds: bool

    @classmethod
    def at_most(cls, what: str, measured: float, limit: float) -> Finding:
        """``measured <= limit``, up to 1e-9 of rounding."""
        return cls(what, float(measured), f"<= {limit:g}", bool(measured <= limit + 1e-9))

    @classmethod
    def at_least(cls, what: str, measured: float, limit: float) -> Finding:
        """``measured >= limit``, up to 1e-9 of rounding."""
        return cls(what, float(measured), f">= {limit:g}", bool(measured >= limit - 1e-9))

    @classmethod
    def near(cls, what: str, measured: float, target: float, tolerance: float) -> Finding:
        """``|measured - target| <= tolerance``."""
        near = bool(abs(measured - target) <= tolerance)
        return cls(what, float(measured), f"{target:.6g} (+- {tolerance:.2g})", near)


@dataclass(frozen=True)
class Experiment:
    """A paper's claim, measured."""

    claim: str
    """The claim in one sentence, the figure's title."""
    source: str
    """Authors, year, arXiv id."""
    panels: Sequence[Panel] = field(repr=False)
    findings: Sequence[Finding]

    @property
    def holds(self) -> bool:
        """Whether every finding agrees with the theory."""
        return all(finding.holds for finding in self.findings)

    def table(self) -> str:
        """The findings, one a line."""
        width = max(len(finding.what) for finding in self.findings)
        return "\n".join(
            f"{f.what:<{width}}  {f.measured:>12.6g}   theory {f.theory:<26} {'holds' if f.holds else 'FAILS'}"
            for f in self.findings
        )


def list_experiments() -> list[str]:
    """The names that :func:`run` takes: the files of the methods folder."""
    folder = files(__package__) / "methods"
    return sorted(p.name[:-3] for p in folder.iterdir() if p.name.endswith(".py") and not p.name.startswith("_"))


def load_experiment(name: str, seed: int = 0) -> Experiment:
    """Run the experiment ``name`` and return it, drawing nothing.

    Raises:
        ValueError: no such experiment; the message names the nearest.
    """
    names = list_experiments()
    if name not in names:
        near = get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise ValueError(f"no theory experiment {name!r}; {hint}")
    return import_module(f"{__package__}.methods.{name}").experiment(seed)


def run(name: str, out_dir: str | Path = ".", seed: int = 0) -> Experiment:
    """Run an experiment, write ``out_dir/NAME.png`` and print the measured numbers beside the theory's."""
    from .plot import draw  # matplotlib is loaded only by who draws

    started = time.perf_counter()
    experiment = load_experiment(name, seed)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    draw(experiment, path)
    print(f"{name}: {experiment.claim}\n{experiment.source}\n{experiment.table()}")
    print(f"{path} ({time.perf_counter() - started:.1f} s)")
    return experiment
