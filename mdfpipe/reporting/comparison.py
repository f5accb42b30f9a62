"""Comparison: evaluated runs side by side, and the mean of several. One function for console, page and files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mdfpipe.errors import ConfigError, DataError, ProtocolError, counted, one_line
from mdfpipe.evaluation.benchmark import mean_and_spread
from mdfpipe.evaluation.case import Case
from mdfpipe.evaluation.comparing import F64
from mdfpipe.evaluation.measures.differences import Cases, Counted, compare_two, members
from mdfpipe.evaluation.measures.metrics import mean_of_rows
from mdfpipe.evaluation.table import depth_of
from mdfpipe.running.plan import Currency, current
from mdfpipe.store.files import given_paths
from mdfpipe.store.results import KEY, STAGE, Results, Row, read_results
from mdfpipe.store.run import Run
from mdfpipe.store.tables import COMPARISONS, METRICS, SEARCHES, SearchStatus

SPLIT: Final = re.compile(r"split (\d+)\b")
COLUMNS: Final = {"map": "average_precision", "minp": "inverse_penalty"}
PLACE: Final = ("gallery_domain", "probe_domain", "gallery")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluated runs side by side. Each table is a `pyarrow.Table`; systems are called RUN/SYSTEM.

    metrics: a row for each number, with `verdict` (best, level, worse, untested; none for a number alone). comparisons:
    a row for each tested difference. notes: what a reader of the numbers should know. stamps: what to write with every
    number, such as that it is out of date.
    """

    metrics: pa.Table
    comparisons: pa.Table
    notes: list[str]
    stamps: list[str]

    def __repr__(self) -> str:
        numbers = counted(self.metrics.num_rows, "number")
        return f"Comparison({numbers}, {counted(self.comparisons.num_rows, 'difference')})"


def several(command: str, runs: Sequence[str | PathLike[str]]) -> list[Path]:
    """The paths of `runs`. Raises ConfigError where there are not two or more, as where they are one text."""
    paths = [Path(runs)] if isinstance(runs, str | PathLike) else given_paths(command, runs)
    if len(paths) < 2:
        raise ConfigError(f"{command}: expected two evaluated runs or more, got {', '.join(map(str, paths)) or 'none'}")
    return paths


def compare(runs: Sequence[str | PathLike[str]], *, allow_mixed: bool = False, allow_stale: bool = False) -> Comparison:
    """Set evaluated runs side by side and test differences, as `mdfpipe compare` does. See `side_by_side`."""
    first, *others = several("compare", runs)
    return _public(side_by_side(first, others, allow_mixed=allow_mixed, allow_stale=allow_stale))


def _public(found: Results) -> Comparison:
    document = found.document()
    return Comparison(
        pa.Table.from_pylist(document["metrics"], METRICS.append(pa.field("verdict", pa.string()))),
        pa.Table.from_pylist(document["comparisons"], COMPARISONS),
        [*found.notes, *(line for entry in found.tables.values() for line in entry["notes"])],
        [*found.stamps, *(line for entry in found.tables.values() for line in entry.get("stamps", []))],
    )


def average(runs: Sequence[str | PathLike[str]], *, allow_stale: bool = False) -> Comparison:
    """Means and spreads over runs, as `mdfpipe average` prints them; nothing is tested. See `average_runs`."""
    return _public(average_runs(several("average", runs), allow_stale=allow_stale))


