"""Differences: two systems on the probes that both have: McNemar's test of Rank-1, a paired bootstrap of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mdfpipe.evaluation.case import Searched, generator_of
from mdfpipe.evaluation.comparing import F64, Array
from mdfpipe.evaluation.intervals import mcnemar, mean_of, paired_bootstrap, subject_codes
from mdfpipe.evaluation.table import Table


def compare(searched: Mapping[str, Searched], table: Table, seed: str) -> Iterator[dict[str, Any]]:
    """Each system against each after it, on the probes that both have: McNemar for rank-1, else a paired bootstrap."""
    names = list(searched)
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            a, b = searched[first], searched[second]
            places = {key: at for at, key in enumerate(b.key)}
            both = [(i, places[key]) for i, key in enumerate(a.key) if key in places]
            both = [(i, j) for i, j in both if a.counted[i] and b.counted[j]]
            if not both:
                continue
            of_a, of_b = np.array(both).T
            for metric in table.metrics:
                va, vb = a.values(metric), b.values(metric)
                if va is None or vb is None:
                    continue
                row = difference(metric, va[of_a], vb[of_b], a.subject[of_a], generator_of(f"{seed}/{metric}"))
                yield {"metric": metric, "first": first, "second": second, **row}


def difference(metric: str, a: F64, b: F64, subjects: Array, generator: np.random.Generator) -> dict[str, Any]:
    """Columns of COMPARISONS for (n,) numbers a and b of the same probes, whose subjects are (n,)."""
    (codes,), people = subject_codes(subjects)
    row: dict[str, Any] = {
        "n": len(a),
        "first_value": float(a.mean()),
        "second_value": float(b.mean()),
        "difference": float(a.mean() - b.mean()),
        "low": None,
        "high": None,
        "first_only": None,
        "second_only": None,
        "p": None,
        "test": "bootstrap",
        "significant": False,
    }
    if people > 1:
        found = paired_bootstrap(mean_of(a, codes, people), mean_of(b, codes, people), people, generator)
        row |= {"low": found.low, "high": found.high, "p": found.p, "significant": found.is_significant}
    if metric == "rank-1" and people == len(a):
        test = mcnemar(a > 0, b > 0)
        row |= {
            "first_only": test.first_only,
            "second_only": test.second_only,
            "p": test.p,
            "test": "mcnemar",
            "significant": test.is_significant,
        }
    return row
