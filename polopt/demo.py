"""``polopt demo``: a minute of training, and what came of it."""

from __future__ import annotations

import csv
import shutil
import time
import tomllib
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .evaluate import evaluate_policy
from .film import film, save
from .presets import preset
from .registry import agent_class
from .run import new_run

__all__ = ["run"]

_TABLE = tomllib.loads((files("polopt.agents") / "presets" / "demo.toml").read_text("utf-8"))
ALGORITHM, ENV = _TABLE["algorithm"], _TABLE["env"]
SETTING: dict[str, Any] = preset(ALGORITHM, ENV) | _TABLE["hyperparameters"]
FEWEST, MOST = 20_000, 2_000_000
FILM = 300


class Random:
    """Uniform actions."""

    def __init__(self, action_space: Any, seed: int) -> None:
        self.space, self.rng = action_space, np.random.default_rng(seed)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        shape = (len(observation), *self.space.shape)
        return self.rng.uniform(self.space.low, self.space.high, shape).astype(self.space.dtype), state


def run(out: Path, seconds: float = 60.0, seed: int = 0) -> int:
    """Train for about ``seconds`` [s], evaluate against random actions, draw the curve, film the policy.

    Returns:
        The exit code: 0, or 130 where it was stopped.

    Raises:
        RunError: ``out`` cannot be written.
    """
    console = Console(soft_wrap=True)
    folder = out / "run"
    if (folder / "config.json").exists():  # an earlier demo's
        shutil.rmtree(folder)
    steps = int(np.clip(_rate(seed) * seconds, FEWEST, MOST))
    session = new_run(ALGORITHM, ENV, steps, folder, seed=seed, **SETTING)
    model = session.model
    console.print(
        f"\n[bold]{ALGORITHM}[/] learns [bold]{ENV}[/]: {steps:,} steps in {model.n_envs} worlds, about {seconds:.0f} s",
        highlight=False,
    )
    started = time.perf_counter()
    done = session.train(progress_bar=True)
    if not done.finished:
        console.print(f"stopped. Go on with  [bold]polopt train --resume {folder}[/]")
        return 128 + (done.signal or 0)
    took = time.perf_counter() - started

    greedy, _ = evaluate_policy(model, ENV, 10, return_episode_rewards=True, seed=10_000)
    chance, _ = evaluate_policy(Random(model.action_space, seed), ENV, 10, return_episode_rewards=True, seed=10_000)
    table = Table(title=f"{model.num_timesteps:,} steps in {took:.0f} s ({model.num_timesteps / took:,.0f} a second)")
    for column in ("policy", "mean return", "std", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, returns in (("random", chance), (f"{ALGORITHM}, greedy", greedy)):
        table.add_row(
            name, *(f"{x:,.0f}" for x in (np.mean(returns), np.std(returns), np.min(returns), np.max(returns)))
        )
    console.print()
    console.print(table)

    written = [(draw(folder / "progress.csv", out / "learning_curve.png", greedy, chance), "the learning curve")]
    try:
        footage = film(model, ENV, seed=10_000, steps=FILM)
    except RuntimeError as error:  # no OpenGL: the numbers above stand without pictures
        console.print(f"[yellow]no video:[/] {error}", highlight=False)
    else:
        for name, what in (
            ("filmstrip.png", "eight moments of the trained policy"),
            ("video.mp4", "the trained policy"),
        ):
            try:
                save(footage, out / name)
            except OSError as error:  # no ffmpeg for this platform
                console.print(f"[yellow]no {name}:[/] {error}", highlight=False)
            else:
                written.append((out / name, what))
    written.append((folder, "config, log, TensorBoard events, checkpoints, model.zip"))
    console.print()
    width = max(len(str(path)) for path, _ in written)
    for path, what in written:
        console.print(f"  [cyan]{path!s:{width}}[/]  {what}", highlight=False)
    console.print()
    return 0


def _rate(seed: int) -> float:
    """Steps a second on this machine, by a model that is thrown away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = agent_class(ALGORITHM)(env=ENV, seed=seed, **SETTING)
        iteration = model.n_envs * model.n_steps
        model.learn(2 * iteration, log_interval=None)
        started = time.perf_counter()
        model.learn(4 * iteration, log_interval=None)
        rate = 4 * iteration / (time.perf_counter() - started)
        model.env.close()
    return rate


def draw(progress: Path, out: Path, greedy: list[float], chance: list[float]) -> Path:
    """The learning curve of a run's log, with the final greedy policy and random actions beside it."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with open(progress, newline="") as f:
        lines = [line for line in csv.DictReader(f) if line.get("rollout/ep_rew_mean")]
    steps = np.array([float(line["time/total_timesteps"]) for line in lines])
    returns = np.array([float(line["rollout/ep_rew_mean"]) for line in lines])
    new = np.flatnonzero(np.diff(returns, prepend=np.nan))  # worlds in step end their episodes together
    steps, returns, last = steps[new], returns[new], steps[-1]
    ink, pale, blue, orange = "#222222", "#767676", "#0072B2", "#D55E00"
    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="#DDDDDD", lw=0.8, zorder=0)
    axes.axhline(np.mean(chance), color=pale, lw=1.2, ls=(0, (4, 3)))
    axes.plot(steps, returns, color=blue, lw=2.2, solid_capstyle="round")
    axes.errorbar(
        last,
        np.mean(greedy),
        np.std(greedy),
        color=orange,
        marker="o",
        ms=7,
        capsize=4,
        lw=1.6,
        clip_on=False,
        zorder=3,
    )
    near = {"textcoords": "offset points", "fontsize": 10}
    axes.annotate(f"random {np.mean(chance):,.0f}", (0, np.mean(chance)), (4, 5), color=pale, **near)
    axes.annotate(
        f"greedy {np.mean(greedy):,.0f}",
        (last, np.mean(greedy)),
        (-10, 6),
        color=orange,
        ha="right",
        weight="bold",
        **near,
    )
    i = int(0.6 * (len(steps) - 1))
    axes.annotate("while exploring", (steps[i], returns[i]), (8, -14), color=blue, **near)
    axes.set_title(f"{ALGORITHM} on {ENV}", loc="left", fontsize=13, weight="bold", color=ink, pad=12)
    axes.set_xlabel("environment steps", color=pale)
    axes.set_ylabel("return of an episode", color=pale)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.set_xlim(0, last * 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=pale, length=3)
    axes.grid(axis="y", color="#EEEEEE", lw=0.8)
    axes.set_axisbelow(True)
    figure.savefig(out)
    return out
