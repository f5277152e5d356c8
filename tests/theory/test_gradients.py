"""Exact gradients against central differences, autograd and linear algebra."""

import numpy as np
import pytest
from polopt.theory import (
    evaluate,
    fisher_matrix,
    natural_gradient,
    natural_policy_gradient_step,
    objective,
    occupancy,
    policy_gradient,
    softmax,
    trust_region_step,
)
from polopt.theory.generators import garnet

MDP_ = garnet(5, 3, 3)
THETA = np.random.default_rng(0).normal(size=(5, 3))


def test_policy_gradient_by_central_differences():
    step = 1e-5
    numeric = np.empty_like(THETA)
    for index in np.ndindex(*THETA.shape):
        bump = np.zeros_like(THETA)
        bump[index] = step
        numeric[index] = (objective(MDP_, THETA + bump) - objective(MDP_, THETA - bump)) / (2 * step)
    np.testing.assert_allclose(policy_gradient(MDP_, THETA), numeric, atol=1e-8)


def test_policy_gradient_by_autograd_through_the_linear_solve():
    torch = pytest.importorskip("torch")
    theta = torch.tensor(THETA, requires_grad=True)
    P, r, rho = (torch.tensor(np.array(x)) for x in (MDP_.P, MDP_.r, MDP_.rho))
    pi = torch.softmax(theta, -1)
    system = torch.eye(5, dtype=torch.float64) - MDP_.gamma * torch.einsum("sa,sat->st", pi, P)
    (gradient,) = torch.autograd.grad(rho @ torch.linalg.solve(system, (pi * r).sum(-1)), theta)
    np.testing.assert_allclose(policy_gradient(MDP_, THETA), gradient.numpy(), atol=1e-10)


def test_fisher_is_the_expected_outer_product_of_scores():
    pi, d = softmax(THETA), occupancy(MDP_, softmax(THETA))
    expected = np.zeros((15, 15))
    for s in range(5):
        for a in range(3):
            score = np.zeros((5, 3))
            score[s] = np.eye(3)[a] - pi[s]
            expected += d[s] * pi[s, a] * np.outer(score, score)
    np.testing.assert_allclose(fisher_matrix(MDP_, THETA), expected, atol=1e-14)


def test_natural_gradient_is_the_least_norm_solution():
    g = policy_gradient(MDP_, THETA).ravel()
    solution = np.linalg.pinv(fisher_matrix(MDP_, THETA), rcond=1e-12) @ g
    np.testing.assert_allclose(natural_gradient(MDP_, THETA).ravel(), solution, atol=1e-10)


def test_natural_step_is_multiplicative():
    pi, (V, Q) = softmax(THETA), evaluate(MDP_, softmax(THETA))
    expected = pi * np.exp(0.3 * (Q - V[:, None]) / (1 - MDP_.gamma))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax(natural_policy_gradient_step(MDP_, THETA, 0.3)), expected, atol=1e-13)


def test_trust_region_step_meets_its_quadratic_budget():
    delta = 1e-3
    x = (trust_region_step(MDP_, THETA, delta) - THETA).ravel()
    assert x @ fisher_matrix(MDP_, THETA) @ x / 2 == pytest.approx(delta, rel=1e-10)
    direction = np.linalg.pinv(fisher_matrix(MDP_, THETA), rcond=1e-12) @ policy_gradient(MDP_, THETA).ravel()
    assert x @ direction / np.linalg.norm(x) / np.linalg.norm(direction) == pytest.approx(1.0, abs=1e-12)
    at_optimum = np.where(softmax(1e3 * THETA) > 0.5, 800.0, 0.0)
    assert np.isfinite(trust_region_step(MDP_, at_optimum, delta)).all()


def test_batches_of_logits():
    theta = np.random.default_rng(1).normal(size=(4, 5, 3))
    batched = policy_gradient(MDP_, theta)
    for i in range(4):
        np.testing.assert_allclose(batched[i], policy_gradient(MDP_, theta[i]), atol=1e-13)
