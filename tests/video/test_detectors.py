"""Detectors: the contract of the family, the formats of networks on tiny made ones, and real weights on real video."""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError, MissingDependency
from mdfpipe.store.hashing import file_sha256
from mdfpipe.video.detectors import Detector
from mdfpipe.video.detectors.onnx import Onnx, fitting_formats
from mdfpipe.video.detectors.precomputed import Precomputed
from mdfpipe.video.frames import Boxes, Frames

REPOSITORY = Path(__file__).parents[2]
ASSETS = Path(os.environ.get("MDFPIPE_TEST_ASSETS") or REPOSITORY.parent / "shared" / "assets")
WEIGHTS = ASSETS / "weights" / "yolox_nano_416.onnx"
needs_assets = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the real inputs are not at {ASSETS}")


def frames(pixels, first=0):
    pixels = np.asarray(pixels, np.uint8)
    return Frames(pixels, np.arange(first, first + len(pixels)), np.full(len(pixels), np.nan))


def plain(n=3, size=(64, 64), colour=(10, 20, 30)):
    return frames(np.broadcast_to(np.array(colour, np.uint8), (n, *size, 3)))


# --- tiny networks -------------------------------------------------------------------------------------------------


def save(path, nodes, output, *, shape=("b", 3, "h", "w"), dtype=TensorProto.FLOAT, constants=()):
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", dtype, shape)],
        [helper.make_tensor_value_info("output", dtype, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def says(path, rows, *, shape=("b", 3, "h", "w"), half=False):
    """A network that answers (rows, columns) for every frame of the batch, whatever it shows."""
    kind, dtype = (np.float16, TensorProto.FLOAT16) if half else (np.float32, TensorProto.FLOAT)
    rows = np.asarray(rows, kind)
    nodes = [
        helper.make_node("Shape", ["images"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "ones"], ["size"], axis=0),
        helper.make_node("Expand", ["rows", "size"], ["output"]),
    ]
    constants = [("rows", rows[None]), ("ones", np.array([1, 1], np.int64))]
    return save(path, nodes, [None, *rows.shape], shape=shape, dtype=dtype, constants=constants)


def tells_its_input(path, shape=("b", 3, "h", "w"), at=(0, 0)):
    """A YOLOv10-shaped network whose one box is [channel 0, channel 1, 1000 + channel 2, 1000 + batch] of a pixel."""
    nodes = [
        helper.make_node("Slice", ["images", "from", "to", "axes"], ["pixel"]),
        helper.make_node("Reshape", ["pixel", "b3"], ["colour"]),
        helper.make_node("Shape", ["images"], ["batch"], start=0, end=1),
        helper.make_node("Cast", ["batch"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["batch", "one"], ["b1"], axis=0),
        helper.make_node("Expand", ["count", "b1"], ["counts"]),
        helper.make_node("Expand", ["certain", "b1"], ["score"]),
        helper.make_node("Sub", ["score", "score"], ["class"]),
        helper.make_node("Concat", ["colour", "counts", "score", "class"], ["flat"], axis=1),
        helper.make_node("Add", ["flat", "base"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "one"], ["output"]),
    ]
    constants = [
        ("from", np.array(at, np.int64)),
        ("to", np.array(at, np.int64) + 1),
        ("axes", np.array([2, 3], np.int64)),
        ("b3", np.array([-1, 3], np.int64)),
        ("one", np.array([1], np.int64)),
        ("certain", np.array([[0.75]], np.float32)),
        ("base", np.array([0, 0, 1000, 1000, 0, 0], np.float32)),
    ]
    return save(path, nodes, [None, 1, 6], shape=shape, constants=constants)


def onnx_boxes(path, given=None, **settings):
    detect = Onnx(weights=str(path), **settings).open(path.parent, "v", device="cpu", threads=1)
    return detect(given or plain())


def v10_rows(*rows, n=8):
    return np.concatenate([np.array(rows, np.float32).reshape(-1, 6), np.zeros((n - len(rows), 6), np.float32)])


# --- the contract --------------------------------------------------------------------------------------------------


def make_onnx(folder):
    says(folder / "a.onnx", v10_rows([8, 8, 24, 40, 0.5, 0], [1, 2, 3, 4, 0.9, 0], [1, 2, 3, 5, 0.9, 2]))
    return {"use": "onnx", "weights": "a.onnx", "image_size": 64}


def make_precomputed(folder):
    (folder / "a.csv").write_text("video_id,frame,x1,y1,x2,y2,score\nv,1,1,2,3,4,0.25\nv,1,8,8,24,40,0.5\n")
    return {"use": "precomputed", "boxes": "a.csv"}


EXAMPLES = {"onnx": make_onnx, "precomputed": make_precomputed}


@pytest.fixture(params=Detector.choices())
def example(request, tmp_path):
    if request.param not in EXAMPLES:
        pytest.fail(f"detector {request.param}: add an example to EXAMPLES, so that the contract is tested")
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


# --- onnx: formats -------------------------------------------------------------------------------------------------


def test_yolov10_rows_are_boxes(tmp_path):
    rows = v10_rows([8, 8, 24, 40, 0.5, 0], [-3, 2, 70, 4, 0.9, 0], [1, 2, 3, 5, 0.9, 2], [1, 1, 2, 2, 0.2, 0])
    for boxes in onnx_boxes(says(tmp_path / "a.onnx", rows), image_size=64):
        np.testing.assert_array_equal(boxes.xyxy, [[-3, 2, 70, 4], [8, 8, 24, 40]])  # not clipped, best first
        np.testing.assert_array_equal(boxes.score, np.float32([0.9, 0.5]))
    other = onnx_boxes(tmp_path / "a.onnx", image_size=64, person_class=2)[0]
    np.testing.assert_array_equal(other.xyxy, [[1, 2, 3, 5]])
    assert len(onnx_boxes(tmp_path / "a.onnx", image_size=64, max_detections=1)[0]) == 1


def test_ties_are_ordered_by_the_box(tmp_path):
    rows = v10_rows([5, 1, 9, 9, 0.5, 0], [1, 3, 9, 9, 0.5, 0], [1, 2, 9, 9, 0.5, 0])
    boxes = onnx_boxes(says(tmp_path / "a.onnx", rows), image_size=64)[0]
    assert boxes.xyxy[:, :2].tolist() == [[1, 2], [1, 3], [5, 1]]


def test_boxes_come_back_through_the_letterbox(tmp_path):
    says(tmp_path / "a.onnx", v10_rows([0, 24, 64, 40, 0.5, 0]), shape=(1, 3, 64, 64))
    boxes = onnx_boxes(tmp_path / "a.onnx", plain(2, (100, 400)))[0]
    np.testing.assert_allclose(boxes.xyxy, [[0, 0, 400, 100]], atol=1e-4)
    boxes = onnx_boxes(tmp_path / "a.onnx", plain(2, (100, 400)), align="top_left")[0]
    np.testing.assert_allclose(boxes.xyxy, [[0, 150, 400, 250]], atol=1e-4)


def yolox_rows(size, cells, classes=3):
    """Raw YOLOX output with one filled anchor for each of `cells`: (anchor, x, y, log w, log h, object, *class)."""
    anchors = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    rows = np.zeros((anchors, 5 + classes), np.float32)
    for anchor, *values in cells:
        rows[anchor, : len(values)] = values
    return rows


def test_yolox_is_decoded_by_grid_and_exp(tmp_path):
    # 64 x 96: 8 x 12 cells of 8, 4 x 6 of 16, 2 x 3 of 32. Anchor 15: row 1, column 3; 102: row 1, column 0.
    cells = [
        (15, 0.5, 0.25, np.log(2), np.log(3), 0.8, 0.5, 0.9),
        (102, 0.5, 0.5, 0, np.log(2), 0.9, 0.9),
        (120, 0.5, 0.5, 0, 0, 0.4, 0.5),  # 0.2: below min_score
    ]
    says(tmp_path / "a.onnx", yolox_rows((64, 96), cells), shape=(1, 3, 64, 96))
    boxes = onnx_boxes(tmp_path / "a.onnx", plain(2, (64, 96)))[1]
    np.testing.assert_allclose(boxes.xyxy, [[0, 8, 16, 40], [20, -2, 36, 22]], atol=1e-4)
    np.testing.assert_allclose(boxes.score, [0.81, 0.4], atol=1e-6)
    boxes = onnx_boxes(tmp_path / "a.onnx", plain(2, (64, 96)), person_class=1)[1]
    np.testing.assert_allclose(boxes.score, [0.72], atol=1e-6)


def test_yolox_that_decodes_itself(tmp_path):
    rows = yolox_rows((64, 64), [(15, 30, 20, 20, 30, 0.8, 0.5)])
    says(tmp_path / "a.onnx", rows, shape=(1, 3, 64, 64))
    with pytest.raises(ConfigError, match=r"detector\.decoded to true"):
        onnx_boxes(tmp_path / "a.onnx")
    np.testing.assert_allclose(onnx_boxes(tmp_path / "a.onnx", decoded=True)[0].xyxy, [[20, 5, 40, 35]])


def test_yolov8_is_transposed_and_suppressed(tmp_path):
    rows = np.zeros((4 + 5, 84), np.float32)  # 64 + 16 + 4 anchors
    rows[:4, 3], rows[4, 3] = [32, 32, 20, 40], 0.6
    rows[:4, 4], rows[4, 4] = [33, 32, 20, 40], 0.7  # overlaps the first
    rows[:4, 70], rows[4:6, 70] = [12, 10, 8, 8], [0.3, 0.9]  # rather class 1, and a person all the same
    rows[:4, 71], rows[5, 71] = [50, 50, 8, 8], 0.9
    says(tmp_path / "a.onnx", rows, shape=(1, 3, 64, 64))
    boxes = onnx_boxes(tmp_path / "a.onnx")[0]
    np.testing.assert_allclose(boxes.xyxy, [[23, 12, 43, 52], [8, 6, 16, 14]])
    assert len(onnx_boxes(tmp_path / "a.onnx", nms_iou=0.95)[0]) == 3


@pytest.mark.parametrize(
    ("output", "size", "expected"),
    [
        ((1, 300, 6), (640, 640), ["yolov10"]),
        ((4, 300, 6), (384, 640), ["yolov10"]),
        ((1, 3549, 85), (416, 416), ["yolox"]),
        ((1, 8400, 6), (640, 640), ["yolov10", "yolox"]),  # YOLOX with one class, or 8400 end-to-end rows
        ((1, 84, 8400), (640, 640), ["yolov8"]),
        ((1, 5, 5040), (384, 640), ["yolov8"]),
        ((1, 25200, 85), (640, 640), []),  # YOLOv5: three anchors a cell
        ((1, 85, 52, 52), (416, 416), []),
        ((1, 1000), (224, 224), []),
    ],
)
def test_formats_by_shape(output, size, expected):
    assert fitting_formats(output, size) == expected


def test_an_ambiguous_shape_asks_for_the_setting(tmp_path):
    rows = yolox_rows((64, 64), [(15, 0.5, 0.5, 0, 0, 0.8, 0.5)], classes=1)
    says(tmp_path / "a.onnx", rows, shape=(1, 3, 64, 64))
    with pytest.raises(ConfigError, match=r"\(1, 84, 6\).*both yolov10 and yolox fit; name it in detector\.format"):
        onnx_boxes(tmp_path / "a.onnx")
    assert len(onnx_boxes(tmp_path / "a.onnx", format="yolox")[0]) == 1


@pytest.mark.parametrize("name", ["auto", "yolov8"])
def test_an_unfit_shape_is_refused(tmp_path, name):
    says(tmp_path / "a.onnx", np.zeros((84, 7)), shape=(1, 3, 96, 96))
    with pytest.raises(
        ConfigError, match=rf"a\.onnx: the output is \(1, 84, 7\) .*detector\.format is {name}: expected"
    ):
        onnx_boxes(tmp_path / "a.onnx", format=name)


def test_a_class_that_the_network_lacks(tmp_path):
    says(tmp_path / "a.onnx", yolox_rows((64, 64), []), shape=(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="has 3 classes, numbered from 0, got 3"):
        onnx_boxes(tmp_path / "a.onnx", person_class=3)


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ([1, 1, 2, 2, 7.5, 0], ConfigError, r"frame 0: expected scores in 0\.\.1, got 0\.\.7\.5"),
        ([1, 1, 2, 2, np.nan, 0], ConfigError, r"frame 0: expected scores in 0\.\.1, got nan"),
        ([1, np.nan, 2, 2, 0.5, 0], DataError, "frame 0: expected finite boxes"),
        ([1, 1, np.inf, 2, 0.5, 0], DataError, "frame 0: expected finite boxes"),
    ],
)
def test_nonsense_from_the_network(tmp_path, row, error, message):
    says(tmp_path / "a.onnx", v10_rows(row))
    with pytest.raises(error, match=message):
        onnx_boxes(tmp_path / "a.onnx")


# --- onnx: what the network is fed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [10 / 255, 20 / 255, 1000 + 30 / 255]),
        ({"colour": "bgr"}, [30 / 255, 20 / 255, 1000 + 10 / 255]),
        ({"values": "0..255"}, [10, 20, 1030]),
        ({"values": "0..255", "colour": "bgr"}, [30, 20, 1010]),
    ],
)
def test_colours_and_range(tmp_path, settings, expected):
    tells_its_input(tmp_path / "a.onnx")
    boxes = onnx_boxes(tmp_path / "a.onnx", image_size=64, **settings)[0]
    np.testing.assert_allclose(boxes.xyxy[0, :3], expected, rtol=1e-6)


