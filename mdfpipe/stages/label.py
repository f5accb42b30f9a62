"""label: bodies named by the annotated faces of their frame or track. Every detection keeps a row and a status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.errors import DataError, counted, some
from mdfpipe.stages import Context, Inputs, Made, Review, Stage
from mdfpipe.stages.index import Index
from mdfpipe.store.tables import LABELS, LabelStatus, boxes_of, coded, joined
from mdfpipe.video.alignment import advice, frame_offset_overlap
from mdfpipe.video.carrying import NOBODY, Carried, CarryRules, carry, meeting, shared_names
from mdfpipe.video.geometry import clip_to_frame, inside_share
from mdfpipe.video.labelling import (
    CODE,
    STATUSES,
    LabelRules,
    Labels,
    Mask,
    first_of_frame,
    label_bodies,
    silent_filter,
)
from mdfpipe.video.placement import LOOSE_PX

# Ratios of two sizes of a picture, the usual ones first.
_FACTORS = (1 / 2, 2, 2 / 3, 3 / 2, 1 / 3, 3, 1 / 4, 4, 3 / 4, 4 / 3, 4 / 9, 9 / 4, 3 / 8, 8 / 3)
_Rows: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]
_MAY_BE_CARRIED = (LabelStatus.NO_FACE, LabelStatus.BELOW_MIN_OVERLAP)
"""The statuses of bodies that a track may name: no face of the frame says that they are somebody else."""


class Label(LabelRules, CarryRules, Stage):
    """The subject of each body: the one given with its box, that of a video of one person, that of the face inside, or
    that of faces of its track.
    """

    name: ClassVar[str] = "label"
    version: ClassVar[int] = 4
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

    one_person: Literal["largest", "surest", "all"] = Field(
        default="largest",
        description="in a video of one person, as the data set says (use: folders), the bodies of a frame that are "
        "named: the largest, the one with the best score, or all; the others are lost_assignment",
    )

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Tracks only where they name bodies."""
        return ("person", "faces", "detect", *(["track"] if self.carries else []))

    @property
    def carries(self) -> bool:
        """Whether the name of a body may be from other frames than its own."""
        return self.tracks == "carry"

    def without_effect(self, facts: Mapping[str, Any]) -> tuple[str, ...]:
        """`short` for a video that covers its annotation; `check_alignment` where faces were found to be in step;
        `one_person` where no frame of a video of one person has several bodies.
        """
        found: tuple[str, ...] = ("short",) if facts.get("faces_beyond_the_end", -1) == 0 else ()
        found += ("one_person",) if facts.get("frames_of_several", -1) == 0 else ()
        measured = facts.get("alignment", {})
        return found + (("check_alignment",) if measured.get("offset", 1) in (0, None) else ())

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        """Label the bodies of one video, and measure whether its annotation is in step with it."""
        bodies, seen = inputs.table("detect"), inputs.facts("detect")
        faces = inputs.faces()
        xyxy, face_xyxy = boxes_of(bodies), clip_to_frame(boxes_of(faces), seen["width"], seen["height"])
        body_frame, face_frame = bodies["frame"].to_numpy(), faces["frame"].to_numpy()
        _, subject = _codes(faces["subject_id"])
        labels, given = self._labels(bodies, faces, seen["width"], seen["height"], inputs.video.get("subject_id"))
        names = _names(faces, labels, given)
        named = labels.where(LabelStatus.LABELLED) & (labels.face >= 0)
        track, carried = None, None
        if self.carries:
            track = self._tracks(key, bodies, inputs)
            carried, names = self._carried(bodies, labels, track, names, seen["stride"])
        rows = _table(bodies, faces, labels, names, carried, track)
        subjects = Counter(names.drop_null().to_pylist())
        facts: dict[str, Any] = {
            "rows": {status.value: count for status, count in labels.counts().items() if count},
            "faces": faces.num_rows,
            "faces_matched": int(np.unique(labels.face[named]).size),
            "faces_beyond_the_end": int((face_frame >= seen["delivered"]).sum()),
            "frames_annotated": 1 + int(np.count_nonzero(np.diff(face_frame))) if face_frame.size else 0,
            "of_one_person": inputs.video.get("subject_id") is not None,
            "frames_of_several": int((np.unique(body_frame[given.open_], return_counts=True)[1] > 1).sum()),
            "subjects": dict(sorted(subjects.items())),
            **self._given_facts(bodies, faces, labels, given, seen),
        }
        if (shared := shared_names(body_frame, _codes(names)[1])).any():
            facts["shared_names"] = {"bodies": int(shared.sum()), "frames": len(np.unique(body_frame[shared]))}
        if carried:
            facts["tracks"] = {"with_faces": carried.tracks, "of_several": carried.changing}
        if len(faces) and not subjects:
            facts["nobody"] = self._why_nobody(bodies, faces, seen)
        if self.check_alignment:
            base = inputs.facts("index", Index.table).get("frame_base", 0)
            of_body = subject[labels.face[named]]
            facts["alignment"] = self._alignment(
                (body_frame[named], xyxy[named], of_body), (face_frame, face_xyxy, subject), base
            )
        if not facts.get("alignment", {}).get("offset"):  # a frame off is the better reason: `review` gives it
            self._refuse_short(face_frame, seen)
        return Made(rows, facts)

    def rows_of(self, bodies: pa.Table, faces: pa.Table, width: int, height: int, person: str | None) -> pa.Table:
        """Rows of LABELS of the bodies of some frames. bodies, faces: all rows of BODIES and of FACES of these frames;
        person: the one of the video, where the data set names one.

        Without tracks, the label of a body depends on the boxes and faces of its own frame alone, which is of
        width x height pixels.
        """
        labels, given = self._labels(bodies, faces, width, height, person)
        return _table(bodies, faces, labels, _names(faces, labels, given))

    def _labels(
        self, bodies: pa.Table, faces: pa.Table, width: int, height: int, person: str | None
    ) -> tuple[Labels, _Given]:
        """The labels, and the ids that are given. A body of a given id takes part in no matching with faces."""
        xyxy, frame = boxes_of(bodies), bodies["frame"].to_numpy()
        out = {
            LabelStatus.OFF_FRAME: inside_share(xyxy, width, height) < self.min_inside,
            LabelStatus.TOO_SMALL: xyxy[:, 3] - xyxy[:, 1] < self.min_height_px,
        }
        given = self._given(bodies, xyxy, ~np.logical_or.reduce([*out.values()]), person)
        named = given.subject_id.is_valid().to_numpy(zero_copy_only=False)
        names, subject = _codes(faces["subject_id"])
        labels = label_bodies(
            frame,
            xyxy,
            faces["frame"].to_numpy(),
            clip_to_frame(boxes_of(faces), width, height),
            subject,
            rules=self,
            body_score=bodies["score"].to_numpy(),
            excluded={**out, LabelStatus.LABELLED: named, LabelStatus.LOST_ASSIGNMENT: given.open_ & ~named},
        )
        if named.any() and names:
            _leave_to_given(labels, frame, given.subject_id, names, subject)
        return labels, given

    def _given(self, bodies: pa.Table, xyxy: NDArray[np.float32], usable: Mask, person: str | None) -> _Given:
        """The ids that are given: with the boxes, and in a video of one person. usable: bodies that may be named."""
        ids = bodies["subject_id"].combine_chunks()
        if person is None:
            return _Given(ids, np.zeros(len(ids), np.bool_))
        frame, nameless = bodies["frame"].to_numpy(), ~ids.is_valid().to_numpy(zero_copy_only=False)
        there = np.isin(frame, frame[pc.fill_null(pc.equal(ids, person), False).to_numpy(zero_copy_only=False)])
        open_ = usable & nameless
        if self.one_person == "all":
            chosen = open_
        else:
            area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
            merit = area if self.one_person == "largest" else bodies["score"].to_numpy()
            chosen = first_of_frame(frame, merit, open_ & ~there)
        return _Given(pc.if_else(pa.array(chosen), pa.scalar(person), ids), open_)

    def _given_facts(
        self, bodies: pa.Table, faces: pa.Table, labels: Labels, given: _Given, seen: Mapping[str, Any]
    ) -> dict[str, int]:
        """How many labelled bodies have a given id, and how many of these hold the face of another subject."""
        here = np.flatnonzero(labels.where(LabelStatus.LABELLED) & (labels.face < 0))
        if not len(here):
            return {}
        rows, (names, subject) = pa.array(here), _codes(faces["subject_id"])
        by_face = label_bodies(
            bodies["frame"].to_numpy()[here],
            boxes_of(bodies)[here],
            faces["frame"].to_numpy(),
            clip_to_frame(boxes_of(faces), seen["width"], seen["height"]),
            subject,
            rules=self,
        )
        matched = np.flatnonzero(by_face.where(LabelStatus.LABELLED))
        face_of = pa.array(names, pa.string()).take(pa.array(subject[by_face.face[matched]]))
        other = pc.not_equal(given.subject_id.take(rows).take(pa.array(matched)), face_of)
        return {"given": len(here), "given_against_face": pc.sum(other).as_py() or 0}

    def _tracks(self, key: str, bodies: pa.Table, inputs: Inputs) -> NDArray[np.int64]:
        """(n,) the track of each body, -1 without one."""
        tracks = inputs.table("track", columns=["body_id", "track"])
        tracks = joined(tracks, bodies["body_id"], "body_id", inputs.run.part("track", key), "detect")
        found: NDArray[np.int64] = tracks["track"].fill_null(NOBODY).to_numpy().astype(np.int64)
        return found

    def _carried(
        self, bodies: pa.Table, labels: Labels, track: NDArray[np.int64], names: pa.Array, stride: int
    ) -> tuple[Carried, pa.Array]:
        """What tracks name, and all names; the statuses follow, in place. names: (n,) null without one."""
        seconds = bodies["pts_seconds"].fill_null(np.nan).to_numpy()
        if self.most_seconds is not None and np.isnan(seconds).any():
            raise DataError(
                "label.most_seconds: expected a time for each frame, got frames without one in the video; limit the "
                "distance by label.most_frames"
            )
        known, who = _codes(names)
        may = np.isin(labels.status, [CODE[status] for status in _MAY_BE_CARRIED])
        frame, score = bodies["frame"].to_numpy(), bodies["score"].to_numpy()
        doubt = meeting(frame, track, boxes_of(bodies), self.most_overlap)
        found = carry(frame, track, who, may, score, self, seconds, doubt, stride)
        labels.status[found.conflict] = CODE[LabelStatus.TRACK_CONFLICT]
        labels.status[found.named] = CODE[LabelStatus.LABELLED_BY_TRACK]
        by_track = pa.array(known, pa.string()).take(pa.array(found.subject, mask=~found.named))
        return found, pc.coalesce(names, by_track)

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
        failures = {key: _out_of_step(a) for key, a in off.items()}
        return Review(failures, warnings, notes=self._of_tracks(facts))

    def _warnings(self, facts: dict[str, dict[str, Any]], alignment: dict[str, Any]) -> list[str]:
        counts: Counter[LabelStatus] = Counter()
        for each in facts.values():
            counts.update({status: each["rows"].get(status, 0) for status in LabelStatus})
        warnings = [silent_filter(self, counts)]
        if counts[LabelStatus.BELOW_MIN_OVERLAP] > counts[LabelStatus.LABELLED]:
            warnings.append(
                f"label: {counted(counts[LabelStatus.BELOW_MIN_OVERLAP], 'body')} below "
                f"label.min_overlap={self.min_overlap:g}, "
                f"{counts[LabelStatus.LABELLED]} labelled; 0.5 suits measures of containment, "
                f"{self.measure} may want less"
            )
        nobody = {key: f["nobody"] for key, f in facts.items() if "nobody" in f}
        for key, why in list(nobody.items())[:5]:
            found = ", ".join(f"{count} {status}" for status, count in facts[key]["rows"].items()) or "none"
            faces = f"{counted(facts[key]['faces'], 'face')} and no labelled body (bodies: {found})"
            warnings.append(f"label: {key}: {faces}{f'; {why}' if why else ''}")
        if len(nobody) > 5:
            warnings.append(
                f"label: so it is in {counted(len(nobody) - 5, 'video')} more: {some(list(nobody)[5:], 10)}"
            )
        warnings += self._given_said(facts)
        warnings.append(self._of_shared_names(facts))
        verdicts = Counter(a["verdict"] for a in alignment.values())
        if verdicts["too_slow"]:
            warnings.append(
                f"label: whether faces and frames are in step could not be determined in {verdicts['too_slow']} of "
                f"{len(alignment)} videos: their scenes are too slow, or too steady, for one frame to make a difference"
            )
        return [warning for warning in warnings if warning]

    def _given_said(self, facts: dict[str, dict[str, Any]]) -> list[str]:
        """What makes one wonder at ids that are given."""
        lines = []
        if facts and not any(f["faces"] or f.get("given") or f.get("of_one_person") for f in facts.values()):
            lines.append(
                "label: no body is named: no video has annotated faces, boxes with ids (subject_id), or one person "
                "(dataset.use=folders, {subject} in dataset.folders); crop and all stages after it need one of these"
            )
        against = {key: f["given_against_face"] for key, f in facts.items() if f.get("given_against_face")}
        if against:
            given = sum(facts[key]["given"] for key in against)
            lines.append(
                f"label: {sum(against.values())} of {given} bodies with a given id hold the face of another subject "
                f"(videos: {some(list(against), 3)}); the given id is taken; are both of the same people?"
            )
        several = {key: f["frames_of_several"] for key, f in facts.items() if f.get("frames_of_several")}
        if several:
            key = max(several, key=lambda k: several[k])
            taken = {"largest": "the largest is", "surest": "the one of the best score is", "all": "all are"}
            lines.append(
                f"label: {counted(sum(several.values()), 'frame')} of {counted(len(several), 'video')} of one person "
                f"with several bodies (most in {key}: {several[key]}): {taken[self.one_person]} named "
                "(label.one_person)"
            )
        return lines

    def _of_shared_names(self, facts: dict[str, dict[str, Any]]) -> str:
        """A warning where two bodies of a frame have one name, but for videos of one person, which have their own."""
        found = [f.get("shared_names", {}) for f in facts.values() if not f.get("of_one_person")]
        bodies, frames = (sum(one.get(name, 0) for one in found) for name in ("bodies", "frames"))
        advice = {
            "per_detection": "label.assignment=mutual_best gives a face to one body",
            "mutual_best": "two faces, or given ids, of a frame have one subject: mend the annotation",
        }
        return (
            f"label: {bodies} bodies share their name with another body of their frame, in {frames} frames of "
            f"{sum(map(bool, found))} videos; {advice.get(self.assignment, advice['mutual_best'])}"
            if bodies
            else ""
        )

    def _of_tracks(self, facts: dict[str, dict[str, Any]]) -> list[str]:
        """A line on the bodies that tracks name, where they may."""
        if not self.carries:
            return []
        rows = Counter[str]()
        for each in facts.values():
            rows.update(each["rows"])
        tracks = [each.get("tracks", {}) for each in facts.values()]
        with_faces, of_several = (sum(one.get(name, 0) for one in tracks) for name in ("with_faces", "of_several"))
        by_track, given = rows[LabelStatus.LABELLED_BY_TRACK], sum(each.get("given", 0) for each in facts.values())
        named = rows[LabelStatus.LABELLED]
        more = f" ({100 * by_track / named:.0f} % more)" if named else ""
        ids = f", {given} by a given id" if given else ""
        what = "cut where these change" if self.conflict == "cut" else "left alone"
        return [
            f"label: {named - given} bodies named by a face of their frame{ids}, {by_track} by their track{more}; "
            f"{of_several} of {with_faces} tracks with names have names of several subjects: {what}"
        ]

    def _refuse_short(self, frames: NDArray[np.int64], seen: dict[str, Any]) -> None:
        """Raise DataError where faces lie in frames that the video did not deliver, unless `short` is keep."""
        beyond = int((frames >= seen["delivered"]).sum())
        if not beyond or self.short == "keep":
            return
        from_one = frames.max() == seen["delivered"] and frames.min() > 0
        advice = "if the annotation counts from 1 set dataset.frame_base=1; or " if from_one else ""
        raise DataError(
            f"short: annotated up to frame {frames.max()}, but {seen['decoder']} delivered {seen['delivered']} "
            f"frames (0..{seen['delivered'] - 1}), so {counted(beyond, 'face has', 'faces have')} none; {advice}get "
            "the whole video, or keep what there is with label.short=keep"
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


@dataclass(frozen=True, eq=False)
class _Given:
    """Ids that are given and not found by a face. subject_id: (n,) text; null where none is given. open_: mask (n,) of
    the bodies that could be the one person of their video.
    """

    subject_id: pa.Array
    open_: Mask


def _leave_to_given(
    labels: Labels, frame: NDArray[np.int64], given: pa.Array, names: list[str], subject: NDArray[np.int64]
) -> None:
    """Take back, in place, the name of a body that has it by a face, where one of a given id has it in its frame."""
    code = pc.index_in(given, pa.array(names, pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
    labelled, by_face = labels.where(LabelStatus.LABELLED), labels.face >= 0
    taken = labelled & ~by_face & (code >= 0)
    rows = np.flatnonzero(labelled & by_face)
    there = np.isin(frame[rows] * len(names) + subject[labels.face[rows]], frame[taken] * len(names) + code[taken])
    labels.status[rows[there]] = STATUSES.index(LabelStatus.LOST_ASSIGNMENT)


def _names(faces: pa.Table, labels: Labels, given: _Given) -> pa.Array:
    """(n,) the subject of each body by its face or its given id, null without one."""
    named = labels.where(LabelStatus.LABELLED)
    by_face = faces["subject_id"].take(pa.array(labels.face, mask=~named | (labels.face < 0))).combine_chunks()
    return pc.if_else(pa.array(named & (labels.face < 0)), given.subject_id, by_face)


def _table(
    bodies: pa.Table,
    faces: pa.Table,
    labels: Labels,
    names: pa.Array,
    carried: Carried | None = None,
    track: NDArray[np.int64] | None = None,
) -> pa.Table:
    """Rows of LABELS in the order of the bodies. names: (n,); carried, track: (n,) where tracks name bodies."""
    face = pa.array(labels.face, mask=labels.face < 0)
    distance = np.where(labels.where(LabelStatus.LABELLED) & (labels.face >= 0), 0, NOBODY)
    if carried is not None:
        distance = np.where(carried.named, carried.distance, distance)
    track = np.full(len(distance), NOBODY) if track is None else track
    columns = {
        "body_id": bodies["body_id"],
        "frame": bodies["frame"],
        "subject_id": names,
        "face_no": faces["face_no"].take(face),
        "overlap": pa.array(labels.overlap),
        "runner_up": pa.array(labels.runner_up),
        "status": coded(labels.status, STATUSES),
        "track": pa.array(track.astype(np.int32), mask=track < 0),
        "face_distance": pa.array(distance.astype(np.int32), mask=distance < 0),
    }
    return pa.table([columns[name] for name in LABELS.names], schema=LABELS)


def _codes(subjects: pa.ChunkedArray | pa.Array) -> tuple[list[str], NDArray[np.int64]]:
    """The subjects' names, and each face's position in them; -1 for a face without a subject."""
    whole = subjects.combine_chunks() if isinstance(subjects, pa.ChunkedArray) else subjects
    encoded = whole.dictionary_encode()
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
