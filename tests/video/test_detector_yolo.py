"""The detector yolo: the one-to-one head, forms of weights, what is refused, batches, precision, fetching."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mdfpipe.config import result_settings, validate
from mdfpipe.errors import ConfigError, MdfError
from mdfpipe.store.trust import trusting
from mdfpipe.video import ultralytics as quarantine
from mdfpipe.video.detectors import Detector
from mdfpipe.video.detectors import yolo as yolo_file
from mdfpipe.video.detectors.yolo import Yolo
from mdfpipe.video.frames import Frames
from mdfpipe.weightfiles import take

from . import yolos
from .networks import frames, plain
from .yolos import yolo_boxes


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """One-class and 80-class networks as state_dicts: {classes: (path, network)}."""
    folder = tmp_path_factory.mktemp("weights")
    made = {}
    for classes in (1, 80):
        network = yolos.network(classes=classes)
        made[classes] = (yolos.save(folder / f"{classes}.pt", network.state_dict()), network)
    return made


def overlap(a, b):
    """IoU (n, m) of boxes xyxy."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=1) for x in (a, b)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


# --- which head, and how it is decoded ---


@pytest.mark.parametrize(("classes", "person"), [(1, 0), (80, 0), (80, 17)])
@pytest.mark.parametrize("size", [(128, 192), (192, 96), (64, 64)])
def test_boxes_are_those_of_the_one_to_one_head(weights, classes, person, size):
    path, network = weights[classes]
    given = yolos.patches(3, size)
    answers = yolos.by_hand(network, yolos.as_input(given), person=person)
    least = yolos.threshold(answers)
    found = yolo_boxes(path, given, min_score=least, person_class=person)
    assert sum(map(len, found)) >= 40
    for boxes, answer in zip(found, answers, strict=True):
        yolos.assert_same_boxes(boxes, answer, least, within_px=0.3, within=2e-4)
    others = yolos.by_hand(network, yolos.as_input(given), person=person, head="")
    for boxes, (xyxy, score) in zip(found, others, strict=True):  # the other head would have been another answer
        wrong = xyxy[score >= least]
        assert len(wrong) != len(boxes)
        assert not len(wrong) or not len(boxes) or np.median(overlap(boxes.xyxy, wrong).max(axis=1)) < 0.95


def test_bfloat16_keeps_the_boxes(tmp_path):
    """On a network that is steadier than one with drawn weights, and far from what the other head says."""
    network = yolos.network()
    head = network.model[-1]
    with torch.no_grad():
        for branch, bin_ in (("one2one_cv2", 1), ("cv2", 6)):
            for level in getattr(head, branch):
                level[-1].weight.mul_(0.1)
                level[-1].bias.zero_().view(4, 16)[:, bin_ : bin_ + 3] = 4.0
    path = yolos.save(tmp_path / "a.pt", network.state_dict())
    given = yolos.patches(4)
    answers = yolos.by_hand(network, yolos.as_input(given))
    others = yolos.by_hand(network, yolos.as_input(given), head="")
    least = yolos.threshold(answers)
    found = yolo_boxes(path, given, min_score=least, precision="bf16")
    exact = yolo_boxes(path, given, min_score=least)
    kept = np.concatenate(
        [overlap(b.xyxy, xyxy[score > least / 2]).max(axis=1) for b, (xyxy, score) in zip(found, answers, strict=True)]
    )
    assert len(kept) == pytest.approx(sum(map(len, exact)), rel=0.25)
    assert (kept >= 0.9).mean() >= 0.95
    for boxes, (xyxy, score) in zip(found, others, strict=True):
        assert overlap(boxes.xyxy, xyxy[score >= least]).max() < 0.6
    assert any(not np.array_equal(a.xyxy, b.xyxy) for a, b in zip(found, exact, strict=True))


