"""Natural gradients: the Fisher information of a policy, the solve against it, and a step inside a trust region.

With J the Jacobian of the distribution parameters and M the Hessian of KL(old || new) in them,

    F = mean over states of JᵀMJ,    x = (F + ζI)⁻¹ g,    β = √(2δ / xᵀ(F + ζI)x)

The vectors are laid out as :meth:`polopt.part.Part.vector`.

Source: S. Kakade, 2001; J. Schulman, S. Levine, P. Moritz, M. Jordan, P. Abbeel, 2015, arXiv 1502.05477 (app. C);
J. Martens, 2014, arXiv 1412.1193 (why JᵀMJ is the Hessian of the KL at the old parameters).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch, tree_map
from .config import hyper
from .distributions import Distribution
from .networks import flat
from .on_policy import OnPolicy, OnPolicyConfig
from .part import Part
from .schedule import Schedule

__all__ = [
    "NaturalConfig",
    "Search",
    "backtrack",
    "conjugate_gradient",
    "fisher_vector_product",
    "longest_step",
    "natural_gradient",
]

Product = Callable[[Tensor], Tensor]
"""A symmetric positive semi-definite matrix, as what it makes of a vector."""


@dataclass(frozen=True, kw_only=True)
class NaturalConfig(OnPolicyConfig):
    """Hyperparameters of the methods whose policy follows a natural gradient, and whose critic is fitted apart."""

    learning_rate: Schedule = hyper(1e-3, "[0, inf)", "learning rate of the critic")
    batch_size: int | None = hyper(128, "[1, inf)", "rows of a critic minibatch; None: the whole rollout")
    max_grad_norm: float | None = hyper(None, "(0, inf)", "bound on the critic gradient's global norm")
    target_kl: float = hyper(0.01, "(0, inf)", "δ, mean KL(old || new) of an update [nat]")
    cg_max_steps: int = hyper(15, "[1, inf)", "iterations of conjugate gradient")
    cg_damping: float = hyper(0.1, "[0, inf)", "ζ, added to the Fisher matrix's diagonal")
    n_critic_updates: int = hyper(10, "[1, inf)", "passes of the critic over the rollout")
    sub_sampling_factor: int = hyper(1, "[1, inf)", "k: the Fisher matrix is estimated on every k-th state")


def fisher_vector_product(distribution: Distribution, params: Tensor, part: Part, damping: float = 0.0) -> Product:
    """``v -> (F + damping I) v`` at the present parameters.

    Three sweeps a product: v through J (the transpose of a vector-Jacobian product, which is linear), through M state
    by state, and back through Jᵀ. It costs less than differentiating the KL twice, and is positive semi-definite
    however it rounds. ``part``'s parameters must stay as they are while it is used.

    Args:
        params: distribution parameters ``[B, P]`` of the policy, with their graph.
    """
    at = params.detach().requires_grad_()
    (slope,) = torch.autograd.grad(distribution.kl(params.detach(), at).mean(), at, create_graph=True)
    cotangent = torch.zeros_like(params, requires_grad=True)
    pullback = part.gradient(params, grad_outputs=cotangent, create_graph=True)
    shapes = [p.shape for p in part.params]
    sizes = [p.numel() for p in part.params]

    def product(v: Tensor) -> Tensor:
        tangents = [x.view(shape) for x, shape in zip(v.split(sizes), shapes, strict=True)]
        (Jv,) = torch.autograd.grad(pullback, cotangent, tangents, retain_graph=True)
        (MJv,) = torch.autograd.grad(slope, at, Jv, retain_graph=True)
        return flat(part.gradient(params, grad_outputs=MJv, retain_graph=True)) + damping * v

    return product


def conjugate_gradient(product: Product, b: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """x with A x ≈ b, from x = 0, by at most ``iterations`` products; exact after one for each distinct eigenvalue.

    Once |b - A x|² < ``tolerance``, x stays as it is; no value is read by the host.
    """
    x, r, p, rr = torch.zeros_like(b), b, b, b @ b
    for _ in range(iterations):
        Ap = product(p)
        going = rr >= tolerance
        alpha = torch.where(going, rr / (p @ Ap), 0.0)
        x, r = x + alpha * p, r - alpha * Ap
        new = r @ r
        p = r + torch.where(going, new / rr, 0.0) * p
        rr = new
    return x


def natural_gradient(agent: OnPolicy, b: Batch) -> tuple[Tensor, Tensor]:
    """x = (F + ζI)⁻¹ g, g the gradient of ``-agent.policy_loss``, and (F + ζI) x; by the agent's :class:`NaturalConfig`."""
    c, policy, part = agent.c, agent.policy, agent.parts["policy"]
    g = -flat(part.gradient(agent.policy_loss(agent.evaluate(b))))
    params = policy(tree_map(lambda o: o[:: c.sub_sampling_factor], b.obs))
    F = fisher_vector_product(policy.distribution, params, part, c.cg_damping)
    x = conjugate_gradient(F, g, c.cg_max_steps)
    return x, F(x)


def longest_step(direction: Tensor, product: Tensor, delta: float | Tensor) -> Tensor:
    """β x with β = √(2δ / xᵀAx): where the quadratic model of the KL reaches δ [nats]. 0 for a direction of 0.

    Args:
        direction: x.
        product: A x.
    """
    curvature = direction @ product
    return torch.where(curvature > 0, (2 * delta / curvature).sqrt(), 0.0) * direction


class Search(NamedTuple):
    """What a line search ended with, 0-d tensors."""

    objective: Tensor
    """At the parameters it left."""
    kl: Tensor
    """KL(old || new) [nats] there."""
    success: Tensor
    """1, or 0 where no trial was accepted and the old parameters are back."""


@torch.no_grad()
def backtrack(
    part: Part, step: Tensor, trial: Callable[[], tuple[Tensor, Tensor]], delta: float, shrink: float, trials: int
) -> Search:
    """Move along ``step``, shrunk until the KL is at most ``delta`` and the objective has grown; else not at all.

    The host reads one bool a trial.

    Args:
        trial: objective and KL from the old policy at the part's present parameters.
    """
    old, (before, still) = part.vector(), trial()
    for j in range(trials):
        part.assign(old + shrink**j * step)
        objective, kl = trial()
        if bool((kl <= delta) & (objective > before)):
            return Search(objective, kl, torch.ones_like(kl))
    part.assign(old)
    return Search(before, still, torch.zeros_like(still))