def test_grey_lies_around_the_frame(tmp_path):
    tells_its_input(tmp_path / "a.onnx", shape=(1, 3, 64, 64))
    boxes = onnx_boxes(tmp_path / "a.onnx", plain(1, (32, 64)), values="0..255")[0]
    np.testing.assert_allclose(boxes.xyxy[0], [114, 114 - 16, 1114, 1001 - 16])
    tells_its_input(tmp_path / "b.onnx", shape=(1, 3, 64, 64), at=(40, 5))
    boxes = onnx_boxes(tmp_path / "b.onnx", plain(1, (32, 64)), values="0..255")[0]
    np.testing.assert_allclose(boxes.xyxy[0], [10, 20 - 16, 1030, 1001 - 16])


@pytest.mark.parametrize(
    ("axis", "given", "run"), [("b", 5, 5), ("b", 2, 2), ("b", 1, 2), (1, 5, 1), (4, 5, 4), (4, 1, 4)]
)
def test_batches(tmp_path, axis, given, run):
    """A free batch axis takes the whole batch, one frame run as two; a fixed one its own number, filled up."""
    tells_its_input(tmp_path / "a.onnx", shape=(axis, 3, 64, 64))
    pixels = np.arange(given, dtype=np.uint8)[:, None, None, None] * np.ones((64, 64, 3), np.uint8)
    boxes = onnx_boxes(tmp_path / "a.onnx", frames(pixels), values="0..255")
    assert [b.xyxy[0, 3] for b in boxes] == [1000 + run] * given
    assert [b.xyxy[0, 0] for b in boxes] == list(range(given))  # each frame has its own answer


