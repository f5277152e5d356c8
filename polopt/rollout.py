"""The one way experience is made: act, step, store, ``[T, N]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from .batch import Batch, tree_map
from .env import Env, Obs, Step
from .errors import EnvError, NonFiniteError

__all__ = ["Actor", "rollout"]


class Actor(Protocol):
    """Who can act in a rollout."""

    def noise(self, horizon: int, num_envs: int) -> torch.Tensor | None:
        """All the randomness of the rollout at once, ``[T, N, ...]``."""

    def act(self, obs: Any, noise: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Action ``[N, ...]`` as the policy sees it, and what must be remembered of the choice."""

    def host_actor(self) -> Callable[[Any, Any], Any] | None:
        """:meth:`act` in NumPy, or of the action alone where nothing must be remembered; None where there is no such form."""

    def env_action(self, action: Any) -> Any:
        """The action in the environment's units; NumPy or torch alike."""


OnStep = Callable[[Obs, Any, Any, Step], bool]
"""Called after each step with obs, action, env action and the answer; False ends the rollout."""


def rollout(env: Env, actor: Actor, obs: Obs, horizon: int, on_step: OnStep | None = None) -> tuple[Batch, Obs]:
    """Act for ``horizon`` steps. Returns the batch ``[T, N, ...]`` on the environment's device and the observation to act on next.

    The batch has ``obs, action, reward, terminated, truncated, next_obs``, the actor's extras, and ``valid`` where the
    environment marks fake rows.

    Raises:
        EnvError: an observation or a reward is NaN or infinite; names the world and the step.
        NonFiniteError: an action is.
    """
    noise = actor.noise(horizon, env.num_envs)
    host_act = actor.host_actor() if env.host else None
    if env.host:
        step, empty = env.step_host, _empty_array
        if noise is not None:
            noise = noise.numpy() if host_act is not None else noise
        act = host_act if host_act is not None else _through_torch(actor.act)
    else:
        step, empty, act = env.step, _empty_tensor, actor.act

    rows: dict[str, Any] = {}
    done = 0
    for t in range(horizon):
        action = act(obs, None if noise is None else noise[t])
        extras: dict[str, Any] = {}
        if isinstance(action, tuple):
            action, extras = action
        env_action = actor.env_action(action)
        if not rows:
            rows["obs"] = tree_map(lambda x: empty(horizon, x), obs)
            rows["next_obs"] = tree_map(lambda x: empty(horizon, x), obs)
            rows["action"] = empty(horizon, action)
            for name, x in extras.items():
                rows[name] = empty(horizon, x)
        _put(rows["obs"], t, obs)
        rows["action"][t] = action
        for name, x in extras.items():
            rows[name][t] = x
        answer = step(env_action)
        if t == 0:
            for name in ("reward", "terminated", "truncated"):
                rows[name] = empty(horizon, getattr(answer, name))
            if answer.valid is not None:
                rows["valid"] = empty(horizon, answer.valid)
        rows["reward"][t] = answer.reward
        rows["terminated"][t] = answer.terminated
        rows["truncated"][t] = answer.truncated
        _put(rows["next_obs"], t, answer.next_obs)
        if answer.valid is not None:
            rows["valid"][t] = answer.valid
        done = t + 1
        keep_on = on_step is None or on_step(
            tree_map(lambda x, t=t: x[t], rows["obs"]), rows["action"][t], env_action, answer
        )
        obs = answer.obs
        if not keep_on:
            break
    batch = Batch(**{k: tree_map(lambda x: x[:done], v) for k, v in rows.items()})
    if env.host:
        batch = batch.map(torch.from_numpy)
    _check_finite(batch, getattr(actor, "remedy", "Lower learning_rate"))
    return batch, tree_map(lambda x: x.copy() if env.host else x.clone(), obs)


def _put(rows: Any, t: int, x: Any) -> None:
    if isinstance(rows, dict):
        for k, column in rows.items():
            column[t] = x[k]
    else:
        rows[t] = x


def _empty_array(horizon: int, like: np.ndarray) -> np.ndarray:
    dtype = np.float32 if like.dtype == np.float64 else like.dtype
    return np.empty((horizon, *like.shape), dtype)


def _empty_tensor(horizon: int, like: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if like.dtype == torch.float64 else like.dtype
    return torch.empty((horizon, *like.shape), dtype=dtype, device=like.device)


def _through_torch(act: Callable[..., Any]) -> Callable[..., Any]:
    def host_act(obs: Any, noise: Any) -> Any:
        action, extras = act(tree_map(torch.from_numpy, obs), noise)
        return action.cpu().numpy(), {k: x.cpu().numpy() for k, x in extras.items()}

    return host_act


def _check_finite(batch: Batch, remedy: str) -> None:
    """Raise where an observation, a reward or an action is not finite; one number, their sum, says whether to look."""
    leaves = [batch.action, batch.reward]
    for obs in (batch.obs, batch.next_obs):
        leaves += obs.values() if isinstance(obs, dict) else [obs]
    sums = [x.sum() for x in leaves if x.is_floating_point()]
    if not sums or math.isfinite(sum(sums[1:], sums[0])):
        return
    if batch.action.is_floating_point() and not bool(torch.isfinite(batch.action).all()):
        t, i = (int(v) for v in (~torch.isfinite(batch.action)).nonzero()[0][:2])
        seen = batch.obs.values() if isinstance(batch.obs, dict) else [batch.obs]
        if all(bool(torch.isfinite(x[t, i]).all()) for x in seen):  # else the environment is to blame, below
            raise NonFiniteError(
                f"the action chosen for environment {i} at step {t} of this rollout is not finite: training diverged. "
                f"{remedy}; earlier checkpoints are kept"
            )
    for name in ("reward", "obs", "next_obs"):
        leaves = batch[name].items() if isinstance(batch[name], dict) else [("", batch[name])]
        for key, x in leaves:
            if not x.is_floating_point() or bool(torch.isfinite(x.sum())):
                continue
            bad = ~torch.isfinite(x)
            if not bool(bad.any()):
                continue  # a sum of large finite numbers
            t, i = (int(v) for v in bad.nonzero()[0][:2])
            what = {"reward": "reward", "obs": "observation", "next_obs": "observation"}[name]
            raise EnvError(
                f"the {what}{f' {key!r}' if key else ''} of environment {i} at step {t + (name == 'next_obs')} of this rollout is not finite: "
                f"{x[t, i].tolist()}"
            )
