"""What holds for every algorithm: one test per property, over every file in the family folders."""

import copy
import inspect

import numpy as np
import pytest
import torch

import polopt
from polopt.agent import Agent
from polopt.registry import list_agents

NAMES = list(list_agents())
CONTINUOUS, DISCRETE = "Pendulum-v1", "CartPole-v1"


def small(name, env=None, **kwargs):
    """A tiny model of this algorithm, whatever of these hyperparameters it has."""
    cls = getattr(polopt, name)
    known = set(inspect.signature(cls).parameters)
    wanted = dict(n_steps=32, batch_size=16, n_epochs=2, num_envs=2, learning_starts=8, buffer_size=1000, tail="zero")
    if "real_ratio" in known:  # a small model of the world
        wanted |= dict(n_steps=1, rollout_batch_size=50, model_train_freq=40, model_arch=(8,), model_weight_decay=0.0)
        wanted |= dict(gradient_steps=1, num_networks=3, num_elites=2, model_max_passes=3)
    kwargs = {k: v for k, v in wanted.items() if k in known} | dict(seed=0, policy_kwargs=dict(net_arch=[8])) | kwargs
    return cls("MlpPolicy", env or env_of(cls), **kwargs)


def env_of(cls):
    from gymnasium import spaces

    return CONTINUOUS if spaces.Box in cls.action_spaces else DISCRETE


def vector(model):
    return torch.cat([p.detach().reshape(-1).double() for net in model.nets.values() for p in net.parameters()])


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_every_family_file_is_found_and_is_an_agent():
    from importlib.resources import files

    stems = {
        f.name
        for family in files("polopt.agents").iterdir()
        if family.is_dir() and not family.name.startswith(("_", "."))
        for f in family.iterdir()
        if f.name.endswith(".py") and not f.name.startswith("_")
    }
    assert len(stems) == len(NAMES) and "PPO" in NAMES
    for each in NAMES:
        assert issubclass(getattr(polopt, each), Agent)


def test_it_is_a_leaf_and_says_where_it_is_from(name):
    cls = getattr(polopt, name)
    assert not [c for c in cls.__subclasses__() if c.__module__.startswith("polopt.")]
    above = lambda c: 0 if c is Agent else 1 + max(above(b) for b in c.__bases__ if issubclass(b, Agent))
    assert above(cls) <= 3, "Agent -> family (-> its branch) -> paper"
    module = inspect.getmodule(cls).__doc__
    assert "arXiv" in module or any(str(year) in module for year in range(1980, 2030))


def test_signature_shows_every_hyperparameter_with_its_default(name):
    cls = getattr(polopt, name)
    parameters = inspect.signature(cls).parameters
    assert list(parameters)[:2] == ["policy", "env"]
    for field, default in cls.Config().to_json().items():
        shown = parameters[field].default
        assert shown == default or isinstance(default, (list, dict))


def test_learns_finitely_and_moves_its_parameters(name):
    model = small(name)
    before = vector(model)
    model.learn(128)
    assert model.num_timesteps >= 128
    after = vector(model)
    assert torch.isfinite(after).all() and not torch.equal(before, after)


def test_same_seed_same_numbers(name):
    runs = [vector(small(name).learn(128)) for _ in range(2)]
    assert torch.equal(*runs)
    assert not torch.equal(runs[0], vector(small(name, seed=1).learn(128)))


def test_a_step_of_one_part_moves_no_other(name):
    model = small(name)
    ids = [id(p) for part in model.parts.values() for p in part.params]
    assert len(ids) == len(set(ids)), "a parameter steps in two parts"


def test_save_load_predicts_the_same(name, tmp_path):
    model = small(name)
    model.learn(64)
    model.save(tmp_path / "model")
    cls = getattr(polopt, name)
    for loaded in (cls.load(tmp_path / "model"), polopt.load(tmp_path / "model.zip")):
        assert torch.equal(vector(loaded), vector(model))
        obs = np.stack([model.observation_space.sample() for _ in range(5)])
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
        )
        single = loaded.predict(obs[0], deterministic=True)[0]
        assert single.shape == model.action_space.shape and model.action_space.contains(single)
        assert loaded.config == model.config and loaded.num_timesteps == model.num_timesteps


def test_saved_in_full_goes_on_bit_for_bit(name, tmp_path):
    whole = small(name).learn(128)
    whole.learn(128, reset_num_timesteps=False)
    half = small(name).learn(128)
    half.save(tmp_path / "half", full=True)
    resumed = polopt.load(tmp_path / "half", env=half.env.id)
    resumed.learn(128, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed))


def test_parameters_round_trip(name):
    a, b = small(name), small(name, seed=3)
    b.set_parameters(copy.deepcopy(a.get_parameters()))
    assert torch.equal(vector(a), vector(b))
    with pytest.raises(ValueError, match="missing"):
        b.set_parameters({})
    with pytest.raises(ValueError, match="unknown"):
        b.set_parameters({"no_such_net": {}}, exact_match=False)


def test_misspelt_and_out_of_range(name):
    cls = getattr(polopt, name)
    with pytest.raises(TypeError, match="did you mean 'gamma'"):
        cls("MlpPolicy", env_of(cls), gama=0.9)
    with pytest.raises(ValueError, match=r"gamma=1\.5 is outside \[0, 1\]"):
        cls("MlpPolicy", env_of(cls), gamma=1.5)


def test_a_space_it_does_not_support(name):
    import gymnasium as gym
    from gymnasium import spaces

    class Odd(gym.Env):
        observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Text(3)

    with pytest.raises((ValueError, TypeError), match="Text"):
        small(name, Odd())
