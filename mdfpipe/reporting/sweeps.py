"""Sweeps: the numbers of an evaluated run against the settings that a study tries at several values.

A drawing for each metric: of one setting a line for each pair of domains; of two a drawing for each pair, a line for
each value of the second. The system that is varied is ringed, and the best value is reported, and what is known of the
difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from mdfpipe.drawing.plots import F64, Line, Picture, legend, lines_plot
from mdfpipe.reporting.cells import label, percent
from mdfpipe.reporting.curves import title_of
from mdfpipe.reporting.grids import Grid
from mdfpipe.store.results import Number, Results, Row, Verdict, is_lower_better, judged, source

Value = bool | int | float | str | None
Case = tuple[str, str, str, str]
"""Gallery domain, probe domain, gallery, re-ranking."""

MOST_DRAWINGS: Final = 24  # of one sweep in one table
MOST_LINES: Final = 6  # of one drawing, where pairs of domains can be told apart by their gallery's
FIRST: Final = 2  # metrics whose drawings stand open
_NARROW: Final = 0.06  # of an axis: values nearer than this are not told apart
_LETTERS: Final = 46  # that stand side by side below a drawing


@dataclass(frozen=True)
class Swept:
    """What a study says of a sweep. base: the system that is varied. settings: one or two, by dotted name. points: of
    each combination the values, and the system that has them.
    """

    name: str
    title: str
    base: str
    settings: tuple[str, ...]
    points: tuple[tuple[tuple[Value, ...], str], ...]

    def words(self, values: Sequence[Value]) -> str:
        """The values of a point with their settings."""
        return ", ".join(f"{short(s)} {value_words(v)}" for s, v in zip(self.settings, values, strict=True))

    def values(self, place: int) -> list[Value]:
        """The values of a setting, each once."""
        return list(dict.fromkeys(values[place] for values, _ in self.points))


@dataclass(frozen=True)
class Drawing:
    """A drawing, and what it says of the best value: a sentence for each pair of domains."""

    picture: Picture
    said: list[str]


@dataclass(frozen=True)
class SweepTable:
    """A sweep in one table of the study. first: the drawings to look at first; missing: systems without a number."""

    title: str
    first: list[Drawing]
    more: list[Drawing]
    grids: list[Grid]
    bands: str
    missing: list[str]
    left_out: int


@dataclass(frozen=True)
class SweepView:
    """A sweep as it is read, where a table holds two of its points."""

    swept: Swept
    tables: list[SweepTable]
    rows: list[Row] = field(repr=False)
    stamps: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its title, or its name."""
        return self.swept.title or self.swept.name

    @property
    def varied(self) -> str:
        """What is varied, in words."""
        return f"{self.swept.base}, {' by '.join(self.swept.settings)}"


def short(setting: str) -> str:
    """A setting as it is labelled.

    >>> short("recipe.gamma"), short("seed")
    ('gamma', 'seed')
    """
    return setting.removeprefix("recipe.")


def value_words(value: Value) -> str:
    """A value as YAML has it.

    >>> [value_words(value) for value in (True, None, 2.0, 0.25, "mean")]
    ['true', 'none', '2', '0.25', 'mean']
    """
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def sweep_views(results: Results, sweeps: Iterable[Swept]) -> list[SweepView]:
    """Every sweep of which a table of the run itself holds two points or more."""
    found = []
    for swept in sweeps:
        systems = {system for _, system in swept.points}
        tables, used = list[SweepTable](), list[Row]()
        for name in results.tables:
            rows = [r for r in results.of(results.metrics, name) if r["system"] in systems and _own(results, r)]
            if len({row["system"] for row in rows}) > 1:
                tables.append(_Table(results, swept, name, rows).view())
                used += rows
        if tables:
            found.append(SweepView(swept, tables, used, results.stamps))
    return found


def _own(results: Results, row: Row) -> bool:
    return row["_run"] in ("", results.name)


