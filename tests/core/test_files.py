import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from polopt import segments
from polopt.files import FileError, atomic, load_state, save_state


def state():
    return {
        "x": torch.arange(6.0).view(2, 3),
        "deep": {
            "bits": np.array([1, 2, 2**63], np.uint64),
            "flag": True,
            "list": [1, torch.ones(2, dtype=torch.int64)],
        },
        "scalar": torch.tensor(3.5),
        "empty": np.empty((0, 4), np.float32),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "big": 2**127,
        "none": None,
        "rng": np.random.default_rng(0).bit_generator.state,
    }


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_round_trip(tmp_path):
    save_state(tmp_path / "s.zip", state(), "model")
    assert equal(state(), load_state(tmp_path / "s.zip", "model"))


def test_to_and_from_open_files():
    buffer = io.BytesIO()
    save_state(buffer, state(), "model")
    buffer.seek(0)
    assert equal(state(), load_state(buffer, "model"))


def test_holds_no_pickle(tmp_path):
    save_state(tmp_path / "s.zip", state(), "model")
    with zipfile.ZipFile(tmp_path / "s.zip") as z:
        assert sorted(z.namelist()) == ["arrays.safetensors", "state.json"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "s.zip"
    save_state(path, state(), "model")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(FileError, match="truncated or damaged"):
        load_state(path, "model")


def test_no_flipped_bit_is_anything_but_a_damaged_file(tmp_path):
    """Only bits that nobody reads (a time, an attribute) may go unseen."""
    path = tmp_path / "s.zip"
    save_state(path, {"x": torch.arange(4.0), "list": [1, 2]}, "model")
    whole = path.read_bytes()
    for i in range(len(whole)):
        for bit in (0, 3, 7):
            bits = bytearray(whole)
            bits[i] ^= 1 << bit
            try:
                read = load_state(io.BytesIO(bits), "model")
            except FileError:
                pass
            else:
                assert equal(read, {"x": torch.arange(4.0), "list": [1, 2]})
            path.write_bytes(bits)
            assert segments._references(path) == {}


def test_foreign_files_are_refused(tmp_path):
    from stable_baselines3 import PPO

    (tmp_path / "pickle.zip").write_bytes(pickle.dumps({"a": 1}))
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "sb3.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as z:
        z.writestr("hello.txt", "hello")
    for name, words in (("pickle", "damaged"), ("sb3", "stable-baselines3"), ("other", "not a polopt file")):
        with pytest.raises(FileError, match=words):
            load_state(tmp_path / f"{name}.zip", "model")
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "absent.zip", "model")


def test_wrong_version_and_kind(tmp_path, monkeypatch):
    save_state(tmp_path / "s.zip", state(), "dataset")
    with pytest.raises(FileError, match="'dataset' state where a 'model'"):
        load_state(tmp_path / "s.zip", "model")
    monkeypatch.setattr("polopt.files.VERSION", 2)
    with pytest.raises(FileError, match="format version 1"):
        load_state(tmp_path / "s.zip", "dataset")


def test_what_cannot_be_stored_is_named(tmp_path):
    with pytest.raises(TypeError, match="/a/b is a function"):
        save_state(tmp_path / "s.zip", {"a": {"b": lambda: 0}}, "model")
    assert not list(tmp_path.iterdir())


def test_a_crash_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic(path) as f:
        f.write(b"half of the new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]
