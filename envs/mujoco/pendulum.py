"""Poles on a cart: InvertedPendulum and InvertedDoublePendulum."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np
import torch

from .base import MujocoEnv, Options

__all__ = ["InvertedDoublePendulum", "InvertedPendulum"]


class InvertedPendulum(MujocoEnv):
    """``InvertedPendulum-v5``: balance a pole on a cart; 1 per step until it leans by more than 0.2 rad."""

    id = "InvertedPendulum-v5"
    max_episode_steps = 1000
    camera_config: ClassVar = {"trackbodyid": 0, "distance": 2.04}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "inverted_pendulum.xml",
        frame_skip: int = 2,
        reset_noise_scale: float = 0.01,
        **options: Unpack[Options],
    ) -> None:
        self.reset_noise_scale = reset_noise_scale
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, **options)

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + rng.uniform(-noise, noise, self.model.nv)

    def _observe(self) -> np.ndarray:
        return self.joints.astype(self._float)

    def _evaluate(self, action: np.ndarray, before: None) -> tuple[np.ndarray, np.ndarray]:
        upright = np.isfinite(self.joints).all(-1) & (np.abs(self.qpos[:, 1]) <= 0.2)
        self._survive = upright.astype(np.float64)
        return self._survive, ~upright

    def _step_info(self) -> dict[str, Any]:
        return {"reward_survive": self._survive}

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return (~self.terminated(obs, action, next_obs)).to(next_obs.dtype)

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return ~(next_obs.isfinite().all(-1) & (next_obs[..., 1].abs() <= 0.2))


class InvertedDoublePendulum(MujocoEnv):
    """``InvertedDoublePendulum-v5``: balance two linked poles on a cart until their tip falls to a height of 1 m.

    ``terminated`` of given transitions computes the tip from the observed angles. The environment reads it, as
    Gymnasium does, where the last evaluation of the dynamics left it, so the two can differ in the one transition in
    which the tip crosses that height.
    """

    id = "InvertedDoublePendulum-v5"
    max_episode_steps = 1000
    camera_config: ClassVar = {"trackbodyid": 0, "distance": 4.1225, "lookat": (0.0, 0.0, 0.12250000000000005)}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "inverted_double_pendulum.xml",
        frame_skip: int = 5,
        healthy_reward: float = 10.0,
        reset_noise_scale: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        self.healthy_reward = healthy_reward
        self.reset_noise_scale = reset_noise_scale
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, **options)

    def _prepare(self) -> None:
        self._tip = self._bind("site_xpos")[:, 0]
        self._constraint_force = self._bind("qfrc_constraint")

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.reset_noise_scale
        qpos = self.init_qpos + rng.uniform(-noise, noise, self.model.nq)
        return qpos, self.init_qvel + rng.standard_normal(self.model.nv) * noise

    def _observe(self) -> np.ndarray:
        angles = self.qpos[:, 1:]
        parts = (
            self.qpos[:, :1],
            np.sin(angles),
            np.cos(angles),
            np.clip(self.qvel, -10, 10),
            np.clip(self._constraint_force[:, :1], -10, 10),
        )
        return np.concatenate(parts, axis=1, dtype=self._float)

    def _evaluate(self, action: np.ndarray, before: None) -> tuple[np.ndarray, np.ndarray]:
        x, y = self._tip[:, 0], self._tip[:, 2]
        v1, v2 = self.qvel[:, 1], self.qvel[:, 2]
        fallen = y <= 1
        self._survive = self.healthy_reward * ~fallen
        self._distance_penalty = 0.01 * x**2 + (y - 2) ** 2
        self._velocity_penalty = 1e-3 * v1**2 + 5e-3 * v2**2
        return self._survive - self._distance_penalty - self._velocity_penalty, fallen

    def _step_info(self) -> dict[str, Any]:
        return {
            "reward_survive": self._survive,
            "distance_penalty": -self._distance_penalty,
            "velocity_penalty": -self._velocity_penalty,
        }

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        (sin1, sin2), (cos1, cos2) = next_obs[..., 1:3].unbind(-1), next_obs[..., 3:5].unbind(-1)
        first, second = self.model.body_pos[-1, 2], self.model.site_pos[0, 2]
        height = self.model.body_pos[1, 2] + first * cos1 + second * (cos1 * cos2 - sin1 * sin2)
        return height <= 1
