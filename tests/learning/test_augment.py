"""Augmentation: by hand on tiny pictures, shares of the erased area, tone curves, and what a generator decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from mdfpipe.learning.data.augment import Augment, generator_of
from mdfpipe.learning.data.batches import AUXILIARY

OFF: dict[str, Any] = {"flip": 0, "pad_px": 0, "erasing": 0}
Image = NDArray[np.uint8]


def noise(height: int = 48, width: int = 16, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int = 96, width: int = 32) -> Image:
    """Different in every channel, without high frequencies."""
    y, x = np.mgrid[:height, :width]
    planes = [128 + 100 * np.sin(y / 17 + c) * np.cos(x / 13 - c) for c in range(3)]
    return np.rint(np.stack(planes, axis=2)).astype(np.uint8)


def grey_levels(made: NDArray[np.float32]) -> NDArray[np.float64]:
    """(h, w, 3) in 0..255 of what `half` gives."""
    return (made.astype(np.float64).transpose(1, 2, 0) + 1) * 127.5


def test_off_is_plain() -> None:
    image, augment = noise(), Augment(**OFF)
    np.testing.assert_array_equal(augment.training(image, generator_of(0, 0, "a")), augment.plain(image))


def test_the_defaults_are_those_of_pass() -> None:
    a = Augment()
    assert (a.flip, a.pad_px, a.erasing, a.normalise, a.colour) == (0.5, 10, 0.5, "half", "rgb")
    others = a.model_dump(exclude={"flip", "pad_px", "erasing", "normalise", "colour"})
    assert {value for name, value in others.items() if name.startswith("further_")} == {None}
    assert not any(others.values())
    with pytest.raises(ValidationError):
        Augment(flip=1.5)
    with pytest.raises(ValidationError):
        Augment(hue=3)


def test_normalise_by_hand() -> None:
    image = np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8)
    half = Augment(normalise="half").plain(image)
    np.testing.assert_allclose(half[:, 0], [[-1, 1], [-0.6, -1], [1, -0.2]], atol=1e-6)
    imagenet = Augment(normalise="imagenet").plain(image)
    expected = [
        [-0.485 / 0.229, 0.515 / 0.229],
        [(0.2 - 0.456) / 0.224, -0.456 / 0.224],
        [0.594 / 0.225, -0.006 / 0.225],
    ]
    np.testing.assert_allclose(imagenet[:, 0], expected, atol=1e-6)
    standard = Augment(normalise="standardise").plain(image)
    values = image.astype(np.float64)  # mean 110.5 over all six
    np.testing.assert_allclose(standard[:, 0], ((values - 110.5) / values.std())[0].T, atol=1e-5)
    assert half.dtype == imagenet.dtype == standard.dtype == np.float32
    assert half.flags.c_contiguous


def test_bgr_is_rgb_turned_round() -> None:
    for normalise in ("half", "imagenet", "standardise"):
        rgb, bgr = (Augment(normalise=normalise, colour=colour).plain(noise()) for colour in ("rgb", "bgr"))
        np.testing.assert_array_equal(bgr, rgb[::-1])


def test_a_flat_crop_is_all_zero_when_standardised() -> None:
    for polarity in (0, 1):
        made = Augment(**OFF, normalise="standardise", polarity=polarity).training(
            np.full((8, 4, 3), 90, np.uint8), generator_of(0, 0, "a")
        )
        np.testing.assert_allclose(made, 0, atol=1e-4)


def test_it_writes_where_it_is_told() -> None:
    out = np.full((3, 48, 16), np.nan, np.float32)
    augment = Augment(polarity=0.5)
    assert augment.plain(noise(), out) is out
    np.testing.assert_array_equal(out, augment.plain(noise()))
    assert augment.training(noise(), generator_of(0, 0, "a"), out=out) is out
    np.testing.assert_array_equal(out, augment.training(noise(), generator_of(0, 0, "a")))


def test_flip_by_hand() -> None:
    image = np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3)  # pixels 1-3, 4-6; 7-9, 10-12
    made = Augment(**OFF | {"flip": 1}).training(image, generator_of(0, 0, "a"))
    np.testing.assert_allclose(grey_levels(made)[0], [[4, 5, 6], [1, 2, 3]], atol=1e-4)
    for width in (5, 8, 48):
        wide = noise(9, width)
        made = Augment(**OFF | {"flip": 1}).training(wide, generator_of(0, 0, "a"))
        np.testing.assert_array_equal(made, Augment().plain(np.ascontiguousarray(wide[:, ::-1])))


def test_about_half_are_flipped() -> None:
    augment, image = Augment(**OFF | {"flip": 0.5}), noise(4, 4)
    plain = augment.plain(image)
    flipped = sum(not np.array_equal(augment.training(image, generator_of(0, 0, str(n))), plain) for n in range(400))
    assert 160 < flipped < 240


@pytest.mark.parametrize(("height", "pad"), [(384, 10), (144, 4)])
def test_pad_and_crop_moves_by_whole_pixels_and_leaves_black(height: int, pad: int) -> None:
    image = np.maximum(noise(height, height // 3), 1)
    augment, found = Augment(**OFF | {"pad_px": 10}), set()
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    for n in range(30):
        made = np.rint(grey_levels(augment.training(image, generator_of(0, 0, str(n))))).astype(np.uint8)
        inside = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if np.array_equal(padded[y : y + height : 37, x : x + height // 3 : 7], made[::37, ::7])
        ]
        assert len(inside) == 1, "not a crop of the padded picture"
        y, x = inside[0]
        np.testing.assert_array_equal(padded[y : y + height, x : x + height // 3], made)
        found.add((y, x))
    assert max(max(f) for f in found) >= 2 * pad - 2
    assert min(min(f) for f in found) <= 2


def test_shift_stays_within_its_share_and_repeats_the_edge() -> None:
    ramp = np.repeat(np.linspace(50, 205, 32)[None, :], 96, axis=0)
    image = np.repeat(np.rint(ramp)[..., None], 3, axis=2).astype(np.uint8)
    moved = []
    for n in range(100):
        made = grey_levels(Augment(**OFF, shift_x=0.25).training(image, generator_of(0, 0, str(n))))
        assert made.min() >= 49.9, "a black border"
        assert np.abs(made - made[:1]).max() < 0.01  # not up or down
        moved.append((made[0, 16, 0] - image[0, 16, 0]) / -5)  # 5 grey levels a pixel
    assert max(np.abs(moved)) <= 8.2
    assert min(moved) < -6 < 6 < max(moved)


def test_scale_is_about_the_middle() -> None:
    y, x = np.mgrid[:97, :33]
    image = np.repeat((np.hypot((y - 48) / 3, x - 16) * 5)[..., None], 3, axis=2).astype(np.uint8)
    zooms = []
    for n in range(60):
        made = grey_levels(Augment(**OFF, scale=0.2).training(image, generator_of(0, 0, str(n))))
        np.testing.assert_allclose(made, made[:, ::-1], atol=1.01)
        np.testing.assert_allclose(made, made[::-1], atol=1.01)
        zooms.append(float(image[48, 26, 0]) / made[48, 26, 0])
    assert 0.78 < min(zooms) < 0.85
    assert 1.15 < max(zooms) < 1.25


def test_the_auxiliary_view_is_one_of_the_channels() -> None:
    image, seen = noise(), set()
    for n in range(40):
        made = Augment(**OFF).training(image, generator_of(0, 0, str(n)), view=AUXILIARY)
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(made[0], made[2])
        seen |= {c for c in range(3) if np.array_equal(np.rint(grey_levels(made)[..., 0]), image[..., c])}
    assert seen == {0, 1, 2}


def test_the_auxiliary_view_may_be_made_last() -> None:
    """CAJ: of the finished crop, whose channels were normalised apart and erased with noise of their own."""
    image, augment, seen = noise(), Augment(**OFF | {"normalise": "imagenet"}), set()
    for erasing in (0, 1):
        last = augment.model_copy(update={"auxiliary_last": True, "erasing": erasing})
        for n in range(30):
            made = last.training(image, generator_of(0, 0, str(n)), view=AUXILIARY)
            generator = generator_of(0, 0, str(n))
            channel = int(generator.integers(3))
            plain = last.training(image, generator)
            assert all(np.array_equal(made[c], plain[channel]) for c in range(3))
            seen.add(channel)
    assert seen == {0, 1, 2}
    first = augment.training(image, generator_of(0, 0, "a"), view=AUXILIARY)
    assert not np.allclose(first[0], first[1])  # equal before mean and spread, which differ between channels


def test_some_crops_are_not_cropped() -> None:
    """The border is drawn all the same, and the share that stays is the stated one: DI2L's order, each with 0.5."""
    image = noise(96, 32)
    always, half = (Augment(**OFF | {"pad_px": 40, "uncropped": share}) for share in (0, 0.5))
    plain = always.plain(image)
    moved = [not np.array_equal(half.training(image, generator_of(0, 0, str(n))), plain) for n in range(400)]
    assert 150 < sum(moved) < 240  # of a border of 10 pixels, one in 441 crops stays where it was
    assert all(
        np.array_equal(
            Augment(**OFF | {"pad_px": 40, "uncropped": 1}).training(image, generator_of(0, 0, str(n))), plain
        )
        for n in range(20)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_erasing_leaves_the_stated_share(seed: int) -> None:
    image = np.full((144, 48, 3), 77, np.uint8)
    most = (None, 0.1)[seed % 2]
    augment = Augment(**OFF | {"erasing": 1, "erased_up_to": most})
    made, plain = augment.training(image, generator_of(seed, 0, "a")), augment.plain(image)
    changed = (made != plain).all(axis=0)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert 0.018 <= changed.mean() <= (most or 0.4) + 0.01
    assert 0.25 <= len(rows) / len(columns) <= 3.7
    if changed.sum() > 500:
        erased = made[:, changed]
        assert abs(erased.mean()) < 0.2
        assert 0.85 < erased.std() < 1.15
        assert np.abs(np.corrcoef(erased)[0, 1:]).max() < 0.25


def test_low_resolution_is_like_the_crop_but_coarser() -> None:
    for n in range(20):
        made = grey_levels(Augment(**OFF, low_resolution=1).training(smooth(), generator_of(0, 0, str(n))))
        assert np.abs(made - smooth()).mean() < 12
        fine = grey_levels(Augment(**OFF, low_resolution=1).training(noise(96, 32), generator_of(0, 0, str(n))))
        assert fine.std() < 0.75 * noise(96, 32).std(), "still as fine as it was"


def test_jitter_is_what_the_three_steps_give() -> None:
    image = smooth() // 2 + 40  # nothing is cut off
    luma = np.array([0.299, 0.587, 0.114])
    for n in range(10):
        made = grey_levels(Augment(**OFF, jitter=1).training(image, generator_of(0, 0, str(n))))
        bright = image.astype(np.float64)
        chroma, chroma_made = bright - (bright @ luma)[..., None], made - (made @ luma)[..., None]
        colour = (chroma * chroma_made).sum() / (chroma**2).sum()  # brightness * contrast * saturation
        grey, grey_made = bright @ luma, made @ luma
        tone = np.polyfit(grey.ravel(), grey_made.ravel(), 1)  # brightness * contrast, brightness * (1-contrast) * mean
        brightness = tone[0] + tone[1] / grey.mean()
        contrast, saturation = tone[0] / brightness, colour / tone[0]
        for factor in (brightness, contrast, saturation):
            assert 0.58 < factor < 1.42
        np.testing.assert_allclose(made, np.clip(np.polyval(tone, grey)[..., None] + colour * chroma, 0, 255), atol=1.5)


def test_grey_is_luma_and_further_manifests_have_their_own_odds() -> None:
    image = smooth()
    augment = Augment(**OFF, grey=0, further_grey=1)
    np.testing.assert_array_equal(augment.training(image, generator_of(0, 0, "a"), source=0), augment.plain(image))
    made = grey_levels(augment.training(image, generator_of(0, 0, "a"), source=1))
    np.testing.assert_allclose(made, np.repeat((image @ [0.299, 0.587, 0.114])[..., None], 3, axis=2), atol=1)
    alike = Augment(**OFF, grey=1)
    assert np.array_equal(*(alike.training(image, generator_of(0, 0, "a"), source=s) for s in (0, 1)))


def test_polarity_is_one_channel_of_mean_zero_and_either_sign() -> None:
    image = np.repeat(smooth()[..., :1], 3, axis=2)  # grey: any mix is the picture, or its negative
    augment, signs, turned = Augment(**OFF, polarity=1, normalise="standardise"), [], 0
    for n in range(200):
        made = augment.training(image, generator_of(0, 0, str(n)))
        assert np.array_equal(made[0], made[1])
        assert np.array_equal(made[0], made[2])
        assert abs(float(made.mean())) < 1e-3
        assert abs(float(made.std()) - 1) < 1e-3
        order = made[0].ravel()[np.argsort(image[..., 0].ravel(), kind="stable")]
        steps = np.diff(order)
        rising, falling = steps[steps > 0].sum(), -steps[steps < 0].sum()
        turned += min(rising, falling) > 0.05 * max(rising, falling)
        signs.append(rising > falling)
    assert 60 < sum(signs) < 140
    assert 10 < turned < 110, "half have a wave, and some of these turn the tone curve"


def test_polarity_mixes_channels_and_stays_within_black_and_white() -> None:
    augment = Augment(**OFF, polarity=0, further_polarity=1)
    np.testing.assert_array_equal(augment.training(smooth(), generator_of(0, 0, "a")), augment.plain(smooth()))
    made = [augment.training(smooth(), generator_of(0, 0, str(n)), source=1) for n in range(30)]
    assert min(m.min() for m in made) >= -1
    assert max(m.max() for m in made) <= 1
    flat = np.stack([m[0].ravel() for m in made])
    assert np.linalg.matrix_rank(flat - flat.mean(axis=1, keepdims=True), tol=1.0) > 2


FULL = Augment(shift_x=0.12, shift_y=0.06, scale=0.1, low_resolution=0.5, jitter=0.5, grey=0.3, polarity=0.5)


def test_the_same_generator_gives_the_same_crop_and_the_image_stays() -> None:
    image = noise(144, 48)
    before, results = image.copy(), []
    for name in (("a", 0), ("a", 0), ("a", 1), ("b", 0)):
        results.append(FULL.training(image, generator_of(7, 3, *name)))
        np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[3])


def test_generators_differ_in_everything_that_names_them() -> None:
    names = [
        (0, 0, "a"),
        (1, 0, "a"),
        (0, 1, "a"),
        (0, 0, "b"),
        (0, 0, "a", 1),
        (0, 0, "a", 0, 1),
        (0, 0, "0/a"),
        (10, 0, "a"),
    ]
    drawn = {generator_of(*name).integers(2**63) for name in names}
    assert len(drawn) == len(names)
    first = np.array([generator_of(0, 0, f"crop/{n}").random() for n in range(2000)])
    assert abs(first.mean() - 0.5) < 0.03
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.08


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1), st.sampled_from(["half", "imagenet", "standardise"]))
def test_any_size_gives_numbers(height: int, width: int, view: int, normalise: Any) -> None:
    settings_ = FULL.model_dump() | {"normalise": normalise, "pad_px": 300}
    made = Augment(**settings_).training(noise(height, width), generator_of(0, 0, "a"), view=view, source=1)
    assert made.shape == (3, height, width)
    assert np.isfinite(made).all()
