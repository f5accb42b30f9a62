"""Breakdown: the numbers of an evaluated run by group of probes, from its stored searches. Nothing is searched again.

A probe's group comes from its domain (range), the manifest (session, camera, quality of its crops), its template
(crops) or a table of the user's, keyed by template, video or subject.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.config import texts_of
from mdfpipe.domains import Domain
from mdfpipe.errors import ConfigError, DataError, counted, one_line
from mdfpipe.evaluation.case import generator_of
from mdfpipe.evaluation.measures.groups import FEW_PROBES, GroupNumber, group_numbers
from mdfpipe.evaluation.measures.metrics import NUMBERS
from mdfpipe.evaluation.table import depth_of, is_of_searches
from mdfpipe.reporting.cells import cell_of, label
from mdfpipe.reporting.comparison import COLUMNS, is_counted, side_by_side
from mdfpipe.reporting.grids import Grid, TableView, mark_words
from mdfpipe.reporting.numbers import MARKS
from mdfpipe.store.files import given_path
from mdfpipe.store.naming import natural_key
from mdfpipe.store.parquet import read_table
from mdfpipe.store.results import FEWEST_SUBJECTS, KEY, PLACE, STAGE, Number, Results, Row, note_words
from mdfpipe.store.run import Run
from mdfpipe.store.tables import SEARCHES, NumberNote
from mdfpipe.store.templates import items_of, read_templates
from mdfpipe.store.text_tables import read_blocks, read_layout

FILE: Final = f"{STAGE}/searches.parquet"
MOST_GROUPS: Final = 50
FEW_VALUES: Final = 8
"""Numbers with more different values than this are binned."""
NAMES: Final = {
    "range": "range of the probe's domain, over the domains of one band",
    "session": "session of the probe's crops",
    "camera": "camera of the probe's crops",
    "height": "mean height of the person in the video, px",
    "sharpness": "mean sharpness of the probe's crops",
    "contrast": "mean contrast of the probe's crops",
    "crops": "number of vectors in the probe's template, where the first table has the same templates",
}
"""What numbers are broken down by, besides columns of the user's table."""
_OF_MANIFEST: Final = {
    "session": "session_id",
    "camera": "camera_id",
    "height": "box_height_px",
    "sharpness": "sharpness",
    "contrast": "contrast",
}
_KEYS: Final = ("template", "probe", "video_id", "subject_id")
_ITEMS: Final = {name.removesuffix("_id"): name for name in ("video_id", "track", "session_id", "camera_id", "crop_id")}
_SEVERAL: Final = "several"
Values = NDArray[Any]
"""(n,) the value of each probe: text or numbers; None or NaN where it is unknown."""


@dataclass(frozen=True)
class By:
    """What to break down by. edges: of bins; none: quartiles of the probes' values, where these are numbers."""

    name: str
    edges: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> By:
        """NAME or NAME=EDGE,EDGE. Raises ConfigError.

        >>> By.parse("height=50,100")
        By(name='height', edges=(50.0, 100.0))
        """
        name, _, said = text.partition("=")
        try:
            edges = tuple(float(edge) for edge in said.split(",")) if said else ()
        except ValueError:
            edges = (np.nan,)
        if not name or not all(np.isfinite(edges)) or any(a >= b for a, b in pairwise(edges)):
            raise ConfigError(f"--by {one_line(text, 80)}: expected NAME or NAME=EDGE,EDGE with ascending numbers")
        return cls(name, edges)


@dataclass(frozen=True, eq=False)
class Theirs:
    """A table of the user's. key: which of _KEYS it has. columns: the others, by name. at: the row of each key."""

    path: Path
    key: str
    at: dict[str, int]
    columns: dict[str, list[str | None]]


@dataclass
class _Searches:
    """The stored searches of one table and system in one pair of domains.

    base: the number of all probes, by metric. trainings: of each training of the system, its searches, (n,), and the
    numbers that have its thresholds. first: the row of the first search in its file.
    """

    table: str
    system: str
    place: tuple[str, str, str]
    base: Mapping[str, Row]
    trainings: list[tuple[pa.Table, Mapping[str, Row]]]
    first: int

    @property
    def rows(self) -> pa.Table:
        """The searches of the first training: the probes of all of them."""
        return self.trainings[0][0]

    @property
    def unit(self) -> str:
        return str(next(iter(self.base.values()))["templates"])


