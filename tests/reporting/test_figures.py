"""Drawing: people are really hidden, words stay inside the picture and off each other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mdfpipe.drawing import pixels as figures
from mdfpipe.drawing.pixels import COLOURS, LEAST_BLOCK, Mark
from mdfpipe.store.tables import LabelStatus


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def runs(line: NDArray[np.uint8]) -> list[int]:
    """Lengths of the stretches of equal pixels along a line (n, 3)."""
    edges = np.flatnonzero(np.any(line[1:] != line[:-1], axis=1)) + 1
    return np.diff([0, *edges.tolist(), len(line)]).tolist()


@pytest.mark.parametrize("box", [(40.0, 20.0, 140.0, 280.0), (3.2, 5.9, 40.1, 77.7), (-20.0, -20.0, 60.0, 400.0)])
def test_a_hidden_body_is_a_few_coarse_blocks(box: tuple[float, float, float, float]) -> None:
    picture = noise(300, 200)
    hidden = figures.hidden(picture, [box])
    x1, y1 = max(int(np.floor(box[0])), 0), max(int(np.floor(box[1])), 0)
    x2, y2 = min(int(np.ceil(box[2])), 200), min(int(np.ceil(box[3])), 300)
    region = hidden[y1:y2, x1:x2]
    for line in (region[region.shape[0] // 2], region[:, region.shape[1] // 2]):
        assert min(runs(line)[1:-1], default=LEAST_BLOCK) >= LEAST_BLOCK  # those at the ends begin in the margin
    colours = np.unique(region.reshape(-1, 3), axis=0)
    assert len(colours) <= 5 * 20
    assert not np.any(np.all(region == picture[y1:y2, x1:x2], axis=2).mean() > 0.01)  # nothing of the original is left


def test_the_pixels_around_a_hidden_body_stay() -> None:
    picture = noise(300, 200)
    hidden = figures.hidden(picture, [(80.0, 100.0, 120.0, 200.0)])
    outside = np.ones((300, 200), bool)
    outside[90:210, 75:125] = False
    assert np.array_equal(hidden[outside], picture[outside])
    assert not np.shares_memory(hidden, picture)


def test_a_hidden_region_says_nothing_finer_than_its_blocks() -> None:
    """Two pictures with the same block means and different detail give the same hidden picture."""
    rows, columns = np.mgrid[0:160, 0:64]
    stripes = np.where((rows // 2 + columns // 2) % 2 == 0, 90, 110).astype(np.uint8)
    one = np.repeat(stripes[..., None], 3, axis=2)
    other = np.full_like(one, 100)
    crops = [figures.hidden_crop(picture, 4) for picture in (one, other)]
    assert int(np.abs(crops[0].astype(int) - crops[1]).max()) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (7, 7), (112, 112), (384, 128)])
@pytest.mark.parametrize("blocks", [figures.BODY_BLOCKS, figures.FACE_BLOCKS])
def test_a_hidden_crop_has_at_most_so_many_blocks_along_its_shorter_side(shape: tuple[int, int], blocks: int) -> None:
    hidden = figures.hidden_crop(noise(*shape), blocks)
    short = hidden[0] if shape[1] <= shape[0] else hidden[:, 0]
    assert len(runs(short)) <= blocks
    assert min(runs(short)) >= min(LEAST_BLOCK, *shape)


def test_boxes_outside_the_picture_hide_nothing_and_do_not_fail() -> None:
    picture = noise(20, 20)
    assert np.array_equal(figures.hidden(picture, [(50, 50, 60, 60), (-9, -9, -1, -1), (5, 5, 5, 5)]), picture)


def test_deep_pixels_are_shown_through_the_window() -> None:
    image = np.array([[[7000], [7100], [7200], [9000]]], np.uint16)
    assert figures.to_display(image, (7000.0, 7200.0))[0, :, 0].tolist() == [0, 128, 255, 255]
    assert figures.to_display(image, None).dtype == np.uint8


@pytest.mark.parametrize("box", [(-50, -50, 30, 40), (0, 0, 160, 120), (150, 110, 400, 400), (300, 300, 310, 310)])
def test_words_are_inside_the_picture(box: tuple[float, float, float, float]) -> None:
    picture = np.zeros((120, 160, 3), np.uint8)
    marks = [Mark(box, "a very long name that does not fit into the picture", "#ff0000")]
    drawn = figures.draw_boxes(picture, marks)
    assert drawn.shape == picture.shape
    assert (drawn == (255, 0, 0)).all(axis=2).sum() > 300
    assert not picture.any()


def test_strips_do_not_cover_each_other() -> None:
    picture = np.zeros((300, 300, 3), np.uint8)
    colours = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    marks = [Mark((100, 100, 180, 250), "same place", colour) for colour in colours]
    alone = [(figures.draw_boxes(picture, [m]) == _rgb(m.colour)).all(axis=2).sum() for m in marks]
    drawn = figures.draw_boxes(picture, marks)
    left = [(drawn == _rgb(colour)).all(axis=2).sum() for colour in colours]
    outline = 4 * 2 * (80 + 150)
    assert all(now >= before - outline for now, before in zip(left, alone, strict=True))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def test_every_status_has_a_colour_of_its_own() -> None:
    assert set(COLOURS) == set(LabelStatus)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_a_name_of_any_script_is_drawn_without_a_warning() -> None:
    picture = np.zeros((80, 400, 3), np.uint8)
    assert figures.draw_boxes(picture, [Mark((5, 40, 60, 70), "Å王\x00\u202e🙂", "#ffffff")]).any()


def test_the_same_picture_gives_the_same_bytes() -> None:
    picture = noise(40, 40)
    assert figures.data_uri(picture) == figures.data_uri(picture.copy())
