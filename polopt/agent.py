"""The face of every algorithm: stable-baselines3's API over one engine.

An algorithm is *what it changes*: a subclass of a family (:mod:`polopt.on_policy`) that fills a few slots. Everything a
user touches is here: construction, ``learn``, ``predict``, ``save``/``load``, parameters, environments, the logger.
"""

from __future__ import annotations

import inspect
import math
import os
import secrets
import sys
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor, nn

from . import __version__
from . import kwargs as kwargs_codec
from .batch import Batch
from .config import BaseConfig, check_names, hyper, is_schedule, type_hints
from .env import Env, Episode, Obs
from .errors import NonFiniteError
from .files import load_state, save_state, with_zip
from .graph import compiler_available
from .networks import count
from .normalize import Normalize
from .part import Part
from .policy import to_tensor
from .schedule import as_schedule
from .segments import beside
from .spaces import check_action_space, check_observation_space, is_image, same, to_json

__all__ = ["Agent", "AgentConfig", "NonFiniteError"]


@dataclass(frozen=True, kw_only=True)
class AgentConfig(BaseConfig):
    """Hyperparameters that every algorithm has."""

    stats_window_size: int = hyper(100, "[1, inf)", "episodes over which rollout/ep_rew_mean is taken")
    num_envs: int = hyper(1, "[1, inf)", "N, worlds stepped together where the environment is given by its id")
    normalize_obs: bool = hyper(False, doc="normalise observations by running moments, saved with the model")
    normalize_reward: bool = hyper(False, doc="divide rewards by the running std of the discounted return")
    compile: bool = hyper(False, doc="run updates as compiled graphs (half a minute to build, seconds from the cache)")
    threads: int | None = hyper(
        None, "[1, inf)", "torch's CPU threads while learning; None: 1 for small networks, else as set"
    )


_TAIL: dict[str, Any] = {
    "tensorboard_log": None,
    "policy_kwargs": None,
    "verbose": 0,
    "seed": None,
    "device": "auto",
    "env_kwargs": None,
    "_init_setup_model": True,
}
_ALIASES = {"n_envs": "num_envs"}


