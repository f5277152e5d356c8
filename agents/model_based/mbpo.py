"""MBPO: Model-Based Policy Optimization.

Janner, Fu, Zhang, Levine, 2019, arXiv 1906.08253.

An ensemble of Gaussian networks learns p(r, s' - s | s, a) from all real transitions D_env. From many of their states the
present policy is followed for k steps in the model, and SAC learns almost only from those branches, D_model (algorithm 2):

    every 250 steps:  fit the ensemble to D_env by maximum likelihood
                      M times:  s ~ D_env;  k steps of a ~ π(.|s), (r, s') ~ p_e(.|s, a), e a random elite;  to D_model
    each step:        one step of π in the environment, to D_env;  G updates of SAC on D_model (and 5 % of D_env)

Why short branches: with a model error ε_m, measured on the present policy's states, a branch of k steps can cost at most

    η[π] >= η_branch[π] - 2 r_max [ γ^{k+1} ε_π / (1-γ)² + γ^k ε_π / (1-γ) + k ε_m / (1-γ) ]       (theorem 4.3)

A long branch compounds the model's error, a short one still gives SAC a hundred thousand fresh states of its own policy.

Differs from SAC in where its batches come from and in G; from Dyna in branches of more than one step, from planning
(PETS) in that the model teaches a policy and is not asked when acting.
"""

from __future__ import annotations

from dataclasses import dataclass

from polopt.config import hyper
from polopt.model_based import ModelBased, ModelBasedConfig

from ..off_policy.sac import SAC

__all__ = ["MBPO", "branch_error", "rollout_length"]


def rollout_length(epoch: int, e0: int, e1: int, k0: int, k1: int) -> int:
    """k: from k0 at epoch e0 linearly to k1 at epoch e1, rounded down, and constant outside."""
    past = min(max(epoch, e0), e1) - e0
    return k0 + past * (k1 - k0) // (e1 - e0)


def branch_error(k: int, gamma: float, model_error: float, policy_shift: float, r_max: float = 1.0) -> float:
    """C(ε_m', ε_π): the most by which the true return can lie below that of branches of k steps (theorem 4.3).

    Args:
        model_error: ε_m', of the model in total variation on the present policy's states.
        policy_shift: ε_π, total variation between the present policy and the one that made the data.
    """
    shift = gamma ** (k + 1) / (1 - gamma) ** 2 + gamma**k / (1 - gamma)
    return 2 * r_max * (shift * policy_shift + k * model_error / (1 - gamma))


class MBPO(ModelBased):
    """Model-Based Policy Optimization. ``agent`` is its SAC, ``model`` the learned environment."""

    held = SAC

    @dataclass(frozen=True, kw_only=True)
    class Config(ModelBasedConfig, SAC.Config):
        learning_starts: int = hyper(5000, "[5, inf)", "steps of random actions before the first fit; pendulums: 500")
        gradient_steps: int = hyper(
            20, "[-1, inf)", "G, SAC's updates a step; HalfCheetah 40, InvertedPendulum 10; -1: as many as steps"
        )
        n_steps: int = hyper(1, "[1, 1]", "the model predicts one step")
        action_noise: float | None = hyper(None, "[0, inf)", "std added to the scaled action, in branches too")
        rollout_schedule: tuple[int, int, int, int] = hyper(
            (20, 150, 1, 1),
            doc="(e0, e1, k0, k1); Hopper (20, 150, 1, 15), Ant (20, 100, 1, 25), Humanoid (20, 300, 1, 25)",
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.use_sde:
                raise NotImplementedError("use_sde=True is not built for MBPO: its branches would draw a matrix each")
            given = self.rollout_schedule
            if len(given) != 4 or not all(isinstance(n, int) for n in given):
                raise ValueError(f"rollout_schedule={given!r} must be four whole numbers, (e0, e1, k0, k1)")
            e0, e1, k0, k1 = given
            if not (0 <= e0 < e1 and k0 >= 1 and k1 >= 1):
                raise ValueError(f"rollout_schedule={given!r} must have 0 <= e0 < e1, k0 >= 1 and k1 >= 1")

    def branch_length(self, epoch: int) -> int:
        return rollout_length(epoch, *self.config.rollout_schedule)
