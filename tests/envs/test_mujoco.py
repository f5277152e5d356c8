"""The native MuJoCo worlds against Gymnasium's own environments, number for number."""

import os
import subprocess
import sys
import threading

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from polopt.envs import mujoco as tasks
from polopt.envs.mujoco import MujocoEnv

from polopt.env import EnvError

STEPS = int(os.environ.get("POLOPT_ORACLE_STEPS", "120"))

ALL = [
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
]

SHOWN = {"exclude_current_positions_from_observation": False}
OTHER = [
    ("Ant", {"main_body": "front_left_leg", "include_cfrc_ext_in_observation": False}),
    ("Ant", {"contact_force_range": (-0.5, 0.7), "healthy_z_range": (0.3, 0.8)}),
    ("Ant", dict(SHOWN, terminate_when_unhealthy=False, healthy_z_range=(0.4, 0.7), contact_cost_weight=0.3)),
    ("Ant", {"forward_reward_weight": 2, "healthy_reward": 0.3, "reset_noise_scale": 0.2, "frame_skip": 3}),
    ("HalfCheetah", dict(SHOWN, forward_reward_weight=0.7, ctrl_cost_weight=0.3, reset_noise_scale=0.5, frame_skip=2)),
    ("Hopper", dict(SHOWN, healthy_reward=2.5, healthy_z_range=(0.9, 1.3), healthy_angle_range=(-0.1, 0.15))),
    ("Hopper", {"healthy_state_range": (-1.0, 1.5), "ctrl_cost_weight": 0.2, "forward_reward_weight": 3.0}),
    ("Hopper", {"terminate_when_unhealthy": False, "frame_skip": 2, "reset_noise_scale": 0.1}),
    ("Humanoid", dict(SHOWN, include_cinert_in_observation=False, contact_cost_range=(0.1, 0.4), healthy_reward=1.0)),
    ("Humanoid", {"include_cvel_in_observation": False, "include_qfrc_actuator_in_observation": False}),
    ("Humanoid", {"include_cfrc_ext_in_observation": False, "healthy_z_range": (1.3, 1.5), "frame_skip": 3}),
    ("Humanoid", {"contact_cost_weight": 1e-3, "reset_noise_scale": 0.1}),
    ("Humanoid", {"terminate_when_unhealthy": False, "forward_reward_weight": 2.0, "ctrl_cost_weight": 0.7}),
    ("HumanoidStandup", dict(SHOWN, uph_cost_weight=3, ctrl_cost_weight=0.5, include_cvel_in_observation=False)),
    ("HumanoidStandup", {"impact_cost_weight": 1e-3, "impact_cost_range": (0.0, 2.0), "reset_noise_scale": 0.1}),
    ("InvertedDoublePendulum", {"healthy_reward": 4.0, "reset_noise_scale": 0.3, "frame_skip": 2}),
    ("InvertedPendulum", {"reset_noise_scale": 0.1, "frame_skip": 4}),
    ("Pusher", {"reward_near_weight": 0.9, "reward_dist_weight": 2, "reward_control_weight": 0.5, "frame_skip": 3}),
    ("Reacher", {"reward_dist_weight": 0.3, "reward_control_weight": 2, "frame_skip": 4}),
    ("Swimmer", dict(SHOWN, forward_reward_weight=0.5, ctrl_cost_weight=0.1, reset_noise_scale=0.3)),
    ("Walker2d", dict(SHOWN, healthy_reward=0.2, healthy_z_range=(1.1, 1.4), healthy_angle_range=(-0.3, 0.2))),
    ("Walker2d", {"terminate_when_unhealthy": False, "forward_reward_weight": 2.0, "ctrl_cost_weight": 0.1}),
]
CASES = [(name, {}) for name in ALL] + OTHER


def native(name, num_envs=1, dtype=torch.float64, **kwargs) -> MujocoEnv:
    return getattr(tasks, name)(num_envs, dtype=dtype, **kwargs)


def named(case):
    return f"{case[0]}-{'-'.join(case[1])}" if case[1] else case[0]


def assert_info(ours, theirs, world, where, rounding=0.0):
    assert ours.keys() == theirs.keys(), where
    for key, value in theirs.items():
        np.testing.assert_allclose(ours[key][world], value, rtol=0, atol=rounding, err_msg=f"{where}: {key}")


