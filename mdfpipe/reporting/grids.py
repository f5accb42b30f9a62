"""Tables of numbers as views of METRICS: which rows and columns, what is best, what is level with the best.

Numbers are in per cent. Every cell says the file and the row that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mdfpipe.domains import Band, Domain
from mdfpipe.errors import DataError
from mdfpipe.store.results import AVERAGE, Number, Results, Row, Verdict, source

MARKS: Final = {Verdict.BEST: "", Verdict.LEVEL: "≈", Verdict.WORSE: "", Verdict.UNTESTED: "?", None: ""}
"""What stands behind a number; the best ones are bold."""
LABELS: Final = {
    "map": "mAP",
    "minp": "mINP",
    "eer": "EER",
    "eer-hter": "EER (HTER)",
    "eer-fvc": "EER (FVC)",
    "rocch-eer": "EER (hull)",
    "auc": "AUC",
}


def count_of(number: Number) -> str:
    """k/n of a rate; n of a mean."""
    row = number.row
    return f"{row['k']}/{row['n']}" if row["k"] is not None else f"n {row['n']}"


def bounds_of(number: Number) -> str:
    """The spread over trials and the interval, where there are."""
    spread, low, high = (number.row[name] for name in ("spread", "low", "high"))
    words = [] if spread is None else [f"± {percent(spread)}"]
    words += [] if low is None or high is None else [f"{percent(low)}–{percent(high)}"]
    return ", ".join(words)


@dataclass(frozen=True)
class Grid:
    """Rows of cells under columns, which stand in groups. title: the metric, or nothing where columns name it."""

    title: str
    head: str
    groups: list[tuple[str, list[str]]]
    rows: list[tuple[str, list[Number | None]]]

    @property
    def cells(self) -> list[Number]:
        """Every cell with a number."""
        return [cell for _, row in self.rows for cell in row if cell is not None]


@dataclass(frozen=True)
class TableView:
    """A table as it is read: its numbers, how they were made, what is to be known of them.

    about: (what, words) of the protocol. grids: those to look at first; more: the other metrics. stamps: what has to be
    written wherever a number of it is. rows: of METRICS.
    """

    name: str
    title: str
    about: list[tuple[str, str]]
    grids: list[Grid]
    more: list[Grid]
    footnotes: list[str]
    coverage: list[str]
    notes: list[str]
    stamps: list[str]
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
    found, judged = [], results.numbers
    for name, entry in results.tables.items():
        rows = results.of(results.metrics, name)
        comparisons = results.of(results.comparisons, name)
        numbers = [number for number in judged if number.row["table"] == name]
        cells = {_key(number.row): number for number in numbers}
        grids = _by_system(rows, cells, entry) if _has_one_gallery(rows) else _matrices(rows, cells, entry)
        primary = [grid for grid in grids if grid.title == label(_metrics(rows)[0])] if rows else []
        found.append(
            TableView(
                name,
                str(entry.get("title") or name),
                _about(rows, entry),
                primary or grids,
                [grid for grid in grids if grid not in primary] if primary else [],
                _footnotes(numbers, comparisons),
                list(dict.fromkeys(entry.get("coverage", []))),
                list(dict.fromkeys(entry.get("notes", []))),
                results.stamps_of(name),
                rows,
            )
        )
    return found


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


# -- words about a number


def told(number: Number) -> str:
    """What is known of a number: of what it is, its interval, what it is against the best, where it was read."""
    words = [_described(number.row)]
    test = number.test
    if number.verdict is Verdict.UNTESTED and test is None:
        words.append(f"not tested against {number.best}")
    elif number.verdict is Verdict.UNTESTED:
        words.append(f"not tested against {number.best}: {_untested(number)}")
    elif test is not None:
        is_level = number.verdict is Verdict.LEVEL
        verdict = "does not differ significantly from" if is_level else "significantly worse than"
        p = f"p {test['p']:.3g}, {test['n']} probes that both have"
        words.append(f"{verdict} {number.best} ({test['test']}, {p}; {_source_of(test)})")
    return "; ".join([*words, source([number.row])])


def _untested(number: Number) -> str:
    assert number.test is not None
    if number.test["p"] is None:
        return "too few subjects"
    return f"on the {number.test['n']} probes that both have, {number.row['_system']} is the better one"


def _source_of(test: Row) -> str:
    return source([test]) if "_file" in test else "taken from the searches of both runs"


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


# -- layouts


def _by_system(rows: list[Row], cells: Mapping[tuple[str, ...], Number], entry: Mapping[str, Any]) -> list[Grid]:
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


def _matrices(rows: list[Row], cells: Mapping[tuple[str, ...], Number], entry: Mapping[str, Any]) -> list[Grid]:
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
    found += [
        (words, _values(own, name))
        for words, name in (
            ("a template is", "templates"),
            ("pooling", "pooling"),
            ("filter rule", "rule"),
            ("rerank", "rerank"),
        )
    ]
    if noun == "images":
        found.append(("distance", _values(own, "distance")))
    return found


def _values(rows: Iterable[Row], column: str) -> str:
    """The one value of all systems, across domains and within one; else each value with its systems."""
    rows = list(rows)
    sides = [[row for row in rows if (row["gallery_domain"] == row["probe_domain"]) is within] for within in (0, 1)]
    if all(sides) and len({str(row[column]) for row in rows}) > 1:
        across, within = (_values(side, column) for side in sides)
        return across if across == within else f"{across}; within one domain: {within}"
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


def _footnotes(numbers: Sequence[Number], comparisons: list[Row]) -> list[str]:
    if not numbers:
        return []
    rows = [number.row for number in numbers]
    words = ["Per cent; in small type k/n and the 95 % interval, where there is one."]
    trials = sorted({row["trials"] for row in rows if row["spread"] is not None})
    if trials:
        words.append(f"±: the standard deviation over {' or '.join(map(str, trials))} trials, whose mean is shown.")
    chances = sorted({row["chance"] for row in rows if row["metric"] == "rank-1" and row["chance"] is not None})
    if chances:
        shown = percent(chances[0], 2) + (f" to {percent(chances[-1], 2)}" if len(chances) > 1 else "")
        words.append(f"A guess finds {shown} % at rank 1.")
    if any(number.verdict is not None for number in numbers):
        words.append(
            f"Bold: the best of its column (error rates: the least). {MARKS[Verdict.LEVEL]}: not significantly "
            "different from the best; without a mark: significantly worse, at p < 0.05 (McNemar's exact test where "
            "each subject is one probe, else a paired bootstrap over subjects), not corrected for the number of "
            f"comparisons. {MARKS[Verdict.UNTESTED]}: not tested against the best."
        )
        untested = [number for number in numbers if number.verdict is Verdict.UNTESTED]
        if untested:
            names = ", ".join(dict.fromkeys(label(number.row["metric"]) for number in untested))
            words.append(f"Not tested: {len(untested)} numbers, of {names}.")
    if any(row["published"] is not None for row in rows):
        words.append("Published: the number of the paper that the study names, on its own data and probes.")
    read = [row for row in comparisons if "_file" in row]
    words.append(f"From {source(rows)}." + (f" Comparisons: {source(read)}." if read else ""))
    return words
