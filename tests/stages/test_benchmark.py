"""A study on a data set of images with tables under its published protocol, from the files to the numbers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.config import validate
from mdfpipe.errors import ConfigError, DataError
from mdfpipe.evaluation.benchmark import evaluate_benchmark
from mdfpipe.learning.recipes import Recipe
from mdfpipe.reporting import reached
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.store.templates import read_templates
from mdfpipe.study.study import Study
from tests.datasets import made_benchmarks as made
from tests.evaluation.made_images import benchmark, permutations
from tests.inline import Inline
from tests.stages.test_gather import protocol
from tests.systems import ONE_THREAD, STRIPED, loaded

TABLES: dict[str, Any] = {
    "plain": {"benchmark": {"use": "sysu"}},
    "reranked": {"benchmark": {"use": "sysu"}, "rerank": {"k1": 4, "k2": 2}},
}


def study(use: str, tables: dict[str, Any], systems: dict[str, Any] | None = None, **dataset: Any) -> Study:
    settings = {
        "name": use,
        "dataset": {"use": use, **dataset},
        "manifest": {"protocol": protocol(use)},
        "systems": systems or {name: {"recipe": loaded(), "seed": n} for n, name in enumerate(("one", "two"))},
        "evaluate": {"tables": tables},
    }
    return validate(Study, settings, "study")


def runner(home: Path, pipeline: Study) -> tuple[Runner, Inline]:
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


# -- what was reached, as rows of benchmarks/reached.yaml


def test_numbers_are_entered_as_rows_once(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "reached.yaml"
    command = ["reached", str(home / "run"), "--on", "made-up", "--into", str(file), "--note", "a: 'test' # of it"]
    assert "would enter 4 rows" in CliRunner().invoke(app, [*command, "--dry-run"]).output
    assert not file.exists()
    file.write_text("# ours\n\nrows:\n")
    assert "entered 2 rows" in CliRunner().invoke(app, [*command, "--system", "one"]).output
    said = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert (said["written"], said["known"], len(said["reached"])) == (True, 2, 2)
    assert CliRunner().invoke(app, command).output.endswith("entered 0 rows; 4 are there already\n")
    assert file.read_text().startswith("# ours\n\nrows:\n  - benchmark: made-up\n")
    metrics = Run(home / "run").table("evaluate", "metrics").to_pylist()
    found = {(row.table, row.system): row for row in reached.read(file)}
    assert len(found) == 4
    for (table, system), row in found.items():
        own = {m["metric"]: m for m in metrics if (m["table"], m["system"]) == (table, system)}
        assert {n: f.value for n, f in row.figures.items()} == pytest.approx(
            {n: 100 * m["value"] for n, m in own.items()}, abs=0.005
        )
        assert (row.protocol, row.n, row.trials) == (own["map"]["protocol"], 24, 10)
        assert row.rules["rerank"] == own["map"]["rerank"]
        assert validate(Recipe, {"use": row.recipe, **row.settings}, "again") == validate(Recipe, loaded(), "own")
        assert row.notes[0] == "a: 'test' # of it"
    assert found["plain", "two"].system_settings == {"seed": 1}
    listed = CliRunner().invoke(app, ["reached", "--into", str(file)]).output
    assert "body on made-up\n  reached  sysu, plain, one: VIS > NIR, sysu all-search single-shot" in listed


LAYOUTS = ["", "rows: []\n", "rows:\n", "# a\nrows:\n# b\n", "{rows: }", "\ufeffrows:\r\n", "---\nrows:\n...\n"]


@pytest.mark.parametrize("before", [None, *LAYOUTS])
def test_rows_are_added_to_a_file_of_any_layout(before: str | None, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "reached.yaml"
    rows = reached.rows_of([home / "run"], on="made-up", tables=["plain"])
    if before is not None:
        file.write_text(before)
    if before == "":
        with pytest.raises(ConfigError, match=r"reached.yaml: expected settings as `name: value` lines"):
            reached.enter(rows, file)
        return
    assert reached.enter(rows[:1], file) == rows[:1]
    assert reached.enter(rows, file) == rows[1:]
    assert reached.read(file) == rows
    assert "# a" in file.read_text() or "# a" not in (before or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rows: [{a: 1}]", r"rows.0.a: unknown setting"),
        ("rows: 3", "rows: input should be a valid list, got 3"),
        ("other: 1", "other: unknown setting"),
        ("rows: [", "not valid YAML"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_and_stays(
    text: str, said: str, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "reached.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        reached.enter(reached.rows_of([home / "run"], on="made-up"), file)
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["reached.yaml"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"expected SYSU-MM01 as it is published, got other counts \(published 296 train subjects, found 2\)"),
        ({"on": "SYSU-MM01"}, "these numbers are not of that benchmark; name the data by --on"),
        ({"on": "sysu-mm01 "}, "these numbers are not of that benchmark"),
        ({"on": "IJB-MDF"}, r"--on IJB-MDF: expected the data set of .*, whose layout is sysu"),
        ({"on": "RegDB"}, "whose layout is sysu: correct --on"),
        ({"on": "made-up", "tables": ["plane"]}, "--table plane: no such name among the numbers; there are plain"),
        ({"on": "made-up", "systems": ["three"]}, "--system three: no such name"),
        ({"on": "a\x1b[1mb"}, "benchmark: expected printable text"),
    ],
)
def test_numbers_are_not_entered_under_a_wrong_name(given: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        reached.rows_of([home / "run"], **given)


def test_numbers_that_would_be_made_anew_are_not_entered(home: Path, tmp_path: Path) -> None:
    image = home / "data/cam1/0001/0001.jpg"
    kept, times = image.read_bytes(), (image.stat().st_atime_ns, image.stat().st_mtime_ns)
    try:
        image.write_bytes(kept + b"more")
        with pytest.raises(DataError, match=r"found it out of date: index/videos: cam1 changed"):
            reached.rows_of([home / "run"], on="made-up")
    finally:
        image.write_bytes(kept)
        os.utime(image, ns=times)
    for other in (tmp_path, home / "data"):
        with pytest.raises(DataError, match="expected a run folder"):
            reached.rows_of([other], on="made-up")


def test_the_shipped_rows_are_sound() -> None:
    assert reached.lines(reached.read(reached.own_file())) is not None
    assert reached.read(Path("nowhere.yaml")) == []


def test_its_report_and_comparison(home: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(home / "run"), "--out", str(home / "page")])
    assert done.exit_code == 0, done.output
    page = next((home / "page").rglob("*.html")).read_text()
    assert page.count("sysu all-search single-shot, official galleries, 10 trials") > 1
    assert "re-ranked (k1 4, k2 2, lambda 0.3)" in page
    assert "evaluate/lists.parquet, row" in page  # lists of retrieved images, a map and heat maps, as of templates
    assert page.count('class="search"') >= 8
    assert 'href="#map"' in page
    assert 'href="#similarity"' in page
    kept = read_templates(home / "run/evaluate/templates/one.parquet")
    assert (len(kept), kept.failed) == (72, 0)


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
