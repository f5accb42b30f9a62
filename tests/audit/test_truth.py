"""The measure against the truth: worked by hand, against a slow transcription, and on a drawn run."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.csv import write_csv

from mdfpipe.audit import truth
from mdfpipe.audit.truth import Counts, Share, assignment_lines, assignments, measure
from mdfpipe.errors import DataError
from mdfpipe.store.run import Receipt, Run, read_table, write_table
from mdfpipe.store.tables import BODIES, LABELS, TRUTH, VIDEOS
from tests.drawn import CAST, draw
from tests.drawn import VIDEOS as DRAWN
from tests.inline import runner

Box = tuple[float, float, float, float]
BODY: Box = (10, 10, 30, 70)


def table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows with what is not said as null, or 0."""
    columns = []
    for f in schema:
        plain = f.type.value_type if pa.types.is_dictionary(f.type) else f.type
        empty = None if f.nullable else {pa.string(): "", pa.bool_(): False}.get(plain, 0)
        values = pa.array([row.get(f.name, empty) for row in rows], plain)
        columns.append(values.dictionary_encode().cast(f.type) if plain != f.type else values)
    return pa.table(columns, schema=schema)


def xyxy(box: Box) -> dict[str, float]:
    return dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))


def body(frame: int, subject: str, box: Box, visible: float = 1.0, face: bool = True) -> dict[str, Any]:
    return {"frame": frame, "subject_id": subject, **xyxy(box), "visible": visible, "face_annotated": face}


def seen(frame: int, box: Box, score: float = 0.9, name: str | None = None) -> dict[str, Any]:
    return {"frame": frame, **xyxy(box), "score": score, "name": name}


class Made:
    """A run folder and its truth, written without running anything."""

    def __init__(self, folder: Path) -> None:
        self.run, self.data = Run(folder / "run"), folder / "data"
        self.videos: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []

    def add(
        self,
        video: str,
        detections: list[dict[str, Any]] | None,
        bodies: list[dict[str, Any]],
        *,
        domain: str = "VIS-500m",
        crowded: bool = False,
        delivered: int = 10,
        stride: int = 1,
        labelled: bool = True,
    ) -> Made:
        self.videos.append({"video_id": video, "path": video, "domain": domain, "band": domain.split("-")[0]})
        self.truth += [row | {"video_id": video, "domain": domain, "crowded": crowded} for row in bodies]
        if detections is None:
            return self
        ids = [f"{video}/{n}" for n in range(len(detections))]
        rows = [d | {"body_id": i, "video_id": video} for i, d in zip(ids, detections, strict=True)]
        size = {"width": 600, "height": 600}
        found = Receipt("detect", 1, video, {}, {}, facts={"delivered": delivered, "stride": stride, **size})
        found = self.run.commit(found, table(BODIES, rows), {})
        names = [
            {"body_id": r["body_id"], "subject_id": r["name"], "status": "labelled" if r["name"] else "no_face"}
            for r in rows
        ]
        if labelled:
            self.run.commit(Receipt("label", 1, video, {}, {"detect": found.content}), table(LABELS, names), {})
        return self

    def measure(self) -> truth.Truth:
        self.run.commit(Receipt("index", 1, "videos", {}, {}), table(VIDEOS, self.videos), {})
        (self.data / "truth").mkdir(parents=True, exist_ok=True)
        write_table(self.data / truth.TRUTH_FILE, table(TRUTH, self.truth))
        return measure(self.run, self.data)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def moved(box: Box, dx: float) -> Box:
    return (box[0] + dx, box[1], box[2] + dx, box[3])


# -- worked by hand


