"""Robust MDPs: the best policy under the worst kernel near a nominal one, exactly, KL-regularised, and from data.

``inner(p, V)`` is the least expectation of the next value V over kernels q near p. With m = min(V, a):

1. ``TV(q, p) <= rho``                 ``max_a E_p m - rho (a - min V)``
2. ``KL(q || p) <= rho``               ``max_b -b log E_p exp(-V/b) - b rho``
3. ``chi2(q, p) <= rho``               ``max_a E_p m - sqrt(rho Var_p m)``
4. penalty ``lam TV``                  ``E_p min(V, min V + lam)``
5. penalty ``lam KL``                  ``-lam log E_p exp(-V/lam)``
6. penalty ``lam chi2``                ``max_a E_p m - Var_p m / (4 lam)``

A. Robust value iteration, (s, a)-rectangular: ``Q = r + gamma inner(P, V)``, a gamma-contraction; s-rectangular TV sets
   share one budget a state and may want a randomised policy (a linear program a state).
B. The robust policy gradient is the gradient under the worst kernel of the present policy.
C. DR-RPO: ``inf_q E[sum r - KL(pi || ref)/eta]``: ``pi = ref exp(eta Q)/Z``, ``V = log sum ref exp(eta Q) / eta``.
D. R2PVI: pessimistic value iteration from data where each of d factors of a linear kernel is perturbed by itself; the
   penalties 4-6 have closed forms, a ball (DRPVI) needs a search a factor.

Source: Z. Tang, Z. Liu, P. Xu, 2025, arXiv 2411.18612 (D and the linear testbed); DR-RPO, 2025, arXiv 2510.14246 (C);
G. Iyengar 2005, A. Nilim and L. El Ghaoui 2005 (A); W. Wiesemann, D. Kuhn, B. Rustem 2013 (s-rectangular sets); Y. Jin,
Z. Yang, Z. Wang, 2021, arXiv 2012.15085 (PEVI). Differs from D's official code in maximising over a in 6, as the dual
says (one of its scripts minimises), and in taking the reward as known for PEVI too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog
from scipy.special import logsumexp

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..mdp import MDP, FiniteHorizonMDP
from ..measure import bound_ratio
from ..simulate import simulate
from ..solvers import Solution, Values, fixed_point, greedy, occupancy

__all__ = [
    "Dataset",
    "chi2_ball",
    "chi2_penalty",
    "chi2_statistic",
    "diagonal_width",
    "ellipsoid_width",
    "kl_ball",
    "kl_penalty",
    "kl_statistic",
    "linear_testbed",
    "mean_statistic",
    "pessimistic_value_iteration",
    "put_value",
    "regularised_plan",
    "robust_evaluate",
    "robust_plan",
    "robust_policy_gradient",
    "robust_value_iteration",
    "s_rectangular_backup",
    "tv_ball",
    "tv_ball_statistic",
    "tv_penalty",
    "tv_statistic",
    "worst_kernel_tv",
]

Inner = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``inner(p [..., K], V [K]) -> [...]``."""


# The inner problems.


def tv_ball(p: np.ndarray, V: np.ndarray, rho: float) -> np.ndarray:
    """Equation 1, ``[...]``; TV is half the L1 distance, and q may put mass where p has none."""
    capped = np.minimum(V[..., None, :], V[..., :, None])  # [..., a, K], symmetric
    mean = np.matmul(p[..., None, :], capped)[..., 0, :]
    return (mean - rho * (V - V.min(-1, keepdims=True))).max(-1)


