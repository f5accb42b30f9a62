"""A folder of numbered images, or one image file (a multi-page TIFF has many frames), 8 or 16 bits."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DecodeError
from mdfpipe.video.decoders import Decoder, Pixels, Wanted
from mdfpipe.video.files import check_file
from mdfpipe.video.image_files import is_images, numbered_frames, page_count

_BLOCK_BYTES = 32 << 20  # of the pages of a TIFF that are read at once
_BLOCK_PAGES = 256
_GAP = 8  # pages: to decode so many in vain costs about what it costs to open the file again


class Images(Decoder):
    """Images in the order of their numbers; a frame's index is its place in that order, and there is no time.

    A file that does not decode whole, or has another size, depth or number of channels than the first, raises
    DecodeError that names it. Frames that are not wanted are not opened; a TIFF's may be, where wanted ones are near.
    """

    def read(self, path: Path, wanted: Wanted, threads: int) -> Iterator[tuple[Pixels | None, float]]:
        """Every image, as `Decoder.read` promises; pts_seconds is always NaN."""
        first: Pixels | None = None
        for number, (file, pixels) in enumerate(_images(path, wanted)):
            if pixels is not None:
                first = pixels if first is None else first
                if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
                    raise DecodeError(
                        f"{file}: frame {number}: expected {_kind(first)} as in the first frame, got {_kind(pixels)}"
                    )
            yield pixels, np.nan


def _images(path: Path, wanted: Wanted) -> Iterator[tuple[Path, Pixels | None]]:
    """Every frame's file, and its pixels where it is wanted."""
    if not is_images(path):
        raise DecodeError(f"{path}: expected a folder of images or an image file; use auto or pyav for a video")
    if not path.is_dir() and (count := page_count(path)) > 1:
        yield from ((path, pixels) for pixels in _pages(path, count, wanted))
        return
    for number, file in enumerate(numbered_frames(path) if path.is_dir() else [path]):
        yield file, read_image(file, 0, f"{file}: frame {number}") if wanted(number) else None


def _pages(path: Path, count: int, wanted: Wanted) -> Iterator[Pixels | None]:
    """The pages of a TIFF; those that are wanted are read together with their neighbours.

    To get to a page, OpenCV opens the file and walks through the headers of all pages before it: page by page, the
    time would grow with the square of their number.
    """
    following, most = 0, 1
    pages = [number for number in range(count) if wanted(number)]
    while pages:
        group = _together(pages, most)
        pages = pages[len(group) :]
        block = _read_pages(path, group[0], group[-1] - group[0] + 1)
        for number in group:
            yield from repeat(None, number - following)
            where = f"{path}: frame {number}"
            if block is None:  # some page is broken: alone, each that is not comes before the error
                pixels = read_image(path, number, where)
            else:
                pixels = _to_pixels(block[number - group[0]], where)
            most = min(max(_BLOCK_BYTES // max(pixels.nbytes, 1), 1), _BLOCK_PAGES)
            following = number + 1
            yield pixels
    yield from repeat(None, count - following)


def _together(pages: list[int], most: int) -> list[int]:
    """The pages from the first on that are worth reading at once: with small gaps, and at most `most` from end to end.

    >>> _together([3, 4, 6, 90, 91], 100), _together([3, 4, 6, 90, 91], 2)
    ([3, 4, 6], [3, 4])
    """
    group = pages[:1]
    for number in pages[1 : most + 1]:
        if number - group[-1] > _GAP or number - group[0] >= most:
            break
        group.append(number)
    return group


def _read_pages(path: Path, start: int, count: int) -> Sequence[NDArray[np.generic]] | None:
    """`count` pages of a TIFF; None where one of them does not decode."""
    import cv2

    _quiet()
    check_file(path)
    try:
        _, pages = cv2.imreadmulti(str(path), start=start, count=count, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return pages if len(pages) == count else None


def _quiet() -> None:
    import cv2

    # errors only: libtiff warns of every private tag of every frame (FLIR)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)


def _kind(pixels: Pixels) -> str:
    return "{1}x{0} with {2} channels of {3}".format(*pixels.shape, pixels.dtype)


def read_image(path: Path, page: int, where: str) -> Pixels:
    """One page of an image file as `Frames` has its pixels. Raises DecodeError."""
    import cv2

    _quiet()
    check_file(path)
    image: NDArray[np.generic] | None = None
    if page:
        pages = _read_pages(path, page, 1)
        image = pages[0] if pages else None
    else:
        data = path.read_bytes()
        if damage := _damage(data):
            raise DecodeError(f"{where} does not decode: {damage}")
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
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
