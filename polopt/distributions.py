"""Distributions over actions, as stateless functions of a parameter tensor ``[..., P]``.

A policy network puts out the parameters; a distribution says what they mean. Parameters are ordinary tensors, so the
behaviour policy's are stored with the batch and exact divergences from it are one call. ``act`` works on NumPy arrays
as on tensors, for the rollout on the host.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

__all__ = [
    "Bernoulli",
    "Categorical",
    "Deterministic",
    "DiagGaussian",
    "Distribution",
    "GaussianMixture",
    "MultiCategorical",
    "SquashedGaussian",
    "distribution_for",
]

LOG_2PI = math.log(2 * math.pi)


class Distribution(ABC):
    """A family of distributions with ``size`` parameters.

    Attributes:
        size: P, the length of the parameter vector.
        noise_size: how many noise variables one sample takes.
        has_kl: whether :meth:`kl` is exact; methods that need one refuse a distribution without.
    """

    size: int
    noise_size: int
    has_kl: bool = True

    @abstractmethod
    def noise(
        self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Noise ``[*shape, noise_size]`` from which :meth:`act` makes samples."""

    @abstractmethod
    def act(self, params: Any, noise: Any) -> Any:
        """A sample ``[..., A]`` (``[...]`` for Categorical); tensors or NumPy arrays alike."""

    @abstractmethod
    def mode(self, params: Any) -> Any:
        """The most likely action; tensors or NumPy arrays alike."""

    @abstractmethod
    def log_prob(self, params: Tensor, action: Tensor) -> Tensor:
        """log p(action), ``[...]``; summed over action dimensions."""

    @abstractmethod
    def entropy(self, params: Tensor) -> Tensor:
        """Entropy [nat], ``[...]``; summed over action dimensions."""

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old || new) [nat], ``[...]``, exact, summed over action dimensions."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form KL")

    def kl_parts(self, old: Tensor, new: Tensor) -> tuple[Tensor, ...]:
        """The KLs [nat] that V-MPO and its kin constrain apart, each ``[...]``; the whole :meth:`kl` by default."""
        return (self.kl(old, new),)


class DiagGaussian(Distribution):
    """N(mean, diag exp(log_std)^2); parameters ``[mean, log_std]``, ``P = 2A``.

    Args:
        dim: A, the number of action dimensions.
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.size, self.noise_size = dim, 2 * dim, dim

    def noise(self, shape, generator, device="cpu"):
        return torch.randn(*shape, self.dim, generator=generator, device=device)

    def act(self, params, noise):
        mean, log_std = params[..., : self.dim], params[..., self.dim :]
        return mean + _exp(log_std) * noise

    def mode(self, params):
        return params[..., : self.dim]

    def log_prob(self, params, action):
        mean, log_std = params.chunk(2, -1)
        z = (action - mean) * torch.exp(-log_std)
        return -(0.5 * z * z + log_std).sum(-1) - 0.5 * LOG_2PI * self.dim

    def entropy(self, params):
        return params[..., self.dim :].sum(-1) + 0.5 * (1 + LOG_2PI) * self.dim

    def kl(self, old, new):
        """sum_i log(s_n/s_o) + (s_o^2 + (m_o - m_n)^2) / (2 s_n^2) - 1/2."""
        (m_o, l_o), (m_n, l_n) = old.chunk(2, -1), new.chunk(2, -1)
        d = l_o - l_n
        z = (m_o - m_n) * torch.exp(-l_n)
        return (-d + 0.5 * (torch.exp(2 * d) + z * z - 1)).sum(-1)

    def kl_parts(self, old, new):
        """KL with only the mean moved (under the old covariance), and with only the covariance moved."""
        (m_o, l_o), (m_n, l_n) = old.chunk(2, -1), new.chunk(2, -1)
        z = (m_o - m_n) * torch.exp(-l_o)
        d = l_o - l_n
        return 0.5 * (z * z).sum(-1), (-d + 0.5 * (torch.exp(2 * d) - 1)).sum(-1)


class SquashedGaussian(Distribution):
    """a = tanh(u), u ~ N(mean, diag exp(log_std)^2): actions in (-1, 1)^A; parameters as :class:`DiagGaussian`.

    log p(a) = log N(u) - sum_i 2 (log 2 - u_i - softplus(-2 u_i)), the stable form of log(1 - tanh(u)^2)
    (Haarnoja et al., 2018, arXiv 1812.05905, app. C).
    """

    def __init__(self, dim: int) -> None:
        self.gaussian = DiagGaussian(dim)
        self.dim, self.size, self.noise_size = dim, 2 * dim, dim

    def noise(self, shape, generator, device="cpu"):
        return self.gaussian.noise(shape, generator, device)

    def act(self, params, noise):
        return _tanh(self.gaussian.act(params, noise))

    def mode(self, params):
        return _tanh(params[..., : self.dim])

    def sample(self, params: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A reparameterised action ``[..., A]`` and its log-probability ``[...]``."""
        u = self.gaussian.act(params, noise)
        return torch.tanh(u), self.gaussian.log_prob(params, u) - _log_det_tanh(u)

    def log_prob(self, params, action):
        edge = 1 - torch.finfo(action.dtype).eps
        u = torch.atanh(action.clamp(-edge, edge))
        return self.gaussian.log_prob(params, u) - _log_det_tanh(u)

    def entropy(self, params):
        raise NotImplementedError(
            "a squashed Gaussian has no closed-form entropy; use the mean of -log_prob of samples"
        )

    def kl(self, old, new):
        """The KL of the Gaussians before squashing: tanh is one-to-one, so it is the same."""
        return self.gaussian.kl(old, new)


