"""Closed set: everybody who is searched is enrolled. CMC, mean average precision, mean inverse negative penalty.

All read a `Ranking`, whose places have ties against the system. What is counted: probes with a mate, and those
without one under `unmated: miss`, as misses. `failed` are probes that gave no vector at all and count as misses, too.

Average precision is the mean, over a probe's mates, of the precision at that mate's place, without interpolation
(scikit-learn and AGW agree where nothing ties). Inverse negative penalty is mates / place of the worst mate (AGW, Ye et
al. 2021).

>>> from mdfpipe.evaluation.comparing import Entries
>>> from mdfpipe.evaluation.search import search_scores
>>> scores = [[0.9, 0.2, 0.1], [0.8, 0.7, 0.1], [0.9, 0.8, 0.1], [0.3, 0.2, 0.1]]
>>> gallery = Entries("gallery", np.array(["a", "b", "c"]))
>>> probes = Entries("probes", np.array(["a", "b", "c", "nobody"]))
>>> ranking = search_scores(scores, gallery, probes, unmated="miss")
>>> ranking.rank, cmc(ranking, depth=4).share
(array([1, 2, 3, 0]), array([0.25, 0.5 , 0.75, 0.75]))
>>> [(metric.name, metric.k, metric.n) for metric in closed_set(ranking, ["rank-1", "rank-5", "map"])]
[('rank-1', 1, 4), ('rank-5', 3, 4), ('map', None, 4)]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import F64, I64
from mdfpipe.evaluation.measures.metrics import Metric, rate
from mdfpipe.evaluation.search import Ranking

CLOSED_SET = ("rank-1", "rank-5", "rank-10", "rank-20", "map", "minp")


@dataclass(frozen=True, eq=False)
class Cmc:
    """The cumulative match characteristic. k: (R,) probes whose best mate is within the first 1..R; n: probes."""

    k: I64
    n: int

    @property
    def share(self) -> F64:
        """k / n: (R,)."""
        return self.k / self.n


def cmc(ranking: Ranking, depth: int = 20, failed: int = 0) -> Cmc:
    """The curve up to rank `depth`; it stays level beyond the gallery. Raises ProtocolError without probes."""
    ranks = ranking.rank[ranking.counted]
    found = ranks[(ranks > 0) & (ranks <= depth)]
    k = np.cumsum(np.bincount(found, minlength=depth + 1)[1:]).astype(np.int64)
    return Cmc(k, _count(ranking, failed, "cmc"))


def closed_set(ranking: Ranking, names: Iterable[str] = CLOSED_SET, failed: int = 0) -> list[Metric]:
    """The metrics of these names. Raises ProtocolError for another name, and without probes."""
    counted, found = ranking.counted, []
    for name in names:
        n, depth = _count(ranking, failed, name), re.fullmatch(r"rank-([1-9]\d*)", name)
        if depth:
            found.append(rate(name, int(((ranking.rank > 0) & (ranking.rank <= int(depth[1])))[counted].sum()), n))
        elif name in ("map", "minp"):
            penalty = ranking.mates / np.maximum(ranking.last_rank, 1)  # 0 without a mate
            values = ranking.average_precision if name == "map" else penalty
            found.append(Metric(name, float(values[counted].sum() / n), n))
        else:
            raise ProtocolError(f"closed set: expected rank-K, map or minp, got {name!r}")
    return found


def _count(ranking: Ranking, failed: int, name: str) -> int:
    n = int(ranking.counted.sum()) + failed
    if n < 1:
        raise ProtocolError(f"{name}: expected a probe with a mate, got none of {len(ranking)}; check the protocol")
    return n
