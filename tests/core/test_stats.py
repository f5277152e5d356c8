"""The aggregates against SciPy and hand-worked numbers; the bootstrap against what it must respect."""

import numpy as np
import pytest
import scipy.stats

from polopt import stats


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 3), (4, 4), (7, 9)])
def test_iqm_is_the_quarter_trimmed_mean(shape):
    scores = np.random.default_rng(0).standard_cauchy(shape)
    assert stats.aggregate_iqm(scores) == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None), rel=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused(value):
    scores = np.ones((5, 2))
    scores[1, 0] = value
    for func in (stats.aggregate_iqm, stats.aggregate_mean, stats.aggregate_median, stats.aggregate_optimality_gap):
        with pytest.raises(ValueError, match=rf"scores\[1, 0\] is {value}"):
            func(scores)
    with pytest.raises(ValueError, match=r"score_dict\['failed'\]\[1, 0\]"):
        stats.create_performance_profile({"well": np.ones((5, 2)), "failed": scores}, np.array([0.5]), reps=2)


def test_aggregates_of_a_hand_worked_table():
    scores = np.array([[0.0, 2.0, 1.0], [1.0, 4.0, 3.0]])  # means of the tasks 0.5, 3, 2
    assert stats.aggregate_mean(scores) == pytest.approx(11 / 6)
    assert stats.aggregate_median(scores) == 2.0
    assert stats.aggregate_iqm(scores) == pytest.approx((1 + 1 + 2 + 3) / 4)
    assert stats.aggregate_optimality_gap(scores) == pytest.approx(1 / 6)
    assert stats.aggregate_optimality_gap(scores, gamma=3.0) == pytest.approx(3 - 10 / 6)


@pytest.mark.parametrize(
    "func", [stats.aggregate_iqm, stats.aggregate_mean, stats.aggregate_median, stats.aggregate_optimality_gap]
)
def test_an_aggregate_of_curves_is_the_curve_of_aggregates(func):
    scores = np.random.default_rng(1).normal(size=(5, 3, 4))
    np.testing.assert_allclose(func(scores), [func(scores[..., k]) for k in range(4)], rtol=1e-12)


def test_probability_of_improvement_is_the_mean_mann_whitney_share():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 5, size=(6, 3)), rng.integers(1, 6, size=(4, 3))  # integers: there are ties
    shares = [scipy.stats.mannwhitneyu(x[:, t], y[:, t]).statistic / (6 * 4) for t in range(3)]
    assert stats.probability_of_improvement(x, y) == pytest.approx(np.mean(shares), rel=1e-12)
    assert stats.probability_of_improvement(x, x) == 0.5


def test_strata_are_respected():
    """Resampling mixes runs of one task only: where all runs of a task agree, nothing is left to vary."""
    constant = np.tile([0.0, 10.0, 100.0], (4, 1))
    _, interval = stats.get_interval_estimates({"a": constant}, stats.aggregate_mean, reps=50)
    np.testing.assert_array_equal(interval["a"], [110 / 3, 110 / 3])
    seen = []
    columns = np.arange(12.0).reshape(4, 3)
    stats.get_interval_estimates({"a": columns}, lambda s: seen.append(s) or s.mean(), reps=50)
    for resample in seen:
        assert all(set(resample[:, t]) <= set(columns[:, t]) for t in range(3))
    assert any(not np.array_equal(np.argsort(s[:, 0]), np.argsort(s[:, 1])) for s in seen), "tasks are drawn apart"


def test_tasks_are_resampled_only_when_asked():
    constant = np.tile([0.0, 10.0, 100.0], (4, 1))
    _, interval = stats.get_interval_estimates({"a": constant}, stats.aggregate_mean, 200, task_bootstrap=True)
    assert interval["a"][0] < 20 < 60 < interval["a"][1]


