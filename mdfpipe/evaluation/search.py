"""Search: each probe in the gallery, 1:N, block by block, regardless of the sizes.

**Ties count against the system.** The place of a mate is 1 + the non-mated entries that score at least as high + the
mates before it. A system that answers every comparison alike finds no mate; nothing depends on the gallery's order.

Where vectors are searched, ranks are those of float64: entries whose float32 scores lie within rounding of a mate's are
compared again. More than `MANY` of them for one mate (a system that collapsed) are taken as ties without a second look.

Memory: the vectors once more (scaled to length 1), and some `BLOCK_BYTES`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation.comparing import (
    F64,
    I64,
    Affine,
    Array,
    Entries,
    Flags,
    GivenScores,
    Mates,
    Measure,
    Pairing,
    Removal,
    Scores,
    vector_scores,
)

Unmated = Literal["refuse", "exclude", "miss"]

CHUNK_BYTES: Final = 2 << 20  # of scores that a thread works on: what the second-level cache holds
FEW: Final = 12  # mates up to which comparing a row with each is faster than sorting it
MANY: Final = 1000  # entries within rounding of one mate that are still looked at one by one
WORDS: Final = 128  # of 8 flags that are added up before a byte could overflow (255)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What the search found for each of P probes.

    rank: (P,) int64, place of the best mate, from 1; 0 without a mate. last_rank: of the worst mate.
    mates: (P,) mates left to find. average_precision: (P,) float64, over all mates; 0 without one.
    mated, nonmated: (P,) float64, best score of a mate and of anyone else; -inf where there is none.
    counted: (P,) whether closed-set measures count the probe; one without a mate is counted under `unmated: miss` only.
    top, top_score: (P, k) gallery entries, best first, and their scores; -1 and -inf where none are left.
    ranks, first: places of all mates, ascending, probe i's at ranks[first[i]:first[i + 1]]; None if not asked for.
    removed_mated, removed_nonmated: pairs that the rule left out. n_gallery, n_subjects: entries and people enrolled.
    """

    rank: I64
    last_rank: I64
    mates: I64
    average_precision: F64
    mated: F64
    nonmated: F64
    counted: Flags
    top: I64
    top_score: F64
    ranks: I64 | None
    first: I64 | None
    n_gallery: int
    n_subjects: int
    unmated: Unmated
    rule: str
    removed_mated: int
    removed_nonmated: int

    def __len__(self) -> int:
        return len(self.rank)

    def __repr__(self) -> str:
        rule = f", rule={self.rule!r} left out {self.removed_mated}+{self.removed_nonmated} pairs" if self.rule else ""
        return f"Ranking(probes={len(self)}, counted={int(self.counted.sum())}, gallery={self.n_gallery}{rule})"

    @property
    def has_mate(self) -> Flags:
        """Whether there is somebody to find: (P,)."""
        return self.mates > 0


def search(
    gallery: Entries,
    probes: Entries,
    measure: Measure = "cosine",
    *,
    unmated: Unmated = "refuse",
    removal: Removal | None = None,
    affine: Affine | None = None,
    top: int = 0,
    all_ranks: bool = False,
    threads: int | None = None,
) -> Ranking:
    """Search the probes' vectors among the gallery's.

    affine: a norm or calibration of the scores.
    unmated: probes without a mate stop it (`refuse`), are not counted (`exclude`), or count as misses (`miss`).
    top: entries to tell for each probe. all_ranks: tell the place of every mate. threads: for speed; none: all cores.
    Raises DataError (NaN, zero vectors, widths), ProtocolError (one subject in the gallery, unmated probes, a rule
    that left out every mate).

    >>> gallery = Entries("gallery", ["a", "b", "c"], np.eye(3, 2, dtype=np.float32) + 0.1)
    >>> probes = Entries("probes", ["a", "c"], np.array([[2, 0.1], [1, 1.5]], np.float32))
    >>> search(gallery, probes).rank
    array([1, 1])
    """
    pairing = Pairing(gallery, probes, removal)
    return _Search(vector_scores(gallery, probes, measure, affine), pairing, unmated, top, all_ranks).run(threads)


def search_scores(
    scores: ArrayLike,
    gallery: Entries,
    probes: Entries,
    *,
    unmated: Unmated = "refuse",
    removal: Removal | None = None,
    top: int = 0,
    all_ranks: bool = False,
    threads: int | None = None,
) -> Ranking:
    """The same from given similarities (P, G), float32 or float64, as they are. They may be a memory map.

    >>> gallery, probes = Entries("gallery", ["a", "b"]), Entries("probes", ["a", "b"])
    >>> search_scores([[0.9, 0.1], [0.5, 0.5]], gallery, probes).rank  # a tie counts against the system
    array([1, 2])
    """
    pairing = Pairing(gallery, probes, removal)
    return _Search(GivenScores(scores), pairing, unmated, top, all_ranks).run(threads)


