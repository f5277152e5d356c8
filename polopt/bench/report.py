"""What a suite's records say: learning curves with intervals, a figure per environment and one overall, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .. import stats
from ..files import atomic
from .pool import read_record, records_folder
from .suite import load_suite

__all__ = ["Report", "final_score", "report"]

FINAL_SHARE = 0.1
"""A run's final score is the mean of its evaluations in this last share of training."""
_COLOURS = (
    *("#0072B2", "#D55E00", "#00966C", "#B4458A", "#A87A00"),
    *("#3B3B3B", "#45A5DC", "#7A5195", "#6B8E23", "#9B3A2E"),
)
_INK, _PALE = "#222222", "#767676"
_ROUND = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Report:
    """The files of a report, and what it could not draw, in words."""

    markdown: Path
    figures: tuple[Path, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Series:
    """Everything measured under one label: its records by environment and seed, and the seeds planned."""

    label: str
    peer: bool
    colour: str
    records: Mapping[str, Mapping[int, dict[str, Any]]]
    planned: Mapping[str, int]

    def seeds(self, env: str) -> list[int]:
        return sorted(self.records.get(env, {}))

    def curves(self, env: str, grid: np.ndarray, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Mean evaluation return ``[runs, points]`` on ``grid``, straight lines between evaluations."""
        runs = [self.records[env][seed]["curve"] for seed in (self.seeds(env) if seeds is None else seeds)]
        return np.array([np.interp(grid, run["steps"], np.mean(run["returns"], axis=1)) for run in runs])

    def final(self, env: str, seeds: Sequence[int] | None = None) -> np.ndarray:
        """Final scores ``[runs]``."""
        return np.array([final_score(self.records[env][s]) for s in (self.seeds(env) if seeds is None else seeds)])

    def complete_seeds(self, envs: Sequence[str]) -> list[int]:
        """The seeds finished on every one of ``envs``."""
        return sorted(set.intersection(*(set(self.seeds(env)) for env in envs))) if envs else []


def final_score(record: Mapping[str, Any]) -> float:
    """The mean evaluation return over the last tenth of a run's training."""
    steps = np.array(record["curve"]["steps"])
    last = steps > steps[-1] * (1 - FINAL_SHARE)
    return float(np.mean(np.array(record["curve"]["returns"])[last]))


def report(
    path: str | Path,
    out: str | Path | None = None,
    root: str | Path | None = None,
    diagnostics: Sequence[str] = (),
    reps: int = 2000,
    random_state: int | None = 0,
) -> Report:
    """Draw what a suite, or a folder of records, has so far.

    Curves are the interquartile mean over seeds with 95 % stratified-bootstrap bands. The overall figure needs the
    suite's reference scores and takes, for each label, the seeds finished on every environment.

    Args:
        path: a suite file, or a folder of records.
        out: where the figures and ``report.md`` go, each written whole or not at all; by default ``report/`` in the records'
            folder.
        root: as in :func:`polopt.bench.run_suite`.
        diagnostics: recorded ``train/`` keys to draw besides, one figure per environment and key.
        reps: bootstrap resamples.
        random_state: seed of the bootstrap.

    Raises:
        ValueError: there are no records, or a key of ``diagnostics`` was not recorded.
    """
    path = Path(path)
    if path.is_dir():
        folder, title, reference = path, path.name, {}
        found = [read_record(file) for file in sorted(path.glob("*.json"))]
        series = _series([(record["label"], record["cell"], record) for record in found])
    else:
        suite = load_suite(path)
        folder, title, reference = records_folder(suite, root), suite.title, suite.reference
        files = [(cell, folder / f"{cell.stem}.json") for cell in suite.cells]
        series = _series([(c.label, c.content, read_record(file) if file.exists() else None) for c, file in files])
    envs = list(dict.fromkeys(env for one in series for env in one.planned))
    if not any(one.records for one in series):
        raise ValueError(f"there are no records of {path} in {folder}; run the suite first")
    out = folder / "report" if out is None else Path(out)
    out.mkdir(parents=True, exist_ok=True)

    notes: list[str] = []
    figures: list[Path] = []
    bootstrap = {"reps": reps, "random_state": random_state}
    for env in envs:
        drawn = [one for one in series if one.seeds(env)]
        notes += [f"{env}: nothing yet of {one.label}" for one in series if one not in drawn and env in one.planned]
        ends = {one.label: max(r["cell"]["steps"] for r in one.records[env].values()) for one in drawn}
        if len(set(ends.values())) > 1:
            said = ", ".join(f"{label} {steps:,}" for label, steps in ends.items())
            notes.append(
                f"{env}: what lies beyond {min(ends.values()):,} steps; tables take each run at its own end ({said})"
            )
        if drawn:
            figures.append(_save(_env_figure(env, drawn, bootstrap), out / f"{_slug(env)}.png"))
        for key in diagnostics:
            if drawn:
                name = f"{_slug(env)}-{key.rsplit('/', 1)[-1]}.png"
                figures.append(_save(_diagnostic_figure(env, key, drawn, bootstrap), out / name))

    overall = _overall(series, envs, reference, notes)
    if overall:
        figures.append(_save(_overall_figure(title, overall, envs, reference, bootstrap), out / "overall.png"))
    markdown = out / "report.md"
    text = _markdown(title, series, envs, overall, reference, figures, notes, bootstrap)
    with atomic(markdown) as file:
        file.write(text.encode())
    return Report(markdown, tuple(figures), tuple(notes))


def _series(rows: Sequence[tuple[str, dict[str, Any], dict[str, Any] | None]]) -> list[_Series]:
    """Rows of (label, a cell's content, its record or None where unfinished), grouped by label."""
    labels: dict[str, dict[str, Any]] = {}
    for label, content, record in rows:
        group = labels.setdefault(label, {"peer": content["library"] != "polopt", "records": {}, "planned": {}})
        env = content["env"]
        group["planned"][env] = group["planned"].get(env, 0) + 1
        if record is None:
            continue
        seeds = group["records"].setdefault(env, {})
        if content["seed"] in seeds:
            raise ValueError(f"two records of {label!r} on {env} with seed {content['seed']}; label variants apart")
        seeds[content["seed"]] = record
    return [
        _Series(label, group["peer"], _COLOURS[k % len(_COLOURS)], group["records"], group["planned"])
        for k, (label, group) in enumerate(labels.items())
    ]


def _grid(series: Sequence[_Series], envs: Sequence[str]) -> np.ndarray:
    """The evaluation steps ``[points]`` that all records of some environments reach."""
    records = [record for one in series for env in envs for record in one.records.get(env, {}).values()]
    every = max(record["cell"]["evaluation"]["every"] for record in records)
    return np.arange(0, min(record["cell"]["steps"] for record in records) + 1, every)


def _overall(
    series: Sequence[_Series], envs: Sequence[str], reference: Mapping[str, tuple[float, float]], notes: list[str]
) -> list[tuple[_Series, list[int]]]:
    """The labels that can stand in the overall comparison, each with its seeds; says of the others why not."""
    lacking = [env for env in envs if env not in reference]
    if lacking:
        notes.append(f"no overall figure: there are no reference scores for {', '.join(lacking)}")
        return []
    chosen = []
    for one in series:
        seeds = one.complete_seeds(envs)
        if seeds:
            chosen.append((one, seeds))
        else:
            notes.append(f"overall: {one.label} has no seed finished on every environment")
    lengths = {env: {one.records[env][s]["cell"]["steps"] for one, seeds in chosen for s in seeds} for env in envs}
    if chosen and len(every := set.union(*lengths.values())) > 1:
        said = ", ".join(f"{env} {max(steps):,}" for env, steps in lengths.items())
        notes.append(
            f"overall: what lies beyond {min(every):,} steps; final scores take each run at its own end ({said})"
        )
    return chosen


def _scaled(returns: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return (returns - bounds[0]) / (bounds[1] - bounds[0])


def _final_scores(overall: Any, envs: Sequence[str], reference: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Normalised final scores ``[runs, tasks]`` by label."""
    return {
        one.label: np.stack([_scaled(one.final(env, seeds), reference[env]) for env in envs], axis=1)
        for one, seeds in overall
    }


# Figures


def _env_figure(env: str, series: Sequence[_Series], bootstrap: Mapping[str, Any]) -> Figure:
    figure, axes = _sheet(env, _subtitle(series, [env]))
    grid = _grid(series, [env])
    _curves(axes, grid, {one.label: one.curves(env, grid)[:, None, :] for one in series}, series, bootstrap)
    axes.set_ylabel("Evaluation return")
    return figure


def _diagnostic_figure(env: str, key: str, series: Sequence[_Series], bootstrap: Mapping[str, Any]) -> Figure:
    grid = _grid(series, [env])
    scores, drawn = {}, []
    for one in series:
        rows = []
        for seed in one.seeds(env):
            column = one.records[env][seed]["diagnostics"].get(key)
            if column is None:
                continue
            known = [
                (s, v) for s, v in zip(one.records[env][seed]["curve"]["steps"], column, strict=True) if v is not None
            ]
            if not known:
                continue
            steps, values = np.array(known).T
            rows.append(np.interp(grid[1:], steps, values))
        if rows:
            scores[one.label] = np.array(rows)[:, None, :]
            drawn.append(one)
    if not drawn:
        raise ValueError(f"diagnostics names {key!r}, which no record of {env} holds")
    figure, axes = _sheet(f"{env}: {key}", _subtitle(drawn, [env], "last update before each evaluation"))
    _curves(axes, grid[1:], scores, drawn, bootstrap)
    axes.set_ylabel(key.rsplit("/", 1)[-1])
    return figure


def _overall_figure(
    title: str,
    overall: Sequence[tuple[_Series, list[int]]],
    envs: Sequence[str],
    reference: Mapping[str, tuple[float, float]],
    bootstrap: Mapping[str, Any],
) -> Figure:
    """Left the normalised learning curves, right the final scores with their intervals."""
    series = [one for one, _ in overall]
    grid = _grid(series, envs)
    curves = {
        one.label: np.stack([_scaled(one.curves(env, grid, seeds), reference[env]) for env in envs], axis=1)
        for one, seeds in overall
    }
    counts = sorted({len(seeds) for _, seeds in overall})
    seeds = f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
    text = f"{len(envs)} environments × {seeds}, IQM of normalised scores, 95 % stratified-bootstrap intervals"
    if counts == [1]:
        text = f"{len(envs)} environments × one seed, IQM of normalised scores"
    figure, axes = _sheet(title, text, width=11.5, ratios=(1.3, 1.0))
    left, right = axes
    _curves(left, grid, curves, series, bootstrap)
    left.set_ylabel("Normalised score")

    points, intervals = stats.get_interval_estimates(
        _final_scores(overall, envs, reference), stats.aggregate_iqm, **bootstrap
    )
    order = sorted(series, key=lambda one: points[one.label])
    for row, one in enumerate(order):
        low, high = intervals[one.label]
        right.plot([low, high], [row, row], color=one.colour, alpha=0.35, linewidth=9, solid_capstyle="butt")
        right.plot(points[one.label], row, "o", color=one.colour, markersize=6)
        right.annotate(
            f"{points[one.label]:.2f}", (high, row), (6, 0), textcoords="offset points", va="center", color=_INK
        )
    right.set_yticks(range(len(order)), [one.label for one in order])
    for label, one in zip(right.get_yticklabels(), order, strict=True):
        label.set_color(one.colour)
    slack = max(0.0, 5 - len(order)) / 2  # few rows stay together
    right.set_ylim(-0.7 - slack, len(order) - 0.3 + slack)
    lowest, highest = min(intervals[one.label][0] for one in order), max(intervals[one.label][1] for one in order)
    right.set_xlim(min(0.0, 1.1 * lowest), 1.15 * highest - 0.15 * min(0.0, lowest))
    right.set_xlabel(f"Final normalised score (last {FINAL_SHARE:.0%} of training)")
    right.grid(axis="y", visible=False)
    right.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    right.tick_params(axis="y", length=0)
    right.xaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
    return figure


def _subtitle(series: Sequence[_Series], envs: Sequence[str], what: str | None = None) -> str:
    counts = sorted({len(one.seeds(env)) for one in series for env in envs})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if what is None:
        record = next(iter(series[0].records[envs[0]].values()))
        what = f"{record['cell']['evaluation']['episodes']} greedy episodes per point"
    return f"One seed, {what}" if seeds == "1" else f"IQM of {seeds} seeds, 95 % bootstrap bands, {what}"


def _sheet(title: str, subtitle: str, width: float = 7.6, ratios: Sequence[float] = (1.0,)) -> tuple[Figure, Any]:
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 0.89), wspace=0.04)
    figure = Figure(figsize=(width, 4.4), dpi=160, layout=layout, facecolor="white")
    axes = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    figure.text(0.012, 0.975, title, fontsize=14, fontweight="bold", color=_INK, va="top")
    figure.text(0.012, 0.912, subtitle, fontsize=9.5, color=_PALE, va="top")
    for one in axes:
        one.spines[["top", "right", "left"]].set_visible(False)
        one.spines["bottom"].set_color("#BBBBBB")
        one.grid(axis="y", color="#E6E6E6", linewidth=0.8)
        one.set_axisbelow(True)
        one.tick_params(colors=_INK, labelsize=10, length=3, color="#BBBBBB")
        one.tick_params(axis="y", length=0)
        one.xaxis.label.set_size(10.5)
        one.yaxis.label.set_size(10.5)
    return figure, axes[0] if len(ratios) == 1 else axes


def _curves(
    axes: Axes,
    grid: np.ndarray,
    scores: Mapping[str, np.ndarray],
    series: Sequence[_Series],
    bootstrap: Mapping[str, Any],
) -> None:
    """Lines (peers dashed) with bands, each named at its right end in its own colour."""
    lines, bands = stats.sample_efficiency_curve(scores, **bootstrap)
    for one in series:
        low, high = bands[one.label]
        axes.fill_between(grid, low, high, color=one.colour, alpha=0.15 if len(series) <= 4 else 0.10, linewidth=0)
        axes.plot(
            grid,
            lines[one.label],
            color=one.colour,
            linewidth=2.0,
            linestyle=(0, (4, 1.6)) if one.peer else "-",
            solid_capstyle="round",
        )
    axes.set_xlim(grid[0], grid[-1])
    axes.margins(y=0.04)
    axes.set_xlabel("Environment steps")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=_ROUND))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=_ROUND))
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    if axes.get_ylim()[1] >= 10:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace("-", "−")))
    _end_labels(axes, {one.label: (float(lines[one.label][-1]), one.colour) for one in series})


def _end_labels(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Name each line beside its end, moved up or down where two would overlap."""
    low, high = axes.get_ylim()
    names = sorted(ends, key=lambda name: ends[name][0])
    wanted = np.array([(ends[name][0] - low) / (high - low) for name in names])
    for name, place in zip(names, _spread(wanted, gap=0.062), strict=True):
        axes.annotate(
            name,
            (1.0, place),
            (8, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=ends[name][1],
            annotation_clip=False,
        )


def _spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """The places nearest (least squares) to the ascending ``wanted`` that lie at least ``gap`` apart."""
    # y_k = places_k - k gap must not decrease: isotonic regression, by pooling neighbours that are out of order.
    blocks: list[list[float]] = []
    for value in wanted - gap * np.arange(len(wanted)):
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            value, count = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + value * count) / (before[1] + count)
            before[1] += count
    return np.repeat([b[0] for b in blocks], [int(b[1]) for b in blocks]) + gap * np.arange(len(wanted))


def _thousands(value: float, _: int | None = None) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def _save(figure: Figure, path: Path) -> Path:
    with atomic(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix("."), metadata={"Software": None})
    return path


def _slug(env: str) -> str:
    return env.replace("/", "_")


# The table


def _markdown(
    title: str,
    series: Sequence[_Series],
    envs: Sequence[str],
    overall: Sequence[tuple[_Series, list[int]]],
    reference: Mapping[str, tuple[float, float]],
    figures: Sequence[Path],
    notes: Sequence[str],
    bootstrap: Mapping[str, Any],
) -> str:
    scores = _final_scores(overall, envs, reference) if overall else {}
    points, intervals = stats.get_interval_estimates(scores, stats.aggregate_iqm, **bootstrap)
    base = next(iter(scores), "")
    pairs = {label: (values, scores[base]) for label, values in scores.items() if label != base}
    chances, chance_intervals = stats.get_interval_estimates(pairs, stats.probability_of_improvement, **bootstrap)

    header = ["", *envs, *(["overall, normalised"] if scores else []), *([f"P(better than {base})"] if pairs else [])]
    returns, means, rates = _table(header), _table(["", *envs]), _table(["", *envs])
    for one in series:
        cells = [_returns_cell(one, env, bootstrap) for env in envs]
        runs = len(scores.get(one.label, ()))
        if scores:
            cells.append(_estimate(points.get(one.label), intervals.get(one.label), 3, runs))
        if pairs:
            cells.append(
                _estimate(chances.get(one.label), chance_intervals.get(one.label), 2, max(runs, len(scores[base])))
            )
        returns.append(_row([one.label, *cells]))
        means.append(_row([one.label, *(_mean(one, env) for env in envs)]))
        rates.append(_row([one.label, *(_rate(one, env) for env in envs)]))

    lines = [
        f"# {title}",
        "",
        f"Final evaluation return, averaged over the last {FINAL_SHARE:.0%} of training: "
        "IQM over seeds [95 % stratified-bootstrap interval] (seeds finished of planned).",
        "",
        *returns,
    ]
    if scores:
        scale = ", ".join(f"{env} {reference[env][0]:g} and {reference[env][1]:g}" for env in envs)
        lines += ["", f"Normalised scores are 0 and 1 at these returns: {scale}."]
    lines += ["", "The same as mean ± standard deviation over seeds.", "", *means]
    lines += [
        "",
        "Training speed, evaluation excluded: environment steps per CPU second, median over runs.",
        "",
        *rates,
    ]
    lines += ["", *(f"![{figure.stem}]({figure.name})" for figure in figures)]
    if notes:
        lines += ["", "Not drawn:", "", *(f"- {note}" for note in notes)]
    lines += ["", "Measured with", "", *(f"- {line}" for line in _provenance(series))]
    return "\n".join(lines) + "\n"


def _returns_cell(one: _Series, env: str, bootstrap: Mapping[str, Any]) -> str:
    if env not in one.planned:
        return ""
    count = f"({len(one.seeds(env))}/{one.planned[env]})"
    if not one.seeds(env):
        return f"- {count}"
    final = {"": one.final(env)[:, None]}
    point, interval = stats.get_interval_estimates(final, stats.aggregate_iqm, **bootstrap)
    return f"{_estimate(point[''], interval[''], 0, len(one.seeds(env)))} {count}"


def _estimate(point: float | None, interval: np.ndarray | None, digits: int, runs: int) -> str:
    """A number and its interval; one run has none."""
    if point is None or interval is None:
        return "-"
    if runs == 1:
        return f"{point:.{digits}f}"
    return f"{point:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _mean(one: _Series, env: str) -> str:
    final = one.final(env)
    if len(final) < 2:
        return f"{final[0]:.0f}" if len(final) else "-"
    return f"{final.mean():.0f} ± {final.std(ddof=1):.0f}"


def _rate(one: _Series, env: str) -> str:
    rates = [record["steps_per_cpu_second"] for record in one.records.get(env, {}).values()]
    return f"{np.median(rates):,.0f}" if rates else "-"


def _provenance(series: Sequence[_Series]) -> list[str]:
    """For each label the versions, processors and commits its records were made with."""
    lines = []
    for one in series:
        records = [record for runs in one.records.values() for record in runs.values()]
        if not records:
            continue
        package = {"sb3": "stable-baselines3", "sb3_contrib": "sb3-contrib"}
        names = [package.get(records[0]["cell"]["library"], "polopt"), "torch", "gymnasium", "mujoco"]
        versions = [f"{name} {' / '.join(sorted({str(r['versions'][name]) for r in records}))}" for name in names]
        cpus = sorted({f"{r['machine']['cpu']} ({r['machine']['cores']} cores)" for r in records})
        commits = sorted({(r["commit"] or "none")[:10] for r in records})
        lines.append(f"{one.label}: {', '.join(versions)}; {' / '.join(cpus)}; commit {', '.join(commits)}")
    return lines


def _table(header: Sequence[str]) -> list[str]:
    return [_row(header), _row(["---", *("---:" for _ in header[1:])])]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
