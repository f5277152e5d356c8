"""Dynamic policy gradient: beyond stationarity (Klein, Weissmann, Doering, 2024, arXiv 2310.02671).

With a finite horizon the optimal policy depends on time. Softmax parameters ``theta_h(s, a)`` can be trained

1. all at once     ``theta_h += eta mu_h(s) pi_h(a|s) A_h(s, a)`` for every h, ``eta = 1/(H^2 R (2 - 1/A))``,   O(H^5) steps
2. backwards       last step first: with the later policies frozen Q_h is constant, and step h is a contextual bandit,
                   ``theta_h += eta_h mu(s) pi_h(a|s) (Q_h - V_h)(s, a)``,  ``eta_h = 1/(2.5 (H - h) R)``,      O(H^3) each

2 stops step h when ``max_s max_a Q_h - V_h <= eps/H``, so that the errors sum to at most eps. Steps h = 0..H-1, V_H = 0,
rewards in [0, R], mu a start law of full support. What is compared is updates of one time step's parameters: 1 makes H of
them an iteration. The constants in front (of the paper's order, recalled, not copied) do not enter the exponents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..gradients import softmax
from ..mdp import FiniteHorizonMDP
from ..measure import slope

__all__ = [
    "Trained",
    "bandit_step",
    "sampled_gradient",
    "simultaneous_gradient",
    "train_backwards",
    "train_simultaneously",
]


class Trained(NamedTuple):
    """A trained policy and what it took."""

    pi: np.ndarray
    """``[H, S, A]``."""
    iterations: int
    updates: int
    """Updates of one time step's parameters."""


def simultaneous_gradient(mdp: FiniteHorizonMDP, theta: np.ndarray) -> tuple[np.ndarray, float]:
    """``mu_h(s) pi_h(a|s) A_h(s, a)``, ``[H, S, A]``, and the objective ``mu . V_0``.

    The kernels ``P_pi`` of all steps are formed at once: the two sweeps over h are matrix-vector products.
    """
    H, S, _ = theta.shape
    pi = softmax(theta)
    kernels = list(np.matmul(pi[:, :, None, :], mdp.P).reshape(H, S, S))
    r_pi = (pi * mdp.r).sum(-1)
    V, mu = np.zeros((H + 1, S)), np.empty((H, S))
    mu[0] = mdp.mu
    for h in range(H - 1):
        kernels[h].T.dot(mu[h], out=mu[h + 1])
    for h in range(H - 1, -1, -1):
        kernels[h].dot(V[h + 1], out=V[h])
        V[h] += r_pi[h]
    Q = mdp.r + finite.expect(mdp.P, V[1:])
    return mu[..., None] * pi * (Q - V[:-1, :, None]), float(mdp.mu @ V[0])


def train_simultaneously(mdp: FiniteHorizonMDP, eps: float, largest_reward: float = 1.0) -> Trained:
    """Equation 1 from the uniform policy until ``mu . (V* - V) <= eps``."""
    H, A = mdp.horizon, mdp.num_actions
    optimum = float(mdp.mu @ finite.plan(mdp.P, mdp.r)[0][0])
    eta = 1.0 / (H**2 * largest_reward * (2 - 1 / A))
    theta = np.zeros(mdp.r.shape)
    iteration = 0
    while True:
        gradient, value = simultaneous_gradient(mdp, theta)
        if optimum - value <= eps:
            return Trained(softmax(theta), iteration, iteration * H)
        theta += eta * gradient
        iteration += 1


def bandit_step(theta: np.ndarray, Q: np.ndarray, mu: np.ndarray, eta: float) -> np.ndarray:
    """Equation 2 on one time step's logits ``[S, A]``."""
    pi = softmax(theta)
    return theta + eta * mu[:, None] * pi * (Q - (pi * Q).sum(-1, keepdims=True))


def train_backwards(mdp: FiniteHorizonMDP, eps: float, largest_reward: float = 1.0) -> Trained:
    """Equation 2 from the uniform policy; step h stops at a gap of eps/H."""
    H, S, _ = mdp.r.shape
    pi, V, updates = np.empty(mdp.r.shape), np.zeros(S), 0
    for h in range(H - 1, -1, -1):
        Q = mdp.r[h] + finite.expect(mdp.P[h], V)
        best, eta, theta = Q.max(-1), 1.0 / (2.5 * (H - h) * largest_reward), np.zeros(Q.shape)
        while True:
            pi[h] = softmax(theta)
            V = (pi[h] * Q).sum(-1)
            if (best - V).max() <= eps / H:
                break
            theta = theta + eta * mdp.mu[:, None] * pi[h] * (Q - V[:, None])
            updates += 1
    return Trained(pi, updates, updates)


def sampled_gradient(pi: np.ndarray, states: np.ndarray, actions: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """``(1/K) sum R (e_a - pi(.|s))`` at the K visited states of one step, ``[S, A]``: unbiased for ``mu(s) pi (Q - V)``."""
    gradient = np.zeros(pi.shape)
    np.add.at(gradient, states, (np.eye(pi.shape[1])[actions] - pi[states]) * returns[:, None] / len(states))
    return gradient


def experiment(seed: int = 0) -> Experiment:
    """Updates to reach a gap of .1 against the horizon, on Garnet(5, 3, 2)."""
    world = garnet(5, 3, 2, rng=seed + 1)
    horizons = np.array([2, 4, 8, 16])
    updates = {"all steps at once": [], "backwards": []}
    gaps = []
    for H in horizons:
        mdp = FiniteHorizonMDP.stationary(world.P, world.r, int(H))
        updates["all steps at once"].append(train_simultaneously(mdp, 0.1).updates)
        trained = train_backwards(mdp, 0.1)
        updates["backwards"].append(trained.updates)
        best, reached = finite.plan(mdp.P, mdp.r)[0], finite.evaluate(mdp.P, mdp.r, trained.pi)[0]
        gaps.append(float((best[0] - reached[0]).max()))
    counts = {name: np.array(y, float) for name, y in updates.items()}
    together = slope(horizons, counts["all steps at once"], 2).estimate
    backwards = slope(horizons, counts["backwards"], 2).estimate
    ratio = counts["all steps at once"][-1] / counts["backwards"][-1]
    findings = [
        Finding.at_most("backwards: growth exponent in H", backwards, 3.1),
        Finding.at_least("all at once: growth exponent in H", together, 3.4),
        Finding.at_least("H = 16: updates at once / backwards", ratio, 10),
        Finding.at_most("backwards: largest final gap (eps = .1)", max(gaps), 0.1),
    ]
    curves = []
    for (name, y), power in zip(counts.items(), (5, 3), strict=True):
        curves.append(Curve(f"{name} (slope {slope(horizons, y, 2).estimate:.2f})", horizons, y, "marks"))
        curves.append(Curve(f"theory's H^{power}", horizons, 1.6 * y[0] * (horizons / 2.0) ** power, "bound"))
    return Experiment(
        "Policy gradient trained backwards in time: H³ rather than H⁵",
        "Klein, Weissmann, Doering 2024, arXiv 2310.02671",
        [Panel("Garnet(5, 3, 2), gap .1", "horizon H", "updates of a step's parameters", curves, "log", "log")],
        findings,
    )