def test_boxes_come_back_through_the_letterbox(weights):
    path, network = weights[1]
    given = yolos.patches(3, (200, 400))
    found = yolo_boxes(path, given, image_size=192, min_score=0)  # 96 x 192, filled to the last pixel
    from mdfpipe.video.letterbox import Letterbox, NetworkInputs

    box = Letterbox.fit((200, 400), (96, 192), centred=True)
    images = NetworkInputs(box, np.float32, bgr=False, unit=True).of(given.pixels, 3)
    for boxes, (xyxy, score) in zip(found, yolos.by_hand(network, images), strict=True):
        best = score.argmax()
        np.testing.assert_allclose(boxes.xyxy[0], xyxy[best] * 200 / 96, atol=0.2)
        assert len(boxes) == 300


@pytest.mark.filterwarnings("ignore")  # of ultralytics' own predictor
@pytest.mark.parametrize("size", [(128, 192), (150, 300)])
def test_boxes_agree_with_the_predictor_of_ultralytics(weights, size, monkeypatch, tmp_path):
    path, network = weights[1]
    monkeypatch.chdir(tmp_path)
    given = yolos.patches(3, size)
    answers = yolo_boxes(path, given, image_size=192, min_score=0)
    least = float(np.sort(np.concatenate([b.score for b in answers]))[-60])
    reference = quarantine._library("ultralytics").YOLO("yolov10n.yaml", task="detect")
    reference.model = network
    network.args = {}
    options = {"conf": least, "classes": [0], "imgsz": 192, "nms": False, "batch": 3, "device": "cpu", "rect": True}
    pictures = [np.ascontiguousarray(p[:, :, ::-1]) for p in given.pixels]
    theirs = reference.predict(pictures, save=False, verbose=False, **options)
    found = yolo_boxes(path, given, image_size=192, min_score=least - 1e-3)
    total = 0
    for boxes, result in zip(found, theirs, strict=True):
        for xyxy, score in zip(result.boxes.xyxy.numpy(), result.boxes.conf.numpy(), strict=True):
            height, width = size
            clipped = boxes.xyxy.clip(0, [width, height, width, height])  # they clip, we do not
            same = (overlap(xyxy[None], clipped)[0] >= 0.99) & (np.abs(boxes.score - score) < 1e-3)
            assert same.any()
            total += 1
    assert total >= 40


# --- batches, sizes, numbers ---


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_do_not_move_a_bit(weights, threads, precision):
    given = yolos.patches(8)
    whole = yolo_boxes(weights[1][0], given, threads=threads, min_score=0.1, precision=precision)
    assert sum(map(len, whole)) > 100
    for size in (1, 2, 3, 4):
        parts = [
            Frames(given.pixels[i : i + size], given.index[i : i + size], given.pts_seconds[i : i + size])
            for i in range(0, 8, size)
        ]
        cut = [
            b for p in parts for b in yolo_boxes(weights[1][0], p, threads=threads, min_score=0.1, precision=precision)
        ]
        for a, b in zip(whole, cut, strict=True):
            np.testing.assert_array_equal(a.xyxy, b.xyxy)
            np.testing.assert_array_equal(a.score, b.score)


def test_the_best_ones_are_kept_and_a_frame_size_may_change(weights):
    detect = Yolo(weights=str(weights[1][0]), image_size=128, min_score=0, max_detections=7)
    run = detect.open(weights[1][0].parent, "v", device="cpu", threads=1)
    assert [len(b) for b in run(yolos.patches(2))] == [7, 7]
    assert [len(b) for b in run(yolos.patches(1, (64, 64)))] == [7]
    assert run.pictures.letterbox.input == (128, 128)
    assert run(frames(np.zeros((0, 64, 64, 3)))) == []
    with pytest.raises(ValueError, match="expected uint8 RGB frames"):
        run(Frames(np.zeros((1, 64, 64, 1), np.uint16), np.arange(1), np.zeros(1)))


def test_nonsense_from_the_network(tmp_path):
    network = yolos.network()
    network.model[-1].one2one_cv3[0][-1].bias.data.fill_(torch.nan)
    path = yolos.save(tmp_path / "a.pt", network.state_dict())
    with pytest.raises(ConfigError, match=r"a\.pt: expected finite weights, got NaN or infinity in model\.23\."):
        yolo_boxes(path, plain())


