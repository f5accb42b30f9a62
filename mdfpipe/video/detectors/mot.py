"""Boxes in text files of MOTChallenge, one for each video: truth (`gt.txt`), detections (`det.txt`), trackers' results.

detect:
  detector: {use: mot, boxes: "{folder}/gt/gt.txt"}      of videos such as MOT17-02/img1, a folder of frames
"""

from __future__ import annotations

import configparser
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from mdfpipe.errors import DataError, one_line
from mdfpipe.store.frames import frame_files, frame_numbers
from mdfpipe.video.box_files import LARGEST_FRAME, BoxFile, BoxRows, BoxTable, person_id

_SIDES: Final = ("x", "y", "width", "height")


class Mot(BoxFile):
    """Boxes of persons from text files of MOTChallenge: frame, id, left, top, width, height, confidence, class."""

    frame_base: Literal[0, 1] = Field(1, description="number of a video's first frame in the file; MOTChallenge: 1")
    min_score: float = Field(0.0, ge=0, le=1, description="least confidence; boxes below it are dropped")
    classes: list[int] = Field(
        [1],
        description="class numbers that are persons, where the file has a column of classes (MOTChallenge: 1 "
        "pedestrian, 2 person on a vehicle, 7 static person); others are counted; [] takes all",
    )
    confidence: bool = Field(
        True, description="whether the column of confidences is the score, 0..1; false: every box has score 1"
    )
    ids: Literal["video", "dataset", "none"] = Field(
        "video",
        description="what an id names. video: a person of its video alone (VIDEO:ID); dataset: the same person in "
        "every video; none: nothing",
    )

    @field_validator("boxes")
    @classmethod
    def _a_file_a_video(cls, value: str) -> str:
        if not any(mark in value for mark in ("{video_id}", "{folder}", "{name}")):
            raise ValueError("expected {video_id}, {folder} or {name}: a file of MOTChallenge is of one video")
        return value

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """As of every file of boxes; and whether its frames are numbers of pictures."""
        found = super().identity(data, video_id)
        if (numbers := self._numbers(data, video_id)) is not None:
            frame = self._table(data, video_id)[1].numbers["frame"]
            return {**found, "frames": "file_number"} if self._are_of(numbers, frame) else found
        return found

    def _rows(self, table: BoxTable, named: list[str], data: Path, video_id: str) -> BoxRows:
        """As of every file of boxes. A frame behind the last picture of a folder may be the number in a name there."""
        rows = super()._rows(table, named, data, video_id)
        wanted, there = rows.frame + self.frame_base, self._numbers(data, video_id)
        if there is None or not self._are_of(there, wanted):
            return rows
        place = np.searchsorted(there, wanted).clip(max=len(there) - 1)
        lost = np.cumsum(np.diff(wanted, prepend=-1) > 0) + len(there)
        order = np.argsort(frame := np.where(there[place] == wanted, place, lost), kind="stable")
        return replace(rows.take(order), frame=frame[order])

    def _numbers(self, data: Path, video_id: str) -> NDArray[np.int64] | None:
        """The numbers in the names of a folder of frames, ascending, where they are not their places."""
        if not (data / video_id).is_dir():
            return None
        names = frame_files(data / video_id)
        numbers = frame_numbers(names)
        if not numbers or (numbers[0], numbers[-1]) == (self.frame_base, self.frame_base + len(names) - 1):
            return None
        return np.array(numbers, np.int64) if numbers[-1] < LARGEST_FRAME else None

    def _are_of(self, numbers: NDArray[np.int64], frame: NDArray[Any]) -> bool:
        """Whether a file counts frames by these numbers: it continues behind the last place, and they have gaps or hold
        all of its frames.
        """
        if not len(frame) or frame.max() < len(numbers) + self.frame_base:
            return False
        return bool(numbers[-1] - numbers[0] >= len(numbers) or np.isin(frame, numbers).all())

    def picture_size(self, data: Path, video_id: str) -> tuple[int, int] | None:
        """Width and height as `seqinfo.ini` has them. Raises DataError."""
        return _picture_size(self._path(data, video_id))

    def table(self, path: Path, video_id: str) -> BoxTable:
        """The boxes of a file. Raises DataError that names file, row and column."""
        stat = path.stat()
        settings = (tuple(self.classes), self.confidence, self.ids)
        return _table(path.absolute(), stat.st_size, stat.st_mtime_ns, video_id, *settings)


@lru_cache(maxsize=4)
def _table(
    path: Path, size: int, mtime_ns: int, video_id: str, classes: tuple[int, ...], confidence: bool, ids: str
) -> BoxTable:
    """Read a file once a process, while its size and modification time stay. Raises DataError."""
    from mdfpipe.store.mot import read_mot  # not above: it loads Arrow

    rows = read_mot(path)
    left_out = Counter[str]()
    has_id, has_class = rows.id >= 0, rows.kind != -1
    skipped = has_id & (rows.confidence == 0)
    left_out["not to be counted (confidence 0)"] = int(skipped.sum())
    other = ~skipped & has_class & ~np.isin(rows.kind, classes) if classes else np.zeros(len(skipped), np.bool_)
    for kind in np.unique(rows.kind[other]).tolist():
        left_out[f"of class {kind}"] = int((rows.kind[other] == kind).sum())
    kept = np.flatnonzero(~skipped & ~other)
    score = rows.confidence[kept] if confidence else np.ones(len(kept))
    bad = np.flatnonzero((score < 0) | (score > 1))
    if len(bad):
        raise DataError(
            f"{path}: row {rows.row[kept[bad[0]]]}: expected a confidence in 0..1, got {score[bad[0]]:g} and "
            f"{len(bad) - 1} more such rows; scale them, or take them as 1 with detect.detector.confidence=false"
        )
    xyxy = rows.xyxy[kept].astype(np.float64)
    sides = (*xyxy[:, :2].T, *(xyxy[:, 2:] - xyxy[:, :2]).T)
    known = {
        number: person_id(number, video_id if ids == "video" else "") for number in np.unique(rows.id[kept]).tolist()
    }
    names = np.array([known[n] if n >= 0 and ids != "none" else None for n in rows.id[kept].tolist()], np.object_)
    numbers = {"frame": rows.frame[kept].astype(np.float64), **dict(zip(_SIDES, sides, strict=True)), "score": score}
    order = rows.row[kept] - 1

    def cell(name: str, row: int) -> object:
        return f"{numbers[name][int(np.argmax(order == row))]:g}"

    return BoxTable(
        path,
        _SIDES,
        {name: np.ascontiguousarray(column) for name, column in numbers.items()},
        order,
        None,
        cell,
        names if names.astype(bool).any() else None,
        {"": {reason: count for reason, count in left_out.items() if count}},
        unread="detect.detector.ids=none",
        row="row",
    )


def _picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height as the sequence's `seqinfo.ini` has them, in the folder of the file or one folder above it."""
    place = next((p for p in (path.parent / "seqinfo.ini", path.parent.parent / "seqinfo.ini") if p.is_file()), None)
    if place is None:
        return None
    parser = configparser.ConfigParser()
    try:
        parser.read_string(place.read_text(encoding="utf-8-sig"))
        return parser.getint("Sequence", "imWidth"), parser.getint("Sequence", "imHeight")
    except (OSError, ValueError, configparser.Error) as error:
        raise DataError(
            f"{place}: expected imWidth and imHeight under [Sequence], got {one_line(error, 120)}; correct it"
        ) from None
