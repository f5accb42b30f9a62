"""Tables of numbers as Markdown, LaTeX (booktabs) and CSV: the same views as on the page."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mdfpipe.reporting.grids import MARKS, Grid, TableView, bounds_of, count_of, percent
from mdfpipe.store.results import Number, Results, Verdict

CSV_COLUMNS: Final = (
    "system",
    "gallery_domain",
    "probe_domain",
    "gallery",
    "metric",
    "percent",
    "spread",
    "trials",
    "low",
    "high",
    "k",
    "n",
    "verdict",
    "published",
    "crops_without_vector",
    "protocol",
    "file",
    "row",
    "stamp",
)
_LATEX: Final = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "≈": r"$\approx$",
    "–": "--",
}


_LATEX_MARKS: Final[dict[Verdict | None, str]] = {Verdict.LEVEL: r"$^{\approx}$", Verdict.UNTESTED: "$^{?}$"}


def file_stem(name: str) -> str:
    """A table's name as a file name that leads to no other folder.

    >>> file_stem("../a b"), file_stem("table-1")
    ('.._a_b', 'table-1')
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    return safe if safe.strip(".") else "_"


# -- Markdown


def markdown(results: Results, views: Sequence[TableView]) -> str:
    """Every table as Markdown, one document."""
    parts = [f"# {_plain(results.name)}", ""]
    if results.none:
        parts += [f"No table of numbers: {_plain(results.none)}", ""]
    for view in views:
        parts += [f"## {_plain(view.title)}", "", *(f"**{_plain(stamp)}**\n" for stamp in view.stamps)]
        parts += [f"- {what}: {_plain(words)}" for what, words in view.about] + [""]
        for grid in [*view.grids, *view.more]:
            parts += [*_markdown_grid(grid), ""]
        parts += [f"{_plain(line)}\n" for line in view.footnotes]
        parts += [f"- {_plain(line)}" for line in view.notes] + ([""] if view.notes else [])
    return "\n".join(parts).rstrip() + "\n"


def _markdown_grid(grid: Grid) -> list[str]:
    heads = [f"{group} {column}".strip() for group, columns in grid.groups for column in columns]
    if grid.title:
        heads = [column for _, columns in grid.groups for column in columns]
    lines = [f"**{_plain(grid.title)}** ({_plain(grid.head)})", ""] if grid.title else []
    lines.append("| " + " | ".join(["", *map(_plain, heads)]) + " |")
    lines.append("|---|" + "---:|" * len(heads))
    for name, cells in grid.rows:
        lines.append("| " + " | ".join([_plain(name), *(_markdown_cell(cell) for cell in cells)]) + " |")
    return lines


def _markdown_cell(cell: Number | None) -> str:
    if cell is None:
        return "–"
    text, mark, row = percent(cell.value), MARKS[cell.verdict], cell.row
    number = f"**{text}**" if cell.verdict is Verdict.BEST else text + (f" {mark}" if mark else "")
    small = ", ".join(filter(None, [count_of(cell) if row["k"] is not None else "", bounds_of(cell)]))
    paper = f" [published {percent(row['published'])}]" if row["published"] is not None else ""
    return number + (f" ({small})" if small else "") + paper


def _plain(text: str) -> str:
    """Words that Markdown, and HTML within it, leave alone."""
    text = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", text)


# -- LaTeX


def latex(results: Results, views: Sequence[TableView]) -> str:
    """Every grid as a `tabular` of booktabs, two decimals."""
    parts = ["% needs \\usepackage{booktabs}"]
    if results.none:
        parts.append(f"% no table of numbers: {_one_line(results.none)}")
    for view in views:
        about = "; ".join([*view.stamps, *(f"{what}: {words}" for what, words in view.about)])
        for grid in [*view.grids, *view.more]:
            title = " ".join(filter(None, [view.title, f"({grid.title})" if grid.title else ""]))
            parts += [
                "",
                f"% table {_one_line(view.name)}: {_one_line(about)}",
                *(f"% {_one_line(line)}" for line in [*view.footnotes, *view.notes]),
                r"\begin{table}",
                r"\centering",
                f"\\caption{{{_escaped(title)}. {_escaped(about)}.}}",
                *_latex_grid(grid),
                r"\end{table}",
            ]
    return "\n".join(parts) + "\n"


def _latex_grid(grid: Grid) -> list[str]:
    width = sum(len(columns) for _, columns in grid.groups)
    lines = [f"\\begin{{tabular}}{{l{'r' * width}}}", r"\toprule"]
    if any(name for name, _ in grid.groups) and not grid.title:
        spans = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{_escaped(name)}}}" for name, columns in grid.groups]
        lines.append(" & ".join(["", *spans]) + r" \\")
    heads = [_escaped(column) for _, columns in grid.groups for column in columns]
    lines += [" & ".join([_escaped(grid.head), *heads]) + r" \\", r"\midrule"]
    lines += [" & ".join([_escaped(name), *map(_latex_cell, cells)]) + r" \\" for name, cells in grid.rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _latex_cell(cell: Number | None) -> str:
    if cell is None:
        return "--"
    number, over = percent(cell.value, 2), cell.row["spread"]
    spread = "" if over is None else f" $\\pm$ {percent(over, 2)}"
    if cell.verdict is Verdict.BEST:
        return f"\\textbf{{{number}}}{spread}"
    return number + _LATEX_MARKS.get(cell.verdict, "") + spread


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


# -- CSV


def csv_of(view: TableView) -> str:
    """One line a number: in per cent with two decimals, its interval, its verdict, where it was read."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for grid in [*view.grids, *view.more]:
        for cell in grid.cells:
            row = cell.row
            place = ("_system", "gallery_domain", "probe_domain", "gallery", "metric")
            spread, low, high, published = (
                "" if row[name] is None else percent(row[name], 2) for name in ("spread", "low", "high", "published")
            )
            trials, k = ("" if row[name] is None else row[name] for name in ("trials", "k"))
            counts = [percent(cell.value, 2), spread, trials, low, high, k, row["n"], cell.verdict or "", published]
            ends = [harmless(row["protocol"]), harmless(row["_file"]), row["_row"], harmless("; ".join(view.stamps))]
            writer.writerow([*(harmless(row[name]) for name in place), *counts, _unusable(row), *ends])
    return out.getvalue()


def _unusable(row: Mapping[str, Any]) -> int | str:
    """Crops without a vector among those of a number's templates; nothing where an earlier version did not count."""
    counts = [row.get(name) for name in ("unusable_gallery", "unusable_probes")]
    return "" if None in counts else sum(count for count in counts if count is not None)


def harmless(text: str) -> str:
    """A word that a spreadsheet does not take for a formula."""
    return f"'{text}" if str(text)[:1] in ("=", "+", "-", "@", "\t", "\r") else str(text)
