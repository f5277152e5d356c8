"""V-MPO: On-Policy Maximum a Posteriori Policy Optimization.

Song, Abdolmaleki, Springenberg, Clark, and others, 2020, arXiv 1909.12238 (the equations' numbers here are ours).

The half D~ of the batch with the largest advantages is imitated with weights ψ, inside a KL trust region. Temperature η
and multipliers α are dual variables with their own optimizer.

    ψ_i = exp(A_i/η) / Σ_{j in D~} exp(A_j/η)                                                        (1)
    L_π = -Σ_{i in D~} ψ_i log π_θ(a_i|s_i)                                                          (2)
    L_η = η ε_η + η log( 1/|D~| Σ_{i in D~} exp(A_i/η) )                                             (3)
    L_α = E_s[ α (ε_α - sg[KL(π_old || π_θ)]) + sg[α] KL(π_old || π_θ) ]                             (4)

(4) is over all states, and twice for a Gaussian: for its mean and for its covariance. π_old is a lagged copy, and acts.

Differs from PPO in having no importance ratio: advantages rank and weight samples, and the KL alone bounds the step.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import DiagGaussian
from polopt.dual import DualPart, Multipliers, dual_loss, penalty
from polopt.on_policy import EpochsConfig, OnPolicy

__all__ = ["VMPO", "best_half", "temperature_loss", "weights"]


def best_half(advantage: Tensor) -> Tensor:
    """Indices of D~: the half (at least one) with the largest advantages, largest first."""
    return advantage.topk(max(1, len(advantage) // 2)).indices


def weights(advantage: Tensor, eta: Tensor) -> Tensor:
    """ψ, ``[B]``, summing to 1 (1)."""
    return torch.softmax(advantage / eta, 0)


def temperature_loss(eta: Tensor, advantage: Tensor, eps: float) -> Tensor:
    """L_η (3); dL_η/dη = ε_η - KL(ψ || uniform)."""
    return eta * (eps + torch.logsumexp(advantage / eta, 0) - math.log(len(advantage)))


class VMPO(OnPolicy):
    """On-policy maximum a posteriori policy optimization."""

    needs_kl = needs_disjoint = True

    fixed = frozenset({"eta_init", "alpha_init", "dual_learning_rate"})
    starts = frozenset({("eta_init", "dual"), ("alpha_init", "dual")})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        batch_size: int | None = hyper(256, "[1, inf)", "rows of a minibatch, of which the better half is imitated")
        normalize_advantage: bool = hyper(False, doc="advantages to zero mean and unit variance; the paper: no")
        eps_eta: float = hyper(0.01, "(0, inf)", "ε_η, KL of the weights to uniform; the paper: 0.01 to 0.1")
        eps_mu: float = hyper(0.01, "(0, inf)", "ε_μ, KL of a Gaussian's mean; the paper: 0.005 to 0.1")
        eps_sigma: float = hyper(5e-5, "(0, inf)", "ε_Σ, KL of a Gaussian's covariance; 1e-6 to 5e-5")
        eps_alpha: float = hyper(0.01, "(0, inf)", "ε_α, KL of any other policy; 0.001 to 0.01")
        eta_init: float = hyper(1.0, "(0, inf)", "η at the start")
        alpha_init: float = hyper(1.0, "(0, inf)", "α at the start; 1, for discrete actions 5")
        dual_learning_rate: float = hyper(0.01, "[0, inf)", "learning rate of η and α")
        target_interval: int = hyper(1, "[1, inf)", "T_target [rollouts], after which π_old becomes π_θ")

    def make_parts(self, **optimizer: Any) -> None:
        self.make_split_parts(**optimizer)
        alphas = dict.fromkeys(self.bounds(), self.config.alpha_init)
        self.nets["dual"] = self.dual = Multipliers(eta=self.config.eta_init, **alphas).to(self.device)
        self.dual.register_buffer("age", torch.zeros((), dtype=torch.int64))  # rollouts ever learned from
        self.nets["old"] = copy.deepcopy(self.policy).requires_grad_(False)
        self.parts["dual"] = DualPart(self.dual, lr=self.config.dual_learning_rate)

    @property
    def behaviour(self) -> Any:
        return self.nets["old"]

    def bounds(self) -> dict[str, float]:
        """Name of each multiplier α, and its bound ε."""
        if isinstance(self.policy.distribution, DiagGaussian):
            return {"alpha_mu": self.c.eps_mu, "alpha_sigma": self.c.eps_sigma}
        return {"alpha": self.c.eps_alpha}

    def constraints(self, b: Batch) -> list[tuple[Tensor, Tensor, float]]:
        """Each α with its KL and its ε."""
        kls = self.policy.distribution.kl_parts(b.params, b.new_params)
        return [(getattr(self.dual, a), kl.mean(), e) for (a, e), kl in zip(self.bounds().items(), kls, strict=True)]

    def policy_loss(self, b: Batch) -> Tensor:
        best = best_half(b.advantage)
        likelihood = (weights(b.advantage[best], self.dual.eta.detach()) * b.new_log_prob[best]).sum()
        return -likelihood + sum(penalty(alpha, kl) for alpha, kl, _ in self.constraints(b))

    def dual_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_η + L_α."""
        log |= {name: p.detach().clone() for name, p in self.dual.named_parameters()}
        loss = temperature_loss(self.dual.eta, b.advantage[best_half(b.advantage)], self.c.eps_eta)
        return loss + sum(dual_loss(alpha, kl, eps) for alpha, kl, eps in self.constraints(b))

    def table(self):
        return [*super().table(), ("dual", self.dual_loss)]

    def finish(self, b: Batch) -> dict[str, Tensor]:
        self.dual.age += 1
        if self.dual.age % self.c.target_interval == 0:
            self.behaviour.load_state_dict(self.policy.state_dict())
        return {}
