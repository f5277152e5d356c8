"""Replay: a ring of packed rows, n-step returns by hand, and what it says when it cannot be."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from polopt import memory, segments
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


class Plain(Replay):
    """n steps as a loop over the steps of time, each with a loop over those that follow it."""

    def add(self, batch):
        for t in range(len(batch)):
            self._pending.append(batch.map(lambda x, t=t: x[t]))
            if len(self._pending) == self.n_steps:
                self.fold()

    def flush(self):
        if self._pending:
            last = self._pending[-1]
            self._pending[-1] = last.plus(truncated=torch.ones_like(last.truncated))
        while self._pending:
            self.fold()

    def fold(self):
        first, *others = self._pending
        reward, discount = first.reward.clone(), torch.full_like(first.reward, self.gamma)
        next_obs, terminated = first.next_obs, first.terminated
        alive = ~(first.terminated | first.truncated)
        for later in others:
            reward = torch.where(alive, reward + discount * later.reward, reward)
            discount = torch.where(alive, discount * self.gamma, discount)
            next_obs = chosen(alive, later.next_obs, next_obs)
            terminated = torch.where(alive, later.terminated, terminated)
            alive = alive & ~(later.terminated | later.truncated)
        self._append(first.plus(reward=reward, next_obs=next_obs, discount=discount * ~terminated))
        del self._pending[0]


def chosen(mask, a, b):
    if isinstance(a, dict):
        return {k: chosen(mask, a[k], b[k]) for k in a}
    return torch.stack([x if m else y for m, x, y in zip(mask, a, b, strict=True)])


def bits(x):
    """A state by which two replays can be compared to the last bit."""
    if isinstance(x, dict):
        return {k: bits(v) for k, v in x.items()}
    if isinstance(x, list):
        return [bits(v) for v in x]
    if isinstance(x, memory.Rows):
        return bits(x.table), x.position, x.added
    return (x.dtype, tuple(x.shape), x.contiguous().numpy().tobytes()) if isinstance(x, torch.Tensor) else x


DICT = spaces.Dict(a=spaces.Discrete(3), b=spaces.Box(-1, 1, (2, 2)), c=spaces.Box(-1, 1, (1,)))


def anything(g, space, steps, worlds, dtype):
    """A rollout of random observations, rewards, ends and fake rows, wherever they fall."""

    def of(space):
        if isinstance(space, spaces.Dict):
            return {k: of(s) for k, s in space.items()}
        if isinstance(space, spaces.Discrete):
            return torch.from_numpy(g.integers(space.n, size=(steps, worlds)))
        return torch.from_numpy(g.normal(size=(steps, worlds, *space.shape))).float()

    some = lambda p: torch.from_numpy(g.random((steps, worlds)) < p)
    batch = Batch(
        obs=of(space), action=of(ACT), reward=torch.from_numpy(g.normal(size=(steps, worlds)).round(1)).to(dtype),
        next_obs=of(space), terminated=some(0.15), truncated=some(0.15), cost=torch.randn(steps, worlds, 2),
    )  # fmt: skip
    return batch.plus(valid=some(0.8)) if g.random() < 0.5 else batch


@pytest.mark.parametrize("space", [OBS, spaces.Discrete(3), DICT], ids=["box", "discrete", "dict"])
@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_all_steps_of_a_rollout_at_once_are_the_loop_over_them_to_the_bit(k, space):
    """Rows, their places, what is pending: after rollouts of any length, ends and fake rows anywhere, flushes between."""
    for case in range(12):
        g = np.random.default_rng([k, case])
        torch.manual_seed(case)
        worlds, capacity = int(g.integers(1, 4)), int(g.choice([9, 1000]))
        dtype = (torch.float32, torch.float64)[g.integers(2)]
        make = dict(num_envs=worlds, gamma=0.9, n_steps=k, extras={"cost": 2})
        fast, plain = (kind(capacity, space, ACT, **make) for kind in (Replay, Plain))
        for replay in (fast, plain):
            replay.table.zero_()
        for _ in range(8):
            batch = anything(g, space, int(g.choice([1, 1, 2, 5, 12])), worlds, dtype)
            flush = g.random() < 0.2
            for replay in (fast, plain):
                replay.add(batch)
                if flush:
                    replay.flush()
            assert bits(fast.state_dict()) == bits(plain.state_dict())
        assert fast.added


def test_a_rollout_of_several_steps_is_folded_at_once():
    """Not step by step: a dataset of a million rows is added in the time of a few passes over it."""
    calls = []
    replay = Replay(2000, OBS, ACT, n_steps=3, encoder=lambda obs: calls.append(len(obs)) or obs)
    replay.add(rollout(1000, 1))
    assert len(replay) == 998 and calls == [998, 998]
    replay.add(rollout(1000, 1, start=1000))
    assert len(replay) == 1998 and calls[2:] == [1] * 4 + [998, 998]


def test_no_return_crosses_the_fake_row_between_two_episodes():
    """Gymnasium's NEXT_STEP: the row after an end is the reset, which earns 0 and ends nothing."""
    replay = Replay(20, OBS, ACT, gamma=0.5, n_steps=3)
    replay.add(rollout(8, 1, done=0.0).plus(
        reward=torch.tensor([1.0, 2.0, 0.0, 8.0, 16.0, 0.0, 64.0, 128.0]).unsqueeze(1),
        truncated=torch.tensor([0, 1, 0, 0, 0, 0, 0, 0]).bool().unsqueeze(1),
        terminated=torch.tensor([0, 0, 0, 0, 1, 0, 0, 0]).bool().unsqueeze(1),
        valid=torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).bool().unsqueeze(1),
    ))  # fmt: skip
    replay.flush()
    got = rows(replay)
    assert got.obs[:, 0].tolist() == [0, 1, 3, 4, 6, 7]
    assert got.reward.tolist() == [1 + 1, 2, 8 + 8, 16, 64 + 64, 128]
    assert got.discount.tolist() == [0.25, 0.5, 0, 0, 0.25, 0.5]
    assert got.next_obs[:, 0].tolist() == [1.5, 1.5, 4.5, 4.5, 7.5, 7.5]


