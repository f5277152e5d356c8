"""Wrappers over host and tensor environments."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from polopt.envs import as_env, make_env
from polopt.envs.wrappers import TimeAware, TimeLimit

BACKENDS = ["auto", "torch", "gymnasium"]


def actions(steps, n, seed=0):
    return torch.tensor(np.random.default_rng(seed).integers(0, 2, (steps, n)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_time_limit_is_the_environments_own(backend):
    """Around an Env without a limit: the same transitions as the limit inside."""
    inside = make_env("CartPole-v1", 5, backend=backend, max_episode_steps=13)
    outside = TimeLimit(make_env("CartPole-v1", 5, backend=backend, max_episode_steps=-1), 13)
    assert outside.max_episode_steps == 13
    if backend == "auto":  # one generator for all worlds: draws must come in the same order
        inside, outside = (e if e is inside else outside for e in (inside, outside))
    a, b = inside.reset(1), outside.reset(1)
    assert torch.equal(a, b)
    both = 0
    for action in actions(60, 5):
        x, y = inside.step(action), outside.step(action)
        mixed = bool(x.terminated.any() and (x.truncated & ~x.terminated).any())
        both += mixed
        if mixed and backend != "gymnasium":
            break  # a fall and a cut in one step draw their starts in another order
        for p, q in zip(x[:5], y[:5], strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)
    assert inside.pop_episodes() == outside.pop_episodes() != [] or both


@pytest.mark.parametrize("face", ["tensors", "arrays"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_time_aware_tells_the_share_left(backend, face):
    inner, env = (make_env("CartPole-v1", 4, backend=backend, max_episode_steps=20, seed=2) for _ in range(2))
    env = TimeAware(env)
    if face == "arrays" and not env.host:
        pytest.skip("has no array face")
    assert env.observation_space.shape == (5,)
    assert env.observation_space.high[-1] == 1
    arrays = face == "arrays"
    first, obs = (e.reset_host() if arrays else e.reset() for e in (inner, env))
    np.testing.assert_array_equal(obs[:, :4], first)
    np.testing.assert_array_equal(obs[:, 4], 1)
    age = np.zeros(4)
    ends = set()
    for action in actions(70, 4):
        x, y = (e.step_host(action.numpy()) if arrays else e.step(action) for e in (inner, env))
        age += 1
        np.testing.assert_array_equal(y.next_obs[:, :4], x.next_obs)
        np.testing.assert_array_equal(y.obs[:, :4], x.obs)
        np.testing.assert_allclose(y.next_obs[:, 4], 1 - age / 20, atol=1e-6)
        done = np.asarray(y.terminated | y.truncated)
        ends |= {(bool(t), bool(c)) for t, c in zip(y.terminated, y.truncated, strict=True)}
        age[done] = 0
        np.testing.assert_allclose(y.obs[:, 4], 1 - age / 20, atol=1e-6)
        assert (y.next_obs is y.obs) == (x.next_obs is x.obs)
    assert {(False, False), (True, False), (False, True)} <= ends
    assert isinstance(y.obs, np.ndarray if arrays else torch.Tensor)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_time_aware_over_vector_environments(mode):
    make = lambda: gymnasium.make("CartPole-v1", max_episode_steps=9)
    vector = as_env(SyncVectorEnv([make] * 3, autoreset_mode=mode))
    vector.max_episode_steps = 9
    env = TimeAware(vector)
    env.reset(0)
    age = np.zeros(3)
    for action in actions(40, 3):
        step = env.step(action)
        valid = np.ones(3, bool) if step.valid is None else step.valid.numpy()
        age = np.where(valid, age + 1, 0)
        np.testing.assert_allclose(step.next_obs[:, 4], 1 - age / 9, atol=1e-6)
        done = (step.terminated | step.truncated).numpy()
        if mode is not AutoresetMode.NEXT_STEP:
            age[done] = 0
        np.testing.assert_allclose(step.obs[:, 4], 1 - age / 9, atol=1e-6)
    assert len(env.pop_episodes()) > 5


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_and_stacking(backend):
    def make():
        return TimeAware(TimeLimit(make_env("CartPole-v1", 3, backend=backend), 11))

    env, other = make(), make()
    plan = actions(40, 3)
    env.reset(4)
    for action in plan[:16]:
        obs = env.step(action).obs
    env.pop_episodes()
    assert torch.equal(torch.as_tensor(other.load_state_dict(env.state_dict())), obs)
    for action in plan[16:]:
        x, y = env.step(action), other.step(action)
        for p, q in zip(x[:5], y[:5], strict=True):
            assert torch.equal(p, q)
    assert env.pop_episodes() == other.pop_episodes() != []
    assert env.exact_state
    assert env.unwrapped is env.env.env


def test_functions_of_the_task_see_their_own_observation():
    env = TimeAware(make_env("Pendulum-v1", 3))
    obs = env.reset(0)
    action = torch.ones(3, 1)
    step = env.step(action)
    torch.testing.assert_close(env.reward(obs, action, step.next_obs), step.reward.float(), rtol=1e-5, atol=1e-5)
    assert not env.terminated(obs, action, step.next_obs).any()
    assert env.render(0).shape[2] == 3


def test_what_cannot_be_wrapped():
    env = make_env("CartPole-v1", 2)
    with pytest.raises(ValueError, match="max_episode_steps=0"):
        TimeLimit(env, 0)
    with pytest.raises(TypeError, match=r"GymnasiumVector.*max_episode_steps"):
        TimeLimit(as_env(gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")), 5)
    with pytest.raises(ValueError, match="no time limit"):
        TimeAware(make_env("CartPole-v1", 2, max_episode_steps=-1))
    with pytest.raises(TypeError, match="Discrete"):
        TimeAware(make_env("FrozenLake-v1"))
    whole = gymnasium.wrappers.TransformObservation(
        gymnasium.make("CartPole-v1"), lambda obs: obs.astype(np.int64), gymnasium.spaces.Box(-9, 9, (4,), np.int64)
    )
    with pytest.raises(TypeError, match="Box of floats"):
        TimeAware(as_env(whole))


def test_native_worlds_can_be_limited():
    env = TimeLimit(make_env("HalfCheetah-v5", 3), 4)
    env.reset_host(0)
    for t in range(1, 10):
        step = env.step_host(np.zeros((3, 6), np.float32))
        assert step.truncated.all() == (t % 4 == 0)
        assert (step.next_obs is not step.obs) == (t % 4 == 0)
    assert [e.l for e in env.pop_episodes()] == [4] * 6
