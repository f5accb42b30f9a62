"""Places of tags on a picture of many boxes: no tag over another, each near its box, with a leader line to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rectangle: TypeAlias = tuple[int, int, int, int]
Rows: TypeAlias = NDArray[np.int64]

GAP: Final = 2  # pixels between two tags
_AT_ONCE: Final = 128
OVER_FACE, OVER_OTHER, OVER_OWN = 6.0, 1.0, 0.7
"""Cost of a tag that covers a face, another box, its own box; one tag height away from its box costs 1."""


def placed(
    boxes: Sequence[Rectangle],
    sizes: Sequence[tuple[int, int]],
    area: tuple[int, int],
    faces: Sequence[Rectangle] = (),
) -> list[Rectangle]:
    """The place of the tag of each box, in their order; the same boxes give the same places.

    sizes: (width, height) of each tag. area: width and height of the picture. Tags without room in the picture are in
    rows below it, so that the greatest y2 may exceed its height. A tag wider than the picture is in such a row too.

    >>> placed([(10, 40, 30, 90), (12, 40, 32, 90)], [(12, 10), (12, 10)], (100, 100))
    [(10, 30, 22, 40), (12, 90, 24, 100)]
    """
    others, hidden, marks = _summed(boxes, area), _summed(faces, area), _rows(boxes)
    taken: list[Rectangle] = []
    for box, size in zip(marks, sizes, strict=False):
        place = _best(box, size, area, others, hidden, _rows(taken))
        taken.append(place or _below(size, area, taken))
    return taken


def _summed(boxes: Sequence[Rectangle], area: tuple[int, int]) -> Rows:
    """How many boxes cover the pixels above and left of each corner, summed: (height + 1, width + 1)."""
    found = np.zeros((area[1] + 1, area[0] + 1), np.int64)
    for x1, y1, x2, y2 in boxes:
        found[y1 + 1 : y2 + 1, x1 + 1 : x2 + 1] += 1
    return found.cumsum(axis=0).cumsum(axis=1)


def _covered(places: Rows, summed: Rows) -> Rows:
    """Pixels (n,) of the boxes behind `summed` that places (n, 4) cover."""
    x1, y1, x2, y2 = places.T
    found: Rows = summed[y2, x2] - summed[y1, x2] - summed[y2, x1] + summed[y1, x1]
    return found


def _rows(boxes: Sequence[Rectangle]) -> Rows:
    return np.array(boxes, np.int64).reshape(-1, 4)


def _best(
    box: Rows, size: tuple[int, int], area: tuple[int, int], boxes: Rows, faces: Rows, taken: Rows
) -> Rectangle | None:
    """The cheapest free place within the picture; None where there is none."""
    width, height = size
    right, bottom = area[0] - width, area[1] - height
    if right < 0 or bottom < 0:
        return None
    x1, y1, x2, y2 = (int(v) for v in box)
    step = max(height // 2, 4)
    xs = {*range(0, right + 1, step), right, x1, x2 - width, x2, x1 - width}
    ys = {*range(0, bottom + 1, step), bottom, y1 - height, y1, y2 - height, y2}
    across, down = (np.array(sorted(v for v in vs if 0 <= v <= most)) for vs, most in ((xs, right), (ys, bottom)))
    x, y = (grid.ravel() for grid in np.meshgrid(across, down))
    places = np.stack([x, y, x + width, y + height], axis=1)
    own = _shared(places, box[None])[:, 0]
    covering = OVER_OWN * own + OVER_OTHER * (_covered(places, boxes) - own) + OVER_FACE * _covered(places, faces)
    cost = covering / (width * height) + _distance(places, box) / height
    cost += 0.02 * np.minimum(np.abs(places[:, 0] - x1) / height, 10)  # of equal places the one above the left corner
    grown = taken + np.array([-GAP, -GAP, GAP, GAP])
    places = places[np.argsort(np.round(cost, 6), kind="stable")]
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        free = np.flatnonzero(~_shared(some, grown).any(axis=1))
        if len(free):
            best = some[free[0]]
            return int(best[0]), int(best[1]), int(best[2]), int(best[3])
    return None


def _shared(places: Rows, boxes: Rows) -> Rows:
    """Pixels (n, m) that places (n, 4) and boxes (m, 4) share."""
    low = np.maximum(places[:, None, :2], boxes[None, :, :2])
    high = np.minimum(places[:, None, 2:], boxes[None, :, 2:])
    found: Rows = np.clip(high - low, 0, None).prod(axis=2)
    return found


def _distance(places: Rows, box: Rows) -> NDArray[np.float64]:
    """Distance (n,) of places (n, 4) to a box, pixels; 0 where they touch."""
    apart = np.maximum(np.maximum(box[:2] - places[:, 2:], places[:, :2] - box[2:]), 0)
    found: NDArray[np.float64] = np.hypot(apart[:, 0], apart[:, 1])
    return found


def _below(size: tuple[int, int], area: tuple[int, int], taken: Sequence[Rectangle]) -> Rectangle:
    """The next place in the rows below the picture."""
    rows = [place for place in taken if place[1] >= area[1]]
    x, y = GAP, area[1] + GAP
    if rows:
        x, y = rows[-1][2] + GAP, rows[-1][1]
        if x + size[0] > area[0]:
            x, y = GAP, max(place[3] for place in rows) + GAP
    return x, y, x + size[0], y + size[1]


def leader(tag: Rectangle, box: Rectangle) -> tuple[int, int, int, int] | None:
    """The shortest line (x, y, x, y) from a tag to the outline of its box; None where they touch.

    >>> leader((0, 0, 10, 10), (40, 5, 60, 50))
    (10, 7, 40, 7)
    >>> leader((0, 0, 10, 10), (8, 5, 60, 50))
    """
    (tx, bx), (ty, by) = _nearest(tag[0], tag[2], box[0], box[2]), _nearest(tag[1], tag[3], box[1], box[3])
    return None if (tx, ty) == (bx, by) else (tx, ty, bx, by)


def _nearest(a1: int, a2: int, b1: int, b2: int) -> tuple[int, int]:
    """The nearest points of two spans; the middle of what they share."""
    if a2 < b1:
        return a2, b1
    if b2 < a1:
        return a1, b2
    middle = (max(a1, b1) + min(a2, b2)) // 2
    return middle, middle
