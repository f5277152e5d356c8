"""What a user's script may do between, around and after calls of learn, and what must come of it."""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import dataclass
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from polopt.envs import TimeLimit, as_env, make_env
from stable_baselines3.common import callbacks as cb
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

import polopt
from polopt import kwargs as kwargs_codec
from polopt.batch import Batch
from polopt.config import hyper
from polopt.dataset import Collector
from polopt.distributions import DiagGaussian, SquashedGaussian
from polopt.env import HostEnv, Step
from polopt.flow import FlowPolicy
from polopt.generate import generate
from polopt.normalize import Normalize
from polopt.off_policy import Actor
from polopt.policy import GaussianHead, scale, to_tensor, unscale
from polopt.rollout import _through_torch
from polopt.spaces import check_action_space

TINY = dict(learning_starts=8, batch_size=8, buffer_size=500, policy_kwargs=dict(net_arch=[8]))


def ppo(env="CartPole-v1", **kwargs):
    return polopt.PPO("MlpPolicy", env, **{"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, **kwargs})


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_model_file_cannot_name_a_function_to_be_run(tmp_path):
    """Names that begin as torch's do may lead anywhere: only modules and optimizers of torch's and SB3's are taken."""
    model, path, victim = ppo(), tmp_path / "m.zip", tmp_path / "ran"
    model.save(path)
    with zipfile.ZipFile(path) as z:
        payload, arrays = json.loads(z.read("state.json")), z.read("arrays.safetensors")
    tree = payload["tree"]
    tree["policy_kwargs"] = {
        "features_extractor_class": {"class": "torch.nn.functional:torch.ctypes.util.subprocess.run"}
    }
    box = {"type": "Box", "low": ["-1.0"], "high": ["1.0"], "shape": [1], "dtype": "float32"}
    tree["observation_space"] = {"type": "Dict", "spaces": {"touch": box, str(victim): box}}
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("state.json", json.dumps(payload))
        z.writestr("arrays.safetensors", arrays)
    with pytest.raises(ValueError, match="no module or optimizer"):
        polopt.load(path)
    assert not victim.exists()


def test_what_a_file_could_not_give_back_is_refused_when_it_is_written():
    assert kwargs_codec.encode({"lookat": np.zeros(2)}) == {"lookat": [0.0, 0.0]}
    with pytest.raises(TypeError, match="cannot be kept in a file"):
        kwargs_codec.encode({"lookat": object()})


def test_load_takes_what_the_constructor_takes(tmp_path):
    path = tmp_path / "m.zip"
    ppo("Pendulum-v1", normalize_obs=True).save(path)
    assert polopt.PPO.load(path, env="Pendulum-v1", num_envs=3).n_envs == 3
    assert polopt.PPO.load(path, env="Pendulum-v1", n_envs=3).n_envs == 3
    assert polopt.PPO.load(path, env="Pendulum-v1", env_kwargs={"g": 1.0}).env_kwargs == {"g": 1.0}
    assert polopt.load(path, custom_objects={"learning_rate": 1e-5}).config.learning_rate == 1e-5
    with pytest.warns(UserWarning, match="rewards: they begin anew"):
        polopt.PPO.load(path, env="Pendulum-v1", normalize_reward=True)
    with pytest.raises(TypeError, match="gama"):
        polopt.load(path, gama=0.9)


def test_a_rate_that_load_is_asked_for_stands_over_the_files(tmp_path):
    path = tmp_path / "m.zip"
    polopt.FixPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, seed=0).save(path)
    assert polopt.FixPO.load(path, beta_lr=0.5).parts["dual"].lr.item() == 0.5


@pytest.mark.parametrize("noise", [
    NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)),
    OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1), theta=0.2, dt=0.05),
])  # fmt: skip
def test_action_noise_is_kept_in_the_file(tmp_path, noise):
    model = polopt.TD3("MlpPolicy", "Pendulum-v1", action_noise=noise, seed=0, **TINY)
    model.save(tmp_path / "m")
    loaded = polopt.TD3.load(tmp_path / "m", env="Pendulum-v1").learn(20)
    assert repr(loaded.config.action_noise) == repr(noise) and type(loaded.config.action_noise) is type(noise)


def test_a_noise_that_no_file_can_hold_does_not_keep_a_model_from_predicting(tmp_path):
    class Own(NormalActionNoise):
        pass

    model = polopt.TD3("MlpPolicy", "Pendulum-v1", action_noise=Own(np.zeros(1), np.ones(1)), seed=0, **TINY)
    model.save(tmp_path / "m")
    with pytest.warns(UserWarning, match="explores without"):
        loaded = polopt.TD3.load(tmp_path / "m")
    obs = np.zeros(3, np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])


