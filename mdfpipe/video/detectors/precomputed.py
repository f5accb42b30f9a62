"""Boxes that were computed elsewhere, or drawn by hand: a Parquet or CSV file in place of a network.

    video_id,frame,x1,y1,x2,y2,score        columns are found by their names (`COLUMNS`); others are left alone
    cam1/walk,0,12.5,30,88,240,0.91

One file for all videos, or one for each: `boxes: bodies/{video_id}.csv`, where `/` in a video_id is written `__`
and the column video_id may be absent. `score` may be absent or empty (1.0). A video may also be written as its path.
A column subject_id names the person of each box, where it is known; a person has one box a frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.limits import refuse_large_table
from mdfpipe.store.subjects import is_missing
from mdfpipe.video.box_files import BoxFile, BoxTable, subject_name

_TEXTS = {"video_id", "subject_id"}
COLUMNS = {
    "video_id": ("video_id", "video", "file", "filename", "path", "video_name", "clip"),
    "frame": ("frame", "frame_num", "frame_number", "frame_no", "frame_id", "frame_index", "frame_idx"),
    "x1": ("x1", "left", "xmin", "bb_left", "bbox_x1"),
    "y1": ("y1", "top", "ymin", "bb_top", "bbox_y1"),
    "x2": ("x2", "right", "xmax", "bb_right", "bbox_x2"),
    "y2": ("y2", "bottom", "ymax", "bb_bottom", "bbox_y2"),
    "x": ("x", "left", "xmin", "bb_left", "bbox_x", "x1"),
    "y": ("y", "top", "ymin", "bb_top", "bbox_y", "y1"),
    "width": ("width", "w", "bb_width", "bbox_width", "bbox_w"),
    "height": ("height", "h", "bb_height", "bbox_height", "bbox_h"),
    "score": ("score", "confidence", "conf", "probability", "prob", "det_score"),
    "subject_id": ("subject_id", "subject", "person_id"),
}
"""Headers that will do for each column, the first the best; in any case, without blanks, `_`, `-` and `.`."""


class Precomputed(BoxFile):
    """Boxes from a Parquet or CSV file (recognised by content), by video and frame."""

    box: Literal["xyxy", "xywh"] = Field("xyxy", description="columns x1, y1, x2, y2, or x, y, width, height")
    frame_base: Literal[0, 1] = Field(0, description="number of a video's first frame in the file")
    min_score: float = Field(0.0, ge=0, le=1, description="least detector confidence; boxes below it are dropped")
    subjects: bool = Field(True, description="whether a column subject_id of the file names the persons of its boxes")

    def table(self, path: Path, video_id: str) -> BoxTable:
        """The boxes of a file. Raises DataError."""
        stat = path.stat()
        sides = ("x1", "y1", "x2", "y2") if self.box == "xyxy" else ("x", "y", "width", "height")
        state = (path.absolute(), stat.st_size, stat.st_mtime_ns)
        return _table(*state, sides, bool(video_id), self.subjects)


def _as_numbers(column: Any) -> NDArray[np.float64]:
    """A pyarrow column as (n,) float64; NaN for what is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from mdfpipe.store.text_tables import numbers

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return numbers(pc.utf8_trim_whitespace(column.cast(pa.string())).combine_chunks())[0]
    try:
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, dates
        return np.full(len(column), np.nan)
    return values


@lru_cache(maxsize=4)
def _table(path: Path, size: int, mtime_ns: int, names: tuple[str, ...], per_video: bool, subjects: bool) -> BoxTable:
    """Parse a file once a process, while its size and modification time stay. Raises DataError."""
    optional = ("score", "subject_id", "video_id") if per_video else ("score", "subject_id")
    wanted = {name: COLUMNS[name] for name in ("video_id", "frame", *names, "score", "subject_id")}
    return box_table(path, read_columns(path, wanted, optional), names, subjects=subjects)


def box_table(path: Path, columns: Any, names: tuple[str, ...], *, subjects: bool = True) -> BoxTable:
    """The boxes of a file, of its columns by our names as a pyarrow Table. Raises DataError."""
    order, spans = np.arange(columns.num_rows), None
    if "video_id" in columns.column_names:
        order, spans = _grouped(path, columns.column("video_id"))
    if "score" in columns.column_names and _is_empty(columns.column("score")):
        columns = columns.drop_columns(["score"])
    kept = [name for name in ("frame", *names, "score") if name in columns.column_names]
    numbers = {name: _as_numbers(columns.column(name))[order] for name in kept}
    named = (
        _names(columns.column("subject_id"), path)[order] if "subject_id" in columns.column_names and subjects else None
    )
    named = named if named is not None and named.any() else None

    def cell(name: str, row: int) -> object:
        return columns.column(name)[row].as_py()

    return BoxTable(path, names, numbers, order, spans, cell, named)


