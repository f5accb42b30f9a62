"""Differences: two systems on the probes that both have: McNemar's test of Rank-1, a paired bootstrap of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mdfpipe.evaluation.case import Searched, fits, generator_of, operate
from mdfpipe.evaluation.comparing import F64, Array
from mdfpipe.evaluation.measures.intervals import mcnemar, mean_of, paired_bootstrap, subject_codes
from mdfpipe.evaluation.table import Table


def compare(searched: Mapping[str, Searched], table: Table, seed: str) -> Iterator[dict[str, Any]]:
    """Each system against each after it, on the probes that both have: McNemar for rank-1, else a paired bootstrap.

    Measures of open-set searches and of pairs: the first system against each other one.
    """
    names = list(searched)
    for n, first in enumerate(names):
        for second in names[n + 1 :]:
            a, b = searched[first], searched[second]
            places = {key: at for at, key in enumerate(b.key)}
            shared = [(i, places[key]) for i, key in enumerate(a.key) if key in places]
            both = np.array([(i, j) for i, j in shared if a.counted[i] and b.counted[j]], np.int64).reshape(-1, 2).T
            for metric in table.metrics if both.size else []:
                va, vb = a.values(metric), b.values(metric)
                generator = generator_of(f"{seed}/{metric}")
                row = None
                if va is not None and vb is not None:
                    row = difference(metric, va[both[0]], vb[both[1]], a.subject[both[0]], generator)
                elif n == 0:  # these take seconds: against the first system only
                    row = _of_scores(metric, a, b, generator)
                if row is not None:
                    yield {"metric": metric, "first": first, "second": second, **row}


def _of_scores(metric: str, a: Searched, b: Searched, generator: np.random.Generator) -> dict[str, Any] | None:
    """The same of a measure of open-set searches or pairs, on the probes that both searched; None where too many."""
    if "@fpir" not in metric and not (a.holds and b.holds):
        return None
    asked = [{key for key, there in zip(x.key, x.has | x.strangers, strict=True) if there} for x in (a, b)]
    shared = sorted(asked[0] & asked[1])
    only = [np.isin(np.array(x.key), shared) for x in (a, b)]
    names = np.unique(np.concatenate([side.subject for x in (a, b) for side in (x.scorer.gallery, x.scorer.probes)]))
    (one, scores, first), (two, _, second) = (operate(metric, x, o, names) for x, o in zip((a, b), only, strict=True))
    if not fits(scores) or len(names) < 2:
        return None
    found = paired_bootstrap(first, second, len(names), generator)
    row: dict[str, Any] = {
        "n": one.n,
        "first_value": one.value,
        "second_value": two.value,
        "difference": one.value - two.value,
    }
    row |= {"low": found.low, "high": found.high, "first_only": None, "second_only": None}
    return row | {"p": found.p, "test": "bootstrap", "significant": found.is_significant}


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
