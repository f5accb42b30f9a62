"""A small study with every stage, what it left, and how a damaged copy of it is judged."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mdfpipe.errors import MdfError
from mdfpipe.machine import stopping
from mdfpipe.running import runner
from mdfpipe.running.execution import Event, Unit
from mdfpipe.running.runner import Runner
from mdfpipe.running.synthesis import synthesise
from mdfpipe.stages import Resources
from mdfpipe.store import lock
from mdfpipe.store.run import Failure, Run, read_receipt
from mdfpipe.study.study import Study
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
SECONDS = 60  # of a processor, for one case
MEMORY = 6 << 30  # bytes of address space of a case beyond what is taken already
_LOGS = ("events.jsonl", "environment.json", "metrics.jsonl", "traceback.txt")  # times, speeds, this machine
_NO_RESULT = (".damaged", "state.jsonl")  # ends of names: what was set aside, and the log of a training that was cut


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
                raise _Unforeseen(" | ".join(event.failure.traceback.splitlines()[-6:]))
            yield event


class _Unforeseen(Exception):  # noqa: N818
    pass


@dataclass(frozen=True)
class Small:
    """The study's file, its data and a finished run; digests: of every file that should be the same again.

    cut: the same, with a training that was cut off, and a video that failed.
    """

    folder: Path
    study: Path
    data: Path
    done: Path
    cut: Path
    digests: dict[str, str]

    @classmethod
    def make(cls, folder: Path) -> Small:
        """Draw the data and run the study once."""
        study, data = folder / "study.yaml", folder / "data"
        study.write_text(STUDY)
        synthesise(data, "tiny", workers=1)
        return cls.of(folder, study, data)

    @classmethod
    def of(cls, folder: Path, study: Path, data: Path) -> Small:
        """Run a study once, and once until its training is over."""
        import torch

        torch.set_num_threads(1)  # a forked process has none of the others, and would wait for them
        lock.LEASE, lock.LOOK = 0.2, 0.02  # seconds; of an owner of whom nothing can be told
        done = folder / "done"
        outcome = run(study, data, done)
        assert outcome is None, outcome
        small = cls(folder, study, data, done, folder / "cut", digests(done))
        small._cut_off()
        return small

    def _cut_off(self) -> None:
        place = self.copy()
        shutil.rmtree(place / "train")
        forked(lambda: _until_trained(self.study, self.data, place))
        part = sorted((place / "detect").glob("*.parquet"))[-1]
        part.unlink()
        key = part.stem.replace("__", "/")
        Run(place).record_failure(Failure("detect", key, "DataError", "it did not decode"))
        place.rename(self.cut)
        assert list(self.cut.rglob("state.pt")), "the training left no state"

    def copy(self, of: Path | None = None, place: Path | None = None) -> Path:
        """A copy of a run, by default the finished one, its files linked where nothing writes in place."""
        place, of = place or self.folder / "case", of or self.done
        shutil.rmtree(place, ignore_errors=True)
        for path in sorted(of.rglob("*")):
            target = place / path.relative_to(of)
            if path.is_dir():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.name in _LOGS or path.name.startswith((".lock", "state.")):
                shutil.copyfile(path, target)
            else:
                os.link(path, target)
        return place

    def others(self, place: Path) -> list[str]:
        """The files of a copy that are not what the finished run has, and those that are gone."""
        now = digests(place)
        return [name for name, digest in self.digests.items() if now.get(name) != digest]

    def judge(self, place: Path) -> Verdict:
        """Give the same command, twice where the first time ends badly; compare what is there then."""
        said = []
        for _ in range(2):
            line = run(self.study, self.data, place)
            if line is None:
                return self.compared(place)
            said.append(line)
        return Verdict("dead end", said[-1])

    def compared(self, place: Path) -> Verdict:
        """Whether a run that says it is done holds what the finished one does."""
        now = digests(place)
        differs = [name for name, digest in now.items() if self.digests.get(name) != digest]
        differs = [name for name in differs if not self._holds_the_same(place, name)]
        lost = [name for name in self.digests if name not in now]
        return Verdict("silent", ", ".join(differs + lost)) if differs or lost else Verdict("survived")

    def _holds_the_same(self, place: Path, name: str) -> bool:
        """Whether a training's part differs in what it says of its way, such as of a state that was set aside."""
        if not name.endswith("/training.parquet"):
            return False
        made, now = (read_receipt(home / name) for home in (self.done, place))
        return made is not None and now is not None and made.content == now.content


