"""Faces by YuNet, with OpenCV's `FaceDetectorYN`: the boxes that `mdfpipe faces` makes a face table of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mdfpipe.config import BY_CONTENT, find_file
from mdfpipe.errors import ConfigError, DataError, one_line, refuse_lack_of_memory
from mdfpipe.store.hashing import file_sha256
from mdfpipe.video.detectors import Detect, Detector, Remarks, rgb_of
from mdfpipe.video.frames import Boxes, Frames

_SIDE = 64  # pixels of the picture on which weights are tried
_ROW = 15  # values of a face: left, top, width, height, five points, score


class Yunet(Detector):
    """Faces by YuNet (.onnx of OpenCV's model zoo), on the CPU. For `mdfpipe faces`: its boxes are no bodies."""

    weights: str = Field(json_schema_extra=BY_CONTENT, description="the file; its content is part of the fingerprint")
    min_score: float = Field(0.6, ge=0, le=1, description="least confidence of a face; those below it are dropped")
    nms_iou: float = Field(0.3, ge=0, le=1, description="IoU with a better face above which a face is suppressed")
    max_detections: int = Field(1000, ge=1, description="largest number of faces per frame; the best ones are kept")

    def check(self, data: Path) -> None:
        """Raise ConfigError where the weights are missing or are not YuNet's."""
        self._loaded(data)

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """The hash of the weights. Raises ConfigError where they are missing."""
        return {"weights": file_sha256(find_file(self.weights, data, "weights"))}

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """The same for every video."""
        found = cache(partial(self.identity, data, ""))
        return lambda video_id: found()

    def remarks(self, data: Path, *, device: str, threads: int) -> Remarks:
        """Nothing that a reader has to know."""
        return Remarks()

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """The network as a function; it runs on the CPU, with any device."""
        import cv2

        network = self._loaded(data)
        cv2.setNumThreads(threads)
        return _Faces(network)

    def _loaded(self, data: Path) -> Any:
        path = find_file(self.weights, data, "weights").absolute()
        return _network(path, file_sha256(path), self.min_score, self.nms_iou, self.max_detections)


@cache
def _network(path: Path, sha256: str, min_score: float, nms_iou: float, most: int) -> Any:
    """Load the weights once a process, and try them. Raises ConfigError where they are not YuNet's."""
    import cv2

    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (_SIDE, _SIDE), min_score, nms_iou, most)
        network.detect(np.zeros((_SIDE, _SIDE, 3), np.uint8))
    except Exception as error:  # cv2.error, and what its wrapper raises
        refuse_lack_of_memory(error)
        raise ConfigError(
            f"{path}: expected YuNet's weights for OpenCV (face_detection_yunet_*.onnx), got a file that OpenCV "
            f"{cv2.__version__} does not take as such ({_short(error)}); name another file"
        ) from None
    return network


def _short(error: Exception) -> str:
    """OpenCV's reason, without the source line that it begins with."""
    return one_line(str(getattr(error, "err", "") or error), 120)


@dataclass(frozen=True, eq=False)
class _Faces(Detect):
    """The faces of each frame, best score first, inside the frame."""

    network: Any

    def prepare(self, frames: Frames) -> list[Any]:
        """The pictures, BGR."""
        return [np.ascontiguousarray(one[..., ::-1]) for one in rgb_of(frames)]

    def run(self, prepared: list[Any]) -> list[Boxes]:
        """The boxes of each picture."""
        found = []
        for one in prepared:
            height, width = one.shape[:2]
            self.network.setInputSize((width, height))
            found.append(_boxes(self.network, one, width, height))
        return found

    def read(self, frames: Frames, answer: list[Boxes]) -> list[Boxes]:
        """The boxes, which the network gives as they are."""
        return answer


def _boxes(network: Any, bgr: Any, width: int, height: int) -> Boxes:
    try:
        _, found = network.detect(bgr)
    except Exception as error:
        refuse_lack_of_memory(error)
        raise DataError(f"YuNet does not run on a picture of {width}x{height}: {_short(error)}") from None
    if found is None:
        return Boxes.none()
    rows = np.asarray(found, np.float32).reshape(-1, _ROW)
    xyxy = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1).clip(0, [width, height, width, height])
    kept = (xyxy[:, 2] - xyxy[:, 0] >= 1) & (xyxy[:, 3] - xyxy[:, 1] >= 1)  # not beyond the edge
    order = np.flatnonzero(kept)[np.argsort(-rows[kept, -1], kind="stable")]
    return Boxes(xyxy[order].astype(np.float32), rows[order, -1].clip(0, 1))
