"""Adjusting: norms and calibrations of a system's scores, and thresholds for operation, learned on training subjects.

- Z-norm: each gallery template's scores less the mean, by the standard deviation, of its scores with the cohort.
- T-norm: the same of each probe. S-norm: the mean of both (Kenny 2010).
- Calibration: log-likelihood ratios (`measures/calibration.py`).

The cohort is the templates of training subjects: those of the probes' domain for a gallery template, those of the
gallery's domain for a probe. A template's own subject is no part of its cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import F64, I64, NAMED, Affine, Entries, Flags, vector_scores
from mdfpipe.evaluation.measures.calibration import PairCounts, cllr, logistic, min_cllr, threshold_at
from mdfpipe.evaluation.measures.intervals import Statistic
from mdfpipe.evaluation.measures.metrics import Metric, rate, share_of
from mdfpipe.evaluation.measures.open_set import OpenSet
from mdfpipe.evaluation.measures.separation import Separation
from mdfpipe.evaluation.measures.verification import Roc
from mdfpipe.evaluation.score_fusion import Scorer
from mdfpipe.evaluation.table import Norm
from mdfpipe.store.templates import Templates

FEWEST: Final = 2  # of a cohort


def adjusted(scorer: Scorer, training: Scorer, norm: Norm, prior: float | None, shares: Sequence[float]) -> Scorer:
    """The scorer with a norm, a calibration and thresholds at shares of false matches, from training subjects alone.

    training: the same system on training subjects. Raises ProtocolError where a subject is in both, or too few are.
    """
    if scorer.given is not None:
        raise ProtocolError(
            "norm, calibrate and @train: expected vectors, got scores that were fused; fuse by feature, or leave the "
            "fusion out of the table"
        )
    both = sorted(set(training.probes.subject.tolist()) & set(scorer.probes.subject.tolist()))
    if both:
        raise ProtocolError(
            f"norm, calibrate and @train: expected training subjects that are not tested, got {len(both)} that are "
            f"({', '.join(both[:NAMED])}); correct the splits"
        )
    if not (training.gallery.enrolled.any() and training.probes.enrolled.any()):
        raise ProtocolError(
            "norm, calibrate and @train: expected training subjects with vectors in both domains, got none; correct "
            "the splits of the protocol"
        )
    scorer, training = (replace(one, affine=_normed(one, training, norm)) for one in (scorer, training))
    enrolled = [np.flatnonzero(side.enrolled) for side in (training.gallery, training.probes)]
    if prior is None and not shares:
        return scorer
    if prior is not None:
        learned = logistic(training.tally(enrolled[0], enrolled[1]), prior)
        scorer, training = (
            replace(one, affine=_affine(one).then(learned.slope, learned.offset)) for one in (scorer, training)
        )
    if not shares:
        return scorer
    known = training.tally(enrolled[0], enrolled[1])
    thresholds = {share: threshold_at(known, share) for share in shares}
    return replace(scorer, thresholds=thresholds, n_learned=known.n_nonmated)


def _affine(scorer: Scorer) -> Affine:
    """What is done to the scores so far; at first nothing."""
    if scorer.affine is not None:
        return scorer.affine
    nothing = np.zeros((2, len(scorer.gallery)))
    return Affine(np.repeat([[1.0], [0.0]], len(scorer.probes), axis=1), nothing)


def _normed(scorer: Scorer, cohort: Scorer, norm: Norm) -> Affine | None:
    if norm == "none":
        return None
    gallery, probes = np.zeros((2, len(scorer.gallery))), np.zeros((2, len(scorer.probes)))
    share = 0.5 if norm == "s" else 1.0
    if norm in ("z", "s"):
        gallery = share * _standard(scorer.gallery, cohort.probes, scorer)
    if norm in ("t", "s"):
        probes = share * _standard(scorer.probes, cohort.gallery, scorer)
    return Affine(probes, gallery)


def _standard(templates: Templates, cohort: Templates, scorer: Scorer) -> F64:
    """(2, T) factor and term of each template's scores with its cohort, in blocks; zeros where none is enrolled."""
    there, others = np.flatnonzero(templates.enrolled), np.flatnonzero(cohort.enrolled)
    found = np.zeros((2, len(templates)))
    if not len(there):
        return found
    if len(np.unique(cohort.subject[others])) <= FEWEST:
        raise ProtocolError(
            f"norm: expected a cohort of more than {FEWEST} training subjects, got "
            f"{len(np.unique(cohort.subject[others]))}; add train to the system's splits, or set norm: none"
        )
    sides = (
        Entries("gallery", cohort.subject[others], cohort.vectors[others]),
        Entries("probes", templates.subject[there], templates.vectors[there]),
    )
    whole = np.zeros((2, len(others)))
    scores = vector_scores(*sides, scorer.measure, Affine(np.repeat([[1.0], [0.0]], len(there), axis=1), whole))
    _, codes = np.unique(np.concatenate([side.subjects for side in sides]), return_inverse=True)
    of_cohort, own = codes[: len(others)], codes[len(others) :]
    for first in range(0, len(there), scores.block_rows):
        last = min(first + scores.block_rows, len(there))
        same = own[first:last, None] == of_cohort[None]
        mean, spread = _moments(scores.block(first, last).astype(np.float64), same)
        if not (spread > 0).all():
            name = templates.name[int(there[first + np.argmin(spread)])]
            raise ProtocolError(f"norm: template {name} scores the same with every training subject, so no norm exists")
        found[:, there[first:last]] = 1 / spread, -mean / spread
    return found


