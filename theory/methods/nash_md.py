"""Learning from preferences as a game: Nash-MD, Nash mirror prox, INPO, on tabular preference matrices.

``P(y > y')`` with ``P + P^T = 1``, possibly intransitive, takes the place of a reward. The regularised game
``P(pi > pi') - tau KL(pi || mu) + tau KL(pi' || mu)`` has one equilibrium, ``pi* = mu exp(P pi*/tau) / Z``:

1. self-play (MWU)   ``pi <- pi exp(eta P pi) / Z``; the average converges, the last iterate cycles
2. Nash-MD           ``m = pi^(1 - eta tau) mu^(eta tau) / Z``,  ``pi <- m exp(eta P m) / Z``
                     ``KL(pi* || pi_T) <= 8/(tau^2 (T+1))`` with ``eta_t = 2/(tau (t+2))``, and
                     ``<= (1 - eta tau)^T KL(pi* || mu) + 2 eta/tau`` with eta constant
3. Nash-MP           twice from the same pi_k: ``log pi = [tau log mu + (tau/eta) log pi_k - q P] / (tau (1 + 1/eta)) - log Z``
                     ``KL(pi* || pi_k) <= (1 + 2 tau)^-k KL(pi* || mu)`` with ``eta = 2 tau``; two calls of P a step
4. INPO              ``pi <- pi^(1 - tau/eta) mu^(tau/eta) exp(P pi/eta) / Z``, eta >= tau

Source: R. Munos et al., 2024, arXiv 2312.00886 (2); D. Tiapkin et al., 2025, arXiv 2505.19731 (3); Y. Zhang et al., 2025,
arXiv 2407.00617 (4). Axes: ``[..., Y]`` responses, any leading axes are contexts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from ..experiment import Curve, Experiment, Finding, Panel
from ..measure import bound_ratio
from ..simplex import kl, log_normalise

__all__ = [
    "bradley_terry",
    "equilibrium",
    "exploitability",
    "inpo_loss",
    "inpo_step",
    "iterate",
    "nash_md_step",
    "nash_mp_step",
    "random_preferences",
    "residual",
    "self_play_step",
    "win_rate",
]


def win_rate(P: np.ndarray, log_pi: np.ndarray) -> np.ndarray:
    """``(P pi)(y) = sum_y' P(y > y') pi(y')``, ``[..., Y]``."""
    return np.matmul(P, np.exp(log_pi)[..., None])[..., 0]


def self_play_step(P: np.ndarray, log_pi: np.ndarray, eta: float) -> np.ndarray:
    """Equation 1, ``[..., Y]``."""
    return log_normalise(log_pi + eta * win_rate(P, log_pi))


def nash_md_step(P: np.ndarray, log_pi: np.ndarray, log_mu: np.ndarray, eta: float, tau: float) -> np.ndarray:
    """Equation 2, ``[..., Y]``; eta is clipped to 1/tau, beyond which the mixture is no mixture."""
    share = min(eta * tau, 1.0)
    mixture = log_normalise((1 - share) * log_pi + share * log_mu)
    return log_normalise(mixture + share / tau * win_rate(P, mixture))


def nash_mp_step(P: np.ndarray, log_pi: np.ndarray, log_mu: np.ndarray, eta: float, tau: float) -> np.ndarray:
    """Equation 3, ``[..., Y]``. ``(q P)(y) = 1 - (P q)(y)``, so that minus q P is P q up to a constant."""
    half = log_pi
    for _ in range(2):
        half = log_normalise((tau * log_mu + tau / eta * log_pi + win_rate(P, half)) / (tau * (1 + 1 / eta)))
    return half


def inpo_step(P: np.ndarray, log_pi: np.ndarray, log_mu: np.ndarray, eta: float, tau: float) -> np.ndarray:
    """Equation 4, ``[..., Y]``.

    Raises:
        ValueError: eta < tau.
    """
    if eta < tau:
        raise ValueError(f"eta={eta} must be >= tau={tau}")
    return log_normalise((1 - tau / eta) * log_pi + tau / eta * log_mu + win_rate(P, log_pi) / eta)


def inpo_loss(
    P: np.ndarray, log_pi: np.ndarray, log_pi_t: np.ndarray, log_mu: np.ndarray, eta: float, tau: float
) -> float:
    """INPO's population loss ``E (h(y_w, y_l) - 1/(2 eta))^2`` over pairs from pi_t; 4's next iterate minimises it.

    ``h = log pi(w)/pi(l) - (tau/eta) log mu(w)/mu(l) - (1 - tau/eta) log pi_t(w)/pi_t(l)``.
    """
    score = log_pi - tau / eta * log_mu - (1 - tau / eta) * log_pi_t
    h = score[:, None] - score[None]
    pair = np.exp(log_pi_t[:, None] + log_pi_t[None])
    return float((pair * P * (h - 1 / (2 * eta)) ** 2).sum())


def residual(P: np.ndarray, log_pi: np.ndarray, log_mu: np.ndarray, tau: float) -> float:
    """The largest ``|pi - mu exp(P pi/tau)/Z|``: 0 at the equilibrium only."""
    return float(np.abs(np.exp(log_pi) - np.exp(log_normalise(log_mu + win_rate(P, log_pi) / tau))).max())


def equilibrium(P: np.ndarray, log_mu: np.ndarray, tau: float, tol: float = 1e-13) -> np.ndarray:
    """The regularised Nash policy's log-probabilities ``[..., Y]``, by mirror prox.

    Raises:
        ArithmeticError: the residual stayed above 1e3 tol after the number of steps that the theorem asks for.
    """
    log_pi = log_mu
    for _ in range(int(100 / np.log1p(2 * tau)) + 100):
        log_pi = nash_mp_step(P, log_pi, log_mu, 2 * tau, tau)
        if residual(P, log_pi, log_mu, tau) < tol:
            return log_pi
    if residual(P, log_pi, log_mu, tau) > 1e3 * tol:
        raise ArithmeticError(f"tau={tau}: residual {residual(P, log_pi, log_mu, tau):.1e} > {1e3 * tol:.0e}")
    return log_pi


def exploitability(P: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """``max_y P(y > pi) - 1/2``, ``[...]``, in the raw game."""
    return np.matmul(P, pi[..., None])[..., 0].max(-1) - 0.5


def iterate(step: Callable[[np.ndarray, int], np.ndarray], start: np.ndarray, num_steps: int) -> np.ndarray:
    """The iterates of ``x <- step(x, t)``, ``[num_steps+1, ..., Y]``."""
    out = [start]
    for t in range(num_steps):
        out.append(step(out[-1], t))
    return np.stack(out)


def random_preferences(size: int = 10, rng: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``P = sigmoid(2 (M - M^T))`` with M normal, ``[Y, Y]``, and ``log mu`` of a softmax of normals, ``[Y]``."""
    rng = np.random.default_rng(rng)
    M = rng.normal(size=(size, size))
    return expit(2 * (M - M.T)), log_normalise(rng.normal(size=size))


def bradley_terry(r: np.ndarray) -> np.ndarray:
    """``P(y > y') = sigmoid(r(y) - r(y'))``, ``[Y, Y]``: preferences that a reward explains."""
    return expit(r[:, None] - r[None])


def experiment(seed: int = 0) -> Experiment:
    """Distance to the regularised equilibrium against calls of P; self-play's cycle on rock, paper, scissors."""
    P, log_mu = random_preferences(10, seed)
    tau, steps = 0.1, 3000
    target = np.exp(equilibrium(P, log_mu, tau))
    first = float(kl(target, np.exp(log_mu)))

    def distances(step: Callable[[np.ndarray, int], np.ndarray], n: int = steps) -> np.ndarray:
        return np.maximum(kl(target, np.exp(iterate(step, log_mu, n))), 1e-17)

    t = np.arange(steps + 1)
    decaying = distances(lambda x, t: nash_md_step(P, x, log_mu, 2 / (tau * (t + 2)), tau))
    constant = distances(lambda x, t: nash_md_step(P, x, log_mu, 0.1, tau))
    prox = distances(lambda x, t: nash_mp_step(P, x, log_mu, 2 * tau, tau))
    inpo = distances(lambda x, t: inpo_step(P, x, log_mu, 1.0, tau))
    play = distances(lambda x, t: self_play_step(P, x, 0.1))
    decaying_bound = 8 / (tau**2 * (t + 1))
    constant_bound = (1 - 0.1 * tau) ** t * first + 2 * 0.1 / tau
    prox_bound = np.maximum((1 + 2 * tau) ** -t.astype(float) * first, 1e-17)

    game = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    rps = np.exp(iterate(lambda x, t: self_play_step(game, x, 0.05), np.log([0.5, 0.3, 0.2]), 20_000))
    last = exploitability(game, rps)
    average = exploitability(game, rps.cumsum(0) / np.arange(1, len(rps) + 1)[:, None])
    precise = (prox > 1e-13) & (t > 0)
    shown = np.unique(np.geomspace(1, 20_000, 400).astype(int))
    findings = [
        Finding.at_most("Nash-MD, decaying η: largest KL / bound", bound_ratio(decaying, decaying_bound), 1),
        Finding.at_most("Nash-MD, η .1: largest KL / bound", bound_ratio(constant, constant_bound), 1),
        Finding.at_most(
            "Nash-MP, η 2τ: largest KL / bound (KL > 1e-13)", bound_ratio(prox[precise], prox_bound[precise]), 1
        ),
        Finding.at_most("INPO, η 1: KL after 3000 steps", inpo[-1], 1e-15),
        Finding.at_least("self-play on rock-paper-scissors: last iterate's exploitability", last[-1], 0.1),
        Finding.at_most("... and its average's", average[-1], 0.005),
    ]
    return Experiment(
        "Preferences as a game: regularised steps reach the Nash policy in the last iterate, self-play only on average",
        "Munos et al. 2024 (2312.00886), Tiapkin et al. 2025 (2505.19731), Zhang et al. 2025 (2407.00617)",
        [
            Panel(
                "10 responses, τ = .1",
                "calls of the preference model",
                "KL(π* || π)",
                [
                    Curve("Nash-MD, η_t = 2/(τ(t+2))", t + 1, decaying),
                    Curve("bound 8/(τ²(T+1))", t + 1, decaying_bound, "bound"),
                    Curve("Nash-MD, η .1", t + 1, constant),
                    Curve("bound (1-ητ)^T KL_0 + 2η/τ", t + 1, constant_bound, "bound"),
                    Curve("Nash mirror prox, η 2τ", 2 * t + 1, prox),
                    Curve("bound (1+2τ)^-k KL_0", 2 * t + 1, prox_bound, "bound"),
                    Curve("INPO, η 1", t + 1, inpo),
                    Curve("self-play, η .1", t + 1, play),
                ],
                "log",
                "log",
                (1e-16, 1e10),
            ),
            Panel(
                "self-play on rock, paper, scissors",
                "step t",
                "exploitability",
                [Curve("last iterate", shown, last[shown]), Curve("average iterate", shown, average[shown])],
                "log",
                "log",
            ),
        ],
        findings,
    )
