"""CMC, ROC, DET and trainings: which lines are on which drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mdfpipe.domains import by_wavelength
from mdfpipe.drawing.plots import Line, Picture, legend, lines_plot
from mdfpipe.errors import StoreError
from mdfpipe.stages.evaluate import MINED
from mdfpipe.store.results import Results, Row, source
from mdfpipe.store.run import Run

MOST_PANELS: Final = 12  # of one kind of curve in one table
MOST_BANDS: Final = 6  # lines of one drawing that have a band each: those of more hide each other
MOST_APART: Final = 3  # pairs of domains of one system with a drawing each


@dataclass(frozen=True)
class CurveKind:
    """A kind of curve: how it is read from CURVES and drawn."""

    name: str
    meaning: str
    curve: str
    x_label: str
    y_label: str
    scale: str
    is_complement: bool = False


KINDS: Final = (
    CurveKind("CMC", "share of probes whose mate is among the first so many", "cmc", "rank", "found, %", "linear"),
    CurveKind(
        "ROC", "pairs of a probe and a gallery template", "roc", "false accepts, % of non-mated", "accepted, %", "log"
    ),
    CurveKind(
        "DET",
        "the errors of the same pairs, both axes as normal deviates",
        "roc",
        "false accepts, %",
        "false rejects, %",
        "deviate",
        is_complement=True,
    ),
    CurveKind(
        "open-set DET",
        "searches of people who are not enrolled against mates that are missed",
        "det",
        "false alarms, % of searches",
        "missed mates, %",
        "log",
    ),
)


@dataclass(frozen=True)
class Family:
    """The drawings of one kind of curve in one table.

    meaning: of lines and bands. left_out: panels beyond the most that are drawn.
    """

    kind: str
    meaning: str
    pictures: list[Picture]
    left_out: int = 0


def families(results: Results, table: str, places: Mapping[str, int]) -> list[Family]:
    """CMC, ROC and DET of a table: a drawing for each pair of domains, a line a system."""
    rows = results.of(results.curves, table)
    of_trials = results.tables.get(table, {}).get("benchmark")
    bands = "reach from the least to the greatest trial" if of_trials else "are Wilson's 95 % intervals"
    found = []
    for kind in (*KINDS, *_rejections(rows)):
        own = [row for row in rows if row["curve"] == kind.curve]
        cases: dict[tuple[str, str, str], list[Row]] = {}
        for row in own:
            cases.setdefault((row["gallery_domain"], row["probe_domain"], row["gallery"]), []).append(row)
        if not cases:
            continue
        if len({row["_system"] for row in own}) == 1 and len(cases) > MOST_APART:
            pictures = _by_probe_domain(table, kind, cases)
        else:
            pictures = [
                Picture(
                    title_of(case),
                    _drawn("/".join((table, kind.name, *case)), kind, _grouped(of_case, "_system"), places),
                    source(of_case),
                )
                for case, of_case in list(cases.items())
            ]
        crowded = max(len({row["_system"] for row in of_case}) for of_case in cases.values()) > MOST_BANDS
        about = "for this many lines, bounds are in evaluate/curves.parquet only" if crowded else f"the bands {bands}"
        meaning = f"{kind.meaning}; {about}."
        found.append(Family(kind.name, meaning, pictures[:MOST_PANELS], max(len(pictures) - MOST_PANELS, 0)))
    return found


def _rejections(rows: Sequence[Row]) -> list[CurveKind]:
    """A kind of curve for each quality by which comparisons were rejected."""
    names = dict.fromkeys(row["curve"].removeprefix("edc:") for row in rows if row["curve"].startswith("edc:"))
    meaning = (
        "false non-matches left once the mated pairs of the lowest quality are rejected, at the threshold with a false "
        "match rate of 1 % on all pairs; a pair has the quality of its worse template"
    )
    return [
        CurveKind(f"error against rejection: {name}", meaning, f"edc:{name}", "rejected, %", "FNMR, %", "rejected")
        for name in names
    ]


def title_of(case: tuple[str, str, str]) -> str:
    """Gallery domain, probe domain and gallery in words."""
    gallery_domain, probe_domain, gallery = case
    return f"{gallery_domain} → {probe_domain}" + ("" if gallery == "all" else f", gallery {gallery}")


def _grouped(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column], []).append(row)
    return found


def _by_probe_domain(table: str, kind: CurveKind, cases: Mapping[tuple[str, str, str], list[Row]]) -> list[Picture]:
    """Drawings of one system: one per gallery domain, a line per probe domain."""
    names = sorted({probe for _, probe, _ in cases}, key=by_wavelength)
    galleries: dict[tuple[str, str], list[Row]] = {}
    for (gallery_domain, _, gallery), rows in cases.items():
        galleries.setdefault((gallery_domain, gallery), []).extend(rows)
    found = []
    for (gallery_domain, gallery), rows in sorted(galleries.items(), key=lambda item: by_wavelength(item[0][0])):
        lines = _grouped(rows, "probe_domain")
        keys = tuple(key for key in legend(names) if key.name in lines)
        svg = _drawn(
            "/".join((table, kind.name, gallery_domain, gallery)), kind, lines, {n: i for i, n in enumerate(names)}
        )
        which = "" if gallery == "all" else f", gallery {gallery}"
        found.append(Picture(f"{gallery_domain}{which} →", svg, source(rows), keys))
    return found


def _drawn(name: str, kind: CurveKind, by_line: Mapping[str, Sequence[Row]], places: Mapping[str, int]) -> str:
    lines = []
    for line, rows in by_line.items():
        own = sorted(rows, key=lambda row: row["x"])
        x, y, low, high = (np.array([row[column] for row in own], float) for column in ("x", "y", "low", "high"))
        if kind.is_complement:
            y, low, high = 1 - y, 1 - high, 1 - low
        bounds = (low, high) if len(by_line) <= MOST_BANDS else ()
        lines.append(Line(line, places[line], x, y, *bounds))
    if kind.scale == "rejected":
        ticks = [(share, f"{100 * share:.0f}") for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
        return lines_plot(name, lines, x_label=kind.x_label, y_label=kind.y_label, ticks=ticks, near=True)
    return lines_plot(
        name, lines, x_label=kind.x_label, y_label=kind.y_label, scale=kind.scale, whole_x=kind.curve == "cmc"
    )


# -- trainings


@dataclass(frozen=True)
class MinedShares:
    """What hard mining chose in the last epoch: a share with its chance, and pairs of domains."""

    share: list[tuple[str, str, str]]
    domains: list[str]
    positive: list[list[str]]
    negative: list[list[str]]


@dataclass(frozen=True)
class TrainingView:
    """A training as the page shows it."""

    system: str
    pictures: list[Picture]
    mined: MinedShares | None
    source: str
    notes: list[str] = field(default_factory=list)


def trainings(results: Results) -> tuple[list[TrainingView], list[str]]:
    """Every training of the run that has epochs; and what could not be read."""
    found, notes = [], []
    for system, path in results.trained.items():
        try:
            rows = Run(results.run).table(f"train/{system}", "training").to_pylist()
        except StoreError as error:
            notes.append(str(error))
            continue
        if rows:
            found.append(_training(system, rows, results.relative(path)))
    return found, notes


def _training(system: str, rows: list[dict[str, Any]], file: str) -> TrainingView:
    plain: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["anchor_domain"] is None and np.isfinite(row["value"]):
            plain.setdefault(row["figure"], []).append((row["step"], row["value"]))
    losses = [name for name in plain if name.startswith("loss/")]
    validated = [name for name in plain if name.startswith("validation/") and not name.endswith("_chance")]
    shares = [name for name in ("accuracy", *validated) if name in plain]
    mined = [f"mining/{name}" for name in MINED if f"mining/{name}" in plain]
    distances = [name for name in plain if name in ("mining/d_pos", "mining/d_neg")]
    wanted: list[tuple[str, list[str], str, bool]] = [
        ("losses", losses, "loss", False),
        ("accuracy and validation", shares, "%", True),
        ("hard mining, dotted: chance", mined, "%", True),
        ("distance of mined pairs", distances, "distance", False),
        ("learning rate", ["rate"] if "rate" in plain else [], "rate", False),
    ]
    pictures = []
    for title, names, words, is_share in wanted:
        if not names:
            continue
        lines = []
        for place, name in enumerate(names):
            lines.append(_line(name, place, plain[name]))
            if f"{name}_chance" in plain:
                lines.append(_line(name, place, plain[f"{name}_chance"], dotted=True))
        svg = lines_plot(f"training/{system}/{title}", lines, x_label="steps", y_label=words, share=is_share)
        pictures.append(Picture(title, svg, file, tuple(legend([_words(name) for name in names]))))
    return TrainingView(system, pictures, _mined(rows, plain), file)


def _line(name: str, place: int, points: list[tuple[float, float]], dotted: bool = False) -> Line:
    x, y = np.array(sorted(points), float).T
    return Line(name, place, x, y, dotted=dotted)


def _words(figure: str) -> str:
    return figure.removeprefix("loss/").removeprefix("mining/").removeprefix("validation/")


def _mined(rows: list[dict[str, Any]], plain: Mapping[str, list[tuple[float, float]]]) -> MinedShares | None:
    last = max(row["epoch"] for row in rows)
    pairs = [row for row in rows if row["epoch"] == last and row["anchor_domain"] is not None]
    if not pairs:
        return None
    domains = sorted({row[side] for row in pairs for side in ("anchor_domain", "mined_domain")})
    share = []
    for name, meaning in MINED.items():
        value, chance = (sorted(plain.get(f"mining/{name}{end}", []))[-1:] for end in ("", "_chance"))
        if value and chance:
            share.append((meaning, f"{100 * value[0][1]:.1f} %", f"{100 * chance[0][1]:.1f} %"))
    return MinedShares(
        share, domains, *(_matrix(pairs, f"mining/{kind}", domains) for kind in ("positive", "negative"))
    )


def _matrix(pairs: list[dict[str, Any]], figure: str, domains: list[str]) -> list[list[str]]:
    """Counts by anchor (rows) and mined domain (columns), as per cent of the anchor's domain."""
    counts = np.zeros((len(domains), len(domains)))
    for row in pairs:
        if row["figure"] == figure:
            counts[domains.index(row["anchor_domain"]), domains.index(row["mined_domain"])] += row["count"] or 0
    totals = counts.sum(axis=1, keepdims=True)
    found = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    return [[f"{value:.1f}" if total else "–" for value in line] for line, (total,) in zip(found, totals, strict=True)]
