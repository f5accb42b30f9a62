"""Stage: given one video's tables, make one table. The only rooms that know two wings.

A stage author writes `process` and says what it `reads`. Resuming, skipping, atomic writes, parallelism,
progress and failures live in `plan`, `execution` and `store.run`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import pyarrow as pa

from mdfpipe.config import Config, count_of, result_settings
from mdfpipe.errors import ConfigError, DataError, one_line
from mdfpipe.machine.engines import EngineAsked
from mdfpipe.store.hashing import stamp, stamp_of_files
from mdfpipe.store.run import Receipt, Run, faces_file, images_file
from mdfpipe.store.tables import FACES, IMAGES
from mdfpipe.store.urls import is_url

if TYPE_CHECKING:
    from mdfpipe.video.decoders import Decoder
    from mdfpipe.video.frames import Boxes, Frames

TO_BE_MADE = "to be made"
"""In a receipt, in the place of the content of a part that is due."""
INDEX = ("index", "videos")  # the stage and the key of the part to which the tables of faces and images belong


@dataclass(frozen=True)
class Resources:
    """What changes speed and not results: where it runs, and on how much. Never part of a fingerprint.

    workers: None is one on the CPU, or `per_device` (None: one) on each GPU. device: cpu, cuda, cuda:N, several with
    commas, or cuda:all; in a unit, as its worker sees its own: cpu or cuda:0.
    """

    workers: int | None = None
    device: str = "cpu"
    threads: int = 2
    batch: int = 8
    deadline_seconds: float = 300.0
    cache_bytes: int = 4 << 30  # decoded crops that a training keeps in memory
    trust_pickle: bool = False  # whether this call opens weights that are no mere tensors, and may run what they say
    per_device: int | None = None
    tensorboard: bool = False  # whether a training also writes its figures as TensorBoard's event files
    separate: bool = (
        False  # whether detect and crop each decode a video, and a stage begins when the one before it ends
    )

    def __post_init__(self) -> None:
        for name in ("workers", "per_device", "threads", "batch"):
            value = getattr(self, name)
            if value is not None or name in ("threads", "batch"):
                object.__setattr__(self, name, count_of(f"Resources: {name}", value, 1))
        device: object = self.device
        if not isinstance(device, str):
            got = one_line(repr(device), 40)
            raise ConfigError(f"Resources: device: expected a text such as cpu or cuda:0, got {got}")


class _Told(dict[str, Any]):
    """The facts that a part publishes. Asking for another one is a bug of a stage, whose rows would depend on it."""

    def __init__(self, receipt: Receipt) -> None:
        super().__init__({name: receipt.facts.get(name) for name in receipt.tells})
        self.stage = receipt.stage

    def __missing__(self, name: str) -> Any:
        raise LookupError(f"the stage {self.stage} does not tell {name!r}: name it in its `tells`, or do not read it")

    def get(self, name: str, default: Any = None) -> Any:
        """The fact of that name. Raises LookupError if the stage does not publish it."""
        found = self[name]
        return default if found is None else found


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a unit may read: the run's tables, of its own video or, in a run-level stage, of every video."""

    run: Run
    video: Mapping[str, Any] = field(default_factory=dict)  # this video's row of the videos table
    videos: tuple[str, ...] = ()  # of a run-level stage: the videos that are done
    missing: tuple[str, ...] = ()  # of a run-level stage: the videos left out by --allow-missing
    undone: frozenset[tuple[str, str]] = frozenset()  # and the parts that are: (stage, video_id)
    annotated: Mapping[str, str] = field(default_factory=dict)  # digests of the tables beside the index, by their names
    place: Path | None = None  # of a remote video: where it is now

    def table(self, stage: str, key: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The rows that `stage` made of this video (or of `key`)."""
        return self.run.table(stage, key or self.video["video_id"], columns)

    def faces(self, key: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The annotated faces of this video (or of `key`).

        The list of the index decides, not the files: a kill may have left a table of a former index.
        """
        name = faces_file(key or self.video["video_id"])
        if name in self.annotated:
            return self.of_index(name, FACES, columns)
        return FACES.empty_table().select(columns or FACES.names)

    def images(self) -> pa.Table:
        """The images of this unit, in a data set of images."""
        return self.of_index(images_file(self.video["video_id"]), IMAGES)

    def of_index(self, name: str, ours: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        """Rows of a table of the index, verified. Raises Damaged."""
        return self.run.table_beside(*INDEX, name, ours, columns, self.annotated.get(name))

    def media(self, data: Path) -> Path:
        """Where the video is: below the data root, or in the cache of remote videos."""
        return self.place or data / self.video["path"]

    def check_media(self, data: Path) -> None:
        """Raise DataError where the video, or its images, are no longer what the index has read of them.

        A remote video is compared when it is opened.
        """
        known = self.video.get("stamp")
        if known is None or is_url(self.video["path"]):
            return
        path = data / self.video["path"]
        listed = images_file(self.video["video_id"]) in self.annotated
        now = stamp_of_files(self.images()["path"].to_pylist(), data) if listed else stamp(path)
        if now != known:
            what = "is no longer there" if now is None else "has changed"
            raise DataError(f"{path}: {what} since it was indexed; give the same command again")

    def facts(self, stage: str, key: str | None = None) -> dict[str, Any]:
        """What `stage` tells of what it observed in this video (or in `key`)."""
        receipt = self.run.receipt(stage, key or self.video["video_id"])
        if receipt is None:
            return {}
        if not receipt.content:  # of an earlier version, whose parts told everything
            return receipt.facts
        return _Told(receipt)

    def is_done(self, stage: str, key: str) -> bool:
        """Whether the part of `stage` for `key` is what the plan asks for: what was left out may still lie there."""
        return (stage, key) not in self.undone and self.run.receipt(stage, key) is not None


class Sharing(Protocol):
    """What is handed each frame that `detect` decodes, with its boxes, so that `crop` need not decode it again."""

    def begin(self, decoder: Decoder, window: tuple[float, float] | None, stride: int) -> None:
        """A decoder begins with the first frame; frames that another one gave before do not count.

        window: the values of a video above 8 bits that are black and white. stride: every n-th frame comes.
        """

    def take(self, frames: Frames, boxes: list[Boxes]) -> None:
        """The next batch of frames. boxes: those of each frame."""

    def cut(self, cuts: Any, seen: Mapping[str, Any]) -> dict[str, Path] | None:
        """The shards by modality, where these boxes were cut, and what became of each in `cuts`; else None."""


@dataclass(frozen=True, eq=False)
class Context:
    """Where a unit runs: the data root, the resources, a place for large files, and a way to show life."""

    data: Path
    resources: Resources
    scratch: Callable[[str], Path]
    progress: Callable[[int, int | None], None] = lambda done, total: None
    shared: Sharing | None = None  # of a video whose crops are cut while it is decoded for detect


@dataclass(frozen=True, eq=False)
class Made:
    """What a unit made: the table, what it observed, and the files that belong to it (run-relative name -> scratch).

    spent: files that were only needed to resume after a kill; removed once the part is committed.
    """

    table: pa.Table
    facts: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    spent: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Review:
    """A verdict over all videos of a stage.

    failures: video_id -> why it fails after all. warnings: printed when the stage ran; lasting: printed at every call,
    because the numbers depend on it. notes: for information. stop: why the run must stop.
    """

    failures: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    lasting: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stop: str | None = None


class Stage(Config):
    """One step of the pipeline: settings, and a pure function from tables to a table."""

    name: ClassVar[str]
    version: ClassVar[int]  # raise it when the same settings and inputs give other rows
    reads: ClassVar[tuple[str, ...]]  # of index "media", "person", "faces", "images", "catalogue"; and names of stages
    schema: ClassVar[pa.Schema]
    per: ClassVar[Literal["video", "run"]] = "video"
    unit: ClassVar[str] = "frames"  # what progress counts
    together: ClassVar[bool] = False  # whether all processes of `torchrun` do a unit together
    tells: ClassVar[tuple[str, ...]] = ()  # the facts that later stages read: with rows and files, the part's content

    @property
    def key(self) -> str:
        """The name of a run-level stage's part."""
        return self.name

    @property
    def precision_asked(self) -> str | None:
        """The precision of its network, as the study asks for it; None where it has no network."""
        return None

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the rows, as a receipt keeps them."""
        return result_settings(self)

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings, by dotted name, that had no effect on a unit, by the facts of its part. By default none.

        Only for a setting whose every value gives the same rows, files and published facts, regardless of the other
        settings here. A fact that an earlier version did not note counts as unknown.
        """
        return ()

    def decided(self, receipt: Receipt, facts: Mapping[str, Any]) -> Receipt:
        """`receipt` with the settings alone that were decisive for a unit of these facts: as the part keeps it."""
        names = self.without_effect(facts)
        return receipt.without(names) if names else receipt

    def same(self, found: Receipt, expected: Receipt) -> bool:
        """Whether a part that was found is the one that is expected: but for settings that had no effect on it."""
        decided = self.decided(found, found.facts), self.decided(expected, found.facts)
        return bool(found.content) and decided[0].fingerprint == decided[1].fingerprint

    @property
    def engine_asked(self) -> EngineAsked | None:
        """The engine that its network is asked to run under; None where it runs no network that others could run."""
        return None

    def under(self, engine: str) -> Self:
        """The same stage with its network under this engine, as the leader has decided for all units."""
        return self

    def slice_of(self, upstream: Receipt, run: Run, key: str) -> str:
        """What of a run-level part decides the rows of one video: by default all of it."""
        return upstream.content

    def identity(self, data: Path, key: str) -> dict[str, str]:
        """Content hashes, by name, of what else decides the rows of `key`. Raises ConfigError."""
        return {}

    def identities(self, data: Path) -> Callable[[str], dict[str, str]]:
        """`identity` by key, for many keys at one time: it may look up once what they share."""
        return partial(self.identity, data)

    @abstractmethod
    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Make the table of `key`. Raises DataError or DecodeError where the data do not allow it."""

    def shares(self, video: Mapping[str, Any]) -> int:
        """Into how many shares, which workers do at the same time, the unit of a video can be cut; by default one."""
        return 1

    def process_share(self, key: str, inputs: Inputs, context: Context, number: int, of: int) -> Made:
        """Do one share of `of`, from 0, and keep it for `process`, which does what is missing. The table is empty."""
        return Made(self.schema.empty_table())

    def tidy(self, run: Run) -> None:
        """Remove what a kill left of a part that is done. By default: nothing."""

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Judge all units that are done together, before the next stage starts. facts: by the key of a unit."""
        return Review()
