"""Model files of stable-baselines3: the same actions as the real package's model, and no code run."""

import io
import json
import os
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3 as sb3
import torch
from gymnasium import spaces
from torch import nn

import polopt
from polopt.files import FileError
from polopt.sb3_zip import _space, is_sb3

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be read without running code")


class Spaced(gym.Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


VECTOR = spaces.Box(-np.inf, np.inf, (5,))
CONTINUOUS = Spaced(VECTOR, spaces.Box(np.float32([-2, 0.1]), np.float32([1, 0.7])))
DISCRETE = Spaced(VECTOR, spaces.Discrete(3))
SMALL = dict(buffer_size=10)
MODELS = {
    "PPO": ("PPO", CONTINUOUS, {}),
    "PPO discrete": ("PPO", DISCRETE, dict(policy_kwargs=dict(net_arch=dict(pi=[9], vf=[8, 7]), activation_fn=nn.ReLU))),
    "PPO of a grid": ("PPO", Spaced(spaces.Discrete(4), spaces.MultiDiscrete([2, 3])), {}),
    "PPO of bits": ("PPO", Spaced(spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(3)), dict(policy_kwargs=dict(net_arch=[]))),
    "A2C": ("A2C", CONTINUOUS, {}),
    "TRPO": ("TRPO", CONTINUOUS, {}),
    "SAC": ("SAC", CONTINUOUS, SMALL),
    "SAC fixed": ("SAC", CONTINUOUS, SMALL | dict(ent_coef=0.3, policy_kwargs=dict(net_arch=dict(pi=[9], qf=[8, 7]), n_critics=3))),
    "PPO sde": ("PPO", CONTINUOUS, dict(use_sde=True, sde_sample_freq=4, policy_kwargs=dict(full_std=False, use_expln=True))),
    "SAC sde": ("SAC", CONTINUOUS, SMALL | dict(use_sde=True)),
    "SAC sde unclipped": ("SAC", CONTINUOUS, SMALL | dict(use_sde=True, policy_kwargs=dict(clip_mean=-1.0, use_expln=1, activation_fn=nn.Tanh))),
    "A2C sde": ("A2C", CONTINUOUS, dict(use_sde=True)),
    "TRPO sde": ("TRPO", CONTINUOUS, dict(use_sde=True)),
    "TD3": ("TD3", CONTINUOUS, SMALL),
    "TD3 tanh": ("TD3", Spaced(spaces.Box(-1, 1, (2, 3)), CONTINUOUS.action_space), SMALL | dict(policy_kwargs=dict(activation_fn=nn.Tanh))),
    "DDPG": ("DDPG", CONTINUOUS, SMALL),
    "DQN": ("DQN", DISCRETE, SMALL | dict(policy_kwargs=dict(net_arch=[7, 6, 5]))),
}  # fmt: skip


def saved(folder, name, env, kwargs):
    cls = sb3_contrib.TRPO if name == "TRPO" else getattr(sb3, name)
    model = cls("MlpPolicy", env, device="cpu", seed=1, **kwargs)
    with torch.no_grad():
        for p in model.policy.parameters():
            p.add_(0.1 * torch.randn_like(p))
        if name == "DQN":  # no action is the best one everywhere
            obs = torch.as_tensor(np.stack([env.observation_space.sample() for _ in range(200)]))
            model.q_net.q_net[-1].bias.sub_(model.q_net(obs).mean(0))
    model.num_timesteps = 77
    model.save(folder / "model")
    return model, folder / "model.zip"


@pytest.mark.parametrize("which", MODELS)
@pytest.mark.parametrize("with_env", [False, True])
def test_the_same_actions(which, with_env, tmp_path):
    name, env, kwargs = MODELS[which]
    theirs, path = saved(tmp_path, name, env, kwargs)
    ours = getattr(polopt, name).load(path, env=env if with_env else None)
    obs = np.stack([env.observation_space.sample() for _ in range(200)])
    mine, expected = ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0]
    assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)
    assert ours.num_timesteps == 77 and ours.observation_space == env.observation_space
    assert ours.action_space == env.action_space and ours.learning_rate == theirs.learning_rate


@pytest.mark.parametrize("which", MODELS)
def test_whose_it_is_need_not_be_said(which, tmp_path):
    name, env, kwargs = MODELS[which]
    _, path = saved(tmp_path, name, env, kwargs)
    assert type(polopt.load(path)).__name__ == name


@pytest.mark.parametrize("which", ["SAC", "SAC fixed", "TD3", "DDPG"])
def test_the_critics_and_the_temperature_too(which, tmp_path):
    name, env, kwargs = MODELS[which]
    theirs, path = saved(tmp_path, name, env, kwargs)
    ours = getattr(polopt, name).load(path)
    obs, action = torch.randn(20, 5), torch.rand(20, 2) * 2 - 1
    for mine, peer in (("critic", theirs.critic), ("target_critic", theirs.critic_target)):
        torch.testing.assert_close(
            ours.nets[mine](obs, action), torch.cat(peer(obs, action), 1).T, rtol=1e-5, atol=1e-5
        )
    if name == "SAC":
        alpha = 0.3 if which == "SAC fixed" else theirs.log_ent_coef.exp().item()
        assert ours.temperature["log_alpha"].exp().item() == pytest.approx(alpha)
        assert ours.learned == (which == "SAC") and ours.entropy == theirs.target_entropy


