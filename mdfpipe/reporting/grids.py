"""Tables of numbers as views of METRICS: which rows and columns, what is best, what cannot be told from the best.

Numbers are in per cent. Every cell says the file and the row that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mdfpipe.domains import Band, Domain
from mdfpipe.errors import DataError
from mdfpipe.store.results import Results, Row, is_lower_better, source

MARK: Final = "≈"
BEST: Final = "bold: the best of its column"
LABELS: Final = {"map": "mAP", "minp": "mINP", "eer": "EER", "rocch-eer": "EER (hull)", "auc": "AUC"}
AVERAGE: Final = "average"


@dataclass(frozen=True)
class Cell:
    """One number. value, low, high, published: 0..1; k of n; spread: the standard deviation over trials, if any."""

    value: float
    metric: str
    n: int
    k: int | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None
    is_best: bool = False
    is_level: bool = False
    title: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    spread: float | None = None

    @property
    def text(self) -> str:
        """Per cent with one decimal."""
        return percent(self.value)

    @property
    def count(self) -> str:
        """k/n of a rate; n of a mean."""
        return f"{self.k}/{self.n}" if self.k is not None else f"n {self.n}"

    @property
    def bounds(self) -> str:
        """The spread over trials and the interval, where there are."""
        words = [] if self.spread is None else [f"± {percent(self.spread)}"]
        words += [] if self.low is None or self.high is None else [f"{percent(self.low)}–{percent(self.high)}"]
        return ", ".join(words)


@dataclass(frozen=True)
class Grid:
    """Rows of cells under columns, which stand in groups. title: the metric, or nothing where columns name it."""

    title: str
    head: str
    groups: list[tuple[str, list[str]]]
    rows: list[tuple[str, list[Cell | None]]]

    @property
    def cells(self) -> list[Cell]:
        """Every cell with a number."""
        return [cell for _, row in self.rows for cell in row if cell is not None]


@dataclass(frozen=True)
class TableView:
    """A table as it is read: its numbers, how they were made, what is to be known of them.

    about: (what, words) of the protocol. grids: those to look at first; more: the other metrics. rows: of METRICS.
    """

    name: str
    title: str
    about: list[tuple[str, str]]
    grids: list[Grid]
    more: list[Grid]
    footnotes: list[str]
    coverage: list[str]
    notes: list[str]
    rows: list[Row]


def percent(value: float, decimals: int = 1) -> str:
    """A share in per cent.

    >>> percent(0.7778), percent(0.7778, 2)
    ('77.8', '77.78')
    """
    return f"{100 * value:.{decimals}f}"


def label(metric: str) -> str:
    """A metric as a column is headed.

    >>> [label(name) for name in ("rank-5", "map", "tar@far=1e-2", "fnir@fpir=0.01")]
    ['Rank-5', 'mAP', 'TAR at FAR 1 %', 'FNIR at FPIR 1 %']
    """
    if metric in LABELS:
        return LABELS[metric]
    if metric.startswith("rank-"):
        return metric.capitalize()
    kind, _, share = metric.partition("@")
    name, _, number = share.partition("=")
    try:
        return f"{kind.upper()} at {name.upper()} {100 * float(number):g} %"
    except ValueError:
        return metric


def views(results: Results) -> list[TableView]:
    """Every table that has numbers or something to say, in the study's order."""
    found = []
    for name in in_order(results):
        entry = results.tables[name]
        rows = results.of(results.metrics, name)
        comparisons = results.of(results.comparisons, name)
        marks = _Marks(rows, comparisons)
        cells = {_key(row): marks.cell(row) for row in rows}
        grids = _by_system(rows, cells, entry) if _has_one_gallery(rows) else _matrices(rows, cells, entry)
        primary = [grid for grid in grids if grid.title == label(_metrics(rows)[0])] if rows else []
        found.append(
            TableView(
                name,
                str(entry.get("title") or name),
                _about(rows, entry),
                primary or grids,
                [grid for grid in grids if grid not in primary] if primary else [],
                _footnotes(rows, comparisons, marks, results),
                list(dict.fromkeys(entry.get("coverage", []))),
                list(dict.fromkeys(entry.get("notes", []))),
                rows,
            )
        )
    return found


def in_order(results: Results) -> list[str]:
    """The names of the tables as their numbers stand in METRICS, which is the study's order; then those without."""
    return list(dict.fromkeys([row["table"] for row in results.metrics if row["table"] in results.tables])) + [
        name for name in results.tables if not any(row["table"] == name for row in results.metrics)
    ]


def by_wavelength(domain: str) -> tuple[int, float, str]:
    """Sort key of domains: by band, then range; unknown names last."""
    try:
        found = Domain.parse(domain)
    except DataError:
        return len(Band), 0.0, domain
    return list(Band).index(found.band), -(found.range_m or 0.0), domain


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["_system"], row["gallery_domain"], row["probe_domain"], row["gallery"], row["metric"])


def _metrics(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["metric"] for row in rows))


