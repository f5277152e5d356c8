"""Exact policy gradient methods: softmax PG, projected PG, natural PG, entropy-regularised NPG, policy mirror descent.

With exact gradients the methods behind REINFORCE, TRPO and PPO have global rates. Q, V, A are the current policy's,
d its normalised occupancy from mu, every method starts at the uniform policy, and rewards lie in [0, 1]:

1. softmax PG         ``theta += eta/(1-gamma) d(s) pi(a|s) A(s, a)``                             O(1/t)
2. projected PG       ``pi <- Proj(pi + eta/(1-gamma) d(s) Q(s, .))``                             O(1/t)
3. natural PG         ``pi <- pi exp(eta A/(1-gamma)) / Z``              ``log A/(eta t) + 1/((1-gamma)^2 t)``
4. mirror descent     ``pi <- argmax_p eta_k <Q, p> - D(p, pi)``         linear, factor gamma, for growing eta_k
5. entropy NPG        ``pi <- pi^(1 - eta tau/(1-gamma)) exp(eta Q_tau/(1-gamma)) / Z``   ``(1 - eta tau)^t``

3 is 4 with the KL divergence and ``eta_k = eta/(1-gamma)``; 5 with ``eta = (1-gamma)/tau`` is soft policy iteration.

Source: A. Agarwal, S. Kakade, J. Lee, G. Mahajan, 2021, arXiv 1908.00261 (1-3); J. Mei, C. Xiao, C. Szepesvari,
D. Schuurmans, 2020, arXiv 2005.06392 (1); S. Khodadadian, P. Jhunjhunwala, S. Varma, S. Maguluri, 2021, arXiv
2105.01424 (3, locally linear); S. Cen, C. Cheng, Y. Chen, Y. Wei, Y. Chi, 2022, arXiv 2007.06558 (5); L. Xiao, 2022,
arXiv 2201.07443 and E. Johnson, C. Pike-Burke, P. Rebeschini, 2023, arXiv 2302.11381 (4).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..gradients import policy_gradient
from ..mdp import MDP
from ..measure import bound_ratio, log_checkpoints, slope
from ..simplex import kl, kl_prox, log_normalise, project_simplex
from ..solvers import evaluate, greedy, occupancy, optimal_action_set, policy_iteration, soft_value_iteration

__all__ = [
    "adaptive_step_size",
    "bandit_gap",
    "entropy_npg_bound",
    "entropy_npg_step",
    "euclidean_mirror_step",
    "local_factor",
    "mirror_step",
    "npg_bound",
    "npg_step",
    "projected_step",
    "soft_q",
    "softmax_pg_bound",
    "softmax_step",
    "suboptimality",
]

Eta = float | np.ndarray
"""A step size, or one an instance with shape ``[N, 1, 1]``."""


def softmax_step(mdp: MDP, log_pi: np.ndarray, eta: Eta) -> np.ndarray:
    """Method 1 on logits ``[..., S, A]``, returned as log-probabilities (a constant a state is free)."""
    return log_normalise(log_pi + eta * policy_gradient(mdp, log_pi))


def projected_step(mdp: MDP, pi: np.ndarray, eta: Eta) -> np.ndarray:
    """Method 2: gradient ascent in the direct parameterisation, ``[..., S, A]``."""
    d = occupancy(mdp, pi)[..., None]
    return project_simplex(pi + eta / (1 - mdp.gamma) * d * evaluate(mdp, pi).Q)


def npg_step(mdp: MDP, log_pi: np.ndarray, eta: Eta) -> np.ndarray:
    """Method 3 on log-probabilities ``[..., S, A]``."""
    V, Q = evaluate(mdp, np.exp(log_pi))
    return kl_prox(log_pi, (Q - V[..., None]) / (1 - mdp.gamma), eta)


def mirror_step(mdp: MDP, log_pi: np.ndarray, eta: Eta) -> np.ndarray:
    """Method 4 with the KL divergence, on log-probabilities ``[..., S, A]``."""
    return kl_prox(log_pi, evaluate(mdp, np.exp(log_pi)).Q, eta)


def euclidean_mirror_step(mdp: MDP, pi: np.ndarray, eta: Eta) -> np.ndarray:
    """Method 4 with the squared Euclidean distance: projected Q-ascent ``Proj(pi + eta Q)``, ``[..., S, A]``."""
    return project_simplex(pi + eta * evaluate(mdp, pi).Q)


def soft_q(mdp: MDP, log_pi: np.ndarray, tau: float) -> np.ndarray:
    """``Q_tau = r + gamma E V_tau`` with ``V_tau = E_pi[Q_tau - tau log pi]``, ``[..., S, A]``."""
    return mdp.backup(evaluate(mdp, np.exp(log_pi), mdp.r - tau * log_pi).V)


def entropy_npg_step(mdp: MDP, log_pi: np.ndarray, eta: float, tau: float) -> np.ndarray:
    """Method 5 on log-probabilities ``[..., S, A]``.

    Raises:
        ValueError: eta outside (0, (1-gamma)/tau].
    """
    largest = (1 - mdp.gamma) / tau
    if not 0 < eta <= largest * (1 + 1e-12):
        raise ValueError(f"eta={eta} must be in (0, (1-gamma)/tau] = (0, {largest:g}]")
    return log_normalise((1 - eta / largest) * log_pi + eta / (1 - mdp.gamma) * soft_q(mdp, log_pi, tau))


def adaptive_step_size(log_pi: np.ndarray, Q: np.ndarray, gamma: float, k: int, c0: float = 1.0) -> float:
    """``eta_k = max_s KL(greedy(s) || pi(s)) / (gamma^(2k+1) c0)``, the step of Johnson et al."""
    return float(kl(greedy(Q), np.exp(log_pi)).max()) / (gamma ** (2 * k + 1) * c0)


def suboptimality(
    mdp: MDP, step: Callable[[np.ndarray, int], np.ndarray], start: np.ndarray, num_steps: int, log: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Run ``x <- step(x, k)``; returns ``V* - V_k`` ``[steps+1, ..., S]`` and the iterates ``[steps+1, ..., S, A]``."""
    optimum = policy_iteration(mdp).V
    x = start
    iterates = np.empty((num_steps + 1, *np.shape(start)))
    for k in range(num_steps + 1):
        iterates[k] = x
        if k < num_steps:
            x = step(x, k)
    gaps = np.empty(iterates.shape[:-1])
    for block in np.array_split(np.arange(num_steps + 1), 1 + num_steps // 2000):
        policies = iterates[block]
        gaps[block] = optimum - evaluate(mdp, np.exp(policies) if log else policies).V
    return gaps, iterates


def npg_bound(mdp: MDP, eta: float, t: np.ndarray) -> np.ndarray:
    """``log A/(eta t) + 1/((1-gamma)^2 t)`` for t >= 1 (Agarwal et al., theorem 16)."""
    return np.log(mdp.num_actions) / (eta * t) + 1.0 / ((1 - mdp.gamma) ** 2 * t)


def softmax_pg_bound(mdp: MDP, least_optimal: float, t: np.ndarray) -> np.ndarray:
    """``16 S |d*/mu|^2 |1/mu| / (c^2 (1-gamma)^6 t)`` for eta = (1-gamma)^3/8 (Mei et al., theorem 4), with c given."""
    d = occupancy(mdp, policy_iteration(mdp).pi)
    ratio, inverse = float((d / mdp.rho).max()), float((1 / mdp.rho).max())
    return 16 * mdp.num_states * ratio**2 * inverse / (least_optimal**2 * (1 - mdp.gamma) ** 6 * t)


def entropy_npg_bound(mdp: MDP, log_pi: np.ndarray, eta: float, tau: float, t: np.ndarray) -> np.ndarray:
    """``C1 gamma (1 - eta tau)^t``, which bounds ``|Q*_tau - Q_{t+1}|`` from ``log_pi`` on (Cen et al., th. 1)."""
    best = soft_value_iteration(mdp, tau)
    log_best = (best.Q - best.V[:, None]) / tau
    first = np.abs(best.Q - soft_q(mdp, log_pi, tau)).max()
    C1 = first + 2 * tau * (1 - eta * tau / (1 - mdp.gamma)) * np.abs(log_best - log_pi).max()
    return C1 * mdp.gamma * (1 - eta * tau) ** t


def local_factor(mdp: MDP, eta: float) -> float:
    """NPG's eventual rate ``exp(-eta Delta/(1-gamma))``, Delta the least non-zero ``V* - Q*`` (Khodadadian et al.)."""
    V, Q, _, _ = policy_iteration(mdp)
    delta = (V[:, None] - Q)[~optimal_action_set(Q)].min()
    return float(np.exp(-eta * delta / (1 - mdp.gamma)))


def bandit_gap(means: np.ndarray, eta: float, num_steps: int) -> np.ndarray:
    """Softmax PG on a bandit from the uniform policy: the gap after each of ``num_steps`` steps, ``[num_steps]``.

    For two arms with gap 1, ``t gap_t -> 1/(2 eta)``.
    """
    means = np.asarray(means, np.float64)
    theta = np.zeros(len(means))
    gaps = np.empty(num_steps)
    best = means.max()
    for t in range(num_steps):
        pi = np.exp(theta - theta.max())
        pi /= pi.sum()
        theta += eta * pi * (means - pi @ means)
        pi = np.exp(theta - theta.max())
        gaps[t] = best - pi @ means / pi.sum()
    return gaps


def uniform(mdp: MDP) -> np.ndarray:
    """The uniform policy ``[S, A]``."""
    return np.full(mdp.r.shape, 1.0 / mdp.num_actions)


def experiment(seed: int = 0) -> Experiment:
    """Sublinear and linear rates on Garnet(10, 4, 3), gamma .9, rho = mu = uniform."""
    mdp = garnet(10, 4, 3, 0.9, seed)
    pi0, log_pi0 = uniform(mdp), np.log(uniform(mdp))
    steps, tau = 20_000, 0.1
    t = np.arange(1, steps + 1)
    shown = log_checkpoints(steps, 30) - 1

    etas = np.array([(1 - mdp.gamma) ** 3 / 8, 1.0, 10.0])
    soft, iterates = suboptimality(
        mdp, lambda x, k: softmax_step(mdp, x, etas[:, None, None]), np.broadcast_to(log_pi0, (3, *pi0.shape)), steps
    )
    soft_gap = (soft @ mdp.rho)[1:]
    best_action = policy_iteration(mdp).pi.argmax(-1)
    least_optimal = float(np.exp(iterates[:, 0, np.arange(mdp.num_states), best_action]).min())
    projected = (suboptimality(mdp, lambda x, k: projected_step(mdp, x, 1.0), pi0, 400, log=False)[0] @ mdp.rho)[1:]
    npg = (suboptimality(mdp, lambda x, k: npg_step(mdp, x, 1.0), log_pi0, 2000)[0] @ mdp.rho)[1:]

    entropy_eta = 0.5 * (1 - mdp.gamma) / tau
    soft_best = soft_value_iteration(mdp, tau).Q
    x, entropy_error = log_pi0, []
    for _ in range(60):
        x = entropy_npg_step(mdp, x, entropy_eta, tau)
        entropy_error.append(np.abs(soft_best - soft_q(mdp, x, tau)).max())
    entropy_bound = entropy_npg_bound(mdp, log_pi0, entropy_eta, tau, np.arange(60))

    geometric = suboptimality(mdp, lambda x, k: mirror_step(mdp, x, mdp.gamma**-k), log_pi0, 60)[0].max(-1)

    def adaptive(x: np.ndarray, k: int) -> np.ndarray:
        Q = evaluate(mdp, np.exp(x)).Q
        return kl_prox(x, Q, adaptive_step_size(x, Q, mdp.gamma, k))

    adapted = suboptimality(mdp, adaptive, log_pi0, 40)[0].max(-1)
    adaptive_bound = mdp.gamma ** np.arange(41) * (adapted[0] + 1.0 / (1 - mdp.gamma))

    two_armed = bandit_gap(np.array([0.0, 1.0]), 0.4, 200_000)
    tail = slope(t, soft_gap[:, 2], 1e4).estimate
    late = np.flatnonzero((npg < 1e-6) & (npg > 1e-9))
    factor = float((npg[late[-1]] / npg[late[0]]) ** (1 / (late[-1] - late[0])))
    finite_steps = int(np.argmax(projected < 1e-12)) + 1 if projected.min() < 1e-12 else np.inf
    soft_ratio = bound_ratio(soft_gap[:, 0], softmax_pg_bound(mdp, least_optimal, t))
    npg_ratio = bound_ratio(npg, npg_bound(mdp, 1.0, np.arange(1, 2001)))
    findings = [
        Finding.near("softmax PG, η 10: slope of the gap over [1e4, 2e4]", tail, -1.0, 0.05),
        Finding.at_most("softmax PG, η (1-γ)³/8: largest gap / bound", soft_ratio, 1),
        Finding.near("two-armed bandit, η .4: t gap_t at t = 2e5, against 1/(2η)", 2e5 * two_armed[-1], 1.25, 1.25e-3),
        Finding.at_most("NPG, η 1: largest gap / bound", npg_ratio, 1),
        Finding.near("NPG, η 1: local factor, against exp(-ηΔ/(1-γ))", factor, local_factor(mdp, 1.0), 5e-4),
        Finding.at_most("entropy NPG, half step: largest error / bound", bound_ratio(entropy_error, entropy_bound), 1),
        Finding.at_most("PMD, adaptive steps: largest error / bound", bound_ratio(adapted, adaptive_bound), 1),
        Finding.at_most("projected PG, η 1: steps to a gap of exactly 0", finite_steps, 400),
    ]
    rates = Panel(
        "sublinear methods",
        "step t",
        "gap  ρ · (V* - V_t)",
        [
            Curve("softmax PG, η 1", t[shown], soft_gap[shown, 1]),
            Curve("softmax PG, η 10", t[shown], soft_gap[shown, 2]),
            Curve("slope -1", t[shown], 4 * soft_gap[-1, 2] * steps / t[shown], "bound"),
            Curve("projected PG, η 1", np.arange(1, 401), projected),
            Curve("natural PG, η 1", np.arange(1, 2001), npg),
            Curve(
                "its bound log A/(ηt) + 1/((1-γ)²t)",
                np.arange(1, 2001),
                npg_bound(mdp, 1.0, np.arange(1, 2001)),
                "bound",
            ),
        ],
        "log",
        "log",
        (1e-8, 1e7),
    )
    linear = Panel(
        "linearly convergent methods",
        "step k",
        "sup-norm error",
        [
            Curve("entropy NPG, τ .1 (own optimum)", np.arange(60), np.array(entropy_error)),
            Curve("its bound  Cγ(1-ητ)^k", np.arange(60), entropy_bound, "bound"),
            Curve("PMD, η_k = γ^-k", np.arange(61), geometric),
            Curve("PMD, adaptive η_k", np.arange(41), adapted),
            Curve("its bound  γ^k (e_0 + 1/(1-γ))", np.arange(41), adaptive_bound, "bound"),
        ],
        yscale="log",
        ylim=(1e-9, 1e2),
    )
    return Experiment(
        "Exact policy gradients: 1/t for softmax, linear for mirror descent with growing steps and for entropy NPG",
        "Agarwal et al. 2021 (1908.00261), Mei et al. 2020 (2005.06392), Cen et al. 2022 (2007.06558), Xiao 2022",
        [rates, linear],
        findings,
    )
