"""Distributional dynamic programming: optimising functionals of the whole return, and two substates a state.

A. Stock augmentation. The stock ``c_{t+1} = (c_t + r_{t+1})/gamma`` carries past rewards: ``c_0 + G_0 = gamma^t (c_t + G_t)``,
   and dynamic programming works on (s, c) for expected utilities ``U_f = E f(c + G)``: for any f where gamma = 1 and the
   horizon is finite (the case here), and where gamma < 1 for f with ``f(gamma x) = a f(x) + b``, a > 0:

   1. ``V(h, s, c) = max_a sum_s' P(s'|s, a) V(h+1, s', c + r)``,   ``V(H, s, c) = f(c)``
   2. ``CVaR_alpha = max_b b + max_pi E min(G - b, 0) / alpha``, one table of 1 with ``f = min(x, 0)``, all b scanned

   A target is ``f = 1[x >= 0]`` from ``c_0 = -target``. CVaR is not time-consistent: no policy of s alone is optimal.

B. Two substates ``x_1 <= x_2`` of weights alpha, 1 - alpha. The operator mixes ``r(s, a) + gamma x_k(s')``, sorts, and takes
   the mean of the lowest alpha of the mass and of the rest. Then ``alpha x_1 + (1-alpha) x_2 = V``, it is a gamma-contraction
   in sup norm, and x_1 is a robust value. Among *optimal* actions it tells the safe from the risky.

Source: B. Pires, M. Rowland, D. Borsa, Z. Guo, K. Khetarpal, A. Barreto, D. Abel, R. Munos, W. Dabney, 2025, arXiv
2501.13028 (A); M. Achab, G. Neu, 2021, arXiv 2112.15430 (B); R. Rockafellar, S. Uryasev, 2000 (2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..mdp import MDP
from ..measure import bound_ratio
from ..solvers import evaluate, optimal_action_set, policy_iteration

__all__ = [
    "IntegerMDP",
    "StockPlan",
    "best_cvar",
    "cvar",
    "markov_law",
    "random_integer_mdp",
    "return_law",
    "split_means",
    "stock_plan",
    "substates",
    "substates_operator",
    "tie_breaking_substates",
]


class IntegerMDP(NamedTuple):
    """An undiscounted problem over ``horizon`` steps whose rewards are integers of the transition."""

    P: np.ndarray
    """``[S, A, S]``."""
    R: np.ndarray
    """``[S, A, S]`` int."""
    horizon: int


class StockPlan(NamedTuple):
    """The optimum of an expected utility for every (h, s, c)."""

    stocks: np.ndarray
    """``[C]`` consecutive integers."""
    V: np.ndarray
    """``[H+1, S, C]``; right for stocks that H - h more rewards cannot carry off the grid."""
    actions: np.ndarray
    """``[H, S, C]``."""


def stock_plan(mdp: IntegerMDP, f: Callable[[np.ndarray], np.ndarray], start: tuple[int, int]) -> StockPlan:
    """Equation 1, for initial stocks from ``start[0]`` to ``start[1]``; the grid is what they can grow to."""
    H, S = mdp.horizon, len(mdp.P)
    stocks = np.arange(start[0] + H * min(int(mdp.R.min()), 0), start[1] + H * max(int(mdp.R.max()), 0) + 1)
    C = len(stocks)
    V, actions = np.empty((H + 1, S, C)), np.empty((H, S, C), int)
    V[H] = f(stocks)
    moved = np.clip(np.arange(C) + mdp.R[..., None], 0, C - 1)  # [S, A, S, C]
    for h in range(H - 1, -1, -1):
        Q = (mdp.P[..., None] * V[h + 1][np.arange(S)[None, None, :, None], moved]).sum(2)
        V[h], actions[h] = Q.max(1), Q.argmax(1)
    return StockPlan(stocks, V, actions)


def return_law(mdp: IntegerMDP, plan: StockPlan, s0: int, c0: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact law of the return of a plan's policy: values ``[C]`` and probabilities ``[C]``."""
    S, C = mdp.P.shape[0], len(plan.stocks)
    mass = np.zeros((S, C))
    mass[s0, c0 - plan.stocks[0]] = 1.0
    for h in range(mdp.horizon):
        following = np.zeros((S, C))
        for s, c in np.argwhere(mass > 0):
            a = plan.actions[h, s, c]
            np.add.at(following, (np.arange(S), c + mdp.R[s, a]), mass[s, c] * mdp.P[s, a])
        mass = following
    return plan.stocks - c0, mass.sum(0)


