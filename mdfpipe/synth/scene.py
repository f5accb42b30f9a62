"""A clip: people who walk before one camera, crossing and hiding each other; and where each is visible.

Lengths are shares of the frame's height until they become pixels, and depth is in body heights, so that a clip can be
drawn at any resolution. What a clip fixes (place, light, optics, occluders, paths) comes from its own generator, what a
frame adds (noise, wobble) from the frame's: a frame can be drawn alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from mdfpipe.domains import Domain
from mdfpipe.synth.background import background, occluder
from mdfpipe.synth.bands import Optics, paint, sense
from mdfpipe.synth.figure import SUPERSAMPLING, Figure, Pose, draw
from mdfpipe.synth.people import Subject

Array: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]
Size: TypeAlias = tuple[int, int]  # height, width
Box: TypeAlias = tuple[float, float, float, float]  # x1, y1, x2, y2

SPEED = 0.8  # body heights a second: 1.4 m/s
STRIDES = 0.9  # gait cycles a second
TURNING = 4.0  # radians a second
FOCAL = 8.5  # a body at 17 body heights (30 m) fills half the frame's height
FACE_SEEN = 0.7  # least visible share of an annotated face
ROLL_DEGREES = 4.5  # standard deviation of a camera's tilt about its axis, from clip to clip
SHADE = (0.3, 0.14)  # unit of the unevenness, of log light in reflected bands; of heat, in levels
SHADE_GRID = (5, 3)  # rows and columns of the coarse field that it follows: leaves, reflexes, sun-warmed cloth
PITCH = 0.15  # standard deviation, from clip to clip, of log gamma: heights are shown as their power gamma
NEAR_RANGE_M = 100.0  # beyond, a walker's size does not change as he comes


@dataclass(frozen=True)
class Seen:
    """One person in one frame: a row of the truth table and, with `face`, of the face table.

    box: extent of the visible part; face: the whole face. Both in pixels of the delivered frame, max exclusive.
    visible: share of the person's pixels that are in the frame and not hidden. yaw_degrees: 0 faces the camera.
    """

    subject_id: str
    box: Box
    visible: float
    face: Box | None
    yaw_degrees: float


@dataclass(frozen=True, eq=False)
class _Walk:
    """The path of one person. foot: (n, 2) x, y; height: (n,): shares of the frame's height. yaw, phase: (n,) rad."""

    subject: Subject
    foot: Array
    height: Array
    yaw: Array
    phase: Array


@dataclass(frozen=True, eq=False)
class _Thing:
    """A thing that hides people: its pixels, its left top corner, and its ground line."""

    pixels: Array
    x: int
    y: int
    ground: float


