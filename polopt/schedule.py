"""Values that change over a run: a number, a callable of the progress left (1 -> 0), or rl-zoo's ``"lin_3e-4"``."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Schedule", "as_schedule"]

Schedule = float | str | Callable[[float], float]
"""A number, a string ``"lin_VALUE"``, or a callable of ``progress_remaining`` in [0, 1], as in stable-baselines3."""


def as_schedule(value: Schedule) -> Callable[[float], float]:
    """A function of ``progress_remaining`` (1 at the start, 0 at the end).

    Raises:
        ValueError: a string that is not ``lin_NUMBER`` or a number.
    """
    if callable(value):
        return value
    if isinstance(value, str):
        linear, text = value.startswith("lin_"), value.removeprefix("lin_")
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"schedule {value!r} is neither a number nor 'lin_NUMBER' (such as 'lin_3e-4')") from None
        return (lambda progress: progress * number) if linear else (lambda progress: number)
    number = float(value)
    return lambda progress: number
