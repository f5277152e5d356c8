"""Prior data: off-policy methods that draw a share of every batch from transitions they are given before they begin.

The data stays beside the memory of the agent's own experience (:class:`polopt.memory.Mix`), as after Ball et al., 2023,
arXiv 2302.02948, who split each batch in halves. It travels with checkpoints.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from gymnasium import Space, spaces

from .batch import Batch
from .config import hyper
from .dataset import Dataset
from .memory import Mix, Replay
from .off_policy import OffPolicy, OffPolicyConfig
from .spaces import same

__all__ = ["PriorData", "PriorDataConfig"]

EDGE = 1e-5
"""How far the actions of prior datasets and rows keep from the ends of [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class PriorDataConfig(OffPolicyConfig):
    """Hyperparameters of every method with prior data."""

    prior_share: float = hyper(0.5, "[0, 1]", "ρ, share of each batch that is prior data")


class PriorData(OffPolicy):
    """An off-policy agent with :meth:`add_prior`."""

    Config: ClassVar[type[PriorDataConfig]]
    fixed = frozenset({"prior_share"})

    def add_prior(self, data: Dataset | str | os.PathLike[str] | Batch | Replay) -> Self:
        """Learn from these transitions too, ``prior_share`` of every batch.

        Args:
            data: a :class:`polopt.dataset.Dataset`, or what :meth:`learn_offline` takes for one; or a replay of these spaces,
                discount and number of steps (another model's ``memory``); or rows ``[B]`` with ``obs, action, reward,
                next_obs, terminated``, and ``truncated`` where known, in the environment's own units; in their order of time
                where ``n_steps`` is more than 1.

        Raises:
            FileNotFoundError, DatasetError: as :meth:`learn_offline`.
            ValueError: a field is missing, not finite, or of another space; there is nothing in it; it is the second.
        """
        from .dataset_files import load_dataset

        self._need_networks("add_prior")
        self._settle()
        if isinstance(self.memory, Mix):
            raise ValueError("this model has its prior data; give all of it at once")
        if isinstance(data, Mix):
            raise TypeError("the memory of a model with prior data is two: give memory.first or memory.second")
        if not isinstance(data, (Replay, Batch, Dataset, str, os.PathLike)):
            raise TypeError(
                f"prior data must be a Dataset, an id or a path of one, a Batch of rows, or another model's memory, not {type(data).__name__}"
            )
        if isinstance(data, Replay):
            prior = self._checked(data)
        elif isinstance(data, Batch):
            prior = self.as_replay(self._checked_rows(data), EDGE)
        else:
            data = load_dataset(data)
            data.check(self.observation_space, self.action_space)
            prior = self.as_replay(data, EDGE)
        self.memory = Mix(self.memory, prior, self.config.prior_share)
        return self

    def _checked(self, prior: Replay) -> Replay:
        mine = self.memory
        if not len(prior):
            raise ValueError("the prior data is empty")
        for name in ("widths", "gamma", "n_steps", "reward"):
            if getattr(prior, name) != getattr(mine, name):
                raise ValueError(
                    f"prior data of {name} {getattr(prior, name)} does not fit this model's {getattr(mine, name)}"
                )
        for name in ("observation_space", "action_space"):
            if not same(theirs := getattr(prior, name), ours := getattr(mine, name)):
                raise ValueError(f"prior data of {name} {theirs} does not fit this model's {ours}")
        if prior.moments != mine.moments:
            raise ValueError("prior data holds observations that were standardised otherwise than this model's")
        return prior

    def _checked_rows(self, data: Batch) -> Batch:
        needed = ("obs", "action", "reward", "next_obs", "terminated")
        if missing := [name for name in needed if name not in data]:
            raise ValueError(f"prior data has no {', '.join(missing)}; it needs {', '.join(needed)}")
        data = data.only(*needed, *(k for k in ("truncated",) if k in data)).map(torch.as_tensor)
        n, box, seen = len(data.action), self.action_space, self.observation_space
        if not n:
            raise ValueError("the prior data is empty")
        inner = seen.spaces if isinstance(seen, spaces.Dict) else {}
        wanted: list[tuple[str, Any, Space | None]] = [("action", data.action, box)]
        for name in ("obs", "next_obs"):
            if not inner:
                wanted.append((name, data[name], seen))
            elif not isinstance(data[name], dict) or set(data[name]) != set(inner):
                raise ValueError(f"prior data: {name} must be a dict with the keys {list(inner)}")
            else:
                wanted += [(f"{name}[{k!r}]", data[name][k], space) for k, space in inner.items()]
        wanted += [(name, data[name], None) for name in ("reward", "terminated", "truncated") if name in data]
        for name, x, space in wanted:
            shape = (n,) if space is None else (n, *space.shape)
            if tuple(x.shape) != shape:
                raise ValueError(
                    f"prior data: {name} of shape {tuple(x.shape)} does not fit: expected {shape}, as there are {n} actions"
                )
            if x.is_floating_point() and not bool(torch.isfinite(x.sum())):
                raise ValueError(f"prior data: {name} is not finite")
            if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
                count = torch.as_tensor(space.n if isinstance(space, spaces.Discrete) else space.nvec)
                if bool(((x.cpu() < 0) | (x.cpu() >= count)).any()):
                    raise ValueError(f"prior data: {name} has numbers that {space} has not")
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (box.low, box.high))
        action, slack = data.action.cpu().float(), 1e-3 * (high - low)
        if bool(((action < low - slack) | (action > high + slack)).any()):
            raise ValueError(f"prior data: actions lie outside {box}: they must be in the environment's own units")
        cut = data.truncated.bool() if "truncated" in data else torch.zeros(n, dtype=torch.bool)
        return data.only(*needed).plus(action=data.action.cpu(), truncated=cut, terminated=data.terminated.bool())

    def _beside(self, ring: Replay, moved: bool) -> Replay | Mix:
        if not isinstance(self.memory, Mix):
            return ring
        prior = self.memory.second
        return Mix(ring, self._standardized(prior) if moved else prior, self.config.prior_share)

    def _standardized(self, prior: Replay) -> Replay:
        """Rows that came before the moments, as the policy's encoder gives them now; another model may hold the former."""
        again, encoder = self.make_memory(len(prior)), self.policy.encoder
        again.load_state_dict(prior.state_dict())
        again.added += len(again)  # to checkpoints they are new rows
        rows = again.rows()
        for x in (rows.obs, rows.next_obs):
            x.sub_(encoder.mean).div_(encoder.scale)
        return again

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        if self.config.prior_share and not isinstance(self.memory, Mix):
            warnings.warn(
                f"{type(self).__name__} without prior data: every batch is of its own experience; see add_prior",
                stacklevel=2,
            )
        return super().learn(*args, **kwargs)

    def training_state(self) -> dict[str, Any]:
        prior = self.memory.second.state_dict() if isinstance(self.memory, Mix) else None
        return super().training_state() | {"prior": prior}

    def load_training_state(self, state: dict[str, Any]) -> None:
        if state["prior"] is not None and (other := self._other(state.get("of", {}))):
            warnings.warn(
                f"the file's prior data is of {other}: it is left out, and may be given again by add_prior",
                stacklevel=4,
            )
        elif state["prior"] is not None:
            prior = self.make_memory(len(state["prior"]["table"]))
            prior.load_state_dict(state["prior"])
            mine = self.memory.first if isinstance(self.memory, Mix) else self.memory
            self.memory = Mix(mine, prior, self.config.prior_share)
        super().load_training_state(state)
