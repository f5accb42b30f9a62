"""Which engine `engine: auto` is, for all units of a stage: decided here once, so that it travels with each unit.

A stage keeps the engine that its parts have. A new one takes OpenVINO on a CPU where it is installed, if its
boxes on a test picture are those of the engine that the detector has without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdfpipe.errors import MdfError, MissingDependency
from mdfpipe.machine.engines import EXTRAS, is_present
from mdfpipe.running.crew import Crew
from mdfpipe.running.workers import Step
from mdfpipe.running.workers.spawned import Spawned
from mdfpipe.stages import Resources, Stage
from mdfpipe.stages.detect import Detect
from mdfpipe.store.trust import trusting
from mdfpipe.video.detectors import NetworkDetector
from mdfpipe.video.frames import Boxes, Frames

PREFERRED = "openvino"
COMPARED = 50  # boxes of a picture, the best ones whatever their score
TOLERANCE = {"fp32": (0.5, 0.002), "bf16": (4.0, 0.05), "fp16": (1.0, 0.02)}
"""Pixels of a box's edges, and score: more is no rounding. In bf16 and fp16, too, the other runs in fp32."""


def with_engine(
    stage: Stage, made: Sequence[Mapping[str, Any]], data: Path, resources: Resources
) -> tuple[Stage, list[str]]:
    """The stage as its units are done, with its engine named; and lines to report. made: the facts of parts that are.

    Raises MissingDependency where an engine that the study asks for is not installed.
    """
    if not isinstance(stage, Detect) or not isinstance(stage.detector, NetworkDetector):
        return stage, []
    detector = stage.detector
    if detector.engine != "auto":
        if not is_present(detector.engine):
            raise MissingDependency(
                detector.engine, f"detect.detector.engine {detector.engine}", EXTRAS.get(detector.engine)
            )
        return stage, []
    names = [(facts.get("engine") or {}).get("name", detector.native) for facts in made]
    name, notes = _engine(detector, names, data, resources)
    return under(stage, name), notes


def engine_of(stage: Stage) -> str | None:
    """The engine that a stage names for its network; None where it has none."""
    if isinstance(stage, Detect) and isinstance(stage.detector, NetworkDetector):
        return stage.detector.engine
    return None


def under(stage: Stage, engine: str | None) -> Stage:
    """The stage with its network under this engine, as `with_engine` gave it to the leader."""
    if engine is None or not isinstance(stage, Detect) or not isinstance(stage.detector, NetworkDetector):
        return stage
    return stage.model_copy(update={"detector": _with(stage.detector, engine)})


def _with(detector: NetworkDetector, engine: str) -> NetworkDetector:
    return detector.model_copy(update={"engine": engine})


def _engine(detector: NetworkDetector, names: Sequence[str], data: Path, resources: Resources) -> tuple[str, list[str]]:
    """The engine of a stage whose parts were made by these, and lines to report."""
    if names:
        usual = max(sorted(set(names)), key=names.count)
        runs = resources.device == "cpu" or usual != PREFERRED
        if runs and (usual == detector.native or is_present(usual)):
            return usual, []
        why = "does not run on a GPU here" if is_present(usual) else "is not installed here"
        line = f"detect: {usual} made {names.count(usual)} parts and {why}: {detector.native} makes the others"
        return detector.native, [line]
    if resources.device != "cpu" or not is_present(PREFERRED):
        return detector.native, []
    agrees, words = _compared(detector, data, resources)
    return (PREFERRED if agrees else detector.native), ([f"detect: {words}"] if words else [])


def _compared(detector: NetworkDetector, data: Path, resources: Resources) -> tuple[bool, str]:
    """Whether the preferred engine agrees, and the line on it; asked in a process of its own, which may crash."""
    asked = (_with(detector, PREFERRED), _with(detector, detector.native), data, resources)
    with Crew(Spawned(1, threads=resources.threads), deadline_seconds=resources.deadline_seconds) as crew:
        for kind, _, value, _ in crew.run(compare, [asked]):
            if kind is Step.DONE:
                agrees, words = value
                return agrees, words
            if kind is Step.FAILED:
                raise value
            if kind is Step.LOST:
                return False, f"{PREFERRED} is not taken: its process ended: {value.words}"
    return False, ""


def compare(
    asked: NetworkDetector, native: NetworkDetector, data: Path, resources: Resources, tell: Callable[[Any], None]
) -> tuple[bool, str]:
    """Whether a detector's boxes under one engine are those under its native one, and a line on it.

    Where the native one fails, so will the units, with their own lines: then there is nothing to say.
    """
    precision = getattr(asked, "precision", None) or "fp32"
    every: dict[str, Any] = {"min_score": 0.0, "max_detections": COMPARED}
    exact = {"precision": type(native).model_fields["precision"].default}
    with trusting(resources.trust_pickle):
        try:
            expected = _boxes(native.model_copy(update=every | exact), data, resources.threads)
        except MdfError:
            return False, ""
        try:
            found = _boxes(asked.model_copy(update=every | {"max_detections": 4 * COMPARED}), data, resources.threads)
        except MdfError as error:
            return False, f"{asked.engine} is not taken: {error}"
        engine = asked.remarks(data, device="cpu", threads=resources.threads).engine
    pixels, score = _apart(expected, found)
    name, most = " ".join(engine.values()), TOLERANCE[precision]
    count = sum(len(boxes) for boxes in expected)
    said = f"the {count} best boxes on a test picture differ from those of {native.engine}, fp32, by at most"
    if pixels <= most[0] and score <= most[1]:
        return True, f"{name} runs the network: {said} {pixels:.2g} pixels and {score:.2g} in score"
    limits = f"{pixels:.2g} pixels and {score:.2g} in score, allowed are {most[0]:g} and {most[1]:g}"
    return False, f"{name} is not taken, {native.engine} runs the network: {said} {limits}"


def _boxes(detector: NetworkDetector, data: Path, threads: int) -> list[Boxes]:
    return detector.open(data, "", device="cpu", threads=threads)(picture())


def picture() -> Frames:
    """Two pictures of upright shapes before a pattern, 384 x 640."""
    y, x = np.mgrid[0:384, 0:640] / 640
    drawn = np.stack([x, y, (x * 5 + y * 3) % 1.0], axis=2) * 200
    for left, top, height, width in ((110, 60, 240, 70), (380, 40, 300, 90)):
        drawn[top : top + height, left : left + width] = (40, 60, 90 + left / 4)
        drawn[top : top + height // 6, left + width // 4 : left + 3 * width // 4] = (190, 150, 130)
    pixels = np.stack([drawn, drawn[:, ::-1]]).astype(np.uint8)
    return Frames(pixels, np.arange(2), np.zeros(2))


def _apart(expected: list[Boxes], found: list[Boxes]) -> tuple[float, float]:
    """How far the expected boxes are from the closest found ones, at most: in pixels, and in score."""
    apart = [(0.0, 0.0)]
    for one, other in zip(expected, found, strict=True):
        if len(one) and not len(other):
            return float("inf"), float("inf")
        for xyxy, score in zip(one.xyxy, one.score, strict=True):
            pixels = np.abs(other.xyxy - xyxy).max(axis=1)
            scores = np.abs(other.score - score)
            closest = int((pixels + 100 * scores).argmin())
            apart.append((float(pixels[closest]), float(scores[closest])))
    return max(pixels for pixels, _ in apart), max(score for _, score in apart)
