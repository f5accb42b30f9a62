"""Metrics: what a number is, and what it is called.

| name | what | file |
|---|---|---|
| `rank-1`, `rank-5`, ... | share of probes whose best mate is within the first k | closed_set.py |
| `map`, `minp` | mean average precision; mean inverse negative penalty | closed_set.py |
| `fnir@fpir=0.01`, `dir@fpir=0.01` | mated searches that fail (succeed) at a share of false alarms | open_set.py |
| `tar@far=1e-3` | mated pairs accepted at a share of false accepts | verification.py |
| `eer`, `rocch-eer`, `auc` | one number for the whole ROC | verification.py |

All are shares in 0..1. Where one is k of n, it says so; where it is not (a mean, an area), k is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.store.tables import NumberNote

LEAST_ERRORS: Final = 30
"""For a rate to be within 30 % of the true one, at 90 % confidence (Doddington et al. 2000; ISO/IEC 19795-1)."""
NUMBERS: Final = (NumberNote.UNDER_30, NumberNote.TRIVIAL, NumberNote.AT_CHANCE)
"""The notes that are about a number, and not about its interval."""
NO_INTERVAL: Final = (NumberNote.ONE_SUBJECT, NumberNote.FAILURES, NumberNote.MANY_SCORES)
"""Why there is none."""
ROUND: Final = 1e-9
"""What a product of a share and a count may be off: 0.29 * 100 is 28.999999999999996."""


@dataclass(frozen=True)
class Metric:
    """One number. value: 0..1. n: probes or pairs that it is about. k: of a rate, how many of them; else none.

    threshold: the score at or above which a comparison counts, of a metric at an operating point; inf accepts none.
    k_false, n_false: the false alarms at that threshold. The wanted share is an upper bound, which may be far from
    k_false / n_false where n_false is small. n_learned: non-mated training pairs that the threshold is from.
    """

    name: str
    value: float
    n: int
    k: int | None = None
    threshold: float | None = None
    k_false: int | None = None
    n_false: int | None = None
    n_learned: int | None = None


def doubts(metric: Metric) -> list[NumberNote]:
    """Whether the data resolve a metric at its operating point: how many errors are expected there.

    Below one expected false alarm, share * n_false, there is no such point: `unresolved`. An equal error rate is its
    own share, on both sides, and is a number however few the errors are. A threshold from training subjects is as
    sure as the false matches that are expected among their pairs.

    >>> [[str(note) for note in doubts(Metric("tar@far=1e-2", 0.9, 63, n_false=n))] for n in (99, 100, 3000)]
    [['unresolved'], ['under_30'], []]
    >>> [doubts(Metric("fnmr@train=1e-2", 0.9, 63, n_learned=n)) for n in (2999, 3000)]
    [[<NumberNote.UNDER_30: 'under_30'>], []]
    """
    if metric.n_learned is not None:
        expected = share_of(metric.name) * metric.n_learned
    elif "=" in metric.name and metric.n_false is not None:
        share = share_of(metric.name)
        expected = share * metric.n_false
        if expected < 1 - ROUND:
            return [NumberNote.UNRESOLVED]
        if metric.name.startswith("tar@") and share == 1:
            return [NumberNote.TRIVIAL]
    elif metric.name in ("eer", "eer-hter", "eer-fvc", "rocch-eer"):
        expected = metric.value * min(metric.n, metric.n_false or 0)
    else:
        return []
    return [NumberNote.UNDER_30] if expected < LEAST_ERRORS - ROUND else []


def rate(name: str, k: int, n: int) -> Metric:
    """k of n. Raises ProtocolError where there is nothing to count.

    >>> rate("rank-1", 49, 63).value
    0.7777777777777778
    """
    if n < 1:
        raise ProtocolError(f"{name}: expected something to count, got none; check the protocol and `unmated`")
    return Metric(name, k / n, n, int(k))


def mean_of_rows(rows: Sequence[Mapping[str, Any]], kept: Sequence[NumberNote] = ()) -> dict[str, Any]:
    """Columns value and notes of the plain mean of rows of METRICS, over galleries, runs or trainings.

    It has no number where one of them has none. What is to be known of one of them is to be known of it, but for what
    is about their intervals, as it has none: of those only what is `kept`.

    >>> mean = mean_of_rows([{"value": 0.5, "notes": ["few_subjects"]}, {"value": 1.0, "notes": ["at_chance"]}])
    >>> mean["value"], [str(note) for note in mean["notes"]]
    (0.75, ['at_chance', 'mean'])
    """
    values = [row["value"] for row in rows]
    notes = [note for note in (*NUMBERS, *kept) if any(note in (row.get("notes") or ()) for row in rows)]
    if None in values:
        return {"value": None, "notes": [NumberNote.UNRESOLVED]}
    return {"value": float(np.mean(values)), "notes": notes if kept else [*notes, NumberNote.MEAN]}


def share_of(metric: str) -> float:
    """The share of false alarms that a metric's name ends with.

    >>> share_of("tar@far=1e-3")
    0.001
    """
    return float(metric.partition("=")[2])


def share_name(name: str, false: str, share: float) -> str:
    """The name of a metric at a share of false alarms.

    >>> share_name("tar", "far", 1e-3), share_name("tar", "far", 0.1), share_name("fnir", "fpir", 0.01)
    ('tar@far=1e-3', 'tar@far=1e-1', 'fnir@fpir=0.01')
    """
    if not 0 <= share <= 1:
        raise ProtocolError(f"{name}@{false}: expected a share of 0..1, got {share:g}")
    if false == "fpir" or not share:
        return f"{name}@{false}={share:g}"
    digits, power = f"{share:.10e}".split("e")
    return f"{name}@{false}={float(digits):g}e{int(power)}"


def allowed(share: float, n: int) -> int:
    """How many false ones of n a share allows, rounded down.

    >>> allowed(0.01, 63), allowed(0.1, 63), allowed(0.29, 100)  # 0.29 * 100 is 28.999999999999996
    (0, 6, 29)
    """
    return int(np.floor(share * n + ROUND))
