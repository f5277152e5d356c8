"""Natural gradients against explicit matrices."""

import gymnasium as gym
import pytest
import torch
from gymnasium import spaces

from polopt.distributions import Bernoulli, Categorical, DiagGaussian, MultiCategorical
from polopt.natural import backtrack, conjugate_gradient, fisher_vector_product, longest_step
from polopt.networks import flat
from polopt.part import Part
from polopt.policy import ActorCritic

FAMILIES = {
    "gaussian": (DiagGaussian(2), spaces.Box(-1, 1, (2,))),
    "categorical": (Categorical(3), spaces.Discrete(3)),
    "multi": (MultiCategorical([2, 3]), spaces.MultiDiscrete([2, 3])),
    "bernoulli": (Bernoulli(2), spaces.MultiBinary(2)),
}


def spd(n, seed=0):
    a = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return a @ a.T + 0.1 * torch.eye(n, dtype=torch.float64)


def fisher_of_parameters(d, params):
    """M of one state, written out: the Fisher matrix of the distribution's parameters."""
    if isinstance(d, DiagGaussian):
        return torch.diag(torch.cat([torch.exp(-2 * params[d.dim :]), torch.full((d.dim,), 2.0, dtype=params.dtype)]))
    if isinstance(d, Bernoulli):
        p = params.sigmoid()
        return torch.diag(p * (1 - p))
    if isinstance(d, Categorical):
        p = params.softmax(-1)
        return torch.diag(p) - torch.outer(p, p)
    return torch.block_diag(*[fisher_of_parameters(c, x) for c, x in zip(d.parts, d._each(params), strict=True)])


@pytest.fixture(params=FAMILIES)
def tiny(request):
    """A policy with fewer than 50 parameters and its distribution parameters on 7 states, float64."""
    d, space = FAMILIES[request.param]
    torch.manual_seed(0)
    policy = ActorCritic(spaces.Box(-1, 1, (2,)), space, d, net_arch=[3, 3], critic=False, log_std_init=-0.3).double()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.5)
    part = Part(policy.parameters())
    assert 10 < len(part.vector()) < 50
    return d, part, policy, torch.randn(7, 2, dtype=torch.float64)


def explicit_fisher(d, part, params):
    rows = [[flat(part.gradient(x, retain_graph=True)) for x in p] for p in params]
    J = torch.stack([torch.stack(r) for r in rows])
    M = torch.stack([fisher_of_parameters(d, p.detach()) for p in params])
    return torch.einsum("bpi,bpq,bqj->ij", J, M, J) / len(params)


def test_product_equals_the_explicit_matrix(tiny):
    d, part, policy, obs = tiny
    params = policy(obs)
    F = explicit_fisher(d, part, params)
    product = fisher_vector_product(d, params, part, damping=0.3)
    for _ in range(5):
        v = torch.randn(len(F), dtype=torch.float64)
        torch.testing.assert_close(product(v), F @ v + 0.3 * v, rtol=1e-9, atol=1e-12)


def test_product_is_the_second_derivative_of_the_kl(tiny):
    d, part, policy, obs = tiny
    params = policy(obs)
    v = torch.randn(len(part.vector()), dtype=torch.float64)
    slope = part.gradient(d.kl(params.detach(), params).mean(), create_graph=True)
    twice = flat(part.gradient(flat(slope) @ v))
    product = fisher_vector_product(d, policy(obs), part)
    torch.testing.assert_close(product(v), twice, rtol=1e-8, atol=1e-11)


def test_the_block_of_a_state_independent_log_std_is_twice_the_identity():
    d, space = FAMILIES["gaussian"]
    policy = ActorCritic(spaces.Box(-1, 1, (2,)), space, d, net_arch=[3], critic=False).double()
    part = Part(policy.parameters())
    where = torch.cat([torch.full((p.numel(),), p is policy.head.log_std) for p in part.params])
    product = fisher_vector_product(d, policy(torch.randn(5, 2, dtype=torch.float64)), part)
    for i in where.nonzero().flatten():
        unit = torch.zeros(len(where), dtype=torch.float64)
        unit[i] = 1.0
        torch.testing.assert_close(product(unit), 2 * unit)


