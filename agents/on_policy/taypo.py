"""TayPO: Taylor Expansion Policy Optimization.

Tang, Valko, Munos, 2020, ICML, arXiv 2003.06259.

J(π) expanded around the data policy μ, with ρ_t = π(a_t|s_t) / μ(a_t|s_t): the k-th term has k factors ρ - 1, at k
steps of one trajectory,

    J(π) = J(μ) + Σ_k U_k,    U_k = E_μ[ Σ_{t1 < ... < tk} γ^{tk} Π_i (ρ_{ti} - 1) Q_μ(s_tk, a_tk) ]        (expansion)

U_1 is the surrogate of TRPO and PPO; U_2 adds the leading effect of π on the distribution of states. Here, with A in
Q's place, the first term clipped as PPO's, and the discount counted from the first factor on,

    L(θ) = E[ min(ρ A, clip(ρ) A) + c Σ_{k=2..K} C^(k-1)_t x_t A_t ],     x = clip(ρ, 1 - ε, 1 + ε) - 1     (objective)
    C^(0) = 1,   C^(k)_{t+1} = γ (1 - done_t) ( C^(k)_t + x_t C^(k-1)_t ),   |C| bounded                    (carry)

Differs from PPO in the terms beyond the first, and so in its minibatches: whole stretches of steps, not shuffled rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from polopt.batch import Batch
from polopt.config import hyper
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.schedule import Schedule

from .ppo import surrogate

__all__ = ["TayPO", "carry", "higher_orders", "pair_weights"]


def pair_weights(done: Tensor, gamma: float, segment: int, window: int) -> Tensor:
    """γ^{t - u} for each earlier step u of step t's segment in the same episode, at most ``window`` before it, else 0.

    The rows ``[B]`` are cut into segments of ``segment`` steps; returns ``[B, segment]``, a weight for each u of one.
    """
    step = torch.arange(segment, device=done.device)
    lag = step[:, None] - step
    decay = torch.where((lag > 0) & (lag <= window), float(gamma) ** lag.clamp(min=0), 0.0)
    cut = pad(done.long(), (0, -len(done) % segment)).view(-1, segment)
    episode = cut.cumsum(1) - cut
    same = episode[:, :, None] == episode[:, None, :]
    return (same * decay).flatten(0, 1)[: len(done)]


def carry(x: Tensor, weights: Tensor) -> Tensor:
    """C_t = Σ_u weight(t, u) x_u, ``[B]``: the recursion C_{t+1} = γ (1 - done_t)(C_t + x_t), C_0 = 0, solved."""
    short = -len(x) % weights.shape[-1]
    segments = pad(x, (0, short)).view(-1, weights.shape[-1], 1)
    return (pad(weights, (0, 0, 0, short)).unflatten(0, segments.shape[:2]) @ segments).flatten()[: len(x)]


def higher_orders(x: Tensor, advantage: Tensor, weights: Tensor, order: int, bound: float = torch.inf) -> Tensor:
    """Σ_{k=2..K} C^(k-1)_t x_t A_t, ``[B]``, with |C| held to ``bound``."""
    total, c = torch.zeros_like(x), torch.ones_like(x)
    for _ in range(order - 1):
        c = carry(x * c, weights).clamp(-bound, bound)
        total = total + c * x * advantage
    return total


class TayPO(OnPolicy):
    """Taylor Expansion Policy Optimization of order K, clipped."""

    log_ratio_bound = 10.0

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        batch_size: int | None = hyper(256, "[1, inf)", "rows of a minibatch, whole segments; None: the whole rollout")
        clip_range: Schedule = hyper(0.2, "[0, inf)", "ε, clip of every factor ρ - 1; 0.2")
        order: int = hyper(2, "[1, inf)", "K, terms of the expansion; 1 is PPO; the paper's 2")
        coef: float = hyper(1.0, "[0, inf)", "c, weight of the terms beyond the first; 1 in theory")
        segment: int = hyper(128, "[1, inf)", "L, steps of a segment; at most a minibatch")
        window: int = hyper(128, "[1, inf)", "steps between two neighbouring factors, at most")
        carry_bound: float = hyper(1.0, "(0, inf)", "bound of |C|; 5 ε, ours")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.batch_size is not None and self.batch_size % self.length:
                raise ValueError(f"TayPO: batch_size={self.batch_size} must be a multiple of segment={self.segment}")

        @property
        def length(self) -> int:
            """Steps of a segment: a minibatch smaller than ``segment`` is one segment."""
            return min(self.segment, self.batch_size or self.segment)

    def rows(self, b: Batch) -> Batch:
        """World by world, in order of time; ``weights`` link the rows of an episode within a segment."""
        done = b.terminated | b.truncated
        done[-1] = True
        b = super().rows(b.plus(done=done).map(lambda x: x.transpose(0, 1)))
        return b.plus(weights=pair_weights(b.done, self.c.gamma, self.config.length, self.c.window))

    def minibatches(self, b: Batch) -> Iterator[Batch]:
        """Segments in a fresh random order; what is left over after the last whole one ends the last minibatch."""
        L, rows = self.config.length, torch.arange(len(b), device=self.device)
        head, rest = rows[: len(b) // L * L].view(-1, L), rows[len(b) // L * L :]
        order = head[torch.randperm(len(head), generator=self.generator, device=self.device)]
        yield from b.take(torch.cat([order.flatten(), rest])).split(self.c.batch_size or len(b))

    def policy_loss(self, b: Batch) -> Tensor:
        x = b.ratio.clamp(1 - self.c.clip_range, 1 + self.c.clip_range) - 1
        first = surrogate(b.ratio, b.advantage, self.c.clip_range)
        further = higher_orders(x, b.advantage, b.weights, self.c.order, self.c.carry_bound)
        return -(first + self.c.coef * further).mean()