@pytest.mark.parametrize("k", [1, 3])
def test_whole_numbers_as_rewards(k):
    replay = Replay(10, OBS, ACT, gamma=0.5, n_steps=k)
    replay.add(line(2.0, 4.0, 8.0).plus(reward=torch.tensor([[2], [4], [8]])))
    replay.flush()
    assert rows(replay).reward.tolist() == ([2, 4, 8] if k == 1 else [2 + 2 + 2, 4 + 4, 8])
    assert rows(replay).discount.tolist() == ([0.5] * 3 if k == 1 else [0.125, 0.25, 0.5])


@pytest.mark.parametrize("k", [1, 3])
def test_a_rollout_is_added_at_once_as_in_parts(k):
    """Also one longer than the memory."""
    whole, parts = (Replay(10, OBS, ACT, num_envs=2, n_steps=k) for _ in range(2))
    for replay in (whole, parts):
        replay.add(rollout(3, 2, start=100))
    long = rollout(17, 2)
    whole.add(long)
    for t in range(17):
        parts.add(long.map(lambda x, t=t: x[t : t + 1]))
    assert bits(whole.state_dict()) == bits(parts.state_dict()) and whole.added == (20 - k + 1) * 2


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


def test_a_mix_answers_stable_baselines3s_questions_for_its_first():
    mix = Mix(Replay(4, OBS, ACT), Replay(9, OBS, ACT))
    mix.second.add(rollout(9, 1))
    mix.add(line(1.0, 2.0, 4.0))
    assert (mix.size(), mix.pos, mix.full, mix.buffer_size) == (3, 3, False, 4)
    assert mix.rows().reward.tolist() == [1, 2, 4]
    mix.add(line(8.0, 16.0))
    assert (mix.size(), mix.pos, mix.full) == (4, 1, True)
    mix.reset()
    assert mix.size() == 0 and len(mix.second) == 9


def test_a_mix_has_no_index_for_there_are_two_tables():
    mix = Mix(Replay(8, OBS, ACT), Replay(8, OBS, ACT))
    for replay in (mix.first, mix.second):
        replay.add(rollout(5, 1))
    assert list(mix.sample(8, torch.Generator())) == ["obs", "action", "reward", "next_obs", "discount"]


def costly(steps, worlds, start=0):
    """A rollout whose actor remembers more: a cost 1000 t + i, a weight of two numbers, and something else."""
    batch = rollout(steps, worlds, start=start)
    cost = 1000 * batch.obs[..., 0] + batch.obs[..., 1]
    return batch.plus(cost=cost, weight=torch.stack([cost, -cost], -1), log_prob=cost)


@pytest.mark.parametrize("k", [1, 3])
def test_extras_are_stored_beside_the_five(k, tmp_path):
    extras = {"cost": 1, "weight": 2}
    replay, without = (
        Replay(40, OBS, ACT, num_envs=2, n_steps=k, extras=extras),
        Replay(40, OBS, ACT, num_envs=2, n_steps=k),
    )
    for start in (0, 7):
        for each in (replay, without):
            each.add(costly(7, 2, start))
    replay.flush()
    without.flush()
    got = replay.rows()
    assert torch.equal(replay.table[:28, :7], without.table[:28]) and without.table.shape[1] == 7
    assert list(got) == ["obs", "action", "reward", "next_obs", "discount", "cost", "weight"]
    expected = 1000 * got.obs[:, 0] + got.obs[:, 1]  # of the first step, also where the row is of several
    assert len(got) == 28 and torch.equal(got.cost, expected)
    assert torch.equal(got.weight, torch.stack([expected, -expected], -1))
    b = replay.sample(16, torch.Generator().manual_seed(0))
    assert torch.equal(b.cost, got.cost[b.index]) and torch.equal(b.weight, got.weight[b.index])
    mixed = Mix(replay, replay, 0.25).sample(16, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.cost, 1000 * mixed.obs[:, 0] + mixed.obs[:, 1])
    with pytest.raises(ValueError, match=r"extras \{'cost': 1, 'weight': 2\} and \{\}"):
        Mix(replay, without)


