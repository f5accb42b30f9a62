"""Placing: where the mates of each query stand in its list, as the published evaluators of re-identification count it.

Ties stand in the order of the gallery (a stable sort), unlike in `search`, where they count against the system: a score
and a place become one whole number, greater is earlier, and no two of them are equal. A mate's place is then the count
of greater ones: nothing is sorted where queries have few mates. PROTOCOLS 2.1-2.4 has the loops that this equals.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.evaluation.comparing import F32, F64, I64, Entries, Flags, Pairing, Removal

CHUNK_BYTES: Final = 1 << 20  # of keys that are worked on at a time: what the second-level cache holds
FEW: Final = 6  # mates of a query up to which counting is faster than sorting

Keys = NDArray[np.uint64]


class Placing:
    """The places of one gallery's images for each of some queries. Raises ProtocolError for a gallery of one identity.

    subject and camera codes of both sides; missing: (G,) gallery images without a vector, which are in nobody's list.
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
        self._first = np.unique(self.pairing.start[:-1][np.diff(self.pairing.start) > 0])
        self._late = (len(self.order) - 1 - self.order).astype(np.uint64)[:, None]

    @property
    def chunk(self) -> int:
        """How many queries to look at at a time."""
        return max(CHUNK_BYTES // (8 * len(self.order)), 32)

    def look(self, scores: F32, first: int) -> None:
        """Place the mates of the queries from `first`. scores: (G, q), rows in the order of `order`; finite."""
        mates = self.pairing.mates(first, first + scores.shape[1])
        keys = _keys(scores, self._late)
        keys[self._row[mates.removed_column], mates.removed_row] = 0
        keys[self._row[self.missing]] = 0
        self._leave_out(keys, first)
        there = ~self.missing[mates.column]
        row, column = mates.row[there], self._row[mates.column[there]]
        if not len(row):
            return
        count = np.bincount(row, minlength=scores.shape[1])
        has = np.flatnonzero(count)
        begin = (np.cumsum(count) - count)[has]
        within = np.arange(len(row)) - np.repeat(begin, count[has])
        own = keys[column, row]
        place = _counted(keys, own, row, within) if count.max() <= FEW else _sorted(keys, own, has, begin, count[has])
        if self.distinct:
            best = np.full(scores.shape[1], np.iinfo(np.uint64).max)
            best[has] = np.maximum.reduceat(own, begin)
            ahead = (np.maximum.reduceat(keys, self._first, axis=0) > best).sum(axis=0)
            self.rank[first + has] = 1 + ahead[has]
        else:
            self.rank[first + has] = np.minimum.reduceat(place, begin)
        place = place[np.lexsort((place, row))]
        self.precision[first + has] = np.add.reduceat((within + 1) / place, begin) / count[has]
        self.penalty[first + has] = count[has] / np.maximum.reduceat(place, begin)

    def _leave_out(self, keys: Keys, first: int) -> None:
        """What a rule for everyone leaves out, camera by camera of the queries."""
        removal, probes = self.pairing.removal, self.pairing.probes.codes
        if removal is None or removal.of != "everyone":
            return
        assert probes is not None
        cameras = probes[first : first + keys.shape[1]]
        for camera in np.unique(cameras):
            own = np.flatnonzero(cameras == camera)
            columns = self.pairing.removed_columns(first + int(own[0]))
            if len(columns):
                keys[np.ix_(self._row[columns], own)] = 0


def _keys(scores: F32, late: Keys) -> Keys:
    """(G, q) whole numbers above 0: by score, then the earlier the greater. late: (G, 1) places from the end."""
    bits = np.add(scores, np.float32(0)).view(np.uint32)  # -0 becomes 0, so that they tie
    bits ^= (bits.view(np.int32) >> 31).view(np.uint32) | np.uint32(1 << 31)
    keys = bits.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= late
    return keys


def _counted(keys: Keys, own: Keys, row: I64, within: I64) -> I64:
    """Place of each mate: by counting what comes before it."""
    place = np.empty(len(own), np.int64)
    for nth in range(int(within.max()) + 1):
        chosen = within == nth
        wanted = np.full(keys.shape[1], np.iinfo(np.uint64).max)
        wanted[row[chosen]] = own[chosen]
        before = np.add.reduce((keys > wanted).view(np.uint8), axis=0, dtype=np.uint32)
        place[chosen] = 1 + before[row[chosen]].astype(np.int64)
    return place


def _sorted(keys: Keys, own: Keys, has: I64, begin: I64, count: I64) -> I64:
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
