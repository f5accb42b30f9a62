"""Comparison: the numbers of several evaluated runs side by side, and what of their differences is significant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation.benchmark import mean_and_spread
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.comparing import F64
from mdfpipe.evaluation.measures.differences import difference
from mdfpipe.evaluation.table import depth_of
from mdfpipe.reporting.numbers import numbers_of
from mdfpipe.store.results import refuse_mixed
from mdfpipe.store.run import Run, read_table
from mdfpipe.store.tables import SearchStatus

PLACE: Final = ("table", "gallery_domain", "probe_domain", "gallery")
SPLIT: Final = re.compile(r"split (\d+)\b")
COLUMNS: Final = {"map": "average_precision", "minp": "inverse_penalty"}


def compare_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """What `numbers_of` gives, of all runs: systems are called RUN/SYSTEM, after the runs' folders.

    comparisons: each system of a run against each of another one, in every table and pair of domains that both have, on
    the probes that both count: McNemar's test of Rank-1, a paired bootstrap of the rest. Tables of one name under two
    protocols, one of them a benchmark, are refused: ProtocolError. Raises DataError, StoreError.
    """
    names = _names(runs)
    found = [_load(path, name) for path, name in zip(runs, names, strict=True)]
    tables: dict[str, dict[str, Any]] = {}
    for one, run in zip(found, names, strict=True):
        for name, entry in one["tables"].items():
            own = {key: entry.get(key) for key in ("title", "protocol", "benchmark")} | {"run": run}
            whole = tables.setdefault(name, own | {"systems": [], "coverage": [], "notes": []})
            refuse_mixed(name, (whole, whole["run"]), (entry, run))
            whole["systems"] += entry["systems"]
            whole["coverage"] += entry["coverage"]
            whole["notes"] += [note for note in entry["notes"] if note not in whole["notes"]]
    metrics = [row for one in found for row in one["metrics"]]
    within = [row for one in found for row in one["comparisons"]]
    order = list(tables)
    metrics.sort(
        key=lambda row: (order.index(row["table"]), row["gallery_domain"], row["probe_domain"], row["gallery"])
    )
    between = [row for n, a in enumerate(found) for b in found[n + 1 :] for row in _between(a, b)]
    return {"tables": tables, "metrics": metrics, "comparisons": [*within, *between]}


def _names(runs: Sequence[Path]) -> list[str]:
    names = [path.resolve().name for path in runs]
    if len(set(names)) < len(names):
        names = [f"{path.resolve().parent.name}/{path.resolve().name}" for path in runs]
    if len(set(names)) < len(names):
        raise DataError(f"expected different runs, got {', '.join(map(str, runs))}")
    return names


def _load(path: Path, name: str) -> dict[str, Any]:
    numbers = _numbers(path)
    searches = read_table(Run(path).beside("evaluate", "metrics", "evaluate/searches.parquet")).to_pylist()
    for row in [*numbers["metrics"], *searches]:
        row["system"] = f"{name}/{row['system']}"
    for row in numbers["comparisons"]:
        row |= {"first": f"{name}/{row['first']}", "second": f"{name}/{row['second']}"}
    for entry in numbers["tables"].values():
        entry["systems"] = [f"{name}/{system}" for system in entry["systems"]]
    return numbers | {"searches": _grouped(searches, numbers["metrics"])}


Probes = dict[str, dict[str, Any]]


def _grouped(searches: list[dict[str, Any]], metrics: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Probes]]:
    """Place -> system -> the probes that its numbers count, by subject, domain and item: without the modality."""
    policy = {(*(m[n] for n in PLACE), m["system"]): (m["failure"], m["unmated"]) for m in metrics}
    found: dict[tuple[str, ...], dict[str, Probes]] = {}
    for row in searches:
        place = tuple(row[n] for n in PLACE)
        failure, unmated = policy[(*place, row["system"])]
        counts = {
            SearchStatus.SEARCHED: True,
            SearchStatus.UNMATED: unmated == "miss",
            SearchStatus.NO_PROBE: failure == "miss",
            SearchStatus.NO_MATE: failure == "miss",
            SearchStatus.LEFT_OUT: False,
        }
        if counts[SearchStatus(row["status"])]:
            probes = found.setdefault(place, {}).setdefault(row["system"], {})
            probes[row["template"].rpartition("/")[0]] = row
    return found


def _between(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for place in [place for place in a["searches"] if place in b["searches"]]:
        asked = {m["metric"] for one in (a, b) for m in one["metrics"] if tuple(m[n] for n in PLACE) == place}
        metrics = sorted(metric for metric in asked if depth_of(metric) is not None or metric in COLUMNS)
        for first, of_first in a["searches"][place].items():
            for second, of_second in b["searches"][place].items():
                both = sorted(of_first.keys() & of_second.keys())
                subjects = np.array([of_first[key]["subject_id"] for key in both])
                for metric in metrics if both else []:
                    a_values, b_values = (_values(probes, both, metric) for probes in (of_first, of_second))
                    generator = generator_of(f"{'/'.join(place)}/{metric}")
                    made = difference(metric, a_values, b_values, subjects, generator)
                    about = {"metric": metric, "first": first, "second": second}
                    rows.append(dict(zip(PLACE, place, strict=True)) | about | made)
    return rows


def _values(probes: Probes, keys: list[str], metric: str) -> F64:
    depth = depth_of(metric)
    searched = [probes[key] for key in keys]
    if depth is not None:
        found = [row["rank"] is not None and 0 < row["rank"] <= depth for row in searched]
    else:
        found = [row[COLUMNS[metric]] or 0.0 for row in searched]
    return np.array(found, np.float64)


# -- the same study several times, such as RegDB's ten splits


def average_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """What `numbers_of` gives, of the mean over runs: value, `spread` (standard deviation), `trials` (runs).

    Each system's numbers are averaged over the runs, which have the same tables, systems and metrics, and protocols
    whose names differ in the number of the split alone. n and the counts are those of all runs together. Raises
    DataError, ProtocolError, StoreError.
    """
    if len(runs) < 2:
        raise DataError(f"--average: expected two runs or more, got {len(runs)}")
    found = [_numbers(path) for path in runs]
    names = _names(runs)
    tables: dict[str, dict[str, Any]] = {}
    for name, entry in found[0]["tables"].items():
        protocols = [one["tables"].get(name, {}).get("protocol") for one in found]
        tables[name] = entry | {"protocol": _one_protocol(name, protocols, names), "notes": [], "coverage": []}
    rows = [{_row_key(row): row for row in one["metrics"]} for one in found]
    for other, name in zip(rows[1:], names[1:], strict=True):
        if other.keys() != rows[0].keys():
            table, system, *rest = sorted(other.keys() ^ rows[0].keys())[0]
            raise DataError(
                f"--average: {names[0]} and {name} have other numbers: {table}, {system}, {' '.join(rest)} is of one "
                "of them alone"
            )
    metrics = [_averaged([one[key] for one in rows], tables[key[0]]["protocol"]) for key in rows[0]]
    return {"tables": tables, "metrics": metrics, "comparisons": [], "runs": names}


def _numbers(path: Path) -> dict[str, Any]:
    numbers = numbers_of(Run(path))
    if numbers is None:
        raise DataError(
            f"{path}: expected an evaluated run, found no evaluate/metrics.parquet; run `mdfpipe eval` first"
        )
    return numbers


def _row_key(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["table"], row["system"], *(row[name] for name in PLACE[1:]), row["metric"])


def _one_protocol(table: str, protocols: Sequence[str | None], names: Sequence[str]) -> str:
    """The name of the mean. Raises ProtocolError where the runs follow protocols that differ in more than the split."""
    first = protocols[0] or ""
    for protocol, name in zip(protocols, names, strict=True):
        if protocol is None or SPLIT.sub("split", protocol) != SPLIT.sub("split", first):
            raise ProtocolError(
                f"--average: table {table}: {names[0]} follows `{first}`, {name} `{protocol or 'nothing'}`: expected "
                "the same protocol but for the number of the split"
            )
    splits = [int(match[1]) for match in (SPLIT.search(protocol or "") for protocol in protocols) if match]
    if len(set(splits)) < len(splits):
        twice = next(split for split in splits if splits.count(split) > 1)
        raise ProtocolError(f"--average: table {table}: two runs are of split {twice}; expected each split once")
    listed = f"splits {', '.join(map(str, sorted(splits)))}"
    return f"{SPLIT.sub(listed, first)}, mean of {len(protocols)} runs"


def _averaged(rows: Sequence[dict[str, Any]], protocol: str) -> dict[str, Any]:
    value, spread = mean_and_spread([row["value"] for row in rows])
    counted = ("n", "n_probes", "failed_gallery", "failed_probes", "n_unmated", "n_left_out")
    sums = {name: sum(row[name] for row in rows) for name in counted}
    nothing = dict.fromkeys(("k", "low", "high", "interval", "threshold", "k_false", "n_false"))
    same = {row["published"] for row in rows}
    paper = rows[0]["published"] if len(same) == 1 else None
    mean = {"value": value, "spread": spread, "trials": len(rows), "protocol": protocol, "published": paper}
    return rows[0] | nothing | sums | mean
