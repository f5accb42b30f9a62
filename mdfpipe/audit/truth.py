"""Truth: how right the bodies and names of a run are, on data where the place of every person is known.

`DATA/truth/bodies.parquet` of `mdfpipe synth`, or another table of people, holds the places. No stage reads it.

A body *counts* if its face is annotated and at least half of it is visible: only such a body can get a name. Every
other body is *free*: a detection on it is neither right nor wrong. Only frames that `detect` used are measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.domains import by_wavelength
from mdfpipe.errors import DataError, counted, one_line, some
from mdfpipe.running.survey import faces_of
from mdfpipe.stages import Context, Inputs, Resources
from mdfpipe.stages.index import Index
from mdfpipe.store.run import Receipt, Run
from mdfpipe.store.tables import CORNERS, NAMED, TRUTH, LabelStatus, boxes_of, joined
from mdfpipe.study.study import Study
from mdfpipe.video.box_files import BoxTable
from mdfpipe.video.detectors.precomputed import COLUMNS, box_table, read_columns
from mdfpipe.video.geometry import iou
from mdfpipe.video.labelling import LabelRules
from mdfpipe.video.placement import place as placed

TRUTH_FILE: Final = "truth/bodies.parquet"
ASSIGNMENTS: Final[tuple[str, ...]] = get_args(LabelRules.model_fields["assignment"].annotation)

SCENES: Final = ("crowded", "uncrowded", "all")
_NEEDED: Final = ("video_id", "frame", "subject_id", *CORNERS)
_MORE: Final = ("visible", "crowded", "face_annotated")  # a table of the user's need not have them
_YES: Final = frozenset({"true", "1", "1.0", "yes"})
_NO: Final = frozenset({"false", "0", "0.0", "no"})
FOUND: Final = 0.5  # least IoU of a detection with the body that it finds
NAMED_BY_IOU: Final = 0.3  # least IoU of a labelled box with the body whose name it has: less than FOUND, as boxes err
COUNTS: Final = 0.5  # least visible share of a body that counts
SEEN: Final = 0.1  # a body with a smaller visible share cannot be found

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Share:
    """k of n."""

    k: int
    n: int

    @property
    def value(self) -> float | None:
        """k / n; None if n is 0."""
        return self.k / self.n if self.n else None

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"k": self.k, "n": self.n, "share": self.value}

    def __str__(self) -> str:
        return f"{self.k}/{self.n}" + (f" {100 * self.k / self.n:5.1f} %" if self.n else "")


@dataclass(frozen=True)
class Counts:
    """Counts of some videos; they add up.

    true, false, free: detections on a body that counts, on no body (or on a body that a better detection has), and on
    a free one. bodies: bodies that count. labelled, right, other, nobody: bodies that a face or a given id named,
    and of these, those that are that subject, another subject, or no subject. carried, carried_right: bodies that
    tracks named, and those that are that subject.
    """

    videos: int = 0
    frames: int = 0
    true: int = 0
    false: int = 0
    free: int = 0
    bodies: int = 0
    labelled: int = 0
    right: int = 0
    other: int = 0
    nobody: int = 0
    carried: int = 0
    carried_right: int = 0

    def __add__(self, more: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(more, f.name) for f in fields(self)))

    @property
    def detections(self) -> int:
        """All detections."""
        return self.true + self.false + self.free

    @property
    def precision(self) -> Share:
        """Share of correct detections, without those on free bodies."""
        return Share(self.true, self.true + self.false)

    @property
    def recall(self) -> Share:
        """Share of detected bodies among those that count."""
        return Share(self.true, self.bodies)

    @property
    def names(self) -> Share:
        """Share of labelled bodies with the right subject."""
        return Share(self.right, self.labelled)

    @property
    def by_track(self) -> Share:
        """Share of bodies named by their track with the right subject."""
        return Share(self.carried_right, self.carried)

    @property
    def more(self) -> str:
        """How many bodies tracks name for 100 that faces name."""
        return f"+{100 * self.carried / self.labelled:.1f} %" if self.labelled else "-"

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        shares = {name: getattr(self, name).plain() for name in ("precision", "recall", "names", "by_track")}
        return asdict(self) | {"detections": self.detections} | shares


@dataclass(frozen=True)
class Truth:
    """How right a run is.

    rows: by domain, then "crowded" and "uncrowded" scenes, then "all". left_out: video_id -> why it, or its names, are
    not counted.
    """

    rows: dict[str, Counts]
    left_out: dict[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"rows": {name: row.plain() for name, row in self.rows.items()}, "left_out": self.left_out}

    def lines(self) -> list[str]:
        """The same as a table of text."""
        cells: list[tuple[Any, ...]] = [("", "videos", "detections", "precision", "recall", "labelled right")]
        cells += [(name, c.videos, c.detections, c.precision, c.recall, c.names) for name, c in self.rows.items()]
        if any(c.carried for c in self.rows.values()):
            more = [("by track right", "more names"), *((c.by_track, c.more) for c in self.rows.values())]
            cells = [(*row, *added) for row, added in zip(cells, more, strict=True)]
        return _aligned(cells) + [f"not counted: {video}: {why}" for video, why in self.left_out.items()]


@dataclass(frozen=True)
class Assignment:
    """What one way to assign faces would label under the run's other settings.

    scenes: "all" or "crowded". names: named bodies with the right subject. loses: how many fewer bodies are named than
    by per_detection. shared: named bodies that share their name with another body of their frame. tracks: whether names
    are carried along tracks.
    """

    assignment: str
    scenes: str
    names: Share
    loses: int
    shared: int = 0
    tracks: bool = False

    @property
    def wrong(self) -> Share:
        """Share of named bodies with the wrong subject."""
        return Share(self.names.n - self.names.k, self.names.n)

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        rest = {"labelled": self.names.n, "wrong": self.wrong.plain(), "loses": self.loses}
        rest |= {"shared": self.shared, "tracks": self.tracks}
        return {"assignment": self.assignment, "scenes": self.scenes} | rest


def assignment_lines(rows: Iterable[Assignment]) -> list[str]:
    """The rows of `assignments` as a table of text."""
    cells: list[tuple[Any, ...]] = [("scenes", "assignment", "tracks", "named", "wrong", "twice in a frame", "loses")]
    cells += [
        (r.scenes, r.assignment, "carry" if r.tracks else "none", r.names.n, r.wrong, r.shared, r.loses) for r in rows
    ]
    return _aligned(cells)


def measure(run: Run, data: Path, truth: Path | None = None) -> Truth:
    """How right the detections and labels of `run` are, by the truth under the data root `data` or in the file `truth`.

    Raises DataError without truth, or without any of the run's videos in it; StoreError if a part cannot be read.
    """
    rows: dict[str, Counts] = {}
    scenes = dict.fromkeys(SCENES, Counts())
    left_out: dict[str, str] = {}
    for video in _videos(run, data, truth or data / TRUTH_FILE, left_out):
        found = _judge_detections(video)
        labels = _labels(run, video, left_out)
        if labels is not None:
            found += _judge_labels(video, labels)
        rows[video.domain] = rows.get(video.domain, Counts()) + found
        for name in ("crowded" if video.crowded else "uncrowded", "all"):
            scenes[name] += found
    return Truth({name: rows[name] for name in sorted(rows, key=by_wavelength)} | scenes, left_out)


def assignments(run: Run, data: Path, truth: Path | None = None) -> list[Assignment]:
    """What each of ASSIGNMENTS would label, in all scenes and in the crowded ones; in a run with tracks, also with
    names carried along them.

    Labels are made again in memory, under the settings in the run's `pipeline.yaml`. Nothing is written. Raises as
    `measure`, and ConfigError where the settings cannot be read.
    """
    study = Study.kept(run.path)
    checks = {"check_alignment": False, "short": "keep"}  # what is checked of the data, is checked by the run
    ways = {
        (name, carry): study.label.model_copy(update={"assignment": name, "tracks": carry, **checks})
        for carry in (["none"] if study.track is None else ["none", "carry"])
        for name in ASSIGNMENTS
    }
    index = run.receipt("index", Index.table)
    annotated = {name: digest for name, (_, digest) in index.files.items()} if index else {}
    context = Context(data, Resources(), Path)
    counts = {(scenes, *way): Counts() for scenes in ("all", "crowded") for way in ways}
    shared = dict.fromkeys(counts, 0)
    catalogue = {row["video_id"]: row for row in run.table("index", Index.table).to_pylist()}
    for video in _videos(run, data, truth or data / TRUTH_FILE, {}):
        inputs = Inputs(run, video=catalogue[video.video_id], annotated=annotated)
        for name, way in ways.items():
            if way.carries and not inputs.is_done("track", video.video_id):
                continue
            made = way.process(video.video_id, inputs, context)
            found = _judge_labels(video, made.table)
            for scenes in ("all", "crowded") if video.crowded else ("all",):
                counts[scenes, *name] += found
                shared[scenes, *name] += made.facts.get("shared_names", {}).get("bodies", 0)
    rows = []
    for (scenes, assignment, carry), c in counts.items():
        each = counts[scenes, "per_detection", carry]
        names = Share(c.right + c.carried_right, c.labelled + c.carried)
        loses, twice = each.labelled + each.carried - names.n, shared[scenes, assignment, carry]
        rows.append(Assignment(assignment, scenes, names, loses, twice, carry == "carry"))
    return rows


# -- one video


@dataclass(frozen=True, eq=False)
class _Video:
    """The n detections of one video and the m true bodies of the `frames` frames that `detect` used.

    detect: content of its part. pair: (n, K) true bodies in the detection's frame, padded with m; overlap: (n, K) their
    IoU with it, 0 for padding. matchable, counts: (m + 1,) of the true bodies, and False. subject: (m + 1,) position in
    `names`; -1 for the padding.
    """

    video_id: str
    domain: str
    crowded: bool
    frames: int
    detect: str
    body_id: pa.ChunkedArray
    frame: I64
    score: F32
    pair: I64
    overlap: F32
    matchable: Mask
    counts: Mask
    subject: I64
    names: pa.Array


def _videos(run: Run, data: Path, place: Path, left_out: dict[str, str]) -> Iterator[_Video]:
    """The videos of the run that have detections and a truth, in the order of the index; the others in `left_out`.

    Raises DataError where the data have no truth, none of any video of the run, or one that cannot be of its pictures.
    """
    truth, boxes = _read_truth(place)
    none = f"{run.path}: expected a run folder with an index, found none; run `mdfpipe detect` first"
    run.needed("index", Index.table, none)
    names = pc.unique(truth["subject_id"])
    starts, sizes = _slices(truth["video_id"])
    catalogue = run.table("index", Index.table, ["video_id", "domain"]).to_pylist()
    written = {row["video_id"]: boxes.named(row["video_id"], data) for row in catalogue}
    known = {text for texts in written.values() for text in texts}
    if not known & starts.keys():
        has = some([one_line(text, 60) for text in starts], 3) or "no row"
        such = one_line(catalogue[0]["video_id"], 60) if catalogue else "none"
        raise DataError(
            f"{place}: expected bodies of the {counted(len(catalogue), 'video')} of {run.path} (such as {such}), found "
            f"{has}; name videos as the run does, or give the data root that it was made from"
        )
    if others := [one_line(text, 60) for text in starts if text not in known]:
        left_out[f"{counted(len(others), 'video')} of {place.name}"] = f"not in the run: {some(others, 3)}"
    for row in catalogue:
        key = row["video_id"]
        receipt = run.receipt("detect", key)
        if receipt is None or not {"delivered", "stride"} <= receipt.facts.keys():
            left_out[key] = "detect is not done"
        elif not written[key]:
            left_out[key] = f"{place.name} has no body of it"
        else:
            own = pa.concat_tables([truth.slice(starts[text], sizes[text]) for text in written[key]])
            own = own.take(pc.sort_indices(own, [("frame", "ascending")])) if len(written[key]) > 1 else own
            _refuse_placement(own, receipt, place, key)
            if late := int(pc.sum(pc.greater_equal(own["frame"], receipt.facts["delivered"])).as_py() or 0):
                left_out[f"{key}, frames"] = (
                    f"{counted(late, 'true body')} in frames after its last; frames of {place.name} count from 0"
                )
            bodies = _with_faces(own, run, key)
            detections = run.table("detect", key, ["body_id", "frame", "x1", "y1", "x2", "y2", "score"])
            yield _join(row, receipt, detections, bodies, names)


def _read_truth(place: Path) -> tuple[pa.Table, BoxTable]:
    """The truth as rows of TRUTH, by video (as the file writes it) and frame, and the same as a file of boxes.

    A table without `visible`, `crowded` and `face_annotated` has people who are wholly visible, in scenes that are no
    crowds, and `face_annotated` is null. Raises DataError that names row and column.
    """
    if not place.is_file():
        raise DataError(
            f"{place}: expected a table of the true bodies, found no such file; give as data root a folder that "
            "`mdfpipe synth` wrote, or a table of your own with --truth"
        )
    wanted = {name: COLUMNS[name] for name in _NEEDED} | {name: (name,) for name in _MORE}
    columns = read_columns(place, wanted, _MORE)
    boxes = replace(box_table(place, columns, CORNERS), unread="", resized="write x2 and y2 as edges")
    boxes.check()
    spans, names = boxes.spans or {}, boxes.subject_id
    named = np.ones(0, np.bool_) if not len(boxes.order) else np.array([] if names is None else names, np.bool_)
    if not named.all() or len(named) < len(boxes.order):
        row = int(boxes.order[int(np.argmin(named))]) + 1 if len(named) else 1
        raise DataError(f"{place}: data row {row}, column subject_id: expected a person, got none; correct the file")
    more = {name: _cells(place, columns, name)[boxes.order] for name in _MORE if name in columns.column_names}
    video = np.repeat(np.array([*spans], np.object_), [b - a for a, b in spans.values()])
    order = np.lexsort((np.arange(len(video)), boxes.numbers["frame"]))
    order = order[np.argsort(video[order].astype(str), kind="stable")]
    found: dict[str, Any] = {"video_id": video, "domain": np.full(len(video), "", np.object_), "subject_id": names}
    found |= {**boxes.numbers, "visible": np.ones(len(video)), "crowded": np.zeros(len(video), np.bool_)} | more
    arrays = []
    for column in TRUTH:
        values = found.get(column.name)
        if values is None or not len(video):
            arrays.append(pa.nulls(len(video), column.type))
        else:
            arrays.append(pa.array(values[order]).cast(column.type))
    return pa.table(arrays, names=TRUTH.names), boxes


def _cells(place: Path, columns: pa.Table, name: str) -> NDArray[Any]:
    """A column that need not be there, in the order of the file: shares, or yes and no. Raises DataError."""
    texts = [str(value).strip().lower() for value in columns[name].to_pylist()]
    if name == "visible":
        values = np.array([_share_of(text) for text in texts])
        bad = ~((values >= 0) & (values <= 1))
    else:
        values = np.array([text in _YES for text in texts], np.bool_)
        bad = np.array([text not in _YES | _NO for text in texts], np.bool_)
    if bad.any():
        row, wanted = int(np.argmax(bad)), "a share of 0..1" if name == "visible" else "true or false"
        got = one_line(repr(texts[row]), 40)
        raise DataError(f"{place}: data row {row + 1}, column {name}: expected {wanted}, got {got}; correct the file")
    return values


def _share_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _refuse_placement(bodies: pa.Table, receipt: Receipt, place: Path, key: str) -> None:
    """Raise DataError where the bodies cannot be of the pictures of their video: relative, or of another size."""
    width, height = receipt.facts.get("width"), receipt.facts.get("height")
    if width and height and (wrong := placed(boxes_of(bodies), width, height).wrong):
        raise DataError(f"{place}: bodies of {one_line(key, 80)}: {wrong}; correct the file")


def _with_faces(bodies: pa.Table, run: Run, key: str) -> pa.Table:
    """True bodies of a video; where the truth lacks `face_annotated`, it is from the annotated faces of the run."""
    if not bodies["face_annotated"].null_count:
        return bodies
    faces = faces_of(run, key)
    there = set(zip(faces["frame"].to_pylist(), faces["subject_id"].to_pylist(), strict=True))
    rows = zip(bodies["frame"].to_pylist(), bodies["subject_id"].to_pylist(), strict=True)
    annotated = pa.array([row in there for row in rows], pa.bool_())
    return bodies.set_column(TRUTH.get_field_index("face_annotated"), "face_annotated", annotated)


def _slices(video_id: pa.ChunkedArray) -> tuple[dict[str, int], dict[str, int]]:
    """First row, and number of rows, of each video; rows are sorted by video."""
    keys, starts, sizes = np.unique(video_id.to_numpy(), return_index=True, return_counts=True)
    return dict(zip(keys, starts.tolist(), strict=True)), dict(zip(keys, sizes.tolist(), strict=True))


def _join(row: dict[str, str], receipt: Receipt, detections: pa.Table, bodies: pa.Table, names: pa.Array) -> _Video:
    """Detections and the true bodies of their frames. row: of the catalogue; receipt: of `detect`."""
    delivered, stride = receipt.facts["delivered"], receipt.facts["stride"]
    crowded = bool(pc.any(bodies["crowded"]).as_py())
    at = bodies["frame"].to_numpy()
    looked_at = (at < delivered) & (at % stride == 0)
    bodies, at = bodies.filter(pa.array(looked_at)), at[looked_at]
    frame = detections["frame"].to_numpy()
    first = np.searchsorted(at, frame, "left")
    count = np.searchsorted(at, frame, "right") - first
    nth = np.arange(max(count.max(initial=0), 1))
    pair = np.where(nth < count[:, None], first[:, None] + nth, len(at))
    truth = np.concatenate([boxes_of(bodies), np.zeros((1, 4), np.float32)])  # without area: it overlaps nothing
    visible = np.append(bodies["visible"].to_numpy(), np.float32(0))
    annotated = np.append(bodies["face_annotated"].to_numpy(zero_copy_only=False), False)
    return _Video(
        video_id=row["video_id"],
        domain=row["domain"],
        crowded=crowded,
        frames=-(-delivered // stride),
        detect=receipt.content,
        body_id=detections["body_id"],
        frame=frame,
        score=detections["score"].to_numpy(),
        pair=pair,
        overlap=iou(boxes_of(detections)[:, None], truth[pair]).astype(np.float32),
        matchable=visible > SEEN,
        counts=annotated & (visible >= COUNTS),
        subject=np.append(_codes(bodies["subject_id"], names), -1),
        names=names,
    )


def _codes(subjects: pa.ChunkedArray, names: pa.Array) -> I64:
    """Position of each subject in `names`; -2 where it is not there (-1 is the padding's)."""
    found: I64 = pc.index_in(subjects, value_set=names).fill_null(-2).to_numpy().astype(np.int64)
    return found


def _judge_detections(video: _Video) -> Counts:
    """Match detections and bodies one to one: the best score first, each takes the body that it overlaps most."""
    free = ~video.counts  # the padding is no body, but overlaps nothing
    match = np.full(len(video.frame), len(free) - 1)
    taken = ~video.matchable
    for rows in _rounds(video.frame, video.score):  # frames do not compete: the n-th of every frame at once
        overlap = np.where(taken[video.pair[rows]], 0, video.overlap[rows])
        best = overlap.argmax(axis=1)[:, None]
        hit = np.take_along_axis(overlap, best, axis=1)[:, 0] >= FOUND
        match[rows[hit]] = np.take_along_axis(video.pair[rows], best, axis=1)[hit, 0]
        taken[match[rows[hit]]] = True
    on_free = ((video.overlap >= FOUND) & free[video.pair]).any(axis=1)
    true = video.counts[match]
    others = int((~true & on_free).sum())  # also those whose free body was taken by a better detection
    return Counts(
        videos=1,
        frames=video.frames,
        true=int(true.sum()),
        false=len(match) - int(true.sum()) - others,
        free=others,
        bodies=int(video.counts.sum()),
    )


def _rounds(frame: I64, score: F32) -> Iterator[I64]:
    """Rows of the best detection of every frame, then of the second of every frame, ...; ties: the lower row."""
    order = np.lexsort((np.arange(len(frame)), -score, frame))
    starts = np.flatnonzero(np.diff(frame[order], prepend=-1))
    rank = np.arange(len(frame)) - np.repeat(starts, np.diff(starts, append=len(frame)))
    for nth in range(int(rank.max(initial=-1)) + 1):
        yield order[rank == nth]


def _labels(run: Run, video: _Video, left_out: dict[str, str]) -> pa.Table | None:
    """The labels of a video; None, said in `left_out`, where there are none of these detections."""
    receipt = run.receipt("label", video.video_id)
    if receipt is None or receipt.upstream.get("detect") != video.detect:
        left_out[video.video_id] = "names: label is not done" + (" for these detections" if receipt else "")
        return None
    labels = run.table("label", video.video_id, ["body_id", "subject_id", "status"])
    return joined(labels, video.body_id, "body_id", run.part("label", video.video_id), "detect")


def _judge_labels(video: _Video, labels: pa.Table) -> Counts:
    """Compare the name of every named body with that of the true body that it overlaps most."""
    status = labels["status"].cast(pa.string())
    rows = np.flatnonzero(pc.is_in(status, pa.array(NAMED, pa.string())).to_numpy())
    by_track = pc.equal(status, LabelStatus.LABELLED_BY_TRACK).to_numpy()[rows]
    best = video.overlap[rows].argmax(axis=1)
    on = video.overlap[rows, best] >= NAMED_BY_IOU
    same = _codes(labels["subject_id"].take(pa.array(rows)), video.names) == video.subject[video.pair[rows, best]]
    return Counts(
        labelled=int((~by_track).sum()),
        right=int((on & same & ~by_track).sum()),
        other=int((on & ~same & ~by_track).sum()),
        nobody=int((~on & ~by_track).sum()),
        carried=int(by_track.sum()),
        carried_right=int((on & same & by_track).sum()),
    )


def _aligned(cells: Sequence[tuple[Any, ...]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    wide = [max(len(str(cell)) for cell in column) for column in zip(*cells, strict=True)]
    signs = ["<", *">" * (len(wide) - 1)]
    return [
        "  ".join(f"{c!s:{sign}{w}}" for c, sign, w in zip(row, signs, wide, strict=True)).rstrip() for row in cells
    ]
