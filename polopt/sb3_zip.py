"""Model files of stable-baselines3, read as data: nothing in them is run.

Such a file is a zip of weights (read with ``weights_only=True``), JSON, and pickles inside the JSON. The pickles are left
alone: beside each one the file says in words what it holds, and spaces, activations and constants are read from there.
What stays unreadable (functions, some objects) keeps its default, and a warning names it.
"""

from __future__ import annotations

import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

from .files import FileError
from .model_file import restore
from .spaces import to_json

__all__ = ["algorithm", "is_sb3", "load"]

Weights = dict[str, Tensor]


def is_sb3(path: Any) -> bool:
    """Whether there is a zip of stable-baselines3's at this path (or open file)."""
    if isinstance(path, (str, os.PathLike)) and not os.path.exists(path):
        return False
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as z:
        return {"data", "policy.pth"} <= set(z.namelist())


_MARKS = {
    "TRPO": "cg_max_steps", "PPO": "clip_range", "SAC": "target_entropy", "DQN": "exploration_fraction",
    "TD3": "target_policy_noise", "A2C": "normalize_advantage",
}  # fmt: skip
"""The file does not say whose it is: hyperparameters that tell, in the order in which they do."""


def algorithm(path: Any) -> str:
    """Which algorithm's model a file holds, told by its hyperparameters.

    Raises:
        FileError: the file is damaged, or of an algorithm that is not read.
    """
    data, _, _ = _read(path)
    for name, mark in _MARKS.items():
        if mark in data:
            alone = (data.get("policy_kwargs") or {}).get("n_critics") == 1
            return "DDPG" if name == "TD3" and alone and data.get("policy_delay") == 1 else name
    raise FileError(f"{path} is stable-baselines3's, of an algorithm that is not read; {', '.join(_NETS)} are")


def load(cls: Any, path: Any, env: Any, device: Any, changes: dict[str, Any], force_reset: bool = True) -> Any:
    """A model of this algorithm with the file's weights, spaces and readable hyperparameters; optimizers begin anew.

    Raises:
        FileError: the file is damaged, of another algorithm, or of networks that are not plain multilayer perceptrons.
        ValueError: its spaces cannot be read, and there is no ``env`` to take them from.
    """
    data, weights, variables = _read(path)
    convert = _NETS.get(cls.__name__)
    if convert is None:
        raise FileError(
            f"{path} is stable-baselines3's; of its models {', '.join(_NETS)} can be read, not {cls.__name__}"
        )
    if extra := sorted({k.split(".")[0] for k in weights if "features_extractor" in k}):
        raise FileError(f"{path} has networks besides multilayer perceptrons, which are not read: {', '.join(extra)}")
    try:
        nets, arch = convert(weights)
    except KeyError as error:
        raise FileError(f"{path} does not hold a {cls.__name__} model: it has no {error}") from error
    config = _config(cls, path, data, changes)
    kwargs: dict[str, Any] = {"net_arch": arch} | _activation(data) | _exploration(path, data)
    if "critic" in nets and cls.__name__ != "DDPG" and (members := len(nets["critic"]["weights.0"])) != 2:
        kwargs["n_critics"] = members
    if cls.__name__ == "SAC":
        nets["temperature"] = _temperature(variables)
    observation_space, action_space = _spaces(cls, path, data, env)
    policy = "MultiInputPolicy" if isinstance(observation_space, spaces.Dict) else "MlpPolicy"
    state = {
        "algorithm": cls.__name__, "policy": policy, "config": config, "policy_kwargs": kwargs, "env_id": None,
        "observation_space": to_json(observation_space), "action_space": to_json(action_space), "env_kwargs": {},
        "seed": data.get("seed"), "n_envs": int(data.get("n_envs") or 1), "normalize": None, "parameters": nets, "partial": True,
        "num_timesteps": int(data.get("num_timesteps", 0)), "total_timesteps": int(data.get("_total_timesteps", 0)),
        "n_updates": int(data.get("_n_updates", 0)), "verbose": int(data.get("verbose") or 0),
        "tensorboard_log": data.get("tensorboard_log"), "exploration_rate": data.get("exploration_rate"),
    }  # fmt: skip
    return restore(cls, state, path, env, device, changes, force_reset)


def _read(path: Any) -> tuple[dict[str, Any], Weights, Weights]:
    """JSON, weights and loose variables of a file."""
    try:
        with zipfile.ZipFile(path) as z:
            data = json.loads(z.read("data"))
            read = lambda name: torch.load(io.BytesIO(z.read(name)), map_location="cpu", weights_only=True)
            variables = read("pytorch_variables.pth") if "pytorch_variables.pth" in z.namelist() else {}
            return data, dict(read("policy.pth")), dict(variables or {})
    except Exception as error:  # whatever torch makes of bytes that are no weights
        raise FileError(f"{path} is damaged, or holds more than weights: {error}") from error


