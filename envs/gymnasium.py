"""Gymnasium's environments as an Env: single ones stepped in a loop, vector environments in every autoreset mode."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import TransformObservation

from polopt.env import EnvError, HostEnv, Obs, State, Step

from .recorder import NOT_EXACT, Recorder, check_number, load_worlds
from .spaces import cast, check_spaces, numpy_dtype, put, put_rows, zeros

__all__ = ["GymnasiumEnv", "GymnasiumVector", "flatten_goal", "time_limit"]


def flatten_goal(env: gymnasium.Env) -> gymnasium.Env:
    """A goal task whose observations are the vectors ``[observation, desired_goal]``, as datasets of it are read here.

    Gymnasium's ``FlattenObservation`` lays entries side by side by their names: there the goal comes first.

    Raises:
        TypeError: its observations are no Dict with a Box of each.
    """
    keys, space = ("observation", "desired_goal"), env.observation_space
    parts = [space.spaces.get(k) for k in keys] if isinstance(space, Dict) else []
    if not parts or not all(isinstance(part, Box) for part in parts):
        raise TypeError(f"a goal task has observations of a Dict with a Box {' and '.join(keys)}, not {space}")
    low, high = (np.concatenate([getattr(part, end).ravel() for part in parts]) for end in ("low", "high"))
    flat = Box(low, high, dtype=np.result_type(low, high).type)
    return TransformObservation(env, lambda obs: np.concatenate([np.ravel(obs[k]) for k in keys]), flat)


class GymnasiumEnv(HostEnv):
    """N single Gymnasium environments, stepped one after the other in this process.

    Seeds are Gymnasium's vector environments': world ``i`` is reset with ``seed + i`` and later goes on with its own
    generator. ``reward`` is float64, as the environments give it.

    Args:
        envs: the environments, all with the same spaces and each an object of its own.
        seed: of the first :meth:`reset` that is given none.
        dtype: of floating observations.

    Raises:
        TypeError: a space is not supported.
        ValueError: no environment, unequal spaces, or the same object twice.
    """

    def __init__(
        self, envs: Sequence[gymnasium.Env], *, seed: int | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        if not envs:
            raise ValueError("envs is empty: give at least one gymnasium.Env")
        first = envs[0]
        check_spaces(first.observation_space, first.action_space)
        for i, env in enumerate(envs):
            if (env.observation_space, env.action_space) != (first.observation_space, first.action_space):
                raise ValueError(
                    f"environment {i} has spaces {env.observation_space}, {env.action_space},"
                    f" environment 0 {first.observation_space}, {first.action_space}: all must be equal"
                )
        if len({id(env.unwrapped) for env in envs}) < len(envs):
            raise ValueError("the same environment object is given twice: each world needs its own")
        self.envs = Recorder.around(envs)
        self.observation_space, self.action_space = first.observation_space, first.action_space
        self.id = first.spec.id if first.spec is not None else None
        self.max_episode_steps = time_limit(first)
        self._dtype = numpy_dtype(dtype)
        self._seed = seed
        self._monitored = _has_monitor(first)
        self._won: list[bool | None] = [None] * len(envs)
        self.infos: list[dict[str, Any]] = [{} for _ in envs]
        self.reset_infos: list[dict[str, Any]] = [{} for _ in envs]  # of each world's last reset
        self._start(len(envs))
        self._obs = zeros(self.observation_space, self.num_envs, self._dtype)

    def _reset(self, seed: int | None) -> Obs:
        if seed is None:
            seed, self._seed = self._seed, None
        obs = self._rows()
        for i, env in enumerate(self.envs):
            answer, self.reset_infos[i] = env.reset(seed=None if seed is None else seed + i)
            put(obs, i, answer)
        self._obs = obs
        return obs

    def _step(self, action: np.ndarray) -> Step:
        n = self.num_envs
        action = np.asarray(action).astype(self.action_space.dtype)
        reward = np.empty(n)
        terminated, truncated = np.empty(n, bool), np.empty(n, bool)
        next_obs = obs = self._rows()
        over = []
        for i, env in enumerate(self.envs):
            answer, reward[i], terminated[i], truncated[i], info = env.step(action[i])
            put(next_obs, i, answer)
            self._won[i], self.infos[i] = _success(info), info
            if terminated[i] or truncated[i]:
                first, self.reset_infos[i] = env.reset()
                over.append((i, first))
        if over:
            obs = cast(next_obs, next_obs)
            for i, answer in over:
                put(obs, i, answer)
        self._obs = obs
        return Step(obs, reward, terminated, truncated, next_obs)

    def _finish(self, done: np.ndarray) -> None:
        """Where there is a ``Monitor``, an episode is what it saw: wrappers around it may have changed the rewards, and an
        end that it does not report (a life lost) is none."""
        if self._monitored:
            done = done & ["episode" in info for info in self.infos]
            for i in np.flatnonzero(done):
                told = self.infos[i]["episode"]
                self._episode_return[i], self._episode_length[i] = told["r"], told["l"]
        super()._finish(done)

    def reset_where(self, mask: np.ndarray) -> Obs:
        super()._finish(mask)  # broken off: a Monitor says nothing of them
        obs = cast(self._obs, self._obs)
        for i in np.flatnonzero(mask):
            answer, self.reset_infos[i] = self.envs[i].reset()
            put(obs, i, answer)
        self._obs = obs
        return obs

    def _rows(self) -> Obs:
        return zeros(self.observation_space, self.num_envs, self._dtype)

    def _success(self, index: np.ndarray) -> list[bool | None]:
        return [self._won[i] for i in index]

    def state_dict(self) -> State:
        return self._episode_state() | {
            "num_envs": self.num_envs,
            "worlds": {str(i): env.world_state() for i, env in enumerate(self.envs)},
            "seed": self._seed,
        }

    def load_state_dict(self, state: State) -> Obs:
        check_number(state, self.num_envs)
        self._load_episode_state(state)
        self._seed = state["seed"]
        lost = load_worlds(self.envs, state["worlds"])
        if lost:
            self.exact_state = False
            self._episode_return[lost] = 0.0
            self._episode_length[lost] = 0
            for i in lost:
                self.envs[i].reset()
        self._obs = self._rows()
        for i, env in enumerate(self.envs):
            if env.last_obs is not None:
                put(self._obs, i, env.last_obs)
        return cast(self._obs, self._obs)

    def render(self, index: int = 0) -> np.ndarray:
        if self.envs[index].render_mode != "rgb_array":
            raise NotImplementedError(
                f"{self.id or 'this environment'} was made without pictures: make it with render_mode='rgb_array'"
            )
        return np.asarray(self.envs[index].render())

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _has_monitor(env: gymnasium.Env) -> bool:
    """Whether stable-baselines3's ``Monitor`` is among its wrappers; told by name, for the package need not be loaded."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env).__name__ == "Monitor" and type(env).__module__.startswith("stable_baselines3"):
            return True
        env = env.env
    return False


