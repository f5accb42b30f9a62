"""Open set: people are searched who are not enrolled. FNIR at FPIR, DIR.

A false alarm is a *search*: the greatest score of a non-mated probe reaches the threshold (FPIR of NIST's FRVT 1:N),
however many gallery entries do. A mated search succeeds if the mate's score reaches the threshold and its place is
within the rank limit; else it is a false negative identification (FNIR; DIR = TPIR = 1 - FNIR). Nothing is
interpolated: every number is one that some threshold gives.

>>> mated, nonmated = np.array([0.9, 0.8, 0.7, 0.3]), np.linspace(0, 0.75, 10)
>>> searches = OpenSet(mated, np.ones(4, int), nonmated)
>>> [(m.name, m.k, m.n, m.k_false) for m in (searches.fnir_at(0.0), searches.fnir_at(0.1))]
[('fnir@fpir=0', 2, 4, 0), ('fnir@fpir=0.1', 1, 4, 1)]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.comparing import F64, I64
from mdfpipe.evaluation.measures.metrics import Metric, allowed, rate, share_name
from mdfpipe.evaluation.search import Ranking


@dataclass(frozen=True, eq=False)
class OpenSet:
    """Searches of one gallery, mated and not. Raises ProtocolError where either kind is missing.

    mated: (M,) best mated score. rank: (M,) place of that mate. nonmated: (N,) greatest score.
    failed: mated probes that gave no vector: they fail at every threshold. (A non-mated one never alarms: leave it
    out, or give it -inf.) rank_limit: candidates that an operator examines, 1 by default; 20 or 50 in NIST's reports.
    """

    mated: F64
    rank: I64
    nonmated: F64
    failed: int = 0
    rank_limit: int = 1

    def __post_init__(self) -> None:
        if self.mated.shape != self.rank.shape or np.isnan(self.mated).any() or np.isnan(self.nonmated).any():
            raise ProtocolError("open set: expected a score and a rank for each mated search, and no NaN")
        if not self.n_mated or not self.n_nonmated:
            raise ProtocolError(
                f"open set: expected mated and non-mated searches, got {self.n_mated} and {self.n_nonmated}; "
                "probes of people who are not enrolled are needed (`unmated: exclude` keeps them for this)"
            )
        if self.rank_limit < 1:
            raise ProtocolError(f"open set: expected a rank limit of 1 or more, got {self.rank_limit}")

    @classmethod
    def of(cls, ranking: Ranking, failed: int = 0, rank_limit: int = 1) -> OpenSet:
        """The searches of a ranking: probes with a mate are mated searches, all others are not."""
        mated = ranking.has_mate
        return cls(ranking.mated[mated], ranking.rank[mated], ranking.nonmated[~mated], failed, rank_limit)

    @property
    def n_mated(self) -> int:
        """Mated searches."""
        return len(self.mated) + self.failed

    @property
    def n_nonmated(self) -> int:
        """Non-mated searches."""
        return len(self.nonmated)

    @property
    def candidates(self) -> F64:
        """Scores of the mates that are within the rank limit, ascending."""
        return np.sort(self.mated[(self.rank <= self.rank_limit) & (self.rank > 0)])

    def fpir(self, threshold: float) -> Metric:
        """Share of non-mated searches that alarm at a threshold: `fpir`."""
        return rate("fpir", int((self.nonmated >= threshold).sum()), self.n_nonmated)

    def dir(self, threshold: float) -> Metric:
        """Share of mated searches that succeed at a threshold: `dir`."""
        return rate("dir", int((self.candidates >= threshold).sum()), self.n_mated)

    def threshold(self, fpir: float) -> tuple[float, int]:
        """The lowest score of a mate at which no more than this share of non-mated searches alarm, and how many do.

        inf where no mate within the rank limit scores higher than so many alarms: none is found.
        """
        highest = np.sort(self.nonmated)[::-1]
        k = allowed(fpir, self.n_nonmated)
        candidates = self.candidates
        if k < self.n_nonmated:
            candidates = candidates[candidates > highest[k]]  # a mate that ties with one alarm too many is not found
        threshold = float(candidates[0]) if len(candidates) else float("inf")
        return threshold, int((self.nonmated >= threshold).sum())

    def fnir_at(self, fpir: float) -> Metric:
        """Share of mated searches that fail where at most this share of the others alarm: `fnir@fpir=0.01`."""
        return self._at("fnir", fpir)

    def dir_at(self, fpir: float) -> Metric:
        """Share of mated searches that succeed there: `dir@fpir=0.01`."""
        return self._at("dir", fpir)

    def _at(self, kind: str, fpir: float) -> Metric:
        threshold, alarms = self.threshold(fpir)
        found = int((self.candidates >= threshold).sum()) if threshold < np.inf else 0
        k = found if kind == "dir" else self.n_mated - found
        limit = "" if self.rank_limit == 1 else f"-rank{self.rank_limit}"
        name = share_name(kind + limit, "fpir", fpir)
        return Metric(name, k / self.n_mated, self.n_mated, k, threshold, alarms, self.n_nonmated)
