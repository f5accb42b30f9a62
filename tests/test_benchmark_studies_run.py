"""The studies of the visible-infrared benchmarks on made-up trees: every dry run, and tiny ones to the end."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mdfpipe.cli.commands import app
from mdfpipe.errors import ConfigError, ProtocolError
from mdfpipe.learning.system import System
from mdfpipe.reporting import reached
from mdfpipe.reporting.comparison import average_runs
from mdfpipe.reporting.report import report
from mdfpipe.running.runner import Runner
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.benchmark_studies import BENCHMARKS, PIPELINES, STUDIES, WEIGHTS, every_study, load
from tests.datasets import made_benchmarks as made
from tests.evaluation.made_images import permutations
from tests.inline import Inline
from tests.systems import ONE_THREAD


@pytest.fixture
def studies() -> dict[str, Study]:
    return every_study()


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """HOME of each data set, with `data`, weights that are none, and a `run` as far as the manifest."""
    homes = {name: tmp_path_factory.mktemp(name) for name in BENCHMARKS}
    made.write_sysu(homes["sysu"] / "data", train=4, val=2, test=5, images=4)
    listed = sorted((homes["sysu"] / "data").glob("cam*/*/*.jpg"))
    images = [(str(p), p.parts[-2], "", int(p.parts[-3].removeprefix("cam"))) for p in listed]
    permutations(homes["sysu"] / "data/exp/rand_perm_cam.mat", images)
    made.write_regdb(homes["regdb"] / "data", subjects=8, images=6)
    made.write_llcm(homes["llcm"] / "data", test=4, images=2)
    for name, home in homes.items():
        for file in WEIGHTS.values():
            (home / "data" / file).write_bytes(b"of nobody")
        assert done(load(name), home, "run", last="manifest") != []
    return homes


def done(study: Study, home: Path, run: str, last: str | None = None, only: list[str] | None = None) -> list[str]:
    """Run it in this process, to its end; gives the units that ran."""
    executor = Inline(ONE_THREAD)
    outcome = Runner(study, Run(home / run), home / "data", ONE_THREAD, executor, only).execute(None, last)
    assert outcome.complete, (outcome.failures, outcome.refused)
    return executor.ran


@pytest.mark.parametrize("name", STUDIES)
def test_a_dry_run_names_every_training(name: str, studies: dict[str, Study], trees: dict[str, Path]) -> None:
    study = studies[name]
    home = trees[study.dataset.use]
    command = ["run", f"{PIPELINES / name}.yaml", "--data", f"{home / 'data'}", "--run", f"{home / 'run'}", "--dry-run"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 0, said.output
    found = set(re.findall(r"^train/([\w.-]+)", said.output, re.MULTILINE))
    assert found == study.systems.keys()
    assert re.search("^evaluate", said.output, re.MULTILINE)


@pytest.mark.parametrize("file", ["exp/rand_perm_cam.mat", WEIGHTS[True]])
def test_a_missing_file_is_missed_before_anything_is_done(file: str, trees: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(trees["sysu"] / "data", tmp_path / "data")
    (tmp_path / "data" / file).unlink()
    executor = Inline(ONE_THREAD)
    with pytest.raises(ConfigError, match=re.escape(repr(file)) + " not found"):
        Runner(load("sysu/di2l"), Run(tmp_path / "run"), tmp_path / "data", ONE_THREAD, executor).execute()
    assert executor.ran == []


def tiny(folder: Path, name: str, only: set[str] | None = None, **sections: Any) -> Study:
    """The study with small networks from nothing, trained for two steps; sections: what goes over it."""
    study = load(name)
    given = set(yaml.safe_load(study.to_yaml())["systems"])
    own = {"systems": {n: small(system) for n, system in study.systems.items() if n in given}} | sections
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"extends": f"{PIPELINES / name}.yaml", "name": "tiny", **own}))
    return Study.load(path)


def small(system: System) -> dict[str, Any]:
    sizes = type(system.recipe).tiny
    schedule = {"length": 2, "unit": "steps", "warm_up": 0, "milestones": []}
    batches = {"subjects": 2, "crops": 2}
    return {"weights": None, "recipe": {**sizes, "schedule": schedule, "batches": batches}}


def numbers(home: Path, run: str) -> Iterator[dict[str, Any]]:
    rows = json.loads((home / run / "evaluate/metrics.json").read_text())["metrics"]
    assert all(0 <= row["value"] <= 1 and row["n"] > 0 for row in rows)
    yield from rows


def test_table_1_of_dfw_to_the_end(trees: dict[str, Path], tmp_path: Path) -> None:
    """Two of its rows: every search, and the re-ranked tables, which are of one of them."""
    study, chosen, home = tiny(tmp_path, "sysu/dfw-table-1"), ["dfw-baseline", "dfw"], trees["sysu"]
    assert study.systems["dfw"].recipe != study.systems["dfw-baseline"].recipe
    ran = done(study, home, "run", only=chosen)
    assert Counter(unit.split("/")[0] for unit in ran) == {"train": 2, "embed": 12, "evaluate": 1}
    found = {(row["table"], row["system"]): row for row in numbers(home, "run") if row["metric"] == "rank-1"}
    tables = list(study.tables)
    assert set(found) == {
        (table, system) for table in tables for system in (["dfw"] if "reranked" in table else chosen)
    }
    for (table, system), row in found.items():
        assert (row["protocol"], row["trials"]) == (study.tables[table].protocol, 10)
        assert (row["n"], row["n_gallery"]) == (
            5 * 2 * 4,
            (4 if "all" in table else 2) * 5 * (1 if "single" in table else 4),
        )
        assert row["distance"] == "cosine", system
    assert done(study, home, "run", only=chosen) == []


def test_the_sweep_of_gamma_to_its_drawing(trees: dict[str, Path], tmp_path: Path) -> None:
    sweeps = {"gamma": {"values": {"recipe.gamma": [0, 2]}}}
    study, home = tiny(tmp_path, "sysu/di2l-gamma", sweeps=sweeps), trees["sysu"]
    ran = done(study, home, "run")
    assert [unit for unit in ran if unit.startswith("train")] == [
        "train/di2l/training",
        "train/gamma-0/training",
    ]
    found = {(row["table"], row["system"], row["metric"]) for row in numbers(home, "run")}
    assert {("gamma", system, metric) for system in ("di2l", "gamma-0") for metric in ("rank-1", "map")} <= found
    wrote = report(home / "run", out=tmp_path / "report").files
    page = next(Path(name) for name in wrote if str(name).endswith(".html")).read_text()
    assert "Figure 2b: gamma" in page


def test_two_splits_of_regdb_and_their_mean(trees: dict[str, Path], tmp_path: Path) -> None:
    home = trees["regdb"]
    for split in (1, 2):
        study = tiny(tmp_path, "regdb/lccrf", dataset={"split": split})
        done(study, home, f"run-{split}")
        assert {row["protocol"] for row in numbers(home, f"run-{split}")} == {f"regdb split {split} of 10, all images"}
    mean = average_runs([home / f"run-{split}" for split in (1, 2)])
    each = [{key(row): row["value"] for row in numbers(home, f"run-{split}")} for split in (1, 2)]
    assert {key(row): row["value"] for row in mean.metrics} == pytest.approx(
        {one: (value + each[1][one]) / 2 for one, value in each[0].items()}
    )
    assert {key(row)[2:4] for row in mean.metrics} == {("VIS", "LWIR"), ("LWIR", "VIS")}
    assert {row["trials"] for row in mean.metrics} == {2}
    assert {row["distance"] for row in mean.metrics} == {"euclidean"}
    rows = reached.rows_of([home / f"run-{split}" for split in (1, 2)], on="made-up")
    assert {(row.protocol, row.runs, row.trials) for row in rows} == {
        ("regdb splits 1, 2 of 10, all images, mean of 2 runs", 2, 2)
    }
    shutil.copytree(home / "run-1", tmp_path / "again")
    with pytest.raises(ProtocolError, match="two runs are of split 1"):
        reached.rows_of([home / "run-1", tmp_path / "again"], on="made-up")


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return row["table"], row["system"], row["gallery_domain"], row["probe_domain"], row["metric"]


def test_table_2_of_the_body_paper_to_the_end(trees: dict[str, Path], tmp_path: Path) -> None:
    study, home = tiny(tmp_path, "ijbmdf/table-2"), trees["llcm"]
    done(study, home, "run")
    found = {key(row): row for row in numbers(home, "run")}
    beside = {one[2:]: row["published"] for one, row in found.items() if row["published"] is not None}
    assert beside == pytest.approx(
        {
            ("NIR", "VIS", "rank-1"): 0.705,
            ("NIR", "VIS", "map"): 0.729,
            ("VIS", "NIR", "rank-1"): 0.641,
            ("VIS", "NIR", "map"): 0.703,
        }
    )
    rows = reached.rows_of([home / "run"], on="made-up", tables=["deen-paper"])
    assert [row.published for row in rows] == [{"rank-1": 64.1, "map": 70.3}, {"rank-1": 70.5, "map": 72.9}]
    assert sum("[paper 72.90]" in line for line in reached.lines(rows)) == 1
    ways = Counter((table, gallery, probe) for table, _, gallery, probe, metric in found if metric == "map")
    assert set(ways) == {
        *((table, *pair) for table in ("deen-paper", "idkl-full") for pair in (("VIS", "NIR"), ("NIR", "VIS"))),
        ("testpy-v2i", "VIS", "NIR"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_to_the_end(name: str, trees: dict[str, Path], tmp_path: Path) -> None:
    study = tiny(tmp_path, name)
    home = trees[study.dataset.use]
    done(study, home, "whole")
    found = {(row["table"], row["system"]) for row in numbers(home, "whole")}
    assert found == {(n, s) for n, table in study.tables.items() for s in table.systems or study.systems}
