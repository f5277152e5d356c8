"""MBPO: its schedule and bound, the spec's exact checks, and what it refuses."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from polopt.agents.model_based.mbpo import branch_error, rollout_length

import polopt
from polopt.memory import Mix, Replay
from polopt.model import Model
from polopt.part import Part

NET = dict(net_arch=[16])
TINY = dict(
    seed=0, learning_starts=20, gradient_steps=2, batch_size=64, buffer_size=2000, policy_kwargs=NET, model_train_freq=25,
    rollout_batch_size=100, epoch_length=50, num_networks=3, num_elites=2, model_arch=(8, 8), model_weight_decay=1e-5,
    model_max_passes=3,
)  # fmt: skip


def make(env="Pendulum-v1", **kwargs):
    return polopt.MBPO("MlpPolicy", env, **(TINY | kwargs))


def table(replay):
    return replay.table[: len(replay)]


def vector(model):
    return torch.cat([p.detach().reshape(-1) for net in model.nets.values() for p in net.parameters()])


# -- equations ---------------------------------------------------------------------------------------------------------


def test_rollout_lengths_of_the_paper():
    hopper = [rollout_length(e, 20, 150, 1, 15) for e in (0, 20, 29, 30, 85, 149, 150, 1000)]
    assert hopper == [1, 1, 1, 2, 8, 14, 15, 15]  # 30: 1 + 14 * 10 / 130 = 2.08
    assert {rollout_length(e, 20, 150, 1, 1) for e in range(300)} == {1}
    assert [rollout_length(e, 20, 300, 1, 25) for e in (20, 160, 300)] == [1, 13, 25]


def test_short_branches_are_best_where_the_model_is_good():
    best = lambda model_error: min(range(200), key=lambda k: branch_error(k, 0.99, model_error, policy_shift=0.1))
    assert best(0.5) == 0  # no use of a bad model
    assert best(0.0) == 199
    assert 0 < best(0.05) < 199 and best(0.05) > best(0.09)
    assert branch_error(0, 0.5, 0.3, 0.1) == pytest.approx(2 * (0.5 / 0.25 + 1 / 0.5) * 0.1)


def test_imagined_rewards_are_on_the_scale_of_real_ones():
    """The model learns of rows that hold scaled rewards: what it imagines is not scaled again."""
    model = make(reward_scale=10.0).learn(40)
    imagined = model.imagined.rows().reward
    starts = model.start_states(100)
    torch.testing.assert_close(imagined.abs().mean(), model.imagine(starts, 1).reward.abs().mean(), rtol=0.5, atol=0)


# -- the spec's exact checks -------------------------------------------------------------------------------------------


class Short(gym.Wrapper):
    """Episodes of seven steps."""

    def __init__(self):
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=7))


@pytest.mark.parametrize(
    ("num_envs", "train_freq"), [(1, 1), (3, 1), (1, 4), (1, (2, "episode"))], ids=["one", "three", "steps", "episodes"]
)
def test_all_real_is_sac_with_g_updates_a_step(num_envs, train_freq):
    same = dict(learning_starts=20, gradient_steps=3, batch_size=32, seed=4, num_envs=num_envs, policy_kwargs=NET)
    same |= dict(train_freq=train_freq)
    ours = make(Short, real_ratio=1.0, **same).learn(60)
    sac = polopt.SAC("MlpPolicy", Short, buffer_size=2000, **same).learn(60)
    assert ours.num_timesteps == sac.num_timesteps
    assert torch.equal(table(ours.memory), table(sac.memory)) and ours._n_updates == sac._n_updates > 0
    assert list(ours.nets) == list(sac.nets), "no model at all"
    assert torch.equal(vector(ours), vector(sac))


class TruePendulum(Model):
    """Gymnasium's pendulum, one state after another."""

    fits = 0

    def fit(self, *data):
        self.fits += 1
        return {}

    def predict(self, obs, action):
        env = gym.make("Pendulum-v1").unwrapped
        env.reset(seed=0)
        rewards, successors = [], []
        for o, a in zip(obs.double().numpy(), action.numpy(), strict=True):
            env.state = np.array([np.arctan2(o[1], o[0]), o[2]])
            next_obs, reward, *_ = env.step(a)
            rewards.append(reward)
            successors.append(next_obs)
        return torch.tensor(rewards, dtype=torch.float32), torch.from_numpy(np.stack(successors))


