"""N worlds of one MuJoCo model, stepped together by ``mujoco.batch.Batch``."""

from __future__ import annotations

import importlib.util
import logging
import os
from abc import abstractmethod
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import mujoco
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from mujoco.batch import Batch, SimulationError

from polopt.env import EnvError, HostEnv, State, Step
from polopt.errors import RenderError

from . import HEADLESS
from .contact import ContactBatch

_LOG = logging.getLogger(__name__)

__all__ = ["MujocoEnv", "Options", "length"]

_FATAL = slice(mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADCTRL + 1)
_SYMPTOMS = ("position", "velocity", "acceleration", "control")
_NONE = int(mujoco.mjtStage.mjSTAGE_NONE)


class Options(TypedDict, total=False):
    """The constructor arguments that every task shares; :class:`MujocoEnv` says what they mean."""

    device: str | torch.device
    seed: int | None
    dtype: torch.dtype
    threads: int | None
    max_episode_steps: int | None
    default_camera_config: Mapping[str, Any] | None
    camera_id: int | None
    camera_name: str | None
    width: int
    height: int
    max_geom: int
    visual_options: Mapping[int, bool] | None


class MujocoEnv(HostEnv):
    """N worlds of a MuJoCo model, equal bit for bit to N of Gymnasium's environments.

    A task of your own is a subclass that says where an episode starts, what is observed and what is rewarded::

        class Slider(MujocoEnv):
            def __init__(self, num_envs=1, **options):
                super().__init__(num_envs, xml_file="./slider.xml", frame_skip=4, **options)

            def _draw(self, rng):
                return self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq), self.init_qvel

            def _observe(self):
                return self.joints.astype(self._float)

            def _evaluate(self, action, before):
                return -np.square(self.qpos).sum(-1), np.zeros(self.num_envs, bool)

    ``self.qpos``, ``self.qvel``, ``self.joints`` (both side by side) and whatever :meth:`_bind` returns are live arrays
    ``[N, ...]`` of ``MjData``'s fields. As in Gymnasium, fields derived from the state (``xpos``, ``qfrc_actuator``)
    are those of the last evaluation of the dynamics, which lies before the last integration step.

    Args:
        num_envs: N >= 1.
        xml_file: a path that starts with ``.``, ``/`` or ``~``, or the name of a file among Gymnasium's assets.
        frame_skip: physics steps per ``step`` >= 1.
        contact_forces: keep ``self.cfrc_ext`` ``[N, nbody, 6]``, the contact forces on the bodies [Nm, N] as Gymnasium
            evaluates them (after the last stage of the integrator).
        device: only ``"cpu"``.
        seed: of the first ``reset()``, as if it had been given there.
        dtype: of observations and rewards; ``torch.float64`` gives Gymnasium's own numbers, float32 rounds them.
        threads: physics threads; by default one per available core, and never more than worlds.
        max_episode_steps: time limit [steps]; None for the task's own, -1 for none (as in ``gymnasium.make``).
        default_camera_config, camera_id, camera_name, width, height, max_geom, visual_options: of :meth:`render`, as
            in Gymnasium.

    Attributes:
        model: the ``mujoco.MjModel`` shared by all worlds (but see :meth:`set_parameter`).
        frame_skip: physics steps per ``step``.
        dt: simulated time per ``step`` [s].
        init_qpos, init_qvel: the model's default state.

    Raises:
        ValueError: an argument is out of range.
        FileNotFoundError: there is no such ``xml_file``.
    """

    camera_config: ClassVar[Mapping[str, Any]] = {}
    """The free camera's settings for models without a camera named "track"."""

    def __init__(
        self,
        num_envs: int = 1,
        *,
        xml_file: str,
        frame_skip: int,
        contact_forces: bool = False,
        device: str | torch.device = "cpu",
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        max_episode_steps: int | None = None,
        default_camera_config: Mapping[str, Any] | None = None,
        camera_id: int | None = None,
        camera_name: str | None = None,
        width: int = 480,
        height: int = 480,
        max_geom: int = 1000,
        visual_options: Mapping[int, bool] | None = None,
    ) -> None:
        if torch.device(device).type != "cpu":
            raise ValueError(f"device={str(device)!r}: native MuJoCo worlds live on the CPU; use device='cpu'")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: must be torch.float32 or torch.float64")
        for name, value in (("num_envs", num_envs), ("frame_skip", frame_skip), ("threads", threads)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if max_episode_steps is not None and max_episode_steps != -1 and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps={max_episode_steps}: must be at least 1, -1 for no limit, or None")
        if camera_id is not None and camera_name is not None:
            raise ValueError(f"camera_id={camera_id} and camera_name={camera_name!r}: give one of the two")

        self._start(num_envs)
        self._float: type[np.floating] = np.float32 if dtype == torch.float32 else np.float64
        self.frame_skip = frame_skip
        if max_episode_steps is not None:
            self.max_episode_steps = None if max_episode_steps == -1 else max_episode_steps
        self._last_step = np.iinfo(np.int64).max if self.max_episode_steps is None else self.max_episode_steps - 1

        self.model = _compile(_model_path(xml_file))
        self.dt = self.model.opt.timestep * frame_skip
        threads = min(threads or _cores(), num_envs)
        self._batch = (ContactBatch if contact_forces else Batch)(self.model, num_envs, threads)
        self._derived: dict[str, np.ndarray] = {}
        self._parameters: dict[str, np.ndarray] = {}
        self._batch.reset(stage=_NONE)
        self._default = self._batch.state[0].copy()
        self.qpos, self.qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        first = (self.qpos.ctypes.data - self._batch.state.ctypes.data) // self.qpos.itemsize
        self.joints = self._batch.state[:, first : first + self.model.nq + self.model.nv]
        self._fatal = self._batch.warning[:, _FATAL, 1]
        if contact_forces:
            self.cfrc_ext = self._bind("cfrc_ext")
        self.init_qpos, self.init_qvel = self.qpos[0].copy(), self.qvel[0].copy()

        if camera_id is None and (camera_name is not None or default_camera_config is None):
            camera_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_CAMERA, camera_name or "track")
            if camera_id == -1 and camera_name is not None:
                raise ValueError(f"camera_name={camera_name!r}: {xml_file} has no such camera")
        self._camera_id = -1 if camera_id is None else camera_id
        self._camera_config = self.camera_config if default_camera_config is None else default_camera_config
        self._picture = (width, height)
        self._max_geom = max_geom
        self._visual_options = dict(visual_options or {})
        self._renderer: mujoco.Renderer | None = None

        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        self.action_space = Box(low, high, dtype=np.float32)
        self._action_shape = (num_envs, self.model.nu)
        self._rngs: list[np.random.Generator] = []
        self._seed = seed
        self._info: dict[str, np.ndarray] | None = {}
        self._prepare()
        self.observation_space = Box(-np.inf, np.inf, self._observe().shape[1:], self._float)

    # What a task says.

    def _prepare(self) -> None:
        """Bind the derived fields that the task reads; called when the model is loaded or its parameters change."""

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The state ``qpos [nq], qvel [nv]`` in which a new episode of one world starts."""

    @abstractmethod
    def _observe(self) -> np.ndarray:
        """A fresh array ``[N, O]`` of dtype ``self._float``."""

    def _locate(self) -> Any:
        """What :meth:`_evaluate` must know of the worlds as they were before the step (a copy)."""

    @abstractmethod
    def _evaluate(self, action: np.ndarray, before: Any) -> tuple[Any, Any]:
        """Reward ``[N]`` float and terminated ``[N]`` bool of the step just made; ``before`` is :meth:`_locate`'s.

        Where N is 1, numbers will do.
        """

    def _reset_info(self) -> dict[str, Any]:
        """Gymnasium's info of a reset, ``[N, ...]`` each; may be views of live arrays."""
        return {}

    def _step_info(self) -> dict[str, Any]:
        """Gymnasium's info of the last step, ``[N, ...]`` each; may be views of live arrays."""
        return {}

    def _bind(self, name: str) -> np.ndarray:
        """The live, read-only array ``[N, ...]`` of ``MjData``'s derived field ``name``."""
        self._derived[name] = self._batch.bind(name)
        return self._derived[name]

    def _each(self, values: np.ndarray) -> Any:
        """The array ``[N]`` itself, or its number where N is 1: Python's arithmetic gives the same bits, and sooner."""
        return values.item() if self.num_envs == 1 else values

    def _cost(self, weight: float, vectors: np.ndarray) -> Any:
        """``weight`` times the squared lengths of ``[N, k]``, as :meth:`_each`."""
        return self._each(weight * np.add.reduce(np.square(vectors), -1))

    def _parameter(self, name: str) -> np.ndarray:
        """The model's field ``name``: ``[N, ...]`` where :meth:`set_parameter` gave it, else shared by all worlds."""
        return self._parameters.get(name, getattr(self.model, name))

    # What the worlds do.

    @property
    def info(self) -> dict[str, np.ndarray]:
        """Gymnasium's info terms of the last step (its true successors') or of the last ``reset``, ``[N, ...]`` each.

        Computed when asked for. Empty before the first ``reset`` and right after ``reset_where``, ``set_state`` and
        ``load_state_dict``.
        """
        if self._info is None:
            self._info = {name: np.array(value, ndmin=1) for name, value in self._step_info().items()}
        return self._info

    @property
    def reset_info(self) -> dict[str, np.ndarray]:
        """Gymnasium's info of a reset ``[N, ...]``, true of the worlds whose last step, or reset, began an episode."""
        return {name: np.array(value) for name, value in self._reset_info().items()}

    def _reset(self, seed: int | None) -> np.ndarray:
        if not self._rngs:
            seed = self._seed if seed is None else seed
        if seed is not None or not self._rngs:
            seeds = [None if seed is None else seed + i for i in range(self.num_envs)]
            self._rngs = [seeding.np_random(s)[0] for s in seeds]
        self._batch.reset(stage=_NONE)  # which also forgets divergences
        self._restart(np.arange(self.num_envs))
        self._info = self.reset_info
        return self._observe()

    def _restart(self, worlds: np.ndarray) -> None:
        """Start a new episode in each of ``worlds``."""
        self._batch.state[worlds] = self._default
        for i in worlds:
            self.qpos[i], self.qvel[i] = self._draw(self._rngs[i])
        self._batch.forward(worlds)
        if isinstance(self._batch, ContactBatch):
            self.cfrc_ext[worlds] = 0.0

    def reset_where(self, mask: np.ndarray) -> np.ndarray:
        mask = np.asarray(mask, bool)
        if mask.shape != (self.num_envs,):
            raise ValueError(f"mask has shape {mask.shape}: must be ({self.num_envs},)")
        self._require_reset()
        self._info = {}
        self._finish(mask)
        if mask.any():
            self._restart(np.flatnonzero(mask))
        return self._observe()

    def _require_reset(self) -> None:
        if not self._rngs:
            raise EnvError(f"{self.id or type(self).__name__}: reset() must come first")

    def _step(self, action: np.ndarray) -> Step:
        if action.shape != self._action_shape:
            raise ValueError(f"action has shape {action.shape}: must be {self._action_shape} (num_envs, actuators)")
        self._require_reset()
        before = self._locate()
        self._ctrl[:] = action
        self._advance()
        self._info = None
        obs = next_obs = self._observe()
        reward, terminated = self._evaluate(action, before)
        terminated = np.array(terminated, ndmin=1)
        truncated = self._episode_length >= self._last_step
        done = terminated | truncated
        if np.count_nonzero(done):
            _ = self.info  # of the successors, which the restart overwrites
            self._restart(np.flatnonzero(done))
            obs = np.where(done[:, None], self._observe(), next_obs)
        return Step(obs, np.array(reward, self._float, ndmin=1), terminated, truncated, next_obs)

    def _advance(self) -> None:
        """The physics of one step, in all worlds.

        Raises:
            EnvError: it failed or diverged in some world. (MuJoCo itself resets a diverged world and goes on.)
        """
        try:
            self._batch.step(None, self.frame_skip)
        except SimulationError as error:
            raise EnvError(f"{self.id or type(self).__name__}, world {error.ids[0]}: {error}") from error
        if np.count_nonzero(self._fatal):
            world, kind = np.argwhere(self._fatal)[0]
            raise EnvError(
                f"{self.id or type(self).__name__}, world {world}: the physics diverged at step "
                f"{self._episode_length[world] + 1} of the episode (a NaN, infinite or huge {_SYMPTOMS[kind]}); "
                f"its action was {self._ctrl[world].tolist()}"
            )

    # State.

    def get_state(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions ``qpos [N, nq]`` and velocities ``qvel [N, nv]`` of all worlds (copies)."""
        return self.qpos.copy(), self.qvel.copy()

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Put every world into a state and return the observation ``[N, O]``. Episodes and time limits run on.

        Raises:
            ValueError: a shape is not ``[N, nq]`` or ``[N, nv]``.
        """
        qpos, qvel = np.asarray(qpos), np.asarray(qvel)
        for name, value, live in (("qpos", qpos, self.qpos), ("qvel", qvel, self.qvel)):
            if value.shape != live.shape:
                raise ValueError(f"{name} has shape {value.shape}: must be {live.shape}")
        self.qpos[:], self.qvel[:] = qpos, qvel
        self._batch.forward(np.arange(self.num_envs))
        self._info = {}
        return self._observe()

    def set_parameter(self, name: str, values: np.ndarray) -> None:
        """Give each world its own value of a parameter of the model, from now on.

        Args:
            name: a field of ``mujoco.MjModel`` (``"body_mass"``, ``"geom_friction"``, ...) or of its options
                (``"opt.gravity"``). Constants that MuJoCo derives from it follow.
            values: ``[N, ...]``, N times the field's shape.

        Raises:
            ValueError: MuJoCo cannot vary this field between worlds, or ``values`` has another shape.
        """
        if name == "opt.timestep":
            raise ValueError(
                "name='opt.timestep': all worlds keep the same time; choose another xml_file or frame_skip"
            )
        field = self._batch.expand(name)
        values = np.asarray(values)
        if values.shape != field.shape:
            raise ValueError(f"values of {name!r} have shape {values.shape}: must be {field.shape}")
        field[:] = values
        if name.startswith("opt.") or name in mujoco.MjModel._setconst_inputs:
            self._batch.set_const()
        self._parameters[name] = field
        if isinstance(self._batch, ContactBatch):
            self._batch.read_models()
        self._prepare()

    def state_dict(self) -> State:
        return {
            "id": self.id or type(self).__name__,
            "physics": self._batch.state.copy(),
            "derived": {name: field.copy() for name, field in self._derived.items()},
            "parameters": {name: field.copy() for name, field in self._parameters.items()},
            "rng": [rng.bit_generator.state for rng in self._rngs],
            "seed": self._seed,
            **self._episode_state(),
        }

    def load_state_dict(self, state: State) -> np.ndarray:
        id = self.id or type(self).__name__
        if state["id"] != id:
            raise ValueError(f"state is of {state['id']}, not of {id}")
        if state["physics"].shape != self._batch.state.shape:
            raise ValueError(
                f"state has {state['physics'].shape[0]} worlds of {state['physics'].shape[1]} numbers: "
                f"this environment has {self.num_envs} of {self._batch.nstate}"
            )
        defaults = {
            name: np.broadcast_to(attrgetter(name)(self.model), field.shape) for name, field in self._parameters.items()
        }
        for name, values in (defaults | state["parameters"]).items():
            self.set_parameter(name, values)
        self._batch.reset(stage=_NONE)
        self._batch.state[:] = state["physics"]
        for name, field in self._derived.items():
            # Batch guards its outputs, because its next call overwrites them; until then they are what is observed
            guarded = not field.flags.writeable
            field.flags.writeable = True
            field[:] = state["derived"][name]
            field.flags.writeable = not guarded
        self._rngs = []
        for rng_state in state["rng"]:
            rng = seeding.np_random(0)[0]
            rng.bit_generator.state = rng_state
            self._rngs.append(rng)
        self._seed = state.get("seed", self._seed)  # older states lack it
        self._load_episode_state(state)
        self._info = {}
        return self._observe()

    # Pictures.

    def render(self, index: int = 0, width: int | None = None, height: int | None = None) -> np.ndarray:
        """An RGB picture ``[height, width, 3]`` uint8 of world ``index``.

        Seen by the camera that was named, else by a free camera with the given ``default_camera_config``, else by the
        model's camera "track", else by a free camera with the task's own settings.

        Raises:
            IndexError: there is no such world.
            RenderError: OpenGL cannot be had; the message says what to install.
        """
        if not 0 <= index < self.num_envs:
            raise IndexError(f"index={index}: must be in [0, {self.num_envs})")
        width, height = width or self._picture[0], height or self._picture[1]
        model = self._batch.get_model(index) if self._parameters else self.model
        renderer, data = self._renderer, self._batch.get_data(index)
        mujoco.mj_forward(model, data)
        if renderer is None or (renderer.width, renderer.height) != (width, height) or renderer.model is not model:
            self._close_renderer()
            buffer = model.vis.global_
            buffer.offwidth, buffer.offheight = max(buffer.offwidth, width), max(buffer.offheight, height)
            renderer = self._renderer = _open_renderer(model, height, width, self._max_geom)
            self._camera = self._view(model, data)
        option = mujoco.MjvOption()
        for flag, value in self._visual_options.items():
            option.flags[flag] = value
        renderer.update_scene(data, self._camera, option)
        return renderer.render()

    def _view(self, model: mujoco.MjModel, data: mujoco.MjData) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        if self._camera_id != -1:
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, self._camera_id
            return camera
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = np.median(data.geom_xpos, axis=0)
        camera.distance = model.stat.extent
        for name, value in self._camera_config.items():
            if np.ndim(value):
                getattr(camera, name)[:] = value
            else:
                setattr(camera, name, value)
        return camera

    def _close_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def close(self) -> None:
        self._close_renderer()
        if isinstance(self._batch, ContactBatch):  # MuJoCo's own ends with the object
            self._batch.close()


def length(vectors: np.ndarray) -> np.ndarray:
    """Euclidean norms ``[N]`` of ``[N, k]``, rounded as ``numpy.linalg.norm`` rounds that of a single vector."""
    return np.sqrt(np.vecdot(vectors, vectors))


def _cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _model_path(xml_file: str) -> Path:
    if xml_file.startswith((".", "/", "~")):
        path = Path(xml_file).expanduser()
    else:
        gymnasium = importlib.util.find_spec("gymnasium")
        assert gymnasium is not None and gymnasium.origin is not None
        path = Path(gymnasium.origin).parent / "envs" / "mujoco" / "assets" / xml_file
    if not path.is_file():
        raise FileNotFoundError(
            f"xml_file={xml_file!r}: there is no {path}. A file of your own starts with '.', '/' or '~'"
        )
    return path


def _compile(path: Path) -> mujoco.MjModel:
    """The model of a file. What the compiler remarks on it is logged: left alone, MuJoCo prints it for every model and
    writes MUJOCO_LOG.TXT into the working directory, and Gymnasium's own files use an attribute it deprecates."""
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: _LOG.info("%s: %s", path.name, text))
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    finally:
        mujoco.set_mju_user_warning(handler)


def _open_renderer(model: mujoco.MjModel, height: int, width: int, max_geom: int) -> mujoco.Renderer:
    try:
        if HEADLESS and mujoco.GLContext.__module__ == "mujoco.glfw":  # it would abort the process
            raise RuntimeError("MuJoCo was imported with GLFW as its backend, which needs a display")
        return mujoco.Renderer(model, height, width, max_geom)
    except Exception as error:  # PyOpenGL, EGL, OSMesa and GLFW each raise types of their own
        raise RenderError(
            f"rendering needs OpenGL, which could not be set up ({type(error).__name__}: {error}). Without a display: "
            "install EGL (Debian, Ubuntu: apt-get install libegl1 libgl1) and set MUJOCO_GL=egl before MuJoCo is first "
            "imported, or install libosmesa6 and set MUJOCO_GL=osmesa"
        ) from error
