"""Who is drawn: the same person for the same name, and what each band sees of the materials."""

import dataclasses

import numpy as np
import pytest

from mdfpipe.domains import Band
from mdfpipe.synth.people import ADJACENT, LEAST_COLOUR_DIFFERENCE, LEAST_DIFFERENCE, Material, draw_subject

BANDS = (Band.VIS, Band.SWIR, Band.MWIR, Band.LWIR)
SKIN_LIKE = [Material.EYES, Material.BROW, Material.LIPS]
ROUNDING_ERROR = 1e-5


@pytest.fixture(scope="module")
def subjects():
    return [draw_subject(0, str(number)) for number in range(200)]


def fields(subject):
    return {f.name: getattr(subject, f.name) for f in dataclasses.fields(subject)}


def test_same_name_same_subject():
    first, again = draw_subject(3, "10001"), draw_subject(3, "10001")
    for name, value in fields(first).items():
        if name in ("values", "texture_amplitude"):
            other = getattr(again, name)
            assert {b: v.tobytes() for b, v in value.items()} == {b: v.tobytes() for b, v in other.items()}
        else:
            assert value == getattr(again, name)


@pytest.mark.parametrize("other", [(3, "10002"), (4, "10001")])
def test_another_name_or_seed_another_subject(other):
    first, second = draw_subject(3, "10001"), draw_subject(*other)
    assert first.leg != second.leg
    assert first.face != second.face
    assert first.cloth_seed != second.cloth_seed
    assert not np.array_equal(first.values[Band.MWIR], second.values[Band.MWIR])


def test_tables_have_the_shapes_and_ranges_of_their_bands(subjects):
    for subject in subjects:
        for band in BANDS:
            values, amplitude = subject.values[band], subject.texture_amplitude[band]
            assert values.shape == (len(Material), 3 if band is Band.VIS else 1)
            assert values.dtype == amplitude.dtype == np.float32
            assert values.min() >= 0
            assert values.max() <= 1
            assert amplitude.shape == (len(Material),)
            assert amplitude.min() >= 0
            assert amplitude.max() <= (0.02 if band.is_thermal else 0.12) + ROUNDING_ERROR


def test_materials_that_touch_differ(subjects):
    for subject in subjects:
        for one, other in ADJACENT:
            colour = subject.values[Band.VIS]
            assert np.abs(colour[one] - colour[other]).max() > LEAST_COLOUR_DIFFERENCE
            for band in (Band.SWIR, Band.MWIR):
                level = subject.values[band][:, 0]
                assert abs(level[one] - level[other]) >= LEAST_DIFFERENCE - ROUNDING_ERROR


def test_heat_agrees_between_its_bands_and_not_with_colour(subjects):
    cloth = [Material.UPPER_A, Material.UPPER_B, Material.LOWER_A, Material.LOWER_B, Material.BAG, Material.STRAP]
    heat, long = (np.array([s.values[b][cloth, 0] for s in subjects]) for b in (Band.MWIR, Band.LWIR))
    grey = np.array([s.values[Band.VIS][cloth].mean(axis=1) for s in subjects])
    short = np.array([s.values[Band.SWIR][cloth, 0] for s in subjects])
    for column in range(len(cloth)):
        assert np.corrcoef(heat[:, column], long[:, column])[0, 1] > 0.9
        # 200 independent pairs: a standard error of .07.
        assert abs(np.corrcoef(heat[:, column], grey[:, column])[0, 1]) < 0.25
    assert 0.3 < np.corrcoef(short.ravel(), grey.ravel())[0, 1] < 0.98


def test_a_face_shows_in_light_and_hardly_as_heat(subjects):
    for subject in subjects:
        colour = subject.values[Band.VIS]
        short = subject.values[Band.SWIR][:, 0]
        for material in (*SKIN_LIKE, Material.BEARD, Material.GLASSES):
            assert np.abs(colour[material] - colour[Material.SKIN]).max() > 0.1, material.name
            assert abs(short[material] - short[Material.SKIN]) > 0.1, material.name
        for band in (Band.MWIR, Band.LWIR):
            level = subject.values[band][:, 0]
            assert np.abs(level[SKIN_LIKE] - level[Material.SKIN]).max() <= 0.04
            assert 0 < level[Material.SKIN] - level[Material.BEARD] < 0.1
            assert 0 < level[Material.SKIN] - level[Material.GLASSES] < 0.15


def test_faces_differ(subjects):
    faces = np.array([[v for v in dataclasses.astuple(s.face) if isinstance(v, float)] for s in subjects])
    spread = faces.std(axis=0)
    assert (spread > 0).all()
    distance = np.abs((faces[:, None] - faces[None]) / spread).mean(axis=-1)
    assert distance[~np.eye(len(faces), dtype=bool)].min() > 0.3
