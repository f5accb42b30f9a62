"""Differences: two systems on the probes that both have: McNemar's test of Rank-1, a paired bootstrap of the rest.

Numbers of several probe domains, and means over galleries, are compared like any other. A test needs subjects: one
probe each for McNemar's, six of them for the bootstrap. With fewer, `p` and `test` are null: the numbers are untested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mdfpipe.evaluation.case import Case, Searched, fits, generator_of, operate
from mdfpipe.evaluation.comparing import F64, Array
from mdfpipe.evaluation.measures.intervals import (
    Difference,
    Statistic,
    mcnemar,
    mean_of,
    over_seeds,
    paired_bootstrap,
    subject_codes,
)
from mdfpipe.evaluation.measures.metrics import doubts
from mdfpipe.evaluation.table import is_of_searches
from mdfpipe.store.results import AVERAGE, FEWEST_SUBJECTS, POOLED, is_significant
from mdfpipe.store.tables import NumberNote


@dataclass(frozen=True, eq=False)
class Counted:
    """The n probes that a system's means count in one case. key: their names, without the modality. values: what each
    adds, by metric: (n,), or (trainings, n) of a system with several seeds.
    """

    key: Sequence[str]
    subject: Array
    values: Mapping[str, F64]

    @classmethod
    def of(cls, found: Searched, metrics: Iterable[str]) -> Counted:
        """The probes of a search."""
        counted = found.counted
        values = {metric: v[counted] for metric in metrics if (v := found.values(metric)) is not None}
        return cls([found.key[n] for n in np.flatnonzero(counted)], found.subject[counted], values)

    @classmethod
    def of_seeds(cls, trainings: Sequence[Counted]) -> Counted:
        """The probes that every training of one system counts, in the order of the first one."""
        shared = set.intersection(*(set(one.key) for one in trainings))
        key = [name for name in trainings[0].key if name in shared]
        places = [{name: at for at, name in enumerate(one.key)} for one in trainings]
        at = [np.array([where[name] for name in key], np.int64) for where in places]
        values = {
            metric: np.stack([one.values[metric][own] for one, own in zip(trainings, at, strict=True)])
            for metric in trainings[0].values
        }
        return cls(key, trainings[0].subject[at[0]], values)


Cases = Mapping[Case, Counted]


def members(of: Case, known: Iterable[Case]) -> list[Case]:
    """The cases that a number is the mean of: itself, or those that it pools and averages."""
    return [
        one
        for one in known
        if of.gallery_domain == one.gallery_domain
        and of.probe_domain in (one.probe_domain, POOLED)
        and of.gallery in (one.gallery, AVERAGE)
    ]


def compare(table: str, case: Case, systems: Mapping[str, Cases], metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of COMPARISONS for means over probes: each system against each after it, on the probes that both have.

    systems: by name, the probes of every case of the table.
    """
    for first, second in combinations(systems, 2):
        yield from compare_two(table, case, (first, systems[first]), (second, systems[second]), metrics)


