"""Exact nearest neighbours of (state, action) pairs whose state is a row of the data.

Asked is argmin_j d_j², d_j² = β² |s_i - s_j|² + |u - a_j|², for a row i and any action u. Its state is known beforehand, so the
rows near it in state are listed once, and a query compares the actions of a few dozen rows instead of searching a tree.

*Lists.* Row i has a list L_i and a radius r_i with the property that every row outside the list is at least r_i away:

    j not in L_i   implies   |s_i - s_j| >= r_i                                                        (1)

L_i holds all rows nearer than the ``radius`` asked for; where those are more than ``k``, the k nearest, and r_i is the
distance of the last.

*Certificate.* Let d be the least distance over L_i and i itself. An unlisted row has d_j >= β r_i by (1), hence

    d <= β r_i   implies   d is the least distance of all.                                             (2)

*Fallback.* Queries that (2) does not certify go through the cells below, starting from the d found: exact as well.

*How the lists are made exact.* The states are cut into cells, those nearest to each of C centres μ. For x in cell q and any y
in cell c, y is on μ_c's side of the plane halfway between the centres, and within c's radius R_c of its centre, hence

    |x - y| >= ( |x - μ_c|² - |x - μ_q|² ) / (2 |μ_c - μ_q|)     and     |x - y| >= |x - μ_c| - R_c    (3)

Cells and rows that (3) puts farther away than x's present k-th neighbour, or than the radius, are left out; all others are
measured. Centres decide the speed only, never the answer: bounds are in float64 with a margin, products in float32 with a
bound on their rounding, and what passes is measured again in float64.
"""

from __future__ import annotations

import hashlib
import math
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .files import atomic, cache_folder

__all__ = ["Cells", "Index", "Neighbours", "scan"]

_VERSION = 2
_MARGIN = 1e-6
"""Relative slack on the float64 bounds; their own rounding is some 1e-13."""


def _rounding(d: int) -> float:
    """Bound on the error of a float32 |x|² + |y|² - 2 x·y of d numbers each, relative to |x|² + |y|²: (d + 3) 2^-24."""
    return max(4e-6, (d + 3) * 2.0**-24)


