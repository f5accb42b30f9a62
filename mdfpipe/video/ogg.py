"""Ogg: which page is damaged, by the CRC-32 in each; FFmpeg drops such a page, and its pictures, without a word."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_HEADER = 27  # bytes of a page before the lengths of its segments


def forward_crc(data: bytes) -> int:
    """The CRC-32 that Ogg and FFV1 have: that of zlib, most significant bit first and from 0, its bits reversed."""
    return zlib.crc32(data.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF


def damage(path: Path) -> Iterator[tuple[int, str | None]]:
    """(end, what is wrong) of each page; nothing more from one that is cut on."""
    end = path.stat().st_size
    with path.open("rb") as file:
        while (start := file.tell()) + _HEADER <= end:
            head = file.read(_HEADER)
            lengths = file.read(head[-1])
            if start + _HEADER + len(lengths) + sum(lengths) > end:
                return
            page = head[:22] + bytes(4) + head[26:] + lengths + file.read(sum(lengths))
            expected = int.from_bytes(head[22:26].translate(REVERSED), "big")
            is_sound = head[:4] == b"OggS" and forward_crc(page) == expected
            yield file.tell(), None if is_sound else f"the checksum of the Ogg page at byte {start} is wrong"
            if head[:4] != b"OggS":
                return  # where the next one starts is a guess
