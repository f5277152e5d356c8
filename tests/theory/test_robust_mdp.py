"""Robust duals against primal programs, known values, and the two ends of every radius."""

from functools import partial

import numpy as np
import pytest
from polopt.theory import MDP, evaluate, finite, policy_iteration
from polopt.theory.generators import garnet, random_finite
from polopt.theory.methods.kl_control import soft_plan
from polopt.theory.methods.robust_mdp import (
    Dataset,
    chi2_ball,
    chi2_penalty,
    chi2_statistic,
    diagonal_width,
    ellipsoid_width,
    kl_ball,
    kl_penalty,
    kl_statistic,
    linear_testbed,
    mean_statistic,
    pessimistic_value_iteration,
    put_value,
    regularised_plan,
    robust_evaluate,
    robust_plan,
    robust_policy_gradient,
    robust_value_iteration,
    s_rectangular_backup,
    tv_ball,
    tv_ball_statistic,
    tv_penalty,
    tv_statistic,
    worst_kernel_tv,
)
from scipy.optimize import brentq, linprog

RNG = np.random.default_rng(0)
CASES = [(RNG.dirichlet(np.ones(8)), 5 * RNG.random(8)) for _ in range(5)]
FINITE = random_finite(4, 5, 3)


def tv_primal(p, V, rho, lam=None):
    """min q.V (+ lam TV) with q = p + up - down, TV = sum(up)."""
    n = len(p)
    cost = np.concatenate([V + (lam or 0.0), -V])
    budget = np.concatenate([np.ones(n), np.zeros(n)])[None]
    result = linprog(
        cost,
        A_ub=budget if lam is None else None,
        b_ub=[rho] if lam is None else None,
        A_eq=np.concatenate([np.ones(n), -np.ones(n)])[None],
        b_eq=[0.0],
        bounds=[(0, None)] * n + [(0, x) for x in p],
    )
    return p @ V + result.fun


def kl_divergence(q, p):
    return float((q * np.log(np.maximum(q, 1e-300) / p)).sum())


def chi2_divergence(q, p):
    return float(((q - p) ** 2 / p).sum())


@pytest.mark.parametrize("case", range(5))
def test_total_variation_duals_equal_primal_programs(case):
    p, V = CASES[case]
    for rho in (0.05, 0.3, 0.9):
        assert tv_ball(p, V, rho) == pytest.approx(tv_primal(p, V, rho), abs=1e-8)
        q = worst_kernel_tv(p, V, rho)
        assert np.abs(q - p).sum() / 2 <= rho + 1e-12
        assert q @ V == pytest.approx(tv_ball(p, V, rho), abs=1e-12)
    for lam in (0.2, 1.0, 5.0):
        assert tv_penalty(p, V, lam) == pytest.approx(tv_primal(p, V, None, lam), abs=1e-8)


@pytest.mark.parametrize("case", range(5))
def test_kl_duals_equal_the_primal_at_its_tilted_minimiser(case):
    """A feasible q bounds the primal from above, the dual from below: where they meet both are exact."""
    p, V = CASES[case]

    def tilt(b):
        weights = p * np.exp(-(V - V.min()) / b)
        return weights / weights.sum()

    for rho in (0.05, 0.3, 0.9):
        q = tilt(brentq(lambda b, rho=rho: kl_divergence(tilt(b), p) - rho, 1e-3, 1e3, xtol=1e-14))
        assert kl_divergence(q, p) == pytest.approx(rho, abs=1e-9)
        assert kl_ball(p, V, rho) == pytest.approx(q @ V, abs=1e-8)
    for lam in (0.2, 1.0, 5.0):
        assert kl_penalty(p, V, lam) == pytest.approx(tilt(lam) @ V + lam * kl_divergence(tilt(lam), p), abs=1e-12)


@pytest.mark.parametrize("case", range(5))
def test_chi2_duals_equal_the_primal_at_its_linear_minimiser(case):
    p, V = CASES[case]

    def moments(a):
        m = np.minimum(V, a)
        return m, p @ m, np.sqrt(p @ m**2 - (p @ m) ** 2)

    def cap(slack):
        """The cap a at which q touches 0 above it; none is needed where q stays positive."""
        low = np.sort(V)[1]
        return V.max() if slack(V.max()) <= 0 else brentq(slack, low, V.max(), xtol=1e-14)

    for rho in (0.05, 0.3):
        m, mean, deviation = moments(cap(lambda a, rho=rho: (a - moments(a)[1]) * np.sqrt(rho) - moments(a)[2]))
        q = p * (1 + (mean - m) * np.sqrt(rho) / deviation)
        assert q.min() >= -1e-12
        assert chi2_divergence(q, p) == pytest.approx(rho, abs=1e-9)
        assert chi2_ball(p, V, rho) == pytest.approx(q @ V, abs=1e-8)
    for lam in (1.0, 5.0):
        m, mean, _ = moments(cap(lambda a, lam=lam: a - moments(a)[1] - 2 * lam))
        q = p * (1 + (mean - m) / (2 * lam))
        assert q.min() >= -1e-12
        assert chi2_penalty(p, V, lam) == pytest.approx(q @ V + lam * chi2_divergence(q, p), abs=1e-8)


