"""DQN: Deep Q-Network.

Mnih, Kavukcuoglu, Silver, Rusu, Veness, Bellemare, Graves, Riedmiller, Fidjeland, Ostrovski, Petersen, Beattie, Sadik,
Antonoglou, King, Kumaran, Wierstra, Legg, Hassabis, 2015, Nature 518:529; first form: arXiv 1312.5602.

Q-learning with a network, kept stable by a replay and by a copy Q̄ of the network that is renewed every C steps only:

    y = r + γ (1 - d) max_a' Q̄(s', a'),     L = E[ huber( Q(s, a) - y ) ]                          (algorithm 1)

Differs from DDPG in taking the maximum over the actions, of which there are finitely many, instead of learning it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.q_learning import QLearning, QLearningConfig

__all__ = ["DQN"]


class DQN(QLearning):
    """Deep Q-Network."""

    @dataclass(frozen=True, kw_only=True)
    class Config(QLearningConfig):
        pass

    def next_value(self, b: Batch) -> Tensor:
        return self.nets["target_policy"].of(b.next_obs).amax(-1)
