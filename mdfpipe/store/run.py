"""The run folder: parts that are their own receipts, atomic commits, failures, events, a lock.

A *part* is one Parquet file: `detect/V12.parquet`. Its footer carries a `Receipt` whose fingerprint
covers everything that decided its rows. A part is done if and only if its receipt has the fingerprint
that is expected now and the files that belong to it (crop shards, face tables) lie there with their sizes.
What is made from a part knows it by its `content`, a hash of what it holds, taken when it is committed.

The order of a commit makes a kill harmless: the old part goes, the files that belong to it are renamed
into place, and the part itself gets its name last. Each is written to a temporary file and synced first.

Who reads a part, or a file that belongs to one, and finds it damaged, records that: it is then due.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import pyarrow as pa

from mdfpipe.errors import ConfigError, Damaged, DataError, StoreError, cannot_write, one_line, unobeyed
from mdfpipe.store import parquet
from mdfpipe.store.files import bytes_of, given_path, opened, sync, write_atomically
from mdfpipe.store.hashing import bytes_sha256, file_sha256, fingerprint, table_sha256
from mdfpipe.store.lock import NO_LINKS, Holder, Lease, Lock
from mdfpipe.store.naming import file_name, is_plain
from mdfpipe.store.owner import TEMPORARY, temporary
from mdfpipe.store.parquet import is_whole, read_table
from mdfpipe.store.receipts import Failure, Receipt, checked_event
from mdfpipe.store.tables import PARTS, as_ours

__all__ = [
    "DAMAGED",
    "Failure",
    "Receipt",
    "Run",
    "faces_file",
    "fingerprint",
    "images_file",
    "read_receipt",
    "read_table",
    "write_table",
]

RECEIPT_KEY = b"mdfpipe"
State: TypeAlias = tuple[int, int, int]  # inode, time of change and size of a file
DAMAGED = "Damaged"  # the kind of a failure beside a part that was found damaged: it is to be made again


class Run:
    """A run folder. Reading needs no lock; everything that writes takes `lock()` first."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = given_path("run", path)
        self.lease: Lease | None = None  # as long as this process, or the one that gave it work, holds the lock

    def __repr__(self) -> str:
        return f"Run({self.path})"

    # -- parts

    def part(self, stage: str, key: str, *, change: bool = False) -> Path:
        """Path of the part of `stage` for `key`; a run-level part has the table's own name as key. See `place`."""
        return self.place(stage, f"{stage}/{file_name(key)}.parquet", change=change)

    def receipt(self, stage: str, key: str) -> Receipt | None:
        """The receipt of a part; None where the part is not there or cannot be read (it is then not done).

        A receipt of another part, or one that names files that are not of its stage, is not ours: None, too.
        """
        return self.own(read_receipt(self.part(stage, key)), stage, key)

    def needed(self, stage: str, key: str, none: str) -> Receipt:
        """The receipt of a part that is read as it is. Raises DataError: `none` where there is no such part."""
        receipt = self.receipt(stage, key)
        if receipt is None:
            part = self.part(stage, key)
            raise DataError(
                f"{part}: its receipt cannot be read; `mdfpipe run` makes it again" if part.exists() else none
            )
        return receipt

    def shared_receipt(self, stage: str, key: str) -> Receipt | None:
        """The same, read once for each state of its file: of a part that the units of many videos ask for.

        All who ask have one object: change nothing in it.
        """
        path = self.part(stage, key)
        with contextlib.suppress(OSError, KeyError):
            state = path.stat()
            return self.own(_read_once(path, (state.st_ino, state.st_size, state.st_mtime_ns)), stage, key)
        return None

    @staticmethod
    def own(found: Receipt | None, stage: str, key: str) -> Receipt | None:
        """The receipt that a part of `stage` for `key` has in its footer, where it is one of that part."""
        if found is None or (found.stage, found.key) != (stage, key):
            return None
        return None if any(_climbs(stage, name) for name in found.files) else found

    def table(self, stage: str, key: str, columns: list[str] | None = None) -> pa.Table:
        """The rows of a part. Raises Damaged, after noting it; StoreError where there is none."""
        return self._rows(stage, key, self.part(stage, key), PARTS.get(stage.partition("/")[0]), columns)

    def table_beside(
        self,
        stage: str,
        key: str,
        name: str,
        ours: pa.Schema,
        columns: list[str] | None = None,
        digest: str | None = None,
    ) -> pa.Table:
        """The rows of a table that belongs to a part, checked as `beside` does. Raises Damaged."""
        return self._rows(stage, key, self.beside(stage, key, name, digest), ours, columns)

    def _rows(self, stage: str, key: str, path: Path, ours: pa.Schema | None, columns: list[str] | None) -> pa.Table:
        if ours is not None and (odd := [name for name in columns or () if name not in ours.names]):
            raise ConfigError(f"{path}: no column {odd[0]!r}; there are {', '.join(ours.names)}")
        try:
            rows = read_table(path, columns, may_lack=True)  # an earlier version may not have had it
            return as_ours(rows, ours, columns) if ours is not None else rows
        except Damaged as error:
            raise self.damage(stage, key, str(error)) from None
        except ValueError as error:
            raise self.damage(stage, key, f"{path}: is not the table that was made: {error}") from None

    def beside(self, stage: str, key: str, name: str, digest: str | None = None) -> Path:
        """A file that belongs to a part, whose content is what was made; hashed once for each state of the file.

        digest: its sha256, of who knows; else what the part's receipt says. A file that no receipt lists is given as
        it is. Raises Damaged, after noting it.
        """
        place = self.place(stage, name)
        if digest is None:
            receipt = self.shared_receipt(stage, key)
            digest = receipt.files.get(name, (0, ""))[1] if receipt else ""
        if digest:
            try:
                found = file_sha256(place)
            except DataError as error:
                raise self.damage(stage, key, str(error)) from None
            if found != digest:
                raise self.damage(stage, key, f"{place}: is not the file that was made: its content changed")
        return place

    def damage(self, stage: str, key: str, what: str) -> Damaged:
        """Note that a part, or a file of it, is damaged, so that it is due; gives the error to raise.

        what: the file, and what is wrong. Where nothing can be written, nothing is noted.
        """
        with contextlib.suppress(StoreError):
            self.record_failure(Failure(stage, key, DAMAGED, what))
        return Damaged(f"{what}; `mdfpipe run` makes {stage}/{key} again", stage, key, self.path)

    def place(self, stage: str, name: str, *, change: bool = False) -> Path:
        """Path of a file of a part of `stage`; name: its path under the run folder.

        Raises StoreError where the name leads elsewhere than below the stage's folder: names come from vectors, studies
        and receipts, which others may have made. change: the file is to be made or removed, so that no symbolic link
        on its way may lead elsewhere, either.
        """
        problem = _climbs(stage, name) or (_linked(self.path, stage, name) if change else None)
        if problem:
            raise StoreError(
                f"{self.path}: expected a file below {stage}/, got '{one_line(name, 80)}', which {problem}"
            )
        return self.path / name

    def files_in_place(self, receipt: Receipt) -> str | None:
        """None where every file of the part is there with its size; else what is wrong, in a few words.

        A log, which has no digest, decides nothing: it may have been edited, or be gone.
        """
        for name, (size, digest) in receipt.files.items():
            try:
                place = self.place(receipt.stage, name)
            except StoreError:
                return f"its receipt names '{one_line(name, 80)}', which is no file of {receipt.stage}"
            if not digest:
                continue
            try:
                found = place.stat().st_size
            except OSError:
                return f"{name} is missing"
            if found != size:
                return f"{name} has {found} bytes, expected {size}"
        return None

    def state(self, stage: str, key: str) -> State | None:
        """Which file a part is now, for `commit`; None where there is none."""
        return _state(self.part(stage, key))

    def commit(
        self,
        receipt: Receipt,
        table: pa.Table,
        files: dict[str, Path],
        since: State | Literal["now"] | None = "now",
    ) -> Receipt:
        """Make a part durable: `files` (path under the run folder -> finished temporary file) first, the part last.

        since: the `state` of the part when the work began. The first writer wins: where another has committed the same
        since then, what was made here is dropped, and the receipt of the other is returned.
        Raises StoreError where the folder cannot be written (disk full, read-only): nothing is then taken for done.
        """
        places = {name: self.place(receipt.stage, name, change=True) for name in files}
        target = self.part(receipt.stage, receipt.key, change=True)
        with self._writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            since = _state(target) if since == "now" else since
            former = self.receipt(receipt.stage, receipt.key)
            described = {}
            for name, path in files.items():
                digest = "" if name.endswith(".jsonl") else bytes_sha256(path)  # a log says how long things took
                described[name] = path.stat().st_size, digest
                sync(path)
            final = replace(receipt, files=described, content=_content(receipt, table, described))
            unfinished = temporary(target)
            try:
                write_table(unfinished, table, final)
                if self.lease is not None:  # what follows cannot be undone: is the lock still ours, now?
                    self.lease.check(now=True)
            except StoreError:
                with contextlib.suppress(OSError):  # what a failure leaves takes up the disk
                    unfinished.unlink(missing_ok=True)
                raise
            if (first := self._first(final, target, since)) is not None:
                for path in (unfinished, *files.values()):
                    path.unlink(missing_ok=True)
                return first
            for name in former.files.keys() - files.keys() if former else ():
                # the old part is then due, and still says what was its own
                self.place(receipt.stage, name, change=True).unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            self.forget_failure(receipt.stage, receipt.key)  # beside a part: it failed later
            sync(target.parent)
            for name, path in sorted(files.items()):
                places[name].parent.mkdir(parents=True, exist_ok=True)
                path.replace(places[name])
            for folder in sorted({place.parent for place in places.values()}):
                sync(folder)
            if not _publish(unfinished, target):  # by files of the same unit; a reader compares them with the receipt
                return self.receipt(receipt.stage, receipt.key) or final
            sync(target.parent)
        return final

    def _first(self, receipt: Receipt, target: Path, since: State | None) -> Receipt | None:
        """The receipt of who committed the same since then; None where no process did."""
        if _state(target) in (None, since):
            return None
        found = self.receipt(receipt.stage, receipt.key)
        same = found is not None and found.fingerprint == receipt.fingerprint
        return found if found is not None and same and self.files_in_place(found) is None else None

    def discard(self, stage: str, key: str) -> None:
        """Take a part back, with the files that belong to it, so that it is due again."""
        place, former = self.part(stage, key, change=True), self.receipt(stage, key)
        with self._writing(place):
            place.unlink(missing_ok=True)
            for name in former.files if former else ():
                self.place(stage, name, change=True).unlink(missing_ok=True)

    def scratch(self, stage: str, name: str) -> Path:
        """A place for a temporary file of `stage`, on the same file system, cleared by the next `lock()`."""
        target = self.place(stage, f"{stage}/{file_name(name)}", change=True)
        with self._writing(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        return temporary(target)

    # -- failures and events

    def failure_path(self, stage: str, key: str, *, change: bool = False) -> Path:
        """Where the failure of a unit is written. change: as for `place`."""
        return self.place(stage, f"{stage}/failed/{file_name(key)}.json", change=change)

    def failure(self, stage: str, key: str) -> Failure | None:
        """Why the unit failed when it was last tried; None where it did not."""
        try:
            found = Failure.from_bytes(bytes_of(self.failure_path(stage, key)))
            return replace(found, message=one_line(found.message, 10_000), traceback=unobeyed(found.traceback))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return Failure(stage, key, "unknown", "its failure record cannot be read")

    def failed(self, stage: str) -> frozenset[str]:
        """The names of the failure records of a stage, as `file_name` gives them of their keys."""
        try:
            with os.scandir(self.path / stage / "failed") as entries:
                return frozenset(entry.name.removesuffix(".json") for entry in entries)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise StoreError(f"{self.path / stage / 'failed'}: cannot be listed: {error.strerror}") from None

    def forget_failure(self, stage: str, key: str) -> None:
        """The unit is done; remove former failures."""
        path = self.failure_path(stage, key)
        with self._writing(path):
            if path.is_file():
                self.failure_path(stage, key, change=True).unlink(missing_ok=True)

    def record_failure(self, failure: Failure) -> None:
        """Write down that a unit failed."""
        place = self.failure_path(failure.stage, failure.key, change=True)
        with self._writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, json.dumps(asdict(failure), indent=1, sort_keys=True).encode())

    def event(self, event: str, **fields: Any) -> None:
        """Append one line to events.jsonl."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields}, sort_keys=True) + "\n"
        with self._writing(self.path / "events.jsonl"), (self.path / "events.jsonl").open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the last one was cut off by a kill
                    line = "\n" + line
            file.write(line.encode())

    def events(self) -> Iterator[dict[str, Any]]:
        """The events so far; a line cut off by a kill, or damaged, is passed over."""
        with contextlib.suppress(OSError), opened(self.path / "events.jsonl") as file:
            for line in file:
                with contextlib.suppress(ValueError):  # of bytes that are no text, too
                    yield checked_event(line)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file of the run folder (`pipeline.yaml`, `environment.json`) atomically."""
        with self._writing(self.path / name):
            write_atomically(self.path / name, data)

    # -- the lock

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder; a dead owner holds nothing. Clears what a killed run left unfinished.

        Raises StoreError where another holds it; within, where another has taken it over.
        """
        lock = Lock(self.path)
        with self._writing(lock.place):
            self.path.mkdir(parents=True, exist_ok=True)
            for own in (lock.place, self.path / "events.jsonl"):
                if own.is_symlink():  # what is appended to it would be written elsewhere
                    raise StoreError(f"{own}: expected a file of the run folder, got a symbolic link; remove it")
                if own.exists() and not own.is_file():
                    raise StoreError(f"{own}: expected a file, got a folder, pipe or device; remove it")
            try:
                self.lease = lock.take()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                lock.clear(self.path.rglob(f"{TEMPORARY}*"))  # what dead processes left may be what fills the disk
                self.lease = lock.take()
        try:
            with self._writing(lock.place):
                lock.clear(self.path.rglob(f"{TEMPORARY}*"))
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError):
                    lock.clear(self.path.rglob(f"{TEMPORARY}*"))  # of the workers that were killed now
                raise
        finally:
            self.lease = None
            lock.release()

    def holder(self) -> Holder | None:
        """Process that works in the run folder now, or may; None if there is none."""
        return Lock(self.path).holder()

    @property
    def is_read_only(self) -> bool:
        """Whether there is a run folder that cannot be written."""
        return self.path.is_dir() and not os.access(self.path, os.W_OK)

    def check_lock(self) -> None:
        """Raise StoreError where this process had the lock and another has taken it over. Cheap: call it often."""
        if self.lease is not None:
            self.lease.check()

    def clear(self, stage: str) -> None:
        """Remove what dead processes left unfinished in a stage's folder, such as a worker that was just killed."""
        with contextlib.suppress(OSError):
            Lock(self.path).clear((self.path / stage).glob(f"{TEMPORARY}*"))

    @contextlib.contextmanager
    def _writing(self, place: Path) -> Iterator[None]:
        self.check_lock()
        try:
            yield
        except OSError as error:
            raise StoreError(cannot_write(place, error)) from error


