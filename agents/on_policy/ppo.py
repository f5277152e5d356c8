"""PPO: Proximal Policy Optimization.

Schulman, Wolski, Dhariwal, Radford, Klimov, 2017, arXiv 1707.06347.

Several epochs of minibatch steps on one rollout, with the probability ratio r = π_θ(a|s) / π_old(a|s) clipped so that
nothing is gained by moving it beyond 1 ± ε in the direction its advantage points to:

    L_CLIP(θ) = E[ min( r A, clip(r, 1 - ε, 1 + ε) A ) ]                                       (eq. 7)
    L(θ)      = E[ -L_CLIP + c_v (V_θ - G)² - c_e H[π_θ] ]                                     (eq. 9)

Differs from A2C in reusing the data; from TRPO in that the trust region is a heuristic: nothing pulls back a ratio that
other samples have pushed out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.schedule import Schedule

__all__ = ["PPO", "surrogate"]


def surrogate(ratio: Tensor, advantage: Tensor, clip_range: float | Tensor) -> Tensor:
    """min(r A, clip(r, 1-ε, 1+ε) A), ``[B]`` (eq. 7)."""
    return torch.min(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


class PPO(OnPolicy):
    """Proximal Policy Optimization with the clipped surrogate."""

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        clip_range: Schedule = hyper(0.2, "[0, inf)", "ε; table 3: 0.2")

    def policy_loss(self, b: Batch) -> Tensor:
        return -surrogate(b.ratio, b.advantage, self.c.clip_range).mean()
