"""Placement: whether boxes that were made elsewhere can be of this picture, and what they are if they cannot.

Most wrong boxes are of another resolution or relative (0..1). They give crops of the wrong place under people's names,
and nothing else notices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOOSE_PX = 2.0  # a box may reach so far beyond the edge: rounding, and edges counted from 1
TINY_PX = 2.0
_ROUND = (1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 16)
_WIDE = (640, 960, 1024, 1280, 1920, 2560, 3840, 5120, 7680)  # the longer side of usual videos of 16:9
_FEW = 5  # boxes: below, nothing is said of how they are spread

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Placement:
    """How n boxes lie in a picture.

    outside, beyond, tiny: (n,) bool: no pixel in the picture; reaching out of it by more than 2 px (and not outside);
    with a side below 2 px. wrong: why they cannot be of this picture, and what they likely are. doubt: what makes one
    wonder, and may be right.
    """

    outside: _Mask
    beyond: _Mask
    tiny: _Mask
    wrong: str | None = None
    doubt: str | None = None


def place(xyxy: NDArray[np.float32], width: int, height: int, *, sized: bool = False) -> Placement:
    """How boxes lie in a picture of width x height pixels.

    xyxy: (n, 4), maximum exclusive. sized: whether they were written as x, y, width, height, which may be a mistake.

    >>> boxes = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.7]], np.float32)
    >>> place(boxes, 640, 480).wrong
    'all 2 boxes lie within 0..1: relative coordinates? multiply x by 640 and y by 480'
    """
    boxes = xyxy.astype(np.float64)
    low, high, size = boxes[:, :2], boxes[:, 2:], np.array([width, height], np.float64)
    inner = (np.minimum(high, size) - np.maximum(low, 0)).clip(min=0)
    outside = _any(inner <= 0)
    beyond = _any((low < -LOOSE_PX) | (high > size + LOOSE_PX)) & ~outside
    tiny = _any((high - low) < TINY_PX)
    if not len(boxes):
        return Placement(outside, beyond, tiny)
    inside = inner.prod(axis=1) / np.maximum((high - low).prod(axis=1), 1e-9)
    mostly_out = np.asarray(inside < 0.5, np.bool_)
    cannot_be = mostly_out if len(boxes) >= _FEW else np.asarray(inside < 0.25, np.bool_)  # a few may lean out
    relative = ~_any((low < -0.5) | (high > 1.5))
    wrong = doubt = None
    if _most(relative):
        wrong = f"{_share(relative)} lie within 0..1: relative coordinates? multiply x by {width} and y by {height}"
    elif _most(tiny):
        wrong = f"{_share(tiny)} have a side below {TINY_PX:g} px in a picture of {width}x{height}; are they in pixels?"
    elif sized and _are_corners(boxes):
        wrong = (
            f"all {len(boxes)} boxes are wider than their x and higher than their y, and grow with them: "
            "right and bottom edges where width and height are expected?"
        )
    elif _most(cannot_be) or mostly_out.sum() * 4 > len(boxes):
        out = f"{_share(mostly_out)} lie mostly outside the picture of {width}x{height}: {_cause(boxes, size)}"
        wrong, doubt = (out, None) if _most(cannot_be) else (None, out)
    elif len(boxes) >= _FEW and _are_percent(boxes, size):
        doubt = f"all {len(boxes)} boxes lie within 0..100 of a picture of {width}x{height}: percentages?"
    return Placement(outside, beyond, tiny, wrong, doubt)


def _any(sides: NDArray[np.bool_]) -> _Mask:
    """(n,) of (n, 2): whether one of the two holds."""
    return sides[:, 0] | sides[:, 1]


def _most(mask: _Mask) -> bool:
    return bool(2 * mask.sum() > len(mask))


def _share(mask: _Mask) -> str:
    count, total = int(mask.sum()), len(mask)
    return f"all {total} boxes" if count == total > 1 else f"{count} of {total} boxes"


def _are_corners(boxes: NDArray[np.float64]) -> bool:
    """Whether boxes read as x, y, width, height are x1, y1, x2, y2: each width above its x, and growing with it."""
    x, y = boxes[:, 0], boxes[:, 1]
    width, height = boxes[:, 2] - x, boxes[:, 3] - y
    if len(boxes) < _FEW or not ((width > x) & (height > y)).all() or np.ptp(x) < 10 or not np.ptp(width):
        return False
    return bool(np.corrcoef(x, width)[0, 1] > 0.9)


def _are_percent(boxes: NDArray[np.float64], size: NDArray[np.float64]) -> bool:
    reach = boxes[:, 2:].max(axis=0)
    return bool((size >= 300).all() and (boxes >= -1).all() and (reach <= 101).all() and (reach > 50).any())


def _cause(boxes: NDArray[np.float64], size: NDArray[np.float64]) -> str:
    """What boxes outside their picture may be: of a larger or a turned one."""
    reach = np.quantile(boxes[:, 2:], 0.95, axis=0)
    if (boxes[:, 2:] <= 0).any(axis=1).mean() > 0.5:
        return "their coordinates are negative"
    x, y = reach.round().astype(int).tolist()
    if size[0] != size[1] and (reach <= size[::-1] + LOOSE_PX).all():
        turned = f"{size[1]:g}x{size[0]:g}"
        return f"they reach x={x}, y={y} and would fit {turned}: annotated on the picture turned by 90 degrees?"
    factor = _factor(float((reach / size).max()), size)
    if factor is None:
        return f"they reach x={x}, y={y}"
    larger = "x".join(f"{side:.0f}" for side in size * factor)
    return (
        f"they reach x={x}, y={y}, as on a picture about {factor:.4g} times the size ({larger}): another resolution? "
        f"divide them by {factor:.4g}"
    )


def _factor(least: float, size: NDArray[np.float64]) -> float | None:
    """How much larger the picture was that boxes are of which reach `least` times the size of this one.

    The next usual size for 16:9, else the next round factor: people are seldom at the very edge.
    """
    longer, shorter = size.max(), size.min()
    is_wide = abs(longer * 9 - shorter * 16) < 16
    factors = [width / longer for width in _WIDE if width > longer] if is_wide else []
    return next((factor for factor in (*factors, *_ROUND) if factor >= 0.98 * least), None)
