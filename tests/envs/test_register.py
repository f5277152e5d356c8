"""Built-in worlds through Gymnasium's own doors."""

import subprocess
import sys

import gymnasium
import numpy as np
import polopt.envs  # noqa: F401 - registers
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from polopt.envs.register import register
from polopt.envs.table import TABLE

IDS = [f"polopt/{id.removeprefix('polopt/')}" for id in TABLE]
PEERS = ["HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Reacher-v5", "CartPole-v1", "Pendulum-v1"]


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    "first", ["import gymnasium, polopt.envs", "import polopt.envs, gymnasium", "import gymnasium"]
)
def test_ids_are_known_in_any_order_of_imports(first):
    name = "polopt/CartPole-v1" if "polopt" in first else "polopt.envs:polopt/CartPole-v1"
    out = run(f"{first}; e = gymnasium.make_vec({name!r}, 3); print(e.num_envs, type(e).__name__)")
    assert out.split() == ["3", "PoloptVectorEnv"]


def test_gymnasium_is_left_as_it_was():
    """The hook is gone after use and Gymnasium's loader is its own again."""
    out = run(
        "import sys, polopt.envs; import gymnasium, importlib, importlib.resources;"
        "importlib.reload(gymnasium); assert importlib.resources.files('gymnasium').is_dir();"
        "print([f for f in sys.meta_path if 'polopt' in type(f).__module__], vars(gymnasium.__loader__).get('exec_module'))"
    )
    assert out.split() == ["[]", "None"]


def test_registering_again_is_harmless():
    before = dict(gymnasium.registry)
    register()
    assert dict(gymnasium.registry) == before
    assert set(IDS) <= set(before)


