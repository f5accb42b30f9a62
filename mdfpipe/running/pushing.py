"""Push: copy the committed parts of a run folder to another place through fsspec, without ever replacing a file there.

The files of a part go first, and the part, which is its own receipt, last: a part that is there is whole, and a push
that ended early is resumed by the same command. A part that is there is compared by its size and its last bytes, which
hold its own sha256; another file is compared by all its bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final

from mdfpipe.errors import ConfigError, DataError, MdfError, MissingDependency, StoreError, counted, one_line
from mdfpipe.running.execution import Event
from mdfpipe.store.environment import FILE
from mdfpipe.store.files import given_path
from mdfpipe.store.naming import STAGES
from mdfpipe.store.owner import TEMPORARY
from mdfpipe.store.run import Receipt, Run, read_receipt
from mdfpipe.store.urls import shown

_BLOCK: Final = 4 << 20
_TAIL: Final = 1 << 16  # bytes at the end of a part that are compared; its sha256 and its receipt are there
_STUDY: Final = ("pipeline.yaml", FILE)
_WHOLE: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "hf")  # a file appears there when it is whole
_READ_ONLY: Final = ("http", "https")


@dataclass
class Pushed:
    """Result of a push. url: without users, passwords and queries. sent, equal: files copied, and already there.

    sent_bytes: of the files copied. refused: files that are there with other content, or parts that are not whole here,
    a line each. dry_run: whether nothing was written, and `sent` is what would be.
    """

    run: str
    url: str
    dry_run: bool = False
    sent: int = 0
    sent_bytes: int = 0
    equal: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything is there now."""
        return not self.refused

    def lines(self) -> list[str]:
        """The result in words."""
        verb = "would be copied" if self.dry_run else "copied"
        size = f"{self.sent_bytes / 1e6:.1f} MB"
        return [
            f"{self.url}: {counted(self.sent, 'file')} {verb} ({size}), {self.equal} there already, "
            f"{len(self.refused)} refused",
            *(f"refused: {line}" for line in self.refused),
        ]


def push(
    path: str | PathLike[str], url: str, *, dry_run: bool = False, listen: Callable[[Event], None] = lambda event: None
) -> Pushed:
    """Copy the committed parts of the run folder `path` to `url`; a file that is there is left as it is.

    url: a folder, as fsspec names it. Raises DataError if `path` is no run folder, ConfigError for a URL that cannot be
    written, StoreError if another process works in the run, or where copying fails.
    """
    path = given_path("run", path)
    run, began, found = Run(path), time.monotonic(), Pushed(str(path), shown(url), dry_run)
    holder = run.holder()
    if holder is not None and not holder.silent:
        raise StoreError(f"{path}: {holder}; push it once that has ended")
    receipts = list(_receipts(run))
    if not receipts:
        raise DataError(f"{path}: expected a run folder, found no part in it; give the folder of --run")
    total = sum(size for receipt in receipts for size, _ in receipt.files.values())
    total += sum(run.part(receipt.stage, receipt.key).stat().st_size for receipt in receipts)
    target = _Target(url, listen, total)
    try:
        for name in _STUDY:
            if (path / name).is_file():
                _copy(target, path / name, name, found)
        for receipt in receipts:
            _push_part(target, run, receipt, found)
    except MdfError:
        raise
    except Exception as error:  # every file system of fsspec has its own
        words = one_line(shown(error), 160)
        raise StoreError(
            f"{found.url}: cannot be written: {type(error).__name__}: {words}; give the same command again: it resumes"
        ) from None
    found.seconds = time.monotonic() - began
    return found


def _receipts(run: Run) -> Iterator[Receipt]:
    """The receipts of all parts, by stage and name."""
    for stage in STAGES:
        for place in sorted((run.path / stage).rglob("*.parquet")):
            if place.name.startswith(TEMPORARY):
                continue
            receipt = read_receipt(place)
            if receipt is not None and run.part(receipt.stage, receipt.key) == place:
                yield receipt


