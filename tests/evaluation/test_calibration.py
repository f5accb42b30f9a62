"""Norms, likelihood ratios, their cost, and thresholds of training subjects: against scalar transcriptions."""

from __future__ import annotations

from math import exp, log, log2
from typing import Any

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, ProtocolError
from mdfpipe.evaluation import case, comparing
from mdfpipe.evaluation.measures import calibration
from mdfpipe.evaluation.measures.calibration import PairCounts, cllr, logistic, min_cllr, threshold_at
from mdfpipe.evaluation.measures.separation import Separation
from mdfpipe.evaluation.measures.verification import roc
from mdfpipe.evaluation.table import Table
from tests.evaluation.test_study import GALLERY, PROBES, done, rows_of, system

TESTED, TRAINED = [f"s{n}" for n in range(8)], [f"t{n}" for n in range(7)]
MATED, OTHERS = [2.5, 0.4, 1.5, 0.4, 3.0], [-1.0, 0.4, 0.0, -2.0, 0.7, 0.7]


def tallied(mated: list[float], others: list[float]) -> PairCounts:
    values, counts = np.unique(others, return_counts=True)
    return PairCounts(np.array(mated), values, counts.astype(float), values)


def test_cllr_is_its_definition() -> None:
    cost = sum(log2(1 + exp(-s)) for s in MATED) / len(MATED) + sum(log2(1 + exp(s)) for s in OTHERS) / len(OTHERS)
    assert cllr(tallied(MATED, OTHERS)) == pytest.approx(cost / 2, abs=1e-12)


def violators(mated: list[float], others: list[float]) -> float:
    """Transcription: pool adjacent violators, likelihood ratios of the pools, Cllr."""
    pools = []
    for score in sorted({*mated, *others}):
        pools.append([mated.count(score), others.count(score)])
        while len(pools) > 1 and pools[-2][0] * sum(pools[-1]) >= pools[-1][0] * sum(pools[-2]):
            above = pools.pop()
            pools[-1] = [pools[-1][0] + above[0], pools[-1][1] + above[1]]
    cost = 0.0
    for m, o in pools:
        if m and o:
            ratio = (m / len(mated)) / (o / len(others))
            cost += m / len(mated) * log2(1 + 1 / ratio) + o / len(others) * log2(1 + ratio)
    return cost / 2


@pytest.mark.parametrize("seed", range(12))
def test_min_cllr_is_that_of_pooled_violators(seed: int) -> None:
    random = np.random.default_rng(seed)
    mated, others = random.integers(2, 12, 20) / 2, random.integers(0, 9, 30) / 2
    least = min_cllr(roc(mated, others))
    assert least == pytest.approx(violators(mated.tolist(), others.tolist()), abs=1e-12)
    assert least <= 1
    pairs = Separation(mated, others, np.arange(20), np.arange(30), 30)
    assert pairs.equal_error("mincllr")(np.ones((1, 30)))[0] == pytest.approx(least, abs=5e-4)


def test_logistic_is_what_scikit_learn_finds() -> None:
    """With weights for the prior, and no regularisation."""
    learn = pytest.importorskip("sklearn.linear_model")
    for prior in (0.5, 0.01):
        found = logistic(tallied(MATED, OTHERS), prior)
        x, y = np.array([*MATED, *OTHERS])[:, None], np.repeat([1, 0], [len(MATED), len(OTHERS)])
        weight = np.where(y == 1, prior / len(MATED), (1 - prior) / len(OTHERS))
        model = learn.LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(x, y, 1e3 * weight)
        assert found.slope == pytest.approx(model.coef_[0, 0], rel=2e-4)
        assert found.offset == pytest.approx(model.intercept_[0] - log(prior / (1 - prior)), abs=1e-3)
    raw, ratios = tallied(MATED, OTHERS), [found.slope * s + found.offset for s in MATED]
    other = tallied(ratios, [found.slope * s + found.offset for s in OTHERS])
    assert violators(MATED, OTHERS) <= cllr(other) < cllr(tallied([0.0], [0.0])) == 1
    assert raw.n_nonmated == 6
    with pytest.raises(ProtocolError, match="score higher than non-mated ones, got the opposite"):
        logistic(tallied(OTHERS, MATED))
    apart = logistic(tallied([1.0, 1.1], [0.0, 0.1]))
    assert np.isfinite([apart.slope, apart.offset]).all()


