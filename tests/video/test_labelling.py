"""Naming bodies by faces: scenes by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError, MdfError
from mdfpipe.store.tables import LabelStatus
from mdfpipe.video.labelling import STATUSES, LabelRules, label_bodies, silent_filter
from tests.video.labelling_oracle import MEASURE_NAMES

PAPER = LabelRules()


def label(bodies, faces, rules=PAPER, subjects=None, **more):
    """One frame: the names of the statuses, the faces and the labels."""
    subjects = list(range(len(faces))) if subjects is None else subjects
    got = label_bodies([0] * len(bodies), bodies, [0] * len(faces), faces, subjects, rules=rules, **more)
    return [str(STATUSES[code]) for code in got.status], got.face.tolist(), got


def test_two_people_apart():
    bodies = [[0, 0, 100, 300], [200, 0, 300, 300]]
    faces = [[240, 10, 260, 40], [40, 10, 60, 40]]
    status, face, got = label(bodies, faces)
    assert status == ["labelled", "labelled"]
    assert face == [1, 0]
    assert got.overlap.tolist() == [1, 1]
    assert got.runner_up.tolist() == [0, 0]
    assert (got.face.dtype, got.overlap.dtype, got.runner_up.dtype, got.status.dtype) == tuple(
        np.dtype(t) for t in ("int64", "float32", "float32", "int8")
    )


def test_a_far_person_in_a_near_persons_box():
    """Both faces lie in the near box: it is dropped, and the far person keeps the name."""
    near, far = [0, 0, 200, 600], [120, 10, 160, 130]
    faces = [[40, 20, 90, 90], [130, 15, 145, 32]]
    status, face, got = label([near, far], faces)
    assert status == ["ambiguous", "labelled"]
    assert face[1] == 1
    assert got.overlap[0] == 1
    assert got.runner_up[0] == 1


def test_an_iou_filter_never_fires():
    near, far = [0, 0, 200, 600], [120, 10, 160, 130]
    faces = [[40, 20, 90, 90], [130, 15, 145, 32]]
    status, _, got = label([near, far], faces, LabelRules(ambiguity_measure="iou"))
    assert status == ["labelled", "labelled"]
    warning = silent_filter(LabelRules(ambiguity_measure="iou"), got.counts())
    assert "never fired" in warning
    assert "label.ambiguity_measure=ioa_face" in warning
    assert "more than 0.5" in warning


def test_the_warning_speaks_only_of_a_filter_that_never_fired():
    rules = LabelRules(ambiguity_measure="iou")
    assert silent_filter(rules, {LabelStatus.LABELLED: 9, LabelStatus.AMBIGUOUS: 1}) is None
    assert silent_filter(rules, {}) is None
    assert silent_filter(PAPER, {LabelStatus.LABELLED: 9}) is None


def test_duplicate_boxes_of_one_subject_are_no_ambiguity():
    body, faces = [0, 0, 100, 300], [[40, 10, 60, 40], [41, 11, 61, 41]]
    status, face, got = label([body], faces, subjects=[5, 5])
    assert (status, face) == (["labelled"], [0])
    assert got.runner_up.tolist() == [0]  # no other subject
    assert label([body], faces, subjects=[5, 6])[0] == ["ambiguous"]


def test_every_unnamed_face_is_a_person_of_its_own():
    body, faces = [0, 0, 100, 300], [[40, 10, 60, 40], [41, 11, 61, 41]]
    assert label([body], faces, subjects=[-1, -1])[0] == ["ambiguous"]
    assert label([body], faces, subjects=[5, -1])[0] == ["ambiguous"]
    assert label([body], faces[:1], subjects=[-1])[:2] == (["unnamed_face"], [0])


def test_a_back_facing_person_does_not_take_a_neighbours_face():
    """No face of their own; the neighbour's reaches in by a third."""
    back, front = [0, 0, 100, 300], [90, 0, 200, 300]
    status, face, got = label([back, front], [[90, 10, 120, 40]])
    assert status == ["below_min_overlap", "labelled"]
    assert face == [0, 0]
    assert got.overlap[0] == pytest.approx(1 / 3)
    assert label([back], [[90, 10, 120, 40]], LabelRules(min_overlap=0))[0] == ["labelled"]  # "maximum overlap"


def test_truncated_at_the_frames_edge():
    """The caller clips the face (10 of its 30 pixels are in the frame), and then all of it lies in the body."""
    from mdfpipe.video.geometry import clip_to_frame

    faces = clip_to_frame(np.array([[-20, 10, 10, 40], [-30, 10, 0, 40]]), 640, 480)
    status, face, got = label([[0, 0, 60, 300]], faces)
    assert (status, face) == (["labelled"], [0])  # the second has no area left: neither match nor ambiguity
    assert got.overlap.tolist() == [1]


