"""Workers: what gives units to the crew's loop and hears of them. One file for each way to get a worker.

`Workers` is a way: it says which workers there are now. `Worker` is one of them, wherever its process runs. The loop
(`running/crew.py`) knows these two types only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol


class Step(Enum):
    """What a worker reports. DONE, FAILED and LOST are the end of its unit; the last five are of no unit."""

    BEGUN = "begun"  # value: the device of its worker
    TOLD = "told"  # a sign of life; value: what the function told
    DONE = "done"  # value: the result
    FAILED = "failed"  # value: the error
    LOST = "lost"  # value: a Loss
    AGAIN = "again"  # the unit of a lost worker waits for another; value: the Loss
    JOINED = "joined"  # value: where the worker is, in words
    LEFT = "left"  # value: why
    REFUSED = "refused"  # value: why a process may not be a worker
    WAITING = "waiting"  # value: what the loop waits for, as there is no worker


class UnitReport(NamedTuple):
    """A report on one unit, or on a worker without one. worker: its name; "" for a process of this command."""

    kind: Step
    unit: tuple[Any, ...]
    value: Any = None
    worker: str = ""


class Loss(NamedTuple):
    """The end of a process that was at work. exitcode: negative for a signal; None if it was killed by its deadline.

    left: whether the worker itself left, as at the end of its job's time. counts: whether it may be the unit's fault:
    not where a worker left before it showed progress, or gave it the rest of its time only, or let it save its state.
    """

    words: str
    exitcode: int | None
    left: bool = False
    counts: bool = True


class Worker(Protocol):
    """One worker: it does one unit at a time. unit: the arguments of the function that it is at; None while idle."""

    unit: tuple[Any, ...] | None

    @property
    def source(self) -> Any:
        """What becomes readable once the worker has something to report; None where one has to ask again and again."""

    def give(self, function: Callable[..., Any], unit: tuple[Any, ...]) -> UnitReport:
        """Let it do `function(*unit, tell)`; gives the report BEGUN. A worker that is gone reports LOST in `hear`."""

    def hear(self) -> Sequence[UnitReport]:
        """What it reports now, without waiting."""

    def overdue(self, passed: float, deadline_seconds: float) -> UnitReport | None:
        """Take its unit away where it is silent for the deadline, with these `passed` seconds: the report LOST."""

    def terminate(self) -> None:
        """Ask it to save what it is at, and to end."""

    def join(self, seconds: float) -> None:
        """Wait so long for it to end, after `terminate`."""

    def kill(self) -> None:
        """End its unit at once; nothing of it is committed any more."""


class Workers(Protocol):
    """A way to get workers. tries: how often a unit is given if its workers are lost; then the unit failed."""

    tries: int

    @property
    def present(self) -> Sequence[Worker]:
        """The workers there are now."""

    @property
    def sources(self) -> Sequence[Any]:
        """What becomes readable once a worker comes, or an idle one goes."""

    @property
    def poll_seconds(self) -> float:
        """How long the loop may wait until its next round."""

    def look(self, wanted: int) -> Iterable[UnitReport]:
        """Bring `present` up to date, for so many units that wait or are at work: JOINED, LEFT, REFUSED, WAITING."""

    def close(self) -> None:
        """Let go of all workers."""