def test_a_network_that_does_not_run(weights, monkeypatch):
    run = Yolo(weights=str(weights[1][0]), image_size=64).open(weights[1][0].parent, "v", device="cpu", threads=1)

    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nMore.")

    monkeypatch.setattr(run.network.module, "forward", full)
    with pytest.raises(MemoryError, match="allocate 9 bytes") as caught:  # which the unit's failure explains
        run(plain())
    assert "\n" not in str(caught.value)


# --- forms of weights ---


@pytest.mark.parametrize("form", ["half", "demo", "checkpoint", "ema", "before 2.6"])
def test_forms_of_weights(weights, tmp_path, form):
    path, network = weights[1][0], yolos.network()
    half = network.half()
    note = {"arch": "yolov10n", "classes": ["person"], "note": "synthetic data only"}
    contents = {
        "half": half.state_dict(),
        "demo": {"model": half.state_dict(), **note},
        "checkpoint": {"epoch": -1, "model": half, "ema": None, "train_args": {"imgsz": 640}, "date": "2026"},
        "ema": {"model": None, "ema": half, "optimizer": None},
        "before 2.6": half.state_dict(),
    }
    torch.save(contents[form], tmp_path / "a.pt", _use_new_zipfile_serialization=form != "before 2.6")
    given = yolos.patches(2)
    expected = yolos.by_hand(half.float(), yolos.as_input(given))
    for boxes, (xyxy, score) in zip(yolo_boxes(tmp_path / "a.pt", given, min_score=0), expected, strict=True):
        np.testing.assert_allclose(boxes.score[:5], np.sort(score)[::-1][:5], atol=2e-4)
        np.testing.assert_allclose(boxes.xyxy[0], xyxy[score.argmax()], atol=0.1)
    for model, fits in (("n", True), ("x", False)):
        if fits:
            yolo_boxes(tmp_path / "a.pt", given, model=model)
        else:
            with pytest.raises(
                ConfigError, match=r"model is x: expected the tensors of yolov10x, got those of yolov10n"
            ):
                yolo_boxes(tmp_path / "a.pt", given, model=model)
    assert path.exists()


def test_which_of_two_networks_in_a_file_is_taken_is_told(tmp_path):
    first, second = yolos.network().state_dict(), yolos.network(seed=1).state_dict()
    counted = {n: t for n, t in second.items() if not n.endswith("num_batches_tracked")}  # nothing needs them
    torch.save({"model": first, "ema": counted, "best": np.float64(0.5)}, tmp_path / "a.pt")
    torch.save(first, tmp_path / "first.pt")
    torch.save(second, tmp_path / "second.pt")
    for settings, other, said in (
        ({}, "second", "took `ema`; the file also has `model`"),
        ({"weights_entry": "model"}, "first", ""),
    ):
        detector = Yolo(weights="a.pt", image_size=64, min_score=0, **settings)
        found = detector.open(tmp_path, "v", device="cpu", threads=1)(plain())
        expected = yolo_boxes(tmp_path / f"{other}.pt", plain(), min_score=0, image_size=64)
        np.testing.assert_array_equal(found[0].score, expected[0].score)
        remarks = detector.remarks(tmp_path, device="cpu", threads=1)
        assert said in "".join(remarks.lines)
        assert bool(remarks.doubts) != bool(said)


