"""Templates: pooled vectors, which are what is searched; in memory, and as rows of TEMPLATES."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.errors import DataError, StoreError
from mdfpipe.store.run import read_table
from mdfpipe.store.tables import TEMPLATES, as_ours

B8 = NDArray[np.bool_]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
Text = NDArray[np.str_]

_TEXTS: Final = ("domain", "modality", "split", "role", "item")
_COUNTS: Final = ("crops", "media", "unusable")


@dataclass(frozen=True, repr=False)
class Templates:
    """T templates. Those that were pooled are sorted by modality, domain, role, split, subject and item.

    vectors: (T, D) float32, pooled, of any length (`unit` makes it 1); zeros where nothing was enrolled.
    subject, domain, modality, split, role: (T,) text. item: (T,) template_id or sighting, empty where by subject; of a
    track as `items_of` names it.
    crops, media: (T,) how many vectors, of how many videos, were pooled. unusable: (T,) crops without a usable vector.
    """

    vectors: F32
    subject: Text
    domain: Text
    modality: Text
    split: Text
    role: Text
    item: Text
    crops: I64
    media: I64
    unusable: I64

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or any(len(getattr(self, field.name)) != len(self) for field in fields(self)):
            shapes = ", ".join(f"{field.name} {getattr(self, field.name).shape}" for field in fields(self))
            raise DataError(
                f"templates: expected vectors (T, D) and arrays (T,), got {shapes}; pass one row a template"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"Templates({len(self)} x {self.vectors.shape[1]}, {int(self.crops.sum())} crops, {self.failed} failed)"

    @property
    def enrolled(self) -> B8:
        """(T,) whether there is a vector; the others failed to enrol."""
        there: B8 = self.crops > 0
        return there

    @property
    def failed(self) -> int:
        """How many failed to enrol."""
        return int((~self.enrolled).sum())

    @cached_property
    def key(self) -> list[str]:
        """Names without the modality: what a body and a face template of the same person and place have in common."""
        columns = (self.subject, self.domain, self.item, self.split, self.role)
        return ["/".join(filter(None, parts)) for parts in zip(*(c.tolist() for c in columns), strict=True)]

    @cached_property
    def name(self) -> list[str]:
        """subject/domain[/item]/split/role/modality, one of a kind: names a template in a table of scores."""
        return [f"{key}/{modality}" for key, modality in zip(self.key, self.modality.tolist(), strict=True)]

    def where(self, **values: str) -> Templates:
        """The templates with these values, failures among them: `where(role="probe", domain="SWIR-30m")`."""
        chosen = np.ones(len(self), bool)
        for name, value in values.items():
            chosen &= getattr(self, name) == value
        return self.take(chosen)

    def take(self, chosen: Any) -> Templates:
        """The templates at these positions, or where flags (T,) are set."""
        return Templates(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


def unit(vectors: F32) -> F32:
    """Rows of length 1, (n, D) float32; a row of zeros stays.

    >>> unit(np.array([[3, 4], [0, 0]], np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    wide = vectors.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    divided: F32 = (wide / np.where(length > 0, length, 1)).astype(np.float32)
    return divided


def items_of(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """(N,) the item of each row of a manifest where a template is one value of a column, as text.

    A track is a number within its video: VIDEO#3, and VIDEO# for all rows of a video that are of no track.
    """
    if column != "track":
        return rows[column].cast(pa.string())
    number = pc.fill_null(rows["track"].cast(pa.string()), "")
    return pc.binary_join_element_wise(rows["video_id"].cast(pa.string()), number, "#")


# -- on disk


def table_of(templates: Templates) -> pa.Table:
    """Rows of TEMPLATES."""
    width = templates.vectors.shape[1]
    offsets = np.arange(len(templates) + 1, dtype=np.int32) * width
    columns = {
        "template": pa.array(templates.name, pa.string()),
        "subject_id": pa.array(templates.subject.tolist(), pa.string()),
        **{name: pa.array(getattr(templates, name).tolist(), pa.string()) for name in _TEXTS},
        **{name: pa.array(getattr(templates, name), pa.int64()) for name in _COUNTS},
        "vector": pa.ListArray.from_arrays(pa.array(offsets), pa.array(templates.vectors.ravel())),
    }
    kind = TEMPLATES.field("modality").type
    columns["modality"] = columns["modality"].dictionary_encode().cast(kind)
    return pa.table([columns[name] for name in TEMPLATES.names], schema=TEMPLATES)


def read_templates(path: Path) -> Templates:
    """The templates of a file. Raises StoreError."""
    try:
        table = as_ours(read_table(path), TEMPLATES)
    except ValueError as error:
        raise StoreError(f"{path}: is no table of templates: {error}; evaluate again") from None
    vectors = table["vector"].combine_chunks()
    lengths = pc.list_value_length(vectors).unique().to_pylist()
    if len(lengths) > 1:
        raise StoreError(f"{path}: expected vectors of one length, got {sorted(lengths)[:4]}; evaluate again")
    width = lengths[0] if lengths else 0
    values = vectors.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    columns: dict[str, Any] = {name: table[name].to_numpy().astype(np.int64) for name in _COUNTS}
    for name in ("subject_id", *_TEXTS):
        columns[name] = np.array(table[name].cast(pa.string()).to_pylist(), np.str_)
    return Templates(values.reshape(table.num_rows, width), columns.pop("subject_id"), **columns)
