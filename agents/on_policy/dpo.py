"""DPO: Discovered Policy Optimisation, the closed form.

Lu, Kuba, Letcher, Metz, Schroeder de Witt, Foerster, 2022, NeurIPS, arXiv 2210.05639. (Not direct preference
optimisation.)

A mirror-learning update maximises the surrogate less a drift D(r, A) that is nowhere negative, is 0 at r = 1 and has no
slope there; each such update improves the policy. This drift was read off one that evolution strategies had learned,
with r = π_θ(a|s) / π_old(a|s):

    L(θ)    = E[ r A - D(r, A) ]                                                        (mirror learning)
    D(r, A) = relu( (r - 1) A - α tanh((r - 1) A / α) )         where A >= 0
    D(r, A) = relu( A log r - β tanh(A log r / β) )             where A < 0             (the discovered drift)

Differs from PPO, whose drift is relu((r - clip(r, 1 - ε, 1 + ε)) A), in how it ends: smoothly where A >= 0, and where
A < 0 with a pull back towards r = 1 once r is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.on_policy import EpochsConfig, OnPolicy

__all__ = ["DPO", "discovered_drift"]


def discovered_drift(ratio: Tensor, log_ratio: Tensor, advantage: Tensor, alpha: float, beta: float) -> Tensor:
    """D(r, A), ``[B]``, at least 0. ``log_ratio`` comes from the log-probabilities, exact where r underflows."""
    gain, loss = (ratio - 1) * advantage, log_ratio * advantage
    better, worse = gain - alpha * torch.tanh(gain / alpha), loss - beta * torch.tanh(loss / beta)
    return torch.where(advantage >= 0, better, worse).relu()


class DPO(OnPolicy):
    """Discovered Policy Optimisation with the closed-form drift."""

    log_ratio_bound = 20.0

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        alpha: float = hyper(2.0, "(0, inf)", "α, reach of the drift where A >= 0; the paper's 2")
        beta: float = hyper(0.6, "(0, inf)", "β, the same where A < 0; the paper's 0.6, both for normalised advantages")

    def policy_loss(self, b: Batch) -> Tensor:
        drift = discovered_drift(b.ratio, b.log_ratio, b.advantage, self.c.alpha, self.c.beta)
        return -(b.ratio * b.advantage - drift).mean()