def test_on_policy_values_and_standard_deviations(tmp_path):
    theirs, path = saved(tmp_path, *MODELS["PPO"])
    ours, obs = polopt.PPO.load(path), torch.randn(20, 5)
    torch.testing.assert_close(ours.policy.value(obs), theirs.policy.predict_values(obs).squeeze(-1))
    torch.testing.assert_close(ours.policy.head.log_std, theirs.policy.log_std)


def test_hyperparameters_come_along_and_training_goes_on(tmp_path):
    model = sb3.PPO(
        "MlpPolicy", "Pendulum-v1", n_steps=64, batch_size=32, gamma=0.9, clip_range=0.3, learning_rate=2e-3
    )
    model.save(tmp_path / "ppo")
    ours = polopt.PPO.load(tmp_path / "ppo", env="Pendulum-v1", gamma=0.8)
    assert (ours.n_steps, ours.batch_size, ours.gamma, ours.clip_range, ours.learning_rate) == (64, 32, 0.8, 0.3, 2e-3)
    before = ours.policy.head.linear.weight.clone()
    ours.learn(64)
    assert not torch.equal(before, ours.policy.head.linear.weight)
    ours.save(tmp_path / "again")
    assert not is_sb3(tmp_path / "again.zip") and polopt.PPO.load(tmp_path / "again").gamma == 0.8


@pytest.mark.filterwarnings("default:.*cannot be read")
def test_what_cannot_be_read_is_named(tmp_path):
    sb3.PPO("MlpPolicy", "Pendulum-v1", learning_rate=lambda p: 1e-3 * p).save(tmp_path / "ppo")
    with pytest.warns(UserWarning, match="learning_rate cannot be read without running code"):
        assert polopt.PPO.load(tmp_path / "ppo").learning_rate == 3e-4
    assert polopt.PPO.load(tmp_path / "ppo", custom_objects=dict(learning_rate=1e-5)).learning_rate == 1e-5


def test_every_kind_of_space_in_words():
    from stable_baselines3.common.save_util import data_to_json

    kinds = [
        VECTOR, spaces.Box(-1, 1, (2, 3), np.float64), spaces.Box(0, 255, (3,), np.uint8), spaces.Discrete(4),
        spaces.Discrete(4, start=2), spaces.MultiDiscrete([2, 3, 4]), spaces.MultiBinary(4), spaces.MultiBinary([2, 3]),
        spaces.Box(np.float32([-4.8, -np.inf, -0.41887903, 1e-9]), np.float32([4.8, np.inf, 3.4028235e38, 1 / 3])),
    ]  # fmt: skip
    for space in kinds:
        words = json.loads(data_to_json({"space": space}))["space"]
        assert _space(words) == space, space
    for space in (spaces.Box(0, np.linspace(1, 2, 3000, dtype=np.float32)), spaces.Dict(a=spaces.Discrete(2))):
        assert _space(json.loads(data_to_json({"space": space}))["space"]) is None


def test_spaces_that_cannot_be_read_come_from_the_environment(tmp_path):
    env = Spaced(spaces.Dict(b=spaces.Box(-1, 1, (2,)), a=spaces.Discrete(3)), CONTINUOUS.action_space)
    theirs = sb3.PPO("MultiInputPolicy", env, device="cpu")
    theirs.save(tmp_path / "dict")
    with pytest.raises(ValueError, match=r"observation_space cannot be read without running code.*pass env"):
        polopt.PPO.load(tmp_path / "dict")
    ours, obs = polopt.PPO.load(tmp_path / "dict", env=env), env.observation_space.sample()
    np.testing.assert_allclose(
        ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0], rtol=1e-5, atol=1e-6
    )


def test_another_algorithm_and_other_networks(tmp_path):
    _, path = saved(tmp_path, *MODELS["PPO"])
    with pytest.raises(FileError, match="does not hold a SAC model"):
        polopt.SAC.load(path)
    with pytest.raises(FileError, match="PPO, A2C, TRPO, SAC, TD3, DDPG, DQN can be read, not SPO"):
        polopt.SPO.load(path)
    squashed = dict(squash_output=True)
    sb3.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, policy_kwargs=squashed).save(tmp_path / "squashed")
    with pytest.raises(FileError, match="squash_output"):
        polopt.PPO.load(tmp_path / "squashed")
    image = Spaced(spaces.Box(0, 255, (36, 36, 3), np.uint8), spaces.Discrete(2))
    sb3.PPO("CnnPolicy", image).save(tmp_path / "cnn")
    with pytest.raises(FileError, match="besides multilayer perceptrons"):
        polopt.PPO.load(tmp_path / "cnn")
    with pytest.raises(FileNotFoundError):
        polopt.PPO.load(tmp_path / "none")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["policy.pth", "pytorch_variables.pth", "data"])
def test_a_file_from_a_stranger_runs_no_code(where, tmp_path):
    import base64
    import pickle

    trap = tmp_path / "trap"
    pickle.dumps(Hostile(trap))
    _, path = saved(tmp_path, *MODELS["SAC"])
    with zipfile.ZipFile(path) as z:
        parts = {name: z.read(name) for name in z.namelist()}
    if where == "data":
        data = json.loads(parts["data"])
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = base64.b64encode(pickle.dumps(Hostile(trap))).decode()
        parts["data"] = json.dumps(data)
    else:
        buffer = io.BytesIO()
        torch.save({"a": Hostile(trap)}, buffer)
        parts[where] = buffer.getvalue()
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as z:
        for name, content in parts.items():
            z.writestr(name, content)
    if where == "data":
        polopt.SAC.load(tmp_path / "hostile.zip")
    else:
        with pytest.raises(FileError, match="damaged, or holds more than weights"):
            polopt.SAC.load(tmp_path / "hostile.zip")
    assert not trap.exists()