def test_the_shapes_tell_every_published_network():
    tasks = quarantine._library()
    for variant in "nsmblx":
        settings = tasks.yaml_model_load(f"yolov10{variant}.yaml") | {"nc": 3}
        with torch.device("meta"):  # shapes without numbers
            layers, _ = tasks.parse_model(settings, ch=3, verbose=False)
        state = {f"model.{name}": tensor for name, tensor in layers.state_dict().items()}
        assert quarantine._variant(state) == variant


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: without(s, "one2one"), "not yet fused, got .* others"),
        (lambda s: without(s, "model.9."), r"tensors of yolov10n with 1 classes, \d+ differ: model\.9\..* is missing"),
        (lambda s: s | {"more": torch.zeros(2)}, r"1 differ: more is \(2,\), expected none"),
        (lambda s: without(s, "model.4.m."), "expected the tensors of a YOLOv10"),
        (lambda s: {"weights": torch.zeros(3)}, "expected the tensors of a YOLOv10"),
        (
            lambda s: {"model": "yolov10n", "epoch": 3},
            r"expected a state_dict.*got no tensors, but \['model', 'epoch'\]",
        ),
        (lambda s: {}, "expected a state_dict"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, change, says):
    yolos.save(tmp_path / "a.pt", change(yolos.network().state_dict()))
    with pytest.raises(ConfigError, match=rf"a\.pt: .*{says}") as caught:
        yolo_boxes(tmp_path / "a.pt", plain())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_checkpoints_of_other_networks_are_refused(tmp_path):
    other = quarantine._library().DetectionModel("yolov8n.yaml", nc=1, verbose=False)
    yolos.save(tmp_path / "a.pt", {"model": other})
    with pytest.raises(ConfigError, match="expected a YOLOv10 network with both of its heads, got a Detect without"):
        yolo_boxes(tmp_path / "a.pt", plain())
    yolos.save(tmp_path / "b.pt", {"model": yolos.network().fuse(verbose=False)})
    with pytest.raises(ConfigError, match="got a v10Detect without"):
        yolo_boxes(tmp_path / "b.pt", plain())


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04" + bytes(500), pickle.dumps({"a": 1})])
def test_no_weights_at_all(tmp_path, content, capfd):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.pt: expected .*") as caught:
        yolo_boxes(tmp_path / "a.pt", plain())
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_class_that_the_network_lacks(weights):
    with pytest.raises(ConfigError, match="has 1 classes, numbered from 0, got 1"):
        yolo_boxes(weights[1][0], plain(), person_class=1)


def test_a_replaced_file_is_loaded_again(tmp_path):
    yolos.save(tmp_path / "a.pt", yolos.network().state_dict())
    detector = Yolo(weights="a.pt", image_size=64, min_score=0)
    first, before = detector.identity(tmp_path, "v"), yolo_boxes(tmp_path / "a.pt", plain(), min_score=0)
    yolos.save(tmp_path / "a.pt", yolos.network(seed=1).state_dict())
    assert detector.identity(tmp_path, "v") != first
    assert not np.array_equal(before[0].score, yolo_boxes(tmp_path / "a.pt", plain(), min_score=0)[0].score)


# --- hostile files ---


class Payload:
    """A pickle that would make the file `ran`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "before 2.6", "bare pickle", "beside tensors", "in a network"])
def test_a_hostile_file_never_runs(tmp_path, form):
    marker, path = tmp_path / "ran", tmp_path / "a.pt"
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    elif form == "in a network":
        network = yolos.network()
        network.names = Payload(marker)
        torch.save({"model": network}, path)
    else:
        content = {"model": yolos.network().state_dict(), "note": Payload(marker)}
        content = content if form == "beside tensors" else Payload(marker)
        torch.save(content, path, _use_new_zipfile_serialization=form != "before 2.6")
    advice = "save a state_dict" if form == "bare pickle" else "--trust-pickle"  # torch opens no bare one at all
    with pytest.raises(ConfigError, match=rf"a\.pt: .*refused: opening it would run posix\.system.*{advice}") as caught:
        yolo_boxes(path, plain())
    assert not marker.exists()
    assert "\n" not in str(caught.value)
    if form in ("beside tensors", "in a network"):  # the flag opens it: the tensors are good
        assert len(trusted_boxes(path)) == 3
        assert marker.exists()


class Attribute:
    """A pickle that would call a method of a path. ultralytics takes both names, and an attribute of networks alone."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_what_one_file_needs_is_not_granted_to_the_next(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": yolos.network()}, tmp_path / "network.pt")
    torch.save({"model": yolos.network().state_dict(), "note": Attribute(tmp_path / "ran")}, tmp_path / "a.pt")
    yolo_boxes(tmp_path / "network.pt", plain())
    with pytest.raises(ConfigError, match=r"refused: .*\(unsafe getattr\(function, 'touch'\) blocked.*--trust-pickle"):
        yolo_boxes(tmp_path / "a.pt", plain())
    for name, asked in (("network.pt", r"torch\.nn\."), ("a.pt", r"builtins\.getattr")):
        with pytest.raises(ConfigError, match=f"refused: opening it would run .*{asked}"):
            take(tmp_path / name)
    assert set(torch.serialization.get_safe_globals()) == before
    assert not (tmp_path / "ran").exists()


