"""The rate of a unit: of its own work, since it began."""

from __future__ import annotations

import pytest

from mdfpipe.running.pace import Pace
from mdfpipe.running.status import Timings


@pytest.mark.parametrize(
    ("signs", "rate"),
    [
        ([(0.0, 0, 100), (10.0, 40, 100)], 4.0),
        ([(5.0, 0, None), (9.0, 500, 1500), (19.0, 525, 1500)], 2.5),  # 500 steps were done by another process
        ([(2.0, 10, None), (10.0, 40, None)], 4.0),  # a stream: nobody knows its length
        ([(4.0, 60, 100), (9.0, 0, None), (14.0, 70, 100)], 1.0),  # a share of the unit ended in between
        ([(9.0, 500, 1500)], None),
    ],
    ids=["from its start", "continued", "of unknown length", "in shares", "one sign"],
)
def test_a_rate_counts_what_was_done_since(signs: list[tuple[float, int, int | None]], rate: float | None) -> None:
    pace, told = Pace(0.0), Timings()
    told.of_worker({"event": "joined", "key": "node1", "words": "cuda:0"})
    told.of_worker({"event": "started", "worker": "node1", "time": 0.0})
    for time, done, total in signs:
        pace = pace.at(done, total, time)
        told.of_worker({"event": "progress", "worker": "node1", "time": time, "done": done, "total": total})
    time, done, _ = signs[-1]
    assert (pace.rate(done, time), told.workers["node1"].rate) == (rate, rate)