def test_with_the_true_simulator_imagined_rows_are_real_transitions():
    model = make(rollout_batch_size=40, learning_starts=60, model_train_freq=30)
    model.model = TruePendulum(model.observation_space, model.action_space, model._terminated, model.generator)
    model.learn(100)
    assert model.model.fits == 2 and len(model.imagined) == 66  # 40 * 50 // 30, full after the second
    rows = model.imagined.rows()
    known = {tuple(o) for o in model.real.rows().obs.tolist()}
    assert all(tuple(o) in known for o in rows.obs.tolist()), "branches begin at real states"
    env = polopt.make_env("Pendulum-v1", num_envs=len(rows), backend="torch")  # another implementation
    env.reset(seed=0)
    angle = torch.atan2(rows.obs[:, 1].double(), rows.obs[:, 0].double())
    state = torch.stack([angle, rows.obs[:, 2].double()]), model.agent.env_action(rows.action).double()
    parts, reward, _ = env.task.dynamics(torch, tuple(state[0]), state[1])
    torch.testing.assert_close(rows.reward.double(), reward, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        rows.next_obs.double(), torch.stack(env.task.observe(torch, parts), -1), atol=1e-5, rtol=0
    )
    assert (rows.discount == torch.tensor(0.99)).all()


def test_batches_have_twelve_real_rows_of_256():
    model = make(batch_size=256)
    model.learn(30)
    assert isinstance(model.agent.memory, Mix) and isinstance(model.memory, Replay)
    model.real.table[:, 0] = 77.0
    model.imagined.table[:, 0] = -77.0
    for _ in range(3):
        obs = model.agent.draw(("policy", "targets")).obs[:, 0]
        assert (obs == 77).sum() == 12 and (obs == -77).sum() == 244


def test_ended_branches_end_in_the_memory_too():
    # Hopper from states that random actions reach: some imagined steps end, and their rows have no discount and no child.
    model = make(
        "Hopper-v5", rollout_schedule=(0, 1, 4, 4), learning_starts=60, rollout_batch_size=300, epoch_length=25
    )
    model.learn(61)
    rows = model.imagined.rows()
    ended = rows.discount == 0
    assert 0 < ended.sum() < len(rows) < 4 * 300
    expected = model.env.terminated(rows.obs, model.agent.env_action(rows.action), rows.next_obs)
    assert torch.equal(ended, expected)
    children = {tuple(o) for o in rows.obs.tolist()}
    alive = [tuple(o) in children for o in rows.next_obs[~ended].tolist()]
    assert not any(tuple(o) in children for o in rows.next_obs[ended].tolist())
    # 4 generations: all but the last step's survivors have a child
    assert sum(alive) == len(rows) - 300


# -- cadence -----------------------------------------------------------------------------------------------------------


def test_fits_when_it_should_and_the_ring_grows_with_k():
    seen = []
    model = make(rollout_schedule=(0, 2, 1, 3), model_retain_epochs=2)
    fit = model.model.fit
    model.model.fit = lambda obs, *rest: seen.append((model.num_timesteps, len(obs))) or fit(obs, *rest)
    sizes = []
    imagine = model.imagine
    model.imagine = lambda starts, k: sizes.append((len(starts), k, model.imagined.capacity)) or imagine(starts, k)
    model.learn(150)
    assert seen == [(s, s) for s in (21, 46, 71, 96, 121, 146)], "every 25 steps, on all there is"
    ks = [k for _, k, _ in sizes]
    assert ks == [1, 1, 2, 2, 3, 3], "epochs of 50 steps after the random ones"
    assert all(n == 100 and capacity == 2 * k * 100 * 50 // 25 for n, k, capacity in sizes)
    assert len(model.imagined) == 100 * sum(ks)  # nothing was forgotten while it grew
    assert model._n_updates == 2 * 130 == model.agent._n_updates


def test_learns_from_the_first_updates_on_whatever_the_number_of_worlds():
    # 7 worlds step over learning_starts; without a fit before the first update there would be nothing to mix
    model = make(num_envs=7).learn(35)
    assert len(model.imagined) and model._n_updates == 2 * 3


def test_metrics():
    model = make(learning_starts=10)
    seen = {}
    update = model.update
    model.update = lambda batch: seen.update(log := update(batch)) or log
    model.learn(12)
    assert {"model_loss", "model_holdout_mse", "model_passes", "branch_length", "imagined", "critic_loss"} <= set(seen)
    assert all(v.ndim == 0 and torch.isfinite(v) for v in seen.values())


# -- one object --------------------------------------------------------------------------------------------------------


def test_its_sac_has_its_hyperparameters_and_its_networks():
    model = make(tau=0.01, ent_coef="auto_0.2", gamma=0.9)
    assert model.agent.config.tau == 0.01 and model.agent.learned and model.imagined.gamma == 0.9
    assert model.policy is model.agent.policy and model.nets["critic"] is model.agent.nets["critic"]
    assert set(model.parts) == {"policy", "critic", "alpha", "model"}
    model.tau = 0.5
    assert model.agent.config.tau == 0.5 and model.agent.c.tau == 0.5
    model.learning_rate = 1e-5
    assert model.parts["policy"].lr == pytest.approx(1e-5) and model.parts["model"].lr == pytest.approx(1e-3)
    assert isinstance(model.parts["model"], Part)


def test_saved_in_full_it_goes_on_with_both_memories(tmp_path):
    whole = make(rollout_schedule=(0, 2, 1, 3)).learn(90)
    whole.save(tmp_path / "half", full=True)
    resumed = polopt.load(tmp_path / "half", env="Pendulum-v1")
    for model in (whole, resumed):
        model.learn(60, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed)) and whole._n_updates == resumed._n_updates
    for a, b in ((whole.real, resumed.real), (whole.imagined, resumed.imagined)):
        assert torch.equal(table(a), table(b)) and a.capacity == b.capacity
    assert torch.equal(whole.nets["model"].elites, resumed.nets["model"].elites)


