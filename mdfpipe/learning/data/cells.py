"""Cells: crops in small sets (a subject's in a domain, say), and which of them come when a cell is visited.

All is drawn from the generator that is given: the same generator, the same crops.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Places: TypeAlias = NDArray[np.int64]


class Cells:
    """Crops by cell and, within a cell, by video; gives `each` crops of a cell at a visit.

    A visit goes over the videos of its cell in rounds: every video gives one crop, then every video that has a second
    one, and so on; once a cell is used up, it begins again. Which videos give in the last, incomplete round is drawn.
    So what the complete rounds take from each video is the same at every visit, and known beforehand.

    rows, cell: (n,) sorted by cell and video; cells are numbered from 0 without gaps.
    """

    def __init__(self, rows: Places, cell: Places, video: Places, each: int) -> None:
        order = np.lexsort((video, cell))
        self.rows: Places = rows[order]
        self.cell: Places = cell[order]
        video = video[order]
        new = np.ones(len(rows), bool)
        new[1:] = (self.cell[1:] != self.cell[:-1]) | (video[1:] != video[:-1])
        start = np.flatnonzero(new)
        size = np.diff(start, append=len(rows))
        # the largest videos of a cell first: who takes part in a round are the first so many
        largest_first = np.lexsort((-size, self.cell[start]))
        self._start: Places = start[largest_first]
        self._size: Places = size[largest_first]
        number = np.empty_like(largest_first)
        number[largest_first] = np.arange(len(start))
        self._run = np.cumsum(new) - 1
        self._video = number[self._run]
        self._first = np.searchsorted(self.cell[start], np.arange(self.cell[-1] + 2))
        self.count, self.each = len(self._first) - 1, each
        self._plan()

    def _plan(self) -> None:
        """_full: (cells, each) videos that give in complete rounds, before column _fixed; _among: how many videos, from
        the cell's first on, the rest is drawn from."""
        first, each = self._first[:-1], self.each
        owner = np.repeat(np.arange(len(first)), np.diff(self._first))
        holding = np.bincount(owner * each + np.minimum(self._size, each) - 1, minlength=len(first) * each)
        # (cells, each + 1): how many videos have more than so many crops
        deep = np.pad(holding.reshape(-1, each)[:, ::-1].cumsum(axis=1)[:, ::-1], ((0, 0), (0, 1)))
        cells = np.arange(len(first))
        depth, turn = np.zeros_like(cells), np.zeros_like(cells)
        self._full = np.empty((len(cells), each), np.int64)
        for column in range(each):
            self._full[:, column] = first + turn
            turn += 1
            over = turn == deep[cells, depth]
            turn[over] = 0
            depth[over] += 1
            depth[deep[cells, depth] == 0] = 0
        self._fixed, self._among = each - turn, deep[cells, depth]

    def draw(self, generator: np.random.Generator, visits: Places) -> Places:
        """(M, each) rows for M visited cells, in random order; a video's frames come up equally often in all."""
        fixed = self._fixed[visits][:, None]
        drawn = self._first[visits][:, None] + _distinct(generator, self._among[visits], self.each)
        column = np.arange(self.each)
        drawn = np.take_along_axis(drawn, np.maximum(column - fixed, 0), axis=1)
        videos = generator.permuted(np.where(column < fixed, self._full[visits], drawn), axis=1)
        return self._frames(generator, videos.ravel()).reshape(videos.shape)

    def _frames(self, generator: np.random.Generator, videos: Places) -> Places:
        """(m,) a row of each of these videos: each video's rows shuffled, then one after the other, round and round."""
        shuffled = generator.permutation(len(self.rows))
        shuffled = self.rows[shuffled[np.argsort(self._run[shuffled], kind="stable")]]
        order = np.argsort(videos, kind="stable")
        count = np.bincount(videos, minlength=len(self._start))
        turn = np.empty_like(videos)
        turn[order] = np.arange(len(videos)) - np.repeat(np.cumsum(count) - count, count)
        found: Places = shuffled[self._start[videos] + turn % self._size[videos]]
        return found

    def other(self, generator: np.random.Generator, places: Places) -> Places:
        """(m,) rows of the cells of the crops at `places` (positions in `rows`): of another video, else another crop of
        the only one, else the same crop."""
        own, cell = self._video[places], self.cell[places]
        first, count = self._first[cell], np.diff(self._first)[cell]
        drawn = first + generator.integers(0, np.maximum(count - 1, 1))
        video: Places = np.where(count > 1, drawn + (drawn >= own), own)
        start, size = self._start[video], self._size[video]
        within = (count == 1) & (size > 1)
        frame: Places = start + generator.integers(0, size - within)
        found: Places = self.rows[frame + (within & (frame >= places))]
        return found


