"""What `evaluate` left in a run folder, read once: every number keeps the file and the row that it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.store.naming import file_part, natural_key
from mdfpipe.store.run import Run, read_table
from mdfpipe.store.tables import METRICS

STAGE, KEY = "evaluate", "metrics"
Row = dict[str, Any]
"""A row of a table; `_run`, `_file` and `_row` say where it stands, `_system` what the system is called here."""

LOWER_IS_BETTER: Final = ("eer", "rocch-eer", "fnir@")


def source(rows: Iterable[Mapping[str, Any]]) -> str:
    """Where rows stand, in words: file, and rows counted from 0.

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


@dataclass(eq=False)
class Results:
    """The evaluation of one run, or of several side by side.

    run: the folder whose people, funnel and settings are shown. none: why there is no table of numbers, or nothing.
    tables: name -> title, protocol, coverage, notes, systems. metrics, comparisons, curves: rows of those tables.
    score_files, template_files: of the first run, by (table, system) and by system.
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

    def of(self, rows: Iterable[Row], table: str) -> list[Row]:
        """The rows of one table."""
        return [row for row in rows if row["table"] == table]

    def relative(self, path: Path) -> str:
        """A file of the run, as the report names it."""
        return path.relative_to(self.run).as_posix()


def read_results(run: Path, prefix: str = "") -> Results:
    """The evaluation of `run`; with a prefix, its systems are called PREFIX: NAME and its files PREFIX/FILE.

    Raises DataError where the run was never evaluated, StoreError where a table cannot be read.
    """
    receipt = Run(run).receipt(STAGE, KEY)
    if receipt is None:
        raise DataError(
            f"{run}: expected an evaluated run with {STAGE}/{KEY}.parquet, found none; `mdfpipe eval` makes it"
        )
    folder = run / STAGE
    tables = {str(name): dict(entry) for name, entry in receipt.facts.get("tables", {}).items()}
    none = str(receipt.facts.get("none", ""))
    found = Results(run, prefix or run.resolve().name, none, tables, [], [], [], settings=receipt.settings)
    parts = {"metrics": found.metrics, "comparisons": found.comparisons, "curves": found.curves}
    for kind, rows in parts.items():
        path = folder / f"{kind}.parquet"
        if not path.is_file():
            found.notes.append(f"{STAGE}/{kind}.parquet is not there: what it holds is left out; evaluate again")
            continue
        _check(found, path)
        table = Run(run).table(STAGE, KEY) if kind == KEY else read_table(path)
        where = f"{prefix}/{STAGE}/{kind}.parquet" if prefix else f"{STAGE}/{kind}.parquet"
        missing = set(METRICS.names) - set(table.column_names) if kind == "metrics" else set()
        if missing:
            raise DataError(f"{path}: expected a column {min(missing)}, found none; evaluate again")
        rows += [row | {"_file": where, "_row": n, "_run": prefix} for n, row in enumerate(table.to_pylist())]
    for row in (*found.metrics, *found.curves):
        row["_system"] = _called(prefix, row["system"])
    for row in found.comparisons:
        row |= {"_first": _called(prefix, row["first"]), "_second": _called(prefix, row["second"])}
    for entry in tables.values():
        entry["systems"] = [_called(prefix, name) for name in entry.get("systems", [])]
        for kind in ("coverage", "notes"):
            entry[kind] = [_called(prefix, line) for line in entry.get(kind, [])]
    _find_files(found, folder)
    return found


def _called(prefix: str, name: str) -> str:
    return f"{prefix}: {name}" if prefix else name


def _find_files(found: Results, folder: Path) -> None:
    """Scores, templates and trainings that lie there, for the names that the tables use."""
    systems = sorted({row["system"] for row in found.metrics}, key=natural_key)
    for table in found.tables:
        for system in systems:
            path = folder / "scores" / f"{file_part(table)}.{file_part(system)}.parquet"
            if path.is_file():
                found.score_files[table, system] = _check(found, path)
    names = {file_part(system): system for system in systems}
    for path in sorted((folder / "templates").glob("*.parquet"), key=lambda p: natural_key(p.name)):
        found.template_files[names.get(path.stem, path.stem)] = _check(found, path)
    for path in sorted((found.run / "train").glob("*/training.parquet"), key=lambda p: natural_key(p.parent.name)):
        found.trained[path.parent.name] = path


def _check(found: Results, path: Path) -> Path:
    """A file of the evaluation, which is what was made. Raises Damaged."""
    return Run(found.run).beside(STAGE, KEY, found.relative(path))


def side_by_side(run: Path, others: Sequence[Path]) -> Results:
    """The evaluations of several runs, tables of the same name as one; a run is called by its folder's name.

    What cannot be compared is said in the table's notes, but numbers of two benchmarks are refused: ProtocolError.
    Raises DataError, StoreError.
    """
    if not others:
        return read_results(run)
    names = _distinct([path.resolve() for path in (run, *others)])
    every = [read_results(path, name) for path, name in zip((run, *others), names, strict=True)]
    first = every[0]
    for other in every[1:]:
        for name, entry in other.tables.items():
            mine = first.tables.setdefault(name, entry | {"systems": [], "coverage": [], "notes": []})
            refuse_mixed(name, (mine, first.name), (entry, other.name))
            mine["notes"] += [line for line in _differences(mine, entry, other.name) if line not in mine["notes"]]
            for kind in ("systems", "coverage", "notes"):
                mine[kind] = [*mine[kind], *entry[kind]]
        first.metrics += other.metrics
        first.comparisons += other.comparisons
        first.curves += other.curves
        first.notes += [f"{other.name}: {note}" for note in other.notes]
        if other.none:
            first.notes.append(f"{other.name} has no tables: {other.none}")
    first.compared = names
    if first.metrics:
        first.notes += [f"{first.name} has no tables: {first.none}"] if first.none else []
        first.none = ""
    return first


def refuse_mixed(table: str, *entries: tuple[Mapping[str, Any], str]) -> None:
    """Raise ProtocolError where two runs have a table under different protocols, one of them a benchmark's.

    entries: what a run says of the table, and the run's name.
    """
    (first, one), (second, other) = entries
    if first.get("protocol") != second.get("protocol") and (first.get("benchmark") or second.get("benchmark")):
        raise ProtocolError(
            f"table {table}: {one} follows `{first.get('protocol')}`, {other} `{second.get('protocol')}`: numbers of "
            "two protocols say nothing about each other, and a table that mixes them is refused"
        )


def _distinct(paths: list[Path]) -> list[str]:
    """Names of run folders, with as many of their parents as it takes to tell them apart."""
    if len(set(paths)) < len(paths):
        raise DataError(f"--compare {paths[0]}: expected other runs, got one twice; name each run once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(part for part in path.parts[-depth:] if part != "/") for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _differences(mine: dict[str, Any], other: dict[str, Any], name: str) -> list[str]:
    found = []
    if mine.get("protocol") != other.get("protocol"):
        found.append(
            f"the runs follow different protocols ({mine.get('protocol')}; {name}: {other.get('protocol')}): "
            "their numbers are about different tasks"
        )
    return found


def is_lower_better(metric: str) -> bool:
    """Whether less of it is better: an error rate.

    >>> is_lower_better("eer"), is_lower_better("rank-1")
    (True, False)
    """
    return metric.startswith(LOWER_IS_BETTER)
