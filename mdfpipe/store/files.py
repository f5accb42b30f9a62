"""Files: opened for reading, written durably, and the outputs that a user names.

What a run folder holds is opened as a regular file, never as a pipe that waits or a device without an end. What is
written survives a power cut: it is written, synced, renamed, and the folder that lists it is synced.

An output (`--csv`, `--html`, `--sheet`, `--out`) appears whole or not at all. A symbolic link stays, its target is
written. What is there and is no regular file (a device, a pipe, what a shell opened) is written in place; `-` is
standard output.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from os import PathLike
from pathlib import Path
from typing import IO

from mdfpipe.errors import ConfigError, StoreError, cannot_write, one_line
from mdfpipe.store.naming import STAGES
from mdfpipe.store.owner import temporary

_STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_OF_A_RUN = frozenset({".parquet", ".pt", ".tar", ".yaml", ".json", ".jsonl"})


def given_path(name: str, value: object) -> Path:
    """The path that a caller gives as text or Path. Raises ConfigError for anything else, such as None or a table."""
    if isinstance(value, str | PathLike):
        return Path(value)
    raise ConfigError(f"{name}: expected a path as text or Path, got {type(value).__name__}")


def given_paths(name: str, values: object) -> list[Path]:
    """The paths of a list that a caller gives. Raises ConfigError, as for one path alone."""
    if isinstance(values, str | PathLike | bytes | Mapping) or not isinstance(values, Iterable):
        raise ConfigError(f"{name}: expected a list of paths, got {one_line(repr(values), 80)}")
    return [given_path(name, one) for one in values]


def opened(path: Path) -> BufferedReader:
    """Return a file open for reading. Raises OSError, also where it is a pipe, a socket or a device."""
    return open(path, "rb", opener=_regular)


def bytes_of(path: Path) -> bytes:
    """Return the bytes of a file. Raises OSError as `opened` does."""
    with opened(path) as file:
        return file.read()


def _regular(path: str, flags: int) -> int:
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else opening a pipe waits for who writes to it
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "is a folder" if stat.S_ISDIR(mode) else "is a pipe, socket or device", path)
    return handle


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file, sync, rename it to `path`."""
    unfinished = temporary(path)
    try:
        write_synced(unfinished, data)
        unfinished.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # what a failure leaves takes up the disk
            unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_synced(place: Path, data: bytes, *, new: bool = False) -> None:
    """Write `data` in place and sync it. new: raise FileExistsError where there is a file."""
    with place.open("xb" if new else "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Sync a file, or what a folder lists."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_standard_output(out: Path) -> bool:
    """Whether output there is mixed with the lines of the command.

    >>> is_standard_output(Path("-")), is_standard_output(Path("a.csv"))
    (True, False)
    """
    return str(out) in _STANDARD_OUTPUT


@contextlib.contextmanager
def writing(out: Path, *sources: Path) -> Iterator[IO[bytes]]:
    """A file open for writing, which is `out` in the end; after an error `out` is as it was.

    sources: what is read meanwhile. Raises ConfigError where `out` is one of them, or a part of a run folder,
    StoreError where it cannot be written.
    """
    refuse_loss(out, *sources)
    if is_standard_output(out):
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        # what a shell or the system opened: a file in its place would not be that
        is_open = os.path.abspath(out).startswith(("/dev/fd/", "/dev/std", "/proc/"))  # noqa: PTH100 - keeps links
        if out.exists() and (is_open or not out.is_file()):
            with out.open("wb") as file:
                yield file
            return
        place = Path(os.path.realpath(out))
        unfinished = temporary(place)
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(place)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(cannot_write(out, error)) from None


def write_output(out: Path, data: bytes, *sources: Path) -> None:
    """Write a file that a user named, as `writing`."""
    with writing(out, *sources) as file:
        file.write(data)


def refuse_loss(out: Path, *sources: Path) -> None:
    """Raise ConfigError where writing `out` would destroy what is read, or a part of a run folder."""
    if is_standard_output(out) or not out.is_file():
        return
    place = Path(os.path.realpath(out))
    if any(source.exists() and source.samefile(place) for source in sources):
        raise ConfigError(f"{out}: writing it would destroy what it is made from; name another file")
    if place.suffix.lower() in _OF_A_RUN and any((folder / "pipeline.yaml").is_file() for folder in place.parents):
        raise ConfigError(f"{out}: is a file of a run folder, and writing it would destroy it; name another file")


def refuse_folder(out: Path) -> None:
    """Raise ConfigError where `out` is no folder for several files, or where they would mix with those of a run."""
    if is_standard_output(out) or (os.path.lexists(out) and not out.is_dir()):
        nowhere = "a symbolic link that leads nowhere" if not out.exists() else "a pipe or a device"
        what = "standard output" if is_standard_output(out) else "a file" if out.is_file() else nowhere
        raise ConfigError(f"{out}: expected a folder, got {what}; name a folder")
    place = Path(os.path.realpath(out))
    run = next((folder for folder in (place, *place.parents) if (folder / "pipeline.yaml").is_file()), None)
    inside = place.relative_to(run).parts if run else None
    if inside is None or inside == ("evaluate", "report") or (inside and inside[0] not in STAGES):
        return
    got = f"a part of the run {run}" if inside else "a run folder"
    raise ConfigError(f"{out}: expected a folder of its own, got {got}, whose files would be lost; name another")
