"""What a run folder holds, from its receipts alone: counts by domain, subject, status and split, and what failed.

A part counts only if it is current by the rule of `plan`; what is out of date is listed. Nothing here needs the data
root or a lock. If the study cannot be read, every part counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from mdfpipe.domains import by_wavelength
from mdfpipe.errors import DataError, counted, some
from mdfpipe.running.plan import Judge
from mdfpipe.store import left_out
from mdfpipe.store.naming import natural_key
from mdfpipe.store.run import Failure, Receipt, Run, faces_file
from mdfpipe.store.tables import ANOMALIES, FACES

CHAIN: Final = ("detect", "track", "label", "crop")
"""The stages that make one part a video, in order; for images, only the last. Not every study has `track`."""
TRAIN, EMBED = "train", "embed"
"""The stages of a system: train/SYSTEM makes one part, embed/SYSTEM one a video."""


@dataclass(frozen=True, eq=False)
class VideoState:
    """One video of a run: its row of the videos table, the parts that count, and why a stage failed, by stage (of the
    systems too: embed/NAME).
    """

    row: dict[str, Any]
    receipts: dict[str, Receipt] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    outdated: list[str] = field(default_factory=list)

    @property
    def video_id(self) -> str:
        """Its name."""
        return str(self.row["video_id"])

    @property
    def domain(self) -> str:
        """Its domain."""
        return str(self.row["domain"])

    def facts(self, stage: str) -> dict[str, Any]:
        """What a stage observed in it; empty where the stage is not done."""
        receipt = self.receipts.get(stage)
        return receipt.facts if receipt else {}

    @property
    def window(self) -> tuple[float, float] | None:
        """The values shown as black and white, of a source above 8 bits."""
        found = self.facts("detect").get("window")
        return (float(found[0]), float(found[1])) if found else None

    @property
    def annotated(self) -> int:
        """Frames of it with an annotated face, as far as `label` counted."""
        return int(self.facts("label").get("frames_annotated", 0))

    @property
    def remarks(self) -> list[str]:
        """What a reader should know of it: first its failures, then what is out of date, fallbacks, misalignment."""
        seen, label = self.facts("detect"), self.facts("label")
        found = [f"{stage} failed: {failure.message}" for stage, failure in self.failures.items()]
        found += [f"{stage} is out of date; run it again" for stage in self.outdated]
        if seen.get("incomplete"):
            found.append(f"kept although {seen['incomplete']}")
        found += [f"fell back from {trouble}" for trouble in seen.get("fallback", [])]
        if label.get("faces_beyond_the_end"):
            found.append(f"{counted(label['faces_beyond_the_end'], 'face lies', 'faces lie')} beyond its last frame")
        alignment = label.get("alignment") or {}
        if alignment.get("offset"):
            found.append(f"faces fit better at frame offset {alignment['offset']:+d}")
        return found


@dataclass
class DomainCounts:
    """The funnel of one domain: from videos to crops."""

    domain: str
    of_images: bool = False
    videos: int = 0
    finished: int = 0
    failed: int = 0
    frames: int = 0
    annotated: int = 0
    faces: int = 0
    bodies: int = 0
    by_status: Counter[str] = field(default_factory=Counter)
    by_subject: Counter[str] = field(default_factory=Counter)
    crops: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)

    def take(self, video: VideoState) -> None:
        """Count one video in."""
        seen, label, crop = (video.facts(stage) for stage in ("detect", "label", "crop"))
        self.videos += 1
        self.failed += any(stage in CHAIN for stage in video.failures)
        self.finished += "crop" in video.receipts
        self.frames += (video.row["n_frames"] or 0) if self.of_images else seen.get("delivered", 0)
        self.bodies += seen.get("rows", {}).get("bodies", 0)
        self.annotated += video.annotated
        self.faces += label.get("faces", 0)
        self.by_status.update(label.get("rows", {}))
        self.by_subject.update(label.get("subjects", {}) or crop.get("subjects", {}))
        self.crops.update(crop.get("rows", {}))


@dataclass(eq=False)
class Survey:
    """A run folder as its receipts describe it. Videos in natural order of their names.

    systems: who has a folder under train or embed; trained: the receipts of those whose weights count. doubts: what is
    doubtful of the weights that it was made with.
    """

    run: Run
    index: Receipt
    videos: list[VideoState]
    domains: dict[str, DomainCounts]
    manifest: Receipt | None
    failures: list[Failure]
    notes: list[str]
    systems: list[str] = field(default_factory=list)
    trained: dict[str, Receipt] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    @property
    def of_images(self) -> bool:
        """Whether its data set holds images of one person each: a `video` is then a folder and camera of them."""
        return "images" in self.index.facts

    def of_run(self, stage: str) -> Receipt | None:
        """The part of a run-level stage, where it counts."""
        if stage == "index":
            return self.index
        return self.manifest if stage == "manifest" else self.trained.get(stage.removeprefix(f"{TRAIN}/"))

    def video(self, video_id: str) -> VideoState:
        """The video of that name. Raises DataError that names close ones."""
        found = next((video for video in self.videos if video.video_id == video_id), None)
        if found is not None:
            return found
        raise DataError(
            f"{self.run.path}: --video {video_id!r:.80}: expected a video of the index, which has "
            f"{some([v.video_id for v in self.videos])}; choose one of these"
        )

    def total(self, name: str) -> int:
        """The sum over the domains of one of their counts."""
        return sum(getattr(domain, name) for domain in self.domains.values())

    def statuses(self) -> Counter[str]:
        """Bodies by status, of all domains."""
        return sum((domain.by_status for domain in self.domains.values()), Counter())

    def subjects(self) -> Counter[str]:
        """Labelled bodies by subject, of all domains."""
        return sum((domain.by_subject for domain in self.domains.values()), Counter())

    def settings(self) -> dict[str, dict[str, Any]]:
        """The settings of each stage, from the receipts of the parts that count, which keep what was decisive."""
        found: dict[str, dict[str, Any]] = {"index": self.index.settings}
        for video in self.videos:
            for stage, receipt in video.receipts.items():
                found[stage] = _filled(found.get(stage, {}), receipt.settings)
        if self.manifest is not None:
            found["manifest"] = self.manifest.settings
        return found | {receipt.stage: receipt.settings for receipt in self.trained.values()}


def survey(path: Path) -> Survey:
    """Read the run folder `path`. Raises DataError where it has no index, StoreError where that cannot be read."""
    run = Run(path)
    none = f"{path}: expected a run folder with index/videos.parquet, found none; `mdfpipe detect` makes it"
    index = run.needed("index", "videos", none)
    rows, systems, judge = run.table("index", "videos").to_pylist(), _named(run), Judge(path)
    of_images = "images" in index.facts
    trained, of_systems = _trained(run, systems, judge)
    chain = CHAIN[-1:] if of_images else CHAIN
    ordered = sorted(rows, key=lambda row: natural_key(row["video_id"]))
    videos = [_state(run, row, systems, judge, chain) for row in ordered]
    names = sorted({video.domain for video in videos}, key=by_wavelength)
    domains = {name: DomainCounts(name, of_images) for name in names}
    for video in videos:
        domains[video.domain].take(video)
    manifest, of_manifest = _manifest(run, judge)
    for row in manifest.facts.get("counts", []) if manifest else ():
        if row["domain"] in domains:
            domains[row["domain"]].splits[row["split"]] += row["rows"]
    failures = [failure for video in videos for failure in video.failures.values()]
    of_run = [("index", "videos"), ("manifest", "manifest"), *((f"{TRAIN}/{name}", "training") for name in systems)]
    failures += [f for part in of_run if (f := run.failure(*part)) and (not run.receipt(*part) or judge(*part))]
    outdated = Counter(stage for video in videos for stage in video.outdated)
    doubts = _doubts(videos, trained)
    crops = {video.video_id: video.facts("crop") for video in videos}
    notes = [
        *left_out.of_index(index.facts),
        *left_out.of_nothing(index.facts),
        *of_manifest,
        *([f"nothing is compared with the study, which cannot be read: {judge.unread}"] if judge.unread else []),
        *doubts,
        *(f"{stage}: {n} parts are out of date and left out of every count" for stage, n in outdated.items()),
        *left_out.of_crops(crops),
        *left_out.without_crops(crops),
        *_unreadable(videos, trained),
        *of_systems,
    ]
    return Survey(run, index, videos, domains, manifest, failures, notes, systems, trained, doubts)


def _unreadable(videos: list[VideoState], trained: dict[str, Receipt]) -> list[str]:
    """What trainings and vectors are without, because crops do not decode."""
    lines = [line for r in trained.values() for line in left_out.of_stage(r.stage, {r.key: r.facts})]
    for stage in sorted({stage for video in videos for stage in video.receipts if stage.startswith(f"{EMBED}/")}):
        lines += left_out.of_stage(stage, {video.video_id: video.facts(stage) for video in videos})
    return lines


def _doubts(videos: list[VideoState], trained: dict[str, Receipt]) -> list[str]:
    """What is doubtful of the weights of the detector, and in how many videos, and of those that systems start from."""
    found = Counter(doubt for video in videos for doubt in video.facts("detect").get("doubts", []))
    of_detector = [f"detect: {doubt} ({n} of {len(videos)} videos)" for doubt, n in found.items()]
    return of_detector + [f"{r.stage}: {doubt}" for r in trained.values() for doubt in r.facts.get("doubts", [])]


def faces_of(run: Run, video_id: str) -> pa.Table:
    """The faces that the index has of a video, rows of FACES. Raises Damaged."""
    name = faces_file(video_id)
    if not (run.path / name).exists():  # of a video without faces
        return FACES.empty_table()
    return run.table_beside("index", "videos", name, FACES)


def anomalies(run: Run) -> list[dict[str, Any]]:
    """What was unusual about the annotation: kind, count, example."""
    name = "index/anomalies.parquet"
    there = (run.path / name).exists()
    return list(run.table_beside("index", "videos", name, ANOMALIES).to_pylist()) if there else []


def _state(run: Run, row: dict[str, Any], systems: list[str], judge: Judge, chain: tuple[str, ...]) -> VideoState:
    found = VideoState(row)
    for stage in (*chain, *(f"{EMBED}/{name}" for name in systems)):
        receipt, failure = judge.receipts(stage, row["video_id"]), judge.failure(stage, row["video_id"])
        stale = receipt is None or judge(stage, row["video_id"])
        if failure is not None and stale:
            found.failures[stage] = failure
        if receipt is not None and stale:
            found.outdated.append(stage)
        elif receipt is not None:
            found.receipts[stage] = receipt
    return found


def _filled(known: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with those of another receipt that are not among them."""
    found = dict(known)
    for name, value in others.items():
        inner = found.setdefault(name, value)
        if isinstance(inner, dict) and isinstance(value, dict):
            found[name] = _filled(inner, value)
    return found


