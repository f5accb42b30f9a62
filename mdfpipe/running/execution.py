"""Where units of work run: in the workers of a crew, or in all processes of `torchrun` together.

One interface: `Executor.run(units)` yields events. A batch system behind the same interface would submit `run_unit`
for each unit.
"""

from __future__ import annotations

import errno
import math
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

from mdfpipe.errors import (
    ConfigError,
    Damaged,
    DataError,
    MdfError,
    MissingDependency,
    StoreError,
    cannot_write,
    one_line,
)
from mdfpipe.learning import gpus
from mdfpipe.learning.train import together
from mdfpipe.machine import devices
from mdfpipe.running.crew import Crew
from mdfpipe.running.workers import Step
from mdfpipe.running.workers.spawned import Spawned
from mdfpipe.stages import TO_BE_MADE, Context, Inputs, Made, Resources, Stage
from mdfpipe.stages.crop import Crop
from mdfpipe.stages.detect import Detect
from mdfpipe.stages.label import Label
from mdfpipe.stages.shared_pass import SharedPass
from mdfpipe.store.run import DAMAGED, Failure, Receipt
from mdfpipe.store.trust import trusting
from mdfpipe.store.urls import is_url
from mdfpipe.store.video_cache import VideoCache, called

_SHARES_OF_A_WORKER = 12  # the last ones to end leave the others idle for a twelfth of the time at most
LATE_SECONDS = 60.0  # a client of NFS may take so long to see a file that another machine made


@dataclass(frozen=True, eq=False)
class Unit:
    """One stage of one video (or of the whole run): all that a process needs to do it.

    share: (number, of) of a share of the work, which is kept for the unit that commits the part; None: all of it.
    then: units of later stages of the same video that the same process does next, each if all before it are done, and
    only if its part is not what it should be by then: their receipts lack the content of the parts before them.
    """

    stage: Stage
    receipt: Receipt
    inputs: Inputs
    data: Path
    share: tuple[int, int] | None = None
    then: tuple[Unit, ...] = ()

    @property
    def key(self) -> str:
        """The video_id, or the name of the run-level table."""
        return self.receipt.key

    def expected(self) -> Receipt:
        """The receipt, with the content of those parts of its video that were made since it was planned."""
        due = (name for name, content in self.receipt.upstream.items() if content == TO_BE_MADE)
        made = {name: found.content for name in due if (found := self.inputs.run.receipt(name, self.key))}
        return replace(self.receipt, upstream=self.receipt.upstream | made)

    def __str__(self) -> str:
        return "+".join(unit.stage.name for unit in (self, *self.then)) + f"/{self.key}"


EventKind: TypeAlias = Literal[
    "stage", "started", "progress", "finished", "failed", "fatal", "damaged",
    "again", "joined", "left", "refused", "waiting"
]  # fmt: skip
_OF_WORKERS: dict[Step, EventKind] = {
    Step.JOINED: "joined",
    Step.LEFT: "left",
    Step.REFUSED: "refused",
    Step.WAITING: "waiting",
}


@dataclass(frozen=True)
class Event:
    """What happened. kind: stage (it begins; total: its units that are due), started, progress, finished or failed (a
    unit), fatal (the run must stop), damaged (an input of the unit; damaged: stage and key of that part, which is due).
    device: where a unit starts, such as cuda:1. Kinds with joined workers: again (the unit of a lost worker waits for
    another), joined, left, refused (a process may not be a worker), waiting (there is no worker). worker: its name,
    which is the key where there is no unit. words: why; of a stage, what makes it slow; of a unit that is finished,
    why its video was decoded again. A share of a unit ends with `progress` that has seconds.
    """

    kind: EventKind
    stage: str
    key: str
    done: int = 0
    total: int | None = None
    rows: int = 0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    damaged: tuple[str, str] | None = None
    device: str = ""
    worker: str = ""
    words: str = ""


class Executor(Protocol):
    """Runs units and yields their events in order. A context: leaving it ends its work.

    leads: whether this process plans, locks and commits; a process that does not lead follows.
    """

    @property
    def leads(self) -> bool:
        """Whether this process does the planning."""

    def follow(self) -> None:
        """Do a share of each unit of the leading process, until that ends."""

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run every unit; each one started is finished or failed in the end, unless `fatal` ends it all."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...


