"""Checksums that codecs write into their packets: they show damage that FFmpeg conceals with a line in its log.

FFV1 level 3 (RFC 9043, section 4.9) ends each slice with its size, a status and a CRC-32; FFmpeg fills the place of a
slice whose CRC is wrong from the frame before, and gives the frame as sound. PNG and APNG have a CRC-32 in each chunk.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdfpipe.errors import DecodeError
from mdfpipe.video.containers import forward_crc, matroska_damage, ogg_damage
from mdfpipe.video.probe import open_video, shows_frame

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

    Those of packets tell which is damaged; those of Matroska and Ogg only that one of some is.
    """

    def __init__(self, path: Path, which: int | None) -> None:
        self._check, container = _check_for(path, which)
        walk = _WALKS.get(container.partition(",")[0]) if self._check is None else None
        self._walk = walk(path) if walk else None
        self._end = 0
        self._found: str | None = None

    @property
    def none(self) -> bool:
        """Whether there is nothing to check."""
        return self._check is None and self._walk is None

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

    packets = list[bytes]()
    with open_video(path, which) as (container, stream):
        kind = container.format.name
        codec, extradata = stream.codec_context.name, bytes(stream.codec_context.extradata or b"")
        if codec == "ffv1":
            with suppress(av.error.FFmpegError):  # whoever decodes says so
                packets += islice((bytes(packet) for packet in container.demux(stream) if packet.size), _ASKED)
    if codec == "apng" and (damage := _chunk_damage(extradata)):
        return lambda packet: f"in its header, {damage}", kind
    return check_of(codec, packets, extradata), kind


def refuse_damage(path: Path, which: int | None) -> Callable[[int], None]:
    """Raises DecodeError when it is called with the number of the first frame whose checksums do not hold.

    For decoders that see no packets: these are read beforehand. Codecs with checksums show their frames as they come;
    a Matroska cluster is refused from its first packet on.
    """
    import av.error

    checks, number, found = Checks(path, which), 0, (-1, "")
    if not checks.none:
        with open_video(path, which) as (container, stream), suppress(av.error.FFmpegError):
            codec = stream.codec_context.name
            for packet in container.demux(stream):
                if packet.size and (damage := checks.damage(packet)):
                    found = number, damage
                    break
                number += shows_frame(packet, codec)
            else:
                found = number, checks.rest() or ""

    def refuse(frame: int) -> None:
        if frame == found[0] and found[1]:
            raise DecodeError(f"{path}: frame {frame} does not decode: {found[1]}")

    return refuse


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