def _state(place: Path) -> State | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _publish(unfinished: Path, target: Path) -> bool:
    """Give a finished file its name, where no file has it; whether that was so. Atomic on NFS and Lustre, too."""
    try:
        os.link(unfinished, target)
    except FileExistsError:
        ours = unfinished.stat().st_nlink == 2  # NFS may fail after it made the link: its first answer was lost
        unfinished.unlink()
        return ours
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        unfinished.replace(target)
        return True
    unfinished.unlink()
    return True


def _climbs(stage: str, name: str) -> str | None:
    """Why a name is not that of a file below the stage's folder; None where it is."""
    return None if is_plain(name) and name.startswith(f"{stage}/") else "is no plain path below that folder"


def _linked(run: Path, stage: str, name: str) -> str | None:
    """Where symbolic links lead what is named, in words, if that is elsewhere than below the stage's folder."""
    home = os.path.realpath(run)
    folder, real = os.path.realpath(run / stage), os.path.realpath((run / name).parent)
    if not folder.startswith(home + os.sep) or not f"{real}{os.sep}".startswith(folder + os.sep):
        return f"a symbolic link leads to {real}"
    return None


def faces_file(video_id: str) -> str:
    """The table of a video's annotated faces, under the run folder; it belongs to the index."""
    return f"index/faces/{file_name(video_id)}.parquet"


