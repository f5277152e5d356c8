"""DDPG: Deep Deterministic Policy Gradient.

Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver, Wierstra, 2016, arXiv 1509.02971.

Q-learning for continuous actions: a deterministic actor μ stands for argmax_a Q(s, a) and follows its critic's gradient;
lagged copies μ̄, Q̄ keep the target still:

    y = r + γ (1 - d) Q̄(s', μ̄(s')),     L_Q = E[ (Q(s, a) - y)² ],     L_μ = -E[ Q(s, μ(s)) ]    (algorithm 1, eq. 6)

Differs from DQN in the actor; from TD3 in having one critic, no target noise and no delay.
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

__all__ = ["DDPG"]


class DDPG(OffPolicy):
    """Deep Deterministic Policy Gradient."""

    default_arch = (400, 300)

    @dataclass(frozen=True, kw_only=True)
    class Config(OffPolicyConfig):
        learning_rate: Schedule = hyper(1e-3, "[0, inf)", "learning rate of Adam; the paper: 1e-4 actor, 1e-3 critic")

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        if (members := self.policy_options.get("n_critics", 1)) != 1:
            raise ValueError(f"n_critics={members}: DDPG has one critic; TD3 has several")
        actor = Deterministic(encoded_size(self.action_space))
        self.policy = self.make_actor(actor, net_arch["pi"], activation_fn)
        self.nets["target_policy"] = frozen(self.policy)
        self.make_critic(net_arch["qf"], activation_fn, members=1)
        self.part("policy", self.policy.parameters(), **optimizer)
        self.part("critic", self.nets["critic"].parameters(), **optimizer)

    def lagged(self) -> list[tuple[nn.Module, nn.Module]]:
        return [*super().lagged(), (self.nets["target_policy"], self.policy)]

    def next_value(self, b: Batch) -> Tensor:
        return self.nets["target_critic"](b.next_obs, torch.tanh(self.nets["target_policy"].of(b.next_obs)))[0]

    def policy_loss(self, b: Batch) -> Tensor:
        return -self.nets["critic"](b.obs, torch.tanh(self.policy.of(b.obs)))[0].mean()