def test_rows_of_another_discount_are_not_read(tmp_path):
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **TINY).learn(20)
    model.save_replay_buffer(tmp_path / "rows")
    other = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, gamma=0.5, **TINY)
    with pytest.raises(ValueError, match=r"gamma=0.99.*gamma=0.5"):
        other.load_replay_buffer(tmp_path / "rows")


def test_a_whole_file_gives_its_memory_back_when_the_environment_comes_later(tmp_path):
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **TINY).learn(20)
    model.save(tmp_path / "m", full=True)
    loaded = polopt.SAC.load(tmp_path / "m")
    loaded.set_env("Pendulum-v1")
    assert len(loaded.memory) == 20
    torch.testing.assert_close(loaded.memory.table[:20], model.memory.table[:20])


# -- environments ----------------------------------------------------------------------------------------------------


def test_set_env_keeps_the_running_moments():
    model = ppo("Pendulum-v1", normalize_obs=True).learn(64)
    before, count = model.predict(np.ones(3, np.float32), deterministic=True)[0], model.normalizer.obs_moments[""].count
    model.set_env("Pendulum-v1")
    assert model.normalizer.obs_moments[""].count == count
    np.testing.assert_array_equal(model.predict(np.ones(3, np.float32), deterministic=True)[0], before)


def test_learning_after_an_evaluation_in_the_training_environment_begins_with_a_reset():
    """Between two calls of learn the worlds have moved on: the observation that was acted on last is no longer theirs."""
    seen = []

    class Watch(cb.BaseCallback):
        def _on_step(self):
            seen.append(
                (
                    self.locals["obs_tensor"].clone().numpy(),
                    self.locals["new_obs"].copy(),
                    bool(self.locals["dones"][0]),
                )
            )
            return True

    model = ppo(gymnasium.make("CartPole-v1")).learn(32)
    evaluate_policy(model, model.get_env(), n_eval_episodes=1, warn=False)
    model.learn(32, callback=Watch())
    steps = [np.abs(new - obs).max() for obs, new, done in seen if not done]
    assert steps[0] <= max(steps[1:]) and np.abs(seen[0][0]).max() <= 0.05


def test_a_rollout_that_breaks_off_leaves_no_stale_observation():
    class Stop(cb.BaseCallback):
        def _on_step(self):
            if self.n_calls == 20:
                raise KeyboardInterrupt
            return True

    model = ppo()
    with pytest.raises(KeyboardInterrupt):
        model.learn(64, callback=Stop())
    assert model._last_obs is None
    model.learn(32, reset_num_timesteps=False)


def test_physics_stays_on_the_cpu_wherever_the_networks_are():
    assert as_env("Hopper-v5", device="meta").device.type == "cpu"
    assert as_env("polopt/FourPeaks-v0", device="cpu").device.type == "cpu"
    far = lambda x: SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: x))  # a tensor that is not on the host
    action, extras = _through_torch(lambda obs, noise: (far(np.ones(2)), {"p": far(np.zeros(2))}))(np.zeros(2), None)
    assert action.tolist() == [1, 1] and extras["p"].tolist() == [0, 0]


def test_the_environments_own_words_reach_callbacks():
    class Tells(gymnasium.Wrapper):
        def step(self, action):
            *answer, info = self.env.step(action)
            return *answer, info | {"metric": 7}

    class Watch(cb.BaseCallback):
        def _on_step(self):
            self.told = self.locals["infos"][0]
            return True

    for env in (Tells(gymnasium.make("CartPole-v1")), DummyVecEnv([lambda: Tells(gymnasium.make("CartPole-v1"))])):
        watch = Watch()
        ppo(env).learn(32, callback=watch)
        assert watch.told["metric"] == 7


# -- callbacks and the log -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_the_log_can_be_written_every_so_many_steps(algorithm, tmp_path):
    kwargs = TINY if algorithm == "SAC" else dict(n_steps=32, batch_size=32)
    model = getattr(polopt, algorithm)("MlpPolicy", "Pendulum-v1", seed=0, **kwargs)
    from stable_baselines3.common.logger import configure

    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(96, callback=cb.LogEveryNTimesteps(16), log_interval=None)
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    at = rows[0].split(",").index("time/total_timesteps")
    assert [int(row.split(",")[at]) for row in rows[1:]] == [16, 32, 48, 64, 80, 96]


def test_off_policy_callbacks_see_actions_in_the_environments_units():
    largest = []

    class Watch(cb.BaseCallback):
        def _on_step(self):
            largest.append(float(np.abs(self.locals["actions"]).max()))
            assert np.abs(self.locals["buffer_actions"]).max() <= 1 and self.locals["replay_buffer"].size() <= 60
            return True

    polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **{**TINY, "learning_starts": 60}).learn(60, callback=Watch())
    assert 1.5 < max(largest) <= 2


