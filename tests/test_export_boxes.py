"""Bodies of a run in the forms of other tools, and back: the same boxes and the same people."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import mdfpipe
from mdfpipe.export import boxes
from mdfpipe.store.images import decode
from mdfpipe.store.run import Run
from mdfpipe.store.tables import boxes_of
from tests.drawn import draw
from tests.inline import DEMO
from tests.runs import Said, call_here

ROWS = ("video_id", "frame", "x1", "y1", "x2", "y2", "score")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn data set, eight frames a video, as far as its manifest."""
    home = tmp_path_factory.mktemp("export")
    draw(home / "data", frames=8)
    said = call_here("run", DEMO, "--data", home / "data", "--run", home / "run", "--threads", "1")
    assert said.code == 0, said
    return home


def again(made: Path, out: Path, detector: dict[str, Any]) -> mdfpipe.RunView:
    """The boxes of the same videos, read from what was exported."""
    study = yaml.safe_load(DEMO.read_text()) | {"detect": {"detector": detector}}
    study["dataset"] |= {"faces": [], "preset": "custom", "galleries": {}}
    (out / "again.yaml").write_text(yaml.safe_dump(study))
    said = call_here("detect", out / "again.yaml", "--data", made / "data", "--run", out / "again", "--threads", "1")
    assert said.code == 0, said
    return mdfpipe.open(out / "again")


def people(run: mdfpipe.RunView, table: str) -> dict[str, str]:
    rows = run.table(table)
    found = dict(zip(rows["body_id"].to_pylist(), rows["subject_id"].to_pylist(), strict=True))
    return {body: subject for body, subject in found.items() if subject is not None}


def export(*arguments: str | Path) -> Said:
    return call_here("export", *arguments).calm()


