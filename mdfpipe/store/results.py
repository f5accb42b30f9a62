"""What `evaluate/` holds: the names of its files, its numbers, and what is known of the difference between two of them.

An evaluation is the part `evaluate/metrics` with further tables and scores. Each row that is read here keeps the file
and the place that it came from. A verdict has one owner: `judged`. Console, page, CSV, LaTeX and JSON only print it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from mdfpipe.errors import counted
from mdfpipe.store.naming import file_part, natural_key
from mdfpipe.store.run import Run
from mdfpipe.store.tables import COMPARISONS, CURVES, METRICS, NumberNote

STAGE, KEY = "evaluate", "metrics"
POOLED: Final = "pooled"
"""In the place of a probe domain: the probes of all of them together."""
AVERAGE: Final = "average"
"""In the place of a gallery: the mean over the galleries."""
PLACE: Final = ("table", "gallery_domain", "probe_domain", "gallery")
SIGNIFICANT: Final = 0.05
FEWEST_SUBJECTS: Final = 6
"""For a bootstrap to be a test. With five subjects that agree, a sign test has p 0.06: nothing can be significant."""

Row = dict[str, Any]
"""A row of a table. `_run`, `_file` and `_row` say where it was read; `_system`, `_first` and `_second` how systems are
called where runs are side by side; `_protocol` is the fingerprint of its table's protocol."""

LOWER_IS_BETTER: Final = ("eer", "rocch-eer", "fnir@", "cllr", "mincllr", "fmr@", "fnmr@", "fpir@")


def score_file(table: str, system: str) -> str:
    """The file of a system's scores in a table, under the run folder."""
    return f"{STAGE}/scores/{file_part(table)}.{file_part(system)}.parquet"


def template_file(system: str) -> str:
    """The file of a system's templates, under the run folder."""
    return f"{STAGE}/templates/{file_part(system)}.parquet"


# -- a number, and what it is against the best


class Verdict(StrEnum):
    """What a number is against the best of its column.

    best: nothing is better. level: not significantly different from the best. worse: significantly worse than the best.
    untested: lower than the best, and no test says whether that means anything.
    """

    BEST = "best"
    LEVEL = "level"
    WORSE = "worse"
    UNTESTED = "untested"


@dataclass(frozen=True)
class Number:
    """One number: its row of METRICS, and what it is against the best of its column.

    verdict: None for a number alone. best: the system that it is compared with, and test: the row of
    COMPARISONS that says so, where there is one.
    """

    row: Row
    verdict: Verdict | None = None
    best: str = ""
    test: Row | None = None

    @property
    def value(self) -> float | None:
        """The number, 0..1; None where the data do not resolve it."""
        value: float | None = self.row["value"]
        return value


NOTES: Final[dict[NumberNote, tuple[str, str]]] = {
    NumberNote.UNRESOLVED: ("", "no number"),
    NumberNote.UNDER_30: (
        "†",
        "fewer than 30 errors are expected at the operating point, too few for the rule of 30 (ISO/IEC 19795-1)",
    ),
    NumberNote.TRIVIAL: ("‡", "every system reaches it, whatever it recognises"),
    NumberNote.AT_CHANCE: ("°", "not shown to be better than a guess"),
    NumberNote.FEW_SUBJECTS: ("§", "interval of fewer than six subjects: too narrow"),
    NumberNote.NO_WIDTH: ("§", "interval without width: every sample of subjects gave this number"),
    NumberNote.LOST_SAMPLES: ("§", "interval without those samples of subjects that had nothing to count"),
    NumberNote.ONE_SUBJECT: ("", "no interval: one subject"),
    NumberNote.FAILURES: ("", "no interval: failures to enrol have no score"),
    NumberNote.MANY_SCORES: ("", "no interval: too many scores"),
    NumberNote.MEAN: ("", "no interval: a mean"),
    NumberNote.DETECTED_FACES: ("¶", "source: detected; people are named by faces that a detector found"),
}
"""The mark after the number of each note, and its words. Without a mark, the words are in the cell."""


