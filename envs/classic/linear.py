"""Linear worlds with quadratic costs, whose optimum is known."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike

from polopt.env import Array

from .base import Parts, Task
from .picture import DARK, GREY, RED, Canvas

__all__ = ["LQR", "DoubleIntegrator"]


class LQR(Task):
    """``x' = A x + B u``, reward ``-(xᵀQx + uᵀRu)`` of the state acted in; never ends, starts uniformly in [-1, 1]ⁿ.

    Actions are clipped to [-bound, bound]. With the default matrices the optimal action stays inside the bounds from
    every start, so :meth:`optimal_cost` is what the best policy pays.

    Args:
        A, B, Q, R: ``[n, n]``, ``[n, m]``, ``[n, n]``, ``[m, m]``; Q positive semidefinite, R positive definite. By
            default a slowly growing, weakly coupled rotation with three states and two actions.
        bound: of each action, above 0.

    Raises:
        ValueError: shapes that do not fit, an R that is not positive definite, or a bound of 0 or less.
    """

    start = ((-1.0, 1.0),) * 3
    max_episode_steps: ClassVar[int] = 200

    def __init__(
        self,
        A: ArrayLike = ((1.01, 0.1, 0.0), (-0.1, 1.01, 0.1), (0.0, 0.0, 0.95)),
        B: ArrayLike = ((0.0, 0.0), (0.2, 0.0), (0.0, 0.2)),
        Q: ArrayLike = ((0.1, 0.0, 0.0), (0.0, 0.1, 0.0), (0.0, 0.0, 0.1)),
        R: ArrayLike = ((0.05, 0.0), (0.0, 0.05)),
        bound: float = 5.0,
    ) -> None:
        self.A, self.B, self.Q, self.R = (np.array(matrix, np.float64) for matrix in (A, B, Q, R))
        n, m = self.B.shape
        for name, matrix, shape in (("A", self.A, (n, n)), ("Q", self.Q, (n, n)), ("R", self.R, (m, m))):
            if matrix.shape != shape:
                raise ValueError(f"{name} has shape {matrix.shape}: must be {shape}, as B is {self.B.shape}")
        if np.linalg.eigvalsh(self.R + self.R.T).min() <= 0:
            raise ValueError(f"R={self.R.tolist()} must be positive definite")
        if bound <= 0:
            raise ValueError(f"bound={bound} must be above 0")
        self._A, self._B, self._Q, self._R = (matrix.tolist() for matrix in (self.A, self.B, self.Q, self.R))
        self.bound = bound
        self.start = ((-1.0, 1.0),) * n
        self.observation_space = Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = Box(-bound, bound, (m,), np.float32)

    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array, None]:
        controls = tuple(xp.clip(action[:, j], -self.bound, self.bound) for j in range(self.B.shape[1]))
        cost = _form(self._Q, state) + _form(self._R, controls)
        return tuple(_row(a, state) + _row(b, controls) for a, b in zip(self._A, self._B, strict=True)), -cost, None

    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        return state

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        controls = action.clip(-self.bound, self.bound)
        return -(_form(self._Q, obs.unbind(-1)) + _form(self._R, controls.unbind(-1)))

    def value_matrix(self, gamma: float = 1.0, horizon: int | None = None) -> np.ndarray:
        """P ``[n, n]``: the least discounted cost from ``x`` over ``horizon`` steps (None: for ever) is ``xᵀPx``.

        Solves the discrete algebraic Riccati equation of ``√γ A, √γ B``, or runs its recursion ``horizon`` times::

            P ← Q + γ Aᵀ P A - γ² Aᵀ P B (R + γ Bᵀ P B)⁻¹ Bᵀ P A,   P₀ = 0
        """
        if horizon is None:
            from scipy.linalg import solve_discrete_are

            return solve_discrete_are(gamma**0.5 * self.A, gamma**0.5 * self.B, self.Q, self.R)
        value = np.zeros_like(self.Q)
        for _ in range(horizon):
            value = self.Q + gamma * self.A.T @ value @ (self.A - self.B @ self._gain(value, gamma))
        return value

    def _gain(self, value: np.ndarray, gamma: float) -> np.ndarray:
        later = gamma * self.B.T @ value
        return np.linalg.solve(self.R + later @ self.B, later @ self.A)

    def optimal_gain(self, gamma: float = 1.0) -> np.ndarray:
        """K ``[m, n]``: the best action for ever is ``u = -K x``, where it stays inside the bounds."""
        return self._gain(self.value_matrix(gamma), gamma)

    def optimal_cost(self, state: ArrayLike, gamma: float = 1.0, horizon: int | None = None) -> np.ndarray:
        """The least discounted cost ``[...]`` from states ``[..., n]`` over ``horizon`` steps (None: for ever).

        The best return of an episode is ``-optimal_cost(first_obs, horizon=max_episode_steps)``.
        """
        state = np.asarray(state, np.float64)
        return np.einsum("...i,ij,...j", state, self.value_matrix(gamma, horizon), state)

    def expected_optimal_cost(self, gamma: float = 1.0, horizon: int | None = None) -> float:
        """:meth:`optimal_cost` averaged over the starting states, ``tr(P)/3``."""
        return float(np.trace(self.value_matrix(gamma, horizon)) / 3)

    def draw(self, state: np.ndarray) -> np.ndarray:
        canvas = Canvas(4.0)
        canvas.line([(-1.9, 0.0), (1.9, 0.0)], GREY)
        for k, value in enumerate(state):
            x = (k - (len(state) - 1) / 2) * 0.6
            height = float(np.clip(value, -1.4, 1.4))
            canvas.box(x, height / 2, 0.3, abs(height), RED if value < 0 else DARK)
        return canvas.picture()


class DoubleIntegrator(LQR):
    """A mass of 1 kg on a line, pushed by a force in [-1, 1] N for 0.1 s at a time; cost ``x² + 0.1 v² + 0.1 u²``.

    The bounds bite from many starts, so :meth:`optimal_cost` is a lower bound of the cost here.
    """

    def __init__(self) -> None:
        super().__init__(
            A=((1.0, 0.1), (0.0, 1.0)), B=((0.005,), (0.1,)), Q=((1.0, 0.0), (0.0, 0.1)), R=((0.1,),), bound=1.0
        )

    def draw(self, state: np.ndarray) -> np.ndarray:
        canvas = Canvas(4.0)
        canvas.line([(-1.9, -0.15), (1.9, -0.15)], GREY)
        canvas.line([(0.0, -0.25), (0.0, -0.05)], RED)
        canvas.box(float(np.clip(state[0], -1.8, 1.8)), 0.0, 0.3, 0.3, DARK)
        return canvas.picture()


def _row(weights: list[float], parts: Parts) -> Array:
    """``Σⱼ weights[j] parts[j]``."""
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        if weight:
            total = total + weight * part
    return total


def _form(matrix: list[list[float]], parts: Parts) -> Array:
    """``xᵀ matrix x`` of components."""
    return sum(part * _row(weights, parts) for weights, part in zip(matrix, parts, strict=True) if any(weights))
