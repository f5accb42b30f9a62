"""Verification: one against one. ROC, TAR at FAR, equal error rates, area under the curve.

A pair is accepted if its score is at least the threshold. The curve is kept at its corners, the scores of mated pairs:
between two of them a higher threshold loses no mated pair. So it is exact for any number of non-mated pairs, in memory
that grows with the mated ones (some 40 bytes each). No metric interpolates but `rocch-eer` and `auc`:

- `tar@far=a`: the greatest TAR of any threshold whose FAR is at most a.
- `eer`, the plain one: the smallest e for which one threshold keeps FAR and FRR both at or below e.
- `eer-hter`: the mean of FAR and FRR at the threshold where they are nearest (bob.measure `eer`).
- `eer-fvc`: the middle of the interval that FVC2000 defines (Maio et al. 2002; PyEER).
- `rocch-eer`: where FAR = FRR on the ROC's convex hull (Fawcett and Provost 2001; BOSARIS; bob.measure `eer_rocch`).
- `auc`: how often a mated pair scores above a non-mated one; half where they tie (Mann and Whitney; scikit-learn).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation.comparing import (
    F64,
    I64,
    Affine,
    Array,
    Entries,
    GivenScores,
    Measure,
    Pairing,
    Removal,
    Scores,
    vector_scores,
)
from mdfpipe.evaluation.measures.metrics import Metric, allowed, rate, share_name


@dataclass(frozen=True, eq=False)
class Roc:
    """The corners of an ROC, from the highest threshold. Raises ProtocolError without mated or non-mated pairs.

    threshold: (T,) the distinct scores of mated pairs. accepted: (T,) mated pairs at or above it, of n_mated.
    false: (T,) non-mated pairs at or above it; above: (T,) strictly above it; of n_nonmated.
    n_mated counts pairs that gave no score, too: they are never accepted.
    whole: whether scores of non-mated pairs are corners as well, so that every threshold that changes anything is one.
    """

    threshold: F64
    accepted: I64
    false: I64
    above: I64
    n_mated: int
    n_nonmated: int
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.n_mated or not self.n_nonmated:
            raise ProtocolError(
                f"verification: expected mated and non-mated pairs, got {self.n_mated} and {self.n_nonmated}"
            )

    def __repr__(self) -> str:
        return f"Roc(corners={len(self.threshold)}, mated={self.n_mated}, nonmated={self.n_nonmated})"

    def points(self) -> tuple[F64, F64]:
        """FAR and TAR from (0, 0) to (1, 1): (2T + 2,) each. Pairs that tie lie on a slope; trapezoids give `auc`."""
        lost, won = np.concatenate([[0], self.accepted[:-1]]), self.accepted
        far = np.stack([self.above, self.false], axis=1).ravel() / self.n_nonmated
        tar = np.stack([lost, won], axis=1).ravel() / self.n_mated
        return np.concatenate([[0], far, [1]]), np.concatenate([[0], tar, [1]])

    def tar_at(self, far: float) -> Metric:
        """The greatest share of mated pairs accepted where at most this share of the others are: `tar@far=1e-3`."""
        corner = int(np.searchsorted(self.false, allowed(far, self.n_nonmated), side="right")) - 1
        k, k_false, threshold = 0, 0, float("inf")
        if corner >= 0:
            k, k_false = int(self.accepted[corner]), int(self.false[corner])
            threshold = float(self.threshold[corner])
        return Metric(
            share_name("tar", "far", far), k / self.n_mated, self.n_mated, k, threshold, k_false, self.n_nonmated
        )

    def errors(self) -> tuple[F64, F64]:
        """FAR and FRR from the threshold inf, which accepts nothing: (T + 1,) each."""
        far = np.concatenate([[0], self.false]) / self.n_nonmated
        return far, (self.n_mated - np.concatenate([[0], self.accepted])) / self.n_mated

    def eer(self) -> Metric:
        """The plain equal error rate, `eer`, with the threshold that keeps it. n: mated pairs."""
        worse = np.maximum(*self.errors())
        best = int(worse.argmin())
        return self._equal("eer", float(worse[best]), best)

    def eer_hter(self) -> Metric:
        """`eer-hter`: of equally near thresholds the one with the smaller mean. Raises ProtocolError unless whole."""
        far, frr = self._all_errors("eer-hter")
        apart = np.abs(far - frr)
        nearest = np.flatnonzero(apart <= apart.min() + 1e-12)
        best = int(nearest[(far + frr)[nearest].argmin()])
        return self._equal("eer-hter", float(far[best] + frr[best]) / 2, best)

    def eer_fvc(self) -> Metric:
        """`eer-fvc`: of the two thresholds around the crossing, the one with the smaller mean.

        Raises ProtocolError unless whole.
        """
        far, frr = self._all_errors("eer-fvc")
        best = int(np.flatnonzero(far <= frr)[-1])  # the lowest threshold of those
        if far[best] < frr[best] and best + 1 < len(far) and (far + frr)[best + 1] <= (far + frr)[best]:
            best += 1
        return self._equal("eer-fvc", float(far[best] + frr[best]) / 2, best)

    def _all_errors(self, metric: str) -> tuple[F64, F64]:
        if not self.whole:
            raise ProtocolError(
                f"{metric}: expected scores that can be held at once, as it depends on each of them; ask for eer or "
                "rocch-eer, or compare fewer templates"
            )
        return self.errors()

    def _equal(self, name: str, value: float, at: int) -> Metric:
        """An equal error rate and the place of its threshold among `errors`."""
        threshold = float(self.threshold[at - 1]) if at else float("inf")
        return Metric(name, value, self.n_mated, None, threshold, int(self.false[at - 1]) if at else 0, self.n_nonmated)

    def hull(self) -> tuple[F64, F64]:
        """FAR and FRR of the convex hull's corners, from (0, 1) to (1, 0): (H,) each."""
        false = [0, *self.false.tolist(), self.n_nonmated]
        missed = [self.n_mated, *(self.n_mated - self.accepted).tolist(), 0]
        kept: list[tuple[int, int]] = []
        for x, y in zip(false, missed, strict=True):
            if kept and kept[-1] == (x, y):
                continue
            while len(kept) > 1 and _turns_right(kept[-2], kept[-1], (x, y)):
                kept.pop()
            kept.append((x, y))
        corners = np.array(kept, np.float64)
        return corners[:, 0] / self.n_nonmated, corners[:, 1] / self.n_mated

    def rocch_eer(self) -> Metric:
        """The equal error rate on the convex hull, `rocch-eer`: two thresholds mixed by chance reach it."""
        far, frr = self.hull()
        after = int(np.argmax(far >= frr))  # the last corner is (1, 0)
        before = far[after - 1] - frr[after - 1]
        share = before / (before - (far[after] - frr[after]))
        value = far[after - 1] + share * (far[after] - far[after - 1])
        return Metric("rocch-eer", float(value), self.n_mated, n_false=self.n_nonmated)

    def auc(self) -> Metric:
        """The area under the curve, `auc`."""
        pairs = np.diff(self.accepted, prepend=0)
        twice = int(pairs @ (2 * self.n_nonmated - self.above - self.false))  # whole numbers: a tie is one of two
        return Metric("auc", twice / (2 * self.n_mated * self.n_nonmated), self.n_mated, n_false=self.n_nonmated)


