"""Seeds: several trainings of one system are one line of a table: their mean, their spread, and each.

Its interval and its tests draw subjects and trainings, independently of each other (Owen 2007, "The pigeonhole
bootstrap"), so that they hold for other people and for other seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mdfpipe.evaluation.benchmark import mean_and_spread
from mdfpipe.evaluation.case import Searched, generator_of, operate
from mdfpipe.evaluation.measures.differences import Counted, mean_over
from mdfpipe.evaluation.measures.intervals import Statistic, over_seeds, over_subjects, subject_codes
from mdfpipe.evaluation.measures.metrics import NO_INTERVAL, mean_of_rows

Row = dict[str, Any]
Seeds = Mapping[str, Sequence[str]]
"""The trainings of a system or fusion with several seeds, by its name."""


def lines_of(systems: Iterable[str], seeds: Seeds) -> dict[str, list[str]]:
    """The lines of a table, in the order of their first system: of each, its trainings, or the one system that it is.

    Where a training is missing the others are lines of their own: a mean over some seeds would be another number.

    >>> lines_of(["a-0", "b", "a-1", "c-0"], {"a": ["a-0", "a-1"], "c": ["c-0", "c-1"]})
    {'a': ['a-0', 'a-1'], 'b': ['b'], 'c-0': ['c-0']}
    """
    there = list(systems)
    whole = {own: name for name, trainings in seeds.items() if {*trainings} <= {*there} for own in trainings}
    return {whole.get(name, name): list(seeds[whole[name]]) if name in whole else [name] for name in there}


def mean_row(name: str, rows: Sequence[Row], published: float | None) -> Row:
    """The row of METRICS of a system's trainings together, without its interval. rows: of each, in order."""
    nothing = dict.fromkeys(("k", "low", "high", "interval", "threshold", "k_false", "spread", "each"))
    own = {"system": name, "n": min(row["n"] for row in rows), "published": published, "seeds": len(rows)}
    own |= mean_of_rows(rows, NO_INTERVAL) | {"seed_of": None}
    if own["value"] is not None:
        each = [row["value"] for row in rows]
        own |= {"spread": mean_and_spread(each)[1], "each": each}
    return rows[0] | nothing | own


def with_bounds(row: Row, interval: Row) -> Row:
    """The row of a mean with its interval, whose notes are added to its own."""
    return row | interval | {"notes": [*row["notes"], *interval["notes"]]}


def bounds(statistic: Statistic, people: int, trainings: int, seed: str) -> Row:
    """The columns of an interval over subjects and trainings."""
    return over_subjects(statistic, people, generator_of(seed), [trainings])


def case_bounds(metric: str, found: Sequence[Searched], seed: str) -> Row:
    """The interval of a measure of one pair of domains. found: the searches of each training."""
    if found[0].values(metric) is not None:
        return mean_bounds(metric, [Counted.of_seeds([Counted.of(one, [metric]) for one in found])], seed)
    names = np.unique(np.concatenate([side.subject for x in found for side in (x.scorer.gallery, x.scorer.probes)]))
    statistics = [operate(metric, one, None, names)[2] for one in found]
    return bounds(over_seeds(statistics, len(names)), len(names), len(found), f"{seed}/{metric}")


def mean_bounds(metric: str, parts: Sequence[Counted], seed: str) -> Row:
    """The interval of the mean over the probes of several cases. parts: of each, the probes of all trainings."""
    values = np.concatenate([part.values[metric] for part in parts], axis=1)
    (codes,), people = subject_codes(np.concatenate([part.subject for part in parts]))
    return bounds(mean_over([values], [codes], people), people, len(values), f"{seed}/{metric}")


def mean_curves(name: str, rows: Sequence[Sequence[Row]]) -> Iterator[Row]:
    """Rows of CURVES: the mean at each place that all trainings have; its bounds are their least and greatest."""
    of_each = [{(row["curve"], row["x"]): row for row in own} for own in rows]
    for place, row in of_each[0].items():
        if all(place in own for own in of_each):
            y = [own[place]["y"] for own in of_each]
            yield row | {"system": name, "y": float(np.mean(y)), "low": min(y), "high": max(y)}
