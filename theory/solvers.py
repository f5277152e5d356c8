"""Exact solvers: evaluation, occupancy measures, dynamic programming and linear programs.

Value functions are sums of discounted rewards; an occupancy measure ``d`` sums to 1, so that
``<d, r> = (1 - gamma) rho . V`` (Puterman 1994, ch. 6 and 8; Altman 1999 for constraints).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linprog
from scipy.special import logsumexp

from .mdp import MDP, AverageRewardMDP, ConstrainedMDP

__all__ = [
    "AverageSolution",
    "InfeasibleError",
    "LinearProgram",
    "Solution",
    "Values",
    "average_linear_program",
    "evaluate",
    "fixed_point",
    "greedy",
    "linear_program",
    "linear_program_dual",
    "occupancy",
    "optimal_action_set",
    "policy_from_occupancy",
    "policy_iteration",
    "relative_value_iteration",
    "soft_value_iteration",
    "stationary_law",
    "value_iteration",
]


class InfeasibleError(ValueError):
    """No policy meets the limits of a :class:`~polopt.theory.ConstrainedMDP`."""


class Values(NamedTuple):
    """A policy's values."""

    V: np.ndarray
    """``[..., S]``."""
    Q: np.ndarray
    """``[..., S, A]``."""


class Solution(NamedTuple):
    """An optimal policy and its values."""

    V: np.ndarray
    """``[S]``."""
    Q: np.ndarray
    """``[S, A]``."""
    pi: np.ndarray
    """``[S, A]``; the lowest index where actions tie."""
    iterations: int


class LinearProgram(NamedTuple):
    """An optimal flow."""

    value: float
    """``rho . V``, the discounted return."""
    d: np.ndarray
    """Occupancy measure ``[S, A]``, summing to 1."""
    pi: np.ndarray
    """``[S, A]``; uniform at states of no mass."""
    multipliers: np.ndarray
    """``[m]`` >= 0, the price of each limit; empty without constraints."""


class AverageSolution(NamedTuple):
    """An average-optimal policy."""

    gain: float
    bias: np.ndarray
    """``[S]``, with ``bias[0] = 0``."""
    pi: np.ndarray
    """``[S, A]``."""
    iterations: int


def _check_policy(mdp: MDP | AverageRewardMDP, pi: np.ndarray) -> np.ndarray:
    pi = np.asarray(pi, np.float64)
    if pi.shape[-2:] != mdp.r.shape:
        raise ValueError(f"pi has shape {pi.shape}; this MDP needs [..., {mdp.num_states}, {mdp.num_actions}]")
    return pi


def evaluate(mdp: MDP, pi: np.ndarray, r: np.ndarray | None = None) -> Values:
    """Solve ``(I - gamma P_pi) V = r_pi`` for policies ``[..., S, A]``, with the MDP's reward or another ``r``.

    Raises:
        ArithmeticError: the Krylov solver used on a sparse kernel did not reach a residual of 1e-10.
    """
    pi = _check_policy(mdp, pi)
    r = mdp.r if r is None else r
    r_pi = (pi * r).sum(-1)
    if mdp.is_sparse:
        system = sparse.eye(mdp.num_states, format="csr") - mdp.gamma * mdp.kernel(pi)
        V = _krylov(system, r_pi)
    else:
        system = np.eye(mdp.num_states) - mdp.gamma * mdp.kernel(pi)
        V = np.linalg.solve(system, r_pi[..., None])[..., 0]
    return Values(V, r + mdp.gamma * mdp.expect(V))


def occupancy(mdp: MDP, pi: np.ndarray, rho: np.ndarray | None = None) -> np.ndarray:
    """``d(s) = (1 - gamma) sum_t gamma^t Pr(s_t = s)``, ``[..., S]``, summing to 1, of policies ``[..., S, A]``."""
    pi = _check_policy(mdp, pi)
    rho = mdp.rho if rho is None else rho
    kernel = mdp.kernel(pi)
    if mdp.is_sparse:
        system = sparse.eye(mdp.num_states, format="csr") - mdp.gamma * kernel.T.tocsr()
        return (1 - mdp.gamma) * _krylov(system, rho)
    system = np.eye(mdp.num_states) - mdp.gamma * np.swapaxes(kernel, -1, -2)
    right = np.broadcast_to(rho, system.shape[:-1])[..., None]
    return (1 - mdp.gamma) * np.linalg.solve(system, right)[..., 0]


def _krylov(system: sparse.csr_matrix, right: np.ndarray) -> np.ndarray:
    x, _ = sparse.linalg.gmres(system, right, rtol=1e-13, atol=0.0, restart=50, maxiter=200)
    residual = float(np.abs(system @ x - right).max())
    if residual > 1e-10 * max(1.0, float(np.abs(right).max())):
        raise ArithmeticError(f"GMRES stopped at residual {residual:.2e}; a dense MDP (mdp.dense()) is solved directly")
    return x


