"""Performative reinforcement learning (Mandal, Triantafyllou, Radanovic, 2023, arXiv 2207.00046).

Deploying a policy changes the world: P and r are functions of pi. A policy is performatively *stable* if it is optimal in
the world that it induces. With un-normalised flows d, ``sum_a d(s, a) = rho(s) + gamma sum d P``, of world t:

1. repeated optimisation      ``d_{t+1} = argmax_{d in flow(P_t)} <d, r_t> - lam/2 |d|^2``
2. repeated gradient ascent   ``d_{t+1} = Proj_{flow(P_t)}((1 - eta lam) d_t + eta r_t)``

and ``pi = d / sum_a d``. Both contract to a stable point where the world is Lipschitz in d and lam is large enough
(theorem 1: ``lam > 12 S^{3/2} (2 eps_r + 5 S eps_p) / (1-gamma)^4``). 2 with ``eta = 1/lam`` is 1. The regularised program is
solved through its dual over state values h, with ``M = gamma P - E``:

3. ``min_h rho . h + 1/(2 lam) sum [r + M h]_+^2``,   ``d = [r + M h]_+ / lam``

Testbed: a gridworld in which 50 followers, each seeing a perturbed grid, may override the leader's move at a price.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from ..experiment import Curve, Experiment, Finding, Panel
from ..mdp import MDP
from ..solvers import policy_from_occupancy, policy_iteration

__all__ = [
    "Followers",
    "World",
    "empirical_world",
    "flow_program",
    "initial_policy",
    "project_on_flows",
    "regularised_flow",
    "relative_change",
    "repeat_ascent",
    "repeat_optimisation",
]

GAMMA = 0.9
_ROWS = ("oooooooo", "oofohooo", "ooohoofo", "ofooohof", "ooohoofo", "ohhofoho", "ohoohoho", "ooohofoG")
_CELL_REWARD = {"o": -0.01, "f": -0.02, "h": -0.5, "G": 1.0}
_MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
OVERRIDE_COST = 0.05


class World(NamedTuple):
    """What a deployed policy meets; the goal is absorbing and carries no flow."""

    P: np.ndarray
    """``[S, A, S]`` over the S live states: rows sum to 1 less the chance of reaching the goal."""
    r: np.ndarray
    """``[S, A]``."""
    rho: np.ndarray
    """``[S]``."""


def regularised_flow(
    world: World, lam: float, target: np.ndarray | None = None, h: np.ndarray | None = None, tol: float = 1e-11
) -> tuple[np.ndarray, np.ndarray]:
    """``argmax <d, target> - lam/2 |d|^2`` over flows ``[S, A]``, and the dual h ``[S]``, by semismooth Newton on 3.

    Args:
        target: ``[S, A]``; the world's reward where None.
        h: where to start.

    Raises:
        ValueError: lam <= 0, which is a linear program (:func:`flow_program`).
        ArithmeticError: the flow's residual stayed above 1e-9, as for lam below about 1e-3.
    """
    if not lam > 0:
        raise ValueError(f"lam={lam} must be > 0; flow_program solves lam = 0")
    S, A = world.r.shape
    M = GAMMA * world.P.reshape(S * A, S) - np.repeat(np.eye(S), A, axis=0)
    target = (world.r if target is None else target).ravel()
    h = np.zeros(S) if h is None else h

    def dual(h: np.ndarray) -> tuple[float, np.ndarray]:
        """Its value and gradient, which is minus the flow's residual."""
        d = np.maximum(target + M @ h, 0.0) / lam
        return float(world.rho @ h + lam / 2 * (d @ d)), world.rho + M.T @ d

    value, gradient = dual(h)
    for _ in range(100):
        if np.abs(gradient).max() <= tol:
            break
        active = M[target + M @ h > 0]
        step = -np.linalg.solve(active.T @ active / lam + 1e-10 * np.eye(S), gradient)
        size = 1.0
        while True:
            trial = h + size * step
            new_value, new_gradient = dual(trial)
            # near the solution the value's decrease is below rounding, the gradient's is not
            halved = np.abs(new_gradient).max() <= 0.5 * np.abs(gradient).max()
            if halved or new_value <= value + 1e-4 * size * (gradient @ step) or size < 1e-10:
                break
            size /= 2
        h, value, gradient = trial, new_value, new_gradient
    residual = float(np.abs(gradient).max())
    if residual > 1e-9:
        raise ArithmeticError(f"lam={lam}: the flow's residual is {residual:.1e}; raise lam or take flow_program")
    return np.maximum(target + M @ h, 0.0).reshape(S, A) / lam, h


