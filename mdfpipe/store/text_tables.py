"""Text tables that others wrote: a CSV file in, blocks of checked cells out, for any size of file.

pyarrow rather than pandas reads them: it streams in blocks (memory does not grow with the file), keeps a column of
repeated texts as a dictionary, refuses a row with a field too few (pandas fills it up in silence), and gives
row numbers with its errors. Rows are numbered as in a spreadsheet: the header is row 1, blank lines do not count.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.content import packed_as, stand_in
from mdfpipe.store.subjects import NOBODY

LONGEST_CELL = 1000  # bytes, of the columns that are read
BLOCK_BYTES = 16 << 20  # of text at a time: also the longest row that can be read

_DELIMITERS = ",;\t|"
_DECIMAL = r"^([+-]?\d+),(\d+)$"
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or another ZIP archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"PAR1": "a Parquet file; save it as CSV",
    b"SQLite f": "an SQLite database; save the table as CSV",
    b"%PDF": "a PDF; save the table as CSV",
}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LONGEST_HEADER = 1 << 20


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


@dataclass(frozen=True)
class Layout:
    """How a text table is laid out. header: the columns' names. skipped: lines before the first row."""

    delimiter: str
    header: list[str]
    skipped: int


def read_blocks(
    path: Path,
    table: str,
    wanted: Mapping[str, str | Sequence[str]],
    numeric: Collection[str] = (),
    optional: Collection[str] = (),
) -> Iterator[Block]:
    """The rows of a text table, block by block; only the wanted columns.

    Commas, semicolons, tabs or bars separate the columns. UTF-8, with or without BOM; quotes doubled. Behind
    semicolons a number may have a decimal comma.
    table: how messages call the file. wanted: our name -> header, or headers that will do, the first the best; see
    `find_column`. numeric: those of our names whose cells are numbers. optional: those that may be absent.
    Raises DataError with table and row: no such column, not UTF-8, a row with too many or too few fields,
    a cell above 1000 bytes; or that says what the file is, where it is no table.
    """
    layout = read_layout(path, table, wanted.values())
    where = find_columns(layout.header, wanted, table, optional)
    names = [f"c{i}" for i in range(len(layout.header))]
    coded = pa.dictionary(pa.int32(), pa.string())
    types = {names[i]: pa.string() if n in numeric else coded for n, i in where.items()}
    headers = {n: layout.header[i] for n, i in where.items()}
    row = layout.skipped + 1
    try:
        with pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(
                column_names=names, skip_rows=layout.skipped, block_size=BLOCK_BYTES, use_threads=False
            ),
            parse_options=pacsv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(types), column_types=types, strings_can_be_null=False
            ),
        ) as reader:
            for batch in reader:
                cells = {n: _trimmed(batch.column(names[i])) for n, i in where.items()}
                if layout.delimiter == ";":
                    cells |= {
                        n: pc.replace_substring_regex(cells[n], _DECIMAL, r"\1.\2") for n in numeric if n in cells
                    }
                block = Block(table, row, headers, cells)
                _refuse_long_cells(block)
                row += len(batch)
                if len(batch):
                    yield block
    except pa.ArrowInvalid as error:
        raise DataError(f"{table}: {_csv_problem(str(error), headers, where, row)}") from None
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {one_line(error)}") from None


def read_layout(path: Path, table: str, wanted: Iterable[str | Sequence[str]]) -> Layout:
    """The header of a text table, and the separator of its columns: the one that finds most of the wanted ones.

    Raises DataError, which says what the file is where it is no text table.
    """
    lines = _first_lines(path, table)
    skipped, delimiters = 1, _DELIMITERS
    said = re.fullmatch(r'"?sep=(.)"?', lines[0].strip(), re.IGNORECASE)  # as Excel writes and reads it
    if said and len(lines) > 1:
        skipped, delimiters = 2, said[1]
    text = lines[skipped - 1]
    if not text.replace("\t", " ").isprintable():
        raise DataError(f"{table}: the header holds control characters: {one_line(text, 80)}")
    wishes = [[wish] if isinstance(wish, str) else wish for wish in wanted]
    best, most, trouble = Layout(delimiters[0], [], skipped), (-1, 0), ""
    for delimiter in delimiters:
        try:
            cells = next(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True), [])
        except csv.Error as error:  # quotes around cells, and another delimiter between them
            trouble = trouble or one_line(error)
            continue
        header = [cell.strip() for cell in cells]
        known = {_squashed(name) for name in header}
        found = sum(any(_squashed(each) in known for each in wish) for wish in wishes), len(header)
        if found > most:
            best, most = Layout(delimiter, header, skipped), found
    if trouble and not best.header:
        raise DataError(f"{table}: the header is not valid CSV: {trouble}")
    if not any(best.header):
        raise DataError(f"{table}: row {skipped} is blank, expected the header")
    return best


