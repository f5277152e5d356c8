"""The pole on a cart: balancing it, and swinging it up first."""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from polopt.env import Array

from .base import Parts, Task
from .picture import DARK, GREY, Canvas

__all__ = ["CartPole", "CartPoleSwingUp"]

GRAVITY = 9.8  # [m/s²]
POLE_MASS = 0.1  # [kg]
TOTAL_MASS = 1.1  # [kg], with the cart's 1 kg
HALF_LENGTH = 0.5  # [m] of the pole
FORCE = 10.0  # [N], the largest
TAU = 0.02  # [s] per step
TRACK = 2.4  # [m], the farthest the cart may go
FALLEN = 12 * 2 * math.pi / 360  # [rad]


def push(xp: ModuleType, state: Parts, force: Array) -> Parts:
    """The state ``x, ẋ, θ, θ̇`` (θ from upright) one explicit Euler step of ``TAU`` later under a force [N].

    Source: R. V. Florian, "Correct equations for the dynamics of the cart-pole system", 2007, without friction.
    """
    x, x_dot, theta, theta_dot = state
    cos, sin = xp.cos(theta), xp.sin(theta)
    moment = POLE_MASS * HALF_LENGTH
    along = (force + moment * (theta_dot * theta_dot) * sin) / TOTAL_MASS
    theta_acc = (GRAVITY * sin - cos * along) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS))
    x_acc = along - moment * theta_acc * cos / TOTAL_MASS
    return x + TAU * x_dot, x_dot + TAU * x_acc, theta + TAU * theta_dot, theta_dot + TAU * theta_acc


def draw(x: float, theta: float) -> np.ndarray:
    """A picture of the cart at ``x`` [m] with the pole at ``theta`` [rad]."""
    canvas = Canvas(2.4 * TRACK)
    canvas.line([(-TRACK, 0.0), (TRACK, 0.0)], GREY)
    canvas.box(x, 0.0, 0.5, 0.3, DARK)
    canvas.rod(x, 0.1, theta, 2 * HALF_LENGTH)
    return canvas.picture()


class CartPole(Task):
    """Gymnasium's CartPole: keep the pole within 12° of upright and the cart on the track; 1 per step.

    Args:
        sutton_barto_reward: 0 per step and -1 for the one that ends the episode.

    Source: A. G. Barto, R. S. Sutton, C. W. Anderson, "Neuronlike adaptive elements that can solve difficult learning
    control problems", 1983.
    """

    start = ((-0.05, 0.05),) * 4
    max_episode_steps: ClassVar[int] = 500

    def __init__(self, sutton_barto_reward: bool = False) -> None:
        self.sutton_barto_reward = sutton_barto_reward
        high = np.array([2 * TRACK, np.inf, 2 * FALLEN, np.inf], np.float32)
        self.observation_space, self.action_space = Box(-high, high, dtype=np.float32), Discrete(2)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array | float, Array]:
        state = push(xp, state, (2 * FORCE) * action - FORCE)
        lost = self._lost(xp, state[0], state[2])
        return state, -1.0 * lost if self.sutton_barto_reward else 1.0, lost

    @staticmethod
    def _lost(xp: ModuleType, x: Array, theta: Array) -> Array:
        return (xp.abs(x) > TRACK) | (xp.abs(theta) > FALLEN)

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        return state

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        if self.sutton_barto_reward:
            return -self.terminated(obs, action, next_obs).to(obs.dtype)
        return torch.ones_like(next_obs[..., 0])

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self._lost(torch, next_obs[..., 0], next_obs[..., 2])

    def draw(self, state: np.ndarray) -> np.ndarray:
        return draw(state[0], state[2])


class CartPoleSwingUp(Task):
    """The same pole starts hanging and is to be swung up by a continuous push.

    Observation ``x [m], ẋ, cos θ, sin θ, θ̇``; action in [-1, 1], times 10 N; reward ``(1 + cos θ)/2`` of the state
    reached, so at most 1 a step; leaving the track (2.4 m) ends the episode.
    """

    start = ((-0.05, 0.05), (-0.05, 0.05), (math.pi - 0.1, math.pi + 0.1), (-0.05, 0.05))
    max_episode_steps: ClassVar[int] = 500

    def __init__(self) -> None:
        high = np.array([2 * TRACK, np.inf, 1.0, 1.0, np.inf], np.float32)
        self.observation_space = Box(-high, high, dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, Array]:
        state = push(xp, state, FORCE * xp.clip(action[:, 0], -1.0, 1.0))
        return state, 0.5 + 0.5 * xp.cos(state[2]), xp.abs(state[0]) > TRACK

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        x, x_dot, theta, theta_dot = state
        return x, x_dot, xp.cos(theta), xp.sin(theta), theta_dot

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return 0.5 + 0.5 * next_obs[..., 2]

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return next_obs[..., 0].abs() > TRACK

    def draw(self, state: np.ndarray) -> np.ndarray:
        return draw(state[0], state[2])
