"""video_id: what a video is called, from its path under the data root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import VIDEO_SUFFIXES, file_name, safe_relative

LONGEST_ID = 200  # bytes of UTF-8: with its suffixes it must fit a file name of 255


def name_videos(paths: Iterable[str], left_out: Iterable[str] = ()) -> dict[str, str]:
    """path -> video_id, for all videos of a dataset: the path without its suffix where that is unique, else with it.

    paths: POSIX, relative to the data root, in any order (a path given twice is one video). left_out: further paths,
    which get no name; the others are named as if they did, so that leaving a video out renames none. Raises DataError
    for a path that `safe_relative` refuses, for a name that is hidden or longer than 200 bytes, and for two videos
    whose file names would be the same (`a/b` and `a__b`).

    >>> name_videos(["v/a.mp4", "v/b.mp4", "v/b.avi", "frames/c"])
    {'frames/c': 'frames/c', 'v/a.mp4': 'v/a', 'v/b.avi': 'v/b.avi', 'v/b.mp4': 'v/b.mp4'}
    """
    ordered = sorted({safe_relative(path, "video") for path in paths})
    names = {path: _without_suffix(path) for path in (*ordered, *left_out)}
    while True:
        taken = Counter(names.values())
        clashing = [path for path, name in names.items() if taken[name] > 1 and name != path]
        if not clashing:
            break
        names.update({path: path for path in clashing})  # may clash with a suffixless name: hence the loop
    named = {path: names[path] for path in ordered}
    _check(named)
    return named


def _without_suffix(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix.lower() in VIDEO_SUFFIXES else path


def _check(names: dict[str, str]) -> None:
    owner: dict[str, str] = {}
    for path, name in names.items():
        if len(name.encode()) > LONGEST_ID:
            shown = one_line(name, 60)
            raise DataError(f"video {shown}: its name has {len(name.encode())} bytes, at most {LONGEST_ID}; rename it")
        if name.startswith("."):
            raise DataError(f"video {one_line(path, 80)}: its name starts with a dot, as hidden files do; rename it")
        other = owner.setdefault(file_name(name), path)
        if other != path:
            raise DataError(f"videos {other} and {path} would share the file name {file_name(name)}; rename one")
