"""Names: how a video is called in a file name, which paths are refused, and the order of a folder's frames.

What a table or a setting says about paths is not trusted: everything that becomes a path passes `safe_relative`.
The readers (which frame is number 12?) and the decoder of image folders (which frame comes twelfth?) must agree
on what a frame file is and on the order, so `frame_files` is written once, here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mdfpipe.errors import DataError, one_line

LONGEST_PATH = 1000  # characters
IMAGE_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"})  # what the decoder of images reads

_DIGITS = re.compile(r"(\d+)")


def file_name(video_id: str) -> str:
    """The video_id as part of a file name: `/` is written `__`.

    >>> file_name("cam1/night/walk 3")
    'cam1__night__walk 3'
    """
    return video_id.replace("/", "__")


def safe_relative(path: str, what: str) -> str:
    """`path` itself, where it is a plain POSIX path below some root; `what` names its origin in the message.

    Refused with DataError: an empty path or part, `.` and `..`, a leading `/`, backslashes, a drive letter,
    control and other unprintable characters, more than 1000 characters.

    >>> safe_relative("videos/a.mp4", "faces.csv row 2")
    'videos/a.mp4'
    """
    problem = _problem(path)
    if problem:
        shown = one_line(repr(path[:80])[1:-1], 80)
        raise DataError(f"{what}: expected a path relative to the data root, got '{shown}', which {problem}")
    return path


def _problem(path: str) -> str | None:
    if len(path) > LONGEST_PATH:
        return f"is {len(path)} characters long (at most {LONGEST_PATH})"
    if not path.isprintable():
        return "holds a control or unprintable character"
    if "\\" in path:
        return "holds a backslash (write / between folders)"
    if path.startswith("/"):
        return "is absolute"
    if re.match(r"[A-Za-z]:", path):
        return "starts with a drive"
    parts = path.split("/")
    if ".." in parts:
        return "climbs out with '..'"
    if "" in parts or "." in parts:
        return "has an empty part" if path else "is empty"
    return None


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts `f2` before `f10`: runs of digits compare as numbers, ties by the name itself.

    >>> sorted(["f10.png", "f2.png", "f02.png"], key=natural_key)
    ['f02.png', 'f2.png', 'f10.png']
    """
    parts = _DIGITS.split(name)
    return [(0, int(p), "") if n % 2 else (1, 0, p) for n, p in enumerate(parts) if p], name


def inside(root: Path, path: str, what: str) -> Path:
    """`root / path`, where neither the path nor a symlink on its way leads out of `root`. Raises DataError.

    The root itself may be reached through a symlink; what lies below it may not lead out, because a data set
    that reaches elsewhere is neither the one that was named nor the one that is fingerprinted.
    """
    found = root / safe_relative(path, what)
    home, real = root.resolve(), found.resolve()
    if not real.is_relative_to(home):
        raise DataError(
            f"{what}: {path} is a symlink to {real}, outside the data root {home}; put the data itself there"
        )
    return found


def frame_number(name: str) -> int | None:
    """The last number in a file's name without its suffix; None where there is none.

    >>> frame_number("1800v.png"), frame_number("cam2_frame_0012.tiff"), frame_number("cover.jpg")
    (1800, 12, None)
    """
    numbers = re.findall(r"[0-9]+", Path(name).stem)
    return int(numbers[-1]) if numbers else None


def frame_files(folder: Path, root: Path | None = None) -> list[str]:
    """The names of a folder's frames in presentation order: its image files, hidden ones left out.

    A frame's index is its position in this list: by `frame_number`, or in natural order where no file has a number.
    Raises DataError where the folder cannot be listed, where the order would be a guess (two files have one number,
    or only some have one), and, with `root`, where a frame is a symlink that leads out of it.
    """
    try:
        with os.scandir(folder) as entries:
            images = [e for e in entries if Path(e.name).suffix.lower() in IMAGE_SUFFIXES and e.name[0] != "."]
            names = [e.name for e in images if not e.is_dir()]  # a broken link stays: without it the rest would move up
            links = [Path(e.path) for e in images if root is not None and e.is_symlink()]
    except OSError as error:
        raise DataError(f"{folder}: the folder of frames cannot be listed: {error.strerror}") from None
    for link in links:
        if root is not None:
            inside(root, link.relative_to(root).as_posix(), "frame")
    return _in_order(names, folder)


def _in_order(names: list[str], folder: Path) -> list[str]:
    ordered = sorted(names, key=natural_key)
    numbered: dict[int, str] = {}
    bare: list[str] = []
    for name in ordered:
        number = frame_number(name)
        if number is None:
            bare.append(name)
        elif number in numbered:
            pair = " and ".join(one_line(n) for n in (numbered[number], name))
            raise DataError(
                f"{folder}: {pair} are both frame number {number} (the last number in the name), so that their order "
                "would be a guess; rename or move one"
            )
        else:
            numbered[number] = name
    if bare and numbered:
        raise DataError(
            f"{folder}/{one_line(bare[0])}: expected a number in every frame's file name, as {len(numbered)} of "
            f"{len(ordered)} images of the folder have one; rename it or move it elsewhere"
        )
    return bare or [numbered[number] for number in sorted(numbered)]
