"""Orientation: how a stored picture is turned to be shown, 1 to 8 as EXIF counts (CIPA DC-008, tag 0x0112).

Turns are clockwise. From 5 on, width and height change places.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = TypeVar("Pixels", bound=NDArray[Any])

AS_STORED = 1
_OF_DIRECTIONS = {  # where the stored picture's right and its down point when it is shown, as (x, y), y down
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
_WORDS = {
    1: "as stored",
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored and turned by 270 degrees",
    6: "turned by 90 degrees",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 270 degrees",
}


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """(H, W, ...) pixels as they are shown; (W, H, ...) where the orientation changes the sides. Contiguous."""
    view: NDArray[Any] = pixels.swapaxes(0, 1) if swaps_sides(orientation) else pixels
    if orientation in (2, 3, 6, 7):
        view = view[:, ::-1]
    if orientation in (3, 4, 7, 8):
        view = view[::-1]
    return np.ascontiguousarray(view)  # type: ignore[return-value]


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places."""
    return orientation >= 5


def of_matrix(matrix: bytes) -> int | None:
    """The orientation that a display matrix says: 3x3 int32 in the machine's byte order, as FFmpeg keeps it.

    Its scale and shift are ignored. None where it turns by something else than quarter turns (within a degree).
    """
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(np.float64)
    right, down = np.hypot(a, b), np.hypot(c, d)
    if not right or not down:
        return None
    exact = np.array([a / right, b / right, c / down, d / down])
    if np.abs(exact - np.rint(exact)).max() > 0.02:
        return None
    x1, y1, x2, y2 = (int(v) for v in np.rint(exact))
    return _OF_DIRECTIONS.get((x1, y1, x2, y2))


def in_words(orientation: int) -> str:
    """What is done to a stored picture to show it."""
    return _WORDS[orientation]
