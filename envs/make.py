"""Environments from ids, and from what other libraries made."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from numbers import Integral
from typing import Any, Literal

import gymnasium
import torch

from polopt.env import Env

from .gymnasium import GymnasiumEnv, GymnasiumVector
from .table import TABLE, find

__all__ = ["as_env", "make_env"]

_ACCEPTED = (
    "an id such as 'HalfCheetah-v5', a polopt Env, a gymnasium.Env, a callable that returns one, a"
    " gymnasium.vector.VectorEnv, or a stable-baselines3 VecEnv"
)


def make_env(
    id: str,
    num_envs: int = 1,
    *,
    backend: Literal["auto", "native", "torch", "gymnasium"] = "auto",
    device: torch.device | str = "cpu",
    seed: int | None = None,
    dtype: torch.dtype = torch.float32,
    **env_kwargs: Any,
) -> Env:
    """N worlds of an id.

    Args:
        id: one of :func:`~polopt.envs.list_envs`, or any id registered with Gymnasium; ``"module:Name-v0"`` imports the
            module that registers it.
        num_envs: N, at least 1.
        backend: ``"native"`` is MuJoCo stepped in batches, ``"torch"`` equations on any device, ``"gymnasium"``
            Gymnasium's own environments one after the other. ``"auto"`` takes the built-in worlds where the table has
            the id (they give Gymnasium's returns, and compute in NumPy on the CPU) and Gymnasium's otherwise.
        device: where the worlds live; only classic-control ones can leave the CPU.
        seed: of the first ``reset()`` that is given none.
        dtype: of floating observations.
        env_kwargs: the environment's own arguments, as for ``gymnasium.make``; ``max_episode_steps`` among them.

    Raises:
        ValueError: unknown id (the message names the nearest), backend or device, or a backend the id does not have.
        TypeError: a space that is not supported.
    """
    if not isinstance(id, str):
        raise TypeError(f"id={id!r} must be a string; as_env takes other kinds of environment")
    if backend not in ("auto", "native", "torch", "gymnasium"):
        raise ValueError(f"backend={backend!r} must be 'auto', 'native', 'torch' or 'gymnasium'")
    if isinstance(num_envs, bool) or not isinstance(num_envs, Integral) or num_envs < 1:
        raise ValueError(f"num_envs={num_envs!r} must be a whole number of at least 1")
    device = _device(device)
    found = find(id)
    if found is None and backend in ("native", "torch"):
        _spec(id)
        raise ValueError(f"{id} has no backend {backend!r}: leave backend='auto' for Gymnasium's environment")
    if found is not None:
        name, world = found
        if backend in ("native", "torch") and backend != world.kind:
            raise ValueError(f"{id} has no backend {backend!r}: it has {world.kind!r} and 'gymnasium'")
        # Pictures need no preparation here; a window is only Gymnasium's to open.
        picture = env_kwargs.get("render_mode")
        if backend != "gymnasium" and not (backend == "auto" and picture == "human"):
            if picture not in (None, "rgb_array"):
                raise ValueError(
                    f"render_mode={picture!r}: with backend={backend!r} {id} draws 'rgb_array'; backend='gymnasium' has others"
                )
            env_kwargs.pop("render_mode", None)
            if world.kind == "native" and device.type != "cpu":
                raise ValueError(f"device={str(device)!r}: {id} computes on the CPU; pass device='cpu'")
            module, _, cls = world.target.partition(":")
            build = getattr(import_module(module), cls)
            if world.kind == "native":
                env = build(num_envs, device=device, seed=seed, dtype=dtype, **env_kwargs)
            else:
                limit = env_kwargs.pop("max_episode_steps", world.max_episode_steps)
                env = build(**env_kwargs).worlds(
                    num_envs,
                    device=device,
                    seed=seed,
                    dtype=dtype,
                    max_episode_steps=limit,
                    tensors=backend == "torch" or device.type != "cpu",
                )
            env.id = name
            return env
        id = name
    if device.type != "cpu":
        raise ValueError(f"device={str(device)!r}: {id} computes on the CPU; pass device='cpu'")
    spec = _spec(id)
    env = GymnasiumEnv([gymnasium.make(spec, **env_kwargs) for _ in range(num_envs)], seed=seed, dtype=dtype)
    env.id = id
    return env


def as_env(
    env: Any, *, num_envs: int = 1, seed: int | None = None, device: torch.device | str = "cpu", **env_kwargs: Any
) -> Env:
    """An Env of what is given: an id, an Env (returned as it is), or another library's environment.

    Args:
        env: an id, an Env, a ``gymnasium.Env`` or a callable that returns one, a ``gymnasium.vector.VectorEnv`` in any
            autoreset mode, or a stable-baselines3 ``VecEnv``.
        num_envs: how many worlds to make of an id or a callable. An object is as many as it is.
        seed: of the first ``reset()`` that is given none, for worlds that are made or adopted here.
        device: where worlds made from an id live if they can leave the CPU; every other Env tells its own.
        env_kwargs: as for :func:`make_env`, of an id.

    Raises:
        TypeError: anything else, an unsupported space, or ``env_kwargs`` with what is made already.
        ValueError: ``num_envs`` differs from what the object is.
    """
    if isinstance(env, str):
        found = find(env)
        movable = found is not None and found[1].kind == "torch" and env_kwargs.get("backend") != "gymnasium"
        return make_env(env, num_envs, device=_device(device) if movable else "cpu", seed=seed, **env_kwargs)
    if env_kwargs:
        raise TypeError(
            f"env_kwargs {', '.join(env_kwargs)}: only an id takes arguments of the environment, not {type(env).__name__}"
        )
    if isinstance(env, Env):
        return _as_many(env, num_envs)
    if isinstance(env, gymnasium.Env):
        return _as_many(GymnasiumEnv([env], seed=seed), num_envs)
    if isinstance(env, gymnasium.vector.VectorEnv):
        from .vector_face import PoloptVectorEnv

        return _as_many(env.env if type(env) is PoloptVectorEnv else GymnasiumVector(env, seed=seed), num_envs)
    # Whoever holds a VecEnv has imported stable-baselines3.
    if "stable_baselines3.common.vec_env" in sys.modules:
        from .sb3 import PoloptVecEnv, SB3VecEnv, VecEnv

        if isinstance(env, VecEnv):
            return _as_many(env.env if type(env) is PoloptVecEnv else SB3VecEnv(env, seed=seed), num_envs)
    if callable(env):
        made = [env() for _ in range(num_envs)]
        if all(isinstance(one, gymnasium.Env) for one in made):
            return GymnasiumEnv(made, seed=seed)
        if num_envs == 1 and not callable(made[0]):
            return as_env(made[0], seed=seed, device=device)
        raise TypeError(f"env={env!r} returned {type(made[0]).__name__}; a callable must return a gymnasium.Env")
    raise TypeError(f"env is a {type(env).__name__}; it must be {_ACCEPTED}")


def _as_many(env: Env, num_envs: int) -> Env:
    if num_envs not in (1, env.num_envs):
        raise ValueError(
            f"num_envs={num_envs}, but the environment given is {env.num_envs} world(s): give an id or a callable to"
            " have more made"
        )
    return env


def _device(device: torch.device | str) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={str(device)!r} is not available here: {error}") from error
    return device


def _spec(id: str) -> gymnasium.envs.registration.EnvSpec:
    """Gymnasium's registration of an id."""
    module, _, name = id.rpartition(":")
    try:
        if module:
            import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"environment id {id!r}: importing {module!r} failed ({error})") from error
    try:
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = difflib.get_close_matches(id, {*TABLE, *gymnasium.registry}, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "polopt.envs.list_envs() names those built in"
        raise ValueError(f"unknown environment id {id!r}: {hint}") from error
