"""Two links that hang from a bar, driven at the elbow."""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from polopt.env import Array

from .base import Parts, Task
from .picture import GREY, Canvas

__all__ = ["Acrobot"]

DT = 0.2  # [s]
GRAVITY = 9.8  # [m/s²]
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi  # [rad/s]


def _wrap(xp: ModuleType, angle: Array) -> Array:
    """An angle brought into [-π, π] by whole turns."""
    return angle - (2 * math.pi) * xp.round(angle / (2 * math.pi))


class Acrobot(Task):
    """Gymnasium's Acrobot: bring the tip one link's length above the bar; -1 per step, 0 for the one that does it.

    Links of 1 kg, 1 m and moment 1 kg m² each; ``θ₁`` [rad] from hanging, ``θ₂`` relative to the first link; torque -1,
    0 or 1 N m; one fourth-order Runge-Kutta step of 0.2 s; speeds clipped to 4π and 9π rad/s.

    Source: R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 1998, section 11.3.
    """

    start = ((-0.1, 0.1),) * 4
    max_episode_steps: ClassVar[int] = 500

    def __init__(self) -> None:
        high = np.array([1.0, 1.0, 1.0, 1.0, MAX_SPEED_1, MAX_SPEED_2], np.float32)
        self.observation_space, self.action_space = Box(-high, high, dtype=np.float32), Discrete(3)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, Array]:
        torque = action - 1.0

        def moved(slope: Parts, time: float) -> Parts:
            return tuple(part + time * rate for part, rate in zip(state, slope, strict=True))

        k1 = _slope(xp, state, torque)
        k2 = _slope(xp, moved(k1, DT / 2), torque)
        k3 = _slope(xp, moved(k2, DT / 2), torque)
        k4 = _slope(xp, moved(k3, DT), torque)
        mean = tuple(a + 2 * b + 2 * c + d for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        theta1, theta2, speed1, speed2 = moved(mean, DT / 6)
        theta1, theta2 = _wrap(xp, theta1), _wrap(xp, theta2)
        speed1 = xp.clip(speed1, -MAX_SPEED_1, MAX_SPEED_1)
        speed2 = xp.clip(speed2, -MAX_SPEED_2, MAX_SPEED_2)
        done = -xp.cos(theta1) - xp.cos(theta2 + theta1) > 1.0
        return (theta1, theta2, speed1, speed2), 1.0 * done - 1.0, done

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        theta1, theta2, speed1, speed2 = state
        return xp.cos(theta1), xp.sin(theta1), xp.cos(theta2), xp.sin(theta2), speed1, speed2

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.terminated(obs, action, next_obs).to(obs.dtype) - 1.0

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        cos1, sin1, cos2, sin2 = next_obs[..., :4].unbind(-1)
        return -cos1 - (cos1 * cos2 - sin1 * sin2) > 1.0

    def draw(self, state: np.ndarray) -> np.ndarray:
        canvas = Canvas(6.0)
        canvas.line([(-2.2, 1.0), (2.2, 1.0)], GREY)
        elbow = canvas.rod(0.0, 0.0, math.pi - state[0], 1.0)
        canvas.rod(*elbow, math.pi - state[0] - state[1], 1.0)
        return canvas.picture()


def _slope(xp: ModuleType, state: Parts, torque: Array) -> Parts:
    """The time derivatives of ``θ₁, θ₂, θ̇₁, θ̇₂``."""
    theta1, theta2, speed1, speed2 = state
    cos2, sin2 = xp.cos(theta2), xp.sin(theta2)
    d1 = 0.25 + (1.25 + cos2) + 2.0
    d2 = 0.25 + 0.5 * cos2 + 1.0
    phi2 = 0.5 * GRAVITY * xp.cos(theta1 + theta2 - math.pi / 2)
    phi1 = (
        -0.5 * (speed2 * speed2) * sin2 - speed2 * speed1 * sin2 + 1.5 * GRAVITY * xp.cos(theta1 - math.pi / 2) + phi2
    )
    acc2 = (torque + d2 / d1 * phi1 - 0.5 * (speed1 * speed1) * sin2 - phi2) / (1.25 - d2 * d2 / d1)
    acc1 = -(d2 * acc2 + phi1) / d1
    return speed1, speed2, acc1, acc2
