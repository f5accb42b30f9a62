"""Comparing: vectors, or scores that were given, as blocks of scores; and which pairs of probe and gallery count.

A score is a similarity: greater is more alike (Euclidean: the negative distance). The full matrix never exists.
Matrix products in float32 are fast, but their last bits depend on the library and on a row's place. What is decided
by such bits (ties) is decided again from the vectors in float64: `exact`, `near`, `reaches`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdfpipe.errors import DataError, ProtocolError

Measure = Literal["cosine", "euclidean"]
Array = NDArray[Any]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

BLOCK_BYTES: Final = 64 << 20  # of scores from one matrix product
PAIRS: Final = 2048  # pairs of vectors that are compared in float64 at a time
EQUAL: Final = 1e-12  # cosines, or shares of a distance, that differ by less in float64 are a tie
NAMED: Final = 5  # subjects that a message names


@dataclass(frozen=True, eq=False)
class Entries:
    """One side of a search, templates or single crops. Raises DataError.

    vectors: (n, D) float32, finite, or none where scores are given. subjects: (n,) names or numbers.
    codes: (n,) whole numbers that a `Removal` uses (camera, medium), or none. side: what messages call it.
    """

    side: Literal["gallery", "probes"]
    subjects: Array
    vectors: F32 | None = None
    codes: I64 | None = None

    def __post_init__(self) -> None:
        subjects = np.asarray(self.subjects)
        if subjects.dtype == object:
            subjects = subjects.astype(str)
        if subjects.ndim != 1 or not len(subjects):
            raise DataError(f"{self.side}: expected subjects (n,) with n > 0, got {subjects.shape}; check the protocol")
        object.__setattr__(self, "subjects", subjects)
        if self.codes is not None:
            codes = np.asarray(self.codes)
            if codes.shape != subjects.shape or codes.dtype.kind not in "iu":
                raise DataError(f"{self.side}: expected whole codes {subjects.shape}, got {codes.dtype} {codes.shape}")
            object.__setattr__(self, "codes", codes.astype(np.int64))
        if self.vectors is None:
            return
        vectors = np.ascontiguousarray(self.vectors, np.float32)
        if vectors.ndim != 2 or len(vectors) != len(subjects) or not vectors.shape[1]:
            raise DataError(f"{self.side}: expected vectors ({len(subjects)}, D), got {vectors.shape}")
        finite = np.isfinite(vectors.min(axis=1)) & np.isfinite(vectors.max(axis=1))
        if not finite.all():
            raise DataError(f"{self.side}: {self.named(~finite, 'vectors')} hold NaN or infinity; embed them again")
        object.__setattr__(self, "vectors", vectors)

    def __len__(self) -> int:
        return len(self.subjects)

    def __repr__(self) -> str:
        width = None if self.vectors is None else self.vectors.shape[1]
        return f"Entries({self.side}, n={len(self)}, D={width}, subjects={len(np.unique(self.subjects))})"

    def named(self, which: Flags, noun: str) -> str:
        """A count and some subjects, for messages: "2 of 9 probes (of S1, S7)"."""
        names = list(dict.fromkeys(str(name) for name in self.subjects[which]))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return f"{int(which.sum())} of {len(self)} {noun} (of {', '.join(names[:NAMED])}{more})"


@dataclass(frozen=True)
class Removal:
    """A rule that leaves pairs of probe and gallery entry out of the search. Its name is printed with every number.

    of: `mates` leaves out pairs of one subject only (Market-1501: same person, same camera), `everyone` all of them
    (SYSU-MM01: same place). pairs: (probe code, gallery code) that are left out; none: where the codes are equal.
    """

    name: str
    of: Literal["mates", "everyone"] = "mates"
    pairs: tuple[tuple[int, int], ...] | None = None

    def matches(self, probe: ArrayLike, gallery: ArrayLike) -> Flags:
        """Which pairs of codes are left out; shapes broadcast.

        >>> Removal("same place", "everyone", ((3, 2),)).matches([3, 3, 6], [2, 1, 2])
        array([ True, False, False])
        """
        p, g = np.asarray(probe), np.asarray(gallery)
        if self.pairs is None:
            return np.asarray(p == g)
        found = np.zeros(np.broadcast_shapes(p.shape, g.shape), bool)
        for one, other in self.pairs:
            found |= (p == one) & (g == other)
        return found


@dataclass(frozen=True, eq=False)
class Mates:
    """The mated pairs of some probes, one row each, and what a rule leaves out.

    row: the probe's position among those asked for; column: of the gallery; within: 0, 1, ... of the same row.
    removed_row, removed_column: mated pairs that are left out.
    """

    row: I64
    column: I64
    within: I64
    removed_row: I64
    removed_column: I64


class Pairing:
    """Who is whose mate, and what a rule leaves out. Raises ProtocolError for a gallery of one subject."""

    def __init__(self, gallery: Entries, probes: Entries, removal: Removal | None = None) -> None:
        self.gallery, self.probes, self.removal = gallery, probes, removal
        if (gallery.subjects.dtype.kind == "U") != (probes.subjects.dtype.kind == "U"):
            kinds = f"{gallery.subjects.dtype} and {probes.subjects.dtype}"
            raise DataError(f"subjects: expected names on both sides or numbers on both, got {kinds}")
        if removal is not None and (gallery.codes is None or probes.codes is None):
            raise ProtocolError(f"rule {removal.name!r}: expected codes of gallery and probes, found none to compare")
        names, codes = np.unique(np.concatenate([gallery.subjects, probes.subjects]), return_inverse=True)
        enrolled, self._subject = codes[: len(gallery)], codes[len(gallery) :]
        self.order: I64 = np.argsort(enrolled, kind="stable").astype(np.int64)
        self.start: I64 = np.searchsorted(enrolled[self.order], np.arange(len(names) + 1)).astype(np.int64)
        self.enrolled: I64 = np.diff(self.start)[self._subject]  # (P,) mates before any rule
        self._columns: dict[int, I64] = {}
        sizes = np.diff(self.start)
        if (sizes > 0).sum() < 2:
            raise ProtocolError(
                f"gallery: expected two subjects or more, got {self.gallery.subjects[0]} alone: any answer is right"
            )

    def mates(self, first: int, last: int) -> Mates:
        """The mated pairs of the probes first..last-1, last excluded."""
        count = self.enrolled[first:last]
        row = np.repeat(np.arange(last - first), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        column = self.order[self.start[self._subject[first:last]][row] + within]
        if self.removal is None:
            return Mates(row, column, within, row[:0], row[:0])
        assert self.gallery.codes is not None
        assert self.probes.codes is not None
        gone = self.removal.matches(self.probes.codes[first:last][row], self.gallery.codes[column])
        left = row[~gone]
        count = np.bincount(left, minlength=last - first)
        within = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
        return Mates(left, column[~gone], within, row[gone], column[gone])

    def removed_columns(self, probe: int) -> I64:
        """The gallery entries that a rule for everyone leaves out of this probe's search, mates among them."""
        if self.removal is None or self.removal.of != "everyone":
            return self.order[:0]
        assert self.gallery.codes is not None
        assert self.probes.codes is not None
        code = int(self.probes.codes[probe])
        if code not in self._columns:  # a few codes, asked for by many probes (and threads: the answer is the same)
            found = np.flatnonzero(self.removal.matches(code, self.gallery.codes))
            self._columns[code] = found.astype(np.int64)
        return self._columns[code]

    def blank(self, scores: Array, first: int, mates: Mates) -> tuple[int, int]:
        """Set what is left out to -inf in the scores (b, G) of the probes from `first`: (mated, others) left out."""
        scores[mates.removed_row, mates.removed_column] = -np.inf
        others = 0
        if self.removal is not None and self.removal.of == "everyone":
            for row in range(len(scores)):
                columns = self.removed_columns(first + row)
                scores[row, columns] = -np.inf
                others += len(columns)
            others -= len(mates.removed_row)
        return len(mates.removed_row), others

    def left(self) -> I64:
        """How many mates each probe has once the rule is applied: (P,)."""
        if self.removal is None:
            return self.enrolled
        found = np.zeros(len(self.probes), np.int64)
        step = max(PAIRS * 64 // max(int(self.enrolled.max()), 1), 1)
        for first in range(0, len(found), step):
            last = min(first + step, len(found))
            found[first:last] = np.bincount(self.mates(first, last).row, minlength=last - first)
        return found


class Scores(ABC):
    """Scores (P, G), delivered a block of probes at a time."""

    shape: tuple[int, int]
    block_rows: int

    @abstractmethod
    def block(self, first: int, last: int) -> Array:
        """The scores of the probes first..last-1: (last - first, G), not to be changed; valid until the next call."""

    def near(self, scores: Array, rows: I64) -> Array | None:
        """How far from each of these scores an equal one may lie through rounding; none: scores are what they are.

        scores: (n,) with infinity where there is none; rows: (n,) probes.
        """
        return None

    def exact(self, scores: Array, rows: I64, columns: I64) -> F64:
        """Scores of pairs to report and compare: (n,). scores: the same from a block."""
        return scores.astype(np.float64)

    def reaches(self, others: F64, mates: F64) -> Flags:
        """Whether exact scores are at least as high as exact scores of mates; ties are."""
        return others >= mates


class GivenScores(Scores):
    """A matrix (P, G) of similarities that came from elsewhere, taken as they are. Raises DataError."""

    def __init__(self, scores: ArrayLike) -> None:
        matrix = np.asanyarray(scores)  # a memory map stays one
        if matrix.ndim != 2 or not matrix.size:
            raise DataError(f"scores: expected a matrix (probes, gallery), got {matrix.shape}")
        if matrix.dtype not in (np.float32, np.float64):
            matrix = matrix.astype(np.float64)
        self.matrix, self.shape = matrix, (matrix.shape[0], matrix.shape[1])
        self.block_rows = max(BLOCK_BYTES // (matrix.itemsize * matrix.shape[1]), 1)

    def block(self, first: int, last: int) -> Array:
        """The rows as they were given; raises DataError where they are not finite."""
        rows = self.matrix[first:last]
        if not (np.isfinite(rows.min()) and np.isfinite(rows.max())):
            row, column = np.argwhere(~np.isfinite(rows))[0]
            raise DataError(
                f"scores: expected finite numbers, got {rows[row, column]} for probe {first + row} and gallery entry "
                f"{column}; leave out what could not be compared"
            )
        return rows


class VectorScores(Scores):
    """Cosine, or negative Euclidean distance, of vectors. Raises DataError for a vector without a direction.

    Within a block a Euclidean score is the negative *squared* distance, of vectors centred on the gallery's mean: so
    float32 stays sound where all vectors lie far from the origin. `exact` gives the negative distance.
    """

    def __init__(self, gallery: Entries, probes: Entries, measure: Measure = "cosine") -> None:
        if measure not in get_args(Measure):
            raise DataError(f"measure: expected {' or '.join(get_args(Measure))}, got {measure!r}")
        if gallery.vectors is None or probes.vectors is None:
            raise DataError("search: expected vectors of gallery and probes, got subjects alone")
        width = gallery.vectors.shape[1]
        if width != probes.vectors.shape[1]:
            raise DataError(f"vectors: expected one width, got {width} in gallery, {probes.vectors.shape[1]} in probes")
        self.measure = measure
        self._cosine = measure == "cosine"
        self._gallery, self._probes = gallery.vectors, probes.vectors
        self.shape = len(probes), len(gallery)
        self.block_rows = max(BLOCK_BYTES // (4 * len(gallery)), 1)
        self._rounding = (np.sqrt(width) + 2) * np.finfo(np.float32).eps  # of a sum of products of unit vectors
        if self._cosine:
            self._g_length, self._p_length = (self._lengths(side) for side in (gallery, probes))
            self._g = _scaled(gallery.vectors, self._g_length)
        else:
            self._centre = gallery.vectors.mean(axis=0, dtype=np.float64)
            self._g = self._centred(gallery.vectors)
            with np.errstate(over="ignore"):
                self._g_square = np.einsum("ij,ij->i", self._g, self._g)
            self._p_square = np.zeros(len(probes), np.float32)  # filled block by block
        self._buffer = np.empty((min(self.block_rows, len(probes)), len(gallery)), np.float32)

    def block(self, first: int, last: int) -> Array:
        """One matrix product."""
        out, chosen = self._buffer[: last - first], self._probes[first:last]
        if self._cosine:
            return np.matmul(_scaled(chosen, self._p_length[first:last]), self._g.T, out=out)
        p = self._centred(chosen)
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            square = np.einsum("ij,ij->i", p, p)
            self._p_square[first:last] = square
            np.matmul(p, self._g.T, out=out)
            out *= 2
            out -= self._g_square
            out -= square[:, None]
        if not np.isfinite(out.min()):
            raise DataError("vectors: a squared distance exceeds what float32 holds; scale the vectors down")
        return out

    def near(self, scores: Array, rows: I64) -> Array | None:
        """Rounding of the sum of D products, about sqrt(D) last places of the lengths that are involved."""
        if self._cosine:
            return np.full(scores.shape, self._rounding, np.float32)
        p = np.sqrt(self._p_square[rows])
        reach = p + np.sqrt(np.maximum(-np.where(np.isfinite(scores), scores, 0), 0))  # an equal one is no longer
        return np.asarray(2 * self._rounding * (p * p + reach * reach), np.float32)

    def exact(self, scores: Array, rows: I64, columns: I64) -> F64:
        """In float64 from the vectors as given: the same for the same pair at any place."""
        found = np.empty(len(rows))
        for at in range(0, len(rows), PAIRS):
            r, c = rows[at : at + PAIRS], columns[at : at + PAIRS]
            p, g = self._probes[r].astype(np.float64), self._gallery[c].astype(np.float64)
            if self._cosine:
                p *= g
                found[at : at + PAIRS] = p.sum(axis=1) / (self._p_length[r] * self._g_length[c])
            else:
                p -= g
                p *= p
                found[at : at + PAIRS] = -np.sqrt(p.sum(axis=1))
        return found

    def reaches(self, others: F64, mates: F64) -> Flags:
        """A difference in the last places of float64 is a tie."""
        return others >= mates - (EQUAL if self._cosine else EQUAL * np.abs(mates))

    def _centred(self, vectors: F32) -> F32:
        found = np.empty_like(vectors)
        for at in range(0, len(vectors), PAIRS):
            found[at : at + PAIRS] = vectors[at : at + PAIRS] - self._centre
        return found

    @staticmethod
    def _lengths(side: Entries) -> F64:
        """Euclidean length of each vector in float64: (n,)."""
        assert side.vectors is not None
        found = np.empty(len(side))
        for at in range(0, len(found), PAIRS):
            some = side.vectors[at : at + PAIRS].astype(np.float64)
            some *= some
            found[at : at + PAIRS] = np.sqrt(some.sum(axis=1))
        if not found.all():
            who = side.named(found == 0, "vectors")
            raise DataError(f"{side.side}: {who} are zero and have no cosine; embed them again or leave them out")
        return found


@dataclass(frozen=True, eq=False)
class Affine:
    """What becomes of scores: score * (probe + gallery factor) + probe + gallery term, of all templates of both sides.

    probe: (2, P) factors and terms; gallery: (2, G).
    """

    probe: F64
    gallery: F64

    def at(self, gallery: I64, probes: I64) -> Affine:
        """The same of some templates."""
        return Affine(self.probe[:, probes], self.gallery[:, gallery])

    def then(self, slope: float, offset: float) -> Affine:
        """The same, and then slope * score + offset."""
        return Affine(self.probe * slope + np.array([[0.0], [offset]]), self.gallery * slope)


class AffineScores(Scores):
    """Scores of vectors that were normalised or calibrated: distances, not their squares."""

    def __init__(self, scores: VectorScores, affine: Affine) -> None:
        self.inner, self.affine, self.shape, self.block_rows = scores, affine, scores.shape, scores.block_rows
        self._steepest = affine.probe[0] + affine.gallery[0].max()
        self._probe, self._gallery = (side.astype(np.float32) for side in (affine.probe, affine.gallery))

    def block(self, first: int, last: int) -> Array:
        """One matrix product, changed in place."""
        found = self.inner.block(first, last)
        if self.inner.measure == "euclidean":
            np.sqrt(np.maximum(-found, 0, out=found), out=found)
            np.negative(found, out=found)
        factor, term = (p[first:last, None] + g for p, g in zip(self._probe, self._gallery, strict=True))
        found *= factor
        found += term
        return found

    def near(self, scores: Array, rows: I64) -> Array | None:
        """The rounding of the cosine, as steep as it can get; of a distance none is known."""
        if self.inner.measure == "euclidean":
            return None
        rounding = self.inner.near(scores, rows)
        size = np.abs(np.where(np.isfinite(scores), scores, 0)) + np.abs(self._steepest[rows])
        return np.asarray(rounding * self._steepest[rows] + 8 * np.finfo(np.float32).eps * size, np.float32)

    def exact(self, scores: Array, rows: I64, columns: I64) -> F64:
        """In float64 from the vectors as given."""
        factor, term = (p[rows] + g[columns] for p, g in zip(self.affine.probe, self.affine.gallery, strict=True))
        found: F64 = self.inner.exact(scores, rows, columns) * factor + term
        return found

    def reaches(self, others: F64, mates: F64) -> Flags:
        """A difference in the last places of float64 is a tie."""
        return np.asarray(others >= mates - EQUAL * (np.abs(mates) + self._steepest.max()))


def vector_scores(gallery: Entries, probes: Entries, measure: Measure, affine: Affine | None = None) -> Scores:
    """The scores of vectors, normalised or calibrated where that is asked for."""
    scores = VectorScores(gallery, probes, measure)
    return scores if affine is None else AffineScores(scores, affine)


def _scaled(vectors: F32, lengths: F64) -> F32:
    """Rows of length 1, float32."""
    unit = np.empty_like(vectors)
    for at in range(0, len(vectors), PAIRS):
        unit[at : at + PAIRS] = vectors[at : at + PAIRS] / lengths[at : at + PAIRS, None]
    return unit
