"""Tracks: the boxes of one person in consecutive frames of a video, linked by overlap and motion.

ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022), with the
constant-velocity filter on box edges of the package `trackers`, whose links are the same. That package has an object
for each track; here all tracks of a frame are columns of one array, since a data set has many millions of boxes.

Frames without boxes count: tracks move on in them and end. Sums and products go element by element, never through
BLAS, so that the links do not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.video.geometry import iou_matrix

ASSUMED_FPS: Final = 30.0
"""Frames a second of a video that gives no times."""
PLAUSIBLE_FPS: Final = (0.1, 1000.0)

Progress = Callable[[int, int | None], None]


class TrackRules(Config):
    """How boxes become tracks. The defaults are those of ByteTrack."""

    high_score: float = Field(
        0.6,
        ge=0,
        le=1,
        description="boxes of this detector confidence or more are linked first, the others to tracks "
        "that these leave free",
    )
    new_score: float = Field(0.7, ge=0, le=1, description="least detector confidence of a box that begins a track")
    min_iou: float = Field(
        0.1, ge=0, le=1, description="least intersection over union of a box with the place where a track is expected"
    )
    lost_seconds: float = Field(
        1.0, ge=0, le=3600, description="longest time without a box after which a track still takes one"
    )
    min_boxes: int = Field(
        2, ge=1, description="boxes in consecutive frames that make a track; the boxes of a shorter one have no track"
    )


def link(
    frame: NDArray[np.int64],
    xyxy: NDArray[np.float32],
    score: NDArray[np.float32],
    rules: TrackRules,
    fps: float = ASSUMED_FPS,
    progress: Progress = lambda done, total: None,
) -> NDArray[np.int64]:
    """Track of each box: (n,), numbered from 0 in the order of their first boxes; -1 for a box of no track.

    frame: (n,) ascending. xyxy: (n, 4), pixels. score: (n,) 0..1. fps: frames a second. progress: is given the boxes
    done and their number. Except for the result, memory depends on the tracks of one frame.
    """
    total = len(frame)
    live, found = _Live(rules, fps), np.full(total, -1, np.int64)
    before = 0
    for now, first, last in in_frames(frame):
        live.pass_empty(now - before - 1)
        found[first:last] = live.take(xyxy[first:last], score[first:last])
        before = now
        progress(last, total)
    return live.renumbered(found)


def in_frames(frame: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """Each frame that has boxes, and where they begin and end among all. frame: (n,) ascending."""
    edges = np.flatnonzero(np.diff(frame, prepend=frame[:1] - 1, append=frame[-1:] + 1)).tolist()
    for first, last in pairwise(edges):
        yield int(frame[first]), first, last


def frame_rate(frame: NDArray[np.int64], pts_seconds: NDArray[np.float64]) -> float | None:
    """Frames a second by the presentation times of boxes, (n,) each, by frame; None where there are no usable times.

    The median, so that neither a pause nor times that begin again change it.
    """
    later = np.flatnonzero(np.diff(frame)) + 1
    steps = np.diff(frame[later]), np.diff(pts_seconds[later])
    usable = np.isfinite(steps[1]) & (steps[1] > 0)
    if not usable.any():
        return None
    fps = round(1.0 / float(np.median(steps[1][usable] / steps[0][usable])), 3)  # 10, and not 10.000000000000002
    return fps if PLAUSIBLE_FPS[0] <= fps <= PLAUSIBLE_FPS[1] else None


def matched(overlap: NDArray[Any], least: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs of row and column of overlaps (n, m), each at most once, that are largest in all; then those below `least`
    are dropped.
    """
    from scipy.optimize import linear_sum_assignment

    row, column = linear_sum_assignment(overlap, maximize=True)
    good = overlap[row, column] >= least
    return row[good], column[good]


# Rows of the state, one column a track. Both edges of an axis, and both axes, have the same noise: one covariance.
_EDGES, _SPEEDS = slice(0, 4), slice(4, 8)
_VAR, _COV, _SPEED_VAR, _MISSED, _RUN, _NUMBER, _SURE = range(8, 15)
_ROWS: Final = 15
_PROCESS_NOISE, _MEASUREMENT_NOISE = 0.01, 0.1


