"""Case: one gallery domain against one probe domain, searched by each system; its numbers, curves and differences."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from mdfpipe.errors import ProtocolError
from mdfpipe.evaluation.adjusting import in_blocks, is_adjusted, of_scores, of_searches
from mdfpipe.evaluation.comparing import F64, I64, NAMED, Array, Flags
from mdfpipe.evaluation.measures.intervals import (
    Statistic,
    mean_of,
    no_interval,
    over_subjects,
    subject_codes,
    wilson,
)
from mdfpipe.evaluation.measures.metrics import ROUND, Metric, doubts, rate, share_of
from mdfpipe.evaluation.measures.open_set import OpenSet
from mdfpipe.evaluation.measures.separation import Separation
from mdfpipe.evaluation.measures.verification import Roc, roc
from mdfpipe.evaluation.score_fusion import MOST_PAIRS, Scorer
from mdfpipe.evaluation.search import Ranking
from mdfpipe.evaluation.table import WITHIN, Table, depth_of, is_of_searches
from mdfpipe.store.tables import NumberNote, SearchStatus
from mdfpipe.store.templates import Templates

CMC_DEPTH: Final = 50
CURVE: Final = np.array([float(f"{x:.3g}") for x in np.logspace(-9, 0, 91)])  # shares of false alarms
STATUSES: Final = tuple(SearchStatus)
SEARCHED, UNMATED, NO_PROBE, NO_MATE, LEFT_OUT = range(len(STATUSES))


@dataclass(frozen=True)
class Case:
    """Who is searched where. gallery: which of the data set's galleries is enrolled; `all` of them."""

    gallery_domain: str
    probe_domain: str
    gallery: str

    def __str__(self) -> str:
        of = "" if self.gallery == "all" else f" (gallery {self.gallery})"
        return f"{self.gallery_domain} > {self.probe_domain}{of}"

    @property
    def columns(self) -> dict[str, str]:
        """As a table has it."""
        return vars(self)

    def within(self, table: Table) -> str:
        """The domain, where it is searched in itself; else nothing."""
        return self.gallery_domain if self.gallery_domain == self.probe_domain and table.pairs in WITHIN else ""

    def sides(self, templates: Templates, table: Table) -> tuple[Templates, Templates]:
        """The gallery's and the probes' templates."""
        roles: list[dict[str, str]] = [{"role": "gallery"}, {"role": "probe"}] if table.pairs == "thirds" else [{}, {}]
        return (
            templates.where(domain=self.gallery_domain, **roles[0]),
            templates.where(domain=self.probe_domain, **roles[1]),
        )


