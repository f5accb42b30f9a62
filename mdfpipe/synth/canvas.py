"""The stuffs of a place in each band, and the picture that a place is drawn on.

A table holds for each stuff its colours in VIS (of low saturation), how much light it reflects in SWIR (leaves much,
the sky little) and what it emits in MWIR and LWIR (less than a person, except engines, lamps and vents).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mdfpipe.domains import Band
from mdfpipe.synth.presets import uniform

Array: TypeAlias = NDArray[np.float32]
Range: TypeAlias = tuple[float, float]

FINENESS = 2  # drawn at this multiple of the frame, for smooth edges
HORIZON = 0.12  # the camera's eye level, as a share of the frame's height from the top
CAMERA_HEIGHT_M = 1.85


@dataclass(frozen=True)
class Stuff:
    """Levels of one material. colours: RGB, 0..1, one is picked; swir, thermal: ranges of level; grain: texture."""

    colours: tuple[tuple[float, float, float], ...]
    swir: Range
    thermal: Range
    grain: float = 0.06


_PLASTERS = ((0.72, 0.69, 0.62), (0.66, 0.66, 0.66), (0.67, 0.61, 0.53), (0.76, 0.75, 0.72), (0.60, 0.62, 0.63))
_SIGNS = ((0.78, 0.78, 0.76), (0.32, 0.40, 0.52), (0.55, 0.34, 0.31), (0.66, 0.60, 0.40))
_METALS = ((0.33, 0.36, 0.38), (0.48, 0.49, 0.50), (0.24, 0.25, 0.26), (0.34, 0.40, 0.36))
_GREY_CARS = ((0.80, 0.80, 0.80), (0.60, 0.61, 0.62), (0.30, 0.31, 0.33), (0.13, 0.13, 0.14))
_STUFFS: Mapping[str, Stuff] = MappingProxyType(
    {
        "sky": Stuff(((0.74, 0.79, 0.85), (0.80, 0.81, 0.82), (0.68, 0.74, 0.82)), (0.05, 0.16), (0.00, 0.06), 0.01),
        "leaves": Stuff(((0.27, 0.31, 0.19), (0.31, 0.33, 0.22), (0.22, 0.28, 0.20)), (0.55, 0.78), (0.14, 0.26), 0.17),
        "grass": Stuff(((0.38, 0.41, 0.27), (0.46, 0.45, 0.32), (0.33, 0.37, 0.25)), (0.50, 0.72), (0.16, 0.32), 0.15),
        "bark": Stuff(((0.31, 0.27, 0.23), (0.38, 0.35, 0.31)), (0.38, 0.55), (0.20, 0.34), 0.2),
        "asphalt": Stuff(((0.40, 0.40, 0.41), (0.47, 0.46, 0.45), (0.34, 0.34, 0.36)), (0.2, 0.36), (0.26, 0.48), 0.06),
        "paving": Stuff(((0.60, 0.58, 0.55), (0.55, 0.55, 0.54), (0.64, 0.60, 0.54)), (0.4, 0.56), (0.24, 0.45), 0.06),
        "gravel": Stuff(((0.54, 0.50, 0.43), (0.58, 0.55, 0.50)), (0.44, 0.60), (0.24, 0.45), 0.14),
        "plaster": Stuff(_PLASTERS, (0.38, 0.72), (0.18, 0.40), 0.04),
        "brick": Stuff(((0.50, 0.40, 0.35), (0.55, 0.47, 0.41), (0.44, 0.37, 0.34)), (0.40, 0.60), (0.22, 0.42), 0.08),
        "concrete": Stuff(((0.58, 0.58, 0.56), (0.50, 0.50, 0.49)), (0.34, 0.54), (0.20, 0.42), 0.08),
        "glass": Stuff(((0.20, 0.23, 0.26), (0.30, 0.33, 0.36), (0.14, 0.15, 0.17)), (0.08, 0.32), (0.02, 0.34), 0.02),
        "wood": Stuff(((0.44, 0.38, 0.31), (0.52, 0.46, 0.39), (0.36, 0.32, 0.28)), (0.40, 0.62), (0.20, 0.36), 0.1),
        "metal": Stuff(_METALS, (0.18, 0.56), (0.05, 0.28)),
        "paint": Stuff(((0.80, 0.80, 0.77), (0.76, 0.74, 0.66)), (0.50, 0.75), (0.20, 0.42), 0.04),
        "sign": Stuff(_SIGNS, (0.3, 0.8), (0.1, 0.3), 0.02),
        "body": Stuff((*_GREY_CARS, (0.27, 0.32, 0.40), (0.45, 0.27, 0.26)), (0.12, 0.7), (0.10, 0.26), 0.02),
        "tyre": Stuff(((0.10, 0.10, 0.10),), (0.05, 0.12), (0.32, 0.52), 0.02),
        "dark": Stuff(((0.12, 0.12, 0.13),), (0.05, 0.15), (0.15, 0.32), 0.02),
        "lamp": Stuff(((0.95, 0.93, 0.86),), (0.6, 0.95), (0.60, 0.90), 0.0),
        "hot": Stuff(((0.30, 0.30, 0.31), (0.42, 0.41, 0.40)), (0.2, 0.5), (0.52, 0.85), 0.02),
    }
)


def fractal(
    size: tuple[int, int],
    cell: tuple[float, float],
    generator: np.random.Generator,
    octaves: int = 3,
    persistence: float = 0.6,
) -> Array:
    """Smooth noise (H, W) of about unit variance.

    cell: (rows, columns), the pixels between nodes in the coarsest octave; each next one has half as many and
    `persistence` times the amplitude.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    weight = 1.0
    for octave in range(octaves):
        nodes = (max(2, round(height * 2**octave / cell[0]) + 1), max(2, round(width * 2**octave / cell[1]) + 1))
        nodes = (min(nodes[0], height), min(nodes[1], width))
        grid = generator.standard_normal(nodes, dtype=np.float32)
        total += np.float32(weight) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR).reshape(size)
        weight *= persistence
    return total * np.float32(1.25 / np.sqrt(sum(persistence ** (2 * k) for k in range(octaves))))


