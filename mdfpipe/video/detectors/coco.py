"""Boxes in the JSON of COCO: `images`, `annotations` with `bbox`, `categories`, and for videos `videos` and ids.

An image belongs to a video by `video_id` and `frame_id` (or `frame_index`), or by its file: `cam1/walk/000017.jpg` is
that picture of the folder cam1/walk, or else frame 17 of the video cam1/walk. The person of a box is its `subject_id`,
or else its `track_id`, `instance_id` or `person_id`, also among its `attributes`.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mdfpipe.errors import DataError, one_line, some
from mdfpipe.store.content import stand_in
from mdfpipe.video.box_files import BoxFile, BoxTable, person_id, subject_name

_FRAME: Final = ("frame_id", "frame_index", "frame_number", "frame_num", "mot_frame_id")
_PERSON: Final = ("track_id", "instance_id", "person_id")
_SIDES: Final = ("x", "y", "width", "height")


class Coco(BoxFile):
    """Boxes of persons from a JSON file in the form of COCO, of videos or of folders of frames."""

    category: str = Field("person", description="name of the category whose boxes are taken; others are counted")
    frame_base: Literal[0, 1] = Field(0, description="number of a video's first frame in the file")
    min_score: float = Field(0.0, ge=0, le=1, description="least `score`; boxes below it are dropped; without it: 1")
    ids: Literal["video", "dataset", "none"] = Field(
        "video",
        description="what an id of a box names. video: a person of its video alone (VIDEO:ID); dataset: the same "
        "person in every video; none: nothing",
    )

    def table(self, path: Path, video_id: str) -> BoxTable:
        """The boxes of a file. Raises DataError that names file and annotation."""
        stat = path.stat()
        return _table(path.absolute(), stat.st_size, stat.st_mtime_ns, self.category, self.ids)


@dataclass
class _Boxes:
    """What the annotations say, a value a box; and what is left out, by video."""

    video: list[str] = field(default_factory=list)
    cells: list[tuple[float, ...]] = field(default_factory=list)  # frame, x, y, width, height, score
    person: list[str | None] = field(default_factory=list)
    entry: list[int] = field(default_factory=list)
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


@dataclass(frozen=True)
class _Image:
    video: str
    frame: float
    file: str  # of the picture, where that tells the frame, else ""
    size: tuple[int, int] | None


@lru_cache(maxsize=2)
def _table(path: Path, size: int, mtime_ns: int, category: str, ids: str) -> BoxTable:
    """Read a file once a process, while its size and modification time stay. Raises DataError."""
    document = _document(path)
    images = _images(path, document)
    persons = _categories(path, document, category)
    found = _Boxes()
    for number, entry in enumerate(document["annotations"]):
        _take(path, number, entry, images, persons, ids, found)
    texts = sorted({image.video for image in images.values()})
    at = {text: n for n, text in enumerate(texts)}
    codes = np.array([at[text] for text in found.video], np.int64)
    order = np.argsort(codes, kind="stable").astype(np.int64)
    edges = np.searchsorted(codes[order], np.arange(len(texts) + 1)).tolist()
    cells = np.array(found.cells, np.float64).reshape(len(codes), 6)[order]
    names = np.array(found.person, np.object_)[order]
    entries = np.array(found.entry, np.int64)[order]
    files = np.array([images[_id(document["annotations"][row], "image_id")].file for row in found.entry], np.object_)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))

    def cell(name: str, row: int) -> object:
        entry = document["annotations"][row]
        if name == "frame":
            return images[entry["image_id"]].frame
        return entry.get("score") if name == "score" else entry.get("bbox") or entry.get("segmentation")

    return BoxTable(
        path,
        _SIDES,
        {name: np.ascontiguousarray(cells[:, n]) for n, name in enumerate(("frame", *_SIDES, "score"))},
        entries,
        {text: (edges[n], edges[n + 1]) for n, text in enumerate(texts)},
        cell,
        names if names.astype(bool).any() else None,
        {text: dict(counts) for text, counts in found.left_out.items()},
        _sizes(path, images.values()),
        "detect.detector.ids=none",
        "annotation",
        file=files[order] if files.astype(bool).any() else None,
    )


def _document(path: Path) -> dict[str, Any]:
    """The JSON object. Raises DataError where it is none, or lacks a list that is needed."""
    if instead := stand_in(path):
        raise DataError(f"{path}: expected JSON in the form of COCO, got {instead}")
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON in the form of COCO, got {one_line(error, 120)}; correct it") from None
    if not isinstance(found, dict):
        what = "a list, as of results alone" if isinstance(found, list) else type(found).__name__
        raise DataError(
            f"{path}: expected an object with images, annotations and categories, got {what}; put the images and "
            "categories of the data set into it"
        )
    for name in ("images", "annotations", "categories", *(["videos"] if found.get("videos") else [])):
        if not isinstance(found.get(name), list) or not all(isinstance(one, dict) for one in found[name]):
            raise DataError(f"{path}: expected a list of objects {name!r}, got {one_line(repr(found.get(name)), 60)}")
    return found


def _categories(path: Path, document: Mapping[str, Any], name: str) -> list[Any]:
    """The ids of the category of persons. Raises DataError that lists the categories."""
    known = [str(one.get("name")) for one in document["categories"]]
    if name not in known:
        raise DataError(
            f"{path}: expected the category {name!r}, got {some([one_line(text, 40) for text in known], 8) or 'none'}; "
            "name the one of persons in detect.detector.category"
        )
    return [one.get("id") for one in document["categories"] if str(one.get("name")) == name]


def _images(path: Path, document: Mapping[str, Any]) -> dict[Any, _Image]:
    """The images by their id. Raises DataError for one whose video or frame cannot be known."""
    videos = {
        _id(one): str(name) for one in document.get("videos") or [] if (name := one.get("name") or one.get("file_name"))
    }
    found: dict[Any, _Image] = {}
    told: dict[tuple[str, float], Any] = {}
    for place, image in enumerate(document["images"], start=1):
        name, number_of = str(image.get("file_name") or "").replace("\\", "/"), _id(image)
        if number_of is None or number_of in found:
            got = "none" if number_of is None else f"{number_of!r:.40} again"
            raise DataError(f"{path}: image {place}: expected an id of its own, got {got}; correct the file")
        number = next((image[key] for key in _FRAME if key in image), None)
        video = videos.get(_id(image, "video_id"))
        folder, digits = str(PurePosixPath(name).parent), re.findall(r"[0-9]+", PurePosixPath(name).stem)
        by_file = number is None and bool(digits)
        if by_file:
            number = float(digits[-1])
        if video is None and folder != ".":
            video = folder
        if video is None or not isinstance(number, int | float):
            alone = video is None and image.get("video_id") is not None
            got = f"the video_id {image['video_id']!r:.40}, which `videos` does not hold" if alone else "neither"
            raise DataError(
                f"{path}: image {one_line(repr(name or image.get('id')), 80)}: expected a video and a frame, by "
                f"video_id and frame_id or by a file VIDEO/000017.jpg, got {got}; add them"
            )
        size = (image.get("width"), image.get("height"))
        sized = size if all(isinstance(side, int) and side > 0 for side in size) else None
        frame = _number(number)
        if not by_file and told.setdefault((video, frame), number_of) != number_of:
            raise DataError(
                f"{path}: image {place}: expected one image a frame of a video, got frame {frame:g} of "
                f"{one_line(video, 80)} again; correct the file"
            )
        found[number_of] = _Image(video, frame, PurePosixPath(name).name if by_file else "", sized)
    return found


def _id(entry: Mapping[str, Any], name: str = "id") -> Any:
    """The id that an entry has under a name; None where it is no text and no number."""
    found = entry.get(name)
    return found if isinstance(found, str | int | float) else None


def _number(value: Any) -> float:
    """The value as a float; NaN for what is no number, or too large for one."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("nan")


