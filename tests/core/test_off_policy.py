"""The off-policy engine, on SAC and TD3: warm-up, exploration, cadence, spaces, files, stable-baselines3's tools."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise

import polopt
from polopt.rollout import rollout

NET = dict(net_arch=[8])


def make(name="SAC", env="Pendulum-v1", **kwargs):
    kwargs = dict(seed=0, buffer_size=1000, learning_starts=10, batch_size=16, policy_kwargs=NET) | kwargs
    return getattr(polopt, name)("MlpPolicy", env, **kwargs)


def vector(model):
    return torch.cat([p.detach().flatten() for net in model.nets.values() for p in net.parameters()])


def roll(model, horizon, num_timesteps=10**6):
    model.num_timesteps = num_timesteps
    return rollout(model.env, model, model.env.reset_host(0), horizon)[0]


# -- warm-up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_freq", [1, 4])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_first_actions_are_uniform_and_updates_begin_after_them(train_freq, num_envs):
    model = make("TD3", learning_starts=25, train_freq=train_freq, num_envs=num_envs)
    first = None
    for _ in range(40):
        before = vector(model)
        model.learn(train_freq * num_envs, reset_num_timesteps=False)
        if first is None and not torch.equal(before, vector(model)):
            first = model.num_timesteps
    call = train_freq * num_envs
    assert first == (25 // call + 1) * call  # the first after more than 25 steps
    rows = model.memory.unpack(model.memory.table[: len(model.memory)])
    own = torch.tanh(model.policy.of(rows.obs)).detach()
    random = -(-25 // num_envs) * num_envs
    assert rows.action[:random].std() > 0.4 and (rows.action[:random] - own[:random]).abs().min() > 1e-5
    drift = (rows.action[random : random + num_envs] - own[random : random + num_envs]).abs()
    assert drift.max() < 0.3  # the untrained policy, a few updates ago


def test_warm_up_is_exact_within_a_rollout():
    model = make("TD3", learning_starts=5, num_envs=2)
    b = roll(model, 8, num_timesteps=0)
    own = torch.tanh(model.policy(b.obs.flatten(0, 1))).view(8, 2, 1)
    same = (b.action - own).abs().amax((1, 2)) < 1e-6
    assert same.tolist() == [False] * 3 + [True] * 5
    assert b.action[:3].abs().max() <= 1


# -- exploration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.2, NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))])
@pytest.mark.parametrize("name", ["TD3", "SAC"])
def test_gaussian_action_noise_comes_on_top_of_the_policys_action(name, noise):
    model, plain = make(name, action_noise=noise, num_envs=50), make(name, num_envs=50)
    with torch.no_grad():
        for m in (model, plain):
            m.policy.head.linear.weight.zero_()
            if name == "SAC":
                m.policy.head.log_std.weight.zero_()
                m.policy.head.log_std.bias.fill_(-1.0)
    centre = torch.tanh(model.policy.head.linear.bias.detach())
    with_noise, without = (roll(m, 40).action - centre for m in (model, plain))
    own = 0.0 if name == "TD3" else float(without.std())
    assert (own == 0) == (name == "TD3")
    assert float(with_noise.std()) == pytest.approx((0.2**2 + own**2) ** 0.5, rel=0.06)
    assert float(with_noise.mean()) == pytest.approx(float(without.mean()), abs=0.03)


def test_noise_is_clipped_to_the_box():
    b = roll(make("TD3", action_noise=3.0, num_envs=4), 20)
    assert b.action.abs().max() == 1 and (b.action.abs() == 1).float().mean() > 0.5


def test_ornstein_uhlenbeck_is_correlated_apart_in_every_world_and_ends_with_the_episode():
    noise = OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1))
    model = make("TD3", action_noise=noise, num_envs=2, env_kwargs=dict(max_episode_steps=20))
    with torch.no_grad():
        for p in (model.policy.head.linear.weight, model.policy.head.linear.bias):
            p.zero_()
    action = roll(model, 15).action[..., 0]
    steps = (action[1:] - action[:-1]).abs()
    assert steps.max() < 0.15 and action.abs().max() > 1.2 * steps.max()  # 0.3 sqrt(dt) = 0.03 a step
    assert not torch.equal(action[:, 0], action[:, 1])
    assert all(abs(n.noise_prev).max() > 0 for n in model._process.noises)
    model._end_noise(roll(model, 20))
    assert all(abs(n.noise_prev).max() == 0 for n in model._process.noises)
    assert abs(noise.noise_prev).max() == 0  # the user's own object is left alone


def test_action_noise_is_seeded_by_the_model_and_leaves_numpys_generator_alone():
    noise = NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))
    runs = []
    for other in (1, 2):
        np.random.seed(other)  # noqa: NPY002
        expected = np.random.RandomState(other).rand()
        runs.append(vector(make("TD3", action_noise=noise).learn(40)))
        assert np.random.rand() == expected  # noqa: NPY002
    assert torch.equal(*runs)


# -- cadence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "updates"),
    [
        (dict(), 50),
        (dict(train_freq=5), 10),
        (dict(train_freq=(5, "step")), 10),
        (dict(gradient_steps=3), 150),
        (dict(train_freq=5, gradient_steps=-1), 50),
        (dict(num_envs=5), 10),
        (dict(num_envs=5, gradient_steps=-1), 50),
        (dict(train_freq=(1, "episode")), 5),
        (dict(train_freq=(2, "episode"), gradient_steps=-1), 60),
    ],
)
def test_number_of_gradient_steps(kwargs, updates):
    model = make(learning_starts=0, env_kwargs=dict(max_episode_steps=10), **kwargs)
    model.learn(50)
    assert model.num_timesteps == (60 if updates == 60 else 50)  # rollouts of 20 steps
    assert model._n_updates == updates
    assert [int(p.count) for p in model.parts.values()] == [updates] * 3


def test_learn_ends_with_the_episode_where_episodes_are_rollouts():
    """Also calls shorter than one, as stable-baselines3; and callbacks hear of rollouts, not of steps."""
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    class Count(BaseCallback):
        def _on_training_start(self):
            self.seen, self.collected = [], []

        def _on_rollout_start(self):
            self.seen.append("start")

        def _on_rollout_end(self):
            self.seen.append("end")

        def _on_step(self):
            self.collected.append(self.locals["num_collected_steps"])
            return True

    kwargs = dict(train_freq=(1, "episode"), gradient_steps=-1)
    mine = make(**kwargs)
    peer = SAC("MlpPolicy", "Pendulum-v1", seed=0, learning_starts=10, batch_size=16, policy_kwargs=dict(NET), **kwargs)
    for steps, taken, rollouts in ((50, 200, 1), (210, 400, 2)):
        for model in (mine, peer):
            count = Count()
            model.learn(steps, callback=count)
            assert model.num_timesteps == taken and count.seen == ["start", "end"] * rollouts
            assert count.collected == [*range(1, 201)] * rollouts
    assert mine._n_updates == peer._n_updates == 600


def test_both_networks_widths_are_asked_for():
    with pytest.raises(ValueError, match="must say the widths of qf too"):
        make(policy_kwargs=dict(net_arch=dict(pi=[8])))


def test_boxes_without_axes(tmp_path):
    class Scalar(gym.Env):
        observation_space = action_space = spaces.Box(-1, 1, ())

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.float32(0.1), {}

        def step(self, action):
            return np.float32(0.2), 1.0, False, False, {}

    model = make(env=Scalar())
    model.learn(20)
    model.save(tmp_path / "m")
    again = polopt.SAC.load(tmp_path / "m")
    assert again.action_space == model.action_space
    np.testing.assert_array_equal(*(m.predict(np.float32(0.3), deterministic=True)[0] for m in (model, again)))


def test_episodes_are_counted_in_one_world():
    with pytest.raises(ValueError, match="in one world, not in 3"):
        make(train_freq=(1, "episode"), num_envs=3)


def test_training_before_collecting():
    with pytest.raises(ValueError, match="empty memory"):
        make().train_steps(1)


def test_an_n_step_memory_that_has_no_row_yet_waits():
    model = make(n_steps=5, learning_starts=0).learn(4)
    assert model._n_updates == 0 and len(model.memory) == 0
    model.learn(3, reset_num_timesteps=False)
    assert model._n_updates == 3 and len(model.memory) == 3


def test_a_buffer_that_does_not_fit_names_the_bytes():
    with pytest.raises(MemoryError, match=r"buffer_size=1000000000000 needs 36,000,000,000,000 bytes"):
        make(buffer_size=10**12)


# -- spaces ----------------------------------------------------------------------------------------------------------


class Spaced(gym.Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.seen = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.seen.append(action)
        return self.observation_space.sample(), 1.0, self.np_random.random() < 0.1, False, {}


@pytest.mark.parametrize("name", ["SAC", "TD3", "DDPG"])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Box(-1, 1, (2, 3)),
        spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2, 2))),
    ],
    ids=lambda s: type(s).__name__,
)
def test_observations_that_are_no_flat_vectors(name, space):
    policy = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    env = Spaced(space, spaces.Box(np.float32([-2, 0]), np.float32([1, 5])))
    model = getattr(polopt, name)(
        policy, env, seed=0, buffer_size=100, learning_starts=5, batch_size=8, policy_kwargs=NET
    )
    model.learn(20)
    assert model._n_updates == 15
    obs = space.sample()
    action = model.predict(obs, deterministic=True)[0]
    assert env.action_space.contains(action)
    from polopt.spaces import encode

    batched = (
        {k: torch.as_tensor(v)[None] for k, v in obs.items()} if isinstance(obs, dict) else torch.as_tensor(obs)[None]
    )
    with torch.no_grad():
        torch.testing.assert_close(model.policy(batched), model.policy.of(encode(space, batched)))


def test_actions_fill_a_box_of_any_shape_and_are_stored_scaled():
    env = Spaced(spaces.Box(-1, 1, (3,)), spaces.Box(np.float32([[-2], [10]]), np.float32([[2], [30]])))
    model = make(env=env, learning_starts=400)
    model.learn(300)
    seen = np.stack(env.seen)[:, :, 0]
    stored = model.memory.table[:300, 3:5]
    np.testing.assert_allclose((seen - [0, 20]) / [2, 10], stored, atol=1e-5)
    assert (seen.min(0) < [-1.9, 10.5]).all() and (seen.max(0) > [1.9, 29.5]).all()
    # uniform, not Gaussian: a quarter of the actions in each quarter of the box
    share = [((stored[:, 0] > a) & (stored[:, 0] <= a + 0.5)).float().mean().item() for a in (-1, -0.5, 0, 0.5)]
    assert max(abs(s - 0.25) for s in share) < 0.09


@pytest.mark.parametrize("mode", list(gym.vector.AutoresetMode))
def test_every_autoreset_mode_gives_true_successors_only(mode):
    env = gym.make_vec(
        "Pendulum-v1", 2, vectorization_mode="sync", vector_kwargs=dict(autoreset_mode=mode), max_episode_steps=5
    )
    model = make(env=env, learning_starts=1000).learn(40)
    rows = model.memory.unpack(model.memory.table[: len(model.memory)])
    assert model.num_timesteps >= 40 and len(rows) == model.num_timesteps
    angle = lambda x: torch.atan2(x[:, 1], x[:, 0])
    turned = torch.remainder(angle(rows.next_obs) - angle(rows.obs) + np.pi, 2 * np.pi) - np.pi
    torch.testing.assert_close(turned, 0.05 * rows.next_obs[:, 2], rtol=1e-3, atol=1e-3)  # the pendulum's own equation
    assert (rows.discount == rows.discount[0]).all()  # only time limits


# -- files -----------------------------------------------------------------------------------------------------------


RUNS = {
    "several worlds": dict(num_envs=2, n_steps=3),
    "episodes": dict(train_freq=(1, "episode"), gradient_steps=-1),
    "warming": dict(learning_starts=60, train_freq=4),
    "wrapped": dict(buffer_size=24),
    "noise": dict(action_noise=OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.3 * np.ones(1)), num_envs=2),
}


@pytest.mark.parametrize("which", RUNS)
@pytest.mark.parametrize("name", ["SAC", "TD3"])
def test_saved_in_full_and_resumed_is_the_uninterrupted_run_memory_included(name, which, tmp_path):
    kwargs = dict(env_kwargs=dict(max_episode_steps=13), **RUNS[which])
    whole = make(name, **kwargs).learn(50)
    half = make(name, **kwargs).learn(50)
    half.save(tmp_path / "half", full=True)
    given = {k: v for k, v in RUNS[which].items() if k == "action_noise"}
    env = polopt.make_env("Pendulum-v1", num_envs=whole.n_envs, max_episode_steps=13)
    resumed = type(whole).load(tmp_path / "half", env=env, custom_objects=given)
    for model in (whole, resumed):
        model.learn(51, reset_num_timesteps=False)
    assert torch.equal(vector(whole), vector(resumed))
    assert torch.equal(whole.memory.table[: len(whole.memory)], resumed.memory.table[: len(resumed.memory)])
    assert whole.memory.position == resumed.memory.position and whole._n_updates == resumed._n_updates > 0


def test_the_replay_buffer_has_a_file_of_its_own(tmp_path):
    model, other = make(n_steps=3).learn(30), make(n_steps=3)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    assert torch.equal(other.memory.table[:28], model.memory.table[:28]) and len(other.replay_buffer) == 28
    assert len(model.memory._pending) == 2 and not other.memory._pending
    with pytest.raises(ValueError, match="does not fit"):
        make(env="MountainCarContinuous-v0", n_steps=3).load_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(polopt.files.FileError):
        model.save(tmp_path / "model.zip")
        other.load_replay_buffer(tmp_path / "model.zip")


def test_an_unknown_network_option():
    with pytest.raises(TypeError, match=r"unknown policy_kwargs \['layers'\]; known: .*n_critics"):
        make(policy_kwargs=dict(layers=3))


# -- stable-baselines3's tools ---------------------------------------------------------------------------------------


def test_callbacks_evaluate_and_checkpoint(tmp_path):
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gym.make("Pendulum-v1", max_episode_steps=20))
    evaluation = EvalCallback(
        env, eval_freq=25, n_eval_episodes=2, log_path=str(tmp_path), best_model_save_path=str(tmp_path), verbose=0
    )
    checkpoints = CheckpointCallback(20, str(tmp_path / "c"), save_replay_buffer=True)
    model = make().learn(60, callback=[evaluation, checkpoints])
    results = np.load(tmp_path / "evaluations.npz")
    assert results["timesteps"].tolist() == [25, 50] and results["results"].shape == (2, 2)
    best = polopt.SAC.load(tmp_path / "best_model.zip")
    assert best.num_timesteps in (25, 50)
    fresh = make()
    fresh.load_replay_buffer(tmp_path / "c" / "rl_model_replay_buffer_40_steps.pkl")
    assert len(fresh.memory) == 40 - 1  # the callback sees a step before the memory does
    mean, std = evaluate_policy(model, env, n_eval_episodes=3)
    assert -2000 < mean < 0 <= std


def test_a_stable_baselines3_environment():
    from stable_baselines3.common.env_util import make_vec_env

    model = make(env=make_vec_env("Pendulum-v1", 2)).learn(60)
    assert model.n_envs == 2 and model._n_updates == 25 and len(model.memory) == 60