def test_the_replay_goes_to_a_file_and_back(tmp_path):
    model = make().learn(30)
    model.save_replay_buffer(tmp_path / "replay.zip")
    other = make()
    other.load_replay_buffer(tmp_path / "replay.zip")
    assert torch.equal(table(other.memory), table(model.memory)) and len(other.memory) == 30


def test_the_model_draws_what_its_agent_does_not():
    model = make(seed=3)
    assert not torch.equal(model.generator.get_state(), model.agent.generator.get_state())
    draws = torch.rand(5, generator=model.generator), torch.rand(5, generator=model.agent.generator)
    assert not torch.equal(*draws)
    model.set_random_seed(3)
    assert torch.equal(torch.rand(5, generator=model.generator), draws[0])
    assert not torch.equal(torch.rand(5, generator=model.agent.generator), draws[0])


def test_a_full_file_takes_another_seed_for_all_that_is_drawn(tmp_path):
    make().learn(40).save(tmp_path / "full", full=True)
    load = lambda seed: polopt.MBPO.load(tmp_path / "full", env="Pendulum-v1", seed=seed)
    seven, eight, again = load(7), load(8), load(7)
    for of in (lambda m: m.generator, lambda m: m.agent.generator):
        assert not torch.equal(of(seven).get_state(), of(eight).get_state())
        assert torch.equal(of(seven).get_state(), of(again).get_state())


def test_loaded_with_another_temperature_it_begins_there(tmp_path):
    make().learn(40).save(tmp_path / "plain")
    load = lambda **changes: polopt.MBPO.load(tmp_path / "plain", env="Pendulum-v1", **changes)
    for ent_coef, alpha in (("auto_0.01", 0.01), (0.2, 0.2)):
        model = load(ent_coef=ent_coef)
        assert float(model.nets["temperature"]["log_alpha"].detach().exp()) == pytest.approx(alpha)
    with pytest.raises(polopt.files.FileError, match=r"holds the weights of other networks.*real_ratio"):
        load(real_ratio=1.0)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_without_its_replay_it_collects_before_it_fits(tmp_path, num_envs):
    make(num_envs=num_envs).learn(40).save(tmp_path / "plain")
    model = polopt.MBPO.load(tmp_path / "plain", env="Pendulum-v1")
    before, updates, fits = vector(model), model._n_updates, []
    fit = model.model.fit
    model.model.fit = lambda obs, *rest: fits.append(len(obs)) or fit(obs, *rest)
    model.learn(18, reset_num_timesteps=False)
    assert torch.equal(vector(model), before) and model._n_updates == updates and not fits
    model.learn(6, reset_num_timesteps=False)
    assert fits == [20] and model._n_updates > updates