class Clip:
    """`frames` pictures of `subjects`, at least one, in one domain.

    size: (height, width) of the scene in pixels; thermal sensors deliver half of it. crowded: people are closer
    together. facing: all come towards the camera, and turn at its edges only. away: all come towards it, and turn round
    before the middle. seed: integers of this clip.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        domain: Domain,
        frames: int,
        *,
        fps: float,
        size: Size,
        seed: Sequence[int],
        crowded: bool = False,
        facing: bool = False,
        away: bool = False,
    ) -> None:
        self.domain, self.size, self.seed = domain, size, list(seed)
        generator = np.random.default_rng(self.seed)
        self.optics = Optics.draw(domain.band, generator)
        self.background = background(domain.band, size, generator)
        self.walks = self._walks(subjects, frames, fps, crowded, facing, away, generator)
        self.things = _things(domain, size, self.walks, generator)
        roll = float(np.clip(generator.normal(0, ROLL_DEGREES), -2 * ROLL_DEGREES, 2 * ROLL_DEGREES))
        self.roll = cv2.getRotationMatrix2D((size[1] / 2, size[0] / 2), roll, 1.0)
        self.corners = cv2.warpAffine(self.background, self.roll, size[::-1], borderMode=cv2.BORDER_REFLECT)
        rows, columns = SHADE_GRID
        people = len(self.walks)
        self.shade = generator.standard_normal((people, rows, columns), dtype=np.float32)
        self.shade += 1.2 * generator.standard_normal((people, rows, 1), dtype=np.float32)  # from top to bottom
        self.gamma = float(np.exp(np.clip(generator.normal(0, PITCH), -2 * PITCH, 2 * PITCH)))

    def _walks(
        self,
        subjects: Sequence[Subject],
        frames: int,
        fps: float,
        crowded: bool,
        facing: bool,
        away: bool,
        generator: np.random.Generator,
    ) -> list[_Walk]:
        """A path for each subject. At mid-clip they are side by side, closer than a body's width if crowded."""
        width, count = self.size[1] / self.size[0], len(subjects)
        far = (self.domain.range_m or 0.0) > NEAR_RANGE_M
        places = (np.arange(count) + 0.5) / count * (width - 0.3) + 0.15
        places += generator.uniform(-0.5, 0.5, count) * (width - 0.3) / count
        zoom = generator.uniform(0.50, 0.66) * (0.8 if crowded else 1.0)
        return [
            _walk(subject, far, frames, fps, width, float(x), zoom, facing, away, generator)
            for subject, x in zip(subjects, generator.permutation(places), strict=True)
        ]

    def frame(self, number: int) -> tuple[NDArray[Any], list[Seen]]:
        """The picture of one frame, 0 <= number < frames, and the people visible in it, the farthest first.

        (H, W, 3) uint8 RGB in VIS; else (h, w) float32 before quantisation (`bands.to_8bit`, `bands.to_16bit`).
        """
        scene, owner = self.background.copy(), np.zeros(self.size, np.int16)
        things = sorted(self.things, key=lambda t: t.ground)
        whole: list[tuple[int, _Walk, Figure, tuple[int, int], Mask]] = []
        order = sorted(range(len(self.walks)), key=lambda i: float(self.walks[i].foot[number, 1]))
        for i in order:
            walk = self.walks[i]
            ground = float(walk.foot[number, 1])
            while things and things[0].ground < ground:
                self._stand(scene, owner, things.pop(0))
            pose = Pose(float(walk.yaw[number]), float(walk.phase[number]))
            figure = _pitched(draw(walk.subject, pose, float(walk.height[number]) * self.size[0]), self.gamma)
            pixels, alpha = paint(figure, walk.subject, self.optics)
            pixels = self._shaded(pixels, self.shade[i])
            x, y = (walk.foot[number] * self.size[0] - np.array(figure.foot) / SUPERSAMPLING).round().astype(int)
            if not self.domain.band.is_thermal:
                _shadow(scene, walk.foot[number] * self.size[0], float(walk.height[number]) * self.size[0])
            solid = alpha > 0.5
            inside, cut = _overlap(self.size, solid.shape, int(x), int(y))
            scene[inside] += alpha[cut][..., None] * (pixels[cut] - scene[inside])
            owner[inside][solid[cut]] = i + 1
            whole.append((i, walk, figure, (int(x), int(y)), solid))
        for thing in things:
            self._stand(scene, owner, thing)
        rolled = self._rolled(scene)
        picture = sense(rolled, self.optics, np.random.default_rng([*self.seed, number + 1]))
        scale = picture.shape[0] / self.size[0]
        seen = []
        for i, walk, figure, at, solid in whole:
            own = owner == i + 1
            box = self._extent(own)
            if box is not None:
                face = self._face(figure, own, solid, at)
                visible = float(np.count_nonzero(own) / np.count_nonzero(solid))
                yaw = float(np.degrees((walk.yaw[number] + np.pi) % (2 * np.pi) - np.pi))
                shown = _scaled(face, scale) if face else None
                seen.append(Seen(walk.subject.subject_id, _scaled(box, scale), visible, shown, yaw))
        return picture, seen

    def _shaded(self, pixels: Array, field: Array) -> Array:
        """A body in light, or warmth, that is uneven: what stays in all frames of a clip. field: SHADE_GRID."""
        smooth = cv2.resize(field, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)[..., None]
        light, heat = SHADE
        changed = pixels + heat * smooth if self.domain.band.is_thermal else pixels * np.exp(light * smooth)
        return np.asarray(np.clip(changed, 0, 1), np.float32)

    def _rolled(self, scene: Array) -> Array:
        """The scene as the tilted camera sees it; the corners that it lacks are the empty place, mirrored."""
        edge, rolled = cv2.BORDER_TRANSPARENT, self.corners.copy()
        cv2.warpAffine(scene, self.roll, self.size[::-1], dst=rolled, borderMode=edge)
        return np.asarray(rolled, np.float32).reshape(scene.shape)

    def _extent(self, own: Mask) -> Box | None:
        """The box around a person's pixels once the camera is tilted; None where none is left."""
        rolled = cv2.warpAffine(own.astype(np.uint8), self.roll, self.size[::-1], flags=cv2.INTER_NEAREST)
        x, y, width, height = cv2.boundingRect(rolled)
        return (float(x), float(y), float(x + width), float(y + height)) if width and height else None

    def _face(self, figure: Figure, own: Mask, solid: Mask, at: tuple[int, int]) -> Box | None:
        """The box of the face, tilted with the camera: where it is turned here, in the frame, and not hidden.

        own: mask (H, W) of the person's visible pixels; solid: of all of them, placed at `at`.
        """
        if figure.face is None:
            return None
        x1, y1, x2, y2 = (v / SUPERSAMPLING + at[k % 2] for k, v in enumerate(figure.face))
        inside, cut = _overlap(self.size, solid.shape, *at)
        full = np.zeros_like(own)
        full[inside] = solid[cut]
        part = np.s_[max(int(y1), 0) : int(np.ceil(y2)), max(int(x1), 0) : int(np.ceil(x2))]
        if np.count_nonzero(own[part]) < FACE_SEEN * max(int(np.count_nonzero(full[part])), 1):
            return None
        x, y = (float(v) for v in self.roll @ np.array([(x1 + x2) / 2, (y1 + y2) / 2, 1.0]))
        half = ((x2 - x1) / 2, (y2 - y1) / 2)
        box = (x - half[0], y - half[1], x + half[0], y + half[1])
        return box if min(box) >= 0 and box[2] <= self.size[1] and box[3] <= self.size[0] else None

    def _stand(self, scene: Array, owner: NDArray[np.int16], thing: _Thing) -> None:
        inside, cut = _overlap(self.size, thing.pixels.shape[:2], thing.x, thing.y)
        scene[inside] = thing.pixels[cut]
        owner[inside] = -1


