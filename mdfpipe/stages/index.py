"""index: the data set on disk -> videos, faces, subjects. Nothing is decoded; every video is hashed once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import SerializeAsAny

from mdfpipe.config import result_settings
from mdfpipe.datasets import Dataset, Listing, VideoEntry
from mdfpipe.errors import DataError, one_line
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.store.hashing import file_sha256
from mdfpipe.store.run import Receipt, faces_file, fingerprint, write_table
from mdfpipe.store.tables import ANOMALIES, SUBJECTS, VIDEOS

_IO_THREADS = 4  # reading and hashing wait for the disk, not for a core


class Index(Stage):
    """Which videos there are, in which domain, who is in them and where the faces are."""

    name: ClassVar[str] = "index"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = VIDEOS
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "videos"
    table: ClassVar[str] = "videos"
    subjects_file: ClassVar[str] = "index/subjects.parquet"
    anomalies_file: ClassVar[str] = "index/anomalies.parquet"

    dataset: SerializeAsAny[Dataset]

    def identity(self, data: Path, key: str, known: Receipt | None = None) -> dict[str, str]:
        """Size and modification time of every annotation file and video.

        known: the receipt of the last index. Where the annotation files are as it has them, they are not read
        again: they name the videos that they named then (10 million rows take seconds to read).
        """
        sources: dict[str, str] = {}
        if known is not None and known.settings == result_settings(self):
            sources = {self._name(path, data): stamp(path) or "missing" for path in self.dataset.tables(data)}
            if sources.items() <= known.upstream.items():
                named = {data / name for name in known.upstream} | set(self.dataset.present(data))
                return {self._name(path, data): stamp(path) or "missing" for path in sorted(named)}
        return {self._name(path, data): stamp(path) or "missing" for path in self.dataset.sources(data)}

    @staticmethod
    def _name(path: Path, data: Path) -> str:
        return path.relative_to(data).as_posix()

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Read the annotation; probe and hash the videos that are new or have changed."""
        listing = self.dataset.read(context.data)
        known = self._known(inputs)
        total = len(listing.videos)
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(_IO_THREADS) as pool:
            waiting = [pool.submit(_describe, entry, context.data, known) for entry in listing.videos]
            for future in waiting:
                while not wait([future], timeout=1.0).done:  # hashing a large file may outlast the deadline
                    context.progress(len(rows), total)
                rows.append(future.result())
                context.progress(len(rows), total)
        videos = pa.Table.from_pylist(rows, VIDEOS)
        files = self._write_tables(listing, context.scratch)
        faces = {video_id: table.num_rows for video_id, table in listing.faces.items()}
        facts = {
            "videos": total,
            "frame_base": getattr(self.dataset, "frame_base", 0),
            "faces": sum(faces.values()),
            "subjects": len(listing.galleries),
            "domains": _count(row["domain"] for row in rows),
            "anomalies": {a.kind: a.count for a in listing.anomalies},
            "unreadable": [row["video_id"] for row in rows if row["problem"]],
        }
        return Made(videos, facts, files)

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say which annotation rows were unusual: most of these kinds are left out."""
        warnings = []
        for found in facts.values():
            kinds = ", ".join(f"{count} {kind}" for kind, count in found["anomalies"].items())
            if kinds:
                pictures = "; rows that name pictures want dataset.frames_in=folder" if "still_image" in kinds else ""
                warnings.append(
                    f"index: unusual annotation rows: {kinds} (`mdfpipe inspect RUN` shows one of each){pictures}"
                )
        return Review(warnings=warnings)

    @staticmethod
    def _known(inputs: Inputs) -> dict[str, dict[str, Any]]:
        receipt = inputs.run.receipt("index", Index.table)
        if receipt is None or receipt.version != Index.version:
            return {}
        return {row["path"]: row for row in inputs.table("index", Index.table).to_pylist()}

    def _write_tables(self, listing: Listing, scratch: Callable[[str], Path]) -> dict[str, Path]:
        galleries = [(s, g) for s, names in sorted(listing.galleries.items()) for g in names]
        subjects = [{"subject_id": subject, "gallery": gallery} for subject, gallery in galleries]
        anomalies = [vars(anomaly) for anomaly in listing.anomalies]
        tables = {faces_file(video_id): faces for video_id, faces in listing.faces.items()}
        tables[self.subjects_file] = pa.Table.from_pylist(subjects, SUBJECTS)
        tables[self.anomalies_file] = pa.Table.from_pylist(anomalies, ANOMALIES)
        files = {name: scratch(name) for name in tables}
        for name, table in tables.items():
            write_table(files[name], table)
        return files


def stamp(path: Path) -> str | None:
    """Size and modification time of a file, or of each file of a folder by name; None where there is nothing.

    A video is unchanged while this is, so that nobody has to read it again to know.
    """
    try:
        if not path.is_dir():
            found = path.stat()
            return f"{found.st_size}:{found.st_mtime_ns}"
        with os.scandir(path) as entries:
            files = sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.is_file())
    except OSError:
        return None
    return f"{len(files)}:{sum(size for _, size, _ in files)}:{fingerprint(files)}"


def _describe(entry: VideoEntry, data: Path, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The row of one video; what was found out about an unchanged file is kept, unless it is a problem."""
    path, now, old = data / entry.path, stamp(data / entry.path), known.get(entry.path)
    row: dict[str, Any] = {
        "video_id": entry.video_id,
        "path": entry.path,
        "domain": str(entry.domain),
        "band": entry.domain.band.value,
        "range_m": entry.domain.range_m,
        "session_id": entry.session_id,
        "camera_id": entry.camera_id,
        "stamp": now,
    }
    measured = ("n_frames", "fps", "width", "height", "bit_depth", "bytes", "sha256", "problem")
    if old is not None and now is not None and old["stamp"] == now and old["problem"] is None:
        return row | {name: old[name] for name in measured}
    return row | dict.fromkeys(measured) | _measure(path)


def _measure(path: Path) -> dict[str, Any]:
    from mdfpipe.video.probe import probe

    found: dict[str, Any] = {}
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # reading a pipe would wait for ever
            return {"problem": f"{path.name}: expected a file or a folder of frames, found a pipe, socket or device"}
        files = sorted(f for f in path.iterdir() if f.is_file()) if path.is_dir() else [path]
        size = sum(f.stat().st_size for f in files)
        found = {"sha256": file_sha256(path) if files == [path] else _folder_sha256(files), "bytes": size}
        info = probe(path)
    except DataError as error:
        return found | {"problem": one_line(error)}
    except OSError as error:
        return found | {"problem": one_line(f"{path}: cannot be read: {error.strerror}")}
    return found | {
        "n_frames": info.frames_declared,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "bit_depth": info.bit_depth,
    }


def _folder_sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{file_sha256(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _count(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return dict(sorted(counts.items()))
