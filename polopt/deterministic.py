"""Deterministic actors with twin critics: off-policy, the smaller critic of a smoothed action, a delayed actor.

What Fujimoto, van Hoof, Meger, 2018, arXiv 1802.09477 added to the deterministic policy gradient, and what every method that
ties such an actor to recorded data keeps of it. With actions in [-1, 1]:

    ã = clip( μ̄(s') + clip(ε, -c, c), -1, 1 ),  ε ~ N(0, σ²)                                       (eq. 14)
    y = r + γ (1 - d) min_k Q̄_k(s', ã),      L_Q = Σ_k E[ (Q_k(s, a) - y)² ]                       (eq. 10)

A method here fills ``policy_loss(b)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .batch import Batch
from .config import hyper
from .distributions import Deterministic
from .off_policy import OffPolicy, OffPolicyConfig, frozen
from .spaces import encoded_size

__all__ = ["TwinDelayed", "TwinDelayedConfig", "smoothed"]


def smoothed(action: Tensor, noise: Tensor, sigma: float, clip: float) -> Tensor:
    """clip(a + clip(σ ε, ±c), ±1), ``[B, A]``, of standard normal ε (eq. 14)."""
    return (action + (sigma * noise).clamp(-clip, clip)).clamp(-1, 1)


@dataclass(frozen=True, kw_only=True)
class TwinDelayedConfig(OffPolicyConfig):
    """Hyperparameters of every method with such an actor."""

    policy_delay: int = hyper(2, "[1, inf)", "d, critic steps per step of actor and lagged copies")
    target_policy_noise: float = hyper(0.2, "[0, inf)", "σ [of the scaled action]")
    target_noise_clip: float = hyper(0.5, "[0, inf)", "c [of the scaled action]")


class TwinDelayed(OffPolicy):
    """Base of the family."""

    Config: ClassVar[type[TwinDelayedConfig]]
    needs_noise = ("next_noise",)

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        actor = Deterministic(encoded_size(self.action_space))
        self.policy = self.make_actor(actor, net_arch["pi"], activation_fn)
        self.nets["target_policy"] = frozen(self.policy)
        self.make_critic(net_arch["qf"], activation_fn, self.policy_options.get("n_critics", 2))
        self.part("policy", self.policy.parameters(), **optimizer)
        self.part("critic", self.nets["critic"].parameters(), **optimizer)

    def lagged(self) -> list[tuple[nn.Module, nn.Module]]:
        return [*super().lagged(), (self.nets["target_policy"], self.policy)]

    def due(self, n: int) -> tuple[str, ...]:
        return ("policy", "targets") if n % self.c.policy_delay == 0 else ()

    def action(self, features: Tensor) -> Tensor:
        """μ(s), ``[B, A]``, of observations as the memory holds them."""
        return torch.tanh(self.policy.of(features))

    def first_value(self, features: Tensor, action: Tensor) -> Tensor:
        """Q_1(s, a), ``[B]``: the critic that an actor climbs; the other is not asked."""
        return self.nets["critic"](features, action, members=slice(0, 1))[0]

    def next_value(self, b: Batch) -> Tensor:
        action = torch.tanh(self.nets["target_policy"].of(b.next_obs))
        action = smoothed(action, b.next_noise, self.c.target_policy_noise, self.c.target_noise_clip)
        return self.nets["target_critic"](b.next_obs, action).amin(0)
