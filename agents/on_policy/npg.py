"""NPG: the natural policy gradient.

Kakade, A Natural Policy Gradient, 2001; the normalised step as in Rajeswaran, Lowrey, Todorov, Kakade, Towards
Generalization and Simplicity in Continuous Control, 2017, arXiv 1703.02660.

    x = F⁻¹ g,   F = E_s[ E_a[ ∇log π ∇log πᵀ ] ],   g = E[ ∇log π(a|s) A ]                 (2001, sections 2-3)
    (i)  θ = θ_old + √(2δ / xᵀFx) x                                                          (2017, section 3)
    (ii) θ = θ_old + α x

F is damped by ζI in both. The step is the same whatever the coordinates of θ: on a tabular softmax policy (ii) is
π_new(a|s) ∝ π(a|s) exp(α A(s, a)).

Differs from TRPO in taking the first step that TRPO would try, unconditionally: its KL may exceed δ.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.natural import NaturalConfig, longest_step, natural_gradient
from polopt.on_policy import OnPolicy

from .reinforce import score_loss

__all__ = ["NPG"]


class NPG(OnPolicy):
    """Natural policy gradient."""

    needs_kl = needs_disjoint = True
    make_parts = OnPolicy.make_split_parts

    @dataclass(frozen=True, kw_only=True)
    class Config(NaturalConfig):
        step_size: float | None = hyper(None, "(0, inf)", "α of (ii); None: (i), as long as target_kl allows")

    def policy_loss(self, b: Batch) -> Tensor:
        return score_loss(b.new_log_prob, b.advantage)

    def improve(self, b: Batch) -> dict[str, Tensor]:
        c, part = self.c, self.parts["policy"]
        x, Fx = natural_gradient(self, b)
        step = longest_step(x, Fx, c.target_kl) if c.step_size is None else c.step_size * x
        part.assign(part.vector() + step)
        self._n_updates += 1
        return self.fit_critic(b, c.n_critic_updates)
