"""Annotation tables: a CSV file in, blocks of checked cells out, whatever the size of the file.

pyarrow rather than pandas reads them: it streams in blocks (memory does not grow with the file), keeps a column of
repeated texts as a dictionary, refuses a row with a field too few (pandas fills it up in silence), and gives
row numbers with its errors. Rows are numbered as in a spreadsheet: the header is row 1, blank lines do not count.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from mdfpipe.datasets import Anomaly
from mdfpipe.errors import DataError, one_line

LONGEST_CELL = 1000  # bytes, of the columns that are read
BLOCK_BYTES = 16 << 20  # of text at a time: also the longest row that can be read
MISSING = ("", "nan")  # any case, spaces around

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LONGEST_HEADER = 1 << 20


class AnomalyKind(StrEnum):
    """What can be unusual about an annotation row. A closed set; the comment says what becomes of the row."""

    MISSING_FILE = "missing_file"  # names no file: left out
    STILL_IMAGE = "still_image"  # names a picture, not a video: left out
    NOT_A_FRAME_IMAGE = "not_a_frame_image"  # frames_in: folder, and the file is no image: left out
    NOT_A_NUMBER = "not_a_number"  # text where a finite number belongs: left out
    MISSING_BOX = "missing_box"  # none of the four box fields: left out
    PARTIAL_BOX = "partial_box"  # some of them: left out
    NEGATIVE_SIZE = "negative_size"  # width or height below zero: left out
    ZERO_SIZE = "zero_size"  # width or height zero: left out
    MISSING_FRAME = "missing_frame"  # no frame number: left out
    NON_INTEGER_FRAME = "non_integer_frame"  # such as 3.5: left out
    NEGATIVE_FRAME = "negative_frame"  # below frame_base: left out
    MISSING_FRAME_FILE = "missing_frame_file"  # the folder holds no such frame: left out
    DUPLICATE_ROW = "duplicate_row"  # same video, frame, subject and box as an earlier row: left out
    MISSING_SUBJECT = "missing_subject"  # kept, subject_id null
    SUBJECT_AS_FLOAT = "subject_as_float"  # `12.0`, as pandas writes an integer column with gaps: kept, as `12`
    SAME_BOX_TWO_SUBJECTS = "same_box_two_subjects"  # kept
    SAME_SUBJECT_TWICE_IN_FRAME = "same_subject_twice_in_frame"  # kept
    VIDEO_MISSING_ON_DISK = "video_missing_on_disk"  # the video stays listed and fails later


@dataclass
class Tally:
    """Counts anomalous rows by kind and keeps the first as an example."""

    counts: dict[AnomalyKind, int] = field(default_factory=dict)
    examples: dict[AnomalyKind, str] = field(default_factory=dict)

    def add(self, kind: AnomalyKind, mask: NDArray[np.bool_], example: Callable[[int], str]) -> None:
        """Count the rows of `mask`, (n,) bool; `example` tells of a row by its position in the mask."""
        count = int(np.count_nonzero(mask))
        if count:
            self.counts[kind] = self.counts.get(kind, 0) + count
            if kind not in self.examples:
                self.examples[kind] = one_line(example(int(np.argmax(mask))))

    def anomalies(self) -> list[Anomaly]:
        """What was counted, by kind."""
        return [Anomaly(kind.value, self.counts[kind], self.examples[kind]) for kind in sorted(self.counts)]


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of one table.

    table: its path under the data root. first_row: number of the first row. headers: our name -> header.
    cells: our name -> (n,) strings, spaces around them removed; a DictionaryArray for names, a StringArray for numbers.
    """

    table: str
    first_row: int
    headers: Mapping[str, str]
    cells: Mapping[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))

    def example(self, i: int) -> str:
        """Row `i` of the block as text: table, row number, header=value."""
        values = ", ".join(f"{self.headers[n]}={c[i].as_py()[:60]}" for n, c in self.cells.items())
        return f"{self.table} row {self.first_row + i}: {values}"