def roc(mated: ArrayLike, nonmated: ArrayLike, failed: int = 0, *, whole: bool = False) -> Roc:
    """The ROC of scores of pairs: (M,), (N,). failed: mated pairs without a score. Raises DataError for NaN.

    whole: keep a corner at each non-mated score, too, which some equal error rates need.

    >>> curve = roc([0.9, 0.8, 0.4], [0.6, 0.4, 0.1, 0.0])
    >>> round(curve.auc().value, 6), curve.tar_at(0.1).k, curve.eer().value
    (0.875, 2, 0.3333333333333333)
    """
    scores = [np.sort(np.asarray(side).ravel()) for side in (mated, nonmated)]
    for side, name in zip(scores, ("mated", "non-mated"), strict=True):
        if not np.isfinite(side).all():
            raise DataError(f"{name} pairs: expected finite scores; count what could not be compared as `failed`")
    corners = _Corners(scores[0], scores[1] if whole else scores[1][:0])
    corners.add(scores[1])
    return corners.roc(failed)


def verify(
    gallery: Entries,
    probes: Entries,
    measure: Measure = "cosine",
    *,
    removal: Removal | None = None,
    affine: Affine | None = None,
    failed: int = 0,
    threads: int | None = None,
) -> Roc:
    """The ROC of every probe against every gallery entry, by vectors, in bounded blocks; the product is made twice."""
    return _all_pairs(
        vector_scores(gallery, probes, measure, affine), Pairing(gallery, probes, removal), failed, threads
    )


