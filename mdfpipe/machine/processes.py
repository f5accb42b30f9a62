"""Worker processes that end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from mdfpipe.errors import MdfError


@dataclass(frozen=True)
class Copies:
    """A launcher started this command several times. number: which of them this process is, from 0.

    variable: without it in the environment, this process counts as started once.
    """

    launcher: str
    count: int
    number: int
    variable: str


# launcher, count, number, variable: what each sets in the processes that it starts, and nowhere else. Slurm sets
# SLURM_NTASKS and SLURM_PROCID in a batch script, too, which runs once; SLURM_PTY_PORT where a person types.
_LAUNCHERS = (
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
    ("srun", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun", "PMI_SIZE", "PMI_RANK", "PMI_SIZE"),
    ("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
)


def copies() -> Copies | None:
    """How often srun or mpirun started this very command; None where once, or where `torchrun` did it."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return None
    for launcher, count, number, variable in _LAUNCHERS:
        found = [os.environ.get(name, "") for name in (count, number)]
        if variable not in os.environ or not all(text.isdecimal() for text in found):
            continue
        if launcher == "srun" and "SLURM_PTY_PORT" in os.environ:
            continue
        return Copies(launcher, int(found[0]), int(found[1]), variable) if int(found[0]) > 1 else None
    return None


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, dies, however it dies.

    That is Linux's; elsewhere a worker ends with its unit, when the pipe is found closed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def each(
    function: Callable[..., Any],
    units: Sequence[tuple[Any, ...]],
    workers: int,
    tell: Callable[[int], None] = lambda count: None,
) -> Iterator[Any]:
    """`function(*unit, tell)` for every unit, in up to `workers` spawned processes; results as they come.

    function: of a module, as it goes to other processes; with one worker or one unit it is called here. It may call
    tell(n) when n more of what the caller counts are done. The first unit that fails ends it all: its error is raised
    here, MdfError where a process was lost. However this ends, no process is left.
    """
    waiting = list(units)[::-1]
    if min(workers, len(waiting)) <= 1:
        while waiting:
            yield function(*waiting.pop(), tell)
        return
    started: dict[Connection, Any] = {}
    try:
        for _ in range(min(workers, len(waiting))):
            connection, process = _start()
            started[connection] = process
            _give(connection, function, waiting.pop())
        busy = set(started)
        while busy:
            for connection in [c for c in wait(list(busy)) if isinstance(c, Connection)]:
                kind, value = _hear(connection, started[connection])
                if kind == "told":
                    tell(value)
                    continue
                if kind == "failed":
                    raise value
                if waiting:
                    _give(connection, function, waiting.pop())
                else:
                    busy.remove(connection)
                yield value
    finally:
        for connection, process in started.items():
            process.kill()
            process.join()
            connection.close()


def _start() -> tuple[Connection, Any]:
    """A fresh worker: our end of its pipe, and its process."""
    context = multiprocessing.get_context("spawn")
    connection, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
    with interrupts_blocked():
        process.start()
    theirs.close()
    return connection, process


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A process started within never sees Ctrl-C, not even while it loads: the parent does, and ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started by the first worker, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _give(connection: Connection, function: Callable[..., Any], unit: tuple[Any, ...]) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died just now: _hear will say so
        connection.send((function, unit))


def _hear(connection: Connection, process: Any) -> tuple[str, Any]:
    """What a worker says: ("told", count), ("done", result) or ("failed", error)."""
    try:
        said: tuple[str, Any] = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join(5)
        code = process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        advice = {
            "SIGKILL": "perhaps out of memory: try fewer workers",
            "exit code 1": "a script has to call this under `if __name__ == '__main__':`, or with one worker",
        }.get(how, "the same command resumes from here")
        problem = f"a worker process ended unexpectedly ({how}); {advice}"
        return "failed", MdfError(problem)
    return said


def _work(connection: Connection, parent: int) -> None:
    """The life of a worker: units in, results out, until the parent goes."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            function, unit = connection.recv()
            try:
                said = ("done", function(*unit, lambda count: connection.send(("told", count))))
            except Exception as error:
                said = ("failed", _portable(error))
            connection.send(said)


def _portable(error: Exception) -> Exception:
    """The error as one that can be sent, with its traceback as a note where it was not raised on purpose."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error))
    try:
        sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes; some errors do not come back
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, MdfError) or error.__cause__ is not None:
        sent.add_note(trace)
    assert isinstance(sent, Exception)
    return sent
