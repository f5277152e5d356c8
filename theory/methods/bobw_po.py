"""Best-of-both-worlds policy optimization (Dann, Wei, Zimmert, 2023, arXiv 2302.09408), with known transitions.

Policy optimisation is a bandit a state, fed with estimates of Q. Follow-the-regularised-leader with Tsallis-1/2 entropy and a
learning rate that adapts to the state's visits has regret O(log T) for stochastic losses and O(sqrt T) for adversarial ones,
without knowing which. In episode t, at every state s of a layered MDP with H layers and losses in [0, 1]:

1. ``pi_t = argmin_p <p, sum_{tau<t} Qhat_tau - B_tau> + psi_t(p)``
   Tsallis  ``psi = -(4/eta) sum_a sqrt(p_a)``;   Shannon  ``psi = (1/eta) sum_a p_a log p_a``
2. ``Qhat_t(s, a) = 1[visited] L_{t,h} / (mu_t(s) pi_t(a|s))``, L the losses from layer h on, mu the exact occupancy: unbiased
3. ``eta_t(s) = 2 / (H sqrt(1 + sum_{tau<t} 1/mu_tau(s)))``, which for one state is Tsallis-INF's ``2/sqrt(t)``
   (Shannon takes Exp3's ``sqrt(log A / (A (1 + sum 1/mu))) / H``)
4. bonus ``b_t(s) = c_b (1/eta_t - 1/eta_{t-1}) sum_a sqrt(p_a) (1 - sqrt(p_a))``, 0 where pi is deterministic, dilated:
   ``B_t(s, a) = b_t(s) + (1 + 1/H) E_{s', a'} B_t(s', a')``
5. with c_b = 0 the regret against a policy of occupancy mu*, whatever the losses, is at most
   ``sum_{h,s} mu*_h(s) [2 H (sqrt(A) - 1) R + (H - h)^2 sqrt(A) (2 R - 2 + u)/H]``, ``R = sqrt(1 + u T)``, u the inverse of
   the least ``mu_h(s)`` of any policy: FTRL's penalty ``4 (sqrt(A) - 1)/eta_T``, and its stability
   ``eta_t/2 E[sum_a p_a^{3/2} Qhat^2] <= eta_t (H - h)^2 sqrt(A)/(2 mu_t)`` summed over t

The constants of 3 and 4 are this file's, and the order of the two entropies at a given T hangs on them: with Tsallis' larger
rate Shannon, too, is ahead of Tsallis at T = 30 000 on the stochastic testbed. c_b = 0 is enough where every policy reaches
every state, as here. In place of the paper's virtual episodes 1/eta may grow by a factor of 1 + 1/H an episode where c_b > 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .. import finite
from ..experiment import Curve, Experiment, Finding, Panel
from ..generators import layered
from ..mdp import FiniteHorizonMDP
from ..measure import RegretRecorder, log_checkpoints, slope
from ..simplex import tsallis_minimiser
from ..simulate import sample

__all__ = [
    "adaptive_rate",
    "dilated_bonus",
    "estimate_q",
    "exp3_rate",
    "growing_phases",
    "least_occupancy",
    "loss_means",
    "play",
    "regret_bound",
    "shannon_policy",
    "tsallis_gap",
    "tsallis_policy",
]

Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""``policy(L [N, H, n, A], visits [N, H, n]) -> pi``: L the summed estimates, visits ``1 + sum 1/mu``."""


def adaptive_rate(visits: np.ndarray, horizon: int) -> np.ndarray:
    """Equation 3, ``[...]``, of ``visits = 1 + sum_{tau<t} 1/mu_tau``."""
    return 2.0 / (horizon * np.sqrt(visits))


def exp3_rate(visits: np.ndarray, horizon: int, num_actions: int) -> np.ndarray:
    """Exp3's rate for Shannon entropy, ``sqrt(log A / (A visits)) / H``, ``[...]``; its usual fixed rate has T n visits."""
    return np.sqrt(np.log(num_actions) / (num_actions * visits)) / horizon


