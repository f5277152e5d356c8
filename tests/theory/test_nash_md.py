"""Rates to the regularised Nash policy, and what each recursion minimises."""

import numpy as np
import pytest
from polopt.theory.measure import bound_ratio
from polopt.theory.methods.nash_md import (
    bradley_terry,
    equilibrium,
    exploitability,
    inpo_loss,
    inpo_step,
    iterate,
    nash_md_step,
    nash_mp_step,
    random_preferences,
    residual,
    self_play_step,
)
from polopt.theory.simplex import kl, log_normalise

TAU = 0.1
P, LOG_MU = random_preferences()
STAR = np.exp(equilibrium(P, LOG_MU, TAU))
KL0 = float(kl(STAR, np.exp(LOG_MU)))


def distances(step, steps=3000):
    return kl(STAR, np.exp(iterate(step, LOG_MU, steps)))


def test_preferences_and_equilibrium():
    np.testing.assert_allclose(P + P.T, 1.0, atol=1e-15)
    assert residual(P, np.log(STAR), LOG_MU, TAU) < 1e-12


def test_nash_md_with_decaying_steps():
    d, T = distances(lambda x, t: nash_md_step(P, x, LOG_MU, 2 / (TAU * (t + 2)), TAU)), np.arange(3001)
    assert bound_ratio(d[1:], (8 / (TAU**2 * (T + 1)))[1:]) == pytest.approx(0.00084, rel=0.02)
    assert np.polyfit(np.log(T[2000:]), np.log(d[2000:]), 1)[0] == pytest.approx(-1.97, abs=0.02)


@pytest.mark.parametrize(("eta", "ratio", "final"), [(0.02, 0.52, 3.2e-7), (0.1, 0.18, 8.8e-6), (0.5, 0.037, 2.4e-4)])
def test_nash_md_with_constant_steps(eta, ratio, final):
    d, T = distances(lambda x, t: nash_md_step(P, x, LOG_MU, eta, TAU), 5000), np.arange(5001)
    ratios = d / ((1 - eta * TAU) ** T * KL0 + 2 * eta / TAU)
    assert ratios.max() <= 1 + 1e-9
    assert ratios[1:].max() == pytest.approx(ratio, rel=0.03)
    assert d[-1] == pytest.approx(final, rel=0.03)


def test_nash_mirror_prox():
    d = distances(lambda x, t: nash_mp_step(P, x, LOG_MU, 2 * TAU, TAU), 300)
    bound = (1 + 2 * TAU) ** -np.arange(301.0) * KL0
    precise = d > 1e-13
    precise[0] = False
    assert bound_ratio(d[precise], bound[precise]) == pytest.approx(0.758, abs=5e-3)


def test_mirror_prox_step_minimises_its_objective():
    pi = np.log(np.random.default_rng(0).dirichlet(np.ones(10)))
    half = np.exp(log_normalise((TAU * LOG_MU + TAU / 0.2 * pi + P @ np.exp(pi)) / (TAU * (1 + 1 / 0.2))))
    objective = lambda p, q: q @ P @ p + TAU * kl(p, np.exp(LOG_MU)) + TAU / 0.2 * kl(p, np.exp(pi))
    best = np.exp(nash_mp_step(P, pi, LOG_MU, 0.2, TAU))
    others = np.random.default_rng(1).dirichlet(np.ones(10), 200)
    assert all(objective(best, half) <= objective(p, half) for p in others)


@pytest.mark.parametrize("eta", [1.0, 5.0])
def test_inpo_converges_for_large_eta(eta):
    assert distances(lambda x, t: inpo_step(P, x, LOG_MU, eta, TAU))[-1] < 1e-14


def test_inpo_does_not_converge_for_small_eta():
    assert distances(lambda x, t: inpo_step(P, x, LOG_MU, 0.2, TAU))[-1] == pytest.approx(0.143, abs=0.01)
    with pytest.raises(ValueError, match=r"eta=0.05 must be >= tau=0.1"):
        inpo_step(P, LOG_MU, LOG_MU, 0.05, TAU)


def test_inpo_loss_is_minimal_at_the_next_iterate():
    rng = np.random.default_rng(3)
    pi_t = np.log(rng.dirichlet(np.ones(10)))
    following = inpo_step(P, pi_t, LOG_MU, 0.7, TAU)
    best = inpo_loss(P, following, pi_t, LOG_MU, 0.7, TAU)
    for direction in rng.normal(size=(10, 10)):
        gradient = (
            inpo_loss(P, following + 1e-4 * direction, pi_t, LOG_MU, 0.7, TAU)
            - inpo_loss(P, following - 1e-4 * direction, pi_t, LOG_MU, 0.7, TAU)
        ) / 2e-4
        assert abs(gradient) <= 1e-12
        assert inpo_loss(P, following + 0.1 * direction, pi_t, LOG_MU, 0.7, TAU) > best


def test_self_play_cycles_on_rock_paper_scissors():
    game = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    pi = np.exp(iterate(lambda x, t: self_play_step(game, x, 0.05), np.log([0.5, 0.3, 0.2]), 20_000))
    assert exploitability(game, pi[-1]) == pytest.approx(0.398, abs=2e-3)
    assert exploitability(game, pi.mean(0)) == pytest.approx(0.0012, abs=3e-4)


def test_nash_md_without_temperature_is_self_play():
    pi = np.log(np.random.default_rng(0).dirichlet(np.ones(10)))
    np.testing.assert_allclose(
        np.exp(nash_md_step(P, pi, LOG_MU, 0.3, 1e-13)), np.exp(self_play_step(P, pi, 0.3)), atol=1e-11
    )


def test_bradley_terry_tends_to_the_best_reward():
    r = np.array([0.0, 1.0, 0.4, -1.0])
    game, mu = bradley_terry(r), np.full(4, -np.log(4))
    cold, warm = np.exp(equilibrium(game, mu, 0.01)), np.exp(equilibrium(game, mu, 1.0))
    assert cold[1] > 0.999
    assert 0.25 < warm[1] < 0.5


def test_contexts_are_a_batch_axis():
    games = np.stack([random_preferences(6, k)[0] for k in range(3)])
    mus = np.stack([random_preferences(6, k)[1] for k in range(3)])
    batched = nash_mp_step(games, mus, mus, 0.2, TAU)
    for k in range(3):
        np.testing.assert_allclose(batched[k], nash_mp_step(games[k], mus[k], mus[k], 0.2, TAU), atol=1e-14)
