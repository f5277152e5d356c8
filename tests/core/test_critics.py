"""Ensembles of critics: each member is the plain network of its own weights."""

import pytest
import torch
from torch import nn

from polopt.critics import QEnsemble


def plain(q, e, x):
    """Member e by torch's own layers."""
    for i in range(len(q.weights)):
        x = nn.functional.linear(x, q.weights[i][e].T, q.biases[i][e, 0])
        if i < len(q.weights) - 1:
            if q.layer_norm:
                x = nn.functional.layer_norm(x, x.shape[-1:], q.gains[i][e, 0], q.shifts[i][e, 0])
            x = q.activation(x)
    return x.squeeze(-1) if q.out == 1 else x


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("out", [1, 3])
def test_members_are_plain_networks(activation, layer_norm, out):
    q = QEnsemble(5, [8, 7], 4, out=out, activation_fn=activation, layer_norm=layer_norm).double()
    with torch.no_grad():
        for p in (*q.gains, *q.shifts):
            p.add_(torch.randn_like(p))
    obs, action = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    x = torch.cat([obs, action], -1)
    values = q(obs, action)
    assert values.shape == ((4, 6) if out == 1 else (4, 6, 3))
    for e in range(4):
        torch.testing.assert_close(values[e], plain(q, e, x))
    torch.testing.assert_close(q(x, members=torch.tensor([3, 1])), values[[3, 1]])
    own = torch.randn(4, 6, 5, dtype=torch.float64)  # each member's own rows
    torch.testing.assert_close(q(own), torch.stack([plain(q, e, own[e]) for e in range(4)]))


def test_members_are_initialised_apart_and_as_torch_linear_is():
    torch.manual_seed(0)
    q = QEnsemble(16, [64], 6)
    for weight, fan_in in zip(q.weights, (16, 64), strict=True):
        assert weight.std(0).min() > 0
        for member in weight:
            assert member.abs().max() <= fan_in**-0.5
            assert member.detach().std().item() * (3 * fan_in) ** 0.5 == pytest.approx(1, abs=0.15)
    assert q(torch.randn(9, 16)).std(0).min() > 0


def test_a_members_gradient_is_its_own():
    q = QEnsemble(3, [4], 3, layer_norm=True)
    q(torch.randn(5, 3))[1].sum().backward()
    for p in q.parameters():
        assert p.grad[0].abs().max() == 0 and p.grad[2].abs().max() == 0
    assert all(w.grad[1].abs().max() > 0 for w in q.weights)
