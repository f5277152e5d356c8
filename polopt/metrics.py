"""Figures about a batch, 0-d tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["explained_variance"]


def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    """1 - Var(target - prediction) / Var(target); NaN where the target does not vary."""
    var = target.var(correction=0)
    return torch.where(var > 0, 1 - (target - prediction).var(correction=0) / var, torch.full_like(var, math.nan))