def _has_one_gallery(rows: Sequence[Row]) -> bool:
    """Whether a line a system will do: all rows have one gallery domain, or there is a row a domain alone."""
    pairs = {(row["gallery_domain"], row["probe_domain"]) for row in rows}
    return len({gallery for gallery, _ in pairs}) <= 1 or all(gallery == probe for gallery, probe in pairs)


def _systems(rows: Iterable[Row], entry: Mapping[str, Any]) -> list[str]:
    there = list(dict.fromkeys(row["_system"] for row in rows))
    named = [name for name in entry.get("systems", []) if name in there]
    return [*named, *(name for name in there if name not in named)]


# -- the best, and what cannot be told from it


class _Marks:
    """What is best of each column of a table, and which numbers do not differ significantly from it."""

    def __init__(self, rows: Sequence[Row], comparisons: Sequence[Row]) -> None:
        self.best: dict[tuple[str, ...], Row] = {}
        columns: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            columns.setdefault(_key(row)[1:], []).append(row)
        for key, column in columns.items():
            if len(column) > 1:
                sign = -1 if is_lower_better(key[-1]) else 1
                self.best[key] = max(column, key=lambda row: sign * row["value"])
        self.compared: dict[tuple[str, ...], Row] = {}
        for row in comparisons:
            place = (row["gallery_domain"], row["probe_domain"], row["gallery"], row["metric"])
            for a, b in ((row["_first"], row["_second"]), (row["_second"], row["_first"])):
                self.compared[(a, b, *place)] = row
        self.level, self.untested = 0, dict[str, None]()

    def cell(self, row: Row) -> Cell:
        """The cell of a row of METRICS."""
        key = _key(row)
        best = self.best.get(key[1:])
        is_best = best is not None and best["value"] == row["value"]
        words, is_level = [], False
        if best is not None and not is_best:
            test = self.compared.get((key[0], best["_system"], *key[1:]))
            if test is None:
                self.untested[key[-1]] = None
            elif not test["significant"]:
                is_level = True
                self.level += 1
            if test is not None:
                words.append(_tested(test, best["_system"]))
        return Cell(
            row["value"],
            row["metric"],
            row["n"],
            row["k"],
            row["low"],
            row["high"],
            row["published"],
            is_best,
            is_level,
            "; ".join([_described(row), *words, source([row])]),
            row,
            row["spread"],
        )


def _described(row: Row) -> str:
    words = [f"{label(row['metric'])} of {row['_system']}, {row['gallery_domain']} to {row['probe_domain']}"]
    if row["k"] is not None:
        words.append(f"{row['k']} of {row['n']}")
    if row["trials"] is not None:
        words.append(f"mean of {row['trials']} trials, of {row['n']} queries each")
    if row["low"] is not None:
        words.append(f"95 % interval {percent(row['low'], 2)} to {percent(row['high'], 2)} ({row['interval']})")
    if row["chance"] is not None:
        words.append(f"a guess {percent(row['chance'], 2)}")
    if row["threshold"] is not None:
        alarms = f", {row['k_false']} of {row['n_false']} false" if row["k_false"] is not None else ""
        words.append(f"threshold {row['threshold']:.4g}{alarms}")
    if row["published"] is not None:
        words.append(f"published {percent(row['published'], 2)}")
    return "; ".join(words)


def _tested(test: Row, best: str) -> str:
    verdict = "differs from" if test["significant"] else "does not differ significantly from"
    p = "" if test["p"] is None else f", p {test['p']:.3g}"
    return f"{verdict} {best} ({test['test']}{p}; {source([test])})"


# -- layouts


def _by_system(rows: list[Row], cells: Mapping[tuple[str, ...], Cell], entry: Mapping[str, Any]) -> list[Grid]:
    """A line a system; first the first metric by probe domain, then the others under each domain."""
    metrics, systems = _metrics(rows), _systems(rows, entry)
    cases = list(dict.fromkeys((row["gallery_domain"], row["probe_domain"], row["gallery"]) for row in rows))
    several = len({gallery for _, _, gallery in cases}) > 1

    def head(case: tuple[str, str, str]) -> str:
        return case[1] + (f", gallery {case[2]}" if several else "")

    grids = []
    if metrics:
        first = metrics[0]
        lines = [(system, [cells.get((system, *case, first)) for case in cases]) for system in systems]
        grids.append(Grid(label(first), "system", [("", [head(case) for case in cases])], lines))
    if len(metrics) > 1:
        groups = [(head(case), [label(metric) for metric in metrics[1:]]) for case in cases]
        lines = [
            (system, [cells.get((system, *case, metric)) for case in cases for metric in metrics[1:]])
            for system in systems
        ]
        grids.append(Grid("", "system", groups, lines))
    return grids


def _matrices(rows: list[Row], cells: Mapping[tuple[str, ...], Cell], entry: Mapping[str, Any]) -> list[Grid]:
    """Gallery domains by probe domains, a matrix for each metric and system."""
    systems = _systems(rows, entry)
    grids = []
    galleries = list(dict.fromkeys(row["gallery"] for row in rows))
    down = sorted({row["gallery_domain"] for row in rows}, key=by_wavelength)
    across = sorted({row["probe_domain"] for row in rows}, key=by_wavelength)
    for metric in _metrics(rows):
        for gallery in galleries:
            for system in systems:
                lines = [
                    (domain, [cells.get((system, domain, probe, gallery, metric)) for probe in across])
                    for domain in down
                ]
                which = f", gallery {gallery}" if len(galleries) > 1 else ""
                whose = f"{system}{which}: gallery by probe"
                grids.append(Grid(label(metric), whose, [(f"{whose} domain", across)], lines))
    return grids


