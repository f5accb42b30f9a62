"""Tracker: the stored boxes of a video in, the track of each out. Nothing is decoded.

Each file of this folder is one tracker, named after itself.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.config import Plugin
from mdfpipe.video.tracking import Progress


@dataclass(frozen=True, eq=False)
class VideoBoxes:
    """Boxes of a video by frame, and by the detector's order within it.

    frame: (n,) int64, ascending, every `stride`-th of the video. xyxy: (n, 4) float32, pixels. score: (n,) float32.
    fps: frames a second of the video. frames: how many it has. size: width and height of its picture.
    """

    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    fps: float
    stride: int
    frames: int
    size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Linked:
    """Track of each box: (n,) int64 from 0, in the order of their first boxes, -1 for none; and what a reader should
    know of it, as facts of the part.
    """

    track: NDArray[np.int64]
    facts: dict[str, Any] = field(default_factory=dict)


class Tracker(Plugin):
    """One way to find which boxes of a video are of one person."""

    def check(self, data: Path) -> None:
        """Raise MdfError where what every video needs is missing. Called before the first video."""

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """What, besides settings and boxes, decides the tracks of a video: content hashes by name."""
        return {}

    @abstractmethod
    def link(self, boxes: VideoBoxes, data: Path, video_id: str, progress: Progress) -> Linked:
        """The track of each box. Raises DataError where the tracks cannot be of these boxes."""


def few_tracked(track: NDArray[np.int64], score: NDArray[np.float32], least: float, setting: str) -> dict[str, Any]:
    """A remark, as facts, where most boxes have no track because their detector confidence is below a setting."""
    tracked, low = int((track >= 0).sum()), int((score < np.float32(least)).sum())
    if 2 * tracked >= len(track) or 2 * low <= len(track):
        return {}
    words = f"only {tracked} of {len(track)} bodies have a track, since {low} have a confidence below {setting}"
    return {"remarks": [f"{words}={least:g}: lower it"]}


def renumbered(track: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tracks (n,) numbered from 0 in the order of their first boxes; below 0 stays -1.

    >>> renumbered(np.array([7, -1, 3, 7]))
    array([ 0, -1,  1,  0])
    """
    known, first, which = np.unique(track, return_index=True, return_inverse=True)
    order = np.argsort(np.where(known < 0, -1, first), kind="stable")
    number = np.empty(len(known), np.int64)
    number[order] = np.arange(len(known)) - int((known < 0).sum())
    number[known < 0] = -1
    return number[which]
