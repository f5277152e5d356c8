import json

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatdim, flatten

from polopt.spaces import check_action_space, check_observation_space, encode, encoded_size, from_json, same, to_json

ALL = [
    spaces.Box(-1, 1, (3,)),
    spaces.Box(np.array([-np.inf, 0]), np.array([np.inf, 5]), dtype=np.float64),
    spaces.Box(0, 255, (2, 3), np.uint8),
    spaces.Discrete(4),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.MultiBinary([2, 2]),
    spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3)),
]


def batch(space, n=5):
    space.seed(0)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return samples, {k: torch.as_tensor(np.stack([s[k] for s in samples])) for k in space.spaces}
    return samples, torch.as_tensor(np.stack(samples))


@pytest.mark.parametrize("space", ALL, ids=str)
def test_encoding_equals_gymnasiums_flatten(space):
    samples, obs = batch(space)
    expected = np.stack([flatten(space, s) for s in samples])
    assert encoded_size(space) == flatdim(space)
    np.testing.assert_allclose(encode(space, obs).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("space", ALL, ids=str)
def test_json_round_trip(space):
    again = from_json(json.loads(json.dumps(to_json(space))))
    assert again == space and same(again, space)


@pytest.mark.parametrize("dtype", [np.dtype(kind + size) for kind in "iu" for size in "1248"], ids=str)
def test_integer_bounds_survive_a_file(dtype):
    info = np.iinfo(dtype)
    unbounded = [(-np.inf, np.inf)] if info.min else []
    for low, high in [(info.min, info.max), (0, 1), *unbounded]:
        space = spaces.Box(low, high, (2,), dtype.type)
        written = json.loads(json.dumps(to_json(space)))
        again = from_json(written)
        assert again == space and same(again, space) and same(space, space)
        older = written | {k: [repr(float(v)) for v in written[k]] for k in ("low", "high")}
        assert same(from_json(older), space)


def test_float_precision_does_not_make_spaces_differ():
    assert same(spaces.Box(-1, 1, (2,), np.float32), spaces.Box(-1, 1, (2,), np.float64))
    assert not same(spaces.Box(-1, 1, (2,)), spaces.Box(-2, 1, (2,)))
    assert not same(spaces.Box(0, 1, (2,), np.uint8), spaces.Box(0, 1, (2,), np.float32))
    assert not same(spaces.Discrete(2), spaces.Discrete(3))


def test_unsupported_spaces_are_named():
    with pytest.raises(ValueError, match="Text"):
        check_observation_space(spaces.Text(3))
    with pytest.raises(ValueError, match=r"entry 'x'.*Graph"):
        check_observation_space(spaces.Dict(x=spaces.Graph(spaces.Discrete(2), None)))
    with pytest.raises(ValueError, match=r"SAC does not support.*Discrete.*supports Box"):
        check_action_space(spaces.Discrete(2), (spaces.Box,), "SAC")
    with pytest.raises(ValueError, match="finite bounds"):
        check_action_space(spaces.Box(-np.inf, np.inf, (1,)), (spaces.Box,), "PPO")
    with pytest.raises(ValueError, match="start"):
        check_action_space(spaces.Discrete(2, start=1), (spaces.Discrete,), "PPO")


def test_a_box_of_bools_survives_a_file():
    space = spaces.Box(0, 1, (2,), np.bool_)
    assert same(from_json(to_json(space)), space)
