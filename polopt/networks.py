"""Network builders: the one MLP, its initialisation, and its twin in NumPy for acting on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["MLP", "check_activation", "host_forward", "lecun_uniform_", "orthogonal_"]


def check_activation(given: Any) -> None:
    """Raise a TypeError where ``activation_fn`` is no class of ``torch.nn``."""
    if not (isinstance(given, type) and issubclass(given, nn.Module)):
        raise TypeError(f"activation_fn={given!r} must be a class of torch.nn, such as torch.nn.Tanh")


class MLP(nn.Sequential):
    """Linear layers with an activation after each but, where ``out`` is given, the last.

    Args:
        size: input features.
        hidden: widths of the hidden layers.
        out: output features; None ends on the last hidden layer.
        activation: class of the activation.

    Raises:
        TypeError: it is none.
    """

    def __init__(
        self, size: int, hidden: Sequence[int], out: int | None = None, activation: type[nn.Module] = nn.Tanh
    ) -> None:
        check_activation(activation)
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(size, width), activation()]
            size = width
        if out is not None:
            layers.append(nn.Linear(size, out))
            size = out
        super().__init__(*layers)
        self.out_features = size


def orthogonal_(module: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    """Orthogonal weights of this gain and zero biases, in every Linear and Conv layer. Returns the module."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def lecun_uniform_(module: nn.Module) -> nn.Module:
    """Weights uniform within √(3 / fan in), of variance 1 / fan in, and zero biases, in every Linear layer. Returns the
    module."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -bound, bound)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


_ACTIVATIONS: dict[type[nn.Module], Callable[[np.ndarray], np.ndarray]] = {
    nn.Tanh: lambda x: np.tanh(x, out=x),
    nn.ReLU: lambda x: np.maximum(x, 0.0, out=x),
    nn.SiLU: lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),  # exp(-x) would overflow
    nn.ELU: lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
    nn.LeakyReLU: lambda x: np.where(x > 0, x, 0.01 * x),
    nn.Identity: lambda x: x,
}


def host_forward(*modules: nn.Module) -> Callable[[np.ndarray], np.ndarray] | None:
    """The modules, one after the other, as a NumPy function over *views* of their weights; None where a layer has no
    NumPy twin here or does not live on the CPU in float32.

    The views follow in-place updates of the weights. What it saves is torch's dispatch: for a 64-64 network and one
    observation that costs more than the arithmetic.
    """
    steps: list[tuple[np.ndarray, np.ndarray | None] | Callable[[np.ndarray], np.ndarray]] = []
    for module in modules:
        layers = list(module) if isinstance(module, nn.Sequential) else [module]
        for layer in layers:
            if type(layer) is nn.Linear:
                if layer.weight.device.type != "cpu" or layer.weight.dtype != torch.float32:
                    return None
                bias = None if layer.bias is None else layer.bias.detach().numpy()
                steps.append((layer.weight.detach().numpy().T, bias))
            elif type(layer) in _ACTIVATIONS and not (type(layer) in (nn.ELU, nn.LeakyReLU) and _unusual(layer)):
                steps.append(_ACTIVATIONS[type(layer)])
            else:
                return None

    def forward(x: np.ndarray) -> np.ndarray:
        for step in steps:
            if isinstance(step, tuple):
                x = x @ step[0]
                if step[1] is not None:
                    x += step[1]
            else:
                x = step(x)
        return x

    return forward


def _unusual(layer: nn.Module) -> bool:
    return getattr(layer, "alpha", 1.0) != 1.0 or getattr(layer, "negative_slope", 0.01) != 0.01


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])
