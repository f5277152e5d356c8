"""The rates and bounds of exact policy gradient methods on Garnet(10, 4, 3), gamma .9, rho = mu = uniform."""

import numpy as np
import pytest
from polopt.theory import policy_iteration, softmax
from polopt.theory.generators import garnet
from polopt.theory.measure import bound_ratio, slope
from polopt.theory.methods.exact_pg import (
    adaptive_step_size,
    bandit_gap,
    entropy_npg_bound,
    entropy_npg_step,
    euclidean_mirror_step,
    local_factor,
    mirror_step,
    npg_bound,
    npg_step,
    projected_step,
    soft_q,
    softmax_pg_bound,
    softmax_step,
    suboptimality,
)
from polopt.theory.simplex import kl, kl_prox
from polopt.theory.solvers import evaluate, soft_value_iteration

MDP_ = garnet(10, 4, 3)
START = np.full((10, 4), 0.25)
LOG_START = np.log(START)


@pytest.mark.slow
def test_softmax_pg_rate_and_bound():
    etas = np.array([0.1**3 / 8, 1.0, 10.0])[:, None, None]
    gaps, iterates = suboptimality(
        MDP_, lambda x, k: softmax_step(MDP_, x, etas), np.broadcast_to(LOG_START, (3, 10, 4)), 20_000
    )
    gap = (gaps @ MDP_.rho)[1:]
    t = np.arange(1, 20_001)
    assert (gap[0, 0], gap[-1, 0]) == pytest.approx((2.945, 2.528), abs=2e-3)
    assert slope(t, gap[:, 1], 1e4).estimate == pytest.approx(-1.018, abs=2e-3)
    assert slope(t, gap[:, 2], 1e4).estimate == pytest.approx(-1.001, abs=2e-3)
    best = policy_iteration(MDP_).pi.argmax(-1)
    least = np.exp(iterates[:, 0, np.arange(10), best]).min()
    assert bound_ratio(gap[:, 0], softmax_pg_bound(MDP_, least, t)) <= 1 + 1e-9


def test_two_armed_bandit_constant():
    for eta in (0.4, 1.0):
        gap = bandit_gap([0.0, 1.0], eta, 50_000)
        assert 5e4 * gap[-1] == pytest.approx(1 / (2 * eta), rel=1e-3)


@pytest.mark.parametrize(("arms", "constant"), [(3, 1.667), (10, 2.252)])
def test_evenly_spaced_bandits(arms, constant):
    gap = bandit_gap(np.linspace(0, 1, arms), 0.4, 100_000)
    assert 1e5 * gap[-1] == pytest.approx(constant, rel=3e-3)
    assert slope(np.arange(1, 100_001), gap, 5e4).estimate == pytest.approx(-1.0, abs=3e-3)


def test_npg_bound_and_local_factor():
    etas = np.array([0.1, 1.0, 10.0])
    gaps, _ = suboptimality(
        MDP_, lambda x, k: npg_step(MDP_, x, etas[:, None, None]), np.broadcast_to(LOG_START, (3, 10, 4)), 3000
    )
    gap = (gaps @ MDP_.rho)[1:]
    t = np.arange(1, 3001)
    ratios = [bound_ratio(gap[:, i], npg_bound(MDP_, etas[i], t)) for i in range(3)]
    np.testing.assert_allclose(ratios, [0.038, 0.0026, 0.0003], rtol=0.05, atol=3e-5)
    predicted = [local_factor(MDP_, eta) for eta in etas]
    np.testing.assert_allclose(predicted, [0.9928, 0.93031, 0.48562], atol=2e-5)
    for i, tolerance in ((1, 2e-4), (2, 2e-4)):
        late = np.flatnonzero((gap[:, i] < 1e-6) & (gap[:, i] > 1e-10))
        factor = (gap[late[-1], i] / gap[late[0], i]) ** (1 / (late[-1] - late[0]))
        assert factor == pytest.approx(predicted[i], abs=tolerance)


def test_npg_is_mirror_descent_with_the_discount_moved():
    a = b = LOG_START
    for _ in range(50):
        a, b = npg_step(MDP_, a, 0.3), mirror_step(MDP_, b, 0.3 / (1 - MDP_.gamma))
        np.testing.assert_allclose(np.exp(a), np.exp(b), atol=1e-12)