def images_file(video_id: str) -> str:
    """The table of the images of a unit, in a data set of images; it belongs to the index."""
    return f"index/images/{file_name(video_id)}.parquet"


def _content(receipt: Receipt, table: pa.Table, files: dict[str, tuple[int, str]]) -> str:
    """The hash of what later stages find in a part."""
    told = {name: receipt.facts.get(name) for name in receipt.tells}
    return fingerprint([table_sha256(table), {name: digest for name, (_, digest) in files.items()}, told])


def write_table(path: Path, table: pa.Table, receipt: Receipt | None = None) -> None:
    """Write `table` to `path`, with checksums, synced, its receipt in the footer.

    The same table gives the same bytes, however it was chunked. Raises StoreError where it cannot be written.
    """
    parquet.write_table(path, table, {RECEIPT_KEY: receipt.to_bytes()} if receipt is not None else {})


def read_receipt(path: Path) -> Receipt | None:
    """The receipt in a Parquet file's footer; None where there is none that can be read."""
    try:
        metadata, sealed = parquet.read_metadata(path)
        receipt = Receipt.from_bytes(metadata[RECEIPT_KEY])
    except MemoryError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    return receipt if sealed or not receipt.content else None  # of an earlier version, or no longer what was written


@lru_cache(maxsize=16)
def _read_once(path: Path, state: tuple[int, int, int]) -> Receipt:
    """Raises KeyError where there is none that can be read: that is not remembered, it may be a trouble of the disk."""
    if (found := read_receipt(path)) is None:
        raise KeyError(str(path))
    return found


