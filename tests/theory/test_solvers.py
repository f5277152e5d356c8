"""Exact operators against each other: dynamic programming, linear programs, identities."""

import numpy as np
import pytest
from polopt.theory import (
    MDP,
    AverageRewardMDP,
    ConstrainedMDP,
    InfeasibleError,
    evaluate,
    finite,
    linear_program,
    linear_program_dual,
    occupancy,
    optimal_action_set,
    policy_from_occupancy,
    policy_iteration,
    relative_value_iteration,
    soft_value_iteration,
    value_iteration,
)
from polopt.theory.generators import (
    bandit,
    chain,
    deep_sea,
    garnet,
    gridworld,
    lock,
    random_finite,
    riverswim,
    sparse_garnet,
)
from polopt.theory.solvers import average_linear_program, fixed_point, stationary_law

DISCOUNTED = [
    garnet(10, 4, 3),
    garnet(6, 3, 3, rng=4),
    chain(),
    bandit([0.1, 0.5, 0.3]),
    gridworld(["S..", ".#.", "..G"]),
]


def random_policy(mdp, seed=0, lead=()):
    return np.random.default_rng(seed).dirichlet(np.ones(mdp.num_actions), (*lead, mdp.num_states))


@pytest.mark.parametrize("mdp", DISCOUNTED, ids=["garnet", "garnet6", "chain", "bandit", "grid"])
def test_four_ways_to_the_optimum_agree(mdp):
    exact = policy_iteration(mdp)
    assert np.abs(value_iteration(mdp, 1e-10).V - exact.V).max() <= 1e-10 + 1e-12
    primal = linear_program(mdp)
    assert primal.value == pytest.approx(mdp.rho @ exact.V, abs=1e-8)
    assert mdp.rho @ linear_program_dual(mdp) == pytest.approx(mdp.rho @ exact.V, abs=1e-8)
    assert mdp.rho @ evaluate(mdp, primal.pi).V == pytest.approx(primal.value, abs=1e-8)
    np.testing.assert_allclose(mdp.backup(exact.V).max(-1), exact.V, atol=1e-11)


def test_occupancy_identity():
    mdp = garnet(10, 4, 3)
    pi = random_policy(mdp, lead=(5,))
    d = occupancy(mdp, pi)
    np.testing.assert_allclose(d.sum(-1), 1.0, atol=1e-12)
    returns = (d[..., None] * pi * mdp.r).sum((-1, -2))
    np.testing.assert_allclose(returns, (1 - mdp.gamma) * evaluate(mdp, pi).V @ mdp.rho, atol=1e-12)
    np.testing.assert_allclose(policy_from_occupancy(d[..., None] * pi), pi, atol=1e-12)


def test_batched_policies_equal_single_ones():
    mdp = garnet(7, 3, 2)
    pi = random_policy(mdp, lead=(4,))
    V, Q = evaluate(mdp, pi)
    for i in range(4):
        one = evaluate(mdp, pi[i])
        np.testing.assert_allclose(V[i], one.V, atol=1e-13)
        np.testing.assert_allclose(Q[i], one.Q, atol=1e-13)


def test_policy_of_no_mass_is_uniform():
    pi = policy_from_occupancy(np.array([[0.0, 0.0], [0.25, 0.75]]))
    np.testing.assert_array_equal(pi, [[0.5, 0.5], [0.25, 0.75]])


def test_sparse_solvers_equal_dense_ones():
    thin = sparse_garnet(60, 3, 4, gamma=0.95, rng=1)
    dense = thin.dense()
    pi = random_policy(thin)
    np.testing.assert_allclose(evaluate(thin, pi).V, evaluate(dense, pi).V, atol=1e-9)
    np.testing.assert_allclose(occupancy(thin, pi), occupancy(dense, pi), atol=1e-11)
    exact = policy_iteration(dense)
    assert np.abs(value_iteration(thin, 1e-9).V - exact.V).max() <= 1.01e-9
    np.testing.assert_allclose(policy_iteration(thin).V, exact.V, atol=1e-8)
    assert linear_program(thin).value == pytest.approx(thin.rho @ exact.V, abs=1e-8)


