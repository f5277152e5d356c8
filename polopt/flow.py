"""Flow policies: a velocity field carries noise to actions along an ordinary differential equation.

The convention, here and nowhere else: **t = 1 is noise, t = 0 is the action.** With ε ~ N(0, I) and an action a,

    x_t = t ε + (1 - t) a,      u = dx_t/dt = ε - a                                              (path and its velocity)
    a   = x_t - t u,            ε = x_t + (1 - t) u                                              (its two ends)
    ℓ   = mean_d (v(s, x_t, t) - u)²                                          (conditional flow matching, velocity)
    ℓ_ε = mean_d (ε - x_t - (1 - t) v(s, x_t, t))² = (1 - t)² ℓ               (the same, of the noise)

and an action is sampled by integrating dx = v(s, x, t) dt from x_1 ~ N(0, I) down to x_0. Codes that run time the other
way have 1 - t for t and -v for v.

Source: Lipman et al., 2023, arXiv 2210.02747; Liu et al., 2023, arXiv 2209.03003; the losses as in McAllister et al.,
2025, arXiv 2507.21053.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from .networks import MLP, check_activation, host_forward, lecun_uniform_
from .policy import Encoder, HostAct, Policy, unscale, widths
from .spaces import encoded_size

__all__ = [
    "FlowPolicy", "VelocityField", "action_end", "between", "euler", "grid", "noise_end", "noise_error", "stochastic_euler",
    "time_embedding", "velocity_error",
]  # fmt: skip

Velocity = Callable[[Any, float], Any]
"""v(x, t) of points ``[..., A]`` at one time: what a sampler integrates, the state held fixed."""


def between(action: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = t ε + (1 - t) a, ``[..., A]``; t ``[...]``."""
    t = t.unsqueeze(-1)
    return t * noise + (1 - t) * action