@pytest.mark.parametrize("n", [1, 4, 12])
def test_conjugate_gradient_is_exact_after_n_iterations(n):
    A, b = spd(n), torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    x = conjugate_gradient(lambda v: A @ v, b, n, tolerance=1e-28)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-6, atol=1e-8)


def test_one_iteration_of_conjugate_gradient_goes_along_the_gradient():
    A, b = spd(6), torch.randn(6, dtype=torch.float64)
    x = conjugate_gradient(lambda v: A @ v, b, 1)
    torch.testing.assert_close(x, b * (b @ b) / (b @ A @ b))
    torch.testing.assert_close(torch.nn.functional.normalize(x, dim=0), torch.nn.functional.normalize(b, dim=0))


def test_conjugate_gradient_stops_at_its_tolerance_and_at_zero():
    A, b = spd(6), torch.randn(6, dtype=torch.float64)
    x = conjugate_gradient(lambda v: A @ v, b, 500, tolerance=1e-10)
    assert torch.isfinite(x).all() and (A @ x - b).norm() ** 2 < 1e-10
    zero = torch.zeros(6, dtype=torch.float64)
    assert torch.equal(conjugate_gradient(lambda v: A @ v, zero, 5), zero)
    assert torch.equal(longest_step(zero, zero, 0.01), zero)


def test_without_damping_the_step_reaches_delta(tiny):
    """xᵀFx/2 = δ to rounding, and the true KL tends to it."""
    d, part, policy, obs = tiny
    params = policy(obs)
    product = fisher_vector_product(d, params, part)
    direction = product(torch.randn(len(part.vector()), dtype=torch.float64))  # in the range of F
    deltas = (1e-2, 1e-4, 1e-6)
    steps = [longest_step(direction, product(direction), delta) for delta in deltas]
    for step, delta in zip(steps, deltas, strict=True):
        assert (0.5 * step @ product(step)).item() == pytest.approx(delta, rel=1e-10)
    old = part.vector()
    for step, delta, tolerance in zip(steps[1:], deltas[1:], (0.05, 0.005), strict=True):
        part.assign(old + step)
        assert d.kl(params.detach(), policy(obs).detach()).mean().item() == pytest.approx(delta, rel=tolerance)


class Parabola:
    """objective = x, kl = x²/2 of one parameter that starts at 0.1."""

    def __init__(self):
        self.x = torch.nn.Parameter(torch.tensor([0.1]))
        self.part, self.trials = Part([self.x]), 0

    def trial(self):
        self.trials += 1
        return self.x.sum(), (self.x - 0.1).square().sum() / 2


def test_backtracking_takes_the_first_acceptable_trial():
    p = Parabola()
    search = backtrack(p.part, torch.tensor([4.0]), p.trial, delta=0.5, shrink=0.5, trials=10)
    assert search.success == 1.0 and p.x.item() == pytest.approx(1.1) and p.trials == 1 + 3
    assert search.kl.item() == pytest.approx(0.5, rel=1e-5) and search.objective.item() == pytest.approx(1.1)


@pytest.mark.parametrize("step", [-1.0, 1e9, float("nan"), 0.0])
def test_backtracking_that_fails_leaves_every_bit(step):
    p = Parabola()
    before = p.x.detach().clone()
    search = backtrack(p.part, torch.tensor([step]), p.trial, delta=0.5, shrink=0.9, trials=5)
    assert search.success == 0.0 and torch.equal(p.x, before) and search.kl == 0.0 and p.trials == 6


def test_shared_extractors_are_refused():
    from stable_baselines3.common.torch_layers import FlattenExtractor

    import polopt

    for name in ("TRPO", "NPG", "VMPO"):
        with pytest.raises(ValueError, match="actor and critic apart"):
            getattr(polopt, name)(env="CartPole-v1", policy_kwargs=dict(features_extractor_class=FlattenExtractor))
        getattr(polopt, name)(
            env=gym.make("CartPole-v1"),
            policy_kwargs=dict(features_extractor_class=FlattenExtractor, share_features_extractor=False),
        )
