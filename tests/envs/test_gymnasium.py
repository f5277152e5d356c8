"""Gymnasium's environments: every autoreset mode against single-environment rollouts, and exact state."""

import warnings
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from polopt.envs import as_env, make_env
from polopt.envs.gymnasium import GymnasiumEnv, GymnasiumVector, flatten_goal
from polopt.envs.recorder import Recorder

from polopt.env import EnvError, Episode


class Counter(gymnasium.Env):
    """Counts its steps and episodes, ends at random either way or both, and answers to the action."""

    def __init__(self, rate=0.3, dictionary=False, success=False):
        box = spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.dictionary, self.success, self.rate = dictionary, success, rate
        self.observation_space = spaces.Dict({"x": box, "t": spaces.Discrete(1000)}) if dictionary else box
        self.action_space = spaces.Box(-2, 2, (2,), np.float32)
        self.episode = -1

    def _obs(self):
        x = np.array([self.episode, self.t, self.drawn, self.sum])
        return {"x": x, "t": self.t} if self.dictionary else x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t, self.sum = self.episode + 1, 0, 0.0
        self.drawn = self.np_random.normal()
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        self.drawn = self.np_random.normal()
        self.sum += float(action @ [1.0, 0.5])
        ends = self.np_random.random(2) < self.rate
        info = {"is_success": bool(self.drawn > 0)} if self.success and ends.any() else {}
        return self._obs(), self.drawn * action[0], bool(ends[0]), bool(ends[1]), info


class Forgetful(Counter):
    """Keeps nothing across resets but its generator."""

    def reset(self, *, seed=None, options=None):
        self.episode = -1
        return super().reset(seed=seed)


class Stubborn(Counter):
    """Draws from a generator that nobody else knows of."""

    hidden = np.random.default_rng(0)

    def _obs(self):
        self.drawn = self.hidden.normal()
        return super()._obs()


class Broken(Counter):
    def __init__(self, where):
        super().__init__(rate=0.0)
        self.where = where

    def reset(self, *, seed=None, options=None):
        if self.where == "reset":
            raise RuntimeError("no power")
        return super().reset(seed=seed)

    def step(self, action):
        if self.where == "step" and self.t == 2:
            raise RuntimeError("gear broke")
        return super().step(action)


def flat(obs):
    return np.concatenate([np.ravel(obs["x"]), [obs["t"]]]) if isinstance(obs, dict) else np.array(obs)


def rollout(env, actions, seed):
    """The transitions of one environment that is reset by hand whenever it ends."""
    rows, obs = [], env.reset(seed=seed)[0]
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((flat(obs), action, reward, terminated, truncated, flat(next_obs)))
        obs = env.reset()[0] if terminated or truncated else next_obs
    return rows


def row(obs, i):
    return {k: v[i] for k, v in obs.items()} if isinstance(obs, dict) else obs[i]


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for p, q in zip(x, y, strict=True):
            np.testing.assert_array_equal(p, q)


def collect(env, plan, seed, steps):
    """Per world the valid transitions, every valid one taking that world's next planned action."""
    rows, used = [[] for _ in plan], np.zeros(len(plan), int)
    obs = env.reset_host(seed)
    valid_now = np.ones(len(plan), bool)
    for _ in range(steps):
        action = np.stack([plan[i][used[i]] if valid_now[i] else np.full(2, 9.0) for i in range(len(plan))])
        before = [flat(row(obs, i)).copy() for i in range(len(plan))]
        step = env.step_host(action.astype(np.float32))
        valid = np.ones(len(plan), bool) if step.valid is None else step.valid
        np.testing.assert_array_equal(valid, valid_now)
        done = step.terminated | step.truncated
        for i in np.flatnonzero(valid):
            after = flat(row(step.next_obs, i)).copy()
            rows[i].append((before[i], action[i], step.reward[i], step.terminated[i], step.truncated[i], after))
            used[i] += 1
        for i in np.flatnonzero(~valid):
            assert step.reward[i] == 0
            assert not done[i]
        valid_now = ~done if getattr(env, "mode", None) is AutoresetMode.NEXT_STEP else valid_now
        obs = step.obs
    return rows