class GaussianMixture(Distribution):
    """sum_k w_k N(mean_k, diag exp(log_std_k)^2) with w = softmax(logits); parameters ``[logits, means, log_stds]`` side by
    side, ``P = K + 2KA``. Its KL has no closed form.

    Args:
        dim: A, the number of action dimensions.
        components: K.
    """

    has_kl = False

    def __init__(self, dim: int, components: int) -> None:
        self.dim, self.components = dim, components
        self.size, self.noise_size = components * (1 + 2 * dim), components + dim

    def split(self, params: Any) -> tuple[Any, Any, Any]:
        """Logits ``[..., K]``, means ``[..., K, A]`` and log standard deviations ``[..., K, A]``, views."""
        K, KA, shape = self.components, self.components * self.dim, (*params.shape[:-1], self.components, self.dim)
        return params[..., :K], params[..., K : K + KA].reshape(shape), params[..., K + KA :].reshape(shape)

    def noise(self, shape, generator, device="cpu"):
        """Gumbel noise for the choice of a component, Gaussian noise for the draw from it."""
        gumbel = -torch.empty(*shape, self.components, device=device).exponential_(generator=generator).log_()
        return torch.cat([gumbel, torch.randn(*shape, self.dim, generator=generator, device=device)], -1)

    def act(self, params, noise):
        logits, means, log_stds = self.split(params)
        k = (logits + noise[..., : self.components]).argmax(-1)
        return _row(means, k) + _exp(_row(log_stds, k)) * noise[..., self.components :]

    def mode(self, params):
        """The mean of the likeliest component: not always the density's maximum, which has no closed form."""
        logits, means, _ = self.split(params)
        return _row(means, logits.argmax(-1))

    def log_prob(self, params, action):
        """logsumexp_k (log w_k + log N_k(action))."""
        logits, means, log_stds = self.split(params)
        z = (action.unsqueeze(-2) - means) * torch.exp(-log_stds)
        each = -(0.5 * z * z + log_stds).sum(-1) - 0.5 * LOG_2PI * self.dim
        return (logits.log_softmax(-1) + each).logsumexp(-1)

    def entropy(self, params):
        """H(w) + sum_k w_k H_k, an upper bound, exact where the components do not overlap (Huber et al., 2008)."""
        logits, _, log_stds = self.split(params)
        log_w = logits.log_softmax(-1)
        each = log_stds.sum(-1) + 0.5 * (1 + LOG_2PI) * self.dim
        return (log_w.exp() * (each - log_w)).sum(-1)


class Deterministic(Distribution):
    """a = tanh(params), with noise added and clipped to [-1, 1]: a point, no density; parameters ``[..., A]``."""

    has_kl = False

    def __init__(self, dim: int) -> None:
        self.dim = self.size = self.noise_size = dim

    def noise(self, shape, generator, device="cpu"):
        return torch.zeros(*shape, self.dim, device=device)

    def act(self, params, noise):
        return (_tanh(params) + noise).clip(-1, 1)

    def mode(self, params):
        return _tanh(params)

    def log_prob(self, params, action):
        raise NotImplementedError("a deterministic policy has no density")

    def entropy(self, params):
        raise NotImplementedError("a deterministic policy has no entropy")


