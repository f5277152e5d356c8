"""Running normalisation of observations and rewards, as an Env around an Env."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces

from .env import Env, Obs, State, Step, Wrapper

__all__ = ["Normalize", "RunningMoments"]

_CONSTANTS = ("gamma", "clip_obs", "clip_reward", "epsilon")


class RunningMoments:
    """Mean and variance of a stream, in float64, by Chan's parallel update (Welford's for one row at a time).

    Starts as stable-baselines3's: mean 0, variance 1, weight 1e-4.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean: Any = np.zeros(shape, np.float64)
        self.var: Any = np.ones(shape, np.float64)
        self.count = 1e-4

    def update(self, x: Any) -> None:
        """Take in rows ``[n, *shape]``, NumPy or torch."""
        x = _double(x)
        n = x.shape[0]
        if n == 0:
            return
        if isinstance(x, torch.Tensor) and not isinstance(self.mean, torch.Tensor):
            self.mean, self.var = (torch.as_tensor(v, device=x.device) for v in (self.mean, self.var))
        if n == 1:
            delta, spread = x[0] - self.mean, 0.0
        else:
            mean = x.mean(0)
            spread = ((x - mean) ** 2).mean(0) * n
            delta = mean - self.mean
        total = self.count + n
        self.var = (self.var * self.count + spread + delta * delta * (self.count * n / total)) / total
        self.mean = self.mean + delta * (n / total)
        self.count = total

    def state_dict(self) -> State:
        return {"mean": np.array(_host(self.mean)), "var": np.array(_host(self.var)), "count": self.count}

    def load_state_dict(self, state: State) -> None:
        mean = np.asarray(state["mean"], np.float64)
        if mean.shape != tuple(self.mean.shape):
            raise ValueError(f"running moments of shape {mean.shape} do not fit {tuple(self.mean.shape)}")
        self.mean, self.var, self.count = mean.copy(), np.array(state["var"], np.float64), float(state["count"])


