"""The pendulum with too weak a motor."""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box

from polopt.env import Array

from .base import Parts, Task
from .picture import GREY, Canvas

__all__ = ["Pendulum"]

MAX_SPEED = 8.0  # [rad/s]
MAX_TORQUE = 2.0  # [N m]
DT = 0.05  # [s]


class Pendulum(Task):
    """Gymnasium's Pendulum: swing up and hold, reward ``-(θ² + 0.1 θ̇² + 0.001 u²)`` of the state acted in.

    A rod of 1 kg and 1 m, ``θ`` [rad] from upright in [-π, π); semi-implicit Euler, the speed clipped to 8 rad/s.

    Args:
        g: gravity [m/s²].
    """

    start = ((-math.pi, math.pi), (-1.0, 1.0))
    max_episode_steps: ClassVar[int] = 200

    def __init__(self, g: float = 10.0) -> None:
        self.g = g
        high = np.array([1.0, 1.0, MAX_SPEED], np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, None]:
        theta, speed = state
        torque = xp.clip(action[:, 0], -MAX_TORQUE, MAX_TORQUE)
        angle = theta - (2 * math.pi) * xp.floor((theta + math.pi) / (2 * math.pi))
        cost = angle * angle + 0.1 * (speed * speed) + 0.001 * (torque * torque)
        new_speed = xp.clip(speed + (1.5 * self.g * xp.sin(theta) + 3.0 * torque) * DT, -MAX_SPEED, MAX_SPEED)
        return (theta + new_speed * DT, new_speed), -cost, None

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        theta, speed = state
        return xp.cos(theta), xp.sin(theta), speed

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        angle, speed = torch.atan2(obs[..., 1], obs[..., 0]), obs[..., 2]
        torque = action[..., 0].clip(-MAX_TORQUE, MAX_TORQUE)
        return -(angle.square() + 0.1 * speed.square() + 0.001 * torque.square())

    def draw(self, state: np.ndarray) -> np.ndarray:
        canvas = Canvas(3.2)
        canvas.disc(0.0, 0.0, 0.08, GREY)
        canvas.rod(0.0, 0.0, -state[0], 1.0)
        return canvas.picture()
