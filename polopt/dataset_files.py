"""Datasets on the disk: Minari's folders of episodes, and D4RL's flat HDF5 files.

Minari (Farama-Foundation/Minari, 0.5): ``ROOT/ID/data/main_data.hdf5`` holds a group ``episode_i`` of ``observations``
(T + 1 rows), ``actions, rewards, terminations, truncations`` (T rows) and ``infos``; ``metadata.json`` beside it the spaces.
ROOT is the environment variable MINARI_DATASETS_PATH, else ``~/.minari/datasets``. Nothing is downloaded.

D4RL (arXiv 2004.07219): one file of flat arrays ``observations, actions, rewards, terminals, timeouts``, and where recorded
``next_observations`` and ``infos/...``.
"""

from __future__ import annotations

import difflib
import io
import json
import os
import re
import shutil
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import Space, spaces

from .config import whole_number
from .dataset import Dataset, DatasetError, jumps
from .files import atomic

__all__ = [
    "check_id",
    "list_datasets",
    "load_dataset",
    "read_d4rl",
    "read_minari",
    "root",
    "write_d4rl",
    "write_minari",
]

MINARI_VERSION = "0.5.4"
"""The version of the layout written here."""
_ID = re.compile(r"([\w-]+/)*[\w-]+-v\d+")


