"""Ids, backends, what as_env takes, and what is said when something is wrong."""

import subprocess
import sys
from itertools import repeat

import gymnasium
import numpy as np
import polopt.envs
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from polopt.envs import as_env, list_envs, make_env
from polopt.envs.classic import TorchWorlds
from polopt.envs.gymnasium import GymnasiumEnv, GymnasiumVector
from polopt.envs.sb3 import SB3VecEnv, to_sb3
from polopt.envs.table import TABLE, find
from stable_baselines3.common.vec_env import DummyVecEnv

from polopt.env import Env, HostEnv


class Odd(gymnasium.Env):
    def __init__(self, observation_space=None, action_space=None):
        self.observation_space = observation_space or spaces.Box(-1, 1, (2,))
        self.action_space = action_space or spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 1.0, False, False, {}


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, polopt.envs, polopt.envs.table; polopt.envs.list_envs(); dir(polopt.envs)\n"
        "assert not {'torch', 'gymnasium', 'mujoco', 'numpy', 'stable_baselines3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_lazy_name_exists():
    assert set(polopt.envs.__all__) <= set(dir(polopt.envs))
    for name in polopt.envs.__all__:
        assert getattr(polopt.envs, name) is not None
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = polopt.envs.nothing_here


def test_table_agrees_with_gymnasium():
    for id, world in TABLE.items():
        if not id.startswith("polopt/"):
            spec = gymnasium.spec(id)
            assert (spec.max_episode_steps, spec.reward_threshold) == (world.max_episode_steps, world.reward_threshold)
    assert list_envs() == sorted(TABLE)
    assert find("polopt/CartPole-v1")[0] == "CartPole-v1"
    assert find("Blackjack-v1") is None


def test_backends():
    assert isinstance(make_env("CartPole-v1", 3), HostEnv)
    assert isinstance(make_env("CartPole-v1", 3, backend="torch"), TorchWorlds)
    assert isinstance(make_env("CartPole-v1", 3, backend="gymnasium"), GymnasiumEnv)
    assert isinstance(make_env("Taxi-v4" if "Taxi-v4" in gymnasium.registry else "Taxi-v3"), GymnasiumEnv)
    assert make_env("polopt/CartPole-v1").id == "CartPole-v1"
    env = make_env("CartPole-v1", 3, backend="gymnasium", max_episode_steps=7)
    assert (env.num_envs, env.max_episode_steps, env.id) == (3, 7, "CartPole-v1")


def test_auto_gives_gymnasiums_episodes():
    """The same seed and actions: the same observations, rewards and ends from both backends, one world."""
    mine, peer = make_env("CartPole-v1", seed=5), make_env("CartPole-v1", backend="gymnasium", seed=5)
    np.testing.assert_allclose(mine.reset_host(), peer.reset_host(), atol=1e-6)
    for action in np.random.default_rng(0).integers(0, 2, (300, 1)):
        a, b = mine.step_host(action), peer.step_host(action)
        for x, y in zip(a[:5], b[:5], strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)
    assert mine.pop_episodes() == peer.pop_episodes() != []


@pytest.mark.parametrize("typo", ["HalfCheeta-v5", "halfcheetah-v5", "HalfCheetah-v6", "polopt/HalfCheetah-v9"])
def test_unknown_id_names_the_nearest(typo):
    with pytest.raises(ValueError, match="HalfCheetah-v5") as error:
        make_env(typo)
    assert typo in str(error.value)


