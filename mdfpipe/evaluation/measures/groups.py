"""Groups: a mean over probes by group of probes, such as cameras, with intervals, and tests between the groups.

One bootstrap over subjects serves all groups: a subject in two groups is drawn for both, so groups may share subjects.
Where each subject is one probe, shares are compared by Fisher's exact test. All pairs of groups are tested, and the p
values are corrected for their number (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np

from mdfpipe.evaluation.comparing import F64, I64, Array
from mdfpipe.evaluation.measures.intervals import (
    SAMPLES,
    percentiles,
    seed_draws,
    subject_codes,
    subject_draws,
    wilson,
)
from mdfpipe.evaluation.table import depth_of
from mdfpipe.store.results import FEWEST_SUBJECTS, Verdict, is_lower_better, is_significant
from mdfpipe.store.tables import NumberNote

FEW_PROBES: Final = 30


@dataclass(frozen=True)
class GroupNumber:
    """The number of one group. k: of a share. few: under FEW_PROBES probes or FEWEST_SUBJECTS subjects.

    verdict: against the best group, `best`, by the p value of `test`, which is corrected; None of one group alone.
    notes: on the interval.
    """

    value: float
    k: int | None
    n: int
    subjects: int
    low: float | None
    high: float | None
    interval: str | None
    few: bool
    notes: tuple[NumberNote, ...] = ()
    verdict: Verdict | None = None
    best: int = 0
    p: float | None = None
    test: str | None = None


def is_rate(metric: str) -> bool:
    """Whether a mean over probes is a share of them, as a probe is either found or not.

    >>> is_rate("rank-1"), is_rate("fnir@fpir=0.01"), is_rate("map")
    (True, True, False)
    """
    return depth_of(metric) is not None or "@" in metric


def group_numbers(
    values: Mapping[str, F64], subject: Array, group: I64, generator: np.random.Generator
) -> dict[str, list[GroupNumber]]:
    """Numbers of each group, by metric. group: (n,) 0..G-1, none empty.

    values: what each of n probes adds, (n,), or (trainings, n) of a system with several seeds: then nothing is k of n,
    and the bootstrap draws trainings, too.
    """
    (codes,), people = subject_codes(subject)
    groups = int(group.max()) + 1
    cell = codes * groups + group
    each = [np.atleast_2d(v) for v in values.values()]
    trainings = max(map(len, each))
    sums: list[F64] = [
        np.bincount(cell, v, people * groups).reshape(people, groups).astype(np.float64) for rows in each for v in rows
    ]
    sizes = np.bincount(cell, minlength=people * groups).reshape(people, groups).astype(np.float64)
    stacked, parts = np.hstack([sizes, *sums]), []
    seeds, done = seed_draws(trainings, SAMPLES, generator), 0
    for counts in subject_draws(people, SAMPLES, generator) if people > 1 else ():
        drawn = (counts @ stacked).reshape(len(counts), 1 + len(sums), groups)
        times = seeds[done : done + len(counts), None, :, None]
        of_each = drawn[:, 1:].reshape(len(counts), len(each), trainings, groups)
        with np.errstate(invalid="ignore"):  # NaN where a group was not drawn
            parts.append((of_each * times).sum(axis=2) / times.sum(axis=2) / drawn[:, :1])
        done += len(counts)
    means = np.concatenate(parts) if parts else np.zeros((0, len(each), groups))
    found = {}
    for at, metric in enumerate(values):
        is_share = is_rate(metric) and trainings == 1
        sum_ = np.mean(sums[at * trainings : (at + 1) * trainings], axis=0)
        own = [_number(sum_[:, g], sizes[:, g], means[:, at, g], is_share) for g in range(groups)]
        found[metric] = _tested(own, means[:, at], is_share and len(codes) == people, is_lower_better(metric))
    return found


def _number(sums: F64, sizes: F64, means: F64, is_share: bool) -> GroupNumber:
    n, subjects = int(sizes.sum()), int((sizes > 0).sum())
    k = round(float(sums.sum())) if is_share else None
    few = n < FEW_PROBES or subjects < FEWEST_SUBJECTS
    one = GroupNumber(float(sums.sum() / n), k, n, subjects, None, None, None, few, (NumberNote.ONE_SUBJECT,))
    if k is not None and subjects == n:
        low, high = wilson(k, n)
        return replace(one, low=low, high=high, interval="wilson", notes=())
    if subjects < 2:
        return one
    low, high = percentiles(means[~np.isnan(means)])
    doubts = {NumberNote.FEW_SUBJECTS: subjects < FEWEST_SUBJECTS, NumberNote.NO_WIDTH: low == high}
    notes = tuple(note for note, there in doubts.items() if there)
    return replace(one, low=low, high=high, interval="bootstrap", notes=notes)


def _tested(own: list[GroupNumber], means: F64, is_exact: bool, is_lower: bool) -> list[GroupNumber]:
    """The same with verdicts against the best group. is_lower: the best one has the least."""
    if len(own) < 2:
        return own
    pairs: dict[tuple[int, int], float] = {}
    for a, b in combinations(range(len(own)), 2):
        if min(own[a].subjects, own[b].subjects) >= FEWEST_SUBJECTS:
            one, other = own[a], own[b]
            if is_exact:
                assert one.k is not None
                assert other.k is not None
                pairs[a, b] = fisher(one.k, one.n, other.k, other.n)
            else:
                apart = means[:, a] - means[:, b]
                apart = apart[~np.isnan(apart)]
                side = min(int((apart <= 0).sum()), int((apart >= 0).sum()))
                pairs[a, b] = min(1.0, 2 * (side + 1) / (len(apart) + 1))  # as `paired_bootstrap`
    corrected = dict(zip(pairs, holm(list(pairs.values())), strict=True))
    best = (min if is_lower else max)(range(len(own)), key=lambda g: own[g].value)
    test, found = "fisher" if is_exact else "bootstrap", []
    for g, one in enumerate(own):
        p = corrected.get((min(g, best), max(g, best)))
        more: dict[str, Any] = {"best": best, "p": p, "test": test if p is not None else None}
        if one.value == own[best].value:
            is_tested = any(best in pair for pair in pairs)
            more |= {"verdict": Verdict.BEST if is_tested else Verdict.UNTESTED}
        elif p is None:
            more["verdict"] = Verdict.UNTESTED
        else:
            more["verdict"] = Verdict.WORSE if is_significant(p) else Verdict.LEVEL
        found.append(GroupNumber(**{**vars(one), **more}))
    return found


def fisher(k: int, n: int, other_k: int, other_n: int) -> float:
    """The two-sided p of two shares of different subjects (Fisher 1934): all tables at most as likely as this one.

    >>> round(fisher(8, 10, 1, 10), 6)
    0.005477
    """
    from scipy.special import gammaln

    def chosen(of: Any, count: Any) -> Any:
        return gammaln(of + 1) - gammaln(count + 1) - gammaln(of - count + 1)

    both = k + other_k
    x = np.arange(max(0, both - other_n), min(both, n) + 1)
    log = chosen(n, x) + chosen(other_n, both - x) - chosen(n + other_n, both)
    return float(min(1.0, np.exp(log[log <= log[k - x[0]] + 1e-7]).sum()))


def holm(p: list[float]) -> list[float]:
    """The p values of one family, corrected for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    found, most = [0.0] * len(p), 0.0
    for done, at in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        most = max(most, min(1.0, (len(p) - done) * p[at]))
        found[at] = most
    return found
