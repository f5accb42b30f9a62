"""Names: how a video is called in a file name, which paths are refused, and which name is nearly meant.

What a table or a setting says about paths is not trusted: everything that becomes a path passes `safe_relative`.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from mdfpipe.errors import DataError, is_visible, one_line
from mdfpipe.store.content import stand_in

STAGES = ("index", "detect", "track", "label", "crop", "manifest", "train", "embed", "evaluate")
"""The folders of a run in which every file belongs to a part, or is the record of a failure."""

LONGEST_PATH = 1000  # characters

# What the decoder of images reads: it goes by what is in a file, and by these names only to find it.
_PICTURES = "png tif tiff btf tf8 jpg jpeg jpe jfif jfi jif pjpeg pjp bmp dib webp pgm ppm pnm pbm"
_OTHER_PICTURES = (
    "jp2 j2k jpf jpx jpc j2c jpm jxl jxr wdp hdp heic heif hif avif exr hdr pic pfm pam ras sr sgi tga ico psd xcf svg "
    "dng cr2 cr3 nef arw orf rw2 raf pef srw fits fit fts dcm fff apng gif"
)
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _PICTURES.split())
OTHER_PICTURE_SUFFIXES = frozenset(f".{name}" for name in _OTHER_PICTURES.split())
"""Pictures that are not read: frames of such a kind are named, and never passed over."""
PICTURE_SUFFIXES = IMAGE_SUFFIXES | OTHER_PICTURE_SUFFIXES
LONGEST_NAME = 200  # of a subject, system, session, template
LONGEST_PART = 90  # of what such a name gives to the name of a file

# Containers and raw streams that are videos. Other suffixes belong to the name (a folder `2019.05.01`).
_CONTAINERS = (
    "mp4 m4v mov qt avi divx mkv mk3d webm ts mts m2ts m2t tp trp mpg mpeg mpe wmv asf flv f4v gif apng mxf ogv ogm "
    "3gp 3g2 vob dv nut rm rmvb mj2 insv lrv"
)
_STREAMS = "m1v m2v mpv mjpeg mjpg y4m ivf obu 264 h264 avc 265 h265 hevc"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in f"{_CONTAINERS} {_STREAMS}".split())
_DIGITS = re.compile(r"(\d+)")
_HOST = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://([^/:]*)(?::\d+)?")


def file_name(video_id: str) -> str:
    """The video_id as part of a file name: `/` is written `__`.

    >>> file_name("cam1/night/walk 3")
    'cam1__night__walk 3'
    """
    return video_id.replace("/", "__")


class Links(StrEnum):
    """Whether symbolic links below a data root may lead out of it."""

    INSIDE = "inside"  # they may not: what is named is what is there
    FOLLOW = "follow"  # they may: git-annex, DVC, and videos spread over disks


def is_name(text: str, longest: int = LONGEST_NAME) -> bool:
    """Whether a text that others wrote may name a subject, a system, a template: printable, at most 200 characters.

    >>> [is_name(text) for text in ("Ann (2)", "\\x1b[31mAnn", "x" * 201)]
    [True, False, False]
    """
    return len(text) <= longest and text.isprintable()


def file_part(name: str) -> str:
    """A name that somebody gave to a system or a table, as a part of a file name: it leads out of no folder.

    Letters, digits, spaces and `+._-()` stay; all else is written as in an address, and a long name ends in its hash.

    >>> file_part("body+face (ours)"), file_part("x/../y")
    ('body+face (ours)', 'x%2F..%2Fy')
    """
    part = quote(name, safe=" +._-()")
    if len(part) <= LONGEST_PART:
        return part
    return f"{part[: LONGEST_PART - 17]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def safe_relative(path: str, what: str) -> str:
    """`path` below some root, as a plain POSIX path; `what` names its origin in the message.

    `./a`, `a//b` and `a\\b` become `a`, `a/b` and `a/b`. Refused with DataError: an empty path, `..`, a leading `/`,
    a drive letter, a URL, control and other characters that one does not see, more than 1000 characters.

    >>> safe_relative("videos/a.mp4", "faces.csv row 2"), safe_relative("./videos//a.mp4", "faces.csv row 3")
    ('videos/a.mp4', 'videos/a.mp4')
    """
    plain = path.replace("\\", "/")
    problem = _problem(plain)
    if problem:
        shown = one_line(path[:80], 80)
        raise DataError(f"{what}: expected a path relative to the data root, got '{shown}', which {problem}")
    return _plain(plain)


def _plain(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _problem(path: str) -> str | None:
    if len(path) > LONGEST_PATH:
        return f"is {len(path)} characters long (at most {LONGEST_PATH})"
    if not path.isprintable():
        return "holds a control character, a no-break space or another character that one does not see"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", path):
        return "is a URL"
    if path.startswith("/"):
        return "is absolute"
    if re.match(r"[A-Za-z]:", path):
        return "starts with a drive"
    parts = path.split("/")
    if ".." in parts:
        return "climbs out with '..'"
    return None if set(parts) - {"", "."} else "is empty"


def is_plain(path: str) -> bool:
    """Whether a name that somebody else wrote down is a plain relative path, as we write them: it climbs nowhere.

    >>> [is_plain(path) for path in ("evaluate/a.parquet", "evaluate/../a", "/a", "a//b")]
    [True, False, False, False]
    """
    return "\\" not in path and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def named_alike(text: str) -> tuple[str, str]:
    """How a table may write a video_id: as a path in plain form, with and without a video's suffix. A URL is written
    without its protocol and port.

    >>> named_alike("./videos//a.mp4"), named_alike("https://data.org:8080/a.mp4")
    (('videos/a.mp4', 'videos/a'), ('data.org/a.mp4', 'data.org/a'))
    """
    plain = _plain(_HOST.sub(r"\1", text).replace("\\", "/"))
    stem, dot, suffix = plain.rpartition(".")
    return plain, stem if dot and f".{suffix.lower()}" in VIDEO_SUFFIXES else plain


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key that puts `f2` before `f10`: runs of digits compare as numbers, ties by the name itself.

    >>> sorted(["f10.png", "f2.png", "f02.png"], key=natural_key)
    ['f02.png', 'f2.png', 'f10.png']
    """
    parts = _DIGITS.split(name)
    return [(0, int(p), "") if n % 2 else (1, 0, p) for n, p in enumerate(parts) if p], name