def compare_two(
    table: str, case: Case, first: tuple[str, Cases], second: tuple[str, Cases], metrics: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The same for two systems, each with its name. Nothing where a gallery has no probe that both have."""
    (one, of_one), (two, of_two) = first, second
    both = {at: _shared(of_one[at], of_two[at]) for at in members(case, of_one) if at in of_two}
    galleries = {at.gallery: [other for other in both if other.gallery == at.gallery] for at in both}
    subjects = [np.concatenate([of_one[at].subject[both[at][0]] for at in cases]) for cases in galleries.values()]
    if not all(len(part) for part in subjects):
        return

    def values(side: int, cases: Sequence[Case], metric: str) -> F64:
        found = (of_one, of_two)[side]
        return np.concatenate([found[at].values[metric][..., both[at][side]] for at in cases], axis=-1)

    for metric in metrics if subjects else ():
        if all(metric in found[at].values for found in (of_one, of_two) for at in both):
            a, b = ([values(side, cases, metric) for cases in galleries.values()] for side in (0, 1))
            made = difference(metric, a, b, subjects, generator_of(f"{table}/{case}/{metric}"))
            yield {"table": table, **case.columns, "metric": metric, "first": one, "second": two} | made


def _shared(a: Counted, b: Counted) -> tuple[Array, Array]:
    """Where each of two systems has the probes that both count."""
    places = {key: at for at, key in enumerate(b.key)}
    shared = [(at, places[key]) for at, key in enumerate(a.key) if key in places]
    found = np.array(shared, np.int64).reshape(-1, 2).T
    return found[0], found[1]


def compare_scores(
    table: str, case: Case, searched: Mapping[str, Sequence[Searched]], metrics: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of COMPARISONS for measures of open-set searches and of pairs, which take seconds: the first system against
    each other one, on the probes that both searched; nothing where these are too many. searched: of each training.
    """
    first, *others = searched
    for second in others:
        for metric in metrics:
            a, b = searched[first], searched[second]
            every = (*a, *b)
            can = all(one.is_open for one in every) if is_of_searches(metric) else all(one.holds for one in every)
            if a[0].values(metric) is None and can:
                made = _of_scores(metric, a, b, generator_of(f"{table}/{case}/{metric}"))
                about = {"table": table, **case.columns, "metric": metric, "first": first, "second": second}
                yield from [about | made] if made else []


def _of_scores(
    metric: str, a: Sequence[Searched], b: Sequence[Searched], generator: np.random.Generator
) -> dict[str, Any] | None:
    every = (*a, *b)
    asked = [{key for key, there in zip(x.key, x.has | x.strangers, strict=True) if there} for x in every]
    shared = sorted(set.intersection(*asked))
    if not shared:
        return None
    names = np.unique(np.concatenate([side.subject for x in every for side in (x.scorer.gallery, x.scorer.probes)]))
    found = [operate(metric, x, np.isin(np.array(x.key), shared), names) for x in every]
    unresolved = any(NumberNote.UNRESOLVED in doubts(one) for one, _, _ in found)
    if unresolved or not fits(found[0][1]) or len(names) < 2:
        return None
    seeds = [len(side) for side in (a, b) if len(side) > 1]
    statistics = [statistic for _, _, statistic in found]
    first = over_seeds(statistics[: len(a)], len(names))
    second = over_seeds(statistics[len(a) :], len(names), len(a) if len(a) > 1 else 0)
    tested = paired_bootstrap(first, second, len(names), generator, seeds=seeds)
    people = len(np.unique(a[0].subject[np.isin(np.array(a[0].key), shared)]))
    values = [one.value for one, _, _ in found]
    return _row(found[0][0].n, float(np.mean(values[: len(a)])), float(np.mean(values[len(a) :]))) | _tested(
        tested, people
    )


def difference(
    metric: str, a: Sequence[F64], b: Sequence[F64], subjects: Sequence[Array], generator: np.random.Generator
) -> dict[str, Any]:
    """Columns of COMPARISONS for the plain mean over parts of what the (n,) probes of each part add.

    a, b: of each part the two systems' numbers, (n,) or (trainings, n), of the same probes, whose subjects are (n,).
    One part is no mean.
    """
    codes, people = subject_codes(*subjects)
    first, second = (float(np.mean([part.mean() for part in side])) for side in (a, b))
    row = _row(sum(len(part) for part in subjects), first, second)
    seeds = [len(np.atleast_2d(side[0])) for side in (a, b)]
    if people > 1:
        means = mean_over(a, codes, people), mean_over(b, codes, people, 0 if seeds[0] == 1 else seeds[0])
        drawn = [count for count in seeds if count > 1]
        row |= _tested(paired_bootstrap(*means, people, generator, seeds=drawn), people)
    if metric == "rank-1" and len(a) == 1 and people == len(subjects[0]) and seeds == [1, 1]:
        test = mcnemar(np.atleast_2d(a[0])[0] > 0, np.atleast_2d(b[0])[0] > 0)
        row |= {"first_only": test.first_only, "second_only": test.second_only, "p": test.p, "test": "mcnemar"}
        row["significant"] = is_significant(test.p)
    return row


def mean_over(parts: Sequence[F64], codes: Sequence[Array], people: int, before: int = 0) -> Statistic:
    """The mean over parts of the mean over probes, of each training; and their mean: see `over_seeds`."""
    by_part = [
        [mean_of(values, whose, people) for values in np.atleast_2d(part)]
        for part, whose in zip(parts, codes, strict=True)
    ]
    return over_seeds([_mean(of_one) for of_one in zip(*by_part, strict=True)], people, before)


def _mean(parts: Sequence[Statistic]) -> Statistic:
    return parts[0] if len(parts) == 1 else lambda counts: np.mean([part(counts) for part in parts], axis=0)


def _row(n: int, first: float, second: float) -> dict[str, Any]:
    """A comparison that nothing has tested."""
    nothing = dict.fromkeys(("low", "high", "first_only", "second_only", "p", "test", "significant"))
    return {"n": n, "first_value": first, "second_value": second, "difference": first - second} | nothing


def _tested(found: Difference, people: int) -> dict[str, Any]:
    """What a bootstrap says; of too few people its interval alone, as no p of theirs could be trusted."""
    bounds = {"low": found.low, "high": found.high}
    if people < FEWEST_SUBJECTS:
        return bounds
    return bounds | {"p": found.p, "test": "bootstrap", "significant": is_significant(found.p)}