# -- words about a table


def _about(rows: list[Row], entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The protocol, gallery and probe counts, pooling, rules: said once, or by system where systems differ."""
    found = [("protocol", str(entry.get("protocol", "")) or "unknown")]
    if not rows:
        return found
    own = [row for row in rows if row["gallery"] != AVERAGE] or rows
    noun = "images" if all(row["templates"] == "image" for row in own) else "templates"
    found.append(("gallery", _counted(own, "gallery_domain", "n_gallery", noun, subjects=True)))
    found.append(("probes", _counted(own, "probe_domain", "n_probes", noun)))
    failed = [
        _counted(own, domain, column, noun)
        for domain, column, noun in (
            ("gallery_domain", "failed_gallery", f"gallery {noun}"),
            ("probe_domain", "failed_probes", "probes"),
        )
        if any(row[column] for row in own)
    ]
    found.append(
        ("failed to enrol", f"{'; '.join(failed) or 'nobody'} (a failure counts as: {_values(own, 'failure')})")
    )
    strangers = any(row["n_unmated"] for row in own)
    counted = _counted(own, "probe_domain", "n_unmated", "probes") if strangers else "nobody"
    found.append(("without a mate", f"{counted} (setting: {_values(own, 'unmated')})"))
    if any(row["n_left_out"] for row in own):
        found.append(("left out for other systems", _counted(own, "probe_domain", "n_left_out", "probes")))
    found.append(("a template is", _values(own, "templates")))
    found += [
        (words, _values(own, name))
        for words, name in (("pooling", "pooling"), ("filter rule", "rule"), ("rerank", "rerank"))
    ]
    if noun == "images":
        found.append(("distance", _values(own, "distance")))
    return found


def _values(rows: Iterable[Row], column: str) -> str:
    """The one value of all systems; else each value with its systems."""
    by_value: dict[str, dict[str, None]] = {}
    for row in rows:
        by_value.setdefault(str(row[column]), {})[row["_system"]] = None
    if len(by_value) == 1:
        return next(iter(by_value))
    return "; ".join(f"{value} ({', '.join(systems)})" for value, systems in by_value.items())


def _counted(rows: Iterable[Row], domain: str, column: str, noun: str, *, subjects: bool = False) -> str:
    """Counts by domain, as a range where they differ by system or case."""
    counts: dict[str, list[int]] = {}
    people: dict[str, list[int]] = {}
    for row in sorted(rows, key=lambda row: by_wavelength(row[domain])):
        which = row[domain] + ("" if row["gallery"] == "all" else f" gallery {row['gallery']}")
        counts.setdefault(which, []).append(row[column])
        people.setdefault(which, []).append(row["n_subjects"])
    words = []
    for which, values in counts.items():
        of = f" of {_range(people[which])} subjects" if subjects else ""
        words.append(f"{which} {_range(values)} {noun}{of}")
    if len({word.removeprefix(which) for word, which in zip(words, counts, strict=True)}) == 1 and len(words) > 1:
        return f"{words[0].removeprefix(next(iter(counts))).strip()} in each of {', '.join(counts)}"
    return ", ".join(words)


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _footnotes(rows: list[Row], comparisons: list[Row], marks: _Marks, results: Results) -> list[str]:
    if not rows:
        return []
    words = ["Per cent; in small type k/n and the 95 % interval, where there is one."]
    trials = sorted({row["trials"] for row in rows if row["spread"] is not None})
    if trials:
        words.append(f"±: the standard deviation over {' or '.join(map(str, trials))} trials, whose mean is shown.")
    chances = sorted({row["chance"] for row in rows if row["metric"] == "rank-1" and row["chance"] is not None})
    if chances:
        shown = percent(chances[0], 2) + (f" to {percent(chances[-1], 2)}" if len(chances) > 1 else "")
        words.append(f"A guess finds {shown} % at rank 1.")
    if marks.best:
        words.append(
            f"Bold: the best of its column (error rates: the least). {MARK}: not significantly different "
            "from the best at p < 0.05 (McNemar's exact test where each subject is one probe, else a paired "
            "bootstrap over subjects), not corrected for the number of comparisons."
        )
        if marks.untested:
            names = ", ".join(label(metric) for metric in marks.untested)
            between = " Systems of different runs were not compared." if results.compared else ""
            words.append(
                f"Not every number was tested against the best, and what was not has no mark: {names}.{between}"
            )
    if any(row["published"] is not None for row in rows):
        words.append("Published: the number of the paper that the study names, on its own data and probes.")
    words.append(f"From {source(rows)}." + (f" Comparisons: {source(comparisons)}." if comparisons else ""))
    return words