@dataclass(frozen=True, eq=False)
class Breakdown:
    """Numbers by group of probes. groups: a `pyarrow.Table` with a row for each number; `verdict` is against the best
    group, and `p` is corrected. notes: what a reader of the numbers should know. stamps: what to write with each.
    """

    groups: pa.Table
    notes: list[str]
    stamps: list[str]

    def __repr__(self) -> str:
        return f"Breakdown({counted(self.groups.num_rows, 'number')})"


def breakdown(
    run: str | PathLike[str],
    by: Sequence[str],
    *,
    columns: str | PathLike[str] | None = None,
    allow_stale: bool = False,
) -> Breakdown:
    """Numbers of an evaluated run by group of probes, as `mdfpipe breakdown` gives them. See `break_down`."""
    results = side_by_side(given_path("run", run), allow_stale=allow_stale)
    every = document(break_down(results, by, given_path("columns", columns) if columns is not None else None))
    rows = [{"table": one["table"]} | group for one in every for group in one["groups"]]
    said = {kind: list(dict.fromkeys(line for one in every for line in one[kind])) for kind in ("notes", "stamps")}
    return Breakdown(pa.Table.from_pylist(rows), **said)


def break_down(results: Results, by: Sequence[str], columns: Path | None = None) -> list[TableView]:
    """A view for each table of a run and each of `by`. columns: a table of the user's. results: of one run.

    Raises ConfigError for an unknown name, DataError for a table that does not fit, StoreError.
    """
    asked = [By.parse(text) for text in dict.fromkeys(texts_of("by", by, "range"))]
    theirs = None if columns is None else _read(columns, [one.name for one in asked if one.name not in NAMES])
    if not asked:
        raise ConfigError(f"expected --by NAME: {', '.join(NAMES)}, or a column of --columns FILE")
    for one in asked:
        if one.name not in NAMES and theirs is None:
            raise ConfigError(
                f"--by {one_line(one.name, 80)}: expected {', '.join(NAMES)}, or a column of the table of --columns"
            )
    if results.none or not results.metrics:
        raise DataError(f"{results.run}: expected numbers to break down, found none: {results.none}")
    cases = _cases(results)
    if not cases:
        raise DataError(
            f"{results.run}: expected stored searches, found none: benchmarks keep the lists of one trial only"
        )
    source = _Source(results, theirs)
    found = []
    for one in asked:
        views = [_view(results, name, one, [c for c in cases if c.table == name], source) for name in results.tables]
        found += [view for view in views if view is not None]
        if not any(view.numbers for view in views if view):
            raise DataError(
                f"--by {one.name}: expected a value for some of the probes, {source.lacking(one, cases[0])}"
            )
    return found


def _cases(results: Results) -> list[_Searches]:
    """The searches of each table, system and pair of domains, in the order of the file."""
    scores = ("mated_score", "nonmated_score")
    names = ["table", "system", *PLACE[1:], "template", "subject_id", "status", "rank", *COLUMNS.values(), *scores]
    run = Run(results.run)
    table = run.table_beside(STAGE, KEY, FILE, SEARCHES, names)
    base, own = (_by_case(rows) for rows in (results.metrics, run.table(STAGE, KEY).to_pylist()))
    line_of = {
        (name, training): line
        for name, entry in results.tables.items()
        for line, every in entry.get("seeds", {}).items()
        for training in every
    }
    keys = [
        table[name].cast(pa.string()).combine_chunks().dictionary_encode() for name in ("table", "system", *PLACE[1:])
    ]
    codes = np.stack([key.indices.to_numpy() for key in keys]) if table.num_rows else np.zeros((5, 0), np.int64)
    cases, first, number = np.unique(codes, axis=1, return_index=True, return_inverse=True)
    found: dict[tuple[str, ...], _Searches] = {}
    for at in np.argsort(first):
        name = tuple(key.dictionary[int(code)].as_py() for key, code in zip(keys, cases[:, at], strict=True))
        line = (name[0], line_of.get(name[:2], name[1]), *name[2:])
        if line in base:
            rows = table.filter(pa.array(number.reshape(-1) == at))
            made = _Searches(line[0], line[1], line[2:], base[line], [], int(first[at]))
            found.setdefault(line, made).trainings.append((rows, own[name]))
    return list(found.values())


