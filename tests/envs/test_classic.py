"""Classic control against Gymnasium's own environments, and against what is known in closed form."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from polopt.envs import make_env
from polopt.envs.classic import LQR, CartPole, CartPoleSwingUp, DoubleIntegrator, FourPeaks, Pendulum
from polopt.envs.table import TABLE

from polopt.env import HostEnv

GYMNASIUM = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
OWN = ["polopt/CartPoleSwingUp-v0", "polopt/DoubleIntegrator-v0", "polopt/LQR-v0"]
ALL = GYMNASIUM + OWN

# Intervals of states that cover every branch: fallen poles, turned links, walls, goals.
STATES = {
    "CartPole-v1": [(-2.6, 2.6), (-3, 3), (-0.25, 0.25), (-3, 3)],
    "Pendulum-v1": [(-10, 10), (-8, 8)],
    "Acrobot-v1": [(-math.pi, math.pi), (-math.pi, math.pi), (-4 * math.pi, 4 * math.pi), (-9 * math.pi, 9 * math.pi)],
    "MountainCar-v0": [(-1.2, 0.6), (-0.07, 0.07)],
    "MountainCarContinuous-v0": [(-1.2, 0.6), (-0.07, 0.07)],
}


def actions(space, n, rng):
    if isinstance(space, gymnasium.spaces.Discrete):
        return rng.integers(0, space.n, n)
    bound = np.minimum(space.high, 10.0)
    return rng.uniform(-1.5 * bound, 1.5 * bound, (n, *space.shape))  # outside the bounds too


def gymnasium_steps(id, states, action):
    """Each state's successor, reward and termination by Gymnasium's environment."""
    env = gymnasium.make(id).unwrapped
    env.reset(seed=0)
    answers = []
    for state, a in zip(states, action, strict=True):
        env.state = state.copy()
        if id == "CartPole-v1":
            env.steps_beyond_terminated = None
        obs, reward, terminated, _, _ = env.step(int(a) if np.isscalar(a) or a.ndim == 0 else a)
        answers.append((np.array(env.state, np.float64), np.array(obs), float(reward), terminated))
    return [np.array(column) for column in zip(*answers, strict=True)]


def edge_states(id, n, rng):
    low, high = np.array(STATES[id]).T
    return rng.uniform(low, high, (n, len(low))).astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("id", GYMNASIUM)
def test_host_transitions_equal_gymnasium(id):
    rng = np.random.default_rng(0)
    n = 3000
    env = make_env(id, n, dtype=torch.float64, max_episode_steps=-1)
    states, action = edge_states(id, n, rng), actions(env.action_space, n, rng)
    expected, obs, reward, terminated = gymnasium_steps(id, states, action)
    env.reset_host(0)
    env.set_state(states)
    kept = env._restart
    env._restart = lambda rows, obs: obs  # the states before autoreset
    step = env.step_host(action)
    env._restart = kept
    np.testing.assert_allclose(env.get_state(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(step.reward, reward, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(step.terminated, terminated)
    np.testing.assert_allclose(step.next_obs, obs, rtol=0, atol=2e-6)  # Gymnasium's is float32
    if id != "Pendulum-v1":
        assert 0 < terminated.sum() < n


@pytest.mark.parametrize("id", GYMNASIUM)
def test_torch_transitions_equal_gymnasium_in_float64(id):
    rng = np.random.default_rng(1)
    env = make_env(id, 2000, backend="torch", dtype=torch.float64)
    states, action = edge_states(id, 2000, rng), actions(env.action_space, 2000, rng)
    expected, _, reward, terminated = gymnasium_steps(id, states, action)
    state, got, ended = env.transition(torch.tensor(states.T), torch.tensor(action))
    assert state.dtype == got.dtype == torch.float64
    if id == "MountainCarContinuous-v0":
        state = state.float().double()  # as Gymnasium does there
    np.testing.assert_allclose(state.T.numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.numpy(), reward, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ended.numpy(), terminated)


@pytest.mark.parametrize("id", GYMNASIUM)
def test_torch_transitions_equal_gymnasium_in_float32(id):
    """Over one step from states that play visits: to 1e-6 of the state's size."""
    rng = np.random.default_rng(2)
    play = make_env(id, 500, seed=0)
    play.reset_host()
    for _ in range(40):
        play.step_host(actions(play.action_space, 500, rng))
    states = play.get_state().astype(np.float32).astype(np.float64)
    action = actions(play.action_space, 500, rng).astype(play.action_space.dtype)
    expected, _, reward, terminated = gymnasium_steps(id, states, action)
    env = make_env(id, 500, backend="torch")
    state, got, ended = env.transition(torch.tensor(states.T, dtype=torch.float32), torch.tensor(action))
    assert state.dtype == got.dtype == torch.float32
    np.testing.assert_allclose(state.T.numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got.numpy(), reward, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(ended.numpy(), terminated)


@pytest.mark.parametrize("id", GYMNASIUM)
def test_one_host_world_is_gymnasiums_from_the_same_seed(id):
    """Same resets, same successors, same ends, over several episodes."""
    peer = gymnasium.make(id)
    env = make_env(id, 1, seed=7, dtype=torch.float32)
    rng = np.random.default_rng(2)
    obs, mine = peer.reset(seed=7)[0], env.reset_host()
    tolerance = 1e-3 if id == "Acrobot-v1" else 1e-5  # the acrobot is chaotic: last bits grow
    returns, total, ends = [], 0.0, 0
    for _ in range(1100):
        np.testing.assert_allclose(mine[0], obs, atol=tolerance)
        action = actions(env.action_space, 1, rng).astype(env.action_space.dtype)
        obs, reward, terminated, truncated, _ = peer.step(action[0])
        step = env.step_host(action)
        total += float(reward)
        assert (bool(step.terminated[0]), bool(step.truncated[0])) == (terminated, truncated)
        np.testing.assert_allclose(step.next_obs[0], obs, atol=tolerance)
        np.testing.assert_allclose(step.reward[0], reward, atol=1e-5)
        mine = step.obs
        if terminated or truncated:
            returns.append(total)
            total, ends = 0.0, ends + 1
            obs = peer.reset()[0]
    assert ends > 0
    np.testing.assert_allclose([e.r for e in env.pop_episodes()], returns, rtol=1e-5)


@pytest.mark.parametrize("id", GYMNASIUM)
def test_spaces_and_limits_are_gymnasiums(id):
    peer, env = gymnasium.make(id), make_env(id)
    assert env.observation_space == peer.observation_space
    assert env.action_space == peer.action_space
    assert env.max_episode_steps == peer.spec.max_episode_steps == TABLE[id].max_episode_steps
    assert env.id == id


@pytest.mark.parametrize("id", ALL)
def test_host_and_torch_worlds_agree(id):
    rng = np.random.default_rng(3)
    host, tensors = make_env(id, 500, dtype=torch.float64), make_env(id, 500, backend="torch", dtype=torch.float64)
    assert isinstance(host, HostEnv)
    assert not isinstance(tensors, HostEnv)
    host.reset(0)
    tensors.reset(0)
    for _ in range(5):
        state = host.get_state()
        tensors.set_state(state)
        action = torch.tensor(actions(host.action_space, 500, rng))
        a, b = host.step(action), tensors.step(action)
        torch.testing.assert_close(a.next_obs, b.next_obs, rtol=0, atol=1e-7)
        torch.testing.assert_close(a.reward, b.reward, rtol=0, atol=1e-12)
        assert torch.equal(a.terminated, b.terminated)


@pytest.mark.parametrize("id", ALL)
def test_reward_and_termination_functions_are_the_worlds(id):
    """What a learned model asks for is what the worlds give."""
    rng = np.random.default_rng(4)
    env = make_env(id, 400, dtype=torch.float64)
    obs = env.reset(0)
    for _ in range(60):
        action = torch.tensor(actions(env.action_space, 400, rng))
        step = env.step(action)
        torch.testing.assert_close(env.reward(obs, action, step.next_obs), step.reward.double(), rtol=0, atol=1e-9)
        assert torch.equal(env.terminated(obs, action, step.next_obs), step.terminated)
        obs = step.obs


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("id", ALL)
def test_episodes_end_by_the_limit_and_restart(id, backend):
    rng = np.random.default_rng(5)
    env = make_env(id, 6, backend=backend, max_episode_steps=9)
    obs = env.reset(seed=0)
    low, high = np.array(env.task.start).T
    total, length = np.zeros(6), np.zeros(6, int)
    mine, theirs = [], []
    for _ in range(40):
        step = env.step(torch.tensor(actions(env.action_space, 6, rng)))
        total += step.reward.numpy()
        length += 1
        assert torch.equal(step.truncated, torch.tensor(length >= 9))
        done = (step.terminated | step.truncated).numpy()
        if done.any():
            fresh = np.asarray(env.get_state())[done]
            assert (fresh >= low - 1e-6).all()
            assert (fresh <= high + 1e-6).all()
            assert not torch.equal(step.obs[done], step.next_obs[done])
        else:
            assert step.next_obs is step.obs or torch.equal(step.next_obs, step.obs)
        assert torch.equal(step.obs[~done], step.next_obs[~done])
        mine += [(i, total[i], length[i]) for i in np.flatnonzero(done)]
        total[done], length[done] = 0, 0
        theirs += [(e.index, e.r, e.l) for e in env.pop_episodes()]
        obs = step.obs
    assert obs.dtype == torch.float32
    assert [m[::2] for m in mine] == [t[::2] for t in theirs]
    np.testing.assert_allclose([m[1] for m in mine], [t[1] for t in theirs], rtol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("id", ALL)
def test_state_is_exact(id, backend):
    rng = np.random.default_rng(6)
    env = make_env(id, 5, backend=backend, max_episode_steps=11, seed=3)
    env.reset()
    plan = [torch.tensor(actions(env.action_space, 5, rng)) for _ in range(45)]
    for action in plan[:17]:
        env.step(action)
    env.pop_episodes()
    saved = env.state_dict()
    other = make_env(id, 5, backend=backend, max_episode_steps=11)
    loaded = torch.as_tensor(np.asarray(other.load_state_dict(saved)))
    expected = [env.step(action) for action in plan[17:]]
    assert loaded.shape == expected[0].obs.shape
    for step, action in zip(expected, plan[17:], strict=True):
        again = other.step(action)
        for a, b in zip(step[:5], again[:5], strict=True):
            assert torch.equal(a, b)
    assert env.pop_episodes() == other.pop_episodes()


def test_state_of_another_task_or_number_is_refused():
    saved = make_env("CartPole-v1", 3).state_dict()
    with pytest.raises(ValueError, match=r"CartPole.*Pendulum"):
        make_env("Pendulum-v1", 3).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"3 worlds.* 2"):
        make_env("CartPole-v1", 2).load_state_dict(saved)


@pytest.mark.parametrize("id", ALL)
def test_transition_compiles_to_one_graph(id):
    env = make_env(id, 8, backend="torch", dtype=torch.float64)
    env.reset(0)
    state, action = env._state, torch.tensor(actions(env.action_space, 8, np.random.default_rng(7)))
    compiled = torch.compile(env.transition, fullgraph=True, backend="eager")
    for a, b in zip(env.transition(state, action), compiled(state, action), strict=True):
        assert torch.equal(a, b)


def test_masked_resets_are_those_of_an_accelerator():
    """The branch-free path, run here on the CPU: same bookkeeping as the path by rows."""
    env = make_env("CartPole-v1", 50, backend="torch", max_episode_steps=7)
    env.reset(0)
    actual = env.device
    rng = np.random.default_rng(8)
    lengths = np.zeros(50, int)
    expected = []
    for _ in range(60):
        env.device = torch.device("meta")  # any name but "cpu" takes the masked path
        draw = env._draw
        env._draw = lambda n: env._low + env._width * torch.rand(4, n)
        done = torch.tensor(rng.random(50) < 0.1)
        before = env._state
        obs = env._restart(done, env.observe(before))
        env._draw = draw
        assert torch.equal(env._state[:, ~done], before[:, ~done])
        assert (env._state[:, done].abs() <= 0.05).all()
        assert torch.equal(obs, env.observe(env._state))
        expected += [(int(i), int(lengths[i])) for i in done.nonzero().squeeze(1)]
        lengths[done.numpy()] = 0
        env.device = actual
        env._episode_length = env._episode_length + 1
        lengths += 1
    assert [(e.index, e.l) for e in env.pop_episodes()] == expected


@pytest.mark.parametrize("id", ALL)
def test_pictures(id):
    for backend in ("auto", "torch"):
        env = make_env(id, 2, backend=backend)
        env.reset(0)
        picture = env.render(1)
        assert picture.shape == (300, 400, 3)
        assert picture.dtype == np.uint8
        assert picture.std() > 1


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="num_envs=0"):
        CartPole().worlds(0)
    with pytest.raises(ValueError, match="max_episode_steps=0"):
        CartPole().worlds(1, max_episode_steps=0)
    with pytest.raises(ValueError, match=r"dtype=torch.float16"):
        CartPole().worlds(1, dtype=torch.float16)
    env = Pendulum().worlds(3)
    env.reset(0)
    with pytest.raises(ValueError, match=r"\(3,\).*\(3, 1\)"):
        env.step(torch.zeros(3))
    for n, bad in ((1, [2]), (1, [-1]), (3, [0, 1, 2]), (3, [0, -1, 1])):
        env = make_env("CartPole-v1", n)
        with pytest.raises(RuntimeError, match=r"before the first render"):
            env.render()
        env.reset(0)
        with pytest.raises(ValueError, match=r"action (2|-1) is not in Discrete\(2\)"):
            env.step_host(np.array(bad))
    with pytest.raises(RuntimeError, match=r"before the first render"):
        make_env("CartPole-v1", backend="torch").render()
    with pytest.raises(ValueError, match="R="):
        LQR(R=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="A has shape"):
        LQR(A=np.eye(2))