class _Live:
    """The tracks that can still take a box."""

    def __init__(self, rules: TrackRules, fps: float) -> None:
        self.rules = rules
        self.high, self.new = np.float32(rules.high_score), np.float32(rules.new_score)  # scores are float32
        self.patience = max(1, math.ceil(rules.lost_seconds * fps)) if rules.lost_seconds else 0
        self.state = np.zeros((_ROWS, 0))
        self.sure = bytearray()  # of each track so far, by number: whether it has enough boxes

    def pass_empty(self, frames: int) -> None:
        """Frames without a box go by."""
        while frames > 0 and self.state.shape[1]:
            self._predict()
            self._end()
            frames -= 1

    def take(self, xyxy: NDArray[np.float32], score: NDArray[np.float32]) -> NDArray[np.int64]:
        """The number of the track of each box (n,) of the next frame, sure or not yet; -1 where a box begins none."""
        found = np.full(len(score), -1, np.int64)
        is_high = score >= self.high
        if self.state.shape[1]:
            self._predict()
            overlap = iou_matrix(self.state[_EDGES], xyxy.T.astype(np.float64))
            track, box = self._matched(overlap, is_high)
            if len(track):
                self._update(track, xyxy[box])
                found[box] = self.state[_NUMBER, track].astype(np.int64)
            self._end()
        begun = np.flatnonzero((found < 0) & is_high & (score >= self.new))
        if len(begun):
            found[begun] = self._begin(xyxy[begun])
        return found

    def renumbered(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers of boxes, without the tracks that never had enough boxes."""
        sure = np.frombuffer(bytes(self.sure), np.uint8).astype(bool)
        number = np.append(np.where(sure, np.cumsum(sure) - 1, -1), -1)  # the last for -1
        renumbered: NDArray[np.int64] = number[found].astype(np.int64)
        return renumbered

    def _matched(self, overlap: NDArray[Any], is_high: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pairs of track and box: high boxes with all tracks, then the others with the tracks that are left."""
        least = self.rules.min_iou
        if is_high.all():
            return matched(overlap, least)
        high, low = np.flatnonzero(is_high), np.flatnonzero(~is_high)
        track, box = matched(overlap[:, high], least)
        free = np.ones(len(overlap), np.bool_)
        free[track] = False
        rest = np.flatnonzero(free)
        more, low_box = matched(overlap[rest[:, None], low], least)
        return np.concatenate([track, rest[more]]), np.concatenate([high[box], low[low_box]])

    def _predict(self) -> None:
        """One frame on: a constant velocity; a track that missed the frame before counts from 0 again."""
        s = self.state
        s[_EDGES] += s[_SPEEDS]
        s[_VAR] += 2 * s[_COV] + s[_SPEED_VAR] + _PROCESS_NOISE
        s[_COV] += s[_SPEED_VAR]
        s[_SPEED_VAR] += _PROCESS_NOISE
        s[_RUN] *= s[_MISSED] == 0
        s[_MISSED] += 1

    def _update(self, track: NDArray[Any], xyxy: NDArray[np.float32]) -> None:
        """Correct tracks (k,) by their boxes (k, 4): Kalman's filter for an edge and its speed."""
        s = self.state[:, track]
        gain = s[_VAR : _COV + 1] / (s[_VAR] + _MEASUREMENT_NOISE)  # of the edge, and of its speed
        off = xyxy.T - s[_EDGES]
        s[_EDGES] += gain[0] * off
        s[_SPEEDS] += gain[1] * off
        s[_SPEED_VAR] -= gain[1] * s[_COV]
        s[_VAR : _COV + 1] = gain * _MEASUREMENT_NOISE
        s[_MISSED] = 0
        s[_RUN] += 1
        if not s[_SURE].all():
            grown = np.flatnonzero((s[_RUN] >= self.rules.min_boxes) & (s[_SURE] == 0))
            for number in s[_NUMBER, grown].astype(np.int64).tolist():
                self.sure[number] = 1
            s[_SURE, grown] = 1
        self.state[:, track] = s

    def _end(self) -> None:
        """Drop tracks that had no box in this frame, and are not sure or were lost for too long."""
        missed = self.state[_MISSED]
        stays = (missed == 0) | ((self.state[_SURE] > 0) & (missed <= self.patience))
        if not stays.all():
            self.state = self.state[:, stays]

    def _begin(self, xyxy: NDArray[np.float32]) -> NDArray[np.int64]:
        """Begin a track at each box (k, 4); their numbers."""
        count, known = len(xyxy), len(self.sure)
        is_sure = self.rules.min_boxes == 1
        numbers = np.arange(known, known + count)
        begun = np.zeros((_ROWS, count))
        begun[_EDGES] = xyxy.T
        begun[[_VAR, _SPEED_VAR, _RUN]] = 1
        begun[_NUMBER], begun[_SURE] = numbers, is_sure
        self.state = np.hstack([self.state, begun])
        self.sure.extend(bytes([is_sure]) * count)
        return numbers
