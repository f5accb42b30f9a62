"""The page of the ids of found faces: wrong ids are visible, each next to the command that mends it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mdfpipe.datasets.reading import found_faces
from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import Picture
from mdfpipe.errors import DataError, MdfError, counted, one_line
from mdfpipe.inspecting.face_ids import ASSUMED_FPS, F64, Doubt, Face, FaceId, FaceIds
from mdfpipe.inspecting.page import templates
from mdfpipe.inspecting.things import Description
from mdfpipe.running.faces import TABLE
from mdfpipe.running.replay import data_root, frames_of
from mdfpipe.running.survey import Survey, survey
from mdfpipe.store.files import write_output
from mdfpipe.video.cropping import cut, square_box

if TYPE_CHECKING:
    from mdfpipe.learning.own_images import Embedder

_SIDE: Final = 76  # pixels of a picture on the page
CROP_MARGIN: Final = 0.1  # as the stage crop cuts faces by default
_MARGIN: Final = 0.5  # of the face's longer side, around it


@dataclass(frozen=True)
class FaceLimits:
    """How much the page shows. reach_frames: later faces are not shown, as a video is decoded from its start."""

    alike: int = 40
    videos: int = 40
    ids_of_video: int = 10
    doubles: int = 40
    mixtures: int = 40
    ids: int = 120
    faces: int = 8
    reach_frames: int = 9000


def face_table(thing: Path) -> Path | None:
    """The table of found faces that `thing` is, or has, or was made in; None where there is none."""
    places = [thing / TABLE] if thing.is_dir() else [thing]
    if thing.is_dir() and thing.suffix == ".run":
        places.append(thing.with_suffix(".csv"))
    return next((place for place in places if found_faces.is_found(place)), None)


def describe_faces(table: Path) -> Description:
    """Counts of a face table and of the signs that its ids are wrong. Raises DataError."""
    notes = ["--html PAGE --show-people shows the faces of each id, and the command that mends a wrong one"]
    try:
        ids = _ids(table, survey(table.with_suffix(".run")), notes)
    except MdfError:
        ids = _ids(table, None, notes)
    notes += _apart(ids)
    facts: dict[str, Any] = {
        "faces": len(ids.frame),
        "ids": ids.count,
        "videos": len(ids.paths),
        "ids in several videos": ids.shared,
        "faces without an id": ids.nameless,
        "likely one person with two ids": len(ids.doubles()),
        "likely two people with one id": len(ids.mixtures()),
        "bytes": table.stat().st_size,
    }
    what = "a face table of mdfpipe faces; source: detected"
    return Description("table", str(table), what, facts, notes=notes)


def write_face_page(
    table: Path,
    out: Path,
    show_people: bool = False,
    limits: FaceLimits = FaceLimits(),
    embedder: Embedder | None = None,
) -> list[str]:
    """Write one self-contained page about the ids of a face table; return lines on it. The same table gives the same
    page. embedder: a network of faces, which ranks pairs of ids across videos. Videos that cannot be read leave a note
    instead of pictures. Raises DataError, StoreError.
    """
    run = table.with_suffix(".run")
    try:
        found, data = survey(run), data_root(run)
    except MdfError as error:
        raise DataError(
            f"{table}: expected the work of `mdfpipe faces` in {run.name} next to it, for the pictures: "
            f"{one_line(error, 160)}; run the same `mdfpipe faces` again, or move that folder there"
        ) from None
    states = {str(video.row["path"]): video for video in found.videos}
    notes: list[str] = []
    ids = _ids(table, found, notes)
    doubles, mixtures = ids.doubles(), ids.mixtures()
    shown = doubles[: limits.doubles], mixtures[: limits.mixtures]
    people = ids.ids(limits.ids, limits.faces, [*shown[0], *shown[1]])
    videos = ids.by_video(limits.videos, limits.ids_of_video, limits.reach_frames)
    faces = dict.fromkeys(face for person in people for face in person.shown)
    faces |= dict.fromkeys(face for doubts in shown for doubt in doubts for _, side in doubt.sides for face in side)
    faces |= dict.fromkeys(face for video in videos for _, face, _ in video.ids)
    crops: dict[Face, Picture] | None = None if embedder is None else {}
    pictures = _pictures(found, data, faces, show_people, limits.reach_frames, notes, crops)
    alike: list[Doubt] = []
    if embedder is not None and crops is not None:
        alike = ids.alike(people, _vectors(embedder, people, crops), limits.alike)
    content = {
        "name": table.parent.resolve().name,
        "show_people": show_people,
        "tiles": [
            (ids.count, "id", "one a track and video, unless merged"),
            (len(ids.frame), "face", f"{ids.nameless} without an id"),
            (len(ids.paths), "video", "with a face"),
            (len(doubles), "likely double", "two ids of one person"),
            (len(mixtures), "likely mixture", "one id of two people"),
        ],
        "count": ids.count,
        "shared": ids.shared,
        "videos": videos,
        "videos_left": ids.videos - len(videos) if videos else 0,
        "alike": [_card(doubt, table) for doubt in alike],
        "network": embedder.weights.name if embedder else "",
        "compared": len(people),
        "doubles": [_card(doubt, table) for doubt in shown[0]],
        "doubles_left": len(doubles) - len(shown[0]),
        "mixtures": [_card(doubt, table) for doubt in shown[1]],
        "mixtures_left": len(mixtures) - len(shown[1]),
        "people": [_person(person) for person in people],
        "command": _command(table, ("--merge", "ID=OTHER")),
        "pictures": pictures,
        "limits": limits,
        "notes": notes,
    }
    text = str(templates().get_template("ids.html.j2").render(content)) + "\n"
    write_output(out, text.encode(), table, *(data / path for path in states))
    hidden = [] if show_people else ["faces are hidden; with --show-people they are not"]
    signs = f"{counted(len(doubles), 'likely double')}, {counted(len(mixtures), 'likely mixture')}"
    signs += f", {counted(len(alike), 'pair')} ranked across videos" if embedder else ""
    return [
        *notes,
        f"{counted(ids.count, 'id')}: {signs}",
        *_apart(ids),
        f"{counted(len(pictures), 'picture')} in {len(text) / 1e6:.2f} MB",
        *hidden,
    ]


def _ids(table: Path, work: Survey | None, notes: list[str]) -> FaceIds:
    """The ids of a table, with the frame rates of its videos as its run folder has them; a note on those it lacks."""
    rates = {str(v.row["path"]): fps for v in (work.videos if work else ()) if (fps := v.facts("track").get("fps"))}
    ids = FaceIds(table, rates)
    if lacking := sum(path not in rates for path in ids.paths):
        notes.append(
            f"{counted(lacking, 'video')} without a frame rate in {table.with_suffix('.run').name}: pauses are "
            f"measured at {ASSUMED_FPS:g} frames a second"
        )
    return ids


def _apart(ids: FaceIds) -> list[str]:
    """A line where no id is in two videos."""
    if ids.videos < 2 or ids.shared:
        return []
    return [
        f"no id is in two of the {ids.videos} videos: ids of different videos are different people until `mdfpipe "
        "faces --merge` makes them one"
    ]


def _vectors(embedder: Embedder, people: Iterable[FaceId], crops: Mapping[Face, Picture]) -> dict[str, F64]:
    """The mean of the unit vectors of each id's faces, of length 1, by its name; of ids whose faces have crops."""
    faces = list(crops)
    found = embedder([crops[face] for face in faces]).astype(np.float64) if faces else np.zeros((0, 1))
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    unit = dict(zip(faces, found, strict=True))
    means = {one.name: np.mean(own, axis=0) for one in people if (own := [unit[f] for f in one.shown if f in unit])}
    return {name: mean / max(float(np.linalg.norm(mean)), 1e-12) for name, mean in means.items()}


