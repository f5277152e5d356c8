"""stable-baselines3's own tools run unchanged with a polopt model. The real package is the judge."""

import csv
import os
import sys

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common import callbacks as cb
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import polopt
from polopt.registry import agent_class


def make(env="CartPole-v1", **kwargs):
    kwargs = dict(n_steps=64, batch_size=32, n_epochs=2, seed=0, policy_kwargs=dict(net_arch=[16])) | kwargs
    return polopt.PPO("MlpPolicy", env, **kwargs)


def test_evaluate_policy():
    model = make()
    mean, std = evaluate_policy(model, Monitor(gym.make("CartPole-v1")), n_eval_episodes=3)
    assert 5 < mean <= 500 and std >= 0
    rewards, lengths = evaluate_policy(
        model, model.get_env(), n_eval_episodes=3, return_episode_rewards=True, warn=False
    )
    assert rewards == lengths  # CartPole pays 1 a step


class Recorder(cb.BaseCallback):
    """Writes down what it is told."""

    def __init__(self):
        super().__init__()
        self.seen, self.ends = [], 0

    def _on_step(self):
        keys = ("rewards", "dones", "infos", "actions", "clipped_actions", "new_obs", "n_steps")
        self.seen.append((self.num_timesteps, self.n_calls, {k: self.locals[k] for k in keys}))
        return True

    def _on_rollout_end(self):
        self.ends += 1


def test_callbacks_see_every_step():
    recorder = Recorder()
    model = make(num_envs=2).learn(256, callback=recorder)
    assert recorder.ends == 2 and len(recorder.seen) == 128
    assert [s[0] for s in recorder.seen] == list(range(2, 257, 2))
    assert [s[1] for s in recorder.seen] == list(range(1, 129))
    episodes = [info["episode"] for *_, s in recorder.seen for info in s["infos"] if "episode" in info]
    assert len(episodes) == sum(int(s["dones"].sum()) for *_, s in recorder.seen)
    assert [e["r"] for e in model.ep_info_buffer] == [e["r"] for e in episodes][-100:]
    for *_, s in recorder.seen:
        for i in np.flatnonzero(s["dones"]):
            assert s["infos"][i]["terminal_observation"].shape == (4,)
            assert not np.array_equal(s["infos"][i]["terminal_observation"], s["new_obs"][i])


def test_with_and_without_callback_the_same_training():
    plain, watched = make().learn(256), make().learn(256, callback=Recorder())
    for a, b in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_function_can_stop_training():
    model = make().learn(10_000, callback=lambda scope, _: scope["self"].num_timesteps < 100)
    assert model.num_timesteps == 100


def test_the_usual_callbacks(tmp_path):
    stop = cb.StopTrainingOnRewardThreshold(reward_threshold=1, verbose=0)
    evaluation = cb.EvalCallback(
        make_vec_env("CartPole-v1", 1), callback_on_new_best=stop, eval_freq=100, n_eval_episodes=2,
        best_model_save_path=str(tmp_path / "best"), log_path=str(tmp_path / "log"), verbose=0,
    )  # fmt: skip
    model = make().learn(
        10_000, callback=[cb.CheckpointCallback(50, str(tmp_path / "ck")), evaluation, cb.ProgressBarCallback()]
    )
    assert model.num_timesteps == 100, "the threshold is met at the first evaluation"
    assert np.load(tmp_path / "log" / "evaluations.npz")["results"].shape == (1, 2)
    for path in (tmp_path / "ck" / "rl_model_50_steps.zip", tmp_path / "best" / "best_model.zip"):
        polopt.PPO.load(path).predict(np.zeros(4, np.float32))
    model = make().learn(5_000, callback=cb.StopTrainingOnMaxEpisodes(max_episodes=3))
    assert len(model.ep_info_buffer) == 3
    calls = []
    make().learn(512, callback=cb.EveryNTimesteps(100, Counter(calls)))
    assert len(calls) == 5


class Counter(cb.BaseCallback):
    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def _on_step(self):
        self.calls.append(1)
        return True


def test_vec_normalize(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), gamma=0.9)
    model = make(env)
    assert model.get_env() is env and model.get_vec_normalize_env() is env
    checkpoints = cb.CheckpointCallback(64, str(tmp_path), save_vecnormalize=True)
    model.learn(256, callback=checkpoints)
    assert env.obs_rms.count > 250
    assert any("vecnormalize" in f for f in os.listdir(tmp_path))
    evaluation = VecNormalize(make_vec_env("Pendulum-v1", 1), training=False, norm_reward=False)
    model.learn(128, callback=cb.EvalCallback(evaluation, eval_freq=64, n_eval_episodes=1, verbose=0))
    np.testing.assert_allclose(evaluation.obs_rms.mean, env.obs_rms.mean)


