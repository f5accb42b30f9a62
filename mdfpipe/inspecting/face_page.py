"""The page of the ids of found faces: wrong ids are visible, each next to the command that mends it."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdfpipe.datasets.reading import found_faces
from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import Picture
from mdfpipe.errors import DataError, MdfError, counted, one_line
from mdfpipe.inspecting.face_ids import ASSUMED_FPS, Doubt, Face, FaceId, FaceIds
from mdfpipe.inspecting.page import templates
from mdfpipe.inspecting.things import Description
from mdfpipe.running.faces import TABLE
from mdfpipe.running.replay import data_root, frames_of
from mdfpipe.running.survey import Survey, survey
from mdfpipe.store.files import write_output

_SIDE: Final = 76  # pixels of a picture on the page
_MARGIN: Final = 0.5  # of the face's longer side, around it


@dataclass(frozen=True)
class FaceLimits:
    """How much the page shows. reach_frames: later faces are not shown, as a video is decoded from its start."""

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
    facts: dict[str, Any] = {
        "faces": len(ids.frame),
        "ids": ids.count,
        "videos": len(ids.paths),
        "faces without an id": ids.nameless,
        "likely one person with two ids": len(ids.doubles()),
        "likely two people with one id": len(ids.mixtures()),
        "bytes": table.stat().st_size,
    }
    what = "a face table of mdfpipe faces; source: detected"
    return Description("table", str(table), what, facts, notes=notes)


def write_face_page(table: Path, out: Path, show_people: bool = False, limits: FaceLimits = FaceLimits()) -> list[str]:
    """Write one self-contained page about the ids of a face table; return lines on it. The same table gives the same
    page. Videos that cannot be read leave a note instead of pictures. Raises DataError, StoreError.
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
    faces = dict.fromkeys(face for person in people for face in person.shown)
    faces |= dict.fromkeys(face for doubts in shown for doubt in doubts for _, side in doubt.sides for face in side)
    pictures = _pictures(found, data, faces, show_people, limits.reach_frames, notes)
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
    return [
        *notes,
        f"{counted(ids.count, 'id')}: {signs}",
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
    found: Survey, data: Path, faces: Iterable[Face], show_people: bool, reach: int, notes: list[str]
) -> dict[Face, Picture]:
    """The picture of every face whose video can be decoded."""
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
                for face in frames[number]:
                    made[face] = _picture(face, figures.to_display(image, video.window), show_people)
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