def side_by_side(
    run: Path, others: Sequence[Path] = (), *, allow_mixed: bool = False, allow_stale: bool = False
) -> Results:
    """The evaluation of a run, or of several as one: systems are then called RUN/SYSTEM, after the runs' folders.

    Each system of a run is compared with each of another one, in every table that both have under one protocol, on the
    probes that both count. Only means over probes are: benchmarks keep lists of one trial, and measures of open-set
    searches and of pairs need all scores. What is not compared is untested.

    Tables of one name under two protocols are refused, by the protocols' content: ProtocolError. allow_mixed: they
    are side by side with a stamp, and nothing is compared across. Numbers that are out of date are refused as well:
    DataError. allow_stale: they are shown with a stamp. Raises StoreError, too.
    """
    every = _read([run, *others], allow_stale)
    if not others:
        return every[0]
    whole = every[0]
    found = Results(run, whole.name, "", {}, [], [], [], settings=whole.settings, compared=[one.name for one in every])
    found.score_files, found.template_files, found.trained = whole.score_files, whole.template_files, whole.trained
    for name in dict.fromkeys(name for one in every for name in one.tables):
        entries = {one.name: one.tables[name] for one in every if name in one.tables}
        stamp = _mixed(entries)
        if stamp and not allow_mixed:
            raise ProtocolError(f"table {name}: {stamp}; --allow-mixed sets them side by side all the same")
        joined = {kind: [x for e in entries.values() for x in e[kind]] for kind in ("systems", "coverage", "notes")}
        stamps = [*([stamp] if stamp else []), *_stamps(entries)]
        found.tables[name] = next(iter(entries.values())) | joined | {"stamps": stamps}
    for one in every:
        found.metrics += one.metrics
        found.comparisons += one.comparisons
        found.curves += one.curves
        found.notes += one.notes
        found.stamps += one.stamps
        found.notes += [f"{one.name} has no tables: {one.none}"] if one.none else []
    searches = {one.name: _searches(one) for one in every}
    for first, second in combinations(every, 2):
        found.comparisons += _between((first, searches[first.name]), (second, searches[second.name]))
    found.none = "" if found.metrics else "; ".join(one.none for one in every if one.none)
    return found


def _read(runs: Sequence[Path], allow_stale: bool) -> list[Results]:
    """The evaluations of several runs, called by as much of their paths as tells them apart."""
    names = _names(runs) if len(runs) > 1 else [""]
    found = [read_results(path, name) for path, name in zip(runs, names, strict=True)]
    for one in found:
        found_so = current(one.run, STAGE, KEY, allow_stale=allow_stale)
        one.stamps += [found_so.stamp] if found_so.stamp else []
        if found_so.why and found_so.currency is not Currency.STALE:
            one.notes.append(f"{one.name}: {found_so.words}")
    return found