def kl_ball(p: np.ndarray, V: np.ndarray, rho: float) -> np.ndarray:
    """Equation 2, ``[...]``: golden-section search over log b, in which the concave dual has one peak."""
    if rho == 0:
        return (p * V).sum(-1)
    low = np.where(p > 0, V, np.inf).min(-1)
    excess = np.where(p > 0, V - low[..., None], 0.0)
    span = max(float(excess.max()), 1e-12)

    def dual(log_b: np.ndarray) -> np.ndarray:
        b = np.exp(log_b)
        return -b * (np.log((p * np.exp(-excess / b[..., None])).sum(-1)) + rho)

    left, right = np.full(low.shape, np.log(span) - 14.0), np.full(low.shape, np.log(span) + 14.0)
    ratio = (np.sqrt(5.0) - 1) / 2
    for _ in range(70):
        inner_left, inner_right = right - ratio * (right - left), left + ratio * (right - left)
        rising = dual(inner_left) < dual(inner_right)
        left, right = np.where(rising, inner_left, left), np.where(rising, right, inner_right)
    return low + np.maximum(dual((left + right) / 2), 0.0)


def _pieces(p: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, ...]:
    """For a in each interval of the sorted V: its ends, the mass above, and the first two moments of V below."""
    p, V = np.broadcast_arrays(p, V)
    order = np.argsort(V, axis=-1)
    p, V = np.take_along_axis(p, order, -1), np.take_along_axis(V, order, -1)
    below = p.cumsum(-1)[..., :-1]
    return V[..., :-1], V[..., 1:], 1 - below, (p * V).cumsum(-1)[..., :-1], (p * V**2).cumsum(-1)[..., :-1]


