"""What a film is written to."""

import imageio.v3 as iio
import numpy as np
import pytest

import polopt
from polopt.film import Footage, film, save

RNG = np.random.default_rng(0)
FOOTAGE = Footage([RNG.integers(0, 255, (32, 64, 3)).astype(np.uint8) for _ in range(6)], 30.0, 0.0, 6)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png", "a.jpg"])
def test_a_film_is_written_whole_or_not_at_all(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text("old")

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="no space left"):
        broken.setattr("os.fsync", full)
        save(FOOTAGE, tmp_path / name, frames=4)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "old")]
    save(FOOTAGE, tmp_path / name, frames=4)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    read = iio.imread(tmp_path / name)
    assert read.shape == ((6, 32, 64, 3) if name in ("a.mp4", "a.gif") else (32, 4 * 48, 3))


def test_a_seed_decides_a_sampling_policy_s_film_too():
    model = polopt.PPO(env="Pendulum-v1", seed=0)
    first, second = (film(model, "Pendulum-v1", seed=1, steps=20, deterministic=False).total for _ in range(2))
    assert first == second != film(model, "Pendulum-v1", seed=1, steps=20).total
