"""The environment protocol: N worlds stepped together on one device.

Everything that acts in polopt acts on an :class:`Env`. Two kinds exist:

* an :class:`Env` proper takes and returns ``torch`` tensors that live on ``env.device``;
* a :class:`HostEnv` computes in NumPy on the CPU. It offers the same tensor face, and besides it the
  array face ``reset_host``/``step_host`` that spares the rollout a tensor round trip per step.

Autoreset is always *same step*: when an episode ends, ``Step.obs`` is already the first observation of the
next one and ``Step.next_obs`` is the true successor, so no caller ever digs in an info dict for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from itertools import repeat
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import Space

from .errors import EnvError

__all__ = ["Array", "Env", "EnvError", "Episode", "HostEnv", "Obs", "State", "Step", "Wrapper"]

Array = Any
"""``torch.Tensor`` at the tensor face, ``numpy.ndarray`` at the host face."""
Obs = Any
"""An :data:`Array` ``[N, ...]``, or a dict of them for Dict spaces."""
State = dict[str, Any]
"""A tree of NumPy arrays and JSON values (str keys): what a checkpoint can hold without pickle."""


class Step(NamedTuple):
    """What N worlds answer to one action.

    Attributes:
        obs: ``[N, ...]`` the observation to act on next (the new episode's first one where one has just ended).
        reward: ``[N]`` float.
        terminated: ``[N]`` bool, the MDP ended: no bootstrap.
        truncated: ``[N]`` bool, the episode was cut from outside (time limit): bootstrap with ``next_obs``.
        next_obs: ``[N, ...]`` the true successor of the observation acted on, before any autoreset. The very object
            ``obs`` where no world was reset.
        valid: ``[N]`` bool, or None where every row is a real transition. False marks the fake transition with which
            Gymnasium's NEXT_STEP vector environments spend a step on a reset.
    """

    obs: Obs
    reward: Array
    terminated: Array
    truncated: Array
    next_obs: Obs
    valid: Array | None = None


class Episode(NamedTuple):
    """A finished episode, in the environment's own units (never normalised)."""

    index: int
    """Which of the N worlds."""
    r: float
    """Return: the undiscounted sum of rewards."""
    l: int  # noqa: E741 - the name stable-baselines3's Monitor gives it
    """Length [steps]."""
    success: bool | None = None
    """``info["is_success"]`` of the last step where the environment reports it."""


class Env(ABC):
    """N worlds on one device: ``reset() -> obs``, ``step(action) -> Step``; tensors in, tensors out.

    Attributes:
        num_envs: N.
        device: where its tensors live.
        observation_space, action_space: the spaces of a *single* world.
        id: the Gymnasium id it stands for, or None.
        host: whether it has the array face ``reset_host``/``step_host`` (a :class:`HostEnv`, or a wrapper of one).
        exact_state: whether ``load_state_dict(state_dict())`` continues bit for bit.
    """

    num_envs: int
    device: torch.device
    observation_space: Space
    action_space: Space
    id: str | None = None
    host: bool = False
    exact_state: bool = True
    max_episode_steps: int | None = None
    reset_rows: int = 0
    """Steps that a reset after an episode takes, which are no transitions: 1 in Gymnasium's NEXT_STEP vector environments."""

    @abstractmethod
    def reset(self, seed: int | None = None) -> Obs:
        """Start N new episodes. Returns ``obs``.

        Args:
            seed: seeds every world; world ``i`` with ``seed + i``, as Gymnasium does, but for tasks that draw the starts
                of all worlds from one generator (the built-in classic ones).
        """

    @abstractmethod
    def step(self, action: torch.Tensor) -> Step:
        """Advance every world by one action ``[N, ...]`` in the action space's own units."""

    def reset_where(self, mask: Array) -> Obs:
        """End the running episodes of the worlds marked in ``mask`` ``[N]`` bool (they count as finished) and start new
        ones there. Returns the observations of all worlds, as arrays from a :class:`HostEnv`.

        Raises:
            NotImplementedError: these worlds can only be reset all at once.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot reset some of its worlds")

    def reset_host(self, seed: int | None = None) -> Obs:
        """:meth:`reset` in NumPy arrays, which the next call may overwrite; only where ``host``."""
        raise NotImplementedError(f"{type(self).__name__} has no array face")

    def step_host(self, action: np.ndarray) -> Step:
        """:meth:`step` in NumPy arrays, which the next call may overwrite; only where ``host``."""
        raise NotImplementedError(f"{type(self).__name__} has no array face")

    @abstractmethod
    def pop_episodes(self) -> list[Episode]:
        """The episodes that finished since the last call, oldest first."""

    @abstractmethod
    def state_dict(self) -> State:
        """Everything that decides the future: world states, running episodes, random generators."""

    @abstractmethod
    def load_state_dict(self, state: State) -> Obs:
        """Take a :meth:`state_dict` back and return the observation to act on next.

        Raises:
            ValueError: the state is of another environment or another number of worlds.
        """

    def render(self, index: int = 0) -> np.ndarray:
        """An RGB picture ``[height, width, 3]`` uint8 of world ``index``.

        Raises:
            NotImplementedError: this environment draws nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be rendered")

    def close(self) -> None:  # noqa: B027 - nothing to free is the common case
        """Free what the worlds hold. Safe to call twice."""

    def __repr__(self) -> str:
        worlds = f"{self.num_envs} world{'s' * (self.num_envs != 1)}"
        return f"{type(self).__name__}({self.id or 'no id'}, {worlds}, {self.device})"

    resets: int = 0
    """How often :meth:`reset` began all worlds anew: who keeps an observation sees that it is no longer the worlds'."""

    infos: Any = None
    """What the worlds said of their last step beside it, a dict each, where they say it; None where nothing is kept."""

    @property
    def unwrapped(self) -> Env:
        """The innermost environment."""
        return self

    def chain(self) -> list[Env]:
        """This, and what it wraps, from the outside in."""
        return [self]

    # What a learned model or a planner needs of the task, where it is known. A method of the protocol, so that
    # no wing imports another.
    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        """The reward ``[...]`` of given transitions ``[..., O], [..., A], [..., O]``, where it is a function of them."""
        raise NotImplementedError(f"{self.id or type(self).__name__} has no reward function of (obs, action, next_obs)")

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        """Whether given transitions end the MDP, ``[...]`` bool, where it is a function of them."""
        raise NotImplementedError(
            f"{self.id or type(self).__name__} has no termination function of (obs, action, next_obs)"
        )


class HostEnv(Env):
    """An :class:`Env` that computes in NumPy on the CPU.

    Subclasses write :meth:`_reset` and :meth:`_step`; this class counts episodes and gives the tensor face.
    The arrays that ``step_host`` returns may be overwritten by the next ``step_host``: copy what must last.
    The tensor face always returns fresh tensors.
    """

    device = torch.device("cpu")
    host = True
    _MOST_EPISODES: ClassVar[int] = 100_000

    def _start(self, num_envs: int) -> None:
        """Set up the episode counters; a subclass's constructor calls it once."""
        self.num_envs = num_envs
        self._episode_return = np.zeros(num_envs, np.float64)
        self._episode_length = np.zeros(num_envs, np.int64)
        self._finished: deque[tuple[np.ndarray, np.ndarray, np.ndarray, Iterable[bool | None]]] = deque()
        self._num_finished = 0

    @abstractmethod
    def _reset(self, seed: int | None) -> Obs:
        """As :meth:`reset`, in arrays."""

    @abstractmethod
    def _step(self, action: np.ndarray) -> Step:
        """As :meth:`step`, in arrays, with same-step autoreset."""

    def _success(self, index: np.ndarray) -> Iterable[bool | None]:
        """Whether the episodes of the worlds in ``index`` that have just ended were successes, where the env knows."""
        return repeat(None)

    def reset_host(self, seed: int | None = None) -> Obs:
        """:meth:`reset` in arrays."""
        self.resets += 1
        self._episode_return[:] = 0.0
        self._episode_length[:] = 0
        return self._reset(seed)

    def step_host(self, action: np.ndarray) -> Step:
        """:meth:`step` in arrays."""
        step = self._step(action)
        if step.valid is None:
            self._episode_return += step.reward
            self._episode_length += 1
        else:
            self._episode_return += np.where(step.valid, step.reward, 0.0)
            self._episode_length += step.valid
        if step.next_obs is not step.obs or step.valid is not None:
            self._finish(step.terminated | step.truncated)
        return step

    def _finish(self, done: np.ndarray) -> None:
        """Count the episodes of the worlds in ``done`` ``[N]`` bool as finished."""
        # Thousands of worlds end hundreds of episodes a step: they stay arrays until somebody asks.
        index = np.flatnonzero(done)
        self._finished.append((index, self._episode_return[index], self._episode_length[index], self._success(index)))
        self._num_finished += len(index)
        while self._num_finished > self._MOST_EPISODES:
            self._num_finished -= len(self._finished.popleft()[0])
        self._episode_return[index] = 0.0
        self._episode_length[index] = 0

    def pop_episodes(self) -> list[Episode]:
        episodes = [
            Episode(*row)
            for index, returns, lengths, success in self._finished
            for row in zip(index.tolist(), returns.tolist(), lengths.tolist(), success, strict=False)
        ]
        self._finished.clear()
        self._num_finished = 0
        return episodes

    def reset(self, seed: int | None = None) -> Obs:
        return _tensors(self.reset_host(seed))

    def step(self, action: torch.Tensor) -> Step:
        step = self.step_host(action.detach().cpu().numpy())
        obs = _tensors(step.obs)
        return Step(
            obs,
            _tensors(step.reward),
            _tensors(step.terminated),
            _tensors(step.truncated),
            obs if step.next_obs is step.obs else _tensors(step.next_obs),
            None if step.valid is None else _tensors(step.valid),
        )

    def _episode_state(self) -> State:
        """The episode counters, for a subclass's ``state_dict``."""
        return {"episode_return": self._episode_return.copy(), "episode_length": self._episode_length.copy()}

    def _load_episode_state(self, state: State) -> None:
        self._episode_return[:] = state["episode_return"]
        self._episode_length[:] = state["episode_length"]


class Wrapper(Env):
    """An Env around another: everything passes through but what :meth:`_begin` and :meth:`_after` change.

    It has the array face where the inner one has it; both hooks then see NumPy arrays, and tensors otherwise.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self.num_envs, self.device, self.host = env.num_envs, env.device, env.host
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self.id, self.max_episode_steps, self.reset_rows = env.id, env.max_episode_steps, env.reset_rows

    def _begin(self, obs: Obs) -> Obs:
        """The first observation of an episode, as this wrapper shows it."""
        return obs

    def _after(self, step: Step) -> Step:
        """The answer to an action, as this wrapper shows it."""
        return step

    @property
    def exact_state(self) -> bool:  # type: ignore[override]
        """Whether the inner one's state is exact."""
        return self.env.exact_state

    def reset(self, seed: int | None = None) -> Obs:
        return self._begin(self.env.reset(seed))

    def step(self, action: torch.Tensor) -> Step:
        return self._after(self.env.step(action))

    def reset_host(self, seed: int | None = None) -> Obs:
        return self._begin(self.env.reset_host(seed))

    def step_host(self, action: np.ndarray) -> Step:
        return self._after(self.env.step_host(action))

    def _again(self, obs: Obs, mask: Any) -> Obs:
        """All worlds' observations after those in ``mask`` have begun anew, as this wrapper shows them."""
        return self._begin(obs)

    def reset_where(self, mask: Any) -> Obs:
        return self._again(self.env.reset_where(mask), mask)

    def pop_episodes(self) -> list[Episode]:
        return self.env.pop_episodes()

    def state_dict(self) -> State:
        return {"env": self.env.state_dict()}

    def load_state_dict(self, state: State) -> Obs:
        return self._begin(self.env.load_state_dict(state["env"]))

    def render(self, index: int = 0) -> np.ndarray:
        return self.env.render(index)

    def close(self) -> None:
        self.env.close()

    @property
    def unwrapped(self) -> Env:
        return self.env.unwrapped

    def chain(self) -> list[Env]:
        return [self, *self.env.chain()]

    @property
    def info(self) -> dict[str, np.ndarray]:
        """The inner one's info terms, where it has any."""
        return getattr(self.env, "info", {})

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.env.reward(obs, action, next_obs)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return self.env.terminated(obs, action, next_obs)


def _tensors(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _tensors(v) for k, v in x.items()}
    return torch.tensor(x)
