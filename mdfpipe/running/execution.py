"""Where units of work run: spawned processes that die with their parent and are killed when they hang.

One interface: `Executor.run(units)` gives events. `LocalExecutor` is the one there is; a batch system
behind the same interface would submit `run_unit` for each unit.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, Self

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
from mdfpipe.machine.processes import die_with_parent, interrupts_blocked
from mdfpipe.stages import Context, Inputs, Made, Resources, Stage
from mdfpipe.store.run import DAMAGED, Failure, Receipt
from mdfpipe.store.trust import trusting

SAVING_SECONDS = 20.0  # Slurm and Kubernetes kill 30 s after they asked


@dataclass(frozen=True, eq=False)
class Unit:
    """One stage of one video (or of the whole run): all that a process needs to do it."""

    stage: Stage
    receipt: Receipt
    inputs: Inputs
    data: Path

    @property
    def key(self) -> str:
        """The video_id, or the name of the run-level table."""
        return self.receipt.key

    def __str__(self) -> str:
        return f"{self.stage.name}/{self.key}"


@dataclass(frozen=True)
class Event:
    """What happened: a stage begins (total: its units that are due); a unit started, progress, finished, failed; or
    fatal, the run must stop; or damaged: what it reads is damaged, and the part of that name (stage, key) is due.
    """

    kind: str
    stage: str
    key: str
    done: int = 0
    total: int | None = None
    rows: int = 0
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None
    damaged: tuple[str, str] | None = None


class Executor(Protocol):
    """Runs units and yields their events in order.

    A context: leaving it ends its work. leads: whether this process plans, locks and commits; one that does not
    follows: it does its share of what the leading one tells.
    """

    @property
    def leads(self) -> bool:
        """Whether this process does the planning."""

    def follow(self) -> None:
        """Do a share of each unit that the leading process tells, until it ends."""

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run every unit; each one started is finished or failed in the end, unless `fatal` ends it all."""

    def __enter__(self) -> Executor: ...

    def __exit__(self, *error: object) -> None: ...


def run_unit(unit: Unit, resources: Resources, tell: Any) -> Event:
    """Do one unit in this process and commit its part; `tell(Event)` receives its progress."""
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

    scratch: list[Path] = []

    def place(name: str) -> Path:
        scratch.append(run.scratch(stage.name, name))
        return scratch[-1]

    context = Context(unit.data, resources, place, progress)
    try:
        with trusting(resources.trust_pickle):
            made = _made(unit, context)
        if not made.table.schema.equals(stage.schema):
            raise TypeError(f"stage {stage.name} made {made.table.schema}, its schema is {stage.schema}")
        receipt = replace(stage.decided(unit.receipt, made.facts), facts=made.facts, tells=stage.tells)
        run.commit(receipt, made.table, made.files)
        scratch.extend(made.spent)
    except Damaged as error:
        failure = Failure(stage.name, key, DAMAGED, str(error))
        if error.run is not None and error.run.absolute() == run.path.absolute():
            damaged = (error.stage, error.key)  # a part, which is made again; then this unit is tried again
            return Event("damaged", stage.name, key, failure=failure, damaged=damaged)
        kind = "fatal"
        if error.run is not None:  # whose crops this training takes, too
            failure = replace(failure, kind="DataError", message=f"{error} in {error.run}, with its own study")
            kind = "failed"
    except Exception as error:
        kind, failure = _what_failed(unit, error)
    else:
        seconds = time.monotonic() - started
        return Event("finished", stage.name, key, rows=made.table.num_rows, seconds=seconds, facts=made.facts)
    finally:
        for path in scratch:  # what was committed is no longer there; what a failure left takes up the disk
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    if kind == "failed":
        with contextlib.suppress(StoreError):
            run.record_failure(failure)
    return Event(kind, stage.name, key, seconds=time.monotonic() - started, failure=failure)


def _made(unit: Unit, context: Context) -> Made:
    """What the stage makes of the unit. Raises DataError where its video was replaced before or meanwhile."""
    stage, inputs = unit.stage, unit.inputs
    if "media" not in stage.reads:
        return stage.process(unit.key, inputs, context)
    inputs.check_media(unit.data)
    try:
        made = stage.process(unit.key, inputs, context)
    except DataError:  # what it found wrong may be of another file
        inputs.check_media(unit.data)
        raise
    inputs.check_media(unit.data)
    return made


