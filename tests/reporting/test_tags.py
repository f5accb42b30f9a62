"""Tags of many boxes: none over another, each in the picture or in the rows below it, the same each time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.drawing import pixels
from mdfpipe.drawing.pixels import Mark
from mdfpipe.drawing.tags import Rectangle, leader, placed

AREA = (320, 240)
_edges = st.tuples(st.integers(0, 318), st.integers(0, 238), st.integers(1, 200), st.integers(1, 200))
BOXES = st.lists(_edges.map(lambda b: (b[0], b[1], min(b[0] + b[2], 320), min(b[1] + b[3], 240))), max_size=30)


def touch(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@settings(max_examples=30, deadline=None)
@given(boxes=BOXES, width=st.integers(8, 400), height=st.integers(8, 40))
def test_no_tag_is_over_another(boxes: list[Rectangle], width: int, height: int) -> None:
    sizes = [(width + n % 3, height) for n in range(len(boxes))]
    places = placed(boxes, sizes, AREA, boxes[::2])
    assert [(x2 - x1, y2 - y1) for x1, y1, x2, y2 in places] == sizes
    assert not any(touch(a, b) for a, b in itertools.combinations(places, 2))
    assert all(x1 >= 0 and y1 >= 0 and (y2 <= AREA[1] or y1 >= AREA[1]) for x1, y1, x2, y2 in places)
    assert places == placed(boxes, sizes, AREA, boxes[::2])


@pytest.mark.parametrize(
    "box", [(0, 0, 4, 240), (316, 0, 320, 240), (0, 0, 320, 4), (0, 236, 320, 240), (0, 0, 320, 240)]
)
def test_a_box_at_the_edge_has_its_tag_in_the_picture_and_at_the_box(box: Rectangle) -> None:
    (place,) = placed([box], [(20, 14)], AREA)
    assert place[0] >= 0
    assert place[1] >= 0
    assert place[2] <= AREA[0]
    assert place[3] <= AREA[1]
    assert leader(place, box) is None


def test_a_tag_does_not_cover_a_face_where_there_is_other_room() -> None:
    box, face = (100, 60, 140, 200), (100, 40, 140, 90)
    (place,) = placed([box], [(30, 16)], AREA, [face])
    assert not touch(place, face)


def test_thirty_people_on_each_other_have_a_tag_each_and_lines_to_their_boxes() -> None:
    boxes = [(140 + n % 3, 100, 180, 200) for n in range(30)]
    places = placed(boxes, [(24, 20)] * 30, AREA)
    assert any(leader(place, box) for place, box in zip(places, boxes, strict=True))
    marks = [Mark(box, str(n), "#ff0000") for n, box in enumerate(boxes)]
    picture = np.zeros((240, 320, 3), np.uint8)
    drawn = pixels.draw_boxes(picture, marks)
    assert np.array_equal(drawn, pixels.draw_boxes(picture, marks))
    assert drawn.shape[1] == 320


def test_tags_without_room_are_below_the_picture() -> None:
    picture = np.zeros((60, 100, 3), np.uint8)
    drawn = pixels.draw_boxes(picture, [Mark((10, 10, 90, 50), f"a name {n}", "#ff0000") for n in range(8)])
    assert drawn.shape[0] > 60
    assert drawn.shape[1] == 100