def test_an_id_may_name_the_module_that_registers_it(tmp_path, monkeypatch):
    (tmp_path / "registers_a_world.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Registered-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make_env("registers_a_world:Registered-v0", seed=0)
    assert env.id == "registers_a_world:Registered-v0" and env.max_episode_steps == 7
    with pytest.raises(ValueError, match="importing 'no_such_module' failed"):
        make_env("no_such_module:Registered-v0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "nothing like it"}, "list_envs"),
        ({"id": "CartPole-v1", "backend": "jax"}, "backend='jax'"),
        ({"id": "CartPole-v1", "backend": "native"}, "no backend 'native'.*'torch'"),
        ({"id": "Blackjack-v1", "backend": "torch"}, "no backend 'torch'"),
        ({"id": "CartPole-v1", "num_envs": 0}, "num_envs=0"),
        ({"id": "CartPole-v1", "num_envs": 1.5}, "num_envs=1.5"),
        ({"id": "CartPole-v1", "device": "nowhere"}, "nowhere"),
        ({"id": "CartPole-v1", "dtype": torch.int8}, "int8"),
        ({"id": "CartPole-v1", "backend": "gymnasium", "device": "meta"}, "CPU"),
        ({"id": "HalfCheetah-v5", "device": "meta"}, "CPU"),
        ({"id": "HalfCheetah-v5", "render_mode": "depth_array"}, "render_mode='depth_array'.*backend='gymnasium'"),
        ({"id": "CartPole-v1", "backend": "torch", "render_mode": "human"}, "render_mode='human'.*backend='torch'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_env(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has one")
def test_missing_device():
    with pytest.raises(ValueError, match=r"cuda.*not available"):
        make_env("CartPole-v1", device="cuda")


SPACES = [
    spaces.Box(-1, 1, (3,), np.float64),
    spaces.Box(0, 255, (4, 4, 1), np.uint8),
    spaces.Discrete(5),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([3, 4]),
    spaces.MultiBinary(4),
    spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_observation_spaces(space):
    env = as_env(lambda: Odd(space), num_envs=3)
    step = env.step(torch.zeros(3, dtype=torch.int64)) if env.reset(0) is not None else None
    obs, parts = (step.obs, space.spaces) if isinstance(space, spaces.Dict) else ({0: step.obs}, {0: space})
    for key, part in parts.items():
        assert obs[key].shape == (3, *part.shape)
        floating = np.issubdtype(part.dtype, np.floating)
        assert obs[key].numpy().dtype == (np.float32 if floating else part.dtype)


@pytest.mark.parametrize("space", [s for s in SPACES if not isinstance(s, spaces.Dict)], ids=str)
def test_action_spaces(space):
    seen = []

    class Listener(Odd):
        def step(self, action):
            seen.append(action)
            return super().step(action)

    env = as_env(lambda: Listener(action_space=space), num_envs=2)
    env.reset(0)
    sent = [space.sample(), space.sample()]
    env.step(torch.tensor(np.array(sent)))
    for got, want in zip(seen, sent, strict=True):
        assert space.contains(got)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("kind", "space"),
    [
        ("observation", spaces.Tuple([spaces.Discrete(2)])),
        ("observation", spaces.Text(5)),
        ("observation", spaces.Dict({"deep": spaces.Dict({"a": spaces.Discrete(2)})})),
        ("action", spaces.Tuple([spaces.Discrete(2)])),
        ("action", spaces.Dict({"a": spaces.Discrete(2)})),
    ],
)
def test_unsupported_spaces_are_named(kind, space):
    with pytest.raises(TypeError, match=f"{kind} space .*Box, Discrete, MultiDiscrete, MultiBinary") as error:
        as_env(Odd(**{f"{kind}_space": space}))
    named = space["deep"] if kind == "observation" and isinstance(space, spaces.Dict) else space
    assert str(named) in str(error.value)


def test_as_env_takes_what_there_is():
    def one():
        return gymnasium.make("CartPole-v1")

    assert as_env("CartPole-v1", num_envs=4).num_envs == 4
    env = make_env("CartPole-v1", 2)
    assert as_env(env) is env
    assert isinstance(as_env(one()), GymnasiumEnv)
    assert as_env(one, num_envs=3).num_envs == 3
    assert isinstance(as_env(lambda: env), Env)
    assert isinstance(as_env(SyncVectorEnv([one] * 3)), GymnasiumVector)
    assert isinstance(as_env(DummyVecEnv([one] * 2)), SB3VecEnv)
    assert isinstance(as_env(lambda: DummyVecEnv([one])), SB3VecEnv)
    assert as_env(gymnasium.make_vec("polopt/CartPole-v1", 5)).id == "CartPole-v1"
    assert as_env(to_sb3(env)) is env


@pytest.mark.parametrize("wrong", [3, None, ["CartPole-v1"], repeat(1)], ids=str)
def test_as_env_refuses_the_rest(wrong):
    with pytest.raises(TypeError, match=f"{type(wrong).__name__}.*VectorEnv.*VecEnv"):
        as_env(wrong)


def test_as_env_refuses_callables_of_the_rest():
    with pytest.raises(TypeError, match="int"):
        as_env(lambda: 3)
    with pytest.raises(TypeError, match="returned HostWorlds"):
        as_env(lambda: make_env("CartPole-v1"), num_envs=2)


def test_one_object_is_one_world():
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match="num_envs=4"):
        as_env(env, num_envs=4)
    with pytest.raises(ValueError, match="twice"):
        as_env(lambda: env, num_envs=2)
    vector = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert as_env(vector, num_envs=3).num_envs == 3


def test_seed_is_of_the_first_reset():
    for backend in ("auto", "torch", "gymnasium"):
        a, b = (make_env("CartPole-v1", 3, backend=backend, seed=s) for s in (4, None))
        assert torch.equal(a.reset(), b.reset(4))
        assert torch.equal(a.reset(), b.reset())
        assert not torch.equal(a.reset(), a.reset())
