"""PMOE: the mixture against torch's, the spec's exact checks, and two goals at once."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from polopt.agents.on_policy.pmoe import best_primitive, frequency_loss
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import polopt
from polopt.distributions import DiagGaussian, GaussianMixture


def make(cls=None, env="Pendulum-v1", **kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=2, num_envs=2, seed=0) | kwargs
    return (cls or polopt.PMOE)("MlpPolicy", env, **kwargs)


D = GaussianMixture(3, 4)


def random_params(n, scale=1.0):
    return torch.randn(n, D.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale


def test_log_prob_is_torchs():
    params = random_params(50)
    logits, means, log_stds = D.split(params)
    peer = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, log_stds.exp()), 1))
    a = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(D.log_prob(params, a), peer.log_prob(a))
    assert torch.isfinite(D.log_prob(params, a + 1e3)).all(), "no underflow far out"


def test_samples_have_the_mixtures_moments_on_the_host_as_in_torch():
    params = random_params(1).expand(200_000, D.size)
    noise = D.noise((200_000,), torch.Generator().manual_seed(1)).double()
    a = D.act(params, noise)
    np.testing.assert_allclose(D.act(params.numpy(), noise.numpy()), a.numpy(), atol=1e-12)
    logits, means, log_stds = D.split(params[:1])
    peer = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, log_stds.exp()), 1))
    error = peer.variance[0].sqrt() / 200_000**0.5
    assert ((a.mean(0) - peer.mean[0]).abs() < 5 * error).all()
    torch.testing.assert_close(a.var(0), peer.variance[0], rtol=0.05, atol=0)


def test_the_mode_is_the_likeliest_primitives_mean():
    params = random_params(50)
    logits, means, _ = D.split(params)
    expected = torch.stack([means[i, k] for i, k in enumerate(logits.argmax(-1))])
    assert torch.equal(D.mode(params), expected)
    np.testing.assert_array_equal(D.mode(params.numpy()), expected.numpy())


def test_tied_primitives_and_a_single_one_are_a_gaussian():
    single, a = DiagGaussian(3), torch.randn(20, 3, dtype=torch.float64)
    gaussian = torch.randn(20, 6, dtype=torch.float64)
    mean, log_std = gaussian.chunk(2, -1)
    logits = torch.randn(20, 4, dtype=torch.float64)
    tied = torch.cat([logits, mean.repeat(1, 4), log_std.repeat(1, 4)], -1)
    torch.testing.assert_close(D.log_prob(tied, a), single.log_prob(gaussian, a))
    one = GaussianMixture(3, 1)
    lone = torch.cat([logits[:, :1], gaussian], -1)
    torch.testing.assert_close(one.log_prob(lone, a), single.log_prob(gaussian, a))
    torch.testing.assert_close(one.entropy(lone), single.entropy(gaussian))


def test_the_entropy_is_an_upper_bound_tight_for_primitives_far_apart():
    params = random_params(1)
    for spread, tight in ((1.0, False), (1000.0, True)):
        logits, means, log_stds = D.split(params)
        p = torch.cat([logits, (means * spread).flatten(1), log_stds.flatten(1)], -1).expand(50_000, D.size)
        a = D.act(p, D.noise((50_000,), torch.Generator().manual_seed(2)).double())
        sampled, bound = -D.log_prob(p, a).mean().item(), D.entropy(p[:1]).item()
        assert bound > sampled - 0.03
        assert (abs(bound - sampled) < 0.03) == tight


def test_it_has_no_kl():
    assert not D.has_kl
    with pytest.raises(NotImplementedError, match="GaussianMixture has no closed-form KL"):
        D.kl(random_params(2), random_params(2))


def test_one_primitive_is_ppo(prepared):
    """Same weights, same rows: the same steps; Q is apart."""
    ppo, pmoe = make(polopt.PPO), make(primitives=1)
    with torch.no_grad():
        mine = pmoe.policy.state_dict()
        for name, x in ppo.policy.state_dict().items():
            mine[{"head.linear.bias": "head.offset"}.get(name, name)].copy_(x)
    b = prepared(ppo)
    params = pmoe.policy(b.obs).detach()
    torch.testing.assert_close(params[:, 1:], b.params)
    twin = b.plus(params=params, draws=torch.zeros(len(b), 1, 1))
    router = pmoe.policy.head.router.weight.clone()
    for _ in range(5):
        log = ppo.minibatch_step(b), pmoe.minibatch_step(twin)
    assert log[1]["frequency_loss"] == 0
    assert torch.equal(router, pmoe.policy.head.router.weight)
    for name, x in ppo.policy.named_parameters():
        name = {"head.linear.bias": "head.offset"}.get(name, name)
        torch.testing.assert_close(pmoe.policy.get_parameter(name), x, rtol=1e-4, atol=1e-6)


def test_the_frequency_loss_moves_the_router_alone(prepared):
    model = make()
    b = next(model.minibatches(prepared(model)))
    logits = model.policy.distribution.split(model.policy(b.obs))[0]
    loss = frequency_loss(logits, torch.nn.functional.one_hot(torch.zeros(len(b), dtype=torch.long), 4).float())
    gradients = torch.autograd.grad(loss, list(model.policy.parameters()), allow_unused=True, materialize_grads=True)
    moved = {n for (n, _), g in zip(model.policy.named_parameters(), gradients, strict=True) if g.abs().max() > 0}
    assert moved == {"head.router.weight", "head.router.bias"}


def test_the_frequency_loss_is_least_at_the_empirical_frequencies():
    """A tabular router, a fixed Q, noisy draws from each primitive."""
    g = torch.Generator().manual_seed(0)
    means = torch.tensor([[-1.0, 0.2, 0.9], [2.0, -0.5, 0.0]])
    states = torch.arange(2).repeat_interleave(20_000)
    q = -(means[states] + torch.randn(40_000, 3, generator=g) - 0.4).square()
    best = best_primitive(q)
    assert (best.sum(-1) == 1).all() and torch.equal(best.argmax(-1), q.argmax(-1))
    frequencies = torch.stack([best[states == s].mean(0) for s in range(2)])
    logits = torch.zeros(2, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        loss = frequency_loss(logits[states], best)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(logits.softmax(-1).detach(), frequencies, atol=1e-3, rtol=0)


class TwoGoals(gym.Env):
    """One step: reward bumps of height 1 at a = -1 and a = 1, a valley between."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-3, 3, (1,), np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        reward = np.exp(-(((action[0] - 1) / 0.4) ** 2)) + np.exp(-(((action[0] + 1) / 0.4) ** 2))
        return np.ones(1, np.float32), float(reward), True, False, {}


