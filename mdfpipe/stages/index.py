"""index: the data set on disk -> videos, faces, images, subjects. Nothing is decoded; every file is hashed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import SerializeAsAny

from mdfpipe.config import result_settings
from mdfpipe.datasets import Anomaly, Dataset, Listing, VideoEntry
from mdfpipe.datasets.reading.found_faces import DETECTED
from mdfpipe.domains import Domain, named_in
from mdfpipe.errors import Damaged, DataError, StoreError, counted, one_line
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.hashing import KeptHashes, ToHash, content_of, content_of_files, not_known
from mdfpipe.store import left_out
from mdfpipe.store.content import stand_in
from mdfpipe.store.films import films_behind
from mdfpipe.store.frames import check_links
from mdfpipe.store.hashing import file_sha256, stamp, stamp_of_files
from mdfpipe.store.naming import Bounds, link_target, nearest
from mdfpipe.store.run import Receipt, Run, faces_file, images_file, write_table
from mdfpipe.store.tables import ANOMALIES, CORNERS, FACE_SOURCES, NOT_AS_PUBLISHED, SUBJECTS, VIDEOS, boxes_of
from mdfpipe.store.urls import is_url
from mdfpipe.store.video_cache import VideoCache, called
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.decoders.auto import Auto
from mdfpipe.video.orientation import swaps_sides
from mdfpipe.video.placement import Placement, place

_MEASURED = (
    *("n_frames", "fps", "width", "height", "bit_depth", "orientation", "pixel_aspect", "stream", "other_streams"),
    "films_behind",
    *("bytes", "sha256", "problem"),
)
_SAME_MEASURES = 3  # the first version that measured files as this one does
_DEEPEST = 4  # folders below one of images whose files its stamp knows
_IO_THREADS = 4  # reading and hashing wait for the disk, not for a core


class Index(Stage):
    """Which videos there are, in which domain, who is in them and where the faces are."""

    name: ClassVar[str] = "index"
    version: ClassVar[int] = 4
    reads: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = VIDEOS
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "videos"
    table: ClassVar[str] = "videos"
    tells: ClassVar[tuple[str, ...]] = ("frame_base",)
    subjects_file: ClassVar[str] = "index/subjects.parquet"
    sources_file: ClassVar[str] = "index/face_sources.parquet"
    anomalies_file: ClassVar[str] = "index/anomalies.parquet"

    dataset: SerializeAsAny[Dataset]
    decoder: SerializeAsAny[Decoder] = Auto()

    def decisive(self) -> dict[str, Any]:
        """The data set, and those settings of the decoder that decide which pictures of a file are taken, and how."""
        return {"dataset": result_settings(self.dataset), "decoder": self._taken}

    @property
    def _taken(self) -> dict[str, Any]:
        return self.decoder.model_dump(mode="json", include={"orientation", "stream"})

    def identity(self, data: Path, key: str, known: Receipt | None = None) -> dict[str, str]:
        """Size and modification time of every annotation file and video.

        known: the receipt of the last index. Where the annotation files are as it has them, they are not read
        again: they name the videos that they named then (10 million rows take seconds to read).
        """
        sources: dict[str, str] = {}
        if known is not None and known.settings == self.decisive():
            sources = self._stamps(_named(self.dataset.tables(data), data), data)
            if sources.items() <= known.upstream.items():
                return self._stamps({*known.upstream, *_named(self.dataset.present(data), data)}, data, known)
        return self._stamps(_named(self.dataset.sources(data), data), data, known)

    def _stamps(self, names: Iterable[str], data: Path, known: Receipt | None = None) -> dict[str, str]:
        depth, before = _DEEPEST if self.dataset.holds_images else 0, known.upstream if known else {}
        return {
            name: _stamp_of_url(name, before) if is_url(name) else stamp(f"{data}/{name}", depth) or "missing"
            for name in names
        }

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Read the annotation; probe and hash the videos, or images, that are new or have changed."""
        listing = self.dataset.read(context.data)
        known, hashes = self._known(inputs), KeptHashes(inputs.run)
        kept = hashes.all()
        total = len(listing.videos)
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_IO_THREADS) as pool:
            waiting = [
                pool.submit(_describe, entry, context.data, known, listing.images.get(entry.video_id), self, kept)
                for entry in listing.videos
            ]
            for future in waiting:
                while not wait([future], timeout=1.0).done:  # hashing a large file may outlast the deadline
                    context.progress(len(rows), total)
                rows.append(future.result())
                context.progress(len(rows), total)
        unreadable = [row["video_id"] for row in rows if row["problem"]]
        remarks = [*listing.remarks, *self._place_faces(rows, listing)]
        facts = {
            "videos": total,
            "frame_base": getattr(self.dataset, "frame_base", 0),
            "faces": sum(table.num_rows for table in listing.faces.values()),
            "subjects": len(listing.galleries),
            "domains": dict(sorted(Counter(row["domain"] for row in rows).items())),
            "anomalies": {a.kind: a.count for a in listing.anomalies},
            "left_out": [vars(one) for one in listing.left_out],
            "left_out_rows": listing.left_out_rows,
            "unusual": list(_unusual(rows, self.decoder.stream)),
            "unreadable": unreadable,
            "remarks": remarks,
        }
        if listing.detected:
            facts["detected_faces"] = sum(listing.detected.values())
            of_video = [
                set(listing.faces[video]["subject_id"].unique().to_pylist()) - {None} for video in listing.detected
            ]
            count = Counter(who for people in of_video for who in people)
            if sum(map(bool, of_video)) > 1 and set(count.values()) == {1}:
                facts["ids_apart"] = len(count)
        if self.dataset.holds_images:
            facts["images"] = sum(table.num_rows for table in listing.images.values())
        if self.dataset.holds_images or listing.differs:
            facts["not_as_published"] = listing.differs
        tables = self._write_tables(listing, context.scratch)
        return Made(pa.Table.from_pylist(rows, VIDEOS), facts, tables, spent=hashes.spent())

    def to_hash(self, run: Run, data: Path, stamps: Mapping[str, str]) -> list[ToHash]:
        """The videos of the data root that are new or have changed, and whose content is not known yet.

        stamps: of annotation files and videos, as `identity` gives them. None of a data set of images.
        """
        if self.dataset.holds_images:
            return []
        tables = set(_named(self.dataset.tables(data), data))
        bounds = Bounds(data, "videos", self.dataset.links)
        try:
            known = self._known(Inputs(run))
        except StoreError:  # the index cannot be read, either, and reports that
            return []
        videos = {name: now for name, now in stamps.items() if name not in tables and not is_url(name)}
        return [video for video in not_known(videos, known, KeptHashes(run).all()) if _stays_in(bounds, video.path)]

    def _place_faces(self, rows: list[dict[str, Any]], listing: Listing) -> list[str]:
        """Compare the faces of each video with its picture: count odd ones; wrong ones become its problem.

        Returns further remarks. Raises DataError if the faces of most videos are wrong.
        """
        checks, sized = getattr(self.dataset, "check_boxes", True), getattr(self.dataset, "box", "") == "xywh"
        wrong, doubts, judged = dict[str, str](), dict[str, str](), 0
        odd: dict[FaceAnomaly, Anomaly] = {}
        for row in rows:
            faces = listing.faces.get(row["video_id"])
            if faces is None or not row["width"] or not row["height"]:
                continue
            judged += 1
            found = place(boxes_of(faces), row["width"], row["height"], sized=sized)
            for kind, count, example in _odd_faces(found, faces, row):
                before = odd.get(kind, Anomaly(kind.value, 0, example))
                odd[kind] = replace(before, count=before.count + count)
            if found.wrong and checks:
                wrong[row["video_id"]] = row["problem"] = (
                    f"faces: {found.wrong}; correct the table, or take them as they are with dataset.check_boxes=false"
                )
            elif found.wrong or found.doubt:
                doubts[row["video_id"]] = f"faces of {row['video_id']}: {found.wrong or found.doubt}"
        listing.anomalies.extend(odd[kind] for kind in sorted(odd))
        if 2 * len(wrong) > judged:
            first, why = next(iter(wrong.items()))
            more = f" and {len(wrong) - 1} of {judged} videos more" if len(wrong) > 1 else ""
            raise DataError(f"{first}{more}: {why}")
        rest = [f"so are faces of {len(doubts) - 3} other videos"] * (len(doubts) > 3)
        return [*list(doubts.values())[:3], *rest]

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Report unusual annotation rows and files, differences from the published set, and what was left out."""
        warnings, notes = [], []
        for found in facts.values():
            notes += [f"index: {line}" for line in left_out.of_index(found)]
            lines = [*left_out.of_nothing(found), *found["remarks"], *found["unusual"]]
            warnings += [f"index: {line}" for line in lines]
            if detected := found.get("detected_faces"):
                notes.append(
                    f"index: source: {DETECTED}: a face detector found {detected} of "
                    f"{counted(found['faces'], 'face')}, which are not annotated; every number "
                    "that rests on them is marked"
                )
            if apart := found.get("ids_apart"):
                warnings.append(
                    f"index: none of the {apart} ids of found faces is in two videos, so that one person in two videos "
                    "is two subjects; make them one with `mdfpipe faces --merge`"
                )
            kinds = ", ".join(f"{count} {kind}" for kind, count in found["anomalies"].items())
            if differs := found.get("not_as_published"):
                warnings.append(f"index: not as published: {'; '.join(differs)}")
            if "images" in found:
                warnings += [f"index: unusual files: {kinds} (`mdfpipe inspect RUN` shows one of each)"] * bool(kinds)
            elif kinds:
                who = "; if somebody is called NA, None or the like: dataset.subject_names_kept"
                who = who if "missing_subject" in kinds else ""
                pictures = "; rows that name pictures want dataset.frames_in=folder" if "still_image" in kinds else ""
                warnings.append(
                    f"index: unusual annotation rows: {kinds} (`mdfpipe inspect RUN` shows one of each){pictures}{who}"
                )
        return Review(warnings=warnings, notes=notes)

    def _known(self, inputs: Inputs) -> dict[str, dict[str, Any]]:
        """What the last index said, by the path of each video; of images by unit, of which several share a folder."""
        receipt = inputs.run.receipt("index", Index.table)
        if receipt is None or receipt.version < _SAME_MEASURES or receipt.settings.get("decoder") != self._taken:
            return {}
        name = "video_id" if self.dataset.holds_images else "path"
        try:
            return {row[name]: row for row in inputs.table("index", Index.table).to_pylist()}
        except Damaged:  # that is why it is made again
            return {}

    def _write_tables(self, listing: Listing, scratch: Callable[[str], Path]) -> dict[str, Path]:
        galleries = [(s, g) for s, names in sorted(listing.galleries.items()) for g in names]
        subjects = [{"subject_id": subject, "gallery": gallery} for subject, gallery in galleries]
        anomalies = [vars(anomaly) for anomaly in listing.anomalies]
        anomalies += [{"kind": NOT_AS_PUBLISHED, "count": 1, "example": line} for line in listing.differs]
        tables = {faces_file(video_id): faces for video_id, faces in listing.faces.items()}
        tables |= {images_file(video_id): images for video_id, images in listing.images.items()}
        if listing.detected:
            sources = [{"video_id": v, "source": DETECTED, "faces": n} for v, n in listing.detected.items()]
            tables[self.sources_file] = pa.Table.from_pylist(sources, FACE_SOURCES)
        tables[self.subjects_file] = pa.Table.from_pylist(subjects, SUBJECTS)
        tables[self.anomalies_file] = pa.Table.from_pylist(anomalies, ANOMALIES)
        files = {}
        for name, table in tables.items():
            files[name] = scratch(name)
            write_table(files[name], table)
        return files


def _unusual(rows: list[dict[str, Any]], asked: int | None) -> Iterator[str]:
    """Lines on videos whose path names another domain, whose stream was chosen without a setting, that hold two films,
    or whose pixels are not square.

    asked: the stream that the settings name.
    """
    if elsewhere := [row for row in rows if _is_called_otherwise(row)]:
        row = elsewhere[0]
        yield (
            f"{len(elsewhere)} of {counted(len(rows), 'video')}: the path names another domain than the one that it "
            f"gets ({row['path']} counts as {row['domain']}); dataset.domain decides"
        )
    if several := [row for row in rows if row["other_streams"] and asked is None]:
        row = several[0]
        yield (
            f"{counted(len(several), 'video holds', 'videos hold')} several video streams: the default one, or else "
            "the largest, is taken "
            f"({row['video_id']}: stream {row['stream']}, not {row['other_streams']}); detect.decoder.stream chooses"
        )
    if joined := [row for row in rows if row["films_behind"]]:
        row = joined[0]
        yield (
            f"{counted(len(joined), 'file holds', 'files hold')} another film behind the first, as `cat` puts it "
            "there, which no decoder reads "
            f"({row['video_id']}: {row['films_behind']}); name the files by themselves, or join them with a tool that "
            "knows the container: ffmpeg -f concat"
        )
    if oblong := [row for row in rows if row["pixel_aspect"] and not 0.99 < row["pixel_aspect"] < 1.01]:
        row = oblong[0]
        yield (
            f"{counted(len(oblong), 'video has', 'videos have')} pixels that are not square ({row['video_id']}: "
            f"{row['pixel_aspect']:.3g} times "
            "as wide as high); players stretch them, boxes and crops are of the pixels as they are"
        )


def _is_called_otherwise(row: dict[str, Any]) -> bool:
    """Whether the path of a video names domains, and none of them can be its own."""
    called = named_in(row["path"])
    return bool(called) and not any(Domain.parse(row["domain"]).may_be(one) for one in called)


class FaceAnomaly(StrEnum):
    """How a face can lie oddly in its picture. A closed set; the comment says what becomes of it."""

    OUTSIDE_THE_PICTURE = "outside_the_picture"  # no pixel of the box is inside the picture: kept
    BEYOND_THE_EDGE = "beyond_the_edge"  # the box reaches out of the picture by more than 2 px: kept
    BELOW_TWO_PIXELS = "below_two_pixels"  # a side of the box is shorter than 2 px: kept


def _odd_faces(found: Placement, faces: pa.Table, row: dict[str, Any]) -> Iterator[tuple[FaceAnomaly, int, str]]:
    """How many faces of a video lie oddly in its picture, by kind, with the first."""
    kinds = {
        FaceAnomaly.OUTSIDE_THE_PICTURE: found.outside,
        FaceAnomaly.BEYOND_THE_EDGE: found.beyond,
        FaceAnomaly.BELOW_TWO_PIXELS: found.tiny & ~found.outside,
    }
    for kind, mask in kinds.items():
        if mask.any():
            face = faces.slice(int(np.argmax(mask)), 1).to_pylist()[0]
            box = " ".join(f"{face[side]:g}" for side in CORNERS)
            example = (
                f"{row['video_id']} frame {face['frame']} subject {face['subject_id'] or 'unnamed'} box {box} of a "
                f"picture of {row['width']}x{row['height']}"
            )
            yield kind, int(mask.sum()), one_line(example)


def _describe(
    entry: VideoEntry,
    data: Path,
    known: dict[str, dict[str, Any]],
    images: pa.Table | None,
    stage: Index,
    kept: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """The row of one video, or of one unit of images.

    What was found out about an unchanged file is kept, unless it is a problem. kept: stamp and sha256 by path.
    """
    path, old = data / entry.path, known.get(entry.path if images is None else entry.video_id)
    names = images["path"].to_pylist() if images is not None else []
    remote = is_url(entry.path)
    now = None if remote else stamp(path) if images is None else stamp_of_files(names, data)
    row: dict[str, Any] = {
        "video_id": entry.video_id,
        "path": entry.path,
        "real_path": None,
        "domain": str(entry.domain),
        "band": entry.domain.band.value,
        "range_m": entry.domain.range_m,
        "session_id": entry.session_id,
        "camera_id": entry.camera_id,
        "subject_id": entry.subject_id,
        "stamp": now,
    }
    measured = dict.fromkeys(_MEASURED)
    if remote:
        with _problem_of(entry.path, measured):
            _describe_remote(entry.path, row, measured, old, stage)
        return row | measured
    with _problem_of(path, measured):
        row["real_path"] = link_target(data, entry.path)
        if images is None:  # where links of frames may lead is a setting: the stamp does not tell
            check_links(path, data, stage.dataset.links)
        if old is not None and now is not None and old["stamp"] == now and old["problem"] is None:
            measured |= {name: old[name] for name in _MEASURED}
        elif images is not None:
            _measure_images(names, data, measured)
        else:
            _check_there(data, entry.path)
            hashed = kept.get(entry.path, (None, None))
            _measure(path, stage, measured, hashed[1] if hashed[0] == now else None)
    return row | measured


def _named(paths: Iterable[Path], data: Path) -> list[str]:
    """Paths below the data root, as POSIX paths relative to it."""
    start = f"{data.as_posix()}/"  # 100,000 times `relative_to` takes a second
    texts = ((path.as_posix(), path) for path in paths)
    return [t.removeprefix(start) if t.startswith(start) else p.relative_to(data).as_posix() for t, p in texts]


def _stamp_of_url(name: str, before: Mapping[str, str]) -> str:
    """The stamp of a remote video without a request: one that was found to differ from the indexed one, else the old.

    name: the URL, as a path below the data root shows it.
    """
    return VideoCache().changed(name) or before.get(name, "remote")


def _describe_remote(
    url: str, row: dict[str, Any], measured: dict[str, Any], old: dict[str, Any] | None, stage: Index
) -> None:
    """Stamp, size, content and header of a remote video, into `row` and `measured`. Raises DataError."""
    cache = VideoCache()
    row["stamp"] = cache.stamp(url)
    if old is not None and old["stamp"] == row["stamp"] and old["problem"] is None and not cache.changed(url):
        measured |= {name: old[name] for name in _MEASURED}
        return
    with cache.at(url, row["stamp"]) as place, called(place, url):
        _measure(place, stage, measured)


@contextmanager
def _problem_of(path: Path | str, found: dict[str, Any]) -> Iterator[None]:
    """Any error inside is this one file's `problem`; the other videos continue."""
    try:
        yield
    except StoreError:  # of the video cache's disk, which is the next video's, too
        raise
    except DataError as error:
        found["problem"] = one_line(error)
    except MemoryError:
        found["problem"] = one_line(f"{path}: out of memory")
    except OSError as error:
        found["problem"] = one_line(f"{error.filename or path}: cannot be read: {error.strerror or error}")
    except Exception as error:  # a library's own, which nobody foresaw
        found["problem"] = one_line(f"{path}: cannot be read: unexpected error: {type(error).__name__}: {error}")