def _take(
    path: Path,
    number: int,
    entry: dict[str, Any],
    images: Mapping[Any, _Image],
    persons: list[Any],
    ids: str,
    found: _Boxes,
) -> None:
    """Take an annotation, or count why not. Raises DataError where it is not what it must be."""
    image = images.get(_id(entry, "image_id"))
    if image is None:
        raise DataError(
            f"{path}: annotation {number + 1}: expected the id of an image, got {entry.get('image_id')!r:.40}; add the "
            "image, or remove the annotation"
        )
    if entry.get("category_id") not in persons:
        found.left_out[image.video]["of another category"] += 1
        return
    if entry.get("iscrowd"):
        found.left_out[image.video]["of a crowd (iscrowd)"] += 1
        return
    box = entry.get("bbox") or _around(entry.get("segmentation"))
    if not isinstance(box, list) or len(box) != 4:
        mask = entry.get("segmentation")
        shape = "a mask (RLE)" if isinstance(mask, dict) else repr(entry.get("bbox") or mask)
        raise DataError(
            f"{path}: annotation {number + 1}: expected bbox: [x, y, width, height], or polygons, got "
            f"{one_line(shape, 60)}; write its box as bbox"
        )
    score = entry.get("score")
    found.cells.append((image.frame, *map(_number, box), 1.0 if score is None else _number(score)))
    found.video.append(image.video)
    found.entry.append(number)
    found.person.append(_person(path, entry, ids, image.video))


def _person(path: Path, entry: Mapping[str, Any], ids: str, video: str) -> str | None:
    """The id of a box; None without one. As in files of MOTChallenge, a number below 0 is none. Raises DataError."""
    if ids == "none":
        return None
    where = f"{path}: ids of boxes"
    inner = entry.get("attributes")
    attributes: Mapping[str, Any] = inner if isinstance(inner, dict) else {}
    name = entry.get("subject_id", attributes.get("subject_id"))
    if name is not None:
        return subject_name(str(name), where)
    places = ((entry, name) for name in _PERSON), ((attributes, name) for name in _PERSON)
    found = next((one[name] for pairs in places for one, name in pairs if one.get(name) is not None), None)
    if found is None or (isinstance(found, int | float) and found < 0):
        return None
    text = subject_name(person_id(found, ""), where)
    return None if text is None else person_id(text, video if ids == "video" else "")


def _around(polygons: Any) -> list[float] | None:
    """The box around polygons [[x, y, x, y, ...], ...]; None where they are none.

    >>> _around([[1, 2, 5, 2, 5, 8], [0, 3, 1, 4, 1, 3]])
    [0.0, 2.0, 5.0, 6.0]
    """
    try:
        points: NDArray[np.float64] = np.concatenate([np.asarray(one, np.float64).reshape(-1, 2) for one in polygons])
    except (TypeError, ValueError):
        return None
    if not len(points):
        return None
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def _sizes(path: Path, images: Iterable[_Image]) -> dict[str, tuple[int, int]]:
    """Width and height of the pictures of each video. Raises DataError where they differ."""
    found: dict[str, tuple[int, int]] = {}
    for image in images:
        if image.size is not None and found.setdefault(image.video, image.size) != image.size:
            first, now = ("x".join(map(str, size)) for size in (found[image.video], image.size))
            raise DataError(
                f"{path}: images of {one_line(image.video, 80)}: expected one size, got {first} and {now}; correct it"
            )
    return found
