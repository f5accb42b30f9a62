"""The detector on a GPU gives the boxes of the CPU. `scripts/gpu-check` runs this; elsewhere it is skipped.

DEVICE_OF_TESTS=cpu runs the tests themselves where there is no GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdfpipe.video.detectors.yolo import Yolo

from . import yolos
from .networks import plain

DEVICE = os.environ.get("DEVICE_OF_TESTS", "cuda:0")

pytestmark = pytest.mark.skipif(
    DEVICE != "cpu" and not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"
)


def found(folder: Path, device: str) -> Any:
    detector = Yolo.model_validate({"weights": str(folder / "w.pt"), "min_score": 0.0})
    return detector.open(folder, "v", device=device, threads=1)(plain())[0]


def test_a_gpu_gives_the_boxes_of_the_cpu(tmp_path: Path) -> None:
    yolos.save(tmp_path / "w.pt", yolos.network(classes=1).state_dict())
    wanted, got = found(tmp_path, "cpu"), found(tmp_path, DEVICE)
    assert len(got.score) == len(wanted.score) > 0
    np.testing.assert_allclose(np.sort(got.score), np.sort(wanted.score), atol=1e-3)
    nearest = np.abs(got.xyxy[:, None] - wanted.xyxy[None]).max(axis=2).min(axis=1)
    assert np.median(nearest) <= 0.5
