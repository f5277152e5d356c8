"""Replay: a ring of packed rows, n-step returns by hand, and what it says when it cannot be."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from polopt import memory
from polopt.batch import Batch
from polopt.files import load_state, save_state
from polopt.memory import Mix, Replay

OBS, ACT = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


def rollout(steps, worlds, start=0, done=0.3, seed=0):
    """Transitions that can be told apart: step t of world i observes (t, i) and acts 100 t + i."""
    g = np.random.default_rng(seed)
    t, i = torch.meshgrid(torch.arange(start, start + steps), torch.arange(worlds), indexing="ij")
    obs = torch.stack([t, i], -1).float()
    kind = torch.from_numpy(g.choice(3, (steps, worlds), p=[1 - done, done / 2, done / 2]))
    return Batch(
        obs=obs, action=(100.0 * t + i).unsqueeze(-1), reward=torch.from_numpy(g.normal(size=(steps, worlds))).float(),
        next_obs=obs + torch.tensor([0.5, 0.0]), terminated=kind == 1, truncated=kind == 2,
    )  # fmt: skip


def rows(replay):
    return replay.unpack(replay.table[: len(replay)])


def test_a_million_halfcheetah_rows_are_168_megabytes():
    replay = Replay(4, spaces.Box(-np.inf, np.inf, (17,)), spaces.Box(-1, 1, (6,)))
    row = replay.table[0].numel() * replay.table.element_size()
    assert row == 4 * (17 + 6 + 1 + 17 + 1) and row * 1_000_000 < 250e6


def test_rows_come_back_and_time_limits_are_bootstrapped():
    replay = Replay(100, OBS, ACT, num_envs=3, gamma=0.9)
    batch = rollout(7, 3)
    replay.add(batch)
    flat, got = batch.flatten(), rows(replay)
    for name in ("obs", "action", "reward", "next_obs"):
        assert torch.equal(got[name], flat[name])
    assert flat.truncated.any() and flat.terminated.any()
    torch.testing.assert_close(got.discount, 0.9 * (~flat.terminated).float(), rtol=0, atol=0)


@pytest.mark.parametrize("capacity", [5, 6, 7, 12])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_the_ring_keeps_the_latest_rows(capacity, steps):
    replay = Replay(capacity, OBS, ACT, num_envs=2)
    assert replay.capacity == capacity // 2 * 2
    added = []
    for k in range(7):
        batch = rollout(steps, 2, start=k * steps, seed=k)
        replay.add(batch)
        added += batch.flatten().action.flatten().tolist()
        latest = sorted(added[-replay.capacity :])
        assert sorted(rows(replay).action.flatten().tolist()) == latest


def by_hand(batches, gamma, k):
    """n-step rows by definition, one world and one start at a time."""
    full = {name: torch.cat([b[name] for b in batches]) for name in batches[0]}
    T, N = full["reward"].shape
    out = {}
    for t in range(T - k + 1):
        for i in range(N):
            total, last = 0.0, t
            for j in range(t, t + k):
                total += gamma ** (j - t) * float(full["reward"][j, i])
                last = j
                if full["terminated"][j, i] or full["truncated"][j, i]:
                    break
            discount = 0.0 if full["terminated"][last, i] else gamma ** (last - t + 1)
            out[float(full["action"][t, i, 0])] = total, full["next_obs"][last, i].tolist(), discount
    return out


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("steps", [1, 4])
def test_n_step_returns_of_random_episodes_in_three_worlds(k, steps):
    replay = Replay(1000, OBS, ACT, num_envs=3, gamma=0.8, n_steps=k)
    batches = [rollout(steps, 3, start=j * steps, seed=j) for j in range(24 // steps)]
    for batch in batches:
        replay.add(batch)
    expected, got = by_hand(batches, 0.8, k), rows(replay)
    assert len(replay) == len(expected) == (24 - k + 1) * 3
    for r in range(len(replay)):
        total, next_obs, discount = expected[float(got.action[r, 0])]
        assert float(got.reward[r]) == pytest.approx(total, abs=1e-5)
        assert got.next_obs[r].tolist() == next_obs
        assert float(got.discount[r]) == pytest.approx(discount, abs=1e-6)


def test_an_n_step_example_worked_on_paper():
    """Rewards 1, 2, 4, 8; the second step is cut by a time limit, the fourth ends the MDP; γ = 1/2, k = 3."""
    replay = Replay(10, OBS, ACT, gamma=0.5, n_steps=3)
    batch = rollout(4, 1, done=0.0)
    batch = batch.plus(
        reward=torch.tensor([[1.0], [2.0], [4.0], [8.0]]),
        truncated=torch.tensor([[False], [True], [False], [False]]),
        terminated=torch.tensor([[False], [False], [False], [True]]),
    )
    replay.add(batch)
    replay.add(rollout(2, 1, start=4, done=0.0).plus(reward=torch.zeros(2, 1)))
    got = rows(replay)
    assert got.reward.tolist() == [1 + 0.5 * 2, 2.0, 4 + 0.5 * 8, 8.0]
    assert got.discount.tolist() == [0.25, 0.5, 0.0, 0.0]
    assert got.next_obs[:, 0].tolist() == [1.5, 1.5, 3.5, 3.5]


@pytest.mark.parametrize("k", [1, 3])
def test_fake_rows_are_left_out(k):
    batch = rollout(20, 2)
    after_done = torch.zeros_like(batch.terminated)
    after_done[1:] = (batch.terminated | batch.truncated)[:-1]
    batch = batch.plus(valid=~after_done)
    replay = Replay(100, OBS, ACT, num_envs=2, n_steps=k)
    replay.add(batch)
    kept = set(batch.action[: 20 - k + 1][batch.valid[: 20 - k + 1]].flatten().tolist())
    assert set(rows(replay).action.flatten().tolist()) == kept and after_done.any()


def test_samples_are_uniform_with_replacement_and_seeded():
    replay = Replay(8, OBS, ACT)
    replay.add(rollout(5, 1))
    draw = lambda seed: replay.sample(20_000, torch.Generator().manual_seed(seed)).action.flatten()
    counts = torch.unique(draw(0), return_counts=True)[1]
    assert len(counts) == 5 and (counts - 4000).abs().max() < 5 * (20_000 * 0.2 * 0.8) ** 0.5
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


def test_an_empty_memory_says_so():
    with pytest.raises(ValueError, match="empty memory"):
        Replay(8, OBS, ACT).sample(1, torch.Generator())


def test_more_than_the_memory_there_is(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    monkeypatch.setattr(memory.torch, "empty", lambda *a, **k: pytest.fail("allocated before it was checked"))
    with pytest.raises(
        MemoryError, match=r"buffer_size=1000 needs 28,000 bytes .* 10,000 are available; at most 357 rows"
    ):
        Replay(1000, OBS, ACT)


def test_the_memory_there_is_is_known():
    assert 1e6 < memory.available_bytes("cpu") < 1e14


def test_state_goes_through_a_file_with_what_is_pending(tmp_path):
    whole, half = (Replay(10, OBS, ACT, num_envs=2, n_steps=3) for _ in range(2))
    first, second = rollout(9, 2), rollout(4, 2, start=9, seed=1)
    whole.add(first)
    half.add(first)
    save_state(tmp_path / "m", {"m": half.state_dict()}, "memory")
    resumed = Replay(10, OBS, ACT, num_envs=2, n_steps=3)
    resumed.load_state_dict(load_state(tmp_path / "m", "memory")["m"])
    for replay in (whole, resumed):
        replay.add(second)
    assert torch.equal(whole.table, resumed.table) and whole.position == resumed.position


def test_a_full_ring_in_a_larger_one_goes_on_after_its_newest_row():
    small, large = Replay(4, OBS, ACT), Replay(6, OBS, ACT)
    small.add(rollout(6, 1))
    large.load_state_dict(small.state_dict())
    assert len(large) == 4
    large.add(rollout(3, 1, start=6))
    assert sorted(rows(large).action.flatten().tolist()) == [300.0, 400.0, 500.0, 600.0, 700.0, 800.0]


def test_a_memory_of_other_spaces():
    small = Replay(4, OBS, ACT)
    small.add(rollout(4, 1))
    with pytest.raises(ValueError, match="4 rows of 7 numbers does not fit one of 4 rows of 9"):
        Replay(4, spaces.Box(-1, 1, (3,)), ACT).load_state_dict(small.state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        Replay(3, OBS, ACT).load_state_dict(small.state_dict())


def test_observations_are_kept_encoded_and_discrete_actions_as_their_number():
    obs = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2, 2)))
    replay = Replay(10, obs, spaces.Discrete(4), num_envs=2)
    a, b = torch.tensor([[0, 2]]), torch.arange(8.0).view(1, 2, 2, 2)
    replay.add(
        Batch(
            obs=dict(a=a, b=b), action=torch.tensor([[3, 1]]), reward=torch.ones(1, 2), next_obs=dict(a=a, b=b + 1),
            terminated=torch.zeros(1, 2, dtype=torch.bool), truncated=torch.zeros(1, 2, dtype=torch.bool),
        )
    )  # fmt: skip
    got = rows(replay)
    assert got.obs.tolist() == [[1, 0, 0, 0, 1, 2, 3], [0, 0, 1, 4, 5, 6, 7]]
    assert got.action.tolist() == [3, 1] and got.action.dtype == torch.int64


@pytest.mark.parametrize(("share", "second"), [(0.5, 4), (0.25, 2), (0.0, 0), (1.0, 8)])
def test_a_mix_takes_its_share_of_each(share, second):
    mix = Mix(Replay(8, OBS, ACT), Replay(8, OBS, ACT), share)
    mix.add(rollout(5, 1))
    mix.second.add(rollout(5, 1, start=50))
    batch = mix.sample(8, torch.Generator().manual_seed(0))
    prior = batch.action.flatten() >= 5000
    assert len(batch) == 8 and prior.tolist() == [False] * (8 - second) + [True] * second


@pytest.mark.parametrize(("capacity", "kept"), [(20, 8), (8, 8), (5, 5)])
def test_another_capacity_keeps_the_newest_rows_in_their_order(capacity, kept):
    times = lambda: replay.table[: len(replay)].roll(-replay.position if len(replay) == replay.capacity else 0, 0)[:, 0]
    replay = Replay(8, OBS, ACT)
    replay.add(rollout(6, 1))
    replay.add(rollout(5, 1, start=6))  # the ring has gone round: it holds 3 to 10
    assert times().tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    replay.resize(capacity)
    newest = list(range(11 - kept, 11))
    assert len(replay) == kept and replay.capacity == capacity and times().tolist() == newest and replay.added == 11
    replay.add(rollout(2, 1, start=11))
    assert times().tolist() == [*newest, 11, 12][-capacity:]


def test_a_containers_limit_counts(tmp_path):
    from polopt.memory import _container_bytes

    assert _container_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert _container_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 250\ninactive_file 50\n")
    assert _container_bytes(tmp_path) == 750  # what is only cached can be taken back
    old = tmp_path / "one" / "memory"
    old.mkdir(parents=True)
    (old / "memory.limit_in_bytes").write_text("500\n")
    (old / "memory.usage_in_bytes").write_text("600\n")
    (old / "memory.stat").write_text("total_inactive_file 0\n")
    assert _container_bytes(tmp_path / "one") == 0


def line(*rewards):
    """A trajectory of one world, without an end."""
    n = len(rewards)
    no, obs = torch.zeros(n, 1, dtype=torch.bool), torch.zeros(n, 1, 2)
    reward = torch.tensor(rewards).unsqueeze(1)
    return Batch(obs=obs, action=torch.zeros(n, 1, 1), reward=reward, next_obs=obs, terminated=no, truncated=no)


def test_flush_enters_what_waits_for_steps_that_will_not_come():
    """With three steps, the last two of a trajectory wait; cut short, they enter with the rewards there are."""
    replay = Replay(10, OBS, ACT, gamma=0.5, n_steps=3)
    replay.add(line(1.0, 2.0, 4.0, 8.0))
    assert len(replay) == 2
    replay.flush()
    assert rows(replay).reward.tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert rows(replay).discount.tolist() == [0.125, 0.125, 0.25, 0.5]
    replay.add(line(16.0, 16.0, 16.0))
    assert rows(replay).reward.tolist()[4:] == [16 + 8 + 4]  # nothing of the trajectory before


def test_it_answers_stable_baselines3s_questions():
    replay = Replay(4, OBS, ACT)
    replay.add(line(1.0, 2.0, 4.0))
    assert (replay.size(), replay.pos, replay.full, replay.buffer_size) == (3, 3, False, 4)
    replay.add(line(8.0, 16.0))
    assert (replay.size(), replay.pos, replay.full) == (4, 1, True)
    replay.reset()
    assert replay.size() == len(replay) == 0
