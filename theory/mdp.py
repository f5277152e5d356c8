"""Markov decision processes as arrays, checked when they are built.

Axes: S states, A actions, H steps. A dense kernel is ``P[s, a, s']``; a sparse one is a ``scipy.sparse`` matrix
``[S*A, S]`` whose row ``s*A + a`` is the law of the successor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

__all__ = ["MDP", "AverageRewardMDP", "ConstrainedMDP", "FiniteHorizonMDP"]

_ROW_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class MDP:
    """A discounted MDP.

    Args:
        P: transition kernel ``[S, A, S]``, or a sparse matrix ``[S*A, S]``.
        r: reward ``[S, A]``, or ``[S, A, S]`` of the transition, which is averaged over the successor (dense P only).
        gamma: discount in [0, 1).
        rho: start law ``[S]``; uniform where None.

    Raises:
        ValueError: a row of P that is no law, gamma outside [0, 1), or shapes that disagree.
    """

    P: Any
    r: Any
    gamma: float
    rho: Any = None

    def __post_init__(self) -> None:
        gamma = float(self.gamma)
        if not 0.0 <= gamma < 1.0:
            raise ValueError(
                f"gamma={gamma} must be in [0, 1); for undiscounted returns use FiniteHorizonMDP or AverageRewardMDP"
            )
        P, r = _kernel_and_reward(self.P, self.r)
        _set(self, P=P, r=r, gamma=gamma, rho=_law("rho", self.rho, P.shape[-1]))

    @property
    def num_states(self) -> int:
        """S."""
        return self.r.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.r.shape[1]

    @property
    def is_sparse(self) -> bool:
        """Whether P is a sparse ``[S*A, S]`` matrix."""
        return sparse.issparse(self.P)

    def expect(self, V: np.ndarray) -> np.ndarray:
        """``E[V(s') | s, a]``, ``[..., S, A]``, of values ``[..., S]``."""
        if self.is_sparse:
            flat = self.P @ V.reshape(-1, self.num_states).T
            return flat.T.reshape(*V.shape[:-1], *self.r.shape)
        return (V @ self.P.reshape(-1, self.num_states).T).reshape(*V.shape[:-1], *self.r.shape)

    def backup(self, V: np.ndarray) -> np.ndarray:
        """``Q(s, a) = r(s, a) + gamma E[V(s')]``, ``[..., S, A]``, of values ``[..., S]``."""
        return self.r + self.gamma * self.expect(V)

    def kernel(self, pi: np.ndarray) -> Any:
        """``P_pi(s, s') = sum_a pi(a|s) P(s'|s, a)``: ``[..., S, S]``, or a sparse matrix ``[S, S]``."""
        if not self.is_sparse:
            return np.matmul(pi[..., None, :], self.P)[..., 0, :]
        S, A = self.r.shape
        if pi.shape != (S, A):
            raise ValueError(f"pi has shape {pi.shape}; with a sparse P it is one policy {(S, A)}")
        mix = sparse.csr_matrix((pi.ravel(), np.arange(S * A), np.arange(0, S * A + 1, A)), shape=(S, S * A))
        return mix @ self.P

    def dense(self) -> MDP:
        """The same MDP with a dense kernel."""
        if not self.is_sparse:
            return self
        P = self.P.toarray().reshape(*self.r.shape, self.num_states)
        return MDP(P, self.r, self.gamma, self.rho)


@dataclass(frozen=True, eq=False)
class ConstrainedMDP(MDP):
    """A discounted MDP with limits on discounted costs: ``E[sum_t gamma^t costs[i]] <= limits[i]``.

    Args:
        costs: ``[m, S, A]`` (or ``[S, A]`` for one constraint).
        limits: ``[m]``, in units of discounted sums.
    """

    costs: Any = None
    limits: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.costs is None or self.limits is None:
            raise ValueError("ConstrainedMDP needs costs [m, S, A] and limits [m]")
        costs = np.asarray(self.costs, np.float64)
        costs = costs[None] if costs.ndim == 2 else costs
        limits = np.atleast_1d(np.asarray(self.limits, np.float64))
        if costs.shape[1:] != self.r.shape:
            raise ValueError(f"costs has shape {costs.shape}; r {self.r.shape} needs costs [m, S, A]")
        if limits.shape != costs.shape[:1]:
            raise ValueError(f"limits has shape {limits.shape}; {len(costs)} costs need {len(costs)} limits")
        _set(self, costs=costs, limits=limits)


@dataclass(frozen=True, eq=False)
class AverageRewardMDP:
    """An undiscounted MDP whose policies have one recurrent class each (unichain); P ``[S, A, S]``, r ``[S, A]``."""

    P: Any
    r: Any

    def __post_init__(self) -> None:
        if sparse.issparse(self.P):
            raise ValueError("P is sparse; AverageRewardMDP takes a dense P [S, A, S]: P.toarray().reshape(S, A, S)")
        P, r = _kernel_and_reward(self.P, self.r)
        _set(self, P=P, r=r)

    @property
    def num_states(self) -> int:
        """S."""
        return self.r.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.r.shape[1]

    def discounted(self, gamma: float, rho: ArrayLike | None = None) -> MDP:
        """The discounted MDP with the same arrays."""
        return MDP(self.P, self.r, gamma, rho)


@dataclass(frozen=True, eq=False)
class FiniteHorizonMDP:
    """H steps h = 0..H-1 with V_H = 0.

    Args:
        P: ``[H, S, A, S]``; the last step's kernel is never used.
        r: ``[H, S, A]``.
        mu: start law ``[S]``; uniform where None.
    """

    P: Any
    r: Any
    mu: Any = None

    def __post_init__(self) -> None:
        P, r = np.asarray(self.P, np.float64), np.asarray(self.r, np.float64)
        if P.ndim != 4 or P.shape[1] != P.shape[3]:
            raise ValueError(
                f"P has shape {P.shape}; it must be [H, S, A, S] (FiniteHorizonMDP.stationary repeats one)"
            )
        if r.shape != P.shape[:3]:
            raise ValueError(f"r has shape {r.shape}; P {P.shape} needs r {P.shape[:3]}")
        _check_rows(P)
        _check_finite("r", r)
        _set(self, P=P, r=r, mu=_law("mu", self.mu, P.shape[-1]))

    @classmethod
    def stationary(cls, P: ArrayLike, r: ArrayLike, horizon: int, mu: ArrayLike | None = None) -> FiniteHorizonMDP:
        """The same P ``[S, A, S]`` and r ``[S, A]`` at each of ``horizon`` steps."""
        P, r = np.asarray(P, np.float64), np.asarray(r, np.float64)
        return cls(np.broadcast_to(P, (horizon, *P.shape)), np.broadcast_to(r, (horizon, *r.shape)), mu)

    @property
    def horizon(self) -> int:
        """H."""
        return self.r.shape[0]

    @property
    def num_states(self) -> int:
        """S."""
        return self.r.shape[1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.r.shape[2]


def _set(instance: Any, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            value = value.view()
            value.flags.writeable = False
        object.__setattr__(instance, name, value)


def _kernel_and_reward(P: Any, r: Any) -> tuple[Any, np.ndarray]:
    r = np.asarray(r, np.float64)
    _check_finite("r", r)
    if sparse.issparse(P):
        P = sparse.csr_matrix(P, dtype=np.float64)
        if r.ndim != 2 or P.shape != (r.size, r.shape[0]):
            raise ValueError(f"r has shape {r.shape} and sparse P {P.shape}; they must be [S, A] and [S*A, S]")
        _check_rows(P, num_actions=r.shape[1])
        return P, r
    P = np.asarray(P, np.float64)
    if P.ndim != 3 or P.shape[0] != P.shape[2]:
        raise ValueError(f"P has shape {P.shape}; it must be [S, A, S] (or a scipy.sparse matrix [S*A, S])")
    _check_rows(P)
    if r.shape == P.shape:
        r = (P * r).sum(-1)
    if r.shape != P.shape[:2]:
        raise ValueError(f"r has shape {r.shape}; P {P.shape} needs r {P.shape[:2]} or {P.shape}")
    return P, r


def _check_finite(name: str, x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(f"{name}{list(where)} is {x[where]}; every entry must be finite")


def _check_rows(P: Any, num_actions: int | None = None) -> None:
    values = P.data if num_actions else P
    if not np.isfinite(values).all() or (values.size and values.min() < 0):
        raise ValueError(f"P has an entry {np.nanmin(values)} or not finite; probabilities must be finite and >= 0")
    sums = np.asarray(P.sum(-1)).reshape(-1, num_actions) if num_actions else P.sum(-1)
    off = np.abs(sums - 1.0) > _ROW_TOLERANCE
    if off.any():
        where = tuple(int(i) for i in np.argwhere(off)[0])
        raise ValueError(
            f"P{list(where)} sums to {sums[where]:.6g} ({int(off.sum())} such rows); every row must sum to 1: "
            "divide P by its sum over successors"
        )


def _law(name: str, law: Any, size: int) -> np.ndarray:
    if law is None:
        return np.full(size, 1.0 / size)
    law = np.asarray(law, np.float64)
    if law.shape != (size,):
        raise ValueError(f"{name} has shape {law.shape}; {size} states need shape ({size},)")
    if not np.isfinite(law).all() or law.min() < 0 or abs(law.sum() - 1.0) > _ROW_TOLERANCE:
        raise ValueError(f"{name} must be >= 0 and sum to 1; its least entry is {law.min()}, its sum {law.sum():.6g}")
    return law