def test_imagined_rows_go_where_the_real_ones_do(tmp_path):
    make().learn(40).save(tmp_path / "full", full=True)
    with pytest.warns(UserWarning, match="reward_scale=1.0, not 100.0: the memory begins empty"):
        model = polopt.MBPO.load(tmp_path / "full", env="Pendulum-v1", reward_scale=100.0)
    assert len(model.real) == len(model.imagined) == 0


def test_a_full_file_without_an_environment_keeps_its_replay(tmp_path):
    whole = make().learn(40)
    whole.save(tmp_path / "full", full=True)
    assert len(polopt.MBPO.load(tmp_path / "full").replay_buffer) == 40
    model = polopt.MBPO.load(tmp_path / "full")
    model.save_replay_buffer(tmp_path / "rows.zip")
    make().learn(10).save_replay_buffer(tmp_path / "ten.zip")
    model.load_replay_buffer(tmp_path / "ten.zip")
    model.set_env(polopt.make_env("Pendulum-v1"))
    assert len(model.replay_buffer) == 10, "the user's, not the file's"
    other = make()
    other.load_replay_buffer(tmp_path / "rows.zip")
    assert torch.equal(table(other.real), table(whole.real))


def test_steps_of_a_rollout_that_a_callback_stopped_count_towards_the_next_fit():
    model = make(train_freq=10, model_train_freq=30, learning_starts=10).learn(20)
    left = []
    stop = lambda *_: bool(left) and left.pop()
    fits = []
    fit = model.model.fit
    model.model.fit = lambda obs, *rest: fits.append(len(obs)) or fit(obs, *rest)
    for _ in range(3):
        left[:] = [True] * 8  # nine steps, and the rollout is dropped
        model.learn(100, callback=stop, reset_num_timesteps=False)
    assert model._since_fit == 27 and not fits
    model.learn(10, reset_num_timesteps=False)
    assert len(fits) == 1 and model._since_fit == 0


def test_lists_are_tuples():
    model = make(rollout_schedule=[0, 2, 1, 3], model_arch=[8, 8], model_weight_decay=[1e-5] * 3)
    assert model.rollout_schedule == (0, 2, 1, 3) and model.model_arch == (8, 8)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_discrete_actions():
    with pytest.raises(ValueError, match=r"MBPO does not support the action space Discrete\(2\); it supports Box"):
        make("CartPole-v1")


