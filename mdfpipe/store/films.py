"""Bytes of video files: whether a file is a video, whether others follow in it, and the boxes of an mp4 or mov.

Files joined by `cat` are one video in some containers. In the others every reader silently ends with the first.
The boxes (ISO/IEC 14496-12) say where they end, and how many pictures their tables claim.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_CHUNK = 1 << 24  # bytes
_LONGEST_HEADER = 128  # bytes of what `_HEADERS` looks for

# The header of a film, by FFmpeg's name of the container. mp4 is walked: what is in its pictures is not looked at.
_HEADERS: Final[dict[str, re.Pattern[bytes]]] = {
    "flv": re.compile(rb"FLV\x01[\x00-\x05]\x00\x00\x00\x09\x00\x00\x00\x00", re.DOTALL),
    "asf": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
    "yuv4mpegpipe": re.compile(rb"YUV4MPEG2 (?=[^\n]{0,80}W[0-9])(?=[^\n]{0,80}H[0-9])"),
    "ivf": re.compile(rb"DKIF\x00\x00\x20\x00[A-Z0-9]{4}"),
    "rm": re.compile(rb"\.RMF\x00\x00\x00[\x10-\x14]\x00", re.DOTALL),
    "apng": re.compile(rb"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
    "nut": re.compile(rb"nut/multimedia container\x00"),
    "ogg": re.compile(rb"OggS\x00\x02\x00{8}.{12}(?:\x80theora|\x01video|OVP80|\x7fFLV)", re.DOTALL),
}
_STARTS = (  # of the other containers that are read
    *(rb"\x1a\x45\xdf\xa3", rb"RIFF.{4}AVI ", rb"GIF8[79]a", rb"\x00\x00\x01[\xb3\xba\xb0]", rb"\x06\x0e\x2b\x34"),
    *(rb".{4}(?:ftyp|moov|mdat|moof|wide)", rb"\x00\x00\x00\x01[\x67\x27\x40\x42]", rb"(?:\x47.{187}){3}", rb"OggS"),
    rb".{4}(?:\x47.{191}){3}",
)
_FILM = re.compile(b"|".join([*_STARTS, *(header.pattern for header in _HEADERS.values())]), re.DOTALL)


def holds_film(path: Path) -> bool:
    """Whether a file begins as a video does, under any name. False where it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return _FILM.match(file.read(1024)) is not None
    except (OSError, ValueError):
        return False


def films_behind(path: Path, container: str) -> int:
    """Number of films behind the first in a file, which neither players nor FFmpeg read.

    container: as FFmpeg names it. 0 for containers of which all that were put together are read.
    """
    first = container.partition(",")[0]
    if first == "mov":
        with path.open("rb") as file:
            found = sum(kind == b"moov" for kind, _, _ in boxes(file, 0, path.stat().st_size))
    elif first in _HEADERS:
        found = _headers(path, _HEADERS[first])
    else:
        return 0
    return max(found - 1, 0)


def _headers(path: Path, header: re.Pattern[bytes]) -> int:
    """How often a header is in a file."""
    found, kept = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            data = kept + chunk
            matches = [match.end() for match in header.finditer(data)]
            found += len(matches)
            kept = data[max(len(data) - _LONGEST_HEADER, matches[-1] if matches else 0) :]
    return found


BYTES_OF_SAMPLE: Final = 24
"""What FFmpeg keeps of each sample that a table claims, before it has read any of them."""

FIRST_BOXES: Final = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx"}
)
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
