"""The one training loop: roll out, update, log. On recorded data nothing is rolled out."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from .agent import Agent
from .batch import tree_map
from .config import whole_number
from .env import Step
from .errors import NonFiniteError
from .rollout import rollout

__all__ = ["learn", "learn_offline", "threads_for"]

SMALL = 300_000
"""Below this many parameters one thread is fastest on a CPU: a thread's wake-up costs more than it computes."""


def threads_for(agent: Agent) -> int:
    """torch's CPU threads while this agent learns."""
    return agent.config.threads or (1 if agent.parameter_count < SMALL else torch.get_num_threads())


def learn(
    agent: Agent,
    total_timesteps: int,
    callback: Any,
    log_interval: int | None,
    tb_log_name: str,
    reset_num_timesteps: bool,
    progress_bar: bool,
) -> None:
    """See :meth:`polopt.agent.Agent.learn`."""
    check(agent, total_timesteps, log_interval)
    if reset_num_timesteps or agent._last_obs is None or agent._resets != agent.env.unwrapped.resets:
        _reset(agent)
    if agent.normalizer is not None and (agent.config.normalize_obs or agent.config.normalize_reward):
        agent.normalizer.training = True  # one of the user's own is as the user left it
    _learn(
        agent, _Rollouts, int(total_timesteps), callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
    )


def check(agent: Agent, total_timesteps: int, log_interval: int | None) -> None:
    """Raise where :func:`learn` could not begin."""
    if agent.env is None:
        raise ValueError("this model has no environment: pass env at construction or load, or call set_env")
    whole_number("total_timesteps", total_timesteps)
    if log_interval is not None:
        whole_number("log_interval", log_interval, 1)


def _reset(agent: Agent) -> None:
    """Begin all worlds anew; with the seed, where they have not begun since it was set. Worlds that the user made keep the
    user's seed where the model was given none."""
    asked = agent._given_seed is not None or agent._made_worlds
    env, seed = agent.env, agent.seed if asked and not agent._seeded else None
    agent._last_obs = tree_map(np.copy, env.reset_host(seed)) if env.host else env.reset(seed)
    agent._seeded, agent._resets = True, env.unwrapped.resets
    agent.worlds_reset()


def learn_offline(
    agent: Agent,
    gradient_steps: int,
    callback: Any,
    log_interval: int | None,
    tb_log_name: str,
    reset_num_timesteps: bool,
    progress_bar: bool,
) -> None:
    """See :meth:`polopt.off_policy.OffPolicy.learn_offline`: the loop with a full memory and a horizon of 0."""
    _learn(
        agent, _GradientSteps, gradient_steps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
    )


def _learn(
    agent: Agent,
    kind: type[_Rollouts] | type[_GradientSteps],
    total_timesteps: int,
    callback: Any,
    log_interval: int | None,
    tb_log_name: str,
    reset_num_timesteps: bool,
    progress_bar: bool,
) -> None:
    if reset_num_timesteps:
        agent.num_timesteps = agent._iterations = agent._episodes = 0
        agent.ep_info_buffer.clear()
        agent.ep_success_buffer.clear()
        agent._metrics = {}
    else:
        total_timesteps += agent.num_timesteps
    agent._total_timesteps = total_timesteps
    agent._num_timesteps_at_start = agent.num_timesteps
    if not agent._custom_logger:
        from stable_baselines3.common.utils import configure_logger

        agent._logger = configure_logger(agent.verbose, agent.tensorboard_log, tb_log_name, reset_num_timesteps)
    callbacks = _Callbacks(agent, callback)
    scope = dict(
        self=agent, total_timesteps=total_timesteps, tb_log_name=tb_log_name, log_interval=log_interval,
        reset_num_timesteps=reset_num_timesteps, callback=callbacks.callback, env=None,
    )  # fmt: skip
    threads = torch.get_num_threads()
    bar = _bar(total_timesteps, agent.num_timesteps) if progress_bar else None
    try:
        if agent.device.type == "cpu":
            torch.set_num_threads(threads_for(agent))
        callbacks.start(scope)
        _iterate(agent, kind(agent, callbacks), total_timesteps, callbacks, log_interval, bar)
        callbacks.end()
        agent._metrics = {}
    finally:
        torch.set_num_threads(threads)
        if bar is not None:
            bar.close()


