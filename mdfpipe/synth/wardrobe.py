"""What people wear and carry: a canvas of labels, round surfaces with panels, layouts, bags, and cloth.

Body coordinates: x to the body's left, y up, z forward; the unit is the body's height and the ground is y = 0. The
camera sees the body turned by its yaw, without perspective, from a little above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mdfpipe.synth.joints import Joints
from mdfpipe.synth.people import Material, Subject

Array: TypeAlias = NDArray[np.float64]
Edge: TypeAlias = float | Callable[[Array], ArrayLike]
"""Angle at which a panel ends: one, or a function of the level."""

SLOPE = 0.12  # how much lower a thing appears for each unit that it is nearer: the camera looks down
TILE = 128  # pixels of a cloth tile, each side
TILE_DENSITY = 400.0  # pixels of a tile for one body height
_SHIFT = 4  # fractional bits of OpenCV's polygon corners
_LEVELS = 9  # rows of corners along a panel
_CAP = np.linspace(-np.pi / 2, np.pi / 2, 7)


class Canvas:
    """Label maps under construction.

    material: (h, w) uint8; part: (h, w) uint8, number of the piece that is on top, 0 for none.
    scale: pixels for one body height. view: yaw in radians.
    """

    def __init__(self, scale: float, yaw: float) -> None:
        self.scale = scale
        self.left, self.top = 0.56 * scale, 1.2 * scale
        shape = (int(1.34 * scale) + 1, int(1.12 * scale) + 1)
        self.material = np.zeros(shape, np.uint8)
        self.part = np.zeros(shape, np.uint8)
        self.sine, self.cosine = float(np.sin(yaw)), float(np.cos(yaw))
        self.groups, self.radii, self.grain = [0], [1.0], list[tuple[int, str, Array]]()

    def project(self, points: ArrayLike) -> Array:
        """(..., 3) body coordinates to (..., 2) canvas pixels."""
        p = np.asarray(points, float)
        x = p[..., 0] * self.cosine + p[..., 2] * self.sine
        y = -p[..., 1] + SLOPE * self.nearness(p)
        return np.stack([x * self.scale + self.left, y * self.scale + self.top], -1)

    def nearness(self, points: ArrayLike) -> Array:
        """(...,): how much nearer to the camera than the body's axis."""
        p = np.asarray(points, float)
        return np.asarray(p[..., 2] * self.cosine - p[..., 0] * self.sine)

    def crop(self, left: int, top: int, right: int, bottom: int) -> None:
        """Keep these columns and rows only; `project` gives their pixels from now on."""
        window = np.s_[top:bottom, left:right]
        self.material, self.part = np.ascontiguousarray(self.material[window]), np.ascontiguousarray(self.part[window])
        self.left, self.top = self.left - left, self.top - top
        for _, _, affine in self.grain:
            affine[:, 2] += affine[:, :2] @ np.array([left, top])

    def piece(self, radius: float, group: int | None = None) -> int:
        """A new part number. radius: over which its surface rounds; group: of the parts that it merges with."""
        self.radii.append(radius)
        self.groups.append(len(self.groups) if group is None else self.groups[group])
        return len(self.groups) - 1

    def fill(self, corners: Array, material: Material, part: int | None = None) -> None:
        """Fill a polygon given in pixels (n, 2). part None: what is there keeps its shape and changes its material."""
        if len(corners) < 3:
            return
        fixed = [np.rint(corners * (1 << _SHIFT)).astype(np.int32)]
        cv2.fillPoly(self.material, fixed, int(material), cv2.LINE_8, _SHIFT)
        if part is not None:
            cv2.fillPoly(self.part, fixed, part, cv2.LINE_8, _SHIFT)

    def limb(
        self,
        ends: ArrayLike,
        radii: tuple[float, float],
        material: Material,
        part: int,
        *,
        flat: bool = False,
        cloth: str | None = None,
        shift: float = 0.0,
    ) -> None:
        """A tapered capsule between two points (2, 3), cut off at its far end where `flat`.

        cloth: the garment whose weave it shows; shift: moves the weave, so that two sleeves are not twins.
        """
        a, b = self.project(ends)
        axis = b - a
        angle = float(np.arctan2(axis[1], axis[0]))
        start = angle + np.pi + _CAP
        stop = angle + (np.array([-np.pi / 2, np.pi / 2]) if flat else _CAP)
        r0, r1 = radii[0] * self.scale, radii[1] * self.scale
        self.fill(np.concatenate([a + r0 * _circle(start), b + r1 * _circle(stop)]), material, part)
        if cloth is None:
            return
        # Canvas to tile: along the limb and across it.
        length = float(np.linalg.norm(np.subtract(*np.asarray(ends, float)))) * TILE_DENSITY
        along = axis / max(float(axis @ axis), 1.0) * length
        across = np.array([-np.sin(angle), np.cos(angle)]) * TILE_DENSITY / self.scale
        rows = np.array([across, along])
        affine = np.column_stack([rows, -rows @ a + (shift * TILE_DENSITY, 0)])
        self.grain.append((part, cloth, affine))

    def ring(self, ends: ArrayLike, radii: tuple[float, float], material: Material) -> None:
        """A second colour around a limb, between two points of its axis (2, 3)."""
        a, b = self.project(ends)
        axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-6)
        across = np.array([-axis[1], axis[0]]) * self.scale
        corners = [a - across * radii[0], a + across * radii[0], b + across * radii[1], b - across * radii[1]]
        self.fill(np.array(corners), material)

    def ball(self, centre: ArrayLike, radius: tuple[float, float], material: Material, part: int) -> None:
        """An upright ellipse of half sizes (across, along) around a point (3,)."""
        middle = self.project(centre)
        turn = np.linspace(0, 2 * np.pi, 25)[:-1]
        self.fill(middle + _circle(turn) * np.array(radius) * self.scale, material, part)

    def box(self, centre: ArrayLike, half: tuple[float, float, float], material: Material, part: int) -> None:
        """A box with rounded corners: half sizes along x, y, z."""
        turn = np.linspace(0, 2 * np.pi, 17)[:-1]
        x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** 0.45
        y = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** 0.45
        face = np.stack([x * half[0], y * half[1]], -1)
        points = [np.column_stack([face * k, np.full(len(turn), z * half[2])]) for k, z in ((1, 0.6), (1, -0.6))]
        points += [np.column_stack([face * 0.88, np.full(len(turn), z * half[2])]) for z in (1, -1)]
        pixels = self.project(np.asarray(centre, float) + np.concatenate(points)).astype(np.float32)
        self.fill(np.asarray(cv2.convexHull(pixels)[:, 0], float), material, part)