def test_own_arguments():
    env = make_env("CartPole-v1", 64, sutton_barto_reward=True)
    peer = gymnasium.make("CartPole-v1", sutton_barto_reward=True)
    assert peer.unwrapped._sutton_barto_reward
    env.reset(0)
    for _ in range(30):
        step = env.step(torch.zeros(64, dtype=torch.int64))
        assert torch.equal(step.reward, -step.terminated.double())
    assert make_env("Pendulum-v1", g=9.81).task.g == 9.81


# Known optima.


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_lqr_optimal_cost_is_what_the_optimal_gain_pays(gamma):
    task = LQR()
    env = task.worlds(200, dtype=torch.float64, max_episode_steps=-1, seed=0)
    obs = env.reset_host()
    gain, expected = task.optimal_gain(gamma), task.optimal_cost(obs, gamma)
    paid = np.zeros(200)
    for t in range(1000):
        action = -obs @ gain.T
        assert np.abs(action).max() < task.bound
        step = env.step_host(action)
        paid -= gamma**t * step.reward
        obs = step.obs
    np.testing.assert_allclose(paid, expected, rtol=1e-9)


def test_lqr_finite_horizon_meets_hand_worked_and_infinite():
    # One state, one action, A = B = Q = R = 1: P₁ = 1, P₂ = 1 + 1 - 1/2 = 3/2, P∞ = (1 + √5)/2.
    one = LQR(A=[[1.0]], B=[[1.0]], Q=[[1.0]], R=[[1.0]])
    assert one.value_matrix(horizon=1) == pytest.approx(1.0)
    assert one.value_matrix(horizon=2) == pytest.approx(1.5)
    assert one.value_matrix().item() == pytest.approx((1 + math.sqrt(5)) / 2)
    assert one.optimal_gain().item() == pytest.approx((math.sqrt(5) - 1) / 2)
    assert one.expected_optimal_cost() == pytest.approx((1 + math.sqrt(5)) / 6)
    np.testing.assert_allclose(LQR().value_matrix(horizon=1000), LQR().value_matrix(), rtol=1e-9)


