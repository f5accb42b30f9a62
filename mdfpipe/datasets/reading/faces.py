"""Face tables: their file column, boxes and frames, and one table of faces per video, without a loop over rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.datasets import AnomalyTally
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.frames import frame_files, frame_numbers
from mdfpipe.store.naming import (
    IMAGE_SUFFIXES,
    LONGEST_NAME,
    OTHER_PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    Links,
    inside,
    is_name,
    safe_relative,
)
from mdfpipe.store.subjects import NOBODY, SubjectNames
from mdfpipe.store.tables import FACES
from mdfpipe.store.text_tables import Block, first_row, numbers
from mdfpipe.store.tiff import has_pages
from mdfpipe.store.urls import is_url, plain_url

LARGEST_FRAME = 2**53  # frame numbers are read as float64
_FEW = 12  # faces in a frame

_Mask: TypeAlias = NDArray[np.bool_]

# Whatever is not plainly harmless goes to safe_relative, which decides.
_SUSPICIOUS = r"[^\x20-\x7e]|\\|:|^/|/$|//|(^|/)\.{1,2}(/|$)"
_OTHER_PICTURES = OTHER_PICTURE_SUFFIXES - VIDEO_SUFFIXES  # no video, and no frame that is read
_LONGEST_NUMBER = 10**15  # fits int64


def _ending(suffixes: Set[str]) -> str:
    return r"(?i)\.(" + "|".join(sorted(s[1:] for s in suffixes)) + ")$"


_FRAME, _STILL = _ending(IMAGE_SUFFIXES), _ending(IMAGE_SUFFIXES | _OTHER_PICTURES)


class AnomalyKind(StrEnum):
    """What can be unusual about an annotation row. A closed set; the comment says what becomes of the row."""

    MISSING_FILE = "missing_file"  # names no file: left out
    STILL_IMAGE = "still_image"  # names a picture, not a video: left out
    NOT_A_FRAME_IMAGE = "not_a_frame_image"  # frames_in: folder, and the file is no image: left out
    NOT_A_NUMBER = "not_a_number"  # text where a finite number belongs: left out
    MISSING_BOX = "missing_box"  # none of the four box fields: left out
    PARTIAL_BOX = "partial_box"  # some of them: left out
    NEGATIVE_SIZE = "negative_size"  # width or height below zero: left out
    ZERO_SIZE = "zero_size"  # width or height zero: left out
    MISSING_FRAME = "missing_frame"  # no frame number: left out
    NON_INTEGER_FRAME = "non_integer_frame"  # such as 3.5: left out
    NEGATIVE_FRAME = "negative_frame"  # below frame_base: left out
    MISSING_FRAME_FILE = "missing_frame_file"  # the folder holds no such frame: left out
    DUPLICATE_ROW = "duplicate_row"  # same video, frame, subject and box as an earlier row: left out
    MISSING_SUBJECT = "missing_subject"  # empty, NA, None, ...: kept, subject_id null
    SUBJECT_PERHAPS_NOBODY = "subject_perhaps_nobody"  # unknown, -1, ...: kept, under that name
    SUBJECTS_ALIKE = "subjects_alike"  # names that differ in letter case, in what one does not see, in zeros: kept
    GALLERY_ROW_WITHOUT_SUBJECT = "gallery_row_without_subject"  # a row of a gallery table has no name: left out
    SUBJECT_AS_FLOAT = "subject_as_float"  # `12.0`, as pandas writes an integer column with gaps: kept, as `12`
    SAME_BOX_TWO_SUBJECTS = "same_box_two_subjects"  # kept
    SAME_SUBJECT_TWICE_IN_FRAME = "same_subject_twice_in_frame"  # kept
    VIDEO_MISSING_ON_DISK = "video_missing_on_disk"  # the video stays listed and fails later


@dataclass
class Names:
    """Gives each distinct text a number, in the order of its first appearance."""

    number: dict[str, int] = field(default_factory=dict)

    def codes(self, cells: Any, rename: Callable[[str], str | None] = lambda text: text) -> NDArray[np.int32]:
        """DictionaryArray of (n,) texts -> (n,) int32; -1 where `rename` gives None."""
        names = [rename(text) for text in cells.dictionary.to_pylist()]
        table = [-1 if n is None else self.number.setdefault(n, len(self.number)) for n in names]
        codes: NDArray[np.int32] = np.array(table, np.int32)[cells.indices.to_numpy(zero_copy_only=False)]
        return codes

    def texts(self) -> list[str]:
        """The texts, by number."""
        return list(self.number)


# -- the file column: refuse what is hostile, tell pictures from videos, find a frame's position


@dataclass(frozen=True, eq=False)
class PathColumn:
    """The distinct paths of a block and which row has which.

    paths: StringArray (u,), under the data root; "" where the row belongs to no video. which: (n,) int row -> path.
    missing, image: (n,) bool, of the cell as written; image: a frame that can be read, or, outside a folder of frames,
    any picture that is no video.
    """

    paths: Any
    which: NDArray[np.int32]
    missing: NDArray[np.bool_]
    image: NDArray[np.bool_]


def path_column(
    block: Block,
    folder: str,
    frames_in_folder: bool,
    root: Path,
    videos: Collection[str] = (),
    remote: Sequence[str] = (),
) -> PathColumn:
    """The file column of a block. Raises DataError, with table, row and header, for a path that could lead elsewhere.

    folder: what the cells are relative to, under the data root. frames_in_folder: the cells name frame images. Else a
    picture is a video only where `videos` names it, or where it is a TIFF of many pages. remote: the URLs allowed.
    """
    cells = block.cells["file"]
    texts, which = cells.dictionary, cells.indices.to_numpy(zero_copy_only=False)
    missing = pc.is_in(pc.ascii_lower(texts), value_set=pa.array(NOBODY))
    odd = pc.filter(texts, pc.and_not(pc.match_substring_regex(texts, _SUSPICIOUS), missing)).to_pylist()
    plain = {text: _plain(text, first_row(block, "file", text), frames_in_folder, remote) for text in odd}
    if any(text != path for text, path in plain.items()):
        texts = pa.array([plain.get(text, text) for text in texts.to_pylist()], pa.string())
    image = pc.match_substring_regex(texts, _FRAME if frames_in_folder else _STILL)
    paths = pc.binary_join_element_wise(folder, texts, "/") if folder else texts
    if folder and any(is_url(path) for path in plain.values()):
        paths = pc.if_else(pc.match_substring(texts, "://"), texts, paths)
    if not frames_in_folder:
        pictures = pc.filter(paths, image).to_pylist()
        films = [path for path in pictures if path in videos or has_pages(root / path)]
        image = pc.and_not(image, pc.is_in(paths, value_set=pa.array(films, pa.string())))
    belongs = pc.and_not(image if frames_in_folder else pc.invert(image), missing)
    paths = pc.if_else(belongs, paths, "")
    absent, picture = (m.to_numpy(zero_copy_only=False)[which] for m in (missing, image))
    return PathColumn(paths, which, absent, picture)


def _plain(text: str, what: str, frames_in_folder: bool, remote: Sequence[str]) -> str:
    """A path or a URL in plain form. Raises DataError."""
    if "://" not in text:
        return safe_relative(text, what)
    found = plain_url(text, what, remote)
    if frames_in_folder:
        raise DataError(
            f"{what}: with frames_in: folder expected the path of a frame, got the URL '{one_line(found, 80)}'; only "
            "whole videos are read from other machines"
        )
    return found


def folders_of(column: PathColumn, block: Block) -> Any:
    """The folder of each row's frame image: DictionaryArray (n,), "" where the row has none. Raises DataError."""
    bare = pc.and_not(pc.invert(pc.match_substring(column.paths, "/")), pc.equal(column.paths, ""))
    at = pc.index(bare, True).as_py()
    if at >= 0:
        row = block.first_row + int(np.argmax(column.which == at))
        raise DataError(
            f"{block.table} row {row}: the frame '{one_line(column.paths[at].as_py(), 60)}' is in no folder; with "
            "frames_in: folder the folder is the video"
        )
    folders = pc.replace_substring_regex(column.paths, r"/[^/]*$", "").dictionary_encode()
    return pa.DictionaryArray.from_arrays(folders.indices.take(pa.array(column.which)), folders.dictionary)


