"""Lock: one process works in a folder, across machines and file systems.

`flock` is not enough. It is of one machine on NFS with `local_lock`, on Lustre with `localflock` and on BeeGFS, and an
error elsewhere. So the lock is a record, `.lock-000007`, that says who holds the folder:

- **The highest number holds.** A record is made with `link` (or O_EXCL where there are no links), which succeeds for
  one process alone, on NFS and Lustre too. To take over after owner 7 is to make record 8. The highest record is never
  deleted, so that one who was slow to look cannot make number 8 a second time; it checks again afterwards.
- **A heartbeat keeps it alive.** Its owner sets the record's time every BEAT seconds. An owner on this machine is
  looked up instead: it is dead as soon as its process is. The record of an owner elsewhere is *watched*, by this
  machine's own clock: unchanged for LEASE seconds, it is presumed dead. Clocks are never compared, as those of machines
  differ. No option breaks a lock: options get into scripts, and watching takes a minute.
- **Who lost it stops.** An owner that was presumed dead (suspended, cut off from the server) and wakes up finds a
  higher record at its next beat or commit, and its run ends.

`flock` is taken in addition where there is one: it stops versions of mdfpipe that know no records, and it tells at once
that the owner in a killed container of this machine is dead.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from mdfpipe.errors import StoreError, one_line
from mdfpipe.machine.processes import copies
from mdfpipe.store.files import bytes_of, opened, write_synced
from mdfpipe.store.owner import Life, Owner, is_left_over, is_of, temporary

BEAT = 5.0  # seconds between two signs of life
LEASE = 60.0  # seconds without one after which an owner elsewhere is presumed dead
LOOK = 1.0  # seconds between two looks at a record that is watched
PATIENCE = 2.0  # seconds for one who has the flock to write its record, or to let go
NAME = ".lock"  # the file under flock; records are `.lock-000001` and so on

_RECORD = re.compile(rf"{re.escape(NAME)}-([0-9]{{6,12}})")
_RELEASED = b"released\n"
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})

log = logging.getLogger("mdfpipe")


class _Flock(enum.Enum):
    """What came of asking for flock."""

    OURS = "ours"
    BUSY = "another has it"
    NONE = "the file system has none"


def is_of_lock(name: str) -> bool:
    """Whether a file name is one of the lock's own."""
    return name == NAME or _RECORD.fullmatch(name) is not None


@dataclass
class Lease:
    """The right to write in a folder, as the process that took it and its workers have it. It can be lost.

    looked: when it was last looked up, by the monotonic clock of this machine.
    """

    folder: Path
    number: int
    secret: str
    lost: str = ""
    looked: float = field(default_factory=time.monotonic)

    def check(self, now: bool = False) -> None:
        """Raise StoreError if another process has taken the folder over; asks once in BEAT seconds, or now."""
        if not self.lost and (now or time.monotonic() - self.looked >= BEAT):
            self.look()
        if self.lost:
            raise StoreError(self.lost)

    def look(self) -> None:
        """Find out whether the folder is still ours. A server that does not answer is no reason to give up."""
        self.looked = time.monotonic()
        with contextlib.suppress(OSError):
            number, record = _highest(self.folder)
            if number == self.number and record is not None and record.owner.secret == self.secret:
                return
            if number > self.number and record is not None:
                who = "another process" if record.owner == _NOBODY else record.owner
                why = f"was taken over by {who}, as this process gave no sign of life for {LEASE:g} s"
            else:
                why = f"this process's record {_name(self.number)} was deleted or replaced"
            self.lost = f"{self.folder}: {why}; this one stops; give the same command again once no other is at work"