def test_lqr_no_other_gain_is_cheaper():
    task = LQR()
    rng = np.random.default_rng(9)
    start = rng.uniform(-1, 1, (50, 3))
    env = task.worlds(50, dtype=torch.float64, max_episode_steps=-1, seed=0)
    for _ in range(5):
        gain = task.optimal_gain() + rng.normal(0, 0.3, (2, 3))
        env.reset_host()
        obs, paid = env.set_state(start), np.zeros(50)
        for _ in range(400):
            step = env.step_host(-obs @ gain.T)
            paid -= step.reward
            obs = step.obs
        assert (paid > task.optimal_cost(start) - 1e-9).all()


def test_double_integrator_is_exact_under_constant_force():
    env = DoubleIntegrator().worlds(1, dtype=torch.float64, max_episode_steps=-1)
    env.reset_host(0)
    env.set_state(np.array([[0.3, -0.2]]))
    for _ in range(10):
        step = env.step_host(np.array([[0.5]]))
    np.testing.assert_allclose(step.obs, [[0.3 - 0.2 + 0.25, -0.2 + 0.5]], atol=1e-12)  # x₀ + v₀t + at²/2 at t = 1 s


def test_pole_conserves_energy_without_a_push():
    """Total energy of the free cart-pole drifts only by the integrator's first-order error."""
    from polopt.envs.classic import cartpole

    def energy(state):
        x_dot, theta, theta_dot = state[1:]
        m, total, half = cartpole.POLE_MASS, cartpole.TOTAL_MASS, cartpole.HALF_LENGTH
        kinetic = (
            0.5 * total * x_dot**2
            + m * half * np.cos(theta) * x_dot * theta_dot
            + (2 / 3) * m * (half * theta_dot) ** 2
        )
        return kinetic + m * cartpole.GRAVITY * half * np.cos(theta)

    drift = []
    for shorter in (1, 2):
        state, tau = tuple(np.array([v]) for v in (0.0, 0.1, 2.5, 0.3)), cartpole.TAU
        first = energy(state)
        cartpole.TAU = tau / shorter
        try:
            for _ in range(20 * shorter):
                state = cartpole.push(np, state, np.zeros(1))
        finally:
            cartpole.TAU = tau
        drift.append(abs(energy(state) - first).item())
    assert drift[1] < 0.6 * drift[0]