def test_thresholds_keep_the_rate_of_false_matches() -> None:
    known = tallied(MATED, OTHERS)
    for fmr in (1 / 6, 0.34, 0.5, 0.99):
        threshold = threshold_at(known, fmr)
        assert sum(s >= threshold for s in OTHERS) <= fmr * 6
        lower = [s for s in OTHERS if s < threshold]
        assert sum(s >= max(lower) for s in OTHERS) > fmr * 6
    assert threshold_at(known, 1) == -np.inf
    with pytest.raises(ProtocolError, match="expected at least 100 non-mated pairs, got 6"):
        threshold_at(known, 0.01)


# -- in a table


def both(**more: Any) -> tuple[Any, Any]:
    rows = rows_of(TESTED, (GALLERY, *PROBES)) + rows_of(TRAINED, (GALLERY, *PROBES), split="train")
    strangers = rows_of(["x", "y"], PROBES)
    return system("one", rows + strangers, noise=0.5, **more), rows + strangers


def templates(
    made: Any, rows: list[dict[str, Any]], domain: str, split: str
) -> tuple[list[str], list[np.ndarray[Any, Any]]]:
    vectors = np.concatenate(list(made.blocks())).astype(float)
    who = sorted({row["subject_id"] for row in rows if (row["domain"], row["split"]) == (domain, split)})
    chosen = [[n for n, r in enumerate(rows) if (r["subject_id"], r["domain"]) == (w, domain)] for w in who]
    return who, [vectors[of].mean(axis=0) for of in chosen]


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def scalar(made: Any, rows: Any, norm: str) -> tuple[list[float], list[float], list[float], list[float]]:
    """Mated and other scores of training subjects, then of test subjects, in the second probe domain, pair by pair."""
    domain = PROBES[1]
    cohort = {side: templates(made, rows, side, "train") for side in (GALLERY, domain)}

    def standard(vector: Any, whose: str, side: str) -> tuple[float, float]:
        scores = [cosine(vector, other) for who, other in zip(*cohort[side], strict=True) if who != whose]
        return float(np.mean(scores)), float(np.std(scores))

    found: list[list[float]] = []
    for split in ("train", "test"):
        mated, others = [], []
        for g, gallery in zip(*templates(made, rows, GALLERY, split), strict=True):
            for p, probe in zip(*templates(made, rows, domain, split), strict=True):
                score = cosine(gallery, probe)
                (mz, sz), (mt, st) = standard(gallery, g, domain), standard(probe, p, GALLERY)
                z, t = (score - mz) / sz, (score - mt) / st
                score = {"none": score, "z": z, "t": t, "s": (z + t) / 2}[norm]
                (mated if g == p else others).append(score)
        found += [mated, others]
    return found[0], found[1], found[2], found[3]


METRICS = ["rank-1", "auc", "cllr", "mincllr", "fmr@train=0.1", "fnmr@train=0.1", "fpir@train=0.1", "fnir@train=0.1"]