def root() -> Path:
    """Where Minari keeps its datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def list_datasets() -> list[str]:
    """Ids of the datasets under :func:`root`."""
    found = (f.parent.parent.relative_to(root()) for f in root().glob("**/data/main_data.hdf5"))
    return sorted(f.as_posix() for f in found if not any(part.startswith(".") for part in f.parts))  # one half written


def load_dataset(source: str | os.PathLike[str] | Dataset) -> Dataset:
    """A dataset from a local Minari id, a Minari folder, or a flat D4RL file (``.hdf5``).

    Raises:
        FileNotFoundError: there is none; names the nearest local ids.
        DatasetError: what is there is not a dataset, or one that cannot be learned from.
    """
    if isinstance(source, Dataset):
        return source
    path = Path(source)
    if path.is_file():
        return read_d4rl(path)
    for folder in (path, root() / path):
        if (folder / "data" / "main_data.hdf5").is_file():
            return read_minari(folder)
    known = list_datasets()
    near = difflib.get_close_matches(str(source), known, n=3, cutoff=0.4) or known[:8]
    hint = f"; nearest: {', '.join(near)}" if near else " and none at all"
    raise FileNotFoundError(
        f"there is no dataset {str(source)!r}: no such file or folder, and no such id in {root()}{hint}"
    )


# -- Minari --------------------------------------------------------------------------------------------------------------


def read_minari(folder: str | os.PathLike[str]) -> Dataset:
    """The dataset in a Minari folder. Dict observations are flattened, and how is said in a warning.

    Raises:
        DatasetError: the folder is damaged, holds no episode, or is of a kind that is not read (arrow, discrete actions).
    """
    data = Path(folder) / "data"
    try:
        meta = json.loads((data / "metadata.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise DatasetError(f"{folder}: metadata.json cannot be read: {error}") from error
    name = meta.get("dataset_id") or Path(folder).name
    if meta.get("data_format", "hdf5") != "hdf5":
        raise DatasetError(f"{name}: its format is {meta['data_format']!r}; only hdf5 is read")
    spec = meta.get("env_spec")
    spec = json.loads(spec) if isinstance(spec, str) else None
    observation_space, action_space = (_space(meta.get(k), name) for k in ("observation_space", "action_space"))
    if action_space is not None and not isinstance(action_space, spaces.Box):
        raise DatasetError(f"{name}: its actions are of {action_space}; offline methods here need a Box")
    columns: dict[str, list[np.ndarray]] = {}
    keys: list[str] | None = None
    with _open(data / "main_data.hdf5") as file:
        groups = sorted((k for k in file if k.startswith("episode_")), key=lambda k: int(k.removeprefix("episode_")))
        for group in groups:
            episode = file[group]
            if missing := {"observations", "actions", "rewards", "terminations", "truncations"} - set(episode):
                raise DatasetError(f"{name}: {group} has no {', '.join(sorted(missing))}")
            observations, keys = _flat(episode["observations"])
            rows = {k: episode[k][()] for k in ("actions", "rewards", "terminations", "truncations")}
            steps = len(rows["rewards"])
            if lengths := {k: len(v) for k, v in rows.items() if len(v) != steps}:
                raise DatasetError(f"{name}: {group} has {steps} rewards and {lengths}")
            if len(observations) != steps + 1:
                raise DatasetError(
                    f"{name}: {group} has {steps} rewards and {len(observations)} observations, not one more"
                )
            if not steps:
                continue
            rows["truncations"][-1] |= not rows["terminations"][-1]  # the recording stopped
            rows |= {"obs": observations[:-1], "next_obs": observations[1:]}
            for path, x in _leaves(episode.get("infos", {})):
                if len(x) in (steps, steps + 1):
                    rows[f"infos/{path}"] = x[:steps]
            for k, v in rows.items():
                columns.setdefault(k, []).append(v)
    if not columns:
        raise DatasetError(f"{name}: there is no episode")
    if keys is not None:
        alike = "; polopt.envs.flatten_goal(env) shows them so" if "desired_goal" in keys else ""
        warnings.warn(
            f"{name}: its Dict observations are read as [{', '.join(keys)}], side by side{alike}", stacklevel=3
        )
        observation_space = None
    whole = {k: np.concatenate(v) for k, v in columns.items()}
    scores = meta.get("ref_min_score"), meta.get("ref_max_score")
    return Dataset(
        obs=whole["obs"], action=whole["actions"], reward=whole["rewards"], terminated=whole["terminations"],
        truncated=whole["truncations"], next_obs=whole["next_obs"], observation_space=observation_space,
        infos={k.removeprefix("infos/"): v for k, v in whole.items() if k.startswith("infos/") and len(v) == len(whole["rewards"])},
        action_space=action_space, env_id=None if spec is None else spec["id"],
        env_kwargs={} if spec is None else _env_kwargs(spec), reference=None if None in scores else scores, name=name,
    )  # fmt: skip


def write_minari(dataset: Dataset, dataset_id: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Write a Minari folder, whole or not at all. Returns it.

    Args:
        dataset_id: ``namespace/name-vN``.
        folder: where; by default ``root() / dataset_id``.

    Raises:
        ValueError: the id is malformed.
        FileExistsError: there is one already.
        DatasetError: it lacks what Minari needs: spaces, and the true successors; or rows inside an episode do not follow
            each other, which its layout cannot hold.
    """
    check_id(dataset_id)
    if dataset.next_obs is None or dataset.observation_space is None or dataset.action_space is None:
        raise DatasetError(f"{dataset.name}: Minari needs the spaces and the last observation of each episode")
    dataset.check_order()
    folder = root() / dataset_id if folder is None else Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose another id, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (half / "data").mkdir()
        file = half / "data" / "main_data.hdf5"
        episodes = dataset.episodes()
        shape = dataset.observation_space.shape
        with h5py.File(file, "w") as f:
            for i, rows in enumerate(episodes):
                group = f.create_group(f"episode_{i}")
                group.attrs.update(id=i, total_steps=rows.stop - rows.start)
                observations = np.concatenate([dataset.obs[rows], dataset.next_obs[rows.stop - 1 : rows.stop]])
                group["observations"] = observations.reshape(-1, *shape).astype(dataset.observation_space.dtype)
                group["actions"] = dataset.action[rows].reshape(-1, *dataset.action_space.shape)
                group["rewards"], group["terminations"] = dataset.reward[rows], dataset.terminated[rows]
                group["truncations"] = dataset.truncated[rows]
                for name, x in dataset.infos.items():
                    group[f"infos/{name}"] = x[rows]
        reference = dict(zip(("ref_min_score", "ref_max_score"), dataset.reference or (), strict=False))
        meta = {
            "total_episodes": len(episodes), "total_steps": len(dataset), "data_format": "hdf5", "jpeg_encoding": True,
            "observation_space": json.dumps(_described(dataset.observation_space)),
            "action_space": json.dumps(_described(dataset.action_space)),
            "dataset_id": dataset_id, "minari_version": MINARI_VERSION,
            "dataset_size": round(file.stat().st_size / 1e6, 1), **reference, **_env_spec(dataset),
        }  # fmt: skip
        (half / "data" / "metadata.json").write_text(json.dumps(meta))
        half.chmod(0o755)
        half.rename(folder)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    return folder


