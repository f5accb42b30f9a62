"""Numbers as text: the tables of an evaluated run, a line for each system and pair of domains."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from mdfpipe.errors import StoreError, one_line
from mdfpipe.store.run import Run
from mdfpipe.store.tables import COMPARISONS, METRICS

FIRST = "rank-1"
BESIDE = ("map", "tar@far=1e-2", "auc", "eer", "fnir@fpir=0.01", "fnir@fpir=0.1")
Pair = tuple[str, str, str]


def numbers_of(run: Run) -> dict[str, Any] | None:
    """The document `metrics.json` of an evaluated run: tables, metrics, comparisons; None where there is none.

    Raises StoreError where it cannot be read.
    """
    if run.receipt("evaluate", "metrics") is None:
        return None
    path = run.beside("evaluate", "metrics", "evaluate/metrics.json")
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        _check(found)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{path}: cannot be read: {one_line(error)}; `mdfpipe eval` with its study makes it anew"
        ) from None
    return found


_SCALARS: Any = {pa.string(): str, pa.float64(): (int, float), pa.float32(): (int, float), pa.bool_(): bool}


def _check(numbers: Any) -> None:
    """Raise ValueError where a document is not of the shape that `evaluate` writes."""
    if not isinstance(numbers, dict) or not isinstance(numbers.get("tables"), dict):
        raise ValueError("expected tables, metrics and comparisons")
    for name, entry in numbers["tables"].items():
        texts = isinstance(entry, dict) and all(
            isinstance(entry.get(part), list) and all(isinstance(text, str) for text in entry[part])
            for part in ("systems", "coverage", "notes")
        )
        if not texts or not isinstance(entry.get("title"), str) or not isinstance(entry.get("protocol"), str | None):
            raise ValueError(f"table {name}: expected title, systems, coverage and notes")
    for kind, schema in (("metrics", METRICS), ("comparisons", COMPARISONS)):
        rows = numbers.get(kind)
        if not isinstance(rows, list):
            raise ValueError(f"{kind}: expected a list of rows")
        for place, row in enumerate(rows):
            wrong = _wrong(row, schema)
            if wrong:
                raise ValueError(f"{kind}: row {place}: {wrong}")
    known = numbers["tables"].keys()
    if any(row["table"] not in known for row in (*numbers["metrics"], *numbers["comparisons"])):
        raise ValueError("a row names a table that is not there")


def _wrong(row: Any, schema: pa.Schema) -> str:
    """The first column of a row that is not there, or of another kind; "" where there is none."""
    if not isinstance(row, dict):
        return "expected names and values"
    for field in schema:
        value, kind = row.get(field.name), _SCALARS.get(field.type, int)
        if value is None and not field.nullable:
            return f"{field.name} is missing"
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            return f"{field.name}: expected {field.type}, got {one_line(repr(value), 60)}"
    return ""


def number_lines(numbers: Mapping[str, Any]) -> list[str]:
    """numbers: what `numbers_of` gives.

    A number of a benchmark is a mean over trials, ± their standard deviation.
    A `=` behind Rank-1 says that the best system of that line's pair of domains is not significantly better.
    """
    rows, lines = numbers["metrics"], list[str]()
    doubt = _not_worse(rows, numbers["comparisons"])
    for name, entry in numbers["tables"].items():
        own = [row for row in rows if row["table"] == name]
        title = f": {entry['title']}" if entry["title"] else ""
        lines += ["", f"{name}{title}", *_rules(own)] if own else ["", f"{name}{title}"]
        if own:
            lines += _block(own, doubt) if own[0].get("trials") is None else _benchmark(own, doubt)
        lines += [f"  note: {note}" for note in entry["notes"]]
    return lines[1:]


def _rules(rows: list[Mapping[str, Any]]) -> list[str]:
    one = rows[0]
    if one.get("trials") is not None:
        left_out = "nothing" if one["rule"] == "none" else one["rule"]
        return [
            f"  {one['protocol']}; {one['distance']} of images; left out: {left_out}; re-ranking {one['rerank']}; "
            "± is over trials"
        ]
    return [
        f"  {one['protocol']}; templates by {one['templates']}, pooling {one['pooling']}; failures to enrol: "
        f"{one['failure']}; unmated probes: {one['unmated']}; filter rule {one['rule']}; re-ranking {one['rerank']}"
    ]


def _block(rows: list[Mapping[str, Any]], doubt: set[tuple[str, str, *Pair]]) -> list[str]:
    """The lines of one table, aligned."""
    groups: dict[tuple[str, *Pair], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["system"], row["gallery_domain"], row["probe_domain"], row["gallery"])
        groups.setdefault(key, {})[row["metric"]] = row
    beside = [metric for metric in BESIDE if any(metric in found for found in groups.values())]
    apart = any(key[3] != "all" for key in groups)
    paper = any(row["published"] is not None for row in rows)
    head = ["system", "modality", "gallery", "probes", *(["of"] if apart else []), FIRST, "", "", "95 %", "chance"]
    head += (["paper"] if paper else []) + [*beside, "missing"]
    cells = [head]
    for key, found in groups.items():
        one = next(iter(found.values()))
        rank = found.get(FIRST)
        line = [key[0], one["modality"], key[1], key[2], *([key[3]] if apart else [])]
        if rank is None:
            line += ["", "", "", "", ""]
        else:
            share = f"{rank['k']}/{rank['n']}" if rank["k"] is not None else f"of {rank['n']}"
            bounds = "-" if rank["low"] is None else f"{100 * rank['low']:.1f}..{100 * rank['high']:.1f} %"
            chance = "-" if rank["chance"] is None else f"{100 * rank['chance']:.1f} %"
            mark = "=" if (one["table"], *key) in doubt else ""
            line += [share, _percent(rank["value"]), mark, bounds, chance]
        if paper:
            line.append(_percent(rank["published"]) if rank is not None else "-")
        line += [_percent(found[metric]["value"]) if metric in found else "-" for metric in beside]
        missing = {
            "failed": one["failed_probes"] + one["failed_gallery"],
            "unmated": one["n_unmated"],
            "left out": one["n_left_out"],
        }
        line.append(", ".join(f"{count} {what}" for what, count in missing.items() if count) or "-")
        cells.append(line)
    return _aligned(cells, 5 if apart else 4)


def _benchmark(rows: list[Mapping[str, Any]], doubt: set[tuple[str, str, *Pair]]) -> list[str]:
    """The lines of a table under a published protocol."""
    groups: dict[tuple[str, *Pair], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["system"], row["gallery_domain"], row["probe_domain"], row["gallery"])
        groups.setdefault(key, {})[row["metric"]] = row
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    paper = any(row["published"] is not None for row in rows)
    head = ["system", "modality", "gallery", "queries"]
    head += [word for metric in metrics for word in ([metric, "paper"] if paper else [metric])] + ["", "no vector"]
    cells = [head]
    for key, found in groups.items():
        one = next(iter(found.values()))
        line = [key[0], one["modality"], f"{key[1]} ({one['n_gallery']})", f"{key[2]} ({one['n']})"]
        for metric in metrics:
            line.append(_with_spread(found[metric]) if metric in found else "-")
            line += ([_percent(found[metric]["published"]) if metric in found else "-"]) if paper else []
        line.append("=" if (one["table"], *key) in doubt else "")
        failed = {"queries": one["failed_probes"], "gallery images": one["failed_gallery"]}
        line.append(", ".join(f"{count} {what}" for what, count in failed.items() if count) or "-")
        cells.append(line)
    return _aligned(cells, 4)


def _with_spread(row: Mapping[str, Any]) -> str:
    return (
        _percent(row["value"]) if row["spread"] is None else f"{100 * row['value']:.1f} ± {100 * row['spread']:.1f} %"
    )


def _aligned(cells: list[list[str]], names: int) -> list[str]:
    """Lines of equal columns; the first `names` and the last begin at the left."""
    head = cells[0]
    widths = [max(len(line[n]) for line in cells) for n in range(len(head))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if n < names or n == len(head) - 1 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _not_worse(rows: list[Mapping[str, Any]], comparisons: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, *Pair]]:
    """(table, system, pair) that the best system of the pair does not beat significantly at Rank-1."""
    tests = {
        (c["table"], c["gallery_domain"], c["probe_domain"], c["gallery"], frozenset((c["first"], c["second"]))): c
        for c in comparisons
        if c["metric"] == FIRST
    }
    best: dict[tuple[str, ...], Mapping[str, Any]] = {}
    ranks = [row for row in rows if row["metric"] == FIRST]
    for row in ranks:
        place = (row["table"], row["gallery_domain"], row["probe_domain"], row["gallery"])
        if place not in best or row["value"] > best[place]["value"]:
            best[place] = row
    found = set()
    for row in ranks:
        place = (row["table"], row["gallery_domain"], row["probe_domain"], row["gallery"])
        test = tests.get((*place, frozenset((row["system"], best[place]["system"]))))
        if test is not None and not test["significant"]:
            found.add((row["table"], row["system"], *place[1:]))
    return found


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
