"""Intervals: how far a number can be trusted, and whether two systems differ.

A share k of n has Wilson's interval (of n of n the bootstrap would say [1, 1]). Everything else has a bootstrap over
*subjects*, because the probes of one subject are not independent: a sample draws as many subjects as there are, with
replacement, and a subject drawn twice counts twice. Nothing is searched again, as the gallery stays what it is: a
`Statistic` takes how often each subject was drawn, for many samples at once. Two systems are compared on the same draws
(paired), and for a share by McNemar's exact test on the probes where they disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError
from mdfpipe.store.results import FEWEST_SUBJECTS
from mdfpipe.store.tables import NumberNote

CONFIDENCE: Final = 0.95
SAMPLES: Final = 2000
CELLS: Final = 1 << 22  # of a matrix of samples by subjects or scores, at a time: 32 MB of float64

B8 = NDArray[np.bool_]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Statistic = Callable[[F64], F64]
"""(b, S) how often each of S subjects was drawn -> (b,) the number of each sample; NaN where it is undefined."""


# -- a share k of n


def wilson(k: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share k of n (Wilson 1927; Newcombe 1998, method 3); (0, 1) where n is 0.

    It takes the n as independent: with several probes a subject it is too narrow, and `bootstrap` is the one to ask.

    >>> tuple(round(bound, 4) for bound in wilson(15, 148))
    (0.0624, 0.1605)
    """
    from scipy.special import ndtri  # scipy.stats takes a second to import

    _check_share(k, n, confidence)
    if not n:
        return 0.0, 1.0
    z = float(ndtri(0.5 + confidence / 2))
    middle, half = k + z * z / 2, z * float(np.sqrt(k * (n - k) / n + z * z / 4))
    low, high = (middle - half) / (n + z * z), (middle + half) / (n + z * z)
    return (max(low, 0.0) if k else 0.0), (min(high, 1.0) if k < n else 1.0)


def _check_share(k: int, n: int, confidence: float) -> None:
    if not 0 <= k <= n:
        raise DataError(f"interval of a share: expected 0 <= k <= n, got k {k} of n {n}; count hits among the probes")
    _check_confidence(confidence)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise DataError(f"interval: expected a confidence between 0 and 1, got {confidence}; 0.95 is usual")


# -- statistics of a sample of subjects


def subject_codes(*subjects: Any) -> tuple[list[I64], int]:
    """Each array of subject names as codes 0..S-1 of the sorted names of all arrays; and S.

    >>> subject_codes(["b", "a", "b"], ["c", "a"])
    ([array([1, 0, 1]), array([2, 0])], 3)
    """
    arrays = [np.asarray(names) for names in subjects]
    names, codes = np.unique(np.concatenate(arrays), return_inverse=True)
    cuts = np.cumsum([len(array) for array in arrays])[:-1]
    return [part.astype(np.int64) for part in np.split(codes.reshape(-1), cuts)], len(names)


def mean_of(values: Any, codes: I64, subjects: int) -> Statistic:
    """The mean over probes: Rank-r (values: found or not), mAP, mINP (values: (n,) each probe's AP or INP).

    codes: (n,) the subject of each probe, 0..subjects-1.

    >>> half = mean_of([1, 0, 0], np.array([0, 1, 1]), 2)
    >>> half(np.array([[1.0, 1.0], [2.0, 0.0]]))
    array([0.33333333, 1.        ])
    """
    numbers = np.asarray(values, np.float64)
    check_items(numbers, codes, subjects)
    sums, sizes = np.bincount(codes, numbers, subjects), np.bincount(codes, minlength=subjects).astype(np.float64)

    def statistic(counts: F64) -> F64:
        return ratio(counts @ sums, counts @ sizes)

    return statistic


def ratio(above: F64, below: F64) -> F64:
    """One by the other; NaN where there is nothing to divide by."""
    found: F64 = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found


def check_items(values: F64, codes: I64, subjects: int) -> None:
    """Raise DataError unless each item has a number and a subject."""
    if values.ndim != 1 or len(values) != len(codes) or np.isnan(values).any():
        raise DataError(
            f"bootstrap: expected one number and one subject per item, none NaN, got {values.shape} numbers and "
            f"{codes.shape} subjects; leave out what has no number and say so"
        )
    if len(codes) and not (codes.min() >= 0 and codes.max() < subjects):
        raise DataError(
            f"bootstrap: expected subject codes 0..{subjects - 1}, got {codes.min()}..{codes.max()}; see subject_codes"
        )


