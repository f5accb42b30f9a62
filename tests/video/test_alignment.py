"""Is an annotation that is off by one frame found, and is one that is in step left in peace?"""

from __future__ import annotations

import numpy as np
import pytest

from mdfpipe.video.alignment import Alignment, advice, frame_offset_overlap
from mdfpipe.video.labelling import LabelRules, label_bodies

N = 120


def noise(seed, n=N, scale=1.0):
    return np.random.default_rng(seed).normal(0, scale, n)


def walk(x, y=None, *, height=240.0, face_at=(0.0, 0.06), jitter=0.0, seed=0):
    """Body and face boxes (n, 4) of one person whose top centre is at (x, y); the face's place in body heights."""
    n = len(x)
    y = np.zeros(n) if y is None else y
    wobble = np.random.default_rng(seed).normal(0, jitter, (2, n, 4))
    half_width = height / 6
    body = np.stack([x - half_width, y, x + half_width, y + height], axis=1)
    face_x, face_y = x + face_at[0] * height, y + face_at[1] * height
    side = height / 20
    face = np.stack([face_x - side, face_y - side, face_x + side, face_y + side], axis=1)
    return body + wobble[0], face + wobble[1]


def check(*people, shift=0, measure="ioa_face"):
    """The verdict on people that are labelled right, with annotation numbers `shift` too high."""
    frame = np.concatenate([np.arange(len(body)) for body, _ in people])
    subject = np.concatenate([np.full(len(body), s) for s, (body, _) in enumerate(people)])
    body, face = (np.concatenate([person[k] for person in people]) for k in range(2))
    return frame_offset_overlap(frame, body, subject, frame + shift, face, subject, measure=measure)


OFFSETS = pytest.mark.parametrize(("shift", "verdict"), [(0, "aligned"), (1, "offset_+1"), (-1, "offset_-1")])


def test_by_hand():
    """Body 10 wide that steps right by 4 a frame, a face of 4 near its right edge: inside, inside, half out."""
    step = 4.0 * np.arange(40)[:, None] * np.array([1, 0, 1, 0])
    body, face = step + np.array([0, 0, 10, 30]), step + np.array([4, 1, 8, 5])
    got = check((body, face))
    assert got.n_pairs == 38  # the first and the last frame lack a neighbour
    assert got.mean == {-1: 1.0, 0: 1.0, 1: 0.5}
    assert got.detrended == pytest.approx({-1: 1.0, 0: 1.0, 1: 1.0})  # constant velocity says nothing
    assert (got.verdict, got.offset) == ("too_slow", None)


@OFFSETS
def test_camera_shake(shift, verdict):
    """Shake of a few pixels: the face stays in the body, so that only the detrended measure can tell."""
    got = check(walk(noise(1, scale=6), noise(2, scale=4), jitter=1.0, face_at=(0, 0.12)), shift=shift)
    assert (got.verdict, got.offset) == (verdict, shift)
    assert min(got.mean.values()) > 0.99
    assert got.detrended[shift] > max(v for d, v in got.detrended.items() if d != shift) + 0.1


@OFFSETS
def test_a_fast_scene_at_constant_velocity(shift, verdict):
    """A runner who crosses half a body a frame: the detrended measure is blind, the study's own is not."""
    got = check(walk(50.0 * np.arange(N), jitter=0.5), shift=shift)
    assert (got.verdict, got.offset) == (verdict, shift)
    assert np.ptp(list(got.detrended.values())) < 0.02


@OFFSETS
def test_two_people_who_cross_unsteadily(shift, verdict):
    one = walk(5 * np.arange(N) + 8 * np.sin(np.arange(N)), jitter=1.0, seed=1)
    two = walk(900 - 4 * np.arange(N) + 6 * np.cos(0.8 * np.arange(N)), jitter=1.0, seed=2)
    got = check(one, two, shift=shift)
    assert got.n_pairs > 200
    assert (got.verdict, got.offset) == (verdict, shift)


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize(
    "person",
    [
        walk(np.full(N, 300.0), jitter=1.5),
        walk(2.0 * np.arange(N), jitter=1.5),
        walk(12.0 * np.arange(N), jitter=1.0, face_at=(0.06, 0.06)),
        walk(300 + 12 * np.sin(np.arange(N) / 15), jitter=1.5),
    ],
    ids=["stands", "strolls", "head-leads", "sways"],
)
def test_too_slow_to_tell(person, shift):
    """Noise, constant velocity within the body, a leading head: no verdict, and above all no wrong one."""
    got = check(person, shift=shift)
    assert (got.verdict, got.offset) == ("too_slow", None)


def test_a_leading_head_that_turns_around_is_no_offset():
    """Walks 100 frames each way with the head in front: over the whole track the lead would look like a delay."""
    t = np.arange(600)
    leg, there = t // 100, (t // 100) % 2 == 0
    x = np.where(there, 8.0 * (t % 100), 800 - 8.0 * (t % 100))
    lead = np.where(there, 8.0, -8.0)
    assert leg.max() == 5
    body, face = walk(x, jitter=0.7)
    face[:, [0, 2]] += lead[:, None]
    assert check((body, face)).verdict == "too_slow"


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_gives_no_verdict(seed):
    assert check(walk(np.full(60, 100.0), jitter=4.0, seed=seed)).verdict == "too_slow"