def test_exact_chi2_duals_dominate_a_fine_grid():
    for p, V in CASES:
        m = np.minimum(V, np.linspace(V.min(), V.max(), 20_001)[:, None])
        mean, variance = m @ p, np.maximum((m**2) @ p - (m @ p) ** 2, 0.0)
        for x in (0.05, 0.3, 0.9, 4.0):
            for exact, dual in (
                (chi2_ball(p, V, x), mean - np.sqrt(x * variance)),
                (chi2_penalty(p, V, x), mean - variance / (4 * x)),
            ):
                assert -1e-12 <= exact - dual.max() <= 1e-4


def test_radii_and_penalties_at_their_ends():
    for p, V in CASES:
        for ball in (tv_ball, kl_ball, chi2_ball):
            assert ball(p, V, 0.0) == pytest.approx(p @ V, abs=1e-12)
            values = [float(ball(p, V, rho)) for rho in np.linspace(0, 3, 13)]
            assert (np.diff(values) <= 1e-10).all()
            assert values[-1] >= V.min() - 1e-12
        assert tv_ball(p, V, 1.0) == pytest.approx(V.min(), abs=1e-12)
        assert tv_penalty(p, V, 0.0) == pytest.approx(V.min())
        for penalty in (tv_penalty, kl_penalty, chi2_penalty):
            assert penalty(p, V, 1e6) == pytest.approx(p @ V, abs=1e-5)
            values = [float(penalty(p, V, lam)) for lam in np.geomspace(0.01, 100, 13)]
            assert (np.diff(values) >= -1e-10).all()


def test_known_values_of_the_finite_model():
    def value(inner):
        return robust_plan(FINITE.P, FINITE.r, inner)[0][0, 0]

    assert finite.plan(FINITE.P, FINITE.r)[0][0, 0] == pytest.approx(3.1302, abs=1e-4)
    for rho, expected in ((0.1, 3.0110), (0.3, 2.7968), (1.0, 2.3262)):
        assert value(partial(tv_ball, rho=rho)) == pytest.approx(expected, abs=1e-4)
    for lam, expected in ((0.1, 2.5939), (0.5, 3.1302)):
        assert value(partial(tv_penalty, lam=lam)) == pytest.approx(expected, abs=1e-4)
    for lam, expected in ((0.05, 2.7633), (0.5, 3.0845), (5.0, 3.1257)):
        assert value(partial(kl_penalty, lam=lam)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (partial(tv_ball, rho=0.0), 3.51972),
        (partial(tv_ball, rho=0.1), 1.59295),
        (partial(tv_ball, rho=0.3), 0.50306),
        (partial(tv_penalty, lam=0.5), 0.90128),
        (partial(kl_penalty, lam=1.0), 1.26185),
    ],
)
def test_american_put(inner, expected):
    assert put_value(inner) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "inner",
    [partial(tv_ball, rho=0.2), partial(kl_ball, rho=0.2), partial(chi2_ball, rho=0.2), partial(chi2_penalty, lam=0.3)],
)
def test_robust_operators_contract(inner):
    mdp, rng = garnet(5, 3, 3), np.random.default_rng(1)
    for _ in range(20):
        U, V = rng.normal(size=(2, 5)) * 5
        difference = (mdp.r + mdp.gamma * inner(mdp.P, U)).max(-1) - (mdp.r + mdp.gamma * inner(mdp.P, V)).max(-1)
        assert np.abs(difference).max() <= mdp.gamma * np.abs(U - V).max() + 1e-9


def test_robust_value_iteration_is_the_value_under_its_own_worst_kernel():
    mdp, rho = garnet(5, 3, 3), 0.15
    V, _, pi, _ = robust_value_iteration(mdp, partial(tv_ball, rho=rho))
    worst = MDP(worst_kernel_tv(mdp.P, V, rho), mdp.r, mdp.gamma)
    np.testing.assert_allclose(evaluate(worst, pi).V, V, atol=1e-8)
    np.testing.assert_allclose(policy_iteration(worst).V, V, atol=1e-8)
    np.testing.assert_allclose(robust_evaluate(mdp, pi, partial(tv_ball, rho=rho)).V, V, atol=1e-8)
    nominal = robust_value_iteration(mdp, partial(tv_ball, rho=0.0))
    np.testing.assert_allclose(nominal.V, policy_iteration(mdp).V, atol=1e-9)