def read_blocks(path: Path, table: str, wanted: Mapping[str, str], numeric: Collection[str] = ()) -> Iterator[Block]:
    """The rows of a CSV (comma, or tab for .tsv and .tab), block by block; only the wanted columns.

    table: how messages call the file. wanted: our name -> header, matched exactly or else in any case.
    numeric: those of our names whose cells are numbers. UTF-8, with or without BOM; quotes doubled.
    Raises DataError with table and row: no such column, not UTF-8, a row with too many or too few fields,
    a cell above 1000 bytes.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower(), ",")
    header = _read_header(path, table, delimiter)
    where = {name: _find_column(header, wish, f"{table}: column {name}") for name, wish in wanted.items()}
    names = [f"c{i}" for i in range(len(header))]
    coded = pa.dictionary(pa.int32(), pa.string())
    types = {names[i]: pa.string() if n in numeric else coded for n, i in where.items()}
    headers = {n: header[i] for n, i in where.items()}
    row = 2
    try:
        with pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK_BYTES, use_threads=False),
            parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(types), column_types=types, strings_can_be_null=False
            ),
        ) as reader:
            for batch in reader:
                cells = {n: _trimmed(batch.column(names[i])) for n, i in where.items()}
                block = Block(table, row, headers, cells)
                _refuse_long_cells(block)
                row += len(batch)
                if len(batch):
                    yield block
    except pa.ArrowInvalid as error:
        raise DataError(f"{table}: {_csv_problem(str(error), headers, where, row)}") from None
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {one_line(error)}") from None


def _read_header(path: Path, table: str, delimiter: str) -> list[str]:
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
        if not line.endswith(b"\n"):
            raise DataError(f"{table}: expected a header line and rows, found a single line of {len(line)} bytes")
        text = line.decode("utf-8-sig").rstrip("\r\n")
        header = [cell.strip() for cell in next(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), [])]
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{table}: the header is not UTF-8 text; save the table as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{table}: the header is not valid CSV: {one_line(error)}") from None
    if not text.replace("\t", " ").isprintable():
        raise DataError(f"{table}: the header holds control characters: {one_line(text, 80)}")
    if not any(header):
        raise DataError(f"{table}: row 1 is blank, expected the header")
    return header


def _find_column(header: list[str], wish: str, what: str) -> int:
    """The position of the column headed `wish`. Raises DataError that lists the headers and the closest."""
    for found in (
        [i for i, h in enumerate(header) if h == wish],
        [i for i, h in enumerate(header) if h.lower() == wish.lower()],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{what}: the header {wish} stands {len(found)} times")
    close = difflib.get_close_matches(wish.lower(), [h.lower() for h in header], n=3, cutoff=0.5)
    near = [h for h in dict.fromkeys(header) if h.lower() in close]
    hint = f" (close: {', '.join(near)})" if near else ""
    if len(header) == 1 and any(c in header[0] for c in ";\t|"):
        hint = " (commas separate columns, or tabs in a file named .tsv)"
    raise DataError(f"{what}: expected a header {wish}, found {one_line(', '.join(header), 200)}{hint}")


def _trimmed(cells: Any) -> Any:
    """Cells without spaces around them, the dictionary of a coded column unique again."""
    if not pa.types.is_dictionary(cells.type):
        return pc.ascii_trim_whitespace(cells)
    trimmed = pc.ascii_trim_whitespace(cells.dictionary).dictionary_encode()
    indices = pc.take(trimmed.indices, cells.indices)
    return pa.DictionaryArray.from_arrays(indices, trimmed.dictionary)


def _refuse_long_cells(block: Block) -> None:
    for name, cells in block.cells.items():
        coded = pa.types.is_dictionary(cells.type)
        texts = cells.dictionary if coded else cells
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if longest > LONGEST_CELL:
            at = pc.index(pc.greater(pc.binary_length(texts), LONGEST_CELL), True).as_py()
            row = block.first_row + (pc.index(cells.indices, at).as_py() if coded else at)
            shown = one_line(texts[at].as_py()[:60], 60)
            raise DataError(
                f"{block.table} row {row}: {block.headers[name]} holds {len(texts[at].as_py())} characters"
                f" ('{shown}…'), at most {LONGEST_CELL}"
            )


def _csv_problem(message: str, headers: Mapping[str, str], where: Mapping[str, int], row: int) -> str:
    """pyarrow's message in our words."""
    if "straddling" in message:
        return f"a row after row {row - 1} is longer than {BLOCK_BYTES >> 20} MB: is a quote left open?"
    bad_text = re.search(r"CSV column #(\d+): (?:Row #(\d+): )?.*invalid UTF8", message)
    if bad_text:
        header = next((headers[n] for n, i in where.items() if i == int(bad_text[1])), f"column {bad_text[1]}")
        return f"row {bad_text[2] or f'{row} or later'}: {header} is not UTF-8 text; save the table as UTF-8"
    fields = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", message, re.DOTALL)
    if fields:
        text = one_line(fields[4], 120)
        return f"row {fields[1]}: expected {fields[2]} fields as in the header, got {fields[3]}: {text}"
    return f"not valid CSV near row {row}: {one_line(message, 200)}"


def numbers(cells: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """StringArray of (n,) trimmed cells -> values (n,) float64, missing (n,) bool, garbage (n,) bool.

    Missing: empty or `nan` in any case. Garbage: neither missing nor a number that float32 can hold.
    Where a cell is either, its value is NaN.
    """
    missing = pc.is_in(pc.ascii_lower(cells), value_set=pa.array(MISSING))
    texts = pc.if_else(missing, pa.scalar(None, pa.string()), cells)
    try:
        values = pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
        values = pc.cast(texts, pa.float64())
    value = values.to_numpy(zero_copy_only=False).astype(np.float64)
    absent = missing.to_numpy(zero_copy_only=False)
    garbage = ~absent & ~(np.abs(value) <= np.finfo(np.float32).max)
    return np.where(garbage, np.nan, value), absent, garbage


@dataclass
class Names:
    """Gives each distinct text a number, in the order of its first appearance."""

    number: dict[str, int] = field(default_factory=dict)

    def codes(self, cells: Any, rename: Callable[[str], str | None] = lambda text: text) -> NDArray[np.int32]:
        """DictionaryArray of (n,) texts -> (n,) int32; -1 where `rename` gives None."""
        names = [rename(text) for text in cells.dictionary.to_pylist()]
        table = [-1 if n is None else self.number.setdefault(n, len(self.number)) for n in names]
        codes: NDArray[np.int32] = np.array(table, np.int32)[cells.indices.to_numpy(zero_copy_only=False)]
        return codes

    def texts(self) -> list[str]:
        """The texts, by number."""
        return list(self.number)


def first_row(block: Block, name: str, text: str) -> str:
    """Where `text` first stands in a coded column of the block: table, row, header."""
    cells = block.cells[name]
    at = pc.index(cells.indices, pc.index(cells.dictionary, text).as_py()).as_py()
    return f"{block.table} row {block.first_row + at}, {block.headers[name]}"


def shown_cell(text: str) -> str:
    """A cell for a message: one line, short.

    >>> shown_cell("a" * 100)[-3:]
    'aa…'
    """
    return one_line(text, 60)