@pytest.mark.parametrize("case", CASES, ids=named)
def test_equals_gymnasium(case):
    """Observations, rewards, flags, infos, time limits and resets of three worlds, bit for bit.

    But for one reward: squares of NumPy's scalars (Gymnasium's) and arrays (ours) may differ in the last bit.
    """
    name, kwargs = case
    rounding = 1e-13 if name == "InvertedDoublePendulum" else 0.0
    n, limit = 3, 50 if STEPS < 1000 else 400
    env = native(name, n, threads=2, max_episode_steps=limit, **kwargs)
    peers = [gymnasium.make(f"{name}-v5", max_episode_steps=limit, **kwargs) for _ in range(n)]
    rng = np.random.default_rng(0)
    obs = env.reset_host(seed=7)
    firsts = [peer.reset(seed=7 + i) for i, peer in enumerate(peers)]
    np.testing.assert_array_equal(obs, [first for first, _ in firsts])
    for i, (_, info) in enumerate(firsts):
        assert_info(env.info, info, i, "reset")
    assert env.observation_space.shape == peers[0].observation_space.shape
    assert env.action_space == peers[0].action_space
    low, high = env.action_space.low, env.action_space.high
    resets = 0
    for t in range(STEPS):
        # 1.2: actions beyond the bounds are passed on, as Gymnasium does; float32, as its spaces give them
        action = (1.2 * rng.uniform(low, high, (n, *low.shape))).astype(np.float32)
        step = env.step_host(action)
        info = env.info
        for i, peer in enumerate(peers):
            where = f"step {t}, world {i}"
            expected_obs, reward, terminated, truncated, expected_info = peer.step(action[i])
            np.testing.assert_array_equal(step.next_obs[i], expected_obs, err_msg=where)
            assert step.reward[i] == pytest.approx(reward, rel=0, abs=rounding), where
            assert (step.terminated[i], step.truncated[i]) == (terminated, truncated), where
            assert_info(info, expected_info, i, where, rounding)
            if terminated or truncated:
                expected_obs, _ = peer.reset()
                resets += 1
            np.testing.assert_array_equal(step.obs[i], expected_obs, err_msg=where)
        assert (step.next_obs is step.obs) == (not (step.terminated | step.truncated).any())
    assert resets


@pytest.mark.parametrize("num_envs, threads", [(1, 1), (5, 1), (5, 3)])
@pytest.mark.parametrize("name", ALL)
def test_number_of_worlds_and_threads_changes_nothing(name, num_envs, threads):
    """One world alone takes shorter ways; they must end in the same bits."""
    few, many = native(name, num_envs, threads=threads, seed=3), native(name, 7, threads=2, seed=3)
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(few.reset_host(), many.reset_host()[:num_envs])
    for _ in range(60):
        action = rng.uniform(-1, 1, (7, *few.action_space.shape)).astype(np.float32)
        one, other = few.step_host(action[:num_envs]), many.step_host(action)
        for mine, theirs in zip(one[:5], other[:5], strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs[:num_envs])
        assert few.info.keys() == many.info.keys()
        for key, value in many.info.items():
            np.testing.assert_array_equal(few.info[key], value[:num_envs])


@pytest.mark.parametrize("name", ALL)
def test_float32_is_float64_rounded(name):
    exact, rounded = native(name, 2, seed=0), native(name, 2, dtype=torch.float32, seed=0)
    assert rounded.observation_space.dtype == np.float32
    np.testing.assert_array_equal(exact.reset_host().astype(np.float32), rounded.reset_host())
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-0.4, 0.4, (2, *exact.action_space.shape)).astype(np.float32)
        one, other = exact.step_host(action), rounded.step_host(action)
        assert other.obs.dtype == other.reward.dtype == other.next_obs.dtype == np.float32
        for mine, theirs in zip(one[:5], other[:5], strict=True):
            np.testing.assert_array_equal(mine.astype(theirs.dtype), theirs)


def test_reset_without_a_seed_goes_on_drawing():
    env, peer = native("Hopper"), gymnasium.make("Hopper-v5")
    np.testing.assert_array_equal(env.reset_host(seed=4)[0], peer.reset(seed=4)[0])
    np.testing.assert_array_equal(env.reset_host()[0], peer.reset()[0])
    np.testing.assert_array_equal(native("Hopper", seed=4).reset_host(), env.reset_host(seed=4))
    assert not np.array_equal(native("Hopper").reset_host(), native("Hopper").reset_host())


