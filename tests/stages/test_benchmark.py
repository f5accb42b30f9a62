"""A study on a data set of images with tables under its published protocol, from the files to the numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.study.pipeline import Pipeline
from tests.datasets import made_benchmarks as made
from tests.evaluation.made_images import benchmark, permutations
from tests.inline import Inline
from tests.stages.test_gather import protocol
from tests.systems import ONE_THREAD, STRIPED, loaded

TABLES: dict[str, Any] = {
    "plain": {"benchmark": {"use": "sysu"}},
    "reranked": {"benchmark": {"use": "sysu"}, "rerank": {"k1": 4, "k2": 2}},
}


def study(use: str, tables: dict[str, Any], systems: dict[str, Any] | None = None, **dataset: Any) -> Pipeline:
    settings = {
        "name": use,
        "dataset": {"use": use, **dataset},
        "manifest": {"protocol": protocol(use)},
        "systems": systems or {name: {"recipe": loaded(), "seed": n} for n, name in enumerate(("one", "two"))},
        "evaluate": {"tables": tables},
    }
    return validate(Pipeline, settings, "study")


def runner(home: Path, pipeline: Pipeline) -> tuple[Runner, Inline]:
    executor = Inline(ONE_THREAD)
    return Runner(pipeline, Run(home / "run"), home / "data", ONE_THREAD, executor), executor


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("sysu")
    parts = made.write_sysu(found / "data", train=2, val=1, test=6, images=2)
    images = [
        (f"cam{c}/{s:04d}/{n:04d}.jpg", f"{s:04d}", made.SYSU_BANDS[c], c)
        for c in range(1, 7)
        for s in range(1, 10)
        for n in (1, 2)
    ]
    assert parts.test == [4, 5, 6, 7, 8, 9]
    permutations(found / "data/exp/rand_perm_cam.mat", images)
    make, _ = runner(found, study("sysu", TABLES))
    assert make.execute().complete
    return found


def test_numbers_are_those_of_the_vectors(home: Path) -> None:
    run = Run(home / "run")
    manifest = run.table("manifest", "manifest")
    manifest = manifest.filter(np.array(manifest["split"].to_pylist()) == "test")
    metrics = run.table("evaluate", "metrics").to_pylist()
    assert {(row["table"], row["rerank"]) for row in metrics} == {
        ("plain", "off"),
        ("reranked", "k1 4, k2 2, lambda 0.3"),
    }
    for system in ("one", "two"):
        vectors: dict[str, Any] = {}
        for video in sorted(set(manifest["video_id"].to_pylist())):
            part = run.table(f"embed/{system}", video)
            vectors |= dict(zip(part["crop_id"].to_pylist(), part["vector"].to_pylist(), strict=True))
        own = np.array([vectors[name] for name in manifest["crop_id"].to_pylist()], np.float32)
        (expected,) = evaluate_benchmark(
            benchmark(use="sysu"), manifest, own, np.ones(len(own), bool), data=home / "data"
        )
        assert (expected.n.tolist(), expected.gallery_images.tolist()) == ([24] * 10, [24] * 10)
        found = {row["metric"]: row for row in metrics if (row["table"], row["system"]) == ("plain", system)}
        for metric, row in found.items():
            assert row["value"] == pytest.approx(expected.of(metric).mean(), abs=1e-6)
            assert row["protocol"] == "sysu all-search single-shot, official galleries, 10 trials"
    tests = run.path / "evaluate" / "comparisons.parquet"
    assert tests.is_file()


def test_the_galleries_are_part_of_what_it_was_made_from(home: Path) -> None:
    make, executor = runner(home, study("sysu", TABLES))
    make.execute()
    assert executor.ran == []
    path = home / "data/exp/rand_perm_cam.mat"
    kept = path.read_bytes()
    try:
        images = [(f"x/{s}/{c}/{n}", f"{s:04d}", "VIS", c) for c in range(1, 7) for s in range(1, 10) for n in (1, 2)]
        permutations(path, images, 11)
        make, _ = runner(home, study("sysu", TABLES))
        (line,) = make.due(None, None)
        assert "evaluate" in line
        assert "galleries/plain/0" in line
        path.unlink()
        with pytest.raises(ConfigError, match=r"galleries 'exp/rand_perm_cam.mat' not found"):
            runner(home, study("sysu", TABLES))[0].due(None, None)
    finally:
        path.write_bytes(kept)


def test_images_that_do_not_decode_are_said_beside_the_numbers(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "data", tmp_path / "data")
    for name in ("cam3/0004/0001.jpg", "cam3/0005/0002.jpg", "cam1/0001/0001.jpg"):
        (tmp_path / "data" / name).write_bytes(b"no picture")
    systems = {"one": {"recipe": loaded()}}
    make, _ = runner(tmp_path, study("sysu", {"plain": TABLES["plain"]}, systems))
    done = make.execute()
    line = (
        "2 NIR images of split test are unreadable: they are neither queries nor in a gallery, so these are not "
        "numbers of the whole data set"
    )
    assert [note for note in done.notes if "unreadable" in note] == [f"evaluate: plain: {line}"]
    said = json.loads((tmp_path / "run/evaluate/metrics.json").read_text())["tables"]["plain"]["notes"]
    assert line in said
    assert Run(tmp_path / "run").table("evaluate", "metrics")["n_probes"].unique().to_pylist() == [22]
    assert "unreadable" not in (home / "run/evaluate/metrics.json").read_text()


def test_its_report_and_comparison(home: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(home / "run"), "--out", str(home / "page")])
    assert done.exit_code == 0, done.output
    page = next((home / "page").rglob("*.html")).read_text()
    assert page.count("sysu all-search single-shot, official galleries, 10 trials") > 1
    assert "re-ranked (k1 4, k2 2, lambda 0.3)" in page


def test_the_split_is_that_of_the_data_set() -> None:
    tables = {"t": {"benchmark": {"use": "regdb", "split": 3}}}
    study("regdb", tables, split=3)
    with pytest.raises(ConfigError, match=r"evaluate.tables.t.benchmark: is of split 3, but dataset.split is 1"):
        study("regdb", tables)


def test_who_was_learned_from_is_not_tested(home: Path) -> None:
    tables = {"plain": {"benchmark": {"use": "sysu"}, "splits": ["train"]}}
    systems = {"one": {"recipe": STRIPED, "splits": ["train", "test"]}}
    make, _ = runner(home, study("sysu", tables, systems))
    outcome = make.execute()
    assert not outcome.complete
    assert "table plain: one was trained on 3 of the subjects that it is tested on" in str(outcome)
