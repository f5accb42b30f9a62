"""The face table that `mdfpipe faces` writes: a CSV in the columns of IJB-C, whose rows say that they were detected.

SUBJECT_ID    id of the face; empty for a face of no track
FILENAME      path of the video under the data root
FRAME_NUM     frame index, 0-based
FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT    box, pixels
SCORE         confidence of the detector
FOUND_ID      id as it was found, before any merge or split; empty for a face of no track
SOURCE        detected
"""

from __future__ import annotations

import csv
import io
import math
import os
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv as pacsv

from mdfpipe.errors import ConfigError, DataError, one_line, some
from mdfpipe.store.files import opened, writing
from mdfpipe.store.naming import is_name
from mdfpipe.store.subjects import is_missing
from mdfpipe.store.tables import boxes_of

DETECTED: Final = "detected"
"""What the column SOURCE says of a face that a detector found. A table without the column is annotated."""
SOURCE: Final = "SOURCE"
_HEADER: Final = (
    *("SUBJECT_ID", "FILENAME", "FRAME_NUM", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"),
    *("SCORE", "FOUND_ID", SOURCE),
)
_LONGEST_HEADER: Final = 4096
_LARGEST_FRAME: Final = 2**40
_LARGEST_PIXEL: Final = 10**7
_SUBJECT, _FILE, _FRAME, _FOUND = (_HEADER.index(n) for n in ("SUBJECT_ID", "FILENAME", "FRAME_NUM", "FOUND_ID"))


def lines_of(path: str, faces: pa.Table, ids: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The rows of one video. faces: rows of BODIES, by frame; ids: of each, "" for none."""
    xyxy = boxes_of(faces).astype(float).round(2)
    columns = (faces["frame"].to_pylist(), faces["score"].to_pylist(), xyxy.tolist(), ids)
    for frame, score, (x1, y1, x2, y2), name in zip(*columns, strict=True):
        box = (f"{value:.2f}" for value in (x1, y1, x2 - x1, y2 - y1))
        yield (name, path, str(frame), *box, f"{score:.4f}", name, DETECTED)


def write(out: Path, rows: Iterable[Sequence[str]], *sources: Path) -> None:
    """Write a face table; it appears whole or not at all. Raises as `store.files.writing`."""
    with writing(out, *sources) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        try:
            csv.writer(text, lineterminator="\n").writerows([_HEADER])
            csv.writer(text, lineterminator="\n").writerows(rows)
        finally:
            text.detach()


def refuse_annotated(table: Path, *, force: bool = False) -> None:
    """Raise ConfigError where a table is there that `mdfpipe faces` did not write, or, without force, whose ids were
    merged or split since.
    """
    if not os.path.lexists(table):
        return
    if table.is_dir():
        raise ConfigError(f"{table}: expected a file for the face table, got a folder; name a file with --out")
    header, rows = _opened(table)
    if _mark_of(header) is None:
        raise ConfigError(
            f"{table}: there is a face table that `mdfpipe faces` did not write, and it is never overwritten; write "
            "elsewhere with --out, or move it"
        )
    _refuse_others(table, header)
    merged = next((row for row in rows if row[_SUBJECT] != row[_FOUND]), None)
    if merged is not None and not force:
        raise ConfigError(
            f"{table}: ids in it were changed (id {one_line(merged[_FOUND], 40)} is {one_line(merged[_SUBJECT], 40)}), "
            "which would be lost; keep it, write elsewhere with --out, or undo all changes with --force"
        )


def is_found(table: Path) -> bool:
    """Whether a file is a table that `mdfpipe faces` wrote, by its header; also as a spreadsheet may have saved it."""
    try:
        return table.is_file() and _mark_of(_opened(table)[0]) is not None
    except (DataError, OSError):  # OSError: a folder that may not be searched
        return False


def read(table: Path) -> pa.Table:
    """All rows, the columns as the file names them: names as dictionaries, frames as int64, the others as float64.

    Raises DataError where the table is not of `mdfpipe faces`, or has no number where one is due.
    """
    header, _ = _opened(table)
    _refuse_others(table, header)
    names = dict.fromkeys(("SUBJECT_ID", "FILENAME", "FOUND_ID", SOURCE), pa.dictionary(pa.int32(), pa.string()))
    kinds = dict.fromkeys(_HEADER, pa.float64()) | names | {"FRAME_NUM": pa.int64()}
    convert = pacsv.ConvertOptions(column_types=kinds, strings_can_be_null=False, null_values=[])
    try:
        found = pacsv.read_csv(table, None, pacsv.ParseOptions(newlines_in_values=True), convert)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{table}: expected rows as `mdfpipe faces` writes them: {one_line(error, 160)}") from None
    whole = found.unify_dictionaries().combine_chunks()
    _refuse_values(table, whole)
    return whole


def _refuse_values(table: Path, rows: pa.Table) -> None:
    """Raise DataError where a number of a face is none, or no frame, place, size or score."""
    kinds = {"FRAME_NUM": (0, _LARGEST_FRAME, "a frame from 0 on"), "SCORE": (0, 1, "a score in 0..1")}
    for side in ("X", "Y", "WIDTH", "HEIGHT"):
        least = 0 if side in ("WIDTH", "HEIGHT") else -_LARGEST_PIXEL
        kinds[f"FACE_{side}"] = (least, _LARGEST_PIXEL, "a size in pixels" if least == 0 else "a place in pixels")
    for name, (low, high, what) in kinds.items():
        values = rows[name].to_numpy()
        bad = ~((values >= low) & (values <= high))  # not: NaN as well
        if bad.any():
            at = int(bad.argmax())
            more = f" and {int(bad.sum()) - 1} more such rows" if bad.sum() > 1 else ""
            raise DataError(
                f"{table} row {at + 2}, {name}: expected {what}, got {values[at]:g}{more}; correct it, or make the "
                "table again with mdfpipe faces --force"
            )


def change(
    table: Path, merges: Mapping[str, str], splits: Mapping[str, Sequence[int]], undone: Collection[str] = ()
) -> tuple[Counter[str], list[str]]:
    """Give tracks their own ids again, then cut tracks, then give ids other names, all at one time.

    merges: id -> name; of a track whose faces have another id now, that id is meant. splits: id as it was found
    -> the frames from which on its faces are the id "ID@FRAME", up to the next face that has another id. undone: ids as
    they were found. Returns the faces of each name that was asked for, and a line for each change that is made already;
    where all are, nothing is written.

    Raises DataError where the table is not of `mdfpipe faces`, has no such id, would have a name twice in a frame, or
    has no face of a split track on one side of a cut; ConfigError for a name that it cannot hold.
    """
    for name in merges.values():
        if is_missing(name) or not is_name(name):
            raise ConfigError(f"--merge {name!r:.60}: expected a name that the face table can hold")
    _refuse_others(table, _opened(table)[0])
    again = {name for name in undone if _has_own_id(table, name)}
    notes = [f"{one_line(name, 40)}: has its own id already; nothing changed" for name in undone if name in again]

    def rows() -> Iterator[list[str]]:
        for row in _opened(table)[1]:
            yield [row[_FOUND], *row[1:]] if row[_FOUND] in undone else row

    there = {row[_SUBJECT] for row in rows()} if merges else set()
    merges, followed = dict(merges), []
    for old, name in merges.items():  # 3=5 once 3 is 1: 5 is to be 1, too
        if name not in there and (now := _id_today(rows(), name)) and now != name:
            merges[old] = now
            followed.append(f"{one_line(name, 40)}: its faces have the id {one_line(now, 40)} now, which is given")
    cuts = {name: sorted(set(frames)) for name, frames in splits.items()}
    ends, made = _ends(table, rows(), cuts) if cuts else ({}, {})
    notes += made.values()
    pieces = {_piece(name, frame): name for name, frames in splits.items() for frame in frames}
    ids, counts, places = dict[str, None](), Counter[str](), Counter[tuple[str, ...]]()
    wanted = {*merges.values(), *(pieces.keys() - made.keys()), *(name for name in undone if name not in again)}
    for row in rows():
        before = _cut(row, cuts, ends)
        ids[before] = None
        if (name := merges.get(before, before)) in wanted:
            counts[name] += 1
            places[name, row[_FILE], row[_FRAME]] += 1
    for old, name in merges.items():
        if old and old in ids:
            continue
        now = _id_today(rows(), old) if old else None
        if now != name:
            has = f"it has {some([name for name in ids if name], 10) or 'none'}"
            raise DataError(f"{table}: no id {old!r:.60}; {f'its faces have the id {now!r:.60} now' if now else has}")
        notes.append(f"{one_line(old, 40)}: its faces have the id {one_line(name, 40)} already; nothing changed")
    twice = next((place for place, count in places.items() if count > 1), None)
    if twice is not None:
        name, video, frame = (one_line(text, 80) for text in twice)
        raise DataError(
            f"{table}: {name} would be two faces of frame {frame} of {video}, so these ids are different people; "
            "merge others"
        )
    if len(notes) == len(merges) + len(pieces) + len(undone):
        return Counter(), notes
    write(table, ([merges.get(own := _cut(row, cuts, ends), own), *row[1:]] for row in rows()))
    return counts, notes + followed


def _has_own_id(table: Path, name: str) -> bool:
    """Whether all faces of a track have the id that was found. Raises DataError where there is no such track."""
    own = [row[_SUBJECT] == name for row in _opened(table)[1] if name and row[_FOUND] == name]
    if not own:
        raise DataError(f"{table}: --split {name!r:.60}: expected a track of the column FOUND_ID, found none; name one")
    return all(own)


def _id_today(rows: Iterable[Sequence[str]], old: str) -> str | None:
    """The id that the first face of a track, or of what was cut from it, has in these rows; None for another id."""
    track, at, frame = old.rpartition("@")
    track, first = (track, int(frame)) if at and frame.isdecimal() else (old, 0)
    return next((row[_SUBJECT] for row in rows if row[_FOUND] == track and _frame(row) >= first), None)


def _ends(
    table: Path, rows: Iterable[Sequence[str]], cuts: Mapping[str, Sequence[int]]
) -> tuple[dict[tuple[str, int], float], dict[str, str]]:
    """The first frame of each part of a cut track that an earlier cut or merge gave another id; infinite without one.
    Parts: (id as it was found, number of cuts before). A part that has another id than what is before it is left as it
    is, and has a line, by the id that was asked for. Raises DataError where a part has no face.
    """
    faces: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    for row in rows:
        if row[_FOUND] in cuts and row[_SUBJECT]:
            frame = _frame(row)
            faces[row[_FOUND], bisect_right(cuts[row[_FOUND]], frame)].append((frame, row[_SUBJECT]))
    for name, frames in cuts.items():
        if empty := [part for part in range(len(frames) + 1) if (name, part) not in faces]:
            raise DataError(
                f"{table}: --split {name}@{frames[max(empty[0] - 1, 0)]}: expected faces of the track {name:.60} "
                "(column FOUND_ID) before that frame and from it on, found none on one side; choose another frame"
            )
    ends, made = dict[tuple[str, int], float](), dict[str, str]()
    for (name, part), own in sorted(faces.items()):
        own.sort()
        first, who = own[0]
        ends[name, part] = next((frame for frame, other in own if other != who), math.inf)
        if part and (before := faces[name, part - 1][-1][1]) != who:
            ends[name, part], piece = -math.inf, _piece(name, cuts[name][part - 1])
            made[piece] = (
                f"{piece}: the track {name:.60} is cut there already (id {one_line(before, 40)} before it, id "
                f"{one_line(who, 40)} from frame {first} on); nothing changed; --split {name:.60} undoes its cuts and "
                "merges"
            )
    return ends, made


def _cut(row: Sequence[str], cuts: Mapping[str, Sequence[int]], ends: Mapping[tuple[str, int], float]) -> str:
    """The id of a row once its track is cut. cuts: by id as it was found, ascending. ends: as `_ends`."""
    frames = cuts.get(row[_FOUND])
    if frames is None or not row[_SUBJECT]:
        return row[_SUBJECT]
    part = bisect_right(frames, frame := _frame(row))
    return _piece(row[_FOUND], frames[part - 1]) if part and frame < ends[row[_FOUND], part] else row[_SUBJECT]


def _frame(row: Sequence[str]) -> int:
    try:
        return int(row[_FRAME])
    except ValueError:
        raise DataError(f"FRAME_NUM: expected a whole number, got {row[_FRAME]!r:.60}; correct it") from None


def _piece(name: str, frame: int) -> str:
    """The id of what is cut from a track.

    >>> _piece("3", 57)
    '3@57'
    """
    return f"{name}@{frame}"


def _mark_of(header: Sequence[str]) -> str | None:
    """What separates the columns of a table of `mdfpipe faces`: a spreadsheet may change it. None: another table."""
    if header == list(_HEADER):
        return ","
    only = header[0] if len(header) == 1 else ""
    return next((mark for mark in (";", "\t") if only.split(mark) == list(_HEADER)), None)


def _refuse_others(table: Path, header: Sequence[str]) -> None:
    mark = _mark_of(header)
    if mark is not None and mark != ",":
        raise DataError(f"{table}: expected commas between its columns, got {mark!r}; save it as CSV with commas")
    if mark is None:
        raise DataError(
            f"{table}: expected a face table of `mdfpipe faces` (with columns FOUND_ID and SOURCE), got "
            f"{one_line(', '.join(header), 100)}; its ids are the subjects of its rows: correct these"
        )


def _opened(table: Path) -> tuple[list[str], Iterator[list[str]]]:
    """The header of a face table, and its rows as they are read. Raises DataError."""
    try:
        rows = _rows(table)
        return next(rows, []), rows
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}; make it with mdfpipe faces DATA") from None


def _rows(table: Path) -> Iterator[list[str]]:
    width = 0
    with opened(table) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            first = text.readline(_LONGEST_HEADER)
            if len(first) == _LONGEST_HEADER:  # a file of another kind may be one line as long as it is
                raise DataError(
                    f"{table}: expected a table as CSV, got a first line above {_LONGEST_HEADER} characters"
                )
            for number, row in enumerate(csv.reader(chain([first] if first else [], text)), 1):
                width = width or len(row)
                if len(row) != width:
                    raise DataError(f"{table} row {number}: expected {width} fields as in the header, got {len(row)}")
                yield row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{table}: expected a table as CSV in UTF-8: {one_line(error, 120)}") from None
