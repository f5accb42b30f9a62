"""Packets of a video, of which nothing is decoded: how many there are, their times, and which are damaged.

Some codecs write checksums into their packets, which show damage that FFmpeg conceals with a line in its log.
FFV1 level 3 (RFC 9043, section 4.9) ends each slice with its size, a status and a CRC-32; FFmpeg fills the place of a
slice whose CRC is wrong from the frame before, and gives the frame as sound. PNG and APNG have a CRC-32 in each chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.video.containers import forward_crc, matroska_damage, ogg_damage
from mdfpipe.video.probe import open_video

if TYPE_CHECKING:
    import av

Check = Callable[[bytes], str | None]
"""What is wrong with a packet, in a few words; None where its checksums hold."""

_WALKS = {"matroska": matroska_damage, "ogg": ogg_damage}
_PNG = b"\x89PNG\r\n\x1a\n"
_TRAILER = 8  # bytes that close an FFV1 slice: 3 of size, 1 of status, 4 of CRC
_ASKED = 16  # packets that are asked whether the file has checksums at all


class Checks:
    """The checksums of one pass over a video stream, as `open_video` takes it: of its packets or, without, its file.

    Those of packets tell which is damaged; those of Matroska and Ogg only that one of some is. part: to check only
    what packets hold themselves, or only what the file holds instead.
    """

    def __init__(self, path: Path, which: int | None, part: Literal["all", "packets", "file"] = "all") -> None:
        self._check, container = _check_for(path, which)
        walk = _WALKS.get(container.partition(",")[0]) if self._check is None and part != "packets" else None
        if part == "file":
            self._check = None
        self._walk = walk(path) if walk else None
        self._end = 0
        self._found: str | None = None

    def damage(self, packet: av.Packet[Any]) -> str | None:
        """What is wrong with a packet, in a few words."""
        if self._check is not None:
            return self._check(bytes(packet))
        return None if packet.pos is None else self._up_to(packet.pos)

    def rest(self) -> str | None:
        """What is wrong with the file behind the last packet: there may have been more."""
        return self._up_to((1 << 62) - 1)

    def _up_to(self, place: int) -> str | None:
        """What is wrong with the part of the file that holds this place, or with one before."""
        while self._walk is not None and place >= self._end and self._found is None:
            self._end, self._found = next(self._walk, (1 << 62, None))
        return self._found


def _check_for(path: Path, which: int | None) -> tuple[Check | None, str]:
    """The check of the packets, None where they have no checksums; and the name of the container."""
    import av.error

    first = list[bytes]()
    with open_video(path, which) as (container, stream):
        kind = container.format.name
        codec, extradata = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
        if codec == "ffv1":
            with suppress(av.error.FFmpegError):  # whoever decodes says so
                first += islice((bytes(packet) for packet in container.demux(stream) if packet.size), _ASKED)
    if codec == "apng" and (damage := _chunk_damage(extradata)):
        return lambda packet: f"in its header, {damage}", kind
    return check_of(codec, first, extradata), kind


@dataclass(frozen=True, eq=False)
class Packets:
    """What the packets of a video say; nothing is decoded.

    times: (n,) presentation times in seconds, one for each packet that shows a frame; n is the honest frame count of a
    container. They ascend, NaN last, within each of the recordings that were put one behind the other. hidden: how many
    show no frame (discarded by an edit list, alt-ref frames of VP8, empty ones of avi), though a header counts them.
    broken: why the container breaks off behind the last; None where it does not. damage: what the checksums of the
    packet of frame number `damaged` say, if they were checked; that of a Matroska cluster begins at its first packet.
    """

    path: Path
    times: NDArray[np.float64]
    hidden: int
    broken: str | None
    damage: str | None
    damaged: int

    def refuse_damaged(self, frame: int) -> None:
        """Raise DecodeError for the first frame whose checksums do not hold."""
        if self.damage and frame == self.damaged:
            raise DecodeError(f"{self.path}: frame {frame} does not decode: {self.damage}")


def packets(path: Path, which: int | None = None, *, check: bool = False) -> Packets:
    """Read the packets of a video stream; `check` their checksums. Raises DecodeError where the file does not open."""
    import av.error

    checks = Checks(path, which) if check else None
    segments: list[list[float]] = [[]]
    decoded_at: int | None = None
    broken = damage = None
    hidden = shown = damaged = 0
    with open_video(path, which) as (container, stream):
        codec = stream.codec_context.name
        try:
            for packet in container.demux(stream):
                if packet.is_keyframe and goes_back(packet.dts, decoded_at):
                    segments.append([])
                decoded_at = decoded_at if packet.dts is None else packet.dts
                if checks and packet.size and not damage:
                    damage, damaged = checks.damage(packet), shown
                if shows_frame(packet, codec):
                    segments[-1].append(np.nan if packet.pts is None else float(packet.pts * packet.time_base))
                    shown += 1
                else:
                    hidden += packet.pos is not None and packet.dts is not None
            if checks and not damage:
                damage, damaged = checks.rest(), shown
        except av.error.FFmpegError as error:
            broken = breaks_off(error)
    times = np.concatenate([np.sort(np.array(times, np.float64)) for times in segments])
    return Packets(path, times, hidden, broken, damage, damaged)


def shows_frame(packet: av.Packet[Any], codec: str) -> bool:
    """Whether a packet gives a frame: not an empty one, not one that an edit list discards, not a VP8 alt-ref."""
    if not packet.size or packet.is_discard:
        return False
    if codec == "vp8":
        return bool(memoryview(packet)[0] & 0x10)  # RFC 6386, 9.1: the show_frame bit
    return True


def goes_back(dts: int | None, before: int | None) -> bool:
    """Whether a packet is to be decoded earlier than the one before it: another recording begins."""
    return dts is not None and before is not None and dts < before


def breaks_off(error: av.error.FFmpegError) -> str:
    """Words on a container that FFmpeg cannot read on."""
    return f"the container breaks off: {one_line(error.strerror)}"


def check_of(codec: str, packets: Iterable[bytes], extradata: bytes = b"") -> Check | None:
    """The check of a codec's packets; None where it writes no checksums. packets: the first ones of the video.

    extradata: what the container keeps for the decoder; FFV1 has some from level 3 on. Whether these have checksums
    is in a range-coded header. Their packets say it, too: by their slices' sizes they can be walked from the end to
    exactly their beginning. One damaged packet does not outvote the others; where all are damaged, they have.
    """
    if codec in _CHUNKS:
        return _CHUNKS[codec]
    if codec != "ffv1":
        return None
    asked = list(islice(packets, _ASKED))
    with_crc = sum(_slices(packet, _TRAILER) is not None for packet in asked)
    without = sum(_slices(packet, 3) is not None for packet in asked)
    return ffv1_damage if with_crc > without or (extradata and with_crc == without) else None


def ffv1_damage(packet: bytes) -> str | None:
    """Which slice of an FFV1 packet is damaged; None where all CRCs hold."""
    parts = _slices(packet, _TRAILER)
    if parts is None:
        return "the sizes of its slices do not add up"
    for number, part in enumerate(reversed(parts)):
        if forward_crc(part):  # of all with its CRC: nothing remains
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
    return _chunk_damage(data, len(_PNG), "IEND")


def apng_damage(packet: bytes) -> str | None:
    """Which chunk of one picture of an animated PNG is damaged; None where all CRCs hold."""
    return _chunk_damage(packet)


def _chunk_damage(data: bytes, at: int = 0, last: str = "") -> str | None:
    """Which chunk from `at` on is damaged, up to `last` or, without one, to the end of the data."""
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        name, body = data[at + 4 : at + 8], data[at + 4 : at + 8 + size]
        if len(body) < size + 4 or at + 12 + size > len(data):
            break
        if zlib.crc32(body) != int.from_bytes(data[at + 8 + size : at + 12 + size], "big"):
            shown = name.decode("ascii") if name.isalpha() else "without a name"
            return f"the checksum of the chunk {shown} is wrong"
        at += 12 + size
        if name == last.encode():
            return None
    return "it ends before its last chunk" if last or at < len(data) else None


_CHUNKS: dict[str, Check] = {"png": png_damage, "apng": apng_damage}