def test_a_face_box_larger_than_the_head():
    """A loose face box that sticks out of a tight body box by 30% still names it."""
    status, _, got = label([[0, 30, 100, 300]], [[10, 0, 90, 100]])
    assert status == ["labelled"]
    assert got.overlap[0] == pytest.approx(0.7)


def test_a_zero_area_face_never_matches():
    faces = [[50, 10, 50, 40], [50, 10, 60, 10], [60, 40, 50, 10]]
    for measure in MEASURE_NAMES:
        rules = LabelRules(measure=measure, ambiguity_measure=measure, min_overlap=0, ambiguity_threshold=0)
        assert label([[0, 0, 100, 300]], faces, rules)[:2] == (["no_face"], [-1])


def test_thresholds():
    """Ambiguity is strictly above, the minimum is at least."""
    body = [0, 0, 100, 300]
    three_quarters = [[-10, 10, 30, 50], [70, 10, 110, 50]]  # 30 of 40 pixels wide: exactly .75
    assert label([body], three_quarters)[0] == ["labelled"]
    assert label([body], three_quarters, LabelRules(ambiguity_threshold=0.74))[0] == ["ambiguous"]
    fifths = [[-20, 10, 30, 60]]  # 30 of 50: .6 is no binary fraction
    assert label([body], fifths, LabelRules(min_overlap=0.6))[0] == ["labelled"]
    assert label([body], fifths, LabelRules(min_overlap=0.61))[0] == ["below_min_overlap"]
    both = [[-20, 10, 30, 60], [70, 10, 120, 60]]
    assert label([body], both, LabelRules(ambiguity_threshold=0.6))[0] == ["labelled"]


def test_ambiguity_goes_before_no_face():
    """Faces at the feet: by head_iou nothing overlaps, yet two people's faces lie in the box."""
    status, face, _ = label(
        [[0, 0, 100, 700]], [[10, 600, 30, 630], [60, 600, 80, 630]], LabelRules(measure="head_iou")
    )
    assert (status, face) == (["ambiguous"], [-1])


def test_ties_go_to_the_larger_iou_then_the_nearer_then_the_lower():
    never = LabelRules(ambiguity_threshold=1)
    body = [0, 0, 100, 300]
    assert label([body], [[40, 10, 50, 20], [40, 10, 60, 30]], never)[1] == [1]  # larger
    assert label([body], [[10, 10, 20, 20], [45, 10, 55, 20]], never)[1] == [1]  # same size, nearer to the top centre
    assert label([body], [[45, 90, 55, 100], [45, 10, 55, 20]], never)[1] == [1]
    assert label([body], [[30, 10, 40, 20], [60, 10, 70, 20]], never)[1] == [0]  # mirror images
    assert label([body], [[30, 10, 40, 20]] * 3, never)[1] == [0]


def test_duplicate_detections_of_one_person():
    loose, tight = [0, 0, 120, 320], [5, 5, 100, 300]
    face = [[40, 10, 60, 40]]
    assert label([loose, tight], face)[0] == ["labelled", "labelled"]  # the paper: every detection for itself
    for assignment in ("mutual_best", "hungarian"):
        rules = LabelRules(assignment=assignment)
        assert label([loose, tight], face, rules)[0] == ["lost_assignment", "labelled"]  # the larger IoU
        assert label([tight, tight], face, rules)[0] == ["labelled", "lost_assignment"]  # alike: the lower row
        assert label([tight, tight], face, rules, body_score=[0.5, 0.9])[0] == ["lost_assignment", "labelled"]
        assert label([loose, tight], face, rules, subjects=[-1])[0] == ["lost_assignment", "unnamed_face"]


def test_hungarian_gives_the_second_best_where_that_helps():
    """Body 0 reaches both faces, body 1 only the first: by itself each would take face 0."""
    bodies = [[0, 0, 100, 100], [0, 0, 40, 100]]
    faces = [[20, 10, 40, 30], [90, 10, 110, 30]]  # body 0: 1 and .5; body 1: 1 and 0
    assert label(bodies, faces)[1] == [0, 0]
    assert label(bodies, faces, LabelRules(assignment="mutual_best"))[0] == ["lost_assignment", "labelled"]
    status, face, got = label(bodies, faces, LabelRules(assignment="hungarian"))
    assert (status, face) == (["labelled", "labelled"], [1, 0])
    assert got.overlap.tolist() == [0.5, 1]
    assert got.runner_up.tolist() == [1, 0]  # of another subject than the one assigned
    strict = LabelRules(assignment="hungarian", min_overlap=0.6)
    assert label(bodies, faces, strict)[0] == ["lost_assignment", "labelled"]


