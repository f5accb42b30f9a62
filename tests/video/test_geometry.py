"""Overlaps by hand, and what must hold for every box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mdfpipe.errors import MdfError
from mdfpipe.video.frames import Boxes, Frames
from mdfpipe.video.geometry import (
    MEASURES,
    area,
    clip_to_frame,
    head_distance,
    inside_share,
    intersection,
    iou,
)

PERSON = [100, 50, 200, 350]  # 100 x 300


# face, then |B∩F|, ioa_face, iou, iomin, center_in, head_iou (head strip: 100 x 300/7)
HAND = [
    ([140, 60, 160, 80], 400, 1.0, 400 / 30000, 1.0, 1.0, 400 / (30000 / 7)),  # inside
    ([190, 60, 210, 80], 200, 0.5, 200 / 30200, 0.5, 0.0, 200 / (30000 / 7 + 200)),  # centre on the right edge: out
    ([90, 60, 110, 80], 200, 0.5, 200 / 30200, 0.5, 1.0, 200 / (30000 / 7 + 200)),  # centre on the left edge: in
    ([140, 40, 160, 60], 200, 0.5, 200 / 30200, 0.5, 1.0, 200 / (30000 / 7 + 200)),  # half above
    ([200, 60, 220, 80], 0, 0.0, 0.0, 0.0, 0.0, 0.0),  # touches an edge only
    ([150, 60, 150, 80], 0, 0.0, 0.0, 0.0, 0.0, 0.0),  # no width
    ([160, 60, 140, 80], 0, 0.0, 0.0, 0.0, 0.0, 0.0),  # inside out
    ([0, 0, 380, 400], 30000, 30000 / 152000, 30000 / 152000, 1.0, 1.0, (30000 / 7) / 152000),  # around the body
    ([140, 300, 160, 320], 400, 1.0, 400 / 30000, 1.0, 1.0, 0.0),  # a face at the feet
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize(("face", "shared", "expected"), [(row[0], row[1], row[2:]) for row in HAND])
def test_by_hand(dtype, face, shared, expected):
    body, other = np.array([PERSON], dtype), np.array([face], dtype)
    assert intersection(body, other) == shared
    got = [measure(body, other)[0] for measure in MEASURES.values()]
    assert_allclose(got, expected, rtol=1e-6)


def test_pairs_are_row_by_row_and_broadcast():
    a = np.array([PERSON, [0, 0, 10, 10]], float)
    b = np.array([[140, 60, 160, 80], [0, 0, 5, 10], [300, 0, 310, 9]], float)
    matrix = iou(a[:, None], b[None])
    assert matrix.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert matrix[i, j] == iou(a[i : i + 1], b[j : j + 1])[0]


def test_no_boxes():
    none = np.zeros((0, 4), np.float32)
    assert all(measure(none, none).shape == (0,) for measure in MEASURES.values())
    assert clip_to_frame(none, 8, 8).shape == (0, 4)
    assert inside_share(none, 8, 8).shape == (0,)


def test_inputs_stay_as_they_are():
    body, face = np.array([PERSON], float), np.array([[140, 60, 160, 80]], float)
    for measure in MEASURES.values():
        measure(body, face)
    assert body.tolist() == [PERSON]
    assert face.tolist() == [[140, 60, 160, 80]]


def test_head_distance_is_from_the_top_centre():
    bodies = np.array([PERSON] * 2, float)
    near, far = head_distance(bodies, np.array([[145, 45, 155, 55], [145, 60, 155, 70]], float))
    assert near == 0
    assert far == 4 * 15**2


def test_clipping_and_share():
    boxes = np.array([[-10, -10, 10, 10], [90, 40, 110, 60], [200, 200, 210, 210], [10, 10, 20, 20]], float)
    clipped = clip_to_frame(boxes, width=100, height=50)
    assert clipped.tolist() == [[0, 0, 10, 10], [90, 40, 100, 50], [100, 50, 100, 50], [10, 10, 20, 20]]
    assert inside_share(boxes, 100, 50).tolist() == [0.25, 0.25, 0, 1]
    assert area(clipped).tolist() == [100, 100, 0, 100]


coordinate = st.floats(-5000, 5000, width=32)
box = st.lists(coordinate, min_size=4, max_size=4)


@given(box, box, st.sampled_from([np.float32, np.float64]))
def test_measures_are_shares(a, b, dtype):
    body, face = np.array([a], dtype), np.array([b], dtype)
    values = {name: measure(body, face)[0] for name, measure in MEASURES.items()}
    assert all(0 <= v <= 1 for v in values.values())
    assert values["iou"] <= values["ioa_face"] + 1e-6
    assert values["ioa_face"] <= values["iomin"]
    if area(face)[0] == 0 or area(body)[0] == 0:
        assert set(values.values()) == {0}
    for name in ("iou", "iomin"):
        assert MEASURES[name](face, body)[0] == values[name]


@given(box)
def test_a_box_overlaps_itself_wholly(a):
    b = np.array([a], np.float32)
    assert iou(b, b)[0] == (1 if area(b)[0] > 0 else 0)


whole = st.integers(0, 60)
solid = st.tuples(whole, whole, st.integers(1, 30), st.integers(1, 30)).map(
    lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]]
)


@given(solid, solid)
def test_counting_pixels_agrees(a, b):
    """Whole-pixel boxes as sets of pixels: no formula in common with the code."""

    def pixels(box):
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    body, face = pixels(a), pixels(b)
    x, y = np.array([a]), np.array([b])
    assert area(x)[0] == len(body)
    assert intersection(x, y)[0] == len(body & face)
    assert MEASURES["ioa_face"](x, y)[0] == len(body & face) / len(face)
    assert MEASURES["iou"](x, y)[0] == len(body & face) / len(body | face)
    assert MEASURES["iomin"](x, y)[0] == len(body & face) / min(len(body), len(face))


@given(solid, solid, solid)
def test_an_iou_filter_never_sees_two_people(body, face_1, face_2):
    """IoU > .75 of one body with two faces means that the faces overlap by half or more."""
    b, f1, f2 = (np.array([x]) for x in (body, face_1, face_2))
    if iou(b, f1)[0] > 0.75 and iou(b, f2)[0] > 0.75:
        assert iou(f1, f2)[0] > 0.5
        assert MEASURES["iomin"](f1, f2)[0] > 2 / 3


def test_the_theorem_on_near_copies():
    """The same, where it bites: faces that are jittered copies of the body."""
    rng = np.random.default_rng(5)
    body = np.tile([0.0, 0, 100, 100], (200_000, 1))
    faces = [body + rng.uniform(-16, 16, body.shape) for _ in range(2)]
    both = (iou(body, faces[0]) > 0.75) & (iou(body, faces[1]) > 0.75)
    assert both.sum() > 10_000
    assert iou(faces[0][both], faces[1][both]).min() > 0.5


def boxes(subject_id=None):
    return Boxes(np.zeros((2, 4), np.float32), np.zeros(2, np.float32), subject_id)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: boxes()[0], r"Boxes: expected a slice, a mask or indices, got 0: use boxes\[\[0\]\] or boxes\[0:1\]"),
        (lambda: list(boxes()), r"Boxes: expected a slice, a mask or indices, got 0: use"),
        (lambda: boxes()[np.int64(-1)], r"got -1: use boxes\[\[-1\]\] or boxes\[-1:\]"),
        (lambda: boxes()[np.array(1)], r"got 1: use boxes\[\[1\]\] or boxes\[1:2\]"),
        (lambda: boxes()["a"], "Boxes: expected a slice, a mask or indices, got 'a'"),
        (lambda: boxes()[[7]], r"Boxes: expected .*, got \[7\]: index 7 is out of bounds"),
        (lambda: boxes(["a", "b"]), r"subject_id: expected an array, got list"),
        (lambda: boxes(np.array([1, 2])), "subject_id: expected texts or None, got 1"),
        (lambda: boxes(np.array(["a"])), r"subject_id: expected \(2,\), got \(1,\)"),
        (lambda: Boxes([[0, 0, 1, 1]], np.zeros(1, np.float32)), "xyxy: expected an array, got list"),
        (lambda: Frames(None, np.zeros(0, np.int64), np.zeros(0)), "pixels: expected an array, got NoneType"),
        (lambda: Frames(np.zeros((1, 2, 2, 3), np.uint8), [0], np.zeros(1)), "index: expected an array, got list"),
    ],
)
def test_what_is_no_array_of_boxes_or_frames_is_one_line(given, words):
    with pytest.raises(MdfError, match=words):
        given()


def test_some_of_the_boxes():
    named = boxes(np.array(["a", None], object))
    for chosen in (slice(0, 1), [0], np.array([True, False]), np.array([0])):
        assert named[chosen].subjects.to_pylist() == ["a"]
    assert len(named[[]]) == 0
    assert boxes(np.array(["a", "b"])).subjects.to_pylist() == ["a", "b"]
