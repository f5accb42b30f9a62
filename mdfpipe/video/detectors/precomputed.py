"""Boxes that were computed elsewhere, or drawn by hand: a Parquet or CSV file in place of a network.

    video_id,frame,x1,y1,x2,y2,score        columns are found by their names; others are left alone
    cam1/walk,0,12.5,30,88,240,0.91

One file for all videos, or one for each: `boxes: bodies/{video_id}.csv`, where `/` in a video_id is written `__`
and the column video_id may be absent. `score` may be absent (1.0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import BY_CONTENT, find_file
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.naming import file_name
from mdfpipe.video.detectors import Detect, Detector
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.nms import ranking

LARGEST_FRAME = 2**53  # the last whole number that float64 counts to
LARGEST_PIXEL = 1e7


class Precomputed(Detector):
    """Boxes read from a Parquet or CSV file (told apart by content), looked up by video and frame."""

    boxes: str = Field(json_schema_extra=BY_CONTENT, description="the file; may hold {video_id}: one file per video")
    box: Literal["xyxy", "xywh"] = Field("xyxy", description="columns x1, y1, x2, y2, or x, y, width, height")
    frame_base: Literal[0, 1] = Field(0, description="number of a video's first frame in the file")
    min_score: float = Field(0.0, ge=0, le=1, description="boxes below are dropped")

    def check(self, data: Path) -> None:
        """Raise ConfigError where a file of all videos is missing, or is no table of boxes."""
        if self._per_video:
            return
        try:
            self._read(self._path(data, ""), "")
        except DataError as error:
            raise ConfigError(str(error)) from None

    def identity(self, data: Path, video_id: str) -> dict[str, str]:
        """The hash of this video's boxes: rows of other videos do not count.

        Raises ConfigError where a shared file is missing, DataError where the video's own file is, or a cell is bad.
        """
        path = self._path(data, video_id)
        return {"boxes": file_sha256(path) if self._per_video else self._read(path, video_id).sha256()}

    def open(self, data: Path, video_id: str, *, device: str, threads: int) -> Detect:
        """A function that looks boxes up by frame. Raises as `identity` does; device and threads do not matter."""
        rows = self._read(self._path(data, video_id), video_id)
        rows = rows.where(rows.score >= np.float32(self.min_score))

        def detect(frames: Frames) -> list[Boxes]:
            spans = np.searchsorted(rows.frame, np.stack([frames.index, frames.index + 1]))
            return [Boxes(rows.xyxy[a:b], rows.score[a:b]) for a, b in spans.T]

        return detect

    def beyond(self, data: Path, video_id: str, delivered: int) -> int | None:
        """How many boxes of the video lie in frames that it does not have; None where the file does not name it."""
        rows = self._read(self._path(data, video_id), video_id)
        return int((rows.frame >= delivered).sum()) if len(rows.frame) else None

    @property
    def _per_video(self) -> bool:
        return "{video_id}" in self.boxes

    def _path(self, data: Path, video_id: str) -> Path:
        name = self.boxes.replace("{video_id}", file_name(video_id))
        try:
            return find_file(name, data, "detector.boxes")
        except ConfigError as error:
            if self._per_video:
                raise DataError(f"{video_id}: no boxes computed: {error}") from None
            raise

    def _read(self, path: Path, video_id: str) -> _Rows:
        names = ("x1", "y1", "x2", "y2") if self.box == "xyxy" else ("x", "y", "width", "height")
        stat = path.stat()
        table = _table(path.absolute(), stat.st_size, stat.st_mtime_ns, names, self._per_video)
        if self._per_video and set(table.spans or ()) - {video_id}:
            other = one_line(next(iter(set(table.spans or ()) - {video_id})), 80)
            raise DataError(f"{path}: expected boxes of {video_id} only, got boxes of {other} too; correct the file")
        return table.rows(video_id, self.frame_base)


@dataclass(frozen=True, eq=False)
class _Rows:
    """One video's boxes, by frame, best score first. frame: (n,) int64. xyxy: (n, 4) float32. score: (n,) float32."""

    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]

    def where(self, keep: NDArray[np.bool_]) -> _Rows:
        return _Rows(self.frame[keep], self.xyxy[keep], self.score[keep])

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for column, kind in ((self.frame, "<i8"), (self.xyxy, "<f4"), (self.score, "<f4")):
            digest.update(np.ascontiguousarray(column, dtype=kind).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Table:
    """A boxes file, its rows grouped by video. What is no number is NaN until a video asks for it: then an error.

    order: (n,) int64, the rows of the file, video by video. numbers: (n,) float64 each, in that order.
    spans: video_id to its part of the order; None where the whole file is one video's.
    """

    path: Path
    names: tuple[str, ...]
    numbers: dict[str, NDArray[np.float64]]
    order: NDArray[np.int64]
    spans: dict[str, tuple[int, int]] | None

    def rows(self, video_id: str, frame_base: int) -> _Rows:
        """The boxes of one video. Raises DataError that names file, row, column and value of a bad cell."""
        span = slice(*((0, len(self.order)) if self.spans is None else self.spans.get(video_id, (0, 0))))
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
        return _sorted(frame.astype(np.int64) - frame_base, xyxy, score.astype(np.float32))

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
            self._refuse(~(xyxy[:, high] > xyxy[:, low]), self.names[high], rows, f"more than {more}")
        return xyxy

    def _refuse(self, bad: NDArray[np.bool_], name: str, rows: NDArray[np.int64], expected: str) -> None:
        if not bad.any():
            return
        row = int(rows[np.argmax(bad)])
        cell = str(_columns(self.path, [name]).column(0)[row].as_py())
        raise DataError(
            f"{self.path}: data row {row + 1}, column {name}: expected {expected}, got {one_line(repr(cell[:80]), 60)}"
            + (f" and {int(bad.sum()) - 1} more such rows" if bad.sum() > 1 else "")
            + "; correct the file"
        )


def _as_numbers(column: Any) -> NDArray[np.float64]:
    """A pyarrow column as (n,) float64; NaN for what is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        numbers: NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        numbers = np.array([_number(cell) for cell in column.to_pylist()], np.float64)
    return numbers


def _number(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _sorted(frame: NDArray[np.int64], xyxy: NDArray[np.float32], score: NDArray[np.float32]) -> _Rows:
    best = ranking(xyxy, score)
    order = best[np.argsort(frame[best], kind="stable")]
    return _Rows(frame[order], xyxy[order], score[order])


@lru_cache(maxsize=4)
def _table(path: Path, size: int, mtime_ns: int, names: tuple[str, ...], per_video: bool) -> _Table:
    """Parse a file once a process, while its size and modification time stay. Raises DataError."""
    found = _column_names(path)
    needed = ["frame", *names] + ([] if per_video else ["video_id"])
    wrong = [f"{name} is missing" for name in needed if name not in found]
    wrong += [f"{name} stands {found.count(name)} times" for name in (*needed, "score") if found.count(name) > 1]
    if wrong:
        raise DataError(
            f"{path}: expected columns {', '.join(needed)}, got {one_line(', '.join(found), 120) or 'none'}: "
            f"{', '.join(wrong)}; rename the columns, or set detector.box ({'xywh' if names[0] == 'x1' else 'xyxy'})"
        )
    columns = _columns(path, [name for name in dict.fromkeys((*needed, "video_id", "score")) if name in found])
    order, spans = np.arange(columns.num_rows), None
    if "video_id" in found:
        order, spans = _grouped(path, columns.column("video_id"))
    numbers = {name: _as_numbers(columns.column(name))[order] for name in columns.column_names if name != "video_id"}
    return _Table(path, names, numbers, order, spans)


def _grouped(path: Path, ids: Any) -> tuple[NDArray[np.int64], dict[str, tuple[int, int]]]:
    """The rows of each video, in the order of the file. Raises DataError where a row names no video."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with _as_data_error(path):
        encoded = pa.chunked_array(ids.cast(pa.string())).combine_chunks().dictionary_encode()
    nameless = pc.fill_null(pc.equal(encoded.dictionary_decode(), ""), True).to_numpy(zero_copy_only=False)
    if nameless.any():
        row = int(np.argmax(nameless)) + 1
        raise DataError(f"{path}: data row {row}, column video_id: expected a video, got nothing; correct the file")
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable").astype(np.int64)
    videos = encoded.dictionary.to_pylist()
    edges = np.searchsorted(codes[order], np.arange(len(videos) + 1)).tolist()
    return order, {video: (edges[n], edges[n + 1]) for n, video in enumerate(videos)}


# --- the file ------------------------------------------------------------------------------------------------------


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if "straddling" in str(error):
            raise DataError(f"{path}: a row is longer than 1 MB: {_longest_line(path)}; correct the file") from None
        raise DataError(
            f"{path}: expected boxes as Parquet or CSV, which cannot be read: {one_line(error, 160)}; correct the file"
        ) from None


def _longest_line(path: Path) -> str:
    """Where the longest line of a text file stands."""
    with path.open("rb") as file:
        length, number = max((len(line), number) for number, line in enumerate(file))
    return f"data row {number} has {length} bytes"


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _column_names(path: Path) -> list[str]:
    import pyarrow.csv
    import pyarrow.parquet

    with _as_data_error(path):
        if _is_parquet(path):
            with pyarrow.parquet.ParquetFile(path) as file:
                return list(file.schema_arrow.names)
        with pyarrow.csv.open_csv(path) as reader:
            return list(reader.schema.names)


def _columns(path: Path, names: list[str]) -> Any:
    """The named columns as a pyarrow Table; the cells of a CSV file as strings."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with _as_data_error(path):
        if _is_parquet(path):
            with pyarrow.parquet.ParquetFile(path) as file:
                return file.read(columns=names)
        as_text = pyarrow.csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
        return pyarrow.csv.read_csv(path, convert_options=as_text)
