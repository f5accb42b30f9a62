"""Regular files: what a run folder holds is opened as one, never a pipe that waits or a device that has no end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def opened(path: Path) -> BufferedReader:
    """Return a file open for reading. Raises OSError, also where it is a pipe, a socket or a device."""
    return open(path, "rb", opener=_regular)


def bytes_of(path: Path) -> bytes:
    """Return the bytes of a file. Raises OSError as `opened` does."""
    with opened(path) as file:
        return file.read()


def _regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else opening a pipe waits for who writes to it
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "is a folder" if stat.S_ISDIR(mode) else "is a pipe, socket or device", path)
    return handle
