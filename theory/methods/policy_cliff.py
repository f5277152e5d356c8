"""The policy cliff: where actions tie, the map from a reward to its optimal policy jumps; entropy makes it Lipschitz.

With ``|r - r'| = max_(s,a) |r(s, a) - r'(s, a)|`` and ``gap(r) = min_s (best - second best Q*_r(s, .))``:

1. hard map      ``pi_r = argmax_a Q*_r(s, a)`` is constant while ``|r - r'| < gap(r) (1-gamma)/2``
2. cliff         where two copies of an optimal action tie, a bonus eps to one or the other gives policies at L1 distance
                 2 for every eps > 0, though their values differ by at most ``eps/(1-gamma)``
3. bad cliff     the loss under another, true reward jumps by O(1) where the training reward ties what that one tells apart
4. soft map      ``pi_(r,tau) = softmax(Q*_(r,tau)/tau)``:  ``|pi - pi'|_1 <= |Q - Q'|/tau <= |r - r'|/(tau (1-gamma))``
                 at the price ``V* - V^(pi_tau) <= tau log A/(1-gamma)``
5. many rewards  ``r_w = sum_j w_j r_j``: along a segment of w the hard policy is a staircase, V* is convex in w

Source: X. Xu, 2025, arXiv 2507.20150 (the discounted part; the constants are derived here: a random variable on [-1, 1]
has mean absolute deviation at most 1, so that softmax is 1-Lipschitz from the sup norm to L1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import garnet
from ..gradients import softmax
from ..mdp import MDP
from ..measure import bound_ratio, slope
from ..solvers import Values, evaluate, fixed_point, optimal_action_set

__all__ = [
    "action_gap",
    "duplicate_action",
    "hard_map",
    "optimal_values",
    "policy_distance",
    "reward_sensitivity",
    "soft_bias_bound",
    "soft_distance_bound",
    "soft_map",
    "stability_radius",
    "tied_garnet",
]


def optimal_values(mdp: MDP, r: np.ndarray) -> Values:
    """V* ``[..., S]`` and Q* ``[..., S, A]`` of each of many rewards ``[..., S, A]``, by policy iteration side by side."""
    identity = np.eye(mdp.num_actions)
    actions = r.argmax(-1)
    while True:
        V, Q = evaluate(mdp, identity[actions], r)
        chosen = np.take_along_axis(Q, actions[..., None], -1)[..., 0]
        better = Q.max(-1) > chosen + 1e-12 * max(1.0, float(np.abs(Q).max()))
        if not better.any():
            return Values(V, Q)
        actions = np.where(better, Q.argmax(-1), actions)


def hard_map(mdp: MDP, r: np.ndarray, tol: float = 1e-9) -> np.ndarray:
    """Statement 1's policy ``[..., S, A]`` of rewards ``[..., S, A]``: the lowest index among actions within ``tol``."""
    return np.eye(mdp.num_actions)[optimal_action_set(optimal_values(mdp, r).Q, tol).argmax(-1)]


def soft_map(mdp: MDP, r: np.ndarray, tau: float, tol: float = 1e-13) -> np.ndarray:
    """Statement 4's policy ``[..., S, A]`` of rewards ``[..., S, A]``.

    Its Q is the regularised one, ``r + gamma E V`` with ``V = tau log sum_a exp(Q/tau)``, not the softmax of Q*.
    """
    r = np.asarray(r, np.float64)

    def operator(V: np.ndarray) -> np.ndarray:
        return tau * logsumexp((r + mdp.gamma * mdp.expect(V)) / tau, axis=-1)

    V, _ = fixed_point(operator, np.zeros(r.shape[:-1]), mdp.gamma, tol)
    return softmax((r + mdp.gamma * mdp.expect(V)) / tau)


def action_gap(Q: np.ndarray) -> np.ndarray:
    """``min_s (best - second best Q(s, .))``, ``[...]``, of values ``[..., S, A]``; 0 where two tie."""
    ordered = np.sort(Q, axis=-1)
    return (ordered[..., -1] - ordered[..., -2]).min(-1)


def stability_radius(mdp: MDP, Q: np.ndarray) -> np.ndarray:
    """``gap (1-gamma)/2``, ``[...]``: no change of the reward smaller than this moves the hard policy (statement 1)."""
    return action_gap(Q) * (1 - mdp.gamma) / 2