def _what_failed(unit: Unit, error: Exception) -> tuple[str, Failure]:
    """("failed", why) for a trouble of this video, ("fatal", why) for one that the next video has, too."""
    kind, message, trace = "failed", one_line(error), ""
    if isinstance(error, ConfigError) and unit.stage.together:
        pass  # of one training: others may be sound
    elif isinstance(error, (StoreError, ConfigError, MissingDependency)):
        kind = "fatal"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        kind, message = "fatal", cannot_write(unit.inputs.run.path / unit.stage.name, error)
    elif isinstance(error, MemoryError):
        message = "out of memory; try a smaller --batch or fewer --workers"
    elif isinstance(error, OSError) and error.errno is not None:  # a disk or a server, and no fault of ours
        place = error.filename2 or error.filename or unit.inputs.run.path / unit.stage.name
        message = f"{place}: {error.strerror}; give the same command again once that is mended"
    elif not isinstance(error, MdfError):
        message = f"unexpected error: {type(error).__name__}: {message}"
        trace = "".join(traceback.format_exception(error))
    return kind, Failure(unit.stage.name, unit.key, type(error).__name__, message, trace)


def executor_of(resources: Resources) -> Executor:
    """Where this command's units run: on this machine's workers; trainings, under `torchrun`, in all its processes."""
    from mdfpipe.learning.train.together import processes

    return TogetherExecutor(resources) if processes() > 1 else LocalExecutor(resources)


