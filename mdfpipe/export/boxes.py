"""Bodies and labels of a run in the forms of other tools: MOTChallenge, COCO, YOLO with its pictures, FiftyOne.

    mot        OUT/VIDEO/gt/gt.txt, OUT/VIDEO/seqinfo.ini, OUT/subjects.csv (who an id is)
    coco       OUT/instances.json
    yolo       OUT/data.yaml, OUT/images/train/VIDEO_000017.jpg, OUT/labels/train/VIDEO_000017.txt; val likewise
    fiftyone   OUT/labels.json, OUT/data/VIDEO_000017.jpg

`/` in a video_id is written `__`. Videos are read one by one, and rows are written as they come.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, Literal, get_args

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.config import count_of
from mdfpipe.errors import ConfigError, DataError, StoreError, counted, one_line
from mdfpipe.running.replay import data_root, frames_of
from mdfpipe.running.survey import Survey, VideoState, survey
from mdfpipe.store.files import given_path
from mdfpipe.store.images import encode
from mdfpipe.store.naming import file_name
from mdfpipe.store.owner import temporary
from mdfpipe.store.tables import boxes_of, joined
from mdfpipe.study.study import open_run
from mdfpipe.video.normalise import Normalise

Form = Literal["mot", "coco", "yolo", "fiftyone"]
FORMS: Final = get_args(Form)
Ids = Literal["subject", "track"]
IDS: Final = get_args(Ids)
_PICTURED: Final = ("yolo", "fiftyone")


@dataclass(frozen=True)
class ExportedBoxes:
    """What was written, or would be: counts, and what is left out by reason.

    named: boxes with a subject; subjects: people of the run. pictures: by split, "" without splits.
    """

    out: Path
    form: str
    videos: int
    frames: int
    boxes: int
    named: int
    subjects: int
    left_out: dict[str, int]
    pictures: dict[str, int]
    dry_run: bool

    @property
    def lines(self) -> list[str]:
        """The same in words."""
        would = "would write" if self.dry_run else "wrote"
        counts = ", ".join(
            counted(count, what)
            for count, what in ((self.videos, "video"), (self.frames, "frame"), (self.boxes, "box"))
        )
        counts += f", {self.named} of them named ({counted(self.subjects, 'subject')})"
        lines = [f"{would} {self.out} ({self.form}): {counts}"]
        if self.pictures:
            each = ", ".join(f"{count}{f' {split}' if split else ''}" for split, count in self.pictures.items())
            lines.append(f"pictures: {each}; people are not pixelated in them")
        if self.form == "yolo" and not self.pictures.get("val"):
            lines.append("no video is left for val: data.yaml names the training pictures there")
        lines += [f"left out: {reason}: {count}" for reason, count in sorted(self.left_out.items())]
        return lines


@dataclass(frozen=True, eq=False)
class _Bodies:
    """The bodies of one video that are exported, by frame.

    frames: (f,) int64, every frame that is exported, also those without a body. frame: (n,) int64; xyxy: (n, 4)
    float64; score: (n,) float32; subject: (n,) text or None; status: (n,) text, "" before label; track: (n,) int64, -1
    for none; number: (n,) int64, the id of a body in files that have numbers alone, -1 for none. A subject or number
    has one body a frame.
    """

    frames: NDArray[np.int64]
    frame: NDArray[np.int64]
    xyxy: NDArray[np.float64]
    score: NDArray[np.float32]
    subject: list[str | None]
    status: list[str]
    track: NDArray[np.int64]
    number: NDArray[np.int64]

    def by_frame(self) -> Iterator[tuple[int, slice]]:
        """Each frame and its bodies."""
        ends = np.searchsorted(self.frame, [self.frames, self.frames + 1]).T.tolist()
        return ((frame, slice(*span)) for frame, span in zip(self.frames.tolist(), ends, strict=True))


@dataclass(eq=False)
class _Export:
    """One export: what is asked for, and what was counted so far."""

    survey: Survey
    out: Path
    every: int
    min_score: float
    val: float
    ids: str
    pictured: bool
    videos: list[VideoState] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        everything = self.survey.videos
        self.videos = [video for video in everything if "detect" in video.receipts]
        if not self.videos:
            raise DataError(f"{self.survey.run.path}: expected boxes, found none that are current; run detect first")
        if missing := len(everything) - len(self.videos):
            self.left_out["videos without current boxes"] = missing
        if self.ids == "track" and not any("track" in video.receipts for video in self.videos):
            raise DataError(f"{self.survey.run.path}: --ids track: expected tracks, found none that are current")
        names, labelled = set[str | None](), [video for video in self.videos if "label" in video.receipts]
        if missing := len(self.videos) - len(labelled):
            self.left_out["names in videos without current labels"] = missing
        for video in labelled:
            labels = self.survey.run.table("label", video.video_id, ["subject_id"])
            names.update(pc.unique(labels["subject_id"]).to_pylist())
        self.numbers = {name: number for number, name in enumerate(sorted(filter(None, names)), start=1)}

    def bodies(self, video: VideoState, *, counting: bool = False) -> _Bodies:
        """The bodies of a video. counting: what is left out of it is counted, too."""
        run, key, seen = self.survey.run, video.video_id, video.facts("detect")
        bodies = run.table("detect", key, ["body_id", "frame", "x1", "y1", "x2", "y2", "score"])
        subject: list[str | None] = [None] * bodies.num_rows
        status, track = [""] * bodies.num_rows, np.full(bodies.num_rows, -1, np.int64)
        if "label" in video.receipts:
            labels = run.table("label", key, ["body_id", "subject_id", "status"])
            labels = joined(labels, bodies["body_id"], "body_id", run.part("label", key), "detect")
            subject, status = labels["subject_id"].to_pylist(), labels["status"].to_pylist()
        if "track" in video.receipts:
            tracks = run.table("track", key, ["body_id", "track"])
            tracks = joined(tracks, bodies["body_id"], "body_id", run.part("track", key), "detect")
            track = tracks["track"].fill_null(-1).to_numpy().astype(np.int64)
        frame, score = bodies["frame"].to_numpy(), bodies["score"].to_numpy()
        step = seen["stride"] * self.every
        here, sure, xyxy = frame % step == 0, score >= np.float32(self.min_score), boxes_of(bodies).astype(np.float64)
        inside = _inside(xyxy, *self.size(video)) if self.pictured else np.ones(len(frame), np.bool_)
        kept = np.flatnonzero(here & sure & inside)
        named, twice = _once_a_frame(
            frame[kept], np.array([self.numbers.get(name or "", -1) for name in subject])[kept]
        )
        number = track[kept] if self.ids == "track" else named
        if counting:
            self.left_out["boxes in frames between"] += int((~here).sum())
            self.left_out["boxes below the least score"] += int((here & ~sure).sum())
            self.left_out["boxes without a pixel in the picture"] += int((here & sure & ~inside).sum())
            self.left_out["names of a second box in a frame (the box is kept)"] += twice
        rows, names = kept.tolist(), [None, *self.numbers]  # numbers are in their order
        return _Bodies(
            np.arange(0, seen["delivered"], step, dtype=np.int64),
            frame[kept],
            xyxy[kept],
            score[kept],
            [names[max(one, 0)] for one in named.tolist()],
            [status[row] for row in rows],
            track[kept],
            number,
        )

    def count(self, bodies: _Bodies) -> None:
        """Count the bodies of a video."""
        found = {"videos": 1, "frames": len(bodies.frames), "boxes": len(bodies.frame)}
        self.counts.update({**found, "named": sum(name is not None for name in bodies.subject)})

    def size(self, video: VideoState) -> tuple[int, int]:
        """Width and height of its frames."""
        seen = video.facts("detect")
        return seen["width"], seen["height"]


def export_boxes(
    run: str | PathLike[str],
    out: str | PathLike[str],
    form: Form,
    *,
    every: int = 1,
    min_score: float = 0.0,
    val: float = 0.2,
    ids: Ids = "subject",
    dry_run: bool = False,
) -> ExportedBoxes:
    """Write the bodies of a run, with subjects and tracks where it has them, into the new folder `out`.

    form: "mot", "coco", "yolo" (with pictures, to fine-tune a detector) or "fiftyone" (with pictures). Pictures are 8
    bits, by the run's own normalisation. every: take each n-th frame of those that detect used. val: share of videos of
    each domain that yolo validates on. ids: what numbers in mot and coco are. dry_run: count and write nothing.
    Raises ConfigError, DataError (no boxes, a video that is not there) and StoreError.
    """
    place, folder = given_path("out", out), given_path("run", run)
    if form not in FORMS:
        raise ConfigError(f"--as {form}: expected one of {', '.join(FORMS)}")
    if ids not in IDS:
        raise ConfigError(f"--ids {ids}: expected one of {', '.join(IDS)}")
    every = count_of("--every", every, 1)
    _share("--min-score", min_score)
    _share("--val", val, " (without 1)")
    if ids != "subject" and form in _PICTURED:
        raise ConfigError(f"--ids {ids}: only mot and coco have ids of boxes, {form} has none; leave it out")
    if val != 0.2 and form != "yolo":
        raise ConfigError(f"--val {val:g}: only yolo has videos to validate on, {form} has none; leave it out")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError(f"--out {place}: expected a new or empty folder, found something there; name another")
    found = survey(folder)
    if found.of_images:
        raise DataError(f"{folder}: its data set holds images of one person each: there are no boxes to export")
    job = _Export(found, temporary(place.absolute()), every, min_score, val, ids, form in _PICTURED)
    if dry_run:
        _count(job, form)
    else:
        _write(job, place, _WRITERS[form])
    left_out = {reason: count for reason, count in job.left_out.items() if count}
    videos, frames, boxes, named = (job.counts[name] for name in ("videos", "frames", "boxes", "named"))
    return ExportedBoxes(
        *(place, form, videos, frames, boxes, named, len(job.numbers), left_out, dict(job.pictures), dry_run)
    )


def _share(name: str, value: Any, without: str = "") -> None:
    """Raise ConfigError where a value is no number in 0..1; without: says so where it may not be 1."""
    is_number = isinstance(value, Real)
    if not is_number or not 0 <= value <= 1 or (without and value == 1):
        raise ConfigError(f"{name}: expected a number in 0..1{without}, got {one_line(repr(value), 40)}")


def _write(job: _Export, place: Path, write: Callable[[_Export], None]) -> None:
    """Write all into a folder that gets its name at the end."""
    try:
        job.out.mkdir(parents=True)
        write(job)
        job.out.rename(place.absolute())  # an empty folder gives way
    except OSError as error:
        inner = str(error.filename or place).replace(str(job.out), str(place))  # not its name until it is whole
        raise StoreError(f"{inner}: cannot be written: {error.strerror or error}; name a place that can be") from None
    finally:
        shutil.rmtree(job.out, ignore_errors=True)


def _count(job: _Export, form: str) -> None:
    """Count what would be written."""
    splits = _splits(job) if form == "yolo" else {}
    for video in job.videos:
        bodies = job.bodies(video, counting=True)
        job.count(bodies)
        if job.pictured:
            job.pictures[splits.get(video.video_id, "")] += len(bodies.frames)


def _once_a_frame(frame: NDArray[np.int64], number: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The numbers (n,), each once in a frame: of its first body; -1 for the others; and how many others there are."""
    order = np.lexsort((np.arange(len(frame)), number, frame))
    again = (np.diff(frame[order]) == 0) & (np.diff(number[order]) == 0) & (number[order][1:] >= 0)
    found = number.copy()
    found[order[1:][again]] = -1
    return found, int(again.sum())


