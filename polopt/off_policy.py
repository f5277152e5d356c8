"""The off-policy family: act, remember, and learn from a replay of everything remembered.

What every method here shares: a ring of transitions, random actions before ``learning_starts``, a cadence of gradient
steps, lagged copies. Actions are seen scaled to [-1, 1] everywhere and mapped to the Box at the environment's edge.
A method fills slots:

==================  ================================================================================================
``make_nets``       its networks: ``nets["policy"]``, ``nets["critic"]``, what lags, its parts
``evaluate(b)``     what the rows of the table share (an action sampled once), before any of them steps
``next_value(b)``   the value of the successor in the critics' target
``critic_loss(b)``  squared error to ``reward + discount * next_value`` by default
``policy_loss(b)``  what the policy minimises
``table(due)``      the ordered steps of one update, ``part -> loss``, less those not due this time
``due(n)``          which slow steps the n-th update takes; ``("policy",)`` by default
==================  ================================================================================================
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from .agent import Agent, AgentConfig
from .batch import Batch, tree_map
from .config import hyper
from .critics import QEnsemble
from .distributions import Distribution
from .graph import static
from .memory import Mix, Replay
from .part import polyak_
from .policy import ActorCritic, unscale
from .schedule import Schedule
from .spaces import encoded_size

__all__ = ["OffPolicy", "OffPolicyConfig", "frozen"]


def frozen(net: nn.Module) -> nn.Module:
    """A copy that takes no gradient."""
    return copy.deepcopy(net).requires_grad_(False)


Row = tuple[str, Callable[[Batch, dict[str, Tensor]], Tensor]]


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(AgentConfig):
    """Hyperparameters of every off-policy method."""

    learning_rate: Schedule = hyper(3e-4, "[0, inf)", "learning rate of Adam, of every network")
    buffer_size: int = hyper(1_000_000, "[1, inf)", "transitions remembered")
    learning_starts: int = hyper(100, "[0, inf)", "steps of random actions before the first update")
    batch_size: int = hyper(256, "[1, inf)", "B, rows of a gradient step")
    tau: float = hyper(0.005, "[0, 1]", "τ, Polyak coefficient of the lagged copies")
    gamma: float = hyper(0.99, "[0, 1]", "γ, discount")
    train_freq: int = hyper(1, "[1, inf)", "steps of each world between updates")
    gradient_steps: int = hyper(1, "[-1, inf)", "gradient steps an update; -1: as many as steps were taken")
    n_steps: int = hyper(1, "[1, inf)", "k, steps of the target's return")
    action_noise: Any = hyper(None, doc="exploration: a std [of the scaled action], or a stable-baselines3 ActionNoise")
    optimize_memory_usage: bool = hyper(False, doc="stable-baselines3's; rows are packed here as they are")
    replay_buffer_class: Any = hyper(None, doc="stable-baselines3's; not used here")
    replay_buffer_kwargs: Any = hyper(None, doc="stable-baselines3's; not used here")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.replay_buffer_class is not None or self.replay_buffer_kwargs:
            raise NotImplementedError("replay_buffer_class is not used: transitions are kept in polopt.memory.Replay")
        if self.gradient_steps == 0:
            raise ValueError(
                "gradient_steps=0 would never learn; it is a positive number, or -1 for as many as steps were taken"
            )


class OffPolicy(Agent):
    """Base of the family; see the module's docstring for the slots."""

    Config: ClassVar[type[OffPolicyConfig]]
    c: Any
    nets: Any
    memory: Replay | Mix
    action_spaces: ClassVar[tuple[type[Space], ...]] = (spaces.Box,)

    # -- slots -----------------------------------------------------------------------------------------------------

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        """Fill ``self.policy``, ``self.nets`` and ``self.parts``."""
        raise NotImplementedError

    def lagged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs of lagged copy and source."""
        return [(self.nets["target_critic"], self.nets["critic"])]

    def evaluate(self, b: Batch) -> Batch:
        """What the rows of the table share."""
        return b

    def next_value(self, b: Batch) -> Tensor:
        """Value of the successors, ``[B]``, without gradient."""
        raise NotImplementedError

    critic_scale: ClassVar[float] = 1.0
    """Factor of the critics' squared error."""

    def critic_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """sum_k mean (Q_k(s, a) - y)², y = r + γ^k (1 - d) V(s')."""
        with torch.no_grad():
            target = b.reward + b.discount * self.next_value(b)
        log["critic_loss"] = loss = (
            self.critic_scale * (self.nets["critic"](b.obs, b.action) - target).square().mean(-1).sum()
        )
        return loss

    def policy_loss(self, b: Batch) -> Tensor:
        """What the policy minimises, 0-d."""
        raise NotImplementedError

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """:meth:`policy_loss`, logged."""
        log["actor_loss"] = loss = self.policy_loss(b)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        """The steps of one update in their order: which part descends which loss."""
        rows: list[Row] = [("critic", self.critic_loss)]
        return [*rows, ("policy", self.actor_loss)] if "policy" in due else rows

    def due(self, n: int) -> tuple[str, ...]:
        """Which slow steps the n-th update takes: of ``policy``, and ``targets`` (the lagged copies)."""
        return ("policy", "targets")

    # -- the engine ------------------------------------------------------------------------------------------------

    @static
    def gradient_step(self, b: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
        """Walk down the :meth:`table` with one batch, then move the lagged copies. Returns 0-d metrics."""
        log: dict[str, Tensor] = {}
        b = self.evaluate(b)
        for part, loss in self.table(due):
            self.parts[part].descend(loss(b, log))
        if "targets" in due:
            self.lag()
        return {k: v.detach() for k, v in log.items()}

    def lag(self) -> None:
        """Polyak: every lagged copy moves τ of the way to its source."""
        for target, source in self.lagged():
            polyak_(target.parameters(), source.parameters(), self.c.tau)

    def draw(self) -> Batch:
        """A batch, with the noise that the losses need: ``noise`` and ``next_noise`` ``[B, A]``, standard normal."""
        b = self.memory.sample(self.c.batch_size, self.generator)
        if self.normalizer is not None:
            b = b.plus(obs=self.normalizer.normalize_obs(b.obs), next_obs=self.normalizer.normalize_obs(b.next_obs))
        if self.policy.distribution.noise_size:
            shape = (2, len(b), self.policy.distribution.noise_size)
            noise, next_noise = torch.randn(shape, generator=self.generator, device=self.device)
            b = b.plus(noise=noise, next_noise=next_noise)
        return b

    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.memory.add(batch.map(lambda x: x.to(self.device)))
        if self.num_timesteps < self.config.learning_starts or not len(self.memory):
            return {}
        steps = self.config.gradient_steps
        return self.train_steps(batch.reward.numel() if steps < 0 else steps)

    def train_steps(self, steps: int) -> dict[str, Tensor]:
        """Gradient steps from memory. Returns the last one's metrics, and of those before it what the last lacks."""
        log: dict[str, Tensor] = {}
        for _ in range(steps):
            self._n_updates += 1
            log |= self.gradient_step(self.draw(), self.due(self._n_updates))
        return log

    # -- building and acting -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        if self.config.normalize_obs or self.config.normalize_reward:
            raise NotImplementedError(
                f"{type(self).__name__} with normalize_obs or normalize_reward is not built; pass a VecNormalize environment"
            )
        kwargs = dict(self.policy_kwargs)
        optimizer = {"optimizer": kwargs.pop("optimizer_class", torch.optim.Adam), **kwargs.pop("optimizer_kwargs", {})}
        arch, activation = kwargs.pop("net_arch", self.default_arch), kwargs.pop("activation_fn", nn.ReLU)
        if unknown := set(kwargs) - self.more_policy_kwargs:
            raise TypeError(f"{type(self).__name__}: unknown policy_kwargs {sorted(unknown)}")
        if not isinstance(arch, dict):
            arch = {"pi": list(arch), "qf": list(arch)}
        self.policy_options = kwargs
        self.make_nets(arch, activation, **optimizer)
        self.nets["policy"] = self.policy
        self.memory = Replay(
            self.config.buffer_size, self.observation_space, self.action_space, num_envs=getattr(self, "n_envs", None) or 1,
            gamma=self.config.gamma, n_steps=self.config.n_steps, device=self.device,
        )  # fmt: skip

    default_arch: ClassVar[tuple[int, ...]] = (256, 256)
    more_policy_kwargs: ClassVar[frozenset[str]] = frozenset({"n_critics"})

    def make_actor(
        self, distribution: Distribution, arch: list[int], activation_fn: type[nn.Module], **kwargs: Any
    ) -> ActorCritic:
        """An actor over scaled actions, without a value network, initialised as ``torch.nn.Linear`` is."""
        return ActorCritic(
            self.observation_space, self.action_space, distribution, net_arch={"pi": arch, "vf": []},
            activation_fn=activation_fn, ortho_init=False, critic=False, scaled=True, **kwargs,
        )  # fmt: skip

    def make_critic(self, arch: list[int], activation_fn: type[nn.Module], members: int = 2, **kwargs: Any) -> None:
        """``nets["critic"]``, E action values of (obs, action), and its lagged copy ``nets["target_critic"]``."""
        size = self.feature_size + encoded_size(self.action_space)
        self.nets["critic"] = QEnsemble(size, arch, members, activation_fn=activation_fn, **kwargs).to(self.device)
        self.nets["target_critic"] = frozen(self.nets["critic"])

    @property
    def feature_size(self) -> int:
        """Length of an encoded observation."""
        return encoded_size(self.observation_space)

    @property
    def horizon(self) -> int:
        return self.config.train_freq

    @property
    def replay_buffer(self) -> Any:
        """The memory, under stable-baselines3's name."""
        return self.memory

    def noise(self, horizon: int, num_envs: int) -> Tensor:
        """Exploration noise; uniform actions, marked by NaN in front, before ``learning_starts``."""
        shape = (horizon, num_envs)
        if self.num_timesteps < self.config.learning_starts:
            self._warming = True
            return self._uniform(shape)
        self._warming = False
        return self._explore(shape)

    def _uniform(self, shape: tuple[int, int]) -> Tensor:
        dim = (
            self.policy.distribution.size
            if isinstance(self.action_space, spaces.Discrete)
            else encoded_size(self.action_space)
        )
        return 2 * torch.rand(*shape, dim, generator=self.generator, device=self.device) - 1

    def _explore(self, shape: tuple[int, int]) -> Tensor:
        distribution, given = self.policy.distribution, self.config.action_noise
        noise = distribution.noise(shape, self.generator, self.device)
        if given is None:
            return noise
        if isinstance(given, (int, float)):
            return given * torch.randn(noise.shape, generator=self.generator, device=self.device)
        drawn = np.stack(
            [[np.asarray(given()).reshape(-1)[: noise.shape[-1]] for _ in range(shape[1])] for _ in range(shape[0])]
        )
        return torch.as_tensor(drawn, dtype=noise.dtype, device=self.device)

    @torch.no_grad()
    def act(self, obs: Any, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self._warming:
            return noise, {}
        return self.policy.distribution.act(self.policy(tree_map(lambda x: x.to(self.device), obs)), noise), {}

    def host_actor(self) -> Callable[[Any, Any], np.ndarray] | None:
        if self.device.type != "cpu":
            return None
        return (lambda obs, noise: noise) if self._warming else self.policy.host_act()

    def env_action(self, action: Any) -> Any:
        """Scaled actions [-1, 1] in the Box's own units."""
        return unscale(self.action_space, action) if isinstance(self.action_space, spaces.Box) else action

    def learn(
        self, total_timesteps: int, callback: Any = None, log_interval: int | None = 4, tb_log_name: str | None = None,
        reset_num_timesteps: bool = True, progress_bar: bool = False,
    ) -> Self:  # fmt: skip
        """As :meth:`polopt.agent.Agent.learn`; ``log_interval`` counts episodes."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    log_every: ClassVar[str] = "episodes"

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"memory": self.memory.state_dict()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"])
        super().load_training_state(state)

    def save_replay_buffer(self, path: Any) -> None:
        """Write the memory: a zip of safetensors and JSON, whole or not at all."""
        from .files import save_state

        save_state(path, {"memory": self.memory.state_dict()}, "memory")

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote.

        Raises:
            FileError: the file is damaged or of another kind.
            ValueError: its rows are of other spaces.
        """
        from .files import load_state

        self.memory.load_state_dict(load_state(path, "memory")["memory"])
