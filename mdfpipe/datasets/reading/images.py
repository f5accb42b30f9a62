"""Benchmarks of images, each a person already cut out: what their readers share.

The images of one folder and camera are a *unit*, which takes the place of a video: one domain, one camera,
one part of each stage. Units are few and large. An image is named by its path under the data root, suffix and all, so
that sorting the names of a subject and camera is sorting the folder's listing, as the galleries of protocols ask for.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.datasets import AnomalyTally, Dataset, Listing, VideoEntry
from mdfpipe.datasets.reading.layout import check_root, find_tables
from mdfpipe.datasets.reading.leaving_out import Sieve
from mdfpipe.domains import Band, Domain
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.matlab import read_matlab
from mdfpipe.store.naming import IMAGE_SUFFIXES, LONGEST_NAME, Links, inside, is_name, safe_relative
from mdfpipe.store.tables import IMAGES


class ImageAnomaly(StrEnum):
    """What can be unusual about a benchmark's files. A closed set; the comment says what becomes of the file."""

    NOT_AN_IMAGE = "not_an_image"  # a file with another suffix, a pipe, a link to nothing: left out
    MISPLACED = "misplaced"  # where the layout has no image, or its name does not say whose it is: left out
    UNUSABLE_NAME = "unusable_name"  # a path that could not be written down: left out
    JUNK = "junk"  # a detection without a subject, -1: left out, as in the published evaluation
    LISTED_IMAGE_MISSING = "listed_image_missing"  # an index file names it, the disk does not hold it
    IMAGE_IN_NO_LIST = "image_in_no_list"  # the disk holds it, no index file names it: left out
    TEST_IMAGE_IN_NO_LIST = "test_image_in_no_list"  # the same for a list that only describes the folder: kept
    SUBJECT_IN_NO_LIST = "subject_in_no_list"  # has images but is in no index file: kept, in no split
    SUBJECT_WITHOUT_IMAGE = "subject_without_image"  # an index file names it, no image shows it
    LABEL_DISAGREES = "label_disagrees"  # one label of an index file for two folders: kept, the folder says who it is
    INDEX_FILE_MISSING = "index_file_missing"  # one of the published files that one can do without
    FOLDER_MISSING = "folder_missing"  # one of the published folders of images


class ImageDataset(Dataset):
    """A benchmark of images."""

    holds_images: ClassVar[bool] = True

    orientation: Literal["display", "stored"] = Field(
        "display", description="display: turn images as their EXIF data say; stored: leave them as stored"
    )
    folders: ClassVar[tuple[str, ...]]  # that hold the images, under the data root

    @abstractmethod
    def index_files(self, root: Path) -> list[str]:
        """The index files that are there, relative to the root. Raises DataError where one is missing that must be."""

    def sources(self, root: Path) -> list[Path]:
        """The index files, and the folders that hold the images."""
        return [*self.tables(root), *self.present(root)]

    def tables(self, root: Path) -> list[Path]:
        """The index files, and the list of what is left out."""
        check_root(root)
        listed = []
        if self.leave_out.file is not None:
            listed = find_tables(root, [self.leave_out.file], "leave_out.file", self.links)
        return [inside(root, name, "index file", self.links) for name in [*self.index_files(root), *listed]]

    def present(self, root: Path) -> list[Path]:
        """The folders that hold the images. Raises DataError where there is none."""
        check_root(root)
        found = [inside(root, name, "folder", self.links) for name in self.folders if (root / name).is_dir()]
        if not found:
            raise DataError(
                f"{root}: expected the folders {', '.join(self.folders)} of {self.use}, found none of them; "
                "--data names the folder that holds them"
            )
        self.tables(root)  # whether a link of an index file leads out is asked here, once
        return found

    def gathering(self, root: Path) -> Gathering:
        """Nothing found so far; what `leave_out` names is passed over. Raises DataError."""
        return Gathering(root, Sieve.of(self.leave_out, root), self.links)


@dataclass(frozen=True)
class ImageUnit:
    """The images of one folder and camera. name: becomes the video_id; session_id: the folder, where that matters."""

    name: str
    folder: str
    band: Band
    camera_id: str
    session_id: str | None = None


