"""RL with KL penalties is better viewed as Bayesian inference (Korbak, Perez, Buckley, 2022, arXiv 2205.11275).

Maximising ``J(pi) = E_pi[r] - beta KL(pi || pi_0)`` conditions the prior pi_0 on high reward. The optimum is a
posterior, the objective an evidence lower bound:

1. ``pi* = pi_0 exp(r/beta) / Z``,   ``J(pi) = beta log Z - beta KL(pi || pi*)``
2. sequences: ``V(prefix) = beta log sum_a pi_0(a|prefix) exp(V(prefix a)/beta)``, and the product of the soft policies
   ``pi_0 exp((V(prefix a) - V(prefix))/beta)`` is pi* itself, with ``V(empty) = beta log Z``
3. stochastic dynamics: control takes ``Q = r + E V``; the posterior over trajectories also bends the dynamics to its
   liking, ``Q = r + beta log E exp(V/beta)``. Its value is never less; it is equal where P is deterministic.

Without the KL, entropy collapses. Three descents on the logits of pi have the same target: reverse
KL (REINFORCE with reward ``r - beta log pi/pi_0``), forward KL (``pi* - pi``; distributional policy gradient), and
regression ``E (log pi/pi_0 - r/beta + log Z)^2``. Differs from entropy-regularised NPG by a prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from ..experiment import Curve, Experiment, Finding, Panel
from ..finite import expect
from ..generators import random_finite
from ..simplex import kl, log_normalise

__all__ = [
    "Posterior",
    "SequenceModel",
    "effective_sample_size",
    "entropy",
    "forward_kl_gradient",
    "importance_weights",
    "kl_objective",
    "kl_posterior",
    "posterior_plan",
    "random_sequences",
    "regression_gradient",
    "reverse_kl_gradient",
    "soft_plan",
    "soft_sequence_policy",
]


class Posterior(NamedTuple):
    """``pi* = pi_0 exp(r/beta) / Z``."""

    log_pi: np.ndarray
    """``[..., K]``."""
    log_Z: np.ndarray
    """``[...]``."""


class SequenceModel(NamedTuple):
    """An autoregressive prior over all sequences of a length L on K tokens, and their rewards."""

    log_prior: list[np.ndarray]
    """At l = 0..L-1, ``[K^l, K]``: the next token's log-probabilities after each prefix, in lexicographic order."""
    r: np.ndarray
    """``[K^L]``."""

    def sequence_log_prior(self) -> np.ndarray:
        """Log-probability of every sequence, ``[K^L]``."""
        return _product(self.log_prior)


def kl_posterior(log_p0: np.ndarray, r: np.ndarray, beta: float) -> Posterior:
    """Equation 1: the optimum of ``E_pi[r] - beta KL(pi || p0)`` over laws ``[..., K]``, and ``log Z``.

    Raises:
        ValueError: beta <= 0, where the optimum is a point mass and has no density.
    """
    if not beta > 0:
        raise ValueError(f"beta={beta} must be > 0; at 0 the optimum is a point mass on the largest reward")
    logits = log_p0 + r / beta
    log_Z = logsumexp(logits, axis=-1)
    return Posterior(logits - log_Z[..., None], log_Z)


def kl_objective(pi: np.ndarray, p0: np.ndarray, r: np.ndarray, beta: float) -> np.ndarray:
    """``J(pi) = E_pi[r] - beta KL(pi || p0)``, ``[...]``."""
    return (pi * r).sum(-1) - beta * kl(pi, p0)


def _product(log_policies: list[np.ndarray]) -> np.ndarray:
    log_p = np.zeros(1)
    for level in log_policies:
        log_p = (log_p[:, None] + level).ravel()
    return log_p


def soft_sequence_policy(model: SequenceModel, beta: float) -> tuple[list[np.ndarray], float]:
    """Equation 2: next-token log-policies, shaped as the prior's, and ``V(empty)``."""
    V, policies = model.r, []
    for level in reversed(model.log_prior):
        log_pi, log_Z = kl_posterior(level, V.reshape(level.shape), beta)
        policies.append(log_pi)
        V = beta * log_Z
    return policies[::-1], float(V[0])