@dataclass(frozen=True)
class _Record:
    """Who holds, or held, a folder. flock: the inode of the file it holds under flock; 0: none."""

    owner: Owner
    flock: int = 0
    released: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps({**asdict(self.owner), "flock": self.flock}, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> _Record:
        """Return an unknown owner, for a record that cannot be read."""
        if data.startswith(_RELEASED.strip()):
            return cls(_NOBODY, released=True)
        try:
            fields: dict[str, Any] = json.loads(data)
            flock = int(fields.pop("flock", 0))
            owner = Owner(**fields)
            texts = (value for name, value in asdict(owner).items() if name != "pid")
            if type(owner.pid) is not int or not all(isinstance(text, str) for text in texts):
                raise ValueError("wrong types")
            return cls(owner, flock)
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls(_NOBODY)


_NOBODY = Owner("an unknown machine", "", "?", "?", 0, "")


@dataclass(frozen=True)
class Holder:
    """Who holds a folder, for people. silent: seconds without a sign of life where it may be dead; else 0."""

    owner: str
    silent: float = 0.0

    def __str__(self) -> str:
        if not self.silent:
            return f"in use by {self.owner}"
        return f"in use by {self.owner}, which gave no sign of life for {self.silent:.0f} s and may be dead"


class Lock:
    """The lock of a folder that exists. `take`, work, `release`."""

    def __init__(self, folder: Path, elsewhere: str = "take another --run folder") -> None:
        """elsewhere: what to do instead of waiting, for the message."""
        self.folder, self.elsewhere = folder, elsewhere
        self._former: tuple[Owner, float] | None = None  # who held it before and did not let go; time of its last sign
        self._file: TextIO | None = None
        self._lease: Lease | None = None
        self._process = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def place(self) -> Path:
        """The file under flock."""
        return self.folder / NAME

    def take(self) -> Lease:
        """Take the lock. Raises StoreError where another holds it, OSError where the folder cannot be written."""
        self._file = self.place.open("a+")
        try:
            lease = self._claim()
        except BaseException:
            self._file.close()
            raise
        self._lease, self._process = lease, os.getpid()
        self._ended.clear()
        self._thread = threading.Thread(target=self._beat, args=(lease,), name="mdfpipe lock", daemon=True)
        self._thread.start()
        return lease

    def release(self) -> None:
        """Give the lock back. In a forked child of its owner: nothing, it is not the child's."""
        if self._lease is None or self._file is None or self._thread is None or self._process != os.getpid():
            return
        self._ended.set()
        self._thread.join(2 * BEAT)  # a server that does not answer must not hold the end up
        with contextlib.suppress(OSError), self._file:
            self._lease.look()
            if not self._lease.lost:  # in its place: a full disk has no room for another
                with (self.folder / _name(self._lease.number)).open("rb+") as file:
                    file.write(_RELEASED)
                    file.truncate()
        self._lease = None

    def clear(self, paths: Iterable[Path]) -> None:
        """Remove those of these paths that are temporary files of processes known to be dead. Raises OSError.

        Also those of the machine from which the lock was taken over, unless they are younger than its last sign of
        life: what is younger was written by another process there, which may live.
        """
        for path in paths:
            if is_left_over(path.name):
                path.unlink(missing_ok=True)
            elif self._former is not None and is_of(path.name, self._former[0]):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime <= self._former[1] + 2 * BEAT:
                        path.unlink()

    def holder(self) -> Holder | None:
        """Process that holds the folder, or may hold it; None if there is none. Writes nothing.

        The age of the last sign of an owner on another machine uses this machine's clock: for people to read.
        """
        with contextlib.suppress(OSError):
            number, record = _highest(self.folder)
            if record is None:
                return self._flocked()
            if record.released or record.owner.life is Life.DEAD:
                return None
            if record.owner.life is Life.ALIVE:
                return Holder(str(record.owner))
            age = time.time() - (self.folder / _name(number)).stat().st_mtime
            return Holder(str(record.owner), age if age > LEASE else 0.0)
        return None

    # -- taking it

    def _claim(self) -> Lease:
        """Make the highest record, once the owner of the last one has let go or is dead. Raises StoreError, OSError."""
        assert self._file is not None
        flock, since = _flock(self._file), time.monotonic()
        while True:
            number, record = _highest(self.folder)
            life = self._life(record, flock)
            presumed = False
            if life is Life.ALIVE:
                raise self._in_use(str(record.owner) if record else "another process")
            if life is Life.UNKNOWN:
                assert record is not None
                if not self._stays_silent(number, record):
                    continue
                presumed = True
            if flock is _Flock.BUSY and not presumed:  # it may be about to write its record, or to end
                if time.monotonic() - since > PATIENCE:
                    self._file.seek(0)
                    raise self._in_use(one_line(self._file.read(200)) or "another process")
                time.sleep(0.05)
                flock = _flock(self._file)
                continue
            if lease := self._make(number + 1, flock):
                break
            time.sleep(0.05)
        if record is not None and not record.released:
            with contextlib.suppress(FileNotFoundError):
                self._former = record.owner, (self.folder / _name(number)).stat().st_mtime
            if presumed:
                log.warning("mdfpipe: %s: taken over from %s, which gave no sign of life", self.folder, record.owner)
        for lower in _numbers(self.folder):
            if lower < lease.number:
                (self.folder / _name(lower)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # for versions that know no records
            os.ftruncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), f"process {os.getpid()}".encode())
        return lease

    def _life(self, record: _Record | None, flock: _Flock) -> Life:
        if record is None or record.released:
            return Life.DEAD
        found = record.owner.life
        near = record.owner.boot == Owner.new().boot and record.flock == self.place.stat().st_ino
        if found is Life.UNKNOWN and near and flock is _Flock.OURS and self._counts():
            return Life.DEAD  # in a container of this machine: its process had the flock that is now ours
        return found

    def _counts(self) -> bool:
        """Whether flock, which we have, keeps others out."""
        with self.place.open("a+") as other:
            return _flock(other) is _Flock.BUSY

    def _stays_silent(self, number: int, record: _Record) -> bool:
        """Watch a record: True where it does not change for LEASE seconds, False where one has to look again.

        Raises StoreError where it gives a sign of life. Time in which the server does not answer does not count.
        """
        place, silent, said = self.folder / _name(number), 0.0, False
        try:
            first = _state(place)
            while silent < LEASE and _Record.from_bytes(first[1]) == record:
                before = time.monotonic()
                time.sleep(LOOK)
                if _highest(self.folder)[0] != number:
                    return False
                if (state := _state(place)) != first:
                    if state[1] != first[1]:  # given back, or only now written
                        return False
                    raise self._in_use(str(record.owner))
                silent += min(time.monotonic() - before, 2 * LOOK)
                if silent > 2 * BEAT and not said:
                    said = True
                    log.warning(
                        "mdfpipe: %s: was last used by %s; waiting %.0f s for a sign of life",
                        *(self.folder, record.owner, LEASE - silent),
                    )
        except FileNotFoundError:
            return False
        return silent >= LEASE

    def _make(self, number: int, flock: _Flock) -> Lease | None:
        """Make record `number`; None where another was first. Raises OSError."""
        owner = Owner.new()
        inode = self.place.stat().st_ino if flock is _Flock.OURS else 0
        data, place = _Record(owner, inode).to_bytes(), self.folder / _name(number)
        if not _create(place, data):
            return None
        if _numbers(self.folder)[-1:] != [number]:  # we were slow: number was made, followed and cleared before
            place.unlink(missing_ok=True)
            return None
        return Lease(self.folder, number, owner.secret)

    def _in_use(self, who: str) -> StoreError:
        several = copies()
        hint = f"{several.launcher} started this command {several.count} times: start it once; or " if several else ""
        advice = f"{hint}wait for it, end it, or {self.elsewhere}"
        return StoreError(f"{self.folder}: in use by {who}; {advice}")

    def _flocked(self) -> Holder | None:
        """Who holds the file under flock, and has no record: a version of mdfpipe that makes none."""
        with contextlib.suppress(OSError), opened(self.place) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Holder(one_line(file.read(200).decode(errors="replace")) or "another process")
        return None

    # -- keeping it

    def _beat(self, lease: Lease) -> None:
        """Give a sign of life until the end, or until the lock is lost."""
        place = self.folder / _name(lease.number)
        while not self._ended.wait(BEAT) and not lease.lost:
            lease.look()
            if not lease.lost:
                with contextlib.suppress(OSError):  # the next may come through
                    os.utime(place)


