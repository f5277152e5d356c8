import copy

import pytest
import torch
from torch import nn

from polopt.graph import static
from polopt.part import Part, polyak_


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def losses(n=20):
    g = torch.Generator().manual_seed(1)
    data = [(torch.randn(16, 4, generator=g), torch.randn(16, 2, generator=g)) for _ in range(n)]
    return lambda m, i: (m(data[i][0]) - data[i][1]).square().mean() * (1 + 10 * (i % 3))


@pytest.mark.parametrize(
    ("optimizer", "kwargs"),
    [
        (torch.optim.Adam, dict(eps=1e-5)),
        (torch.optim.Adam, dict(betas=(0.8, 0.99))),
        (torch.optim.Adam, dict(weight_decay=0.1)),
        (torch.optim.AdamW, dict(weight_decay=0.1)),
        (torch.optim.RMSprop, dict(alpha=0.99, eps=1e-5)),
        (torch.optim.SGD, dict(momentum=0.9)),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_descend_equals_torch_optim(optimizer, kwargs, clip):
    ours, theirs, loss = net(), net(), losses()
    part = Part(ours.parameters(), optimizer, lr=1e-2, max_grad_norm=clip, **kwargs)
    reference = optimizer(theirs.parameters(), lr=1e-2, **kwargs)
    for i in range(20):
        norm = part.descend(loss(ours, i))
        reference.zero_grad()
        loss(theirs, i).backward()
        expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip or float("inf"))
        reference.step()
        torch.testing.assert_close(norm, expected)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


class Stepper:
    compiled = True

    def __init__(self, decay):
        self.net = net()
        self.part = Part(self.net.parameters(), torch.optim.AdamW, lr=1e-2, max_grad_norm=0.5, weight_decay=decay)

    @static
    def step(self, x, y):
        return self.part.descend((self.net(x) - y).square().mean())


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_compiled_equals_eager(decay):
    from polopt.graph import compiler_available

    if not compiler_available():
        pytest.skip("no C++ compiler")
    eager, compiled = Stepper(decay), Stepper(decay)
    eager.compiled = False
    g = torch.Generator().manual_seed(2)
    for i in range(10):
        x, y = torch.randn(16 if i < 9 else 5, 4, generator=g), torch.randn(16 if i < 9 else 5, 2, generator=g)
        torch.testing.assert_close(compiled.step(x, y), eager.step(x, y), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled.part.vector(), eager.part.vector(), rtol=1e-5, atol=1e-6)


def test_only_its_own_parameters_move():
    a, b = net(0), net(1)
    before = copy.deepcopy(b.state_dict())
    x = torch.randn(3, 4)
    Part(a.parameters(), lr=0.1).descend((a(x) + b(x)).square().mean())
    assert all(torch.equal(v, before[k]) for k, v in b.state_dict().items())
    assert not torch.equal(a[0].weight, net(0)[0].weight)
    assert all(p.grad is None for p in (*a.parameters(), *b.parameters()))


def test_a_loss_that_misses_a_parameter_is_refused():
    a = net()
    with pytest.raises(RuntimeError):
        Part(a.parameters()).descend(a[0](torch.randn(3, 4)).mean())


def test_nothing_to_step_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Part([])


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_state_round_trip_continues_exactly(optimizer):
    loss = losses()
    a = net()
    one = Part(a.parameters(), optimizer, lr=1e-2)
    for i in range(5):
        one.descend(loss(a, i))
    b = copy.deepcopy(a)
    two = Part(b.parameters(), optimizer, lr=1.0)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for i in range(5, 10):
        one.descend(loss(a, i))
        two.descend(loss(b, i))
    assert torch.equal(one.vector(), two.vector())


def test_vector_and_assign():
    part = Part(net().parameters())
    v = part.vector()
    part.assign(2 * v)
    assert torch.equal(part.vector(), 2 * v)
    with pytest.raises(ValueError, match="numbers for"):
        part.assign(v[:-1])


def test_polyak():
    target, source = [torch.zeros(3), torch.ones(2)], [torch.ones(3), torch.zeros(2)]
    polyak_(target, source, 0.25)
    assert torch.equal(target[0], torch.full((3,), 0.25)) and torch.equal(target[1], torch.full((2,), 0.75))