def test_motchallenge_and_back(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "mot"
    said = export(made / "run", "--as", "mot", "--out", out)
    assert said.out.splitlines()[0].endswith("(mot): 4 videos, 32 frames, 80 boxes, 64 of them named (4 subjects)"), (
        said
    )
    found = again(made, tmp_path, {"use": "mot", "boxes": f"{out}/{{video_id}}/gt/gt.txt", "ids": "dataset"})
    before = mdfpipe.open(made / "run")
    assert found.table("detect").select(ROWS).equals(before.table("detect").select(ROWS))
    number = dict(line.split(",")[::-1] for line in (out / "subjects.csv").read_text().splitlines())
    assert people(found, "detect") == {body: number[name] for body, name in people(before, "label").items()}
    assert "seqLength=8\nimWidth=320\nimHeight=240\n" in (out / "videos__VIS-500m_a/seqinfo.ini").read_text()


def test_ids_of_tracks(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    call = ("run", DEMO, "--data", made / "data", "--run", tmp_path / "run", "--until", "track", "--threads", "1")
    assert call_here(*call, "--set", "track.use=bytetrack").code == 0
    export(tmp_path / "run", "--as", "mot", "--out", tmp_path / "mot", "--ids", "track")
    rows = (tmp_path / "mot/videos__VIS-500m_a/gt/gt.txt").read_text().splitlines()
    ids = [int(row.split(",")[1]) for row in rows]
    tracks = Run(tmp_path / "run").table("track", "videos/VIS-500m_a")["track"].fill_null(-1).to_pylist()
    assert ids == tracks
    assert max(ids) >= 1
    assert not (tmp_path / "mot/subjects.csv").exists()


def test_coco_and_back(made: Path, tmp_path: Path) -> None:
    done = mdfpipe.export_boxes(made / "run", tmp_path / "coco", "coco")
    found = again(made, tmp_path, {"use": "coco", "boxes": str(tmp_path / "coco/instances.json")})
    before = mdfpipe.open(made / "run")
    assert found.table("detect").select(ROWS).equals(before.table("detect").select(ROWS))
    assert people(found, "detect") == people(before, "label")
    document = json.loads((tmp_path / "coco/instances.json").read_text())
    assert (done.boxes, done.frames) == (len(document["annotations"]), len(document["images"]))


def test_yolo_is_read_by_ultralytics(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "yolo"
    said = export(made / "run", "--as", "yolo", "--out", out, "--every", "4", "--min-score", "0.5")
    assert "pictures: 4 train, 4 val" in said.out or "pictures: 4 val, 4 train" in said.out
    assert "boxes in frames between" in said.out
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    assert data["names"] == {0: "person"}
    for split in ("train", "val"):
        images = YOLODataset(img_path=data[split], data=data, imgsz=64, augment=False)
        assert len(images) == 4
        boxes = np.concatenate([label["bboxes"] for label in images.labels])
        assert len(boxes) == sum(
            len(p.read_text().splitlines()) for p in (out / "labels" / split).iterdir() if p.suffix == ".txt"
        )
        assert {label["shape"] for label in images.labels} == {(240, 320)}
    deep = next((out / "images").rglob("videos__LWIR-30m_a_000004.jpg"))  # of 16 bits
    assert decode(deep.read_bytes(), "it").std() > 20


def test_fiftyone(made: Path, tmp_path: Path) -> None:
    done = mdfpipe.export_boxes(made / "run", tmp_path / "f", "fiftyone", every=8)
    labels = json.loads((tmp_path / "f/labels.json").read_text())["labels"]
    assert sorted(labels) == sorted(path.stem for path in (tmp_path / "f/data").iterdir())
    assert done.pictures == {"": 4}
    found = [entry for entries in labels.values() for entry in entries]
    assert all(0 <= share <= 1 for entry in found for share in entry["bounding_box"])
    assert {"s01", "s02"} <= {entry["attributes"].get("subject_id") for entry in found}


def test_a_dry_run_counts_what_is_written(made: Path, tmp_path: Path) -> None:
    for form in ("coco", "yolo"):
        settings: dict[str, Any] = {"every": 4, "min_score": 0.5}
        said = mdfpipe.export_boxes(made / "run", tmp_path / form, form, dry_run=True, **settings)  # type: ignore[arg-type]
        assert not (tmp_path / form).exists()
        done = mdfpipe.export_boxes(made / "run", tmp_path / form, form, **settings)  # type: ignore[arg-type]
        assert [line.replace("would write", "wrote") for line in said.lines] == done.lines
    assert not list(tmp_path.glob(".part-*"))


def test_a_name_is_given_once_a_frame(made: Path, tmp_path: Path) -> None:
    frame, number = np.array([0, 0, 0, 1, 1, 1]), np.array([3, -1, 3, 3, -1, -1])
    assert boxes._once_a_frame(frame, number)[0].tolist() == [3, -1, -1, 3, -1, -1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--as", "mot", "--out", "{data}"], "expected a new or empty folder"),
        (["--as", "mot", "--out", "x", "--force"], "belong to ONNX files"),
        (["--as", "mot", "--out", "x", "--data", "x"], "belong to ONNX files"),
        (["--as", "mot", "--out", "/proc/x"], "/proc/x: cannot be written"),
        (["--out", "x.onnx"], "--as mot, coco, yolo or fiftyone"),
        (["--as", "mot", "--out", "x", "--ids", "track"], "--ids track: expected tracks, found none"),
        (["--as", "yolo", "--out", "x", "--ids", "track"], "only mot and coco have ids"),
        (["--as", "coco", "--out", "x", "--val", "0.3"], "only yolo has videos to validate on"),
    ],
)
def test_what_cannot_be_is_one_line(made: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    given = [word.format(data=made / "data") for word in arguments]
    assert words in call_here("export", made / "run", *given, folder=tmp_path).line()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"every": "2"}, "--every: expected a whole number of 1 or more, got '2'"),
        ({"every": None}, "--every: expected a whole number of 1 or more, got None"),
        ({"every": 1.5}, "--every: expected a whole number of 1 or more, got 1.5"),
        ({"every": 0}, "--every: expected a whole number of 1 or more, got 0"),
        ({"min_score": "a"}, "--min-score: expected a number in 0..1, got 'a'"),
        ({"min_score": float("nan")}, "--min-score: expected a number in 0..1, got nan"),
        ({"val": None}, r"--val: expected a number in 0..1 \(without 1\), got None"),
        ({"val": 1}, r"--val: expected a number in 0..1 \(without 1\), got 1"),
    ],
)
def test_what_python_gives_is_refused_in_one_line(
    made: Path, tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(mdfpipe.ConfigError, match=words):
        mdfpipe.export_boxes(made / "run", tmp_path / "x", "yolo", **asked)


def test_options_of_boxes_write_no_onnx_file(tmp_path: Path) -> None:
    said = call_here("export", "demo", "--out", tmp_path / "x.onnx", "--dry-run", folder=tmp_path)
    assert "belong to boxes" in said.line()
    assert not list(tmp_path.iterdir())


def test_a_video_that_has_gone_leaves_nothing_behind(made: Path, tmp_path: Path) -> None:
    video = made / "data/videos"
    video.rename(video.with_name("away"))
    try:
        with pytest.raises(mdfpipe.MdfError, match=r"_a\.mkv: no such file"):
            mdfpipe.export_boxes(made / "run", tmp_path / "out", "fiftyone")
    finally:
        video.with_name("away").rename(video)
    assert not list(tmp_path.iterdir())


def test_parts_that_lack_and_boxes_beside_the_picture_are_counted(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run/detect/videos__VIS-500m_b.parquet").unlink()
    (tmp_path / "run/label/videos__VIS-500m_a.parquet").unlink()
    lines = mdfpipe.export_boxes(tmp_path / "run", tmp_path / "few", "mot", dry_run=True).lines
    assert "left out: videos without current boxes: 1" in lines
    assert "left out: names in videos without current labels: 1" in lines
    whole = mdfpipe.export_boxes(made / "run", tmp_path / "few", "fiftyone", dry_run=True)
    monkeypatch.setattr(boxes, "boxes_of", lambda rows: boxes_of(rows) - [[900, 0, 900, 0]])
    beside = mdfpipe.export_boxes(made / "run", tmp_path / "few", "fiftyone", dry_run=True)
    assert (beside.boxes, beside.named) == (0, 0)
    assert beside.left_out == {"boxes without a pixel in the picture": whole.boxes}


def test_an_empty_folder_is_taken_and_a_neighbour_is_kept(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out.unfinished").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    mdfpipe.export_boxes(made / "run", ".", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.unfinished"]
    assert (tmp_path / "out/instances.json").is_file()
