"""The car that is too weak for the hill."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from polopt.env import Array

from .base import Parts, Task
from .picture import DARK, RED, Canvas

__all__ = ["MountainCar", "MountainCarContinuous"]

LEFT, RIGHT = -1.2, 0.6
MAX_SPEED = 0.07  # per step
GRAVITY = 0.0025


def drive(xp: ModuleType, state: Parts, push: Array) -> Parts:
    """Position and velocity one step later. The left end stops the car."""
    position, velocity = state
    velocity = xp.clip(velocity + push - GRAVITY * xp.cos(3 * position), -MAX_SPEED, MAX_SPEED)
    position = xp.clip(position + velocity, LEFT, RIGHT)
    return position, xp.where((position == LEFT) & (velocity < 0), velocity * 0.0, velocity)


class _Hill(Task):
    """What both cars share.

    Source: A. W. Moore, "Efficient memory-based learning for robot control", PhD thesis, University of Cambridge, 1990.
    """

    start = ((-0.6, -0.4), (0.0, 0.0))
    goal: ClassVar[float]

    def __init__(self, goal_velocity: float = 0.0) -> None:
        self.goal_velocity = goal_velocity
        low = np.array([LEFT, -MAX_SPEED], np.float32)
        self.observation_space = Box(low, np.array([RIGHT, MAX_SPEED], np.float32), dtype=np.float32)

    def _arrived(self, position: Array, velocity: Array) -> Array:
        return (position >= self.goal) & (velocity >= self.goal_velocity)

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        return state

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self._arrived(next_obs[..., 0], next_obs[..., 1])

    def draw(self, state: np.ndarray) -> np.ndarray:
        def height(x: float) -> float:
            return 0.45 * float(np.sin(3 * x))

        def at(x: float) -> tuple[float, float]:
            return x - (LEFT + RIGHT) / 2, height(x)

        canvas = Canvas(RIGHT - LEFT)
        canvas.line([at(x) for x in np.linspace(LEFT, RIGHT, 100)], DARK, 0.01)
        x, y = at(self.goal)
        canvas.line([(x, y), (x, y + 0.2)], RED, 0.015)
        x, y = at(float(state[0]))
        canvas.disc(x, y + 0.04, 0.04, DARK)
        return canvas.picture()


class MountainCar(_Hill):
    """Gymnasium's MountainCar: push left, not at all or right; -1 per step until the flag.

    Args:
        goal_velocity: the least velocity with which the flag must be passed.
    """

    max_episode_steps: ClassVar[int] = 200
    goal: ClassVar[float] = 0.5

    def __init__(self, goal_velocity: float = 0.0) -> None:
        super().__init__(goal_velocity)
        self.action_space = Discrete(3)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, float, Array]:
        state = drive(xp, state, (action - 1.0) * 0.001)
        return state, -1.0, self._arrived(*state)

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.full_like(next_obs[..., 0], -1.0)


class MountainCarContinuous(_Hill):
    """Gymnasium's MountainCarContinuous: push by a force in [-1, 1]; 100 at the flag, ``-0.1 a²`` per step.

    The cost counts the action as given, the push is clipped; the state is rounded to float32 after each step.

    Args:
        goal_velocity: the least velocity with which the flag must be passed.
    """

    max_episode_steps: ClassVar[int] = 999
    goal: ClassVar[float] = 0.45
    state_dtype: ClassVar[type] = np.float32

    def __init__(self, goal_velocity: float = 0.0) -> None:
        super().__init__(goal_velocity)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, Array]:
        force = action[:, 0]
        state = drive(xp, state, xp.clip(force, -1.0, 1.0) * 0.0015)
        arrived = self._arrived(*state)
        return state, 100.0 * arrived - 0.1 * (force * force), arrived

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        arrived = self.terminated(obs, action, next_obs).to(obs.dtype)
        return 100.0 * arrived - 0.1 * action[..., 0].square()
