"""REINFORCE: the score-function gradient with Monte Carlo returns.

Williams, Simple statistical gradient-following algorithms for connectionist reinforcement learning, 1992; the form with
returns as in Lehmann, The Definitive Guide to Policy Gradients in Deep Reinforcement Learning, 2024, arXiv 2401.13662.

    ∇J(θ) = E[ Σ_t γ^t ∇ log π_θ(a_t|s_t) (G_t - b(s_t)) ]                      (policy gradient with baseline)
    G_t   = Σ_{k>=t} γ^{k-t} r_k, to the end of the episode

One step on the whole rollout, whose data is used once. The factor γ^t is left out unless asked for, as is usual.

Differs from A2C in bootstrapping nowhere: without a value at hand, the steps of an episode that the rollout's end cuts
off have no return, and are not learned from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polopt.advantage import elapsed, finished, gae
from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import Distribution
from polopt.on_policy import OnPolicy, OnPolicyConfig
from polopt.policy import ActorCritic

__all__ = ["REINFORCE", "score_loss"]


def score_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-mean(log π(a|s) w): its gradient is the negated policy gradient where w estimates the advantage."""
    return -(log_prob * weight).mean()


class REINFORCE(OnPolicy):
    """Monte Carlo policy gradient; with a batch-mean baseline, a learned one, or none."""

    policy_loss_name = "policy_loss"

    fixed = frozenset({"baseline"})

    @dataclass(frozen=True, kw_only=True)
    class Config(OnPolicyConfig):
        normalize_advantage: bool = hyper(False, doc="standardise G - b over the batch")
        gae_lambda: float = hyper(1.0, "[1, 1]", "returns are Monte Carlo's")
        baseline: str = hyper("mean", "none|mean|value", "b: 0, the batch's mean return, or a learned V(s)")
        tail: str = hyper("complete", "complete|zero", "steps without an end: left out, or as if 0 followed")
        discount_states: bool = hyper(
            False, doc="weight each step by γ^t, as the gradient of the discounted return has it"
        )
        ent_coef: float = hyper(0.0, "(-inf, inf)", "c_e, weight of the entropy bonus")
        vf_coef: float = hyper(0.5, "[0, inf)", "c_v, weight of the value loss of baseline='value'")

        @classmethod
        def from_json(cls, values: dict[str, Any], path: Any) -> dict[str, Any]:
            """As everywhere, but for ``gae_lambda``, of which older files hold a value that never was of use."""
            return super().from_json({k: v for k, v in values.items() if k != "gae_lambda"}, path)

    def make_policy(self, distribution: Distribution, **kwargs: object) -> ActorCritic:
        return super().make_policy(distribution, critic=self.config.baseline == "value", **kwargs)

    def _check_sizes(self) -> None:
        super()._check_sizes()
        if self.env is None or self.env.max_episode_steps is None or self.config.tail != "complete":
            return
        longest = self.env.max_episode_steps + self.env.reset_rows
        if self.config.n_steps < longest:
            raise ValueError(
                f"REINFORCE: n_steps={self.config.n_steps} is less than the {longest} steps of a whole episode"
                f"{' and its reset' * self.env.reset_rows}; raise it, or set tail='zero' to learn from unfinished episodes too"
            )

    def estimate(self, b: Batch) -> Batch:
        done, zero = b.terminated | b.truncated, torch.zeros_like(b.reward)
        valid = b.valid if "valid" in b else torch.ones_like(done)
        returns = gae(b.reward, zero, zero, b.terminated, b.truncated, self.c.gamma, 1.0, valid)
        kept = valid & finished(done) if self.c.tail == "complete" else valid
        baseline = {"none": lambda: zero, "mean": lambda: returns[kept].mean(), "value": lambda: b.value}[
            self.c.baseline
        ]()
        weight = 1.0
        if self.c.discount_states:
            *age, self.age = elapsed(done, valid, self.age)
            weight = self.c.gamma ** torch.stack(age)
        return b.plus(advantage=weight * (returns - baseline), returns=returns, valid=kept)

    age: Tensor | None = None
    """Steps of the episodes under way, ``[N]``, where ``discount_states`` counts them."""

    def worlds_reset(self) -> None:
        self.age = None

    def abandon(self, batch: Batch) -> None:
        if self.c.discount_states:
            b = batch.map(lambda x: x.to(self.device))
            valid = b.valid if "valid" in b else None
            self.age = elapsed(b.terminated | b.truncated, valid, self.age)[-1]

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {"age": self.age}

    def load_training_state(self, state: dict[str, Any]) -> None:
        self.age = None if state.get("age") is None else state["age"].to(self.device)
        super().load_training_state(state)

    def rows(self, b: Batch) -> Batch:
        b = super().rows(b)
        if len(b) == 0 and self.c.tail == "complete":
            raise ValueError(
                f"REINFORCE: no episode ended within n_steps={self.c.n_steps}; raise it, or set tail='zero'"
            )
        return b

    def policy_loss(self, b: Batch) -> Tensor:
        return score_loss(b.new_log_prob, b.advantage)

    def table(self):
        return [("policy", self.loss if self.c.baseline == "value" else self.actor_loss)]

    def improve(self, b: Batch) -> dict[str, Tensor]:
        self._n_updates += 1
        return self.minibatch_step(b)