def tsallis_policy(L: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """Equation 1 with Tsallis-1/2 entropy, ``[N, H, n, A]``."""
    return tsallis_minimiser(L, adaptive_rate(visits, L.shape[-3]), tol=1e-10)


def shannon_policy(L: np.ndarray, eta: np.ndarray) -> np.ndarray:
    """Equation 1 with Shannon entropy, ``[N, H, n, A]``; eta ``[N, H, n]``."""
    logits = -eta[..., None] * L
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def estimate_q(
    pi: np.ndarray, mu: np.ndarray, states: np.ndarray, actions: np.ndarray, losses: np.ndarray
) -> np.ndarray:
    """Equation 2: ``[N, H, n, A]`` of paths ``[N, H]``."""
    N, H = states.shape
    to_go = losses[:, ::-1].cumsum(-1)[:, ::-1]
    seeds, layers = np.arange(N)[:, None], np.arange(H)
    out = np.zeros(pi.shape)
    chance = mu[seeds, layers, states] * pi[seeds, layers, states, actions]
    out[seeds, layers, states, actions] = to_go / chance
    return out


def tsallis_gap(pi: np.ndarray) -> np.ndarray:
    """``sum_a sqrt(p_a) (1 - sqrt(p_a))``, ``[...]``: 0 where pi is deterministic."""
    root = np.sqrt(pi)
    return (root * (1 - root)).sum(-1)


def dilated_bonus(P: np.ndarray, pi: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equation 4's B, ``[..., H, n, A]``, of P ``[H, n, A, n]``, pi ``[..., H, n, A]`` and b ``[..., H, n]``."""
    H = b.shape[-2]
    B = np.empty(pi.shape)
    after = np.zeros(b.shape[:-2] + b.shape[-1:])
    for h in range(H - 1, -1, -1):
        B[..., h, :, :] = b[..., h, :, None] + (1 + 1 / H) * finite.expect(P[h], after)
        after = (pi[..., h, :, :] * B[..., h, :, :]).sum(-1)
    return B


def least_occupancy(mdp: FiniteHorizonMDP) -> np.ndarray:
    """The least ``Pr(s_h = s)`` of any policy, ``[H, n]``."""
    out = np.empty(mdp.r.shape[:2])
    for h in range(mdp.horizon):
        reach = np.eye(mdp.num_states)  # [target, s]
        for earlier in range(h - 1, -1, -1):
            reach = finite.expect(mdp.P[earlier], reach).min(-1)
        out[h] = reach @ mdp.mu
    return out


def regret_bound(mdp: FiniteHorizonMDP, pi: np.ndarray, T: np.ndarray) -> np.ndarray:
    """Equation 5 against the policy ``pi [H, n, A]`` after T episodes, ``[...]``; infinite where a state can be missed."""
    H, _, A = mdp.r.shape
    mu, u = finite.occupancy(mdp.P, pi, mdp.mu), 1.0 / least_occupancy(mdp)
    root = np.sqrt(1 + u * np.asarray(T)[..., None, None])
    spread = ((H - np.arange(H)) ** 2)[:, None] * np.sqrt(A) / H
    return (mu * (2 * H * (np.sqrt(A) - 1) * root + spread * (2 * root - 2 + u))).sum((-1, -2))


def loss_means(shape: tuple[int, ...], gap: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means .5, less ``gap [N]`` for one action a state, the same for all instances: ``[N, H, n, A]``."""
    best = rng.integers(shape[-1], size=shape[:-1])
    return 0.5 - np.asarray(gap)[:, None, None, None] * np.eye(shape[-1])[best]


def growing_phases(last: int, size: float = 0.3, growth: float = 1.6) -> np.ndarray:
    """The stochastically constrained adversary's shift of all means, ``[last]``: +-size in phases that grow by ``growth``."""
    shift, start, length, sign = np.empty(last), 0, 10.0, 1.0
    while start < last:
        end = min(last, start + int(length))
        shift[start:end] = sign * size
        start, length, sign = end, length * growth, -sign
    return shift


def play(
    mdp: FiniteHorizonMDP,
    means: np.ndarray,
    shifts: np.ndarray,
    policy: Policy,
    checkpoints: np.ndarray,
    rng: int,
    c_b: float = 0.0,
) -> RegretRecorder:
    """Run N instances side by side to the last checkpoint; regret against each instance's best fixed policy.

    Args:
        means: Bernoulli loss means ``[N, H, n, A]``.
        shifts: what is added to all means in each episode, ``[T]`` or ``[N, T]``; it changes no regret.
        c_b: the bonus' scale, >= 0.
    """
    rng = np.random.default_rng(rng)
    N, H, n, _ = means.shape
    seeds, layers = np.arange(N)[:, None], np.arange(H)
    optimum = -finite.plan(mdp.P, -means)[0][:, 0] @ mdp.mu
    cumulative_P = mdp.P.cumsum(-1)
    recorder = RegretRecorder(N, checkpoints)
    L, visits = np.zeros(means.shape), np.ones((N, H, n))
    shifts = np.broadcast_to(shifts, (N, np.shape(shifts)[-1]))
    states, actions = np.empty((N, H), int), np.empty((N, H), int)
    last_inverse = None
    for t in range(int(checkpoints[-1])):
        pi = policy(L, visits)
        mu = finite.occupancy(mdp.P, pi, mdp.mu)
        recorder.add(((mu[..., None] * pi) * means).sum((-1, -2, -3)) - optimum)
        u = rng.random((N, 3 * H))
        s = sample(np.broadcast_to(mdp.mu, (N, n)), u[:, 0])
        for h in range(H):
            a = sample(pi[seeds[:, 0], h, s], u[:, h + 1])
            states[:, h], actions[:, h] = s, a
            if h + 1 < H:
                s = np.minimum((cumulative_P[h, s, a] <= u[:, H + 1 + h, None]).sum(-1), n - 1)
        chance = means[seeds, layers, states, actions] + shifts[:, t, None]
        losses = (u[:, 2 * H :] < chance).astype(float)
        L += estimate_q(pi, mu, states, actions, losses)
        visits += 1.0 / mu
        if c_b > 0:
            inverse = 1.0 / adaptive_rate(visits, H)
            if last_inverse is not None:
                inverse = np.minimum(inverse, (1 + 1 / H) * last_inverse)
                L -= dilated_bonus(mdp.P, pi, c_b * (inverse - last_inverse) * tsallis_gap(pi))
            last_inverse = inverse
    return recorder


def experiment(seed: int = 0) -> Experiment:
    """Stochastic, stochastically constrained and minimax losses on Layered(3, 3, 3), 32 seeds each, in two array programs."""
    T, seeds = 30_000, 32
    mdp = layered(3, 3, 3, 0)
    horizons = np.array([500, 2000, 8000, 30_000])
    gaps = np.concatenate([np.full(2 * seeds, 0.2), np.repeat(np.minimum(0.5, np.sqrt(27 / horizons)), seeds)])
    means = loss_means(mdp.r.shape, gaps, np.random.default_rng(seed))
    shifts = np.zeros((len(gaps), T))
    shifts[seeds : 2 * seeds] = growing_phases(T)
    points = np.unique(np.concatenate([log_checkpoints(T, 20), horizons, [3000, 10_000, 20_000]]))
    regret = play(mdp, means, shifts, tsallis_policy, points, seed).regret
    stochastic, shifted = regret[:seeds], regret[seeds : 2 * seeds]
    minimax = np.stack(
        [regret[(2 + i) * seeds : (3 + i) * seeds, points == last][:, 0] for i, last in enumerate(horizons)], axis=-1
    )

    def shannon(L: np.ndarray, visits: np.ndarray) -> np.ndarray:
        eta = exp3_rate(visits, 3, 3)
        eta[seeds:] = exp3_rate(np.array(T * 3.0), 3, 3)
        return shannon_policy(L, eta)

    peers = play(mdp, means[: 2 * seeds], np.zeros(T), shannon, points, seed + 1).regret
    bound = regret_bound(mdp, np.eye(3)[means[0].argmin(-1)], points)
    hardest = np.stack([group.mean(0) / bound for group in (stochastic, shifted)]).max()
    hardest = max(hardest, float((minimax.mean(0) / bound[np.isin(points, horizons)]).max()))
    uniform = 0.4 * points  # H gap (1 - 1/A) an episode
    final = [y[:, -1].mean() for y in (stochastic, peers[:seeds], peers[seeds:])]
    fit = slope(horizons, minimax, 500)

    def at(t: int) -> float:
        return float(stochastic[:, points == t].mean())

    early = (at(10_000) - at(3000)) / np.log(10 / 3)
    late = (at(30_000) - at(20_000)) / np.log(1.5)
    findings = [
        Finding.at_most("stochastic: regret Tsallis / Shannon adaptive", final[0] / final[1], 1),
        Finding.at_most("stochastic: regret Shannon adaptive / fixed", final[1] / final[2], 1),
        Finding.at_most("stochastic: regret per e-fold of T, late / early (log T: 1)", late / early, 1.8),
        Finding.at_most("minimax gaps: slope of the regret, upper end of 95 %", fit.high, 0.55),
        Finding.at_most("all losses: largest mean regret / bound 5", hardest, 1),
        Finding.at_most("minimax gaps: regret / uniform play's", _uniform_ratio(minimax, horizons), 0.85),
        Finding.at_most("shifting means / i.i.d., regret at T", shifted[:, -1].mean() / final[0], 1.5),
    ]
    tail = points >= 30
    x = points[tail]
    return Experiment(
        "Tsallis policy optimisation: log T where losses are stochastic, √T where they are adversarial, unasked",
        "Dann, Wei, Zimmert 2023, arXiv 2302.09408",
        [
            Panel(
                "stochastic losses, gap .2",
                "episodes T",
                "regret",
                [
                    Curve("Tsallis, i.i.d. losses", x, stochastic[:, tail]),
                    Curve(
                        "log T through 20 000 .. 30 000",
                        x,
                        _positive(at(30_000) + late * np.log(x / 30_000)),
                        "bound",
                    ),
                    Curve("Tsallis, shifting means", x, shifted[:, tail]),
                    Curve("Shannon, adaptive rate", x, peers[:seeds, tail]),
                    Curve("Shannon, fixed rate", x, peers[seeds:, tail]),
                    Curve("uniform play", x, uniform[tail]),
                ],
                "log",
                ylim=(0, 6000),
            ),
            Panel(
                "gap shrinking as √(27/T)",
                "episodes T",
                "regret",
                [
                    Curve(f"Tsallis (slope {fit.estimate:.2f})", horizons, minimax.mean(0), "marks"),
                    Curve("the bound (eq. 5), √T", horizons, bound[np.isin(points, horizons)], "bound"),
                    Curve("uniform play", horizons, 2 * np.minimum(0.5, np.sqrt(27 / horizons)) * horizons, "marks"),
                ],
                "log",
                "log",
                (100, 30_000),
            ),
        ],
        findings,
    )


def _positive(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, y, np.nan)


def _uniform_ratio(minimax: np.ndarray, horizons: np.ndarray) -> float:
    uniform = 2 * np.minimum(0.5, np.sqrt(27 / horizons)) * horizons
    return float((minimax.mean(0) / uniform).max())
