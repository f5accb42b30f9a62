"""Metrics: worked by hand, against scalar transcriptions, against the definitions of others."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation import comparing
from mdfpipe.evaluation.comparing import Removal
from mdfpipe.evaluation.measures.closed_set import CLOSED_SET, closed_set, cmc
from mdfpipe.evaluation.measures.metrics import mean_of_rows, rate, share_name
from mdfpipe.evaluation.measures.open_set import OpenSet
from mdfpipe.evaluation.measures.verification import Roc, errors_at, roc, verify, verify_scores
from mdfpipe.evaluation.search import search_scores
from tests.evaluation.test_search import GALLERY, PROBES, WORKED, made, matches, sides

Array = NDArray[Any]
INF = float("inf")
ROUND = 1e-12


def worked(unmated: Any = "exclude") -> Any:
    return search_scores(WORKED, *sides(GALLERY, PROBES), unmated=unmated)


# -- closed set


def test_closed_set_worked_by_hand() -> None:
    """Places: a 1 and 4; b 3; c 2; nobody has no mate."""
    curve = cmc(worked(), depth=6)
    assert (curve.k.tolist(), curve.n) == ([1, 2, 3, 3, 3, 3], 3)
    first, mean, penalty = closed_set(worked(), ["rank-1", "map", "minp"])
    assert (first.name, first.value, first.k, first.n) == ("rank-1", 1 / 3, 1, 3)
    assert (mean.name, mean.k, mean.n) == ("map", None, 3)
    assert mean.value == pytest.approx((3 / 4 + 1 / 3 + 1 / 2) / 3)
    assert penalty.value == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)


def test_misses_count() -> None:
    assert cmc(worked("miss"), depth=3).share.tolist() == [1 / 4, 2 / 4, 3 / 4]
    by_name = {metric.name: metric for metric in closed_set(worked("miss"), failed=1)}
    assert tuple(by_name) == CLOSED_SET
    assert {metric.n for metric in by_name.values()} == {5}
    assert by_name["rank-5"].k == 3
    assert by_name["map"].value == pytest.approx((3 / 4 + 1 / 3 + 1 / 2) / 5)
    assert by_name["minp"].value == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 5)


def test_closed_set_refusals() -> None:
    nobody = search_scores(WORKED[3:], *sides(GALLERY, PROBES[3:]), unmated="exclude")
    for name in ("rank-1", "map", "minp"):
        with pytest.raises(ProtocolError, match=f"{name}: expected a probe with a mate, got none of 1"):
            closed_set(nobody, [name])
    with pytest.raises(ProtocolError, match="cmc: expected a probe with a mate"):
        cmc(nobody)
    for name in ("rank-", "rank-0", "mAP"):
        with pytest.raises(ProtocolError, match="expected"):
            closed_set(worked(), [name])


def scikit_average_precision(relevant: list[bool], scores: list[float]) -> float:
    """As scikit-learn defines it: over thresholds, from high to low, the gain in recall times the precision."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        at = [r for r, s in zip(relevant, scores, strict=True) if s >= threshold]
        total += (sum(at) - before) / sum(relevant) * sum(at) / len(at)
        before = sum(at)
    return total


@settings(deadline=None, max_examples=60)
@given(matches())
def test_average_precision_is_scikit_learns(match: Any) -> None:
    """Once ties are broken against the system, the way ours are; above it or equal where they are not."""
    scores, gallery, probes, _ = match
    found = search_scores(scores, *sides(gallery, probes), unmated="miss").average_precision
    for p, subject in enumerate(probes):
        relevant = gallery == subject
        if not relevant.any():
            assert found[p] == 0
            continue
        broken = scores[p].astype(float) - relevant * (1 + np.arange(len(gallery))) * 1e-3  # values differ by 0.25
        assert found[p] == pytest.approx(scikit_average_precision(relevant.tolist(), broken.tolist()), abs=ROUND)
        assert found[p] <= scikit_average_precision(relevant.tolist(), scores[p].tolist()) + ROUND


def market_evaluation(
    distance: Array, q_pids: Array, g_pids: Array, q_cams: Array, g_cams: Array
) -> tuple[Array, float]:
    """The Market-1501 evaluation of re-identification codes, step by step: CMC of 50 ranks, mAP."""
    curves, precisions = [], []
    for q in range(len(q_pids)):
        order = np.argsort(distance[q], kind="stable")
        keep = [g for g in order if not (g_pids[g] == q_pids[q] and g_cams[g] == q_cams[q])]
        hits = [bool(g_pids[g] == q_pids[q]) for g in keep]
        if not any(hits):
            continue
        curves.append([any(hits[: k + 1]) for k in range(50)])
        precisions.append(np.mean([sum(hits[: i + 1]) / (i + 1) for i, hit in enumerate(hits) if hit]))
    return np.mean(curves, axis=0), float(np.mean(precisions))