class _Search:
    """One search: the arrays of its ranking, filled chunk by chunk. Chunks touch rows of their own."""

    def __init__(self, scores: Scores, pairing: Pairing, unmated: Unmated, top: int, all_ranks: bool) -> None:
        n_probes, n_gallery = len(pairing.probes), len(pairing.gallery)
        if scores.shape != (n_probes, n_gallery):
            raise DataError(f"scores: expected (probes, gallery) {(n_probes, n_gallery)}, got {scores.shape}")
        if unmated not in get_args(Unmated):
            raise ProtocolError(f"unmated: expected {', '.join(get_args(Unmated))}, got {unmated!r}")
        self.scores, self.pairing, self.unmated = scores, pairing, unmated
        self.mates = pairing.left()
        _check_mates(pairing, self.mates, unmated)
        self.rank, self.last_rank = np.zeros((2, n_probes), np.int64)
        self.precision = np.zeros(n_probes)
        self.mated, self.nonmated = np.full((2, n_probes), -np.inf)
        self.top = np.full((n_probes, min(top, n_gallery)), -1, np.int64)
        self.top_score = np.full(self.top.shape, -np.inf)
        self.first: I64 | None = None
        self.ranks: I64 | None = None
        if all_ranks:
            self.first = np.concatenate([[0], np.cumsum(self.mates)])
            self.ranks = np.zeros(self.first[-1], np.int64)

    def run(self, threads: int | None) -> Ranking:
        """Search every probe."""
        removed = np.zeros(2, np.int64)
        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            for first, last in _steps(len(self.mates), self.scores.block_rows):
                removed += self._block(pool, self.scores.block(first, last), first)
        pairing = self.pairing
        return Ranking(
            rank=self.rank,
            last_rank=self.last_rank,
            mates=self.mates,
            average_precision=self.precision,
            mated=self.mated,
            nonmated=self.nonmated,
            counted=(self.mates > 0) | (self.unmated == "miss"),
            top=self.top,
            top_score=self.top_score,
            ranks=self.ranks,
            first=self.first,
            n_gallery=len(pairing.gallery),
            n_subjects=len(np.unique(pairing.gallery.subjects)),
            unmated=self.unmated,
            rule=pairing.removal.name if pairing.removal else "",
            removed_mated=int(removed[0]),
            removed_nonmated=int(removed[1]),
        )

    def _block(self, pool: ThreadPoolExecutor, block: Array, first: int) -> I64:
        """Rank the probes of a block (b, G). Returns how many mated and other pairs the rule left out."""
        steps = list(_steps(len(block), max(CHUNK_BYTES // block[0].nbytes, 1)))
        found = pool.map(lambda step: self._chunk(block[slice(*step)], first + step[0]), steps)
        removed: I64 = np.array(list(found)).sum(axis=0)
        return removed

    def _chunk(self, given: Array, first: int) -> tuple[int, int]:
        """Rank the probes from `first`, whose scores (b, G) are `given`. Returns how many pairs the rule left out."""
        scores = np.array(given)  # changed below
        at = slice(first, first + len(scores))
        mates = self.pairing.mates(at.start, at.stop)
        removed = self.pairing.blank(scores, first, mates)
        if self.top.size:
            self._fill_top(scores, first)
        mated = np.full((len(scores), max(int(self.mates[at].max()), 1)), np.inf, scores.dtype)  # inf: no mate
        mated[mates.row, mates.within] = scores[mates.row, mates.column]
        self._fill_best(scores, mates, mated, first)
        scores[mates.row, mates.column] = -np.inf
        others = scores.argmax(axis=1)
        best = scores[np.arange(len(scores)), others]
        rows = np.flatnonzero(best > -np.inf)
        self.nonmated[at][rows] = self.scores.exact(best[rows], rows + first, others[rows])
        self._fill_ranks(self._ahead(scores, mated, mates, first), first)
        return removed

    def _fill_best(self, scores: Array, mates: Mates, mated: Array, first: int) -> None:
        """The best mate's score of each probe."""
        where = np.where(mated < np.inf, mated, -np.inf).argmax(axis=1)
        chosen = mates.within == where[mates.row]
        row, column = mates.row[chosen], mates.column[chosen]
        self.mated[row + first] = self.scores.exact(scores[row, column], row + first, column)

    def _ahead(self, scores: Array, mated: Array, mates: Mates, first: int) -> I64:
        """Numbers of others before each mate, and of ties with it: (b, K). scores: (b, G), no mates; mated: (b, K)."""
        rows = np.repeat(np.arange(first, first + len(mated)), mated.shape[1])
        near = self.scores.near(mated.ravel(), rows)
        if near is None:
            return at_least(scores, mated)
        near = near.reshape(mated.shape)
        low, high = mated - near, mated + near
        ahead, certain = np.split(at_least(scores, np.hstack([low, high])), 2, axis=1)
        doubtful = np.argwhere((ahead > certain) & (ahead <= certain + MANY))
        if not len(doubtful):
            return ahead
        column_of = np.zeros(mated.shape, np.int64)
        column_of[mates.row, mates.within] = mates.column
        columns = [np.flatnonzero((scores[r] >= low[r, k]) & (scores[r] < high[r, k])) for r, k in doubtful]
        which = np.repeat(np.arange(len(doubtful)), [len(found) for found in columns])
        row, mate = doubtful[:, 0], doubtful.T
        own = self.scores.exact(mated[tuple(mate)], row + first, column_of[tuple(mate)])
        column = np.concatenate(columns)
        other = self.scores.exact(scores[row[which], column], row[which] + first, column)
        ties = np.bincount(which[self.scores.reaches(other, own[which])], minlength=len(doubtful))
        ahead[tuple(mate)] = certain[tuple(mate)] + ties
        return ahead

    def _fill_ranks(self, ahead: I64, first: int) -> None:
        """Ranks and precision from the others before each mate: (b, K), meaningless beyond a row's mates."""
        at = slice(first, first + len(ahead))
        count = self.mates[at]
        number = np.arange(1, ahead.shape[1] + 1)  # of a mate within its row
        there = number <= count[:, None]
        ahead[~there] = np.iinfo(np.int64).max // 2
        ahead.sort(axis=1)  # the best mate has the fewest before it
        place = ahead + number
        rows = np.flatnonzero(count)
        self.rank[at][rows] = place[rows, 0]
        self.last_rank[at][rows] = place[rows, count[rows] - 1]
        sums = np.where(there, number / place, 0).cumsum(axis=1)[:, -1]  # one by one: a row's sum is its own affair
        self.precision[at] = sums / np.maximum(count, 1)
        if self.ranks is not None and self.first is not None:
            self.ranks[self.first[at.start] : self.first[at.stop]] = place[there]

    def _fill_top(self, scores: Array, first: int) -> None:
        """The best entries of each row of (b, G), of equal ones the first in the gallery."""
        count = self.top.shape[1]
        for row, all_scores in enumerate(scores):
            least = np.partition(all_scores, len(all_scores) - count)[len(all_scores) - count]
            columns = np.flatnonzero((all_scores >= least) & (all_scores > -np.inf))
            if len(columns) > count + MANY:  # a crowd of equals
                columns = columns[np.argsort(-all_scores[columns], kind="stable")[:count]]
            found = self.scores.exact(all_scores[columns], np.full(len(columns), first + row), columns)
            best = np.argsort(-found, kind="stable")[:count]
            self.top[first + row, : len(best)] = columns[best]
            self.top_score[first + row, : len(best)] = found[best]


def at_least(scores: Array, thresholds: Array) -> I64:
    """How many scores of a row are at least each of its thresholds: (b, G), (b, K) -> (b, K).

    >>> at_least(np.array([[0.1, 0.5, 0.9]]), np.array([[0.5, 0.95, -1.0]]))
    array([[2, 0, 3]])
    """
    found = np.empty(thresholds.shape, np.int64)
    if thresholds.shape[1] > FEW:
        ascending = np.sort(scores, axis=1)
        for row, wanted in enumerate(thresholds):
            found[row] = ascending.shape[1] - np.searchsorted(ascending[row], wanted)
        return found
    width = -(-scores.shape[1] // (8 * WORDS)) * 8 * WORDS
    flags = np.zeros((len(scores), width), bool)
    here, words = flags[:, : scores.shape[1]], flags.view(np.uint64).reshape(len(scores), -1, WORDS)
    for k in range(thresholds.shape[1]):
        np.greater_equal(scores, thresholds[:, k, None], out=here)
        sums = words.sum(axis=2)  # eight counts in one word; adding up flags one by one takes four times as long
        found[:, k] = sums.view(np.uint8).reshape(len(scores), -1).sum(axis=1, dtype=np.int64)
    return found


def _steps(count: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, count, size):
        yield first, min(first + size, count)


def _check_mates(pairing: Pairing, left: I64, unmated: Unmated) -> None:
    """Refuse a search that would give a wrong number."""
    probes, rule = pairing.probes, pairing.removal
    emptied = (pairing.enrolled > 0) & (left == 0)
    if rule is not None and emptied.any() and not left.any():
        raise ProtocolError(f"rule {rule.name!r} left out every mate of every probe; check its codes, or name no rule")
    if unmated != "refuse":
        return
    way = "set unmated to exclude (they are not counted) or miss (they count as misses)"
    if rule is not None and emptied.any():
        who = probes.named(emptied, "probes")
        raise ProtocolError(f"rule {rule.name!r} left out every mate of {who}; {way}")
    if (left == 0).any():
        who = probes.named(left == 0, "probes")
        raise ProtocolError(f"{who} have no mate in the gallery; {way}, or correct the protocol")
