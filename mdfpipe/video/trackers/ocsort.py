"""OC-SORT (Cao et al., CVPR 2023), by the package `trackers`: for people who turn and stop rather than walk straight.

It is slower than ByteTrack, about 10,000 bodies a second. The extra `tracks` installs it.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mdfpipe.errors import not_loaded
from mdfpipe.video.trackers import Linked, Tracker, VideoBoxes, few_tracked, renumbered
from mdfpipe.video.tracking import Progress, in_frames


class OcSort(Tracker):
    """Boxes linked by overlap, motion and direction. The first box of a track has none, in the package as here."""

    high_score: float = Field(0.6, ge=0, le=1, description="least detector confidence of a box that has a track")
    min_iou: float = Field(
        0.3, ge=0, le=1, description="least intersection over union of a box with the place where a track is expected"
    )
    lost_seconds: float = Field(
        1.0, ge=0, le=3600, description="longest time without a box after which a track still takes one"
    )
    direction_weight: float = Field(0.2, ge=0, le=10, description="weight of the direction of motion against overlap")
    direction_frames: int = Field(3, ge=1, description="frames from which the direction of motion is taken")

    def check(self, data: Path) -> None:
        """Raise MissingDependency where the package is not installed."""
        _package("trackers")

    def link(self, boxes: VideoBoxes, data: Path, video_id: str, progress: Progress) -> Linked:
        """The track of each box."""
        supervision, trackers = _package("supervision"), _package("trackers")
        patience = math.ceil(self.lost_seconds * boxes.fps / boxes.stride)
        tracker = trackers.OCSORTTracker(
            lost_track_buffer=patience,  # in frames of 30 a second
            frame_rate=30.0,
            minimum_consecutive_frames=1,  # with more, so many boxes after each pause have no track
            minimum_iou_threshold=self.min_iou,
            direction_consistency_weight=self.direction_weight,
            high_conf_det_threshold=self.high_score,
            delta_t=self.direction_frames,
        )
        track, before, total = np.full(len(boxes.frame), -1, np.int64), 0, len(boxes.frame)
        for now, first, last in in_frames(boxes.frame // boxes.stride):
            for _ in range(min(now - before - 1, patience + 1)):  # then all tracks have ended
                tracker.update(supervision.Detections.empty())
            found = tracker.update(
                supervision.Detections(
                    xyxy=boxes.xyxy[first:last],
                    confidence=boxes.score[first:last],
                    data={"row": np.arange(first, last)},
                )
            )
            if len(found):
                track[found.data["row"].astype(np.int64)] = found.tracker_id
            before = now
            progress(last, total)
        track = renumbered(track)
        return Linked(track, few_tracked(track, boxes.score, self.high_score, "track.high_score"))


def _package(name: str) -> Any:
    """A package of the extra `tracks`. Raises MissingDependency."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise not_loaded(error, name, "the tracker ocsort", extra="tracks") from None
