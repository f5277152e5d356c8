"""Hyperparameters: frozen dataclasses whose fields know their range, and that refuse what is outside it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

import numpy as np

from .schedule import Schedule, as_schedule

__all__ = ["BaseConfig", "check_names", "hyper", "type_hints", "whole_number"]


def hyper(default: Any, interval: str = "", doc: str = "") -> Any:
    """A hyperparameter field.

    Args:
        default: its default.
        interval: where it must lie, as mathematics writes it: ``"(0, 1]"``, ``"[1, inf)"``; or choices ``"a|b|c"``.
            A schedule is checked at its start and, where it is a callable, halfway too.
        doc: the paper's symbol, what it is, and its table's value.
    """
    return field(default=default, metadata={"interval": interval, "doc": doc})


def check_names(owner: str, given: typing.Iterable[str], known: typing.Iterable[str]) -> None:
    """Raise TypeError for a name that ``owner`` does not have, naming the nearest it has."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; it has: {', '.join(known)}"
            raise TypeError(f"{owner} has no hyperparameter {name!r}{hint}")


def whole_number(name: str, value: Any, least: int = 0) -> None:
    """Raise where an argument is no whole number (1e6 is one), or less than it may be.

    Raises:
        TypeError, ValueError: names the argument and the value.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value).is_integer():
        raise TypeError(f"{name}={value!r} must be a whole number")
    if value < least:
        raise ValueError(f"{name}={value!r} must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Base of every agent's ``Config``: validated at construction, JSON in and out."""

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.generic):  # a number like any other, but not one that JSON knows
                object.__setattr__(self, f.name, value.item())
            if isinstance(value, list) and _takes_tuple(hints[f.name]):  # as TOML and JSON have it
                object.__setattr__(self, f.name, tuple(value))
            _check(type(self).__qualname__.split(".")[0], f, hints[f.name], getattr(self, f.name))

    def replace(self, **changes: Any) -> typing.Self:
        """A copy with some fields changed, validated again."""
        check_names(type(self).__qualname__.split(".")[0], changes, (f.name for f in fields(self)))
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """JSON values only. A callable schedule becomes ``{"callable": its name}``: it is asked for again on load."""
        out = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if callable(value):
                value = {"callable": getattr(value, "__qualname__", repr(value))}
            out[f.name] = list(value) if isinstance(value, tuple) else value
        return out

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Any) -> dict[str, Any]:
        """The constructor's arguments of what :meth:`to_json` gave, read from ``path``.

        Raises:
            ValueError: a value was a function, which a file cannot hold.
        """
        for name, value in values.items():
            if isinstance(value, dict) and "callable" in value:
                raise ValueError(
                    f"{path}: {name} was a function ({value['callable']}), which a file cannot hold: pass {name}=... to load"
                )
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


_cache: dict[type, dict[str, Any]] = {}


def type_hints(cls: type) -> dict[str, Any]:
    """The types of a Config's fields, looked up once."""
    if cls not in _cache:
        _cache[cls] = typing.get_type_hints(cls)
    return _cache[cls]


def is_schedule(hint: Any) -> bool:
    """Whether a field of this type takes a schedule."""
    return set(typing.get_args(Schedule)) <= set(typing.get_args(hint))


def _check(owner: str, f: dataclasses.Field, hint: Any, value: Any) -> None:
    where = f"{owner}: {f.name}={value!r}"
    interval = f.metadata.get("interval", "")
    if is_schedule(hint):
        if value is None and type(None) in typing.get_args(hint):
            return
        if not (callable(value) or isinstance(value, str) or _is_number(value)):
            raise TypeError(f"{where} must be a number, a callable of the progress left, or 'lin_NUMBER'")
        if isinstance(value, str) and "|" in interval and value in interval.split("|"):
            return
        try:
            schedule = as_schedule(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        for progress in (1.0, 0.5) if callable(value) else (1.0,):
            number = schedule(progress)
            if isinstance(number, bool) or not isinstance(number, Real):
                raise TypeError(f"{where} must give a number at progress {progress}, not {number!r}")
            if not _inside(number, interval.split("|")[0]):
                raise ValueError(f"{where} is outside {interval}" + (f" (value {number})" if number != value else ""))
        return
    kinds = _kinds(hint)
    if not any(_is(value, kind) for kind in kinds):
        names = " or ".join("None" if k is type(None) else getattr(k, "__name__", str(k)) for k in kinds)
        raise TypeError(f"{where} must be {names}, not {type(value).__name__}")
    if "|" in interval or (interval and interval[0] not in "[("):
        if isinstance(value, str) and value not in interval.split("|"):
            raise ValueError(f"{where} must be one of {', '.join(map(repr, interval.split('|')))}")
    elif interval and _is_number(value) and not _inside(value, interval):
        raise ValueError(f"{where} is outside {interval}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _takes_tuple(hint: Any) -> bool:
    return any((typing.get_origin(kind) or kind) is tuple for kind in _kinds(hint))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is(value: Any, kind: Any) -> bool:
    kind = typing.get_origin(kind) or kind
    if kind is Any or kind is typing.Any:
        return True
    if kind is float:
        return _is_number(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (types.NoneType, None):
        return value is None
    if not isinstance(kind, type):
        return callable(value)
    return isinstance(value, kind)


def _inside(value: float, interval: str) -> bool:
    if not interval or interval[0] not in "[(":
        return True
    low, high = (float(x) for x in interval[1:-1].split(","))
    if math.isnan(value):
        return False
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