def chi2_ball(p: np.ndarray, V: np.ndarray, rho: float) -> np.ndarray:
    """Equation 3, ``[...]``, exactly: between two values of V the dual is concave, its peak a quadratic's root."""
    shift = V.min()
    start, end, mass, first, second = _pieces(p, V - shift)

    def dual(a: np.ndarray) -> np.ndarray:
        mean = first + mass * a
        return mean - np.sqrt(rho * np.maximum(second + mass * a**2 - mean**2, 0.0))

    rest = 1 - mass
    A = rho * rest**2 - mass * rest
    B = first * (mass - rho * rest)
    C = (rho + 1) * first**2 - second
    root = np.sqrt(np.maximum(B**2 - A * C, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        peaks = [np.clip(np.nan_to_num((-B + sign * root) / A), start, end) for sign in (1, -1)]
    return shift + np.max([dual(a) for a in (start, end, *peaks)], axis=(0, -1))


def tv_penalty(p: np.ndarray, V: np.ndarray, lam: float) -> np.ndarray:
    """Equation 4, ``[...]``."""
    return (p * np.minimum(V, V.min(-1, keepdims=True) + lam)).sum(-1)


def kl_penalty(p: np.ndarray, V: np.ndarray, lam: float) -> np.ndarray:
    """Equation 5, ``[...]``."""
    return -lam * logsumexp(-V / lam, axis=-1, b=p)


def chi2_penalty(p: np.ndarray, V: np.ndarray, lam: float) -> np.ndarray:
    """Equation 6, ``[...]``, exactly: between two values of V the peak is ``a = E m + 2 lam``."""
    start, end, mass, first, second = _pieces(p, V)

    def dual(a: np.ndarray) -> np.ndarray:
        mean = first + mass * a
        return mean - (second + mass * a**2 - mean**2) / (4 * lam)

    with np.errstate(divide="ignore", invalid="ignore"):
        peak = np.clip(np.nan_to_num((2 * lam + first) / (1 - mass), nan=0.0), start, end)
    return np.max([dual(a) for a in (start, end, peak)], axis=(0, -1))


def worst_kernel_tv(p: np.ndarray, V: np.ndarray, rho: float) -> np.ndarray:
    """The minimiser of 1, ``[..., K]``: mass rho is moved from the largest values to the least."""
    order = np.argsort(-V)
    ordered = p[..., order]
    removed = np.minimum(ordered, np.maximum(rho - (ordered.cumsum(-1) - ordered), 0.0))
    removed[..., -1] = 0.0  # what already lies on the least value stays
    q = np.empty_like(p)
    q[..., order] = ordered - removed
    q[..., order[-1]] += removed.sum(-1)
    return q


# Dynamic programming under them.


def robust_value_iteration(mdp: MDP, inner: Inner, tol: float = 1e-10) -> Solution:
    """A, (s, a)-rectangular: ``V = max_a r + gamma inner(P, V)``."""
    V, n = fixed_point(
        lambda V: (mdp.r + mdp.gamma * inner(mdp.P, V)).max(-1), np.zeros(mdp.num_states), mdp.gamma, tol
    )
    Q = mdp.r + mdp.gamma * inner(mdp.P, V)
    return Solution(V, Q, greedy(Q), n)


def robust_plan(P: np.ndarray, r: np.ndarray, inner: Inner) -> tuple[np.ndarray, np.ndarray]:
    """A over a finite horizon: V ``[H+1, S]`` and Q ``[H, S, A]`` of ``[H, S, A, S]`` and ``[H, S, A]``."""
    V, Q = np.zeros((len(r) + 1, r.shape[1])), np.empty(r.shape)
    for h in range(len(r) - 1, -1, -1):
        Q[h] = r[h] + inner(P[h], V[h + 1])
        V[h] = Q[h].max(-1)
    return V, Q


def s_rectangular_backup(mdp: MDP, V: np.ndarray, budget: float, s: int) -> tuple[float, np.ndarray]:
    """``max_pi min_q sum_a pi_a (r_a + gamma q_a V)``, ``sum_a TV(q_a, p_a) <= budget``, at s: value, policy ``[A]``.

    With a price b of the budget the inner problem is equation 4 with V scaled by ``gamma pi_a``:
    ``max_{pi, b >= 0} sum_a pi_a r_a + E_{p_a} min(gamma pi_a V, gamma pi_a min V + b) - b budget``.
    """
    A, S = mdp.num_actions, mdp.num_states
    gains = np.concatenate([mdp.r[s], [-budget], mdp.P[s].ravel()])
    rows = A * S
    t_below_value = np.zeros((rows, A + 1 + rows))
    t_below_cap = np.zeros((rows, A + 1 + rows))
    for a in range(A):
        block = slice(a * S, (a + 1) * S)
        t_below_value[block, a] = -mdp.gamma * V
        t_below_cap[block, a] = -mdp.gamma * V.min()
    t_below_cap[:, A] = -1.0
    t_below_value[:, A + 1 :] = t_below_cap[:, A + 1 :] = np.eye(rows)
    simplex = np.concatenate([np.ones(A), np.zeros(1 + rows)])[None]
    result = linprog(
        -gains,
        A_ub=np.vstack([t_below_value, t_below_cap]),
        b_ub=np.zeros(2 * rows),
        A_eq=simplex,
        b_eq=[1.0],
        bounds=[(0, None)] * (A + 1) + [(None, None)] * rows,
    )
    if result.status != 0:
        raise ArithmeticError(f"HiGHS did not solve the backup at state {s}: {result.message}")
    return -result.fun, result.x[:A]


def robust_evaluate(mdp: MDP, pi: np.ndarray, inner: Inner, tol: float = 1e-12) -> Values:
    """B: ``V = sum_a pi (r + gamma inner(P, V))``, V ``[S]`` and Q ``[S, A]``."""

    def operator(V: np.ndarray) -> np.ndarray:
        return (pi * (mdp.r + mdp.gamma * inner(mdp.P, V))).sum(-1)

    V, _ = fixed_point(operator, np.zeros(mdp.num_states), mdp.gamma, tol)
    return Values(V, mdp.r + mdp.gamma * inner(mdp.P, V))


def robust_policy_gradient(mdp: MDP, pi: np.ndarray, rho: float) -> np.ndarray:
    """B for TV balls: ``dJ/dpi(s, a) = d(s) Q(s, a)/(1 - gamma)`` under pi's worst kernel, ``[S, A]``."""
    V, Q = robust_evaluate(mdp, pi, partial(tv_ball, rho=rho))
    worst = MDP(worst_kernel_tv(mdp.P, V, rho), mdp.r, mdp.gamma, mdp.rho)
    return occupancy(worst, pi)[:, None] * Q / (1 - mdp.gamma)


def regularised_plan(
    P: np.ndarray, r: np.ndarray, inner: Inner, log_ref: np.ndarray, eta: float
) -> tuple[np.ndarray, np.ndarray]:
    """C: V ``[H+1, S]`` and policies ``[H, S, A]`` of the robust KL-regularised problem."""
    V, pi = np.zeros((len(r) + 1, r.shape[1])), np.empty(r.shape)
    for h in range(len(r) - 1, -1, -1):
        logits = log_ref[h] + eta * (r[h] + inner(P[h], V[h + 1]))
        log_Z = logsumexp(logits, axis=-1)
        V[h], pi[h] = log_Z / eta, np.exp(logits - log_Z[:, None])
    return V, pi


# From data.


class Dataset(NamedTuple):
    """Transitions a step: features of (s, a), successors, and how often each was seen."""

    phi: np.ndarray
    """``[H, n, d]``."""
    successor: np.ndarray
    """``[H, n]`` int."""
    count: np.ndarray
    """``[H, n]``."""


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``statistic(W [d, n], V [n]) -> nu [d]``, with which ``W f`` estimates each factor's ``E[f(s')]``."""


def mean_statistic(W: np.ndarray, V: np.ndarray) -> np.ndarray:
    """PEVI's: no perturbation, ``[d]``."""
    return W @ V