@dataclass(eq=False)
class Searched:
    """What a system found for each of P probes that should be there, in the order of their keys.

    status: (P,) places in STATUSES. rank, mated, nonmated, precision, penalty: (P,), 0 and -inf where not searched.
    place: (P,) row of the probe in `ranking`, or -1. gallery, probes: the places in the scorer that were compared.
    counts: columns of METRICS. misses: whether a failure to enrol counts as one; unmated: whether a stranger does.
    """

    scorer: Scorer
    key: list[str]
    subject: Array
    status: I64
    ranking: Ranking
    place: I64
    gallery: I64
    probes: I64
    counts: dict[str, int]
    misses: bool
    unmated: bool

    def __post_init__(self) -> None:
        searched = self.place >= 0
        at = self.place[searched]

        def spread(values: Array, nothing: float) -> Array:
            found = np.full(len(self.key), nothing, values.dtype)
            found[searched] = values[at]
            return found

        ranking = self.ranking
        self.rank = spread(ranking.rank, 0)
        self.mated, self.nonmated = spread(ranking.mated, -np.inf), spread(ranking.nonmated, -np.inf)
        self.precision = spread(ranking.average_precision, 0)
        last = np.maximum(ranking.last_rank, 1)
        self.penalty = spread(np.where(ranking.has_mate, ranking.mates / last, 0.0), 0)

    @property
    def has(self) -> Flags:
        """(P,) whether it was searched, with somebody to find."""
        found: Flags = self.status == SEARCHED
        return found

    @property
    def counted(self) -> Flags:
        """(P,) whether closed-set measures count it."""
        counts = [True, self.unmated, self.misses, self.misses, False]
        found: Flags = np.array(counts)[self.status]
        return found

    @property
    def failed(self) -> int:
        """Mated probes that count as misses without having been searched."""
        return int(np.isin(self.status, (NO_PROBE, NO_MATE)).sum()) if self.misses else 0

    @property
    def line(self) -> str:
        """Coverage, in one line."""
        of = {str(name): int((self.status == code).sum()) for code, name in enumerate(STATUSES)}
        searched = of.pop("searched")
        more = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in of.items() if count)
        return f"{searched} of {len(self.key)} probes searched" + (f" ({more})" if more else "")

    def leave_out(self, which: Flags) -> None:
        """Leave searched probes out, because another system does not have them."""
        self.status = np.where(which & self.has, LEFT_OUT, self.status)
        self.counts["n_left_out"] = int((self.status == LEFT_OUT).sum())

    def values(self, metric: str) -> F64 | None:
        """(P,) of each probe, of the measures that are means over probes; None of any other."""
        depth = depth_of(metric)
        if depth is not None:
            return ((self.rank > 0) & (self.rank <= depth) & self.has).astype(np.float64)
        of: dict[str, F64] = {"map": self.precision, "minp": self.penalty}
        return np.where(self.has, of[metric], 0.0) if metric in of else None

    @property
    def strangers(self) -> Flags:
        """(P,) whether it was searched although the protocol does not enrol its subject."""
        found: Flags = (self.status == UNMATED) & (self.place >= 0)
        return found

    @property
    def is_open(self) -> bool:
        """Whether open-set metrics are asked for: within a domain only where some probe has no mate."""
        return self.scorer.sessions is None or bool(self.strangers.any())

    def open_set(self, only: Flags | None = None) -> OpenSet:
        """Its searches, mated and not; of some probes only. Raises ProtocolError where there are none of a kind."""
        has, strangers, failed = self.has, self.strangers, self.failed
        if only is not None:
            has, strangers, failed = has & only, strangers & only, 0
        return OpenSet(self.mated[has], self.rank[has], self.nonmated[strangers], failed)

    def searches(self, only: Flags | None = None, names: Array | None = None) -> Separation:
        """Mates within place 1 against the best of each stranger's search. names: a coding of subjects to share."""
        has, strangers = self.has, self.strangers
        if only is not None:
            has, strangers = has & only, strangers & only
        of_high, of_low, subjects = _coded(self.subject[has], self.subject[strangers], names)
        high = np.where(self.rank[has] == 1, self.mated[has], -np.inf)
        return Separation(high, self.nonmated[strangers], of_high, of_low, subjects)

    def pairs(self, only: Flags | None = None, names: Array | None = None) -> tuple[Separation, Roc]:
        """The scores of every pair of a searched probe and a gallery template, and whose they are."""
        asked = self.has | self.strangers
        kept = np.flatnonzero(asked if only is None else asked & only)
        scores = self.scorer.matrix(self.gallery, self.probes[self.place[kept]])
        enrolled = self.scorer.gallery.subject[self.gallery]
        of_probe, of_gallery, subjects = _coded(self.subject[kept], enrolled, names)
        same = of_probe[:, None] == of_gallery[None]
        compared = self.scorer.compared(self.gallery, self.probes[self.place[kept]])
        same, other = same & compared, ~same & compared
        both = np.stack(np.broadcast_arrays(of_probe[:, None], of_gallery[None]), axis=-1)
        high, low = scores[same].astype(np.float64), scores[other].astype(np.float64)
        codes = np.broadcast_to(of_probe[:, None], same.shape)[same]
        failed = self.failed if only is None else 0
        return Separation(high, low, codes, both[other], subjects), roc(high, low, failed)

    @property
    def has_pairs(self) -> bool:
        """Whether there are mated and other pairs."""
        return self.counts["n_subjects"] > 1

    @property
    def holds(self) -> bool:
        """Whether the scores of all pairs can be held at once."""
        return len(self.gallery) * int((self.has | self.strangers).sum()) <= MOST_PAIRS

    @cached_property
    def roc(self) -> Roc:
        """The ROC of every pair, in blocks where the scores cannot be held."""
        if self.holds:
            return self.pairs()[1]
        return self.scorer.verify(self.gallery, self.probes[self.place[self.has | self.strangers]], self.failed)

    def rows(self, top: int) -> Iterator[dict[str, Any]]:
        """Rows of SEARCHES."""
        names = np.array(self.scorer.gallery.name, object)[self.gallery]
        of_probes = self.scorer.probes.name
        for n in range(len(self.key)):
            at = int(self.place[n])
            best = self.ranking.top[at, :top] if at >= 0 else np.zeros(0, np.int64)
            best = best[best >= 0]
            mated = at >= 0 and self.rank[n] > 0
            yield {
                "template": of_probes[n],
                "subject_id": str(self.subject[n]),
                "status": STATUSES[self.status[n]].value,
                "rank": int(self.rank[n]) if mated else None,
                "mated_score": float(self.mated[n]) if mated else None,
                "nonmated_score": float(self.nonmated[n]) if at >= 0 and np.isfinite(self.nonmated[n]) else None,
                "average_precision": float(self.precision[n]) if mated else None,
                "inverse_penalty": float(self.penalty[n]) if mated else None,
                "top": names[best].tolist(),
                "top_score": self.ranking.top_score[at, : len(best)].tolist() if at >= 0 else [],
            }