def soft_distance_bound(mdp: MDP, change: np.ndarray, tau: float) -> np.ndarray:
    """``|r - r'| / (tau (1-gamma))``, which bounds ``max_s |pi - pi'|_1`` of soft policies (statement 4)."""
    return np.asarray(change) / (tau * (1 - mdp.gamma))


def soft_bias_bound(mdp: MDP, tau: float) -> float:
    """``tau log A/(1-gamma)``, which bounds ``max_s V* - V^(pi_tau)`` (statement 4)."""
    return tau * np.log(mdp.num_actions) / (1 - mdp.gamma)


def policy_distance(pi: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``max_s |pi(.|s) - pi'(.|s)|_1`` in [0, 2], ``[...]``."""
    return np.abs(pi - other).sum(-1).max(-1)


def duplicate_action(mdp: MDP, source: int, copy: int) -> MDP:
    """The MDP with action ``copy`` overwritten by ``source``: the same law and the same reward (statement 2)."""
    P, r = np.array(mdp.P), np.array(mdp.r)
    P[:, copy], r[:, copy] = P[:, source], r[:, source]
    return MDP(P, r, mdp.gamma, mdp.rho)


def reward_sensitivity(
    solve: Callable[[np.ndarray], np.ndarray], r: np.ndarray, noise: float, num_draws: int = 100, rng: int = 0
) -> np.ndarray:
    """How far noise in the reward moves what is learnt from it, ``[num_draws]`` L1 distances.

    Args:
        solve: rewards ``[n, S, A]`` to the policies ``[n, S, A]`` learnt from them.
        noise: half-width of the uniform noise on every entry of ``r``.
    """
    shift = np.random.default_rng(rng).uniform(-noise, noise, (num_draws, *r.shape))
    return policy_distance(solve(r + shift), solve(r[None]))


def tied_garnet(seed: int = 0) -> MDP:
    """Garnet(5, 3, 3), gamma .9, whose action 1 is a copy of action 0."""
    return duplicate_action(garnet(5, 3, 3, 0.9, seed), 0, 1)


def bonus(mdp: MDP, action: int, eps: np.ndarray) -> np.ndarray:
    """The reward with eps ``[n]`` added to one action everywhere, ``[n, S, A]``."""
    return mdp.r + np.asarray(eps)[:, None, None] * np.eye(mdp.num_actions)[action]


TEMPERATURES = (1.0, 0.1, 0.01)


def experiment(seed: int = 0) -> Experiment:
    """A bonus on either of two equal actions; a proxy reward that ties what the truth tells apart; a segment of rewards."""
    mdp = tied_garnet(seed)
    eps = np.geomspace(1e-7, 1, 43)
    hard = policy_distance(hard_map(mdp, bonus(mdp, 0, eps)), hard_map(mdp, bonus(mdp, 1, eps)))
    soft = {
        tau: policy_distance(soft_map(mdp, bonus(mdp, 0, eps), tau), soft_map(mdp, bonus(mdp, 1, eps), tau))
        for tau in TEMPERATURES
    }
    gain = (optimal_values(mdp, bonus(mdp, 0, eps)).V - optimal_values(mdp, mdp.r).V).max(-1)

    truth = mdp.r - np.eye(mdp.num_actions)[1]  # the copy is worse by 1, which the proxy mdp.r does not see
    best = optimal_values(mdp, truth).V
    signed = np.linspace(-0.04, 0.04, 401)

    def true_loss(pi: np.ndarray) -> np.ndarray:
        return (best - evaluate(mdp, pi, truth).V) @ mdp.rho

    loss_hard = true_loss(hard_map(mdp, bonus(mdp, 1, signed)))
    loss_soft = {tau: true_loss(soft_map(mdp, bonus(mdp, 1, signed), tau)) for tau in TEMPERATURES[1:]}

    plain = garnet(5, 3, 3, 0.9, seed)
    other = garnet(5, 3, 3, 0.9, seed + 1).r
    w = np.linspace(0, 1, 601)
    segment = (1 - w[:, None, None]) * plain.r + w[:, None, None] * other
    staircase = hard_map(plain, segment)
    V, Q = optimal_values(plain, segment)
    moves = (np.diff(staircase[..., 0], axis=0) != 0).sum(0)
    shown = int(moves.argmax())
    smooth = {tau: soft_map(plain, segment, tau) for tau in TEMPERATURES[1:]}
    at_jumps = action_gap(Q)[np.flatnonzero(np.abs(np.diff(staircase, axis=0)).sum((1, 2)))]
    step = np.abs(segment[1] - segment[0]).max()

    radius = float(stability_radius(plain, optimal_values(plain, plain.r).Q))
    below = reward_sensitivity(lambda r: hard_map(plain, r), plain.r, radius * (1 - 1e-9), 1000)
    bias = {tau: (optimal_values(mdp, mdp.r).V - evaluate(mdp, soft_map(mdp, mdp.r, tau)).V).max() for tau in soft}
    findings = [
        Finding.near("hard map: least distance over ε in [1e-7, 1]", hard.min(), 2.0, 0.0),
        Finding.at_most(
            "... while the value moves by, largest (V - V') (1-γ)/ε", bound_ratio(gain, eps / (1 - mdp.gamma)), 1
        ),
        Finding.near(
            "soft map, τ .1: slope in ε over [1e-7, 1e-3]", slope(eps[:25], soft[0.1][:25]).estimate, 1.0, 0.01
        ),
        *(
            Finding.at_most(
                f"soft map, τ {tau:g}: largest distance / bound", bound_ratio(d, soft_distance_bound(mdp, eps, tau)), 1
            )
            for tau, d in soft.items()
        ),
        Finding.near("soft map: distance at τ .01 over that at τ .1, ε 1e-7", soft[0.01][0] / soft[0.1][0], 10.0, 0.1),
        Finding.at_most("hard map below its radius: largest move, 1000 draws", below.max(), 0),
        *(
            Finding.at_most(f"soft map, τ {tau:g}: bias / bound", b / soft_bias_bound(mdp, tau), 1)
            for tau, b in bias.items()
        ),
        Finding.at_least("proxy reward: jump of the true loss at ε = 0", loss_hard[201] - loss_hard[199], 1.0),
        Finding.at_most(
            "segment: action gap at a jump, largest over 2 |dr|/(1-γ)",
            (at_jumps / (2 * step / (1 - plain.gamma))).max(),
            1,
        ),
        Finding.at_least("V* along the segment is convex: least second difference", np.diff(V, 2, axis=0).min(), 0),
    ]
    distance = Panel(
        "a bonus ε to one or the other of two equal actions",
        "ε",
        "max_s |π - π'|₁",
        [
            Curve("optimal policy", eps, hard),
            *(
                curve
                for tau in (1.0, 0.01)
                for curve in (
                    Curve(f"soft, τ {tau:g}", eps, soft[tau]),
                    Curve("bound ε/(τ(1-γ))" if tau == 1 else "", eps, soft_distance_bound(mdp, eps, tau), "bound"),
                )
            ),
        ],
        "log",
        "log",
        (1e-8, 20),
    )
    cliff = Panel(
        "a proxy ties two actions that the truth tells apart",
        "ε, the proxy's bonus for the worse one",
        "loss under the true reward",
        [
            Curve("optimal policy", signed, loss_hard, "steps"),
            *(Curve(f"soft, τ {tau:g}", signed, y) for tau, y in loss_soft.items()),
        ],
    )
    mixture = Panel(
        f"reward (1-w) r₀ + w r₁: state {shown}",
        "w",
        "π(action 0)",
        [
            Curve("optimal policy", w, staircase[:, shown, 0], "steps"),
            *(Curve(f"soft, τ {tau:g}", w, pi[:, shown, 0]) for tau, pi in smooth.items()),
        ],
    )
    picture = Panel(
        "... the optimal action (colour) in every state",
        "w",
        "state",
        image=staircase.argmax(-1).T,
        extent=(0, 1, -0.5, plain.num_states - 0.5),
    )
    return Experiment(
        "The policy cliff: the optimal policy jumps where actions tie; at temperature τ it is 1/(τ(1-γ))-Lipschitz",
        "Xu 2025, arXiv 2507.20150",
        [distance, cliff, mixture, picture],
        findings,
    )
