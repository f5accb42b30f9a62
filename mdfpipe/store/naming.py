"""Names: how a video is called in a file name, which paths are refused, and the order of a folder's frames.

What a table or a setting says about paths is not trusted: everything that becomes a path passes `safe_relative`.
The readers (which frame is number 12?) and the decoder of image folders (which frame comes twelfth?) must agree
on what a frame file is and on the order, so `frame_files` is written once, here.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import os
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

from mdfpipe.errors import DataError, is_visible, one_line
from mdfpipe.store.frame_times import counted_in_letters, sortable
from mdfpipe.store.standins import stand_in

STAGES = ("index", "detect", "label", "crop", "manifest", "train", "embed", "evaluate")
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
_UNFINISHED = frozenset(
    {".part", ".partial", ".crdownload", ".download", ".filepart", ".tmp", ".gz", ".bz2", ".xz", ".zst", ".dvc"}
)
LONGEST_NAME = 200  # of a subject, system, session, template
LONGEST_PART = 90  # of what such a name gives to the name of a file

# Containers and raw streams that are videos. Other suffixes belong to the name (a folder `2019.05.01`).
_CONTAINERS = (
    "mp4 m4v mov qt avi divx mkv mk3d webm ts mts m2ts m2t tp trp mpg mpeg mpe wmv asf flv f4v gif apng mxf ogv ogm "
    "3gp 3g2 vob dv nut rm rmvb mj2 insv lrv"
)
_STREAMS = "m1v m2v mpv mjpeg mjpg y4m ivf obu 264 h264 avc 265 h265 hevc"
VIDEO_SUFFIXES = frozenset(f".{name}" for name in f"{_CONTAINERS} {_STREAMS}".split())

PICTURE_SUFFIXES = IMAGE_SUFFIXES | OTHER_PICTURE_SUFFIXES
_IN_FRAMES = PICTURE_SUFFIXES | _UNFINISHED
_DIGITS = re.compile(r"(\d+)")
_NUMBER = re.compile(r"[0-9]+")
_EPOCH = re.compile(r"(?<![0-9])[0-9]{9,10}[._-](?:[0-9]{9}|[0-9]{6}|[0-9]{3})(?![0-9])")  # seconds, and a fraction
_CALENDAR = re.compile(  # 2021-01-07T12-30-45.250, 20210107_123045, with any or no signs between
    r"(?<![0-9])(?:19|20)[0-9]{2}[-_.: ]?(?:0[1-9]|1[0-2])[-_.: ]?(?:0[1-9]|[12][0-9]|3[01])[-_.:Tt ]{0,3}"
    r"(?:[01][0-9]|2[0-3])[-_.:h ]?[0-5][0-9][-_.:m ]?[0-6][0-9](?:[-_.:,s ]?[0-9]{1,9})?(?![0-9])"
)
_CLOCK = re.compile(  # 13-05-59, 9.05.59.250
    r"(?<![0-9])(?:[01]?[0-9]|2[0-3])[-_.:h][0-5][0-9][-_.:m][0-5][0-9](?:[-_.:,s][0-9]{1,9})?(?![0-9])"
)


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
    return "/".join(part for part in plain.split("/") if part not in ("", "."))


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
    """How a table may write a video_id: as a path in plain form, with and without a video's suffix.

    >>> named_alike("./videos//a.mp4")
    ('videos/a.mp4', 'videos/a')
    """
    plain = "/".join(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
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


# --- names that nearly are ---------------------------------------------------------------------------------------


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
    same = unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", path)
    return ascii(found)[1:-1] if same else one_line(found, 120)


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


def near_name(wanted: str, names: Collection[str], *, is_file: bool = True) -> tuple[str | None, str]:
    """The name of `names` that `wanted` nearly is, and in what they differ; None where none is near.

    >>> near_name("Walk.mp4", ["a.mp4", "walk.mp4"]), near_name("walk", ["walk.mp4"]), near_name("x", ["walk"])
    (('walk.mp4', 'letter case differs'), ('walk.mp4', 'its suffix differs'), (None, ''))
    """
    ways: list[tuple[str, Callable[[str], str]]] = [
        ("its accents are encoded in another way", lambda name: unicodedata.normalize("NFC", name)),
        ("letter case differs", folded),
        ("blanks or invisible characters differ", lambda name: "".join(c for c in name.casefold() if is_visible(c))),
    ]
    if is_file:
        ways.append(("its suffix differs", _bare))
    for why, key in ways:
        found = [name for name in names if key(name) == key(wanted)]
        if found:
            return found[0], why
    if len(wanted) < 5:  # a and b are no slip of the pen
        return None, ""
    close = difflib.get_close_matches(wanted, [n for n in names if abs(len(n) - len(wanted)) < 4][:20_000], 1, 0.85)
    return (close[0], "a similar name") if close else (None, "")


def folded(text: str) -> str:
    """A text in which neither letter case nor the encoding of accents counts."""
    return unicodedata.normalize("NFC", text).casefold()


def near_pattern(pattern: str, names: Collection[str]) -> tuple[str | None, str]:
    """The name of `names` that a pattern with * and ? nearly matches, and in what they differ; None where none is near.

    >>> near_pattern("*_TEST.mp4", ["a.mp4", "b_test.mp4"]), near_pattern("a*", ["videos/a.mp4"])
    (('b_test.mp4', 'letter case differs'), ('videos/a.mp4', 'it is in a folder'))
    """
    ways: list[tuple[str, Callable[[str], str], str]] = [
        ("its accents are encoded in another way", lambda name: unicodedata.normalize("NFC", name), ""),
        ("letter case differs", folded, ""),
        ("it is in a folder", folded, "*/"),
    ]
    for why, key, front in ways:
        matches = re.compile(fnmatch.translate(front + key(pattern))).match
        found = next((name for name in names if matches(key(name))), None)
        if found is not None:
            return found, why
    return None, ""


def _bare(name: str) -> str:
    """A name without its suffix, folded; a number behind a dot is no suffix."""
    stem, dot, suffix = name.rpartition(".")
    return unicodedata.normalize("NFC", stem if dot and stem and not suffix.isdecimal() else name).casefold()


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


class FrameRule(StrEnum):
    """What a folder's frames are ordered by."""

    NUMBER = "number"
    TIME = "time stamp"
    NAME = "name"