def _names(runs: Sequence[Path]) -> list[str]:
    paths = [path.resolve() for path in runs]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise DataError(f"{twice}: expected different runs, got one twice; name each run once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(part for part in path.parts[-depth:] if part != "/") for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _stamps(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The stamps of one table in several runs."""
    return [f"{run}: {stamp}" for run, entry in entries.items() for stamp in entry.get("stamps", [])]


def _mixed(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """What is to be reported of one table of several runs that are under different protocols; "" where they are not."""
    by_protocol: dict[str, list[str]] = {}
    for run, entry in entries.items():
        by_protocol.setdefault(entry["fingerprint"], []).append(run)
    if len(by_protocol) < 2:
        return ""
    said = {key: entries[runs[0]].get("protocol") for key, runs in by_protocol.items()}
    alike = len(set(said.values())) < len(said)
    words = (f"{', '.join(runs)} `{said[key]}`{f' ({key[:8]})' if alike else ''}" for key, runs in by_protocol.items())
    return (
        f"{len(by_protocol)} protocols{', some of one name with other content' if alike else ''}: {'; '.join(words)}: "
        "numbers of two protocols are about different tasks, and none is compared with the other"
    )


def _searches(one: Results) -> dict[tuple[str, str], Cases]:
    """Counted probes of each table and system, in every searched case."""
    run, file = Run(one.run), f"{STAGE}/searches.parquet"
    names = ["table", "system", *PLACE, "template", "subject_id", "status", "rank", *COLUMNS.values()]
    policy = {(m["table"], m["system"]): (m["failure"], m["unmated"]) for m in one.metrics}
    seeds = {(table, name): own for table, entry in one.tables.items() for name, own in entry.get("seeds", {}).items()}
    policy |= {(table, training): policy[table, name] for (table, name), own in seeds.items() for training in own}
    metrics = {name: sorted({m["metric"] for m in one.metrics if m["table"] == name}) for name in one.tables}
    rows: dict[tuple[str, str], dict[Case, list[Row]]] = {}
    for row in run.table_beside(STAGE, KEY, file, SEARCHES, names).to_pylist():
        if row["status"] not in set(SearchStatus):
            raise run.damage(STAGE, KEY, f"{run.path / file}: a probe has the status '{one_line(row['status'], 40)}'")
        system = (row["table"], row["system"])
        if system in policy and is_counted(row["status"], *policy[system]):
            rows.setdefault(system, {}).setdefault(Case(*(row[n] for n in PLACE)), []).append(row)
    counted: dict[tuple[str, str], Cases] = {
        (table, system): {case: _counted(found, metrics[table]) for case, found in cases.items()}
        for (table, system), cases in rows.items()
    }
    for (table, name), own in seeds.items():
        each = [counted.pop((table, training), {}) for training in own]
        shared = [case for case in each[0] if all(case in of_one for of_one in each)]
        counted[table, name] = {case: Counted.of_seeds([of_one[case] for of_one in each]) for case in shared}
    return counted


def is_counted(status: str, failure: str, unmated: str) -> bool:
    """Whether a probe of a status counts, where failures to enrol and unmated probes count as they say."""
    counts = {
        SearchStatus.SEARCHED: True,
        SearchStatus.UNMATED: unmated == "miss",
        SearchStatus.NO_PROBE: failure == "miss",
        SearchStatus.NO_MATE: failure == "miss",
        SearchStatus.LEFT_OUT: False,
    }
    return counts[SearchStatus(status)]


def _counted(rows: Sequence[Row], metrics: Sequence[str]) -> Counted:
    means = [metric for metric in metrics if depth_of(metric) is not None or metric in COLUMNS]
    values = {metric: _values(rows, metric) for metric in means}
    keys = [row["template"].rpartition("/")[0] for row in rows]  # without the modality
    return Counted(keys, np.array([row["subject_id"] for row in rows]), values)


def _values(rows: Sequence[Row], metric: str) -> F64:
    depth = depth_of(metric)
    if depth is not None:
        found = [row["rank"] is not None and 0 < row["rank"] <= depth for row in rows]
    else:
        found = [row[COLUMNS[metric]] or 0.0 for row in rows]
    return np.array(found, np.float64)


Searched = tuple[Results, Mapping[tuple[str, str], Cases]]


def _between(a: Searched, b: Searched) -> Iterator[Row]:
    """Rows of COMPARISONS between the systems of two runs, in the tables that both have under one protocol."""
    for table in a[0].tables:
        if table not in b[0].tables or a[0].tables[table]["fingerprint"] != b[0].tables[table]["fingerprint"]:
            continue
        of_a, of_b = (_by_system(one[0], table) for one in (a, b))
        for first, places in of_a.items():
            for second, others in of_b.items():
                one, two = (side[1].get((table, name), {}) for side, name in ((a, first), (b, second)))
                for place in (place for place in places if place in others):
                    case = Case(*place)
                    metrics = [metric for metric in places[place] if metric in others[place]]
                    if members(case, one) and members(case, two):
                        names = f"{a[0].name}/{first}", f"{b[0].name}/{second}"
                        for row in compare_two(table, case, (names[0], one), (names[1], two), metrics):
                            yield row | {"_first": names[0], "_second": names[1]}


def _by_system(one: Results, table: str) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Metrics of each system of a table, by place."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for row in one.of(one.metrics, table):
        found.setdefault(row["system"], {}).setdefault(tuple(row[n] for n in PLACE), []).append(row["metric"])
    return found


# -- the same study several times, such as RegDB's ten splits


def average_runs(runs: Sequence[Path], *, allow_stale: bool = False) -> Results:
    """The mean over runs: value, `spread` (standard deviation), `trials` (runs). No difference of means is tested.

    Each system's numbers are averaged over the runs, which have the same tables, systems and metrics, and protocols
    that differ in the number of the split alone. n and the counts are those of all runs together. Numbers that are out
    of date are refused, or shown with a stamp. Raises DataError, ProtocolError, StoreError.
    """
    every = _read(several("average", runs), allow_stale)
    names = [one.name for one in every]
    tables: dict[str, dict[str, Any]] = {}
    for name, entry in every[0].tables.items():
        protocol = _one_protocol(name, [one.tables.get(name, {}) for one in every], names)
        systems = [system.removeprefix(f"{names[0]}/") for system in entry["systems"]]
        stamps = _stamps({one.name: one.tables.get(name, {}) for one in every})
        own = {"protocol": protocol, "systems": systems, "notes": [], "coverage": [], "stamps": stamps}
        tables[name] = entry | own
    rows = [{_row_key(row): row for row in one.metrics} for one in every]
    for other, name in zip(rows[1:], names[1:], strict=True):
        if other.keys() != rows[0].keys():
            table, system, *rest = sorted(other.keys() ^ rows[0].keys())[0]
            raise DataError(
                f"--average: {names[0]} and {name} have other numbers: {table}, {system}, {' '.join(rest)} is of one "
                "of them alone"
            )
    metrics = [_averaged([one[key] for one in rows], tables[key[0]]["protocol"]) for key in rows[0]]
    found = Results(runs[0], f"mean of {len(runs)} runs", "", tables, metrics, [], [], compared=names)
    found.notes = [note for one in every for note in one.notes]
    found.stamps = [stamp for one in every for stamp in one.stamps]
    return found


def _row_key(row: Row) -> tuple[str, ...]:
    return (row["table"], row["system"], *(row[name] for name in PLACE), row["metric"])


def _one_protocol(table: str, entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The name of the mean. Raises ProtocolError where the runs follow protocols that differ in more than the split."""
    protocols = [entry.get("protocol") for entry in entries]
    first = protocols[0] or ""
    same = [entry.get("fingerprint") == entries[0]["fingerprint"] for entry in entries]
    for protocol, name, is_same in zip(protocols, names, same, strict=True):
        if protocol is None or (not is_same and SPLIT.sub("split", protocol) != SPLIT.sub("split", first)):
            raise ProtocolError(
                f"--average: table {table}: {names[0]} follows `{first}`, {name} `{protocol or 'nothing'}`: expected "
                "the same protocol but for the number of the split"
            )
        if protocol == first and not is_same:
            raise ProtocolError(
                f"--average: table {table}: {names[0]} and {name} follow protocols of one name, `{first}`, with other "
                "content: expected the same protocol but for the number of the split"
            )
    splits = [int(match[1]) for match in (SPLIT.search(protocol or "") for protocol in protocols) if match]
    if len(set(splits)) < len(splits):
        twice = next(split for split in splits if splits.count(split) > 1)
        raise ProtocolError(f"--average: table {table}: two runs are of split {twice}; expected each split once")
    listed = f"splits {', '.join(map(str, sorted(splits)))}"
    return f"{SPLIT.sub(listed, first)}, mean of {len(protocols)} runs"


def _averaged(rows: Sequence[Row], protocol: str) -> Row:
    mean = mean_of_rows(rows)
    if mean["value"] is not None:
        mean["value"], mean["spread"] = mean_and_spread([row["value"] for row in rows])
    counted = ("n", "n_probes", "failed_gallery", "failed_probes", "n_unmated", "n_left_out")
    sums: dict[str, int | None] = {name: sum(row[name] for row in rows) for name in counted}
    for name in ("unusable_gallery", "unusable_probes"):
        known = [row[name] for row in rows if row[name] is not None]
        sums[name] = sum(known) if len(known) == len(rows) else None
    nothing = dict.fromkeys(("k", "low", "high", "interval", "threshold", "k_false", "n_false", "spread"))
    same = {row["published"] for row in rows}
    paper = rows[0]["published"] if len(same) == 1 else None
    mean |= {"trials": len(rows), "protocol": protocol, "published": paper}
    return rows[0] | nothing | sums | mean | {"_system": rows[0]["system"]}