def _scaled(box: Box, scale: float) -> Box:
    return box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale


def _pitched(figure: Figure, gamma: float) -> Figure:
    """A figure from higher up (gamma below 1: a large head, short legs) or lower: heights to the power gamma."""
    height = figure.material.shape[0]
    rows = np.minimum((((np.arange(height) + 0.5) / height) ** (1 / gamma) * height).astype(np.intp), height - 1)

    def moved(y: float) -> float:
        return float(height * min(max(y / height, 0.0), 1.0) ** gamma)

    face = figure.face and (figure.face[0], moved(figure.face[1]), figure.face[2], moved(figure.face[3]))
    foot = (figure.foot[0], moved(figure.foot[1]))
    return Figure(figure.material[rows], figure.rounding[rows], figure.texture[rows], foot, face)


def _overlap(size: Size, part: tuple[int, ...], x: int, y: int) -> tuple[Any, Any]:
    """Slices of the frame and of a part placed at (x, y) that coincide; empty ones if it is outside."""
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = max(min(x + part[1], size[1]), x1), max(min(y + part[0], size[0]), y1)
    return np.s_[y1:y2, x1:x2], np.s_[y1 - y : y2 - y, x1 - x : x2 - x]


def _shadow(scene: Array, foot: Array, height: float) -> None:
    """Darken the ground below a person."""
    x, y = int(foot[0]), int(foot[1])
    rx, ry = max(int(0.16 * height), 2), max(int(0.028 * height), 1)
    inside, cut = _overlap((scene.shape[0], scene.shape[1]), (4 * ry + 1, 2 * rx + 1), x - rx, y - 2 * ry)
    soft = np.zeros((4 * ry + 1, 2 * rx + 1), np.float32)
    cv2.ellipse(soft, (rx, 2 * ry), (max(rx * 2 // 3, 1), ry), 0, 0, 360, 0.4, -1)
    soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), max(ry * 0.6, 0.6)), np.float32)
    scene[inside] *= 1 - soft[cut][..., None]


# --- paths ---------------------------------------------------------------------------------------------------------


