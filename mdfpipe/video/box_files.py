"""Files of boxes that were made elsewhere: what their detectors share. A detector reads a file into a `BoxTable`."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, NOT_A_RESULT, find_file
from mdfpipe.errors import ConfigError, DataError, one_line, some
from mdfpipe.store.frames import frame_files
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.naming import (
    LONGEST_NAME,
    VIDEO_SUFFIXES,
    file_name,
    is_name,
    named_alike,
    near_name,
    nearest,
    told_path,
)
from mdfpipe.store.subjects import SubjectNames
from mdfpipe.video.detectors import Detect, Detector
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import ranking

LARGEST_FRAME = 2**53  # the last whole number that float64 counts to
LARGEST_PIXEL = 1e7
_CHECKED_ROWS = 1 << 20  # at a time


class BoxFile(Detector):
    """Boxes from a file, by video and frame."""

    frame_base: Literal[0, 1]
    min_score: float

    boxes: str = Field(
        json_schema_extra=BY_CONTENT,
        description="the file; with {video_id} (where / is written __), or {folder} and {name} of it (MOT17-02/img1: "
        "{folder}/gt/gt.txt), one file per video",
    )
    check_boxes: bool = Field(
        True,
        json_schema_extra=NOT_A_RESULT,
        description="fail a video whose boxes do not fit its picture: outside it, or relative, or of another size",
    )

    @abstractmethod
    def table(self, path: Path, video_id: str) -> BoxTable:
        """The boxes of a file. video_id: the video, where the file is one video's. Raises DataError."""

    def check(self, data: Path) -> None:
        """Raise ConfigError where a file of all videos is missing, or is no table of boxes."""
        if self._per_video:
            return
        try:
            self._read(data, "")
        except DataError as error:
            raise ConfigError(str(error)) from None

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """The hash of this video's boxes: rows of other videos do not count.

        Raises ConfigError where a shared file is missing, DataError where the video's own file is, or a cell is bad.
        """
        path = self._path(data, video_id)
        return {"boxes": file_sha256(path) if self._per_video else self._read(data, video_id).sha256()}

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """`identity` by video_id. A file of all videos is looked up once."""
        if self._per_video:
            return super().identities(data)
        shared = cache(lambda: self._table(data, "")[1])

        def identity(video_id: str) -> dict[str, str]:
            table = shared()
            return {"boxes": self._rows(table, table.named(video_id, data), data, video_id).sha256()}

        return identity

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """What finds boxes by frame. Raises as `identity` does; device and threads do not matter."""
        rows = self._read(data, video_id)
        return _ByFrame(rows.take(np.flatnonzero(rows.score >= np.float32(self.min_score))))

    def beyond(self, data: Path, video_id: str, delivered: int) -> int | None:
        """How many boxes of the video lie in frames that it does not have; None where the file does not name it."""
        rows, table = self._read(data, video_id), self._table(data, video_id)[1]
        is_named = len(rows.frame) or (table.spans is not None and table.named(video_id, data))
        return int((rows.frame >= delivered).sum()) if is_named else None

    def unnamed(self, data: Path, video_id: str) -> str:
        """Describe the videos that a file names, and the closest, if it lacks this one; else ""."""
        path, table = self._table(data, video_id)
        spans = table.spans
        if not spans:
            return ""
        folder, _, name = video_id.rpartition("/")
        ends = {text.rpartition("/")[2]: text for text in reversed(list(spans)) if text != video_id}
        same_folder = [end for end, text in ends.items() if text.rpartition("/")[0] == folder]
        end, why = near_name(name, same_folder)
        if end is None:
            end, why = near_name(name, list(ends))
            if name in ends:
                end, why = name, "another folder"
        near = ends[end] if end else None
        hint = f"; {video_id} may be '{told_path(near, video_id)}' ({why})" if near else ""
        shown = some([f"'{one_line(text, 60)}'" for text in spans], 3)
        return f"{path.name} names {len(spans)}: {shown}{hint}"

    def known_boxes(self, data: Path, video_id: str) -> NDArray[np.float32]:
        """The video's boxes, (n, 4) float32 xyxy. Raises as `identity` does."""
        return self._read(data, video_id).xyxy

    def left_out(self, data: Path, video_id: str) -> dict[str, int]:
        """How many rows of the video are no box of a person, by reason."""
        _, table = self._table(data, video_id)
        named = table.named(video_id, data) if table.spans is not None else [""]
        found = Counter[str]()
        for text in named:
            found.update(table.left_out.get(text, {}))
        return dict(found)

    def picture_size(self, data: Path, video_id: str) -> tuple[int, int] | None:
        """Width and height of the pictures that the boxes are of, where the file says so."""
        _, table = self._table(data, video_id)
        named = table.named(video_id, data) if table.spans is not None else [""]
        return next((table.sizes[text] for text in named if text in table.sizes), None)

    @property
    def _per_video(self) -> bool:
        return any(mark in self.boxes for mark in ("{video_id}", "{folder}", "{name}"))

    def _path(self, data: Path, video_id: str) -> Path:
        pure = PurePosixPath(video_id)
        parts = {"{video_id}": file_name(video_id), "{folder}": str(pure.parent), "{name}": pure.name}
        name = self.boxes
        for mark, part in parts.items():
            name = name.replace(mark, part)
        try:
            return find_file(name, data, "detector.boxes")
        except ConfigError as error:
            near = nearest(data, name)
            if self._per_video:
                raise DataError(f"{video_id}: no boxes computed: {error}{near}") from None
            raise ConfigError(f"{error}{near}") from None

    def _table(self, data: Path, video_id: str) -> tuple[Path, BoxTable]:
        path = self._path(data, video_id)
        return path, self.table(path, video_id if self._per_video else "")

    def _read(self, data: Path, video_id: str) -> BoxRows:
        path, table = self._table(data, video_id)
        named = table.named(video_id, data)
        others = set(table.spans or ()) - set(named) if self._per_video else set()
        if others:
            other = one_line(min(others), 80)
            raise DataError(f"{path}: expected boxes of {video_id} only, got boxes of {other} too; correct the file")
        return self._rows(table, named, data, video_id)

    def _rows(self, table: BoxTable, named: list[str], data: Path, video_id: str) -> BoxRows:
        """The boxes of a video. Where the file names pictures and the video is their folder, a frame is its place."""
        folder, places = data / video_id, None
        if table.file is not None and folder.is_dir():
            places = {name: place for place, name in enumerate(frame_files(folder))}
        return table.rows(named, self.frame_base, places)


