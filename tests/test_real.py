"""The whole way, from videos to manifest, on the real clips: what the README shows."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mdfpipe.reporting.report import report
from mdfpipe.running.runner import Outcome
from mdfpipe.store.images import decode
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from mdfpipe.study.study import SHIPPED
from tests.inline import runner
from tests.real import ASSETS, needs_assets

pytestmark = needs_assets
WALK, ONE = "videos/face-demographics-walking", "videos/one-by-one-person-detection"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
    run = tmp_path_factory.mktemp("walk") / "run"
    make, _ = runner(ASSETS / "real-walk", run, study=SHIPPED / "pipelines" / "real-walk.yaml")
    return Run(run), make.execute(None, "manifest")


def test_two_walkers_are_labelled_in_every_frame(walk: tuple[Run, Outcome]) -> None:
    run, outcome = walk
    assert outcome.complete
    labels = run.table("label", WALK).to_pylist()
    assert Counter(row["status"] for row in labels) == {"labelled": 70}
    assert Counter(row["subject_id"] for row in labels) == {"1": 35, "2": 35}
    assert Counter(row["frame"] for row in labels) == dict.fromkeys(range(35), 2)
    facts = run.receipt("detect", WALK).facts  # type: ignore[union-attr]
    assert (facts["decoder"], facts["declared"], facts["delivered"]) == ("pyav", 35, 35)
    assert (facts["width"], facts["height"]) == (480, 270)


def test_nobody_is_labelled_where_no_face_is_annotated(walk: tuple[Run, Outcome]) -> None:
    run, _ = walk
    facts = run.receipt("detect", ONE).facts  # type: ignore[union-attr]
    assert facts["delivered"] == 1394
    labels = run.table("label", ONE).to_pylist()
    assert len(labels) > 1000
    assert {row["status"] for row in labels} == {"no_face"}


def test_its_crops_and_manifest(walk: tuple[Run, Outcome]) -> None:
    run, _ = walk
    rows = run.table("manifest", "manifest").to_pylist()
    assert Counter((r["modality"], r["subject_id"], r["split"], r["role"]) for r in rows) == dict.fromkeys(
        [(m, s, "test", "none") for m in ("body", "face") for s in "12"], 35
    )
    for row in rows[::10]:
        image = decode(read_crop(run.path / row["shard"], row["offset"], row["size"], row["crc32"]), row["crop_id"])
        assert image.shape == ((384, 128, 3) if row["modality"] == "body" else (112, 112, 3))
    with tarfile.open(run.path / rows[0]["shard"]) as tar:
        assert len(tar.getnames()) == 35 * 2


BY_HAND = {1810: (267, 127, 285, 171), 1820: (153, 109, 176, 163), 1831: (134, 118, 156, 157)}
STUDY = """
dataset:
  use: ijb
  videos: [visual, thermal, thermal16]
  domain: {regex: '^(?P<domain>.*)$', map: {visual: VIS, thermal: MWIR, thermal16: LWIR}}
  frame_number: file_number