class Unknown(gym.Env):
    """An environment whose termination nobody has written down."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (2,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        return np.array([0.5, *action], np.float32), 0.0, False, False, {}


def test_an_environment_whose_ends_are_not_known():
    with pytest.raises(ValueError, match=r"has no termination function.*Pass termination_fn"):
        make(Unknown())
    make(Unknown(), real_ratio=1.0)  # nothing is imagined
    make(Unknown(), termination_fn="never").learn(30)
    model = make(Unknown(), termination_fn=lambda obs, action, next_obs: next_obs[:, 0] > 0.4)
    model.learn(30)
    rows = model.imagined.rows()
    assert torch.equal(rows.discount == 0, rows.next_obs[:, 0] > 0.4)


def test_a_termination_function_that_is_not_one():
    for wrong, words in (
        (lambda obs, action, next_obs: next_obs[:, 0], r"must return a bool tensor \[B\].*not torch.float32 \(2,\)"),
        (lambda obs, action, next_obs: next_obs > 0, r"not torch.bool \(2, 2\)"),
        (lambda obs, action, next_obs: False, "not bool"),
    ):
        with pytest.raises(ValueError, match=words):
            make(Unknown(), termination_fn=wrong)
    with pytest.raises(ValueError, match="must be one of 'never'"):
        make(Unknown(), termination_fn="sometimes")


def test_what_is_set_later_is_checked_too(tmp_path):
    model = make(Unknown(), termination_fn="never")
    with pytest.raises(ValueError, match="must return a bool tensor"):
        model.termination_fn = lambda *transition: 1.0
    assert model.termination_fn == "never"
    with pytest.raises(TypeError):
        model.termination_fn = lambda obs: obs
    model.gradient_steps = 3  # and what was refused has left nothing behind
    assert model.termination_fn == "never"
    three = make(num_envs=3)
    with pytest.raises(ValueError, match="whole episodes are counted in one world, not in 3"):
        three.train_freq = (1, "episode")
    make(train_freq=(1, "episode")).save(tmp_path / "episodes")
    with pytest.raises(ValueError, match="whole episodes are counted in one world, not in 3"):
        polopt.MBPO.load(tmp_path / "episodes", env="Pendulum-v1", num_envs=3)


def test_before_there_is_an_environment(tmp_path):
    model = polopt.MBPO("MlpPolicy", None)
    model.set_random_seed(1)
    with pytest.raises(RuntimeError, match=r"MBPO.replay_buffer: there are no networks yet"):
        _ = model.replay_buffer
    with pytest.raises(RuntimeError, match=r"MBPO.save_replay_buffer: there are no networks yet"):
        model.save_replay_buffer(tmp_path / "none.zip")
    make().save(tmp_path / "plain")
    model = polopt.MBPO.load(tmp_path / "plain")
    model.model.start(np.zeros((4, 3)))
    with pytest.raises(RuntimeError, match="no environment to say which transitions end an episode"):
        model.model.step(torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"obs \(4, 2\) must be states \[N, 3\]"):
        model.model.start(np.zeros((4, 2)))


def test_observations_that_another_wrapper_normalises():
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    with pytest.raises(NotImplementedError, match="VecNormalize's moments go on"):
        make(VecNormalize(make_vec_env("Pendulum-v1")), termination_fn="never")
    model = make(make_vec_env("Pendulum-v1"), termination_fn="never")
    with pytest.raises(NotImplementedError, match="VecNormalize's moments go on"):
        model.set_env(VecNormalize(make_vec_env("Pendulum-v1")))
    for name in ("normalize_obs", "normalize_reward", "standardize"):
        with pytest.raises(
            NotImplementedError, match=f"{name}=True: observations and rewards are modelled as they are"
        ):
            make(**{name: True})


def test_observations_that_are_no_flat_vector():
    class Picture(Unknown):
        observation_space = gym.spaces.Box(-1, 1, (2, 2))

    with pytest.raises(ValueError, match="flat vectors of numbers, not the observation space"):
        make(Picture(), termination_fn="never")


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(n_steps=3), r"n_steps=3 is outside \[1, 1\]"),
        (dict(num_elites=4), "num_elites=4 must be at most num_networks=3"),
        (dict(rollout_schedule=(20, 20, 1, 15)), r"rollout_schedule=\(20, 20, 1, 15\) must have 0 <= e0 < e1"),
        (dict(rollout_schedule=(20, 150, 1)), "must be four whole numbers"),
        (dict(model_weight_decay=(1e-5, 1e-5)), "must be 3 numbers of at least 0"),
        (dict(model_weight_decay=("a", "b", "c")), "must be 3 numbers of at least 0"),
        (dict(model_arch=()), r"model_arch=\(\) must be widths"),
        (dict(real_ratio=1.5), r"real_ratio=1.5 is outside \[0, 1\]"),
        (dict(learning_starts=0), r"learning_starts=0 is outside \[5, inf\)"),
    ],
)
def test_bad_hyperparameters(kwargs, words):
    with pytest.raises(ValueError, match=words):
        make(**kwargs)


def test_more_imagined_rows_than_there_is_memory():
    with pytest.raises(
        MemoryError, match=r"rollout_batch_size=1000000000 branches make up to 30,000,000,000 imagined rows"
    ):
        make(rollout_batch_size=10**9, rollout_schedule=(20, 150, 1, 15))


def test_a_model_that_diverges_says_where():
    model = make().learn(21)
    with torch.no_grad():
        model.nets["model"].net.biases[-1][:] = torch.nan
    with pytest.raises(polopt.agent.NonFiniteError, match=r"step 1 of a branch: member . of the model predicted"):
        model.imagine(model.start_states(10), 1)


def test_learns_the_pendulum_s_laws_from_500_random_steps():
    model = make(
        learning_starts=500, model_arch=(64, 64), model_batch_size=32, model_patience=20, model_max_passes=150, model_learning_rate=3e-3,
        rollout_batch_size=500, gradient_steps=1,
    )  # fmt: skip
    model.learn(501)
    rows = model.imagined.rows()
    true = TruePendulum(model.observation_space, model.action_space, model._terminated, model.generator)
    reward, next_obs = true.predict(rows.obs, model.agent.env_action(rows.action))
    # Samples, noise and all, beside the truth. Seeds 0 to 3: at most 0.023 of the reward's variance, 0.009 of a change's.
    unexplained = (reward - rows.reward).square().mean() / reward.var()
    assert unexplained < 0.05
    unexplained = (next_obs - rows.next_obs).square().mean(0) / (next_obs - rows.obs).var(0)
    assert unexplained.max() < 0.02
