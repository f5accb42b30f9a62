"""Placing: places of the mates of each query in its list, as the published evaluators of re-identification count it.

A mate's place is the count of greater scores: nothing is sorted where queries have few mates. Ties are in the order
of the gallery (a stable sort), unlike in `search`, where they count against the system: for a query with a tied mate,
score and place become one whole number, greater is earlier, and no two of them are equal. These keys then replace the
scores. PROTOCOLS 2.1-2.4 has the loops that this equals.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.evaluation.comparing import F32, F64, I64, Entries, Flags, Pairing, Removal

CHUNK_BYTES: Final = 1 << 20  # of scores that are worked on at a time: what the second-level cache holds
FEW: Final = 6  # mates of a query up to which counting is faster than sorting

Keys = NDArray[np.uint64]
Values = NDArray[Any]
"""(G, q) scores of which no mate's is another image's, or keys."""


class Placing:
    """The places of one gallery's images for each of some queries. Raises ProtocolError for a gallery of one identity.

    subject and camera codes of both sides; missing: (G,) gallery images without a vector, which are in no list.
    distinct: rank counts identities that come before the query's, not images.
    valid: (Q,) queries that have a mate once the rule has left out what it does, whether that has a vector or not.
    rank: (Q,) of the first mate, from 1; 0 without one. precision, penalty: (Q,) average precision (without
    interpolation) and mates / place of the last one; 0 without a mate. All are filled by `look`.
    """

    def __init__(
        self,
        gallery: tuple[I64, I64],
        queries: tuple[I64, I64],
        missing: Flags,
        removal: Removal | None = None,
        *,
        distinct: bool,
    ) -> None:
        sides = Entries("gallery", gallery[0], codes=gallery[1]), Entries("probes", queries[0], codes=queries[1])
        self.pairing = Pairing(*sides, removal)
        self.missing, self.distinct = missing, distinct
        self.order = self.pairing.order  # places of the gallery, identity by identity
        self.valid: Flags = self.pairing.left() > 0
        self.rank = np.zeros(len(queries[0]), np.int64)
        self.precision, self.penalty = np.zeros((2, len(queries[0])))
        self._row = np.empty_like(self.order)
        self._row[self.order] = np.arange(len(self.order))
        sizes = np.diff(self.pairing.start)
        self._first, self._size = self.pairing.start[:-1][sizes > 0], sizes[sizes > 0]
        self._late = (len(self.order) - 1 - self.order).astype(np.uint64)[:, None]

    @property
    def chunk(self) -> int:
        """How many queries to look at at a time."""
        return max(CHUNK_BYTES // (4 * len(self.order)), 32)

    def look(self, scores: F32, first: int) -> None:
        """Place the mates of the queries from `first`.

        scores: (G, q), rows in the order of `order`; finite, and overwritten.
        """
        mates = self.pairing.mates(first, first + scores.shape[1])
        scores[self._row[mates.removed_column], mates.removed_row] = -np.inf
        scores[self._row[self.missing]] = -np.inf
        self._leave_out(scores, first)
        there = ~self.missing[mates.column]
        row, column = mates.row[there], self._row[mates.column[there]]
        tied = _tied(scores, row, column)
        for chosen in (~tied, tied):
            if not chosen.any():
                continue
            values: Values = scores if chosen.all() else scores[:, chosen]
            if chosen is tied:
                values = _keys(values, self._late)
            own = chosen[row]
            self._place(values, first + np.flatnonzero(chosen), (np.cumsum(chosen) - 1)[row[own]], column[own])

    def _place(self, values: Values, queries: I64, row: I64, column: I64) -> None:
        """Place the mates (row, column) of some queries. values: (G, q); queries: (q,) places among all."""
        count = np.bincount(row, minlength=len(queries))
        has = np.flatnonzero(count)
        if not len(has):
            return
        queries, count = queries[has], count[has]
        begin = np.cumsum(count) - count
        own = values[column, row]
        place = _counted(values, own, row) if count.max() <= FEW else _sorted(values, own, has, begin, count)
        if self.distinct:
            best = np.zeros(values.shape[1], values.dtype)
            best[has] = np.maximum.reduceat(own, begin)
            self.rank[queries] = 1 + (self._highest(values) > best).sum(axis=0)[has]
        else:
            self.rank[queries] = np.minimum.reduceat(place, begin)
        place = place[np.lexsort((place, row))]
        self.precision[queries] = np.add.reduceat((_nth(row) + 1) / place, begin) / count
        self.penalty[queries] = count / np.maximum.reduceat(place, begin)

    def _highest(self, values: Values) -> Values:
        """(identities, q) the greatest value of each. (`maximum.reduceat` takes three to twelve times as long.)"""
        found = values[self._first]
        for nth in range(1, int(self._size.max())):
            more = np.flatnonzero(self._size > nth)
            found[more] = np.maximum(found[more], values[self._first[more] + nth])
        return found

    def _leave_out(self, scores: F32, first: int) -> None:
        """What a rule for everyone leaves out, camera by camera of the queries."""
        removal, probes = self.pairing.removal, self.pairing.probes.codes
        if removal is None or removal.of != "everyone":
            return
        assert probes is not None
        cameras = probes[first : first + scores.shape[1]]
        for camera in np.unique(cameras):
            own = np.flatnonzero(cameras == camera)
            columns = self.pairing.removed_columns(first + int(own[0]))
            if len(columns):
                scores[np.ix_(self._row[columns], own)] = -np.inf


def _nth(row: I64) -> I64:
    """0, 1, ... of the same row; rows ascend.

    >>> _nth(np.array([0, 0, 2, 2, 2])).tolist()
    [0, 1, 0, 1, 2]
    """
    count = np.bincount(row)
    return np.asarray(np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count), np.int64)


def _tied(scores: F32, row: I64, column: I64) -> Flags:
    """(q,) the queries of which a mate has another image's score, or all where mates are many and keys are sorted."""
    nth = _nth(row)
    if nth.max(initial=0) >= FEW:
        return np.ones(scores.shape[1], bool)
    own, found = scores[column, row], np.zeros(scores.shape[1], bool)
    for n in range(int(nth.max(initial=-1)) + 1):
        chosen = nth == n
        wanted = np.full(scores.shape[1], np.nan, np.float32)
        wanted[row[chosen]] = own[chosen]
        equal = scores == wanted
        if np.count_nonzero(equal) > np.count_nonzero(chosen):
            found |= np.count_nonzero(equal, axis=0) > 1
    return found


