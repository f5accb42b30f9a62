"""Answers that others have published for scores that lie beside them (bob.measure, BOSARIS)."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri

from mdfpipe.evaluation.comparing import Entries
from mdfpipe.evaluation.measures.closed_set import closed_set, cmc
from mdfpipe.evaluation.measures.open_set import OpenSet
from mdfpipe.evaluation.measures.verification import errors_at, roc
from mdfpipe.evaluation.search import Ranking, search_scores
from tests.evaluation.hdf5 import read_hdf5
from tests.real import ASSETS, needs_assets

FOLDER = ASSETS / "scores" / "bob_measure"
Scores = NDArray[np.float64]

pytestmark = needs_assets


def array(name: str, key: str = "array") -> Scores:
    found = read_hdf5(FOLDER / f"{name}.hdf5")[key]
    assert found is not None
    return found


def pairs(name: str) -> tuple[Scores, Scores]:
    """Mated, non-mated."""
    return array(f"{name}-positives"), array(f"{name}-negatives")


def test_nonseparable_scores() -> None:
    curve = roc(*pairs("nonsep"))
    assert curve.auc().value == 0.9326
    assert curve.rocch_eer().value == pytest.approx(0.116363636363636, abs=1e-14)
    found = [curve.tar_at(far) for far in (0.01, 0.1, 1)]
    assert [m.n - (m.k or 0) for m in found] == [24, 6, 0]  # FRR .48, .12, 0 of 50
    assert [m.k_false for m in found[:2]] == [0, 5]  # FAR 0, .1


def test_hulls_of_bosaris() -> None:
    far, frr = roc(*pairs("nonsep")).hull()
    np.testing.assert_allclose(far, [0, 0, 0.06, 0.1, 0.28, 0.68, 1], atol=1e-15)
    np.testing.assert_allclose(frr, [1, 0.48, 0.22, 0.12, 0.08, 0, 0], atol=1e-15)
    separable = roc(*pairs("linsep"))
    assert [side.tolist() for side in separable.hull()] == [[0, 0, 1], [1, 0, 0]]
    assert separable.rocch_eer().value == separable.eer().value == 0
    assert separable.auc().value == 1


def test_roc_and_det_points() -> None:
    mated, nonmated = pairs("nonsep")
    curve = roc(mated, nonmated)
    published = array("nonsep-roc")
    scores = np.concatenate([mated, nonmated])
    thresholds = np.concatenate([scores, np.nextafter(scores, -np.inf), np.nextafter(scores, np.inf)])
    ours = {tuple(metric.value for metric in errors_at(mated, nonmated, t)) for t in thresholds}
    assert {tuple(point) for point in published.T.tolist()} <= ours
    for far, missed in published.T:
        assert curve.tar_at(far).value >= 1 - missed - 1e-12
    normal, inside = array("nonsep-det"), (published > 0) & (published < 1)
    np.testing.assert_allclose(ndtri(published[inside]), normal[inside], atol=1e-6)  # the axes that DET is drawn on


def read_lines(name: str) -> tuple[Scores, Scores, int]:
    """Mated, non-mated, and how many of both failed."""
    rows = np.loadtxt(FOLDER / f"{name}.txt")
    there = ~np.isnan(rows[:, 1])
    return rows[there & (rows[:, 0] == 1), 1], rows[there & (rows[:, 0] == -1), 1], int((~there).sum())


@pytest.mark.parametrize(
    ("name", "threshold", "false_matches", "false_non_matches"),
    [
        ("dev-1", -8.025286e-03, (31, 495), (28, 451)),
        ("test-1", -8.025286e-03, (27, 479), (29, 473)),
        ("dev-2", 1.652567e-02, (23, 501), (20, 446)),
        ("test-2", 1.652567e-02, (16, 480), (33, 471)),
    ],
)
def test_errors_at_a_threshold_chosen_elsewhere(
    name: str, threshold: float, false_matches: tuple[int, int], false_non_matches: tuple[int, int]
) -> None:
    mated, nonmated, failed = read_lines(name)
    fmr, fnmr = errors_at(mated, nonmated, threshold)
    assert (fmr.k, fmr.n) == false_matches
    assert (fnmr.k, fnmr.n) == false_non_matches
    assert failed == 1000 - len(mated) - len(nonmated)


def test_equal_error_rate_is_where_the_published_threshold_says() -> None:
    for name, far, frr in (("dev-1", 31 / 495, 28 / 451), ("dev-2", 23 / 501, 20 / 446)):
        curve = roc(*read_lines(name)[:2], whole=True)
        assert curve.eer_hter().value == (far + frr) / 2  # FAR and FRR as near as can be
        assert curve.eer().value <= far  # both as low as can be


def as_search(mated: Scores | None, others: Scores) -> tuple[list[str], Scores]:
    """One probe's gallery: its mates, named `me`, and others."""
    own = [] if mated is None else mated.tolist()
    return ["me"] * len(own) + [f"other {i}" for i in range(len(others))], np.array([*own, *others])