# -- MOTChallenge


def _mot(job: _Export) -> None:
    for video in job.videos:
        bodies, name = job.bodies(video, counting=True), file_name(video.video_id)
        job.count(bodies)
        folder = job.out / name
        (folder / "gt").mkdir(parents=True)
        x, y, x2, y2 = bodies.xyxy.T
        columns = [(bodies.frame + 1), bodies.number, x, y, x2 - x, y2 - y]
        rows = zip(*(column.tolist() for column in columns), map(str, bodies.score), strict=True)
        with (folder / "gt" / "gt.txt").open("w", encoding="ascii", newline="\n") as file:
            file.writelines(f"{f},{i},{a!r},{b!r},{w!r},{h!r},{s},1,1\n" for f, i, a, b, w, h, s in rows)
        (width, height), fps = job.size(video), video.row["fps"]
        rate = f"frameRate={fps:g}\n" if fps else ""
        (folder / "seqinfo.ini").write_text(
            f"[Sequence]\nname={name}\nimDir=img1\n{rate}seqLength={video.facts('detect')['delivered']}\n"
            f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n",
            encoding="utf-8",
        )
    if job.ids == "track":
        return
    with (job.out / "subjects.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("id", "subject_id"), *((number, name) for name, number in job.numbers.items())]
        )


