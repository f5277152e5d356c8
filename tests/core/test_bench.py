"""Suites into cells, cells into records, records into a report: with the peers as real runs and as oracles."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from polopt.bench import Cell, Evaluation, load_suite, pool, read_record, report, run_suite
from polopt.bench import cell as cell_module
from polopt.bench.pool import records_folder, write_record
from polopt.errors import NonFiniteError

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"
TINY = """
steps = 64
seeds = [0, 1]
envs = ["CartPole-v1"]
[evaluation]
every = 32
episodes = 2
[[run]]
library = "sb3"
algorithm = "A2C"
config = { n_steps = 8 }
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "suites" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(TINY)
    return path


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def ppo_cell(seed=0, steps=256, **config):
    config = {"n_steps": 64, "batch_size": 32, "n_epochs": 2} | config
    return Cell("sb3", "PPO", "CartPole-v1", seed, steps, Evaluation(every=128, episodes=3, seed=7), config, "PPO")


# Suites


def test_the_grid_runs_seed_by_seed_and_merges_configurations(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        """
        steps = 10
        seeds = [3, 1]
        envs = ["A-v0", "B-v0"]
        evaluation = { every = 5 }
        [base.common]
        config = { gamma = 0.9, policy_kwargs = { log_std_init = -2, ortho_init = false } }
        env_config."B-v0" = { gamma = 0.8 }
        [[run]]
        library = "sb3"
        algorithm = "PPO"
        base = "common"
        config = { n_steps = 8 }
        env_config."A-v0".policy_kwargs = { log_std_init = 0 }
        [[run]]
        label = "other"
        library = "polopt"
        algorithm = "PPO"
        envs = ["B-v0"]
        seeds = [1]
        steps = 20
        """
    )
    cells = load_suite(path).cells
    assert [cell.name for cell in cells] == [
        "sb3 PPO/A-v0/1",
        "sb3 PPO/B-v0/1",
        "other/B-v0/1",
        "sb3 PPO/A-v0/3",
        "sb3 PPO/B-v0/3",
    ]
    a, b, other = cells[:3]
    assert a.config == {"gamma": 0.9, "n_steps": 8, "policy_kwargs": {"log_std_init": 0, "ortho_init": False}}
    assert b.config == {"gamma": 0.8, "n_steps": 8, "policy_kwargs": {"log_std_init": -2, "ortho_init": False}}
    assert (other.steps, other.config, a.steps) == (20, {}, 10)


def test_a_preset_is_resolved_into_the_address(tmp_path, monkeypatch):
    path = tmp_path / "preset.toml"
    text = TINY.replace('"sb3"', '"polopt"').replace("config = {", "config = { preset = true, ")
    path.write_text(text)
    values = {"gamma": 0.9, "n_steps": 16}
    monkeypatch.setattr("polopt.bench.suite.presets", lambda algorithm: {"CartPole-v1": values})
    (first, _) = load_suite(path).cells
    assert first.config == {"gamma": 0.9, "n_steps": 8}, "what the suite says comes on top"
    values["gamma"] = 0.8
    assert load_suite(path).cells[0].address != first.address
    path.write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    with pytest.raises(ValueError, match=r"no preset of A2C for Acrobot-v1; there are CartPole-v1"):
        load_suite(path)