def test_market_evaluation_of_the_research_codes() -> None:
    rng = np.random.default_rng(8)
    scores = rng.standard_normal((40, 90))  # no ties
    q_pids, g_pids = rng.integers(0, 15, 40), rng.integers(0, 15, 90)
    q_cams, g_cams = rng.integers(0, 4, 40), rng.integers(0, 4, 90)
    both = sides(g_pids, q_pids, gallery_codes=g_cams, probe_codes=q_cams)
    found = search_scores(scores, *both, removal=Removal("same camera"), unmated="exclude")
    curve, mean = market_evaluation(-scores, q_pids, g_pids, q_cams, g_cams)
    assert closed_set(found, ["map"])[0].value == pytest.approx(mean, abs=ROUND)
    np.testing.assert_allclose(cmc(found, 50).share, curve, atol=ROUND)


# -- open set


def test_open_set_worked_by_hand() -> None:
    """Mates: .9 at place 1, .6 at place 3, .4 at place 2. The only non-mated search reaches .45."""
    searches = OpenSet.of(worked())
    strict, all_in = searches.fnir_at(0.01), searches.fnir_at(1)
    assert (strict.name, strict.k, strict.n, strict.threshold) == ("fnir@fpir=0.01", 2, 3, 0.9)
    assert (strict.k_false, strict.n_false) == (0, 1)
    assert (all_in.k, all_in.threshold, all_in.k_false) == (2, 0.9, 0)  # two are not at place 1 at any threshold
    wider = OpenSet.of(worked(), rank_limit=3)
    assert [wider.fnir_at(fpir).k for fpir in (0.01, 1)] == [1, 0]
    assert wider.fnir_at(1).k_false == 1
    assert wider.dir_at(0.01).name == "dir-rank3@fpir=0.01"
    assert wider.dir_at(0.01).k == 2
    assert (searches.fpir(0.45).k, searches.fpir(0.46).k, searches.dir(0.9).k, searches.dir(0.91).k) == (1, 0, 1, 0)
    assert OpenSet.of(worked(), failed=1).fnir_at(0.01).value == 3 / 4


def test_a_mate_that_ties_with_an_alarm_is_not_found() -> None:
    searches = OpenSet(np.array([0.5]), np.array([1]), np.array([0.5, 0.1]))
    assert searches.fnir_at(0.1).value == 1
    assert searches.fnir_at(0.1).threshold == INF
    assert searches.fnir_at(0.5).value == 0


def test_galleries_apart_and_averaged() -> None:
    """IJB-C: the same probes against G1, where a and b are enrolled, and G2, where c and d are."""
    one = OpenSet.of(search_scores(WORKED[:, :3], *sides(GALLERY[:3], PROBES), unmated="exclude"), rank_limit=20)
    two = OpenSet.of(search_scores(WORKED[:, 3:], *sides(GALLERY[3:], PROBES), unmated="exclude"), rank_limit=20)
    parts = [one.dir_at(0.1), two.dir_at(0.1)]  # mates .9 and .6 against .8; mate .4 against .5
    assert [(part.k, part.n, part.n_false) for part in parts] == [(1, 2, 2), (0, 1, 3)]
    assert mean_of_rows([{"value": part.value} for part in parts]) == {"value": 0.25, "notes": ["mean"]}
    assert [part.dir_at(0.5).k for part in (one, two)] == [2, 1]  # one alarm is allowed


FEW = hnp.arrays(np.float64, st.integers(1, 8), elements=st.integers(0, 6).map(float))


@settings(deadline=None)
@given(FEW, FEW, st.integers(0, 2), st.sampled_from([0, 0.1, 0.25, 0.5, 0.9, 1]), st.integers(1, 3), st.data())
def test_fnir_is_the_best_of_all_thresholds(
    mated: Array, nonmated: Array, failed: int, fpir: float, limit: int, data: Any
) -> None:
    rank = data.draw(hnp.arrays(np.int64, mated.shape, elements=st.integers(1, 4)))
    searches = OpenSet(mated, rank, nonmated, failed, limit)
    found = searches.fnir_at(fpir)
    rates = []
    for t in [*np.arange(-1, 8, 0.5), INF]:
        alarms = sum(s >= t for s in nonmated) / len(nonmated)
        missed = failed + sum(not (s >= t and r <= limit) for s, r in zip(mated, rank, strict=True))
        rates.append((alarms, missed))
        assert alarms == searches.fpir(t).value
        assert missed == searches.n_mated - (searches.dir(t).k or 0)
    assert found.k == min(missed for alarms, missed in rates if alarms <= fpir)
    assert found.k_false is not None
    assert found.k_false <= fpir * len(nonmated) + 1e-9
    assert found.value + searches.dir_at(fpir).value == pytest.approx(1)