@pytest.mark.parametrize("norm", ["none", "z", "t", "s"])
@pytest.mark.parametrize("held", [True, False])
def test_a_table_of_calibrated_scores(norm: str, held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = both()
    if not held:  # everything in blocks, and counted in bins
        monkeypatch.setattr(case, "MOST_PAIRS", 0)
        monkeypatch.setattr(calibration, "EXACT", 0)
        monkeypatch.setattr(comparing, "BLOCK_BYTES", 100)
    settings = {"metrics": METRICS, "norm": norm, "calibrate": 0.3, "unmated": "exclude"}
    found = done({"t": settings}, [made], rows)
    numbers = {row["metric"]: row for row in found.metrics if row["probe_domain"] == PROBES[1]}
    train_mated, train_others, mated, others = scalar(made, rows, norm)
    learned = logistic(tallied(train_mated, train_others), 0.3)
    ratios = [[learned.slope * s + learned.offset for s in side] for side in (mated, others, train_others)]
    assert numbers["cllr"]["value"] == pytest.approx(cllr(tallied(*ratios[:2])), rel=1e-4)
    assert numbers["mincllr"]["value"] == pytest.approx(violators(mated, others), abs=1e-9)
    assert numbers["auc"]["value"] == pytest.approx(roc(mated, others).auc().value, abs=1e-9)
    threshold = numbers["fmr@train=0.1"]["threshold"]
    assert threshold == pytest.approx(threshold_at(tallied(ratios[0], ratios[2]), 0.1), rel=1e-3, abs=1e-3)
    errors = {"fmr": (ratios[1], True), "fnmr": (ratios[0], False)}
    for name, (scores, above) in errors.items():
        row = numbers[f"{name}@train=0.1"]
        assert (row["k"], row["n"]) == (sum((s >= threshold) == above for s in scores), len(scores))
        assert row["interval"] == ("bootstrap" if held else None)
    assert all("under_30" in numbers[m]["notes"] for m in METRICS[4:])  # 42 non-mated training pairs, a tenth of them
    assert (numbers["fpir@train=0.1"]["n"], numbers["fnir@train=0.1"]["n"]) == (2, 8)
    words = {"none": "", "z": ", Z-norm", "t": ", T-norm", "s": ", S-norm"}[norm]
    assert numbers["auc"]["distance"] == f"cosine{words}, calibrated at prior 0.3"


def test_pairs_without_a_score_cost_nothing() -> None:
    """A probe that failed to enrol is a miss elsewhere; what scores cost is about those that there are."""
    made, rows = both()
    failed = {row["crop_id"]: None for row in rows if (row["subject_id"], row["domain"]) == ("s0", PROBES[1])}
    lost, _ = both(vectors=failed)
    wanted = {"metrics": ["auc", "cllr", "mincllr"], "calibrate": 0.5, "unmated": "exclude"}
    found = done({"t": wanted}, [lost], rows).metrics
    auc, cost, least = (
        next(r for r in found if (r["metric"], r["probe_domain"]) == (m, PROBES[1])) for m in METRICS[1:4]
    )
    _, _, mated, others = scalar(
        made, [row | {"domain": "none"} if row["crop_id"] in failed else row for row in rows], "none"
    )
    assert least["value"] == pytest.approx(violators(mated, others), abs=1e-9)
    assert (auc["n"], cost["n"], least["n"]) == (8, 7, 7)
    assert least["value"] <= cost["value"]
    assert [row["interval"] for row in (auc, cost, least)] == [None, "bootstrap", "bootstrap"]


def test_calibration_is_monotone() -> None:
    """Ranks and areas stay."""
    made, rows = both()
    plain, ratios = (
        done({"t": {"metrics": ["rank-1", "map", "auc"], "unmated": "exclude", "calibrate": c}}, [made], rows).metrics
        for c in (None, 0.5)
    )
    assert [row["value"] for row in plain] == [row["value"] for row in ratios]


def test_what_cannot_be_adjusted_is_refused() -> None:
    made, rows = both()
    alone = rows_of(TESTED, (GALLERY, *PROBES))
    with pytest.raises(ProtocolError, match="expected training subjects with vectors in both domains, got none"):
        done({"t": {"norm": "z"}}, [system("one", alone)], alone)
    few = alone + rows_of(TRAINED[:2], (GALLERY, *PROBES), split="train")
    with pytest.raises(ProtocolError, match="a cohort of more than 2 training subjects, got 2"):
        done({"t": {"norm": "s"}}, [system("one", few)], few)
    with pytest.raises(ConfigError, match="cllr: expected `calibrate: PRIOR`"):
        validate(Table, {"metrics": ["cllr"]}, "t")
    fusions = {"f": {"systems": ["one", "two"], "by": "score", "weights": [1, 1]}}
    with pytest.raises(ProtocolError, match="expected vectors, got scores that were fused"):
        done({"t": {"norm": "t", "fusions": fusions, "unmated": "exclude"}}, [made, system("two", rows)], rows)
