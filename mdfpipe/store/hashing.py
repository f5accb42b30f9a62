"""Content hashes of files, taken once for each state of a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from mdfpipe.errors import DataError
from mdfpipe.store.regular import opened


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

    read: told how many bytes were read, as they are.
    """
    with opened(path) as file:
        if read is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while data := file.read(1 << 20):
            digest.update(data)
            read(len(data))
        return digest.hexdigest()
