"""DAPO: policy optimisation in an adversarial MDP whose bandit feedback arrives d_k episodes late.

Episodes of H steps with costs in [0, 1], known P; episode j's path and costs arrive at the end of episode j + d_j. With
the policy pi_k and the occupancy mu_k of the episode k at whose end it arrives, cost-to-go L and ``gamma = 2 eta H``:

1. ratio      ``r_j(s, a) = pi_j(a|s) / max(pi_j(a|s), pi_k(a|s))``
2. estimate   ``Qhat_j(s, a) = r_j(s, a) 1[(s, a) visited] L_j / (mu_j(s) pi_j(a|s) + gamma)``, at most Q in expectation
3. bonus      ``b_j(s) = sum_a 3 gamma H pi_k(a|s) r_j(s, a) / (mu_j(s) pi_j(a|s) + gamma)``,
              ``B_j(s, a) = b_j(s) + E_(s', a' ~ pi_k) B_j(s', a')``
4. policy     ``pi_(k+1) = pi_k exp(-eta sum_(j arriving) (Qhat_j - B_j)) / Z``

With ``D = sum_k d_k`` and ``eta = (H^2 S A K + H^4 (K + D))^(-1/2)`` the regret is ``O~(H^2 sqrt(SAK) + H^3 sqrt(K + D))``.

Source: T. Lancewicki, A. Rosenberg, D. Sotnikov, 2023, arXiv 2305.07911.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import layered
from ..mdp import FiniteHorizonMDP
from ..measure import RegretRecorder, bound_ratio, log_checkpoints, slope
from ..simplex import log_normalise
from ..simulate import Paths, simulate

__all__ = [
    "Episode",
    "adapted_ratio",
    "bonus",
    "constant_delays",
    "estimate",
    "heavy_tailed_delays",
    "missing_delays",
    "mirror_step",
    "plain_ratio",
    "play",
    "regret_bound",
    "theory_rate",
]

Ratio = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``ratio(pi_j, pi_k) -> r_j``, all ``[N, H, n, A]``."""


class Episode(NamedTuple):
    """N episodes j, kept until their feedback arrives."""

    pi: np.ndarray
    """``[N, H, n, A]``."""
    mu: np.ndarray
    """``[N, H, n]``."""
    paths: Paths
    to_go: np.ndarray
    """Cost from each step on, ``[N, H]``."""


def adapted_ratio(pi_j: np.ndarray, pi_k: np.ndarray) -> np.ndarray:
    """Equation 1, in (0, 1]: the weight ``pi_k r_j / pi_j = pi_k / max(pi_j, pi_k)`` is at most 1 too."""
    return pi_j / np.maximum(pi_j, pi_k)


def plain_ratio(pi_j: np.ndarray, pi_k: np.ndarray) -> np.ndarray:
    """The importance weighting that delays break: 1."""
    return np.ones(np.broadcast_shapes(pi_j.shape, pi_k.shape))