class Agent(ABC):
    """Acts, and updates itself from a memory. Construct as ``Algorithm("MlpPolicy", env, **hyperparameters)``.

    Args:
        policy: ``"MlpPolicy"``, ``"MultiInputPolicy"`` for Dict observations, or of on-policy methods ``"CnnPolicy"`` for images.
        env: an environment id, a ``gymnasium.Env``, a ``gymnasium.vector.VectorEnv``, a stable-baselines3 ``VecEnv``, a
            callable that makes one of these, or a :class:`polopt.env.Env`. None builds no networks until ``set_env``.
        tensorboard_log: folder for TensorBoard event files.
        policy_kwargs: ``net_arch, activation_fn, optimizer_class, optimizer_kwargs``; of on-policy methods ``ortho_init,
            log_std_init, state_dependent_std, features_extractor_class, features_extractor_kwargs, share_features_extractor`` too, of off-policy
            ones ``n_critics``. With ``use_sde``: ``log_std_init, use_expln``, on-policy ``full_std``, off-policy ``clip_mean``.
        verbose: 1 prints the log table.
        seed: seeds networks, noise, minibatches and environments; None draws one.
        device: a torch device; "auto" is the environment's (small networks are fastest where the physics is).
        env_kwargs: arguments of the environment where it is given by its id.

    Raises:
        TypeError: an unknown hyperparameter (names the nearest), or one of the wrong type.
        ValueError: a hyperparameter out of range, an unknown environment, a space the algorithm does not support.
    """

    Config: ClassVar[type[AgentConfig]]
    action_spaces: ClassVar[tuple[type[Space], ...]] = (
        spaces.Box,
        spaces.Discrete,
        spaces.MultiDiscrete,
        spaces.MultiBinary,
    )
    policies: ClassVar[tuple[str, ...]] = ("MlpPolicy", "MultiInputPolicy")
    """What ``policy`` may be."""
    policy_aliases: ClassVar[dict[str, Any]] = {
        "MlpPolicy": "MlpPolicy",
        "MultiInputPolicy": "MultiInputPolicy",
        "CnnPolicy": "CnnPolicy",
    }

    fixed: ClassVar[frozenset[str]] = frozenset({"num_envs", "normalize_obs", "normalize_reward", "stats_window_size"})
    """Hyperparameters that are built into the model: they cannot be set afterwards. A subclass adds its own."""

    starts: ClassVar[frozenset[tuple[str, str]]] = frozenset()
    """Hyperparameters that say where a network or a part begins, and which: a model that is loaded with another value begins
    there, and does not take the file's. A subclass adds its own."""

    policy: Any
    parts: dict[str, Part]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.fixed = frozenset().union(*(vars(base).get("fixed", ()) for base in cls.__mro__))
        cls.starts = frozenset().union(*(vars(base).get("starts", ()) for base in cls.__mro__))
        if "Config" not in cls.__dict__:
            return
        P = inspect.Parameter
        names = [
            P("policy", P.POSITIONAL_OR_KEYWORD, default="MlpPolicy"),
            P("env", P.POSITIONAL_OR_KEYWORD, default=None),
        ]
        names += [P(f.name, P.KEYWORD_ONLY, default=f.default, annotation=f.type) for f in fields(cls.Config)]
        names += [P(name, P.KEYWORD_ONLY, default=default) for name, default in _TAIL.items()]
        cls.__signature__ = inspect.Signature(names)
        for f in fields(cls.Config):
            if not hasattr(cls, f.name):
                setattr(cls, f.name, _hyperparameter(f.name, f.metadata.get("doc", "")))
            elif not isinstance(getattr(cls, f.name), _Hyperparameter):
                raise TypeError(f"{cls.__name__}.Config.{f.name}: the class has something else of that name")

    def __init__(self, policy: str = "MlpPolicy", env: Any = None, **kwargs: Any) -> None:
        kwargs = {_ALIASES.get(k, k): v for k, v in kwargs.items()}
        known = [f.name for f in fields(self.Config)]
        check_names(type(self).__name__, kwargs, [*known, *_TAIL])
        tail = {**_TAIL, **{k: v for k, v in kwargs.items() if k in _TAIL}}
        self.config = self.Config(**{k: v for k, v in kwargs.items() if k in known})
        self.policy_class = self._check_policy(policy)
        if not isinstance(tail["policy_kwargs"], (dict, type(None))):
            raise TypeError(f"policy_kwargs={tail['policy_kwargs']!r} must be a dict, such as dict(net_arch=[64, 64])")
        self.policy_kwargs: dict[str, Any] = dict(tail["policy_kwargs"] or {})
        kwargs_codec.encode(self.policy_kwargs)  # what no file could hold is refused before any work
        self.tensorboard_log, self.verbose, self.env_kwargs = (
            tail["tensorboard_log"],
            tail["verbose"],
            dict(tail["env_kwargs"] or {}),
        )
        self.seed = secrets.randbits(31) if tail["seed"] is None else _check_seed(tail["seed"])
        self._given_seed = tail["seed"]
        self._device = _check_device(tail["device"])
        self.num_timesteps = 0
        self._total_timesteps = 0
        self._n_updates = 0
        self._iterations = self._episodes = 0
        self._last_obs: Obs | None = None
        self._resets = 0  # the worlds', when _last_obs was theirs
        self._made_worlds = True  # here, of an id or a function
        self._seeded = False  # whether the environment's first reset has been given the seed
        self._waiting: dict[str, Any] | None = None  # what a file says of training, until there is an environment
        self.ep_info_buffer: deque[dict[str, Any]] = deque(maxlen=self.config.stats_window_size)
        self.ep_success_buffer: deque[bool] = deque(maxlen=self.config.stats_window_size)
        self._logger: Any = None
        self._custom_logger = False
        self._commit: Callable[[Agent], bool] | None = None
        self._turn: Any = None  # the loop's, while it runs
        self._metrics: dict[str, Tensor] = {}  # of the updates since the last log line
        self.env: Env | None = None
        self.env_id: str | None = None  # with env_kwargs it makes the same worlds again; None where an object was given
        self._sb3_env: Any = None
        self._normalize_state: dict[str, Any] | None = None
        if env is not None:
            if self.env_kwargs and not isinstance(env, str):
                raise TypeError(
                    f"env_kwargs {', '.join(self.env_kwargs)}: only an id takes arguments of the environment"
                )
            self._take_env(env)
            if self.config.num_envs not in (1, self.n_envs):
                raise ValueError(
                    f"num_envs={self.config.num_envs}, but env has {self.n_envs} world{'s' * (self.n_envs > 1)}: it is made "
                    "already. Give an id or a callable to have several made"
                )
            if tail["_init_setup_model"]:
                self._setup_model()

    # -- construction --------------------------------------------------------------------------------------------

    def _check_policy(self, policy: Any) -> str:
        if policy in self.policies:
            return policy
        if policy == "CnnPolicy":
            raise NotImplementedError(
                f"{type(self).__name__} has no CnnPolicy: use PPO or another method with an actor-critic, or an observation wrapper "
                "that gives vectors"
            )
        raise ValueError(f"policy={policy!r} is unknown; it is one of {', '.join(map(repr, self.policies))}")

    def _take_env(self, env: Any) -> None:
        from .envs import as_env  # the wing is looked up by name, on use

        given, c = env, self.config
        made_here = isinstance(env, str) or (callable(env) and not isinstance(env, Env))
        own = {"num_envs": c.num_envs, "device": self._device or "cpu"} if made_here else {}
        if isinstance(env, str):
            own |= self.env_kwargs
        # Worlds that the user made keep the user's seed where there is no other, and are not seeded again when they change.
        keep = not made_here and (self._given_seed is None or self._seeded)
        if (c.normalize_obs or c.normalize_reward) and _is_sb3(given):
            from stable_baselines3.common.vec_env import unwrap_vec_normalize

            if unwrap_vec_normalize(given) is not None:
                raise ValueError(
                    "normalize_obs, normalize_reward: the environment is a VecNormalize already; take one or the other"
                )
        env, show = as_env(env, seed=None if keep else self.seed, **own), not self.normalizes_on_read
        if isinstance(env, Normalize):
            pass
        elif c.normalize_obs or c.normalize_reward:
            gamma = getattr(c, "gamma", 0.99)
            env = Normalize(env, obs=c.normalize_obs, reward=c.normalize_reward, gamma=gamma, show=show)
        elif self._normalize_state is not None:  # it had learned in a Normalize that was given to it
            env = Normalize.like(env, self._normalize_state, show=show)
        self._adopt(env)
        self._made_worlds = made_here
        self.env_id = env.id if isinstance(given, str) else None
        self._sb3_env = given if _is_sb3(given) else None

    def _adopt(self, env: Env) -> None:
        name = type(self).__name__
        if any(isinstance(w, Normalize) for w in env.chain()[1:]):
            raise ValueError(
                f"{name}: Normalize must be the outermost wrapper, which the model saves and predicts with; put it around the others"
            )
        if isinstance(env, Normalize) and env.show == self.normalizes_on_read:
            remembers = "remembers observations as they are, and normalises what it reads"
            raise ValueError(
                f"{name} {remembers if env.show else 'learns from what its environment shows, and Normalize(show=False) shows it raw'}: "
                "pass the environment without Normalize, and normalize_obs=True"
            )
        raw = env.env.observation_space if isinstance(env, Normalize) else env.observation_space
        check_observation_space(raw)
        leaves = raw.spaces.values() if isinstance(raw, spaces.Dict) else [raw]
        if self.policy_class == "CnnPolicy":
            if not is_image(raw):
                raise ValueError(f"CnnPolicy reads one image, a Box of uint8 [H, W, C] or [C, H, W], not {raw}")
        elif any(map(is_image, leaves)) and not self._reads_images(raw):
            raise NotImplementedError(
                f"{name}: the observation space {raw} has images, and {self.policy_class} reads vectors; use an on-policy method with "
                "'CnnPolicy' (or a policy_kwargs['features_extractor_class'] such as stable-baselines3's NatureCNN), or an "
                "observation wrapper that gives vectors"
            )
        check_action_space(env.action_space, self.action_spaces, name)
        self.env, self.n_envs, self._resets = env, env.num_envs, env.unwrapped.resets
        self.observation_space, self.action_space = raw, env.action_space
        self.normalizer = env if isinstance(env, Normalize) else None

    def _reads_images(self, space: Space) -> bool:
        """Whether the networks take a space that has images, under a policy that is no ``"CnnPolicy"``."""
        return "features_extractor_class" in self.policy_kwargs

    def _setup_model(self) -> None:
        """Build networks, parts and memory for the spaces."""
        self.device = self._device or (self.env.device if self.env is not None else torch.device("cpu"))
        self.generator = torch.Generator(self.device).manual_seed(self.seed)
        self._dice = torch.Generator(self.device).manual_seed(self.seed)  # what predict draws, apart from training
        # LAPACK's factors, and so orthogonal weights, round by how many threads made them: one, for a seed to mean the same.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self._seeded_setup()
        finally:
            torch.set_num_threads(threads)
        for net in self.nets.values():
            net.to(self.device)
        self._set_schedules(1.0)

    def _seeded_setup(self) -> None:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.seed)
            self.parts = {}
            self._scheduled: list[Part] = []
            self.nets: dict[str, nn.Module] = {}
            self._refresh()
            self._build()

    @abstractmethod
    def _build(self) -> None:
        """Fill ``self.nets`` (name -> module, ``policy`` among them) and ``self.parts``; and whatever else learning needs."""

    def _check_sizes(self) -> None:  # noqa: B027
        """Raise a ValueError where hyperparameters do not fit each other or the number of worlds."""

    def part(self, name: str, params: Any, *, lr: float | None = None, **kwargs: Any) -> Part:
        """Declare parameters that step together. Without ``lr`` they follow ``learning_rate``'s schedule."""
        part = Part(params, lr=as_schedule(self.config.learning_rate)(1.0) if lr is None else lr, **kwargs)
        if self.compiled and not (part.adam or part.sgd):
            rms = hasattr(self.config, "use_rms_prop")
            other = "use_rms_prop=False" if rms else "policy_kwargs=dict(optimizer_class=torch.optim.Adam)"
            raise ValueError(
                f"{type(self).__name__}: compile=True needs Adam, AdamW or SGD without momentum as optimizer; set compile=False, "
                f"or another one ({other})"
            )
        if lr is None:
            self._scheduled.append(part)
        self.parts[name] = part
        return part

    # -- hyperparameters -------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Rebuild ``self.c``, the hyperparameters as the equations use them: a schedule is a 0-d tensor, the rest constants."""
        hints = type_hints(self.Config)
        self._schedules: dict[str, Callable[[float], float]] = {}
        values = {}
        for f in fields(self.config):
            value = getattr(self.config, f.name)
            if is_schedule(hints[f.name]) and value is not None:
                self._schedules[f.name] = as_schedule(value)
                value = torch.tensor(float(self._schedules[f.name](1.0)), device=self.device)
            values[f.name] = value
        self.c = SimpleNamespace(**values)
        self.compiled = bool(self.config.compile) and compiler_available()

    def _set_schedules(self, progress: float) -> None:
        """Write every scheduled value of this progress (1 -> 0) into its buffer."""
        self._progress = progress
        for name, schedule in self._schedules.items():
            value = float(schedule(progress))
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"{type(self).__name__}: {name} is {value} at progress {progress:.3g} of its schedule; it must be at least 0"
                )
            getattr(self.c, name).fill_(value)
        for part in self._scheduled:
            part.lr.fill_(float(self._schedules["learning_rate"](progress)))

    @property
    def lr_schedule(self) -> Callable[[float], float]:
        """The learning rate as a function of the progress left."""
        return as_schedule(self.config.learning_rate)

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for a number of environment steps (summed over the worlds); whole rollouts are run.

        Args:
            total_timesteps: steps to run; further steps where ``reset_num_timesteps`` is false.
            callback: a stable-baselines3 callback, a list of them, or a function ``(locals, globals) -> bool``.
            log_interval: iterations between log lines; None logs nothing.
            tb_log_name: TensorBoard run name; the algorithm's by default.
            reset_num_timesteps: start counting (and schedules) anew.
            progress_bar: show rate and time left.

        Raises:
            EnvError: the environment raised, or gave NaN or infinity; names the world and the step.
            NonFiniteError: a loss became NaN or infinite.
        """
        from .loop import learn

        learn(
            self,
            total_timesteps,
            callback,
            log_interval,
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )
        return self

    @property
    @abstractmethod
    def horizon(self) -> int:
        """Steps each world takes between updates."""

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from a fresh rollout ``[T, N]``. Returns metrics by their logger key under ``train/``, 0-d tensors."""

    def worlds_reset(self) -> None:  # noqa: B027
        """All worlds have begun anew: what was under way in them does not go on."""

    def abandon(self, batch: Batch) -> None:  # noqa: B027
        """A rollout ``[T, N]`` that a callback stopped: nothing is learned from it now. On-policy methods drop it."""

    @property
    def in_rollout(self) -> bool:
        """Whether the next iteration goes on with the rollout of the last one."""
        return False

    def completes_rollout(self, batch: Batch) -> bool:
        """Whether the rollout under way ends with this batch ``[T, N]``: one is an iteration, where no method says more."""
        return True

    remedy: ClassVar[str] = "Lower learning_rate, or set normalize_obs=True and normalize_reward=True"
    """What to do where training diverges."""

    # -- acting: what the rollout asks (see polopt.rollout.Actor) --------------------------------------------------------

    @abstractmethod
    def noise(self, horizon: int, num_envs: int) -> Tensor | None: ...

    @abstractmethod
    def act(self, obs: Any, noise: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]: ...

    def host_actor(self) -> Callable[[Any, Any], np.ndarray] | None:
        return None

    def env_action(self, action: Any) -> Any:
        """Actions as the environment takes them: shaped as its space, clipped to a Box's bounds."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            if len(space.shape) != 1:
                action = action.reshape(-1, *space.shape)
            if isinstance(action, np.ndarray):
                return np.minimum(np.maximum(action, space.low), space.high)
            low, high = (torch.as_tensor(x, device=action.device) for x in (space.low, space.high))
            return torch.minimum(torch.maximum(action, low), high)
        if isinstance(space, spaces.MultiBinary) and len(space.shape) != 1:
            return action.reshape(-1, *space.shape)
        return action

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Actions for raw NumPy observations, single or batched: ``(action, state)``.

        A model that normalises its observations does so here, with its frozen statistics.

        Raises:
            ValueError: the observation's shape does not fit the observation space.
        """
        if isinstance(observation, tuple):
            raise ValueError(
                "observation is a tuple: env.reset() of Gymnasium gives (observation, info); pass the observation alone"
            )
        self._need_networks("predict")
        if self.normalizer is not None:
            observation = _as_arrays(observation)
            to_tensor(self.observation_space, observation, "cpu")  # for its complaints
            observation = self.normalizer.normalize_obs(observation)
        return self.policy.predict(observation, state, episode_start, deterministic, self._dice)

    def _need_networks(self, what: str) -> None:
        if not hasattr(self, "nets"):
            raise RuntimeError(
                f"{type(self).__name__}.{what}: there are no networks yet; construct with env=..., or set_env"
            )

    # -- parameters ------------------------------------------------------------------------------------------------

    def get_parameters(self) -> dict[str, Any]:
        """State dicts of networks by name, and of optimizers as ``NAME.optimizer``."""
        self._need_networks("get_parameters")
        out: dict[str, Any] = {name: net.state_dict() for name, net in self.nets.items()}
        return out | {f"{name}.optimizer": part.state_dict() for name, part in self.parts.items()}

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """Take :meth:`get_parameters`, or a model file's, back.

        Args:
            load_path_or_dict: of a file, a normalising model takes the moments too.
            exact_match: every network and optimizer must be there.

        Raises:
            ValueError: a name is missing or unknown.
        """
        self._need_networks("set_parameters")
        given = load_path_or_dict
        if not isinstance(given, dict):
            stored = load_state(with_zip(given), "model")
            given = stored["parameters"]
            if self.normalizer is not None and stored["normalize"] is not None:
                self.normalizer.load_statistics(stored["normalize"])
        known = {*self.nets, *(f"{n}.optimizer" for n in self.parts)}
        if unknown := set(given) - known:
            raise ValueError(f"unknown parameters {sorted(unknown)}; this model has {sorted(known)}")
        if exact_match and (missing := known - set(given)):
            raise ValueError(f"parameters for {sorted(missing)} are missing; pass exact_match=False to set the others")
        for name, state in given.items():
            if name.endswith(".optimizer"):
                self.parts[name.removesuffix(".optimizer")].load_state_dict(state)
            else:
                self.nets[name].load_state_dict(state)

    # -- environments ------------------------------------------------------------------------------------------------

    def get_env(self) -> Any:
        """The training environment as a stable-baselines3 ``VecEnv``, in its own units (``predict`` normalises by itself);
        None without one."""
        if self.env is None:
            return None
        if self._sb3_env is None:
            from .envs import to_sb3

            self._sb3_env = to_sb3(self.env if self.normalizer is None else self.normalizer.env)
        return self._sb3_env

    def get_vec_normalize_env(self) -> Any:
        """The ``VecNormalize`` wrapper around the training environment, or None."""
        if not _is_sb3(self._sb3_env):
            return None
        from stable_baselines3.common.vec_env import unwrap_vec_normalize

        return unwrap_vec_normalize(self._sb3_env)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """Train on another environment of the same spaces and number of worlds.

        Raises:
            ValueError: its spaces or its number of worlds differ. The model is then as it was.
            FileError: a model that was loaded without an environment had rows on the disk, and they are gone.
        """
        fresh = not hasattr(self, "nets")
        if not fresh and self.normalizer is not None:
            self._normalize_state = self.normalizer.statistics()
        before = dict(self.__dict__)
        try:
            self._take_env(env)
            if fresh:
                self._setup_model()
            else:
                self._check_fit(before)
        except Exception:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        if self._normalize_state is not None and self.normalizer is not None:
            self.normalizer.load_statistics(self._normalize_state)
        if force_reset:
            self._last_obs = None
        if self._waiting is not None:
            self._settle()
            worlds, self._waiting = self._waiting["env"], None
            self._go_on_in(worlds)

    def _settle(self) -> None:
        """Take over what a file that was loaded without an environment says of training; only its worlds go on waiting."""
        if self._waiting is not None and len(self._waiting) > 1:
            state = self._waiting
            self.load_training_state(state | {"env": None})
            self._waiting = {"env": state["env"]}

    def _go_on_in(self, worlds: dict[str, Any] | None) -> None:
        """Put the environment where a file's worlds were, if it is of their kind."""
        try:
            self._load_worlds(worlds)
        except (ValueError, KeyError):
            self._last_obs = None
            self.worlds_reset()
            warnings.warn(
                "the file's worlds are of another kind than env: they begin anew, all else goes on", stacklevel=4
            )

    def _check_fit(self, before: dict[str, Any]) -> None:
        """Raise where the environment just taken is not one for the networks that there are."""
        obs, action, worlds = (before.get(name) for name in ("observation_space", "action_space", "n_envs"))
        mine = self.observation_space, self.action_space
        problem = None
        if not (same(obs, mine[0]) and same(action, mine[1])):
            problem = f"its spaces {mine[0]}, {mine[1]} differ from the model's {obs}, {action}"
        elif worlds is not None and self.n_envs != worlds:
            problem = f"it has {self.n_envs} worlds where the model was set up with {worlds}"
        if problem:
            raise ValueError(f"env does not fit this model: {problem}")
        self._check_sizes()

    def _load_worlds(self, state: dict[str, Any] | None) -> None:
        if state is None or self.env is None:
            return
        self._last_obs, self._seeded = self.env.load_state_dict(state), True
        self._resets = self.env.unwrapped.resets
        if not self.env.exact_state:
            self.worlds_reset()

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything random: noise, minibatches, and the environment at its next reset."""
        if seed is None:
            return
        self.seed = self._given_seed = _check_seed(seed)
        if hasattr(self, "generator"):
            self.generator.manual_seed(self.seed)
            self._dice.manual_seed(self.seed)
        self._last_obs, self._seeded = None, False

    # -- logger ----------------------------------------------------------------------------------------------------

    @property
    def logger(self) -> Any:
        """stable-baselines3's ``Logger``."""
        if self._logger is None:
            from stable_baselines3.common.utils import configure_logger

            self._logger = configure_logger(self.verbose, self.tensorboard_log, type(self).__name__)
        return self._logger

    def set_logger(self, logger: Any) -> None:
        """Use this ``stable_baselines3.common.logger.Logger``."""
        self._logger, self._custom_logger = logger, True

    def dump_logs(self, iteration: int = 0) -> None:
        """Write what the logger has, with rollout and time figures, now (stable-baselines3's ``LogEveryNTimesteps``)."""
        from .loop import dump

        dump(self)

    def callback_locals(self, taken: int) -> dict[str, Any]:
        """What callbacks find in ``locals`` beside the transition, after so many steps of the rollout."""
        return {}

    normalizes_on_read: ClassVar[bool] = False
    """Whether a memory holds observations and rewards as they are, and normalises what is read from it."""

    scaled_actions: ClassVar[bool] = False
    """Whether the policy's actions lie in [-1, 1] whatever the Box: callbacks see them in the Box's units."""

    log_every: ClassVar[str] = "iterations"
    """What ``log_interval`` counts: iterations, or episodes."""

    def _log_ticks(self) -> int:
        return self._iterations if self.log_every == "iterations" else self._episodes

    def _record_episodes(self, episodes: list[Episode]) -> None:
        self._episodes += len(episodes)
        for e in episodes:
            self.ep_info_buffer.append({"r": e.r, "l": e.l})
            if e.success is not None:
                self.ep_success_buffer.append(e.success)

    # -- files -------------------------------------------------------------------------------------------------------

    def save(
        self, path: str | os.PathLike[str], exclude: Any = None, include: Any = None, *, full: bool = False
    ) -> None:
        """Write the model: a zip of safetensors and JSON, whole or not at all. ``.zip`` is added where missing.

        Args:
            exclude, include: accepted for stable-baselines3's sake; the file always holds the same things.
            full: also what training goes on from exactly: environment, memory and random generators.
        """
        self._need_networks("save")
        state = self.model_state()
        if full:
            waiting = self._waiting or {}
            state["training"] = waiting if len(waiting) > 1 else self.training_state() | waiting
        save_state(with_zip(path), state, "model")

    def model_state(self) -> dict[str, Any]:
        """What a model file holds."""
        return {
            "algorithm": type(self).__name__,
            "polopt": __version__,
            "policy": self.policy_class,
            "config": self.config.to_json(),
            "policy_kwargs": kwargs_codec.encode(self.policy_kwargs),
            "observation_space": to_json(self.observation_space),
            "action_space": to_json(self.action_space),
            "env_id": self.env_id,
            "env_kwargs": kwargs_codec.encode(self.env_kwargs),
            "seed": self._given_seed,
            "tensorboard_log": None if self.tensorboard_log is None else os.fspath(self.tensorboard_log),
            "verbose": self.verbose,
            "n_envs": getattr(self, "n_envs", self.config.num_envs),
            "num_timesteps": self.num_timesteps,
            "total_timesteps": self._total_timesteps,
            "n_updates": self._n_updates,
            "parameters": self.get_parameters(),
            "normalize": self.normalizer.statistics() if self.normalizer is not None else self._normalize_state,
        }

    def take_model_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what a subclass adds to :meth:`model_state`; the networks and their optimizers are there already."""

    def training_state(self) -> dict[str, Any]:
        """What training goes on from exactly, beside the model: environment, random generators, running statistics."""
        return {
            "env": None if self.env is None or self._last_obs is None else self.env.state_dict(),
            "generator": self.generator.get_state(),
            "dice": self._dice.get_state(),
            "torch_rng": torch.get_rng_state(),
            "episodes": [dict(e) for e in self.ep_info_buffer],
            "successes": [bool(s) for s in self.ep_success_buffer],
            "iterations": self._iterations,
            "episodes_finished": self._episodes,
            "progress": self._progress,
            "metrics": dict(self._metrics),
        }

    @classmethod
    def _unseeded(cls, state: dict[str, Any]) -> dict[str, Any]:
        """:meth:`training_state` without the model's random generators."""
        return {k: v for k, v in state.items() if k not in ("generator", "dice", "torch_rng")}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Take :meth:`training_state` back: the next ``learn(..., reset_num_timesteps=False)`` goes on where it was taken."""
        try:
            if "generator" in state:
                self.generator.set_state(state["generator"])
            if "dice" in state:
                self._dice.set_state(state["dice"])
        except RuntimeError:  # a generator's state is of its kind of device
            warnings.warn(
                f"the file was written on another kind of device than {self.device}: random numbers begin anew",
                stacklevel=2,
            )
        if "torch_rng" in state:
            torch.set_rng_state(state["torch_rng"])
        self.ep_info_buffer.extend(state["episodes"])
        self.ep_success_buffer.extend(state["successes"])
        self._iterations, self._episodes = state["iterations"], state["episodes_finished"]
        self._metrics = {name: x.to(self.device) for name, x in state.get("metrics", {}).items()}
        self._set_schedules(state["progress"])
        self._load_worlds(state["env"])

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Read a model file, stable-baselines3's too (of PPO, A2C, TRPO, SAC, TD3, DDPG, DQN). Nothing in it is run.

        Args:
            env: an environment to go on with; without one the model predicts, and learns after ``set_env``.
            custom_objects: values that the file could not hold (a schedule that is a function) or that shall replace its own.
            kwargs: hyperparameters to change.

        Raises:
            FileNotFoundError: there is no such file.
            FileError: it is damaged, of another version, or not a polopt model of this algorithm.
            ValueError: ``policy_kwargs`` differ from the stored ones.
        """
        from .model_file import restore
        from .sb3_zip import is_sb3
        from .sb3_zip import load as load_sb3

        if print_system_info:
            from stable_baselines3.common.utils import get_system_info

            get_system_info()
        changes = cls._changes(custom_objects, kwargs)
        if is_sb3(with_zip(path)):
            return load_sb3(cls, with_zip(path), env, device, changes, force_reset)
        state = load_state(with_zip(path), "model", beside(with_zip(path)))
        return restore(cls, state, path, env, device, changes, force_reset)

    @classmethod
    def _changes(cls, custom_objects: dict[str, Any] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments that are to replace the file's. Of ``custom_objects`` what is none is left alone
        (stable-baselines3's files hold a ``lr_schedule``)."""
        known = {*(f.name for f in fields(cls.Config)), *_TAIL}
        kwargs = {_ALIASES.get(k, k): v for k, v in kwargs.items()}
        check_names(cls.__name__, kwargs, known)
        return {k: v for k, v in (custom_objects or {}).items() if k in known} | kwargs

    def __repr__(self) -> str:
        if not hasattr(self, "nets"):
            return f"{type(self).__name__}(no environment yet)"
        where = "no environment" if self.env is None else self.env.id or type(self.env.unwrapped).__name__
        worlds = f", {self.n_envs} world{'s' * (self.n_envs != 1)}" if self.n_envs else ""
        return (
            f"{type(self).__name__}({where}{worlds}, {self.parameter_count:,} parameters, {self.num_timesteps:,} steps)"
        )

    # -- counting ----------------------------------------------------------------------------------------------------

    @property
    def parameter_count(self) -> int:
        """Number of parameters over all networks."""
        return sum(count(net) for net in self.nets.values())


class _Hyperparameter(property):
    """A field of the Config, read and set through the model."""


def _hyperparameter(name: str, doc: str) -> property:
    def get(self: Agent) -> Any:
        return getattr(self.config, name)

    def set_(self: Agent, value: Any) -> None:
        if hasattr(self, "nets") and name in self.fixed:
            raise AttributeError(
                f"{type(self).__name__}.{name} is built into the model and cannot be set afterwards: pass {name}={value!r} to "
                "the constructor or, where it shapes no network, to load"
            )
        before, self.config = self.config, self.config.replace(**{name: value})
        if not hasattr(self, "nets"):
            return
        try:
            self._check_sizes()
        except Exception:  # also of what the user's own function raises
            self.config = before
            raise
        progress = self._progress
        self._refresh()
        self._set_schedules(progress)
        self.__dict__.pop("_graphs", None)  # they are of the former value, or shapes
        if name == "gamma" and self.normalizer is not None and (before.normalize_obs or before.normalize_reward):
            self.normalizer.gamma = value

    return _Hyperparameter(get, set_, doc=doc)


def _check_seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} must be an integer in [0, 2**32)")
    return int(seed)


def _check_device(device: Any) -> torch.device | None:
    """None for "auto"."""
    if device == "auto" or device is None:
        return None
    try:
        device = torch.device(device)
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ValueError(f"device={str(device)!r} is not available; there is {', '.join(have)}") from error
    return device


def _is_sb3(env: Any) -> bool:
    base = sys.modules.get("stable_baselines3.common.vec_env.base_vec_env")
    return base is not None and isinstance(env, base.VecEnv)


def _as_arrays(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {k: np.asarray(v) for k, v in observation.items()}
    return np.asarray(observation)
