"""Transport streams: where packets are missing, and where one recording was put behind another.

Each packet of a stream carries a counter of 4 bits. Where it jumps, packets are missing, or two files were joined: then
the jump is at the start of a picture, and both sides are whole. FFmpeg marks a picture nearby in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SYNC = 0x47
_SIZES = (188, 192, 204)  # plain; with a time stamp before each packet (m2ts); with Reed-Solomon bytes behind it
_CHUNK = 188 * 192 * 204 * 4  # bytes: whole packets of every size


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


def missing_bytes(path: Path) -> int:
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
    """Where in its first packet the sync bytes of packets of this length stand; None where they do not."""
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
