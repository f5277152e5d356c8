import pytest
import torch

from polopt.dual import DualPart, Multipliers, dual_loss, penalty


def test_a_multiplier_rises_under_violation_falls_with_slack_and_never_leaves_its_bounds():
    m = Multipliers(floor=0.0, ceiling=1.5, beta=1.0)
    part = DualPart(m, torch.optim.SGD, lr=1.0)
    part.descend(dual_loss(m.beta, torch.tensor(0.3), 0.1))
    assert m.beta.item() == pytest.approx(1.2)
    part.descend(dual_loss(m.beta, torch.tensor(9.0), 0.1))
    assert m.beta.item() == 1.5
    for _ in range(20):
        part.descend(dual_loss(m.beta, torch.tensor(0.0), 0.1))
    assert m.beta.item() == 0.0


def test_the_lagrangian_keeps_the_two_players_apart():
    m, theta = Multipliers(alpha=2.0), torch.tensor(3.0, requires_grad=True)
    c = theta**2
    (g,) = torch.autograd.grad(penalty(m.alpha, c), theta)
    assert g == 12.0
    (h,) = torch.autograd.grad(dual_loss(m.alpha, c, 4.0), m.alpha)
    assert h == 4.0 - 9.0
    with pytest.raises(RuntimeError):
        torch.autograd.grad(penalty(m.alpha, c), m.alpha)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(dual_loss(m.alpha, theta**2, 4.0), theta)


def test_dual_ascent_finds_the_multiplier_of_a_known_problem():
    """min (x - 2)^2 s.t. x^2 <= 1: x = 1, λ = 1."""
    m, x = Multipliers(lam=0.1), torch.tensor(0.0, requires_grad=True)
    part = DualPart(m, torch.optim.Adam, lr=0.02)
    for _ in range(3000):
        (g,) = torch.autograd.grad((x - 2) ** 2 + penalty(m.lam, x**2), x)
        x = (x - 0.05 * g).detach().requires_grad_()
        part.descend(dual_loss(m.lam, x**2, 1.0))
    assert x.item() == pytest.approx(1.0, abs=1e-2) and m.lam.item() == pytest.approx(1.0, abs=2e-2)


@pytest.mark.parametrize(
    "bad", [{"floor": -1.0, "a": 1.0}, {"floor": 2.0, "ceiling": 1.0}, {"a": -1.0}, {"ceiling": 1.0, "a": 2.0}]
)
def test_bounds_are_checked(bad):
    with pytest.raises(ValueError, match=r"floor|start in"):
        Multipliers(**bad)