def note_words(row: Row) -> list[str]:
    """What to know of a number, in words.

    >>> note_words({"metric": "fnir@fpir=0.01", "value": None, "n_false": 1, "notes": ["unresolved"]})
    ['needs at least 100 non-mated searches, has 1']
    """
    notes = row.get("notes") or ([] if row["value"] is not None else [NumberNote.UNRESOLVED])
    return [_needs(row) if note == NumberNote.UNRESOLVED else NOTES.get(note, ("", note))[1] for note in notes]


def _needs(row: Row) -> str:
    """Why there is no number at an operating point."""
    what, said = f"non-mated {counted_as(row['metric'])}", "no number: a part of the mean has none"
    with contextlib.suppress(ValueError, OverflowError):  # of a metric that a table of another version names
        share = float(row["metric"].partition("=")[2])
        if row["n_false"] is not None:
            needs = f"needs at least {math.ceil(1 / share - 1e-9)}" if share else "a share of 0 needs infinitely many"
            said = f"{needs} {what}, has {row['n_false']}"
    return said


def counted_as(metric: str) -> str:
    """What can be a false alarm of a metric: searches, or pairs."""
    return "searches" if "@fpir" in metric else "pairs"


def is_significant(p: float | None) -> bool | None:
    """Whether p is below 0.05; None where there was no test.

    >>> is_significant(0.04), is_significant(0.05), is_significant(None)
    (True, False, None)
    """
    return None if p is None else p < SIGNIFICANT


def is_lower_better(metric: str) -> bool:
    """Whether less of it is better: an error rate.

    >>> is_lower_better("eer"), is_lower_better("rank-1")
    (True, False)
    """
    return metric.startswith(LOWER_IS_BETTER)


def judged(metrics: Iterable[Row], comparisons: Iterable[Row]) -> list[Number]:
    """Each number with its verdict, in the given order.

    A column is the systems of one table, protocol, pair of domains, gallery and metric. Those with the best value are
    best, however many they are. Any other is compared with the best ones by the first test that there is. What is no
    number, as the data do not resolve it, has no verdict.
    """
    rows = list(metrics)
    columns: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["value"] is not None:
            columns.setdefault(_column(row), []).append(row)
    tests: dict[tuple[str, ...], Row] = {}
    for row in comparisons:
        for a, b in (("_first", "_second"), ("_second", "_first")):
            tests[(*(row[name] for name in (*PLACE, "metric")), row[a], row[b])] = row
    best = {key: _best(column) for key, column in columns.items() if len(column) > 1}
    return [_judge(row, best.get(_column(row), []), tests) for row in rows]


def _column(row: Row) -> tuple[str, ...]:
    return (*(row[name] for name in (*PLACE, "metric")), row.get("_protocol", ""))


def _best(column: Sequence[Row]) -> list[Row]:
    sign = -1 if is_lower_better(column[0]["metric"]) else 1
    reached = max(sign * row["value"] for row in column)
    return [row for row in column if sign * row["value"] == reached]


def _judge(row: Row, best: Sequence[Row], tests: Mapping[tuple[str, ...], Row]) -> Number:
    if not best or row["value"] is None:
        return Number(row)
    names = [one["_system"] for one in best]
    if row["_system"] in names:
        return Number(row, Verdict.BEST, row["_system"])
    place = tuple(row[name] for name in (*PLACE, "metric"))
    keys = [(*place, name, row["_system"]) for name in names]
    test = next((tests[key] for key in keys if key in tests), None)
    if test is None:
        return Number(row, Verdict.UNTESTED, names[0])
    held = test["_first"] if test["_second"] == row["_system"] else test["_second"]
    return Number(row, _verdict(test, held, is_lower_better(row["metric"])), held, test)