def markov_law(mdp: IntegerMDP, actions: np.ndarray, s0: int) -> tuple[np.ndarray, np.ndarray]:
    """The law of the return of a policy of (h, s) alone, ``actions [H, S]``."""
    blank = stock_plan(mdp, np.zeros_like, (0, 0))
    return return_law(mdp, blank._replace(actions=np.repeat(actions[..., None], len(blank.stocks), axis=-1)), s0, 0)


def cvar(values: np.ndarray, probabilities: np.ndarray, alpha: float) -> float:
    """The mean of the lowest alpha of the mass, alpha in (0, 1]."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha} must be in (0, 1]")
    order = np.argsort(values)
    below = probabilities[order].cumsum()
    taken = np.clip(alpha - (below - probabilities[order]), 0.0, probabilities[order])
    return float(taken @ values[order] / alpha)


def best_cvar(mdp: IntegerMDP, alpha: float, s0: int) -> tuple[float, int, StockPlan]:
    """Equation 2: the optimal CVaR, its b, and the plan that is followed from ``c_0 = -b``."""
    H = mdp.horizon
    b = np.arange(H * int(mdp.R.min()), H * int(mdp.R.max()) + 1)
    plan = stock_plan(mdp, lambda x: np.minimum(x, 0), (int(-b[-1]), int(-b[0])))
    scores = b + plan.V[0, s0, -b - plan.stocks[0]] / alpha
    best = int(scores.argmax())
    return float(scores[best]), int(b[best]), plan


def random_integer_mdp(num_states: int, num_actions: int, horizon: int, rng: int) -> IntegerMDP:
    """Rewards uniform on -3..3, drawn first, then Dirichlet(1) rows."""
    rng = np.random.default_rng(rng)
    R = rng.integers(-3, 4, (num_states, num_actions, num_states))
    return IntegerMDP(rng.dirichlet(np.ones(num_states), (num_states, num_actions)), R, horizon)


def split_means(atoms: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """Means of the lowest alpha of the mass and of the rest, ``[..., 2]``, of atoms ``[..., K]``."""
    order = np.argsort(atoms, axis=-1)
    atoms, weights = np.take_along_axis(atoms, order, -1), np.take_along_axis(weights, order, -1)
    low = np.clip(alpha - (weights.cumsum(-1) - weights), 0.0, weights)
    return np.stack([(low * atoms).sum(-1) / alpha, ((weights - low) * atoms).sum(-1) / (1 - alpha)], axis=-1)


def _atoms(mdp: MDP, x: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Per (s, a): successors' atoms and weights, ``[S, A, 2S]``."""
    S, A = mdp.r.shape
    atoms = mdp.r[..., None, None] + mdp.gamma * np.broadcast_to(x, (S, A, S, 2))
    weights = mdp.P[..., None] * np.array([alpha, 1 - alpha])
    return atoms.reshape(S, A, -1), weights.reshape(S, A, -1)


def substates_operator(mdp: MDP, pi: np.ndarray, x: np.ndarray, alpha: float) -> np.ndarray:
    """B's operator on ``[S, 2]`` for a policy ``[S, A]``."""
    atoms, weights = _atoms(mdp, x, alpha)
    S = len(x)
    return split_means(atoms.reshape(S, -1), (pi[..., None] * weights).reshape(S, -1), alpha)


