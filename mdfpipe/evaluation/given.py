"""Given scores: a matcher's score lists to the same numbers that vectors give.

A list in which every named probe is compared with every named gallery template is searched, as vectors are. Any other
list has pairs alone: ROC, equal error rates, area. Its bootstrap draws subjects where they are named, else pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from mdfpipe.errors import ProtocolError, one_line
from mdfpipe.evaluation.case import Case, Searched, curves, generator_of, measure_case, search_case
from mdfpipe.evaluation.comparing import F64, I64, Array, Flags
from mdfpipe.evaluation.measures.differences import Counted, compare, compare_scores
from mdfpipe.evaluation.measures.intervals import (
    CELLS,
    SAMPLES,
    blocks,
    percentiles,
    subject_codes,
    subject_draws,
)
from mdfpipe.evaluation.measures.metrics import share_of
from mdfpipe.evaluation.measures.separation import EQUAL
from mdfpipe.evaluation.measures.verification import Roc, roc
from mdfpipe.evaluation.score_fusion import MOST_PAIRS, Scorer
from mdfpipe.evaluation.study import Keep
from mdfpipe.evaluation.table import Table, depth_of, is_of_searches
from mdfpipe.evaluation.vectors import Evaluated
from mdfpipe.store.run import fingerprint
from mdfpipe.store.score_lists import ANYWHERE, ScoreList, Side
from mdfpipe.store.tables import NumberNote
from mdfpipe.store.templates import Templates

MODALITY: Final = "scores"
MOST_DRAWN: Final = 1 << 18  # pairs without an interval beyond: a bootstrap of so many takes half a minute
METRICS: Final = (
    *("rank-1", "rank-5", "rank-10", "map", "fnir@fpir=0.01", "fnir@fpir=0.1", "tar@far=1e-3", "tar@far=1e-2"),
    *("eer", "eer-hter", "eer-fvc", "rocch-eer", "auc"),
)
"""What is measured of score lists, unless a table asks for something else."""


def evaluate_lists(name: str, table: Table, lists: Sequence[ScoreList], keep: Keep | None = None) -> Evaluated:
    """The numbers of matchers side by side, a system each, in a table of this name. Raises ProtocolError.

    A metric that a list cannot give is left out, and a note says why.
    """
    found, lists = Evaluated(), _placed(lists)
    systems = list(dict.fromkeys(one.name for one in lists))
    work = [_searched(one, table) for one in lists]
    task = sorted({(*one.place, *_task(of)) for one, of in zip(lists, work, strict=True)})
    about = f"scores that were given, of {len(systems)} matcher{'s' if len(systems) > 1 else ''}"
    entry: dict[str, Any] = {
        "title": table.title,
        "protocol": about,
        "fingerprint": fingerprint(["given scores", [list(one) for one in task]]),
        "systems": systems,
        "seeds": {},
        "benchmark": False,
        "same_media": False,
        "coverage": [],
        "notes": [f"{one.name}: {note}" for one in lists for note in one.notes],
    }
    found.tables[name] = entry
    cases: dict[Case, dict[str, Searched]] = {}
    for one, of in zip(lists, work, strict=True):
        case = Case(*one.place)
        if one.name in cases.setdefault(case, {}):
            raise ProtocolError(f"{one.name}: expected one list of {case} by this name, got two; rename a file")
        cases[case][one.name] = of
        metrics, why = _metrics(table, of)
        entry["coverage"] += [f"{case}: {one.name}: {of.line}"]
        entry["notes"] += [f"{one.name}: {line}" for line in why]
        row = {"table": name, "system": one.name, "protocol": about, **case.columns, **of.counts} | _ABOUT
        row |= {"failure": table.failure, "unmated": table.unmated}
        bounds = of.bounds(metrics, generator_of(f"{name}/{case}")) if isinstance(of, Pairs) else {}
        for number in measure_case(of, table.model_copy(update={"metrics": metrics}), f"{name}/{case}"):
            if isinstance(of, Pairs) and number["value"] is not None:
                number = of.with_bounds(number, bounds)
            paper = table.paper(one.name, case.gallery_domain, case.probe_domain, number["metric"])
            found.metrics.append(row | number | {"published": paper})
        place = {"table": name, "system": one.name, **case.columns}
        found.curves += [place | point for point in curves(of)]
        found.searches += [place | search for search in of.rows(10)]
        if keep is not None and not isinstance(of, Pairs):
            keep(name, one.name, case, of)
    unknown = [name for by_name in cases.values() for name, of in by_name.items() if isinstance(of, Pairs)]
    if len(unknown) > 1:
        entry["notes"].append(f"nobody knows whether the pairs of {', '.join(unknown)} are the same: none is compared")
    for case, by_name in cases.items():
        whole = {system: of for system, of in by_name.items() if not isinstance(of, Pairs)}
        counted = {system: {case: Counted.of(of, table.metrics)} for system, of in whole.items()}
        found.comparisons += compare(name, case, counted, table.metrics)
        if whole:
            asked = [metric for metric in table.metrics if not is_of_searches(metric) or _has_strangers(whole.values())]
            asked = [metric for metric in asked if metric not in EQUAL or metric == "eer"]  # one of them is enough
            found.comparisons += compare_scores(name, case, {system: [of] for system, of in whole.items()}, asked)
    return found


_ABOUT: Final = {
    "modality": MODALITY,
    "templates": "as given",
    "pooling": "unknown",
    "distance": "given scores",
    "rule": "none",
    "rerank": "off",
    "spread": None,
    "trials": None,
}


def _has_strangers(searched: Iterable[Searched]) -> bool:
    return all(of.strangers.any() for of in searched)


def _metrics(table: Table, found: Searched) -> tuple[list[str], list[str]]:
    """The metrics of a table that a list can give, and why there are no others. Raises ProtocolError where none is."""
    of_probes = {metric for metric in table.metrics if depth_of(metric) or metric in ("map", "minp")}
    of_strangers = {metric for metric in table.metrics if is_of_searches(metric)}
    if table.adjusted or table.shares:
        raise ProtocolError("norm, calibrate and @train: expected vectors of training subjects, got scores alone")
    why, missing = [], set[str]()
    if isinstance(found, Pairs):
        missing, why = of_probes | of_strangers, found.why
        if missing:
            why = [f"no {', '.join(m for m in table.metrics if m in missing)}: {found.whole}", *why]
    elif of_strangers and not found.strangers.any():
        missing, why = of_strangers, [f"no {', '.join(sorted(of_strangers))}: every probe has a mate in the gallery"]
    left = [metric for metric in table.metrics if metric not in missing]
    if not left:
        raise ProtocolError(f"expected a metric that the scores can give, got none: {'; '.join(why)}")
    return left, why


def _task(found: Searched) -> tuple[str, ...]:
    """What two matchers must have in common to be compared: probes, gallery, whose they are."""
    if isinstance(found, Pairs):
        return found.task
    gallery, probes = found.scorer.gallery, found.scorer.probes
    sides = [sorted(zip(side.key, side.subject.tolist(), strict=True)) for side in (gallery, probes)]
    return (fingerprint([[list(pair) for pair in side] for side in sides]),)


def _placed(lists: Sequence[ScoreList]) -> list[ScoreList]:
    """The lists; one that names no domains gets those of a run's list that has its probes and gallery templates."""
    known: dict[tuple[str, str, str], list[frozenset[tuple[str, str]]]] = {}
    for one in lists:
        if one.place != ANYWHERE:
            known.setdefault(one.place, _names(one))
    found = []
    for one in lists:
        own, note = _names(one), ""
        places = [place for place, names in known.items() if names == own]
        if one.place == ANYWHERE and known and not places:
            near, place = max((sum(len(a & b) for a, b in zip(own, of, strict=True)), at) for at, of in known.items())
            sizes = [sum(map(len, names)) for names in (own, known[place])]
            note = (
                f"not compared with {Case(*place)}: {near} of its {sizes[0]} probes and gallery templates are among "
                f"the {sizes[1]} there"
            )
        here = places[0] if one.place == ANYWHERE and places else one.place
        found.append(replace(one, place=here, notes=[*one.notes, *([note] if note else [])]))
    return found