def test_every_kind_of_detection_once(made: Made) -> None:
    bodies = [
        body(0, "a", BODY),  # found twice: one is right, one is false
        body(0, "b", moved(BODY, 100), face=False),  # turned away: free, twice
        body(0, "c", moved(BODY, 200), visible=0.4),  # half hidden: free
        body(0, "d", moved(BODY, 300)),  # missed
        body(0, "e", moved(BODY, 400), visible=0.05),  # all but hidden: free still
        body(1, "a", BODY),  # 20 wide, moved by 10: IoU 1/3
    ]
    detections = [
        seen(0, BODY, 0.9),
        seen(0, moved(BODY, 1), 0.8),
        seen(0, moved(BODY, 100), 0.7),
        seen(0, moved(BODY, 101), 0.6),
        seen(0, moved(BODY, 200), 0.5),
        seen(0, moved(BODY, 400), 0.4),
        seen(0, moved(BODY, 500), 0.3),  # nobody
        seen(1, moved(BODY, 10), 0.9),
        seen(2, BODY, 0.9),  # nobody is in this frame
    ]
    found = made.add("v", detections, bodies).measure().rows["all"]
    assert (found.true, found.free, found.false, found.bodies) == (1, 4, 4, 3)
    assert found.detections == 9
    assert (found.precision, found.recall) == (Share(1, 5), Share(1, 3))


def test_the_better_score_takes_the_body_and_each_takes_what_it_overlaps_most(made: Made) -> None:
    bodies = [body(0, "a", BODY), body(0, "b", moved(BODY, 8), face=False)]
    both, one = moved(BODY, 3), moved(BODY, -3)  # on a and, less, on b; on a alone
    made.add("v1", [seen(0, one, 0.5), seen(0, both, 0.9)], bodies)  # takes a, and nothing is left for the other
    made.add("v2", [seen(0, one, 0.9), seen(0, both, 0.5)], bodies, domain="LWIR-30m")  # each takes one
    found = made.measure().rows
    assert (found["VIS-500m"].true, found["VIS-500m"].free, found["VIS-500m"].false) == (1, 0, 1)
    assert (found["LWIR-30m"].true, found["LWIR-30m"].free, found["LWIR-30m"].false) == (1, 1, 0)


def test_a_body_all_but_hidden_takes_no_detection_from_another(made: Made) -> None:
    bodies = [body(0, "hidden", BODY, visible=0.05), body(0, "a", moved(BODY, 3))]
    found = made.add("v", [seen(0, BODY)], bodies).measure().rows["all"]
    assert (found.true, found.free, found.false) == (1, 0, 0)


def test_a_third_detection_on_a_taken_free_body_is_free(made: Made) -> None:
    bodies = [body(0, "a", BODY, face=False)]
    found = made.add("v", [seen(0, BODY, s) for s in (0.9, 0.8, 0.7)], bodies).measure().rows["all"]
    assert (found.true, found.free, found.false) == (0, 3, 0)
    assert found.precision.value is None


def test_an_iou_of_exactly_one_half_finds(made: Made) -> None:
    on, off = seen(0, (10, 10, 30, 40)), seen(1, (10, 10, 30, 39))
    found = made.add("v", [on, off], [body(0, "a", BODY), body(1, "a", BODY)]).measure().rows["all"]
    assert (found.true, found.false) == (1, 1)


def test_names(made: Made) -> None:
    bodies = [body(0, "a", BODY), body(0, "b", moved(BODY, 12)), body(1, "a", BODY, visible=0.3)]
    detections = [
        seen(0, moved(BODY, 2), name="a"),
        seen(0, moved(BODY, 11), name="a"),  # overlaps b most
        seen(1, moved(BODY, 10), name="a"),  # IoU 1/3: enough for a name, though not for a detection
        seen(1, moved(BODY, 12), name="a"),  # IoU 1/4
        seen(1, BODY, name="nobody of the truth"),
        seen(1, BODY),
        seen(2, BODY, name="a"),
    ]
    found = made.add("v", detections, bodies).measure().rows["all"]
    assert (found.labelled, found.right, found.other, found.nobody) == (6, 2, 2, 2)
    assert found.names == Share(2, 6)


