"""Places and occluders: repeatable, natural in colour, of the right levels in each band."""

import cv2
import numpy as np
import pytest

from mdfpipe.domains import Band
from mdfpipe.synth.background import background, occluder

BANDS = (Band.VIS, Band.SWIR, Band.MWIR, Band.LWIR)


@pytest.mark.parametrize("band", BANDS)
def test_same_seed_same_place(band):
    size = (288, 512)
    first, second, other = (background(band, size, np.random.default_rng(k)) for k in (4, 4, 5))
    assert first.shape == (*size, 3 if band is Band.VIS else 1)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("band", BANDS)
def test_sizes_that_fit_nothing(band):
    for size in ((61, 83), (90, 40), (120, 400)):
        for seed in range(6):
            picture = background(band, size, np.random.default_rng(seed))
            assert picture.shape[:2] == size
            assert np.isfinite(picture).all()


def test_places_differ_and_have_structure():
    pictures = [background(Band.VIS, (180, 320), np.random.default_rng([0, k])) for k in range(20)]
    means = np.array([cv2.resize(p, (4, 4), interpolation=cv2.INTER_AREA).ravel() for p in pictures])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)[np.triu_indices(20, 1)]
    assert distances.min() > 0.1
    assert np.median(distances) > 0.4
    assert all(p.std() > 0.04 for p in pictures)


def test_colours_are_natural():
    saturation = []
    for seed in range(20):
        picture = background(Band.VIS, (180, 320), np.random.default_rng([1, seed]))
        saturation.append(float(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)[..., 1].mean()))
    assert np.mean(saturation) < 0.25
    assert max(saturation) < 0.5


@pytest.mark.parametrize("band", [Band.MWIR, Band.LWIR])
def test_little_is_as_hot_as_skin(band):
    shares = [
        float(np.mean(background(band, (144, 256), np.random.default_rng([2, seed])) > 0.6)) for seed in range(20)
    ]
    assert np.mean(shares) < 0.03
    assert max(shares) > 0  # but something is


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("kind", ["post", "wall"])
def test_occluders(band, kind):
    for size in ((200, 9), (37, 300), (4, 2), (120, 20)):
        for seed in range(6):
            first, second = (occluder(band, kind, size, np.random.default_rng(seed)) for _ in range(2))
            assert first.shape == (*size, 3 if band is Band.VIS else 1)
            assert first.dtype == np.float32
            assert 0 <= first.min() <= first.max() <= 1
            assert first.tobytes() == second.tobytes()
