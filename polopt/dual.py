"""Dual variables: the positive multipliers of constrained objectives, and the part that steps them.

A constraint C(θ) <= ε enters a loss as a Lagrangian. The policy descends ``penalty``, the multiplier descends
``dual_loss``: it rises while the constraint is violated and falls while there is slack.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .part import Part

__all__ = ["DualPart", "Multipliers", "dual_loss", "penalty"]


def penalty(multiplier: Tensor, constraint: Tensor) -> Tensor:
    """sg[λ] C(θ): what the policy descends; ``sg`` stops the gradient."""
    return multiplier.detach() * constraint


def dual_loss(multiplier: Tensor, constraint: Tensor, limit: float | Tensor) -> Tensor:
    """λ (ε - sg[C(θ)]): what the multiplier descends."""
    return multiplier * (limit - constraint.detach())


class Multipliers(nn.Module):
    """Named dual variables, 0-d parameters: ``Multipliers(eta=1.0, alpha=5.0).eta``.

    Register it in the agent's ``nets``, so that it is saved with the model, and step it by a :class:`DualPart`.

    Args:
        floor: the least value a multiplier may take, at least 0.
        ceiling: the largest.
        initial: name -> value at the start, within ``[floor, ceiling]``.

    Raises:
        ValueError: the bounds are not ``0 <= floor < ceiling``, or a start lies outside them.
    """

    def __init__(self, *, floor: float = 1e-8, ceiling: float = math.inf, **initial: float) -> None:
        super().__init__()
        if not 0 <= floor < ceiling:
            raise ValueError(f"floor={floor} and ceiling={ceiling} must be 0 <= floor < ceiling")
        self.floor, self.ceiling = floor, ceiling
        for name, value in initial.items():
            if not floor <= value <= ceiling:
                raise ValueError(f"the multiplier {name}={value} must start in [{floor}, {ceiling}]")
            self.register_parameter(name, nn.Parameter(torch.tensor(float(value))))

    def project_(self) -> None:
        """Clamp every multiplier to ``[floor, ceiling]``, in place."""
        with torch.no_grad():
            for p in self.parameters():
                p.clamp_(self.floor, self.ceiling)


class DualPart(Part):
    """The part of :class:`Multipliers`: its own optimizer, no gradient clipping unless asked, a projection after each step.

    Declare it as ``self.parts["dual"] = DualPart(multipliers, lr=...)``.
    """

    def __init__(
        self, multipliers: Multipliers, optimizer: type[torch.optim.Optimizer] = torch.optim.Adam, **kwargs: Any
    ) -> None:
        super().__init__(multipliers.parameters(), optimizer, **kwargs)
        self.multipliers = multipliers

    def step(self, gradient: tuple[Tensor, ...]) -> Tensor:
        norm = super().step(gradient)
        self.multipliers.project_()
        return norm