def test_only_frames_that_were_looked_at_count(made: Made) -> None:
    bodies = [body(frame, "a", BODY) for frame in range(10)]
    found = made.add("v", [seen(0, BODY), seen(3, BODY)], bodies, delivered=8, stride=3).measure().rows["all"]
    assert (found.frames, found.bodies, found.true) == (3, 3, 2)  # 0, 3, 6


def test_groups_add_up_and_what_is_left_out_is_told(made: Made) -> None:
    one, two = [seen(0, BODY, name="a")], [body(0, "a", BODY)]
    made.add("v1", one, two).add("v2", one, two, domain="LWIR-30m", crowded=True).add("v3", one, [])
    made.add("v4", None, two).add("v5", one, two, labelled=False)
    found = made.measure()
    assert list(found.rows) == ["VIS-500m", "LWIR-30m", "crowded", "uncrowded", "all"]
    assert {name: row.videos for name, row in found.rows.items()} == {
        "VIS-500m": 2,
        "LWIR-30m": 1,
        "crowded": 1,
        "uncrowded": 2,
        "all": 3,
    }
    assert found.rows["crowded"] + found.rows["uncrowded"] == found.rows["all"]
    assert found.rows["all"].names == Share(2, 2)
    assert found.left_out == {
        "v3": "bodies.parquet has no body of it",
        "v4": "detect is not done",
        "v5": "names: label is not done",
    }
    text = "\n".join(found.lines())
    assert "3/3 100.0 %" in text
    assert "not counted: v4: detect is not done" in text
    assert found.plain()["rows"]["all"]["recall"] == {"k": 3, "n": 3, "share": 1.0}


def test_labels_of_other_detections_are_not_compared(made: Made) -> None:
    made.add("v", [seen(0, BODY, name="a")], [body(0, "a", BODY)])
    made.run.commit(
        Receipt("detect", 2, "v", {}, {}, facts={"delivered": 9, "stride": 1}),
        table(BODIES, [seen(0, BODY) | {"body_id": "v/0", "video_id": "v"}] * 2),
        {},
    )
    found = made.measure()
    assert found.rows["all"].labelled == 0
    assert found.left_out == {"v": "names: label is not done for these detections"}


@pytest.mark.parametrize("labelled", [True, False])
def test_no_detection_and_no_body(made: Made, labelled: bool) -> None:
    found = made.add("v", [], [body(9, "a", BODY)], delivered=5, labelled=labelled).measure().rows["all"]
    assert found == Counts(videos=1, frames=5)