def test_a_stopped_rollout_is_remembered():
    stop = lambda locals_, globals_: locals_["self"].num_timesteps < 60
    model = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, train_freq=64, **TINY).learn(500, callback=stop)
    assert model.num_timesteps == 60 and len(model.memory) == 60


# -- hyperparameters and bad input -----------------------------------------------------------------------------------


def test_hyperparameters_that_are_built_in_cannot_be_set():
    model = ppo()
    model.clip_range = 0.1
    assert float(model.c.clip_range) == pytest.approx(0.1)
    for name, value in dict(max_grad_norm=0.1, num_envs=4, normalize_obs=True).items():
        with pytest.raises(AttributeError, match=rf"{name}={value}.*constructor"):
            setattr(model, name, value)
    sac = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **TINY)
    sac.tau = 0.1
    for name, value in dict(gamma=0.5, target_entropy=-3.0, buffer_size=10, n_steps=2).items():
        with pytest.raises(AttributeError, match=f"SAC.{name} is built into the model"):
            setattr(sac, name, value)
    fixpo = polopt.FixPO("MlpPolicy", "CartPole-v1", seed=0)
    for name in ("beta", "beta_lr", "max_grad_norm"):
        with pytest.raises(AttributeError, match="built into the model"):
            setattr(fixpo, name, 0.1)
    assert {"ent_coef", "gamma", "real_ratio", "num_envs"} <= polopt.MBPO.fixed  # the held agent's too


