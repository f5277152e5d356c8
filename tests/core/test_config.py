import json
from dataclasses import dataclass

import pytest

from polopt.config import BaseConfig, hyper
from polopt.on_policy import EpochsConfig
from polopt.schedule import Schedule, as_schedule


@dataclass(frozen=True, kw_only=True)
class Config(BaseConfig):
    rate: Schedule = hyper(3e-4, "[0, inf)")
    horizon: int = hyper(10, "[1, inf)")
    discount: float = hyper(0.99, "[0, 1]")
    bound: float | None = hyper(None, "(0, inf)")
    kind: str = hyper("a", "a|b")
    flag: bool = hyper(False)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("rate", -1.0, "outside"),
        ("rate", "lin_x", "lin_NUMBER"),
        ("rate", "lin_-1", "outside"),
        ("rate", lambda p: p - 0.75, "outside"),
        ("rate", None, "must be"),
        ("horizon", 0, "outside"),
        ("horizon", 2.5, "must be int"),
        ("horizon", True, "must be int"),
        ("discount", 1.01, "outside"),
        ("discount", float("nan"), "outside"),
        ("discount", "0.9", "must be float"),
        ("bound", 0.0, "outside"),
        ("kind", "c", "one of 'a', 'b'"),
        ("flag", 1, "must be bool"),
    ],
)
def test_a_value_outside_its_range_is_refused_by_name(name, value, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        Config(**{name: value})
    assert name in str(error.value)


@pytest.mark.parametrize("value", [0.0, 1, "lin_3e-4", lambda p: p])
def test_schedules_are_numbers_strings_and_callables(value):
    assert Config(rate=value).rate is value


def test_schedule_values():
    assert as_schedule("lin_0.5")(0.5) == 0.25
    assert as_schedule(0.3)(0.1) == 0.3
    assert as_schedule(lambda p: 2 * p)(0.25) == 0.5


def test_a_misspelt_name_gets_the_nearest():
    with pytest.raises(TypeError, match="did you mean 'horizon'"):
        Config().replace(horizn=3)


def test_json_round_trip_and_functions_are_named():
    c = Config(rate="lin_1e-3", bound=2.0)
    assert Config(**json.loads(json.dumps(c.to_json()))) == c
    assert "callable" in Config(rate=lambda p: p).to_json()["rate"]


def test_what_is_not_built_says_what_to_use():
    with pytest.raises(NotImplementedError, match="override `estimate`"):
        EpochsConfig(rollout_buffer_class=object)
