"""`mdfpipe faces`: faces that a detector finds, their table, its mending, and the numbers that rest on it."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import mdfpipe
from mdfpipe.datasets.ijb import Ijb
from mdfpipe.store.run import Run
from mdfpipe.video.decoders.auto import Auto
from tests import clips
from tests.real import ASSETS, needs_assets
from tests.runs import Said, call_here

WEIGHTS = ASSETS / "weights" / "face_detection_yunet_2023mar.onnx"
WALK = ASSETS / "real-walk" / "videos" / "face-demographics-walking.gif"
HEADER = "SUBJECT_ID,FILENAME,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,SCORE,FOUND_ID,SOURCE"


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def find(data: Path, *more: str | Path) -> Said:
    return call_here("faces", data, "--weights", WEIGHTS, "--threads", "1", *more)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """A folder with the walkers, a clip of nobody, sixteen-bit pages of the walkers, and a file that is no video."""
    data = tmp_path_factory.mktemp("faces")
    shutil.copy(WALK, data / "walk.gif")
    clips.write_video(data / "empty.mp4", 6)
    (data / "broken.mp4").write_bytes(b"\0" * 4096)
    grey = [cv2.cvtColor(one, cv2.COLOR_RGB2GRAY) for batch in Auto().frames(WALK) for one in batch.pixels]
    assert cv2.imwritemulti(str(data / "deep.tiff"), [one.astype(np.uint16) * 20 + 6000 for one in grey[-6:]])
    return data, find(data)


@needs_assets
def test_the_faces_of_a_folder_are_a_table(found: tuple[Path, Said]) -> None:
    data, said = found
    assert said.code == 3, said
    assert "failed: broken: " in said.out
    assert "no face found in 1 video: empty" in said.out
    assert (data / "faces.csv").read_text().splitlines()[0] == HEADER
    rows = rows_of(data / "faces.csv")
    assert {row["SOURCE"] for row in rows} == {"detected"}
    counts = Counter((row["FILENAME"], row["SUBJECT_ID"]) for row in rows)
    assert counts == {("deep.tiff", "1"): 6, ("deep.tiff", "2"): 6, ("walk.gif", "3"): 35, ("walk.gif", "4"): 35}
    annotated = rows_of(ASSETS / "real-walk" / "faces.csv")
    centres = {(r["FRAME_NUM"], r["SUBJECT_ID"]): float(r["FACE_X"]) + float(r["FACE_WIDTH"]) / 2 for r in annotated}
    pairs: Counter[tuple[str, str]] = Counter()
    for row in (row for row in rows if row["FILENAME"] == "walk.gif"):
        middle = float(row["FACE_X"]) + float(row["FACE_WIDTH"]) / 2
        pairs[row["SUBJECT_ID"], min("12", key=lambda s: abs(centres[row["FRAME_NUM"], s] - middle))] += 1
    assert sorted(pairs.values()) == [35, 35]


@needs_assets
def test_the_same_command_goes_on_and_gives_the_same_bytes(found: tuple[Path, Said]) -> None:
    data, _ = found
    before = (data / "faces.csv").read_bytes()
    (data / "faces.csv").unlink()
    said = find(data, "--json")
    assert said.code == 3, said
    assert (data / "faces.csv").read_bytes() == before
    told = said.json
    assert told["warnings"] == []
    assert (told["faces"], told["ids"], told["source"], list(told["failed"])) == (82, 4, "detected", ["broken"])


@needs_assets
def test_ids_are_merged_and_what_was_merged_is_not_lost(found: tuple[Path, Said], tmp_path: Path) -> None:
    data, _ = found
    table = tmp_path / "faces.csv"
    shutil.copy(data / "faces.csv", table)
    said = call_here("faces", table, "--merge", "3=1", "--merge", "anna=3")
    assert (said.code, said.out) == (0, "anna: 41 faces\n")
    assert Counter(row["SUBJECT_ID"] for row in rows_of(table)) == {"anna": 41, "2": 6, "4": 35}
    assert [row["FOUND_ID"] for row in rows_of(table)] == [row["FOUND_ID"] for row in rows_of(data / "faces.csv")]
    assert "ids in it were merged" in find(data, "--out", table).line()
    for merge, words in {
        "2=99": "no id '99'; it has anna, 2, 4",
        "4=anna": "4 would be two faces of frame",
        "4": "expected two ids, as in 3=17",
        "nan=4": "expected a name",
    }.items():
        before = table.read_bytes()
        assert words in call_here("faces", table, "--merge", merge).line()
        assert table.read_bytes() == before


@needs_assets
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--weights", ASSETS / "weights" / "yolox_nano_416.onnx"), "expected YuNet's weights"),
        (("--weights", __file__), "expected YuNet's weights"),
        (("--weights", "nowhere.onnx"), "not found"),
        ((), "expected --weights FILE"),
        (("--weights", WEIGHTS, "--videos", "*.avi"), "expected videos that match *.avi, found none"),
        (("--weights", WEIGHTS, "--merge", "1=2"), "leave --weights out"),
        (("--weights", WEIGHTS, "--out", "faces.run"), "expected a name for the face table"),
        (("--weights", WEIGHTS, "--out", ASSETS / "real-walk" / "faces.csv", "--force"), "is never overwritten"),
    ],
)
def test_what_cannot_be_is_one_line(more: tuple[str | Path, ...], words: str, tmp_path: Path) -> None:
    clips.write_video(tmp_path / "a.mp4", 2)
    assert words in call_here("faces", tmp_path, *more).line()


def test_a_folder_without_videos_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "w.onnx").write_bytes(b"")
    said = call_here("faces", tmp_path, "--weights", tmp_path / "w.onnx")
    assert "expected videos, found none" in said.line()


def test_the_table_says_which_faces_are_detected(tmp_path: Path) -> None:
    """A table without the column is annotated; so is a row of another source."""
    rows = "1,a.mp4,0,1,2,3,4,0.9,1,detected\n,a.mp4,1,1,2,3,4,0.9,,detected\n2,b.mp4,0,1,2,3,4,,,hand\n"
    (tmp_path / "faces.csv").write_text(f"{HEADER}\n{rows}")
    reader: Any = Ijb(domain={"constant": "VIS"})  # type: ignore[arg-type]
    assert reader.read(tmp_path).detected == {"a": 2}
    plain = "\n".join(line.rsplit(",", 1)[0] for line in (HEADER + "\n" + rows).splitlines()) + "\n"
    (tmp_path / "faces.csv").write_text(plain)
    assert reader.read(tmp_path).detected == {}


@needs_assets
def test_from_a_clip_to_a_report_in_three_commands(
    tmp_path: Path,
) -> None:
    """And every output says that people are named by detected faces."""
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    shutil.copy(WALK, data)
    assert find(data).code == 0
    weights = f"detect.detector.weights={ASSETS / 'weights' / 'yolox_nano_416.onnx'}"
    said = call_here("run", "real-walk", "--data", data, "--run", run, "--threads", "1", "--set", weights)
    assert said.code == 0, said
    assert "source: detected: a face detector found 70 of 70 faces" in said.out
    assert call_here("report", run).code == 0
    words = "source: detected; people are named by faces that a detector found"
    folder = run / "evaluate" / "report"
    made = [said.out, *((folder / n).read_text() for n in ("report.html", "tables.md", "tables.tex"))]
    made += [(folder / "tables" / "same-clip.csv").read_text(), (run / "evaluate" / "metrics.json").read_text()]
    assert [words in text for text in made] == [True] * 6
    assert Run(run).table("evaluate", "metrics")["notes"].to_pylist() == [["at_chance", "detected_faces"]]
    labels = Run(run).table("label", WALK.stem)["subject_id"].to_pylist()
    assert Counter(labels) == {"1": 35, "2": 35}


@needs_assets
def test_python_gives_the_same(tmp_path: Path) -> None:
    shutil.copy(WALK, tmp_path)
    done = mdfpipe.find_faces(tmp_path, weights=WEIGHTS, stride=5, resources=mdfpipe.Resources(threads=1))
    assert (done.faces, done.ids, done.complete, done.table) == (14, 2, True, tmp_path / "faces.csv")
    assert mdfpipe.merge_faces(tmp_path, ["left=1"]) == {"left": 7}
