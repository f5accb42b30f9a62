"""Curves and histograms as SVG for a page: drawn by matplotlib, in the page's own colours, always the same bytes.

Names are escaped, and never read as mathematics.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

PALETTE: Final = ("#3f7fd0", "#d9702a", "#2f9e6e", "#c4477f", "#8a6bc8", "#a5832b", "#3a9fb5", "#80858d")
DASHES: Final = ("none", "5 2", "1.5 1.5", "7 2 1.5 2")
INK, LINE, SOFT, BAR = "#010203", "#040506", "#070809", "#0a0b0c"
"""Colours that the page decides."""
_IN_PAGE: Final = {INK: "var(--ink)", LINE: "var(--line)", SOFT: "var(--soft)", BAR: "var(--bar)"}
_SIZE: Final = (3.4, 2.5)  # inches
LEAST_SHARE: Final = 1e-4  # of false matches, on a normal-deviate axis


@dataclass(frozen=True)
class Line:
    """One line of a plot: x, y, low, high (n,); low and high may be empty. place: number of its colour and dash.

    dotted: a reference, such as chance or a paper's numbers. dots: each point has one. ring: index of the ringed point.
    """

    name: str
    place: int
    x: F64
    y: F64
    low: F64 = field(default_factory=lambda: np.zeros(0))
    high: F64 = field(default_factory=lambda: np.zeros(0))
    dotted: bool = False
    dots: bool = False
    ring: int | None = None


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    name: str
    colour: str
    dash: str


@dataclass(frozen=True)
class Picture:
    """A drawing on the page: its heading, the SVG, what it was drawn from, and its legend, if any."""

    title: str
    svg: str
    source: str
    keys: tuple[Key, ...] = ()


def colour_of(place: int) -> str:
    """The colour of the place-th thing."""
    return PALETTE[place % len(PALETTE)]


def dash_of(place: int) -> str:
    """The dashes of the place-th thing: another pattern once the colours are used up."""
    return DASHES[(place // len(PALETTE)) % len(DASHES)]


def legend(names: Sequence[str]) -> list[Key]:
    """The entries of a legend for these names, in their order."""
    return [Key(name, colour_of(place), dash_of(place)) for place, name in enumerate(names)]


def lines_plot(
    name: str,
    lines: Iterable[Line],
    *,
    x_label: str,
    y_label: str,
    scale: str = "linear",
    share: bool = True,
    whole_x: bool = False,
    ticks: Sequence[tuple[float, str]] = (),
    near: bool = False,
) -> str:
    """Lines with their bands as SVG. name: of the drawing, unique on its page.

    scale: `linear`; `log` along x; `deviate`: both axes are normal deviates of shares. share: y is drawn in per
    cent. whole_x: ticks of x are whole numbers. ticks: places along x and their words, instead. near: the vertical axis
    spans what is drawn, instead of 0 to 100 %.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    drawn = list(lines)
    with _style(name):
        figure, (axes,) = _axes(_SIZE)
        for line in drawn:
            x, y, low, high = (_placed(v, scale) for v in (line.x, line.y, line.low, line.high))
            colour = colour_of(line.place)
            dash = "2 2" if line.dotted else dash_of(line.place)
            style: Any = "-" if dash == "none" else (0, [float(part) for part in dash.split()])
            if len(low):
                axes.fill_between(x, low, high, color=colour, alpha=0.14, linewidth=0)
            wide, marker = 1.0 if line.dotted else 1.4, "o" if len(x) == 1 or line.dots else ""
            axes.plot(x, y, color=colour, linestyle=style, linewidth=wide, marker=marker, markersize=3)
            if line.ring is not None:
                ring = {"marker": "o", "markersize": 8, "fillstyle": "none", "linestyle": "none"}
                axes.plot(x[[line.ring]], y[[line.ring]], color=colour, **ring)
        per_cent = FuncFormatter(lambda value, _: f"{100 * value:g}")
        if scale == "log":
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 99 * low else (1,)))
            axes.xaxis.set_minor_locator(NullLocator())  # within a decade its labels would be TeX, and overlap
            axes.xaxis.set_major_formatter(per_cent)
        if scale == "deviate":
            _deviate_axes(axes)
        else:
            if share:
                axes.set_ylim(*(_span(drawn) if near else (-0.02, 1.02)))
                axes.yaxis.set_major_formatter(per_cent)
            else:
                figure.subplots_adjust(left=0.62 / _SIZE[0])
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
            if ticks:
                axes.set_xticks([x for x, _ in ticks], [words for _, words in ticks])
            elif whole_x:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
        axes.set_xlabel(x_label)
        axes.set_title(y_label, loc="left", fontsize=8, color=INK, pad=5)
        return _svg(figure, name)


def _span(lines: Sequence[Line]) -> tuple[float, float]:
    """The range of the lines and their bands, with some room."""
    every = np.concatenate([np.concatenate((line.y, line.low, line.high)) for line in lines])
    room = max(0.1 * float(np.ptp(every)), 0.01)
    return max(float(every.min()) - room, -0.02), min(float(every.max()) + room, 1.02)


