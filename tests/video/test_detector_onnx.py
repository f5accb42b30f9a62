"""The detector onnx on tiny networks: formats, what they are fed, batches, files and devices."""

import io
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError, MissingDependency
from mdfpipe.video.detectors import Detector
from mdfpipe.video.detectors.onnx import Onnx, fitting_formats
from mdfpipe.video.frames import Frames

from .networks import frames, onnx_boxes, plain, save, says, tells_its_input, v10_rows


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


# --- what the network is fed ---


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
    assert detect.fitted.letterbox.input == expected
    detect(plain(2, (64, 64)))  # another frame size on the way
    assert detect.fitted.letterbox.frame == (64, 64)


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


# --- files and devices ---


def torch_file():
    file = io.BytesIO()
    torch.save({"w": torch.ones(3)}, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got an empty file; get it again"),
        (b"not a model of any kind", "got a text that begins 'not a model of any kind'"),
        (bytes(5000), "got 5000 bytes of no known kind"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n", "got a Git LFS pointer"),
        (torch_file(), "got a checkpoint of torch; export the detector to ONNX"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "got an HDF5 file"),
    ],
)
def test_no_onnx_model(tmp_path, content, said, capfd):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.onnx: expected an ONNX model, {said}") as caught:
        onnx_boxes(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m, "ir_version", 99), r"Unsupported model IR version: 99, .*lower opset"),
        (lambda m: setattr(m.opset_import[0], "version", 99), r"Opset 99 is under development"),
        (lambda m: setattr(m.graph.node[0], "op_type", "Nonsense"), r"No Op registered for Nonsense|invalid model"),
        (lambda m: m.ClearField("graph"), "truncated or damaged"),
    ],
)
def test_a_model_that_does_not_run_here(tmp_path, change, said):
    says(tmp_path / "a.onnx", v10_rows(n=300))
    change(model := onnx.load(tmp_path / "a.onnx"))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString() + b"\x42\x02\x10\x11")
    with pytest.raises(ConfigError, match=rf"a\.onnx: .*({said})") as caught:
        onnx_boxes(tmp_path / "a.onnx")
    assert "…" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


def test_a_truncated_model_and_one_whose_batch_is_fixed_within(tmp_path):
    says(tmp_path / "a.onnx", v10_rows(n=300))
    (tmp_path / "a.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"an ONNX model, truncated or damaged: .*; get it again"):
        onnx_boxes(tmp_path / "a.onnx")
    rows = numpy_helper.from_array(np.zeros((1, 8, 6), np.float32))
    save(tmp_path / "b.onnx", [helper.make_node("Constant", [], ["output"], value=rows)], [1, 8, 6])
    with pytest.raises(ConfigError, match=r"boxes of every image, got an output of \(1, 8, 6\).*free batch axis"):
        onnx_boxes(tmp_path / "b.onnx")


def test_no_detector(tmp_path):
    save(tmp_path / "a.onnx", [helper.make_node("Identity", ["images"], ["output"])], ["b", 5], shape=("b", 5))
    with pytest.raises(ConfigError, match=r"expected one input of images \(B, 3, H, W\)"):
        onnx_boxes(tmp_path / "a.onnx")


def test_weights_in_a_second_file_are_refused(tmp_path):
    says(tmp_path / "whole.onnx", v10_rows(n=300))
    model = onnx.load(tmp_path / "whole.onnx")
    onnx.save(model, tmp_path / "a.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(
        ConfigError, match=r"whose weights lie in a second file; .*onnx\.save\(onnx\.load\(FILE\), NEW\)"
    ):
        onnx_boxes(tmp_path / "a.onnx")
    onnx.save(onnx.load(tmp_path / "a.onnx"), tmp_path / "b.onnx")  # the advice
    assert len(onnx_boxes(tmp_path / "b.onnx")) == 3


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