@pytest.mark.parametrize(
    ("shape", "image_size", "frame", "expected"),
    [
        (("b", 3, "h", "w"), None, (432, 768), (384, 640)),
        (("b", 3, "h", "w"), 320, (768, 432), (320, 192)),
        (("b", 3, "h", "w"), (96, 320), (432, 768), (96, 320)),
        (("b", 3, 416, 416), None, (432, 768), (416, 416)),
        (("b", 3, 416, 416), 416, (432, 768), (416, 416)),
        (("b", 3, 416, "w"), None, (432, 768), (416, 416)),
    ],
)
def test_input_size(tmp_path, shape, image_size, frame, expected):
    tells_its_input(tmp_path / "a.onnx", shape=shape)
    detect = Onnx(weights="a.onnx", image_size=image_size).open(tmp_path, "v", device="cpu", threads=1)
    detect(plain(2, frame))
    assert detect.letterbox.input == expected
    detect(plain(2, (64, 64)))  # another frame size on the way
    assert detect.letterbox.frame == (64, 64)


def test_a_size_that_the_network_does_not_take(tmp_path):
    tells_its_input(tmp_path / "a.onnx", shape=("b", 3, 416, 416))
    with pytest.raises(ConfigError, match=r"takes inputs of 416x416 \(H x W\) only, got 640"):
        onnx_boxes(tmp_path / "a.onnx", image_size=640)
    for wrong in (100, 0, [64, 65]):
        with pytest.raises(ConfigError, match="a multiple of 32"):
            validate(Detector, {"use": "onnx", "weights": "a.onnx", "image_size": wrong}, "detector")


