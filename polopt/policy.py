"""Policies: observations to actions and to values. The actor-critic over a distribution is the common one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from .distributions import DiagGaussian, Distribution, GaussianMixture
from .networks import MLP, host_forward, orthogonal_
from .spaces import encode, encoded_size, is_image

__all__ = ["ActorCritic", "Encoder", "GaussianHead", "Head", "LinearHead", "MixtureHead", "Policy"]


HostAct = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Encoder(nn.Module):
    """Observations of a space -> flat float vectors, or the user's ``features_extractor_class`` of them."""

    def __init__(
        self, space: Space, extractor: type[nn.Module] | None = None, kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.space = space
        self.extractor = None if extractor is None else extractor(_channels_first(space), **(kwargs or {}))
        self.size: int = encoded_size(space) if self.extractor is None else int(self.extractor.features_dim)
        self.register_buffer("like", torch.zeros(()), persistent=False)  # follows .double() and .to(device)
        self.standardized = False

    def standardize(self) -> None:
        """Give out (x - mean) / scale of the vectors, with moments that are saved with the model: 0 and 1 until they are
        written into the buffers ``mean`` and ``scale``."""
        self.standardized = True
        self.register_buffer("mean", torch.zeros(self.size))
        self.register_buffer("scale", torch.ones(self.size))

    def forward(self, obs: Any) -> Tensor:
        if self.extractor is not None:
            return self.extractor(_preprocess(self.space, obs))
        x = encode(self.space, obs, self.like.dtype)
        return (x - self.mean) / self.scale if self.standardized else x

    @property
    def has_moments(self) -> bool:
        """Whether it standardises, by moments that have been written."""
        return self.standardized and bool(self.mean.any() or (self.scale != 1).any())

    def moments(self) -> str | None:
        """A word that tells the moments of two encoders apart; None where it has none."""
        if not self.has_moments:
            return None
        return hashlib.sha256(torch.cat([self.mean, self.scale]).cpu().numpy().tobytes()).hexdigest()[:12]

    @property
    def plain(self) -> bool:
        """Whether it hands float vectors through as they are, so that the host may skip it."""
        return self.extractor is None and isinstance(self.space, spaces.Box) and not self.standardized


class Head(nn.Module):
    """Base of what turns features ``[B, L]`` into the parameters ``[B, P]`` of a distribution."""

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        """All that is random in choices ``[*shape]``, with one axis more: the distribution's noise by default."""
        return self.distribution.noise(shape, generator, device)

    def row_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the distribution takes for its noise at features ``[B, L]``, of :meth:`noise`; the same by default."""
        return noise

    def spread(self, params: Tensor) -> Tensor | None:
        """What is logged as ``std`` of parameters ``[B, P]``, 0-d; None where there is none."""
        return None

    def host_act(self) -> HostAct | None:
        """``(features, noise) -> action`` in NumPy; None where there is no such form."""
        return None


class LinearHead(Head):
    """Distribution parameters as a linear map of the features (logits)."""

    def __init__(self, size: int, distribution: Distribution) -> None:
        super().__init__(distribution)
        self.linear = nn.Linear(size, distribution.size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)

    def host_act(self) -> HostAct | None:
        forward, distribution = host_forward(self.linear), self.distribution
        return None if forward is None else lambda x, noise: distribution.act(forward(x), noise)


class GaussianHead(Head):
    """``[mean, log_std]`` of a Gaussian: the mean linear in the features; log_std free parameters, or linear too.

    Args:
        state_dependent: whether log_std depends on the observation; it is then clamped to ``bounds``.
    """

    def __init__(
        self,
        size: int,
        distribution: Distribution,
        log_std_init: float = 0.0,
        state_dependent: bool = False,
        bounds: tuple[float, float] = (-20.0, 2.0),
    ) -> None:
        super().__init__(distribution)
        dim = distribution.size // 2
        self.bounds = bounds
        self.linear = nn.Linear(size, dim)
        self.log_std = (
            nn.Linear(size, dim) if state_dependent else nn.Parameter(torch.full((dim,), float(log_std_init)))
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = self.linear(x)
        log_std = (
            self.log_std(x).clamp(*self.bounds) if isinstance(self.log_std, nn.Linear) else self.log_std.expand_as(mean)
        )
        return torch.cat([mean, log_std], -1)

    def spread(self, params: Tensor) -> Tensor:
        """Mean standard deviation of the Gaussians, before any squashing."""
        return params.chunk(2, -1)[1].exp().mean()

    def host_act(self) -> HostAct | None:
        mean, distribution = host_forward(self.linear), self.distribution
        if mean is None:
            return None
        if not isinstance(self.log_std, nn.Linear):
            log_std = self.log_std.detach().numpy()
            if type(distribution) is DiagGaussian:
                return lambda x, noise: mean(x) + np.exp(log_std) * noise
            return lambda x, noise: distribution.act(_beside(mean(x), log_std), noise)
        log_std, (low, high) = host_forward(self.log_std), self.bounds
        return lambda x, noise: distribution.act(np.concatenate([mean(x), log_std(x).clip(low, high)], -1), noise)


class MixtureHead(Head):
    """``[logits, means, log_stds]`` of a Gaussian mixture: the router's logits and every component's mean linear in the
    features, log_stds free parameters.

    The means start apart, by about a standard deviation: were they equal, every component would get the same gradient
    and they would stay one. The router reads the features but does not shape them: no gradient of the logits goes past its own weights.
    """

    def __init__(self, size: int, distribution: GaussianMixture, log_std_init: float = 0.0) -> None:
        super().__init__(distribution)
        outputs = distribution.components * distribution.dim
        self.linear = nn.Linear(size, outputs, bias=False)
        self.router = nn.Linear(size, distribution.components)
        apart = torch.randn(distribution.components, distribution.dim)
        apart -= apart.mean(0)
        apart /= apart.square().mean(0).sqrt().clamp(min=1e-6)
        self.offset = nn.Parameter(math.exp(log_std_init) * apart.flatten())
        self.log_std = nn.Parameter(torch.full((outputs,), float(log_std_init)))

    def forward(self, x: Tensor) -> Tensor:
        means = self.linear(x) + self.offset
        return torch.cat([self.router(x.detach()), means, self.log_std.expand_as(means)], -1)

    def host_act(self) -> HostAct | None:
        router, linear, distribution = host_forward(self.router), host_forward(self.linear), self.distribution
        if router is None or linear is None:
            return None
        offset, log_std = self.offset.detach().numpy(), self.log_std.detach().numpy()

        def act(x: np.ndarray, noise: np.ndarray) -> np.ndarray:
            return distribution.act(np.concatenate([router(x), _beside(linear(x) + offset, log_std)], -1), noise)

        return act


def _beside(means: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    return np.concatenate([means, np.broadcast_to(log_std, means.shape)], -1)


class Policy(nn.Module):
    """Base of every policy: it encodes observations, may have a value network, and answers to stable-baselines3's names.

    A kind of policy adds its actor between ``encoder`` and :meth:`make_critic`, and says what is random in a choice
    (:meth:`noise`), how one is made of it (:meth:`act`), which is made without chance (:meth:`mode`), and which parameters
    decide it (:meth:`actor_parameters`).
    """

    options: ClassVar[frozenset[str]] = frozenset(
        {
            "net_arch",
            "activation_fn",
            "features_extractor_class",
            "features_extractor_kwargs",
            "share_features_extractor",
        }
    )
    """What ``policy_kwargs`` may say to it."""

    encoder: Encoder
    critic_head: nn.Linear | None

    def __init__(self, observation_space: Space, action_space: Space) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space

    def make_critic(
        self,
        hidden: Sequence[int],
        activation_fn: type[nn.Module],
        share: bool = True,
        extractor: type[nn.Module] | None = None,
        extractor_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """The value network, over the actor's encoder or, with ``share=False`` and an extractor, one of its own."""
        shared = share or extractor is None
        self.critic_encoder = self.encoder if shared else Encoder(self.observation_space, extractor, extractor_kwargs)
        self.critic_trunk = MLP(self.encoder.size, hidden, activation=activation_fn)
        self.critic_head = nn.Linear(self.critic_trunk.out_features, 1)

    # -- what a kind of policy says ------------------------------------------------------------------------------

    def noise(self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
        """All that is random in choices ``[*shape]``, with one axis more."""
        raise NotImplementedError

    def act(self, obs: Any, noise: Tensor) -> Tensor:
        """The choice made of this noise, ``[B, ...]``, as the policy sees it."""
        raise NotImplementedError

    def mode(self, obs: Any) -> Tensor:
        """The choice made without chance, ``[B, ...]``."""
        raise NotImplementedError

    def sampled(self, obs: Any, rows: int, generator: torch.Generator | None) -> Tensor:
        """Choices by chance for ``rows`` observations that have nothing to do with each other, ``[B, ...]``."""
        return self.act(obs, self.noise((rows,), generator, self.device))

    def in_space(self, action: Any) -> Any:
        """A choice in the environment's units, not yet clipped to its bounds; NumPy or torch alike."""
        return action

    def host_act(self) -> HostAct | None:
        """``(obs [N, ...] float32, noise) -> action`` in NumPy; None where there is no such form."""
        return None

    host_lives: ClassVar[bool] = False
    """Whether :meth:`host_act` reads the weights where they lie at every call; else it is good until the next update."""

    def actor_parameters(self) -> list[nn.Parameter]:
        """What decides the actions."""
        raise NotImplementedError

    # -- values --------------------------------------------------------------------------------------------------

    def value(self, obs: Any) -> Tensor:
        """V(obs), ``[B]``."""
        return self.critic_head(self.critic_trunk(self.critic_encoder(obs))).squeeze(-1)

    def both(self, obs: Any) -> tuple[Tensor, Tensor]:
        """What :meth:`forward` gives, and values ``[B]``, encoding the observation once where that is shared."""
        x = self.encoder(obs)
        y = x if self.critic_encoder is self.encoder else self.critic_encoder(obs)
        return self.of(x), self.critic_head(self.critic_trunk(y)).squeeze(-1)

    def forward(self, obs: Any) -> Tensor:
        """What the actor makes of observations before any chance: distribution parameters ``[B, P]``, or features."""
        return self.of(self.encoder(obs))

    def of(self, features: Tensor) -> Tensor:
        """:meth:`forward` of encoded observations."""
        raise NotImplementedError

    def critic_parameters(self) -> list[nn.Parameter]:
        """What only the values depend on."""
        if self.critic_head is None:
            return []
        mine = {id(p) for p in self.actor_parameters()}
        return [
            p
            for m in (self.critic_encoder, self.critic_trunk, self.critic_head)
            for p in m.parameters()
            if id(p) not in mine
        ]

    @property
    def disjoint(self) -> bool:
        """Whether actor and critic share no parameter."""
        return (
            self.critic_head is None or self.critic_encoder.extractor is None or self.critic_encoder is not self.encoder
        )

    # -- what stable-baselines3 users call -----------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def obs_to_tensor(self, observation: Any) -> tuple[Any, bool]:
        """A NumPy observation, single or batched, as tensors ``[B, ...]`` on the policy's device, and whether it was batched.

        Raises:
            ValueError: its shape does not fit the observation space.
        """
        return to_tensor(self.observation_space, observation, self.device)

    def _need_critic(self, what: str) -> None:
        if self.critic_head is None:
            raise RuntimeError(f"{what}: this policy has no value network (REINFORCE has one with baseline='value')")

    def predict_values(self, obs: Any) -> Tensor:
        """V(obs) as stable-baselines3 shapes it, ``[B, 1]``."""
        self._need_critic("predict_values")
        return self.value(obs).unsqueeze(-1)

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[np.ndarray, Any]:  # fmt: skip
        """Actions for NumPy observations, single or batched: ``(action, state)``. Actions lie in the action space. They are
        drawn by ``generator``, torch's own by default."""
        obs, batched = self.obs_to_tensor(observation)
        with torch.no_grad():
            if deterministic:
                action = self.mode(obs)
            else:
                rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
                action = self.sampled(obs, rows, generator)
        return from_tensor(self.action_space, self.in_space(action), batched), state


class ActorCritic(Policy):
    """A distribution whose parameters a network puts out, and values; apart but for a shared ``features_extractor_class``.

    Initialisation as the field's: orthogonal, gain sqrt(2) in the trunks, 0.01 in the action head, 1 in the value head.

    Args:
        scaled: the distribution's actions lie in [-1, 1] and stand for the whole Box (off-policy methods).
        net_arch: hidden widths, ``[64, 64]`` or ``{"pi": [...], "vf": [...]}``.
        log_std_init: initial log standard deviation of a Gaussian.
        state_dependent_std: the standard deviation as a second linear head instead of free parameters.
        critic: whether there is a value network.
        head: what makes the distribution's parameters of (features, distribution); by default the usual one for it.
    """

    options = Policy.options | {"ortho_init", "log_std_init", "state_dependent_std"}
    host_lives = True

    def __init__(
        self,
        observation_space: Space,
        action_space: Space,
        distribution: Distribution,
        *,
        net_arch: Sequence[int] | dict[str, Sequence[int]] = (64, 64),
        activation_fn: type[nn.Module] = nn.Tanh,
        ortho_init: bool = True,
        log_std_init: float = 0.0,
        state_dependent_std: bool = False,
        features_extractor_class: type[nn.Module] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        critic: bool = True,
        scaled: bool = False,
        head: Callable[[int, Distribution], Head] | None = None,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.distribution, self.scaled = distribution, scaled
        arch = widths(net_arch, "pi", "vf")
        self.encoder = Encoder(observation_space, features_extractor_class, features_extractor_kwargs)
        self.trunk = MLP(self.encoder.size, arch["pi"], activation=activation_fn)
        if head is not None:
            self.head = head(self.trunk.out_features, distribution)
        elif isinstance(distribution, DiagGaussian):
            self.head = GaussianHead(self.trunk.out_features, distribution, log_std_init, state_dependent_std)
        elif isinstance(distribution, GaussianMixture):
            if state_dependent_std:
                raise NotImplementedError("a mixture's standard deviations do not depend on the state here")
            self.head = MixtureHead(self.trunk.out_features, distribution, log_std_init)
        else:
            if state_dependent_std:
                raise ValueError(f"state_dependent_std=True: {action_space} has no standard deviation; leave it out")
            self.head = LinearHead(self.trunk.out_features, distribution)
        if critic:
            self.make_critic(
                arch["vf"],
                activation_fn,
                share_features_extractor,
                features_extractor_class,
                features_extractor_kwargs,
            )
        else:
            self.critic_head = None
        if ortho_init:
            orthogonal_(self.trunk)
            orthogonal_(self.head, 0.01)
            if self.encoder.extractor is not None:
                orthogonal_(self.encoder.extractor)
            if critic:
                orthogonal_(self.critic_trunk)
                orthogonal_(self.critic_head, 1.0)
                if self.critic_encoder is not self.encoder:
                    orthogonal_(self.critic_encoder.extractor)
        if log_std_init and state_dependent_std:
            with torch.no_grad():
                self.head.log_std.bias += log_std_init

    def of(self, features: Tensor) -> Tensor:
        return self.head(self.trunk(features))

    def noise(self, shape, generator, device):
        return self.head.noise(shape, generator, device)

    def act(self, obs, noise):
        x = self.trunk(self.encoder(obs))
        return self.distribution.act(self.head(x), self.head.row_noise(x, noise))

    def mode(self, obs):
        return self.distribution.mode(self(obs))

    def sampled(self, obs, rows, generator):
        return self.distribution.act(self(obs), self.distribution.noise((rows,), generator, self.device))

    def in_space(self, action):
        return unscale(self.action_space, action) if self.scaled else action

    def actor_parameters(self) -> list[nn.Parameter]:
        """What decides the actions: encoder, trunk, head."""
        return [p for m in (self.encoder, self.trunk, self.head) for p in m.parameters()]

    def host_act(self) -> HostAct | None:
        encoder = self.encoder
        if encoder.extractor is not None or not isinstance(encoder.space, spaces.Box):
            return None
        trunk, head = host_forward(self.trunk), self.head.host_act()
        if trunk is None or head is None:
            return None
        if encoder.standardized:
            mean, scale = encoder.mean.numpy(), encoder.scale.numpy()
            return lambda obs, noise: head(trunk((obs.reshape(len(obs), -1) - mean) / scale), noise)
        if len(self.observation_space.shape) == 1:
            return lambda obs, noise: head(trunk(obs), noise)
        return lambda obs, noise: head(trunk(obs.reshape(len(obs), -1)), noise)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values ``[B, 1]``, log-probabilities ``[B]`` and entropies ``[B]`` of given actions, as stable-baselines3 shapes
        them."""
        self._need_critic("evaluate_actions")
        params, values = self.both(obs)
        if isinstance(self.action_space, (spaces.Box, spaces.MultiBinary)):
            actions = actions.reshape(len(actions), -1)
        return values.unsqueeze(-1), self.distribution.log_prob(params, actions), self.distribution.entropy(params)


def widths(net_arch: Any, *names: str) -> dict[str, list[int]]:
    """``net_arch`` as hidden widths by network: a list stands for each of ``names``; one that a dict leaves out has none.

    Raises:
        ValueError: it is neither; names what it may be.
    """
    parts = net_arch if isinstance(net_arch, dict) else dict.fromkeys(names, net_arch)
    good = lambda x: isinstance(x, (list, tuple)) and all(isinstance(n, (int, np.integer)) and n > 0 for n in x)
    if set(parts) - set(names) or not all(good(x) for x in parts.values()):
        keys = ", ".join(f"{name}=[...]" for name in names)
        raise ValueError(f"net_arch={net_arch!r} must be a list of widths of at least 1, or dict({keys})")
    return {name: [int(n) for n in parts.get(name, ())] for name in names}


def to_tensor(space: Space, observation: Any, device: torch.device | str) -> tuple[Any, bool]:
    """An observation, or a batch of them, as tensors with a batch axis, and whether it had one.

    Raises:
        ValueError: it does not fit the space.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(observation, dict) or set(space.spaces) - set(observation):
            found = list(observation) if isinstance(observation, dict) else type(observation).__name__
            raise ValueError(f"expected a dict with the keys {list(space.spaces)}, not {found}")
        parts = {k: to_tensor(s, observation[k], device) for k, s in space.spaces.items()}
        kinds = {k: f"{len(x)} rows" if batched else "one" for k, (x, batched) in parts.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"the entries of an observation must be batched alike: {kinds}")
        return {k: x for k, (x, _) in parts.items()}, any(batched for _, batched in parts.values())
    x = np.asarray(observation)
    if not x.flags.writeable:  # torch would warn
        x = x.copy()
    shape = space.shape or ()
    if (x.shape != shape and x.shape[1:] != shape) or x.ndim - len(shape) not in (0, 1):
        raise ValueError(
            f"an observation of shape {x.shape} does not fit {space}: expected {shape} or (n, {', '.join(map(str, shape))})"
        )
    batched = x.ndim == len(shape) + 1
    dtype = torch.float32 if np.issubdtype(x.dtype, np.floating) else None
    return torch.as_tensor(x if batched else x[None], dtype=dtype, device=device), batched


def unscale(space: spaces.Box, action: Any) -> Any:
    """Actions ``[B, A]`` in [-1, 1] in the Box's own units, ``[B, *shape]``; NumPy or torch alike."""
    return unscaler(space)(action)


def unscaler(space: spaces.Box) -> Callable[[Any], Any]:
    """:func:`unscale` of one space, whose bounds are looked at once, and copied to a device once."""
    bounds: dict[Any, tuple[Any, Any, Any]] = {}
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    bounds[None] = low, high, high - low
    # At the upper end only: rounding keeps order, and low + 0 is low.
    rounds_over = bool((low + (high - low) > high).any())

    def call(action: Any) -> Any:
        device = action.device if isinstance(action, Tensor) else None
        if device not in bounds:
            bounds[device] = tuple(torch.as_tensor(x, device=device) for x in bounds[None])
        low, high, span = bounds[device]
        x = low + 0.5 * (action + 1.0) * span
        if rounds_over:
            x = torch.minimum(x, high) if isinstance(x, Tensor) else np.minimum(x, high)
        return x.reshape(-1, *space.shape)

    return call


def scale(space: spaces.Box, action: Tensor) -> Tensor:
    """Actions ``[B, *shape]`` in the Box's own units scaled to [-1, 1], ``[B, A]``: the inverse of :func:`unscale`. Where low
    is high there is no choice: 0."""
    low, high = (torch.as_tensor(x.reshape(-1), dtype=torch.float64) for x in (space.low, space.high))
    x = action.reshape(len(action), -1).double() - (low + high) / 2  # of a Box that is [-1, 1] not a bit changes
    half = (high - low) / 2
    return torch.where(half > 0, x / half, 0.0).clamp(-1, 1).float()


def from_tensor(space: Space, action: Tensor, batched: bool) -> np.ndarray:
    """Actions ``[B, ...]`` as NumPy in the space: shaped, clipped to a Box's bounds; a single one without its axis."""
    a = action.detach().cpu().numpy()
    if isinstance(space, spaces.Box):
        a = np.clip(a.reshape(-1, *space.shape), space.low, space.high).astype(space.dtype, copy=False)
    elif isinstance(space, spaces.MultiBinary):
        a = a.reshape(-1, *space.shape)
    return a if batched else np.asarray(a[0])  # an array of no axes of a numbered action, as stable-baselines3


def _preprocess(space: Space, obs: Any) -> Any:
    """As stable-baselines3 hands observations to a features extractor: floats, images in [0, 1] with their channels first,
    integers one-hot, Dict entry by entry."""
    if isinstance(space, spaces.Dict):
        return {k: _preprocess(s, obs[k]) for k, s in space.spaces.items()}
    if is_image(space):
        x = obs.float() / 255.0
        return x.movedim(-1, -3) if _channels_last(space) else x
    return obs.float() if isinstance(space, spaces.Box) else encode(space, obs)


def _channels_last(space: Space) -> bool:
    return is_image(space) and int(np.argmin(space.shape)) == 2


def _channels_first(space: Space) -> Space:
    """The space as an extractor sees it."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({k: _channels_first(s) for k, s in space.spaces.items()})
    if not _channels_last(space):
        return space
    return spaces.Box(np.moveaxis(space.low, 2, 0), np.moveaxis(space.high, 2, 0), dtype=np.uint8)