def inside(root: Path, path: str, what: str, links: Links | None = None) -> Path:
    """`root / path`, where neither the path nor a symbolic link on its way leads out of `root`. Raises DataError.

    The root itself may be reached through a link; what is below it may lead out only where `links` says so, because
    a data set that reaches elsewhere may be neither the one that was named nor the one that is fingerprinted.
    links: the setting of a data set; without it the message names none. A link that leads nowhere is passed on: who
    opens it says so.
    """
    found = root / safe_relative(path, what)
    home, real = root.resolve(), _real(found)
    if links is Links.FOLLOW or real is None or real.is_relative_to(home) or (not real.exists() and stand_in(found)):
        return found
    allow = "" if links is None else ", or allow links that lead out with dataset.links=follow"
    raise DataError(
        f"{what}: {path} is a symlink to {real}, outside the data root {home}; put the data itself there{allow}"
    )


class Bounds:
    """`inside` for many paths of one root at one time: of each folder, the links on the way to it are followed once."""

    def __init__(self, root: Path, what: str, links: Links) -> None:
        self.root, self.what, self.links, self._inside = root, what, links, dict[str, bool]()

    def check(self, path: str) -> None:
        """Raise DataError where a path leads out of the root, as `inside` does. path: as `safe_relative` gives it."""
        folder, home = path.rpartition("/")[0], self.root
        if self.links is Links.FOLLOW:
            return
        if folder not in self._inside:
            real = _real(home / folder)
            self._inside[folder] = real is not None and real.is_relative_to(home.resolve())
        if not self._inside[folder] or os.path.islink(f"{home}/{path}"):  # noqa: PTH114 - a Path takes twice as long
            inside(home, path, self.what, self.links)


