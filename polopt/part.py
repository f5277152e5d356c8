"""Parts: parameters that step together with their optimizer, and the one place where an optimizer steps.

``part.descend(loss)`` takes the gradient of a loss for the part's own parameters only, clips it, and steps. There is no
``.backward()``, no ``zero_grad`` and no freezing of other networks: whoever's loss it is, only this part moves.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Part", "check_optimizer", "polyak_", "retreat_"]


class Part:
    """Parameters and their optimizer.

    Adam and AdamW (decoupled decay) are computed here, equal to ``torch.optim.Adam``/``AdamW``: eagerly by torch's fused
    kernel, and inside a compiled graph by plain operations that the compiler fuses. So is SGD without momentum. Any other
    ``torch.optim`` class is held as it is and steps eagerly.

    Args:
        params: what steps together; of it, what takes a gradient.
        optimizer: a ``torch.optim`` class.
        lr: learning rate; a 0-d tensor ``part.lr`` holds it and may be written between steps.
        max_grad_norm: clip the global gradient norm to this, or None.
        kwargs: the optimizer's other arguments (``eps``, ``betas``, ``weight_decay``, ...).

    Raises:
        ValueError: there is nothing to step.
        TypeError: the optimizer does not know an argument.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
        *,
        lr: float = 1e-3,
        max_grad_norm: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.params = [p for p in params if p.requires_grad]
        if not self.params:
            raise ValueError("a part needs at least one parameter that takes a gradient")
        p = self.params[0]
        self.max_grad_norm = max_grad_norm
        self.declared_lr = float(lr)
        self.lr = torch.tensor(float(lr), device=p.device)
        self._torch = optimizer(self.params, lr=float(lr), **kwargs)  # also checks the arguments
        d = self._torch.defaults
        plain = optimizer in (torch.optim.Adam, torch.optim.AdamW) and not (d["amsgrad"] or d["maximize"])
        self.adam = plain and not (optimizer is torch.optim.Adam and d["weight_decay"])
        self.sgd = optimizer is torch.optim.SGD and not (d["momentum"] or d["weight_decay"] or d["maximize"])
        if self.adam:
            self.beta1, self.beta2 = d["betas"]
            self.eps, self.decay = d["eps"], d["weight_decay"]
            self.first = [torch.zeros_like(p) for p in self.params]
            self.second = [torch.zeros_like(p) for p in self.params]
            self.count = torch.zeros((), device=p.device)

    def gradient(self, loss: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        """d loss / d params.

        Raises:
            RuntimeError: the loss does not depend on one of the parameters.
        """
        return torch.autograd.grad(loss, self.params, **kwargs)

    def descend(self, loss: Tensor) -> Tensor:
        """One optimizer step down the loss. Returns the gradient's norm before clipping, 0-d."""
        return self.step(self.gradient(loss))

    def step(self, gradient: tuple[Tensor, ...]) -> Tensor:
        """One optimizer step along a given gradient. Returns its norm before clipping, 0-d."""
        if self.adam and self.first[0].dtype != self.params[0].dtype:
            self._follow(self.params[0].dtype)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient)))
            limit = self.max_grad_norm
            if self.sgd:
                scale = 1.0 if limit is None else (limit / (norm + 1e-6)).clamp(max=1.0)
                for p, g in zip(self.params, gradient, strict=True):
                    p.sub_(self.lr * scale * g)
            elif not self.adam:
                self._other(gradient, norm)
            elif torch.compiler.is_compiling() or norm.dtype != torch.float32:  # the kernel clips in float32 only
                self._fusible(gradient, norm)
            else:
                scale = None if limit is None else ((norm + 1e-6) / limit).clamp(min=1.0)
                self.count += 1
                torch._fused_adamw_(
                    self.params, list(gradient), self.first, self.second, [], [self.count] * len(self.params),
                    lr=self.lr, beta1=self.beta1, beta2=self.beta2, weight_decay=self.decay, eps=self.eps,
                    amsgrad=False, maximize=False, grad_scale=scale, found_inf=None,
                )  # fmt: skip
        return norm

    def _follow(self, dtype: torch.dtype) -> None:
        """Hold moments, count and rate in the precision of a module that was converted (``.double()``)."""
        self.first, self.second = [m.to(dtype) for m in self.first], [v.to(dtype) for v in self.second]
        self.count, self.lr = self.count.to(dtype), self.lr.to(dtype)

    def _fusible(self, gradient: tuple[Tensor, ...], norm: Tensor) -> None:
        scale = None if self.max_grad_norm is None else (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self.count.add_(1)
        correct1 = 1 - self.beta1**self.count
        correct2 = (1 - self.beta2**self.count).sqrt()
        for p, g, m, v in zip(self.params, gradient, self.first, self.second, strict=True):
            if scale is not None:
                g = g * scale
            if self.decay:
                p.mul_(1 - self.lr * self.decay)
            m.lerp_(g, 1 - self.beta1)
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            p.sub_(self.lr / correct1 * m / (v.sqrt() / correct2 + self.eps))

    def _other(self, gradient: tuple[Tensor, ...], norm: Tensor) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "only Adam, AdamW and SGD without momentum can be compiled; use compile=False with this optimizer"
            )
        scale = 1.0 if self.max_grad_norm is None else (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        for p, g in zip(self.params, gradient, strict=True):
            p.grad = g * scale
        for group in self._torch.param_groups:
            group["lr"] = float(self.lr)
        self._torch.step()
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Optimizer state: tensors and numbers, no parameters."""
        if self.adam:
            return {"lr": self.lr, "count": self.count, "first": _named(self.first), "second": _named(self.second)}
        state = self._torch.state_dict()["state"]
        return {"lr": self.lr, "state": {str(i): dict(s) for i, s in state.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a :meth:`state_dict` back, in place.

        Raises:
            ValueError: it is of another optimizer or other parameters.
        """
        if ("first" in state) != self.adam:
            raise ValueError("this optimizer state is of another kind of optimizer")
        with torch.no_grad():
            self.lr.copy_(torch.as_tensor(state["lr"]))
            if self.adam:
                for mine, theirs in ((self.first, state["first"]), (self.second, state["second"])):
                    if len(mine) != len(theirs):
                        raise ValueError(f"this optimizer state has {len(theirs)} parameters, the model {len(mine)}")
                    for i, m in enumerate(mine):
                        m.copy_(theirs[str(i)])
                self.count.copy_(torch.as_tensor(state["count"]))
                return
        mine = self._torch.state_dict()
        mine["state"] = {int(i): s for i, s in state["state"].items()}
        self._torch.load_state_dict(mine)

    def reset(self) -> None:
        """Forget the moments: the next step is a first step."""
        if self.adam:
            for t in (*self.first, *self.second, self.count):
                t.zero_()
        else:
            self._torch.state.clear()

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Inside, the optimizer starts anew; afterwards its moments are what they were before."""
        state = copy.deepcopy(self.state_dict())
        self.reset()
        try:
            yield
        finally:
            self.load_state_dict(state)

    # What a method that moves the parameters by itself (a natural gradient, a bisection) needs.

    def vector(self) -> Tensor:
        """The parameters as one vector, a copy."""
        return torch.cat([p.detach().reshape(-1) for p in self.params])

    def assign(self, vector: Tensor) -> None:
        """Write a :meth:`vector` back into the parameters, in place."""
        if vector.numel() != (n := sum(p.numel() for p in self.params)):
            raise ValueError(f"a vector of {vector.numel()} numbers for {n} parameters")
        with torch.no_grad():
            for p, x in zip(self.params, vector.split([p.numel() for p in self.params]), strict=True):
                p.copy_(x.view_as(p))


def _named(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(i): t for i, t in enumerate(tensors)}


def check_optimizer(policy_kwargs: dict[str, Any]) -> None:
    """Raise where ``policy_kwargs`` name an optimizer that is none, or its learning rate.

    Raises:
        TypeError: ``optimizer_class`` is no class of ``torch.optim``, or ``optimizer_kwargs`` no dict.
        ValueError: they say ``lr``.
    """
    kind, kwargs = policy_kwargs.get("optimizer_class", torch.optim.Adam), policy_kwargs.get("optimizer_kwargs")
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise TypeError(f"optimizer_class={kind!r} must be a class of torch.optim, such as torch.optim.AdamW")
    if not isinstance(kwargs, (dict, type(None))):
        raise TypeError(f"optimizer_kwargs={kwargs!r} must be a dict, such as dict(weight_decay=1e-2)")
    if kwargs and "lr" in kwargs:
        raise ValueError(f"optimizer_kwargs: lr={kwargs['lr']!r} is the hyperparameter learning_rate; give it there")


def polyak_(target: Iterable[Tensor], source: Iterable[Tensor], tau: float | Tensor) -> None:
    """target <- tau source + (1 - tau) target, in place."""
    target, source = list(target), list(source)
    with torch.no_grad():
        if torch.compiler.is_compiling():
            for t, s in zip(target, source, strict=True):
                t.lerp_(s, tau)
        else:
            torch._foreach_lerp_(target, source, tau)


def retreat_(part: Part, start: Tensor, holds: Callable[[], bool], halvings: int = 12) -> float:
    """Go back from where the part stands towards ``start``, as far as it takes for a condition to hold.

    θ(t) = start + t (now - start); nothing moves where t = 1 holds. Else t is bisected and the largest t found to hold is
    kept: ``start`` itself, exactly, where no other did.

    Args:
        start: a :meth:`Part.vector` at which the condition holds.
        holds: whether it does at the part's present parameters.
        halvings: t is known to 2^-halvings.

    Returns:
        t.
    """
    if holds():
        return 1.0
    now, low, high = part.vector(), 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        part.assign(start.lerp(now, middle))
        low, high = (middle, high) if holds() else (low, middle)
    part.assign(start.lerp(now, low) if low else start)
    return low
