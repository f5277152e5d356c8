"""RLPD: Reinforcement Learning with Prior Data.

Ball, Smith, Kostrikov, Levine, 2023, arXiv 2302.02948.

SAC from the first step on, with a data set beside it: a half of every batch is prior data, the critics are normalised layer
by layer (which bounds what they make up outside the data), there are E of them, and many steps of theirs for one of the
actor. With a random subset Z of the lagged critics, drawn once a batch:

    y   = r + γ (1 - d) ( min_{k in Z} Q̄_k(s', a') - α log π(a'|s') ),   a' ~ π(.|s')
    L_Q = mean_k E[ (Q_k(s, a) - y)² ]
    L_π = E[ α log π(ã|s) - mean_k Q_k(s, ã) ]
    L_α = E[ α ] (H - H̄),   H the batch's entropy                                                  (algorithm 1)

Differs from SAC in the four things above, in the mean over the critics in L_π and in H̄ = -dim(A)/2; from offline methods in
having neither pretraining nor pessimism.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polopt.batch import Batch
from polopt.config import hyper
from polopt.critics import QEnsemble
from polopt.off_policy import Row
from polopt.prior import PriorData, PriorDataConfig
from polopt.soft import Soft, SoftConfig

__all__ = ["RLPD", "xavier_"]


def xavier_(net: nn.Module) -> None:
    """Uniform weights within √(6 / (fan in + fan out)), each member of an ensemble its own, and zero biases."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, QEnsemble):
            for weight, bias in zip(module.weights, module.biases, strict=True):
                bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
                nn.init.uniform_(weight, -bound, bound)
                nn.init.zeros_(bias)


class RLPD(PriorData, Soft):
    """Reinforcement Learning with Prior Data. Give the data with :meth:`add_prior`."""

    more_policy_kwargs = Soft.more_policy_kwargs - {"n_critics"}
    fixed = frozenset({"n_critics", "layer_norm"})
    auto_entropy = -0.5

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftConfig, PriorDataConfig):
        learning_starts: int = hyper(5000, "[0, inf)", "steps of random actions; updates begin after them")
        gradient_steps: int = hyper(20, "[-1, inf)", "U, critic steps an update; -1: as many as steps were taken")
        policy_delay: int = hyper(20, "[1, inf)", "critic steps per step of actor and temperature; U: the last one's")
        n_critics: int = hyper(10, "[1, inf)", "E")
        subset: int = hyper(
            2, "[1, inf)", "|Z|, lagged critics of which the target takes the minimum; AntMaze, Adroit: 1"
        )
        target_entropy: float | str = hyper("auto", doc='H̄ [nat] over the [-1, 1] box; "auto": -dim(A)/2')
        layer_norm: bool = hyper(True, doc="normalise the critics' hidden layers")
        backup_entropy: bool = hyper(True, doc="the entropy term in the target; AntMaze, Adroit: False")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.subset > self.n_critics:
                raise ValueError(f"subset={self.subset} must be at most n_critics={self.n_critics}")

    def critic_options(self) -> dict[str, Any]:
        return {"members": self.config.n_critics, "layer_norm": self.config.layer_norm}

    def initialize(self) -> None:
        xavier_(self.policy)
        xavier_(self.nets["critic"])
        self.nets["target_critic"].load_state_dict(self.nets["critic"].state_dict())
        self.critic_scale = 1 / self.config.n_critics

    def due(self, n: int) -> tuple[str, ...]:
        return ("policy", "targets") if n % self.c.policy_delay == 0 else ("targets",)

    def draw(self, due: tuple[str, ...]) -> Batch:
        chosen = torch.randperm(self.config.n_critics, generator=self.generator, device=self.device)
        return super().draw(due).plus(subset=chosen[: self.config.subset])

    def evaluate(self, b: Batch, due: tuple[str, ...]) -> Batch:
        b = b.plus(alpha=self.alpha())
        if "policy" not in due:
            return b
        action, log_prob = self.sampled(b.obs, b.noise)
        return b.plus(new_action=action, new_log_prob=log_prob)

    def next_value(self, b: Batch) -> Tensor:
        action, log_prob = self.sampled(b.next_obs, b.next_noise)
        value = self.nets["target_critic"](b.next_obs, action, members=b.subset).amin(0)
        return value - b.alpha * log_prob if self.c.backup_entropy else value

    def policy_loss(self, b: Batch) -> Tensor:
        return (b.alpha * b.new_log_prob - self.nets["critic"](b.obs, b.new_action).mean(0)).mean()

    def alpha_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_α = α (H - H̄)."""
        log["ent_coef"] = b.alpha
        entropy = -b.new_log_prob.mean().detach()
        log["ent_coef_loss"] = loss = self.temperature["log_alpha"].exp() * (entropy - self.entropy)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        rows = super().table(due)
        return [*rows, ("alpha", self.alpha_loss)] if self.learned and "policy" in due else rows