def _real(path: Path) -> Path | None:
    """Where a path leads; None where its links go round in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError up to Python 3.12
        return None


def link_target(root: Path, path: str) -> str | None:
    """The real path of what is at `path` below the root, where a link on the way to it leads elsewhere, else None.

    Folder that holds the frames, if the frames of a folder are links.
    """
    found, real = root / path, _real(root / path)
    if real is None:
        return None
    if real != root.resolve() / path:
        return str(real)
    if not found.is_dir():
        return None
    with os.scandir(found) as entries:
        ends = [_real(Path(entry.path)) for entry in entries if entry.is_symlink()]
    folders = sorted({str(end.parent) for end in ends if end is not None})
    return os.path.commonpath(folders) if folders else None


@lru_cache(maxsize=64)
def _listed(folder: str, mtime_ns: int) -> tuple[str, ...]:
    return tuple(sorted(os.listdir(folder)))  # noqa: PTH208 - names, of folders with a million files


def nearest(root: Path, path: str) -> str:
    """Words on the file that `path`, which is not there, nearly names: `; videos/A.mp4 is there (...)`; else "".

    Near is another letter case, another encoding of accents, another or no suffix, another folder, a slip of the pen.
    """
    try:
        found, why = _nearest(root, path)
    except (OSError, ValueError, RuntimeError):
        return ""
    return f"; '{told_path(found, path)}' is there ({why}): correct the name" if found else ""


def told_path(found: str, path: str) -> str:
    """A path for a message, escaped where it would look like another one."""
    return ascii(found)[1:-1] if composed(found) == composed(path) else one_line(found, 120)


def _nearest(root: Path, path: str) -> tuple[str, str]:
    parts, here, reasons = path.split("/"), "", []
    for number, part in enumerate(parts):
        folder = root / here
        if os.path.lexists(folder / part):
            here = f"{here}/{part}" if here else part
            continue
        names = _listed(str(folder), folder.stat().st_mtime_ns) if folder.is_dir() else ()
        name, why = near_name(part, names, is_file=number == len(parts) - 1)
        if name is None:
            return _elsewhere(root, parts)
        here = f"{here}/{name}" if here else name
        reasons.append(why)
    return (here, ", ".join(dict.fromkeys(reasons))) if reasons else ("", "")


def composed(text: str) -> str:
    """A text in which the encoding of accents does not count."""
    return unicodedata.normalize("NFC", text)


def folded(text: str) -> str:
    """A text in which neither letter case nor the encoding of accents counts."""
    return composed(text).casefold()


def _bare(name: str) -> str:
    """A name without its suffix, folded; a number behind a dot is no suffix."""
    stem, dot, suffix = name.rpartition(".")
    return folded(stem if dot and stem and not suffix.isdecimal() else name)


_WAYS: Final[tuple[tuple[str, Callable[[str], str]], ...]] = (
    ("its accents are encoded in another way", composed),
    ("letter case differs", folded),
    ("blanks or invisible characters differ", lambda name: "".join(c for c in name.casefold() if is_visible(c))),
    ("its suffix differs", _bare),
)


def near_name(wanted: str, names: Collection[str], *, is_file: bool = True) -> tuple[str | None, str]:
    """The name of `names` that `wanted` nearly is, and in what they differ; None where none is near.

    >>> near_name("Walk.mp4", ["a.mp4", "walk.mp4"]), near_name("walk", ["walk.mp4"]), near_name("x", ["walk"])
    (('walk.mp4', 'letter case differs'), ('walk.mp4', 'its suffix differs'), (None, ''))
    """
    for why, key in _WAYS if is_file else _WAYS[:-1]:
        found = next((name for name in names if key(name) == key(wanted)), None)
        if found is not None:
            return found, why
    if len(wanted) < 5:  # a and b are no slip of the pen
        return None, ""
    close = difflib.get_close_matches(wanted, [n for n in names if abs(len(n) - len(wanted)) < 4][:20_000], 1, 0.85)
    return (close[0], "a similar name") if close else (None, "")


def near_pattern(pattern: str, names: Collection[str]) -> tuple[str | None, str]:
    """The name of `names` that a pattern with * and ? nearly matches, and in what they differ; None where none is near.

    >>> near_pattern("*_TEST.mp4", ["a.mp4", "b_test.mp4"]), near_pattern("a*", ["videos/a.mp4"])
    (('b_test.mp4', 'letter case differs'), ('videos/a.mp4', 'it is in a folder'))
    """
    for front, (why, key) in (("", _WAYS[0]), ("", _WAYS[1]), ("*/", ("it is in a folder", folded))):
        matches = re.compile(fnmatch.translate(front + key(pattern))).match
        found = next((name for name in names if matches(key(name))), None)
        if found is not None:
            return found, why
    return None, ""


def _elsewhere(root: Path, parts: list[str]) -> tuple[str, str]:
    """The same path in another folder: one above, or in a folder of the root."""
    for start in range(1, len(parts)):
        inner = "/".join(parts[start:])
        if (root / inner).exists():
            return inner, "without its first folder"
    path = "/".join(parts)
    for name in _listed(str(root), root.stat().st_mtime_ns)[:1000]:
        if not name.startswith(".") and (root / name / path).exists():
            return f"{name}/{path}", f"in the folder {name}, which dataset.folder={name} would put in front"
    return "", ""


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one; not where a link leads round in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False
