"""Tiny clips, sound and broken, for every test that needs a video. The same call writes the same bytes.

`from tests import clips` works in every test whose folder, and tests/ itself, has an `__init__.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 96, 64  # multiples of 16 and of the chroma; wide enough for every codec


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB: a slow gradient, a moving square, and the number in 8 blocks of black or white below."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y + 3 * number) % 256], axis=2).astype(np.uint8)
    left = 3 * number % (width - 16)
    image[8:24, left : left + 16] = (220, 40, 60)
    for bit in range(8):
        image[height - 8 :, bit * 8 : bit * 8 + 8] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: NDArray[Any]) -> int:
    """The frame number that `picture` drew, read back from decoded RGB."""
    height = image.shape[0]
    return sum(int(image[height - 4, bit * 8 + 4, 0] > 127) << bit for bit in range(8))


def grey16(number: int, height: int = HEIGHT, width: int = WIDTH, bits: int = 16) -> NDArray[np.uint16]:
    """(H, W) uint16: a thermal-looking picture in a narrow range, with a value that counts, within `bits` bits."""
    y, x = np.mgrid[0:height, 0:width]
    image = (6743 + (x + y + number) % 335).astype(np.uint16)
    image[0, 0] = number
    image[0, 1] = (1 << bits) - 1
    return np.minimum(image, (1 << bits) - 1).astype(np.uint16)


def grey8(number: int, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """(H, W) uint8 that uses the whole range 0..255 (a range conversion would show)."""
    y, x = np.mgrid[0:height, 0:width]
    return ((3 * x + y + number) % 256).astype(np.uint8)


def _rgb_to_yuv420p(image: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), format="yuv420p")


def write_video(
    path: Path,
    frames: int = 20,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: int = 10,
    times: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    mux: dict[str, str] | None = None,
    first: int = 0,
) -> Path:
    """A video of `picture(first..first+frames-1)`, or of `grey16`/`grey8` where the pixel format is grey.

    times: presentation times in milliseconds, for a variable frame rate. options go to the codec, mux to the container.
    """
    width, height = size
    with av.open(str(path), "w", options={"fflags": "+bitexact", **(mux or {})}) as container:
        stream = container.add_stream(codec, rate=fps, options={"threads": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if codec in ("libx264", "libx265"):
            stream.options = {"preset": "veryfast", "crf": "18", "threads": "1", **(options or {})}
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
        stream.codec_context.time_base = base
        for number in range(frames):
            frame = _frame(first + number, width, height, pixel_format)
            frame.pts, frame.time_base = (times[number] if times is not None else number), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frame(number: int, width: int, height: int, pixel_format: str) -> av.VideoFrame:
    if pixel_format in ("gray", "gray8"):
        return av.VideoFrame.from_ndarray(grey8(number, height, width), format="gray")
    if pixel_format.startswith("gray"):
        bits = int(pixel_format[4:6])
        frame = av.VideoFrame(width, height, pixel_format)
        plane = frame.planes[0]
        rows = np.zeros((height, plane.line_size // 2), ">u2" if pixel_format.endswith("be") else "<u2")
        rows[:, :width] = grey16(number, height, width, bits)
        plane.update(rows.tobytes())
        return frame
    yuv = _rgb_to_yuv420p(picture(number, height, width))
    return yuv if pixel_format == "yuv420p" else yuv.reformat(format=pixel_format)


def write_images(
    folder: Path, images: Sequence[NDArray[Any]], name: str = "frame_{:d}.png", numbers: Sequence[int] | None = None
) -> Path:
    """A folder of numbered images, RGB or grey, 8 or 16 bits; JPEG is lossy."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in zip(numbers or range(len(images)), images, strict=True):
        bgr = image[..., ::-1] if image.ndim == 3 else image
        assert cv2.imwrite(str(folder / name.format(number)), np.ascontiguousarray(bgr))
    return folder


def write_tiff(path: Path, pages: Sequence[NDArray[Any]]) -> Path:
    """One TIFF file with many pages of grey."""
    assert cv2.imwritemulti(str(path), list(pages))
    return path


def truncated(path: Path, to: Path, share: float) -> Path:
    """The first `share` of the bytes of a file."""
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * share)])
    return to


def flipped(path: Path, to: Path, places: Sequence[float]) -> Path:
    """The file with one bit flipped at each of `places` (shares of its length)."""
    data = bytearray(path.read_bytes())
    for place in places:
        data[int(len(data) * place)] ^= 0x10
    to.write_bytes(data)
    return to


def overreporting(path: Path, to: Path, declared: int) -> Path:
    """The mp4 with the count in its time table (stts) set to `declared`: the header promises more than there is."""
    data = bytearray(path.read_bytes())
    at = data.index(b"stts")
    assert int.from_bytes(data[at + 8 : at + 12], "big") == 1, "a constant frame rate has one entry"
    data[at + 12 : at + 16] = declared.to_bytes(4, "big")
    to.write_bytes(data)
    return to


def edited(path: Path, to: Path, edits: Sequence[tuple[int, int]], fps: int = 10) -> Path:
    """The mp4 with another edit list. edits: so many frames from this one on; -1: for as long, nothing."""
    data = path.read_bytes()
    places = _boxes_at(data, b"moov", b"trak", b"edts")
    old = int.from_bytes(data[places[2] : places[2] + 4], "big")
    start = int.from_bytes(
        data[places[2] + 28 : places[2] + 32], "big"
    )  # of the first frame, after those decoded ahead
    movie, media = (int.from_bytes(data[(at := data.index(name)) + 16 : at + 20], "big") for name in (b"mvhd", b"mdhd"))
    rows = [
        struct.pack(">iiI", count * movie // fps, first if first < 0 else start + first * media // fps, 1 << 16)
        for count, first in edits
    ]
    table = struct.pack(">I4sII", 16 + 12 * len(rows), b"elst", 0, len(rows)) + b"".join(rows)
    made = bytearray(data[: places[2]] + struct.pack(">I4s", 8 + len(table), b"edts") + table + data[places[2] + old :])
    for at in places[:2]:  # the boxes around it; what the file's offsets point at is before them
        size = int.from_bytes(made[at : at + 4], "big") + 8 + len(table) - old
        made[at : at + 4] = size.to_bytes(4, "big")
    to.write_bytes(made)
    return to


def _boxes_at(data: bytes, *names: bytes) -> list[int]:
    """Where the first boxes of these names begin in an mp4, each within the one before."""
    places, at = list[int](), 0
    for name in names:
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
        places.append(at)
        at += 8
    return places


def cut_open(path: Path, to: Path, key: int = 1) -> Path:
    """The packets of a video from a key frame on (0: all), copied, as `ffmpeg -ss -c copy` cuts."""
    with av.open(str(path)) as source, av.open(str(to), "w", options={"fflags": "+bitexact"}) as container:
        stream = source.streams.video[0]
        copy = container.add_stream_from_template(stream)
        keys = 0
        for packet in source.demux(stream):
            keys += packet.is_keyframe
            if packet.dts is not None and keys > key:
                packet.stream = copy
                container.mux(packet)
    return to
