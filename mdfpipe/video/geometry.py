"""Boxes: their overlaps, their one order, and which of many are kept. Pure functions on arrays.

Boxes are `xyxy` in pixels, maximum exclusive (`video/frames.py`): (n, 4), any float or integer type.
A function of two arrays goes row by row, `a[i]` with `b[i]`; since only the last axis is special, shapes
that broadcast work too: `iou(bodies[:, None], faces[None])` is the full (n, m) matrix. A box without
area (zero wide or high, or turned inside out) overlaps nothing: every measure of it is 0, without a warning.

The measures of `MEASURES` say how much of a face belongs to a body: (body, face) -> 0..1. For a face
inside a standing body `iou` is about 0.04, however right the pair, while `ioa_face` is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
MeasureName = Literal["ioa_face", "iou", "iomin", "center_in", "head_iou"]

HEAD_SHARE: Final = 7  # the head is the top 1/7 of a standing body


def area(boxes: Array) -> Array:
    """Area of each box in square pixels: (n, 4) -> (n,); 0 for a box turned inside out."""
    b = _float(boxes)
    width: Array = np.maximum(b[..., 2] - b[..., 0], 0)
    height: Array = np.maximum(b[..., 3] - b[..., 1], 0)
    return width * height


def intersection(a: Array, b: Array) -> Array:
    """Area in square pixels that a[i] and b[i] share: (n, 4), (n, 4) -> (n,)."""
    a, b = _float(a), _float(b)
    width = np.minimum(a[..., 2], b[..., 2])
    width -= np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3])
    height -= np.maximum(a[..., 1], b[..., 1])
    shared: Array = np.maximum(width, 0, out=width)
    shared *= np.maximum(height, 0, out=height)
    return shared


def ioa_face(body: Array, face: Array) -> Array:
    """Share of the face in the body, |B∩F| / |F|: (n, 4), (n, 4) -> (n,) in 0..1.

    >>> ioa_face(np.array([[0, 0, 10, 30]]), np.array([[8, 2, 12, 6]]))
    array([0.5])
    """
    return _ratio(intersection(body, face), area(face))


def iou(body: Array, face: Array) -> Array:
    """Intersection over union, |B∩F| / (|B| + |F| - |B∩F|): (n, 4), (n, 4) -> (n,) in 0..1.

    >>> iou(np.array([[0, 0, 4, 4]]), np.array([[0, 2, 4, 6]]))
    array([0.33333333])
    """
    shared = intersection(body, face)
    return _ratio(shared, area(body) + area(face) - shared)


def iou_matrix(a: Array, b: Array) -> Array:
    """IoU of each of n boxes with each of m, whose edges are rows: (4, n), (4, m) -> (n, m) in 0..1.

    As `iou`, with half as many calls: for the few boxes of a frame, calls are what costs time.
    """
    low, high = np.maximum(a[:2, :, None], b[:2, None]), np.minimum(a[2:, :, None], b[2:, None])
    high -= low
    sides = np.maximum(high, 0, out=high)
    shared = sides[0] * sides[1]
    own = [np.maximum(boxes[2:] - boxes[:2], 0) for boxes in (a, b)]
    whole = np.add.outer(own[0][0] * own[0][1], own[1][0] * own[1][1])
    whole -= shared
    return _ratio(shared, whole)


def iomin(body: Array, face: Array) -> Array:
    """Intersection over the smaller box, |B∩F| / min(|B|, |F|): (n, 4), (n, 4) -> (n,) in 0..1."""
    return _ratio(intersection(body, face), np.minimum(area(body), area(face)))


def center_in(body: Array, face: Array) -> Array:
    """1 where the face's centre is in the body (right and bottom edge excluded), else 0: -> (n,)."""
    body, face = _float(body), _float(face)
    x = (face[..., 0] + face[..., 2]) / 2
    y = (face[..., 1] + face[..., 3]) / 2
    inside = (x >= body[..., 0]) & (x < body[..., 2]) & (y >= body[..., 1]) & (y < body[..., 3])
    return (inside & (area(face) > 0)).astype(x.dtype)


def head_iou(body: Array, face: Array) -> Array:
    """IoU of the face with the body's head region, the top 1/7 of its height: (n, 4), (n, 4) -> (n,) in 0..1."""
    head = np.array(_float(body))
    head[..., 3] = head[..., 1] + (head[..., 3] - head[..., 1]) / HEAD_SHARE
    return iou(head, face)


MEASURES: Final[dict[MeasureName, Callable[[Array, Array], Array]]] = {
    "ioa_face": ioa_face,
    "iou": iou,
    "iomin": iomin,
    "center_in": center_in,
    "head_iou": head_iou,
}
assert tuple(MEASURES) == get_args(MeasureName)  # the type and the table name the same measures


def head_distance(body: Array, face: Array) -> Array:
    """Four times the squared distance, in pixels, of the face's centre from the body's top centre: -> (n,).

    The factor spares two halvings, so that whole pixels stay exact; only the order matters.
    """
    body, face = _float(body), _float(face)
    dx: Array = face[..., 0] + face[..., 2] - body[..., 0] - body[..., 2]
    dy: Array = face[..., 1] + face[..., 3] - 2 * body[..., 1]
    return dx * dx + dy * dy


def clip_to_frame(boxes: Array, width: int, height: int) -> Array:
    """The part of each box in a frame of width x height pixels: (n, 4) -> (n, 4).

    A box wholly outside becomes one without area.
    """
    b = _float(boxes)
    return np.clip(b, 0, np.array([width, height, width, height], b.dtype))


def inside_share(boxes: Array, width: int, height: int) -> Array:
    """Share of each box's area in a frame of width x height pixels: (n, 4) -> (n,) in 0..1."""
    return _ratio(area(clip_to_frame(boxes, width, height)), area(boxes))


def _float(boxes: Array) -> Array:
    boxes = np.asarray(boxes)
    return boxes if np.issubdtype(boxes.dtype, np.floating) else boxes.astype(np.float64)


def _ratio(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where the whole is 0 (the part is then 0 too): no branch, no warning."""
    return part / np.maximum(whole, np.finfo(whole.dtype).smallest_subnormal)


def ranking(xyxy: Array, score: Array) -> NDArray[np.int64]:
    """The order of boxes, best score first; equal scores by x1, y1, x2, y2, so that no input order shows.

    xyxy: (n, 4). score: (n,). Returns (n,) int64 indices.
    """
    x1, y1, x2, y2 = xyxy.T
    return np.lexsort((y2, x2, y1, x1, -score)).astype(np.int64)


def suppress(xyxy: Array, score: Array, max_iou: float) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: a box is kept unless it overlaps a better kept one by more than `max_iou`.

    xyxy: (n, 4), pixels. score: (n,). Overlap is intersection over union, in float64; an overlap of exactly
    `max_iou` is kept, as in torchvision and OpenCV. Returns (k,) int64 indices, in the order of `ranking`.
    """
    order = ranking(xyxy, score)
    x1, y1, x2, y2 = xyxy[order].astype(np.float64).T
    size = (x2 - x1) * (y2 - y1)  # not `area`: a box turned inside out keeps its sign
    left = np.arange(len(order))
    kept: list[int] = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        width = np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left])
        height = np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[shared <= max_iou * (size[best] + size[left] - shared)]
    return order[kept]