@pytest.mark.parametrize("name", ["Hopper", "Ant"])
def test_reset_where(name):
    env, peer = native(name, 3, seed=0), gymnasium.make(f"{name}-v5")
    env.reset_host()
    peer.reset(seed=1)
    action = np.zeros((3, *env.action_space.shape))
    before = env.step_host(action).obs
    after = env.reset_where(np.array([False, True, False]))
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(after[1], peer.reset()[0])
    assert [(e.index, e.l) for e in env.pop_episodes()] == [(1, 1)]
    np.testing.assert_array_equal(env.step_host(action).obs[1], peer.step(action[1])[0])
    with pytest.raises(ValueError, match="mask has shape"):
        env.reset_where(np.array([True]))


def test_tensor_face_and_episodes():
    env = native("Hopper", 3, dtype=torch.float32, seed=0)
    assert env.reset().dtype == torch.float32
    total, length, episodes = 0.0, 0, []
    while not episodes:
        step = env.step(torch.ones(3, 3))
        total += float(step.reward[0])
        length += 1
        episodes = [e for e in env.pop_episodes() if e.index == 0]
    assert step.terminated[0] and not step.truncated[0]
    assert episodes[0].l == length and episodes[0].r == pytest.approx(total, abs=1e-4)
    assert env.info["x_position"].shape == (3,)


@pytest.mark.parametrize("name", ["Hopper", "Humanoid", "InvertedDoublePendulum"])
def test_set_state_as_gymnasium(name):
    env, peer = native(name, 2), gymnasium.make(f"{name}-v5").unwrapped
    env.reset_host(seed=0)
    peer.reset(seed=1)
    for _ in range(3):
        action = np.full(env.action_space.shape, 0.1, np.float32)
        env.step_host(np.stack([action, action]))
        peer.step(action)
    qpos, qvel = env.get_state()
    qpos[1, 0] += 0.01
    qvel[1] *= 0.5
    obs = env.set_state(qpos, qvel)
    peer.set_state(qpos[1], qvel[1])
    np.testing.assert_array_equal(obs[1], peer._get_obs())
    np.testing.assert_array_equal(env.get_state()[0], qpos)
    expected = peer.step(action)
    step = env.step_host(np.stack([action, action]))
    np.testing.assert_array_equal(step.next_obs[1], expected[0])
    assert step.reward[1] == expected[1]
    with pytest.raises(ValueError, match="qvel has shape"):
        env.set_state(qpos, qvel[:, 1:])


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", ["Hopper", "Ant", "Humanoid", "InvertedDoublePendulum", "Reacher"])
def test_resume_is_exact(name, n):
    env = native(name, n, seed=0, max_episode_steps=70)
    env.reset_host()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (100, n, *env.action_space.shape))
    for action in actions[:50]:
        obs = env.step_host(action).obs
    env.pop_episodes()
    state = env.state_dict()
    fresh = native(name, n, max_episode_steps=70)
    np.testing.assert_array_equal(fresh.load_state_dict(state), obs)
    for key, value in fresh.state_dict().items():
        np.testing.assert_equal(value, state[key])
    for action in actions[50:]:
        one, other = env.step_host(action), fresh.step_host(action)
        for mine, theirs in zip(one[:5], other[:5], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_equal(env.info, fresh.info)
    assert env.pop_episodes() == fresh.pop_episodes()
    with pytest.raises(ValueError, match="is of"):
        native("Swimmer", n).load_state_dict(state)
    with pytest.raises(ValueError, match="worlds"):
        native(name, n + 1).load_state_dict(state)


@pytest.mark.parametrize("name", ["HalfCheetah", "Humanoid"])
def test_parameters_of_one_world(name):
    """A changed world equals Gymnasium's with that model; the others equal the unchanged one."""
    env, plain = native(name, 3, seed=0), native(name, 3, seed=0)
    mass = np.tile(env.model.body_mass, (3, 1))
    gravity = np.tile(env.model.opt.gravity, (3, 1))
    mass[1] *= 1.3
    gravity[1] = (0.0, 0.5, -7.0)
    env.set_parameter("body_mass", mass)
    env.set_parameter("opt.gravity", gravity)
    peer = gymnasium.make(f"{name}-v5").unwrapped
    peer.model.body_mass[:] = mass[1]
    peer.model.opt.gravity[:] = gravity[1]
    mujoco.mj_setConst(peer.model, peer.data)
    obs = env.reset_host()
    np.testing.assert_array_equal(obs[1], peer.reset(seed=1)[0])
    np.testing.assert_array_equal(obs[[0, 2]], plain.reset_host()[[0, 2]])
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-0.4, 0.4, (3, *env.action_space.shape)).astype(np.float32)
        step, unchanged, changed = env.step_host(action), plain.step_host(action), peer.step(action[1])
        for mine, theirs in zip(step[:2], unchanged[:2], strict=True):
            np.testing.assert_array_equal(mine[[0, 2]], theirs[[0, 2]])
        np.testing.assert_array_equal(step.next_obs[1], changed[0])
        assert step.reward[1] == pytest.approx(changed[1], abs=1e-10)
    fresh = native(name, 3)
    fresh.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(fresh.step_host(action).obs, env.step_host(action).obs)
    env.load_state_dict(plain.state_dict())  # which has no parameters of its own
    for _ in range(3):
        np.testing.assert_array_equal(env.step_host(action).obs, plain.step_host(action).obs)
    with pytest.raises(ValueError, match="shape"):
        env.set_parameter("body_mass", mass[0])
    with pytest.raises(ValueError, match=r"opt\.timestep"):
        env.set_parameter("opt.timestep", np.zeros(3))
    with pytest.raises(ValueError, match="nonsense"):
        env.set_parameter("nonsense", mass)


