"""What a full model file goes on from where something is changed: the environment, hyperparameters, the memory."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

import polopt
from polopt.batch import Batch
from polopt.dataset import Collector
from polopt.files import FileError

NET = dict(net_arch=[8])
KIND = "the file's worlds are of another kind than env: they begin anew"


def make(name="SAC", **kwargs):
    kwargs = dict(seed=0, buffer_size=500, learning_starts=10, batch_size=8, policy_kwargs=NET) | kwargs
    return getattr(polopt, name)("MlpPolicy", "Pendulum-v1", **kwargs)


@pytest.fixture
def full(tmp_path):
    model = make().learn(60)
    model.save(tmp_path / "full", full=True)
    return tmp_path / "full"


def dataset(reward=7.0, n=40):
    world = Collector(polopt.make_env("Pendulum-v1", max_episode_steps=20))
    rng = np.random.default_rng(0)
    world.reset_host(0)
    for _ in range(n):
        world.step_host(rng.uniform(-2, 2, (1, 1)).astype(np.float32))
    data = world.dataset()
    return replace(data, reward=np.full(n, reward))


# -- another environment -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kwargs",
    [dict(env=lambda: gym.make("Pendulum-v1")), dict(env="Pendulum-v1", num_envs=2), dict(env=lambda: gym.make_vec("Pendulum-v1", 3, "sync"))],
    ids=["gymnasium", "two worlds", "vector"],
)  # fmt: skip
def test_worlds_of_another_kind_begin_anew(full, kwargs):
    with pytest.warns(UserWarning, match=KIND):
        model = polopt.SAC.load(full, **kwargs)
    assert len(model.memory) == 60
    model.learn(30, reset_num_timesteps=False)
    assert len(model.memory) >= 90


def test_normalised_worlds_too(tmp_path):
    model = make(normalize_obs=True, normalize_reward=True).learn(60)
    model.save(tmp_path / "m", full=True)
    with pytest.warns(UserWarning, match=KIND):
        again = polopt.SAC.load(tmp_path / "m", env=gym.make("Pendulum-v1"))
    obs = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, again)))
    with pytest.warns(UserWarning, match=KIND):
        bare = polopt.SAC.load(tmp_path / "m", env="Pendulum-v1", normalize_obs=False, normalize_reward=False)
    assert bare.normalizer is None and len(bare.memory) == 60


def test_the_memory_is_there_without_an_environment(full, tmp_path):
    model = polopt.SAC.load(full)
    model.save_replay_buffer(tmp_path / "rows")
    assert model.replay_buffer.size() == 60
    model.save(tmp_path / "again", full=True)
    fresh = make()
    fresh.load_replay_buffer(tmp_path / "rows")
    assert len(fresh.memory) == 60
    whole = polopt.SAC.load(full, env="Pendulum-v1").learn(40, reset_num_timesteps=False)
    for path in (full, tmp_path / "again"):
        late = polopt.SAC.load(path)
        late.set_env("Pendulum-v1", force_reset=False)
        late.learn(40, reset_num_timesteps=False)
        for x, y in zip(whole.policy.parameters(), late.policy.parameters(), strict=True):
            assert torch.equal(x, y)


def test_what_is_given_before_the_environment_stays(full, tmp_path):
    other = make().learn(77)
    other.save_replay_buffer(tmp_path / "rows")
    model = polopt.SAC.load(full)
    model.load_replay_buffer(tmp_path / "rows")
    model.set_env("Pendulum-v1")
    assert len(model.memory) == 77


def test_without_networks():
    for name, act in (
        ("save_replay_buffer", lambda m: m.save_replay_buffer("x")),
        ("load_replay_buffer", lambda m: m.load_replay_buffer("x")),
        ("replay_buffer", lambda m: m.replay_buffer),
        ("get_parameters", lambda m: m.get_parameters()),
        ("set_parameters", lambda m: m.set_parameters({})),
    ):
        with pytest.raises(RuntimeError, match=rf"SAC.{name}: there are no networks yet"):
            act(polopt.SAC("MlpPolicy"))


# -- other hyperparameters ---------------------------------------------------------------------------------------------


def test_rows_of_another_discount_are_not_mixed_in(full):
    with pytest.warns(UserWarning, match=r"gamma=0.99, not 0.5; n_steps=1, not 3: the memory begins empty"):
        model = polopt.SAC.load(full, env="Pendulum-v1", gamma=0.5, n_steps=3)
    assert len(model.memory) == 0
    model.learn(20)
    rows = model.memory.unpack(model.memory.table[: len(model.memory)])
    assert rows.discount.unique().tolist() == [0.125]


def test_a_memory_that_is_too_small(full):
    with pytest.raises(ValueError, match="buffer_size=5 is less than the 60 transitions of the file"):
        polopt.SAC.load(full, env="Pendulum-v1", buffer_size=5)


@pytest.mark.parametrize(
    ("was", "is_", "alpha"), [(0.1, 0.5, 0.5), ("auto", 0.1, 0.1), (0.1, "auto", 1.0), ("auto_0.2", "auto_0.3", 0.3)]
)
def test_another_temperature(was, is_, alpha, tmp_path):
    make(ent_coef=was).learn(40).save(tmp_path / "m", full=True)
    model = polopt.SAC.load(tmp_path / "m", env="Pendulum-v1", ent_coef=is_)
    assert model.alpha().item() == pytest.approx(alpha)
    model.learn(20)
    assert (model.alpha().item() == pytest.approx(alpha)) is (is_ == 0.5 or is_ == 0.1)
    same = polopt.SAC.load(tmp_path / "m", ent_coef=was)
    assert same.alpha().item() == pytest.approx(polopt.SAC.load(tmp_path / "m").alpha().item())


def test_other_networks(full, tmp_path):
    with pytest.raises(FileError, match=r"other networks than these hyperparameters make \(standardize\)"):
        polopt.SAC.load(full, standardize=True)
    make("RLPD", n_critics=3).save(tmp_path / "m")
    with pytest.raises(FileError, match=r"make \(n_critics\)"):
        polopt.RLPD.load(tmp_path / "m", n_critics=4)


# -- datasets, and memories that are not for this model ----------------------------------------------------------------


def test_a_replay_takes_the_place_of_a_dataset(tmp_path):
    make().learn(77).save_replay_buffer(tmp_path / "rows")
    model, data = make(), dataset()
    model.learn_offline(data, 1)
    model.load_replay_buffer(tmp_path / "rows")
    assert len(model.memory) == 77 and model.memory.capacity == 500
    with pytest.warns(UserWarning, match="77 transitions in memory give way"):
        model.learn_offline(data, 1)
    rows = model.memory.unpack(model.memory.table[: len(model.memory)])
    assert (rows.reward == 7).all()


def test_standardised_rows_are_told_apart(tmp_path):
    model = make(standardize=True)
    model.learn_offline(dataset(), 1)
    model.save_replay_buffer(tmp_path / "rows")
    with pytest.raises(ValueError, match=r"holds rows of moments=\w{12}, this model has moments=None"):
        make().load_replay_buffer(tmp_path / "rows")
    with pytest.raises(ValueError, match="standardised otherwise"):
        make("RLPD").add_prior(model.memory)
    model.learn_offline(dataset(), 1)  # its own again


def test_rows_of_other_moments_are_forgotten(tmp_path):
    model, other = (make(standardize=True).learn_offline(dataset(n=n), 1) for n in (40, 60))
    model.save(tmp_path / "m")
    model.set_parameters(tmp_path / "m")
    assert len(model.memory) == 40 and model.dataset is not None
    with pytest.warns(
        UserWarning, match="60 transitions in memory were standardised by other moments: they are forgotten"
    ):
        other.set_parameters(tmp_path / "m")
    assert len(other.memory) == 0 and other.memory.capacity == 500
    other.learn_offline(dataset(), 0)
    assert torch.equal(other.memory.rows().obs, model.memory.rows().obs)


def test_a_memory_of_a_dataset_is_read_back(tmp_path):
    """Into the model that wrote it, though it is larger than buffer_size; and into one that waits for its dataset."""
    model = make(buffer_size=20).learn_offline(dataset(), 1)
    model.save_replay_buffer(tmp_path / "rows")
    model.save(tmp_path / "full", full=True)
    model.load_replay_buffer(tmp_path / "rows")
    assert len(model.memory) == 40
    waiting = polopt.SAC.load(tmp_path / "full", env="Pendulum-v1")
    waiting.load_replay_buffer(tmp_path / "rows")
    assert len(waiting.learn(1).memory) == 40  # a ring: the oldest gave way


def test_moments_come_before_learning():
    model = make(standardize=True).learn(40)
    with pytest.raises(ValueError, match="has learned from observations as they are"):
        model.learn_offline(dataset(), 1)


def test_log_interval_of_learn_offline():
    for bad, error in ((0, ValueError), (-3, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="log_interval"):
            make().learn_offline(dataset(), 1, log_interval=bad)


# -- prior data --------------------------------------------------------------------------------------------------------

N = 20
GOOD = dict(
    obs=np.zeros((N, 3), np.float32), next_obs=np.zeros((N, 3), np.float32), action=np.zeros((N, 1), np.float32),
    reward=np.zeros(N, np.float32), terminated=np.zeros(N, bool),
)  # fmt: skip
BAD = {
    "reward as a column": (dict(reward=np.zeros((N, 1))), r"reward of shape \(20, 1\) does not fit: expected \(20,\)"),
    "a reward less": (dict(reward=np.zeros(N - 1)), r"reward of shape \(19,\) does not fit: expected \(20,\), as there are 20 actions"),
    "ends of another shape": (dict(terminated=np.zeros((N, 2), bool)), r"terminated of shape \(20, 2\)"),
    "no number": (dict(next_obs=np.full((N, 3), np.nan)), "next_obs is not finite"),
}  # fmt: skip


def test_prior_rows_may_be_numpy_s():
    model = make("RLPD").add_prior(Batch(**GOOD))
    assert len(model.memory.second) == N


@pytest.mark.parametrize("which", BAD)
def test_bad_prior_rows_are_named(which):
    changed, words = BAD[which]
    with pytest.raises(ValueError, match=words):
        make("RLPD").add_prior(Batch(**GOOD | changed))


def test_what_is_no_prior_data():
    model = make("RLPD").add_prior(Batch(**GOOD))
    for bad, words in ((None, "not NoneType"), (model, "not RLPD"), (model.memory, r"memory.first or memory.second")):
        with pytest.raises(TypeError, match=words):
            make("RLPD").add_prior(bad)
    make("RLPD").add_prior(model.memory.second)


# -- optimizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_what_is_no_optimizer(algorithm):
    for kwargs, error, words in (
        (dict(optimizer_class="adam"), TypeError, "optimizer_class='adam' must be a class of torch.optim"),
        (dict(optimizer_kwargs=[1]), TypeError, r"optimizer_kwargs=\[1\] must be a dict"),
        (dict(optimizer_kwargs=dict(lr=0.5)), ValueError, "lr=0.5 is the hyperparameter learning_rate"),
        ([64], TypeError, r"policy_kwargs=\[64\] must be a dict"),
    ):
        with pytest.raises(error, match=words):
            getattr(polopt, algorithm)("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs)
    getattr(polopt, algorithm)("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(optimizer_kwargs=None))


def test_a_schedule_gives_numbers():
    with pytest.raises(TypeError, match=r"learning_rate=.* must give a number at progress 1\.0, not None"):
        make(learning_rate=lambda progress: None)


def test_what_is_no_action_noise():
    from stable_baselines3.common.noise import NormalActionNoise

    for bad in (NormalActionNoise, lambda: np.zeros(1)):
        with pytest.raises(TypeError, match="must be a number or an ActionNoise"):
            make("TD3", action_noise=bad)


# -- the log -------------------------------------------------------------------------------------------------------------


def test_what_updates_said_since_the_last_line_is_in_a_full_file(tmp_path):
    """TD3's policy learns every second step: a line after the file would lack what was said before it."""
    model = make("TD3")

    def commit(agent):
        if agent.num_timesteps == 52:
            agent.save(tmp_path / "half", full=True)
            kept.update({name: float(x) for name, x in agent._metrics.items()})
        return True

    kept = {}
    model._commit = commit
    model.learn(60, log_interval=None)
    assert {"actor_loss", "critic_loss"} <= kept.keys() and not model._metrics
    again = polopt.TD3.load(tmp_path / "half", env="Pendulum-v1")
    assert {name: float(x) for name, x in again._metrics.items()} == kept
