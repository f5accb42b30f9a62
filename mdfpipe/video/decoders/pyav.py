"""PyAV: exact native values above 8 bits, the time of every frame, an error for every packet. Decodes everything."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.video.containers import Breaks, breaks, missing_end
from mdfpipe.video.decoders import Decoder, Pixels, Reading, Wanted
from mdfpipe.video.frames import Frames
from mdfpipe.video.nal_units import is_idr
from mdfpipe.video.orientation import turned
from mdfpipe.video.packets import Checks, breaks_off, goes_back, packets, shows_frame
from mdfpipe.video.probe import format_depth, frame_orientation, is_grey, no_quarter_turn, open_video
from mdfpipe.video.seeking import frames_between, pictures_at
from mdfpipe.video.spans import Cuts, Span, cuts

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

_HELD = 8  # frames: as many as may be shown before a picture that they refer to
_REFERENCES = 16  # pictures: as many as H.264 and HEVC keep

# Never call av.logging.set_level together with more than one thread: its callback wants the GIL, freeing the
# decoder waits for the threads that log, and both wait for ever (seen with av 18.1 on damaged H.264).


class PyAV(Decoder):
    """FFmpeg through PyAV, packet by packet.

    A packet that does not decode, one whose checksum is wrong, a frame that FFmpeg patched up, a frame that the decoder
    dropped and a file that ends before its container does raise DecodeError, each after the sound frames before it were
    given. Damage that is still valid syntax cannot be detected without a checksum: `docs/damage.md`
    counts it for each codec.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Reading:
        """Every frame, as `Decoder.read` promises."""
        told: Counter[str] = Counter()
        for number, (frame, seconds) in enumerate(_frames(path, self.stream, threads, told)):
            yield self._pixels(frame, path, number, threads) if wanted(number) else None, seconds
        return told

    def cuts(self, path: Path) -> Cuts:
        """Where the packets let decoding begin."""
        return cuts(path, self.stream)

    def read_span(self, path: Path, cuts: Cuts, span: Span, wanted: Wanted, threads: int) -> Reading:
        """The frames of a span, as `read` gives them."""
        found = frames_between(path, self.stream, cuts, span, threads)
        for number, (frame, seconds) in enumerate(found, span.first):
            yield self._pixels(frame, path, number, threads) if wanted(number) else None, seconds
        return {}

    def stills(self, path: Path, cuts: Cuts, numbers: Sequence[int], threads: int) -> Iterator[Frames]:
        """Single frames, of a file that is opened once."""
        for number, frame in pictures_at(path, self.stream, cuts, numbers, threads):
            pixels: Pixels = self._pixels(frame, path, number, threads)[None]
            yield Frames(pixels, np.array([number]), np.array([np.nan]))

    def _pixels(self, frame: av.VideoFrame, path: Path, number: int, threads: int) -> Pixels:
        pixels = _to_pixels(frame, f"{path}: frame {number}", threads, 8 if self.colour_bits == 8 else 16)
        if self.orientation == "stored":
            return pixels
        orientation = frame_orientation(frame)
        if orientation is None:
            raise no_quarter_turn(path)
        return turned(pixels, orientation)


def _to_pixels(frame: av.VideoFrame, where: str, threads: int, colour_bits: int) -> Pixels:
    """The pixels of a decoded frame as `Frames` has them. Raises DecodeError for a format with no exact integers.

    Grey is taken from the plane as it is, without any change of range; colour above 8 bits becomes RGB of
    `colour_bits`, of full range.
    """
    name, depth = frame.format.name, format_depth(frame.format)
    if depth > 16 or name.startswith(("grayf", "yaf")):
        raise DecodeError(f"{where}: expected at most 16 bits per component, got {name}; convert it to gray16 first")
    if is_grey(name):
        return _grey_plane(frame, depth)
    is_narrow = depth == 8 or colour_bits == 8
    rgb = frame.reformat(format="rgb24" if is_narrow else "rgb48le", threads=max(threads, 1)).to_ndarray()
    return rgb.astype(np.uint8, copy=False) if is_narrow else rgb.astype(np.uint16, copy=False)


