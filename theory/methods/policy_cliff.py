"""The policy cliff: how rewards map to policies (Xu, 2025, arXiv 2507.20150), on tabular MDPs.

1. The hard map ``r -> argmax Q*_r`` is locally constant where ``gap(r) = min_s (best - second best Q*) > 0``: the policy is the
   same for every r' with ``|r - r'| < gap (1-gamma)/2``, since ``|Q*_r - Q*_r'| <= |r - r'|/(1-gamma)``.
2. Where optimal actions tie it is a cliff: duplicate an action, add eps to one copy, and the policies are at L1 distance 2 for
   every eps > 0, though the values differ by at most ``eps/(1-gamma)``.
3. A bad cliff: under a proxy reward that ignores what the true one sees, the tie decides a true loss of order 1.
4. The soft map ``softmax(Q*_tau/tau)`` is Lipschitz, ``|pi - pi'|_1 <= 2 |r - r'| / (tau (1-gamma))`` (1 in place of 2 holds,
   too: softmax is 1-Lipschitz from sup norm to L1), and biased by ``V* - V^pi <= tau log A/(1-gamma)``.
5. With weights w on several rewards the same holds along ``r_w = sum w_j r_j``: piecewise constant, with jumps where r_w ties.

All norms are sup norms over (s, a); L1 is over actions, its maximum over states.
"""

from __future__ import annotations

import numpy as np

from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..mdp import MDP
from ..measure import bound_ratio, slope
from ..solvers import evaluate, optimal_action_set, policy_iteration, soft_value_iteration

__all__ = [
    "action_gap",
    "along_segment",
    "duplicate_action",
    "hard_policy",
    "lipschitz_bound",
    "policy_distance",
    "soft_policy",
    "stable_radius",
    "with_reward",
]


def with_reward(mdp: MDP, r: np.ndarray) -> MDP:
    """The same dynamics with reward ``[S, A]``."""
    return MDP(mdp.P, r, mdp.gamma, mdp.rho)


def duplicate_action(mdp: MDP, source: int = 0, copy: int = 1) -> MDP:
    """Action ``copy`` overwritten by ``source``: same law, same reward."""
    P, r = np.array(mdp.P), np.array(mdp.r)
    P[:, copy], r[:, copy] = P[:, source], r[:, source]
    return MDP(P, r, mdp.gamma, mdp.rho)


def hard_policy(mdp: MDP, tol: float = 1e-9) -> np.ndarray:
    """The optimal policy ``[S, A]``, one-hot; the lowest index among actions within ``tol``."""
    return np.eye(mdp.num_actions)[optimal_action_set(policy_iteration(mdp).Q, tol).argmax(-1)]


def soft_policy(mdp: MDP, tau: float) -> np.ndarray:
    """The entropy-regularised optimum ``[S, A]``, which is not the softmax of the unregularised Q*."""
    return soft_value_iteration(mdp, tau, tol=1e-13).pi


def policy_distance(pi: np.ndarray, other: np.ndarray) -> float:
    """``max_s |pi(.|s) - pi'(.|s)|_1``, in [0, 2]."""
    return float(np.abs(pi - other).sum(-1).max())


def action_gap(mdp: MDP) -> float:
    """``min_s`` of the best less the second best Q*."""
    ordered = np.sort(policy_iteration(mdp).Q, axis=-1)
    return float((ordered[:, -1] - ordered[:, -2]).min())


def stable_radius(mdp: MDP) -> float:
    """Statement 1: rewards closer than this keep the optimal policy."""
    return action_gap(mdp) * (1 - mdp.gamma) / 2


def lipschitz_bound(distance: float | np.ndarray, tau: float | np.ndarray, gamma: float) -> float | np.ndarray:
    """Statement 4: ``2 |r - r'| / (tau (1-gamma))``."""
    return 2 * distance / (tau * (1 - gamma))


def along_segment(
    mdp: MDP, first: np.ndarray, second: np.ndarray, weights: np.ndarray, tau: float
) -> tuple[np.ndarray, np.ndarray]:
    """Statement 5: hard and soft policies ``[len(weights), S, A]`` for ``(1-w) first + w second``."""
    worlds = [with_reward(mdp, (1 - w) * first + w * second) for w in weights]
    return np.stack([hard_policy(m) for m in worlds]), np.stack([soft_policy(m, tau) for m in worlds])


