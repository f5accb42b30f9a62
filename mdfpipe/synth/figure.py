"""A walking person as a map of materials, drawn from a jointed body.

One map serves all bands: what a band sees of it is looked up in the subject's tables. Limbs are tapered capsules
between joints in space, the trunk is a stack of ellipses that panels, straps and the weave of the cloth lie on.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mdfpipe.synth.face import Head
from mdfpipe.synth.joints import LEFT_RIGHT, Joints
from mdfpipe.synth.people import Material, Subject
from mdfpipe.synth.wardrobe import TILE_DENSITY, Array, Canvas, Tube, carried, garment, layout, wrap

SUPERSAMPLING = 2  # canvas pixels for one of the frame, along each side
_MARGIN = 3  # canvas pixels around a figure


@dataclass(frozen=True)
class Pose:
    """yaw: radians; 0 faces the camera, pi away, positive turns towards the image's right. phase: of the gait, rad."""

    yaw: float
    phase: float


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawn person on a canvas that fits, SUPERSAMPLING pixels for one of the frame.

    material: (h, w) uint8, codes of `people.Material`.
    rounding: (h, w) float32, 1 where a surface faces the camera, 0 at its outline and where nothing is.
    texture: (h, w) float32 -1..1, weave and folds of cloth, which stay where they are on the body; 0 elsewhere.
    foot: (x, y) of the ground between the feet; face: (x1, y1, x2, y2), None where turned away. Canvas pixels.
    """

    material: NDArray[np.uint8]
    rounding: NDArray[np.float32]
    texture: NDArray[np.float32]
    foot: tuple[float, float]
    face: tuple[float, float, float, float] | None


def draw(subject: Subject, pose: Pose, height_px: float) -> Figure:
    """Draw the subject in a pose. height_px: the standing body's height, in pixels of the frame."""
    canvas = Canvas(height_px * SUPERSAMPLING, pose.yaw)
    body = Joints(subject, pose.phase)
    trunk = _trunk(subject, body)
    head = Head(subject, body.chin, body.neck)
    trunk_part = canvas.piece(0.8 * subject.waist)

    head.behind(canvas)
    carried(canvas, body, trunk, front=False)
    sides = sorted(LEFT_RIGHT, key=lambda s: float(canvas.nearness(body.legs[s]).sum()))
    for side in sides:
        _leg(canvas, body, side)
    arms = sorted(LEFT_RIGHT, key=lambda s: float(canvas.nearness(body.arms[s]).sum()))
    hidden = [s for s in arms if canvas.nearness(body.arms[s]).mean() < 0]
    for side in hidden:
        _arm(canvas, body, side)
    _hips(canvas, body)
    trunk.panel(canvas, Material.UPPER_A, (0.0, float(trunk.levels[-1])), part=trunk_part)
    layout(canvas, subject, trunk)
    carried(canvas, body, trunk, front=True)
    for side in (s for s in arms if s not in hidden):
        _arm(canvas, body, side)
    return _finish(canvas, subject, trunk, trunk_part, head, head.draw(canvas))


def _trunk(subject: Subject, body: Joints) -> Tube:
    """The upper garment: level 0 at the neck, 1 at the hip joints, beyond it what hangs down to the hem."""
    top, sh, hip = body.shoulder + 0.037, body.shoulder, body.hip
    middle = hip + 0.42 * (sh - hip)
    rows = [
        (top, 0.40 * subject.shoulder, 0.55 * subject.depth),
        (sh + 0.024, 0.70 * subject.shoulder, 0.72 * subject.depth),
        (sh + 0.009, 0.99 * subject.shoulder, 0.85 * subject.depth),
        (sh - 0.035, 1.0 * subject.shoulder, 0.97 * subject.depth),
        (sh - 0.09, 0.96 * subject.shoulder, 1.05 * subject.depth),
        (middle, subject.waist * 1.06 + 0.004, 0.98 * subject.depth),
        (hip + 0.02, subject.hip * 1.03 + 0.004, 1.06 * subject.depth),
    ]
    end = hip - max(subject.hem * subject.leg, 0.012)
    for share in (0.25, 0.5, 0.75, 1.0):
        y = hip + 0.02 + (end - hip - 0.02) * share
        reach, wide = _stride(body, y)
        flare = 1 + (subject.flare - 1) * share * min(subject.hem * 2.5, 1)
        across, deep = subject.hip * 1.05 * flare, subject.depth * 1.08 * flare
        rows.append((y, max(across, wide * min(2 * share, 1)), max(deep, reach * min(2 * share, 1))))
    y, rx, rz = np.array(rows).T
    levels = (top - y) / (top - hip)
    return Tube(levels, y, rx, rz, subject.lean * np.maximum(y - hip, 0))


