"""How good a policy is, by stable-baselines3's own measure on any environment; and loading whatever a file holds."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any

from .agent import Agent
from .dataset import d4rl_score
from .env import Env
from .files import load_state, with_zip
from .model_file import restore
from .normalize import Normalize
from .registry import agent_class
from .sb3_zip import algorithm, is_sb3
from .segments import beside

__all__ = ["evaluate_policy", "load", "normalized_score"]

_MOST_ENVS = 16


def evaluate_policy(
    model: Any,
    env: Any,
    n_eval_episodes: int = 10,
    deterministic: bool = True,
    render: bool = False,
    callback: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    reward_threshold: float | None = None,
    return_episode_rewards: bool = False,
    warn: bool = True,
    *,
    num_envs: int | None = None,
    seed: int | None = None,
    env_kwargs: dict[str, Any] | None = None,
) -> tuple[float, float] | tuple[list[float], list[int]]:
    """Mean and standard deviation of the undiscounted return over episodes, or their returns and lengths.

    It is stable-baselines3's function of this name, with its fixed quota of episodes per world (so that short episodes
    are not favoured). A model that normalises observations does so in ``predict``: the environment is the bare one, and
    rewards are in its own units.

    Args:
        model: anything with stable-baselines3's ``predict``.
        env: an environment id, a ``gymnasium.Env``, a ``VectorEnv``, a ``VecEnv``, or an Env of polopt's.
        n_eval_episodes: episodes over all worlds.
        deterministic: the mode of the policy instead of samples.
        callback: called with ``locals(), globals()`` after each step of each world.
        reward_threshold: assert that the mean return exceeds it.
        return_episode_rewards: return lists of returns and lengths [steps].
        warn: warn of an environment without a ``Monitor``.
        num_envs: worlds to make of an id; by default one an episode, at most 16.
        seed: world ``i`` starts from ``seed + i``; sampled actions are drawn from it too.
        env_kwargs: the environment's arguments, of an id.

    Raises:
        ValueError: a number below 1; ``num_envs`` or ``env_kwargs`` with something that is made already; an unknown id.
    """
    from stable_baselines3.common.evaluation import evaluate_policy as evaluate

    if isinstance(n_eval_episodes, bool) or not isinstance(n_eval_episodes, Integral) or n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes={n_eval_episodes!r} must be a whole number of at least 1")
    made_here = isinstance(env, str)
    if not made_here and (num_envs is not None or env_kwargs):
        raise ValueError("num_envs and env_kwargs are for an environment id: what is given is made already")
    face, ours = _face(env, min(n_eval_episodes, _MOST_ENVS) if num_envs is None else num_envs, env_kwargs or {})
    if seed is not None:
        face.seed(seed)
        if (dice := getattr(model, "_dice", None)) is not None:
            dice.manual_seed(seed)
    if ours and getattr(model, "get_vec_normalize_env", lambda: None)() is not None:
        warnings.warn(
            "the model was trained under a VecNormalize and is evaluated without it, on observations that it has not learned: "
            "pass its VecNormalize (training=False, norm_reward=False) as env, or train with normalize_obs=True",
            stacklevel=2,
        )
    try:
        return evaluate(
            model, face, n_eval_episodes, deterministic, render, callback, reward_threshold, return_episode_rewards,
            warn and not ours,
        )  # fmt: skip
    finally:
        if made_here:
            face.close()


def _face(env: Any, num_envs: int, env_kwargs: dict[str, Any]) -> tuple[Any, bool]:
    """What stable-baselines3 steps, and whether it is our own face, whose rewards are the environment's."""
    import gymnasium
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    from .envs import as_env, make_env, to_sb3

    if isinstance(env, str):
        return to_sb3(make_env(env, num_envs=num_envs, **env_kwargs)), True
    if isinstance(env, gymnasium.vector.VectorEnv):
        env = as_env(env)
    if isinstance(env, Normalize):
        env = env.env
    if isinstance(env, Env):
        return to_sb3(env), True
    if isinstance(env, gymnasium.Env):
        return DummyVecEnv([lambda: env]), False
    if isinstance(env, VecEnv):
        return env, False
    return to_sb3(as_env(env)), True


def normalized_score(env_id: str, returns: Any) -> Any:
    """D4RL's score of undiscounted returns (:func:`polopt.dataset.d4rl_score`): a number, or an array like the returns.

    The constants are of D4RL's v2 tasks and stand for every version of the same task (``Hopper-v5``, ``hopper-medium-v2``);
    elsewhere the score is only roughly D4RL's. Fu et al., 2020, arXiv 2004.07219.

    Raises:
        ValueError: no constants are known for the task; names those that are.
    """
    from .envs.scores import SCORES, reference

    known = reference(env_id)
    if known is None:
        raise ValueError(f"env_id={env_id!r} has no reference returns; there are some for {', '.join(SCORES)}")
    return d4rl_score(returns, known)


def load(
    path: str | os.PathLike[str],
    env: Any = None,
    device: Any = "auto",
    custom_objects: dict[str, Any] | None = None,
    force_reset: bool = True,
    **kwargs: Any,
) -> Agent:
    """The model in a file, whichever algorithm's it is, stable-baselines3's too; of a run directory its ``model.zip``, or
    its last checkpoint. The rows of a checkpoint's replay are read where there is an environment to learn in: now, or by
    ``set_env``.

    Args:
        env, device, custom_objects, force_reset, kwargs: as for an algorithm's own ``load``.

    Raises:
        FileNotFoundError: there is no such file, or no run in the directory.
        FileError: it is damaged, of another version, or neither library's.
    """
    file = model_file(path)
    if is_sb3(file):
        return agent_class(algorithm(file)).load(file, env, device, custom_objects, force_reset=force_reset, **kwargs)
    state = load_state(file, "model", beside(file))
    cls = agent_class(state["algorithm"])
    return restore(cls, state, file, env, device, cls._changes(custom_objects, kwargs), force_reset)


def model_file(path: str | os.PathLike[str]) -> Path:
    """The file that :func:`load` reads."""
    path = Path(path)
    if not path.is_dir():
        return Path(with_zip(path))
    if (path / "model.zip").exists():
        return path / "model.zip"
    if not (found := checkpoints(path)):
        raise FileNotFoundError(f"{path} holds neither model.zip nor checkpoints")
    for file in reversed(found):
        if zipfile.is_zipfile(file):
            return file
        warnings.warn(f"{file} is damaged; taking the checkpoint before it", stacklevel=3)
    return found[-1]


def trained_on(path: str | os.PathLike[str]) -> str | None:
    """The id from which the worlds that the model of :func:`load` was trained on were made; None where its file does not
    say: it was given an object (whose wrappers and arguments no id tells), or the file is stable-baselines3's.

    Raises:
        FileNotFoundError, FileError: as :func:`load`.
    """
    file = model_file(path)
    return None if is_sb3(file) else load_state(file, "model")["env_id"]


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first; a copy by another name is none."""
    steps = {p: p.stem.removeprefix("step_") for p in (folder / "checkpoints").glob("step_*.zip")}
    return sorted((p for p, step in steps.items() if step.isdecimal()), key=lambda p: int(steps[p]))