def test_an_unseeded_model_leaves_torchs_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    ppo(seed=None)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: ppo().learn("100"), TypeError, "total_timesteps='100' must be a whole number"),
    (lambda: ppo().learn(float("nan")), TypeError, "total_timesteps=nan must be a whole number"),
    (lambda: ppo().learn(-1), ValueError, "total_timesteps=-1 must be at least 0"),
    (lambda: ppo().learn(32, log_interval=0), ValueError, "log_interval=0 must be at least 1"),
    (lambda: ppo().predict((np.zeros(4), {})), ValueError, "tuple"),
    (lambda: ppo(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[8]))), ValueError, r"dict\(pi=\[...\], vf=\[...\]\)"),
    (lambda: ppo(policy_kwargs=dict(net_arch=[dict(pi=[8])])), ValueError, "list of widths"),
    (lambda: ppo(policy_kwargs=dict(activation_fn="relu")), TypeError, "torch.nn.Tanh"),
    (lambda: polopt.A2C("MlpPolicy", "CartPole-v1", compile=True), ValueError, "use_rms_prop=False"),
    (lambda: polopt.SAC("MlpPolicy", "Pendulum-v1", train_freq=(0, "step")), ValueError, "n at least 1"),
    (lambda: polopt.SAC("MlpPolicy", "Pendulum-v1", train_freq=(True, "step")), ValueError, "n at least 1"),
    (lambda: polopt.SAC("MlpPolicy", "Pendulum-v1", n_steps=600, buffer_size=500), ValueError, "at most buffer_size=500"),
    (lambda: polopt.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=dict(pi=[8], vf=[8]))), ValueError, "qf"),
    (lambda: polopt.TD3("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(n_critics=0)), ValueError, "n_critics=0"),
    (lambda: polopt.DDPG("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(n_critics=2)), ValueError, "one critic"),
    (
        lambda: polopt.TD3("MlpPolicy", "Pendulum-v1", action_noise=NormalActionNoise(np.zeros(2), np.ones(2))),
        ValueError, "draws 2 numbers where an action has 1",
    ),
])  # fmt: skip
def test_bad_input_is_named(call, error, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=words):
            call()


def test_numbers_of_numpy_are_numbers(tmp_path):
    model = ppo(n_steps=np.int64(32), learning_rate=np.float32(1e-3))
    model.learn(np.int64(32)).save(tmp_path / "m")
    assert polopt.load(tmp_path / "m").config.n_steps == 32


def test_spaces_that_would_be_misread_are_refused():
    with pytest.raises(ValueError, match="start"):
        check_action_space(spaces.MultiDiscrete([2, 2], start=[5, 5]), (spaces.MultiDiscrete,), "PPO")

    class Pictures(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2)

    with pytest.raises(NotImplementedError, match="NatureCNN"):
        ppo(Pictures())
    with pytest.raises(NotImplementedError, match="observation wrapper"):
        polopt.DQN("MlpPolicy", Pictures())


def test_an_agent_without_an_environment_can_be_seeded():
    model = polopt.PPO("MlpPolicy")
    model.set_random_seed(3)
    assert model.seed == 3


def test_vmpos_old_policy_follows_over_many_calls_of_learn():
    model = polopt.VMPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, target_interval=2, seed=0)
    old = [p.clone() for p in model.behaviour.parameters()]
    for _ in range(2):
        model.learn(32)
    assert not all(torch.equal(a, b) for a, b in zip(old, model.behaviour.parameters(), strict=True))


# -- worlds that are not objects, and predictions -----------------------------------------------------------------------


def test_what_cannot_be_done_to_worlds_stepped_together_is_said():
    face = ppo("Pendulum-v1", num_envs=2).get_env()
    with pytest.raises(AttributeError, match=r"'g' cannot be set.*backend='gymnasium'"):
        face.set_attr("g", 5.0)
    with pytest.raises(ValueError, match=r"indices=\[1\]"):
        face.env_method("reset", indices=[1])
    worlds = ppo("Pendulum-v1", num_envs=2, env_kwargs=dict(backend="gymnasium")).get_env()
    worlds.set_attr("g", 5.0, indices=[1])
    assert worlds.get_attr("g") == [10.0, 5.0]


def test_worlds_are_made_where_they_can_be_and_counted_where_they_are():
    assert ppo(lambda: gymnasium.make("CartPole-v1"), num_envs=3).n_envs == 3
    with pytest.raises(ValueError, match=r"num_envs=4, but env has 1 world:"):
        ppo(gymnasium.make("CartPole-v1"), num_envs=4)
    with pytest.raises(TypeError, match=r"env_kwargs g: only an id"):
        ppo(gymnasium.make("Pendulum-v1"), env_kwargs=dict(g=3.0))


def test_sampled_predictions_follow_the_seed():
    model, obs = ppo("Pendulum-v1"), np.zeros((3, 3), np.float32)
    drawn = []
    for _ in range(2):
        model.set_random_seed(5)
        drawn.append(model.predict(obs)[0])
        torch.rand(1)
        drawn.append(model.predict(obs)[0])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(drawn[1], drawn[3])
    assert not np.array_equal(drawn[0], drawn[1])
    returns = [polopt.evaluate_policy(model, "Pendulum-v1", 2, deterministic=False, seed=1)[0] for _ in range(2)]
    assert returns[0] == returns[1]


def test_what_has_no_networks_says_so():
    for call in (lambda m: m.predict(np.zeros(3)), lambda m: m.save("nowhere")):
        with pytest.raises(RuntimeError, match="no networks yet"):
            call(polopt.PPO("MlpPolicy"))
    model = ppo("Pendulum-v1", normalize_obs=True)
    with pytest.raises(ValueError, match=r"shape \(17,\) does not fit"):
        model.predict(np.zeros(17))


def test_an_evaluation_without_the_models_vecnormalize_warns():
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    model = ppo(VecNormalize(make_vec_env("Pendulum-v1", 1)))
    with pytest.warns(UserWarning, match="VecNormalize"):
        polopt.evaluate_policy(model, "Pendulum-v1", 1)


def test_pictures_reach_a_convolution_with_their_channels_first():
    """Gymnasium's pictures have them last; stable-baselines3 turns them, and so does the encoder."""
    from stable_baselines3.common.torch_layers import NatureCNN

    rng, turned = np.random.default_rng(0), {}
    for shape in ((40, 40, 3), (3, 40, 40)):

        class Pictures(gymnasium.Env):
            observation_space, action_space = spaces.Box(0, 255, shape, np.uint8), spaces.Discrete(2)

            def reset(self, *, seed=None, options=None):
                return np.zeros(self.observation_space.shape, np.uint8), {}

        kwargs = dict(features_extractor_class=NatureCNN, features_extractor_kwargs=dict(features_dim=8))
        turned[shape] = ppo(Pictures(), policy_kwargs=kwargs)
    picture = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    last, first = (
        model.policy.obs_to_tensor(x)[0]
        for model, x in zip(turned.values(), (picture, picture.transpose(2, 0, 1)), strict=True)
    )
    a, b = (model.policy(x) for model, x in zip(turned.values(), (last, first), strict=True))
    torch.testing.assert_close(a, b)


def test_a_cnn_policy_is_stable_baselines3s(tmp_path):
    import stable_baselines3
    from stable_baselines3.common.torch_layers import NatureCNN

    class Pictures(gymnasium.Env):
        observation_space, action_space = spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 1.0, False, False, {}

    how = dict(n_steps=8, batch_size=8, n_epochs=1, seed=0)
    peer = stable_baselines3.PPO("CnnPolicy", Pictures(), device="cpu", **how)
    model = polopt.PPO("CnnPolicy", Pictures(), **how)
    assert model.parameter_count == sum(x.numel() for x in peer.policy.parameters())
    model.learn(8).save(tmp_path / "cnn")
    picture = np.random.default_rng(0).integers(0, 256, (36, 36, 3), dtype=np.uint8)
    again = polopt.PPO.load(tmp_path / "cnn")
    assert (again.policy_class, again.predict(picture)[0].shape) == ("CnnPolicy", ())
    continuous = Pictures()
    continuous.action_space = spaces.Box(-1, 1, (2,))
    assert isinstance(polopt.PMOE("CnnPolicy", continuous, **how).q.encoder.extractor, NatureCNN)

    class Own(NatureCNN):
        """Not stable-baselines3's: hidden layers of 64 follow."""

    kwargs = dict(features_extractor_class=Own)
    peer = stable_baselines3.PPO("CnnPolicy", Pictures(), device="cpu", policy_kwargs=kwargs, **how)
    assert ppo(Pictures(), policy_kwargs=kwargs).parameter_count == sum(x.numel() for x in peer.policy.parameters())
    torch.testing.assert_close(
        again.policy.value(again.policy.obs_to_tensor(picture)[0]),
        model.policy.value(model.policy.obs_to_tensor(picture)[0]),
    )
    polopt.TRPO("CnnPolicy", Pictures(), n_steps=8, batch_size=8, seed=0)  # apart, as it needs them


def test_models_and_worlds_say_what_they_are():
    model = ppo(num_envs=2)
    assert repr(model) == f"PPO(CartPole-v1, 2 worlds, {model.parameter_count:,} parameters, 0 steps)"
    assert "CartPole-v1, 2 worlds, cpu" in repr(model.env)
    assert repr(polopt.PPO("MlpPolicy")) == "PPO(no environment yet)"


def test_a_loaded_model_goes_on_in_another_number_of_worlds(tmp_path):
    ppo("Pendulum-v1", num_envs=4, env_kwargs=dict(g=3.0)).save(tmp_path / "m")
    assert polopt.PPO.load(tmp_path / "m", env=polopt.make_env("Pendulum-v1", 2)).learn(64).n_envs == 2


# -- files and what goes on from them -----------------------------------------------------------------------------------


def test_a_whole_file_goes_on_in_worlds_of_another_kind(tmp_path):
    polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **TINY).learn(20).save(tmp_path / "m", full=True)
    model = polopt.SAC.load(tmp_path / "m")
    model.save(tmp_path / "again", full=True)  # without an environment, nothing is lost
    assert len(polopt.SAC.load(tmp_path / "again", env="Pendulum-v1").memory) == 20
    with pytest.warns(UserWarning, match="worlds are of another kind"):
        model.set_env(gymnasium.make("Pendulum-v1"))
    assert len(model.memory) == 20
    model.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("name", ["RLPD", "MBPO"])
