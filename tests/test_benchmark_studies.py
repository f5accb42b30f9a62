"""The studies of the visible-infrared benchmarks: against the published rows, what they share, tiny ones to the end."""

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

from mdfpipe.cli import app
from mdfpipe.comparison import average_runs
from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.evaluation.table import Table
from mdfpipe.learning import published
from mdfpipe.learning.published import ROWS, Row
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.recipes._cross_modal import CrossModal
from mdfpipe.learning.system import System
from mdfpipe.pipeline import Pipeline
from mdfpipe.reporting import report
from mdfpipe.runner import Runner
from mdfpipe.store.run import Run
from tests.datasets import made_benchmarks as made
from tests.evaluation.made_images import permutations
from tests.inline import Inline
from tests.systems import ONE_THREAD

PIPELINES = Path(__file__).parents[1] / "pipelines"
BENCHMARKS = {"sysu": published.SYSU, "regdb": published.REGDB, "llcm": published.LLCM}
STUDIES = [f"{folder}/{path.stem}" for folder in BENCHMARKS for path in sorted((PIPELINES / folder).glob("*.yaml"))]
STUDIES.append("ijbmdf/table-2")
METRICS = {"Rank-1": "rank-1", "Rank-10": "rank-10", "Rank-20": "rank-20", "mAP": "map"}
WEIGHTS = {True: "resnet50-0676ba61.pth", False: "pass_vit_base_full.pth"}
OURS = {"sysu": {"body"}}  # systems that no paper has on that benchmark
SWEEPS: dict[str, tuple[str, str, dict[str, list[Any]], tuple[Any, ...]]] = {
    # study, system that is varied, values, and the paper's best: that system itself
    "gamma": ("di2l-gamma", "di2l", {"recipe.gamma": [0, 0.5, 1, 2, 5]}, (2,)),
    "idkl-lambda-1": ("idkl-lambdas", "idkl", {"recipe.ip.weight": [0, 0.05, 0.1, 0.2, 0.4]}, (0.1,)),
    "idkl-lambda-2": ("idkl-lambdas", "idkl", {"recipe.tgsa.weight": [0, 0.2, 0.4, 0.6, 0.8, 1]}, (0.6,)),
    "idkl-lambda-3": ("idkl-lambdas", "idkl", {"recipe.csa.weight": [0, 0.2, 0.4, 0.6, 0.8, 1]}, (0.8,)),
    "dfw-threshold": (
        "dfw-threshold",
        "dfw-weakening",
        {
            "recipe.weakening.threshold": ["mean", 0.2, 0.5, 0.8],
            "recipe.weakening.factor": [0.2, 0.5, 0.8, "proportion"],
        },
        ("mean", 0.5),
    ),
    "dfw-separation": (
        "dfw-separation",
        "dfw-lambda-1",
        {"recipe.overlap.separation_px": [25, 50, 100, 150, 200]},
        (100,),
    ),
    "dfw-lambda": ("dfw-lambda", "dfw-sln", {"recipe.overlap.weight": [0.1, 0.3, 0.5, 0.7, 0.9, 1]}, (0.5,)),
}


def load(name: str, *overrides: str) -> Pipeline:
    return Pipeline.load(PIPELINES / f"{name}.yaml", list(overrides))


@pytest.fixture(scope="module")
def studies() -> dict[str, Pipeline]:
    return {name: load(name) for name in STUDIES}


def of(studies: dict[str, Pipeline], folder: str) -> dict[str, Pipeline]:
    """Those of a data set."""
    return {name: study for name, study in studies.items() if study.dataset.use == folder}


# -- against the papers

PUBLISHED = [row for row in ROWS if row.benchmark in BENCHMARKS.values()]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.recipe} {row.table} {row.protocol} {row.row}")
def test_a_published_row_is_a_system_measured_like_it(row: Row, studies: dict[str, Pipeline]) -> None:
    """One name for these very settings; a table that measures what the row says; its numbers beside it or in words."""
    (folder,) = (name for name, benchmark in BENCHMARKS.items() if benchmark == row.benchmark)
    wanted = validate(Recipe, {"use": row.recipe, **row.settings}, row.row)
    holding = {
        study: [name for name, system in found.systems.items() if system.recipe == wanted]
        for study, found in of(studies, folder).items()
    }
    (name,) = {name for names in holding.values() for name in names}
    measuring = {
        (study, key)
        for study, names in holding.items()
        if names
        for key, table in studies[study].tables.items()
        if name in (table.systems or names) and measures(table, row)
    }
    assert measuring
    claimed = {found for found in measuring if name in studies[found[0]].tables[found[1]].published}
    for study, key in claimed:
        table, (gallery, probe) = studies[study].tables[key], way(row)
        found = {name_: table.paper(name, gallery, probe, metric) for name_, metric in METRICS.items()}
        assert {n: 100 * v for n, v in found.items() if v is not None} == pytest.approx(dict(row.figures))
    numbers = " ".join(f"{value:.2f}" for value in row.figures.values())
    ablated = f"{name} {numbers}" if row.settings and "published" not in row.row and way(row) != ("VIS", "LWIR") else ""
    said = {study for study in holding if holding[study] and (ablated or numbers) in comment(study)}
    if row.figures:
        assert bool(claimed) != bool(said), "expected beside a table's numbers, or else in a file's comment"


