"""A folder of numbered images, or one image file (a multi-page TIFF has many frames), 8 or 16 bits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder, Pixels, Wanted
from mdfpipe.video.probe import check_file, is_images, numbered_frames, page_count


class Images(Decoder):
    """Images in the order of their numbers; a frame's index is its place in that order, and there is no time.

    A file that does not decode whole, or has another size, depth or number of channels than the first, raises
    DecodeError that names it. Frames that are not wanted are not opened.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every image, as `Decoder.read` promises; pts_seconds is always NaN."""
        first: Pixels | None = None
        for number, (file, page) in enumerate(_pages(path)):
            if not wanted(number):
                yield None, np.nan
                continue
            pixels = read_image(file, page, f"{file}: frame {number}")
            if first is None:
                first = pixels
            if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
                raise DecodeError(
                    f"{file}: frame {number}: expected {_kind(first)} as in the first frame, got {_kind(pixels)}"
                )
            yield pixels, np.nan


def _pages(path: Path) -> list[tuple[Path, int]]:
    if path.is_dir():
        return [(file, 0) for file in numbered_frames(path)]
    if not is_images(path):
        raise DecodeError(f"{path}: expected a folder of images or an image file; use auto or pyav for a video")
    return [(path, page) for page in range(page_count(path))]


def _kind(pixels: Pixels) -> str:
    return "{1}x{0} with {2} channels of {3}".format(*pixels.shape, pixels.dtype)


def read_image(path: Path, page: int, where: str) -> Pixels:
    """One page of an image file as `Frames` has its pixels. Raises DecodeError."""
    import cv2

    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_ERROR
    )  # errors only: libtiff warns of every private tag of every frame (FLIR)
    check_file(path)
    data = path.read_bytes()
    if damage := _damage(data):
        raise DecodeError(f"{where} does not decode: {damage}")
    buffer = np.frombuffer(data, np.uint8)
    try:
        if page:
            is_read, images = cv2.imreadmulti(str(path), start=page, count=1, flags=cv2.IMREAD_UNCHANGED)
            image = images[0] if is_read and images else None
        else:
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise DecodeError(f"{where} does not decode: expected a whole {path.suffix.lower()[1:]} image")
    return _to_pixels(image, where)


def _to_pixels(image: NDArray[np.generic], where: str) -> Pixels:
    """(H, W), (H, W, 3) BGR or (H, W, 4) BGRA of OpenCV as RGB or 16-bit grey; alpha is dropped."""
    if image.dtype == np.uint8:
        narrow: NDArray[np.uint8] = image.astype(np.uint8, copy=False)
        rgb = np.repeat(narrow[..., None], 3, axis=2) if image.ndim == 2 else narrow[..., 2::-1]
        return np.ascontiguousarray(rgb)
    if image.dtype == np.uint16:
        wide: NDArray[np.uint16] = image.astype(np.uint16, copy=False)
        return np.ascontiguousarray(wide[..., None] if image.ndim == 2 else wide[..., 2::-1])
    raise DecodeError(f"{where}: expected 8 or 16 bits per pixel, got {image.dtype}")


def _damage(data: bytes) -> str | None:
    """What is broken in a PNG or JPEG that OpenCV would fill up without a word; None for other formats."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png_damage(data)
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:]:
        return "the JPEG has no end"
    return None


def _png_damage(data: bytes) -> str | None:
    position = 8
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        body, checksum = data[position + 4 : end - 4], data[end - 4 : end]
        if end > len(data):
            break
        if zlib.crc32(body).to_bytes(4, "big") != checksum:
            return f"a checksum of the PNG does not fit at byte {position}"
        if body[:4] == b"IEND":
            return None
        position = end
    return "the PNG has no end"
