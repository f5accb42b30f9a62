"""The report of an evaluated run: one HTML page, Markdown and LaTeX tables, CSV. The same run gives the same files.

Numbers come from `report`, which reads tables; the crops that it shows are decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from mdfpipe.errors import ConfigError, DataError, MdfError, StoreError, cannot_write, counted, one_line
from mdfpipe.inspecting.pictures import environment_of, title_of
from mdfpipe.reporting.comparison import side_by_side
from mdfpipe.store.files import given_path, given_paths, refuse_folder, write_atomically
from mdfpipe.store.naming import inside, natural_key
from mdfpipe.store.run import Run
from mdfpipe.store.shards import CHECKSUM, UNVERIFIED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdfpipe.drawing.pixels import Picture
    from mdfpipe.inspecting.attended import Attended, Shown
    from mdfpipe.learning.recipes import Recipe
    from mdfpipe.reporting.results_page import ResultsPage
    from mdfpipe.reporting.retrieval import Who
    from mdfpipe.reporting.sweeps import Swept
    from mdfpipe.reporting.written import LatexCells
    from mdfpipe.running.survey import Survey
    from mdfpipe.store.results import Results
    from mdfpipe.store.templates import Templates

FOLDER = Path("evaluate") / "report"
_HEIGHT = {"body": 128, "face": 72}  # pixels on the page
_MOST_SYSTEMS = 8  # with heat maps and maps
_ATTENDED_SUBJECTS, _MOST_ATTENDED = 2, 8  # subjects, and crops, of a system
_COLUMNS = [
    "crop_id",
    "subject_id",
    "domain",
    "modality",
    "video_id",
    "track",
    "session_id",
    "camera_id",
    "split",
    "role",
    "template_id",
    "shard",
    "offset",
    "size",
    CHECKSUM,
]


@dataclass
class Report:
    """Files of a report, and lines about them."""

    files: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def report(
    run: str | PathLike[str],
    *,
    compare: Sequence[str | PathLike[str]] = (),
    by: Sequence[str] = (),
    columns: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    show_people: bool = False,
    allow_mixed: bool = False,
    allow_stale: bool = False,
    latex_cells: LatexCells = "all",
) -> Report:
    """Write report.html, tables.md, tables.tex, tables/*.csv and, of each sweep, sweeps/NAME.csv and NAME.svg into
    `out`, by default RUN/evaluate/report.

    compare, allow_mixed, allow_stale: further evaluated runs, which `side_by_side` sets next to this one.
    latex_cells: what a cell of tables.tex holds: all; value; half (value ± half of its interval); count (k/n).
    by, columns: further tables by group of probes, of this run: see `break_down`.
    show_people: show crops; else as coarse blocks. Unreadable files leave a note on the page. Raises DataError if a
    run was never evaluated, ProtocolError, StoreError.
    """
    from mdfpipe.drawing.plots import places
    from mdfpipe.reporting.breakdown import break_down
    from mdfpipe.reporting.grids import views
    from mdfpipe.reporting.results_page import ResultsPage, render
    from mdfpipe.reporting.sweep_sheets import csv_of as csv_of_sweep
    from mdfpipe.reporting.sweep_sheets import svg_of as svg_of_sweep
    from mdfpipe.reporting.written import LatexCells as Cells
    from mdfpipe.reporting.written import csv_of, file_stem, latex, markdown

    if latex_cells not in get_args(Cells):
        raise ConfigError(f"latex_cells: expected one of {', '.join(get_args(Cells))}, got {latex_cells!r}")
    run, out = given_path("run", run), given_path("out", out) if out is not None else None
    if out is not None:
        refuse_folder(out)
    others = given_paths("compare", compare or [])
    results = side_by_side(run, others, allow_mixed=allow_mixed, allow_stale=allow_stale)
    shown = views(results)
    systems = [name for view in shown for name in results.tables[view.name]["systems"]]
    if by:
        own = side_by_side(run, allow_stale=allow_stale) if compare else results
        shown += break_down(own, by, given_path("columns", columns) if columns is not None else None)
    elif columns is not None:
        raise ConfigError(f"columns {columns}: expected by with it, the columns to break down by")
    page = ResultsPage(title_of(run), results, shown, show_people, places([*systems, *_in_curves(results)]))
    page.environment = environment_of(run)
    _fill(page, run)
    folder = out or run / FOLDER
    files = {
        "report.html": render(page),
        "tables.md": markdown(results, shown),
        "tables.tex": latex(results, shown, latex_cells),
    }
    for view in shown:
        if view.rows:
            files[f"tables/{file_stem(view.name)}.csv"] = csv_of(view, results.notes)
    for sweep in page.sweeps:
        files[f"sweeps/{file_stem(sweep.swept.name)}.csv"] = csv_of_sweep(sweep)
        files[f"sweeps/{file_stem(sweep.swept.name)}.svg"] = svg_of_sweep(sweep)
    made = Report()
    for name, text in files.items():
        _write(run, folder, name, text.encode())
        made.files.append(str(folder / name))
    numbers = sum(len(view.rows) for view in shown)
    tables = sum(bool(view.rows) for view in shown)
    of_page = [f"{counted(numbers, 'number')} in {counted(tables, 'table')}"]
    of_page += [counted(len(page.shown), "crop")] if page.has_crops else []
    made.lines.append(", ".join([*of_page, f"{len(files['report.html'].encode()) / 1e6:.1f} MB"]))
    made.lines += [f"no table of numbers: {results.none}"] if results.none else []
    made.lines += [*results.stamps, *(stamp for view in shown for stamp in view.stamps if stamp not in results.stamps)]
    made.lines += page.notes
    return made


_OF_CROPS = ("index", "detect", "label", "crop", "gather", "manifest", "train", "embed")


def _in_curves(results: Results) -> list[str]:
    return [row["_system"] for row in (*results.metrics, *results.curves)]


def _fill(page: ResultsPage, run: Path) -> None:
    """Everything on the page besides the numbers; what fails leaves a note."""
    from mdfpipe.reporting import curves
    from mdfpipe.reporting.atlas import atlas
    from mdfpipe.reporting.retrieval import People, choose
    from mdfpipe.reporting.similarity import heat_map, score_pictures
    from mdfpipe.reporting.sweeps import sweep_views
    from mdfpipe.store.templates import read_templates

    results, notes = page.results, page.notes
    page.has_crops = any((run / stage).is_dir() for stage in _OF_CROPS)  # else vectors or scores came from elsewhere
    page.survey = _surveyed(run, notes) if page.has_crops else None
    notes += page.survey.doubts if page.survey else []
    page.trainings, unread = curves.trainings(results)
    notes += unread
    own = list(dict.fromkeys(row["system"] for row in results.metrics if row["_run"] in ("", results.name)))
    for view in page.views:
        page.families[view.name] = curves.families(results, view.name, page.places)
        for pictures in _tried(notes, partial(score_pictures, results, view.name, own)):
            page.scores[view.name] = pictures
    for swept in _tried(notes, partial(_swept, run)):
        page.sweeps = sweep_views(results, swept)
    for system, path in results.template_files.items():
        for found in _tried(notes, partial(read_templates, path)):
            tested = found.where(split="test")
            page.templates[system] = tested if len(tested) else found
    ordered = sorted(page.templates, key=lambda name: own.index(name) if name in own else len(own))
    page.templates = {name: page.templates[name] for name in ordered}
    page.trainings.sort(key=lambda one: own.index(one.system) if one.system in own else len(own))
    for system in ordered[:_MOST_SYSTEMS]:
        of = system, page.templates[system], results.relative(results.template_files[system])
        page.heat_maps += [made for made in [heat_map(*of)] if made]
        page.maps += [made for made in [atlas(*of)] if made]
    if len(ordered) > _MOST_SYSTEMS:
        notes.append(f"heat maps and maps: {len(ordered) - _MOST_SYSTEMS} more systems are left out")
    people = People(page.templates.values())
    for chosen in _tried(notes, partial(choose, run, people)):
        page.searches = chosen
    if not page.has_crops:
        return
    crops = PageCrops(run, page.show_people, notes)
    for who in dict.fromkeys(_whos(page)):
        picture = crops.shown(who)
        if picture is not None:
            page.shown[who.name] = picture
    for system in ordered[:_MOST_SYSTEMS]:
        untold: list[str] = []
        for found in _tried(untold, partial(attended, run, system, page.templates[system], crops)):
            page.attention |= {system: found} if found else {}
        notes += [f"attention of {system} is not shown: {line}" for line in untold]


def _tried(notes: list[str], make: Callable[[], Any]) -> Iterator[Any]:
    """What `make` gives; nothing and a note where it cannot be read."""
    try:
        yield make()
    except MdfError as error:
        notes.append(one_line(error))


def _swept(run: Path) -> list[Swept]:
    """The sweeps of the study that a run folder keeps. Raises ConfigError."""
    from mdfpipe.reporting.sweeps import Swept
    from mdfpipe.study.study import KEPT, Study

    if not (run / KEPT).is_file():
        return []
    study = Study.kept(run)
    return [
        Swept(
            name,
            study.sweeps[name].title,
            study.sweeps[name].system,
            tuple(study.sweeps[name].values),
            tuple((point.values, point.system) for point in found),
        )
        for name, found in study.swept.items()
    ]


def _surveyed(run: Path, notes: list[str]) -> Survey | None:
    from mdfpipe.running.survey import survey

    try:
        return survey(run)
    except MdfError as error:
        notes.append(f"no funnel and no settings: {one_line(error)}")
        return None


def _whos(page: ResultsPage) -> Iterable[Who]:
    for one in page.searches:
        for search in one.lists:
            yield search.probe
            yield from (found.who for found in search.top)


# -- crops


class PageCrops:
    """The crop that represents a template: the middle one of its crops, in the order of the manifest."""

    def __init__(self, run: Path, show_people: bool, notes: list[str]) -> None:
        self.run, self.show_people, self.notes = run, show_people, notes
        self._rows: dict[tuple[str, str, str, str], list[dict[str, Any]]] | None = None
        self._windows: dict[str, tuple[float, float] | None] = {}

    def row(self, who: Who) -> dict[str, Any] | None:
        """The row of the manifest; none where the manifest has no crop of the template."""
        if self._rows is None:
            self._rows = self._read()
        modality = who.modality if who.modality in _HEIGHT else "body"
        rows = self._rows.get((who.subject, who.domain, modality, who.split), [])
        if who.item:
            items = ("template_id", "video_id", "of_track", "session_id", "camera_id", "crop_id")
            rows = [row for row in rows if who.item in (row.get(name) for name in items)]
        own = [row for row in rows if row["role"] == who.role]
        if own or not rows:
            return own[len(own) // 2] if own else None
        return rows[len(rows) // 6 if who.role == "gallery" else -1 - len(rows) // 6]  # thirds of a video

    def shown(self, who: Who) -> Shown | None:
        """The crop as the page shows it; none, and a note, where it cannot be read."""
        row = self.row(who)
        if row is None:
            return None
        try:
            picture = self.picture(row)
        except MdfError as error:
            self.notes.append(one_line(error))
            return None
        return self.on_page(picture, row["modality"], row["crop_id"])

    def picture(self, row: dict[str, Any]) -> Picture:
        """The crop of a row of the manifest, at its own size. Raises DataError."""
        from mdfpipe.drawing import pixels as figures
        from mdfpipe.store.images import decode
        from mdfpipe.store.shards import read_crop

        if row["shard"] is None:
            raise DataError(f"crop {row['crop_id']}: the manifest names no shard")
        shard = inside(self.run, row["shard"], f"crop {row['crop_id']}")
        image = decode(read_crop(shard, row["offset"], row["size"], row.get(CHECKSUM)), row["crop_id"])
        return figures.to_display(image, self._window(row["video_id"]))

    def on_page(self, picture: Picture, modality: str, title: str, heat: NDArray[np.float32] | None = None) -> Shown:
        """A picture at the page's size, hidden unless people are shown; with heat (h, w), 0..1, over it."""
        from mdfpipe.drawing import pixels as figures
        from mdfpipe.inspecting.attended import Shown

        height = _HEIGHT[modality]
        width = max(round(picture.shape[1] * height / picture.shape[0]), 1)
        blocks = figures.BODY_BLOCKS if modality == "body" else figures.FACE_BLOCKS
        small = figures.scaled_to(picture, width, height)
        small = small if self.show_people else figures.hidden_crop(small, blocks)
        small = small if heat is None else figures.overlaid(small, heat)
        return Shown(figures.data_uri(small), width, height, title)

    def _window(self, video_id: str) -> tuple[float, float] | None:
        from mdfpipe.store.images import recorded_window

        if video_id not in self._windows:
            self._windows[video_id] = recorded_window(Run(self.run), video_id)
        return self._windows[video_id]

    def _read(self) -> dict[tuple[str, str, str, str], list[dict[str, Any]]]:
        from mdfpipe.store.templates import items_of

        try:
            table = Run(self.run).table("manifest", "manifest", _COLUMNS)
        except StoreError as error:
            self.notes.append(f"no crop is shown: {one_line(error)}")
            return {}
        if CHECKSUM not in table.column_names:
            self.notes.append(f"crops without checksums: {UNVERIFIED}")
        plain = {name: table[name] for name in table.column_names}
        plain |= {name: table[name].cast(pa.string()) for name in ("modality", "split", "role")}
        table = pa.table(plain)
        if "track" in table.column_names:
            table = table.append_column("of_track", items_of(table, "track"))
        table = table.filter(pc.is_valid(table["shard"]))
        found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
        for row in table.to_pylist():
            key = (row["subject_id"], row["domain"], row["modality"], row["split"])
            found.setdefault(key, []).append(row)
        return found


# -- attention


def attended(run: Path, system: str, templates: Templates, crops: PageCrops) -> list[Attended]:
    """Attention maps of a system for a few subjects' crops, one per domain; nothing without its weights.

    Raises ConfigError, DataError, StoreError.
    """
    from mdfpipe.domains import by_wavelength
    from mdfpipe.inspecting.attended import Attended
    from mdfpipe.inspecting.samples import spread
    from mdfpipe.learning.attention import Watcher
    from mdfpipe.learning.data.crops import from_crops
    from mdfpipe.reporting.retrieval import People
    from mdfpipe.store.images import recorded_window

    recipe, weights = _weights(run, system)
    if not weights.is_file():
        return []
    people, rows = People([templates]), list[tuple[int, dict[str, Any]]]()
    for n in range(len(templates)):
        row = crops.row(people[templates.name[n]]) if templates.crops[n] else None
        rows += [(n, row)] if row is not None else []
    subjects = spread(sorted({templates.subject[n] for n, _ in rows}, key=natural_key), _ATTENDED_SUBJECTS)
    chosen = [(n, row) for n, row in rows if templates.subject[n] in subjects]
    chosen.sort(key=lambda one: (natural_key(one[1]["subject_id"]), by_wavelength(one[1]["domain"])))
    firsts: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}  # a benchmark has a template for each image
    for n, row in chosen:
        firsts.setdefault((row["subject_id"], row["domain"]), (n, row))
    chosen = list(firsts.values())[:_MOST_ATTENDED]
    watcher, found = Watcher(weights, recipe) if chosen else None, []
    for n, row in chosen:
        table = Run(run).table("crop", row["video_id"])
        deep = recorded_window(Run(run), row["video_id"])
        one = from_crops(
            table.filter(pc.equal(table["crop_id"], row["crop_id"])),
            run,
            row["domain"],
            windows={row["video_id"]: deep} if deep else None,
            camera={row["video_id"]: row["camera_id"]} if row.get("camera_id") else None,
        )
        heat = watcher.look(one, templates.vectors[n]) if watcher and len(one) else None
        if heat is not None:
            picture, kind, name = crops.picture(row), row["modality"], row["crop_id"]
            pair = crops.on_page(picture, kind, name), crops.on_page(picture, kind, name, heat)
            maps = watcher.tokens(one) if watcher else None
            tokens = tuple(
                (token, own, crops.on_page(picture, kind, f"{name}: {token}", heat))
                for token, own, heat in (maps.pictures() if maps else ())
            )
            found.append(Attended(f"{templates.subject[n]}, {row['domain']}", *pair, tokens))
    return found


def _weights(run: Path, system: str) -> tuple[Recipe | None, Path]:
    """The recipe that the study embeds with (none where it cannot be read), and where the weights lie."""
    from mdfpipe.stages.train import checkpoint_path
    from mdfpipe.study.study import open_run

    try:
        settings = open_run(run)[0].trainings[system]
    except (MdfError, KeyError):
        return None, run / "train" / system / "last.pt"
    return settings.recipe, checkpoint_path(Run(run), system, settings.keep)


def _write(run: Path, folder: Path, name: str, data: bytes) -> None:
    """Write a file of the report; below the run, no link that somebody left there leads elsewhere."""
    path = folder / name
    if folder == run / FOLDER:
        path = Run(run).place("evaluate", f"{FOLDER.as_posix()}/{name}", change=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise StoreError(cannot_write(path, error)) from None
