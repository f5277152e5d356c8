"""A tabular problem as N worlds in torch, on any device (the one file of this wing that needs torch)."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from gymnasium.spaces import Discrete

from polopt.env import Env, Episode, State, Step

from .mdp import MDP, FiniteHorizonMDP
from .table import tabulate

__all__ = ["TabularWorlds"]


class TabularWorlds(Env):
    """N copies of a problem stepped by gathers; observations ``[N]`` int64 as :class:`~polopt.theory.gym.TabularEnv`'s.

    Raises:
        ValueError: num_envs or max_episode_steps < 1.
    """

    _MOST_EPISODES = 100_000

    def __init__(
        self,
        mdp: MDP | FiniteHorizonMDP,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cpu",
        seed: int | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} must be >= 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps} must be >= 1, or None for no limit")
        table = tabulate(mdp)
        self.mdp, self.num_envs, self.max_episode_steps = mdp, num_envs, max_episode_steps
        self.device = torch.empty(0, device=device).device
        self.observation_space, self.action_space = Discrete(table.num_observations), Discrete(mdp.num_actions)
        self._cumulative = torch.tensor(table.cumulative, device=self.device)
        self._r = torch.tensor(table.r, dtype=torch.float32, device=self.device)
        self._start = torch.tensor(table.start, device=self.device)
        self._terminal = torch.tensor(table.terminal, device=self.device)
        never = torch.iinfo(torch.int64).max
        self._horizon = never if table.horizon is None else table.horizon
        self._limit = never if max_episode_steps is None else max_episode_steps
        self._generator = torch.Generator(self.device)
        self._seed = seed
        self._seeded = False
        self._state: torch.Tensor | None = None
        self._elapsed = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._return = torch.zeros(num_envs, dtype=torch.float64, device=self.device)
        self._finished: deque[Episode] = deque(maxlen=self._MOST_EPISODES)

    def _uniform(self) -> torch.Tensor:
        return torch.rand(self.num_envs, 1, generator=self._generator, dtype=torch.float64, device=self.device)

    def _draw_start(self) -> torch.Tensor:
        return (self._start <= self._uniform()).sum(-1)

    def _layer(self) -> torch.Tensor:
        return self._elapsed.clamp(max=len(self._r) - 1)

    def _observe(self) -> torch.Tensor:
        return self._layer() * self._r.shape[1] + self._state

    def reset(self, seed: int | None = None) -> torch.Tensor:
        if seed is None:
            seed, self._seed = self._seed, None
        if seed is not None:
            self._generator.manual_seed(seed)
        elif not self._seeded:
            self._generator.seed()
        self._seeded = True
        self.resets += 1
        self._elapsed.zero_()
        self._return.zero_()
        self._state = self._draw_start()
        return self._observe()

    def step(self, action: torch.Tensor) -> Step:
        if self._state is None:
            raise RuntimeError("reset() must come before the first step()")
        if action.shape != (self.num_envs,):
            raise ValueError(f"action has shape {tuple(action.shape)}: must be ({self.num_envs},)")
        action = action.to(self.device, torch.int64)
        if self.device.type == "cpu" and len(bad := action[(action < 0) | (action >= self.mdp.num_actions)]):
            raise ValueError(f"action {int(bad[0])} is not in {self.action_space}")
        here = (self._layer(), self._state, action)
        reward = self._r[here]
        self._state = (self._cumulative[here] <= self._uniform()).sum(-1)
        self._elapsed += 1
        self._return += reward
        terminated = self._terminal[self._state] | (self._elapsed >= self._horizon)
        truncated = self._elapsed >= self._limit
        next_obs = self._observe()
        obs = self._restart(terminated | truncated, next_obs)
        return Step(obs, reward, terminated, truncated, next_obs)

    def _restart(self, done: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        rows = done.nonzero().squeeze(-1)
        if len(rows) == 0:
            return obs
        self._finished.extend(map(Episode, rows.tolist(), self._return[rows].tolist(), self._elapsed[rows].tolist()))
        self._return[rows] = 0.0
        self._elapsed[rows] = 0
        self._state = torch.where(done, self._draw_start(), self._state)
        return self._observe()

    def reset_where(self, mask: torch.Tensor) -> torch.Tensor:
        return self._restart(mask.to(self.device), self._observe())

    def pop_episodes(self) -> list[Episode]:
        episodes = list(self._finished)
        self._finished.clear()
        return episodes

    def state_dict(self) -> State:
        if self._state is None:
            raise RuntimeError("reset() must come before state_dict()")
        return {
            "state": self._state.cpu().numpy().copy(),
            "elapsed": self._elapsed.cpu().numpy().copy(),
            "return": self._return.cpu().numpy().copy(),
            "generator": self._generator.get_state().numpy().copy(),
            "episodes": [list(episode) for episode in self._finished],
        }

    def load_state_dict(self, state: State) -> torch.Tensor:
        saved = np.asarray(state["state"])
        if saved.shape != (self.num_envs,) or saved.max(initial=0) >= self.mdp.num_states:
            raise ValueError(
                f"the state is of {saved.size} worlds with states up to {saved.max(initial=0)}; "
                f"these are {self.num_envs} worlds of {self.mdp.num_states} states"
            )
        self._state = torch.tensor(saved, device=self.device)
        self._elapsed = torch.tensor(np.asarray(state["elapsed"]), device=self.device)
        self._return = torch.tensor(np.asarray(state["return"]), device=self.device)
        self._generator.set_state(torch.tensor(np.asarray(state["generator"])))
        self._seeded, self._seed = True, None
        self._finished = deque((Episode(*episode) for episode in state["episodes"]), maxlen=self._MOST_EPISODES)
        return self._observe()
