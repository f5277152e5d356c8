"""TRPO: Trust Region Policy Optimization.

Schulman, Levine, Moritz, Jordan, Abbeel, 2015, arXiv 1502.05477.

    maximise L(θ) = E[ π_θ(a|s) / π_old(a|s) A ]  subject to  E_s[ KL(π_old(.|s) || π_θ(.|s)) ] <= δ       (eq. 14)

L is taken linear and the KL quadratic at the old parameters, with Fisher matrix F and g = ∇L:

    x = (F + ζI)⁻¹ g by conjugate gradient,   θ = θ_old + shrink^j √(2δ / xᵀ(F + ζI)x) x                (app. C)

with the first j for which the true KL is at most δ and the true L has grown; none, and the policy stays as it was. Then
the critic is fitted to the returns.

Differs from NPG in the line search; from PPO in that the trust region is enforced.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.natural import NaturalConfig, backtrack, longest_step, natural_gradient
from polopt.on_policy import OnPolicy

__all__ = ["TRPO", "surrogate"]


def surrogate(ratio: Tensor, advantage: Tensor) -> Tensor:
    """L(θ) = mean(r A), 0-d (eq. 14)."""
    return (ratio * advantage).mean()


class TRPO(OnPolicy):
    """Trust Region Policy Optimization."""

    needs_kl = needs_disjoint = True
    make_parts = OnPolicy.make_split_parts

    @dataclass(frozen=True, kw_only=True)
    class Config(NaturalConfig):
        line_search_shrinking_factor: float = hyper(0.8, "(0, 1)", "by what the step shrinks from trial to trial")
        line_search_max_iter: int = hyper(10, "[1, inf)", "trials of the line search")

    def policy_loss(self, b: Batch) -> Tensor:
        return -surrogate(b.ratio, b.advantage)

    def improve(self, b: Batch) -> dict[str, Tensor]:
        c, part = self.c, self.parts["policy"]

        def trial() -> tuple[Tensor, Tensor]:
            new = self.evaluate(b)
            return surrogate(new.ratio, new.advantage), new.kl.mean()

        x, Fx = natural_gradient(self, b)
        search = backtrack(
            part,
            longest_step(x, Fx, c.target_kl),
            trial,
            c.target_kl,
            c.line_search_shrinking_factor,
            c.line_search_max_iter,
        )
        self._n_updates += 1
        return {
            "policy_objective": search.objective,
            "kl_divergence_loss": search.kl,
            "is_line_search_success": search.success,
            **self.fit_critic(b, c.n_critic_updates),
        }