def soft_plan(P: np.ndarray, r: np.ndarray, log_prior: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """KL control under the dynamics as they are, ``Q = r + E V``: V ``[H+1, S]`` and log-policies ``[H, S, A]``."""
    return _backward(r, log_prior, beta, lambda h, V: expect(P[h], V))


def posterior_plan(P: np.ndarray, r: np.ndarray, log_prior: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Equation 3, the posterior over trajectories, ``Q = r + beta log E exp(V/beta)``: shaped as :func:`soft_plan`."""

    def lucky(h: int, V: np.ndarray) -> np.ndarray:
        return V.max() + beta * np.log(expect(P[h], np.exp((V - V.max()) / beta)))

    return _backward(r, log_prior, beta, lucky)


def _backward(
    r: np.ndarray, log_prior: np.ndarray, beta: float, successor: Callable[[int, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    H, S, _ = r.shape
    V, log_pi = np.zeros((H + 1, S)), np.empty(r.shape)
    for h in range(H - 1, -1, -1):
        log_pi[h], log_Z = kl_posterior(log_prior[h], r[h] + successor(h, V[h + 1]), beta)
        V[h] = beta * log_Z
    return V, log_pi


def reverse_kl_gradient(log_pi: np.ndarray, log_p0: np.ndarray, r: np.ndarray, beta: float) -> np.ndarray:
    """The gradient of J in the logits of pi, ``[K]``: ``pi (R - E R)`` with ``R = r - beta log(pi/p0)`` held fixed.

    R's own gradient has expectation 0, so REINFORCE must not differentiate it.
    """
    pi = np.exp(log_pi)
    R = r - beta * (log_pi - log_p0)
    return pi * (R - pi @ R)


def forward_kl_gradient(log_pi: np.ndarray, posterior: Posterior) -> np.ndarray:
    """The gradient of ``-KL(pi* || pi)`` in the logits of pi, ``[K]``: ``pi* - pi``."""
    return np.exp(posterior.log_pi) - np.exp(log_pi)


def regression_gradient(
    log_pi: np.ndarray, log_p0: np.ndarray, r: np.ndarray, beta: float, q: np.ndarray
) -> np.ndarray:
    """Minus half the gradient of ``Var_q(log pi/p0 - r/beta)`` in the logits, ``[K]``; log Z is the batch's mean."""
    residual = log_pi - log_p0 - r / beta
    return -q * (residual - q @ residual)


def importance_weights(log_pi: np.ndarray, log_p0: np.ndarray, r: np.ndarray, beta: float) -> np.ndarray:
    """``w = pi*/pi``, ``[K]``, with which samples of pi estimate the forward-KL gradient ``E_pi[w grad log pi]``."""
    return np.exp(kl_posterior(log_p0, r, beta).log_pi - log_pi)


def effective_sample_size(weights: np.ndarray) -> float:
    """``(sum w)^2 / sum w^2`` of sampled weights ``[n]``."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def entropy(log_pi: np.ndarray) -> float:
    """Shannon entropy [nats] of log-probabilities ``[K]``."""
    return float(-(np.exp(log_pi) * log_pi).sum())


def random_sequences(num_tokens: int = 3, length: int = 4, rng: int = 0) -> SequenceModel:
    """Normal logits, drawn prefix length by prefix length, then normal rewards."""
    rng = np.random.default_rng(rng)
    prior = [log_normalise(rng.normal(size=(num_tokens**l, num_tokens))) for l in range(length)]  # noqa: E741
    return SequenceModel(prior, rng.normal(size=num_tokens**length))


def experiment(seed: int = 0) -> Experiment:
    """Collapse without the KL, and three roads to the posterior, on 81 sequences; the optimism of inferred dynamics."""
    model, beta, steps = random_sequences(rng=seed), 0.5, 4000
    log_p0, r = model.sequence_log_prior(), model.r
    target = kl_posterior(log_p0, r, beta)
    uniform = np.full(len(r), 1.0 / len(r))
    descents = {
        "no KL (β = 0)": lambda x: reverse_kl_gradient(x, log_p0, r, 0.0),
        "reverse KL": lambda x: reverse_kl_gradient(x, log_p0, r, beta),
        "forward KL": lambda x: forward_kl_gradient(x, target),
        "regression": lambda x: len(r) * regression_gradient(x, log_p0, r, beta, uniform) / 10,
    }
    logits = dict.fromkeys(descents, log_p0)
    entropies = {name: np.empty(steps) for name in descents}
    distances = {name: np.empty(steps) for name in descents}
    for t in range(steps):
        for name, ascent in descents.items():
            x = logits[name]
            entropies[name][t], distances[name][t] = entropy(x), float(kl(np.exp(target.log_pi), np.exp(x)))
            logits[name] = log_normalise(x + ascent(x))

    policies, root = soft_sequence_policy(model, beta)
    product_error = np.abs(np.exp(_product(policies)) - np.exp(target.log_pi)).max()
    betas = np.geomspace(0.02, 20, 40)
    mdp = random_finite(4, 5, 3, rng=seed)
    log_prior = np.full(mdp.r.shape, -np.log(3))
    optimism = np.array(
        [np.subtract(*(f(mdp.P, mdp.r, log_prior, b)[0][0, 0] for f in (posterior_plan, soft_plan))) for b in betas]
    )
    t = np.arange(1, steps + 1)
    findings = [
        Finding.at_most("soft policy's product - posterior, largest difference", product_error, 1e-12),
        Finding.near("V(empty), against β log Z", root, beta * float(target.log_Z), 1e-12),
        Finding.at_most("β = 0: entropy after 4000 steps (collapse)", entropies["no KL (β = 0)"][-1], 1e-2),
        Finding.near(
            "reverse KL: entropy, against the posterior's", entropies["reverse KL"][-1], entropy(target.log_pi), 2e-3
        ),
        Finding.at_most("forward KL: KL(π*||π) after 3000 steps", distances["forward KL"][2999], 2e-3),
        Finding.at_least("least optimism of inferred dynamics over β", optimism.min(), 0.0),
    ]
    level = np.full(steps, entropy(target.log_pi))
    return Experiment(
        "A KL penalty is Bayesian inference: its optimum is a posterior, without it the policy collapses",
        "Korbak, Perez, Buckley 2022, arXiv 2205.11275",
        [
            Panel(
                "entropy of the policy",
                "gradient step",
                "entropy [nats]",
                [Curve(n, t, y) for n, y in entropies.items()] + [Curve("posterior", t, level, "level")],
                "log",
            ),
            Panel(
                "distance to the posterior",
                "gradient step",
                "KL(π* || π) [nats]",
                [Curve(n, t, y) for n, y in distances.items()],
                "log",
                "log",
                (1e-9, 1e3),
            ),
            Panel(
                "stochastic dynamics: inference is optimistic",
                "β",
                "V(posterior) - V(control)",
                [Curve("Dirichlet(1) transitions, H = 4", betas, optimism)],
                "log",
            ),
        ],
        findings,
    )
