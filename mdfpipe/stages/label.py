"""label: bodies named by the annotated faces of their frame. Every detection keeps a row and a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.errors import DataError, some
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.tables import LABELS, LabelStatus, boxes_of, coded
from mdfpipe.video.alignment import advice, frame_offset_overlap
from mdfpipe.video.geometry import clip_to_frame, inside_share
from mdfpipe.video.labelling import STATUSES, LabelRules, Labels, label_bodies, silent_filter
from mdfpipe.video.placement import LOOSE_PX

# Ratios of two sizes of a picture, the usual ones first.
_FACTORS = (1 / 2, 2, 2 / 3, 3 / 2, 1 / 3, 3, 1 / 4, 4, 3 / 4, 4 / 3, 4 / 9, 9 / 4, 3 / 8, 8 / 3)
_Rows: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


class Label(LabelRules, Stage):
    """The subject of each body, from the face inside it."""

    name: ClassVar[str] = "label"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("faces", "detect")
    schema: ClassVar[pa.Schema] = LABELS
    unit: ClassVar[str] = "bodies"

    min_height_px: float = Field(
        default=8.0, ge=0, description="least height of a body in pixels; smaller bodies are too_small"
    )
    min_inside: float = Field(default=0.5, ge=0, le=1, description="least share of a body's box inside the frame")
    check_alignment: bool = Field(
        default=True, description="measure whether faces fit better one frame earlier or later"
    )
    short: Literal["fail", "keep"] = Field(
        default="fail",
        description="for a video that ends before its annotation. fail: the video fails; keep: keep its frames",
    )

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """`short` for a video that covers its annotation; `check_alignment` where faces were found to be in step."""
        found = ("short",) if facts.get("faces_beyond_the_end", -1) == 0 else ()
        measured = facts.get("alignment", {})
        return found + (("check_alignment",) if measured.get("offset", 1) in (0, None) else ())

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Label the bodies of one video, and measure whether its annotation is in step with it."""
        bodies, seen = inputs.table("detect"), inputs.facts("detect")
        faces = inputs.faces()
        xyxy, face_xyxy = boxes_of(bodies), clip_to_frame(boxes_of(faces), seen["width"], seen["height"])
        body_frame, face_frame = bodies["frame"].to_numpy(), faces["frame"].to_numpy()
        names, subject = _codes(faces["subject_id"])
        labels = self._labels(bodies, faces, seen["width"], seen["height"])
        named = labels.where(LabelStatus.LABELLED)
        facts: dict[str, Any] = {
            "rows": {status.value: count for status, count in labels.counts().items() if count},
            "faces": faces.num_rows,
            "faces_matched": int(np.unique(labels.face[named]).size),
            "faces_beyond_the_end": int((face_frame >= seen["delivered"]).sum()),
            "frames_annotated": 1 + int(np.count_nonzero(np.diff(face_frame))) if face_frame.size else 0,
            "subjects": dict(sorted(Counter(names[code] for code in subject[labels.face[named]].tolist()).items())),
        }
        if len(faces) and not named.any():
            facts["nobody"] = self._why_nobody(bodies, faces, seen)
        if self.check_alignment:
            base = inputs.facts("index", Index.table).get("frame_base", 0)
            of_body = subject[labels.face[named]]
            facts["alignment"] = self._alignment(
                (body_frame[named], xyxy[named], of_body), (face_frame, face_xyxy, subject), base
            )
        if not facts.get("alignment", {}).get("offset"):  # a frame off is the better reason: `review` gives it
            self._refuse_short(face_frame, seen)
        return Made(_table(bodies, faces, labels), facts)

    def rows_of(self, bodies: pa.Table, faces: pa.Table, width: int, height: int) -> pa.Table:
        """Rows of LABELS of the bodies of some frames. bodies, faces: all rows of BODIES and of FACES of these frames.

        The label of a body depends on the boxes and faces of its own frame, of width x height pixels, and on no others.
        """
        return _table(bodies, faces, self._labels(bodies, faces, width, height))

    def _labels(self, bodies: pa.Table, faces: pa.Table, width: int, height: int) -> Labels:
        xyxy = boxes_of(bodies)
        return label_bodies(
            bodies["frame"].to_numpy(),
            xyxy,
            faces["frame"].to_numpy(),
            clip_to_frame(boxes_of(faces), width, height),
            _codes(faces["subject_id"])[1],
            rules=self,
            body_score=bodies["score"].to_numpy(),
            excluded={
                LabelStatus.OFF_FRAME: inside_share(xyxy, width, height) < self.min_inside,
                LabelStatus.TOO_SMALL: xyxy[:, 3] - xyxy[:, 1] < self.min_height_px,
            },
        )

    def _why_nobody(self, bodies: pa.Table, faces: pa.Table, seen: dict[str, Any]) -> str:
        """What would label the bodies of a video with faces and no labelled body; "" where nothing is known to."""
        names, subject = _codes(faces["subject_id"])
        if not len(bodies):
            return "no body was detected"
        inside = inside_share(boxes_of(bodies), seen["width"], seen["height"])
        if 2 * np.count_nonzero(inside < self.min_inside) > len(bodies):
            return "most bodies lie outside the picture: mend these first"
        if not names:
            return "no face has a subject"
        best, most = "", 0
        for words, supposed in _suppositions(boxes_of(faces), seen["width"], seen["height"]):
            labels = label_bodies(
                bodies["frame"].to_numpy(),
                boxes_of(bodies),
                faces["frame"].to_numpy(),
                clip_to_frame(supposed, seen["width"], seen["height"]),
                subject,
                rules=self,
            )
            count = int(labels.where(LabelStatus.LABELLED).sum())
            if count > most:
                best, most = words, count
        return f"{most} of {len(bodies)} bodies would be labelled {best}" if 2 * most > len(bodies) else ""

    def _alignment(self, bodies: _Rows, faces: _Rows, base: int) -> dict[str, Any]:
        """Whether the faces of a video are in step with its bodies. bodies, faces: (frame, xyxy, subject) arrays."""
        found = frame_offset_overlap(*bodies, *faces, measure=self.measure)
        return {
            "verdict": found.verdict,
            "offset": found.offset,
            "pairs": found.n_pairs,
            "overlap": _by_offset(found.mean),
            "detrended_overlap": _by_offset(found.detrended),
            "advice": advice(found.offset, base) if found.offset else "",
        }

    def review(self, facts: dict[str, dict[str, Any]]) -> Review:
        """Stop where most videos say that the annotation is a frame off; fail the one video that says so alone."""
        found = {key: f["alignment"] for key, f in facts.items() if f.get("alignment")}
        judged = [a for a in found.values() if a["offset"] is not None]
        off = {key: a for key, a in found.items() if a["offset"]}
        warnings = self._warnings(facts, found)
        for offset in (-1, 1):
            agree = [a for a in off.values() if a["offset"] == offset]
            if len(agree) >= 2 and 2 * len(agree) > len(judged):
                where = f"in {len(agree)} of the {len(judged)} videos that can tell"
                return Review(warnings=warnings, stop=f"{where}, {_out_of_step(agree[0])}")
        return Review({key: _out_of_step(a) for key, a in off.items()}, warnings)

    def _warnings(self, facts: dict[str, dict[str, Any]], alignment: dict[str, Any]) -> list[str]:
        counts: Counter[LabelStatus] = Counter()
        for each in facts.values():
            counts.update({status: each["rows"].get(status, 0) for status in LabelStatus})
        warnings = [silent_filter(self, counts)]
        if counts[LabelStatus.BELOW_MIN_OVERLAP] > counts[LabelStatus.LABELLED]:
            warnings.append(
                f"label: {counts[LabelStatus.BELOW_MIN_OVERLAP]} bodies below label.min_overlap={self.min_overlap:g}, "
                f"{counts[LabelStatus.LABELLED]} labelled; 0.5 suits measures of containment, "
                f"{self.measure} may want less"
            )
        nobody = {key: f["nobody"] for key, f in facts.items() if "nobody" in f}
        for key, why in list(nobody.items())[:5]:
            found = ", ".join(f"{count} {status}" for status, count in facts[key]["rows"].items()) or "none"
            faces = f"{facts[key]['faces']} annotated faces and no labelled body (bodies: {found})"
            warnings.append(f"label: {key}: {faces}{f'; {why}' if why else ''}")
        if len(nobody) > 5:
            warnings.append(f"label: so it is in {len(nobody) - 5} videos more: {some(list(nobody)[5:], 10)}")
        verdicts = Counter(a["verdict"] for a in alignment.values())
        if verdicts["too_slow"]:
            warnings.append(
                f"label: whether faces and frames are in step could not be determined in {verdicts['too_slow']} of "
                f"{len(alignment)} videos: their scenes are too slow, or too steady, for one frame to make a difference"
            )
        return [warning for warning in warnings if warning]

    def _refuse_short(self, frames: NDArray[np.int64], seen: dict[str, Any]) -> None:
        """Raise DataError where faces lie in frames that the video did not deliver, unless `short` is keep."""
        beyond = int((frames >= seen["delivered"]).sum())
        if not beyond or self.short == "keep":
            return
        from_one = frames.max() == seen["delivered"] and frames.min() > 0
        advice = "if the annotation counts from 1 set dataset.frame_base=1; or " if from_one else ""
        raise DataError(
            f"short: annotated up to frame {frames.max()}, but {seen['decoder']} delivered {seen['delivered']} "
            f"frames (0..{seen['delivered'] - 1}), so {beyond} faces have none; {advice}get the whole video, "
            "or keep what there is with label.short=keep"
        )


