"""crop: labelled bodies and annotated faces, cut from the decoded frames into one shard a modality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.errors import DecodeError
from mdfpipe.stages import Context, Inputs, Made, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.naming import file_name
from mdfpipe.store.run import read_table
from mdfpipe.store.shards import ShardWriter
from mdfpipe.store.tables import CROPS, CropStatus
from mdfpipe.video import cropping
from mdfpipe.video.ahead import ahead
from mdfpipe.video.cropping import Image, Window
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.frames import Frames
from mdfpipe.video.threads import use_threads


@dataclass(frozen=True, eq=False)
class _Wanted:
    """One box to cut out."""

    crop_id: str
    frame: int
    modality: str
    subject_id: str
    xyxy: NDArray[np.float32]


class Crop(Stage):
    """Crops of labelled bodies and of annotated faces, encoded once, straight from the decoded frame."""

    name: ClassVar[str] = "crop"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("faces", "label")
    schema: ClassVar[pa.Schema] = CROPS

    body_height_px: int = Field(default=384, ge=8, le=4096, description="height of a body crop")
    body_width_px: int = Field(default=128, ge=8, le=4096, description="width of a body crop")
    face_size_px: int = Field(default=112, ge=8, le=4096, description="side of a face crop, a square")
    face_margin: float = Field(default=0.1, ge=0, le=2, description="added to each side of a face, of its longer side")
    bodies: bool = Field(default=True, description="cut out labelled bodies")
    faces: bool = Field(default=True, description="cut out annotated faces")

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Decode the video again, by the decoder that delivered it to detect, and cut out what is wanted."""
        use_threads(context.resources.threads)
        seen = inputs.facts("detect")
        by_frame, beyond = self._wanted(key, inputs, seen)
        window = Window(*seen["window"]) if seen["window"] else Window()
        names = {m: f"crop/{file_name(key)}.{m}.tar" for m in ("body", "face") if getattr(self, _SWITCH[m])}
        files = {name: context.scratch(name) for name in names.values()}
        rows: list[dict[str, Any]] = []
        with ExitStack() as stack:
            shards = {m: stack.enter_context(ShardWriter(files[name])) for m, name in names.items()}
            missing = set(by_frame)
            for frame, image in self._frames(inputs, context, seen["decoder"], by_frame):
                missing.remove(frame)
                rows += [
                    self._cut(wanted, image, window, key, shards[wanted.modality], names[wanted.modality])
                    for wanted in by_frame[frame]
                ]
        if missing:
            first = min(missing)
            raise DecodeError(f"frame {first}: delivered to detect, not to crop; has the video changed meanwhile?")
        rows.sort(key=lambda row: (row["modality"], row["frame"], row["crop_id"]))
        facts = {"rows": _count(rows), "faces_without_frame": beyond}
        return Made(pa.Table.from_pylist(rows, CROPS), facts, files)

    def _wanted(self, key: str, inputs: Inputs, seen: dict[str, Any]) -> tuple[dict[int, list[_Wanted]], int]:
        """The boxes to cut, by frame; and how many faces lie in frames that were not delivered."""
        by_frame: dict[int, list[_Wanted]] = defaultdict(list)
        if self.bodies:
            bodies, labels = inputs.table("detect"), inputs.table("label")
            named = pc.equal(labels["status"].cast(pa.string()), "labelled")
            boxes, subjects = bodies.filter(named), labels.filter(named)["subject_id"].to_pylist()
            for body_id, frame, xyxy, subject in zip(
                boxes["body_id"].to_pylist(), boxes["frame"].to_pylist(), _xyxy(boxes), subjects, strict=True
            ):
                by_frame[frame].append(_Wanted(body_id, frame, "body", subject, xyxy))
        beyond = 0
        path = inputs.run.path / Index.faces_file(key)
        if self.faces and path.exists():
            faces = read_table(path)
            faces = faces.filter(pc.is_valid(faces["subject_id"]))
            columns = (faces[name].to_pylist() for name in ("frame", "face_no", "subject_id"))
            for frame, face_no, subject, xyxy in zip(*columns, _xyxy(faces), strict=True):
                if frame >= seen["delivered"]:
                    beyond += 1
                elif frame % seen["stride"] == 0:
                    crop_id = f"{key}/{frame:06d}/f{face_no:02d}"
                    by_frame[frame].append(_Wanted(crop_id, frame, "face", subject, xyxy))
        return by_frame, beyond

    def _frames(
        self, inputs: Inputs, context: Context, name: str, by_frame: Mapping[int, object]
    ) -> Iterator[tuple[int, Image]]:
        """(frame number, pixels) of the frames in `by_frame`, by the decoder of that name; no frame after the last."""
        if not by_frame:
            return
        decoder, last = Decoder.variant(name)(), max(by_frame)
        path, resources = context.data / inputs.video["path"], context.resources
        stream = decoder.frames(
            path,
            wanted=by_frame.__contains__,
            batch=resources.batch,
            threads=resources.threads,
            alive=lambda delivered: context.progress(delivered, last + 1),
        )
        frames: Frames
        for frames in ahead(stream):
            for number, image in zip(frames.index.tolist(), frames.pixels, strict=True):
                yield number, image
                if number >= last:
                    return

    def _cut(
        self, wanted: _Wanted, image: Image, window: Window, key: str, shard: ShardWriter, name: str
    ) -> dict[str, Any]:
        """Cut out one box, store it, and give its row."""
        size = (self.body_width_px, self.body_height_px) if wanted.modality == "body" else (self.face_size_px,) * 2
        x1, y1, x2, y2 = (float(v) for v in wanted.xyxy)
        row: dict[str, Any] = {
            "crop_id": wanted.crop_id,
            "video_id": key,
            "frame": wanted.frame,
            "modality": wanted.modality,
            "subject_id": wanted.subject_id,
            **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            **{"width": size[0], "height": size[1], "box_height_px": y2 - y1},
            "status": CropStatus.EMPTY.value,
        }
        box = cropping.pixel_box(wanted.xyxy, image.shape[1], image.shape[0])
        if box is None:
            return row
        if wanted.modality == "face":
            box = cropping.square_box(wanted.xyxy, self.face_margin)
        crop = cropping.resize(cropping.cut(image, box), *size)
        data, codec = cropping.encode(crop)
        offset, length = shard.add(wanted.crop_id, "jpg" if codec == "jpeg" else codec, data)
        sharpness, contrast = cropping.quality(crop, window)
        row |= {"shard": name, "offset": offset, "size": length, "codec": codec, "status": CropStatus.OK.value}
        return row | {"sharpness": sharpness, "contrast": contrast}


_SWITCH = {"body": "bodies", "face": "faces"}


def _xyxy(table: pa.Table) -> NDArray[np.float32]:
    columns = [table[name].to_numpy() for name in ("x1", "y1", "x2", "y2")]
    return np.stack(columns, axis=1).astype(np.float32) if table.num_rows else np.zeros((0, 4), np.float32)


def _count(rows: list[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[f"{row['modality']} {row['status']}"] += 1
    return dict(sorted(counts.items()))
