"""Crew: the loop that gives units to workers.

A unit is the arguments of a function. A worker does one unit at a time, and its unit is taken away when it hangs. The
workers come from `running/workers/`, and may come and go. The loop knows no stage and no run folder: `execution` makes
events of what it yields, and `each` results.
"""

from __future__ import annotations

import math
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import wait
from typing import Any, Self

from mdfpipe.errors import MdfError
from mdfpipe.running.workers import Step, UnitReport, Worker, Workers
from mdfpipe.running.workers.spawned import Spawned

SAVING_SECONDS = 20.0  # Slurm and Kubernetes kill 30 s after they asked
LONGEST_LOOK_SECONDS = 1.0  # twice what a look at the workers waits


class Crew:
    """Workers, and the loop over them; they stay until the context ends.

    deadline_seconds: the longest time without a sign of life. saves(*unit): whether a unit that is cut off gets time to
    save its state.
    """

    def __init__(
        self,
        workers: Workers,
        *,
        deadline_seconds: float = math.inf,
        saves: Callable[..., bool] = lambda *unit: False,
    ) -> None:
        self.workers, self.deadline_seconds, self.saves = workers, deadline_seconds, saves

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._end(self.workers.present)
        self.workers.close()

    def run(
        self, function: Callable[..., Any], units: Iterable[tuple[Any, ...]], watch: Callable[[], None] = lambda: None
    ) -> Generator[UnitReport, None, None]:
        """Call `function(*unit, tell)` for every unit; yield reports as they come.

        function: of a module, because it goes to other processes. watch: called at least twice a second. A caller that
        stops early, by closing the iterator, ends the units at work.
        """
        waiting, lost = deque(units), Counter[int]()
        looked = time.monotonic()
        reports: list[UnitReport] = []  # of the last round: yielded once their workers are at their next units
        try:
            while True:
                try:
                    reports += self.workers.look(len(waiting) + len(self._busy()))
                    for worker in list(self.workers.present):
                        if worker.unit is None and waiting:
                            reports.append(worker.give(function, waiting.popleft()))
                except Exception:
                    yield from reports
                    raise
                yield from reports
                reports = []
                busy = self._busy()
                if not busy and not waiting:
                    return
                ready = self._ready(busy)
                watch()
                # the rest of a longer gap is no worker's silence: Ctrl-Z stops all of them, or this process was busy
                passed = min(time.monotonic() - looked, LONGEST_LOOK_SECONDS)
                looked = time.monotonic()
                for report in [one for worker in busy for one in self._heard(worker, ready, passed)]:
                    if report.kind is Step.LOST:
                        lost[id(report.unit)] += report.value.counts
                        if lost[id(report.unit)] < self.workers.tries:
                            waiting.appendleft(report.unit)
                            report = report._replace(kind=Step.AGAIN)
                    reports.append(report)
        finally:
            self._end(self._busy())

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers.present if worker.unit is not None]

    def _heard(self, worker: Worker, ready: list[Any], passed: float) -> list[UnitReport]:
        """What a worker reports. With nothing from it for the deadline, its unit is lost."""
        heard = list(worker.hear()) if worker.source is None or worker.source in ready else []
        overdue = None if heard else worker.overdue(passed, self.deadline_seconds)
        return heard if overdue is None else [overdue]

    def _ready(self, busy: list[Worker]) -> list[Any]:
        """Wait until a worker reports, comes or goes, or it is time to look again."""
        sources = [worker.source for worker in busy if worker.source is not None] + list(self.workers.sources)
        if not sources:
            time.sleep(self.workers.poll_seconds)
            return []
        return wait(sources, timeout=self.workers.poll_seconds)

    def _end(self, workers: Iterable[Worker]) -> None:
        """End what these do. A unit that saves is asked to first; all others can be cut off anywhere."""
        workers = list(workers)
        asked = [worker for worker in workers if worker.unit is not None and self.saves(*worker.unit)]
        for worker in asked:
            worker.terminate()
        until = time.monotonic() + SAVING_SECONDS
        for worker in asked:
            worker.join(max(until - time.monotonic(), 0))
        for worker in workers:
            worker.kill()


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
    with Crew(Spawned(workers)) as crew:
        for kind, _, value, _ in crew.run(function, units):
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