class Pools:
    """Crops by cell, from any video; gives `each` crops of a cell at a visit.

    The visits of an epoch go over the cell's crops in rounds, each round in an order of its own, so that a visit is a
    plain draw without replacement: every choice of `each` crops is as likely as any other. A cell of fewer crops gives
    all of them at each visit, as often as it takes.

    rows, cell: (n,); cells are numbered from 0 without gaps.
    """

    def __init__(self, rows: Places, cell: Places, each: int) -> None:
        order = np.argsort(cell, kind="stable")
        self.rows: Places = rows[order]
        self._first = np.searchsorted(cell[order], np.arange(cell.max() + 2))
        self.count, self.each = len(self._first) - 1, each

    def draw(self, generator: np.random.Generator, visits: Places) -> Places:
        """(M, each) rows for M visited cells, in random order; a cell's crops come up equally often in all."""
        found = np.empty((len(visits), self.each), np.int64)
        order = np.argsort(visits, kind="stable")
        ends = np.searchsorted(visits[order], np.arange(self.count + 1))
        for cell in np.flatnonzero(np.diff(ends)).tolist():
            at, size = order[ends[cell] : ends[cell + 1]], int(self._first[cell + 1] - self._first[cell])
            whole, rest = divmod(self.each, size)
            drawn = np.tile(np.arange(size), (len(at), whole))
            if rest:
                drawn = np.hstack([drawn, turns(generator, size, len(at), rest).reshape(len(at), rest)])
            found[at] = self.rows[self._first[cell] + generator.permuted(drawn, axis=1)]
        return found


def turns(generator: np.random.Generator, count: int, batches: int, size: int) -> Places:
    """(batches * size,) numbers below count: shuffled rounds of all of them, none twice in a batch."""
    rounds = -(-batches * size // count)
    found = generator.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1)
    for number in range(1, rounds):
        if begun := number * count % size:  # the round begins inside a batch
            _keep_apart(found[number], found[number - 1, -begun:], size - begun)
    return found.ravel()[: batches * size]


def _keep_apart(numbers: Places, taken: Places, head: int) -> None:
    """Reorder a shuffled round in place, so that its first `head` are none of `taken`; else the order stays.

    >>> numbers = np.array([3, 1, 2, 0, 4]); _keep_apart(numbers, np.array([3, 2]), 2); numbers.tolist()
    [1, 0, 3, 2, 4]
    """
    if np.isin(numbers[:head], taken).any():
        first = np.zeros(len(numbers), bool)
        first[np.flatnonzero(~np.isin(numbers, taken))[:head]] = True
        numbers[:] = np.concatenate([numbers[first], numbers[~first]])


def _distinct(generator: np.random.Generator, among: Places, count: int) -> Places:
    """(m, count) numbers below among (m,), drawn without replacement; columns from `among` on mean nothing.

    >>> sorted(_distinct(np.random.default_rng(0), np.array([3]), 3)[0].tolist())
    [0, 1, 2]
    """
    drawn = np.empty((len(among), count), np.int64)
    for column in range(count):
        number = generator.integers(0, np.maximum(among - column, 1))
        for earlier in np.sort(drawn[:, :column], axis=1).T:
            number += number >= earlier
        drawn[:, column] = number
    return drawn