def test_cmc() -> None:
    """Every published probe has one mate and 19 others, whose names are not told: column 0 is the mate."""
    others, mated = array("test-cmc", "data-neg"), array("test-cmc", "data-pos")
    ranks = []
    for own, rest in zip(mated, others, strict=True):
        names, scores = as_search(own, rest)
        found = search_scores(scores[None], Entries("gallery", np.array(names)), Entries("probes", np.array(["me"])))
        ranks.append(found.rank[0])
    share = [np.mean(np.array(ranks) <= k) for k in range(1, 21)]
    assert share == [0.76, 0.89, 0.96, 0.98] + [1.0] * 16


def open_set_file(name: str) -> tuple[Ranking, OpenSet]:
    """The published probes as one search: probe i's scores of others, padded by an entry that never matches."""
    found = read_hdf5(FOLDER / f"{name}.hdf5")
    probes = range(sum(key.startswith("data-neg") for key in found))
    mates = [f"p{i}" for i in probes if found[f"data-pos-{i}"] is not None]
    matrix = np.full((len(probes), len(mates) + 3), -99.0)
    for i in probes:
        others, own = found[f"data-neg-{i}"], found[f"data-pos-{i}"]
        assert others is not None
        matrix[i, len(mates) : len(mates) + len(others)] = others
        if own is not None:
            matrix[i, mates.index(f"p{i}")] = own.max()
    gallery = Entries("gallery", np.array([*mates, "x", "y", "z"]))
    ranking = search_scores(matrix, gallery, Entries("probes", np.array([f"p{i}" for i in probes])), unmated="miss")
    return ranking, OpenSet.of(ranking)


@pytest.mark.parametrize(
    ("name", "succeed", "alarms", "first"),
    [("test0-open-set", (7, 7), (0, 2), (7, 9)), ("test1-open-set", (6, 7), (0, 2), (6, 9)),
     ("test2-open-set", (6, 7), (1, 2), (6, 9))],
)  # fmt: skip
def test_open_set(name: str, succeed: tuple[int, int], alarms: tuple[int, int], first: tuple[int, int]) -> None:
    ranking, searches = open_set_file(name)
    found, false, rank_1 = searches.dir(0.5), searches.fpir(0.5), closed_set(ranking, ["rank-1"])[0]
    assert (found.k, found.n) == succeed
    assert (false.k, false.n) == alarms
    assert (rank_1.k, rank_1.n) == first
    assert cmc(ranking, 1).k.tolist() == [first[0]]


def test_reader_of_the_files() -> None:
    first = array("nonsep-positives"), array("nonsep-negatives")
    assert [side[:3].tolist() for side in first] == [[7.0, 6.4, 6.9], [5.1, 4.9, 4.7]]  # Fisher's irises
    assert array("two-cols", "negatives").shape == (521,)