def _first_lines(path: Path, table: str) -> list[str]:
    """The first line of a file, and the second where there is one. Raises DataError: no text table."""
    instead = stand_in(path)
    if instead is not None:
        raise DataError(f"{table}: expected a table as CSV, got {instead}")
    try:
        with path.open("rb") as file:
            start, lines = file.read(8), []
            file.seek(0)
            lines = [file.readline(_LONGEST_HEADER) for _ in range(2)]
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from None
    for magic, what in _NO_TEXT.items():
        if start.startswith(magic):
            raise DataError(f"{table}: expected a table as CSV text, got {what}")
    if packed := packed_as(start):
        raise DataError(f"{table}: expected a table as CSV text, got {packed}; unpack it")
    if not lines[0].endswith(b"\n"):
        raise DataError(f"{table}: expected a header line and rows, found a single line of {len(lines[0])} bytes")
    try:
        first = lines[0].decode("utf-8-sig").rstrip("\r\n")
        return [first, lines[1].decode().rstrip("\r\n")] if first.strip('"')[:4].lower() == "sep=" else [first]
    except UnicodeDecodeError:
        raise DataError(f"{table}: the header is not UTF-8 text; save the table as UTF-8") from None


def find_columns(
    header: list[str], wanted: Mapping[str, str | Sequence[str]], table: str, optional: Collection[str] = ()
) -> dict[str, int]:
    """Our names -> positions in the header. Raises DataError that lists the headers and the closest.

    A header is matched exactly, or else in any case, or else without its blanks, `_`, `-` and `.`.
    """
    places = {}
    for name, wish in wanted.items():
        wishes = [wish] if isinstance(wish, str) else list(wish)
        found = next((at for each in wishes if (at := _matches(header, each))), [])
        if len(found) > 1:
            raise DataError(f"{table}: column {name}: the header {header[found[0]]} stands {len(found)} times")
        if found:
            places[name] = found[0]
        elif name not in optional:
            raise DataError(f"{table}: column {name}: {_unmatched(header, wishes)}")
    return places


def _matches(header: list[str], wish: str) -> list[int]:
    for same in (str, str.lower, _squashed):
        found = [i for i, name in enumerate(header) if same(name) == same(wish)]
        if found:
            return found
    return []


def _squashed(name: str) -> str:
    return re.sub(r"[\s_.\-]", "", name).lower()


def _unmatched(header: list[str], wishes: list[str]) -> str:
    close = difflib.get_close_matches(wishes[0].lower(), [h.lower() for h in header], n=3, cutoff=0.5)
    near = [h for h in dict.fromkeys(header) if h.lower() in close]
    hint = f" (close: {', '.join(one_line(h, 40) for h in near)})" if near else ""
    others = f" ({', '.join(wishes[1:])} will do)" if len(wishes) > 1 else ""
    return f"expected a header {wishes[0]}{others}, found {one_line(', '.join(header), 200) or 'none'}{hint}"


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

    Missing: empty, `nan` or what else `subjects.NOBODY` lists, in any case. Garbage: neither missing nor a number that
    float32 can hold. Where a cell is either, its value is NaN.
    """
    missing = pc.is_in(pc.ascii_lower(cells), value_set=pa.array(NOBODY))
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


def first_row(block: Block, name: str, text: str) -> str:
    """Where `text` first is in a coded column of the block: table, row, header."""
    cells = block.cells[name]
    at = pc.index(cells.indices, pc.index(cells.dictionary, text).as_py()).as_py()
    return f"{block.table} row {block.first_row + at}, {block.headers[name]}"
