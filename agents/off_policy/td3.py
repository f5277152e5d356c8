"""TD3: Twin Delayed Deep Deterministic policy gradient.

Fujimoto, van Hoof, Meger, 2018, arXiv 1802.09477.

DDPG's critic overestimates because its actor exploits its errors. Three remedies: the smaller of two lagged critics, noise
on the target action, and actor and lagged copies that move every d-th step only (algorithm 1). Actions in [-1, 1]:

    ã = clip( μ̄(s') + clip(ε, -c, c), -1, 1 ),  ε ~ N(0, σ²)                                       (eq. 14)
    y = r + γ (1 - d) min_k Q̄_k(s', ã),      L_Q = Σ_k E[ (Q_k(s, a) - y)² ]                       (eq. 10)
    L_μ = -E[ Q_1(s, μ(s)) ]

The critics' half is shared with the offline methods that keep it, and lies in ``polopt/deterministic.py``.
Differs from DDPG in these three; from SAC in a deterministic policy that needs noise to explore (``action_noise``).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.deterministic import TwinDelayed, TwinDelayedConfig, smoothed
from polopt.schedule import Schedule

__all__ = ["TD3", "smoothed"]


class TD3(TwinDelayed):
    """Twin Delayed DDPG."""

    default_arch = (400, 300)

    @dataclass(frozen=True, kw_only=True)
    class Config(TwinDelayedConfig):
        learning_rate: Schedule = hyper(1e-3, "[0, inf)", "learning rate of Adam; the official code: 3e-4")

    def policy_loss(self, b: Batch) -> Tensor:
        return -self.first_value(b.obs, self.action(b.obs)).mean()
