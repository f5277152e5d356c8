"""Steps on the probability simplex: Euclidean projection, KL prox in log space, and the Tsallis-1/2 minimiser."""

from __future__ import annotations

import numpy as np

__all__ = ["kl", "kl_prox", "log_normalise", "project_simplex", "tsallis_minimiser"]

LOG_FLOOR = -700.0
"""Smallest log-probability carried: exp of it is still a normal number."""


def project_simplex(x: np.ndarray) -> np.ndarray:
    """The Euclidean projection of ``[..., A]`` on the simplex, by sorting.

    Source: M. Held, P. Wolfe, H. Crowder, Validation of subgradient optimization, 1974.
    """
    A = x.shape[-1]
    ordered = -np.sort(-x, axis=-1)
    excess = (ordered.cumsum(-1) - 1.0) / np.arange(1, A + 1)
    support = (ordered > excess).sum(-1, keepdims=True)
    return np.maximum(x - np.take_along_axis(excess, support - 1, axis=-1), 0.0)


def log_normalise(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities ``[..., A]`` of logits, floored at -700."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.maximum(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), LOG_FLOOR)


def kl_prox(log_pi: np.ndarray, gain: np.ndarray, eta: float | np.ndarray) -> np.ndarray:
    """``argmax_p eta <gain, p> - KL(p || pi)`` as log-probabilities ``[..., A]``: ``pi exp(eta gain) / Z``."""
    return log_normalise(log_pi + eta * gain)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """``KL(p || q)`` [nats], ``[...]``, of laws ``[..., A]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)


def tsallis_minimiser(L: np.ndarray, eta: np.ndarray, tol: float = 1e-13) -> np.ndarray:
    """``argmin_p <p, L> - (4/eta) sum_a sqrt(p_a)`` over the simplex, ``[..., A]``; eta ``[...]``.

    ``p_a = 4 / (eta (L_a - x))^2`` with the x < min L at which they sum to 1, by Newton's method from
    ``x = min L - 2/eta``: the sum is at least 1 there, convex and increasing, so the iterates decrease to the root.

    Source: J. Zimmert, Y. Seldin, Tsallis-INF, arXiv 1807.07623.
    """
    lowest = L.min(-1, keepdims=True)
    eta = np.asarray(eta)[..., None]
    gap = eta / 2 * (L - lowest)
    x = np.full((*gap.shape[:-1], 1), -1.0)
    for _ in range(100):
        root = 1.0 / (gap - x)
        excess = (root**2).sum(-1, keepdims=True) - 1.0
        if float(excess.max()) <= tol:
            break
        x = x - excess / (2 * (root**3).sum(-1, keepdims=True))
    p = 1.0 / (gap - x) ** 2
    return p / p.sum(-1, keepdims=True)
