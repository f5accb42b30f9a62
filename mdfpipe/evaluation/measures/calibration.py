"""Calibration: scores as log-likelihood ratios, what they cost, and a threshold that is carried to other subjects.

Cllr (Brümmer and du Preez 2006): the mean cost of log-likelihood ratios over all priors, in bits. 0 is perfect, 1 is
what scores of 0 cost, which say nothing. Its minimum over all monotone maps of the scores (pool adjacent violators) is
that of the ROC's convex hull, whose slopes are the likelihood ratios.

All of it comes from `PairCounts`: mated scores one by one, non-mated ones as values with counts. So memory is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import F64, I64, Pairing, Scores
from mdfpipe.evaluation.measures.metrics import allowed
from mdfpipe.evaluation.measures.verification import Roc

EXACT: Final = 1 << 22  # non-mated scores that are kept one by one
BINS: Final = 1 << 16  # of more than that: each bin stands for its mean
STEPS: Final = 100  # of Newton's method at most
LARGEST: Final = 1e3  # slope: of scores that separate the training pairs no finite one is the best


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Scores of pairs. mated: (M,). values, counts: (V,) non-mated scores, ascending, and how many there are of each.

    upper: (V,) no score of the value's bin is higher.
    """

    mated: F64
    values: F64
    counts: F64
    upper: F64

    @property
    def n_nonmated(self) -> int:
        """Non-mated pairs."""
        return int(self.counts.sum())


def tally(scores: Scores, pairing: Pairing) -> PairCounts:
    """Count the scores of all pairs, block by block. Raises ProtocolError without mated or non-mated pairs."""
    mated: list[F64] = []
    low, high = np.inf, -np.inf
    kept: list[F64] = []
    few = scores.shape[0] * scores.shape[1] <= EXACT
    for others, own in _blocks(scores, pairing):
        mated.append(own)
        if few:
            kept.append(others)
        elif len(others):
            low, high = min(low, float(others.min())), max(high, float(others.max()))
    if few:
        values, counts = np.unique(np.concatenate(kept), return_counts=True)
        found = PairCounts(np.concatenate(mated), values, counts.astype(np.float64), values)
    else:
        edges = np.linspace(low, high, BINS + 1)
        sums, number = np.zeros((2, BINS))
        for others, _ in _blocks(scores, pairing):
            at = np.minimum((others - low) * (BINS / max(high - low, 1e-300)), BINS - 1).astype(np.int64)
            number += np.bincount(at, minlength=BINS)
            sums += np.bincount(at, others, BINS)
        there = number > 0
        found = PairCounts(np.concatenate(mated), sums[there] / number[there], number[there], edges[1:][there])
    if not len(found.mated) or not found.n_nonmated:
        raise ProtocolError(
            f"calibration: expected mated and non-mated pairs, got {len(found.mated)} and {found.n_nonmated}"
        )
    return found


def _blocks(scores: Scores, pairing: Pairing) -> Iterator[tuple[F64, F64]]:
    """Non-mated and mated scores of some probes at a time."""
    for first in range(0, scores.shape[0], scores.block_rows):
        last = min(first + scores.block_rows, scores.shape[0])
        block = np.array(scores.block(first, last), np.float64)
        mates = pairing.mates(first, last)
        own = block[mates.row, mates.column]
        pairing.blank(block, first, mates)
        block[mates.row, mates.column] = -np.inf
        yield block[block > -np.inf], own


def count_at_least(scores: Scores, pairing: Pairing, threshold: float) -> tuple[int, int]:
    """Non-mated pairs at or above a threshold, and all of them, block by block."""
    k = n = 0
    for others, _ in _blocks(scores, pairing):
        k, n = k + int((others >= threshold).sum()), n + len(others)
    return k, n


@dataclass(frozen=True)
class Calibration:
    """A log-likelihood ratio is slope * score + offset."""

    slope: float
    offset: float


def logistic(scores: PairCounts, prior: float = 0.5) -> Calibration:
    """The calibration that costs least at a prior of mated pairs (Brümmer and du Preez 2006), by Newton's method.

    Mated and non-mated pairs weigh `prior` and `1 - prior`, however many there are of each. Where scores separate the
    kinds the slope is the largest allowed. Raises ProtocolError where mated scores are not the higher ones.
    """
    scale = max(float(np.std(scores.mated)), float(np.std(scores.values)), 1e-12)
    x = np.concatenate([scores.mated, scores.values]) / scale
    sign = np.repeat([1.0, -1.0], [len(scores.mated), len(scores.values)])
    weight = np.concatenate(
        [np.full(len(scores.mated), prior / len(scores.mated)), (1 - prior) * scores.counts / scores.counts.sum()]
    )
    logit = np.log(prior / (1 - prior))
    design, found = np.stack([x, np.ones(len(x))]), np.zeros(2)

    def cost(at: F64) -> float:
        return float(weight @ np.logaddexp(0, -sign * (at @ design + logit)))

    for _ in range(STEPS):
        share = 1 / (1 + np.exp(np.clip(sign * (found @ design + logit), -500, 500)))
        gradient = design @ (-sign * weight * share)
        hessian = (design * (weight * share * (1 - share))) @ design.T + 1e-12 * np.eye(2)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while cost(found - size * step) > cost(found) and size > 1e-9:
            size /= 2
        found = found - size * step
        if abs(found[0]) > LARGEST or float(np.abs(size * step).max()) < 1e-12:
            break
    if found[0] <= 0:
        raise ProtocolError(
            "calibrate: expected mated training pairs to score higher than non-mated ones, got the opposite: these "
            "scores cannot become likelihood ratios"
        )
    return Calibration(float(found[0] / scale), float(found[1]))


def cllr(scores: PairCounts) -> float:
    """The cost of scores that are log-likelihood ratios, in bits.

    >>> one, two = np.zeros(2), np.ones(2)
    >>> cllr(PairCounts(one, one[:1], two[:1], one[:1]))
    1.0
    """
    mated = np.logaddexp(0, -scores.mated).mean()
    others = scores.counts @ np.logaddexp(0, scores.values) / scores.counts.sum()
    return float((mated + others) / (2 * np.log(2)))


def min_cllr(curve: Roc) -> float:
    """The least cost that a monotone map of the scores could have: at most 1."""
    far, frr = curve.hull()
    mated, others = -np.diff(frr), np.diff(far)
    both = (mated > 0) & (others > 0)  # a side that is alone costs nothing
    m, o = mated[both], others[both]
    return float((m @ np.log2(1 + o / m) + o @ np.log2(1 + m / o)) / 2)


def threshold_at(scores: PairCounts, fmr: float) -> float:
    """The lowest threshold known to keep the false match rate of these pairs at or below a share. Raises ProtocolError.

    >>> values = np.array([0.1, 0.4])
    >>> threshold_at(PairCounts(np.ones(1), values, np.array([3.0, 1.0]), values), 0.25) > 0.1
    True
    """
    n = scores.n_nonmated
    if allowed(fmr, n) < 1:
        raise ProtocolError(
            f"a threshold at a false match rate of {fmr:g} on training subjects: expected at least "
            f"{int(np.ceil(1 / fmr))} non-mated pairs, got {n}; ask for a greater rate"
        )
    at_least: I64 = np.cumsum(scores.counts[::-1])[::-1].astype(np.int64)
    above = np.flatnonzero(at_least > allowed(fmr, n))  # values that would be too many
    return float(np.nextafter(np.float32(scores.upper[above[-1]]), np.float32(np.inf))) if len(above) else -np.inf
