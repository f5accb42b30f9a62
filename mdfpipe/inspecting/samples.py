"""One pass over the tables of a run: distributions, and the few frames and crops to show.

The choice depends on the tables alone, so that the same run gives the same page. Memory does not grow with the
number of rows: histograms have fixed bins, and a few candidates of each video are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.drawing.pixels import COLOURS
from mdfpipe.errors import DataError, StoreError
from mdfpipe.running.survey import Survey, VideoState
from mdfpipe.store.naming import natural_key
from mdfpipe.store.shards import CHECKSUM
from mdfpipe.store.tables import joined

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How much a page shows: frames and subjects in all, crops of a subject in a domain.

    reach_frames: later frames are not shown, because a video is decoded from its start.
    """

    frames: int = 48
    frames_per_domain: int = 12
    subjects: int = 96
    subjects_per_domain: int = 24
    bodies: int = 8
    faces: int = 4
    reach_frames: int = 3000
    videos: int = 100
    failures: int = 50

    def frames_each(self, domains: int) -> int:
        """Frames of one domain among so many."""
        return max(min(self.frames_per_domain, self.frames // max(domains, 1)), 2)

    def subjects_each(self, domains: int) -> int:
        """Subjects of one domain among so many."""
        return max(min(self.subjects_per_domain, self.subjects // max(domains, 1)), 4)


PER_BAR: Final = 25  # bins of a histogram in one bar of its drawing


@dataclass(frozen=True)
class Scale:
    """A quantity that is drawn as a histogram: its name, its meaning, its fixed bin edges.

    The bins are finer than the bars, so that a median is precise.
    """

    name: str
    meaning: str
    edges: tuple[float, ...]
    is_log: bool = False

    @property
    def bars(self) -> tuple[float, ...]:
        """The edges of the bars."""
        return self.edges[::PER_BAR]


def _linear(high: float, bars: int) -> tuple[float, ...]:
    return tuple(np.linspace(0.0, high, bars * PER_BAR + 1).tolist())


def _log(low: float, high: float, bars: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, bars * PER_BAR + 1).tolist())


SCALES: Final = (
    Scale("overlap", "overlap of a body with its best face, bodies with a face only, by status", _linear(1.0, 40)),
    Scale("score", "the detector's confidence in a body, by status", _linear(1.0, 40)),
    Scale("box height", "height of a body's box in the frame, pixels, by status", _log(1.0, 10000.0, 80), is_log=True),
    Scale("sharpness", "variance of the Laplacian, body crops, in 0..255", _log(0.01, 100000.0, 70), is_log=True),
    Scale("contrast", "standard deviation of grey values, body crops, in 0..255", _linear(128.0, 64)),
)
PLAIN: Final = "crops"  # the layer of a quantity that is not split by status


@dataclass
class Histogram:
    """Counts in the bins of a scale, in layers."""

    scale: Scale
    layers: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, values: NDArray[Any], layer: str = PLAIN) -> None:
        """Count values (n,). Those outside the scale fall into its first or last bin; NaN is not counted."""
        edges = np.asarray(self.scale.edges)
        nudge = 1e-4 * (edges[1] - edges[0])  # a float32 0.9 is a little less, and belongs with 0.9
        inside = np.clip(values[np.isfinite(values)].astype(np.float64) + nudge, edges[0], edges[-1])
        counts = np.histogram(inside, bins=edges)[0].astype(np.int64)
        self.layers[layer] = self.layers.get(layer, np.zeros_like(counts)) + counts

    def bars(self, layer: str | None = None) -> NDArray[np.int64]:
        """Counts (bars,) of a layer, or of all."""
        bins = self.total if layer is None else self.layers[layer]
        counts: NDArray[np.int64] = bins.reshape(-1, PER_BAR).sum(axis=1)
        return counts

    @property
    def total(self) -> NDArray[np.int64]:
        """Counts (bins,) over all layers."""
        return sum(self.layers.values(), np.zeros(len(self.scale.edges) - 1, np.int64))

    @property
    def median(self) -> float | None:
        """The median to within a bin; None without values."""
        counts = self.total
        if not counts.any():
            return None
        at = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
        low, high = self.scale.edges[at], self.scale.edges[at + 1]
        return float(np.sqrt(low * high)) if self.scale.is_log else (low + high) / 2


@dataclass(frozen=True)
class FrameChoice:
    """A frame to show, and the status that it is shown for."""

    status: str
    video_id: str
    frame: int


@dataclass(frozen=True)
class CropChoice:
    """A crop to show: its place in a shard, and its quality."""

    crop_id: str
    video_id: str
    shard: str
    offset: int
    size: int
    crc32: int | None
    sharpness: float
    contrast: float
    box_height_px: float

    @property
    def title(self) -> str:
        """Which crop it is, and its quality."""
        quality = f"{self.box_height_px:.0f} px high, sharpness {self.sharpness:.0f}, contrast {self.contrast:.0f}"
        return f"{self.crop_id}: {quality}"


@dataclass
class SubjectSample:
    """One subject in one domain: how many crops there are, and the few that are shown."""

    subject_id: str
    count: dict[str, int] = field(default_factory=lambda: {"body": 0, "face": 0})
    crops: dict[str, list[list[CropChoice]]] = field(default_factory=lambda: {"body": [], "face": []})

    def chosen(self, modality: str, most: int) -> list[CropChoice]:
        """At most `most` crops, of as many videos as possible."""
        return _in_turn(self.crops[modality])[:most]


@dataclass
class DomainSample:
    """What a page shows of one domain."""

    histograms: dict[str, Histogram] = field(default_factory=lambda: {s.name: Histogram(s) for s in SCALES})
    candidates: dict[str, list[list[FrameChoice]]] = field(default_factory=lambda: defaultdict(list))
    beyond: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    subjects: dict[str, SubjectSample] = field(default_factory=dict)

    def frames(self, most: int) -> list[FrameChoice]:
        """At most `most` frames: every status in turn, ambiguous first, and of each status every video in turn."""
        by_status = [_in_turn(self.candidates[status]) for status in COLOURS if status in self.candidates]
        chosen: dict[tuple[str, int], FrameChoice] = {}
        for choice in _in_turn(by_status):
            if len(chosen) == most:
                break
            chosen.setdefault((choice.video_id, choice.frame), choice)
        order = [status.value for status in COLOURS]
        return sorted(chosen.values(), key=lambda c: (order.index(c.status), natural_key(c.video_id), c.frame))

    def people(self, most: int) -> list[SubjectSample]:
        """At most `most` subjects, spread evenly over all in the order of their names."""
        names = sorted(self.subjects, key=natural_key)
        return [self.subjects[name] for name in spread(names, most)]


def sample(survey: Survey, limits: Limits) -> tuple[dict[str, DomainSample], list[str]]:
    """Read the tables of every video once; return what to show of each domain, and notes on unreadable tables."""
    found = {domain: DomainSample() for domain in survey.domains}
    notes: list[str] = []
    for video in survey.videos:
        try:
            if "label" in video.receipts:
                _take_bodies(found[video.domain], survey, video, limits)
            if "crop" in video.receipts:
                _take_crops(found[video.domain], survey, video, limits)
        except (DataError, StoreError) as error:
            notes.append(str(error))
    return found, notes


def _take_bodies(into: DomainSample, survey: Survey, video: VideoState, limits: Limits) -> None:
    bodies = survey.run.table("detect", video.video_id, ["body_id", "frame", "y1", "y2", "score"])
    labels = survey.run.table("label", video.video_id, ["body_id", "overlap", "face_no", "status"])
    labels = joined(labels, bodies["body_id"], "body_id", survey.run.part("label", video.video_id), "detect")
    frame, score = bodies["frame"].to_numpy(), bodies["score"].to_numpy()
    height, overlap = bodies["y2"].to_numpy() - bodies["y1"].to_numpy(), labels["overlap"].to_numpy()
    touched = labels["face_no"].is_valid().to_numpy()
    shown_for: set[int] = set()
    for name in (status.value for status in COLOURS):
        mask = pc.equal(labels["status"].cast(pa.string()), name).to_numpy()
        if not mask.any():
            continue
        into.histograms["overlap"].add(overlap[mask & touched], name)
        into.histograms["score"].add(score[mask], name)
        into.histograms["box height"].add(height[mask], name)
        frames = np.unique(frame[mask])
        into.beyond[name] += int((frames >= limits.reach_frames).sum())
        near = [f for f in frames[frames < limits.reach_frames].tolist() if f not in shown_for]
        chosen = spread(near, limits.frames_per_domain)
        shown_for.update(chosen)
        if chosen:
            into.candidates[name].append([FrameChoice(name, video.video_id, f) for f in _middle_out(chosen)])


def _take_crops(into: DomainSample, survey: Survey, video: VideoState, limits: Limits) -> None:
    wanted = ["crop_id", "subject_id", "modality", "shard", "offset", "size", "sharpness", "contrast", "box_height_px"]
    crops = survey.run.table("crop", video.video_id, [*wanted, CHECKSUM, "status"])
    if CHECKSUM not in crops.column_names:  # of an earlier version
        crops = crops.append_column(CHECKSUM, pa.nulls(crops.num_rows, pa.uint32()))
    crops = crops.filter(pc.equal(crops["status"].cast(pa.string()), "ok"))
    subject = np.asarray(crops["subject_id"].to_pylist(), dtype=object)
    modality = np.asarray(crops["modality"].cast(pa.string()).to_pylist(), dtype=object)
    for quantity in ("sharpness", "contrast"):
        into.histograms[quantity].add(crops[quantity].to_numpy()[modality == "body"])
    for name in dict.fromkeys(subject.tolist()):
        one = into.subjects.setdefault(name, SubjectSample(name))
        for kind, most in (("body", limits.bodies), ("face", limits.faces)):
            rows = np.flatnonzero((subject == name) & (modality == kind))
            one.count[kind] += len(rows)
            if len(rows) and len(one.crops[kind]) < most:
                few = crops.take(pa.array(spread(rows.tolist(), most)))
                few = few.drop_columns(["status", "subject_id", "modality"])
                one.crops[kind].append([CropChoice(video_id=video.video_id, **row) for row in few.to_pylist()])


def spread(values: Sequence[T], most: int) -> list[T]:
    """At most `most` of the values, evenly spread, in their order.

    >>> spread(list(range(10)), 4)
    [1, 3, 6, 8]
    """
    if len(values) <= most:
        return list(values)
    return [values[int((n + 0.5) * len(values) / most)] for n in range(most)]


def _middle_out(values: Sequence[T]) -> list[T]:
    """The values, the middle one first, then the middles of the halves: the first few are spread too."""
    if not values:
        return []
    middle = len(values) // 2
    return [values[middle], *_in_turn([_middle_out(values[:middle]), _middle_out(values[middle + 1 :])])]


def _in_turn(lists: Iterable[Sequence[T]]) -> list[T]:
    """The first of every list, then the second of every list, ...

    >>> _in_turn([[1, 2, 3], [10], [20, 21]])
    [1, 10, 20, 2, 21, 3]
    """
    missing = object()
    rounds = zip_longest(*lists, fillvalue=missing)
    return [value for values in rounds for value in values if value is not missing]  # type: ignore[misc]
