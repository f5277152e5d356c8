"""The on-policy family: learn from the latest rollout, then throw it away.

What every method here shares: roll out with the present policy, look at the batch once (values, and what the ratio is
measured from), estimate advantages, improve, and measure how far the policy moved. A method fills slots:

=================  =================================================================================================
``make_policy``    its networks; a ``policy_type``, by default an :class:`~polopt.policy.ActorCritic`
``make_parts``     which parameters step together; one part ``policy`` over actor and critic by default
``behaviour``      the policy that acts; the one that learns by default, else a lagged copy of it
``remember(b)``    what the ratio is measured from; the behaviour policy's ``params`` and ``log_prob`` by default
``reconsider(b)``  the same of the present policy, and ``new_value``
``log_ratio(b)``   their difference; log π_new(a|s) - log π_old(a|s) by default. It alone decides the ratio
``measure(b)``     how far the policy moved beyond what the ratio tells: entropy and exact KL by default
``estimate(b)``    advantages and return targets; GAE by default. Where ``reestimates``, anew for every epoch
``rows(b)``        ``[T, N]`` to the rows minibatches are drawn from; in order of time by default
``policy_loss(b)`` the objective, negated; every first-order method has one
``value_loss(b)``  squared error to the return target by default
``table()``        the ordered steps of one minibatch, ``part -> loss``; one joint step by default, two for split parts
``minibatches(b)`` one epoch's rows; freshly shuffled by default
``improve(b)``     epochs of minibatches by default; a natural gradient replaces it
``finish(b)``      what comes after the epochs; nothing by default
=================  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from gymnasium import Space, spaces
from torch import Tensor

from .advantage import gae
from .agent import Agent, AgentConfig
from .batch import Batch, tree_map
from .config import hyper
from .distributions import Distribution, distribution_for
from .errors import NonFiniteError
from .graph import static
from .metrics import explained_variance
from .part import check_optimizer
from .policy import ActorCritic, Policy
from .schedule import Schedule
from .sde import SDEHead, held, take_options
from .spaces import is_image

__all__ = ["EpochsConfig", "OnPolicy", "OnPolicyConfig", "clipped_value_error"]


def clipped_value_error(value: Tensor, old_value: Tensor, returns: Tensor, clip_range: float | Tensor) -> Tensor:
    """(V_old + clip(V - V_old, ±ε_v) - G)², ``[B]``: the value may not leave its old one by more than ε_v."""
    return (old_value + (value - old_value).clamp(-clip_range, clip_range) - returns).square()


@dataclass(frozen=True, kw_only=True)
class OnPolicyConfig(AgentConfig):
    """Hyperparameters of every on-policy method."""

    learning_rate: Schedule = hyper(3e-4, "[0, inf)", "learning rate of Adam")
    n_steps: int = hyper(2048, "[1, inf)", "T, steps of each world per iteration")
    gamma: float = hyper(0.99, "[0, 1]", "γ, discount")
    gae_lambda: float = hyper(0.95, "[0, 1]", "λ of the generalised advantage estimate")
    normalize_advantage: bool = hyper(True, doc="advantages to zero mean and unit variance, per minibatch")
    max_grad_norm: float | None = hyper(0.5, "(0, inf)", "bound on the gradient's global norm")
    use_sde: bool = hyper(False, doc="explore by noise that is a function of the state (gSDE), drawn anew each rollout")
    sde_sample_freq: int = hyper(
        -1, "[-1, inf)", "steps of a rollout after which that noise is drawn anew; -1, 0: at its start only"
    )
    rollout_buffer_class: Any = hyper(None, doc="stable-baselines3's; not used here")
    rollout_buffer_kwargs: Any = hyper(None, doc="stable-baselines3's; not used here")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_buffer_class is not None or self.rollout_buffer_kwargs:
            raise NotImplementedError(
                "rollout_buffer_class is not used: override `estimate` in a method file to change what is learned from"
            )


@dataclass(frozen=True, kw_only=True)
class EpochsConfig(OnPolicyConfig):
    """Hyperparameters of the methods that sweep epochs of minibatches."""

    batch_size: int | None = hyper(64, "[1, inf)", "rows of a minibatch; None: the whole rollout")
    n_epochs: int = hyper(10, "[1, inf)", "K, passes over the rollout")
    ent_coef: float = hyper(0.0, "(-inf, inf)", "c_e, weight of the entropy bonus")
    vf_coef: float = hyper(0.5, "[0, inf)", "c_v, weight of the value loss")
    clip_range_vf: Schedule | None = hyper(None, "[0, inf)", "ε_v, clip range of the value; None: no clipping")
    target_kl: float | None = hyper(None, "(0, inf)", "stop the epochs once the approximate KL exceeds 1.5 times this")


class OnPolicy(Agent):
    """Base of the family; see the module's docstring for the slots."""

    Config: ClassVar[type[OnPolicyConfig]]
    c: Any
    needs_kl: ClassVar[bool] = False
    """Whether the method needs an exact KL, and so refuses a policy without one."""
    needs_disjoint: ClassVar[bool] = False
    """Whether actor and critic must not share parameters."""
    policy_loss_name: ClassVar[str] = "policy_gradient_loss"
    """The policy loss's key in the log, stable-baselines3's."""
    policy_type: ClassVar[type[Policy]] = ActorCritic
    """The kind of policy; its ``options`` are what ``policy_kwargs`` may say."""
    fixed = frozenset({"max_grad_norm", "use_sde"})
    sde_options: ClassVar[tuple[str, ...]] = ("full_std", "use_expln")
    """What ``policy_kwargs`` may say of state-dependent noise, beside ``log_std_init``."""
    reestimates: ClassVar[bool] = False
    """Whether each epoch learns from advantages and targets of the present critic; one pass of it an epoch."""
    log_ratio_bound: ClassVar[float | None] = None
    """|log r| as the losses see it stays within this, so that squares of r stay finite; None: unbounded."""

    @property
    def policies(self) -> tuple[str, ...]:
        return (*super().policies, "CnnPolicy") if issubclass(self.policy_type, ActorCritic) else super().policies

    # -- slots: networks ---------------------------------------------------------------------------------------------

    def make_policy(self, distribution: Distribution, **kwargs: Any) -> Policy:
        """The networks. ``kwargs`` are ``policy_kwargs`` less the optimizer's; ``distribution`` is the usual one over the
        action space, for kinds of policy that take one."""
        if self.policy_class == "CnnPolicy":
            from stable_baselines3.common.torch_layers import NatureCNN

            kwargs = {
                "features_extractor_class": NatureCNN,
                "share_features_extractor": not self.needs_disjoint,
            } | kwargs
        elif _has_images(self.observation_space):
            from stable_baselines3.common.torch_layers import CombinedExtractor

            kwargs = {
                "features_extractor_class": CombinedExtractor,
                "share_features_extractor": not self.needs_disjoint,
            } | kwargs
        if getattr(kwargs.get("features_extractor_class"), "__name__", "") == "NatureCNN":
            kwargs = {"net_arch": []} | kwargs  # it ends in a layer of its own
        return ActorCritic(self._seen_space(), self.action_space, distribution, **kwargs)

    def _reads_images(self, space: Space) -> bool:
        return super()._reads_images(space) or ("CnnPolicy" in self.policies and _has_images(space))

    def make_parts(self, **optimizer: Any) -> None:
        """One part over actor and critic, with the joint loss and one global gradient clip, as stable-baselines3."""
        self.part("policy", self.policy.parameters(), max_grad_norm=self.config.max_grad_norm, **optimizer)

    def make_split_parts(self, **optimizer: Any) -> None:
        """Disjoint parts ``policy`` and ``critic``, for methods whose policy step must not be the critic's."""
        self.part("policy", self.policy.actor_parameters(), max_grad_norm=self.config.max_grad_norm, **optimizer)
        self.part("critic", self.policy.critic_parameters(), max_grad_norm=self.config.max_grad_norm, **optimizer)

    @property
    def behaviour(self) -> Any:
        """The policy that acts, and of which the batch keeps what the ratio is measured from."""
        return self.policy

    # -- slots: learning -----------------------------------------------------------------------------------------------

    def estimate(self, b: Batch) -> Batch:
        """``advantage`` and ``returns`` (the value target) of a rollout ``[T, N]``: GAE, and A + V."""
        valid = b.valid if "valid" in b else None
        advantage = gae(
            b.reward, b.value, b.next_value, b.terminated, b.truncated, self.c.gamma, self.c.gae_lambda, valid
        )
        return b.plus(advantage=advantage, returns=advantage + b.value)

    def rows(self, b: Batch) -> Batch:
        """``[T, N]`` as rows ``[B]`` of valid transitions, the worlds of one step side by side."""
        b = b.flatten()
        return b.take(b.valid) if "valid" in b else b

    def remember(self, b: Batch) -> dict[str, Tensor]:
        """Of rows ``[B]`` just acted, what the ratio is measured from, ``[B, ...]`` each: the behaviour policy's ``params``,
        and their ``log_prob`` of the action. Whatever is random in it is drawn here, once."""
        params = self.behaviour(b.obs)
        return {"params": params, "log_prob": self.policy.distribution.log_prob(params, b.action)}

    def reconsider(self, b: Batch) -> Batch:
        """The present policy's view of rows: ``new_params, new_log_prob, new_value`` (None without a critic)."""
        params, value = self.policy.both(b.obs) if self.policy.critic_head is not None else (self.policy(b.obs), None)
        return b.plus(
            new_params=params, new_value=value, new_log_prob=self.policy.distribution.log_prob(params, b.action)
        )

    def log_ratio(self, b: Batch) -> Tensor:
        """log r of reconsidered rows, ``[B, ...]``: log π_θ(a|s) - log π_old(a|s)."""
        return b.new_log_prob - b.log_prob

    def policy_loss(self, b: Batch) -> Tensor:
        """What the policy minimises, 0-d. ``b`` has ``ratio``, ``log_ratio``, ``advantage``, ``new_log_prob``,
        ``params`` (of the behaviour policy), ``new_params`` and, where ``needs_kl``, ``kl``."""
        raise NotImplementedError

    def value_loss(self, b: Batch) -> Tensor:
        """mean (V_θ(s) - G)², clipped where there is a ``clip_range_vf``."""
        if getattr(self.c, "clip_range_vf", None) is None:
            return (b.new_value - b.returns).square().mean()
        return clipped_value_error(b.new_value, b.value, b.returns, self.c.clip_range_vf).mean()

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_π - c_e H."""
        log[self.policy_loss_name] = loss = self.policy_loss(b)
        if self.c.ent_coef:
            loss = loss - self.c.ent_coef * self.policy.distribution.entropy(b.new_params).mean()
        return loss

    def critic_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """c_v L_V."""
        log["value_loss"] = loss = self.value_loss(b)
        return self.c.vf_coef * loss

    def loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """L_π + c_v L_V - c_e H."""
        log["loss"] = loss = self.actor_loss(b, log) + self.critic_loss(b, log)
        return loss

    def table(self) -> list[tuple[str, Callable[[Batch, dict[str, Tensor]], Tensor]]]:
        """The steps of one minibatch in their order: which part descends which loss."""
        if "critic" in self.parts:
            return [("policy", self.actor_loss), ("critic", self.critic_loss)]
        return [("policy", self.loss)]

    def minibatches(self, b: Batch) -> Iterator[Batch]:
        """One epoch: the rows in a fresh random order, ``batch_size`` at a time; a smaller last one is kept."""
        size = min(self.c.batch_size or len(b), len(b))
        order = torch.randperm(len(b), generator=self.generator, device=self.device)
        yield from b.take(order).split(size)

    def fit_critic(self, b: Batch, passes: int) -> dict[str, Tensor]:
        """``passes`` sweeps of minibatch steps of the part ``critic`` alone down the value loss. Returns metrics."""
        rows = b.only("obs", "reward", "value", "returns")
        return _mean([self.critic_step(minibatch) for _ in range(passes) for minibatch in self.minibatches(rows)])

    def improve(self, b: Batch) -> dict[str, Tensor]:
        """``n_epochs`` sweeps of minibatch steps; stops early at ``1.5 target_kl``. Returns metrics."""
        logs: list[dict[str, Tensor]] = []
        for epoch in range(self.c.n_epochs):
            if epoch and self.reestimates:
                b = self.reestimate(b)
            for minibatch in self.minibatches(b):
                if self.c.target_kl is not None and self._approx_kl(minibatch) > 1.5 * self.c.target_kl:
                    self._n_updates += 1
                    return _mean(logs)
                logs.append(self.minibatch_step(minibatch))
            self._n_updates += 1
        return _mean(logs)

    def finish(self, b: Batch) -> dict[str, Tensor]:
        """What follows the epochs. Returns metrics."""
        return {}

    # -- the engine ------------------------------------------------------------------------------------------------

    @static
    def minibatch_step(self, b: Batch) -> dict[str, Tensor]:
        """Evaluate the present policy on a minibatch and walk down the :meth:`table`. Returns 0-d metrics."""
        log: dict[str, Tensor] = {}
        b = self.evaluate(b)
        for part, loss in self.table():
            self.parts[part].descend(loss(b, log))
        return {k: v.detach() for k, v in log.items()}

    @static
    def critic_step(self, b: Batch) -> dict[str, Tensor]:
        """One step of the part ``critic`` down the value loss of a minibatch. Returns 0-d metrics."""
        loss = self.value_loss(b.plus(new_value=self.policy.value(b.obs)))
        self.parts["critic"].descend(loss)
        return {"value_loss": loss.detach()}

    def normalized(self, b: Batch) -> Batch:
        """The rows with their advantage at zero mean and unit variance, where ``normalize_advantage`` asks for it."""
        if not self.c.normalize_advantage or len(b) == 1:
            return b
        return b.plus(advantage=(b.advantage - b.advantage.mean()) / (b.advantage.std() + 1e-8))

    def evaluate(self, b: Batch) -> Batch:
        """What the losses read: what :meth:`reconsider` adds, ``log_ratio, ratio``, where ``needs_kl`` the exact ``kl``
        (old || new), and the advantage normalised."""
        b = self.reconsider(self.normalized(b))
        if self.needs_kl:
            b = b.plus(kl=self.policy.distribution.kl(b.params, b.new_params))
        log_ratio = self.bounded(self.log_ratio(b))
        return b.plus(log_ratio=log_ratio, ratio=log_ratio.exp())

    def bounded(self, log_ratio: Tensor) -> Tensor:
        """Within ``log_ratio_bound``. The bound holds the value only: what lies outside keeps its gradient."""
        if (bound := self.log_ratio_bound) is None:
            return log_ratio
        return log_ratio + (log_ratio.clamp(-bound, bound) - log_ratio).detach()

    def kl(self, b: Batch) -> Tensor:
        """KL(π_old || π_θ) of the present policy at each state, ``[B]``, exact."""
        return self.policy.distribution.kl(b.params, self.policy(b.obs))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        b = self.prepare(batch)
        if not len(b):  # steps that were spent on resets, all of them
            return {}
        with self._learning():
            metrics = self.improve(b)
            metrics |= self.finish(b)
        self._rollout = None
        return metrics | self.diagnose(b)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Inside, the user's own modules are in the mode of learning, and what they draw (dropout) is of the model's seed."""
        if "features_extractor_class" not in self.policy_kwargs:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator, device=self.device)))
            self._train(True)
            try:
                yield
            finally:
                self._train(False)

    def _train(self, mode: bool) -> None:
        for net in self.nets.values() if "features_extractor_class" in self.policy_kwargs else ():
            net.train(mode)

    def prepare(self, batch: Batch) -> Batch:
        """A rollout ``[T, N]`` as rows ``[B]`` of valid transitions with what :meth:`remember` adds, ``value, advantage,
        returns``."""
        with torch.no_grad():
            b = self.appraise(batch.map(lambda x: x.to(self.device)))
            if self.reestimates:
                self._rollout = b.only(*(k for k in _EPISODES if k in b))
            return self._flat(self.estimate(b))

    def _flat(self, b: Batch) -> Batch:
        return self.rows(b.without("next_obs", "next_value")).without("valid")

    def appraise(self, batch: Batch) -> Batch:
        """The rollout ``[T, N]`` seen once, in one batched pass: what :meth:`remember` says, and values."""
        seen = self.remember(batch.flatten())
        b = batch.plus(**{k: x.unflatten(0, batch.reward.shape) for k, x in seen.items()})
        return b if self.policy.critic_head is None else self.valued(b)

    def valued(self, b: Batch) -> Batch:
        """``value`` and ``next_value`` of a rollout ``[T, N]`` by the present critic."""
        value = self.policy.value(tree_map(lambda x: x.flatten(0, 1), b.obs)).view(b.reward.shape)
        # The next row's value is the successor's but where an episode ended, and at the rollout's end.
        next_value = torch.cat([value[1:], value[:1]])
        cut = b.terminated | b.truncated
        cut[-1] = True
        successors = tree_map(lambda x: x[cut], b.next_obs)
        next_value[cut] = self.policy.value(successors)
        return b.plus(value=value, next_value=next_value)

    @torch.no_grad()
    def reestimate(self, b: Batch) -> Batch:
        """The rows with ``advantage`` and ``returns`` of the present critic; ``value`` stays the first one's."""
        fresh = self._flat(self.estimate(self.valued(self._rollout)))
        return b.plus(advantage=fresh.advantage, returns=fresh.returns)

    @torch.no_grad()
    def diagnose(self, b: Batch) -> dict[str, Tensor]:
        """How far the update moved the policy, over the whole batch, and how well the critic had predicted."""
        b = self.reconsider(b)
        log_ratio = self.log_ratio(b)
        ratio = log_ratio.exp()
        out = {
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": ((ratio - 1).abs() > self._clip()).float().mean(),
            "ratio_deviation": (ratio - 1).abs().mean(),
            "ratio_variance": (ratio - 1).square().mean(),
        }
        out |= self.measure(b)
        if "value" in b:
            out["explained_variance"] = explained_variance(b.value, b.returns)
        return out | {
            name: getattr(self.c, name) for name in ("clip_range", "clip_range_vf") if name in self._schedules
        }

    def measure(self, b: Batch) -> dict[str, Tensor]:
        """Metrics of reconsidered rows that depend on the kind of policy, 0-d: entropy, exact KL, standard deviation."""
        d = self.policy.distribution
        out = {"entropy_loss": -d.entropy(b.new_params).mean()}
        if d.has_kl:
            kl = d.kl(b.params, b.new_params)
            out |= {"kl_mean": kl.mean(), "kl_max": kl.max()}
        if isinstance(self.policy, ActorCritic) and (std := self.policy.head.spread(b.new_params)) is not None:
            out["std"] = std
        return out

    def _clip(self) -> float | Tensor:
        return getattr(self.c, "clip_range", 0.2)

    @torch.no_grad()
    def _approx_kl(self, b: Batch) -> float:
        """Schulman's estimate of KL(old||new), mean((r - 1) - log r), on the host: one sync."""
        log_ratio = self.log_ratio(self.reconsider(b))
        kl = float((log_ratio.exp() - 1 - log_ratio).mean())
        if kl != kl:
            raise NonFiniteError("approx_kl is NaN: training diverged; lower learning_rate or normalise observations")
        return kl

    # -- building and acting -------------------------------------------------------------------------------------------

    def _build(self) -> None:
        kwargs = dict(self.policy_kwargs)
        check_optimizer(kwargs)
        optimizer_class = kwargs.pop("optimizer_class", self.optimizer_class)
        given = kwargs.pop("optimizer_kwargs", None)
        usual = {"eps": 1e-5} if optimizer_class is torch.optim.Adam else {}
        if optimizer_class is self.optimizer_class:
            usual = self.optimizer_kwargs
        if given is None:
            optimizer_kwargs = usual
        else:  # what a method's own hyperparameters say of its optimizer stands
            optimizer_kwargs = given if optimizer_class is torch.optim.Adam else usual | given
        said = take_options(kwargs, self.sde_options, self.config.use_sde)
        _check_policy_kwargs(type(self).__name__, kwargs, self.policy_type.options)
        if self.config.use_sde:
            kwargs["head"] = self._sde_head(kwargs, said)
        self.policy = self.make_policy(distribution_for(self.action_space), **kwargs).to(self.device)
        self.nets["policy"] = self.policy
        name = type(self).__name__
        if self.needs_kl and not self.policy.distribution.has_kl:
            raise ValueError(
                f"{name} needs an exact KL, which {type(self.policy.distribution).__name__} does not have; take a method that needs none"
            )
        if self.needs_disjoint and not self.policy.disjoint:
            raise ValueError(
                f"{name} needs actor and critic apart: set policy_kwargs=dict(share_features_extractor=False)"
            )
        self.make_parts(optimizer=optimizer_class, **optimizer_kwargs)
        self._check_sizes()
        self._train(False)

    def _sde_head(self, kwargs: dict[str, Any], said: dict[str, Any]) -> Callable[..., SDEHead]:
        """What makes the head of a policy with state-dependent noise.

        Raises:
            ValueError: the method's policy, or the action space, has no use for it; or ``policy_kwargs`` contradict it.
        """
        name = type(self).__name__
        if not isinstance(self.action_space, spaces.Box):
            raise ValueError(
                f"{name}: use_sde=True is noise on continuous actions; this action space is {self.action_space}"
            )
        if not issubclass(self.policy_type, ActorCritic):
            raise ValueError(
                f"{name}: use_sde=True needs a policy that is one Gaussian, not a {self.policy_type.__name__}"
            )
        if kwargs.pop("state_dependent_std", False):
            raise ValueError(f"{name}: use_sde=True and policy_kwargs['state_dependent_std']=True exclude each other")
        return partial(SDEHead, log_std_init=kwargs.pop("log_std_init", 0.0), **said)

    optimizer_class: ClassVar[type[torch.optim.Optimizer]] = torch.optim.Adam
    optimizer_kwargs: ClassVar[dict[str, Any]] = {"eps": 1e-5}

    def _check_sizes(self) -> None:
        size, n = getattr(self.config, "batch_size", None), getattr(self, "n_envs", self.config.num_envs)
        rows = self.config.n_steps * n if n else None
        if size is None or rows is None:
            return
        if size > rows:
            raise ValueError(
                f"{type(self).__name__}: batch_size={size} is larger than the rollout of n_steps * n_envs = {self.config.n_steps} * {n} = {rows}"
            )
        if rows % size:
            import warnings

            warnings.warn(
                f"batch_size={size} does not divide the rollout of {rows}: each epoch ends with a minibatch of {rows % size}, which is kept",
                stacklevel=2,
            )

    def _seen_space(self) -> Any:
        return self.observation_space if self.normalizer is None else self.normalizer.observation_space

    @property
    def horizon(self) -> int:
        return self.config.n_steps

    def noise(self, horizon: int, num_envs: int) -> Tensor:
        draw = lambda steps: self.policy.noise((steps, num_envs), self.generator, self.device)
        return held(draw, horizon, self.config.sde_sample_freq) if self.config.use_sde else draw(horizon)

    @torch.no_grad()
    def act(self, obs: Any, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.behaviour.act(tree_map(lambda x: x.to(self.device), obs), noise), {}

    def env_action(self, action: Any) -> Any:
        return super().env_action(self.policy.in_space(action))

    def host_actor(self) -> Callable[[Any, Any], Any] | None:
        return self.behaviour.host_act() if self.device.type == "cpu" else None


_EPISODES = ("obs", "reward", "next_obs", "terminated", "truncated", "valid")
"""What advantages can be estimated from anew."""


def _has_images(space: Space) -> bool:
    """Whether vectors and images are side by side."""
    return isinstance(space, spaces.Dict) and any(map(is_image, space.spaces.values()))


def _check_policy_kwargs(owner: str, kwargs: dict[str, Any], known: frozenset[str]) -> None:
    if kwargs.pop("squash_output", False):
        raise NotImplementedError(
            "policy_kwargs['squash_output']=True: on-policy actions are clipped here, not squashed"
        )
    if kwargs.pop("normalize_images", True) is False:
        raise NotImplementedError("policy_kwargs['normalize_images']=False: images are always divided by 255")
    extractor, options = kwargs.get("features_extractor_class"), kwargs.get("features_extractor_kwargs")
    if extractor is not None and not isinstance(extractor, type):
        raise TypeError(
            f"features_extractor_class={extractor!r} must be a class, such as stable-baselines3's NatureCNN"
        )
    if not isinstance(options, (dict, type(None))):
        raise TypeError(f"features_extractor_kwargs={options!r} must be a dict")
    for name in ("ortho_init", "share_features_extractor", "state_dependent_std"):
        if not isinstance(kwargs.get(name, True), bool):
            raise TypeError(f"{name}={kwargs[name]!r} must be True or False")
    if unknown := set(kwargs) - known:
        raise TypeError(
            f"{owner}: unknown policy_kwargs {sorted(unknown)}; known: {sorted(known | {'optimizer_class', 'optimizer_kwargs'})}"
        )


def _mean(logs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {k: torch.stack([log[k] for log in logs]).mean() for k in logs[0]} if logs else {}
