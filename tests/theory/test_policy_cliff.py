"""The policy cliff: the specification's table, and its statements on random rewards."""

import numpy as np
import pytest
from polopt.theory import MDP, evaluate, optimal_action_set, policy_iteration
from polopt.theory.generators import garnet
from polopt.theory.methods.policy_cliff import (
    action_gap,
    along_segment,
    duplicate_action,
    hard_policy,
    lipschitz_bound,
    policy_distance,
    soft_policy,
    stable_radius,
    with_reward,
)

WORLD = garnet(5, 3, 3)
TWIN = duplicate_action(WORLD)


def pair(eps):
    return [with_reward(TWIN, TWIN.r + eps * np.eye(3)[a]) for a in (0, 1)]


@pytest.mark.parametrize(
    ("eps", "expected"),
    [(0.1, (0.0834, 0.924, 1.9998)), (1e-3, (8.29e-4, 1.00e-2, 9.99e-2)), (1e-6, (8.29e-7, 1.00e-5, 1.00e-4))],
)
def test_the_specs_table(eps, expected):
    one, other = pair(eps)
    assert policy_distance(hard_policy(one), hard_policy(other)) == 2
    for tau, value in zip((1.0, 0.1, 0.01), expected, strict=True):
        distance = policy_distance(soft_policy(one, tau), soft_policy(other, tau))
        assert distance == pytest.approx(value, rel=0.01)
        assert distance <= lipschitz_bound(eps, tau, 0.9)
    values = [policy_iteration(m).V for m in (one, other, TWIN)]
    assert np.abs(values[0] - values[2]).max() <= eps / 0.1 + 1e-12


def test_inside_the_stable_radius_nothing_changes():
    rng = np.random.default_rng(0)
    base, radius = hard_policy(WORLD), stable_radius(WORLD)
    assert radius > 0
    for _ in range(1000):
        r = WORLD.r + 0.999 * radius * rng.uniform(-1, 1, WORLD.r.shape)
        assert policy_distance(base, hard_policy(with_reward(WORLD, r))) == 0


def test_the_soft_map_is_lipschitz():
    rng = np.random.default_rng(1)
    for _ in range(150):
        tau, size = rng.choice([1.0, 0.1]), 10 ** rng.uniform(-4, 0)
        r, noise = rng.random(WORLD.r.shape), size * rng.uniform(-1, 1, WORLD.r.shape)
        distance = policy_distance(
            soft_policy(with_reward(WORLD, r), tau), soft_policy(with_reward(WORLD, r + noise), tau)
        )
        assert distance <= lipschitz_bound(np.abs(noise).max(), tau, 0.9) / 2, "constant 1 holds"


def test_the_soft_maps_bias():
    best = policy_iteration(WORLD).V
    for tau in (1.0, 0.1, 0.01):
        gap = best - evaluate(WORLD, soft_policy(WORLD, tau)).V
        assert 0 <= gap.max() <= tau * np.log(3) / 0.1


def test_both_copies_are_optimal():
    best = with_reward(TWIN, TWIN.r + 2.0 * (np.arange(3) < 2))
    assert optimal_action_set(policy_iteration(best).Q).tolist() == [[True, True, False]] * 5
    assert action_gap(best) == pytest.approx(0.0, abs=1e-12)


def test_a_bad_cliff_loses_true_value():
    P = np.zeros((3, 2, 3))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 1] = P[2, :, 2] = 1.0
    true = MDP(P, np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]), 0.9)
    losses = []
    for eps in (1e-6, -1e-6):
        proxy = with_reward(true, np.array([[eps, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        losses.append(policy_iteration(true).V[0] - evaluate(true, hard_policy(proxy)).V[0])
    assert losses == [pytest.approx(9.0), pytest.approx(0.0)]


def test_segments_are_piecewise_constant():
    second = np.random.default_rng(0).random(WORLD.r.shape)
    hard, soft = along_segment(WORLD, WORLD.r, second, np.linspace(0, 1, 41), 0.1)
    jumps = np.abs(np.diff(hard, axis=0)).sum((1, 2)) > 0
    assert 1 <= jumps.sum() <= 10
    assert np.abs(np.diff(soft, axis=0)).sum(-1).max() < 0.5
