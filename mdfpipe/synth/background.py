"""The places people walk in: street, park, car park, fence and yard, drawn in any band.

A place is laid out from the clip's generator in the same way for all bands; `canvas` has the levels of each stuff.
Clutter of a person's size (posts, bins, bollards, trunks, signs) is there to fool a detector of people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from mdfpipe.domains import Band
from mdfpipe.synth.canvas import Array, CanvasPlace, Palette, fractal


def background(band: Band, size: tuple[int, int], generator: np.random.Generator) -> Array:
    """An empty outdoor place: (H, W, C) float32 radiance 0..1 for `size` (H, W); C is 3 (RGB) in VIS, else 1."""
    place = CanvasPlace(band, size, generator)
    layouts: Sequence[Callable[[CanvasPlace], None]] = (_street, _park, _car_park, _fence, _yard)
    layouts[int(generator.integers(len(layouts)))](place)
    return place.picture()


def occluder(band: Band, kind: Literal["post", "wall"], size: tuple[int, int], generator: np.random.Generator) -> Array:
    """A thing between the camera and a person: (h, w, C) float32 0..1, a round post, or a low wall or hedge."""
    height, width = size
    palette = Palette(band, generator)
    if kind == "post":
        tone, amplitude = palette.tone(str(generator.choice(["metal", "wood", "concrete", "bark", "metal"])))
        shade = _round(width, 0.10 if band.is_thermal else 0.5, generator)
        grain = amplitude * fractal(size, (max(height / 3, 2), max(width / 2, 1)), generator)
        level = np.broadcast_to((shade * (1 + grain))[..., None], (height, width, len(tone))) * tone
        rings = generator.random() < 0.35 and height > 12
        if rings:  # a reflecting band, as bollards have
            top, (paint, _) = int(height * generator.uniform(0.05, 0.3)), palette.tone("paint")
            level[top : top + max(2, height // 12)] = (shade * paint[:, None]).T.reshape(1, width, -1)
    else:
        stuff = str(generator.choice(["leaves", "brick", "concrete", "plaster", "wood"]))
        tone, amplitude = palette.tone(stuff)
        grain = fractal(size, (24.0, 24.0), generator, 5, 0.9 if stuff == "leaves" else 0.7)
        level = np.clip(1 + amplitude * grain, 0.3, 1.7)[..., None] * tone
        if stuff in ("brick", "wood"):
            for column in range(0, width, 9):
                level[:, column : column + 1] *= 0.88
        if stuff == "brick":
            level[::5] *= 0.9
        if stuff != "leaves":
            level[: max(2, height // 10)] *= 1.12  # the coping takes more light
    return np.clip(level, 0, 1).astype(np.float32)


# --- things --------------------------------------------------------------------------------------------------------


def _round(width: int, depth: float, generator: np.random.Generator) -> Array:
    """(1, width): the shade across an upright round thing, lit from somewhere in front."""
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    shade: Array = 1 - np.float32(depth) * np.clip(across - generator.uniform(-0.5, 0.5), -1, 1) ** 2
    return shade


def _cylinder(place: CanvasPlace, x: float, top: float, row: float, half: float, stuff: str) -> None:
    """An upright round thing: pole, trunk, bollard or bin."""
    tone, amplitude = place.palette.tone(stuff)
    height, width = max(int(row - top), 2), max(int(2 * half), 2)
    grain = amplitude * fractal((height, width), (height / 4 + 2, width / 2 + 1), place.generator)
    shade = _round(width, 0.12 if place.band.is_thermal else 0.45, place.generator) * (1 + grain)
    place.blend(int(top), int(x - half), shade[..., None] * tone, np.ones((height, width), np.float32))


def _clutter(place: CanvasPlace, count: int) -> None:
    """Draw things of about a person's size on the ground."""
    drawers = (_pole, _lamp, _sign, _bin, _bollards, _tree, _hydrant, _cabinet)
    for _ in range(count):
        row = place.base + (0.7 * place.height - place.base) * float(place.generator.random()) ** 2
        draw, x = drawers[int(place.generator.integers(len(drawers)))], place.between(0, place.width)
        place.stand(row, partial(draw, place, x, row, place.metre(row)))


def _upright(shade: float, high: float, thin: float, thick: float, stuff: str) -> Callable[..., None]:
    """What draws a pole or trunk: its shadow's and its half width, and its height, in metres."""

    def draw(place: CanvasPlace, x: float, row: float, metre: float) -> None:
        place.shadow(x, row, shade * metre)
        _cylinder(place, x, row - high * metre, row, place.between(thin, thick) * metre, stuff)

    return draw


