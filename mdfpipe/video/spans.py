"""Spans of a video: runs of whole groups of pictures, each of which decodes without what comes before it.

Where a video may be cut is a function of its packets alone, so each machine finds the same limits. A video in which
seeking may give other pictures or other numbers than one pass from the first frame has no limits: it stays whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mdfpipe.video.containers import missing_end
from mdfpipe.video.nal_units import h264_restarts, hevc_restarts
from mdfpipe.video.packets import Checks, breaks_off, goes_back, shows_frame
from mdfpipe.video.probe import open_video

if TYPE_CHECKING:
    import av

_ALWAYS: Final = ("ffv1", "huffyuv", "ffvhuff", "mjpeg", "png", "prores", "dnxhd", "rawvideo", "utvideo", "jpeg2000")
"""Codecs whose key pictures refer to nothing: of most of them every picture is one."""

_RESTARTS: Final[dict[str, Callable[[bytes, bytes], bool]]] = {
    **dict.fromkeys(
        [*_ALWAYS, "vp8", "vp9", "libvpx", "libvpx-vp9", "mpeg1video", "mpeg2video", "mpeg4"],
        lambda packet, header: True,
    ),
    "h264": h264_restarts,
    "hevc": hevc_restarts,
}
"""Whether pictures from a key picture on, in the order in which they are shown, decode without those before it.

A codec that is not named here stays whole: GIF and APNG draw over what is there, others are untested.
"""

_INEXACT_WITH_B: Final = {
    "avi": "avi holds no presentation times",
    "asf": "asf is entered by times other than those of its pictures",
}


@dataclass(frozen=True)
class Span:
    """The frames `first` to `end` - 1 of a video; `number` counts its spans from 0."""

    number: int
    first: int
    end: int


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where a video can be entered.

    frames: how many it has, by its packets. entries: (k,) ascending indices of the frames at which decoding can begin,
    the first of them 0. times: (frames,) presentation times in ticks of the stream, ascending; empty for images, which
    have none. whole: why decoding can begin at its first frame only; then nothing else is known.
    """

    frames: int = 0
    entries: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    times: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    whole: str = ""

    @classmethod
    def of_images(cls, frames: int) -> Cuts:
        """Those of images: each can be read alone."""
        return cls(frames, np.arange(frames))

    def spans(self, longest: int) -> tuple[Span, ...]:
        """The spans of at most `longest` frames, a longer group of pictures whole; none of a video that stays whole.

        >>> [(s.first, s.end) for s in Cuts(100, np.array([0, 20, 40, 90])).spans(50)]
        [(0, 40), (40, 90), (90, 100)]
        """
        if self.whole:
            return ()
        places = [*self.entries.tolist(), self.frames]
        limits = [0]
        for place, following in zip(places[1:], [*places[2:], None], strict=True):
            if following is None or following - limits[-1] > longest:
                limits.append(place)
        return tuple(Span(n, first, end) for n, (first, end) in enumerate(pairwise(limits)))


def cuts(path: Path, which: int | None = None) -> Cuts:
    """Where a video stream, as `open_video` takes it, can be entered. Nothing is decoded.

    Raises DecodeError where the file does not open.
    """
    import av.error

    checks = Checks(path, which, "file")
    with open_video(path, which) as (container, stream):
        table = _Table(stream.codec_context.name, bytes(stream.codec_context.extradata or b""))
        if table.codec not in _RESTARTS:
            return Cuts(whole=f"its codec is {table.codec}, for which seeking is not known to be exact")
        if stream.codec_context.has_b_frames and (why := _INEXACT_WITH_B.get(container.format.name)):
            return Cuts(whole=f"{why}, and it has B frames")
        if cut := missing_end(path, container.format.name):
            return Cuts(whole=cut)
        try:
            for packet in container.demux(stream):
                why = table.take(packet) or checks.damage(packet)
                if why:
                    return Cuts(whole=why)
        except av.error.FFmpegError as error:
            return Cuts(whole=breaks_off(error))
    why = checks.rest()
    return Cuts(whole=why) if why else table.cuts()


class _Table:
    """The packets of a stream so far, in the order in which they are decoded."""

    def __init__(self, codec: str, header: bytes) -> None:
        self.codec, self.header = codec, header
        self.times: list[int] = []
        self.entries: list[int] = []  # times of key pictures at which decoding can begin
        self.latest = self.decoded_at = -(1 << 62)

    def take(self, packet: av.Packet[Any]) -> str | None:
        """Note a packet; why the video stays whole, if that is known now."""
        if not packet.size:
            return "it has empty packets" if packet.pos is not None else None
        if packet.is_corrupt:
            return "packets are missing or cut short"
        if packet.is_discard:
            return "an edit list leaves out a part of it"
        if not shows_frame(packet, self.codec):
            return None
        if packet.pts is None:
            return "its container has no presentation times"
        if goes_back(packet.dts, self.decoded_at):
            return "its times start again"
        self.decoded_at = self.decoded_at if packet.dts is None else packet.dts
        is_entry = packet.is_keyframe and packet.pts > self.latest and _RESTARTS[self.codec](bytes(packet), self.header)
        if not self.times and not is_entry:
            return "it begins within a group of pictures"
        if is_entry:
            self.entries.append(packet.pts)
        elif packet.pts < self.entries[0]:
            return "pictures are shown before its first key picture"
        self.latest = max(self.latest, packet.pts)
        self.times.append(packet.pts)
        return None

    def cuts(self) -> Cuts:
        """What was found, at the end."""
        times = np.sort(np.array(self.times, np.int64))
        if not len(times):
            return Cuts(whole="it has no pictures")
        if (np.diff(times) == 0).any():
            return Cuts(whole="two pictures have the same time")
        return Cuts(len(times), np.searchsorted(times, np.array(self.entries, np.int64)), times)
