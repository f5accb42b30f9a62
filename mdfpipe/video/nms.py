"""Which of many overlapping boxes are kept: greedy suppression, and the one order of boxes. Pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def ranking(xyxy: Floats, score: Floats) -> NDArray[np.int64]:
    """The order of boxes, best score first; equal scores by x1, y1, x2, y2, so that no input order shows.

    xyxy: (n, 4). score: (n,). Returns (n,) int64 indices.

    >>> ranking(np.array([[5, 0, 9, 9], [1, 0, 9, 9], [0, 0, 2, 2.0]]), np.array([0.5, 0.5, 0.9])).tolist()
    [2, 1, 0]
    """
    x1, y1, x2, y2 = xyxy.T
    return np.lexsort((y2, x2, y1, x1, -score)).astype(np.int64)


def suppress(xyxy: Floats, score: Floats, max_iou: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: a box is kept unless it overlaps a better kept one by more than `max_iou`.

    xyxy: (n, 4), pixels. score: (n,). Overlap is intersection over union, in float64; an overlap of exactly
    `max_iou` is kept, as in torchvision and OpenCV. Returns (k,) int64 indices, in the order of `ranking`.

    >>> boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10.0]])
    >>> suppress(boxes, np.array([0.6, 0.7, 0.5]), 0.45).tolist()
    [1, 2]
    """
    order = ranking(xyxy, score)
    x1, y1, x2, y2 = xyxy[order].astype(np.float64).T
    area = (x2 - x1) * (y2 - y1)
    left = np.arange(len(order))
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[shared <= max_iou * (area[best] + area[left] - shared)]
    return order[kept]