def test_the_address_is_the_content():
    cell = Cell("sb3", "PPO", "CartPole-v1", 0, 100, Evaluation(50), {"a": 1, "b": 2}, "label")
    # A change of this literal orphans every record there is.
    assert cell.address == "f2d7e5fdbfba"
    same = Cell("sb3", "PPO", "CartPole-v1", 0, 100, Evaluation(50), {"b": 2, "a": 1}, "another label")
    assert same.address == cell.address
    others = [
        Cell("sb3_contrib", "PPO", "CartPole-v1", 0, 100, Evaluation(50), {"a": 1, "b": 2}),
        Cell("sb3", "A2C", "CartPole-v1", 0, 100, Evaluation(50), {"a": 1, "b": 2}),
        Cell("sb3", "PPO", "CartPole-v0", 0, 100, Evaluation(50), {"a": 1, "b": 2}),
        Cell("sb3", "PPO", "CartPole-v1", 1, 100, Evaluation(50), {"a": 1, "b": 2}),
        Cell("sb3", "PPO", "CartPole-v1", 0, 101, Evaluation(50), {"a": 1, "b": 2}),
        Cell("sb3", "PPO", "CartPole-v1", 0, 100, Evaluation(50, episodes=9), {"a": 1, "b": 2}),
        Cell("sb3", "PPO", "CartPole-v1", 0, 100, Evaluation(50), {"a": 1, "b": 3}),
    ]
    assert len({other.address for other in others} | {cell.address}) == len(others) + 1


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_suites_load_and_every_record_belongs_to_one(path):
    suite = load_suite(path)
    stems = {cell.stem: cell for cell in suite.cells}
    for file in records_folder(suite).glob("*.json"):
        assert file.stem in stems, f"{file.name} is of no cell of {path.name}: its configuration changed"
        assert read_record(file)["address"] == stems[file.stem].address


@pytest.mark.parametrize(
    "change, words",
    [
        (("steps = 64", "step = 64"), "unknown key 'step'.*steps"),
        (("seeds = [0, 1]", ""), "lacks 'seeds'"),
        (("every = 32", "evry = 32"), r"\[evaluation\].*'evry'.*every"),
        (("every = 32", "every = 0"), "evaluation.every is 0.*at least 1"),
        (('library = "sb3"', 'library = "sb4"'), "library is 'sb4'; it is one of polopt, sb3"),
        (('algorithm = "A2C"', ""), "lacks 'algorithm'"),
        (("config = {", 'env_config."Pendulum-v1" = { a = 1 }\nconfig = {'), "env_config names Pendulum-v1"),
        (("config = {", 'base = "none"\nconfig = {'), "base is 'none'"),
        (("config = {", "config = {{"), "is not TOML"),
        (("seeds = [0, 1]", "seeds = [0, 0]"), "the same cell"),
        (("config = {", "config = { preset = true, "), "preset is polopt's; sb3 has none"),
        (("config = {", 'prior = "a/b-v0"\nconfig = {'), "prior data is polopt's; sb3 takes none"),
        (('library = "sb3"', 'library = "polopt"\nprior = 1'), "prior is 1; it takes the id or the path"),
        (("[evaluation]", 'reference = {"CartPole-v1" = [1.0, 1.0]}\n[evaluation]'), "low < high"),
        (("[evaluation]", "reference = 5\n[evaluation]"), r"reference is 5; it takes a table"),
        (("[[run]]", "[run]"), r"run is .*it takes tables, each \[\[run\]\]"),
        (("seeds = [0, 1]", "seeds = 3"), r"seeds is 3; it takes a list of integers"),
        (("seeds = [0, 1]", "seeds = [0.5]"), r"seeds is \[0.5\]; it takes a list of integers"),
        (('envs = ["CartPole-v1"]', 'envs = "CartPole-v1"'), r"envs is 'CartPole-v1'; it takes a list of ids"),
        (("every = 32", 'every = 32\nseed = "x"'), "evaluation.seed is 'x'"),
        (("config = { n_steps = 8 }", "config = 3"), "config is 3; it takes a table"),
        (("config = {", "label = 3\nconfig = {"), "label is 3; it takes a name"),
        (("config = {", 'label = ""\nconfig = {'), "label is ''; it takes a name"),
        (("config = {", "base = []\nconfig = {"), r"base is \[\]; it takes a name"),
        (("config = {", "env_config = 3\nconfig = {"), "env_config is 3; it takes a table"),
        (("config = {", 'env_config."CartPole-v1" = 3\nconfig = {'), "env_config: CartPole-v1 is 3; it takes a table"),
        (('algorithm = "A2C"', "algorithm = 3"), "algorithm is 3; it takes a name"),
        (('"sb3"\nalgorithm = "A2C"', '"polopt"\nalgorithm = "A3C"'), "algorithm is 'A3C'; polopt has .*A2C"),
        (("n_steps = 8", 'normalize = "yes"'), "normalize is 'yes'; it takes true or false"),
        (("n_steps = 8", "max_grad_norm = inf"), "config.max_grad_norm is inf; it takes numbers that are finite"),
        (("n_steps = 8", "a = { b = [2026-01-01] }"), r"config.a.b.0 is 2026-01-01; it takes numbers"),
        (("seeds = [0, 1]", "seeds = []"), r"seeds is \[\]; it takes a list of integers"),
        (("seeds = [0, 1]", "seeds = [-1]"), r"seeds is \[-1\]; it takes a list of integers of at least 0"),
        (('envs = ["CartPole-v1"]', "envs = []"), r"envs is \[\]; it takes a list of ids"),
        (("every = 32", "every = 32\nseed = -1"), "evaluation.seed is -1; it takes an integer of at least 0"),
        (("[evaluation]", "title = 3\n[evaluation]"), "title is 3; it takes words"),
        (("[evaluation]", "base = { zoo = 3 }\n[evaluation]"), "zoo is 3; it takes a table"),
        (("[evaluation]", 'reference = {"CartPole-v1" = ["a", "b"]}\n[evaluation]'), "numbers with low < high"),
        (("[evaluation]", 'reference = {"CartPole-v1" = [1, "b"]}\n[evaluation]'), "numbers with low < high"),
        (("[evaluation]", 'reference = {"CartPole-v1" = [-inf, inf]}\n[evaluation]'), "numbers with low < high"),
        (
            ("config = { n_steps = 8 }", 'config = { n_steps = 8 }\n[[run]]\nlibrary = "sb3"\nalgorithm = "A2C"'),
            "there are two sb3 A2C/CartPole-v1/0; give each",
        ),
    ],
)
def test_a_bad_suite_names_the_key(tiny, change, words):
    text = TINY.replace(*change)
    assert text != TINY
    tiny.write_text(text)
    with pytest.raises(ValueError, match=words):
        load_suite(tiny)