def _walk(
    subject: Subject,
    far: bool,
    frames: int,
    fps: float,
    width: float,
    middle: float,
    zoom: float,
    facing: bool,
    away: bool,
    generator: np.random.Generator,
) -> _Walk:
    """A walker who turns back near the camera, far from it, and at the frame's edges.

    far: the size does not change on the way. middle: where in the width the walker is at mid-clip; zoom: the usual
    height of a body. Both in frame heights.
    """
    drift = generator.normal(0, np.radians(28))
    heading = drift + (np.pi if generator.random() < 0.2 and not facing and not away else 0.0)
    turns = (generator.random() < 0.15 and not facing) or away
    turns_at = int(generator.uniform(-0.2, 0.3) * frames) if turns else frames  # from mid-clip on
    speed, tempo = SPEED * generator.uniform(0.8, 1.2), STRIDES * generator.uniform(0.9, 1.1)
    start = generator.uniform(0, 2 * np.pi)
    size = zoom * (generator.uniform(0.88, 1.05) if far else generator.uniform(0.75, 1.15))
    nearest, farthest = (zoom * 1.15, zoom * 0.8) if far else (0.74, 0.36)
    ground = 0.93 - generator.uniform(0, 0.16) if far else 0.0
    depth = FOCAL / size
    lateral = (middle - width / 2) / size
    sway = np.cumsum(generator.normal(0, np.radians(3.5), frames))

    def simulate(steps: int, sign: float, yaw: float, heading: float) -> list[tuple[float, float, float, float]]:
        """(x, ground, height, yaw) at each step from mid-clip on, forwards or backwards in time."""
        z, x, path = depth, lateral, []
        for step in range(steps):
            height = size * (1 + 0.02 * (depth - z)) if far else FOCAL / max(z, 1.0)
            floor = ground + 0.03 * (depth - z) * size if far else 0.12 + 1.06 * height
            place = width / 2 + x * (size if far else height)
            path.append((place, floor, height, yaw))
            coming, right = np.cos(heading) * sign > 0, np.sin(heading) * sign > 0
            near, distant = height > nearest or floor > 0.98, height < farthest or floor < 0.5
            if (near and coming) or (distant and not coming):
                heading = np.pi - heading
            if (place > width - 0.08 and right) or (place < 0.08 and not right):
                heading = -heading
            if sign > 0 and step == max(turns_at, 0):
                heading += np.pi
            yaw += float(np.clip((heading - yaw + np.pi) % (2 * np.pi) - np.pi, -TURNING / fps, TURNING / fps))
            z -= sign * speed / fps * np.cos(yaw)
            x += sign * speed / fps * np.sin(yaw)
        return path

    half = frames // 4 if away else frames // 2  # who turns round early shows a back for longer than a face
    before, after = simulate(half + 1, -1.0, heading, heading), simulate(frames - half, 1.0, heading, heading)
    path = np.array([*before[:0:-1], *after], np.float32)
    phase = start + 2 * np.pi * tempo / fps * np.arange(frames)
    yaw = (path[:, 3] + sway - sway[half]).astype(np.float32)
    return _Walk(subject, path[:, :2], path[:, 2], yaw, phase.astype(np.float32))


def _things(domain: Domain, size: Size, walks: list[_Walk], generator: np.random.Generator) -> list[_Thing]:
    """Posts among the people, and now and then a low wall or hedge before them."""
    height, width, things = *size, []
    body = float(np.median([walk.height for walk in walks])) * height
    lowest = float(max(walk.foot[:, 1].max() for walk in walks))
    for _ in range(int(generator.choice(3, p=[0.55, 0.3, 0.15]))):
        w, h = int(body * generator.uniform(0.03, 0.09)), int(body * generator.uniform(0.7, 1.5))
        ground = float(generator.uniform(0.6, 1.0) * lowest)
        x = int(generator.uniform(0.05, 0.95) * width)
        pixels = occluder(domain.band, "post", (max(h, 4), max(w, 2)), generator)
        things.append(_Thing(pixels, x, int(ground * height) - h, ground))
    if generator.random() < 0.45:
        top = int(lowest * height - body * generator.uniform(0.05, 0.4))
        w = int(width * generator.uniform(0.4, 1.0))
        x = int(generator.uniform(-0.2, 1.0) * (width - w))
        if 0 < top < height - 2:
            pixels = occluder(domain.band, "wall", (height - top, w), generator)
            things.append(_Thing(pixels, x, top, 2.0))
    return things
