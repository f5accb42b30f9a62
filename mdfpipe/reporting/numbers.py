"""Numbers as text: the tables of an evaluation, a line for each system and pair of domains, a column a metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mdfpipe.reporting.cells import cell_of, label
from mdfpipe.reporting.grids import views
from mdfpipe.store.results import PLACE, Number, Results, Row, Verdict

MARKS: Final = {Verdict.BEST: " *", Verdict.LEVEL: " =", Verdict.WORSE: " <", Verdict.UNTESTED: " ?", None: ""}
MEANING: Final = (
    "per cent; in brackets k/n, false alarms, and the 95 % interval or why there is none; `*` best of its column; "
    "`=` not significantly different from the best, `<` significantly worse; `?` not tested"
)
WIDTH: Final = 150
"""Letters of a line: metrics that do not fit follow below, in a block of their own."""


def number_lines(results: Results) -> list[str]:
    """Every table with every metric. A mark after each number gives its verdict, as MEANING says."""
    lines = [f"!! {stamp}" for stamp in results.stamps]
    for view in views(results):
        title = "" if view.title == view.name else f": {view.title}"
        stamps = [stamp for stamp in view.stamps if stamp not in results.stamps]
        lines += ["", f"{view.name}{title}", *(f"  !! {stamp}" for stamp in stamps)]
        if view.numbers:
            lines += ["  " + "; ".join(f"{what}: {words}" for what, words in view.about)]
            for block in _blocks(view.numbers):
                lines += ["", *_aligned(block)]
        lines += ["", *(f"  {line}" for line in view.legend)] if view.legend else []
        lines += [f"  note: {note}" for note in view.notes]
    lines += ["", *(f"note: {note}" for note in results.notes)] if results.notes else []
    return lines[1:] if lines[:1] == [""] else lines


def _blocks(numbers: Sequence[Number]) -> list[list[list[str]]]:
    """Lines of cells: names, in the first block who is missing, then as many metrics as have room."""
    groups: dict[tuple[str, ...], dict[str, Number]] = {}
    for number in numbers:
        key = (number.row["_system"], *(number.row[name] for name in PLACE[1:]))
        groups.setdefault(key, {})[number.row["metric"]] = number
    apart = any(key[3] != "all" for key in groups)
    names = [["system", "modality", "gallery", "probes", *(["of"] if apart else [])]]
    missing = ["missing"]
    for key, found in groups.items():
        one = next(iter(found.values())).row
        names.append([key[0], one["modality"], key[1], key[2], *([key[3]] if apart else [])])
        missing.append(_missing(one))
    columns = [missing]
    columns += [
        [label(metric), *(_text(found[metric]) if metric in found else "-" for found in groups.values())]
        for metric in dict.fromkeys(number.row["metric"] for number in numbers)
    ]
    blocks, room = [[list(line) for line in names]], WIDTH - _width(names)
    left = room
    for column in columns:
        width = max(map(len, column)) + 2
        if width > left and len(blocks[-1][0]) > len(names[0]):
            blocks.append([list(line) for line in names])
            left = room
        left -= width
        for line, cell in zip(blocks[-1], column, strict=True):
            line.append(cell)
    return blocks


def _text(number: Number) -> str:
    cell = cell_of(number)
    return cell.written(cell.value + cell.marks + MARKS[number.verdict])


def _missing(row: Row) -> str:
    """Who takes no part in the numbers of a line, or is a miss in them."""
    counts: dict[str, Any] = {"unmated": row["n_unmated"], "left out": row["n_left_out"]}
    if row["templates"] == "image":
        counts = {"queries": row["failed_probes"], "gallery images": row["failed_gallery"]}
        words = [f"{count} {what} without a vector" for what, count in counts.items() if count]
    else:
        counts = {"failed": row["failed_probes"] + row["failed_gallery"]} | counts
        words = [f"{count} {what}" for what, count in counts.items() if count]
    return ", ".join(words) or "-"


def _width(cells: Sequence[Sequence[str]]) -> int:
    return sum(max(len(line[n]) for line in cells) + 2 for n in range(len(cells[0])))


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns."""
    widths = [max(len(line[n]) for line in cells) for n in range(len(cells[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
