"""Search: scalar transcriptions, ties, rules, refusals, and what must not change a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mdfpipe.errors import DataError, ProtocolError
from mdfpipe.evaluation import comparing
from mdfpipe.evaluation import search as searching
from mdfpipe.evaluation.comparing import Entries, Removal
from mdfpipe.evaluation.search import Ranking, at_least, search, search_scores

Array = NDArray[Any]
# four probes a, b, c and nobody; five entries: two of a, then b, c, d. Two ties, none of them harmless.
WORKED = np.array([
    [0.9, 0.5, 0.7, 0.5, 0.1],
    [0.6, 0.6, 0.6, 0.2, 0.1],
    [0.3, 0.2, 0.8, 0.4, 0.1],
    [0.45, 0.3, 0.2, 0.1, 0.0],
])  # fmt: skip
GALLERY, PROBES = ["a", "a", "b", "c", "d"], ["a", "b", "c", "nobody"]


def sides(gallery: Any, probes: Any, **more: Any) -> tuple[Entries, Entries]:
    """Entries without vectors; codes as `gallery_codes`, `probe_codes`."""
    codes = [more.get(f"{side}_codes") for side in ("gallery", "probe")]
    return (
        Entries("gallery", np.array(gallery), codes=codes[0]),
        Entries("probes", np.array(probes), codes=codes[1]),
    )


def made(gallery: Array, probes: Array, g_subjects: Any, p_subjects: Any) -> tuple[Entries, Entries]:
    return Entries("gallery", np.array(g_subjects), gallery), Entries("probes", np.array(p_subjects), probes)


def slow(scores: Array, gallery: Any, probes: Any, gone: Any = None) -> list[dict[str, Any]]:
    """The definition, entry by entry: rank, average precision, last rank, best scores."""
    found = []
    for p, subject in enumerate(probes):
        left = [g for g in range(len(gallery)) if gone is None or not gone[p][g]]
        mates = sorted((float(scores[p][g]) for g in left if gallery[g] == subject), reverse=True)
        others = [float(scores[p][g]) for g in left if gallery[g] != subject]
        places = [i + 1 + sum(other >= mate for other in others) for i, mate in enumerate(mates)]
        found.append(
            {
                "mates": len(mates),
                "rank": places[0] if places else 0,
                "last_rank": places[-1] if places else 0,
                "average_precision": sum((i + 1) / n for i, n in enumerate(places)) / max(len(places), 1),
                "mated": max(mates, default=-np.inf),
                "nonmated": max(others, default=-np.inf),
                "ranks": places,
            }
        )
    return found


def agrees(ranking: Ranking, expected: list[dict[str, Any]], close: float = 0) -> None:
    for name in ("mates", "rank", "last_rank"):
        assert getattr(ranking, name).tolist() == [row[name] for row in expected], name
    np.testing.assert_allclose(ranking.average_precision, [row["average_precision"] for row in expected], rtol=1e-12)
    for name in ("mated", "nonmated"):
        np.testing.assert_allclose(getattr(ranking, name), [row[name] for row in expected], rtol=close, atol=close)
    if ranking.ranks is not None and ranking.first is not None:
        assert ranking.ranks.tolist() == [place for row in expected for place in row["ranks"]]
        assert np.diff(ranking.first).tolist() == [len(row["ranks"]) for row in expected]


def test_worked_by_hand() -> None:
    found = search_scores(WORKED, *sides(GALLERY, PROBES), unmated="exclude", all_ranks=True, top=3)
    assert found.rank.tolist() == [1, 3, 2, 0]  # b ties with both of a
    assert found.last_rank.tolist() == [4, 3, 2, 0]  # the second mate of a ties with c
    assert found.average_precision.tolist() == [0.75, 1 / 3, 0.5, 0]
    assert found.mated.tolist() == [0.9, 0.6, 0.4, -np.inf]
    assert found.nonmated.tolist() == [0.7, 0.6, 0.8, 0.45]
    assert found.counted.tolist() == [True, True, True, False]
    assert found.ranks is not None
    assert found.ranks.tolist() == [1, 4, 3, 2]
    assert found.top.tolist() == [[0, 2, 1], [0, 1, 2], [2, 3, 0], [0, 1, 2]]
    assert found.top_score[0].tolist() == [0.9, 0.7, 0.5]
    assert (found.n_gallery, found.n_subjects, len(found)) == (5, 4, 4)
    assert repr(found) == "Ranking(probes=4, counted=3, gallery=5)"


COUNTS = st.integers(1, 5)


@st.composite
def matches(draw: st.DrawFn, many: int = 9) -> tuple[Array, Array, Array, Array]:
    """Scores of few values, so that ties abound; subjects; a rule's pairs."""
    n_probes, n_gallery = draw(st.integers(1, many)), draw(st.integers(2, many + 6))
    gallery = draw(hnp.arrays(np.int64, n_gallery, elements=st.integers(0, 3)))
    gallery[:2] = [0, 1]  # two subjects or more
    probes = draw(hnp.arrays(np.int64, n_probes, elements=st.integers(0, 4)))
    kind = draw(st.sampled_from([np.float32, np.float64]))
    scores = draw(hnp.arrays(np.int64, (n_probes, n_gallery), elements=st.integers(-3, 3))).astype(kind) / 4
    return scores, gallery, probes, draw(hnp.arrays(np.int64, n_probes + n_gallery, elements=st.integers(0, 2)))


