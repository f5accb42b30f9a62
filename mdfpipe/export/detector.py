"""A detector's weights as ONNX, for the detector `onnx`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.export.graph import describe, trace
from mdfpipe.store.files import writing
from mdfpipe.store.shipped import study_names
from mdfpipe.store.trust import is_trusted
from mdfpipe.study.study import Study
from mdfpipe.video.detectors.onnx import NOTE, Onnx
from mdfpipe.video.detectors.yolo import Yolo
from mdfpipe.video.frames import Boxes, Frames

IMAGE_SIZE = 640  # of the picture that is traced and compared, by default
ROWS = 300  # of the exported end-to-end output, as YOLOv10 has it
SMALLEST = 128  # a square input of 128 has 336 anchors; under ROWS of them the graph's TopK fails
COMPARED = 50  # boxes of the check
TOLERANCE = (1.0, 0.01)  # pixels of box and score between torch and the exported file: more is no rounding


@dataclass(frozen=True)
class ExportedDetector:
    """What was written, and how far its boxes and scores on a test picture are from those of the weights.

    box: pixels; score: 0..1; compared: so many boxes.
    """

    path: Path
    compared: int
    box: float
    score: float

    @property
    def lines(self) -> list[str]:
        """The same in words."""
        same = f"its {self.compared} best boxes on a test picture are those of the weights: they"
        if not self.compared:
            same = "none of its best boxes on a test picture is a person, so nothing was compared: they"
        return [
            f"wrote {self.path}: {self.path.stat().st_size} bytes; images (B, 3, H, W) -> output (B, {ROWS}, 6), "
            f"B, H and W free, H and W multiples of 32 of {SMALLEST} and more",
            f"{same} differ by at most {self.box:.2g} pixels and {self.score:.2g} in score",
        ]


def export(thing: str, out: Path, *, data: Path, image_size: int) -> ExportedDetector:
    """Write the detector of a study (.yaml), or weights (.pt, or "demo"), to the ONNX file `out` (`mdfpipe.export`)."""
    detector = _detector(thing)
    if image_size < SMALLEST or image_size % 32:
        raise ConfigError(
            f"--image-size {image_size}: expected a multiple of 32 from {SMALLEST} on: the exported network gives "
            f"{ROWS} boxes, and a smaller picture has fewer anchors than that"
        )
    weights = detector.find(data).absolute()
    with writing(out) as file:
        scratch = Path(file.name)  # `out` once it is compared
        _write(weights, detector, scratch, image_size)
        compared, box, score = _compare(weights, detector, scratch, image_size)
        if box > TOLERANCE[0] or score > TOLERANCE[1]:
            raise ConfigError(
                f"{weights}: expected the same boxes from the exported file, they differ by {box:.3g} pixels and "
                f"{score:.3g} in score; nothing was written; run these weights with the detector yolo"
            )
    return ExportedDetector(out, compared, box, score)


def _detector(thing: str) -> Yolo:
    named = thing in study_names() and not Path(thing).is_file()
    if Path(thing).suffix.lower() not in (".yaml", ".yml") and not named:
        name = thing if thing == "demo" else str(Path(thing).absolute() if Path(thing).exists() else thing)
        return validate(Yolo, {"weights": name}, "export")
    detect = Study.load(Path(thing)).detect
    if detect is None or not isinstance(detect.detector, Yolo):
        got = "one that detects nothing" if detect is None else detect.detector.use
        raise ConfigError(f"{thing}: expected a study whose detector is yolo, got {got}: nothing to export")
    return detect.detector


def _write(weights: Path, detector: Yolo, out: Path, side: int) -> None:
    """Trace the fused network with its one-to-one head, decoded, into an ONNX file."""
    from mdfpipe.video import ultralytics

    loaded = ultralytics.load(weights, detector.model, detector.weights_entry, trust_pickle=is_trusted())
    network: Any = loaded.network
    head = network.model[-1]
    head.end2end = True  # before fuse(), which deletes the head that is not chosen
    network.fuse(verbose=False)
    head.export, head.dynamic, head.format, head.max_det = True, True, "onnx", ROWS
    free = {0: "batch", 2: "height", 3: "width"}
    trace(network, (2, 3, side, side), out, output="output", free=free)
    if loaded.note:
        describe(out, {NOTE: loaded.note})  # where the detector onnx reads it


def _compare(weights: Path, detector: Yolo, made: Path, side: int) -> tuple[int, float, float]:
    """(compared boxes, greatest difference of their edges in pixels, and of their scores) on a drawn picture."""
    y, x = np.mgrid[0:side, 0:side] / side
    picture = np.stack([x, y, (x * 5 + y * 3) % 1.0], axis=2) * 200
    for left, height in ((0.2, 0.5), (0.6, 0.7)):  # two upright shapes
        rows, columns = (
            slice(int(0.2 * side), int((0.2 + height) * side)),
            slice(int(left * side), int((left + 0.2) * side)),
        )
        picture[rows, columns] = (40, 60, 90 + 100 * left)
    frames = Frames(np.stack([picture, picture[:, ::-1]]).astype(np.uint8), np.arange(2), np.zeros(2))
    common = {"min_score": 0.0, "person_class": detector.person_class, "image_size": side}
    same = {"model": detector.model, "weights_entry": detector.weights_entry}
    ours = Yolo(weights=str(weights), max_detections=10**6, **same, **common)
    theirs = Onnx(weights=str(made), max_detections=COMPARED, **common)
    found, expected = (d.open(made.parent, "export", device="cpu", threads=2)(frames) for d in (theirs, ours))
    differences = np.concatenate([_differences(f, e) for f, e in zip(found, expected, strict=True)])
    box, score = differences.max(axis=0, initial=0.0)
    return len(differences), float(box), float(score)


def _differences(found: Boxes, expected: Boxes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n, 2): how far each found box is from the expected one that is closest to it, in pixels and in score."""
    pixels = np.abs(found.xyxy[:, None] - expected.xyxy[None]).max(axis=2)
    scores = np.abs(found.score[:, None] - expected.score[None])
    closest = (pixels + 100 * scores).argmin(axis=1)
    each = np.arange(len(found))
    return np.stack([pixels[each, closest], scores[each, closest]], axis=1)
