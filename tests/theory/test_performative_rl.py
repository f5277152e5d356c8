"""Performative RL on the grid: the prototype's contraction table, stability, and the regularised flow program."""

import numpy as np
import pytest
from polopt.theory.methods.performative_rl import (
    GAMMA,
    Followers,
    empirical_world,
    flow_program,
    initial_policy,
    project_on_flows,
    regularised_flow,
    relative_change,
    repeat_ascent,
    repeat_optimisation,
)
from polopt.theory.solvers import policy_from_occupancy

WORLD = Followers(10).react(initial_policy())


def flow_residual(world, d):
    return np.abs(d.sum(-1) - world.rho - GAMMA * np.einsum("sa,sat->t", d, world.P)).max()


def test_first_world_and_its_linear_program():
    d, value = flow_program(WORLD)
    assert value == pytest.approx(0.092828044365, abs=1e-8)
    assert flow_residual(WORLD, d) < 1e-8
    V = np.zeros(63)
    for _ in range(400):
        V = (WORLD.r + GAMMA * WORLD.P @ V).max(-1)
    assert value == pytest.approx(WORLD.rho @ V, abs=1e-8)
    lightly, _ = regularised_flow(WORLD, 1e-2)
    assert (lightly * WORLD.r).sum() == pytest.approx(value, abs=1e-4)


def test_regularised_flow_by_its_optimality_condition():
    lam = 0.7
    d, _ = regularised_flow(WORLD, lam)
    assert flow_residual(WORLD, d) < 1e-9
    rng = np.random.default_rng(0)
    for pi in rng.dirichlet(np.ones(4), (20, 63)):
        kernel = np.einsum("sa,sat->st", pi, WORLD.P)
        other = np.linalg.solve(np.eye(63) - GAMMA * kernel.T, WORLD.rho)[:, None] * pi
        assert ((WORLD.r - lam * d) * (other - d)).sum() <= 1e-9
    with pytest.raises(ValueError, match="lam=0 must be > 0; flow_program"):
        regularised_flow(WORLD, 0)


def test_projection_leaves_flows_alone():
    d, _ = regularised_flow(WORLD, 1.0)
    np.testing.assert_allclose(project_on_flows(WORLD, d)[0], d, atol=1e-9)


@pytest.mark.parametrize(
    ("beta", "lam", "expected"),
    [
        (10, 0.2, [0.602, 0.159, 0.0112, 0.00137, 3.7e-5, 1.2e-8]),
        (10, 1, [0.696, 0.160, 0.0283, 0.00709, 0.00127, 2.0e-5]),
        (10, 5, [0.768, 0.127, 0.0400, 0.0143, 0.0042, 3.6e-4]),
        (5, 1, [0.730, 0.119, 0.0115, 6.8e-4, 8.0e-6, 1.7e-9]),
        (1, 1, [0.776, 0.030, 9.4e-4, 2.3e-5, 2.7e-8]),
        (200, 1, [0.634, 0.168, 0.119, 0.191, 0.022]),
    ],
)
def test_the_prototypes_table(beta, lam, expected):
    change = relative_change(repeat_optimisation(Followers(beta), lam, 11))
    measured = change[[0, 1, 2, 3, 5, 10]][: len(expected)]
    np.testing.assert_allclose(measured, expected, rtol=0.04)
    np.testing.assert_allclose(measured[:3], expected[:3], rtol=0.01)


def test_vertices_settle_exactly_without_regularisation():
    change = relative_change(repeat_optimisation(Followers(5), 0.0, 6))
    np.testing.assert_allclose(change[:2], [0.894, 0.112], atol=6e-4)
    assert change[-2:].max() < 1e-12


def test_what_is_reached_is_stable():
    followers = Followers(5)
    d = repeat_optimisation(followers, 1.0, 25)[-1]
    again, _ = regularised_flow(followers.react(policy_from_occupancy(d)), 1.0)
    np.testing.assert_allclose(again, d, atol=1e-9)


def test_ascent_with_step_one_over_lambda_is_optimisation():
    for lam in (0.5, 1.0):
        a, b = repeat_ascent(Followers(5), lam, 1 / lam, 8), repeat_optimisation(Followers(5), lam, 8)
        np.testing.assert_allclose(a[1:], b[1:], atol=1e-9)


def test_ascent_needs_fewer_steps_as_its_step_grows_until_it_diverges():
    reached = [
        int(np.argmax(relative_change(repeat_ascent(Followers(5), 1.0, eta, 130)) < 1e-10)) + 1 for eta in (0.2, 1.0)
    ]
    assert reached == [111, 13]
    assert relative_change(repeat_ascent(Followers(5), 1.0, 2.0, 100))[-1] > 0.5


def test_counted_worlds_approach_the_true_one():
    followers, pi = Followers(5), np.full((63, 4), 0.25)
    true = followers.react(pi)
    errors = [
        np.abs(empirical_world(followers, pi, m, np.random.default_rng(0)).P - true.P).sum(-1).mean()
        for m in (20, 2000)
    ]
    assert errors[1] < 0.5 * errors[0]
    assert empirical_world(followers, pi, 1, np.random.default_rng(0)).P.sum(-1).max() <= 1 + 1e-12
