"""The letterbox: what is drawn where, and boxes there and back."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdfpipe.video.letterbox import PAD, Letterbox, fill_tensor, fitting_input

sides = st.integers(8, 2200)
inputs = st.integers(1, 40).map(lambda n: 32 * n)


@given(sides, sides, inputs, inputs, st.booleans(), st.integers(0, 2**32 - 1))
def test_boxes_there_and_back(height, width, rows, columns, centred, seed):
    box = Letterbox.fit((height, width), (rows, columns), centred=centred)
    corner = np.random.default_rng(seed).uniform(-0.1, 1, (7, 4)) * [width, height, width, height]
    xyxy = corner.astype(np.float32)
    back = box.to_frame(box.to_input(xyxy))
    assert back.dtype == np.float32
    factor = min(box.inner[0] / height, box.inner[1] / width)
    np.testing.assert_allclose(back, xyxy, atol=2e-4 / min(factor, 1), rtol=1e-5)


@given(sides, sides, inputs, inputs, st.booleans())
def test_the_frame_lies_in_the_input_and_fills_one_axis(height, width, rows, columns, centred):
    box = Letterbox.fit((height, width), (rows, columns), centred=centred)
    assert box.inner[0] <= rows
    assert box.inner[1] <= columns
    assert box.inner[0] == rows or box.inner[1] == columns
    edges = box.to_input(np.array([[0, 0, width, height]], np.float32))[0]
    np.testing.assert_allclose(edges, [box.left, box.top, box.left + box.inner[1], box.top + box.inner[0]], rtol=1e-6)
    spare = rows - box.inner[0], columns - box.inner[1]
    assert (box.top, box.left) == ((spare[0] // 2, spare[1] // 2) if centred else (0, 0))


@given(sides, sides, st.integers(64, 1280))
def test_fitting_input_is_small_and_holds_the_frame(height, width, longest):
    rows, columns = fitting_input((height, width), longest)
    assert rows % 32 == columns % 32 == 0
    assert longest <= max(rows, columns) < longest + 32
    assert min(rows, columns) < min(height, width) * longest / max(height, width) + 33


@pytest.mark.parametrize("centred", [True, False])
def test_a_batch_is_drawn_as_opencv_draws_each_frame(centred):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 54, 96, 3), dtype=np.uint8)
    box = Letterbox.fit((54, 96), (64, 64), centred=centred)
    canvas = box.canvas(4)
    box.draw(pixels, canvas)
    box.draw(pixels[::-1], canvas)  # the same canvas again
    assert box.inner == (36, 64)
    for n in range(3):
        expected = np.full((64, 64, 3), PAD, np.uint8)
        expected[box.top : box.top + 36] = cv2.resize(pixels[2 - n], (64, 36), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(canvas[n], expected)
    assert (canvas[3] == PAD).all()


def test_a_frame_of_the_right_size_is_copied():
    pixels = np.random.default_rng(1).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    box = Letterbox.fit((64, 96), (64, 96), centred=True)
    canvas = box.canvas(2)
    box.draw(pixels, canvas)
    np.testing.assert_array_equal(canvas, pixels)


def test_a_mark_in_the_frame_comes_back_where_it_was():
    pixels = np.zeros((1, 432, 768, 3), np.uint8)
    pixels[0, 100:300, 200:260] = 255
    box = Letterbox.fit((432, 768), (416, 416), centred=True)
    canvas = box.canvas(1)
    box.draw(pixels, canvas)
    rows, columns = np.nonzero(canvas[0, ..., 0] > 127)
    inside = (rows >= box.top) & (rows < box.top + box.inner[0])
    rows, columns = rows[inside], columns[inside]
    mark = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    np.testing.assert_allclose(box.to_frame(mark)[0], [200, 100, 260, 300], atol=1.5)


@pytest.mark.parametrize("bgr", [True, False])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_fill_tensor(bgr, unit, dtype):
    canvas = np.random.default_rng(2).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    tensor = np.empty((2, 3, 8, 6), dtype)
    fill_tensor(canvas, tensor, bgr=bgr, unit=unit)
    expected = canvas[..., ::-1] if bgr else canvas
    expected = expected.transpose(0, 3, 1, 2).astype(dtype)
    np.testing.assert_array_equal(tensor, expected / dtype(255) if unit else expected)


def test_sizes_without_a_pixel_are_refused():
    with pytest.raises(ValueError, match="at least one pixel"):
        Letterbox.fit((0, 10), (64, 64), centred=True)
