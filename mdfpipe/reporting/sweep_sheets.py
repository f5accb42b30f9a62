"""A sweep as files of its own: its numbers as CSV, and all its drawings on one sheet of SVG."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import Final

from mdfpipe.drawing.plots import Picture
from mdfpipe.reporting.cells import percent
from mdfpipe.reporting.sweeps import SweepView, value_words
from mdfpipe.reporting.written import harmless
from mdfpipe.store.results import note_words

_ON_PAPER: Final = {"ink": "#1d2229", "line": "#e3e4df", "soft": "#5c6573"}
_WIDTH, _GAP, _TEXT = 244.8, 18.0, 12.0  # points: a drawing as `plots` makes it, between two, a line of text


def csv_of(view: SweepView) -> str:
    """One line a number and point, in per cent with two decimals."""
    swept, out = view.swept, io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    place = ("gallery_domain", "probe_domain", "gallery", "rerank", "metric")
    bounds_of = ("low", "high", "spread")
    heads = ["sweep", "table", *map(harmless, swept.settings), "system", "is_varied", *place, "percent", *bounds_of]
    writer.writerow([*heads, "published", "trials", "k", "n", "file", "row", "stamp", "notes"])
    for values, system in swept.points:
        for row in view.rows:
            if row["system"] == system:
                shares = ("value", *bounds_of, "published")
                numbers = ("" if (v := row.get(name)) is None else percent(v, 2) for name in shares)
                words = (harmless(row[name]) for name in place)
                point = [*(harmless(value_words(value)) for value in values), harmless(system)]
                is_varied = "yes" if system == swept.base else "no"
                counts = ("" if (n := row.get(name)) is None else n for name in ("trials", "k", "n"))
                ends = (*counts, harmless(row["_file"]), row["_row"], harmless("; ".join(view.stamps)))
                head = [harmless(swept.name), harmless(row["table"]), *point, is_varied, *words]
                writer.writerow([*head, *numbers, *ends, harmless("; ".join(note_words(row)))])
    return out.getvalue()


def svg_of(view: SweepView) -> str:
    """Every drawing of a sweep on one white sheet, two side by side, with its legend below."""
    parts, y = [_words(0, 14, view.title, 11)], 24.0
    for stamp in view.stamps:
        parts.append(_words(0, y + 8, stamp, 8))
        y += 14
    for table in view.tables:
        about = [f"ringed: {view.swept.base}", *([f"bands: {table.bands}"] if table.bands else [])]
        about += ["dotted: published"] if any(row["published"] is not None for row in view.rows) else []
        parts += [_words(0, y + 8, table.title, 9), _words(0, y + 21, "; ".join(about), 8)]
        y += 36
        drawings = [*table.first, *table.more]
        for pair in (drawings[n : n + 2] for n in range(0, len(drawings), 2)):
            placed = [_placed(one.picture, n * (_WIDTH + _GAP), y) for n, one in enumerate(pair)]
            parts += [text for text, _ in placed]
            y += max(height for _, height in placed) + _GAP
    width = 2 * _WIDTH + _GAP
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    box = f'viewBox="-12 -12 {width + 24:g} {y + 24:g}" width="{width + 24:g}pt" height="{y + 24:g}pt"'
    ground = '<rect x="-12" y="-12" width="100%" height="100%" fill="#ffffff"/>'
    return "\n".join([f"<svg {space} {box}>", ground, *parts, "</svg>"]) + "\n"


def _placed(picture: Picture, x: float, y: float) -> tuple[str, float]:
    """A drawing at its place with title and legend, and its height."""
    svg = picture.svg
    for name, colour in _ON_PAPER.items():
        svg = svg.replace(f"var(--{name})", colour)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    height = float(found[2]) if found else 180.0
    parts = [_words(x, y + 8, picture.title, 8)]
    parts.append(svg.replace("<svg", f'<svg x="{x:g}" y="{y + _TEXT:g}" width="{_WIDTH:g}" height="{height:g}"', 1))
    for n, key in enumerate(picture.keys):
        at = y + _TEXT + height + _TEXT * (n + 1)
        style = f'stroke="{key.colour}" stroke-width="1.8" stroke-dasharray="{key.dash}"'
        parts.append(f'<line x1="{x + 4:g}" x2="{x + 26:g}" y1="{at - 3:g}" y2="{at - 3:g}" {style}/>')
        parts.append(_words(x + 32, at, key.name, 8))
    return "\n".join(parts), 2 * _TEXT + height + _TEXT * len(picture.keys)


def _words(x: float, y: float, text: str, size: float) -> str:
    style = f'font-family="DejaVu Sans, sans-serif" font-size="{size:g}" fill="{_ON_PAPER["ink"]}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{html.escape(" ".join(text.split()))}</text>'
