"""Tables of numbers as Markdown, LaTeX (booktabs) and CSV: the same views as on the page."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final, Literal

from mdfpipe.reporting.cells import MARKS, cell_of, percent
from mdfpipe.reporting.grids import Grid, TableView
from mdfpipe.store.results import Number, Results, Verdict, note_words

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
    "interval",
    "threshold",
    "k_false",
    "n_false",
    "notes",
    "fingerprint",
    "table_notes",
    "group",
)
LATEX_WIDTH: Final = 60.0
"""Letters of a line of LaTeX's article; wider tables are cut into several."""
LATEX_LINES: Final = 48
"""Lines of LaTeX of the numbers of one float."""
LatexCells = Literal["all", "value", "half", "count"]
"""What is in a cell of LaTeX: the number with k/n, false alarms and interval; the number, ± its spread over trials; the
number ± half of its interval, else its spread; k/n, or n of a mean."""
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
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
    "°": r"$^{\circ}$",
    "§": r"$^{\S}$",
    "¶": r"$^{\P}$",
}


_LATEX_MARKS: Final[dict[Verdict | None, str]] = {Verdict.LEVEL: r"$^{\approx}$", Verdict.UNTESTED: "$^{?}$"}


_LATEX_CELLS: Final[dict[LatexCells, str]] = {
    "all": "Per cent; in brackets k/n, false alarms, and the 95 % interval or why there is none.",
    "value": "",
    "half": "Per cent ± half of the 95 % interval, or the standard deviation over trials.",
    "count": "k/n; n of a mean.",
}


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
    parts += [*(f"- {_plain(note)}" for note in results.notes), ""] if results.notes else []
    for view in views:
        parts += [f"## {_plain(view.title)}", "", *(f"**{_plain(stamp)}**\n" for stamp in view.stamps)]
        parts += [f"- {what}: {_plain(words)}" for what, words in view.about] + [""]
        for grid in [*view.grids, *view.more]:
            parts += [*_markdown_grid(grid), ""]
        parts += [f"{_plain(line)}\n" for line in [*view.legend, *view.footnotes]]
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
    text, mark = cell_of(cell), MARKS[cell.verdict]
    number = f"**{text.value}**" if cell.verdict is Verdict.BEST else _plain(text.value)
    return text.written(" ".join(filter(None, [number + text.marks, mark])))


def _plain(text: str) -> str:
    """Words that Markdown, and HTML within it, leave alone."""
    text = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|<>#])", r"\\\1", text)


# -- LaTeX


def latex(results: Results, views: Sequence[TableView], cells: LatexCells = "all") -> str:
    """Every grid as a `tabular` of booktabs, two decimals. What a choice of `cells` leaves out is in comments."""
    parts = ["% needs \\usepackage{booktabs}"]
    parts += [f"% no table of numbers: {_one_line(results.none)}"] if results.none else []
    parts += [f"% {_one_line(note)}" for note in results.notes]
    for view in views:
        for grid in [*view.grids, *view.more]:
            title = " ".join(filter(None, [view.title, f"({grid.title})" if grid.title else ""]))
            legend = [_LATEX_CELLS[cells]] * (cells != "value") + view.legend
            parts += [
                "",
                f"% table {_one_line(view.name)}: {_one_line(view.caption)}",
                *(f"% {_one_line(line)}" for line in [*view.footnotes, *view.notes]),
                *(_whole_rows(grid) if cells != "all" else []),
            ]
            floats = _floats(grid, cells)
            for n, lines in enumerate(floats):
                said = "; ".join(view.stamps) if n else view.caption
                parts += [
                    r"\begin{table}",
                    r"\centering",
                    f"\\caption{{{_escaped(title)}{', continued' * (n > 0)}.{f' {_escaped(said)}.' * bool(said)}}}",
                    *lines,
                    *(
                        [rf"\par\smallskip{{\footnotesize {' '.join(map(_escaped, legend))}\par}}"]
                        if legend and n == len(floats) - 1
                        else []
                    ),
                    r"\end{table}",
                ]
    return "\n".join(parts) + "\n"


def _whole_rows(grid: Grid) -> list[str]:
    """Every number with all that is known of it, as comments."""
    lines = []
    for name, cells in grid.rows:
        text = [cell_of(cell, 2) for cell in cells if cell is not None]
        lines.append(_one_line(f"% {name}: " + "; ".join(one.written(one.value + one.marks) for one in text)))
    return lines


def _floats(grid: Grid, kind: LatexCells) -> list[list[str]]:
    """The `tabular`s of a grid, one below the other, as many in a `table` as a page has room for."""
    found, left = list[list[str]](), 0
    for lines in _tabulars(grid, kind):
        if len(lines) > left:
            found.append([])
            left = LATEX_LINES
        found[-1] += [*([r"\par\medskip"] if found[-1] else []), *lines]
        left -= len(lines)
    return found