def _named(run: Run) -> list[str]:
    """The systems that have a folder, sorted."""
    folders = [folder for stage in (TRAIN, EMBED) for folder in (run.path / stage).glob("*") if folder.is_dir()]
    return sorted({folder.name for folder in folders}, key=natural_key)


def _trained(run: Run, systems: list[str], judge: Judge) -> tuple[dict[str, Receipt], list[str]]:
    """The receipts of the trainings that count, by system, and words on the others."""
    found, notes = {}, []
    for name in systems:
        stage = f"{TRAIN}/{name}"
        receipt = run.receipt(stage, "training")
        stale = judge(stage, "training") if receipt is not None else ""
        if stale:
            notes.append(f"{stage}: out of date ({stale}); its weights are left out, run it again")
        elif receipt is not None:
            found[name] = receipt
            notes += [f"{stage}: {line}" for line in left_out.of_training(receipt.facts)]
    return found, notes


def _manifest(run: Run, judge: Judge) -> tuple[Receipt | None, list[str]]:
    receipt = run.receipt("manifest", "manifest")
    if receipt is None:
        return None, []
    stale = judge("manifest", "manifest")
    if stale:
        return None, [f"manifest: out of date ({stale}), and left out; run it again"]
    missing = receipt.facts.get("missing", [])
    notes = [f"manifest: made without {counted(len(missing), 'video')} ({some(missing)})"] if missing else []
    told = [*left_out.outside_of(receipt.facts), *left_out.by_track(receipt.facts)]
    return receipt, [*notes, *(f"manifest: {line}" for line in told)]
