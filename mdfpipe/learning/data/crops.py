"""Crops: rows of one or more manifests as a struct of arrays, small enough for millions of them.

What a sampler draws from and a loader reads. Rows are in the order of their crop_id, for any order of the table,
so that a seed draws the same crops from the same manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.domains import Band
from mdfpipe.errors import DataError, one_line
from mdfpipe.store.images import EIGHT_BITS, SIXTEEN_BITS
from mdfpipe.store.naming import IMAGE_SUFFIXES, natural_key, safe_relative
from mdfpipe.store.shards import CHECKSUM

I64 = NDArray[np.int64]
UNKNOWN = -1  # in the place of a checksum: of a plain folder, or of a table of an earlier version
OWN = 0  # the source of crops of the study's own run folder


@dataclass(frozen=True, eq=False)
class Crops:
    """n crops, and what their columns point into.

    crop_id: (n,) strings; subject, domain, video, shard: (n,) int64 into subjects, domains, videos, shards (absolute
    paths); offset, size: (n,) int64 bytes in the shard; crc32: (n,) int64, of these bytes, or UNKNOWN; source: (n,)
    int64, 0 = the study's own manifest, 1.. = further ones; window: (n, 2) float32, the values of black and
    white. subjects are sorted. camera: of a video, where the data set names it.
    """

    crop_id: pa.StringArray
    subject: I64
    domain: I64
    video: I64
    shard: I64
    offset: I64
    size: I64
    crc32: I64
    source: I64
    window: NDArray[np.float32]
    subjects: tuple[str, ...]
    domains: tuple[str, ...]
    videos: tuple[str, ...]
    shards: tuple[Path, ...]
    camera: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.crop_id)
        for name in ("subject", "domain", "video", "shard", "offset", "size", "crc32", "source"):
            column = getattr(self, name)
            if column.shape != (n,) or column.dtype != np.int64:
                raise DataError(f"crops: {name}: expected ({n},) int64, got {column.shape} {column.dtype}")
            end = len(getattr(self, f"{name}s")) if name in _POINTERS else None
            least = UNKNOWN if name == "crc32" else 0
            if n and (column.min() < least or (end is not None and column.max() >= end)):
                raise DataError(f"crops: {name}: expected {least}..{end or 'n'}, got {column.min()}..{column.max()}")
        if self.window.shape != (n, 2):
            raise DataError(f"crops: window: expected ({n}, 2), got {self.window.shape}")
        if list(self.subjects) != sorted(set(self.subjects)):
            raise DataError("crops: expected subjects sorted, each once")

    def __len__(self) -> int:
        return len(self.crop_id)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, f'{name}s'))} {name}s" for name in _POINTERS)
        return f"Crops({len(self)} rows; {counts}; sources {sorted(set(self.source.tolist()))})"

    @property
    def cameras(self) -> list[str]:
        """The cameras of these rows, sorted; those with numbers by their number, as TransReID counts them."""
        found = {self.camera[self.videos[v]] for v in np.unique(self.video) if self.videos[v] in self.camera}
        return sorted(found, key=natural_key)

    @cached_property
    def camera_of_video(self) -> I64:
        """(videos,) int64 `camera_code` of the camera of each video."""
        return np.array([camera_code(self.camera.get(video)) for video in self.videos], np.int64)

    def take(self, rows: NDArray[Any]) -> Crops:
        """These rows (positions, or n booleans), in this order; subjects, domains, videos and shards stay."""
        at = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return replace(self, crop_id=self.crop_id.take(pa.array(at)), **{n: getattr(self, n)[at] for n in _COLUMNS})

    def compact(self) -> Crops:
        """The same rows, without subjects, domains, videos and shards that no row has; the others keep their order."""
        changed: dict[str, Any] = {}
        for name in _POINTERS:
            used, column = np.unique(getattr(self, name), return_inverse=True)
            values = getattr(self, f"{name}s")
            changed |= {name: column.reshape(-1).astype(np.int64), f"{name}s": tuple(values[u] for u in used.tolist())}
        return replace(self, **changed)

    def rows(self) -> pa.Table:
        """crop_id, subject_id, domain, video_id as a table."""
        named = {"subject_id": "subject", "domain": "domain", "video_id": "video"}
        columns = {
            name: pa.array(getattr(self, f"{own}s"), pa.string()).take(pa.array(getattr(self, own)))
            for name, own in named.items()
        }
        return pa.table({"crop_id": self.crop_id, **columns})

    def fingerprint(self) -> str:
        """A hash of what the rows say: ids, subjects, domains, where in which shard, windows. Neither folders enter nor
        cameras, which few networks use.
        """
        bare = self.compact()
        digest = hashlib.sha256()
        names = (bare.subjects, bare.domains, bare.videos, tuple(path.name for path in bare.shards))
        for values in (bare.crop_id.to_pylist(), *names):
            digest.update(f"{len(values)}\n".encode() + "\n".join(values).encode())
        for name in _COLUMNS:
            digest.update(np.ascontiguousarray(getattr(bare, name)).tobytes())
        return digest.hexdigest()


def camera_code(camera: str | None) -> int:
    """A number of 63 bits for the name of a camera, the same everywhere; -1 for none."""
    if camera is None:
        return UNKNOWN
    return int.from_bytes(hashlib.blake2b(camera.encode(), digest_size=8).digest()) >> 1


_POINTERS = ("subject", "domain", "video", "shard")
_COLUMNS = (*_POINTERS, "offset", "size", "crc32", "source", "window")


# -- where crops come from


def from_manifest(
    table: pa.Table,
    folder: Path,
    *,
    modality: str,
    splits: Sequence[str] | None = ("train",),
    domains: Sequence[str] | None = None,
    windows: Mapping[str, tuple[float, float]] | None = None,
    source: int = 0,
    prefix: str = "",
) -> Crops:
    """The rows of a MANIFEST table below `folder` that pass the filters; `prefix` is put before their subjects.

    splits, domains: None = all; domains are kept in the order that is given, else sorted. windows: video_id -> the
    values of black and white in its crops above 8 bits. Raises DataError where nothing is left, a domain is
    missing, a crop is listed twice, or a shard is outside of `folder`.
    """
    filters: list[tuple[str, Sequence[str]]] = [("modality", [modality])]
    filters += [("split", splits)] if splits is not None else []
    filters += [("domain", domains)] if domains is not None else []
    rows = table
    for name, wanted in filters:
        column = rows[name].cast(pa.string())
        kept = rows.filter(pc.is_in(column, pa.array(wanted, pa.string())))
        missing = sorted(set(wanted) - set(column.unique().to_pylist())) if name == "domain" else []
        if not kept.num_rows or missing:
            raise DataError(
                f"{folder}: manifest: expected crops with {name} {', '.join(missing or wanted)}, found none among "
                f"{rows.num_rows} rows{_chosen_by(filters, name)}, which have {_tally(column)}"
            )
        rows = kept
    found = _from_rows(rows, rows["domain"], folder, domains, windows or {}, source, prefix)
    pairs = rows.group_by(["video_id", "camera_id"]).aggregate([]) if "camera_id" in rows.column_names else None
    named = zip(*(pairs[name].to_pylist() for name in ("video_id", "camera_id")), strict=True) if pairs else ()
    return replace(found, camera={video: camera for video, camera in named if camera is not None})


def from_crops(
    table: pa.Table,
    folder: Path,
    domain: str,
    *,
    windows: Mapping[str, tuple[float, float]] | None = None,
    camera: Mapping[str, str] | None = None,
) -> Crops:
    """The rows of a CROPS table (of one video, say) below `folder`, all of one domain. Raises DataError."""
    found = _from_rows(table, pa.repeat(domain, table.num_rows), folder, [domain], windows or {}, 0, "")
    return replace(found, camera=camera or {})


def from_folder(folder: Path, *, source: int, prefix: str = "") -> Crops:
    """The images of a folder of SUBJECT/IMAGE files, as if each were a shard. Raises DataError where there are none."""
    images = images_of(folder)
    if not images:
        raise DataError(f"{folder}: expected a run folder with a manifest, or SUBJECT/IMAGE files, found neither")
    below = [path.relative_to(folder) for path in images]
    subjects, subject = _codes(pa.array([path.parts[0] for path in below], pa.string()))
    n = len(images)
    deep = [path.suffix.lower() in (".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm") for path in images]
    return Crops(
        crop_id=pa.array([prefix + path.as_posix() for path in below], pa.string()),
        subject=subject,
        domain=np.zeros(n, np.int64),
        video=subject,
        shard=np.arange(n),
        offset=np.zeros(n, np.int64),
        size=np.array([path.stat().st_size for path in images], np.int64),
        crc32=np.full(n, UNKNOWN, np.int64),
        source=np.full(n, source, np.int64),
        window=np.where(np.array(deep)[:, None], SIXTEEN_BITS, EIGHT_BITS).astype(np.float32),
        subjects=tuple(prefix + name for name in subjects),
        domains=(Band.VIS.value,),
        videos=tuple(prefix + name for name in subjects),
        shards=tuple(path.absolute() for path in images),
    )


def images_of(folder: Path) -> list[Path]:
    """The SUBJECT/IMAGE files of a folder, sorted; hidden ones are left out."""
    found = (p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted((p for p in found if not (p.name.startswith(".") or p.parent.name.startswith("."))), key=str)


def join(parts: Sequence[Crops]) -> Crops:
    """The rows of all parts, in their order. Domains keep the order of the first part, new ones follow."""
    if not parts:
        raise DataError("crops: nothing to join")
    changed: dict[str, Any] = {}
    for name in _POINTERS:
        values = list(dict.fromkeys(value for part in parts for value in getattr(part, f"{name}s")))
        if name == "subject":
            values.sort()
        place = {value: number for number, value in enumerate(values)}
        columns = []
        for part in parts:
            own = np.array([place[value] for value in getattr(part, f"{name}s")], np.int64)
            columns.append(own[getattr(part, name)])
        changed |= {name: np.concatenate(columns), f"{name}s": tuple(values)}
    for name in set(_COLUMNS) - set(_POINTERS):
        changed[name] = np.concatenate([getattr(part, name) for part in parts])
    camera = {video: name for part in parts for video, name in part.camera.items()}
    return Crops(crop_id=pa.concat_arrays([part.crop_id for part in parts]), camera=camera, **changed)


# -- fewer subjects


def subset(crops: Crops, max_subjects: int, seed: int, *, complete_first: bool = False) -> Crops:
    """At most `max_subjects` subjects of the study's own, and all of further manifests; no others in `subjects`.

    Nested: for one seed the first 8 are among the first 16, and stay so when other subjects come or go.
    complete_first: those with crops in every domain come before the others.
    """
    own = crops.source == 0
    order = _shuffled(crops, own, f"subset/{seed}")
    if complete_first:
        domains = len(np.unique(crops.domain[own]))
        whole = np.array([len(np.unique(crops.domain[own & (crops.subject == s)])) == domains for s in order], bool)
        order = np.concatenate([order[whole], order[~whole]])
    chosen = order[:max_subjects]
    return crops.take(~own | np.isin(crops.subject, chosen)).compact()


def hold_out(crops: Crops, subjects: int, seed: int) -> tuple[Crops, Crops]:
    """(the rest, `subjects` subjects that are held out), of the study's own where there are any. Raises DataError."""
    own = crops.source == 0
    order = _shuffled(crops, own if own.any() else ~own, f"hold-out/{seed}")
    if subjects >= len(order):
        raise DataError(f"validation.subjects: expected fewer than the {len(order)} training subjects, got {subjects}")
    held = np.isin(crops.subject, order[:subjects])
    return crops.take(~held).compact(), crops.take(held).compact()


