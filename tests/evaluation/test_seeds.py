"""Several trainings of one system: mean, spread, each; intervals and tests over seeds and subjects together."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from mdfpipe.evaluation.measures.intervals import over_seeds, paired_bootstrap, seed_draws, subject_draws
from mdfpipe.evaluation.seeds import lines_of
from mdfpipe.store.results import Verdict, judged, results_of
from tests.evaluation.test_study import GALLERY, PROBES, done, rows_of, system

PEOPLE = [f"P{n:02d}" for n in range(12)]
METRICS = ["rank-1", "map", "eer", "tar@far=0.1"]


def test_few_seeds_keep_the_variance_of_their_mean() -> None:
    """Drawing n - 1 of n gives s^2 / n exactly; drawing all n would give (n - 1) / n of that."""
    values = np.array([0.1, 0.5, 0.9])
    every = list(product(range(3), repeat=2))  # each draw of two of three is as likely
    means = np.array([values[list(drawn)].mean() for drawn in every])
    assert means.var() == pytest.approx(values.var(ddof=1) / 3)
    drawn = seed_draws(3, 4000, np.random.default_rng(0))
    assert (drawn.sum(axis=1) == 2).all()
    assert (drawn @ values / 2).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.08)
    assert (seed_draws(1, 5, np.random.default_rng(0)) == 1).all()


def test_the_test_over_seeds_and_subjects_is_the_loop_over_draws() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.random((3, 8)), generator.random((2, 8)) - 0.2

    def statistics(values: Any) -> list[Any]:
        return [lambda counts, v=v: counts @ v / counts.sum(axis=1) for v in values]

    found = paired_bootstrap(
        over_seeds(statistics(first), 8),
        over_seeds(statistics(second), 8, 3),
        8,
        np.random.default_rng(5),
        400,
        seeds=[3, 2],
    )
    rng = np.random.default_rng(5)
    of_first, of_second = seed_draws(3, 400, rng), seed_draws(2, 400, rng)
    people = np.concatenate(list(subject_draws(8, 400, rng)))
    differences = []
    for n in range(400):
        means = []
        for values, drawn in ((first, of_first[n]), (second, of_second[n])):
            total = times = 0.0
            for seed, of_seed in enumerate(drawn):
                for subject, of_subject in enumerate(people[n]):
                    total += of_seed * of_subject * values[seed, subject]
                    times += of_seed * of_subject
            means.append(total / times)
        differences.append(means[0] - means[1])
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    side = min(sum(d <= 0 for d in differences), sum(d >= 0 for d in differences))
    assert found.p == pytest.approx(min(1.0, 2 * (side + 1) / 401))


def evaluated(seeds: dict[str, list[str]], noises: dict[str, float], **table: Any) -> Any:
    rows = rows_of(PEOPLE, [GALLERY, *PROBES])
    systems = [system(name, rows, noise=noise) for name, noise in noises.items()]
    return done({"t": {"metrics": METRICS, **table}}, systems, rows, seeds=seeds)


NOISES = {"a-seed-0": 0.6, "other": 1.5, "a-seed-10": 0.8}
SEEDS = {"a": ["a-seed-0", "a-seed-10"]}


def test_a_line_is_the_mean_of_its_trainings() -> None:
    found = evaluated(SEEDS, NOISES)
    of = {(r["system"], r["probe_domain"], r["metric"]): r for r in found.metrics}
    for (name, probe, metric), row in of.items():
        if name != "a":
            assert row.get("seed_of") == (None if name == "other" else "a")
            continue
        each = [of[one, probe, metric]["value"] for one in SEEDS["a"]]
        assert row["value"] == pytest.approx(np.mean(each))
        assert (row["each"], row["seeds"], row["k"]) == (each, 2, None)
        assert row["spread"] == pytest.approx(np.std(each, ddof=1))
        assert row["interval"] == "bootstrap"
        assert row["low"] <= row["value"] <= row["high"]
    assert {row["system"] for row in found.comparisons for _ in [0] if "system" in row} == set()
    assert {(row["first"], row["second"]) for row in found.comparisons} == {("a", "other")}
    assert {row["test"] for row in found.comparisons} == {"bootstrap"}  # McNemar's test knows one training of each
    shown = results_of(found.tables, found.metrics, found.comparisons)
    assert shown.tables["t"]["systems"] == ["a", "other"]
    numbers = shown.numbers
    assert {number.row["system"] for number in numbers} == {"a", "other"}
    assert {number.verdict for number in numbers if number.row["system"] == "a"} <= {Verdict.BEST, Verdict.LEVEL}
    curve = [row for row in found.curves if row["system"] == "a" and row["probe_domain"] == PROBES[0]]
    for row in curve:
        y = [
            r["y"]
            for one in SEEDS["a"]
            for r in found.curves
            if (r["system"], r["probe_domain"], r["curve"], r["x"]) == (one, PROBES[0], row["curve"], row["x"])
        ]
        assert (row["y"], row["low"], row["high"]) == (pytest.approx(np.mean(y)), min(y), max(y))


def test_one_seed_is_what_it_was() -> None:
    plain = evaluated({}, NOISES)
    with_seeds = evaluated(SEEDS, NOISES)
    own = [row for row in with_seeds.metrics if row["system"] == "other"]
    assert own == [row for row in plain.metrics if row["system"] == "other"]
    assert not judged([], [])


def test_a_mean_over_some_of_the_seeds_is_none() -> None:
    assert lines_of(["a-seed-0", "b"], SEEDS) == {"a-seed-0": ["a-seed-0"], "b": ["b"]}
    found = evaluated(SEEDS, {"a-seed-0": 0.6, "other": 1.5})
    assert {row["system"] for row in found.metrics} == {"a-seed-0", "other"}


def test_fusions_and_galleries_have_seeds_too() -> None:
    fusions = {f"f-seed-{n}": {"systems": [f"a-seed-{n}", "other"]} for n in (0, 10)}
    seeds = {**SEEDS, "f": ["f-seed-0", "f-seed-10"]}
    galleries = {name: [["G1"], ["G2"], ["G1", "G2"]][n % 3] for n, name in enumerate(PEOPLE)}
    rows = rows_of(PEOPLE, [GALLERY, *PROBES])
    systems = [system(name, rows, noise=noise) for name, noise in NOISES.items()]
    table = {"metrics": ["rank-1"], "galleries": "apart", "unmated": "exclude", "fusions": fusions}
    found = done({"t": table}, systems, rows, seeds=seeds, galleries=galleries)
    of = {(r["system"], r["probe_domain"], r["gallery"]): r for r in found.metrics}
    for probe, gallery in product((*PROBES, "pooled"), ("G1", "G2", "average")):
        one = of["f", probe, gallery]
        assert one["each"] == pytest.approx([of[name, probe, gallery]["value"] for name in seeds["f"]])
        assert one["value"] == pytest.approx(np.mean(one["each"]))
        assert one["spread"] == pytest.approx(np.std(one["each"], ddof=1))
    pairs = {(r["first"], r["second"]) for r in found.comparisons if r["gallery"] == "average"}
    assert pairs == {("a", "other"), ("a", "f"), ("other", "f")}