def _verdict(test: Row, best: str, lower: bool) -> Verdict:
    """What a test says of the other system. A test on other probes may find the best one significantly worse: it then
    says nothing about the numbers that are shown.
    """
    significant = is_significant(test["p"])
    if significant is None:
        return Verdict.UNTESTED
    ahead = test["difference"] if test["_first"] == best else -test["difference"]
    if not significant:
        return Verdict.LEVEL
    return Verdict.WORSE if (ahead < 0 if lower else ahead > 0) else Verdict.UNTESTED


# -- the evaluation of a run


@dataclass(eq=False)
class Results:
    """The evaluation of one run, or of several side by side.

    run: the folder whose people, funnel and settings are shown. none: why there is no table of numbers, or nothing.
    tables: name -> title, protocol, fingerprint, systems, coverage, notes, stamps. metrics, comparisons, curves: rows
    of those tables. score_files, template_files: of the first run, by (table, system) and by system. stamps: what has
    to be written with every number, wherever it is written.
    """

    run: Path
    name: str
    none: str
    tables: dict[str, dict[str, Any]]
    metrics: list[Row]
    comparisons: list[Row]
    curves: list[Row]
    score_files: dict[tuple[str, str], Path] = field(default_factory=dict)
    template_files: dict[str, Path] = field(default_factory=dict)
    trained: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    stamps: list[str] = field(default_factory=list)

    @property
    def numbers(self) -> list[Number]:
        """Every number with its verdict, in the order of `metrics`."""
        return judged(self.metrics, self.comparisons)

    def of(self, rows: Iterable[Row], table: str) -> list[Row]:
        """The rows of one table."""
        return [row for row in rows if row["table"] == table]

    def stamps_of(self, table: str) -> list[str]:
        """What has to be printed with every number of a table."""
        return [*self.stamps, *self.tables[table].get("stamps", [])]

    def relative(self, path: Path) -> str:
        """A file of the run, as the report names it."""
        return path.relative_to(self.run).as_posix()

    def document(self) -> dict[str, Any]:
        """Tables, metrics with their verdicts, comparisons, notes and stamps, as JSON has them."""
        metrics = [
            _plain(n.row, system="_system") | {"verdict": n.verdict, "words": note_words(n.row)} for n in self.numbers
        ]
        comparisons = [_plain(row, first="_first", second="_second") for row in self.comparisons]
        found = {"tables": self.tables, "metrics": metrics, "comparisons": comparisons}
        return found | {"notes": self.notes, "stamps": self.stamps}


def _plain(row: Row, **called: str) -> Row:
    """A row without what was added when it was read; systems as they are called here."""
    return {name: row[called.get(name, name)] for name in row if not name.startswith("_")}


def read_results(run: Path, name: str = "") -> Results:
    """The evaluation in `run`, whether or not it is current: `comparison.side_by_side` asks that.

    name: what the run is called among others; its systems are then NAME/SYSTEM and its files NAME/FILE. Raises
    DataError where the run was never evaluated, StoreError where a table cannot be read.
    """
    none = f"{run}: expected an evaluated run with {STAGE}/{KEY}.parquet, found none; `mdfpipe eval` makes it"
    receipt = Run(run).needed(STAGE, KEY, none)
    before = f"{name}/" if name else ""
    tables = {str(table): dict(entry) for table, entry in receipt.facts.get("tables", {}).items()}
    why_none = str(receipt.facts.get("none", ""))
    found = Results(run, name or run.resolve().name, why_none, tables, [], [], [], settings=receipt.settings)
    for kind, rows in (("metrics", found.metrics), ("comparisons", found.comparisons), ("curves", found.curves)):
        file = f"{STAGE}/{kind}.parquet"
        if not (run / file).is_file():
            found.notes.append(f"{before}{file} is not there: what it holds is left out; evaluate again")
            continue
        ours = {"metrics": METRICS, "comparisons": COMPARISONS, "curves": CURVES}[kind]
        table = Run(run).table(STAGE, KEY) if kind == KEY else Run(run).table_beside(STAGE, KEY, file, ours)
        rows += [r | {"_file": before + file, "_row": n, "_run": name} for n, r in enumerate(table.to_pylist())]
    in_order = dict.fromkeys([row["table"] for row in found.metrics if row["table"] in tables] + list(tables))
    found.tables = {table: tables[table] for table in in_order}  # as the study has them: a receipt sorts its names
    _call(found, before)
    for entry in tables.values():
        for kind in ("coverage", "notes"):
            entry[kind] = [f"{name}: {line}" if name else line for line in entry.get(kind, [])]
    left_out = receipt.facts.get("missing") or []
    if left_out:
        shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        found.notes.append(
            f"{found.name}: made without {counted(len(left_out), 'video that is', 'videos that are')} not done "
            f"({shown})"
        )
    _find_files(found)
    _without_trainings(found)
    return found


