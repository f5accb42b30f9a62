"""Recognition at a glance: the one number that a training is validated with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.evaluation.comparing import Entries, Measure
from mdfpipe.evaluation.pooling import Rule, pool
from mdfpipe.evaluation.search import search


def rank_one(
    rows: pa.Table, vectors: NDArray[np.float32], gallery: Sequence[str], measure: Measure = "cosine"
) -> float:
    """The share of mean templates found across domains, 0..1; ties count as misses; 0 if there is no search.

    rows: subject_id, domain, video_id. gallery: its domains; where the rows have one domain only, or none of these,
    each subject's first video is its gallery entry and the others its probes.
    """
    domains = sorted(set(rows["domain"].to_pylist()))
    across = [d for d in gallery if d in domains] or domains[:1]
    probes = [d for d in domains if d not in across]
    same = {n: pa.array([v] * rows.num_rows) for n, v in (("modality", "any"), ("split", "train"), ("role", "none"))}
    domain = rows["domain"]
    if not probes:
        first: dict[str, str] = {}
        people, videos = rows["subject_id"].to_pylist(), rows["video_id"].to_pylist()
        for person, video in sorted(zip(people, videos, strict=True)):
            first.setdefault(person, video)
        domain = pa.array(["first" if first[p] == v else "others" for p, v in zip(people, videos, strict=True)])
        across, probes = ["first"], ["others"]
    table = pa.table({"subject_id": rows["subject_id"], "domain": domain, "video_id": rows["video_id"], **same})
    templates = pool(table, [vectors], Rule())
    right = searched = 0
    for enrolled, asked in ((g, p) for g in across for p in probes):
        known, sought = templates.where(domain=enrolled), templates.where(domain=asked)
        sought = sought.take(np.flatnonzero(np.isin(sought.subject, known.subject)))
        if len(sought) and len(known) > 1:
            sides = Entries("gallery", known.subject, known.vectors), Entries("probes", sought.subject, sought.vectors)
            right += int((search(*sides, measure).rank == 1).sum())
            searched += len(sought)
    return right / searched if searched else 0.0
