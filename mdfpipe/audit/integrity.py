"""Integrity of a run folder: every file that a receipt names is read whole and compared with its checksums.

A part holds its own (`store.parquet`), all other files have their sha256 in their part's receipt, and `pipeline.yaml`
in `environment.json`. Damage is recorded next to its part, so that the next `mdfpipe run` makes it again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Final

from mdfpipe.errors import DataError, StoreError, one_line
from mdfpipe.running.execution import Event
from mdfpipe.stages.train import BOARD, LOG, STATE
from mdfpipe.store.environment import FILE, read_environment
from mdfpipe.store.files import bytes_of
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.naming import STAGES, file_name
from mdfpipe.store.owner import TEMPORARY
from mdfpipe.store.parquet import is_whole
from mdfpipe.store.run import DAMAGED, Receipt, Run, read_receipt

THREADS: Final = 4
_INDEX: Final = "index/videos.parquet"
_OF_VIDEOS: Final = ("detect", "label", "crop")
_OF_NO_PART: Final = (STATE, LOG)  # of a training that has not ended
_NOT_READ: Final = ("failed", "report", BOARD)
_UNSEALED: Final = "an earlier version of mdfpipe made it, without checksums: it is not verified"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file. path: under the run folder. part: STAGE/KEY that it is, or belongs to; "" of none."""

    path: str
    what: str
    part: str = ""


@dataclass
class Integrity:
    """What came of reading a run folder.

    parts, files, bytes: how many were read. damaged: what is not what was made. missing: what a receipt names and is
    not there. foreign: files in the stages' folders that no receipt names. remarks: what does not matter to a result.
    noted: whether `mdfpipe run` will know of all that is damaged.
    """

    run: str
    parts: int = 0
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    damaged: list[Finding] = field(default_factory=list)
    missing: list[Finding] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    noted: bool = True

    @property
    def sound(self) -> bool:
        """Whether everything that the receipts name is what was made."""
        return not self.damaged and not self.missing

    def lines(self) -> list[str]:
        """For people."""
        speed = f" ({self.bytes / 1e6 / self.seconds:.0f} MB/s)" if self.seconds > 0.05 else ""
        read = f"{self.parts} parts and {self.files} other files, {self.bytes / 1e6:.1f} MB"
        found = [f"{self.run}: {read} in {self.seconds:.1f} s{speed}"]
        found += [f"damaged  {one.path}: {one.what}" for one in self.damaged]
        found += [f"missing  {one.path}: {one.what}" for one in self.missing]
        found += [f"foreign  {path}: no receipt names it; nothing reads it" for path in self.foreign]
        found += self.remarks
        if self.sound:
            return [*found, "sound: everything that the receipts name is what was made"]
        count = f"{len(self.damaged)} damaged, {len(self.missing)} missing"
        if not self.noted:
            return [*found, f"{count}; nothing could be noted in this folder, which cannot be written"]
        return [*found, f"{count}; `mdfpipe run` with its study makes the parts again that hold them"]


@dataclass(frozen=True)
class _Task:
    """One file to read whole. digest: its sha256; "" of a part, which holds its own."""

    name: str
    path: Path
    size: int
    part: tuple[str, str]
    digest: str = ""


