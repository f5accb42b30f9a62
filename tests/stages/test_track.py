"""The stage `track`: from stored boxes to a table of tracks, in a run as users make it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mdfpipe import RunView
from tests import runs

TRACKED = {"track": {"use": "bytetrack"}}


@pytest.fixture
def data(tmp_path: Path, clip: Path) -> Path:
    """Two videos of one person each; in the second, a frame that the detector misses."""
    made = runs.DataSet(tmp_path / "data").copies(clip, "a.mp4", "b.mp4")
    made.boxes = [row for row in made.boxes if row[:2] != ["videos/b", 5]]
    made.write(**TRACKED)
    return made.root


def tracks(folder: Path, video: str) -> list[int | None]:
    found: list[int | None] = pq.read_table(folder / f"track/videos__{video}.parquet")["track"].to_pylist()
    return found


def test_a_run_with_tracks(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    due = runs.run(data, folder, "--until", "label", "--dry-run").calm()
    assert "track: every video" in due.out
    made = runs.run(data, folder, "--until", "label", "--json").calm()
    assert (made.code, made.tally("ran")["track"]) == (0, 2)
    assert tracks(folder, "a") == [0] * runs.FRAMES
    assert tracks(folder, "b") == [0] * (runs.FRAMES - 1)
    facts = runs.facts(folder, "track", "videos/b")
    assert (facts["tracks"], facts["longest"], facts["rows"]) == (1, 11, {"tracked": 11, "no_track": 0})
    assert facts["fps"] == 10
    assert RunView(folder).table("track").column_names == ["body_id", "frame", "track"]
    status = runs.call_here("status", folder, "--json").json
    assert next(s for s in status["stages"] if s["stage"] == "track")["done"] == 2
    assert "track" in runs.call_here("inspect", folder / "track/videos__a.parquet").out
    assert "track: parts" in runs.call_here("inspect", folder).out
    assert runs.call_here("inspect", folder, "--html", tmp_path / "run.html").code == 0
    frame = ("inspect", folder, "--video", "videos/b", "--frame", "4", "--out", tmp_path / "frame.png")
    assert "#0 s1 t0" in runs.call_here(*frame).out
    assert "sound" in runs.call_here("verify", folder).out
    again = runs.run(data, folder, "--until", "label", "--set", "track.min_boxes=3", "--dry-run")
    assert [line.split(" (")[0] for line in again.out.splitlines()] == [
        f"track/videos/{name}: min_boxes 2 -> 3" for name in "ab"
    ]


def test_without_the_section_nothing_changes(data: Path, tmp_path: Path) -> None:
    runs.write_study(data / "plain.yaml")
    folder = tmp_path / "run"
    base = (data / "plain.yaml", "--data", data, "--run", folder, "--threads", "1")
    assert runs.call_here("run", *base, "--until", "label").code == 0
    assert not (folder / "track").exists()
    assert "\ntrack:" not in (folder / "pipeline.yaml").read_text()
    refused = runs.call_here("run", *base, "--from", "track")
    assert "the study has no section track; add `track: {use: bytetrack}`" in refused.line()
    before = runs.digests(folder)
    assert runs.run(data, folder, "--until", "label", "--json").tally("ran") == {
        "index": 0,
        "detect": 0,
        "track": 2,
        "label": 0,
    }
    assert runs.digests(folder) == before
    assert runs.call_here("run", *base, "--until", "label", "--json").tally("ran")["detect"] == 0
    said = runs.call_here("inspect", folder)
    assert (said.code, said.err) == (0, "")
    assert "track: parts" not in said.out


def test_workers_spans_and_batches_change_nothing(data: Path, tmp_path: Path) -> None:
    made = []
    for number, more in enumerate([(), ("--set", "detect.span_frames=4", "--batch", "3")]):
        folder = tmp_path / f"run{number}"
        assert runs.run(data, folder, "--until", "track", *more).code == 0
        made.append([(folder / f"track/videos__{name}.parquet").read_bytes() for name in "ab"])
    assert made[0] == made[1]


def test_the_verb_label_begins_with_tracks(data: Path, tmp_path: Path) -> None:
    base = (data / "study.yaml", "--data", data, "--run", tmp_path / "run", "--threads", "1")
    assert runs.call_here("detect", *base, "--json").tally("ran") == {"index": 1, "detect": 2}
    assert runs.call_here("label", *base, "--json").tally("ran")["track"] == 2


def test_a_stride_is_no_pause(data: Path, tmp_path: Path) -> None:
    more = ("--set", "detect.stride=3", "--set", "track.lost_seconds=0")
    assert runs.run(data, tmp_path / "run", "--until", "track", *more).code == 0
    assert tracks(tmp_path / "run", "a") == [0] * (runs.FRAMES // 3)


def test_tracks_made_elsewhere(data: Path, tmp_path: Path) -> None:
    boxes = [row.split(",") for row in (data / "boxes.csv").read_text().splitlines()[1:]]
    for name in "ab":
        rows = [row for row in boxes if row[0] == f"videos/{name}"]
        lines = [
            f"{int(f) + 1},7,{x1},{y1},{float(x2) - float(x1)},{float(y2) - float(y1)},1"
            for _, f, x1, y1, x2, y2, _ in rows
        ]
        (data / f"videos__{name}.txt").write_text("\n".join(lines))
    runs.write_study(data / "study.yaml", track={"use": "file", "path": "{video_id}.txt"})
    folder = tmp_path / "run"
    assert runs.run(data, folder, "--until", "track").code == 0
    assert tracks(folder, "b") == [0] * (runs.FRAMES - 1)
    assert runs.facts(folder, "track", "videos/b")["file"]["gaps"] == 1
    with (data / "videos__b.txt").open("a") as file:
        file.write("\n99,7,1,1,9,9,1")
    due = runs.run(data, folder, "--until", "track", "--dry-run")
    assert due.out.splitlines() == ["track/videos/b: tracks changed"]
    made = runs.run(data, folder, "--until", "track", "--json")
    assert made.json["warnings"] == ["track: videos/b: 1 rows are in frames after the last one"]
    (data / "videos__a.txt").unlink()
    made = runs.run(data, folder, "--until", "label", "--json")
    assert made.code == 3
    assert "videos/a: no tracks: track.path 'videos__a.txt' not found" in made.failures["track/videos/a"]