def _shuffled(crops: Crops, rows: NDArray[np.bool_], name: str) -> I64:
    """The subjects of some rows, in an order of their own for each name."""
    present = np.unique(crops.subject[rows]).tolist()
    key = {s: hashlib.sha256(f"{name}/{crops.subjects[s]}".encode()).digest() for s in present}
    return np.array(sorted(present, key=key.__getitem__), np.int64)


# -- reading


def _from_rows(
    table: pa.Table,
    domain: pa.Array | pa.ChunkedArray,
    folder: Path,
    domains: Sequence[str] | None,
    windows: Mapping[str, tuple[float, float]],
    source: int,
    prefix: str,
) -> Crops:
    if not table.num_rows:
        raise DataError(f"{folder}: expected crops, got a table without rows")
    wanted = ["crop_id", "subject_id", "video_id", "shard", "offset", "size", "codec"]
    if CHECKSUM not in table.column_names:
        table = table.append_column(CHECKSUM, pa.nulls(table.num_rows, pa.int64()))
    rows = table.select([*wanted, CHECKSUM])
    rows = rows.append_column("in_domain", domain)
    rows = rows.take(pc.sort_indices(rows, [("crop_id", "ascending")])).combine_chunks()
    empty = [name for name in rows.column_names if name != CHECKSUM and rows[name].null_count]
    if empty:
        raise DataError(f"{folder}: crops: expected stored crops, got rows without {', '.join(empty)}; run crop again")
    crop_id = pa.concat_arrays(rows["crop_id"].chunks)
    twice = crop_id[1:].filter(pc.equal(crop_id[1:], crop_id[:-1]))
    if len(twice):
        raise DataError(f"{folder}: crops: {twice[0]} is listed twice; a crop_id must name one crop")
    subjects, subject = _codes(rows["subject_id"])
    domains, in_domain = _codes(rows["in_domain"], domains)
    videos, video = _codes(rows["video_id"])
    shards, shard = _codes(rows["shard"])
    return Crops(
        crop_id=crop_id,
        subject=subject,
        domain=in_domain,
        video=video,
        shard=shard,
        offset=rows["offset"].to_numpy().astype(np.int64),
        size=rows["size"].to_numpy().astype(np.int64),
        crc32=pc.fill_null(rows[CHECKSUM].cast(pa.int64()), UNKNOWN).to_numpy().astype(np.int64),
        source=np.full(len(crop_id), source, np.int64),
        window=_windows(rows["codec"], videos, video, windows),
        subjects=tuple(prefix + name for name in subjects),
        domains=tuple(domains),
        videos=tuple(videos),
        shards=tuple(_shard(folder, name) for name in shards),
    )