# -- COCO


def _coco(job: _Export) -> None:
    names = [video.video_id for video in job.videos]
    with (job.out / "instances.json").open("w", encoding="utf-8") as file:
        head = {
            "info": {"description": f"{open_run(job.survey.run.path)[0].name}, exported by mdfpipe"},
            "videos": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
            "categories": [{"id": 1, "name": "person"}],
        }
        file.write(json.dumps(head)[:-1])
        _written(file, "images", _coco_images(job))
        _written(file, "annotations", _coco_annotations(job))
        file.write("}\n")


def _written(file: IO[str], name: str, entries: Iterator[dict[str, Any]]) -> None:
    """A list of entries, one a line."""
    file.write(f', "{name}": [')
    for number, entry in enumerate(entries):
        file.write(("\n" if number == 0 else ",\n") + json.dumps(entry))
    file.write("]")


def _coco_images(job: _Export) -> Iterator[dict[str, Any]]:
    number = 0
    for which, video in enumerate(job.videos, start=1):
        seen, (width, height), name = video.facts("detect"), job.size(video), file_name(video.video_id)
        for frame in range(0, seen["delivered"], seen["stride"] * job.every):
            number += 1
            file = f"{name}/{frame:06d}.jpg"
            yield {
                **{"id": number, "video_id": which, "frame_id": frame, "file_name": file},
                **{"width": width, "height": height},
            }


