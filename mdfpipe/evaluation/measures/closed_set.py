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


def rank_k(ranking: Ranking, k: int = 1, failed: int = 0) -> Metric:
    """Share of probes whose best mate is within the first k: `rank-k`."""
    if k < 1:
        raise ProtocolError(f"rank-{k}: expected a rank of 1 or more")
    ranks = ranking.rank[ranking.counted]
    return rate(f"rank-{k}", int(((ranks > 0) & (ranks <= k)).sum()), _count(ranking, failed, f"rank-{k}"))


def mean_average_precision(ranking: Ranking, failed: int = 0) -> Metric:
    """`map`: the mean of the probes' average precision."""
    n = _count(ranking, failed, "map")
    return Metric("map", float(ranking.average_precision[ranking.counted].sum() / n), n)


def mean_inverse_negative_penalty(ranking: Ranking, failed: int = 0) -> Metric:
    """`minp`: the mean of mates / place of the worst mate."""
    n = _count(ranking, failed, "minp")
    return Metric("minp", float(inverse_negative_penalty(ranking)[ranking.counted].sum() / n), n)


def inverse_negative_penalty(ranking: Ranking) -> F64:
    """Mates / place of the worst mate, of each probe: (P,); 0 without a mate."""
    return ranking.mates / np.maximum(ranking.last_rank, 1)


def closed_set(ranking: Ranking, names: Iterable[str] = CLOSED_SET, failed: int = 0) -> list[Metric]:
    """The metrics of these names. Raises ProtocolError for another name."""
    found = []
    for name in names:
        if name == "map":
            found.append(mean_average_precision(ranking, failed))
        elif name == "minp":
            found.append(mean_inverse_negative_penalty(ranking, failed))
        elif name.startswith("rank-") and name[5:].isdecimal():
            found.append(rank_k(ranking, int(name[5:]), failed))
        else:
            raise ProtocolError(f"closed set: expected rank-K, map or minp, got {name!r}")
    return found


def _count(ranking: Ranking, failed: int, name: str) -> int:
    n = int(ranking.counted.sum()) + failed
    if n < 1:
        raise ProtocolError(f"{name}: expected a probe with a mate, got none of {len(ranking)}; check the protocol")
    return n