def run_unit(unit: Unit, resources: Resources, tell: Callable[[Event], None]) -> Event:
    """Do a unit, and those after it, in this process, and commit each part; the event that ends the last one.

    tell: receives the progress, and the ends of all but the last. Where detect, label and crop are done one after the
    other, the video is decoded once. A first part that a lost worker has committed stays as it is.
    """
    if not unit.then:
        return _run_one(unit, resources, tell)
    with ExitStack() as stack:
        shared = _shared(unit, resources, stack)
        event = _made_before(unit) or _run_one(unit, resources, tell, shared)
        for later in unit.then:
            if event.kind != "finished":
                break
            if (following := _following(later)) is not None:
                tell(event)
                tell(Event("started", later.stage.name, later.key))
                event = _run_one(following, resources, tell, shared)
                if shared and isinstance(later.stage, Crop) and event.kind == "finished":
                    event = replace(event, words=shared.again)
        return event


def _made_before(unit: Unit) -> Event | None:
    """The end of a unit whose part is what it should be; None of one that is to be done."""
    found = unit.inputs.run.receipt(unit.stage.name, unit.key)
    if found is None or _following(unit) is not None:
        return None
    return Event("finished", unit.stage.name, unit.key, rows=sum(found.facts["rows"].values()), facts=found.facts)


def _following(unit: Unit) -> Unit | None:
    """The unit, now that the parts before it are made; None where its own part is what it should be."""
    run, expected = unit.inputs.run, unit.expected()
    found = run.receipt(unit.stage.name, unit.key)
    is_made = found is not None and unit.stage.same(found, expected) and run.files_in_place(found) is None
    return None if is_made and run.failure(unit.stage.name, unit.key) is None else replace(unit, receipt=expected)


def _shared(unit: Unit, resources: Resources, stack: ExitStack) -> SharedPass | None:
    """Where crops are cut during detect, if these units are detect, label and crop."""
    by_name = {one.stage.name: one for one in (unit, *unit.then)}
    label, crop = (by_name.get(name) for name in ("label", "crop"))
    if not (isinstance(unit.stage, Detect) and label and crop):
        return None
    assert isinstance(label.stage, Label)
    assert isinstance(crop.stage, Crop)
    context = stack.enter_context(_context(crop, resources))
    return stack.enter_context(SharedPass(unit.key, label.stage, crop.stage, crop.inputs, context))


def _run_one(
    unit: Unit, resources: Resources, tell: Callable[[Event], None], shared: SharedPass | None = None
) -> Event:
    """Do one unit and commit its part; `tell` receives its progress."""
    run, stage, key = unit.inputs.run, unit.stage, unit.key
    started = time.monotonic()
    told, one_at_a_time = started - 1.0, threading.Lock()

    def progress(done: int, total: int | None) -> None:
        nonlocal told
        run.check_lock()
        with one_at_a_time:  # a stage may show life from threads of its own
            if time.monotonic() - told >= 0.1:
                told = time.monotonic()
                tell(Event("progress", stage.name, key, done, total))

    if unit.share is not None:
        with suppress(Exception), _context(unit, resources, progress) as context, trusting(resources.trust_pickle):
            _made(unit, context)  # what is wrong with it, the unit that joins the shares meets and reports
        return Event("progress", stage.name, key, seconds=time.monotonic() - started)
    try:
        before = run.state(stage.name, key)
        with _context(unit, resources, progress) as context:
            context = replace(context, shared=shared)
            with trusting(resources.trust_pickle):
                made = _made(unit, context)
            if not made.table.schema.equals(stage.schema):
                raise TypeError(f"stage {stage.name} made {made.table.schema}, its schema is {stage.schema}")
            receipt = replace(stage.decided(unit.receipt, made.facts), facts=made.facts, tells=stage.tells)
            run.commit(receipt, made.table, made.files, since=before)
            _remove(made.spent)
    except Damaged as error:
        failure = Failure(stage.name, key, DAMAGED, str(error))
        if error.run is not None and error.run.absolute() == run.path.absolute():
            damaged = (error.stage, error.key)  # a part, which is made again; then this unit is tried again
            return Event("damaged", stage.name, key, failure=failure, damaged=damaged)
        kind: EventKind = "fatal"
        if error.run is not None:  # whose crops this training takes, too
            failure = replace(failure, kind="DataError", message=f"{error} in {error.run}, with its own study")
            kind = "failed"
    except Exception as error:
        kind, failure = _what_failed(unit, error)
    else:
        seconds = time.monotonic() - started
        return Event("finished", stage.name, key, rows=made.table.num_rows, seconds=seconds, facts=made.facts)
    if kind == "failed":
        with suppress(StoreError):
            run.record_failure(failure)
    return Event(kind, stage.name, key, seconds=time.monotonic() - started, failure=failure)


