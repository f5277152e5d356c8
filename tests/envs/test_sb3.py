"""stable-baselines3's vector environments as an Env, and an Env in the hands of stable-baselines3 itself."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from polopt.envs import TimeAware, as_env, make_env
from polopt.envs.sb3 import PoloptVecEnv, SB3VecEnv, to_sb3
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from polopt.env import EnvError


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pendulum(limit=6):
    return gymnasium.make("Pendulum-v1", max_episode_steps=limit)


def cartpole():
    return gymnasium.make("CartPole-v1")


def dummy(n=2, make=cartpole):
    return DummyVecEnv([make] * n)


def plan(space, steps, n, seed=0):
    space.seed(seed)
    return np.array([[space.sample() for _ in range(n)] for _ in range(steps)])


@pytest.mark.parametrize("make", [cartpole, pendulum])
def test_transitions_are_those_of_gymnasiums_loop(make):
    a = SB3VecEnv(dummy(3, make), dtype=torch.float64)
    b = as_env(make, num_envs=3)
    np.testing.assert_array_equal(a.reset_host(4), b.reset_host(4))
    for action in plan(b.action_space, 60, 3):
        x, y = a.step_host(action), b.step_host(action)
        np.testing.assert_array_equal(x.reward, y.reward.astype(np.float32))
        for p, q in zip((x.obs, x.terminated, x.truncated, x.next_obs), (y.obs, y[2], y[3], y.next_obs), strict=True):
            np.testing.assert_array_equal(p, q)
    mine, theirs = a.pop_episodes(), b.pop_episodes()
    assert [(e.index, e.l) for e in mine] == [(e.index, e.l) for e in theirs] != []
    np.testing.assert_allclose([e.r for e in mine], [e.r for e in theirs], rtol=1e-6)


def test_both_flags_at_once_are_a_termination():
    """stable-baselines3 writes TimeLimit.truncated only where the episode did not terminate."""

    class Both(gymnasium.Wrapper):
        def step(self, action):
            obs, reward, _, _, info = self.env.step(action)
            return obs, reward, True, True, info

    step = None
    env = SB3VecEnv(DummyVecEnv([lambda: Both(cartpole())]))
    env.reset(0)
    step = env.step(torch.zeros(1, dtype=torch.int64))
    assert (step.terminated.item(), step.truncated.item()) == (True, False)


@pytest.mark.parametrize("monitor", ["none", "Monitor", "VecMonitor"])
def test_vecnormalize_gives_normalised_numbers_and_true_episodes(monitor):
    make = (lambda: Monitor(pendulum())) if monitor == "Monitor" else pendulum
    inner = VecMonitor(dummy(2, make)) if monitor == "VecMonitor" else dummy(2, make)
    venv = VecNormalize(inner)
    env = as_env(venv)
    env.reset(3)
    plain = as_env(pendulum, num_envs=2)
    plain.reset(3)
    for action in plan(env.action_space, 13, 2):
        step, true = env.step(torch.tensor(action)), plain.step(torch.tensor(action))
        np.testing.assert_allclose(venv.unnormalize_obs(step.obs.numpy()), true.obs, atol=1e-3)
        # successors too are normalised, by stable-baselines3, with the statistics of the step
        np.testing.assert_allclose(step.next_obs, venv.normalize_obs(true.next_obs.numpy()), atol=1e-6)
        np.testing.assert_allclose(step.reward, venv.normalize_reward(true.reward.numpy()), rtol=1e-4)
    mine, theirs = env.pop_episodes(), plain.pop_episodes()
    assert [e.l for e in mine] == [e.l for e in theirs] == [6] * 4
    np.testing.assert_allclose([e.r for e in mine], [e.r for e in theirs], rtol=1e-5)


def test_an_end_that_the_monitor_does_not_report_is_none():
    """Wrappers outside a Monitor end episodes early (a life lost): the episode goes on."""

    class Lives(gymnasium.Wrapper):
        def reset(self, **kwargs):
            self.t = 0
            return self.env.reset(**kwargs) if self.env.needs_reset else (self.last, {})

        def step(self, action):
            self.t += 1
            self.last, reward, terminated, truncated, info = self.env.step(action)
            return self.last, reward, terminated or self.t == 3, truncated, info

    env = SB3VecEnv(DummyVecEnv([lambda: Lives(Monitor(pendulum(8)))]))
    env.reset(0)
    steps = [env.step(torch.zeros(1, 1)) for _ in range(8)]
    assert [bool(s.terminated) for s in steps] == [False, False, True] * 2 + [False, False]
    (episode,) = env.pop_episodes()
    assert episode.l == 8
    assert episode.r == pytest.approx(sum(s.reward.item() for s in steps), rel=1e-5)


def test_subprocesses():
    env, peer = as_env(SubprocVecEnv([cartpole] * 2, start_method="fork")), as_env(dummy(2))
    assert not env.exact_state
    assert torch.equal(env.reset(1), peer.reset(1))
    for action in plan(env.action_space, 40, 2):
        a, b = env.step(torch.tensor(action)), peer.step(torch.tensor(action))
        assert torch.equal(a.next_obs, b.next_obs)
        assert torch.equal(a.obs, b.obs)
    assert env.pop_episodes() == peer.pop_episodes() != []
    with pytest.warns(UserWarning, match=r"resume is not exact.*SubprocVecEnv"):
        env.load_state_dict(env.state_dict())
    env.close()


class Falls(gymnasium.Wrapper):
    def step(self, action):
        raise RuntimeError("fell off")


def test_an_environment_that_raises_is_named():
    env = SB3VecEnv(DummyVecEnv([cartpole, lambda: Falls(cartpole())]))
    env.reset(0)
    with pytest.raises(EnvError, match="environment 1") as error:
        env.step(torch.zeros(2, dtype=torch.int64))
    assert isinstance(error.value.__cause__, RuntimeError)


WRAPPINGS = {
    "bare": lambda: dummy(2, pendulum),
    "monitors": lambda: DummyVecEnv([lambda: Monitor(pendulum())] * 2),
    "normalize": lambda: VecNormalize(dummy(2, pendulum)),
    "both": lambda: VecNormalize(VecMonitor(dummy(2, pendulum)), norm_reward=False),
    "mujoco": lambda: VecNormalize(
        DummyVecEnv([lambda: gymnasium.make("Hopper-v5", max_episode_steps=7)] * 2), norm_obs=False
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("at", [0, 4, 6, 15])
def test_state_is_exact(wrapping, at):
    env, other = as_env(WRAPPINGS[wrapping](), seed=5), as_env(WRAPPINGS[wrapping]())
    assert env.exact_state
    env.reset_host()
    actions = plan(env.action_space, 30, 2)
    obs = env._obs
    for action in actions[:at]:
        obs = env.step_host(action).obs
    env.pop_episodes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(other.load_state_dict(env.state_dict()), obs)
    for action in actions[at:]:
        for a, b in zip(env.step_host(action)[:5], other.step_host(action)[:5], strict=True):
            np.testing.assert_array_equal(a, b)
    assert env.pop_episodes() == other.pop_episodes() != []


def test_unknown_wrappers_are_not_exact():
    assert not as_env(VecFrameStack(dummy(2), 2)).exact_state


# The other way.


def backends():
    yield "host", make_env("CartPole-v1", 3, max_episode_steps=25)
    yield "torch", make_env("CartPole-v1", 3, backend="torch", max_episode_steps=25)
    yield "loop", make_env("CartPole-v1", 3, backend="gymnasium", max_episode_steps=25)


@pytest.mark.parametrize(("name", "env"), list(backends()), ids=lambda x: x if isinstance(x, str) else "")
def test_face_gives_what_stable_baselines_expects(name, env):
    face = to_sb3(env)
    assert isinstance(face, VecEnv)
    assert face.num_envs == 3
    assert face.env_is_wrapped(Monitor) == [True] * 3
    assert face.render_mode == (None if name == "loop" else "rgb_array")
    face.seed(7)
    obs = face.reset()
    np.testing.assert_allclose(obs, env.reset(7), atol=0)
    returns, lengths, ends = np.zeros(3), np.zeros(3, int), 0
    for action in plan(env.action_space, 80, 3):
        obs, reward, done, infos = face.step(action)
        assert obs.dtype == reward.dtype == np.float32
        returns += reward
        lengths += 1
        for i, info in enumerate(infos):
            if done[i]:
                ends += 1
                assert info["terminal_observation"].shape == (4,)
                fell = abs(info["terminal_observation"][0]) > 2.4 or abs(info["terminal_observation"][2]) > 0.2095
                assert info["TimeLimit.truncated"] == (not fell)
                assert (info["episode"]["r"], info["episode"]["l"]) == (returns[i], lengths[i])
                assert np.abs(obs[i]).max() <= 0.05
                returns[i], lengths[i] = 0, 0
            else:
                assert not info
    assert ends > 5


def test_face_tells_what_the_worlds_tell():
    class Tells(gymnasium.Wrapper):
        def step(self, action):
            *answer, _ = self.env.step(action)
            return *answer, {"angle": float(answer[0][2])}

    worlds = as_env(lambda: Tells(gymnasium.make("CartPole-v1", max_episode_steps=4)), num_envs=2)
    face = to_sb3(TimeAware(worlds))
    obs = face.reset()
    for t in range(1, 10):
        obs, _, done, infos = face.step(np.ones(2, int))
        assert done.tolist() == [t % 4 == 0] * 2
        for i, info in enumerate(infos):
            last = info["terminal_observation"] if done[i] else obs[i]
            assert info["angle"] == pytest.approx(last[2]) and ("episode" in info) == done[i]


def test_face_hands_back_what_it_was():
    venv = dummy(2)
    assert to_sb3(as_env(venv)) is venv
    assert to_sb3(venv) is venv
    env = make_env("CartPole-v1", 2)
    assert as_env(to_sb3(env)) is env


def test_face_reaches_the_worlds():
    face = to_sb3(make_env("Pendulum-v1", 3, backend="gymnasium"))
    face.set_attr("g", 3.0, indices=[1])
    assert face.get_attr("g") == [10.0, 3.0, 10.0]
    assert face.env_method("has_wrapper_attr", "g", indices=0) == [True]
    assert face.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True] * 3
    assert face.env_is_wrapped(gymnasium.wrappers.ClipAction) == [False] * 3
    assert not face.has_attr("nothing_here")
    native = to_sb3(make_env("Pendulum-v1", 2))
    assert native.get_attr("max_episode_steps") == [200, 200]
    native.reset()
    assert native.render().ndim == 3


def test_face_refuses_options():
    face = to_sb3(make_env("Pendulum-v1", 2))
    face.set_options({"x_init": 1.0})
    with pytest.raises(ValueError, match="x_init"):
        face.reset()


def test_face_marks_fake_rows():
    env = as_env(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync", max_episode_steps=5))
    face = PoloptVecEnv(env)
    face.reset()
    seen = [[info.get("valid") for info in face.step(np.zeros(2, int))[3]] for _ in range(6)]
    assert seen == [[None, None]] * 5 + [[False, False]]


@pytest.mark.parametrize("wrap", [lambda v: v, VecNormalize, VecMonitor, VecCheckNan, lambda v: VecFrameStack(v, 2)])
def test_sb3_ppo_trains_on_it(wrap):
    env = wrap(to_sb3(make_env("CartPole-v1", 4, seed=0, max_episode_steps=60)))
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(256)
    assert model.num_timesteps == 256
    assert len(model.ep_info_buffer) > 2
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=4, warn=True)
    assert 5 < mean <= 60


def test_sb3_ppo_learns_the_same_as_on_its_own():
    """One world from the same seed: equal parameters after training on either."""
    models = []
    for env in (DummyVecEnv([lambda: Monitor(cartpole())]), to_sb3(make_env("CartPole-v1", 1))):
        model = PPO("MlpPolicy", env, n_steps=128, n_epochs=2, seed=1, device="cpu").learn(256)
        models.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    torch.testing.assert_close(*models, rtol=0, atol=1e-5)


def test_sb3_sac_and_evaluation_callback(tmp_path):
    env = to_sb3(make_env("Pendulum-v1", 2, seed=0))
    callback = EvalCallback(to_sb3(make_env("Pendulum-v1", 2)), eval_freq=50, n_eval_episodes=2, log_path=str(tmp_path))
    model = SAC(
        "MlpPolicy", env, learning_starts=10, batch_size=16, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}
    )
    model.learn(120, callback=callback)
    assert callback.last_mean_reward < 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_vec_env_that_does_not_tell_the_last_observation(cut):
    """After a true end nothing asks for it; after a time limit the value of what follows does."""

    class Silent(VecEnvWrapper):
        def reset(self):
            return self.venv.reset()

        def step_wait(self):
            obs, reward, done, infos = self.venv.step_wait()
            for info in infos:
                info.pop("terminal_observation", None)
                info["TimeLimit.truncated"] = cut
            return obs, reward, done, infos

    env = as_env(Silent(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")])))
    env.reset_host(0)
    act = lambda: [env.step_host(np.ones(1, np.int64)).terminated[0] for _ in range(20)]
    if cut:
        with pytest.raises(EnvError, match="world 0 was cut off, and its info has no 'terminal_observation'"):
            act()
    else:
        assert any(act())