# -- networks ------------------------------------------------------------------------------------------------------


def _layers(weights: Weights, prefix: str) -> list[tuple[Tensor, Tensor]]:
    """``(weight, bias)`` of the linear layers ``PREFIX.0, PREFIX.2, ...``."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.weight")
    numbers = sorted(int(m[1]) for m in map(pattern.fullmatch, weights) if m)
    return [(weights[f"{prefix}.{i}.weight"], weights[f"{prefix}.{i}.bias"]) for i in numbers]


def _widths(layers: list[tuple[Tensor, Tensor]]) -> list[int]:
    return [len(bias) for _, bias in layers]


def _named(layers: list[tuple[Tensor, Tensor]], to: str) -> Weights:
    return {
        f"{to}.{2 * i}.{kind}": x
        for i, pair in enumerate(layers)
        for kind, x in zip(("weight", "bias"), pair, strict=True)
    }


def _linear(weights: Weights, name: str, to: str) -> Weights:
    return {f"{to}.{kind}": weights[f"{name}.{kind}"] for kind in ("weight", "bias")}


def _whole(weights: Weights, prefix: str) -> tuple[Weights, list[int]]:
    """A network whose last layer is the head."""
    layers = _layers(weights, prefix)
    if not layers:
        raise KeyError(prefix)
    head = dict(zip(("head.linear.weight", "head.linear.bias"), layers[-1], strict=True))
    return _named(layers[:-1], "trunk") | head, _widths(layers[:-1])


def _ensemble(weights: Weights, prefix: str) -> tuple[Weights, list[int]]:
    members = []
    while layers := _layers(weights, f"{prefix}.qf{len(members)}"):
        members.append(layers)
    if not members:
        raise KeyError(f"{prefix}.qf0")
    out: Weights = {}
    for i, layer in enumerate(zip(*members, strict=True)):
        out[f"weights.{i}"] = torch.stack([weight.T for weight, _ in layer])
        out[f"biases.{i}"] = torch.stack([bias.unsqueeze(0) for _, bias in layer])
    return out, _widths(members[0][:-1])


Nets = tuple[dict[str, Weights], dict[str, list[int]]]


def _actor_critic(weights: Weights) -> Nets:
    pi, vf = _layers(weights, "mlp_extractor.policy_net"), _layers(weights, "mlp_extractor.value_net")
    policy = _named(pi, "trunk") | _named(vf, "critic_trunk")
    policy |= _linear(weights, "action_net", "head.linear") | _linear(weights, "value_net", "critic_head")
    if "log_std" in weights:
        policy["head.log_std"] = weights["log_std"]
    return {"policy": policy}, {"pi": _widths(pi), "vf": _widths(vf)}


def _sac(weights: Weights) -> Nets:
    pi = _layers(weights, "actor.latent_pi")
    policy = _named(pi, "trunk") | _linear(
        weights, "actor.mu.0" if "actor.mu.0.weight" in weights else "actor.mu", "head.linear"
    )
    if "actor.log_std" in weights:  # of use_sde
        policy["head.log_std"] = weights["actor.log_std"]
    else:
        policy |= _linear(weights, "actor.log_std", "head.log_std")
    (critic, qf), (target, _) = _ensemble(weights, "critic"), _ensemble(weights, "critic_target")
    return {"policy": policy, "critic": critic, "target_critic": target}, {"pi": _widths(pi), "qf": qf}


def _td3(weights: Weights) -> Nets:
    (policy, pi), (target_policy, _) = _whole(weights, "actor.mu"), _whole(weights, "actor_target.mu")
    (critic, qf), (target, _) = _ensemble(weights, "critic"), _ensemble(weights, "critic_target")
    nets = {"policy": policy, "target_policy": target_policy, "critic": critic, "target_critic": target}
    return nets, {"pi": pi, "qf": qf}


def _dqn(weights: Weights) -> Nets:
    (policy, qf), (target, _) = _whole(weights, "q_net.q_net"), _whole(weights, "q_net_target.q_net")
    return {"policy": policy, "target_policy": target}, {"qf": qf}


_NETS: dict[str, Callable[[Weights], Nets]] = {
    "PPO": _actor_critic, "A2C": _actor_critic, "TRPO": _actor_critic, "SAC": _sac, "TD3": _td3, "DDPG": _td3, "DQN": _dqn,
}  # fmt: skip


def _temperature(variables: Weights) -> Weights:
    if "log_ent_coef" in variables:
        return {"log_alpha": variables["log_ent_coef"].detach().reshape(())}
    return {"log_alpha": variables["ent_coef_tensor"].detach().reshape(()).log()}


# -- hyperparameters -----------------------------------------------------------------------------------------------


def _config(cls: Any, path: Any, data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that can be read. A value that is not JSON is a dict which says in words what it was."""
    config, unread = {}, []
    for f in fields(cls.Config):
        value = data.get(f.name)
        if f.name not in data or f.name in changes or f.name.endswith(("buffer_class", "buffer_kwargs")):
            continue
        if isinstance(value, dict):
            constant = re.search(r"ConstantSchedule\(val=([^)]+)\)", str(value.get("value_schedule", "")))
            if constant is None:
                unread.append(f.name)
                continue
            value = float(constant[1])
        if f.name == "max_grad_norm" and value == 0:
            continue  # how the package's TRPO says that there is none
        config[f.name] = value
    kwargs = data.get("policy_kwargs") or {}
    if "optimizer_class" in kwargs and cls.__name__ != "A2C":  # which says use_rms_prop so
        unread.append("optimizer_class, optimizer_kwargs")
    if unread:
        warnings.warn(
            f"{path}: {', '.join(unread)} cannot be read without running code of the file and keep their defaults; "
            "pass them to load to go on training with others",
            stacklevel=4,
        )
    return config