def bounds(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of a number, or the spread of its trials around it; none where it has neither."""
    if row["low"] is not None and row["high"] is not None:
        return row["low"], row["high"]
    spread = row.get("spread")
    return None if spread is None else (max(row["value"] - spread, 0.0), min(row["value"] + spread, 1.0))


# -- one sweep in one table


class _Table:
    def __init__(self, results: Results, swept: Swept, name: str, rows: list[Row]) -> None:
        self.results, self.swept, self.name, self.rows = results, swept, name, rows
        self.cases = list(dict.fromkeys(_case(row) for row in rows))
        self.metrics = list(dict.fromkeys(row["metric"] for row in rows))
        self.found = {(row["system"], _case(row), row["metric"]): row for row in rows}
        numbers = judged(rows, results.of(results.comparisons, name))  # against the best of the sweep, not of the table
        self.numbers = {(n.row["system"], _case(n.row), n.row["metric"]): n for n in numbers}

    def view(self) -> SweepTable:
        """Its drawings and numbers."""
        drawings = [(metric, drawing) for metric in self.metrics for drawing in self._drawings(metric)]
        shown = drawings[:MOST_DRAWINGS]
        there = {row["system"] for row in self.rows}
        return SweepTable(
            str(self.results.tables[self.name].get("title") or self.name),
            [drawing for metric, drawing in shown if metric in self.metrics[:FIRST]],
            [drawing for metric, drawing in shown if metric not in self.metrics[:FIRST]],
            [self._grid(metric) for metric in self.metrics],
            _bands(self.rows),
            list(dict.fromkeys(system for _, system in self.swept.points if system not in there)),
            len(drawings) - len(shown),
        )

    def at(self, metric: str, case: Case) -> list[tuple[tuple[Value, ...], Row]]:
        """The numbers of a pair of domains, by the values of their points; not those that the data do not resolve."""
        keys = ((values, (system, case, metric)) for values, system in self.swept.points)
        return [(values, row) for values, key in keys if (row := self.found.get(key)) and row["value"] is not None]

    def words(self, case: Case) -> str:
        """A pair of domains, and whether it is re-ranked where some are."""
        again = f", re-ranking {case[3]}" if len({one[3] for one in self.cases}) > 1 else ""
        return title_of(case[:3]) + again

    def _drawings(self, metric: str) -> list[Drawing]:
        known = [case for case in self.cases if self.at(metric, case)]
        if len(self.swept.settings) == 2:
            return [self._drawing(metric, self.words(case), [case]) for case in known]
        if len(known) <= MOST_LINES:
            return [self._drawing(metric, "", known)] if known else []
        apart: dict[str, list[Case]] = {}
        for case in known:
            apart.setdefault(f"from {case[0]}", []).append(case)
        return [self._drawing(metric, words, cases) for words, cases in apart.items()]

    def _drawing(self, metric: str, of: str, cases: Sequence[Case]) -> Drawing:
        """Lines against the first setting: of each case; or of the one case, of each value of the second."""
        along = Axis(self.swept.values(0))
        by_line: dict[str, dict[Value, Row]] = {}
        for case in cases:
            for values, row in self.at(metric, case):
                name = (
                    self.words(case)
                    if len(values) == 1
                    else f"{short(self.swept.settings[1])} {value_words(values[1])}"
                )
                by_line.setdefault(name, {})[values[0]] = row
        names = list(by_line)
        lines = [line for place, n in enumerate(names) for line in along.lines(n, place, by_line[n], self.swept.base)]
        title = ", ".join(filter(None, [label(metric), of]))
        svg = lines_plot(
            "/".join(("sweep", self.swept.name, self.name, metric, *map("|".join, cases))),
            lines,
            x_label=short(self.swept.settings[0]) + along.manner,
            y_label=f"{label(metric)}, %",
            ticks=along.ticks,
            near=True,
        )
        rows = [row for line in by_line.values() for row in line.values()]
        picture = Picture(title, svg, source(rows), tuple(legend(names)))
        return Drawing(picture, [self._said(metric, case) for case in cases])

    def _said(self, metric: str, case: Case) -> str:
        """The best value, its number, and what is known of its difference from the system that is varied."""
        numbers = self.at(metric, case)
        sign = -1 if is_lower_better(metric) else 1
        best = max(numbers, key=lambda one: (sign * one[1]["value"], one[1]["system"] == self.swept.base))
        base = next((one for one in numbers if one[1]["system"] == self.swept.base), None)
        level = [self.swept.words(values) for values, row in numbers if row["value"] == best[1]["value"]]
        words = f"{self.words(case)}: best at {' and '.join(level)}, {_number(best[1])}"
        if base is None:
            return f"{words}; {self.swept.base}, which is varied, is not among the points."
        if base is best:
            return f"{words}; {self.swept.base} itself{' is one of these' if len(level) > 1 else ''}."
        told = self._told(best[1], base[1])
        return f"{words}; {self.swept.base} ({self.swept.words(base[0])}) has {_number(base[1])}: {told}."

    def _told(self, best: Row, base: Row) -> str:
        number = self.numbers[base["system"], _case(base), base["metric"]]
        if number.test is not None and number.verdict in (Verdict.LEVEL, Verdict.WORSE):
            shown = "a difference is not shown" if number.verdict is Verdict.LEVEL else "a difference is shown"
            return f"{shown} ({number.test['test']}, p {number.test['p']:.2g})"
        one, other = bounds(best), bounds(base)
        if one is None or other is None:
            return "without intervals, nothing is known of the difference"
        bands = "spreads" if None in (best["low"], base["low"]) else "intervals"
        if one[0] <= other[1] and other[0] <= one[1]:
            return f"the {bands} overlap, a difference is not shown"
        return f"the {bands} do not overlap"

    def _grid(self, metric: str) -> Grid:
        """The numbers behind the drawings: a line a point, a column a pair of domains."""
        lines: list[tuple[str, list[Number | None]]] = []
        for values, system in self.swept.points:
            cells = [self.numbers.get((system, case, metric)) for case in self.cases]
            mark = f" ({system})" if system == self.swept.base else ""
            lines.append((", ".join(map(value_words, values)) + mark, cells))
        head = ", ".join(map(short, self.swept.settings))
        return Grid(f"{label(metric)} by {head}", head, [("", [self.words(case) for case in self.cases])], lines)


def _case(row: Row) -> Case:
    return row["gallery_domain"], row["probe_domain"], row["gallery"], row["rerank"]


def _number(row: Row) -> str:
    """A number with what is known of its error."""
    text, spread = f"{percent(row['value'])} %", row.get("spread")
    if row["low"] is not None and row["high"] is not None:
        return f"{text} ({percent(row['low'])}–{percent(row['high'])})"
    trials = f" over {row['trials']} trials" if row.get("trials") else ""
    return text if spread is None else f"{text} (± {percent(spread)}{trials})"


def _bands(rows: Sequence[Row]) -> str:
    """What the bands of the drawings are."""
    intervals = any(row["low"] is not None for row in rows)
    spreads = any(row["low"] is None and row.get("spread") is not None for row in rows)
    kinds = [*["95 % intervals"] * intervals, *["the spread (one standard deviation) of the trials"] * spreads]
    return " or ".join(kinds)


# -- along the axis


class Axis:
    """Places of the values of a setting: to scale, by their logarithms if they are too close for that, or evenly.

    at: value -> place. ticks: places with words, as many as have room. manner: their spacing, if not to scale.
    """

    def __init__(self, values: Sequence[Value]) -> None:
        numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        self.manner, places = "", np.array(numbers)
        if len(numbers) < len(values):
            places = np.arange(len(values), dtype=float)
        elif _is_close(places) and min(numbers) > 0 and not _is_close(np.log10(places)):
            self.manner, places = ", logarithmic", np.log10(places)
        elif _is_close(places):
            self.manner, places = ", not to scale", np.argsort(np.argsort(places)).astype(float)
        self.at: dict[Value, float] = dict(zip(values, places.tolist(), strict=True))
        self.is_of_words = len(numbers) < len(values)

    @cached_property
    def ticks(self) -> list[tuple[float, str]]:
        """Words are cut to the room that there is; numbers that would overlap the one before are left out."""
        ordered = sorted(self.at.items(), key=lambda one: one[1])
        if self.is_of_words:
            most = max(_LETTERS // len(ordered) - 1, 2)
            words = [(place, value_words(value)) for value, place in ordered]
            return [(place, text if len(text) <= most else f"{text[: most - 1]}…") for place, text in words]
        reach = (ordered[-1][1] - ordered[0][1]) or 1.0
        found: list[tuple[float, str]] = []
        for value, place in ordered:
            text = value_words(value)
            letters = (len(text) + len(found[-1][1])) / 2 + 1 if found else 0
            if not found or (place - found[-1][0]) / reach * _LETTERS >= letters:
                found.append((place, text))
        return found

    def lines(self, name: str, place: int, rows: Mapping[Value, Row], base: str) -> list[Line]:
        """A line with its band and its ring; and a dotted one of what is published."""
        ordered = sorted(rows.items(), key=lambda one: self.at[one[0]])
        x, y = np.array([(self.at[value], row["value"]) for value, row in ordered], float).T
        around = [bounds(row) for _, row in ordered]
        known = [pair for pair in around if pair is not None]
        low, high = np.array(known).T if len(known) == len(around) else (np.zeros(0), np.zeros(0))
        ring = next((n for n, (_, row) in enumerate(ordered) if row["system"] == base), None)
        found = [Line(name, place, x, y, low, high, dots=True, ring=ring)]
        paper = [(self.at[value], row["published"]) for value, row in ordered if row["published"] is not None]
        if paper:
            x, y = np.array(paper, float).T
            found.append(Line(name, place, x, y, dotted=True))
        return found


def _is_close(places: F64) -> bool:
    """Whether two of them are too near each other to be distinguished."""
    if len(places) < 2:
        return False
    apart = np.diff(np.sort(places))
    return bool(apart.min() < _NARROW * np.ptp(places))
