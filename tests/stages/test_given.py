"""Bodies whose ids are known: with their boxes, or since a video is of one person; from a study to a manifest."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

import mdfpipe
from mdfpipe.stages.label import Label
from mdfpipe.store.tables import BODIES, FACES
from mdfpipe.video.labelling import first_of_frame
from tests import clips
from tests.runs import Said, call_here, digests, facts, write_rows

VISIBLE: dict[str, Any] = {"domain": {"constant": "VIS"}}
WALKS = ("anna/VIS/w", "bo/LWIR/w")
NAMED = "video_id,frame,x1,y1,x2,y2,score,subject_id"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 4)


@pytest.fixture
def data(clip: Path, tmp_path: Path) -> Path:
    """Two videos of one person each; in two frames of the first a smaller, surer box beside the person's."""
    rows: list[list[Any]] = []
    for walk in WALKS:
        (tmp_path / "data" / walk).parent.mkdir(parents=True)
        (tmp_path / "data" / f"{walk}.mp4").write_bytes(clip.read_bytes())
        rows += [[walk, frame, 20 + frame, 6, 60 + frame, 56, 0.5] for frame in range(4)]
    rows += [[WALKS[0], frame, 2, 6, 22, 36, 0.9] for frame in (1, 2)]
    write_rows(tmp_path / "data/boxes.csv", NAMED.removesuffix(",subject_id"), rows)
    return tmp_path / "data"


def run(
    data: Path, home: Path, *more: str, folders: str = "{subject}/{domain}", domain: Any = None, **settings: Any
) -> Said:
    study = {
        "name": "walks",
        "dataset": {"use": "folders", "folders": folders, "domain": domain},
        "detect": {"detector": {"use": "precomputed", "boxes": "boxes.csv"}},
        "manifest": {"protocol": "no-roles"},
        **settings,
    }
    (data / "study.yaml").write_text(yaml.safe_dump(study))
    return call_here("run", data / "study.yaml", "--data", data, "--run", home, "--threads", "1", *more).calm()


def named(home: Path) -> Counter[tuple[str, str]]:
    rows = mdfpipe.open(home).table("label").to_pylist()
    return Counter((row["subject_id"], row["status"]) for row in rows)


@pytest.mark.parametrize(("rule", "at"), [("largest", 0.5), ("surest", 0.9), ("all", None)])
def test_a_video_of_one_person_names_its_bodies(data: Path, tmp_path: Path, rule: str, at: float | None) -> None:
    said = run(data, tmp_path / "run", label={"one_person": rule})
    assert said.code == 0, said
    assert f"2 frames of 1 video of one person with several bodies (most in {WALKS[0]}: 2)" in said.err + said.out
    found = named(tmp_path / "run")
    if at is None:
        assert found == {("anna", "labelled"): 6, ("bo", "labelled"): 4}
        return
    assert found == {("anna", "labelled"): 4, ("bo", "labelled"): 4, (None, "lost_assignment"): 2}
    view = mdfpipe.open(tmp_path / "run")
    scores = dict(zip(*(view.table("detect")[name].to_pylist() for name in ("body_id", "score")), strict=True))
    chosen = [r["body_id"] for r in view.table("label").to_pylist() if r["subject_id"] == "anna" and r["frame"] == 1]
    assert [scores[body] for body in chosen] == [pytest.approx(at)]
    assert view.manifest["subject_id"].to_pylist() == ["anna"] * 4 + ["bo"] * 4
    if rule == "largest":
        run(data, tmp_path / "apart", "--separate")
        assert digests(tmp_path / "apart", *WALKS) == digests(tmp_path / "run", *WALKS)


