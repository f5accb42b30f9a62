"""track: the boxes of one person in the frames of a video, linked. Only for a study that has a section `track`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field, SerializeAsAny

from mdfpipe.config import result_settings
from mdfpipe.errors import counted, some
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.tables import CORNERS, TRACKS, boxes_of
from mdfpipe.video.trackers import Linked, Tracker, VideoBoxes
from mdfpipe.video.tracking import ASSUMED_FPS, frame_rate

_READ = ["frame", "pts_seconds", *CORNERS, "score"]


class Track(Stage):
    """The track of each body. Whole videos, from stored boxes: neither spans nor workers change it."""

    name: ClassVar[str] = "track"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("detect",)
    schema: ClassVar[pa.Schema] = TRACKS
    unit: ClassVar[str] = "bodies"
    tells: ClassVar[tuple[str, ...]] = ("fps",)

    tracker: SerializeAsAny[Tracker] = Field(description="the tracker")

    def decisive(self) -> dict[str, Any]:
        """The settings of the tracker, as the section of the study has them."""
        return result_settings(self.tracker)

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """The content of a file of tracks."""
        return self.tracker.identity(data, key)

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Link the bodies of one video."""
        fps, boxes = self._boxes(inputs)
        linked = self.tracker.link(boxes, context.data, key, context.progress)
        del boxes  # a video may have millions: numbers and names are not in memory at the same time
        ids = inputs.table("detect", columns=["body_id", "frame"])
        track = pa.array(linked.track, pa.int32(), mask=linked.track < 0)
        table = pa.table([ids["body_id"], ids["frame"], track], schema=TRACKS)
        return Made(table, {**_counts(linked), "fps": fps, **linked.facts})

    def _boxes(self, inputs: Inputs) -> tuple[float | None, VideoBoxes]:
        """Frames a second by the times of the video, and its boxes."""
        bodies, seen = inputs.table("detect", columns=_READ), inputs.facts("detect")
        frame = bodies["frame"].to_numpy()
        fps = frame_rate(frame, bodies["pts_seconds"].to_numpy())
        return fps, VideoBoxes(
            frame=frame,
            xyxy=boxes_of(bodies),
            score=bodies["score"].to_numpy(),
            fps=fps or ASSUMED_FPS,
            stride=seen["stride"],
            frames=seen["delivered"],
            size=(seen["width"], seen["height"]),
        )

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which videos give no frame rate, and what files of tracks did not agree with."""
        timeless = [key for key, found in facts.items() if found["fps"] is None and found["tracks"]]
        notes = []
        if timeless:
            notes.append(
                f"track: {counted(len(timeless), 'video has', 'videos have')} no usable times of three frames with "
                f"bodies, so {ASSUMED_FPS:g} frames a second are assumed: {some(timeless, 3)}"
            )
        told = {key: "; ".join(found["remarks"]) for key, found in facts.items() if found.get("remarks")}
        warnings = [f"track: {key}: {words}" for key, words in list(told.items())[:3]]
        if len(told) > 3:
            warnings.append(f"track: so it is in {len(told) - 3} videos more: {some(list(told)[3:], 10)}")
        return Review(warnings=warnings, notes=notes)


def _counts(linked: Linked) -> Mapping[str, Any]:
    """How many tracks there are, the boxes of the longest, and the boxes with a track and without."""
    has = linked.track[linked.track >= 0]
    lengths = np.bincount(has)
    return {
        "tracks": int(np.count_nonzero(lengths)),
        "longest": int(lengths.max(initial=0)),
        "rows": {"tracked": len(has), "no_track": len(linked.track) - len(has)},
    }