def _stride(body: Joints, y: float) -> tuple[float, float]:
    """(along z, along x) half sizes that cloth needs at a height to go around both legs."""
    radius, legs = body.subject.leg_radius * 1.2, body.legs.values()
    reach = max(abs(float(np.interp(y, leg[2::-1, 1], leg[2::-1, 2]))) for leg in legs)
    return reach + radius, max(abs(float(leg[0, 0])) for leg in legs) + radius


def _leg(canvas: Canvas, body: Joints, side: int) -> None:
    """Skin, trousers, boot and shoe of one leg."""
    s = body.subject
    hip, knee, ankle, heel, toe = body.legs[side]
    r = s.leg_radius
    part = canvas.piece(0.7 * r)
    lower = canvas.piece(0.6 * r, part)
    shoe = canvas.piece(0.02)
    bare = 0.84 * r
    canvas.limb([hip, knee], (bare, 0.66 * bare), Material.SKIN, part)
    calf = knee + 0.35 * (ankle - knee)
    canvas.limb([knee, calf], (0.66 * bare, 0.68 * bare), Material.SKIN, lower)
    canvas.limb([calf, ankle], (0.68 * bare, 0.36 * bare), Material.SKIN, lower)
    canvas.limb([heel, toe], (0.021, 0.018), Material.SHOE, shoe)
    canvas.limb([ankle, 0.5 * heel + 0.5 * toe], (0.46 * bare, 0.019), Material.SHOE, shoe)
    boot = s.boot * 1.05
    if boot:
        top = ankle + (knee - ankle) * min(boot / 0.48, 0.85)
        canvas.limb([ankle, top], (0.024, 0.78 * bare), Material.SHOE, shoe, flat=True)
    if s.lower == "skirt":
        return
    wide = s.lower == "wide"
    length = s.lower_length
    share = min(length / 0.52, 1.0)
    ends = (r * (1.08 if wide else 0.98), r * (1.02 if wide else 0.74))
    stop = hip + (knee - hip) * share
    radius = ends[0] + (ends[1] - ends[0]) * share
    canvas.limb([hip, stop], (ends[0], radius), Material.LOWER_A, part, flat=share < 1, cloth="lower", shift=side * 0.1)
    if share == 1.0:
        over = (length - 0.52) / 0.48
        stop = knee + (ankle - knee) * over
        end = ends[1] + (r * (1.05 if wide else 0.52) - ends[1]) * over
        if boot and not wide and length > 0.9:
            stop = knee + (ankle - knee) * max(1 - boot / 0.48, 0.1)
        canvas.limb([knee, stop], (ends[1], end), Material.LOWER_A, lower, flat=True, cloth="lower", shift=side * 0.2)
        radius = end
    _leg_layout(canvas, s, (hip, knee, stop), (ends[0], ends[1] if share == 1.0 else radius, radius), share < 1, side)


def _leg_layout(
    canvas: Canvas,
    s: Subject,
    joints: tuple[Array, Array, Array],
    radii: tuple[float, float, float],
    short: bool,
    side: int,
) -> None:
    """The second colour of trousers. joints: hip, knee, where the cloth ends; radii: of the cloth there."""
    hip, knee, stop = joints
    parts = [(hip, stop, radii[0], radii[2])]
    if not short:
        parts = [(hip, knee, radii[0], radii[1]), (knee, stop, radii[1], radii[2])]
    if s.lower_layout == "stripe" and -side * canvas.sine > -0.55:
        low, high = np.clip([side * canvas.cosine * 0.98 + k * 0.30 for k in (-1, 1)], -1, 1) * canvas.scale
        across = np.array([1.0, 0.0])
        for a, b, ra, rb in parts:
            pa, pb = canvas.project(a), canvas.project(b)
            corners = [pa + across * low * ra, pa + across * high * ra, pb + across * high * rb, pb + across * low * rb]
            canvas.fill(np.array(corners), Material.LOWER_B)
    elif s.lower_layout == "knee" and canvas.cosine > -0.1 and not short:
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        patch = np.column_stack(
            [np.cos(turn) * radii[1] * 0.85, np.sin(turn) * 0.055, -0.4 * radii[1] * np.cos(turn) ** 2]
        )
        canvas.fill(canvas.project(knee + np.array([0.0, 0.0, 0.6 * radii[1]]) + patch), Material.LOWER_B)
    elif s.lower_layout == "block" and not short:
        canvas.ring([knee + 0.05 * (stop - knee), stop], (radii[1], radii[2]), Material.LOWER_B)
    elif s.lower_layout in ("cuff", "block") or (s.lower_layout == "knee" and short):
        top, _, radius, _ = parts[-1]
        start = top + (1 - 0.30) * (stop - top)
        canvas.ring([start, stop], (radius + (radii[2] - radius) * (1 - 0.30), radii[2]), Material.LOWER_B)


