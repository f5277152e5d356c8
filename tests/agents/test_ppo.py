"""PPO: the spec's exact checks, and stable-baselines3's PPO as oracle."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.agents.on_policy.ppo import surrogate

import polopt
from polopt.on_policy import clipped_value_error
from polopt.rollout import rollout


def prepared(model):
    """The rows of one fresh rollout, as ``improve`` sees them."""
    model._last_obs = model.env.reset_host(0)
    batch, _ = rollout(model.env, model, model._last_obs, model.horizon)
    return model.prepare(batch)


def make(env="Pendulum-v1", **kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=2, num_envs=2, seed=0) | kwargs
    return polopt.PPO("MlpPolicy", env, **kwargs)


def test_the_first_ratio_is_one():
    model = make()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model.policy.to(dtype)
        b = prepared(model)
        with torch.no_grad():
            assert (model.evaluate(b).ratio - 1).abs().max() < tolerance


def test_the_first_gradient_is_a2cs_with_the_normalised_advantage():
    model = make()
    model.policy.double()
    b = model.evaluate(prepared(model))
    g = torch.autograd.grad(model.policy_loss(b), model.policy.actor_parameters(), retain_graph=True)
    a2c = torch.autograd.grad(-(b.new_log_prob * b.advantage).mean(), model.policy.actor_parameters())
    for x, y in zip(g, a2c, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("advantage", "ratio", "share"),
    [(1.0, 1.3, 0.0), (-1.0, 0.7, 0.0), (1.0, 0.7, 1.0), (-1.0, 1.3, 1.0), (1.0, 1.1, 1.0), (-2.0, 0.9, 1.0)],
)
def test_which_samples_push(advantage, ratio, share):
    r = torch.tensor([ratio], requires_grad=True)
    surrogate(r, torch.tensor([advantage]), 0.2).sum().backward()
    assert r.grad.item() == share * advantage


def test_infinite_clip_one_epoch_one_minibatch_is_a2c():
    ppo = make(clip_range=1e9, n_epochs=1, batch_size=128, normalize_advantage=False)
    model = make(clip_range=1e9, n_epochs=1, batch_size=128, normalize_advantage=False)
    b = prepared(ppo)
    ppo.improve(b)
    part = model.parts["policy"]
    b = model.evaluate(b)
    part.descend(-(b.new_log_prob * b.advantage).mean() + 0.5 * (b.new_value - b.returns).square().mean())
    torch.testing.assert_close(part.vector(), ppo.parts["policy"].vector(), rtol=1e-5, atol=1e-6)


def test_value_clipping():
    old, returns = torch.zeros(4), torch.ones(4)
    value = torch.tensor([-1.0, 0.1, 0.3, 2.0])
    expected = (torch.tensor([-0.2, 0.1, 0.2, 0.2]) - 1) ** 2
    torch.testing.assert_close(clipped_value_error(value, old, returns, 0.2), expected)


SPACES = {
    "box": ("Pendulum-v1", spaces.Box),
    "discrete": ("CartPole-v1", spaces.Discrete),
}


def twin(ours, sb3):
    """Copy our float64 parameters into stable-baselines3's policy."""
    p = ours.policy
    pairs = [(p.trunk, sb3.mlp_extractor.policy_net), (p.critic_trunk, sb3.mlp_extractor.value_net)]
    pairs += [(p.head.linear, sb3.action_net), (p.critic_head, sb3.value_net)]
    with torch.no_grad():
        for a, b in pairs:
            for x, y in zip(a.parameters(), b.parameters(), strict=True):
                y.copy_(x)
        if hasattr(sb3, "log_std"):
            sb3.log_std.copy_(p.head.log_std)