def test_what_cannot_be_measured_is_refused_with_its_reason(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a table of the true bodies, found no such file"):
        measure(made.run, tmp_path)
    made.add("v", [], [body(0, "a", BODY)]).measure()
    with pytest.raises(DataError, match="expected a run folder with an index"):
        measure(Run(tmp_path / "other"), made.data)
    write_table(made.data / truth.TRUTH_FILE, table(TRUTH, [body(0, "a", BODY) | {"video_id": "w"}]))
    with pytest.raises(DataError, match=r"expected bodies of the 1 video of .* \(such as v\), found w; name videos as"):
        measure(made.run, made.data)
    write_table(made.data / truth.TRUTH_FILE, pa.table({"video_id": ["v"]}))
    with pytest.raises(DataError, match=r"expected columns video_id, frame, subject_id, .*; rename the columns$"):
        measure(made.run, made.data)


# -- against a slow transcription


def slow_iou(a: dict[str, Any], b: dict[str, Any]) -> float:
    width = min(a["x2"], b["x2"]) - max(a["x1"], b["x1"])
    height = min(a["y2"], b["y2"]) - max(a["y1"], b["y1"])
    shared = max(width, 0) * max(height, 0)
    areas = [(c["x2"] - c["x1"]) * (c["y2"] - c["y1"]) for c in (a, b)]
    return shared / (sum(areas) - shared)


def slow(detections: list[dict[str, Any]], bodies: list[dict[str, Any]], delivered: int, stride: int) -> dict[str, int]:
    """The definition, one detection after the other."""
    bodies = [b for b in bodies if b["frame"] < delivered and b["frame"] % stride == 0]
    counting = [b["face_annotated"] and b["visible"] >= 0.5 for b in bodies]
    said: Counter[str] = Counter(bodies=sum(counting))
    taken: set[int] = set()
    for d in sorted(detections, key=lambda d: -d["score"]):
        overlaps = [slow_iou(d, b) if b["frame"] == d["frame"] else 0.0 for b in bodies]
        left = [n for n in range(len(bodies)) if n not in taken and bodies[n]["visible"] > 0.1]
        best = max(left, key=lambda n: overlaps[n], default=None)
        if best is not None and overlaps[best] >= 0.5:
            taken.add(best)
            said["true" if counting[best] else "free"] += 1
        else:
            free = any(o >= 0.5 and not counts for o, counts in zip(overlaps, counting, strict=True))
            said["free" if free else "false"] += 1
        if d["name"]:
            said["labelled"] += 1
            nearest = max(range(len(bodies)), key=lambda n: overlaps[n], default=None)
            if nearest is None or overlaps[nearest] < 0.3:
                said["nobody"] += 1
            else:
                said["right" if bodies[nearest]["subject_id"] == d["name"] else "other"] += 1
    return dict(said)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_as_the_slow_transcription(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng = np.random.default_rng(seed)
    made = Made(tmp_path_factory.mktemp("made"))
    expected: Counter[str] = Counter()
    for number in range(3):
        stride, delivered = int(rng.integers(1, 3)), int(rng.integers(1, 6))

        def box() -> Box:
            x, y = rng.integers(0, 6, 2)
            width, height = rng.integers(8, 12, 2)
            return (x, y, x + width, y + height)

        names = ["a", "b", "c", "d"]
        here = {(int(f), str(rng.choice(names))) for f in rng.integers(0, 6, rng.integers(1, 16))}
        bodies = [
            body(
                f,
                name,
                box(),
                float(rng.choice([0.0625, 0.25, 0.5, 1.0])),
                bool(rng.integers(2)),
            )
            for f, name in sorted(here)
        ]
        frames = np.arange(0, delivered, stride)
        scores = rng.permutation(30) / 30  # no two alike
        detections = [
            seen(int(f), box(), float(score), str(rng.choice(names)) if rng.integers(2) else None)
            for f, score in zip(rng.choice(frames, rng.integers(0, 16)), scores, strict=False)
        ]
        made.add(f"v{number}", detections, bodies, delivered=delivered, stride=stride)
        in_order = sorted(bodies, key=lambda b: b["frame"])  # equal overlaps: the lower row
        expected += Counter(slow(detections, in_order, delivered, stride))
    found = made.measure().rows["all"]
    names = ["true", "false", "free", "bodies", "labelled", "right", "other", "nobody"]
    assert {name: getattr(found, name) for name in names} == {name: expected[name] for name in names}


def test_names_of_a_csv_stay_text_and_gaps_are_refused(made: Made, tmp_path: Path) -> None:
    made.add("010", [seen(0, BODY, name="007")], [body(0, "007", BODY)]).measure()
    own, row = tmp_path / "people.csv", "010,0,007,10,10,30,70,true\n"
    own.write_text(f"video_id,frame,subject_id,x1,y1,x2,y2,face_annotated\n{row}")
    assert measure(made.run, made.data, own).rows["all"].names == Share(1, 1)
    own.write_text(own.read_text() + "010,0,008,,10,30,70,true\n")
    with pytest.raises(DataError, match=r"data row 2, column x1: expected a number, got ''"):
        measure(made.run, made.data, own)


PLAIN = "video_id,frame,subject_id,x1,y1,x2,y2\na/v,0,ann,10.0,10.0,30.0,70.0\na/v,1,ann,10.0,10.0,30.0,70.0\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text, ""),
        (lambda text: "\ufeff" + text.replace(",", ";").replace(".", ",").replace("\n", "\r\n"), ""),
        (lambda text: text.replace(",", "\t").upper().replace("A/V", "a/v.mp4").replace("ANN", "ann"), ""),
        (lambda text: text.replace("a/v", "./a\\v"), ""),
        (lambda text: text + "a/w,0,ann,10,10,30,70\n", "1 video of own.csv: not in the run: a/w"),
        (lambda text: text + "a/v,9,bob,10,10,30,70\n", "a/v, frames: 1 true body in frames after its last"),
        (lambda text: text.replace("\n", ",visible\n", 1).replace("70.0", "70.0,1"), ""),
        (
            lambda text: text.replace("\n", ",visible\n", 1).replace("70.0", "70.0,7"),
            "visible: expected a share of 0..1",
        ),
        (lambda text: text + text.splitlines()[1] + "\n", "expected one box a person and frame, got two of 'ann'"),
        (lambda text: text.replace("30.0", "5"), "column x2: expected more than x1, .* write x2 and y2 as edges"),
        (lambda text: text.replace("30.0", "inf"), "column x2: expected a number"),
        (lambda text: text.replace("v,0", "v,-1"), "column frame: expected 0 or more"),
        (lambda text: text.replace("v,0", "v,0.5"), "column frame: expected a whole number"),
        (lambda text: text.replace("ann", "NA"), "data row 1, column subject_id: expected a person, got none"),
        (
            lambda text: text.replace("10.0", ".1").replace("30.0", ".3").replace("70.0", ".7"),
            "all 2 boxes lie within 0..1",
        ),
        (lambda text: text[:38], r"expected bodies of the 1 video .* found no row"),
        (lambda text: "", "own.csv: "),
    ],
)
def test_a_table_of_people_as_it_comes(change: Any, words: str, made: Made, tmp_path: Path) -> None:
    """As face tables and files of boxes are read: one is measured alike in each form, what is wrong is one line."""
    made.add("a/v", [seen(0, BODY), seen(1, BODY)], [body(0, "ann", BODY), body(1, "ann", BODY)], delivered=5).measure()
    own, told = tmp_path / "own.csv", ""
    own.write_text(change(PLAIN), encoding="utf-8")
    try:
        found = measure(made.run, made.data, own)
        assert found.rows["all"].free == 2
        told = "\n".join(found.lines()[5:])
    except DataError as error:
        told = str(error)
    assert bool(told) == bool(words)
    assert re.search(words, told), told


