"""Stage: given one video's tables, make one table. The only rooms that know two wings.

A stage author writes `process` and says what it `reads`. Resuming, skipping, atomic writes, parallelism,
progress and failures live in `plan`, `execution` and `store.run`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from mdfpipe.config import Config, result_settings
from mdfpipe.store.run import Receipt, Run, faces_file, images_file, read_table
from mdfpipe.store.tables import FACES


@dataclass(frozen=True)
class Resources:
    """What changes speed and not results: where it runs, and on how much. Never part of a fingerprint."""

    workers: int = 1
    device: str = "cpu"
    threads: int = 2
    batch: int = 8
    deadline_seconds: float = 300.0
    cache_bytes: int = 4 << 30  # decoded crops that a training keeps in memory
    tensorboard: bool = False  # whether a training also writes its figures as TensorBoard's event files


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a unit may read: the run's tables, of its own video or, in a run-level stage, of every video."""

    run: Run
    video: Mapping[str, Any] = field(default_factory=dict)  # this video's row of the videos table
    videos: tuple[str, ...] = ()  # of a run-level stage: the videos that are done
    missing: tuple[str, ...] = ()  # of a run-level stage: the videos left out by --allow-missing
    annotated: frozenset[str] = frozenset()  # the tables beside the index that its receipt lists, under the run folder

    def table(self, stage: str, key: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The rows that `stage` made of this video (or of `key`)."""
        return self.run.table(stage, key or self.video["video_id"], columns)

    def faces(self, key: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The annotated faces of this video (or of `key`); no row where the index has none.

        What the index lists decides, not what lies there: a kill may have left a table of a former index.
        """
        name = faces_file(key or self.video["video_id"])
        if name in self.annotated:
            return read_table(self.run.path / name, columns)
        return FACES.empty_table().select(columns or FACES.names)

    def images(self) -> pa.Table:
        """The images that stand for this video, in a data set of images."""
        return read_table(self.run.path / images_file(self.video["video_id"]))

    def facts(self, stage: str, key: str | None = None) -> dict[str, Any]:
        """What `stage` observed in this video (or in `key`)."""
        receipt = self.run.receipt(stage, key or self.video["video_id"])
        return receipt.facts if receipt else {}


@dataclass(frozen=True, eq=False)
class Context:
    """Where a unit runs: the data root, the resources, a place for large files, and a way to show life."""

    data: Path
    resources: Resources
    scratch: Callable[[str], Path]
    progress: Callable[[int, int | None], None] = lambda done, total: None


@dataclass(frozen=True, eq=False)
class Made:
    """What a unit made: the table, what it observed, and the files that belong to it (run-relative name -> scratch).

    spent: files that only served to go on after a kill; removed once the part is committed.
    """

    table: pa.Table
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    spent: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Review:
    """A verdict over all videos of a stage.

    failures: video_id -> why it fails after all. warnings: what a user should know. notes: what a user would like to
    know. stop: why the run must stop.
    """

    failures: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stop: str | None = None


class Stage(Config):
    """One step of the pipeline: settings, and a pure function from tables to a table."""

    name: ClassVar[str]
    version: ClassVar[int]  # raise it when the same settings and inputs give other rows
    reads: ClassVar[tuple[str, ...]]  # "media", "faces", "images", "catalogue" of index, and names of stages
    schema: ClassVar[pa.Schema]
    per: ClassVar[Literal["video", "run"]] = "video"
    unit: ClassVar[str] = "frames"  # what progress counts
    together: ClassVar[bool] = False  # whether all processes of `torchrun` do a unit together

    @property
    def key(self) -> str:
        """The name of a run-level stage's part."""
        return self.name

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the rows, as a receipt keeps them."""
        return result_settings(self)

    def slice_of(self, upstream: Receipt, run: Run, key: str) -> str:
        """What of a run-level part decides the rows of one video: by default all of it."""
        return upstream.content

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """What beside the settings decides the rows of `key`: content hashes by name. Raises ConfigError."""
        return {}

    @abstractmethod
    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Make the table of `key`. Raises DataError or DecodeError where the data do not allow it."""

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Judge all units together once they are done, before the next stage starts. By default: nothing to say.

        facts: of each unit that is done, by its key.
        """
        return Review()