def search_case(
    scorer: Scorer, table: Table, case: Case, enrolled: set[str] | None, galleries: Collection[str]
) -> Searched | None:
    """Search a case; None if no subject is enrolled or no probe has a mate. Raises ProtocolError.

    enrolled: the subjects of the gallery, where only one of several is searched. galleries: the subjects of all.
    """
    gallery, probes = scorer.gallery, scorer.probes
    inside = np.ones(len(gallery), bool) if enrolled is None else np.isin(gallery.subject, sorted(enrolled))
    there = np.flatnonzero(inside & gallery.enrolled)
    mated, found = scorer.mated(inside), scorer.mated(inside & gallery.enrolled)
    if not len(probes) or not mated.any() or not len(there):
        return None
    strangers = ~mated if enrolled is None else ~mated & ~np.isin(probes.subject, sorted(galleries))
    if table.unmated == "refuse" and scorer.sessions is None and strangers.any():
        who = list(dict.fromkeys(probes.subject[strangers].tolist()))
        more = f" and {len(who) - NAMED} more" if len(who) > NAMED else ""
        raise ProtocolError(
            f"{case}: {int(strangers.sum())} of {len(probes)} probes (of {', '.join(who[:NAMED])}{more}) have no mate "
            "in the gallery; set unmated to exclude (they are not counted) or miss (they count as misses), or correct "
            "the protocol"
        )
    status = np.select([~mated, ~probes.enrolled, ~found], [UNMATED, NO_PROBE, NO_MATE], SEARCHED).astype(np.int64)
    asked = np.flatnonzero(probes.enrolled & (found | ~mated))
    if not (status == SEARCHED).any():
        return None
    ranking = scorer.search(there, asked, 10)
    place = np.full(len(probes), -1)
    place[asked] = np.arange(len(asked))
    counts = {
        "n_gallery": len(there),
        "n_subjects": len(np.unique(gallery.subject[there])),
        "n_probes": len(probes),
        "failed_gallery": int((inside & ~gallery.enrolled).sum()),
        "failed_probes": probes.failed,
        "unusable_gallery": int(gallery.unusable[inside].sum()),
        "unusable_probes": int(probes.unusable.sum()),
        "n_unmated": int((~mated).sum()),
        "n_left_out": 0,
    }
    subject, key = probes.subject, probes.key
    misses, unmated = table.failure == "miss", table.unmated == "miss"
    return Searched(scorer, key, subject, status, ranking, place, there, asked, counts, misses, unmated)


