"""Naming bodies by faces: scenes by hand, and an independent transcription of the rule as an oracle."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.store.tables import LabelStatus
from mdfpipe.video import labelling
from mdfpipe.video.labelling import CODE, STATUSES, LabelRules, Labels, label_bodies, silent_filter

MEASURE_NAMES = ["ioa_face", "iou", "iomin", "center_in", "head_iou"]
PAPER = LabelRules()


def label(bodies, faces, rules=PAPER, subjects=None, **more):
    """One frame: the names of the statuses, the faces and the labels."""
    subjects = list(range(len(faces))) if subjects is None else subjects
    got = label_bodies([0] * len(bodies), bodies, [0] * len(faces), faces, subjects, rules=rules, **more)
    return [str(STATUSES[code]) for code in got.status], got.face.tolist(), got


# ------------------------------------------------------------------------------------------ by hand


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
    assert len(label_bodies([], [], [], [], [], rules=rules)) == 0
    assert label([], [[0, 0, 5, 5]], rules)[0] == []
    assert label([[0, 0, 5, 5]], [], rules)[:2] == (["no_face"], [-1])
    assert repr(label_bodies([], [], [], [], [], rules=rules)) == "Labels(none)"


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
    with pytest.raises(ValueError, match=r"excluded\[too_small\]: expected \(1,\), got \(2,\)"):
        label_bodies([0], box, [0], box, [0], rules=PAPER, excluded={LabelStatus.TOO_SMALL: np.array([True, False])})
    with pytest.raises(ConfigError, match="min_overlap"):
        validate(LabelRules, {"min_overlap": 1.5}, "label")


# --------------------------------------------------- the rule again, one pair at a time, in exact fractions


def exact(measure, b, f):
    """One overlap as a Fraction. b and f are lists of whole numbers."""

    def size(x):
        return max(0, x[2] - x[0]) * max(0, x[3] - x[1])

    def common(x, y):
        return size([max(x[0], y[0]), max(x[1], y[1]), min(x[2], y[2]), min(x[3], y[3])])

    if measure == "head_iou":
        b = [b[0], b[1], b[2], b[1] + Fraction(b[3] - b[1], 7)]
    inter = common(b, f)
    if measure == "center_in":
        inside = 2 * b[0] <= f[0] + f[2] < 2 * b[2] and 2 * b[1] <= f[1] + f[3] < 2 * b[3]
        return Fraction(int(size(f) > 0 and inside))
    below = {"ioa_face": size(f), "iomin": min(size(b), size(f))}.get(measure, size(b) + size(f) - inter)
    return Fraction(inter) / below if below else Fraction(0)


def oracle(scene, rules):
    """(status, face, overlap, runner_up) of each body: the rule, word for word."""
    rows = []
    for b_frame, b, _ in scene["bodies"]:
        faces = [j for j, (frame, _, _) in enumerate(scene["faces"]) if frame == b_frame]
        over = {j: exact(rules.measure, b, scene["faces"][j][1]) for j in faces}
        who = {j: scene["faces"][j][2] if scene["faces"][j][2] >= 0 else ("unnamed", j) for j in faces}
        crowd = {
            who[j]
            for j in faces
            if exact(rules.ambiguity_measure, b, scene["faces"][j][1]) > Fraction(str(rules.ambiguity_threshold))
        }

        def merit(j, b=b, over=over):
            f = scene["faces"][j][1]
            near = (f[0] + f[2] - b[0] - b[2]) ** 2 + (f[1] + f[3] - 2 * b[1]) ** 2
            return (-over[j], -exact("iou", b, f), near, j)

        best = min((j for j in faces if over[j] > 0), key=merit, default=-1)
        top = over[best] if best >= 0 else Fraction(0)
        second = max((over[j] for j in faces if best >= 0 and who[j] != who[best]), default=Fraction(0))
        if len(crowd) > 1:
            status = "ambiguous"
        elif best < 0:
            status = "no_face"
        elif top < Fraction(str(rules.min_overlap)):
            status = "below_min_overlap"
        else:
            status = "labelled"
        rows.append([status, best, top, second])
    if rules.assignment == "mutual_best":
        for j in range(len(scene["faces"])):
            claims = [i for i, row in enumerate(rows) if row[0] == "labelled" and row[1] == j]

            def claim(i, j=j):
                return (
                    -rows[i][2],
                    -exact("iou", scene["bodies"][i][1], scene["faces"][j][1]),
                    -scene["bodies"][i][2],
                    i,
                )

            for loser in sorted(claims, key=claim)[1:]:
                rows[loser][0] = "lost_assignment"
    for row in rows:
        if row[0] == "labelled" and scene["faces"][row[1]][2] < 0:
            row[0] = "unnamed_face"
    return rows


def run(scene, rules) -> Labels:
    bodies, faces = scene["bodies"], scene["faces"]
    return label_bodies(
        [b[0] for b in bodies],
        [b[1] for b in bodies],
        [f[0] for f in faces],
        [f[1] for f in faces],
        [f[2] for f in faces],
        rules=rules,
        body_score=[b[2] for b in bodies],
    )


frames = st.integers(0, 2)
corner = st.integers(0, 6)
body = st.tuples(corner, corner, st.integers(0, 6), st.sampled_from([0, 7, 14])).map(
    lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]]
)
face = st.tuples(corner, corner, st.integers(0, 3), st.integers(0, 3)).map(
    lambda t: [t[0], t[1], t[0] + t[2], t[1] + t[3]]
)
scenes = st.fixed_dictionaries(
    {
        "bodies": st.lists(st.tuples(frames, body, st.sampled_from([0.25, 0.5])), max_size=8),
        "faces": st.lists(st.tuples(frames, face, st.integers(-1, 2)), max_size=8),
    }
)
some_rules = st.builds(
    LabelRules,
    measure=st.sampled_from(MEASURE_NAMES),
    ambiguity_measure=st.sampled_from(MEASURE_NAMES),
    min_overlap=st.sampled_from([0.0, 0.1, 0.5, 0.6, 1.0]),
    ambiguity_threshold=st.sampled_from([0.0, 0.1, 0.5, 0.75, 1.0]),
)


@settings(max_examples=400, deadline=None)
@given(scenes, some_rules, st.sampled_from(["per_detection", "mutual_best"]))
def test_against_the_oracle(scene, rules, assignment):
    rules = rules.model_copy(update={"assignment": assignment})
    got, expected = run(scene, rules), oracle(scene, rules)
    assert [str(STATUSES[c]) for c in got.status] == [row[0] for row in expected]
    assert got.face.tolist() == [row[1] for row in expected]
    np.testing.assert_allclose(got.overlap, [float(row[2]) for row in expected], rtol=1e-6)
    np.testing.assert_allclose(got.runner_up, [float(row[3]) for row in expected], rtol=1e-6)


@pytest.mark.parametrize("assignment", ["per_detection", "mutual_best"])
@pytest.mark.parametrize("measure", MEASURE_NAMES)
def test_a_long_video_against_the_oracle(measure, assignment, monkeypatch):
    """Many frames, crowded and empty ones, in blocks that are smaller than the video."""
    monkeypatch.setattr(labelling, "BLOCK_PAIRS", 7)
    rng = np.random.default_rng(MEASURE_NAMES.index(measure))

    def boxes(n, wide, high):
        corner = rng.integers(0, 24, (n, 2))
        return np.concatenate(
            [corner, corner + np.stack([rng.integers(1, wide, n), 7 * rng.integers(1, high, n)], 1)], 1
        )

    def rows(*columns):
        return list(zip(*(column.tolist() for column in columns), strict=True))

    scene = {
        "bodies": rows(rng.integers(0, 40, 120), boxes(120, 12, 4), rng.integers(0, 3, 120) / 4),
        "faces": rows(rng.integers(0, 40, 120), boxes(120, 5, 2), rng.integers(-1, 5, 120)),
    }
    rules = LabelRules(measure=measure, assignment=assignment, min_overlap=0.1)
    got, expected = run(scene, rules), oracle(scene, rules)
    assert [str(STATUSES[c]) for c in got.status] == [row[0] for row in expected]
    assert got.face.tolist() == [row[1] for row in expected]
    assert len({row[0] for row in expected}) >= 4


@settings(max_examples=200, deadline=None)
@given(scenes, some_rules)
def test_hungarian_against_all_permutations(scene, rules):
    """Total overlap as great as that of the best of all one-to-one choices, then total IoU; others as before."""
    rules = rules.model_copy(update={"assignment": "hungarian"})
    got, alone = run(scene, rules), oracle(scene, rules)
    least = Fraction(str(rules.min_overlap))
    for frame in range(3):
        faces = [j for j, f in enumerate(scene["faces"]) if f[0] == frame]
        bodies = [i for i, b in enumerate(scene["bodies"]) if b[0] == frame]
        free = [i for i in bodies if alone[i][0] in ("labelled", "unnamed_face")]
        for i in set(bodies) - set(free):
            assert str(STATUSES[got.status[i]]) == alone[i][0]
            assert got.face[i] == alone[i][1]
        worth = {}
        for i, j in itertools.product(free, faces):
            over = exact(rules.measure, scene["bodies"][i][1], scene["faces"][j][1])
            if over > 0 and over >= least:
                worth[i, j] = (over, exact("iou", scene["bodies"][i][1], scene["faces"][j][1]))
        took = {i: int(got.face[i]) for i in free if got.status[i] in (CODE["labelled"], CODE["unnamed_face"])}
        assert len(set(took.values())) == len(took)  # one to one
        assert all(got.status[i] == CODE["lost_assignment"] for i in set(free) - set(took))
        for i, j in took.items():
            assert (got.status[i] == CODE["unnamed_face"]) == (scene["faces"][j][2] < 0)
            assert got.overlap[i] == np.float32(float(worth[i, j][0]))
        best = greatest([{j: worth[i, j] for j in faces if (i, j) in worth} for i in free])
        total = [sum(worth[i, j][k] for i, j in took.items()) for k in range(2)]
        assert float(total[0]) == pytest.approx(float(best[0]), abs=1e-6)
        if all(over.denominator.bit_count() == 1 for over, _ in worth.values()):  # totals without rounding
            assert total[0] == best[0]
            assert float(total[1]) == pytest.approx(float(best[1]), abs=1e-4)


def greatest(options):
    """The greatest (total overlap, total IoU) of all one-to-one choices, by trying them all."""
    found = {frozenset(): (Fraction(0), Fraction(0))}
    for choices in options:
        grown = dict(found)
        for used, total in found.items():
            for j, gain in choices.items():
                if j not in used:
                    value = (total[0] + gain[0], total[1] + gain[1])
                    grown[used | {j}] = max(value, grown.get(used | {j}, value))
        found = grown
    return max(found.values())


@pytest.mark.parametrize("assignment", ["per_detection", "mutual_best", "hungarian"])
@pytest.mark.parametrize("measure", MEASURE_NAMES)
def test_order_of_rows_does_not_matter(measure, assignment):
    """Where no tie is left (boxes and scores all different), shuffled rows give the answer shuffled."""
    rng = np.random.default_rng(3)

    def boxes(n, side):
        low = rng.uniform(0, 60, (n, 2))
        return np.concatenate([low, low + rng.uniform(side / 2, side, (n, 2))], axis=1)

    n, m = 400, 300
    at_body, body, score = rng.integers(0, 60, n), boxes(n, 60), rng.permutation(n) / n
    at_face, face, subject = rng.integers(0, 60, m), boxes(m, 12), rng.integers(-1, 9, m)
    rules = LabelRules(measure=measure, assignment=assignment, min_overlap=0.05, ambiguity_threshold=0.9)
    first = label_bodies(at_body, body, at_face, face, subject, rules=rules, body_score=score)
    p, q = rng.permutation(n), rng.permutation(m)
    second = label_bodies(at_body[p], body[p], at_face[q], face[q], subject[q], rules=rules, body_score=score[p])
    assert np.array_equal(second.status, first.status[p])
    assert np.array_equal(second.overlap, first.overlap[p])
    assert np.array_equal(second.runner_up, first.runner_up[p])
    assert np.array_equal(np.where(second.face >= 0, q[second.face], -1), first.face[p])
    assert sum(count > 0 for count in first.counts().values()) >= (4 if assignment == "per_detection" else 5)
