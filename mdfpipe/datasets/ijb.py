"""IJB: tables of face boxes and videos, as IJB-A, B, C, IJB-S and IJB-MDF have them.

Sources of the presets: the column lists of public readers of these sets (STR, bob.db.ijba, bob.db.ijbc, AdaFace).
IJB-MDF's own headers and layout are not public, nor are the headers of IJB-S's per-frame ground truth: for these,
name the columns.
Every path in a table is taken relative to the data root (or to `folder` below it); one that leads out of the data
root, also through a symlink, is refused. URLs are refused unless `remote` allows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from mdfpipe.config import IF_SET, NOT_A_RESULT, Config
from mdfpipe.datasets import AnomalyTally, Dataset, Listing, VideoEntry, name_videos
from mdfpipe.datasets.reading.faces import (
    AnomalyKind,
    BoxKind,
    FaceRows,
    FramePlaces,
    Names,
    PathColumn,
    Told,
    by_frame,
    face_table,
    folders_of,
    keep_rows,
    path_column,
    read_boxes,
    read_frames,
    subject_codes,
)
from mdfpipe.datasets.reading.found_faces import DETECTED, SOURCE
from mdfpipe.datasets.reading.layout import check_root, find_tables, find_videos, is_pattern, pattern_remarks
from mdfpipe.datasets.reading.leaving_out import Sieve
from mdfpipe.datasets.reading.rules import DomainRule, TextRule
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import inside, nearest, safe_relative
from mdfpipe.store.subjects import SubjectNames, alike, is_missing, told_apart
from mdfpipe.store.text_tables import Block, read_blocks
from mdfpipe.store.urls import allowed_start, is_url, plain_url, shown

_Text = Annotated[str, Field(coerce_numbers_to_str=True)]


class Columns(Config):
    """Our names -> headers of the face tables; matched exactly, or else in any case. `null` unsets a preset's."""

    subject: str | None = Field(None, description="subject; also in the gallery tables")
    file: str | None = Field(None, description="the video, or with `frames_in: folder` the frame image")
    frame: str | None = Field(None, description="number of the frame; not with `frames_in: folder`")
    x: str | None = Field(None, description="left edge, pixels (box: xywh)")
    y: str | None = Field(None, description="top edge, pixels (box: xywh)")
    width: str | None = Field(None, description="pixels (box: xywh)")
    height: str | None = Field(None, description="pixels (box: xywh)")
    x1: str | None = Field(None, description="left edge, pixels (box: xyxy, xyxy_inclusive)")
    y1: str | None = Field(None, description="top edge, pixels (box: xyxy, xyxy_inclusive)")
    x2: str | None = Field(None, description="right edge, pixels (box: xyxy, xyxy_inclusive)")
    y2: str | None = Field(None, description="bottom edge, pixels (box: xyxy, xyxy_inclusive)")


class PublishedCounts(Config):
    """What a paper counts in its data set."""

    subjects: int | None = Field(None, ge=0, description="subjects of all galleries")
    galleries: dict[_Text, int] = Field(default={}, description="subjects by gallery")
    videos: dict[str, int] = Field(default={}, description="videos by domain")

    def differing(self, listing: Listing) -> list[str]:
        """A line for each count that the data set has another number of."""
        domains = Counter(str(video.domain) for video in listing.videos)
        galleries = Counter(name for names in listing.galleries.values() for name in names)
        wanted = {"subjects": (self.subjects, len(listing.galleries))} if self.subjects is not None else {}
        wanted |= {f"subjects of gallery {name}": (count, galleries[name]) for name, count in self.galleries.items()}
        wanted |= {f"videos of {name}": (count, domains[name]) for name, count in self.videos.items()}
        return [f"published {a:,} {what}, found {b:,}" for what, (a, b) in wanted.items() if a != b]


_BOX = {"x": "FACE_X", "y": "FACE_Y", "width": "FACE_WIDTH", "height": "FACE_HEIGHT"}
PRESETS: dict[str, dict[str, Any]] = {
    "ijba": {"columns": {"subject": "SUBJECT_ID", "file": "FILE", "frame": "FRAME", **_BOX}},
    # ijbc: and IJB-B, CS3, CS4
    "ijbc": {"columns": {"subject": "SUBJECT_ID", "file": "FILENAME", "frame": "FRAME_NUM", **_BOX}},
    "ijbs": {"columns": {"subject": "SUBJECT_ID", "file": "FILENAME"}, "faces": ["videos_ground_truth/*.csv"]},
    "custom": {"columns": {}},
}
_OPTIONAL = ("source",)
_BOX_COLUMNS = {name for kind in BoxKind for name in kind.columns}


