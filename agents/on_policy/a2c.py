"""A2C: Advantage Actor-Critic, the synchronous form of A3C.

Mnih, Badia, Mirza, Graves, Lillicrap, Harley, Silver, Kavukcuoglu, Asynchronous Methods for Deep Reinforcement Learning,
2016, arXiv 1602.01783.

    G_t  = Σ_{i<k} γ^i r_{t+i} + γ^k V(s_{t+k}),   A_t = G_t - V(s_t)                        (section 4)
    L(θ) = E[ -log π_θ(a|s) A + c_v (V_θ - G)² - c_e H[π_θ] ]                                (section 4)

One step on a short rollout of many worlds, by RMSProp. A is GAE, which at λ = 1 is the equation above with k as far as
the rollout (or the episode) goes.

Differs from PPO in using the data once: PPO of one epoch and one minibatch has the same gradient at any clip range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polopt.batch import Batch
from polopt.config import hyper
from polopt.on_policy import OnPolicy, OnPolicyConfig
from polopt.schedule import Schedule

from .reinforce import score_loss

__all__ = ["A2C"]


class A2C(OnPolicy):
    """Advantage Actor-Critic."""

    policy_loss_name = "policy_loss"

    fixed = frozenset({"use_rms_prop", "rms_prop_eps"})
    starts = frozenset({("use_rms_prop", "policy.optimizer")})

    @dataclass(frozen=True, kw_only=True)
    class Config(OnPolicyConfig):
        learning_rate: Schedule = hyper(7e-4, "[0, inf)", "learning rate")
        n_steps: int = hyper(5, "[1, inf)", "k, steps of each world per update")
        gae_lambda: float = hyper(1.0, "[0, 1]", "λ; the paper: 1")
        normalize_advantage: bool = hyper(False, doc="advantages to zero mean and unit variance; the paper: no")
        ent_coef: float = hyper(0.0, "(-inf, inf)", "c_e, weight of the entropy bonus; the paper: 0.01 (β)")
        vf_coef: float = hyper(0.5, "[0, inf)", "c_v, weight of the value loss")
        use_rms_prop: bool = hyper(True, doc="RMSProp with a smoothing of 0.99; otherwise Adam")
        rms_prop_eps: float = hyper(1e-5, "(0, inf)", "ε of RMSProp")

    @property
    def optimizer_class(self) -> type[torch.optim.Optimizer]:
        return torch.optim.RMSprop if self.config.use_rms_prop else torch.optim.Adam

    @property
    def optimizer_kwargs(self) -> dict[str, float]:
        return {"alpha": 0.99, "eps": self.config.rms_prop_eps} if self.config.use_rms_prop else {"eps": 1e-5}

    def policy_loss(self, b: Batch) -> Tensor:
        return score_loss(b.new_log_prob, b.advantage)

    def improve(self, b: Batch) -> dict[str, Tensor]:
        self._n_updates += 1
        return self.minibatch_step(b)
