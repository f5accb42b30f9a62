"""The stamp of a file or folder: size and modification time, which tell without reading it whether it has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdfpipe.store.run import fingerprint


def stamp(path: Path) -> str | None:
    """Size and modification time of a file, or of each file of a folder by name; None where there is nothing.

    A video is unchanged while this is, so that nobody has to read it again to know.
    """
    try:
        if not path.is_dir():
            found = path.stat()
            return f"{found.st_size}:{found.st_mtime_ns}"
        with os.scandir(path) as entries:
            files = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if _is_file(e))
    except (OSError, ValueError):  # a name with a NUL is no file's
        return None
    return f"{len(files)}:{sum(size for _, size, _ in files)}:{fingerprint(files)}"


def deep_stamp(path: Path) -> str | None:
    """The same of a folder and all folders below it."""
    if not path.is_dir():
        return stamp(path)
    try:
        files = sorted(_below(path, ""))
    except OSError:
        return None
    return f"{len(files)}:{sum(size for _, size, _ in files)}:{fingerprint(files)}"


def stamp_of_files(names: Iterable[str], data: Path) -> str | None:
    """The same of these files below `data`, which may lie in many folders."""
    try:
        return fingerprint([(name, (s := (data / name).stat()).st_size, s.st_mtime_ns) for name in names])
    except (OSError, ValueError):
        return None


def _below(folder: Path | str, prefix: str, depth: int = 4) -> Iterator[tuple[str, int, int]]:
    """(name, size, modification time) of the files at most `depth` folders below: a link may lead round in a circle."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_file(entry):
                found = entry.stat()
                yield prefix + entry.name, found.st_size, found.st_mtime_ns
            elif depth and Path(entry.path).is_dir():
                yield from _below(entry.path, f"{prefix}{entry.name}/", depth - 1)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads round in a circle
        return False
