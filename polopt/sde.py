"""State-dependent exploration: noise on the action that is a smooth function of the state and changes seldom.

Raffin, Kober, Stulp, 2020, arXiv 2005.05719 (gSDE), after Rückstieß, Felder, Schmidhuber, 2008. With φ(s) the last hidden
layer of the policy, ``[L]``, and a matrix ε ``[L, A]`` of standard normal numbers that is held for several steps:

    u = μ(s) + φ(s)ᵀ (σ ∘ ε),     so over ε, at each state,     u ~ N( μ(s), diag Σ_l φ_l(s)² σ_l² ).

Where noise drawn anew at every step shakes an actuator, this pushes it one way for a while. To a loss it is a Gaussian whose
standard deviation depends on the state; what differs is how its noise is drawn (:class:`SDEHead`) and for how long it is
held (:func:`held`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .distributions import DiagGaussian, Distribution, SquashedGaussian
from .networks import host_forward
from .policy import Head, HostAct

__all__ = ["SDEHead", "expln", "held", "take_options"]

VARIANCE_FLOOR = 1e-6


def expln(x: Tensor) -> Tensor:
    """exp(x) below zero, 1 + log(1 + x) above: positive, smooth, and slow to grow."""
    return torch.where(x > 0, 1 + torch.log1p(x.clamp(min=0)), torch.exp(x.clamp(max=0)))


class SDEHead(Head):
    """``[mean, log_std]`` of a Gaussian whose noise is a function of the features.

    Args:
        size: L, features of the last hidden layer.
        log_std_init: log σ at the start, of every feature and action.
        full_std: whether σ is ``[L, A]``; else ``[L, 1]``, shared by the actions.
        use_expln: σ = :func:`expln` of its parameter instead of exp.
        learn_features: whether the features learn from what they do to the noise too (SAC), or from the mean alone (PPO).
        clip_mean: the mean is kept within ± this; 0: it is not.

    Raises:
        ValueError: the distribution is no Gaussian, or ``clip_mean`` is no number of at least 0.
    """

    def __init__(
        self,
        size: int,
        distribution: Distribution,
        *,
        log_std_init: float = 0.0,
        full_std: bool = True,
        use_expln: bool = False,
        learn_features: bool = False,
        clip_mean: float = 0.0,
    ) -> None:
        super().__init__(distribution)
        if not isinstance(distribution, (DiagGaussian, SquashedGaussian)):
            raise ValueError(f"use_sde=True needs a policy that is one Gaussian, not a {type(distribution).__name__}")
        if not (isinstance(clip_mean, (int, float)) and clip_mean >= 0):
            raise ValueError(f"clip_mean={clip_mean!r} must be a number of at least 0; 0 does not clip")
        self.size, self.dim = size, distribution.dim
        self.use_expln, self.learn_features, self.clip_mean = use_expln, learn_features, clip_mean
        self.linear = nn.Linear(size, self.dim)
        self.log_std = nn.Parameter(torch.full((size, self.dim if full_std else 1), float(log_std_init)))

    def std(self) -> Tensor:
        """σ of the matrix's entries, ``[L, A]``."""
        std = expln(self.log_std) if self.use_expln else self.log_std.exp()
        return std.expand(self.size, self.dim)

    def scale(self, x: Tensor) -> Tensor:
        """The action's standard deviation at features ``[B, L]``, over all matrices, ``[B, A]``."""
        return (x.square() @ self.std().square() + VARIANCE_FLOOR).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        mean = self.linear(x)
        if self.clip_mean:
            mean = mean.clamp(-self.clip_mean, self.clip_mean)
        return torch.cat([mean, self.scale(self._seen(x)).log()], -1)

    def _seen(self, x: Tensor) -> Tensor:
        return x if self.learn_features else x.detach()

    def spread(self, params: Tensor) -> Tensor:
        """Mean of the matrices' σ, as stable-baselines3 logs it."""
        return self.std().mean()

    def noise(self, shape, generator, device):
        """Matrices ε, ``[*shape, L A]``."""
        return torch.randn(*shape, self.size * self.dim, generator=generator, device=device)

    def row_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """Of features ``[B, L]`` and a matrix each, ``[B, L A]``, or one for all, ``[1, L A]``: what, times the standard
        deviation, is the push at that state, ``[B, A]``."""
        x = self._seen(x)
        drawn = self.std() * noise.unflatten(-1, (self.size, self.dim))
        push = x @ drawn[0] if len(drawn) == 1 else (x.unsqueeze(1) @ drawn).squeeze(1)
        return push / self.scale(x)

    def host_act(self) -> HostAct | None:
        linear, bound = host_forward(self.linear), self.clip_mean
        if linear is None:
            return None
        squash = isinstance(self.distribution, SquashedGaussian)

        def act(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                std = self.std().numpy()
            u = linear(x).clip(-bound, bound) if bound else linear(x)
            u = u + np.matmul(x[:, None], std * noise.reshape(len(x), *std.shape))[:, 0]
            return np.tanh(u) if squash else u

        return act


def held(draw: Callable[[int], Tensor], horizon: int, every: int, at: int = 0, kept: Tensor | None = None) -> Tensor:
    """Noise ``[T, ...]`` of which each draw serves several steps: anew at step 0, and every ``every`` steps if that is positive.

    Args:
        draw: n draws, ``[n, ...]``.
        horizon: T.
        at: how many steps have gone before these.
        kept: the draw of the step before these, ``[1, ...]``.
    """
    step = torch.arange(at, at + horizon)
    block = step // every if every > 0 else torch.zeros_like(step)
    block = block - block[:1]
    goes_on = kept is not None and at > 0 and (every < 1 or at % every > 0)
    drawn = draw(int(block[-1]) + 1 - goes_on) if horizon else draw(0)
    if goes_on and horizon:
        drawn = torch.cat([kept.to(drawn), drawn])
    return drawn.expand(horizon, *drawn.shape[1:]) if len(drawn) == 1 else drawn[block.to(drawn.device)]


def take_options(kwargs: dict[str, Any], options: tuple[str, ...], use_sde: bool) -> dict[str, Any]:
    """Take what ``policy_kwargs`` say of the noise out of them.

    Raises:
        ValueError: they say something, and there is no such noise.
    """
    said = {name: kwargs.pop(name) for name in options if name in kwargs}
    if said and not use_sde:
        raise ValueError(f"policy_kwargs {sorted(said)} belong to use_sde=True")
    return said