def test_bad_arguments(tiny):
    with pytest.raises(ValueError, match=r"only='PPO\*' matches no cell.*sb3 A2C/CartPole-v1"):
        run_suite(tiny, only="PPO*")
    with pytest.raises(ValueError, match="workers is 0"):
        run_suite(tiny, workers=0)


# Cells


@pytest.mark.parametrize("normalize", [False, True])
def test_evaluation_equals_stable_baselines3s(normalize):
    """Five episodes on five environments with the same seeds give SB3's evaluate_policy the same returns."""
    cell = ppo_cell(normalize=normalize)
    model, predict = cell_module.make_model(cell)
    model.learn(256)
    envs = [gymnasium.make("CartPole-v1") for _ in range(5)]
    returns, lengths = cell_module.play(envs, predict, seed=100)

    peer_env = make_vec_env("CartPole-v1", n_envs=5, seed=100)
    if normalize:
        peer_env = VecNormalize(peer_env, training=False, norm_reward=False)
        peer_env.obs_rms = model.get_vec_normalize_env().obs_rms
    peer, peer_lengths = evaluate_policy(model, peer_env, n_eval_episodes=5, return_episode_rewards=True)
    assert sorted(returns) == sorted(peer)
    assert sorted(lengths) == sorted(peer_lengths)


def test_evaluation_leaves_training_alone():
    """With and without evaluations on the way, training ends with the same bits; and it is SB3's own training."""
    cell = ppo_cell(normalize=True)
    model, predict = cell_module.make_model(cell)
    evaluator = cell_module.Evaluator(cell, predict)
    model.learn(256, callback=evaluator)

    env = VecNormalize(make_vec_env("CartPole-v1", seed=0), gamma=0.99)
    peer = PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu").learn(256)
    for name, value in peer.policy.state_dict().items():
        assert torch.equal(value, model.policy.state_dict()[name]), name
    assert evaluator.curve["steps"] == [0, 128, 256]


