"""FPO: Flow Matching Policy Gradients.

McAllister, Ge, Yi, Kim, Weber, Choi, Feng, Kanazawa, 2025 (ICLR 2026), arXiv 2507.21053.

PPO for a policy that has no likelihood: a flow, whose velocity v_θ(s, x, t) carries noise (t = 1) to actions (t = 0). In
the ratio's place stands how much better the flow has learned to reach the action taken, its conditional flow matching
loss measured at N_mc pairs (ε_i, t_i) that are drawn once, with the action, and kept:

    x_t  = t ε + (1 - t) a,      ε̂ = x_t + (1 - t) v_θ(s, x_t, t),      ℓ_i(θ) = mean_d (ε_i - ε̂)²          (loss)
    ρ(θ) = exp( mean_i ℓ_i(θ_old) - mean_i ℓ_i(θ) )                                                        (ratio)
    L(θ) = E[ -min( ρ A, clip(ρ, 1 - ε, 1 + ε) A ) + c_v (V_θ - G)² ]                                  (objective)

ℓ may be the velocity's own error instead, mean_d (v - (ε - a))², of which the above is (1 - t)². There may also be a
ratio for every pair, the surrogate then averaged over them. The environment gets tanh(a), whose Jacobian cancels.

Differs from PPO in the ratio, in having no entropy term and no gradient clip, and in estimating advantages and targets
anew with the present critic: here for every epoch, over the whole rollout; in the paper's code for every minibatch, over
stretches of 30 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.distributions import Distribution
from polopt.flow import FlowPolicy, between, grid, noise_error, velocity_error
from polopt.on_policy import EpochsConfig, OnPolicy
from polopt.schedule import Schedule

from ..on_policy.ppo import surrogate

__all__ = ["FPO", "log_ratios"]


def log_ratios(old: Tensor, new: Tensor, each: bool = False) -> Tensor:
    """log ρ of losses ``[B, N]``: the decrease of their mean, ``[B, 1]``, or of each, ``[B, N]``, clipped to ±3."""
    return (old - new).clamp(-3, 3) if each else (old - new).mean(-1, keepdim=True)


class FPO(OnPolicy):
    """Flow Matching Policy Gradients."""

    action_spaces = (spaces.Box,)
    policy_type = FlowPolicy
    reestimates = True
    optimizer_kwargs = {"eps": 1e-8}  # noqa: RUF012

    fixed = frozenset({"flow_steps", "output_scale"})

    @dataclass(frozen=True, kw_only=True)
    class Config(EpochsConfig):
        gamma: float = hyper(0.995, "[0, 1]", "γ; 0.995")
        n_epochs: int = hyper(16, "[1, inf)", "K, passes over the rollout; 16")
        vf_coef: float = hyper(0.25, "[0, inf)", "c_v; 0.25")
        max_grad_norm: float | None = hyper(None, "(0, inf)", "bound on the gradient's global norm; none")
        clip_range: Schedule = hyper(0.05, "[0, inf)", "ε; 0.05")
        samples: int = hyper(8, "[1, inf)", "N_mc, pairs (ε, t) an action; 8")
        flow_steps: int = hyper(10, "[1, inf)", "Euler steps from noise to action, on whose grid t is drawn; 10")
        output_scale: float = hyper(0.25, "(0, inf)", "factor of the velocity network's output; 0.25")
        reward_scale: float = hyper(10.0, "(0, inf)", "factor of rewards; 10, for rewards in [0, 1]")
        error: str = hyper("noise", "noise|velocity", "what ℓ is the error of; the noise")
        ratio: str = hyper("mean", "mean|each", "one ratio an action, of the mean ℓ, or one a pair; of the mean")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.ent_coef:
                raise ValueError(f"FPO: ent_coef={self.ent_coef} must be 0: the entropy of a flow is not known")

    def make_policy(self, distribution: Distribution, **kwargs: Any) -> FlowPolicy:
        steps, scale = self.config.flow_steps, self.config.output_scale
        return FlowPolicy(self._seen_space(), self.action_space, steps=steps, scale=scale, **kwargs)

    def estimate(self, b: Batch) -> Batch:
        return super().estimate(b.plus(reward=self.c.reward_scale * b.reward))

    def remember(self, b: Batch) -> dict[str, Tensor]:
        """The pairs ``eps [B, N, A]`` and ``t [B, N]``, and their ``flow_loss [B, N]``."""
        shape, chance = (len(b), self.c.samples), dict(generator=self.generator, device=self.device)
        times = torch.tensor(grid(self.c.flow_steps)[:-1], device=self.device)
        drawn = {
            "eps": torch.randn(*shape, self.policy.dim, **chance),
            "t": times[torch.randint(len(times), shape, **chance)],
        }
        return drawn | {"flow_loss": self.flow_loss(b.plus(**drawn), self.policy(b.obs))}

    def flow_loss(self, b: Batch, condition: Tensor) -> Tensor:
        """ℓ_i of the present policy, ``[B, N]``."""
        action = b.action.unsqueeze(-2)
        velocity = self.policy.velocity(condition, between(action, b.eps, b.t), b.t)
        if self.c.error == "velocity":
            return velocity_error(velocity, action, b.eps)
        return noise_error(velocity, action, b.eps, b.t)

    def reconsider(self, b: Batch) -> Batch:
        condition, value = self.policy.both(b.obs)
        return b.plus(new_value=value, new_flow_loss=self.flow_loss(b, condition))

    def log_ratio(self, b: Batch) -> Tensor:
        return log_ratios(b.flow_loss, b.new_flow_loss, self.c.ratio == "each")

    def measure(self, b: Batch) -> dict[str, Tensor]:
        return {"flow_loss": b.new_flow_loss.mean(), "flow_loss_max": b.new_flow_loss.max()}

    def policy_loss(self, b: Batch) -> Tensor:
        return -surrogate(b.ratio, b.advantage.unsqueeze(-1), self.c.clip_range).mean()
