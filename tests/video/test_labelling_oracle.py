"""Naming bodies by faces at random: against an independent transcription of the rule, whatever the order of rows."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdfpipe.video import labelling
from mdfpipe.video.labelling import CODE, STATUSES, LabelRules, label_bodies
from tests.video.labelling_oracle import MEASURE_NAMES, exact, greatest, oracle, run

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