# -- numbers


def measure_case(found: Searched, table: Table, seed: str) -> Iterator[dict[str, Any]]:
    """A row for each metric of the table: value, k, n, interval, chance, operating point, notes. Raises ProtocolError.

    No interval where failures take part that have no score to be drawn, or where the scores cannot be held at once. No
    number at an operating point that the data do not resolve.
    """
    for metric in table.metrics:
        if is_of_searches(metric) and not found.is_open:
            continue
        generator = generator_of(f"{seed}/{metric}")
        values = found.values(metric)
        if values is not None:
            yield _mean_row(metric, values[found.counted], found.subject[found.counted], found, generator)
            continue
        if not is_of_searches(metric) and not found.holds:
            one, bounds = _of_all_pairs(metric, found), no_interval(NumberNote.MANY_SCORES)
        else:
            one, separation, statistic = operate(metric, found)
            failed = found.failed and not is_adjusted(metric)  # which counts pairs with a score alone
            if failed or not fits(separation):
                bounds = no_interval(NumberNote.FAILURES if failed else NumberNote.MANY_SCORES)
            elif NumberNote.UNRESOLVED in doubts(one):
                bounds = no_interval(NumberNote.UNRESOLVED)
            else:
                bounds = over_subjects(statistic, separation.subjects, generator)
        yield _row(one, bounds) | {"metric": metric}


def measure_together(parts: Sequence[Searched], table: Table, seed: str) -> Iterator[dict[str, Any]]:
    """The means over the probes of several domains, searched in one gallery."""
    subjects = np.concatenate([found.subject[found.counted] for found in parts])
    for metric in table.metrics:
        values = [found.values(metric) for found in parts]
        given = [v[found.counted] for v, found in zip(values, parts, strict=True) if v is not None]
        if given:
            yield _mean_row(metric, np.concatenate(given), subjects, parts[0], generator_of(f"{seed}/{metric}"))


def _mean_row(
    metric: str, values: F64, subjects: Array, found: Searched, generator: np.random.Generator
) -> dict[str, Any]:
    """Wilson's interval of a rate with one probe a subject; over subjects of anything else."""
    depth, n = depth_of(metric), len(values)
    one = rate(metric, int(values.sum()), n) if depth is not None else Metric(metric, float(values.mean()), n)
    (codes,), people = subject_codes(subjects)
    if depth is not None and people == n:
        low, high = wilson(int(values.sum()), n)
        bounds = {"low": low, "high": high, "interval": "wilson", "notes": []}
    else:
        bounds = over_subjects(mean_of(values, codes, people), people, generator)
    row = _row(one, bounds)
    if depth is not None:
        row["chance"] = chance = min(1.0, depth / found.counts["n_subjects"])
        least = row["value"] if row["low"] is None else row["low"]
        if depth >= found.counts["n_gallery"]:
            row["notes"].insert(0, NumberNote.TRIVIAL)
        elif least <= chance:
            row["notes"].insert(0, NumberNote.AT_CHANCE)
    return row


def _row(one: Metric, bounds: dict[str, Any]) -> dict[str, Any]:
    """Columns of METRICS; of an operating point that the data do not resolve, only how many could have been false."""
    notes = doubts(one)
    if NumberNote.UNRESOLVED in notes:
        nothing = dict.fromkeys(("value", "k", "threshold", "k_false", "low", "high", "interval", "chance"))
        return nothing | {"metric": one.name, "n": one.n, "n_false": one.n_false, "notes": notes}
    finite = one.threshold is not None and np.isfinite(one.threshold)
    row = {
        "metric": one.name,
        "value": one.value,
        "k": one.k,
        "n": one.n,
        "chance": None,
        "threshold": one.threshold if finite else None,
        "k_false": one.k_false,
        "n_false": one.n_false,
    }
    return row | bounds | {"notes": [*notes, *bounds["notes"]]}


