"""The runners in a plane, HalfCheetah, Hopper and Walker2d, and Swimmer: everything they need is in qpos and qvel."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
import torch

from .base import MujocoEnv, Options, length

__all__ = ["HalfCheetah", "Hopper", "Swimmer", "Walker2d"]


class _Runner(MujocoEnv):
    """Rewarded for the progress of its root joints per time, less the square of the action."""

    max_episode_steps = 1000
    _roots: ClassVar[int] = 1
    """How many leading joint positions tell where the body is in the world."""

    def __init__(
        self,
        num_envs: int,
        *,
        forward_reward_weight: float,
        ctrl_cost_weight: float,
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
        xml_file: str,
        frame_skip: int,
        **options: Unpack[Options],
    ) -> None:
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.reset_noise_scale = reset_noise_scale
        self.exclude_current_positions_from_observation = exclude_current_positions_from_observation
        self._hidden = self._roots if exclude_current_positions_from_observation else 0
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, **options)

    def _prepare(self) -> None:
        self._seen = self.joints[:, self._hidden :]

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + rng.uniform(-noise, noise, self.model.nv)

    def _observe(self) -> np.ndarray:
        return self._seen.astype(self._float)

    def _locate(self) -> Any:
        return self._each(self.qpos[:, 0].copy())

    def _evaluate(self, action: np.ndarray, before: Any) -> tuple[Any, Any]:
        self._velocity = (self._each(self.qpos[:, 0]) - before) / self.dt
        self._progress = self.forward_reward_weight * self._velocity
        self._ctrl_cost = self._cost(self.ctrl_cost_weight, action)
        return self._progress - self._ctrl_cost, np.zeros(self.num_envs, bool)

    def _reset_info(self) -> dict[str, Any]:
        return {"x_position": self.qpos[:, 0]}

    def _step_info(self) -> dict[str, Any]:
        return {
            **self._reset_info(),
            "x_velocity": self._velocity,
            "reward_forward": self._progress,
            "reward_ctrl": -self._ctrl_cost,
        }

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        if self._hidden:
            raise NotImplementedError(
                f"{self.id}: the progress that the reward measures is not in the observation; "
                "pass exclude_current_positions_from_observation=False"
            )
        velocity = (next_obs[..., 0] - obs[..., 0]) / self.dt
        return self.forward_reward_weight * velocity - self.ctrl_cost_weight * action.square().sum(-1)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)


class HalfCheetah(_Runner):
    """``HalfCheetah-v5``: run forward. Never terminates."""

    id = "HalfCheetah-v5"
    camera_config: ClassVar = {"distance": 4.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "half_cheetah.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 0.1,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            **options,
        )

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + noise * rng.standard_normal(self.model.nv)


class Swimmer(_Runner):
    """``Swimmer-v5``: swim forward in a viscous fluid. Never terminates."""

    id = "Swimmer-v5"
    _roots = 2

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "swimmer.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-4,
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            **options,
        )

    def _locate(self) -> np.ndarray:
        return self.qpos[:, :2].copy()

    def _evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[Any, Any]:
        result = super()._evaluate(action, self._each(before[:, 0]))
        self._sideways = (self.qpos[:, 1] - before[:, 1]) / self.dt
        return result

    def _reset_info(self) -> dict[str, Any]:
        return {
            "x_position": self.qpos[:, 0],
            "y_position": self.qpos[:, 1],
            "distance_from_origin": length(self.qpos[:, :2]),
        }

    def _step_info(self) -> dict[str, Any]:
        return {**super()._step_info(), "y_velocity": self._sideways}


class _Legged(_Runner):
    """A runner that must stay upright: a bonus while it is healthy, and the end when it is not."""

    def __init__(
        self,
        num_envs: int,
        *,
        healthy_reward: float,
        terminate_when_unhealthy: bool,
        healthy_z_range: tuple[float, float],
        healthy_angle_range: tuple[float, float],
        forward_reward_weight: float,
        ctrl_cost_weight: float,
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
        xml_file: str,
        frame_skip: int,
        **options: Unpack[Options],
    ) -> None:
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = healthy_z_range
        self.healthy_angle_range = healthy_angle_range
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            **options,
        )

    def _observe(self) -> np.ndarray:
        obs = super()._observe()
        velocity = obs[:, -self.model.nv :]
        np.minimum(velocity, 10.0, out=velocity)
        np.maximum(velocity, -10.0, out=velocity)
        return obs

    def _evaluate(self, action: np.ndarray, before: Any) -> tuple[Any, Any]:
        healthy = self._is_healthy(self._each(self.qpos[:, 1]), self._each(self.qpos[:, 2]), self.joints[:, 2:])
        self._velocity = (self._each(self.qpos[:, 0]) - before) / self.dt
        self._progress = self.forward_reward_weight * self._velocity
        self._survive = healthy * self.healthy_reward
        self._ctrl_cost = self._cost(self.ctrl_cost_weight, action)
        terminated = (healthy ^ True) & self.terminate_when_unhealthy
        return self._progress + self._survive - self._ctrl_cost, terminated

    def _is_healthy(self, z: Any, angle: Any, rest: Any) -> Any:
        """From height and angle (numbers, arrays or tensors) and all of qpos and qvel after the height, ``[..., k]``."""
        (low, high), (left, right) = self.healthy_z_range, self.healthy_angle_range
        return (low < z) & (z < high) & (left < angle) & (angle < right)

    def _reset_info(self) -> dict[str, Any]:
        return {"x_position": self.qpos[:, 0], "z_distance_from_origin": self.qpos[:, 1] - self.init_qpos[1]}

    def _step_info(self) -> dict[str, Any]:
        return {**super()._step_info(), "reward_survive": self._survive}

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        progress = super().reward(obs, action, next_obs)
        return progress + self.healthy_reward * self._is_healthy(*self._pose(next_obs))

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        if not self.terminate_when_unhealthy:
            return super().terminated(obs, action, next_obs)
        return ~self._is_healthy(*self._pose(next_obs))

    def _pose(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = 1 - self._hidden
        return obs[..., z], obs[..., z + 1], obs[..., z + 1 :]


class Hopper(_Legged):
    """``Hopper-v5``: hop forward on one leg, upright.

    ``terminated`` and ``reward`` of given transitions see velocities as observed, clipped to [-10, 10]: they equal the
    environment's as long as ``healthy_state_range`` contains what was cut off.
    """

    id = "Hopper-v5"
    camera_config: ClassVar = {"trackbodyid": 2, "distance": 3.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "hopper.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_state_range: tuple[float, float] = (-100.0, 100.0),
        healthy_z_range: tuple[float, float] = (0.7, float("inf")),
        healthy_angle_range: tuple[float, float] = (-0.2, 0.2),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        self.healthy_state_range = healthy_state_range
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            healthy_angle_range=healthy_angle_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            **options,
        )

    def _is_healthy(self, z: Any, angle: Any, rest: Any) -> Any:
        low, high = self.healthy_state_range
        inside = ((low < rest) & (rest < high)).all(-1)
        return super()._is_healthy(z, angle, rest) & (self._each(inside) if isinstance(inside, np.ndarray) else inside)


class Walker2d(_Legged):
    """``Walker2d-v5``: walk forward on two legs, upright."""

    id = "Walker2d-v5"
    camera_config: ClassVar = {"trackbodyid": 2, "distance": 4.0, "lookat": (0.0, 0.0, 1.15), "elevation": -20.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "walker2d_v5.xml",
        frame_skip: int = 4,
        forward_reward_weight: float = 1.0,
        ctrl_cost_weight: float = 1e-3,
        healthy_reward: float = 1.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.8, 2.0),
        healthy_angle_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 5e-3,
        exclude_current_positions_from_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            forward_reward_weight=forward_reward_weight,
            ctrl_cost_weight=ctrl_cost_weight,
            healthy_reward=healthy_reward,
            terminate_when_unhealthy=terminate_when_unhealthy,
            healthy_z_range=healthy_z_range,
            healthy_angle_range=healthy_angle_range,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            **options,
        )
