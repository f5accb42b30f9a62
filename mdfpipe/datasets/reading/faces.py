"""Face rows: from annotation blocks to one table of faces per video, with NumPy and no loop over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mdfpipe.datasets.reading.annotation import AnomalyKind, AnomalyTally, Names
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import LONGEST_NAME, is_name
from mdfpipe.store.subjects import SubjectNames
from mdfpipe.store.tables import FACES
from mdfpipe.store.text_tables import Block, first_row, numbers

LARGEST_FRAME = 2**53  # frame numbers are read as float64
_FEW = 12  # faces in a frame

_Mask: TypeAlias = NDArray[np.bool_]


class BoxKind(StrEnum):
    """How an annotation writes a box."""

    XYWH = "xywh"  # left, top, width, height: x2 = x + width
    XYXY = "xyxy"  # left, top, right, bottom, the last two exclusive
    XYXY_INCLUSIVE = "xyxy_inclusive"  # the last two name the last pixel inside: one is added

    @property
    def columns(self) -> tuple[str, str, str, str]:
        """Our names of its four columns."""
        return ("x", "y", "width", "height") if self is BoxKind.XYWH else ("x1", "y1", "x2", "y2")


@dataclass(frozen=True, eq=False)
class FaceRows:
    """Annotated faces of many videos: one entry a row.

    video: (n,) int32 number of the video. frame: (n,) int64. subject: (n,) int32, -1 unnamed.
    xyxy: (n, 4) float32, pixels, maximum exclusive. row: (n,) int64 place in the annotation, over all its tables.
    """

    video: NDArray[np.int32]
    frame: NDArray[np.int64]
    subject: NDArray[np.int32]
    xyxy: NDArray[np.float32]
    row: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, which: NDArray[np.int64] | _Mask | slice) -> FaceRows:
        """The rows that an index array, a mask or a slice picks."""
        return FaceRows(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def join(cls, parts: Sequence[FaceRows]) -> FaceRows:
        """The rows of all the parts, in order."""
        kinds = (np.int32, np.int64, np.int32, np.float32, np.int64)
        empty = cls(*(np.empty((0, 4) if f.name == "xyxy" else 0, k) for f, k in zip(fields(cls), kinds, strict=True)))
        return cls(*(np.concatenate([getattr(p, f.name) for p in (empty, *parts)]) for f in fields(cls)))


def subject_codes(block: Block, subjects: Names, tally: AnomalyTally, names: SubjectNames) -> NDArray[np.int32]:
    """The subjects of a block: (n,) int32 numbers in `subjects`, -1 where missing. Raises DataError: a hostile name."""
    cells = block.cells["subject"]
    texts = cells.dictionary.to_pylist()
    for text in texts:
        if names.subject_id(text) is not None and not is_name(text):
            raise DataError(
                f"{first_row(block, 'subject', text)}: expected a subject of at most {LONGEST_NAME} printable"
                f" characters, got '{one_line(text, 60)}'"
            )
    codes = subjects.codes(cells, names.subject_id)
    which = cells.indices.to_numpy(zero_copy_only=False)
    renamed = np.array([names.subject_id(t) not in (t, None) for t in texts], bool)
    tally.add(AnomalyKind.SUBJECT_AS_FLOAT, renamed[which], block.example)
    doubtful = np.array([names.is_doubtful(t) for t in texts], bool)
    tally.add(AnomalyKind.SUBJECT_PERHAPS_NOBODY, doubtful[which], block.example)
    return codes


def read_boxes(block: Block, kind: BoxKind) -> tuple[NDArray[np.float32], dict[AnomalyKind, _Mask]]:
    """The boxes of a block: (n, 4) float32 xyxy, maximum exclusive; and, by kind, which rows have none."""
    values, missing, garbage = zip(*(numbers(block.cells[name]) for name in kind.columns), strict=True)
    a, b, c, d = values
    if kind is BoxKind.XYWH:
        c, d = a + c, b + d
    elif kind is BoxKind.XYXY_INCLUSIVE:
        c, d = c + 1, d + 1
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = np.stack([a, b, c, d], axis=1).astype(np.float32)
        width, height = xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1]
    gaps = np.sum(missing, axis=0)
    return xyxy, {
        AnomalyKind.NOT_A_NUMBER: np.any(garbage, axis=0) | ((gaps == 0) & np.isinf(xyxy).any(axis=1)),
        AnomalyKind.MISSING_BOX: gaps == 4,
        AnomalyKind.PARTIAL_BOX: gaps > 0,
        AnomalyKind.NEGATIVE_SIZE: (width < 0) | (height < 0),
        AnomalyKind.ZERO_SIZE: (width == 0) | (height == 0),
    }


def read_frames(block: Block) -> tuple[NDArray[np.int64], dict[AnomalyKind, _Mask]]:
    """The frame numbers of a block as written, (n,) int64; and, by kind, which rows have none."""
    value, missing, garbage = numbers(block.cells["frame"])
    garbage |= np.abs(value) > LARGEST_FRAME
    whole = np.floor(value) == value
    frame = np.where(whole & ~garbage & ~missing, value, 0).astype(np.int64)
    return frame, {
        AnomalyKind.NOT_A_NUMBER: garbage,
        AnomalyKind.MISSING_FRAME: missing,
        AnomalyKind.NON_INTEGER_FRAME: ~whole & ~missing,
    }


def keep_rows(block: Block, left_out: Sequence[Mapping[AnomalyKind, _Mask]], tally: AnomalyTally, of: _Mask) -> _Mask:
    """(n,) bool: the rows, `of` these, that nothing leaves out. A row is counted once, under the first kind that it
    falls under."""
    kept = of.copy()
    for reasons in left_out:
        for kind, mask in reasons.items():
            tally.add(kind, mask & kept, block.example)
            kept &= ~mask
    return kept


class Told:
    """Tells of rows after the tables are closed: where a row stood, and what it said."""

    def __init__(self, starts: Sequence[tuple[str, int]], videos: Sequence[str], subjects: Sequence[str]) -> None:
        """Starts: each table with the place of its first row, in order; videos and subjects: texts by number."""
        self.tables = [name for name, _ in starts]
        self.starts = np.array([start for _, start in starts], np.int64)
        self.videos, self.subjects = videos, subjects

    def __call__(self, rows: FaceRows, i: int) -> str:
        """Row `i` as text: table, row number, video, frame, subject, box."""
        at = int(np.searchsorted(self.starts, rows.row[i], side="right")) - 1
        subject = self.subjects[rows.subject[i]] if rows.subject[i] >= 0 else "unnamed"
        box = " ".join(f"{v:g}" for v in rows.xyxy[i])
        return (
            f"{self.tables[at]} row {rows.row[i] - self.starts[at] + 2}: {self.videos[rows.video[i]]}"
            f" frame {rows.frame[i]} subject {subject} box {box}"
        )


def by_frame(rows: FaceRows, tally: AnomalyTally, told: Told) -> tuple[FaceRows, NDArray[np.int16]]:
    """The rows by video, frame and place in the annotation, duplicates left out; and face_no of each, (n,) int16.

    Counts duplicates (same video, frame, subject and box), boxes that two subjects share, and subjects with two boxes.
    """
    rows = rows.take(np.lexsort((rows.row, rows.frame, rows.video)))
    group = _runs(rows.video, rows.frame)
    crowded = np.flatnonzero(np.bincount(group, minlength=1)[group] > 1) if len(rows) else np.empty(0, np.int64)
    if len(crowded):
        some = rows.take(crowded)
        duplicate = np.zeros(len(rows), bool)
        duplicate[crowded] = _count_repeats(some, group[crowded], tally, told)
        tally.add(AnomalyKind.DUPLICATE_ROW, duplicate, lambda i: told(rows, i))
        rows, group = rows.take(~duplicate), group[~duplicate]
    first = np.searchsorted(group, group)
    face_no = np.arange(len(rows)) - first
    if len(rows) and face_no.max() > np.iinfo(np.int16).max:
        raise DataError(f"{told(rows, int(face_no.argmax()))}: more than 32767 faces in one frame")
    return rows, face_no.astype(np.int16)


def _runs(*keys: NDArray[np.int64] | NDArray[np.int32]) -> NDArray[np.int64]:
    """Sorted keys -> number of the run of equal ones that each entry belongs to."""
    if not len(keys[0]):
        return np.empty(0, np.int64)
    change = np.any([np.diff(key) != 0 for key in keys], axis=0)
    return np.concatenate([[0], np.cumsum(change)])


def _count_repeats(rows: FaceRows, group: NDArray[np.int64], tally: AnomalyTally, told: Told) -> _Mask:
    """Flag rows that repeat an earlier row, (n,) bool, in frames with several faces. Counts the other repeats.

    group: (n,) int64, sorted, equal within one frame of one video.
    """
    box = np.ascontiguousarray(rows.xyxy + np.float32(0)).view(np.uint64)  # + 0 makes -0 and 0 the same bits
    same_box = _repeats(group, box[:, 0], box[:, 1])
    duplicate = _repeats(group, box[:, 0], box[:, 1], rows.subject) if same_box.any() else same_box
    # Not the first with its box, yet the first with its box and subject: an earlier row has another subject.
    shared = same_box & ~duplicate
    twice = _repeats(group, rows.subject) & ~duplicate & (rows.subject >= 0)
    tally.add(AnomalyKind.SAME_BOX_TWO_SUBJECTS, shared, lambda i: told(rows, i))
    tally.add(AnomalyKind.SAME_SUBJECT_TWICE_IN_FRAME, twice, lambda i: told(rows, i))
    return duplicate


def _repeats(group: NDArray[np.int64], *keys: NDArray[np.int32] | NDArray[np.uint64]) -> _Mask:
    """(n,) bool: which entries have the keys of an earlier entry of their group. group: (n,) int64, sorted.

    >>> _repeats(np.array([0, 0, 0, 1]), np.array([5, 6, 5, 5], np.int32)).tolist()
    [False, False, True, False]
    """
    mask = np.zeros(len(group), bool)
    if np.bincount(group).max() <= _FEW:  # the usual frame: compare with each earlier entry, which sorts nothing
        for back in range(1, int(np.bincount(group).max())):
            equal = group[back:] == group[:-back]
            for key in keys:
                equal &= key[back:] == key[:-back]
            mask[back:] |= equal
        return mask
    order = np.lexsort((*keys, group))  # stable: equal entries stay in order
    mask[order[1:]] = np.all([key[order][1:] == key[order][:-1] for key in (group, *keys)], axis=0)
    return mask


def face_table(video_id: str, rows: FaceRows, face_no: NDArray[np.int16], subjects: pa.StringArray) -> pa.Table:
    """The faces of one video as a table of FACES. subjects: names by number; rows: of this video, by frame."""
    named = pa.array(rows.subject, mask=rows.subject < 0)
    columns = [
        pa.repeat(pa.scalar(video_id), len(rows)),
        pa.array(rows.frame),
        pa.array(face_no),
        subjects.take(named),
        *(pa.array(np.ascontiguousarray(rows.xyxy[:, k])) for k in range(4)),
    ]
    return pa.table(columns, schema=FACES)
