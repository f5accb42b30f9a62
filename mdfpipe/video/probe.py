"""What a video declares, without decoding it: size, depth, codec, its packets, and whether it is all there.

A video is a container (mp4, mkv, avi, ts, gif, ...), one image file (a multi-page TIFF has many frames), or a
folder of numbered images. What a header declares is only what it declares: `packets` counts what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mdfpipe.errors import DataError, DecodeError, MdfError, one_line
from mdfpipe.store.films import BYTES_OF_SAMPLE, FIRST_BOXES, claimed_pictures
from mdfpipe.store.limits import most, refuse_larger
from mdfpipe.video.image_files import check_file, is_images, numbered_frames, page_count, read_frames
from mdfpipe.video.orientation import AS_STORED, of_matrix, swaps_sides

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers that hold pictures themselves. Playlists (hls, concat, sdp, image patterns) name further files, and text
# that looks like subtitles is no video: both are refused by their absence here.
_FORMATS = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,gif,nut,asf,flv,h264,hevc,m4v,mjpeg,ivf,obu,ogg,mxf,dv,rm,apng,yuv4mpegpipe"
)

_PACKETS_TO_THE_FIRST_FRAME = 64


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video declares.

    frames_declared: None where the format does not say. fps: average frames per second, None where unknown.
    width, height: of the picture as stored. bit_depth: of the deepest colour component (8 for yuv420p, 16 for
    gray16le). pixel_format: as FFmpeg names it. orientation: how it is turned to be shown, 1 to 8 as
    `video.orientation` counts; None where the file says an angle that is no quarter turn. pixel_aspect: width of a
    stored pixel over its height. stream: which of `streams` video streams this is, from 0; others: those that could
    have been taken, in words. is_interlaced, first_seconds: of the first frame that decodes. container: as FFmpeg
    names it; "" of images.
    """

    frames_declared: int | None
    fps: float | None
    width: int
    height: int
    bit_depth: int
    codec: str
    pixel_format: str
    orientation: int | None = AS_STORED
    pixel_aspect: float = 1.0
    stream: int = 0
    streams: int = 1
    others: tuple[str, ...] = ()
    is_interlaced: bool = False
    first_seconds: float | None = None
    container: str = ""

    def turn(self, wanted: Literal["display", "stored"], path: Path) -> int:
        """The orientation that gives a stored picture as it is wanted. Raises DecodeError where there is none."""
        if wanted == "stored":
            return AS_STORED
        if self.orientation is None:
            raise no_quarter_turn(path)
        return self.orientation

    def size(self, wanted: Literal["display", "stored"], path: Path) -> tuple[int, int]:
        """(width, height) of the pictures that a decoder gives. Raises DecodeError as `turn` does."""
        is_turned = swaps_sides(self.turn(wanted, path))
        return (self.height, self.width) if is_turned else (self.width, self.height)

    @property
    def is_colour(self) -> bool:
        """Whether the pixels have colour."""
        return not is_grey(self.pixel_format)

    @property
    def is_deep(self) -> bool:
        """Whether the pixels need more than 8 bits."""
        return self.bit_depth > 8


def probe(path: Path, which: int | None = None) -> VideoInfo:
    """What the header of a video says, or what the first image of a folder or image file is. Raises DecodeError.

    which: the video stream of a file with several, as `open_video` takes it.
    """
    try:
        return _info_of_images(path) if is_images(path) else _info(path, which)
    except (MdfError, MemoryError):
        raise
    except Exception as error:  # text that is no text, numbers beyond all bounds: no library foresees every header
        why = getattr(error, "strerror", None) or f"unexpected error: {type(error).__name__}: {error}"
        raise DecodeError(f"{path}: cannot be read: {one_line(why)}") from error


def _info_of_images(path: Path) -> VideoInfo:
    """What the first image is, decoded: the library that decodes it says so, and no other."""
    frames = len(numbered_frames(path)) if path.is_dir() else page_count(path)
    _, image = next(read_frames(path, lambda number: number == 0))
    assert image is not None
    height, width, channels = image.pixels.shape
    pixel_format = f"{'rgb' if channels == 3 else 'gray'}{image.bit_depth * channels}"
    names = (image.format.lower(), pixel_format)
    return VideoInfo(frames, None, width, height, image.bit_depth, *names, image.orientation)


def _info(path: Path, which: int | None) -> VideoInfo:
    with open_video(path, which) as (container, stream):
        context = stream.codec_context
        pixel_format: av.VideoFormat | None = context.format
        if pixel_format is None or not context.width or not context.height:
            raise DecodeError(
                f"{path}: expected a video, but FFmpeg finds neither size nor pixels in its {context.name}"
            )
        first = _first_frame(container, stream)
        others = [_stream_words(container, other) for other in _films(container) if other.index != stream.index]
        return VideoInfo(
            frames_declared=stream.frames or None,
            fps=float(stream.average_rate) if stream.average_rate else None,
            width=context.width,
            height=context.height,
            bit_depth=format_depth(pixel_format),
            codec=context.name,
            pixel_format=pixel_format.name,
            orientation=AS_STORED if first is None else frame_orientation(first),
            pixel_aspect=float(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1),
            stream=list(container.streams.video).index(stream),
            streams=len(container.streams.video),
            others=tuple(others),
            is_interlaced=first is not None and first.interlaced_frame,
            first_seconds=None if first is None or first.pts is None else float(first.pts * (stream.time_base or 1)),
            container=container.format.name,
        )


