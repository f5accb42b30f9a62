"""Integrity of a run folder: every file that a receipt names is read whole and compared with its checksum.

A part holds its own (`store.parquet`); other files have their sha256 in their part's receipt, `pipeline.yaml` in
`environment.json`. Damage is recorded next to its part, so that the next `mdfpipe run` makes it again; every call
lists it until then. A folder that no study made (`mdfpipe score`, the crops of `mdfpipe synth`) has no index.
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

from mdfpipe.errors import DataError, StoreError, counted, one_line
from mdfpipe.running.execution import Event
from mdfpipe.running.plan import OF_INDEX
from mdfpipe.stages.train import BOARD, LOG, STATE
from mdfpipe.store.environment import FILE, read_environment
from mdfpipe.store.files import bytes_of, given_path
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.naming import STAGES, file_name
from mdfpipe.store.owner import TEMPORARY
from mdfpipe.store.parquet import is_whole
from mdfpipe.store.run import DAMAGED, Receipt, Run, read_receipt
from mdfpipe.study.study import KEPT
from mdfpipe.synth.crops import BLOCK

THREADS: Final = 4
_INDEX: Final = "index/videos.parquet"
_RUN_LEVEL: Final = {"index": "videos", "evaluate": "metrics"}  # stage -> key
_OF_VIDEOS: Final = ("detect", "track", "label", "crop")
_OF_NO_PART: Final = (STATE, LOG)  # of a training that has not ended
_NOT_READ: Final = ("failed", "report", ".spans", ".hashes", BOARD)
_UNSEALED: Final = "an earlier version of mdfpipe made it, without checksums: it is not verified"


@dataclass(frozen=True)
class Finding:
    """A fault of a file. path: under the run folder. part: STAGE/KEY that it is, or belongs to; "" if none."""

    path: str
    what: str
    part: str = ""


@dataclass
class Integrity:
    """Result of reading a run folder.

    parts, files, bytes: how many were read. damaged: files with other content than was made. missing: files that a
    receipt names. foreign: files in the stages' folders that no receipt names. remarks: what does not affect a result.
    noted: whether the next `mdfpipe run` can find all of it due.
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
        """The same as lines of text."""
        speed = f" ({self.bytes / 1e6 / self.seconds:.0f} MB/s)" if self.seconds > 0.05 else ""
        read = f"{counted(self.parts, 'part')} and {counted(self.files, 'other file')}, {self.bytes / 1e6:.1f} MB"
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
        how = "`mdfpipe run` with its study, or the command that made this folder, makes the parts again"
        return [*found, f"{count}; {how}"]


@dataclass(frozen=True)
class _Task:
    """One file to read whole. digest: its sha256; "" for a part, which holds its own."""

    name: str
    path: Path
    size: int
    part: tuple[str, str]
    digest: str = ""


def verify(path: str | PathLike[str], listen: Callable[[Event], None] = lambda event: None) -> Integrity:
    """Check every file of the run folder `path` against its checksums; record damaged parts, which are then due.

    Raises DataError if it is no run folder, StoreError if another process works in it.
    """
    path = given_path("run", path)
    run, began = Run(path), time.monotonic()
    holder = run.holder()
    if holder is not None and not holder.silent:
        raise StoreError(f"{path}: {holder}; verify it once that has ended")
    listed = {place.relative_to(path).as_posix(): place for place in _files(path)}
    found = Integrity(str(path))
    receipts = _receipts(run, listed, found)
    tasks = list(_tasks(run, receipts, listed, found))
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
    wrong_ones = [*found.damaged, *found.missing]
    known = {*owners, *(one.path for one in wrong_ones), *(name for receipt in receipts for name in receipt.files)}
    found.foreign = [name for name in listed if name not in known and not Path(name).name.startswith(_OF_NO_PART)]
    for one in wrong_ones:
        if one.path in owners:
            found.noted &= _note(run, *owners[one.path], f"{one.path}: {one.what} (mdfpipe verify)")
    found.seconds = time.monotonic() - began
    return found


