"""PyAV: exact native values above 8 bits, the time of every frame, an error for every packet. Decodes everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.video.decoders import Decoder, Pixels, Wanted
from mdfpipe.video.orientation import turned
from mdfpipe.video.probe import (
    format_depth,
    frame_orientation,
    missing_end,
    no_quarter_turn,
    open_video,
    packet_times,
    shows_frame,
)

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Never call av.logging.set_level together with more than one thread: its callback wants the GIL, freeing the
# decoder waits for the threads that log, and both wait for ever (seen with av 18.1 on damaged H.264).


class PyAV(Decoder):
    """FFmpeg through PyAV, packet by packet.

    A packet that does not decode, a frame that FFmpeg patched up, a frame that the decoder dropped and a file that
    ends before its container does raise DecodeError, each after the sound frames before it were given. Damage that is
    still valid syntax cannot be seen by anybody: of 30 single flipped bits in 30 frames H.264 hid 5, MJPEG 10,
    HEVC 16, VP8 28; of 30 runs of 400 bytes of noise H.264 hid 7 (decord and OpenCV: 25), MJPEG 1, HEVC 17, VP8 29.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every frame, as `Decoder.read` promises."""
        with open_video(path) as (container, stream):
            context = stream.codec_context
            context.thread_count = max(threads, 1)
            # Slices only: with frame threads, damaged H.264 gave other pixels before the damage in a run now and then.
            context.thread_type = "SLICE" if threads > 1 else "NONE"
            context.options = {"err_detect": "explode"}  # without it MJPEG and the first bad H.264 frames pass as sound
            tick = stream.time_base or Fraction(1)  # a frame flushed after an error has no time base of its own
            # avi holds no presentation times: with B frames those that FFmpeg makes up come in decoding order
            is_timed = container.format.name != "avi" or not context.has_b_frames
            made_up = iter([] if is_timed else packet_times(path).tolist())
            for number, frame in enumerate(_frames(container, stream, path, is_timed)):
                seconds = np.nan if frame.pts is None else float(frame.pts * tick)
                seconds = next(made_up, seconds)
                pixels = self._pixels(frame, path, number, threads) if wanted(number) else None
                yield pixels, seconds

    def _pixels(self, frame: av.VideoFrame, path: Path, number: int, threads: int) -> Pixels:
        pixels = to_pixels(frame, f"{path}: frame {number}", threads)
        if self.orientation == "stored":
            return pixels
        orientation = frame_orientation(frame)
        if orientation is None:
            raise no_quarter_turn(path)
        return turned(pixels, orientation)


def to_pixels(frame: av.VideoFrame, where: str, threads: int = 1) -> Pixels:
    """The pixels of a decoded frame as `Frames` has them. Raises DecodeError for a format with no exact integers.

    Grey is taken from the plane as it is, without any change of range; colour above 8 bits becomes 16-bit RGB.
    """
    name, depth = frame.format.name, format_depth(frame.format)
    if depth > 16 or name.startswith(("grayf", "yaf")):
        raise DecodeError(f"{where}: expected at most 16 bits per component, got {name}; convert it to gray16 first")
    if name.startswith(("gray", "ya")) or name == "y400a":
        return _grey_plane(frame, depth)
    rgb = frame.reformat(format="rgb24" if depth == 8 else "rgb48le", threads=max(threads, 1)).to_ndarray()
    return rgb.astype(np.uint8, copy=False) if depth == 8 else rgb.astype(np.uint16, copy=False)


def _grey_plane(frame: av.VideoFrame, depth: int) -> Pixels:
    """(H, W, 3) uint8 or (H, W, 1) uint16: the first component of the first plane, in our byte order, unpadded."""
    plane = frame.planes[0]
    order = ">" if frame.format.is_big_endian else "<"
    values = np.frombuffer(memoryview(plane), np.dtype("u1") if depth == 8 else np.dtype(f"{order}u2"))
    rows = values.reshape(plane.height, plane.line_size // values.itemsize)
    step = 2 if frame.format.name.startswith("ya") else 1  # grey and alpha alternate
    grey = rows[:, : frame.width * step : step, None]
    return np.repeat(grey, 3, axis=2).astype(np.uint8, copy=False) if depth == 8 else grey.astype(np.uint16)


def _frames(
    container: InputContainer, stream: VideoStream, path: Path, is_timed: bool = True
) -> Iterator[av.VideoFrame]:
    """The sound frames in presentation order, up to the first that is not; then DecodeError.

    is_timed: whether the pts can be relied on to tell which frame belongs to which packet.
    """
    import av.error

    ledger = _Ledger(path, stream.codec_context.name, is_timed)
    cut = missing_end(path)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            packet, cut = None, cut or f"the container breaks off: {one_line(error.strerror)}"
        if packet is None or not packet.size:  # nothing more comes
            hole = None if cut or stream.frames else ledger.hole()
            if hole is not None:
                cut = "it is missing before frames that are there, so the file ends within a group of pictures"
            if cut:
                yield from _pending(stream, ledger, ledger.horizon if hole is None else hole)
                raise ledger.broken(cut)
        if packet is None:
            return ledger.close()
        damage = "the packet is cut short" if packet.is_corrupt and packet.size else None
        frames: list[av.VideoFrame] = []
        try:
            if not damage:
                ledger.feed(packet)
                frames = packet.decode()
        except av.error.FFmpegError as error:
            damage = one_line(error.strerror)
        if damage:
            yield from _pending(stream, ledger, packet.pts)
            raise ledger.broken(damage)
        for frame in frames:
            ledger.take(frame)
            yield frame


def _pending(stream: VideoStream, ledger: _Ledger, before: int | None) -> Iterator[av.VideoFrame]:
    """The sound frames that the decoder still holds back, up to the first (pts `before`) that did not decode.

    An error may cost H.264 the frame before it, too (a B frame that was next to come out): all that went in must come
    out in order here, or a later picture would get its number.
    """
    import av.error

    if not ledger.is_timed:
        return
    try:
        held = stream.codec_context.decode(None)
    except av.error.FFmpegError:
        return
    for frame in held:
        if before is not None and (frame.pts is None or frame.pts >= before):
            return
        if frame.pts is not None and any(pts < frame.pts for pts in ledger.waiting):
            return
        ledger.take(frame)
        yield frame


@dataclass
class _Ledger:
    """Sets the packets that went in against the frames that came out, and raises at the first that is missing.

    waiting: pts of a packet whose frame has not come -> how many packets went in before it.
    horizon: no packet to come has a pts below: it comes after the last one in decoding order, and is not shown before
    it is decoded. Behind the horizon of a file that is cut a frame may be missing before a later one that is there.
    """

    path: Path
    codec: str
    is_timed: bool = True
    shown: int = 0
    given: int = 0
    first_key: int | None = None
    horizon: int | None = None
    is_interlaced: bool = False
    waiting: dict[int, int] = field(default_factory=dict)
    last: int | None = None
    steps: tuple[int, int] | None = None

    def broken(self, what: str) -> DecodeError:
        """The error that names the next frame."""
        return DecodeError(f"{self.path}: frame {self.given} does not decode: {what}")

    def feed(self, packet: av.Packet[Any]) -> None:
        """Note a packet that will give a frame; what precedes the first key frame (a file cut open) may give none."""
        if not shows_frame(packet, self.codec):
            return
        last = packet.pts if packet.dts is None else packet.dts
        self.horizon = self.horizon if last is None else last + 1
        if self.first_key is None:
            if not packet.is_keyframe:
                return
            self.first_key = packet.pts if packet.pts is not None else -(1 << 62)
        if packet.pts is not None and self.is_timed:
            if packet.pts < self.first_key and not self.given:
                return
            self.waiting[packet.pts] = self.shown
        self.shown += 1

    def take(self, frame: av.VideoFrame) -> None:
        """Note a frame. Raises DecodeError where it is patched up, or one before it went missing."""
        if frame.is_corrupt:
            raise self.broken("the data are damaged, and FFmpeg patched the picture up")
        self.is_interlaced = self.is_interlaced or frame.interlaced_frame  # two packets, one for each field
        order = self.waiting.pop(frame.pts, None) if frame.pts is not None else None
        if order is not None and not self.is_interlaced and self._overtook(frame.pts or 0, order):
            raise self.broken("the decoder dropped it")
        if frame.pts is not None:
            step = None if self.last is None else frame.pts - self.last
            if step is not None:
                low, high = self.steps or (step, step)
                self.steps = min(low, step), max(high, step)
            self.last = frame.pts
        self.given += 1

    def hole(self) -> int | None:
        """The pts of a frame that is missing before those still waited for; None where the frame rate varies.

        A container that declares no frames (ts) and is cut between two packets shows nothing else: the last pictures in
        decoding order are shown behind B frames that were cut off, and would be counted in their place.
        """
        if self.is_interlaced or self.steps is None or self.last is None or not 0 < self.steps[1] < 1.5 * self.steps[0]:
            return None
        step = self.steps[0]
        times = [self.last, *sorted(p for p in self.waiting if p > self.last)]
        return next((a + step for a, b in pairwise(times) if b - a > 1.5 * step), None)

    def _overtook(self, pts: int, order: int) -> bool:
        """Whether a packet that went in before, and is to be shown before, still waits for its frame."""
        return any(p < pts and o < order for p, o in self.waiting.items())

    def close(self) -> None:
        """Raise DecodeError where frames are missing at the end."""
        if not self.given:
            raise DecodeError(f"{self.path}: expected frames, the container holds none that decodes")
        if self.given < self.shown and not (self.is_interlaced and self.shown <= 2 * self.given + 1):
            raise self.broken(f"{self.shown} packets gave {self.given} frames")