@dataclass
class FramePlaces:
    """Positions of frame images in their folders, each folder listed once."""

    root: Path
    links: Links = Links.INSIDE
    _paths: dict[str, Any] = field(default_factory=dict)

    def exists(self, folder: str) -> bool:
        """Whether the folder is there, which no URL is. Raises DataError where a symlink leads out of the root."""
        return not is_url(folder) and inside(self.root, folder, "video", self.links).is_dir()

    def positions(self, column: PathColumn, folders: list[str]) -> NDArray[np.int64]:
        """The index of each row's frame, (n,) int64: its file's position in its folder; -1 where it is not there."""
        known = [self._files(folder) for folder in folders if folder and self.exists(folder)]
        if not known:
            return np.full(len(column.which), -1, np.int64)
        place = np.concatenate([np.arange(len(k), dtype=np.int64) for k in known])
        found = pc.index_in(column.paths, value_set=pa.concat_arrays(known))
        index = pc.fill_null(found, -1).to_numpy(zero_copy_only=False)
        positions: NDArray[np.int64] = np.where(index >= 0, np.append(place, -1)[index], -1)[column.which]
        return positions

    def _files(self, folder: str) -> Any:
        if folder not in self._paths:
            names = frame_files(self.root / folder, self.root, self.links)
            self._paths[folder] = pa.array([f"{folder}/{name}" for name in names], pa.string())
        return self._paths[folder]

    def numbers(self, folder: str) -> NDArray[np.int64]:
        """The number in each frame's file name (see `frame_numbers`), by position: (n,) int64. Raises DataError."""
        names = frame_files(self.root / folder, self.root, self.links)
        found = frame_numbers(names)
        if found is None or max(found, default=0) >= _LONGEST_NUMBER:
            shown = f"{folder}/{names[0]}" if names else folder
            raise DataError(
                f"{shown}: frame_number: file_number expects a number that counts the frames in every frame's file "
                "name; with time stamps, name the files themselves (frames_in: folder) or count the frames "
                "(frame_number: index)"
            )
        return np.array(found, np.int64)


# -- boxes, frames, subjects


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
