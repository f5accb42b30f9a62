"""Fusion: one answer of several systems, such as face and body, by their vectors or by their scores; on common probes.

Systems are compared, and fused, on the probes that all of them have, and `Coverage` says how many those are: the
paper's Table I has 63 probes by body and 32 by face, which are not the same people.

By vectors: unit vectors side by side, each times the root of its weight, so that the cosine of fused vectors is the
weighted mean of the cosines. By scores: each system's scores on one scale, then their weighted mean (sum rule; Kittler
et al. 1998; scales of Jain, Nandakumar and Ross 2005). Scale and weights come from training subjects only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError, ProtocolError, counted
from mdfpipe.store.templates import Templates, unit

Scale = Literal["z-norm", "min-max"]
STEPS: Final = 20  # of the grid of weights: 0, 0.05, .. 1

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_TEXT: Final = ("subject", "domain", "split", "role", "item")


# -- common probes


@dataclass(frozen=True)
class Coverage:
    """How many probes each system has, how many all of them have, and how many any of them has."""

    counts: dict[str, int]
    common: int
    union: int

    @property
    def line(self) -> str:
        """One line to print with every number.

        >>> Coverage({"body": 63, "face": 32}, 31, 64).line
        '31 of 64 probes are common (48.4 %): body 63, face 32'
        """
        share = f" ({100 * self.common / self.union:.1f} %)" if self.union else ""
        systems = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        return f"{self.common} of {self.union} probes are common{share}: {systems}"


@dataclass(frozen=True)
class Common:
    """keys: of the probes that all systems have, sorted. positions: (n,) where each system has them."""

    keys: tuple[str, ...]
    positions: dict[str, I64]
    coverage: Coverage


def common(keys: Mapping[str, Sequence[str]]) -> Common:
    """The probes that all systems have. keys: system -> its probes, such as `Templates.key`. Raises DataError.

    >>> found = common({"body": ["b", "a", "c"], "face": ["c", "b"]})
    >>> found.keys, found.positions
    (('b', 'c'), {'body': array([0, 2]), 'face': array([1, 0])})
    """
    if not keys:
        raise DataError("common probes: expected one or more systems, got none; name them")
    places = {system: {key: place for place, key in enumerate(given)} for system, given in keys.items()}
    for system, given in keys.items():
        if len(places[system]) != len(given):
            twice = next(key for place, key in enumerate(given) if places[system][key] != place)
            raise DataError(f"common probes: {system} has {twice} twice; expected each probe once")
    everywhere = sorted(set.intersection(*(set(of) for of in places.values())))
    union = len(set.union(*(set(of) for of in places.values())))
    positions = {system: np.array([of[key] for key in everywhere], np.int64) for system, of in places.items()}
    counts = {system: len(of) for system, of in places.items()}
    return Common(tuple(everywhere), positions, Coverage(counts, len(everywhere), union))


# -- by vectors


def concatenate(parts: Sequence[F32], weights: Sequence[float]) -> F32:
    """(n, D1), (n, D2), .. and a weight each -> (n, D1 + D2 + ..) of length 1. Raises DataError.

    The cosine of two fused vectors is the mean of the parts' cosines by `weights`, which need not add up to 1.

    >>> concatenate([np.array([[2, 0]], np.float32), np.array([[0, 5]], np.float32)], [9, 16])
    array([[0.6, 0. , 0. , 0.8]], dtype=float32)
    """
    shares = _shares(weights, len(parts))
    if len({len(part) for part in parts}) != 1:
        raise DataError(
            f"fusion: expected as many vectors of each system, got {[len(part) for part in parts]}; see common"
        )
    for number, part in enumerate(parts):
        wrong = np.flatnonzero(~(np.isfinite(part).all(axis=1) & part.any(axis=1)))
        if len(wrong):
            raise DataError(f"fusion: system {number}: vector {wrong[0]} is zero or not finite; leave failures out")
    scaled = [np.float32(np.sqrt(share)) * unit(part) for share, part in zip(shares, parts, strict=True)]
    return np.concatenate(scaled, axis=1)


def fuse_templates(parts: Mapping[str, Templates], weights: Mapping[str, float]) -> tuple[Templates, Coverage]:
    """Templates of modality `fused`, of every key that any part has; and the coverage of what is enrolled in all parts.

    parts: system -> its templates of one modality. A template that one part lacks, or failed to enrol, failed: so under
    `exclude` the fused system is scored on common probes, and under `miss` on all of them. Raises DataError.
    """
    _same_names(parts, weights)
    for system, part in parts.items():
        if len(set(part.modality.tolist())) > 1:
            raise DataError(f"fusion: system {system} has several modalities; choose with where(modality=...)")
    whole = {system: part.take(part.enrolled) for system, part in parts.items()}
    both = common({system: part.key for system, part in whole.items()})
    chosen = [whole[system].take(both.positions[system]) for system in parts]
    key, first = np.unique(np.concatenate([np.array(part.key, np.str_) for part in parts.values()]), return_index=True)
    text = [np.concatenate([getattr(part, name) for part in parts.values()])[first] for name in _TEXT]
    place = np.searchsorted(key, np.array(both.keys, np.str_))  # of what is enrolled in all

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        spreaded = np.zeros((len(key), *values.shape[1:]), values.dtype)
        spreaded[place] = values
        return spreaded

    vectors = spread(concatenate([part.vectors for part in chosen], [weights[system] for system in parts]))
    crops, media, unusable = (
        spread(np.sum([getattr(part, name) for part in chosen], axis=0)) for name in ("crops", "media", "unusable")
    )
    subject, domain, split, role, item = text
    modality = np.full(len(key), "fused")
    fused = Templates(vectors, subject, domain, modality, split, role, item, crops, media, unusable)
    return fused.take(np.lexsort((item, subject, split, role, domain))), both.coverage


# -- by scores


@dataclass(frozen=True)
class Normaliser:
    """Puts scores on a common scale: (score - shift) / span. Not clipped: a better score stays better."""

    scale: Scale
    shift: float
    span: float

    def __call__(self, scores: Any) -> F64:
        """Scores of any shape; -inf (failure to enrol) stays."""
        normalised: F64 = (np.asarray(scores, np.float64) - self.shift) / self.span
        return normalised


def fit_normaliser(scores: Any, scale: Scale) -> Normaliser:
    """z-norm: mean 0 and standard deviation 1; min-max: 0 to 1; over the finite training scores. Raises DataError.

    >>> fit_normaliser([1.0, 3.0], "z-norm"), fit_normaliser([1.0, 3.0], "min-max")
    (Normaliser(scale='z-norm', shift=2.0, span=1.0), Normaliser(scale='min-max', shift=1.0, span=2.0))
    """
    given = np.asarray(scores, np.float64)
    finite = given[np.isfinite(given)]
    if len(finite) < 2 or finite.min() == finite.max():
        raise DataError(f"fusion: {scale}: expected different training scores, got {len(finite)} finite ones")
    if scale == "z-norm":
        return Normaliser(scale, float(finite.mean()), float(finite.std()))
    return Normaliser(scale, float(finite.min()), float(finite.max() - finite.min()))


@dataclass(frozen=True)
class ScoreFusion:
    """A weighted mean of normalised scores. value: what the measure said of the training subjects."""

    normalisers: dict[str, Normaliser]
    weights: dict[str, float]
    value: float

    def __call__(self, scores: Mapping[str, Any]) -> F64:
        """System -> (P, G) scores of the same probes and gallery, more is better -> (P, G). Raises DataError."""
        _same_names(scores, self.weights)
        return _weighted({name: self.normalisers[name](given) for name, given in scores.items()}, self.weights)


def fit_score_fusion(
    scores: Mapping[str, Any],
    measure: Callable[[F64], float],
    *,
    training_subjects: Sequence[str],
    test_subjects: Sequence[str],
    scale: Scale = "z-norm",
    steps: int = STEPS,
) -> ScoreFusion:
    """Scales, and the best weights of a grid, on training subjects. Raises DataError, ProtocolError.

    scores: system -> (P, G) of the training subjects. measure: (P, G) fused scores -> a number, more is better, such as
    Rank-1 or mAP. steps: the grid is 0, 1 / steps, .. 1 for each system. Among equal numbers the most even weights win,
    then the greater weight for the system named first.
    training_subjects: of these probes and gallery; test_subjects: of what will be fused. They must not share anybody.
    """
    shared = sorted(set(training_subjects) & set(test_subjects))
    if shared:
        raise ProtocolError(
            f"fusion: {counted(len(shared), 'subject')} ({', '.join(shared[:5])}) in training and in test: weights "
            "would be chosen on test subjects; choose them on the split train"
        )
    if not scores or steps < 1:
        raise DataError(f"fusion: expected systems and a grid, got {len(scores)} systems and {steps} steps; name them")
    normalisers = {name: fit_normaliser(given, scale) for name, given in scores.items()}
    normalised = {name: normalisers[name](given) for name, given in scores.items()}
    best: tuple[tuple[float, int, tuple[int, ...]], dict[str, float]] | None = None
    for parts in _simplex(len(scores), steps):
        weights = {name: part / steps for name, part in zip(scores, parts, strict=True)}
        value = float(measure(_weighted(normalised, weights)))
        if np.isnan(value):
            raise DataError(f"fusion: the measure is NaN at weights {weights}; are there mated training probes?")
        rank = value, -sum(part * part for part in parts), parts
        if best is None or rank > best[0]:
            best = rank, weights
    assert best is not None
    return ScoreFusion(normalisers, best[1], best[0][0])


def _weighted(scores: Mapping[str, F64], weights: Mapping[str, float]) -> F64:
    """A system of weight 0 says nothing, not even -inf."""
    shapes = {name: given.shape for name, given in scores.items()}
    if len(set(shapes.values())) != 1:
        raise DataError(f"fusion: expected the same probes and gallery of all systems, got {shapes}; see common")
    shares = dict(zip(weights, _shares(list(weights.values()), len(scores)), strict=True))
    fused: F64 = np.sum([shares[name] * given for name, given in scores.items() if shares[name]], axis=0)
    return fused


def _shares(weights: Sequence[float], systems: int) -> list[float]:
    """Weights that add up to 1."""
    given = np.asarray(weights, np.float64)
    if len(given) != systems or not systems or not (np.isfinite(given) & (given >= 0)).all() or not given.any():
        raise DataError(
            f"fusion: expected a weight of 0 or more for each of {systems} systems, not all 0, got {weights}"
        )
    shares: list[float] = (given / given.sum()).tolist()
    return shares


def _same_names(given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if set(given) != set(expected):
        raise DataError(f"fusion: expected the systems {', '.join(expected)}, got {', '.join(given) or 'none'}")


def _simplex(systems: int, steps: int) -> Iterator[tuple[int, ...]]:
    """Every way to share `steps` among systems.

    >>> list(_simplex(2, 2))
    [(0, 2), (1, 1), (2, 0)]
    """
    if systems == 1:
        yield (steps,)
        return
    for part in range(steps + 1):
        for rest in _simplex(systems - 1, steps - part):
            yield (part, *rest)
