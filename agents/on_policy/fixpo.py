"""FixPO: Guaranteed Trust Region Optimization via Two-Phase KL Penalization.

Zentner, Puri, Huang, Sukhatme, 2023, arXiv 2312.05405.

A KL penalty whose coefficient chases the largest KL of a minibatch almost keeps a trust region by itself. What still
lies outside after the epochs is repaired by a few steps on the KL alone, so that every update ends inside, at every
state of the batch, with KL_i = KL(π_old(.|s_i) || π_θ(.|s_i)) and r = π_θ(a|s) / π_old(a|s):

    L(θ) = -E[ r A ] + sg[β] E[ KL_i ],     L(β) = β (ε_KL - C_β sg[ max_i KL_i ]),  β >= 0       (primary phase)
    while any max_i KL_i > ε_KL:  θ descends E[ KL_i ]                                            (fixup phase)
    max_i KL_i <= ε_KL over the whole batch, after every update                                   (guarantee)

The fixup's optimizer starts fresh: no momentum of the primary phase pushes outwards. Should its sweeps run out, the
policy goes back on the line towards π_old, where the KL is 0: the guarantee holds always.

Differs from PPOPenalty in bounding the largest KL, not the mean, and in enforcing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.dual import DualPart, Multipliers, dual_loss, penalty
from polopt.graph import static
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.part import retreat_

__all__ = ["FixPO"]


class FixPO(OnPolicy):
    """Two-phase KL penalization with a hard guarantee on the largest KL."""

    needs_kl = True
    needs_disjoint = True

    fixed = frozenset({"beta", "beta_lr"})
    starts = frozenset({("beta", "dual")})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        max_kl: float = hyper(0.5, "(0, inf)", "ε_KL [nat], bound on the KL at every state; HalfCheetah: 0.5, else 0.2")
        beta_scale: float = hyper(3.0, "[1, inf)", "C_β: the primary phase aims at ε_KL / C_β; HalfCheetah: 3, else 2")
        beta: float = hyper(1.0, "[0, inf)", "β at the start; 1")
        beta_lr: float = hyper(0.01, "[0, inf)", "learning rate of β, Adam's; 0.01")
        fixup_batch_size: int = hyper(1024, "[1, inf)", "rows of a fixup minibatch; 1024")
        fixup_sweeps: int = hyper(100, "[0, inf)", "sweeps over the batch after which the policy goes back instead")

    def make_parts(self, **optimizer: Any) -> None:
        self.make_split_parts(**optimizer)
        self.dual = Multipliers(beta=self.config.beta, floor=0.0).to(self.device)
        self.nets["dual"] = self.dual
        self.parts["dual"] = DualPart(self.dual, lr=self.config.beta_lr)

    def table(self):
        return [*super().table(), ("dual", self.beta_loss)]

    def policy_loss(self, b: Batch) -> Tensor:
        return -(b.ratio * b.advantage).mean() + penalty(self.dual.beta, b.kl.mean())

    def beta_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """β (ε_KL - C_β max_i KL_i)."""
        log["beta"] = self.dual.beta.clone()
        return dual_loss(self.dual.beta, self.c.beta_scale * b.kl.max(), self.c.max_kl)

    def improve(self, b: Batch) -> dict[str, Tensor]:
        old = self.parts["policy"].vector()
        return super().improve(b) | self.fixup(b, old)

    def fixup(self, b: Batch, old: Tensor) -> dict[str, Tensor]:
        """Bring every row of the batch inside. Returns the steps it took and how much of the update was kept."""
        steps = 0
        with self.parts["policy"].fresh():
            for _ in range(self.c.fixup_sweeps):
                before = steps
                for minibatch in b.split(self.c.fixup_batch_size):
                    if not self.inside(minibatch):
                        self.fixup_step(minibatch)
                        steps += 1
                if steps == before:
                    break
        kept = retreat_(self.parts["policy"], old, lambda: self.inside(b))
        return {"fixup_steps": torch.tensor(float(steps)), "fixup_kept": torch.tensor(kept)}

    @static
    def fixup_step(self, b: Batch) -> Tensor:
        """One step down the mean KL alone, and one of β. Returns the largest KL before it."""
        kl = self.kl(b)
        self.parts["policy"].descend(kl.mean())
        self.parts["dual"].descend(self.beta_loss(b.plus(kl=kl), {}))
        return kl.detach().max()

    @torch.no_grad()
    def inside(self, b: Batch) -> bool:
        """Whether max_i KL_i <= ε_KL; one wait for the device."""
        return bool(self.kl(b).max() <= self.c.max_kl)