def _keys(scores: F32, late: Keys) -> Keys:
    """(G, q) whole numbers: by score, then the earlier the greater. late: (G, 1) places from the end."""
    bits = np.add(scores, np.float32(0)).view(np.uint32)  # -0 becomes 0, so that they tie
    bits ^= (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= late
    return keys


def _counted(values: Values, own: Values, row: I64) -> I64:
    """Place of each mate: by counting what comes before it."""
    place, nth = np.empty(len(own), np.int64), _nth(row)
    for n in range(int(nth.max()) + 1):
        chosen = nth == n
        wanted = np.zeros(values.shape[1], values.dtype)
        wanted[row[chosen]] = own[chosen]
        before = np.add.reduce((values > wanted).view(np.uint8), axis=0, dtype=np.min_scalar_type(len(values)))
        place[chosen] = 1 + before[row[chosen]].astype(np.int64)
    return place


def _sorted(keys: Values, own: Values, has: I64, begin: I64, count: I64) -> I64:
    """The same by sorting each query's list."""
    place = np.empty(len(own), np.int64)
    lists = np.sort(keys.T, axis=1)
    for query, at, mates in zip(has.tolist(), begin.tolist(), count.tolist(), strict=True):
        place[at : at + mates] = np.searchsorted(lists[query], own[at : at + mates], "right")
    return 1 + len(keys) - place


def shares(rank: I64, valid: Flags, depth: int = 20) -> F64:
    """The curve of ranks 1..depth: (depth,), over valid queries; it stays level where a list ends.

    >>> shares(np.array([1, 3, 0, 0]), np.array([True, True, True, False]), 3).round(2).tolist()
    [0.33, 0.33, 0.67]
    """
    found = rank[valid & (rank > 0) & (rank <= depth)]
    return np.asarray(np.cumsum(np.bincount(found, minlength=depth + 1)[1:]) / valid.sum(), np.float64)
