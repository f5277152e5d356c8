"""The off-policy family: act, remember, and learn from a replay of everything remembered.

What every method here shares: a ring of transitions, random actions before ``learning_starts``, a cadence of gradient
steps, lagged copies. Actions are seen scaled to [-1, 1] everywhere and mapped to the Box at the environment's edge;
observations in a batch ``b`` are encoded as the replay holds them: flat float vectors. A method fills slots:

====================  ==============================================================================================
``make_nets``         its networks: ``nets["policy"]``, ``nets["critic"]``, what lags, its parts
``evaluate(b, due)``  what the rows of the table share (an action sampled once), before any of them steps
``next_value(b)``     the value of the successor in the critics' target
``critic_loss(b)``    squared error to ``reward + discount * next_value`` by default
``policy_loss(b)``    what the policy minimises
``table(due)``        the ordered steps of one update, ``part -> loss``, less those not due this time
``due(n)``            which slow steps the n-th update takes: of ``policy`` and ``targets``, both by default
``draw(due)``         the batch of one update, with whatever the host adds to it
``loss_noise(rows)``  of that, the noise that the losses take; standard normal by default
``policy_noise(...)`` the policy's noise of a rollout's steps; drawn anew for each by default
``pretrain(memory)``  what is made of a dataset before its first gradient step: an index, a behaviour model
====================  ==============================================================================================
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from . import action_noise
from .agent import Agent, AgentConfig
from .batch import Batch, tree_map
from .config import hyper, whole_number
from .critics import QEnsemble
from .dataset import Dataset, DatasetError
from .distributions import Distribution
from .files import load_state, save_state
from .graph import static
from .memory import Mix, Replay
from .part import check_optimizer, polyak_
from .policy import ActorCritic, Encoder, Head, scale, unscaler, widths
from .schedule import Schedule
from .spaces import check_action_space, check_observation_space, encoded_size

__all__ = ["Actor", "OffPolicy", "OffPolicyConfig", "frozen"]


def frozen(net: nn.Module) -> nn.Module:
    """A copy that takes no gradient."""
    return copy.deepcopy(net).requires_grad_(False)


class Actor(ActorCritic):
    """A policy over scaled actions, without a value network, initialised as ``torch.nn.Linear`` is."""

    def __init__(
        self, observation_space: Space, action_space: Space, distribution: Distribution, hidden: list[int],
        activation_fn: type[nn.Module], head: Callable[[int, Distribution], Head] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            observation_space, action_space, distribution, net_arch={"pi": hidden, "vf": []}, head=head,
            activation_fn=activation_fn, ortho_init=False, critic=False, scaled=isinstance(action_space, spaces.Box),
        )  # fmt: skip

    def of(self, features: Tensor) -> Tensor:
        """Distribution parameters ``[B, P]`` of observations as the replay holds them, encoded."""
        return self.head(self.trunk(features))

    def sample(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``[B, A]`` of this noise, reparameterised, and their log-density ``[B]``, at encoded observations."""
        x = self.trunk(features)
        return self.distribution.sample(self.head(x), self.head.row_noise(x, noise))


Row = tuple[str, Callable[[Batch, dict[str, Tensor]], Tensor]]