def _suppositions(xyxy: NDArray[np.float32], width: int, height: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """What wrong faces (n, 4) may be, and the boxes that they then are; the likeliest first."""
    sides = np.array([width, height, width, height], np.float32)
    if xyxy.max() <= 100 + LOOSE_PX:
        yield "if faces were in percent", xyxy * (sides / np.float32(100))
    for factor in _FACTORS:
        words = (
            f"are faces annotated on a picture {1 / factor:.3g} times the size, or bodies on one {factor:.3g} times?"
        )
        yield f"by faces times {factor:.3g}: {words}", xyxy * np.float32(factor)
    yield "if bodies were in percent", xyxy * (np.float32(100) / sides)
    yield "if faces had edges in place of sizes (dataset.box=xyxy)", np.hstack([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]])
    yield "if faces had sizes in place of edges (dataset.box=xywh)", np.hstack([xyxy[:, :2], xyxy[:, 2:] + xyxy[:, :2]])


def _table(bodies: pa.Table, faces: pa.Table, labels: Labels) -> pa.Table:
    """Rows of LABELS in the order of the bodies."""
    face = pa.array(labels.face, mask=labels.face < 0)
    subject = faces["subject_id"].take(pa.array(labels.face, mask=~labels.where(LabelStatus.LABELLED)))
    overlaps = [pa.array(labels.overlap), pa.array(labels.runner_up)]
    columns = [bodies["body_id"], bodies["frame"], subject, faces["face_no"].take(face), *overlaps]
    return pa.table([*columns, coded(labels.status, STATUSES)], schema=LABELS)


def _codes(subjects: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The subjects' names, and each face's position in them; -1 for a face without a subject."""
    encoded = subjects.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return encoded.dictionary.to_pylist(), codes


def _by_offset(means: dict[int, float]) -> dict[str, float]:
    return {f"{offset:+d}" if offset else "0": round(value, 4) for offset, value in means.items()}


def _out_of_step(alignment: dict[str, Any]) -> str:
    """Why a video is taken to be a frame off, with the figures that say so."""
    figures = []
    for name in ("overlap", "detrended_overlap"):
        values = alignment[name]
        if len(set(values.values())) > 1:  # a measure that says the same for every offset decided nothing
            said = ", ".join(f"{value:.3f} at {offset}" for offset, value in values.items())
            figures.append(f"{name.replace('_', ' ')} {said}")
    return (
        f"faces fit the bodies better at frame offset {alignment['offset']:+d} ({'; '.join(figures)}): "
        f"{alignment['advice']}; or set label.check_alignment=false"
    )