def _flock(file: TextIO) -> _Flock:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return _Flock.BUSY if error.errno in (errno.EAGAIN, errno.EACCES) else _Flock.NONE
    return _Flock.OURS


def _name(number: int) -> str:
    return f"{NAME}-{number:06d}"


def _numbers(folder: Path) -> list[int]:
    """The numbers of a folder's records, in order. Raises OSError."""
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _RECORD.fullmatch(path.name)))


def _highest(folder: Path) -> tuple[int, _Record | None]:
    """The highest record; (0, None) where there is none. Raises OSError."""
    for _ in range(100):
        numbers = _numbers(folder)
        if not numbers:
            return 0, None
        with contextlib.suppress(FileNotFoundError):  # it was followed just now
            return numbers[-1], _Record.from_bytes(bytes_of(folder / _name(numbers[-1])))
        time.sleep(0.02)
    raise OSError(errno.ESTALE, f"{_name(numbers[-1])} is listed and cannot be opened")


def _state(place: Path) -> tuple[int, bytes]:
    """What changes with every sign of life. Opened each time: a client of NFS asks the server only then."""
    with opened(place) as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read()


def _create(place: Path, data: bytes) -> bool:
    """Make a file with this content as one step, where there is none; False where there is one. Raises OSError."""
    draft = temporary(place)
    try:
        write_synced(draft, data, new=True)
        try:
            os.link(draft, place)
        except OSError as error:
            if draft.stat().st_nlink == 2:  # NFS may fail after it made the link: its first answer was lost
                return True
            if error.errno not in NO_LINKS:
                raise
            write_synced(place, data, new=True)  # for a moment it is empty, which is watched as unreadable
        return True
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