def _push_part(target: _Target, run: Run, receipt: Receipt, found: Pushed) -> None:
    """Copy the files of a part, then the part."""
    place = run.part(receipt.stage, receipt.key)
    name = place.relative_to(run.path).as_posix()
    if Run.own(receipt, receipt.stage, receipt.key) is None or (run.files_in_place(receipt)):
        why = run.files_in_place(receipt) or "its receipt names files of another stage"
        found.refused.append(f"{name}: is not whole here ({why}); run `mdfpipe verify {run.path}`")
        return
    if target.size(name) is not None and target.ends_alike(place, name):
        found.equal += 1 + len(receipt.files)
        target.progress(place.stat().st_size + sum(size for size, _ in receipt.files.values()))
        return
    before = len(found.refused)
    for one in receipt.files:
        if (run.path / one).is_file():  # a log may be gone
            _copy(target, run.place(receipt.stage, one), one, found)
    if len(found.refused) == before:
        _copy(target, place, name, found)


def _copy(target: _Target, place: Path, name: str, found: Pushed) -> None:
    """Copy one file, unless there is one."""
    size, there = place.stat().st_size, target.size(name)
    if there is not None:
        alike = there == size and target.is_alike(place, name)
        found.equal += alike
        if not alike:
            found.refused.append(f"{name}: is there with other content ({there} bytes, here {size}); push elsewhere")
        target.progress(size)
        return
    if found.dry_run:
        target.progress(size)
    else:
        target.put(place, name)
    found.sent, found.sent_bytes = found.sent + 1, found.sent_bytes + size


class _Target:
    """A folder of a file system of fsspec; reports progress in megabytes."""

    def __init__(self, url: str, listen: Callable[[Event], None], total: int) -> None:
        """Raises ConfigError for a URL that cannot be written, MissingDependency without fsspec."""
        protocol = url.partition("://")[0] if "://" in url else "file"
        if protocol in _READ_ONLY or "::" in url or not url.strip():
            raise ConfigError(
                f"{one_line(shown(url), 120)}: expected a folder that can be written (s3://..., sftp://..., a path); "
                "name another"
            )
        try:
            import fsspec
            from fsspec.callbacks import Callback
        except ImportError:
            raise MissingDependency("fsspec", "push", "remote") from None
        try:
            self.system, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(f"{one_line(shown(url), 120)}: needs another package: {one_line(error, 160)}") from None
        except Exception as error:
            words = one_line(shown(error), 160)
            raise ConfigError(f"{one_line(shown(url), 120)}: cannot be opened: {words}; correct the URL") from None
        self.root, self.is_whole = root.rstrip("/"), protocol in _WHOLE
        self.listen, self.total, self.done, self.told = listen, total, 0, 0.0
        progress = self.progress

        class Told(Callback):  # type: ignore[misc]
            """What fsspec calls while it copies."""

            def relative_update(self, inc: int = 1) -> None:
                progress(inc)

        self.callback: Any = Told()
        listen(Event("started", "push", "MB"))

    def progress(self, size: int) -> None:
        """Count bytes that are done."""
        self.done += size
        if time.monotonic() - self.told > 0.2:
            self.told = time.monotonic()
            self.listen(Event("progress", "push", "MB", self.done // 1_000_000, self.total // 1_000_000))

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""
        self.system.invalidate_cache()
        try:
            found = self.system.info(f"{self.root}/{name}")
        except FileNotFoundError:
            return None
        return int(found["size"]) if found["type"] == "file" else -1

    def ends_alike(self, place: Path, name: str) -> bool:
        """Whether a part there has the size and the last bytes of one here."""
        size = place.stat().st_size
        if self.size(name) != size:
            return False
        start = max(size - _TAIL, 0)
        with place.open("rb") as file:
            file.seek(start)
            return bool(self.system.cat_file(f"{self.root}/{name}", start=start, end=size) == file.read())

    def is_alike(self, place: Path, name: str) -> bool:
        """Whether a file there has the bytes of one here."""
        with place.open("rb") as here, self.system.open(f"{self.root}/{name}", "rb") as there:
            while block := here.read(_BLOCK):
                if there.read(len(block)) != block:
                    return False
        return True

    def put(self, place: Path, name: str) -> None:
        """Copy a file under a name that is not there; it appears whole. Raises StoreError where it is another size."""
        folder, _, last = f"{self.root}/{name}".rpartition("/")
        final = f"{folder}/{last}"
        first = final if self.is_whole else f"{folder}/.push-{last}"
        self.system.makedirs(folder, exist_ok=True)
        before = self.done
        self.system.put_file(str(place), first, callback=self.callback)
        self.progress(before + place.stat().st_size - self.done)
        if first != final:
            self.system.mv(first, final)
        if (there := self.size(name)) != place.stat().st_size:
            raise StoreError(f"{shown(final)}: expected {place.stat().st_size} bytes there, got {there}; remove it")
