"""label along tracks: a run in which people turn away, from their tracks to the crops of the manifest."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.running.runner import Outcome
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.drawn import draw
from tests.inline import DEMO, runner

TRACKS = ("track={use: bytetrack}", "label.tracks=carry", "label.assignment=mutual_best")
VIDEO = "videos/VIS-500m_a"  # s01 and s02, who cross
DOUBLED = "videos/VIS-500m_b"  # s03, s04 and s05, whose face is never annotated: two boxes each
LAST = 8  # frames with a face


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people who show their faces in the first frames only."""
    folder = tmp_path_factory.mktemp("away")
    draw(folder, frames=24)
    with (folder / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "faces.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if int(row["FRAME_NUM"]) < LAST)
    with (folder / "boxes.csv").open(newline="") as file:
        boxes = [row for row in csv.DictReader(file) if row["video_id"] == DOUBLED and int(row["frame"]) < LAST]
    with (folder / "boxes.csv").open("a", newline="") as file:
        wider = ({**row, "x1": float(row["x1"]) - 2, "score": 0.5} for row in boxes)
        csv.DictWriter(file, boxes[0].keys(), lineterminator="\n").writerows(wider)
    return folder


def made(data: Path, run: Path, *settings: str, last: str | None = None) -> tuple[Run, Outcome]:
    make, _ = runner(data, run, *settings)
    outcome = make.execute(last=last)
    assert outcome.complete, outcome.failures
    return Run(run), outcome


def test_tracks_name_those_who_turn_away_and_the_manifest_may_leave_them_out(data: Path, tmp_path: Path) -> None:
    run, outcome = made(data, tmp_path, *TRACKS)
    labels = run.table("label", VIDEO).to_pylist()
    by_status = Counter(row["status"] for row in labels)
    assert by_status["labelled"] == 2 * LAST
    assert by_status["labelled_by_track"] > LAST
    for row in labels:
        named = row["status"] in ("labelled", "labelled_by_track")
        assert (row["subject_id"] is not None) == named
        assert (row["face_distance"] is not None) == named
        if row["status"] == "labelled_by_track":
            assert row["face_distance"] == row["frame"] - LAST + 1
    names = Counter((row["frame"], row["subject_id"]) for row in labels if row["subject_id"])
    assert set(names.values()) == {1}
    assert any("named by a face of their frame" in note and "more)" in note for note in outcome.notes)
    rows = [row for row in run.table("manifest", "manifest").to_pylist() if row["modality"] == "body"]
    by = {row["crop_id"]: row["named_by"] for row in rows}
    assert {by[row["body_id"]] for row in labels if row["status"] == "labelled"} == {"face"}
    assert {by[row["body_id"]] for row in labels if row["status"] == "labelled_by_track"} == {"track"}
    track_of = {row["body_id"]: row["track"] for row in labels}
    assert all(row["track"] == track_of[row["crop_id"]] for row in rows if row["video_id"] == VIDEO)
    assert any("rows are named by their track" in note for note in outcome.notes)

    # and kept out of the probes, where the study says so
    run, outcome = made(data, tmp_path, *TRACKS, "manifest.track_labels.probe=false")
    rows = run.table("manifest", "manifest").to_pylist()
    assert {row["role"] for row in rows if row["named_by"] == "track"} == {"none", "gallery"}
    assert sum(row["split"] == "unused" for row in rows) > 0
    assert any("manifest.track_labels leaves out" in note and "of probe" in note for note in outcome.notes)


def test_no_name_is_carried_beyond_a_frame_in_which_bodies_meet(data: Path, tmp_path: Path) -> None:
    carried = {}
    for most in (0.1, 1):
        run, _ = made(data, tmp_path, *TRACKS, f"label.most_overlap={most}", last="label")
        labels = [row for row in run.table("label", DOUBLED).to_pylist() if row["frame"] >= LAST]
        carried[most] = {row["body_id"] for row in labels if row["status"] == "labelled_by_track"}
        conflicts = {row["body_id"] for row in labels if row["status"] == "track_conflict"}
        assert bool(conflicts) == (most < 1)
    assert carried[0.1] < carried[1]


def test_without_tracks_as_faces_alone_name(data: Path, tmp_path: Path) -> None:
    run, outcome = made(data, tmp_path, "label.assignment=mutual_best", last="label")
    labels: list[dict[str, Any]] = run.table("label", VIDEO).to_pylist()
    assert {row["status"] for row in labels} <= {"labelled", "no_face", "lost_assignment"}
    assert {row["track"] for row in labels} == {None}
    assert not any("share their name" in warning for warning in outcome.warnings)


def test_a_name_twice_in_a_frame_is_counted_and_said(data: Path, tmp_path: Path) -> None:
    run, outcome = made(data, tmp_path, "label.assignment=per_detection", last="label")
    receipt = run.receipt("label", DOUBLED)
    assert receipt is not None
    assert receipt.facts["shared_names"] == {"bodies": 4 * LAST, "frames": LAST}
    said = [warning for warning in outcome.warnings if "share their name" in warning]
    assert len(said) == 1
    assert "label.assignment=mutual_best" in said[0]


def test_tracks_are_needed(data: Path) -> None:
    with pytest.raises(ConfigError, match="expected the section track, found none"):
        Study.load(DEMO, ["label.tracks=carry"])