def test_a_mixed_memory_stays_mixed_at_another_size(name, tmp_path):
    more = (
        dict(model_arch=(8,), model_weight_decay=1e-5, num_networks=2, num_elites=1, model_max_passes=1)
        if name == "MBPO"
        else {}
    )
    model = getattr(polopt, name)("MlpPolicy", "Pendulum-v1", seed=0, gradient_steps=1, **TINY, **more)
    if name == "RLPD":
        other = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, **TINY).learn(30)
        model.add_prior(other.memory)
    model.learn(20)
    model.save(tmp_path / "m", full=True)
    for size in (500, 900):
        loaded = getattr(polopt, name).load(tmp_path / "m", env="Pendulum-v1", buffer_size=size)
        memory = loaded.memory if name == "RLPD" else loaded.agent.memory
        assert type(memory).__name__ == "Mix" and memory.capacity == size and len(memory) == 20
        loaded.learn(10, reset_num_timesteps=False)


def test_sampled_predictions_go_on_after_a_resume(tmp_path):
    model, obs = ppo("Pendulum-v1").learn(32), np.zeros(3, np.float32)
    model.predict(obs)
    model.save(tmp_path / "m", full=True)
    loaded = polopt.PPO.load(tmp_path / "m", env="Pendulum-v1")
    np.testing.assert_array_equal(loaded.predict(obs)[0], model.predict(obs)[0])


def test_a_checkpoint_taken_within_a_rollout_holds_the_worlds(tmp_path):
    class Save(cb.BaseCallback):
        def _on_step(self):
            if self.n_calls == 10:
                self.model.save(tmp_path / "m", full=True)
            return True

    ppo("Pendulum-v1").learn(32, callback=Save())
    assert polopt.PPO.load(tmp_path / "m", env="Pendulum-v1")._last_obs is not None


def test_reinforce_counts_the_steps_of_a_stopped_rollout():
    model = polopt.REINFORCE("MlpPolicy", "Pendulum-v1", n_steps=64, discount_states=True, tail="zero", seed=0)
    model.learn(64)
    model.learn(64, callback=lambda scope, _: scope["self"].num_timesteps < 94, reset_num_timesteps=False)
    assert model.age.tolist() == [94]


