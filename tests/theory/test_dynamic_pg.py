"""Dynamic against simultaneous policy gradient: the prototype's counts, exactness, unbiasedness."""

import numpy as np
import pytest
from polopt.theory import FiniteHorizonMDP, finite, softmax
from polopt.theory.generators import garnet, random_finite
from polopt.theory.methods.dynamic_pg import (
    bandit_step,
    sampled_gradient,
    simultaneous_gradient,
    train_backwards,
    train_simultaneously,
)

WORLD = garnet(5, 3, 2, rng=1)


def finite_world(H):
    return FiniteHorizonMDP.stationary(WORLD.P, WORLD.r, H)


@pytest.mark.parametrize(("H", "iterations"), [(2, 702), (4, 5069), (8, 36849)])
def test_simultaneous_counts(H, iterations):
    trained = train_simultaneously(finite_world(H), 0.1)
    assert trained.iterations == pytest.approx(iterations, rel=0.02)
    assert trained.updates == H * trained.iterations


@pytest.mark.parametrize(("H", "updates"), [(2, 953), (4, 5909), (8, 40027), (16, 255419)])
def test_dynamic_counts_and_total_error(H, updates):
    mdp = finite_world(H)
    trained = train_backwards(mdp, 0.1)
    assert trained.updates == pytest.approx(updates, rel=0.02)
    gap = finite.plan(mdp.P, mdp.r)[0][0] - finite.evaluate(mdp.P, mdp.r, trained.pi)[0][0]
    assert gap.max() <= 0.1


def test_gradient_by_central_differences():
    mdp = random_finite(3, 3, 2)
    theta = np.random.default_rng(0).normal(size=(3, 3, 2))
    gradient, value = simultaneous_gradient(mdp, theta)
    assert value == pytest.approx(mdp.mu @ finite.evaluate(mdp.P, mdp.r, softmax(theta))[0][0], abs=1e-13)
    for index in np.ndindex(*theta.shape):
        bump = np.zeros_like(theta)
        bump[index] = 1e-5
        numeric = (simultaneous_gradient(mdp, theta + bump)[1] - simultaneous_gradient(mdp, theta - bump)[1]) / 2e-5
        assert gradient[index] == pytest.approx(numeric, abs=1e-8)


def test_small_tolerance_is_backward_induction():
    mdp = finite_world(3)
    trained = train_backwards(mdp, 5e-3)
    np.testing.assert_array_equal(trained.pi.argmax(-1), finite.plan(mdp.P, mdp.r)[2])


def test_one_step_makes_them_the_same_algorithm():
    mdp = finite_world(1)
    theta = np.random.default_rng(0).normal(size=(1, 5, 3))
    together = theta + 0.3 * simultaneous_gradient(mdp, theta)[0]
    np.testing.assert_allclose(bandit_step(theta[0], mdp.r[0], mdp.mu, 0.3), together[0], atol=1e-14)


def test_the_sampled_gradient_is_unbiased():
    mdp, h = random_finite(2, 3, 2), 0
    rng = np.random.default_rng(0)
    pi, mu = rng.dirichlet(np.ones(2), (2, 3)), np.array([0.5, 0.3, 0.2])
    V, Q = finite.evaluate(mdp.P, mdp.r, pi)
    expected = np.zeros((3, 2))
    for s in range(3):
        for a in range(2):
            for s1 in range(3):
                for a1 in range(2):
                    chance = mu[s] * pi[h, s, a] * mdp.P[h, s, a, s1] * pi[1, s1, a1]
                    R = mdp.r[h, s, a] + mdp.r[1, s1, a1]
                    expected += chance * sampled_gradient(pi[h], np.array([s]), np.array([a]), np.array([R]))
    np.testing.assert_allclose(expected, mu[:, None] * pi[h] * (Q[h] - V[h][:, None]), atol=1e-12)


def test_optimal_stopping_boundary():
    K, H = 8, 6
    P, r = np.zeros((K + 2, 2, K + 2)), np.zeros((K + 2, 2))
    stopped = K + 1
    payoff = np.maximum(np.arange(K + 1) - 3.5, 0.0) / K + 0.03
    for s in range(K + 1):
        P[s, 0, stopped] = 1.0
        r[s, 0] = payoff[s]
        P[s, 1, max(s - 1, 0)] += 0.5
        P[s, 1, min(s + 1, K)] += 0.5
    P[stopped, :, stopped] = 1.0
    mdp = FiniteHorizonMDP.stationary(P, r, H)
    exact = finite.plan(mdp.P, mdp.r)
    gap = np.abs(exact[1][..., 0] - exact[1][..., 1])
    learned = train_backwards(mdp, 0.03).pi.argmax(-1)
    clear = gap > 0.03
    assert clear[:, :-1].sum() > 15
    np.testing.assert_array_equal(learned[clear], exact[2][clear])