@dataclass(frozen=True, eq=False)
class Cells:
    """Rows grouped by the nearest of C centres."""

    order: np.ndarray
    """``[n]`` rows, cell after cell"""
    starts: np.ndarray
    """``[C + 1]`` where each cell begins in ``order``"""
    centres: np.ndarray
    """``[C, D]`` float64"""
    reach: np.ndarray
    """``[C]`` R, the distance of a cell's farthest row from its centre"""

    @classmethod
    def of(cls, x: np.ndarray, count: int, rounds: int = 6) -> Self:
        """Centres by Lloyd's iteration on a sample; then every row to its nearest, in float64."""
        rng = np.random.default_rng(0)
        count = min(count, len(x))
        sample = x[rng.choice(len(x), min(len(x), 40 * count), replace=False)].astype(np.float64)
        centres = sample[rng.choice(len(sample), count, replace=False)]
        for _ in range(rounds if count > 1 else 1):
            label, _ = _assign(sample, centres)
            size = np.bincount(label, minlength=count)[:, None]
            total = np.stack([np.bincount(label, column, count) for column in sample.T], 1)
            centres = np.where(size > 0, total / np.maximum(size, 1), centres)
        label, squares = _assign(x, centres)
        order = np.argsort(label, kind="stable").astype(np.int32)
        starts = np.searchsorted(label[order], np.arange(count + 1))
        reach = np.zeros(count)
        np.maximum.at(reach, label, np.sqrt(squares))
        return cls(order, starts, centres, reach * (1 + _MARGIN))

    def bounds(self, x: np.ndarray, home: int | np.ndarray) -> np.ndarray:
        """Lower bounds ``[m, C]`` on the distances of states ``[m, D]`` to any row of each cell, by (3).

        Args:
            home: the states' own cell, or ``[m]`` each one's.
        """
        squares = _squares(x, self.centres)
        own = squares[np.arange(len(x)), home][:, None]
        apart = np.sqrt(_squares(self.centres[np.atleast_1d(home)], self.centres))
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.nan_to_num((squares - own) / (2 * apart), nan=0.0, posinf=0.0, neginf=0.0)
        bound = np.maximum(plane, np.sqrt(squares) - self.reach) * (1 - _MARGIN) - _MARGIN
        return np.maximum(bound, 0.0)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The lists of every row, ragged: row i's are ``rows[starts[i]:starts[i + 1]]``, nearest first."""

    starts: np.ndarray
    """``[n + 1]`` int64"""
    rows: np.ndarray
    """int32; the row itself is not among its own"""
    gaps: np.ndarray
    """float32 |s_i - s_j|² of each"""
    radius: np.ndarray
    """``[n]`` float32, r of (1)"""
    cells: Cells

    @classmethod
    def build(cls, states: np.ndarray, k: int = 64, radius: float = math.inf) -> Self:
        """Lists of states ``[n, D]``; a progress bar on a terminal.

        Args:
            k: most rows of a list.
            radius: rows farther away than this are not listed [of the states' units].
        """
        from tqdm.auto import tqdm

        x = np.ascontiguousarray(states, np.float64)
        cells = Cells.of(x, max(1, len(x) // 1024))
        ordered, lists = x[cells.order], []
        for q in tqdm(range(len(cells.centres)), desc="neighbours", unit=" cells", disable=None, delay=1.0):
            if cells.starts[q] < cells.starts[q + 1]:
                lists.append(_list_cell(ordered, cells, q, k, radius))
        who, rows, gaps, reach = (np.concatenate(parts) for parts in zip(*lists, strict=True))
        order = np.argsort(
            cells.order[who], kind="stable"
        )  # back from the cells' order to the data's, each list as it is
        starts = np.concatenate([[0], np.cumsum(np.bincount(cells.order[who], minlength=len(x)))])
        of_row = np.empty(len(x), np.float32)
        of_row[cells.order] = np.nextafter(reach.astype(np.float32), np.float32(0))
        return cls(starts, cells.order[rows[order]], gaps[order].astype(np.float32), of_row, cells)

    @classmethod
    def cached(cls, states: np.ndarray, k: int = 64, radius: float = math.inf) -> Self:
        """:meth:`build`, kept in the cache folder by a hash of the states, k and radius."""
        key = hashlib.sha256(np.ascontiguousarray(states, np.float32).data)
        key.update(f"{states.shape} {k} {radius!r} {_VERSION}".encode())
        path = cache_folder() / "neighbours" / f"{key.hexdigest()[:32]}.npz"
        if path.is_file():
            try:
                return cls._read(path)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                warnings.warn(f"{path} is damaged and made anew: {error}", stacklevel=2)
        made = cls.build(states, k, radius)
        try:
            with atomic(path) as f:
                lists = {f"lists.{c.name}": getattr(made, c.name) for c in fields(cls) if c.name != "cells"}
                np.savez(f, **lists, **{f"cells.{c.name}": getattr(made.cells, c.name) for c in fields(Cells)})
        except OSError as error:
            warnings.warn(f"the lists cannot be kept for the next time ({error}): set POLOPT_CACHE", stacklevel=2)
        return made

    @classmethod
    def _read(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as z:
            cells = Cells(**{c.name: z[f"cells.{c.name}"] for c in fields(Cells)})
            return cls(**{c.name: z[f"lists.{c.name}"] for c in fields(cls) if c.name != "cells"}, cells=cells)


class Index:
    """Nearest rows of a dataset to (one of its states, any action).

    Args:
        states, actions: ``[n, D]``, ``[n, A]`` float32.
        beta: β.
        neighbours: lists of these states.
    """

    def __init__(self, states: Tensor, actions: Tensor, beta: float, neighbours: Neighbours) -> None:
        self.states, self.actions = (np.ascontiguousarray(x.detach().cpu().numpy()) for x in (states, actions))
        self.beta, self.neighbours = beta, neighbours
        self.pairs: np.ndarray | None = None
        self.home = np.empty(len(self.states), np.int32)
        self.home[neighbours.cells.order] = np.repeat(
            np.arange(len(neighbours.cells.centres)), np.diff(neighbours.cells.starts)
        )

    def nearest(self, row: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest rows ``[B]`` to (the states of rows ``[B]``, actions ``[B, A]``), and which needed no search, bool."""
        i, u = row.cpu().numpy(), action.detach().cpu().numpy()
        found, square = self._listed(i, u)
        certified = square <= np.square(self.beta * self.neighbours.radius[i].astype(np.float64)) * (1 - _MARGIN)
        if not certified.all():
            open_ = np.flatnonzero(~certified)
            found[open_] = self._search(i[open_], u[open_], found[open_])
        return torch.from_numpy(found).to(row.device), torch.from_numpy(certified)

    def _listed(self, i: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best of each row's list and the row itself, and its d²."""
        lists = self.neighbours
        best, square = i.copy(), np.square(u - self.actions[i]).sum(1)
        length = lists.starts[i + 1] - lists.starts[i]
        asked = np.repeat(np.arange(len(i)), length)
        at = np.arange(len(asked)) + np.repeat(lists.starts[i] - (np.cumsum(length) - length), length)
        gap = self.beta**2 * lists.gaps[at]
        close = gap < square[asked]  # no other can beat the row itself
        asked, gap, rows = asked[close], gap[close], lists.rows[at[close]]
        if len(rows):
            total = gap + np.square(u[asked] - self.actions[rows]).sum(1)
            first = np.flatnonzero(np.diff(asked, prepend=-1))
            least = np.minimum.reduceat(total, first)
            who = asked[first]
            wins = total == np.repeat(least, np.diff(first, append=len(asked)))
            winner = np.full(len(i), len(total))
            np.minimum.at(winner, asked[wins], np.flatnonzero(wins))
            better = least < square[who]
            best[who[better]], square[who[better]] = rows[winner[who[better]]], least[better]
        return best, square

    def _search(self, i: np.ndarray, u: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The nearest rows, given some row each that is not far: through every cell that may hold a nearer one."""
        cells = self.neighbours.cells
        if self.pairs is None:
            self.pairs = np.concatenate([self.beta * self.states, self.actions], 1)[cells.order]
            self.sizes = np.square(self.pairs).sum(1)
        query = np.concatenate([self.beta * self.states[i], u], 1)
        size = np.square(query).sum(1)
        best, square = best.copy(), self._square(i, u, best)
        bound = np.square(self.beta * cells.bounds(self.states[i].astype(np.float64), self.home[i]))
        order = np.argsort(bound.min(0))
        for group in np.split(order, [1, 3, 7, *range(15, len(order), 16)]):  # the nearest cells first: d shrinks early
            needed = bound[:, group] < square[:, None]
            group, who = group[needed.any(0)], np.flatnonzero(needed.any(1))
            if not len(who):
                continue
            rows = np.concatenate([np.arange(*cells.starts[c : c + 2]) for c in group])
            if not len(rows):
                continue
            theirs = self.sizes[rows]
            product = query[who] @ self.pairs[rows].T
            product *= -2
            product += theirs
            slack = _rounding(query.shape[1]) * (size[who] + theirs.max())
            close = product < (square[who] - size[who] + slack).astype(np.float32)[:, None]
            if not close.any():
                continue
            q, j = np.nonzero(close)
            q, j = who[q], cells.order[rows[j]]
            exact = self._square(i[q], u[q], j)
            order = np.argsort(-exact)  # the nearest is written last
            order = order[exact[order] < square[q[order]]]
            best[q[order]], square[q[order]] = j[order], exact[order]
        return best

    def _square(self, i: np.ndarray, u: np.ndarray, j: np.ndarray) -> np.ndarray:
        """d² in float64."""
        apart = self.states[i].astype(np.float64) - self.states[j]
        return self.beta**2 * np.square(apart).sum(1) + np.square(u.astype(np.float64) - self.actions[j]).sum(1)


def scan(states: Tensor, actions: Tensor, state: Tensor, action: Tensor, beta: float, chunk: int = 16384) -> Tensor:
    """The nearest rows ``[B]`` of ``states [n, D], actions [n, A]`` to pairs ``[B, D], [B, A]``, by measuring all of them."""
    best = torch.full((len(state),), math.inf, device=state.device)
    found = torch.zeros(len(state), dtype=torch.long, device=state.device)
    for start in range(0, len(states), chunk):
        s, a = states[start : start + chunk], actions[start : start + chunk]
        distance, row = (beta**2 * torch.cdist(state, s).square() + torch.cdist(action, a).square()).min(1)
        found = torch.where(distance < best, row + start, found)
        best = torch.minimum(distance, best)
    return found


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|², ``[m, n]``, in the arrays' precision."""
    return np.maximum(np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T), 0)


def _assign(x: np.ndarray, centres: np.ndarray, chunk: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centre of each row, and its squared distance."""
    label, squares = np.empty(len(x), np.int64), np.empty(len(x))
    for start in range(0, len(x), chunk):
        rows = slice(start, start + chunk)
        d = _squares(x[rows], centres)
        label[rows] = d.argmin(1)
        squares[rows] = np.take_along_axis(d, label[rows, None], 1)[:, 0]
    return label, squares


def _list_cell(x: np.ndarray, cells: Cells, q: int, k: int, radius: float) -> Any:
    """Of the rows of a cell: ``who, rows, squares`` of their listed neighbours, and each row's radius; places in ``x``."""
    first, last = cells.starts[q : q + 2]
    centre, rounding = cells.centres[q], _rounding(x.shape[1])
    mine = x[first:last] - centre
    mine32, size = mine.astype(np.float32), np.square(mine).sum(1)
    apart = np.sqrt(np.square(cells.centres - centre).sum(1))
    limit = np.full(len(mine), radius**2)
    own = _squares(mine32, mine32)
    if len(mine) > k + 1:  # itself is among them
        limit = np.minimum(limit, np.partition(own, k, axis=1)[:, k] + 2 * rounding * size.max())
    bound = np.square(cells.bounds(x[first:last], q)).T.copy()
    hits: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    waiting = 0
    for c in np.argsort(apart):
        who = np.flatnonzero(bound[c] <= limit)
        start, stop = cells.starts[c : c + 2]
        if not len(who) or start == stop:
            continue
        there = np.arange(start, stop)
        if c != q:  # the same for the other cell's rows, by how far they are beyond the plane between
            way = (cells.centres[c] - centre) / max(apart[c], 1e-12)
            beyond = x[start:stop] @ way - way @ (cells.centres[c] + centre) / 2
            there = there[beyond * (1 - _MARGIN) - _MARGIN <= math.sqrt(limit[who].max())]
            if not len(there):
                continue
        theirs = x[there] - centre
        far = np.square(theirs).sum(1)
        allowed = limit[who] - size[who] + rounding * (size[who] + far.max())
        product = mine32[who] @ (-2 * theirs).astype(np.float32).T
        product += far.astype(np.float32)
        close = product <= allowed.astype(np.float32)[:, None]
        if not close.any():
            continue
        i, j = np.nonzero(close)
        i = who[i]
        exact = np.square(mine[i] - theirs[j]).sum(1)
        keep = (exact <= limit[i]) & (there[j] != i + first)
        hits.append((i[keep], there[j[keep]], exact[keep]))
        waiting += int(keep.sum())
        if waiting > 4 * k * len(mine):
            hits = [_nearest(hits, k, limit)]
            waiting = 0
    who, rows, squares = _nearest(hits, k, limit)
    return who + first, rows, squares, np.sqrt(limit) * (1 - _MARGIN)


def _nearest(hits: list[Any], k: int, limit: np.ndarray) -> Any:
    """The k nearest of each row's hits, nearest first; where there are k, ``limit`` becomes the last one's."""
    who, rows, squares = (np.concatenate(parts) for parts in zip(*hits, strict=True))
    order = np.lexsort((rows, squares, who))
    who, rows, squares = who[order], rows[order], squares[order]
    place = np.arange(len(who)) - np.searchsorted(who, who)
    full = place == k - 1
    limit[who[full]] = np.minimum(limit[who[full]], squares[full])
    keep = place < k
    return who[keep], rows[keep], squares[keep]