def trusted_boxes(path):
    with trusting(True):
        return yolo_boxes(path, plain())


def test_the_flag_does_not_mend_a_damaged_file(tmp_path):
    marker = tmp_path / "ran"
    torch.save(Payload(marker), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="that pickle opens, it stops with"):
        trusted_boxes(tmp_path / "a.pt")


# --- settings, devices, files ---


def test_only_what_decides_boxes_enters_the_fingerprint(weights, tmp_path):
    path = weights[1][0]
    (tmp_path / "moved.pt").write_bytes(path.read_bytes())
    one = Yolo(weights=str(path))
    two = Yolo(weights=str(tmp_path / "moved.pt"), model="n")
    assert result_settings(one) == result_settings(two)
    assert one.identity(tmp_path, "v") == two.identity(tmp_path, "v")
    assert result_settings(Yolo(precision="bf16")) != result_settings(Yolo())
    assert set(result_settings(one)) == {
        *("use", "min_score", "person_class", "max_detections", "image_size", "precision", "engine")
    }


def test_a_size_that_is_no_multiple_of_32():
    for wrong in (100, 0, 16):
        with pytest.raises(ConfigError, match="image_size"):
            validate(Detector, {"use": "yolo", "image_size": wrong}, "detector")


def test_devices(weights):
    detector, folder = Yolo(weights=str(weights[1][0])), weights[1][0].parent
    for wrong in ("tpu", "cpu:1", "cuda:x"):
        with pytest.raises(ConfigError, match="runs on cpu, cuda or cuda:N"):
            detector.open(folder, "v", device=wrong, threads=1)
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA: its absence cannot be tested")
    with pytest.raises(ConfigError, match=r"device cuda:1: torch .* sees 0 such devices"):
        detector.open(folder, "v", device="cuda:1", threads=1)


def test_without_ultralytics(weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "mdfpipe.video.ultralytics", None)
    monkeypatch.delattr("mdfpipe.video.ultralytics")
    with pytest.raises(MdfError, match="the detector yolo needs the package"):
        Yolo(weights=str(weights[1][0]), model="n").open(weights[1][0].parent, "v", device="cpu", threads=1)


def test_missing_weights_say_where_to_put_them_and_how_to_fetch_them(tmp_path, monkeypatch):
    monkeypatch.setattr(yolo_file, "DEMO", tmp_path / "none.pt")
    with pytest.raises(
        ConfigError, match=r"'yolov10x\.pt' not found; looked at .*--download-weights fetch it into"
    ) as caught:
        Yolo().check(tmp_path)
    assert str(tmp_path / "weights") in str(caught.value)
    for way in ("{use: onnx, weights: FILE}", "{use: precomputed, boxes: FILE}"):  # without a network
        assert way in str(caught.value)
        assert validate(Detector, yaml.safe_load(way), "detector")
    with pytest.raises(ConfigError, match=r"weights 'mine\.pt' not found") as caught:
        Yolo(weights="mine.pt").check(tmp_path)
    assert "--download-weights" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"mine\.pt.*--download-weights knows yolov10n\.pt, .* only"):
        Yolo(weights="mine.pt").download(tmp_path, print)
    with pytest.raises(ConfigError, match=r"`pip install \./weights`, or install its wheel"):
        Yolo(weights="demo").check(tmp_path)
