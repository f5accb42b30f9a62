"""Trackers: the contract that every file of the folder keeps, tracks from files, and what is wrong with such files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.errors import DataError
from mdfpipe.video.trackers import Linked, Tracker, VideoBoxes

from .crowds import Crowd, crowd, kept

FOUND = crowd(4, 60, 8, missed=0.1, low=0.1)


def boxes_of(found: Crowd, stride: int = 1, **more: Any) -> VideoBoxes:
    frames = (int(found.frame.max(initial=-1)) + 1) * stride
    usual = VideoBoxes(found.frame * stride, found.xyxy, found.score, 30.0, stride, frames, (1800, 1000))
    return dataclasses.replace(usual, **more)


def mot(found: Crowd, base: int = 1, more: str = ",1,1,1", number: int = 100) -> list[str]:
    """Rows of the truth, ids from `number` on."""
    sized = np.hstack([found.xyxy[:, :2], found.xyxy[:, 2:] - found.xyxy[:, :2]]).tolist()
    rows = zip(found.frame.tolist(), found.person.tolist(), sized, strict=True)
    return [f"{f + base},{number + who},{','.join(f'{v:.3f}' for v in box)}{more}" for f, who, box in rows if who >= 0]


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "a__v.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def of_file(folder: Path, lines: list[str], boxes: VideoBoxes | None = None, **settings: Any) -> Linked:
    write(folder, lines)
    tracker = Tracker.model_validate({"use": "file", "path": "{video_id}.txt", **settings})
    return tracker.link(boxes or boxes_of(FOUND), folder, "a/v", lambda done, total: None)


@pytest.fixture(params=Tracker.choices())
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Tracker:
    if request.param == "ocsort":
        pytest.importorskip("trackers", reason="NO TRACKERS: OC-SORT is not tested here")
    write(tmp_path, mot(FOUND))
    more = {"path": "{video_id}.txt"} if request.param == "file" else {}
    return Tracker.model_validate({"use": request.param, **more})


def test_contract(tracker: Tracker, tmp_path: Path) -> None:
    tracker.check(tmp_path)
    assert tracker.identity(tmp_path, "a/v").keys() == ({"tracks"} if tracker.use == "file" else set())
    boxes, told = boxes_of(FOUND), list[tuple[int, int | None]]()
    got = tracker.link(boxes, tmp_path, "a/v", lambda done, total: told.append((done, total)))
    n = len(boxes.frame)
    assert (got.track.shape, got.track.dtype, told[-1]) == ((n,), np.int64, (n, n))
    numbers, first = np.unique(got.track[got.track >= 0], return_index=True)
    assert numbers.tolist() == list(range(len(numbers)))
    assert (np.diff(first) > 0).all()
    for number in np.unique(boxes.frame):
        own = got.track[boxes.frame == number]
        assert len(np.unique(own[own >= 0])) == (own >= 0).sum()
    assert kept(FOUND.person, got.track).idf1 > 0.85
    again = tracker.link(boxes, tmp_path, "a/v", lambda done, total: None)
    assert (again.track == got.track).all()
    none = boxes_of(Crowd(*(column[:0] for column in dataclasses.astuple(FOUND))), frames=60)
    assert tracker.link(none, tmp_path, "a/v", lambda done, total: None).track.shape == (0,)


@pytest.mark.parametrize("use", ["bytetrack", "ocsort"])
def test_frames_that_are_not_looked_at_are_no_pause(use: str, tmp_path: Path) -> None:
    if use == "ocsort":
        pytest.importorskip("trackers")
    tracker = Tracker.model_validate({"use": use, "lost_seconds": 0.5})
    plain = tracker.link(boxes_of(FOUND), tmp_path, "v", lambda done, total: None).track
    strided = tracker.link(boxes_of(FOUND, 5, fps=150.0), tmp_path, "v", lambda done, total: None).track
    assert (plain == strided).all()


def test_a_pause_ends_a_track_of_oc_sort(tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    frame = np.array([*range(10), *range(30, 40)])
    x = np.full(20, 10.0)
    still = Crowd(
        frame, np.stack([x, x, x + 40, x + 120], axis=1).astype(np.float32), np.full(20, np.float32(0.9)), frame * 0
    )
    for seconds, tracks in ((1.0, {0}), (0.5, {0, 1})):
        tracker = Tracker.model_validate({"use": "ocsort", "lost_seconds": seconds})
        found = tracker.link(boxes_of(still), tmp_path, "v", lambda done, total: None).track
        assert {*found.tolist()} - {-1} == tracks


@pytest.mark.parametrize(("use", "setting"), [("bytetrack", "new_score=0.7"), ("ocsort", "high_score=0.6")])
def test_low_confidence_is_told(use: str, setting: str, tmp_path: Path) -> None:
    if use == "ocsort":
        pytest.importorskip("trackers")
    low = boxes_of(FOUND, score=FOUND.score * np.float32(0.5))
    got = Tracker.model_validate({"use": use}).link(low, tmp_path, "v", lambda done, total: None)
    n = len(FOUND.frame)
    said = f"only 0 of {n} bodies have a track, since {n} have a confidence below track.{setting}: lower it"
    assert got.facts["remarks"] == [said]


def test_tracks_of_a_file_are_those_of_the_file(tmp_path: Path) -> None:
    got = of_file(tmp_path, mot(FOUND))
    assert kept(FOUND.person, got.track) == kept(FOUND.person, FOUND.person)
    n = len(FOUND.frame)
    told = {"rows": n, "without_id": 0, "not_to_count": 0, "matched": n, "beyond_the_end": 0}
    assert got.facts["file"] == told | {"gaps": got.facts["file"]["gaps"]}
    assert got.facts["file"]["gaps"] > 5  # missed detections
    assert got.facts["remarks"] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: ["frame,id,bb_left,bb_top,bb_width,bb_height,conf,class,vis", *lines],
        lambda lines: ["\ufeff" + lines[0], *lines[1:]],
        lambda lines: [line.replace(",", ", ") + "\r" for line in lines],
        lambda lines: [line.replace(",", " ") for line in lines],
        lambda lines: [line.rsplit(",", 3)[0] for line in lines],  # six columns
        lambda lines: [line.rsplit(",", 3)[0] + ",-1,-1,-1,-1" for line in lines],
        lambda lines: lines[::-1],
        lambda lines: ["1.0" + line[1:] if line.startswith("1,") else line for line in lines],
    ],
    ids=["header", "mark", "blanks", "spaces", "six columns", "no confidence", "order", "1.0"],
)
def test_files_in_other_forms(change: Callable[[list[str]], list[str]], tmp_path: Path) -> None:
    assert (of_file(tmp_path, change(mot(FOUND))).track == of_file(tmp_path, mot(FOUND)).track).all()


def test_rows_that_do_not_count(tmp_path: Path) -> None:
    lines = mot(FOUND)
    lines[3] = lines[3].replace(",1,1,1", ",0,1,1")
    lines[5] = ",".join([lines[5].split(",")[0], "-1", *lines[5].split(",")[2:]])
    got = of_file(tmp_path, [*lines, "900,1,1,1,9,9,1,1,1"])
    assert {k: got.facts["file"][k] for k in ("without_id", "not_to_count", "beyond_the_end")} == {
        "without_id": 1,
        "not_to_count": 1,
        "beyond_the_end": 1,
    }
    assert (got.track < 0).sum() == 2
    assert got.facts["remarks"] == ["1 rows are in frames after the last one"]


WALK = crowd(2, 30, 3, missed=0.0, low=0.0, noise=0.0, speed=9.0)


@pytest.mark.parametrize(
    ("lines", "settings", "said"),
    [
        (mot(FOUND, 0), {}, r"expected frames from 1 on .*got frame 0; set track.frame_base=0"),
        (mot(FOUND, 1), {"frame_base": 0}, r"expected frames 0 to 59, .*, got 1 to 60; set track.frame_base=1"),
        (mot(crowd(9, 60, 1)), {"min_iou": 0.9}, r"none of its \d+ rows overlaps a body by 0.9 .*the largest overlap"),
        ([*mot(FOUND), mot(FOUND)[7]], {}, r"row \d+: expected each id once in a frame, got id 10\d again in frame 2"),
        (["1,1,5,5,9"], {}, r"row 1: expected frame, id, left, top, width and height, .*, got 1,1,5,5,9"),
        (["1,1,5,5,9,9", "2,1,5,5,9"], {}, r"expected 6 columns of text in every row"),
        (["1,1,5,5,9,9", "2,1,5,x,9,9"], {}, r"row 2, top: expected a number, got 'x'"),
        (["1,1,5,5,9,9", "2,1,5,5,9,"], {}, r"row 2, height: expected a number, got ''"),
        (["1,1,5,5,9,nan"], {}, r"row 1, height: expected a number, got 'nan'"),
        (["1.5,1,5,5,9,9"], {}, r"row 1, frame: expected a whole number, got '1.5'"),
        (["1,1.5,5,5,9,9"], {}, r"row 1, id: expected a whole number"),
        (["-1,1,5,5,9,9"], {}, r"row 1, frame: expected 0 or more"),
        (["1,1,5,5,0,9", "1,2,5,5,0,9"], {}, r"row 1, width: expected more than 0, got '0' and 1 more such rows"),
        (["1,1,5e9,5,1,9"], {}, r"row 1, left: expected a position in pixels"),
        (["1,-1,5,5,9,9"], {}, r"got ids of -1 only, as in files of detections"),
        (["\0\1PNG\2"], {}, r"expected rows of MOTChallenge as text in UTF-8, got UTF-16 or no text"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_right(lines: list[str], settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as error:
        of_file(tmp_path, lines, **settings)
    assert str(error.value).startswith(str(tmp_path / "a__v.txt"))


def test_another_frame_base_that_fits_better_is_told(tmp_path: Path) -> None:
    shifted = [line for line in mot(WALK, 2) if not line.startswith("31,")]
    got = of_file(tmp_path, shifted, boxes_of(WALK), frame_base=1, min_iou=0.1)
    assert got.facts["remarks"] == []  # neither 0 nor 1 helps
    got = of_file(tmp_path, mot(WALK, 1)[3:-3], boxes_of(WALK), frame_base=0, min_iou=0.1)
    assert any(
        "fit the bodies better with track.frame_base=1: mean overlap 1.00" in line for line in got.facts["remarks"]
    )


def test_no_file(tmp_path: Path) -> None:
    tracker = Tracker.model_validate({"use": "file", "path": "{video_id}.txt"})
    with pytest.raises(DataError, match=r"a/v: no tracks: track\.path 'a__v\.txt' not found"):
        tracker.identity(tmp_path, "a/v")
    assert of_file(tmp_path, []).track.max() == -1
