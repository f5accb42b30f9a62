"""Tracks made elsewhere: a text file of MOTChallenge for each video, whose boxes are matched with the stored ones.

track: {use: file, path: "tracks/{video_id}.txt"}        `/` in a video_id is written `__`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, find_file
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.mot import MotRows, read_mot
from mdfpipe.store.naming import file_name, nearest
from mdfpipe.video.geometry import iou_matrix
from mdfpipe.video.trackers import Linked, Tracker, VideoBoxes, renumbered
from mdfpipe.video.tracking import Progress, matched

_CLEARLY: Final = 0.02  # by how much a mean overlap must be larger to say that another frame base fits better


class File(Tracker):
    """Tracks from files in MOTChallenge's form: frame, id, left, top, width, height, and more."""

    path: str = Field(json_schema_extra=BY_CONTENT, description="the file of a video; holds {video_id}")
    frame_base: Literal[0, 1] = Field(1, description="number of a video's first frame in the file; MOTChallenge: 1")
    min_iou: float = Field(
        0.5, gt=0, le=1, description="least intersection over union of a body with the box of the track that it takes"
    )

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """The hash of the video's file. Raises DataError where it is missing."""
        return {"tracks": file_sha256(self._path(data, video_id))}

    def link(self, boxes: VideoBoxes, data: Path, video_id: str, progress: Progress) -> Linked:
        """The track of each box: of the rows of its frame, the best assignment. Raises DataError for a bad file."""
        path = self._path(data, video_id)
        rows = read_mot(path)
        counts = {"rows": len(rows.frame), "without_id": int((rows.id < 0).sum())}
        if counts["without_id"] == counts["rows"] > 0:
            raise DataError(f"{path}: expected tracks, got ids of -1 only, as in files of detections; give tracks")
        usable = (rows.id >= 0) & (rows.confidence != 0)
        counts["not_to_count"] = int(((rows.id >= 0) & ~usable).sum())
        rows = _chosen(rows, usable)
        self._refuse_twice(path, rows)
        self._refuse_base(path, rows, boxes)
        found = _match(boxes, rows, self.frame_base, self.min_iou, progress)
        other = _match(boxes, rows, 1 - self.frame_base, self.min_iou, progress)
        counts |= {
            "matched": int((found.row >= 0).sum()),
            "beyond_the_end": int((rows.frame - self.frame_base >= boxes.frames).sum()),
            "gaps": _gaps(rows, boxes.stride),
        }
        if len(boxes.frame) and len(rows.frame) and not counts["matched"]:
            raise DataError(self._why_nothing(path, found, other, len(rows.frame)))
        track = np.append(rows.id, -1)[found.row]
        return Linked(renumbered(track), {"file": counts, "remarks": self._remarks(counts, len(track), found, other)})

    def _path(self, data: Path, video_id: str) -> Path:
        name = self.path.replace("{video_id}", file_name(video_id))
        try:
            return find_file(name, data, "track.path", "Put it there, or leave the video out with --only")
        except ConfigError as error:
            raise DataError(f"{video_id}: no tracks: {error}{nearest(data, name)}") from None

    def _refuse_twice(self, path: Path, rows: MotRows) -> None:
        order = np.lexsort((rows.row, rows.id, rows.frame))
        same = (np.diff(rows.frame[order]) == 0) & (np.diff(rows.id[order]) == 0)
        if same.any():
            at = order[1:][same][0]
            more = f" and {int(same.sum()) - 1} more such rows" if same.sum() > 1 else ""
            raise DataError(
                f"{path}: row {rows.row[at]}: expected each id once in a frame, got id {rows.id[at]} again in frame "
                f"{rows.frame[at]}{more}; correct the file"
            )

    def _refuse_base(self, path: Path, rows: MotRows, boxes: VideoBoxes) -> None:
        if not len(rows.frame):
            return
        first, last = int(rows.frame.min()), int(rows.frame.max())
        if first < self.frame_base:
            raise DataError(
                f"{path}: expected frames from {self.frame_base} on (track.frame_base), got frame {first}; set "
                "track.frame_base=0"
            )
        if self.frame_base == 0 and last == boxes.frames and first > 0:
            raise DataError(
                f"{path}: expected frames 0 to {boxes.frames - 1}, those of the video, got {first} to {last}; set "
                "track.frame_base=1"
            )

    def _why_nothing(self, path: Path, found: _Match, other: _Match, rows: int) -> str:
        base = 1 - self.frame_base
        advice = (
            f"{int((other.row >= 0).sum())} do with track.frame_base={base}: set that"
            if (other.row >= 0).any()
            else f"the largest overlap is {found.best:.2f}: are these tracks of another video, or of another size?"
        )
        return (
            f"{path}: expected tracks of this video, but none of its {rows} rows overlaps a body by "
            f"{self.min_iou:g} or more; {advice}"
        )

    def _remarks(self, counts: dict[str, int], bodies: int, found: _Match, other: _Match) -> list[str]:
        lines = []
        if other.mean > found.mean + _CLEARLY:
            lines.append(
                f"tracks fit the bodies better with track.frame_base={1 - self.frame_base}: mean overlap "
                f"{other.mean:.2f}, against {found.mean:.2f}"
            )
        if 2 * counts["matched"] < min(bodies, counts["rows"] - counts["without_id"] - counts["not_to_count"]):
            lines.append(f"only {counts['matched']} of {counts['rows']} rows overlap one of the {bodies} bodies")
        if counts["beyond_the_end"]:
            lines.append(f"{counts['beyond_the_end']} rows are in frames after the last one")
        return lines


@dataclass(frozen=True, eq=False)
class _Match:
    """row: (n,) of the file for each body, -1 for none. mean: of their overlaps. best: largest overlap of any pair."""

    row: NDArray[np.int64]
    mean: float
    best: float


def _chosen(rows: MotRows, which: NDArray[np.bool_]) -> MotRows:
    return MotRows(*(column[which] for column in vars(rows).values()))


def _gaps(rows: MotRows, stride: int) -> int:
    """How often a track has no row in a frame, and one later."""
    order = np.lexsort((rows.frame, rows.id))
    same = np.diff(rows.id[order]) == 0
    return int((np.diff(rows.frame[order])[same] > stride).sum())


def _match(boxes: VideoBoxes, rows: MotRows, base: int, least: float, progress: Progress) -> _Match:
    """Rows assigned to the bodies of their frame, such that the overlaps are largest in all."""
    order = np.argsort(rows.frame, kind="stable")
    frames = (rows.frame - base)[order]
    here = np.intersect1d(boxes.frame, frames)
    own, theirs = (np.searchsorted(all_of, [here, here + 1]).T.tolist() for all_of in (boxes.frame, frames))
    found, total, best = np.full(len(boxes.frame), -1, np.int64), 0.0, 0.0
    for (first, last), (low, high) in zip(own, theirs, strict=True):
        which = order[low:high]
        overlap = iou_matrix(boxes.xyxy[first:last].T.astype(np.float64), rows.xyxy[which].T.astype(np.float64))
        body, row = matched(overlap, least)
        found[first + body] = which[row]
        total, best = total + float(overlap[body, row].sum()), max(best, float(overlap.max()))
        progress(last, len(boxes.frame))
    return _Match(found, total / max(int((found >= 0).sum()), 1), best)
