"""Boxes that were computed elsewhere, or drawn by hand: a Parquet or CSV file in place of a network.

    video_id,frame,x1,y1,x2,y2,score        columns are found by their names (`COLUMNS`); others are left alone
    cam1/walk,0,12.5,30,88,240,0.91

One file for all videos, or one for each: `boxes: bodies/{video_id}.csv`, where `/` in a video_id is written `__`
and the column video_id may be absent. `score` may be absent or empty (1.0). A video may also be written as its path.
A column subject_id names the person of each box, where it is known; a person has one box a frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, NOT_A_RESULT, find_file
from mdfpipe.errors import ConfigError, DataError, one_line, some
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.limits import refuse_large_table
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
from mdfpipe.store.subjects import SubjectNames, is_missing
from mdfpipe.video.detectors import Detect, Detector
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import ranking

LARGEST_FRAME = 2**53  # the last whole number that float64 counts to
LARGEST_PIXEL = 1e7
_TEXTS = {"video_id", "subject_id"}
COLUMNS = {
    "video_id": ("video_id", "video", "file", "filename", "path", "video_name", "clip"),
    "frame": ("frame", "frame_num", "frame_number", "frame_no", "frame_id", "frame_index", "frame_idx"),
    "x1": ("x1", "left", "xmin", "bb_left", "bbox_x1"),
    "y1": ("y1", "top", "ymin", "bb_top", "bbox_y1"),
    "x2": ("x2", "right", "xmax", "bb_right", "bbox_x2"),
    "y2": ("y2", "bottom", "ymax", "bb_bottom", "bbox_y2"),
    "x": ("x", "left", "xmin", "bb_left", "bbox_x", "x1"),
    "y": ("y", "top", "ymin", "bb_top", "bbox_y", "y1"),
    "width": ("width", "w", "bb_width", "bbox_width", "bbox_w"),
    "height": ("height", "h", "bb_height", "bbox_height", "bbox_h"),
    "score": ("score", "confidence", "conf", "probability", "prob", "det_score"),
    "subject_id": ("subject_id", "subject", "person_id"),
}
"""Headers that will do for each column, the first the best; in any case, without blanks, `_`, `-` and `.`."""


class Precomputed(Detector):
    """Boxes from a Parquet or CSV file (recognised by content), by video and frame."""

    boxes: str = Field(json_schema_extra=BY_CONTENT, description="the file; may hold {video_id}: one file per video")
    box: Literal["xyxy", "xywh"] = Field("xyxy", description="columns x1, y1, x2, y2, or x, y, width, height")
    frame_base: Literal[0, 1] = Field(0, description="number of a video's first frame in the file")
    check_boxes: bool = Field(
        True,
        json_schema_extra=NOT_A_RESULT,
        description="fail a video whose boxes do not fit its picture: outside it, or relative",
    )
    min_score: float = Field(0.0, ge=0, le=1, description="least detector confidence; boxes below it are dropped")
    subjects: bool = Field(True, description="whether a column subject_id of the file names the persons of its boxes")

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
            return {"boxes": table.rows(table.named(video_id, data), self.frame_base).sha256()}

        return identity

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """A function that finds boxes by frame. Raises as `identity` does; device and threads do not matter."""
        rows = self._read(data, video_id)
        rows = rows.take(np.flatnonzero(rows.score >= np.float32(self.min_score)))

        def detect(frames: Frames) -> list[Boxes]:
            spans = np.searchsorted(rows.frame, np.stack([frames.index, frames.index + 1]))
            return [rows.boxes(slice(a, b)) for a, b in spans.T]

        return detect

    def beyond(self, data: Path, video_id: str, delivered: int) -> int | None:
        """How many boxes of the video lie in frames that it does not have; None where the file does not name it."""
        rows = self._read(data, video_id)
        return int((rows.frame >= delivered).sum()) if len(rows.frame) else None

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

    @property
    def _per_video(self) -> bool:
        return "{video_id}" in self.boxes

    def _path(self, data: Path, video_id: str) -> Path:
        name = self.boxes.replace("{video_id}", file_name(video_id))
        try:
            return find_file(name, data, "detector.boxes")
        except ConfigError as error:
            near = nearest(data, name)
            if self._per_video:
                raise DataError(f"{video_id}: no boxes computed: {error}{near}") from None
            raise ConfigError(f"{error}{near}") from None

    def _table(self, data: Path, video_id: str) -> tuple[Path, _Table]:
        path = self._path(data, video_id)
        stat = path.stat()
        sides = ("x1", "y1", "x2", "y2") if self.box == "xyxy" else ("x", "y", "width", "height")
        state = (path.absolute(), stat.st_size, stat.st_mtime_ns)
        return path, _table(*state, sides, self._per_video, self.subjects)

    def _read(self, data: Path, video_id: str) -> _Rows:
        path, table = self._table(data, video_id)
        named = table.named(video_id, data)
        others = set(table.spans or ()) - set(named) if self._per_video else set()
        if others:
            other = one_line(min(others), 80)
            raise DataError(f"{path}: expected boxes of {video_id} only, got boxes of {other} too; correct the file")
        return table.rows(named, self.frame_base)


@dataclass(frozen=True, eq=False)
class _Rows:
    """One video's boxes, by frame, best score first. frame: (n,) int64. xyxy: (n, 4) float32. score: (n,) float32.

    subject_id: (n,) text, or None for a box without one; None where the file has no ids.
    """

    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    subject_id: NDArray[np.object_] | None = None

    def take(self, order: NDArray[np.intp]) -> _Rows:
        """Some of the rows, by position."""
        named = None if self.subject_id is None else self.subject_id[order]
        return _Rows(self.frame[order], self.xyxy[order], self.score[order], named)

    def boxes(self, here: slice) -> Boxes:
        """Consecutive rows as the detections of a frame."""
        return Boxes(self.xyxy[here], self.score[here], None if self.subject_id is None else self.subject_id[here])

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for column, kind in ((self.frame, "<i8"), (self.xyxy, "<f4"), (self.score, "<f4")):
            digest.update(np.ascontiguousarray(column, dtype=kind).tobytes())
        if self.subject_id is not None:
            digest.update(repr(self.subject_id.tolist()).encode(errors="surrogateescape"))
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Table:
    """A boxes file, its rows grouped by video. What is no number is NaN until a video asks for it: then an error.

    order: (n,) int64, the rows of the file, video by video. numbers: (n,) float64 each, in that order.
    spans: video_id to its part of the order; None where the whole file is one video's. subject_id: (n,) text or None,
    in that order; None where the file has no ids.
    """

    path: Path
    names: tuple[str, ...]
    per_video: bool
    numbers: dict[str, NDArray[np.float64]]
    order: NDArray[np.int64]
    spans: dict[str, tuple[int, int]] | None
    subject_id: NDArray[np.object_] | None = None

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

    def rows(self, named: list[str], frame_base: int) -> _Rows:
        """The boxes of one video. Raises DataError that names file, row, column and value of a bad cell."""
        spans = [(0, len(self.order))]
        if self.spans is not None:
            spans = [self.spans[text] for text in named if text in self.spans] or [(0, 0)]
        parts = [self._span(slice(*span), frame_base) for span in spans]
        if len(parts) == 1:
            return parts[0]
        frame = np.concatenate([part.frame for part in parts])
        if len(np.unique(frame)) < sum(len(np.unique(part.frame)) for part in parts):
            spellings = " and ".join(f"'{told_path(text, named[0])}'" for text in named)
            raise DataError(f"{self.path}: the same frames of one video are listed under {spellings}; keep one of them")
        named_by = [part.subject_id for part in parts if part.subject_id is not None]
        whole = _Rows(
            frame,
            np.concatenate([p.xyxy for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate(named_by) if named_by else None,
        )
        return _sorted(whole)

    def _span(self, span: slice, frame_base: int) -> _Rows:
        part = {name: column[span] for name, column in self.numbers.items()}
        rows = self.order[span]
        for name, column in part.items():
            self._refuse(~np.isfinite(column), name, rows, "a number")
        frame, score = part["frame"], part.get("score", np.ones(len(rows)))
        self._refuse(frame != np.floor(frame), "frame", rows, "a whole number")
        self._refuse(frame < frame_base, "frame", rows, f"{frame_base} or more (frame_base is {frame_base})")
        self._refuse(frame >= LARGEST_FRAME, "frame", rows, "a frame number")
        self._refuse((score < 0) | (score > 1), "score", rows, "a score in 0..1")
        xyxy = self._xyxy(part, rows)
        named = None if self.subject_id is None else self.subject_id[span]
        if named is not None:
            self._refuse_twice(frame, named, rows)
        return _sorted(_Rows(frame.astype(np.int64) - frame_base, xyxy, score.astype(np.float32), named))

    def _refuse_twice(self, frame: NDArray[np.float64], named: NDArray[np.object_], rows: NDArray[np.int64]) -> None:
        """Raise DataError where a person has two boxes in a frame."""
        here = np.flatnonzero(named != None)  # noqa: E711
        _, person = np.unique(named[here].astype(str), return_inverse=True)
        order = here[np.lexsort((here, person, frame[here]))]
        same = (np.diff(frame[order]) == 0) & (named[order][1:] == named[order][:-1])
        if not same.any():
            return
        at = int(np.argmax(same))
        first, second = order[at], order[at + 1]
        more = f" and {int(same.sum()) - 1} more such boxes" if same.sum() > 1 else ""
        raise DataError(
            f"{self.path}: data rows {rows[first] + 1} and {rows[second] + 1}: expected one box a person and frame, "
            f"got two of '{one_line(named[first], 60)}' in frame {frame[first]:.0f}{more}; keep one of them, or read "
            "the boxes without names with detect.detector.subjects=false"
        )

    def _xyxy(self, part: dict[str, NDArray[np.float64]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        sides = [part[name] for name in self.names]
        for name, side in zip(self.names, sides, strict=True):
            self._refuse(np.abs(side) > LARGEST_PIXEL, name, rows, "a position in pixels")
        sized = self.names[2] == "width"
        if sized:
            sides[2:] = [sides[0] + sides[2], sides[1] + sides[3]]
        xyxy = np.stack(sides, axis=1).astype(np.float32)
        for low, high in ((0, 2), (1, 3)):
            more = "0" if sized else self.names[low]
            bad = ~(xyxy[:, high] > xyxy[:, low])
            many = not sized and bad.sum() * 5 >= len(bad)  # a size, read as an edge, is often less than the other edge
            advice = "are the last two width and height? set detector.box=xywh" if many else ""
            self._refuse(bad, self.names[high], rows, f"more than {more}", advice)
        return xyxy

    def _refuse(
        self, bad: NDArray[np.bool_], name: str, rows: NDArray[np.int64], expected: str, advice: str = ""
    ) -> None:
        if not bad.any():
            return
        row = int(rows[np.argmax(bad)])
        cell = str(_load(self.path, self.names, self.per_video).column(name)[row].as_py())
        raise DataError(
            f"{self.path}: data row {row + 1}, column {name}: expected {expected}, got {one_line(repr(cell[:80]), 60)}"
            + (f" and {int(bad.sum()) - 1} more such rows" if bad.sum() > 1 else "")
            + f"; {advice or 'correct the file'}"
        )


def _files_of(stem: Path) -> list[Path]:
    """Videos, and a folder, that lie there under this path, regardless of their suffix."""
    try:
        found = [path for path in stem.parent.iterdir() if path == stem or path.with_suffix("") == stem]
    except OSError:
        return []
    return [path for path in found if path == stem or path.suffix.lower() in VIDEO_SUFFIXES]


def _as_numbers(column: Any) -> NDArray[np.float64]:
    """A pyarrow column as (n,) float64; NaN for what is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from mdfpipe.store.text_tables import numbers

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return numbers(pc.utf8_trim_whitespace(column.cast(pa.string())).combine_chunks())[0]
    try:
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, dates
        return np.full(len(column), np.nan)
    return values


