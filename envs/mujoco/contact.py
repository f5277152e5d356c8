"""A Batch that also knows contact forces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

__all__ = ["ContactBatch"]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_WARNINGS = int(mujoco.mjtWarning.mjNWARNING)


class ContactBatch(Batch):
    """A ``Batch`` whose ``cfrc_ext`` is what Gymnasium reads: the contact forces after the integrator's last stage.

    MuJoCo's own Batch evaluates it, where a sensor asks for it, at the integrator's first stage, and a call of
    ``mj_rnePostConstraint`` cannot be put into its loop. So the loop is written here: each thread (they are Python's;
    MuJoCo computes outside the interpreter's lock) loads a world's row into its own ``MjData``, steps, evaluates the
    forces, and copies the bound fields and the row back. Rows, resets and per-world parameters remain Batch's.
    """

    def __init__(self, model: mujoco.MjModel, nsim: int, nthread: int) -> None:
        super().__init__(model, nsim, 1)
        self._scratch = [mujoco.MjData(model) for _ in range(nthread)]
        self._pool = ThreadPoolExecutor(nthread - 1) if nthread > 1 else None
        self._outputs: dict[str, np.ndarray] = {}
        self._own_models = [model] * nsim

    def bind(self, name: str) -> np.ndarray:
        field = super().bind(name)
        if np.may_share_memory(field, self.state):
            return field
        if self.nsim == 1:
            return getattr(self._scratch[0], name)[None]  # live as it is
        return self._outputs.setdefault(name, np.zeros_like(field))

    def step(self, ids: None = None, nstep: int = 1) -> None:
        def advance(model: mujoco.MjModel, data: mujoco.MjData) -> None:
            mujoco.mj_step(model, data, nstep)
            mujoco.mj_rnePostConstraint(model, data)

        self._run(range(self.nsim), advance, self._outputs)

    def forward(self, ids: np.ndarray) -> None:
        # mj_forward leaves contact forces as they were
        self._run(ids.tolist(), mujoco.mj_forward, {k: v for k, v in self._outputs.items() if k != "cfrc_ext"})

    def read_models(self) -> None:
        """Take note of per-world parameters that were set."""
        self._own_models = [self.get_model(i) for i in range(self.nsim)]

    def close(self) -> None:
        """End the threads: what is still stepped is stepped by the caller's."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _run(
        self,
        worlds: range | list[int],
        function: Callable[[mujoco.MjModel, mujoco.MjData], None],
        outputs: dict[str, np.ndarray],
    ) -> None:
        queue = iter(worlds)  # shared: each thread takes the next world when it is done with one
        others = []
        if self._pool is not None and len(worlds) > 1:
            others = [self._pool.submit(self._work, queue, data, function, outputs) for data in self._scratch[1:]]
        try:
            self._work(queue, self._scratch[0], function, outputs)
        finally:
            for other in others:
                other.result()

    def _work(
        self,
        queue: Iterator[int],
        data: mujoco.MjData,
        function: Callable[[mujoco.MjModel, mujoco.MjData], None],
        outputs: dict[str, np.ndarray],
    ) -> None:
        state, models = self.state, self._own_models
        copies = [(field, getattr(data, name)) for name, field in outputs.items()]
        warned = data.warning.number
        for i in queue:
            model, row = models[i], state[i]
            mujoco.mj_setState(model, data, row, _STATE)
            try:
                function(model, data)
            except mujoco.FatalError as error:
                raise SimulationError(np.array([i]), str(error)) from error
            mujoco.mj_getState(model, data, row, _STATE)
            for field, source in copies:
                field[i] = source
            if np.count_nonzero(warned):
                self.warning[i, :_WARNINGS, 1] += warned
                warned[:] = 0
