"""Normalise: exact percentiles over the video, and 8-bit RGB out of every kind of frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.store.images import stretching
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.frames import Frames
from mdfpipe.video.normalise import Normalise, histogram_percentile
from mdfpipe.video.spans import Cuts
from tests import clips


def batch(pixels, start=0):
    index = np.arange(start, start + len(pixels), dtype=np.int64)
    return Frames(pixels, index, index / 10)


def grey(values):
    return np.array(values, np.uint16).reshape(1, 1, -1, 1)


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=60), st.floats(0, 100))
def test_percentile_is_numpys(values, percentile):
    counts = np.bincount(values, minlength=1 << 16)
    assert histogram_percentile(counts, percentile) == pytest.approx(np.percentile(values, percentile), abs=1e-6)


def test_window_over_the_whole_video(tmp_path):
    path = clips.write_video(tmp_path / "a.mkv", 12, codec="ffv1", pixel_format="gray16le")
    every = np.stack([clips.grey16(n) for n in range(12)])
    normalise = Normalise()
    low, high = normalise.window(Decoder.variant("auto")().frames(path, batch=5))
    assert (low, high) == pytest.approx(tuple(np.percentile(every, [0.5, 99.5])))
    out = normalise.apply(every[..., None], low, high)
    assert (out.dtype, out.shape) == (np.uint8, (12, clips.HEIGHT, clips.WIDTH, 3))
    assert out.min() == 0
    assert out.max() == 255
    assert np.array_equal(out[..., 0], out[..., 2])


def test_eight_bits_pass_unchanged():
    pixels = np.stack([clips.picture(0), clips.picture(1)])
    for policy in ("native8", "video_percentile", "frame_percentile"):
        normalise = Normalise(policy=policy)
        assert normalise.window([batch(pixels)], bit_depth=8) == (0, 255)
        assert np.array_equal(normalise.apply(pixels, 0, 255), pixels)
    assert Normalise().window([batch(pixels)]) == (0, 255)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_native8_takes_the_top_bits(bits):
    top = (1 << bits) - 1
    normalise = Normalise(policy="native8")
    low, high = normalise.window((), bit_depth=bits)
    assert (low, high) == (0, top)
    values = [0, 1 << (bits - 8), top // 2, top]
    assert normalise.apply(grey(values), low, high)[0, 0, :, 0].tolist() == [0, 1, 127, 255]


def test_fixed_range():
    normalise = Normalise(policy="fixed_range", low=100, high=355)
    assert normalise.window(()) == (100, 355)
    assert normalise.apply(grey([0, 100, 228, 355, 9999]), 100, 355)[0, 0, :, 1].tolist() == [0, 0, 128, 255, 255]


def test_frame_percentile_is_each_frames_own():
    pixels = np.concatenate([grey(range(1000, 1200)), grey(range(5000, 5400, 2))])
    normalise = Normalise(policy="frame_percentile", low_percentile=0, high_percentile=100)
    assert normalise.window([batch(pixels[:1]), batch(pixels[1:], 1)]) == (1000, 5398)
    out = normalise.apply(pixels, 0, 0)
    assert np.array_equal(out[0], out[1])
    assert (out.min(), out.max()) == (0, 255)


@pytest.mark.parametrize("policy", ["video_percentile", "frame_percentile"])
def test_flat_frames(policy):
    pixels = np.full((2, 4, 4, 1), 7000, np.uint16)
    normalise = Normalise(policy=policy)
    low, high = normalise.window([batch(pixels)])
    assert low == high == 7000
    assert not normalise.apply(pixels, low, high).any()


def test_no_frames():
    assert Normalise().window(()) == (0, 0)
    assert Normalise(clahe=True).apply(np.zeros((0, 4, 4, 1), np.uint16), 0, 1).shape == (0, 4, 4, 3)


def test_deep_colour_keeps_its_channels():
    pixels = np.random.default_rng(0).integers(0, 65536, (2, 8, 8, 3)).astype(np.uint16)
    out = Normalise().apply(pixels, 0, 65535)
    assert np.abs(out.astype(int) - pixels / 257).max() <= 0.5


def test_clahe():
    pixels = np.stack([clips.picture(0), np.repeat(clips.grey8(0)[..., None], 3, axis=2)])
    out = Normalise(clahe=True).apply(pixels, 0, 255)
    assert out.shape == pixels.shape
    assert not np.array_equal(out[0], pixels[0])
    assert np.array_equal(out[1][..., 0], out[1][..., 1]), "grey stays grey"
    assert np.array_equal(out, Normalise(clahe=True).apply(pixels, 0, 255))


def test_stretching_never_falls():
    for low, high in ((0, 65535), (6743.5, 7077.25), (5, 5), (9, 3)):
        assert (np.diff(stretching(low, high).astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"policy": "fixed_range"}, "needs low and high"),
        ({"policy": "fixed_range", "low": 9, "high": 9}, "expected low below high"),
        ({"low": 1, "high": 2}, "belong to policy fixed_range"),
        ({"low_percentile": 99.5, "high_percentile": 0.5}, "expected low_percentile below"),
        ({"policy": "minmax"}, "policy"),
        ({"high_percentile": 101}, "high_percentile"),
    ],
)
def test_settings_that_are_refused(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        validate(Normalise, settings, "normalise")


@pytest.mark.parametrize(
    ("entries", "frames", "settings", "chosen"),
    [
        (range(900), 900, {}, [int((n + 0.5) * 900 / 64) for n in range(64)]),  # each picture is a key picture
        (range(0, 960, 30), 960, {}, [*range(0, 960, 30)]),  # 32 of them: as many as there are
        (range(0, 930, 30), 930, {}, []),  # fewer: from all frames
        (range(64), 64, {}, []),  # not longer than the sample
        (range(900), 900, {"sampled_frames": 4}, [112, 337, 562, 787]),  # as few as a study asks for
        (range(900), 900, {"sampled_frames": None}, []),
        (range(900), 900, {"policy": "native8"}, []),
    ],
)
def test_frames_are_sampled_evenly_where_a_video_can_be_entered_often_enough(entries, frames, settings, chosen):
    assert Normalise.model_validate(settings).chosen(Cuts(frames, np.array(entries))) == chosen


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_black_and_white_of_a_sample_are_those_of_all_frames_within_a_hundredth(drift):
    """A scene with something hot in a twentieth of its frames, and a sensor that drifts by a share of the range."""
    generator = np.random.default_rng(0)
    pixels = generator.normal(7000, 100, (600, 24, 32, 1)) + np.linspace(0, drift * 500, 600)[:, None, None, None]
    pixels[200:230, 4:9, 4:9] += 800
    clip = pixels.astype(np.uint16)
    normalise = Normalise()
    exact = normalise.window([batch(clip)])
    sampled = normalise.window([batch(clip[normalise.chosen(Cuts(600, np.arange(600)))])])
    assert np.abs(np.subtract(sampled, exact)).max() <= 0.01 * (exact[1] - exact[0])
