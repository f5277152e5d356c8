"""Finite-horizon dynamic programming on arrays whose leading axes broadcast.

A regret loop changes P, r and pi of N seeds every episode, so these take arrays rather than a checked
:class:`~polopt.theory.FiniteHorizonMDP`: P ``[..., H, S, A, S]``, r ``[..., H, S, A]``, pi ``[..., H, S, A]``.
"""

from __future__ import annotations

import numpy as np

__all__ = ["evaluate", "expect", "occupancy", "plan", "trajectory_kl"]


def expect(P: np.ndarray, V: np.ndarray) -> np.ndarray:
    """``E[V(s')]``, ``[..., S, A]``, of a kernel ``[..., S, A, S]`` and values ``[..., S]``."""
    S, A = P.shape[-3:-1]
    flat = np.matmul(P.reshape(*P.shape[:-3], S * A, S), V[..., None])
    return flat.reshape(*flat.shape[:-2], S, A)


def plan(P: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Backward induction: V ``[..., H+1, S]`` with V_H = 0, Q ``[..., H, S, A]``, greedy actions ``[..., H, S]``."""
    H = r.shape[-3]
    lead = np.broadcast_shapes(P.shape[:-4], r.shape[:-3])
    Q = np.empty((*lead, *r.shape[-3:]))
    V = np.zeros((*lead, H + 1, r.shape[-2]))
    for h in range(H - 1, -1, -1):
        Q[..., h, :, :] = r[..., h, :, :] + expect(P[..., h, :, :, :], V[..., h + 1, :])
        V[..., h, :] = Q[..., h, :, :].max(-1)
    return V, Q, Q.argmax(-1)


def evaluate(P: np.ndarray, r: np.ndarray, pi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of ``pi``: V ``[..., H+1, S]`` with V_H = 0 and Q ``[..., H, S, A]``."""
    H = r.shape[-3]
    lead = np.broadcast_shapes(P.shape[:-4], r.shape[:-3], pi.shape[:-3])
    Q = np.empty((*lead, *r.shape[-3:]))
    V = np.zeros((*lead, H + 1, r.shape[-2]))
    for h in range(H - 1, -1, -1):
        Q[..., h, :, :] = r[..., h, :, :] + expect(P[..., h, :, :, :], V[..., h + 1, :])
        V[..., h, :] = (pi[..., h, :, :] * Q[..., h, :, :]).sum(-1)
    return V, Q


def occupancy(P: np.ndarray, pi: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """``mu_h(s) = Pr(s_h = s)``, ``[..., H, S]``; every step sums to 1."""
    H, S = pi.shape[-3:-1]
    lead = np.broadcast_shapes(P.shape[:-4], pi.shape[:-3], mu.shape[:-1])
    out = np.empty((*lead, H, S))
    out[..., 0, :] = mu
    for h in range(H - 1):
        flow = (out[..., h, :, None] * pi[..., h, :, :]).reshape(*lead, 1, -1)
        kernel = P[..., h, :, :, :].reshape(*P.shape[:-4], -1, S)
        out[..., h + 1, :] = np.matmul(flow, kernel)[..., 0, :]
    return out


def trajectory_kl(P: np.ndarray, pi: np.ndarray, q: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """``KL(pi || q)`` over trajectories, ``[...]``: ``sum_h sum_s mu_h(s) KL(pi_h(s) || q_h(s))`` [nats]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(pi > 0, pi * np.log(pi / q), 0.0)
    return (occupancy(P, pi, mu) * terms.sum(-1)).sum((-2, -1))
