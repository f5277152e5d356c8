"""DAPO, delay-adapted policy optimization (Lancewicki, Rosenberg, Sotnikov, 2023, arXiv 2305.07911), known transitions.

In an episodic adversarial MDP the costs of episode j arrive only at the end of episode j + d_j. Importance weights of a stale
policy pi_j against the present pi_k can be large; DAPO divides by the larger of the two. At the end of episode k, for all
arrivals j together, with costs-to-go L, implicit exploration ``gamma = 2 eta H`` and S all (layer, state) pairs:

1. ``r_j(s, a) = pi_j / max(pi_j, pi_k)``
2. ``Qhat_j(s, a) = r_j 1[visited] L_{j,h} / (mu_j(s) pi_j(a|s) + gamma)``
3. ``b_j(s) = sum_a 3 gamma H pi_k r_j / (mu_j pi_j + gamma)``,   ``B_j(s, a) = b_j(s) + E_{s', a' ~ pi_k} B_j``
4. ``pi_{k+1} = pi_k exp(-eta sum_j (Qhat_j - B_j)) / Z``
5. ``eta = (H^2 S A K + H^4 (K + D))^{-1/2}``, ``D = sum d_j``:   regret ``O(H^2 sqrt(S A K) + H^3 sqrt(K + D))``

On benign costs plain ratios (r = 1) do as well; the adaptation's worth is in the bound on the weights, ``pi_k r_j / pi_j <= 1``.
The bonus of 3 over-explores at affordable K: ``scale`` multiplies gamma (1 is the theory's).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import layered
from ..mdp import FiniteHorizonMDP
from ..measure import RegretRecorder, log_checkpoints, slope
from ..simplex import log_normalise
from ..simulate import sample

__all__ = [
    "arrivals",
    "bonus",
    "cost_means",
    "delay_adapted_ratio",
    "estimate_q",
    "plain_ratio",
    "play",
    "regret_bound",
    "theory_rate",
]

Ratio = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``ratio(pi_j, pi_k) -> r_j``."""


def delay_adapted_ratio(pi_j: np.ndarray, pi_k: np.ndarray) -> np.ndarray:
    """Equation 1, in (0, 1]."""
    return pi_j / np.maximum(pi_j, pi_k)


def plain_ratio(pi_j: np.ndarray, pi_k: np.ndarray) -> np.ndarray:
    """1: stale importance weights as they are."""
    return np.ones(np.broadcast_shapes(pi_j.shape, pi_k.shape))


def estimate_q(
    visited: np.ndarray, to_go: np.ndarray, r: np.ndarray, mu_pi: np.ndarray, gamma: np.ndarray
) -> np.ndarray:
    """Equation 2, ``[..., H, n, A]``, of indicators ``[..., H, n, A]`` and costs-to-go ``[..., H]``."""
    return r * visited * to_go[..., None, None] / (mu_pi + gamma)


