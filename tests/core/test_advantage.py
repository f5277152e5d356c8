import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polopt.advantage import gae


def rollout(seed, T=12, N=3, dones=0.2, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    r, v, nv = (torch.randn(T, N, generator=g, dtype=dtype) for _ in range(3))
    terminated = torch.rand(T, N, generator=g) < dones / 2
    truncated = (torch.rand(T, N, generator=g) < dones / 2) & ~terminated
    # away from episode ends the successor is the next row
    nv[:-1] = torch.where((terminated | truncated)[:-1], nv[:-1], v[1:])
    return r, v, nv, terminated, truncated


def by_definition(r, v, nv, terminated, truncated, gamma, lam):
    """A_t as the sum over k of (γλ)^k δ_{t+k}, stopped at the episode's end: no recursion shared with the code."""
    T, N = r.shape
    out = torch.zeros_like(r)
    for n in range(N):
        for t in range(T):
            weight = 1.0
            for k in range(t, T):
                delta = r[k, n] + gamma * nv[k, n] * (not terminated[k, n]) - v[k, n]
                out[t, n] += weight * delta
                if terminated[k, n] or truncated[k, n]:
                    break
                weight *= gamma * lam
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_equals_its_definition(seed, gamma, lam):
    args = rollout(seed)
    torch.testing.assert_close(gae(*args, gamma, lam), by_definition(*args, gamma, lam), rtol=1e-10, atol=1e-10)


def test_lambda_zero_is_the_td_error():
    r, v, nv, terminated, truncated = rollout(0)
    torch.testing.assert_close(gae(r, v, nv, terminated, truncated, 0.9, 0.0), r + 0.9 * nv * ~terminated - v)


def test_lambda_one_is_the_discounted_return_less_the_value():
    r, v, nv, _, _ = rollout(1, dones=0.0)
    never = torch.zeros_like(r, dtype=torch.bool)
    out = gae(r, v, nv, never, never, 0.9, 1.0)
    returns = nv[-1].clone()
    for t in range(len(r) - 1, -1, -1):
        returns = r[t] + 0.9 * returns
        torch.testing.assert_close(out[t], returns - v[t])


def test_truncation_with_an_exact_value_equals_an_endless_episode():
    # reward 1 for ever, V = 1/(1-γ): every advantage is zero wherever the episode is cut; termination is another matter.
    T, gamma = 8, 0.9
    ones = torch.ones(T, 1, dtype=torch.float64)
    v = ones / (1 - gamma)
    never = torch.zeros(T, 1, dtype=torch.bool)
    cut = never.clone()
    cut[3] = True
    assert gae(ones, v, v, never, cut, gamma, 0.95).abs().max() < 1e-12
    assert gae(ones, v, v, cut, never, gamma, 0.95)[3].item() == pytest.approx(1 - 1 / (1 - gamma))


def test_a_fake_row_is_as_if_it_were_not_there():
    r, v, nv, terminated, truncated = rollout(2, T=6, N=1)
    terminated[:], truncated[:] = False, False
    truncated[2] = True
    nv[:-1] = torch.where(truncated[:-1], nv[:-1], v[1:])
    real = gae(r, v, nv, terminated, truncated, 0.9, 0.8)

    def insert(x, value):
        return torch.cat([x[:3], torch.full((1, 1), value, dtype=x.dtype), x[3:]])

    fake = [insert(x, 7.0) for x in (r, v, nv)] + [insert(x, False) for x in (terminated, truncated)]
    valid = torch.ones(7, 1, dtype=torch.bool)
    valid[3] = False
    out = gae(*fake, 0.9, 0.8, valid)
    assert out[3] == 0
    torch.testing.assert_close(out[valid], real.flatten())


def test_equals_stable_baselines3():
    from gymnasium import spaces
    from stable_baselines3.common.buffers import RolloutBuffer

    r, v, nv, terminated, _ = rollout(3, T=20, N=4, dtype=torch.float32)
    never = torch.zeros_like(terminated)
    nv[:-1] = v[1:]
    buffer = RolloutBuffer(20, spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,)), n_envs=4, gamma=0.97, gae_lambda=0.9)
    buffer.rewards, buffer.values = r.numpy(), v.numpy()
    buffer.episode_starts[1:] = terminated[:-1].numpy()
    buffer.compute_returns_and_advantage(nv[-1], terminated[-1].numpy())
    ours = gae(r, v, nv, terminated, never, 0.97, 0.9)
    np.testing.assert_allclose(ours.numpy(), buffer.advantages, rtol=1e-5, atol=1e-5)