def test_a_tolerance_below_the_operators_noise_is_refused():
    mdp, rng = garnet(10, 4, 3), np.random.default_rng(0)

    def noisy(V):
        return mdp.backup(V).max(-1) + 1e-6 * rng.random(10)

    with pytest.raises(ArithmeticError, match="below rounding"):
        fixed_point(noisy, np.zeros(10), mdp.gamma, 1e-9)


def test_wrong_policy_shape():
    with pytest.raises(ValueError, match=r"pi has shape \(4, 10\); this MDP needs \[\.\.\., 10, 4\]"):
        evaluate(garnet(10, 4, 3), np.ones((4, 10)))


def test_soft_value_iteration_is_its_own_optimality_condition():
    mdp, tau = garnet(8, 3, 3), 0.2
    V, Q, pi, _ = soft_value_iteration(mdp, tau)
    entropy = -(pi * np.log(pi)).sum(-1)
    soft_V = evaluate(mdp, pi, mdp.r + tau * entropy[:, None]).V
    np.testing.assert_allclose(soft_V, V, atol=1e-9)
    np.testing.assert_allclose(pi, np.exp((Q - V[:, None]) / tau), atol=1e-9)
    hard = policy_iteration(mdp)
    cold = soft_value_iteration(mdp, 1e-4)
    assert np.abs(cold.V - hard.V).max() <= 1e-4 * np.log(3) / (1 - mdp.gamma)
    with pytest.raises(ValueError, match="tau=0"):
        soft_value_iteration(mdp, 0)


def test_soft_value_iteration_with_a_prior():
    mdp, tau = garnet(8, 3, 3), 0.3
    uniform = soft_value_iteration(mdp, tau, np.full((8, 3), -np.log(3)))
    plain = soft_value_iteration(mdp, tau)
    np.testing.assert_allclose(plain.V - uniform.V, tau * np.log(3) / (1 - mdp.gamma), atol=1e-9)
    np.testing.assert_allclose(plain.pi, uniform.pi, atol=1e-9)


def test_riverswim_gain_and_bias():
    mdp = riverswim()
    solution = relative_value_iteration(mdp)
    assert solution.gain == pytest.approx(0.428622433799, abs=1e-11)
    assert np.ptp(solution.bias) == pytest.approx(6.3103, abs=5e-5)
    gain, x = average_linear_program(mdp)
    assert gain == pytest.approx(solution.gain, abs=1e-8)
    np.testing.assert_allclose(x.sum(-1), stationary_law(mdp, solution.pi), atol=1e-8)
    discounted = policy_iteration(mdp.discounted(1 - 1e-6))
    assert discounted.V[0] * 1e-6 == pytest.approx(solution.gain, abs=1e-4)


def test_relative_value_iteration_on_a_periodic_chain():
    P = np.zeros((2, 1, 2))
    P[0, 0, 1] = P[1, 0, 0] = 1.0
    solution = relative_value_iteration(AverageRewardMDP(P, np.array([[1.0], [0.0]])))
    assert solution.gain == pytest.approx(0.5, abs=1e-11)
    np.testing.assert_allclose(solution.bias, [0.0, -0.5], atol=1e-11)


def test_two_recurrent_classes_are_reported():
    mdp = AverageRewardMDP(np.eye(2)[:, None], np.array([[0.0], [1.0]]))
    with pytest.raises(ArithmeticError, match="unichain"):
        relative_value_iteration(mdp, max_iterations=100)