def _placed(values: F64, scale: str) -> F64:
    if scale != "deviate" or not len(values):
        return values
    from scipy.special import ndtri

    found: F64 = ndtri(np.clip(values, LEAST_SHARE, 1 - LEAST_SHARE))
    return found


def _deviate_axes(axes: Any) -> None:
    from scipy.special import ndtri

    ticks = np.array([0.0001, 0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95])
    words, limits = [f"{100 * tick:g}" for tick in ticks], (float(ndtri(LEAST_SHARE)), float(ndtri(0.99)))
    axes.set_xticks(ndtri(ticks), words)
    axes.set_yticks(ndtri(ticks), words)
    axes.set(xlim=limits, ylim=limits)


@dataclass(frozen=True)
class Bars:
    """One row of a histogram: edges (n + 1,), and layers of heights (n,) with their colours.

    said: words at the right of the row's name. mark: a value with a dashed line, such as the median.
    """

    name: str
    edges: F64
    layers: Sequence[tuple[F64, str]]
    said: str = ""
    mark: float | None = None


def histograms(name: str, rows: Sequence[Bars], x_label: str = "", *, stacked: bool = False, log: bool = False) -> str:
    """Histograms as SVG, a row of axes each, scaled to its own highest bar. name: of the drawing, unique on its page.

    stacked: layers are drawn on each other, else before each other. log: the x axis is logarithmic.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    with _style(name):
        below = 0.4 if x_label else 0.2  # inches
        height = 0.66 * len(rows) + below - 0.1
        figure, every = _axes((_SIZE[0], height), len(rows))
        is_one_scale = all(np.array_equal(row.edges, rows[0].edges) for row in rows)
        figure.subplots_adjust(
            left=0.04, bottom=below / height, top=1 - 0.06 / height, hspace=0.15 if stacked else 0.55
        )
        for axes, row in zip(every, rows, strict=True):
            ground = np.zeros(len(row.edges) - 1)
            for heights, colour in row.layers:
                if stacked:
                    axes.stairs(ground + heights, row.edges, baseline=ground, color=colour, fill=True, linewidth=0)
                    ground = ground + heights
                else:
                    axes.stairs(heights, row.edges, color=colour, fill=True, alpha=0.45, linewidth=0)
                    axes.stairs(heights, row.edges, color=colour, linewidth=1)
            if row.mark is not None:
                axes.plot([row.mark, row.mark], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
            if log:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if row.edges[-1] < 99 * row.edges[0] else (1,)))
                axes.xaxis.set_minor_locator(NullLocator())
            else:
                axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.set_yticks([])
            axes.set_xlim(row.edges[0], row.edges[-1])
            axes.set_ylim(0, 1.45)
            axes.spines["left"].set_visible(False)
            axes.tick_params(labelsize=6.5, length=2, pad=1, labelbottom=row is rows[-1] or not is_one_scale)
            for x, words, side in ((0, _short(row.name, 44 - len(row.said)), "left"), (1, row.said, "right")):
                axes.text(x, 1, words, transform=axes.transAxes, va="top", ha=side, fontsize=7, color=SOFT)
        every[-1].set_xlabel(x_label)
        return _svg(figure, name)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# -- how everything is drawn


def _style(name: str) -> Any:
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "svg.hashsalt": name,
            "svg.fonttype": "none",
            "text.parse_math": False,
            "text.usetex": False,
            "axes.formatter.use_mathtext": False,
            "axes.unicode_minus": False,
            "font.family": ["DejaVu Sans"],
            "font.size": 8,
            "axes.edgecolor": SOFT,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.6,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": LINE,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "axes.axisbelow": True,
            "path.simplify": True,
        }
    )


def _axes(size: tuple[float, float], rows: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=size)
    figure.subplots_adjust(0.44 / width, 0.4 / height, 1 - 0.12 / width, 1 - 0.26 / height, hspace=0.5)
    return figure, list(figure.subplots(rows, 1, squeeze=False)[:, 0])


def _svg(figure: Any, name: str) -> str:
    """The figure as an <svg> element without prologue, metadata and unused ids, in the page's colours."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():
        # The reader's own fonts draw the text: whether ours has a glyph decides nothing but its width.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it would be the whole page's
    for _ in range(2):
        text = re.sub(r'(<svg\b[^>]*?) (?:width|height)="[^"]*"', r"\1", text)
    text = re.sub(r' (d|x|y|transform)="([^"]*)"', _rounded, text)
    stem = "d" + hashlib.sha256(name.encode()).hexdigest()[:10]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{stem}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)([^")]+)', rf"\g<1>{stem}-\g<2>", text)
    for colour, in_page in _IN_PAGE.items():
        text = text.replace(colour, in_page)
    text = re.sub(r"\n\s*", "\n", text)
    return text.strip()


def _rounded(found: re.Match[str]) -> str:
    numbers = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", found[2])
    return f' {found[1]}="{" ".join(numbers.split())}"'


def shares(counts: NDArray[Any]) -> F64:
    """Counts (n,) as shares of their greatest, 0 where there is none."""
    most = counts.max() if len(counts) else 0
    found: F64 = counts / most if most else np.zeros(len(counts))
    return found


def places(names: Iterable[str]) -> Mapping[str, int]:
    """The number of each name's colour, the same on the whole page."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}
