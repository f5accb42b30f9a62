"""ByteTrack: by overlap and motion, boxes of high detector confidence before the others."""

from __future__ import annotations

from pathlib import Path

from mdfpipe.video.trackers import Linked, Tracker, VideoBoxes, few_tracked
from mdfpipe.video.tracking import Progress, TrackRules, link


class ByteTrack(TrackRules, Tracker):
    """Boxes linked by `video.tracking`: fast, and in need of no further package."""

    def link(self, boxes: VideoBoxes, data: Path, video_id: str, progress: Progress) -> Linked:
        """The track of each box."""
        step = boxes.frame // boxes.stride  # frames between are not looked at, so nobody is missed there
        track = link(step, boxes.xyxy, boxes.score, self, boxes.fps / boxes.stride, progress)
        return Linked(track, few_tracked(track, boxes.score, self.new_score, "track.new_score"))
