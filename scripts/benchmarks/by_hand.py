"""The script that people write instead of detect, label and crop: a loop over the results of ultralytics.

A part of the benchmark `pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

BODY, FACE, MARGIN = (128, 384), (112, 112), 0.1  # (width, height) as crop has them by default, and a face's margin
Faces: TypeAlias = dict[int, list[tuple[str, Any]]]  # of each frame: name, (x1, y1, x2, y2)
Name: TypeAlias = tuple[str, str, int]  # what was cut: modality, subject, frame
Crops: TypeAlias = dict[Name, bytes]


def crops_by_hand(
    results: Callable[[Any], Iterable[Any]], video: Path, faces: Faces, folder: Path
) -> tuple[int, list[Path]]:
    """Detect bodies, name each by the face in it, and write crops of bodies and faces: the boxes and the files."""
    import cv2

    boxes, files = 0, list[Path]()

    def write(modality: str, name: str, frame: int, crop: Any, size: tuple[int, int]) -> None:
        place = folder / modality / name
        place.mkdir(parents=True, exist_ok=True)
        files.append(place / f"{frame:06d}.jpg")
        shrinks = size[0] <= crop.shape[1] and size[1] <= crop.shape[0]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        cv2.imwrite(str(files[-1]), cv2.resize(crop, size, interpolation=how))

    for frame, result in enumerate(results(video)):
        image, here = result.orig_img, faces.get(frame, [])
        height, width = image.shape[:2]
        for body in result.boxes.xyxy.numpy():
            boxes += 1
            inside = [(_inside(face, body), name) for name, face in here]
            named = [(share, name) for share, name in inside if share >= 0.5]
            if named and sum(share > 0.75 for share, _ in inside) < 2:
                x1, y1 = np.maximum(np.floor(body[:2]), 0).astype(int)
                x2, y2 = np.minimum(np.ceil(body[2:]), (width, height)).astype(int)
                write("body", max(named)[1], frame, image[y1:y2, x1:x2], BODY)
        for name, face in here:
            side = round(float(max(face[2:] - face[:2])) * (1 + 2 * MARGIN))
            x, y = (round(float(face[k] + face[k + 2] - side) / 2) for k in (0, 1))
            beyond = max(0, -x, -y, x + side - width, y + side - height)
            padded = np.pad(image, ((beyond, beyond), (beyond, beyond), (0, 0)), "edge") if beyond else image
            x, y = x + beyond, y + beyond
            write("face", name, frame, padded[y : y + side, x : x + side], FACE)
    return boxes, files


def _inside(face: Any, body: Any) -> float:
    """The share of a face that is inside a body."""
    sides = np.minimum(face[2:], body[2:]) - np.maximum(face[:2], body[:2])
    return float(np.prod(np.maximum(sides, 0)) / np.prod(face[2:] - face[:2]))


def names_of(files: list[Path]) -> set[Name]:
    """What the files of the script show."""
    return {(file.parent.parent.name, file.parent.name, int(file.stem)) for file in files}


def difference(files: list[Path], stored: Crops) -> float:
    """The median difference, in grey levels, between the script's files and our crops of the same name."""
    import cv2

    from mdfpipe.store import images

    found = []
    for file in files:
        (name,) = names_of([file])
        if name in stored:
            theirs = np.asarray(cv2.imread(str(file)))[:, :, ::-1].astype(np.int16)
            found.append(float(np.abs(theirs - images.decode(stored[name], "a crop")).mean()))
    return float(np.median(found))