def check_id(dataset_id: str) -> None:
    """Raise ValueError for an id that is not ``namespace/name-vN``."""
    if not _ID.fullmatch(dataset_id):
        raise ValueError(f"dataset_id={dataset_id!r} must read namespace/name-vN, as in 'local/hopper/medium-v0'")


def _env_spec(dataset: Dataset) -> dict[str, str]:
    """What Minari makes the environment again from."""
    from gymnasium.envs.registration import registry

    name = (dataset.env_id or "").rpartition(":")[2]  # of module:Name-v0
    if name not in registry:
        return {}
    spec, kwargs = registry[name], dict(dataset.env_kwargs)
    limit = kwargs.pop("max_episode_steps", spec.max_episode_steps)
    limit = None if limit == -1 else limit
    try:
        return {"env_spec": replace(spec, max_episode_steps=limit, kwargs=spec.kwargs | kwargs).to_json()}
    except (TypeError, ValueError) as error:  # registered by a class, or with arguments that are no JSON
        warnings.warn(f"{dataset.name}: the file does not say its environment, {dataset.env_id}: {error}", stacklevel=3)
        return {}


def _env_kwargs(spec: dict[str, Any]) -> dict[str, Any]:
    """The arguments in a file's ``env_spec`` that are others than the id's own."""
    from gymnasium.envs.registration import registry

    own = registry.get(spec["id"])
    limit = spec.get("max_episode_steps")
    stated = spec.get("kwargs", {}) | {"max_episode_steps": -1 if limit is None else limit}
    usual = (
        {"max_episode_steps": -1} if own is None else own.kwargs | {"max_episode_steps": own.max_episode_steps or -1}
    )
    return {k: v for k, v in stated.items() if v != usual.get(k) and k != "render_mode"}


def _space(text: Any, name: str) -> Space | None:
    """A space as Minari writes it."""
    return None if text is None else _read_space(json.loads(text), name)


def _read_space(s: dict[str, Any], name: str) -> Space:
    match s["type"]:
        case "Box":
            dtype = np.dtype(s["dtype"]).type
            low, high = (np.asarray(s[k], np.float64).astype(dtype) for k in ("low", "high"))
            return spaces.Box(low, high, tuple(s["shape"]), dtype)
        case "Discrete":
            return spaces.Discrete(s["n"], start=s.get("start", 0))
        case "Dict":
            return spaces.Dict([(k, _read_space(x, name)) for k, x in s["subspaces"].items()])
    raise DatasetError(f"{name}: spaces of type {s['type']} are not read")


def _described(box: Space) -> dict[str, Any]:
    low, high = box.low.tolist(), box.high.tolist()
    return {"type": "Box", "dtype": str(box.dtype), "shape": list(box.shape), "low": low, "high": high}


def _flat(node: Any) -> tuple[np.ndarray, list[str] | None]:
    """Observations ``[T + 1, O]``, and the entries they were put together from.

    Of a goal task (``observation, achieved_goal, desired_goal``) the achieved goal is left out: it is in the observation.
    """
    if isinstance(node, h5py.Dataset):
        x = node[()]
        return x.reshape(len(x), -1), None
    leaves = dict(_leaves(node))
    keys = [k for k in ("observation", "desired_goal") if k in leaves]
    keys = keys if len(keys) == 2 else sorted(leaves)
    return np.concatenate([leaves[k].reshape(len(leaves[k]), -1) for k in keys], -1), keys


def _leaves(node: Any, path: str = "") -> list[tuple[str, np.ndarray]]:
    """The numeric arrays below a group, by their path."""
    if isinstance(node, h5py.Dataset):
        return [(path, node[()])] if node.ndim and node.dtype.kind in "fiub" else []
    return [leaf for k in node for leaf in _leaves(node[k], f"{path}/{k}".lstrip("/"))]


