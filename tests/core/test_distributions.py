import math

import numpy as np
import pytest
import torch

from polopt.distributions import Bernoulli, Categorical, DiagGaussian, MultiCategorical, SquashedGaussian

torch.manual_seed(0)
N = 7


def params(d, n=N):
    x = torch.randn(n, d.size, dtype=torch.float64)
    if isinstance(d, (DiagGaussian, SquashedGaussian)):
        x[:, d.dim :] *= 0.3
    return x


def torch_twin(d, p):
    D = torch.distributions
    if isinstance(d, DiagGaussian):
        return D.Independent(D.Normal(p[:, : d.dim], p[:, d.dim :].exp()), 1)
    if isinstance(d, SquashedGaussian):
        return D.TransformedDistribution(torch_twin(d.gaussian, p), [D.TanhTransform()])
    if isinstance(d, Categorical):
        return D.Categorical(logits=p)
    return D.Independent(D.Bernoulli(logits=p), 1)


SIMPLE = [DiagGaussian(3), Categorical(5), Bernoulli(4)]
ALL = [*SIMPLE, SquashedGaussian(3), MultiCategorical([2, 3, 4])]
ids = lambda d: type(d).__name__


@pytest.mark.parametrize("d", [*SIMPLE, SquashedGaussian(3)], ids=ids)
def test_log_prob_equals_torch(d):
    p = params(d)
    action = d.act(p, d.noise((N,), None).double())
    expected = torch_twin(d, p).log_prob(action.double() if isinstance(d, Bernoulli) else action)
    torch.testing.assert_close(d.log_prob(p, action), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", SIMPLE, ids=ids)
def test_entropy_and_kl_equal_torch(d):
    p, q = params(d), params(d)
    a, b = torch_twin(d, p), torch_twin(d, q)
    torch.testing.assert_close(d.entropy(p), a.entropy(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(d.kl(p, q), torch.distributions.kl_divergence(a, b), rtol=1e-9, atol=1e-9)


def test_multicategorical_is_the_sum_of_its_parts():
    d = MultiCategorical([2, 3, 4])
    p, q = params(d), params(d)
    action = d.act(p, d.noise((N,), None).double())
    cuts = [(0, 2), (2, 5), (5, 9)]
    parts = [Categorical(b - a) for a, b in cuts]
    for got, each in (
        (
            d.log_prob(p, action),
            [c.log_prob(p[:, a:b], action[:, i]) for i, (c, (a, b)) in enumerate(zip(parts, cuts, strict=True))],
        ),
        (d.entropy(p), [c.entropy(p[:, a:b]) for c, (a, b) in zip(parts, cuts, strict=False)]),
        (d.kl(p, q), [c.kl(p[:, a:b], q[:, a:b]) for c, (a, b) in zip(parts, cuts, strict=False)]),
    ):
        torch.testing.assert_close(got, sum(each))


@pytest.mark.parametrize("d", ALL, ids=ids)
def test_the_host_acts_as_torch_does(d):
    p = params(d).float()
    noise = d.noise((N,), torch.Generator().manual_seed(1))
    for ours, theirs in ((d.act(p, noise), d.act(p.numpy(), noise.numpy())), (d.mode(p), d.mode(p.numpy()))):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
        assert ours.numpy().shape == theirs.shape


@pytest.mark.parametrize("d", [Categorical(4), Bernoulli(3), MultiCategorical([2, 3])], ids=ids)
def test_samples_have_the_probabilities_that_log_prob_says(d):
    n = 200_000
    p = params(d, 1).expand(n, -1)
    actions = d.act(p, d.noise((n,), torch.Generator().manual_seed(2)).double())
    rows, counts = torch.unique(actions.reshape(n, -1), dim=0, return_counts=True)
    shaped = rows.squeeze(-1) if isinstance(d, Categorical) else rows
    expected = d.log_prob(p[: len(rows)], shaped).exp()
    error = (expected * (1 - expected) / n).sqrt()
    assert ((counts / n - expected).abs() < 5 * error).all()


def test_gaussian_samples():
    d = DiagGaussian(2)
    p = torch.tensor([[1.0, -2.0, math.log(0.5), math.log(2.0)]]).expand(100_000, -1)
    x = d.act(p, d.noise((100_000,), torch.Generator().manual_seed(3)))
    torch.testing.assert_close(x.mean(0), torch.tensor([1.0, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(x.std(0), torch.tensor([0.5, 2.0]), atol=0.03, rtol=0)


def test_squashed_density_integrates_to_one():
    d = SquashedGaussian(1)
    p = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    a = torch.linspace(-1, 1, 200_003, dtype=torch.float64)[1:-1]
    density = d.log_prob(p.expand(len(a), -1), a[:, None]).exp()
    assert torch.trapezoid(density, a).item() == pytest.approx(1, abs=1e-4)


def test_squashed_sample_and_log_prob_agree():
    d = SquashedGaussian(3)
    p = params(d)
    action, log_prob = d.sample(p, torch.randn(N, 3, dtype=torch.float64))
    torch.testing.assert_close(log_prob, d.log_prob(p, action), rtol=1e-6, atol=1e-6)


def test_gaussian_kl_parts_add_up_when_only_one_moves():
    d = DiagGaussian(3)
    old = params(d)
    mean_moved, std_moved = old.clone(), old.clone()
    mean_moved[:, :3] += 0.3
    std_moved[:, 3:] += 0.2
    for new in (mean_moved, std_moved):
        torch.testing.assert_close(sum(d.kl_parts(old, new)), d.kl(old, new))


@pytest.mark.parametrize("d", [d for d in ALL if d.has_kl], ids=ids)
def test_kl_is_zero_with_zero_gradient_at_home_and_positive_away(d):
    p = params(d)
    q = p.clone().requires_grad_()
    kl = d.kl(p, q)
    assert kl.abs().max() < 1e-12
    (g,) = torch.autograd.grad(kl.sum(), q)
    assert g.abs().max() < 1e-9
    assert (d.kl(p, p + 0.1 * torch.randn_like(p)) > 0).all()
