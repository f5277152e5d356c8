"""Conservative exploration: no violations, an additive constant of regret, exact mixing."""

import numpy as np
import pytest
from polopt.theory import finite
from polopt.theory.methods.stepmix import (
    epsmix_weights,
    explore,
    lower_values,
    optimistic_plan,
    step_mixtures,
    stepmix_weights,
    testbed,
    unconstrained_weights,
)

testbed.__test__ = False
MDP_, BASELINE = testbed()
BEST = finite.plan(MDP_.P, MDP_.r)[0][0, 0]
V_B = finite.evaluate(MDP_.P, MDP_.r, BASELINE)[0][0, 0]


def test_the_testbed_is_the_specs():
    assert pytest.approx(2.44694, abs=5e-6) == BEST
    assert pytest.approx(1.88976, abs=5e-6) == V_B


@pytest.fixture(scope="module")
def runs():
    methods = {"ucbvi": unconstrained_weights, "stepmix": stepmix_weights, "epsmix": epsmix_weights}
    return {name: explore(MDP_, BASELINE, weights, 0.1, 2000, 10) for name, weights in methods.items()}


def test_violations(runs):
    threshold = 0.9 * V_B
    assert (runs["stepmix"].value >= threshold - 1e-9).all()
    assert (runs["epsmix"].value >= threshold - 1e-9).all()
    assert (runs["ucbvi"].value < threshold - 1e-9).any()


def test_regret_is_near_the_prototypes_seed_and_runs_parallel(runs):
    regret = {name: (BEST - run.value).cumsum(-1).mean(0) for name, run in runs.items()}
    at = {name: y[999] for name, y in regret.items()}
    assert at["ucbvi"] < at["epsmix"] < at["stepmix"]
    for name, one_seed in (("ucbvi", 28.1), ("stepmix", 51.5), ("epsmix", 44.5)):
        assert at[name] == pytest.approx(one_seed, rel=0.4)
    extra = regret["stepmix"] - regret["ucbvi"]
    assert extra[1999] - extra[999] <= 5


def test_mixtures_meet_the_threshold_exactly(runs):
    for name in ("stepmix", "epsmix"):
        run = runs[name]
        assert run.weights.min() >= 0
        np.testing.assert_allclose(run.weights.sum(-1), 1.0, atol=1e-12)
        mixing = (run.weights > 0).sum(-1) == 2
        assert mixing.sum() > 100
        np.testing.assert_allclose((run.weights * run.low).sum(-1)[mixing], 0.9 * V_B, atol=1e-9)


def test_giving_up_everything_is_ucbvi():
    a = explore(MDP_, BASELINE, stepmix_weights, 1.0, 200, 4)
    b = explore(MDP_, BASELINE, unconstrained_weights, 1.0, 200, 4)
    np.testing.assert_array_equal(a.value, b.value)
    np.testing.assert_array_equal(a.weights, b.weights)
    with pytest.raises(ValueError, match=r"alpha=2 must be in \[0, 1\]"):
        explore(MDP_, BASELINE, stepmix_weights, 2, 1, 1)


def test_the_theorys_widths_cover_the_values():
    assert explore(MDP_, BASELINE, stepmix_weights, 0.1, 400, 10, scale=1.0).covered.all()


def test_without_uncertainty_bounds_are_values():
    none = np.zeros(MDP_.r.shape)
    V, pi = optimistic_plan(MDP_.P, MDP_.r, none)
    assert V[0, 0] == pytest.approx(BEST, abs=1e-12)
    mixtures = step_mixtures(BASELINE, pi)
    low = lower_values(MDP_.P, MDP_.r, none, mixtures, 0)
    np.testing.assert_allclose(low, finite.evaluate(MDP_.P, MDP_.r, mixtures)[0][:, 0, 0], atol=1e-12)
    assert low[0] == pytest.approx(BEST, abs=1e-12)
    assert low[-1] == pytest.approx(V_B, abs=1e-12)
