"""Video cache: remote videos on a local disk, of which the longest unused ones make room for others.

`MDFPIPE_VIDEO_CACHE` names its folder (default: `~/.cache/mdfpipe/videos`), `MDFPIPE_VIDEO_CACHE_GB` its size limit
(default: 100). Several processes and machines may share a folder. A file appears under its name, which holds the hashes
of its URL and of its version, when it is whole. A process reads a video through a hard link of its own, so that the
file stays until it is read. The next process resumes what one leaves unfinished.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Final

from mdfpipe.errors import ConfigError, DataError, StoreError
from mdfpipe.store.fetching import Version, download, version
from mdfpipe.store.files import sync, write_atomically
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.naming import VIDEO_SUFFIXES
from mdfpipe.store.owner import TEMPORARY, is_left_over, temporary
from mdfpipe.store.urls import shown

_FOLDER: Final = "MDFPIPE_VIDEO_CACHE"
_LIMIT: Final = "MDFPIPE_VIDEO_CACHE_GB"
_UNFINISHED: Final = ".partial"
_CHANGED: Final = ".changed"


class VideoCache:
    """The folder of one user, or of several."""

    def __init__(self) -> None:
        """Raises ConfigError where a variable is no number."""
        text = os.environ.get(_LIMIT) or "100"
        try:
            self.limit = int(float(text) * 1e9)
            if self.limit <= 0:
                raise ValueError
        except (ValueError, OverflowError):
            raise ConfigError(f"{_LIMIT}: expected a number of gigabytes above 0, got '{text[:40]}'") from None
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = Path(os.environ.get(_FOLDER) or home / "mdfpipe" / "videos")

    def stamp(self, url: str) -> str:
        """Ask the server for the version of a video. Raises DataError."""
        return version(url).stamp

    def changed(self, url: str) -> str | None:
        """The stamp of a version that was found in the place of the indexed one; None where there is none."""
        try:
            return self._place(url, _CHANGED).read_text()
        except OSError:
            return None

    @contextmanager
    def at(
        self,
        url: str,
        stamp: str,
        sha256: str | None = None,
        progress: Callable[[int], None] = lambda done: None,
        *,
        fetch: bool = True,
    ) -> Iterator[Path]:
        """A local file with the bytes of a video, for as long as the context lasts.

        stamp: the version that is wanted. sha256: the content, where it is known. fetch: whether to ask the server
        where the cache does not hold it. Raises DataError where the server has another version, or the file does not
        come.
        """
        entry = self._place(url, f"-{_digest(stamp)[:16]}{_suffix(url)}")
        pinned = self._pinned(entry)
        try:
            for attempt in range(2):
                if pinned is None:
                    if not fetch:
                        raise DataError(f"{shown(url)}: is not in the video cache {self.folder}; run detect again")
                    self._fetch(url, stamp, entry, progress)
                    pinned = self._pinned(entry)
                if pinned is not None and (sha256 is None or bytes_sha256(pinned, progress) == sha256):
                    yield pinned
                    return
                with suppress(FileNotFoundError):
                    entry.unlink()
                if pinned is not None:
                    pinned.unlink()
                    pinned = None
                if attempt:
                    self._note_change(url, f"{stamp} with other bytes")
                    raise DataError(
                        f"{shown(url)}: has other bytes than when it was indexed; give the same command again"
                    )
        finally:
            if pinned is not None:
                pinned.unlink(missing_ok=True)

    def _fetch(self, url: str, stamp: str, entry: Path, progress: Callable[[int], None]) -> None:
        found = version(url)
        if found.stamp != stamp:
            self._note_change(url, found.stamp)
            raise DataError(f"{shown(url)}: has changed since it was indexed; give the same command again")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(url, found.size or 0, entry)
            self._download(url, found, entry, progress)
        except OSError as error:
            raise StoreError(
                f"{error.filename or self.folder}: cannot be written: {error.strerror}; set {_FOLDER} to another folder"
            ) from None

    def _download(self, url: str, found: Version, entry: Path, progress: Callable[[int], None]) -> None:
        """Fetch to a file of this process; resume what another one left."""
        rest = entry.with_name(entry.name + _UNFINISHED)
        place = temporary(rest)
        for one in [rest, *self._left_over(rest.name)]:
            with suppress(OSError):  # another process was faster
                one.rename(place)
                break
        try:
            download(url, found, place, progress)
            sync(place)
            try:
                os.link(place, entry)
            except FileExistsError:  # another process was faster; its file is the same version
                pass
            except OSError:  # a file system without hard links
                place.replace(entry)
        finally:
            self._put_aside(place, rest, keep=bool(found.mark) and not entry.exists())

    @staticmethod
    def _put_aside(place: Path, rest: Path, *, keep: bool) -> None:
        """Keep what has arrived for the next attempt, or remove it."""
        with suppress(OSError):
            if keep and place.exists() and place.stat().st_size:
                place.replace(rest)
            place.unlink(missing_ok=True)

    def _make_room(self, url: str, size: int, entry: Path) -> None:
        """Remove the files that were not used for the longest time, and what dead processes left."""
        files: dict[Path, os.stat_result] = {}
        for one in self.folder.iterdir():
            with suppress(OSError):
                if is_left_over(one.name) and not one.name.endswith(_UNFINISHED):
                    one.unlink()
                else:
                    files[one] = one.stat()
        taken = sum({found.st_ino: found.st_size for found in files.values()}.values())
        free = [
            one
            for one, found in files.items()
            if (not one.name.startswith(TEMPORARY) or is_left_over(one.name))
            and found.st_nlink == 1
            and one.suffix != _CHANGED
            and not one.name.endswith(f"{entry.name}{_UNFINISHED}")
        ]
        for one in sorted(free, key=lambda one: files[one].st_mtime_ns):
            if taken + size <= self.limit:
                return
            with suppress(OSError):
                one.unlink()
                taken -= files[one].st_size
        if taken + size > self.limit:
            used = f", and {taken / 1e9:.3g} GB are in use" if taken else ""
            raise DataError(
                f"{shown(url)}: has {size / 1e9:.3g} GB, the video cache {self.folder} may hold {self.limit / 1e9:.3g} "
                f"GB{used}; raise {_LIMIT}, or use fewer --workers"
            )

    def _left_over(self, name: str) -> list[Path]:
        with suppress(OSError):
            return [one for one in self.folder.iterdir() if one.name.endswith(f"-{name}") and is_left_over(one.name)]
        return []

    def _pinned(self, entry: Path) -> Path | None:
        """A hard link of this process to a file of the cache, which is noted as used; None where it is not there."""
        place = temporary(entry)
        try:
            os.link(entry, place)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # a file system without hard links: a copy
            shutil.copyfile(entry, place)
        with suppress(OSError):
            os.utime(entry)
        return place

    def _note_change(self, url: str, stamp: str) -> None:
        """Keep the stamp that was found: by it, the next command knows that the index is out of date."""
        with suppress(OSError, StoreError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._place(url, _CHANGED), stamp.encode())

    def _place(self, url: str, ending: str) -> Path:
        return self.folder / f"{_digest(url.replace('://', ':/'))[:32]}{ending}"


@contextmanager
def called(place: Path, url: str) -> Iterator[None]:
    """Errors in the context name the URL, and not the file that holds it at the moment."""
    try:
        yield
    except DataError as error:
        if str(place) in (text := str(error)):
            raise type(error)(text.replace(str(place), url)) from None
        raise


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _suffix(url: str) -> str:
    suffix = PurePosixPath(url).suffix.lower()
    return suffix if suffix in VIDEO_SUFFIXES else ""
