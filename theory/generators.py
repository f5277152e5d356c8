"""The zoo: small MDPs with known answers. ``rng`` is a seed or a ``numpy.random.Generator``."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from .mdp import MDP, AverageRewardMDP, FiniteHorizonMDP

__all__ = [
    "bandit",
    "chain",
    "deep_sea",
    "garnet",
    "gridworld",
    "layered",
    "lock",
    "random_finite",
    "riverswim",
    "sparse_garnet",
]

Rng = int | np.random.Generator


def garnet(num_states: int, num_actions: int, branching: int, gamma: float = 0.9, rng: Rng = 0) -> MDP:
    """A random MDP: each (s, a) has ``branching`` successors with Dirichlet(1) weights; rewards uniform on [0, 1].

    Draws, in this order: for s, for a: the successors, their weights; after all of them the rewards.

    Source: T. Archibald, K. McKinnon, L. Thomas, On the generation of Markov decision processes, 1995.
    """
    if not 1 <= branching <= num_states:
        raise ValueError(f"branching={branching} must be in [1, num_states={num_states}]")
    rng = np.random.default_rng(rng)
    P = np.zeros((num_states, num_actions, num_states))
    for s in range(num_states):
        for a in range(num_actions):
            successors = rng.choice(num_states, branching, replace=False)
            P[s, a, successors] = rng.dirichlet(np.ones(branching))
    return MDP(P, rng.random((num_states, num_actions)), gamma)


def sparse_garnet(num_states: int, num_actions: int, branching: int, gamma: float = 0.99, rng: Rng = 0) -> MDP:
    """:func:`garnet` with a sparse kernel, drawn in one pass (so not the same draws); successors may coincide."""
    rng = np.random.default_rng(rng)
    rows = num_states * num_actions
    successors = rng.integers(num_states, size=rows * branching, dtype=np.int32)
    weights = rng.standard_exponential((rows, branching))
    weights /= weights.sum(-1, keepdims=True)
    starts = np.arange(0, rows * branching + 1, branching)
    P = sparse.csr_matrix((weights.ravel(), successors, starts), shape=(rows, num_states))
    return MDP(P, rng.random((num_states, num_actions)), gamma)


def bandit(means: np.ndarray, gamma: float = 0.0) -> MDP:
    """One state, one action an arm, whose mean is its reward."""
    means = np.asarray(means, np.float64)
    return MDP(np.ones((1, len(means), 1)), means[None], gamma)


def chain(num_states: int = 5, slip: float = 0.2, gamma: float = 0.95) -> MDP:
    """Strens' chain: action 0 steps forward (reward 10 at the end), action 1 returns to the start (reward 2).

    With probability ``slip`` the other action is taken. Source: M. Strens, A Bayesian framework for RL, 2000.
    """
    P = np.zeros((num_states, 2, num_states))
    r = np.zeros((num_states, 2))
    for s in range(num_states):
        outcomes = ((min(s + 1, num_states - 1), 10.0 if s == num_states - 1 else 0.0), (0, 2.0))
        for a in range(2):
            for taken, (successor, reward) in enumerate(outcomes):
                p = 1 - slip if taken == a else slip
                P[s, a, successor] += p
                r[s, a] += p * reward
    return MDP(P, r, gamma, np.eye(num_states)[0])


def riverswim(num_states: int = 6) -> AverageRewardMDP:
    """Swim left (action 0, certain) or right (action 1), upstream; reward .005 at the left end, 1 at the other.

    Right: stay .6, forward .35, back .05; at the left end .4 stay, .6 forward; at the right end .6 stay, .4 back.

    Source: A. Strehl, M. Littman, An analysis of model-based interval estimation for MDPs, 2008, with these constants.
    """
    P = np.zeros((num_states, 2, num_states))
    last = num_states - 1
    for s in range(num_states):
        P[s, 0, max(s - 1, 0)] = 1.0
        if s == 0:
            P[s, 1, :2] = 0.4, 0.6
        elif s == last:
            P[s, 1, last - 1 :] = 0.4, 0.6
        else:
            P[s, 1, s - 1 : s + 2] = 0.05, 0.6, 0.35
    r = np.zeros((num_states, 2))
    r[0, 0], r[last, 1] = 0.005, 1.0
    return AverageRewardMDP(P, r)


def gridworld(rows: list[str], gamma: float = 0.95, slip: float = 0.0, step_reward: float = -0.01) -> MDP:
    """A grid of characters: ``S`` start, ``G`` goal (+1 on entering, then absorbing at 0), ``#`` wall, else free.

    Actions left, right, up, down; a blocked move stays; with probability ``slip`` the move is uniform over the four.
    Starts uniformly on the ``S`` cells (on all free cells where there is none).
    """
    if len({len(row) for row in rows}) != 1 or not any("G" in row for row in rows):
        raise ValueError(f"rows={rows} must be strings of one length with at least one goal G")
    grid = np.array([list(row) for row in rows])
    height, width = grid.shape
    S = height * width
    P = np.zeros((S, 4, S))
    r = np.zeros((S, 4))
    for y in range(height):
        for x in range(width):
            s = y * width + x
            if grid[y, x] in "G#":
                P[s, :, s] = 1.0
                continue
            for a, (dy, dx) in enumerate(((0, -1), (0, 1), (-1, 0), (1, 0))):
                to_y, to_x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                if grid[to_y, to_x] == "#":
                    to_y, to_x = y, x
                reward = 1.0 if grid[to_y, to_x] == "G" else step_reward
                p = slip / 4 + (1 - slip) * (np.arange(4) == a)
                P[s, :, to_y * width + to_x] += p
                r[s] += p * reward
    start = (grid == "S").ravel()
    start = start if start.any() else (grid != "#").ravel() & (grid != "G").ravel()
    return MDP(P, r, gamma, start / start.sum())


def lock(horizon: int, num_actions: int, rng: Rng = 0) -> FiniteHorizonMDP:
    """A combination lock: a live and a dead state, one right action a step, reward 1 for the last right one."""
    code = np.random.default_rng(rng).integers(num_actions, size=horizon)
    P = np.zeros((horizon, 2, num_actions, 2))
    P[:, :, :, 1] = 1.0
    P[np.arange(horizon), 0, code] = 1.0, 0.0
    r = np.zeros((horizon, 2, num_actions))
    r[-1, 0, code[-1]] = 1.0
    return FiniteHorizonMDP(P, r, np.array([1.0, 0.0]))


def deep_sea(size: int, rng: Rng = 0) -> FiniteHorizonMDP:
    """Deep sea: descend ``size`` rows; right costs .01/size a step, the lower right corner pays 1; state is the column.

    Which of the two actions is "right" is drawn a cell. Source: I. Osband et al., bsuite, arXiv 1908.03568.
    """
    right = np.random.default_rng(rng).integers(2, size=(size, size))
    P = np.zeros((size, size, 2, size))
    r = np.zeros((size, size, 2))
    for h in range(size):
        for column in range(size):
            a = right[h, column]
            P[h, column, a, min(column + 1, size - 1)] = 1.0
            P[h, column, 1 - a, max(column - 1, 0)] = 1.0
            r[h, column, a] = -0.01 / size
    r[size - 1, size - 1, right[size - 1, size - 1]] += 1.0
    return FiniteHorizonMDP(P, r, np.eye(size)[0])


def layered(horizon: int, width: int, num_actions: int, rng: Rng = 0) -> FiniteHorizonMDP:
    """H layers of ``width`` states, Dirichlet(2) transitions to the next layer, uniform first layer, no rewards.

    The testbed of adversarial MDPs: the losses are the adversary's.
    """
    rng = np.random.default_rng(rng)
    P = rng.dirichlet(np.full(width, 2.0), size=(horizon, width, num_actions))
    return FiniteHorizonMDP(P, np.zeros((horizon, width, num_actions)))


def random_finite(
    horizon: int, num_states: int, num_actions: int, concentration: float = 1.0, rng: Rng = 0
) -> FiniteHorizonMDP:
    """Time-dependent Dirichlet(``concentration``) transitions, then uniform rewards, started in state 0."""
    rng = np.random.default_rng(rng)
    P = rng.dirichlet(np.full(num_states, concentration), (horizon, num_states, num_actions))
    return FiniteHorizonMDP(P, rng.random((horizon, num_states, num_actions)), np.eye(num_states)[0])
