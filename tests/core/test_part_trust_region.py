"""What the trust-region methods ask of a part."""

import pytest
import torch

from polopt.part import Part, retreat_


@pytest.fixture
def part():
    return Part([torch.nn.Parameter(torch.tensor([3.0, 4.0]))], lr=0.1)


def test_retreat_stays_where_the_condition_holds(part):
    before = part.vector()
    assert retreat_(part, torch.zeros(2), lambda: True) == 1.0
    assert torch.equal(part.vector(), before)


def test_retreat_ends_on_the_line_as_far_out_as_holds(part):
    t = retreat_(part, torch.zeros(2), lambda: bool(part.vector().norm() <= 2.0), halvings=20)
    assert t == pytest.approx(0.4, abs=2e-6)
    assert part.vector().norm() <= 2.0
    torch.testing.assert_close(part.vector(), torch.tensor([1.2, 1.6]), atol=1e-5, rtol=0)


def test_retreat_to_the_start_is_exact(part):
    start = torch.tensor([0.1, 0.7])
    part.assign(torch.tensor([torch.nan, 1.0]))
    assert retreat_(part, start, lambda: bool(torch.equal(part.vector(), start))) == 0.0
    assert torch.equal(part.vector(), start)


def test_a_fresh_optimizer_is_the_first_step_and_the_old_one_comes_back(part):
    part.step((torch.tensor([1.0, -2.0]),))
    state = {k: v.clone() for k, v in (("first", part.first[0]), ("second", part.second[0]), ("count", part.count))}
    with part.fresh():
        assert part.count == 0
        before = part.vector()
        part.step((torch.tensor([1e-3, 5.0]),))
        torch.testing.assert_close(part.vector() - before, torch.tensor([-0.1, -0.1]), rtol=1e-4, atol=0)
    assert torch.equal(part.first[0], state["first"]) and torch.equal(part.second[0], state["second"])
    assert part.count == state["count"]


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_plain_sgd_is_torchs(max_grad_norm):
    p, q = (torch.nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    part, peer = Part([p], torch.optim.SGD, lr=0.3, max_grad_norm=max_grad_norm), torch.optim.SGD([q], lr=0.3)
    for _ in range(3):
        part.descend((p**3).sum())
        peer.zero_grad()
        (q**3).sum().backward()
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_([q], max_grad_norm)
        peer.step()
        torch.testing.assert_close(p, q)
