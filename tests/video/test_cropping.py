"""Cutting: sizes, padding, anti-aliasing, exact 16-bit values, one encoding."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mdfpipe.errors import DataError
from mdfpipe.store.images import EIGHT_BITS, decode, encode, resize
from mdfpipe.video.cropping import cut, pixel_box, quality, square_box


def ramp(height: int, width: int, dtype: type, channels: int) -> np.ndarray:
    top = 255 if dtype is np.uint8 else 65535
    values = np.linspace(0, top, height * width).reshape(height, width, 1)
    return np.repeat(values, channels, axis=2).astype(dtype)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint16, 1), (np.uint16, 3)])
@pytest.mark.parametrize(("height", "width"), [(384, 128), (20, 10), (800, 20), (20, 400), (1, 1), (500, 300)])
def test_resize_keeps_type_and_channels(dtype: type, channels: int, height: int, width: int) -> None:
    image = ramp(height, width, dtype, channels)
    small = resize(image, 128, 384)
    assert small.shape == (384, 128, channels)
    assert small.dtype == dtype
    assert abs(float(small.mean()) - float(image.mean())) < 0.02 * float(np.iinfo(dtype).max)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_do_not_depend_on_the_processor(dtype: type) -> None:
    """IPP's cubic interpolation differs between processors with AVX2 and with AVX-512; OpenCV's own does not."""
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (150, 50, 3)).astype(dtype)
    before, found = cv2.ipp.useIPP(), []
    try:
        for switch in (True, False):
            cv2.ipp.setUseIPP(switch)
            found.append(resize(image, 128, 384))
            assert cv2.ipp.useIPP() == (switch and before)
    finally:
        cv2.ipp.setUseIPP(before)
    assert (found[0] == found[1]).all()


def test_shrinking_averages_and_does_not_alias() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: sampling would give black or white
    small = resize(stripes, 100, 100)
    assert np.all(np.abs(small.astype(int) - 128) <= 1)
    mixed = resize(stripes, 100, 800)  # narrower and taller
    assert np.all(np.abs(mixed.astype(int) - 128) <= 1)


def test_shrinking_by_a_whole_factor_is_the_mean_of_the_block() -> None:
    image = np.random.default_rng(0).integers(0, 65536, (8, 12, 1)).astype(np.uint16)
    expected = image.reshape(4, 2, 6, 2).mean(axis=(1, 3))
    assert np.all(np.abs(resize(image, 6, 4)[..., 0] - expected) <= 1)


def test_a_face_at_the_edge_is_padded_with_the_edge() -> None:
    image = ramp(10, 10, np.uint8, 3)
    box = square_box(np.float32([-3, -1, 3, 3]), 0.0)
    assert box == (-3, -2, 3, 4)
    square = cut(image, box)
    assert square.shape == (6, 6, 3)
    assert np.array_equal(square[2:, 3:], image[:4, :3])
    assert np.array_equal(square[0], square[2])
    assert np.array_equal(square[:, 0], square[:, 3])


def test_boxes_out_of_the_frame_have_no_pixels() -> None:
    for box in ([-9, 0, -1, 5], [10, 0, 12, 5], [3, 3, 3, 5]):
        assert pixel_box(np.float32(box), 10, 10) is None
    assert pixel_box(np.float32([3.2, 3.9, 3.4, 4.1]), 10, 10) == (3, 3, 4, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_stored_exactly(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 65536, (40, 30, channels)).astype(np.uint16)
    data, codec = encode(image)
    assert codec == "png"
    assert np.array_equal(decode(data, "here"), image)


def test_8_bits_are_jpeg_without_chroma_subsampling() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :, 0] = 200
    image[::2, :, 2] = 220  # colour changes with every row: 4:2:0 would smear it
    data, codec = encode(image)
    assert codec == "jpeg"
    assert np.abs(decode(data, "here").astype(int) - image).mean() < 12
    frame = data.index(b"\xff\xc0")  # start of frame: after 10 bytes, each component's sampling factors
    assert {data[frame + 11], data[frame + 14], data[frame + 17]} == {0x11}
    assert encode(image)[0] == data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it has no bytes"),
        (b"not an image", "expected an image of 8 or 16 bits, found 12 bytes that do not decode"),
        (b"\xff\xd8\xff", "a JPEG without an end in 3 bytes"),
    ],
)
def test_a_damaged_crop_is_named(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=f"^V/000001/00: {said}"):
        decode(data, "V/000001/00")


def test_quality_orders_blurred_below_sharp_and_bands_compare() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 32, 3)).astype(np.uint8)
    flat = np.full((96, 32, 3), 90, np.uint8)
    blurred = resize(resize(noise, 8, 24), 32, 96)
    assert quality(noise, EIGHT_BITS)[0] > quality(blurred, EIGHT_BITS)[0] > quality(flat, EIGHT_BITS)[0] == 0.0
    deep = (noise[..., :1].astype(np.uint16) * 4 + 7000).astype(np.uint16)
    grey = noise[..., :1].repeat(3, axis=2)
    assert quality(deep, (7000, 7000 + 255 * 4)) == pytest.approx(quality(grey, EIGHT_BITS), rel=1e-3)
