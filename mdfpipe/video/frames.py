"""Frames and Boxes, and the one convention for coordinates.

Boxes are `xyxy` in pixels of the decoded frame: origin at the top left corner of the top left pixel,
x to the right, y down, maximum exclusive, so that width = x2 - x1. A frame's index is 0-based, in
presentation order, counting every frame that the file delivers (a stride leaves gaps in it).
Pixels are uint8 RGB (3 channels), or uint16 with 1 channel (grey) or 3 (RGB) for sources above 8 bits,
with the source's own values (a 14-bit source gives 0..16383).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdfpipe.errors import ConfigError, DataError, one_line


class ArrayError(DataError, ValueError):
    """An array of the wrong shape or type: a ValueError, too, as in numpy."""


def _check_array(name: str, value: object) -> None:
    if not isinstance(value, np.ndarray):
        raise ArrayError(f"{name}: expected an array, got {type(value).__name__}")


@dataclass(frozen=True, eq=False)
class Frames:
    """Consecutive decoded frames of one video.

    pixels: (N, H, W, C) uint8 with C = 3, or uint16 with C = 1 or 3.
    index: (N,) int64, 0-based in presentation order, strictly increasing.
    pts_seconds: (N,) float64, presentation time; NaN where the container has none.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    index: NDArray[np.int64]
    pts_seconds: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("pixels", "index", "pts_seconds"):
            _check_array(name, getattr(self, name))
        p = self.pixels
        if p.ndim != 4 or (p.dtype.name, p.shape[3]) not in (("uint8", 3), ("uint16", 1), ("uint16", 3)):
            raise ArrayError(f"pixels: expected (N, H, W, 3) uint8 or (N, H, W, 1|3) uint16, got {p.shape} {p.dtype}")
        for name, dtype in (("index", np.int64), ("pts_seconds", np.float64)):
            a = getattr(self, name)
            if a.shape != (len(p),) or a.dtype != dtype:
                raise ArrayError(f"{name}: expected ({len(p)},) {np.dtype(dtype)}, got {a.shape} {a.dtype}")
        if np.any(np.diff(self.index) <= 0):
            raise ArrayError("index: expected strictly increasing frame numbers")

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        span = f"{self.index[0]}..{self.index[-1]}" if len(self) else "none"
        return f"Frames({self.pixels.shape} {self.pixels.dtype}, index {span})"


@dataclass(frozen=True, eq=False)
class Boxes:
    """The detections in one frame.

    xyxy: (n, 4) float32, pixels of the decoded frame. score: (n,) float32 in 0..1. subject_id: who each is, (n,) text
    or None, where boxes made elsewhere say so; None where they do not.
    """

    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    subject_id: NDArray[np.object_] | None = None

    def __post_init__(self) -> None:
        for name, value in (("xyxy", self.xyxy), ("score", self.score)):
            _check_array(name, value)
        if self.xyxy.ndim != 2 or self.xyxy.shape[1] != 4 or self.xyxy.dtype != np.float32:
            raise ArrayError(f"xyxy: expected (n, 4) float32, got {self.xyxy.shape} {self.xyxy.dtype}")
        if self.score.shape != (len(self.xyxy),) or self.score.dtype != np.float32:
            raise ArrayError(f"score: expected ({len(self.xyxy)},) float32, got {self.score.shape} {self.score.dtype}")
        if self.subject_id is None:
            return
        _check_array("subject_id", self.subject_id)
        if self.subject_id.shape != (len(self.xyxy),):
            raise ArrayError(f"subject_id: expected ({len(self.xyxy)},), got {self.subject_id.shape}")
        if other := [one for one in self.subject_id.tolist() if one is not None and not isinstance(one, str)]:
            raise ArrayError(f"subject_id: expected texts or None, got {one_line(repr(other[0]), 40)}")

    @classmethod
    def none(cls) -> Boxes:
        """No detection."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, chosen: slice | NDArray[np.bool_] | NDArray[np.integer] | list[int]) -> Boxes:
        """Some of the boxes, by slice, mask or indices.

        >>> Boxes(np.zeros((3, 4), np.float32), np.array([0.9, 0.2, 0.5], np.float32))[1:].score.tolist()
        [0.20000000298023224, 0.5]
        """
        wrong = "Boxes: expected a slice, a mask or indices, got"
        given: object = chosen.item() if isinstance(chosen, np.ndarray) and chosen.ndim == 0 else chosen
        if isinstance(given, int | np.integer):  # what a loop over the boxes asks for, too
            raise ConfigError(f"{wrong} {given}: use boxes[[{given}]] or boxes[{given}:{given + 1 or ''}]")
        try:
            named = None if self.subject_id is None else self.subject_id[chosen]
            return Boxes(self.xyxy[chosen], self.score[chosen], named)
        except (IndexError, TypeError) as error:
            raise ConfigError(f"{wrong} {one_line(repr(chosen), 40)}: {one_line(error)}") from None

    @property
    def subjects(self) -> Any:
        """A pyarrow array (n,) of text: who each is; null where nothing says so."""
        import pyarrow as pa  # not above: detectors load nothing heavy before they are asked for

        return pa.nulls(len(self), pa.string()) if self.subject_id is None else pa.array(self.subject_id, pa.string())

    def __repr__(self) -> str:
        return f"Boxes({len(self)})"
