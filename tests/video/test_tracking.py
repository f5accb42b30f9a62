"""Boxes linked to tracks: as the package `trackers` links them, and how well they keep known people apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdfpipe.video.geometry import iou, iou_matrix
from mdfpipe.video.trackers import renumbered
from mdfpipe.video.tracking import TrackRules, frame_rate, link

from .crowds import Crowd, crowd, kept

KINDS: dict[str, dict[str, Any]] = {
    "a street": {"frames": 200, "people": 12},
    "crossing": {"frames": 200, "people": 25, "speed": 7.0, "noise": 3.0},
    "a crowd": {"frames": 80, "people": 60},
    "few frames": {"frames": 150, "people": 6, "missed": 0.5},
    "empty frames": {"frames": 300, "people": 5, "empty": 0.4},
    "pauses": {"frames": 300, "people": 3, "empty": 0.75},
    "low scores": {"frames": 150, "people": 10, "low": 0.8},
    "false boxes": {"frames": 150, "people": 8, "false": 3.0},
    "no noise": {"frames": 100, "people": 10, "noise": 0.0, "missed": 0.0},
    "one person": {"frames": 200, "people": 1, "missed": 0.2},
}


def linked(found: Crowd, fps: float = 30.0, **rules: Any) -> NDArray[np.int64]:
    return link(found.frame, found.xyxy, found.score, TrackRules(**rules), fps)


def by_library(found: Crowd) -> NDArray[np.int64]:
    """Tracks (n,) of the package `trackers`, frame by frame; -1 also for what it shows before a track is sure."""
    trackers, supervision = pytest.importorskip("trackers"), pytest.importorskip("supervision")
    tracker, track = trackers.ByteTrackTracker(), np.full(len(found.frame), -1)
    for number in range(int(found.frame.max(initial=-1)) + 1):
        rows = np.flatnonzero(found.frame == number)
        boxes = supervision.Detections(
            xyxy=found.xyxy[rows].reshape(-1, 4), confidence=found.score[rows], data={"row": rows}
        )
        told = tracker.update(boxes)
        if len(told):
            track[told.data["row"].astype(int)] = told.tracker_id
    return track


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_links_are_those_of_the_library(kind: str) -> None:
    found = crowd(len(kind), **KINDS[kind])
    ours, theirs = linked(found), by_library(found)
    shown = theirs >= 0
    assert shown.mean() > 0.03
    assert (ours[shown] >= 0).all()
    pairs = {*zip(ours[shown].tolist(), theirs[shown].tolist(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == ours.max() + 1
    first = [np.flatnonzero(ours == number)[0] for number in range(ours.max() + 1)]
    early = np.flatnonzero((ours >= 0) & ~shown)  # what it shows later, of a track that is sure by then
    assert sorted(early) == first


@pytest.mark.parametrize(
    ("kind", "least", "switches"),
    [
        ("no noise", 0.99, 0),
        ("one person", 0.99, 0),
        ("a street", 0.97, 4),
        ("crossing", 0.9, 30),
        ("false boxes", 0.93, 6),
    ],
)
def test_people_stay_apart(kind: str, least: float, switches: int) -> None:
    found = crowd(len(kind), **KINDS[kind])
    got = kept(found.person, linked(found))
    assert got.idf1 >= least
    assert got.switches <= switches


def test_identity_measures_by_hand() -> None:
    person = np.array([0, 0, 0, 0, 1, 1, -1])
    track = np.array([5, 5, -1, 6, 7, -1, 7])
    got = kept(person, track)
    assert (got.switches, got.fragments) == (1, 1)
    assert got.idf1 == pytest.approx(2 * 3 / (6 + 5))


def walker(frames: list[int], speed: float = 2.0, score: float = 0.9) -> Crowd:
    """One person in some frames only."""
    frame = np.array(frames, np.int64)
    x = 10 + speed * frame
    xyxy = np.stack([x, np.full(len(x), 20.0), x + 40, np.full(len(x), 140.0)], axis=1).astype(np.float32)
    return Crowd(frame, xyxy, np.full(len(x), score, np.float32), np.zeros(len(x), np.int64))


def test_a_pause_is_counted_in_seconds_by_the_frames_of_the_video() -> None:
    found = walker([*range(10), *range(30, 40)])  # 20 frames without a box
    assert linked(found, fps=30).tolist() == [0] * 20
    assert linked(found, fps=10).tolist() == [0] * 10 + [1] * 10  # two seconds
    assert linked(found, fps=10, lost_seconds=2.1).tolist() == [0] * 20
    assert linked(found, lost_seconds=0).tolist() == [0] * 10 + [1] * 10
    far = walker([*range(10), *range(10**12, 10**12 + 10)], speed=0)
    assert linked(far).tolist() == [0] * 10 + [1] * 10  # in no time


def test_rules_decide() -> None:
    assert linked(walker([0])).tolist() == [-1]
    assert linked(walker([0]), min_boxes=1).tolist() == [0]
    assert linked(walker([0, 1, 3, 4, 5]), min_boxes=3).tolist() == [-1, -1, 0, 0, 0]
    assert linked(walker([0, 1], score=0.5)).tolist() == [-1, -1]
    assert linked(walker([0, 1], score=0.5), high_score=0.5, new_score=0.5).tolist() == [0, 0]
    assert linked(walker([0, 1], score=0.7)).tolist() == [0, 0]  # a float32 below 0.7
    assert linked(walker(list(range(4)), speed=30)).tolist() == [0, 0, 0, 0]
    assert linked(walker(list(range(4)), speed=30), min_iou=0.9).tolist() == [-1] * 4
    assert linked(walker([])).tolist() == []


def test_neither_the_place_of_boxes_in_a_frame_nor_other_videos_frames_decide() -> None:
    found = crowd(3, 60, 15)
    track = linked(found)
    turned = np.lexsort((-np.arange(len(found.frame)), found.frame))
    other = Crowd(found.frame + 7, found.xyxy[turned], found.score[turned], found.person[turned])
    again = np.empty_like(track)
    again[turned] = linked(other)
    assert (renumbered(again) == track).all()
    done: list[int] = []
    link(found.frame, found.xyxy, found.score, TrackRules(), 30.0, lambda n, total: done.append(n))
    assert done[-1] == len(track)
    assert len(done) == 60


def test_degenerate_boxes_overlap_nothing() -> None:
    found = crowd(1, 40, 4)
    found.xyxy[::5, 2:] = found.xyxy[::5, :2]  # without area
    found.xyxy[::7, 0] = 1e7
    assert linked(found).max() >= 0


def test_overlap_of_all_pairs() -> None:
    boxes = np.random.default_rng(0).uniform(-20, 60, (2, 9, 4))  # some turned inside out
    expected = iou(boxes[0][:, None], boxes[1][None])
    np.testing.assert_array_equal(iou_matrix(boxes[0].T, boxes[1].T), expected)


def test_frame_rate_is_that_of_most_boxes() -> None:
    frame = np.array([0, 0, 3, 4, 4, 5, 100, 101])
    pts = frame / 25.0
    assert frame_rate(frame, pts) == pytest.approx(25)
    pts[-2:] = [0.0, 0.04]  # times begin again
    assert frame_rate(frame, pts) == pytest.approx(25)
    for bad in (np.full(8, np.nan), np.zeros(8), frame / 90_000.0):
        assert frame_rate(frame, bad) is None
    assert frame_rate(frame[:2], pts[:2]) is None