def test_own_normalisation_is_part_of_the_model(tmp_path):
    model = make("Pendulum-v1", normalize_obs=True, normalize_reward=True, num_envs=2).learn(512)
    model.save(tmp_path / "m")
    loaded = polopt.PPO.load(tmp_path / "m")
    obs = np.array([[0.5, 0.5, 3.0], [-1.0, 0.0, -7.0]], np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    without = model.policy.predict(obs, deterministic=True)[0]
    assert not np.allclose(without, model.predict(obs, deterministic=True)[0])
    before = model.normalizer.statistics()["obs"]["obs"]["mean"].copy()
    evaluate_policy(model, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=1)
    np.testing.assert_array_equal(before, model.normalizer.statistics()["obs"]["obs"]["mean"])
    going_on = polopt.PPO.load(tmp_path / "m", env="Pendulum-v1")
    np.testing.assert_array_equal(going_on.normalizer.statistics()["obs"]["obs"]["mean"], before)


def test_logger_keys(tmp_path):
    model = make("Pendulum-v1")
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(512)
    with open(tmp_path / "progress.csv") as f:
        rows = list(csv.DictReader(f))
    expected = {
        "rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/iterations", "time/time_elapsed",
        "time/total_timesteps", "train/learning_rate", "train/n_updates", "train/loss", "train/approx_kl",
        "train/clip_fraction", "train/clip_range", "train/entropy_loss", "train/explained_variance",
        "train/policy_gradient_loss", "train/value_loss", "train/std",
        "train/kl_mean", "train/kl_max", "train/ratio_deviation", "train/ratio_variance",
    }  # fmt: skip
    assert expected <= set(rows[-1])
    assert [int(r["time/total_timesteps"]) for r in rows] == list(range(64, 513, 64))


def test_tensorboard_runs_are_numbered(tmp_path):
    for _ in range(2):
        make(tensorboard_log=str(tmp_path)).learn(64)
    assert sorted(os.listdir(tmp_path)) == ["PPO_1", "PPO_2"]


def test_attributes_that_tools_read():
    model = make(num_envs=3)
    assert model.n_envs == 3 and model.seed == 0 and model.device.type == "cpu" and model.verbose == 0
    assert model.gamma == 0.99 and model.learning_rate == 3e-4 and model.lr_schedule(0.5) == 3e-4
    assert model.observation_space.shape == (4,) and model.action_space.n == 2 and model._last_obs is None
    model.learning_rate = 1e-3
    assert model.config.learning_rate == 1e-3 and model.parts["policy"].lr.item() == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="outside"):
        model.gamma = 2.0
    obs, batched = model.policy.obs_to_tensor(np.zeros(4, np.float32))
    assert obs.shape == (1, 4) and not batched
    values, log_prob, entropy = model.policy.evaluate_actions(obs, torch.tensor([1]))
    assert values.shape == (1, 1) and log_prob.shape == entropy.shape == (1,)
    theirs = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", device="cpu").policy
    assert [x.shape for x in theirs.evaluate_actions(obs, torch.tensor([1]))] == [(1, 1), (1,), (1,)]


def test_schedules_follow_the_progress(tmp_path):
    model = make(learning_rate="lin_1e-2", clip_range=lambda p: 0.1 + 0.1 * p)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(256)
    with open(tmp_path / "progress.csv") as f:
        rates = [(float(r["train/learning_rate"]), float(r["train/clip_range"])) for r in csv.DictReader(f)]
    np.testing.assert_allclose(rates, [(1e-2 * p, 0.1 + 0.1 * p) for p in (1, 0.75, 0.5, 0.25)], rtol=1e-6)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="clip_range was a function"):
        polopt.PPO.load(tmp_path / "m")
    assert polopt.PPO.load(tmp_path / "m", custom_objects=dict(clip_range=0.2)).clip_range == 0.2
    # rl-zoo's way to have any file to predict with
    nought = dict(learning_rate=0.0, lr_schedule=lambda _: 0.0, clip_range=lambda _: 0.0)
    assert polopt.PPO.load(tmp_path / "m", custom_objects=nought).predict(np.zeros(4))[0] in (0, 1)


def test_predict_shapes_and_bad_observations():
    model = make("Pendulum-v1")
    assert model.predict(np.zeros(3))[0].shape == (1,)
    assert model.predict(np.zeros((5, 3)))[0].shape == (5, 1)
    action, state = model.predict(np.zeros(3), deterministic=True)
    assert state is None and model.action_space.contains(action)
    for bad in (np.zeros(4), np.zeros((2, 4)), np.zeros((2, 2, 3))):
        with pytest.raises(ValueError, match="does not fit"):
            model.predict(bad)


