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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mdfpipe.errors import ProtocolError


@dataclass(frozen=True)
class Metric:
    """One number. value: 0..1. n: probes or pairs that it is about. k: of a rate, how many of them; else none.

    threshold: the score at or above which a comparison counts, of a metric at an operating point; inf accepts none.
    k_false, n_false: the false alarms at that threshold. The wanted share is an upper bound, which may be far from
    k_false / n_false where n_false is small.
    """

    name: str
    value: float
    n: int
    k: int | None = None
    threshold: float | None = None
    k_false: int | None = None
    n_false: int | None = None


def rate(name: str, k: int, n: int) -> Metric:
    """k of n. Raises ProtocolError where there is nothing to count.

    >>> rate("rank-1", 49, 63).value
    0.7777777777777778
    """
    if n < 1:
        raise ProtocolError(f"{name}: expected something to count, got none; check the protocol and `unmated`")
    return Metric(name, k / n, n, int(k))


def averaged(metrics: Sequence[Metric]) -> Metric:
    """The plain mean of one metric over several galleries, such as G1 and G2 of IJB-C; n: of all. Raises ProtocolError.

    It is no rate, even where its parts are: k is none.

    >>> averaged([rate("rank-1", 1, 2), rate("rank-1", 1, 1)])
    Metric(name='rank-1', value=0.75, n=3, k=None, threshold=None, k_false=None, n_false=None)
    """
    names = sorted({metric.name for metric in metrics})
    if len(names) != 1:
        raise ProtocolError(f"average: expected one metric of several galleries, got {', '.join(names) or 'none'}")
    return Metric(names[0], float(np.mean([m.value for m in metrics])), sum(m.n for m in metrics))


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
    return int(np.floor(share * n + 1e-9))