@pytest.mark.parametrize("space", [spaces.Discrete(3), spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(2))])
def test_rewards_alone_are_normalised_over_any_observations(space):
    class World(gymnasium.Env):
        observation_space, action_space = space, spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 5.0, False, False, {}

    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    polopt.SAC(policy, World(), seed=0, normalize_reward=True, **TINY).learn(20)


def test_a_log_before_any_learning_is_empty():
    ppo().dump_logs()


# -- normalisation that came with the environment ----------------------------------------------------------------------


def test_a_normalised_environments_moments_and_constants_outlive_the_file(tmp_path):
    env = Normalize(make_env("Pendulum-v1", num_envs=2), clip_obs=1.5, gamma=0.9)
    model = polopt.PPO("MlpPolicy", env, n_steps=64, batch_size=64, seed=0).learn(128)
    obs = np.array([0.3, 0.9, 4.0], np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    model.save(tmp_path / "m")
    for given in ("Pendulum-v1", None):
        loaded = polopt.PPO.load(tmp_path / "m", env=given)
        np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], expected)
        assert (loaded.normalizer.clip_obs, loaded.normalizer.gamma) == (1.5, 0.9)
    loaded = polopt.PPO.load(tmp_path / "m", env="Pendulum-v1").learn(128)
    assert loaded.normalizer.obs_moments[""].count > 200, "the moments go on"
    bare = ppo("Pendulum-v1", normalize_obs=True, normalize_reward=True).learn(32)
    bare.save(tmp_path / "bare")
    assert polopt.PPO.load(tmp_path / "bare", env="Pendulum-v1", normalize_obs=False).normalizer.obs_moments == {}


def test_a_normaliser_of_the_other_family_is_refused():
    with pytest.raises(ValueError, match="PPO learns from what its environment shows"):
        polopt.PPO("MlpPolicy", Normalize(make_env("Pendulum-v1"), show=False))
    with pytest.raises(ValueError, match="SAC remembers observations as they are"):
        polopt.SAC("MlpPolicy", Normalize(make_env("Pendulum-v1")))
    model = polopt.SAC("MlpPolicy", Normalize(make_env("Pendulum-v1"), show=False), seed=0, **TINY).learn(60)
    raw, b = model.memory.rows(), model.memory.sample(32, model.generator)
    torch.testing.assert_close(b.obs, model.normalizer.normalize_obs(raw.obs[b.index]))
    assert not torch.allclose(b.obs, raw.obs[b.index])
    with pytest.raises(ValueError, match="standardize=True"):
        model.learn_offline(generate("Pendulum-v1", "random", 100), 1)
    for method, words in (("MBPO", "MBPO models observations as they are"), ("PPO", "must be the outermost")):
        env = Normalize(make_env("Pendulum-v1"))
        with pytest.raises((ValueError, NotImplementedError), match=words):
            getattr(polopt, method)("MlpPolicy", env if method == "MBPO" else TimeLimit(env, 20))
    with pytest.raises(NotImplementedError, match="normalises a Box of floats"):
        polopt.SAC("MultiInputPolicy", Normalize(Goals(), show=False), **TINY)


class Goals(HostEnv):
    """Dict observations."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (1,))})
    action_space = spaces.Box(-1, 1, (1,))
    id, max_episode_steps, exact_state = None, None, False

    def __init__(self):
        self._start(1)

    def _reset(self, seed):
        return {"a": np.zeros((1, 2), np.float32), "b": np.zeros((1, 1), np.float32)}

    def _step(self, action):
        obs, no = self._reset(None), np.zeros(1, bool)
        return Step(obs, np.zeros(1), no, no, obs)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        return self._reset(None)


def test_a_collector_inside_a_time_limit_sees_where_episodes_end():
    collector = Collector(make_env("Pendulum-v1", num_envs=2, seed=0))
    env = TimeLimit(collector, 5)
    env.reset_host(0)
    for _ in range(15):
        env.step_host(np.zeros((2, 1), np.float32))
    assert collector.dataset().truncated.sum() == 6


def test_a_model_that_could_not_be_set_up_is_as_it_was():
    model = polopt.PPO("MlpPolicy", None, n_steps=8, batch_size=64)
    with pytest.raises(ValueError, match="larger than the rollout"):
        model.set_env("CartPole-v1")
    model.set_env(make_env("CartPole-v1", num_envs=8))
    model.learn(64)


def test_a_time_limit_around_a_normaliser_restarts_worlds():
    env = TimeLimit(Normalize(make_env("Pendulum-v1", num_envs=3, seed=0)), 7)
    env.reset_host(0)
    moments = env.env.obs_moments[""]
    for t in range(1, 15):
        step = env.step_host(np.zeros((3, 1), np.float32))
        assert step.truncated.all() == (t % 7 == 0)
        if t == 7:
            assert moments.count == pytest.approx(3 + 3 * 7 + 3, abs=1e-3), "the rows that began anew are seen once"
            assert (env.env._return == 0).all() and not np.array_equal(step.obs, step.next_obs)
    assert [e.l for e in env.pop_episodes()] == [7] * 6


# -- environments, again -----------------------------------------------------------------------------------------------


def test_a_refused_environment_leaves_the_model_as_it_was(tmp_path):
    model = polopt.MBPO("MlpPolicy", "Pendulum-v1", seed=0, **TINY, rollout_batch_size=10, num_networks=2, num_elites=1)
    before = model.env, model.env_id, model.observation_space
    with pytest.raises(ValueError, match="no termination function"):
        model.set_env(Unending())
    assert (model.env, model.env_id, model.observation_space) == before
    model.learn(4)


class Unending(gymnasium.Env):
    """Pendulum's spaces, and nobody knows when it ends."""

    observation_space = gymnasium.make("Pendulum-v1").observation_space
    action_space = gymnasium.make("Pendulum-v1").action_space

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def test_a_model_remembers_what_it_was_trained_in_without_an_environment(tmp_path):
    ppo("CartPole-v1").save(tmp_path / "a")
    polopt.PPO.load(tmp_path / "a").save(tmp_path / "b")
    assert polopt.PPO.load(tmp_path / "b").env_id == "CartPole-v1"


