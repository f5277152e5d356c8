"""Datasets of our own: the four kinds, the same each time, and what the command line writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import polopt
from polopt import generate as module
from polopt.cli import main
from polopt.dataset_files import load_dataset
from polopt.generate import KINDS, generate, generate_all
from polopt.off_policy import OffPolicy

TINY = dict(
    train_steps=120, evaluations=3, episodes=1, learning_starts=20, batch_size=8, env_kwargs={"max_episode_steps": 25},
    policy_kwargs={"net_arch": [4]},
)  # fmt: skip


def test_the_four_kinds_of_one_training():
    made = generate_all("Pendulum-v1", KINDS, 60, 3, **TINY)
    assert set(made) == set(KINDS)
    assert [len(made[k]) for k in ("random", "medium", "expert")] == [60, 60, 60]
    assert len(made["medium-replay"]) in (40, 60)  # all there was, or the latest
    for kind, data in made.items():
        assert data.env_id == "Pendulum-v1" and kind in data.name and (data.truncated[24] or kind == "medium-replay")
        assert np.abs(data.action).max() <= 2 and np.abs(data.action).std() > 0
    assert np.array_equal(made["random"].obs[0], made["medium"].obs[0])  # the same start,
    assert not np.array_equal(made["random"].action, made["expert"].action)  # another policy


@pytest.mark.parametrize("kind", ["random", "medium"])
def test_the_same_seed_gives_the_same_rows(kind: str):
    one, two, other = (generate("Pendulum-v1", kind, 50, seed, **TINY) for seed in (0, 0, 1))
    assert one.hash == two.hash != other.hash


def test_a_schedule_is_of_the_whole_training(monkeypatch: pytest.MonkeyPatch):
    rates, step = [], OffPolicy.train_steps

    def watched(model, steps):
        rates.append(float(model.parts["critic"].lr))
        return step(model, steps)

    monkeypatch.setattr(OffPolicy, "train_steps", watched)
    generate("Pendulum-v1", "medium", 5, 0, **TINY | dict(learning_rate="lin_0.001"))
    assert rates == pytest.approx(np.linspace(0.001, 0.001 / 120, 120), rel=1e-4)


def test_training_stops_at_the_return_that_is_medium():
    data = generate("Pendulum-v1", "medium-replay", 1000, 0, **TINY | dict(medium_return=-1e9))
    assert len(data) == 40 and "after 40 steps" in data.name


@pytest.mark.parametrize(
    ("changes", "message"), [(dict(kind="meduim"), "kind='meduim' must be"), (dict(steps=0), "steps=0"), (dict(env="Pendulm-v1"), "Pendulum-v1")]
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        generate(**dict(env="Pendulum-v1", kind="medium", steps=10) | changes)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    words = ["dataset", "generate", "--env", "Pendulum-v1", "--kind", "random", "--steps", "300"]
    assert main(["dataset", "list"]) == 0 and "there is none" in capsys.readouterr().out
    assert main(words) == 0 and main([*words, "--out", str(tmp_path / "p.hdf5")]) == 0
    assert load_dataset("polopt/pendulum-v1/random-s0-v0").hash == load_dataset(tmp_path / "p.hdf5").hash
    capsys.readouterr()
    assert main(["dataset", "list"]) == 0
    assert capsys.readouterr().out == "polopt/pendulum-v1/random-s0-v0\n"
    other = ["--kind", "random", "--steps", "9", "--id", "a/g-v0", "--env-kwargs", "g=9.0", "max_episode_steps=5"]
    assert main([*words[:4], *other]) == 0
    run = ["train", "TD3BC", "--dataset", "a/g-v0", "--gradient-steps", "1", "--policy-kwargs", "net_arch=[4]"]
    assert main([*run, "--out", str(tmp_path / "g")]) == 0
    assert polopt.load(tmp_path / "g").env_kwargs == dict(g=9.0, max_episode_steps=5)
    assert main(words) == 2 and "exists: choose another name" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "folder")]) == 2 and ".hdf5" in capsys.readouterr().err
    assert main([*words, "--id", "no version"]) == 2 and "namespace/name-vN" in capsys.readouterr().err
    assert main(["dataset", "generat"]) == 2
    run = ["train", "TD3BC", "--dataset", "polopt/pendulum-v1/random-s0-v0", "--policy-kwargs", "net_arch=[4]"]
    assert main([*run, "--gradient-steps", "30", "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0 and "all its 30 steps" in capsys.readouterr().out
    assert main(["train", "TD3BC", "--dataset", "polopt/pendulum-v1/radom-s0-v0"]) == 2
    assert "nearest: polopt/pendulum-v1/random-s0-v0" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "PPO", "--dataset", "polopt/pendulum-v1/random-s0-v0", "--out", str(tmp_path / "o")]) == 2


def test_a_return_that_is_never_reached_is_said():
    with pytest.warns(UserWarning, match=r"medium_return=-1 was never reached, -\d+ was the best of 120 steps"):
        data = generate("Pendulum-v1", "medium", 30, medium_return=-1, **TINY)
    assert len(data) == 30


def test_a_stage_sees_observations_as_it_did(monkeypatch: pytest.MonkeyPatch):
    """Each is played under the moments that it had learned under, not under the last ones."""
    seen, play = [], module._play

    def watched(model, *rest):
        seen.append(model.normalizer.normalize_obs(np.ones((1, 3), np.float32)))
        return play(model, *rest)

    monkeypatch.setattr(module, "_play", watched)
    generate_all("Pendulum-v1", ("random", "medium", "expert"), 30, medium_return=-1e9, normalize_obs=True, **TINY)
    assert len(seen) == 3 and not any(np.allclose(x, y) for x, y in ((seen[0], seen[1]), (seen[1], seen[2])))


def test_a_place_that_cannot_be_written_to_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    made = main(
        ["dataset", "generate", "--env", "Pendulum-v1", "--kind", "random", "--out", str(tmp_path / "file" / "x.hdf5")]
    )
    assert made == 2 and "cannot be written" in capsys.readouterr().err
    with pytest.raises(ValueError, match="algorithm='PPO' must be an off-policy method"):
        generate("Pendulum-v1", "random", 10, algorithm="PPO")