@dataclass(frozen=True, kw_only=True)
class OffPolicyConfig(AgentConfig):
    """Hyperparameters of every off-policy method."""

    learning_rate: Schedule = hyper(3e-4, "[0, inf)", "learning rate of Adam, of every network")
    buffer_size: int = hyper(1_000_000, "[1, inf)", "transitions remembered")
    learning_starts: int = hyper(100, "[0, inf)", "steps of random actions; updates begin after them")
    batch_size: int = hyper(256, "[1, inf)", "B, rows of a gradient step")
    tau: float = hyper(0.005, "[0, 1]", "τ, Polyak coefficient of the lagged copies")
    gamma: float = hyper(0.99, "[0, 1]", "γ, discount")
    train_freq: int | tuple = hyper(
        1, "[1, inf)", 'steps of each world between updates; or (n, "step"), (n, "episode")'
    )
    gradient_steps: int = hyper(1, "[-1, inf)", "gradient steps an update; -1: as many as steps were taken")
    n_steps: int = hyper(1, "[1, inf)", "k, steps of the target's return")
    action_noise: float | Callable[..., Any] | None = hyper(
        None, "[0, inf)", "exploration: a std [of the scaled action], or a stable-baselines3 ActionNoise"
    )
    standardize: bool = hyper(
        False,
        doc="learn_offline: observations as (s - mean) / (std + 0.001), moments of the dataset's, kept ever after",
    )
    reward_scale: float = hyper(1.0, "(0, inf)", "the critics learn of reward_scale r + reward_shift")
    reward_shift: float = hyper(0.0, "(-inf, inf)", "see reward_scale; AntMaze: -1")
    optimize_memory_usage: bool = hyper(False, doc="stable-baselines3's; rows are packed here as they are")
    replay_buffer_class: Any = hyper(None, doc="stable-baselines3's; not used here")
    replay_buffer_kwargs: Any = hyper(None, doc="stable-baselines3's; not used here")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("replay_buffer_class", "replay_buffer_kwargs"):
            if given := getattr(self, name):
                raise NotImplementedError(
                    f"{name}={given!r} is not used: transitions are kept in polopt.memory.Replay, which bootstraps through time "
                    "limits (handle_timeout_termination)"
                )
        if callable(self.action_noise):
            action_noise.check(self.action_noise)
        if self.gradient_steps == 0:
            raise ValueError(
                "gradient_steps=0 would never learn; it is a positive number, or -1 for as many as steps were taken"
            )
        match self.train_freq:
            case int():
                pass
            case (int() | np.integer() as n, "step" | "episode") if n >= 1 and not isinstance(n, bool):
                pass
            case given:
                raise ValueError(
                    f'train_freq={given!r} must be a number of steps, (n, "step") or (n, "episode") with n at least 1'
                )
        if self.n_steps > self.buffer_size:
            raise ValueError(f"n_steps={self.n_steps} must be at most buffer_size={self.buffer_size}")

    def to_json(self) -> dict[str, Any]:
        noise = action_noise.to_json(self.action_noise)
        return super().to_json() | ({} if noise is None else {"action_noise": noise})

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Any) -> dict[str, Any]:
        """As everywhere, and the noise process of a name."""
        noise = values.get("action_noise")
        if isinstance(noise, dict):
            values = values | {"action_noise": action_noise.from_json(noise, path)}
        return super().from_json(values, path)

    @property
    def cadence(self) -> tuple[int, str]:
        """``train_freq`` as a number and its unit, "step" or "episode"."""
        return (
            (self.train_freq, "step")
            if isinstance(self.train_freq, int)
            else (int(self.train_freq[0]), self.train_freq[1])
        )


def _ended(batch: Batch) -> int:
    return int((batch.terminated | batch.truncated).sum())


