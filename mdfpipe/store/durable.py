"""Files that survive a power cut: written, synced, renamed, and the folder that lists them synced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from mdfpipe.store.owner import temporary


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file, sync, rename it to `path`."""
    unfinished = temporary(path)
    try:
        write_synced(unfinished, data)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # what a failure leaves takes up the disk
            unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_synced(place: Path, data: bytes, *, new: bool = False) -> None:
    """Write `data` in place and sync it. new: raise FileExistsError where there is a file."""
    with place.open("xb" if new else "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Sync a file, or what a folder lists."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
