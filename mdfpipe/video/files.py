"""Whether a file is there to be read at all, before a library is asked to open it."""

from __future__ import annotations

from pathlib import Path

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.store.content import stand_in

_PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\x00": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}


def check_file(path: Path) -> None:
    """Raise DecodeError unless `path` is a readable file with something in it."""
    instead = stand_in(path)
    if instead is not None:
        raise DecodeError(f"{path}: expected a video or an image, got {instead}")
    try:
        if not path.is_file():
            raise DecodeError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            head = file.read(8)
            if not head:
                raise DecodeError(f"{path}: the file is empty (0 bytes)")
            if packed := next((name for start, name in _PACKED.items() if head.startswith(start)), None):
                raise DecodeError(f"{path}: expected a video or an image, got {packed}; unpack it")
    except (OSError, ValueError) as error:
        raise DecodeError(f"{path}: cannot be read: {one_line(error)}") from None
