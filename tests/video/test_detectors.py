"""Detectors: the contract that every file of the folder keeps, and real weights on real video."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mdfpipe.config import validate
from mdfpipe.video.detectors import Detector
from mdfpipe.video.detectors.onnx import Onnx
from mdfpipe.video.frames import Boxes, Frames

from . import yolos
from .networks import frames, plain, says, v10_rows

REPOSITORY = Path(__file__).parents[2]
ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS") or REPOSITORY.parent / "shared" / "assets")
YUNET = ASSETS / "weights" / "face_detection_yunet_2023mar.onnx"
WEIGHTS = ASSETS / "weights" / "yolox_nano_416.onnx"
needs_assets = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the real inputs are not at {ASSETS}")


def make_onnx(folder):
    says(folder / "a.onnx", v10_rows([8, 8, 24, 40, 0.5, 0], [1, 2, 3, 4, 0.9, 0], [1, 2, 3, 5, 0.9, 2]))
    return {"use": "onnx", "weights": "a.onnx", "image_size": 64}


def make_precomputed(folder):
    (folder / "a.csv").write_text("video_id,frame,x1,y1,x2,y2,score\nv,1,1,2,3,4,0.25\nv,1,8,8,24,40,0.5\n")
    return {"use": "precomputed", "boxes": "a.csv"}


def make_mot(folder):
    (folder / "v.txt").write_text("2,-1,1,2,3,4,0.25,-1,-1,-1\n2,-1,8,8,24,40,0.5,-1,-1,-1\n")
    return {"use": "mot", "boxes": "{name}.txt"}


def make_coco(folder):
    boxes = [{"image_id": 1, "category_id": 0, "bbox": [1, 2, 3, 4 + n], "score": 0.5} for n in range(2)]
    images, categories = [{"id": 1, "file_name": "v/1.jpg"}], [{"id": 0, "name": "person"}]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return {"use": "coco", "boxes": "a.json"}


def make_yolo(folder):
    yolos.save(folder / "a.pt", yolos.network().half().state_dict())
    return {"use": "yolo", "weights": "a.pt", "image_size": 64, "min_score": 0.1}


def make_yunet(folder):
    """A network of its file format that finds nothing would say little: the real one, on the picture of `plain`."""
    return {"use": "yunet", "weights": str(YUNET), "min_score": 0.0, "max_detections": 3}


EXAMPLES = {
    **{"onnx": make_onnx, "precomputed": make_precomputed, "yolo": make_yolo},
    **{"mot": make_mot, "coco": make_coco, "yunet": make_yunet},
}


@pytest.fixture(params=Detector.choices())
def example(request, tmp_path):
    if request.param not in EXAMPLES:
        pytest.fail(f"detector {request.param}: add an example to EXAMPLES, so that the contract is tested")
    if request.param == "yunet" and not YUNET.is_file():
        pytest.skip(f"REAL INPUTS NOT TESTED: no {YUNET}")
    settings = EXAMPLES[request.param](tmp_path)
    return validate(Detector, settings, "detector"), tmp_path


def test_contract_settings_round_trip(example):
    detector, _ = example
    written = json.loads(json.dumps(detector.model_dump(mode="json")))
    assert validate(Detector, written, "again") == detector
    assert type(detector).__doc__
    assert all(field.description for field in type(detector).model_fields.values())


def test_contract_identity(example):
    detector, folder = example
    identity = detector.identity(folder, "v")
    assert identity
    assert all(isinstance(x, str) for pair in identity.items() for x in pair)
    assert identity == detector.identity(folder, "v")


def test_contract_boxes(example):
    detector, folder = example
    detect = detector.open(folder, "v", device="cpu", threads=1)
    given = plain(5)
    boxes = detect(given)
    assert len(boxes) == 5
    assert sum(map(len, boxes)) > 0
    for b in boxes:
        assert isinstance(b, Boxes)
        assert np.isfinite(b.xyxy).all()
        assert (np.diff(b.score) <= 0).all()
        assert ((b.score >= 0) & (b.score <= 1)).all()
    assert detect(frames(np.zeros((0, 64, 64, 3)))) == []
    for cut in (1, 2, 3):  # where batches are cut does not show
        parts = [frames(given.pixels[i : i + cut], i) for i in range(0, 5, cut)]
        same(boxes, [b for part in parts for b in detect(part)])


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.xyxy, b.xyxy)
        np.testing.assert_array_equal(a.score, b.score)


@pytest.mark.parametrize("name", Detector.choices())
def test_contract_imports_nothing_heavy(name):
    code = f"import sys, mdfpipe.video.detectors.{name}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "cv2", "onnxruntime", "pandas", "pyarrow", "ultralytics"} & set(loaded)


# --- real weights, real video ---


def real_video(name, every=1):
    with av.open(str(ASSETS / "real-walk" / "videos" / name)) as container:
        pictures = [f.to_ndarray(format="rgb24") for n, f in enumerate(container.decode(video=0)) if n % every == 0]
    return Frames(np.stack(pictures), np.arange(len(pictures)) * every, np.zeros(len(pictures)))


def batches(given, size):
    for i in range(0, len(given), size):
        yield Frames(given.pixels[i : i + size], given.index[i : i + size], given.pts_seconds[i : i + size])


@needs_assets
def test_two_people_walk():
    given = real_video("face-demographics-walking.gif")
    detect = Onnx(weights=str(WEIGHTS)).open(ASSETS, "v", device="cpu", threads=1)
    found = [b for part in batches(given, 8) for b in detect(part)]
    assert [len(b) for b in found] == [2] * 35
    faces = 0
    with (ASSETS / "real-walk" / "faces.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[f"FACE_{side}"]) for side in ("X", "Y", "WIDTH", "HEIGHT"))
            bodies = found[int(row["FRAME_NUM"])].xyxy
            bodies = bodies[np.argsort(bodies[:, 0])]  # subject 1 walks on the left, 2 on the right
            holds = (bodies[:, :2] <= [x, y]).all(axis=1) & (bodies[:, 2:] >= [x + w, y + h]).all(axis=1)
            assert holds.tolist() == [row["SUBJECT_ID"] == "1", row["SUBJECT_ID"] == "2"], row
            faces += 1
    assert faces == 70


@needs_assets
def test_one_person_at_a_time():
    given = real_video("one-by-one-person-detection.mp4", every=12)
    detect = Onnx(weights=str(WEIGHTS)).open(ASSETS, "v", device="cpu", threads=1)
    found = [b for part in batches(given, 8) for b in detect(part)]
    counts = np.array([len(b) for b in found])
    assert counts.max() == 1
    assert 0.65 < counts.mean() < 0.85  # 1057 of the 1394 frames
    boxes = np.concatenate([b.xyxy for b in found])
    assert (boxes[:, :2] > -20).all()
    assert (boxes[:, 2:] < np.array([768, 432]) + 20).all()
    assert np.median(boxes[:, 3] - boxes[:, 1]) > 300  # people fill the room's height


@needs_assets
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_do_not_move_a_bit(tmp_path, threads):
    """YOLOX with its batch axis set free: the same boxes, bit for bit, however the frames are cut into batches."""
    model = onnx.load(WEIGHTS)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "b"
    shapes = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        if constant.name in shapes:
            constant.CopyFrom(numpy_helper.from_array(np.array([0, 85, -1], np.int64), constant.name))
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "free.onnx")
    given = real_video("face-demographics-walking.gif", every=4)
    detect = Onnx(weights="free.onnx").open(tmp_path, "v", device="cpu", threads=threads)
    whole = detect(given)
    for size in (1, 2, 4):
        same(whole, [b for part in batches(given, size) for b in detect(part)])
    fixed = Onnx(weights=str(WEIGHTS)).open(tmp_path, "v", device="cpu", threads=threads)(given)
    for a, b in zip(whole, fixed, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=1e-2)
