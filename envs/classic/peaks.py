"""A bandit with several best actions."""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box

from polopt.env import Array

from .base import Parts, Task
from .picture import DARK, GREY, RED, Canvas

__all__ = ["FourPeaks"]


class FourPeaks(Task):
    """One step, one state, four equal peaks of the reward on a circle: ``Σ_k exp(-|a - c_k|² / 2w²)``, about 1 at each.

    A policy may keep every peak or settle on one, at no loss; what a method does here shows which policies it can hold.

    Args:
        radius: of the circle, within the actions' box [-1, 1]².
        width: w, of a peak.

    Raises:
        ValueError: a radius outside (0, 1], or a width of 0 or less.
    """

    start = ((1.0, 1.0),)
    max_episode_steps: ClassVar[int] = 1

    def __init__(self, radius: float = 0.6, width: float = 0.25) -> None:
        if not 0 < radius <= 1:
            raise ValueError(f"radius={radius} must be in (0, 1]")
        if width <= 0:
            raise ValueError(f"width={width} must be above 0")
        self.width = width
        self.centres = [(radius * math.cos(a), radius * math.sin(a)) for a in (k * math.pi / 2 for k in range(4))]
        self.observation_space = Box(0.0, 1.0, (1,), np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)

    def _height(self, xp: ModuleType, action: Array) -> Array:
        x, y = (xp.clip(action[..., j], -1.0, 1.0) for j in range(2))
        return sum(xp.exp(((x - a) ** 2 + (y - b) ** 2) * (-0.5 / self.width**2)) for a, b in self.centres)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, Array]:
        reward = self._height(xp, action)
        return state, reward, reward == reward

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        return state

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self._height(torch, action)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.ones(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)

    def peak(self, action: np.ndarray, within: float = 1.0) -> np.ndarray:
        """Which peak each action ``[..., 2]`` is on, at most ``within`` widths from its centre; -1: none."""
        distance = np.linalg.norm(np.asarray(action)[..., None, :] - np.array(self.centres), axis=-1)
        return np.where(distance.min(-1) <= within * self.width, distance.argmin(-1), -1)

    def draw(self, state: np.ndarray) -> np.ndarray:
        canvas = Canvas(4.0)
        canvas.line([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], GREY)
        for x, y in self.centres:
            canvas.disc(x, y, self.width, RED)
            canvas.disc(x, y, 0.02, DARK)
        return canvas.picture()