def run_together(unit: Unit, resources: Resources, tell: Any) -> Event:
    """The same of a training in this process, the first under `torchrun`, and in all others, which `follow` it."""
    if not unit.stage.together:
        return run_unit(unit, resources, tell)
    together.connect(resources.device)
    together.tell(unit)
    return run_unit(unit, resources, tell)


@contextmanager
def _context(
    unit: Unit, resources: Resources, progress: Callable[[int, int | None], None] = lambda done, total: None
) -> Iterator[Context]:
    """Where a unit runs. At its end, files that were not committed are removed: they take up the disk."""
    scratch: list[Path] = []

    def place(name: str) -> Path:
        scratch.append(unit.inputs.run.scratch(unit.stage.name, name))
        return scratch[-1]

    try:
        yield Context(unit.data, resources, place, progress)
    finally:
        _remove(scratch)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _made(unit: Unit, context: Context) -> Made:
    """What the stage makes of the unit. Raises DataError where its video was replaced before or meanwhile."""
    stage, inputs = unit.stage, unit.inputs
    process = stage.process
    if unit.share is not None:
        process = partial(stage.process_share, number=unit.share[0], of=unit.share[1])
    if "media" not in stage.reads:
        return process(unit.key, inputs, context)
    url = inputs.video.get("path", "")
    if is_url(url) and not inputs.video["problem"]:
        size = inputs.video["n_frames"]
        with (
            VideoCache().at(
                url, inputs.video["stamp"], inputs.video["sha256"], lambda _: context.progress(0, size)
            ) as place,
            called(place, url),
        ):
            return process(unit.key, replace(inputs, place=place), context)
    inputs.check_media(unit.data)
    try:
        made = process(unit.key, inputs, context)
    except DataError:  # what it found wrong may be of another file
        inputs.check_media(unit.data)
        raise
    inputs.check_media(unit.data)
    return made


def _what_failed(unit: Unit, error: Exception) -> tuple[EventKind, Failure]:
    """("failed", why) for a trouble of this video, ("fatal", why) for one that the next video has, too."""
    kind: EventKind = "failed"
    message, trace = one_line(error), ""
    if isinstance(error, ConfigError) and unit.stage.together:
        pass  # of one training: others may be sound
    elif isinstance(error, (StoreError, ConfigError, MissingDependency)):
        kind = "fatal"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        kind, message = "fatal", cannot_write(unit.inputs.run.path / unit.stage.name, error)
    elif isinstance(error, MemoryError):
        message = "out of memory; try a smaller --batch or fewer --workers"
    elif type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        message = "the GPU is out of memory; try a smaller --batch, or fewer workers a GPU (--per-device)"
    elif isinstance(error, OSError) and error.errno is not None:  # a disk or a server, and no fault of ours
        place = error.filename2 or error.filename or unit.inputs.run.path / unit.stage.name
        message = f"{place}: {error.strerror}; give the same command again once that is mended"
    elif not isinstance(error, MdfError):
        message = f"unexpected error: {type(error).__name__}: {message}"
        trace = "".join(traceback.format_exception(error))
    return kind, Failure(unit.stage.name, unit.key, type(error).__name__, message, trace)


def longest_first(units: Sequence[Unit]) -> list[Unit]:
    """The units in the order of their frames, so that no long video is left for the end; else in the given order."""
    frames = _frames(units)
    return sorted(units, key=frames, reverse=True)


def _frames(units: Sequence[Unit]) -> Callable[[Unit], float]:
    """How many frames a unit has. Where a header declares none, the bytes tell, at the mean of the others."""
    videos = [unit.inputs.video for unit in units]
    known = [(v["bytes"], v["n_frames"]) for v in videos if v.get("bytes") and v.get("n_frames")]
    frame_bytes = sum(size for size, _ in known) / sum(frames for _, frames in known) if known else 1.0

    def frames(unit: Unit) -> float:
        video = unit.inputs.video
        of_all = float(video.get("n_frames") or (video.get("bytes") or 0) / frame_bytes)
        return of_all / (unit.share[1] if unit.share else 1)

    return frames


