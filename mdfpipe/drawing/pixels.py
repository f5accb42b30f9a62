"""Drawing on pixels: boxes with their names, hidden people, captions.

Pictures are (H, W, 3) uint8 RGB; `to_display` makes one of any decoded frame.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import one_line
from mdfpipe.store.images import stretched
from mdfpipe.store.tables import LabelStatus

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

Picture: TypeAlias = NDArray[np.uint8]
XYXY: TypeAlias = tuple[float, float, float, float]
Rectangle: TypeAlias = tuple[int, int, int, int]

COLOURS: Final = {
    LabelStatus.TRACK_CONFLICT: "#c2453d",
    LabelStatus.AMBIGUOUS: "#f28c28",
    LabelStatus.LOST_ASSIGNMENT: "#a06cd5",
    LabelStatus.BELOW_MIN_OVERLAP: "#e3c021",
    LabelStatus.UNNAMED_FACE: "#22a7c4",
    LabelStatus.NO_FACE: "#7d8fb3",
    LabelStatus.OFF_FRAME: "#b5794f",
    LabelStatus.TOO_SMALL: "#e0679f",
    LabelStatus.LABELLED_BY_TRACK: "#8fbf3f",
    LabelStatus.LABELLED: "#2fa36b",
}
"""One colour for each status, in the order of interest: what went wrong first."""
UNLABELLED: Final = "#7d8fb3"
FACE_COLOUR: Final = "#f4f4f0"

BODY_BLOCKS, FACE_BLOCKS = 4, 3  # blocks along the shorter side of a hidden region, at most
LEAST_BLOCK = 8  # pixels of the picture as it is shown
BODY_MARGIN, FACE_MARGIN = 0.08, 0.3  # of the box's own size, hidden around it


@dataclass(frozen=True)
class Mark:
    """One box to draw: `xyxy` in pixels of the frame as it was decoded, the words on its strip, its colour."""

    xyxy: XYXY
    words: str
    colour: str
    is_face: bool = False


def to_display(image: NDArray[Any], window: tuple[float, float] | None) -> Picture:
    """A decoded frame or crop, (H, W, C) uint8 or uint16, as (H, W, 3) uint8.

    window: the values shown as black and white in a uint16 image; None takes its 1st and 99th percentile.

    >>> to_display(np.full((1, 1, 1), 300, np.uint16), (200, 400))[0, 0].tolist()
    [128, 128, 128]
    """
    if image.dtype != np.uint8:
        low, high = window if window is not None else np.percentile(image, [1, 99])
        image = stretched(image, float(low), float(high))
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def scaled_to(picture: Picture, width: int, height: int) -> Picture:
    """The picture at another size: areas averaged where it shrinks, cubic where it grows."""
    import cv2

    shrinks = width * height <= picture.shape[0] * picture.shape[1]
    made = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return made.astype(np.uint8, copy=False)


def fitted(picture: Picture, least: int, most: int) -> tuple[Picture, float]:
    """The picture with its width within `least`..`most` pixels and its height at most `most`; and the scale taken."""
    height, width = picture.shape[:2]
    scale = min(max(1.0, least / width), most / max(width, height))
    if scale == 1.0:
        return picture, 1.0
    return scaled_to(picture, max(round(width * scale), 1), max(round(height * scale), 1)), scale


def hidden(picture: Picture, bodies: Sequence[XYXY], faces: Sequence[XYXY] = ()) -> Picture:
    """A copy in which every body and face, with a margin around it, is a few coarse blocks.

    Along its shorter side a body keeps at most BODY_BLOCKS blocks and a face FACE_BLOCKS; no block is smaller than
    LEAST_BLOCK pixels unless the whole region is.
    """
    made = picture.copy()
    for boxes, blocks, margin in ((bodies, BODY_BLOCKS, BODY_MARGIN), (faces, FACE_BLOCKS, FACE_MARGIN)):
        for x1, y1, x2, y2 in boxes:
            dx, dy = (x2 - x1) * margin, (y2 - y1) * margin
            _pixelate(made, (x1 - dx, y1 - dy, x2 + dx, y2 + dy), blocks)
    return made


def presumed_body(face: XYXY) -> XYXY:
    """The presumed body of a face that no detection covers, generously: it is hidden too.

    >>> presumed_body((10, 10, 20, 20))
    (-5.0, 5.0, 35.0, 90.0)
    """
    x1, y1, x2, y2 = face
    width, height = x2 - x1, y2 - y1
    return x1 - 1.5 * width, y1 - 0.5 * height, x2 + 1.5 * width, y2 + 7.0 * height


def hidden_crop(picture: Picture, blocks: int) -> Picture:
    """An anonymous crop: the whole of it as coarse blocks."""
    made = picture.copy()
    _pixelate(made, (0, 0, picture.shape[1], picture.shape[0]), blocks)
    return made


def _pixelate(picture: Picture, box: XYXY, blocks: int) -> None:
    """Replace what is in a box by the means of its blocks, in place."""
    import cv2

    x1, y1 = (max(math.floor(v), 0) for v in box[:2])
    x2, y2 = min(math.ceil(box[2]), picture.shape[1]), min(math.ceil(box[3]), picture.shape[0])
    width, height = x2 - x1, y2 - y1
    if width <= 0 or height <= 0:
        return
    block = max(LEAST_BLOCK, -(-min(width, height) // blocks))
    across, down = max(width // block, 1), max(height // block, 1)
    means = cv2.resize(picture[y1:y2, x1:x2], (across, down), interpolation=cv2.INTER_AREA)
    columns, rows = np.arange(width) * across // width, np.arange(height) * down // height
    picture[y1:y2, x1:x2] = means.reshape(down, across, 3)[rows[:, None], columns[None, :]]


def draw_boxes(picture: Picture, marks: Sequence[Mark], scale: float = 1.0) -> Picture:
    """A copy with every box outlined and its words on a filled strip, inside the picture, strips not over each other.

    scale: pixels of the picture for each pixel of the frame that the marks' boxes are in.
    """
    from PIL import Image, ImageDraw

    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(picture.shape[1] / 420))
    boxes = [_clipped(mark.xyxy, scale, canvas.size) for mark in marks]
    for mark, (x1, y1, x2, y2) in zip(marks, boxes, strict=True):
        wide = max(line - 1, 1) if mark.is_face else line
        # A thin dark edge, so that a box shows on light and on dark ground.
        pen.rectangle((x1 - 1, y1 - 1, x2, y2), outline="#10141a", width=wide + 2)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=mark.colour, width=wide)
    faces = [box for mark, box in zip(marks, boxes, strict=True) if mark.is_face]
    taken: list[Rectangle] = []
    for mark, box in zip(marks, boxes, strict=True):
        if mark.words:
            size = text_size(picture.shape[1]) - (2 if mark.is_face else 0)
            taken.append(_strip(pen, mark, box, font(max(size, 10)), (taken, faces), canvas.size))
    return np.asarray(canvas).copy()


def _clipped(box: XYXY, scale: float, size: tuple[int, int]) -> Rectangle:
    """The box in whole pixels of the picture, inside it, at least one pixel wide and high."""
    x1 = min(max(round(box[0] * scale), 0), size[0] - 1)
    y1 = min(max(round(box[1] * scale), 0), size[1] - 1)
    return x1, y1, min(max(round(box[2] * scale), x1 + 1), size[0]), min(max(round(box[3] * scale), y1 + 1), size[1])


def text_size(width: int) -> int:
    """Height of the words on a picture of this width, in pixels."""
    return max(15, round(width / 56))


def _strip(
    pen: ImageDraw.ImageDraw,
    mark: Mark,
    box: Rectangle,
    letters: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    others: tuple[list[Rectangle], list[Rectangle]],
    size: tuple[int, int],
) -> Rectangle:
    """Write a mark's words on a filled strip near its box; return the place of the strip.

    others: strips, which are never covered; faces, which are covered only if there is no other room.
    """
    words = _that_fits(pen, one_line(mark.words, 60), letters, size[0] - 12)
    left, top, right, bottom = pen.textbbox((0, 0), words, font=letters)
    width, height = int(right - left) + 10, int(bottom - top) + 8
    places = _places(box, width, height, size, mark.is_face)
    strips, faces = others
    free = [place for place in places if not any(_touch(place, other) for other in strips)]
    clear = [place for place in free if not any(_touch(place, face) for face in faces)]
    place = next(iter(clear or free or places))
    pen.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=mark.colour)
    pen.text((place[0] + 5 - left, place[1] + 4 - top), words, font=letters, fill=ink_on(mark.colour))
    return place


def _that_fits(pen: ImageDraw.ImageDraw, words: str, letters: Any, width: int) -> str:
    while len(words) > 2 and pen.textlength(words, font=letters) > width:
        words = words[:-2] + "…"
    return words


def _places(box: Rectangle, width: int, height: int, size: tuple[int, int], is_face: bool) -> list[Rectangle]:
    """Places of a strip within the picture, the best first: at its box, then further and further down and up."""
    x1, y1, x2, y2 = box
    if is_face:
        near = [(x1, y2), (x2 + 2, y1), (x1 - width - 2, y1), (x1, y1 - height)]
    else:
        near = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2 - height), (x1, y2)]
    step = height + 1
    far = [(x, y1 + sign * n * step) for n in range(1, 60) for sign in (1, -1) for x in (x1, x2 + 2)]
    right, bottom = max(size[0] - width, 0), max(size[1] - height, 0)
    corners = [(min(max(x, 0), right), y) for x, y in (*near, *far) if 0 <= y <= bottom]
    return [(x, y, x + width, y + height) for x, y in corners or [(0, 0)]]


def _touch(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour.

    >>> ink_on("#ffffff"), ink_on("#303060")
    ('#10141a', '#ffffff')
    """
    red, green, blue = bytes.fromhex(colour[1:])
    return "#10141a" if 0.299 * red + 0.587 * green + 0.114 * blue > 100 else "#ffffff"


