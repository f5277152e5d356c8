"""PPOPenalty: PPO with an adaptive KL penalty.

Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, arXiv 1707.06347, section 4.

The surrogate is not clipped: moving away from the old policy costs, at a price that follows from how far the last
update went, with r = π_θ(a|s) / π_old(a|s):

    L_KLPEN(θ) = E[ r A - β KL(π_old(.|s) || π_θ(.|s)) ]                                       (eq. 8)
    d = E[ KL(π_old(.|s) || π_θ(.|s)) ] after the update:
        d < d_targ / 1.5  ->  β <- β / 2;      d > 1.5 d_targ  ->  β <- 2 β                    (section 4)

Differs from PPO in penalising the distributions' divergence where PPO clips the ratios of the sampled actions; from
FixPO in that nothing enforces d_targ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.dual import Multipliers, penalty
from polopt.on_policy import EpochsConfig, OnPolicy

__all__ = ["PPOPenalty", "adapted"]


def adapted(beta: Tensor, kl: Tensor, target: float) -> Tensor:
    """The next update's β, 0-d: halved below target / 1.5, doubled above 1.5 target."""
    return torch.where(kl < target / 1.5, beta / 2, torch.where(kl > 1.5 * target, beta * 2, beta))


class PPOPenalty(OnPolicy):
    """Proximal Policy Optimization with the adaptive KL penalty."""

    needs_kl = True

    fixed = frozenset({"beta"})
    starts = frozenset({("beta", "dual")})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        d_targ: float = hyper(0.01, "(0, inf)", "d_targ [nat], mean KL an update should make; the paper's best: 0.01")
        beta: float = hyper(1.0, "[1e-6, 1e6]", "β at the start; the paper's 1, quickly forgotten")

    def make_parts(self, **optimizer: Any) -> None:
        super().make_parts(**optimizer)
        self.dual = Multipliers(beta=self.config.beta, floor=1e-6, ceiling=1e6).to(self.device)
        self.nets["dual"] = self.dual

    def policy_loss(self, b: Batch) -> Tensor:
        return -(b.ratio * b.advantage).mean() + penalty(self.dual.beta, b.kl.mean())

    @torch.no_grad()
    def finish(self, b: Batch) -> dict[str, Tensor]:
        self.dual.beta.copy_(adapted(self.dual.beta, self.kl(b).mean(), self.c.d_targ))
        self.dual.project_()
        return {"beta": self.dual.beta.clone()}
