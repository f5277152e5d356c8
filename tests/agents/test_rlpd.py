"""RLPD: the spec's exact checks, what each of its parts does, and prior data."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import polopt
from polopt.batch import Batch
from polopt.memory import Mix, Replay

NET = dict(net_arch=[32, 32])
pytestmark = pytest.mark.filterwarnings("ignore:RLPD without prior data")


def make(env="Pendulum-v1", **kwargs):
    kwargs = (
        dict(
            seed=0,
            buffer_size=1000,
            learning_starts=10,
            batch_size=16,
            gradient_steps=2,
            policy_delay=2,
            policy_kwargs=NET,
        )
        | kwargs
    )
    return polopt.RLPD("MlpPolicy", env, **kwargs)


def batch(size, seed=0, subset=None):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)
    b = Batch(
        obs=draw(size, 3), action=draw(size, 1).tanh(), reward=draw(size), next_obs=draw(size, 3),
        discount=0.99 * (draw(size) > -1).double(), noise=draw(size, 1), next_noise=draw(size, 1),
    )  # fmt: skip
    return b if subset is None else b.plus(subset=torch.tensor(subset))


def double(*models):
    for model in models:
        for net in model.nets.values():
            net.double()


def prior(n=50, value=7.0):
    t = torch.zeros(n, dtype=torch.bool)
    obs = torch.full((n, 3), value)
    return Batch(obs=obs, action=torch.full((n, 1), -1.0), reward=torch.ones(n), next_obs=obs, terminated=t)


def filled(obs, **kwargs):
    memory = Replay(5, spaces.Box(-1, 1, (obs,)), spaces.Box(-1, 1, (1,)), **kwargs)
    memory.count = 5
    return memory


def vector(model):
    return torch.cat([p.detach().flatten() for net in model.nets.values() for p in net.parameters()])


def test_its_plainest_form_is_sac_with_the_mean_of_the_critics():
    """ρ = 0, U = 1, E = |Z| = 2, no layer norm, the same α, initialisation and batches."""
    rlpd = make(n_critics=2, subset=2, layer_norm=False, prior_share=0.0, policy_delay=1, ent_coef=0.3)
    sac = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, buffer_size=10, ent_coef=0.3, policy_kwargs=NET)
    for name in rlpd.nets:
        sac.nets[name].load_state_dict(rlpd.nets[name].state_dict())
    double(rlpd, sac)
    sac.policy_loss = lambda b: (b.alpha * b.new_log_prob - sac.nets["critic"](b.obs, b.new_action).mean(0)).mean()
    for i in range(5):
        logs = [m.gradient_step(batch(16, i, subset=[1, 0]), ("policy", "targets")) for m in (rlpd, sac)]
        for name in ("critic_loss", "actor_loss"):
            torch.testing.assert_close(logs[0][name], logs[1][name], rtol=1e-10, atol=0)
    torch.testing.assert_close(vector(rlpd), vector(sac), rtol=1e-9, atol=1e-12)


def test_the_target_takes_the_least_of_the_subset_for_the_whole_batch():
    model = make(n_critics=5)
    double(model)
    b = model.evaluate(batch(20, subset=[4, 1]), ("targets",))
    action, log_prob = model.policy.distribution.sample(model.policy.of(b.next_obs), b.next_noise)
    each = model.nets["target_critic"](b.next_obs, action)
    torch.testing.assert_close(model.next_value(b), torch.minimum(each[4], each[1]) - log_prob)
    plain = make(n_critics=5, backup_entropy=False)
    double(plain)
    torch.testing.assert_close(plain.next_value(plain.evaluate(b, ())), torch.minimum(each[4], each[1]))


def test_subsets_are_drawn_without_replacement_and_evenly():
    model = make(n_critics=4, subset=2).learn(20)
    drawn = torch.stack([model.draw(("policy",)).subset for _ in range(2000)])
    assert (drawn[:, 0] != drawn[:, 1]).all()
    counts = torch.bincount(drawn.flatten(), minlength=4)
    assert (counts - 1000).abs().max() < 5 * (2000 * 0.25) ** 0.5


def test_critics_start_and_stay_apart():
    model = make().add_prior(prior())
    q = model.nets["critic"]
    probe = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert q(probe).std(0).min() > 0
    model.learn(40)
    assert q(probe).std(0).mean() > 1e-3
    for weight in make().nets["critic"].weights:
        bound = (6 / (weight.shape[1] + weight.shape[2])) ** 0.5
        assert 0.95 * bound < weight.abs().amax() <= bound
    assert all(
        x.eq(y).all()
        for x, y in zip(make().nets["critic"].parameters(), make().nets["target_critic"].parameters(), strict=True)
    )


def test_layer_norm_bounds_the_value_far_from_the_data():
    """|Q| <= |w|·|LN(.)| + bias whatever the input: it does not grow with the observation."""
    probe = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    growth = {}
    for layer_norm in (True, False):
        q = make(layer_norm=layer_norm).nets["critic"]
        growth[layer_norm] = float(q(1e6 * probe).detach().abs().mean() / q(probe).detach().abs().mean())
    assert growth[True] < 3 < 1e4 < growth[False]


def test_the_temperature_loss_by_definition():
    model = make(ent_coef="auto_0.5")
    assert model.entropy == -0.5
    double(model)
    b = model.evaluate(batch(20), ("policy",))
    (gradient,) = torch.autograd.grad(model.alpha_loss(b, {}), [model.temperature["log_alpha"]])
    assert gradient.item() == pytest.approx(0.5 * (-b.new_log_prob.mean().item() + 0.5), rel=1e-6)


def test_many_critic_steps_and_one_of_the_policy_for_every_step_of_the_world():
    model = make(gradient_steps=6, policy_delay=6).add_prior(prior())
    model.learn(15)
    assert {name: int(p.count) for name, p in model.parts.items()} == {"critic": 30, "policy": 5, "alpha": 5}


def test_half_of_each_batch_is_prior():
    model = make().add_prior(prior())
    model.learn(30)
    b = model.draw(("policy",))
    assert (b.obs == 7).all(1).sum() == 8
    assert len(model.memory.first) == 30 and len(model.memory.second) == 50
    assert make(prior_share=0.25).add_prior(prior()).memory.share == 0.25


def test_prior_actions_are_scaled_and_kept_off_the_edge():
    model = make().add_prior(prior(4).plus(action=torch.tensor([[-2.0], [2.0], [1.0], [0.0]])))
    stored = model.memory.second.unpack(model.memory.second.table)
    torch.testing.assert_close(stored.action.flatten(), torch.tensor([-1 + 1e-5, 1 - 1e-5, 0.5, 0.0]))


def test_prior_data_of_time_limits_and_n_steps():
    rows = prior(4).plus(
        reward=torch.tensor([1.0, 2.0, 4.0, 8.0]),
        truncated=torch.tensor([False, True, False, False]),
        terminated=torch.tensor([False, False, False, True]),
    )
    model = make(n_steps=2, gamma=0.5).add_prior(rows)
    stored = model.memory.second.unpack(model.memory.second.table[:3])
    assert stored.reward.tolist() == [2.0, 2.0, 8.0] and stored.discount.tolist() == [0.25, 0.5, 0.0]


def test_another_models_memory_as_prior():
    sac = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, buffer_size=100, policy_kwargs=NET).learn(60)
    model = make().add_prior(sac.memory)
    assert model.memory.second is sac.memory
    model.learn(20)
    assert model._n_updates > 0 and len(sac.memory) == 60


def test_its_replay_buffer_is_its_own_experience():
    """What code written for stable-baselines3 asks is answered without the prior data."""
    model = make().add_prior(prior(50))
    model.learn(30)
    buffer = model.replay_buffer
    assert (buffer.size(), buffer.pos, buffer.full, buffer.buffer_size) == (30, 30, False, 1000)
    assert torch.equal(buffer.rows().obs, model.memory.first.rows().obs) and not (buffer.rows().obs == 7).any()
    assert "index" not in model.draw(("policy",))
    buffer.reset()
    assert buffer.size() == 0 and len(model.memory.second) == 50


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (prior().only("obs", "action", "reward", "terminated"), "prior data has no next_obs"),
        (prior().plus(obs=torch.zeros(50, 4)), r"obs of shape \(50, 4\) does not fit: expected \(50, 3\)"),
        (prior().plus(action=torch.zeros(50, 2)), r"action of shape \(50, 2\) does not fit"),
        (prior().plus(action=torch.full((50, 1), 2.5)), "actions lie outside Box"),
        (prior().plus(reward=torch.full((50,), float("nan"))), "reward is not finite"),
        (prior(0), "empty"),
        (filled(4), "prior data of widths"),
        (filled(3, gamma=0.9), r"prior data of gamma 0\.9 does not fit this model's 0\.99"),
        (filled(3, n_steps=2), "prior data of n_steps 2 does not fit"),
        (
            filled(3),
            r"prior data of observation_space Box\(-1.0, 1.0, .* does not fit this model's Box\(\[-1. -1. -8.\]",
        ),
        (Replay(5, spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (1,))), "empty"),
    ],
)
def test_prior_data_that_does_not_fit(data, words):
    with pytest.raises(ValueError, match=words):
        make().add_prior(data)


@pytest.mark.parametrize(
    ("space", "bad"), [(spaces.Discrete(3), [3]), (spaces.MultiDiscrete([3, 2]), [[0, 2]]), (spaces.Discrete(3), [-1])]
)
def test_prior_numbers_that_the_space_has_not(space, bad):
    class Numbered(gym.Env):
        observation_space, action_space = space, spaces.Box(-2, 2, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(space.shape, int), {}

    rows = prior(1).plus(obs=torch.tensor(bad), next_obs=torch.zeros_like(torch.tensor(bad)))
    with pytest.raises(ValueError, match=r"obs has numbers that .*Discrete.* has not"):
        make(Numbered()).add_prior(rows)
    assert len(make(Numbered()).add_prior(rows.plus(obs=rows.next_obs)).memory.second) == 1


def test_prior_data_is_given_once():
    with pytest.raises(ValueError, match="all of it at once"):
        make().add_prior(prior()).add_prior(prior())
    with pytest.raises(ValueError, match="subset=3 must be at most n_critics=2"):
        make(n_critics=2, subset=3)


def test_without_prior_data_it_says_so():
    with pytest.warns(UserWarning, match="without prior data"):
        make().learn(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(prior_share=0.0).learn(1)
        make().add_prior(prior()).learn(1)


def test_resumed_with_its_prior_data(tmp_path):
    whole, half = (make().add_prior(prior()).learn(30) for _ in range(2))
    half.save(tmp_path / "half", full=True)
    resumed = polopt.RLPD.load(tmp_path / "half", env="Pendulum-v1")
    assert isinstance(resumed.memory, Mix)
    for model in (whole, resumed):
        model.learn(30, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed))
    with pytest.warns(UserWarning) as told:
        other = polopt.RLPD.load(tmp_path / "half", env="Pendulum-v1", gamma=0.5)
    assert any("the file's prior data is of gamma=0.99, not 0.5: it is left out" in str(w.message) for w in told)
    assert other.add_prior(prior()).memory.second.rows().discount.unique().tolist() == [0.5]
    obs = np.zeros((1, 3), np.float32)
    assert polopt.RLPD.load(tmp_path / "half").predict(obs, deterministic=True)[0].shape == (1, 1)
