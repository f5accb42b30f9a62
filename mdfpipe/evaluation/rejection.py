"""Rejection: what is left of the errors once the comparisons of the worst quality are rejected (ISO/IEC 29794-1).

The quality of a comparison is that of the worse of its two templates. The threshold keeps a false match rate of FMR on
all pairs and stays. Each point of the curve is the false non-match rate of the mated pairs that are not rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.evaluation.case import Searched, point
from mdfpipe.evaluation.comparing import F64
from mdfpipe.evaluation.measures.metrics import allowed
from mdfpipe.evaluation.pooling import Rule, members
from mdfpipe.store.templates import B8, Templates

FMR: Final = 0.01
COLUMNS: Final = ("sharpness", "contrast", "box_height_px")
"""Columns of the manifest that are a quality: more is better."""
NORM: Final = "norm of the template"
STEPS: Final = 50  # points of a curve at most
FEWEST: Final = 10  # mated pairs

Qualities = Mapping[str, tuple[F64, F64]]
"""By name, of each gallery template and of each probe; NaN where it is unknown."""


def qualities(rows: pa.Table, usable: B8, rule: Rule, sides: Sequence[Templates]) -> Qualities:
    """The mean quality of the crops that each template of both sides was pooled from; and the length of its vector.

    rows: of the manifest. usable: (N,) whether a row has a vector.
    """
    gallery, probes = sides
    found = {NORM: (_norms(gallery), _norms(probes))}
    columns = [name for name in COLUMNS if name in rows.column_names]
    own = rows.filter(pa.array(usable))
    if columns and own.num_rows:
        group, names = members(own, rule)
        for name in columns:
            values = pc.fill_null(own[name].cast(pa.float64()), np.nan).to_numpy()
            there = np.isfinite(values)
            sums = np.bincount(group[there], values[there], len(names))
            counts = np.bincount(group[there], minlength=len(names))
            with np.errstate(invalid="ignore"):
                known = dict(zip(names, (sums / np.where(counts, counts, np.nan)).tolist(), strict=True))
            a, b = (np.array([known.get(one, np.nan) for one in side.name], float) for side in (gallery, probes))
            found[name] = a, b
    return found


def _norms(side: Templates) -> F64:
    lengths = np.linalg.norm(side.vectors.astype(np.float64), axis=1)
    return np.where(side.enrolled, lengths, np.nan)


def rejection(found: Searched, known: Qualities) -> Iterator[dict[str, Any]]:
    """Rows of CURVES, `edc:QUALITY`: the share of mated pairs that is rejected, and the FNMR of the rest.

    Nothing where the pairs do not resolve the false match rate, or a quality is the same everywhere.
    """
    if not found.has_pairs or allowed(FMR, found.roc.n_nonmated) < 1:
        return
    threshold = found.roc.tar_at(FMR).threshold
    asked = found.probes[found.place[found.has]]
    scores, gallery, probes = found.scorer.mates(found.gallery, asked)
    if threshold is None:
        return
    missed = scores < threshold
    for name, (of_gallery, of_probes) in known.items():
        quality = np.minimum(of_gallery[gallery], of_probes[probes])
        there = ~np.isnan(quality)
        for share, k, n in errors_left(missed[there], quality[there]):
            yield point(f"edc:{name}", share, k, n)


def errors_left(missed: B8, quality: F64) -> list[tuple[float, int, int]]:
    """(share rejected, errors left, pairs left) for rising bounds of quality; nothing of fewer than FEWEST pairs.

    A pair is rejected if its quality is below the bound, so that equal ones stay or go together.

    >>> errors_left(np.repeat([True, False], [4, 8]), np.repeat([0.1, 0.9], [6, 6]))
    [(0.0, 4, 12), (0.5, 0, 6)]
    """
    n = len(quality)
    if n < FEWEST or quality.min() == quality.max():
        return []
    order = np.argsort(quality, kind="stable")
    ascending = quality[order]
    left = np.concatenate([np.cumsum(missed[order][::-1])[::-1], [0]])  # errors among the pairs from each place on
    bounds = ascending[(np.arange(STEPS) * n) // STEPS]
    gone = np.unique(np.searchsorted(ascending, bounds, "left"))
    return [(at / n, int(left[at]), n - at) for at in gone.tolist()]
