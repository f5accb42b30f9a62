"""Expected: which rows of a manifest a table is about, and who should be there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.pooling import Rule
from mdfpipe.store.templates import B8, F32

KEY = ("subject_id", "domain", "split", "role")


def of_splits(rows: pa.Table, splits: Sequence[str]) -> pa.Table:
    """The rows of some splits."""
    return rows.filter(pc.is_in(rows["split"].cast(pa.string()), pa.array(list(splits))))


def expected(rows: pa.Table, modality: str, rule: Rule, *, thirds: bool = False) -> pa.Table:
    """Every subject of the rows, as rows of one modality; for templates, tracks and crops, that modality's own."""
    if rule.column in ("template_id", "track", "crop_id"):
        rows = rows.filter(pc.equal(rows["modality"].cast(pa.string()), modality))
    if thirds:
        rows, middle = by_thirds(rows)
        rows = rows.filter(pa.array(~middle))
    names = [*KEY, *{"": [], "track": ["video_id", "track"]}.get(rule.column, [rule.column])]
    plain = pa.table({name: rows[name].cast(pa.string()) for name in names})
    return plain.append_column("modality", pa.array([modality] * rows.num_rows, pa.string()))


def refuse_trained(system: str, tested: Iterable[str], trained: frozenset[str] | None) -> None:
    """Raise ProtocolError where somebody who is searched is in the system's own training."""
    seen = sorted(set(tested) & (trained or frozenset()))
    if seen:
        raise ProtocolError(
            f"{system} was trained on {len(seen)} of the subjects that it is tested on ({', '.join(seen[:5])}): take "
            "their split from the table, train without them, or set allow_trained_subjects: true"
        )


def by_thirds(rows: pa.Table) -> tuple[pa.Table, B8]:
    """The rows with role gallery in the first third of each video's frames and probe in the last; the middle ones."""
    video = rows["video_id"].combine_chunks().dictionary_encode()
    frame = rows["frame"].to_numpy().astype(np.int64)
    codes = video.indices.to_numpy(zero_copy_only=False)
    first = np.full(len(video.dictionary), np.iinfo(np.int64).max)
    last = np.full(len(video.dictionary), -1)
    np.minimum.at(first, codes, frame)
    np.maximum.at(last, codes, frame)
    place = (frame - first[codes]) / np.maximum(last[codes] - first[codes] + 1, 1)
    role = np.where(place < 1 / 3, "gallery", "probe")
    at = rows.column_names.index("role")
    return rows.set_column(at, "role", pa.array(role)), (place >= 1 / 3) & (place < 2 / 3)


def chosen_rows(blocks: Iterable[F32], chosen: B8) -> Iterator[F32]:
    """Yield the chosen rows of blocks in row order."""
    at = 0
    for block in blocks:
        yield block[chosen[at : at + len(block)]]
        at += len(block)