def test_open_set_refusals() -> None:
    one = np.array([0.5])
    with pytest.raises(ProtocolError, match=r"got 1 and 0; .*not enrolled"):
        OpenSet(one, np.array([1]), one[:0])
    with pytest.raises(ProtocolError, match="got 0 and 1"):
        OpenSet(one[:0], np.array([], int), one)
    with pytest.raises(ProtocolError, match="rank limit"):
        OpenSet(one, np.array([1]), one, rank_limit=0)
    with pytest.raises(ProtocolError, match="no NaN"):
        OpenSet(one * np.nan, np.array([1]), one)
    with pytest.raises(ProtocolError, match=r"fnir@fpir: expected a share of 0..1, got 1.5"):
        OpenSet(one, np.array([1]), one).fnir_at(1.5)


# -- verification


def test_verification_worked_by_hand() -> None:
    """Mated pairs .9 .6 .5 .4; of 16 others 4, 5 and 6 are at or above the last three."""
    curve = verify_scores(WORKED, *sides(GALLERY, PROBES))
    assert repr(curve) == "Roc(corners=4, mated=4, nonmated=16)"
    assert curve.threshold.tolist() == [0.9, 0.6, 0.5, 0.4]
    assert curve.false.tolist() == [0, 4, 5, 6]
    assert curve.above.tolist() == [0, 2, 4, 6]
    tars = [curve.tar_at(far) for far in (0.1, 0.25, 0.3, 1)]
    assert [(m.k, m.n, m.threshold, m.k_false) for m in tars] == [
        (1, 4, 0.9, 0),
        (2, 4, 0.6, 4),
        (2, 4, 0.6, 4),
        (4, 4, 0.4, 6),
    ]
    assert (curve.eer().value, curve.eer().threshold, curve.eer().k) == (5 / 16, 0.5, None)
    assert [side.tolist() for side in curve.hull()] == [[0, 0, 0.375, 1], [1, 0.75, 0, 0]]
    assert curve.rocch_eer().value == 0.25
    assert curve.auc().value == 50.5 / 64


@settings(deadline=None)
@given(FEW, FEW, st.integers(0, 2), st.sampled_from([0, 0.1, 0.25, 0.5, 0.9, 1]))
def test_roc_is_the_definition(mated: Array, nonmated: Array, failed: int, far: float) -> None:
    curve = roc(mated, nonmated, failed)
    n_mated, n_nonmated = len(mated) + failed, len(nonmated)
    at = [
        (sum(s >= t for s in nonmated) / n_nonmated, sum(s >= t for s in mated) / n_mated)
        for t in [*np.arange(-1, 8, 0.5), INF]
    ]
    assert curve.tar_at(far).value == max(tar for false, tar in at if false <= far)
    assert curve.eer().value == pytest.approx(min(max(false, 1 - tar) for false, tar in at), abs=ROUND)
    wins = sum((m > n) + (m == n) / 2 for m in mated for n in nonmated)
    assert curve.auc().value == pytest.approx(wins / n_mated / n_nonmated, abs=ROUND)
    x, y = curve.points()
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    if not failed:
        assert float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)) == pytest.approx(curve.auc().value, abs=ROUND)
    assert curve.rocch_eer().value == pytest.approx(best_mixture(at), abs=ROUND)
    assert curve.rocch_eer().value <= curve.eer().value + ROUND
    with pytest.raises(ProtocolError, match="eer-hter: expected scores that can be held at once"):
        curve.eer_hter()
    whole = roc(mated, nonmated, failed, whole=True)
    for name in ("eer", "rocch_eer", "auc"):
        assert getattr(whole, name)().value == getattr(curve, name)().value
    bob = min((round(abs(false - (1 - tar)), 12), (false + 1 - tar) / 2) for false, tar in at)[1]
    assert whole.eer_hter().value == pytest.approx(bob, abs=ROUND)
    assert whole.eer_fvc().value == pytest.approx(fvc(at), abs=ROUND)


