"""Units of H.264 and HEVC (NAL units): what a packet says about its picture before that is decoded."""

from __future__ import annotations

from collections.abc import Iterator

_IDR, _SEI = 5, 6  # kinds of H.264: a picture that nothing behind it reaches across; remarks
_RECOVERY_POINT = 6  # kind of a remark
_IRAP = range(16, 24)  # kinds of HEVC: pictures at which decoding may begin


def is_idr(packet: bytes, header: bytes) -> bool:
    """Whether a packet of H.264 holds a picture that nothing behind it reaches across (kind 5)."""
    return any(unit[0] & 31 == _IDR for unit in _units(packet, header, 4))


def h264_restarts(packet: bytes, header: bytes) -> bool:
    """Whether all pictures shown from this one on decode without those before it.

    So it is with an IDR picture, and with one whose recovery point (SEI) is itself and exact: an open group. A picture
    that is refreshed step by step recovers later.
    """
    units = list(_units(packet, header, 4))
    if any(unit[0] & 31 == _IDR for unit in units):
        return True
    return any(_recovers_at_once(unit) for unit in units if unit[0] & 31 == _SEI)


def hevc_restarts(packet: bytes, header: bytes) -> bool:
    """Whether a packet of HEVC holds a random access picture (IRAP); what leads it is shown before it."""
    return any((unit[0] >> 1) & 63 in _IRAP for unit in _units(packet, header, 21))


def _units(packet: bytes, header: bytes, width_at: int) -> Iterator[bytes]:
    """The beginnings of a packet's units, 64 bytes at most.

    header: what the container keeps for the decoder; its byte `width_at` holds the width of lengths as mp4 and mkv
    keep them, before each unit. In other containers a unit begins behind 0, 0, 1.
    """
    if header[:1] == b"\1" and len(header) > width_at:
        width, position = (header[width_at] & 3) + 1, 0
        while position + width < len(packet):
            size = int.from_bytes(packet[position : position + width], "big")
            position += width
            if size:
                yield packet[position : position + min(size, 64)]
            position += size
        return
    position = packet.find(b"\0\0\1")
    while 0 <= position < len(packet) - 3:
        following = packet.find(b"\0\0\1", position + 3)
        yield packet[position + 3 : min(position + 67, following if following >= 0 else len(packet))]
        position = following


def _recovers_at_once(unit: bytes) -> bool:
    """Whether a unit of remarks holds a recovery point of 0 pictures."""
    position = 1
    while position + 2 < len(unit):
        kind = size = 0
        while position < len(unit) and unit[position] == 255:
            kind, position = kind + 255, position + 1
        kind, position = kind + unit[position], position + 1
        while position < len(unit) and unit[position] == 255:
            size, position = size + 255, position + 1
        if position >= len(unit):
            return False
        size, position = size + unit[position], position + 1
        if kind == _RECOVERY_POINT:
            return position < len(unit) and unit[position] >= 0b11000000  # count 0 is the bit 1; then: it is exact
        position += size
    return False
