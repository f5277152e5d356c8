"""Best-of-both-worlds policy optimisation: Tsallis-INF for one state, unbiased estimates, the order of the regrets."""

from itertools import product

import numpy as np
import pytest
from polopt.theory import FiniteHorizonMDP, finite
from polopt.theory.generators import layered
from polopt.theory.methods.bobw_po import (
    dilated_bonus,
    estimate_q,
    exp3_rate,
    growing_phases,
    least_occupancy,
    loss_means,
    play,
    regret_bound,
    shannon_policy,
    tsallis_gap,
    tsallis_policy,
)
from scipy.optimize import brentq


def test_one_state_is_tsallis_inf():
    L, rng = np.zeros((1, 1, 1, 4)), np.random.default_rng(0)
    for t in range(1, 60):
        pi = tsallis_policy(L, np.full((1, 1, 1), float(t)))[0, 0, 0]
        eta, flat = 2 / np.sqrt(t), L[0, 0, 0]
        x = brentq(
            lambda x, f=flat, e=eta: (4 / (e * (f - x)) ** 2).sum() - 1,
            flat.min() - 40 / eta,
            flat.min() - 1.9 / eta,
            xtol=1e-15,
        )
        np.testing.assert_allclose(pi, 4 / (eta * (flat - x)) ** 2, atol=1e-10)
        a = rng.choice(4, p=pi)
        L[0, 0, 0, a] += rng.random() / pi[a]


def test_the_estimate_is_unbiased():
    mdp = layered(2, 2, 2)
    rng = np.random.default_rng(1)
    pi, losses = rng.dirichlet(np.ones(2), (2, 2)), rng.random((2, 2, 2))
    mu = finite.occupancy(mdp.P, pi, mdp.mu)
    expected = np.zeros((2, 2, 2))
    for s0, a0, s1, a1 in product(range(2), repeat=4):
        chance = mdp.mu[s0] * pi[0, s0, a0] * mdp.P[0, s0, a0, s1] * pi[1, s1, a1]
        path = np.array([[losses[0, s0, a0], losses[1, s1, a1]]])
        expected += chance * estimate_q(pi[None], mu[None], np.array([[s0, s1]]), np.array([[a0, a1]]), path)[0]
    np.testing.assert_allclose(expected, finite.evaluate(mdp.P, losses, pi)[1], atol=1e-12)


def test_bonuses():
    assert tsallis_gap(np.array([1.0, 0.0])) == 0
    assert tsallis_gap(np.array([0.5, 0.5])) > 0
    mdp = layered(3, 2, 2)
    pi = np.full((3, 2, 2), 0.5)
    B = dilated_bonus(mdp.P, pi, np.ones((3, 2)))
    np.testing.assert_allclose(B[2], 1.0)
    np.testing.assert_allclose(B[1], 1 + 4 / 3)
    np.testing.assert_allclose(B[0], 1 + 4 / 3 * (1 + 4 / 3))


def test_phases_grow_and_change_sign():
    shift = growing_phases(1000)
    changes = np.flatnonzero(np.diff(shift)) + 1
    assert set(np.abs(shift)) == {0.3}
    lengths = np.diff(changes)
    assert (lengths[1:] / lengths[:-1] == pytest.approx(1.6, abs=0.05)) if len(lengths) > 1 else False


def test_order_of_the_regrets():
    mdp, seeds = layered(3, 3, 3), 16
    means = loss_means(mdp.r.shape, np.full(seeds, 0.2), np.random.default_rng(0))
    points = np.array([1000, 3000])
    tsallis = play(mdp, means, np.zeros(3000), tsallis_policy, points, 0).regret.mean(0)
    shannon = play(
        mdp, means, np.zeros(3000), lambda L, v: shannon_policy(L, exp3_rate(v, 3, 3)), points, 0
    ).regret.mean(0)
    uniform = play(mdp, means, np.zeros(3000), lambda L, v: np.full(L.shape, 1 / 3), points, 0).regret.mean(0)
    np.testing.assert_allclose(uniform, [400, 1200], rtol=1e-9)
    np.testing.assert_allclose(tsallis, [292, 664], rtol=0.1)
    np.testing.assert_allclose(shannon, [334, 852], rtol=0.1)


def test_instances_side_by_side_and_the_bonus():
    mdp = layered(2, 2, 2)
    means = loss_means(mdp.r.shape, np.array([0.3, 0.3]), np.random.default_rng(0))
    recorder = play(mdp, means, np.zeros(500), tsallis_policy, np.array([500]), 0, c_b=0.1)
    assert recorder.regret.shape == (2, 1)
    assert (recorder.regret > 0).all()
    assert (recorder.regret < 500 * 2 * 0.3 / 2).all()


def test_a_deterministic_world_of_one_arm_has_no_regret():
    mdp = FiniteHorizonMDP(np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1)))
    assert play(mdp, np.full((3, 1, 1, 1), 0.5), np.zeros(10), tsallis_policy, np.array([10]), 0).regret.max() == 0


def test_the_least_occupancy_is_that_of_the_worst_deterministic_policy():
    mdp = layered(3, 2, 2)
    policies = np.eye(2)[np.array(list(product(range(2), repeat=6))).reshape(-1, 3, 2)]
    least = finite.occupancy(mdp.P, policies, mdp.mu).min(0)
    np.testing.assert_allclose(least_occupancy(mdp), least, atol=1e-14)


def test_the_bound_of_one_state_is_tsallis_infs_and_grows_as_the_root():
    one = FiniteHorizonMDP(np.ones((1, 1, 4, 1)), np.zeros((1, 1, 4)))
    T = np.array([10, 1000])
    pi = np.eye(4)[:1][None]
    np.testing.assert_allclose(regret_bound(one, pi, T), 6 * np.sqrt(1 + T) - 2, atol=1e-12)
    mdp = layered(3, 3, 3)
    pi = np.eye(3)[np.zeros((3, 3), int)]
    assert regret_bound(mdp, pi, np.array([4e8]))[0] / regret_bound(mdp, pi, np.array([1e8]))[0] == pytest.approx(
        2, abs=1e-3
    )


def test_regret_stays_below_the_bound():
    mdp, seeds, T = layered(3, 3, 3), 32, 2000
    means = loss_means(mdp.r.shape, np.repeat([0.2, 0.4], seeds), np.random.default_rng(0))
    shifts = np.zeros((2 * seeds, T))
    shifts[:seeds] = growing_phases(T)
    points = np.array([50, 200, 500, 1000, T])
    regret = play(mdp, means, shifts, tsallis_policy, points, 0).regret.reshape(2, seeds, -1).mean(1)
    bound = regret_bound(mdp, np.eye(3)[means[0].argmin(-1)], points)
    assert (regret <= bound).all()
    assert (regret / bound).max() > 0.05
