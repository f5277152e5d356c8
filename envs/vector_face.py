"""Built-in worlds behind Gymnasium's faces: a vector environment, and a single one."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from polopt.env import HostEnv, Obs

from .make import make_env
from .spaces import row

__all__ = ["PoloptSingleEnv", "PoloptVectorEnv", "make_single", "make_vector"]

_Terms = dict[str, np.ndarray] | list[dict[str, Any]]
"""Info terms: ``[N, ...]`` each, or a dict for each world."""


class PoloptVectorEnv(VectorEnv):
    """A :class:`HostEnv` as a Gymnasium vector environment with SAME_STEP autoreset.

    Where an episode ends, ``infos["final_obs"]`` and ``infos["final_info"]`` hold what Gymnasium's own vector
    environments put there. The arrays it returns are its caller's to keep. ``get_state``/``set_state`` and every other
    method of the worlds are reached as ``env.env``; those two also directly.

    Raises:
        ValueError: ``render_mode`` is neither None nor ``"rgb_array"``.
    """

    def __init__(self, env: HostEnv, render_mode: str | None = None) -> None:
        _check_picture(render_mode)
        self.env = env
        self.num_envs = env.num_envs
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.observation_space = batch_space(env.observation_space, env.num_envs)
        self.action_space = batch_space(env.action_space, env.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """New episodes in all worlds: their first observations and infos.

        Raises:
            ValueError: ``seed`` is a list that does not count upwards (all None is none), or ``options`` is given (there are none).
        """
        if options:
            raise ValueError(f"options={options!r}: these worlds take no reset options")
        if isinstance(seed, list | tuple):
            first = seed[0]
            if list(seed) != [first if first is None else first + i for i in range(self.num_envs)]:
                raise ValueError(f"seed={seed!r} must be a number, or numbers that count upwards by one")
            seed = first
        obs = _copy(self.env.reset_host(seed))
        self.env.pop_episodes()
        return obs, self._tell({}, np.ones(self.num_envs, bool), _begun(self.env))

    def step(self, actions: np.ndarray) -> tuple[Obs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """As every SAME_STEP vector environment."""
        step = self.env.step_host(np.asarray(actions))
        done = step.terminated | step.truncated
        infos: dict[str, Any] = {}
        if done.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(done):
                final[i] = row(step.next_obs, i)
            told = self._tell({}, done, _told(self.env))
            infos = {"final_obs": final, "_final_obs": done.copy(), "final_info": told, "_final_info": done.copy()}
            infos = self._tell(infos, done, _begun(self.env))
        if not done.all():
            infos = self._tell(infos, ~done, _told(self.env))
        self.env.pop_episodes()
        return _copy(step.obs), np.array(step.reward), np.array(step.terminated), np.array(step.truncated), infos

    def _tell(self, infos: dict[str, Any], where: np.ndarray, terms: _Terms) -> dict[str, Any]:
        """``infos`` with the terms of the worlds in ``where``, under Gymnasium's masks and zero where nobody says them."""
        if isinstance(terms, list):
            for i in np.flatnonzero(where):
                infos = self._add_info(infos, terms[i], i)
            return infos
        for name, value in terms.items():
            known = infos.setdefault(name, np.zeros_like(value))
            known[where] = value[where]
            infos[f"_{name}"] = infos.get(f"_{name}", False) | where
        return infos

    def get_state(self) -> Any:
        """The state of all worlds, ``(qpos, qvel)`` of MuJoCo tasks."""
        return self.env.get_state()

    def set_state(self, *state: np.ndarray) -> Obs:
        """Put all worlds into a state of :meth:`get_state`'s form; their observations."""
        return self.env.set_state(*state)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """A picture of every world where ``render_mode`` is ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        return tuple(self.env.render(i) for i in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        self.env.close()


class PoloptSingleEnv(gymnasium.Env):
    """One built-in world as an ordinary Gymnasium environment.

    Built without a time limit (``gymnasium.make`` adds it). The world inside resets itself at a termination; the
    ``reset()`` that follows hands out that episode's beginning.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 30,
    }  # where a world tells no time

    def __init__(self, env: HostEnv, render_mode: str | None = None) -> None:
        _check_picture(render_mode)
        if dt := getattr(env, "dt", None):
            self.metadata = self.metadata | {"render_fps": round(1.0 / dt)}
        self.env = env
        self.render_mode = render_mode
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._first: Obs | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """The first observation of a new episode and its info.

        Raises:
            ValueError: ``options`` is given (there are none).
        """
        if options:
            raise ValueError(f"options={options!r}: this world takes no reset options")
        if seed is not None or self._first is None:
            super().reset(seed=seed)
            self._first = row(self.env.reset_host(seed), 0)
            self.env.pop_episodes()
        obs, self._first = self._first, None
        return obs, _first_row(_begun(self.env))

    def step(self, action: Any) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """The true successor, also at the end of an episode."""
        step = self.env.step_host(np.asarray(action)[None])
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        if terminated or truncated:
            self._first = row(step.obs, 0)
            self.env.pop_episodes()
        return row(step.next_obs, 0), float(step.reward[0]), terminated, truncated, _first_row(_told(self.env))

    def render(self) -> np.ndarray | None:
        """A picture where ``render_mode`` is ``"rgb_array"``."""
        return None if self.render_mode is None else self.env.render(0)

    def close(self) -> None:
        self.env.close()


def make_vector(
    world: str, num_envs: int = 1, max_episode_steps: int | None = None, render_mode: str | None = None, **kwargs: Any
) -> PoloptVectorEnv:
    """What ``gymnasium.make_vec("polopt/...")`` calls. Observations are float64 where Gymnasium's are."""
    if max_episode_steps is not None:
        kwargs["max_episode_steps"] = max_episode_steps
    return PoloptVectorEnv(_make(world, num_envs, kwargs), render_mode)


def make_single(world: str, render_mode: str | None = None, **kwargs: Any) -> PoloptSingleEnv:
    """What ``gymnasium.make("polopt/...")`` calls."""
    return PoloptSingleEnv(_make(world, 1, {**kwargs, "max_episode_steps": -1}), render_mode)


make_single.metadata = PoloptSingleEnv.metadata  # gymnasium.make wraps for the modes that are not among these


def _make(world: str, num_envs: int, kwargs: dict[str, Any]) -> HostEnv:
    import torch

    from .table import TABLE

    kwargs.setdefault("dtype", torch.float64 if TABLE[world].kind == "native" else torch.float32)
    env = make_env(world, num_envs, **kwargs)
    if not env.host:
        raise ValueError(
            f"{world} with backend={kwargs.get('backend')!r}, device={str(kwargs.get('device', 'cpu'))!r} answers in tensors, and "
            "Gymnasium takes arrays: leave both out, or use polopt.make_env"
        )
    return env


def _check_picture(render_mode: str | None) -> None:
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r} must be None or 'rgb_array'")


def _told(env: HostEnv) -> _Terms:
    """What the worlds say of their last step."""
    worlds = env.unwrapped
    return getattr(worlds, "info", {}) if worlds.infos is None else worlds.infos


def _begun(env: HostEnv) -> _Terms:
    """What those say of their reset that have just begun an episode."""
    worlds = env.unwrapped
    return getattr(worlds, "reset_info", {}) if worlds.infos is None else worlds.reset_infos


def _first_row(terms: _Terms) -> dict[str, Any]:
    return dict(terms[0]) if isinstance(terms, list) else {name: value[0] for name, value in terms.items()}


def _copy(obs: Obs) -> Obs:
    return {key: _copy(part) for key, part in obs.items()} if isinstance(obs, dict) else np.array(obs)