@dataclass
class Gathering:
    """The images found so far, by unit and subject, and what was unusual. sieve: which of them are left out."""

    root: Path
    sieve: Sieve
    links: Links = Links.INSIDE
    images: dict[ImageUnit, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    tally: AnomalyTally = field(default_factory=AnomalyTally)

    def note_all(self, kind: ImageAnomaly, examples: Collection[str], words: str) -> None:
        """Count all of these; the first of them is the example. words: with {} for it."""
        if examples:
            self.tally.note(kind, words.format(min(examples)), len(examples))

    def files(self, folder: str, depth: int) -> Iterator[str]:
        """The images `depth` folders below `folder`, sorted, relative to the root; other files are counted.

        Hidden files and folders are passed over. Raises DataError for a symlink that leads out of the root.
        """
        if not (self.root / folder).is_dir():
            self.tally.note(ImageAnomaly.FOLDER_MISSING, folder)
            return
        try:
            with os.scandir(self.root / folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{self.root / folder}: cannot be listed: {error.strerror}") from None
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.name.startswith("."):
                continue
            try:
                safe_relative(path, "file")
            except DataError:
                self.tally.note(ImageAnomaly.UNUSABLE_NAME, repr(path)[1:-1])
                continue
            if entry.is_symlink():
                inside(self.root, path, "file", self.links)
            if entry.is_dir():
                if depth:
                    yield from self.files(path, depth - 1)
                else:
                    self.tally.note(ImageAnomaly.MISPLACED, f"{path} is a folder, where images are expected")
            elif PurePosixPath(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
                self.tally.note(ImageAnomaly.NOT_AN_IMAGE, path)
            elif not entry.is_file():  # reading a pipe would wait for ever
                self.tally.note(ImageAnomaly.NOT_AN_IMAGE, f"{path} is a pipe, a device, or a link to nothing")
            elif depth:
                self.tally.note(ImageAnomaly.MISPLACED, f"{path} lies {depth} folders too high")
            else:
                yield path

    def listed(self, name: str) -> dict[str, str]:
        """The paths of a list with the subject of each; a label that names two folders is counted. See `read_list`."""
        labels: dict[str, str] = {}
        found = {}
        for path, label in read_list(self.root, name).items():
            found[path] = subject = subject_of(path)
            if labels.setdefault(label, subject) != subject:
                words = f"{name}: label {label} is folder {labels[label]} and folder {subject}"
                self.tally.note(ImageAnomaly.LABEL_DISAGREES, words)
        return found

    def take(self, unit: ImageUnit, path: str, subject: str) -> None:
        """Take an image, unless it is left out: by its domain, its path, or as one of its unit."""
        if not is_name(subject):
            raise DataError(
                f"{path}: expected a subject of at most {LONGEST_NAME} printable characters, got "
                f"'{one_line(subject, 80)}'; rename it"
            )
        if not self.sieve.drops(path, unit.name, (str(Domain(unit.band)),)):
            self.images[unit].append((path, subject))

    def number(self, **wanted: Any) -> Callable[[Collection[str]], int]:
        """Count the images of some subjects in the units with the wanted fields; `band=Band.VIS`."""
        tally: Counter[str] = Counter()
        for unit, rows in self.images.items():
            if all(getattr(unit, name) == value for name, value in wanted.items()):
                tally.update(subject for _, subject in rows)
        return lambda subjects: sum(tally[subject] for subject in subjects)

    def listing(
        self, parts: Mapping[str, Collection[str]], ids: Mapping[str, int], images: Mapping[str, tuple[int, int]]
    ) -> Listing:
        """All of it. parts: gallery -> its subjects. ids: gallery -> how many were published. images: what -> (how many
        were published, found).

        Raises DataError where there is no image.
        """
        galleries = defaultdict[str, list[str]](list)
        for part in sorted(parts):
            for subject in set(parts[part]):
                galleries[subject].append(part)
        published = {f"{part} subjects": (count, len(set(parts[part]))) for part, count in ids.items()} | dict(images)
        if not self.images:
            self.sieve.refuse_all(self.root, "image")
            kinds = "; ".join(f"{one.count} {one.kind} ({one.example})" for one in self.tally.anomalies())
            raise DataError(f"{self.root}: found no image{': ' if kinds else ''}{kinds}; is the copy complete?")
        seen = {subject for rows in self.images.values() for _, subject in rows}
        self.note_all(ImageAnomaly.SUBJECT_IN_NO_LIST, seen - galleries.keys(), "{}")
        self.note_all(ImageAnomaly.SUBJECT_WITHOUT_IMAGE, galleries.keys() - seen, "{}")
        differs = [
            f"published {expected:,} {what}, found {found:,}"
            for what, (expected, found) in published.items()
            if found != expected
        ]
        units = sorted(self.images, key=lambda unit: unit.name)
        return Listing(
            videos=[VideoEntry(u.name, u.folder, Domain(u.band), u.session_id, u.camera_id) for u in units],
            faces={},
            galleries=dict(sorted(galleries.items())),
            anomalies=self.tally.anomalies(),
            images={unit.name: _table(unit.name, sorted(self.images[unit])) for unit in units},
            differs=differs,
            left_out=self.sieve.listed(),
        )


def _table(video_id: str, rows: list[tuple[str, str]]) -> pa.Table:
    """A table of IMAGES; rows: (path, subject_id), sorted."""
    columns = {
        "video_id": pa.repeat(pa.scalar(video_id), len(rows)),
        "frame": pa.array(range(len(rows)), pa.int64()),
        "path": pa.array([path for path, _ in rows], pa.string()),
        "subject_id": pa.array([subject for _, subject in rows], pa.string()),
    }
    return pa.table(columns, schema=IMAGES)


# -- index files


def read_ids(root: Path, name: str) -> list[int]:
    """The identities in `exp/train_id.txt` (numbers between commas) or `exp/train_id.mat`. Raises DataError."""
    if name.endswith(".mat"):
        values = read_mat(root, name)
        if len(values) != 1:
            raise DataError(f"{name}: expected one list of identities, found {', '.join(values) or 'none'}")
        words = [(name, str(one)) for one in next(iter(values.values())).ravel().tolist()]
    else:
        lines = enumerate(_text(root, name).splitlines(), start=1)
        words = [(f"{name} line {n}", word) for n, line in lines for word in re.split(r"[,\s]+", line) if word]
    for where, word in words:
        if not re.fullmatch(r"[0-9]{1,9}", word):
            raise DataError(f"{where}: expected identities, numbers between commas, got '{one_line(word, 40)}'")
    if not words:
        raise DataError(f"{name}: expected identities, numbers between commas, found none")
    return [int(word) for _, word in words]


def read_mat(root: Path, name: str) -> dict[str, NDArray[Any]]:
    """The arrays of whole numbers in a MATLAB file up to version 7, by name. Raises DataError."""
    found = {}
    for key, values in read_matlab(root / safe_relative(name, "index file"), name).items():
        if values.dtype != object and (np.abs(values) < 2.0**53).all() and (values == np.floor(values)).all():
            found[key] = values.astype(np.int64)
    return found


def read_list(root: Path, name: str) -> dict[str, str]:
    """Path -> label of an index file with lines of `PATH LABEL`; the path's last folder says who it is.

    Raises DataError for a path that leads elsewhere, or is in no folder.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(_text(root, name).splitlines(), start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        where = f"{name} line {number}"
        if not path or not re.fullmatch(r"[0-9]{1,9}", label):
            raise DataError(f"{where}: expected a path and a label, got '{one_line(line, 80)}'")
        plain = safe_relative(path.strip(), where)
        if plain.count("/") < 2:
            raise DataError(f"{where}: expected a path such as FOLDER/ID/NAME.jpg, got '{one_line(line, 80)}'")
        found[plain] = label
    if not found:
        raise DataError(f"{name}: expected lines of a path and a label, found none")
    return found


def _text(root: Path, name: str) -> str:
    try:
        return (root / safe_relative(name, "index file")).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read as text: {one_line(error, 120)}") from None


def first_of(root: Path, names: Collection[str]) -> str | None:
    """The first of these files that is there."""
    return next((name for name in names if (root / name).is_file()), None)


def needed(root: Path, names: Collection[str], what: str) -> str:
    """The same, which must be there. Raises DataError."""
    found = first_of(root, names)
    if found is None:
        raise DataError(f"{root}: expected {' or '.join(names)}, {what}; found neither under the data root")
    return found


def subject_of(path: str) -> str:
    """The name of the folder that an image is in.

    >>> subject_of("cam1/0007/0001.jpg")
    '0007'
    """
    return PurePosixPath(path).parent.name
