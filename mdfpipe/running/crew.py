"""Crew: spawned workers, and the loop that gives them units. Every process that mdfpipe starts is one of these.

A unit is the arguments of a function. A worker does one unit at a time, is killed when it hangs, and dies with its
parent. The loop knows no stage and no run folder: `execution` makes events of what it yields, and `each` results.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from enum import Enum
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Self

from mdfpipe.errors import MdfError
from mdfpipe.machine import devices
from mdfpipe.machine.processes import die_with_parent, interrupts_blocked

SAVING_SECONDS = 20.0  # Slurm and Kubernetes kill 30 s after they asked
LONGEST_LOOK_SECONDS = 1.0  # twice what a look at the workers waits


class Step(Enum):
    """What a worker reports of its unit. DONE, FAILED and LOST are its end."""

    BEGUN = "begun"  # value: the device of its worker
    TOLD = "told"  # a sign of life; value: what the function told
    DONE = "done"  # value: the result
    FAILED = "failed"  # value: the error
    LOST = "lost"  # value: a Loss


class UnitReport(NamedTuple):
    """A report on one unit."""

    kind: Step
    unit: tuple[Any, ...]
    value: Any = None


class Loss(NamedTuple):
    """The end of a process that was at work. exitcode: negative for a signal; None if it was killed by its deadline."""

    words: str
    exitcode: int | None


class Crew:
    """Up to `size` workers, which stay until the context ends; a lost one is replaced for the next unit.

    names: the devices; worker i has the ith, and after the last the first again, and sees no other GPU. threads: the
    number of threads that libraries use in a worker; None: their default. deadline_seconds: the longest time without a
    sign of life. saves(*unit): whether a unit that is cut off gets time to save its state.
    """

    def __init__(
        self,
        size: int,
        *,
        names: Sequence[str] = (devices.CPU,),
        threads: int | None = None,
        deadline_seconds: float = math.inf,
        saves: Callable[..., bool] = lambda *unit: False,
    ) -> None:
        self.size, self.names, self.threads = size, names, threads
        self.deadline_seconds, self.saves = deadline_seconds, saves
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end(self.workers)

    def run(
        self, function: Callable[..., Any], units: Iterable[tuple[Any, ...]], watch: Callable[[], None] = lambda: None
    ) -> Generator[UnitReport, None, None]:
        """Call `function(*unit, tell)` for every unit; yield reports as they come.

        function: of a module, because it goes to other processes. watch: called at least twice a second. A caller that
        stops early, by closing the iterator, ends the units at work.
        """
        waiting = list(units)[::-1]
        while len(self.workers) < min(self.size, len(waiting)):
            self.workers.append(Worker(self.names[len(self.workers) % len(self.names)]))
        try:
            for worker in self.workers:
                if waiting:
                    yield worker.give(function, waiting.pop(), self.threads)
            looked = time.monotonic()
            while busy := [worker for worker in self.workers if worker.unit is not None]:
                ready = wait([worker.connection for worker in busy], timeout=0.5)
                watch()
                # the rest of a longer gap is no worker's silence: Ctrl-Z stops all of them, or this process was busy
                passed = min(time.monotonic() - looked, LONGEST_LOOK_SECONDS)
                looked = time.monotonic()
                for worker in busy:
                    is_ready = worker.connection in ready
                    report = worker.hear() if is_ready else worker.overdue(passed, self.deadline_seconds)
                    if report is None:
                        continue
                    yield report
                    if worker.unit is None and waiting:
                        yield worker.give(function, waiting.pop(), self.threads)
        finally:
            self._end([worker for worker in self.workers if worker.unit is not None])

    def _end(self, workers: Iterable[Worker]) -> None:
        """End these processes. A unit that saves is asked to first; all others can be cut off anywhere."""
        asked = [worker for worker in workers if worker.unit is not None and self.saves(*worker.unit)]
        for worker in asked:
            worker.process.terminate()
        until = time.monotonic() + SAVING_SECONDS
        for worker in asked:
            worker.process.join(max(until - time.monotonic(), 0))
        for worker in workers:
            worker.kill()


class Worker:
    """One spawned process and the pipe to it. unit: what it works at."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.unit: tuple[Any, ...] | None = None
        self.process: Any = None
        self.connection: Connection
        self.silent_seconds = 0.0

    def give(self, function: Callable[..., Any], unit: tuple[Any, ...], threads: int | None) -> UnitReport:
        """Let the process do a unit. A dead process is replaced first."""
        if self.process is None or not self.process.is_alive():
            self._start(threads)
        self.unit, self.silent_seconds = unit, 0.0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died just now: hear() will report it
            self.connection.send((function, unit))
        return UnitReport(Step.BEGUN, unit, self.device)

    def hear(self) -> UnitReport:
        """The next report of a process that has something to report."""
        assert self.unit is not None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            return self._lost(f"its process ended unexpectedly ({_how_it_ended(code)})", code)
        self.silent_seconds, unit = 0.0, self.unit
        if kind is not Step.TOLD:
            self.unit = None
        return UnitReport(kind, unit, value)

    def overdue(self, passed: float, deadline_seconds: float) -> UnitReport | None:
        """Kill a process that is silent for the deadline, with these `passed` seconds, and report that it is lost."""
        self.silent_seconds += passed
        if self.silent_seconds < deadline_seconds:
            return None
        return self._lost(f"no sign of progress for {deadline_seconds:g} s (--deadline); its process was killed", None)

    def _lost(self, words: str, exitcode: int | None) -> UnitReport:
        assert self.unit is not None
        report = UnitReport(Step.LOST, self.unit, Loss(words, exitcode))
        self.kill()
        return report

    def kill(self) -> None:
        """End the process at once."""
        self.unit = None
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def _start(self, threads: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            with theirs:
                process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
                wanted = (worker_environment(threads) if threads else {}) | devices.environment(self.device)
                with _environment(wanted), interrupts_blocked():
                    process.start()
        except OSError as error:
            raise MdfError(
                f"a worker process cannot be started: {error.strerror}; try fewer workers, or raise the limits of "
                "processes, open files and memory (ulimit -u, -n, -v)"
            ) from error
        self.connection, self.process = ours, process  # only one that was started can be killed


def each(
    function: Callable[..., Any], units: Iterable[tuple[Any, ...]], tell: Callable[[Any], None], *, workers: int
) -> Iterator[Any]:
    """Yield `function(*unit, tell)` of every unit as it comes, from up to `workers` processes.

    With one worker or one unit, the function is called here. The first unit that fails ends them all: its error is
    raised, MdfError for a lost process. However this ends, no process is left.
    """
    units = list(units)
    if min(workers, len(units)) <= 1:
        for unit in units:
            yield function(*unit, tell)
        return
    with Crew(workers) as crew:
        for kind, _, value in crew.run(function, units):
            if kind is Step.TOLD:
                tell(value)
            elif kind is Step.FAILED:
                raise value
            elif kind is Step.LOST:
                advice = {
                    -signal.SIGKILL: "try fewer workers",
                    1: "a script has to call this under `if __name__ == '__main__':`, or with one worker",
                }.get(value.exitcode, "the same command resumes from here")
                raise MdfError(f"a worker was lost: {value.words}; {advice}")
            elif kind is Step.DONE:
                yield value


def worker_environment(threads: int) -> dict[str, str]:
    """Thread counts, and threads that sleep while they wait: a spinning one takes the core that decoding needs."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Set what libraries read when they load, for a process that is spawned within."""
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name in wanted:
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        names = {known.value: known.name for known in signal.Signals}  # without most of the real-time signals
        name = names.get(-exitcode, f"signal {-exitcode}")
        return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
    return f"exit code {exitcode}"


def _work(connection: Connection, parent: int) -> None:
    """The life of a worker: units in, reports out, until the parent goes."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it kills its workers
    with contextlib.suppress(EOFError, OSError):
        while True:
            function, unit = connection.recv()
            try:
                connection.send((Step.DONE, function(*unit, lambda value: connection.send((Step.TOLD, value)))))
            except Exception as error:  # of the function, or because its result cannot be sent
                connection.send((Step.FAILED, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error as one that can be sent, with its traceback as a note unless it was raised on purpose."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror or str(error), error.filename, None, error.filename2)
    try:
        sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes; some errors do not come back
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, MdfError) or error.__cause__ is not None:
        sent.add_note(trace)
    assert isinstance(sent, Exception)
    return sent
