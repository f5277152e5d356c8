"""Soft actor-critics: off-policy, a squashed Gaussian policy whose entropy a temperature holds at its target.

What Haarnoja et al., 2018, arXiv 1812.05905 added to actor-critics, and what the methods built on theirs keep: actions drawn by
reparameterisation, ã = tanh(u) with u ~ N(μ(s), σ(s)²), an entropy bonus α in every value, and an α that is itself a part,

    H̄ = c dim(A) where it is "auto";   α = exp(log α), learned, or fixed.

A method here says how many critics there are (``critic_options``), what they are worth together (``next_value``,
``policy_loss``), what α descends (``alpha_loss``), and when (``table``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .batch import Batch
from .config import hyper
from .distributions import SquashedGaussian
from .off_policy import OffPolicy, OffPolicyConfig
from .policy import GaussianHead
from .sde import SDEHead, held, take_options
from .spaces import encoded_size

__all__ = ["Soft", "SoftConfig", "starting_temperature"]


def starting_temperature(ent_coef: float | str) -> tuple[float, bool]:
    """α to begin with, and whether it is learned: ``"auto"`` is (1, True), ``"auto_0.1"`` (0.1, True), 0.1 (0.1, False).

    Raises:
        ValueError: it is none of these, or α is negative, or zero and learned.
    """
    text = str(ent_coef)
    learned = text.startswith("auto")
    value = 1.0 if text == "auto" else _number(ent_coef, "ent_coef", '"auto" or "auto_NUMBER"', "auto_")
    if not 0 <= value < math.inf or (learned and value == 0):
        raise ValueError(f"ent_coef={ent_coef!r} must be finite and at least 0, and above it where it is learned")
    return value, learned


def _number(value: float | str, name: str, words: str, prefix: str = "") -> float:
    try:
        return float(str(value).removeprefix(prefix))
    except ValueError:
        raise ValueError(f"{name}={value!r} must be a number or {words}") from None


@dataclass(frozen=True, kw_only=True)
class SoftConfig(OffPolicyConfig):
    """Hyperparameters of every method with such a policy."""

    ent_coef: float | str = hyper("auto", doc='α >= 0, or "auto" (learned from 1), or "auto_0.1" (learned from 0.1)')
    target_entropy: float | str = hyper("auto", doc='H̄ [nat] over the [-1, 1] box; "auto": -dim(A)')
    use_sde: bool = hyper(
        False, doc="explore by noise that is a function of the state (gSDE), drawn anew each train_freq"
    )
    sde_sample_freq: int = hyper(
        -1, "[-1, inf)", "steps of a rollout after which that noise is drawn anew; -1, 0: at its start only"
    )
    use_sde_at_warmup: bool = hyper(False, doc="explore by it while learning_starts lasts too, not at random")

    def __post_init__(self) -> None:
        super().__post_init__()
        starting_temperature(self.ent_coef)
        given = self.target_entropy
        if given != "auto" and not math.isfinite(_number(given, "target_entropy", '"auto"')):
            raise ValueError(f"target_entropy={given!r} must be finite")


class Soft(OffPolicy):
    """Base of the family."""

    Config: ClassVar[type[SoftConfig]]
    needs_noise = ("noise", "next_noise")
    fixed = frozenset({"ent_coef", "target_entropy", "use_sde"})
    starts = frozenset({("ent_coef", "temperature"), ("ent_coef", "alpha")})
    sde_options: ClassVar[tuple[str, ...]] = ("log_std_init", "use_expln", "clip_mean")
    """What ``policy_kwargs`` may say of state-dependent noise."""
    more_policy_kwargs = frozenset({"n_critics", *sde_options})
    auto_entropy: ClassVar[float] = -1.0
    """c."""

    # -- slots -----------------------------------------------------------------------------------------------------

    def critic_options(self) -> dict[str, Any]:
        """What :meth:`~polopt.off_policy.OffPolicy.make_critic` is told beside the widths."""
        return {"members": self.policy_options.get("n_critics", 2)}

    def initialize(self) -> None:
        """Another initialisation of policy and critics than theirs."""

    def alpha_loss(self, b: Any, log: dict[str, Tensor]) -> Tensor:
        """What the temperature minimises, 0-d, of a batch with ``new_log_prob``."""
        raise NotImplementedError

    # -- what they share -------------------------------------------------------------------------------------------

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        dim, c = encoded_size(self.action_space), self.config
        said = take_options(self.policy_options, self.sde_options, c.use_sde)
        if c.use_sde:
            head = partial(SDEHead, learn_features=True, **{"log_std_init": -3.0, "clip_mean": 2.0} | said)
        else:
            head = partial(GaussianHead, state_dependent=True)
        self.policy = self.make_actor(SquashedGaussian(dim), net_arch["pi"], activation_fn, head=head)
        self.make_critic(net_arch["qf"], activation_fn, **self.critic_options())
        self.initialize()
        self.part("policy", self.policy.parameters(), **optimizer)
        self.part("critic", self.nets["critic"].parameters(), **optimizer)
        start, self.learned = starting_temperature(c.ent_coef)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor(start).log()})
        self.nets["temperature"] = self.temperature.to(self.device)
        if self.learned:
            self.part("alpha", self.temperature.parameters())  # Adam, whatever steps the networks
        self.entropy = float(self.auto_entropy * dim if c.target_entropy == "auto" else c.target_entropy)

    def alpha(self) -> Tensor:
        """α of now, 0-d, without gradient."""
        return self.temperature["log_alpha"].detach().exp()

    def sampled(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[B, A]`` of this noise, reparameterised, and their log-density ``[B]``, at encoded observations."""
        return self.policy.sample(obs, noise)

    # -- state-dependent exploration -------------------------------------------------------------------------------

    _held: Tensor | None = None
    """The matrices of the last step, ``[1, N, .]``, where the next one may go on with them: inside an episode that is a rollout."""

    def loss_noise(self, rows: int) -> dict[str, Tensor]:
        if not self.config.use_sde:
            return super().loss_noise(rows)
        matrix = self.policy.noise((1,), self.generator, self.device)  # one for all, as stable-baselines3
        return dict.fromkeys(self.needs_noise, matrix)

    def random_steps(self, horizon: int, num_envs: int) -> int:
        c = self.config
        return 0 if c.use_sde and c.use_sde_at_warmup else super().random_steps(horizon, num_envs)

    def policy_noise(self, shape: tuple[int, int]) -> Tensor:
        if not self.config.use_sde:
            return super().policy_noise(shape)
        steps, num_envs = shape
        draw = lambda n: self.policy.noise((n, num_envs), self.generator, self.device)
        episodes = self.config.cadence[1] == "episode"
        gone = self._warm + (self._steps_since if episodes else 0)
        noise = held(draw, steps, self.config.sde_sample_freq, gone, self._held)
        self._held = noise[-1:].clone() if steps and episodes else None
        return noise

    def worlds_reset(self) -> None:
        self._held = None
        super().worlds_reset()

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        if self.config.use_sde:
            log["std"] = self.policy.head.std().mean()
        return super().actor_loss(b, log)

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"sde": self._held}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self._held = state.get("sde")
        super().load_training_state(state)
