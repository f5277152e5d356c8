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

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.off_policy import Row
from polopt.soft import Soft, SoftConfig

__all__ = ["SAC", "temperature_loss"]


def temperature_loss(log_alpha: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """L_α = -E[ log α (log π + H̄) ], 0-d: α rises while the entropy is below its target (eq. 18)."""
    return -(log_alpha * (log_prob + target_entropy).detach()).mean()


class SAC(Soft):
    """Soft Actor-Critic."""

    critic_scale = 0.5

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftConfig):
        target_update_interval: int = hyper(1, "[1, inf)", "gradient steps between updates of the lagged critics")

    def due(self, n: int) -> tuple[str, ...]:
        return ("policy", "targets") if n % self.c.target_update_interval == 0 else ("policy",)

    def evaluate(self, b: Batch, due: tuple[str, ...]) -> Batch:
        action, log_prob = self.sampled(b.obs, b.noise)
        return b.plus(new_action=action, new_log_prob=log_prob, alpha=self.alpha())

    def next_value(self, b: Batch) -> Tensor:
        action, log_prob = self.sampled(b.next_obs, b.next_noise)
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
