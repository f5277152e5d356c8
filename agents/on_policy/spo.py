"""SPO: Simple Policy Optimization.

Xie, Zhang, Yang, Hou et al., 2025, ICML, arXiv 2401.16025 (the quadratic form of the ICML version).

A total-variation bound asks for ratios r = π_θ(a|s) / π_old(a|s) near 1. In place of PPO's clip stands a quadratic
penalty scaled by |A|, whose optimum for a single sample lies exactly where PPO clips:

    L_SPO(θ) = E[ r A - |A| / (2ε) (r - 1)² ]                                                      (objective)
    ∂/∂r     = A - |A| (r - 1) / ε,   zero at   r* = 1 + ε sign A                                  (its optimum)

Differs from PPO in that no sample ever loses its gradient: a ratio beyond r* is pulled back to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.schedule import Schedule

__all__ = ["SPO", "simple_objective"]


def simple_objective(ratio: Tensor, advantage: Tensor, epsilon: float | Tensor) -> Tensor:
    """r A - |A| / (2ε) (r - 1)², ``[B]``; concave in r."""
    return ratio * advantage - advantage.abs() / (2 * epsilon) * (ratio - 1).square()


class SPO(OnPolicy):
    """Simple Policy Optimization."""

    log_ratio_bound = 10.0

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        clip_range: Schedule = hyper(0.2, "(0, inf)", "ε, from 1 to a ratio's optimum; the official script: 0.2")

    def policy_loss(self, b: Batch) -> Tensor:
        return -simple_objective(b.ratio, b.advantage, self.c.clip_range).mean()
