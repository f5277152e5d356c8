"""What an environment over a tabular problem needs, the same for Gymnasium's and torch's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .mdp import MDP, FiniteHorizonMDP

__all__ = ["Table", "tabulate"]


class Table(NamedTuple):
    """A problem as layers of arrays: one layer for an :class:`MDP`, H for a :class:`FiniteHorizonMDP`."""

    cumulative: np.ndarray
    """``[L, S, A, S]``, the kernel's cumulative sums over successors, the last of them 1."""
    r: np.ndarray
    """``[L, S, A]``."""
    start: np.ndarray
    """``[S]``, cumulative."""
    terminal: np.ndarray
    """``[S]`` bool: entering ends the episode."""
    horizon: int | None
    """Steps after which an episode terminates."""

    @property
    def num_observations(self) -> int:
        """S, or H S where the observation is ``h S + s``."""
        return self.r.shape[0] * self.r.shape[1]


def tabulate(mdp: MDP | FiniteHorizonMDP) -> Table:
    """The table of a problem. An MDP's states that every action keeps at reward 0 end the episode."""
    if isinstance(mdp, FiniteHorizonMDP):
        P, r, start, horizon = mdp.P, mdp.r, mdp.mu, mdp.horizon
        terminal = np.zeros(mdp.num_states, bool)
    elif isinstance(mdp, MDP):
        dense = mdp.dense()
        P, r, start, horizon = dense.P[None], dense.r[None], mdp.rho, None
        stays = np.diagonal(dense.P, axis1=0, axis2=2).min(0) == 1.0
        terminal = stays & (np.abs(dense.r).max(-1) == 0.0)
    else:
        raise TypeError(f"mdp is a {type(mdp).__name__}; MDP and FiniteHorizonMDP have environments")
    return Table(_cumulative(P), r, _cumulative(start), terminal, horizon)


def _cumulative(law: np.ndarray) -> np.ndarray:
    total = law.cumsum(-1)
    return total / total[..., -1:]