def test_half_precision_networks(tmp_path):
    says(tmp_path / "a.onnx", v10_rows([8, 8, 24, 40, 0.5, 0]), half=True)
    boxes = onnx_boxes(tmp_path / "a.onnx", image_size=64)[0]
    np.testing.assert_array_equal(boxes.xyxy, [[8, 8, 24, 40]])


def test_frames_above_8_bits_are_refused(tmp_path):
    tells_its_input(tmp_path / "a.onnx")
    deep = Frames(np.zeros((1, 64, 64, 1), np.uint16), np.arange(1), np.zeros(1))
    with pytest.raises(ValueError, match="expected uint8 RGB frames"):
        onnx_boxes(tmp_path / "a.onnx", deep)


# --- onnx: files and devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x09" * 5000, os.urandom(5000)])
def test_no_onnx_model(tmp_path, content, capfd):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.onnx: expected an ONNX model in one file, got \d+ bytes") as caught:
        onnx_boxes(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


def test_no_detector(tmp_path):
    save(tmp_path / "a.onnx", [helper.make_node("Identity", ["images"], ["output"])], ["b", 5], shape=("b", 5))
    with pytest.raises(ConfigError, match=r"expected one input of images \(B, 3, H, W\)"):
        onnx_boxes(tmp_path / "a.onnx")


def test_weights_in_a_second_file_are_refused(tmp_path):
    says(tmp_path / "whole.onnx", v10_rows(n=300))
    model = onnx.load(tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ConfigError, match="export the detector to ONNX again, with its weights inside"):
        onnx_boxes(tmp_path / "a.onnx")


def test_weights_are_found_and_count_by_content(tmp_path):
    with pytest.raises(ConfigError, match=r"weights 'b\.onnx' not found"):
        Onnx(weights="b.onnx").identity(tmp_path, "v")
    says(tmp_path / "a.onnx", v10_rows([8, 8, 24, 40, 0.5, 0]))
    first = Onnx(weights="a.onnx").identity(tmp_path, "v")
    (tmp_path / "b.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    assert Onnx(weights="b.onnx").identity(tmp_path, "v") == first
    assert onnx_boxes(tmp_path / "a.onnx", image_size=64)[0].xyxy[0, 0] == 8
    says(tmp_path / "a.onnx", v10_rows([9, 8, 24, 40, 0.5, 0], [9, 8, 25, 40, 0.5, 0], n=9))
    assert Onnx(weights="a.onnx").identity(tmp_path, "v") != first
    assert onnx_boxes(tmp_path / "a.onnx", image_size=64)[0].xyxy[0, 0] == 9  # not the cached session


def test_devices(tmp_path):
    says(tmp_path / "a.onnx", v10_rows())
    detector = Onnx(weights="a.onnx")
    with pytest.raises(ConfigError, match="runs on cpu, cuda or cuda:N"):
        detector.open(tmp_path, "v", device="tpu", threads=1)
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA: its absence cannot be tested")
    with pytest.raises(ConfigError, match=r"device cuda:1: this onnxruntime has no CUDA .*install onnxruntime-gpu"):
        detector.open(tmp_path, "v", device="cuda:1", threads=1)


def test_without_onnxruntime(tmp_path, monkeypatch):
    says(tmp_path / "a.onnx", v10_rows())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match=r"pip install 'mdfpipe\[onnx\]'"):
        Onnx(weights="a.onnx").open(tmp_path, "v", device="cpu", threads=1)


# --- onnx: real weights, real video --------------------------------------------------------------------------------


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


# --- precomputed ---------------------------------------------------------------------------------------------------

HEADER = "video_id,frame,x1,y1,x2,y2,score\n"


def look_up(folder, boxes="a.csv", video="v", n=4, **settings):
    detector = Precomputed(boxes=boxes, **settings)
    return detector.open(folder, video, device="cpu", threads=1)(plain(n))


def write(folder, text, name="a.csv"):
    (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("kind", ["csv", "parquet", "strings"])
def test_rows_are_looked_up_by_video_and_frame(tmp_path, kind):
    rows = [
        ("v", 2, 1.5, 2, 3, 4, 0.5),
        ("w", 2, 7, 7, 9, 9, 1),
        ("v", 0, 5, 5, 6, 6, 0.25),
        ("v", 2, 1, 1, 2, 2, 0.75),
    ]
    names = HEADER.strip().split(",")
    if kind == "csv":
        write(
            tmp_path,
            "\ufeffnote,score,y2,x2,y1,x1,frame,video_id\n"
            + "".join(f"?,{','.join(map(str, r[::-1]))}\n" for r in rows),
        )
    else:
        columns = [list(map(str, c)) if kind == "strings" else list(c) for c in zip(*rows, strict=True)]
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), tmp_path / "a.csv")
    found = look_up(tmp_path)
    assert [len(b) for b in found] == [1, 0, 2, 0]
    assert found[2].xyxy.tolist() == [[1, 1, 2, 2], [1.5, 2, 3, 4]]
    assert found[2].score.tolist() == [0.75, 0.5]
    assert [len(b) for b in look_up(tmp_path, min_score=0.5)] == [0, 0, 2, 0]