def test_those_already_out_do_not_compete():
    """An ambiguous body, and one that is excluded, leave the face to the other."""
    near, far, face = [0, 0, 200, 600], [120, 10, 160, 130], [[130, 15, 145, 32], [40, 20, 90, 90]]
    for assignment in ("mutual_best", "hungarian"):
        rules = LabelRules(assignment=assignment)
        assert label([near, far], face, rules)[0] == ["ambiguous", "labelled"]
        small = {LabelStatus.TOO_SMALL: np.array([False, True]), LabelStatus.OFF_FRAME: np.array([False, True])}
        status, faces, got = label([near, far], face[:1], rules, excluded=small)
        assert status == ["labelled", "too_small"]
        assert faces == [0, -1]
        assert got.overlap.tolist() == [1, 0]


def test_frames_do_not_mix_and_need_no_order():
    bodies = [[0, 0, 100, 300]] * 4
    got = label_bodies(
        [9, 3, 7, 3], bodies, [7, 3, 12], [[40, 10, 60, 40], [0, 0, 10, 10], [5, 5, 9, 9]], [4, 4, 4], rules=PAPER
    )
    assert got.face.tolist() == [-1, 1, 0, 1]
    assert [str(STATUSES[c]) for c in got.status] == ["no_face", "labelled", "labelled", "labelled"]


@pytest.mark.parametrize("assignment", ["per_detection", "mutual_best", "hungarian"])
def test_nothing_in(assignment):
    rules = LabelRules(assignment=assignment)
    assert not any(label_bodies([], [], [], [], [], rules=rules).counts().values())
    assert label([], [[0, 0, 5, 5]], rules)[0] == []
    assert label([[0, 0, 5, 5]], [], rules)[:2] == (["no_face"], [-1])


def test_refusals():
    box = [[0, 0, 5, 5]]
    for bad in (np.nan, np.inf, 1e30):
        with pytest.raises(DataError, match=r"body_xyxy: expected pixels .* row 0 \(1 such rows\)"):
            label_bodies([0], [[0, 0, bad, 5]], [0], box, [0], rules=PAPER)
    with pytest.raises(ValueError, match=r"face_xyxy: expected \(n, 4\), got \(1, 3\)"):
        label_bodies([0], box, [0], [[0, 0, 5]], [0], rules=PAPER)
    with pytest.raises(ValueError, match=r"body_frame: expected \(1,\) integers"):
        label_bodies([0.5], box, [0], box, [0], rules=PAPER)
    with pytest.raises(ValueError, match="face_subject: expected codes from 0"):
        label_bodies([0], box, [0], box, [-2], rules=PAPER)
    with pytest.raises(ValueError, match="body_score"):
        label_bodies([0], box, [0], box, [0], rules=PAPER, body_score=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"excluded\[too_small\]: expected \(1,\) booleans, got \(2,\) bool"):
        label_bodies([0], box, [0], box, [0], rules=PAPER, excluded={LabelStatus.TOO_SMALL: np.array([True, False])})
    with pytest.raises(ConfigError, match="min_overlap"):
        validate(LabelRules, {"min_overlap": 1.5}, "label")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rules": None}, r"rules: expected LabelRules, such as LabelRules\(\), got None"),
        ({"rules": {"measure": "iou"}}, "rules: expected LabelRules, such as .* got {'measure': 'iou'}"),
        ({"rules": LabelRules}, "rules: expected LabelRules, such as .* got <class"),
        ({"excluded": {"nope": [True, False]}}, "excluded: expected a status, one of labelled, .* got 'nope'"),
        ({"excluded": [True, False]}, r"excluded: expected masks by status, got \[True, False\]"),
        ({"excluded": {"too_small": [0, 1]}}, r"excluded\[too_small\]: expected \(2,\) booleans, got \(2,\) int64"),
        ({"body_xyxy": None}, r"body_xyxy: expected \(n, 4\), got \(\)"),
        ({"body_xyxy": [["a"] * 4] * 2}, "body_xyxy: expected numbers, got"),
        ({"body_score": ["a", "b"]}, r"body_score: expected numbers, got \['a', 'b'\]"),
        ({"face_frame": None}, r"face_frame: expected \(1,\) integers, got \(\) object"),
    ],
)
def test_what_no_rule_can_use_is_one_line(given, words):
    usual = {"body_frame": [0, 0], "body_xyxy": [[0, 0, 5, 5]] * 2, "face_frame": [0], "face_xyxy": [[0, 0, 5, 5]]}
    with pytest.raises(MdfError, match=words):
        label_bodies(**{**usual, "face_subject": [0], "rules": PAPER, **given})


def test_a_status_may_be_text():
    taken = {"too_small": [True, False]}
    got = label([[0, 0, 5, 5], [0, 0, 5, 5]], [[0, 0, 5, 5]], excluded=taken)[2]
    assert got.where("too_small").tolist() == [True, False]
    assert got.where(LabelStatus.LABELLED).tolist() == [False, True]
    for wrong in ("nope", None, ["labelled"]):
        with pytest.raises(ConfigError, match="expected a status, one of labelled, "):
            got.where(wrong)
