"""How large a file that somebody handed over may unfold: judged by its header, before anything is allocated.

A file may ask for 2 GB, or for four times its own size where that is more: a table of a million vectors is as large in
memory as on disk, a file of 3 MB that asks for 8 GB is not what it says. A table of a run may ask for 64 times its
size: it says the same of each row of a video. `MDFPIPE_LARGEST_GB` allows more.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mdfpipe.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow.parquet as pq

VARIABLE = "MDFPIPE_LARGEST_GB"
OF_RUN = 64  # times its own size that a table of a run may ask for
_LARGEST, _TIMES = 2.0, 4  # GB; the file's own size
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}  # bytes; of text its index: 4


def most(size: int, times: int = _TIMES) -> float:
    """Bytes of memory that a file of `size` bytes may ask for: what the user allows, or 2 GB, or `times` its size.

    Raises ConfigError where VARIABLE is not such a number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return max(_LARGEST * 1e9, times * size)
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit < 1e6:
        raise ConfigError(f"{VARIABLE}={text[:40]!r}: expected a number of GB above 0, such as 8")
    return limit * 1e9


def refuse_larger(claimed: int, size: int, what: str, times: int = _TIMES) -> None:
    """Raise DataError where `claimed` bytes are more than a file of `size` bytes may ask for."""
    allowed = most(size, times)
    if claimed > allowed:
        raise DataError(
            f"{what}: {size / 1e6:.3g} MB that ask for {claimed / 1e9:.3g} GB of memory, expected at most "
            f"{allowed / 1e9:.3g} GB; if it is what you think it is, allow more by {VARIABLE}={claimed / 1e9 + 1:.0f}"
        )


def refuse_large_table(file: pq.ParquetFile, path: Path, columns: list[str] | None = None, times: int = _TIMES) -> None:
    """Raise DataError where these columns of a Parquet file (None: all) claim too much, by pages or by values."""
    claimed = 0
    for _, column in _chunks(file):
        if columns is None or column.path_in_schema.partition(".")[0] in columns:
            width = _WIDTHS.get(column.physical_type, 4)
            claimed += max(column.total_uncompressed_size, column.num_values * width)
    refuse_larger(claimed, path.stat().st_size, str(path), times)


def endless_texts(file: pq.ParquetFile, columns: list[str] | None = None) -> list[str]:
    """The columns whose values would fill the memory if each were as long as all that is stored of its column.

    Their texts have to be looked at before they are written out: see `refuse_large_texts`.
    """
    found = {
        column.path_in_schema
        for rows, column in _chunks(file)
        if (columns is None or column.path_in_schema in columns)
        and column.physical_type == "BYTE_ARRAY"
        and column.total_uncompressed_size * rows > _LARGEST * 1e9
    }
    return sorted(found & set(file.schema_arrow.names))


def _chunks(file: pq.ParquetFile) -> Iterator[tuple[int, Any]]:
    """(rows, what the footer says) of each column in each group of rows."""
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        yield from ((group.num_rows, group.column(number)) for number in range(group.num_columns))


def refuse_large_texts(column: Any, path: Path, times: int = _TIMES) -> None:
    """Raise DataError where texts that a column repeats would fill the memory once they are written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return
    longest = max((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in column.chunks), default=0)
    refuse_larger(len(column) * longest, path.stat().st_size, str(path), times)


def refuse_large_archive(path: Path) -> None:
    """Raise DataError where the members of a ZIP archive (NPZ, a checkpoint of torch) unfold to too much."""
    from numpy.lib import format as npy

    claimed = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            of_array = 0
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    is_old = npy.read_magic(file) == (1, 0)
                    shape, _, kind = (npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0)(file)
                    of_array = math.prod(map(int, shape)) * kind.itemsize
            claimed += max(member.file_size, of_array)
    refuse_larger(claimed, path.stat().st_size, str(path))