def _tabulars(grid: Grid, kind: LatexCells) -> list[list[str]]:
    """The grid as `tabular`s, each as wide as a page has room for."""
    heads = [(group, head) for group, columns in grid.groups for head in columns]
    cells = [[_latex_cell(row[n], kind) for _, row in grid.rows] for n in range(len(heads))]
    widths = [max(map(_letters, [head, *column])) + 2.5 for (_, head), column in zip(heads, cells, strict=True)]
    names = [_escaped(name) for name, _ in grid.rows]
    room = LATEX_WIDTH - max(map(_letters, [grid.head, *names]))
    blocks, left = list[list[int]](), 0.0
    for n, width in enumerate(widths):
        if all(row[n] is None for _, row in grid.rows):
            continue
        if width > left:
            blocks.append([])
            left = room
        blocks[-1].append(n)
        left -= width
    found: list[list[str]] = []
    for block in blocks or [[]]:
        lines = [f"\\begin{{tabular}}{{l{'r' * len(block)}}}", r"\toprule"]
        if any(name for name, _ in grid.groups) and not grid.title:
            groups = [(name, len([*same])) for name, same in groupby(heads[n][0] for n in block)]
            spans = [f"\\multicolumn{{{count}}}{{c}}{{{_escaped(name)}}}" for name, count in groups]
            lines.append(" & ".join(["", *spans]) + r" \\")
        lines += [" & ".join([_escaped(grid.head), *(_escaped(heads[n][1]) for n in block)]) + r" \\", r"\midrule"]
        lines += [" & ".join([name, *(cells[n][at] for n in block)]) + r" \\" for at, name in enumerate(names)]
        found.append([*lines, r"\bottomrule", r"\end{tabular}"])
    return found


def _letters(cell: str) -> float:
    """The width of a cell in small letters of the text; of commands but those for type one letter each."""
    plain, _, small = cell.partition(r"{\scriptsize ")
    found = 0.0
    for part, size in ((plain, 1.0), (small, 0.75)):
        shown = re.sub(r"\\[a-zA-Z]+|\\.", "x", re.sub(r"\\textbf|[{}$^]", "", part))
        found += size * (len(shown) + 0.4 * sum(letter.isupper() for letter in shown))
    return found


def _latex_cell(cell: Number | None, kind: LatexCells) -> str:
    if cell is None:
        return "--"
    text = cell_of(cell, 2)
    if cell.value is None:
        return rf"{{\scriptsize {_escaped(text.value)}}}"
    number = text.count if kind == "count" else text.value
    number = rf"\textbf{{{number}}}" if cell.verdict is Verdict.BEST else number
    number += _escaped(text.marks) + _LATEX_MARKS.get(cell.verdict, "")
    small = {"all": ", ".join(text.small), "value": text.spread, "half": text.half or text.spread, "count": ""}[kind]
    if kind == "all":
        return number + rf" {{\scriptsize ({_escaped(small)})}}"
    return number + (f" {_escaped(small)}" if small else "")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


# -- CSV


def csv_of(view: TableView, also: Sequence[str] = ()) -> str:
    """One line a number: in per cent with two decimals, its interval, its verdict, its notes, where it was read.

    also: notes of the run, which every line carries as it does those of the table.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    place = ("_system", "gallery_domain", "probe_domain", "gallery", "metric")
    notes = harmless("; ".join([*view.notes, *also]))
    for grid in [*view.grids, *view.more]:
        for cell in grid.cells:
            row = cell.row
            value, spread, low, high, published = (
                "" if (v := row[name]) is None else percent(v, 2)
                for name in ("value", "spread", "low", "high", "published")
            )
            trials, k, interval, threshold, k_false, n_false = (
                "" if (v := row[name]) is None else v
                for name in ("trials", "k", "interval", "threshold", "k_false", "n_false")
            )
            counts = [value, spread, trials, low, high, k, row["n"], cell.verdict or "", published]
            ends = [harmless(row["protocol"]), harmless(row["_file"]), row["_row"], harmless("; ".join(view.stamps))]
            ends += [
                interval,
                threshold,
                k_false,
                n_false,
                harmless("; ".join(note_words(row))),
                view.fingerprint,
                notes,
            ]
            ends.append(harmless(row.get("group", "")))
            writer.writerow([*(harmless(row[name]) for name in place), *counts, _unusable(row), *ends])
    return out.getvalue()


def _unusable(row: Mapping[str, Any]) -> int | str:
    """Crops without a vector among those of a number's templates; nothing where an earlier version did not count."""
    counts = [row.get(name) for name in ("unusable_gallery", "unusable_probes")]
    return "" if None in counts else sum(count for count in counts if count is not None)


def harmless(text: str) -> str:
    """A word that a spreadsheet does not take for a formula."""
    return f"'{text}" if str(text)[:1] in ("=", "+", "-", "@", "\t", "\r") else str(text)