def _card(doubt: Doubt, table: Path) -> dict[str, Any]:
    sides = [(words, _strips(faces)) for words, faces in doubt.sides]
    return {"ids": doubt.ids, "words": doubt.words, "sides": sides, "command": _command(table, doubt.mend)}


def _person(person: FaceId) -> dict[str, Any]:
    return {"id": person, "strips": _strips(person.shown)}


def _strips(faces: Iterable[Face]) -> list[tuple[str, list[Face]]]:
    """Faces by their video."""
    found: dict[str, list[Face]] = defaultdict(list)
    for face in faces:
        found[face.path].append(face)
    return list(found.items())


def _command(table: Path, options: tuple[str, ...]) -> str:
    """A call of `mdfpipe faces` for a shell."""
    place = table.parent if table.name == TABLE else table
    return shlex.join(["mdfpipe", "faces", str(place), *options])


def _pictures(
    found: Survey,
    data: Path,
    faces: Iterable[Face],
    show_people: bool,
    reach: int,
    notes: list[str],
    crops: dict[Face, Picture] | None = None,
) -> dict[Face, Picture]:
    """The picture of every face whose video can be decoded. crops: gets each as the stage crop cuts it, by default."""
    wanted: dict[str, dict[int, list[Face]]] = defaultdict(lambda: defaultdict(list))
    beyond = 0
    for face in faces:
        if face.frame < reach:
            wanted[face.path][face.frame].append(face)
        else:
            beyond += 1
    if beyond:
        notes.append(f"{counted(beyond, 'face')} after frame {reach} of a video: no picture of these")
    states, made = {str(video.row["path"]): video for video in found.videos}, dict[Face, Picture]()
    for path, frames in wanted.items():
        video = states.get(path)
        if video is None:
            notes.append(f"{one_line(path, 120)}: no pictures: it is no video of {found.run.path.name}")
            continue
        try:
            for number, image in frames_of(data, video, frames):
                shown = figures.to_display(image, video.window)
                for face in frames[number]:
                    made[face] = _picture(face, shown, show_people)
                    if crops is not None:
                        box = square_box(np.array(face.xyxy, np.float32), CROP_MARGIN)
                        crops[face] = np.ascontiguousarray(cut(shown, box))
        except MdfError as error:
            notes.append(f"{one_line(path, 120)}: not all pictures: {one_line(error)}")
    return made


def _picture(face: Face, frame: Picture, show_people: bool) -> Picture:
    """A face and what is around it: (_SIDE, _SIDE, 3), of a square that stays inside the frame where it can."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = face.xyxy
    side = max(round(max(x2 - x1, y2 - y1) * (1 + 2 * _MARGIN)), 4)
    left, top = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    left, top = min(max(left, 0), max(width - side, 0)), min(max(top, 0), max(height - side, 0))
    cut = frame[top : top + side, left : left + side]
    if not cut.size:
        cut = frame[:1, :1]
    made = figures.scaled_to(cut, _SIDE, _SIDE)
    return made if show_people else figures.hidden_crop(made, figures.FACE_BLOCKS)