@pytest.mark.parametrize("id", IDS)
def test_single_passes_gymnasiums_checker(id):
    check_env(gymnasium.make(id).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id", PEERS)
def test_single_is_gymnasiums(id):
    mine, peer = gymnasium.make(f"polopt/{id}"), gymnasium.make(id)
    assert mine.spec.max_episode_steps == peer.spec.max_episode_steps
    space = peer.action_space
    space.seed(0)
    atol = 0 if TABLE[id].kind == "native" else 1e-5
    obs = mine.reset(seed=3)[0], peer.reset(seed=3)[0]
    for _ in range(400):
        np.testing.assert_allclose(*obs, rtol=0, atol=atol)
        action = space.sample()
        a, b = mine.step(action), peer.step(action)
        np.testing.assert_allclose(a[0], b[0], rtol=0, atol=atol)
        np.testing.assert_allclose(a[1], b[1], rtol=0, atol=atol)
        assert a[2:4] == b[2:4]
        assert type(a[1]) is float
        assert type(a[2]) is bool
        if TABLE[id].kind == "native":
            assert a[4].keys() == b[4].keys()
        obs = a[0], b[0]
        if a[2] or a[3]:
            obs = mine.reset()[0], peer.reset()[0]


@pytest.mark.parametrize("id", PEERS)
def test_vector_is_gymnasiums_same_step(id):
    """Against Gymnasium's own vector environment of its own worlds, infos included."""
    mine = gymnasium.make_vec(f"polopt/{id}", num_envs=4, max_episode_steps=45)
    peer = SyncVectorEnv([lambda: gymnasium.make(id, max_episode_steps=45)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    assert mine.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (mine.single_action_space, mine.action_space) == (peer.single_action_space, peer.action_space)
    assert mine.single_observation_space == peer.single_observation_space
    peer.action_space.seed(1)
    native = TABLE[id].kind == "native"
    (a, info), (b, peer_info) = mine.reset(seed=5), peer.reset(seed=5)
    if native:
        np.testing.assert_array_equal(a, b)
        compare_infos(info, peer_info)
    ends = 0
    for _ in range(100):
        action = peer.action_space.sample()
        x, y = mine.step(action), peer.step(action)
        assert [np.asarray(v).dtype for v in x[:1] + x[2:4]] == [np.asarray(v).dtype for v in y[:1] + y[2:4]]
        done = x[2] | x[3]
        ends += done.sum()
        if done.any():
            assert x[4]["_final_obs"].tolist() == done.tolist() == x[4]["_final_info"].tolist()
            for i, final in enumerate(x[4]["final_obs"]):
                assert (final is None) != done[i]
        if native:
            for p, q in zip(x[:4], y[:4], strict=True):
                np.testing.assert_array_equal(p, q)
            if done.any():
                for i in np.flatnonzero(done):
                    np.testing.assert_array_equal(x[4]["final_obs"][i], y[4]["final_obs"][i])
                compare_infos(x[4]["final_info"], y[4]["final_info"])
            compare_infos(x[4], y[4])
    assert ends >= 8


def compare_infos(mine, theirs):
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
        if "final" not in key:
            np.testing.assert_array_equal(mine[key], value, err_msg=key)


def test_gymnasiums_own_worlds_behind_the_vector_face_tell_what_they_tell():
    mine = gymnasium.make_vec("polopt/Hopper-v5", num_envs=3, backend="gymnasium", max_episode_steps=20)
    peer = SyncVectorEnv(
        [lambda: gymnasium.make("Hopper-v5", max_episode_steps=20)] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    compare_infos(mine.reset(seed=1)[1], peer.reset(seed=1)[1])
    peer.action_space.seed(1)
    ends = []
    for _ in range(45):
        action = peer.action_space.sample()
        x, y = mine.step(action), peer.step(action)
        compare_infos(x[4], y[4])
        if (done := x[2] | x[3]).any():
            compare_infos(x[4]["final_info"], y[4]["final_info"])
            ends.append(done.sum())
    assert sum(ends) >= 6 and min(ends) < 3


def test_vector_state_goes_in_and_out():
    env = gymnasium.make_vec("polopt/HalfCheetah-v5", num_envs=3)
    env.reset(seed=0)
    for _ in range(5):
        env.step(env.action_space.sample())
    qpos, qvel = env.get_state()
    assert (qpos.shape, qvel.shape) == ((3, 9), (3, 9))
    action = env.action_space.sample()
    first = env.step(action)[0]
    obs = env.set_state(qpos, qvel)
    np.testing.assert_array_equal(obs, np.concatenate([qpos[:, 1:], qvel], 1))
    np.testing.assert_allclose(env.step(action)[0], first, atol=1e-6)


def test_vector_arguments():
    env = gymnasium.make_vec("polopt/HalfCheetah-v5", num_envs=2, forward_reward_weight=0.0, ctrl_cost_weight=0.0)
    env.reset(seed=[4, 5])
    assert (env.step(env.action_space.sample())[1] == 0).all()
    with pytest.raises(ValueError, match="count upwards"):
        env.reset(seed=[4, 9])
    env.reset(seed=[None, None])
    with pytest.raises(ValueError, match="no reset options"):
        env.reset(options={"x": 1})
    with pytest.raises(ValueError, match=r"backend='torch'.*polopt\.make_env"):
        gymnasium.make_vec("polopt/CartPole-v1", num_envs=2, backend="torch")
    with pytest.raises(ValueError, match="render_mode='human'"):
        gymnasium.make_vec("polopt/CartPole-v1", num_envs=2, render_mode="human")
    pictures = gymnasium.make_vec("polopt/CartPole-v1", num_envs=2, render_mode="rgb_array")
    pictures.reset(seed=0)
    assert [p.shape for p in pictures.render()] == [(300, 400, 3)] * 2
    env.close()


def test_render_modes_of_a_single_world():
    env = gymnasium.make("polopt/CartPole-v1", render_mode="rgb_array_list")  # Gymnasium collects what it draws
    env.reset(seed=0)
    env.step(0)
    assert [p.shape for p in env.render()] == [(300, 400, 3)] * 2
    assert gymnasium.make("polopt/HalfCheetah-v5").metadata["render_fps"] == 20
    with pytest.warns(UserWarning, match="nonsense"), pytest.raises(ValueError, match="render_mode='nonsense'"):
        gymnasium.make("polopt/CartPole-v1", render_mode="nonsense")


def test_what_a_vector_returns_is_the_callers():
    env = gymnasium.make_vec("polopt/CartPole-v1", num_envs=2)
    obs, _ = env.reset(seed=0)
    kept = obs.copy()
    second = env.step(np.zeros(2, int))[0]
    np.testing.assert_array_equal(obs, kept)
    assert not np.shares_memory(obs, second)


def test_single_draws_as_gymnasium_does_over_several_episodes():
    """Ends, autoresets inside and resets outside leave the generator where Gymnasium's is."""
    mine, peer = gymnasium.make("polopt/Hopper-v5"), gymnasium.make("Hopper-v5")
    mine.reset(seed=9), peer.reset(seed=9)
    peer.action_space.seed(2)
    starts = 0
    for _ in range(300):
        action = peer.action_space.sample()
        a, b = mine.step(action), peer.step(action)
        if a[2]:
            (first, info), (peer_first, peer_info) = mine.reset(), peer.reset()
            np.testing.assert_array_equal(first, peer_first)
            assert info == peer_info
            starts += 1
        np.testing.assert_array_equal(a[0], b[0])
    assert starts > 3
