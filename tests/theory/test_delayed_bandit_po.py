"""Delay-adapted policy optimisation: bounded weights, downward bias, no delay, and the price of one."""

from itertools import product

import numpy as np
import pytest
from polopt.theory import finite
from polopt.theory.generators import layered
from polopt.theory.methods.delayed_bandit_po import (
    arrivals,
    bonus,
    cost_means,
    delay_adapted_ratio,
    estimate_q,
    plain_ratio,
    play,
    regret_bound,
    theory_rate,
)

MDP_ = layered(3, 3, 3)
MEANS = cost_means(MDP_.r.shape, np.random.default_rng(0))


def test_arrivals():
    due = arrivals(np.array([2, 0, 0, 5, 0]))
    assert [list(x) for x in due] == [[], [1], [0, 2], [], [4]]
    with pytest.raises(ValueError, match="delays has -1"):
        play(MDP_, MEANS, np.array([-1]), np.array([0.1]), plain_ratio, np.array([1]), 0)


def test_ratios_and_weights():
    a, b = np.random.default_rng(0).dirichlet(np.ones(4), (2, 50))
    r = delay_adapted_ratio(a, b)
    assert (r > 0).all()
    assert (r <= 1).all()
    assert (b * r / a).max() <= 1 + 1e-15
    np.testing.assert_array_equal(delay_adapted_ratio(a, a), 1.0)


def test_the_estimate_is_biased_downwards():
    mdp, rng = layered(2, 2, 2), np.random.default_rng(0)
    pi_j, pi_k = rng.dirichlet(np.ones(2), (2, 2, 2))
    costs = rng.random((2, 2, 2))
    mu_pi = finite.occupancy(mdp.P, pi_j, mdp.mu)[..., None] * pi_j
    expected = {gamma: np.zeros((2, 2, 2)) for gamma in (0.0, 0.05)}
    for s0, a0, s1, a1 in product(range(2), repeat=4):
        chance = mdp.mu[s0] * pi_j[0, s0, a0] * mdp.P[0, s0, a0, s1] * pi_j[1, s1, a1]
        visited = np.zeros((2, 2, 2))
        visited[0, s0, a0] = visited[1, s1, a1] = 1.0
        to_go = np.array([costs[0, s0, a0] + costs[1, s1, a1], costs[1, s1, a1]])
        for gamma in expected:
            r = delay_adapted_ratio(pi_j, pi_k)
            expected[gamma] += chance * estimate_q(visited, to_go, r, mu_pi, np.array(gamma))
    Q = finite.evaluate(mdp.P, costs, pi_j)[1]
    assert (expected[0.05] <= Q).all()
    np.testing.assert_allclose(expected[0.0], delay_adapted_ratio(pi_j, pi_k) * Q, atol=1e-12)


def test_without_delay_it_is_policy_optimisation_with_implicit_exploration():
    K, eta = 40, 0.05
    _, adapted = play(MDP_, MEANS, np.zeros(K, int), np.full(3, eta), delay_adapted_ratio, np.array([K]), 7)
    _, plain = play(MDP_, MEANS, np.zeros(K, int), np.full(3, eta), plain_ratio, np.array([K]), 7)
    np.testing.assert_allclose(adapted, plain, atol=1e-12)
    one, half = (
        play(MDP_, MEANS, np.zeros(1, int), np.array([e]), plain_ratio, np.array([1]), 3)[1][0] for e in (0.2, 0.1)
    )
    pi = np.full((3, 3, 3), 1 / 3)
    mu_pi = finite.occupancy(MDP_.P, pi, MDP_.mu)[..., None] * pi
    ratio = np.log(one / half)
    assert np.ptp(ratio, axis=-1).max() > 0
    B = bonus(MDP_.P, pi, np.ones_like(pi), mu_pi, np.array(2 * 0.2 * 3))
    assert np.ptp(B[-1]) < np.ptp(B[0]) + 1  # finite, and the last layer's depends on the state only
    np.testing.assert_allclose(np.ptp(B[-1], axis=-1), 0, atol=1e-15)


def test_the_theorys_rate():
    assert theory_rate(3, 9, 3, 6000, 0.0) == pytest.approx((9 * 9 * 3 * 6000 + 81 * 6000) ** -0.5)
    assert theory_rate(3, 9, 3, 6000, 1e6) < theory_rate(3, 9, 3, 6000, 0.0)


def test_the_bounds_delay_term_is_free_of_states_and_actions():
    small, large = (regret_bound(3, S, A, 6000, np.array([0.0, 1e5])) for S, A in ((9, 3), (900, 30)))
    assert np.diff(small) == pytest.approx(np.diff(large), rel=1e-9)
    assert np.diff(small) == pytest.approx(27 * (106_000**0.5 - 6000**0.5), rel=1e-12)
    assert small[0] == pytest.approx(9 * 162_000**0.5 + 27 * 6000**0.5)


def test_plain_ratios_reach_weights_above_one():
    """The last policies of a run stand for two episodes far apart: only the adapted weights stay at most 1."""
    K, eta = 400, np.full(8, 0.05)
    _, late = play(MDP_, MEANS, np.zeros(K, int), eta, plain_ratio, np.array([K]), 0)
    early = np.full_like(late, 1 / 3)
    assert (late * plain_ratio(early, late) / early).max() > 2
    assert (late * delay_adapted_ratio(early, late) / early).max() <= 1 + 1e-15


def test_a_delay_costs_little():
    K, eta = 3000, np.full(12, 0.01)
    regret = {
        d: play(MDP_, MEANS, np.full(K, d), eta, delay_adapted_ratio, np.array([K]), 0)[0].regret.mean()
        for d in (0, 200)
    }
    assert regret[0] < 0.75 * 0.8 * K, "learns: uniform play has .8 an episode"
    assert 0 < regret[200] - regret[0] < 0.12 * regret[0]
