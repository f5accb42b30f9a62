"""Matroska and WebM: which of their parts are damaged, by the CRC-32 that FFmpeg writes into each and does not check.

A file is a segment of elements: a header of tracks, then clusters, each with the packets of some seconds. One that
begins with a CRC-32 element (RFC 8794, section 11.3.1) holds the checksum of all that follows in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"
_CHECKED = {b"\x16\x54\xae\x6b": "header of tracks", b"\x1f\x43\xb6\x75": "cluster"}
_OTHERS = (
    *(b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67"),  # seek, info, cues, tags
    *(b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\xec"),  # attachments, chapters, void
)
_CRC = b"\xbf\x84"
_CHUNK = 1 << 20  # bytes


def element(file: BinaryIO) -> tuple[bytes, int | None]:
    """The ID of the element at this place of the file and the bytes of its content; None where it does not say."""
    first = file.read(1)
    name = first + file.read(8 - first[0].bit_length() if first and first[0] else 0)
    return name, size_here(file)


def size_here(file: BinaryIO) -> int | None:
    """The EBML number at this place of the file; None where it says unknown (a live recording)."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value


def damage(path: Path) -> Iterator[tuple[int, str | None]]:
    """(end, what is wrong) of each element of the first segment; nothing more from one that is cut or unknown on."""
    end = path.stat().st_size
    with path.open("rb") as file:
        _, header = element(file)
        file.seek(header or 0, 1)
        name, _ = element(file)
        if name != _SEGMENT:
            return
        while (start := file.tell()) < end:
            name, size = element(file)
            if size is None or file.tell() + size > end or name not in (*_CHECKED, *_OTHERS):
                return
            after = file.tell() + size
            is_sound = name not in _CHECKED or _holds(file, size)
            yield after, None if is_sound else f"the checksum of the {_CHECKED[name]} from byte {start} on is wrong"
            file.seek(after)


def _holds(file: BinaryIO, size: int) -> bool:
    """Whether the checksum of the element whose content starts here is right; so where it has none."""
    if size < 6 or file.read(2) != _CRC:
        return True
    expected, crc, left = int.from_bytes(file.read(4), "little"), 0, size - 6
    while left > 0 and (chunk := file.read(min(left, _CHUNK))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc == expected
