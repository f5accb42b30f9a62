"""Outputs: files that a user names, such as a CSV, a page or a picture: `--csv`, `--html`, `--sheet`, `--out`.

A file appears whole or not at all. A symbolic link stays, what it leads to is written. What is there and is no regular
file (a device, a pipe, what a shell opened) is written in place; `-` is standard output.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.store.naming import STAGES
from mdfpipe.store.owner import temporary
from mdfpipe.store.run import cannot_write

_STANDARD_OUTPUT = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
_OF_A_RUN = frozenset({".parquet", ".pt", ".tar", ".yaml", ".json", ".jsonl"})


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
        if _is_in_place(out):
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


def write(out: Path, data: bytes, *sources: Path) -> None:
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
    """Raise ConfigError where `out` is no folder for several files, or where they would lie between those of a run."""
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


def _is_in_place(out: Path) -> bool:
    """Whether `out` is what a shell or the system opened, which a file in its place would not be."""
    opened = os.path.abspath(out).startswith(("/dev/fd/", "/dev/std", "/proc/"))  # noqa: PTH100 - links are not followed
    return out.exists() and (opened or not out.is_file())
