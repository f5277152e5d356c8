"""What follows an input, and how sure that is: an ensemble of Gaussian networks, and how it is fitted to data.

Each of E members sees its own bootstrap sample of the data and says y ~ N(μ(x), exp l(x)): the variance is what cannot be
known, the members' disagreement what is not known yet (Chua, Calandra, McAllister, Levine, 2018, arXiv 1805.12114). The
fit is as Janner, Fu, Zhang, Levine, 2019, arXiv 1906.08253, have it in their code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from .critics import QEnsemble
from .errors import NonFiniteError
from .graph import static
from .part import Part

__all__ = ["ProbabilisticEnsemble", "bounded", "gaussian_nll", "standardisation"]

LIMITS = (-10.0, 0.5)
"""l_min and l_max at the start."""
IMPROVEMENT = 0.01
"""A member is better than it ever was where its error is below the best by more than this share."""


def bounded(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """l between its trainable bounds, with a gradient everywhere: l = l_max - softplus(l_max - l), then
    l_min + softplus(l - l_min). It overshoots l_max by softplus(l_min - l_max)."""
    return low + softplus(high - softplus(high - raw) - low)


def gaussian_nll(mean: Tensor, log_var: Tensor, y: Tensor) -> Tensor:
    """(μ - y)² exp(-l) + l: twice the negative log-likelihood, less log 2π, of each number."""
    return (mean - y).square() * (-log_var).exp() + log_var


def standardisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[size]`` of rows in double precision; a constant column's deviation is 1."""
    std, mean = torch.std_mean(x.double(), 0, correction=0)
    return mean, torch.where(std < 1e-12, torch.ones_like(std), std)


