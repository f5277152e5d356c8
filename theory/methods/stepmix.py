"""StepMix and EpsMix: near-optimal conservative exploration (Li, Huang, Shen, Yang, 2023, arXiv 2306.06265).

Explore while, in *every* episode and with high probability, the executed policy's expected return is at least
``threshold = (1 - alpha) V_b``, V_b the known value of a safe baseline. With counts n and half-widths
``w_h(s, a) = scale (H - h) sqrt(L / n)``, L = log(10 k) in episode k:

1. optimistic policy    greedy for ``Q = min(r + P_hat V + w, H - h)``
2. step mixtures        pi_j: the baseline for the first j steps, then the optimistic policy; pi_0 is optimistic, pi_H the baseline
3. lower values         ``Q = max(r + P_hat V - w, 0)`` along pi_j; pi_H's is at least V_b
4. StepMix              j the first with ``low_j >= threshold``; pi_j with probability
                        ``rho = (threshold - low_{j-1}) / (low_j - low_{j-1})``, else pi_{j-1}
5. EpsMix               the baseline with probability ``(threshold - low_0) / (V_b - low_0)``, else the optimistic policy

Theory: no violation with probability 1 - delta, and UCBVI's regret plus a constant. ``scale = 1`` is the theory's width, for which
regret is linear for any affordable K; curves use .1. The half-widths are Hoeffding's, where the paper's are Bernstein's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..mdp import FiniteHorizonMDP
from ..measure import bound_ratio, log_checkpoints, slope
from ..simulate import sample

__all__ = [
    "Run",
    "epsmix_weights",
    "explore",
    "lower_values",
    "optimistic_plan",
    "step_mixtures",
    "stepmix_weights",
    "testbed",
    "unconstrained_weights",
]

Weights = Callable[[np.ndarray, float, float], np.ndarray]
"""``weights(low [N, H+1], threshold, V_b) -> [N, H+1]``: with what probability each step mixture is executed."""


class Run(NamedTuple):
    """K episodes of N seeds."""

    value: np.ndarray
    """``[N, K]``, the executed mixture's exact value."""
    weights: np.ndarray
    """``[N, K, H+1]`` of the step mixtures."""
    low: np.ndarray
    """``[N, K, H+1]``, their lower values."""
    covered: np.ndarray
    """``[N, K]`` bool: every step mixture's value lies above its lower value, the optimum below the optimistic one."""


