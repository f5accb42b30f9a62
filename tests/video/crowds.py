"""Crowds with known people, as MOT17 has them: boxes, scores and who each is; and how well tracks keep people apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Crowd:
    """Boxes by frame. person: (n,) who it is; below 0, a false detection."""

    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    person: NDArray[np.int64]


def crowd(
    seed: int,
    frames: int,
    people: int,
    *,
    missed: float = 0.05,
    noise: float = 1.5,
    speed: float = 3.0,
    empty: float = 0.0,
    false: float = 0.0,
    low: float = 0.2,
) -> Crowd:
    """People who cross a picture of 1800x1000 and turn at its edges, some behind others.

    missed: share of boxes that the detector misses; empty: share of frames in which it misses all. noise: of edges, in
    pixels. speed: pixels a frame. false: false detections a frame. low: share of boxes of low confidence. A body that
    another one hides by half has low confidence, one that is hidden wholly has no box.
    """
    chance = np.random.default_rng(seed)
    at, moves = chance.uniform([50, 100], [1700, 900], (people, 2)), chance.normal(0, speed, (people, 2))
    height = chance.uniform(120, 220, people)
    size = np.stack([0.4 * height, height], axis=1)
    found: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]] = []
    for number in range(frames):
        place = at + moves * number
        place = np.stack([np.abs(place[:, 0] % 3600 - 1800), np.abs(place[:, 1] % 2000 - 1000)], axis=1)
        hidden = _hidden(np.hstack([place, place + size]))
        xyxy = np.hstack([place, place + size]) + chance.normal(0, noise, (people, 4))
        score = np.where(chance.random(people) < low, chance.uniform(0.3, 0.6, people), chance.uniform(0.6, 1, people))
        score = np.where(hidden > 0.5, np.minimum(score, 0.5), score)
        seen = (chance.random(people) >= missed) & (hidden < 0.85) & (chance.random() >= empty)
        count = chance.poisson(false)
        corner = chance.uniform([0, 0], [1700, 800], (count, 2))
        extra = np.hstack([corner, corner + chance.uniform([30, 80], [90, 220], (count, 2))])
        who = np.concatenate([np.flatnonzero(seen), np.full(count, -1)])
        boxes, scores = np.vstack([xyxy[seen], extra]), np.concatenate([score[seen], chance.uniform(0.3, 0.8, count)])
        best = np.argsort(-scores, kind="stable")
        found.append((boxes[best], scores[best], who[best]))
    frame = np.repeat(np.arange(frames), [len(who) for _, _, who in found])
    parts = [np.concatenate(part) for part in zip(*found, strict=True)]
    return Crowd(frame, parts[0].astype(np.float32), parts[1].astype(np.float32), parts[2])


def _hidden(xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each box (n, 4) that the one in front of it hides most; who stands lower is in front."""
    low, high = np.maximum(xyxy[:, None, :2], xyxy[None, :, :2]), np.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    in_front = xyxy[None, :, 3] > xyxy[:, None, 3]
    own = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    share: NDArray[np.float64] = (shared * in_front).max(axis=1, initial=0) / own
    return share


@dataclass(frozen=True)
class Kept:
    """idf1: Ristani et al. 2016. switches: how often the track of a person changes, fragments: how often it pauses."""

    idf1: float
    switches: int
    fragments: int


def kept(person: NDArray[np.int64], track: NDArray[np.int64]) -> Kept:
    """How well tracks (n,) keep people (n,) apart. Boxes are the detector's own, so each box is one person or false."""
    people, tracks = np.unique(person[person >= 0]), np.unique(track[track >= 0])
    both = np.zeros((len(people), len(tracks)), np.int64)
    is_both = (person >= 0) & (track >= 0)
    np.add.at(both, (np.searchsorted(people, person[is_both]), np.searchsorted(tracks, track[is_both])), 1)
    right = both[linear_sum_assignment(both, maximize=True)].sum()
    switches = fragments = 0
    for who in people:
        own = track[person == who]
        with_track = own[own >= 0]
        switches += int(np.count_nonzero(np.diff(with_track)))
        fragments += int(np.count_nonzero(np.diff((own >= 0).astype(int)) == 1)) - int(
            own[0] < 0 and len(with_track) > 0
        )
    return Kept(float(2 * right / max((person >= 0).sum() + (track >= 0).sum(), 1)), switches, fragments)