def policy_from_occupancy(d: np.ndarray) -> np.ndarray:
    """``pi(a|s) = d(s, a) / sum_a d(s, a)``, ``[..., S, A]``; uniform at states of no mass."""
    mass = d.sum(-1, keepdims=True)
    return np.where(mass > 0, d / np.where(mass > 0, mass, 1.0), 1.0 / d.shape[-1])


def greedy(Q: np.ndarray) -> np.ndarray:
    """The greedy policy ``[..., A]``, one-hot; the lowest index where actions tie."""
    return np.eye(Q.shape[-1])[Q.argmax(-1)]


def optimal_action_set(Q: np.ndarray, tol: float = 1e-9) -> np.ndarray:
    """Which actions are within ``tol`` of the best, ``[..., A]`` bool."""
    return Q.max(-1, keepdims=True) - Q <= tol


def fixed_point(
    operator: Callable[[np.ndarray], np.ndarray], V: np.ndarray, gamma: float, tol: float
) -> tuple[np.ndarray, int]:
    """The fixed point, to ``tol`` in sup norm, of a monotone ``operator`` with ``T(V + c) = TV + gamma c``.

    MacQueen's bounds ``TV + gamma/(1-gamma) [min(TV - V), max(TV - V)]`` hold the fixed point, and their width falls
    with the span of the increments, often far faster than gamma^n; the middle of the last bounds is returned.

    Raises:
        ArithmeticError: ``tol`` lies below what rounding allows.

    Source: J. MacQueen, A modified dynamic programming method for Markovian decision problems, 1966.
    """
    factor = gamma / (1.0 - gamma)
    increment, limit, iteration = np.inf, None, 0
    while True:
        new = operator(V)
        iteration += 1
        increment = new - V
        low, high = float(increment.min()), float(increment.max())
        V = new
        if factor * (high - low) / 2 <= tol:
            return V + factor * (high + low) / 2, iteration
        if limit is None:
            span = max(factor * (high - low), tol)
            limit = 10 + iteration + (int(2 * np.log(span / tol) / -np.log(gamma)) if gamma > 0 else 0)
        if iteration > limit:
            raise ArithmeticError(
                f"tol={tol} was not reached in {iteration} sweeps: it is below rounding; ask for more"
            )


def value_iteration(mdp: MDP, tol: float = 1e-9) -> Solution:
    """V* to ``tol`` in sup norm by ``V <- max_a Q``; dense or sparse kernels."""
    V, iterations = fixed_point(lambda V: mdp.backup(V).max(-1), np.zeros(mdp.num_states), mdp.gamma, tol)
    Q = mdp.backup(V)
    return Solution(V, Q, greedy(Q), iterations)


def soft_value_iteration(mdp: MDP, tau: float, log_prior: np.ndarray | None = None, tol: float = 1e-11) -> Solution:
    """The entropy-regularised optimum: ``V = tau log sum_a prior(a|s) exp(Q/tau)``, ``pi = prior exp((Q - V)/tau)``.

    Args:
        tau: temperature, > 0.
        log_prior: ``[S, A]``; None is the counting measure (plain entropy), not the uniform law.
    """
    if not tau > 0:
        raise ValueError(f"tau={tau} must be > 0; value_iteration is the limit tau -> 0")
    log_prior = np.zeros(mdp.r.shape) if log_prior is None else log_prior

    def operator(V: np.ndarray) -> np.ndarray:
        return tau * logsumexp(mdp.backup(V) / tau + log_prior, axis=-1)

    V, iterations = fixed_point(operator, np.zeros(mdp.num_states), mdp.gamma, tol)
    Q = mdp.backup(V)
    logits = Q / tau + log_prior
    return Solution(V, Q, np.exp(logits - logsumexp(logits, axis=-1, keepdims=True)), iterations)


def policy_iteration(mdp: MDP) -> Solution:
    """V*, exact up to the linear solve. An action changes only where it is better by more than rounding."""
    actions = mdp.r.argmax(-1)
    identity = np.eye(mdp.num_actions)
    states = np.arange(mdp.num_states)
    iteration = 0
    while True:
        iteration += 1
        V, Q = evaluate(mdp, identity[actions])
        tie = 1e-12 * max(1.0, float(np.abs(Q).max()))
        better = Q.max(-1) > Q[states, actions] + tie
        if not better.any():
            return Solution(V, Q, identity[optimal_action_set(Q, tie).argmax(-1)], iteration)
        actions = np.where(better, Q.argmax(-1), actions)


def _flow(mdp: MDP) -> sparse.csr_matrix:
    """``sum_a d(s, a) - gamma sum d P`` as a matrix ``[S, S*A]``."""
    S, A = mdp.r.shape
    P = mdp.P if mdp.is_sparse else sparse.csr_matrix(mdp.P.reshape(S * A, S))
    outgoing = sparse.kron(sparse.eye(S), np.ones((1, A)), format="csr")
    return (outgoing - mdp.gamma * P.T).tocsr()