def test_set_env_checks_spaces_and_count():
    model = make(num_envs=2)
    with pytest.raises(ValueError, match="spaces"):
        model.set_env(make_vec_env("Pendulum-v1", 2))
    with pytest.raises(ValueError, match="worlds"):
        model.set_env(make_vec_env("CartPole-v1", 3))
    model.set_env(make_vec_env("CartPole-v1", 2))
    model.learn(128)


def test_load_without_env_then_set_env(tmp_path):
    make().learn(64).save(tmp_path / "m")
    model = polopt.PPO.load(tmp_path / "m", device="cpu", custom_objects=dict(lr_schedule=0.0, buffer_size=1))
    assert model.get_env() is None
    with pytest.raises(ValueError, match="no environment"):
        model.learn(10)
    model.set_env(gym.make("CartPole-v1"))
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps == 128


def test_bad_input():
    with pytest.raises(ValueError, match="did you mean PPO"):
        agent_class("PPPO")
    with pytest.raises(AttributeError, match="has no algorithm"):
        polopt.PQO  # noqa: B018
    with pytest.raises(ValueError, match="CartPole-v1"):
        make("CartPole-v9")
    with pytest.raises(ValueError, match="not available"):
        make(device="cuda:7")
    with pytest.raises(ValueError, match="CnnPolicy reads one image"):
        polopt.PPO("CnnPolicy", "CartPole-v1")
    for name in ("SAC", "FPO"):
        with pytest.raises(NotImplementedError, match="has no CnnPolicy"):
            getattr(polopt, name)("CnnPolicy", "Pendulum-v1")
    with pytest.raises(NotImplementedError, match="normalize_images"):
        make(policy_kwargs=dict(normalize_images=False))
    with pytest.raises(TypeError, match="unknown policy_kwargs"):
        make(policy_kwargs=dict(net_arh=[3]))
    with pytest.raises(ValueError, match="seed"):
        make(seed=-1)


class Trouble(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))

    def __init__(self, kind):
        self.kind, self.t = kind, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        obs, reward = np.zeros(2, np.float32), 0.0
        if self.t == 20:
            if self.kind == "raise":
                raise ZeroDivisionError("the world ended")
            if self.kind == "obs":
                obs[1] = np.nan
            if self.kind == "reward":
                reward = np.inf
        return obs, reward, False, False, {}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("raise", "environment 0|world 0"),
        ("obs", "observation of environment 0 at step 20"),
        ("reward", "reward of environment 0 at step 19"),
    ],
)
def test_an_environment_in_trouble_stops_training_and_is_named(kind, words):
    from polopt.env import EnvError

    with pytest.raises(EnvError, match=words):
        make(Trouble(kind)).learn(64)


def test_a_diverging_loss_stops_training():
    from polopt.agent import NonFiniteError

    with pytest.raises(NonFiniteError, match="diverged"):
        make("Pendulum-v1", learning_rate=1e30, max_grad_norm=None).learn(512)


def test_a_custom_extractor_and_optimizer(tmp_path):
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Twice(BaseFeaturesExtractor):
        def __init__(self, space, dim=5):
            super().__init__(space, dim)
            self.net = torch.nn.Linear(space.shape[0], dim)

        def forward(self, obs):
            return self.net(obs)

    kwargs = dict(
        features_extractor_class=Twice, features_extractor_kwargs=dict(dim=6), optimizer_class=torch.optim.RMSprop,
        activation_fn=torch.nn.ReLU, net_arch=dict(pi=[8], vf=[4, 4]),
    )  # fmt: skip
    model = make(policy_kwargs=kwargs).learn(128)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="pass policy_kwargs"):
        polopt.PPO.load(tmp_path / "m")
    loaded = polopt.PPO.load(tmp_path / "m", policy_kwargs=kwargs)
    obs = np.zeros((2, 4), np.float32)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    with pytest.raises(ValueError, match="differ"):
        polopt.PPO.load(tmp_path / "m", policy_kwargs=dict(net_arch=[3]))


def test_stable_baselines3_is_not_imported_to_predict(tmp_path):
    import subprocess

    make().learn(64).save(tmp_path / "m")
    code = "import sys, polopt; import numpy as np; "
    code += f"polopt.PPO.load({str(tmp_path / 'm')!r}).predict(np.zeros(4)); print('stable_baselines3' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


