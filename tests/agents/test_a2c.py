"""A2C: stable-baselines3's A2C as oracle, and PPO without a clip as its equal."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.advantage import gae
from polopt.batch import Batch


def make(env="Pendulum-v1", cls=polopt.A2C, **kwargs):
    return cls("MlpPolicy", env, **(dict(num_envs=4, seed=0) | kwargs))


def test_arguments_and_defaults_are_stable_baselines3s():
    import inspect

    from stable_baselines3 import A2C

    ours, theirs = inspect.signature(polopt.A2C).parameters, inspect.signature(A2C).parameters
    for name, p in theirs.items():
        assert name in ours, name
        if p.default is not p.empty and name not in ("self", "policy", "env"):
            assert ours[name].default == p.default, name


def copy_into(policy, peer):
    """Our parameters into stable-baselines3's policy; returns its parameters in our order."""
    pairs = [(policy.trunk, peer.mlp_extractor.policy_net), (policy.head.linear, peer.action_net)]
    pairs += [(policy.critic_trunk, peer.mlp_extractor.value_net), (policy.critic_head, peer.value_net)]
    theirs = {id(x): y for a, b in pairs for x, y in zip(a.parameters(), b.parameters(), strict=True)}
    if hasattr(peer, "log_std"):
        theirs[id(policy.head.log_std)] = peer.log_std
    order = [theirs[id(p)] for p in policy.parameters()]
    with torch.no_grad():
        for x, y in zip(policy.parameters(), order, strict=True):
            y.copy_(x)
    return order


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
@pytest.mark.parametrize("optimizer", ["RMSprop", "RMSpropTFLike", "Adam"])
@pytest.mark.parametrize("normalize", [False, True])
def test_updates_equal_stable_baselines3(env, optimizer, normalize, prepared):
    """Same parameters and the same rollouts: the same parameters after each of three updates."""
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    kwargs = dict(
        n_steps=8, ent_coef=0.01, learning_rate=7e-3, normalize_advantage=normalize, use_rms_prop=optimizer != "Adam"
    )
    if optimizer == "RMSpropTFLike":
        kwargs["policy_kwargs"] = dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(alpha=0.99, eps=1e-5))
    model, peer = make(env, **kwargs), A2C("MlpPolicy", make_vec_env(env, 4), seed=0, **kwargs)
    assert type(peer.policy.optimizer).__name__ == optimizer
    order, buffer = copy_into(model.policy, peer.policy), peer.rollout_buffer
    peer._setup_learn(1)
    for seed in range(3):
        b = prepared(model, seed)
        buffer.reset()
        for name, x in dict(log_probs=b.log_prob, advantages=b.advantage, returns=b.returns, values=b.value).items():
            getattr(buffer, name)[:] = x.view(8, 4).numpy()
        buffer.observations[:] = b.obs.view(8, 4, -1).numpy()
        buffer.actions[:] = b.action.reshape(8, 4, -1).numpy()
        buffer.full = True
        peer.train()
        model.improve(b)
        for ours, theirs in zip(model.policy.parameters(), order, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("env", ["Pendulum-v1", "CartPole-v1"])
def test_it_is_ppo_of_one_pass_whatever_the_clip(env, prepared):
    """eps infinite, one epoch, one minibatch, the same optimizer."""
    common = dict(n_steps=16, learning_rate=1e-3, gae_lambda=0.9, ent_coef=0.02, normalize_advantage=True)
    a2c = make(env, **common)
    ppo = make(
        env,
        polopt.PPO,
        n_epochs=1,
        batch_size=64,
        clip_range=1e9,
        policy_kwargs=dict(optimizer_class=torch.optim.RMSprop, optimizer_kwargs=dict(alpha=0.99, eps=1e-5)),
        **common,
    )
    for model in (a2c, ppo):
        model.policy.double()
    assert torch.equal(a2c.parts["policy"].vector(), ppo.parts["policy"].vector())
    b = prepared(a2c)
    a2c.improve(b)
    ppo.improve(b)
    torch.testing.assert_close(a2c.parts["policy"].vector(), ppo.parts["policy"].vector(), rtol=1e-10, atol=1e-12)


def test_the_advantage_is_the_n_step_return_less_the_value(prepared):
    """λ = 1: G_t = Σ γ^i r + γ^k V at the rollout's end, by hand."""
    model = make(n_steps=3, num_envs=1, gamma=0.5)
    reward, value = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    next_value, no = torch.tensor([[20.0], [30.0], [8.0]]), torch.zeros(3, 1, dtype=torch.bool)
    b = model.estimate(Batch(reward=reward, value=value, next_value=next_value, terminated=no, truncated=no))
    assert b.returns.flatten().tolist() == [1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4]
    torch.testing.assert_close(b.advantage, gae(reward, value, next_value, no, no, 0.5, 1.0))


def test_the_log_has_stable_baselines3s_names(prepared):
    model = make()
    metrics = model.improve(b := prepared(model)) | model.diagnose(b)
    assert {"policy_loss", "value_loss", "entropy_loss", "explained_variance", "std"} <= set(metrics)


def test_whose_epsilon_the_optimizer_has():
    assert make(rms_prop_eps=1e-3).optimizer_kwargs["eps"] == 1e-3
    assert make(use_rms_prop=False).parts["policy"].eps == 1e-5
    assert make(policy_kwargs=dict(optimizer_class=torch.optim.Adam)).parts["policy"].eps == 1e-5


class Bandit(gym.Env):
    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action == 2), True, False, {}


def test_bandit_is_solved():
    model = polopt.A2C(env=Bandit(), n_steps=16, learning_rate=5e-3, seed=0).learn(4000)
    assert model.policy(torch.ones(1, 1)).softmax(-1)[0, 2] > 0.9