def build(kind, n, world=Counter, **arguments):
    makers = [partial(world, **arguments)] * n
    if kind == "loop":
        return GymnasiumEnv([make() for make in makers], dtype=torch.float64)
    vector = SyncVectorEnv(makers, autoreset_mode=kind)
    return GymnasiumVector(vector, dtype=torch.float64)


KINDS = ["loop", *AutoresetMode]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    rate=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    dictionary=st.booleans(),
)
def test_transitions_are_those_of_single_rollouts(kind, seed, n, rate, dictionary):
    plan = np.random.default_rng(seed).uniform(-2, 2, (n, 25, 2)).astype(np.float32)
    env = build(kind, n, rate=rate, dictionary=dictionary)
    rows = collect(env, plan, seed, 25)
    expected = [rollout(Counter(rate, dictionary), plan[i], seed + i) for i in range(n)]
    for mine, theirs in zip(rows, expected, strict=True):
        assert len(mine) >= 12  # NEXT_STEP spends a step per episode
        same(mine, theirs[: len(mine)])
    episodes = [[] for _ in range(n)]
    for episode in env.pop_episodes():
        episodes[episode.index].append((episode.r, episode.l))
    for mine, theirs in zip(episodes, rows, strict=True):
        total, length, counted = 0.0, 0, []
        for _, _, reward, terminated, truncated, _ in theirs:
            total, length = total + reward, length + 1
            if terminated or truncated:
                counted.append((total, length))
                total, length = 0.0, 0
        assert mine == counted


def test_asynchronous_same_step():
    plan = np.random.default_rng(3).uniform(-2, 2, (2, 20, 2)).astype(np.float32)
    vector = AsyncVectorEnv([Counter, Counter], autoreset_mode=AutoresetMode.SAME_STEP, context="fork")
    env = as_env(vector)
    assert not env.exact_state
    rows = collect(env, plan, 5, 20)
    env.close()
    for i, mine in enumerate(rows):
        theirs = rollout(Counter(), plan[i], 5 + i)
        same(
            [(np.float32(a), *m, np.float32(b)) for a, *m, b in mine],
            [(np.float32(a), *m, np.float32(b)) for a, *m, b in theirs],
        )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_success_reaches_the_episode(kind):
    env = build(kind, 3, success=True)
    env.reset(0)
    told = []
    for _ in range(30):
        step = env.step(torch.ones(3, 2))
        done = (step.terminated | step.truncated).numpy()
        told += [(i, bool(step.next_obs[i, 2] > 0)) for i in np.flatnonzero(done)]
    assert [(e.index, e.success) for e in env.pop_episodes()] == told
    assert {success for _, success in told} == {True, False}
    assert all(e.success is None for e in played(build(kind, 2)))


def played(env):
    env.reset(0)
    for _ in range(30):
        env.step(torch.ones(env.num_envs, 2))
    return env.pop_episodes()


def test_next_obs_is_obs_where_nothing_was_reset():
    env = build("loop", 2, rate=0.0)
    env.reset(0)
    step = env.step_host(np.zeros((2, 2), np.float32))
    assert step.next_obs is step.obs
    assert step.valid is None


def test_missing_mode_is_said_once():
    vector = SyncVectorEnv([Counter])
    del vector.metadata["autoreset_mode"]
    with pytest.warns(UserWarning, match="NEXT_STEP"):
        assert GymnasiumVector(vector).mode is AutoresetMode.NEXT_STEP


def test_reset_where():
    env = build("loop", 3, rate=0.0)
    env.reset(0)
    for _ in range(4):
        obs = env.step_host(np.ones((3, 2), np.float32)).obs
    fresh = env.reset_where(np.array([False, True, False]))
    np.testing.assert_array_equal(fresh[[0, 2]], obs[[0, 2]])
    assert fresh[1, :2].tolist() == [1, 0]
    assert [(e.index, e.l) for e in env.pop_episodes()] == [(1, 4)]