def test_a_record_says_what_was_run():
    cell = ppo_cell(seed=3, learning_rate="lin_1e-3")
    record = json.loads(json.dumps(cell_module.run_cell(cell), allow_nan=False))
    assert record["cell"] == cell.content and record["address"] == cell.address
    assert record["steps"] == 256
    assert record["curve"]["steps"] == [0, 128, 256]
    assert np.shape(record["curve"]["returns"]) == (3, 3)
    assert record["curve"]["returns"] == record["curve"]["lengths"], "CartPole pays 1 a step"
    assert record["curve"]["ep_rew_mean"][0] is None and record["curve"]["ep_rew_mean"][2] > 0
    rates = record["diagnostics"]["train/learning_rate"]
    assert rates == [None, 5e-4, 0.0], "the last update's: SB3 counts the rollout it has just finished"
    assert record["versions"]["torch"] == torch.__version__
    assert record["machine"]["torch_threads"] == 1
    assert record["steps_per_second"] > 0 and record["train_seconds"] > 0
    assert [start["step"] for start in record["starts"]] == [0]


def test_diagnostics_are_of_the_last_update_whenever_a_line_was_written(tmp_path, monkeypatch):
    """polopt's TD3 writes a line every fourth episode, at steps 800 and so on; its policy learns every second step."""
    config = {"learning_starts": 150, "batch_size": 16, "buffer_size": 1000, "policy_kwargs": {"net_arch": [8]}}
    cell = Cell("polopt", "TD3", "Pendulum-v1", 0, 500, Evaluation(every=100, episodes=1, seed=7), config, "TD3")
    whole = cell_module.run_cell(cell)["diagnostics"]
    assert whole["train/n_updates"] == [0, 0, 50, 150, 250, 350]
    for key in ("train/critic_loss", "train/actor_loss"):
        assert whole[key][:2] == [None, None] and None not in whole[key][2:] and len(set(whole[key][2:])) == 4
    monkeypatch.setattr(cell_module, "play", killed_at(5))
    with pytest.raises(KeyboardInterrupt):
        cell_module.run_cell(cell, tmp_path / "cell")
    monkeypatch.undo()
    assert cell_module.run_cell(cell, tmp_path / "cell")["diagnostics"] == whole


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match="stable_baselines3 has no algorithm 'PPPO'"):
        cell_module.make_model(Cell("sb3", "PPPO", "CartPole-v1", 0, 1, Evaluation(1)))


def killed_at(evaluation):
    """A ``play`` that is interrupted in this evaluation."""
    play, count = cell_module.play, iter(range(1, evaluation + 1))

    def play_or_die(*args):
        if next(count) == evaluation:
            raise KeyboardInterrupt
        return play(*args)

    return play_or_die


