"""Containers by their own sizes, counters and checksums, which FFmpeg does not check: what is missing, what is damaged.

*Matroska, WebM*: a segment of elements: a header of tracks, then clusters, each with the packets of some seconds. An
element that begins with a CRC-32 (RFC 8794, section 11.3.1) holds the checksum of all that follows in it.
*Ogg*: each page has a CRC-32; FFmpeg drops a page that does not match, and its pictures, silently.
*Transport streams*: each packet of a stream has a counter of 4 bits. Where it jumps, packets are missing, or two files
were joined: then the jump is at the start of a picture, and both sides are whole. FFmpeg marks a picture nearby in
either case.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from mdfpipe.store.films import end_of_boxes

_SEGMENT = b"\x18\x53\x80\x67"
_CHECKED = {b"\x16\x54\xae\x6b": "header of tracks", b"\x1f\x43\xb6\x75": "cluster"}
_OTHERS = (
    *(b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67"),  # seek, info, cues, tags
    *(b"\x19\x41\xa4\x69", b"\x10\x43\xa7\x70", b"\xec"),  # attachments, chapters, void
)
_CRC = b"\xbf\x84"
_READ_AT_ONCE = 1 << 20  # bytes
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PAGE_HEADER = 27  # bytes of an Ogg page before the lengths of its segments
_SYNC = 0x47
_SIZES = (188, 192, 204)  # plain; with a time stamp before each packet (m2ts); with Reed-Solomon bytes behind it
_CHUNK = 188 * 192 * 204 * 4  # bytes: whole packets of every size


def missing_end(path: Path, container: str) -> str | None:
    """Why the file ends before its container does, as a few words; None where it is whole or one cannot tell.

    Compares the sizes that mp4, mkv, avi and ts write down with the size of the file: a file cut between two packets
    decodes without any error otherwise. container: its format, as FFmpeg names it once the file is open; the first
    bytes prove nothing (a GIF may have the marks of a transport stream).
    """
    size = path.stat().st_size
    end = size
    with path.open("rb") as file:
        if container.startswith("mov,"):
            end = end_of_boxes(file, size)
        elif container.startswith("matroska"):
            name, length = _behind_header(file)
            end = 0 if name != _SEGMENT or length is None else file.tell() + length
        elif container == "avi":
            end = _riff_end(file, size)
        elif container == "mpegts":
            end = size + _missing_bytes(path)
    return f"the file ends {end - size} bytes before its container does" if end > size else None


def _riff_end(file: BinaryIO, size: int) -> int:
    position = 0
    while position + 8 <= size:  # OpenDML: one RIFF chunk after the other
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or not length:
            return size
        position += 8 + length + length % 2
    return position - 1 if position == size + 1 else position


# -- Matroska


def _element(file: BinaryIO) -> tuple[bytes, int | None]:
    """The ID of the element at this place of the file and the bytes of its content; None for a live recording's."""
    first = file.read(1)
    name = first + file.read(8 - first[0].bit_length() if first and first[0] else 0)
    first = file.read(1)
    if not first or not first[0]:
        return name, None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> extra)]) + file.read(extra), "big")
    return name, None if value == (1 << 7 * (extra + 1)) - 1 else value


def _behind_header(file: BinaryIO) -> tuple[bytes, int | None]:
    """The element behind the first one, as `_element`; in a Matroska file, its segment."""
    _, header = _element(file)
    file.seek(header or 0, 1)
    return _element(file)


def matroska_damage(path: Path) -> Iterator[tuple[int, str | None]]:
    """(end, what is wrong) of each element of the first segment, up to one that is cut or unknown."""
    end = path.stat().st_size
    with path.open("rb") as file:
        if _behind_header(file)[0] != _SEGMENT:
            return
        while (start := file.tell()) < end:
            name, size = _element(file)
            if size is None or file.tell() + size > end or name not in (*_CHECKED, *_OTHERS):
                return
            after = file.tell() + size
            is_sound = name not in _CHECKED or _holds(file, size)
            yield after, None if is_sound else f"the checksum of the {_CHECKED[name]} from byte {start} on is wrong"
            file.seek(after)


def _holds(file: BinaryIO, size: int) -> bool:
    """Whether the checksum of the element whose content starts here is right, or it has none."""
    if size < 6 or file.read(2) != _CRC:
        return True
    expected, crc, left = int.from_bytes(file.read(4), "little"), 0, size - 6
    while left > 0 and (chunk := file.read(min(left, _READ_AT_ONCE))):
        crc, left = zlib.crc32(chunk, crc), left - len(chunk)
    return crc == expected


# -- Ogg


def forward_crc(data: bytes) -> int:
    """The CRC-32 of Ogg and FFV1: that of zlib, most significant bit first and from 0, its bits reversed."""
    return zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF


