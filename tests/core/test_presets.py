"""Every preset builds a model; the stub says what there is; unknown names are answered with the nearest."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

import polopt
from polopt.presets import policy_kwargs, preset, presets
from polopt.stub import render

EVERY = [(algorithm, env) for algorithm in polopt.list_agents() for env in presets(algorithm)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("algorithm, env", EVERY)
def test_every_preset_builds_its_algorithm_on_its_environment(algorithm: str, env: str):
    found = preset(algorithm, env)
    model = getattr(polopt, algorithm)("MlpPolicy", env, **found)
    for name, value in found.items():
        assert getattr(model, name) == value


def test_ppo_has_presets_for_gymnasiums_mujoco_tasks():
    mujoco = {name for name in polopt.list_envs() if name.endswith("-v5")}
    assert len(mujoco) == 11 and mujoco <= set(presets("PPO"))


def test_the_namespace_may_be_given():
    assert preset("PPO", "polopt/HalfCheetah-v5") == preset("PPO", "HalfCheetah-v5")


def test_unknown_names():
    with pytest.raises(ValueError, match=r"no preset for PPO on 'HalfCheeta-v5'; did you mean HalfCheetah-v5"):
        preset("PPO", "HalfCheeta-v5")
    with pytest.raises(ValueError, match=r"no presets for 'Nothing'; there are for .*PPO"):
        preset("Nothing", "HalfCheetah-v5")


def test_activations_by_name():
    assert policy_kwargs({"activation_fn": "ReLU", "net_arch": [3]}) == {"activation_fn": nn.ReLU, "net_arch": [3]}
    assert policy_kwargs({"activation_fn": nn.Tanh}) == {"activation_fn": nn.Tanh}
    for wrong in ("Relu", "functional"):
        with pytest.raises(ValueError, match=r"must be a class of torch.nn; did you mean"):
            policy_kwargs({"activation_fn": wrong})


def test_the_stub_is_what_there_is():
    file = Path(polopt.__file__).with_suffix(".pyi")
    assert file.read_text("utf-8") == render(), "run `python -m polopt.stub`"
