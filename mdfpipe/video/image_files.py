"""Image files as frames: which paths are images, in which order, and the pixels of each.

What an image is (size, depth, orientation) comes from its decoder, so that nothing is accepted here that the
decoder refuses, and nothing refused that it reads.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import DataError, DecodeError, one_line
from mdfpipe.store.content import packed_as, stand_in
from mdfpipe.store.frames import frame_files
from mdfpipe.store.images import FORMATS, damage_of, format_of, orientation_of, rounded, said_of_others, unpacked
from mdfpipe.store.naming import IMAGE_SUFFIXES
from mdfpipe.store.tiff import Tiff
from mdfpipe.video.orientation import AS_STORED, turned
from mdfpipe.video.tiff_pages import read_page, stack_of

Pixels: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]

_PNM_HEADER = re.compile(rb"P([1-6])" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s")
_GREY_PNG = (0, 4)  # colour types of a PNG: grey, grey and alpha


@dataclass(frozen=True, eq=False)
class Image:
    """One decoded image.

    pixels: (H, W, 3) uint8 RGB, or (H, W, 1) or (H, W, 3) uint16, as `Frames` has them and as stored: not turned.
    bit_depth: of a sample in the file, at least 8. orientation: how it is turned to be shown, 1 to 8 as EXIF counts.
    format: such as PNG, by its content.
    """

    pixels: Pixels
    bit_depth: int
    orientation: int
    format: str

    def shown(self) -> Image:
        """The same image as it is shown: turned, if its file says so."""
        if self.orientation == AS_STORED:
            return self
        return replace(self, pixels=turned(self.pixels, self.orientation), orientation=AS_STORED)

    def narrowed(self) -> Image:
        """The same image, with colour above 8 bits in 8, rounded; grey keeps its values."""
        if self.pixels.dtype == np.uint8 or self.pixels.shape[2] == 1:
            return self
        return replace(self, pixels=rounded(self.pixels))

    @property
    def kind(self) -> str:
        """Size, channels and depth, in words."""
        height, width, channels = self.pixels.shape
        return f"{width}x{height} with {channels} channels of {self.bit_depth} bits"


def check_file(path: Path) -> None:
    """Raise DecodeError unless `path` is a readable file with something in it."""
    instead = stand_in(path)
    if instead is not None:
        raise DecodeError(f"{path}: expected a video or an image, got {instead}")
    try:
        if not path.is_file():
            raise DecodeError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        with path.open("rb") as file:
            head = file.read(8)
            if not head:
                raise DecodeError(f"{path}: the file is empty (0 bytes)")
            if packed := packed_as(head):
                raise DecodeError(f"{path}: expected a video or an image, got {packed}; unpack it")
    except (OSError, ValueError) as error:
        raise DecodeError(f"{path}: cannot be read: {one_line(error)}") from None


def is_images(path: Path) -> bool:
    """Whether `path` is a folder of images or one image file, judged by name."""
    return path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES


def numbered_frames(folder: Path) -> list[Path]:
    """The images of a folder in the order of `frame_files`; a frame's index is its place here.

    Raises DecodeError where `frame_files` refuses the folder, or there is no image. Where links may lead, the data set
    decides, once: see `naming.inside`.
    """
    try:
        paths = [folder / name for name in frame_files(folder)]
    except DataError as error:
        raise DecodeError(str(error)) from None
    if not paths:
        raise DecodeError(f"{folder}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), found none")
    return paths


def page_count(path: Path) -> int:
    """The number of pages of an image file: the directories of a TIFF, else 1. Raises DecodeError."""
    check_file(path)
    with path.open("rb") as file:
        try:
            tiff = Tiff.of(file)
            return 1 if tiff is None else len(_offsets(tiff))
        except DataError as error:
            raise DecodeError(f"{path}: {error}") from None


def read_frames(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[Path, Image | None]]:
    """Every frame of a folder of images or of an image file: the file, and the image where it is wanted, else None.

    Raises DecodeError, which names the file and the frame, where one that is wanted cannot be had.
    """
    if path.is_dir() or page_count(path) == 1:
        for number, file in enumerate(numbered_frames(path) if path.is_dir() else [path]):
            yield file, read_image(file, f"{file}: frame {number}") if wanted(number) else None
        return
    with path.open("rb") as opened:
        tiff = Tiff.of(opened)
        for number, offset in enumerate(_offsets(tiff) if tiff else []):
            image = None
            if tiff and wanted(number):
                with _named(f"{path}: frame {number}"):
                    image = _page(tiff, offset)
            yield path, image


def read_image(path: Path, where: str) -> Image:
    """The image of a file that holds one. Raises DecodeError, which begins with `where`."""
    check_file(path)
    with _named(where):
        return decode(path.read_bytes())


def decode(data: bytes) -> Image:
    """The image that the bytes of a file hold. Raises DataError, which says what is wrong with them."""
    kind = format_of(data)
    if kind is None:
        raise DataError(f"expected an image ({', '.join(FORMATS)}), got {said_of_others(data)}")
    if damage := damage_of(data):
        raise DataError(damage)
    if kind == "TIFF":
        tiff = Tiff.of(io.BytesIO(data))
        pages = _offsets(tiff) if tiff else []
        if tiff is None or len(pages) > 1:
            raise DataError(
                f"expected one image, got a TIFF of {len(pages)} pages; write each page to a file of its own, "
                "or name the TIFF itself as a video"
            )
        return _page(tiff, pages[0])
    import cv2

    quiet()
    image = unpacked(data, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise DataError(f"expected a whole {kind} image")
    pixels, depth = _of_opencv(image, kind, data)
    return Image(pixels, depth, orientation_of(data), kind)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Say `where` in front of what goes wrong within."""
    try:
        yield
    except DataError as error:
        raise DecodeError(f"{where} does not decode: {one_line(error)}") from None
    except OSError as error:
        raise DecodeError(f"{where} cannot be read: {error.strerror}") from None