class Ijb(Dataset):
    """Videos and frame folders with CSV tables of face boxes, in the style of the IJB data sets."""

    preset: Literal["ijba", "ijbc", "ijbs", "custom"] = Field(
        "ijbc", description="family whose headers `columns` starts from (ijbc is also IJB-B, CS3, CS4); custom: none"
    )
    faces: list[str] = Field(
        ["faces.csv"], description="face tables under the data root: paths or glob patterns (.csv, or .tsv with tabs)"
    )
    columns: Columns = Field(default_factory=Columns, description="headers that replace those of the preset")
    box: Literal["xywh", "xyxy", "xyxy_inclusive"] = Field(
        "xywh",
        description=(
            "xywh: x2 = x + width; xyxy: right and bottom edge are exclusive; "
            "xyxy_inclusive: they name the last pixel inside, so one is added"
        ),
    )
    folder: str = Field(
        "", description="folder under the data root that the paths in the face tables start from (IJB-C: images)"
    )
    frame_base: Literal[0, 1] = Field(0, description="frame number of a video's first frame in the annotation")
    frames_in: Literal["video", "folder"] = Field(
        "video",
        description=(
            "video: a row names a video (a file, or a folder of frames) and a frame number; folder: a row names one "
            "frame image, whose folder is the video, and whose place in the folder's natural order is the frame"
        ),
    )
    frame_number: Literal["index", "file_number"] = Field(
        "index",
        description=(
            "for rows that name a folder of frames. index: the frame column counts them from frame_base; "
            "file_number: it is the number in the frame's file name that counts the frames: the only one that differs "
            "from file to file, or else the last (1800i.png is 1800)"
        ),
    )
    videos: list[str] = Field(
        ["videos/*"],
        description=(
            "paths or glob patterns of videos that belong to the data set even if no row names them: files with a "
            "video suffix, TIFFs of many pages, and folders that hold images; a path without * ? [ is taken as it is"
        ),
    )
    remote: list[str] = Field(
        default_factory=list,
        json_schema_extra=NOT_A_RESULT,
        description=(
            "which URLs tables and `videos` may name: protocols (https, s3) or how URLs begin "
            "(https://data.example.org/ijb/); by default none"
        ),
    )
    domain: DomainRule = Field(
        description="how to find a video's domain: {constant: VIS-500m}, or regex, column, table"
    )
    session: TextRule | None = Field(None, description="how to find a video's recording session")
    camera: TextRule | None = Field(None, description="how to find a video's camera")
    galleries: dict[_Text, list[str]] = Field(
        default_factory=dict,
        description='gallery name to the tables (paths or patterns) that list its subjects: {"1": [gallery_G1.csv]}',
    )
    published: PublishedCounts | None = Field(
        None, json_schema_extra=IF_SET, description="counts in print: the index warns where the data has others"
    )
    check_boxes: bool = Field(
        True,
        description=(
            "refuse faces that do not fit their video's picture: outside it, relative (0..1), or with sizes and "
            "edges swapped"
        ),
    )
    subject_names_kept: list[_Text] = Field(
        default_factory=list,
        description=(
            "names such as NA, None or null that are real subjects, in exactly this spelling; by default they count "
            "as missing"
        ),
    )
    subject_names_missing: list[_Text] = Field(
        default_factory=list,
        description="further texts in the subject column that mean a missing name, in exactly this spelling: "
        "[unknown, '-1']",
    )

    @field_validator("remote")
    @classmethod
    def _check_remote(cls, value: list[str]) -> list[str]:
        return [allowed_start(text) for text in value]

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        """Fill in what the preset knows and the settings leave open, so that the settings written out are complete."""
        if not isinstance(value, dict):
            return value
        shipped = PRESETS.get(str(value.get("preset", "ijbc")))
        columns, box = value.get("columns", {}), value.get("box", "xywh")
        if isinstance(columns, Columns):
            columns = columns.model_dump()
        if shipped is None or not isinstance(columns, dict) or box not in list(BoxKind):
            return value  # the fields' own checks say what is wrong
        used = {"subject", "file", *BoxKind(box).columns} | (set() if value.get("frames_in") == "folder" else {"frame"})
        ready = {name: header for name, header in shipped["columns"].items() if name in used}
        faces = {"faces": shipped["faces"]} if "faces" in shipped else {}
        return {**faces, **value, "columns": {**ready, **columns}}

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        needed = {"file", *BoxKind(self.box).columns} | ({"frame"} if self.frames_in == "video" else set())
        given = {name for name, header in self.columns.model_dump().items() if header is not None}
        missing = [name for name in Columns.model_fields if name in needed - given]
        if missing and self.faces:
            raise ValueError(
                f"columns: the preset {self.preset} does not know {', '.join(missing)}; say which headers these have"
            )
        useless = [n for n in Columns.model_fields if n in given & ({"frame"} | _BOX_COLUMNS) - needed]
        if useless:
            raise ValueError(
                f"columns: {', '.join(useless)} not used with box: {self.box}, frames_in: {self.frames_in}"
            )
        if self.galleries and self.columns.subject is None:
            raise ValueError("galleries: columns.subject must say which header of the gallery tables is the subject")
        for what, paths in {"faces": self.faces, "videos": self.videos, "folder": [self.folder or "any"]}.items():
            for path in paths:
                try:
                    if what == "videos" and "://" in path:
                        self._url(path)
                    else:
                        safe_relative(path, what)
                except DataError as error:
                    raise ValueError(str(error)) from None
        for rule in (self.domain, self.session, self.camera):
            if rule is not None and rule.column is not None and not self.faces:
                raise ValueError(f"column {rule.column}: there are no face tables to read it from")
        return self

    def sources(self, root: Path) -> list[Path]:
        """The tables, and every video that they or `videos` name, there or not. Raises DataError."""
        tables, present = self.tables(root), self.present(root)
        named, sieve = set[str](), self._sieve(root)
        for table in find_tables(root, self.faces, "faces", self.links):
            for block in read_blocks(root / table, table, {"file": str(self.columns.file)}):
                videos = self._videos_of(self._paths(block, root), block).dictionary.to_pylist()
                named |= {path for path in videos if path and not sieve.drops(path)}
        return [*tables, *sorted({*(root / path for path in named), *present})]

    def tables(self, root: Path) -> list[Path]:
        """The face tables, the gallery tables, the domain table and the list of what is left out."""
        check_root(root)
        single = {"domain.table": self.domain.table, "leave_out.file": self.leave_out.file}
        named = {"faces": self.faces} | {f"galleries.{name}": tables for name, tables in self.galleries.items()}
        named |= {what: [table] for what, table in single.items() if table is not None}
        found = [path for what, paths in named.items() for path in find_tables(root, paths, what, self.links)]
        return [root / path for path in dict.fromkeys(found)]

    def present(self, root: Path) -> list[Path]:
        """The videos that match `videos`, but for those that their path leaves out."""
        check_root(root)
        return [root / path for path in self._found(root, self._sieve(root)) if not is_url(path)]

    def _found(self, root: Path, sieve: Sieve) -> list[str]:
        """The videos that `videos` names: those of patterns, and URLs."""
        urls = [url for path in self.videos if "://" in path and not sieve.drops(url := self._url(path))]
        return [*find_videos(root, self._patterns, sieve.drops, self.links), *urls]

    @property
    def _patterns(self) -> list[str]:
        return [path for path in self.videos if "://" not in path]

    def _url(self, url: str) -> str:
        """A URL of `videos` in plain form. Raises DataError."""
        if is_pattern(url.replace("?", "")):
            raise DataError(
                f"videos: expected one URL, got the pattern '{one_line(shown(url), 80)}'; name each URL, or use a table"
            )
        return plain_url(url, "videos", self.remote)

    def read(self, root: Path) -> Listing:
        """The listing of the data under `root`. Raises DataError with table, row and column."""
        check_root(root)
        scan = _Scan(FramePlaces(root, self.links), self._sieve(root))
        numeric = {"frame", *BoxKind(self.box).columns}
        for table in find_tables(root, self.faces, "faces", self.links):
            scan.starts.append((table, scan.total))
            for block in read_blocks(root / table, table, self._wanted(), numeric, _OPTIONAL):
                self._scan_block(block, scan)
        self._refuse_sizes_as_edges(scan)
        videos = self._entries(root, scan)
        paths = {v.path: v.video_id for v in videos}
        faces = self._faces(root, scan, paths)
        galleries = self._gallery_subjects(root, scan.tally)
        for group in alike({*scan.subjects.texts(), *galleries}):
            scan.tally.note(AnomalyKind.SUBJECTS_ALIKE, f"{told_apart(group)} are taken as different people")
        usual = type(self).model_fields["videos"].default
        named = (AnomalyKind.SUBJECTS_ALIKE, AnomalyKind.SUBJECT_PERHAPS_NOBODY)
        remarks = [f"{kind}: {scan.tally.examples[kind]}" for kind in named if kind in scan.tally.examples]
        listing = Listing(
            videos,
            faces,
            galleries,
            scan.tally.anomalies(),
            left_out=scan.sieve.listed(),
            left_out_rows=scan.left_out_rows,
            detected=scan.found(paths),
            remarks=remarks + pattern_remarks(root, self._patterns, scan.sieve.drops, self.links, usual, paths),
        )
        return replace(listing, differs=self.published.differing(listing) if self.published else [])

    def _sieve(self, root: Path) -> Sieve:
        """What `leave_out` keeps out by path, or by a domain that the path alone tells."""
        if not self.leave_out.by_domain or self.domain.column is not None:
            return Sieve.of(self.leave_out, root)
        say = self.domain.teller(root, self.links)
        return Sieve.of(self.leave_out, root, lambda path: self.domain.names(say(path, None)))

    def _refuse_sizes_as_edges(self, scan: _Scan) -> None:
        """Raise DataError where many boxes end before they begin, as x, y, width, height do when read as edges."""
        backwards, kept = scan.tally.counts.get(AnomalyKind.NEGATIVE_SIZE, 0), sum(len(part) for part in scan.parts)
        if self.check_boxes and self.box != "xywh" and backwards > 2 and 4 * backwards >= kept:
            raise DataError(
                f"faces: expected the right and the bottom edge behind the left and the top one, got {backwards} of "
                f"{backwards + kept} boxes the other way round ({scan.tally.examples[AnomalyKind.NEGATIVE_SIZE]}): are "
                "the last two width and height? use dataset.box=xywh; or leave these rows out with "
                "dataset.check_boxes=false"
            )

    @property
    def _names(self) -> SubjectNames:
        return SubjectNames(frozenset(self.subject_names_kept), frozenset(self.subject_names_missing))

    def _paths(self, block: Block, root: Path) -> PathColumn:
        folder = safe_relative(self.folder, "folder") if self.folder else ""
        named = {safe_relative(path, "videos") for path in self._patterns if not is_pattern(path)}
        return path_column(block, folder, self.frames_in == "folder", root, named, self.remote)

    def _wanted(self) -> dict[str, str]:
        columns = {n: h for n, h in self.columns.model_dump().items() if h is not None}
        rules = {"domain": self.domain, "session": self.session, "camera": self.camera}
        columns |= dict.fromkeys(_OPTIONAL, SOURCE)
        return columns | {f"{n} rule": r.column for n, r in rules.items() if r is not None and r.column is not None}

    def _videos_of(self, column: Any, block: Block) -> Any:
        """DictionaryArray (n,) of the video that each row belongs to, "" where to none."""
        if self.frames_in == "folder":
            return folders_of(column, block)
        return pa.DictionaryArray.from_arrays(pa.array(column.which), column.paths)

    def _scan_block(self, block: Block, scan: _Scan) -> None:
        """Take the rows of one block that have a video, a frame and a box; count the others."""
        column = self._paths(block, scan.places.root)
        videos = self._videos_of(column, block)
        dropped = [path for path in videos.dictionary.to_pylist() if path and scan.sieve.drops(path)]
        out = pc.is_in(videos, value_set=pa.array(dropped, pa.string())).to_numpy(zero_copy_only=False)
        folders = [path if path not in dropped else "" for path in videos.dictionary.to_pylist()]
        video = scan.videos.codes(videos, lambda path: path if path and path not in dropped else None)
        scan.left_out_rows += int(out.sum())
        scan.note_rules(block, video)
        reasons = {AnomalyKind.MISSING_FILE: column.missing}
        if self.frames_in == "folder":
            reasons[AnomalyKind.NOT_A_FRAME_IMAGE] = ~column.image
            frame = scan.places.positions(column, folders)
            gone = [bool(v) and not scan.places.exists(v) for v in folders]
            frames = {
                AnomalyKind.VIDEO_MISSING_ON_DISK: np.array(gone, bool)[videos.indices.to_numpy(zero_copy_only=False)],
                AnomalyKind.MISSING_FRAME_FILE: frame < 0,
            }
        else:
            reasons[AnomalyKind.STILL_IMAGE] = column.image
            frame, frames = read_frames(block)
        xyxy, boxes = read_boxes(block, BoxKind(self.box))
        kept = keep_rows(block, (reasons, boxes, frames), scan.tally, ~out)
        subject = np.full(len(block), -1, np.int32)
        if "subject" in block.cells:
            subject = subject_codes(block, scan.subjects, scan.tally, self._names)
            scan.tally.add(AnomalyKind.MISSING_SUBJECT, (subject < 0) & kept, block.example)
        if "source" in block.cells:
            found = pc.equal(block.cells["source"].cast(pa.string()), DETECTED).to_numpy(zero_copy_only=False)
            scan.detected.update(video[found & kept].tolist())
        row = scan.starts[-1][1] + block.first_row - 2 + np.arange(len(block), dtype=np.int64)
        scan.parts.append(FaceRows(video, frame, subject, xyxy, row).take(kept))
        scan.total += len(block)

    def _entries(self, root: Path, scan: _Scan) -> list[VideoEntry]:
        """Every video, named and with its domain, sorted by video_id."""
        paths = sorted({*scan.videos.texts(), *self._found(root, scan.sieve)})
        cells = {path: scan.said("domain rule", path) for path in paths}
        if self.leave_out.by_domain and self.domain.column is not None:
            say = self.domain.teller(root, self.links)
            paths = [p for p in paths if not scan.sieve.drops(p, domain=self.domain.names(say(p, cells[p])))]
        if not paths:
            scan.sieve.refuse_all(root)
            raise DataError(f"{root}: no row of {', '.join(self.faces)} and no pattern of `videos` names a video")
        names = name_videos(paths, scan.sieve.dropped, self.remote)
        for path in paths:
            if not is_url(path):
                inside(root, path, "video", self.links)
        domains = self.domain.domains(root, {path: cells[path] for path in paths}, self.links)
        texts = {
            which: {p: rule.text(p, scan.said(f"{which} rule", p)) if rule else None for p in paths}
            for which, rule in (("session", self.session), ("camera", self.camera))
        }
        entries = [VideoEntry(names[p], p, domains[p], texts["session"][p], texts["camera"][p]) for p in paths]
        return sorted(entries, key=lambda entry: entry.video_id)

    def _faces(self, root: Path, scan: _Scan, names: dict[str, str]) -> dict[str, pa.Table]:
        """The tables of faces by video_id, from the rows scanned."""
        videos, subjects = scan.videos.texts(), scan.subjects.texts()
        told = Told(scan.starts, videos, subjects)
        rows = FaceRows.join(scan.parts)
        scan.parts.clear()
        late = np.array([path not in names for path in videos], bool)  # left out by a domain that only a row tells
        if late.any():
            scan.left_out_rows += int(late[rows.video].sum())
            rows = rows.take(~late[rows.video])
        if self.frames_in == "video":
            rows = self._to_index(rows, scan, told)
        lost = [path in names and not is_url(path) and not (root / path).exists() for path in videos]
        gone = np.array(lost, bool)
        if gone.any():
            scan.tally.add(
                AnomalyKind.VIDEO_MISSING_ON_DISK,
                gone[rows.video],
                lambda i: told(rows, i) + nearest(root, videos[rows.video[i]]),
            )
        rows, face_no = by_frame(rows, scan.tally, told)
        people = pa.array(subjects, pa.string())
        ends = np.searchsorted(rows.video, np.arange(len(videos) + 1))
        tables = {}
        for number, path in enumerate(videos):
            part = slice(int(ends[number]), int(ends[number + 1]))
            if part.stop > part.start:
                tables[names[path]] = face_table(names[path], rows.take(part), face_no[part], people)
        return dict(sorted(tables.items()))

    def _to_index(self, rows: FaceRows, scan: _Scan, told: Told) -> FaceRows:
        """The rows with 0-based frame indices instead of numbers as written; those that have none left out."""
        frame = rows.frame - self.frame_base
        by_number = np.zeros(len(rows), bool)
        if self.frame_number == "file_number":
            order = np.argsort(rows.video, kind="stable")
            ends = np.searchsorted(rows.video[order], np.arange(len(scan.videos.number) + 1))
            for path, number in scan.videos.number.items():
                if scan.places.exists(path):
                    of = order[ends[number] : ends[number + 1]]
                    frame[of] = _positions(scan.places.numbers(path), rows.frame[of])
                    by_number[of] = True
        scan.tally.add(AnomalyKind.MISSING_FRAME_FILE, by_number & (frame < 0), lambda i: told(rows, i))
        scan.tally.add(AnomalyKind.NEGATIVE_FRAME, ~by_number & (frame < 0), lambda i: told(rows, i))
        return replace(rows, frame=frame).take(frame >= 0)

    def _gallery_subjects(self, root: Path, tally: AnomalyTally) -> dict[str, list[str]]:
        """subject_id -> the galleries that list it, both sorted."""
        found: dict[str, set[str]] = {}
        for gallery, patterns in self.galleries.items():
            subjects = Names()
            for table in find_tables(root, patterns, f"galleries.{gallery}", self.links):
                for block in read_blocks(root / table, table, {"subject": str(self.columns.subject)}):
                    found_here = subject_codes(block, subjects, tally, self._names)
                    tally.add(AnomalyKind.GALLERY_ROW_WITHOUT_SUBJECT, found_here < 0, block.example)
            if not subjects.number:
                raise DataError(f"galleries.{gallery}: {', '.join(patterns)} list no subject")
            for subject in subjects.texts():
                found.setdefault(subject, set()).add(gallery)
        return {subject: sorted(found[subject]) for subject in sorted(found)}