def _by_case(rows: Iterable[Row]) -> dict[tuple[str, ...], dict[str, Row]]:
    """Rows of METRICS that stored searches give, by table, system and pair of domains, then by metric."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if depth_of(row["metric"]) is not None or row["metric"] in COLUMNS or is_of_searches(row["metric"]):
            key = (row["table"], row["system"], *(row[name] for name in PLACE[1:]))
            found.setdefault(key, {})[row["metric"]] = row
    return found


# -- which group a probe belongs to


class _Source:
    """Values of probes, by what they are broken down by."""

    def __init__(self, results: Results, theirs: Theirs | None) -> None:
        self.results, self.theirs = results, theirs
        self._manifest: pa.Table | None = None
        self._crops: dict[str, dict[str, int]] = {}

    def values(self, by: By, case: _Searches) -> Values:
        """The value of each probe of a case."""
        templates = case.rows["template"].to_pylist()
        if by.name == "range" and not self.is_theirs(by):
            return np.full(len(templates), _range(case.place[1]), object)
        if by.name == "crops" and not self.is_theirs(by):
            known = self._crops_of(case.system)
            return np.array([known.get(name, np.nan) for name in templates], float)
        if not self.is_theirs(by):
            return _matched(self._of_crops(case, _OF_MANIFEST[by.name]), templates)
        assert self.theirs is not None
        column, key = self.theirs.columns[by.name], self.theirs.key
        if key == "video_id":
            videos = self._of_crops(case, "video_id")
            told = {
                name: [column[at] for v in one if (at := self.theirs.at.get(v)) is not None]
                for name, one in videos.items()
            }
            return _matched(told, templates)
        names = case.rows["subject_id"].to_pylist() if key == "subject_id" else templates
        return np.array([column[at] if (at := self.theirs.at.get(n)) is not None else None for n in names], object)

    def lacking(self, by: By, case: _Searches) -> str:
        """Why no probe has a value."""
        if self.theirs is None or not self.is_theirs(by):
            return "found none: the run knows none of them; choose another name, or give a table with --columns"
        key, given = self.theirs.key, one_line(next(iter(self.theirs.at), "nothing"), 80)
        if key == "video_id":
            return f"found none: {self.theirs.path} names no video of theirs by {key}, but such as {given}"
        probe = case.rows["subject_id" if key == "subject_id" else "template"][0].as_py()
        return f"found none: {self.theirs.path} has {key} such as {given}, the probes such as {probe}"

    def is_theirs(self, by: By) -> bool:
        """Whether it is a column of the user's table."""
        return self.theirs is not None and by.name in self.theirs.columns

    def _of_crops(self, case: _Searches, column: str) -> dict[str, list[Any]]:
        """Values of a column of the manifest by template without role and modality: each text once, or all numbers."""
        rows = self._rows()
        modality = next(iter(case.base.values()))["modality"]
        if modality not in ("fused", "mixed"):
            rows = rows.filter(pc.equal(rows["modality"], modality))
        rows = rows.filter(pc.equal(rows["domain"], case.place[1]))
        item = [items_of(rows, _ITEMS.get(case.unit, case.unit))] if case.unit != "subject" else []
        key = pc.binary_join_element_wise(rows["subject_id"], rows["domain"], *item, rows["split"], "/")
        made = pa.table({"key": key, "value": rows[column]}).drop_null()
        if pa.types.is_floating(made["value"].type):
            means = made.group_by("key").aggregate([("value", "mean")])
            return {
                name: [v] for name, v in zip(means["key"].to_pylist(), means["value_mean"].to_pylist(), strict=True)
            }
        found: dict[str, list[Any]] = {}
        for row in made.group_by(["key", "value"]).aggregate([]).to_pylist():
            found.setdefault(row["key"], []).append(row["value"])
        return found

    def _rows(self) -> pa.Table:
        if self._manifest is None:
            run = Run(self.results.run)
            if run.receipt("manifest", "manifest") is None:
                raise DataError(
                    f"{self.results.run}: expected a manifest, which says what each crop is; found none, as vectors "
                    "came from elsewhere: give a table keyed by subject_id or template (--columns FILE)"
                )
            names = [
                "subject_id",
                "domain",
                "modality",
                "split",
                *_ITEMS.values(),
                "template_id",
                "sharpness",
                "contrast",
            ]
            table = run.table("manifest", "manifest", [*names, "box_height_px"])
            coded = ("modality", "split")
            self._manifest = pa.table(
                {n: table[n].cast(pa.string()) if n in coded else table[n] for n in table.column_names}
            )
        return self._manifest

    def _crops_of(self, system: str) -> dict[str, int]:
        """Crops of each template of a system; nothing of a fusion's."""
        if system not in self._crops:
            path = self.results.template_files.get(system)
            made = read_templates(path) if path else None
            self._crops[system] = {} if made is None else dict(zip(made.name, made.crops.tolist(), strict=True))
        return self._crops[system]