def _hips(canvas: Canvas, body: Joints) -> None:
    """The seat of the trousers, or the skirt, from the waist down."""
    s = body.subject
    part = canvas.piece(0.8 * s.hip)
    waist = body.hip + 0.07
    if s.lower != "skirt":
        y = np.array([waist, body.hip + 0.01, body.hip - 0.055])
        rx = np.array([0.92, 1.0, 0.93]) * s.hip
        seat = Tube([0, 0.55, 1], y, rx, s.depth * np.array([0.9, 1.02, 0.8]))
        seat.panel(canvas, Material.LOWER_A, (0, 1), part=part)
        return
    y, share = np.linspace(waist, body.hip - s.lower_length * s.leg * 0.92, 6), np.linspace(0, 1, 6)
    reach, wide = np.array([_stride(body, float(min(height, body.hip))) for height in y]).T
    close = np.minimum(3 * share, 1)  # at the waist the cloth follows the body
    across = np.maximum(s.hip * (0.92 + 0.22 * share), wide * close)
    skirt = Tube(share, y, across, np.maximum(s.depth * (0.95 + 0.3 * share), reach * close))
    skirt.panel(canvas, Material.LOWER_A, (0.0, 1.0), part=part)
    bands = {"cuff": (0.84, 1.0), "block": (0.55, 1.0), "knee": (0.6, 0.75)}
    if s.lower_layout in bands:
        skirt.panel(canvas, Material.LOWER_B, bands[s.lower_layout])
    elif s.lower_layout == "stripe":
        for middle in (np.pi / 2, -np.pi / 2):
            skirt.panel(canvas, Material.LOWER_B, (0.0, 1.0), (middle - 0.3, middle + 0.3))
    affine = np.eye(2, 3) * TILE_DENSITY / canvas.scale
    affine[:, 2] = -affine[:, :2] @ canvas.project((0, body.hip, 0))
    canvas.grain.append((part, "lower", affine))


def _arm(canvas: Canvas, body: Joints, side: int) -> None:
    """Arm, hand and sleeve."""
    s = body.subject
    shoulder, elbow, wrist, tip = body.arms[side]
    r = s.arm_radius
    part = canvas.piece(0.8 * r)
    lower = canvas.piece(0.75 * r, part)
    hand = canvas.piece(0.6 * r)
    canvas.limb([wrist, wrist + 0.62 * (tip - wrist)], (0.5 * r, 0.62 * r), Material.SKIN, hand)
    canvas.limb([wrist + 0.5 * (tip - wrist), tip], (0.60 * r, 0.36 * r), Material.SKIN, hand)
    thumb = wrist + 0.62 * (tip - wrist) + np.array([-side * 0.004, 0.0, 0.016])
    canvas.limb([wrist + 0.25 * (tip - wrist), thumb], (0.3 * r, 0.25 * r), Material.SKIN, hand)
    canvas.limb([elbow, wrist], (0.74 * r, 0.48 * r), Material.SKIN, lower)
    canvas.limb([shoulder, elbow], (0.88 * r, 0.74 * r), Material.SKIN, part)
    total = s.sleeve * 2
    ends = (1.12 * r, 0.98 * r, 0.84 * r)
    if total > 1:
        stop = elbow + (wrist - elbow) * (total - 1)
        end = ends[1] + (ends[2] - ends[1]) * (total - 1)
        canvas.limb([elbow, stop], (ends[1], end), Material.SLEEVE, lower, flat=True, cloth="upper", shift=side * 0.1)
    share = min(total, 1.0)
    stop = shoulder + (elbow - shoulder) * share
    end = ends[0] + (ends[1] - ends[0]) * share
    canvas.limb(
        [shoulder, stop], (ends[0], end), Material.SLEEVE, part, flat=total < 1, cloth="upper", shift=side * 0.2
    )
    if s.sleeve_style == "cuff":
        _ring(canvas, body.arms[side], ends, (s.sleeve - 0.11, s.sleeve))
    elif s.sleeve_style == "band" and s.sleeve > 0.3:
        _ring(canvas, body.arms[side], ends, (0.20, 0.32))


