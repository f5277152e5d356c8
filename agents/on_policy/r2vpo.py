"""R2VPO: Ratio-Variance Regularized Policy Optimization, on-policy.

Luo et al., 2026, arXiv 2601.03320 (language models) and 2605.26784 (control).

The trust region is a bound on the second moment of the ratio ρ = π_θ(a|s) / π_old(a|s) about 1, which for small steps
is twice the KL. It is kept by a multiplier, not by clipping, so that samples of a large ratio keep their gradient:

    max_θ E[ ρ A ]   subject to   E[ (ρ - 1)² ] <= δ                                           (constrained problem)
    L(θ, λ) = -E[ ρ A ] + λ ( E[ (ρ - 1)² ] - δ )                                              (θ descends)
    λ <- clip( λ + η ( E[ (ρ - 1)² ] - δ ), 0, 100 )                                           (λ ascends)

The moment is heavy-tailed: of each sample's, λ sees at most ``winsor``. The constants are ours; no code was published.

Differs from SPO, which gives each sample the multiplier |A| / (2ε) and δ = 0, in one multiplier for all; from
PPOPenalty in needing no exact KL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.dual import DualPart, Multipliers, dual_loss
from polopt.on_policy import EpochsConfig, OnPolicy

__all__ = ["R2VPO", "lagrangian"]


def lagrangian(ratio: Tensor, advantage: Tensor, multiplier: float | Tensor, delta: float) -> Tensor:
    """ρ A - λ ((ρ - 1)² - δ), ``[B]``: what the policy maximises; λ is 0-d, or one per sample ``[B]``."""
    return ratio * advantage - multiplier * ((ratio - 1).square() - delta)


class R2VPO(OnPolicy):
    """Ratio-Variance Regularized Policy Optimization (R2VPO-ON)."""

    log_ratio_bound = 5.0

    fixed = frozenset({"multiplier", "multiplier_lr"})
    starts = frozenset({("multiplier", "dual")})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        delta: float = hyper(0.03, "(0, inf)", "δ, bound of E[(ρ - 1)²]; about twice a target KL")
        multiplier: float = hyper(1.0, "[0, 100]", "λ at the start")
        multiplier_lr: float = hyper(1.0, "[0, inf)", "η, step of λ per minibatch")
        winsor: float = hyper(1.0, "(0, inf)", "largest (ρ - 1)² of a sample that λ sees")

    def make_parts(self, **optimizer: Any) -> None:
        super().make_parts(**optimizer)
        self.dual = Multipliers(multiplier=self.config.multiplier, floor=0.0, ceiling=100.0).to(self.device)
        self.nets["dual"] = self.dual
        self.parts["dual"] = DualPart(self.dual, torch.optim.SGD, lr=self.config.multiplier_lr)

    def table(self):
        return [*super().table(), ("dual", self.multiplier_loss)]

    def policy_loss(self, b: Batch) -> Tensor:
        return -lagrangian(b.ratio, b.advantage, self.dual.multiplier.detach(), self.c.delta).mean()

    def multiplier_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """λ (δ - E[(ρ - 1)²]), the moment winsorised."""
        log["multiplier"] = self.dual.multiplier.clone()
        return dual_loss(self.dual.multiplier, (b.ratio - 1).square().clamp(max=self.c.winsor).mean(), self.c.delta)
