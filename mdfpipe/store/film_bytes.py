"""What the bytes of a video file say without being opened: whether it is one, and whether others lie behind it.

Files that `cat` put one behind the other are one video in some containers. In the others every reader ends with the
first, and none says so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from mdfpipe.store import mp4

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
    """How many films lie behind the first in a file, which neither players nor FFmpeg read.

    container: as FFmpeg names it. 0 for containers of which all that were put together are read.
    """
    first = container.partition(",")[0]
    if first == "mov":
        with path.open("rb") as file:
            films = mp4.films(file, path.stat().st_size)
    elif first in _HEADERS:
        films = _headers(path, _HEADERS[first])
    else:
        return 0
    return max(films - 1, 0)


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
