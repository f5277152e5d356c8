"""The one figure helper: panels side by side, seed bands, dotted bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from PIL import Image

from .experiment import Curve, Experiment, Panel

__all__ = ["draw"]

_COLOURS = ("#1f6fb4", "#d1495b", "#2a9d6f", "#8e6bbf", "#e08e2b", "#4d4d4d", "#17a2b8", "#a0522d")


def draw(experiment: Experiment, path: str | Path | None = None) -> Figure:
    """The experiment's figure; written to ``path`` as a small PNG where one is given."""
    count = len(experiment.panels)
    figure = Figure(figsize=(5.2 * count + 0.4, 4.3), dpi=100, layout="constrained")
    figure.suptitle(experiment.claim, fontsize=11)
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, count)), experiment.panels, strict=True):
        _draw_panel(axes, panel)
    if path is not None:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # a palette is a third of the size of true colour; maximum coverage keeps every curve's own colour
        picture.quantize(96, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.title.set_fontsize(10)
    if panel.image is not None:
        colours = ListedColormap(_COLOURS[: int(panel.image.max()) + 1])
        axes.imshow(
            panel.image, extent=panel.extent, aspect="auto", origin="lower", interpolation="nearest", cmap=colours
        )
        return
    axes.set(xscale=panel.xscale, yscale=panel.yscale)
    colour = -1
    for curve in panel.curves:
        if curve.kind not in ("bound", "level"):
            colour += 1
        _draw_curve(axes, curve, _COLOURS[max(colour, 0) % len(_COLOURS)])
    if panel.ylim is not None:
        axes.set_ylim(panel.ylim)
    for axis, scale, limits in (
        (axes.xaxis, panel.xscale, axes.get_xlim()),
        (axes.yaxis, panel.yscale, axes.get_ylim()),
    ):
        if scale == "log" and limits[1] < 100 * limits[0]:  # too few powers of ten to read it by
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if any(curve.label for curve in panel.curves):
        axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _draw_curve(axes: Axes, curve: Curve, colour: str) -> None:
    y = np.atleast_2d(curve.y)
    mean, label = y.mean(0), curve.label or None
    if curve.kind == "bound":
        axes.plot(curve.x, mean, ":", color=colour, linewidth=1.6, label=label)
    elif curve.kind == "level":
        axes.plot(curve.x, mean, "--", color="#444444", linewidth=1.1, label=label)
    elif curve.kind == "marks":
        axes.plot(curve.x, mean, "o-", color=colour, markersize=4.5, linewidth=1.2, label=label)
    elif curve.kind == "steps":
        axes.step(curve.x, mean, where="post", color=colour, linewidth=1.5, label=label)
    else:
        axes.plot(curve.x, mean, color=colour, linewidth=1.5, label=label)
    if len(y) > 1:
        low, high = np.quantile(y, [0.025, 0.975], axis=0)
        axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, linewidth=0)