def results_of(tables: Mapping[str, Any], metrics: Iterable[Row], comparisons: Iterable[Row]) -> Results:
    """The same of rows that were just made, and lie nowhere yet."""
    own = {name: dict(entry) for name, entry in tables.items()}
    found = Results(Path(), "", "", own, [dict(row) for row in metrics], [dict(row) for row in comparisons], [])
    _call(found, "")
    _without_trainings(found)
    return found


def _without_trainings(found: Results) -> None:
    """Leave out what single trainings of a system with several seeds reach: `each` of the system's own rows has it."""
    trainings = {
        (table, own)
        for table, entry in found.tables.items()
        for each in entry.get("seeds", {}).values()
        for own in each
    }
    for rows in (found.metrics, found.curves):
        rows[:] = [row for row in rows if (row["table"], row["system"]) not in trainings]


def _call(found: Results, before: str) -> None:
    """Say in every row and table what systems are called."""
    for row in (*found.metrics, *found.curves):
        row["_system"] = before + row["system"]
    for row in found.comparisons:
        row |= {"_first": before + row["first"], "_second": before + row["second"]}
    for entry in found.tables.values():
        entry.setdefault("fingerprint", str(entry.get("protocol")))  # of an earlier version, which noted a name alone
        entry["systems"] = [before + system for system in entry.get("systems", [])]
    for row in found.metrics:
        row["_protocol"] = found.tables.get(row["table"], {}).get("fingerprint", "")


def _find_files(found: Results) -> None:
    """Scores, templates and trainings that lie there, for the names that the tables use."""
    systems = sorted({row["system"] for row in found.metrics}, key=natural_key)
    for table in found.tables:
        for system in systems:
            file = score_file(table, system)
            if (found.run / file).is_file():
                found.score_files[table, system] = _whole(found.run, file)
    names = {file_part(system): system for system in systems}
    for path in sorted((found.run / STAGE / "templates").glob("*.parquet"), key=lambda p: natural_key(p.name)):
        system = names.get(path.stem, path.stem)
        found.template_files[system] = _whole(found.run, found.relative(path))
    for path in sorted((found.run / "train").glob("*/training.parquet"), key=lambda p: natural_key(p.parent.name)):
        found.trained[path.parent.name] = path


def _whole(run: Path, file: str) -> Path:
    """A file of the evaluation, which is what was made. Raises Damaged."""
    return Run(run).beside(STAGE, KEY, file)


# -- where a number comes from


def source(rows: Iterable[Mapping[str, Any]]) -> str:
    """Places of rows, in words: file, and rows counted from 0.

    >>> source([{"_file": "a.parquet", "_row": n} for n in (0, 1, 2, 7)])
    'a.parquet, rows 0-2, 7'
    """
    by_file: dict[str, list[int]] = {}
    for row in rows:
        by_file.setdefault(row["_file"], []).append(row["_row"])
    return "; ".join(f"{name}, {_ranges(sorted(set(places)))}" for name, places in by_file.items())


def _ranges(places: Sequence[int]) -> str:
    spans: list[list[int]] = []
    for place in places:
        if spans and place == spans[-1][1] + 1:
            spans[-1][1] = place
        else:
            spans.append([place, place])
    if len(spans) > 8:
        return f"{len(places)} rows from {places[0]} to {places[-1]}"
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"row {words}" if len(places) == 1 else f"rows {words}"