def measures(table: Table, row: Row) -> bool:
    """Whether a table is of the row's protocol, as far as the paper says what that is."""
    one: Any = table.benchmark
    if (row.row == published.RERANKED) != (table.rerank is not None):
        return False
    if one.use == "sysu":
        words = f"{one.search}-search, {'single' if one.shots == 1 else 'multi'}-shot"
        return words == row.protocol
    return bool(one.use == "regdb" or one.use == row.protocol.split(", ")[1])


def way(row: Row) -> tuple[str, str]:
    """The domains of gallery and probe."""
    if row.benchmark == published.SYSU:
        return "VIS", "NIR"
    infrared = "LWIR" if row.benchmark == published.REGDB else "NIR"
    return (infrared, "VIS") if row.protocol.startswith("visible") else ("VIS", infrared)


def comment(study: str) -> str:
    lines = (PIPELINES / f"{study}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_numbers_stand_beside_ours_only_where_their_protocol_is_known(studies: dict[str, Pipeline]) -> None:
    claims = {
        (study, key): table.published_protocol
        for study, found in studies.items()
        for key, table in found.tables.items()
        if table.published or table.published_protocol
    }
    assert claims == {
        ("sysu/di2l-table-2", "table-2"): "sysu all-search single-shot, seeded galleries, 10 trials",
        (
            "ijbmdf/table-2",
            "deen-paper",
        ): "llcm_deen_paper, all images among seeded single-shot galleries, 10 trials",
    }


@pytest.mark.parametrize("folder", BENCHMARKS)
def test_every_system_is_a_published_row_or_a_point_of_a_sweep(folder: str, studies: dict[str, Pipeline]) -> None:
    rows = [row for row in PUBLISHED if row.benchmark == BENCHMARKS[folder]]
    recipes = [validate(Recipe, {"use": row.recipe, **row.settings}, row.row) for row in rows]
    for name, study in of(studies, folder).items():
        swept = {point.system for points in study.swept.values() for point in points}
        swept |= {sweep.system for sweep in study.sweeps.values()}
        strangers = {n for n, s in study.systems.items() if s.recipe not in recipes} - swept - OURS.get(folder, set())
        assert not strangers, name


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_does_not_say_is_the_recipes(name: str, studies: dict[str, Pipeline]) -> None:
    """Nothing but recipe, weights of ImageNet or LUPerson, and that test images alone are embedded."""
    for system in studies[name].systems.values():
        weights = WEIGHTS[isinstance(system.recipe, CrossModal)]
        assert system == System(recipe=system.recipe, weights=weights, splits=["test"])


# -- what is shared


@pytest.mark.parametrize("folder", BENCHMARKS)
def test_a_system_is_the_same_in_every_study_of_a_data_set(folder: str, studies: dict[str, Pipeline]) -> None:
    """So that one run folder serves all; and no two names are of one training."""
    base, everywhere = load(folder), dict[str, System]()
    for study in of(studies, folder).values():
        assert (study.dataset, study.manifest) == (base.dataset, base.manifest)
        for name, table in base.tables.items():
            untitled = {"title", "published", "published_protocol"}
            assert study.tables[name].model_dump(exclude=untitled) == table.model_dump(exclude=untitled)
            assert study.tables[name].systems == []
        for name, system in study.systems.items():
            assert everywhere.setdefault(name, system) == system, name
    distinct = Counter(system.model_dump_json() for system in everywhere.values())
    assert [name for name, system in everywhere.items() if distinct[system.model_dump_json()] > 1] == []


def test_the_tables_that_every_method_is_measured_by() -> None:
    labels = {name: [table.protocol for table in load(name).tables.values()] for name in BENCHMARKS}
    assert labels == {
        "sysu": [
            f"sysu {search}-search {shots}, official galleries, 10 trials"
            for search in ("all", "indoor")
            for shots in ("single-shot", "multi-shot (10)")
        ],
        "regdb": ["regdb split 1 of 10, all images"],
        "llcm": [
            "llcm_deen_paper, all images among seeded single-shot galleries, 10 trials",
            "llcm_testpy_v2i, seeded single-shot NIR among all VIS images, 10 trials",
            "llcm_idkl_full, all images among all images, nothing left out, 1 trial",
        ],
    }


def test_a_table_is_either_reranked_or_not(studies: dict[str, Pipeline]) -> None:
    reranked = 0
    for study in studies.values():
        for name, table in study.tables.items():
            assert name.endswith("reranked") == (table.rerank is not None) == ("re-ranked" in table.protocol)
            assert ("re-ranked" in table.title) == (table.rerank is not None)
            if table.rerank is not None:
                reranked += 1
                assert (table.rerank.k1, table.rerank.k2, table.rerank.weight) == (20, 6, 0.3)
                assert study.tables[name.removesuffix("-reranked")].benchmark == table.benchmark
    assert reranked == 2 + 4 + 1 + 1


def test_all_methods_stand_side_by_side(studies: dict[str, Pipeline]) -> None:
    study = studies["sysu/methods"]
    assert {name: system.recipe.use for name, system in study.systems.items()} == {
        name: name for name in ("di2l", "lccrf", "idkl", "dfw", "body")
    }
    assert study.tables.keys() == load("sysu").tables.keys()


def test_lccrf_is_trained_on_395_or_on_296() -> None:
    both = [load("sysu/lccrf-table-1", *more) for more in ((), ("manifest.protocol=sysu-296",))]
    assert [study.manifest.protocol.galleries["val"] for study in both] == ["train", "unused"]
    assert both[0].systems == both[1].systems
    assert "--set manifest.protocol=sysu-296" in " ".join(comment("sysu/lccrf-table-1").replace("#", "").split())


def test_the_split_of_regdb_is_set_at_one_place() -> None:
    for split in (1, 7):
        study = load("regdb/dfw-table-1", f"dataset.split={split}")
        tables: Any = study.tables.values()
        assert [table.benchmark.split for table in tables] == [split, split]
        again = validate(Pipeline, yaml.safe_load(study.to_yaml()), "again")
        assert again.tables == study.tables
    with pytest.raises(ConfigError, match=r"both-ways\.benchmark: is of split 3, but dataset\.split is 7"):
        load("regdb/dfw-table-1", "dataset.split=7", "evaluate.tables.both-ways.benchmark.split=3")


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_varies_its_setting_alone_and_holds_the_papers_best(name: str, studies: dict[str, Pipeline]) -> None:
    file, base, values, best = SWEEPS[name]
    study = studies[f"sysu/{file}"]
    assert study.sweeps[name].values == values
    assert study.sweeps[name].title.startswith("Figure ")
    for point in study.swept[name]:
        settings = study.systems[base].model_dump(mode="json")
        for dotted, value in zip(values, point.values, strict=True):
            *above, last = dotted.split(".")
            section: Any = settings
            for key in above:
                section = section[key]
            section[last] = value
        assert point.settings == validate(System, settings, point.name) == study.systems[point.system]
    assert [point.system for point in study.swept[name] if point.values == best] == [base]


def test_every_sweep_is_known() -> None:
    found = {name: f"{study}" for study in STUDIES for name in load(study).sweeps}
    assert found == {name: f"sysu/{file}" for name, (file, *_) in SWEEPS.items()}


def test_sweeps_of_dfw_meet_each_other_and_table_1(studies: dict[str, Pipeline]) -> None:
    whole = studies["sysu/dfw-table-1"].systems
    for file, name in (("dfw-threshold", "dfw-weakening"), ("dfw-lambda", "dfw-sln")):
        assert studies[f"sysu/{file}"].systems[name] == whole[name]
    one = studies["sysu/dfw-separation"].systems["dfw-lambda-1"]
    assert studies["sysu/dfw-lambda"].systems["dfw-lambda-1"] == one != whole["dfw-sln"]


# -- on made-up trees


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


def done(study: Pipeline, home: Path, run: str, last: str | None = None, only: list[str] | None = None) -> list[str]:
    """Run it in this process, to its end; gives the units that ran."""
    executor = Inline(ONE_THREAD)
    outcome = Runner(study, Run(home / run), home / "data", ONE_THREAD, executor, only).execute(None, last)
    assert outcome.complete, (outcome.failures, outcome.refused)
    return executor.ran


@pytest.mark.parametrize("name", STUDIES)
def test_a_dry_run_names_every_training(name: str, studies: dict[str, Pipeline], trees: dict[str, Path]) -> None:
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


def tiny(folder: Path, name: str, only: set[str] | None = None, **sections: Any) -> Pipeline:
    """The study with small networks from nothing, trained for two steps; sections: what goes over it."""
    study = load(name)
    given = set(yaml.safe_load(study.to_yaml())["systems"])
    own = {"systems": {n: small(system) for n, system in study.systems.items() if n in given}} | sections
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"extends": f"{PIPELINES / name}.yaml", "name": "tiny", **own}))
    return Pipeline.load(path)


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
    assert {key(row): row["value"] for row in mean["metrics"]} == pytest.approx(
        {one: (value + each[1][one]) / 2 for one, value in each[0].items()}
    )
    assert {key(row)[2:4] for row in mean["metrics"]} == {("VIS", "LWIR"), ("LWIR", "VIS")}
    assert {row["trials"] for row in mean["metrics"]} == {2}
    assert {row["distance"] for row in mean["metrics"]} == {"euclidean"}


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