def _names(one: ScoreList) -> list[frozenset[tuple[str, str]]]:
    """Gallery templates and probes with their subjects."""
    sides = (one.gallery, one.probes)
    return [frozenset(zip(side.names, side.subjects, strict=True)) if side else frozenset() for side in sides]


# -- a list as a search


def _searched(one: ScoreList, table: Table) -> Searched:
    """The list as a search; as pairs where it cannot be one."""
    whole = _not_whole(one)
    if whole or one.probes is None or one.gallery is None:
        return Pairs(one, whole, table)
    matrix = np.empty((len(one.probes.names), len(one.gallery.names)))
    matrix[one.probes.at, one.gallery.at] = one.score
    missing = np.isnan(matrix)
    has_gallery: Flags = ~np.all(missing, axis=0)
    has_probe: Flags = ~np.all(missing, axis=1)
    odd = np.argwhere(missing & has_probe[:, None] & has_gallery)
    if len(odd):
        probe, template = one.probes.names[odd[0, 0]], one.gallery.names[odd[0, 1]]
        such = f"such as {one_line(probe, 60)} with {one_line(template, 60)}"
        return Pairs(
            one, f"{len(odd)} comparisons failed, of probes and templates that have other scores, {such}", table
        )
    case = Case(*one.place)
    sides = (
        _templates(one.gallery, case.gallery_domain, has_gallery),
        _templates(one.probes, case.probe_domain, has_probe),
    )
    scorer = Scorer(MODALITY, *sides, "cosine", None, _given(matrix))
    found = search_case(scorer, table, case, None, ())
    return Pairs(one, "no probe has a mate in the gallery", table) if found is None else found