# -- D4RL ----------------------------------------------------------------------------------------------------------------


def read_d4rl(path: str | os.PathLike[str], env_id: str | None = None, horizon: int | None = None) -> Dataset:
    """The dataset in a flat HDF5 file.

    Args:
        env_id: what it was recorded in; by default what the file says, if it does, else the file's own name.
        horizon: steps after which episodes were cut, where the file has no ``timeouts``. Without it, such a file is cut
            where the stored successor is not the next row's observation (by more than 1e-6).

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is not such a file; it has neither ``timeouts`` nor ``next_observations`` and no ``horizon`` is given.
    """
    path = Path(path)
    if horizon is not None:
        whole_number("horizon", horizon, 1)
    with _open(path) as file:
        if missing := [k for k in ("observations", "actions", "rewards", "terminals") if k not in file]:
            raise DatasetError(f"{path} has no {', '.join(missing)}; it has {', '.join(file) or 'nothing'}")
        obs, action, reward = (file[k][()] for k in ("observations", "actions", "rewards"))
        terminated = file["terminals"][()].astype(bool).reshape(-1)
        next_obs = file["next_observations"][()] if "next_observations" in file else None
        if "timeouts" in file:
            truncated = file["timeouts"][()].astype(bool)
        elif horizon is not None:
            truncated = _after(terminated, horizon)
        elif next_obs is not None:
            if next_obs.shape != obs.shape:
                raise DatasetError(
                    f"{path}: next_observations {next_obs.shape} and observations {obs.shape} differ in shape"
                )
            truncated = np.concatenate([jumps(obs, next_obs) & ~terminated[:-1], [False]])
        else:
            raise DatasetError(
                f"{path} has no timeouts: read it by read_d4rl(path, horizon=...), the steps after which its episodes were cut"
            )
        infos = {k: x for k, x in _leaves(file.get("infos", {})) if len(x) == len(reward)}
        said = file["metadata/polopt"][()] if "metadata/polopt" in file else b"{}"
    meta = json.loads(said)
    observation_space, action_space = (_space(meta.get(k), str(path)) for k in ("observation_space", "action_space"))
    return Dataset(
        obs=obs, action=action, reward=reward, terminated=terminated, truncated=truncated, next_obs=next_obs, infos=infos,
        observation_space=observation_space, action_space=action_space, name=path.name,
        env_id=env_id or meta.get("env_id") or path.stem.replace("_", "-"), env_kwargs=meta.get("env_kwargs", {}),
        reference=meta.get("reference"),
    )  # fmt: skip


def write_d4rl(dataset: Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a flat HDF5 file, whole or not at all. Returns its path.

    Raises:
        FileExistsError: there is one already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another name, or delete it")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["observations"], file["actions"], file["rewards"] = dataset.obs, dataset.action, dataset.reward
        file["terminals"], file["timeouts"] = dataset.terminated, dataset.truncated
        if dataset.next_obs is not None:
            file["next_observations"] = dataset.next_obs
        for name, x in dataset.infos.items():
            file[f"infos/{name}"] = x
        meta: dict[str, Any] = {
            "env_id": dataset.env_id,
            "env_kwargs": dataset.env_kwargs,
            "reference": dataset.reference,
        }
        for name in ("observation_space", "action_space"):
            if isinstance(space := getattr(dataset, name), spaces.Box):
                meta[name] = json.dumps(_described(space))
        file["metadata/polopt"] = json.dumps(meta)
    with atomic(path) as f:
        f.write(buffer.getbuffer())
    return path


def _after(terminated: np.ndarray, horizon: int) -> np.ndarray:
    """True after every ``horizon`` steps of an episode."""
    starts = np.concatenate([[0], np.flatnonzero(terminated) + 1])
    row = np.arange(len(terminated))
    age = row - starts[np.searchsorted(starts, row, "right") - 1] + 1
    return age % horizon == 0


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path} is not an HDF5 file, or a damaged one: {error}") from error
