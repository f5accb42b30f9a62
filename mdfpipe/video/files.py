"""Whether a file is there to be read at all, before a library is asked to open it."""

from __future__ import annotations

from pathlib import Path

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.store.standins import stand_in


def check_file(path: Path) -> None:
    """Raise DecodeError unless `path` is a readable file with something in it."""
    instead = stand_in(path)
    if instead is not None:
        raise DecodeError(f"{path}: expected a video or an image, got {instead}")
    try:
        if not path.is_file():
            raise DecodeError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            if not file.read(1):
                raise DecodeError(f"{path}: the file is empty (0 bytes)")
    except (OSError, ValueError) as error:
        raise DecodeError(f"{path}: cannot be read: {one_line(error)}") from None
