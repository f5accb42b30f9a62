"""YOLOv10 networks with drawn weights whose two heads see clearly different things, and their boxes by hand."""

import functools

import cv2
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from mdfpipe.video import ultralytics as quarantine
from mdfpipe.video.detectors.yolo import Yolo

from .networks import frames

SIZE = (128, 192)  # 504 anchors: enough for 300 rows


@functools.cache
def _drawn(variant, classes, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = quarantine._library().DetectionModel(f"yolov10{variant}.yaml", nc=classes, verbose=False)
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the statistics of what it sees next: activations neither die nor explode
        with torch.no_grad():
            model.train()(torch.as_tensor(as_input(patches(8, seed=seed))))
            head = model.model[-1]
            for branch, spread, at in (
                ("cv2", 0.2, 0.0),
                ("one2one_cv2", 0.2, 0.0),
                ("cv3", 0.1, -1.0),
                ("one2one_cv3", 0.1, -2.0),
            ):
                for level in getattr(head, branch):
                    level[-1].weight.normal_(0, spread)
                    level[-1].bias.normal_(at, 0.5)
    return model.eval()


def network(variant="n", classes=1, seed=0):
    """An un-fused fp32 network, NCHW, of its own."""
    import copy

    return copy.deepcopy(_drawn(variant, classes, seed))


def save(path, content):
    torch.save(content, path)
    return path


def patches(n=4, size=SIZE, seed=0):
    """Frames of soft patches: they look different everywhere, and from each other."""
    coarse = np.random.default_rng(seed).uniform(0, 256, (n, 5, 7, 3)).astype(np.uint8)
    return frames([cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse])


@torch.no_grad()
def by_hand(model, images, *, person=0, head="one2one_"):
    """Every anchor's box and person score, from the feature maps of the un-fused network: [(xyxy, score)] by image.

    images: (B, 3, H, W) in 0..1. Written from the paper's formulas: the expectation of each side's distribution, in
    cells, from the cell's centre; times the stride.
    """
    seen = []
    last = model.model[-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.as_tensor(images))
    hook.remove()
    answers = []
    for i in range(len(images)):
        boxes, scores = [], []
        for level, features in enumerate(seen[0]):
            stride = images.shape[2] // features.shape[2]
            sides = getattr(last, head + "cv2")[level](features)[i].double().numpy()
            score = getattr(last, head + "cv3")[level](features)[i, person].double().numpy()
            for row in range(features.shape[2]):
                for column in range(features.shape[3]):
                    weight = np.exp(sides[:, row, column].reshape(4, 16))
                    left, top, right, bottom = (weight * np.arange(16)).sum(1) / weight.sum(1)
                    x, y = column + 0.5, row + 0.5
                    boxes.append(np.array([x - left, y - top, x + right, y + bottom]) * stride)
                    scores.append(1 / (1 + np.exp(-score[row, column])))
        answers.append((np.array(boxes), np.array(scores)))
    return answers


def threshold(answers, rank=40):
    """A score in the widest gap around the `rank`-th best one: rounding does not carry a box across it."""
    scores = np.sort(np.concatenate([score for _, score in answers]))[::-1][rank : 2 * rank]
    widest = np.argmax(scores[:-1] - scores[1:])
    return float((scores[widest] + scores[widest + 1]) / 2)


def assert_same_boxes(boxes, answer, least, *, within_px, within):
    """The boxes of `answer`, (xyxy, score), at `least` and above, best first: scores that near may change places."""
    xyxy, score = answer
    taken = score >= least
    assert len(boxes) == taken.sum()
    assert (np.diff(boxes.score) <= 0).all()
    apart = np.abs(boxes.xyxy[:, None] - xyxy[taken]).max(axis=2)
    ours, theirs = linear_sum_assignment(apart)
    assert apart[ours, theirs].max(initial=0) <= within_px
    np.testing.assert_allclose(boxes.score[ours], score[taken][theirs], atol=within)


def as_input(given):
    return given.pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def yolo_boxes(path, given, *, threads=1, **settings):
    settings = {"image_size": max(given.pixels.shape[1:3]), **settings}
    return Yolo(weights=str(path), **settings).open(path.parent, "v", device="cpu", threads=threads)(given)
