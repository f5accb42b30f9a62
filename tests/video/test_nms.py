"""Suppression against a plain transcription of the rule, and against OpenCV's."""

import cv2
import numpy as np
import pytest

from mdfpipe.video.geometry import ranking, suppress


def plain_suppress(boxes, scores, max_iou):
    """The rule, box by box, in plain Python."""
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], *boxes[i]))
    kept = []
    for i in left:
        ax1, ay1, ax2, ay2 = boxes[i]
        for k in kept:
            bx1, by1, bx2, by2 = boxes[k]
            w, h = min(ax2, bx2) - max(ax1, bx1), min(ay2, by2) - max(ay1, by1)
            shared = w * h if w > 0 and h > 0 else 0.0
            if shared > max_iou * ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared):
                break
        else:
            kept.append(i)
    return kept


def crowd(rng, n, whole=False):
    corner, size = rng.uniform(0, 100, (n, 2)), rng.uniform(5, 60, (n, 2))
    if whole:
        corner, size = corner.round(-1), size.round(-1) + 10
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("max_iou", [0.0, 0.3, 0.45, 0.7, 1.0])
def test_as_the_plain_rule(seed, max_iou):
    rng = np.random.default_rng(seed)
    boxes = crowd(rng, 60, whole=seed % 2 == 0)  # whole numbers: equal boxes and overlaps exactly at the threshold
    scores = rng.choice([0.3, 0.5, 0.9], 60).astype(np.float32) if seed % 3 == 0 else rng.random(60, np.float32)
    expected = plain_suppress([tuple(map(float, b)) for b in boxes], scores.tolist(), max_iou)
    got = suppress(boxes, scores, max_iou)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(boxes[got], boxes[expected])


@pytest.mark.parametrize("seed", range(20))
def test_as_opencv(seed):
    rng = np.random.default_rng(seed)
    boxes, scores = crowd(rng, 80), rng.permutation(80).astype(np.float32) / 80 + 0.01
    rects = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(float)
    expected = cv2.dnn.NMSBoxes(rects.tolist(), scores.tolist(), 0.0, 0.45)
    assert suppress(boxes, scores, 0.45).tolist() == np.asarray(expected).ravel().tolist()


def test_input_order_does_not_show():
    rng = np.random.default_rng(5)
    boxes, scores = crowd(rng, 40, whole=True), rng.choice([0.4, 0.6], 40)
    shuffle = rng.permutation(40)
    first, second = suppress(boxes, scores, 0.45), suppress(boxes[shuffle], scores[shuffle], 0.45)
    np.testing.assert_array_equal(boxes[first], boxes[shuffle][second])


def test_none_and_one():
    none = np.zeros((0, 4), np.float32)
    assert suppress(none, none[:, 0], 0.5).shape == ranking(none, none[:, 0]).shape == (0,)
    assert suppress(np.array([[0, 0, 1, 1.0]]), np.array([0.5]), 0.5).tolist() == [0]


def test_an_overlap_of_exactly_the_limit_is_kept():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1.0]])  # IoU 1/3
    assert len(suppress(boxes, np.array([0.9, 0.8]), 0.25)) == 1
    assert len(suppress(np.array([[0, 0, 4, 1], [0, 0, 2, 1.0]]), np.array([0.9, 0.8]), 0.5)) == 2
