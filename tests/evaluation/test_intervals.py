"""Intervals: published tables, whole-number arithmetic, scores repeated by hand, coverage of a known answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from mdfpipe.errors import DataError
from mdfpipe.evaluation.measures import intervals
from mdfpipe.evaluation.measures import separation as parts
from mdfpipe.evaluation.measures.intervals import (
    Difference,
    Interval,
    bootstrap,
    mcnemar,
    mcnemar_p,
    mean_of,
    paired_bootstrap,
    subject_codes,
    subject_draws,
    wilson,
)
from mdfpipe.evaluation.measures.open_set import OpenSet
from mdfpipe.evaluation.measures.separation import Separation
from mdfpipe.evaluation.measures.verification import roc

F64 = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- a share


@pytest.mark.parametrize(
    ("k", "n", "score"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857, table I: method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_published_intervals(k: int, n: int, score: tuple[float, float]) -> None:
    assert wilson(k, n) == pytest.approx(score, abs=5.001e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_every_share_of_25_as_scipy(confidence: float) -> None:
    for k in range(26):
        score = stats.binomtest(k, 25).proportion_ci(confidence, "wilson")
        assert wilson(k, 25, confidence) == pytest.approx((score.low, score.high), abs=1e-9)


def test_the_edges_of_a_share() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    for n in range(1, 200):
        assert (wilson(0, n)[0], wilson(n, n)[1]) == (0.0, 1.0)


def test_one_person_of_63_is_inside_the_interval() -> None:
    low, high = wilson(49, 63)  # the paper's 77.78
    assert low < 50 / 63 < high  # its 79.37
    assert (round(low, 3), round(high, 3)) == (0.661, 0.863)


# -- McNemar


def test_mcnemar_by_hand() -> None:
    assert mcnemar_p(0, 0) == mcnemar_p(1, 0) == mcnemar_p(4, 4) == 1.0
    assert mcnemar_p(0, 5) == 2 / 32
    assert mcnemar_p(6, 0) == 2 / 64
    assert mcnemar_p(1, 5) == 14 / 64  # 2 (1 + 6)
    assert mcnemar_p(2, 8) == 112 / 1024  # 2 (1 + 10 + 45)
    assert mcnemar_p(5, 12) == pytest.approx(0.1435, abs=5e-5)  # 18808 / 131072


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    both = first + second
    tail = sum(comb(both, chosen) for chosen in range(min(first, second) + 1))
    assert mcnemar_p(first, second) == float(min(Fraction(1), Fraction(2 * tail, 2**both))) == mcnemar_p(second, first)
    if both:
        assert mcnemar_p(first, second) == pytest.approx(stats.binomtest(first, both).pvalue, rel=1e-9)


def test_mcnemar_of_many_probes_neither_overflows_nor_waits() -> None:
    assert mcnemar_p(5000, 5200) == pytest.approx(float(2 * stats.binom.cdf(5000, 10200, 0.5)), rel=1e-9)
    assert mcnemar_p(0, 3000) == 0.0 or mcnemar_p(0, 3000) < 1e-300


def test_mcnemar_counts_where_they_disagree() -> None:
    found = mcnemar([True, True, True, False, False], [True, False, False, True, False])
    assert (found.n, found.first_only, found.second_only, found.p) == (5, 2, 1, 1.0)
    assert found.p > 0.05
    assert mcnemar(np.ones(6), np.zeros(6)).p < 0.05


# -- statistics of a sample


def study(seed: int, subjects: int = 7, probes: int = 30) -> tuple[F64, NDArray[np.int64]]:
    return rng(seed).uniform(size=probes), rng(seed + 100).integers(0, subjects, probes)


@given(st.integers(0, 1000), st.lists(st.integers(0, 3), min_size=7, max_size=7))
@settings(max_examples=40, deadline=None)
def test_a_mean_is_that_of_the_probes_repeated(seed: int, times: list[int]) -> None:
    values, codes = study(seed)
    repeated = [value for value, code in zip(values, codes, strict=True) for _ in range(times[code])]
    found = mean_of(values, codes, 7)(np.array([times, times], float))
    if repeated:
        assert found == pytest.approx([np.mean(repeated)] * 2)
    else:
        assert np.isnan(found).all()


def plain_rate_at(rate: float) -> Callable[[F64, F64], float]:
    """Transcription: of all thresholds that keep the rate, the one that accepts most."""

    def measure(high: F64, low: F64) -> float:
        best = 0
        for threshold in [*high, *low]:
            accepted = sum(score >= threshold for score in low)
            if accepted <= rate * len(low) + 1e-9:
                best = max(best, sum(score >= threshold for score in high))
        return best / len(high)

    return measure


def plain_auc(high: F64, low: F64) -> float:
    return float(np.mean([(h > n) + (h == n) / 2 for h in high for n in low]))


def equal_errors(kind: str) -> Callable[[F64, F64], float]:
    return lambda high, low: getattr(roc(high, low, whole=True), kind.replace("-", "_"))().value


def repeated(pairs: Separation, measure: Callable[[F64, F64], float], counts: F64) -> list[float]:
    """Transcription: the measure of the scores, each as often as its subject was drawn."""
    found = []
    for row in counts:
        sides = ((pairs.high, pairs.of_high[:, None]), (pairs.low, pairs.of_low.reshape(len(pairs.low), -1)))
        high, low = (np.repeat(scores, row[codes].prod(axis=1).astype(int)) for scores, codes in sides)
        found.append(measure(high, low) if len(high) and len(low) else np.nan)
    return found


@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.1, 0.29, 0.5, 1.0]),
    st.sampled_from([1, 2]),
    st.fixed_dictionaries(
        {"SAMPLES": st.sampled_from([2, 128]), "PIECE": st.sampled_from([3, 1024]), "MOST_DRAWS": st.integers(1, 2)}
        | {"FINE": st.sampled_from([1, 100]), "DENSE": st.integers(0, 4)}
    ),
)
@settings(max_examples=60, deadline=None)
def test_rates_and_areas_are_those_of_the_scores_repeated(
    seed: int, rate: float, people: int, sizes: dict[str, int]
) -> None:
    """people: subjects of a low score. sizes: of the parts in which the draws are counted."""
    random = rng(seed)
    high, low = random.integers(2, 9, 6) / 4, random.integers(0, 7, 8) / 4  # with ties
    of_high, of_low = random.integers(0, 4, 6), random.integers(0, 4, (8, people))
    counts = random.integers(0, 3, (5, 4)).astype(float)
    counts[0] = 1
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(parts, name, size)
        pairs = Separation(high, low, of_high, of_low if people == 2 else of_low[:, 0], 4)
        equal = [(pairs.equal_error(k), equal_errors(k)) for k in ("eer", "eer-hter", "eer-fvc", "rocch-eer")]
        means = pairs.means(high, low), lambda a, b: a.mean() + b.mean()
        for quick, plain in ((pairs.rate_at(rate), plain_rate_at(rate)), (pairs.auc(), plain_auc), means, *equal):
            np.testing.assert_allclose(quick(counts), repeated(pairs, plain, counts), atol=1e-11)


@given(st.integers(0, 1000), st.sampled_from([0.01, 0.1, 0.29, 0.5]))
@settings(max_examples=40, deadline=None)
def test_of_all_subjects_each_statistic_is_the_metric(seed: int, rate: float) -> None:
    random = rng(seed)
    high, low = random.integers(2, 12, 20) / 4, random.integers(0, 9, 100) / 4
    rank = random.integers(1, 4, 20)
    codes = random.integers(0, 9, 20), random.integers(0, 9, 100)
    once = np.ones((1, 9))
    pairs = Separation(high, low, *codes, 9)
    assert pairs.rate_at(rate)(once)[0] == pytest.approx(roc(high, low).tar_at(rate).value)
    assert pairs.auc()(once)[0] == pytest.approx(roc(high, low).auc().value)
    searches = Separation(np.where(rank == 1, high, -np.inf), low, *codes, 9)
    assert 1 - searches.rate_at(rate)(once)[0] == pytest.approx(OpenSet(high, rank, low).fnir_at(rate).value)


def test_pairs_count_as_often_as_both_were_drawn() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    separation = Separation(np.array([0.5]), np.array([0.9, 0.7, 0.1]), np.array([0]), pairs, 3)
    counts = np.array([[1.0, 1, 1], [2, 1, 0], [2, 0, 1]])
    # impostor weights 1 1 1; 2 0 0; 0 2 0: the genuine 0.5 beats 1 of 3, none, none
    assert separation.auc()(counts) == pytest.approx([1 / 3, 0, 0])
    assert separation.rate_at(0.7)(counts) == pytest.approx([1, 0, 0])


def test_a_rate_that_is_a_whole_number_of_scores_is_kept() -> None:
    low = np.arange(100.0)
    for rate in (0.01, 0.07, 0.29, 0.57, 0.58):  # 0.29 * 100 and others are a little less than whole
        high = np.array([99 - 100 * rate + 0.5, 99 - 100 * rate - 0.5])
        statistic = Separation(high, low, np.zeros(2, int), np.zeros(100, int), 1).rate_at(rate)
        assert statistic(np.ones((1, 1))) == [0.5], rate


def test_what_failed_to_enrol_is_never_accepted() -> None:
    separation = Separation(np.array([-np.inf, 1.0]), np.array([0.0]), np.array([0, 1]), np.array([1]), 2)
    assert separation.rate_at(1.0)(np.ones((1, 2))) == [0.5]
    assert np.isnan(separation.rate_at(1.0)(np.array([[2.0, 0.0]]))).all()  # nobody to be false about


# -- the bootstrap


def test_draws_are_samples_with_replacement_and_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(subject_draws(11, 50, rng())))
    assert whole.shape == (50, 11)
    assert (whole.sum(axis=1) == 11).all()
    assert whole.max() > 1
    monkeypatch.setattr(intervals, "CELLS", 77)
    parts = list(subject_draws(11, 50, rng()))
    assert len(parts) > 5
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_blocks_change_no_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    random = rng(3)
    high, low, of_high, of_low = random.normal(1, 1, 40), random.normal(size=60), *random.integers(0, 9, (2, 60))
    separation = Separation(high, low, of_high[:40], of_low, 9)
    whole = [bootstrap(statistic, 9, rng(), 100) for statistic in (separation.rate_at(0.1), separation.auc())]
    monkeypatch.setattr(intervals, "CELLS", 200)
    assert [bootstrap(statistic, 9, rng(), 100) for statistic in (separation.rate_at(0.1), separation.auc())] == whole


def test_the_samples_of_two_subjects_are_known() -> None:
    """AA, AB, BA, BB: means 0, 1/2, 1/2, 1, so the quartiles are 1/2 and the ends 0 and 1."""
    statistic = mean_of([0, 1], np.array([0, 1]), 2)
    found = bootstrap(statistic, 2, rng(), 4000)
    assert found == Interval(0.5, 0.0, 1.0, 4000, 0)
    assert bootstrap(statistic, 2, rng(), 4000, confidence=0.4) == Interval(0.5, 0.5, 0.5, 4000, 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, codes = study(5)
    statistic = mean_of(values, codes, 7)
    assert bootstrap(statistic, 7, rng(1), 200) == bootstrap(statistic, 7, rng(1), 200)
    assert bootstrap(statistic, 7, rng(1), 200) != bootstrap(statistic, 7, rng(2), 200)


def test_samples_without_a_number_are_counted() -> None:
    separation = Separation(np.array([1.0, 2.0]), np.array([0.0]), np.array([0, 1]), np.array([2]), 3)
    found = bootstrap(separation.auc(), 3, rng(), 1000)  # subject 2, the only impostor, is missing from (2/3)^3 of them
    assert found.undefined + found.samples == 1000
    assert found.undefined == pytest.approx(1000 * (8 / 27 + 1 / 27), abs=60)  # or from none but him: (1/3)^3


def test_coverage_of_a_known_mean_with_subjects_that_agree_with_themselves() -> None:
    """40 subjects of 1 to 8 alike probes, found with probability 0.7: of 300 intervals 95 % should hold 0.7."""
    random = rng(7)
    by_subject = by_probe = 0
    for _ in range(300):
        sizes = random.integers(1, 9, 40)
        codes = np.repeat(np.arange(40), sizes)
        found = (random.uniform(size=40) < 0.7)[codes]
        interval = bootstrap(mean_of(found, codes, 40), 40, random, 400)
        low, high = wilson(int(found.sum()), len(found))
        by_subject += interval.low <= 0.7 <= interval.high
        by_probe += low <= 0.7 <= high
    assert 0.89 <= by_subject / 300 <= 0.98  # percentile intervals of 40 are a little narrow
    assert by_probe / 300 < 0.75  # what independence of probes would have claimed


def test_pairing_sees_what_two_intervals_do_not() -> None:
    random = rng(8)
    hard = random.normal(size=100)
    first, second = (hard + noise > 0 for noise in (0.25, -0.05))
    statistics = [mean_of(values, np.arange(100), 100) for values in (first, second)]
    apart = [bootstrap(statistic, 100, rng()) for statistic in statistics]
    assert apart[0].low < apart[1].high  # the intervals overlap
    found = paired_bootstrap(*statistics, 100, rng())
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.p < 0.05
    assert 0 < found.low <= found.value <= found.high
    back = paired_bootstrap(*reversed(statistics), 100, rng())
    assert (back.value, back.low, back.high, back.p) == pytest.approx((-found.value, -found.high, -found.low, found.p))


def test_equal_systems_do_not_differ() -> None:
    values, codes = study(9)
    statistic = mean_of(values, codes, 7)
    assert paired_bootstrap(statistic, statistic, 7, rng(), 100) == Difference(0.0, 0.0, 0.0, 1.0, 100, 0)
    least = paired_bootstrap(mean_of(values + 1, codes, 7), statistic, 7, rng(), 99)
    assert least.p == 2 / 100


def test_two_thousand_samples_of_250_subjects_take_seconds() -> None:
    random = rng(10)
    of_high, of_low = np.arange(250).repeat(4), np.stack(np.triu_indices(250, 1), axis=1)
    separation = Separation(random.normal(2, 1, 1000), random.normal(size=len(of_low)), of_high, of_low, 250)
    started = time.process_time()
    bootstrap(mean_of(random.uniform(size=1000), of_high, 250), 250, rng())
    assert time.process_time() - started < 2.5  # half of what is allowed; others may be at work on the machine
    started = time.process_time()
    bootstrap(separation.rate_at(0.01), 250, rng(), 200)
    assert time.process_time() - started < 2.5


def test_codes_of_names() -> None:
    (first, second), count = subject_codes(np.array(["s2", "s1"]), np.array(["s3", "s2", "s2"]))
    assert (first.tolist(), second.tolist(), count) == ([1, 0], [2, 1, 1], 3)


# -- errors


def wrong(what: str) -> None:
    match what:
        case "share":
            wilson(4, 3)
        case "negative":
            wilson(-1, 3)
        case "confidence":
            wilson(1, 3, 95)
        case "one subject":
            bootstrap(mean_of([1.0], np.array([0]), 1), 1, rng())
        case "nan":
            mean_of([np.nan], np.array([0]), 2)
        case "lengths":
            mean_of([1.0, 2.0], np.array([0]), 2)
        case "codes":
            mean_of([1.0], np.array([2]), 2)
        case "undefined":
            bootstrap(mean_of([], np.array([], int), 2), 2, rng())
        case "probes":
            mcnemar([1, 0], [1])
        case "not found or not":
            mcnemar([1, 0], [1, 0.5])
        case "counts":
            mcnemar_p(-1, 2)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("share", "expected 0 <= k <= n, got k 4 of n 3"),
        ("negative", "expected 0 <= k <= n, got k -1 of n 3"),
        ("confidence", "expected a confidence between 0 and 1, got 95"),
        ("one subject", "expected two or more subjects and samples, got 1 subjects and 2000 samples"),
        ("nan", "one number and one subject per item, none NaN"),
        ("lengths", "got (2,) numbers and (1,) subjects"),
        ("codes", "expected subject codes 0..1, got 2..2"),
        ("undefined", "undefined for all 2 subjects together"),
        ("probes", "expected the same probes of both systems, got (2,) and (1,)"),
        ("not found or not", "found or not (0 or 1) by probe, got 0.5"),
        ("counts", "expected counts of probes, got -1 and 2"),
    ],
)
def test_errors_are_one_line(what: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        wrong(what)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
