"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), with the quirks of the code that everybody uses (PROTOCOLS 4).

Neighbours are found among queries and gallery together, before any camera rule. Sets of neighbours are sparse
matrices, so that nothing loops over pairs; memory is 4 bytes for each pair of all N = Q + G images, and a block of
keys: 70 MB for one gallery of SYSU-MM01 single-shot, 1.5 GB for Market-1501. Off unless a table asks for it.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from pydantic import AliasChoices, Field

from mdfpipe.config import Config
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation.comparing import F32, I64

BLOCK: Final = 32 << 20  # bytes of keys that are sorted at a time


class Rerank(Config):
    """k-reciprocal re-ranking."""

    k1: int = Field(20, ge=1, description="neighbours that must be mutual")
    k2: int = Field(6, ge=1, description="neighbours over which an image's own neighbourhood is averaged")
    weight: float = Field(
        0.3,
        ge=0,
        le=1,
        validation_alias=AliasChoices("weight", "lambda"),
        description="lambda: the share of the original distance",
    )

    def __str__(self) -> str:
        return f"k1 {self.k1}, k2 {self.k2}, lambda {self.weight:g}"

    def distances(self, queries: F32, gallery: F32) -> F32:
        """Re-ranked distances (Q, G) of vectors (Q, D), (G, D): of unit vectors where the cosine is meant.

        Raises ConfigError where k1 makes no sense for so few images, DataError where all vectors are one.
        """
        both = np.concatenate([queries, gallery])
        square = np.einsum("ij,ij->i", both, both)
        squared = both @ both.T
        squared *= -2
        squared += square
        squared += square[:, None]
        np.maximum(squared, 0, out=squared)
        np.fill_diagonal(squared, 0)
        return self.of_squared(squared, len(queries))

    def of_squared(self, squared: F32, queries: int) -> F32:
        """The same from squared distances (N, N) of all images, queries first; they are changed."""
        n = len(squared)
        if self.k1 + 1 > n or self.k1 >= n / 2 or self.k2 > n:
            raise ConfigError(
                f"rerank: k1 {self.k1}, k2 {self.k2} make no sense among {n} images ({queries} queries and "
                f"{n - queries} of the gallery): expected k1 below half of them; set rerank off, or a smaller k1"
            )
        most = squared.max(axis=0)
        if not (np.isfinite(most).all() and most.all()):
            raise DataError("rerank: expected finite distances and vectors that differ, got an image without any")
        squared /= most
        distance = squared.T  # row i by its own greatest: what (D / max over axis 0)^T is
        rank = _nearest(distance, max(self.k1 + 1, self.k2))
        jaccard = _jaccard(self._neighbourhoods(distance, rank), queries)
        return np.asarray((1 - self.weight) * jaccard + self.weight * distance[:queries, queries:], np.float32)

    def _neighbourhoods(self, distance: F32, rank: I64) -> Any:
        """V: (N, N) sparse, a row of weights that sum to 1 over the expanded k-reciprocal neighbours of each image."""
        from scipy.sparse import csr_matrix

        n = len(rank)
        mutual = _mutual(rank[:, : self.k1 + 1])
        half = _mutual(rank[:, : int(np.around(self.k1 / 2)) + 1])  # around: half to even, k1 5 gives 2
        shared = mutual.multiply(mutual @ half.T).tocoo()  # |R(c) and R| for each c of R, where it is not 0
        size = np.asarray(half.sum(axis=1)).ravel()
        taken = shared.data > 2 / 3 * size[shared.col]
        accepted = csr_matrix((np.ones(taken.sum(), np.int32), (shared.row[taken], shared.col[taken])), (n, n))
        expanded = (mutual + accepted @ half).tocsr()
        row, column = expanded.nonzero()
        weight = np.exp(-distance[row, column].astype(np.float64))
        total = np.bincount(row, weight, n)
        found = csr_matrix((weight / total[row], (row, column)), (n, n))
        if self.k2 == 1:
            return found
        near = rank[:, : self.k2]
        mean = csr_matrix((np.full(near.size, 1 / self.k2), near.ravel(), np.arange(0, near.size + 1, self.k2)), (n, n))
        return (mean @ found).tocsr()


def _nearest(distance: F32, count: int) -> I64:
    """(N, count) of each row the first of a stable sort."""
    n = len(distance)
    found = np.empty((n, count), np.int64)
    step = max(BLOCK // (8 * n), 1)
    for at in range(0, n, step):
        keys = np.ascontiguousarray(distance[at : at + step]).view(np.uint32).astype(np.uint64)  # as none is below 0
        keys <<= np.uint64(32)
        keys |= np.arange(n, dtype=np.uint64)
        if count < n:
            keys = np.partition(keys, count - 1, axis=1)[:, :count]
        keys.sort(axis=1)
        found[at : at + step] = keys & np.uint64(0xFFFFFFFF)
    return found


def _mutual(rank: I64) -> Any:
    """(N, N) sparse, 1 where two are among the first of each other."""
    from scipy.sparse import csr_matrix

    n, k = rank.shape
    own = csr_matrix((np.ones(rank.size, np.int32), rank.ravel(), np.arange(0, n * k + 1, k)), (n, n))
    return own.multiply(own.T).tocsr()


def _jaccard(near: Any, queries: int) -> F32:
    """(Q, G) Jaccard distances of the queries to the rest: 1 - m / (2 - m), m: the sum of the lesser weights."""
    by_column, n = near.tocsc(), near.shape[0]
    counts = np.diff(by_column.indptr)
    found = np.empty((queries, n - queries), np.float32)
    for query in range(queries):
        own = slice(near.indptr[query], near.indptr[query + 1])
        columns = near.indices[own]
        each = counts[columns]
        at = np.repeat(by_column.indptr[columns] - np.cumsum(each) + each, each) + np.arange(each.sum())
        lesser = np.minimum(by_column.data[at], np.repeat(near.data[own], each))
        shared = np.bincount(by_column.indices[at], lesser, n)[queries:]
        found[query] = 1 - shared / (2 - shared)
    return found
