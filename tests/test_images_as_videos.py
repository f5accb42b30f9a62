"""A study on images of every kind as they come: the right frame under each number, or one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from mdfpipe.store.images import decode
from mdfpipe.store.run import Run
from mdfpipe.store.shards import read_crop
from tests import clips
from tests.inline import runner
from tests.video.tiffs import tiff

FRAMES = 4
STUDY = """name: images
dataset: {use: ijb, preset: ijbc, domain: {constant: LWIR}}
detect: {detector: {use: precomputed, boxes: boxes.csv}}
label: {check_alignment: false}
crop: {body_height_px: 64, body_width_px: 96, faces: false}
manifest: {protocol: no-roles}
"""


def grey(number: int) -> np.ndarray[Any, Any]:
    """(H, W) values of 12 bits that show the number as `clips.picture` does."""
    shown: np.ndarray[Any, Any] = clips.picture(number)[..., 0].astype(np.uint16) * 16
    return shown


def lying_jpeg(number: int) -> bytes:
    """A JPEG that is stored turned by 90 degrees against the clock, and says so."""
    found, file = Image.Exif(), io.BytesIO()
    found[0x0112] = 6
    Image.fromarray(np.rot90(clips.picture(number))).save(file, "JPEG", quality=95, exif=found)
    return file.getvalue()


def encoded(suffix: str) -> Callable[[int], bytes]:
    return lambda number: cv2.imencode(suffix, clips.picture(number)[..., ::-1])[1].tobytes()


ROS = [f"{1610000000 + k * 350 // 1000}.{k * 350 % 1000 * 1000000:09d}.png" for k in range(FRAMES)]
SOUND: dict[str, tuple[Callable[[int], bytes], list[str]]] = {
    "jpeg": (encoded(".jpg"), [f"{n:04d}.jpg" for n in range(FRAMES)]),
    "turned": (lying_jpeg, [f"{n:04d}.jpg" for n in range(FRAMES)]),
    "ros": (encoded(".png"), ROS),
    "sizes": (encoded(".webp"), [f"f{n}_96x64.webp" for n in range(8, 8 + FRAMES)]),
    "wrong suffix": (encoded(".png"), [f"{n}.jpg" for n in range(FRAMES)]),
    "pgm": (lambda n: b"P5 96 64 4095 " + grey(n).astype(">u2").tobytes(), [f"{n}.pgm" for n in range(FRAMES)]),
    "tiff12": (lambda n: tiff([grey(n)], bits=12), [f"{n}.tif" for n in range(FRAMES)]),
    "white": (lambda n: tiff([4095 - grey(n)], bits=12, photometric=0), [f"{n}.tif" for n in range(FRAMES)]),
    "planar": (
        lambda n: tiff([clips.picture(n).astype(int) * 257], photometric=2, planar=2),
        [f"{n}.tif" for n in range(FRAMES)],
    ),
}
REFUSED: dict[str, tuple[Callable[[int], bytes], list[str], str]] = {
    "float": (
        lambda n: tiff([grey(n) / 100 - 20], bits=32, kind=3),
        [f"{n}.tif" for n in range(FRAMES)],
        "0.tif: frame 0 does not decode: expected whole numbers from 0 to 65535, got float32 from -20 to",
    ),
    "guess": (encoded(".png"), ["s1_9.png", "s2_3.png", "s3_7.png", "s4_1.png"], "s1_9.png comes before s2_3.png"),
    "web page": (lambda n: b"<!DOCTYPE html>", [f"{n}.png" for n in range(FRAMES)], "got a web page"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for name, (write, names, *_) in {**SOUND, **REFUSED}.items():
        folder = root / "videos" / name
        folder.mkdir(parents=True)
        for number, file in enumerate(names):
            (folder / file).write_bytes(write(number))
    (root / "videos/pages.tif").write_bytes(tiff([grey(n) for n in range(FRAMES)], bits=12, big=True))
    faces = ["SUBJECT_ID,FILENAME,SIGHTING_ID,FRAME_NUM,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"]
    boxes = ["video_id,frame,x1,y1,x2,y2,score"]
    for video in (*SOUND, *REFUSED, "pages.tif"):
        faces += [f"7,videos/{video},1,{n},40,4,20,16" for n in range(FRAMES)]
        boxes += [f"videos/{video},{n},0,0,96,64,0.9" for n in range(FRAMES)]
    (root / "faces.csv").write_text("\n".join(faces) + "\n")
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (root / "study.yaml").write_text(STUDY)
    return root


def test_every_kind_of_images_gives_its_frames_or_one_sentence(data: Path, tmp_path: Path) -> None:
    make, _ = runner(data, tmp_path / "run", study=data / "study.yaml")
    outcome = make.execute(None, "crop")
    run = Run(tmp_path / "run")
    for name in (*SOUND, "pages.tif"):
        rows = run.table("crop", f"videos/{name}").to_pylist()
        crops = [
            decode(read_crop(tmp_path / "run" / r["shard"], r["offset"], r["size"], r["crc32"]), name) for r in rows
        ]
        assert [crop.shape[:2] for crop in crops] == [(64, 96)] * FRAMES, name
        scale = 1 if crops[0].dtype == np.uint8 else 16 if crops[0].shape[2] == 1 else 257
        assert [clips.number_of(crop // scale) for crop in crops] == list(range(FRAMES)), name
        if scale == 16:
            assert all(np.array_equal(crop[..., 0], grey(n)) for n, crop in enumerate(crops)), name
    index = {row["video_id"]: row for row in run.table("index", "videos").to_pylist()}
    turned = index["videos/turned"]
    assert (turned["orientation"], turned["width"], turned["height"]) == (6, 96, 64)
    assert {index[f"videos/{name}"]["bit_depth"] for name in ("pgm", "tiff12", "white", "pages.tif")} == {12}
    failures = {failure.key: failure.message for failure in outcome.failures}
    assert failures.keys() == {f"videos/{name}" for name in REFUSED}
    for name, (_, _, words) in REFUSED.items():
        assert words in failures[f"videos/{name}"]
        assert failures[f"videos/{name}"].isprintable()
    assert not any("still_image" in line for line in outcome.warnings)
