"""DQN and Double DQN: stable-baselines3's DQN as oracle, targets by definition, exploration."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import polopt
from polopt.batch import Batch
from polopt.q_learning import EpsilonGreedy
from polopt.rollout import rollout

NET = dict(net_arch=[16, 16])


def make(name="DQN", env="CartPole-v1", **kwargs):
    kwargs = dict(seed=0, buffer_size=1000, learning_starts=10, policy_kwargs=NET) | kwargs
    return getattr(polopt, name)("MlpPolicy", env, **kwargs)


def batch(size, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    return Batch(
        obs=draw(size, 4), action=torch.randint(2, (size,), generator=g), reward=3 * draw(size), next_obs=draw(size, 4),
        discount=0.99 * (draw(size) > -1).double(),
    )  # fmt: skip


def double(model):
    for net in model.nets.values():
        net.double()


def vector(model, net="policy"):
    return torch.cat([p.detach().flatten() for p in model.nets[net].parameters()]).clone()


def twin(model, peer):
    for mine, theirs in ((model.policy, peer.q_net), (model.nets["target_policy"], peer.q_net_target)):
        ours = [layer for layer in (*mine.trunk, mine.head.linear) if isinstance(layer, nn.Linear)]
        for x, y in zip(ours, [layer for layer in theirs.q_net if isinstance(layer, nn.Linear)], strict=True):
            y.load_state_dict(x.state_dict())


@pytest.mark.parametrize("max_grad_norm", [10.0, 0.05])
@pytest.mark.parametrize(("optimizer", "lr", "steps"), [(torch.optim.SGD, 0.1, 1), (torch.optim.Adam, 1e-3, 5)])
def test_updates_equal_stable_baselines3(optimizer, lr, steps, max_grad_norm, monkeypatch):
    """One SGD step: the gradient itself."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    kwargs = dict(learning_rate=lr, max_grad_norm=max_grad_norm, policy_kwargs=NET | dict(optimizer_class=optimizer))
    model = make(**kwargs)
    with torch.no_grad():
        for x in model.nets["target_policy"].parameters():
            x.add_(0.1)
    double(model)
    peer = DQN("MlpPolicy", "CartPole-v1", device="cpu", **kwargs)
    peer.policy.double()
    for net in (peer.q_net, peer.q_net_target):
        net.extract_features = lambda obs, _: obs  # the package's own casts to float32
    peer.policy.optimizer = optimizer(peer.policy.parameters(), lr=lr)
    twin(model, peer)
    batches = [batch(64, seed=i) for i in range(steps)]
    samples, column = iter(batches), lambda x: x.unsqueeze(-1)

    def sample(*_, **__):
        b = next(samples)
        dones = (b.discount == 0).double()
        return ReplayBufferSamples(
            b.obs, column(b.action), b.next_obs, column(dones), column(b.reward), column(b.discount)
        )

    peer.replay_buffer.sample = sample
    recorded = {}
    peer.set_logger(Logger(None, []))
    monkeypatch.setattr(peer.logger, "record", lambda key, value, **_: recorded.setdefault(key, value))
    peer.train(steps, 64)
    losses = [float(model.gradient_step(b, model.due(1))["loss"]) for b in batches]
    assert np.mean(losses) == pytest.approx(recorded["train/loss"], rel=1e-5)
    changed = copy.deepcopy(peer)
    twin(model, peer)
    for ours, theirs in zip(peer.policy.parameters(), changed.policy.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_targets_by_definition():
    models = make("DQN"), make("DoubleDQN")
    b = batch(100)
    differ = 0
    for model in models:
        with torch.no_grad():
            for x in model.nets["target_policy"].parameters():
                x.add_(torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
        double(model)
        with torch.no_grad():  # either action is the better one about as often
            for name in ("policy", "target_policy"):
                net = model.nets[name]
                net.head.linear.bias.sub_(net.of(b.next_obs).mean(0))
        value, frozen, own = model.next_value(b), *(model.nets[n].of(b.next_obs) for n in ("target_policy", "policy"))
        for i in range(100):
            pick = own[i] if isinstance(model, polopt.DoubleDQN) else frozen[i]
            assert value[i] == frozen[i][int(pick.argmax())]
            differ += int(own[i].argmax() != frozen[i].argmax())
    assert differ > 20


def test_double_dqn_overestimates_less_where_rewards_are_noise():
    """Ten actions of value 0 whose estimates are noise: the maximum of one estimate is high, the double one is not."""
    models = make("DQN"), make("DoubleDQN")
    noise = torch.Generator().manual_seed(0)
    estimates = [torch.randn(5000, 10, generator=noise) for _ in range(2)]
    value = {}
    for model in models:
        for name, q in zip(("policy", "target_policy"), estimates, strict=True):
            model.nets[name].of = lambda _, q=q: q
        value[type(model).__name__] = model.next_value(Batch(next_obs=None)).mean().item()
    assert value["DQN"] == pytest.approx(1.539, abs=0.05)  # E of the largest of ten standard normals
    assert value["DoubleDQN"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy(epsilon):
    d = EpsilonGreedy(4, epsilon)
    noise = d.noise((40_000,), torch.Generator().manual_seed(0))
    values = torch.tensor([0.0, 3.0, 1.0, -1.0]).expand(40_000, 4)
    share = torch.bincount(d.act(values, noise), minlength=4) / 40_000
    expected = torch.full((4,), epsilon / 4) + torch.tensor([0, 1 - epsilon, 0, 0])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.01)
    assert (d.act(values.numpy(), noise.numpy()) == d.act(values, noise).numpy()).all()
    assert (d.mode(values) == 1).all()


def test_exploration_falls_as_stable_baselines3s_does():
    from stable_baselines3.common.utils import LinearSchedule

    c = polopt.DQN.Config(exploration_fraction=0.4, exploration_initial_eps=0.9, exploration_final_eps=0.2)
    theirs = LinearSchedule(0.9, 0.2, 0.4)
    done = torch.linspace(0, 1, 41, dtype=torch.float64)
    torch.testing.assert_close(c.epsilon(done), torch.tensor([theirs(1 - float(x)) for x in done], dtype=torch.float64))


def test_it_explores_as_much_as_it_says():
    model = make(num_envs=200, learning_starts=1000, exploration_fraction=0.5, exploration_final_eps=0.2)
    model._total_timesteps = 20_000
    for start, epsilon in ((0, 1.0), (1000, 0.9), (5000, 0.6), (10_000, 0.2), (19_000, 0.2)):
        model.num_timesteps = start
        b = rollout(model.env, model, model.env.reset_host(0), 4)[0]
        greedy = model.policy(b.obs.flatten(0, 1)).argmax(-1)
        assert (b.action.flatten() != greedy).float().mean() == pytest.approx(epsilon / 2, abs=0.06)


@pytest.mark.parametrize(("num_envs", "train_freq"), [(1, 1), (1, 4), (5, 2)])
def test_the_copy_is_renewed_by_environment_steps(num_envs, train_freq):
    model = make(
        num_envs=num_envs, train_freq=train_freq, target_update_interval=20, learning_starts=0, learning_rate=1e-2
    )
    renewed, last, before = [], vector(model, "target_policy"), None
    while model.num_timesteps < 80:
        before = vector(model)
        model.learn(num_envs * train_freq, reset_num_timesteps=False)
        if not torch.equal(vector(model, "target_policy"), last):
            renewed.append(model.num_timesteps)
            last = vector(model, "target_policy")
            assert torch.equal(last, before)  # a hard copy, taken before the update
    assert renewed == [20, 40, 60, 80]


def test_a_soft_copy():
    model = make(tau=0.25)
    with torch.no_grad():
        model.policy.head.linear.bias.fill_(4.0)
        model.nets["target_policy"].head.linear.bias.fill_(0.0)
    model.lag()
    assert model.nets["target_policy"].head.linear.bias.tolist() == [1.0, 1.0]


def test_predict_explores_only_when_it_is_not_deterministic():
    model = make()
    model.policy.distribution.epsilon = 1.0
    obs = np.zeros((400, 4), np.float32)
    assert len(set(model.predict(obs, deterministic=True)[0])) == 1
    assert 100 < model.predict(obs)[0].sum() < 300


def test_logger_keys():
    from stable_baselines3.common.logger import Logger

    seen = {}

    class Keep(Logger):
        def dump(self, step=0):
            seen.update(self.name_to_value)
            super().dump(step)

    model = make(exploration_fraction=1.0, exploration_final_eps=0.0)
    model.set_logger(Keep(None, []))
    model.learn(400)
    assert set(seen) == {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/exploration_rate", "time/fps", "time/episodes",
        "time/time_elapsed", "time/total_timesteps", "train/loss", "train/learning_rate", "train/n_updates",
    }  # fmt: skip
    assert seen["rollout/exploration_rate"] == pytest.approx(1 - (seen["time/total_timesteps"] - 1) / 400)


def test_bad_input():
    with pytest.raises(ValueError, match=r"DQN does not support the action space Box.*it supports Discrete"):
        make(env="Pendulum-v1")
    with pytest.raises(ValueError, match="action_noise is for continuous actions"):
        make(action_noise=0.1)
    with pytest.raises(ValueError, match=r"exploration_fraction=0\.0 is outside"):
        make(exploration_fraction=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DQN", "DoubleDQN"])
def test_learns_the_cartpole(name):
    """The zoo's hyperparameters, at a third of its steps."""
    model = make(
        name, learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000, target_update_interval=10,
        train_freq=256, gradient_steps=128, exploration_fraction=0.16, exploration_final_eps=0.04,
        policy_kwargs=dict(net_arch=[64, 64]),
    )  # fmt: skip
    model.learn(20_000)
    assert polopt.evaluate_policy(model, "CartPole-v1", n_eval_episodes=10)[0] > 150


def test_the_copy_is_renewed_whatever_learn_counts():
    """In calls shorter than the interval, each of which begins to count anew; and in calls that a callback stops."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Stop(BaseCallback):
        def _on_step(self):
            return self.n_calls % 30 > 0

    for calls, kwargs in ((7, {}), (4, dict(callback=Stop(), reset_num_timesteps=False))):
        model = make(target_update_interval=100, learning_starts=0, learning_rate=1e-2, train_freq=4)
        first = vector(model, "target_policy")
        for _ in range(calls):
            model.learn(30, **kwargs)
            assert torch.equal(vector(model, "target_policy"), first) == (model._seen_steps < 100)
        assert model._seen_steps >= 100


def test_widths_are_those_of_the_one_network():
    assert make(policy_kwargs=dict(net_arch=dict(qf=[8]))).policy.trunk.out_features == 8
    with pytest.raises(ValueError, match=r"net_arch=\{'pi': \[8\]\} must say the widths of qf"):
        make(policy_kwargs=dict(net_arch=dict(pi=[8])))
