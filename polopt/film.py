"""Pictures of a policy: a video, or a strip for paper."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .config import whole_number
from .files import atomic

__all__ = ["Footage", "film", "save"]

FPS = 30


@dataclass(frozen=True)
class Footage:
    """What was seen."""

    pictures: list[np.ndarray]
    """RGB ``[height, width, 3]`` uint8."""
    fps: float
    """pictures a second [1/s], in the world's own time where it tells it"""
    total: float
    """the sum of rewards"""
    length: int
    """environment steps"""


def film(
    model: Any,
    env: str,
    *,
    env_kwargs: dict[str, Any] | None = None,
    seed: int = 0,
    steps: int | None = None,
    deterministic: bool = True,
) -> Footage:
    """One episode of a policy on an environment, seen by its own camera.

    Args:
        env: an environment id.
        seed: of the world, and of what a policy that is not ``deterministic`` draws.
        steps: stop after so many; None films the whole episode.

    Raises:
        TypeError, ValueError: ``steps`` is no whole number, or less than 1.
        NotImplementedError: the environment draws nothing.
        RenderError: there is no OpenGL; says what to install.
    """
    from .envs import make_env

    if steps is not None:
        whole_number("steps", steps, 1)
    worlds = make_env(env, num_envs=1, seed=seed, **{"render_mode": "rgb_array", **(env_kwargs or {})})
    dt = getattr(worlds.unwrapped, "dt", None)
    rate = 1.0 / dt if dt else float(FPS)
    every = max(1, round(rate / FPS))
    dice = getattr(model, "_dice", None)
    if dice is not None:
        before = dice.get_state()
        dice.manual_seed(seed)
    pictures, total, length = [], 0.0, 0
    obs = worlds.reset(seed)
    try:
        while True:
            if length % every == 0:
                pictures.append(worlds.render(0))
            action, _ = model.predict(_arrays(obs), deterministic=deterministic)
            step = worlds.step(torch.as_tensor(action))
            total, length, obs = total + float(step.reward[0]), length + 1, step.obs
            if bool(step.terminated[0] | step.truncated[0]) or length == steps:
                return Footage(pictures, rate / every, total, length)
    finally:
        worlds.close()
        if dice is not None:
            dice.set_state(before)


def check_target(path: str | Path) -> None:
    """Raise where :func:`save` could not write: before anything is filmed.

    Raises:
        ValueError: another suffix than it knows.
        OSError: the folder cannot be made, or written to.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif", ".png", ".jpg"):
        raise ValueError(f"{path}: the file must end in .mp4, .gif, .png or .jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def save(footage: Footage, path: str | Path, frames: int = 8) -> None:
    """Write a video (``.mp4``, ``.gif``), or a strip of ``frames`` pictures side by side (``.png``, ``.jpg``): whole, or not
    at all.

    Raises:
        ValueError: another suffix.
        OSError: it cannot be written; what was there before stays.
    """
    import imageio.v3 as iio

    path = Path(path)
    check_target(path)
    pictures: Any = footage.pictures
    if path.suffix == ".mp4":
        how = dict(fps=footage.fps, codec="libx264", macro_block_size=2, quality=8)
    elif path.suffix == ".gif":
        how = dict(duration=1000 / footage.fps, loop=0)
    else:
        pictures, how = strip(pictures, frames), {}
    encoded = iio.imwrite("<bytes>", pictures, extension=path.suffix, **how)
    with atomic(path) as file:
        file.write(encoded)


def strip(pictures: list[np.ndarray], frames: int = 8) -> np.ndarray:
    """``frames`` evenly spaced pictures side by side, their margins cut: ``[height, width, 3]``."""
    chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, min(frames, len(pictures))).round().astype(int)]
    width = chosen[0].shape[1]
    return np.concatenate([picture[:, width // 8 : width - width // 8] for picture in chosen], axis=1)


def _arrays(obs: Any) -> Any:
    return {k: v.numpy(force=True) for k, v in obs.items()} if isinstance(obs, dict) else obs.numpy(force=True)
