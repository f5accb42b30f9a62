"""How fast a unit goes, by its signs of progress."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_SECONDS = 0.2
"""Before that, no rate."""


@dataclass(frozen=True)
class Pace:
    """When the work of a unit was first heard of (seconds of any clock), how far it was then, and of how much."""

    time: float
    done: int = 0
    total: int | None = None

    def at(self, done: int, total: int | None, now: float) -> Pace:
        """After a sign of progress. The first with a total is where the work begins, of a training that was cut off,
        too: what was done before is not counted.

        >>> Pace(0.0).at(500, 1500, 10.0)
        Pace(time=10.0, done=500, total=1500)
        """
        return self if total in (None, self.total) else Pace(now, done, total)

    def rate(self, done: int, now: float) -> float | None:
        """How many a second since then; None before that is known."""
        return (done - self.done) / (now - self.time) if done > self.done and now - self.time > LEAST_SECONDS else None
