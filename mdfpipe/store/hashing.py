"""Hashes of values, files and tables, and stamps, which tell without reading whether a file has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mdfpipe.errors import DataError
from mdfpipe.store.files import opened

if TYPE_CHECKING:
    import pyarrow as pa


def fingerprint(value: object) -> str:
    """A short hash of a JSON-like value, for any order of its keys.

    >>> fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits.

    A file is taken for unchanged while its (path, size, mtime_ns) are: it is then hashed once in a process.
    Raises DataError where it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)  # noqa: PTH100 - keeps symbolic links
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


@lru_cache(maxsize=4096)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    return bytes_sha256(Path(path))


def bytes_sha256(path: Path, read: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file's bytes as they are now: for a file that was written a moment ago. Raises OSError.

    read: called with the number of bytes of each read.
    """
    with opened(path) as file:
        return digest_of(file, read=read).hexdigest()


def digest_of(file: BinaryIO, size: int | None = None, read: Callable[[int], None] | None = None) -> hashlib._Hash:
    """The sha256 of the next `size` bytes of a file, of all that are left without one; read: as for `bytes_sha256`."""
    digest = hashlib.sha256()
    while data := file.read(1 << 20 if size is None else min(size, 1 << 20)):
        digest.update(data)
        size = size if size is None else size - len(data)
        if read is not None:
            read(len(data))
    return digest


def table_sha256(table: pa.Table) -> str:
    """The sha256 of a table's columns: names, types and values, in their order, to the last bit.

    How it is chunked, what its buffers hold where a value is null, the order of a dictionary and the metadata of the
    schema do not enter.
    """
    digest = hashlib.sha256(f"{table.num_rows}\n".encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"{len(name)}:{name}:{_words(column.type)}:".encode())
        digest.update(_column(column.chunks, column.type))
    return digest.hexdigest()


def _words(kind: pa.DataType) -> str:
    """A type in words; of a list without the name of its field, which Parquet changes."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} of {_words(kind.value_type)}"
    return f"list of {_words(kind.value_type)}" if pa.types.is_nested(kind) else str(kind)


def _column(chunks: Sequence[pa.Array], kind: pa.DataType) -> bytes:
    """The digest of the values of a column, given in any number of chunks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(kind):
        return _column([chunk.dictionary_decode() for chunk in chunks], kind.value_type)
    present, sizes, values = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for chunk in chunks:
        present.update(chunk.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        for chunk in chunks:
            sizes.update(pc.list_value_length(chunk).fill_null(0).cast(pa.int64()).to_numpy().tobytes())
        values.update(_column([chunk.flatten() for chunk in chunks], kind.value_type))  # leaves out those that are null
    elif kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        for chunk in chunks:
            text = (chunk.fill_null(pa.scalar(b"").cast(kind)) if chunk.null_count else chunk).cast(pa.large_binary())
            ends = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
            sizes.update(np.diff(ends).tobytes())
            if len(text) and ends[-1] > ends[0]:
                values.update(memoryview(text.buffers()[2])[ends[0] : ends[-1]])
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        for chunk in chunks:
            known = chunk.fill_null(False if pa.types.is_boolean(kind) else 0) if chunk.null_count else chunk
            values.update(np.ascontiguousarray(known.to_numpy(zero_copy_only=False)).tobytes())
    else:
        raise TypeError(f"a column of {kind} has no content hash yet; add it here")
    return b"".join(part.digest() for part in (present, sizes, values))


def stamp(path: Path | str, depth: int = 0) -> str | None:
    """Size and modification time of a file, or of each file of a folder by name; None where there is nothing.

    A video is unchanged while this is, so that it need not be read again. depth: of the folders below whose
    files count, too.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - once, and without a Path: of 100,000 videos at each call
        if not S_ISDIR(found.st_mode):
            return f"{found.st_size}:{found.st_mtime_ns}"
        files = sorted(_below(path, depth))
    except (OSError, ValueError):  # a name with a NUL is no file's
        return None
    return f"{len(files)}:{sum(size for _, size, _ in files)}:{fingerprint(files)}"


def stamp_of_files(names: Iterable[str], data: Path) -> str | None:
    """The same for these files below `data`, in any folders."""
    try:
        return fingerprint([(name, (s := (data / name).stat()).st_size, s.st_mtime_ns) for name in names])
    except (OSError, ValueError):
        return None


def _below(folder: Path | str, depth: int, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """(name, size, modification time) of the files at most `depth` folders below: a link may lead round in a circle."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_file, is_folder = entry.is_file(), entry.is_dir()
            except OSError:  # a link that leads round in a circle
                continue
            if is_file:
                found = entry.stat()
                yield prefix + entry.name, found.st_size, found.st_mtime_ns
            elif is_folder and depth:
                yield from _below(entry.path, depth - 1, f"{prefix}{entry.name}/")
