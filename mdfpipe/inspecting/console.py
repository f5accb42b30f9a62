"""A description printed on a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mdfpipe.errors import one_line

if TYPE_CHECKING:
    from mdfpipe.inspecting.things import Description

_VALUES: Final = 12  # values of a column that are named
_ROWS: Final = 40  # failures and notes that are named
_WORDS: Final = 200  # characters of a value


def show_description(found: Description, console: Console) -> None:
    """Print what a thing is: its facts, counts, columns, receipt, failures and notes."""
    console.print(f"[bold]{_safe(found.path)}[/bold]  {_safe(found.what)}")
    _pairs(found.facts, console)
    if found.observed:
        console.print(f"\n[bold]observed by {_safe((found.receipt or {}).get('stage', ''))}[/bold]")
        _pairs(found.observed, console)
    _funnel(found.funnel, console)
    for name, counts in found.counts.items():
        shown = ", ".join(f"{_safe(value)}: [bold]{n}[/bold]" for value, n in list(counts.items())[:_VALUES])
        left = f", and {len(counts) - _VALUES} more" if len(counts) > _VALUES else ""
        console.print(f"\n[bold]{_safe(name)}[/bold]  {shown or 'none'}{left}")
    _columns(found, console)
    _receipt(found, console)
    _lines("failed", "red", [f"{f['stage']}/{f['key']}: {f['reason']}" for f in found.failures], console)
    _lines("to know", "yellow", found.notes, console)


def _pairs(pairs: dict[str, Any], console: Console) -> None:
    wide = min(max(map(len, pairs), default=0), 32)
    for name, value in pairs.items():
        console.print(f"  {_safe(name).ljust(wide)}  {_safe(_plain(value))}")


def _funnel(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the counts of a run with its domains as columns, those of a manifest as they are."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[row.get(name, 0) for name in names] for row in rows]
    if names[0] == "domain" and isinstance(lines[1][1], int):
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(lines[0]):
        is_number = all(isinstance(line[place], int) for line in lines[1:])
        head = _safe("" if name == "domain" and place == 0 else name)
        table.add_column(head, justify="right" if is_number else "left", no_wrap=is_number)
    for line in lines[1:]:
        table.add_row(*(_safe(value) for value in line))
    console.print()
    print_table(table, console)


def print_table(table: Table, console: Console, *, whole: bool = False) -> None:
    """Print a table as wide as the terminal, or as its numbers need (whole: as every cell needs); no line ends in
    blanks.
    """
    measured = Measurement.get(console, console.options.update(width=10_000), table)
    needed = measured.maximum if whole else measured.minimum
    options = console.options.update(width=max(console.width or 80, needed))
    for line in console.render_lines(table, options, pad=False):
        words = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        words.rstrip()
        console.print(words, soft_wrap=True)


def _columns(found: Description, console: Console) -> None:
    """Two lines a column: type and values, then what it means."""
    if not found.columns:
        return
    console.print("\n[bold]columns[/bold]")
    for column in found.columns:
        nulls = f", {column.nulls} null" if column.nulls else ""
        values = f", {column.least} .. {column.greatest}" if column.least is not None else ""
        console.print(f"  [bold]{_safe(column.name)}[/bold]  {_safe(column.type + nulls + values)}")
        if column.meaning:
            console.print(f"      {_safe(column.meaning, 400)}")


def _receipt(found: Description, console: Console) -> None:
    if found.receipt is None:
        return
    console.print("\n[bold]receipt[/bold]")
    receipt = dict(found.receipt)
    upstream, files, settings = receipt.pop("made from"), receipt.pop("files"), receipt.pop("settings")
    shown = {name: value[:12] for name, value in list(upstream.items())[:_VALUES]}
    left = {"...": f"and {len(upstream) - _VALUES} more"} if len(upstream) > _VALUES else {}
    of_files = {"files": f"{len(files)}, {sum(files.values())} bytes"} if files else {}
    _pairs(receipt | {"settings": settings, "made from": shown | left} | of_files, console)


def _lines(title: str, colour: str, lines: list[str], console: Console) -> None:
    if lines:
        console.print(f"\n[bold {colour}]{title}[/bold {colour}]")
    for line in lines[:_ROWS]:
        console.print(f"  {_safe(line, 400)}")
    if len(lines) > _ROWS:
        console.print(f"  and {len(lines) - _ROWS} more")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        each = {name: _plain(v) for name, v in value.items() if v != ""}
        return ", ".join(f"{n} ({v})" if isinstance(value[n], dict) else f"{n}: {v}" for n, v in each.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value) or "none"
    if value is None:
        return "unknown"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _safe(value: Any, limit: int = _WORDS) -> str:
    """Words from a file without control characters and rich's marks."""
    return escape(one_line(value, limit))
