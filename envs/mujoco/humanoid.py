"""The 17-joint humanoid: Humanoid (run) and HumanoidStandup."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
import torch

from .base import MujocoEnv, Options, length

__all__ = ["Humanoid", "HumanoidStandup"]


class _Body(MujocoEnv):
    """What the two tasks share: where an episode starts and what is observed."""

    max_episode_steps = 1000

    def __init__(
        self,
        num_envs: int,
        *,
        xml_file: str,
        frame_skip: int,
        reset_noise_scale: float,
        exclude_current_positions_from_observation: bool,
        include_cinert_in_observation: bool,
        include_cvel_in_observation: bool,
        include_qfrc_actuator_in_observation: bool,
        include_cfrc_ext_in_observation: bool,
        **options: Unpack[Options],
    ) -> None:
        self.reset_noise_scale = reset_noise_scale
        self.exclude_current_positions_from_observation = exclude_current_positions_from_observation
        self.include_cinert_in_observation = include_cinert_in_observation
        self.include_cvel_in_observation = include_cvel_in_observation
        self.include_qfrc_actuator_in_observation = include_qfrc_actuator_in_observation
        self.include_cfrc_ext_in_observation = include_cfrc_ext_in_observation
        self._hidden = 2 if exclude_current_positions_from_observation else 0
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, contact_forces=True, **options)

    def _prepare(self) -> None:
        # Views: what belongs to the world's own body and to the free root joint is left out, as in Gymnasium.
        n = self.num_envs
        self._forces = self.cfrc_ext.reshape(n, -1)
        self._parts = [self.joints[:, self._hidden :]]
        if self.include_cinert_in_observation:
            self._parts.append(self._bind("cinert").reshape(n, -1)[:, 10:])
        if self.include_cvel_in_observation:
            self._parts.append(self._bind("cvel").reshape(n, -1)[:, 6:])
        if self.include_qfrc_actuator_in_observation:
            self._parts.append(self._bind("qfrc_actuator")[:, 6:])
        if self.include_cfrc_ext_in_observation:
            self._parts.append(self._forces[:, 6:])
        self._tendon_length, self._tendon_velocity = self._bind("ten_length"), self._bind("ten_velocity")

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + rng.uniform(-noise, noise, self.model.nv)

    def _observe(self) -> np.ndarray:
        return np.concatenate(self._parts, axis=1, dtype=self._float)

    def _impact(self, weight: float, low: float, high: float) -> Any:
        """The weighted, clipped square of the contact forces, as :meth:`_each`."""
        cost = self._cost(weight, self._forces)
        if self.num_envs == 1:
            return min(max(cost, low), high)
        return np.minimum(np.maximum(cost, low), high)


class Humanoid(_Body):
    """``Humanoid-v5``: run forward on two legs, upright."""

    id = "Humanoid-v5"
    camera_config: ClassVar = {"trackbodyid": 1, "distance": 4.0, "lookat": (0.0, 0.0, 2.0), "elevation": -20.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "humanoid.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1.25,
        ctrl_cost_weight: float = 0.1,
        contact_cost_weight: float = 5e-7,
        contact_cost_range: tuple[float, float] = (-np.inf, 10.0),
        healthy_reward: float = 5.0,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (1.0, 2.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.contact_cost_range = contact_cost_range
        self.healthy_reward = healthy_reward
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = healthy_z_range
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            include_cinert_in_observation=include_cinert_in_observation,
            include_cvel_in_observation=include_cvel_in_observation,
            include_qfrc_actuator_in_observation=include_qfrc_actuator_in_observation,
            include_cfrc_ext_in_observation=include_cfrc_ext_in_observation,
            **options,
        )

    def _prepare(self) -> None:
        super()._prepare()
        self._centers = self._bind("xipos")
        self._mass = self._parameter("body_mass")
        self._total_mass = self._mass.sum(-1, keepdims=self._mass.ndim == 2)

    def _locate(self) -> np.ndarray:
        """The center of mass in the plane, ``[N, 2]``."""
        moment = np.einsum("...b,...bj->...j", self._mass, self._centers)
        return moment[:, :2] / self._total_mass

    def _evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[Any, Any]:
        low, high = self.healthy_z_range
        z = self._each(self.qpos[:, 2])
        healthy = (low < z) & (z < high)
        self._velocity = (self._locate() - before) / self.dt
        self._progress = self.forward_reward_weight * self._each(self._velocity[:, 0])
        self._survive = healthy * self.healthy_reward
        self._ctrl_cost = self._cost(self.ctrl_cost_weight, self._ctrl)
        self._contact_cost = self._impact(self.contact_cost_weight, *self.contact_cost_range)
        terminated = (healthy ^ True) & self.terminate_when_unhealthy
        return self._progress + self._survive - (self._ctrl_cost + self._contact_cost), terminated

    def _reset_info(self) -> dict[str, Any]:
        return {
            "x_position": self.qpos[:, 0],
            "y_position": self.qpos[:, 1],
            "tendon_length": self._tendon_length,
            "tendon_velocity": self._tendon_velocity,
            "distance_from_origin": length(self.qpos[:, :2]),
        }

    def _step_info(self) -> dict[str, Any]:
        return {
            **self._reset_info(),
            "x_velocity": self._velocity[:, 0],
            "y_velocity": self._velocity[:, 1],
            "reward_survive": self._survive,
            "reward_forward": self._progress,
            "reward_ctrl": -self._ctrl_cost,
            "reward_contact": -self._contact_cost,
        }

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        if not self.terminate_when_unhealthy:
            return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)
        low, high = self.healthy_z_range
        z = next_obs[..., 2 - self._hidden]
        return ~((low < z) & (z < high))


class HumanoidStandup(_Body):
    """``HumanoidStandup-v5``: get up from the floor. Never terminates."""

    id = "HumanoidStandup-v5"
    camera_config: ClassVar = {"trackbodyid": 1, "distance": 4.0, "lookat": (0.0, 0.0, 0.8925), "elevation": -20.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "humanoidstandup.xml",
        frame_skip: int = 5,
        uph_cost_weight: float = 1,
        ctrl_cost_weight: float = 0.1,
        impact_cost_weight: float = 0.5e-6,
        impact_cost_range: tuple[float, float] = (-np.inf, 10.0),
        reset_noise_scale: float = 1e-2,
        exclude_current_positions_from_observation: bool = True,
        include_cinert_in_observation: bool = True,
        include_cvel_in_observation: bool = True,
        include_qfrc_actuator_in_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        self.uph_cost_weight = uph_cost_weight  # without effect, as in Gymnasium
        self.ctrl_cost_weight = ctrl_cost_weight
        self.impact_cost_weight = impact_cost_weight
        self.impact_cost_range = impact_cost_range
        super().__init__(
            num_envs,
            xml_file=xml_file,
            frame_skip=frame_skip,
            reset_noise_scale=reset_noise_scale,
            exclude_current_positions_from_observation=exclude_current_positions_from_observation,
            include_cinert_in_observation=include_cinert_in_observation,
            include_cvel_in_observation=include_cvel_in_observation,
            include_qfrc_actuator_in_observation=include_qfrc_actuator_in_observation,
            include_cfrc_ext_in_observation=include_cfrc_ext_in_observation,
            **options,
        )

    def _evaluate(self, action: np.ndarray, before: None) -> tuple[Any, Any]:
        self._height_reward = self._each(self.qpos[:, 2]) / self.model.opt.timestep
        self._ctrl_cost = self._cost(self.ctrl_cost_weight, self._ctrl)
        self._impact_cost = self._impact(self.impact_cost_weight, *self.impact_cost_range)
        reward = self._height_reward - self._ctrl_cost - self._impact_cost + 1
        return reward, np.zeros(self.num_envs, bool)

    def _reset_info(self) -> dict[str, Any]:
        return {
            "x_position": self.qpos[:, 0],
            "y_position": self.qpos[:, 1],
            "z_distance_from_origin": self.qpos[:, 2] - self.init_qpos[2],
            "tendon_length": self._tendon_length,
            "tendon_velocity": self._tendon_velocity,
        }

    def _step_info(self) -> dict[str, Any]:
        return {
            **self._reset_info(),
            "reward_linup": self._height_reward,
            "reward_quadctrl": -self._ctrl_cost,
            "reward_impact": -self._impact_cost,
        }

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)
