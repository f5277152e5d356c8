"""RLPD: Reinforcement Learning with Prior Data.

Ball, Smith, Kostrikov, Levine, 2023, arXiv 2302.02948.

SAC from the first step on, with a data set beside it: a half of every batch is prior data, the critics are normalised layer
by layer (which bounds what they make up outside the data), there are E of them, and many steps of theirs for one of the
actor. With a random subset Z of the lagged critics, drawn once a batch:

    y   = r + γ (1 - d) ( min_{k in Z} Q̄_k(s', a') - α log π(a'|s') ),   a' ~ π(.|s')
    L_Q = mean_k E[ (Q_k(s, a) - y)² ]
    L_π = E[ α log π(ã|s) - mean_k Q_k(s, ã) ]
    L_α = E[ α ] (H - H̄),   H the batch's entropy                                                  (algorithm 1)

Differs from SAC in the four things above, in the mean over the critics in L_π and in H̄ = -dim(A)/2; from offline methods in
having neither pretraining nor pessimism.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any, Self

import torch
from gymnasium import spaces
from torch import Tensor, nn

from polopt.batch import Batch
from polopt.config import hyper
from polopt.critics import QEnsemble
from polopt.dataset import Dataset
from polopt.distributions import SquashedGaussian
from polopt.memory import Mix, Replay
from polopt.off_policy import OffPolicy, OffPolicyConfig, Row
from polopt.policy import GaussianHead
from polopt.spaces import encoded_size

from .sac import as_number, starting_temperature

__all__ = ["RLPD", "xavier_"]

EDGE = 1e-5
"""How far prior actions keep from the ends of [-1, 1]."""


def xavier_(net: nn.Module) -> None:
    """Uniform weights within √(6 / (fan in + fan out)), each member of an ensemble its own, and zero biases."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, QEnsemble):
            for weight, bias in zip(module.weights, module.biases, strict=True):
                bound = math.sqrt(6 / (weight.shape[1] + weight.shape[2]))
                nn.init.uniform_(weight, -bound, bound)
                nn.init.zeros_(bias)


