"""Datasets: transitions that were recorded once, and how they are cut into what methods learn from.

A :class:`Dataset` is flat: row i is one step of some episode, episodes lie back to back. ``terminated`` (the MDP ended) and
``truncated`` (a time limit, or the recording stopped) are kept apart, because a value is bootstrapped through the second
and not through the first. Everything is in the environment's own units. The rules of the two views are those of D4RL (Fu,
Kumar, Nachum, Tucker, Levine, 2020, arXiv 2004.07219).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from gymnasium import Space, spaces

from .batch import Batch
from .env import Env, Obs, Step, Wrapper
from .spaces import same

__all__ = ["Collector", "Dataset", "DatasetError", "d4rl_score"]


class DatasetError(ValueError):
    """Data that cannot be learned from: a field is missing, of another length, not finite, or of another space."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Recorded steps, in the environment's own units. The rows are read-only, and what they were made of is to stay as it is.

    Raises:
        DatasetError: lengths differ, a number is not finite, or there is no row.
    """

    obs: np.ndarray
    """``[n, O]`` float32, flat"""
    action: np.ndarray
    """``[n, A]`` float32"""
    reward: np.ndarray
    """``[n]`` float32"""
    terminated: np.ndarray
    """``[n]`` bool: the MDP ended with this step"""
    truncated: np.ndarray
    """``[n]`` bool: the episode was cut after this step"""
    next_obs: np.ndarray | None = None
    """``[n, O]`` float32, the true successors; None where the file has only the next row"""
    infos: dict[str, np.ndarray] = field(default_factory=dict)
    """``[n, ...]`` each: qpos, qvel and the like, where recorded"""
    observation_space: Space | None = None
    """None where the file does not say"""
    action_space: Space | None = None
    """None where the file does not say: D4RL's lie in [-1, 1]"""
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """arguments of the environment, beside its id"""
    reference: tuple[float, float] | None = None
    """returns of a random and of an expert policy, which are 0 and 100 of the normalised score"""
    name: str = "dataset"
    """where it is from"""

    def __post_init__(self) -> None:
        for name in ("obs", "next_obs"):
            if isinstance(getattr(self, name), dict):
                raise DatasetError(f"{self.name}: {name} is a dict: lay its entries side by side, [n, O]")
        n = len(self.reward)
        if n == 0:
            raise DatasetError(f"{self.name}: there is no row")
        if self.reference is not None:
            low, high = map(float, self.reference)
            object.__setattr__(self, "reference", (low, high))
        flat = lambda x: np.ascontiguousarray(np.asarray(x, np.float32).reshape(len(x), -1))
        given = {"obs": flat(self.obs), "action": flat(self.action)}
        given["reward"] = np.asarray(self.reward, np.float32).reshape(-1)
        given |= {k: np.asarray(getattr(self, k)).astype(bool).reshape(-1) for k in ("terminated", "truncated")}
        given["next_obs"] = None if self.next_obs is None else flat(self.next_obs)
        for name, x in given.items():
            if x is None:
                continue
            if len(x) != n:
                raise DatasetError(f"{self.name}: {name} has {len(x)} rows where reward has {n}")
            if x.dtype == np.float32 and not np.isfinite(x).all():
                row = int(np.flatnonzero(~np.isfinite(x).reshape(n, -1).all(1))[0])
                raise DatasetError(f"{self.name}: {name} is not finite in row {row}: {x[row].tolist()}")
            x = x.view()
            x.flags.writeable = False  # the hash is of these rows
            object.__setattr__(self, name, x)
        if self.next_obs is not None and self.next_obs.shape != self.obs.shape:
            raise DatasetError(f"{self.name}: next_obs of shape {self.next_obs.shape} beside obs of {self.obs.shape}")
        for name, x in self.infos.items():
            if len(x) != n:
                raise DatasetError(f"{self.name}: infos/{name} has {len(x)} rows where reward has {n}")
        for name, x, space in (("obs", self.obs, self.observation_space), ("action", self.action, self.action_space)):
            if isinstance(space, spaces.Box) and int(np.prod(space.shape)) != x.shape[1]:
                raise DatasetError(f"{self.name}: {name} has {x.shape[1]} numbers a row and its space is {space}")

    def __len__(self) -> int:
        return len(self.reward)

    def __repr__(self) -> str:
        returns = self.returns()
        what = f"{len(self):,} rows, {len(returns):,} episodes, return {returns.mean():.1f} ± {returns.std():.1f}"
        return f"Dataset({self.name}: {what})"

    def __getitem__(self, rows: slice) -> Self:
        """A stretch of rows, ``dataset[:1000]``; arrays are shared."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"a dataset is cut by a slice of step 1, not by {rows!r}")
        cut = {f.name: getattr(self, f.name) for f in fields(self)}
        cut = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in cut.items()}
        return replace(self, **cut | {"infos": {k: v[rows] for k, v in self.infos.items()}})

    @classmethod
    def concatenate(cls, parts: Sequence[Dataset], name: str = "dataset") -> Dataset:
        """One after the other; an episode that a part leaves open is truncated there.

        Raises:
            DatasetError: there is none; some have ``next_obs`` and some do not, or their widths or spaces differ.
        """
        if not parts:
            raise DatasetError(f"{name}: there are no parts to put together")
        first = parts[0]
        for p in parts[1:]:
            if (p.next_obs is None) != (first.next_obs is None):
                raise DatasetError(f"{name}: {first.name} and {p.name} do not both have next_obs")
            for what in ("obs", "action"):
                if (theirs := getattr(p, what).shape[1]) != (mine := getattr(first, what).shape[1]):
                    raise DatasetError(f"{name}: {what} has {mine} numbers a row in {first.name}, {theirs} in {p.name}")
            p.check(first.observation_space, first.action_space)
        truncated = [p.truncated.copy() for p in parts]
        for p, cut in zip(parts, truncated, strict=True):
            cut[-1] |= not p.terminated[-1]
        columns = {k: np.concatenate([getattr(p, k) for p in parts]) for k in ("obs", "action", "reward", "terminated")}
        next_obs = None if first.next_obs is None else np.concatenate([p.next_obs for p in parts])
        shared = set.intersection(*(set(p.infos) for p in parts))
        infos = {k: np.concatenate([p.infos[k] for p in parts]) for k in sorted(shared)}
        columns |= {"truncated": np.concatenate(truncated), "next_obs": next_obs}
        if any((p.env_id, p.env_kwargs) != (first.env_id, first.env_kwargs) for p in parts):
            first = replace(first, env_id=None, env_kwargs={})
        if any(p.reference != first.reference for p in parts):
            first = replace(first, reference=None)
        return replace(first, **columns, infos=infos, name=name)

    # -- the two views ---------------------------------------------------------------------------------------------------

    def transitions(self) -> Batch:
        """Rows ``[B]`` of ``obs, action, reward, next_obs, terminated, truncated`` and ``row``, their place in the data.

        With ``next_obs``, every row. Without, row i takes the next row's observation: the last row is left out, and so are
        truncated ones, whose successor is not in the file; after a terminated one it is the next episode's first, which a
        target masks. ``truncated`` then says that the row after this one is not the one that followed it.
        """
        if self.next_obs is not None:
            row = np.arange(len(self))
            next_obs = self.next_obs[row]
        else:
            row = np.flatnonzero(~self.truncated[:-1])
            next_obs = self.obs[row + 1]
        ends = (self.terminated | self.truncated)[row]
        ends[:-1] |= np.diff(row) > 1
        ends[-1:] = True
        columns = {k: getattr(self, k)[row] for k in ("obs", "action", "reward", "terminated")}
        columns |= {"next_obs": next_obs, "truncated": ends, "row": row}
        return Batch(**{k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in columns.items()})

    def episodes(self) -> list[slice]:
        """The episodes' rows: cut after every terminated or truncated one; the last may have been cut by the file's end."""
        last = np.flatnonzero(self.terminated | self.truncated) + 1
        edges = np.unique(np.concatenate([[0], last, [len(self)]]))
        return [slice(a, b) for a, b in pairwise(edges.tolist())]

    def returns(self) -> np.ndarray:
        """The undiscounted return of each of the :meth:`episodes`, float64."""
        starts = [rows.start for rows in self.episodes()]
        return np.add.reduceat(self.reward.astype(np.float64), starts)

    def check_order(self) -> None:
        """Raise DatasetError where rows inside an episode do not follow each other: a row's successor is another than the next
        row's observation."""
        if self.next_obs is None:
            return
        apart = jumps(self.obs, self.next_obs) & ~(self.terminated | self.truncated)[:-1]
        if apart.any():
            raise DatasetError(
                f"{self.name}: row {int(apart.argmax())} is inside an episode, and its successor is not the next row's observation: "
                "episodes are of consecutive steps; set truncated where they break off"
            )

    # -- what it stands for ----------------------------------------------------------------------------------------------

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the rows: what a checkpoint knows its data by."""
        digest = hashlib.sha256()
        for name in ("obs", "action", "reward", "terminated", "truncated", "next_obs"):
            x = getattr(self, name)
            digest.update(f"{name} {None if x is None else x.shape}".encode())
            if x is not None:
                digest.update(np.ascontiguousarray(x).data)
        return digest.hexdigest()

    @property
    def references(self) -> tuple[float, float]:
        """Returns of a random and of an expert policy: its own, else D4RL's for the task that ``env_id`` stands for.

        Raises:
            DatasetError: neither is known.
        """
        from .envs.scores import reference

        known = self.reference or (None if self.env_id is None else reference(self.env_id))
        if known is None:
            raise DatasetError(f"{self.name}: no reference returns are known for {self.env_id or 'its environment'}")
        return known

    def score(self, returns: Any) -> Any:
        """:func:`d4rl_score` of returns in the environment's units, by its own references.

        Raises:
            DatasetError: none are known.
        """
        return d4rl_score(returns, self.references)

    def check(self, observation_space: Space | None, action_space: Space | None) -> None:
        """Raise DatasetError where a model of these spaces cannot learn from it."""
        pairs = (
            ("observations", self.obs, self.observation_space, observation_space),
            ("actions", self.action, self.action_space, action_space),
        )
        for what, rows, mine, theirs in pairs:
            if theirs is None:
                continue
            if not isinstance(theirs, spaces.Box):
                raise DatasetError(f"{self.name}: a dataset has {what} of a Box, the model's space is {theirs}")
            if int(np.prod(theirs.shape)) != rows.shape[1]:
                raise DatasetError(f"{self.name}: {what} of {rows.shape[1]} numbers do not fit the model's {theirs}")
            if mine is not None and not same(mine, theirs):
                raise DatasetError(f"{self.name}: its {what} are of {mine}, the model's of {theirs}")
        box = action_space or self.action_space
        low, high = (-1.0, 1.0) if box is None else (box.low.reshape(-1), box.high.reshape(-1))
        slack = 1e-3 * (np.asarray(high) - low)
        outside = ((self.action < low - slack) | (self.action > high + slack)).any(1)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise DatasetError(
                f"{self.name}: the action of row {row}, {self.action[row].tolist()}, is outside "
                f"{box or '[-1, 1]'}: actions must be in the environment's own units"
            )


class Collector(Wrapper):
    """An Env that remembers every step taken in it; :meth:`dataset` is what it saw.

    Raises:
        DatasetError: observations or actions are not a Box.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        for space in (env.observation_space, env.action_space):
            if not isinstance(space, spaces.Box):
                raise DatasetError(f"only observations and actions of a Box are recorded, not {space}")
        self._columns: dict[str, np.ndarray] = {}
        self._steps = 0

    def _keep(self, obs: Obs) -> Obs:
        self._obs = np.array(_host(obs))  # what an Env hands out may be overwritten by its next step
        return obs

    def _begin(self, obs: Obs) -> Obs:
        return self._again(obs, np.ones(self.num_envs, bool))

    def _again(self, obs: Obs, mask: Any) -> Obs:
        if self._steps:  # whoever began them anew ended the episodes that were under way
            column, ended = self._columns["truncated"], self._columns["terminated"][self._steps - 1]
            column[self._steps - 1] |= _host(mask) & ~ended
        return self._keep(obs)

    def step(self, action: torch.Tensor) -> Step:
        self._action = _host(action)
        return super().step(action)

    def step_host(self, action: np.ndarray) -> Step:
        self._action = action
        return super().step_host(action)

    def _after(self, step: Step) -> Step:
        row = dict(obs=self._obs, action=self._action, reward=step.reward, terminated=step.terminated)
        row |= dict(truncated=step.truncated, next_obs=step.next_obs)
        row["valid"] = np.ones(self.num_envs, bool) if step.valid is None else step.valid
        for name, value in row.items():
            value = _host(value)
            column = self._columns.get(name)
            if column is None:
                dtype = np.float32 if value.dtype == np.float64 else value.dtype
                column = self._columns[name] = np.empty((1024, *value.shape), dtype)
            elif self._steps == len(column):
                column = self._columns[name] = np.concatenate([column, np.empty_like(column)])
            column[self._steps] = value
        self._steps += 1
        self._keep(step.obs)
        return step

    def __len__(self) -> int:
        """Steps recorded, summed over the worlds."""
        return self._steps * self.num_envs

    def dataset(self, name: str = "rollouts", steps: int | None = None) -> Dataset:
        """What was recorded: one world's steps after the other's; an episode under way is truncated there.

        Args:
            steps: only the first so many of each world.

        Raises:
            DatasetError: nothing was.
            ValueError: so many steps were not.
        """
        if not self._steps:
            raise DatasetError(f"{name}: nothing was recorded")
        steps = self._steps if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= self._steps:
            raise ValueError(f"steps={steps!r} must be a whole number from 1 to the {self._steps} that were recorded")
        rows = {k: v[:steps] for k, v in self._columns.items()}
        rows["truncated"] = rows["truncated"].copy()
        rows["truncated"][-1] |= ~rows["terminated"][-1]
        rows = {k: np.swapaxes(v, 0, 1).reshape(-1, *v.shape[2:]) for k, v in rows.items()}
        valid = rows.pop("valid")
        return Dataset(
            **{k: v[valid] for k, v in rows.items()}, observation_space=self.observation_space,
            action_space=self.action_space, env_id=self.id, name=name,
        )  # fmt: skip


def d4rl_score(returns: Any, reference: tuple[float, float]) -> Any:
    """100 (R - R_random) / (R_expert - R_random): a number, or an array like the returns.

    Args:
        returns: undiscounted, in the environment's units.
        reference: R_random and R_expert, which score 0 and 100.

    Raises:
        DatasetError: they are the same.
    """
    low, high = reference
    if low == high:
        raise DatasetError(f"reference={(low, high)}: the returns of a random and of an expert policy must differ")
    score = 100 * (np.asarray(returns, np.float64) - low) / (high - low)
    return score if score.ndim else float(score)


def jumps(obs: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
    """Whether each row's successor is another than the next row's observation, by more than 1e-6; a row fewer."""
    apart = np.abs(next_obs[:-1].astype(np.float64) - obs[1:]) > 1e-6
    return apart.any(tuple(range(1, apart.ndim)))


def _host(x: Any) -> np.ndarray:
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
