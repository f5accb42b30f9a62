"""What goes into an evaluation, the vectors of systems; and what comes out, rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.evaluation.comparing import Measure
from mdfpipe.store.templates import B8, F32, Templates

MEDIA_KNOWN: Final = "media_known"
"""A column of rows that were made elsewhere: whether the video of a row is known. Without it all are."""


@dataclass(frozen=True, eq=False)
class SystemVectors:
    """The vectors of one system. rows: of the manifest, of its modality, with or without a usable vector.

    usable: (N,) whether a row has one. blocks: gives the vectors, (b, D) float32, in the order of the rows.
    trained: the subjects that it learned from, as it says; None where it does not say.
    """

    name: str
    modality: str
    measure: Measure
    rows: pa.Table
    usable: B8
    blocks: Callable[[], Iterable[F32]]
    trained: frozenset[str] | None = None


def media_unknown(rows: Sequence[pa.Table]) -> list[str]:
    """The stamp on numbers of rows some of whose videos are unknown; else nothing."""
    known = [table[MEDIA_KNOWN] for table in rows if MEDIA_KNOWN in table.column_names]
    count, unknown = sum(len(one) for one in known), sum(pc.sum(pc.invert(one)).as_py() or 0 for one in known)
    if not unknown:
        return []
    how_many = "no row has" if unknown == count else f"{unknown} of {count} rows have no"
    return [f"media unknown ({how_many} video_id): not checked that gallery and probe are of different videos"]


@dataclass(eq=False)
class Evaluated:
    """Rows of METRICS, COMPARISONS, CURVES and SEARCHES; what is to be known of each table.

    templates: of each system, as the first table that has it pools them; of a benchmark its images. lists: of
    benchmarks, as SEARCHES.
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)
    lists: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    templates: dict[str, Templates] = field(default_factory=dict)

    @property
    def nothing(self) -> str:
        """Why there is no number at all, or nothing."""
        if self.metrics:
            return ""
        return "; ".join(dict.fromkeys(note for table in self.tables.values() for note in table["notes"]))