def _matched(known: Mapping[str, list[Any]], templates: Sequence[str]) -> Values:
    """The one value of each template; `several` of one whose crops differ; the mean of numbers."""
    found: list[Any] = []
    for name in templates:
        own = [v for v in dict.fromkeys(known.get(name.rsplit("/", 2)[0], ())) if v is not None]
        found.append(None if not own else own[0] if len(own) == 1 else _SEVERAL)
    return np.array(found, object)


def _range(domain: str) -> str | None:
    try:
        metres = Domain.parse(domain).range_m
    except DataError:
        return None
    return None if metres is None else f"{metres:g} m"


def _band(domain: str) -> str:
    try:
        return str(Domain.parse(domain).band)
    except DataError:
        return domain


def _read(path: Path, wanted: Sequence[str]) -> Theirs:
    """Read a table of the user's, CSV or Parquet. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: expected a CSV or Parquet table, found no such file")
    is_parquet = path.suffix == ".parquet"
    if is_parquet:
        table = read_table(path)
        header = table.column_names
    else:
        header = read_layout(path, str(path), _KEYS).header
    key = next((name for name in _KEYS if name in header), None)
    if key is None:
        raise DataError(f"{path}: expected a column {' or '.join(_KEYS)}, got {one_line(', '.join(header), 200)}")
    unknown = [name for name in wanted if name not in header or name == key]
    if unknown:
        others = ", ".join(name for name in header if name not in _KEYS)
        raise DataError(
            f"{path}: expected a column {one_line(unknown[0], 80)}, got {one_line(others, 200)}; --by takes one of "
            f"these, or {', '.join(NAMES)}"
        )
    names = [key, *dict.fromkeys(wanted)]
    if is_parquet:
        cells = {name: ["" if v is None else str(v) for v in table[name].to_pylist()] for name in names}
    else:
        cells = {name: [] for name in names}
        for block in read_blocks(path, str(path), {name: name for name in names}):
            for name in names:
                cells[name] += block.cells[name].to_pylist()
    at: dict[str, int] = {}
    for row, name in enumerate(cells[key]):
        if at.setdefault(name, row) != row:
            raise DataError(
                f"{path}: expected each {key} once, got {one_line(name, 80)} in rows {at[name] + 1} and {row + 1} "
                "below the header; keep one of them"
            )
    return Theirs(path, key, at, {name: [v.strip() or None for v in cells[name]] for name in wanted})


# -- groups and their numbers


def _grouped(by: By, values: Sequence[Values]) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Names of the groups, in order; and of each part the group of each probe, -1 where its value is unknown."""
    whole = np.concatenate([part.astype(object) for part in values]) if values else np.zeros(0, object)
    known = [v for v in whole.tolist() if v is not None and v == v]
    numbers = _numbers(known)
    if numbers is not None and (by.edges or len(set(numbers)) > FEW_VALUES):
        edges = list(by.edges) or sorted(set(np.quantile(numbers, [0.25, 0.5, 0.75]).tolist()))
        shown = [f"{edge:.4g}" for edge in edges]
        names = [
            f"below {shown[0]}",
            *(f"{a} to {b}" for a, b in pairwise(shown)),
            f"{shown[-1]} or more",
        ]

        def place(value: Any) -> int:
            return int(np.searchsorted(edges, float(value), side="right"))

    else:
        if by.edges:
            raise DataError(
                f"--by {by.name}: expected numbers to put into bins, got such as {one_line(str(known[:1]), 80)}"
            )
        names = sorted({_text(v) for v in known}, key=lambda name: (name == _SEVERAL, natural_key(name)))
        at = {name: n for n, name in enumerate(names)}

        def place(value: Any) -> int:
            return at[_text(value)]

    if len(names) > MOST_GROUPS:
        raise DataError(
            f"--by {by.name}: expected at most {MOST_GROUPS} groups, got {len(names)}; choose another column, or put "
            f"numbers into bins (--by {by.name}=EDGE,EDGE)"
        )
    places = [np.array([-1 if v is None or v != v else place(v) for v in part.tolist()], np.int64) for part in values]
    return names, places


