"""Numbers as text: the tables of an evaluation, a line for each system and pair of domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mdfpipe.store.results import PLACE, Number, Results, Verdict

FIRST = "rank-1"
BESIDE = ("map", "tar@far=1e-2", "auc", "eer", "fnir@fpir=0.01", "fnir@fpir=0.1")
MARKS: Final = {Verdict.BEST: "*", Verdict.LEVEL: "=", Verdict.WORSE: "<", Verdict.UNTESTED: "?", None: " "}
MEANING: Final = (
    "`*` best of its column; `=` not significantly different from the best, `<` significantly worse; `?` not tested"
)
Lines = dict[tuple[str, ...], dict[str, Number]]


def number_lines(results: Results) -> list[str]:
    """Every table. Behind each number stands a mark for its verdict, as MEANING says.

    A number of a benchmark is a mean over trials, ± their standard deviation.
    """
    numbers, lines = results.numbers, [f"!! {stamp}" for stamp in results.stamps]
    for name, entry in results.tables.items():
        own = [number for number in numbers if number.row["table"] == name]
        title = f": {entry['title']}" if entry.get("title") else ""
        lines += ["", f"{name}{title}", *(f"  !! {stamp}" for stamp in entry.get("stamps", []))]
        if own:
            lines.append(_rules(own))
            lines += _block(own) if own[0].row["trials"] is None else _benchmark(own)
        lines += [f"  note: {note}" for note in entry.get("notes", [])]
    lines += ["", *(f"note: {note}" for note in results.notes)] if results.notes else []
    return lines[1:] if lines[:1] == [""] else lines


def _rules(numbers: Sequence[Number]) -> str:
    one = numbers[0].row
    protocols = "; ".join(dict.fromkeys(number.row["protocol"] for number in numbers))
    if one["trials"] is not None:
        left_out = "nothing" if one["rule"] == "none" else one["rule"]
        return (
            f"  {protocols}; {one['distance']} of images; left out: {left_out}; re-ranking {one['rerank']}; "
            "± is over trials"
        )
    return (
        f"  {protocols}; templates by {one['templates']}, pooling {one['pooling']}; failures to enrol: "
        f"{one['failure']}; unmated probes: {one['unmated']}; filter rule {one['rule']}; re-ranking {one['rerank']}"
    )


def _grouped(numbers: Sequence[Number]) -> Lines:
    """The numbers of each system and pair of domains, by metric."""
    groups: Lines = {}
    for number in numbers:
        key = (number.row["_system"], *(number.row[name] for name in PLACE[1:]))
        groups.setdefault(key, {})[number.row["metric"]] = number
    return groups


def _block(numbers: Sequence[Number]) -> list[str]:
    """The lines of one table, aligned."""
    groups = _grouped(numbers)
    metrics = list(dict.fromkeys(number.row["metric"] for number in numbers))
    first = FIRST if FIRST in metrics else metrics[0]
    beside = [metric for metric in BESIDE if metric in metrics and metric != first]
    apart = any(key[3] != "all" for key in groups)
    paper = any(number.row["published"] is not None for number in numbers)
    head = ["system", "modality", "gallery", "probes", *(["of"] if apart else []), first, "", "95 %", "chance"]
    head += (["paper"] if paper else []) + [*beside, "missing"]
    cells = [head]
    for key, found in groups.items():
        one = next(iter(found.values())).row
        line = [key[0], one["modality"], key[1], key[2], *([key[3]] if apart else [])]
        line += _first(found.get(first))
        if paper:
            line.append(_percent(found[first].row["published"]) if first in found else "-")
        line += [_marked(found[metric]) if metric in found else "- " for metric in beside]
        missing = {
            "failed": one["failed_probes"] + one["failed_gallery"],
            "unmated": one["n_unmated"],
            "left out": one["n_left_out"],
        }
        line.append(", ".join(f"{count} {what}" for what, count in missing.items() if count) or "-")
        cells.append(line)
    return _aligned(cells, 5 if apart else 4)


def _first(number: Number | None) -> list[str]:
    """What is reported of the first number of a line: of how many, the number, its interval, and a guess's."""
    if number is None:
        return [""] * 4
    row = number.row
    share = f"{row['k']}/{row['n']}" if row["k"] is not None else f"of {row['n']}"
    bounds = "-" if row["low"] is None else f"{100 * row['low']:.1f}..{100 * row['high']:.1f} %"
    chance = "-" if row["chance"] is None else f"{100 * row['chance']:.1f} %"
    return [share, _marked(number), bounds, chance]


def _benchmark(numbers: Sequence[Number]) -> list[str]:
    """The lines of a table under a published protocol."""
    metrics = list(dict.fromkeys(number.row["metric"] for number in numbers))
    paper = any(number.row["published"] is not None for number in numbers)
    head = ["system", "modality", "gallery", "queries"]
    head += [word for metric in metrics for word in ([metric, "paper"] if paper else [metric])] + ["no vector"]
    cells = [head]
    for key, found in _grouped(numbers).items():
        one = next(iter(found.values())).row
        line = [key[0], one["modality"], f"{key[1]} ({one['n_gallery']})", f"{key[2]} ({one['n']})"]
        for metric in metrics:
            line.append(_marked(found[metric]) if metric in found else "- ")
            line += ([_percent(found[metric].row["published"]) if metric in found else "-"]) if paper else []
        failed = {"queries": one["failed_probes"], "gallery images": one["failed_gallery"]}
        line.append(", ".join(f"{count} {what}" for what, count in failed.items() if count) or "-")
        cells.append(line)
    return _aligned(cells, 4)


def _marked(number: Number) -> str:
    """A number, its spread where it has one, and the mark of its verdict."""
    spread = number.row["spread"]
    text = _percent(number.value) if spread is None else f"{100 * number.value:.1f} ± {100 * spread:.1f} %"
    return f"{text} {MARKS[number.verdict]}"


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


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