def estimate(episode: Episode, ratio: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Equation 2, ``[N, H, n, A]``; gamma ``[N, 1, 1, 1]``."""
    visited = np.zeros(ratio.shape)
    seeds, steps = np.arange(len(ratio))[:, None], np.arange(ratio.shape[1])
    visited[seeds, steps, episode.paths.states, episode.paths.actions] = episode.to_go
    return ratio * visited / (episode.mu[..., None] * episode.pi + gamma)


def bonus(P: np.ndarray, episode: Episode, pi_k: np.ndarray, ratio: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Equation 3's B, ``[N, H, n, A]``, of P ``[H, n, A, n]``."""
    H = P.shape[0]
    width = 3 * gamma * H * ratio / (episode.mu[..., None] * episode.pi + gamma)
    b = (pi_k * width).sum(-1, keepdims=True)
    return finite.evaluate(P, np.broadcast_to(b, ratio.shape), pi_k)[1]


def mirror_step(log_pi: np.ndarray, loss: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Equation 4 on log-probabilities ``[N, H, n, A]``; eta ``[N, 1, 1, 1]``."""
    return log_normalise(log_pi - eta * loss)


def theory_rate(horizon: int, num_states: int, num_actions: int, delays: np.ndarray) -> float:
    """``(H^2 S A K + H^4 (K + D))^(-1/2)`` of delays ``[K]``; S counts the states of all layers."""
    K, D = len(delays), float(np.sum(delays))
    return float((horizon**2 * num_states * num_actions * K + horizon**4 * (K + D)) ** -0.5)


def regret_bound(horizon: int, num_states: int, num_actions: int, K: int, D: np.ndarray) -> np.ndarray:
    """``H^2 sqrt(SAK) + H^3 sqrt(K + D)``: the theorem's terms with constants 1 and without logarithms."""
    return horizon**2 * np.sqrt(num_states * num_actions * K) + horizon**3 * np.sqrt(K + np.asarray(D, np.float64))


def constant_delays(K: int, d: int) -> np.ndarray:
    """``d_k = d``, cut at the end of the game: ``[K]``."""
    return np.minimum(d, K - np.arange(K))


def heavy_tailed_delays(K: int, mean: float, rng: int = 0) -> np.ndarray:
    """Pareto delays with tail index 1.5 (finite mean, no variance), cut at the end of the game: ``[K]``."""
    drawn = mean / 2 * np.random.default_rng(rng).pareto(1.5, K)
    return np.minimum(drawn.astype(int), K - np.arange(K))


def missing_delays(K: int, every: int) -> np.ndarray:
    """No delay, but every ``every``-th episode's feedback comes only when the game is over: ``[K]``."""
    k = np.arange(K)
    return np.where(k % every == every - 1, K - k, 0)


def play(
    mdp: FiniteHorizonMDP,
    means: np.ndarray,
    delays: np.ndarray,
    eta: np.ndarray,
    ratio: Ratio,
    checkpoints: np.ndarray,
    rng: int,
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """N seeds side by side over the K episodes of ``delays [K]``.

    Args:
        means: Bernoulli cost means ``[H, n, A]``.
        eta: ``[N]``.
        scale: multiplies ``gamma = 2 eta H``, and with it the bonus; 1 is the theory's.

    Returns:
        Expected regret ``[N, checkpoints]`` and the largest importance weight ``pi_k r_j/pi_j`` used so far, likewise.
    """
    rng, eta = np.random.default_rng(rng), np.asarray(eta, np.float64)
    N, (H, n, A) = len(eta), means.shape
    seeds, steps = np.arange(N)[:, None], np.arange(H)
    eta = eta[:, None, None, None]
    gamma = scale * 2 * eta * H
    optimum = -finite.plan(mdp.P, -means)[0][0] @ mdp.mu
    log_pi = np.full((N, H, n, A), -np.log(A))
    regret, heaviest = RegretRecorder(N, checkpoints), np.zeros(N)
    weights = np.empty((N, len(checkpoints)))
    waiting: defaultdict[int, list[Episode]] = defaultdict(list)
    for k, delay in enumerate(delays):
        pi = np.exp(log_pi)
        mu = finite.occupancy(mdp.P, pi, mdp.mu)
        regret.add((mu[..., None] * pi * means).sum((1, 2, 3)) - optimum)
        paths = simulate(mdp.P, pi, mdp.mu, rng)
        costs = rng.random((N, H)) < means[steps, paths.states, paths.actions]
        waiting[k + int(delay)].append(Episode(pi, mu, paths, costs[:, ::-1].cumsum(1)[:, ::-1]))
        loss = np.zeros(pi.shape)
        for episode in waiting.pop(k, ()):
            r = ratio(episode.pi, pi)
            loss += estimate(episode, r, gamma) - bonus(mdp.P, episode, pi, r, gamma)
            heaviest = np.maximum(heaviest, (pi * r / episode.pi).max((1, 2, 3)))
        log_pi = mirror_step(log_pi, loss, eta)
        weights[:, checkpoints >= k + 1] = heaviest[:, None]
    return regret.regret, weights


def cost_means(horizon: int, width: int, num_actions: int, rng: int = 0) -> np.ndarray:
    """.6, but .2 for one action a state, ``[H, n, A]``."""
    best = np.random.default_rng(rng).integers(num_actions, size=(horizon, width))
    return 0.6 - 0.4 * np.eye(num_actions)[best]