def tv_statistic(W: np.ndarray, V: np.ndarray, lam: float) -> np.ndarray:
    """D with equation 4, ``[d]``; the least value is the data's."""
    return W @ np.minimum(V, V.min() + lam)


def kl_statistic(W: np.ndarray, V: np.ndarray, lam: float, horizon: int) -> np.ndarray:
    """D with equation 5, ``[d]``; the estimate is floored at ``exp(-H/lam)``, its least possible value."""
    return -lam * np.log(np.maximum(W @ np.exp(-V / lam), np.exp(-horizon / lam)))


def chi2_statistic(W: np.ndarray, V: np.ndarray, lam: float, horizon: int, grid: int = 200) -> np.ndarray:
    """D with equation 6, ``[d]``, by a grid over a in [0, H]: W f is no expectation, the exact pieces do not apply."""
    capped = np.minimum(V[:, None], np.linspace(0, horizon, grid))
    mean = W @ capped
    return (mean + mean**2 / (4 * lam) - W @ capped**2 / (4 * lam)).max(-1)


def tv_ball_statistic(W: np.ndarray, V: np.ndarray, rho: float) -> np.ndarray:
    """DRPVI's, equation 1, ``[d]``: a search over a factor by factor."""
    levels = np.unique(V)
    return np.array([max(w @ np.minimum(V, a) - rho * (a - levels[0]) for a in levels) for w in W])