class Level(gym.Env):
    """A world that a curriculum sets: its reward is its level."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Discrete(2)
    level, state = 1.0, 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), self.level, False, False, {}


@pytest.mark.parametrize("wrap", [lambda: Level(), lambda: Monitor(Level())], ids=["bare", "Monitor"])
def test_a_curriculum_sets_attributes_of_the_users_worlds(wrap):
    class Raise(cb.BaseCallback):
        def _on_step(self):
            self.training_env.set_attr("level", 5.0)
            self.training_env.set_attr("state", 7.0)
            self.seen.append(float(self.locals["rewards"][0]))
            return True

    def rewards(library):
        venv, callback = DummyVecEnv([wrap]), Raise()
        callback.seen = []
        library.PPO("MlpPolicy", venv, n_steps=16, batch_size=16, device="cpu").learn(16, callback=callback)
        assert venv.get_attr("state") == [7.0]
        return callback.seen

    ours = rewards(polopt)
    assert ours == rewards(stable_baselines3)
    if not isinstance(wrap(), Monitor):  # which keeps what is set for itself, there too
        assert ours == [1.0] + [5.0] * 15


def test_worlds_that_two_models_share_are_wrapped_once():
    venv = DummyVecEnv([Level])
    for _ in range(2):
        make(venv, n_steps=16, batch_size=16).learn(16)
    assert type(venv.envs[0].env) is Level


def test_a_file_says_where_the_log_is_and_how_loud(tmp_path):
    model = make(tensorboard_log=str(tmp_path / "tb"), verbose=1)
    model.learn(64)
    model.save(tmp_path / "m")
    again = polopt.PPO.load(tmp_path / "m", env="CartPole-v1")
    assert again.verbose == 1 and again.tensorboard_log == str(tmp_path / "tb")
    again = polopt.PPO.load(tmp_path / "m", env="CartPole-v1", verbose=0, tensorboard_log=None)
    assert again.verbose == 0 and again.tensorboard_log is None


@pytest.mark.parametrize("method", ["PPO", "SAC"])
def test_a_callback_writes_the_log(method, tmp_path):
    """LogEveryNTimesteps and log_interval=None: the updates' figures are in its lines."""
    tables = []
    for library in (polopt, stable_baselines3):
        env = "Pendulum-v1"
        more = dict(n_steps=32, batch_size=32) if method == "PPO" else dict(learning_starts=10)
        model = getattr(library, method)("MlpPolicy", env, seed=0, policy_kwargs=dict(net_arch=[8]), **more)
        folder = tmp_path / library.__name__
        model.set_logger(configure(str(folder), ["csv"]))
        model.learn(128, callback=cb.LogEveryNTimesteps(40), log_interval=None)
        with open(folder / "progress.csv") as f:
            tables.append(list(csv.DictReader(f)))
    ours, theirs = ({k for row in table for k, v in row.items() if v and k.startswith("train/")} for table in tables)
    assert theirs and theirs <= ours
    assert len(tables[0]) == len(tables[1])


def test_what_callbacks_find_is_as_there():
    found = []

    class Look(cb.BaseCallback):
        def _on_step(self):
            found.append((self.locals["obs_tensor"], self.locals["rewards"]))
            return True

    model = make("Pendulum-v1", num_envs=2)
    model.learn(128, callback=Look())
    obs, rewards = found[0]
    assert isinstance(obs, torch.Tensor) and rewards.dtype == np.float32
    assert model.policy.predict_values(obs).shape == (2, 1)


def test_exploration_of_a_model_that_is_loaded(tmp_path):
    model = polopt.DQN("MlpPolicy", "CartPole-v1", exploration_fraction=1.0, learning_starts=10, seed=0)

    class Save(cb.BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 100:
                self.model.save(tmp_path / "half")
            return True

    model.learn(200, callback=Save())
    assert polopt.DQN.load(tmp_path / "half").exploration_rate == pytest.approx(1 - 0.95 * 0.5, abs=0.03)


class Dropping(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 8)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5))

    def forward(self, x):
        return self.net(x)


def test_a_seed_is_of_the_users_dropout_too():
    draws = iter((3, 5, 7, 9))

    def weights(seed):
        torch.rand(next(draws))  # whatever else draws in this process
        model = make(policy_kwargs=dict(features_extractor_class=Dropping), seed=seed).learn(64)
        return torch.cat([p.detach().flatten() for p in model.policy.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


class Pictures(gym.Env):
    observation_space = gym.spaces.Dict(
        {"image": gym.spaces.Box(0, 255, (36, 36, 1), np.uint8), "speed": gym.spaces.Box(-1, 1, (2,))}
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


@pytest.mark.parametrize("method", ["PPO", "TRPO"])
def test_pictures_beside_vectors(method, tmp_path):
    model = getattr(polopt, method)("MultiInputPolicy", Pictures(), n_steps=16, batch_size=16, seed=0).learn(16)
    model.save(tmp_path / "m")
    obs = Pictures().reset()[0]
    again = getattr(polopt, method).load(tmp_path / "m")
    assert again.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]
    with pytest.raises(NotImplementedError, match="has images"):
        polopt.DQN("MultiInputPolicy", Pictures())