def _note(run: Run, stage: str, key: str, what: str) -> bool:
    """Record that a part is damaged; return whether the next `mdfpipe run` can find it due.

    A part whose stage has no folder is due without a record. No folder is made for one: other code takes the folder of
    a stage as a sign that the stage ran.
    """
    if not (run.path / stage).is_dir():
        return not run.is_read_only
    run.damage(stage, key, what)
    failure = run.failure(stage, key)
    return failure is not None and failure.kind == DAMAGED


def _could_not_be_made(run: Run, stage: str, key: str) -> bool:
    """Whether the last attempt to make a part failed. A record of damage, such as `verify` writes, says no such thing.

    A part that could not be made is a failure of the run, which `mdfpipe status` lists, and not missing.
    """
    failure = run.failure(stage, key)
    return failure is not None and failure.kind != DAMAGED


def _files(path: Path) -> Iterator[Path]:
    """The files in the folders of the stages, in order, without reports, records of failures and unfinished ones."""
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
    known, stages = {name for receipt in receipts for name in receipt.files}, {receipt.stage for receipt in receipts}
    for name in without:
        stage = name.partition("/")[0]
        # A file of a run-level part that cannot be read itself, and so does not name it, is no part.
        is_beside = stage in _RUN_LEVEL and Path(name).stem != _RUN_LEVEL[stage] and stage not in stages
        if name not in known and not is_beside:
            found.damaged.append(Finding(name, "its receipt cannot be read"))  # `run` finds this by itself
    return receipts


def _tasks(run: Run, receipts: list[Receipt], listed: dict[str, Path], found: Integrity) -> Iterator[_Task]:
    """The parts, then their files. A missing file, or one of another size, need not be read."""
    for receipt in receipts:
        place = run.part(receipt.stage, receipt.key)
        name = place.relative_to(run.path).as_posix()
        yield _Task(name, listed[name], place.stat().st_size, (receipt.stage, receipt.key))
    if _INDEX not in listed and _needs_index(run, receipts) and not _could_not_be_made(run, "index", "videos"):
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
            if name in listed or any(one.path == name for one in found.missing):
                continue
            if not _could_not_be_made(run, stage, key):
                what = f"{receipt.stage}/{receipt.key} was made from it"
                found.missing.append(Finding(name, what, f"{stage}/{key}"))


def _needs_index(run: Run, receipts: list[Receipt]) -> bool:
    """Whether there are parts that were made from an index: those of a study, or whose receipts name what it holds."""
    made = [receipt for receipt in receipts if receipt.stage != "index"]
    if made and (run.path / KEPT).exists():
        return True
    return any(name.partition("/")[0] in OF_INDEX for receipt in made for name in receipt.upstream)


def _upstream(receipt: Receipt) -> Iterator[tuple[str, str]]:
    """The parts that a part was made from, by its receipt."""
    if receipt.stage == "index":
        return
    for name in receipt.upstream:
        stage, _, key = name.partition("/")
        if name in _OF_VIDEOS:
            yield name, receipt.key
        elif name == "manifest":
            yield name, name
        elif receipt.stage == "manifest" and name.startswith(BLOCK):
            yield "crop", name
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
    """Compare the study's copy with the digest that the last call recorded. Nothing is made from it."""
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
    """Reads files in several threads, and reports its progress in megabytes."""

    def __init__(self, listen: Callable[[Event], None], total: int) -> None:
        self.listen, self.total, self.done = listen, total, 0
        self.told, self._one_at_a_time = 0.0, threading.Lock()
        listen(Event("started", "verify", "MB"))

    def read(self, task: _Task) -> str | None:
        """The fault of a file; None if it is what was made."""
        try:
            if task.digest:
                whole: bool | None = bytes_sha256(task.path, self.add) == task.digest
            else:
                whole = is_whole(task.path, self.add)
        except OSError as error:
            return f"cannot be read: {one_line(error, 120)}"
        return None if whole else "its content changed" if whole is False else _UNSEALED

    def add(self, size: int) -> None:
        """Count bytes that were read."""
        with self._one_at_a_time:
            self.done += size
            if time.monotonic() - self.told > 0.2:
                self.told = time.monotonic()
                self.listen(Event("progress", "verify", "MB", self.done // 1_000_000, self.total // 1_000_000))
