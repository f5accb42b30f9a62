"""Benchmark: the vectors of one system under a published protocol, trial by trial, to curves, mAP and mINP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation.benchmarks import Benchmark, BenchmarkImages, Direction, Trial
from mdfpipe.evaluation.comparing import BLOCK_BYTES, F32, F64, I64, Array, Flags, Measure
from mdfpipe.evaluation.listing import Listing
from mdfpipe.evaluation.measures.placing import Placing, shares
from mdfpipe.evaluation.rerank import Rerank
from mdfpipe.evaluation.table import depth_of

DEPTH: Final = 20  # ranks of the curves
LARGEST: Final = 1e37  # square of a length: of its products with others float32 holds the sums


@dataclass(frozen=True, eq=False)
class BenchmarkOutcome:
    """What a system reaches in one direction of a benchmark. T trials of Q queries, of the same subjects in each.

    rank: (T, Q) of the first mate, from 1, in identities or images as the protocol counts; 0 where it is not found.
    precision, penalty: (T, Q) average precision, and mates / place of the last one. valid: (T, Q) the queries that
    count: those that have a mate in the protocol's gallery, whether or not either of them has a vector.
    failed_queries, failed_gallery: images without a vector, each once; such a query is a miss, such a gallery image is
    in no list. listing: the lists of the first trial. left_out: why -> rows that have no part in the protocol.
    """

    protocol: str
    gallery_domain: str
    probe_domain: str
    measure: Measure
    rerank: str
    subject: Array
    rank: I64
    precision: F64
    penalty: F64
    valid: Flags
    gallery_images: I64
    gallery_identities: I64
    failed_queries: int
    failed_gallery: int
    listing: Listing
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def n(self) -> I64:
        """Valid queries of each trial: (T,)."""
        return np.asarray(self.valid.sum(axis=1), np.int64)

    @property
    def cmc(self) -> F64:
        """(T, 20) shares of valid queries whose first mate is within rank 1..20."""
        return np.array([shares(rank, valid, DEPTH) for rank, valid in zip(self.rank, self.valid, strict=True)])

    def per_query(self, metric: str) -> F64:
        """(T, Q) what each query adds to rank-K, map or minp; 0 where it is not valid. Raises ProtocolError."""
        depth = depth_of(metric)
        if depth is not None:
            return np.asarray((self.rank > 0) & (self.rank <= depth), np.float64)
        if metric not in ("map", "minp"):
            raise ProtocolError(f"{self.protocol}: expected rank-K, map or minp, got {metric}")
        return self.precision if metric == "map" else self.penalty

    def of(self, metric: str) -> F64:
        """(T,) the number of each trial, 0..1."""
        return np.asarray((self.per_query(metric) * self.valid).sum(axis=1) / self.n, np.float64)


def evaluate_benchmark(
    benchmark: Benchmark,
    rows: pa.Table,
    vectors: F32,
    usable: Flags,
    measure: Measure = "cosine",
    *,
    data: Path | None = None,
    rerank: Rerank | None = None,
) -> list[BenchmarkOutcome]:
    """Each direction of a benchmark.

    rows: of the test split. vectors: (N, D), a row each; usable: (N,) whether a row has one, as a crop that does not
    decode has none. cosine: of unit vectors; euclidean: of vectors as they are. data: the data root. Raises
    ProtocolError where the rows do not fit the protocol, DataError for vectors that cannot be compared, ConfigError.
    """
    if vectors.ndim != 2 or len(vectors) != rows.num_rows or usable.shape != (rows.num_rows,):
        raise DataError(f"benchmark: expected {rows.num_rows} vectors, got {vectors.shape} and {usable.shape}")
    images = BenchmarkImages.of(rows)
    directions = benchmark.directions(images, data)
    return [_Run(benchmark, images, one, vectors, usable, measure, rerank).outcome() for one in directions]


class _Run:
    """One direction: the arrays of its outcome, filled trial by trial."""

    def __init__(
        self,
        benchmark: Benchmark,
        images: BenchmarkImages,
        direction: Direction,
        vectors: F32,
        usable: Flags,
        measure: Measure,
        rerank: Rerank | None,
    ) -> None:
        self.benchmark, self.images, self.direction = benchmark, images, direction
        self.vectors, self.usable, self.measure, self.rerank = vectors, usable, measure, rerank
        self._square: F32 | None = None

    def outcome(self) -> BenchmarkOutcome:
        """Search every trial."""
        trials, person = self.direction.trials, self.images.person
        placed = [self._placing(trial) for trial in trials]
        listing = Listing(trials[0], placed[0].order, person)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            self.pool = pool
            for _, pairs in groupby(zip(trials, placed, strict=True), key=lambda pair: pair[0].queries.tobytes()):
                for block, first, shown in self._blocks(list(pairs)):
                    work = [
                        (placing, block, places, first, at, listing if placing is placed[0] else None)
                        for places, placing in shown
                        for at in range(0, block.shape[1], placing.chunk)
                    ]
                    list(pool.map(lambda one: _look(*one), work))
        if self._square is not None:
            listing.as_distances(self._square)
        for trial, placing in zip(trials, placed, strict=True):
            if not placing.valid.any():
                raise ProtocolError(f"{self.benchmark.label}: no query has a mate in the gallery")
            lost = ~self.usable[trial.queries]
            placing.rank[lost] = 0
            placing.precision[lost] = placing.penalty[lost] = 0
        queries = np.array([trial.queries for trial in trials])
        return BenchmarkOutcome(
            self.benchmark.label,
            self.direction.gallery_domain,
            self.direction.probe_domain,
            self.measure,
            str(self.rerank) if self.rerank else "off",
            self.images.subject[queries[0]],
            np.array([placing.rank for placing in placed]),
            np.array([placing.precision for placing in placed]),
            np.array([placing.penalty for placing in placed]),
            np.array([placing.valid for placing in placed]),
            np.array([len(trial.gallery) for trial in trials]),
            np.array([len(np.unique(person[trial.gallery])) for trial in trials]),
            int((~self.usable[np.unique(queries)]).sum()),
            int((~self.usable[np.unique(np.concatenate([trial.gallery for trial in trials]))]).sum()),
            listing,
            dict(self.direction.left_out),
        )

    def _placing(self, trial: Trial) -> Placing:
        people = self.images.subject[trial.gallery]
        if (people == people[:1]).all():
            raise ProtocolError(
                f"{self.benchmark.label}: expected two people or more in the gallery, got "
                f"{people[0] if len(people) else 'nobody'} alone: any answer is right"
            )
        gallery, queries = (
            (self.images.person[rows], self.images.camera[rows]) for rows in (trial.gallery, trial.queries)
        )
        missing = ~self.usable[trial.gallery]
        return Placing(gallery, queries, missing, self.benchmark.removal, distinct=self.benchmark.distinct)

    def _blocks(self, pairs: list[tuple[Trial, Placing]]) -> Iterator[tuple[F32, int, list[tuple[I64, Placing]]]]:
        """Yield scores (rows, q), the first query, and each trial's rows, for trials with the same queries."""
        queries = pairs[0][0].queries
        if self.rerank is not None:
            for trial, placing in pairs:
                yield self._reranked(self.rerank, trial), 0, [(placing.order, placing)]
            return
        union = np.unique(np.concatenate([trial.gallery for trial, _ in pairs]))
        gallery, probes = self._sides(union, queries)
        shown = [(np.searchsorted(union, trial.gallery)[placing.order], placing) for trial, placing in pairs]
        square = np.einsum("ij,ij->i", gallery, gallery) if self.measure == "euclidean" else None
        if square is not None and self._square is None:  # the first queries are those of the first trial
            self._square = np.einsum("ij,ij->i", probes, probes)
        step = max(BLOCK_BYTES // (4 * len(union)), 1)
        for first in range(0, len(queries), step):
            block = gallery @ probes[first : first + step].T
            if square is not None:  # less the query's own square, which is the same for its whole list
                block *= 2
                block -= square[:, None]
            yield block, first, shown

    def _reranked(self, rerank: Rerank, trial: Trial) -> F32:
        """(G, Q) negative distances; 0 for an image without a vector, which is in no list."""
        gallery, probes = self._sides(trial.gallery, trial.queries)
        has = self.usable[trial.gallery], self.usable[trial.queries]
        found = np.zeros((len(gallery), len(probes)), np.float32)
        found[np.ix_(*has)] = -rerank.distances(probes[has[1]], gallery[has[0]]).T
        return found

    def _sides(self, gallery: I64, queries: I64) -> tuple[F32, F32]:
        """The vectors of both sides, ready to be multiplied: of length 1, or about the gallery's mean."""
        sides: list[F32] = list(self.pool.map(self._ready, (gallery, queries)))
        if self.measure == "euclidean":
            centre = sides[0].mean(axis=0, dtype=np.float64).astype(np.float32)
            sides = [side - centre for side in sides]
        return sides[0], sides[1]

    def _ready(self, rows: I64) -> F32:
        own = np.asarray(self.vectors[rows], np.float32)
        own[~self.usable[rows]] = 0
        square = np.einsum("ij,ij->i", own, own)
        if not square.max() < LARGEST:
            raise DataError(f"vectors: expected lengths whose squares are below {LARGEST:g}, got NaN or more")
        if self.measure == "cosine":
            zero = self.usable[rows] & (square == 0)
            if zero.any():
                raise DataError(f"vectors: {int(zero.sum())} are zero and have no cosine; embed them again")
            own /= np.sqrt(np.where(square > 0, square, 1))[:, None]
        return own


def _look(placing: Placing, block: F32, places: I64, first: int, at: int, listing: Listing | None) -> None:
    scores = np.ascontiguousarray(block[:, at : at + placing.chunk][places])
    placing.look(scores, first + at)
    if listing is not None:
        listing.take(scores, first + at)


def mean_and_spread(values: Sequence[float] | F64) -> tuple[float, float | None]:
    """The mean, and the standard deviation of a sample; none of a single value.

    >>> mean_and_spread([0.25, 0.75]), mean_and_spread([0.5])
    ((0.5, 0.3535533905932738), (0.5, None))
    """
    found = np.asarray(values, np.float64)
    return float(found.mean()), float(found.std(ddof=1)) if len(found) > 1 else None
