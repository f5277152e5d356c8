"""What on-policy models do with seeds, modes, optimizers and files where a user changes something between two calls."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor, NatureCNN
from torch import nn

import polopt
from polopt.normalize import Normalize

SMALL = dict(n_steps=32, batch_size=32, n_epochs=2, policy_kwargs=dict(net_arch=[8]))


def ppo(env="CartPole-v1", **kwargs):
    return polopt.PPO("MlpPolicy", env, **SMALL | kwargs)


# -- the user's own modules ----------------------------------------------------------------------------------------------


class Features(BaseFeaturesExtractor):
    def __init__(self, space, kind):
        super().__init__(space, 8)
        self.linear, self.last = nn.Linear(4, 8), kind(8) if kind is nn.BatchNorm1d else kind()
        self.modes = []

    def forward(self, x):
        self.modes.append(self.training)
        return self.last(self.linear(x))


def with_features(kind, **kwargs):
    options = dict(features_extractor_class=Features, features_extractor_kwargs=dict(kind=kind), net_arch=[8])
    return ppo(policy_kwargs=options, **kwargs)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.BatchNorm1d])
def test_modules_act_in_one_mode_and_learn_in_the_other(kind):
    model, obs = with_features(kind), np.ones(4, np.float32)
    model.learn(64)
    values = {model.policy.value(torch.from_numpy(obs)[None]).item() for _ in range(9)}
    assert len(values) == 1 and not model.policy.training
    modes = model.policy.encoder.extractor.modes
    assert any(modes) and not all(modes)


def test_a_frozen_extractor_stays_as_it_is():
    class Frozen(Features):
        def __init__(self, space, kind):
            super().__init__(space, kind)
            self.linear.requires_grad_(False)

    options = dict(features_extractor_class=Frozen, features_extractor_kwargs=dict(kind=nn.Identity), net_arch=[8])
    model = ppo(policy_kwargs=options)
    before, other = model.policy.encoder.extractor.linear.weight.clone(), model.policy.head.linear.weight.clone()
    model.learn(64)
    assert torch.equal(model.policy.encoder.extractor.linear.weight, before)
    assert not torch.equal(model.policy.head.linear.weight, other)


class Picture(gymnasium.Env):
    def __init__(self, high, shape=(5, 5, 4)):
        self.observation_space = spaces.Box(0, high, shape, np.uint8)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


def test_bits_are_no_picture():
    seen = []

    class Watching(FlattenExtractor):
        def forward(self, x):
            seen.append(float(x.max()))
            return super().forward(x)

    ppo(Picture(1), policy_kwargs=dict(net_arch=[8], features_extractor_class=Watching)).learn(32)
    assert max(seen) == 1.0
    ppo(Picture(1)).learn(32)  # a vector of them, too


def test_the_layers_after_naturecnn():
    model = ppo(Picture(255, (36, 36, 3)), policy_kwargs=dict(features_extractor_class=NatureCNN))
    assert len(model.policy.trunk) == 0


# -- optimizers ----------------------------------------------------------------------------------------------------------


def test_a2c_s_optimizers():
    make = lambda **kwargs: polopt.A2C("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs).parts["policy"]._torch.defaults
    assert make(optimizer_class=torch.optim.Adam)["eps"] == 1e-5
    decayed = make(optimizer_kwargs=dict(weight_decay=0.01))
    assert (decayed["eps"], decayed["alpha"], decayed["weight_decay"]) == (1e-5, 0.99, 0.01)


def test_another_optimizer_begins_anew(tmp_path):
    polopt.A2C("MlpPolicy", "CartPole-v1").learn(20).save(tmp_path / "m")
    assert polopt.A2C.load(tmp_path / "m", use_rms_prop=False, env="CartPole-v1").learn(20).parts["policy"].adam


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [("PPOPenalty", "beta"), ("FixPO", "beta"), ("R2VPO", "multiplier"), ("VMPO", "eta_init"), ("VMPO", "alpha_init")],
)
def test_a_multiplier_that_is_asked_for_stands_over_the_file(algorithm, name, tmp_path):
    cls = getattr(polopt, algorithm)
    model = cls("MlpPolicy", "Pendulum-v1", **SMALL).learn(64)
    model.save(tmp_path / "m")
    dual = lambda m: [round(p.item(), 5) for p in m.nets["dual"].parameters()]
    assert 7.0 in dual(cls.load(tmp_path / "m", **{name: 7.0}))
    assert dual(cls.load(tmp_path / "m")) == dual(model)
    assert dual(cls.load(tmp_path / "m", **{name: getattr(model.config, name)})) == dual(model)


def test_an_epoch_cut_short_counts():
    """Three rollouts: a first epoch that begins at no KL, and a second one that stops at once."""
    assert ppo(target_kl=1e-9, learning_rate=1e-2).learn(96)._n_updates == 6


# -- seeds ---------------------------------------------------------------------------------------------------------------


class Watched(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.resets = []

    def reset(self, *, seed=None, options=None):
        obs, info = self.env.reset(seed=seed, options=options)
        self.resets.append((seed, obs.tolist()))
        return obs, info


def test_without_a_seed_each_load_draws_its_own(tmp_path):
    ppo().learn(32).save(tmp_path / "m")
    models = [polopt.PPO.load(tmp_path / "m", env="CartPole-v1").learn(32) for _ in range(2)]
    assert models[0].seed != models[1].seed
    ppo(seed=5).learn(32).save(tmp_path / "m")
    same = [polopt.PPO.load(tmp_path / "m", env="CartPole-v1").learn(32) for _ in range(2)]
    assert same[0].seed == same[1].seed == 5
    for x, y in zip(*(m.policy.parameters() for m in same), strict=True):
        assert torch.equal(x, y)


def test_another_seed_for_a_full_file(tmp_path):
    ppo(seed=0).learn(32).save(tmp_path / "m", full=True)
    ends = []
    for seed in (None, 1, 2, 1):
        changes = {} if seed is None else {"seed": seed}
        model = polopt.PPO.load(tmp_path / "m", env="CartPole-v1", **changes)
        ends.append(model.learn(32, reset_num_timesteps=False).policy.head.linear.weight.detach().clone())
    assert torch.equal(ends[1], ends[3])
    assert not torch.equal(ends[1], ends[2]) and not torch.equal(ends[0], ends[1])


def test_worlds_that_the_user_made_keep_their_seed():
    def starts(own, **kwargs):
        env = Watched(gymnasium.make("CartPole-v1"))
        env.reset(seed=own)
        ppo(env, **kwargs).learn(32)
        return env.resets[1:]

    assert starts(3)[0] == starts(3)[0] != starts(4)[0] and starts(3)[0][0] is None
    assert starts(3, seed=7)[0] == starts(4, seed=7)[0] and starts(3, seed=7)[0][0] == 7
    vector = [make_vec_env("CartPole-v1", 2, seed=0, wrapper_class=Watched) for _ in range(2)]
    for env in vector:
        ppo(env).learn(64)
    one, two = ([resets[0] for resets in env.get_attr("resets")] for env in vector)
    assert one == two and [seed for seed, _ in one] == [0, 1]


def test_new_worlds_are_not_seeded_again():
    model, starts = ppo(seed=0), []
    for _ in range(3):
        env = Watched(gymnasium.make("CartPole-v1"))
        model.set_env(env)
        model.learn(32, reset_num_timesteps=False)
        starts.append(env.resets[0])
    assert [seed for seed, _ in starts] == [0, None, None] and len({str(obs) for _, obs in starts}) == 3


# -- moments -------------------------------------------------------------------------------------------------------------


def test_moments_that_the_user_froze_stay():
    env = Normalize(polopt.make_env("CartPole-v1"))
    model = ppo(env).learn(64)
    env.training = False
    before = model.normalizer.normalize_obs(np.ones((1, 4), np.float32))
    model.learn(64)
    assert not env.training
    np.testing.assert_array_equal(model.normalizer.normalize_obs(np.ones((1, 4), np.float32)), before)


def test_parameters_of_a_file_come_with_its_moments(tmp_path):
    model = ppo(normalize_obs=True).learn(64)
    model.save(tmp_path / "m")
    other = ppo(normalize_obs=True).learn(32)
    other.set_parameters(tmp_path / "m")
    obs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    values = [m.policy.value(torch.from_numpy(m.normalizer.normalize_obs(obs))) for m in (model, other)]
    torch.testing.assert_close(*values)


# -- REINFORCE -----------------------------------------------------------------------------------------------------------


def test_whole_episodes_are_asked_for_whenever_it_is_said(tmp_path):
    words = "n_steps=64 is less than the 500 steps of a whole episode"
    model = polopt.REINFORCE("MlpPolicy", "CartPole-v1", n_steps=500)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match=words):
        polopt.REINFORCE.load(tmp_path / "m", "CartPole-v1", n_steps=64)
    with pytest.raises(ValueError, match=words):
        model.n_steps = 64
    short = polopt.REINFORCE("MlpPolicy", "CartPole-v1", n_steps=64, env_kwargs=dict(max_episode_steps=50))
    with pytest.raises(ValueError, match=words):
        short.set_env(gymnasium.make("CartPole-v1"))


# -- what is refused -----------------------------------------------------------------------------------------------------


def test_what_could_only_go_wrong_later():
    from stable_baselines3.common.vec_env import VecNormalize

    for kwargs, words in (
        (dict(features_extractor_class="NatureCNN"), "features_extractor_class='NatureCNN' must be a class"),
        (dict(features_extractor_kwargs=[1]), r"features_extractor_kwargs=\[1\] must be a dict"),
        (dict(ortho_init="False"), "ortho_init='False' must be True or False"),
        (dict(share_features_extractor="no"), "share_features_extractor='no' must be True or False"),
    ):
        with pytest.raises(TypeError, match=words):
            ppo(policy_kwargs=kwargs)
    with pytest.raises(ValueError, match="is a VecNormalize already"):
        ppo(VecNormalize(make_vec_env("CartPole-v1", 2)), normalize_obs=True)
    model = ppo(learning_rate=lambda left: left - 0.5 if left < 0.5 else 1e-3)
    with pytest.raises(ValueError, match=r"learning_rate is -0\.\d+ at progress 0\.\d+ of its schedule"):
        model.learn(320)


# -- what a tour found ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ortho_init", [True, False])
def test_noise_that_depends_on_the_state_begins_where_it_is_told(ortho_init):
    options = dict(net_arch=[8], state_dependent_std=True, ortho_init=ortho_init)
    model = ppo("Pendulum-v1", policy_kwargs=options | dict(log_std_init=-2.0), seed=0)
    plain = ppo("Pendulum-v1", policy_kwargs=options, seed=0)
    obs = torch.randn(64, 3)
    of = lambda m: m.policy(obs).detach()[:, 1]
    torch.testing.assert_close(of(model), of(plain) - 2.0)
    if ortho_init:
        torch.testing.assert_close(of(model), torch.full((64,), -2.0), atol=0.2, rtol=0)


def test_actions_without_a_standard_deviation_have_none_that_depends_on_the_state():
    with pytest.raises(ValueError, match=r"state_dependent_std=True: Discrete\(2\) has no standard deviation"):
        ppo(policy_kwargs=dict(state_dependent_std=True))


def vector(**kwargs):
    return gymnasium.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync", max_episode_steps=6, **kwargs)


@pytest.mark.parametrize("method", ["A2C", "PPO", "TRPO", "NPG", "FixPO", "TayPO", "VMPO", "PMOE", "REINFORCE"])
def test_a_rollout_of_nothing_but_resets(method):
    """Worlds that end together in NEXT_STEP, one step a rollout: every seventh has no transition."""
    cls = getattr(polopt, method)
    more = {"tail": "zero", "batch_size": 2}
    more = {name: value for name, value in more.items() if hasattr(cls, name)}
    model = cls("MlpPolicy", vector(), n_steps=1, seed=0, policy_kwargs=dict(net_arch=[8]), **more)
    updates = []
    update = model.update
    model.update = lambda batch: updates.append(update(batch)) or updates[-1]
    model.learn(2 * 16, log_interval=1)
    assert [not log for log in updates] == [k % 7 == 6 for k in range(len(updates))]
    assert len(updates) > 14


def test_a_whole_episode_and_its_reset():
    with pytest.raises(ValueError, match=r"n_steps=200 is less than the 201 steps of a whole episode and its reset"):
        polopt.REINFORCE("MlpPolicy", gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync"), n_steps=200)
    polopt.REINFORCE("MlpPolicy", "Pendulum-v1", n_steps=200)


def test_reinforce_has_no_lambda(tmp_path):
    model = polopt.REINFORCE("MlpPolicy", "CartPole-v1", n_steps=500)
    older = model.config.to_json() | {"gae_lambda": 0.95}  # what files of an earlier form hold
    assert polopt.REINFORCE.Config(**model.Config.from_json(older, "file")) == model.config
    with pytest.raises(ValueError, match=r"gae_lambda=0.95 is outside \[1, 1\]"):
        polopt.REINFORCE("MlpPolicy", "CartPole-v1", gae_lambda=0.95)


def test_what_is_asked_of_a_policy_directly():
    class Switches(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.MultiBinary([2, 2])

    policy = ppo(Switches()).policy
    obs, actions = torch.randn(5, 3), torch.randint(2, (5, 2, 2)).float()
    for a, b in zip(
        policy.evaluate_actions(obs, actions), policy.evaluate_actions(obs, actions.flatten(1)), strict=True
    ):
        assert len(a) == 5 and torch.equal(a, b)
    policy = polopt.REINFORCE("MlpPolicy", "CartPole-v1").policy
    for ask in (lambda: policy.predict_values(obs), lambda: policy.evaluate_actions(obs, actions)):
        with pytest.raises(RuntimeError, match=r"no value network \(REINFORCE has one with baseline='value'\)"):
            ask()


def test_a_box_without_bounds_and_the_way_out():
    class Free(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Box(-np.inf, np.inf, (2,))

    with pytest.raises(ValueError, match=r"gymnasium.wrappers.TransformAction"):
        ppo(Free())
    ppo(gymnasium.wrappers.TransformAction(Free(), lambda action: action, spaces.Box(-1.0, 1.0, (2,))))