def verify(path: str | PathLike[str], listen: Callable[[Event], None] = lambda event: None) -> Integrity:
    """Check every file of the run folder `path` against its checksums; record damaged parts, which are then due.

    Raises DataError if it is no run folder, StoreError if another process works in it.
    """
    path = Path(path)
    run, began = Run(path), time.monotonic()
    holder = run.holder()
    if holder is not None and not holder.silent:
        raise StoreError(f"{path}: {holder}; verify it once that has ended")
    listed = {place.relative_to(path).as_posix(): place for place in _files(path)}
    found = Integrity(str(path))
    receipts = _receipts(run, listed, found)
    tasks = [*_parts(run, receipts, listed), *_beside(run, receipts, listed, found)]
    if not tasks and not found.damaged:
        raise DataError(f"{path}: expected a run folder, found no part in it; give the folder of --run")
    owners = {task.name: task.part for task in tasks}
    owners |= {one.path: _split(one.part) for one in (*found.damaged, *found.missing) if one.part}
    progress = _Progress(listen, sum(task.size for task in tasks))
    with ThreadPoolExecutor(THREADS) as pool:
        for task, wrong in zip(tasks, pool.map(progress.read, tasks), strict=True):
            if wrong == _UNSEALED:
                found.remarks.append(f"{task.name}: {wrong}")
            elif wrong is not None:
                found.damaged.append(Finding(task.name, wrong, "/".join(task.part)))
    found.bytes, found.parts = progress.total, len(receipts)
    found.files = len(tasks) - len(receipts)
    _judge_study(path, found)
    known = {*owners, *(one.path for one in (*found.damaged, *found.missing))}
    logs = {name for receipt in receipts for name in receipt.files}
    found.foreign = [
        name for name in listed if name not in known | logs and not Path(name).name.startswith(_OF_NO_PART)
    ]
    for one in (*found.damaged, *found.missing):
        if one.path in owners:
            found.noted &= _note(run, owners[one.path], f"{one.path}: {one.what} (mdfpipe verify)")
    found.seconds = time.monotonic() - began
    return found


def _note(run: Run, part: tuple[str, str], what: str) -> bool:
    """Note that a part is damaged; whether that could be written."""
    run.damage(*part, what)
    failure = run.failure(*part)
    return failure is not None and failure.kind == DAMAGED


def _files(path: Path) -> Iterator[Path]:
    """The files in the folders of the stages, in order, but reports, records of failures and unfinished ones."""
    for folder in (path / name for name in STAGES):
        for place in sorted(folder.rglob("*")):
            inner = place.relative_to(path).parts[:-1]
            if place.is_file() and not place.name.startswith(TEMPORARY) and not set(inner) & set(_NOT_READ):
                yield place


def _receipts(run: Run, listed: dict[str, Path], found: Integrity) -> list[Receipt]:
    """The receipts of all parts; a part whose receipt does not read is damaged."""
    receipts, without = list[Receipt](), list[str]()
    for name, place in listed.items():
        if not name.endswith(".parquet"):
            continue
        receipt = read_receipt(place)
        if receipt is not None and run.part(receipt.stage, receipt.key) == place:
            receipts.append(receipt)
        elif len(Path(name).parts) == (3 if name.startswith(("train/", "embed/")) else 2):
            without.append(name)
    beside = {name for receipt in receipts for name in receipt.files}
    for name in without:
        if name not in beside and not _is_beside(name, receipts):
            found.damaged.append(Finding(name, "its receipt cannot be read"))  # which `run` sees by itself
    return receipts


def _is_beside(name: str, receipts: list[Receipt]) -> bool:
    """Whether it belongs to a run-level part that cannot be read itself, and so does not name it."""
    stage = name.partition("/")[0]
    keys = {"index": "videos", "evaluate": "metrics"}
    return stage in keys and Path(name).stem != keys[stage] and all(receipt.stage != stage for receipt in receipts)


def _parts(run: Run, receipts: list[Receipt], listed: dict[str, Path]) -> Iterator[_Task]:
    for receipt in receipts:
        place = run.part(receipt.stage, receipt.key)
        name = place.relative_to(run.path).as_posix()
        yield _Task(name, listed[name], place.stat().st_size, (receipt.stage, receipt.key))


