"""Listing: the best of the gallery for each query of a benchmark's first trial, and its images as templates.

What a page shows of a benchmark: lists to look at, and vectors for a map. No number comes from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mdfpipe.evaluation.benchmarks import Trial
from mdfpipe.evaluation.comparing import F32, F64, I64, Flags
from mdfpipe.store.tables import SearchStatus
from mdfpipe.store.templates import Templates

TOP: Final = 10  # images of a list, as many as SEARCHES has
MOST_VALUES: Final = 50_000_000  # of vectors of a system that are kept, 200 MB


class Listing:
    """The lists of one trial: Q queries, G gallery images, rows of which are places among the benchmark's images.

    order: (G,) places of the gallery, as the scores are ordered; person: (N,) of every image.
    top: (Q, TOP) rows of the best images, best first, -1 where there are fewer; score: (Q, TOP) theirs.
    mated, nonmated: (Q,) the best score of the query's own images, and of all others; -inf without one.
    """

    def __init__(self, trial: Trial, order: I64, person: I64) -> None:
        self.queries, self._order, self._gallery = trial.queries, order, trial.gallery[order]
        self._person, self._whose = person[self._gallery], person[trial.queries]
        count = len(trial.queries)
        self.top: I64 = np.full((count, TOP), -1)
        self.score: F64 = np.full((count, TOP), -np.inf)
        self.mated: F64 = np.full(count, -np.inf)
        self.nonmated: F64 = np.full(count, -np.inf)

    def take(self, scores: F32, first: int) -> None:
        """Scores (G, q) of the queries from `first`; -inf for pairs that are in no list."""
        at = slice(first, first + scores.shape[1])
        own = self._person[:, None] == self._whose[at]
        self.mated[at] = np.where(own, scores, -np.inf).max(axis=0)
        self.nonmated[at] = np.where(own, -np.inf, scores).max(axis=0)
        count = min(TOP, len(scores))
        best = np.argpartition(-scores, count - 1, axis=0)[:count]
        values = np.take_along_axis(scores, best, axis=0)
        places = np.lexsort((self._order[best], -values), axis=0)  # equal ones as the gallery has them
        best, values = np.take_along_axis(best, places, axis=0), np.take_along_axis(values, places, axis=0)
        self.top[at, :count] = np.where(np.isfinite(values), self._gallery[best], -1).T
        self.score[at, :count] = values.T

    def as_distances(self, square: F32) -> None:
        """Turn scores 2 g.q - |g|^2 into negative Euclidean distances. square: (Q,) |q|^2."""
        wide = square.astype(np.float64)
        self.score = -np.sqrt(np.maximum(wide[:, None] - self.score, 0))
        self.mated, self.nonmated = (-np.sqrt(np.maximum(wide - one, 0)) for one in (self.mated, self.nonmated))

    def rows(
        self, images: Templates, outcome: tuple[I64, F64, F64, Flags], place: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Rows of SEARCHES. images: a template for each image; outcome: rank, precision, penalty and validity (Q,)."""
        rank, precision, penalty, valid = outcome
        names, there = images.name, images.enrolled
        for n, query in enumerate(self.queries.tolist()):
            status = SearchStatus.SEARCHED
            if not valid[n]:
                status = SearchStatus.UNMATED
            elif not there[query]:
                status = SearchStatus.NO_PROBE
            elif not rank[n]:
                status = SearchStatus.NO_MATE
            mated = status is SearchStatus.SEARCHED
            best = self.top[n][self.top[n] >= 0] if there[query] else self.top[n][:0]
            yield place | {
                "template": names[query],
                "subject_id": str(images.subject[query]),
                "status": status.value,
                "rank": int(rank[n]) if mated else None,
                "mated_score": float(self.mated[n]) if mated else None,
                "nonmated_score": float(self.nonmated[n]) if len(best) and np.isfinite(self.nonmated[n]) else None,
                "average_precision": float(precision[n]) if mated else None,
                "inverse_penalty": float(penalty[n]) if mated else None,
                "top": [names[row] for row in best.tolist()],
                "top_score": self.score[n, : len(best)].tolist(),
            }


def images_as_templates(rows: pa.Table, vectors: F32, usable: Flags, modality: str) -> Templates:
    """A template of each image, named by its crop."""

    def text(name: str) -> Any:
        given = rows[name].cast(pa.string()).to_pylist() if name in rows.column_names else [""] * rows.num_rows
        return np.array([value or "" for value in given], str)

    one = usable.astype(np.int64)
    return Templates(
        vectors=np.where(usable[:, None], vectors, np.float32(0)),
        subject=text("subject_id"),
        domain=text("domain"),
        modality=np.full(rows.num_rows, modality),
        split=text("split"),
        role=text("role"),
        item=text("crop_id"),
        crops=one,
        media=one,
        unusable=1 - one,
    )