@pytest.mark.parametrize(("share", "ratio"), [(1.0, 0.0218), (0.5, 0.083), (0.1, 0.39)])
def test_entropy_npg_bound(share, ratio):
    tau = 0.1
    eta = share * (1 - MDP_.gamma) / tau
    best = soft_value_iteration(MDP_, tau, tol=1e-12).Q
    x, errors = LOG_START, []
    for _ in range(100):
        x = entropy_npg_step(MDP_, x, eta, tau)
        errors.append(np.abs(best - soft_q(MDP_, x, tau)).max())
    measured = bound_ratio(errors, entropy_npg_bound(MDP_, LOG_START, eta, tau, np.arange(100)))
    assert measured == pytest.approx(ratio, rel=0.03)


def test_entropy_npg_with_the_full_step_is_soft_policy_iteration():
    tau, x = 0.1, LOG_START
    for _ in range(10):
        expected = softmax(soft_q(MDP_, x, tau) / tau)
        x = entropy_npg_step(MDP_, x, (1 - MDP_.gamma) / tau, tau)
        np.testing.assert_allclose(np.exp(x), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"eta=1.1 must be in \(0, \(1-gamma\)/tau\] = \(0, 1\]"):
        entropy_npg_step(MDP_, x, 1.1, tau)


def test_entropy_npg_without_temperature_is_npg():
    a = b = LOG_START
    for _ in range(20):
        a, b = entropy_npg_step(MDP_, a, 0.1, 1e-14), npg_step(MDP_, b, 0.1)
        np.testing.assert_allclose(np.exp(a), np.exp(b), atol=1e-10)


def test_mirror_descent_with_adaptive_steps_meets_its_bound():
    def step(x, k):
        Q = evaluate(MDP_, np.exp(x)).Q
        return kl_prox(x, Q, adaptive_step_size(x, Q, MDP_.gamma, k))

    error = suboptimality(MDP_, step, LOG_START, 40)[0].max(-1)
    bound = MDP_.gamma ** np.arange(41) * (error[0] + 1 / (1 - MDP_.gamma))
    assert bound_ratio(error, bound) == pytest.approx(0.235, abs=2e-3)


def test_mirror_descent_with_geometric_steps():
    error = suboptimality(MDP_, lambda x, k: mirror_step(MDP_, x, MDP_.gamma**-k), LOG_START, 400)[0]
    assert error[0].max() == pytest.approx(3.07, abs=5e-3)
    values = -error
    assert (np.diff(values, axis=0) >= -1e-11).all(), "mirror descent improves every state at every step"
    assert error[-1].max() < 1e-11


def test_projected_gradient_becomes_exactly_optimal():
    gaps = suboptimality(MDP_, lambda x, k: projected_step(MDP_, x, 1.0), START, 220, log=False)[0] @ MDP_.rho
    assert gaps[190] > 1e-4
    assert abs(gaps[197:]).max() < 1e-14


def test_euclidean_mirror_descent_improves_every_state():
    values = -suboptimality(MDP_, lambda x, k: euclidean_mirror_step(MDP_, x, 0.1), START, 100, log=False)[0]
    assert (np.diff(values, axis=0) >= -1e-12).all()


def test_three_point_lemma():
    rng = np.random.default_rng(0)
    log_pi = np.log(rng.dirichlet(np.ones(4), 10))
    Q = evaluate(MDP_, np.exp(log_pi)).Q
    new = mirror_step(MDP_, log_pi, 2.0)
    for p in rng.dirichlet(np.ones(4), (100, 10)):
        left = 2.0 * (Q * (p - np.exp(new))).sum(-1) + kl(np.exp(new), np.exp(log_pi))
        assert (left <= kl(p, np.exp(log_pi)) - kl(p, np.exp(new)) + 1e-12).all()


def test_a_constant_a_state_changes_nothing_in_npg():
    shift = np.random.default_rng(0).normal(size=(10, 1))
    Q = evaluate(MDP_, START).Q
    np.testing.assert_allclose(kl_prox(LOG_START, Q, 1.0), kl_prox(LOG_START, Q + shift, 1.0), atol=1e-13)
