"""From a person's materials to the numbers of a sensor, in each of four bands.

VIS is colour through half a kilometre of air: wobble, blur and haze. SWIR is reflected light in grey, crisp. MWIR and
LWIR are emitted heat: half the scene's resolution, more blur, fixed column noise and frame noise. `Optics` holds what a
clip fixes; what varies in a frame comes from the frame's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mdfpipe.domains import Band
from mdfpipe.synth.presets import uniform

if TYPE_CHECKING:
    from mdfpipe.synth.figure import Figure
    from mdfpipe.synth.people import Subject

SUPERSAMPLING = 2  # a figure's pixels for one of the frame, along each side
RAW_ZERO, RAW_SPAN = 6000, 3500  # raw counts at level 0, and from level 0 to 1
# A person is 2 to 10 % of a frame and skin a tenth of that: a window that ended at 99 % would bleach warm cloth.
AGC_PERCENTILES = (0.5, 99.8)
_THERMAL_SHRINK = 2  # scene pixels for one of a thermal sensor, along each side
_WOBBLE_CELL = 18  # pixels between two nodes of the turbulence field


@dataclass(frozen=True)
class Optics:
    """What one clip fixes of a camera: light, air, lens, gain and the sensor's own noise."""

    band: Band
    light: float = 0.0  # where the side light comes from: -1 is the image's left, 1 its right
    light_strength: float = 0.0  # 0..0.4, the share of a surface's level that the side light moves
    haze: float = 0.0  # 0..0.35, the share of the air's own grey
    haze_grey: tuple[float, float, float] = (0.7, 0.7, 0.7)  # RGB, 0..1
    blur_px: float = 0.0  # standard deviation, in pixels of the output
    wobble_px: float = 0.0  # standard deviation of the turbulence displacement, pixels
    gain: float = 1.0
    offset: float = 0.0
    noise: float = 0.0  # standard deviation from frame to frame, in levels 0..1
    column_noise: float = 0.0  # standard deviation from column to column, the same in all frames
    column_seed: int = 0
    shrink: float = 1.0  # scene pixels that one sensor pixel really resolves; above the grid's own 2 it is more blur
    agc: bool = True  # 8-bit frames are stretched to `window`
    window: tuple[float, float] | None = None  # levels shown as 0 and 255; None: 0 and 1

    @classmethod
    def draw(cls, band: Band, generator: np.random.Generator) -> Optics:
        """The camera of one clip in `band`. Ranges are those at which persons are about 200 pixels high."""

        between = uniform(generator)
        light, strength = between(-1, 1), between(0.05, 0.35)
        gain, offset, seed = between(0.75, 1.2), between(-0.1, 0.1), int(generator.integers(2**31))
        if band is Band.VIS:
            grey, tint = between(0.55, 0.85), between(-0.03, 0.04)
            air = (grey - tint, grey, grey + tint)
            turbulence = between(0, 1)  # air that moves edges also smears them
            blur, wobble = 0.4 + 1.1 * (0.65 * turbulence + between(0, 0.35)), 0.3 + 1.1 * turbulence
            return cls(band, light, strength, between(0, 0.35), air, blur, wobble, gain, offset, 0.015)
        if not band.is_thermal:
            return cls(band, light, strength, blur_px=0.5, gain=gain, offset=offset, noise=0.02, agc=False)
        return cls(
            band,
            blur_px=between(0.6, 1.0),
            gain=gain,
            offset=offset,
            noise=0.035,
            column_noise=0.01,
            column_seed=seed,
            shrink=_THERMAL_SHRINK * between(0.85, 1.15),
        )


