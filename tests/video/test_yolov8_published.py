"""The detector onnx on a published YOLOv8 network: the boxes of ultralytics' own predictor."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mdfpipe.video import ultralytics as _ultralytics
from mdfpipe.video.detectors.onnx import Onnx
from tests.real import ASSETS, needs_assets

from .networks import frames

WEIGHTS = Path(
    os.environ.get("MDFPIPE_TEST_YOLOV8", Path(__file__).parents[2] / ".venv" / "test-weights" / "320n.onnx")
)
CLIP = ASSETS / "real-walk" / "videos" / "face-demographics-walking.gif"
CONF, IOU, SIDE = 0.25, 0.45, 320


@needs_assets
@pytest.mark.skipif(
    not WEIGHTS.is_file(),
    reason=f"YOLOV8 NOT TESTED ON PUBLISHED WEIGHTS: no {WEIGHTS}; scripts/test-weights fetches them, or set "
    "MDFPIPE_TEST_YOLOV8 to 320n.onnx of the wheel nudenet",
)
@pytest.mark.filterwarnings("ignore")  # of ultralytics' own predictor
def test_boxes_are_those_of_ultralytics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    capture = cv2.VideoCapture(str(CLIP))
    pictures = [capture.read()[1] for _ in range(35)][::5]
    model = _ultralytics._library("ultralytics").YOLO(str(WEIGHTS), task="detect")
    asked = {"conf": CONF, "iou": IOU, "imgsz": SIDE, "device": "cpu", "save": False, "verbose": False}
    theirs = [model.predict(picture, **asked)[0].boxes for picture in pictures]
    given = frames(np.stack(pictures)[..., ::-1])
    height, width = given.pixels.shape[1:3]
    total = 0
    for kind in sorted({int(c) for boxes in theirs for c in boxes.cls}):
        detector = Onnx(weights=str(WEIGHTS), image_size=SIDE, person_class=kind, min_score=CONF, nms_iou=IOU)
        ours = detector.open(WEIGHTS.parent, "v", device="cpu", threads=1)(given)
        for found, expected in zip(ours, theirs, strict=True):
            mine = expected.cls.numpy() == kind
            clipped = found.xyxy.clip(0, [width, height, width, height])  # they clip, we do not
            np.testing.assert_allclose(clipped, expected.xyxy.numpy()[mine], atol=1e-3)
            np.testing.assert_allclose(found.score, expected.conf.numpy()[mine], atol=1e-6)
            total += int(mine.sum())
    assert total >= 8