@pytest.mark.parametrize("name", ALL)
def test_model_functions(name):
    """``terminated`` (and ``reward`` where the observation suffices) of recorded transitions."""
    shown = SHOWN if name not in ("InvertedDoublePendulum", "InvertedPendulum", "Pusher", "Reacher") else {}
    for kwargs in [{}, shown] if shown else [{}]:
        env = native(name, 4, seed=0, **kwargs)
        obs, ends = env.reset_host(), 0
        rng = np.random.default_rng(0)
        for _ in range(60):
            action = rng.uniform(-1, 1, (4, *env.action_space.shape))
            step = env.step_host(action)
            given = [torch.from_numpy(x.copy()) for x in (obs, action, step.next_obs)]
            terminated = env.terminated(*given).numpy()
            assert terminated.dtype == bool
            differs = terminated != step.terminated
            if name == "InvertedDoublePendulum":
                differs &= np.abs(-env.info["distance_penalty"] - 1) > 0.1  # not within 0.05 m of the threshold
            assert not differs.any()
            ends += step.terminated.sum()
            if kwargs or name in ("InvertedPendulum", "Pusher", "Reacher"):
                try:
                    np.testing.assert_allclose(env.reward(*given).numpy(), step.reward, rtol=0, atol=1e-10)
                except NotImplementedError:
                    assert name in ("Ant", "Humanoid", "HumanoidStandup")
            obs = step.obs
        assert (ends > 0) == (name in ("Ant", "Hopper", "Humanoid", "Walker2d") or "Pendulum" in name)
    if name in ("HalfCheetah", "Hopper"):
        with pytest.raises(NotImplementedError, match="exclude_current_positions"):
            native(name).reward(*given)