def test_a_change_of_who_a_video_shows_makes_its_labels_due(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run")
    said = run(data, tmp_path / "run", "--json", folders="*/{subject}", **VISIBLE)
    assert said.tally("ran") == {"index": 1, "detect": 0, "label": 2, "crop": 2, "manifest": 1}
    assert named(tmp_path / "run")["LWIR", "labelled"] == 4


def test_boxes_that_name_their_people(data: Path, tmp_path: Path) -> None:
    rows = [
        [WALKS[0], 0, 20, 6, 60, 56, 1, "s7"],
        [WALKS[0], 0, 2, 6, 22, 36, 0.5, "NA"],
        [WALKS[1], 3, 1, 1, 9, 99, 1, "8"],
    ]
    write_rows(data / "boxes.csv", NAMED, rows)
    said = run(data, tmp_path / "run", folders="*", **VISIBLE)
    assert "detect: the files of boxes name 2 of 3 bodies in 2 videos" in said.out
    assert mdfpipe.open(tmp_path / "run").table("detect")["subject_id"].to_pylist() == ["s7", None, "8"]
    assert named(tmp_path / "run") == {("s7", "labelled"): 1, (None, "no_face"): 1, ("8", "labelled"): 1}
    assert facts(tmp_path / "run", "label", WALKS[0])["given"] == 1
    run(data, tmp_path / "run", "--set", "detect.detector.subjects=false", folders="*", **VISIBLE)
    assert named(tmp_path / "run") == {(None, "no_face"): 3}


def test_without_anybody_named_boxes_are_made_and_the_rest_is_one_line(data: Path, tmp_path: Path) -> None:
    said = run(data, tmp_path / "run", folders="*", **VISIBLE)
    assert mdfpipe.open(tmp_path / "run").table("detect").num_rows == 10
    assert said.code == 3
    assert "label: no body is named: no video has annotated faces, boxes with ids" in said.out
    assert "manifest: none of 2 videos gave a crop" in said.out


def sequence(data: Path, form: str) -> dict[str, Any]:
    """A folder of four frames as MOTChallenge has it, and its truth in one form; the detector's settings."""
    clips.write_images(data / "S1/img1", [clips.grey8(n) for n in range(4)], "{:06d}.png", range(1, 5))
    if form == "mot":
        (data / "S1/gt").mkdir(exist_ok=True)
        (data / "S1/gt/gt.txt").write_text("1,7,2,2,30,40,1,1,1\n3,7,2,2,30,40,1,1,1\n3,9,2,2,9,40,0,1,1\n")
        return {"use": "mot", "boxes": "{folder}/gt/gt.txt"}
    images = [{"id": n, "file_name": f"S1/img1/{n:06d}.png"} for n in range(1, 5)]
    boxes = [{"image_id": n, "category_id": 1, "bbox": [2, 2, 30, 40], "track_id": 7} for n in (1, 3)]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
    (data / "instances.json").write_text(json.dumps(document))
    return {"use": "coco", "boxes": "instances.json", "frame_base": 1}


@pytest.mark.parametrize("form", ["mot", "coco"])
def test_a_data_set_of_motchallenge_or_coco(tmp_path: Path, form: str) -> None:
    (tmp_path / "data").mkdir()
    detector = sequence(tmp_path / "data", form)
    said = run(tmp_path / "data", tmp_path / "run", folders="*", detect={"detector": detector}, **VISIBLE)
    assert said.code == 0, said
    assert named(tmp_path / "run") == {("S1__img1:7", "labelled"): 2}
    assert mdfpipe.open(tmp_path / "run").table("detect")["frame"].to_pylist() == [0, 2]
    assert ("left out of the files of boxes of 1 video: 1 not to be counted" in said.out) == (form == "mot")


def test_boxes_of_pictures_of_another_size_fail_their_video(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    detect = {"detector": sequence(tmp_path / "data", "mot")}
    (tmp_path / "data/S1/seqinfo.ini").write_text("[Sequence]\nimWidth=1920\nimHeight=1080\n")
    said = run(tmp_path / "data", tmp_path / "run", "--json", folders="*", detect=detect, **VISIBLE)
    assert said.code == 3
    assert "got 1920x1080 by their file; scale them" in said.failures["detect/S1/img1"]


def test_a_given_id_is_stronger_than_a_face() -> None:
    """Body 0 is given as a, with b's face inside; body 1 has a's face by matching; body 2 is given, off the frame."""
    boxes = np.array([[0, 0, 20, 60], [30, 0, 50, 60], [-90, 0, -70, 60]], np.float32)
    corners = {name: boxes[:, n] for n, name in enumerate(("x1", "y1", "x2", "y2"))}
    bodies = {"body_id": ["0", "1", "2"], "video_id": ["v"] * 3, "frame": [0] * 3, "pts_seconds": [0.0] * 3, **corners}
    rows = pa.table([*bodies.values(), [1.0] * 3, ["a", None, "c"]], schema=BODIES)
    of_face = {"x1": [5.0, 35.0], "y1": [2.0, 2.0], "x2": [12.0, 42.0], "y2": [10.0, 10.0]}
    faces = pa.table([["v"] * 2, [0] * 2, [0, 1], ["b", "a"], *of_face.values()], schema=FACES)
    found = Label().rows_of(rows, faces, 100, 60, None).to_pylist()
    assert [(r["subject_id"], r["status"], r["face_no"]) for r in found] == [
        ("a", "labelled", None),
        (None, "lost_assignment", 1),
        (None, "off_frame", None),
    ]


def test_the_first_of_a_frame_is_a_plain_loop() -> None:
    generator = np.random.default_rng(3)
    frame, merit = generator.integers(0, 9, 60), generator.integers(0, 3, 60).astype(float)
    may = generator.random(60) < 0.7
    expected = np.zeros(60, bool)
    for number in range(9):
        rows = [row for row in range(60) if may[row] and frame[row] == number]
        if rows:
            expected[max(rows, key=lambda row: (merit[row], -row))] = True
    assert first_of_frame(frame, merit, may).tolist() == expected.tolist()