def ogg_damage(path: Path) -> Iterator[tuple[int, str | None]]:
    """(end, what is wrong) of each page, up to one that is cut."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while (start := file.tell()) + _PAGE_HEADER <= end:
            head = file.read(_PAGE_HEADER)
            lengths = file.read(head[-1])
            if start + _PAGE_HEADER + len(lengths) + sum(lengths) > end:
                return
            page = head[:22] + bytes(4) + head[26:] + lengths + file.read(sum(lengths))
            expected = int.from_bytes(head[22:26].translate(_REVERSED), "big")
            is_sound = head[:4] == b"OggS" and forward_crc(page) == expected
            yield file.tell(), None if is_sound else f"the checksum of the Ogg page at byte {start} is wrong"
            if head[:4] != b"OggS":
                return  # where the next one starts is a guess


# -- transport streams


@dataclass(frozen=True)
class Breaks:
    """Where the counter of one stream jumps.

    inside: the place in the file of each picture, by its first packet, within which packets are missing.
    between: the place of each picture that starts right behind a jump.
    """

    inside: tuple[int, ...] = ()
    between: tuple[int, ...] = ()


def breaks(path: Path, stream_id: int) -> Breaks:
    """Where packets of a stream (its PID) are missing. Reads the whole file; nothing where it has no packets."""
    inside: list[int] = []
    between: list[int] = []
    last, started = -1, 0
    for place, packets in _packets(path):
        chosen = ((packets[:, 1].astype(int) & 31) << 8 | packets[:, 2]) == stream_id
        if not chosen.any():
            continue
        rows, at = packets[chosen], place[chosen]
        counter, has_payload = rows[:, 3] & 15, (rows[:, 3] & 16) > 0
        announced = ((rows[:, 3] & 32) > 0) & (rows[:, 4] > 0) & ((rows[:, 5] & 128) > 0)
        starts = (rows[:, 1] & 64) > 0
        before = np.concatenate([[last], counter[:-1]]).astype(int)
        repeated = counter == before  # a packet sent twice, or one without payload
        jumps = (before >= 0) & ~announced & ~repeated & ~(has_payload & (counter == (before + 1) % 16))
        pictures = np.maximum.accumulate(np.where(starts, at, started))
        between += at[jumps & starts].tolist()
        inside += pictures[jumps & ~starts].tolist()
        last, started = int(counter[-1]), int(pictures[-1])
    return Breaks(tuple(inside), tuple(between))


def _missing_bytes(path: Path) -> int:
    """How many bytes the last packet of a transport stream lacks; 0 where it is whole or no packets are found."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _SIZES[-1] * 9, 0))
        tail = np.frombuffer(file.read(), np.uint8)
    for length in _SIZES:
        start = _aligned(tail, length)
        if start is not None:
            first = start - 4 if length == 192 else start  # of a packet
            return int(-(len(tail) - first) % length)
    return 0


def _aligned(data: NDArray[np.uint8], length: int, least: int = 3) -> int | None:
    """Place in its first packet of the sync bytes of packets of this length; None where they do not."""
    for start in range(min(length, len(data))):
        marks = data[start::length]
        if len(marks) >= least and (marks == _SYNC).all():
            return start
    return None


def _packets(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """(n,) place in the file and (n, 188) bytes of the packets, in blocks; what is between packets is left out."""
    with path.open("rb") as file:
        head = np.frombuffer(file.read(_SIZES[-1] * 64), np.uint8)
        found = ((length, _aligned(head[: length * 5], length)) for length in _SIZES)
        length, start = next(((n, s) for n, s in found if s is not None), (188, 0))
        position = start
        while True:
            file.seek(position)
            data = np.frombuffer(file.read(_CHUNK), np.uint8)
            count = (len(data) - 188) // length + 1 if len(data) >= 188 else 0
            if count <= 0:
                return
            padded = np.zeros(count * length, np.uint8)
            padded[: min(len(data), len(padded))] = data[: len(padded)]
            rows = padded.reshape(count, length)[:, :188]
            good = rows[:, 0] == _SYNC
            whole = int(np.argmin(good)) if not good.all() else count
            if whole:
                yield position + length * np.arange(whole, dtype=np.int64), rows[:whole]
            if whole == count:
                position += count * length
                continue
            rest = data[whole * length + 1 :]  # bytes were lost: the next three packets in a row go on
            marks = rest == _SYNC
            ahead = [marks[n * length : len(marks) - (2 - n) * length] for n in range(3)]
            again = np.flatnonzero(ahead[0] & ahead[1] & ahead[2]) if len(marks) > 2 * length else np.zeros(0, int)
            position += whole * length + 1 + (int(again[0]) if len(again) else len(rest))