class Normalize(Wrapper):
    """Observations to zero mean and unit variance, rewards to unit variance of the discounted return, both clipped.

    Rewards are divided, never shifted, by the running standard deviation of ``R_t = γ R_{t-1} + r_t``, reset at
    episode ends. Statistics move while ``training`` is true and are frozen otherwise. Finished episodes are reported
    in the environment's own units. Step by step it equals stable-baselines3's ``VecNormalize``.

    Args:
        env: what to normalise.
        obs, reward: which of the two.
        gamma: discount of the return accumulator.
        clip_obs, clip_reward: bounds after normalising.
        show: False only keeps the moments and hands everything through as it is: a replay normalises when it is read, with
            the moments of then.
    """

    def __init__(
        self,
        env: Env,
        *,
        obs: bool = True,
        reward: bool = True,
        gamma: float = 0.99,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        epsilon: float = 1e-8,
        show: bool = True,
    ) -> None:
        super().__init__(env)
        self.show = show
        self.gamma, self.epsilon, self.clip_obs, self.clip_reward = gamma, epsilon, clip_obs, clip_reward
        self.training = True
        self.obs_moments: dict[str, RunningMoments] = {}
        if obs:
            self.obs_moments = {k: RunningMoments(s.shape) for k, s in _boxes(env.observation_space)}
            if not self.obs_moments:
                raise ValueError(
                    f"there is nothing to normalise in the observation space {env.observation_space}: it has no Box of floats"
                )
        self.reward_moments = RunningMoments(()) if reward else None
        self._return: Any = None
        if obs and show:
            self.observation_space = _normalised(env.observation_space, clip_obs)

    def normalize_obs(self, obs: Obs) -> Obs:
        """Observations ``[..., *shape]`` under the present statistics, clipped, float32; NumPy or torch alike."""
        if not self.obs_moments:
            return obs
        if isinstance(obs, dict):
            return {k: self._one(self.obs_moments[k], x) if k in self.obs_moments else x for k, x in obs.items()}
        return self._one(self.obs_moments[""], obs)

    def _one(self, m: RunningMoments, x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            mean, var = (torch.as_tensor(v, device=x.device) for v in (m.mean, m.var))
            return ((x - mean) / (var + self.epsilon).sqrt()).clamp(-self.clip_obs, self.clip_obs).float()
        scaled = (x - _host(m.mean)) / np.sqrt(_host(m.var) + self.epsilon)
        return np.minimum(np.maximum(scaled, -self.clip_obs), self.clip_obs).astype(np.float32)

    def _see(self, obs: Obs, valid: Any = None) -> Obs:
        """Take observations into the statistics (while training) and normalise them."""
        if self.training:
            for k, m in self.obs_moments.items():
                x = obs[k] if k else obs
                m.update(x if valid is None else x[valid])
        return self.normalize_obs(obs) if self.show else obs

    def normalize_reward(self, reward: Any) -> Any:
        """Rewards under the present statistics, clipped, float32; NumPy or torch alike."""
        if self.reward_moments is None:
            return reward
        scale = (self.reward_moments.var + self.epsilon) ** 0.5
        if isinstance(reward, torch.Tensor):
            scale = torch.as_tensor(scale, device=reward.device)
            return (reward / scale).clip(-self.clip_reward, self.clip_reward).float()
        return (reward / scale).clip(-self.clip_reward, self.clip_reward).astype(np.float32)

    def _after(self, step: Step) -> Step:
        if self.reward_moments is not None:
            if self._return is None:
                self._return = _double(step.reward) * 0.0
            self._return = self._return * self.gamma + _double(step.reward)
            if self.training:
                self.reward_moments.update(self._return if step.valid is None else self._return[step.valid])
            self._return[step.terminated | step.truncated] = 0.0
        obs = self._see(step.obs)
        if not self.show:
            return step
        reward = self.normalize_reward(step.reward)
        next_obs = obs if step.next_obs is step.obs else self.normalize_obs(step.next_obs)
        return Step(obs, reward, step.terminated, step.truncated, next_obs, step.valid)

    def _begin(self, obs: Obs) -> Obs:
        self._return = None
        return self._see(obs)

    def _again(self, obs: Obs, mask: Any) -> Obs:
        if self._return is not None:
            self._return[mask] = 0.0
        return self._see(obs, mask)

    @classmethod
    def like(cls, env: Env, statistics: State, *, show: bool) -> Normalize:
        """Of the kind and with the moments and constants that :meth:`statistics` holds."""
        constants = {k: statistics[k] for k in _CONSTANTS if k in statistics}
        made = cls(env, obs=bool(statistics["obs"]), reward="reward" in statistics, show=show, **constants)
        made.load_statistics(statistics)
        return made

    def statistics(self) -> State:
        """The running moments and the constants beside them: what is saved with a model."""
        out: State = {"obs": {k or "obs": m.state_dict() for k, m in self.obs_moments.items()}}
        out |= {k: getattr(self, k) for k in _CONSTANTS}
        if self.reward_moments is not None:
            out["reward"] = self.reward_moments.state_dict()
        return out

    def load_statistics(self, state: State) -> None:
        """Take :meth:`statistics` back; what they do not hold begins anew, with a warning."""
        for k, m in self.obs_moments.items():
            if (k or "obs") in state["obs"]:
                m.load_state_dict(state["obs"][k or "obs"])
            else:
                warnings.warn(
                    f"the file has no moments of the observations{k and ' ' + k}: they begin anew", stacklevel=2
                )
        if self.reward_moments is not None:
            if "reward" in state:
                self.reward_moments.load_state_dict(state["reward"])
            else:
                warnings.warn("the file has no moments of the rewards: they begin anew", stacklevel=2)

    def state_dict(self) -> State:
        running = None if self._return is None else np.array(_host(self._return))
        return {"env": self.env.state_dict(), "statistics": self.statistics(), "return": running}

    def load_state_dict(self, state: State) -> Obs:
        self.load_statistics(state["statistics"])
        obs = self.env.load_state_dict(state["env"])
        self._return = state["return"]
        if self._return is not None and not self.host:
            self._return = torch.as_tensor(self._return, device=self.device)
        return self.normalize_obs(obs) if self.show else obs


def _boxes(space: Space) -> list[tuple[str, spaces.Box]]:
    leaves = space.spaces.items() if isinstance(space, spaces.Dict) else [("", space)]
    return [(k, s) for k, s in leaves if isinstance(s, spaces.Box) and np.issubdtype(s.dtype, np.floating)]


def _normalised(space: Space, clip: float) -> Space:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({k: _normalised(s, clip) for k, s in space.spaces.items()})
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return spaces.Box(-clip, clip, space.shape, np.float32)
    return space


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) else x.astype(np.float64)


def _host(x: Any) -> Any:
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else x
