"""Classic control: a task's equations written once over an array namespace, and the two kinds of worlds that run them.

On the CPU NumPy beats torch's dispatch at every number of worlds, so :class:`HostWorlds` runs the equations there, in
float64 as Gymnasium does; :class:`TorchWorlds` runs the same ones on any torch device.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Discrete
from gymnasium.utils import seeding

from polopt.env import Array, Env, Episode, HostEnv, Obs, State, Step

from ..spaces import numpy_dtype

__all__ = ["HostWorlds", "Task", "TorchWorlds"]

Parts = tuple[Array, ...]
"""The components of a state or an observation, ``[N]`` each."""


class Task(ABC):
    """The equations of a world. ``xp`` is ``numpy`` or ``torch``; states come and go as components ``[N]``.

    A subclass states its spaces and where episodes start, and writes :meth:`dynamics` and :meth:`observe`. The worlds
    are ``Task(...).worlds(num_envs)``, and ``env.task`` leads back.
    """

    observation_space: Space
    action_space: Space
    start: tuple[tuple[float, float], ...]
    """The interval of each component of the state, uniformly drawn from when an episode starts."""
    max_episode_steps: ClassVar[int]
    state_dtype: ClassVar[type] = np.float64
    """In which NumPy keeps the state between steps."""

    @abstractmethod
    def dynamics(self, xp: ModuleType, state: Parts, action: Array) -> tuple[Parts, Array | float, Array | None]:
        """The next state, the reward and whether the MDP ended (None: it never does).

        ``action`` is floating: ``[N]`` for Discrete, ``[N, A]`` for Box action spaces. In torch it has the state's
        dtype; NumPy keeps a float32 action as it is, for Gymnasium rounds its products too.
        """

    @abstractmethod
    def observe(self, xp: ModuleType, state: Parts) -> Parts:
        """The components of the observation."""

    @abstractmethod
    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        """The reward ``[...]`` of given transitions, as :meth:`Env.reward`."""

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        """Whether given transitions end the MDP, as :meth:`Env.terminated`."""
        return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)

    @abstractmethod
    def draw(self, state: np.ndarray) -> np.ndarray:
        """A picture ``[height, width, 3]`` uint8 of one state ``[S]``."""

    def worlds(
        self,
        num_envs: int = 1,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        max_episode_steps: int | None = None,
        tensors: bool | None = None,
    ) -> Env:
        """N worlds of this task.

        Args:
            num_envs: N.
            device: where they live.
            seed: of the first ``reset()`` that is given none. One generator serves all worlds; a single host world
                draws exactly what Gymnasium's environment draws from the same seed.
            dtype: of observations and, in torch, of the state.
            max_episode_steps: time limit [steps]; None for the task's own, -1 for none.
            tensors: :class:`TorchWorlds` (True) or :class:`HostWorlds` (False, CPU only); None: by the device.

        Raises:
            ValueError: ``num_envs`` or ``max_episode_steps`` is out of range, or host worlds are asked for elsewhere.
        """
        device = torch.device(device)
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs} must be at least 1")
        limit = self.max_episode_steps if max_episode_steps is None else max_episode_steps
        if limit != -1 and limit < 1:
            raise ValueError(f"max_episode_steps={limit} must be at least 1, -1 for no limit, or None")
        limit = None if limit == -1 else limit
        if tensors is None:
            tensors = device.type != "cpu"
        if tensors:
            return TorchWorlds(self, num_envs, device, seed, dtype, limit)
        if device.type != "cpu":
            raise ValueError(f"device={str(device)!r}: host worlds live on the CPU")
        return HostWorlds(self, num_envs, seed, dtype, limit)


_NEVER = np.iinfo(np.int64).max


class _Scalars:
    """The few functions of ``xp`` that the equations use, of single numbers."""

    sin, cos, abs, round = math.sin, math.cos, abs, round

    @staticmethod
    def clip(x: float, low: float, high: float) -> float:
        return min(max(x, low), high)

    @staticmethod
    def where(condition: bool, x: float, y: float) -> float:
        return x if condition else y


class HostWorlds(HostEnv):
    """N worlds of a task in NumPy. Observations are ``[N, O]`` views of component-major arrays."""

    def __init__(
        self, task: Task, num_envs: int, seed: int | None, dtype: torch.dtype, max_episode_steps: int | None
    ) -> None:
        self.task = task
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self.max_episode_steps = max_episode_steps
        self._last_step = _NEVER if max_episode_steps is None else max_episode_steps - 1
        self._dtype = numpy_dtype(dtype)
        self._seed = seed
        self._rng: np.random.Generator | None = None
        self._action_shape = (num_envs, *task.action_space.shape)
        self._choices = task.action_space.n if isinstance(task.action_space, Discrete) else None
        low, high = np.array(task.start).T
        self._low, self._width = low[:, None], (high - low)[:, None]
        self._free = np.flatnonzero(low < high)
        self._state: np.ndarray | None = None  # [S, N]
        # NumPy's dispatch costs ten times the arithmetic of one world: that one computes in Python's numbers. Not where
        # actions are float32, whose rounding by NumPy is Gymnasium's.
        self._single = num_envs == 1 and self._choices is not None
        self._start(num_envs)

    def _draw(self, n: int) -> np.ndarray:
        """Starting states ``[S, n]``; what is fixed draws nothing."""
        uniform = self._rng.random((n, len(self._free))).T
        if len(self._free) < len(self._low):
            drawn, uniform = uniform, np.zeros((len(self._low), n))
            uniform[self._free] = drawn
        return (self._low + self._width * uniform).astype(self.task.state_dtype, copy=False)

    def _observe(self, state: np.ndarray) -> np.ndarray:
        return self._rows(self.task.observe(np, tuple(state)), state.shape[1])

    def _rows(self, parts: Parts, n: int) -> np.ndarray:
        obs = np.empty((len(parts), n), self._dtype)
        for k, part in enumerate(parts):
            obs[k] = part
        return obs.T

    def _reset(self, seed: int | None) -> np.ndarray:
        if seed is None:
            seed, self._seed = self._seed, None
        if seed is not None or self._rng is None:
            self._rng = seeding.np_random(seed)[0]
        self._state = self._draw(self.num_envs)
        return self._observe(self._state)

    def _step(self, action: np.ndarray) -> Step:
        if action.shape != self._action_shape:
            raise ValueError(f"action has shape {action.shape}: must be {self._action_shape}")
        if self._state is None:
            raise RuntimeError("reset() must come before the first step()")
        if self._choices is not None:
            self._check_choice(action)
        if self._single:
            parts, reward, terminated = self.task.dynamics(_Scalars, self._state[:, 0].tolist(), float(action[0]))
            obs = self._rows(self.task.observe(_Scalars, parts), 1)
            terminated = np.array([terminated or False])
        else:
            if not np.issubdtype(action.dtype, np.floating):
                action = action.astype(np.float64)
            state = tuple(part.astype(np.float64, copy=False) for part in self._state)
            parts, reward, terminated = self.task.dynamics(np, state, action)
            if terminated is None:
                terminated = np.zeros(self.num_envs, bool)
            obs = None
        for row, part in zip(self._state, parts, strict=True):
            row[:] = part
        if obs is None:
            obs = self._observe(self._state)
        if not isinstance(reward, np.ndarray):
            reward = np.full(self.num_envs, reward)
        truncated = self._episode_length >= self._last_step
        next_obs = obs
        done = terminated | truncated
        if np.count_nonzero(done):
            obs = self._restart(np.flatnonzero(done), next_obs.copy(order="K"))
        return Step(obs, reward, terminated, truncated, next_obs)

    def _check_choice(self, action: np.ndarray) -> None:
        least, most = (action[0], action[0]) if self._single else (action.min(), action.max())
        if not 0 <= least <= most < self._choices:
            raise ValueError(f"action {least if least < 0 else most} is not in {self.action_space}")

    def _restart(self, rows: np.ndarray, obs: np.ndarray) -> np.ndarray:
        fresh = self._draw(len(rows))
        self._state[:, rows] = fresh
        obs[rows] = self._observe(fresh)
        return obs

    def reset_where(self, mask: np.ndarray) -> np.ndarray:
        self._finish(mask)
        return self._restart(np.flatnonzero(mask), self._observe(self._state))

    def get_state(self) -> np.ndarray:
        """The states of all worlds ``[N, S]`` (a copy)."""
        return self._state.T.copy()

    def set_state(self, state: np.ndarray) -> np.ndarray:
        """Put every world into a state ``[N, S]`` and return the observations. Episodes and time limits run on.

        Raises:
            ValueError: wrong shape.
        """
        self._state = _check_state(state, self.num_envs, len(self._low)).T.astype(self.task.state_dtype, order="C")
        return self._observe(self._state)

    def state_dict(self) -> State:
        return self._episode_state() | {
            "task": type(self.task).__name__,
            "state": np.zeros(0) if self._state is None else self._state.copy(),
            "generator": None if self._rng is None else self._rng.bit_generator.state,
            "seed": self._seed,
        }

    def load_state_dict(self, state: State) -> np.ndarray:
        _check_task(state, self.task, self.num_envs)
        self._load_episode_state(state)
        self._seed = state["seed"]
        self._rng = None
        if state["generator"] is not None:
            self._rng = seeding.np_random(0)[0]
            self._rng.bit_generator.state = state["generator"]
        if not state["state"].size:
            self._state = None
            return np.zeros((self.num_envs, *self.observation_space.shape), self._dtype)
        self._state = state["state"].copy()
        return self._observe(self._state)

    def render(self, index: int = 0) -> np.ndarray:
        if self._state is None:
            raise RuntimeError("reset() must come before the first render()")
        return self.task.draw(self._state[:, index])

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.task.reward(obs, action, next_obs)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.task.terminated(obs, action, next_obs)


class TorchWorlds(Env):
    """N worlds of a task in torch, on any device.

    Off the CPU nothing waits for the host: resets are masked, without a branch, and finished episodes are fetched when
    asked for. On the CPU starting states are drawn only for worlds that have finished.
    """

    _MOST_UNFETCHED = 512
    """Steps after which finished episodes are fetched from the device unasked, so that they do not pile up."""

    def __init__(
        self,
        task: Task,
        num_envs: int,
        device: torch.device,
        seed: int | None,
        dtype: torch.dtype,
        max_episode_steps: int | None,
    ) -> None:
        numpy_dtype(dtype)
        self.task, self.num_envs, self.device, self.dtype = task, num_envs, torch.empty(0, device=device).device, dtype
        self.observation_space, self.action_space = task.observation_space, task.action_space
        self.max_episode_steps = max_episode_steps
        self._limit = _NEVER if max_episode_steps is None else max_episode_steps
        self._seed = seed
        self._generator = torch.Generator(device)
        self._seeded = False
        start = torch.tensor(task.start, dtype=dtype, device=device)
        self._low, self._width = start[:, :1], start[:, 1:] - start[:, :1]
        self._action_shape = (num_envs, *task.action_space.shape)
        self._state: torch.Tensor | None = None
        self._episode_return = torch.zeros(num_envs, dtype=torch.float64, device=device)
        self._episode_length = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._finished: deque[Episode] = deque(maxlen=HostEnv._MOST_EPISODES)
        self._unfetched: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def _draw(self, n: int) -> torch.Tensor:
        """Starting states ``[S, n]``."""
        uniform = torch.rand(len(self._low), n, generator=self._generator, dtype=self.dtype, device=self.device)
        return self._low + self._width * uniform

    def observe(self, state: torch.Tensor) -> torch.Tensor:
        """The observations ``[N, O]`` of states ``[S, N]``."""
        return torch.stack(self.task.observe(torch, state.unbind()), -1)

    def transition(self, state: torch.Tensor, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Next states ``[S, N]``, rewards and terminations ``[N]``: a pure, differentiable function of states
        ``[S, N]`` and actions ``[N, ...]`` that ``torch.compile`` takes whole."""
        parts, reward, terminated = self.task.dynamics(torch, state.unbind(), action.to(state.dtype))
        if not isinstance(reward, torch.Tensor):
            reward = torch.full_like(parts[0], reward)
        if terminated is None:
            terminated = torch.zeros_like(parts[0], dtype=torch.bool)
        return torch.stack(parts), reward.to(state.dtype), terminated

    def reset(self, seed: int | None = None) -> torch.Tensor:
        if seed is None:
            seed, self._seed = self._seed, None
        if seed is not None:
            self._generator.manual_seed(seed)
        elif not self._seeded:
            self._generator.seed()
        self._seeded = True
        self.resets += 1
        self._episode_return.zero_()
        self._episode_length.zero_()
        self._state = self._draw(self.num_envs)
        return self.observe(self._state)

    @torch.no_grad()
    def step(self, action: torch.Tensor) -> Step:
        if action.shape != self._action_shape:
            raise ValueError(f"action has shape {tuple(action.shape)}: must be {self._action_shape}")
        if self._state is None:
            raise RuntimeError("reset() must come before the first step()")
        self._state, reward, terminated = self.transition(self._state, action.to(self.device))
        self._episode_return += reward
        self._episode_length += 1
        truncated = self._episode_length >= self._limit
        next_obs = self.observe(self._state)
        obs = self._restart(terminated | truncated, next_obs)
        return Step(obs, reward, terminated, truncated, next_obs)

    def _restart(self, done: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
        """Start new episodes where ``done``; the observations to act on, ``obs`` itself where nothing has ended."""
        if self.device.type == "cpu":
            rows = done.nonzero().squeeze(-1)
            if len(rows) == 0:
                return obs
            returns, lengths = self._episode_return[rows].tolist(), self._episode_length[rows].tolist()
            self._finished.extend(map(Episode, rows.tolist(), returns, lengths))
            self._episode_return[rows] = 0.0
            self._episode_length[rows] = 0
            fresh = self._draw(len(rows))
            self._state[:, rows] = fresh
            obs = obs.clone()
            obs[rows] = self.observe(fresh)
            return obs
        self._unfetched.append((done, self._episode_return, self._episode_length))
        if len(self._unfetched) >= self._MOST_UNFETCHED:
            self._fetch()
        self._episode_return = torch.where(done, 0.0, self._episode_return)
        self._episode_length = torch.where(done, 0, self._episode_length)
        fresh = self._draw(self.num_envs)
        self._state = torch.where(done, fresh, self._state)
        return torch.where(done[:, None], self.observe(fresh), obs)

    def _fetch(self) -> None:
        if not self._unfetched:
            return
        done, returns, lengths = (torch.stack(columns).cpu() for columns in zip(*self._unfetched, strict=True))
        self._unfetched.clear()
        rows = done.nonzero()[:, 1].tolist()
        self._finished.extend(map(Episode, rows, returns[done].tolist(), lengths[done].tolist()))

    def reset_where(self, mask: torch.Tensor) -> torch.Tensor:
        return self._restart(mask.to(self.device), self.observe(self._state))

    def pop_episodes(self) -> list[Episode]:
        self._fetch()
        episodes = list(self._finished)
        self._finished.clear()
        return episodes

    def get_state(self) -> torch.Tensor:
        """The states of all worlds ``[N, S]`` (a copy)."""
        return self._state.T.clone()

    def set_state(self, state: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Put every world into a state ``[N, S]`` and return the observations. Episodes and time limits run on.

        Raises:
            ValueError: wrong shape.
        """
        _check_state(state, self.num_envs, len(self._low))
        self._state = torch.as_tensor(state).T.to(self.device, self.dtype, copy=True)
        return self.observe(self._state)

    def state_dict(self) -> State:
        return {
            "task": type(self.task).__name__,
            "state": np.zeros(0) if self._state is None else self._state.cpu().numpy().copy(),
            "episode_return": self._episode_return.cpu().numpy().copy(),
            "episode_length": self._episode_length.cpu().numpy().copy(),
            "generator": self._generator.get_state().numpy().copy(),
            "seeded": self._seeded,
            "seed": self._seed,
        }

    def load_state_dict(self, state: State) -> Obs:
        _check_task(state, self.task, self.num_envs)
        self._generator.set_state(torch.from_numpy(state["generator"].copy()))
        self._seeded, self._seed = state["seeded"], state["seed"]
        self._episode_return = torch.tensor(state["episode_return"], device=self.device)
        self._episode_length = torch.tensor(state["episode_length"], device=self.device)
        if not state["state"].size:
            self._state = None
            return torch.zeros(self.num_envs, *self.observation_space.shape, dtype=self.dtype, device=self.device)
        self._state = torch.tensor(state["state"], dtype=self.dtype, device=self.device)
        return self.observe(self._state)

    def render(self, index: int = 0) -> np.ndarray:
        if self._state is None:
            raise RuntimeError("reset() must come before the first render()")
        return self.task.draw(self._state[:, index].double().cpu().numpy())

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.task.reward(obs, action, next_obs)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.task.terminated(obs, action, next_obs)


def _check_state(state: Any, num_envs: int, size: int) -> Any:
    if tuple(state.shape) != (num_envs, size):
        raise ValueError(f"state has shape {tuple(state.shape)}: must be {(num_envs, size)}")
    return state


def _check_task(state: State, task: Task, num_envs: int) -> None:
    if state.get("task") != type(task).__name__:
        raise ValueError(f"the state is of {state.get('task')}, this environment is {type(task).__name__}")
    if len(state["episode_length"]) != num_envs:
        raise ValueError(f"the state is of {len(state['episode_length'])} worlds, this environment has {num_envs}")
