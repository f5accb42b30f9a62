"""Fusion: cosines by hand, scales by hand, the grid's choice by brute force, who is common to whom."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mdfpipe.errors import DataError, MdfError, ProtocolError
from mdfpipe.evaluation.fusion import (
    Coverage,
    Normaliser,
    common,
    concatenate,
    fit_normaliser,
    fit_score_fusion,
    fuse_templates,
)
from mdfpipe.evaluation.pooling import pool
from mdfpipe.store.templates import Templates

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def cosine(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    return float(a.astype(float) @ b.astype(float) / np.linalg.norm(a.astype(float)) / np.linalg.norm(b.astype(float)))


def rank_1(scores: F64) -> float:
    """Of probes whose mates stand on the diagonal."""
    return float((scores.argmax(axis=1) == np.arange(len(scores))).mean())


def enrolled(
    modality: str, people: dict[str, list[float]], missing: tuple[str, ...] = (), role: str = "probe"
) -> Templates:
    """One template for each of the people; those of `missing` failed."""

    def rows(subjects: list[str]) -> pa.Table:
        usual = {"domain": "SWIR-30m", "modality": modality, "split": "test", "role": role, "video_id": "v1"}
        names = ["subject_id", *usual]
        return pa.table({n: pa.array([(usual | {"subject_id": s})[n] for s in subjects], pa.string()) for n in names})

    vectors = np.array(list(people.values()), np.float32)
    return pool(rows(list(people)), [vectors], expected=rows(list(missing)))


# -- common probes


def test_common_probes_and_their_coverage() -> None:
    found = common({"body": ["p3", "p1", "p2", "p5"], "face": ["p2", "p4", "p3"]})
    assert found.keys == ("p2", "p3")
    assert {name: at.tolist() for name, at in found.positions.items()} == {"body": [2, 0], "face": [0, 2]}
    assert found.coverage == Coverage({"body": 4, "face": 3}, 2, 5)
    assert found.coverage.line == "2 of 5 probes are common (40.0 %): body 4, face 3"
    assert common({"body": [], "face": []}).coverage.line == "0 of 0 probes are common: body 0, face 0"


@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=4), st.randoms())
@settings(max_examples=40, deadline=None)
def test_positions_lead_to_the_same_probe(sets: list[set[int]], random: NDArray[np.object_]) -> None:
    keys = {
        f"system {n}": sorted((f"p{value}" for value in values), key=lambda _: random.random())
        for n, values in enumerate(sets)
    }
    found = common(keys)
    assert set(found.keys) == {f"p{value}" for value in set.intersection(*sets)}
    for system, given_keys in keys.items():
        assert tuple(given_keys[at] for at in found.positions[system]) == found.keys


# -- by vectors


@given(st.integers(0, 1000), st.lists(st.floats(0.05, 9), min_size=2, max_size=3))
@settings(max_examples=40, deadline=None)
def test_the_cosine_of_fused_vectors_is_the_mean_of_cosines(seed: int, weights: list[float]) -> None:
    random = np.random.default_rng(seed)
    parts = [random.normal(size=(2, 3 + n)).astype(np.float32) * 10**n for n in range(len(weights))]
    fused = concatenate(parts, weights)
    mean = sum(w * cosine(part[0], part[1]) for w, part in zip(weights, parts, strict=True)) / sum(weights)
    assert cosine(fused[0], fused[1]) == pytest.approx(mean, abs=1e-6)
    assert np.linalg.norm(fused, axis=1) == pytest.approx(1, abs=1e-6)


def test_a_weight_of_nought_leaves_the_other_alone() -> None:
    body, face = np.array([[3, 4], [4, 3]], np.float32), np.array([[1, 0], [0, 1]], np.float32)
    fused = concatenate([body, face], [2, 0])
    np.testing.assert_allclose(fused, [[0.6, 0.8, 0, 0], [0.8, 0.6, 0, 0]], rtol=1e-7)


def test_fused_templates_keep_everybody_and_count_who_is_common() -> None:
    body = enrolled("body", {"s3": [0, 2], "s1": [3, 4], "s2": [1, 0]}, ("s4",))
    face = enrolled("face", {"s1": [0, 7], "s4": [1, 1], "s3": [5, 0]}, ("s2",))
    fused, coverage = fuse_templates({"body": body, "face": face}, {"face": 1, "body": 1})
    assert fused.subject.tolist() == ["s1", "s2", "s3", "s4"]
    assert fused.enrolled.tolist() == [True, False, True, False]
    assert set(fused.modality) == {"fused"}
    assert coverage.line == "2 of 4 probes are common (50.0 %): body 3, face 3"
    half = np.sqrt(0.5)
    expected = [[0.6 * half, 0.8 * half, 0, half], [0, 0, 0, 0], [0, half, half, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(fused.vectors, expected, rtol=1e-6)
    assert fused.crops.tolist() == [2, 0, 2, 0]
    assert fused.name[0] == "s1/SWIR-30m/test/probe/fused"
    assert fused.take(fused.enrolled).subject.tolist() == ["s1", "s3"]
    turned, _ = fuse_templates(
        {"body": body.take([2, 0, 1, 3]), "face": face.take([1, 0, 3, 2])}, {"body": 2, "face": 2}
    )
    assert turned.name == fused.name
    np.testing.assert_array_equal(turned.vectors, fused.vectors)


def test_a_template_that_was_never_expected_of_one_system_fails_in_the_fused() -> None:
    body, face = enrolled("body", {"s1": [1, 0], "s2": [0, 1]}), enrolled("face", {"s2": [1, 1]})
    fused, coverage = fuse_templates({"body": body, "face": face}, {"body": 1, "face": 3})
    assert (fused.failed, coverage.common, coverage.union) == (1, 1, 2)
    apart, coverage = fuse_templates({"body": body.where(subject="s1"), "face": face}, {"body": 1, "face": 3})
    assert (apart.failed, len(apart), coverage.common) == (2, 2, 0)


# -- by scores


def test_scales_by_hand() -> None:
    training = np.array([[1.0, 2.0], [3.0, -np.inf], [6.0, np.nan]])  # mean 3, variance (4 + 1 + 0 + 9) / 4
    z_norm, min_max = fit_normaliser(training, "z-norm"), fit_normaliser(training, "min-max")
    assert z_norm == Normaliser("z-norm", 3.0, pytest.approx(np.sqrt(3.5)))
    assert min_max == Normaliser("min-max", 1.0, 5.0)
    assert min_max([1, 6, 11, -np.inf]).tolist() == [0, 1, 2, -np.inf]  # not clipped
    assert z_norm(training)[np.isfinite(training)].std() == pytest.approx(1)


def training_scores(seed: int) -> dict[str, F64]:
    random = np.random.default_rng(seed)
    mates = np.eye(12)
    return {"body": random.normal(size=(12, 12)) + 1.5 * mates, "face": 40 * (random.normal(size=(12, 12)) + 2 * mates)}


@pytest.mark.parametrize("scale", ["z-norm", "min-max"])
def test_the_grid_is_searched_whole(scale: str) -> None:
    for seed in range(8):
        scores = training_scores(seed)
        people = [f"s{n}" for n in range(12)]
        fusion = fit_score_fusion(
            scores,
            rank_1,
            training_subjects=people,
            test_subjects=["t1"],
            scale=scale,
            steps=10,  # type: ignore[arg-type]
        )
        body, face = (
            (of - of.mean()) / of.std() if scale == "z-norm" else (of - of.min()) / (of.max() - of.min())
            for of in scores.values()
        )
        values = [rank_1(w / 10 * body + (1 - w / 10) * face) for w in range(11)]
        best = max(range(11), key=lambda w: (values[w], -abs(w - 5), w))
        assert fusion.value == max(values)
        assert fusion.weights == pytest.approx({"body": best / 10, "face": 1 - best / 10})
        np.testing.assert_allclose(
            fusion(scores), fusion.weights["body"] * body + fusion.weights["face"] * face, atol=1e-12
        )


def test_of_equal_weights_the_most_even_wins_then_the_first_named() -> None:
    scores = {name: np.eye(3) for name in ("body", "face", "gait")}
    people = {"training_subjects": ["a"], "test_subjects": ["b"]}
    even = fit_score_fusion(scores, rank_1, steps=3, **people)
    assert even.weights == pytest.approx({"body": 1 / 3, "face": 1 / 3, "gait": 1 / 3})
    two = {name: np.eye(3) for name in ("face", "body")}
    assert fit_score_fusion(two, rank_1, steps=3, **people).weights == pytest.approx({"face": 2 / 3, "body": 1 / 3})


def test_a_failure_stays_the_last_unless_its_system_has_no_say() -> None:
    scores = {"body": np.eye(3) + 0.1, "face": np.array([[5.0, 1, 0], [1, -np.inf, 0], [0, 0, 5]])}
    people = {"training_subjects": ["a"], "test_subjects": ["b"]}
    fusion = fit_score_fusion(scores, lambda fused: float(np.isfinite(fused).sum()), **people)
    assert fusion.weights == {"body": 1.0, "face": 0.0}
    assert np.isfinite(fusion(scores)).all()
    evenly = fit_score_fusion(scores, lambda fused: 0.0, **people)
    assert evenly(scores)[1, 1] == -np.inf


def test_weights_are_never_chosen_on_the_people_who_are_tested() -> None:
    with pytest.raises(ProtocolError, match=r"2 subjects \(s1, s2\) in training and in test"):
        fit_score_fusion(
            training_scores(0), rank_1, training_subjects=["s1", "s2", "s3"], test_subjects=["s2", "s1", "s9"]
        )


# -- errors


def wrong(what: str) -> None:
    ones, people = np.ones((2, 3), np.float32), {"training_subjects": ["a"], "test_subjects": ["b"]}
    match what:
        case "nothing":
            common({})
        case "twice":
            common({"body": ["p1", "p2", "p1"]})
        case "lengths":
            concatenate([ones, ones[:1]], [1, 1])
        case "weights":
            concatenate([ones, ones], [1])
        case "negative":
            concatenate([ones, ones], [1, -1])
        case "all nought":
            concatenate([ones, ones], [0, 0])
        case "zero":
            concatenate([ones, ones * [[1], [0]]], [1, 1])
        case "nan":
            concatenate([ones * np.nan], [1])
        case "modalities":
            body, face = enrolled("body", {"s1": [1]}), enrolled("face", {"s1": [1]})
            both = Templates(**{name: np.concatenate([getattr(t, name) for t in (body, face)]) for name in vars(body)})
            fuse_templates({"one": both}, {"one": 1})
        case "systems":
            fuse_templates({"body": enrolled("body", {"s1": [1]})}, {"face": 1})
        case "constant":
            fit_normaliser([2.0, 2.0], "z-norm")
        case "no scores":
            fit_normaliser([], "min-max")
        case "shapes":
            scores = {"body": np.eye(2), "face": np.eye(3)}
            fit_score_fusion(scores, rank_1, **people)
        case "measure":
            fit_score_fusion({"body": np.eye(2)}, lambda _: float("nan"), **people)
        case "grid":
            fit_score_fusion({"body": np.eye(2)}, rank_1, steps=0, **people)
        case "other systems":
            fit_score_fusion({"body": np.eye(2)}, rank_1, **people)({"face": np.eye(2)})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("nothing", "expected one or more systems, got none"),
        ("twice", "body has p1 twice"),
        ("lengths", "expected as many vectors of each system, got [2, 1]"),
        ("weights", "expected a weight of 0 or more for each of 2 systems, not all 0, got [1]"),
        ("negative", "not all 0, got [1, -1]"),
        ("all nought", "not all 0, got [0, 0]"),
        ("zero", "system 1: vector 1 is zero or not finite"),
        ("nan", "system 0: vector 0 is zero or not finite"),
        ("modalities", "system one has several modalities"),
        ("systems", "expected the systems face, got body"),
        ("constant", "z-norm: expected different training scores, got 2 finite ones"),
        ("no scores", "min-max: expected different training scores, got 0 finite ones"),
        ("shapes", "expected the same probes and gallery of all systems, got {'body': (2, 2), 'face': (3, 3)}"),
        ("measure", "the measure is NaN at weights {'body': 1.0}"),
        ("grid", "got 1 systems and 0 steps"),
        ("other systems", "expected the systems body, got face"),
    ],
)
def test_errors_are_one_line(what: str, said: str) -> None:
    with pytest.raises(MdfError) as caught:
        wrong(what)
    assert isinstance(caught.value, DataError)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
