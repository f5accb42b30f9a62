"""Images as the frames of a video: folders of them and TIFFs of many pages, exact pixels, and broken ones."""

import numpy as np
import pytest

from mdfpipe.store.tiff import Tiff
from mdfpipe.video import image_files
from tests import clips
from tests.video.decoded import ASSETS, needs_assets, read

PAGES = 60


def test_images_deep_and_grey(tmp_path):
    grey = [clips.grey16(n) for n in range(3)]
    for path in (
        clips.write_images(tmp_path / "png", grey, "{}v.png", [1800, 1801, 1810]),
        clips.write_images(tmp_path / "tif", grey, "{}.tif", [9, 10, 11]),
        clips.write_tiff(tmp_path / "pages.tiff", grey),
    ):
        pixels, times, error = read("auto", path)
        assert error is None
        assert np.isnan(times).all()
        assert np.array_equal(np.stack(pixels), np.stack(grey)[..., None])
    colour = [np.stack([g, g + 1, g + 2], axis=2) for g in grey]
    assert np.array_equal(np.stack(read("images", clips.write_images(tmp_path / "c", colour))[0]), np.stack(colour))
    narrow = [clips.grey8(0)]
    assert read("images", clips.write_images(tmp_path / "g", narrow))[0][0].shape == (clips.HEIGHT, clips.WIDTH, 3)
    with_alpha = np.dstack([clips.picture(1), np.full((clips.HEIGHT, clips.WIDTH), 7, np.uint8)])
    folder = clips.write_images(tmp_path / "a", [with_alpha[..., [3, 0, 1, 2]]])  # written reversed: BGR and alpha
    assert np.array_equal(read("images", folder)[0][0], clips.picture(1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_image_cut_short(tmp_path, suffix):
    images = [clips.picture(n) for n in range(3)]
    folder = clips.write_images(tmp_path / "f", images, "{}." + suffix)
    clips.truncated(folder / f"1.{suffix}", folder / f"1.{suffix}", 0.6)
    pixels, _, error = read("images", folder)
    assert len(pixels) == 1
    assert f"1.{suffix}: frame 1 does not decode" in error


@pytest.fixture
def pages(tmp_path, monkeypatch):
    """A TIFF of many pages, and the offsets of the pages that are read."""
    path = clips.write_tiff(tmp_path / "pages.tiff", [clips.grey16(n) for n in range(PAGES)])
    read_page, places = image_files.read_page, []

    def spy(tiff, offset):
        places.append(offset)
        return read_page(tiff, offset)

    monkeypatch.setattr(image_files, "read_page", spy)
    return path, places


@pytest.mark.parametrize("stride", [1, 11, 100])
def test_only_pages_that_are_wanted_are_read(pages, stride):
    path, places = pages
    pixels, _, error = read("images", path, stride=stride)
    assert error is None
    assert len(pixels) == PAGES
    for number, image in enumerate(pixels):
        if number % stride:
            assert image is None
        else:
            assert np.array_equal(image[..., 0], clips.grey16(number))
    assert len(places) == len(range(0, PAGES, stride))


@pytest.mark.parametrize("bad", [0, 25, PAGES - 1])
def test_a_damaged_page_costs_no_page_before_it(pages, bad):
    path, _ = pages
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        at = list(Tiff.of(file).pages())[bad]
    entries = int.from_bytes(data[at : at + 2], "little")
    tags = {int.from_bytes(data[e : e + 2], "little"): e for e in range(at + 2, at + 2 + 12 * entries, 12)}
    data[tags[259] + 8] = 99  # compression: there is no such
    path.write_bytes(data)
    pixels, _, error = read("images", path)
    assert f"{path}: frame {bad} does not decode" in error
    assert len(pixels) == bad
    assert all(np.array_equal(image[..., 0], clips.grey16(n)) for n, image in enumerate(pixels))
    if bad == 25:
        pixels, _, error = read("images", path, stride=2)
        assert (len(pixels), error) == (PAGES, None), "a damaged page that is not wanted is no matter"


def test_image_with_a_flipped_bit(tmp_path):
    folder = clips.write_images(tmp_path / "f", [clips.picture(0), clips.picture(1)])
    clips.flipped(folder / "frame_1.png", folder / "frame_1.png", [0.7])
    assert "checksum" in read("images", folder)[2]


def test_images_that_change_midway(tmp_path):
    for other in (clips.picture(1, 32, 48), clips.grey16(1)):
        pixels, _, error = read("images", clips.write_images(tmp_path / "f", [clips.picture(0), other]))
        assert len(pixels) == 1
        assert "as in the first frame" in error


@needs_assets
def test_real_images():
    thermal = ASSETS / "thermal16" / "flirpy_example_radiometric.tiff"
    pixels, _, error = read("auto", thermal)
    assert (len(pixels), error) == (1, None)
    assert (pixels[0].shape, int(pixels[0].min()), int(pixels[0].max())) == ((512, 640, 1), 6743, 7077)
    for band in ("visual", "thermal"):
        pixels, _, error = read("auto", ASSETS / "tno-nato-camp" / band)
        assert (len(pixels), error) == (32, None)
        assert pixels[0].shape == (270, 360, 3)