def _names(column: Any, path: Path) -> NDArray[np.object_]:
    """Who each row is, (n,) text; None where a cell names no subject. Raises DataError for a text that is no name."""
    import pyarrow as pa

    with _as_data_error(path):
        encoded = pa.chunked_array(column.cast(pa.string())).combine_chunks().dictionary_encode()
    known = [subject_name(text, f"{path}: column subject_id") for text in encoded.dictionary.to_pylist()]
    texts = np.array([*known, None], np.object_)
    found: NDArray[np.object_] = texts[encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)]
    return found


def _grouped(path: Path, ids: Any) -> tuple[NDArray[np.int64], dict[str, tuple[int, int]]]:
    """The rows of each video, in the order of the file. Raises DataError where a row names no video."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with _as_data_error(path):
        encoded = pa.chunked_array(ids.cast(pa.string())).combine_chunks().dictionary_encode()
    texts = [text.strip(" ") for text in encoded.dictionary.to_pylist()]
    which = pc.fill_null(encoded.indices, -1).to_numpy()
    missing = np.array([*(is_missing(text) for text in texts), True])[which]
    if missing.any():
        row = int(np.argmax(missing)) + 1
        raise DataError(f"{path}: data row {row}, column video_id: expected a video, got nothing; correct the file")
    first = {text: n for n, text in reversed(list(enumerate(texts)))}  # spaces aside, two texts may be one
    codes = np.array([first[text] for text in texts], np.int64)[which] if texts else which
    order = np.argsort(codes, kind="stable").astype(np.int64)
    edges = np.searchsorted(codes[order], np.arange(len(texts) + 1)).tolist()
    spans = {text: (edges[n], edges[n + 1]) for n, text in enumerate(texts) if edges[n] < edges[n + 1]}
    return order, spans


def _is_empty(column: Any) -> bool:
    return all(value is None or is_missing(str(value)) for value in column.unique().to_pylist())


# --- the file ------------------------------------------------------------------------------------------------------


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: expected boxes as Parquet or CSV, which cannot be read: {one_line(error, 160)}; correct the file"
        ) from None


def read_columns(path: Path, wanted: Mapping[str, tuple[str, ...]], optional: Collection[str]) -> Any:
    """The columns of a boxes file, by our names, as a pyarrow Table; the cells of a CSV file as strings.

    wanted: our name -> headers that will do. optional: those that may be absent. Raises DataError.
    """
    import pyarrow as pa

    from mdfpipe.store.parquet import open_table
    from mdfpipe.store.text_tables import read_blocks, read_layout

    with _as_data_error(path), path.open("rb") as start:
        is_parquet = start.read(4) == b"PAR1"
    if not is_parquet:
        layout = read_layout(path, str(path), wanted.values())
        found = _found(layout.header, wanted, path, optional)
        kinds = {name: pa.string() for name in wanted if name in found}
        blocks = [
            pa.table({name: cells.cast(pa.string()) for name, cells in block.cells.items()})
            for block in read_blocks(path, str(path), wanted, set(wanted) - _TEXTS, optional)
        ]
        # an empty table is of lists, for which Arrow loads pandas: 0.2 s
        return pa.concat_tables(blocks).select(list(kinds)) if blocks else pa.schema(list(kinds.items())).empty_table()
    with _as_data_error(path), open_table(path) as file:
        header = list(file.schema_arrow.names)
        refuse_large_table(file, path)
        found = _found(header, wanted, path, optional)
        read = file.read(columns=[header[at] for at in found.values()])
        read.validate(full=True)  # texts that are not UTF-8 would stop whoever looks at them
        return read.rename_columns({header[at]: name for name, at in found.items()})


def _found(
    header: list[str], wanted: Mapping[str, tuple[str, ...]], path: Path, optional: Collection[str]
) -> dict[str, int]:
    """Our names -> positions in the header. Raises DataError that lists what is missing."""
    from mdfpipe.store.text_tables import find_columns

    found = find_columns(header, wanted, str(path), wanted)
    missing = [name for name in wanted if name not in found and name not in optional]
    if missing:
        needed = ", ".join(name for name in wanted if name not in optional)
        other = "xywh" if "x1" in wanted else "xyxy"
        sided = bool({"x1", "y1", "x2", "y2", "width", "height"} & set(missing)) and "score" in wanted
        boxes = f", or set detector.box ({other})" if sided else ""
        also = "; ".join(f"{name} is missing ({', '.join(wanted[name][1:5])} will do)" for name in missing[:2])
        if all(cell.lstrip("-").replace(".", "", 1).isdigit() for cell in header):
            also = "the first row holds numbers: put a line with the columns' names above it"
        raise DataError(
            f"{path}: expected columns {needed}, got {one_line(', '.join(header), 120) or 'none'}: {also}; "
            f"rename the columns{boxes}"
        )
    return found
