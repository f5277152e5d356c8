"""PMOE: Probabilistic Mixture-of-Experts, on PPO.

Ren, Li, Ding, Pan, Dong, 2021, arXiv 2104.09122.

The policy is a mixture of K Gaussians, the primitives, that a router weighs in each state,

    π_θ(a|s) = Σ_k w_k(s) N(a; μ_k(s), σ_k)                                                          (policy)

and is improved by PPO with the mixture's own ratio. The router is besides regressed to how often each primitive is the
best: one action a_k is drawn from each, without gradient, and judged by a critic Q that follows the returns G,

    L_freq = E[ 1/K Σ_k (w_k(s) - v_k)² ],   v = onehot argmax_k Q(s, a_k);    minimised by w_k(s) = P(k is best)
    L(θ)   = -L_CLIP + c_v L_V - c_e H + L_freq,      L_Q = E[ (Q(s, a) - G)² ]                      (losses)

L_freq moves the router alone: it reads the policy's features but does not shape them. H is an upper bound of the
entropy, which has no closed form.

Differs from PPO in the policy, which may keep several modes, and in L_freq; with K = 1 it is PPO.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import DiagGaussian, GaussianMixture
from polopt.networks import MLP
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.policy import ActorCritic, Encoder
from polopt.schedule import Schedule

from .ppo import surrogate

__all__ = ["PMOE", "best_primitive", "frequency_loss"]


def best_primitive(q: Tensor) -> Tensor:
    """v: onehot argmax_k Q(s, a_k), ``[B, K]``."""
    return nn.functional.one_hot(q.argmax(-1), q.shape[-1]).to(q.dtype)


def frequency_loss(logits: Tensor, best: Tensor) -> Tensor:
    """L_freq: mean over states and primitives of (w_k - v_k)², 0-d."""
    return (logits.softmax(-1) - best).square().mean()


class ActionValue(nn.Module):
    """Q(s, a), ``[..., ]`` for observations ``[B, ...]`` and actions ``[B, A]`` or ``[B, K, A]``; with an encoder of its own."""

    def __init__(self, encoder: Encoder, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.net = MLP(self.encoder.size + dim, hidden, 1)

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        x = self.encoder(obs)
        if action.dim() == 3:
            x = x[:, None].expand(-1, action.shape[1], -1)
        return self.net(torch.cat([x, action], -1)).squeeze(-1)


class PMOE(OnPolicy):
    """Probabilistic Mixture-of-Experts with PPO's surrogate."""

    action_spaces = (spaces.Box,)

    fixed = frozenset({"primitives", "q_hidden"})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        clip_range: Schedule = hyper(0.2, "[0, inf)", "ε; the authors' script: 0.2")
        primitives: int = hyper(4, "[1, inf)", "K; the paper's 4, the authors' script: 5")
        q_hidden: tuple = hyper((64, 64), doc="hidden widths of Q")

    def make_policy(self, distribution: DiagGaussian, **kwargs: Any) -> ActorCritic:
        return super().make_policy(GaussianMixture(distribution.dim, self.config.primitives), **kwargs)

    def make_parts(self, **optimizer: Any) -> None:
        super().make_parts(**optimizer)
        encoder, dim = copy.deepcopy(self.policy.encoder), self.policy.distribution.dim
        self.q = self.nets["q"] = ActionValue(encoder, dim, self.config.q_hidden).to(self.device)
        self.part("q", self.q.parameters(), max_grad_norm=self.config.max_grad_norm, **optimizer)

    def table(self):
        return [*super().table(), ("q", self.q_loss)]

    def minibatches(self, b: Batch) -> Iterator[Batch]:
        """Each epoch with fresh noise for one draw from every primitive in every state."""
        d = self.policy.distribution
        draws = torch.randn(len(b), d.components, d.dim, generator=self.generator, device=self.device)
        yield from super().minibatches(b.plus(draws=draws))

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        logits, means, log_stds = self.policy.distribution.split(b.new_params)
        with torch.no_grad():
            best = best_primitive(self.q(b.obs, means + log_stds.exp() * b.draws))
        log["frequency_loss"] = frequency = frequency_loss(logits, best)
        return super().actor_loss(b, log) + frequency

    def policy_loss(self, b: Batch) -> Tensor:
        return -surrogate(b.ratio, b.advantage, self.c.clip_range).mean()

    def q_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_Q."""
        log["q_loss"] = loss = (self.q(b.obs, b.action) - b.returns).square().mean()
        return loss