def paint(figure: Figure, subject: Subject, optics: Optics) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A figure in one band, at the frame's resolution: pixels (h, w, C), not premultiplied, and alpha (h, w), 0..1.

    C is 3 (RGB) in VIS and 1 elsewhere. Reflected bands are lit from the side; emitted ones show their heat.
    """
    rows, columns = (-(-n // SUPERSAMPLING) * SUPERSAMPLING for n in figure.material.shape)
    missing = ((0, rows - figure.material.shape[0]), (0, columns - figure.material.shape[1]))
    material, texture = np.pad(figure.material, missing), np.pad(figure.texture, missing)
    rounding = np.pad(figure.rounding, missing)
    values = subject.values[optics.band]
    added = np.take(subject.texture_amplitude[optics.band], material) * texture
    if optics.band.is_thermal:
        shade = 0.86 + 0.14 * rounding
    else:
        shade = (0.72 + 0.28 * rounding) * (1 + np.float32(0.07) * texture)
        # A round limb turns away from the light within its radius, about 3 % of the body's height.
        across = cv2.Sobel(rounding, cv2.CV_32F, 1, 0, ksize=3, scale=0.125 * 0.035 * rows)
        across = _blurred(np.clip(across, -1, 1), max(0.8, 0.004 * rows))
        shade *= 1 - np.float32(optics.light * optics.light_strength) * across
    inside = (material != 0).astype(np.float32)
    shade *= inside
    added *= inside
    size = (columns // SUPERSAMPLING, rows // SUPERSAMPLING)
    alpha = _shrunk(inside, size)
    divisor = np.maximum(alpha, 1e-6)
    pixels = np.empty((size[1], size[0], values.shape[1]), np.float32)
    for channel in range(values.shape[1]):
        level = np.take(values[:, channel], material) * shade + added
        pixels[..., channel] = _shrunk(level, size) / divisor
    return np.clip(pixels, 0, 1, out=pixels), alpha


def _shrunk(picture: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """`picture` at `size` (width, height), each pixel the mean of its area."""
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def _blurred(picture: NDArray[np.float32], deviation: float) -> NDArray[np.float32]:
    """`picture` under a Gaussian blur of `deviation` pixels."""
    if deviation <= 0:
        return picture.copy()
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), deviation), np.float32)


def sense(scene: NDArray[np.float32], optics: Optics, generator: np.random.Generator) -> NDArray[Any]:
    """What the camera makes of `scene` (H, W, C), radiance 0..1: (H, W, 3) uint8 RGB in VIS, else float32 0..1.

    SWIR keeps (H, W); MWIR and LWIR give exactly (round(H/2), round(W/2)). `generator` is the frame's: turbulence and
    noise are new in each frame; everything else is the clip's `optics`.
    """
    if optics.band is Band.VIS:
        return _sense_colour(scene, optics, generator)
    grey = np.ascontiguousarray(scene[..., 0] if scene.ndim == 3 else scene)
    blur, columns = optics.blur_px, np.zeros(1, np.float32)
    if optics.band.is_thermal:
        grey = _shrunk(grey, (round(scene.shape[1] / _THERMAL_SHRINK), round(scene.shape[0] / _THERMAL_SHRINK)))
        # A sensor that resolves less than its grid: the box of the missing share, as a Gaussian of its variance.
        extra = max(0.0, (optics.shrink / _THERMAL_SHRINK) ** 2 - 1) / 12
        blur = float(np.sqrt(optics.blur_px**2 + extra))
        columns = np.float32(optics.column_noise) * _column_pattern(optics.column_seed, grey.shape[1])
    grey = _blurred(grey, blur)
    grey *= np.float32(optics.gain)
    grey += np.float32(optics.noise) * generator.standard_normal(grey.shape, dtype=np.float32)
    grey += columns + np.float32(optics.offset)
    if optics.band.is_thermal:
        # Headroom: skin at level 1 under the highest gain and offset (1.3) still differs from what is hotter.
        grey *= np.float32(0.72)
        grey += np.float32(0.1)
    return np.clip(grey, 0, 1, out=grey)


@lru_cache(maxsize=64)
def _column_pattern(seed: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(width, dtype=np.float32)


def _sense_colour(scene: NDArray[np.float32], optics: Optics, generator: np.random.Generator) -> NDArray[np.uint8]:
    """`sense` in VIS: displacement, blur, haze, gain, noise."""
    height, width = scene.shape[:2]
    picture = scene
    if optics.wobble_px > 0:
        nodes = (2, -(-height // _WOBBLE_CELL) + 1, -(-width // _WOBBLE_CELL) + 1)
        field = np.float32(optics.wobble_px) * generator.standard_normal(nodes, dtype=np.float32)
        columns, rows = (cv2.resize(component, (width, height), interpolation=cv2.INTER_CUBIC) for component in field)
        columns += np.arange(width, dtype=np.float32)
        rows += np.arange(height, dtype=np.float32)[:, None]
        picture = np.asarray(cv2.remap(scene, columns, rows, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE), np.float32)
    picture = _blurred(picture, optics.blur_px * float(generator.uniform(0.85, 1.15)))  # the air changes
    gain = 255 * optics.gain
    shift = np.array([gain * optics.haze * grey + 255 * optics.offset for grey in optics.haze_grey], np.float32)
    picture = picture * np.float32(gain * (1 - optics.haze))
    if optics.noise > 0:
        noise = generator.standard_normal(picture.shape, dtype=np.float32)
        noise *= np.float32(255 * optics.noise)
        picture += noise
    picture += shift
    np.rint(picture, out=picture)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def agc_window(grey: NDArray[np.float32]) -> tuple[float, float]:
    """The levels that automatic gain control shows as black and white, for a picture (h, w); at least .05 apart."""
    low, high = (float(v) for v in np.percentile(grey, AGC_PERCENTILES))
    missing = max(0.0, 0.05 - (high - low)) / 2
    return low - missing, high + missing


def to_8bit(grey: NDArray[np.float32], optics: Optics) -> NDArray[np.uint8]:
    """`grey` (h, w) as uint8: stretched from `optics.window` where the camera has AGC and a window, else from 0..1."""
    low, high = optics.window if optics.agc and optics.window is not None else (0.0, 1.0)
    scaled = (grey - np.float32(low)) * np.float32(255 / (high - low))
    shown: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return shown


def to_16bit(grey: NDArray[np.float32]) -> NDArray[np.uint16]:
    """`grey` (h, w) as raw sensor counts, without AGC: 6000 + 3500 * level."""
    return np.clip(np.rint(RAW_ZERO + RAW_SPAN * grey), 0, 65535).astype(np.uint16)
