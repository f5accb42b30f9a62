"""The letterbox: what is drawn where, and boxes there and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdfpipe.video.letterbox import PAD, Letterbox, NetworkInputs, Pictures, fitting_input

sides = st.integers(8, 2200)
inputs = st.integers(1, 40).map(lambda n: 32 * n)


def to_input(box, xyxy):
    """Boxes from pixels of the frame to pixels of the input."""
    factors = [box.inner[1] / box.frame[1], box.inner[0] / box.frame[0]] * 2
    return (xyxy * factors + np.array([box.left, box.top] * 2)).astype(np.float32)


@given(sides, sides, inputs, inputs, st.booleans(), st.integers(0, 2**32 - 1))
def test_boxes_there_and_back(height, width, rows, columns, centred, seed):
    box = Letterbox.fit((height, width), (rows, columns), centred=centred)
    corner = np.random.default_rng(seed).uniform(-0.1, 1, (7, 4)) * [width, height, width, height]
    xyxy = corner.astype(np.float32)
    back = box.to_frame(to_input(box, xyxy))
    assert back.dtype == np.float32
    factor = min(box.inner[0] / height, box.inner[1] / width)
    np.testing.assert_allclose(back, xyxy, atol=2e-4 / min(factor, 1), rtol=1e-5)


@given(sides, sides, inputs, inputs, st.booleans())
def test_the_frame_lies_in_the_input_and_fills_one_axis(height, width, rows, columns, centred):
    box = Letterbox.fit((height, width), (rows, columns), centred=centred)
    assert box.inner[0] <= rows
    assert box.inner[1] <= columns
    assert box.inner[0] == rows or box.inner[1] == columns
    edges = to_input(box, np.array([[0, 0, width, height]], np.float32))[0]
    np.testing.assert_allclose(edges, [box.left, box.top, box.left + box.inner[1], box.top + box.inner[0]], rtol=1e-6)
    spare = rows - box.inner[0], columns - box.inner[1]
    assert (box.top, box.left) == ((spare[0] // 2, spare[1] // 2) if centred else (0, 0))


@given(sides, sides, st.integers(64, 1280))
def test_fitting_input_is_small_and_holds_the_frame(height, width, longest):
    rows, columns = fitting_input((height, width), longest)
    assert rows % 32 == columns % 32 == 0
    assert longest <= max(rows, columns) < longest + 32
    assert min(rows, columns) < min(height, width) * longest / max(height, width) + 33


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("size", [(54, 96), (64, 64), (96, 54), (40, 20)])
def test_a_batch_is_drawn_as_opencv_draws_each_frame(bgr, unit, dtype, size):
    pixels = np.random.default_rng(1).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    box = Letterbox.fit(size, (64, 64), centred=bgr)
    inputs = NetworkInputs(box, dtype, bgr=bgr, unit=unit)
    inputs.of(pixels[::-1], 3)
    got = inputs.of(pixels, 4)  # the same memory again, and one more
    assert got.shape == (4, 3, 64, 64)
    assert got.dtype == dtype
    height, width = box.inner
    for n in range(3):
        expected = np.full((64, 64, 3), PAD, np.uint8)
        small = cv2.resize(pixels[n], (width, height), interpolation=cv2.INTER_LINEAR)
        expected[box.top : box.top + height, box.left : box.left + width] = small
        values = (expected[..., ::-1] if bgr else expected).transpose(2, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(got[n], (values / np.float32(255) if unit else values).astype(dtype))
    np.testing.assert_array_equal(got[3], got[0])


def test_bytes_to_scale_on_the_device():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    box = Letterbox.fit((64, 96), (64, 96), centred=True)
    got = NetworkInputs(box, np.uint8, bgr=False, unit=False).of(pixels, 2)
    np.testing.assert_array_equal(got, pixels.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match="expected a floating type"):
        NetworkInputs(box, np.uint8, bgr=False, unit=True)


@pytest.mark.parametrize("size", [(54, 96), (64, 64), (96, 54), (40, 20)])
def test_pictures_hold_the_same_numbers(size):
    pixels = np.random.default_rng(1).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    box = Letterbox.fit(size, (64, 64), centred=True)
    pictures = Pictures(box)
    pictures.of(pixels[::-1], 3)
    got = pictures.of(pixels, 4)  # the same memory again, and one more
    assert (got.shape, got.dtype) == ((4, 64, 64, 3), np.uint8)
    expected = NetworkInputs(box, np.uint8, bgr=False, unit=False).of(pixels, 4)
    np.testing.assert_array_equal(got.transpose(0, 3, 1, 2), expected)


def test_a_mark_in_the_frame_comes_back_where_it_was():
    pixels = np.zeros((1, 432, 768, 3), np.uint8)
    pixels[0, 100:300, 200:260] = 255
    box = Letterbox.fit((432, 768), (416, 416), centred=True)
    drawn = NetworkInputs(box, np.uint8, bgr=False, unit=False).of(pixels, 1)
    rows, columns = np.nonzero(drawn[0, 0] > 127)
    mark = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(box.to_frame(mark)[0], [200, 100, 260, 300], atol=1.5)


def test_sizes_without_a_pixel_are_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        Letterbox.fit((0, 10), (64, 64), centred=True)
