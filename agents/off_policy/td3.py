"""TD3: Twin Delayed Deep Deterministic policy gradient.

Fujimoto, van Hoof, Meger, 2018, arXiv 1802.09477.

DDPG's critic overestimates because its actor exploits its errors. Three remedies: the smaller of two lagged critics, noise
on the target action, and actor and lagged copies that move every d-th step only (algorithm 1). Actions in [-1, 1]:

    ã = clip( μ̄(s') + clip(ε, -c, c), -1, 1 ),  ε ~ N(0, σ²)                                       (eq. 14)
    y = r + γ (1 - d) min_k Q̄_k(s', ã),      L_Q = Σ_k E[ (Q_k(s, a) - y)² ]                       (eq. 10)
    L_μ = -E[ Q_1(s, μ(s)) ]

Differs from DDPG in these three; from SAC in a deterministic policy that needs noise to explore (``action_noise``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import Deterministic
from polopt.off_policy import OffPolicy, OffPolicyConfig, frozen
from polopt.schedule import Schedule
from polopt.spaces import encoded_size

__all__ = ["TD3", "smoothed"]


def smoothed(action: Tensor, noise: Tensor, sigma: float, clip: float) -> Tensor:
    """clip(a + clip(σ ε, ±c), ±1), ``[B, A]``, of standard normal ε (eq. 14)."""
    return (action + (sigma * noise).clamp(-clip, clip)).clamp(-1, 1)


class TD3(OffPolicy):
    """Twin Delayed DDPG."""

    default_arch = (400, 300)
    needs_noise = ("next_noise",)

    @dataclass(frozen=True, kw_only=True)
    class Config(OffPolicyConfig):
        learning_rate: Schedule = hyper(1e-3, "[0, inf)", "learning rate of Adam; the official code: 3e-4")
        policy_delay: int = hyper(2, "[1, inf)", "d, critic steps per step of actor and lagged copies")
        target_policy_noise: float = hyper(0.2, "[0, inf)", "σ [of the scaled action]")
        target_noise_clip: float = hyper(0.5, "[0, inf)", "c [of the scaled action]")

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

    def next_value(self, b: Batch) -> Tensor:
        action = torch.tanh(self.nets["target_policy"].of(b.next_obs))
        action = smoothed(action, b.next_noise, self.c.target_policy_noise, self.c.target_noise_clip)
        return self.nets["target_critic"](b.next_obs, action).amin(0)

    def policy_loss(self, b: Batch) -> Tensor:
        return -self.nets["critic"](b.obs, torch.tanh(self.policy.of(b.obs)))[0].mean()