def _numbers(known: Iterable[Any]) -> list[float] | None:
    """All values as finite numbers; None where one is none."""
    try:
        found = [float(value) for value in known]
    except ValueError:
        return None
    return found if found and all(np.isfinite(found)) else None


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else one_line(str(value), 80)


def _view(results: Results, name: str, by: By, cases: list[_Searches], source: _Source) -> TableView | None:
    if not cases:
        return None
    entry = results.tables[name]
    values = [source.values(by, case) for case in cases]
    names, places = _grouped(by, values)
    joined: dict[tuple[str, str, str, str], list[int]] = {}
    for n, case in enumerate(cases):
        gallery_domain, probe_domain, gallery = case.place
        merged = by.name == "range" and not source.is_theirs(by) and gallery_domain != probe_domain
        probes = _band(probe_domain) if merged else probe_domain
        joined.setdefault((case.system, gallery_domain, probes, gallery), []).append(n)
    grids, notes = list[Grid](), list[str]()
    for (system, gallery_domain, probes, gallery), members in joined.items():
        found = _numbers_of([cases[n] for n in members], [places[n] for n in members], f"{name}/{by.name}/{probes}")
        of = f", gallery {gallery}" if gallery != "all" else ""
        title = f"{system}, {gallery_domain} to {probes}{of}"
        if found.unknown:
            notes.append(f"{title}: {found.unknown} of {found.probes} probes have no {by.name} and are in no group")
        if found.groups:
            first = cases[members[0]]
            place = {"gallery_domain": gallery_domain, "probe_domain": probes, "gallery": gallery}
            grids.append(_grid(by, title, names, found, first, place))
    numbers = [cell for grid in grids for cell in grid.cells]
    shown = {number.row["metric"] for number in numbers}
    left = [m for m in dict.fromkeys(r["metric"] for r in results.of(results.metrics, name)) if m not in shown]
    if left and numbers:
        notes.append(f"no breakdown of {', '.join(left)}: only numbers of searches come from stored searches")
    seeds = [f"{line} ({len(own)})" for line, own in entry.get("seeds", {}).items()]
    if seeds and numbers:
        notes.append(f"means over trainings of {', '.join(seeds)}; intervals and tests draw subjects and trainings")
    whole = next(iter(cases[0].base.values()))
    about = [
        ("protocol", str(entry.get("protocol"))),
        ("its fingerprint", str(entry.get("fingerprint", ""))[:12]),
        ("groups", NAMES.get(by.name, f"column {by.name} of the given table")),
        ("a failure to enrol counts as", str(whole["failure"])),
        ("without a mate", str(whole["unmated"])),
    ]
    title = f"{entry.get('title') or name}, by {by.name}"
    return TableView(
        f"{name}.{by.name}",
        title,
        about,
        grids,
        [],
        [*mark_words(numbers), *_of_searches(numbers), *_LEGEND] if numbers else [],
        _FOOTNOTES if numbers else [],
        [],
        notes,
        results.stamps_of(name),
        numbers,
        str(entry.get("fingerprint", "")),
    )


def _of_searches(numbers: Iterable[Number]) -> list[str]:
    """Where the threshold of open-set numbers is from."""
    names = dict.fromkeys(label(n.row["metric"]) for n in numbers if is_of_searches(n.row["metric"]))
    return [f"{', '.join(names)}: at the table's threshold; false alarms are those of all groups."] if names else []


_LEGEND: Final = [
    f"(few): under {FEW_PROBES} probes or {FEWEST_SUBJECTS} subjects: the number says little.",
    "Bold: the best group. ≈: not significantly different from it; without a mark: significantly worse, at p < 0.05 "
    "(Fisher's exact test where each subject is one probe, else a bootstrap over subjects; Holm's correction over all "
    f"pairs of groups). ?: not tested, as one of both has under {FEWEST_SUBJECTS} subjects.",
]
_FOOTNOTES: Final = [
    "Per cent; in small type k/n, false alarms and the 95 % interval. Probes are grouped; the gallery stays whole. "
    "Groups may differ in more than what they are named for.",
    f"From {FILE}.",
]