@settings(deadline=None, max_examples=60)
@given(matches(), st.sampled_from([1, 3, 200]), st.sampled_from([1, 2]), st.sampled_from([0, 12]))
def test_it_is_the_definition(match: Any, chunk: int, threads: int, few: int) -> None:
    scores, gallery, probes, _ = match
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "CHUNK_BYTES", chunk)
        patch.setattr(searching, "FEW", few)
        patch.setattr(comparing, "BLOCK_BYTES", 4 * chunk)
        found = search_scores(scores, *sides(gallery, probes), unmated="miss", all_ranks=True, threads=threads)
    agrees(found, slow(scores, gallery, probes))


@settings(deadline=None, max_examples=40)
@given(matches(), st.sampled_from(["mates", "everyone"]), st.sampled_from([None, ((0, 1), (2, 2))]))
def test_a_rule_leaves_pairs_out(match: Any, of: Any, pairs: Any) -> None:
    scores, gallery, probes, codes = match
    g_codes, p_codes = codes[: len(gallery)], codes[len(gallery) :]
    given_pairs = [(i, i) for i in range(3)] if pairs is None else pairs
    gone = [
        [
            (int(p), int(g)) in given_pairs and (of == "everyone" or gallery[j] == probes[i])
            for j, g in enumerate(g_codes)
        ]
        for i, p in enumerate(p_codes)
    ]
    mated = np.array([[g == p for g in gallery] for p in probes])
    both = sides(gallery, probes, gallery_codes=g_codes, probe_codes=p_codes)
    rule = Removal("a rule", of, pairs)
    if mated.any() and not (mated & ~np.array(gone)).any():
        with pytest.raises(ProtocolError, match="rule 'a rule' left out every mate of every probe"):
            search_scores(scores, *both, unmated="miss", removal=rule)
        return
    found = search_scores(scores, *both, unmated="miss", removal=rule, all_ranks=True, top=4)
    agrees(found, slow(scores, gallery, probes, gone))
    assert found.removed_mated == (mated & gone).sum()
    assert found.removed_nonmated == (~mated & gone).sum()
    assert not any(gone[i][g] for i, row in enumerate(found.top) for g in row if g >= 0)


@settings(deadline=None, max_examples=40)
@given(matches(), st.randoms(use_true_random=False))
def test_order_and_monotone_maps_change_nothing(match: Any, random: Any) -> None:
    scores, gallery, probes, _ = match
    g, p = list(range(len(gallery))), list(range(len(probes)))
    random.shuffle(g)
    random.shuffle(p)
    plain = search_scores(scores, *sides(gallery, probes), unmated="miss")
    for map_ in (lambda x: x, lambda x: 3 * x - 7, np.exp, lambda x: x**3):
        turned = map_(scores)[p][:, g]
        found = search_scores(turned, *sides(gallery[g], probes[p]), unmated="miss")
        for name in ("rank", "last_rank", "average_precision", "mates", "counted"):
            np.testing.assert_array_equal(getattr(found, name), getattr(plain, name)[p])


def exact_scores(gallery: Array, probes: Array, measure: str) -> Array:
    g, p = gallery.astype(np.float64), probes.astype(np.float64)
    if measure == "euclidean":
        return -np.sqrt(((p[:, None] - g[None]) ** 2).sum(axis=2))
    g, p = (side / np.sqrt((side * side).sum(axis=1, keepdims=True)) for side in (g, p))
    return (p[:, None] * g[None]).sum(axis=2)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