_HIGHS = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def linear_program(mdp: MDP) -> LinearProgram:
    """``max <d, r>`` over flows ``sum_a d(s, a) = (1-gamma) rho(s) + gamma sum d P``, ``d >= 0``, within the limits.

    Limits are those of a :class:`~polopt.theory.ConstrainedMDP`; any other MDP has none.

    Raises:
        InfeasibleError: no policy meets the limits; the message says the least cost that can be reached.
    """
    constrained = isinstance(mdp, ConstrainedMDP)
    costs = mdp.costs.reshape(len(mdp.costs), -1) if constrained else None
    limits = (1 - mdp.gamma) * mdp.limits if constrained else None
    flow, start = _flow(mdp), (1 - mdp.gamma) * mdp.rho
    result = linprog(-mdp.r.ravel(), A_ub=costs, b_ub=limits, A_eq=flow, b_eq=start, options=_HIGHS)
    if result.status == 2 and constrained:
        least = [linprog(c, A_eq=flow, b_eq=start, options=_HIGHS).fun / (1 - mdp.gamma) for c in costs]
        pairs = ", ".join(f"limits[{i}]={mdp.limits[i]:g} (least {x:.6g})" for i, x in enumerate(least))
        raise InfeasibleError(
            f"no policy meets the limits: {pairs}; raise those below their least, or those that conflict"
        )
    if result.status != 0:
        raise ArithmeticError(f"HiGHS did not solve the program: {result.message}")
    d = np.maximum(result.x, 0.0).reshape(mdp.r.shape)
    prices = -result.ineqlin.marginals if constrained else np.zeros(0)
    return LinearProgram(-result.fun / (1 - mdp.gamma), d, policy_from_occupancy(d), prices)


def linear_program_dual(mdp: MDP) -> np.ndarray:
    """V* ``[S]`` as ``min rho . V`` over ``V(s) >= r(s, a) + gamma E V``; states of no start mass are not pinned."""
    if isinstance(mdp, ConstrainedMDP):
        raise ValueError("the dual over values has no limits; linear_program(mdp).multipliers prices them")
    result = linprog(mdp.rho, A_ub=-_flow(mdp).T, b_ub=-mdp.r.ravel(), bounds=(None, None), options=_HIGHS)
    if result.status != 0:
        raise ArithmeticError(f"HiGHS did not solve the program: {result.message}")
    return result.x


def relative_value_iteration(
    mdp: AverageRewardMDP, tol: float = 1e-12, max_iterations: int = 1_000_000
) -> AverageSolution:
    """Gain and bias by value iteration with differences, stopped when the increment's span is below ``tol``.

    Half of every step stays put (``P <- (I + P)/2``): gain and bias stay the same and the chain becomes aperiodic.

    Raises:
        ArithmeticError: the span did not fall below ``tol``, as where several recurrent classes have different gains.
    """
    S = mdp.num_states
    h = np.zeros(S)
    for iteration in range(1, max_iterations + 1):
        new = 0.5 * (h + (mdp.r + mdp.P @ h).max(-1))
        increment = new - h
        h = new - new[0]
        if np.ptp(increment) < tol:
            Q = mdp.r + mdp.P @ h
            return AverageSolution(float(increment.max() + increment.min()), h, greedy(Q), iteration)
    raise ArithmeticError(f"the span is {np.ptp(increment):.2e} after {max_iterations} sweeps; is the MDP unichain?")


def stationary_law(mdp: AverageRewardMDP, pi: np.ndarray) -> np.ndarray:
    """The stationary law ``[S]`` of a unichain policy ``[S, A]``."""
    kernel = np.matmul(_check_policy(mdp, pi)[:, None, :], mdp.P)[:, 0]
    system = np.vstack([kernel.T - np.eye(mdp.num_states), np.ones(mdp.num_states)])
    right = np.append(np.zeros(mdp.num_states), 1.0)
    return np.linalg.lstsq(system, right, rcond=None)[0]


def average_linear_program(mdp: AverageRewardMDP) -> tuple[float, np.ndarray]:
    """The optimal gain and a stationary measure ``[S, A]`` that attains it: ``max <x, r>``, x stationary, sum 1."""
    S, A = mdp.r.shape
    balance = np.repeat(np.eye(S), A, axis=1) - mdp.P.reshape(S * A, S).T
    system = np.vstack([balance, np.ones(S * A)])
    result = linprog(-mdp.r.ravel(), A_eq=system, b_eq=np.append(np.zeros(S), 1.0), options=_HIGHS)
    if result.status != 0:
        raise ArithmeticError(f"HiGHS did not solve the program: {result.message}")
    return -result.fun, np.maximum(result.x, 0.0).reshape(S, A)