def _circle(angles: Array) -> Array:
    return np.stack([np.cos(angles), np.sin(angles)], -1)


class Tube:
    """A round surface: ellipses of half sizes (rx, rz) around (x, z), stacked at the heights y.

    A level counts along the tube in the unit of `levels` (increasing); angle 0 is the front, pi / 2 the body's left.
    """

    def __init__(self, levels: ArrayLike, y: ArrayLike, rx: ArrayLike, rz: ArrayLike, z: ArrayLike = 0.0) -> None:
        self.levels = np.asarray(levels, float)
        self.y, self.rx, self.rz, self.z = (
            np.broadcast_to(np.asarray(v, float), len(self.levels)) for v in (y, rx, rz, z)
        )

    def at(self, levels: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """(y, rx, rz, z) at the levels."""
        t = np.asarray(levels, float)
        y, rx, rz, z = (np.interp(t, self.levels, v) for v in (self.y, self.rx, self.rz, self.z))
        return y, rx, rz, z

    def points(self, levels: ArrayLike, angles: ArrayLike, grow: float = 1.0) -> Array:
        """(..., 3) body coordinates of surface points; grow: of a surface `grow` times as far out."""
        y, rx, rz, z = self.at(levels)
        a = np.asarray(angles, float)
        return np.stack(np.broadcast_arrays(rx * np.sin(a) * grow, y, z + rz * np.cos(a) * grow), -1)

    def middle(self, canvas: Canvas, levels: ArrayLike) -> Array:
        """The angle that faces the camera; what is within a quarter turn of it is visible."""
        _, rx, rz, _ = self.at(levels)
        return -np.arctan2(rz * canvas.sine, rx * canvas.cosine)

    def panel(
        self,
        canvas: Canvas,
        material: Material,
        levels: tuple[float, float],
        angles: tuple[Edge, Edge] | None = None,
        part: int | None = None,
        grow: float = 1.0,
    ) -> None:
        """Fill what is visible between two levels and two angles (at most pi apart); None: all around."""
        corners = self.outline(canvas, levels, angles, grow)
        if corners is not None:
            canvas.fill(corners, material, part)

    def sides(
        self,
        canvas: Canvas,
        material: Material,
        levels: tuple[float, float],
        edge: Callable[[Array], Array],
        part: int,
        grow: float = 1.0,
    ) -> None:
        """Fill the back, left and right, from the angle `edge(levels)` on both sides."""
        for angles in ((-np.pi, lambda t: -edge(t)), (edge, np.pi)):
            self.panel(canvas, material, levels, angles, part, grow)

    def outline(
        self, canvas: Canvas, levels: tuple[float, float], angles: tuple[Edge, Edge] | None = None, grow: float = 1.0
    ) -> Array | None:
        """The polygon (n, 2), in pixels, of the visible part of a panel, or None."""
        inner = self.levels[(self.levels > levels[0]) & (self.levels < levels[1])]
        t = np.concatenate([[levels[0]], inner, [levels[1]]])
        if len(t) < _LEVELS:
            t = np.interp(np.linspace(0, 1, _LEVELS), np.linspace(0, 1, len(t)), t)
        middle = self.middle(canvas, t)
        low, high = middle - np.pi / 2, middle + np.pi / 2
        if angles is not None:
            start, stop = (np.broadcast_to(np.asarray(e(t) if callable(e) else e, float), t.shape) for e in angles)
            turn = 2 * np.pi * np.round((middle - (start + stop) / 2) / (2 * np.pi))
            low, high = np.maximum(low, start + turn), np.minimum(high, stop + turn)
            seen = high - low > 0.02
            if seen.sum() < 2:
                return None
            t, low, high = t[seen], low[seen], high[seen]
        place = np.concatenate([t, np.full(7, t[-1]), t[::-1], np.full(7, t[0])])
        angle = np.concatenate([low, np.linspace(low[-1], high[-1], 7), high[::-1], np.linspace(high[0], low[0], 7)])
        return canvas.project(self.points(place, angle, grow))


# --- second colours, and what is carried ----------------------------------------------------------------------------


def layout(canvas: Canvas, s: Subject, trunk: Tube) -> None:
    """The second colour of the upper garment, and a belt."""
    start, wide, end = s.band_start, s.band_width, float(trunk.levels[-1])
    centre, sides, jacket = 1.6 * wide + 0.15, 1.8 * wide + 0.3, 1.2 * wide + 0.12
    full, around = (0.0, end), None
    panels: dict[str, list[tuple[tuple[float, float], tuple[Edge, Edge] | None]]] = {
        "band": [((start, start + wide), around)],
        "two bands": [
            ((start - 0.12, start - 0.12 + 0.6 * wide), around),
            ((start + 0.7 * wide + 0.06, start + 1.3 * wide + 0.06), around),
        ],
        "yoke": [((0.0, 0.2 + 0.5 * wide), around)],
        "centre": [(full, (turn - centre, turn + centre)) for turn in (0, np.pi)],
        "sides": [(full, (turn - sides, turn + sides)) for turn in (np.pi / 2, -np.pi / 2)],
        "block": [((0.45 + 0.6 * (start - 0.2), end), around)],
        "jacket": [(full, (lambda t: -jacket * (0.55 + 0.45 * t), lambda t: jacket * (0.55 + 0.45 * t)))],
        "stripes": [((0.25 + 0.26 * k, 0.25 + 0.26 * k + 0.11), around) for k in range(3)],
    }
    for levels, angles in panels.get(s.upper_layout, []):
        trunk.panel(canvas, Material.UPPER_B, levels, angles)
    if s.upper_layout == "sash":
        _sash(canvas, trunk, Material.UPPER_B, s.side, 0.30 + wide)
    if s.belt:
        trunk.panel(canvas, Material.DETAIL, (0.70, 0.76), grow=1.02)


def _sash(canvas: Canvas, trunk: Tube, material: Material, side: int, width: float) -> None:
    """A band from one shoulder down to the other hip, on the front and on the back."""
    for turn, sign in ((0.0, 1), (np.pi, -1)):

        def edge(shift: float, turn: float = turn, sign: int = sign) -> Callable[[Array], Array]:
            return lambda t: turn + sign * side * (-0.75 + 1.9 * t) + shift

        trunk.panel(canvas, material, (0.02, 1.0), (edge(-width / 2), edge(width / 2)), grow=1.005)


def carried(canvas: Canvas, body: Joints, trunk: Tube, *, front: bool) -> None:
    """Draw what is carried; called before the trunk is drawn, and after it."""
    s, size = body.subject, body.subject.carried_size
    if s.carried == "backpack":
        height, deep = 0.11 * size, 0.040 * size
        y = body.shoulder - 0.015 - height
        centre = np.array([0.0, y, body.lean(y) - s.depth - 0.8 * deep])
        away = canvas.cosine < 0
        if away == front:
            part = canvas.piece(0.05)
            canvas.box(centre, (0.082 * size, height, deep), Material.BAG, part)
            if away:
                pocket = centre + np.array([0, -0.4 * height, -deep])
                canvas.box(pocket, (0.055 * size, 0.32 * height, 0.012), Material.BAG, canvas.piece(0.02))
        if front:
            for a in (0.55, -0.55):
                trunk.panel(canvas, Material.STRAP, (0.03, 0.52), (a - 0.13, a + 0.13), grow=1.01)
    elif s.carried == "cross":
        if front:
            _sash(canvas, trunk, Material.STRAP, s.side, 0.20)
        near = canvas.nearness((s.side, 0, 0.35)) > 0
        if near == front:
            y = body.hip - 0.005
            rx = float(trunk.at((trunk.y[0] - y) / (trunk.y[0] - body.hip))[1])
            centre = np.array([s.side * (rx + 0.012), y, 0.03])
            canvas.box(centre, (0.022 * size, 0.052 * size, 0.072 * size), Material.BAG, canvas.piece(0.04))
    elif s.carried == "waist" and front:
        trunk.panel(canvas, Material.STRAP, (0.79, 0.85), grow=1.01)
        if canvas.cosine > -0.25:
            buckle = trunk.points(0.83, 0.0)
            canvas.box(buckle, (0.062 * size, 0.034 * size, 0.022), Material.BAG, canvas.piece(0.03))
    elif s.carried == "tote":
        hand = body.arms[s.side][3]
        near = canvas.nearness(hand) >= 0
        if near == front:
            top = hand - np.array([0, 0.045, 0])
            for z in (-0.03, 0.03):
                ends = [top + np.array([0, -0.01, z]), hand + np.array([0, 0.02, 0])]
                canvas.limb(ends, (0.006, 0.006), Material.STRAP, canvas.piece(0.01))
            centre = top - np.array([0, 0.075 * size, 0])
            canvas.box(centre, (0.034 * size, 0.078 * size, 0.072 * size), Material.BAG, canvas.piece(0.04))


# --- the weave -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def cloth(seed: int, kind: str, halvings: int) -> NDArray[np.float32]:
    """A tile of cloth that joins itself on all sides, (n, n) float32, -1..1, n = TILE / 2 ** halvings.

    TILE pixels are TILE / TILE_DENSITY body heights. kind: as in `Subject.upper_cloth`.
    """
    generator = np.random.default_rng([seed, 7])
    across, along = np.meshgrid(np.arange(TILE) / TILE, np.arange(TILE) / TILE)
    count = int(generator.integers(7, 15))

    def lines(place: Array, share: float) -> Array:
        return np.where((place * count) % 1 < share, 1.0, -1.0)

    share = float(generator.uniform(0.25, 0.6))
    fine = generator.standard_normal((TILE, TILE))
    if kind == "stripes":
        weave = lines(across, share)
    elif kind == "bars":
        weave = lines(along, share)
    elif kind == "checks":
        weave = 0.5 * lines(across, share) + 0.5 * lines(along, share)
    elif kind == "speckle":
        weave = np.clip(cv2.GaussianBlur(np.tile(fine, (3, 3)), (0, 0), 1.1)[TILE:-TILE, TILE:-TILE] * 2.8, -1, 1)
    elif kind == "knit":
        rows = 2 * count
        weave = np.cos(2 * np.pi * (along * rows + 0.35 * np.abs((across * rows) % 1 - 0.5))) * 0.8
    else:
        weave = 0.3 * np.clip(fine, -1, 1)
    return _halved(weave, halvings)


@lru_cache(maxsize=512)
def folds(seed: int, halvings: int) -> NDArray[np.float32]:
    """Folds of cloth as a tile like `cloth`, -1..1: soft, longer than wide."""
    coarse = np.random.default_rng([seed, 8]).standard_normal((6, 12)).astype(np.float32)
    smooth = cv2.resize(np.tile(coarse, (3, 3)), (3 * TILE, 3 * TILE), interpolation=cv2.INTER_CUBIC)
    return _halved(np.clip(smooth[TILE:-TILE, TILE:-TILE] * 0.6, -1, 1), halvings)


def _halved(tile: NDArray[np.floating], halvings: int) -> NDArray[np.float32]:
    side = TILE >> halvings
    small = np.array(cv2.resize(tile.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)
    small.flags.writeable = False
    return small


def garment(seed: int, kind: str, scale: float) -> tuple[NDArray[np.float32], float]:
    """Weave and folds for a figure of `scale` pixels a body height: (tile, tile pixels a body height)."""
    halvings = int(np.clip(np.floor(np.log2(TILE_DENSITY / max(scale, 1.0)) + 0.35), 0, 3))
    weave = cloth(seed, kind, halvings)
    share = 0.75 if kind != "plain" else 0.5
    return share * weave + (1 - share) * folds(seed, halvings), TILE_DENSITY / 2**halvings


def wrap(tile: NDArray[np.float32], columns: Sequence[float] | Array, rows: Array) -> NDArray[np.float32]:
    """`tile` sampled at tile coordinates (h, w), repeating for ever."""
    size = np.float32(tile.shape[0])
    x, y = np.mod(columns, size).astype(np.float32), np.mod(rows, size).astype(np.float32)
    return np.asarray(cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP), np.float32)
