"""Action values: E critics as one batched network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

__all__ = ["QEnsemble"]

_GAINS = {nn.ReLU: torch.relu, nn.Tanh: torch.tanh}


class QEnsemble(nn.Module):
    """E independent multilayer perceptrons over the same input, one batched product a layer.

    Each member is initialised by itself, as ``torch.nn.Linear`` is (uniform within 1/sqrt(fan in)).

    Args:
        size: input features: observation and action side by side.
        hidden: widths of the hidden layers.
        members: E.
        out: outputs a member; 1 for Q(s, a), the number of actions for Q(s, .).
        layer_norm: normalise every hidden layer before its activation (RLPD).
    """

    def __init__(
        self, size: int, hidden: Sequence[int], members: int = 2, *, out: int = 1,
        activation_fn: type[nn.Module] = nn.ReLU, layer_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.members, self.out, self.layer_norm = members, out, layer_norm
        self.activation = _GAINS.get(activation_fn) or activation_fn()
        widths = [size, *hidden, out]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for a, b in pairwise(widths):
            bound = 1 / math.sqrt(a)
            self.weights.append(nn.Parameter(torch.empty(members, a, b).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, b).uniform_(-bound, bound)))
        if layer_norm:
            for width in hidden:
                self.gains.append(nn.Parameter(torch.ones(members, 1, width)))
                self.shifts.append(nn.Parameter(torch.zeros(members, 1, width)))

    def forward(self, *inputs: Tensor, members: Tensor | slice | None = None) -> Tensor:
        """``[E, B]`` of inputs ``[B, .]``, or each member's own ``[E, B, .]``, side by side; ``[E, B, out]`` where there
        are several outputs.

        Args:
            members: indices ``[Z]`` of the members that are asked, or a slice of them; None: all.
        """
        some = (lambda p: p) if members is None else (lambda p: p[members])
        x = torch.cat(inputs, -1)
        if x.ndim == 2:
            x = x.expand(len(some(self.weights[0])), *x.shape)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i == last and self.out == 1:  # a batched product of one column costs several times this sum
                return (x * some(weight).mT).sum(-1) + some(bias).squeeze(-1)
            x = torch.baddbmm(some(bias), x, some(weight))
            if i < last:
                if self.layer_norm:
                    x = layer_norm(x, x.shape[-1:]) * some(self.gains[i]) + some(self.shifts[i])
                x = self.activation(x)
        return x
