"""Q-learning over finitely many actions: off-policy, one network of action values, ε-greedy, a frozen copy of it.

A method here fills ``next_value(b)``, the value of the successor in the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import one_hot, smooth_l1_loss

from .batch import Batch
from .config import hyper
from .distributions import Distribution
from .off_policy import OffPolicy, OffPolicyConfig, Row, frozen
from .schedule import Schedule

__all__ = ["EpsilonGreedy", "QLearning", "QLearningConfig", "taken"]


class EpsilonGreedy(Distribution):
    """The best of n action values, or with probability ε any action; parameters are the values ``[..., n]``.

    Args:
        n: number of actions.
        epsilon: ε of :meth:`noise`.
    """

    has_kl = False

    def __init__(self, n: int, epsilon: float) -> None:
        self.n = self.size = self.noise_size = n
        self.epsilon = epsilon

    def noise(self, shape, generator, device="cpu"):
        return self.noise_at(torch.full(shape, self.epsilon, device=device), generator)

    def noise_at(self, epsilon: Tensor, generator: torch.Generator | None) -> Tensor:
        """Noise ``[..., n]`` of given ε ``[...]``: infinite for the action to explore, else zero."""
        explore = torch.rand(epsilon.shape, generator=generator, device=epsilon.device) < epsilon
        any_action = torch.randint(self.n, epsilon.shape, generator=generator, device=epsilon.device)
        chosen = one_hot(any_action, self.n).bool() & explore.unsqueeze(-1)
        return torch.zeros(chosen.shape, device=epsilon.device).masked_fill_(chosen, float("inf"))

    def act(self, params, noise):
        return (params + noise).argmax(-1)

    def mode(self, params):
        return params.argmax(-1)

    def log_prob(self, params, action):
        raise NotImplementedError("an ε-greedy policy is not learned through its density")

    def entropy(self, params):
        raise NotImplementedError("an ε-greedy policy is not learned through its entropy")


@dataclass(frozen=True, kw_only=True)
class QLearningConfig(OffPolicyConfig):
    """Hyperparameters of every Q-learning method."""

    learning_rate: Schedule = hyper(1e-4, "[0, inf)", "learning rate of Adam")
    batch_size: int = hyper(32, "[1, inf)", "B, rows of a gradient step")
    tau: float = hyper(1.0, "[0, 1]", "τ, how far the lagged copy moves at a time; 1: a hard copy")
    train_freq: int | tuple = hyper(
        4, "[1, inf)", 'steps of each world between updates; or (n, "step"), (n, "episode")'
    )
    target_update_interval: int = hyper(10_000, "[1, inf)", "C, environment steps between moves of the lagged copy")
    exploration_fraction: float = hyper(0.1, "(0, 1]", "share of training over which ε falls")
    exploration_initial_eps: float = hyper(1.0, "[0, 1]", "ε to begin with")
    exploration_final_eps: float = hyper(0.05, "[0, 1]", "ε to end with")
    max_grad_norm: float = hyper(10.0, "(0, inf)", "clip the gradient's norm to this")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.action_noise is not None:
            raise ValueError("action_noise is for continuous actions; here exploration_*_eps say how to explore")

    def epsilon(self, done: Tensor) -> Tensor:
        """ε after a share ``done`` of training: linear from its initial to its final value, constant thereafter."""
        fallen = (done / self.exploration_fraction).clamp(max=1.0)
        return self.exploration_initial_eps + fallen * (self.exploration_final_eps - self.exploration_initial_eps)


class QLearning(OffPolicy):
    """Base of the family."""

    Config: ClassVar[type[QLearningConfig]]
    action_spaces = (spaces.Discrete,)
    default_arch = (64, 64)
    arch_names = ("qf",)
    more_policy_kwargs = frozenset()
    fixed = frozenset({"max_grad_norm"})

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        greedy = EpsilonGreedy(int(self.action_space.n), self.config.exploration_final_eps)
        self.policy = self.make_actor(greedy, net_arch["qf"], activation_fn)
        self.nets["target_policy"] = frozen(self.policy)
        self.part("policy", self.policy.parameters(), max_grad_norm=self.config.max_grad_norm, **optimizer)

    def lagged(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.nets["target_policy"], self.policy)]

    def loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """Huber loss (κ = 1) of Q(s, a) to y = r + γ^k (1 - d) V(s'), 0-d."""
        with torch.no_grad():
            target = b.reward + b.discount * self.next_value(b)
        log["loss"] = loss = smooth_l1_loss(taken(self.policy.of(b.obs), b.action), target)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        return [("policy", self.loss)]

    def due(self, n: int) -> tuple[str, ...]:
        return ()  # the lagged copy moves by environment steps: see `update`

    @property
    def exploration_rate(self) -> float:
        """ε of the latest step."""
        return self.policy.distribution.epsilon

    def noise(self, horizon: int, num_envs: int) -> Tensor:
        step = self.num_timesteps + num_envs * torch.arange(horizon, device=self.device)
        epsilon = self.config.epsilon(step / max(self._total_timesteps, 1))
        self.policy.distribution.epsilon = float(epsilon[-1])
        epsilon = epsilon.masked_fill(step < self.config.learning_starts, 1.0)
        return self.policy.distribution.noise_at(epsilon.unsqueeze(-1).expand(-1, num_envs), self.generator)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.logger.record("rollout/exploration_rate", self.exploration_rate)
        return super().update(batch)

    _seen_steps = 0
    """Environment steps taken, over all calls of ``learn``."""

    def _add(self, batch: Batch) -> None:
        super()._add(batch)
        before, self._seen_steps = self._seen_steps, self._seen_steps + batch.transitions
        every = self.config.target_update_interval
        for _ in range(self._seen_steps // every - before // every):
            self.lag()

    def model_state(self) -> dict[str, Any]:
        return super().model_state() | {"exploration_rate": self.exploration_rate}

    def take_model_state(self, state: dict[str, Any]) -> None:
        if (epsilon := state.get("exploration_rate")) is not None:
            self.policy.distribution.epsilon = float(epsilon)

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"seen_steps": self._seen_steps}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self._seen_steps = state.get("seen_steps", self.num_timesteps)
        super().load_training_state(state)


def taken(values: Tensor, action: Tensor) -> Tensor:
    """Of action values ``[B, n]`` those of the actions ``[B]``."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)
