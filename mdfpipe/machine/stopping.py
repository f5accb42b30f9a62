"""Stop signals: Ctrl-C, SIGTERM (Slurm, Kubernetes, `timeout`) and SIGHUP (a terminal that closes).

`listen` turns each into one exception, `Stopped`, in the main thread. What holds workers, locks and temporary files
as a context lets go of them on the way out. `deferred` holds a signal back while a step must not be cut in two.

A signal that was ignored when the process began stays ignored: that is what `nohup` and `&` in a script ask for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

TYPE_CHECKING = False  # until this is imported, Ctrl-C is a traceback, and `typing` takes long
if TYPE_CHECKING:
    from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
INTERRUPTED, TERMINATED = 130, 143  # exit codes: of Ctrl-C; of SIGTERM and SIGHUP

_PATIENCE = 1.0  # seconds: `timeout` and Slurm send a signal twice at once, a person who means it takes longer
_first: tuple[int, float] | None = None  # the first signal that came, and when


class Stopped(BaseException):
    """A stop signal came. Not an Exception: nothing that handles errors must handle it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_code(number: int) -> int:
    """The exit code after this signal."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def came() -> int | None:
    """The stop signal that came first; None where none did."""
    return _first[0] if _first else None


def line(number: int) -> str:
    """What a person reads after this signal."""
    what = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    return f"mdfpipe: {what}; the same command resumes from here\n"


def listen() -> None:
    """Raise Stopped in the main thread at the first stop signal. A second Ctrl-C ends the process at once.

    Workers die with their process, so that an end at once leaves none.
    """
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _stop)
    sys.unraisablehook = _unraisable


def leave() -> None:
    """End within seconds, despite working threads and further signals: the exit code is decided."""
    for number in SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.alarm(10)


def _stop(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is None:
        _first = number, time.monotonic()
        raise Stopped(number)
    if number == signal.SIGINT and time.monotonic() - _first[1] > _PATIENCE:
        _end_now(number)


def _unraisable(found: Any) -> None:
    """A signal that came while Python cleared an object up would be lost: end here."""
    if isinstance(found.exc_value, Stopped):
        _end_now(found.exc_value.number)
    sys.__unraisablehook__(found)


def _end_now(number: int) -> None:
    with contextlib.suppress(OSError):
        os.write(2, line(number).encode())
    os._exit(exit_code(number))


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Hold stop signals back; gives a function that says which one came. It is delivered where the context ends.

    A second Ctrl-C is not held back. Outside the main thread, where Python delivers no signals, nothing is held.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    waiting: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and waiting:
            restore()
            signal.raise_signal(number)
        waiting.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    listened = [n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, note) for number in listened}
    try:
        yield lambda: waiting[0] if waiting else None
    finally:
        restore()
        if waiting:
            signal.raise_signal(waiting[0])