class TogetherExecutor:
    """Under `torchrun`: the first process leads, its workers do the videos; all processes do each training together.

    The others only follow: they have no plan, take no lock and commit nothing. A unit that fails ends them all, because
    nobody knows which of them still waits for the others.
    """

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.listen: Callable[[Event], None] = lambda event: None  # told the progress of what runs in this very process
        self._local = LocalExecutor(resources)

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        from mdfpipe.learning.train.together import rank

        return rank() == 0

    def __enter__(self) -> Self:
        from mdfpipe.learning.train.together import connect

        connect(self.resources.device)
        return self

    def __exit__(self, *error: object) -> None:
        from mdfpipe.learning.train.together import part, tell

        self._local.__exit__(*error)
        if self.leads and error[0] is None:
            tell(None)
        part()

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units; of a stage that is done together, one after the other in all processes."""
        from mdfpipe.learning.train.together import tell

        waiting = list(units)
        yield from self._local.run([unit for unit in waiting if not unit.stage.together])
        for unit in waiting:
            if unit.stage.together:
                yield Event("started", unit.stage.name, unit.key)
                tell(unit)
                event = run_unit(unit, self.resources, self.listen)
                yield event if event.kind == "finished" else replace(event, kind="fatal")

    def follow(self) -> None:
        """Do what the first process tells, until it has no more."""
        from mdfpipe.learning.train.together import hear

        while (unit := hear()) is not None:
            scratch: list[Path] = []

            def place(name: str, unit: Unit = unit, scratch: list[Path] = scratch) -> Path:
                scratch.append(unit.inputs.run.scratch(unit.stage.name, name))
                return scratch[-1]

            try:
                unit.stage.process(unit.key, unit.inputs, Context(unit.data, self.resources, place))
            finally:
                for path in scratch:
                    path.unlink(missing_ok=True)


class LocalExecutor:
    """Spawned workers on this machine, each doing one unit at a time; they stay for the stages that follow."""

    leads = True

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self._workers: list[_Worker] = []

    def follow(self) -> None:
        """Nobody else leads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        _end(self._workers)

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units on up to `resources.workers` processes."""
        waiting = list(units)[::-1]
        while len(self._workers) < min(self.resources.workers, len(waiting)):
            self._workers.append(_Worker(self.resources))
        try:
            for worker in self._workers:
                if waiting:
                    yield worker.give(waiting.pop())
            while busy := [w for w in self._workers if w.unit]:
                ready = wait([w.connection for w in busy], timeout=0.5)
                if busy[0].unit is not None:
                    busy[0].unit.inputs.run.check_lock()  # a worker that is deep in a step does not look itself
                for worker in busy:
                    event = worker.hear() if worker.connection in ready else worker.overdue()
                    if event is None:
                        continue
                    yield event
                    if event.kind == "fatal":
                        return
                    if worker.unit is None and waiting:
                        yield worker.give(waiting.pop())
        finally:
            _end([worker for worker in self._workers if worker.unit is not None])


def _end(workers: Iterable[_Worker]) -> None:
    """End these processes: a training is asked to save its state first, all others can be cut off anywhere."""
    asked = [worker for worker in workers if worker.ask_to_save()]
    until = time.monotonic() + SAVING_SECONDS
    for worker in asked:
        worker.process.join(max(until - time.monotonic(), 0))
    for worker in workers:
        worker.kill()


class _Worker:
    """One process and the pipe to it; replaced by a fresh one when it dies or hangs."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.unit: Unit | None = None
        self.process: Any = None
        self.last_sign = 0.0
        self.last_done = 0

    def give(self, unit: Unit) -> Event:
        if self.process is None or not self.process.is_alive():
            self._start()
        self.unit, self.last_sign, self.last_done = unit, time.monotonic(), 0
        with contextlib.suppress(BrokenPipeError):  # it died just now: hear() will say so
            self.connection.send(unit)
        return Event("started", unit.stage.name, unit.key)

    def hear(self) -> Event | None:
        assert self.unit is not None
        try:
            event: Event = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            return self._lost(f"its process ended unexpectedly ({_how_it_ended(self.process.exitcode)})")
        self.last_sign = time.monotonic()
        self.last_done = event.done or self.last_done
        if event.kind != "progress":
            self.unit = None
        return event

    def overdue(self) -> Event | None:
        if time.monotonic() - self.last_sign < self.resources.deadline_seconds:
            return None
        self.process.kill()
        seconds = f"{self.resources.deadline_seconds:g} s"
        return self._lost(f"no sign of progress for {seconds} (--deadline); its process was killed")

    def _lost(self, what: str) -> Event:
        assert self.unit is not None
        unit, self.unit = self.unit, None
        self.kill()
        unit.inputs.run.clear(unit.stage.name)  # what it left unfinished takes up the disk
        where = f" after {unit.stage.unit[:-1]} {self.last_done}" if self.last_done else ""
        failure = Failure(unit.stage.name, unit.key, "WorkerLost", f"{what}{where}; {_advice(unit.stage)}")
        with contextlib.suppress(StoreError):
            unit.inputs.run.record_failure(failure)
        return Event("failed", unit.stage.name, unit.key, failure=failure)

    def ask_to_save(self) -> bool:
        """Whether there is a training here; it gets a signal to save its state and end."""
        if self.unit is None or not self.unit.stage.together or self.process is None:
            return False
        self.process.terminate()
        return True

    def kill(self) -> None:
        self.unit = None
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with _environment(self.resources.threads), interrupts_blocked():
            self.process = context.Process(target=_work, args=(theirs, os.getpid(), self.resources), daemon=True)
            self.process.start()
        theirs.close()


def _advice(stage: Stage) -> str:
    """What to try where a worker died or hung."""
    if stage.together:
        return "the same command resumes from its last state; try a smaller batch of the recipe, or a longer --deadline"
    if stage.unit in ("crops", "images"):
        return "try a smaller --batch, fewer --workers, or a longer --deadline"
    if stage.name == "detect":
        return "try another decoder (detect.decoder.use) or --only with more memory"
    return "try fewer --workers, more memory, or a longer --deadline"


def worker_environment(threads: int) -> dict[str, str]:
    """Thread counts, and threads that sleep while they wait: a spinning one takes the core that decoding needs."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Set what libraries read when they load, in the environment of the process to be spawned."""
    wanted = worker_environment(threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exitcode}"


def _work(connection: Connection, parent: int, resources: Resources) -> None:
    """The life of a worker: units in, events out, until the parent goes."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills its workers
    with contextlib.suppress(EOFError, OSError):
        while True:
            unit: Unit = connection.recv()
            connection.send(run_unit(unit, resources, connection.send))