# -- several trainings of one system


def over_seeds(parts: Sequence[Statistic], subjects: int, before: int = 0) -> Statistic:
    """Mean of a number over the trainings of one system.

    parts: the statistic of each training, of the same subjects. Takes (b, subjects + ...) draws: the subjects, then how
    often each training was drawn, of this system after `before` columns of others. One training is always drawn.
    """
    if len(parts) == 1:
        return lambda counts: parts[0](counts[:, :subjects])

    def statistic(counts: F64) -> F64:
        drawn = counts[:, subjects + before : subjects + before + len(parts)]
        values = np.stack([part(counts[:, :subjects]) for part in parts], axis=1)
        found: F64 = (values * drawn).sum(axis=1) / drawn.sum(axis=1)
        return found

    return statistic


def seed_draws(trainings: int, samples: int, rng: np.random.Generator) -> F64:
    """(samples, trainings) how often each training was drawn: one fewer than there are, with replacement.

    With all of them drawn, the variance of a mean over few would be too small by (n - 1) / n; so it is right (McCarthy
    and Snowden 1985; Rao and Wu 1988). One training is no choice.
    """
    if trainings == 1:
        return np.ones((samples, 1))
    drawn = rng.integers(0, trainings, (samples, trainings - 1)) + trainings * np.arange(samples)[:, None]
    return np.bincount(drawn.ravel(), minlength=samples * trainings).reshape(samples, trainings).astype(np.float64)


# -- the bootstrap


@dataclass(frozen=True)
class Interval:
    """A number, its interval, and of how many samples. undefined: samples left out, where it could not be computed."""

    value: float
    low: float
    high: float
    samples: int
    undefined: int


@dataclass(frozen=True)
class Difference:
    """First system minus second, its interval, and a two-sided p."""

    value: float
    low: float
    high: float
    p: float
    samples: int
    undefined: int


def subject_draws(subjects: int, samples: int, rng: np.random.Generator) -> Iterator[F64]:
    """(b, subjects) how often each subject was drawn, in blocks; the samples do not depend on the size of a block."""
    for rows in blocks(samples, subjects):
        size = rows.stop - rows.start
        drawn = rng.integers(0, subjects, (size, subjects)) + subjects * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * subjects).reshape(size, subjects).astype(np.float64)


def bootstrap(
    statistic: Statistic,
    subjects: int,
    rng: np.random.Generator,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seeds: Sequence[int] = (),
) -> Interval:
    """The percentile interval of a statistic over samples of subjects (Efron and Tibshirani 1993, 13.3).

    seeds: the trainings that the statistic is `over_seeds` of: they are drawn too, independently of the subjects (Owen
    2007, the pigeonhole bootstrap).
    Raises DataError with fewer than two subjects, and where the number of all subjects is undefined.
    """
    value, found = _sampled(statistic, subjects, rng, samples, confidence, seeds)
    low, high = percentiles(found, confidence)
    return Interval(value, low, high, len(found), samples - len(found))


def over_subjects(
    statistic: Statistic, subjects: int, rng: np.random.Generator, seeds: Sequence[int] = ()
) -> dict[str, Any]:
    """Columns low, high, interval and notes of METRICS, by a bootstrap; of one subject there is none."""
    if subjects < 2:
        return no_interval(NumberNote.ONE_SUBJECT)
    found = bootstrap(statistic, subjects, rng, seeds=seeds)
    doubts = {
        NumberNote.FEW_SUBJECTS: subjects < FEWEST_SUBJECTS,
        NumberNote.NO_WIDTH: found.low == found.high,
        NumberNote.LOST_SAMPLES: found.undefined > SAMPLES / 100,
    }
    notes = [note for note, is_so in doubts.items() if is_so]
    return {"low": found.low, "high": found.high, "interval": "bootstrap", "notes": notes}


def no_interval(why: NumberNote) -> dict[str, Any]:
    """The same columns where there is no interval."""
    return {"low": None, "high": None, "interval": None, "notes": [why]}