def _grey_plane(frame: av.VideoFrame, depth: int) -> Pixels:
    """(H, W, 3) uint8 or (H, W, 1) uint16: the first component of the first plane, in our byte order, unpadded."""
    plane = frame.planes[0]
    order = ">" if frame.format.is_big_endian else "<"
    values = np.frombuffer(memoryview(plane), np.dtype("u1") if depth == 8 else np.dtype(f"{order}u2"))
    rows = values.reshape(plane.height, plane.line_size // values.itemsize)
    step = 2 if frame.format.name.startswith("ya") else 1  # grey and alpha alternate
    grey = rows[:, : frame.width * step : step, None]
    return np.repeat(grey, 3, axis=2).astype(np.uint8, copy=False) if depth == 8 else grey.astype(np.uint16)


def _frames(path: Path, which: int | None, threads: int, told: Counter[str]) -> Iterator[tuple[av.VideoFrame, float]]:
    """The sound frames in presentation order with their seconds, up to the first that is not; then DecodeError.

    told: what was left out is counted here.
    """
    given = 0
    try:
        for found in _Pass(path, which, threads, told).frames():
            yield found
            given += 1
    except _OpeningError:
        # In a group of pictures that refers to what was cut off, FFmpeg calls a mark for a picture that is not there an
        # error, if it is to explode: then it is asked once more, and shows by its frames whether they are damaged.
        told.clear()
        yield from islice(_Pass(path, which, threads, told, is_strict=False).frames(), given, None)


class _OpeningError(DecodeError):
    """What a strict decoder finds wrong in the first, open group of pictures of H.264."""


@dataclass
class _Pass:
    """One pass of a decoder over the packets of a video stream, segment by segment.

    A segment starts at a key picture at which time jumps back: there recordings were put one behind the other, and
    the decoder starts again. is_strict: whether FFmpeg raises at the first sign of damage; else `_HELD` frames are held
    back, because those that refer to a damaged one come before it. key: whether to leave out what leads a key picture.
    """

    path: Path
    which: int | None
    threads: int
    told: Counter[str]
    is_strict: bool = True
    key: bool = True
    given: int = 0
    held: deque[tuple[av.VideoFrame, int | None]] = field(default_factory=deque)

    def frames(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Every sound frame and its seconds; NaN where there is no time. Raises DecodeError behind the last."""
        with open_video(self.path, self.which) as (container, stream):
            context = stream.codec_context
            context.thread_count = max(self.threads, 1)
            # Slices only: with frame threads, damaged H.264 gave other pixels before the damage in a run now and then.
            context.thread_type = "SLICE" if self.threads > 1 else "NONE"
            if self.is_strict:  # without it MJPEG and the first bad H.264 frames pass as sound; crccheck: HEVC's MD5
                context.options = context.options | {"err_detect": "crccheck+explode"}
            tick = stream.time_base or Fraction(1)  # a frame flushed after an error has no time base of its own
            # avi holds no presentation times: with B frames those that FFmpeg makes up come in decoding order
            is_timed = container.format.name != "avi" or not context.has_b_frames
            made_up = None if is_timed else packets(self.path, self.which).times.tolist()
            self.checks = Checks(self.path, self.which)
            self._new_segment(stream, is_timed)
            for number, frame in enumerate(self._decoded(container, stream)):
                seconds = np.nan if frame.pts is None else float(frame.pts * tick)
                if made_up is not None:
                    place = number + self.ledger.silent_at_first
                    seconds = made_up[place] if place < len(made_up) else seconds
                yield frame, seconds
        if not self.given and self.key and self.told["leading"]:  # no picture is marked as a key
            self.told.clear()
            yield from _Pass(self.path, self.which, self.threads, self.told, self.is_strict, key=False).frames()
        elif not self.given:
            raise DecodeError(f"{self.path}: expected frames, the container holds none that decodes")

    def _new_segment(self, stream: VideoStream, is_timed: bool) -> None:
        context = stream.codec_context
        self.ledger = _Ledger(self.path, context.name, is_timed, given=self.given, extradata=context.extradata or b"")

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
        cut = missing_end(self.path, container.format.name)
        marks = _Marks(self.path, stream.id if container.format.name == "mpegts" else None)
        import av.error

        source = container.demux(stream)
        while True:
            try:
                packet = next(source, None)
            except av.error.FFmpegError as error:
                packet, cut = None, cut or breaks_off(error)
            if packet is None or _is_end(packet):
                cut = cut or self.checks.rest()
                yield from self._ended(stream, cut)
                return
            if not packet.size:
                continue
            marked = marks.damage(packet)
            if self.ledger.starts_anew(packet):
                yield from self._ended(stream, None)
                stream.codec_context.flush_buffers()
                self._new_segment(stream, self.ledger.is_timed)
                self.told["joins"] += 1
            elif marks.is_behind_a_jump(packet):
                self.told["jumps"] += 1
            if self.ledger.first_key is None and self.key and not packet.is_keyframe:
                self.told["leading"] += shows_frame(packet, self.ledger.codec)
                continue
            yield from self._fed(stream, packet, marked or self.checks.damage(packet))

    def _fed(self, stream: VideoStream, packet: av.Packet[Any], damage: str | None) -> Iterator[av.VideoFrame]:
        """The frames that come out of the decoder once a packet is fed."""
        import av.error

        frames: list[av.VideoFrame] = []
        is_of_decoder = False
        try:
            if not damage:
                self.ledger.feed(packet)
                frames = packet.decode()
        except av.error.FFmpegError as error:
            damage, is_of_decoder = one_line(error.strerror), True
        if damage and is_of_decoder and self.is_strict and self.ledger.is_opening:
            raise _OpeningError(str(self.ledger.broken(damage)))
        if damage:
            yield from self._pending(stream, packet.pts)
            raise self.ledger.broken(damage)
        self.ledger.delay = stream.codec_context.reorder_depth
        for frame in frames:
            yield from self._given(frame)

    def _ended(self, stream: VideoStream, cut: str | None) -> Iterator[av.VideoFrame]:
        """What the decoder still holds at the end of a segment. Raises DecodeError where frames are missing."""
        import av.error

        hole = None if cut or stream.frames else self.ledger.hole()
        if hole is not None:
            cut = "it is missing before frames that are there, so the file ends within a group of pictures"
        if cut:
            yield from self._pending(stream, self.ledger.horizon if hole is None else hole)
            raise self.ledger.broken(cut)
        try:
            frames = stream.codec_context.decode(None)
        except av.error.EOFError:
            frames = []
        except av.error.FFmpegError as error:
            raise self.ledger.broken(one_line(error.strerror)) from None
        for frame in frames:
            yield from self._given(frame)
        yield from self._released()
        self.ledger.close()
        self.told["leading"] += self.ledger.left_out
        self.given = self.ledger.given

    def _given(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """The frame, or where frames are held back the one that was held longest."""
        order = self.ledger.order(frame)
        if frame.is_corrupt and not self.is_strict:
            after = -1 if order is None else order
            sound = next((n for n, (_, o) in enumerate(self.held) if o is not None and o > after), len(self.held))
            self.ledger.given -= len(self.held) - sound
            yield from (self.held.popleft()[0] for _ in range(sound))
        try:
            self.ledger.take(frame)
        except DecodeError as error:
            if self.is_strict and self.ledger.is_opening:
                raise _OpeningError(str(error)) from None
            raise
        if self.is_strict:
            yield frame
            return
        self.held.append((frame, order))
        if len(self.held) > _HELD:
            yield self.held.popleft()[0]

    def _released(self) -> Iterator[av.VideoFrame]:
        while self.held:
            yield self.held.popleft()[0]

    def _pending(self, stream: VideoStream, before: int | None) -> Iterator[av.VideoFrame]:
        """The sound frames that the decoder still holds back, up to the first (pts `before`) that did not decode.

        An error may cost H.264 the frame before it, too (a B frame that was next to come out): all that went in must
        come out in order here, or a later picture would get its number.
        """
        import av.error

        yield from self._released()
        ledger = self.ledger
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


def _is_end(packet: av.Packet[Any]) -> bool:
    """Whether this is the packet that PyAV gives behind the last; an empty one of avi has its place in the file."""
    return not packet.size and packet.pos is None and packet.dts is None and packet.pts is None


class _Marks:
    """What a container says of its packets: that they are damaged, or that packets are missing.

    FFmpeg marks a picture of a transport stream wherever the counter jumps, and at times the one before it: so the
    stream is examined itself once a mark is found.
    """

    def __init__(self, path: Path, transport: int | None) -> None:
        self.path, self.transport = path, transport
        self.found: Breaks | None = None

    def is_behind_a_jump(self, packet: av.Packet[Any]) -> bool:
        """Whether the counter jumps right before a key picture: segments were joined, or pictures are missing."""
        return self.found is not None and packet.is_keyframe and packet.pos in self.found.between

    def damage(self, packet: av.Packet[Any]) -> str | None:
        """What is missing of a packet, or before it."""
        if self.transport is None:
            return "the packet is cut short" if packet.is_corrupt else None
        if packet.is_corrupt and self.found is None:
            self.found = breaks(self.path, self.transport)
        if self.found is None or packet.pos is None:
            return None
        if packet.pos in self.found.inside:
            return "packets of the transport stream are missing within it"
        if packet.pos in self.found.between and not packet.is_keyframe:
            return "packets of the transport stream are missing before it"
        return None


@dataclass
class _Ledger:
    """Sets the packets that went in against the frames that came out, and raises at the first that is missing.

    given: frames that came out, those of segments before included. waiting: pts of a packet whose frame has not come
    -> how many packets went in before it. leading: pts of pictures shown before the first key picture, which may
    refer to what was cut off: they come or do not come. left_out: how many did not.
    horizon: no packet to come has a pts below: it comes after the last one in decoding order, and is not shown before
    it is decoded. Behind the horizon of a file that is cut a frame may be missing before a later one that is there.
    """

    path: Path
    codec: str
    is_timed: bool = True
    given: int = 0
    extradata: bytes = b""
    shown: int = 0
    came: int = 0
    keys: int = 0
    since_key: int = 0
    first_key: int | None = None
    is_closed: bool = True
    delay: int = 0
    silent: int = 0
    silent_at_first: int = 0
    is_blind: bool = False
    left_out: int = 0
    horizon: int | None = None
    decoded_at: int | None = None
    is_interlaced: bool = False
    waiting: dict[int, int] = field(default_factory=dict)
    leading: set[int] = field(default_factory=set)
    last: int | None = None
    steps: tuple[int, int] | None = None

    @property
    def is_opening(self) -> bool:
        """Whether pictures may still refer to what was cut off before a first key picture that is not closed."""
        return not self.is_closed and (self.keys < 2 or self.since_key <= _REFERENCES)

    def broken(self, what: str) -> DecodeError:
        """The error that names the next frame."""
        return DecodeError(f"{self.path}: frame {self.given} does not decode: {what}")

    def starts_anew(self, packet: av.Packet[Any]) -> bool:
        """Whether time jumps back at a key picture."""
        is_begun = self.first_key is not None and self.is_timed
        return is_begun and packet.is_keyframe and goes_back(packet.dts, self.decoded_at)

    def feed(self, packet: av.Packet[Any]) -> None:
        """Note a packet that will give a frame; what leads the first key frame (a file cut open) may give none."""
        self.decoded_at = self.decoded_at if packet.dts is None else packet.dts
        if packet.is_keyframe:
            self.keys, self.since_key = self.keys + 1, 0
        self.since_key += 1
        if self.first_key is None:  # one that an edit list hides will do
            self.first_key = packet.pts if packet.pts is not None else -(1 << 62)
            self.is_closed = self.codec != "h264" or is_idr(bytes(packet), self.extradata)
        if not shows_frame(packet, self.codec):
            return
        last = packet.pts if packet.dts is None else packet.dts
        self.horizon = self.horizon if last is None else last + 1
        self.silent += not self.came
        self.is_blind = self.is_blind or packet.pts is None or not self.is_timed
        if packet.pts is not None and self.is_timed:
            if packet.pts < self.first_key:
                self.leading.add(packet.pts)
                return
            self.waiting[packet.pts] = self.shown
        self.shown += 1

    def order(self, frame: av.VideoFrame) -> int | None:
        """How many packets went in before that of a frame; None where one cannot tell."""
        return None if frame.pts is None else self.waiting.get(frame.pts)

    def take(self, frame: av.VideoFrame) -> None:
        """Note a frame. Raises DecodeError where it is patched up, or one before it went missing."""
        if frame.is_corrupt:
            raise self.broken("the data are damaged, and FFmpeg patched the picture up")
        self.is_interlaced = self.is_interlaced or frame.interlaced_frame  # two packets, one for each field
        if not self.came:
            self._first(frame)
        if frame.pts in self.leading:
            self.leading.remove(frame.pts)
            self.shown += 1
        order = self.waiting.pop(frame.pts, None) if frame.pts is not None else None
        pts = frame.pts or 0
        if order is not None and not self.is_interlaced and any(p < pts and o < order for p, o in self.waiting.items()):
            raise self.broken("the decoder dropped it")  # a packet before it, to be shown before it, still waits
        if frame.pts is not None:
            step = None if self.last is None else frame.pts - self.last
            if step is not None:
                low, high = self.steps or (step, step)
                self.steps = min(low, step), max(high, step)
            self.last = frame.pts
        self.came += 1
        self.given += 1

    def _first(self, frame: av.VideoFrame) -> None:
        """Leave out what an open group of pictures could not show before its first frame."""
        self.silent_at_first = max(self.silent - 1 - self.delay, 0)
        if self.is_closed or frame.pts is None:
            return
        for pts in [p for p in self.waiting if p < frame.pts]:
            del self.waiting[pts]
            self.shown -= 1
            self.left_out += 1

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

    def close(self) -> None:
        """Raise DecodeError where frames are missing at the end of a segment."""
        self.left_out += len(self.leading)
        missing = self.shown - self.came
        if self.shown and not self.given:
            raise DecodeError(f"{self.path}: expected frames, the container holds none that decodes")
        if self.is_blind and 0 < missing <= self.silent_at_first:  # without times, by how long it was silent at first
            self.left_out += missing
        elif missing > 0 and not (self.is_interlaced and self.shown <= 2 * self.came + 1):
            raise self.broken(f"{self.shown} packets gave {self.came} frames")