def test_extras_go_through_a_file_with_what_is_pending(tmp_path):
    make = lambda **extras: Replay(10, OBS, ACT, num_envs=2, n_steps=3, extras=extras)
    whole, resumed = make(cost=1), make(cost=1)
    whole.add(costly(6, 2))
    save_state(tmp_path / "m", {"m": whole.state_dict()}, "memory")
    state = load_state(tmp_path / "m", "memory")["m"]
    resumed.load_state_dict(state)
    for replay in (whole, resumed):
        replay.add(costly(4, 2, start=6))
    assert torch.equal(whole.table, resumed.table) and whole.position == resumed.position
    for other, width in ((make(), 7), (make(cost=2), 9)):
        with pytest.raises(ValueError, match=f"8 rows of 8 numbers does not fit one of 10 rows of {width}"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("extras", "error", "words"),
    [
        ({"reward": 1}, ValueError, "extras: 'reward' is a field of every batch"),
        ({"index": 1}, ValueError, "extras: 'index'"),
        ({"cost": 0}, ValueError, r"extras\['cost'\]=0 must be at least 1"),
        ({"cost": 1.5}, TypeError, r"extras\['cost'\]=1.5 must be a whole number"),
    ],
)
def test_extras_that_cannot_be(extras, error, words):
    with pytest.raises(error, match=words):
        Replay(10, OBS, ACT, extras=extras)


@pytest.mark.parametrize("k", [1, 3])
def test_a_rollout_without_its_extras(k):
    replay = Replay(10, OBS, ACT, n_steps=k, extras={"cost": 2})
    with pytest.raises(ValueError, match="extras: a rollout lacks 'cost'; it has obs, action, reward"):
        replay.add(rollout(5, 1))
    with pytest.raises(ValueError, match=r"'cost' of shape \(5, 1\) does not fit a width of 2: expected \(5, 1, 2\)"):
        replay.add(costly(5, 1))
    assert not len(replay) and not replay._pending


def test_what_is_pending_comes_back_to_the_tables_device():
    replay, elsewhere = Replay(10, OBS, ACT, n_steps=3), Replay(10, OBS, ACT, n_steps=3, device="meta")
    replay.add(rollout(6, 1))
    elsewhere.load_state_dict(replay.state_dict())
    assert [{x.device.type for x in vars(step).values()} for step in elsewhere._pending] == [{"meta"}] * 2


def test_checkpoints_know_new_rows_after_a_reset(tmp_path):
    """Rows are kept apart by their number: were they numbered anew, a checkpoint would take them for those before."""
    replay, again = Replay(10, OBS, ACT), Replay(10, OBS, ACT)
    replay.add(rollout(8, 1))
    segments.write(tmp_path, "m", replay.state_dict()["table"])
    replay.reset()
    replay.add(rollout(5, 1, start=100))
    table = segments.read(tmp_path, segments.write(tmp_path, "m", replay.state_dict()["table"]))
    again.load_state_dict(replay.state_dict() | {"table": table})
    assert rows(again).obs[:, 0].tolist() == [100, 101, 102, 103, 104]


def test_a_capacity_that_does_not_fit_leaves_what_there_is(monkeypatch):
    replay = Replay(8, OBS, ACT)
    replay.add(rollout(11, 1))
    before = bits(replay.state_dict())
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10_000)
    with pytest.raises(MemoryError, match="buffer_size=1000"):
        replay.resize(1000)
    assert bits(replay.state_dict()) == before and replay.capacity == 8


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


def test_another_memorys_rows_are_new_ones_to_the_segments(tmp_path):
    mine, theirs = Replay(50, OBS, ACT), Replay(50, OBS, ACT)
    mine.add(rollout(9, 1))
    theirs.add(rollout(9, 1, start=100))
    segments.write(tmp_path, "m", mine.state_dict()["table"])
    mine.load_state_dict(theirs.state_dict())
    mine.add(rollout(3, 1, start=200))
    table = segments.read(tmp_path, segments.write(tmp_path, "m", mine.state_dict()["table"]))
    assert torch.equal(table, mine.table[:12]) and rows(mine).obs[:, 0].tolist() == [*range(100, 109), 200, 201, 202]