def _ring(canvas: Canvas, joints: Array, radii: tuple[float, float, float], span: tuple[float, float]) -> None:
    """A ring of the second colour around a sleeve; span: shares of the arm, both on one side of the elbow."""
    low, high = max(span[0], 0.02) * 2, span[1] * 2
    k = 0 if (low + high) / 2 < 1 else 1
    a, b = (joints[k] + (joints[k + 1] - joints[k]) * np.clip(v - k, 0, 1) for v in (low, high))
    ra, rb = (radii[k] + (radii[k + 1] - radii[k]) * float(np.clip(v - k, 0, 1)) for v in (low, high))
    canvas.ring([a, b], (ra, rb), Material.UPPER_B)


# --- rounding and texture ------------------------------------------------------------------------------------------


def _finish(
    canvas: Canvas,
    subject: Subject,
    trunk: Tube,
    trunk_part: int,
    head: Head,
    face: tuple[float, float, float, float] | None,
) -> Figure:
    """Rounding and texture of what has been drawn, cut down to what is there."""
    x, y, w, h = cv2.boundingRect(canvas.material)
    left, top = max(x - _MARGIN, 0), max(y - _MARGIN, 0)
    canvas.crop(left, top, x + w + _MARGIN, y + h + _MARGIN)
    groups = np.zeros(256, np.uint8)
    groups[: len(canvas.groups)] = canvas.groups
    radii = np.ones(256, np.float32)
    radii[: len(canvas.radii)] = np.maximum(np.array(canvas.radii) * canvas.scale, 1.0)
    group = cv2.LUT(canvas.part, groups)
    same = (group > 0).astype(np.uint8)
    same[1:] &= group[1:] == group[:-1]
    same[:, 1:] &= group[:, 1:] == group[:, :-1]
    near = cv2.distanceTransform(same, cv2.DIST_L2, 3)
    rounding: NDArray[np.float32] = np.sqrt(np.minimum(near / np.take(radii, canvas.part), np.float32(1)))
    head.relief(canvas, rounding)
    texture = _texture(canvas, subject, trunk, trunk_part)
    ground = canvas.project((0.0, 0.0, 0.0))
    box = None if face is None else (face[0] - left, face[1] - top, face[2] - left, face[3] - top)
    return Figure(canvas.material, rounding, texture, (float(ground[0]), float(ground[1])), box)


def _texture(canvas: Canvas, s: Subject, trunk: Tube, trunk_part: int) -> NDArray[np.float32]:
    """Weave and folds, (h, w) of the canvas."""
    texture = np.zeros(canvas.part.shape, np.float32)
    kinds = {"upper": (s.cloth_seed, s.upper_cloth), "lower": (s.cloth_seed + 1, s.lower_cloth)}
    kinds["hair"] = (s.cloth_seed + 2, "stripes")
    tiles = {name: garment(seed, kind, canvas.scale) for name, (seed, kind) in kinds.items()}
    for part, name, affine in canvas.grain:
        mask = canvas.part == part
        x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
        if not w:
            continue
        tile, density = tiles[name]
        matrix = affine * (density / TILE_DENSITY)
        matrix[:, 2] += matrix[:, :2] @ (x, y)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        inside = mask[y : y + h, x : x + w]
        grain = cv2.warpAffine(tile, matrix, (w, h), flags=flags, borderMode=cv2.BORDER_WRAP)
        np.copyto(texture[y : y + h, x : x + w], grain, where=inside)
    mask = canvas.part == trunk_part
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    if w:
        tile, density = tiles["upper"]
        rows = np.arange(y, y + h)
        height = -(rows - canvas.top) / canvas.scale
        level = (trunk.y[0] - height) / (trunk.y[0] - trunk.y[-1]) * (trunk.levels[-1] - trunk.levels[0])
        _, rx, rz, z = trunk.at(level)
        wide = np.sqrt((rx * canvas.cosine) ** 2 + (rz * canvas.sine) ** 2)
        centre = z * canvas.sine
        across = ((np.arange(x, x + w)[None] - canvas.left) / canvas.scale - centre[:, None]) / wide[:, None]
        angle = np.arcsin(np.clip(across, -0.999, 0.999))
        # The weave is fixed to the body: it turns with it.
        yaw = np.arctan2(canvas.sine, canvas.cosine)
        columns = (angle - yaw) * (0.5 * (s.waist + s.depth)) * density
        grain = wrap(tile, columns, np.broadcast_to(-height[:, None] * density, columns.shape))
        np.copyto(texture[y : y + h, x : x + w], grain, where=mask[y : y + h, x : x + w])
    return texture
