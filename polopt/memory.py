"""Replay: what off-policy methods learn from, one packed row a transition."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import Space, spaces
from torch import Tensor

from .batch import Batch
from .config import whole_number
from .files import Rows
from .spaces import encode, encoded_size

__all__ = ["Mix", "Replay"]

OWN = ("obs", "action", "reward", "next_obs", "discount", "index")
"""What a batch has of a memory whether asked or not."""


class Replay:
    """A ring of transitions ``(obs, action, reward, next_obs, discount)`` as rows of one float32 table.

    Sampling is one gather. ``discount`` is γ^k (1 - terminated): 0 where the MDP ended, so that a target reads
    ``reward + discount * next_value`` for any number of steps k, and time limits are bootstrapped through. Observations
    are stored encoded (integers one-hot), discrete actions as their number. Of a rollout's other fields those named in
    ``extras`` are stored, as float32; what else an actor remembers of its choices is not kept.

    Args:
        capacity: rows; the oldest are overwritten.
        num_envs: worlds that add at once.
        gamma: γ.
        n_steps: k, steps whose rewards are summed (discounted) into a row; fewer at an episode's end.
        encoder: observations -> the float vectors that are stored; by default integers one-hot and all else as it is.
        reward: (scale, shift) of what is stored, scale r + shift.
        read: what becomes of a batch that is sampled; None: nothing.
        extras: name -> width of more columns, such as a cost or a weight: a field ``[T, N, width]`` of every rollout, ``[T, N]``
            where the width is 1, that batches have under its name, ``[B, width]`` or ``[B]``. With n steps it is the first's.

    Raises:
        TypeError, ValueError: an extra has the name of another field, or no whole width from 1 on.
        MemoryError: the table does not fit the memory there is; names both figures.
    """

    def __init__(
        self, capacity: int, observation_space: Space, action_space: Space, *, num_envs: int = 1, gamma: float = 0.99,
        n_steps: int = 1, device: torch.device | str = "cpu", encoder: Callable[[Any], Tensor] | None = None,
        reward: tuple[float, float] = (1.0, 0.0), read: Callable[[Batch], Batch] | None = None,
        extras: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.observation_space, self.action_space = observation_space, action_space
        self.gamma, self.n_steps, self.num_envs = gamma, n_steps, num_envs
        self.encode = encoder or (lambda obs: encode(observation_space, obs))
        self.reward, self.read = None if reward == (1.0, 0.0) else reward, read
        size = encoded_size(observation_space)
        self.discrete = isinstance(action_space, spaces.Discrete)
        self.action_size = 1 if self.discrete else encoded_size(action_space)
        self.extras: dict[str, int] = {}
        for name, width in (extras or {}).items():
            if name in OWN:
                raise ValueError(f"extras: {name!r} is a field of every batch: take a name other than {', '.join(OWN)}")
            whole_number(f"extras[{name!r}]", width, 1)
            self.extras[name] = int(width)
        self.widths = [size, self.action_size, 1, size, 1, *self.extras.values()]
        self.capacity = max(capacity // num_envs, 1) * num_envs
        self.device = torch.device(device)
        self.table = self._allocate(self.capacity)
        self.position = self.count = self.added = 0
        self._pending: list[Batch] = []  # the latest steps, each [N], fewer than n_steps: they wait for those to come

    def _allocate(self, rows: int) -> Tensor:
        needed = rows * sum(self.widths) * 4
        if (there := available_bytes(self.device)) is not None and needed > there:
            raise MemoryError(
                f"buffer_size={rows} needs {needed:,} bytes ({sum(self.widths)} float32 a row) and {there:,} are available; "
                f"at most {there // (sum(self.widths) * 4):,} rows fit"
            )
        return torch.empty(rows, sum(self.widths), device=self.device)

    def __len__(self) -> int:
        return self.count

    @property
    def moments(self) -> str | None:
        """A word for the moments by which its observations are standardised; None where they are not."""
        return getattr(self.encode, "moments", lambda: None)()

    # What stable-baselines3's replay is asked for.

    def size(self) -> int:
        """Rows in use; ``len`` too."""
        return self.count

    @property
    def pos(self) -> int:
        """Where the next row goes."""
        return self.position

    @property
    def full(self) -> bool:
        """Whether the next row overwrites the oldest."""
        return self.count == self.capacity

    @property
    def buffer_size(self) -> int:
        """Most rows that it holds."""
        return self.capacity

    def reset(self) -> None:
        """Forget everything; rows to come are numbered on from those ever added, by which checkpoints know them."""
        self.position = self.count = 0
        self._pending.clear()

    def add(self, batch: Batch) -> None:
        """Append a rollout ``[T, N]``. With n steps, a transition enters once the k - 1 that follow it have come.

        Raises:
            ValueError: a field of ``extras`` is missing, or of another shape.
        """
        self._check_extras(batch)
        if not batch.reward.is_floating_point():  # γ is kept in the rewards' type
            batch = batch.plus(reward=batch.reward.float())
        if self.reward is not None:
            batch = batch.plus(reward=self.reward[0] * batch.reward + self.reward[1])
        if self.n_steps == 1:
            rows = batch.flatten()
            self._append(rows.plus(discount=self._discount(rows)))
            return
        k, worlds = self.n_steps, batch.reward.shape[1]
        for t in range(min(len(batch), k - 1)):  # those that wait
            self._pending.append(batch.map(lambda x, t=t: x[t]))
            if len(self._pending) == k:
                self._fold(self._pending)
                del self._pending[0]
        if (inside := len(batch) - k + 1) > 0:  # those whose k steps all lie in this rollout, at once
            flat, size = batch.flatten(), inside * worlds
            starts = range(0, k * worlds, worlds)
            self._fold([flat.map(lambda x, i=i: x[i : i + size]) for i in starts])
            self._pending = [batch.map(lambda x, t=t: x[t]) for t in range(inside, len(batch))]

    def flush(self) -> None:
        """The trajectories under way do not go on: what waits for later steps enters as if cut short by a time limit."""
        if not self._pending:
            return
        last = self._pending[-1]
        self._pending[-1] = last.plus(truncated=torch.ones_like(last.truncated))
        while self._pending:
            self._fold(self._pending)
            del self._pending[0]

    def _check_extras(self, batch: Batch) -> None:
        for name, width in self.extras.items():
            if name not in batch:
                raise ValueError(f"extras: a rollout lacks {name!r}; it has {', '.join(batch)}")
            shape, steps = tuple(batch[name].shape), tuple(batch.reward.shape)
            if shape[:2] != steps or math.prod(shape[2:]) != width:
                fits = (*steps, width) if width > 1 else steps
                raise ValueError(f"extras: {name!r} of shape {shape} does not fit a width of {width}: expected {fits}")

    def _discount(self, steps: Batch) -> Tensor:
        """γ (1 - terminated) of single steps."""
        reward = steps.reward
        return torch.where(steps.terminated, torch.zeros_like(reward), torch.full_like(reward, self.gamma))

    def _fold(self, steps: list[Batch]) -> None:
        """Append the first of successive steps, each ``[B]``, with the rewards of those after it up to its episode's end."""
        first, *others = steps
        reward, next_obs, discount = first.reward, first.next_obs, self._discount(first)
        alive = ~(first.terminated | first.truncated)
        for later in others:
            reward = torch.where(alive, reward + discount * later.reward, reward)
            discount = torch.where(alive, discount * self._discount(later), discount)
            next_obs = _where(alive, later.next_obs, next_obs)
            alive = alive & ~(later.terminated | later.truncated)
        self._append(first.plus(reward=reward, next_obs=next_obs, discount=discount))

    @torch.no_grad()
    def _append(self, rows: Batch) -> None:
        """Write transitions ``[B]``, those of them that are valid."""
        n = len(rows)
        columns = [
            self.encode(rows.obs), rows.action.reshape(n, self.action_size).float(), rows.reward.reshape(n, 1),
            self.encode(rows.next_obs), rows.discount.reshape(n, 1),
            *(rows[name].reshape(n, width).float() for name, width in self.extras.items()),
        ]  # fmt: skip
        new = torch.cat(columns, -1).to(self.table.device)
        if "valid" in rows:
            new = new[rows.valid]
        start, added = self.position, len(new)
        if added > self.capacity:  # more than fit: as if they had come one after another
            start, new = (start + added) % self.capacity, new[-self.capacity :]
        end = start + len(new)
        if end <= self.capacity:
            self.table[start:end] = new
        else:
            cut = self.capacity - start
            self.table[start:] = new[:cut]
            self.table[: end - self.capacity] = new[cut:]
        self.position = end % self.capacity
        self.count = min(self.count + added, self.capacity)
        self.added += added

    def make_room(self, rows: int) -> None:
        """Enlarge the table by so many empty rows.

        Raises:
            MemoryError: they do not fit the memory there is.
        """
        table = self._allocate(self.capacity + rows)
        table[: self.count] = self.table[: self.count].roll(-self.position if self.count == self.capacity else 0, 0)
        self.table, self.capacity, self.position = table, len(table), self.count

    def resize(self, capacity: int) -> None:
        """Another capacity; of the rows there are, the newest that fit are kept, the oldest of them first.

        Raises:
            MemoryError: they do not fit the memory there is.
        """
        rows = self.table[: self.count].roll(-self.position if self.count == self.capacity else 0, 0)[-capacity:]
        table = self._allocate(capacity)
        table[: len(rows)] = rows
        self.table, self.capacity, self.count, self.position = table, capacity, len(rows), len(rows) % capacity

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """``batch_size`` rows drawn uniformly with replacement, and their places in the table, ``index``.

        Raises:
            ValueError: the memory is empty.
        """
        b = self.stored(batch_size, generator)
        return b if self.read is None else self.read(b)

    def stored(self, batch_size: int, generator: torch.Generator) -> Batch:
        """A :meth:`sample` as it lies in the table, before ``read``."""
        if not self.count:
            raise ValueError("cannot sample from an empty memory: collect first (learning_starts)")
        index = torch.randint(self.count, (batch_size,), generator=generator, device=self.table.device)
        return self.unpack(self.table.index_select(0, index)).plus(index=index)

    def rows(self) -> Batch:
        """All rows in use, views of the table."""
        return self.unpack(self.table[: self.count])

    def unpack(self, rows: Tensor) -> Batch:
        """Rows of the table as a batch ``[B]``."""
        obs, action, reward, next_obs, discount, *more = rows.split(self.widths, -1)
        action = action.squeeze(-1).long() if self.discrete else action
        more = [x.squeeze(-1) if width == 1 else x for x, width in zip(more, self.extras.values(), strict=True)]
        return Batch(
            obs=obs, action=action, reward=reward.squeeze(-1), next_obs=next_obs, discount=discount.squeeze(-1),
            **dict(zip(self.extras, more, strict=True)),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """The rows in use, and what is pending."""
        pending = [dict(vars(b)) for b in self._pending]
        rows = Rows(self.table[: self.count], self.position, self.added)
        return {"table": rows, "position": self.position, "added": self.added, "pending": pending}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a :meth:`state_dict` back.

        Raises:
            ValueError: its rows are of other spaces, or more than fit.
        """
        table, position = state["table"], state["position"]
        table = table.table if isinstance(table, Rows) else table
        if table.shape[1:] != self.table.shape[1:] or len(table) > self.capacity:
            raise ValueError(
                f"a memory of {len(table)} rows of {table.shape[-1]} numbers does not fit one of {self.capacity} rows of {sum(self.widths)}"
            )
        if len(table) < self.capacity:  # a full ring of a smaller capacity begins anew with its oldest row
            table, position = table.roll(-position, 0), len(table)
        # Rows that come into a memory which had others are new ones to whoever knows rows by their number.
        self.added = state["added"] if not self.added else self.added + len(table)
        self.count, self.position = len(table), position
        self.table[: self.count] = table
        self._pending = [Batch(**b).map(lambda x: x.to(self.table.device)) for b in state["pending"]]


class Mix:
    """Batches from two memories in a fixed ratio, the rows of the second after those of the first.

    What is added goes to the first, and it is the first that a mix answers for otherwise: its size, its rows, its state.

    Args:
        share: of each batch that comes from ``second`` (RLPD: 0.5).

    Raises:
        ValueError: the two hold different ``extras``.
    """

    def __init__(self, first: Replay, second: Replay, share: float = 0.5) -> None:
        if first.extras != second.extras:
            raise ValueError(
                f"a mix of memories with the extras {first.extras} and {second.extras}: they must be the same"
            )
        self.first, self.second, self.share = first, second, share

    def __len__(self) -> int:
        return len(self.first)

    def size(self) -> int:
        """Rows in use of the first; ``len`` too."""
        return self.first.size()

    @property
    def pos(self) -> int:
        """Where the next row of the first goes."""
        return self.first.pos

    @property
    def full(self) -> bool:
        """Whether the next row overwrites the oldest of the first."""
        return self.first.full

    @property
    def capacity(self) -> int:
        """Most rows that the first holds."""
        return self.first.capacity

    buffer_size = capacity

    def reset(self) -> None:
        """Forget what is in the first."""
        self.first.reset()

    def rows(self) -> Batch:
        """All rows in use of the first, views of its table."""
        return self.first.rows()

    def add(self, batch: Batch) -> None:
        self.first.add(batch)

    def flush(self) -> None:
        self.first.flush()

    def make_room(self, rows: int) -> None:
        self.first.make_room(rows)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """As :meth:`Replay.sample`, both parts read as the first memory reads; without ``index``, places in two tables."""
        n = round(self.share * batch_size)
        parts = [m.stored(k, generator) for m, k in ((self.first, batch_size - n), (self.second, n)) if k]
        b = Batch(**{name: torch.cat([p[name] for p in parts]) for name in parts[0] if name != "index"})
        return b if self.first.read is None else self.first.read(b)

    def state_dict(self) -> dict[str, Any]:
        return self.first.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first.load_state_dict(state)


def available_bytes(device: torch.device | str) -> int | None:
    """Free memory of a device [bytes], of what this process may take where a container limits it; None where it cannot be
    told."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [n for n in (_machine_bytes(), _container_bytes(Path("/sys/fs/cgroup"))) if n is not None]
    return min(known, default=None)


def _machine_bytes() -> int | None:
    """What the machine could give to a new process."""
    try:
        with open("/proc/meminfo") as f:
            for line in f:
                if line.startswith("MemAvailable"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _container_bytes(root: Path) -> int | None:
    """What a control group leaves of its limit, version 2 or 1, its file cache not counted; None without a limit."""
    for limit, usage, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, used = int((root / limit).read_text()), int((root / usage).read_text())
            lines = (line.split() for line in (root / stat).read_text().splitlines())
            return max(most - used + sum(int(n) for name, n in lines if name == cache), 0)
        except (OSError, ValueError):  # no such version, or "max": no limit
            continue
    return None


def _where(mask: Tensor, a: Any, b: Any) -> Any:
    if isinstance(a, dict):
        return {k: _where(mask, a[k], b[k]) for k in a}
    return torch.where(mask.view(-1, *[1] * (a.ndim - 1)), a, b)
