"""From a model file's state to the model: whatever the caller changes, and wherever it goes on.

What is in the state an :class:`~polopt.agent.Agent` says itself (``model_state``, ``training_state``); how it lies in a file is
:mod:`polopt.files`'s. Files of stable-baselines3 come here too, as the state that they would have been (:mod:`polopt.sb3_zip`).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from . import kwargs as kwargs_codec
from .env import Env
from .files import FileError
from .normalize import Normalize
from .spaces import from_json

__all__ = ["restore"]


def restore(
    cls: Any, state: dict[str, Any], path: Any, env: Any, device: Any, changes: dict[str, Any],
    force_reset: bool = True,
) -> Any:  # fmt: skip
    """The model of this class, an :class:`~polopt.agent.Agent`'s, that a state says, read from ``path``.

    Args:
        env: to go on in; None: the model predicts, and waits for one with what the state says of training.
        changes: constructor arguments that stand over the state's.

    Raises:
        FileError: the state is of another algorithm, or its weights do not fit the networks that the arguments make.
    """
    if state["algorithm"] != cls.__name__:
        raise FileError(
            f"{path} holds a {state['algorithm']} model; load it with polopt.{state['algorithm']}.load or polopt.load"
        )
    model = _constructed(cls, state, path, device, changes, alone=env is None)
    _take_weights(model, state, path, changes)
    model.num_timesteps, model._total_timesteps = state["num_timesteps"], state["total_timesteps"]
    model._n_updates = state["n_updates"]
    model.take_model_state(state)
    if env is not None:
        if isinstance(env, str) and model.n_envs is not None and "num_envs" not in changes:
            model.config = model.config.replace(num_envs=model.n_envs)
        else:
            model.n_envs = None  # a loaded model may go on with another number of worlds
        model.set_env(env, force_reset)
    if (training := state.get("training")) is not None:
        if "seed" in changes:  # it stands over where the file's generators were
            training = cls._unseeded(training)
        if env is not None or training.get("dataset") is not None:
            model.load_training_state(training | {"env": None})
            model._go_on_in(training["env"])
        else:
            model._waiting = training
    return model


def _constructed(cls: Any, state: dict[str, Any], path: Any, device: Any, changes: dict[str, Any], alone: bool) -> Any:
    """The model with its networks as they begin; ``alone``, it predicts under the state's moments."""
    known = {f.name for f in fields(cls.Config)}
    config = cls.Config.from_json({k: v for k, v in state["config"].items() if k in known - changes.keys()}, path)
    config |= {k: v for k, v in changes.items() if k in known}
    tail = {k: state.get(k, default) for k, default in (("tensorboard_log", None), ("verbose", 0))}
    tail |= {k: changes[k] for k in tail if k in changes}
    model = cls(
        state["policy"], None, **config, **tail, seed=changes.get("seed", state["seed"]), device=device,
        policy_kwargs=kwargs_codec.decode(state["policy_kwargs"], changes.get("policy_kwargs"), path),
        env_kwargs=changes.get("env_kwargs") or kwargs_codec.decode(state["env_kwargs"], None, path),
    )  # fmt: skip
    model.observation_space, model.action_space = (from_json(state[f"{k}_space"]) for k in ("observation", "action"))
    model.n_envs, model.normalizer = state["n_envs"], None  # no number: it has only seen a dataset
    model.env_id = state["env_id"]
    stored = model._normalize_state = _still_wanted(state["normalize"], changes)
    if stored is not None and alone:
        model.normalizer = Normalize.like(_Frozen(model), stored, show=not model.normalizes_on_read)
        model.normalizer.training = False
    model._setup_model()
    return model


def _take_weights(model: Any, state: dict[str, Any], path: Any, changes: dict[str, Any]) -> None:
    """The state's parameters and optimizers, but of what changed hyperparameters say where it begins, and their rates."""
    asked = changes.keys() & {f.name for f in fields(model.Config)}
    changed = {k for k in asked if changes[k] != state["config"].get(k)}
    own = {name for k, start in model.starts if k in changed for name in (start, f"{start}.optimizer")}
    try:
        model.set_parameters(
            {k: v for k, v in state["parameters"].items() if k not in own},
            exact_match=not (own or state.get("partial")),
        )
    except (RuntimeError, ValueError) as error:
        raise FileError(
            f"{path} holds the weights of other networks than these hyperparameters make "
            f"({', '.join(sorted(changed)) or 'those of the file'}): construct a new model for them"
        ) from error
    for part in model.parts.values() if asked else ():
        part.lr.fill_(part.declared_lr)  # a rate that was asked for stands over the file's


class _Frozen(Env):
    """Only spaces: what a loaded model's normaliser stands on until an environment is set."""

    def __init__(self, model: Any) -> None:
        self.num_envs, self.device = model.n_envs, torch.device("cpu")
        self.observation_space, self.action_space = model.observation_space, model.action_space

    def reset(self, seed=None):
        raise RuntimeError("this model has no environment; call set_env first")

    step = pop_episodes = state_dict = load_state_dict = reset


def _still_wanted(statistics: dict[str, Any] | None, changes: dict[str, Any]) -> dict[str, Any] | None:
    """A file's running moments less those that are switched off as it is loaded."""
    if statistics is None:
        return None
    kept = dict(statistics)
    if changes.get("normalize_obs", True) is False:
        kept["obs"] = {}
    if changes.get("normalize_reward", True) is False:
        kept.pop("reward", None)
    return kept if kept["obs"] or "reward" in kept else None