def _given(matrix: F64) -> Callable[[I64, I64], Array]:
    return lambda gallery, probes: matrix[np.ix_(probes, gallery)]


class _AsNamed(Templates):
    """Templates that are called as the list calls them."""

    @property
    def key(self) -> list[str]:
        return [str(name) for name in self.item]


def _templates(side: Side, domain: str, enrolled: Flags) -> Templates:
    """The templates of one side. enrolled: (n,) whether any comparison with it gave a score."""
    n = len(side.names)
    texts = {name: np.full(n, text) for name, text in (("domain", domain), ("modality", MODALITY), ("split", "test"))}
    crops = enrolled.astype(np.int64)
    return _AsNamed(
        vectors=np.zeros((n, 1), np.float32),
        subject=np.array(side.subjects),
        role=np.full(n, "none"),
        item=np.array(side.names),
        crops=crops,
        media=crops,
        unusable=1 - crops,
        **texts,
    )


def _not_whole(one: ScoreList) -> str:
    """Why a list is no search of every probe among the whole gallery; "" where it is one."""
    probes, gallery = one.probes, one.gallery
    if probes is None or gallery is None:
        return "the list does not name its probes and gallery templates"
    if len(set(gallery.subjects)) < 2:
        return f"the gallery is of one subject, {one_line(gallery.subjects[0], 40)}"
    n_probes, n_gallery = len(probes.names), len(gallery.names)
    if n_probes * n_gallery > MOST_PAIRS:
        return f"{n_probes} probes x {n_gallery} gallery templates are more than {MOST_PAIRS} pairs"
    times = np.bincount(probes.at * n_gallery + gallery.at, minlength=n_probes * n_gallery)
    for odd, words in ((times > 1, "stand more than once"), (times == 0, "are missing")):
        if odd.any():
            probe, template = divmod(int(np.flatnonzero(odd)[0]), n_gallery)
            return (
                f"{int(odd.sum())} of {n_probes} probes x {n_gallery} gallery templates {words}, such as "
                f"{one_line(probes.names[probe], 60)} with {one_line(gallery.names[template], 60)}"
            )
    return ""


# -- a list as pairs


