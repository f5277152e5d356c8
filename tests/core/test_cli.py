"""The command line, called as a user calls it: what it does, and what it answers to what cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polopt.cli import COMMANDS, main

TINY = (
    *("--env", "Pendulum-v1", "--num-envs", "2", "--n-steps", "16", "--batch-size", "16", "--n-epochs", "1"),
    *("--policy-kwargs", "net_arch=[4]", "activation_fn=ReLU", "--env-kwargs", "max_episode_steps=11"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "PPO", *TINY, "-n", "96", "--out", str(folder), "--seed", "4"]) == 0
    return folder


def test_train_writes_what_was_asked_for(run: Path):
    config = json.loads((run / "config.json").read_text())
    assert (config["env"], config["num_envs"], config["seed"], config["total_timesteps"]) == ("Pendulum-v1", 2, 4, 96)
    assert config["env_kwargs"] == {"max_episode_steps": 11}
    assert config["policy_kwargs"] == {"net_arch": [4], "activation_fn": {"class": "torch.nn.modules.activation:ReLU"}}
    assert (run / "model.zip").exists()


def test_names_as_rl_zoo_has_them(tmp_path: Path):
    words = [
        *TINY,
        "--n_timesteps",
        "32",
        "--learning_rate",
        "lin_3e-4",
        "--clip_range_vf",
        "0.5",
        "--target-kl",
        "None",
    ]
    words[words.index("--num-envs")] = "--n-envs"
    assert main(["train", "ppo", *words, "--normalize-obs", "--backend", "torch", "--out", str(tmp_path / "r")]) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    hyper = config["hyperparameters"]
    assert hyper["learning_rate"] == "lin_3e-4" and hyper["clip_range_vf"] == 0.5 and hyper["target_kl"] is None
    assert hyper["normalize_obs"] is True and hyper["num_envs"] == 2
    assert config["env_kwargs"]["backend"] == "torch"


def test_a_preset_is_where_flags_start_from(tmp_path: Path):
    from polopt.presets import preset

    words = [
        "--env",
        "HalfCheetah-v5",
        "--preset",
        "-n",
        "64",
        "--num-envs",
        "4",
        "--n-steps",
        "16",
        "--batch-size",
        "64",
    ]
    assert main(["train", "PPO", *words, "--out", str(tmp_path / "r")]) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    tuned = preset("PPO", "HalfCheetah-v5")
    assert config["hyperparameters"]["gamma"] == tuned["gamma"]
    assert config["policy_kwargs"] == tuned["policy_kwargs"]
    assert config["num_envs"] == 4


@pytest.mark.parametrize("where", ["", "model.zip"])
def test_evaluate(run: Path, where: str, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(run / where), "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert "PPO on Pendulum-v1: 3 greedy episodes" in out
    assert "mean return" in out and "11.0 steps" in out  # with the arguments it was trained with


def test_the_score_is_that_of_the_mean_return(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import polopt

    model = polopt.PPO(env="Hopper-v5", seed=0, policy_kwargs={"net_arch": [4]})
    model.save(tmp_path / "model")
    mean, _ = polopt.evaluate_policy(model, "Hopper-v5", 2, seed=0)
    assert main(["evaluate", str(tmp_path / "model.zip"), "--episodes", "2"]) == 0
    assert f"{polopt.normalized_score('Hopper-v5', mean):.1f}  (constants" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["polopt", "stable_baselines3"])
def test_a_file_that_does_not_say_its_environment(library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import importlib

    from gymnasium.envs.classic_control import CartPoleEnv
    from gymnasium.wrappers import TimeLimit

    file = tmp_path / "model.zip"  # neither knows the id: the one was given an object, the other never keeps it
    importlib.import_module(library).PPO("MlpPolicy", TimeLimit(CartPoleEnv(), 20), seed=0).save(file)
    for command in ("evaluate", "record"):
        assert main([command, str(file)]) == 2
        err = " ".join(capsys.readouterr().err.split())
        assert f"{file} does not say which environment it was trained on: give --env ID" in err
    assert main(["evaluate", str(file), "--env", "CartPole-v1", "--episodes", "2"]) == 0
    assert "PPO on CartPole-v1: 2 greedy episodes" in capsys.readouterr().out
    assert main(["evaluate", str(file), "--env", "Pendulum-v1"]) == 2
    assert "does not fit" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["wrapped", "arguments", "ours"])
def test_an_object_s_id_is_not_what_it_was_trained_on(other: str, tmp_path: Path):
    """The id alone makes another world than the one it was given."""
    import gymnasium
    from polopt.envs import TimeAware, make_env

    import polopt
    from polopt.evaluate import trained_on

    env = {
        "wrapped": lambda: gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -1, 1),
        "arguments": lambda: gymnasium.make("Pendulum-v1", g=0.0),
        "ours": lambda: TimeAware(make_env("Pendulum-v1")),
    }[other]()
    model = polopt.PPO("MlpPolicy", env, seed=0)
    assert "Pendulum-v1" in repr(model)
    model.save(tmp_path / "model")
    assert trained_on(tmp_path / "model") is None
    polopt.PPO("MlpPolicy", "Pendulum-v1", env_kwargs={"g": 0.0}).save(tmp_path / "by_id")
    assert trained_on(tmp_path / "by_id") == "Pendulum-v1"


def test_record(run: Path, capsys: pytest.CaptureFixture[str]):
    import imageio.v3 as iio

    for name, shape in (("strip.png", 3), ("clip.mp4", 4), ("clip.gif", 4)):
        assert main(["record", str(run), "--out", str(run / name), "--steps", "5"]) == 0
        pictures = iio.imread(run / name)
        assert pictures.ndim == shape and pictures.std() > 0
    assert main(["record", str(run), "--out", str(run / "clip.txt")]) == 2
    assert ".mp4" in capsys.readouterr().err


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_a_film_has_steps(run: Path, steps: str, capsys: pytest.CaptureFixture[str]):
    assert main(["record", str(run), "--out", str(run / "none.png"), "--steps", steps]) == 2
    assert f"steps={steps} must be at least 1" in capsys.readouterr().err


def test_a_demo_removes_an_earlier_demo_s_run_and_nobody_else_s(run: Path, tmp_path: Path, capsys, monkeypatch):
    import shutil

    import polopt.demo as demo

    made = []
    monkeypatch.setattr(demo, "_rate", lambda seed: 100.0)

    def interrupted(*args, **kwargs):
        made.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "new_run", interrupted)
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    told = lambda: " ".join(capsys.readouterr().err.split())
    before = sorted(folder.rglob("*"))
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert f"{folder} holds a run that is no demo's" in told() and sorted(folder.rglob("*")) == before
    config = json.loads((folder / "config.json").read_text())
    config |= {"env": demo.ENV}
    (folder / "config.json").write_text(json.dumps(config))  # the preset alone is anybody's
    assert main(["demo", "--out", str(tmp_path)]) == 2
    config["hyperparameters"] |= demo.SETTING | {"policy_kwargs": {}}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2 and not made
    assert main(["demo", "--out", str(tmp_path)]) == 130 and len(made) == 1
    assert [p.name for p in folder.rglob("*")] == ["checkpoints", ".lock"]
    (folder / "mine.txt").write_text("")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "mine.txt" in told()


def test_recording_where_nothing_renders_says_so(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    import polopt.film
    from polopt.errors import RenderError

    def dark(*args, **kwargs):
        raise RenderError("rendering needs OpenGL")

    monkeypatch.setattr(polopt.film, "film", dark)
    assert main(["record", str(run), "--out", str(run / "dark.mp4")]) == 2
    assert "rendering needs OpenGL" in capsys.readouterr().err and not (run / "dark.mp4").exists()


def test_lists(capsys: pytest.CaptureFixture[str]):
    assert main(["list", "envs"]) == 0
    out = capsys.readouterr().out
    assert "HalfCheetah-v5" in out and "polopt/LQR-v0" in out
    assert main(["list", "agents"]) == 0
    assert "Proximal" in capsys.readouterr().out


def test_theory(capsys: pytest.CaptureFixture[str]):
    assert main(["theory", "list"]) == 0
    assert "exact_pg" in capsys.readouterr().out
    assert main(["theory", "run", "exact_gp"]) == 2
    assert "did you mean" in capsys.readouterr().err


# Each of these is the user's mistake: told in words with what would be right, exit code 2, no traceback.
WRONG: dict[str, tuple[list[str], str]] = {
    "command": (["trian"], "did you mean train"),
    "algorithm": (["train", "PPOO", *TINY], "there is no algorithm 'PPOO'; did you mean PPO"),
    "no algorithm": (["train", *TINY], "train what?"),
    "env": (["train", "PPO", "--env", "HalfCheeta-v5"], "did you mean HalfCheetah-v5"),
    "env forgotten": (["train", "PPO"], "--env"),
    "env not an option": (["train", "PPO", "Hopper-v5"], "--env Hopper-v5"),
    "flag": (["train", "PPO", *TINY, "--gama", "0.9"], "--gamma"),
    "range": (["train", "PPO", *TINY, "--gamma", "2"], "gamma=2.0 is outside [0, 1]"),
    "batch size": (["train", "PPO", *TINY, "--batch-size", "64"], "batch_size=64 is larger than the rollout"),
    "schedule": (["train", "PPO", *TINY, "--learning-rate", "fast"], "'lin_NUMBER'"),
    "type": (["train", "PPO", *TINY, "--n-steps", "many"], "many"),
    "env argument": (["train", "PPO", *TINY, "--env-kwargs", "nonsense"], "--env-kwargs takes KEY=VALUE"),
    "policy argument": (["train", "PPO", *TINY, "--policy-kwargs", "net_arc=[3]"], "net_arc"),
    "activation": (["train", "PPO", *TINY, "--policy-kwargs", "activation_fn=Relu"], "did you mean ReLU"),
    "preset": (["train", "PPO", "--env", "LunarLander-v3", "--preset"], "no preset for PPO on 'LunarLander-v3'"),
    "device": (["train", "PPO", *TINY, "--device", "tpu"], "device='tpu' is not available"),
    "flag not for the shell": (
        ["train", "NPG", "--env", "CartPole-v1", "--rollout-buffer-class"],
        "--rollout-buffer-class",
    ),
    "resume": (["train", "--resume", "nowhere"], "holds no run"),
    "evaluate": (["evaluate", "nowhere"], "nowhere.zip"),
    "list": (["list", "agent"], "agents"),
    "demo's seconds": (["demo", "--seconds", "nan"], "seconds=nan must be a number above 0"),
    "demo's negative seconds": (["demo", "--seconds", "-5"], "seconds=-5.0 must be a number above 0"),
    "demo's seed": (["demo", "--seed", "-1"], "seed=-1 must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_answered_in_words(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    args, told = WRONG[name]
    assert main(args) == 2
    err = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_a_dataset_cannot_give_is_said_before_there_is_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import h5py
    import numpy as np

    obs = np.random.default_rng(0).uniform(-1, 1, (60, 3)).astype(np.float32)
    columns = {"observations": obs, "next_observations": obs, "actions": obs[:, :1], "rewards": obs[:, 0]}
    with h5py.File(tmp_path / "d.hdf5", "w") as file:  # no row begins where the one before it ended
        for name, values in columns.items():
            file[name] = values
        file["terminals"] = file["timeouts"] = np.arange(60) % 20 == 19
    words = [
        "train",
        "SAC",
        "--env",
        "Pendulum-v1",
        "--dataset",
        str(tmp_path / "d.hdf5"),
        "--out",
        str(tmp_path / "r"),
    ]
    for option, told in ((["--normalize-obs"], "running normalisation"), (["--n-steps", "3"], "consecutive steps")):
        assert main([*words, "--batch-size", "16", "-n", "5", *option]) == 2
        assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "r").exists()


@pytest.mark.skipif(os.name == "nt", reason="no flock")
def test_a_run_that_another_process_has_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    import fcntl

    from polopt.run import Session

    train, folder = Session.train, tmp_path / "run"

    def taken(session, *args):
        with open(folder / "checkpoints" / ".lock", "w") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            return train(session, *args)

    monkeypatch.setattr(Session, "train", taken)
    assert main(["train", "PPO", *TINY, "-n", "96", "--out", str(folder)]) == 1
    assert "another process is training in" in " ".join(capsys.readouterr().err.split())


def test_a_directory_in_use(run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "PPO", *TINY, "--out", str(run)]) == 2
    assert f"--resume {run}" in capsys.readouterr().err.replace("\n", " ")
    assert main(["train", "--resume", str(run)]) == 0
    assert "has run all its 96 steps" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from polopt.cli import main\n"
        "assert main(['--help']) == main([]) == main(['train', '--help']) == main(['record', '--help']) == 0\n"
        "heavy = {'torch', 'gymnasium', 'mujoco', 'stable_baselines3', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]):
    for name in sorted({*COMMANDS} - {"theory"}):
        assert main([name, "--help"]) == 0
        assert f"polopt {name}" in capsys.readouterr().out
    assert main(["train", "PPO", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--clip-range" in out and "--gae-lambda" in out and "--rollout-buffer-class" not in out


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "polopt", "train", "PPO", *TINY, "-n", "3200000", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "config.json").exists() or (folder / "progress.csv").stat().st_size < 2000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"polopt train --resume {folder}" in out
    assert "stopping after this iteration" in err and "Traceback" not in err
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name != "step_00000000.zip"]