class RLPD(OffPolicy):
    """Reinforcement Learning with Prior Data. Give the data with :meth:`add_prior`."""

    needs_noise = ("noise", "next_noise")
    more_policy_kwargs = frozenset()
    fixed = frozenset({"n_critics", "layer_norm", "ent_coef", "target_entropy", "prior_share"})

    @dataclass(frozen=True, kw_only=True)
    class Config(OffPolicyConfig):
        learning_starts: int = hyper(5000, "[0, inf)", "steps of random actions; updates begin after them")
        gradient_steps: int = hyper(20, "[-1, inf)", "U, critic steps an update; -1: as many as steps were taken")
        policy_delay: int = hyper(20, "[1, inf)", "critic steps per step of actor and temperature; U: the last one's")
        n_critics: int = hyper(10, "[1, inf)", "E")
        subset: int = hyper(
            2, "[1, inf)", "|Z|, lagged critics of which the target takes the minimum; AntMaze, Adroit: 1"
        )
        layer_norm: bool = hyper(True, doc="normalise the critics' hidden layers")
        backup_entropy: bool = hyper(True, doc="the entropy term in the target; AntMaze, Adroit: False")
        prior_share: float = hyper(0.5, "[0, 1]", "ρ, share of each batch that is prior data")
        ent_coef: float | str = hyper(
            "auto", doc='α >= 0, or "auto" (learned from 1), or "auto_0.1" (learned from 0.1)'
        )
        target_entropy: float | str = hyper("auto", doc='H̄ [nat] over the [-1, 1] box; "auto": -dim(A)/2')

        def __post_init__(self) -> None:
            super().__post_init__()
            starting_temperature(self.ent_coef)
            if self.target_entropy != "auto":
                as_number(self.target_entropy, "target_entropy", '"auto"')
            if self.subset > self.n_critics:
                raise ValueError(f"subset={self.subset} must be at most n_critics={self.n_critics}")

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        dim, c = encoded_size(self.action_space), self.config
        head = lambda size, d: GaussianHead(size, d, state_dependent=True)
        self.policy = self.make_actor(SquashedGaussian(dim), net_arch["pi"], activation_fn, head=head)
        self.make_critic(net_arch["qf"], activation_fn, c.n_critics, layer_norm=c.layer_norm)
        xavier_(self.policy)
        xavier_(self.nets["critic"])
        self.nets["target_critic"].load_state_dict(self.nets["critic"].state_dict())
        self.critic_scale = 1 / c.n_critics
        self.part("policy", self.policy.parameters(), **optimizer)
        self.part("critic", self.nets["critic"].parameters(), **optimizer)
        start, self.learned = starting_temperature(c.ent_coef)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor(start).log()})
        self.nets["temperature"] = self.temperature.to(self.device)
        if self.learned:
            self.part("alpha", self.temperature.parameters(), **optimizer)
        self.entropy = float(-dim / 2 if c.target_entropy == "auto" else c.target_entropy)

    def due(self, n: int) -> tuple[str, ...]:
        return ("policy", "targets") if n % self.c.policy_delay == 0 else ("targets",)

    def draw(self, due: tuple[str, ...]) -> Batch:
        chosen = torch.randperm(self.config.n_critics, generator=self.generator, device=self.device)
        return super().draw(due).plus(subset=chosen[: self.config.subset])

    def evaluate(self, b: Batch, due: tuple[str, ...]) -> Batch:
        b = b.plus(alpha=self.temperature["log_alpha"].detach().exp())
        if "policy" not in due:
            return b
        action, log_prob = self.policy.distribution.sample(self.policy.of(b.obs), b.noise)
        return b.plus(new_action=action, new_log_prob=log_prob)

    def next_value(self, b: Batch) -> Tensor:
        action, log_prob = self.policy.distribution.sample(self.policy.of(b.next_obs), b.next_noise)
        value = self.nets["target_critic"](b.next_obs, action, members=b.subset).amin(0)
        return value - b.alpha * log_prob if self.c.backup_entropy else value

    def policy_loss(self, b: Batch) -> Tensor:
        return (b.alpha * b.new_log_prob - self.nets["critic"](b.obs, b.new_action).mean(0)).mean()

    def alpha_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_α = α (H - H̄)."""
        log["ent_coef"] = b.alpha
        entropy = -b.new_log_prob.mean().detach()
        log["ent_coef_loss"] = loss = self.temperature["log_alpha"].exp() * (entropy - self.entropy)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        rows = super().table(due)
        return [*rows, ("alpha", self.alpha_loss)] if self.learned and "policy" in due else rows

    # -- prior data ------------------------------------------------------------------------------------------------

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
        from polopt.dataset_files import load_dataset

        if isinstance(self.memory, Mix):
            raise ValueError("this model has its prior data; give all of it at once")
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
        if mine.read is not None:
            raise ValueError(
                "a model that normalises takes prior data as a dataset or as rows, not another model's memory"
            )
        if not len(prior):
            raise ValueError("the prior data is empty")
        for name in ("widths", "gamma", "n_steps", "reward"):
            if getattr(prior, name) != getattr(mine, name):
                raise ValueError(
                    f"prior data of {name} {getattr(prior, name)} does not fit this model's {getattr(mine, name)}"
                )
        return prior

    def _checked_rows(self, data: Batch) -> Batch:
        needed = ("obs", "action", "reward", "next_obs", "terminated")
        if missing := [name for name in needed if name not in data]:
            raise ValueError(f"prior data has no {', '.join(missing)}; it needs {', '.join(needed)}")
        n, box = len(data), self.action_space
        if not n:
            raise ValueError("the prior data is empty")
        shapes = {"obs": self.observation_space, "next_obs": self.observation_space, "action": box}
        for name, space in shapes.items():
            if isinstance(space, spaces.Box) and tuple(data[name].shape) != (n, *space.shape):
                raise ValueError(
                    f"prior data: {name} of shape {tuple(data[name].shape)} does not fit {space}: expected {(n, *space.shape)}"
                )
        for name in needed[:-1]:
            if isinstance(data[name], Tensor) and not bool(torch.isfinite(data[name].sum())):
                raise ValueError(f"prior data: {name} is not finite")
        low, high = (torch.as_tensor(x, dtype=torch.float32) for x in (box.low, box.high))
        action = 2 * (data.action.cpu().float() - low) / (high - low) - 1
        if float(action.abs().max()) > 1.001:
            raise ValueError(f"prior data: actions lie outside {box}: they must be in the environment's own units")
        cut = data.truncated.bool() if "truncated" in data else torch.zeros(n, dtype=torch.bool)
        return data.only(*needed).plus(action=data.action.cpu(), truncated=cut, terminated=data.terminated.bool())

    def _take_dataset(self, dataset: Dataset) -> None:
        prior = self.memory.second if isinstance(self.memory, Mix) else None
        super()._take_dataset(dataset)
        if prior is not None:
            self.memory = Mix(self.memory, prior, self.config.prior_share)

    def learn(self, *args: Any, **kwargs: Any) -> Self:
        if self.config.prior_share and not isinstance(self.memory, Mix):
            warnings.warn("RLPD without prior data: every batch is of its own experience; see add_prior", stacklevel=2)
        return super().learn(*args, **kwargs)

    def training_state(self) -> dict[str, Any]:
        prior = self.memory.second.state_dict() if isinstance(self.memory, Mix) else None
        return super().training_state() | {"prior": prior}

    def load_training_state(self, state: dict[str, Any]) -> None:
        if state["prior"] is not None:
            prior = self.make_memory(len(state["prior"]["table"]))
            prior.load_state_dict(state["prior"])
            self.memory = Mix(self.memory, prior, self.config.prior_share)
        super().load_training_state(state)