def _until_trained(study: Path, data: Path, place: Path) -> None:
    """Run, and end as by a kill where the training is over and not yet committed."""
    commit = Run.commit

    def killed(self: Run, receipt: Any, *more: Any) -> Any:
        if receipt.stage.startswith("train/"):
            os._exit(1)
        return commit(self, receipt, *more)

    setattr(Run, "commit", killed)  # noqa: B010 - mypy takes no other function for a method
    run(study, data, place)


def run(study: Path, data: Path, place: Path) -> str | None:
    """`mdfpipe run`, in this process; the line it ends with where it is not done."""
    executor = Watched(Resources(threads=1))
    try:
        outcome = Runner(Study.load(study), Run(place), data, executor.resources, executor).execute()
    except MdfError as error:
        return str(error)
    if outcome.complete:
        return None
    return "; ".join([*(f"{f.stage}/{f.key}: {f.message}" for f in outcome.failures), *outcome.refused]) or "incomplete"


def command(*words: object, both: bool = False) -> tuple[int, str]:
    """`mdfpipe WORDS`, in a process that prints nothing else: the exit code, and what its error stream has.

    both: with what it printed.
    """
    from mdfpipe.cli import main

    with Path(os.environ.get("TMPDIR", "/tmp"), f"faults-{os.getpid()}").open("w+b") as said:  # noqa: S108
        Path(said.name).unlink()
        os.dup2(said.fileno(), 2)
        os.dup2(said.fileno() if both else os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        sys.argv = ["mdfpipe", *map(str, words)]
        stopping.listen = lambda: None
        vars(runner)["executor_of"] = Watched
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        sys.stdout.flush()
        said.seek(0)
        return code if isinstance(code, int) else 1, said.read().decode(errors="backslashreplace")


def forked(act: Callable[[], Any], seconds: int = SECONDS, memory: int = MEMORY) -> tuple[Any, str]:
    """What `act` gives in a process of its own; or None, and how that process ended."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(ours)
        signal.alarm(4 * seconds)  # of the clock, on a machine that may have other things to do
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        try:
            found = act()
        except BaseException:
            found = Verdict("traceback", traceback.format_exc(limit=-4)[-1500:])
        with os.fdopen(theirs, "wb") as pipe:
            pipe.write(pickle.dumps(found))
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        data = pipe.read()
    number = os.WTERMSIG(os.waitpid(child, 0)[1])
    if data:
        return pickle.loads(data), ""  # noqa: S301 - our own bytes
    late = number in (signal.SIGALRM, signal.SIGXCPU)
    return None, f"no answer in {seconds} s" if late else signal.Signals(number or 9).name


def in_child(act: Callable[[], Verdict]) -> Verdict:
    """The verdict of a process of its own, which may hang, crash or take all memory."""
    found, ended = forked(act)
    return found if isinstance(found, Verdict) else Verdict("traceback", f"the process ended: {ended}")


def digests(place: Path) -> dict[str, str]:
    """Hash of every file of a run but logs, locks, reports, what failed before, and indexes, which hold times."""
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    kept = (
        path
        for path in files
        if path.name not in _LOGS
        and not path.name.startswith(".")
        and not path.name.endswith(_NO_RESULT)
        and not {"failed", "report", ".receipts"} & set(path.relative_to(place).parts)
    )
    return {path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def flipped(content: bytes, chance: random.Random) -> bytes:
    """One bit flipped."""
    if not content:
        return b"\0"
    place, bit = chance.randrange(len(content)), chance.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
