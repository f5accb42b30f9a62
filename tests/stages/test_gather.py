"""crop of a data set of images: bytes as they were, in few shards; and a whole study on such data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.inspecting.inspection import inspect
from mdfpipe.inspecting.pictures import draw_frame, draw_sheet, write_page
from mdfpipe.running.runner import Outcome, Runner
from mdfpipe.running.status import status
from mdfpipe.stages import Context, Inputs
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from mdfpipe.study.study import Study
from tests.datasets import made_benchmarks as made
from tests.inline import Inline
from tests.systems import ONE_THREAD, STRIPED

LOUD = np.random.default_rng(3).integers(0, 256, (9, 5, 4), np.uint8)


def pipeline(use: str, **sections: Any) -> Study:
    return validate(
        Study, {"name": use, "dataset": {"use": use}, "manifest": {"protocol": protocol(use)}, **sections}, "study"
    )


def protocol(use: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / f"manifests/{use}.yaml").read_text())
    return found


def run(study: Study, home: Path, last: str = "manifest") -> tuple[Outcome, list[str], Runner]:
    executor = Inline(ONE_THREAD)
    runner = Runner(study, Run(home / "run"), home / "data", executor.resources, executor)
    return runner.execute(None, last), executor.ran, runner


def rows(home: Path, unit: str) -> dict[str, dict[str, Any]]:
    return {row["crop_id"]: row for row in Run(home / "run").table("crop", unit).to_pylist()}


def stored(home: Path, row: dict[str, Any]) -> bytes:
    return read_crop(home / "run" / row["shard"], row["offset"], row["size"], row["crc32"])


def digests(folder: Path) -> dict[str, str]:
    files = [p for stage in ("crop", "manifest") for p in sorted((folder / stage).rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made.write_sysu(tmp_path / "data", train=2, val=1, test=2, images=2)
    return tmp_path


def test_a_jpeg_goes_into_the_shard_byte_for_byte(home: Path) -> None:
    outcome, _, _ = run(pipeline("sysu"), home)
    assert outcome.complete
    found = rows(home, "cam3")
    assert list(found) == sorted(p.relative_to(home / "data").as_posix() for p in (home / "data/cam3").rglob("*.jpg"))
    for number, (name, row) in enumerate(found.items()):
        data = (home / "data" / name).read_bytes()
        assert stored(home, row) == data
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).astype(np.float64)
        assert (row["frame"], row["subject_id"], row["codec"]) == (number, name.split("/")[1], "jpeg")
        assert [row[n] for n in ("x1", "y1", "x2", "y2", "width", "height", "box_height_px")] == [
            0,
            0,
            16,
            32,
            16,
            32,
            32,
        ]
        assert row["contrast"] == pytest.approx(pixels.std(), abs=1.5)
        assert row["sharpness"] == pytest.approx(cv2.Laplacian(pixels, cv2.CV_64F).var(), rel=0.1)


@pytest.mark.parametrize(
    ("suffix", "pixels", "kept", "is_copy"),
    [
        (".png", LOUD[..., :3], LOUD[..., :3], True),
        (".png", LOUD[..., 0], LOUD[..., 0], True),
        (".png", LOUD[..., :3].astype(np.uint16) * 257, LOUD[..., :3].astype(np.uint16) * 257, True),
        (".png", LOUD, LOUD[..., :3], False),
        (".bmp", LOUD[..., :3], LOUD[..., :3], False),
        (".bmp", LOUD[..., 0], LOUD[..., 0], False),
        (".tiff", LOUD[..., 0].astype(np.uint16) * 257, LOUD[..., 0].astype(np.uint16) * 257, False),
    ],
)
def test_other_formats_keep_their_pixels(
    home: Path, suffix: str, pixels: np.ndarray[Any, Any], kept: np.ndarray[Any, Any], is_copy: bool
) -> None:
    file = home / f"data/cam1/0001/new{suffix}"
    assert cv2.imwrite(str(file), pixels)
    assert run(pipeline("sysu"), home)[0].complete
    row = rows(home, "cam1")[f"cam1/0001/new{suffix}"]
    data = stored(home, row)
    assert (data == file.read_bytes()) is is_copy
    assert (row["codec"], row["width"], row["height"], row["status"]) == ("png", 5, 9, "ok")
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), kept)


def test_an_image_that_does_not_decode_has_a_status_and_is_told(home: Path) -> None:
    whole = (home / "data/cam1/0001/0001.jpg").read_bytes()
    (home / "data/cam1/0001/0001.jpg").write_bytes(whole[:-40])
    (home / "data/cam1/0001/0002.jpg").write_bytes(b"")
    outcome, _, runner = run(pipeline("sysu"), home)
    assert outcome.complete
    found = rows(home, "cam1")
    bad = found["cam1/0001/0001.jpg"]
    assert (bad["status"], bad["shard"], bad["codec"], bad["frame"]) == ("unreadable", None, None, 0)
    told = [line for line in outcome.warnings if line.startswith("crop: 2 images do not decode")]
    assert told == [
        f"crop: 2 images do not decode and are left out (cam1/0001/0001.jpg: a JPEG without an end in "
        f"{len(whole) - 40} bytes)"
    ]
    assert "cam1/0001/0001.jpg" not in runner.run.table("manifest", "manifest")["crop_id"].to_pylist()
    assert status(home / "run").stages[1].rows == {"body ok": 58, "body unreadable": 2}


def test_images_are_stored_as_they_are_shown(home: Path) -> None:
    """EXIF data that turn a picture: the crop is turned and says nothing more of it; counted."""
    image = cv2.resize(LOUD[..., :3], (60, 90), interpolation=cv2.INTER_NEAREST)
    plain = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    block = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)
    turned = plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]
    (home / "data/cam1/0001/0001.jpg").write_bytes(turned)
    outcome, _, _ = run(pipeline("sysu"), home)
    assert outcome.warnings.count("crop: 1 image is turned as their EXIF data say that they are shown") == 1
    row = rows(home, "cam1")["cam1/0001/0001.jpg"]
    assert (row["codec"], row["width"], row["height"], row["x2"], row["y2"]) == ("png", 90, 60, 90, 60)
    as_stored = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_UNCHANGED)
    for setting in ("display", "stored"):
        if setting == "stored":
            outcome, ran, _ = run(pipeline("sysu", dataset={"use": "sysu", "orientation": setting}), home)
            assert len([unit for unit in ran if unit.startswith("crop/")]) == 6
            assert not any("turned" in line for line in outcome.warnings)
        data = stored(home, rows(home, "cam1")["cam1/0001/0001.jpg"])
        for flags in (cv2.IMREAD_UNCHANGED, cv2.IMREAD_COLOR):
            got = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            wanted = as_stored if setting == "stored" else cv2.rotate(as_stored, cv2.ROTATE_90_CLOCKWISE)
            np.testing.assert_array_equal(got, wanted)


def test_every_kind_of_damage_has_its_row_and_its_reason(home: Path) -> None:
    """Cut off anywhere, empty, of another kind, too large to be true: a row without a crop each, and nothing else."""
    large = cv2.resize(LOUD[..., :3], (60, 90), interpolation=cv2.INTER_NEAREST)
    formats = {".jpg": large, ".png": large, ".bmp": large, ".tiff": large.astype(np.uint16) * 257}
    whole = {suffix: cv2.imencode(suffix, pixels)[1].tobytes() for suffix, pixels in formats.items()}
    bad = {f"cut{tenth}{s}": data[: len(data) * tenth // 10] for s, data in whole.items() for tenth in (1, 5, 9)}
    bad |= {"empty.png": b"", "text.jpg": b"<html>", "zeros.bmp": bytes(5000), "marks.jpg": b"\xff\xd8\xff\xd9"}
    bad["real.tiff"] = cv2.imencode(".tiff", large.astype(np.float32))[1].tobytes()
    bad["huge.png"] = whole[".png"][:16] + (100_000).to_bytes(4, "big") * 2 + whole[".png"][24:]
    for name, data in bad.items():
        (home / "data/cam1/0001" / name).write_bytes(data)
    outcome, _, runner = run(pipeline("sysu"), home)
    assert outcome.complete
    found = rows(home, "cam1")
    assert {path for path, row in found.items() if row["status"] == "unreadable"} == {f"cam1/0001/{n}" for n in bad}
    assert [row["status"] for row in found.values()].count("ok") == 10
    receipt = runner.run.receipt("crop", "cam1")
    assert receipt is not None
    told = receipt.facts["bad"]
    assert told.keys() == {f"cam1/0001/{name}" for name in bad}
    assert all(why.isprintable() and len(why) > 10 for why in told.values())
    assert "got float32" in told["cam1/0001/real.tiff"]


def test_only_what_changed_is_made_again_and_the_bytes_are_the_same(home: Path) -> None:
    study = pipeline("sysu")
    run(study, home)
    before = digests(home / "run")
    assert run(study, home)[1] == []
    os.utime(home / "data/cam2/0001/0001.jpg", (5, 5))  # touched: hashed again, and nothing else
    assert [unit.split("/")[0] for unit in run(study, home)[1]] == ["index"]
    image = home / "data/cam2/0001/0001.jpg"
    image.write_bytes((home / "data/cam2/0002/0002.jpg").read_bytes())
    assert sorted(run(study, home)[1]) == ["crop/cam2", "index/videos", "manifest/manifest"]
    (home / "data/cam5/0004/0003.jpg").write_bytes(image.read_bytes())
    assert sorted(run(study, home)[1]) == ["crop/cam5", "index/videos", "manifest/manifest"]
    assert rows(home, "cam5")["cam5/0004/0003.jpg"]["subject_id"] == "0004"
    (home / "data/cam5/0004/0003.jpg").unlink()
    made.write_sysu(home / "data", train=2, val=1, test=2, images=2)
    run(study, home)
    assert digests(home / "run") == before
    (home / "run/crop/cam4.body.tar").unlink()
    assert run(study, home)[1] == ["crop/cam4"]
    assert digests(home / "run") == before


def test_another_split_of_regdb_reads_no_image_again(tmp_path: Path) -> None:
    made.write_regdb(tmp_path / "data", subjects=6, images=1, splits=(1, 2))
    splits = []
    for number in (1, 2):
        study = pipeline("regdb", dataset={"use": "regdb", "split": number})
        outcome, ran, runner = run(study, tmp_path)
        assert outcome.complete
        splits.append(runner.run.table("manifest", "manifest", ["subject_id", "split"]).to_pylist())
    assert sorted(ran) == ["index/videos", "manifest/manifest"]
    assert splits[0] != splits[1]


def test_the_manifest_of_each_benchmark(tmp_path: Path) -> None:
    made.write_sysu(tmp_path / "sysu/data", train=2, val=1, test=2, images=1)
    made.write_llcm(tmp_path / "llcm/data", train=2, test=2, images=1, cameras=(1, 3))
    made.write_market(tmp_path / "market/data", train=2, test=2, images=1, cameras=(1, 2), distractors=1)
    found = {}
    for use in ("sysu", "llcm", "market"):
        assert run(pipeline(use), tmp_path / use)[0].complete
        table = Run(tmp_path / use / "run").table("manifest", "manifest").to_pylist()
        found[use] = {row["crop_id"]: row for row in table}
    of = {part: {r["subject_id"] for r in found["sysu"].values() if r["split"] == part} for part in ("train", "test")}
    assert of == {"train": {"0001", "0002", "0003"}, "test": {"0004", "0005"}}
    row = found["sysu"]["cam3/0004/0001.jpg"]
    assert [row[n] for n in ("domain", "band", "camera_id", "role", "mated", "modality")] == [
        *("NIR", "NIR", "3", "probe", True, "body")
    ]
    row = found["llcm"]["test_vis/cam3/0003/0003_c03_s000111_f0001_vis.jpg"]
    assert [row[n] for n in ("domain", "camera_id", "video_id", "role")] == ["VIS", "3", "test_vis/c03", "gallery"]
    test = [row for row in found["market"].values() if row["split"] == "test"]
    assert {row["role"] for row in found["market"].values()} == {"none"}
    assert {(r["session_id"], r["subject_id"]) for r in test} == {
        *((folder, subject) for folder in ("query", "bounding_box_test") for subject in ("0001", "0003")),
        ("bounding_box_test", "0000"),
    }


def test_validation_identities_are_left_out_where_the_protocol_says_so(home: Path) -> None:
    study = pipeline("sysu", manifest={"protocol": protocol("sysu-296")})
    run(study, home)
    table = Run(home / "run").table("manifest", "manifest", ["subject_id", "split"]).to_pylist()
    assert {r["subject_id"] for r in table if r["split"] == "unused"} == {"0003"}


def test_a_system_is_trained_embedded_and_measured_on_it(home: Path) -> None:
    study = pipeline("sysu", systems={"tiny": {"recipe": STRIPED}})
    outcome, ran, runner = run(study, home, "evaluate")
    assert outcome.complete, outcome.failures
    assert sum(unit.startswith("embed/") for unit in ran) == 6
    vectors = runner.run.table("embed/tiny", "cam1")
    assert vectors["vector"].null_count == 0
    assert vectors.num_rows == 10
    reloaded = Study.load(home / "run/pipeline.yaml")
    assert reloaded.to_yaml() == study.to_yaml()
    assert Runner(reloaded, Run(home / "run"), home / "data").due(None, None) == []


def test_sections_that_do_not_suit_the_data_are_refused(home: Path) -> None:
    for section, value in {
        "detect": {"detector": {"use": "precomputed", "boxes": "x"}},
        "label": {},
        "crop": {},
    }.items():
        with pytest.raises(ConfigError, match=rf"{section}: the data set sysu holds images of one person each"):
            pipeline("sysu", **{section: value})
    videos = {"use": "ijb", "domain": {"constant": "VIS"}}
    with pytest.raises(ConfigError, match=r"detect: field required: the data set ijb holds videos"):
        pipeline("sysu", dataset=videos)
    for verb in ("detect", "label"):
        with pytest.raises(ConfigError, match=rf"there is nothing to {verb}"):
            run(pipeline("sysu"), home, verb)


def test_an_image_gone_after_the_index_fails_its_unit_alone(home: Path) -> None:
    study = pipeline("sysu")
    run(study, home, "index")
    executor = Inline()
    runner = Runner(study, Run(home / "run"), home / "data", executor.resources, executor)
    plan = runner.plan()
    item = plan.item(runner.stages[1], "cam1")
    (home / "data/cam1/0002/0001.jpg").unlink()
    with pytest.raises(DataError, match=r"0002/0001.jpg: cannot be read: No such file"):
        item.stage.process(
            "cam1", plan.inputs(item), Context(home / "data", executor.resources, lambda n: home / "tmp")
        )


def test_what_people_look_at_does_not_need_videos(home: Path) -> None:
    (home / "data/cam1/0001/Thumbs.db").write_bytes(b"x")
    run(pipeline("sysu"), home)
    found = inspect(home / "run")
    assert (found.facts["images"], found.facts["finished"], found.facts["subjects"]) == (60, 6, 5)
    assert [row["crops"] for row in found.funnel] == [40, 20]
    assert "counts: published 296 train subjects, found 2" in found.notes
    assert "annotation: 1 files not_an_image, such as cam1/0001/Thumbs.db" in found.notes
    assert not [note for note in found.notes if "out of date" in note]
    written = write_page(home / "run", home / "page.html")
    assert (written.frames, written.notes) == (0, [])
    assert written.crops > 0
    page = (home / "page.html").read_text()
    assert "Folders by camera" in page
    assert "Counts: published 296 train subjects, found 2" in page
    assert draw_sheet(home / "run", home / "sheet.png")[0].startswith("rows: 0001")
    with pytest.raises(DataError, match="no frames; --sheet shows crops"):
        draw_frame(home / "run", "cam1", 0, home / "frame.png")
    assert [stage.stage for stage in status(home / "run").stages] == ["index", "crop", "manifest"]


def test_images_that_are_replaced_after_they_were_indexed_fail_until_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.write_sysu(tmp_path / "data", train=2, val=1, test=2, images=1)
    unit = ""

    def replacing(self: Inputs, data: Path) -> None:
        nonlocal unit
        if not unit:
            unit = self.video["video_id"]
            os.utime(data / self.images()["path"][0].as_py(), ns=(1, 1))
        check(self, data)

    check = Inputs.check_media
    with monkeypatch.context() as patch:
        patch.setattr(Inputs, "check_media", replacing)
        outcome, _, _ = run(pipeline("sysu"), tmp_path, "crop")
    (failure,) = outcome.failures
    assert (failure.stage, failure.key) == ("crop", unit)
    assert "has changed since it was indexed; give the same command again" in failure.message
    outcome, _, _ = run(pipeline("sysu"), tmp_path, "crop")
    assert not outcome.failures
