"""Wrappers around any Env: a time limit, and observations that tell how much time is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box

from polopt.env import Array, Env, Obs, State, Step, Wrapper

__all__ = ["TimeAware", "TimeLimit"]


class _Counting(Wrapper):
    """An Env around another that knows how many steps the running episodes are old."""

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        self._age = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)

    def _ages(self, array: Array) -> Array:
        """The ages ``[N]`` [steps], of the kind of ``array``; to be changed in place."""
        return self._age if isinstance(array, torch.Tensor) else self._age.numpy()

    def _grow(self, step: Step) -> Array:
        ages = self._ages(step.reward)
        ages += 1 if step.valid is None else step.valid
        return ages

    def reset(self, seed: int | None = None) -> Obs:
        self._age.zero_()
        return super().reset(seed)

    def reset_host(self, seed: int | None = None) -> Obs:
        self._age.zero_()
        return super().reset_host(seed)

    def reset_where(self, mask: Array) -> Obs:
        self._age[torch.as_tensor(mask, device=self.device)] = 0
        return super().reset_where(mask)

    def state_dict(self) -> State:
        return super().state_dict() | {"age": self._age.cpu().numpy().copy()}

    def load_state_dict(self, state: State) -> Obs:
        obs = self.env.load_state_dict(state["env"])
        if self.env.exact_state:
            self._age.copy_(torch.from_numpy(state["age"]))
        else:
            self._age.zero_()
        return self._begin(obs)


class TimeLimit(_Counting):
    """Truncates episodes that are ``max_episode_steps`` old and starts new ones in their place.

    Args:
        env: an Env that can reset some of its worlds; built-in ones and :class:`GymnasiumEnv` can.
        max_episode_steps: at least 1; the inner limit, if shorter, still holds.

    Raises:
        ValueError: ``max_episode_steps`` is below 1.
        TypeError: ``env`` can only reset all its worlds at once.
    """

    def __init__(self, env: Env, max_episode_steps: int) -> None:
        if not isinstance(max_episode_steps, int) or max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps!r} must be a whole number of at least 1")
        if type(env.unwrapped).reset_where is Env.reset_where:
            raise TypeError(
                f"env: {type(env.unwrapped).__name__} can only reset all its worlds at once; give the environments"
                " inside the limit, as gymnasium.make(..., max_episode_steps=)"
            )
        super().__init__(env)
        self._limit = max_episode_steps
        inner = env.max_episode_steps
        self.max_episode_steps = max_episode_steps if inner is None else min(inner, max_episode_steps)

    def _after(self, step: Step) -> Step:
        ages = self._grow(step)
        late = ages >= self._limit
        done = step.terminated | step.truncated
        cut = late & ~done
        obs = step.obs
        # Off the CPU the answer to "any?" would be waited for: there the mask decides alone.
        if self.device.type != "cpu" or cut.any():
            obs = self.env.reset_where(np.asarray(cut) if self.host else cut)
            if isinstance(step.reward, torch.Tensor):
                obs = _tensors(obs)
        ages[done | late] = 0
        return step._replace(obs=obs, truncated=step.truncated | late)


class TimeAware(_Counting):
    """Appends the share of the episode's time that is left, from 1 at its start to 0 at the limit.

    With it the value of a state under a time limit is a function of the observation (F. Pardo et al., "Time limits in
    reinforcement learning", 2018, arXiv:1712.00378).

    Args:
        env: an Env with a time limit and one-dimensional Box observations of a floating dtype.

    Raises:
        ValueError: ``env`` has no time limit.
        TypeError: its observations are not one-dimensional Boxes of floats.
    """

    def __init__(self, env: Env) -> None:
        if env.max_episode_steps is None:
            raise ValueError("env has no time limit (max_episode_steps is None): wrap it in a TimeLimit first")
        space = env.observation_space
        if not isinstance(space, Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise TypeError(
                f"observation space {space} is not supported here: it must be a one-dimensional Box of floats"
            )
        super().__init__(env)
        low, high = np.append(space.low, 0.0), np.append(space.high, 1.0)
        self.observation_space = Box(low.astype(space.dtype), high.astype(space.dtype), dtype=space.dtype)

    def _append(self, obs: Array, ages: Array) -> Array:
        if isinstance(obs, torch.Tensor):
            left = 1.0 - torch.as_tensor(ages).double() / self.max_episode_steps
            return torch.cat([obs, left.to(obs.dtype)[:, None]], 1)
        left = 1.0 - ages / self.max_episode_steps
        return np.concatenate([obs, left.astype(obs.dtype)[:, None]], 1)

    def _begin(self, obs: Obs) -> Obs:
        return self._append(obs, self._ages(obs))

    def _after(self, step: Step) -> Step:
        ages = self._grow(step)
        next_obs = obs = self._append(step.next_obs, ages)
        if step.valid is not None:
            # NEXT_STEP: the row that follows an end is the reset, and shows the new episode's start.
            ages[~step.valid] = 0
            next_obs = obs = self._append(step.next_obs, ages)
        if step.obs is not step.next_obs:
            ages[step.terminated | step.truncated] = 0
            obs = self._append(step.obs, ages)
        return step._replace(obs=obs, next_obs=next_obs)

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.env.reward(obs[..., :-1], action, next_obs[..., :-1])

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.env.terminated(obs[..., :-1], action, next_obs[..., :-1])


def _tensors(x: Any) -> Any:
    if isinstance(x, dict):
        return {key: _tensors(part) for key, part in x.items()}
    return torch.as_tensor(x)
