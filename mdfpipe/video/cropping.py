"""Cutting a box out of a frame, and measuring the quality of what was cut out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mdfpipe.store.images import Image, Window, scaled


def pixel_box(xyxy: NDArray[np.float32], width: int, height: int) -> tuple[int, int, int, int] | None:
    """The whole pixels that a box touches within the frame, (x1, y1, x2, y2); None where there is none."""
    x1, y1 = max(int(np.floor(xyxy[0])), 0), max(int(np.floor(xyxy[1])), 0)
    x2, y2 = min(int(np.ceil(xyxy[2])), width), min(int(np.ceil(xyxy[3])), height)
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def square_box(xyxy: NDArray[np.float32], margin: float) -> tuple[int, int, int, int]:
    """The square around a box's centre, of the box's longer side and `margin` of it more on each side; whole pixels.

    It may reach beyond the frame.
    """
    side = max(round(float(max(xyxy[2] - xyxy[0], xyxy[3] - xyxy[1])) * (1 + 2 * margin)), 1)
    x1 = round(float(xyxy[0] + xyxy[2] - side) / 2)
    y1 = round(float(xyxy[1] + xyxy[3] - side) / 2)
    return x1, y1, x1 + side, y1 + side


def cut(frame: Image, box: tuple[int, int, int, int]) -> Image:
    """The pixels of a whole-pixel box; beyond the frame its edge pixels are repeated."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = box
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return frame[y1:y2, x1:x2]
    rows = np.clip(np.arange(y1, y2), 0, height - 1)
    columns = np.clip(np.arange(x1, x2), 0, width - 1)
    return frame[rows[:, None], columns[None, :]]


def quality(image: Image, window: Window) -> tuple[float, float]:
    """(sharpness, contrast) of a crop: variance of the Laplacian and standard deviation of its grey values.

    Grey values are brought to 0..255 by the video's window, so that bands can be compared. A measure of
    texture, not of usefulness: noise raises sharpness too.
    """
    import cv2

    grey = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = grey.astype(np.float32)
    if image.dtype != np.uint8:
        grey = np.clip(scaled(grey, *window, 255), 0, 255)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var()), float(grey.std())
