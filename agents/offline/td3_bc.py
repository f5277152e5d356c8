"""TD3BC: TD3+BC, a minimalist approach to offline reinforcement learning.

Fujimoto, Gu, 2021, arXiv 2106.06860.

On a fixed dataset TD3 fails, because its actor picks actions that its critic has never seen. The smallest leash: a behaviour
cloning term beside the value, and the value rescaled so that one weight α serves every task. Observations are standardised
by the dataset's moments, z = (s - mean) / (std + 0.001) (sec. 5). Actions in [-1, 1]:

    L_π = -λ E[ Q_1(s, π(s)) ] + E[ (π(s) - a)² ],      λ = α / E[ |Q_1(s, π(s))| ]                 (eqs. 3, 4)

The mean of the squares is over the batch and the action's entries; λ is over the batch and takes no gradient. The critics
are TD3's (``polopt/deterministic.py``).
Differs from TD3 in the actor's second term, in λ and in the standardised observations.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.deterministic import TwinDelayed, TwinDelayedConfig

__all__ = ["TD3BC", "TD3BCConfig", "leashed"]


def leashed(q: Tensor, alpha: float, distance: Tensor) -> Tensor:
    """-α mean(q) / mean|q| + mean(distance), 0-d, the divisor without gradient (eqs. 3, 4).

    Args:
        q: ``[B]`` values of the policy's actions.
        distance: squared distances ``[B, A]`` of the policy's actions to those they are tied to.
    """
    return -alpha / q.detach().abs().mean() * q.mean() + distance.mean()


@dataclass(frozen=True, kw_only=True)
class TD3BCConfig(TwinDelayedConfig):
    """Hyperparameters of a deterministic actor on a leash."""

    alpha: float = hyper(2.5, "[0, inf)", "α, weight of the value beside the leash; 0: behaviour cloning")
    standardize: bool = hyper(True, doc="observations as (s - mean) / (std + 0.001), moments of the dataset's")
    learning_starts: int = hyper(0, "[0, inf)", "online: steps of random actions; a policy learned offline needs none")


class TD3BC(TwinDelayed):
    """TD3 with behaviour cloning. Learns by :meth:`learn_offline`; online, give it ``action_noise`` to explore by."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TD3BCConfig):
        pass

    def policy_loss(self, b: Batch) -> Tensor:
        u = self.action(b.obs)
        return leashed(self.first_value(b.obs, u), self.c.alpha, (u - b.action).square())