def test_rows_of_a_reset_are_marked_for_callbacks():
    told = []

    class Look(cb.BaseCallback):
        def _on_step(self):
            told.append([info.get("valid", True) for info in self.locals["infos"]])
            return True

    model = ppo(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync"), n_steps=64)
    model.learn(128, callback=Look())
    assert sum(map(sum, told)) == model.num_timesteps and not all(map(all, told))


def test_entries_of_an_observation_are_batched_alike():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))})
    with pytest.raises(ValueError, match=r"batched alike.*'a': '4 rows', 'b': '1 rows'"):
        to_tensor(space, {"a": np.zeros((4, 2)), "b": np.zeros((1, 3))}, "cpu")
    with pytest.raises(ValueError, match="batched alike"):
        to_tensor(space, {"a": np.zeros(2), "b": np.zeros((1, 3))}, "cpu")


# -- actions -----------------------------------------------------------------------------------------------------------


def test_scaled_actions_never_leave_their_box():
    rng = np.random.default_rng(0)
    for low, high in np.sort(rng.normal(size=(500, 2)).astype(np.float32), 1):
        box = spaces.Box(low, high, (1,))
        for edge in (-1.0, 1.0):
            assert box.contains(unscale(box, np.array([[edge]], np.float32))[0])
            assert box.contains(unscale(box, torch.tensor([[edge]]))[0].numpy())
    stuck = spaces.Box(np.array([0.5, -1], np.float32), np.array([0.5, 1], np.float32))
    assert scale(stuck, torch.tensor([[0.5, 0.25]])).tolist() == [[0.0, 0.25]]


def test_a_policy_that_acts_in_numpy_follows_its_weights():
    box = spaces.Box(-1, 1, (2,))
    for kind in (SquashedGaussian(2), DiagGaussian(2)):
        actor = Actor(spaces.Box(-1, 1, (3,)), box, kind, [8], torch.nn.ReLU, head=GaussianHead)
        act, obs, noise = actor.host_act(), torch.randn(4, 3), torch.randn(4, 2)
        with torch.no_grad():
            actor.head.log_std.fill_(-3.0)
            actor.head.linear.bias.add_(1.0)
            np.testing.assert_allclose(act(obs.numpy(), noise.numpy()), actor.act(obs, noise), rtol=1e-5, atol=1e-6)


