"""Arms that reach for something: Reacher and Pusher."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import mujoco
import numpy as np
import torch

from .base import MujocoEnv, Options, length

__all__ = ["Pusher", "Reacher"]


class _Arm(MujocoEnv):
    """Never terminates; reads the places of bodies."""

    def _body(self, name: str) -> int:
        body = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name)
        if body == -1:
            raise ValueError(f"{self.id}: the model has no body named {name!r}, which the task needs")
        return body

    def _prepare(self) -> None:
        self._place = self._bind("xpos")

    def _step_info(self) -> dict[str, Any]:
        return self._terms

    def terminated(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)


class Reacher(_Arm):
    """``Reacher-v5``: bring a two-joint arm's fingertip to a random target."""

    id = "Reacher-v5"
    max_episode_steps = 50
    camera_config: ClassVar = {"trackbodyid": 0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "reacher.xml",
        frame_skip: int = 2,
        reward_dist_weight: float = 1,
        reward_control_weight: float = 1,
        **options: Unpack[Options],
    ) -> None:
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, **options)

    def _prepare(self) -> None:
        super()._prepare()
        self._fingertip, self._target = self._body("fingertip"), self._body("target")

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        qpos = rng.uniform(-0.1, 0.1, self.model.nq) + self.init_qpos
        goal = rng.uniform(-0.2, 0.2, 2)
        while np.linalg.norm(goal) >= 0.2:
            goal = rng.uniform(-0.2, 0.2, 2)
        qpos[-2:] = goal
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def _observe(self) -> np.ndarray:
        angles = self.qpos[:, :2]
        gap = self._place[:, self._fingertip, :2] - self._place[:, self._target, :2]
        parts = (np.cos(angles), np.sin(angles), self.qpos[:, 2:], self.qvel[:, :2], gap)
        return np.concatenate(parts, axis=1, dtype=self._float)

    def _evaluate(self, action: np.ndarray, before: None) -> tuple[np.ndarray, np.ndarray]:
        gap = self._place[:, self._fingertip] - self._place[:, self._target]
        reward_dist = -length(gap) * self.reward_dist_weight
        reward_ctrl = -np.square(action).sum(-1) * self.reward_control_weight
        self._terms = {"reward_dist": reward_dist, "reward_ctrl": reward_ctrl}
        return reward_dist + reward_ctrl, np.zeros(self.num_envs, bool)

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        distance = torch.linalg.vector_norm(next_obs[..., -2:], dim=-1)
        return -distance * self.reward_dist_weight - action.square().sum(-1) * self.reward_control_weight


class Pusher(_Arm):
    """``Pusher-v5``: push an object at a random place to a fixed goal with a seven-joint arm."""

    id = "Pusher-v5"
    max_episode_steps = 100
    camera_config: ClassVar = {"trackbodyid": -1, "distance": 4.0}

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str = "pusher_v5.xml",
        frame_skip: int = 5,
        reward_near_weight: float = 0.5,
        reward_dist_weight: float = 1,
        reward_control_weight: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        self.reward_near_weight = reward_near_weight
        self.reward_dist_weight = reward_dist_weight
        self.reward_control_weight = reward_control_weight
        super().__init__(num_envs, xml_file=xml_file, frame_skip=frame_skip, **options)

    def _prepare(self) -> None:
        super()._prepare()
        self._bodies = [self._body(name) for name in ("tips_arm", "object", "goal")]

    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        place = np.zeros(2)
        while np.linalg.norm(place) <= 0.17:
            place = np.array([rng.uniform(-0.3, 0), rng.uniform(-0.2, 0.2)])
        qpos = np.concatenate((self.init_qpos[:-4], place, (0.0, 0.0)))
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def _observe(self) -> np.ndarray:
        places = self._place[:, self._bodies].reshape(self.num_envs, 9)
        return np.concatenate((self.qpos[:, :7], self.qvel[:, :7], places), axis=1, dtype=self._float)

    def _evaluate(self, action: np.ndarray, before: None) -> tuple[np.ndarray, np.ndarray]:
        tips, thing, goal = self._place[:, self._bodies].swapaxes(0, 1)
        reward_near = -length(thing - tips) * self.reward_near_weight
        reward_dist = -length(thing - goal) * self.reward_dist_weight
        reward_ctrl = -np.square(action).sum(-1) * self.reward_control_weight
        self._terms = {"reward_dist": reward_dist, "reward_ctrl": reward_ctrl, "reward_near": reward_near}
        return reward_dist + reward_ctrl + reward_near, np.zeros(self.num_envs, bool)

    def reward(self, obs: torch.Tensor, action: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
        tips, thing, goal = next_obs[..., 14:].unflatten(-1, (3, 3)).unbind(-2)
        near = torch.linalg.vector_norm(thing - tips, dim=-1) * self.reward_near_weight
        dist = torch.linalg.vector_norm(thing - goal, dim=-1) * self.reward_dist_weight
        return -dist - action.square().sum(-1) * self.reward_control_weight - near
