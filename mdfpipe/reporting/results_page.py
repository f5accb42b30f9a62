"""One self-contained HTML page about an evaluated run: numbers first, then curves, people, maps, trainings, settings.

The template escapes everything that it is given; the drawings are made by `plots`. No script, no network, no clock: the
same run gives the same page. Every number says, in its title or below, the file and the row that it was read from.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdfpipe.domains import by_wavelength
from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.plots import Picture, legend
from mdfpipe.inspecting.attended import Attended, Shown
from mdfpipe.inspecting.page import templates, versions
from mdfpipe.inspecting.things import funnel_row
from mdfpipe.reporting.atlas import SIDE, Map
from mdfpipe.reporting.cells import MARKS, cell_of, told
from mdfpipe.reporting.curves import Family, TrainingView
from mdfpipe.reporting.grids import TableView
from mdfpipe.reporting.retrieval import Searches
from mdfpipe.reporting.similarity import HeatMap, painted
from mdfpipe.reporting.sweeps import SweepView
from mdfpipe.running.survey import Survey
from mdfpipe.store.results import Results, Verdict
from mdfpipe.store.templates import Templates

MOST_TILES = 4


@dataclass
class ResultsPage:
    """Everything that the page shows.

    places: system -> which colour its lines have. families, scores: by table. shown: template name -> its picture.
    attention: system -> crops. survey: none where the folder has no index. environment: of environment.json.
    has_crops: whether the run has stages before evaluation.
    """

    title: str
    results: Results
    views: list[TableView]
    show_people: bool
    places: Mapping[str, int]
    families: dict[str, list[Family]] = field(default_factory=dict)
    scores: dict[str, list[Picture]] = field(default_factory=dict)
    sweeps: list[SweepView] = field(default_factory=list)
    heat_maps: list[HeatMap] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)
    searches: list[Searches] = field(default_factory=list)
    shown: dict[str, Shown] = field(default_factory=dict)
    attention: dict[str, list[Attended]] = field(default_factory=dict)
    trainings: list[TrainingView] = field(default_factory=list)
    templates: dict[str, Templates] = field(default_factory=dict)
    survey: Survey | None = None
    has_crops: bool = True
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def render(page: ResultsPage) -> str:
    """The page as HTML."""
    environment = templates()
    environment.filters |= {"told": told, "cell_of": cell_of}
    environment.globals |= {"marks": MARKS}
    return str(environment.get_template("report.html.j2").render(_content(page))) + "\n"


def _content(page: ResultsPage) -> dict[str, Any]:
    results = page.results
    return {
        "name": page.title,
        "show_people": page.show_people,
        "has_crops": page.has_crops,
        "why_none": results.none,
        "compared": results.compared,
        "own": results.name,
        "tiles": _tiles(page.views),
        "notes": list(dict.fromkeys([*results.notes, *page.notes])),
        "stamps": results.stamps,
        "tables": [_table(view, page) for view in page.views],
        "sweeps": page.sweeps,
        "heat_maps": [_heated(one) for one in page.heat_maps],
        "ramp": ", ".join(figures.RAMP),
        "searches": _by_table(page),
        "shown": page.shown,
        "maps": page.maps,
        "side": SIDE,
        "attention": page.attention,
        "token_maps": any(one.tokens for crops in page.attention.values() for one in crops),
        "trainings": page.trainings,
        "funnel": _funnel(page),
        "failures": page.survey.failures[:50] if page.survey else [],
        "settings": _settings(page),
        "versions": versions(page.environment),
    }


def _tiles(views: Sequence[TableView]) -> list[tuple[str, str, str, str]]:
    """(figure, what it is, of what, where from): the best of each column of the first grid.

    A domain searched in itself is no headline: its videos may be gallery and probe at once.
    """
    across = [v for v in views if any(row["gallery_domain"] != row["probe_domain"] for row in v.rows)]
    grid = next((grid for view in across for grid in view.grids), None)
    if grid is None:
        return []
    columns = [column for _, names in grid.groups for column in names]
    found = []
    for n, column in enumerate(columns):
        cells = [
            (name, cell)
            for name, row in grid.rows
            if (cell := row[n]) is not None
            and cell.value is not None
            and cell.row["gallery_domain"] != cell.row["probe_domain"]
        ]
        for name, cell in [one for one in cells if one[1].verdict is Verdict.BEST][:1] or cells[:1]:
            what = f"{grid.title} {column}".strip()
            text = cell_of(cell)
            found.append((f"{text.value}{text.marks} %", what, f"{name}, {text.count}", told(cell)))
    return found[:MOST_TILES]


def _table(view: TableView, page: ResultsPage) -> dict[str, Any]:
    systems = list(dict.fromkeys(row["_system"] for row in view.rows))
    keys = [key for key in legend(list(page.places)) if key.name in systems]
    return {
        "view": view,
        "legend": keys,
        "families": page.families.get(view.name, []),
        "scores": page.scores.get(view.name, []),
    }


def _heated(one: HeatMap) -> dict[str, Any]:
    """A heat map with its panels as pictures."""
    rows = []
    for panels in one.panels:
        cells = []
        for panel in panels:
            data = base64.b64encode(figures.encoded(painted(panel, one.low, one.high), "PNG")).decode()
            words = [f"{panel.gallery} (rows) by {panel.probe} (columns)"]
            words += [f"same subject {panel.same:.3f}"] if panel.same is not None else []
            words += [f"others {panel.other:.3f}"] if panel.other is not None else []
            cells.append(
                {
                    "source": f"data:image/png;base64,{data}",
                    "title": ", mean ".join(words) + f"; {one.source}",
                    "same": panel.same,
                    "other": panel.other,
                }
            )
        rows.append(cells)
    return {"map": one, "rows": rows, "side": len(one.subjects)}


def _by_table(page: ResultsPage) -> list[tuple[str, list[Searches]]]:
    titles = {view.name: view.title for view in page.views}
    found: dict[str, list[Searches]] = {}
    for one in page.searches:
        found.setdefault(one.table, []).append(one)
    return [(titles.get(name, name), lists) for name, lists in found.items()]


def _funnel(page: ResultsPage) -> dict[str, Any] | None:
    """Steps by domain, from videos to templates; (step, counts, where from)."""
    counts: dict[str, dict[str, int]] = {}
    origin: dict[str, str] = {}
    if page.survey is not None:
        for domain in page.survey.domains.values():
            counts[domain.domain] = {name: value for name, value in funnel_row(domain).items() if name != "domain"}
            origin |= dict.fromkeys(counts[domain.domain], "the receipts of index, detect, label, crop and manifest")
    for system, one in page.templates.items():
        file = page.results.relative(page.results.template_files[system])
        for name, n in zip(one.domain.tolist(), one.crops.tolist(), strict=True):
            own = counts.setdefault(name, {})
            for step, is_so in ((f"{system}: templates", n > 0), (f"{system}: failed to enrol", n == 0)):
                own[step] = own.get(step, 0) + is_so
                origin[step] = file
    if not counts:
        return None
    domains = sorted(counts, key=by_wavelength)
    steps = list(dict.fromkeys(step for domain in domains for step in counts[domain]))
    return {
        "domains": domains,
        "rows": [(step, [counts[domain].get(step) for domain in domains], origin[step]) for step in steps],
    }


def _settings(page: ResultsPage) -> dict[str, str]:
    found = page.survey.settings() if page.survey else {}
    return {
        stage: json.dumps(value, indent=1, ensure_ascii=False)
        for stage, value in ({"evaluate": page.results.settings} | found).items()
    }