def test_model_functions_see_unhealthy_worlds_go_on():
    for name in ("Ant", "Hopper", "Walker2d", "Humanoid"):
        env = native(name, terminate_when_unhealthy=False)
        obs = torch.full((2, *env.observation_space.shape), 50.0)
        assert not env.terminated(obs, torch.zeros(2, 1), obs).any()
        assert native(name).terminated(obs, torch.zeros(2, 1), obs).all()


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", ["HalfCheetah", "Ant"])
def test_divergence_names_the_world(name, n):
    env = native(name, n, seed=0)
    env.reset_host()
    action = np.zeros((n, *env.action_space.shape))
    env.step_host(action)
    action[n // 2, 1] = np.nan
    with pytest.raises(EnvError, match=rf"{name}-v5, world {n // 2}: .* step 2 .*control.*nan"):
        env.step_host(action)
    env.reset_host()
    env.step_host(np.zeros_like(action))
    qpos, qvel = env.get_state()
    qvel[n - 1, 4] = 1e12
    env.set_state(qpos, qvel)
    with pytest.raises(EnvError, match=rf"world {n - 1}: .*velocity"):
        env.step_host(np.zeros_like(action))


def test_own_model(tmp_path):
    (tmp_path / "slider.xml").write_text(
        """<mujoco><worldbody><body><joint name="x" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
        </worldbody><actuator><motor joint="x" ctrlrange="-1 1" gear="3"/></actuator></mujoco>"""
    )

    class Slider(MujocoEnv):
        def __init__(self, num_envs=1, **options):
            super().__init__(num_envs, xml_file=str(tmp_path / "slider.xml"), frame_skip=4, **options)

        def _draw(self, rng):
            return self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq), self.init_qvel

        def _observe(self):
            return self.joints.astype(self._float)

        def _evaluate(self, action, before):
            return -np.square(self.qpos).sum(-1), np.zeros(self.num_envs, bool)

    env = Slider(2, max_episode_steps=3, dtype=torch.float64)
    assert env.observation_space.shape == (2,) and env.dt == pytest.approx(0.008)
    start = env.reset_host(seed=0)
    assert np.abs(start[:, 0]).max() <= 0.1
    steps = [env.step_host(np.array([[1.0], [0.0]])) for _ in range(3)]
    # 12 semi-implicit Euler steps of 2 ms under a force of 3 N on 1 kg: v = a k h, x = a h² k(k+1)/2
    np.testing.assert_allclose(steps[2].next_obs[0], start[0] + [3 * 0.002**2 * 78, 3 * 0.024], rtol=1e-12)
    assert steps[2].truncated.all() and not steps[1].truncated.any() and not steps[2].terminated.any()
    assert env.max_episode_steps == 3 and Slider().max_episode_steps is None


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"device": "cuda"}, ValueError, "device='cuda'"),
        ({"dtype": torch.float16}, ValueError, "dtype"),
        ({"num_envs": 0}, ValueError, "num_envs=0"),
        ({"frame_skip": 0}, ValueError, "frame_skip=0"),
        ({"threads": 0}, ValueError, "threads=0"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps=0"),
        ({"xml_file": "no_such.xml"}, FileNotFoundError, "no_such.xml"),
        ({"camera_name": "nobody"}, ValueError, "camera_name='nobody'"),
        ({"camera_id": 0, "camera_name": "track"}, ValueError, "camera_id=0"),
        ({"main_body": "nose"}, ValueError, "main_body='nose'"),
        ({"healthy_rewards": 1.0}, TypeError, "healthy_rewards"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        tasks.Ant(**kwargs)


RENDER = """
import numpy as np
from polopt.envs import mujoco as tasks
for task in tasks.HalfCheetah, tasks.Pusher, tasks.Ant:
    env, plain = task(2, seed=0), task(2, seed=0)
    env.reset_host(), plain.reset_host()
    picture = env.render(1, 64, 48)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8 and picture.std() > 5
    assert not np.array_equal(picture, env.render(0, 64, 48))
    assert env.render(0).shape == (480, 480, 3)
    action = np.zeros((2, *env.action_space.shape))
    np.testing.assert_array_equal(env.step_host(action).obs, plain.step_host(action).obs)  # looking changes nothing
    env.close(), env.close()
"""


def run_headless(code, **extra):
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**environment, **extra})


def test_render():
    run = run_headless(RENDER)
    if "rendering needs OpenGL" in run.stderr:
        pytest.skip(run.stderr.splitlines()[-1])
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere GLFW needs no display server")
def test_render_without_opengl_says_what_to_install():
    run = run_headless(RENDER, MUJOCO_GL="glfw")
    assert "RenderError: rendering needs OpenGL" in run.stderr and "libegl1" in run.stderr


def test_bad_calls():
    env = tasks.HalfCheetah(2)
    with pytest.raises(EnvError, match="reset"):
        env.step_host(np.zeros((2, 6)))
    env.reset()
    with pytest.raises(ValueError, match=r"action has shape \(6,\)"):
        env.step_host(np.zeros(6))
    with pytest.raises(IndexError, match="index=2"):
        env.render(2)


def test_the_seed_of_the_first_reset_is_in_the_state():
    env, other = tasks.Hopper(2, seed=3), tasks.Hopper(2, seed=4)
    other.load_state_dict(env.state_dict())
    np.testing.assert_array_equal(other.reset_host(), env.reset_host())


def test_close_ends_the_threads():
    before = set(threading.enumerate())
    env = tasks.Ant(3, threads=3)
    env.reset(0)
    assert (mine := set(threading.enumerate()) - before)
    env.close()
    env.close()
    assert not any(thread.is_alive() for thread in mine)


def test_time_limit_can_be_lifted():
    env = tasks.Reacher(max_episode_steps=-1)
    assert env.max_episode_steps is None and tasks.Reacher().max_episode_steps == 50
    env.reset()
    assert not any(env.step_host(np.zeros((1, 2))).truncated for _ in range(60))


def test_importing_the_package_loads_no_mujoco():
    code = "import sys, polopt.envs.mujoco as m; assert 'mujoco' not in sys.modules; print(m.Ant.id, len(m.__all__))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["Ant-v5", "12"]