def frame_numbers(names: Sequence[str]) -> list[int] | None:
    """The number of each frame by its name, ascending; None where one has none, or they do not ascend.

    names: in presentation order; time stamps, for one, do not ascend in the fractions of their seconds. Of several
    numbers in a name it is the one that differs from name to name where only one does, else the last.

    >>> frame_numbers(["left_7_640x480.png", "left_8_640x480.png"]), frame_numbers(["a1.png", "b.png"])
    ([7, 8], None)
    """
    found = [None if number is None else int(number) for number in _counting(names)]
    numbers = [number for number in found if number is not None]
    return numbers if len(numbers) == len(names) and all(a < b for a, b in pairwise(numbers)) else None


def frame_files(folder: Path, root: Path | None = None, links: Links | None = None) -> list[str]:
    """The names of a folder's frames in presentation order: its image files, hidden ones left out.

    A frame's index is its position in this list, which `in_order` explains. Raises DataError where the folder cannot be
    listed, where the order would be a guess, and, with `root`, where a frame is a symlink that leads out of it against
    `links`.
    """
    try:
        with os.scandir(folder) as entries:
            pictures = [e for e in entries if _suffix(e.name) in _IN_FRAMES and e.name[0] != "."]
            named = [e.name for e in pictures if not _is_dir(e)]  # a broken link stays: else the rest would move up
    except OSError as error:
        raise DataError(f"{folder}: the folder of frames cannot be listed: {error.strerror}") from None
    if root is not None:
        check_links(folder, root, links)
    names = [name for name in named if _suffix(name) in IMAGE_SUFFIXES]
    if len(names) < len(named):
        _refuse_other_pictures(folder, names, [name for name in named if _suffix(name) not in IMAGE_SUFFIXES])
    return in_order(names, str(folder))[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - pathlib takes as long as all else together


def _refuse_other_pictures(folder: Path, names: list[str], others: list[str]) -> None:
    """Raise DataError where files that are not read are frames: named as these are, and no copy of one."""
    stems, whole = {_stem(name) for name in names}, set(names)
    forms = {_NUMBER.sub("0", stem) for stem in stems}
    for name in sorted(others):
        inner = _stem(name)
        if _suffix(name) in _UNFINISHED:
            if _suffix(inner) in PICTURE_SUFFIXES and inner not in whole:
                raise DataError(
                    f"{folder}: a frame is not whole, or packed ({one_line(name, 80)}); finish, unpack or fetch it, or "
                    "move it elsewhere"
                )
        elif not names or (inner not in stems and _NUMBER.sub("0", inner) in forms):
            raise DataError(
                f"{folder}: a picture among the frames is of a kind that is not read ({one_line(name, 80)}); convert "
                "such pictures to PNG or TIFF, or move them elsewhere"
            )


def check_links(folder: Path, root: Path, links: Links | None = None) -> None:
    """Raise DataError where an image of a folder is a symbolic link that leads out of `root` against `links`."""
    if links is Links.FOLLOW or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        linked = [e.name for e in entries if e.is_symlink() and Path(e.name).suffix.lower() in IMAGE_SUFFIXES]
    for name in sorted(linked, key=natural_key):
        inside(root, (folder / name).relative_to(root).as_posix(), "frame", links)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def in_order(names: Collection[str], folder: str) -> tuple[list[str], FrameRule]:
    """The frames in presentation order, and what tells it.

    They go by `frame_numbers`, if the natural order of the names is the same. If it is not, time stamps of one form
    that fill their digits (seconds.nanoseconds, 20210107T123045.250, 13-05-59) go by time; names without any number go
    by name. Times that do not sort as they are written (1-05-59 PM, 7-Jan-2021) are read first, see `sortable`.
    Everything else would be a guess: raises DataError, with an example.
    """
    stems = [_stem(name) for name in names]
    try:
        forms = sortable(stems)
    except DataError as error:
        raise DataError(f"{folder}{error}") from None
    if forms != stems:
        named = [(f"{form}{name[len(stem) :]}", name) for form, stem, name in zip(forms, stems, names, strict=True)]
        read = sorted(named, key=lambda pair: _by_name(pair[0]))
        _order([form for form, _ in read], folder)
        return [name for _, name in read], FrameRule.TIME
    ordered = sorted(names, key=_by_name)
    if not any(_numbers(name) for name in ordered):
        if counted_in_letters(stems):
            raise DataError(
                f"{folder}: {one_line(ordered[0])} and the other frames are counted in letters or words, and these do "
                "not sort; rename them with numbers (000001.png, 000002.png)"
            )
        return sorted(ordered, key=natural_key), FrameRule.NAME
    return ordered, _order(ordered, folder)


def _order(ordered: Sequence[str], folder: str) -> FrameRule:
    """What puts names in this, their natural, order. Raises DataError where it would be a guess."""
    if frame_numbers(ordered) is not None:
        return FrameRule.NUMBER
    if _are_stamped(ordered):
        return FrameRule.TIME
    raise DataError(f"{folder}{_guess(ordered)}")


def _guess(ordered: Sequence[str]) -> str:
    """Why the order of these names would be a guess."""
    counting = dict(zip(ordered, _counting(ordered), strict=True))
    bare = [name for name, number in counting.items() if number is None]
    if bare:
        return (
            f"/{one_line(bare[0])}: expected a number in every frame's file name, as {len(ordered) - len(bare)} of "
            f"{len(ordered)} images of the folder have one; rename it or move it elsewhere"
        )
    first: dict[int, str] = {}
    for name, number in counting.items():
        other = first.setdefault(int(number or 0), name)
        if other != name:
            return (
                f": {one_line(other)} and {one_line(name)} are both frame number {int(number or 0)} (the last number "
                "in the name), so that their order would be a guess; rename or move one"
            )
    before, after = next((a, b) for a, b in pairwise(ordered) if int(counting[a] or 0) > int(counting[b] or 0))
    return (
        f": {one_line(before)} comes before {one_line(after)} by the whole name, and after it by the last number in "
        "the name, so that their order would be a guess; rename the files so that one number counts the frames "
        "(000001.png, 000002.png), or write all digits of a time stamp (1610000000.050000000.png)"
    )


def _numbers(name: str) -> list[str]:
    """The runs of digits in a name without its suffix."""
    return _NUMBER.findall(_stem(name))


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name  # pathlib takes as long as all else together


def _by_name(name: str) -> tuple[object, str]:
    """The natural order of names, without case and suffix."""
    return natural_key(_stem(name).casefold())[0], name


def _counting(names: Sequence[str]) -> list[str | None]:
    """Number that counts the frames, as written in each name; None without one."""
    numbers = [_numbers(name) for name in names]
    if len({_NUMBER.sub("0", _stem(name)) for name in names}) == 1:
        differs = [n for n, column in enumerate(zip(*numbers, strict=True)) if len(set(map(int, column))) > 1]
        if len(differs) == 1:
            return [found[differs[0]] for found in numbers]
    return [found[-1] if found else None for found in numbers]


def _are_stamped(names: Sequence[str]) -> bool:
    """Whether all names hold a time stamp of one form, all else in them is the same, and no two are of one time."""
    for pattern in (_EPOCH, _CALENDAR, _CLOCK):
        found = [pattern.search(_stem(name)) for name in names]
        stamps = [match for match in found if match is not None]
        if len(stamps) < len(names) or len({match[0] for match in stamps}) < len(names):
            continue
        around = {(m.string[: m.start()], m.string[m.end() :]) for m in stamps}
        # the first number, of seconds or of a year, may gain a digit; the others are fractions, of one width
        forms = {re.sub(r"[0-9]", "0", m[0])[9 if pattern is _EPOCH else 0 :].lstrip("0") for m in stamps}
        widths = {len(m[0]) - len(_NUMBER.findall(m[0])[0]) for m in stamps}
        if len(around) == len(forms) == len(widths) == 1:
            return True
    return False
