"""Stock-augmented planning against brute force; the two-substate operator's identities."""

from itertools import product

import numpy as np
import pytest
from polopt.theory import MDP, evaluate
from polopt.theory.generators import garnet
from polopt.theory.methods.distributional_dp import (
    best_cvar,
    cvar,
    markov_law,
    random_integer_mdp,
    return_law,
    stock_plan,
    substates,
    substates_operator,
    tie_breaking_substates,
)

MDP_ = random_integer_mdp(4, 2, 4, 3)


def test_reference_values():
    value, b, plan = best_cvar(MDP_, 0.25, 0)
    assert (value, b) == (pytest.approx(0.1691261424, abs=1e-9), 2)
    assert cvar(*return_law(MDP_, plan, 0, -b), 0.25) == pytest.approx(value, abs=1e-12)
    neutral = return_law(MDP_, stock_plan(MDP_, lambda x: x.astype(float), (0, 0)), 0, 0)
    assert neutral[1].sum() == pytest.approx(1.0)
    assert neutral[0] @ neutral[1] == pytest.approx(3.6515, abs=5e-5)
    assert cvar(*neutral, 0.25) == pytest.approx(-0.8278, abs=5e-5)


def test_alpha_one_is_risk_neutral():
    r = (MDP_.P * MDP_.R).sum(-1)
    V = np.zeros(4)
    for _ in range(4):
        V = (r + MDP_.P @ V).max(-1)
    assert best_cvar(MDP_, 1.0, 0)[0] == pytest.approx(V[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_stock_planning_equals_brute_force_over_history_policies(seed):
    mdp = random_integer_mdp(2, 2, 3, seed)
    paths = list(product(range(2), repeat=3))  # s1, s2, s3 from s0 = 0
    laws = []
    for policy in product(range(2), repeat=7):
        values, probabilities = [], []
        for s1, s2, s3 in paths:
            a0, a1, a2 = policy[0], policy[1 + s1], policy[3 + 2 * s1 + s2]
            probabilities.append(mdp.P[0, a0, s1] * mdp.P[s1, a1, s2] * mdp.P[s2, a2, s3])
            values.append(mdp.R[0, a0, s1] + mdp.R[s1, a1, s2] + mdp.R[s2, a2, s3])
        laws.append((np.array(values), np.array(probabilities)))
    for alpha in (0.1, 0.25, 0.5, 1.0):
        brute = max(cvar(*law, alpha) for law in laws)
        assert best_cvar(mdp, alpha, 0)[0] == pytest.approx(brute, abs=1e-10)
    reach = max(law[1][law[0] >= 2].sum() for law in laws)
    plan = stock_plan(mdp, lambda x: (x >= 0).astype(float), (-2, -2))
    assert plan.V[0, 0, -2 - plan.stocks[0]] == pytest.approx(reach, abs=1e-10)


def test_policies_of_the_state_alone_do_not_reach_the_optimal_cvar():
    value = best_cvar(MDP_, 0.25, 0)[0]
    rng = np.random.default_rng(0)
    best = max(cvar(*markov_law(MDP_, a, 0), 0.25) for a in rng.integers(2, size=(200, 4, 4)))
    assert best <= value + 1e-12


def test_cvar_splits_the_boundary_atom():
    values, probabilities = np.array([3.0, 0.0, 1.0]), np.array([0.5, 0.2, 0.3])
    assert cvar(values, probabilities, 0.4) == pytest.approx((0.2 * 0 + 0.2 * 1) / 0.4)
    assert cvar(values, probabilities, 1.0) == pytest.approx(1.8)
    with pytest.raises(ValueError, match=r"alpha=0 must be in \(0, 1\]"):
        cvar(values, probabilities, 0)


def test_two_substates_average_to_the_value():
    mdp = garnet(6, 3, 3)
    pi = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    V = evaluate(mdp, pi).V
    for alpha in (0.1, 0.25, 0.5):
        x = substates(mdp, pi, alpha, 1e-13)
        np.testing.assert_allclose(x @ [alpha, 1 - alpha], V, atol=1e-11)
        assert (x[:, 0] <= V + 1e-12).all()
        assert (x[:, 1] >= V - 1e-12).all()
    np.testing.assert_allclose(substates(mdp, pi, 1 - 1e-9)[:, 0], V, atol=1e-6)
    with pytest.raises(ValueError, match=r"alpha=1 must be in \(0, 1\)"):
        substates(mdp, pi, 1)


def test_the_two_substate_operator_contracts():
    mdp, rng = garnet(6, 3, 3), np.random.default_rng(1)
    pi = rng.dirichlet(np.ones(3), 6)
    for _ in range(50):
        x, y = np.sort(rng.normal(size=(2, 6, 2)) * 5, axis=-1)
        difference = substates_operator(mdp, pi, x, 0.25) - substates_operator(mdp, pi, y, 0.25)
        assert np.abs(difference).max() <= mdp.gamma * np.abs(x - y).max() + 1e-12


def test_ties_are_broken_by_taste():
    P = np.zeros((4, 2, 4))
    P[0, 0, 1] = 1.0
    P[0, 1, 2:] = 0.5
    P[[1, 2, 3], :, [1, 2, 3]] = 1.0
    mdp = MDP(P, np.array([[0, 0], [1, 1], [0, 0], [2, 2]]), 0.9)
    safe, safe_actions = tie_breaking_substates(mdp, 0.25, 0)
    risky, risky_actions = tie_breaking_substates(mdp, 0.25, 1)
    assert (safe_actions[0], risky_actions[0]) == (0, 1)
    np.testing.assert_allclose(safe[0], [9, 9], atol=1e-9)
    np.testing.assert_allclose(risky[0], [0, 12], atol=1e-9)