@dataclass
class _Scan:
    """What the tables have said so far.

    sieve: which videos are left out; left_out_rows: rows of these. starts: each table with the place of its first row
    among all rows. cells: by rule, then by video number, what the rule's column says of the video. detected: by
    video number, the faces that a detector found.
    """

    places: FramePlaces
    sieve: Sieve
    left_out_rows: int = 0
    tally: AnomalyTally = field(default_factory=AnomalyTally)
    videos: Names = field(default_factory=Names)
    subjects: Names = field(default_factory=Names)
    parts: list[FaceRows] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)
    total: int = 0
    cells: dict[str, dict[int, str]] = field(default_factory=dict)
    detected: Counter[int] = field(default_factory=Counter)

    def found(self, names: Mapping[str, str]) -> dict[str, int]:
        """How many faces of each video a detector found. names: video_id by path."""
        paths = self.videos.texts()
        counts = {names[paths[number]]: count for number, count in self.detected.items() if paths[number] in names}
        return dict(sorted(counts.items()))

    def note_rules(self, block: Block, video: NDArray[np.int32]) -> None:
        """Take what the columns of the rules say of each video. Raises DataError where two rows differ."""
        for rule in ("domain rule", "session rule", "camera rule"):
            if rule not in block.cells:
                continue
            texts = block.cells[rule].dictionary.to_pylist()
            which = block.cells[rule].indices.to_numpy(zero_copy_only=False)
            pairs, first = np.unique(video.astype(np.int64) * len(texts) + which, return_index=True)
            told = self.cells.setdefault(rule, {})
            for row in first[pairs >= 0]:
                text = texts[which[row]]
                if not is_missing(text) and told.setdefault(int(video[row]), text) != text:
                    path = self.videos.texts()[video[row]]
                    raise DataError(
                        f"{block.table} row {block.first_row + int(row)}: {block.headers[rule]} says "
                        f"'{one_line(text, 60)}' of {path}, an earlier row says '{told[int(video[row])]}'"
                    )

    def said(self, rule: str, path: str) -> str | None:
        """What the rule's column says of the video at `path`; None where nothing."""
        number = self.videos.number.get(path)
        return None if number is None else self.cells.get(rule, {}).get(number)


def _positions(numbers: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each wanted number among distinct numbers; -1 where it is not one of them.

    >>> _positions(np.array([7, 9, 8]), np.array([8, 7, 1])).tolist()
    [2, 0, -1]
    """
    if not len(numbers):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(numbers)
    at = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=len(numbers) - 1)]
    places: NDArray[np.int64] = np.where(numbers[at] == wanted, at, -1)
    return places
