"""The table of the worlds built in: which id stands for which class. Loads nothing."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["TABLE", "World", "find", "list_envs"]


class World(NamedTuple):
    """A row of the table."""

    kind: str
    """``"native"``: MuJoCo tasks stepped in batches on the CPU. ``"torch"``: equations over arrays, on any device."""
    target: str
    """``"module:class"``."""
    max_episode_steps: int
    """The time limit Gymnasium registers for it [steps]."""
    reward_threshold: float | None = None
    """The mean return from which Gymnasium calls it solved."""


def _mujoco(name: str, steps: int = 1000, threshold: float | None = None) -> World:
    return World("native", f"polopt.envs.mujoco:{name}", steps, threshold)


def _classic(name: str, steps: int, threshold: float | None = None) -> World:
    return World("torch", f"polopt.envs.classic:{name}", steps, threshold)


TABLE: dict[str, World] = {
    "Ant-v5": _mujoco("Ant", threshold=6000.0),
    "HalfCheetah-v5": _mujoco("HalfCheetah", threshold=4800.0),
    "Hopper-v5": _mujoco("Hopper", threshold=3800.0),
    "Humanoid-v5": _mujoco("Humanoid"),
    "HumanoidStandup-v5": _mujoco("HumanoidStandup"),
    "InvertedDoublePendulum-v5": _mujoco("InvertedDoublePendulum", threshold=9100.0),
    "InvertedPendulum-v5": _mujoco("InvertedPendulum", threshold=950.0),
    "Pusher-v5": _mujoco("Pusher", 100, 0.0),
    "Reacher-v5": _mujoco("Reacher", 50, -3.75),
    "Swimmer-v5": _mujoco("Swimmer", threshold=360.0),
    "Walker2d-v5": _mujoco("Walker2d"),
    "Acrobot-v1": _classic("Acrobot", 500, -100.0),
    "CartPole-v1": _classic("CartPole", 500, 475.0),
    "MountainCar-v0": _classic("MountainCar", 200, -110.0),
    "MountainCarContinuous-v0": _classic("MountainCarContinuous", 999, 90.0),
    "Pendulum-v1": _classic("Pendulum", 200),
    "polopt/CartPoleSwingUp-v0": _classic("CartPoleSwingUp", 500),
    "polopt/DoubleIntegrator-v0": _classic("DoubleIntegrator", 200),
    "polopt/FourPeaks-v0": _classic("FourPeaks", 1),
    "polopt/LQR-v0": _classic("LQR", 200),
}
"""Every id built in. Those without a namespace give what Gymnasium's environment of that id gives."""


def find(id: str) -> tuple[str, World] | None:
    """The row of an id, with the id as the table spells it; ``polopt/HalfCheetah-v5`` finds ``HalfCheetah-v5``."""
    for name in (id, id.removeprefix("polopt/")):
        if name in TABLE:
            return name, TABLE[name]
    return None


def list_envs() -> list[str]:
    """The ids built in, sorted. Every id registered with Gymnasium works as well."""
    return sorted(TABLE)