class TestConstrained:
    mdp = garnet(6, 3, 3, rng=2)
    cost = np.random.default_rng(9).random((6, 3))

    def program(self, limit):
        m = self.mdp
        return ConstrainedMDP(m.P, m.r, m.gamma, m.rho, costs=self.cost, limits=limit)

    def test_a_loose_limit_binds_nothing(self):
        solution = linear_program(self.program(100.0))
        assert solution.value == pytest.approx(linear_program(self.mdp).value, abs=1e-8)
        assert solution.multipliers[0] == pytest.approx(0.0, abs=1e-9)

    def test_a_binding_limit_is_met_and_priced(self):
        free = linear_program(self.mdp)
        limit = float((free.d * self.cost).sum() / (1 - self.mdp.gamma)) * 0.8
        solution = linear_program(self.program(limit))
        assert (solution.d * self.cost).sum() / (1 - self.mdp.gamma) == pytest.approx(limit, abs=1e-8)
        assert solution.value < free.value
        step = 1e-4
        slope = (linear_program(self.program(limit + step)).value - solution.value) / step
        assert solution.multipliers[0] == pytest.approx(slope, rel=1e-5)
        priced = MDP(self.mdp.P, self.mdp.r - solution.multipliers[0] * self.cost, self.mdp.gamma)
        lagrangian = priced.rho @ policy_iteration(priced).V + solution.multipliers[0] * limit
        assert lagrangian == pytest.approx(solution.value, abs=1e-8)

    def test_an_unreachable_limit_says_the_least_cost(self):
        cheap = MDP(self.mdp.P, -self.cost, self.mdp.gamma)
        least = -float(cheap.rho @ policy_iteration(cheap).V)
        with pytest.raises(InfeasibleError, match=rf"limits\[0\]=0\.1 \(least {least:.5g}"):
            linear_program(self.program(0.1))


def test_finite_horizon_planning_on_known_answers():
    mdp = lock(6, 3)
    V, _, actions = finite.plan(mdp.P, mdp.r)
    assert V[0] @ mdp.mu == 1.0
    assert V[0, 1] == 0.0
    assert finite.evaluate(mdp.P, mdp.r, np.eye(3)[actions])[0][0, 0] == 1.0
    uniform = np.full(mdp.r.shape, 1 / 3)
    assert finite.evaluate(mdp.P, mdp.r, uniform)[0][0, 0] == pytest.approx(3.0**-6, abs=1e-15)
    sea = deep_sea(8)
    assert finite.plan(sea.P, sea.r)[0][0, 0] == pytest.approx(0.99, abs=1e-12)


def test_finite_horizon_occupancy_and_batches():
    mdp = random_finite(4, 5, 3)
    pi = np.random.default_rng(0).dirichlet(np.ones(3), (6, 4, 5))
    V, _ = finite.evaluate(mdp.P, mdp.r, pi)
    mu = finite.occupancy(mdp.P, pi, mdp.mu)
    np.testing.assert_allclose(mu.sum(-1), 1.0, atol=1e-13)
    np.testing.assert_allclose((mu[..., None] * pi * mdp.r).sum((-1, -2, -3)), V[:, 0] @ mdp.mu, atol=1e-12)
    kernels = np.stack([mdp.P] * 6)
    np.testing.assert_allclose(finite.occupancy(kernels, pi, mdp.mu), mu, atol=1e-14)
    assert np.all(finite.plan(mdp.P, mdp.r)[0][0] >= V[:, 0] - 1e-12)


def test_trajectory_kl_is_the_kl_of_the_trajectory_laws():
    mdp = random_finite(2, 2, 2, rng=3)
    pi, q = np.random.default_rng(1).dirichlet(np.ones(2), (2, 2, 2))
    total = 0.0
    for a in range(2):
        for s in range(2):
            for b in range(2):
                p = pi[0, 0, a] * mdp.P[0, 0, a, s] * pi[1, s, b]
                total += p * np.log(pi[0, 0, a] * pi[1, s, b] / (q[0, 0, a] * q[1, s, b]))
    assert finite.trajectory_kl(mdp.P, pi, q, mdp.mu) == pytest.approx(total, abs=1e-13)


def test_optimal_action_set_sees_ties():
    assert optimal_action_set(np.array([[1.0, 1.0 - 1e-12, 0.5]])).tolist() == [[True, True, False]]