class Palette:
    """Levels of stuffs in one band, under one clip's light."""

    def __init__(self, band: Band, generator: np.random.Generator) -> None:
        self.band, self.generator = band, generator
        warmth = generator.uniform(-0.04, 0.04)
        self.tint = np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(generator.uniform(0.85, 1.1))
        self.ambient = float(generator.uniform(-0.10, 0.12))  # warm or cold ground and air, thermal

    def tone(self, name: str) -> tuple[Array, float]:
        """A level (C,) of a stuff, new at each call, and how strong its grain is, as a share of the level."""
        stuff, band, generator = _STUFFS[name], self.band, self.generator
        pick, spread = int(generator.integers(len(stuff.colours))), generator.standard_normal(3)
        share, value = float(generator.random()), float(generator.uniform(0.85, 1.15))
        if band is Band.VIS:
            colour = np.array(stuff.colours[pick], np.float32) * self.tint * value + 0.007 * spread
            return np.clip(colour, 0.02, 0.98).astype(np.float32), stuff.grain
        low, high = stuff.thermal if band.is_thermal else stuff.swir
        level, grain = low + share * (high - low), 1.2 if name == "leaves" else 0.8
        if band.is_thermal:
            outdoors, grain = name not in ("lamp", "hot", "sky"), 0.5
            level = float(np.clip(level + self.ambient * outdoors, 0.0, 0.55 if outdoors else 0.9))
        return np.array([level], np.float32), stuff.grain * grain


