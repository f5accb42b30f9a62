"""Which of the frames of one subject to keep, where not all of them are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def every_nth(frame: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Rows (n,) in the first of the frames that occur, and in each n-th after it. frame: (n,), in any order."""
    number = np.unique(frame, return_inverse=True)[1]
    kept: NDArray[np.bool_] = number % n == 0
    return kept


def highest(value: NDArray[np.float32], most: int) -> NDArray[np.bool_]:
    """Rows (n,) of the `most` highest values, or all where there are no more; the first ones among equals."""
    kept = np.zeros(len(value), np.bool_)
    kept[np.argsort(-value, kind="stable")[:most]] = True
    return kept


def spread_in_time(frame: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """Rows (n,) that are evenly spread in time: `most` of them, or all where there are no more. frame: (n,), ascending.

    The time from the first row to the last is cut into equal parts: into `most`, or where there are gaps into more,
    until enough parts hold a row. Each part gives the row next to its middle, the earlier of two.
    """
    if len(frame) <= most:
        return np.ones(len(frame), np.bool_)
    rank = np.arange(len(frame)) - np.searchsorted(frame, frame)  # among the rows of one frame
    time = (frame - frame[0]) * (rank.max() + 1) + rank  # whole numbers, no two alike
    span = int(time[-1]) + 1

    def held(parts: int) -> NDArray[np.int64]:
        return np.unique(time * parts // span)

    few, parts = most - 1, most  # the first never suffices, the second will
    while len(held(parts)) < most:
        few, parts = parts, min(2 * parts, span)
    while parts - few > 1:
        middle = (few + parts) // 2
        few, parts = (few, middle) if len(held(middle)) >= most else (middle, parts)
    part = time * parts // span
    from_middle = np.abs((2 * time + 1) * parts - (2 * part + 1) * span)
    order = np.lexsort((from_middle, part))
    nearest = order[np.unique(part[order], return_index=True)[1]]
    kept = np.zeros(len(frame), np.bool_)
    kept[nearest[(2 * np.arange(most) + 1) * len(nearest) // (2 * most)]] = True
    return kept