def test_a_killed_polopt_cell_goes_on_exactly(tmp_path, monkeypatch):
    """Stopped in the middle of its third evaluation, it ends with the record of the undisturbed run."""
    config = {"n_steps": 64, "batch_size": 32, "n_epochs": 2, "n_envs": 2, "normalize": True}
    cell = Cell("polopt", "PPO", "CartPole-v1", 0, 1024, Evaluation(every=256, episodes=2, seed=7), config, "PPO")
    whole = cell_module.run_cell(cell)
    monkeypatch.setattr(cell_module, "play", killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        cell_module.run_cell(cell, tmp_path / "cell")
    monkeypatch.undo()
    resumed = cell_module.run_cell(cell, tmp_path / "cell")
    assert [start["step"] for start in resumed["starts"]] == [0, 256]
    for key in ("steps", "returns", "lengths", "ep_rew_mean"):
        assert resumed["curve"][key] == whole["curve"][key], key
    assert resumed["curve"]["steps"] == [0, 256, 512, 768, 1024]
    assert resumed["diagnostics"] == whole["diagnostics"]
    assert np.all(np.diff(resumed["curve"]["train_seconds"]) > 0)


def test_a_cell_killed_before_its_second_evaluation_goes_on_exactly(tmp_path, monkeypatch):
    """The checkpoint of step 0 holds MuJoCo's worlds, which were reset already: the seed is used up."""
    config = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    cell = Cell("polopt", "PPO", "Hopper-v5", 0, 256, Evaluation(every=128, episodes=1), config, "PPO")
    whole = cell_module.run_cell(cell)
    monkeypatch.setattr(cell_module, "play", killed_at(2))
    with pytest.raises(KeyboardInterrupt):
        cell_module.run_cell(cell, tmp_path / "cell")
    monkeypatch.undo()
    resumed = cell_module.run_cell(cell, tmp_path / "cell")
    assert [start["step"] for start in resumed["starts"]] == [0, 0]
    for key in ("steps", "returns", "lengths", "ep_rew_mean"):
        assert resumed["curve"][key] == whole["curve"][key], key


def test_a_return_that_is_not_finite_ends_a_cell_at_once(tmp_path, monkeypatch):
    """Not after the whole of training, and not with a checkpoint that holds it."""
    config = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    cell = Cell("polopt", "PPO", "CartPole-v1", 0, 512, Evaluation(every=128, episodes=1), config, "PPO")
    returns = iter([1.0, np.nan])
    monkeypatch.setattr(cell_module, "play", lambda *_: (np.array([next(returns)]), np.array([1])))
    with pytest.raises(NonFiniteError, match=r"not finite at step 128: evaluated \[nan\]"):
        cell_module.run_cell(cell, tmp_path / "cell")
    assert json.loads((tmp_path / "cell.json").read_text())["curve"]["returns"] == [[1.0]]


def test_a_cell_with_prior_data_goes_on_exactly_and_names_the_data(tmp_path, monkeypatch):
    from polopt.dataset_files import load_dataset, write_minari
    from polopt.generate import generate

    data = generate("Pendulum-v1", "random", 400)
    write_minari(data, "a/b-v0", tmp_path / "a")
    config = {"gradient_steps": 2, "policy_delay": 2, "n_critics": 3, "learning_starts": 20, "batch_size": 8}
    config |= {"policy_kwargs": {"net_arch": [8]}, "buffer_size": 200}
    address = {}
    for prior in (None, str(tmp_path / "a")):
        cell = Cell("polopt", "RLPD", "Pendulum-v1", 0, 60, Evaluation(every=20, episodes=1), config, "RLPD", prior)
        address[prior] = cell.address
    assert len(set(address.values())) == 2
    whole = cell_module.run_cell(cell)
    assert whole["prior"] == {
        "name": "a/b-v0", "rows": 400, "mean_return": pytest.approx(data.returns().mean(), abs=1e-2),
        "sha256": load_dataset(tmp_path / "a").hash,
    }  # fmt: skip
    monkeypatch.setattr(cell_module, "play", killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        cell_module.run_cell(cell, tmp_path / "cell")
    monkeypatch.undo()
    resumed = cell_module.run_cell(cell, tmp_path / "cell")
    assert [start["step"] for start in resumed["starts"]] == [0, 20]
    assert resumed["curve"]["returns"] == whole["curve"]["returns"]
    monkeypatch.setattr(cell_module, "_described", lambda data: {"sha256": "other"})
    with pytest.raises(ValueError, match="prior data is another than this cell was started on"):
        cell_module.run_cell(cell, tmp_path / "cell")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="SAC takes no prior data; RLPD does"):
        cell_module.make_model(Cell("polopt", "SAC", "Pendulum-v1", 0, 1, Evaluation(1), {}, "", str(tmp_path / "a")))
    with pytest.raises(FileNotFoundError):
        cell_module.make_model(Cell("polopt", "RLPD", "Pendulum-v1", 0, 1, Evaluation(1), {}, "", "no/such-v0"))


# The pool


def test_a_suite_is_run_once_and_a_lost_record_again(tiny):
    lines = []
    first = run_suite(tiny, workers=2, say=lines.append)
    assert sorted(first.finished) == ["sb3 A2C/CartPole-v1/0", "sb3 A2C/CartPole-v1/1"] and not first.failed
    files = sorted((tiny.parent.parent / "records" / "tiny").iterdir())
    assert [file.suffix for file in files] == [".json", ".json"], "and no temporary file is left"
    before = [read_record(file) for file in files]
    assert [record["cell"]["seed"] for record in before] == [0, 1]

    stamp = files[1].stat().st_mtime_ns
    files[0].unlink()
    second = run_suite(tiny, workers=2, say=lines.append)
    assert (second.finished, second.skipped) == (("sb3 A2C/CartPole-v1/0",), ("sb3 A2C/CartPole-v1/1",))
    assert files[1].stat().st_mtime_ns == stamp
    for key in ("steps", "returns", "ep_rew_mean"):
        assert read_record(files[0])["curve"][key] == before[0]["curve"][key], "the same cell gives the same curve"
    assert not list((tiny.parent.parent / ".cells" / "tiny").glob("*.claim*"))


def test_a_failed_cell_has_no_record_and_a_log(tiny):
    tiny.write_text(TINY.replace("n_steps = 8", "n_stepz = 8"))
    outcome = run_suite(tiny, only="*/0", say=lambda line: None)
    assert outcome.failed == ("sb3 A2C/CartPole-v1/0",)
    assert not list((tiny.parent.parent / "records" / "tiny").iterdir())
    (log,) = (tiny.parent.parent / ".cells" / "tiny").glob("*.log")
    assert "n_stepz" in log.read_text()


def test_a_killed_worker_is_taken_over(tiny, tmp_path):
    """SIGKILL everything of a running suite; the next call finds the dead claim and finishes the cell."""
    tiny.write_text(TINY.replace("steps = 64", "steps = 100_000_000"))
    script = f"from polopt.bench import run_suite\nif __name__ == '__main__': run_suite({str(tiny)!r}, 1, '*/0')"
    runner = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stdout=subprocess.DEVNULL)
    scratch = tmp_path / ".cells" / "tiny"
    deadline = time.monotonic() + 120
    while not (logs := list(scratch.glob("*.log"))) or "step" not in logs[0].read_text():
        assert runner.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    (claim,) = scratch.glob("*.claim")
    assert run_suite(tiny, 1, "*/0", say=lambda line: None).elsewhere == ("sb3 A2C/CartPole-v1/0",)
    os.killpg(runner.pid, signal.SIGKILL)
    runner.wait()
    while pool._alive(claim):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert pool._claim(claim)


