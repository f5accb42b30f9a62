"""Checksums that codecs write into their packets: they show damage that FFmpeg conceals with a line in its log.

FFV1 level 3 (RFC 9043, section 4.9) ends each slice with its size, a status and a CRC-32; FFmpeg fills the place of a
slice whose CRC is wrong from the frame before, and gives the frame as sound. PNG has a CRC-32 in each chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from itertools import islice

Check = Callable[[bytes], str | None]
"""What is wrong with a packet, in a few words; None where its checksums hold."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_PNG = b"\x89PNG\r\n\x1a\n"
_TRAILER = 8  # bytes that close an FFV1 slice: 3 of size, 1 of status, 4 of CRC
_ASKED = 16  # packets that are asked whether the file has checksums at all


def check_of(codec: str, packets: Iterable[bytes]) -> Check | None:
    """The check of a codec's packets; None where it writes no checksums. packets: the first ones of the video.

    Whether an FFV1 file has them stands in a range-coded header. Its packets say it, too: by their slices' sizes they
    can be walked from the end to exactly their beginning. One damaged packet does not outvote the others.
    """
    if codec == "png":
        return png_damage
    if codec != "ffv1":
        return None
    asked = list(islice(packets, _ASKED))
    with_crc = sum(_slices(packet, _TRAILER) is not None for packet in asked)
    without = sum(_slices(packet, 3) is not None for packet in asked)
    return ffv1_damage if with_crc > without else None


def ffv1_damage(packet: bytes) -> str | None:
    """Which slice of an FFV1 packet is damaged; None where all CRCs hold."""
    parts = _slices(packet, _TRAILER)
    if parts is None:
        return "the sizes of its slices do not add up"
    for number, part in enumerate(reversed(parts)):
        if zlib.crc32(part.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF:  # most significant bit first, from 0
            return f"the checksum of slice {number + 1} of {len(parts)} is wrong"
    return None


def _slices(packet: bytes, trailer: int) -> list[bytes] | None:
    """The slices of a packet, each with its trailer, the last first; None where their sizes do not add up."""
    parts, end = list[bytes](), len(packet)
    while end > 0:
        size = int.from_bytes(packet[max(end - trailer, 0) : end - trailer + 3], "big") + trailer
        if size > end or size == trailer:
            return None
        parts.append(packet[end - size : end])
        end -= size
    return parts or None


def png_damage(data: bytes) -> str | None:
    """Which chunk of a PNG file is damaged; None where all CRCs hold and the last chunk is there."""
    if not data.startswith(_PNG):
        return "it does not begin as a PNG does"
    at = len(_PNG)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name, body = data[at + 4 : at + 8], data[at + 4 : at + 8 + size]
        if len(body) < size + 4 or at + 12 + size > len(data):
            break
        if zlib.crc32(body) != int.from_bytes(data[at + 8 + size : at + 12 + size], "big"):
            shown = name.decode("ascii") if name.isalpha() else "without a name"
            return f"the checksum of the chunk {shown} is wrong"
        if name == b"IEND":
            return None
        at += 12 + size
    return "it ends before its last chunk"
