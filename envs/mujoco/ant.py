"""Ant: a four-legged runner in three dimensions."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import mujoco
import numpy as np
import torch

from .base import MujocoEnv, Options, length

__all__ = ["Ant"]


class Ant(MujocoEnv):
    """``Ant-v5``: run forward on four legs without falling or jumping too high."""

    id = "Ant-v5"
    max_episode_steps = 1000
    camera_config: ClassVar = {"distance": 4.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "ant.xml",
        frame_skip: int = 5,
        forward_reward_weight: float = 1,
        ctrl_cost_weight: float = 0.5,
        contact_cost_weight: float = 5e-4,
        healthy_reward: float = 1.0,
        main_body: int | str = 1,
        terminate_when_unhealthy: bool = True,
        healthy_z_range: tuple[float, float] = (0.2, 1.0),
        contact_force_range: tuple[float, float] = (-1.0, 1.0),
        reset_noise_scale: float = 0.1,
        exclude_current_positions_from_observation: bool = True,
        include_cfrc_ext_in_observation: bool = True,
        **options: Unpack[Options],
    ) -> None:
        self.forward_reward_weight = forward_reward_weight
        self.ctrl_cost_weight = ctrl_cost_weight
        self.contact_cost_weight = contact_cost_weight
        self.healthy_reward = healthy_reward
        self.main_body = main_body
        self.terminate_when_unhealthy = terminate_when_unhealthy
        self.healthy_z_range = healthy_z_range
        self.contact_force_range = contact_force_range
        self.reset_noise_scale = reset_noise_scale
        self.exclude_current_positions_from_observation = exclude_current_positions_from_observation
        self.include_cfrc_ext_in_observation = include_cfrc_ext_in_observation
        self._hidden = 2 if exclude_current_positions_from_observation else 0
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, contact_forces=True, **options)

    def _prepare(self) -> None:
        body = self.main_body
        if isinstance(body, str):
            body = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, body)
        if not 0 <= body < self.model.nbody:
            raise ValueError(f"main_body={self.main_body!r}: the model has no such body")
        self._place = self._bind("xpos")[:, body, :2]
        self._seen = self.joints[:, self._hidden :]
        self._forces = self.cfrc_ext.reshape(self.num_envs, -1)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + noise * rng.standard_normal(self.model.nv)

    def _restart(self, worlds: np.ndarray) -> None:
        super()._restart(worlds)
        self._clip_forces()

    def _advance(self) -> None:
        super()._advance()
        self._clip_forces()

    def _clip_forces(self) -> None:
        low, high = self.contact_force_range
        np.maximum(self._forces, low, out=self._forces)
        np.minimum(self._forces, high, out=self._forces)

    def _observe(self) -> np.ndarray:
        if not self.include_cfrc_ext_in_observation:
            return self._seen.astype(self._float)
        return np.concatenate((self._seen, self._forces[:, 6:]), axis=1, dtype=self._float)

    def _locate(self) -> np.ndarray:
        return self._place.copy()

    def _evaluate(self, action: np.ndarray, before: np.ndarray) -> tuple[Any, Any]:
        low, high = self.healthy_z_range
        z, finite = self._each(self.qpos[:, 2]), self._each(np.isfinite(self.joints).all(-1))
        healthy = (low <= z) & (z <= high) & finite
        self._velocity = (self._place - before) / self.dt
        self._progress = self._each(self._velocity[:, 0]) * self.forward_reward_weight
        self._survive = healthy * self.healthy_reward
        self._ctrl_cost = self._cost(self.ctrl_cost_weight, action)
        self._contact_cost = self._cost(self.contact_cost_weight, self._forces)
        terminated = (healthy ^ True) & self.terminate_when_unhealthy
        return self._progress + self._survive - (self._ctrl_cost + self._contact_cost), terminated

    def _reset_info(self) -> dict[str, Any]:
        return {
            "x_position": self.qpos[:, 0],
            "y_position": self.qpos[:, 1],
            "distance_from_origin": length(self.qpos[:, :2]),
        }

    def _step_info(self) -> dict[str, Any]:
        return {
            **self._reset_info(),
            "x_velocity": self._velocity[:, 0],
            "y_velocity": self._velocity[:, 1],
            "reward_forward": self._progress,
            "reward_ctrl": -self._ctrl_cost,
            "reward_contact": -self._contact_cost,
            "reward_survive": self._survive,
        }

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        if not self.terminate_when_unhealthy:
            return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)
        low, high = self.healthy_z_range
        joints = next_obs[..., : self._seen.shape[1]]
        z = joints[..., 2 - self._hidden]
        return ~(joints.isfinite().all(-1) & (low <= z) & (z <= high))