def _write_claim(path, **owner):
    path.write_text(json.dumps(pool._owner() | owner))
    return path


def test_whose_claims_hold(tmp_path):
    mine = _write_claim(tmp_path / "mine")
    assert pool._alive(mine) and not pool._claim(mine)
    reborn = _write_claim(tmp_path / "reborn", born="another time")
    assert not pool._alive(reborn) and pool._claim(reborn), "a later process of the same pid is not the owner"
    away = _write_claim(tmp_path / "away", host="not " + socket.gethostname(), pid=1)
    assert pool._alive(away), "on another machine the heartbeat decides"
    old = time.time() - pool.LEASE - 1
    os.utime(away, (old, old))
    assert not pool._alive(away) and pool._claim(away)
    assert json.loads(away.read_text())["pid"] == os.getpid()
    for text in ("", "{}", "[]", "3"):  # not yet written, or never
        unclear = tmp_path / "unclear"
        unclear.write_text(text)
        assert pool._alive(unclear)
        os.utime(unclear, (old, old))
        assert not pool._alive(unclear)


def test_a_claim_has_one_winner(tmp_path):
    start = threading.Barrier(8)
    won = []

    def contend():
        start.wait()
        won.append(pool._claim(tmp_path / "claim"))

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


# The report


def fake_record(cell, final, noise=0.0):
    steps = np.arange(0, cell.steps + 1, cell.evaluation.every)
    mean = final * np.minimum(1.0, steps / (0.5 * cell.steps))
    returns = np.stack([mean - noise, mean + noise], axis=1)
    return {
        "schema": pool.SCHEMA,
        "address": cell.address,
        "label": cell.label,
        "cell": cell.content,
        "commit": "c0ffee",
        "versions": dict.fromkeys(("polopt", "stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco"), "1"),
        "machine": {"cpu": "a processor", "cores": 2, "torch_threads": 1},
        "steps_per_cpu_second": 100.0 + cell.seed,
        "curve": {"steps": steps.tolist(), "returns": returns.tolist()},
        "diagnostics": {
            "train/approx_kl": [None] + [0.01 * cell.seed] * (len(steps) - 1),
            "train/never": [None] * len(steps),
        },
    }


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "suites" / "pair.toml"
    path.parent.mkdir()
    path.write_text(
        """
        title = "A pair"
        steps = 100
        seeds = [0, 1, 2, 3]
        envs = ["A-v0", "B-v0"]
        evaluation = { every = 10, episodes = 2 }
        reference = { "A-v0" = [0.0, 100.0], "B-v0" = [-100.0, 100.0] }
        [[run]]
        label = "ours"
        library = "polopt"
        algorithm = "PPO"
        [[run]]
        label = "theirs"
        library = "sb3"
        algorithm = "PPO"
        """
    )
    suite = load_suite(path)
    folder = records_folder(suite)
    folder.mkdir(parents=True)
    for cell in suite.cells:
        if cell.label == "theirs" and cell.env == "B-v0" and cell.seed > 1:
            continue
        final = {"ours": 50.0, "theirs": 20.0}[cell.label] + 10 * cell.seed**2
        write_record(folder / f"{cell.stem}.json", fake_record(cell, final, noise=5.0))
    return path