@pytest.mark.parametrize("offset", [0, 50])  # far from the origin float32 loses what tells people apart
def test_vectors_rank_as_in_double_precision(measure: Any, offset: float) -> None:
    rng = np.random.default_rng(3)
    gallery, probes = (rng.standard_normal((n, 32)).astype(np.float32) + np.float32(offset) for n in (150, 60))
    subjects = rng.integers(0, 12, 150), rng.integers(0, 12, 60)
    scores = exact_scores(gallery, probes, measure)
    found = search(*made(gallery, probes, *subjects), measure, all_ranks=True, top=5)
    agrees(found, slow(scores, *subjects), close=1e-12 if measure == "cosine" else 1e-9)
    assert found.top.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :5].tolist()


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_equal_vectors_tie_wherever_they_stand(measure: Any) -> None:
    """A matrix product may give equal vectors scores that differ in the last bit."""
    rng = np.random.default_rng(4)
    kinds = rng.standard_normal((3, 129)).astype(np.float32)
    which = rng.integers(0, 3, 301)
    subjects = np.arange(301)  # one entry each: all others like it are ties
    found = search(*made(kinds[which], kinds[which[:40]], subjects, subjects[:40]), measure, threads=2)
    assert found.rank.tolist() == np.bincount(which)[which[:40]].tolist()


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_a_collapsed_system_finds_nobody(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "MANY", 20)
    same = np.ones((50, 7), np.float32)
    found = search(*made(same, same[:9], np.arange(50), np.arange(9)), measure)
    assert found.rank.tolist() == [50] * 9
    assert found.mated.tolist() == found.nonmated.tolist()


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_place_threads_and_blocks_change_nothing(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    gallery, probes = (rng.standard_normal((n, 40)).astype(np.float32) for n in (90, 33))
    gallery[10:20] = gallery[0]
    subjects = rng.integers(0, 6, 90), rng.integers(0, 6, 33)
    plain = search(*made(gallery, probes, *subjects), measure)
    g, p = rng.permutation(90), rng.permutation(33)
    monkeypatch.setattr(comparing, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(searching, "CHUNK_BYTES", 700)
    other = search(*made(gallery[g], probes[p], subjects[0][g], subjects[1][p]), measure, threads=3)
    for name in ("rank", "last_rank", "average_precision", "mated", "nonmated"):
        np.testing.assert_array_equal(getattr(other, name), getattr(plain, name)[p])


def test_length_does_not_matter_to_a_cosine() -> None:
    rng = np.random.default_rng(6)
    gallery, probes = (rng.standard_normal((n, 16)).astype(np.float32) for n in (40, 20))
    subjects = np.arange(40) % 9, np.arange(20) % 9
    plain = search(*made(gallery, probes, *subjects))
    scale = np.float32(2) ** rng.integers(-40, 40, (60, 1)).astype(np.float32)
    other = search(*made(gallery * scale[:40], probes * scale[40:], *subjects))
    assert other.rank.tolist() == plain.rank.tolist()
    np.testing.assert_allclose(other.mated, plain.mated, rtol=1e-12)


def test_given_scores_stay_as_they_were() -> None:
    scores = WORKED.copy()
    scores.flags.writeable = False
    search_scores(scores, *sides(GALLERY, PROBES), unmated="miss", top=2)
    np.testing.assert_array_equal(scores, WORKED)
    whole = search_scores((WORKED * 100).astype(int), *sides(GALLERY, PROBES), unmated="miss")
    assert whole.rank.tolist() == [1, 3, 2, 0]


def test_policies_for_probes_without_a_mate() -> None:
    both = sides(GALLERY, PROBES)
    with pytest.raises(ProtocolError, match=r"1 of 4 probes \(of nobody\) have no mate.*exclude .* miss"):
        search_scores(WORKED, *both)
    assert search_scores(WORKED, *both, unmated="miss").counted.all()
    with pytest.raises(ProtocolError, match="unmated: expected refuse, exclude, miss, got 'skip'"):
        search_scores(WORKED, *both, unmated="skip")  # type: ignore[arg-type]
    many = sides(["a", "b"], [f"p{i}" for i in range(9)])
    with pytest.raises(ProtocolError, match=r"9 of 9 probes \(of p0, p1, p2, p3, p4 and 4 more\)"):
        search_scores(np.zeros((9, 2)), *many)


def test_a_rule_that_removes_too_much() -> None:
    codes: Any = {"gallery_codes": np.array([1, 1, 2, 3, 4]), "probe_codes": np.array([1, 9, 9])}
    both = sides(GALLERY, PROBES[:3], **codes)
    with pytest.raises(ProtocolError, match=r"rule 'same camera' left out every mate of 1 of 3 probes \(of a\)"):
        search_scores(WORKED[:3], *both, removal=Removal("same camera"))
    found = search_scores(WORKED[:3], *both, removal=Removal("same camera"), unmated="exclude")
    assert (found.removed_mated, found.removed_nonmated, found.rule) == (2, 0, "same camera")
    assert "rule='same camera' left out 2+0 pairs" in repr(found)
    with pytest.raises(ProtocolError, match="expected codes of gallery and probes"):
        search_scores(WORKED, *sides(GALLERY, PROBES), removal=Removal("same camera"))


def test_refusals() -> None:
    with pytest.raises(ProtocolError, match="gallery: expected two subjects or more, got a alone"):
        search_scores(np.zeros((1, 2)), *sides(["a", "a"], ["a"]))
    vectors = np.eye(3, dtype=np.float32)
    good = made(vectors, vectors, list("abc"), list("abc"))
    with pytest.raises(DataError, match=r"gallery: 1 of 3 vectors \(of b\) are zero and have no cosine"):
        search(Entries("gallery", np.array(list("abc")), vectors * [[1], [0], [1]]), good[1])
    assert search(Entries("gallery", np.array(list("abc")), vectors * [[1], [0], [1]]), good[1], "euclidean").rank[0]
    for wrong in (np.nan, np.inf):
        bad = vectors.copy()
        bad[2, 0] = wrong
        with pytest.raises(DataError, match=r"probes: 1 of 3 vectors \(of c\) hold NaN or infinity"):
            Entries("probes", np.array(list("abc")), bad)
        scores = WORKED.copy()
        scores[1, 2] = wrong
        with pytest.raises(DataError, match="for probe 1 and gallery entry 2"):
            search_scores(scores, *sides(GALLERY, PROBES), unmated="miss")
    with pytest.raises(DataError, match="expected one width, got 3 in gallery, 2 in probes"):
        search(good[0], Entries("probes", np.array(list("abc")), vectors[:, :2]))
    with pytest.raises(DataError, match="expected vectors of gallery and probes"):
        search(*sides(GALLERY, PROBES))
    with pytest.raises(DataError, match="expected cosine or euclidean, got 'manhattan'"):
        search(*good, "manhattan")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"expected \(probes, gallery\) \(4, 5\), got \(5, 4\)"):
        search_scores(WORKED.T, *sides(GALLERY, PROBES), unmated="miss")
    with pytest.raises(DataError, match="expected a matrix"):
        search_scores(WORKED[0], *sides(GALLERY, PROBES))
    with pytest.raises(DataError, match="names on both sides or numbers on both"):
        search_scores(WORKED, *sides(GALLERY, [1, 2, 3, 4]))
    with pytest.raises(DataError, match="squared distance exceeds"):
        search(replace(good[0], vectors=vectors * np.float32(1e30)), good[1], "euclidean")
    for wrong_entries in ({"subjects": np.array([])}, {"subjects": np.array(["a"]), "codes": np.array([0.5])}):
        with pytest.raises(DataError, match="gallery: expected"):
            Entries("gallery", **wrong_entries)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"expected vectors \(2, D\), got \(3, 3\)"):
        Entries("gallery", np.array(["a", "b"]), vectors)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.tuples(COUNTS, st.integers(1, 3000)), elements=st.sampled_from([0, 0.5, 1])), COUNTS)
def test_at_least_counts(scores: Array, k: int) -> None:
    wanted = np.linspace(-0.5, 1.5, len(scores) * k, dtype=np.float32).reshape(len(scores), k)
    expected = (scores[:, None] >= wanted[:, :, None]).sum(axis=2)
    np.testing.assert_array_equal(at_least(scores, wanted), expected)
    np.testing.assert_array_equal(at_least(scores, np.repeat(wanted, 13, axis=1)), np.repeat(expected, 13, axis=1))