def _beside(run: Run, receipts: list[Receipt], listed: dict[str, Path], found: Integrity) -> Iterator[_Task]:
    """The files that belong to parts; of a missing one, or one of another size, nothing has to be read."""
    is_made = any(receipt.stage != "index" for receipt in receipts)
    if is_made and _INDEX not in listed and run.failure("index", "videos") is None:
        found.missing.append(Finding(_INDEX, "all other parts were made from it", "index/videos"))
    for receipt in receipts:
        part = (receipt.stage, receipt.key)
        for name, (size, digest) in receipt.files.items():
            there = listed[name].stat().st_size if name in listed else None
            if not digest:
                if there != size:
                    found.remarks.append(f"{name}: this log was edited, or is gone; nothing depends on it")
            elif there is None:
                found.missing.append(Finding(name, "the receipt of its part names it", "/".join(part)))
            elif there != size:
                found.damaged.append(Finding(name, f"has {there} bytes, expected {size}", "/".join(part)))
            else:
                yield _Task(name, listed[name], size, part, digest)
        for stage, key in _upstream(receipt):
            name = f"{stage}/{file_name(key)}.parquet"
            failed = run.failure(stage, key) is not None  # it is known to be due
            if name not in listed and not failed and not any(one.path == name for one in found.missing):
                what = f"{receipt.stage}/{receipt.key} was made from it"
                found.missing.append(Finding(name, what, f"{stage}/{key}"))


def _upstream(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """The parts that a part was made from, by what its receipt says."""
    if receipt.stage == "index":
        return
    for name in receipt.upstream:
        stage, _, key = name.partition("/")
        if name in _OF_VIDEOS:
            yield name, receipt.key
        elif name == "manifest":
            yield name, name
        elif stage in _OF_VIDEOS and key:
            yield stage, key
        elif stage == "train" and key:
            yield name, "training"
        elif stage == "embed" and "/" in key:
            system, _, video = key.partition("/")
            yield f"{stage}/{system}", video


def _split(part: str) -> tuple[str, str]:
    """The stage and the key of STAGE/KEY.

    >>> _split("embed/body/videos/a"), _split("crop/videos/a")
    (('embed/body', 'videos/a'), ('crop', 'videos/a'))
    """
    words = part.split("/")
    of_stage = 2 if words[0] in ("train", "embed") else 1
    return "/".join(words[:of_stage]), "/".join(words[of_stage:])


def _judge_study(path: Path, found: Integrity) -> None:
    """Hold the study's copy against the digest that the last call noted. Nothing is made from it."""
    environment, kept = read_environment(path), path / "pipeline.yaml"
    if environment is None:
        if kept.exists() or (path / FILE).exists():
            found.damaged.append(Finding(FILE, "is not what a call of mdfpipe writes"))
        return
    noted = environment.facts.get("pipeline")
    try:
        differs = bool(noted) and hashlib.sha256(bytes_of(kept)).hexdigest() != noted
    except OSError as error:
        found.damaged.append(Finding(kept.name, f"cannot be read: {one_line(error, 120)}"))
        return
    if differs:
        found.damaged.append(Finding(kept.name, "is not what the last call wrote"))


class _Progress:
    """Reads files in several threads, and tells how many megabytes of all it has."""

    def __init__(self, listen: Callable[[Event], None], total: int) -> None:
        self.listen, self.total, self.done = listen, total, 0
        self.told, self._one_at_a_time = 0.0, threading.Lock()
        listen(Event("started", "verify", "MB"))

    def read(self, task: _Task) -> str | None:
        """What is wrong with a file; None where it is what was made."""
        try:
            if task.digest:
                whole: bool | None = bytes_sha256(task.path, self.add) == task.digest
            else:
                whole = is_whole(task.path, self.add)
        except OSError as error:
            return f"cannot be read: {one_line(error, 120)}"
        return None if whole else "its content changed" if whole is False else _UNSEALED

    def add(self, size: int) -> None:
        """So many bytes more."""
        with self._one_at_a_time:
            self.done += size
            if time.monotonic() - self.told > 0.2:
                self.told = time.monotonic()
                self.listen(Event("progress", "verify", "MB", self.done // 1_000_000, self.total // 1_000_000))