class OffPolicy(Agent):
    """Base of the family; see the module's docstring for the slots."""

    Config: ClassVar[type[OffPolicyConfig]]
    c: Any
    nets: Any
    memory: Replay | Mix
    action_spaces: ClassVar[tuple[type[Space], ...]] = (spaces.Box,)
    default_arch: ClassVar[tuple[int, ...]] = (256, 256)
    arch_names: ClassVar[tuple[str, ...]] = ("pi", "qf")
    """The networks whose widths ``net_arch`` says."""
    scaled_actions = True
    remedy = "Lower learning_rate, or scale the rewards (reward_scale)"
    fixed = frozenset({"buffer_size", "n_steps", "gamma", "standardize", "reward_scale", "reward_shift"})
    more_policy_kwargs: ClassVar[frozenset[str]] = frozenset({"n_critics"})

    # -- slots -----------------------------------------------------------------------------------------------------

    def make_nets(self, net_arch: dict[str, list[int]], activation_fn: type[nn.Module], **optimizer: Any) -> None:
        """Fill ``self.policy``, ``self.nets`` and ``self.parts``."""
        raise NotImplementedError

    def lagged(self) -> list[tuple[nn.Module, nn.Module]]:
        """Pairs of lagged copy and source."""
        return [(self.nets["target_critic"], self.nets["critic"])]

    def pretrain(self, memory: Replay) -> None:
        """Make of a dataset, held as rows of the memory, what the losses need. Called before the first gradient step on it,
        and again when a run goes on from a checkpoint (then ``_n_updates`` is more than 0): what is no network is made anew."""

    needs_noise: ClassVar[tuple[str, ...]] = ()
    """Noise that the losses take, by the name of its field in the batch; standard normal ``[B, A]`` (:meth:`loss_noise`)."""

    def evaluate(self, b: Batch, due: tuple[str, ...]) -> Batch:
        """What the rows of the table share."""
        return b

    def next_value(self, b: Batch) -> Tensor:
        """Value of the successors, ``[B]``, without gradient."""
        raise NotImplementedError

    critic_scale: float = 1.0
    """Factor of the critics' squared error."""

    def critic_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """sum_k mean (Q_k(s, a) - y)², y = r + γ^k (1 - d) V(s')."""
        with torch.no_grad():
            target = b.reward + b.discount * self.next_value(b)
        error = self.nets["critic"](b.obs, b.action) - target
        log["critic_loss"] = loss = self.critic_scale * error.square().mean(-1).sum()
        return loss

    def policy_loss(self, b: Batch) -> Tensor:
        """What the policy minimises, 0-d."""
        raise NotImplementedError

    def actor_loss(self, b: Batch, log: dict[str, Tensor]) -> Tensor:
        """:meth:`policy_loss`, logged."""
        log["actor_loss"] = loss = self.policy_loss(b)
        return loss

    def table(self, due: tuple[str, ...]) -> list[Row]:
        """The steps of one update in their order: which part descends which loss."""
        rows: list[Row] = [("critic", self.critic_loss)]
        return [*rows, ("policy", self.actor_loss)] if "policy" in due else rows

    def due(self, n: int) -> tuple[str, ...]:
        """Which slow steps the n-th update takes: of ``policy``, and ``targets`` (the lagged copies)."""
        return ("policy", "targets")

    # -- the engine ------------------------------------------------------------------------------------------------

    @static
    def gradient_step(self, b: Batch, due: tuple[str, ...]) -> dict[str, Tensor]:
        """Walk down the :meth:`table` with one batch, then move the lagged copies. Returns 0-d metrics."""
        log: dict[str, Tensor] = {}
        b = self.evaluate(b, due)
        for part, loss in self.table(due):
            self.parts[part].descend(loss(b, log))
        if "targets" in due:
            self.lag()
        return {k: v.detach() for k, v in log.items()}

    def lag(self) -> None:
        """Polyak: every lagged copy moves τ of the way to its source."""
        for target, source in self.lagged():
            polyak_(target.parameters(), source.parameters(), self.c.tau)

    def draw(self, due: tuple[str, ...]) -> Batch:
        """A batch ``[B]`` for a step that is :meth:`due`, with the noise that the losses need."""
        b = self.memory.sample(self.config.batch_size, self.generator)
        return b.plus(**self.loss_noise(len(b))) if self.needs_noise else b

    def loss_noise(self, rows: int) -> dict[str, Tensor]:
        """What ``needs_noise`` names, for a batch of so many rows."""
        shape = (len(self.needs_noise), rows, encoded_size(self.action_space))
        noise = torch.randn(shape, generator=self.generator, device=self.device)
        return dict(zip(self.needs_noise, noise, strict=True))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        return self.train_steps(self.remember(batch))

    def remember(self, batch: Batch) -> int:
        """Add a rollout ``[T, N]`` to the memory. Returns how many gradient steps are now due."""
        self._add(batch)
        every, unit = self.config.cadence
        if unit == "episode" and self._episodes_since < every:
            return 0
        steps, self._steps_since, self._episodes_since = self._steps_since, 0, 0
        if self.num_timesteps <= self.config.learning_starts or not len(self.memory):
            return 0
        return steps if self.config.gradient_steps < 0 else self.config.gradient_steps

    @property
    def in_rollout(self) -> bool:
        return self.config.cadence[1] == "episode" and self._steps_since > 0

    def completes_rollout(self, batch: Batch) -> bool:
        every, unit = self.config.cadence
        return unit == "step" or self._episodes_since + _ended(batch) >= every

    def _add(self, batch: Batch) -> None:
        self.memory.add(batch.map(lambda x: x.to(self.device)))
        self._end_noise(batch)
        self._steps_since += batch.transitions
        if self.config.cadence[1] == "episode":
            self._episodes_since += _ended(batch)

    def train_steps(self, steps: int) -> dict[str, Tensor]:
        """Gradient steps from memory. Returns the last one's metrics, and of those before it what the last lacks.

        Raises:
            ValueError: the memory is empty.
        """
        log: dict[str, Tensor] = {}
        for _ in range(steps):
            self._n_updates += 1
            due = self.due(self._n_updates)
            log |= self.gradient_step(self.draw(due), due)
        return log

    # -- building --------------------------------------------------------------------------------------------------

    normalizes_on_read = True

    def _build(self) -> None:
        floats = isinstance(self.observation_space, spaces.Box) and np.issubdtype(
            self.observation_space.dtype, np.floating
        )
        if not floats and (self.config.normalize_obs or (self.normalizer is not None and self.normalizer.obs_moments)):
            raise NotImplementedError(
                f"normalize_obs=True: {type(self).__name__} normalises a Box of floats, not {self.observation_space}"
            )
        if self.env is not None and (there := self.get_vec_normalize_env()) is not None and there.training:
            warnings.warn(
                "rows in memory stay as VecNormalize showed them, while its moments go on: pass the bare environment, and "
                "normalize_obs=True, normalize_reward=True",
                stacklevel=4,
            )
        kwargs = dict(self.policy_kwargs)
        check_optimizer(kwargs)
        optimizer = {
            "optimizer": kwargs.pop("optimizer_class", torch.optim.Adam),
            **(kwargs.pop("optimizer_kwargs", None) or {}),
        }
        arch, activation = kwargs.pop("net_arch", self.default_arch), kwargs.pop("activation_fn", nn.ReLU)
        if unknown := set(kwargs) - self.more_policy_kwargs:
            known = {"net_arch", "activation_fn", "optimizer_class", "optimizer_kwargs", *self.more_policy_kwargs}
            raise TypeError(f"{type(self).__name__}: unknown policy_kwargs {sorted(unknown)}; known: {sorted(known)}")
        if isinstance(arch, dict) and (missing := [name for name in self.arch_names if name not in arch]):
            raise ValueError(f"policy_kwargs: net_arch={arch!r} must say the widths of {' and '.join(missing)} too")
        arch = widths(arch, *self.arch_names)
        members = kwargs.get("n_critics", 1)
        if isinstance(members, bool) or not isinstance(members, (int, np.integer)) or members < 1:
            raise ValueError(f"n_critics={members!r} must be a whole number, at least 1")
        self.policy_options = kwargs
        self.make_nets(arch, activation, **optimizer)
        self.nets["policy"] = self.policy
        self._check_sizes()
        self.memory = self.make_memory(self.config.buffer_size, getattr(self, "n_envs", None) or 1)
        self._warm = self._steps_since = self._episodes_since = 0
        self._process: Any = None
        self._process_of: Any = None  # the action_noise that it was made of
        if isinstance(self.action_space, spaces.Box):
            self._unscale = unscaler(self.action_space)
        self._weights, self._host_at, self._host = list(self.policy.parameters()), None, None

    def _check_sizes(self) -> None:
        self.check_cadence(self.config, getattr(self, "n_envs", None) or 1, self.action_space)

    @staticmethod
    def check_cadence(config: OffPolicyConfig, num_envs: int, action_space: Space) -> None:
        """Raise a ValueError where ``train_freq`` or ``action_noise`` does not fit so many worlds of these actions."""
        if config.cadence[1] == "episode" and num_envs > 1:
            raise ValueError(
                f"train_freq={config.train_freq!r}: whole episodes are counted in one world, not in {num_envs}"
            )
        if callable(noise := config.action_noise):
            with action_noise.numpy_seeded(torch.Generator().manual_seed(0)):
                drawn = np.size(copy.deepcopy(getattr(noise, "base_noise", noise))())
            if drawn != (size := encoded_size(action_space)):
                raise ValueError(f"action_noise={noise!r} draws {drawn} numbers where an action has {size}")

    def make_memory(self, capacity: int, num_envs: int = 1, reward: tuple[float, float] | None = None) -> Replay:
        """An empty replay of this model's spaces, which holds observations as its policy's encoder gives them.

        Args:
            reward: (scale, shift) of what is stored; by default ``reward_scale`` and ``reward_shift``.
        """
        c = self.config
        return Replay(
            capacity, self.observation_space, self.action_space, num_envs=num_envs, gamma=c.gamma, n_steps=c.n_steps,
            device=self.device, encoder=self.policy.encoder, reward=reward or (c.reward_scale, c.reward_shift),
            read=self._normalised,
        )  # fmt: skip

    def _normalised(self, b: Batch) -> Batch:
        """Rows of the memory under the moments of now, where there are any."""
        if (n := self.normalizer) is None:
            return b
        b = b.plus(reward=n.normalize_reward(b.reward))
        if not n.obs_moments:
            return b
        shape = (len(b), *self.observation_space.shape)
        seen = {name: n.normalize_obs(b[name].reshape(shape)).reshape(len(b), -1) for name in ("obs", "next_obs")}
        return b.plus(**seen)

    def _seen(self, obs: Any) -> Any:
        """Observations as the networks see them."""
        return obs if self.normalizer is None else self.normalizer.normalize_obs(obs)

    def make_actor(
        self, distribution: Distribution, hidden: list[int], activation_fn: type[nn.Module], **kwargs: Any
    ) -> Actor:
        """An :class:`Actor` over this model's spaces."""
        actor = Actor(self.observation_space, self.action_space, distribution, hidden, activation_fn, **kwargs)
        if self.config.standardize:
            actor.encoder.standardize()
        return actor.to(self.device)

    def make_critic(self, hidden: list[int], activation_fn: type[nn.Module], members: int = 2, **kwargs: Any) -> None:
        """``nets["critic"]``, E action values of (obs, action), and its lagged copy ``nets["target_critic"]``."""
        size = encoded_size(self.observation_space) + encoded_size(self.action_space)
        self.nets["critic"] = QEnsemble(size, hidden, members, activation_fn=activation_fn, **kwargs).to(self.device)
        self.nets["target_critic"] = frozen(self.nets["critic"])

    # -- acting ----------------------------------------------------------------------------------------------------

    @property
    def horizon(self) -> int:
        every, unit = self.config.cadence
        return every if unit == "step" else 1

    def noise(self, horizon: int, num_envs: int) -> Tensor:
        """Of each step ``[T, N, .]``: a uniform action while ``learning_starts`` lasts, then the policy's noise and, beside
        it, the ``action_noise``."""
        size = encoded_size(self.action_space)
        self._warm = self.random_steps(horizon, num_envs)
        after = (horizon - self._warm, num_envs)
        own = self.policy_noise(after)
        self._noise_size = own.shape[-1]
        if self.config.action_noise is not None:
            own = torch.cat([own, self._action_noise(after, size)], -1)
        if not self._warm:
            return own
        noise = torch.zeros(horizon, num_envs, max(own.shape[-1], size), device=self.device)
        noise[self._warm :, :, : own.shape[-1]] = own
        noise[: self._warm, :, :size].uniform_(-1, 1, generator=self.generator)
        return noise

    def random_steps(self, horizon: int, num_envs: int) -> int:
        """How many of the next steps take random actions."""
        return min(max(-(-(self.config.learning_starts - self.num_timesteps) // num_envs), 0), horizon)

    def policy_noise(self, shape: tuple[int, int]) -> Tensor:
        """The policy's own noise of the last steps of a rollout, ``[*shape, .]``."""
        return self.policy.noise(shape, self.generator, self.device)

    def _action_noise(self, shape: tuple[int, int], size: int) -> Tensor:
        given = self.config.action_noise
        if isinstance(given, (int, float)):
            return given * torch.randn(*shape, size, generator=self.generator, device=self.device)
        if self._process is None or self._process.n_envs != shape[1] or self._process_of is not given:
            self._process, self._process_of = action_noise.vectorized(given, shape[1]), given
        with action_noise.numpy_seeded(self.generator):
            drawn = np.array([self._process() for _ in range(shape[0])], np.float32)
        return torch.from_numpy(drawn.reshape(*shape, size)).to(self.device)

    def _end_noise(self, batch: Batch) -> None:
        """Reset the noise processes of the worlds whose episodes ended in the rollout."""
        if self._process is not None:
            ended = (batch.terminated | batch.truncated).any(0).nonzero().flatten().tolist()
            self._process.reset(ended)

    _noise_size: int | None = None
    """Of the noise of a step, how many numbers are the policy's; None: all."""

    def _choose(self, policy: Callable[[Any], Any], noise: Any) -> Any:
        """The action of one step, from its noise; NumPy or torch alike."""
        if self._warm:
            self._warm -= 1
            return noise[..., : encoded_size(self.action_space)]
        own, size = self._noise_size, encoded_size(self.action_space)
        if self.config.action_noise is None:
            return policy(noise[..., :own])
        return (policy(noise[..., :own]) + noise[..., own : own + size]).clip(-1, 1)

    @torch.no_grad()
    def act(self, obs: Any, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        obs = self._seen(tree_map(lambda x: x.to(self.device), obs))
        return self._choose(lambda noise: self.policy.act(obs, noise), noise), {}

    def host_actor(self) -> Callable[[Any, Any], np.ndarray] | None:
        if self.device.type != "cpu":
            return None
        where = [weight.data_ptr() for weight in self._weights] if self.policy.host_lives else self._n_updates
        if where != self._host_at:  # one that reads the weights where they lie is good until they move
            self._host_at, self._host = where, self.policy.host_act()
        policy = self._host
        return (
            None
            if policy is None
            else lambda obs, noise: self._choose(lambda noise: policy(self._seen(obs), noise), noise)
        )

    def env_action(self, action: Any) -> Any:
        """Scaled actions [-1, 1] in the Box's own units."""
        return self._unscale(action) if isinstance(self.action_space, spaces.Box) else action

    # -- learning and files ----------------------------------------------------------------------------------------

    def worlds_reset(self) -> None:
        self.memory.flush()
        if self._process is not None:
            self._process.reset()

    def abandon(self, batch: Batch) -> None:
        """What was seen is remembered, and counted where ``gradient_steps`` follow the number of steps."""
        self._add(batch)

    def callback_locals(self, taken: int) -> dict[str, Any]:
        return {
            "replay_buffer": self.memory, "train_freq": self.config.train_freq, "action_noise": self.config.action_noise,
            "learning_starts": self.config.learning_starts, "num_collected_steps": taken,
            "num_collected_episodes": self._episodes_since,
        }  # fmt: skip

    def learn(
        self, total_timesteps: int, callback: Any = None, log_interval: int | None = 4, tb_log_name: str | None = None,
        reset_num_timesteps: bool = True, progress_bar: bool = False,
    ) -> Self:  # fmt: skip
        """As :meth:`polopt.agent.Agent.learn`; ``log_interval`` counts episodes. After :meth:`learn_offline` the memory keeps
        the dataset's rows and has room for ``buffer_size`` more."""
        from .loop import check

        if self._awaited is not None:
            raise DatasetError(
                "this model was learning from a dataset: give it, learn_offline(dataset, 0), before learn"
            )
        if self.dataset is not None:
            check(self, total_timesteps, log_interval)  # or the dataset would be let go for nothing
            self.memory.make_room(self.config.buffer_size)
            self.dataset = None
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def learn_offline(
        self, dataset: Dataset | str | os.PathLike[str], gradient_steps: int, callback: Any = None,
        log_interval: int | None = 1000, tb_log_name: str | None = None, reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:  # fmt: skip
        """Learn from recorded data alone. ``num_timesteps`` counts gradient steps meanwhile, and callbacks are called once
        each. ``learn`` then goes on in the environment with the same networks; its steps are added to the dataset's.

        Args:
            dataset: a :class:`polopt.dataset.Dataset`; or a local Minari id, a Minari folder, a D4RL file. A model that was
                constructed without an environment takes its spaces.
            gradient_steps: to take; further ones where ``reset_num_timesteps`` is false.
            callback, tb_log_name, progress_bar: as for :meth:`learn`.
            log_interval: gradient steps between log lines; None logs nothing.

        Raises:
            FileNotFoundError: there is no such dataset; names the nearest.
            DatasetError: it cannot be learned from, or is of other spaces than the model.
            NonFiniteError: a loss became NaN or infinite.
        """
        from .dataset_files import load_dataset
        from .loop import learn_offline

        whole_number("gradient_steps", gradient_steps)
        if log_interval is not None:
            whole_number("log_interval", log_interval, 1)
        self.check_offline()
        self._settle()
        dataset = load_dataset(dataset)
        if not hasattr(self, "nets"):
            self._take_spaces(dataset)
        else:
            dataset.check(self.observation_space, self.action_space)
        if self._awaited not in (None, dataset.hash):
            raise DatasetError(f"{dataset.name} holds other rows than the dataset that this model was learning from")
        if self.dataset is None or self.dataset.hash != dataset.hash:
            self._take_dataset(dataset)
        self._awaited = None
        name = tb_log_name or type(self).__name__
        learn_offline(self, int(gradient_steps), callback, log_interval, name, reset_num_timesteps, progress_bar)
        return self

    def check_offline(self) -> None:
        """Raise what :meth:`learn_offline` would, whatever the dataset.

        Raises:
            ValueError: the model normalises by running moments, or its actions are no Box.
        """
        moving = getattr(self, "normalizer", None) is not None
        if self.config.normalize_obs or self.config.normalize_reward or moving:
            raise ValueError(
                "running normalisation learns from steps taken; of a dataset take standardize=True, and an environment without Normalize"
            )
        if spaces.Box not in self.action_spaces:
            raise ValueError(f"{type(self).__name__} acts by numbered actions; datasets here hold those of a Box")

    dataset: Dataset | None = None
    """What the memory holds, until ``learn`` adds to it."""
    _awaited: str | None = None
    """The hash of the dataset that a checkpoint was learning from, which no checkpoint holds"""

    def _take_spaces(self, dataset: Dataset) -> None:
        """Build the networks for what a dataset holds, where there is no environment yet."""
        if dataset.observation_space is None or dataset.action_space is None:
            raise DatasetError(f"{dataset.name} does not say its spaces: construct the model with an environment")
        check_observation_space(dataset.observation_space)
        check_action_space(dataset.action_space, self.action_spaces, type(self).__name__)
        dataset.check(dataset.observation_space, dataset.action_space)
        self.observation_space, self.action_space = dataset.observation_space, dataset.action_space
        self.n_envs, self.normalizer = None, None
        self._setup_model()

    def as_replay(self, data: Dataset | Batch, edge: float = 0.0) -> Replay:
        """A memory that holds a dataset's transitions, or these rows in the environment's units, and nothing else.

        Args:
            edge: how far scaled actions keep from the ends of [-1, 1].

        Raises:
            DatasetError: there are none; or ``n_steps`` is more than 1, and rows inside an episode do not follow each other.
        """
        if isinstance(data, Dataset) and self.config.n_steps > 1:
            data.check_order()
        rows = data.transitions() if isinstance(data, Dataset) else data
        if not len(rows):
            raise DatasetError(f"{data.name if isinstance(data, Dataset) else 'the data'} has no whole transition")
        rows = rows.plus(action=scale(self.action_space, rows.action).clamp(edge - 1, 1 - edge))
        if isinstance(self.observation_space, spaces.Box):  # a file may hold them flat
            shape = self.observation_space.shape
            rows = rows.plus(**{k: rows[k].reshape(-1, *shape) for k in ("obs", "next_obs")})
        memory = self.make_memory(len(rows))
        memory.add(rows.map(lambda x: x.unsqueeze(1).to(self.device)))
        memory.flush()
        return memory

    def _take_dataset(self, dataset: Dataset) -> None:
        """Fill a new memory with the dataset's transitions. What the model remembered before is forgotten; where that fails or
        is interrupted, the model is as it was."""
        unset = self.config.standardize and not self.policy.encoder.has_moments
        if unset and self._n_updates:
            raise ValueError(
                "standardize=True: this model has learned from observations as they are; construct a new one for the dataset"
            )
        before = self.memory
        try:
            if unset:
                mean, std = (torch.from_numpy(f(dataset.obs, 0, np.float64)) for f in (np.mean, np.std))
                self._write_moments(mean, std + 1e-3)
            ring = self.as_replay(dataset)
            self.pretrain(ring)
            self.memory = self._beside(ring, unset)
        except BaseException:
            if unset:
                self._write_moments(torch.zeros(()), torch.ones(()))
            raise
        if self.dataset is None and len(before):
            warnings.warn(f"{len(before):,} transitions in memory give way to those of {dataset.name}", stacklevel=3)
        self.dataset = dataset

    def _beside(self, ring: Replay, moved: bool) -> Replay | Mix:
        """The memory whose own rows are ``ring``'s, with what the present one has beside its own; ``moved``: the moments have just
        been written."""
        return ring

    def _write_moments(self, mean: Tensor, scale: Tensor) -> None:
        """What every encoder standardises by."""
        for encoder in (m for net in self.nets.values() for m in net.modules() if isinstance(m, Encoder)):
            encoder.mean.copy_(mean)
            encoder.scale.copy_(scale)

    log_every: ClassVar[str] = "episodes"

    @property
    def replay_buffer(self) -> Any:
        """The memory, under stable-baselines3's name."""
        self._need_networks("replay_buffer")
        self._settle()
        return self.memory

    def training_state(self) -> dict[str, Any]:
        noises = [] if self._process is None else self._process.noises
        return super().training_state() | {
            "dataset": self._awaited if self.dataset is None else self.dataset.hash,
            "memory": None if self.dataset is not None else self.memory.state_dict(),
            "of": self._stored(),
            "capacity": self.memory.capacity,
            "buffer_size": self.config.buffer_size,
            "since": [self._steps_since, self._episodes_since],
            "action_noise": [{k: v for k, v in vars(n).items() if isinstance(v, np.ndarray)} for n in noises],
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        self._awaited = state["dataset"]
        if self._awaited is None:
            asked = self.config.buffer_size != state.get("buffer_size", self.config.buffer_size)
            if not asked and state["capacity"] != self.memory.capacity:  # that of a dataset, and room for more
                self._set_ring(self.make_memory(state["capacity"]))
            self._take_rows(state["memory"], state.get("of", {}))
        self._steps_since, self._episodes_since = state["since"]
        if state["action_noise"] and callable(given := self.config.action_noise):
            self._process, self._process_of = action_noise.vectorized(given, len(state["action_noise"])), given
            for noise, arrays in zip(self._process.noises, state["action_noise"], strict=True):
                vars(noise).update({k: v for k, v in arrays.items() if k in vars(noise)})
        super().load_training_state(state)

    def _set_ring(self, ring: Replay) -> None:
        """Remember in this ring; what a mix has beside its own stays."""
        if isinstance(self.memory, Mix):
            self.memory.first = ring
        else:
            self.memory = ring

    def _take_rows(self, rows: dict[str, Any], of: dict[str, Any]) -> None:
        """The rows of a checkpoint, if they are what this model would remember."""
        if other := self._other(of):
            warnings.warn(f"the file's transitions are of {other}: the memory begins empty", stacklevel=6)
            return
        if (n := len(rows["table"])) > self.memory.capacity:
            raise ValueError(f"buffer_size={self.config.buffer_size} is less than the {n} transitions of the file")
        self.memory.load_state_dict(rows)

    def save_replay_buffer(self, path: Any) -> None:
        """Write the memory: a zip of safetensors and JSON, whole or not at all."""
        self._need_networks("save_replay_buffer")
        self._settle()
        save_state(path, {"memory": self.memory.state_dict(), "of": self._stored()}, "memory")

    def _stored(self) -> dict[str, Any]:
        """What rows in memory depend on."""
        c = self.config
        return {
            "gamma": c.gamma, "n_steps": c.n_steps, "reward_scale": c.reward_scale, "reward_shift": c.reward_shift,
            "moments": self.policy.encoder.moments(),
        }  # fmt: skip

    def _other(self, of: dict[str, Any]) -> str:
        """In words, where rows that depend on this differ from what the model would remember; empty where they do not."""
        mine = self._stored()
        return "; ".join(f"{name}={value}, not {mine[name]}" for name, value in of.items() if value != mine[name])

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """As :meth:`polopt.agent.Agent.set_parameters`. Rows in memory that were standardised by other moments than those it
        takes are forgotten, with a warning."""
        self._need_networks("set_parameters")
        before = self.policy.encoder.moments()
        super().set_parameters(load_path_or_dict, exact_match, device)
        if self.policy.encoder.moments() != before and (len(self.memory) or isinstance(self.memory, Mix)):
            prior = " and the prior data" if isinstance(self.memory, Mix) else ""
            warnings.warn(
                f"{len(self.memory):,} transitions in memory{prior} were standardised by other moments: they are forgotten",
                stacklevel=2,
            )
            self.memory = self.make_memory(self.config.buffer_size, getattr(self, "n_envs", None) or 1)
            self.dataset = None

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote.

        Args:
            truncate_last_traj: the trajectories that were under way then do not go on; steps of theirs that still wait for
                the rest of an n-step return are dropped.

        Raises:
            FileError: the file is damaged or of another kind.
            ValueError: its rows are of other spaces, or of another ``gamma, n_steps, reward_scale, reward_shift``, or of
                observations standardised otherwise, or more than fit.
        """
        self._need_networks("load_replay_buffer")
        self._settle()
        read = load_state(path, "memory")
        state, mine = read["memory"], self._stored()
        for name, value in read.get("of", {}).items():
            if value != mine[name]:
                raise ValueError(f"{path} holds rows of {name}={value}, this model has {name}={mine[name]}")
        state = state | {"pending": []} if truncate_last_traj else state
        if self.dataset is None and self._awaited is None:
            self.memory.load_state_dict(state)
            return
        # A dataset's memory has room for its own rows only, and they may be more than buffer_size.
        ring = self.make_memory(max(self.config.buffer_size, len(state["table"])))
        ring.load_state_dict(state)
        self._set_ring(ring)
        self.dataset = self._awaited = None
