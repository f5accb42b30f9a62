"""What lies under a data root: the tables that patterns name, and the videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from mdfpipe.datasets._naming import VIDEO_SUFFIXES
from mdfpipe.errors import DataError
from mdfpipe.store.naming import IMAGE_SUFFIXES, inside, safe_relative


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


def find_tables(root: Path, patterns: Sequence[str], what: str) -> list[str]:
    """The files that paths and glob patterns name, relative to the root: in the order given, each glob sorted, once.

    Raises DataError where one names nothing, or something outside the root.
    """
    found: list[str] = []
    for pattern in patterns:
        safe_relative(pattern, what)
        matches = [p for p in _expand(root, pattern) if inside(root, p, what).is_file()]
        if not matches:
            raise DataError(f"{what}: {pattern} names no file under {root}")
        found.extend(matches)
    return list(dict.fromkeys(found))


def find_videos(root: Path, patterns: Sequence[str], drops: Callable[[str], bool] = lambda path: False) -> list[str]:
    """The videos that `patterns` name: files with a video suffix, and folders that hold images; hidden ones left out.

    drops: whether a video is left out by a setting; nothing more is asked of it.

    A plain path is taken as it is, so that a video that is missing fails later under its name.
    """
    found: set[str] = set()
    for pattern in patterns:
        safe_relative(pattern, "videos")
        if not is_pattern(pattern):
            if not drops(pattern):
                inside(root, pattern, "videos")
                found.add(pattern)
            continue
        there = [p for p in _expand(root, pattern) if not (_is_video(root / p) and drops(p))]
        found.update(p for p in there if _is_video(inside(root, p, "videos")))
    return sorted(found)


def _expand(root: Path, pattern: str) -> list[str]:
    if not is_pattern(pattern):
        return [pattern]
    try:
        names = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern))
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{pattern}: not a pattern that can be looked up: {error}") from None
    return [n for n in names if not any(part.startswith(".") for part in PurePosixPath(n).parts)]


def _is_video(path: Path) -> bool:
    if path.is_dir():
        return any(p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") for p in path.iterdir())
    return path.suffix.lower() in VIDEO_SUFFIXES
