"""Who a drawn person is: the shape of body and face, the clothes, and what each band sees of every material.

A subject is drawn once and never changes. The geometry is shared by all bands; what a band sees of a material is a
row of a table, drawn per band: colours in VIS say a little about SWIR and nothing about heat.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mdfpipe.domains import Band
from mdfpipe.synth.presets import seed_of, uniform

_T = TypeVar("_T")


class Material(IntEnum):
    """What a pixel of a figure is made of. UPPER_B and LOWER_B are the second colour of a garment."""

    BACKGROUND = 0
    SKIN = 1
    HAIR = 2
    UPPER_A = 3
    UPPER_B = 4
    SLEEVE = 5
    LOWER_A = 6
    LOWER_B = 7
    SHOE = 8
    HAT = 9
    BAG = 10
    STRAP = 11
    DETAIL = 12
    EYES = 13
    BROW = 14
    LIPS = 15
    BEARD = 16
    GLASSES = 17


ADJACENT = (
    (Material.UPPER_A, Material.UPPER_B),
    (Material.UPPER_A, Material.LOWER_A),
    (Material.UPPER_A, Material.BAG),
    (Material.UPPER_A, Material.STRAP),
    (Material.LOWER_A, Material.LOWER_B),
)
"""Materials that touch: their levels differ in VIS, SWIR and MWIR, so that a layout is visible in each band."""

LEAST_COLOUR_DIFFERENCE = 0.25  # VIS: largest difference of a channel between ADJACENT materials
LEAST_DIFFERENCE, LARGEST_PUSH = 0.20, 0.50  # SWIR, MWIR: between ADJACENT materials; how far a near pair is moved
LUMINANCE_SHARE = 0.5  # of a material's level in SWIR that follows from its colour

_SKINS = ((0.93, 0.76, 0.66), (0.87, 0.67, 0.54), (0.74, 0.54, 0.41), (0.55, 0.38, 0.28), (0.40, 0.27, 0.20))
_HAIRS = {  # and their shares
    (0.07, 0.06, 0.06): 0.32,
    (0.20, 0.13, 0.08): 0.26,
    (0.38, 0.25, 0.14): 0.2,
    (0.74, 0.60, 0.36): 0.12,
    (0.62, 0.61, 0.60): 0.1,
}
_CLOTHS = (  # what wardrobes are full of
    (0.06, 0.06, 0.07),
    (0.20, 0.20, 0.22),
    (0.45, 0.45, 0.46),
    (0.72, 0.71, 0.69),
    (0.92, 0.91, 0.88),
    (0.10, 0.13, 0.27),
    (0.22, 0.32, 0.50),
    (0.42, 0.53, 0.66),
    (0.74, 0.66, 0.50),
    (0.33, 0.24, 0.16),
    (0.33, 0.35, 0.20),
    (0.38, 0.09, 0.13),
)


def _within(low: float, high: float) -> Any:
    """A field that is drawn evenly from a range."""
    return field(metadata={"range": (low, high)})


@dataclass(frozen=True, kw_only=True)
class FaceTraits:
    """Shape of a face. Lengths across are shares of the head's half width, lengths along of the head's height."""

    width: float = _within(0.64, 0.78)  # half width of the head / half height
    jaw: float = _within(0.74, 0.98)  # width at the jaw's corner / at the cheeks
    chin: float = _within(0.32, 0.62)  # width of the chin / at the cheeks
    hairline: float = _within(0.14, 0.30)  # from the crown down
    eye_distance: float = _within(0.36, 0.54)  # from the middle to an eye's centre
    eye_width: float = _within(0.13, 0.21)  # half, across
    eye_height: float = _within(0.018, 0.034)  # half, along
    eye_level: float = _within(0.46, 0.52)  # from the crown down
    brow_gap: float = _within(0.065, 0.10)  # above the eye
    brow_thickness: float = _within(0.008, 0.024)  # half
    brow_slope: float = _within(-0.03, 0.04)  # outer end above the inner one
    nose_width: float = _within(0.13, 0.26)  # half
    nose_end: float  # from the crown down
    nose_relief: float = _within(0.12, 0.30)  # how far it stands out, share of the head's half depth
    mouth_level: float = _within(0.075, 0.14)  # from the crown down; the range is below the nose
    mouth_width: float = _within(0.22, 0.42)  # half
    mouth_height: float = _within(0.012, 0.032)  # half
    ear: float = _within(0.07, 0.11)  # half height
    glasses: str  # none, round, square, dark
    beard: str  # none, moustache, goatee, full


@dataclass(frozen=True, eq=False)
class Subject:
    """One person. Lengths are shares of the body's height, angles radians; `side` is +1 for the body's left.

    values: (materials, 3) RGB in VIS and (materials, 1) elsewhere, 0..1, indexed by Material.
    texture_amplitude: (materials,), how many levels the cloth's texture adds at most.
    """

    subject_id: str
    leg: float
    head: float
    shoulder: float
    waist: float
    hip: float
    depth: float
    arm_radius: float
    leg_radius: float
    leg_swing: float
    arm_swing: float
    knee: float
    lean: float
    elbow_out: float
    face: FaceTraits
    hair: str  # bald, short, bob, long, bun, afro, ponytail
    hair_volume: float
    hat: str  # none, cap, beanie, brim, hood
    hem: float  # of the upper garment, below the hip, share of the leg
    flare: float
    sleeve: float  # share of the arm
    sleeve_style: str  # plain, contrast, cuff, band
    upper_layout: str  # none, band, two bands, yoke, centre, sides, sash, block, jacket, stripes
    band_start: float  # along the torso, 0 at the shoulder and 1 at the hip
    band_width: float
    lower: str  # trousers, wide, shorts, capri, skirt
    lower_length: float  # share of the leg
    lower_layout: str  # none, stripe, knee, cuff, block
    boot: float  # share of the leg, 0: low shoes
    belt: bool
    carried: str  # none, backpack, cross, tote, waist
    carried_size: float
    side: int  # where the carried thing is, and where a sash ends
    upper_cloth: str  # plain, stripes, bars, checks, speckle, knit
    lower_cloth: str
    cloth_seed: int
    values: Mapping[Band, NDArray[np.float32]]
    texture_amplitude: Mapping[Band, NDArray[np.float32]]


def draw_subject(seed: int, subject_id: str) -> Subject:
    """The person of that name in the world of that seed: always the same one, on every machine."""
    own = seed_of(seed, "subject", subject_id)
    generator = np.random.default_rng(own)
    between = uniform(generator)

    def one_of(**shares: float) -> str:
        return _choice(generator, shares)

    build = between(-1, 1)
    lower = one_of(trousers=0.35, wide=0.17, shorts=0.18, capri=0.10, skirt=0.20)
    lengths = {"shorts": (0.35, 0.50), "capri": (0.62, 0.75), "skirt": (0.40, 0.85)}
    hat = one_of(none=0.48, cap=0.14, beanie=0.14, brim=0.12, hood=0.12)
    sleeve_style = one_of(plain=0.40, contrast=0.25, cuff=0.15, band=0.20)
    hair = ("bald", "short", "bob", "long", "bun", "afro", "ponytail")[int(generator.integers(7))]
    layouts = {
        "none": 0.10,
        "band": 0.12,
        "two bands": 0.10,
        "yoke": 0.12,
        "centre": 0.10,
        "sides": 0.10,
        "sash": 0.09,
        "block": 0.12,
        "jacket": 0.08,
        "stripes": 0.07,
    }
    upper_cloth = one_of(plain=0.30, stripes=0.14, bars=0.12, checks=0.16, speckle=0.16, knit=0.12)
    lower_cloth = one_of(plain=0.45, stripes=0.08, checks=0.17, speckle=0.22, knit=0.08)
    values = _values(hat, sleeve_style, np.random.default_rng([*own, 1]))  # another rule of contrast, the same person
    return Subject(
        subject_id=subject_id,
        leg=between(0.46, 0.53),
        head=between(0.115, 0.15),
        shoulder=0.112 + 0.014 * build + between(-0.008, 0.008),
        waist=0.082 + 0.020 * build + between(-0.010, 0.010),
        hip=0.092 + 0.014 * build + between(-0.010, 0.010),
        depth=0.07 + 0.02 * build,
        arm_radius=0.027 + 0.006 * build,
        leg_radius=0.046 + 0.009 * build,
        leg_swing=between(0.25, 0.60),
        arm_swing=between(0.15, 0.70),
        knee=between(0.3, 0.9),
        lean=between(-0.01, 0.05),
        elbow_out=between(0, 0.035),
        face=_face(hair, generator),
        hair=hair,
        hair_volume=between(1.03, 1.11),
        hat=hat,
        hem=max(_choice(generator, {0.0: 0.25, 0.12: 0.35, 0.35: 0.20, 0.58: 0.20}) + between(-0.03, 0.03), 0.0),
        flare=between(0.95, 1.35),
        sleeve=min(_choice(generator, {0.08: 0.12, 0.42: 0.30, 0.75: 0.13, 1.0: 0.45}) + between(-0.03, 0.03), 1.0),
        sleeve_style=sleeve_style,
        upper_layout=one_of(**layouts),
        band_start=between(0.2, 0.6),
        band_width=between(0.12, 0.26),
        lower=lower,
        lower_length=between(*lengths.get(lower, (0.93, 0.99))),
        lower_layout=one_of(none=0.30, stripe=0.20, knee=0.15, cuff=0.15, block=0.20),
        boot=_choice(generator, {0.0: 0.55, 0.20: 0.25, 0.38: 0.20}),
        belt=generator.random() < 0.3,
        carried=one_of(none=0.30, backpack=0.22, cross=0.20, tote=0.18, waist=0.10),
        carried_size=between(0.75, 1.30),
        side=1 if generator.random() < 0.5 else -1,
        upper_cloth=upper_cloth,
        lower_cloth=lower_cloth,
        cloth_seed=int(generator.integers(2**31)),
        values=values,
        texture_amplitude=_amplitudes(upper_cloth, lower_cloth, generator),
    )


def _choice(generator: np.random.Generator, shares: Mapping[_T, float]) -> _T:
    odds = np.array(list(shares.values()))
    return list(shares)[int(generator.choice(len(shares), p=odds / sum(shares.values())))]


def _face(hair: str, generator: np.random.Generator) -> FaceTraits:
    between = uniform(generator)
    bearded = 0.0 if hair in ("bob", "long", "bun", "ponytail") else 0.55
    beards = {"none": 1 - bearded, "moustache": bearded * 0.3, "goatee": bearded * 0.3, "full": bearded * 0.4}
    nose_end = between(0.63, 0.72)
    drawn = {f.name: between(*f.metadata["range"]) for f in fields(FaceTraits) if f.metadata}
    drawn["mouth_level"] += nose_end
    glasses = _choice(generator, {"none": 0.66, "round": 0.13, "square": 0.13, "dark": 0.08})
    return FaceTraits(nose_end=nose_end, glasses=glasses, beard=_choice(generator, beards), **drawn)


# --- what the bands see --------------------------------------------------------------------------------------------


def _values(hat: str, sleeve_style: str, generator: np.random.Generator) -> Mapping[Band, NDArray[np.float32]]:
    """A table for each of the four bands."""
    colour = _colours(generator)
    reflected = _shortwave(colour, generator)
    midwave, longwave = _heat(generator)
    tables = {Band.VIS: colour, Band.SWIR: reflected, Band.MWIR: midwave, Band.LWIR: longwave}
    for table in tables.values():
        table[Material.SLEEVE] = table[Material.UPPER_B if sleeve_style == "contrast" else Material.UPPER_A]
        if hat == "hood":
            table[Material.HAT] = table[Material.UPPER_A]
        table.flags.writeable = False
    return tables


def _colours(generator: np.random.Generator) -> NDArray[np.float32]:
    """(materials, 3) RGB, 0..1."""
    table = np.zeros((len(Material), 3), np.float32)
    place, ramp = generator.uniform(0, len(_SKINS) - 1), np.arange(len(_SKINS))
    skin = np.array([np.interp(place, ramp, channel) for channel in zip(*_SKINS, strict=True)], np.float32)
    hair = np.array(_choice(generator, _HAIRS), np.float32)
    hair = np.clip(hair * generator.uniform(0.8, 1.25) + generator.uniform(-0.02, 0.02, 3), 0.03, 0.95)
    table[Material.SKIN], table[Material.HAIR] = skin, hair
    table[Material.UPPER_A] = _cloth(generator)
    for near, far in ADJACENT:
        table[far] = _cloth(generator)
        while np.abs(table[far] - table[near]).max() <= LEAST_COLOUR_DIFFERENCE:
            table[far] = _cloth(generator)
    for material in (Material.SHOE, Material.HAT, Material.DETAIL):
        table[material] = _cloth(generator)
    # On dark skin an eye shows by its white, on fair skin by its iris and lashes.
    pale = skin.mean() > 0.42
    table[Material.EYES] = generator.uniform(0.05, 0.20, 3) if pale else generator.uniform(0.68, 0.78)
    table[Material.BROW] = np.minimum(hair * 0.85, skin * generator.uniform(0.35, 0.55))
    table[Material.LIPS] = skin * np.array([generator.uniform(0.72, 0.85), 0.52, 0.55])
    beard = np.clip(hair * generator.uniform(0.8, 1.1), 0.03, 0.9)
    table[Material.BEARD] = beard if np.abs(beard - skin).max() > 0.18 else skin * 0.5
    table[Material.GLASSES] = generator.uniform(0.03, 0.10, 3) if pale else generator.uniform(0.7, 0.85, 3)
    return np.clip(table, 0, 1)


def _cloth(generator: np.random.Generator) -> NDArray[np.float32]:
    """A colour of cloth (3,): half of them the usual ones, the others of any hue but none that glows."""
    if generator.random() < 0.5:
        plain = np.array(_CLOTHS[int(generator.integers(len(_CLOTHS)))]) * generator.uniform(0.85, 1.15)
        return np.clip(plain + generator.uniform(-0.03, 0.03, 3), 0.02, 0.97).astype(np.float32)
    saturation, value = generator.uniform(0.25, 0.85), generator.uniform(0.15, 0.92)
    saturation = min(saturation, 1.0 - 0.62 * value)
    return np.array(colorsys.hsv_to_rgb(generator.random(), saturation, value), np.float32)


def _apart(table: NDArray[np.float32], low: float, high: float, generator: np.random.Generator) -> None:
    """Move the second of each ADJACENT pair away from the first where they are nearer than LEAST_DIFFERENCE."""
    for near, far in ADJACENT:
        start = float(table[near, 0])
        if abs(float(table[far, 0]) - start) >= LEAST_DIFFERENCE:
            continue
        push = generator.uniform(LEAST_DIFFERENCE + 0.005, LARGEST_PUSH)
        sign = 1 if generator.random() < 0.5 else -1
        rooms = {1: high - start, -1: start - low}
        if rooms[sign] < LEAST_DIFFERENCE + 0.005:
            sign = -sign
        table[far, 0] = start + sign * min(push, rooms[sign])


def _shortwave(colour: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """(materials, 1): reflected light, partly as bright as the colour is. Skin is dark: water absorbs."""
    luminance = colour @ np.array([0.30, 0.59, 0.11], np.float32)
    own = generator.uniform(0.1, 0.95, len(Material))
    table = (LUMINANCE_SHARE * luminance + (1 - LUMINANCE_SHARE) * own).astype(np.float32)[:, None]
    _apart(table, 0.06, 0.95, generator)
    skin = generator.uniform(0.20, 0.40)
    table[Material.SKIN] = skin
    table[Material.HAIR] = hair = generator.uniform(0.30, 0.75)
    table[Material.EYES] = 0.06 if skin > 0.26 else generator.uniform(0.45, 0.6)
    beside = max(hair, skin + 0.15)
    table[Material.BROW] = beside
    table[Material.BEARD] = min(beside * generator.uniform(1.0, 1.15), 0.9)
    table[Material.LIPS] = skin - generator.uniform(0.11, 0.15)
    table[Material.GLASSES] = 0.04 if skin > 0.26 else generator.uniform(0.6, 0.85)
    table[Material.BACKGROUND] = 0
    return table


def _heat(generator: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """((materials, 1) in MWIR, in LWIR): emitted heat, independent of the colours, nearly the same in both bands."""
    table = generator.uniform(0.30, 0.78, (len(Material), 1)).astype(np.float32)
    ranges = {Material.BAG: (0.1, 0.5), Material.HAT: (0.3, 0.6), Material.SHOE: (0.2, 0.6), Material.STRAP: (0.2, 0.7)}
    for material, (low, high) in {**ranges, Material.HAIR: (0.45, 0.75)}.items():
        table[material] = generator.uniform(low, high)
    _apart(table, 0.15, 0.83, generator)
    # .8 of the level and .2 of a disturbed one.
    other = 0.8 * table + 0.2 * (table + generator.normal(0, 0.15, table.shape).astype(np.float32))
    face = generator.uniform(-0.03, 0.015, (3, 1))
    for band, lowest in ((table, 0.85), (other, 0.88)):
        skin = generator.uniform(lowest, 1.0)
        band[Material.SKIN] = skin
        band[[Material.EYES, Material.BROW, Material.LIPS]] = skin + face
        band[Material.BEARD] = skin - 0.06
        band[Material.GLASSES] = skin - 0.12
        band[Material.BACKGROUND] = 0
        np.clip(band, 0, 1, out=band)
    return table, other.astype(np.float32)


def _amplitudes(upper: str, lower: str, generator: np.random.Generator) -> Mapping[Band, NDArray[np.float32]]:
    """How strongly the weave shows: in VIS and SWIR each its own, as heat hardly at all."""
    tops = {Band.VIS: 0.12, Band.SWIR: 0.10, Band.MWIR: 0.02, Band.LWIR: 0.02}
    tables = {}
    for band, top in tops.items():
        table = np.zeros(len(Material), np.float32)
        heat = band.is_thermal
        for kind, materials in (
            (upper, (Material.UPPER_A, Material.UPPER_B, Material.SLEEVE)),
            (lower, (Material.LOWER_A, Material.LOWER_B)),
        ):
            least = 0.0 if heat or band is Band.SWIR else 0.05
            strength = generator.uniform(least, top)
            table[list(materials)] = min(strength, 0.02) if kind == "plain" else strength
        table[[Material.HAT, Material.HAIR, Material.BAG]] = 0.01 if heat else generator.uniform(0.02, 0.05)
        table.flags.writeable = False
        tables[band] = table
    return tables