class CanvasPlace:
    """A picture being drawn, `FINENESS` times the frame. Lengths are metres at a distance, or its pixels.

    base: row where the ground ends at a wall, a hedge or trees; eye: row of the camera's eye level.
    """

    def __init__(self, band: Band, size: tuple[int, int], generator: np.random.Generator) -> None:
        self.band, self.generator = band, generator
        self.palette, self.between = Palette(band, generator), uniform(generator)
        self.height, self.width = size[0] * FINENESS, size[1] * FINENESS
        self.eye = HORIZON * self.height
        self.base = int(self.height * generator.uniform(0.34, 0.48))
        self.sunny = not band.is_thermal and self.chance(0.5)
        self.standing: list[tuple[float, Callable[[], None]]] = []
        channels = 3 if band is Band.VIS else 1
        self.image = np.zeros((self.height, self.width, channels), np.float32)
        self.cover("sky", 0, self.height)

    # --- measures and levels ---

    def metre(self, row: float) -> float:
        """Pixels of an upright metre on the ground at `row`."""
        return (row - self.eye) / CAMERA_HEIGHT_M

    def chance(self, share: float) -> bool:
        """True in that share of the draws."""
        return bool(self.generator.random() < share)

    # --- regions ---

    def cover(self, stuff: str, top: int, bottom: int, left: int = 0, right: int | None = None) -> Array:
        """Fill a rectangle with textured stuff; its tone (C,)."""
        right = self.width if right is None else right
        top, bottom, left, right = max(top, 0), min(bottom, self.height), max(left, 0), min(right, self.width)
        tone, amplitude = self.palette.tone(stuff)
        if bottom > top and right > left:
            noise = fractal((bottom - top, right - left), (96.0, 96.0), self.generator, 6, 0.9)
            self.image[top:bottom, left:right] = tone * (1 + np.float32(0.8 * amplitude) * noise)[..., None]
        return tone

    def ground(self, stuff: str, top: int) -> None:
        """Fill the rows from `top` down with stuff in perspective: its grain is finer and fainter farther away."""
        tone, amplitude = self.palette.tone(stuff)
        rows = np.arange(top, self.height, dtype=np.float32)[:, None]
        # 1 at the frame's bottom, more above: how many times farther away the ground is than there.
        distance = (self.height - self.eye) / np.maximum(rows - self.eye, 1.0)
        across = (np.arange(self.width, dtype=np.float32)[None, :] - self.width / 2) * distance
        along = np.broadcast_to(distance, across.shape)

        def seen(tile: Array, zoom: float) -> Array:
            """A tile of noise laid on the ground; its middle is in the frame's middle, its mirror images beyond."""
            columns, depths = (across * zoom + tile.shape[1] / 2), along * (zoom * 1.6 * self.height)
            at = columns.astype(np.float32), depths.astype(np.float32)
            return np.asarray(cv2.remap(tile, *at, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT), np.float32)

        noise = seen(fractal((512, 1024), (128.0, 128.0), self.generator, 7, 0.85), 0.4)
        noise = noise * (np.float32(amplitude) / np.sqrt(distance))
        light = 1 + np.linspace(-0.05, 0.05, self.height - top, dtype=np.float32)[:, None] + noise
        if self.sunny:  # patches of shade
            shade = seen(fractal((256, 512), (80.0, 80.0), self.generator, 4), 0.2)
            light *= 1 - np.float32(0.2) * np.clip(0.5 + 3 * (shade - self.between(0.2, 1.5)), 0, 1)
        self.image[top:] = tone * light[..., None]

    def foliage(self, top: float, bottom: float, left: float, right: float, round_top: float = 0.4) -> None:
        """A bush, hedge or crown with a ragged edge, lit from above. round_top: share of the height that is edge."""
        y1, y2, x1, x2 = int(top), int(bottom), int(left), int(right)
        size = (y2 - y1, x2 - x1)
        if min(size) < 4:
            return
        tone, amplitude = self.palette.tone("leaves")
        leaf = fractal(size, (max(size[0] / 6, 9.0), max(size[0] / 6, 9.0)), self.generator, 6, 0.8)
        down = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
        side = np.abs(np.linspace(-1, 1, size[1], dtype=np.float32))[None, :]
        inside = np.minimum(down / max(round_top, 0.05), (1 - side) * size[1] / size[0] / max(round_top, 0.05))
        mask = np.clip((inside - 0.75 + 0.35 * leaf) * 6, 0, 1)
        shade = (1 if self.band.is_thermal else 1.12 - 0.4 * down) + np.float32(amplitude) * leaf
        self.blend(y1, x1, np.clip(shade, 0.2, 1.8)[..., None] * tone, mask)

    def blend(self, row: int, column: int, patch: Array, mask: Array) -> None:
        """Lay a patch (h, w, C) over the picture by its mask (h, w), 0..1, cut at the edges."""
        y1, x1 = max(row, 0), max(column, 0)
        y2, x2 = min(row + mask.shape[0], self.height), min(column + mask.shape[1], self.width)
        if y2 <= y1 or x2 <= x1:
            return
        cut = np.s_[y1 - row : y2 - row, x1 - column : x2 - column]
        part = self.image[y1:y2, x1:x2]
        part += mask[cut][..., None] * (patch[cut] - part)

    def polygon(self, points: Sequence[tuple[float, float]], tone: Array) -> None:
        """Fill a polygon of (x, y) with one tone."""
        corners = np.round(np.array(points)).astype(np.int32)
        cv2.fillPoly(self.image, [corners], tuple(float(v) for v in tone))

    def box(self, x1: float, y1: float, x2: float, y2: float, tone: Array) -> None:
        """Fill an upright rectangle with one tone."""
        self.polygon([(x1, y1), (x2 - 1, y1), (x2 - 1, y2 - 1), (x1, y2 - 1)], tone)

    def disc(self, x: float, y: float, radius: float, tone: Array) -> None:
        """Fill a circle with one tone."""
        cv2.circle(self.image, (int(x), int(y)), int(radius), tuple(float(v) for v in tone), -1)

    def stuff(self, name: str) -> Array:
        """A new tone (C,) of a stuff."""
        return self.palette.tone(name)[0]

    def shadow(self, x: float, row: float, half: float, strength: float = 0.4, flat: float = 0.3) -> None:
        """Darken the ground under a thing; a faint trace in the thermal bands. flat: height over width."""
        rows, columns = max(int(half * flat), 2), max(int(half * 1.2), 3)
        y, z = np.mgrid[-1 : 1 : (2 * rows) * 1j, -1 : 1 : (2 * columns) * 1j].astype(np.float32)
        mask = np.clip(1.2 - np.hypot(y, z) * 1.2, 0, 1) * (0.25 * strength if self.band.is_thermal else strength)
        self.blend(int(row) - rows, int(x) - columns, np.zeros((*mask.shape, self.image.shape[2]), np.float32), mask)

    def stand(self, row: float, draw: Callable[[], None]) -> None:
        """Draw a thing on the ground at `row` later, after all that are farther away."""
        self.standing.append((row, draw))

    def picture(self) -> Array:
        """The frame with its things, under slow changes of light, at its own resolution."""
        for _, draw in sorted(self.standing, key=lambda thing: thing[0]):
            draw()
        size = (self.height // FINENESS, self.width // FINENESS)
        frame = cv2.resize(self.image, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, -1)
        share = 0.03 if self.band.is_thermal else 0.05
        weather = fractal(size, (size[0] / 2, size[0] / 2), self.generator, octaves=4)
        return np.clip(frame * (1 + np.float32(share) * weather)[..., None], 0, 1).astype(np.float32)
