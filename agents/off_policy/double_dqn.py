"""Double DQN.

van Hasselt, Guez, Silver, 2016, arXiv 1509.06461.

The maximum in DQN's target picks and values the successor's action by the same noisy estimates, and so overestimates. Here
the network picks it and its copy Q̄ values it:

    y = r + γ (1 - d) Q̄(s', argmax_a' Q(s', a'))                                                   (eq. 4)

Differs from DQN in the target only.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.q_learning import QLearning, QLearningConfig, taken

__all__ = ["DoubleDQN"]


class DoubleDQN(QLearning):
    """Double DQN."""

    @dataclass(frozen=True, kw_only=True)
    class Config(QLearningConfig):
        pass

    def next_value(self, b: Batch) -> Tensor:
        return taken(self.nets["target_policy"].of(b.next_obs), self.policy.of(b.next_obs).argmax(-1))