def _activation(data: dict[str, Any]) -> dict[str, Any]:
    kwargs = data.get("policy_kwargs") or {}
    named = re.search(r"'(.+)\.(\w+)'", str(kwargs.get("activation_fn", "")))
    return {} if named is None else {"activation_fn": {"class": f"{named[1]}:{named[2]}"}}


def _exploration(path: Any, data: dict[str, Any]) -> dict[str, Any]:
    """What a file with state-dependent noise says of it beside its weights.

    Raises:
        FileError: its on-policy actions are squashed.
    """
    kwargs = data.get("policy_kwargs") or {}
    if not data.get("use_sde"):
        return {}
    if str(kwargs.get("squash_output", False)) not in ("False", "None", "0"):
        raise FileError(f"{path} has squash_output=True, which is not read")
    no = ("False", "None", "0", "0.0")  # a value is JSON, or in words
    out = {name: str(kwargs[name]) not in no for name in ("full_std", "use_expln") if name in kwargs}
    return out | ({"clip_mean": max(float(kwargs["clip_mean"]), 0.0)} if "clip_mean" in kwargs else {})


# -- spaces --------------------------------------------------------------------------------------------------------


def _spaces(cls: Any, path: Any, data: dict[str, Any], env: Any) -> tuple[Space, Space]:
    found = []
    for name in ("observation_space", "action_space"):
        space = _space(data.get(name) or {})
        if space is None and env is None:
            raise ValueError(
                f"{path}: its {name} cannot be read without running code of the file: pass env=... to load"
            )
        found.append(space)
    if None in found:
        given = cls("MlpPolicy", env, _init_setup_model=False)
        found = [
            space or theirs for space, theirs in zip(found, (given.observation_space, given.action_space), strict=True)
        ]
    return tuple(found)


def _space(words: dict[str, Any]) -> Space | None:
    """A space from what the file says of it; None where that is not enough (a Dict, very many bounds)."""
    kind = str(words.get(":type:", "")).rpartition(".")[2].rstrip("'>")
    try:
        if kind == "Box":
            shape = tuple(int(n) for n in _numbers(words.get("_shape", words.get("shape"))))
            dtype = np.dtype(re.sub(r"<class 'numpy\.(\w+)'>", r"\1", str(words["dtype"])))
            low, high = (np.array(_numbers(words[k])).reshape(shape).astype(dtype) for k in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        if kind == "Discrete":
            return spaces.Discrete(int(_numbers(words["n"])[0]), start=int(_numbers(words.get("start", 0))[0]))
        if kind == "MultiDiscrete":
            return spaces.MultiDiscrete([int(n) for n in _numbers(words["nvec"])])
        if kind == "MultiBinary":
            n = [int(n) for n in _numbers(words["n"])]
            return spaces.MultiBinary(n[0] if len(n) == 1 else n)
    except (KeyError, ValueError, TypeError):
        return None
    return None


def _numbers(words: Any) -> list[float]:
    """The numbers of an array in print.

    Raises:
        ValueError: it is not all there.
    """
    return [float(n) for n in re.sub(r"[\[\](),]", " ", str(words)).split()]