def captioned(picture: Picture, title: str, legend: Sequence[tuple[str, str]]) -> Picture:
    """The picture with a bar below it: a title, and (words, colour) of what was drawn."""
    from PIL import Image, ImageDraw

    width = picture.shape[1]
    size = text_size(width)
    letters, row, pad = font(size), round(size * 1.9), round(size * 0.8)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    entries = [(words, colour, round(pen.textlength(words, font=letters)) + 3 * size) for words, colour in legend]
    places, x, y = [], pad, row
    for words, colour, wide in entries:
        if x > pad and x + wide > width:
            x, y = pad, y + row
        places.append((x, y, words, colour))
        x += wide
    bar = Image.new("RGB", (width, (y + row if legend else row) + pad), "#14181f")
    pen = ImageDraw.Draw(bar)
    pen.text((pad, pad), _that_fits(pen, one_line(title, 200), letters, width - 2 * pad), font=letters, fill="#f4f4f0")
    for x, y, words, colour in places:
        pen.rectangle((x, y + pad, x + size - 1, y + pad + size - 1), fill=colour)
        pen.text((x + round(size * 1.5), y + pad - 1), words, font=letters, fill="#c9ced8")
    return np.concatenate([picture, np.asarray(bar)], axis=0)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings along, at a size in pixels."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    place = Path(found.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if found and found.origin else None
    if place is None or not place.is_file():
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(place), size)


def encoded(picture: Picture, kind: str, quality: int = 82) -> bytes:
    """The picture as "PNG" or "JPEG"; the same picture gives the same bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": quality, "subsampling": 0, "optimize": True} if kind == "JPEG" else {}
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(picture: Picture, quality: int = 82) -> str:
    """The picture as a JPEG that a page embeds."""
    return "data:image/jpeg;base64," + base64.b64encode(encoded(picture, "JPEG", quality)).decode()
