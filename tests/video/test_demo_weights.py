"""The network that the package brings along: trained, so that its two heads answer the same question differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdfpipe.domains import Domain
from mdfpipe.export import export
from mdfpipe.synth.people import draw_subject
from mdfpipe.synth.scene import Clip, Seen
from mdfpipe.video import ultralytics
from mdfpipe.video.detectors.onnx import Onnx
from mdfpipe.video.detectors.yolo import DEMO, Yolo
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import iou

from .yolos import by_hand

SCORE = 0.25


@pytest.fixture(scope="module")
def seen() -> list[tuple[Any, list[Seen]]]:
    """Four pictures 320x192 of three people, and where they are: no padding on the way into the network."""
    people = [draw_subject(11, name) for name in ("1", "2", "3")]
    clip = Clip(people, Domain.parse("VIS-500m"), 4, fps=2.0, size=(192, 320), seed=[11])
    return [clip.frame(number) for number in range(4)]


@pytest.fixture(scope="module")
def street(seen: list[tuple[Any, list[Seen]]]) -> Frames:
    return Frames(np.stack([picture for picture, _ in seen]), np.arange(4), np.arange(4) / 2.0)


def best(answers: list[tuple[Any, Any]]) -> list[Boxes]:
    """The boxes above the score of each picture, best first."""
    found = []
    for xyxy, score in answers:
        order = np.argsort(-score, kind="stable")
        order = order[score[order] >= SCORE]
        found.append(Boxes(np.float32(xyxy[order]), np.float32(score[order])))
    return found


def shares(ours: list[Boxes], theirs: list[Boxes], least: float) -> list[float]:
    """Of each picture, the share of their boxes that have one of ours with such an IoU."""
    return [
        float((iou(b.xyxy[:, None], a.xyxy[None]).max(axis=1, initial=0) >= least).mean())
        for a, b in zip(ours, theirs, strict=True)
    ]


@pytest.fixture(scope="module")
def heads(street: Frames) -> tuple[list[Boxes], list[Boxes]]:
    """What the un-fused network's two heads say, decoded by hand: one-to-one, one-to-many."""
    model = ultralytics.load(DEMO).network
    images = torch.from_numpy(street.pixels).permute(0, 3, 1, 2).float() / 255
    return best(by_hand(model, images)), best(by_hand(model, images, head=""))


def test_the_two_trained_heads_differ(heads: tuple[list[Boxes], list[Boxes]]) -> None:
    one, many = (sum(len(b) for b in answers) for answers in heads)
    assert 4 <= one <= 40
    assert many > 3 * one  # without suppression it names each person many times


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99), ("bf16", 0.9)])
def test_ours_is_the_one_to_one_head(
    street: Frames, heads: tuple[list[Boxes], list[Boxes]], precision: str, least: float
) -> None:
    settings = {"weights": "demo", "image_size": 320, "precision": precision, "min_score": SCORE}
    found = Yolo.model_validate(settings).open(DEMO.parent, "street", device="cpu", threads=1)(street)
    assert np.mean(shares(found, heads[0], least)) >= 0.95
    assert abs(sum(map(len, found)) - sum(map(len, heads[0]))) <= (0 if precision == "fp32" else 2)


def test_so_is_the_exported_file(street: Frames, heads: tuple[list[Boxes], list[Boxes]], tmp_path: Path) -> None:
    export("demo", tmp_path / "demo.onnx", image_size=320)
    detector = Onnx(weights="demo.onnx", min_score=SCORE, image_size=320)
    found = detector.open(tmp_path, "street", device="cpu", threads=1)(street)
    assert shares(found, heads[0], 0.99) == [1.0] * 4
    assert list(map(len, found)) == list(map(len, heads[0]))


def test_it_finds_people_of_the_kind_that_it_was_trained_on(
    seen: list[tuple[Any, list[Seen]]], heads: tuple[list[Boxes], list[Boxes]]
) -> None:
    for (_, people), found in zip(seen, heads[0], strict=True):
        truth = np.array([person.box for person in people if person.visible > 0.7], np.float32)
        assert (iou(truth[:, None], found.xyxy[None]).max(axis=1) > 0.5).all()