detect: {detector: {use: precomputed, boxes: boxes.csv}}
"""


def test_one_domain_has_no_identification_and_the_report_says_why(walk: tuple[Run, Outcome], tmp_path: Path) -> None:
    """And the first third of the clip finds its last third, marked as no test of recognition."""
    run, _ = walk
    make, _ = runner(ASSETS / "real-walk", run.path, study=SHIPPED / "pipelines" / "real-walk.yaml")
    assert make.execute().complete
    receipt = run.receipt("evaluate", "metrics")
    assert receipt is not None
    why = "no identification: protocol no-roles names no gallery and probe domains; the rows are of VIS"
    assert why in receipt.facts["tables"]["recognition"]["notes"]
    rows = run.table("evaluate", "metrics").to_pylist()
    assert [(r["table"], r["metric"], r["n"], r["n_gallery"]) for r in rows] == [("same-clip", "rank-1", 2, 2)]
    page = report(run.path, out=tmp_path / "report").files[0]
    text = Path(page).read_text()
    assert why in text
    assert "these numbers say nothing about recognition" in text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Outcome]:
    """TNO's folders of numbered frames in two bands and the 16-bit TIFF, with boxes placed by hand."""
    folder = tmp_path_factory.mktemp("folders")
    data, study = folder / "data", folder / "study.yaml"
    data.mkdir()
    shutil.copytree(ASSETS / "tno-nato-camp" / "visual", data / "visual")
    shutil.copytree(ASSETS / "tno-nato-camp" / "thermal", data / "thermal")
    shutil.copytree(ASSETS / "thermal16", data / "thermal16")
    shutil.copyfile(data / "thermal16" / "flirpy_example_radiometric.tiff", data / "thermal16" / "f0.tiff")
    (data / "thermal16" / "flirpy_example_radiometric.tiff").unlink()
    faces, boxes = (
        ["SUBJECT_ID,FILENAME,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"],
        ["video_id,frame,x1,y1,x2,y2"],
    )
    for video in ("visual", "thermal"):
        for number, (x1, y1, x2, y2) in BY_HAND.items():
            faces.append(f"man,{video},{number},{(x1 + x2) / 2 - 5},{y1 + 1},10,11")
            boxes.append(f"{video},{number - 1800},{x1},{y1},{x2},{y2}")
    faces.append("roof,thermal16,0,535,440,25,25")
    boxes.append("thermal16,0,510,425,590,505")
    (data / "faces.csv").write_text("\n".join(faces) + "\n")
    (data / "boxes.csv").write_text("\n".join(boxes) + "\n")
    study.write_text(STUDY)
    make, _ = runner(data, folder / "run", study=study)
    return Run(folder / "run"), make.execute()


def test_folders_of_numbered_frames_in_two_bands(folders: tuple[Run, Outcome]) -> None:
    run, outcome = folders
    assert outcome.complete, outcome
    for video, domain in (("visual", "VIS"), ("thermal", "MWIR")):
        facts = run.receipt("detect", video).facts  # type: ignore[union-attr]
        assert (facts["decoder"], facts["delivered"], facts["width"], facts["height"]) == ("images", 32, 360, 270)
        rows = [r for r in run.table("manifest", "manifest").to_pylist() if r["video_id"] == video]
        assert {(r["domain"], r["subject_id"], r["codec"]) for r in rows} == {(domain, "man", "jpeg")}
        assert {r["frame"] for r in rows} == {10, 20, 31}
    bright = {
        video: np.mean(
            [decode(read_crop(run.path / r["shard"], r["offset"], r["size"], r["crc32"]), "").max() for r in rows]
        )
        for video in ("visual", "thermal")
        for rows in [[r for r in run.table("crop", video).to_pylist() if r["modality"] == "body"]]
    }
    assert bright["thermal"] > 240 > bright["visual"]  # the man glows in MWIR: the box is on him


def test_16_bits_stay_16_bits(folders: tuple[Run, Outcome]) -> None:
    run, _ = folders
    facts = run.receipt("detect", "thermal16").facts  # type: ignore[union-attr]
    assert facts["delivered"] == 1
    low, high = facts["window"]
    assert 6743 <= low < high <= 7077
    for row in run.table("crop", "thermal16").to_pylist():
        assert row["codec"] == "png"
        image = decode(read_crop(run.path / row["shard"], row["offset"], row["size"], row["crc32"]), row["crop_id"])
        assert image.dtype == np.uint16
        assert image.shape[2] == 1
        assert 6743 <= image.min() <= image.max() <= 7100


def test_the_pictures_of_a_run_can_be_made(walk: tuple[Run, Outcome], tmp_path: Path) -> None:
    from mdfpipe.inspecting.inspection import draw_frame

    draw_frame(walk[0].path, WALK, 10, tmp_path / "a.png", show_people=False)
    assert (tmp_path / "a.png").stat().st_size > 10_000
