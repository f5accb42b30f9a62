"""16-bit pixels to 8-bit RGB, for detectors and pictures. The crops keep the source's own values.

What a policy does to a face in the far infrared decides what a detector sees: a percentile for each frame makes an
empty background look hot, a constant range makes everything grey. So the policy and its low and high are recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from mdfpipe.config import Config
from mdfpipe.store.images import stretching, top_bits
from mdfpipe.video.frames import Frames
from mdfpipe.video.spans import Cuts

_FEWEST = 32  # key pictures: of 16, one of a moment with something hot moved white by 79 % of the range
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class Normalise(Config):
    """How pixels above 8 bits become 8-bit RGB; 8-bit pixels stay as they are (but for `clahe`).

    policy: native8 takes the top 8 bits of the bit depth; video_percentile stretches between two percentiles of all
    pixels of `sampled_frames` frames, evenly spaced, or of the whole video (it is then read twice); frame_percentile
    between those of each frame; fixed_range between `low` and `high`. clahe equalises local contrast afterwards, also
    for 8-bit sources.
    """

    policy: Literal["native8", "video_percentile", "frame_percentile", "fixed_range"] = Field(
        "video_percentile", description="choice of black and white, see above; recorded for every video"
    )
    sampled_frames: int | None = Field(
        64,
        ge=1,
        description="video_percentile: from so many key pictures at most, evenly spaced, where there are more frames "
        "and at least 32 key pictures at which the video can be entered; null: from all pixels, in a first pass",
    )
    low_percentile: float = Field(0.5, ge=0, le=100, description="percentile that becomes black")
    high_percentile: float = Field(99.5, ge=0, le=100, description="percentile that becomes white")
    low: int | None = Field(None, ge=0, le=65535, description="value that becomes black (fixed_range)")
    high: int | None = Field(None, ge=0, le=65535, description="value that becomes white (fixed_range)")
    clahe: bool = Field(False, description="equalise local contrast afterwards")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low_percentile >= self.high_percentile:
            raise ValueError(
                f"expected low_percentile below high_percentile, got {self.low_percentile} and {self.high_percentile}"
            )
        is_fixed = self.policy == "fixed_range"
        if is_fixed and (self.low is None or self.high is None):
            raise ValueError("policy fixed_range needs low and high, in the source's own values")
        if not is_fixed and (self.low is not None or self.high is not None):
            raise ValueError(f"low and high belong to policy fixed_range, not to {self.policy}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")
        return self

    def window(self, frames: Iterable[Frames], bit_depth: int = 16) -> tuple[float, float]:
        """The values that become black and white, in the source's own units; (0, 255) for 8-bit video.

        video_percentile reads all of `frames` (a `FrameStream`, or those `chosen`) into a histogram of 65536 bins, in
        constant memory. frame_percentile reads them, too, and gives the lowest low and the highest high, to be
        reported. The others read nothing. Colour above 8 bits arrives as 16 bits for any depth of the source: pass 16.
        """
        if bit_depth <= 8:
            return 0.0, 255.0
        if self.policy == "native8":
            return 0.0, float((1 << bit_depth) - 1)
        if self.low is not None and self.high is not None:
            return float(self.low), float(self.high)
        if self.policy == "frame_percentile":
            windows = [self.frame_window(pixels) for batch in frames for pixels in batch.pixels]
            return min((w[0] for w in windows), default=0.0), max((w[1] for w in windows), default=0.0)
        counts = np.zeros(1 << 16, np.int64)
        for batch in frames:
            if batch.pixels.dtype == np.uint8:
                return 0.0, 255.0
            counts += np.bincount(batch.pixels.ravel(), minlength=1 << 16)
        return self._percentiles(counts)

    def samples(self, bit_depth: int, frames: int | None) -> bool:
        """Whether a video of so many frames, None if it is unknown, may be sampled."""
        is_asked = self.policy == "video_percentile" and self.sampled_frames is not None and bit_depth > 8
        return is_asked and (frames is None or frames > (self.sampled_frames or 0))

    def chosen(self, cuts: Cuts) -> list[int]:
        """The indices of the frames that are sampled; none where the window comes from all frames."""
        wanted = self.sampled_frames or 0
        if cuts.whole or not self.samples(16, cuts.frames):
            return []
        middles = (np.arange(wanted) + 0.5) * cuts.frames / wanted
        found = np.unique(np.searchsorted(cuts.entries, middles, side="right") - 1)
        return [int(number) for number in cuts.entries[found]] if len(found) >= min(wanted, _FEWEST) else []

    def frame_window(self, pixels: Pixels) -> tuple[float, float]:
        """The percentiles of one frame, (H, W, C); what frame_percentile maps to black and white there."""
        return self._percentiles(np.bincount(pixels.ravel(), minlength=1 << 16))

    def _percentiles(self, counts: NDArray[np.int64]) -> tuple[float, float]:
        low, high = (histogram_percentile(counts, q) for q in (self.low_percentile, self.high_percentile))
        return low, high

    def apply(self, pixels: Pixels, low: float, high: float) -> NDArray[np.uint8]:
        """(N, H, W, 3) uint8 RGB of (N, H, W, C) pixels; `low` and below is 0, `high` and above is 255.

        low, high: from `window`; frame_percentile takes each frame's own instead. Where low equals high (a flat
        video) what is above is white and the rest black.
        """
        if pixels.dtype == np.uint8:
            rgb = pixels.astype(np.uint8, copy=False)
        elif self.policy == "frame_percentile":
            rgb = np.zeros(pixels.shape, np.uint8)
            for number, frame in enumerate(pixels):
                rgb[number] = stretching(*self.frame_window(frame))[frame]
        elif self.policy == "native8":
            rgb = top_bits(pixels, int(high).bit_length())
        else:
            rgb = stretching(low, high)[pixels]
        if rgb.shape[-1] == 1:
            rgb = np.repeat(rgb, 3, axis=-1)
        return _even_out(rgb) if self.clahe and len(rgb) else rgb


def histogram_percentile(counts: NDArray[np.int64], percentile: float) -> float:
    """The percentile of the values 0..n-1 that occur `counts[value]` times, as np.percentile gives it; 0 of nothing."""
    total = int(counts.sum())
    if not total:
        return 0.0
    ends = np.cumsum(counts)
    rank = (total - 1) * percentile / 100
    below = int(rank)
    first, second = (int(np.searchsorted(ends, r, side="right")) for r in (below, min(below + 1, total - 1)))
    return first + (second - first) * (rank - below)


def _even_out(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """CLAHE (clip limit 2, 8x8 tiles) on the lightness, so that hues stay; grey stays grey."""
    import cv2

    clahe = cv2.createCLAHE(2.0, (8, 8))
    out = np.empty_like(rgb)
    for number, image in enumerate(rgb):
        if np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2]):
            out[number] = clahe.apply(np.ascontiguousarray(image[..., 0]))[..., None]
            continue
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
        lab[..., 0] = clahe.apply(np.ascontiguousarray(lab[..., 0]))
        out[number] = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return out