def test_autocorrelation_is_not_evidence():
    """A face that strays in one slow excursion from its body: many frames, but few independent ones."""
    body, face = walk(np.full(60, 100.0))
    body[:, [0, 2]] += 35 * np.exp(-(((np.arange(60) - 30) / 4) ** 2))[:, None]
    got = check((body, face))
    assert got.verdict == "too_slow"


def test_too_few():
    body, face = walk(noise(1, scale=6))
    got = check((body[:31], face[:31]), shift=1)
    assert (got.n_pairs, got.verdict, got.offset) == (29, "too_few", None)
    assert check((body[:32], face[:32]), shift=1).verdict == "offset_+1"
    none = np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64)
    assert frame_offset_overlap(*none, *none) == Alignment(0, {}, "too_few", None)
    assert frame_offset_overlap(np.arange(9), np.ones((9, 4)), np.zeros(9, int), *none).verdict == "too_few"


def test_only_subjects_with_one_face_in_all_three_frames_count():
    """Subject 0 has two faces in frame 50, subject 1 none in frame 20; unnamed faces are nobody's."""
    body, face = walk(noise(1, scale=6))
    frame, zero = np.arange(N), np.zeros(N, np.int64)
    faces = np.concatenate([face, face[50:51], np.delete(face, 20, axis=0), face])
    at = np.concatenate([frame, [50], np.delete(frame, 20), frame])
    who = np.concatenate([zero, [0], zero[1:] + 1, zero - 1])
    bodies = np.concatenate([body, body])
    got = frame_offset_overlap(np.tile(frame, 2), bodies, np.repeat([0, 1], N), at, faces, who)
    assert got.n_pairs == 2 * (N - 2 - 3)
    assert got.verdict == "aligned"


def test_a_face_that_sticks_out_in_front_is_a_known_limit():
    """At constant velocity it looks like an offset of -1 to the study's measure; a little unsteadiness settles it."""
    x = 12.0 * np.arange(N)
    ahead = {"face_at": (0.15, 0.06), "jitter": 0.5}
    assert check(walk(x, **ahead)).verdict == "offset_-1"
    assert check(walk(x + noise(1, scale=3), **ahead)).verdict == "too_slow"


def test_strided_bodies_and_shuffled_rows():
    body, face = walk(noise(1, 300, scale=6), jitter=0.5)
    frame, zero = np.arange(300), np.zeros(300, np.int64)
    p, q = np.random.default_rng(0).permutation(100), np.random.default_rng(1).permutation(300)
    every = frame[::3]
    plain = frame_offset_overlap(every, body[every], zero[:100], frame + 1, face, zero)
    mixed = frame_offset_overlap(every[p], body[every][p], zero[:100], (frame + 1)[q], face[q], zero)
    assert plain.verdict == mixed.verdict == "offset_+1"
    assert plain.detrended == pytest.approx(mixed.detrended)


def test_measures_that_contradict_each_other_give_no_verdict():
    """The shake says +1; a drift that takes the face out of the body says that the frame before fits better."""
    body, face = walk(noise(1, scale=5))
    face = np.roll(face, 1, axis=0)  # the shake of the frame before: annotation f + 1 fits frame f
    assert check((body, face)).verdict == "offset_+1"
    drift = 14.0 * np.arange(N)[:, None] * [[1, 0, 1, 0]]
    got = check((body + drift, face + drift + [[40, 0, 40, 0]]))
    assert got.mean[-1] > got.mean[0] + 0.1
    assert got.detrended[1] > got.detrended[0] + 0.1
    assert (got.verdict, got.offset) == ("too_slow", None)


@OFFSETS
def test_after_labelling(shift, verdict):
    """The whole way: bodies named by the shifted faces themselves, three people, one of them without a name."""
    t = np.arange(N)
    people = [walk(400 * k + 200 + noise(k, scale=7), noise(9, scale=5), jitter=0.8, seed=k) for k in range(3)]
    body, face = (np.concatenate([person[k] for person in people]) for k in range(2))
    frame, subject = np.tile(t, 3), np.repeat([0, 1, -1], N)
    labels = label_bodies(frame, body, frame + shift, face, subject, rules=LabelRules())
    rows = labels.where("labelled")
    got = frame_offset_overlap(frame[rows], body[rows], subject[labels.face[rows]], frame + shift, face, subject)
    assert got.n_pairs > 200
    assert (got.verdict, got.offset) == (verdict, shift)


@pytest.mark.parametrize(
    ("offset", "base", "text"),
    [
        (1, 0, "set dataset.frame_base=1 (now 0)"),
        (-1, 1, "set dataset.frame_base=0 (now 1)"),
        (0, 1, "keep dataset.frame_base=1"),
        (1, 1, "no dataset.frame_base (now 1) is right: the video lacks its first frame"),
        (-1, 0, "no dataset.frame_base (now 0) is right: the video has a frame in front"),
    ],
)
def test_advice(offset, base, text):
    assert text in advice(offset, base)


def test_advice_means_what_the_offset_means():
    """A table that counts from 1, read as if from 0, is found as +1, and the advice is to count from 1."""
    body, face = walk(noise(1, scale=6))
    delivered = np.arange(N)
    numbers_in_table = delivered + 1
    frame_base = 0
    subject = np.zeros(N, np.int64)
    got = frame_offset_overlap(delivered, body, subject, numbers_in_table - frame_base, face, subject)
    assert "set dataset.frame_base=1" in advice(got.offset, frame_base)