def _check_there(data: Path, name: str) -> None:
    """Raise DataError where there is no video."""
    path = data / name
    if not path.exists():
        instead = stand_in(path)
        why = f"expected a video, got {instead}" if instead else f"no such file{nearest(data, name)}"
        raise DataError(f"{path}: {why}")
    if not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
        raise DataError(f"{path.name}: expected a file or a folder of frames, found a pipe, socket or device")


def _stays_in(bounds: Bounds, path: str) -> bool:
    """Whether a path leads nowhere out of the data root, where that is not allowed: then nothing of it is read."""
    try:
        bounds.check(path)
    except DataError:
        return False
    return True


def _measure(path: Path, stage: Index, found: dict[str, Any], sha256: str | None = None) -> None:
    """Size, content and header of a video, into `found`. sha256: its content, where that is known."""
    from mdfpipe.video.probe import probe

    files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
    found["bytes"] = sum(f.stat().st_size for f in files)
    found["sha256"] = sha256 or content_of(path, file_sha256)
    info = probe(path, stage.decoder.stream)
    width, height = info.size(stage.decoder.orientation, path)
    turn = info.turn(stage.decoder.orientation, path)
    found |= {
        "n_frames": info.frames_declared,
        "fps": info.fps,
        "width": width,
        "height": height,
        "bit_depth": info.bit_depth,
        "orientation": info.orientation,
        "pixel_aspect": 1 / info.pixel_aspect if swaps_sides(turn) else info.pixel_aspect,
        "stream": info.stream,
        "other_streams": "; ".join(info.others) or None,
        "films_behind": films_behind(path, info.container),
    }


def _measure_images(names: list[str], data: Path, found: dict[str, Any]) -> None:
    """Content and size of the images of a unit, into `found`; how large each is, crop finds out."""
    found |= {"n_frames": len(names), "sha256": content_of_files(((n, data / n) for n in names), file_sha256)}
    found["bytes"] = sum((data / name).stat().st_size for name in names)
