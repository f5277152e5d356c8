"""A tabular problem as a ``gymnasium.Env``, so that every deep agent can be run where the answer is known."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from .mdp import MDP, FiniteHorizonMDP
from .table import tabulate

__all__ = ["TabularEnv"]


class TabularEnv(gymnasium.Env):
    """An :class:`~polopt.theory.MDP` or :class:`~polopt.theory.FiniteHorizonMDP` with Discrete observations and actions.

    The observation is the state, or ``h S + s`` where time matters. Episodes terminate in states that every action keeps at
    reward 0 and at a finite horizon's end; other MDPs go on until ``max_episode_steps`` truncates them. Rewards are the
    expected r(s, a), undiscounted: the discount is the learner's.

    Raises:
        TypeError: another kind of problem.
        ValueError: max_episode_steps < 1.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it without ClassVar

    def __init__(self, mdp: MDP | FiniteHorizonMDP, max_episode_steps: int | None = None) -> None:
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps} must be >= 1, or None for no limit")
        self.mdp, self.max_episode_steps = mdp, max_episode_steps
        self._table = tabulate(mdp)
        self.observation_space = Discrete(self._table.num_observations)
        self.action_space = Discrete(mdp.num_actions)
        self._state: int | None = None
        self._elapsed = 0

    def _observe(self) -> int:
        layer = min(self._elapsed, len(self._table.r) - 1)
        return layer * self.mdp.num_states + self._state

    def _draw(self, cumulative: np.ndarray) -> int:
        return int(np.searchsorted(cumulative, self.np_random.random(), side="right"))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, self._elapsed = self._draw(self._table.start), 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise RuntimeError("reset() must come before the first step()")
        if not self.action_space.contains(action):
            raise ValueError(f"action {action!r} is not in {self.action_space}")
        layer = min(self._elapsed, len(self._table.r) - 1)
        reward = float(self._table.r[layer, self._state, action])
        self._state = self._draw(self._table.cumulative[layer, self._state, action])
        self._elapsed += 1
        terminated = bool(self._table.terminal[self._state]) or self._elapsed == self._table.horizon
        truncated = self._elapsed == self.max_episode_steps
        return self._observe(), reward, terminated, truncated, {}
