"""Parquet that tells its own damage: the one place that writes and reads it.

Each page has a checksum, verified when it is read. Parquet has none for the footer, which holds the schema and our
receipt, nor for the headers of pages. So `seal` puts a block between the last page and the footer, where the format
lets a writer put what it likes and other readers look for nothing:

    mark (8 bytes) | CRC-32 of the footer (4) | sha256 of all the file but these 32 bytes (32)

The first two are verified whenever a file is opened, the last by `mdfpipe verify`. A file without the mark is somebody
else's, or of an earlier version: its pages are verified where they have checksums.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mdfpipe.errors import ConfigError, Damaged, DataError, StoreError, cannot_write, one_line
from mdfpipe.store.files import given_path, opened
from mdfpipe.store.hashing import digest_of
from mdfpipe.store.limits import OF_RUN, endless_texts, refuse_large_table, refuse_large_texts

MARK: Final = b"mdfpipe\x01"
_SEAL: Final = struct.Struct("<8sI32s")
_END: Final = struct.Struct("<I4s")  # how long the footer is, and PAR1
_GROUP: Final = 1 << 17  # rows
_GUESS: Final = 1 << 16  # bytes from the end that hold most footers
_DAMAGE: Final = (None, errno.EIO)  # errno of an OSError that tells of a file's content: Arrow's own have none


class TableWriter:
    """Appends tables of one schema to a Parquet file. A context: where it ends well, the file is sealed and synced.

    Raises StoreError where the file cannot be written.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        with _writing(path):
            self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)

    def write(self, table: pa.Table) -> None:
        """Append the rows of a table."""
        with _writing(self.path):
            self._writer.write_table(table, row_group_size=_GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with _writing(self.path):
                self._writer.close()
                seal(self.path)
        else:
            with contextlib.suppress(OSError, pa.ArrowException):  # a full disk says so twice
                self._writer.close()


def write_table(path: Path, table: pa.Table, metadata: Mapping[bytes, bytes] | None = None) -> None:
    """Write `table` to `path`, sealed and synced; metadata: more of it for the footer.

    The same table gives the same bytes, however it was chunked. Raises StoreError where the file cannot be written.
    """
    whole = table.combine_chunks().replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    with TableWriter(path, whole.schema) as writer:
        writer.write(whole)


def seal(path: Path) -> None:
    """Put the block with the checksums before the footer of a finished Parquet file, and sync it. Raises OSError."""
    with path.open("rb+") as file:
        footer, _ = _tail(file)
        start = file.seek(0, os.SEEK_END) - len(footer) - _END.size
        end = _END.pack(len(footer), b"PAR1")
        head = _SEAL.pack(MARK, zlib.crc32(footer), b"")[:-32]
        file.seek(0)
        digest = digest_of(file, start)
        digest.update(head + footer + end)
        file.seek(start)
        file.write(head + digest.digest() + footer + end)
        file.flush()
        os.fsync(file.fileno())


def is_whole(path: Path, read: Callable[[int], None] | None = None) -> bool | None:
    """Whether each byte of a sealed file is as it was written; None of a file without a seal. Raises OSError.

    read: called with the number of bytes of each read.
    """
    with opened(path) as file:
        footer, found = _tail(file)
        if found is None:
            return None
        start = file.seek(0, os.SEEK_END) - len(footer) - _END.size - _SEAL.size
        file.seek(0)
        digest = digest_of(file, start, read)
        head = file.read(_SEAL.size)[:-32]
        digest.update(head + footer + _END.pack(len(footer), b"PAR1"))
        return bool(digest.digest() == found[1])


def open_table(path: Path, read_dictionary: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file, ours or anybody's, whose pages are verified as they are read. Raises OSError, ArrowException.

    read_dictionary: columns that are read as dictionaries, as they are stored.
    """
    with opened(path) as file:
        _tail(file)
    return pq.ParquetFile(path, read_dictionary=list(read_dictionary) or None, page_checksum_verification=True)


def read_table(path: str | PathLike[str], columns: Sequence[str] | None = None, *, may_lack: bool = False) -> pa.Table:
    """Return the rows of a Parquet file. Raises Damaged if its content is damaged, StoreError if it is unreadable,
    DataError if it asks for more memory than a table of a run may, or lacks one of the columns.

    may_lack: columns that it lacks are left out.
    """
    path = given_path("table", path)
    is_list = isinstance(columns, Sequence) and not isinstance(columns, str | bytes)
    if columns is not None and not (is_list and all(isinstance(name, str) for name in columns)):
        raise ConfigError(f"columns: expected a list of names, such as ['crop_id'], got {one_line(repr(columns), 80)}")
    columns = None if columns is None else list(columns)
    try:
        with open_table(path) as file:  # pq.read_table loads pyarrow.dataset, and with it pandas: 0.25 s
            there = file.schema_arrow.names
            if not may_lack and (lacks := [name for name in columns or () if name not in there]):
                raise DataError(f"{path}: expected a column {lacks[0]!r}, found {one_line(', '.join(there), 300)}")
            refuse_large_table(file, path, columns, OF_RUN)
            if endless := endless_texts(file, columns):
                with open_table(path, endless) as coded:
                    for name in endless:
                        refuse_large_texts(coded.read([name])[name], path, OF_RUN)
            return file.read(columns)
    except MemoryError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        kind = Damaged if getattr(error, "errno", None) in _DAMAGE else StoreError
        raise kind(f"{path}: cannot be read as a Parquet table: {one_line(error, 160)}") from None


def read_metadata(path: Path) -> tuple[dict[bytes, bytes], bool]:
    """What a footer holds besides the schema, and whether the file is sealed. Raises OSError, ArrowException."""
    with opened(path) as file:
        footer, found = _tail(file)
    whole = b"PAR1" + footer + _END.pack(len(footer), b"PAR1")
    return pq.read_metadata(pa.BufferReader(whole)).metadata or {}, found is not None


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(cannot_write(path, error)) from error


def _tail(file: BinaryIO) -> tuple[bytes, tuple[int, bytes] | None]:
    """The footer, and the seal before it (its checksum, the digest of the file). Raises OSError where they differ."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _GUESS, 0))
    data = file.read()
    length, magic = _END.unpack(data[-_END.size :]) if size >= _END.size + 4 else (0, b"")
    if magic != b"PAR1" or length + _END.size + 4 > size:
        raise OSError("Parquet magic bytes not found in footer: no Parquet file, or one that was cut off")
    wanted = min(length + _END.size + _SEAL.size, size)
    if wanted > len(data):
        file.seek(size - wanted)
        data = file.read()
    footer = data[-length - _END.size : -_END.size]
    before = data[-wanted : -length - _END.size]
    if len(before) < _SEAL.size or not before.startswith(MARK):
        return footer, None
    _, crc, digest = _SEAL.unpack(before)
    if zlib.crc32(footer) != crc:
        raise OSError("the footer does not match its checksum")
    return footer, (crc, digest)
