"""Pictures and pages of a run: its frames and crops are decoded here.

Videos are decoded from their start, by the decoder that delivered them to `detect`, up to the last wanted frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.domains import by_wavelength
from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import Picture
from mdfpipe.errors import ConfigError, DataError, MdfError, one_line
from mdfpipe.inspecting import frames
from mdfpipe.inspecting.frames import Overlaps
from mdfpipe.inspecting.page import DrawnFrame, Page, render
from mdfpipe.inspecting.samples import CropChoice, FrameChoice, Limits, SubjectSample, sample, spread
from mdfpipe.running.replay import data_root, frames_of
from mdfpipe.running.survey import Survey, VideoState, survey
from mdfpipe.store.environment import read_environment
from mdfpipe.store.files import write_output
from mdfpipe.store.images import decode, recorded_window
from mdfpipe.store.naming import inside
from mdfpipe.store.run import Run
from mdfpipe.store.shards import CHECKSUM, UNVERIFIED, read_crop
from mdfpipe.study.study import open_run

NOT_HIDDEN = "Not pixelated: people that neither detector nor annotation found"
_THREADS = 2
_BATCH = 4
_PICTURE_WIDTH = (960, 1920)  # least and greatest, pixels
_PAGE_WIDTH = (480, 560)
_CROP_HEIGHT, _FACE_SIDE = 168, 84  # pixels on the page


# -- one frame


def draw_frame(run: Path, video_id: str, frame: int, out: Path, show_people: bool = False) -> list[str]:
    """Draw one frame with bodies, faces, names and statuses into a PNG or JPEG; return a line for each body.

    Raises DataError if the video or frame does not exist, or is not decoded any more; StoreError.
    """
    kind = picture_kind(out, "--out")
    found = survey(run)
    video = found.video(video_id)
    if found.of_images:
        raise DataError(f"{run}: --frame: its data set holds images of one person each, no frames; --sheet shows crops")
    _check_frame(run, video, frame)
    view = frames.views(found, video, [frame], _overlaps(video))[frame]
    image = dict(frames_of(data_root(run), video, [frame]))[frame]
    picture = frames.draw(view, image, video.window, show_people, _PICTURE_WIDTH)
    picture = figures.captioned(picture, view.title, view.legend(), "" if show_people else NOT_HIDDEN)
    write_output(out, figures.encoded(picture, kind, quality=92))
    lines = [f"{body.words}: {body.reason}" for body in view.bodies]
    return lines or ["no body was detected in this frame"]


def decoded_frame(run: Path, video_id: str, frame: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """The pixels (H, W, C) of one frame, by the decoder that delivered it to detect. Raises DataError."""
    video = survey(run).video(video_id)
    if not isinstance(frame, int | np.integer):
        raise DataError(f"{run}: frame: expected a whole number from 0, got {one_line(repr(frame), 80)}")
    _check_frame(run, video, frame)
    return dict(frames_of(data_root(run), video, [frame]))[frame]


def _check_frame(run: Path, video: VideoState, frame: int) -> None:
    seen, where = video.facts("detect"), f"{run}: {video.video_id}"
    if not {"delivered", "stride", "decoder"} <= seen.keys():
        failure = video.failures.get("detect")
        why = f"it failed: {failure.message}" if failure else "it has not run"
        raise DataError(f"{where}: expected detect to be done, but {why}; run `mdfpipe detect` first")
    if not 0 <= frame < seen["delivered"]:
        last = seen["delivered"] - 1
        raise DataError(
            f"{where}: --frame {frame}: expected 0..{last}, the frames that {seen['decoder']} delivered; choose one"
        )
    if frame % seen["stride"]:
        near = frame - frame % seen["stride"]
        after = near + seen["stride"]
        raise DataError(
            f"{where}: --frame {frame}: expected a multiple of detect.stride {seen['stride']}, the frames that were "
            f"used; choose {near}" + (f" or {after}" if after < seen["delivered"] else "")
        )


def _overlaps(video: VideoState) -> Overlaps | None:
    from mdfpipe.video.geometry import MEASURES

    if "label" not in video.receipts:
        return None
    name = video.receipts["label"].settings.get("ambiguity_measure")
    return next((measure for known, measure in MEASURES.items() if known == name), None)


# -- the contact sheet


def draw_sheet(run: Path, out: Path, subjects: int = 6, each: int = 3, show_people: bool = False) -> list[str]:
    """Draw a contact sheet into a PNG or JPEG: a row for each of some subjects, `each` body crops of each domain.

    Return lines on what is shown: for each subject and domain, video, frame and status of its crops from left to
    right. The crops of one subject and domain are spread over its videos and frames.
    Raises ConfigError, DataError, StoreError.
    """
    kind = picture_kind(out, "--sheet")
    names = ["crop_id", "subject_id", "domain", "modality", "video_id", "frame", "shard", "offset", "size"]
    names += [CHECKSUM, "named_by"]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    table = Run(run).table("manifest", "manifest", names)
    unverified = CHECKSUM not in table.column_names
    for row in table.to_pylist():
        if row["modality"] == "body":
            found.setdefault(row["subject_id"], {}).setdefault(row["domain"], []).append(row)
    if not found:
        raise DataError(f"{run}: expected crops of bodies, found none in its manifest; `mdfpipe inspect` says why")
    domains = sorted({name for of_subject in found.values() for name in of_subject}, key=by_wavelength)
    chosen = spread([s for s in sorted(found) if len(found[s]) == len(domains)] or sorted(found), subjects)
    width, gap = _CROP_HEIGHT // 3, 6
    blank = np.full((_CROP_HEIGHT, width, 3), 235, np.uint8)
    blocks = []
    lines = [f"rows: {', '.join(chosen)}; {each} body crops of each domain: {', '.join(domains)}"]
    for domain in domains:
        rows = []
        for subject in chosen:
            shown = spread(found[subject].get(domain, []), each)
            crops = [_sheet_crop(run, row, width, show_people) for row in shown]
            tiles = [*crops, *[blank] * (each - len(crops))]
            apart = [np.pad(tile, ((0, 0), (0, 2), (0, 0)), constant_values=255) for tile in tiles]
            rows.append(figures.headed(np.concatenate(apart, axis=1)[:, :-2], subject))
            lines.append(f"{subject}, {domain}: {'; '.join(map(_tile, shown)) or 'no crop'}")
        block = np.concatenate([np.pad(row, ((0, gap), (0, 0), (0, 0)), constant_values=255) for row in rows])
        block = figures.captioned(block, domain, [])
        blocks.append(np.pad(block, ((0, 0), (0, 2 * gap), (0, 0)), constant_values=255))
    write_output(out, figures.encoded(np.concatenate(blocks, axis=1)[:, : -2 * gap], kind, quality=92))
    return lines + [f"crops without checksums: {UNVERIFIED}"] * unverified


def _tile(row: dict[str, Any]) -> str:
    """The video, frame and status of a crop of the sheet, in words."""
    status = "labelled by track" if row.get("named_by") == "track" else "labelled"
    frame = "" if row["frame"] is None else f" frame {row['frame']}"
    return f"{row['video_id']}{frame} {status}"


def _sheet_crop(run: Path, row: dict[str, Any], width: int, show_people: bool) -> Picture:
    """One crop as it is shown: (_CROP_HEIGHT, width, 3)."""
    shard = inside(run, row["shard"], f"crop {row['crop_id']}")
    image = decode(read_crop(shard, row["offset"], row["size"], row.get(CHECKSUM)), row["crop_id"])
    picture = figures.to_display(image, recorded_window(Run(run), row["video_id"]))
    picture = figures.scaled_to(picture, width, _CROP_HEIGHT)
    return picture if show_people else figures.hidden_crop(picture, figures.BODY_BLOCKS)


def picture_kind(out: Path, option: str) -> str:
    """PNG or JPEG, by the name of a file. Raises ConfigError."""
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}.get(out.suffix.lower())
    if kind is None:
        raise ConfigError(
            f"{option} {out}: expected a name that ends in .png, .jpg or .jpeg, got {out.suffix or 'no suffix'}"
        )
    return kind


# -- the page


@dataclass
class WrittenPage:
    """A written page: its place, its size, how much it shows, and notes on what it could not show."""

    path: str
    bytes: int
    frames: int
    crops: int
    notes: list[str] = field(default_factory=list)


def write_page(run: Path, out: Path, show_people: bool = False, limits: Limits | None = None) -> WrittenPage:
    """Write one self-contained HTML page about a run. The same run gives the same page.

    Videos or shards that cannot be read any more leave a note instead of a picture. Raises DataError, StoreError.
    """
    limits, found = limits or Limits(), survey(run)
    samples, notes = sample(found, limits)
    each, subjects = limits.frames_each(len(samples)), limits.subjects_each(len(samples))
    if found.index.facts.get("detected_faces"):
        notes.append(
            "people are named by faces that a detector found: `mdfpipe inspect FACES.csv --html` shows wrong ids"
        )
    chosen = {name: one.frames(each) for name, one in samples.items()}
    made = _pictures(found, [choice for choices in chosen.values() for choice in choices], show_people, notes)
    shown = {
        name: [made[choice.video_id, choice.frame] for choice in choices if (choice.video_id, choice.frame) in made]
        for name, choices in chosen.items()
    }
    people = {
        name: [(person, _crops(found, person, limits, show_people, notes)) for person in one.people(subjects)]
        for name, one in samples.items()
    }
    page = Page(title_of(run), found, samples, limits, show_people, environment_of(run), notes, shown, people)
    text = render(page).encode()
    write_output(out, text)
    crops = sum(len(crops) for of_domain in people.values() for _, crops in of_domain)
    return WrittenPage(str(out), len(text), sum(map(len, shown.values())), crops, notes)


def title_of(run: Path) -> str:
    """The study's name, or the folder's where the study cannot be read."""
    try:
        return open_run(run)[0].name
    except MdfError:
        return run.resolve().name


def environment_of(run: Path) -> dict[str, Any]:
    """The facts of environment.json; empty if it cannot be read."""
    found = read_environment(run)
    return found.facts if found else {}


def _pictures(
    survey: Survey, chosen: list[FrameChoice], show_people: bool, notes: list[str]
) -> dict[tuple[str, int], DrawnFrame]:
    """By video and frame, the view and pictures of every chosen frame that can be decoded."""
    by_video: dict[str, list[int]] = {}
    made: dict[tuple[str, int], DrawnFrame] = {}
    for choice in chosen:
        by_video.setdefault(choice.video_id, []).append(choice.frame)
    try:
        data = data_root(survey.run.path) if by_video else Path()
    except MdfError as error:
        notes.append(f"no frame is shown: {error}")
        return {}
    for video_id, wanted in by_video.items():
        video = survey.video(video_id)
        try:
            views = frames.views(survey, video, wanted, _overlaps(video))
            for number, image in frames_of(data, video, wanted):
                small, full = (
                    frames.draw(views[number], image, video.window, show_people, width, numbers=True)
                    for width in (_PAGE_WIDTH, _PICTURE_WIDTH)
                )
                made[video_id, number] = DrawnFrame(views[number], small, full)
        except MdfError as error:
            notes.append(f"{video_id}: not all of its frames are shown: {one_line(error)}")
    return made


def _crops(
    survey: Survey, person: SubjectSample, limits: Limits, show_people: bool, notes: list[str]
) -> list[tuple[str, CropChoice, Picture]]:
    """(modality, crop, picture) of the crops shown of one subject."""
    shown = []
    for modality, most, blocks in (
        ("body", limits.bodies, figures.BODY_BLOCKS),
        ("face", limits.faces, figures.FACE_BLOCKS),
    ):
        for crop in person.chosen(modality, most):
            try:
                shard = inside(survey.run.path, crop.shard, f"crop {crop.crop_id}")
                image = decode(read_crop(shard, crop.offset, crop.size, crop.crc32), crop.crop_id)
            except MdfError as error:
                notes.append(one_line(error))
                continue
            picture = figures.to_display(image, survey.video(crop.video_id).window)
            height = _CROP_HEIGHT if modality == "body" else _FACE_SIDE
            picture = figures.scaled_to(picture, max(round(image.shape[1] * height / image.shape[0]), 1), height)
            shown.append((modality, crop, picture if show_people else figures.hidden_crop(picture, blocks)))
    return shown