def verify_scores(
    scores: ArrayLike,
    gallery: Entries,
    probes: Entries,
    *,
    removal: Removal | None = None,
    failed: int = 0,
    threads: int | None = None,
) -> Roc:
    """The same from given similarities (P, G)."""
    return _all_pairs(GivenScores(scores), Pairing(gallery, probes, removal), failed, threads)


def errors_at(mated: ArrayLike, nonmated: ArrayLike, threshold: float) -> tuple[Metric, Metric]:
    """`fmr` and `fnmr`, the false matches and false non-matches at a threshold that was chosen elsewhere.

    >>> [metric.k for metric in errors_at([0.9, 0.4], [0.5, 0.1, 0.0], threshold=0.5)]
    [1, 1]
    """
    m, n = np.asarray(mated), np.asarray(nonmated)
    return rate("fmr", int((n >= threshold).sum()), n.size), rate("fnmr", int((m < threshold).sum()), m.size)


class _Corners:
    """Counts of non-mated scores at and above each distinct mated score, added up part by part.

    mated: ascending. others: further scores that are corners.
    """

    def __init__(self, mated: Array, others: Array) -> None:
        self.ascending = np.unique(np.concatenate([mated, others]))
        self.accepted = (len(mated) - np.searchsorted(mated, self.ascending, side="left"))[::-1]
        self.false, self.above = np.zeros((2, len(self.ascending)), np.int64)
        self.n_nonmated, self.n_mated, self.whole = 0, len(mated), bool(len(others))

    def add(self, ascending: Array) -> None:
        """Count some non-mated scores, sorted."""
        self.false += len(ascending) - np.searchsorted(ascending, self.ascending, side="left")
        self.above += len(ascending) - np.searchsorted(ascending, self.ascending, side="right")
        self.n_nonmated += len(ascending)

    def roc(self, failed: int) -> Roc:
        """The curve of what was counted."""
        threshold, n_mated = self.ascending[::-1].astype(np.float64), self.n_mated + failed
        return Roc(threshold, self.accepted, self.false[::-1], self.above[::-1], n_mated, self.n_nonmated, self.whole)


def _all_pairs(scores: Scores, pairing: Pairing, failed: int, threads: int | None) -> Roc:
    """Mated scores first, then the others counted at them: both from the same blocks, so that ties are ties."""
    if scores.shape != (len(pairing.probes), len(pairing.gallery)):
        raise DataError(f"scores: expected {(len(pairing.probes), len(pairing.gallery))}, got {scores.shape}")
    workers = threads or len(os.sched_getaffinity(0))
    mated = []
    for first, block in _blocks(scores):
        mates = pairing.mates(first, first + len(block))
        mated.append(block[mates.row, mates.column])
    corners = _Corners(np.sort(np.concatenate(mated)), np.zeros(0, np.float32))
    del mated
    with ThreadPoolExecutor(workers) as pool:
        for first, block in _blocks(scores):
            edges = np.linspace(0, len(block), workers + 1).astype(int).tolist()
            parts = [(first + at, block[at:to]) for at, to in pairwise(edges) if to > at]
            for others in pool.map(lambda part: _others(pairing, *part), parts):
                corners.add(others)
    return corners.roc(failed)


def _blocks(scores: Scores) -> Iterator[tuple[int, Array]]:
    for first in range(0, scores.shape[0], scores.block_rows):
        yield first, scores.block(first, min(first + scores.block_rows, scores.shape[0]))


def _others(pairing: Pairing, first: int, block: Array) -> Array:
    """The scores of the non-mated pairs that no rule leaves out, sorted: (n,)."""
    scores = np.array(block)
    mates = pairing.mates(first, first + len(scores))
    removed = pairing.blank(scores, first, mates)
    scores[mates.row, mates.column] = -np.inf
    flat = scores.reshape(-1)
    flat.sort()
    return flat[len(mates.row) + sum(removed) :]  # what is left out came first


def _turns_right(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
    """Whether b is on or above the line from a to c, so that a lower hull passes it by."""
    return (b[0] - a[0]) * (c[1] - a[1]) <= (b[1] - a[1]) * (c[0] - a[0])