def _moments(block: F64, left_out: Flags) -> tuple[F64, F64]:
    """Mean and standard deviation of each row, without some cells; the block is changed."""
    block[left_out] = 0
    n = block.shape[1] - left_out.sum(axis=1)
    mean = block.sum(axis=1) / n
    block -= mean[:, None]
    block[left_out] = 0
    return mean, np.sqrt(np.einsum("ij,ij->i", block, block) / n)


# -- the numbers that come of it


def is_adjusted(metric: str) -> bool:
    """Whether a metric of pairs is about calibration or a threshold from training subjects."""
    return metric in ("cllr", "mincllr") or metric.startswith(("fmr@", "fnmr@"))


def of_scores(metric: str, pairs: Separation, curve: Roc, scorer: Scorer) -> tuple[Metric, Statistic]:
    """Such a metric of scores that are held, and its bootstrap's statistic. Pairs without a score do not count."""
    if metric == "mincllr":
        return _least(curve), pairs.equal_error(metric)
    if metric == "cllr":
        known = PairCounts(pairs.high, pairs.low, np.ones(len(pairs.low)), pairs.low)
        cost = [np.logaddexp(0, side) / (2 * np.log(2)) for side in (-pairs.high, pairs.low)]
        return _cost(known), pairs.means(cost[0], cost[1])
    threshold = scorer.thresholds[share_of(metric)]
    if metric.startswith("fmr@"):
        wrong = pairs.low >= threshold
        return _rate(metric, int(wrong.sum()), len(wrong), scorer), pairs.means(None, wrong.astype(float))
    wrong = pairs.high < threshold
    return _rate(metric, int(wrong.sum()), len(wrong), scorer), pairs.means(wrong.astype(float), None)


def in_blocks(metric: str, scorer: Scorer, gallery: I64, probes: I64, curve: Roc) -> Metric:
    """Such a metric where the scores cannot be held."""
    if metric == "mincllr":
        return _least(curve)
    if metric == "cllr":
        return _cost(scorer.tally(gallery, probes))
    threshold = scorer.thresholds[share_of(metric)]
    if metric.startswith("fmr@"):
        return _rate(metric, *scorer.false_matches(gallery, probes, threshold), scorer)
    accepted = curve.accepted[curve.threshold >= threshold]
    matched, pairs = int(accepted[-1]) if len(accepted) else 0, int(curve.accepted[-1])
    return _rate(metric, pairs - matched, pairs, scorer)


def of_searches(metric: str, searches: OpenSet, found: Separation, scorer: Scorer) -> tuple[Metric, Statistic]:
    """`fpir@train` and `fnir@train`: errors of searches at a threshold from training subjects."""
    threshold = scorer.thresholds[share_of(metric)]
    if metric.startswith("fpir@"):
        one = searches.fpir(threshold)
        return _rate(metric, one.k or 0, one.n, scorer), found.means(None, (found.low >= threshold).astype(float))
    one = searches.dir(threshold)
    missed = found.means((found.high < threshold).astype(float), None)
    return _rate(metric, one.n - (one.k or 0), one.n, scorer), missed


def _rate(metric: str, k: int, n: int, scorer: Scorer) -> Metric:
    share = share_of(metric)
    return replace(rate(metric, k, n), threshold=scorer.thresholds[share], n_learned=scorer.n_learned)


def _least(curve: Roc) -> Metric:
    scored = replace(curve, n_mated=int(curve.accepted[-1]))
    return Metric("mincllr", min_cllr(scored), scored.n_mated, n_false=scored.n_nonmated)


def _cost(known: PairCounts) -> Metric:
    return Metric("cllr", cllr(known), len(known.mated), n_false=known.n_nonmated)