class ProbabilisticEnsemble(nn.Module):
    """E Gaussian networks over the same input, one batched product a layer.

    Args:
        size: input features.
        out: D, numbers predicted.
        hidden: widths of the hidden layers.
        members: E.
        elites: how many of them, those of the least error on held-out data, :meth:`sample` draws from.
        lr, batch_size, weight_decay: of the fit; one decay for all layers, or one a layer.
        patience: passes without any better member after which a fit ends.
        max_passes: passes after which it ends anyhow; None: no such limit.
        compiled: run the gradient step as a compiled graph.

    Attributes:
        part: its parameters and their Adam, which goes on from fit to fit.
        elites: indices ``[elites]`` of the best members, best first.

    Raises:
        ValueError: more elites than members, or decays for another number of layers.
    """

    def __init__(
        self, size: int, out: int, *, hidden: Sequence[int] = (200, 200, 200, 200), members: int = 7, elites: int = 5,
        lr: float = 1e-3, batch_size: int = 256, weight_decay: float | Sequence[float] = 0.0, patience: int = 5,
        max_passes: int | None = None, compiled: bool = False, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        super().__init__()
        if elites > members:
            raise ValueError(f"{elites} elites of {members} members: there must be at least as many members")
        layers = len(hidden) + 1
        decays = [weight_decay] * layers if isinstance(weight_decay, (int, float)) else list(weight_decay)
        if len(decays) != layers:
            raise ValueError(
                f"weight_decay has {len(decays)} numbers for {layers} layers (the hidden ones and the last)"
            )
        self.members, self.out, self.decays = members, out, decays
        self.batch_size, self.patience, self.max_passes, self.compiled = batch_size, patience, max_passes, compiled
        self.net = QEnsemble(size, hidden, members, out=2 * out, activation_fn=nn.SiLU)
        for weight, bias in zip(self.net.weights, self.net.biases, strict=True):
            std = 1 / (2 * math.sqrt(weight.shape[1]))
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(bias)
        self.min_log_var, self.max_log_var = (nn.Parameter(torch.full((out,), limit)) for limit in LIMITS)
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(size, dtype=torch.float64))
        self.register_buffer("elites", torch.arange(elites))
        self.to(device)
        self.part = Part(self.parameters(), lr=lr)

    def forward(self, x: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """μ and l ``[E, B, D]`` of standardised inputs ``[B, size]``, or each member's own ``[E, B, size]``."""
        mean, raw = self.net(x, members=members).chunk(2, -1)
        return mean, bounded(raw, self.min_log_var, self.max_log_var)

    def standardised(self, x: Tensor) -> Tensor:
        """Inputs as the networks see them, float32."""
        return ((x - self.mean) / self.std).float()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Σ_b mean[ (μ_b - y)² exp(-l_b) + l_b ] + 0.01 Σ(l_max - l_min) + Σ_layer c/2 |W|², 0-d."""
        nll = gaussian_nll(*self(x), y).mean((1, 2)).sum()
        decay = sum(c / 2 * w.square().sum() for c, w in zip(self.decays, self.net.weights, strict=True))
        return nll + 0.01 * (self.max_log_var - self.min_log_var).sum() + decay

    @static
    def gradient_step(self, x: Tensor, y: Tensor) -> Tensor:
        """One step down the loss of one batch a member, ``[E, B, .]``. Returns the loss before it."""
        loss = self.loss(x, y)
        self.part.descend(loss)
        return loss.detach()

    # -- fitting ---------------------------------------------------------------------------------------------------

    def fit(self, x: Tensor, y: Tensor, generator: torch.Generator, holdout: int) -> dict[str, Tensor]:
        """Fit to rows ``x [N, size], y [N, D]``, from where the last fit ended; ``holdout`` of them only judge.

        Each member sees its own N - holdout draws with replacement, in a new order every pass. After a pass each member's
        squared error on the held-out rows is taken and a member that is better than it ever was in this fit by 1 % is
        kept as it is. When more than ``patience`` passes in a row made none better, every member goes back to its best,
        and those of the least error become the elites.

        Returns:
            ``model_loss`` (the last pass's mean), ``model_holdout_mse`` (the elites' mean) and ``model_passes``, 0-d.

        Raises:
            ValueError: no row is left to learn from, or none to judge.
            NonFiniteError: the error of a member is NaN or infinite; names the member and the pass.
        """
        if not 0 < holdout < len(x):
            raise ValueError(f"holdout={holdout} of {len(x)} rows: some must be held out, and some must be left")
        order = torch.randperm(len(x), generator=generator, device=x.device)
        judge, learn = order[:holdout], order[holdout:]
        mean, std = standardisation(x[learn])
        self.mean.copy_(mean)
        self.std.copy_(std)
        x = self.standardised(x)
        shape = (self.members, len(learn))
        rows = learn[torch.randint(len(learn), shape, generator=generator, device=x.device)]
        best = torch.full((self.members,), torch.inf, device=x.device)
        snapshot = [p.detach().clone() for p in self._own()]
        passes = idle = 0
        while idle <= self.patience and passes != self.max_passes:
            rows = rows.gather(1, torch.rand(shape, generator=generator, device=x.device).argsort(1))
            losses = [self.gradient_step(x[i], y[i]) for i in rows.split(self.batch_size, 1)]
            error = self.holdout_error(x[judge], y[judge])
            passes += 1
            if not bool(torch.isfinite(error).all()):
                wrong = (~torch.isfinite(error)).nonzero().flatten().tolist()
                raise NonFiniteError(
                    f"the model diverged: the held-out error of member {wrong[0]} (of {self.members}) is "
                    f"{float(error[wrong[0]])} after pass {passes} of the fit. Lower model_learning_rate, or look for "
                    "huge observations or rewards"
                )
            better = error < (1 - IMPROVEMENT) * best
            best = torch.where(better, error, best)
            for kept, p in zip(snapshot, self._own(), strict=True):
                kept[better] = p.detach()[better]
            idle = 0 if bool(better.any()) else idle + 1
        with torch.no_grad():
            for kept, p in zip(snapshot, self._own(), strict=True):
                p.copy_(kept)
        self.elites.copy_(best.argsort(stable=True)[: len(self.elites)])
        return {
            "model_loss": torch.stack(losses).mean(),
            "model_holdout_mse": best[self.elites].mean(),
            "model_passes": torch.tensor(float(passes)),
        }

    def _own(self) -> Iterable[nn.Parameter]:
        """The parameters that are each member's own, ``[E, ...]``."""
        return self.net.parameters()

    @torch.no_grad()
    def holdout_error(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error ``[E]`` of each member's mean on standardised rows."""
        return (self(x)[0] - y).square().mean((1, 2))

    # -- predicting ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """y ``[B, D]`` of inputs ``[B, size]``: for each row an elite drawn at random, and a draw from its Gaussian.

        Raises:
            NonFiniteError: a prediction is NaN or infinite; names the member and the row.
        """
        chosen = torch.randint(len(self.elites), (len(x),), generator=generator, device=x.device)
        y = torch.randn(len(x), self.out, generator=generator, device=x.device)
        x = self.standardised(x)
        for i in range(len(self.elites)):  # each row costs one member, not all of them
            rows = (chosen == i).nonzero().squeeze(1)
            mean, log_var = self(x[rows], self.elites[i : i + 1])
            y[rows] = mean[0] + (0.5 * log_var[0]).exp() * y[rows]
        if not bool(torch.isfinite(y.sum())) and not bool((finite := torch.isfinite(y).all(1)).all()):
            row = int((~finite).nonzero()[0])
            raise NonFiniteError(
                f"member {int(self.elites[chosen[row]])} of the model predicted {y[row].tolist()} in row {row}: it has "
                "diverged. Lower model_learning_rate, or shorten the branches"
            )
        return y