@dataclass(frozen=True)
class _Found:
    """groups: their places. numbers: by metric, of each group that has some. each: of every training alone.

    about: columns of METRICS by metric: the operating point of the table, which is that of all groups.
    """

    groups: list[int]
    numbers: dict[str, dict[int, GroupNumber]]
    each: dict[str, dict[int, list[float]]]
    about: dict[str, Row]
    probes: int
    unknown: int


def _numbers_of(cases: Sequence[_Searches], places: Sequence[NDArray[np.int64]], seed: str) -> _Found:
    """Numbers of the probes of some cases that count, by group."""
    subject = np.concatenate([case.rows["subject_id"].to_numpy().astype(str) for case in cases])
    group = np.concatenate(places)
    counted = np.concatenate([_counts(case, None) for case in cases])
    found = _Found([], {}, {}, {}, int(counted.sum()), int((counted & (group < 0)).sum()))
    alike: dict[bytes, list[str]] = {}
    masks, values = dict[str, NDArray[np.bool_]](), dict[str, NDArray[np.float64]]()
    for metric in cases[0].base:
        if all(metric in case.base for case in cases):
            about = found.about[metric] = _operating_point([case.base[metric] for case in cases])
            masks[metric] = np.concatenate([_counts(case, metric) for case in cases]) & (group >= 0)
            if "unresolved" not in about["notes"]:
                values[metric] = np.concatenate([_added(case, metric) for case in cases], axis=1)
            alike.setdefault(masks[metric].tobytes(), []).append(metric)
    for metrics in alike.values():
        known = masks[metrics[0]]
        used, own = np.unique(group[known], return_inverse=True)
        found.groups.extend(set(used.tolist()) - set(found.groups))
        given = {metric: values[metric][:, known] for metric in metrics if metric in values}
        if not len(used) or not given:
            continue
        codes = own.reshape(-1).astype(np.int64)
        averaged = len(cases[0].trainings) > 1
        numbers = group_numbers(given, subject[known], codes, generator_of(seed))
        for metric, one in numbers.items():
            found.numbers[metric] = dict(zip(used.tolist(), one, strict=True))
            if averaged:
                alone = [np.bincount(codes, each) / np.bincount(codes) for each in given[metric]]
                found.each[metric] = dict(zip(used.tolist(), np.array(alone).T.tolist(), strict=True))
    found.groups.sort()
    return found


def _counts(case: _Searches, metric: str | None) -> NDArray[np.bool_]:
    """(n,) the probes that a metric counts in every training; None: those of closed-set metrics."""
    one = next(iter(case.base.values()))
    found = np.ones(case.rows.num_rows, bool)
    for rows, _ in case.trainings:
        status = rows["status"].cast(pa.string()).to_pylist()
        if metric is not None and metric.startswith("fpir@"):
            found &= np.array([s == "unmated" for s in status], bool) & rows["nonmated_score"].is_valid().to_numpy()
        else:
            unmated = "exclude" if metric is not None and is_of_searches(metric) else one["unmated"]
            found &= np.array([is_counted(s, one["failure"], unmated) for s in status], bool)
    return found


def _added(case: _Searches, metric: str) -> NDArray[np.float64]:
    """(trainings, n) what each probe adds to a mean."""
    found = []
    for rows, numbers in case.trainings:
        columns = {
            name: rows[name].to_numpy().astype(float) for name in ("rank", "mated_score", "nonmated_score")
        }  # NaN where there is none
        depth = depth_of(metric)
        if depth is not None:
            own = columns["rank"] <= depth
        elif metric in COLUMNS:
            own = np.nan_to_num(rows[COLUMNS[metric]].to_numpy().astype(float))
        else:
            threshold = numbers[metric]["threshold"]
            least = np.inf if threshold is None else threshold  # nobody is found
            own = (columns["rank"] == 1) & (columns["mated_score"] >= least)
            if metric.startswith("fpir@"):
                own = columns["nonmated_score"] >= least
            elif metric.startswith("fnir@"):
                own = ~own
        found.append(own.astype(float))
    return np.stack(found)


def _operating_point(rows: Sequence[Row]) -> Row:
    """Threshold, false alarms and notes of the table's numbers that a group's is a part of."""
    notes = [note for note in NUMBERS if any(note in (row["notes"] or ()) for row in rows)]
    if any(row["value"] is None for row in rows):
        notes = [NumberNote.UNRESOLVED]
    one = rows[0] if len(rows) == 1 else {}
    alarms = {name: [row[name] for row in rows] for name in ("k_false", "n_false")}
    sums = {name: None if None in counts else sum(counts) for name, counts in alarms.items()}
    sums |= {"n_false": one.get("n_false")} if NumberNote.UNRESOLVED in notes else {}
    return {"threshold": one.get("threshold"), "notes": notes} | sums


