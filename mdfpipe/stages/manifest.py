"""manifest: crops of all videos + protocol -> one typed, domain-tagged table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.config import Config
from mdfpipe.errors import DataError, ProtocolError, counted, some
from mdfpipe.protocol import Protocol
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.left_out import CROPS_LEFT_OUT, by_track, of_rows, outside_of
from mdfpipe.store.tables import CORNERS, MANIFEST, SUBJECTS, NamedBy, coded

_FROM_CROPS = ["crop_id", "subject_id", "modality", "video_id", "frame", *CORNERS]
_STORED = ["shard", "offset", "size", "crc32", "codec", "sharpness", "contrast", "box_height_px", "track"]
_FROM_VIDEO = ["domain", "band", "session_id", "camera_id"]

SPLITS = ("train", "test", "unused")
ROLES = ("none", "gallery", "probe")
(TRAIN, TEST, UNUSED), (NONE, GALLERY, PROBE) = range(3), range(3)
Codes: TypeAlias = NDArray[np.integer[Any]]

_NO_ROLES = Protocol(name="no-roles", unlisted="test", description="every subject in test, no gallery and no probe")


class _Rows(NamedTuple):
    """Rows of the manifest as codes (n,): positions in `subjects`, `domains`, SPLITS and ROLES. mated: as `_mated`."""

    subjects: list[str]
    subject: Codes
    domains: list[str]
    domain: Codes
    split: Codes
    role: Codes
    mated: NDArray[np.bool_]

    def subjects_of(self, here: NDArray[np.bool_]) -> list[str]:
        """The subjects of some rows, sorted."""
        return sorted(self.subjects[code] for code in np.unique(self.subject[here]))


class TrackLabels(Config):
    """Uses of crops whose names are carried along tracks (`label.tracks: carry`). Those left out are unused."""

    train: bool = Field(default=True, description="in the train split")
    gallery: bool = Field(default=True, description="in the test split as gallery")
    probe: bool = Field(default=True, description="in the test split as probes")

    def leave_out(self, carried: NDArray[np.bool_], split: Codes, role: Codes) -> dict[str, int]:
        """Make carried rows unused where they are not wanted, in place; return how many, by use.

        carried, split, role: (n,). A test row without a role may be compared either way: it needs both uses.
        """
        plain = (split == TEST) & (role == NONE)
        uses = {
            "train": (self.train, split == TRAIN),
            "gallery": (self.gallery, (role == GALLERY) | plain),
            "probe": (self.probe, (role == PROBE) | plain),
        }
        counts = {}
        for use, (wanted, here) in uses.items():
            unwanted = carried & here & (split != UNUSED) & (not wanted)
            split[unwanted], role[unwanted] = UNUSED, NONE
            if unwanted.any():
                counts[use] = int(unwanted.sum())
        return counts


class Manifest(Stage):
    """The subject, domain, split and role of each crop."""

    name: ClassVar[str] = "manifest"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("catalogue", "crop")
    schema: ClassVar[pa.Schema] = MANIFEST
    per: ClassVar[Literal["video", "run"]] = "run"
    unit: ClassVar[str] = "videos"
    tells: ClassVar[tuple[str, ...]] = ("failed",)

    protocol: Protocol = Field(default=_NO_ROLES, description="a protocol of manifests/ by name, or its content")
    track_labels: TrackLabels = Field(
        default=TrackLabels(), description="where crops take part whose names are carried along tracks"
    )

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Join the crops of every video, give each its split and role, refuse what would make a wrong number."""
        catalogue = {row["video_id"]: row for row in inputs.table("index", Index.table).to_pylist()}
        parts, failed = [], Counter[tuple[str, str, str]]()
        for done, video_id in enumerate(inputs.videos, start=1):
            crops = inputs.table("crop", video_id)
            parts.append(_rows_of(crops, catalogue[video_id]))
            failed.update(_failed(crops, catalogue[video_id]["domain"]))
            context.progress(done, len(inputs.videos))
        rows = pa.concat_tables(parts) if parts else _rows_of(None, {})
        if rows.num_rows == 0:
            raise DataError(f"none of {len(inputs.videos)} videos gave a crop; `mdfpipe inspect RUN` says why")
        subjects, subject = _encoded(rows["subject_id"])
        domains, domain = _encoded(rows["domain"])
        used = np.array([self.protocol.uses(name) for name in domains], bool)[domain]
        asked = {subjects[code] for code in np.unique(subject[used])}  # who else there is, no protocol needs to know
        asked |= {name for name, where, _ in failed if self.protocol.uses(where)}
        splits = self._splits([*asked], _galleries(inputs))
        split = np.array([SPLITS.index(splits.get(name, "unused")) for name in subjects], np.int8)[subject]
        split[~used] = UNUSED
        role = np.array([ROLES.index(self.protocol.role(name)) for name in domains], np.int8)[domain]
        role[split != TEST] = NONE
        carried = pc.equal(rows["named_by"], NamedBy.TRACK).to_numpy()
        without = self.track_labels.leave_out(carried, split, role)
        modalities, modality = _encoded(rows["modality"])
        coded_rows = _Rows(subjects, subject, domains, domain, split, role, _mated(subject, modality, role))
        present = {modalities[code]: modality == code for code in np.unique(modality)}
        for name, here in present.items():
            self._refuse_empty_domains(name, here, coded_rows, catalogue)
        for name, here in present.items():
            self._refuse_no_mates(name, here, coded_rows)
        if self.protocol.unknown_mates == "refuse":
            self._refuse_unknown_mates(coded_rows, inputs, catalogue)
        table = _assemble(rows, coded_rows)
        filmed = {row["domain"] for row in catalogue.values()}
        facts = {
            "protocol": self.protocol.name,
            "missing": list(inputs.missing),
            "counts": _counts(table, ["split", "role", "domain", "modality"]),
            "outside": _counts(rows.filter(pa.array(~used)), ["domain"]),
            "no_role": self._no_role(coded_rows),
            "domains_without_videos": sorted(set(self.protocol.domains) - filmed),
            "failed": self._failures(failed, splits),
            "domains_without_rows": sorted(filmed - set(domains)),
            "named_by": dict(sorted(Counter(rows["named_by"].to_pylist()).items())),
            "track_labels_left_out": without,
        }
        return Made(table, facts)

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say what the manifest holds, and which domains it does not."""
        warnings, notes = [], []
        for found in facts.values():
            for c in found["counts"]:
                kind = " ".join(c[name] for name in ("split", "role", "domain", "modality") if c[name] != "none")
                notes.append(f"manifest: {kind}: {of_rows(c)}")
            if found["domains_without_rows"]:
                warnings.append(f"manifest: no crop at all of {', '.join(found['domains_without_rows'])}")
            notes += [f"manifest: {line}" for line in [*outside_of(found), *by_track(found)]]
            warnings += [f"manifest: {line}" for line in self._odd_domains(found)]
        return Review(warnings=warnings, notes=notes)

    def _no_role(self, rows: _Rows) -> dict[str, int]:
        """Training rows of each domain without a role, where the protocol names no domains: they may be a surprise."""
        if self.protocol.domains or not self.protocol.has_roles:
            return {}
        train = np.bincount(rows.domain[rows.split == TRAIN], minlength=len(rows.domains))
        return {n: int(train[i]) for i, n in enumerate(rows.domains) if train[i] and self.protocol.role(n) == "none"}

    def _odd_domains(self, found: Mapping[str, Any]) -> list[str]:
        """What is odd about the domains of a protocol, a line each."""
        lines = [
            f"protocol {self.protocol.name} names the domain {name}, which no video has"
            for name in found["domains_without_videos"]
        ]
        if found["no_role"]:
            rows = ", ".join(f"{name} ({counted(count, 'row')})" for name, count in found["no_role"].items())
            lines.append(
                f"protocol {self.protocol.name} gives no role to {rows}, which train and enter tables of all pairs; "
                "list the domains of the study in manifest.protocol.domains, with these or without them"
            )
        return lines

    def _splits(self, subjects: list[str], galleries: dict[str, list[str]]) -> dict[str, str]:
        """subject_id -> split. Raises ProtocolError on a leak and on subjects that no table lists."""
        protocol, leaks, unlisted = self.protocol, [], []
        splits: dict[str, str] = {}
        for subject in sorted(subjects):
            found = {protocol.galleries[g] for g in galleries.get(subject, []) if g in protocol.galleries}
            if subject in protocol.subjects:
                found.add(protocol.subjects[subject])
            if {"train", "test"} <= found:
                leaks.append(subject)
            elif not found:
                unlisted.append(subject)
            splits[subject] = sorted(found)[0] if found else protocol.unlisted
        if leaks:
            raise ProtocolError(
                f"protocol {protocol.name}: {_few(leaks, 'subject')} in train and in test: "
                "a model would be tested on people it was trained on; mend the gallery or subject tables"
            )
        if unlisted and protocol.unlisted == "refuse":
            raise ProtocolError(
                f"protocol {protocol.name}: {_few(unlisted, 'subject')} with crops in no gallery or subject table, so "
                "whether their probes have a mate is unknown; list them, or set manifest.protocol.unlisted "
                "to unused, train or test"
            )
        return splits

    def _failures(
        self, failed: Mapping[tuple[str, str, str], int], splits: Mapping[str, str]
    ) -> list[dict[str, str | int]]:
        """How many crops of a split and domain came to nothing, and why: they have no row here."""
        found = Counter[tuple[str, str, str]]()
        for (subject, domain, status), rows in failed.items():
            found[splits[subject] if self.protocol.uses(domain) else SPLITS[UNUSED], domain, status] += rows
        return [
            {"split": split, "domain": domain, "status": status, "rows": rows}
            for (split, domain, status), rows in sorted(found.items())
        ]

    def _refuse_empty_domains(
        self, modality: str, of_modality: NDArray[np.bool_], rows: _Rows, catalogue: dict[str, Any]
    ) -> None:
        """Raise ProtocolError where a domain of the protocol has no test row of a modality that others have."""
        for name in [*self.protocol.gallery_domains, *self.protocol.probe_domains]:
            here = of_modality & (rows.domain == (rows.domains.index(name) if name in rows.domains else -1))
            if not (here & (rows.role != NONE)).any():
                videos = sum(row["domain"] == name for row in catalogue.values())
                known = ", ".join(sorted({row["domain"] for row in catalogue.values()}))
                train = (here & (rows.split == TRAIN)).sum()
                raise ProtocolError(
                    f"protocol {self.protocol.name}: domain {name} has no {modality} row to test "
                    f"({counted(videos, 'video')}, "
                    f"{counted(int(here.sum()), f'{modality} crop')}, {train} of them train); the data set has the "
                    f"domains {known}"
                )

    def _refuse_no_mates(self, modality: str, of_modality: NDArray[np.bool_], rows: _Rows) -> None:
        """Raise ProtocolError where not one probe of a modality has a mate: every search would fail."""
        probes, gallery = (of_modality & (rows.role == role) for role in (PROBE, GALLERY))
        if probes.any() and not (probes & rows.mated).any():
            searched, enrolled = (_few(rows.subjects_of(side), "subject") for side in (probes, gallery))
            raise ProtocolError(
                f"protocol {self.protocol.name}: none of {probes.sum()} {modality} probes has a mate in the gallery: "
                f"probes are of {searched}, the gallery of {enrolled}; are the subjects named alike in every domain?"
            )

    def _refuse_unknown_mates(self, rows: _Rows, inputs: Inputs, catalogue: dict[str, Any]) -> None:
        """Raise ProtocolError where a probe may be without a mate only because a gallery video was left out."""
        left_out = [v for v in inputs.missing if catalogue[v]["domain"] in self.protocol.gallery_domains]
        annotated = {s for v in left_out for s in inputs.faces(v, ["subject_id"])["subject_id"].to_pylist()}
        annotated |= {catalogue[v]["subject_id"] for v in left_out}
        unmated = rows.subjects_of((rows.role == PROBE) & ~rows.mated)
        unknown = [subject for subject in unmated if subject in annotated]
        if unknown:
            videos = ", ".join(left_out[:3])
            raise ProtocolError(
                f"protocol {self.protocol.name}: {_few(unknown, 'probe subject')} without a gallery row, but "
                f"annotated in gallery videos left out by --allow-missing ({videos}): whether they are mated "
                "is unknown; mend those videos, or set manifest.protocol.unknown_mates to unmated"
            )


def _mated(subject: Codes, modality: Codes, role: Codes) -> NDArray[np.bool_]:
    """(n,) whether the row's subject has a gallery row of the row's modality."""
    person = subject.astype(np.int64) * 128 + modality
    return np.isin(person, np.unique(person[role == GALLERY]))


def _rows_of(crops: pa.Table | None, video: dict[str, Any]) -> pa.Table:
    """Usable crops of one video, with the video's columns."""
    fields = [MANIFEST.field(name) for name in _FROM_CROPS + _FROM_VIDEO + _STORED]
    fields.append(pa.field("named_by", pa.string()))
    if crops is None:
        return pa.schema(fields).empty_table()
    usable = crops.filter(pc.equal(crops["status"].cast(pa.string()), "ok"))
    columns = [usable[name] for name in _FROM_CROPS]
    columns += [pa.repeat(pa.scalar(video[name], pa.string()), usable.num_rows) for name in _FROM_VIDEO]
    columns += [usable[name] for name in _STORED]
    columns.append(usable["named_by"].cast(pa.string()).fill_null(NamedBy.IMAGE))
    return pa.table(columns, schema=pa.schema(fields))


