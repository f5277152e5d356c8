"""``polopt demo``: a minute of training, and what came of it."""

from __future__ import annotations

import csv
import time
import tomllib
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from .config import whole_number
from .evaluate import evaluate_policy
from .files import atomic, read_json
from .film import film, save
from .presets import preset
from .registry import agent_class
from .run import RunError, check_free, discard, new_run

__all__ = ["run"]

_TABLE = tomllib.loads((files("polopt.agents") / "presets" / "demo.toml").read_text("utf-8"))
ALGORITHM, ENV = _TABLE["algorithm"], _TABLE["env"]
SETTING: dict[str, Any] = preset(ALGORITHM, ENV) | _TABLE["hyperparameters"]
FEWEST, MOST = 20_000, 2_000_000
FILM, POINTS = 300, 12


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
        ValueError: ``seconds`` is not above 0, or ``seed`` is none.
        RunError: ``out`` cannot be written, or holds a run that is not a demo's, or in which a process trains.
    """
    from .envs import make_env

    console = Console(soft_wrap=True)
    folder = out / "run"
    if not 0 < seconds < np.inf:
        raise ValueError(f"seconds={seconds!r} must be a number above 0")
    whole_number("seed", seed)
    if (folder / "config.json").exists():
        _discard_demo(folder)
    check_free(folder)
    steps = int(np.clip(0.9 * _rate(seed) * seconds, FEWEST, MOST))
    session = new_run(ALGORITHM, ENV, steps, folder, seed=seed, **SETTING)
    model = session.model
    console.print(
        f"\n[bold]{ALGORITHM}[/] learns [bold]{ENV}[/]: {steps:,} steps in {model.n_envs} worlds, about {seconds:.0f} s",
        highlight=False,
    )
    started = time.perf_counter()
    worlds = make_env(ENV, num_envs=4)
    curve: list[tuple[int, float]] = []

    def watch(model: Any) -> None:
        if model.num_timesteps >= steps * (len(curve) + 1) / POINTS:
            curve.append((model.num_timesteps, evaluate_policy(model, worlds, worlds.num_envs, seed=1)[0]))

    done = session.train(progress_bar=True, watch=watch)
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

    written = [(draw(folder / "progress.csv", out / "learning_curve.png", curve, chance), "the learning curve")]
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


def _discard_demo(folder: Path) -> None:
    """Remove the run of an earlier demo; nobody else's."""
    config = read_json(folder / "config.json", ("algorithm", "env", "hyperparameters"))
    ours = config["hyperparameters"].items() >= _TABLE["hyperparameters"].items()
    if (config["algorithm"], config["env"]) != (ALGORITHM, ENV) or not ours:
        raise RunError(f"{folder} holds a run that is no demo's: choose another directory")
    discard(folder)


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


def draw(progress: Path, out: Path, greedy: list[tuple[int, float]], chance: list[float]) -> Path:
    """The learning curve: the greedy policy as evaluated on the way, the episodes of a run's log, random actions."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    with open(progress, newline="") as f:
        lines = [line for line in csv.DictReader(f) if line.get("rollout/ep_rew_mean")]
    steps = np.array([float(line["time/total_timesteps"]) for line in lines])
    returns = np.array([float(line["rollout/ep_rew_mean"]) for line in lines])
    new = np.flatnonzero(np.diff(returns, prepend=np.nan))  # worlds in step end their episodes together
    steps, returns = steps[new], returns[new]
    random = float(np.mean(chance))
    x, y = np.array([(0, random), *greedy]).T
    ink, pale, blue, orange = "#222222", "#767676", "#0072B2", "#D55E00"
    figure = Figure(figsize=(8, 4.5), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.axhline(random, color=pale, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.plot(steps, returns, color=blue, lw=1.8, alpha=0.85, solid_capstyle="round")
    axes.plot(x, y, color=orange, lw=2.4, marker="o", ms=4.5, solid_capstyle="round", clip_on=False, zorder=3)
    near = {"textcoords": "offset points", "fontsize": 10.5, "va": "center"}
    axes.annotate(f"greedy {y[-1]:,.0f}", (x[-1], y[-1]), (9, 0), color=orange, weight="bold", **near)
    axes.annotate("while\nexploring", (steps[-1], returns[-1]), (9, 0), color=blue, **near)
    axes.annotate(f"random {random:,.0f}", (x[-1], random), (9, 0), color=pale, **near)
    axes.set_title(f"{ALGORITHM} on {ENV}", loc="left", fontsize=13, weight="bold", color=ink, pad=12)
    axes.set_xlabel("environment steps", color=pale)
    axes.set_ylabel("return of an episode", color=pale)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v / 1000:,.0f}k" if v else "0"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    axes.set_xlim(0, x[-1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#BBBBBB")
    axes.tick_params(colors=pale, length=3)
    axes.grid(axis="y", color="#EEEEEE", lw=0.8)
    axes.set_axisbelow(True)
    with atomic(out) as file:
        figure.savefig(file, format=out.suffix.removeprefix("."))
    return out
