"""The cliff's table, the two Lipschitz statements on random rewards, and the batched solvers against the single ones."""

import numpy as np
import pytest
from polopt.theory import MDP, evaluate, optimal_action_set, policy_iteration, soft_value_iteration
from polopt.theory.generators import garnet
from polopt.theory.methods.policy_cliff import (
    action_gap,
    bonus,
    duplicate_action,
    hard_map,
    optimal_values,
    policy_distance,
    reward_sensitivity,
    soft_bias_bound,
    soft_distance_bound,
    soft_map,
    stability_radius,
    tied_garnet,
)

CLIFF, PLAIN = tied_garnet(), garnet(5, 3, 3)
TABLE = {1.0: (0.0834, 8.29e-4, 8.29e-7), 0.1: (0.924, 1.00e-2, 1.00e-5), 0.01: (1.9998, 9.99e-2, 1.00e-4)}
EPS = np.array([0.1, 1e-3, 1e-6])


def test_the_table_of_the_two_maps():
    assert (policy_distance(hard_map(CLIFF, bonus(CLIFF, 0, EPS)), hard_map(CLIFF, bonus(CLIFF, 1, EPS))) == 2).all()
    for tau, row in TABLE.items():
        distance = policy_distance(*(soft_map(CLIFF, bonus(CLIFF, a, EPS), tau) for a in (0, 1)))
        np.testing.assert_allclose(distance, row, rtol=0.01)
        assert (distance <= soft_distance_bound(CLIFF, EPS, tau) * (1 + 1e-9)).all()


def test_both_copies_of_an_action_are_optimal():
    solution = policy_iteration(CLIFF)
    best = optimal_action_set(solution.Q)
    np.testing.assert_array_equal(best[:, 0], best[:, 1])
    assert best[:, 0].any()
    assert action_gap(solution.Q) == pytest.approx(0.0, abs=1e-12)
    assert not solution.pi[best[:, 0], 1].any()


def test_a_bonus_moves_the_policy_but_not_the_value():
    for eps in EPS:
        gain = optimal_values(CLIFF, bonus(CLIFF, 1, [eps])).V[0] - policy_iteration(CLIFF).V
        assert (gain >= -1e-12).all()
        assert gain.max() <= eps / (1 - CLIFF.gamma) + 1e-12


def test_batched_solvers_equal_the_single_ones():
    rewards = np.random.default_rng(0).random((20, 5, 3))
    V, Q = optimal_values(PLAIN, rewards)
    soft = soft_map(PLAIN, rewards, 0.1)
    for k, r in enumerate(rewards):
        single = MDP(PLAIN.P, r, PLAIN.gamma)
        np.testing.assert_allclose(V[k], policy_iteration(single).V, atol=1e-11)
        np.testing.assert_allclose(Q[k], policy_iteration(single).Q, atol=1e-11)
        np.testing.assert_allclose(soft[k], soft_value_iteration(single, 0.1).pi, atol=1e-9)


def test_the_hard_policy_is_constant_within_its_radius():
    rng = np.random.default_rng(1)
    rewards = rng.random((1000, 5, 3))
    radius = stability_radius(PLAIN, optimal_values(PLAIN, rewards).Q)
    assert radius.min() > 0
    corners = rewards + (radius * (1 - 1e-9))[:, None, None] * rng.choice([-1.0, 1.0], rewards.shape)
    assert policy_distance(hard_map(PLAIN, rewards), hard_map(PLAIN, corners)).max() == 0
    far = rewards + 20 * radius[:, None, None] * rng.choice([-1.0, 1.0], rewards.shape)
    assert policy_distance(hard_map(PLAIN, rewards), hard_map(PLAIN, far)).max() == 2


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_the_soft_policy_is_lipschitz_on_1000_pairs(tau):
    rng = np.random.default_rng(2)
    r = rng.random((1000, 5, 3))
    other = r + rng.choice([1e-4, 1e-2, 1.0], (1000, 1, 1)) * rng.normal(size=r.shape)
    distance = policy_distance(soft_map(PLAIN, r, tau, 1e-10), soft_map(PLAIN, other, tau, 1e-10))
    ratio = distance / soft_distance_bound(PLAIN, np.abs(r - other).max((1, 2)), tau)
    assert ratio.max() <= 1 + 1e-9
    assert ratio.max() > 0.05


@pytest.mark.parametrize("tau", [1.0, 0.1, 0.01])
def test_the_bias_of_a_temperature(tau):
    for mdp in (CLIFF, PLAIN, duplicate_action(PLAIN, 2, 0)):
        bias = policy_iteration(mdp).V - evaluate(mdp, soft_map(mdp, mdp.r, tau)).V
        assert bias.min() >= -1e-10
        assert bias.max() <= soft_bias_bound(mdp, tau) + 1e-10


def test_the_soft_policy_is_not_the_softmax_of_the_unregularised_q():
    Q = policy_iteration(PLAIN).Q / 0.5
    naive = np.exp(Q - Q.max(-1, keepdims=True))
    naive /= naive.sum(-1, keepdims=True)
    assert policy_distance(naive, soft_map(PLAIN, PLAIN.r, 0.5)) > 0.01


def test_sensitivity_of_a_learner():
    radius = float(stability_radius(PLAIN, policy_iteration(PLAIN).Q))
    assert reward_sensitivity(lambda r: hard_map(PLAIN, r), PLAIN.r, 0.999 * radius).max() == 0
    at_the_cliff = reward_sensitivity(lambda r: hard_map(CLIFF, r), CLIFF.r, 1e-6)
    assert 0.2 < (at_the_cliff == 2).mean() < 1
    assert reward_sensitivity(lambda r: soft_map(CLIFF, r, 0.1), CLIFF.r, 1e-6).max() < 1e-4
