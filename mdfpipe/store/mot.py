"""Text files of MOTChallenge (`gt.txt`, `det.txt`, results of trackers): a row for each person and frame, no header.

frame,id,left,top,width,height[,confidence,class,visibility]        1,3,794.2,247.5,71.2,174.8,1,1,0.8
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.content import stand_in
from mdfpipe.store.text_tables import numbers

NEEDED: Final = ("frame", "id", "left", "top", "width", "height")
_ALL: Final = (*NEEDED, "confidence", "class")
_WHOLE: Final = ("frame", "id", "class")
_LARGEST = 2**53  # the last whole number that float64 counts to
_LARGEST_PIXEL = 1e7
_HEADER = re.compile(rb"[\"\s]*[A-DF-Za-df-z_#][^\n]*\n")  # a first line that begins with a word


@dataclass(frozen=True, eq=False)
class MotRows:
    """Rows of a file, in its order, each (n,).

    frame: as the file counts. id: below 0 where a row has none. xyxy: (n, 4) float32, pixels. confidence: of truth, 0
    marks what is not to be counted; 1 where the file has no such column. kind: the class, 1 is a person; 1 where there
    is no such column. row: the line in the file, from 1, without empty lines.
    """

    frame: NDArray[np.int64]
    id: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float64]
    kind: NDArray[np.int64]
    row: NDArray[np.int64]


def read_mot(path: Path) -> MotRows:
    """Read a file. Raises DataError that names file, row and column: too few columns, no number, a box without area."""
    cells, skipped = _cells(path)
    named = dict(zip(_ALL, cells.columns, strict=False))
    row = np.arange(cells.num_rows) + skipped + 1
    columns: dict[str, NDArray[np.float64]] = {}
    for name, column in named.items():
        values, absent, garbage = numbers(pc.utf8_trim_whitespace(column.combine_chunks()))
        _refuse(garbage | (absent if name in NEEDED else False), path, row, name, column, "a number")
        columns[name] = np.where(absent, 1.0, values)
    for name in (name for name in _WHOLE if name in columns):
        wrong = (columns[name] != np.floor(columns[name])) | (np.abs(columns[name]) > _LARGEST)
        _refuse(wrong, path, row, name, named[name], "a whole number")
    _refuse(columns["frame"] < 0, path, row, "frame", named["frame"], "0 or more")
    for name in NEEDED[2:]:
        _refuse(np.abs(columns[name]) > _LARGEST_PIXEL, path, row, name, named[name], "a position in pixels")
    for name in ("width", "height"):
        _refuse(~(columns[name] > 0), path, row, name, named[name], "more than 0")
    left, top = columns["left"], columns["top"]
    ones = np.ones(len(row))
    return MotRows(
        columns["frame"].astype(np.int64),
        columns["id"].astype(np.int64),
        np.stack([left, top, left + columns["width"], top + columns["height"]], axis=1).astype(np.float32),
        columns.get("confidence", ones),
        columns.get("class", ones).astype(np.int64),
        row,
    )


def _cells(path: Path) -> tuple[pa.Table, int]:
    """The columns as text, and the lines before the first row. Raises DataError."""
    if instead := stand_in(path):
        raise DataError(f"{path}: expected rows of MOTChallenge as text, got {instead}")
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in text[:4096]:
        raise DataError(f"{path}: expected rows of MOTChallenge as text in UTF-8, got UTF-16 or no text; save it so")
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    header = _HEADER.match(text)
    text = text[header.end() :] if header else text
    first = text.lstrip().partition(b"\n")[0].decode("utf-8", "replace").strip()
    if not first:
        return pa.table({name: pa.array([], pa.string()) for name in NEEDED}), 0
    skipped, delimiter = int(header is not None), next((d for d in ",;\t " if d in first), ",")
    count = len(first.split(delimiter))
    if count < len(NEEDED):
        raise DataError(
            f"{path}: row {skipped + 1}: expected frame, id, left, top, width and height, separated by commas, got "
            f"{one_line(first[:80], 80)}; give a file of MOTChallenge's form"
        )
    names = [f"c{n}" for n in range(count)]
    convert = pacsv.ConvertOptions(
        include_columns=names[: len(_ALL)], column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    reading = pacsv.ReadOptions(column_names=names, use_threads=False)
    parsing = pacsv.ParseOptions(delimiter=delimiter, quote_char=False)
    try:
        return pacsv.read_csv(pa.py_buffer(text), reading, parsing, convert), skipped
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: expected {count} columns of text in every row, as in the first: {one_line(error, 160)}; correct "
            "the file"
        ) from None


def _refuse(wrong: Any, path: Path, row: NDArray[np.int64], name: str, column: Any, expected: str) -> None:
    if not np.any(wrong):
        return
    at = int(np.argmax(wrong))
    more = f" and {int(np.sum(wrong)) - 1} more such rows" if np.sum(wrong) > 1 else ""
    got = one_line(repr(str(column[at].as_py())[:60]), 60)
    raise DataError(f"{path}: row {row[at]}, {name}: expected {expected}, got {got}{more}; correct the file")