def test_the_report_states_what_the_records_hold(measured):
    result = report.report(measured, diagnostics=["train/approx_kl"], reps=50)
    names = {figure.name for figure in result.figures}
    assert names == {"A-v0.png", "B-v0.png", "overall.png", "A-v0-approx_kl.png", "B-v0-approx_kl.png"}
    assert all(figure.read_bytes()[:4] == b"\x89PNG" for figure in result.figures)
    assert result.notes == ()
    rows = {
        line.split("|")[1].strip(): line for line in reversed(result.markdown.read_text().splitlines()) if "|" in line
    }
    ours = 50.0 + 10 * np.arange(4) ** 2
    assert f"| {scipy.stats.trim_mean(ours, 0.25):.0f} [" in rows["ours"]
    assert "(4/4)" in rows["ours"] and "(2/4)" in rows["theirs"]
    # Overall takes the seeds finished everywhere: 0 and 1 of theirs, scores .2, .3 on A and .6, .65 on B.
    assert f"| {np.mean([0.3, 0.6]):.3f} [" in rows["theirs"]
    assert "![overall](overall.png)" in result.markdown.read_text()


def test_the_report_is_reproducible_and_seeded(measured, tmp_path):
    texts = [
        report.report(measured, out=tmp_path / name, reps=50, random_state=seed).markdown.read_text()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_report_that_cannot_be_written_leaves_the_old_one(measured, tmp_path, monkeypatch):
    names = ("A-v0.png", "B-v0.png", "overall.png", "report.md")
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / name).write_text("old")
    for kept in (2, 3):  # the disk is full after so many files
        left = iter(range(kept))

        def full(handle, left=left):
            if next(left, None) is None:
                raise OSError("no space left on device")

        with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
            broken.setattr(os, "fsync", full)
            broken.delattr(os, "O_DIRECTORY", raising=False)  # of files alone
            report.report(measured, out=tmp_path / "out", reps=10)
        found = sorted(file.name for file in (tmp_path / "out").iterdir() if file.read_bytes() == b"old")
        assert found == sorted(names[kept:]) and len(list((tmp_path / "out").iterdir())) == len(names)


def test_what_is_missing_is_said(measured):
    suite = load_suite(measured)
    for cell in suite.cells:
        if cell.label == "theirs" and cell.env == "B-v0":
            (records_folder(suite) / f"{cell.stem}.json").unlink(missing_ok=True)
    result = report.report(measured, reps=10)
    assert result.notes == ("B-v0: nothing yet of theirs", "overall: theirs has no seed finished on every environment")
    assert all(note in result.markdown.read_text() for note in result.notes)


def test_a_folder_of_records_has_no_common_scale(measured):
    result = report.report(records_folder(load_suite(measured)), reps=10)
    assert {figure.name for figure in result.figures} == {"A-v0.png", "B-v0.png"}
    assert result.notes == ("no overall figure: there are no reference scores for A-v0, B-v0",)