class Pairs(Searched):
    """A list that is no search: scores of mated and non-mated pairs. whole: why it is none. why: notes on intervals."""

    def __init__(self, one: ScoreList, whole: str, table: Table) -> None:
        there = ~np.isnan(one.score)
        lost = int((one.mated & ~there).sum())
        self.lost = lost if table.failure == "miss" else 0
        self.scores, self.mated = one.score[there], one.mated[there]
        self.whole = whole
        self.curve = roc(self.scores[self.mated], self.scores[~self.mated], self.lost, whole=True)
        self.codes: I64 | None = None
        self.why, people = ["no subjects are named: pairs are drawn as if they were independent of each other"], 0
        if one.probes is not None and one.gallery is not None:
            named = [np.array(side.subjects)[side.at] for side in (one.probes, one.gallery)]
            codes, self.people = subject_codes(*named)
            self.codes, self.why, people = np.stack(codes, axis=1)[there], [], len(set(one.gallery.subjects))
        if not self.is_drawn:
            self.why = [f"no intervals: a bootstrap of {len(self.scores)} pairs, above {MOST_DRAWN}, takes too long"]
        if not there.all():
            counts = f"{int((~there).sum())} of {len(there)} comparisons failed and have no score, {lost} of them mated"
            how = "count as not accepted" if self.lost else "are left out"
            self.why.append(f"{counts}: these {how} (failure: {table.failure}), the non-mated ones are left out")
        self.task = (fingerprint([one.name, len(one.score)]),)
        names = [0 if side is None else len(side.names) for side in (one.gallery, one.probes)]
        self.counts = dict.fromkeys(_COUNTS, 0) | {"n_gallery": names[0], "n_subjects": people, "n_probes": names[1]}
        self.key, self.status, self.subject = [], np.zeros(0, np.int64), np.zeros(0, np.str_)
        self.place = self.rank = self.gallery = self.probes = self.status
        nobody = _templates(Side(self.status, [], []), "", np.zeros(0, bool))
        self.scorer = Scorer(MODALITY, nobody, nobody, "cosine")
        self.misses = self.unmated = False

    @property
    def line(self) -> str:
        """Coverage, in one line."""
        return f"{self.curve.n_mated} mated and {self.curve.n_nonmated} non-mated pairs"

    @property
    def has_pairs(self) -> bool:
        """Yes, and nothing else."""
        return True

    @property
    def holds(self) -> bool:
        """No: its intervals are its own."""
        return False

    @property
    def is_drawn(self) -> bool:
        """Whether it can be drawn again some thousand times."""
        return len(self.scores) <= MOST_DRAWN

    def values(self, metric: str) -> F64 | None:
        """None: it has no means over probes."""
        return None

    @property
    def roc(self) -> Roc:
        """The ROC of every pair."""
        return self.curve

    def rows(self, top: int) -> Iterator[dict[str, Any]]:
        """None: nothing was searched."""
        yield from ()

    def bounds(self, metrics: Sequence[str], generator: np.random.Generator) -> dict[str, tuple[float, float]]:
        """The percentile interval of each metric, all from the same draws: of subjects, or of pairs."""
        if not self.is_drawn or self.lost or (self.codes is not None and self.people < 2):
            return {}
        found: dict[str, list[F64]] = {metric: [] for metric in metrics}
        corners = np.concatenate([[True], np.diff(self.curve.accepted, prepend=0) > 0])
        for mated, others in self._drawn(generator):
            far, frr = ((np.cumsum(side, axis=1) / side.sum(axis=1, keepdims=True)) for side in (others, mated))
            far, frr = np.pad(far, ((0, 0), (1, 0))), np.pad(1 - frr, ((0, 0), (1, 0)), constant_values=1.0)
            for metric in metrics:
                at = corners if metric in ("eer", "rocch-eer") else slice(None)
                found[metric].append(_of_errors(metric, far[:, at], frr[:, at]))
        return {metric: percentiles(np.concatenate(parts)) for metric, parts in found.items()}

    def with_bounds(self, number: dict[str, Any], bounds: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        """A row of METRICS with its interval, or with the reason why there is none."""
        notes = [note for note in number["notes"] if note is not NumberNote.MANY_SCORES]
        if number["metric"] in bounds:
            low, high = bounds[number["metric"]]
            notes += [NumberNote.NO_WIDTH] * (low == high)
            return number | {"low": low, "high": high, "interval": "bootstrap", "notes": notes}
        if not self.is_drawn:
            return number | {"notes": [*notes, NumberNote.MANY_SCORES]}
        return number | {"notes": [*notes, NumberNote.FAILURES if self.lost else NumberNote.ONE_SUBJECT]}

    def _drawn(self, generator: np.random.Generator) -> Iterator[tuple[F64, F64]]:
        """(b, T) weights of the mated and of the other pairs at each threshold, from the highest; SAMPLES rows in all.

        A sample in which one kind was not drawn is left out.
        """
        counts = [np.diff(side, prepend=0) for side in (self.curve.accepted, self.curve.false)]
        if self.codes is None:
            step = max(CELLS // len(self.curve.threshold), 1)
            for first in range(0, SAMPLES, step):
                size = min(step, SAMPLES - first)
                sides = [generator.multinomial(int(n.sum()), n / n.sum(), size).astype(float) for n in counts]
                yield sides[0], sides[1]
            return
        order = np.argsort(-self.scores, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts[0] + counts[1])[:-1]])
        probe, gallery = self.codes[order].T
        mated = self.mated[order]
        for times in subject_draws(self.people, SAMPLES, generator):
            for rows in blocks(len(times), len(order)):
                of_probe = times[rows][:, probe]
                weights = (of_probe * mated, of_probe * times[rows][:, gallery] * ~mated)
                sides = [np.add.reduceat(weight, starts, axis=1) for weight in weights]
                kept = (sides[0].sum(axis=1) > 0) & (sides[1].sum(axis=1) > 0)
                yield sides[0][kept], sides[1][kept]


def _of_errors(metric: str, far: F64, frr: F64) -> F64:
    """(b, T) FAR and FRR from the highest threshold -> (b,) the metric."""
    if metric in EQUAL:
        return EQUAL[metric](far, frr)
    if metric == "auc":
        return np.asarray((np.diff(far, axis=1) * (2 - frr[:, 1:] - frr[:, :-1])).sum(axis=1) / 2)
    return np.asarray(np.where(far <= share_of(metric) + 1e-12, 1 - frr, 0).max(axis=1))


_COUNTS: Final = (
    *("n_gallery", "n_subjects", "n_probes", "failed_gallery", "failed_probes", "unusable_gallery"),
    *("unusable_probes", "n_unmated", "n_left_out"),
)