def substates(mdp: MDP, pi: np.ndarray, alpha: float, tol: float = 1e-12) -> np.ndarray:
    """The fixed point of B's operator, ``[S, 2]``.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    _check_alpha(alpha)
    x = np.zeros((mdp.num_states, 2))
    while True:
        new = substates_operator(mdp, pi, x, alpha)
        if np.abs(new - x).max() <= tol:
            return new
        x = new


def tie_breaking_substates(mdp: MDP, alpha: float, which: int, tol: float = 1e-9) -> tuple[np.ndarray, np.ndarray]:
    """Among the optimal actions, those that maximise the worse (``which=0``, safe) or the better substate (1, risky).

    Returns x ``[S, 2]`` and actions ``[S]``.
    """
    _check_alpha(alpha)
    allowed = optimal_action_set(policy_iteration(mdp).Q, tol)
    x, states = np.zeros((mdp.num_states, 2)), np.arange(mdp.num_states)
    while True:
        pairs = split_means(*_atoms(mdp, x, alpha), alpha)
        actions = np.where(allowed, pairs[..., which], -np.inf).argmax(-1)
        new = pairs[states, actions]
        if np.abs(new - x).max() <= 1e-12:
            return new, actions
        x = new


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} must be in (0, 1), so that both substates have mass")


def experiment(seed: int = 0) -> Experiment:
    """Return laws of risk-neutral, CVaR and target-reaching policies, and the contraction of the two-substate operator."""
    mdp, alpha, s0 = random_integer_mdp(4, 2, 4, seed + 3), 0.25, 0
    neutral_plan = stock_plan(mdp, lambda x: x.astype(float), (0, 0))
    neutral = return_law(mdp, neutral_plan, s0, 0)
    value, b, plan = best_cvar(mdp, alpha, s0)
    careful = return_law(mdp, plan, s0, -b)
    target = 5
    target_plan = stock_plan(mdp, lambda x: (x >= 0).astype(float), (-target, -target))
    aimed = return_law(mdp, target_plan, s0, -target)

    def reach(law: tuple[np.ndarray, np.ndarray]) -> float:
        return float(law[1][law[0] >= target].sum())

    levels = np.linspace(0.05, 1, 39)
    optimum = np.array([best_cvar(mdp, level, s0)[0] for level in levels])
    fixed = {"risk-neutral": neutral, "CVaR .25": careful, f"reach {target}": aimed}
    returns = np.arange(mdp.horizon * int(mdp.R.min()), mdp.horizon * int(mdp.R.max()) + 1)

    def distribution(law: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.array([law[1][law[0] <= g].sum() for g in returns])

    world = garnet(6, 3, 3, 0.9, seed)
    pi = np.full(world.r.shape, 1 / 3)
    limit, x, error = substates(world, pi, alpha, 1e-13), np.random.default_rng(seed).normal(size=(6, 2)) * 10, []
    for _ in range(61):
        error.append(np.abs(x - limit).max())
        x = substates_operator(world, pi, x, alpha)
    bound = error[0] * world.gamma ** np.arange(61)
    mean_error = np.abs(limit @ [alpha, 1 - alpha] - evaluate(world, pi).V).max()
    findings = [
        Finding.near("CVaR .25 of the stock policy, against its plan's value", cvar(*careful, alpha), value, 1e-12),
        Finding.at_least("CVaR .25: optimum - risk-neutral policy's", value - cvar(*neutral, alpha), 0),
        Finding.near(
            "alpha = 1: optimal CVaR, against the risk-neutral value", optimum[-1], neutral[0] @ neutral[1], 1e-10
        ),
        Finding.at_least(f"P(return >= {target}): target policy - risk-neutral", reach(aimed) - reach(neutral), 0),
        Finding.at_most("two substates: |α x1 + (1-α) x2 - V|", mean_error, 1e-11),
        Finding.at_most("two substates: largest error / bound", bound_ratio(error[1:], bound[1:]), 1),
    ]
    return Experiment(
        "Distributional DP: with past rewards as a stock, dynamic programming optimises CVaR and targets exactly",
        "Pires et al. 2025 (2501.13028), Achab, Neu 2021 (2112.15430)",
        [
            Panel(
                "law of the return, S 4, A 2, H 4",
                "return g",
                "P(G <= g)",
                [Curve(name, returns, distribution(law), "steps") for name, law in fixed.items()],
            ),
            Panel(
                "CVaR of three policies and the optimum",
                "α",
                "CVaR_α",
                [Curve(name, levels, np.array([cvar(*law, a) for a in levels])) for name, law in fixed.items()]
                + [Curve("optimum at each α", levels, optimum, "level")],
            ),
            Panel(
                "two substates, Garnet(6, 3, 3)",
                "sweep k",
                "sup-norm error",
                [
                    Curve("|x_k - x*|", np.arange(61), np.array(error)),
                    Curve("bound  γ^k e_0", np.arange(61), bound, "bound"),
                ],
                yscale="log",
            ),
        ],
        findings,
    )
