"""stable-baselines3: its vector environments as an Env, and an Env as one of its vector environments."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from polopt.env import Env, EnvError, HostEnv, Obs, State, Step

from .gymnasium import time_limit
from .recorder import NOT_EXACT, Recorder, check_number, load_worlds
from .spaces import cast, check_spaces, numpy_dtype, put, row, zeros

__all__ = ["PoloptVecEnv", "SB3VecEnv", "VecEnv", "to_sb3"]


class SB3VecEnv(HostEnv):
    """A stable-baselines3 ``VecEnv``, wrapped or not.

    Observations and rewards are what the outermost wrapper gives. Episodes are what a ``Monitor`` or ``VecMonitor``
    says where there is one (an episode it does not report has not ended), and otherwise counted from the rewards, from
    those before ``VecNormalize`` where that is the wrapper given.

    State is exact for a ``DummyVecEnv``, also under ``VecNormalize`` and ``VecMonitor``.

    Args:
        venv: the vector environment.
        seed: of the first :meth:`reset` that is given none.
        dtype: of floating observations.

    Raises:
        TypeError: a space is not supported.
    """

    def __init__(self, venv: VecEnv, *, seed: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        check_spaces(venv.observation_space, venv.action_space)
        self.venv = venv
        self.observation_space, self.action_space = venv.observation_space, venv.action_space
        self._like = zeros(self.observation_space, 1, numpy_dtype(dtype))
        self._seed = seed
        self._start(venv.num_envs)
        self._monitored = is_vecenv_wrapped(venv, VecMonitor) or venv.env_is_wrapped(Monitor)[0]
        self._true_return = np.zeros(self.num_envs)
        self.infos: Sequence[dict[str, Any]] | None = None
        self._obs: Obs = None
        self._layers: list[VecEnvWrapper] = []
        inner = venv
        while isinstance(inner, VecEnvWrapper):
            self._layers.append(inner)
            inner = inner.venv
        self._worlds: list[Recorder] = []
        if type(inner) is DummyVecEnv and all(type(layer) in (VecNormalize, VecMonitor) for layer in self._layers):
            self._worlds = Recorder.around(inner.envs)
            inner.envs = self._worlds
            spec = self._worlds[0].spec
            self.id, self.max_episode_steps = None if spec is None else spec.id, time_limit(self._worlds[0])
        self.exact_state = bool(self._worlds)

    def _reset(self, seed: int | None) -> Obs:
        if seed is None:
            seed, self._seed = self._seed, None
        if seed is not None:
            self.venv.seed(seed)
        self._true_return[:] = 0.0
        self._obs = cast(self.venv.reset(), self._like)
        return self._obs

    def _step(self, action: np.ndarray) -> Step:
        action = np.asarray(action).astype(self.action_space.dtype, copy=False)
        try:
            obs, reward, done, self.infos = self.venv.step(action)
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(f"an environment of {type(self.venv).__name__} raised in step: {error!r}") from error
        reward, done = np.array(reward), np.array(done, bool)
        self._true_return += self.venv.get_original_reward() if isinstance(self.venv, VecNormalize) else reward
        obs = next_obs = cast(obs, self._like)
        truncated = np.zeros(self.num_envs, bool)
        if done.any():
            next_obs = cast(obs, self._like)
            for i in np.flatnonzero(done):
                truncated[i] = self.infos[i].get("TimeLimit.truncated", False)
                if (last := self.infos[i].get("terminal_observation")) is not None:
                    put(next_obs, i, last)
                elif truncated[i]:  # after a true end nothing is bootstrapped, and what follows does not matter
                    raise EnvError(f"world {i} was cut off, and its info has no 'terminal_observation' to go on from")
        self._obs = obs
        return Step(obs, reward, done & ~truncated, truncated, next_obs)

    def _finish(self, done: np.ndarray) -> None:
        for i in np.flatnonzero(done):
            self._episode_return[i] = self._true_return[i]
            if self._monitored:
                told = self.infos[i].get("episode")
                done[i] = told is not None
                if told is not None:
                    self._episode_return[i], self._episode_length[i] = told["r"], told["l"]
        super()._finish(done)
        self._true_return[done] = 0.0

    def _success(self, index: np.ndarray) -> Iterable[bool | None]:
        told = [self.infos[i].get("is_success") for i in index]
        return [None if success is None else bool(success) for success in told]

    def state_dict(self) -> State:
        state = {"num_envs": self.num_envs, "exact": self.exact_state}
        if not self.exact_state:
            return state
        return (
            self._episode_state()
            | state
            | {
                "true_return": self._true_return.copy(),
                "obs": None if self._obs is None else cast(self._obs, self._like),
                "seed": self._seed,
                "worlds": {str(i): world.world_state() for i, world in enumerate(self._worlds)},
                "layers": {str(k): _layer_state(layer) for k, layer in enumerate(self._layers)},
            }
        )

    def load_state_dict(self, state: State) -> Obs:
        check_number(state, self.num_envs)
        if not (state["exact"] and self._worlds):
            self.exact_state = False
            reason = f"the environments inside {type(self.venv).__name__} cannot be reached"
            warnings.warn(NOT_EXACT.format(reason=reason), stacklevel=2)
            return self.reset_host()
        self._load_episode_state(state)
        self._true_return[:] = state["true_return"]
        self._seed = state["seed"]
        lost = load_worlds(self._worlds, state["worlds"])
        for k, layer in enumerate(self._layers):
            _load_layer(layer, state["layers"][str(k)])
        if lost:
            self.exact_state = False
            return self.reset_host()
        if state["obs"] is None:
            return zeros(self.observation_space, self.num_envs, np.dtype(np.float32))
        self._obs = cast(state["obs"], self._like)
        return cast(self._obs, self._like)

    def render(self, index: int = 0) -> np.ndarray:
        picture = self.venv.get_images()[index]
        if picture is None:
            raise NotImplementedError("the environments were made without pictures: render_mode='rgb_array'")
        return np.asarray(picture)

    def close(self) -> None:
        self.venv.close()


def _layer_state(layer: VecEnvWrapper) -> State:
    """What a wrapper keeps from step to step."""
    if isinstance(layer, VecMonitor):
        return {"returns": layer.episode_returns.copy(), "lengths": layer.episode_lengths.copy()}
    state: State = {"returns": layer.returns.copy(), "ret_rms": _moments(layer.ret_rms)}
    if layer.norm_obs:
        rms = layer.obs_rms
        state["obs_rms"] = {k: _moments(part) for k, part in rms.items()} if isinstance(rms, dict) else _moments(rms)
    return state


def _load_layer(layer: VecEnvWrapper, state: State) -> None:
    if isinstance(layer, VecMonitor):
        layer.episode_returns, layer.episode_lengths = state["returns"].copy(), state["lengths"].copy()
        return
    layer.returns = state["returns"].copy()
    _set_moments(layer.ret_rms, state["ret_rms"])
    if layer.norm_obs:
        if isinstance(layer.obs_rms, dict):
            for key, part in layer.obs_rms.items():
                _set_moments(part, state["obs_rms"][key])
        else:
            _set_moments(layer.obs_rms, state["obs_rms"])


def _moments(rms: RunningMeanStd) -> State:
    return {"mean": np.array(rms.mean), "var": np.array(rms.var), "count": float(rms.count)}


def _set_moments(rms: RunningMeanStd, state: State) -> None:
    rms.mean, rms.var, rms.count = state["mean"].copy(), state["var"].copy(), state["count"]


class PoloptVecEnv(VecEnv):
    """An Env behind stable-baselines3's face, for its callbacks, wrappers, ``evaluate_policy`` and its algorithms.

    It reports episodes itself, so it answers that it is wrapped in a ``Monitor``. Of the fake rows of Gymnasium's
    NEXT_STEP vector environments it says ``infos[i]["valid"] = False``: stable-baselines3 has no word for them.
    """

    def __init__(self, env: Env) -> None:
        self.env = env
        self._actions: np.ndarray | None = None
        self._started = time.time()
        super().__init__(env.num_envs, env.observation_space, env.action_space)

    def reset(self) -> Obs:
        if any(self._options):
            raise ValueError(f"options={self._options!r}: an Env takes no reset options")
        obs = self.env.reset_host(self._seeds[0]) if self.env.host else self.env.reset(self._seeds[0])
        self.env.pop_episodes()
        self._reset_seeds()
        self._reset_options()
        return _fresh(obs)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[Obs, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        if self.env.host:
            step = self.env.step_host(np.asarray(self._actions))
        else:
            step = self.env.step(torch.as_tensor(self._actions, device=self.env.device))
        obs, reward, next_obs = _fresh(step.obs), _fresh(step.reward).astype(np.float32), step.next_obs
        terminated, truncated = _fresh(step.terminated), _fresh(step.truncated)
        done = terminated | truncated
        told = self.env.unwrapped.infos
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)] if told is None else [dict(i) for i in told]
        if done.any():
            next_obs = _fresh(next_obs)
            for i in np.flatnonzero(done):
                infos[i]["terminal_observation"] = row(next_obs, i)
                infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            for episode in self.env.pop_episodes():
                told = {"r": episode.r, "l": episode.l, "t": round(time.time() - self._started, 6)}
                infos[episode.index]["episode"] = told
                if episode.success is not None:
                    infos[episode.index]["is_success"] = episode.success
        if step.valid is not None:
            for i in np.flatnonzero(~_fresh(step.valid)):
                infos[i]["valid"] = False
        return obs, reward, done, infos

    def _worlds(self, indices: Any) -> list[Any]:
        """The objects that stand for the worlds: Gymnasium's environments where there are any, else the Env."""
        worlds = getattr(self.env.unwrapped, "envs", None)
        single = isinstance(worlds, list)
        return [worlds[i] if single else self.env for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        worlds = self._worlds(indices)
        if attr_name == "render_mode" and worlds and isinstance(worlds[0], Env):
            return ["rgb_array"] * len(worlds)
        return [
            world.get_wrapper_attr(attr_name) if isinstance(world, gymnasium.Env) else getattr(world, attr_name)
            for world in worlds
        ]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        for world in self._worlds(indices):
            if not isinstance(world, gymnasium.Env):
                raise AttributeError(
                    f"{attr_name!r} cannot be set: the worlds of {type(world).__name__} are not objects of their own. Make them "
                    "with backend='gymnasium', pass env_kwargs, or use set_parameter where the worlds have it"
                )
            world.set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        worlds = self._worlds(indices)
        if not all(isinstance(world, gymnasium.Env) for world in worlds):
            if len(worlds) < self.num_envs:
                raise ValueError(
                    f"indices={indices!r}: the worlds of {type(worlds[0]).__name__} are stepped together and have no methods of "
                    "their own; make them with backend='gymnasium'"
                )
            return [getattr(self.env, method_name)(*method_args, **method_kwargs)] * self.num_envs
        return [method(*method_args, **method_kwargs) for method in self.get_attr(method_name, indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        worlds = self._worlds(indices)
        if wrapper_class is Monitor:
            return [True] * len(worlds)
        return [isinstance(world, gymnasium.Env) and is_wrapped(world, wrapper_class) for world in worlds]

    def get_images(self) -> list[np.ndarray]:
        return [self.env.render(i) for i in range(self.num_envs)]

    def close(self) -> None:
        self.env.close()


def to_sb3(env: Env | VecEnv) -> VecEnv:
    """A stable-baselines3 ``VecEnv`` of an Env: the one inside where there is one, else a :class:`PoloptVecEnv`."""
    if isinstance(env, VecEnv):
        return env
    return env.venv if isinstance(env, SB3VecEnv) else PoloptVecEnv(env)


def _fresh(x: Any) -> Any:
    """Arrays of the caller's own, of arrays or tensors."""
    if isinstance(x, dict):
        return {key: _fresh(part) for key, part in x.items()}
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else np.array(x)