def test_a_stride_leaves_gaps(tmp_path):
    write(tmp_path, HEADER + "".join(f"v,{n},0,0,{n + 1},1,1\n" for n in range(9)))
    given = Frames(np.zeros((3, 8, 8, 3), np.uint8), np.array([1, 4, 7]), np.zeros(3))
    found = Precomputed(boxes="a.csv").open(tmp_path, "v", device="cpu", threads=1)(given)
    assert [b.xyxy[0, 2] for b in found] == [2, 5, 8]


def test_conventions(tmp_path):
    write(tmp_path, "video_id,frame,x,y,width,height\nv,1,10,20,5,6\n")
    found = look_up(tmp_path, box="xywh", frame_base=1)
    assert found[0].xyxy.tolist() == [[10, 20, 15, 26]]
    assert found[0].score.tolist() == [1.0]
    with pytest.raises(DataError, match=r"expected columns frame, x1.* x1 is missing, .*set detector\.box \(xywh\)"):
        look_up(tmp_path)


def test_one_file_per_video(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path, "frame,x1,y1,x2,y2\n1,1,2,3,4\n", "b/cam1__walk.csv")
    assert [len(b) for b in look_up(tmp_path, "b/{video_id}.csv", "cam1/walk")] == [0, 1, 0, 0]
    with pytest.raises(DataError, match=r"cam1/run: no boxes computed: .*cam1__run\.csv"):
        look_up(tmp_path, "b/{video_id}.csv", "cam1/run")
    with pytest.raises(ConfigError, match=r"detector\.boxes 'c\.csv' not found"):
        look_up(tmp_path, "c.csv")
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\n", "b/v.csv")
    with pytest.raises(DataError, match="expected boxes of v only, got boxes of w too"):
        look_up(tmp_path, "b/{video_id}.csv")