class _Rollouts:
    """An iteration in the environment: a rollout, and the update from it."""

    def __init__(self, agent: Agent, callbacks: _Callbacks) -> None:
        self.agent, self.callbacks, self.unit = agent, callbacks, agent.log_every
        self.started, self.first, self.begins = time.perf_counter(), agent.num_timesteps, True

    @property
    def ticks(self) -> int:
        """How many of its ``unit`` there were: what ``log_interval`` counts."""
        return self.agent._log_ticks()

    @property
    def unfinished(self) -> bool:
        """Whether a rollout goes on in the next iteration: ``learn`` does not end inside one."""
        return self.agent.in_rollout

    def __call__(self) -> dict[str, torch.Tensor] | None:
        """Metrics; None where a callback stopped it."""
        agent, env = self.agent, self.agent.env
        if self.begins or not agent.in_rollout:
            self.callbacks.rollout_start()
        self.begins, before = False, agent.num_timesteps
        try:
            batch, agent._last_obs = rollout(env, agent, agent._last_obs, agent.horizon, self.callbacks.on_step)
        except BaseException:
            agent._last_obs = None  # the worlds have moved on from it
            raise
        agent.num_timesteps = before + batch.transitions
        agent._record_episodes(env.pop_episodes())
        if self.callbacks.stopped:
            agent.abandon(batch)
            return None
        if agent.completes_rollout(batch):
            self.callbacks.rollout_end()
        return agent.update(batch)


class _GradientSteps:
    """An iteration on recorded data: one gradient step."""

    unit, unfinished = "iterations", False

    def __init__(self, agent: Any, callbacks: _Callbacks) -> None:
        self.agent, self.callbacks = agent, callbacks
        self.started, self.first = time.perf_counter(), agent.num_timesteps

    @property
    def ticks(self) -> int:
        return self.agent._iterations

    def __call__(self) -> dict[str, torch.Tensor] | None:
        metrics = self.agent.train_steps(1)
        self.agent.num_timesteps += 1
        self.callbacks.gradient_step()
        return None if self.callbacks.stopped else metrics


def _iterate(agent: Agent, turn: Any, total: int, callbacks: _Callbacks, log_interval: int | None, bar: Any) -> None:
    agent._turn, ticks = turn, turn.ticks
    while agent.num_timesteps < total or turn.unfinished:
        agent._set_schedules(max(1.0 - agent.num_timesteps / total, 0.0))
        before = agent.num_timesteps
        fresh = turn()
        if bar is not None:
            if agent.ep_info_buffer:
                bar.set_postfix_str(f"return {np.mean([e['r'] for e in agent.ep_info_buffer]):.0f}", refresh=False)
            bar.update(agent.num_timesteps - before)
        if fresh is None:
            break
        agent._metrics |= fresh
        agent._iterations += 1
        ticks, last = turn.ticks, ticks
        if log_interval is not None and ticks // log_interval > last // log_interval:
            dump(agent, due=True)
        if agent._commit is not None and not agent._commit(agent):
            break
    unwritten(agent)


def unwritten(agent: Agent) -> dict[str, float]:
    """The latest metrics of the updates of which no log line was written yet, in one copy from the device.

    Raises:
        NonFiniteError: training diverged.
    """
    names = list(agent._metrics)
    values = [agent._metrics[k].to(agent.device, torch.float32) for k in names]
    numbers = dict(zip(names, torch.stack(values).tolist() if names else [], strict=True))
    for name, value in numbers.items():
        if not np.isfinite(value) and name != "explained_variance":
            agent._metrics = {}  # what is learned after it has its own
            raise NonFiniteError(
                f"train/{name} is {value} at step {agent.num_timesteps}: training diverged. {agent.remedy}; earlier "
                "checkpoints are kept"
            )
    return numbers


def _record(agent: Agent) -> None:
    """What updates say, under stable-baselines3's keys."""
    for name, value in unwritten(agent).items():
        agent.logger.record(f"train/{name}", value)
    agent._metrics = {}
    agent.logger.record("train/learning_rate", agent.lr_schedule(agent._progress))
    agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")


