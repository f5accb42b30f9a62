"""Frames into a network's input and boxes back: one letterbox for every detector.

A frame is resized by one factor to fit the input, and the rest is grey (114), as YOLOX and ultralytics do.
*Differs:* both invert the nominal factor; we invert what was done, width and height apart, since each is
rounded to whole pixels: boxes come back without the rounding (up to 0.2%).
*Anti-aliasing:* none. Resizing is bilinear (OpenCV INTER_LINEAR) also where it shrinks, because the networks
are trained so; INTER_AREA would show them smoother pictures than they know.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PAD = 114  # the grey around the frame: YOLOX (yolox/data/data_augment.py), ultralytics (LetterBox)
STRIDE = 32  # sides of an input are multiples of it: the coarsest grid of the YOLO family


@dataclass(frozen=True)
class Letterbox:
    """Where a frame is in a network's input. All in whole pixels; sizes are (height, width).

    frame: of the decoded frame. input: of the network's input. inner: of the resized frame in it, whose top
    left corner is at (top, left).
    """

    frame: tuple[int, int]
    input: tuple[int, int]
    inner: tuple[int, int]
    top: int
    left: int

    @classmethod
    def fit(cls, frame: tuple[int, int], input: tuple[int, int], *, centred: bool) -> Letterbox:
        """The greatest frame that fits the input, centred in it (ultralytics) or at its top left (YOLOX)."""
        (height, width), (rows, columns) = frame, input
        if min(*frame, *input) < 1:
            raise ValueError(f"expected sizes of at least one pixel, got frame {frame} and input {input}")
        factor = min(rows / height, columns / width)
        inner = (max(1, round(height * factor)), max(1, round(width * factor)))
        spare = (rows - inner[0], columns - inner[1])
        top, left = (spare[0] // 2, spare[1] // 2) if centred else (0, 0)
        return cls(frame, input, inner, top, left)

    def to_frame(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes (n, 4) xyxy from pixels of the input to pixels of the frame; nothing is clipped."""
        x, y = self.inner[1] / self.frame[1], self.inner[0] / self.frame[0]
        corner = np.array([self.left, self.top, self.left, self.top], np.float64)
        boxes: NDArray[np.float32] = ((xyxy - corner) / np.array([x, y, x, y])).astype(np.float32)
        return boxes


def fitting_input(frame: tuple[int, int], longest: int) -> tuple[int, int]:
    """The smallest input (height, width) for a frame whose longer side becomes `longest`: little grey, less work.

    Both sides are multiples of STRIDE, as the network needs.

    >>> fitting_input((432, 768), 640)
    (384, 640)
    """
    factor = longest / max(frame)
    rows, columns = (max(1, -(-round(side * factor) // STRIDE)) * STRIDE for side in frame)
    return rows, columns


@cache
def cells(sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> NDArray[np.float64]:
    """(A, 3) column, row and stride of the cell of each anchor, by level, row and column.

    sizes: (rows, columns) of each level's grid.
    """
    levels = []
    for size, stride in zip(sizes, strides, strict=True):
        row, column = np.indices(size).reshape(2, -1)
        levels.append(np.stack([column, row, np.full_like(row, stride)], axis=1))
    return np.concatenate(levels).astype(np.float64)


class Pictures:
    """Makes batches of letterboxed frames as they are, (B, rows, columns, 3) uint8 RGB, in memory that comes back.

    Only the inside of the letterbox is written for a frame; the grey around it is painted once. A quarter of the bytes
    of float32, and the order of torch's `channels_last`: scaled on the device, they are the numbers of `NetworkInputs`
    in half of the time.
    """

    def __init__(self, letterbox: Letterbox) -> None:
        self.letterbox = letterbox
        self._free: list[NDArray[Any]] = []

    def of(self, pixels: NDArray[np.uint8], size: int) -> NDArray[Any]:
        """A batch of `size` of the frames (n, H, W, 3) uint8 RGB; what exceeds n repeats the first frame.

        An array that is no longer needed may go back to `take_back`, in any thread.
        """
        batch = self._free.pop() if self._free else self._blank(size)
        if len(batch) != size:
            batch = self._blank(size)
        box = self.letterbox
        rows, columns = (slice(at, at + side) for at, side in zip((box.top, box.left), box.inner, strict=True))
        inside = self._inside(batch, rows, columns)
        for image, place in zip(pixels, inside, strict=False):
            self._draw(image, place)
        inside[len(pixels) : size] = inside[0]
        return batch

    def take_back(self, batch: NDArray[Any]) -> None:
        """Use the memory of a batch of `of` again; it must not be read any more."""
        self._free.append(batch)

    def _blank(self, size: int) -> NDArray[Any]:
        return np.full((size, *self.letterbox.input, 3), PAD, np.uint8)

    def _inside(self, batch: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        return batch[:, rows, columns]

    def _draw(self, image: NDArray[np.uint8], place: NDArray[Any]) -> None:
        import cv2

        if self.letterbox.inner == self.letterbox.frame:
            np.copyto(place, image)
        else:
            cv2.resize(image, self.letterbox.inner[::-1], dst=place, interpolation=cv2.INTER_LINEAR)


class NetworkInputs(Pictures):
    """Makes batches of a network's input, (B, 3, rows, columns), as `Pictures` does.

    dtype: float32, float16, or uint8 to scale on the device. bgr: order of the channels, else RGB.
    unit: values in 0..1, else 0..255.
    """

    def __init__(self, letterbox: Letterbox, dtype: type[np.generic], *, bgr: bool, unit: bool) -> None:
        if unit and not issubclass(dtype, np.floating):
            raise ValueError(f"expected a floating type for values in 0..1, got {dtype.__name__}")
        self.dtype, self.bgr, self.unit = dtype, bgr, unit
        super().__init__(letterbox)
        self._image = np.empty((*letterbox.inner, 3), np.uint8)
        self._planes = np.empty((3, *letterbox.inner), np.uint8)

    def _blank(self, size: int) -> NDArray[Any]:
        grey = np.float32(PAD) / np.float32(255) if self.unit else PAD
        return np.full((size, 3, *self.letterbox.input), grey, self.dtype)

    def _inside(self, batch: NDArray[Any], rows: slice, columns: slice) -> NDArray[Any]:
        return batch[:, :, rows, columns]

    def _draw(self, image: NDArray[np.uint8], place: NDArray[Any]) -> None:
        import cv2

        super()._draw(image, self._image)
        cv2.split(self._image, list(self._planes[::-1] if self.bgr else self._planes))
        if self.unit:
            np.divide(self._planes, np.float32(255), out=place, casting="same_kind")
        else:
            np.copyto(place, self._planes)
