"""From materials to sensor counts: what each band's chain keeps, loses and repeats."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest

from mdfpipe.domains import Band
from mdfpipe.synth.background import background
from mdfpipe.synth.bands import SUPERSAMPLING, Optics, agc_window, paint, sense, to_8bit, to_16bit

BANDS = (Band.VIS, Band.SWIR, Band.MWIR, Band.LWIR)
CODES = 18
SKIN, CLOTH, LEGS = 1, 3, 6


@dataclass(frozen=True, eq=False)
class Figure:
    """A head, a trunk and two legs, with the fields that `paint` reads."""

    material: np.ndarray
    rounding: np.ndarray
    texture: np.ndarray


@dataclass(frozen=True, eq=False)
class Subject:
    values: dict
    texture_amplitude: dict


def figure(height=200, odd=False):
    rows, columns = int(SUPERSAMPLING * height * 1.05), int(SUPERSAMPLING * height * 0.4)
    material = np.zeros((rows, columns), np.uint8)
    middle = columns // 2
    cv2.rectangle(material, (middle - rows // 9, rows // 6), (middle + rows // 9, rows // 2), CLOTH, -1)
    for side in (-1, 1):
        x = middle + side * rows // 16
        cv2.rectangle(material, (x - rows // 24, rows // 2), (x + rows // 24, rows * 19 // 20), LEGS, -1)
    cv2.ellipse(material, (middle, rows // 10), (rows // 20, rows // 14), 0, 0, 360, SKIN, -1)
    if odd:
        material = material[:-1, :-1]
    distance = cv2.distanceTransform((material > 0).astype(np.uint8), cv2.DIST_L2, 3)
    rounding = np.sqrt(np.clip(distance / (rows * 0.04), 0, 1)).astype(np.float32)
    texture = np.random.default_rng(0).uniform(-1, 1, material.shape).astype(np.float32) * (material > 0)
    return Figure(material, rounding, texture.astype(np.float32))


def subject():
    values, amplitude = {}, {}
    for band in BANDS:
        table = np.full((CODES, 3 if band is Band.VIS else 1), 0.5, np.float32)
        if band is Band.VIS:
            table[[SKIN, CLOTH, LEGS]] = (0.8, 0.6, 0.5), (0.2, 0.3, 0.6), (0.5, 0.45, 0.3)
        else:
            table[[SKIN, CLOTH, LEGS], 0] = (0.93, 0.6, 0.4) if band.is_thermal else (0.3, 0.7, 0.4)
        values[band], amplitude[band] = table, np.full(CODES, 0.05, np.float32)
    return Subject(values, amplitude)


def scene(band, seed=3, size=(360, 640)):
    """A background with the stand-in in its middle, and the optics of the clip."""
    generator = np.random.default_rng(seed)
    optics, picture = Optics.draw(band, generator), background(band, size, generator)
    pixels, alpha = paint(figure(), subject(), optics)
    y, x = size[0] - alpha.shape[0] - 10, (size[1] - alpha.shape[1]) // 2
    part = picture[y : y + alpha.shape[0], x : x + alpha.shape[1]]
    part += alpha[..., None] * (pixels - part)
    return picture, optics, (x, y)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("odd", [False, True])
def test_paint_gives_frame_pixels(band, odd):
    optics = Optics.draw(band, np.random.default_rng(0))
    drawn = figure(120, odd)
    pixels, alpha = paint(drawn, subject(), optics)
    assert pixels.shape == (*alpha.shape, 3 if band is Band.VIS else 1)
    assert alpha.shape == tuple(-(-n // SUPERSAMPLING) for n in drawn.material.shape)
    assert pixels.dtype == alpha.dtype == np.float32
    assert 0 <= pixels.min() <= pixels.max() <= 1
    assert alpha.min() == 0
    assert alpha.max() == pytest.approx(1)
    assert np.count_nonzero(alpha) < 0.8 * alpha.size


def test_alpha_is_not_multiplied_in():
    """A pixel half covered keeps the material's level: compositing multiplies it by alpha, once."""
    drawn = figure(120)
    flat = Figure(drawn.material, np.ones_like(drawn.rounding), np.zeros_like(drawn.texture))
    pixels, alpha = paint(flat, subject(), Optics(Band.LWIR))
    legs = alpha[alpha.shape[0] * 3 // 4] > 0
    assert pixels[alpha.shape[0] * 3 // 4, legs, 0] == pytest.approx(0.4, abs=1e-5)


def test_side_light_comes_from_its_side():
    drawn, cast = figure(), subject()
    row = int(0.35 * drawn.material.shape[0] / SUPERSAMPLING)
    for light in (-1.0, 1.0):
        pixels, alpha = paint(drawn, cast, Optics(Band.SWIR, light=light, light_strength=0.35))
        trunk = pixels[row - 10 : row + 10, :, 0].mean(axis=0)[alpha[row] > 0.99]
        left, right = trunk[1:8].mean(), trunk[-8:-1].mean()
        assert (right - left) * light > 0.02


def test_emitted_bands_have_no_side_light():
    lit = [paint(figure(), subject(), Optics(Band.MWIR, light=light, light_strength=0.4))[0] for light in (-1.0, 1.0)]
    assert np.array_equal(*lit)


@pytest.mark.parametrize("band", BANDS)
def test_sense_repeats_itself(band):
    picture, optics, _ = scene(band)
    again, same, _ = scene(band)
    assert optics == same
    assert np.array_equal(picture, again)
    before = picture.copy()
    first, second, other = (sense(picture, optics, np.random.default_rng([1, k])) for k in (0, 0, 1))
    assert np.array_equal(picture, before)  # a scene can be sensed again
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


def test_sense_shapes():
    for band, size, expected in (
        (Band.VIS, (90, 160), (90, 160, 3)),
        (Band.SWIR, (90, 160), (90, 160)),
        (Band.MWIR, (288, 512), (144, 256)),
        (Band.LWIR, (145, 257), (round(145 / 2), round(257 / 2))),
    ):
        generator = np.random.default_rng(2)
        for _ in range(3):  # whatever the optics' own shrink
            optics = Optics.draw(band, generator)
            picture = generator.random((*size, 3 if band is Band.VIS else 1), dtype=np.float32)
            seen = sense(picture, optics, generator)
            assert seen.shape == expected
            assert seen.dtype == (np.uint8 if band is Band.VIS else np.float32)
            assert seen.min() >= 0
            assert band is Band.VIS or seen.max() <= 1


@pytest.mark.parametrize("band", [Band.MWIR, Band.LWIR])
def test_skin_is_hotter_than_the_background(band):
    differences = []
    for seed in range(6):
        picture, optics, (x, y) = scene(band, seed, (288, 512))
        seen = sense(picture, optics, np.random.default_rng(seed))
        _, alpha = paint(figure(), subject(), optics)
        face = (y + alpha.shape[0] // 10, x + alpha.shape[1] // 2)
        skin = seen[face[0] // 2 - 3 : face[0] // 2 + 3, face[1] // 2 - 3 : face[1] // 2 + 3].mean()
        cloth = seen[(y + alpha.shape[0] // 3) // 2, face[1] // 2 - 6 : face[1] // 2 + 6].mean()
        surroundings = np.concatenate([seen[:, : x // 2], seen[:, (x + alpha.shape[1]) // 2 :]], axis=1)
        assert cloth < skin
        assert np.percentile(surroundings, 95) < skin
        differences.append(skin - np.median(surroundings))
    assert np.mean(differences) > 0.25


def test_thermal_loses_the_fine_pattern_that_swir_keeps():
    stripes = np.broadcast_to(np.where(np.arange(512) // 2 % 2, 0.7, 0.3), (288, 512))[..., None].astype(np.float32)
    quiet = {"noise": 0.0, "column_noise": 0.0, "offset": 0.0, "gain": 1.0}
    generator = np.random.default_rng(0)
    spread = {
        band: float(sense(stripes, replace(Optics.draw(band, generator), **quiet), generator)[20:-20, 20:-20].std())
        for band in (Band.SWIR, Band.LWIR)
    }
    assert spread[Band.LWIR] < 0.4 * spread[Band.SWIR]


def test_column_noise_is_fixed_and_the_rest_is_not():
    flat, optics = (
        np.full((288, 512, 1), 0.4, np.float32),
        Optics(Band.MWIR, noise=0.02, column_noise=0.03, column_seed=5),
    )
    first, second = (sense(flat, optics, np.random.default_rng(k)) for k in (0, 1))
    columns = first.mean(axis=0) - first.mean(), second.mean(axis=0) - second.mean()
    assert np.corrcoef(*columns)[0, 1] > 0.9
    noise = [(grey - grey.mean(axis=0)).ravel() for grey in (first, second)]
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.03


def test_haze_lowers_contrast_and_blur_loses_detail():
    picture, optics, _ = scene(Band.VIS)
    clear = replace(optics, haze=0.0, noise=0.0, wobble_px=0.0, blur_px=0.4)

    def seen(**changes):
        return sense(picture, replace(clear, **changes), np.random.default_rng(0)).astype(float)

    assert seen(haze=0.35).std() < 0.8 * seen().std()
    assert np.abs(np.diff(seen(blur_px=1.5), axis=1)).mean() < 0.8 * np.abs(np.diff(seen(), axis=1)).mean()


def test_turbulence_moves_without_tearing():
    """Straight edges wander by about a pixel; the picture stays the same one."""
    edge = np.zeros((200, 200, 3), np.float32)
    edge[:, 100:] = 1
    optics = Optics(Band.VIS, wobble_px=1.0)
    seen = sense(edge, optics, np.random.default_rng(0))[..., 0] / 255
    place = 200 - seen.sum(axis=1)
    assert 0.3 < place.std() < 2
    assert np.abs(np.diff(place)).max() < 0.6


def test_optics_stay_in_their_ranges():
    generator = np.random.default_rng(0)
    for band in BANDS:
        for optics in (Optics.draw(band, generator) for _ in range(50)):
            assert optics.band is band
            assert 0.75 <= optics.gain <= 1.2
            assert abs(optics.offset) <= 0.1
            assert 0 <= optics.haze <= (0.35 if band is Band.VIS else 0)
            assert 0.4 <= optics.blur_px <= 1.5
            if band.is_thermal:
                assert 0.6 <= optics.blur_px <= 1.0
                assert 1.7 <= optics.shrink <= 2.3


def test_counts_are_monotone_and_invertible():
    levels = np.linspace(0, 1, 9001, dtype=np.float32)[None]
    counts = to_16bit(levels)
    assert counts.dtype == np.uint16
    assert (np.diff(counts[0].astype(int)) >= 0).all()
    assert np.abs((counts.astype(float) - 6000) / 3500 - levels).max() <= 0.5 / 3500 + 1e-6


def test_gain_control_fills_the_8_bits_and_stays_put():
    picture, optics, _ = scene(Band.LWIR)
    grey = sense(picture, optics, np.random.default_rng(0))
    low, high = agc_window(grey)
    assert 0 <= low < high <= 1
    stretched = to_8bit(grey, replace(optics, window=(low, high)))
    assert stretched.dtype == np.uint8
    assert stretched.min() == 0
    assert stretched.max() == 255
    assert np.mean((stretched > 0) & (stretched < 255)) > 0.98
    plain = to_8bit(grey, optics)
    assert np.abs(plain - 255 * grey).max() <= 0.5 + 1e-4
    assert np.array_equal(plain, to_8bit(grey, replace(optics, window=(low, high), agc=False)))
    flat = agc_window(np.full((4, 4), 0.5, np.float32))
    assert flat == pytest.approx((0.475, 0.525))
