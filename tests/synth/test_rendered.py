"""Whether a video is one that synth drew: what says that weights of rendered people only do not belong there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from mdfpipe.stages.detect import MISPLACED, Detect
from mdfpipe.synth.folder import DESCRIPTION, described, keep_rows, rendered
from mdfpipe.video.detectors import Remarks
from mdfpipe.video.detectors.yolo import Yolo

VIDEO = "videos/VIS-500m/G1-walk1.mp4"


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / VIDEO).parent.mkdir(parents=True)
    (root / VIDEO).write_bytes(b"twelve bytes")
    (root / DESCRIPTION).write_bytes(described({"preset": "tiny"}, complete=True))
    keep_rows(root, VIDEO.removesuffix(".mp4"), pa.table({"x": [1]}), pa.table({"x": [1]}), 12)
    return root


def test_what_synth_drew_and_what_lies_beside_it(drawn: Path) -> None:
    assert rendered(drawn, VIDEO)
    assert rendered(drawn.parent, f"data/{VIDEO}")  # the data root lies above
    (drawn / "videos" / "VIS-500m" / "own.mp4").write_bytes(b"a real one, put beside them")
    assert not rendered(drawn, "videos/VIS-500m/own.mp4")
    (drawn / VIDEO).write_bytes(b"another one in its place")
    assert not rendered(drawn, VIDEO)
    assert not rendered(drawn, "../elsewhere.mp4")


def test_a_description_alone_is_taken_at_its_word_but_only_ours(drawn: Path) -> None:
    shutil.rmtree(drawn / "truth")
    assert rendered(drawn, VIDEO)
    for other in (json.dumps({"note": "mine"}), "[]", "not JSON"):
        (drawn / DESCRIPTION).write_text(other)
        assert not rendered(drawn, VIDEO)
    (drawn / DESCRIPTION).unlink()
    assert not rendered(drawn, VIDEO)


def test_detect_warns_of_weights_of_rendered_people_on_other_videos() -> None:
    stage = Detect(detector=Yolo(weights="demo"))
    plain = {"declared": 1, "delivered": 1, "boxes_beyond_the_end": 0, "left_out": {}, "duplicates": 0}
    known = {
        "a": {**plain, "doubts": [MISPLACED], "weights": []},
        "b": {**plain, "doubts": [], "weights": ["took `ema`"]},
    }
    review = stage.review({**known, "c": plain})  # a part of before there were such facts
    assert review.warnings == [f"detect: {MISPLACED} (1 of 3 videos: a)"]
    assert review.notes == ["detect: took `ema`"]


def test_the_demo_weights_say_what_they_are_and_so_does_a_copy(tmp_path: Path) -> None:
    from mdfpipe.video.detectors.yolo import DEMO

    shutil.copy(DEMO, tmp_path / "mine.pt")
    for name in ("demo", "mine.pt"):
        found = Yolo(weights=name).remarks(tmp_path, device="cpu", threads=1)
        assert found == Remarks(rendered_only=True, engine=found.engine)