def in_shares(units: Sequence[Unit], workers: int) -> tuple[list[Unit], list[Unit]]:
    """The units to do first, and those to do then, each the longest first.

    A video that is much of a worker's work is done in shares first; then one worker joins them.
    """
    frames, first, then = _frames(units), list[Unit](), list[Unit]()
    for unit, wanted in zip(units, wanted_shares(list(map(frames, units)), workers), strict=True):
        count = min(wanted, unit.stage.shares(unit.inputs.video)) if wanted > 1 else 1
        if count == 1:
            first.append(unit)
            continue
        first += [replace(unit, share=(number, count), then=()) for number in range(count)]
        then.append(unit)
    return longest_first(first), longest_first(then)


def wanted_shares(frames: Sequence[float], workers: int) -> list[int]:
    """Into how many shares videos of so many frames are cut, so that none is much of a worker's work.

    >>> wanted_shares([2400, 100], 2)
    [24, 1]
    """
    fair = sum(frames) / (max(workers, 1) * _SHARES_OF_A_WORKER)
    return [max(math.ceil(count / fair), 1) if fair and workers > 1 else 1 for count in frames]


def executor_of(resources: Resources) -> Executor:
    """Where this command's units run: on this machine's workers; trainings, under `torchrun`, in all its processes."""
    return TogetherExecutor(resources) if together.processes() > 1 else LocalExecutor(resources)


class LocalExecutor:
    """Spawned workers on this machine; they stay for the stages that follow.

    resources: `device` is as a worker sees its own.
    """

    def __init__(self, resources: Resources) -> None:
        """Raises ConfigError where devices and workers contradict each other."""
        self.names = devices.named(resources.device)
        self.resources = replace(resources, device=devices.own(self.names[0]))
        known = 0 if self.names == (devices.ALL,) else devices.size(self.names, resources.workers, resources.per_device)
        self.spawned = Spawned(known, threads=resources.threads)
        self.crew = Crew(
            self.spawned,
            deadline_seconds=resources.deadline_seconds,
            saves=lambda unit, resources: unit.stage.together,
        )

    @property
    def leads(self) -> bool:
        """Always."""
        return True

    def follow(self) -> None:
        """Nothing: no other process leads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.crew.__exit__(*error)

    @cached_property
    def _here(self) -> tuple[tuple[str, ...], int]:
        """The devices, and the number of workers. It costs an import of torch, so it waits for a unit that is due."""
        names = devices.present(self.names, gpus.count)
        return names, devices.size(names, self.resources.workers, self.resources.per_device)

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units, the longest first. Raises ConfigError, before the first one, where a device is not here."""
        if not (waiting := list(units)):
            return
        self.spawned.names, self.spawned.size = self._here
        # A training takes what memory its GPU has, so that each GPU has one at a time.
        is_trained = waiting[0].stage.together and self.spawned.names[0] != devices.CPU
        at_once = len(self.spawned.names) if is_trained else len(waiting)
        for begin in range(0, len(waiting), at_once):
            yield from self._in_shares(waiting[begin : begin + at_once], self.spawned.size)

    def _in_shares(self, units: Sequence[Unit], workers: int) -> Iterator[Event]:
        """What becomes of the units, of long videos in shares first."""
        for some in in_shares(units, workers):
            if some:
                ended = yield from self._events([(unit, self.resources) for unit in some])
                if ended:
                    return

    def _events(self, waiting: list[tuple[Unit, Resources]]) -> Generator[Event, None, bool]:
        """What the crew reports, as events; whether one of them ends all."""
        watch = waiting[0][0].inputs.run.check_lock  # a worker that is deep in a step does not look itself
        done: dict[str, int] = {}
        late: list[tuple[Unit, Event, float]] = []
        at: dict[str, Unit] = {}  # by key: what a process is at, beyond the first stage
        with closing(self.crew.run(run_unit, waiting, watch)) as reports:
            for report in reports:
                kind, _, value, worker = report
                if not report.unit:
                    yield Event(_OF_WORKERS[kind], "", worker, words=value)
                    continue
                unit: Unit = report.unit[0]
                if kind is Step.BEGUN:
                    event = Event("started", unit.stage.name, unit.key, device=value, worker=worker)
                elif kind is Step.FAILED:
                    raise value
                elif kind is Step.AGAIN:
                    event = Event("again", unit.stage.name, unit.key, words=value.words, worker=worker)
                elif kind is Step.LOST and unit.share is not None:  # the unit that joins the shares does it
                    event = Event("progress", unit.stage.name, unit.key)
                elif kind is Step.LOST:
                    made = at.get(unit.key, unit)
                    event = _lost(made, value.words, done.get(unit.key, 0), _MORE_TIME if value.left else "")
                else:
                    event = replace(value, worker=worker) if worker else value
                    done[unit.key] = event.done or done.get(unit.key, 0)
                    if event.kind == "started":  # the next stage of this video
                        at[unit.key] = next(one for one in unit.then if one.stage.name == event.stage)
                        done.pop(unit.key)
                made = next((one for one in (unit, *unit.then) if one.stage.name == event.stage), unit)
                if event.kind == "finished" and not self.sees(made):
                    late.append((made, event, time.monotonic()))
                else:
                    yield event
                if event.kind == "fatal":
                    return True
                yield from self._arrived(late)
        while late:
            watch()
            time.sleep(0.1)
            yield from self._arrived(late)
        return False

    def sees(self, unit: Unit) -> bool:
        """Whether this process sees the part that a worker says it has committed. By default it does."""
        return True

    def _arrived(self, late: list[tuple[Unit, Event, float]]) -> Iterator[Event]:
        """The ends of units whose parts are visible by now, and of those that do not become so."""
        for entry in list(late):
            unit, event, since = entry
            if self.sees(unit):
                late.remove(entry)
                yield event
            elif time.monotonic() - since > LATE_SECONDS:
                late.remove(entry)
                place = unit.inputs.run.part(unit.stage.name, unit.key)
                yield _lost(
                    unit,
                    f"{event.worker} says that it has committed {place}, which is not visible here after "
                    f"{LATE_SECONDS:g} s; expected one file system that both machines share",
                    0,
                )