@pytest.mark.parametrize("which", SPACES)
@pytest.mark.parametrize("clip_range_vf", [None, 0.1])
def test_one_update_equals_stable_baselines3(which, clip_range_vf):
    """Same parameters, same rollout, one epoch of one minibatch: the same parameters after."""
    from stable_baselines3 import PPO

    kwargs = dict(
        n_steps=64, batch_size=128, n_epochs=1, ent_coef=0.01, clip_range_vf=clip_range_vf, learning_rate=1e-2
    )
    env = SPACES[which][0]
    model = make(env, **kwargs)
    model.policy.double()
    from stable_baselines3.common.env_util import make_vec_env

    peer = PPO("MlpPolicy", make_vec_env(env, 2), **kwargs, seed=0)
    peer.policy.double()
    peer.policy.optimizer = torch.optim.Adam(peer.policy.parameters(), lr=1e-2, eps=1e-5)
    twin(model, peer.policy)
    # moved away from the behaviour policy, so that ratios and clips are not all trivial
    b = prepared(model)
    b = b.plus(
        log_prob=b.log_prob + 0.3 * torch.randn(len(b), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    )
    buffer = peer.rollout_buffer
    shape = (64, 2)
    for name, x in dict(log_probs=b.log_prob, advantages=b.advantage, returns=b.returns, values=b.value).items():
        getattr(buffer, name)[:] = x.view(shape).numpy()
    buffer.observations[:] = b.obs.view(*shape, -1).numpy()
    buffer.actions[:] = b.action.reshape(*shape, -1).numpy()
    buffer.full = True
    for name in ("log_prob", "advantage", "returns", "value", "obs"):  # the peer's buffer is float32
        b = b.plus(**{name: b[name].float().double()})
    peer.policy.extract_features = lambda obs, extractor=None: obs.double()  # its own casts to float32
    peer._setup_learn(1)
    peer._current_progress_remaining = 1.0
    buffer.to_torch = lambda x, copy=True: torch.as_tensor(
        np.array(x), dtype=torch.int64 if x.dtype.kind == "i" else torch.float64
    )
    peer.train()
    model.improve(b)
    theirs = torch.cat(
        [x.reshape(-1) for x in parameters_in_our_order(peer.policy, hasattr(model.policy.head, "log_std"))]
    )
    torch.testing.assert_close(model.parts["policy"].vector(), theirs, rtol=1e-5, atol=1e-7)


def parameters_in_our_order(sb3, gaussian):
    out = list(sb3.mlp_extractor.policy_net.parameters())
    head = list(sb3.action_net.parameters())
    out += [sb3.log_std, *head] if gaussian else head
    return [*out, *sb3.mlp_extractor.value_net.parameters(), *sb3.value_net.parameters()]


def test_target_kl_stops_the_epochs():
    model = make(learning_rate=0.05, n_epochs=50, target_kl=0.01)
    model.learn(128)
    assert 0 <= model._n_updates < 50
    free = make(learning_rate=0.05, n_epochs=50)
    free.learn(128)
    assert free._n_updates == 50


def test_a_batch_that_does_not_divide_is_said_and_the_rest_is_kept():
    with pytest.warns(UserWarning, match="minibatch of 28"):
        model = make(batch_size=50)
    sizes = [len(m) for m in model.minibatches(prepared(model))]
    assert sizes == [50, 50, 28]


def test_a_batch_larger_than_the_rollout_is_refused():
    with pytest.raises(
        ValueError, match=r"batch_size=129 is larger than the rollout of n_steps \* n_envs = 64 \* 2 = 128"
    ):
        make(batch_size=129)


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-2, 2, (2, 2)), spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize(
    "seen",
    [
        spaces.Box(-1, 1, (2, 3)),
        spaces.Discrete(4),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(2),
        spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_all_spaces(space, seen, tmp_path):
    import gymnasium as gym

    class World(gym.Env):
        observation_space, action_space = seen, space

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            self.t = 0
            return self.observation_space.sample(), {}

        def step(self, action):
            assert self.action_space.contains(action), action
            self.t += 1
            return self.observation_space.sample(), float(self.t), self.t % 5 == 0, self.t % 7 == 0, {}

    model = make(World(), num_envs=1, n_steps=16, batch_size=8)
    model.learn(32)
    model.save(tmp_path / "m")
    loaded = polopt.PPO.load(tmp_path / "m")
    obs, _ = World().reset(seed=1)
    for deterministic in (True, False):
        action, _ = loaded.predict(obs, deterministic=deterministic)
        assert space.contains(action), action


def test_bandit_is_solved():
    """One state, three arms, one pays: within 2000 pulls the arm is found."""
    import gymnasium as gym

    class Bandit(gym.Env):
        observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            return np.ones(1, np.float32), {}

        def step(self, action):
            return np.ones(1, np.float32), float(action == 2), True, False, {}

    model = polopt.PPO("MlpPolicy", Bandit(), n_steps=128, batch_size=64, n_epochs=10, learning_rate=3e-3, seed=0)
    model.learn(2000)
    params = model.policy(torch.ones(1, 1))
    assert params.softmax(-1)[0, 2] > 0.9


def test_entropy_of_a_unit_gaussian_is_logged():
    model = make(learning_rate=0.0, ent_coef=0.01)
    b = prepared(model)
    assert model.diagnose(b)["entropy_loss"].item() == pytest.approx(-0.5 * (1 + math.log(2 * math.pi)), rel=1e-5)
