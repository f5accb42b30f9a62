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

from mdfpipe.drawing.tags import GAP, Rectangle, leader, placed
from mdfpipe.errors import one_line
from mdfpipe.store.images import stretched
from mdfpipe.store.tables import LabelStatus

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

Picture: TypeAlias = NDArray[np.uint8]
XYXY: TypeAlias = tuple[float, float, float, float]

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
RAMP: Final = ("#440154", "#472c7a", "#3b518b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32", "#fde725")
"""Colours from the least to the most (viridis)."""
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
    """A copy with every box outlined and its words on a filled strip: no strip over another, a line to a box apart.

    scale: pixels of the picture for each pixel of the frame that the marks' boxes are in. Strips that find no room are
    in rows below the picture, which is then higher.
    """
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    boxes = [_clipped(mark.xyxy, scale, (width, height)) for mark in marks]
    strips = [_Strip.of(mark, width) for mark in marks]
    written = [n for n, strip in enumerate(strips) if strip.words]
    faces = [box for mark, box in zip(marks, boxes, strict=True) if mark.is_face]
    # Boxes without words are covered as reluctantly as those with words.
    order = written + [n for n in range(len(marks)) if n not in set(written)]
    places = placed([boxes[n] for n in order], [strips[n].size for n in written], (width, height), faces)
    lowest = max([height, *(place[3] + GAP for place in places if place[1] >= height)])
    canvas = Image.new("RGB", (width, lowest), "#14181f")
    canvas.paste(Image.fromarray(picture), (0, 0))
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(width / 420))
    for mark, (x1, y1, x2, y2) in zip(marks, boxes, strict=True):
        wide = max(line - 1, 1) if mark.is_face else line
        # A thin dark edge, so that a box shows on light and on dark ground.
        pen.rectangle((x1 - 1, y1 - 1, x2, y2), outline="#10141a", width=wide + 2)
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=mark.colour, width=wide)
    for n, place in zip(written, places, strict=True):
        if (to := leader(place, boxes[n])) is not None:
            pen.line(to, fill="#10141a", width=line + 2)
            pen.line(to, fill=marks[n].colour, width=line)
    for n, place in zip(written, places, strict=True):
        strips[n].write(pen, place, marks[n].colour)
    return np.asarray(canvas).copy()


@dataclass(frozen=True)
class _Strip:
    """The words of a mark as they fit a picture, their font, and the size of the strip around them."""

    words: str
    letters: Any
    size: tuple[int, int] = (0, 0)
    corner: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, mark: Mark, width: int) -> _Strip:
        from PIL import Image, ImageDraw

        letters = font(max(text_size(width) - (2 if mark.is_face else 0), 10))
        pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
        words = _that_fits(pen, one_line(mark.words, 60), letters, width - 16)
        left, top, right, bottom = (int(v) for v in pen.textbbox((0, 0), words, font=letters))
        return cls(words, letters, (right - left + 10, bottom - top + 8), (left, top))

    def write(self, pen: ImageDraw.ImageDraw, place: Rectangle, colour: str) -> None:
        """Fill the strip at its place, with a dark edge, and write its words."""
        x1, y1, x2, y2 = place
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour, outline="#10141a")
        pen.text((x1 + 5 - self.corner[0], y1 + 4 - self.corner[1]), self.words, font=self.letters, fill=ink_on(colour))


def _clipped(box: XYXY, scale: float, size: tuple[int, int]) -> Rectangle:
    """The box in whole pixels of the picture, inside it, at least one pixel wide and high."""
    x1 = min(max(round(box[0] * scale), 0), size[0] - 1)
    y1 = min(max(round(box[1] * scale), 0), size[1] - 1)
    return x1, y1, min(max(round(box[2] * scale), x1 + 1), size[0]), min(max(round(box[3] * scale), y1 + 1), size[1])


def text_size(width: int) -> int:
    """Height of the words on a picture of this width, in pixels."""
    return max(15, round(width / 56))


def _that_fits(pen: ImageDraw.ImageDraw, words: str, letters: Any, width: int) -> str:
    while len(words) > 2 and pen.textlength(words, font=letters) > width:
        words = words[:-2] + "…"
    return words


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour.

    >>> ink_on("#ffffff"), ink_on("#303060")
    ('#10141a', '#ffffff')
    """
    red, green, blue = ((value / 255) ** 2.2 for value in bytes.fromhex(colour[1:]))
    return "#10141a" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 else "#ffffff"


def captioned(picture: Picture, title: str, legend: Sequence[tuple[str, str]], note: str = "") -> Picture:
    """The picture with a bar below it: a title, (words, colour) of what was drawn, and a note in a row of its own."""
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
    lowest = y + row if legend else row
    bar = Image.new("RGB", (width, lowest + (row if note else 0) + pad), "#14181f")
    pen = ImageDraw.Draw(bar)
    pen.text((pad, pad), _that_fits(pen, one_line(title, 200), letters, width - 2 * pad), font=letters, fill="#f4f4f0")
    pen.text((pad, lowest + pad - 1), _that_fits(pen, note, letters, width - 2 * pad), font=letters, fill="#c9ced8")
    for x, y, words, colour in places:
        pen.rectangle((x, y + pad, x + size - 1, y + pad + size - 1), fill=colour)
        pen.text((x + round(size * 1.5), y + pad - 1), words, font=letters, fill="#c9ced8")
    return np.concatenate([picture, np.asarray(bar)], axis=0)


def headed(picture: Picture, words: str) -> Picture:
    """The picture with a white row of words above it, cut to its width."""
    from PIL import Image, ImageDraw

    letters = font(12)
    row = Image.new("RGB", (picture.shape[1], 18), "#ffffff")
    pen = ImageDraw.Draw(row)
    pen.text((2, 1), _that_fits(pen, one_line(words, 200), letters, row.width - 4), font=letters, fill="#14181f")
    return np.concatenate([np.asarray(row), picture], axis=0)


def ramped(shares: NDArray[Any]) -> Picture:
    """Values 0..1 (h, w) in the colours of the ramp: (h, w, 3)."""
    ramp = np.array([[int(c[n : n + 2], 16) for n in (1, 3, 5)] for c in RAMP], float)
    at = np.clip(shares, 0, 1) * (len(ramp) - 1)
    colours = [np.interp(at, np.arange(len(ramp)), ramp[:, c]) for c in range(3)]
    shown: Picture = np.rint(np.stack(colours, axis=-1)).astype(np.uint8)
    return shown


def overlaid(picture: Picture, heat: NDArray[Any]) -> Picture:
    """A picture (H, W, 3) with heat (h, w), 0..1, laid over it; the warmer, the less of the picture shows through."""
    import cv2

    height, width = picture.shape[:2]
    whole = np.clip(cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    share = 0.35 + 0.3 * whole[..., None]
    mixed: Picture = np.rint((1 - share) * picture + share * ramped(whole)).astype(np.uint8)
    return mixed


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
    """The picture as "PNG", "JPEG" or "WEBP"; the same picture gives the same bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": quality}
    options |= {"subsampling": 0, "optimize": True} if kind == "JPEG" else {}
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def data_uri(picture: Picture, quality: int = 80) -> str:
    """The picture as a WebP that a page embeds: two thirds of a JPEG or less, and the lines of boxes stay sharp."""
    return "data:image/webp;base64," + base64.b64encode(encoded(picture, "WEBP", quality)).decode()