def _sorted(rows: _Rows) -> _Rows:
    best = ranking(rows.xyxy, rows.score)
    return rows.take(best[np.argsort(rows.frame[best], kind="stable")])


@lru_cache(maxsize=4)
def _table(path: Path, size: int, mtime_ns: int, names: tuple[str, ...], per_video: bool, subjects: bool) -> _Table:
    """Parse a file once a process, while its size and modification time stay. Raises DataError."""
    columns = _load(path, names, per_video)
    order, spans = np.arange(columns.num_rows), None
    if "video_id" in columns.column_names:
        order, spans = _grouped(path, columns.column("video_id"))
    if "score" in columns.column_names and _is_empty(columns.column("score")):
        columns = columns.drop_columns(["score"])
    numbers = {name: _as_numbers(columns.column(name))[order] for name in columns.column_names if name not in _TEXTS}
    named = (
        _names(columns.column("subject_id"), path)[order] if "subject_id" in columns.column_names and subjects else None
    )
    return _Table(path, names, per_video, numbers, order, spans, None if named is None or not named.any() else named)


def _names(column: Any, path: Path) -> NDArray[np.object_]:
    """Who each row is, (n,) text; None where a cell names no subject. Raises DataError for a text that is no name."""
    import pyarrow as pa

    with _as_data_error(path):
        encoded = pa.chunked_array(column.cast(pa.string())).combine_chunks().dictionary_encode()
    known = [SubjectNames().subject_id(text.strip(" ")) for text in encoded.dictionary.to_pylist()]
    bad = next((text for text in known if text is not None and not is_name(text)), None)
    if bad is not None:
        raise DataError(
            f"{path}: column subject_id: expected names of at most {LONGEST_NAME} printable characters, got "
            f"'{one_line(bad, 60)}'; correct the file"
        )
    texts = np.array([*known, None], np.object_)
    found: NDArray[np.object_] = texts[encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False)]
    return found


