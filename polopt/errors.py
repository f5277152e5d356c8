"""What stops a training, or a picture."""

from __future__ import annotations

__all__ = ["EnvError", "NonFiniteError", "RenderError"]


class EnvError(RuntimeError):
    """An environment misbehaved: it raised, or gave a NaN or infinity. The message names its index."""


class NonFiniteError(RuntimeError):
    """A loss or a parameter became NaN or infinite; the message says which. Checkpoints already written are kept."""


class RenderError(RuntimeError):
    """Nothing can be drawn on this machine; the message says what to install."""
