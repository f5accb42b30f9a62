"""What is under a data root: the tables that patterns name, and the videos."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePosixPath

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.content import stand_in
from mdfpipe.store.films import holds_film
from mdfpipe.store.naming import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    Bounds,
    Links,
    folded,
    inside,
    is_folder,
    nearest,
    safe_relative,
    told_path,
)
from mdfpipe.store.tiff import has_pages


def is_pattern(text: str) -> bool:
    """Whether `text` is a glob pattern rather than one path.

    >>> is_pattern("videos/*.mp4"), is_pattern("videos/a.mp4")
    (True, False)
    """
    return any(c in text for c in "*?[")


def check_root(root: Path) -> None:
    """Raises DataError unless the data root is a folder."""
    if not root.is_dir():
        raise DataError(f"data root {root}: expected a folder (--data or MDFPIPE_DATA names it)")


def find_tables(root: Path, patterns: Sequence[str], what: str, links: Links = Links.INSIDE) -> list[str]:
    """The files that paths and glob patterns name, relative to the root: in the order given, each glob sorted, once.

    Raises DataError where one names nothing, or something outside the root against `links`.
    """
    found: list[str] = []
    for given in patterns:
        pattern = safe_relative(given, what)
        expanded = _expand(root, pattern)
        matches = [p for p in expanded if inside(root, p, what, links).is_file()]
        for path in dict.fromkeys((*expanded, pattern)):
            if path not in matches and (instead := stand_in(root / path)):
                raise DataError(f"{what}: {path}: expected a table, got {instead}")
        if not matches:
            near = _near(root, pattern) if is_pattern(pattern) else nearest(root, pattern)
            raise DataError(f"{what}: {pattern} names no file under {root}{near}")
        found.extend(matches)
    return list(dict.fromkeys(found))


def find_videos(root: Path, patterns: Sequence[str], drops: Callable[[str], bool], links: Links) -> list[str]:
    """The videos that `patterns` name: files with a video suffix, TIFFs of many pages, and folders that hold images.

    Hidden ones are left out. drops: whether a setting leaves a video out; nothing more is asked of it. A plain path is
    taken as it is, so that a video that is missing fails later under its name.
    """
    return sorted({path for _, taken, _ in _by_pattern(root, patterns, drops, links) for path in taken})


def pattern_remarks(
    root: Path,
    patterns: Sequence[str],
    drops: Callable[[str], bool],
    links: Links,
    usual: Sequence[str],
    known: Collection[str],
) -> list[str]:
    """What one should know of the patterns of `videos`, a line each: which take nothing, which pass over pictures,
    and where two of them take a folder of frames and a file in it. usual: patterns that may take nothing;
    known: the videos of the data set, named by a table or a pattern.
    """
    found = _by_pattern(root, patterns, drops, links)
    taken_by = {path: pattern for pattern, taken, _ in found for path in taken}
    remarks = []
    for pattern, taken, matched in found:
        passed = [path for path in matched if _is_nameable(path)]
        odd = [path for path in matched if not _is_nameable(path)]
        named = [path for path in passed if path in taken_by]
        pictures = [p for p in passed if p not in taken_by and _is_picture(p)]
        pictures = [p for p in pictures if str(PurePosixPath(p).parent) not in taken_by]  # else a frame of a video
        strays = [p for p in passed if p not in (*named, *known) and not _is_picture(p) and holds_film(root / p)]
        said = []
        if odd:
            it = "it" if len(odd) == 1 else "them"
            said.append(f"passes over {_some(odd)}: such a name cannot be written into tables; rename {it}")
        if named:
            what = "a video" if len(named) == 1 else "videos"
            said.append(f"passes over {_some(named)}, which {taken_by[named[0]]} names: taken as {what}")
        if strays:
            said.append(
                f"passes over {_some(strays)}: video without a suffix of one; rename it, or name it by a path without "
                "* ? ["
            )
        if not taken and not matched and pattern not in usual:
            said.append(f"matches nothing under {root}{_near(root, pattern)}")
        elif not taken and passed and not named and (pattern not in usual or pictures):
            said.append(
                f"matches {_some(passed)} and takes none: a video is a file with a video suffix or a folder of images; "
                "a path without * ? [ is taken as it is"
            )
        elif pictures:
            said.append(
                f"passes over {_some(pictures)}: single pictures are no videos; a path without * ? [ is taken as it is"
            )
        remarks += [f"videos: {pattern} {words}" for words in said]
    for path, pattern in sorted(taken_by.items()):
        folder = next((str(above) for above in PurePosixPath(path).parents if str(above) in taken_by), None)
        if folder is not None:
            remarks.append(
                f"videos: {pattern} takes {path} as a video, and {taken_by[folder]} takes its folder {folder} as "
                "frames of one; narrow one of the two"
            )
    return remarks


def _is_picture(path: str) -> bool:
    """Whether a path has the suffix of a picture; a PNG begins as a film of APNG does."""
    return PurePosixPath(path).suffix.lower() in PICTURE_SUFFIXES


def _is_nameable(path: str) -> bool:
    """Whether a path that was found is text that tables and messages can hold."""
    try:
        return safe_relative(path, "videos") == path
    except DataError:
        return False


def _some(paths: Sequence[str]) -> str:
    """A path, or how many and the first."""
    return one_line(paths[0], 80) if len(paths) == 1 else f"{len(paths)} paths ({one_line(paths[0], 80)}, ...)"


def _near(root: Path, pattern: str) -> str:
    """Words on what a pattern that matches nothing nearly matches; else ""."""
    found = None
    with suppress(OSError):
        found = next((path for path in _matches(root, "", pattern.split("/"), folded) if _is_nameable(path)), None)
    if found is None:  # of the folders before the first wild card
        return nearest(root, "/".join(takewhile(lambda part: not is_pattern(part), pattern.split("/"))))
    return (
        f"; '{told_path(found, pattern)}' is there (letter case or the encoding of accents differs): correct the name"
    )


def _by_pattern(
    root: Path, patterns: Sequence[str], drops: Callable[[str], bool], links: Links
) -> list[tuple[str, list[str], list[str]]]:
    """Each pattern with the paths that it takes, and those that match it but are no videos."""
    found: list[tuple[str, list[str], list[str]]] = []
    bounds = Bounds(root, "videos", links)
    for given in patterns:
        pattern = safe_relative(given, "videos")
        taken, passed = list[str](), list[str]()
        for path in _expand(root, pattern):
            if is_pattern(pattern) and not (_is_nameable(path) and _is_video(f"{root}/{path}")):
                passed.append(path)  # wherever it leads, nothing of it is read
            elif not drops(path):
                bounds.check(path)
                taken.append(path)
        found.append((pattern, taken, passed))
    return found


def _expand(root: Path, pattern: str) -> list[str]:
    if not is_pattern(pattern):
        return [pattern]
    try:
        names = sorted(set(_matches(root, "", pattern.split("/"))))
    except (OSError, ValueError) as error:
        raise DataError(f"{pattern}: not a pattern that can be looked up: {error}") from None
    return [name for name in names if not (name.startswith(".") or "/." in name)]


def _matches(root: Path, base: str, parts: list[str], key: Callable[[str], str] = str) -> Iterator[str]:
    """What a pattern matches below a folder; `**` is any number of folders, linked ones too. key: names are compared
    by it.

    A folder that may not be listed represents what is in it: it is a video that cannot be read.
    """
    if not parts:
        yield base
        return
    if parts[0] == "**":
        for deep, names in _folders(root, base, frozenset()):
            if names is None:
                yield deep
            else:
                yield from _matches(root, deep, parts[1:] or ["*"], key)
        return
    try:
        if is_pattern(parts[0]) or key is not str:
            names = [n for n in os.listdir(root / base) if n[0] != "."]  # noqa: PTH208 - names, of many files
            fits = re.compile(fnmatch.translate(key(parts[0]))).match
            chosen = [name for name in names if fits(key(name))]
        else:
            (root / base / parts[0]).lstat()
            chosen = [parts[0]]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if not base or error.errno == errno.ENAMETOOLONG:
            raise
        yield base
        return
    for name in chosen:
        yield from _matches(root, f"{base}/{name}" if base else name, parts[1:], key)


def _folders(root: Path, path: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str] | None]]:
    """A folder and all below it, as paths under the root, each with its inner folders; None where it may not be listed.

    A link back to a folder above is not gone down.
    """
    try:
        found = (root / path).stat()
        own = (found.st_dev, found.st_ino)
        if own in above:
            return
        with os.scandir(root / path) as entries:
            inner = sorted(e.name for e in entries if not e.name.startswith(".") and is_folder(e))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        if not path:
            raise
        yield path, None
        return
    yield path, inner
    for name in inner:
        yield from _folders(root, f"{path}/{name}" if path else name, above | {own})


def _is_video(path: str) -> bool:
    try:
        if os.path.isdir(path):  # noqa: PTH112 - a Path takes three times as long
            inner = (p.suffix.lower() for p in Path(path).iterdir() if not p.name.startswith("."))
            return any(suffix in PICTURE_SUFFIXES and suffix not in VIDEO_SUFFIXES for suffix in inner)
    except OSError:  # it may not be listed: as a video it is told
        return True
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES or has_pages(Path(path))  # noqa: PTH122