def _grouped(path: Path, ids: Any) -> tuple[NDArray[np.int64], dict[str, tuple[int, int]]]:
    """The rows of each video, in the order of the file. Raises DataError where a row names no video."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with _as_data_error(path):
        encoded = pa.chunked_array(ids.cast(pa.string())).combine_chunks().dictionary_encode()
    texts = [text.strip(" ") for text in encoded.dictionary.to_pylist()]
    which = pc.fill_null(encoded.indices, -1).to_numpy()
    missing = np.array([*(is_missing(text) for text in texts), True])[which]
    if missing.any():
        row = int(np.argmax(missing)) + 1
        raise DataError(f"{path}: data row {row}, column video_id: expected a video, got nothing; correct the file")
    first = {text: n for n, text in reversed(list(enumerate(texts)))}  # spaces aside, two texts may be one
    codes = np.array([first[text] for text in texts], np.int64)[which] if texts else which
    order = np.argsort(codes, kind="stable").astype(np.int64)
    edges = np.searchsorted(codes[order], np.arange(len(texts) + 1)).tolist()
    spans = {text: (edges[n], edges[n + 1]) for n, text in enumerate(texts) if edges[n] < edges[n + 1]}
    return order, spans


def _is_empty(column: Any) -> bool:
    return all(value is None or is_missing(str(value)) for value in column.unique().to_pylist())


# --- the file ------------------------------------------------------------------------------------------------------


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError:  # Arrow's is one of its errors, too
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: expected boxes as Parquet or CSV, which cannot be read: {one_line(error, 160)}; correct the file"
        ) from None


def _load(path: Path, names: tuple[str, ...], per_video: bool) -> Any:
    """The columns of a boxes file, by our names, as a pyarrow Table; the cells of a CSV file as strings."""
    import pyarrow as pa

    from mdfpipe.store.parquet import open_table
    from mdfpipe.store.text_tables import read_blocks, read_layout

    wanted = {name: COLUMNS[name] for name in ("video_id", "frame", *names, "score", "subject_id")}
    optional = ("score", "subject_id", "video_id") if per_video else ("score", "subject_id")
    with _as_data_error(path), path.open("rb") as start:
        is_parquet = start.read(4) == b"PAR1"
    if not is_parquet:
        layout = read_layout(path, str(path), wanted.values())
        found = _found(layout.header, wanted, path, optional)
        kinds = {name: pa.string() for name in wanted if name in found}
        blocks = [
            pa.table({name: cells.cast(pa.string()) for name, cells in block.cells.items()})
            for block in read_blocks(path, str(path), wanted, set(wanted) - _TEXTS, optional)
        ]
        # an empty table is of lists, for which Arrow loads pandas: 0.2 s
        return pa.concat_tables(blocks).select(list(kinds)) if blocks else pa.schema(list(kinds.items())).empty_table()
    with _as_data_error(path), open_table(path) as file:
        header = list(file.schema_arrow.names)
        refuse_large_table(file, path)
        found = _found(header, wanted, path, optional)
        read = file.read(columns=[header[at] for at in found.values()])
        read.validate(full=True)  # texts that are not UTF-8 would stop whoever looks at them
        return read.rename_columns({header[at]: name for name, at in found.items()})


def _found(
    header: list[str], wanted: dict[str, tuple[str, ...]], path: Path, optional: Collection[str]
) -> dict[str, int]:
    """Our names -> positions in the header. Raises DataError that lists what is missing."""
    from mdfpipe.store.text_tables import find_columns

    found = find_columns(header, wanted, str(path), wanted)
    missing = [name for name in wanted if name not in found and name not in optional]
    if missing:
        needed = ", ".join(name for name in wanted if name not in optional)
        other = "xywh" if "x1" in wanted else "xyxy"
        boxes = f", or set detector.box ({other})" if {"x1", "y1", "x2", "y2", "width", "height"} & set(missing) else ""
        also = "; ".join(f"{name} is missing ({', '.join(wanted[name][1:5])} will do)" for name in missing[:2])
        if all(cell.lstrip("-").replace(".", "", 1).isdigit() for cell in header):
            also = "the first row holds numbers: put a line with the columns' names above it"
        raise DataError(
            f"{path}: expected columns {needed}, got {one_line(', '.join(header), 120) or 'none'}: {also}; "
            f"rename the columns{boxes}"
        )
    return found
