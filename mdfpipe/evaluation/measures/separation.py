"""Separation: scores that should be high against scores that should be low, as numbers of a sample of subjects.

A score counts as often as its subject was drawn, and that of a pair as often as the product of both. There are millions
of pairs and thousands of samples. So scores are ranked once. What a sample then needs is how many draws of low scores
are above each threshold, and where it knows enough the counting stops. All counts are whole numbers, so the order in
which they are added changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.evaluation.measures.intervals import CELLS, F64, I64, Statistic, blocks, check_items, ratio

F32 = NDArray[np.float32]

SAMPLES: Final = 128  # of a bootstrap at a time: their draws of a piece fit into the processor's cache
PIECE: Final = 1024  # scores of a sum of float32, which is exact below 2^24
MOST_DRAWS: Final = 128  # of a subject, for such a sum of products
FINE: Final = 8  # scores between two thresholds: with fewer on average, running sums are quicker
DENSE: Final = 4  # cells of a matrix of subjects by subjects for each pair, at most; else it is sparse


@dataclass(frozen=True)
class Separation:
    """Scores that should be high against scores that should be low, and whose they are.

    high: (p,) scores of mates (1:1: genuine pairs; open set: each mated probe's mate, -inf if its rank does not count).
    low: (q,) scores of others (1:1: impostor pairs; open set: the maximum of each non-mated probe).
    of_high: (p,), of_low: (q,) or (q, 2) subject codes. A pair of two subjects counts as often as the product of their
    draws says: both sides are sampled, and a subject drawn twice is never its own impostor.
    """

    high: F64
    low: F64
    of_high: I64
    of_low: I64
    subjects: int

    def __post_init__(self) -> None:
        for scores, codes in ((self.high, self.of_high), (self.low, self.of_low)):
            check_items(scores, codes, self.subjects)

    def rate_at(self, rate: float) -> Statistic:
        """The share of `high` that is accepted where at most `rate` of `low` is: TAR@FAR, and 1 - FNIR@FPIR.

        A score s is accepted if at most that share of `low` is >= s: the lowest threshold that keeps the rate, and ties
        count against the system.
        """
        passed, of_high = np.unique(self._at_least(self.high), return_inverse=True)

        def of_block(counts: F64, high: F64) -> F64:
            total = self._all_low(counts)[:, None]
            allowed = total * rate + 1e-9  # 0.29 * 100 is a little less than 29
            cumulated = self._ranked.cumulated(counts, passed, allowed)
            accepted = (cumulated[:, of_high] <= allowed) & (self.high > -np.inf)
            return ratio((high * accepted).sum(axis=1), high.sum(axis=1) * (total[:, 0] > 0))

        return self._in_blocks(of_block, len(passed))

    def auc(self) -> Statistic:
        """The area under the ROC: the probability that a high score is above a low one, ties half."""
        both = [self._at_least(self.high), len(self.low) - np.searchsorted(self._ascending, self.high, "right")]
        places, of_both = np.unique(np.concatenate(both), return_inverse=True)
        at_least, above = np.split(of_both.reshape(-1), 2)

        def of_block(counts: F64, high: F64) -> F64:
            total = self._all_low(counts)
            cumulated = self._ranked.cumulated(counts, places)
            beaten = total[:, None] - (cumulated[:, at_least] + cumulated[:, above]) / 2
            return ratio((high * beaten).sum(axis=1), high.sum(axis=1) * total)

        return self._in_blocks(of_block, len(places))

    def equal_error(self, kind: str) -> Statistic:
        """`eer`, `eer-hter`, `eer-fvc` or `rocch-eer`, as verification.py has them; or `mincllr`.

        The first three are where the errors cross, so the counting stops there. Two of them need every low score there.
        """
        equal, local, whole = EQUAL[kind], kind.startswith("eer"), kind in ("eer-hter", "eer-fvc")
        thresholds = np.unique(self.high)[::-1]
        thresholds = np.concatenate([[np.inf], thresholds[thresholds > -np.inf], [-np.inf] if whole else []])
        order = np.argsort(-self.high, kind="stable")
        ascending = np.sort(self.high[self.high > -np.inf])
        n_high = len(ascending) - np.searchsorted(ascending, thresholds, "left")
        n_low = self._at_least(thresholds)

        def of_block(counts: F64, high: F64) -> F64:
            accepted = np.pad(np.cumsum(high[:, order], axis=1), ((0, 0), (1, 0)))
            mated, others = accepted[:, -1:], self._all_low(counts)[:, None]
            with np.errstate(invalid="ignore"):
                frr = np.nan_to_num((mated - accepted[:, n_high]) / mated)
                cumulated = self._ranked.cumulated(counts, n_low, frr * others if local else None)
                far = np.nan_to_num(cumulated / others)
            there = ((mated > 0) & (others > 0))[:, 0]
            found = np.full(len(counts), np.nan)
            if whole:
                kept = counts[there], others[there], cumulated[there], frr[there]
                found[there] = self._crossing(equal, *kept, thresholds)
            else:
                found[there] = equal(far[there], frr[there])
            return found

        return self._in_blocks(of_block, len(thresholds) + len(self.high))

    def _crossing(
        self,
        equal: Callable[[F64, F64], F64],
        counts: F64,
        others: F64,
        cumulated: F64,
        frr: F64,
        thresholds: F64,
    ) -> F64:
        """(b,) `equal` of the errors at every low score between the two thresholds where a sample's errors cross.

        thresholds: (T,) descending. cumulated: (b, T) draws of the low scores at or above each.
        """
        n_low = self._at_least(thresholds)
        found = np.full(len(counts), np.nan)
        crossed = cumulated > frr * others
        after = np.where(crossed.any(axis=1), crossed.argmax(axis=1), len(n_low) - 1)
        for end in np.unique(after[after > 0]).tolist():
            first, last = int(n_low[end - 1]), int(n_low[end])
            scores = self._ascending[::-1][first:last]
            corners = 1 + np.flatnonzero(np.diff(scores, append=thresholds[end]))  # each behind equal scores
            samples = np.flatnonzero(after == end)
            for rows in blocks(len(samples), len(corners) + 2):
                at = samples[rows]
                before, edge = cumulated[at, end - 1][:, None], frr[at, end - 1][:, None]
                inner = before + self._ranked.cumulated(counts[at], corners, first=first)
                n_false = np.hstack([before, inner, cumulated[at, end][:, None]])
                missed = np.hstack([np.repeat(edge, len(corners) + 1, axis=1), frr[at, end][:, None]])
                found[at] = equal(n_false / others[at], missed)
        return found

    def means(self, of_high: F64 | None, of_low: F64 | None) -> Statistic:
        """The mean over high scores of a number that each has, plus the mean over low scores; of one kind alone too."""
        sides = [(v, codes) for v, codes in ((of_high, self.of_high), (of_low, self.of_low)) if v is not None]
        sums = [(_sums(codes, values, self.subjects), _sums(codes, None, self.subjects)) for values, codes in sides]

        def statistic(counts: F64) -> F64:
            found = np.zeros(len(counts))
            for above, below in sums:
                found += ratio(above(counts), below(counts))
            return found

        return statistic

    @cached_property
    def _ascending(self) -> F64:
        return np.sort(self.low)

    @cached_property
    def _ranked(self) -> _Ranked:
        order = np.argsort(-self.low, kind="stable")
        return _Ranked([np.ascontiguousarray(codes[order]) for codes in np.atleast_2d(self.of_low.T)])

    @cached_property
    def _all_low(self) -> Statistic:
        """(b, S) -> (b,) how many draws there are of low scores."""
        return _sums(self.of_low, None, self.subjects)

    def _at_least(self, thresholds: F64) -> I64:
        """How many low scores are at each threshold or above."""
        return np.asarray(len(self.low) - np.searchsorted(self._ascending, thresholds, "left"))

    def _in_blocks(self, of_block: Callable[[F64, F64], F64], width: int) -> Statistic:
        """of_block: (b, S) draws of subjects, (b, p) draws of the high scores -> (b,). width: numbers of a sample."""
        step = max(1, min(SAMPLES, CELLS // max(width, 1)))

        def statistic(counts: F64) -> F64:
            parts = (counts[first : first + step] for first in range(0, len(counts), step))
            return np.concatenate([of_block(part, part[:, self.of_high]) for part in parts])

        return statistic


class _Ranked:
    """Subjects of the low scores, from the highest score on. codes: (q,) one array, or two of pairs."""

    def __init__(self, codes: list[I64]) -> None:
        self.codes = codes

    def cumulated(self, counts: F64, places: I64, enough: F64 | None = None, first: int = 0) -> F64:
        """(b, T) how many draws there are of the first `places` low scores, which ascend, from score `first` on.

        counts: (b, S). enough: (b, T) or (b, 1); once every sample has more than that, all further places have inf.
        """
        exact = np.float32 if counts.max(initial=0) <= MOST_DRAWS else np.float64
        drawn = np.ascontiguousarray(counts.T, exact)
        found = np.full((len(places), len(counts)), np.inf)
        wanted = None if enough is None else np.broadcast_to(enough, (len(counts), len(places))).T
        total, done = np.zeros(len(counts)), int(np.searchsorted(places, 0, "right"))
        found[:done] = 0
        last = int(places[-1]) if len(places) else 0
        for start in range(0, last, PIECE):
            size = min(PIECE, last - start)
            inner = places[done : np.searchsorted(places, start + size, "right")] - start
            sums = self._sums(drawn, slice(first + start, first + start + size), np.append(inner, size))
            found[done : done + len(inner)] = total + sums[:-1]
            total, done = total + sums[-1], done + len(inner)
            if wanted is not None and done and (found[done - 1] > wanted[done - 1]).all():
                break
        return np.ascontiguousarray(found.T)

    def _sums(self, drawn: NDArray[Any], scores: slice, ends: I64) -> NDArray[Any]:
        """(E, b) draws of the first `ends` of some scores, which ascend from 1 on. drawn: (S, b)."""
        sides = [np.take(drawn, codes[scores], axis=0) for codes in self.codes]
        if len(ends) > len(sides[0]) / FINE:
            product = sides[0] if len(sides) == 1 else np.multiply(sides[0], sides[1], out=sides[0])
            return np.asarray(np.cumsum(product, axis=0, out=product)[ends - 1])
        form, begins = ("ij->j", "ij,ij->j")[len(sides) - 1], np.concatenate([[0], ends[:-1]])
        sums = [np.einsum(form, *(side[a:b] for side in sides)) for a, b in zip(begins, ends, strict=True)]
        return np.cumsum(sums, axis=0)


def _sums(codes: I64, values: F64 | None, subjects: int) -> Statistic:
    """(b, S) draws of subjects -> (b,) the sum of a value, or of 1, of each score as often as it counts."""
    if codes.ndim == 1:
        sums = np.bincount(codes, values, subjects).astype(np.float64)
        return lambda counts: np.asarray(counts @ sums)
    first, second = codes.T
    if subjects**2 <= DENSE * len(codes):
        of_pairs = np.bincount(first * subjects + second, values, subjects**2).astype(np.float64)
        matrix = of_pairs.reshape(subjects, subjects)
        return lambda counts: np.asarray(((counts @ matrix) * counts).sum(axis=1))
    from scipy.sparse import csr_array

    weights = np.ones(len(codes)) if values is None else values
    sparse = csr_array((weights, (second, first)), (subjects, subjects))
    return lambda counts: np.asarray(((sparse @ counts.T).T * counts).sum(axis=1))


def _both_below(far: F64, frr: F64) -> F64:
    """(b, T) errors from the highest threshold -> (b,)."""
    return np.asarray(np.maximum(far, frr).min(axis=1))


def _nearest(far: F64, frr: F64) -> F64:
    apart = np.abs(far - frr)
    nearest = apart <= apart.min(axis=1, keepdims=True) + 1e-12
    return np.asarray(np.where(nearest, far + frr, np.inf).min(axis=1) / 2)


def _middle(far: F64, frr: F64) -> F64:
    rows = np.arange(len(far))
    at = far.shape[1] - 1 - np.argmax((far <= frr)[:, ::-1], axis=1)
    after = np.minimum(at + 1, far.shape[1] - 1)
    here, there = ((far + frr)[rows, places] for places in (at, after))
    return np.asarray(np.where(far[rows, at] < frr[rows, at], np.minimum(here, there), here) / 2)


def _on_hull(far: F64, frr: F64) -> F64:
    """Where both are equal on the hull: the greatest over w of the least w FAR + (1 - w) FRR, by bisection of w."""
    far, frr = (np.pad(errors, ((0, 0), (0, 1)), constant_values=end) for errors, end in ((far, 1.0), (frr, 0.0)))
    low, high = np.zeros((len(far), 1)), np.ones((len(far), 1))
    for _ in range(40):
        w = (low + high) / 2
        at = (w * far + (1 - w) * frr).argmin(axis=1)[:, None]
        rises = np.take_along_axis(far, at, 1) > np.take_along_axis(frr, at, 1)
        low, high = np.where(rises, w, low), np.where(rises, high, w)
    return np.asarray((low * far + (1 - low) * frr).min(axis=1))


def _least_cost(far: F64, frr: F64) -> F64:
    """minCllr: the least Bayes risk at each prior, summed over priors (Brümmer and du Preez 2006) on a fine grid."""
    found, step = np.zeros(len(far)), 0.1
    for logit in np.arange(-12, 12 + step, step):
        prior = 1 / (1 + np.exp(-logit))
        found += (prior * frr + (1 - prior) * far).min(axis=1) * step
    return np.asarray(found / (2 * np.log(2)))


EQUAL: Final[dict[str, Callable[[F64, F64], F64]]] = {
    "eer": _both_below,
    "eer-hter": _nearest,
    "eer-fvc": _middle,
    "rocch-eer": _on_hull,
    "mincllr": _least_cost,
}
