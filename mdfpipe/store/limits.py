"""How large a file that somebody handed over may unfold: judged by its header, before anything is allocated.

A file may ask for 2 GB, or for four times its own size where that is more: a table of a million vectors is as large in
memory as on disk, a file of 3 MB that asks for 8 GB is not what it says. A table of a run may ask for 64 times its
size: it says the same of each row of a video. `MDFPIPE_LARGEST_GB` allows more.
"""

from __future__ import annotations

import os
import zipfile
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
    """Bytes of memory that a file of `size` bytes may ask for: 2 GB, or `times` its size."""
    limit = _limit()
    return max(_LARGEST * 1e9, times * size) if limit is None else limit * 1e9


def refuse_larger(claimed: int, size: int, what: str, times: int = _TIMES) -> None:
    """Raise DataError where `claimed` bytes are more than a file of `size` bytes may ask for."""
    allowed = most(size, times)
    if claimed > allowed:
        raise DataError(
            f"{what}: {size / 1e6:.3g} MB that ask for {claimed / 1e9:.3g} GB of memory, expected at most "
            f"{allowed / 1e9:.3g} GB; if it is what you think it is, allow more by {VARIABLE}={claimed / 1e9 + 1:.0f}"
        )


def _limit() -> float | None:
    """GB that the user allows; None where they say nothing. Raises ConfigError."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 < limit < 1e6:
        raise ConfigError(f"{VARIABLE}={text[:40]!r}: expected a number of GB above 0, such as 8")
    return limit


def refuse_large_table(file: pq.ParquetFile, path: Path, columns: list[str] | None = None, times: int = _TIMES) -> None:
    """Raise DataError where these columns of a Parquet file (None: all) claim too much, by pages or by values."""
    claimed, metadata = 0, file.metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if columns is None or column.path_in_schema.partition(".")[0] in columns:
                width = _WIDTHS.get(column.physical_type, 4)
                claimed += max(column.total_uncompressed_size, column.num_values * width)
    refuse_larger(claimed, path.stat().st_size, str(path), times)


def endless_texts(file: pq.ParquetFile, columns: list[str] | None = None) -> list[str]:
    """The columns whose values would fill the memory if each were as long as all that is stored of its column.

    Their texts have to be looked at before they are written out: see `refuse_large_texts`.
    """
    metadata, found = file.metadata, set[str]()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            is_asked = columns is None or column.path_in_schema in columns
            stored = column.total_uncompressed_size * row_group.num_rows
            if is_asked and column.physical_type == "BYTE_ARRAY" and stored > _LARGEST * 1e9:
                found.add(column.path_in_schema)
    return sorted(found & set(file.schema_arrow.names))


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
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        claimed = 0
        for member in archive.infolist():
            shape: tuple[int, ...] = ()
            kind = np.dtype("u1")
            if member.filename.endswith(".npy"):
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0
                    if version != (1, 0):
                        read = np.lib.format.read_array_header_2_0
                    shape, _, kind = read(file)
            count = 1
            for length in shape:
                count *= int(length)
            claimed += max(member.file_size, count * kind.itemsize)
    refuse_larger(claimed, path.stat().st_size, str(path))
