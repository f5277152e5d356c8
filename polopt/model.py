"""Models: learned dynamics, as environments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor

from .ensemble import ProbabilisticEnsemble
from .env import Env, Episode, State, Step
from .errors import NonFiniteError

__all__ = ["EnsembleModel", "Model", "Termination"]

Termination = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(obs [B, O], action [B, A], next_obs [B, O]) -> [B]`` bool, actions in the environment's own units."""
MOST_HELD_OUT = 5000
"""Rows that judge a fit, at most."""


class Model(Env):
    """Dynamics that are known or learned, as an Env: N branches from states that are given, stepped together.

    What acts in an environment acts here, and :func:`polopt.rollout.rollout` makes experience of it. A branch that ends is
    not begun anew: its row stays where it is and is no longer ``valid``, so that it has no successors.

    A subclass writes :meth:`predict`, and :meth:`fit` where it learns.

    Args:
        observation_space: a flat Box; ``action_space``: a Box.
        terminated: whether given transitions end the MDP (an Env's own :meth:`polopt.env.Env.terminated`).
        generator: what it draws from.
    """

    def __init__(
        self, observation_space: Space, action_space: Space, terminated: Termination, generator: torch.Generator
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.generator, self.device = generator, generator.device
        self._terminated = terminated
        self.num_envs = self.steps = 0
        self.starts: Tensor | None = None

    @abstractmethod
    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Reward ``[B]`` and next observation ``[B, O]``, drawn anew at each call."""

    def fit(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor) -> dict[str, Tensor]:
        """Learn from all transitions ``[B, ...]`` there are. Returns metrics, 0-d."""
        return {}

    def start(self, obs: Tensor | np.ndarray) -> Tensor:
        """Begin a branch at each of these states ``[N, O]``, a tensor or an array. Returns them.

        Raises:
            ValueError: they are not ``[N, O]``.
        """
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.device)
        if obs.shape[1:] != self.observation_space.shape:
            raise ValueError(f"obs {tuple(obs.shape)} must be states [N, {self.observation_space.shape[0]}]")
        self.starts, self.num_envs = obs, len(obs)
        return self.reset()

    def reset(self, seed: int | None = None) -> Tensor:
        """Begin again at the states that :meth:`start` was given last."""
        if self.starts is None:
            raise RuntimeError("a model has no start states of its own: give them with start(obs)")
        if seed is not None:
            self.generator.manual_seed(seed)
        self.obs, self.steps = self.starts, 0
        self.alive = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        return self.obs

    def step(self, action: Tensor) -> Step:
        """Advance the branches that are alive; ``valid`` is which were.

        Raises:
            NonFiniteError: a prediction is NaN or infinite; names the step of the branch, and the member.
        """
        obs, alive = self.obs, self.alive
        self.steps += 1
        rows = slice(None) if bool(alive.all()) else alive.nonzero().squeeze(1)
        reward, next_obs = torch.zeros(len(obs), device=self.device), obs.clone()
        try:
            reward[rows], next_obs[rows] = self.predict(obs[rows], action[rows])
        except NonFiniteError as error:
            raise NonFiniteError(f"step {self.steps} of a branch: {error}") from error
        terminated = alive & self._terminated(obs, action, next_obs)
        self.obs, self.alive = next_obs, alive & ~terminated
        return Step(next_obs, reward, terminated, torch.zeros_like(terminated), next_obs, valid=alive)

    def pop_episodes(self) -> list[Episode]:
        """None: a branch is no episode."""
        return []

    def state_dict(self) -> State:
        started = {} if self.starts is None else {"starts": self.starts, "obs": self.obs, "alive": self.alive}
        return {"generator": self.generator.get_state(), "steps": self.steps, **started}

    def load_state_dict(self, state: State) -> Tensor | None:
        self.generator.set_state(state["generator"])
        if "starts" not in state:
            return None
        self.start(state["starts"].to(self.device))
        self.obs, self.alive, self.steps = state["obs"].to(self.device), state["alive"].to(self.device), state["steps"]
        return self.obs


class EnsembleModel(Model):
    """A :class:`Model` learned by an ensemble: (reward, change of the observation) of (obs, action).

    Args:
        ensemble: over ``O + A`` inputs and ``1 + O`` outputs.
        holdout: the share of the rows that only judges a fit, of which there are at most 5000.
    """

    def __init__(
        self, ensemble: ProbabilisticEnsemble, observation_space: Space, action_space: Space, terminated: Termination,
        generator: torch.Generator, holdout: float = 0.2,
    ) -> None:  # fmt: skip
        super().__init__(observation_space, action_space, terminated, generator)
        self.ensemble, self.holdout = ensemble, holdout

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        reward, delta = self.ensemble.sample(torch.cat([obs, action], -1), self.generator).tensor_split([1], -1)
        return reward.squeeze(-1), obs + delta

    def fit(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor) -> dict[str, Tensor]:
        """See :meth:`polopt.ensemble.ProbabilisticEnsemble.fit`."""
        held_out = min(max(int(self.holdout * len(obs)), 1), MOST_HELD_OUT)
        y = torch.cat([reward.unsqueeze(-1), next_obs - obs], -1)
        return self.ensemble.fit(torch.cat([obs, action], -1), y, self.generator, held_out)