_pole = _upright(0.3, 5, 0.04, 0.09, "metal")
_tree = _upright(0.5, 6, 0.12, 0.26, "bark")


def _lamp(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    """A low lamp on a post, about as high as a person and, in the thermal bands, with a hot head."""
    place.shadow(x, row, 0.3 * metre)
    high = place.between(1.3, 2.2) * metre
    _cylinder(place, x, row - high, row, 0.06 * metre, "metal")
    _cylinder(place, x, row - high - 0.28 * metre, row - high, 0.13 * metre, "lamp")


def _sign(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    place.shadow(x, row, 0.3 * metre)
    _cylinder(place, x, row - 2.3 * metre, row, 0.04 * metre, "metal")
    half, top = place.between(0.2, 0.35) * metre, row - place.between(2.2, 2.6) * metre
    tone, edge = place.stuff("sign"), place.stuff("paint")
    if place.chance(0.5):
        place.box(x - half, top, x + half, top + 2.4 * half, edge)
        place.box(x - 0.88 * half, top + 0.12 * half, x + 0.88 * half, top + 2.28 * half, tone)
    else:
        place.disc(x, top + half, half, edge)
        place.disc(x, top + half, 0.82 * half, tone)


def _bin(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    place.shadow(x, row, 0.4 * metre)
    half, top = place.between(0.24, 0.32) * metre, row - place.between(0.9, 1.15) * metre
    _cylinder(place, x, top, row, half, "metal")
    place.box(x - 1.08 * half, top - 0.08 * metre, x + 1.08 * half, top, place.stuff("dark"))


def _bollards(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    step = place.between(1.2, 1.8) * metre
    for k in range(int(place.generator.integers(1, 5))):
        place.shadow(x + k * step, row, 0.25 * metre)
        _cylinder(place, x + k * step, row - 0.95 * metre, row, 0.08 * metre, "concrete")


def _hydrant(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    place.shadow(x, row, 0.3 * metre)
    _cylinder(place, x, row - 0.75 * metre, row, 0.13 * metre, "sign")
    _cylinder(place, x, row - 0.85 * metre, row - 0.7 * metre, 0.09 * metre, "metal")


def _bench(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    plank, leg = place.stuff("wood"), place.stuff("dark")
    place.shadow(x + 0.85 * metre, row, 0.9 * metre, flat=0.12)
    for level, thick in ((0.45, 0.06), (0.62, 0.09), (0.78, 0.09)):
        place.box(x, row - level * metre, x + 1.7 * metre, row - (level - thick) * metre, plank)
    for side in (0.15, 1.5):
        place.box(x + side * metre, row - 0.8 * metre, x + (side + 0.07) * metre, row, leg)


def _cabinet(place: CanvasPlace, x: float, row: float, metre: float) -> None:
    """A switch box, often with a warm grille."""
    place.shadow(x, row, 0.6 * metre)
    half, tone, top = place.between(0.3, 0.5) * metre, place.stuff("metal"), row - place.between(1.1, 1.5) * metre
    place.box(x - half, top, x + half, row, tone)
    place.box(x - 0.02 * metre, top, x + 0.02 * metre, row, tone * 0.8)
    if place.chance(0.6):
        place.box(x - 0.6 * half, top + 0.2 * metre, x + 0.6 * half, top + 0.45 * metre, place.stuff("hot"))


def _car(place: CanvasPlace, x: float, row: float, end_on: bool) -> None:
    """A parked car, its side or its end towards the camera; an engine that has just run is hot."""
    m, body, glass, dark = place.metre(row), place.stuff("body"), place.stuff("glass"), place.stuff("dark")
    tyre, hub, warm = place.stuff("tyre"), place.stuff("metal"), place.chance(0.45)
    place.shadow(x, row, (1.0 if end_on else 2.3) * m, 0.6, 0.22 if end_on else 0.1)

    def shape(points: Sequence[tuple[float, float]], tone: Array) -> None:
        place.polygon([(x + px * m, row - py * m) for px, py in points], tone)

    if end_on:
        for side in (-0.72, 0.5):
            shape([(side, 0.0), (side + 0.22, 0.0), (side + 0.22, 0.4), (side, 0.4)], tyre)
        shape([(-0.86, 0.18), (0.86, 0.18), (0.88, 0.8), (0.8, 0.95), (-0.8, 0.95), (-0.88, 0.8)], body)
        shape([(-0.78, 0.93), (0.78, 0.93), (0.58, 1.45), (-0.58, 1.45)], body * 0.95)
        shape([(-0.68, 0.96), (0.68, 0.96), (0.53, 1.38), (-0.53, 1.38)], glass)
        shape([(-0.82, 0.2), (0.82, 0.2), (0.82, 0.32), (-0.82, 0.32)], dark)
        for side in (-0.78, 0.5):
            shape([(side, 0.62), (side + 0.28, 0.62), (side + 0.28, 0.76), (side, 0.76)], place.stuff("paint") * 0.9)
        grille = place.stuff("hot") if warm and place.band.is_thermal else dark
        shape([(-0.42, 0.42), (0.42, 0.42), (0.42, 0.62), (-0.42, 0.62)], grille)
        return
    way = 1 if place.chance(0.5) else -1
    outline = [(-2.1, 0.2), (2.1, 0.2), (2.15, 0.65), (1.95, 0.85), (1.1, 0.93), (0.55, 1.42), (-1.2, 1.45)]
    outline += [(-1.85, 0.95), (-2.12, 0.9)]
    shape([(way * px, py) for px, py in outline], body)
    shape([(way * px, py) for px, py in [(0.95, 0.95), (0.5, 1.36), (-0.3, 1.38), (-0.3, 0.95)]], glass)
    shape([(way * px, py) for px, py in [(-0.4, 0.95), (-0.4, 1.38), (-1.15, 1.38), (-1.6, 0.97)]], glass)
    shape([(-2.1, 0.18), (2.1, 0.18), (2.1, 0.3), (-2.1, 0.3)], dark)
    if warm and place.band.is_thermal:
        shape([(way * px, py) for px, py in [(1.2, 0.4), (2.1, 0.4), (2.0, 0.8), (1.2, 0.88)]], place.stuff("hot"))
    for wheel in (-1.35, 1.35):
        place.disc(x + wheel * m, row - 0.32 * m, 0.33 * m, tyre)
        place.disc(x + wheel * m, row - 0.32 * m, 0.19 * m, hub)


def _facade(place: CanvasPlace, left: float, right: float) -> None:
    """A house front from its foot at the base line up out of the frame: plinth, windows, doors, now and then a shop."""
    m, foot = place.metre(place.base), float(place.base)
    wall = str(place.generator.choice(["plaster", "plaster", "brick", "concrete"]))
    tone = place.cover(wall, 0, place.base, int(left), int(right))
    if wall == "brick":
        for row in np.arange(foot, 0, -0.085 * m):
            place.box(left, row, right, row + 2, tone * 0.9)
    frame, bay, x = place.stuff("paint"), place.between(1.8, 3.0), left + place.between(0.3, 1.0) * m
    shop = place.chance(0.35)
    if shop:
        place.box(left, foot - 3.1 * m, right, foot - 2.6 * m, place.stuff("sign"))
    sill, top = (0.5, 2.45) if shop else (0.95, 2.3)
    while x + 1.2 * m < right:
        door = place.chance(0.25)
        wide = 1.05 if door else (bay - 0.5 if shop else place.between(0.95, 1.25))
        low = 0.05 if door else sill
        place.box(x - 0.09 * m, foot - (top + 0.09) * m, x + (wide + 0.09) * m, foot - low * m, frame)
        pane = place.stuff("wood" if door and place.chance(0.6) else "glass")
        if place.band.is_thermal and place.chance(0.2):
            pane = place.stuff("hot") * 0.75  # a lit, badly insulated room
        place.box(x, foot - top * m, x + wide * m, foot - (low + 0.05) * m, pane)
        if not door:
            place.box(x + (wide / 2 - 0.03) * m, foot - top * m, x + (wide / 2 + 0.03) * m, foot - low * m, frame)
            place.box(x - 0.12 * m, foot - low * m, x + (wide + 0.12) * m, foot - (low - 0.08) * m, tone * 1.1)
        x += bay * m
    place.box(left, foot - 0.35 * m, right, foot, tone * 0.78)
    if place.chance(0.5):
        pipe = place.between(left, right)
        place.box(pipe, 0, pipe + 0.1 * m, foot, tone * 0.7)
    if place.chance(0.5):
        vent = place.between(left, max(left + 1, right - 0.5 * m))
        place.box(vent, foot - 0.75 * m, vent + 0.45 * m, foot - 0.45 * m, place.stuff("hot"))


def _perspective_line(place: CanvasPlace, x: float, top: float, bottom: float, wide: float, tone: Array) -> None:
    """A line on the ground towards the horizon, `wide` metres; x is its place at the frame's bottom, as a share."""
    centre, foot = place.width / 2, place.height - place.eye

    def at(row: float, side: float) -> tuple[float, float]:
        scale = (row - place.eye) / foot
        return centre + (x - 0.5) * 2 * place.width * scale + side * wide / 2 * place.metre(row), row

    place.polygon([at(top, -1), at(top, 1), at(bottom, 1), at(bottom, -1)], tone)


# --- places --------------------------------------------------------------------------------------------------------


def _street(place: CanvasPlace) -> None:
    """House fronts, a pavement, a kerb and the road."""
    x = -place.between(0, 0.4) * place.width
    while x < place.width:
        right = x + place.between(0.4, 1.0) * place.width
        _facade(place, x, right)
        x = right
    place.ground("paving", place.base)
    joint = np.float32(0.88)
    for k in np.arange(-1.5, 2.5, 0.11):
        _perspective_line(place, float(k), place.base, place.height, 0.015, place.image[-1, 0] * joint)
    kerb = place.base + int(place.between(0.15, 0.45) * (place.height - place.base))
    place.ground("asphalt", kerb)
    place.box(0, kerb, place.width, kerb + 0.09 * place.metre(kerb), place.stuff("concrete") * 1.1)
    if place.chance(0.5):
        row = kerb + 0.5 * (place.height - kerb)
        for x in np.arange(-0.2, 1.2, 0.3) * place.width:
            place.box(x, row, x + 0.17 * place.width, row + 0.05 * place.metre(row), place.stuff("paint"))
    row, x = kerb + 0.1 * place.metre(kerb), place.between(-0.3, 0.7) * place.width
    for _ in range(int(place.generator.choice(3, p=[0.45, 0.35, 0.2]))):
        place.stand(row, partial(_car, place, x, row, end_on=False))
        x += place.between(5.0, 7.0) * place.metre(row)
    _clutter(place, int(place.generator.integers(2, 6)))


def _park(place: CanvasPlace) -> None:
    """Grass, a path, a hedge, and trees against the sky."""
    m, foot = place.metre(place.base), place.base
    for _ in range(6):
        x = place.between(-0.1, 0.9) * place.width
        place.foliage(foot - place.between(2.2, 5.5) * m, foot, x, x + place.between(2.5, 6) * m, 0.35)
    if place.chance(0.7):
        tall = place.between(1.0, 2.2) * m
        place.foliage(foot - tall, foot + 0.1 * m, -0.3 * place.width, 1.3 * place.width, 0.2)
    place.ground("grass", place.base)
    if place.chance(0.75):
        grass = place.image[place.base :].copy()
        place.ground(str(place.generator.choice(["gravel", "asphalt", "paving"])), place.base)
        path, mark = place.image.copy(), np.full(place.image.shape[2], -1, np.float32)
        _perspective_line(place, place.between(0.25, 0.75), place.base, place.height, place.between(1.6, 3.0), mark)
        on_path = place.image[place.base :, :, :1] < 0
        place.image[place.base :] = np.where(on_path, path[place.base :], grass)
    for _ in range(int(place.generator.integers(1, 5))):
        row = place.between(place.base, place.base + 0.25 * place.height)
        place.stand(row, partial(_tree, place, place.between(0, place.width), row, place.metre(row)))
    if place.chance(0.6):
        row, x = place.base + place.between(0.05, 0.25) * place.height, place.between(0.1, 0.8) * place.width
        place.stand(row, partial(_bench, place, x, row, place.metre(row)))
    _clutter(place, int(place.generator.integers(1, 4)))


def _car_park(place: CanvasPlace) -> None:
    """Asphalt with bays, cars in a row, a hedge or a building behind."""
    m, foot = place.metre(place.base), place.base
    if place.chance(0.5):
        place.foliage(foot - place.between(1.6, 3.0) * m, foot + 0.1 * m, -0.3 * place.width, 1.3 * place.width, 0.25)
    else:
        place.cover("concrete", int(foot - place.between(2.4, 4.5) * m), foot)
        for x in np.arange(place.between(0, 1.5) * m, place.width, 2.6 * m):
            place.box(x, foot - 2.2 * m, x + 1.6 * m, foot - 1.4 * m, place.stuff("glass"))
    place.ground("asphalt", place.base)
    paint = place.stuff("paint") * 0.85
    reach = place.base + 0.3 * (place.height - place.base)
    for k in np.arange(-0.6, 1.7, 0.26 + place.between(0, 0.06)):
        _perspective_line(place, float(k), place.base, reach, 0.1, paint)
    x, row = place.between(-0.5, 1.5) * m, place.base + place.between(0.03, 0.12) * place.height
    m = place.metre(row)
    while x < place.width + m:
        if place.chance(0.7):
            place.stand(row, partial(_car, place, x, row, end_on=True))
        x += place.between(2.3, 2.7) * m
    _clutter(place, int(place.generator.integers(2, 6)))


def _fence(place: CanvasPlace) -> None:
    """A plain wall, board fence or brick wall, with leaves or a roof above it."""
    m, foot = place.metre(place.base), place.base
    for _ in range(int(place.generator.integers(0, 6))):
        x = place.between(-0.1, 0.9) * place.width
        place.foliage(foot - place.between(3.0, 5.5) * m, foot, x, x + place.between(2.5, 6) * m, 0.35)
    top = foot - place.between(1.7, 3.4) * m
    wall = str(place.generator.choice(["wood", "brick", "concrete", "plaster", "metal"]))
    tone = place.cover(wall, int(top), foot)
    if wall == "brick":
        for row in np.arange(foot, top, -0.085 * m):
            place.box(0, row, place.width, row + 2, tone * 0.9)
    elif wall != "plaster":
        step = {"wood": 0.16, "metal": 0.24, "concrete": 2.2}[wall] * m
        for x in np.arange(place.between(0, 1) * step, place.width, step):
            shade = place.between(0.86, 1.1)
            left = max(int(x), 0)
            place.image[max(int(top), 0) : foot, left : left + int(step)] *= np.float32(shade)
            place.box(x, top, x + max(0.02 * m, 2), foot, tone * 0.7)
    if wall in ("brick", "plaster", "concrete"):
        place.box(0, top, place.width, top + 0.1 * m, tone * 1.12)
    if wall == "plaster" and place.chance(0.5):
        for _ in range(3):
            x = place.between(0, place.width)
            place.box(x, top + 0.4 * m, x + place.between(0.4, 1.0) * m, top + 1.2 * m, place.stuff("sign"))
    place.ground(str(place.generator.choice(["gravel", "grass", "paving", "asphalt"])), place.base)
    for _ in range(int(place.generator.integers(0, 5))):
        x = place.between(-0.1, 1) * place.width
        place.foliage(foot - place.between(0.4, 1.3) * m, foot + 0.12 * m, x, x + place.between(0.6, 2.4) * m, 0.5)
    _clutter(place, int(place.generator.integers(2, 6)))


def _yard(place: CanvasPlace) -> None:
    """Sheds with ribbed doors, containers, vents; concrete ground."""
    m, foot = place.metre(place.base), place.base
    wall = str(place.generator.choice(["metal", "concrete", "plaster"]))
    tone = place.cover(wall, int(foot - place.between(3, 7) * m), foot)
    for x in np.arange(0, place.width, 0.3 * m):
        place.box(x, 0.0 if foot < 4 * m else foot - 3 * m, x + 2, foot, tone * 0.9)
    x = place.between(-1.0, 1.0) * m
    while x < place.width:
        wide = place.between(2.4, 3.6) * m
        if place.chance(0.75):
            door = place.stuff(str(place.generator.choice(["metal", "sign", "concrete"])))
            high = place.between(2.2, 2.9)
            place.box(x, foot - high * m, x + wide, foot, door)
            for row in np.arange(foot - high * m, foot, 0.22 * m):
                place.box(x, row, x + wide, row + 0.03 * m, door * 0.82)
        if place.chance(0.5):
            place.box(x - 0.7 * m, foot - 1.5 * m, x - 0.25 * m, foot - 1.0 * m, place.stuff("hot"))
        x += wide + place.between(0.8, 2.0) * m
    place.ground("concrete", place.base)
    for k in np.arange(-1.0, 2.0, 0.5):
        _perspective_line(place, float(k), place.base, place.height, 0.03, place.image[-1, 0] * np.float32(0.85))
    if place.chance(0.5):
        row, x = place.base + 0.05 * place.height, place.between(0.1, 0.9) * place.width
        place.stand(row, partial(_car, place, x, row, end_on=place.chance(0.5)))
    _clutter(place, int(place.generator.integers(3, 7)))