def test_a_flow_acts_off_policy_with_the_weights_of_now():
    class Drifting(polopt.DDPG):
        def make_nets(self, net_arch, activation_fn, **optimizer):
            self.policy = FlowPolicy(
                self.observation_space, self.action_space, net_arch={"pi": [8], "vf": [8]}, steps=3
            )
            self.make_critic(net_arch["qf"], activation_fn, 1)
            self.part("policy", self.policy.parameters(), **optimizer)
            self.part("critic", self.nets["critic"].parameters(), **optimizer)

    model = Drifting("MlpPolicy", "Pendulum-v1", seed=0, **TINY | {"learning_starts": 0})
    obs = torch.randn(1, 3)
    for _ in range(2):
        noise = model.noise(1, 1)[0]
        in_numpy = model.host_actor()(obs.numpy(), noise.numpy())
        np.testing.assert_allclose(in_numpy, model.act(obs, noise)[0], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            model.policy.field.point.weight.add_(0.5)
        model._n_updates += 1


def test_widths_of_a_flow_are_checked():
    with pytest.raises(ValueError, match="must be a list of widths"):
        polopt.FPO("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=[32, -1]))
    polopt.FPO("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(net_arch=dict(pi=[8])))


# -- hyperparameters that are set afterwards -----------------------------------------------------------------------------


def test_what_is_set_afterwards_holds_everywhere_or_is_refused():
    model = ppo("Pendulum-v1", normalize_obs=True, normalize_reward=True)
    model.gamma = 0.5
    assert model.normalizer.gamma == 0.5
    with pytest.raises(ValueError, match="batch_size=32 is larger than the rollout"):
        model.n_steps = 16
    assert model.n_steps == 32
    model = polopt.TD3(
        "MlpPolicy", "Pendulum-v1", seed=0, action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.1)), **TINY
    )
    model.learn(30)
    model.action_noise = NormalActionNoise(np.full(1, 0.9), np.full(1, 0.0))
    model.learn(3, reset_num_timesteps=False)
    assert model._process.noises[0]._mu == 0.9
    with pytest.raises(ValueError, match="draws 3 numbers where an action has 1"):
        model.action_noise = NormalActionNoise(np.zeros(3), np.zeros(3))
    model = polopt.TD3("MlpPolicy", "Pendulum-v1", num_envs=2, **TINY)
    with pytest.raises(ValueError, match="whole episodes are counted in one world"):
        model.train_freq = (1, "episode")


def test_a_class_attribute_is_not_overlaid_by_a_hyperparameter():
    with pytest.raises(TypeError, match=r"Config\.horizon: the class has something else"):

        class Planner(polopt.PPO):  # horizon is a property of the engine's
            @dataclass(frozen=True, kw_only=True)
            class Config(polopt.PPO.Config):
                horizon: int = hyper(3)


def test_a_file_with_a_noise_process_takes_another_noise(tmp_path):
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.1))
    model = polopt.TD3("MlpPolicy", "Pendulum-v1", seed=0, action_noise=noise, **TINY).learn(20)
    model.save(tmp_path / "m", full=True)
    for other in (0.1, None):
        polopt.TD3.load(tmp_path / "m", env="Pendulum-v1", action_noise=other).learn(5, reset_num_timesteps=False)


def test_prior_rows_are_read_by_the_model_that_learns_from_them():
    """Whatever moments the model had whose memory they were."""
    how = dict(seed=0, n_critics=2, gradient_steps=1, policy_delay=1, **TINY)
    with pytest.warns(UserWarning, match="without prior data"):
        other = polopt.RLPD("MlpPolicy", "Pendulum-v1", normalize_obs=True, normalize_reward=True, **how).learn(60)
    model = polopt.RLPD("MlpPolicy", "Pendulum-v1", prior_share=1.0, **how).add_prior(other.memory)
    rewards = set(other.memory.rows().reward.tolist())
    model.learn(10)
    assert set(model.draw(("policy",)).reward.tolist()) <= rewards
    low_is_high = spaces.Box(np.array([0.5, -1], np.float32), np.array([0.5, 1], np.float32))

    class Stuck(Unending):
        action_space = low_is_high

    rows = Batch(
        obs=torch.zeros(4, 3), next_obs=torch.zeros(4, 3), action=torch.tensor([[0.5, 40.0]] * 4), reward=torch.zeros(4),
        terminated=torch.zeros(4, dtype=torch.bool),
    )  # fmt: skip
    with pytest.raises(ValueError, match="actions lie outside"):
        polopt.RLPD("MlpPolicy", Stuck(), **how).add_prior(rows)


def test_steps_that_a_callback_cut_off_are_still_learned_from():
    class Stop(cb.BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 26

    model = polopt.SAC("MlpPolicy", "Pendulum-v1", seed=0, train_freq=10, gradient_steps=-1, **TINY)
    model.learn(100, callback=Stop())
    assert (model.num_timesteps, model._n_updates) == (26, 20)
    model.learn(10, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (36, 36)


def test_a_generators_state_of_another_kind_of_device_begins_anew():
    model = ppo().learn(32)
    state = model.training_state() | {"generator": torch.zeros(16, dtype=torch.uint8), "env": None}
    with pytest.warns(UserWarning, match="another kind of device"):
        ppo().load_training_state(state)


def test_a_model_that_waits_for_its_dataset_waits_after_every_file(tmp_path):
    data = generate("Pendulum-v1", "random", 200)
    model = polopt.TD3BC("MlpPolicy", "Pendulum-v1", seed=0, **TINY).learn_offline(data, 3)
    model.save(tmp_path / "a", full=True)
    polopt.TD3BC.load(tmp_path / "a", env="Pendulum-v1").save(tmp_path / "b", full=True)
    again = polopt.TD3BC.load(tmp_path / "b", env="Pendulum-v1")
    with pytest.raises(ValueError, match="learning from a dataset"):
        again.learn(5)
    again.learn_offline(data, 2)
