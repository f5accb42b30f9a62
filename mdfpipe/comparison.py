"""Comparison: the numbers of several evaluated runs side by side, and what of their differences is significant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from mdfpipe.errors import DataError, StoreError, one_line
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.comparing import F64
from mdfpipe.evaluation.differences import difference
from mdfpipe.evaluation.table import depth_of
from mdfpipe.report.numbers import numbers_of
from mdfpipe.store.run import Run
from mdfpipe.store.tables import SearchStatus

PLACE: Final = ("table", "gallery_domain", "probe_domain", "gallery")
COLUMNS: Final = {"map": "average_precision", "minp": "inverse_penalty"}


def compare_runs(runs: Sequence[Path]) -> dict[str, Any]:
    """What `numbers_of` gives, of all runs: systems are called RUN/SYSTEM, after the runs' folders.

    comparisons: each system of a run against each of another one, in every table and pair of domains that both have, on
    the probes that both count: McNemar's test of Rank-1, a paired bootstrap of the rest. Raises DataError, StoreError.
    """
    names = _names(runs)
    found = [_load(path, name) for path, name in zip(runs, names, strict=True)]
    tables: dict[str, dict[str, Any]] = {}
    for one in found:
        for name, entry in one["tables"].items():
            whole = tables.setdefault(name, {"title": entry["title"], "systems": [], "coverage": [], "notes": []})
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
        raise DataError(f"--compare: expected different runs, got {', '.join(map(str, runs))}")
    return names


def _load(path: Path, name: str) -> dict[str, Any]:
    numbers = numbers_of(Run(path))
    if numbers is None:
        raise DataError(
            f"{path}: expected an evaluated run, found no evaluate/metrics.parquet; run `mdfpipe eval` first"
        )
    try:
        searches = pq.read_table(path / "evaluate" / "searches.parquet").to_pylist()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}/evaluate/searches.parquet: cannot be read: {one_line(error)}") from None
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
