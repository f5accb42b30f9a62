"""A small study with every stage, what it left, and how a damaged copy of it is judged."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mdfpipe.errors import MdfError
from mdfpipe.running.execution import Event, Unit
from mdfpipe.running.runner import Runner
from mdfpipe.running.synthesis import synthesise
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
from mdfpipe.study.pipeline import Pipeline
from tests.inline import Inline

BAD = ("silent", "dead end", "traceback")
STUDY = """
name: faults
dataset:
  use: ijb
  preset: ijbc
  videos: ["videos/*/*"]
  leave_out: {paths: ["*-b01"], domains: [SWIR-30m, MWIR-30m]}
  domain: {regex: 'videos/(?P<domain>[A-Z]+-[0-9]+m)/'}
  galleries: {"1": [galleries/gallery_G1.csv], "2": [galleries/gallery_G2.csv]}
detect: {detector: {use: yolo, weights: demo, image_size: 320}}
label: {assignment: mutual_best, check_alignment: false}
manifest:
  protocol:
    {name: vis-to-lwir, gallery_domains: [VIS-500m], probe_domains: [LWIR-30m], galleries: {"1": train, "2": test}}
systems:
  body:
    recipe:
      {use: body, backbone: striped, width: 8, image_height_px: 72, image_width_px: 24,
       batches: {subjects: 3, crops: 2}, schedule: {length: 2, unit: steps, warm_up: 0}}
evaluate: {tables: {recognition: {unmated: exclude}}}
"""
_LOGS = ("events.jsonl", "environment.json", "metrics.jsonl", "traceback.txt")  # times, speeds, this machine


@dataclass(frozen=True)
class Verdict:
    """What came of a case. said: the line, or what differs."""

    KINDS: ClassVar = ("survived", "refused", *BAD)

    what: str
    said: str = ""


@dataclass(frozen=True)
class Case:
    """One fault. kind: its row in the table; where: what it hit."""

    kind: str
    where: str
    run: Callable[[], Verdict]


class Watched(Inline):
    """Does each unit at once, in this process, and raises what nobody foresaw."""

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        for event in super().run(units):
            if event.failure is not None and event.failure.traceback:
                raise _Unforeseen(event.failure.traceback)
            yield event


class _Unforeseen(Exception):  # noqa: N818
    pass


@dataclass(frozen=True)
class Small:
    """The study's file, its data and a finished run; digests: of every file that should be the same again."""

    folder: Path
    study: Path
    data: Path
    done: Path
    digests: dict[str, str]

    @classmethod
    def make(cls, folder: Path) -> Small:
        """Draw the data and run the study once."""
        study, data, done = folder / "study.yaml", folder / "data", folder / "done"
        study.write_text(STUDY)
        synthesise(data, "tiny", workers=1)
        outcome = run(study, data, done)
        assert outcome is None, outcome
        return cls(folder, study, data, done, digests(done))

    def copy(self) -> Path:
        """A copy of the finished run, its files linked where nothing writes in place."""
        place = self.folder / "case"
        shutil.rmtree(place, ignore_errors=True)
        for path in sorted(self.done.rglob("*")):
            target = place / path.relative_to(self.done)
            if path.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.name.startswith(".lock"):
                continue
            if path.name in _LOGS:
                shutil.copyfile(path, target)
            else:
                os.link(path, target)
        return place

    def others(self, place: Path) -> list[str]:
        """The files of a copy that are not what the finished run has, and those that are gone."""
        now = digests(place)
        return [name for name, digest in self.digests.items() if now.get(name) != digest]

    def judge(self, place: Path, data: Path | None = None) -> Verdict:
        """Give the same command, twice where the first time ends badly; compare what is there then."""
        said = []
        for _ in range(2):
            try:
                line = run(self.study, data or self.data, place)
            except Exception:
                return Verdict("traceback", traceback.format_exc(limit=-3))
            if line is None:
                differs = [name for name, digest in digests(place).items() if self.digests.get(name) != digest]
                lost = [name for name in self.digests if not (place / name).is_file()]
                return Verdict("silent", ", ".join(differs + lost)) if differs or lost else Verdict("survived")
            said.append(line)
        return Verdict("dead end", said[-1])


def run(study: Path, data: Path, place: Path) -> str | None:
    """`mdfpipe run`, in this process; the line it ends with where it is not done."""
    executor = Watched(Resources(threads=1))
    try:
        outcome = Runner(Pipeline.load(study), Run(place), data, executor.resources, executor).execute()
    except MdfError as error:
        return str(error)
    if outcome.complete:
        return None
    return "; ".join([*(f"{f.stage}/{f.key}: {f.message}" for f in outcome.failures), *outcome.refused]) or "incomplete"


def digests(place: Path) -> dict[str, str]:
    """Hash of every file of a run but logs, locks and what failed before."""
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    kept = (p for p in files if p.name not in _LOGS and not p.name.startswith(".") and p.parent.name != "failed")
    return {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def flipped(content: bytes, chance: random.Random) -> bytes:
    """One bit flipped."""
    if not content:
        return b"\0"
    place, bit = chance.randrange(len(content)), chance.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
