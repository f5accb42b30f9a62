"""Tables of numbers as views of METRICS: which rows and columns, what is best, what is level with the best.

Numbers are in per cent. Every cell says the file and the row that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mdfpipe.domains import by_wavelength
from mdfpipe.errors import counted
from mdfpipe.reporting.cells import MARKS, label, percent
from mdfpipe.store.results import AVERAGE, NOTES, Number, Results, Row, Verdict, counted_as, source


@dataclass(frozen=True)
class Grid:
    """Rows of cells under columns, which are in groups. title: the metric, or nothing where columns name it."""

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

    about: (what, words) of the protocol. grids: those to look at first; more: the other metrics. legend: what marks in
    the cells mean. footnotes: how to read the rest. stamps: what has to be written wherever a number of it is. numbers:
    all of them, in the order of METRICS. fingerprint: of the protocol.
    """

    name: str
    title: str
    about: list[tuple[str, str]]
    grids: list[Grid]
    more: list[Grid]
    legend: list[str]
    footnotes: list[str]
    coverage: list[str]
    notes: list[str]
    stamps: list[str]
    numbers: list[Number]
    fingerprint: str

    @property
    def rows(self) -> list[Row]:
        """Their rows of METRICS."""
        return [number.row for number in self.numbers]

    @property
    def caption(self) -> str:
        """Stamps and protocol in one line."""
        return "; ".join([*self.stamps, *(f"{what}: {words}" for what, words in self.about)])


def views(results: Results) -> list[TableView]:
    """Every table that has numbers or something to say, in the study's order."""
    found, judged = [], results.numbers
    for name, entry in results.tables.items():
        comparisons = results.of(results.comparisons, name)
        numbers = [number for number in judged if number.row["table"] == name]
        rows = [number.row for number in numbers]
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
                _legend(numbers),
                _footnotes(numbers, comparisons),
                list(dict.fromkeys(entry.get("coverage", []))),
                list(dict.fromkeys(entry.get("notes", []))),
                results.stamps_of(name),
                numbers,
                entry["fingerprint"],
            )
        )
    return found


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
    if entry["fingerprint"] != entry.get("protocol"):
        found.append(("its fingerprint", entry["fingerprint"][:12]))
    if not rows:
        return found
    own = [row for row in rows if row["gallery"] != AVERAGE] or rows
    noun = "images" if all(row["templates"] == "image" for row in own) else "templates"
    is_searched = any(row["n_probes"] for row in own)  # else they are pairs that name no probes
    found += _searched(own, noun) if is_searched else []
    for what in ("searches", "pairs"):
        apart = [row for row in own if row["n_false"] is not None and counted_as(row["metric"]) == what]
        if apart:
            found.append((f"non-mated {what}", _counted(apart, "probe_domain", "n_false", what)))
    if any(row["n_left_out"] for row in own):
        found.append(("left out for other systems", _counted(own, "probe_domain", "n_left_out", "probes")))
    of_vectors = any(row["templates"] != "as given" for row in own)  # given scores are of no known templates
    found += [
        (words, _values(own, name))
        for words, name in (
            *((("a template is", "templates"), ("pooling", "pooling")) if of_vectors else ()),
            ("filter rule", "rule"),
            *((("rerank", "rerank"),) if of_vectors else ()),
            ("distance", "distance"),
        )
        if is_searched or name == "distance"
    ]
    return found


def _searched(own: list[Row], noun: str) -> list[tuple[str, str]]:
    """Who is enrolled and searched, and who failed to enrol or has no mate."""
    found = [
        ("gallery", _counted(own, "gallery_domain", "n_gallery", noun, subjects=True)),
        ("probes", _counted(own, "probe_domain", "n_probes", noun)),
    ]
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
    return found


def _values(rows: Iterable[Row], column: str) -> str:
    """The one value of all systems, across domains and within one; else each value with its systems."""
    rows = list(rows)
    sides = [
        [row for row in rows if (row["gallery_domain"] == row["probe_domain"]) is within] for within in (False, True)
    ]
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


def mark_words(numbers: Sequence[Number]) -> list[str]:
    """What the marks of notes are, where there are some."""
    words = []
    for note, (mark, meaning) in NOTES.items():
        names = dict.fromkeys(label(n.row["metric"]) for n in numbers if note in (n.row.get("notes") or ()))
        if mark and names:
            words.append(f"{mark} {meaning} ({', '.join(names)}).")
    return words


def _legend(numbers: Sequence[Number]) -> list[str]:
    """What the marks of notes, ± and a guess are, where there are some."""
    words = mark_words(numbers)
    rows = [number.row for number in numbers]
    over = {
        f"{row['seeds']} seeds" if row.get("seeds") else f"{row['trials']} trials"
        for row in rows
        if row["spread"] is not None
    }
    if over:
        words.append(f"±: the standard deviation over {' or '.join(sorted(over))}, whose mean is shown.")
    chances = sorted({row["chance"] for row in rows if row["metric"] == "rank-1" and row["chance"] is not None})
    if chances:
        shown = percent(chances[0], 2) + (f" to {percent(chances[-1], 2)}" if len(chances) > 1 else "")
        words.append(f"A guess finds {shown} % at rank 1.")
    return words


def _footnotes(numbers: Sequence[Number], comparisons: list[Row]) -> list[str]:
    if not numbers:
        return []
    rows = [number.row for number in numbers]
    words = ["Per cent; in small type k/n, false alarms, and the 95 % interval or why there is none."]
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
            words.append(f"Not tested: {counted(len(untested), 'number')}, of {names}.")
    if any(row["published"] is not None for row in rows):
        words.append("Published: the number of the paper that the study names, on its own data and probes.")
    read = [row for row in comparisons if "_file" in row]
    words.append(f"From {source(rows)}." + (f" Comparisons: {source(read)}." if read else ""))
    return words