def dump(agent: Agent, due: bool = False) -> None:
    """Write the log line with rollout and time figures of the training under way; a line that a callback asked for and that is
    not ``due`` has the updates' where there were any."""
    log, turn = agent.logger, agent._turn
    if turn is None:  # nothing has been learned yet
        log.dump(step=agent.num_timesteps)
        return
    if due or agent._metrics:
        _record(agent)
    seconds = max(time.perf_counter() - turn.started, 1e-9)
    if agent.ep_info_buffer:
        log.record("rollout/ep_rew_mean", float(np.mean([e["r"] for e in agent.ep_info_buffer])))
        log.record("rollout/ep_len_mean", float(np.mean([e["l"] for e in agent.ep_info_buffer])))
    if agent.ep_success_buffer:
        log.record("rollout/success_rate", float(np.mean(agent.ep_success_buffer)))
    log.record("time/fps", int((agent.num_timesteps - turn.first) / seconds))
    log.record(f"time/{turn.unit}", turn.ticks, exclude="tensorboard")
    log.record("time/time_elapsed", int(seconds), exclude="tensorboard")
    log.record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")
    log.dump(step=agent.num_timesteps)


class _Callbacks:
    """stable-baselines3's callbacks; without one, whole rollouts run undisturbed."""

    def __init__(self, agent: Agent, callback: Any) -> None:
        self.agent, self.callback, self.on_step, self.stopped = agent, None, None, False
        if callback is None:
            return
        from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback

        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        self.callback = callback
        self.on_step = self._on_step

    def start(self, scope: dict[str, Any]) -> None:
        if self.callback is not None:
            self.scope = scope | {"env": self.agent.get_env()}
            try:
                self.callback.init_callback(self.agent)
            except AssertionError as error:  # stable-baselines3's, of a training environment that is None
                if self.agent.env is not None:
                    raise
                raise ValueError(
                    f"callback={type(self.callback).__name__} asks for the model's environment, and it has none: pass env at "
                    "construction or load, or call set_env"
                ) from error
            self.callback.on_training_start(dict(self.scope), {})

    def end(self) -> None:
        if self.callback is not None:
            self.callback.on_training_end()

    def rollout_start(self) -> None:
        if self.callback is not None:
            self.callback.on_rollout_start()
            self._t = 0

    def rollout_end(self) -> None:
        if self.callback is not None:
            self.callback.update_locals(dict(self.scope))
            self.callback.on_rollout_end()

    def gradient_step(self) -> None:
        """A step without an environment: nothing is observed, nothing ends."""
        if self.callback is not None:
            nothing = dict(rewards=np.zeros(0, np.float32), dones=np.zeros(0, bool), infos=[])
            self.callback.update_locals(self.scope | nothing)
            self.stopped = not self.callback.on_step()

    def _on_step(self, obs: Any, action: Any, env_action: Any, step: Step) -> bool:
        agent, n = self.agent, len(step.reward)
        agent.num_timesteps += n if step.valid is None else int(step.valid.sum())
        episodes = agent.env.pop_episodes()
        agent._record_episodes(episodes)
        told = agent.env.unwrapped.infos
        infos: list[dict[str, Any]] = [{} for _ in range(n)] if told is None else [dict(info) for info in told]
        for i in () if step.valid is None else np.flatnonzero(~_numpy(step.valid)):
            infos[i]["valid"] = False  # the row of a reset: no transition
        for e in episodes:
            infos[e.index]["episode"] = {"r": e.r, "l": e.l, "t": round(time.perf_counter() - agent._turn.started, 6)}
            if e.success is not None:
                infos[e.index]["is_success"] = e.success
        dones = step.terminated | step.truncated
        terminated, truncated, dones, rewards = (
            _numpy(x) for x in (step.terminated, step.truncated, dones, step.reward)
        )
        for i in np.flatnonzero(dones):
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
            infos[i]["terminal_observation"] = tree_map(lambda x, i=i: _numpy(x)[i], step.next_obs)
        self.callback.update_locals(
            self.scope
            | dict(
                obs_tensor=tree_map(torch.as_tensor, obs), actions=_numpy(env_action if agent.scaled_actions else action),
                clipped_actions=_numpy(env_action), buffer_actions=_numpy(action), new_obs=tree_map(_numpy, step.obs),
                rewards=rewards.astype(np.float32), dones=dones, infos=infos, n_steps=self._t, n_rollout_steps=agent.horizon,
            )
            | agent.callback_locals(self._t + 1)
        )  # fmt: skip
        self._t += 1
        self.stopped = not self.callback.on_step()
        return not self.stopped


def _numpy(x: Any) -> Any:
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def _bar(total: int, done: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit=" steps", unit_scale=True, dynamic_ncols=True, mininterval=0.2)
