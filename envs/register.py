"""Make the built-in worlds known to Gymnasium as ``polopt/...``.

``gymnasium.make_vec("polopt/HalfCheetah-v5", num_envs=64)`` gives the native batch behind Gymnasium's vector face and
``gymnasium.make("polopt/HalfCheetah-v5")`` an ordinary single environment, once polopt is imported or named:
``"polopt.envs:polopt/HalfCheetah-v5"``. Gymnasium 1.0 gave up plugins that load by themselves; ``import polopt`` has this
done as soon as Gymnasium is loaded.
"""

from __future__ import annotations

from .table import TABLE

__all__ = ["register"]


def register() -> None:
    """Register every row of the table with Gymnasium under the namespace ``polopt``; again is harmless."""
    import gymnasium

    for id, world in TABLE.items():
        name = f"polopt/{id.removeprefix('polopt/')}"
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="polopt.envs.vector_face:make_single",
                vector_entry_point="polopt.envs.vector_face:make_vector",
                max_episode_steps=world.max_episode_steps,
                reward_threshold=world.reward_threshold,
                kwargs={"world": id},
            )