def test_environments_of_different_length_are_noted(measured):
    """The overall curves end where the shortest does."""
    text = measured.read_text()
    for label, library in (("ours", "polopt"), ("theirs", "sb3")):
        run = f'label = "{label}"'
        text = text.replace(run, f'{run}\n envs = ["A-v0"]')
        text += f'[[run]]\n{run}\nlibrary = "{library}"\nalgorithm = "PPO"\nenvs = ["B-v0"]\nsteps = 200\n'
    measured.write_text(text)
    suite = load_suite(measured)
    for cell in suite.cells:
        write_record(records_folder(suite) / f"{cell.stem}.json", fake_record(cell, 50.0))
    (note,) = report.report(measured, reps=10).notes
    assert note.startswith("overall: what lies beyond 100 steps") and note.endswith("(A-v0 100, B-v0 200)")


def test_bad_reports(measured, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no records"):
        report.report(tmp_path / "empty")
    for key in ("train/none", "train/never"):
        with pytest.raises(ValueError, match=rf"'{key}'.*no record of A-v0"):
            report.report(measured, diagnostics=[key], reps=10)
    bad = records_folder(load_suite(measured)) / "bad.json"
    for text in ("{", "[]", '{"address": 1}'):
        bad.write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json is not a benchmark record"):
            read_record(bad)
    good = read_record(next(records_folder(load_suite(measured)).glob("polopt*.json")))
    curve = good["curve"]
    for change, words in (
        ({"schema": 2}, "is a record of version 2; this polopt reads version 1"),
        ({"machine": {}}, "is not a benchmark record: KeyError"),
        ({"curve": curve | {"returns": [[None]] * len(curve["steps"])}}, "its curve"),
        ({"curve": curve | {"returns": curve["returns"][1:]}}, "its curve"),
        ({"curve": {"steps": [], "returns": []}}, "its curve is empty"),
    ):
        bad.write_text(json.dumps(good | change))
        with pytest.raises(ValueError, match=rf"bad\.json .*{words}"):
            read_record(bad)
    for key in ("diagnostics", "versions", "steps_per_cpu_second"):
        bad.write_text(json.dumps({k: v for k, v in good.items() if k != key}))
        with pytest.raises(ValueError, match=rf"bad\.json is not a benchmark record: KeyError\('{key}'"):
            read_record(bad)


def test_the_final_score_is_the_last_tenth():
    curve = {"steps": [0, 80, 90, 95, 100], "returns": [[9, 9], [9, 9], [9, 9], [1, 3], [4, 4]]}
    assert report.final_score({"curve": curve}) == 3.0


def test_labels_are_moved_as_little_as_possible():
    rng = np.random.default_rng(0)
    for _ in range(20):
        wanted = np.sort(rng.random(6))
        places = report._spread(wanted, gap=0.15)
        assert (np.diff(places) >= 0.15 - 1e-12).all()
        # Least squares under the order constraint, by SciPy's isotonic regression.
        shift = 0.15 * np.arange(6)
        np.testing.assert_allclose(places, scipy.optimize.isotonic_regression(wanted - shift).x + shift)
    np.testing.assert_allclose(report._spread(np.array([0.1, 0.5, 0.9]), 0.15), [0.1, 0.5, 0.9], rtol=1e-15)


def test_a_rate_is_the_same_in_every_library():
    """A number in quotes is a constant, with lin_ before it a line to zero."""
    evaluation = Evaluation(64)
    for text, half in (("3e-4", 3e-4), ("lin_3e-4", 1.5e-4)):
        for library in ("polopt", "sb3"):
            cell = Cell(library, "PPO", "CartPole-v1", 0, 64, evaluation, {"learning_rate": text})
            schedule = cell_module.make_model(cell)[0].lr_schedule
            assert (float(schedule(1.0)), float(schedule(0.5))) == pytest.approx((3e-4, half))


def test_normalize_is_yes_or_no():
    for library in ("polopt", "sb3"):
        for value in ({"norm_obs": True, "norm_reward": False}, "false"):
            cell = Cell(library, "PPO", "CartPole-v1", 0, 64, Evaluation(64), {"normalize": value})
            with pytest.raises(ValueError, match=r"normalize=.* must be true \(observations and rewards\) or false"):
                cell_module.make_model(cell)
