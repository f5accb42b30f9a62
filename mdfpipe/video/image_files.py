"""Image files as the frames of a video: which paths are images, in which order, and how many pages a file has."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mdfpipe.errors import DataError, DecodeError
from mdfpipe.store.naming import IMAGE_SUFFIXES, frame_files
from mdfpipe.video.files import check_file


def is_images(path: Path) -> bool:
    """Whether `path` is a folder of images or one image file, judged by name.

    >>> is_images(Path("a/b.TIFF")), is_images(Path("a/b.mp4"))
    (True, False)
    """
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
        order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(head := file.read(4))
        if order is None:
            return 1
        try:
            return len(list(_directories(file, order, big=b"+" in head)))
        except struct.error:
            raise DecodeError(f"{path}: the TIFF ends before its list of pages does") from None


def _directories(file: BinaryIO, order: str, big: bool) -> Iterator[int]:
    """The offset of each page's directory, following the chain. BigTIFF has wider fields."""
    count_code, offset_code, entry = ("Q", "Q", 20) if big else ("H", "I", 12)

    def number(code: str) -> int:
        return int(struct.unpack(order + code, file.read(struct.calcsize(code)))[0])

    file.seek(8 if big else 4)
    seen: set[int] = set()
    while (offset := number(offset_code)) and offset not in seen:
        seen.add(offset)
        yield offset
        file.seek(offset)
        file.seek(offset + struct.calcsize(count_code) + number(count_code) * entry)