def bonus(P: np.ndarray, pi_k: np.ndarray, r: np.ndarray, mu_pi: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Equation 3's B, ``[..., H, n, A]``: the Q of pi_k for the reward b."""
    H = len(P)
    b = (3 * gamma * H * pi_k * r / (mu_pi + gamma)).sum(-1, keepdims=True)
    return finite.evaluate(P, np.broadcast_to(b, np.broadcast_shapes(b.shape, r.shape)), pi_k)[1]


def theory_rate(horizon: int, num_pairs: int, num_actions: int, episodes: int, total_delay: float) -> float:
    """Equation 5; ``num_pairs`` counts all (layer, state) pairs."""
    return (horizon**2 * num_pairs * num_actions * episodes + horizon**4 * (episodes + total_delay)) ** -0.5


def regret_bound(
    horizon: int, num_pairs: int, num_actions: int, episodes: int, total_delay: float | np.ndarray
) -> np.ndarray:
    """Equation 5's regret with constants 1 and without logarithms, ``[...]``."""
    delayed = horizon**3 * np.sqrt(episodes + np.asarray(total_delay, np.float64))
    return horizon**2 * np.sqrt(num_pairs * num_actions * episodes) + delayed


def arrivals(delays: np.ndarray) -> list[np.ndarray]:
    """Which episodes' feedback arrives at the end of each of K episodes; what would come after the last one is lost."""
    due = np.arange(len(delays)) + np.asarray(delays)
    order = np.argsort(due, kind="stable")
    return np.split(order, np.searchsorted(due[order], np.arange(1, len(delays) + 1)))[: len(delays)]


def cost_means(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Means .6, and .2 for one action a state, ``[H, n, A]``."""
    best = rng.integers(shape[-1], size=shape[:-1])
    return 0.6 - 0.4 * np.eye(shape[-1])[best]


def play(
    mdp: FiniteHorizonMDP,
    means: np.ndarray,
    delays: np.ndarray,
    eta: np.ndarray,
    ratio: Ratio,
    checkpoints: np.ndarray,
    rng: int,
    scale: float = 1.0,
) -> tuple[RegretRecorder, np.ndarray]:
    """Run ``len(delays)`` episodes of N seeds side by side; returns the regret and the last policies ``[N, H, n, A]``.

    Args:
        means: Bernoulli cost means ``[H, n, A]``.
        delays: ``[K]`` >= 0, shared by the seeds.
        eta: learning rates ``[N]``, one a seed.
    """
    if np.min(delays) < 0:
        raise ValueError(f"delays has {np.min(delays)}; feedback cannot arrive before its episode")
    rng = np.random.default_rng(rng)
    H, n, A = means.shape
    N = len(eta)
    rate = np.asarray(eta)[:, None, None, None]
    gamma = 2 * rate * H * scale
    seeds = np.arange(N)
    optimum = -float(finite.plan(mdp.P, -means)[0][0] @ mdp.mu)
    recorder = RegretRecorder(N, checkpoints)
    log_pi = np.full((N, H, n, A), -np.log(A))
    kept: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
    for k, due in enumerate(arrivals(delays)):
        pi = np.exp(log_pi)
        mu = finite.occupancy(mdp.P, pi, mdp.mu)
        mu_pi = mu[..., None] * pi
        recorder.add((mu_pi * means).sum((-1, -2, -3)) - optimum)
        visited = np.zeros((N, H, n, A))
        costs = np.empty((N, H))
        s = sample(np.broadcast_to(mdp.mu, (N, n)), rng.random(N))
        for h in range(H):
            a = sample(pi[seeds, h, s], rng.random(N))
            visited[seeds, h, s, a] = 1.0
            costs[:, h] = rng.random(N) < means[h, s, a]
            s = sample(mdp.P[h, s, a], rng.random(N))
        kept[k] = (pi, mu_pi, visited, costs[:, ::-1].cumsum(-1)[:, ::-1])
        if len(due) == 0:
            continue
        pi_j, mu_pi_j, visited_j, to_go = (np.stack(x) for x in zip(*(kept.pop(int(j)) for j in due), strict=True))
        r = ratio(pi_j, pi)
        gain = bonus(mdp.P, pi, r, mu_pi_j, gamma) - estimate_q(visited_j, to_go, r, mu_pi_j, gamma)
        log_pi = log_normalise(log_pi + rate * gain.sum(0))
    return recorder, np.exp(log_pi)


def experiment(seed: int = 0) -> Experiment:
    """Regret against the delay on Layered(3, 3, 3) at K = 6000; delays fixed, heavy-tailed and withheld; 32 seeds each."""
    mdp, K, seeds = layered(3, 3, 3, 0), 6000, 32
    means = cost_means(mdp.r.shape, np.random.default_rng(seed))
    points = log_checkpoints(K, 15)

    def run(delays: np.ndarray, eta: np.ndarray, ratio: Ratio, scale: float) -> np.ndarray:
        return play(mdp, means, delays, eta, ratio, points, seed, scale)[0].regret

    fixed_delays, multiples = np.array([0, 25, 50, 100, 200, 400]), np.array([1, 4, 14])
    tuned = []
    for d in fixed_delays:
        rate = theory_rate(3, 9, 3, K, float(K * d))
        regret = run(np.full(K, d), np.repeat(multiples * rate, seeds), delay_adapted_ratio, 0.1)
        tuned.append(regret[:, -1].reshape(len(multiples), seeds))
    tuned = np.stack(tuned, axis=-1)  # [multiple, N, delay]
    D = K * fixed_delays[1:]
    excess = tuned[..., 1:] - tuned[..., :1]
    hardest = tuned.mean(1) / regret_bound(3, 9, 3, K, K * fixed_delays)
    fits = [slope(D, y, K * 100) for y in excess]

    rng = np.random.default_rng(seed)
    schedules = {
        "no delay": np.zeros(K, int),
        "d = 200": np.full(K, 200),
        "heavy-tailed delays": np.minimum(rng.pareto(1.2, K) * 20, K).astype(int),
        "every tenth withheld": np.where(np.arange(K) % 10 == 0, K - 1 - np.arange(K), 0),
    }
    eta = np.full(seeds, 0.01)
    regret = {name: run(delays, eta, delay_adapted_ratio, 1.0) for name, delays in schedules.items()}
    plain = {name: run(schedules[name], eta, plain_ratio, 1.0) for name in ("no delay", "d = 200")}
    final = {name: float(y[:, -1].mean()) for name, y in regret.items()}
    base = final["no delay"]
    plain_share = float(plain["d = 200"][:, -1].mean()) / final["d = 200"]
    identical = float(np.abs(regret["no delay"] - plain["no delay"]).max())
    findings = [
        Finding.at_most("4 x theory's rate: slope of Reg(D) - Reg(0), upper 95 %", fits[1].high, 0.6),
        Finding.at_most("14 x theory's rate: the same", fits[2].high, 0.6),
        Finding.at_most("largest regret / (H²√(SAK) + H³√(K + D)), tuned rates", hardest.max(), 1),
        Finding.at_most("η .01: (Reg(d = 200) - Reg(0)) / Reg(0)", (final["d = 200"] - base) / base, 0.1),
        Finding.at_most("no delay: |DAPO - plain ratio|, regret", identical, 1e-9),
        Finding.near("d = 200: plain ratio / DAPO, regret", plain_share, 1, 0.1),
        Finding.at_most("every tenth withheld: regret / undelayed", final["every tenth withheld"] / base, 1.2),
    ]
    by_delay = [
        Curve(f"{multiple} x theory's rate (tail slope {fit.estimate:.2f})", D, y.mean(0), "marks")
        for multiple, fit, y in zip(multiples, fits, excess, strict=True)
    ]
    by_delay.append(Curve("growth √D", D, excess[-1, :, -1].mean() * np.sqrt(D / D[-1]), "bound"))
    by_delay.append(Curve("H³√D, the theorem's delay term", D, 27 * np.sqrt(D), "level"))
    return Experiment(
        "DAPO: a delay costs an additive √D, free of the numbers of states and actions",
        "Lancewicki, Rosenberg, Sotnikov 2023, arXiv 2305.07911",
        [
            Panel(
                "rate tuned to D, K = 6000, γ x .1",
                "total delay D",
                "Reg(D) - Reg(0)",
                by_delay,
                "log",
                "log",
                (200, 1e6),
            ),
            Panel(
                "η = .01, theory's γ",
                "episode k",
                "regret",
                [
                    *(Curve(f"DAPO, {name}", points, y) for name, y in regret.items()),
                    Curve("plain ratio, d = 200", points, plain["d = 200"]),
                    Curve("uniform play", points, 0.8 * points, "level"),
                ],
                ylim=(0, 5000),
            ),
        ],
        findings,
    )
