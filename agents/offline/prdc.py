"""PRDC: Policy Regularization with Dataset Constraint.

Ran, Li, Zhang, Zhang, Yu, 2023, arXiv 2306.06569.

TD3+BC ties π(s) to the one action that was recorded in s, even where a better one was recorded in almost the same state. Here
it is tied to the nearest recorded pair, the distance of states weighted by β: any action seen near s may be picked, and what
was seen nowhere near costs (sec. 3):

    d_β(s, a) = min over (ŝ, â) in D of | (β s, a) - (β ŝ, â) |                                     (eq. 2)
    L_π = -λ E[ Q_1(s, π(s)) ] + E[ (π(s) - a*)² ],      λ = α / E[ |Q_1(s, π(s))| ]                (eq. 7)

a* is the action of the nearest pair, without gradient; the state's part of d_β does not depend on π. A batch's states are rows
of D, so the pairs near them in state are listed before training (``polopt/neighbours.py``), and a query only compares actions.
The answer is exact always: certified, or else searched. Online, D is the memory as it grows, and every query measures all of it.
Differs from TD3BC in a*, which there is the recorded action itself: as β grows the two are one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.deterministic import TwinDelayed
from polopt.memory import Replay
from polopt.neighbours import Index, Neighbours, scan

from .td3_bc import TD3BCConfig, leashed

__all__ = ["PRDC"]


class PRDC(TwinDelayed):
    """TD3 on a leash to the nearest recorded pair. Learns by :meth:`learn_offline`."""

    fixed = frozenset({"beta", "neighbours", "reach"})

    @dataclass(frozen=True, kw_only=True)
    class Config(TD3BCConfig):
        alpha: float = hyper(2.5, "[0, inf)", "α, weight of the value; HalfCheetah: 40, AntMaze: 7.5")
        beta: float = hyper(2.0, "[0, inf)", "β, weight of a state's distance; AntMaze: 7.5")
        neighbours: int = hyper(64, "[1, inf)", "most rows listed beside each; decides the speed only")
        reach: float = hyper(
            1.0,
            "[0, 2]",
            "listed are states within reach √A / β; decides the speed only; a large α wants 2, slow to list",
        )

    def pretrain(self, memory: Replay) -> None:
        data, c = memory.rows(), self.config
        # Certified is every action within `reach` of a listed one, root mean square over its entries: with 2, any action.
        radius = c.reach * math.sqrt(data.action.shape[-1]) / c.beta if c.beta else 0.0
        neighbours = Neighbours.cached(data.obs.cpu().numpy(), c.neighbours, radius)
        self.index = Index(data.obs, data.action, c.beta, neighbours)

    def nearest(self, b: Batch) -> tuple[Tensor, Tensor]:
        """Rows ``[B]`` of the memory whose pairs are nearest to (s, π(s)), and which of them took no search."""
        with torch.no_grad():
            u = self.action(b.obs)
        if self.dataset is not None:
            return self.index.nearest(b.index, u)
        data = self.memory.rows()
        row = scan(data.obs, data.action, b.obs, u, self.config.beta)
        return row, torch.zeros(len(row), dtype=torch.bool)

    def draw(self, due: tuple[str, ...]) -> Batch:
        b = super().draw(due)
        if "policy" not in due:
            return b
        row, certified = self.nearest(b)
        return b.plus(nearest=self.memory.rows().action[row], certified=certified.float().mean())

    def policy_loss(self, b: Batch) -> Tensor:
        u = self.action(b.obs)
        return leashed(self.first_value(b.obs, u), self.c.alpha, (u - b.nearest).square())

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        log["certified"] = b.certified
        return super().actor_loss(b, log)