def test_robust_policy_gradient_by_central_differences():
    mdp, rho = garnet(5, 3, 3), 0.1
    pi = np.random.default_rng(2).dirichlet(np.ones(3), 5)
    gradient = robust_policy_gradient(mdp, pi, rho)

    def J(pi):
        return mdp.rho @ robust_evaluate(mdp, pi, partial(tv_ball, rho=rho), 1e-13).V

    direction = np.random.default_rng(3).normal(size=(5, 3))
    direction -= direction.mean(-1, keepdims=True)
    numeric = (J(pi + 1e-5 * direction) - J(pi - 1e-5 * direction)) / 2e-5
    assert (gradient * direction).sum() == pytest.approx(numeric, abs=1e-6)


def test_s_rectangular_sets_are_less_pessimistic_at_the_same_radius():
    mdp, rho = garnet(5, 3, 3), 0.2
    V = robust_value_iteration(mdp, partial(tv_ball, rho=rho)).V
    sa = (mdp.r + mdp.gamma * tv_ball(mdp.P, V, rho)).max(-1)
    for s in range(5):
        value, pi = s_rectangular_backup(mdp, V, rho, s)
        assert value >= sa[s] - 1e-9
        assert pi.sum() == pytest.approx(1.0)
    assert s_rectangular_backup(mdp, V, 0.0, 0)[0] == pytest.approx(mdp.backup(V)[0].max(), abs=1e-9)


def test_s_rectangular_example_reverses_with_a_budget_for_every_action():
    P = np.zeros((3, 2, 3))
    P[0, 0, 1] = P[0, 1, 1] = P[1, :, 1] = P[2, :, 2] = 1.0
    mdp = MDP(P, np.zeros((3, 2)), 0.5)
    V = np.array([0.0, 2.0, 0.0])  # discounted: 1 and 0
    assert s_rectangular_backup(mdp, V, 0.2, 0)[0] == pytest.approx(0.9, abs=1e-9)
    assert tv_ball(mdp.P[0, 0], V, 0.2) * mdp.gamma == pytest.approx(0.8, abs=1e-9)
    unequal = MDP(P, np.array([[0.0, -0.9], [0.0, 0.0], [0.0, 0.0]]), 0.5)  # worth 1 and .1
    assert s_rectangular_backup(unequal, V, 0.4, 0)[0] == pytest.approx(0.6, abs=1e-9)


def test_regularised_planning_has_both_its_limits():
    log_ref = np.full(FINITE.r.shape, -np.log(3))
    inner = partial(tv_ball, rho=0.2)
    hard = robust_plan(FINITE.P, FINITE.r, inner)[0]
    assert np.abs(regularised_plan(FINITE.P, FINITE.r, inner, log_ref, 1e4)[0] - hard).max() < 1e-3
    soft = regularised_plan(FINITE.P, FINITE.r, partial(tv_ball, rho=0.0), log_ref, 5.0)
    plain = soft_plan(FINITE.P, FINITE.r, log_ref, 1 / 5.0)
    np.testing.assert_allclose(soft[0], plain[0], atol=1e-12)
    np.testing.assert_allclose(soft[1], np.exp(plain[1]), atol=1e-12)


def test_offline_value_iteration_with_infinite_data_is_exact():
    H, S, A = FINITE.r.shape
    phi = np.eye(S * A).reshape(S, A, S * A)
    rows = np.repeat(np.eye(S * A), S, axis=0)
    data = Dataset(np.stack([rows] * H), np.stack([np.tile(np.arange(S), S * A)] * H), 1e12 * FINITE.P.reshape(H, -1))
    pairs = [
        (mean_statistic, partial(tv_ball, rho=0.0)),
        (partial(tv_statistic, lam=0.2), partial(tv_penalty, lam=0.2)),
        (partial(kl_statistic, lam=0.3, horizon=H), partial(kl_penalty, lam=0.3)),
        (partial(chi2_statistic, lam=0.3, horizon=H, grid=4001), partial(chi2_penalty, lam=0.3)),
        (partial(tv_ball_statistic, rho=0.2), partial(tv_ball, rho=0.2)),
    ]
    for statistic, inner in pairs:
        V, _ = pessimistic_value_iteration(data, phi, FINITE.r, statistic, diagonal_width, 1.0, 1e-3)
        np.testing.assert_allclose(V, robust_plan(FINITE.P, FINITE.r, inner)[0], atol=1e-4)


def test_linear_testbed_is_linear():
    mdp, phi = linear_testbed(0.3)
    assert phi.sum(-1).min() == pytest.approx(1.0)
    assert phi.min() >= 0
    assert finite.plan(*(lambda m: (m.P, m.r))(linear_testbed(0.0)[0]))[0][0, 0] > finite.plan(mdp.P, mdp.r)[0][0, 0]
    inverse = np.linalg.inv(np.cov(phi.reshape(-1, 4).T) + np.eye(4))
    assert (ellipsoid_width(phi, inverse) > 0).all()
    with pytest.raises(ValueError, match="q=2 must be in"):
        linear_testbed(2)
