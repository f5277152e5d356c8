"""Exact state of a Gymnasium environment, which has no method for it.

Two ways, after the rule of ``docs/design``:

* Gymnasium's own MuJoCo environments: MuJoCo's integration state, the few derived positions they read *before* a step,
  the generator and the time limit's count.
* any other: the generator's state just before the last reset and the actions since. Loading resets and replays them,
  and compares the observation and the generator with the stored ones bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from polopt.env import EnvError, State

from .spaces import equal_obs

__all__ = ["NOT_EXACT", "Recorder", "check_number", "load_worlds"]

NOT_EXACT = (
    "resume is not exact: {reason}. The running episodes start anew; everything else (parameters, memory, generators of"
    " the agent) continues where it was."
)

_STATELESS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)
_READ_BEFORE_STEP = ("xpos", "xipos", "site_xpos")
"""Derived arrays of MjData that lag one substep behind qpos and from which Ant and Humanoid take the position before a
step (Gymnasium v5): not part of MuJoCo's integration state."""


class Recorder(gymnasium.Wrapper):
    """Hands everything through, and can tell and take back the state of the world inside.

    What is set on it but its own is set on the inner environment, as if it were not there: it stands in the list of worlds of a
    vector environment that the user made.

    Args:
        index: the number of this world among its neighbours, for messages.
    """

    @classmethod
    def around(cls, envs: Sequence[gymnasium.Env]) -> list[Recorder]:
        """One around each; those that are there already are taken as they are."""
        return [env if isinstance(env, Recorder) else cls(env, i) for i, env in enumerate(envs)]

    # Of its own it has few public names: a world's ``state`` is the world's.

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "env" or name.startswith("_") or hasattr(gymnasium.Wrapper, name):
            super().__setattr__(name, value)
        else:
            setattr(self.env, name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def __init__(self, env: gymnasium.Env, index: int = 0) -> None:
        super().__init__(env)
        self._index = index
        self._physics = _mujoco(env)
        self._obs: Any = None
        self._seed: int | None = None
        self._options: dict[str, Any] | None = None
        self._generator: State | None = None
        self._actions: list[np.ndarray] = []
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The inner environment's.

        Raises:
            EnvError: the environment raised; its exception is the cause.
        """
        self._seed, self._options = seed, options
        self._generator = None if seed is not None else _generator_state(self.env)
        self._actions.clear()
        self._steps = 0
        try:
            self._obs, info = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise EnvError(f"environment {self._index} ({self._name}) raised in reset: {error!r}") from error
        return self._obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The inner environment's.

        Raises:
            EnvError: the environment raised; its exception is the cause.
        """
        self._steps += 1
        if self._physics is None:
            self._actions.append(np.array(action))
        try:
            answer = self.env.step(action)
        except Exception as error:
            raise EnvError(
                f"environment {self._index} ({self._name}) raised in step {self._steps} of its episode: {error!r}"
            ) from error
        self._obs = answer[0]
        return answer

    @property
    def _name(self) -> str:
        return self.env.spec.id if self.env.spec is not None else type(self.env.unwrapped).__name__

    def world_state(self) -> State:
        """What :meth:`load_world` needs, as a tree of arrays and JSON values."""
        if self._obs is None:
            return {"running": False}
        state: State = {
            "running": True,
            "obs": _arrays(self._obs),
            "generator": _generator_state(self.env),
            "steps": self._steps,
        }
        if self._physics is not None:
            import mujoco

            model, data = self._physics.model, self._physics.data
            kind = mujoco.mjtState.mjSTATE_INTEGRATION
            state["physics"] = np.empty(mujoco.mj_stateSize(model, kind))
            mujoco.mj_getState(model, data, state["physics"], kind)
            state["derived"] = {name: getattr(data, name).copy() for name in _READ_BEFORE_STEP}
        else:
            space = self.env.action_space
            state |= {
                "seed": self._seed,
                "options": deepcopy(self._options),
                "start": self._generator,
                "actions": np.array(self._actions) if self._actions else np.zeros((0, *space.shape), space.dtype),
            }
        return state

    def load_world(self, state: State) -> bool:
        """Take a :meth:`world_state` back; whether the world is now bit for bit the one that gave it.

        Raises:
            ValueError: the state is of another kind of environment.
        """
        if not state["running"]:
            return True
        if ("physics" in state) != (self._physics is not None):
            raise ValueError(f"environment {self._index} ({self._name}): the state is of another kind of environment")
        if self._physics is not None:
            return self._load_physics(state)
        if state["start"] is not None:
            _set_generator(self.env, state["start"])
        obs, _ = self.reset(seed=state["seed"], options=state["options"])
        self._generator = state["start"]
        over = False
        for i, action in enumerate(state["actions"]):
            if over:  # the replay went another way
                self.reset()
                return False
            obs, _, terminated, truncated, _ = self.step(action)
            over = bool(terminated or truncated) and i + 1 < len(state["actions"])
        return equal_obs(_arrays(obs), state["obs"]) and _equal(_generator_state(self.env), state["generator"])

    def _load_physics(self, state: State) -> bool:
        import mujoco

        self.reset()
        model, data = self._physics.model, self._physics.data
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        if len(state["physics"]) != mujoco.mj_stateSize(model, kind):
            raise ValueError(f"environment {self._index} ({self._name}): the state is of another MuJoCo model")
        mujoco.mj_setState(model, data, state["physics"], kind)
        for name, array in state["derived"].items():
            getattr(data, name)[:] = array
        _set_generator(self.env, state["generator"])
        self._obs, self._steps = state["obs"], state["steps"]
        layer = self.env
        while isinstance(layer, gymnasium.Wrapper):
            if isinstance(layer, TimeLimit):
                layer._elapsed_steps = state["steps"]
            layer = layer.env
        return True

    @property
    def last_obs(self) -> Any:
        """The observation it gave last."""
        return self._obs


def check_number(state: State, num_envs: int) -> None:
    """Refuse a state of another number of worlds."""
    if state.get("num_envs") != num_envs:
        raise ValueError(f"the state is of {state.get('num_envs')} worlds, this environment has {num_envs}")


def load_worlds(worlds: Sequence[Recorder], states: State) -> list[int]:
    """Load every world; the numbers of those that did not come back bit for bit, which are also warned of."""
    lost = [i for i, world in enumerate(worlds) if not world.load_world(states[str(i)])]
    if lost:
        reason = (
            f"replaying the recorded actions gave another observation in worlds {lost[:10]} (the environment draws from"
            " a generator other than its np_random, or keeps state across resets)"
        )
        warnings.warn(NOT_EXACT.format(reason=reason), stacklevel=3)
    return lost


def _mujoco(env: gymnasium.Env) -> Any:
    """The MuJoCo environment inside, where its state and the wrappers' are known in full."""
    while isinstance(env, gymnasium.Wrapper):
        if type(env) not in _STATELESS:
            return None
        env = env.env
    ours = type(env).__module__.startswith("gymnasium.envs.mujoco.")
    return env if ours and hasattr(env, "model") and hasattr(env, "data") else None


def _generator_state(env: gymnasium.Env) -> State | None:
    generator = getattr(env.unwrapped, "np_random", None)
    return deepcopy(generator.bit_generator.state) if isinstance(generator, np.random.Generator) else None


def _set_generator(env: gymnasium.Env, state: State | None) -> None:
    if state is None:
        return
    generator = env.unwrapped.np_random
    if generator.bit_generator.state["bit_generator"] == state["bit_generator"]:
        generator.bit_generator.state = state
    else:
        bits = getattr(np.random, state["bit_generator"])()
        bits.state = state
        env.unwrapped.np_random = np.random.Generator(bits)


def _arrays(obs: Any) -> Any:
    return {key: _arrays(part) for key, part in obs.items()} if isinstance(obs, dict) else np.array(obs)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(np.array_equal(a, b))
