"""Keyword arguments in files."""

import pytest
from torch import nn

from polopt.kwargs import decode, encode


@pytest.mark.parametrize(
    "kwargs", [{"level": {"class": "easy"}}, {"class": 3}, {"class": "a:b", "n": 1}, {"f": nn.ReLU}]
)
def test_what_is_kept_comes_back(kwargs):
    assert decode(encode(kwargs), None, "file") == kwargs


def test_what_would_come_back_as_a_class_is_refused():
    with pytest.raises(TypeError, match="would be read back as a class"):
        encode({"level": {"class": "torch.nn:ReLU"}})
