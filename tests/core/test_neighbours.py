"""Nearest neighbours: every answer that of brute force, every radius what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polopt.neighbours import Index, Neighbours, scan


def cloud(n: int, size: int, actions: int, seed: int, repeats: int = 0, spread: float = 1.0):
    """States in clusters of very different density, some recorded several times, and a few far away."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, size)) * spread
    s = centres[rng.integers(5, size=n)] + rng.exponential(size=(n, 1)) * rng.normal(size=(n, size)) * 0.3
    s[: n // 50] *= 30
    s[n - repeats :] = s[rng.integers(n, size=repeats)] if repeats else s[n:]
    return s.astype(np.float32), rng.uniform(-1, 1, (n, actions)).astype(np.float32)


def distances(s, a, i, u, beta):
    states = np.square(s[i].astype(np.float64)[:, None] - s).sum(-1)
    return beta**2 * states + np.square(u.astype(np.float64)[:, None] - a).sum(-1)


CASES = [
    # n, D, A, k, radius, beta, repeats
    (3000, 3, 2, 8, np.inf, 2.0, 0),
    (3000, 3, 2, 8, 0.3, 1.0, 700),
    (4000, 2, 1, 16, 0.2, 0.5, 0),
    (2500, 6, 3, 64, 0.9, 2.0, 100),
    (2500, 6, 3, 4, 0.9, 0.0, 100),
    (2500, 4, 2, 4, 1e-4, 1e4, 100),
    (40, 4, 2, 64, np.inf, 1.0, 5),
    (1, 4, 2, 4, 1.0, 1.0, 0),
]


@pytest.mark.parametrize("case", CASES)
def test_every_answer_is_that_of_brute_force(case):
    n, size, actions, k, radius, beta, repeats = case
    s, a = cloud(n, size, actions, seed=n + k, repeats=repeats)
    neighbours = Neighbours.build(s, k, radius)
    index = Index(torch.from_numpy(s), torch.from_numpy(a), beta, neighbours)
    rng = np.random.default_rng(0)
    shares = []
    for noise in (0.02, 0.3, 2.0):  # a policy that follows the data closely, roughly, not at all
        i = rng.integers(n, size=256)
        u = (a[i] + noise * rng.normal(size=(256, actions))).clip(-1, 1).astype(np.float32)
        row, certified = index.nearest(torch.from_numpy(i), torch.from_numpy(u))
        d = distances(s, a, i, u, beta)
        found = d[np.arange(256), row.numpy()]
        np.testing.assert_array_less(found, d.min(1) * (1 + 1e-5) + 1e-10)
        shares.append(float(certified.float().mean()))
    if beta in (1.0, 2.0):
        assert shares[0] > 0.5, "the certificate holds for hardly anything: this tests the search alone"


@pytest.mark.parametrize("case", CASES)
def test_no_unlisted_row_is_nearer_than_the_radius(case):
    n, size, actions, k, radius, _, repeats = case
    s, _ = cloud(n, size, actions, seed=n + k, repeats=repeats)
    lists = Neighbours.build(s, k, radius)
    rng = np.random.default_rng(1)
    for i in rng.integers(n, size=150):
        rows = lists.rows[lists.starts[i] : lists.starts[i + 1]]
        d = np.sqrt(np.square(s[i].astype(np.float64) - s).sum(-1))
        others = np.ones(n, bool)
        others[[i, *rows]] = False
        assert i not in rows and len(set(rows.tolist())) == len(rows) <= k
        assert not others.any() or d[others].min() >= lists.radius[i]
        np.testing.assert_allclose(np.sqrt(lists.gaps[lists.starts[i] : lists.starts[i + 1]]), d[rows], rtol=1e-5)
        if len(rows) < min(k, n - 1):  # all within the radius, and the radius in full
            assert lists.radius[i] == pytest.approx(radius, rel=1e-5) and (d[others] >= radius * (1 - 1e-6)).all()


def test_the_lists_do_not_depend_on_where_the_centres_are(monkeypatch: pytest.MonkeyPatch):
    s, _ = cloud(3000, 4, 1, seed=0, repeats=50)
    usual = Neighbours.build(s, 8, 0.7)
    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: generator(seed + 7))
    other = Neighbours.build(s, 8, 0.7)
    assert not np.array_equal(usual.cells.centres, other.cells.centres)
    np.testing.assert_allclose(usual.radius, other.radius, rtol=1e-6)
    np.testing.assert_allclose(usual.gaps, other.gaps, rtol=1e-6)


def test_measuring_all():
    s, a = cloud(3000, 4, 2, seed=3)
    i = np.arange(0, 3000, 30)
    u = -a[i]
    row = scan(*(torch.from_numpy(x) for x in (s, a, s[i], u)), beta=1.5, chunk=700)
    d = distances(s, a, i, u, 1.5)
    np.testing.assert_allclose(d[np.arange(100), row.numpy()], d.min(1), rtol=1e-4, atol=1e-4)


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path))
    s, _ = cloud(1500, 3, 1, seed=5)
    built = Neighbours.cached(s, 8, 0.5)
    [file] = (tmp_path / "neighbours").iterdir()
    monkeypatch.setattr(Neighbours, "build", classmethod(lambda *_: pytest.fail("built again")))
    read = Neighbours.cached(s, 8, 0.5)
    for name in ("starts", "rows", "gaps", "radius"):
        assert np.array_equal(getattr(built, name), getattr(read, name)), name
    assert np.array_equal(built.cells.order, read.cells.order)
    monkeypatch.undo()
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path))
    Neighbours.cached(s, 8, 0.6)
    Neighbours.cached(s + 1, 8, 0.5)
    assert len(list((tmp_path / "neighbours").iterdir())) == 3 and file.is_file()


def test_a_cache_that_is_damaged_or_cannot_be_written_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path))
    s, _ = cloud(300, 3, 1, seed=5)
    built = Neighbours.cached(s, 8, 0.5)
    [file] = (tmp_path / "neighbours").iterdir()
    file.write_bytes(b"no lists")
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        assert np.array_equal(Neighbours.cached(s, 8, 0.5).rows, built.rows)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("POLOPT_CACHE", str(tmp_path / "a file" / "below"))
    with pytest.warns(UserWarning, match="POLOPT_CACHE"):
        assert np.array_equal(Neighbours.cached(s, 8, 0.5).rows, built.rows)
