"""Dataset: a layout on disk -> videos, faces, subjects; or, of a benchmark, images of one person each.

Each file of this folder reads one layout, named after itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import Plugin
from mdfpipe.datasets.reading.leaving_out import LeaveOut, LeftOut
from mdfpipe.domains import Domain
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.naming import VIDEO_SUFFIXES, Links, file_name, safe_relative
from mdfpipe.store.urls import is_url, name_of, plain_url

__all__ = ["Anomaly", "AnomalyTally", "Dataset", "LeaveOut", "LeftOut", "Listing", "VideoEntry", "name_videos"]

LONGEST_ID = 200  # bytes of UTF-8: with its suffixes it must fit a file name of 255


@dataclass(frozen=True)
class VideoEntry:
    """One video as the annotation names it; in a data set of images, those of one folder and camera.

    video_id: see `name_videos`. path: POSIX, relative to the data root: a file, or a folder of frames, or of images; or
    the URL of a file. subject_id: the one person of the video, where the data set names one.
    """

    video_id: str
    path: str
    domain: Domain
    session_id: str | None = None
    camera_id: str | None = None
    subject_id: str | None = None


@dataclass(frozen=True)
class Anomaly:
    """A kind of row that could not be taken as it is: how many, and the first as an example (one line)."""

    kind: str
    count: int
    example: str


@dataclass
class AnomalyTally:
    """Counts what is anomalous by kind and keeps the first as an example."""

    counts: Counter[StrEnum] = field(default_factory=Counter)
    examples: dict[StrEnum, str] = field(default_factory=dict)

    def note(self, kind: StrEnum, example: str, count: int = 1) -> None:
        """Count something."""
        self.counts[kind] += count
        self.examples.setdefault(kind, one_line(example))

    def add(self, kind: StrEnum, mask: NDArray[np.bool_], example: Callable[[int], str]) -> None:
        """Count the rows of `mask`, (n,) bool; `example` describes a row by its position in the mask."""
        count = int(np.count_nonzero(mask))
        if count:
            self.note(kind, self.examples.get(kind) or example(int(np.argmax(mask))), count)

    def anomalies(self) -> list[Anomaly]:
        """What was counted, by kind."""
        return [Anomaly(kind.value, self.counts[kind], self.examples[kind]) for kind in sorted(self.counts)]


@dataclass(frozen=True, eq=False)
class Listing:
    """What a dataset holds.

    videos: sorted by video_id. faces: by video_id, a table of `store.tables.FACES`, sorted by (frame, face_no).
    galleries: subject_id -> gallery names ("1", "2"; "train", "val", "test"), where the dataset has galleries; a
    subject may be in several. anomalies: rows that were changed or left out, by kind. images: of a data set of
    images, by video_id, a table of `store.tables.IMAGES`, sorted by path, which is by frame. differs: how the counts of
    a published data set differ from the published ones, a line each. left_out: what each rule of `leave_out` kept out;
    left_out_rows: annotation rows of these videos. remarks: what else one should know, a line each. detected: by
    video_id, the faces that a detector found, as their table says.
    """

    videos: list[VideoEntry]
    faces: dict[str, pa.Table]
    galleries: dict[str, list[str]] = field(default_factory=dict)
    anomalies: list[Anomaly] = field(default_factory=list)
    images: dict[str, pa.Table] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_rows: int = 0
    detected: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Dataset(Plugin):
    """One layout on disk."""

    holds_images: ClassVar[bool] = False  # whether its files are images of one person each, and not videos
    published_name: ClassVar[str] = ""  # of a layout that is one data set's own: what papers call that

    leave_out: LeaveOut = Field(default=LeaveOut(), description="videos to leave out of the study")
    links: Links = Field(
        Links.INSIDE,
        description=(
            "whether symbolic links may lead out of the data root. inside: no; follow: yes, needed for git-annex, "
            "DVC and videos on several disks"
        ),
    )

    @abstractmethod
    def sources(self, root: Path) -> list[Path]:
        """Every file and folder whose change changes `read`: annotation files and videos. Raises DataError."""

    @abstractmethod
    def tables(self, root: Path) -> list[Path]:
        """Annotation files among the sources; unchanged, they name the same videos. Raises DataError."""

    @abstractmethod
    def present(self, root: Path) -> list[Path]:
        """Videos among the sources that are found without a table. Raises DataError."""

    @abstractmethod
    def read(self, root: Path) -> Listing:
        """The listing of the data under `root`. Raises DataError with file, row and column."""


def name_videos(paths: Iterable[str], left_out: Iterable[str] = (), remote: Sequence[str] = ()) -> dict[str, str]:
    """path -> video_id, for all videos of a dataset: the path without its suffix where that is unique, else with it.

    paths: POSIX, relative to the data root, in any order (a path given twice is one video). left_out: further paths,
    which get no name; the others are named as if they did, so that leaving a video out renames none. remote: which URLs
    are allowed; one is named by its host and path. Raises DataError for a path that `safe_relative` refuses, for a URL
    that `plain_url` refuses, for a name that is hidden or longer than 200 bytes, and for two videos whose file names
    would be the same (`a/b` and `a__b`).

    >>> name_videos(["v/a.mp4", "v/b.mp4", "v/b.avi", "frames/c"])
    {'frames/c': 'frames/c', 'v/a.mp4': 'v/a', 'v/b.avi': 'v/b.avi', 'v/b.mp4': 'v/b.mp4'}
    """
    ordered = sorted({_plain(path, remote) for path in paths})
    whole = {path: name_of(path) if is_url(path) else path for path in (*ordered, *left_out)}
    pure = {path: PurePosixPath(name) for path, name in whole.items()}
    names = {p: str(q.with_suffix("")) if q.suffix.lower() in VIDEO_SUFFIXES else whole[p] for p, q in pure.items()}
    while True:
        taken = Counter(names.values())
        clashing = [path for path, name in names.items() if taken[name] > 1 and name != whole[path]]
        if not clashing:
            break
        names.update({path: whole[path] for path in clashing})  # may clash with a suffixless name: hence the loop
    owner: dict[str, str] = {}
    for path in ordered:
        name = names[path]
        if len(name.encode()) > LONGEST_ID:
            shown = one_line(name, 60)
            raise DataError(f"video {shown}: its name has {len(name.encode())} bytes, at most {LONGEST_ID}; rename it")
        if name.startswith("."):
            raise DataError(f"video {one_line(path, 80)}: its name starts with a dot, as hidden files do; rename it")
        other = owner.setdefault(file_name(name), path)
        if other != path:
            raise DataError(f"videos {other} and {path} would share the file name {file_name(name)}; rename one")
    return {path: names[path] for path in ordered}


def _plain(path: str, remote: Sequence[str]) -> str:
    return plain_url(path, "video", remote) if "://" in path else safe_relative(path, "video")
