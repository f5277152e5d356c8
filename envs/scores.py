"""Reference returns: what D4RL (Fu et al., 2020, arXiv 2004.07219) calls 0 and 100 of a task. Loads nothing.

The constants were measured in D4RL's v2 worlds. Here they stand for every version of the task; Gymnasium's v4 and v5 have
other contact forces, healthy rewards and control costs, so a score of theirs is only roughly D4RL's.
"""

from __future__ import annotations

import re

__all__ = ["SCORES", "reference"]

SCORES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "door": (-56.512833, 2880.5693087298737),
    "relocate": (-6.425911, 4233.877797728884),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
}
"""Task -> (return of a random policy, return of an expert)."""


_KIND = re.compile(
    "random|medium|expert|replay|full|simple|human|cloned|demos|clipped|bc|combined|sparse|mixed|complete|partial|"
    "u|umaze|maze|big|hardest|large|play|diverse|noisy|multistart|multigoal|true|false|fixed|g|r|gr|"
    "microwave|kettle|bottomburner|light|slider"
)
"""The words by which D4RL's files, and Minari's of its tasks, go on after the task."""


def reference(env_id: str) -> tuple[float, float] | None:
    """Of ``Hopper-v5``, ``polopt/Hopper-v5`` or ``hopper-medium-v2``: that of hopper; of ``AntMaze_UMaze-v5`` and of D4RL's file
    ``Ant_maze_u-maze_...``: that of antmaze. None of a task that is not there, or of another namespace."""
    task = env_id.lower().removeprefix("polopt/").replace("_", "-")
    task = re.sub(r"-v\d+(?=-|$)", "", task).replace("ant-maze", "antmaze").replace("mini-kitchen", "kitchen")
    while task not in SCORES:
        task, _, kind = task.rpartition("-")
        if not _KIND.fullmatch(kind):
            return None
    return SCORES[task]
