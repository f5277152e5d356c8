"""The model-based family: learn the dynamics, imagine short branches from real states, learn from those.

After Dyna (Sutton, 1991). What every method here shares: a model-free agent that it holds, acts through and trains; a
model fitted to everything that agent remembers, every ``model_train_freq`` steps; branches of the agent's own policy in
the model, kept in a ring beside the real transitions; batches mixed of both. A method fills slots:

==========================  ========================================================================================
``held``                    the class of the agent it holds
``make_model(terminated)``  the dynamics, an Env that learns: an ensemble by default
``branch_length(epoch)``    k, steps of a branch
``start_states(n)``         where branches begin: at real states, all alike, by default
``imagine(starts, k)``      branches as a batch ``[k, N]``: the agent acting in the model, by default
==========================  ========================================================================================

Hyperparameters of the held agent are the method's own: its ``Config`` has both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from .agent import Agent, AgentConfig
from .batch import Batch
from .config import hyper
from .ensemble import ProbabilisticEnsemble
from .env import Env
from .memory import Mix, Replay
from .model import EnsembleModel, Model, Termination
from .normalize import Normalize
from .off_policy import OffPolicy
from .rollout import rollout

__all__ = ["ModelBased", "ModelBasedConfig"]

TOGETHER = 10_000
"""Branches stepped at once: as many as the caches hold."""
EVER = 2**31
"""An epoch after which branches grow no more."""


def model_seed(seed: int) -> int:
    """Of what the model draws; the held agent draws what it would draw by itself. torch's generator on a CPU keeps 32 bits
    of a seed: another one must differ there."""
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


@dataclass(frozen=True, kw_only=True)
class ModelBasedConfig(AgentConfig):
    """Hyperparameters of every model-based method, beside those of the agent it holds."""

    model_train_freq: int = hyper(250, "[1, inf)", "environment steps between fits of the model; Humanoid: 1000")
    rollout_batch_size: int = hyper(100_000, "[1, inf)", "M, branches begun after each fit")
    epoch_length: int = hyper(1000, "[1, inf)", "environment steps of an epoch, which branch_length counts in")
    model_retain_epochs: int = hyper(1, "[1, inf)", "epochs for which imagined transitions are kept; Humanoid: 5")
    real_ratio: float = hyper(0.05, "[0, 1]", "share of each batch that is real; 1: no model at all")
    num_networks: int = hyper(7, "[1, inf)", "E, members of the ensemble")
    num_elites: int = hyper(5, "[1, inf)", "members that predict: those of the least error on held-out data")
    model_arch: tuple[int, ...] = hyper((200, 200, 200, 200), doc="widths of the members' hidden layers; Humanoid: 400")
    model_weight_decay: float | tuple[float, ...] = hyper(
        (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), "[0, inf)", "c, one number, or one for each layer"
    )
    model_learning_rate: float = hyper(1e-3, "(0, inf)", "of the model's Adam")
    model_batch_size: int = hyper(256, "[1, inf)", "rows of a member's gradient step")
    model_patience: int = hyper(5, "[0, inf)", "passes without any better member after which a fit ends")
    model_max_passes: int | None = hyper(None, "[1, inf)", "passes after which it ends anyhow; None: no such limit")
    model_holdout: float = hyper(0.2, "(0, 1)", "share of the data (5000 rows at most) that only judges a fit")
    termination_fn: Callable[..., Any] | str | None = hyper(
        None, "never", '(obs, action, next_obs) -> [B] bool; "never"; None: the environment\'s own'
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("normalize_obs", "normalize_reward", "standardize"):
            if getattr(self, name, False):
                raise NotImplementedError(
                    f"{name}=True: observations and rewards are modelled as they are; leave it out"
                )
        if self.num_elites > self.num_networks:
            raise ValueError(f"num_elites={self.num_elites} must be at most num_networks={self.num_networks}")
        if not self.model_arch or not all(isinstance(n, int) and n > 0 for n in self.model_arch):
            raise ValueError(f"model_arch={self.model_arch!r} must be widths of at least 1, one for each hidden layer")
        decay, layers = self.model_weight_decay, len(self.model_arch) + 1
        numbers = isinstance(decay, tuple) and all(isinstance(c, (int, float)) for c in decay)
        if isinstance(decay, tuple) and (not numbers or len(decay) != layers or min(decay) < 0):
            raise ValueError(
                f"model_weight_decay={decay!r} must be {layers} numbers of at least 0, one for each layer of "
                f"model_arch={self.model_arch!r} and the last; or one number for all"
            )


class ModelBased(Agent):
    """Base of the family; see the module's docstring for the slots."""

    Config: ClassVar[type[ModelBasedConfig]]
    config: Any
    held: ClassVar[type[OffPolicy]]
    action_spaces: ClassVar[tuple[type[Space], ...]] = (spaces.Box,)
    agent: OffPolicy
    model: Model
    imagined: Replay
    log_every: ClassVar[str] = "episodes"
    scaled_actions = True
    remedy = OffPolicy.remedy
    fixed = frozenset(
        {"num_networks", "num_elites", "model_arch", "model_weight_decay", "model_learning_rate", "model_batch_size",
         "model_patience", "model_holdout", "model_max_passes", "real_ratio", "batch_size"}
    )  # fmt: skip

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "held" in vars(cls):
            cls.fixed |= cls.held.fixed
            cls.starts |= cls.held.starts

    # -- slots -----------------------------------------------------------------------------------------------------

    def make_model(self, terminated: Termination) -> Model:
        """The dynamics. What is to be saved with the agent goes to ``nets`` and ``parts``."""
        c, obs, action = self.config, self.observation_space, self.action_space
        ensemble = ProbabilisticEnsemble(
            obs.shape[0] + action.shape[0], 1 + obs.shape[0], hidden=c.model_arch, members=c.num_networks,
            elites=c.num_elites, lr=c.model_learning_rate, batch_size=c.model_batch_size,
            weight_decay=c.model_weight_decay, patience=c.model_patience, max_passes=c.model_max_passes,
            compiled=self.compiled, device=self.device,
        )  # fmt: skip
        self.nets["model"], self.parts["model"] = ensemble, ensemble.part
        return EnsembleModel(ensemble, obs, action, terminated, self.generator, c.model_holdout)

    def branch_length(self, epoch: int) -> int:
        """k."""
        raise NotImplementedError

    def start_states(self, n: int) -> Tensor:
        """States ``[n, O]`` where branches begin."""
        return self.real.sample(n, self.generator).obs

    def imagine(self, starts: Tensor, k: int) -> Batch:
        """Branches of k steps from ``starts [N, O]``, ``[k, N]``."""
        return rollout(self.model, self.agent, self.model.start(starts), k)[0]

    # -- the engine ------------------------------------------------------------------------------------------------

    def update(self, batch: Batch) -> dict[str, Tensor]:
        agent, c = self.agent, self.config
        agent.num_timesteps, agent._n_updates = self.num_timesteps, self._n_updates
        self._since_fit += batch.transitions
        steps = agent.remember(batch)
        if c.real_ratio < 1 and len(self.real) < min(c.learning_starts, self.real.capacity):
            return {}  # loaded without its replay: no model is fitted to a few rows
        log = self.dream() if steps and self._fit_is_due() else {}
        log |= agent.train_steps(steps)
        self._n_updates = agent._n_updates
        return log

    def _fit_is_due(self) -> bool:
        c = self.config
        return c.real_ratio < 1 and (not len(self.imagined) or self._since_fit >= c.model_train_freq)

    def dream(self) -> dict[str, Tensor]:
        """Fit the model to everything real, and fill the ring of imagined transitions. Returns metrics, 0-d."""
        c, real = self.config, self.real.rows()
        log = self.model.fit(real.obs, self.agent.env_action(real.action), real.reward, real.next_obs)
        k = self.branch_length(max(self.num_timesteps - c.learning_starts, 0) // c.epoch_length)
        if (capacity := self.imagined_capacity(k)) != self.imagined.capacity:
            self.imagined.resize(capacity)
        for starts in self.start_states(c.rollout_batch_size).split(TOGETHER):
            self.imagined.add(self.imagine(starts, k))
            self.imagined.flush()
        self._since_fit = 0
        return log | {"branch_length": torch.tensor(float(k)), "imagined": torch.tensor(float(len(self.imagined)))}

    def imagined_capacity(self, k: int) -> int:
        """Rows imagined in ``model_retain_epochs``: retain k M epoch_length / model_train_freq."""
        c = self.config
        return max(c.model_retain_epochs * k * c.rollout_batch_size * c.epoch_length // c.model_train_freq, 1)

    @property
    def real(self) -> Replay:
        """What the environment has answered."""
        memory = self.agent.memory
        return memory.first if isinstance(memory, Mix) else memory

    memory = real

    @property
    def replay_buffer(self) -> Replay:
        """What the environment has answered, under stable-baselines3's name."""
        self._need_networks("replay_buffer")
        self._settle()
        return self.real

    # -- building --------------------------------------------------------------------------------------------------

    def _adopt(self, env: Env) -> None:
        name = type(self).__name__
        if isinstance(env, Normalize):
            raise NotImplementedError(
                f"{name} models observations as they are: leave normalize_obs out, and pass the environment without Normalize"
            )
        super()._adopt(env)

    def _check_modelled(self, space: Space, action_space: Space) -> None:
        """Raise where the model could not be of these spaces, or could not say which of its transitions end an episode."""
        name = type(self).__name__
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not np.issubdtype(space.dtype, np.floating):
            raise ValueError(f"{name} models flat vectors of numbers, not the observation space {space}: flatten it")
        if len(action_space.shape) != 1:
            raise ValueError(f"{name} models flat vectors of numbers, not the action space {action_space}: flatten it")
        if self.env is None and self.config.termination_fn is None:
            return  # a loaded model, until it has an environment
        device = "cpu" if self.env is None else self.env.device
        probe = [torch.zeros(2, *s.shape, device=device) for s in (space, action_space, space)]
        try:
            answer = self._terminated(*probe)
        except NotImplementedError as error:
            raise ValueError(
                f"{name} must know which of the transitions that it imagines end an episode, and {error}. Pass "
                "termination_fn, a function (obs, action, next_obs) -> [B] bool of tensors [B, ...], actions in the "
                'environment\'s own units; or termination_fn="never" if none does (time limits are not meant)'
            ) from error
        if not isinstance(answer, Tensor) or answer.dtype != torch.bool or answer.shape != (2,):
            given = f"{answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(f"termination_fn must return a bool tensor [B] for B transitions, not {given}")

    def _terminated(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Whether transitions end the MDP: the hyperparameter's word, or the environment's."""
        known = self.config.termination_fn
        if known == "never":
            return torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
        if known is None and self.env is None:
            raise RuntimeError(
                f"this {type(self).__name__} has no environment to say which transitions end an episode; call set_env, or pass "
                "termination_fn"
            )
        return (self.env.terminated if known is None else known)(obs, action, next_obs)

    def _check_sizes(self) -> None:
        if (there := self.get_vec_normalize_env()) is not None and there.training:
            raise NotImplementedError(
                f"{type(self).__name__} models observations as they are, and VecNormalize's moments go on: pass the bare environment"
            )
        self.held.check_cadence(self.config, self.n_envs or 1, self.action_space)
        if self.config.real_ratio < 1:
            self._check_modelled(self.observation_space, self.action_space)
        if hasattr(self, "agent"):
            self.agent.n_envs = self.n_envs

    def _build(self) -> None:
        c = self.config
        self._check_sizes()
        shared = {f.name: getattr(c, f.name) for f in fields(self.held.Config)}
        self.agent = agent = self.held(
            self.policy_class, None, **shared, policy_kwargs=self.policy_kwargs, seed=self.seed, device=self.device
        )
        agent.observation_space, agent.action_space, agent.n_envs = (
            self.observation_space,
            self.action_space,
            self.n_envs,
        )
        agent.normalizer = self.normalizer
        agent._setup_model()
        self.policy, self.nets, self.parts = agent.policy, dict(agent.nets), dict(agent.parts)
        self.generator.manual_seed(model_seed(self.seed))
        self._since_fit = 0
        if c.real_ratio < 1:
            self.model = self.make_model(self._terminated)
            first, last = (self.imagined_capacity(self.branch_length(epoch)) for epoch in (0, EVER))
            try:
                # The model's rewards are of the real rows, which are scaled already.
                self.imagined = agent.make_memory(max(first, last), reward=(1.0, 0.0))
            except MemoryError as error:
                raise MemoryError(
                    f"rollout_batch_size={c.rollout_batch_size} branches make up to {max(first, last):,} imagined rows, and "
                    f"{str(error).partition(' needs ')[2]}"
                ) from error
            self.imagined.resize(first)
            agent.memory = Mix(agent.memory, self.imagined, 1 - int(c.real_ratio * c.batch_size) / c.batch_size)

    def _refresh(self) -> None:
        super()._refresh()
        if hasattr(self, "agent"):  # a hyperparameter was set
            shared = {f.name: getattr(self.config, f.name) for f in fields(self.held.Config)}
            self.agent.config = self.agent.config.replace(**shared)
            self.agent._refresh()

    def _set_schedules(self, progress: float) -> None:
        super()._set_schedules(progress)
        self.agent._set_schedules(progress)

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "nets"):
            self.agent.set_random_seed(seed)
            self.generator.manual_seed(model_seed(self.seed))

    # -- acting: the held agent does -------------------------------------------------------------------------------

    @property
    def horizon(self) -> int:
        return self.agent.horizon

    @property
    def in_rollout(self) -> bool:
        return self.agent.in_rollout

    def completes_rollout(self, batch: Batch) -> bool:
        return self.agent.completes_rollout(batch)

    def noise(self, horizon: int, num_envs: int) -> Tensor | None:
        self.agent.num_timesteps = self.num_timesteps
        return self.agent.noise(horizon, num_envs)

    def act(self, obs: Any, noise: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        return self.agent.act(obs, noise)

    def host_actor(self) -> Callable[[Any, Any], np.ndarray] | None:
        return self.agent.host_actor()

    def env_action(self, action: Any) -> Any:
        return self.agent.env_action(action)

    # -- learning and files ----------------------------------------------------------------------------------------

    def worlds_reset(self) -> None:
        self.agent.worlds_reset()

    def abandon(self, batch: Batch) -> None:
        self.agent.num_timesteps = self.num_timesteps
        self.agent.abandon(batch)
        self._since_fit += batch.transitions

    def callback_locals(self, taken: int) -> dict[str, Any]:
        return self.agent.callback_locals(taken)

    def learn(
        self, total_timesteps: int, callback: Any = None, log_interval: int | None = 4, tb_log_name: str | None = None,
        reset_num_timesteps: bool = True, progress_bar: bool = False,
    ) -> Self:  # fmt: skip
        """As :meth:`polopt.agent.Agent.learn`; ``log_interval`` counts episodes."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def training_state(self) -> dict[str, Any]:
        dreamt = {}
        if self.config.real_ratio < 1:
            dreamt = {"capacity": self.imagined.capacity, "imagined": self.imagined.state_dict()}
        held = self.agent.training_state()
        return super().training_state() | {"agent": held, "since_fit": self._since_fit, **dreamt}

    @classmethod
    def _unseeded(cls, state: dict[str, Any]) -> dict[str, Any]:
        return super()._unseeded(state) | {"agent": cls.held._unseeded(state["agent"])}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.agent.load_training_state(state["agent"])
        self._since_fit = state["since_fit"]
        if "imagined" in state and len(self.real):  # not of real rows that this model does not take
            self.imagined.resize(state["capacity"])
            self.imagined.load_state_dict(state["imagined"])
        super().load_training_state(state)

    def save_replay_buffer(self, path: Any) -> None:
        """Write the real transitions; see :meth:`polopt.off_policy.OffPolicy.save_replay_buffer`."""
        self._need_networks("save_replay_buffer")
        self._settle()
        self.agent.save_replay_buffer(path)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote."""
        self._need_networks("load_replay_buffer")
        self._settle()
        self.agent.load_replay_buffer(path, truncate_last_traj)