def _grid(by: By, title: str, names: Sequence[str], found: _Found, case: _Searches, place: dict[str, str]) -> Grid:
    """A line a group, a column a metric."""
    nothing = dict.fromkeys(("chance", "published", "spread", "trials", "each"))
    lines: list[tuple[str, list[Number | None]]] = []
    for group in found.groups:
        cells: list[Number | None] = []
        for metric, about in found.about.items():
            one = found.numbers.get(metric, {}).get(group)
            if one is None and NumberNote.UNRESOLVED not in about["notes"]:
                cells.append(None)
                continue
            of_group = one or GroupNumber(0.0, None, 0, 0, None, None, None, False)
            own = {n: getattr(of_group, n) for n in _OF_GROUP}
            own |= {"notes": [*about["notes"], *of_group.notes]}
            if one is None:
                own |= {"value": None}
            each = found.each.get(metric, {}).get(group)
            if each is not None:
                own |= {"spread": float(np.std(each, ddof=1)), "each": each}
            own |= {"by": by.name, "group": names[group], "_file": FILE, "_row": case.first}
            best = names[of_group.best] if one is None else names[list(found.numbers[metric])[one.best]]
            cells.append(Number(case.base[metric] | nothing | place | about | own, of_group.verdict, best))
        first = max(
            (numbers[group] for numbers in found.numbers.values() if group in numbers),
            key=lambda one: one.n,
            default=None,
        )
        subjects = "" if first is None else f", {first.subjects} subject{'s' if first.subjects > 1 else ''}"
        lines.append((f"{names[group]}{subjects}{' (few)' if first is not None and first.few else ''}", cells))
    return Grid(title, by.name, [("", [label(metric) for metric in found.about])], lines)


_OF_GROUP: Final = ("value", "k", "n", "subjects", "low", "high", "interval", "few", "p", "test")


# -- as text and JSON


def lines(views: Sequence[TableView]) -> Iterator[str]:
    """What the console prints."""
    for view in views:
        yield ""
        yield view.title
        yield from (f"  !! {stamp}" for stamp in view.stamps)
        yield "  " + "; ".join(f"{what}: {words}" for what, words in view.about)
        for grid in view.grids:
            yield f"  {grid.title}"
            heads = ["", *(column for _, columns in grid.groups for column in columns)]
            cells = [heads, *([name, *(_cell(cell) for cell in row)] for name, row in grid.rows)]
            widths = [max(len(line[n]) for line in cells) for n in range(len(heads))]
            for line in cells:
                yield "    " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        marked = [*mark_words(view.numbers), *_of_searches(view.numbers)]
        yield from (f"  {line}" for line in marked)
        yield from (f"  note: {note}" for note in view.notes)
    yield ""
    yield (
        "per cent, k/n, false alarms and 95 % interval; `*` best group; "
        "`=` not significantly different from it, `<` significantly worse (Holm); `?` not tested; "
        f"(few) under {FEW_PROBES} probes or {FEWEST_SUBJECTS} subjects"
    )


def _cell(number: Number | None) -> str:
    if number is None:
        return "-"
    cell = cell_of(number)
    return cell.written(cell.value + cell.marks + MARKS[number.verdict])


def document(views: Sequence[TableView]) -> list[dict[str, Any]]:
    """The same as JSON has it."""
    wanted = (
        "system",
        *PLACE[1:],
        "by",
        "group",
        "metric",
        "value",
        "k",
        "n",
        "subjects",
        "low",
        "high",
        "interval",
        "few",
        "p",
        "test",
        "threshold",
        "k_false",
        "n_false",
        "spread",
        "each",
        "notes",
    )
    return [
        {
            "table": view.name.rpartition(".")[0],
            "protocol": view.about[0][1],
            "fingerprint": view.fingerprint,
            "groups": [
                {name: cell.row[name] for name in wanted}
                | {"words": note_words(cell.row), "verdict": cell.verdict, "best": cell.best}
                for grid in view.grids
                for cell in grid.cells
            ],
            "notes": view.notes,
            "stamps": view.stamps,
        }
        for view in views
    ]