def paired_bootstrap(
    first: Statistic,
    second: Statistic,
    subjects: int,
    rng: np.random.Generator,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seeds: Sequence[int] = (),
) -> Difference:
    """First minus second on the same draws: statistics of the probes that both have, with one coding of subjects.

    seeds: the trainings of the first, and of the second. Those of two systems are drawn independently.

    p: twice the smaller share of samples on one side of 0, each share with one sample added (Davison and Hinkley 1997,
    4.2), at most 1: 1 for equal systems, at least 2 / (samples + 1).
    """
    value, found = _sampled(lambda counts: first(counts) - second(counts), subjects, rng, samples, confidence, seeds)
    low, high = percentiles(found, confidence)
    side = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(found) + 1))
    return Difference(value, low, high, p, len(found), samples - len(found))


def _sampled(
    statistic: Statistic,
    subjects: int,
    rng: np.random.Generator,
    samples: int,
    confidence: float,
    seeds: Sequence[int],
) -> tuple[float, F64]:
    """The statistic of all subjects, each once; and of the samples in which it is defined."""
    _check_confidence(confidence)
    if subjects < 2 or samples < 2:
        raise DataError(
            f"bootstrap: expected two or more subjects and samples, got {subjects} subjects and {samples} samples; "
            "one subject says nothing about others"
        )
    value = float(statistic(np.ones((1, subjects + sum(seeds))))[0])
    drawn = np.hstack([np.ones((samples, 0)), *(seed_draws(count, samples, rng) for count in seeds)])
    done, parts = 0, []
    for counts in subject_draws(subjects, samples, rng):
        parts.append(statistic(np.hstack([counts, drawn[done : done + len(counts)]])))
        done += len(counts)
    found = np.concatenate(parts)
    found = found[~np.isnan(found)]
    if np.isnan(value) or not len(found):
        raise DataError(
            f"bootstrap: the number is undefined for all {subjects} subjects together: it has nothing to count; "
            "are there mated and non-mated probes?"
        )
    return value, found


def percentiles(found: F64, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The bounds that leave out the same share of samples on both sides."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices over `rows` with at most CELLS cells of a matrix that wide."""
    step = max(1, CELLS // max(width, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


# -- two systems on the same probes


@dataclass(frozen=True)
class McNemar:
    """Two systems on n probes. first_only, second_only: probes that one alone found. p: exact, two-sided."""

    n: int
    first_only: int
    second_only: int
    p: float


def mcnemar_p(first_only: int, second_only: int) -> float:
    """McNemar's exact two-sided p from the discordant counts: min(1, 2 P(X <= the smaller)), X ~ Bin(both, 1/2).

    1 where the systems never disagree. (McNemar 1947; the "exact conditional test" of Fagerland et al. 2013. Counted in
    whole numbers, so that no digit of it is approximate.)

    >>> mcnemar_p(1, 5), mcnemar_p(0, 1)  # 2 (1 + 6) / 64
    (0.21875, 1.0)
    """
    if min(first_only, second_only) < 0:
        raise DataError(f"McNemar: expected counts of probes, got {first_only} and {second_only}; neither is negative")
    smaller, both = min(first_only, second_only), first_only + second_only
    ways, tail = 1, 1  # of choosing 0 of `both`; of at most 0
    for chosen in range(1, smaller + 1):
        ways = ways * (both - chosen + 1) // chosen
        tail += ways
    return 1.0 if 2 * tail >= 2**both else 2 * tail / 2**both


def mcnemar(first: Any, second: Any) -> McNemar:
    """The test on (n,) found or not by two systems, the same probe at the same place.

    The probes are taken as independent: one a subject, as in the paper; else ask `paired_bootstrap`.

    >>> mcnemar([1, 1, 0, 0], [1, 0, 0, 0])
    McNemar(n=4, first_only=1, second_only=0, p=1.0)
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"McNemar: expected the same probes of both systems, got {a.shape} and {b.shape}; see common")
    for values in (a, b):
        if not np.isin(values, (0, 1)).all():
            raise DataError(
                f"McNemar: expected found or not (0 or 1) by probe, got {values[~np.isin(values, (0, 1))][0]}"
            )
    found, other = a.astype(bool), b.astype(bool)
    only, only_other = int((found & ~other).sum()), int((other & ~found).sum())
    return McNemar(len(found), only, only_other, mcnemar_p(only, only_other))
