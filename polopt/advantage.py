"""Advantages and returns of rollouts ``[T, N]``. Time runs along the first axis."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["elapsed", "finished", "gae", "td_lambda_sum"]


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
    valid: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimates ``[T, N]`` (Schulman et al., 2016, arXiv 1506.02438, eq. 16).

        δ_t = r_t + γ (1 - terminated_t) V(s'_t) - V(s_t)
        A_t = δ_t + γλ (1 - terminated_t)(1 - truncated_t) A_{t+1}

    ``terminated`` cuts the bootstrap and the trace, ``truncated`` only the trace: ``next_value`` is the value of the true
    successor. The rollout's last row is cut by the data's end, which needs no flag.

    Args:
        value: V(s_t), ``[T, N]``.
        next_value: V of the true successor of step t, ``[T, N]``.
        gae_lambda: λ in [0, 1]; 1 is Monte Carlo less V, 0 the TD error.
        valid: where False, the row is no transition: its advantage is 0 and no trace passes through it.
    """
    delta = reward + gamma * next_value * ~terminated - value
    carry = (~(terminated | truncated)).to(delta.dtype) * (gamma * gae_lambda)
    if valid is not None:
        delta, carry = delta * valid, carry * valid
    return td_lambda_sum(delta, carry)


def td_lambda_sum(delta: Tensor, carry: Tensor) -> Tensor:
    """x_t = delta_t + carry_t x_{t+1}, with x_T = 0; ``[T, N]``."""
    if delta.device.type == "cpu":
        # A loop over rows in NumPy: torch's dispatch would cost ten times the arithmetic.
        d, c = delta.detach().numpy(), carry.detach().numpy()
        out = np.empty_like(d)
        x = np.zeros_like(d[0])
        for t in range(len(d) - 1, -1, -1):
            x = d[t] + c[t] * x
            out[t] = x
        return torch.from_numpy(out)
    out = torch.empty_like(delta)
    x = torch.zeros_like(delta[0])
    for t in range(len(delta) - 1, -1, -1):
        x = torch.addcmul(delta[t], carry[t], x)
        out[t] = x
    return out


def finished(done: Tensor) -> Tensor:
    """Whether each step's episode ends within the rollout, ``[T, N]`` bool."""
    return done.flip(0).int().cummax(0).values.flip(0).bool()


def elapsed(done: Tensor, valid: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Steps since each step's episode began, ``[T + 1, N]`` int64; the last row is of the step to come.

    Args:
        done: whether the episode ended with the step, ``[T, N]`` bool.
        valid: False where a row is no step, ``[T, N]`` bool.
        start: steps ``[N]`` of the episodes that were running when the rollout began; None: they began with it.
    """
    age = [torch.zeros_like(done[0], dtype=torch.int64) if start is None else start]
    for t in range(len(done)):
        age.append(torch.where(done[t], 0, age[-1] + (1 if valid is None else valid[t].long())))
    return torch.stack(age)
