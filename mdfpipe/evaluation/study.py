"""Study: the tables of a study, from vectors to numbers; every system of a table on the same probes.

Every subject that the manifest shows in any modality is expected. A subject with a face but no body counts as a
failure to enrol by body, and under `failure: miss` as a miss, so that every system of a table has the same n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ProtocolError, counted
from mdfpipe.evaluation.adjusting import adjusted
from mdfpipe.evaluation.benchmark import mean_and_spread
from mdfpipe.evaluation.benchmark_table import measure_benchmark
from mdfpipe.evaluation.case import Case, Searched, curves, measure_case, measure_together, search_case
from mdfpipe.evaluation.comparing import F64, I64
from mdfpipe.evaluation.expected import by_thirds, chosen_rows, expected, of_splits, refuse_trained
from mdfpipe.evaluation.fusion import fuse_templates
from mdfpipe.evaluation.measures.differences import Counted, compare, compare_scores, members
from mdfpipe.evaluation.measures.metrics import mean_of_rows
from mdfpipe.evaluation.pooling import Rule, best, column_weights, evenly, lengths, pool, tracks, without_track
from mdfpipe.evaluation.quality import Learned, learn
from mdfpipe.evaluation.rejection import Qualities, qualities, rejection
from mdfpipe.evaluation.score_fusion import Scorer, fused_scorer
from mdfpipe.evaluation.seeds import Seeds, case_bounds, lines_of, mean_bounds, mean_curves, mean_row, with_bounds
from mdfpipe.evaluation.table import WITHIN, Table, is_of_searches
from mdfpipe.evaluation.vectors import Evaluated, SystemVectors, media_unknown
from mdfpipe.evaluation.within import Sessions, domains_within, refuse_media_of_two, sessions_of
from mdfpipe.protocol import Protocol
from mdfpipe.store.results import AVERAGE, POOLED
from mdfpipe.store.templates import B8, Templates

ALL, FUSED = "all", "fused"


Keep = Callable[[str, str, Case, Searched], None]
"""Takes the scores of a table, a system and a case."""


def evaluate(
    tables: Mapping[str, Table],
    systems: Sequence[SystemVectors],
    manifest: pa.Table,
    protocol: Protocol,
    *,
    galleries: Mapping[str, Sequence[str]] | None = None,
    media: Mapping[str, str] | None = None,
    data: Path | None = None,
    seeds: Seeds | None = None,
    keep: Keep | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluated:
    """Every table. Raises ProtocolError and DataError, naming the table.

    manifest: its rows, of every modality. galleries: subject -> the data set's galleries that list it. media: video_id
    -> the content of the file, by which one video under two names is found out. data: the data root, where the files of
    benchmarks lie. seeds: systems and fusions that are the mean of several trainings.
    """
    study = _Study(systems, manifest, protocol, galleries or {}, media or {}, keep, seeds or {})
    work: dict[str, tuple[list[Case], list[str]]] = {}
    for name, table in tables.items():
        with _named(name):
            work[name] = ([], []) if table.benchmark else study.cases(table)
    total, done = sum(len(cases) for cases, _ in work.values()), 0
    for name, table in tables.items():
        cases, notes = work[name]
        with _named(name):
            study.begin(name, table, notes)
            if table.benchmark:
                chosen = [study.systems[one] for one in study.chosen(table)]
                measure_benchmark(name, table, chosen, study.found, data, study.seeds)
            for case in cases:
                study.case(name, table, case)
                done += 1
                progress(done, total)
            study.pooled(name, table)
        if table.galleries == "apart":
            study.average(name)
        study.compare(name, table)
    return study.found


@contextmanager
def _named(table: str) -> Iterator[None]:
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(f"table {table}: {error}") from None


class _Study:
    def __init__(
        self,
        systems: Sequence[SystemVectors],
        manifest: pa.Table,
        protocol: Protocol,
        galleries: Mapping[str, Sequence[str]],
        media: Mapping[str, str],
        keep: Keep | None,
        seeds: Seeds,
    ) -> None:
        self.seeds = seeds
        self.systems = {system.name: system for system in systems}
        self.manifest, self.protocol, self.galleries, self.media, self.keep = manifest, protocol, galleries, media, keep
        self.found = Evaluated()
        self._templates: dict[tuple[Any, ...], Templates] = {}
        self._pooled: dict[tuple[Any, ...], tuple[pa.Table, B8, int]] = {}
        self._norms: dict[str, F64] = {}
        self._learned: dict[tuple[str, Rule], tuple[Learned, F64]] = {}
        self._searched: dict[Case, dict[str, tuple[Searched, dict[str, Any]]]] = {}

    # -- what is to be done

    def cases(self, table: Table) -> tuple[list[Case], list[str]]:
        """The pairs of domains of a table, by gallery; and why there are none, or fewer."""
        rows = of_splits(self.manifest, table.splits)
        named = [*self.protocol.gallery_domains, *self.protocol.probe_domains]
        there = set(rows["domain"].to_pylist())
        domains = [d for d in named if d in there] + sorted(there - set(named))
        within, notes = domains_within(rows, table.apart) if table.pairs in WITHIN else ([], [])
        pairs: Iterable[tuple[str, str]]
        if table.pairs == "thirds":
            pairs = [(domain, domain) for domain in domains]
        elif table.pairs == "all":
            pairs = [(a, b) for a in domains for b in domains if a != b or a in within]
        elif table.pairs == "within":
            pairs = [(domain, domain) for domain in within]
        else:
            pairs = [(a, b) for a in self.protocol.gallery_domains for b in self.protocol.probe_domains]
        names: list[str] = [ALL]
        if table.galleries == "apart":
            names = sorted({name for listed in self.galleries.values() for name in listed})
            if len(names) < 2:
                raise ProtocolError(f"galleries: apart: expected two or more galleries, the data set has {len(names)}")
        found = [Case(a, b, name) for a, b in pairs for name in names]
        if not found and not (notes and table.pairs == "within"):
            why = (
                f"no identification: protocol {self.protocol.name} names no gallery and probe domains"
                if table.pairs == "roles"
                else "no identification across domains"
            )
            notes.append(f"{why}; the rows are of {', '.join(domains) or 'no domain'}")
        return found, notes

    def begin(self, name: str, table: Table, notes: list[str]) -> None:
        """Check that the systems can be compared, and open the table's entry."""
        chosen = self.chosen(table)
        missing = sorted({s for f in table.fusions.values() for s in f.systems} - self.systems.keys())
        if missing:
            raise ProtocolError(f"fusion of {missing[0]}: no such system; there are {', '.join(self.systems)}")
        self.found.tables[name] = {
            "title": table.title,
            "protocol": table.protocol or f"{self.protocol.name} {self.protocol.version}",
            "fingerprint": table.task(self.protocol),
            "systems": list(lines_of([*chosen, *table.fusions], self.seeds)),
            "seeds": {n: own for n, own in lines_of([*chosen, *table.fusions], self.seeds).items() if len(own) > 1},
            "benchmark": table.benchmark is not None,
            "same_media": table.allow_same_media,
            "coverage": [],
            "notes": [*notes, *table.about_published],
            "stamps": [] if table.benchmark else media_unknown([of_splits(r, table.splits) for r in self._rows(table)]),
        }
        if table.allow_same_media:
            self.found.tables[name]["notes"].append(
                "gallery and probe may be of one video: these numbers say nothing about recognition"
            )
        if table.rule.column == "track":
            self._count_tracks(name, table, "sighting: track", "is one template")
        elif table.per_track:
            self._count_tracks(name, table, "per_track", "counts as one track")
        if not table.benchmark:
            self._count_crops(name, table)
        for system in chosen if not table.benchmark else ():
            self.found.templates.setdefault(system, self.templates(system, table))

    def _count_tracks(self, name: str, table: Table, setting: str, what: str) -> None:
        """Note the rows of no track; what: they are in a video. Raises ProtocolError where no row has one."""
        rows = of_splits(self.manifest, table.splits)
        if "track" not in rows.column_names or rows["track"].null_count == rows.num_rows:
            raise ProtocolError(
                f"{setting}: expected rows with a track, found none in {counted(rows.num_rows, 'row')}; give the "
                f"study a section `track:`, or {'leave it out' if setting == 'per_track' else 'set sighting: video_id'}"
            )
        own = dict.fromkeys(self.systems[one].modality for one in self.chosen(table))
        self.found.tables[name]["notes"] += filter(None, (without_track(rows, modality, what) for modality in own))

    def _count_crops(self, name: str, table: Table) -> None:
        """Note which weights were learned, and how many crops the limit of a track leaves out."""
        entry = self.found.tables[name]
        for system in self._parts(table) if table.pooling == "quality_aware" else ():
            self._refuse_learned(system, table)
            learned, _ = self.learned(system, table.rule)
            entry.setdefault("learned", {})[system] = learned.facts
            rows, inside, _ = self.pooled_rows(system, table, tuple(table.splits), "")
            inside = inside & self.systems[system].usable
            lacking = learned.lacking(rows.filter(pa.array(inside)), self.norms(system)[inside])
            entry["notes"] += [f"{system}: {line}" for line in (*learned.lines, *lacking)]
        for system in self._parts(table) if table.per_track else ():
            _, inside, excluded = self.pooled_rows(system, table, tuple(table.splits), "")
            usable = excluded + int((inside & self.systems[system].usable).sum())
            how = "those of the highest weight" if self._prefers(system, table) else "evenly spread in time"
            entry["notes"].append(
                f"{system}: {excluded} of {counted(usable, 'crop')} excluded: at most {table.per_track} of a track are "
                f"pooled, {how}"
            )

    def _parts(self, table: Table) -> list[str]:
        """Every system that a table needs."""
        parts = [name for fusion in table.fusions.values() for name in fusion.systems]
        return list(dict.fromkeys([*self.chosen(table), *parts]))

    def _rows(self, table: Table) -> list[pa.Table]:
        """The rows of every system that a table needs."""
        return [self.systems[name].rows for name in self._parts(table)]

    def chosen(self, table: Table) -> list[str]:
        """The systems of a table."""
        unknown = [name for name in table.systems if name not in self.systems]
        if unknown:
            raise ProtocolError(f"no vectors of system {unknown[0]}; there are {', '.join(self.systems) or 'none'}")
        return list(table.systems or self.systems)

    def templates(
        self, system: str, table: Table, splits: Sequence[str] | None = None, *, within: bool = False
    ) -> Templates:
        """Every template of a system in the splits of a table. within: as domains are searched within themselves."""
        wanted = tuple(splits or table.splits)
        rule, apart = (table.rule_within, table.apart) if within else (table.rule, "")
        key = (system, wanted, rule, table.rule, table.per_track, table.pairs == "thirds", apart)
        if key not in self._templates:
            self._templates[key] = self._pool(self.systems[system], table, wanted, rule, apart)
        return self._templates[key]

    def _pool(self, system: SystemVectors, table: Table, splits: tuple[str, ...], rule: Rule, apart: str) -> Templates:
        """apart: the column that every row of a domain has where the domain is searched within itself."""
        own = of_splits(self.manifest, splits)
        own = own.filter(pc.is_valid(own[apart])) if apart else own
        there = expected(own, system.modality, rule, thirds=table.pairs == "thirds")
        for split in splits:
            has = pc.any(pc.equal(system.rows["split"].cast(pa.string()), split)).as_py()
            if not has and pc.any(pc.equal(there["split"], split)).as_py():
                raise ProtocolError(
                    f"{system.name} has no vectors of split {split}: add it to systems.{system.name}.splits and embed "
                    "again, or take it from the table's splits"
                )
        rows, inside, _ = self.pooled_rows(system.name, table, splits, apart)
        weights = None
        if rule.pooling == "quality_aware":
            weights = self.learned(system.name, table.rule)[1][inside]
        return pool(
            rows.filter(pa.array(inside)),
            chosen_rows(system.blocks(), inside),
            rule,
            usable=system.usable[inside],
            log_weights=weights,
            expected=there,
        )

    def pooled_rows(self, name: str, table: Table, splits: tuple[str, ...], apart: str) -> tuple[pa.Table, B8, int]:
        """The rows of a system, which of them (N,) are pooled, and how many usable ones are over the limit of a track.

        apart: the column that every row of a domain has where the domain is searched within itself.
        """
        key = (name, splits, table.rule, table.per_track, table.pairs == "thirds", apart)
        if key not in self._pooled:
            system = self.systems[name]
            rows = system.rows
            inside = np.array(pc.is_in(rows["split"].cast(pa.string()), pa.array(splits)), bool)
            if apart:
                inside = inside & pc.is_valid(rows[apart]).to_numpy()
            if table.pairs == "thirds":
                rows, middle = by_thirds(rows)
                inside = inside & ~middle
            excluded = np.zeros(0, np.int64)
            if table.per_track:
                excluded = self._excluded(name, table, rows, np.flatnonzero(inside & system.usable), table.per_track)
                inside[excluded] = False
            self._pooled[key] = rows, inside, len(excluded)
        return self._pooled[key]

    def _excluded(self, name: str, table: Table, rows: pa.Table, at: I64, most: int) -> I64:
        """Which of the rows `at` of a system are more than `most` of their track."""
        own = rows.take(pa.array(at))
        if not self._prefers(name, table):
            order, kept = evenly(own, tracks(own), most)
        else:
            if table.pooling == "quality_aware":
                quality = self.learned(name, table.rule)[1][at]
            elif table.pooling == "norm_weighted":
                quality = self.norms(name)[at]
            else:
                quality = column_weights(own, table.quality)
            order, kept = best(own, tracks(own), most, quality)
        return at[order[~kept]]

    def _prefers(self, name: str, table: Table) -> bool:
        """Whether some crops of a system weigh more than others of their video."""
        if table.pooling == "quality_aware":
            return any(self.learned(name, table.rule)[0].exponents.values())
        return table.pooling not in ("mean", "media_mean")

    def norms(self, name: str) -> F64:
        """(N,) the lengths of a system's vectors."""
        if name not in self._norms:
            self._norms[name] = lengths(self.systems[name].blocks(), self.systems[name].usable)
        return self._norms[name]

    def learned(self, name: str, rule: Rule) -> tuple[Learned, F64]:
        """What was learned for a system's pooling, on training subjects; the logarithms of its rows' weights, (N,)."""
        if (name, rule) not in self._learned:
            system, norms = self.systems[name], self.norms(name)
            here = system.usable & pc.equal(system.rows["split"].cast(pa.string()), "train").to_numpy()
            own = system.rows.filter(pa.array(here))
            found = learn(own, lambda: chosen_rows(system.blocks(), here), norms[here], rule)
            self._learned[name, rule] = found, found.log_weights(system.rows, norms)
        return self._learned[name, rule]

    def _refuse_learned(self, name: str, table: Table) -> None:
        """Raise ProtocolError where weights of crops would be learned on tested subjects, or on no vectors."""
        what, rows = "pooling: quality_aware", self.systems[name].rows
        learned, tested = (
            set(of_splits(rows, splits)["subject_id"].unique().to_pylist()) for splits in (["train"], table.splits)
        )
        if not learned:
            raise ProtocolError(
                f"{what}: {name} has no vectors of training subjects, on which weights are learned: add train to "
                f"systems.{name}.splits and embed again, or pool by mean or norm_weighted"
            )
        if both := sorted(learned & tested):
            raise ProtocolError(
                f"{what}: expected training subjects that are not tested, got {len(both)} that are "
                f"({', '.join(both[:5])}); take their split from the table, or pool by mean or norm_weighted"
            )

    # -- one pair of domains

    def case(self, name: str, table: Table, case: Case) -> None:
        """Search, measure, compare; the rows go to `found`."""
        enrolled = None
        if case.gallery != ALL:
            enrolled = {subject for subject, listed in self.galleries.items() if case.gallery in listed}
        searched: dict[str, Searched] = {}
        asked: list[str] = []
        for system, scorer in self.scorers(table, case):
            if not table.allow_trained_subjects:
                refuse_trained(system, scorer.probes.subject.tolist(), scorer.trained)
            found = search_case(scorer, table, case, enrolled, self.galleries.keys())
            if found is not None:
                searched[system] = found
            asked.append(system)
        entry = self.found.tables[name]
        if any(map(is_of_searches, table.metrics)) and not all(one.is_open for one in searched.values()):
            entry["notes"].append(f"{case}: fnir and dir have no number: every probe has a mate in its gallery")
        for system, found in list(searched.items()):
            lone = int((found.has & np.isneginf(found.nonmated)).sum())
            if lone:
                entry["notes"].append(
                    f"{case}: {system}: {counted(lone, 'probe has', 'probes have')} no other subject in their gallery"
                )
            if lone == int(found.has.sum()):
                del searched[system]
        if not searched:
            entry["notes"].append(f"{case}: no probe has a mate in the gallery, nothing is measured")
            return
        absent = [system for system in asked if system not in searched]
        if table.same_probes and table.failure == "exclude" and (absent or not _common(searched)):
            why = f": {', '.join(absent)} can compare none" if absent else ""
            entry["notes"].append(
                f"{case}: no system has a number, as no probe is common to all{why}; same_probes: false scores each "
                "system on its own"
            )
            return
        entry["notes"] += [f"{case}: {system} has no number: it has no probe and mate to compare" for system in absent]
        entry["coverage"] += [f"{case}: {system}: {found.line}" for system, found in searched.items()]
        rows: dict[str, list[dict[str, Any]]] = {}
        drawn: dict[str, list[dict[str, Any]]] = {}
        for system, found in searched.items():
            about = {
                "table": name,
                "system": system,
                "modality": found.scorer.modality,
                "protocol": entry["protocol"],
                **case.columns,
                **found.counts,
                "failure": table.failure,
                "unmated": "exclude" if found.scorer.sessions and table.unmated == "refuse" else table.unmated,
                "templates": (table.rule_within if found.scorer.sessions else table.rule).unit,
                "pooling": table.pooled_as,
                "distance": (found.scorer.measure if found.scorer.given is None else "fused scores") + table.adjusted,
                "rule": found.scorer.removal.name if found.scorer.removal else "none",
                "rerank": "off",
                "spread": None,
                "trials": None,
            }
            self._searched.setdefault(case, {})[system] = found, about
            rows[system] = [
                about | row | {"published": table.paper(system, case.gallery_domain, case.probe_domain, row["metric"])}
                for row in measure_case(found, table, f"{name}/{case}")
            ]
            place = {"table": name, "system": system, **case.columns}
            known = self._qualities(system, table, case, found.scorer) if system in self.systems else {}
            drawn[system] = [place | row for row in (*curves(found), *rejection(found, known))]
            self.found.searches += [place | row for row in found.rows(10)]
            if self.keep is not None:
                self.keep(name, system, case, found)
        lines = lines_of(searched, self.seeds)
        for line, (one, *_) in lines.items():
            entry["notes"] += table.other_n(line, case.gallery_domain, case.probe_domain, rows[one][0]["n"])
        self._add(
            table, rows, lambda metric, line: case_bounds(metric, [searched[one] for one in line], f"{name}/{case}")
        )
        for line, trainings in lines.items():
            if len(trainings) > 1:
                self.found.curves += mean_curves(line, [drawn[one] for one in trainings])
            self.found.curves += [row for one in trainings for row in drawn[one]]
        of_lines = {line: [searched[one] for one in trainings] for line, trainings in lines.items()}
        self.found.comparisons += compare_scores(name, case, of_lines, table.metrics)

    def _add(
        self,
        table: Table,
        rows: Mapping[str, list[dict[str, Any]]],
        interval: Callable[[str, list[str]], dict[str, Any]],
    ) -> None:
        """Keep the rows of METRICS of each system, behind the mean of those that are trainings of one.

        interval: gives that of a metric and its trainings; it has one where each of them has.
        """
        for line, trainings in lines_of(rows, self.seeds).items():
            if len(trainings) == 1:
                self.found.metrics += rows[line]
                continue
            for of_metric in zip(*(rows[one] for one in trainings), strict=True):
                first = of_metric[0]
                paper = table.paper(line, first["gallery_domain"], first["probe_domain"], first["metric"])
                made = mean_row(line, of_metric, paper)
                if all(row["low"] is not None for row in of_metric):
                    made = with_bounds(made, interval(first["metric"], trainings))
                self.found.metrics.append(made)
            self.found.metrics += [row | {"seed_of": line} for one in trainings for row in rows[one]]

    def scorers(self, table: Table, case: Case) -> Iterator[tuple[str, Scorer]]:
        """Each system's gallery and probes, and those of each fusion."""
        for name in self.chosen(table):
            yield name, self._adjusted(self._scorer(name, table, case), [name], None, table, case)
        for name, fusion in table.fusions.items():
            if fusion.by == "feature":
                weights = dict(zip(fusion.systems, fusion.weights or [1.0] * len(fusion.systems), strict=True))
                domain = case.within(table)
                parts = {s: self.templates(s, table, within=bool(domain)) for s in fusion.systems}
                fused, _ = fuse_templates(parts, weights)
                gallery, probes = case.sides(fused, table)
                trained = [self.systems[s].trained for s in fusion.systems]
                sessions = self._sessions(gallery, table, domain, table.splits)
                scorer = Scorer(FUSED, gallery, probes, "cosine", _joined(trained), sessions=sessions)
                yield name, self._adjusted(scorer, fusion.systems, weights, table, case)
                continue
            parts_here = {s: self._scorer(s, table, case) for s in fusion.systems}
            training = {}
            if fusion.weights is None:
                domain = case.within(table)
                for s in fusion.systems:
                    sides = case.sides(self.templates(s, table, ["train"], within=bool(domain)), table)
                    sessions = self._sessions(sides[0], table, domain, ["train"])
                    training[s] = Scorer(self.systems[s].modality, *sides, self.systems[s].measure, sessions=sessions)
            scorer = fused_scorer(parts_here, training, fusion.scale, fusion.weights)
            yield name, self._adjusted(scorer, fusion.systems, None, table, case)

    def _adjusted(
        self, scorer: Scorer, systems: Sequence[str], weights: Mapping[str, float] | None, table: Table, case: Case
    ) -> Scorer:
        """The scorer with what the table asks for of norm, calibration and thresholds. weights: of a fusion."""
        if table.norm == "none" and table.calibrate is None and not table.shares:
            return scorer
        domain = case.within(table)
        parts = {s: self.templates(s, table, ["train"], within=bool(domain)) for s in systems}
        sides = case.sides(parts[systems[0]] if weights is None else fuse_templates(parts, weights)[0], table)
        sessions = self._sessions(sides[0], table, domain, ["train"])
        training = Scorer(scorer.modality, *sides, scorer.measure, sessions=sessions)
        return adjusted(scorer, training, table.norm, table.calibrate, table.shares)

    def _scorer(self, name: str, table: Table, case: Case) -> Scorer:
        system = self.systems[name]
        domain = case.within(table)
        gallery, probes = case.sides(self.templates(name, table, within=bool(domain)), table)
        if not table.allow_same_media:
            self._refuse_same_media(system, table, case)
        sessions = self._sessions(gallery, table, domain, table.splits)
        return Scorer(system.modality, gallery, probes, system.measure, system.trained, sessions=sessions)

    def _qualities(self, name: str, table: Table, case: Case, scorer: Scorer) -> Qualities:
        within = case.within(table)
        rows, inside, _ = self.pooled_rows(name, table, tuple(table.splits), table.apart if within else "")
        rule = table.rule_within if within else table.rule
        return qualities(rows, inside & self.systems[name].usable, rule, (scorer.gallery, scorer.probes))

    def _sessions(self, templates: Templates, table: Table, domain: str, splits: Sequence[str]) -> Sessions | None:
        """What tells gallery and probes apart where both are of one domain."""
        if not domain:
            return None
        rows = of_splits(self.manifest, splits)
        rows = rows.filter(pc.equal(rows["domain"], domain))
        return sessions_of(templates, rows, table.rule_within, table.apart)

    def _refuse_same_media(self, system: SystemVectors, table: Table, case: Case) -> None:
        """Raise ProtocolError where gallery and probe are of one file."""
        rows = of_splits(system.rows, table.splits)
        if domain := case.within(table):
            refuse_media_of_two(rows.filter(pc.equal(rows["domain"], domain)), self.media, table.apart)
            return
        sides = []
        for domain in (case.gallery_domain, case.probe_domain):
            videos = rows.filter(pc.equal(rows["domain"], domain))["video_id"].unique().to_pylist()
            sides.append({self.media.get(video) or video: video for video in videos})
        same = sorted(sides[0].keys() & sides[1].keys())
        if same:
            a, b = (side[same[0]] for side in sides)
            raise ProtocolError(
                f"{case}: {counted(len(same), 'video is', 'videos are')} in gallery and probe (such as {a}"
                + (f", which is {b} under another name" if a != b else "")
                + "): a video would match itself; correct the data set, or set allow_same_media: true"
            )

    def pooled(self, name: str, table: Table) -> None:
        """Over all probe domains of the protocol together: the means over probes. A subject has several of them."""
        if table.pairs != "roles":
            return
        work: dict[tuple[str, str], dict[str, list[tuple[Searched, dict[str, Any]]]]] = {}
        for case, of_case in self._searched.items():
            for system, one in of_case.items():
                work.setdefault((case.gallery_domain, case.gallery), {}).setdefault(system, []).append(one)
        for (gallery_domain, gallery), systems in work.items():
            rows: dict[str, list[dict[str, Any]]] = {}
            seed = f"{name}/{gallery_domain}/{gallery}/{POOLED}"
            for system, parts in systems.items():
                if len(parts) < 2:
                    continue
                found = [one for one, _ in parts]
                alike = ("n_gallery", "n_subjects", "failed_gallery", "unusable_gallery")
                sums = {n: sum(one.counts[n] for one in found) for n in found[0].counts if n not in alike}
                about = parts[0][1] | sums | {"probe_domain": POOLED}
                rows[system] = [
                    about | row | {"published": table.paper(system, gallery_domain, POOLED, row["metric"])}
                    for row in measure_together(found, table, seed)
                ]

            def interval(metric: str, line: list[str], of: Mapping[str, Any] = systems, seed: str = seed) -> Any:
                every = zip(*([one for one, _ in of[training]] for training in line), strict=True)
                counted = [Counted.of_seeds([Counted.of(one, [metric]) for one in cases]) for cases in every]
                return mean_bounds(metric, counted, seed)

            self._add(table, rows, interval)

    def average(self, name: str) -> None:
        """The mean of each number over the galleries."""
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in self.found.metrics:
            if row["table"] == name and row["gallery"] != AVERAGE:
                key = (row["system"], row["gallery_domain"], row["probe_domain"], row["metric"])
                groups.setdefault(key, []).append(row)
        counted = ["n_gallery", "n_subjects", "n_probes", "failed_gallery", "failed_probes", "n_unmated", "n_left_out"]
        counted += ["unusable_gallery", "unusable_probes"]
        for rows in groups.values():
            without = ("k", "low", "high", "interval", "chance", "threshold", "k_false", "n_false", "spread", "each")
            nothing = dict.fromkeys(without)
            if all(row.get("each") for row in rows):
                each = np.mean([row["each"] for row in rows], axis=0).tolist()
                nothing |= {"each": each, "spread": mean_and_spread(each)[1]}
            sums = {column: sum(row[column] for row in rows) for column in ["n", *counted]}
            self.found.metrics.append(rows[0] | nothing | sums | mean_of_rows(rows) | {"gallery": AVERAGE})

    def compare(self, name: str, table: Table) -> None:
        """Every two systems at each mean over probes that the table has: of a case, pooled, and averaged."""
        work, self._searched = self._searched, {}
        systems: dict[str, dict[Case, Counted]] = {}
        for case, of_case in work.items():
            for line, trainings in lines_of(of_case, self.seeds).items():
                counted = [Counted.of(of_case[one][0], table.metrics) for one in trainings]
                systems.setdefault(line, {})[case] = counted[0] if len(counted) == 1 else Counted.of_seeds(counted)
        rows = [row for row in self.found.metrics if row["table"] == name]
        for case in dict.fromkeys(Case(r["gallery_domain"], r["probe_domain"], r["gallery"]) for r in rows):
            there = {system: cases for system, cases in systems.items() if members(case, cases)}
            self.found.comparisons += compare(name, case, there, table.metrics)


# -- several systems


def _common(searched: Mapping[str, Searched]) -> int:
    """Leave out, everywhere, the probes that one system does not have. Returns how many all have."""
    names = [set(np.array(found.key)[found.has].tolist()) for found in searched.values()]
    both = set.intersection(*names)
    for found in searched.values():
        found.leave_out(~np.isin(found.key, sorted(both)))
    return len(both)


def _joined(trained: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    known = [one for one in trained if one is not None]
    return frozenset(subject for one in known for subject in one) if known else None