def no_quarter_turn(path: Path) -> DecodeError:
    """The error where a file says that it is shown at an angle."""
    return DecodeError(
        f"{path}: expected a display matrix of quarter turns, got another angle; "
        "set detect.decoder.orientation=stored to take the pictures as they are stored"
    )


def frame_orientation(frame: av.VideoFrame) -> int | None:
    """How a decoded frame is turned to be shown, by its display matrix; None for no quarter turn."""
    try:
        side_data: Any = frame.side_data
        matrix = next((data for data in side_data if data.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # side data of a kind that PyAV has no name for; the angle it reads by itself
        return {0: AS_STORED, -90: 6, 90: 8, 180: 3, -180: 3}.get(frame.rotation)
    return AS_STORED if matrix is None else of_matrix(bytes(matrix))


def _first_frame(container: InputContainer, stream: VideoStream) -> av.VideoFrame | None:
    """The first frame that decodes: PyAV gives the container's display matrix with the frames only."""
    import av.error

    with suppress(av.error.FFmpegError):
        for packet in islice(container.demux(stream), _PACKETS_TO_THE_FIRST_FRAME):
            with suppress(av.error.FFmpegError):  # whoever decodes says what is damaged
                for frame in packet.decode():
                    return frame
    return None


def is_grey(pixel_format: str) -> bool:
    """Whether a pixel format, as FFmpeg names it, is grey, with transparency or not."""
    return pixel_format.startswith(("gray", "ya8", "ya16", "yaf", "y400a"))


def format_depth(pixel_format: av.VideoFormat) -> int:
    """Bits of the deepest component of a pixel format, alpha aside; at least 8."""
    return max([8, *(c.bits for c in pixel_format.components if not c.is_alpha)])


@contextmanager
def open_video(path: Path, which: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The opened container of a file and one of its video streams. Raises DecodeError with one clear line.

    which: its place among the video streams, from 0; None: the default one, or else the largest. Covers of albums and
    thumbnails are video streams, too, but none is taken without a setting.
    """
    import av
    import av.error

    check_file(path)
    _refuse_many_pictures(path)
    try:
        # `file:` keeps a name with a colon from being taken for a protocol; nothing else may be opened from within
        container = av.open(
            f"file:{path}",
            options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            metadata_errors="ignore",
        )
    except MemoryError:
        raise
    except Exception as error:  # FFmpeg's errors, and whatever PyAV makes of text and numbers that nobody foresaw
        why = one_line(getattr(error, "strerror", None) or error)
        raise DecodeError(f"{path}: expected a video, got a file that FFmpeg cannot open: {why}") from None
    with container:
        stream = _video_stream(container, path, which)
        _refuse_large_pictures(stream, path)
        yield container, stream


def _refuse_many_pictures(path: Path) -> None:
    """Raise DecodeError where the tables of an mp4 claim more pictures than there can be: FFmpeg asks for them all."""
    with path.open("rb") as file:
        if file.read(8)[4:] not in FIRST_BOXES:
            return
        size = path.stat().st_size
        claimed = claimed_pictures(file, size)
    _refuse(claimed * BYTES_OF_SAMPLE, size, f"{path}, of {claimed} pictures")


def _refuse_large_pictures(stream: VideoStream, path: Path) -> None:
    """Raise DecodeError where a picture claims too much; what grows midway is refused by the decoder."""
    context, size = stream.codec_context, path.stat().st_size
    pixel_format: av.VideoFormat | None = context.format
    of_pixel = 6 if pixel_format is not None and format_depth(pixel_format) > 8 else 3
    claimed = context.width * context.height * of_pixel
    _refuse(claimed, size, f"{path}, of {context.width}x{context.height} pixels")
    context.options = {"max_pixels": str(max(min(int(most(size) / of_pixel), (1 << 31) - 1), 1))}


def _refuse(claimed: int, size: int, what: str) -> None:
    try:
        refuse_larger(claimed, size, what)
    except DataError as error:
        raise DecodeError(str(error)) from None


def _video_stream(container: InputContainer, path: Path, which: int | None) -> VideoStream:
    from av.stream import Disposition

    streams, films = list(container.streams.video), _films(container)
    found = films if which is None else streams[which : which + 1]
    if films and not found:
        sizes = ", ".join(_stream_words(container, stream) for stream in streams)
        raise DecodeError(
            f"{path}: expected a video stream {which} (detect.decoder.stream), found these: {sizes}; choose one"
        )
    if not found:
        kinds = ", ".join(sorted({s.type for s in container.streams if s not in streams})) or "nothing"
        raise DecodeError(f"{path}: expected a video stream, found {'a cover picture and ' * bool(streams)}{kinds}")
    known = [stream for stream in found if _codec(stream)]
    if not known:
        words = ", ".join(_stream_words(container, stream) for stream in found)
        raise DecodeError(
            f"{path}: expected a codec that FFmpeg knows, found the video stream {words}; convert the video"
        )
    marked = [stream for stream in known if stream.disposition & Disposition.default]
    return max(marked or known, key=lambda stream: stream.codec_context.width * stream.codec_context.height)


def _films(container: InputContainer) -> list[VideoStream]:
    """The video streams that are films: no cover of an album, no thumbnail."""
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    return [stream for stream in container.streams.video if not stream.disposition & pictures]


def _codec(stream: VideoStream) -> Any:
    return stream.codec_context  # None where FFmpeg knows no codec of that name, which PyAV's types do not say


def _stream_words(container: InputContainer, stream: VideoStream) -> str:
    context, number = _codec(stream), container.streams.video.index(stream)
    if context is None:
        return f"{number} (codec unknown)"
    return f"{number} ({context.name}, {context.width}x{context.height})"
