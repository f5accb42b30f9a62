"""Which engine `engine: auto` is, for all units of a stage: decided here once, so that it travels with each unit.

A stage keeps the engine that its parts have. A new one takes OpenVINO on a CPU where it is installed, if what it gives
on drawn pictures, boxes or vectors, is what the engine gives that the network has without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdfpipe.errors import MdfError, MissingDependency, counted
from mdfpipe.machine.engines import EXTRAS, EngineAsked, is_present, made_by
from mdfpipe.running.crew import Crew
from mdfpipe.running.workers import Step
from mdfpipe.running.workers.spawned import Spawned
from mdfpipe.stages import Resources, Stage
from mdfpipe.stages.detect import Detect
from mdfpipe.stages.embed import Embed
from mdfpipe.store.run import Run
from mdfpipe.store.trust import trusting
from mdfpipe.video.detectors import NetworkDetector
from mdfpipe.video.frames import Boxes, Frames

PREFERRED = "openvino"
COMPARED = 50  # boxes of a picture, the best ones whatever their score
TOLERANCE = {"fp32": (0.5, 0.002), "bf16": (4.0, 0.05), "fp16": (1.0, 0.02)}
"""Pixels of a box's edges, and score: more is no rounding. In bf16 and fp16, too, the other runs in fp32."""
ALIKE = {"fp32": (0.99999, 0.001), "bf16": (0.995, 0.05), "fp16": (0.9995, 0.01)}
"""Least cosine of two vectors of a picture, and the greatest difference of their lengths, as a share."""
WORTH = 1000  # crops of a stage: with fewer, comparing and getting ready take longer than they save


def with_engine(
    stage: Stage, made: Sequence[Mapping[str, Any]], run: Run, data: Path, resources: Resources
) -> tuple[Stage, list[str]]:
    """The stage as its units are done, with its engine named; and lines to report. made: the facts of parts that are.

    Raises MissingDependency where an engine that the study asks for is not installed.
    """
    asked = stage.engine_asked
    if asked is None:
        return stage, []
    if asked.name != "auto":
        if not is_present(asked.name):
            raise MissingDependency(asked.name, f"{asked.setting} {asked.name}", EXTRAS.get(asked.name))
        return stage, []
    names = [(facts.get("engine") or {}).get("name", asked.native) for facts in made if facts.get("rows", True)]
    if names:
        name, notes = _of_parts(stage.name, asked, names, resources)
    elif resources.device != "cpu" or not is_present(PREFERRED) or _is_small(stage, run):
        name, notes = asked.native, []
    else:
        agrees, words = _compared(stage.under(PREFERRED), stage.under(asked.native), run, data, resources)
        name, notes = (PREFERRED if agrees else asked.native), ([f"{stage.name}: {words}"] if words else [])
    return stage.under(name), notes


def _of_parts(stage: str, asked: EngineAsked, names: Sequence[str], resources: Resources) -> tuple[str, list[str]]:
    """The engine of a stage whose parts were made by these, and lines to report."""
    usual = max(sorted(set(names)), key=names.count)
    runs = resources.device == "cpu" or usual != PREFERRED
    if runs and (usual == asked.native or is_present(usual)):
        return usual, []
    why = "does not run on a GPU here" if is_present(usual) else "is not installed here"
    line = f"{stage}: {usual} made {counted(names.count(usual), 'part')} and {why}: {asked.native} makes the others"
    return asked.native, [line]


def _is_small(stage: Stage, run: Run) -> bool:
    return isinstance(stage, Embed) and stage.count(run) < WORTH


def _compared(asked: Stage, native: Stage, run: Run, data: Path, resources: Resources) -> tuple[bool, str]:
    """Whether the preferred engine agrees, and the line on it; asked in a process of its own, which may crash."""
    unit = (asked, native, run, data, resources)
    with Crew(Spawned(1, threads=resources.threads), deadline_seconds=resources.deadline_seconds) as crew:
        for kind, _, value, _ in crew.run(compare, [unit]):
            if kind is Step.DONE:
                agrees, words = value
                return agrees, words
            if kind is Step.FAILED:
                raise value
            if kind is Step.LOST:
                return False, f"{PREFERRED} is not taken: its process ended: {value.words}"
    return False, ""


def compare(
    asked: Stage, native: Stage, run: Run, data: Path, resources: Resources, tell: Callable[[Any], None]
) -> tuple[bool, str]:
    """Whether a stage's network under one engine gives what it does under its native one, and a line on it."""
    with trusting(resources.trust_pickle):
        if isinstance(asked, Embed) and isinstance(native, Embed):
            return compare_vectors(asked, native, run, resources)
        if isinstance(asked, Detect) and isinstance(native, Detect):
            one, other = asked.detector, native.detector
            if isinstance(one, NetworkDetector) and isinstance(other, NetworkDetector):
                return compare_boxes(one, other, data, resources)
    return False, ""


def compare_boxes(
    asked: NetworkDetector, native: NetworkDetector, data: Path, resources: Resources
) -> tuple[bool, str]:
    """Whether a detector's boxes under one engine are those under its native one, and a line on it.

    Where the native one fails, so will the units, with their own lines: then there is nothing to say.
    """
    precision = getattr(asked, "precision", None) or "fp32"
    every: dict[str, Any] = {"min_score": 0.0, "max_detections": COMPARED}
    exact = {"precision": type(native).model_fields["precision"].default}
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


def compare_vectors(asked: Embed, native: Embed, run: Run, resources: Resources) -> tuple[bool, str]:
    """Whether a system's vectors under one engine are those under its native one, and a line on it.

    Where the native one fails, so will the units, with their own lines: then there is nothing to say.
    """
    from mdfpipe.learning.embedders import agreement

    settings = native.settings
    exact = native.model_copy(update={"settings": settings.model_copy(update={"precision": "fp32"})})
    try:
        expected = exact.vectors_of_drawn(run, resources)
    except MdfError:
        return False, ""
    try:
        found = asked.vectors_of_drawn(run, resources)
    except MdfError as error:
        return False, f"{asked.settings.engine} is not taken, {settings.engine} embeds: {error}"
    cosine, length = agreement(found, expected)
    precision = native.precision_in(run)
    name = " ".join(made_by(asked.settings.engine, precision).values())
    least, most = ALIKE[precision]
    said = f"{len(found)} vectors of drawn pictures have a cosine of at least"
    other = f"with those of {settings.engine}, fp32, and lengths that differ by at most"
    if cosine >= least and length <= most:
        return True, f"{name} embeds: {said} {cosine:.7f} {other} {length:.1e}"
    return False, (
        f"{name} is not taken, {settings.engine} embeds: {said} {cosine:.7f} {other} {length:.1e}; expected {least:g} "
        f"and {most:g}"
    )


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