def quiet() -> None:
    """Keep OpenCV and the libraries within from writing to stderr; what goes wrong is an error here."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


# -- TIFF


def _offsets(tiff: Tiff) -> list[int]:
    """Where the pages are. Raises DataError where there is none, or where pictures lie behind them without a page."""
    offsets = list(tiff.pages())
    if not offsets:
        raise DataError("the TIFF has no page")
    if len(offsets) == 1 and (stack := stack_of(tiff, offsets[0])) > 1:
        raise DataError(
            f"it is a stack of {stack} pictures of ImageJ, of which TIFF knows only the first; "
            "save it as an image sequence"
        )
    return offsets


def _page(tiff: Tiff, offset: int) -> Image:
    quiet()
    values, depth, orientation = read_page(tiff, offset)
    return Image(_with_channels(values), depth, orientation, "TIFF")


def _with_channels(values: NDArray[np.generic]) -> Pixels:
    """Grey of 8 bits three times, grey of 16 bits once, colour as it is."""
    if values.dtype == np.uint8:
        narrow: NDArray[np.uint8] = values.astype(np.uint8, copy=False)
        return np.repeat(narrow[..., None], 3, axis=2) if values.ndim == 2 else np.ascontiguousarray(narrow)
    wide: NDArray[np.uint16] = values.astype(np.uint16, copy=False)
    return np.ascontiguousarray(wide[..., None] if values.ndim == 2 else wide)


# -- the other formats, by OpenCV


def _of_opencv(image: NDArray[Any], kind: str, data: bytes) -> tuple[Pixels, int]:
    """Grey, BGR or BGRA of OpenCV as our pixels, and the bits of a sample; alpha is dropped."""
    import cv2

    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"expected 8 or 16 bits a sample, got {image.dtype}")
    if image.ndim == 3:
        is_grey = kind == "PNG" and data[25] in _GREY_PNG  # OpenCV makes colour of grey with alpha
        colours = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB  # far faster than [::-1]
        image = image[..., 0] if is_grey else cv2.cvtColor(image, colours)
    if kind == "PNM":
        return _scaled(image, data)
    return _with_channels(image), 8 * image.dtype.itemsize


def _scaled(image: NDArray[np.generic], data: bytes) -> tuple[Pixels, int]:
    """A PNM by the largest value that its header names: 8 bits, and colour above, are brought to the whole range.

    Grey above 8 bits keeps its values, and its depth follows from the largest value, where this is one that fills its
    bits (4095: 12): some programs write the largest value of each picture there.
    """
    header = _PNM_HEADER.match(data)
    if header is None:  # P1 and P4 have none: black and white
        return _with_channels(image), 8
    width, height, most = (int(number) for number in header.groups()[1:])
    if header[1] in b"56" and len(data) > header.end() + image.size * image.itemsize + 1:
        raise DataError(f"expected one picture of {width}x{height}, got more behind it; write one a file")
    if image.max(initial=0) > most:
        raise DataError(f"expected values up to {most} as its header says, got {image.max()}")
    if image.dtype == np.uint8 or image.ndim == 3:
        full = 255 if image.dtype == np.uint8 else 65535
        values = image.astype(np.uint32)
        image = image if most == full else ((values * full + most // 2) // most).clip(0, full).astype(image.dtype)
        return _with_channels(image), 8 * image.dtype.itemsize
    return _with_channels(image), most.bit_length() if most & (most + 1) == 0 else 16
