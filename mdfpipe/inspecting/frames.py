"""One frame: its bodies and faces, what became of each and why, and the picture with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import COLOURS, FACE_COLOUR, UNLABELLED, XYXY, Mark, Picture
from mdfpipe.errors import counted, one_line
from mdfpipe.running.survey import Survey, VideoState, faces_of
from mdfpipe.store.tables import LabelStatus, joined

Overlaps: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[Any]]
"""body (1, 4), faces (m, 4) -> (m,) by the ambiguity measure of the run."""


@dataclass(frozen=True)
class ViewedFace:
    """A face of the face tables. subject_id: None if they do not name it."""

    face_no: int
    subject_id: str | None
    xyxy: XYXY

    @property
    def name(self) -> str:
        """The subject, or the face's number."""
        return self.subject_id if self.subject_id is not None else f"face {self.face_no}, unnamed"


@dataclass(frozen=True)
class ViewedBody:
    """A detected body. number: within the frame. status: None where `label` has not run. reason: in words.

    track: of the video; None where it has none.
    """

    number: int
    xyxy: XYXY
    score: float
    status: LabelStatus | None
    subject_id: str | None
    reason: str
    track: int | None = None

    @property
    def colour(self) -> str:
        """The colour of its status."""
        return COLOURS[self.status] if self.status else UNLABELLED

    @property
    def ink(self) -> str:
        """The colour of words on its colour."""
        return figures.ink_on(self.colour)

    @property
    def standing(self) -> str:
        """Its status in words."""
        return self.status.value.replace("_", " ") if self.status else f"body {self.score:.2f}"

    @property
    def words(self) -> str:
        """The words on its strip: the subject, or why there is none; and its track."""
        track = "" if self.track is None else f" t{self.track}"
        if self.status is None:
            return f"#{self.number} body {self.score:.2f}{track}"
        return f"#{self.number} {self.subject_id or self.status.value.replace('_', ' ')}{track}"


@dataclass(frozen=True)
class FrameView:
    """A frame, its bodies and its faces; boxes in pixels of the decoded frame."""

    video_id: str
    domain: str
    frame: int
    bodies: tuple[ViewedBody, ...]
    faces: tuple[ViewedFace, ...]

    @property
    def title(self) -> str:
        """Where it is, in one line."""
        return f"{self.domain} · {self.video_id} · frame {self.frame}"

    def tagged_faces(self) -> list[ViewedFace]:
        """The faces that need a tag of their own: all but those in a body of the same name."""
        named = [(body.subject_id, body.xyxy) for body in self.bodies if body.subject_id is not None]
        return [f for f in self.faces if not any(f.subject_id == name and _holds(box, f.xyxy) for name, box in named)]

    def legend(self) -> list[tuple[str, str]]:
        """(words, colour) of what is drawn in it."""
        found = Counter(body.status for body in self.bodies)
        entries = [(f"{s.value.replace('_', ' ')} {found[s]}", colour) for s, colour in COLOURS.items() if found[s]]
        entries += [(f"body, not labelled yet {found[None]}", UNLABELLED)] if found[None] else []
        return entries + ([(f"face {len(self.faces)}", FACE_COLOUR)] if self.faces else [])


def views(survey: Survey, video: VideoState, frames: Iterable[int], overlaps: Overlaps | None) -> dict[int, FrameView]:
    """The wanted frames of one video, from its tables. Raises StoreError where a table cannot be read, DataError where
    its bodies and labels are not of each other.
    """
    wanted, is_labelled = pa.array(sorted(set(frames)), pa.int64()), "label" in video.receipts
    settings = video.receipts["label"].settings if is_labelled else {}
    bodies = survey.run.table("detect", video.video_id)
    picked = pc.is_in(bodies["frame"], wanted)
    rows = bodies.filter(picked).to_pylist()
    if is_labelled:
        labels, part = survey.run.table("label", video.video_id), survey.run.part("label", video.video_id)
        labels = joined(labels, bodies["body_id"], "body_id", part, "detect").filter(picked).to_pylist()
        rows = [row | label for row, label in zip(rows, labels, strict=True)]
    if "track" in video.receipts:
        tracks, part = survey.run.table("track", video.video_id), survey.run.part("track", video.video_id)
        tracks = joined(tracks, bodies["body_id"], "body_id", part, "detect").filter(picked)["track"].to_pylist()
        rows = [row | {"track": track} for row, track in zip(rows, tracks, strict=True)]
    faces = faces_of(survey.run, video.video_id)
    found: dict[int, list[ViewedFace]] = {}
    for row in faces.filter(pc.is_in(faces["frame"], wanted)).to_pylist():
        found.setdefault(row["frame"], []).append(ViewedFace(row["face_no"], row["subject_id"], _xyxy(row)))
    bodies_of: dict[int, list[ViewedBody]] = {}
    for row in rows:
        status = LabelStatus(row["status"]) if is_labelled else None
        reason = _reason(row, found.get(row["frame"], []), settings, overlaps) if is_labelled else "label has not run"
        number = int(row["body_id"].rpartition("/")[2])
        body = ViewedBody(number, _xyxy(row), row["score"], status, row.get("subject_id"), reason, row.get("track"))
        bodies_of.setdefault(row["frame"], []).append(body)
    return {
        n: FrameView(video.video_id, video.domain, n, tuple(bodies_of.get(n, ())), tuple(found.get(n, ())))
        for n in wanted.to_pylist()
    }