def diagonal_width(phi: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """``sqrt(phi^T diag(Lambda^-1) phi)``, ``[...]``, R2PVI's; a sum of widths a factor is up to sqrt(d) wider."""
    return np.sqrt((phi**2 * np.diagonal(inverse)).sum(-1))


def ellipsoid_width(phi: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """``sqrt(phi^T Lambda^-1 phi)``, ``[...]``, PEVI's."""
    return np.sqrt(np.einsum("...i,ij,...j->...", phi, inverse, phi))


def pessimistic_value_iteration(
    data: Dataset,
    phi: np.ndarray,
    r: np.ndarray,
    statistic: Statistic,
    width: Callable[[np.ndarray, np.ndarray], np.ndarray],
    beta: float,
    ridge: float,
) -> tuple[np.ndarray, np.ndarray]:
    """D: V ``[H+1, S]`` and greedy actions ``[H, S]``.

    ``Q_h = clip(r + <phi, nu_h> - beta width, 0, H - h)`` with h = 0..H-1.

    Args:
        phi: ``[S, A, d]`` features.
        r: ``[H, S, A]``, known.
    """
    H, S, _ = r.shape
    V, actions = np.zeros((H + 1, S)), np.empty((H, S), int)
    for h in range(H - 1, -1, -1):
        weighted = data.phi[h] * data.count[h][:, None]
        inverse = np.linalg.inv(ridge * np.eye(phi.shape[-1]) + weighted.T @ data.phi[h])
        nu = statistic(inverse @ weighted.T, V[h + 1][data.successor[h]])
        Q = np.clip(r[h] + phi @ nu - beta * width(phi, inverse), 0.0, H - h)
        V[h], actions[h] = Q.max(-1), Q.argmax(-1)
    return V, actions


def linear_testbed(q: float = 0.0) -> tuple[FiniteHorizonMDP, np.ndarray]:
    """R2PVI's linear MDP (H = 3, 5 states, 16 actions) and its features ``[S, A, 4]``.

    Factor 4 leads to the good absorbing state x5 at the first step, or, perturbed, with probability q to the failed x4.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q={q} must be in [0, 1]")
    actions = np.array(list(product((-1, 1), repeat=4)))
    risk = 0.3 + actions @ np.full(4, 0.2 / 4)
    e = np.eye(4)
    phi = np.empty((5, 16, 4))
    for j in range(3):
        phi[j] = (1 - risk)[:, None] * e[j] + risk[:, None] * e[3]
    phi[3], phi[4] = e[2], e[3]
    factors = np.zeros((3, 4, 5))
    factors[:, :3, 3] = 1.0
    factors[:, 3, 4] = 1.0
    factors[0, 0], factors[1, 1] = [0, 0.999, 0, 0.001, 0], [0, 0, 0.999, 0.001, 0]
    factors[0, 3] = [0, 0, 0, q, 1 - q]
    theta = np.array([np.zeros(4), e[3], e[3]])
    return FiniteHorizonMDP(
        np.einsum("sai,hit->hsat", phi, factors), np.einsum("sai,hi->hsa", phi, theta), np.eye(5)[0]
    ), phi


def put_value(inner: Inner, s0: float = 100.0, strike: float = 100.0, horizon: int = 20, p_up: float = 0.5) -> float:
    """The robust price of an American put on a tree of steps 1.02 and .98: exercise at h = 0..H-1, worthless after."""
    p = np.array([p_up, 1 - p_up])
    V = np.zeros(horizon + 1)
    for h in range(horizon - 1, -1, -1):
        ups = np.arange(h + 1)
        price = s0 * 1.02**ups * 0.98 ** (h - ups)
        held = inner(p, np.stack([V[1:], V[:-1]], axis=-1))
        V = np.maximum(np.maximum(strike - price, 0.0), held)
    return float(V[0])


def _learned_values(seed: int, replications: int, perturbations: np.ndarray) -> dict[str, np.ndarray]:
    nominal, phi = linear_testbed()
    methods = {
        "PEVI (not robust)": (mean_statistic, ellipsoid_width),
        "R2PVI, TV": (partial(tv_statistic, lam=0.1), diagonal_width),
        "R2PVI, KL": (partial(kl_statistic, lam=0.1, horizon=3), diagonal_width),
        "R2PVI, χ²": (partial(chi2_statistic, lam=0.1, horizon=3), diagonal_width),
    }
    worlds = [linear_testbed(q)[0] for q in perturbations]
    values = {name: np.empty((replications, len(perturbations))) for name in methods}
    uniform = np.full(nominal.r.shape, 1 / 16)
    for k in range(replications):
        rng = np.random.default_rng([seed, k])
        states, acts = simulate(nominal.P, uniform, nominal.mu, rng, 100)
        last = np.zeros((100, 1), int)  # after the last step V is 0 wherever it leads
        data = Dataset(phi[states, acts].transpose(1, 0, 2), np.hstack([states[:, 1:], last]).T, np.ones((3, 100)))
        for name, (statistic, width) in methods.items():
            _, greedy_actions = pessimistic_value_iteration(data, phi, nominal.r, statistic, width, 1.0, 0.1)
            for i, world in enumerate(worlds):
                values[name][k, i] = finite.evaluate(world.P, world.r, np.eye(16)[greedy_actions])[0][0, 0]
    return values


def experiment(seed: int = 0) -> Experiment:
    """What robustness costs and buys on R2PVI's testbed, and the contraction of robust value iteration."""
    q = np.linspace(0, 1, 11)
    learned = _learned_values(seed, 20, q)
    mdp = garnet(5, 3, 3, 0.9, seed)
    sweeps = np.arange(61)
    start = 10 * np.random.default_rng(seed).normal(size=5)
    inners = {
        "TV ball, ρ .1": partial(tv_ball, rho=0.1),
        "KL ball, ρ .1": partial(kl_ball, rho=0.1),
        "χ² penalty, λ .5": partial(chi2_penalty, lam=0.5),
    }
    contraction, ratios = [], []
    for name, inner in inners.items():
        best, V, error = robust_value_iteration(mdp, inner, 1e-12).V, start, []
        for _ in sweeps:
            error.append(np.abs(V - best).max())
            V = (mdp.r + mdp.gamma * inner(mdp.P, V)).max(-1)
        share = np.array(error) / error[0]
        ratios.append(bound_ratio(share[1:], mdp.gamma ** sweeps[1:]))
        contraction.append(Curve(name, sweeps, share))
    contraction.append(Curve("bound  γ^k", sweeps, mdp.gamma**sweeps, "bound"))

    budgets = np.linspace(0, 1, 21)
    prices = {
        "TV ball": [put_value(partial(tv_ball, rho=x)) for x in budgets],
        "KL ball": [put_value(partial(kl_ball, rho=x)) for x in budgets],
        "χ² ball": [put_value(partial(chi2_ball, rho=x)) for x in budgets],
    }
    robust = np.mean([learned[name].mean(0) for name in learned if name.startswith("R2PVI")], axis=0)
    plain = learned["PEVI (not robust)"].mean(0)
    findings = [
        Finding.at_most("robust VI: largest error / (γ^k |V_0 - V*|)", max(ratios), 1),
        Finding.at_least("nominal kernel: PEVI - R2PVI (robustness costs)", plain[0] - robust[0], 0),
        Finding.at_least("q = 1: R2PVI - PEVI (robustness pays)", robust[-1] - plain[-1], 0.1),
        Finding.at_most(
            "slope of R2PVI in q / slope of PEVI (flatter)", (robust[0] - robust[-1]) / (plain[0] - plain[-1]), 1
        ),
        Finding.near("American put, nominal price", put_value(partial(tv_ball, rho=0.0)), 3.51972, 1e-5),
        Finding.near("American put, TV ball .1", put_value(partial(tv_ball, rho=0.1)), 1.59295, 1e-5),
    ]
    return Experiment(
        "Robust planning: flatter under perturbation, and still a γ-contraction",
        "Tang, Liu, Xu 2025 (2411.18612); DR-RPO (2510.14246); Iyengar 2005",
        [
            Panel(
                "linear testbed, 100 episodes of data",
                "probability q that the good move fails",
                "value of the learned policy",
                [Curve(name, q, y) for name, y in learned.items()],
            ),
            Panel(
                "robust value iteration, Garnet(5, 3, 3)",
                "sweep k",
                "|V_k - V*| / |V_0 - V*|",
                contraction,
                yscale="log",
            ),
            Panel(
                "American put, worst-case price",
                "radius ρ",
                "price at s = 100",
                [Curve(name, budgets, np.array(y)) for name, y in prices.items()],
            ),
        ],
        findings,
    )
