"""Frames from the middle of a video, as one pass from its first frame gives them; anything else is an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdfpipe.errors import DecodeError, one_line
from mdfpipe.video.packets import Checks
from mdfpipe.video.probe import frame_orientation, open_video
from mdfpipe.video.spans import Cuts, Span

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream


def frames_between(
    path: Path, which: int | None, cuts: Cuts, span: Span, threads: int
) -> Iterator[tuple[av.VideoFrame, float]]:
    """The frames of a span and their seconds. Raises DecodeError unless exactly these come, in their order, sound.

    span: its first frame is one of `cuts.entries`. The decoder sees the first picture of the video before, as in one
    pass: some encoders write only there what decides how the others decode.
    """
    with open_video(path, which) as (container, stream):
        _prepare(stream, threads)
        tick = stream.time_base or Fraction(1)
        orientation = _first_orientation(container, stream, path)
        source = _from(container, stream, int(cuts.times[span.first]), path)
        wanted = cuts.times[span.first : span.end].tolist()
        due, number = set(wanted), span.first
        for frame in _decoded(source, stream, due, wanted[0], Checks(path, which, "packets"), path):
            if frame.pts is not None and frame.pts < wanted[0]:
                continue
            if number == span.end:
                return
            if frame.pts != wanted[number - span.first] or frame.is_corrupt or frame_orientation(frame) != orientation:
                break
            yield frame, float(wanted[number - span.first] * tick)
            number += 1
        if number < span.end:
            raise DecodeError(f"{path}: frame {number} does not decode: it does not come as the packets say")


def pictures_at(
    path: Path, which: int | None, cuts: Cuts, numbers: Sequence[int], threads: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Single frames with their numbers, which are entries of `cuts`. Raises DecodeError where one does not decode."""
    import av.error

    checks = Checks(path, which, "packets")
    with open_video(path, which) as (container, stream):
        _prepare(stream, threads)
        _first_orientation(container, stream, path)
        for number in numbers:
            start, frames = int(cuts.times[number]), list[Any]()
            packet = next(_from(container, stream, start, path))
            with suppress(av.error.FFmpegError):
                frames += packet.decode()
                frames += stream.codec_context.decode(None)
            stream.codec_context.flush_buffers()
            if checks.damage(packet) or [frame.pts for frame in frames if not frame.is_corrupt] != [start]:
                raise DecodeError(f"{path}: frame {number} does not decode alone")
            yield number, frames[0]


def _prepare(stream: VideoStream, threads: int) -> None:
    context = stream.codec_context
    context.thread_count, context.thread_type = max(threads, 1), "SLICE" if threads > 1 else "NONE"
    context.options = context.options | {"err_detect": "crccheck+explode"}


def _first_orientation(container: InputContainer, stream: VideoStream, path: Path) -> int | None:
    """How the first picture is turned; the decoder has then read it, and forgets all but what it read of headers."""
    import av.error

    frames = list[Any]()
    with suppress(av.error.FFmpegError):
        for packet in container.demux(stream):
            if packet.size:
                frames += packet.decode()
                break
        frames += stream.codec_context.decode(None)
    stream.codec_context.flush_buffers()
    if not frames:
        raise DecodeError(f"{path}: frame 0 does not decode")
    return frame_orientation(frames[0])


def _from(container: InputContainer, stream: VideoStream, start: int, path: Path) -> Iterator[av.Packet[Any]]:
    """The packets from the key picture of that time on; a seek that ends behind it is followed by a longer one."""
    import av.error

    second = round(1 / float(stream.time_base or 1))
    for target in (start, start - 10 * second, None):
        with suppress(av.error.FFmpegError):
            if target is None:
                container.seek(0, backward=True, any_frame=False)
            else:
                container.seek(target, stream=stream)
            source = container.demux(stream)
            for packet in source:
                if packet.pts == start and packet.is_keyframe:
                    return _with(packet, source)
                if target is not None and packet.is_keyframe and packet.pts is not None and packet.pts > start:
                    break
    raise DecodeError(f"{path}: the key picture at {start} is not found again")


def _with(first: av.Packet[Any], others: Iterator[av.Packet[Any]]) -> Iterator[av.Packet[Any]]:
    yield first
    yield from others


def _decoded(
    source: Iterator[av.Packet[Any]], stream: VideoStream, due: set[int], start: int, checks: Checks, path: Path
) -> Iterator[av.VideoFrame]:
    """What comes out of the decoder until all packets that are `due` (by their times) went in, and it is empty."""
    import av.error

    for packet in source:
        if not packet.size:
            continue
        if packet.pts is not None and packet.pts < start:  # leads the key picture, and belongs to the span before
            with suppress(av.error.FFmpegError):
                yield from packet.decode()
            continue
        due.discard(packet.pts if packet.pts is not None else -1)
        try:
            if damage := checks.damage(packet):
                raise DecodeError(f"{path}: the picture at {packet.pts} does not decode: {damage}")
            yield from packet.decode()
        except av.error.FFmpegError as error:
            raise DecodeError(f"{path}: the picture at {packet.pts} does not decode: {one_line(error)}") from None
        if not due:
            break
    with suppress(av.error.EOFError):
        yield from stream.codec_context.decode(None)
