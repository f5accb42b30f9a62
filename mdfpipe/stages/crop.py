"""crop: labelled bodies and annotated faces, cut from the decoded frames into one shard a modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator, model_validator

from mdfpipe.config import IF_SET
from mdfpipe.errors import DecodeError
from mdfpipe.machine.threads import use_threads
from mdfpipe.stages import Context, Inputs, Made, Resources, Review, Stage
from mdfpipe.stages.cutter import CODECS, MODALITIES, STATUSES, STORED, CropShape, Cutter
from mdfpipe.store import images
from mdfpipe.store.images import Image
from mdfpipe.store.left_out import of_crops, without_crops
from mdfpipe.store.naming import file_name
from mdfpipe.store.tables import (
    CORNERS,
    CROPS,
    FACES,
    NAMED,
    CropStatus,
    LabelStatus,
    NamedBy,
    boxes_of,
    coded,
    item_ids,
    joined,
)
from mdfpipe.video.ahead import ahead
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.thinning import every_nth, highest, spread_in_time

SOURCES = (NamedBy.FACE, NamedBy.TRACK, NamedBy.GIVEN)
_AS_STORED = ("offset", "size", "crc32", "sharpness", "contrast")


@dataclass(eq=False)
class Cutouts:
    """The boxes to cut out, in the order of their rows, and what became of each; EMPTY until one is cut or left out.

    crop_id, subject_id: (n,) text; frame: (n,) int64; modality: (n,) position in MODALITIES; xyxy: (n, 4) float32;
    score: (n,) detector confidence, NaN for an annotated face. track: (n,) int32; named_by: (n,) int8, position in
    SOURCES.
    """

    crop_id: pa.Array
    subject_id: pa.Array
    frame: NDArray[np.int64]
    modality: NDArray[np.int8]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    track: pa.Array
    named_by: NDArray[np.int8]
    stored: NDArray[np.void] = field(init=False)  # (n,) of STORED

    def __post_init__(self) -> None:
        self.stored = np.zeros(len(self.frame), list(STORED))
        self.stored["status"] = STATUSES.index(CropStatus.EMPTY)

    @property
    def status(self) -> NDArray[np.int8]:
        """(n,) position in STATUSES."""
        status: NDArray[np.int8] = np.ascontiguousarray(self.stored["status"])
        return status

    def hand(self, cutter: Cutter, image: Image, rows: NDArray[np.intp]) -> None:
        """Let the boxes of these rows be cut out of their frame."""
        cutter.take(image, self.crop_id.take(pa.array(rows)).to_pylist(), self.modality[rows], self.xyxy[rows])

    def by_frame(self) -> dict[int, NDArray[np.intp]]:
        """The rows to cut out of each frame that has any, frames ascending."""
        order = np.argsort(self.frame, kind="stable")
        order = order[self.status[order] == STATUSES.index(CropStatus.EMPTY)]
        frames, first = np.unique(self.frame[order], return_index=True)
        return dict(zip(frames.tolist(), np.split(order, first[1:]), strict=True)) if len(frames) else {}

    def by_subject(self, here: NDArray[np.bool_]) -> Iterator[NDArray[np.intp]]:
        """The rows `here` of each subject and modality, frames ascending."""
        subject = self.subject_id.dictionary_encode().indices.to_numpy()
        group = subject.astype(np.int64) * len(MODALITIES) + self.modality
        order = np.lexsort((self.frame, group))
        order = order[here[order]]
        yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(order) else ()

    def leave_out(self, rows: NDArray[Any], status: CropStatus) -> None:
        """Note why these rows are not cut out."""
        self.stored["status"][rows] = STATUSES.index(status)

    def subjects(self, here: NDArray[np.bool_]) -> set[tuple[str, str]]:
        """(modality, subject) of the rows `here`."""
        names = self.subject_id.filter(pa.array(here)).to_pylist()
        return {(MODALITIES[m], name) for m, name in zip(self.modality[here].tolist(), names, strict=True)}

    def in_order(self) -> NDArray[np.intp]:
        """The rows to cut out, in the order in which they are cut."""
        return np.concatenate([np.zeros(0, np.intp), *self.by_frame().values()])

    def are_those_of(self, batches: Sequence[Cutouts]) -> bool:
        """Whether the boxes to cut out are those of batches of frames, one after the other."""
        order, theirs = self.in_order(), [batch.in_order() for batch in batches]

        def same(name: str) -> bool:
            found = [getattr(batch, name)[rows] for batch, rows in zip(batches, theirs, strict=True)]
            own: NDArray[Any] = getattr(self, name)[order]
            return own.tobytes() == np.concatenate([own[:0], *found]).tobytes()  # NaN equals NaN here

        found = [batch.crop_id.take(pa.array(rows)) for batch, rows in zip(batches, theirs, strict=True)]
        ids = pa.chunked_array([self.crop_id.take(pa.array(order))])
        named_alike: bool = ids.equals(pa.chunked_array(found, ids.type))
        return named_alike and all(map(same, ("frame", "modality", "xyxy")))

    def table(self, key: str, shards: dict[str, str], sizes: dict[str, tuple[int, int]]) -> pa.Table:
        """Rows of CROPS. shards: modality -> shard; sizes: modality -> (width, height) of its crops."""
        here = self.status == STATUSES.index(CropStatus.OK)

        def stored(values: pa.Array) -> pa.Array:
            return pc.if_else(pa.array(here), values, pa.scalar(None, values.type))

        def each(values: Mapping[str, Any], kind: pa.DataType) -> pa.Array:
            return pa.array([values.get(m) for m in MODALITIES], kind).take(pa.array(self.modality))

        columns = {
            "crop_id": self.crop_id,
            "video_id": pa.repeat(pa.scalar(key), len(here)),
            "frame": pa.array(self.frame),
            "modality": coded(self.modality, MODALITIES),
            "subject_id": self.subject_id,
            **{name: pa.array(np.ascontiguousarray(self.xyxy[:, n])) for n, name in enumerate(CORNERS)},
            "shard": stored(each(shards, pa.string())),
            **{name: stored(pa.array(np.ascontiguousarray(self.stored[name]))) for name in _AS_STORED},
            "codec": stored(pa.array(CODECS).take(pa.array(np.ascontiguousarray(self.stored["codec"])))),
            "width": each({m: size[0] for m, size in sizes.items()}, pa.int32()),
            "height": each({m: size[1] for m, size in sizes.items()}, pa.int32()),
            "box_height_px": pa.array(self.xyxy[:, 3] - self.xyxy[:, 1]),
            "status": coded(self.status, STATUSES),
            "track": self.track,
            "named_by": coded(self.named_by, SOURCES),
        }
        return pa.table([columns[name] for name in CROPS.names], schema=CROPS)

    def count(self) -> dict[str, int]:
        """Rows by modality and status."""
        pairs = Counter(zip(self.modality.tolist(), self.status.tolist(), strict=True))
        return dict(sorted((f"{MODALITIES[m]} {STATUSES[s]}", count) for (m, s), count in pairs.items()))


class Crop(Stage):
    """Crops of labelled bodies and of annotated faces, encoded once, straight from the decoded frame."""

    name: ClassVar[str] = "crop"
    version: ClassVar[int] = 3
    reads: ClassVar[tuple[str, ...]] = ("media", "faces", "detect", "label")
    schema: ClassVar[pa.Schema] = CROPS
    tells: ClassVar[tuple[str, ...]] = ("window",)  # what reads 16-bit crops must know what is black and white

    body_height_px: int = Field(default=384, ge=8, le=4096, description="height of a body crop")
    body_width_px: int = Field(default=128, ge=8, le=4096, description="width of a body crop")
    face_size_px: int = Field(default=112, ge=8, le=4096, description="side of a face crop, a square")
    face_margin: float = Field(
        default=0.1, ge=0, le=2, description="margin on each side of a face, as a share of its longer side"
    )
    bodies: bool = Field(default=True, description="crop labelled bodies")
    faces: bool = Field(default=True, description="crop annotated faces")
    min_height_px: float | None = Field(
        None,
        ge=0,
        json_schema_extra=IF_SET,
        description="least height of a body's box in the frame, pixels; lower ones are too_small; none: any",
    )
    min_face_height_px: float | None = Field(
        None,
        ge=0,
        json_schema_extra=IF_SET,
        description="least height of a face's box in the frame, pixels; lower ones are too_small; none: any",
    )
    every: int | None = Field(
        None,
        ge=1,
        json_schema_extra=IF_SET,
        description="N: crop a subject in its first labelled frame of a video (for faces: annotated frame) and in each "
        "N-th of these after it; crops of the others are skipped_frame; none: in all",
    )
    per_subject: int | None = Field(
        None,
        ge=1,
        json_schema_extra=IF_SET,
        description="most body crops of a subject in a video, and most face crops, of what the settings above leave; "
        "the others are over_limit; none: all",
    )
    prefer: Literal["spread", "height", "score"] | None = Field(
        None,
        json_schema_extra=IF_SET,
        description="which crops per_subject keeps. spread: evenly spread in time; height: the highest boxes in the "
        "frame; score: bodies of the highest detector confidence, and faces, which have none, as height. Among equals, "
        "the earlier one wins; none: spread",
    )

    @field_validator("min_height_px", "min_face_height_px", "every", "prefer")
    @classmethod
    def _none_without_effect(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        """A value that leaves nothing out, or is the default, is that of no setting: a run is as it was."""
        return None if value == {"every": 1, "prefer": "spread"}.get(info.field_name or "", 0) else value

    @model_validator(mode="after")
    def _prefers_among_some(self) -> Self:
        if self.prefer and not self.per_subject:
            raise ValueError(f"prefer: {self.prefer} chooses what per_subject keeps; set per_subject, too")
        return self

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(width, height) of the crops of each modality that is cut out."""
        sizes = {"body": (self.body_width_px, self.body_height_px)} if self.bodies else {}
        return sizes | ({"face": (self.face_size_px, self.face_size_px)} if self.faces else {})

    @property
    def chooses(self) -> bool:
        """Whether it depends on all frames of a video which boxes are cut out of one."""
        return bool(self.every or self.per_subject)

    @property
    def shape(self) -> CropShape:
        """What a crop is like."""
        return CropShape(self.sizes, self.face_margin)

    def cutter(self, files: Mapping[str, Path], window: images.Window, resources: Resources) -> Cutter:
        """What cuts boxes out of frames into one shard a modality. window: the values that are black and white."""
        return Cutter(self.shape, files, window, threads=resources.threads, waiting=2 * resources.batch)

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Take the crops of the pass that detect shared, if these are what is wanted; else decode the video again."""
        use_threads(context.resources.threads)
        seen, sizes = inputs.facts("detect"), self.sizes
        bodies = inputs.table("detect")
        labels = joined(inputs.table("label"), bodies["body_id"], "body_id", inputs.run.part("label", key), "detect")
        faces = inputs.faces() if self.faces else FACES.empty_table()
        cuts, left_out = self.wanted(key, bodies, labels, faces, seen)
        left_without = self.leave_out(cuts, seen["width"], seen["height"])
        shards = context.shared.cut(cuts, seen) if context.shared else None
        if shards is None:
            shards = self._decoded(cuts, inputs, seen, context)
        names = {modality: f"crop/{file_name(key)}.{modality}.tar" for modality in sizes}
        facts = {"rows": cuts.count(), "window": seen["window"], **left_out, **left_without}
        return Made(cuts.table(key, names, sizes), facts, {names[m]: path for m, path in shards.items()})

    def _decoded(self, cuts: Cutouts, inputs: Inputs, seen: Mapping[str, Any], context: Context) -> dict[str, Path]:
        """Decode the video for these boxes and cut them out: the shards by modality."""
        shards = {modality: context.scratch(f"{inputs.video['video_id']}.{modality}.tar") for modality in self.sizes}
        by_frame = cuts.by_frame()
        missing = set(by_frame)
        with self.cutter(shards, seen["window"] or images.EIGHT_BITS, context.resources) as cutter:
            for frame, image in _frames(inputs, context, seen, by_frame):
                missing.remove(frame)
                cuts.hand(cutter, image, by_frame[frame])
            stored = cutter.finish()
        if missing:
            raise DecodeError(
                f"frame {min(missing)}: delivered to detect, not to crop; has the video changed meanwhile?"
            )
        cuts.stored[cuts.in_order()] = stored
        return shards

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Say how many crops the settings leave out, and of which subjects every one."""
        return Review(notes=of_crops(facts), lasting=without_crops(facts))

    def wanted(
        self, key: str, bodies: pa.Table, labels: pa.Table, annotated: pa.Table, seen: Mapping[str, Any]
    ) -> tuple[Cutouts, dict[str, int]]:
        """The boxes to cut out, of a video or of some of its frames: bodies, then faces; and how many faces are not cut
        out, by reason.

        bodies: rows of BODIES; labels: those of LABELS, of the same bodies; annotated: of FACES. seen: `delivered` and
        `stride` of the frames.
        """
        names = ["crop_id", "subject_id", "frame", *CORNERS, "track", "named_by", "score"]
        status = labels["status"].cast(pa.string())
        chosen = pc.and_(pc.is_in(status, pa.array(NAMED, pa.string())), pa.scalar(self.bodies))
        bodies = bodies.rename_columns({"body_id": "crop_id"}).select(["crop_id", "frame", *CORNERS, "score"])
        for name in ("subject_id", "track"):
            bodies = bodies.append_column(name, labels[name])
        bodies = bodies.append_column("named_by", _named_by(status, labels["face_no"])).filter(chosen).select(names)
        faces, left_out = bodies.slice(0, 0), {}
        if self.faces:
            frame = annotated["frame"].to_numpy()
            named = annotated["subject_id"].is_valid().to_numpy()
            delivered, visited = frame < seen["delivered"], frame % seen["stride"] == 0
            left_out = {
                "faces_unnamed": int((~named).sum()),
                "faces_without_frame": int((named & ~delivered).sum()),
                "faces_between_strides": int((named & delivered & ~visited).sum()),
            }
            annotated = annotated.filter(pa.array(named & delivered & visited))
            crop_id = item_ids(key, annotated["frame"].to_numpy(), annotated["face_no"].to_numpy(), "f")
            faces = annotated.append_column("crop_id", crop_id)
            faces = faces.append_column("track", pa.nulls(len(faces), pa.int32()))
            faces = faces.append_column("named_by", pa.array(np.zeros(len(faces), np.int8))).select(names[:-1])
        rows = pa.concat_tables([bodies, faces], promote_options="permissive")
        modality = np.repeat(np.arange(2, dtype=np.int8), [bodies.num_rows, faces.num_rows])
        crop_id, subject_id, track = (rows[n].combine_chunks() for n in ("crop_id", "subject_id", "track"))
        frame, named_by = rows["frame"].to_numpy(), rows["named_by"].to_numpy()
        score = rows["score"].to_numpy().astype(np.float32, copy=False)
        return Cutouts(crop_id, subject_id, frame, modality, boxes_of(rows), score, track, named_by), left_out

    def leave_out(self, cuts: Cutouts, width: int, height: int) -> dict[str, dict[str, list[str]]]:
        """Note which boxes the settings leave out; return as a fact the subjects without a box that is high enough."""
        least = [self.min_height_px or 0.0, self.min_face_height_px or 0.0]
        if not any([*least, self.every, self.per_subject]):
            return {}
        boxes = zip(cuts.xyxy, cuts.modality.tolist(), strict=True)
        found = [self.shape.pixels(xyxy, modality, width, height) for xyxy, modality in boxes]
        whole = np.array([not isinstance(box, CropStatus) for box in found], np.bool_)  # damaged: takes nobody's place
        high = cuts.xyxy[:, 3] - cuts.xyxy[:, 1] >= np.array(least, np.float32)[cuts.modality]
        cuts.leave_out(whole & ~high, CropStatus.TOO_SMALL)
        for group in cuts.by_subject(whole & high):
            kept = every_nth(cuts.frame[group], self.every or 1)
            cuts.leave_out(group[~kept], CropStatus.SKIPPED_FRAME)
            group = group[kept]
            kept = self._kept(cuts, group)
            cuts.leave_out(group[~kept], CropStatus.OVER_LIMIT)
        lost = cuts.subjects(whole & ~high) - cuts.subjects(whole & high)
        return {"left_without": {m: sorted(name for kind, name in lost if kind == m) for m in MODALITIES}}

    def _kept(self, cuts: Cutouts, group: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which rows `group`, of one subject and modality, frames ascending, `per_subject` keeps."""
        most = self.per_subject or len(group)
        if self.prefer is None:
            return spread_in_time(cuts.frame[group], most)
        height = cuts.xyxy[group, 3] - cuts.xyxy[group, 1]
        score = cuts.score[group]
        return highest(height if self.prefer == "height" or np.isnan(score).all() else score, most)


def _named_by(status: pa.ChunkedArray, face_no: pa.ChunkedArray) -> pa.Array:
    """(n,) int8, position in SOURCES: where the names of bodies are from. status, face_no: of their labels."""
    by_track = pc.equal(status, LabelStatus.LABELLED_BY_TRACK).to_numpy()
    sources = [SOURCES.index(NamedBy.TRACK), SOURCES.index(NamedBy.GIVEN)]
    return pa.array(np.select([by_track, face_no.is_null().to_numpy()], sources, 0).astype(np.int8))


def _frames(
    inputs: Inputs, context: Context, seen: Mapping[str, Any], by_frame: Mapping[int, object]
) -> Iterator[tuple[int, Image]]:
    """(frame number, pixels) of the frames in `by_frame`, by the decoder that detect recorded; none after the last."""
    if not by_frame:
        return
    decoder, last = Decoder.as_recorded(seen), max(by_frame)
    stream = decoder.frames(
        inputs.media(context.data),
        wanted=by_frame.__contains__,
        last=last,
        batch=context.resources.batch,
        threads=context.resources.threads,
        alive=lambda delivered: context.progress(delivered, last + 1),
    )
    for frames in ahead(stream):
        yield from zip(frames.index.tolist(), frames.pixels, strict=True)