def experiment(seed: int = 0) -> Experiment:
    """The cliff on Garnet(5, 3, 3) with a duplicated action, and the maps along a segment of rewards."""
    world = garnet(5, 3, 3, 0.9, seed)
    mdp = duplicate_action(world)
    bump = np.eye(3)
    epsilons, taus = np.geomspace(1e-6, 1, 19), (1.0, 0.1, 0.01)
    hard, soft = [], {tau: [] for tau in taus}
    for eps in epsilons:
        one, other = (with_reward(mdp, mdp.r + eps * bump[a]) for a in (0, 1))
        hard.append(policy_distance(hard_policy(one), hard_policy(other)))
        for tau in taus:
            soft[tau].append(policy_distance(soft_policy(one, tau), soft_policy(other, tau)))
    ratio = max(bound_ratio(soft[tau], lipschitz_bound(epsilons, tau, 0.9)) for tau in taus)
    fit = slope(epsilons[:7], np.array(soft[0.1][:7]), 0.0).estimate

    rng = np.random.default_rng(seed)
    radius, base = stable_radius(world), hard_policy(world)
    moved = sum(
        policy_distance(base, hard_policy(with_reward(world, world.r + radius * rng.uniform(-1, 1, world.r.shape)))) > 0
        for _ in range(300)
    )
    best = policy_iteration(world).V
    bias = [float((best - evaluate(world, soft_policy(world, tau)).V).max()) for tau in taus]
    bias_bound = [tau * np.log(3) / (1 - 0.9) for tau in taus]

    weights = np.linspace(0, 1, 201)
    second = rng.random(world.r.shape)
    pieces, smooth = along_segment(world, world.r, second, weights, 0.05)
    jumps = int((np.abs(np.diff(pieces, axis=0)).sum((1, 2)) > 0).sum())
    findings = [
        Finding.near("hard map: smallest L1 distance over eps", min(hard), 2, 1e-12),
        Finding.at_most("soft map: largest distance / Lipschitz bound", ratio, 1),
        Finding.near("soft map, tau .1: exponent of the distance in eps", fit, 1, 0.01),
        Finding.at_most("perturbations inside the stable radius that change the policy (of 300)", moved, 0),
        Finding.at_most("soft map: largest bias / (tau log A/(1-gamma))", bound_ratio(bias, bias_bound), 1),
        Finding.at_least("jumps of the hard map along a segment of rewards", jumps, 1),
    ]
    state = int(np.abs(np.diff(pieces, axis=0)).sum((0, 2)).argmax())
    cliff = [Curve("hard map", epsilons, np.array(hard), "marks")]
    for tau in taus:
        cliff.append(Curve(f"soft map, τ {tau:g}", epsilons, np.array(soft[tau])))
        cliff.append(Curve("", epsilons, lipschitz_bound(epsilons, tau, 0.9), "bound"))
    cliff.append(Curve("its bound 2ε/(τ(1-γ))", epsilons, np.full(19, np.nan), "bound"))
    return Experiment(
        "The policy cliff: the optimal policy jumps where actions tie, the entropy-regularised one is Lipschitz",
        "Xu 2025, arXiv 2507.20150",
        [
            Panel(
                "a duplicated action, one copy paid ε more", "ε", "max_s |π - π'|_1", cliff, "log", "log", (1e-7, 30)
            ),
            Panel(
                "optimal action (colour) by state",
                "weight of the second reward",
                "state",
                image=pieces.argmax(-1).T,
                extent=(0, 1, -0.5, 4.5),
            ),
            Panel(
                f"the same segment, state {state}",
                "weight of the second reward",
                "probability of each action",
                [
                    curve
                    for a in range(3)
                    for curve in (
                        Curve(f"action {a}, soft, τ .05", weights, smooth[:, state, a]),
                        Curve("" if a else "hard", weights, pieces[:, state, a], "bound"),
                    )
                ],
            ),
        ],
        findings,
    )