def fvc(at: list[tuple[float, float]]) -> float:
    """FVC2000: t1 the greatest threshold with FMR >= FNMR, t2 the least with FMR <= FNMR; the smaller mean."""
    errors = [(false, 1 - tar) for false, tar in at]  # by rising threshold
    t1 = [one for one in errors if one[0] >= one[1] - ROUND][-1]
    t2 = next(one for one in errors if one[0] <= one[1] + ROUND)
    return min(sum(t1), sum(t2)) / 2


def best_mixture(at: list[tuple[float, float]]) -> float:
    """The least equal error rate that a mixture of two thresholds can have, pair by pair."""
    points = [*((false, 1 - tar) for false, tar in at), (1.0, 0.0), (0.0, 1.0)]
    best = 1.0
    for x0, y0 in points:
        for x1, y1 in points:
            before, after = x0 - y0, x1 - y1
            if before == after == 0:
                best = min(best, x0)
            elif before <= 0 <= after and before != after:
                best = min(best, x0 + before / (before - after) * (x1 - x0))
    return best


@settings(deadline=None, max_examples=40)
@given(matches(), st.sampled_from([64, 400, 1 << 20]), st.sampled_from([1, 3]), st.sampled_from(["mates", "everyone"]))
def test_all_pairs_of_a_search(match: Any, block: int, threads: int, of: Any) -> None:
    scores, gallery, probes, codes = match
    g_codes, p_codes = codes[: len(gallery)], codes[len(gallery) :]
    mated = probes[:, None] == gallery[None]
    gone = (p_codes[:, None] == g_codes[None]) & (mated | (of == "everyone"))
    both = sides(gallery, probes, gallery_codes=g_codes, probe_codes=p_codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "BLOCK_BYTES", block)
        if not (mated & ~gone).any() or not (~mated & ~gone).any():
            with pytest.raises(ProtocolError, match="verification: expected mated and non-mated pairs"):
                verify_scores(scores, *both, removal=Removal("rule", of), threads=threads)
            return
        found = verify_scores(scores, *both, removal=Removal("rule", of), threads=threads)
    same(found, roc(scores[mated & ~gone], scores[~mated & ~gone]))


def same(found: Roc, expected: Roc) -> None:
    for name in ("threshold", "accepted", "false", "above", "n_mated", "n_nonmated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_all_pairs_of_vectors() -> None:
    rng = np.random.default_rng(9)
    gallery, probes = (rng.standard_normal((n, 24)).astype(np.float32) for n in (60, 30))
    subjects = rng.integers(0, 7, 60), rng.integers(0, 7, 30)
    g, p = (side / np.linalg.norm(side.astype(float), axis=1, keepdims=True) for side in (gallery, probes))
    mated = subjects[1][:, None] == subjects[0][None]
    expected = roc((p @ g.T)[mated], (p @ g.T)[~mated])
    found = verify(*made(gallery, probes, *subjects))
    np.testing.assert_allclose(found.threshold, expected.threshold, atol=1e-6)
    np.testing.assert_array_equal(found.false, expected.false)
    assert found.auc() == expected.auc()


def test_verification_refusals() -> None:
    with pytest.raises(DataError, match="mated pairs: expected finite scores"):
        roc([np.nan], [0.1])
    with pytest.raises(ProtocolError, match="got 0 and 1"):
        roc([], [0.1])
    with pytest.raises(ProtocolError, match="got 1 and 0"):
        roc([0.1], [])
    with pytest.raises(DataError, match="scores: expected"):
        verify_scores(WORKED.T, *sides(GALLERY, PROBES))
    assert roc([], [0.1], failed=2).tar_at(1).value == 0
    assert roc([], [0.1], failed=2).eer().value == 1
    with pytest.raises(ProtocolError, match="fmr: expected something to count"):
        errors_at([0.1], [], 0.5)


def test_names() -> None:
    names = [share_name("tar", "far", far) for far in (1e-4, 1e-3, 1e-2, 1e-1, 5e-4, 0, 1e-6)]
    assert names == [f"tar@far={far}" for far in ("1e-4", "1e-3", "1e-2", "1e-1", "5e-4", "0", "1e-6")]
    assert [rate("rank-1", k, 63).value for k in (49, 50)] == [49 / 63, 50 / 63]
    assert all(a.value <= b.value for a, b in pairwise(closed_set(worked(), [f"rank-{k}" for k in (1, 2, 3, 4)])))
