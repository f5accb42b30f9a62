"""Recognition at a glance: Rank-1 from the gallery domains to each other domain, one template a subject and domain.

What a training validates with, and what is said of a system before it is evaluated in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.evaluation.comparing import Entries, Measure
from mdfpipe.evaluation.intervals import bootstrap, mean_of, subject_codes, wilson
from mdfpipe.evaluation.search import search
from mdfpipe.evaluation.templates import Rule, Templates, pool

F32 = NDArray[np.float32]
POOLED = "pooled"
SAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class Hits:
    """Rank-1 from `gallery` to `probe`: k of n probes with a mate, of `enrolled` subjects; the interval's bounds.

    unmated: probes without a mate, not searched. chance: what a guess would reach, a share.
    """

    gallery: str
    probe: str
    k: int
    n: int
    unmated: int
    enrolled: int
    low: float
    high: float

    @property
    def chance(self) -> float:
        """One in the gallery's size."""
        return 1 / self.enrolled if self.enrolled else 0.0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return vars(self) | {"rank1": self.k / self.n if self.n else None, "chance": self.chance}


def templates_of(rows: pa.Table, vectors: Iterable[F32], usable: NDArray[np.bool_] | None = None) -> Templates:
    """One mean template for each subject and domain. rows: subject_id, domain, modality, split, role, video_id."""
    return pool(rows, vectors, Rule(), usable=usable)


def identify(
    templates: Templates, gallery: str, probes: Sequence[str], measure: Measure = "cosine", seed: int = 0
) -> list[Hits]:
    """Rank-1 of each probe domain in the gallery domain, and, of several, POOLED.

    Ties count as misses (`search`). A gallery of one subject is not searched: everybody would be found in it. Wilson's
    interval for one domain; for the pooled figure a bootstrap over subjects: the probes of one are alike.
    """
    known = templates.where(domain=gallery).under("exclude")
    found, hits, subjects = [], [], []
    for probe in probes:
        asked = templates.where(domain=probe).under("exclude")
        mated = np.isin(asked.subject, known.subject)
        sought = asked.take(np.flatnonzero(mated))
        right = np.zeros(0, bool)
        if len(sought) and len(known) > 1:
            ranking = search(
                Entries("gallery", known.subject, known.vectors),
                Entries("probes", sought.subject, sought.vectors),
                measure,
            )
            right = ranking.rank == 1
        k, n = int(right.sum()), len(right)
        low, high = wilson(k, n) if n else (0.0, 1.0)
        found.append(Hits(gallery, probe, k, n, int((~mated).sum()), len(known), low, high))
        hits.append(right)
        subjects.append(sought.subject[: len(right)])
    if len(found) > 1 and any(h.n for h in found):
        found.append(_pooled(found, np.concatenate(hits), np.concatenate(subjects), seed))
    return found


def _pooled(found: list[Hits], right: NDArray[np.bool_], subjects: NDArray[Any], seed: int) -> Hits:
    (codes,), people = subject_codes(subjects)
    low, high = 0.0, 1.0  # one subject says nothing about others
    if people > 1:
        statistic = mean_of(right.astype(np.float64), codes, people)
        interval = bootstrap(statistic, people, np.random.default_rng(seed), samples=SAMPLES)
        low, high = interval.low, interval.high
    one, unmated = found[0], sum(h.unmated for h in found)
    return Hits(one.gallery, POOLED, int(right.sum()), len(right), unmated, one.enrolled, low, high)


def rank_one(rows: pa.Table, vectors: F32, gallery: Sequence[str], measure: Measure = "cosine") -> float:
    """The share of templates found across domains, 0..1: to validate a training with.

    rows: subject_id, domain, video_id. gallery: its domains; where the rows have one domain only, or none of these,
    each subject's first video is its gallery entry and the others its probes.
    """
    domains = sorted(set(rows["domain"].to_pylist()))
    across = [d for d in gallery if d in domains] or domains[:1]
    probes = [d for d in domains if d not in across]
    count = rows.num_rows
    same = {n: pa.array([v] * count) for n, v in (("modality", "any"), ("split", "train"), ("role", "none"))}
    domain = rows["domain"]
    if not probes:
        first: dict[str, str] = {}
        people, videos = rows["subject_id"].to_pylist(), rows["video_id"].to_pylist()
        for person, video in sorted(zip(people, videos, strict=True)):
            first.setdefault(person, video)
        domain = pa.array(["first" if first[p] == v else "others" for p, v in zip(people, videos, strict=True)])
        across, probes = ["first"], ["others"]
    table = pa.table({"subject_id": rows["subject_id"], "domain": domain, "video_id": rows["video_id"], **same})
    templates = templates_of(table, [vectors])
    parts = [h for g in across for probe in probes for h in identify(templates, g, [probe], measure)]
    n = sum(h.n for h in parts)
    return sum(h.k for h in parts) / n if n else 0.0