def project_on_flows(world: World, x: np.ndarray, h: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The Euclidean projection of ``[S, A]`` on the world's flows, and its dual: 3 with target x and lam 1."""
    return regularised_flow(world, 1.0, x, h)


def flow_program(world: World) -> tuple[np.ndarray, float]:
    """``max <d, r>`` over flows, a vertex ``[S, A]``, and its value ``rho . V*``."""
    S, A = world.r.shape
    flow = np.repeat(np.eye(S), A, axis=1) - GAMMA * world.P.reshape(S * A, S).T
    result = linprog(-world.r.ravel(), A_eq=flow, b_eq=world.rho)
    if result.status != 0:
        raise ArithmeticError(f"HiGHS did not solve the program: {result.message}")
    return np.maximum(result.x, 0.0).reshape(S, A), -result.fun


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Cell rewards ``[64]`` and, for each move, the landing cell ``[64, 4]``."""
    reward = np.array([_CELL_REWARD[cell] for row in _ROWS for cell in row])
    y, x = np.divmod(np.arange(64), 8)
    landing = [np.clip(y + dy, 0, 7) * 8 + np.clip(x + dx, 0, 7) for dy, dx in _MOVES]
    return reward, np.stack(landing, axis=-1)


def _absorbing(reward: np.ndarray, landing: np.ndarray) -> MDP:
    """The undisturbed grid as an MDP on 64 cells, the last of them absorbing at 0."""
    P = np.eye(64)[landing]
    P[63] = np.eye(64)[63]
    r = reward[landing]
    r[63] = 0.0
    return MDP(P, r, GAMMA)


def initial_policy() -> np.ndarray:
    """.1-greedy for the optimum of the undisturbed grid, ``[64, 4]``."""
    best = policy_iteration(_absorbing(*_grid())).Q.argmax(-1)
    return np.where(np.eye(4)[best] > 0, 0.9, 0.1 / 3)


class Followers:
    """The reaction: 50 followers answer the leader's policy; ``react(pi)`` is the world that they make of it.

    Each sees its own perturbed grid and computes its best response, a fifth action being to leave the move to the leader
    and an override costing .05; their Q are averaged and answered by ``softmax(beta Q)``.

    Args:
        beta: how sharply they respond, >= 0.
    """

    def __init__(self, beta: float, count: int = 50) -> None:
        if not beta >= 0:
            raise ValueError(f"beta={beta} must be >= 0")
        self.beta = beta
        self.cell_reward, self.landing = _grid()
        y, x = np.divmod(np.arange(64), 8)
        self.start = ((y == 0) | (x == 0)).astype(float)
        self.start /= self.start.sum()
        self._seen = np.stack([self._perturbed(k) for k in range(count)])
        self._Q = np.zeros((count, 64, 5))

    def _perturbed(self, k: int) -> np.ndarray:
        rng = np.random.default_rng(k)
        draw = rng.random((8, 8)).ravel()
        reward = self.cell_reward.copy()
        for cell in range(63):
            if self.start[cell] == 0 and draw[cell] <= 0.3:
                reward[cell] = rng.choice([-0.5, -0.02, -0.01])
        return reward

    def respond(self, pi: np.ndarray) -> np.ndarray:
        """The followers' averaged response to a leader's policy ``[64, 4]``, ``[64, 5]``, by value iteration."""
        live = np.arange(64) < 63
        r = self._seen[:, self.landing]  # [F, 64, 4]
        while True:
            V = self._Q.max(-1) * live
            moves = r + GAMMA * V[:, self.landing]
            Q = np.concatenate([moves - OVERRIDE_COST, (pi * moves).sum(-1, keepdims=True)], axis=-1)
            change = np.abs(Q - self._Q)[:, :63].max()
            self._Q = Q
            if change < 1e-13:
                break
        logits = self.beta * Q.mean(0)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def react(self, pi: np.ndarray) -> World:
        """The world of the live 63 cells that the leader meets having deployed ``pi`` ``[63, 4]`` or ``[64, 4]``."""
        pi = np.vstack([pi, np.full((1, 4), 0.25)]) if len(pi) == 63 else pi
        response = self.respond(pi)
        move = response[:, None, :4] + response[:, 4, None, None] * np.eye(4)  # [64, leader's action, move]
        P = np.einsum("sam,smt->sat", move, np.eye(64)[self.landing])
        r = (move * self.cell_reward[self.landing][:, None]).sum(-1)
        return World(P[:63, :, :63], r[:63], self.start[:63])


def relative_change(flows: np.ndarray) -> np.ndarray:
    """``|d_t - d_{t-1}| / |d_{t-1}|``, ``[T]``, of flows ``[T+1, S, A]``."""
    return np.linalg.norm(np.diff(flows, axis=0), axis=(1, 2)) / np.linalg.norm(flows[:-1], axis=(1, 2))


def _first_flow(world: World, pi: np.ndarray) -> np.ndarray:
    kernel = np.einsum("sa,sat->st", pi, world.P)
    mass = np.linalg.solve(np.eye(len(pi)) - GAMMA * kernel.T, world.rho)
    return mass[:, None] * pi


def repeat_optimisation(followers: Followers, lam: float, iterations: int) -> np.ndarray:
    """Equation 1 from :func:`initial_policy`: flows d_0..d_T, ``[T+1, 63, 4]``; with lam 0, vertices of its program."""
    pi = initial_policy()
    world, h = followers.react(pi), None
    flows = [_first_flow(world, pi[:63])]
    for _ in range(iterations):
        if lam > 0:
            d, h = regularised_flow(world, lam, h=h)
        else:
            d, _ = flow_program(world)
        flows.append(d)
        world = followers.react(policy_from_occupancy(d))
    return np.stack(flows)


def repeat_ascent(followers: Followers, lam: float, eta: float, iterations: int) -> np.ndarray:
    """Equation 2 from :func:`initial_policy`: flows d_0..d_T, ``[T+1, 63, 4]``."""
    pi = initial_policy()
    world, h = followers.react(pi), None
    flows = [_first_flow(world, pi[:63])]
    for _ in range(iterations):
        d, h = project_on_flows(world, (1 - eta * lam) * flows[-1] + eta * world.r, h)
        flows.append(d)
        world = followers.react(policy_from_occupancy(d))
    return np.stack(flows)


def empirical_world(
    followers: Followers, pi: np.ndarray, num_paths: int, rng: np.random.Generator, longest: int = 100
) -> World:
    """The world as counted from ``num_paths`` episodes of ``pi`` ``[63, 4]`` in the true one.

    A pair never seen leads to the four neighbours alike and pays the mean of the three negative rewards.
    """
    true = followers.react(pi)
    S, A = true.r.shape
    exits = np.concatenate([true.P, 1 - true.P.sum(-1, keepdims=True)], axis=-1).cumsum(-1)  # the goal last
    counts = np.zeros((S, A, S + 1))
    s = rng.choice(S, num_paths, p=true.rho)
    choice = pi.cumsum(-1)
    for _ in range(longest):
        a = np.minimum((choice[s] <= rng.random(len(s))[:, None]).sum(-1), A - 1)
        successor = np.minimum((exits[s, a] <= rng.random(len(s))[:, None]).sum(-1), S)
        np.add.at(counts, (s, a, successor), 1)
        s = successor[successor < S]
        if len(s) == 0:
            break
    reach = np.eye(64)[followers.landing[:63]].mean(1)
    seen = counts.sum(-1, keepdims=True)
    P = np.where(seen > 0, counts / np.maximum(seen, 1), reach[:, None, :])
    r = np.where(seen[..., 0] > 0, P @ followers.cell_reward, np.mean([-0.01, -0.02, -0.5]))
    return World(P[..., :S], r, true.rho)


def experiment(seed: int = 0) -> Experiment:
    """Relative change by iteration for lam, beta and the ascent's step, and stability of what is reached.

    The grid and its followers are fixed, so ``seed`` only picks the sampled episodes.
    """
    iterations = np.arange(1, 26)
    by_lam = [
        Curve(f"λ {lam:g}", iterations, relative_change(repeat_optimisation(Followers(10), lam, 25)))
        for lam in (0.2, 1.0, 5.0)
    ]
    by_beta = {beta: repeat_optimisation(Followers(beta), 1.0, 25) for beta in (1, 5, 10, 200)}
    change = {beta: relative_change(flows) for beta, flows in by_beta.items()}
    tail = {beta: _tail(change[beta]) for beta in (1, 5, 10)}
    beta_curves = []
    for beta in (1, 5, 10, 200):
        beta_curves.append(Curve(f"β {beta}", iterations, change[beta]))
        if beta in tail:
            first, factor = tail[beta]
            fit = change[beta][first] * factor ** (iterations - 1.0 - first)
            beta_curves.append(Curve(f"factor {factor:.3f}", iterations, fit, "bound"))
    ascent = {eta: relative_change(repeat_ascent(Followers(5), 1.0, eta, 60)) for eta in (0.2, 0.5, 1.0, 2.0)}

    stable, followers = by_beta[5][-1], Followers(5)
    again, _ = regularised_flow(followers.react(policy_from_occupancy(stable)), 1.0)
    _, vertex = flow_program(Followers(10).react(initial_policy()))
    rng = np.random.default_rng(seed)
    sampled = {m: _sampled_change(followers, m, rng) for m in (20, 200, 1000)}
    findings = [
        Finding.at_most("β 5, λ 1: |re-optimised - stable point|", np.abs(again - stable).max(), 1e-9),
        Finding.near("β 5, λ 1: linear factor (a prototype's: .2)", tail[5][1], 0.2, 0.05),
        Finding.near("β 1, λ 1: linear factor (a prototype's: .035)", tail[1][1], 0.035, 0.01),
        Finding.near("first world (β 10): value of the linear program", vertex, 0.092828044365, 1e-8),
        Finding.at_least("ascent with η = 2: change after 60 steps (diverges)", ascent[2.0][-1], 0.1),
        Finding.at_most("change from 1000 paths / from 20", sampled[1000] / sampled[20], 0.5),
    ]
    common = {"yscale": "log", "ylim": (1e-13, 3.0)}
    return Experiment(
        "Performative RL: retraining contracts linearly to a policy that is optimal in the world it causes",
        "Mandal, Triantafyllou, Radanovic 2023, arXiv 2207.00046",
        [
            Panel("repeated optimisation, β = 10", "deployment t", "|d_t - d_{t-1}| / |d_{t-1}|", by_lam, **common),
            Panel("repeated optimisation, λ = 1", "deployment t", "relative change", beta_curves, **common),
            Panel(
                "repeated gradient ascent, β 5, λ 1",
                "deployment t",
                "relative change",
                [Curve(f"η {eta:g}", np.arange(1, 61), y) for eta, y in ascent.items()],
                **common,
            ),
        ],
        findings,
    )


def _tail(change: np.ndarray) -> tuple[int, float]:
    """Where the change first falls below 1e-4, and the geometric mean of its ratios from there down to 1e-10."""
    first, last = np.flatnonzero(change < 1e-4)[0], np.flatnonzero(change > 1e-10)[-1]
    return int(first), float((change[last] / change[first]) ** (1 / (last - first)))


def _sampled_change(followers: Followers, num_paths: int, rng: np.random.Generator) -> float:
    """The mean relative change over deployments 5..8 when each world is counted from episodes."""
    pi, flows = initial_policy()[:63], []
    for _ in range(8):
        d, _ = regularised_flow(empirical_world(followers, pi, num_paths, rng), 1.0)
        flows.append(d)
        pi = policy_from_occupancy(d)
    return float(relative_change(np.stack(flows))[3:].mean())