# -- on a drawn run


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set with its truth; of every body a second, wider box is detected. The (b) videos are crowded."""
    data = tmp_path_factory.mktemp("drawn") / "data"
    draw(data, frames=8)
    with (data / "faces.csv").open() as file:
        faces = {(r["SUBJECT_ID"], r["FILENAME"].rpartition(".")[0], int(r["FRAME_NUM"])) for r in csv.DictReader(file)}
    with (data / "boxes.csv").open() as file:
        boxes = list(csv.DictReader(file))
    with (data / "boxes.csv").open("a") as file:
        for b in boxes:
            file.write(
                f"{b['video_id']},{b['frame']},{float(b['x1']) - 2},{b['y1']},{float(b['x2']) + 2},{b['y2']},0.5\n"
            )
    rows = []
    for name, domain, cast in DRAWN:
        for frame in range(8):
            for person in (p for p in CAST if p.subject_id in cast):
                video = f"videos/{name}"
                row = body(frame, person.subject_id, person.box(frame), 1.0, (person.subject_id, video, frame) in faces)
                rows.append(row | {"video_id": video, "domain": domain, "crowded": name.endswith("b")})
    (data / "truth").mkdir()
    write_table(data / truth.TRUTH_FILE, table(TRUTH, rows))
    return data


def test_names_along_tracks_are_counted_apart(drawn: Path, tmp_path: Path) -> None:
    data, run = shutil.copytree(drawn, tmp_path / "data"), Run(tmp_path / "run")
    lines = (data / "faces.csv").read_text().splitlines(keepends=True)
    place = lines[0].split(",").index("FRAME_NUM")
    (data / "faces.csv").write_text("".join([lines[0], *(n for n in lines[1:] if int(n.split(",")[place]) < 4)]))
    tracks = ("track={use: bytetrack}", "label.tracks=carry", "label.assignment=mutual_best", "label.most_overlap=1")
    make, _ = runner(data, run.path, *tracks)
    assert make.execute(last="label").complete
    found = measure(run, data)
    labels = [run.table("label", f"videos/{name}").to_pylist() for name, _, _ in DRAWN]
    by_track = sum(row["status"] == "labelled_by_track" for rows in labels for row in rows)
    assert found.rows["all"].carried == by_track > 0
    assert "by track right" in found.lines()[0]
    assert f"+{100 * by_track / found.rows['all'].labelled:.1f} %" in found.lines()[-1]
    rows = {(r.assignment, r.tracks): r for r in assignments(run, data) if r.scenes == "all"}
    assert rows["mutual_best", True].names.n == rows["mutual_best", False].names.n + by_track
    assert rows["mutual_best", True].shared == 0 < rows["per_detection", False].shared


def test_a_table_of_ones_own_is_a_truth(drawn: Path, tmp_path: Path) -> None:
    make, _ = runner(drawn, tmp_path / "run")
    assert make.execute(last="label").complete
    known = read_table(drawn / truth.TRUTH_FILE).drop_columns(["visible", "face_annotated", "crowded", "domain"])
    write_csv(known, tmp_path / "people.csv")
    found = measure(Run(tmp_path / "run"), drawn, tmp_path / "people.csv")
    usual = measure(Run(tmp_path / "run"), drawn)
    assert found.rows["all"] == usual.rows["all"]
    assert found.rows["crowded"] == Counts()
    write_csv(known.drop_columns(["x1"]), tmp_path / "without.csv")
    with pytest.raises(DataError, match=r"expected columns video_id, frame, .* x1 is missing .*; rename the columns$"):
        measure(Run(tmp_path / "run"), drawn, tmp_path / "without.csv")


def test_a_drawn_run_is_right(drawn: Path, tmp_path: Path) -> None:
    make, _ = runner(drawn, tmp_path)
    assert make.execute().complete
    found = measure(Run(tmp_path), drawn)
    everything = found.rows["all"]
    assert everything.recall.value == 1.0
    assert everything.precision.value == 0.5  # the second box of every body
    assert everything.other == everything.nobody == 0
    assert everything.labelled == 2 * everything.bodies
    assert everything.free == 2 * 2 * 8  # s05 never shows a face
    assert found.left_out == {}


@pytest.mark.parametrize("assignment", truth.ASSIGNMENTS)
def test_assignments_say_what_the_run_would_label(drawn: Path, tmp_path: Path, assignment: str) -> None:
    make, _ = runner(drawn, tmp_path, f"label.assignment={assignment}", "label.min_overlap=0.9")
    assert make.execute(last="label").complete
    rows = assignments(Run(tmp_path), drawn)
    assert [(r.scenes, r.assignment) for r in rows] == [(s, a) for s in ("all", "crowded") for a in truth.ASSIGNMENTS]
    by = {(r.scenes, r.assignment): r for r in rows}
    measured = measure(Run(tmp_path), drawn).rows
    assert by["all", assignment].names == measured["all"].names
    assert by["crowded", assignment].names == measured["crowded"].names
    for scenes in ("all", "crowded"):
        labelled = by[scenes, "per_detection"].names.n
        assert by[scenes, "per_detection"].loses == 0
        for other in ("mutual_best", "hungarian"):  # half the boxes are second ones
            assert (by[scenes, other].names.n, by[scenes, other].loses) == (labelled // 2, labelled // 2)
            assert by[scenes, other].wrong == Share(0, labelled // 2)
    assert "hungarian" in "\n".join(assignment_lines(rows))
    assert rows[1].plain()["loses"] == rows[1].loses