def _xyxy(row: Mapping[str, Any]) -> XYXY:
    return row["x1"], row["y1"], row["x2"], row["y2"]


def _reason(row: dict[str, Any], faces: list[ViewedFace], settings: dict[str, Any], overlaps: Overlaps | None) -> str:
    """Why a body has its status, with the figures that decided it. row: of the body and of its label."""
    status, least = LabelStatus(row["status"]), settings.get("min_overlap", 0.0)
    face = next((f for f in faces if f.face_no == row["face_no"]), None)
    who = one_line(face.name, 60) if face else "no face"
    best = f"{settings.get('measure', 'overlap')} {row['overlap']:.2f} with {who}"
    if status is LabelStatus.LABELLED and row["face_no"] is None:
        return "its id is given, with its box or by a video of one person"
    if status is LabelStatus.LABELLED:
        other = f"; next best {row['runner_up']:.2f}" if row["runner_up"] > 0 else ""
        return f"{best}, at least {least:g}{other}"
    if status is LabelStatus.AMBIGUOUS:
        return _why_ambiguous(row, faces, settings, overlaps)
    away = counted(row.get("face_distance") or 0, "frame")
    nearest = f"of the nearest face of its track {row.get('track')}, {away} from here"
    return {
        LabelStatus.LABELLED_BY_TRACK: f"the subject {nearest}",
        LabelStatus.TRACK_CONFLICT: f"faces of several subjects in its track {row.get('track')} around this frame, or "
        "another body has the better claim",
        LabelStatus.NO_FACE: "no face touches it",
        LabelStatus.BELOW_MIN_OVERLAP: f"{best} is its best, below the {least:g} that names a body",
        LabelStatus.LOST_ASSIGNMENT: f"{best}, but another body has the better claim"
        if face
        else "another body of its frame is the one person of the video",
        LabelStatus.UNNAMED_FACE: f"{best}, which has no subject",
        LabelStatus.TOO_SMALL: f"{row['y2'] - row['y1']:.0f} px high, lower than {settings.get('min_height_px', 0):g}",
        LabelStatus.OFF_FRAME: f"less than {settings.get('min_inside', 0):.0%} of it is inside the frame",
    }[status]


def _why_ambiguous(
    row: dict[str, Any], faces: list[ViewedFace], settings: dict[str, Any], overlaps: Overlaps | None
) -> str:
    threshold = settings.get("ambiguity_threshold", 0.0)
    rule = f"each with {settings.get('ambiguity_measure', 'overlap')} above {threshold:g}"
    if overlaps is not None and faces:
        found = overlaps(np.array([_xyxy(row)], np.float32), np.array([f.xyxy for f in faces], np.float32))
        inside = [(f, float(v)) for f, v in zip(faces, found, strict=True) if v > threshold]
        if len(inside) > 1:
            inside.sort(key=lambda fv: (-fv[1], fv[0].face_no))
            names = [f"{one_line(f.name, 60)} ({v:.2f})" for f, v in inside]
            return f"the faces of {', '.join(names[:-1])} and {names[-1]} lie in it, {rule}"
    return f"faces of two subjects lie in it, {rule}"


def draw(
    view: FrameView,
    image: NDArray[Any],
    window: tuple[float, float] | None,
    show_people: bool,
    width: tuple[int, int],
    numbers: bool = False,
) -> Picture:
    """The frame with its boxes, names and statuses, (H, W, 3); people hidden unless `show_people`.

    image: the decoded frame, (H, W, C). width: the least and the greatest width of the picture, pixels. numbers: tags
    are numbers that a legend explains: of bodies `3`, of `tagged_faces` `f3`.
    """
    picture, scale = figures.fitted(figures.to_display(image, window), *width)
    bodies = [_scaled(body.xyxy, scale) for body in view.bodies]
    faces = [_scaled(face.xyxy, scale) for face in view.faces]
    if not show_people:
        alone = [figures.presumed_body(face) for face in faces if not any(_holds(body, face) for body in bodies)]
        picture = figures.hidden(picture, [*alone, *bodies], faces)
    tagged = view.tagged_faces() if numbers else view.faces
    names = {face.face_no: f"f{face.face_no}" if numbers else one_line(face.name, 40) for face in tagged}
    marks = [Mark(body.xyxy, str(body.number) if numbers else body.words, body.colour) for body in view.bodies]
    marks += [Mark(face.xyxy, names.get(face.face_no, ""), FACE_COLOUR, is_face=True) for face in view.faces]
    return figures.draw_boxes(picture, marks, scale)


def _scaled(box: XYXY, scale: float) -> XYXY:
    return box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale


def _holds(body: XYXY, face: XYXY) -> bool:
    x, y = (face[0] + face[2]) / 2, (face[1] + face[3]) / 2
    return body[0] <= x < body[2] and body[1] <= y < body[3]