def test_a_video_without_rows_is_noted(tmp_path, caplog):
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\n")
    with caplog.at_level(logging.WARNING):
        assert [len(b) for b in look_up(tmp_path)] == [0] * 4
    assert "v: no boxes in a.csv" in caplog.text
    write(tmp_path, HEADER, "b.csv")
    assert [len(b) for b in look_up(tmp_path, "b.csv")] == [0] * 4


def test_only_a_videos_own_rows_count(tmp_path):
    write(tmp_path, HEADER + "v,1,1,2,3,4,1\nw,1,1,2,3,4,1\nv,0,1,2,3,4,1\n")
    write(tmp_path, HEADER + "v,0,1.0,2,3,4,1\nw,1,1,2,3,5,1\nu,0,0,0,1,1,1\nv,1,1,2,3,4,1.0\n", "b.csv")
    first, second = Precomputed(boxes="a.csv"), Precomputed(boxes="b.csv")
    assert first.identity(tmp_path, "v") == second.identity(tmp_path, "v")
    assert first.identity(tmp_path, "w") != second.identity(tmp_path, "w")
    write(tmp_path, HEADER + "v,1,1,2,3,4.5,1\nw,1,1,2,3,4,1\nv,0,1,2,3,4,1\n")
    assert first.identity(tmp_path, "v") != second.identity(tmp_path, "v")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("v,1,nan,2,3,4,1", "column x1: expected a number, got 'nan'"),
        ("v,1,1,2,inf,4,1", "column x2: expected a number, got 'inf'"),
        ("v,1,1,,3,4,1", "column y1: expected a number, got ''"),
        ("v,1,1,two,3,4,1", "column y1: expected a number, got 'two'"),
        ("v,1,1,2,1,4,1", "column x2: expected more than x1, got '1'"),
        ("v,1,1,2,3,1,1", "column y2: expected more than y1, got '1'"),
        ("v,1,16777216.2,2,16777216.4,4,1", "column x1: expected a position in pixels"),
        ("v,-1,1,2,3,4,1", r"column frame: expected 0 or more \(frame_base is 0\), got '-1'"),
        ("v,1.5,1,2,3,4,1", "column frame: expected a whole number, got '1.5'"),
        ("v,1e300,1,2,3,4,1", "column frame: expected a frame number, got '1e300'"),
        ("v,1,1,2,3,4,1.5", r"column score: expected a score in 0\.\.1, got '1.5'"),
        ("v,1,1,2,3,4," + "9" * 100_000, "column score: expected a number, got '9{40}"),
        ("v,1,1,2,3,4,\x1b[31m\x00", r"column score: expected a number, got '\\x1b"),
    ],
)
def test_bad_cells(tmp_path, row, message):
    write(tmp_path, HEADER + "w,1,1,2,3,4,1\n" + "v,0,1,2,3,4,1\n" + row + "\n")
    for ask in (look_up, lambda folder: Precomputed(boxes="a.csv").identity(folder, "v")):
        with pytest.raises(DataError, match=rf"a\.csv: data row 3, {message}") as caught:
            ask(tmp_path)
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
    assert len(look_up(tmp_path, video="w")[1]) == 1  # other videos do not suffer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read: Empty CSV"),
        ("frame,x1,y1,x2,y2\n1,1,2,3,4\n", "video_id is missing"),
        ("video_id,frame,x1,x1,y1,x2,y2\nv,1,1,1,2,3,4\n", "x1 stands 2 times"),
        (HEADER + "v,1,1,2\n", "cannot be read: .*Expected 7 columns, got 4"),
        (HEADER + "v,1,1,2,3,4,1\n,1,1,2,3,4,1\n", "data row 2, column video_id: expected a video, got nothing"),
        (HEADER + "v" * 10_000_000 + ",1,1,2,3,4,1\n", "cannot be read"),
        ("PAR1 and no more", "cannot be read"),
        ("n" * 5000 + "\n", "frame is missing"),
    ],
)
def test_bad_files(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(DataError, match=rf"a\.csv: .*{message}") as caught:
        look_up(tmp_path)
    assert len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


def test_nulls_and_odd_types_in_parquet(tmp_path):
    columns = {name: pa.array([1.0]) for name in ("x1", "y1")} | {
        "x2": pa.array([2.0]),
        "y2": pa.array([None], pa.float64()),
    }
    pq.write_table(pa.table({"video_id": ["v"], "frame": [0], **columns}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="data row 1, column y2: expected a number, got 'None'"):
        look_up(tmp_path, "a.parquet")
    columns["y2"] = pa.array([[1.0, 2.0]])
    pq.write_table(pa.table({"video_id": ["v"], "frame": [0], **columns}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="data row 1, column y2: expected a number"):
        look_up(tmp_path, "b.parquet")
    pq.write_table(pa.table({"video_id": pa.array([[1]]), "frame": [0], **columns}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: .*cannot be read"):
        look_up(tmp_path, "c.parquet")


# --- hashes --------------------------------------------------------------------------------------------------------


def test_file_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"abd")
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert file_sha256(path) != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match="cannot be read: No such file"):
        file_sha256(tmp_path / "b")