def action_end(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """a as a velocity at x_t foretells it: x_t - t v, ``[..., A]``."""
    return x - t.unsqueeze(-1) * velocity


def noise_end(x: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """ε as a velocity at x_t foretells it: x_t + (1 - t) v, ``[..., A]``."""
    return x + (1 - t.unsqueeze(-1)) * velocity


def velocity_error(velocity: Tensor, action: Tensor, noise: Tensor) -> Tensor:
    """ℓ, the mean over dimensions of (v - (ε - a))², ``[...]``."""
    return (velocity - (noise - action)).square().mean(-1)


def noise_error(velocity: Tensor, action: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """ℓ_ε, the mean over dimensions of (ε - ε̂)², ``[...]``: (1 - t)² times :func:`velocity_error`, so 0 at t = 1."""
    return (noise - noise_end(between(action, noise, t), velocity, t)).square().mean(-1)


def grid(steps: int) -> list[float]:
    """The times 1, 1 - 1/K, ..., 0 of a sampler of K steps."""
    return [1 - k / steps for k in range(steps + 1)]


def euler(velocity: Velocity, x: Any, steps: int) -> Any:
    """x_0 of x_1 ``[..., A]`` by K Euler steps x <- x + (t' - t) v(x, t); NumPy or torch alike."""
    for t, later in pairwise(grid(steps)):
        x = x + (later - t) * velocity(x, t)
    return x


def stochastic_euler(velocity: Velocity, x: Tensor, noise: Tensor, level: float) -> Tensor:
    """x_0 of x_1 by the stochastic equation with the flow's own marginals; :func:`euler` at ``level`` 0.

        σ_t = level √(t / (1 - t)),      dt = t' - t < 0
        x  <- x (1 + σ²/(2t) dt) + v (1 + σ² (1 - t)/(2t)) dt + σ √(-dt) z

    At t = 1, where σ is infinite, it is taken at the next time of the grid. The last step, too, adds noise.

    Args:
        x: x_1, ``[..., A]``.
        noise: z of the K steps, ``[K, ..., A]``.
        level: of the noise, at least 0; 0.7 is common.

    Source: Liu et al. (Flow-GRPO), 2025, arXiv 2505.05470.
    """
    times = grid(len(noise))
    for (t, later), z in zip(pairwise(times), noise, strict=True):
        s = t if t < 1 else times[1]
        variance, dt = level**2 * s / (1 - s), later - t
        x = x * (1 + variance / (2 * t) * dt) + velocity(x, t) * (1 + variance * (1 - t) / (2 * t)) * dt
        x = x + math.sqrt(-variance * dt) * z
    return x


def time_embedding(t: Any, octaves: int = 4) -> Any:
    """[cos(2^k t), sin(2^k t)], k = 0 .. octaves-1, ``[..., 2 octaves]`` of times ``[...]``; NumPy or torch alike."""
    if isinstance(t, Tensor):
        angle = t.unsqueeze(-1) * torch.tensor([2.0**k for k in range(octaves)], dtype=t.dtype, device=t.device)
        return torch.cat([angle.cos(), angle.sin()], -1)
    angle = np.asarray(t, np.float32)[..., None] * np.float32(2) ** np.arange(octaves, dtype=np.float32)
    return np.concatenate([np.cos(angle), np.sin(angle)], -1)


class VelocityField(nn.Module):
    """v(s, x, t): a multilayer perceptron of features of the state, a point and the time's embedding side by side.

    The first layer's share in the state is computed by :meth:`condition` once and serves every point and time asked for.

    Args:
        size: features of the state.
        dim: A.
        hidden: widths of the hidden layers, one at least.
        scale: factor of the output.

    Raises:
        ValueError: there is no hidden layer.
    """

    def __init__(
        self, size: int, dim: int, hidden: Sequence[int], activation_fn: type[nn.Module] = nn.SiLU, *, octaves: int = 4,
        scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not hidden:
            raise ValueError("a velocity field needs a hidden layer: net_arch of the policy is empty")
        self.dim, self.octaves, self.scale = dim, octaves, scale
        first = lecun_uniform_(nn.Linear(size + dim + 2 * octaves, hidden[0]))
        self.condition = nn.Linear(size, hidden[0])
        self.point = nn.Linear(dim + 2 * octaves, hidden[0], bias=False)
        with torch.no_grad():
            self.condition.weight.copy_(first.weight[:, :size])
            self.condition.bias.copy_(first.bias)
            self.point.weight.copy_(first.weight[:, size:])
        self.net = lecun_uniform_(nn.Sequential(activation_fn(), *MLP(hidden[0], hidden[1:], dim, activation_fn)))

    def forward(self, condition: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """v ``[..., A]`` under what :meth:`condition` gave, ``[..., H]``, at points ``[..., A]`` and times ``[...]``."""
        point = torch.cat([x, time_embedding(t, self.octaves)], -1).to(condition.dtype)
        return self.scale * self.net(condition + self.point(point))

    def host(self, times: Sequence[float]) -> Callable[[np.ndarray], Velocity] | None:
        """``features -> v(x, t)`` in NumPy for these times, until the next update; None where a layer has no such form."""
        condition, net = host_forward(self.condition), host_forward(self.net)
        if condition is None or net is None:
            return None
        weight = self.point.weight.detach().numpy().T
        of_x, of_t = weight[: self.dim], time_embedding(np.array(times), self.octaves) @ weight[self.dim :]
        rows, scale = dict(zip(times, of_t, strict=True)), np.float32(self.scale)

        def under(features: np.ndarray) -> Velocity:
            state = condition(features)
            return lambda x, t: scale * net(x @ of_x + (state + rows[t]))

        return under


class FlowPolicy(Policy):
    """A flow over unbounded actions, of which the environment gets tanh(a), scaled to its Box; and values.

    Choices are made of x_1 ~ N(0, I) by ``steps`` Euler steps. The choice without chance starts from x_1 = 0. There is no
    likelihood: a method judges actions by :meth:`velocity` along the paths to them. Initialised LeCun-uniform.

    Args:
        net_arch: hidden widths, ``[32, 32]`` or ``{"pi": [...], "vf": [...]}``.
        steps: K, Euler steps.
        scale: factor of the velocity network's output.
    """

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        *,
        net_arch: Sequence[int] | dict[str, Sequence[int]] = {"pi": (32,) * 4, "vf": (256,) * 5},  # noqa: B006
        activation_fn: type[nn.Module] = nn.SiLU,
        features_extractor_class: type[nn.Module] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        steps: int = 10,
        scale: float = 1.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        arch = widths(net_arch, "pi", "vf")
        check_activation(activation_fn)
        self.steps, self.dim = steps, encoded_size(action_space)
        self.encoder = Encoder(observation_space, features_extractor_class, features_extractor_kwargs)
        self.field = VelocityField(self.encoder.size, self.dim, arch["pi"], activation_fn, scale=scale)
        self.make_critic(
            arch["vf"], activation_fn, share_features_extractor, features_extractor_class, features_extractor_kwargs
        )
        lecun_uniform_(self.critic_trunk)
        lecun_uniform_(self.critic_head)

    def of(self, features: Tensor) -> Tensor:
        return self.field.condition(features)

    def velocity(self, condition: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """v ``[B, n, A]`` under :meth:`forward`'s ``[B, H]`` at n points ``[B, n, A]`` and times ``[B, n]`` a state."""
        return self.field(condition.unsqueeze(-2), x, t)

    def noise(self, shape, generator, device):
        return torch.randn(*shape, self.dim, generator=generator, device=device)

    def act(self, obs, noise):
        condition = self(obs)
        return euler(lambda x, t: self.field(condition, x, x.new_full(x.shape[:-1], t)), noise, self.steps)

    def mode(self, obs):
        """From x_1 = 0 (Yi et al., 2026, arXiv 2602.02481); of a flow with several modes it need not end in one."""
        condition = self(obs)
        return self.act(obs, condition.new_zeros(len(condition), self.dim))

    def in_space(self, action):
        return unscale(self.action_space, action.tanh() if isinstance(action, Tensor) else np.tanh(action))

    def host_act(self) -> HostAct | None:
        under = self.field.host(grid(self.steps)[:-1]) if self.encoder.plain else None
        if under is None:
            return None
        return lambda obs, noise: euler(under(obs.reshape(len(obs), -1)), noise, self.steps)

    def actor_parameters(self) -> list[nn.Parameter]:
        """What decides the actions: encoder and velocity field."""
        return [p for m in (self.encoder, self.field) for p in m.parameters()]
