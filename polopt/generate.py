"""Datasets of our own: what a trainer's policies and its replay hold at three stages of its training.

After D4RL (Fu et al., 2020, arXiv 2004.07219), in the environment of today: *random* is the untrained policy, *expert* the
final one, *medium* the one that had reached a third of the way from the first's return to the last's, and *medium-replay*
all that was seen on the way there. Policies act by sampling; deterministic ones (TD3's, DDPG's) by their mode, and the
trainer's ``action_noise`` where it has one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .dataset import Collector, Dataset
from .evaluate import evaluate_policy
from .off_policy import OffPolicy
from .registry import agent_class
from .rollout import rollout

__all__ = ["KINDS", "generate", "generate_all"]

KINDS = ("random", "medium", "medium-replay", "expert")
SHARE = 1 / 3
"""How far medium has come."""


def generate(env: str, kind: str, steps: int, seed: int = 0, **kwargs: Any) -> Dataset:
    """Record a dataset of one kind: :func:`generate_all` of it alone."""
    return generate_all(env, [kind], steps, seed, **kwargs)[kind]


def generate_all(
    env: str,
    kinds: Sequence[str],
    steps: int,
    seed: int = 0,
    *,
    algorithm: str = "SAC",
    train_steps: int = 1_000_000,
    medium_return: float | None = None,
    evaluations: int = 20,
    episodes: int = 5,
    progress_bar: bool = False,
    env_kwargs: dict[str, Any] | None = None,
    **hyperparameters: Any,
) -> dict[str, Dataset]:
    """Record a dataset of each kind, from one training.

    The trainer runs ``train_steps`` steps in one world and is evaluated every ``train_steps / evaluations`` of them, its
    policy is kept each time. Its final policy stands for the expert: with a small budget it is not one, and medium is a third
    of the way to wherever training came.

    Args:
        env: environment id.
        kinds: of ``random``, ``medium``, ``medium-replay``, ``expert``.
        steps: rows to record; of medium-replay at most so many, the latest.
        algorithm: an off-policy method.
        medium_return: medium is the first evaluation at or above this return; where no expert is asked for, training stops
            there instead of going on to see what a third of the way is.
        episodes: of an evaluation, with the policy's mode.
        hyperparameters: the trainer's.

    Raises:
        ValueError: an unknown kind or environment, an on-policy method, or steps below 1.
        DatasetError: observations or actions are not a Box.
    """
    from .envs import make_env

    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    for name, value in dict(steps=steps, train_steps=train_steps, evaluations=evaluations, episodes=episodes).items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number, at least 1")
    env_kwargs = env_kwargs or {}
    if not issubclass(agent_class(algorithm), OffPolicy):
        raise ValueError(
            f"algorithm={algorithm!r} must be an off-policy method, whose replay is medium-replay; SAC is one"
        )
    world = Collector(make_env(env, num_envs=1, seed=seed, **env_kwargs))
    model = agent_class(algorithm)("MlpPolicy", world, seed=seed, **hyperparameters)
    made: dict[str, Dataset] = {}

    def play(kind: str, parameters: Stage, said: str = "") -> Dataset:
        networks, moments = parameters
        model.set_parameters(networks, exact_match=False)
        if moments is not None:
            model.normalizer.load_statistics(moments)
        fresh = Collector(make_env(env, num_envs=1, seed=seed + 20_000, **env_kwargs))
        return _play(model, fresh, steps, f"{env} {kind}, seed {seed}{said}", progress_bar)

    def measure() -> float:
        return float(evaluate_policy(model, env, episodes, seed=seed + 10_000, env_kwargs=env_kwargs)[0])

    untrained = _policy(model)
    if set(kinds) - {"random"}:
        stages = [(0, measure(), untrained)]
        every = max(train_steps // evaluations, 1)

        def keep(model: Any) -> bool:
            """A stage where one is due; whether training goes on."""
            if model.in_rollout or model.num_timesteps < min(stages[-1][0] + every, train_steps):
                return True
            stages.append((model.num_timesteps, measure(), _policy(model)))
            return medium_return is None or "expert" in kinds or stages[-1][1] < medium_return

        model._commit = keep  # one training: schedules are of all its steps
        model.learn(train_steps, log_interval=None, progress_bar=progress_bar)
        model._commit = None
        goal = medium_return
        best = max(s[1] for s in stages[1:])
        if medium_return is not None and best < medium_return:
            warnings.warn(
                f"medium_return={medium_return} was never reached, {best:.0f} was the best of {train_steps} steps: medium is a "
                "third of the way instead",
                stacklevel=2,
            )
            goal = None
        if goal is None:
            goal = stages[0][1] + SHARE * (stages[-1][1] - stages[0][1])
        at, reached, parameters = next(s for s in stages[1:] if s[1] >= goal or s is stages[-1])
        said = f" (return {reached:.0f} after {at} steps)"
        if "medium-replay" in kinds:
            made["medium-replay"] = world.dataset(f"{env} medium-replay, seed {seed}{said}", at)[-steps:]
        if "medium" in kinds:
            made["medium"] = play("medium", parameters, said)
        if "expert" in kinds:
            made["expert"] = play("expert", stages[-1][2], f" (return {stages[-1][1]:.0f} after {stages[-1][0]} steps)")
    if "random" in kinds:
        made["random"] = play("random", untrained)
    own = {
        k: v for k, v in env_kwargs.items() if k not in ("backend", "device", "dtype", "threads", "render_mode")
    }  # the world's, not make_env's
    return {kind: replace(data, env_kwargs=own) for kind, data in made.items()}


Stage = tuple[dict[str, Any], dict[str, Any] | None]
"""The policy's parameters, and the moments by which it saw observations then."""


def _policy(model: Any) -> Stage:
    """A copy of the policy as it is."""
    parameters = {"policy": {name: x.clone() for name, x in model.policy.state_dict().items()}}
    return parameters, None if model.normalizer is None else copy.deepcopy(model.normalizer.statistics())


def _play(model: Any, world: Collector, steps: int, name: str, progress_bar: bool) -> Dataset:
    """Rows of the policy as it is."""
    from tqdm.auto import tqdm

    model.learning_starts = 0  # or its first actions would be uniform
    obs = world.reset_host() if world.host else world.reset()  # by the seed it was made with
    with tqdm(total=steps, unit=" steps", unit_scale=True, disable=not progress_bar) as bar:
        while len(world) < steps:
            batch, obs = rollout(world, model, obs, min(1000, steps - len(world)))
            bar.update(len(batch))
    return world.dataset(name)