def optimistic_plan(P_hat: np.ndarray, r: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Equation 1: V ``[..., H+1, S]`` and one-hot policies ``[..., H, S, A]``."""
    H, S, A = r.shape
    V, actions = np.zeros((*w.shape[:-3], H + 1, S)), np.empty((*w.shape[:-3], H, S), int)
    for h in range(H - 1, -1, -1):
        expected = finite.expect(P_hat[..., h, :, :, :], V[..., h + 1, :])
        Q = np.minimum(r[h] + expected + w[..., h, :, :], H - h)
        V[..., h, :], actions[..., h, :] = Q.max(-1), Q.argmax(-1)
    return V, np.eye(A)[actions]


def step_mixtures(baseline: np.ndarray, optimistic: np.ndarray) -> np.ndarray:
    """Equation 2: ``[..., H+1, H, S, A]`` of a baseline ``[H, S, A]`` and optimistic policies ``[..., H, S, A]``."""
    H = len(baseline)
    early = np.arange(H) < np.arange(H + 1)[:, None]
    return np.where(early[:, :, None, None], baseline, optimistic[..., None, :, :, :])


def lower_values(P_hat: np.ndarray, r: np.ndarray, w: np.ndarray, mixtures: np.ndarray, s0: int) -> np.ndarray:
    """Equation 3 at the start: ``[..., H+1]`` of mixtures ``[..., H+1, H, S, A]``."""
    V = np.zeros(mixtures.shape[:-3] + r.shape[1:2])
    for h in range(len(r) - 1, -1, -1):
        expected = finite.expect(P_hat[..., None, h, :, :, :], V)
        Q = np.maximum(r[h] + expected - w[..., None, h, :, :], 0.0)
        V = (mixtures[..., h, :, :] * Q).sum(-1)
    return V[..., s0]


def unconstrained_weights(low: np.ndarray, threshold: float, V_b: float) -> np.ndarray:
    """UCBVI: always optimistic."""
    return np.eye(low.shape[-1])[np.zeros(low.shape[:-1], int)]


def stepmix_weights(low: np.ndarray, threshold: float, V_b: float) -> np.ndarray:
    """Equation 4."""
    seeds = np.arange(len(low))
    j = (low >= threshold).argmax(-1)  # pi_H always passes
    previous = np.maximum(j - 1, 0)
    rise = low[seeds, j] - low[seeds, previous]
    rho = np.where(j == 0, 1.0, (threshold - low[seeds, previous]) / np.where(rise > 0, rise, 1.0))
    weights = np.zeros(low.shape)
    weights[seeds, previous] = 1 - rho
    weights[seeds, j] += rho
    return weights


def epsmix_weights(low: np.ndarray, threshold: float, V_b: float) -> np.ndarray:
    """Equation 5."""
    short = low[:, 0] < threshold
    rho = np.where(short, (threshold - low[:, 0]) / np.where(short, V_b - low[:, 0], 1.0), 0.0)
    weights = np.zeros(low.shape)
    weights[:, 0], weights[:, -1] = 1 - rho, rho
    return weights


def explore(
    mdp: FiniteHorizonMDP,
    baseline: np.ndarray,
    weights: Weights,
    alpha: float,
    num_episodes: int,
    num_seeds: int,
    scale: float = 0.1,
    rng: int = 0,
) -> Run:
    """Run N seeds side by side; P is unknown to them, r is known.

    Raises:
        ValueError: alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in [0, 1]: the share of the baseline's value that may be given up")
    rng = np.random.default_rng(rng)
    H, S, A = mdp.r.shape
    N, s0 = num_seeds, int(mdp.mu.argmax())
    V_b = float(finite.evaluate(mdp.P, mdp.r, baseline)[0][0, s0])
    best = float(finite.plan(mdp.P, mdp.r)[0][0, s0])
    threshold = (1 - alpha) * V_b
    counts = np.zeros((N, H, S, A, S))
    depth = (H - np.arange(H))[:, None, None]
    seeds = np.arange(N)
    value, covered = np.empty((N, num_episodes)), np.empty((N, num_episodes), bool)
    all_weights, all_low = np.empty((2, N, num_episodes, H + 1))
    for k in range(num_episodes):
        n = counts.sum(-1)
        P_hat = counts / np.maximum(n, 1)[..., None]
        L = np.log(10 * (k + 1))
        w = np.where(n > 0, scale * depth * np.sqrt(L / np.maximum(n, 1)), depth)
        upper, optimistic = optimistic_plan(P_hat, mdp.r, w)
        mixtures = step_mixtures(baseline, optimistic)
        low = lower_values(P_hat, mdp.r, w, mixtures, s0)
        exact = finite.evaluate(mdp.P, mdp.r, mixtures)[0][..., 0, s0]
        covered[:, k] = (low <= exact + 1e-12).all(-1) & (upper[:, 0, s0] >= best - 1e-12)
        low[:, -1] = np.maximum(low[:, -1], V_b)
        chosen = weights(low, threshold, V_b)
        value[:, k], all_weights[:, k], all_low[:, k] = (chosen * exact).sum(-1), chosen, low
        pi = mixtures[seeds, sample(chosen, rng.random(N))]
        s = np.full(N, s0)
        for h in range(H):
            a = sample(pi[seeds, h, s], rng.random(N))
            successor = sample(mdp.P[h, s, a], rng.random(N))
            counts[seeds, h, s, a, successor] += 1
            s = successor
    return Run(value, all_weights, all_low, covered)


def testbed(seed: int = 0) -> tuple[FiniteHorizonMDP, np.ndarray]:
    """S 4, A 3, H 4, Dirichlet(.5) transitions, squared uniform rewards, start 0; baseline softmax(2 Q*)."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(4, 0.5), (4, 4, 3))
    mdp = FiniteHorizonMDP(P, rng.random((4, 4, 3)) ** 2, np.eye(4)[0])
    weights = np.exp(2 * finite.plan(mdp.P, mdp.r)[1])
    return mdp, weights / weights.sum(-1, keepdims=True)


def experiment(seed: int = 0) -> Experiment:
    """Violations and regret of UCBVI, StepMix and EpsMix over 32 seeds and 6000 episodes, alpha .1."""
    mdp, baseline = testbed(0)
    episodes, alpha = 6000, 0.1
    best = float(finite.plan(mdp.P, mdp.r)[0][0, 0])
    threshold = (1 - alpha) * float(finite.evaluate(mdp.P, mdp.r, baseline)[0][0, 0])
    methods = {"UCBVI": unconstrained_weights, "StepMix": stepmix_weights, "EpsMix": epsmix_weights}
    runs = {name: explore(mdp, baseline, w, alpha, episodes, 32, rng=seed) for name, w in methods.items()}
    regret = {name: (best - run.value).cumsum(-1) for name, run in runs.items()}
    violations = {name: int((run.value < threshold - 1e-9).sum()) for name, run in runs.items()}
    shown = log_checkpoints(episodes, 30) - 1
    extra = (regret["StepMix"] - regret["UCBVI"]).mean(0)
    k = shown + 1.0
    H, S, A = mdp.r.shape
    growth = np.sqrt(H**3 * S * A * k)  # the theorem's leading term, with constant 1 and without logarithms
    fits = {name: slope(k, y[:, shown], 1000) for name, y in regret.items()}
    sure = explore(mdp, baseline, stepmix_weights, alpha, 300, 32, scale=1.0, rng=seed)
    findings = [
        Finding.at_most("StepMix: violating episodes of 192 000", violations["StepMix"], 0),
        Finding.at_most("EpsMix: violating episodes of 192 000", violations["EpsMix"], 0),
        Finding.at_least("UCBVI: violating episodes of 192 000", violations["UCBVI"], 1),
        Finding.at_most("StepMix - UCBVI: regret added after episode 3000", extra[-1] - extra[2999], 5),
        *(
            Finding.at_most(f"{name}: slope of the regret over [1000, 6000], upper 95 %", fits[name].high, 0.5)
            for name in ("StepMix", "EpsMix")
        ),
        Finding.at_most("StepMix: largest regret / √(H³SAk)", bound_ratio(regret["StepMix"].mean(0)[shown], growth), 1),
        Finding.at_least("theory's widths: share of episodes where bounds hold", sure.covered.mean(), 1),
    ]
    level = np.full(len(shown), threshold)
    return Experiment(
        "StepMix: never below the threshold, for a constant more regret",
        "Li, Huang, Shen, Yang 2023, arXiv 2306.06265",
        [
            Panel(
                "value of the executed policy (lowest of 32 seeds)",
                "episode",
                "value",
                [Curve(name, shown + 1, run.value.min(0)[shown]) for name, run in runs.items()]
                + [Curve("threshold .9 V(baseline)", shown + 1, level, "level")],
                "log",
            ),
            Panel(
                "cumulative regret",
                "episode",
                "regret",
                [Curve(f"{name} (tail slope {fits[name].estimate:.2f})", k, y[:, shown]) for name, y in regret.items()]
                + [Curve("√(H³SAk), the theorem's leading term", k, growth, "bound")],
                "log",
                "log",
            ),
        ],
        findings,
    )
