"""Exact gradients of tabular softmax policies: the oracle that sampled policy gradients are tested against.

The objective is ``J(theta) = rho . V`` with ``pi = softmax(theta)``, theta ``[S, A]``; ``d`` sums to 1.

Source: R. S. Sutton, D. McAllester, S. Singh, Y. Mansour, 1999 (policy gradient theorem); S. Kakade, 2001 (natural
gradient); A. Agarwal, S. Kakade, J. Lee, G. Mahajan, arXiv 1908.00261.
"""

from __future__ import annotations

import numpy as np

from .mdp import MDP
from .solvers import evaluate, occupancy

__all__ = [
    "fisher_matrix",
    "natural_gradient",
    "natural_policy_gradient_step",
    "objective",
    "policy_gradient",
    "softmax",
    "trust_region_step",
]


def softmax(theta: np.ndarray) -> np.ndarray:
    """``exp(theta) / sum_a exp(theta)`` over the last axis."""
    weights = np.exp(theta - theta.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def objective(mdp: MDP, theta: np.ndarray) -> np.ndarray:
    """``J(theta) = rho . V``, ``[...]``, of logits ``[..., S, A]``."""
    return evaluate(mdp, softmax(theta)).V @ mdp.rho


def policy_gradient(mdp: MDP, theta: np.ndarray) -> np.ndarray:
    """``dJ/dtheta(s, a) = d(s) pi(a|s) A(s, a) / (1 - gamma)``, ``[..., S, A]``."""
    pi = softmax(theta)
    V, Q = evaluate(mdp, pi)
    return occupancy(mdp, pi)[..., None] * pi * (Q - V[..., None]) / (1 - mdp.gamma)


def fisher_matrix(mdp: MDP, theta: np.ndarray) -> np.ndarray:
    """``F = E_d[grad log pi grad log pi^T]``, ``[S*A, S*A]``: a block ``d(s) (diag(pi) - pi pi^T)`` a state.

    Singular: a constant added to a state's logits changes no policy.
    """
    S, A = theta.shape
    pi, d = softmax(theta), occupancy(mdp, softmax(theta))
    F = np.zeros((S, A, S, A))
    index = np.arange(S)
    F[index, :, index, :] = d[:, None, None] * (np.eye(A) * pi[:, :, None] - pi[:, :, None] * pi[:, None, :])
    return F.reshape(S * A, S * A)


def natural_gradient(mdp: MDP, theta: np.ndarray) -> np.ndarray:
    """``F^+ dJ/dtheta = (A - mean_a A) / (1 - gamma)``, ``[..., S, A]``: the solution of least norm, where d > 0."""
    V, Q = evaluate(mdp, softmax(theta))
    advantage = Q - V[..., None]
    return (advantage - advantage.mean(-1, keepdims=True)) / (1 - mdp.gamma)


def natural_policy_gradient_step(mdp: MDP, theta: np.ndarray, eta: float) -> np.ndarray:
    """``theta + eta F^+ dJ/dtheta``, the multiplicative update ``pi exp(eta A/(1-gamma)) / Z``, ``[..., S, A]``."""
    return theta + eta * natural_gradient(mdp, theta)


def trust_region_step(mdp: MDP, theta: np.ndarray, delta: float) -> np.ndarray:
    """TRPO's step before its line search: along ``x = F^+ g`` as far as ``x^T F x / 2 = delta`` [nats], ``[S, A]``."""
    direction = natural_gradient(mdp, theta)
    curvature = float((direction * policy_gradient(mdp, theta)).sum())
    if curvature <= 0:
        return theta.copy()
    return theta + np.sqrt(2 * delta / curvature) * direction