@dataclass(frozen=True, eq=False)
class BoxRows:
    """One video's boxes, by frame, best score first. frame: (n,) int64. xyxy: (n, 4) float32. score: (n,) float32.

    subject_id: (n,) text, or None for a box without one; None where the file has no ids.
    """

    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    subject_id: NDArray[np.object_] | None = None

    def take(self, order: NDArray[np.intp]) -> BoxRows:
        """Some of the rows, by position."""
        named = None if self.subject_id is None else self.subject_id[order]
        return BoxRows(self.frame[order], self.xyxy[order], self.score[order], named)

    def boxes(self, here: slice) -> Boxes:
        """Consecutive rows as the detections of a frame."""
        return Boxes(self.xyxy[here], self.score[here], None if self.subject_id is None else self.subject_id[here])

    def sha256(self) -> str:
        """The content of the rows."""
        digest = hashlib.sha256()
        for column, kind in ((self.frame, "<i8"), (self.xyxy, "<f4"), (self.score, "<f4")):
            digest.update(np.ascontiguousarray(column, dtype=kind).tobytes())
        if self.subject_id is not None:
            digest.update(repr(self.subject_id.tolist()).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _ByFrame(Detect):
    rows: BoxRows

    def read(self, frames: Frames, answer: Any) -> list[Boxes]:
        """The boxes of each frame, by its number."""
        spans = np.searchsorted(self.rows.frame, np.stack([frames.index, frames.index + 1]))
        return [self.rows.boxes(slice(a, b)) for a, b in spans.T]


@dataclass(frozen=True, eq=False)
class BoxTable:
    """A boxes file, its rows grouped by video. What is no number is NaN until a video asks for it: then an error.

    order: (n,) int64, the rows of the file, video by video. numbers: (n,) float64 each, in that order.
    spans: video_id to its part of the order; None where the whole file is one video's. cell: what the file has in a
    column and row. subject_id: (n,) text or None, in that order; None where the file has no ids. left_out: what is no
    box of a person, by video and reason. sizes: width and height of a picture by video, where the file has them.
    unread: setting that reads the file without ids, if there is one. row: what a row is called. resized: what to do
    where x2 and y2 are sizes. file: (n,) names of pictures whose boxes they are, in that order, "" for those that a
    number of the frame tells; None where all are.
    """

    path: Path
    names: tuple[str, ...]
    numbers: dict[str, NDArray[np.float64]]
    order: NDArray[np.int64]
    spans: dict[str, tuple[int, int]] | None
    cell: Callable[[str, int], object]
    subject_id: NDArray[np.object_] | None = None
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    unread: str = "detect.detector.subjects=false"
    row: str = "data row"
    resized: str = "set detector.box=xywh"
    file: NDArray[np.object_] | None = None

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """What the file writes, in its order, by every video_id that it may mean."""
        found: dict[str, list[str]] = {}
        for text in self.spans or ():
            for name in dict.fromkeys((text, *named_alike(text))):
                found.setdefault(name, []).append(text)
        return found

    def named(self, video_id: str, data: Path) -> list[str]:
        """How the file writes a video: as it is, as a path that is it in plain form or without its suffix, or as its
        path without a suffix where no other video is under that name. Among several paths only those that exist."""
        if self.spans is None:
            return [video_id]
        same = self._alike.get(video_id, [])
        if len(same) > 1:
            alone = not (data / video_id).exists()  # else it is a folder, and a.mp4 beside it another video
            paths = {text: named_alike(text)[0] for text in same}
            same = [t for t, path in paths.items() if path == video_id or (alone and (data / path).exists())]
        if same:
            return same
        stem = named_alike(video_id)[1]
        texts = [text for text in self._alike.get(stem, []) if named_alike(text)[0] == stem]
        return texts if stem != video_id and len(_files_of(data / stem)) < 2 else []

    def rows(self, named: list[str], frame_base: int, places: Mapping[str, int] | None = None) -> BoxRows:
        """The boxes of one video. places: of the pictures in its folder, where it is one.

        Raises DataError that names file, row, column and value of a bad cell.
        """
        spans = [(0, len(self.order))]
        if self.spans is not None:
            spans = [self.spans[text] for text in named if text in self.spans] or [(0, 0)]
        parts = [self._span(slice(*span), frame_base, places) for span in spans]
        if len(parts) == 1:
            return parts[0]
        frame = np.concatenate([part.frame for part in parts])
        if len(np.unique(frame)) < sum(len(np.unique(part.frame)) for part in parts):
            spellings = " and ".join(f"'{told_path(text, named[0])}'" for text in named)
            raise DataError(f"{self.path}: the same frames of one video are listed under {spellings}; keep one of them")
        named_by = [part.subject_id for part in parts if part.subject_id is not None]
        whole = BoxRows(
            frame,
            np.concatenate([p.xyxy for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate(named_by) if named_by else None,
        )
        return _sorted(whole)

    def _span(self, span: slice, frame_base: int, places: Mapping[str, int] | None) -> BoxRows:
        part = {name: column[span] for name, column in self.numbers.items()}
        rows = self.order[span]
        if self.file is not None and places is not None:
            part["frame"] = _placed(self.file[span], part["frame"], places, frame_base)
        elif self.file is not None:
            self._refuse_two_pictures(self.file[span], part["frame"])
        if self._lowest_frame < frame_base:
            self._check(part, rows, frame_base)
        frame, score = part["frame"], part.get("score", np.ones(len(rows)))
        xyxy = self._xyxy(part)
        named = None if self.subject_id is None else self.subject_id[span]
        if named is not None:
            self._refuse_twice(frame, named, rows)
        return _sorted(BoxRows(frame.astype(np.int64) - frame_base, xyxy, score.astype(np.float32), named))

    def _refuse_twice(self, frame: NDArray[np.float64], named: NDArray[np.object_], rows: NDArray[np.int64]) -> None:
        """Raise DataError where a person has two boxes in a frame."""
        import pyarrow as pa  # not above: detectors load nothing heavy before they are asked for

        person = pa.array(named, pa.string()).dictionary_encode().indices.fill_null(-1).to_numpy()
        order = np.lexsort((np.arange(len(person)), person, frame))
        same = (np.diff(frame[order]) == 0) & (np.diff(person[order]) == 0) & (person[order][1:] >= 0)
        if not same.any():
            return
        at = int(np.argmax(same))
        first, second = order[at], order[at + 1]
        more = f" and {int(same.sum()) - 1} more such boxes" if same.sum() > 1 else ""
        raise DataError(
            f"{self.path}: {self.row}s {rows[first] + 1} and {rows[second] + 1}: expected one box a person and frame, "
            f"got two of '{one_line(named[first], 60)}' in frame {frame[first]:.0f}{more}; keep one of them"
            + (f", or read the boxes without ids with {self.unread}" if self.unread else "")
        )

    def _refuse_two_pictures(self, file: NDArray[np.object_], frame: NDArray[np.float64]) -> None:
        """Raise DataError where two pictures of a video are one frame, by the numbers in their names."""
        found = dict[float, str]()
        for name, number in zip(file.tolist(), frame.tolist(), strict=True):
            if found.setdefault(number, name) != name:
                raise DataError(
                    f"{self.path}: expected one picture a frame of a video, got {one_line(found[number], 60)} and "
                    f"{one_line(name, 60)} of frame {number:g}; write video_id and frame_id of each image"
                )

    def check(self) -> None:
        """Raise DataError where a cell of any video is bad, or a person has two boxes in a frame of a video."""
        for span in [(0, len(self.order))] if self.spans is None else self.spans.values():
            at = slice(*span)
            part = {name: column[at] for name, column in self.numbers.items()}
            self._check(part, self.order[at], 0)
            if self.subject_id is not None:
                self._refuse_twice(part["frame"], self.subject_id[at], self.order[at])

    @cached_property
    def _lowest_frame(self) -> float:
        """The lowest frame number of the file; -1 where a cell is bad, so that the cells of each video are checked."""
        try:
            for start in range(0, len(self.order), _CHECKED_ROWS):
                span = slice(start, start + _CHECKED_ROWS)
                self._check({name: column[span] for name, column in self.numbers.items()}, self.order[span], 0)
        except DataError:
            return -1.0
        return float(self.numbers["frame"].min(initial=LARGEST_FRAME))

    def _check(self, part: dict[str, NDArray[np.float64]], rows: NDArray[np.int64], frame_base: int) -> None:
        """Raise DataError that names row, column and value of a bad cell. rows: those of the file."""
        for name, column in part.items():
            self._refuse(~np.isfinite(column), name, rows, "a number")
        frame, score = part["frame"], part.get("score", np.ones(len(rows)))
        self._refuse(frame != np.floor(frame), "frame", rows, "a whole number")
        from_0 = "do frames count from 0? set detect.detector.frame_base=0" if frame_base and (frame >= 0).all() else ""
        self._refuse(frame < frame_base, "frame", rows, f"{frame_base} or more (frame_base is {frame_base})", from_0)
        self._refuse(frame >= LARGEST_FRAME, "frame", rows, "a frame number")
        self._refuse((score < 0) | (score > 1), "score", rows, "a score in 0..1")
        for name in self.names:
            self._refuse(np.abs(part[name]) > LARGEST_PIXEL, name, rows, "a position in pixels")
        xyxy, sized = self._xyxy(part), self.names[2] == "width"
        for low, high in ((0, 2), (1, 3)):
            more = "0" if sized else self.names[low]
            bad = ~(xyxy[:, high] > xyxy[:, low])
            many = not sized and bad.sum() * 5 >= len(bad)  # a size, read as an edge, is often less than the other edge
            advice = f"are the last two width and height? {self.resized}" if many else ""
            self._refuse(bad, self.names[high], rows, f"more than {more}", advice)

    def _xyxy(self, part: dict[str, NDArray[np.float64]]) -> NDArray[np.float32]:
        sides = [part[name] for name in self.names]
        if self.names[2] == "width":
            sides[2:] = [sides[0] + sides[2], sides[1] + sides[3]]
        return np.stack(sides, axis=1).astype(np.float32)

    def _refuse(
        self, bad: NDArray[np.bool_], name: str, rows: NDArray[np.int64], expected: str, advice: str = ""
    ) -> None:
        if not bad.any():
            return
        row = int(rows[np.argmax(bad)])
        cell = one_line(repr(str(self.cell(name, row))[:80]), 60)
        raise DataError(
            f"{self.path}: {self.row} {row + 1}, column {name}: expected {expected}, got {cell}"
            + (f" and {int(bad.sum()) - 1} more such rows" if bad.sum() > 1 else "")
            + f"; {advice or 'correct the file'}"
        )


def _placed(
    file: NDArray[np.object_], frame: NDArray[np.float64], places: Mapping[str, int], base: int
) -> NDArray[np.float64]:
    """The frame of each row, (n,), counted from `base`: the place of its picture in the folder, of one that is not
    there one after the last; as it is where a row names no picture.
    """
    lost, found = dict[str, int](), frame.copy()
    for row, name in enumerate(file.tolist()):
        if name:
            place = places.get(name)
            found[row] = base + (len(places) + lost.setdefault(name, len(lost)) if place is None else place)
    return found


def _files_of(stem: Path) -> list[Path]:
    """Videos, and a folder, that lie there under this path, regardless of their suffix."""
    try:
        found = [path for path in stem.parent.iterdir() if path == stem or path.with_suffix("") == stem]
    except OSError:
        return []
    return [path for path in found if path == stem or path.suffix.lower() in VIDEO_SUFFIXES]


def _sorted(rows: BoxRows) -> BoxRows:
    best = ranking(rows.xyxy, rows.score)
    return rows.take(best[np.argsort(rows.frame[best], kind="stable")])


@lru_cache(maxsize=1 << 14)
def subject_name(text: str, where: str) -> str | None:
    """The person that a text of a file names; None where it names none. Raises DataError for what is no name."""
    found = SubjectNames().subject_id(text.strip(" "))
    if found is not None and not is_name(found):
        raise DataError(
            f"{where}: expected names of at most {LONGEST_NAME} printable characters, got '{one_line(found, 60)}'; "
            "correct the file"
        )
    return found


def person_id(number: object, video_id: str) -> str:
    """The name of a person that a file gives by a number, within a video unless that is "".

    >>> person_id(7, "MOT17-02/img1"), person_id(7.0, ""), person_id("v1.0", "")
    ('MOT17-02__img1:7', '7', 'v1.0')
    """
    text = f"{number:.0f}" if isinstance(number, float) and number.is_integer() else str(number)
    return f"{file_name(video_id)}:{text}" if video_id else text
