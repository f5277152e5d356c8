"""SAC: Soft Actor-Critic with automatic temperature.

Haarnoja, Zhou, Hartikainen, Tucker, Ha, Tan, Kumar, Zhu, Gupta, Abbeel, Levine, 2018, arXiv 1812.05905.

The return is augmented by the policy's entropy; the temperature α follows so that the entropy stays at a target H̄. With
a' ~ π(.|s'), ã = tanh(u) reparameterised at s, and lagged critics Q̄:

    y   = r + γ (1 - d) ( min_k Q̄_k(s', a') - α log π(a'|s') )                                     (eq. 8, 15)
    L_Q = Σ_k E[ 1/2 (Q_k(s, a) - y)² ]                                                            (eq. 5)
    L_π = E[ α log π(ã|s) - min_k Q_k(s, ã) ]                                                      (eq. 9)
    L_α = -E[ log α (log π(ã|s) + H̄) ]                          (eq. 18, with log α for α as the common codes have it)

Differs from TD3 in its stochastic policy, which explores by itself and smooths the target, and in having no target actor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import SquashedGaussian
from polopt.off_policy import OffPolicy, OffPolicyConfig, Row
from polopt.policy import GaussianHead
from polopt.spaces import encoded_size

__all__ = ["SAC", "as_number", "starting_temperature", "temperature_loss"]


def starting_temperature(ent_coef: float | str) -> tuple[float, bool]:
    """α to begin with, and whether it is learned: ``"auto"`` is (1, True), ``"auto_0.1"`` (0.1, True), 0.1 (0.1, False).

    Raises:
        ValueError: it is none of these, or α is negative, or zero and learned.
    """
    text = str(ent_coef)
    learned = text.startswith("auto")
    value = 1.0 if text == "auto" else as_number(ent_coef, "ent_coef", '"auto" or "auto_NUMBER"', "auto_")
    if value < 0 or (learned and value == 0):
        raise ValueError(f"ent_coef={ent_coef!r} must be at least 0, and above it where it is learned")
    return value, learned


def as_number(value: float | str, name: str, words: str, prefix: str = "") -> float:
    """A hyperparameter's number, of a string too.

    Raises:
        ValueError: it is none; says that it must be one, or one of these words.
    """
    try:
        return float(str(value).removeprefix(prefix))
    except ValueError:
        raise ValueError(f"{name}={value!r} must be a number or {words}") from None


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """L_α = -E[ log α (log π + H̄) ], 0-d: α rises while the entropy is below its target (eq. 18)."""
    return -(log_alpha * (log_prob + target_entropy).detach()).mean()


class SAC(OffPolicy):
    """Soft Actor-Critic."""

    critic_scale = 0.5
    needs_noise = ("noise", "next_noise")
    fixed = frozenset({"ent_coef", "target_entropy"})

    @dataclass(frozen=True, kw_only=True)
    class Config(OffPolicyConfig):
        ent_coef: float | str = hyper(
            "auto", doc='α >= 0, or "auto" (learned from 1), or "auto_0.1" (learned from 0.1)'
        )
        target_update_interval: int = hyper(1, "[1, inf)", "gradient steps between updates of the lagged critics")
        target_entropy: float | str = hyper("auto", doc='H̄ [nat] over the [-1, 1] box; "auto": -dim(A)')
        use_sde: bool = hyper(False, doc="state-dependent exploration; not built")
        sde_sample_freq: int = hyper(-1, "[-1, inf)", "with use_sde")
        use_sde_at_warmup: bool = hyper(False, doc="with use_sde")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.use_sde:
                raise NotImplementedError("use_sde=True is not built; SAC explores by its policy's own noise")
            starting_temperature(self.ent_coef)
            if self.target_entropy != "auto":
                as_number(self.target_entropy, "target_entropy", '"auto"')

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        dim, c = encoded_size(self.action_space), self.config
        head = lambda size, d: GaussianHead(size, d, state_dependent=True)
        self.policy = self.make_actor(SquashedGaussian(dim), net_arch["pi"], activation_fn, head=head)
        self.make_critic(net_arch["qf"], activation_fn, self.policy_options.get("n_critics", 2))
        self.part("policy", self.policy.parameters(), **optimizer)
        self.part("critic", self.nets["critic"].parameters(), **optimizer)
        start, self.learned = starting_temperature(c.ent_coef)
        self.temperature = nn.ParameterDict({"log_alpha": torch.tensor(start).log()})
        self.nets["temperature"] = self.temperature.to(self.device)
        if self.learned:
            self.part("alpha", self.temperature.parameters(), **optimizer)
        self.entropy = float(-dim if c.target_entropy == "auto" else c.target_entropy)

    def due(self, n: int) -> tuple[str, ...]:
        return ("policy", "targets") if n % self.c.target_update_interval == 0 else ("policy",)

    def evaluate(self, b: Batch, due: tuple[str, ...]) -> Batch:
        action, log_prob = self.policy.distribution.sample(self.policy.of(b.obs), b.noise)
        return b.plus(new_action=action, new_log_prob=log_prob, alpha=self.temperature["log_alpha"].detach().exp())

    def next_value(self, b: Batch) -> Tensor:
        action, log_prob = self.policy.distribution.sample(self.policy.of(b.next_obs), b.next_noise)
        return self.nets["target_critic"](b.next_obs, action).amin(0) - b.alpha * log_prob

    def policy_loss(self, b: Batch) -> Tensor:
        return (b.alpha * b.new_log_prob - self.nets["critic"](b.obs, b.new_action).amin(0)).mean()

    def alpha_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_α (eq. 18)."""
        log["ent_coef_loss"] = loss = temperature_loss(self.temperature["log_alpha"], b.new_log_prob, self.entropy)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        rows = super().table(due)
        return [("alpha", self.alpha_loss), *rows] if self.learned else rows

    def critic_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        log["ent_coef"] = b.alpha
        return super().critic_loss(b, log)
