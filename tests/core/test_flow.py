"""Flows: the path's identities, the samplers against what is known exactly, and the host's form against torch's."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from polopt.flow import (
    FlowPolicy,
    VelocityField,
    action_end,
    between,
    euler,
    grid,
    noise_end,
    noise_error,
    stochastic_euler,
    time_embedding,
    velocity_error,
)  # fmt: skip
from polopt.part import Part


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(n=64, dim=3):
    a, eps, v = torch.randn(3, n, dim, generator=generator(), dtype=torch.float64)
    return a, eps, v, torch.rand(n, generator=generator(1), dtype=torch.float64)


def test_the_path_and_its_ends():
    a, eps, _, t = draws()
    x = between(a, eps, t)
    torch.testing.assert_close(between(a, eps, torch.ones_like(t)), eps)
    torch.testing.assert_close(between(a, eps, torch.zeros_like(t)), a)
    torch.testing.assert_close(action_end(x, eps - a, t), a)
    torch.testing.assert_close(noise_end(x, eps - a, t), eps)
    step = 1e-6
    torch.testing.assert_close((between(a, eps, t + step) - x) / step, eps - a, rtol=1e-6, atol=1e-6)


def test_the_error_of_the_noise_is_a_share_of_the_velocitys():
    a, eps, v, t = draws()
    share = (1 - t).square()
    torch.testing.assert_close(noise_error(v, a, eps, t), share * velocity_error(v, a, eps), rtol=1e-12, atol=0)
    assert (noise_error(v, a, eps, torch.ones_like(t)) == 0).all(), "nothing at t = 1"
    torch.testing.assert_close(velocity_error(v, a, eps), ((v - eps + a) ** 2).sum(-1) / 3)


@pytest.mark.parametrize("steps", [1, 2, 10, 64])
def test_one_data_point_is_reached_exactly(steps):
    """Under the exact velocity (x - a) / t towards a single a, in one step as in many."""
    a, eps, _, _ = draws()
    torch.testing.assert_close(euler(lambda x, t: (x - a) / t, eps, steps), a, rtol=0, atol=1e-12)
    assert grid(steps)[0] == 1 and grid(steps)[-1] == 0 and len(grid(steps)) == steps + 1


def gaussian_velocity(m, s):
    """E[ε - a | x_t] for a ~ N(m, s²)."""
    return lambda x, t: -m + (t - (1 - t) * s**2) / (t**2 + (1 - t) ** 2 * s**2) * (x - (1 - t) * m)


def test_without_noise_the_stochastic_sampler_is_eulers():
    x, z = torch.randn(50, 2, generator=generator()), torch.randn(10, 50, 2, generator=generator(1))
    v = gaussian_velocity(0.3, 0.2)
    torch.testing.assert_close(stochastic_euler(v, x, z, 0.0), euler(v, x, 10), rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.7])
def test_both_samplers_have_the_datas_moments(level):
    n, steps = 20_000, 400
    x = torch.randn(n, generator=generator(), dtype=torch.float64)
    z = torch.randn(steps, n, generator=generator(1), dtype=torch.float64)
    a = stochastic_euler(gaussian_velocity(0.3, 0.5), x, z, level)
    assert a.mean().item() == pytest.approx(0.3, abs=5 * 0.5 / n**0.5)
    assert a.std().item() == pytest.approx(0.5, rel=0.03)


def test_four_modes_are_learned_with_their_weights():
    """Flow matching on four points with unequal weights: each found, within five points."""
    weights, corners = torch.tensor([0.4, 0.3, 0.2, 0.1]), torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    torch.manual_seed(0)
    field = VelocityField(1, 2, [64, 64, 64])
    part, g, n = Part(field.parameters(), lr=3e-3), generator(), 512
    ones = torch.ones(n, 1)
    for k in range(1000):
        part.lr.fill_(3e-3 * (1 - k / 1000))
        a = corners[torch.multinomial(weights, n, replacement=True, generator=g)]
        a = a + 0.1 * torch.randn(n, 2, generator=g)
        eps, t = torch.randn(n, 2, generator=g), torch.rand(n, generator=g)
        v = field(field.condition(ones), between(a, eps, t), t)
        part.descend(velocity_error(v, a, eps).mean())
    with torch.no_grad():
        h = field.condition(torch.ones(4000, 1))
        a = euler(lambda x, t: field(h, x, x.new_full(x.shape[:-1], t)), torch.randn(4000, 2, generator=g), 20)
    distance, mode = torch.cdist(a, corners).min(-1)
    assert (distance < 0.5).float().mean() > 0.95
    found = torch.bincount(mode, minlength=4) / len(a)
    torch.testing.assert_close(found, weights, rtol=0, atol=0.05)


def test_time_embedding():
    e = time_embedding(torch.tensor([0.0, 0.5]))
    assert e[0].tolist() == [1] * 4 + [0] * 4
    expected = [np.cos(0.5 * 2**k) for k in range(4)] + [np.sin(0.5 * 2**k) for k in range(4)]
    np.testing.assert_allclose(e[1], expected, rtol=1e-6)
    np.testing.assert_allclose(time_embedding(np.array([0.0, 0.5])), e, atol=1e-7)


def test_the_field_is_a_perceptron_of_all_side_by_side():
    torch.manual_seed(0)
    field = VelocityField(5, 2, [16, 8], scale=0.25)
    s, x, t = torch.randn(7, 5), torch.randn(7, 2), torch.rand(7)
    joint = nn.Linear(5 + 2 + 8, 16)
    with torch.no_grad():
        joint.weight.copy_(torch.cat([field.condition.weight, field.point.weight], -1))
        joint.bias.copy_(field.condition.bias)
        expected = 0.25 * field.net(joint(torch.cat([s, x, time_embedding(t)], -1)))
    torch.testing.assert_close(field(field.condition(s), x, t), expected, rtol=1e-5, atol=1e-6)
    bound = (3 / 15) ** 0.5
    assert joint.weight.abs().max() <= bound and joint.weight.std().item() == pytest.approx(15**-0.5, rel=0.15)
    assert not field.condition.bias.any() and not field.net[1].bias.any()


BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


def policy(**kwargs):
    torch.manual_seed(0)
    return FlowPolicy(spaces.Box(-1, 1, (3,)), BOX, **({"net_arch": [16, 16]} | kwargs))


@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU, nn.Tanh, nn.ELU])
def test_the_host_acts_as_torch_does(activation):
    p = policy(activation_fn=activation, steps=7, scale=0.5)
    obs, noise = torch.randn(50, 3), p.noise((50,), generator(), "cpu")
    with torch.no_grad():
        expected = p.act(obs, noise)
    np.testing.assert_allclose(p.host_act()(obs.numpy(), noise.numpy()), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(p.in_space(expected.numpy()), p.in_space(expected), rtol=1e-5, atol=1e-6)


def test_where_there_is_no_host_form():
    assert policy(activation_fn=nn.Softplus).host_act() is None


def test_actions_lie_in_the_box_and_without_chance_are_one():
    p = policy()
    obs = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    sampled, again = p.predict(obs)[0], p.predict(obs)[0]
    assert all(BOX.contains(a) for a in sampled) and not np.array_equal(sampled, again)
    np.testing.assert_array_equal(p.predict(obs, deterministic=True)[0], p.predict(obs, deterministic=True)[0])
    assert p.predict(obs[0])[0].shape == (2,)
    assert p.in_space(torch.tensor([[0.0, 0.0], [50.0, -50.0]])).tolist() == [[0.0, 0.5], [2.0, 0.0]]


def test_actor_and_critic_part_the_parameters():
    p = policy()
    actor, critic = ({id(q) for q in ps} for ps in (p.actor_parameters(), p.critic_parameters()))
    assert not actor & critic and actor | critic == {id(q) for q in p.parameters()} and p.disjoint


def test_no_hidden_layer_is_refused():
    with pytest.raises(ValueError, match="net_arch of the policy is empty"):
        policy(net_arch=[])
