"""The boxes of an mp4 or mov (ISO/IEC 14496-12): where they end, and how many pictures their tables claim."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

BYTES_OF_SAMPLE: Final = 24
"""What FFmpeg keeps of each sample that a table claims, before it has read any of them."""

FIRST: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx"})
"""The kinds of box with which a file may begin."""

_HOLDERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})
_DEEPEST = 8
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}  # where the count is, behind the head of the box


def boxes(file: BinaryIO, start: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, begin of its content, end) of the boxes up to `size`; of no kind where one goes up to it, or padding."""
    position = start
    while position + 8 <= size:
        file.seek(position)
        head, (length, kind) = 8, struct.unpack(">I4s", file.read(8))
        if length == 1 and position + 16 <= size:
            head, (length,) = 16, struct.unpack(">Q", file.read(8))
        if length < 8 or not kind.isalnum():
            yield b"", position + 8, size
            return
        yield kind, position + head, position + length
        position += length


def end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box says that it ends, which may be behind the end of the file."""
    end = 0
    for kind, _, after in boxes(file, 0, size):
        if not kind:
            return size
        end = after
    return end


def films(file: BinaryIO, size: int) -> int:
    """How many films lie one behind the other."""
    return sum(kind == b"moov" for kind, _, _ in boxes(file, 0, size))


def claimed_pictures(file: BinaryIO, size: int) -> int:
    """How many samples the tables of the video tracks and of the fragments claim, whether or not they are there.

    A few bytes may claim four thousand million: of one size, so that nothing more is written. (The samples of sound
    are counted one by one, too, and FFmpeg keeps them in blocks.)
    """
    return _claimed(file, 0, size, 0)


def _claimed(file: BinaryIO, start: int, end: int, depth: int) -> int:
    total = 0
    for kind, begin, after in boxes(file, start, end):
        inner = min(after, end)
        if kind in _HOLDERS and depth < _DEEPEST and not (kind == b"trak" and _handler(file, begin, inner) != b"vide"):
            total += _claimed(file, begin, inner, depth + 1)
        elif kind in _COUNTS:
            file.seek(begin + _COUNTS[kind])
            total += int.from_bytes(file.read(4), "big")
    return total


def _handler(file: BinaryIO, start: int, end: int) -> bytes | None:
    """What a track holds: `vide`, `soun`, ..."""
    for kind, begin, after in boxes(file, start, end):
        if kind == b"mdia":
            return _handler(file, begin, min(after, end))
        if kind == b"hdlr":
            file.seek(begin + 8)
            return file.read(4)
    return None