def _coco_annotations(job: _Export) -> Iterator[dict[str, Any]]:
    image = number = 0
    for video in job.videos:
        bodies = job.bodies(video, counting=True)
        job.count(bodies)
        for _, here in bodies.by_frame():
            image += 1
            for row in range(here.start, here.stop):
                number += 1
                x, y, x2, y2 = bodies.xyxy[row].tolist()
                entry: dict[str, Any] = {"id": number, "image_id": image, "category_id": 1}
                entry |= {"bbox": [x, y, x2 - x, y2 - y], "area": (x2 - x) * (y2 - y), "iscrowd": 0}
                entry["score"] = float(str(bodies.score[row]))
                if bodies.number[row] >= 0:
                    entry["track_id"] = int(bodies.number[row])
                yield entry | {"attributes": _attributes(bodies, row)}


def _attributes(bodies: _Bodies, row: int) -> dict[str, Any]:
    """What else is known of a body."""
    known = {"subject_id": bodies.subject[row], "status": bodies.status[row] or None}
    track = int(bodies.track[row])
    return {name: value for name, value in known.items() if value} | ({"track": track} if track >= 0 else {})


# -- forms with pictures


def _shares(xyxy: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """The boxes clipped to the picture, as shares of its sides, (n, 4)."""
    return np.clip(xyxy / (width, height, width, height), 0, 1)


def _inside(xyxy: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Which boxes have an area in the picture, (n,)."""
    shares = _shares(xyxy, width, height)
    return (shares[:, 2] > shares[:, 0]) & (shares[:, 3] > shares[:, 1])


def _splits(job: _Export) -> dict[str, str]:
    """train or val, by video: of each domain a share in the order of a hash of the names, if it has two at least."""
    found: dict[str, str] = {}
    for domain in sorted({video.domain for video in job.videos}):
        names = [video.video_id for video in job.videos if video.domain == domain]
        names.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        count = max(round(job.val * len(names)), 1) if job.val and len(names) > 1 else 0
        found |= {name: "val" if place < count else "train" for place, name in enumerate(names)}
    return found


def _pictured(job: _Export, video: VideoState, data: Path, normalise: Normalise, folder: Path) -> Iterator[_Pictured]:
    """The bodies of each exported frame of a video, whose picture was put into `folder`."""
    bodies, name = job.bodies(video, counting=True), file_name(video.video_id)
    job.count(bodies)
    shares, spans = _shares(bodies.xyxy, *job.size(video)), dict(bodies.by_frame())
    for frame, pixels in frames_of(data, video, spans):
        rgb = normalise.apply(pixels[None], *(video.window or (0.0, 255.0)))[0]
        stem = f"{name}_{frame:06d}"
        (folder / f"{stem}.jpg").write_bytes(encode(rgb)[0])
        yield _Pictured(stem, frame, bodies, shares, range(spans[frame].start, spans[frame].stop))


@dataclass(frozen=True, eq=False)
class _Pictured:
    """A picture of an export, and the rows of its bodies."""

    stem: str
    frame: int
    bodies: _Bodies
    shares: NDArray[np.float64]
    rows: range


def _yolo(job: _Export) -> None:
    data, normalise, splits = data_root(job.survey.run.path), _normalise(job), _splits(job)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (job.out / kind / split).mkdir(parents=True)
    for video in job.videos:
        split = splits[video.video_id]
        for found in _pictured(job, video, data, normalise, job.out / "images" / split):
            job.pictures[split] += 1
            lines = []
            for x, y, x2, y2 in found.shares[found.rows].tolist():
                lines.append(f"0 {(x + x2) / 2:.7f} {(y + y2) / 2:.7f} {x2 - x:.7f} {y2 - y:.7f}\n")
            (job.out / "labels" / split / f"{found.stem}.txt").write_text("".join(lines), encoding="ascii")
    val = "val" if job.pictures["val"] else "train"
    (job.out / "data.yaml").write_text(
        f"train: images/train\nval: images/{val}\nnames:\n  0: person\n", encoding="ascii"
    )


def _fiftyone(job: _Export) -> None:
    data, normalise = data_root(job.survey.run.path), _normalise(job)
    (job.out / "data").mkdir()
    with (job.out / "labels.json").open("w", encoding="utf-8") as file:
        file.write('{"labels": {')
        first = True
        for video in job.videos:
            for found in _pictured(job, video, data, normalise, job.out / "data"):
                job.pictures[""] += 1
                entries = [_detection(video, found, row) for row in found.rows]
                file.write(f"{'' if first else ','}\n{json.dumps(found.stem)}: {json.dumps(entries)}")
                first = False
        file.write("}}\n")


def _detection(video: VideoState, found: _Pictured, row: int) -> dict[str, Any]:
    """A body as FiftyOne reads it: its box as shares of the picture's sides."""
    x, y, x2, y2 = found.shares[row].tolist()
    about = {"video_id": video.video_id, "frame": found.frame, **_attributes(found.bodies, row)}
    score = float(str(found.bodies.score[row]))
    return {"label": "person", "bounding_box": [x, y, x2 - x, y2 - y], "confidence": score, "attributes": about}


def _normalise(job: _Export) -> Normalise:
    """How the run makes 8 bits of more."""
    detect = open_run(job.survey.run.path)[0].detect
    assert detect is not None
    return detect.normalise


_WRITERS: Final[dict[str, Callable[[_Export], None]]] = {
    **{"mot": _mot, "coco": _coco},
    **{"yolo": _yolo, "fiftyone": _fiftyone},
}
