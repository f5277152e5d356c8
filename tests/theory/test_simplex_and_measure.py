"""Projections, proxes, slopes and the simulator."""

import numpy as np
import pytest
from polopt.theory import finite
from polopt.theory.generators import random_finite
from polopt.theory.measure import RegretRecorder, bound_ratio, log_checkpoints, slope
from polopt.theory.simplex import kl, kl_prox, project_simplex, tsallis_minimiser
from polopt.theory.simulate import sample, simulate
from scipy.optimize import minimize


def test_projection_by_its_optimality_condition():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)) * 3
    p = project_simplex(x)
    np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-12)
    assert p.min() >= 0
    others = rng.dirichlet(np.ones(6), 200)
    slack = np.einsum("na,nma->nm", x - p, others[None] - p[:, None])
    assert slack.max() <= 1e-12
    np.testing.assert_allclose(project_simplex(p), p, atol=1e-12)


def test_kl_prox_maximises_its_objective():
    rng = np.random.default_rng(0)
    pi, gain = rng.dirichlet(np.ones(4)), rng.normal(size=4)
    best = np.exp(kl_prox(np.log(pi), gain, 0.7))
    value = lambda p: 0.7 * p @ gain - kl(p, pi)
    assert all(value(best) >= value(p) for p in rng.dirichlet(np.ones(4), 200))
    assert np.exp(kl_prox(np.log(pi), gain, 1e5)).max() == pytest.approx(1.0)


@pytest.mark.parametrize("size", [2, 3, 10])
def test_tsallis_step_minimises_its_objective(size):
    rng = np.random.default_rng(size)
    L, eta = rng.exponential(size=(5, size)) * 20, np.array([0.01, 0.1, 0.5, 1.0, 3.0])
    p = tsallis_minimiser(L, eta)
    np.testing.assert_allclose(p.sum(-1), 1.0, atol=1e-12)
    stationarity = L - 2 / (eta[:, None] * np.sqrt(p))
    np.testing.assert_allclose(stationarity - stationarity[:, :1], 0.0, atol=1e-9 * 20)
    for i in range(5):
        free = minimize(
            lambda z, i=i: (lambda q: q @ L[i] - 4 / eta[i] * np.sqrt(q).sum())(np.exp(z) / np.exp(z).sum()),
            np.zeros(size),
            tol=1e-12,
        )
        assert p[i] @ L[i] - 4 / eta[i] * np.sqrt(p[i]).sum() <= free.fun + 1e-9


def test_slope_recovers_an_exponent_and_its_interval():
    x = np.arange(1, 2001)
    noise = np.exp(0.1 * np.random.default_rng(0).normal(size=(20, 1)))
    fit = slope(x, noise * 3 * x**-0.5, low=100)
    assert fit.estimate == pytest.approx(-0.5, abs=1e-12)
    assert fit.low == pytest.approx(-0.5, abs=1e-12)
    tilted = x ** (-0.5 + 0.05 * np.random.default_rng(1).normal(size=(20, 1)))
    fit = slope(x, tilted, low=100)
    assert fit.low < fit.estimate < fit.high
    with pytest.raises(ValueError, match="leaves 0 points"):
        slope(x, tilted, low=1e9)
    with pytest.raises(ValueError, match="positive x and y"):
        slope(x, -tilted)


def test_bound_ratio_and_checkpoints():
    assert bound_ratio(np.array([1.0, 2.0]), np.array([2.0, 2.5])) == 0.8
    points = log_checkpoints(5000)
    assert points[0] == 1 and points[-1] == 5000 and (np.diff(points) > 0).all()


def test_regret_recorder_keeps_running_sums():
    recorder = RegretRecorder(2, np.array([1, 3]))
    for k in range(4):
        recorder.add(np.array([1.0, k]))
    np.testing.assert_array_equal(recorder.regret, [[1.0, 3.0], [0.0, 3.0]])


def test_sample_inverts_the_cumulative_law():
    law = np.array([0.0, 0.2, 0.0, 0.8])
    u = np.array([0.0, 0.1999, 0.2, 0.9999999999999999])
    assert sample(np.broadcast_to(law, (4, 4)), u).tolist() == [1, 1, 3, 3]


def test_simulator_visits_as_the_occupancy_says():
    mdp = random_finite(4, 5, 3)
    pi = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5))
    paths = simulate(mdp.P, pi, mdp.mu, np.random.default_rng(0), 40_000)
    counts = np.stack([np.bincount(paths.states[:, h], minlength=5) for h in range(4)]) / 40_000
    np.testing.assert_allclose(counts, finite.occupancy(mdp.P, pi, mdp.mu), atol=0.012)
    with pytest.raises(ValueError, match="num_paths"):
        simulate(mdp.P, pi, mdp.mu, np.random.default_rng(0))