class Categorical(Distribution):
    """One of ``n`` choices; parameters are logits ``[..., n]``, actions int64 ``[...]``."""

    def __init__(self, n: int) -> None:
        self.n = self.size = self.noise_size = n

    def noise(self, shape, generator, device="cpu"):
        """Gumbel noise: argmax(logits + noise) is a sample."""
        return -torch.empty(*shape, self.n, device=device).exponential_(generator=generator).log_()

    def act(self, params, noise):
        return (params + noise).argmax(-1)

    def mode(self, params):
        return params.argmax(-1)

    def log_prob(self, params, action):
        return params.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self, params):
        log_p = params.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl(self, old, new):
        """sum_a p_o (log p_o - log p_n)."""
        log_o, log_n = old.log_softmax(-1), new.log_softmax(-1)
        return (log_o.exp() * (log_o - log_n)).sum(-1)


class MultiCategorical(Distribution):
    """Independent choices of ``nvec`` options each; parameters are their logits side by side, actions int64 ``[..., k]``."""

    def __init__(self, nvec: list[int]) -> None:
        self.parts = [Categorical(int(n)) for n in nvec]
        self.cuts = [0]
        for part in self.parts:
            self.cuts.append(self.cuts[-1] + part.n)
        self.size = self.noise_size = self.cuts[-1]

    def _each(self, x):
        return [x[..., a:b] for a, b in zip(self.cuts[:-1], self.cuts[1:], strict=True)]

    def noise(self, shape, generator, device="cpu"):
        return -torch.empty(*shape, self.size, device=device).exponential_(generator=generator).log_()

    def act(self, params, noise):
        return _stack([c.argmax(-1) for c in self._each(params + noise)])

    def mode(self, params):
        return _stack([c.argmax(-1) for c in self._each(params)])

    def log_prob(self, params, action):
        return sum(
            p.log_prob(x, action[..., i]) for i, (p, x) in enumerate(zip(self.parts, self._each(params), strict=True))
        )

    def entropy(self, params):
        return sum(p.entropy(x) for p, x in zip(self.parts, self._each(params), strict=True))

    def kl(self, old, new):
        return sum(p.kl(x, y) for p, x, y in zip(self.parts, self._each(old), self._each(new), strict=True))


class Bernoulli(Distribution):
    """``n`` independent bits; parameters are logits ``[..., n]``, actions 0/1 ``[..., n]``."""

    def __init__(self, n: int) -> None:
        self.n = self.size = self.noise_size = n

    def noise(self, shape, generator, device="cpu"):
        """Logistic noise: logits + noise > 0 is a sample."""
        u = torch.rand(*shape, self.n, generator=generator, device=device).clamp_(1e-7, 1 - 1e-7)
        return u.log() - (-u).log1p()

    def act(self, params, noise):
        return _byte(params + noise > 0)

    def mode(self, params):
        return _byte(params > 0)

    def log_prob(self, params, action):
        a = action.to(params.dtype)
        return (a * logsigmoid(params) + (1 - a) * logsigmoid(-params)).sum(-1)

    def entropy(self, params):
        return (softplus(params) - params * params.sigmoid()).sum(-1)

    def kl(self, old, new):
        p = old.sigmoid()
        return (p * (logsigmoid(old) - logsigmoid(new)) + (1 - p) * (logsigmoid(-old) - logsigmoid(-new))).sum(-1)


def distribution_for(space: Space) -> Distribution:
    """The usual on-policy distribution over an action space.

    Raises:
        ValueError: the space has none.
    """
    if isinstance(space, spaces.Box):
        return DiagGaussian(math.prod(space.shape))
    if isinstance(space, spaces.Discrete):
        return Categorical(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiCategorical(space.nvec.tolist())
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(math.prod(space.shape))
    raise ValueError(
        f"no distribution over the action space {space}; Box, Discrete, MultiDiscrete and MultiBinary have one"
    )


def _log_det_tanh(u: Tensor) -> Tensor:
    return (2 * (math.log(2) - u - softplus(-2 * u))).sum(-1)


def _exp(x):
    return x.exp() if isinstance(x, Tensor) else np.exp(x)


def _tanh(x):
    return x.tanh() if isinstance(x, Tensor) else np.tanh(x)


def _row(x, k):
    """x[..., k, :] of ``[..., K, A]`` and ``[...]``."""
    if isinstance(x, Tensor):
        return torch.take_along_dim(x, k[..., None, None], -2).squeeze(-2)
    return np.take_along_axis(x, k[..., None, None], -2).squeeze(-2)


def _stack(xs):
    return torch.stack(xs, -1) if isinstance(xs[0], Tensor) else np.stack(xs, -1)


def _byte(x):
    return x.to(torch.int8) if isinstance(x, Tensor) else x.astype(np.int8)