def test_swing_up_rewards_upright_and_ends_off_the_track():
    env = CartPoleSwingUp().worlds(3, dtype=torch.float64)
    env.reset_host(0)
    env.set_state(np.array([[0.0, 0, 0, 0], [0.0, 0, math.pi, 0], [2.4, 5.0, 0, 0]]))
    step = env.step_host(np.zeros((3, 1)))
    np.testing.assert_allclose(step.reward, [1.0, 0.0, 1.0], atol=1e-6)
    assert step.terminated.tolist() == [False, False, True]


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_four_peaks(backend):
    """The height at a peak, between two and outside; every step ends an episode."""
    task = FourPeaks()
    env = make_env("polopt/FourPeaks-v0", 6, backend=backend, dtype=torch.float64)
    obs = env.reset(0)
    action = torch.tensor([*task.centres, (0.0, 0.0), (3.0, 3.0)], dtype=torch.float64)
    step = env.step(action)
    neighbours = 1 + 2 * math.exp(-2 * 0.6**2 / (2 * 0.25**2)) + math.exp(-(1.2**2) / (2 * 0.25**2))
    expected = [neighbours] * 4 + [4 * math.exp(-(0.6**2) / (2 * 0.25**2))]
    torch.testing.assert_close(step.reward[:5].double(), torch.tensor(expected, dtype=torch.float64))
    assert step.reward[5] == env.step(torch.ones(6, 2, dtype=torch.float64)).reward[5], "clipped to the box"
    assert step.terminated.all() and [e.l for e in env.pop_episodes()] == [1] * 12
    torch.testing.assert_close(env.reward(obs, action, step.next_obs).double(), step.reward.double())
    assert env.terminated(obs, action, step.next_obs).all()
    assert task.peak(action.numpy()).tolist() == [0, 1, 2, 3, -1, -1]
    assert env.render(0).std() > 1
    for wrong in (dict(radius=0.0), dict(radius=1.1), dict(width=0.0)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FourPeaks(**wrong)