@pytest.mark.parametrize("where", ["step", "reset"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_an_environment_that_raises_is_named(kind, where):
    makers = [partial(Counter, rate=0.0), partial(Broken, where)]
    if kind == "loop":
        env = GymnasiumEnv([make() for make in makers])
    else:
        env = GymnasiumVector(SyncVectorEnv(makers, autoreset_mode=kind))
    with pytest.raises(EnvError, match=rf"environment 1 \(Broken\) raised in {where}") as error:
        env.reset(0)
        for _ in range(5):
            env.step(torch.zeros(2, 2))
    assert isinstance(error.value.__cause__, RuntimeError)


# Exact state.


def play(env, plan):
    return [env.step_host(action) for action in plan]


def assert_same_steps(a, b):
    for x, y in zip(a, b, strict=True):
        for p, q in zip(x, y, strict=True):
            for part in p if isinstance(p, dict) else [None]:
                np.testing.assert_array_equal(p if part is None else p[part], q if part is None else q[part])


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("at", [0, 1, 7, 18])
def test_replay_is_exact(kind, at, dictionary):
    plan = np.random.default_rng(1).uniform(-2, 2, (45, 3, 2)).astype(np.float32)
    env, other = (build(kind, 3, Forgetful, dictionary=dictionary, rate=0.15) for _ in range(2))
    env.reset_host(11)
    last = play(env, plan[:at])
    env.pop_episodes()
    state = env.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        obs = other.load_state_dict(state)
    assert other.exact_state
    if at:
        same([[flat(row(obs, i)) for i in range(3)]], [[flat(row(last[-1].obs, i)) for i in range(3)]])
    assert_same_steps(play(env, plan[at:]), play(other, plan[at:]))
    assert env.pop_episodes() == other.pop_episodes() != []


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_cannot_be_replayed_says_so(kind):
    def make():
        if kind == "loop":
            return GymnasiumEnv([Stubborn(rate=0.0), Stubborn(rate=0.0)])
        return GymnasiumVector(SyncVectorEnv([Stubborn] * 2, autoreset_mode=kind))

    env = make()
    env.reset_host(0)
    play(env, np.ones((3, 2, 2), np.float32))
    other = make()
    with pytest.warns(UserWarning, match="resume is not exact"):
        obs = other.load_state_dict(env.state_dict())
    assert not other.exact_state
    assert obs.shape == (2, 4)
    other.step_host(np.ones((2, 2), np.float32))


def test_unreachable_worlds_say_so():
    make = partial(AsyncVectorEnv, [Counter, Counter], context="fork")
    env = as_env(make())
    env.reset(0)
    state = env.state_dict()
    other = as_env(make())
    with pytest.warns(UserWarning, match="resume is not exact.*AsyncVectorEnv"):
        assert other.load_state_dict(state).shape == (2, 4)
    env.close()
    other.close()


def test_state_of_another_number_of_worlds_is_refused():
    with pytest.raises(ValueError, match=r"2 worlds.* 3"):
        build("loop", 3).load_state_dict(build("loop", 2).state_dict())


MUJOCO = [
    "Ant-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Humanoid-v5",
    "HumanoidStandup-v5",
    "InvertedDoublePendulum-v5",
    "InvertedPendulum-v5",
    "Pusher-v5",
    "Reacher-v5",
    "Swimmer-v5",
    "Walker2d-v5",
]


@pytest.mark.parametrize("id", MUJOCO)
def test_mujoco_state_is_exact(id):
    """By MuJoCo's state, without replaying: bit for bit over resets and the time limit."""
    rng = np.random.default_rng(0)
    env = make_env(id, 2, backend="gymnasium", dtype=torch.float64, max_episode_steps=30)
    other = make_env(id, 2, backend="gymnasium", dtype=torch.float64, max_episode_steps=30, seed=99)
    space = env.action_space
    plan = rng.uniform(space.low, space.high, (70, 2, *space.shape)).astype(np.float32)
    env.reset_host(3)
    last = play(env, plan[:23])
    env.pop_episodes()
    state = env.state_dict()
    assert "physics" in state["worlds"]["0"]
    other.reset_host()
    play(other, plan[:5])
    other.pop_episodes()
    np.testing.assert_array_equal(other.load_state_dict(state), last[-1].obs)
    assert other.exact_state
    assert_same_steps(play(env, plan[23:]), play(other, plan[23:]))
    assert env.pop_episodes() == other.pop_episodes() != []


def test_wrapped_mujoco_is_replayed():
    env = Recorder(gymnasium.wrappers.ClipReward(gymnasium.make("Hopper-v5"), -1, 1))
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    assert len(env.world_state()["actions"]) == 5


def test_gymnasiums_own_discrete_worlds_resume():
    env, other = make_env("FrozenLake-v1", 4), make_env("FrozenLake-v1", 4)
    plan = np.random.default_rng(2).integers(0, 4, (60, 4))
    env.reset_host(1)
    play(env, plan[:20])
    other.load_state_dict(env.state_dict())
    assert_same_steps(play(env, plan[20:]), play(other, plan[20:]))
    assert other.exact_state


def test_episode_is_in_the_environments_units():
    env = make_env("Pendulum-v1", 2, backend="gymnasium", max_episode_steps=5, seed=0)
    env.reset_host()
    steps = play(env, np.ones((5, 2, 1), np.float32))
    returns = np.sum([s.reward for s in steps], 0)
    assert env.pop_episodes() == [Episode(i, pytest.approx(returns[i]), 5) for i in range(2)]


def test_a_monitor_s_return_is_the_episode_s():
    """What a wrapper around it makes of rewards is learned from, and not reported."""
    from stable_baselines3.common.monitor import Monitor

    inner = Monitor(gymnasium.make("CartPole-v1"))
    env = as_env(gymnasium.wrappers.TransformReward(inner, lambda reward: 100 * reward))
    env.reset_host(0)
    rewards = [env.step_host(np.ones(1, np.int64)).reward[0] for _ in range(30)]
    assert set(rewards) == {100.0}
    episodes = env.pop_episodes()
    assert len(episodes) >= 2 and all(e.r == e.l for e in episodes)
    env.step_host(np.ones(1, np.int64))
    env.reset_where(np.ones(1, bool))
    (cut,) = env.pop_episodes()  # broken off: the Monitor has said nothing
    assert cut.l < 30


def test_a_goal_task_shows_what_its_datasets_hold():
    class Reach(gymnasium.Env):
        observation_space = spaces.Dict(
            observation=spaces.Box(-9, 9, (3,)),
            achieved_goal=spaces.Box(-9, 9, (2,)),
            desired_goal=spaces.Box(-1, 1, (2,)),
        )
        action_space = spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return dict(observation=np.full(3, 5.0), achieved_goal=np.zeros(2), desired_goal=np.ones(2)), {}

    flat = flatten_goal(Reach())
    assert flat.reset()[0].tolist() == [5, 5, 5, 1, 1] and flat.observation_space.high.tolist() == [9, 9, 9, 1, 1]
    with pytest.raises(TypeError, match=r"a Dict with a Box observation and desired_goal, not Box"):
        flatten_goal(gymnasium.make("Pendulum-v1"))


class Lives(gymnasium.Wrapper):
    """Ends every third step, and goes on inside until the world itself is over."""

    over = True

    def reset(self, **kwargs):
        self.steps = 0
        return self.env.reset(**kwargs) if self.over else (self.last, {})

    def step(self, action):
        self.last, reward, self.over, truncated, info = self.env.step(action)
        self.steps += 1
        return self.last, reward, self.over or self.steps == 3, truncated, info


def test_an_end_that_a_monitor_does_not_report_is_none():
    from stable_baselines3.common.monitor import Monitor

    bare = gymnasium.make("CartPole-v1")
    bare.reset(seed=0)
    length = 1
    while not bare.step(1)[2]:
        length += 1
    assert length % 3
    env = as_env(Lives(Monitor(gymnasium.make("CartPole-v1"))))
    env.reset_host(0)
    ends = [bool(env.step_host(np.ones(1, np.int64)).terminated[0]) for _ in range(length)]
    assert sum(ends) == length // 3 + 1
    assert env.pop_episodes() == [Episode(0, float(length), length)]


def test_a_vector_environment_s_time_limit_is_its_worlds():
    def limit(envs):
        return as_env(envs).max_episode_steps

    assert limit(gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync", max_episode_steps=5)) == 5
    assert limit(SyncVectorEnv([partial(gymnasium.make, "Pendulum-v1", max_episode_steps=5)] * 2)) == 5
    assert limit(SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1").unwrapped])) is None
    assert limit(gymnasium.make_vec("Pendulum-v1", 2, vectorization_mode="sync")) == 200
    asynchronous = gymnasium.make_vec("Pendulum-v1", 1, vectorization_mode="async", max_episode_steps=5)
    assert limit(asynchronous) == 5
    asynchronous.close()
