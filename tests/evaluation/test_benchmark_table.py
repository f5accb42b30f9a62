"""Tables under a published protocol: rows of METRICS, refusals, published numbers, two systems side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, ProtocolError
from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.evaluation.benchmarks import BenchmarkImages
from mdfpipe.evaluation.measures.intervals import mean_of, paired_bootstrap, subject_codes
from mdfpipe.evaluation.study import evaluate
from mdfpipe.evaluation.table import Table
from mdfpipe.evaluation.vectors import Evaluated, SystemVectors
from mdfpipe.protocol import Protocol
from mdfpipe.store.tables import COMPARISONS, CURVES, METRICS, SEARCHES
from tests.evaluation.made_images import INFRARED, VISIBLE, rows_of, tree

SYSU = {"use": "sysu", "galleries": "seeded"}
NAME = "sysu all-search single-shot, seeded galleries, 10 trials"
IMAGES = tree(3, 14, {"VIS": VISIBLE, "NIR": INFRARED}, 4, 0.1)
PROTOCOL = Protocol(name="p", unlisted="test")


def rows(split: str = "test") -> pa.Table:
    found = rows_of(IMAGES)
    for name, value in (("split", split), ("modality", "body"), ("video_id", "v"), ("role", "none")):
        found = found.append_column(name, pa.array([value] * found.num_rows))
    return found


def system(name: str, noise: float, lost: tuple[int, ...] = (), **more: Any) -> SystemVectors:
    generator = np.random.default_rng(len(name))
    people = np.eye(40, dtype=np.float32)[[int(one[1]) for one in IMAGES]]
    vectors = people + noise * generator.standard_normal(people.shape).astype(np.float32)
    usable = np.ones(len(IMAGES), bool)
    usable[list(lost)] = False
    given = more.pop("rows", rows())
    return SystemVectors(name, "body", "cosine", given, usable, lambda: iter([vectors[:9], vectors[9:]]), **more)


def done(settings: dict[str, Any], systems: list[SystemVectors]) -> Evaluated:
    table = validate(Table, {"benchmark": SYSU} | settings, "t")
    return evaluate({"t": table}, systems, systems[0].rows, PROTOCOL)


def test_a_row_a_number() -> None:
    one = system("a", 0.5, lost=(0, len(IMAGES) - 1))
    found = done({}, [one])
    vectors = np.concatenate(list(one.blocks()))
    table = validate(Table, {"benchmark": SYSU}, "t")
    assert table.benchmark is not None
    (outcome,) = evaluate_benchmark(table.benchmark, one.rows, vectors, one.usable)
    assert [row["metric"] for row in found.metrics] == ["rank-1", "rank-5", "rank-10", "rank-20", "map", "minp"]
    for row in found.metrics:
        trials = outcome.of(row["metric"])
        assert (row["value"], row["spread"]) == (pytest.approx(trials.mean()), pytest.approx(trials.std(ddof=1)))
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["protocol"], row["trials"], row["k"], row["n"]) == (NAME, 10, None, outcome.n[0])
        assert (row["gallery_domain"], row["probe_domain"], row["gallery"]) == ("VIS", "NIR", "all")
        assert (row["n_gallery"], row["n_subjects"]) == (outcome.gallery_images[0], outcome.gallery_identities[0])
        assert (row["rule"], row["rerank"], row["distance"]) == ("camera 3 never searches camera 2", "off", "cosine")
        assert (row["failed_probes"], row["n_probes"]) == (1, len(outcome.subject))
    cmc = [row["y"] for row in found.curves]
    np.testing.assert_allclose(cmc, outcome.cmc.mean(axis=0))
    assert all(row["low"] <= row["y"] <= row["high"] for row in found.curves)
    (line,) = found.tables["t"]["coverage"]
    assert "queries (misses)" in line
    assert found.tables["t"]["protocol"] == NAME
    for made, schema in ((found.metrics, METRICS), (found.curves, CURVES), (found.comparisons, COMPARISONS)):
        kept = pa.Table.from_pylist(made, schema=schema)
        kept.validate(full=True)
        assert all(field.nullable or not kept[field.name].null_count for field in schema)


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
@pytest.mark.parametrize("settings", [{}, {"benchmark": {"use": "llcm_idkl_full"}}, {"rerank": {"k1": 4, "k2": 2}}])
def test_lists_are_those_of_the_first_trial(settings: dict[str, Any], measure: str) -> None:
    """Against every score computed and sorted here; images without a vector are in no list."""
    lost = (0, 5, len(IMAGES) - 1)
    one = replace(system("a", 0.5, lost=lost), measure=measure)  # type: ignore[arg-type]
    table = validate(Table, {"benchmark": SYSU} | settings, "t")
    found = done(settings, [one])
    assert table.benchmark is not None
    vectors = np.concatenate(list(one.blocks())).astype(np.float64)
    templates = found.templates["a"]
    assert (len(templates), templates.failed) == (len(IMAGES), 3)
    assert templates.item.tolist() == one.rows["crop_id"].to_pylist()
    images = BenchmarkImages.of(one.rows)
    removal = table.benchmark.removal
    at = {name: n for n, name in enumerate(templates.name)}
    lists = [row for row in found.lists if row["table"] == "t"]
    outcomes = evaluate_benchmark(table.benchmark, one.rows, vectors.astype(np.float32), one.usable, one.measure)
    for direction, outcome in zip(table.benchmark.directions(images, None), outcomes, strict=True):
        trial = direction.trials[0]
        own = [row for row in lists if row["probe_domain"] == direction.probe_domain]
        assert [at[row["template"]] for row in own] == trial.queries.tolist()
        for n, row in enumerate(own):
            query = trial.queries[n]
            there = trial.gallery[np.isin(trial.gallery, lost, invert=True)]
            if removal is not None:
                out = removal.matches(images.camera[query], images.camera[there])
                there = there[~(out & ((removal.of == "everyone") | (images.person[there] == images.person[query])))]
            mates = images.person[there] == images.person[query]
            if query in lost or not mates.any():
                assert (row["rank"], row["mated_score"]) == (None, None)
                assert row["status"] in ("no_probe", "no_mate", "unmated")
                continue
            top = [at[name] for name in row["top"]]
            assert row["top_score"] == sorted(row["top_score"], reverse=True)
            assert len(top) == min(10, len(there))
            assert {*top} <= {*there.tolist()}
            assert (images.person[top[0]] == images.person[query]) == (row["mated_score"] >= row["nonmated_score"])
            if table.rerank is None:
                a, b = vectors[query], vectors[there]
                far = -np.linalg.norm(b - a, axis=1)
                near = b @ a / np.linalg.norm(a) / np.linalg.norm(b, axis=1)
                scores = near if measure == "cosine" else far
                assert row["top_score"] == pytest.approx(sorted(scores, reverse=True)[:10], abs=1e-4)
                assert row["mated_score"] == pytest.approx(scores[mates].max(), abs=1e-4)
                assert row["nonmated_score"] == pytest.approx(scores[~mates].max(), abs=1e-4)
                assert (row["rank"], row["average_precision"]) == (outcome.rank[0, n], outcome.precision[0, n])
    kept = pa.Table.from_pylist(found.lists, schema=SEARCHES)
    assert all(field.nullable or not kept[field.name].null_count for field in SEARCHES)
    assert not found.searches  # a breakdown by group is of all trials or of none


def test_too_many_vectors_are_no_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdfpipe.evaluation.benchmark_table.MOST_VALUES", 100)
    found = done({}, [system("a", 0.5)])
    assert not found.templates
    assert not found.lists  # whose each image is, would be guessed from its name
    assert "a: no templates and no lists are kept, as" in found.tables["t"]["notes"][0]


def test_two_systems_are_drawn_alike() -> None:
    good, bad = system("good", 0.3), system("bad", 0.9)
    found = done({"metrics": ["map"]}, [good, bad])
    (row,) = found.comparisons
    table = validate(Table, {"benchmark": SYSU}, "t")
    assert table.benchmark is not None
    one, two = (
        evaluate_benchmark(table.benchmark, s.rows, np.concatenate(list(s.blocks())), s.usable)[0] for s in (good, bad)
    )
    assert row["difference"] == pytest.approx(one.of("map").mean() - two.of("map").mean())
    assert (row["n"], row["first_value"]) == (one.n[0], pytest.approx(one.of("map").mean()))
    (codes,), people = subject_codes(np.tile(one.subject, 10))
    values = [mean_of(x.precision.ravel(), codes, people) for x in (one, two)]
    bounds = paired_bootstrap(*values, people, np.random.default_rng(0))
    assert row["low"] == pytest.approx(bounds.low, abs=0.02)
    assert row["significant"] is True
    assert bounds.p < 0.05


def test_reranked_is_another_protocol() -> None:
    plain = done({}, [system("a", 0.6)])
    reranked = done({"rerank": {"k1": 5, "k2": 2, "lambda": 0.3}}, [system("a", 0.6)])
    names = [{row["protocol"] for row in found.metrics} for found in (plain, reranked)]
    assert names == [{NAME}, {NAME + ", re-ranked (k1 5, k2 2, lambda 0.3)"}]
    assert {row["rerank"] for row in reranked.metrics} == {"k1 5, k2 2, lambda 0.3"}
    assert plain.metrics[4]["value"] != reranked.metrics[4]["value"]
    with pytest.raises(ConfigError, match="rerank: k1 200, k2 6 make no sense among"):
        done({"rerank": {"k1": 200}}, [system("a", 0.6)])
    for off in (False, "off", None):
        assert validate(Table, {"benchmark": SYSU, "rerank": off}, "t").rerank is None


def test_a_system_that_was_trained_on_them_is_refused() -> None:
    known = system("a", 0.3, trained=frozenset(["0003", "7"]))
    with pytest.raises(ProtocolError, match=r"table t: a was trained on 1 of the subjects .*\(0003\)"):
        done({}, [known])
    assert done({"allow_trained_subjects": True}, [known]).metrics
    with pytest.raises(ProtocolError, match="table t: a has no vectors of split test"):
        done({}, [system("a", 0.3, rows=rows("train"))])


def test_published_numbers_name_their_protocol() -> None:
    published = {"a": {"NIR": {"rank-1": 70.5, "map": 68.0}}}
    found = done({"published": published, "published_protocol": NAME}, [system("a", 0.3)])
    assert {row["metric"]: row["published"] for row in found.metrics if row["published"]} == {
        "rank-1": 0.705,
        "map": 0.68,
    }
    for said in ("", "sysu all-search single-shot, official galleries, 10 trials"):
        with pytest.raises(
            ConfigError, match=r"published_protocol: expected 'sysu all-search single-shot, seeded .*two"
        ):
            done({"published": published, "published_protocol": said}, [system("a", 0.3)])
    with pytest.raises(ConfigError, match="re-ranked"):
        done({"published": published, "published_protocol": NAME, "rerank": {"k1": 5}}, [system("a", 0.3)])
    mean = {"benchmark": {"use": "regdb", "split": 4}, "published": published}
    validate(Table, mean | {"published_protocol": "regdb mean of 10 splits, all images"}, "t")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["auc"]}, "a benchmark has rank-1 to rank-20, map and minp, got auc"),
        ({"metrics": ["rank-21"]}, "a benchmark has rank-1 to rank-20"),
        ({"pooling": "media_mean"}, "pooling: has no meaning with `benchmark:`"),
        ({"failure": "exclude"}, "failure: has no meaning"),
        ({"benchmark": None, "rerank": {}}, "expected `benchmark:` in the same table"),
        ({"benchmark": None, "published_protocol": "x"}, "expected `benchmark:` in the same table"),
        ({"benchmark": {"use": "sysu", "shot": 1}}, "unknown setting"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Table, {"benchmark": SYSU} | settings, "t")


def test_settings_are_kept() -> None:
    table = validate(Table, {"benchmark": SYSU, "rerank": {"k1": 7, "lambda": 0.2}}, "t")
    assert validate(Table, table.model_dump(mode="json"), "t") == table
    assert table.model_dump(mode="json")["benchmark"]["use"] == "sysu"