class GymnasiumVector(HostEnv):
    """A Gymnasium vector environment, whichever way it resets.

    NEXT_STEP: the step that it spends on a reset comes out with ``valid`` False. SAME_STEP: the true successor is taken
    from ``infos["final_obs"]``. DISABLED: the finished worlds are reset by mask at once.

    State is exact where the worlds can be reached and nothing lies between (``SyncVectorEnv``).

    Args:
        envs: the vector environment.
        seed: of the first :meth:`reset` that is given none.
        dtype: of floating observations.

    Raises:
        TypeError: a space is not supported.
    """

    def __init__(self, envs: VectorEnv, *, seed: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        check_spaces(envs.single_observation_space, envs.single_action_space)
        mode = envs.metadata.get("autoreset_mode")
        if mode is None:
            warnings.warn(
                f"{envs} does not say how it resets (metadata['autoreset_mode']): NEXT_STEP, Gymnasium's default, is"
                " assumed",
                stacklevel=2,
            )
            mode = AutoresetMode.NEXT_STEP
        self.mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)
        self.reset_rows = int(self.mode is AutoresetMode.NEXT_STEP)
        self.envs = envs
        self.observation_space, self.action_space = envs.single_observation_space, envs.single_action_space
        self.id = envs.spec.id if envs.spec is not None else None
        self.max_episode_steps = _vector_time_limit(envs)
        self._seed = seed
        self._start(envs.num_envs)
        self._dtype = numpy_dtype(dtype)
        self._like = zeros(self.observation_space, 1, self._dtype)
        self._resetting = np.zeros(self.num_envs, bool)
        self._infos: dict[str, Any] = {}
        self._worlds: list[Recorder] = []
        if type(envs) is SyncVectorEnv:
            self._worlds = Recorder.around(envs.envs)
            envs.envs = self._worlds
        self.exact_state = bool(self._worlds)

    def _reset(self, seed: int | None) -> Obs:
        if seed is None:
            seed, self._seed = self._seed, None
        self._resetting[:] = False
        return cast(self.envs.reset(seed=seed)[0], self._like)

    def _step(self, action: np.ndarray) -> Step:
        action = np.asarray(action).astype(self.action_space.dtype, copy=False)
        try:
            answer, reward, terminated, truncated, self._infos = self.envs.step(action)
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(f"an environment of {type(self.envs).__name__} raised in step: {error!r}") from error
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        reward = np.array(reward, np.float64)
        done = terminated | truncated
        next_obs = obs = cast(answer, self._like)
        valid = None
        if self.mode is AutoresetMode.NEXT_STEP:
            valid = ~self._resetting
            self._resetting = done
        elif done.any():
            if self.mode is AutoresetMode.SAME_STEP:
                next_obs = cast(obs, self._like)
                final = self._infos["final_obs"]
                for i in np.flatnonzero(done):
                    put(next_obs, i, {k: part[i] for k, part in final.items()} if isinstance(final, dict) else final[i])
            else:
                obs = cast(obs, self._like)
                put_rows(obs, done, self.envs.reset(options={"reset_mask": done.copy()})[0])
        return Step(obs, reward, terminated, truncated, next_obs, valid)

    def _success(self, index: np.ndarray) -> list[bool | None]:
        infos = self._infos.get("final_info", {}) if self.mode is AutoresetMode.SAME_STEP else self._infos
        told = infos.get("_is_success")
        return [bool(infos["is_success"][i]) if told is not None and told[i] else None for i in index]

    def state_dict(self) -> State:
        state = {"num_envs": self.num_envs, "exact": self.exact_state}
        if not self.exact_state:
            return state
        return (
            self._episode_state()
            | state
            | {
                "worlds": {str(i): env.world_state() for i, env in enumerate(self._worlds)},
                "resetting": self._resetting.copy(),
                "seed": self._seed,
            }
        )

    def load_state_dict(self, state: State) -> Obs:
        check_number(state, self.num_envs)
        if not (state["exact"] and self._worlds):
            self.exact_state = False
            warnings.warn(
                NOT_EXACT.format(reason=f"the worlds inside {type(self.envs).__name__} cannot be reached"), stacklevel=2
            )
            return self.reset_host()
        self._load_episode_state(state)
        self._seed = state["seed"]
        started = all(world["running"] for world in state["worlds"].values())
        if started:
            self.envs.reset()  # sets up the vector environment's own flags
        lost = load_worlds(self._worlds, state["worlds"])
        self._resetting[:] = state["resetting"]
        if lost:
            self.exact_state = False
            self._episode_return[lost] = 0.0
            self._episode_length[lost] = 0
            self._resetting[lost] = False
            for i in lost:
                self._worlds[i].reset()
        obs = zeros(self.observation_space, self.num_envs, self._dtype)
        if started:
            self.envs._autoreset_envs[:] = self._resetting
            for i, world in enumerate(self._worlds):
                self.envs._env_obs[i] = world.last_obs
                put(obs, i, world.last_obs)
        return obs

    def render(self, index: int = 0) -> np.ndarray:
        if self.envs.render_mode != "rgb_array":
            raise NotImplementedError("the vector environment was made without pictures: render_mode='rgb_array'")
        return np.asarray(self.envs.render()[index])

    def close(self) -> None:
        self.envs.close()


def time_limit(env: gymnasium.Env) -> int | None:
    """The time limit among the wrappers of an environment [steps]."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.wrappers.TimeLimit):
            return env._max_episode_steps
        env = env.env
    return None


def _vector_time_limit(envs: VectorEnv) -> int | None:
    """That of its worlds where they can be reached, else what it was made with."""
    if worlds := getattr(envs.unwrapped, "envs", None):
        return time_limit(worlds[0])
    spec = envs.spec
    return None if spec is None else spec.kwargs.get("max_episode_steps", spec.max_episode_steps)


def _success(info: dict[str, Any]) -> bool | None:
    return bool(info["is_success"]) if "is_success" in info else None