def test_two_primitives_keep_two_goals_where_one_gaussian_straddles_the_valley():
    how = dict(
        env=TwoGoals(), num_envs=1, n_steps=512, batch_size=128, n_epochs=10, learning_rate=1e-3, max_grad_norm=None
    )
    reward = {}
    for name, model in (("mixture", make(primitives=2, **how)), ("gaussian", make(polopt.PPO, **how))):
        model.learn(512 * 12, log_interval=None)
        actions = model.predict(np.ones((20_000, 1), np.float32))[0]
        reward[name] = np.mean([model.env.envs[0].unwrapped.step(a)[1] for a in actions])
        if name == "mixture":
            logits, means, _ = model.policy.distribution.split(model.policy(torch.ones(1, 1)).detach())
    assert means.flatten().sort().values.numpy() == pytest.approx([-1, 1], abs=0.3)
    assert logits.softmax(-1).min() > 0.2
    assert reward["mixture"] > 1.1 * reward["gaussian"]  # 1.28 to 1.33 over three seeds


def test_it_takes_boxes_only_and_methods_with_a_kl_refuse_it():
    with pytest.raises(ValueError, match="Discrete"):
        make(env="CartPole-v1")
    with pytest.raises(NotImplementedError, match="do not depend on the state"):
        make(policy_kwargs=dict(state_dependent_std=True))