_OF_RUN: Final = {"index": "videos", "evaluate": "metrics"}  # stages that make one part, with files beside it
_DEEPEST: Final = 4  # folders between a file and its run folder: evaluate/scores/NAME.parquet has two


def refuse_damaged(path: Path) -> None:
    """Raise Damaged, after noting it, where `path` is a file of a run folder and not what was made.

    Hashed once for each state of the file. Nothing happens where no receipt names it.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - keeps symbolic links
    for run, part in _parts(path):
        receipt = read_receipt(part)
        if receipt is None or run.part(receipt.stage, receipt.key) != part:
            continue
        name = path.relative_to(run.path).as_posix()
        if part != path and name in receipt.files:
            run.beside(receipt.stage, receipt.key, name, receipt.files[name][1])
            return
        if part == path:
            if is_whole(path) is False:
                raise run.damage(receipt.stage, receipt.key, f"{path}: is not what was made: its content changed")
            return


def _parts(path: Path) -> Iterator[tuple[Run, Path]]:
    """The parts that a file may be, or belong to, each with its run folder."""
    for root in path.parents[1:_DEEPEST]:
        words, run = path.relative_to(root).parts, Run(root)
        if words[0] in _OF_RUN:
            yield run, root / words[0] / f"{_OF_RUN[words[0]]}.parquet"
        elif words[0] == "train" and len(words) == 3:
            yield run, root / "train" / words[1] / "training.parquet"
        elif words[0] == "crop" and path.suffix == ".tar":
            yield run, path.with_name(path.name.removesuffix(".tar").rpartition(".")[0] + ".parquet")
        if path.suffix == ".parquet":
            yield run, path
