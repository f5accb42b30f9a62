"""Hashing: the sha256 of new videos as units of their own, before the index is made, which needs them.

A terabyte on a network disk takes hours, so workers share it, and a hash that is done is kept until the index is
written. The index takes each hash itself that is missing then, and those of remote videos and of data sets of images.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any, ClassVar, Final

import pyarrow as pa

from mdfpipe.errors import DataError
from mdfpipe.stages import Context, Inputs, Made, Stage
from mdfpipe.store.hashing import bytes_sha256, fingerprint, stamp
from mdfpipe.store.owner import Owner
from mdfpipe.store.run import Run

FOLDER: Final = "index/.hashes"
MEGABYTE: Final = 1_000_000
_THREADS: Final = 4  # of a unit: reading waits for the disk
_LEAST_BYTES: Final = 1 << 30  # of a unit with at least so many videos as threads
_MOST_BYTES: Final = 1 << 36  # from here on a unit takes no further video
_MOST_VIDEOS: Final = 256  # of a unit


@dataclass(frozen=True)
class ToHash:
    """A video whose content is unknown. path: below the data root. stamp: what it has now; size: in bytes."""

    path: str
    stamp: str
    size: int


def in_units(videos: Iterable[ToHash]) -> list[list[ToHash]]:
    """The videos, the longest first, cut into units. Empty where they are short: the index is made as fast alone."""
    units: list[list[ToHash]] = []
    size = 0
    for video in sorted(videos, key=lambda video: (-video.size, video.path)):
        count = len(units[-1]) if units else _MOST_VIDEOS
        if count >= _MOST_VIDEOS or size >= _MOST_BYTES or (size >= _LEAST_BYTES and count >= _THREADS):
            units.append([])
            size = 0
        units[-1].append(video)
        size += video.size
    return units if len(units) > 1 or size >= _LEAST_BYTES else []


class Hash(Stage):
    """The sha256 of some videos, for the index. It has no settings and makes no part: each unit is a share."""

    name: ClassVar[str] = "hash"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = pa.schema([])
    unit: ClassVar[str] = "MB"

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Hash the videos that the unit names, on several threads. What cannot be read, the index reports."""
        kept, lock, done = KeptHashes(inputs.run), threading.Lock(), 0
        total = max(int(inputs.video["bytes"]) // MEGABYTE, 1)

        def read(size: int) -> None:
            nonlocal done
            with lock:
                done += size
            context.progress(done // MEGABYTE, total)

        with ThreadPoolExecutor(_THREADS) as pool:
            waiting = [pool.submit(_keep, context.data, name, kept, read) for name in inputs.video["paths"]]
            wait(waiting)
        return Made(self.schema.empty_table())

    def process_share(self, key: str, inputs: Inputs, context: Context, number: int, of: int) -> Made:
        """The same."""
        return self.process(key, inputs, context)


def _keep(data: Path, name: str, kept: KeptHashes, read: Callable[[int], None]) -> None:
    """Hash one video and keep that, unless it changes meanwhile or is nothing that can be read."""
    path = data / name
    with suppress(OSError, DataError):
        before = stamp(path)
        if before is None or not (path.is_dir() or S_ISREG(path.stat().st_mode)):
            return
        sha256 = content_of(path, lambda file: bytes_sha256(file, read))
        if stamp(path) == before:
            kept.put(name, before, sha256)


def content_of(path: Path, sha256: Callable[[Path], str]) -> str:
    """The sha256 of a video: of its file, or of the files of its folder with their names. sha256: of one file."""
    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    return sha256(path) if files == [path] else content_of_files(((f.name, f) for f in files), sha256)


def content_of_files(files: Iterable[tuple[str, Path]], sha256: Callable[[Path], str]) -> str:
    """The content of several files, with their names."""
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{name}:{sha256(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


class KeptHashes:
    """The hashes of videos that are done, in `RUN/index/.hashes`: a file of lines for each process that hashes.

    A line that was cut off or damaged says nothing: its video is hashed again.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()

    def all(self) -> dict[str, tuple[str, str]]:
        """Path below the data root -> the stamp and the sha256 that a video had when it was hashed."""
        found: dict[str, tuple[str, str]] = {}
        for place in self.files():
            with suppress(OSError):
                for line in place.read_bytes().splitlines():
                    with suppress(ValueError, TypeError, KeyError):
                        known = json.loads(line)
                        check = known.pop("check")
                        if check == fingerprint(known):
                            found[known["path"]] = known["stamp"], known["sha256"]
        return found

    def put(self, path: str, stamp: str, sha256: str) -> None:
        """Keep a hash. Raises OSError, StoreError."""
        owner = Owner.new()
        place = self.run.place("index", f"{FOLDER}/{owner.label}-{owner.pid}.jsonl", change=True)
        known = {"path": path, "stamp": stamp, "sha256": sha256}
        line = json.dumps(known | {"check": fingerprint(known)}) + "\n"
        self.run.check_lock()
        place.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, place.open("ab") as file:  # a former line may have been cut off
            file.write(f"\n{line}".encode())

    def files(self) -> list[Path]:
        """The files of lines."""
        with suppress(OSError):
            return sorted((self.run.path / FOLDER).iterdir())
        return []

    def spent(self) -> tuple[Path, ...]:
        """What is no longer needed once the index is made: the files, then their folder."""
        return (*self.files(), self.run.path / FOLDER)


def not_known(
    stamps: Mapping[str, str], known: Mapping[str, Mapping[str, Any]], kept: Mapping[str, tuple[str, str]]
) -> list[ToHash]:
    """The videos whose content neither the last index nor a kept hash has.

    stamps: by path. known: rows of the last index, by path.
    """
    found = []
    for path, now in stamps.items():
        row, count = known.get(path, {}), now.count(":")
        is_known = (row.get("stamp") == now and row.get("problem") is None) or kept.get(path, ("",))[0] == now
        if count and not is_known:  # else it is missing, or remote
            found.append(ToHash(path, now, int(now.split(":")[count - 1])))
    return found


def unit_of(videos: list[ToHash]) -> dict[str, Any]:
    """The videos of a unit, as the row of one video."""
    more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
    return {
        "video_id": f"{os.path.basename(videos[0].path)}{more}",  # noqa: PTH119 - no path of this machine
        "paths": [video.path for video in videos],
        "bytes": sum(video.size for video in videos),
        "n_frames": None,
        "problem": None,
    }