class TogetherExecutor(LocalExecutor):
    """Under `torchrun`: the first process leads, its workers do the videos; all processes do each training together.

    The others only follow: they have no plan, take no lock and commit nothing. A unit that fails ends them all, because
    it is unknown which of them still waits for the others.
    """

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        trained_on = tuple(f"cuda:{number}" for number in range(together.local_processes()))
        if self.names not in ((devices.CPU,), (devices.ALL,), trained_on[:1], trained_on):
            raise ConfigError(
                f"--device {resources.device}: under torchrun, process N of a machine trains on cuda:N; name the GPUs "
                "in CUDA_VISIBLE_DEVICES, and give --device cuda"
            )
        self.listen: Callable[[Event], None] = lambda event: None  # gets the progress of what runs in this process

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return together.rank() == 0

    def __enter__(self) -> Self:
        together.connect(self.resources.device)
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self.leads and error[0] is None:
            together.tell(None)
        together.part()

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units; of a stage that is done together, one after the other in all processes."""
        waiting = list(units)
        yield from super().run([unit for unit in waiting if not unit.stage.together])
        for unit in waiting:
            if unit.stage.together:
                yield Event("started", unit.stage.name, unit.key, device=",".join(self.names))
                together.tell(unit)
                event = run_unit(unit, self.resources, self.listen)
                yield event if event.kind == "finished" else replace(event, kind="fatal")

    def follow(self) -> None:
        """Do what the first process tells, until it has no more."""
        while (unit := together.hear()) is not None:
            with _context(unit, self.resources) as context:
                unit.stage.process(unit.key, unit.inputs, context)


_MORE_TIME = "no job was there long enough for it: ask for more time, or for shorter spans (detect.span_frames)"


def _lost(unit: Unit, what: str, done: int, advice: str = "") -> Event:
    """A unit failed because its worker is gone."""
    stage, run = unit.stage, unit.inputs.run
    run.clear(stage.name)  # what it left unfinished takes up the disk
    where = f" after {stage.unit[:-1]} {done}" if done else ""
    failure = Failure(stage.name, unit.key, "WorkerLost", f"{what}{where}; {advice or _advice(stage)}")
    with suppress(StoreError):
        run.record_failure(failure)
    return Event("failed", stage.name, unit.key, failure=failure)


def _advice(stage: Stage) -> str:
    """What to try where a worker died or hung."""
    if stage.together:
        return (
            "the same command resumes from its last state; try fewer --workers, a smaller batch of the recipe, or a "
            "longer --deadline"
        )
    if stage.unit in ("crops", "images"):
        return "try a smaller --batch, fewer --workers, or a longer --deadline"
    if stage.name == "detect":
        return "try another decoder (detect.decoder.use) or --only with more memory"
    return "try fewer --workers, more memory, or a longer --deadline"
