"""KL control is inference: identities to 1e-12, gradients against autograd."""

import numpy as np
import pytest
from polopt.theory import soft_value_iteration, softmax
from polopt.theory.generators import garnet, lock, random_finite
from polopt.theory.methods.exact_pg import soft_q
from polopt.theory.methods.kl_control import (
    _product,
    effective_sample_size,
    entropy,
    forward_kl_gradient,
    importance_weights,
    kl_objective,
    kl_posterior,
    posterior_plan,
    random_sequences,
    regression_gradient,
    reverse_kl_gradient,
    soft_plan,
    soft_sequence_policy,
)
from polopt.theory.simplex import kl, log_normalise

MODEL = random_sequences()
LOG_P0 = MODEL.sequence_log_prior()
BETA = 0.5
TARGET = kl_posterior(LOG_P0, MODEL.r, BETA)
LOG_PI = log_normalise(np.random.default_rng(5).normal(size=81))


def test_the_testbed_is_the_specs():
    assert entropy(LOG_P0) == pytest.approx(3.853, abs=5e-4)
    assert entropy(TARGET.log_pi) == pytest.approx(3.151, abs=5e-4)


def test_elbo_identity():
    left = kl_objective(np.exp(LOG_PI), np.exp(LOG_P0), MODEL.r, BETA)
    right = BETA * TARGET.log_Z - BETA * kl(np.exp(LOG_PI), np.exp(TARGET.log_pi))
    assert left == pytest.approx(right, abs=1e-12)


def test_soft_policy_is_the_posterior():
    policies, root = soft_sequence_policy(MODEL, BETA)
    np.testing.assert_allclose(np.exp(_product(policies)), np.exp(TARGET.log_pi), atol=1e-12)
    assert root == pytest.approx(BETA * float(TARGET.log_Z), abs=1e-12)


def test_reverse_kl_gradient_is_autograds():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOG_PI, requires_grad=True)
    log_pi = torch.log_softmax(logits, -1)
    J = (log_pi.exp() * (torch.tensor(MODEL.r) - BETA * (log_pi - torch.tensor(LOG_P0)))).sum()
    (gradient,) = torch.autograd.grad(J, logits)
    np.testing.assert_allclose(reverse_kl_gradient(LOG_PI, LOG_P0, MODEL.r, BETA), gradient.numpy(), atol=1e-12)


def test_forward_kl_gradient_is_the_weighted_score():
    weights = importance_weights(LOG_PI, LOG_P0, MODEL.r, BETA)
    pi = np.exp(LOG_PI)
    assert pi @ weights == pytest.approx(1.0, abs=1e-12)
    scores = np.eye(81) - pi
    np.testing.assert_allclose((pi * weights) @ scores, forward_kl_gradient(LOG_PI, TARGET), atol=1e-12)
    assert effective_sample_size(np.ones(64)) == 64
    assert effective_sample_size(np.eye(64)[0]) == 1


def test_regression_gradient_is_autograds_and_vanishes_at_the_posterior():
    torch = pytest.importorskip("torch")
    q = np.random.default_rng(2).dirichlet(np.ones(81))
    logits = torch.tensor(LOG_PI, requires_grad=True)
    residual = torch.log_softmax(logits, -1) - torch.tensor(LOG_P0 + MODEL.r / BETA)
    weights = torch.tensor(q)
    variance = (weights * (residual - (weights * residual).sum()) ** 2).sum()
    (gradient,) = torch.autograd.grad(-variance / 2, logits)
    np.testing.assert_allclose(regression_gradient(LOG_PI, LOG_P0, MODEL.r, BETA, q), gradient.numpy(), atol=1e-12)
    np.testing.assert_allclose(regression_gradient(TARGET.log_pi, LOG_P0, MODEL.r, BETA, q), 0.0, atol=1e-13)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_inferring_the_dynamics_is_optimistic(beta):
    mdp = random_finite(4, 5, 3)
    log_prior = np.full(mdp.r.shape, -np.log(3))
    posterior, control = (plan(mdp.P, mdp.r, log_prior, beta)[0] for plan in (posterior_plan, soft_plan))
    assert (posterior >= control - 1e-13).all()
    assert (posterior - control)[:-2].min() > 1e-4
    sure = lock(5, 3)
    log_prior = np.full(sure.r.shape, -np.log(3))
    posterior, control = (plan(sure.P, sure.r, log_prior, beta)[0] for plan in (posterior_plan, soft_plan))
    np.testing.assert_allclose(posterior, control, atol=1e-13)


def test_the_prior_returns_as_beta_grows():
    mdp = random_finite(3, 4, 3)
    log_prior = log_normalise(np.random.default_rng(0).normal(size=mdp.r.shape))
    np.testing.assert_allclose(soft_plan(mdp.P, mdp.r, log_prior, 1e8)[1], log_prior, atol=1e-7)
    np.testing.assert_allclose(kl_posterior(LOG_P0, MODEL.r, 1e9).log_pi, LOG_P0, atol=1e-8)
    with pytest.raises(ValueError, match="beta=0 must be > 0"):
        kl_posterior(LOG_P0, MODEL.r, 0)


def test_exact_soft_actor_critic_is_soft_value_iteration():
    mdp, beta = garnet(6, 3, 3), 0.3
    log_pi = np.full((6, 3), -np.log(3))
    for _ in range(200):
        log_pi = np.log(softmax(soft_q(mdp, log_pi, beta) / beta))
    uniform = soft_value_iteration(mdp, beta, np.full((6, 3), -np.log(3)), tol=1e-12)
    np.testing.assert_allclose(np.exp(log_pi), uniform.pi, atol=1e-10)
