"""Spawned workers: processes of this machine, which die with their parent. A lost one is replaced for the next unit."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

from mdfpipe.errors import MdfError
from mdfpipe.machine import arrow, devices
from mdfpipe.machine.processes import die_with_parent, interrupts_blocked
from mdfpipe.running.workers import Loss, Step, UnitReport


class Spawned:
    """Up to `size` processes, which stay until `close`.

    names: the devices; worker i has the ith, and after the last the first again, and sees no other GPU. threads: the
    number of threads that libraries use in a worker; None: their default.
    """

    tries = 1  # what ends a process of this machine ends it again
    poll_seconds = 0.5
    sources = ()

    def __init__(self, size: int, names: Sequence[str] = (devices.CPU,), threads: int | None = None) -> None:
        self.size, self.names, self.threads = size, names, threads
        self.present: list[SpawnedWorker] = []

    def look(self, wanted: int) -> Sequence[UnitReport]:
        """As many workers as there are units, up to `size`."""
        while len(self.present) < min(self.size, wanted):
            self.present.append(SpawnedWorker(self.names[len(self.present) % len(self.names)], self.threads))
        return ()

    def close(self) -> None:
        """End them all."""
        for worker in self.present:
            worker.kill()


class SpawnedWorker:
    """One spawned process and the pipe to it. unit: what it works at."""

    def __init__(self, device: str, threads: int | None = None) -> None:
        self.device, self.threads = device, threads
        self.unit: tuple[Any, ...] | None = None
        self.process: Any = None
        self.connection: Connection
        self.silent_seconds = 0.0

    def give(self, function: Callable[..., Any], unit: tuple[Any, ...]) -> UnitReport:
        """Let the process do a unit. A dead process is replaced first."""
        if self.process is None or not self.process.is_alive():
            self._start()
        self.unit, self.silent_seconds = unit, 0.0
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died just now: hear() will report it
            self.connection.send((function, unit))
        return UnitReport(Step.BEGUN, unit, self.device)

    @property
    def source(self) -> Connection:
        """Its pipe."""
        return self.connection

    def hear(self) -> list[UnitReport]:
        """The next report of a process that has something to report."""
        assert self.unit is not None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            return [self._lost(f"its process ended unexpectedly ({_how_it_ended(code)})", code)]
        self.silent_seconds, unit = 0.0, self.unit
        if kind is not Step.TOLD:
            self.unit = None
        return [UnitReport(kind, unit, value)]

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

    def terminate(self) -> None:
        """Ask the process to save its state and end."""
        if self.process is not None:
            self.process.terminate()

    def join(self, seconds: float) -> None:
        """Wait so long for its end."""
        if self.process is not None:
            self.process.join(seconds)

    def kill(self) -> None:
        """End the process at once."""
        self.unit = None
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        try:
            ours, theirs = context.Pipe()
            with theirs:
                process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
                wanted = (worker_environment(self.threads) if self.threads else {}) | devices.environment(self.device)
                with _environment(wanted), interrupts_blocked():
                    process.start()
        except OSError as error:
            raise MdfError(
                f"a worker process cannot be started: {error.strerror}; try fewer workers, or raise the limits of "
                "processes, open files and memory (ulimit -u, -n, -v)"
            ) from error
        self.connection, self.process = ours, process  # only one that was started can be killed


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
    arrow.leave_pandas_out()
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