def _failed(crops: pa.Table, domain: str) -> Iterator[tuple[str, str, str]]:
    """Subject, domain and status of each crop that is not usable, without those that settings leave out."""
    no_failures = pa.array(["ok", *CROPS_LEFT_OUT], pa.string())
    failures = pc.invert(pc.is_in(crops["status"].cast(pa.string()), no_failures))
    others = crops.filter(failures).select(["subject_id", "status"])
    return ((row["subject_id"], domain, row["status"]) for row in others.to_pylist())


def _assemble(rows: pa.Table, by: _Rows) -> pa.Table:
    made = {
        "split": coded(by.split, SPLITS),
        "role": coded(by.role, ROLES),
        "mated": pa.array(by.mated, mask=by.role != PROBE),
        "template_id": pa.nulls(rows.num_rows, pa.string()),
        "named_by": coded(pc.index_in(rows["named_by"], pa.array([*NamedBy], pa.string())).to_numpy(), NamedBy),
    }
    return pa.table([made[name] if name in made else rows[name] for name in MANIFEST.names], schema=MANIFEST)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.integer[Any]]]:
    """The values that occur in a column, and the position of each row's value among them."""
    encoded = column.combine_chunks()
    encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _galleries(inputs: Inputs) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in inputs.of_index(Index.subjects_file, SUBJECTS).to_pylist():
        found[row["subject_id"]].append(row["gallery"])
    return found


def _counts(table: pa.Table, keys: list[str]) -> list[dict[str, Any]]:
    """Rows, subjects and videos for each combination of values in the columns `keys`."""
    plain = table.select([*keys, "subject_id", "video_id"])
    for position, name in enumerate(keys):
        plain = plain.set_column(position, name, plain[name].cast(pa.string()))
    wanted = [("subject_id", "count"), ("subject_id", "count_distinct"), ("video_id", "count_distinct")]
    grouped = plain.group_by(keys, use_threads=False).aggregate(wanted)
    names = {"subject_id_count": "rows", "subject_id_count_distinct": "subjects", "video_id_count_distinct": "videos"}
    counts = [{names.get(k, k): v for k, v in row.items()} for row in grouped.to_pylist()]
    return sorted(counts, key=lambda row: [row[name] for name in keys])


def _few(names: list[str], noun: str) -> str:
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({some(names)})"