def operate(
    metric: str, found: Searched, only: Flags | None = None, names: Array | None = None
) -> tuple[Metric, Separation, Statistic]:
    """A measure of open-set searches or of pairs: its number, the scores it comes from, and its bootstrap's statistic.

    only: (P,) the probes to look at. names: a coding of subjects that another system's statistic shares.
    """
    kind, at, _ = metric.partition("@")
    if "@train" in metric and is_of_searches(metric):
        separation = found.searches(only, names)
        return _three(of_searches(metric, found.open_set(only), separation, found.scorer), separation)
    if kind in ("fnir", "dir"):
        share, searches, separation = share_of(metric), found.open_set(only), found.searches(only, names)
        succeeds = separation.rate_at(share)
        if kind == "dir":
            return searches.dir_at(share), separation, succeeds
        return searches.fnir_at(share), separation, lambda counts: 1 - succeeds(counts)
    separation, curve = found.pairs(only, names)
    if is_adjusted(metric):
        return _three(of_scores(metric, separation, curve, found.scorer), separation)
    if at:
        statistic = separation.rate_at(share_of(metric))
    elif metric == "auc":
        statistic = separation.auc()
    else:
        statistic = separation.equal_error(metric)
        if metric in ("eer-hter", "eer-fvc"):
            curve = roc(separation.high, separation.low, curve.n_mated - len(separation.high), whole=True)
    return _of_curve(metric, curve), separation, statistic


def _three(found: tuple[Metric, Statistic], separation: Separation) -> tuple[Metric, Separation, Statistic]:
    return found[0], separation, found[1]


def _of_all_pairs(metric: str, found: Searched) -> Metric:
    """A measure of pairs whose scores cannot be held."""
    if is_adjusted(metric):
        asked = found.probes[found.place[found.has | found.strangers]]
        return in_blocks(metric, found.scorer, found.gallery, asked, found.roc)
    return _of_curve(metric, found.roc)


def _of_curve(metric: str, curve: Roc) -> Metric:
    if metric.startswith("tar@"):
        return curve.tar_at(share_of(metric))
    return getattr(curve, metric.replace("-", "_"))()  # type: ignore[no-any-return]


def fits(separation: Separation) -> bool:
    """Whether it can be drawn again some thousand times within seconds."""
    return len(separation.high) + len(separation.low) <= (MOST_PAIRS >> 2)


def _coded(a: Array, b: Array, names: Array | None) -> tuple[I64, I64, int]:
    """Subjects as places among `names`, by default those of both, sorted; and how many names there are."""
    known = np.unique(np.concatenate([a, b])) if names is None else names
    return np.searchsorted(known, a).astype(np.int64), np.searchsorted(known, b).astype(np.int64), len(known)


# -- curves


def curves(found: Searched) -> Iterator[dict[str, Any]]:
    """CMC and ROC; DET where there are strangers. Bounds are Wilson's. Nothing below one false alarm is drawn."""
    n = int(found.counted.sum())
    for depth in range(1, min(CMC_DEPTH, found.counts["n_gallery"]) + 1) if n else ():
        yield point("cmc", depth, int(((found.rank > 0) & (found.rank <= depth) & found.has).sum()), n)
    if found.has_pairs:
        for far in _resolved(found.roc.n_nonmated):
            at = found.roc.tar_at(far)
            yield point("roc", far, at.k or 0, at.n)
    if found.strangers.any():
        searches = found.open_set()
        for fpir in _resolved(searches.n_nonmated):
            at = searches.fnir_at(fpir)
            yield point("det", fpir, at.k or 0, at.n)


def _resolved(n: int) -> list[float]:
    """The shares of false alarms of a curve, from one of n."""
    return [1 / n, *CURVE[(1 + ROUND) / n < CURVE].tolist()]


def point(curve: str, x: float, k: int, n: int) -> dict[str, Any]:
    """A point of CURVES, k of n, with Wilson's bounds."""
    low, high = wilson(k, n)
    return {"curve": curve, "x": float(x), "y": k / n, "low": low, "high": high}


def generator_of(name: str) -> np.random.Generator:
    """The same draws for every system of a table."""
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=key))