def _windows(
    codec: pa.ChunkedArray, videos: Sequence[str], video: I64, windows: Mapping[str, tuple[float, float]]
) -> NDArray[np.float32]:
    deep = pc.equal(codec, "png").to_numpy().astype(bool)
    recorded = np.array([windows.get(name, SIXTEEN_BITS) for name in videos], np.float32)
    return np.where(deep[:, None], recorded[video], np.array(EIGHT_BITS, np.float32))


def _codes(column: pa.Array | pa.ChunkedArray, order: Sequence[str] | None = None) -> tuple[list[str], I64]:
    """(values, (n,) position of each row's): in this order, else sorted."""
    values = list(dict.fromkeys(order)) if order is not None else sorted(column.unique().to_pylist())
    codes: I64 = pc.index_in(column, value_set=pa.array(values, pa.string())).to_numpy().astype(np.int64)
    return values, codes


def _shard(folder: Path, name: str) -> Path:
    try:
        return folder.absolute() / safe_relative(name, f"{folder}: shard")
    except DataError as error:
        raise DataError(one_line(error).replace("the data root", "the run folder")) from None


def _chosen_by(filters: Sequence[tuple[str, Sequence[str]]], until: str) -> str:
    """What the filters before `until` ask for, in words."""
    before = [f"{name} {', '.join(wanted)}" for name, wanted in filters]
    before = before[: [name for name, _ in filters].index(until)]
    return f" of {' and '.join(before)}" if before else ""


def _tally(column: pa.ChunkedArray) -> str:
    """The values of a column with their counts."""
    counted = {pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()}
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "none"