def test_the_seed_decides_and_neighbours_do_not():
    rng = np.random.default_rng(3)
    scores = {"a": rng.normal(size=(5, 3)), "b": rng.normal(size=(5, 3))}

    def interval(seed, which=("a", "b")):
        chosen = {name: scores[name] for name in which}
        return stats.get_interval_estimates(chosen, stats.aggregate_iqm, 100, random_state=seed)[1]["b"]

    np.testing.assert_array_equal(interval(0), interval(0))
    np.testing.assert_array_equal(interval(0), interval(0, which=("b",)))
    assert not np.array_equal(interval(0), interval(1))


@pytest.mark.parametrize("runs, low, high", [(5, 0.80, 0.92), (20, 0.90, 0.98)])
def test_coverage_on_a_gaussian(runs, low, high):
    """A nominal 95 % interval of the mean covers it about as often as theory says: less with few runs."""
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(300):
        scores = {"a": rng.normal(size=(runs, 1))}
        _, interval = stats.get_interval_estimates(scores, stats.aggregate_mean, reps=200, random_state=trial)
        hits += interval["a"][0] <= 0 <= interval["a"][1]
    assert low < hits / 300 < high


def test_the_interval_widens_with_its_size():
    scores = {"a": np.random.default_rng(5).normal(size=(5, 3))}
    half = stats.get_interval_estimates(scores, stats.aggregate_iqm, confidence_interval_size=0.5)[1]["a"]
    wide = stats.get_interval_estimates(scores, stats.aggregate_iqm, confidence_interval_size=0.95)[1]["a"]
    assert wide[0] < half[0] < half[1] < wide[1]


def test_pairs_are_resampled_each_by_itself():
    x, y = np.full((3, 2), 1.0), np.zeros((5, 2))
    point, interval = stats.get_interval_estimates({"x over y": (x, y)}, stats.probability_of_improvement, reps=20)
    assert point["x over y"] == 1.0
    np.testing.assert_array_equal(interval["x over y"], [1.0, 1.0])


def test_performance_profile():
    scores = {"a": np.array([[0.0, 1.0], [0.5, 0.2]])}
    profile, band = stats.create_performance_profile(scores, [-1.0, 0.0, 0.25, 1.0], reps=50)
    np.testing.assert_allclose(profile["a"], [1.0, 0.75, 0.5, 0.0])
    assert band["a"].shape == (2, 4) and (band["a"][0] <= band["a"][1]).all()
    profile, _ = stats.create_performance_profile(scores, [0.25, 0.5], use_score_distribution=False, reps=5)
    np.testing.assert_allclose(profile["a"], [0.5, 0.5])  # task means 0.25 (not above 0.25) and 0.6


def test_sample_efficiency_keeps_a_run_together():
    """Two points that are equal within each run stay equal in every resample, so their bands agree."""
    runs = np.random.default_rng(6).normal(size=(5, 2, 1))
    curve, band = stats.sample_efficiency_curve({"a": np.repeat(runs, 2, axis=2)}, reps=100)
    assert curve["a"].shape == (2,) and band["a"].shape == (2, 2)
    np.testing.assert_array_equal(band["a"][:, 0], band["a"][:, 1])


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: stats.aggregate_iqm(np.zeros(3)), r"shape \(3,\).*\[runs, tasks\]"),
        (lambda: stats.aggregate_iqm(np.zeros((0, 3))), r"shape \(0, 3\)"),
        (lambda: stats.probability_of_improvement(np.zeros((2, 3)), np.zeros((2, 2))), "3 tasks.*2"),
        (lambda: stats.get_interval_estimates({"a": np.zeros((2, 2))}, np.mean, reps=0), "reps is 0"),
        (
            lambda: stats.get_interval_estimates({"a": np.zeros((2, 2))}, np.mean, confidence_interval_size=95),
            "confidence_interval_size is 95",
        ),
        (lambda: stats.sample_efficiency_curve({"a": np.zeros((2, 2))}), r"\[runs, tasks, points\]"),
    ],
)
def test_bad_input_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()
