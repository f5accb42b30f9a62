"""The studies of the visible-infrared benchmarks: against the published rows, and what they share."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import yaml

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.evaluation.published import PublishedRow, rows
from mdfpipe.evaluation.table import Table
from mdfpipe.learning.recipes import Recipe
from mdfpipe.learning.recipes._cross_modal import CrossModal
from mdfpipe.learning.system import System
from mdfpipe.study.study import Study
from tests.benchmark_studies import BENCHMARKS, PIPELINES, STUDIES, WEIGHTS, every_study, load

METRICS = {"Rank-1": "rank-1", "Rank-10": "rank-10", "Rank-20": "rank-20", "mAP": "map"}
OURS = {"sysu": {"body"}}  # systems that no paper has on that benchmark
WEAKENING: dict[str, list[Any]] = {
    "recipe.weakening.threshold": ["mean", 0.2, 0.5, 0.8],
    "recipe.weakening.factor": [0.2, 0.5, 0.8, "proportion"],
}
SEPARATION: dict[str, list[Any]] = {"recipe.overlap.separation_px": [25, 50, 100, 150, 200]}
LAMBDA: dict[str, list[Any]] = {"recipe.overlap.weight": [0.1, 0.3, 0.5, 0.7, 0.9, 1]}
SWEEPS: dict[tuple[str, str], tuple[str, dict[str, list[Any]], tuple[Any, ...]]] = {
    # study, sweep: system that is varied, values, and the paper's best: that system itself
    ("sysu/di2l-gamma", "gamma"): ("di2l", {"recipe.gamma": [0, 0.5, 1, 2, 5]}, (2,)),
    ("sysu/idkl-lambdas", "idkl-lambda-1"): ("idkl", {"recipe.ip.weight": [0, 0.05, 0.1, 0.2, 0.4]}, (0.1,)),
    ("sysu/idkl-lambdas", "idkl-lambda-2"): ("idkl", {"recipe.tgsa.weight": [0, 0.2, 0.4, 0.6, 0.8, 1]}, (0.6,)),
    ("sysu/idkl-lambdas", "idkl-lambda-3"): ("idkl", {"recipe.csa.weight": [0, 0.2, 0.4, 0.6, 0.8, 1]}, (0.8,)),
    ("sysu/dfw-threshold", "dfw-threshold"): ("dfw-weakening", WEAKENING, ("mean", 0.5)),
    ("sysu/dfw-separation", "dfw-separation"): ("dfw-lambda-1", SEPARATION, (100,)),
    ("sysu/dfw-lambda", "dfw-lambda"): ("dfw-sln", LAMBDA, (0.5,)),
    ("regdb/dfw-threshold", "dfw-threshold"): ("dfw-weakening", WEAKENING, ("mean", 0.2)),
    ("regdb/dfw-separation", "dfw-separation"): ("dfw-sln", SEPARATION, (100,)),
    ("regdb/dfw-lambda", "dfw-lambda"): ("dfw-sln", LAMBDA, (1,)),
}


@pytest.fixture
def studies() -> dict[str, Study]:
    return every_study()


def of(studies: dict[str, Study], folder: str) -> dict[str, Study]:
    """Those of a data set."""
    return {name: study for name, study in studies.items() if study.dataset.use == folder}


# -- against the papers

PUBLISHED = [row for row in rows() if row.benchmark in BENCHMARKS.values()]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.recipe} {row.table} {row.protocol} {row.row}")
def test_a_published_row_is_a_system_measured_like_it(row: PublishedRow, studies: dict[str, Study]) -> None:
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


def measures(table: Table, row: PublishedRow) -> bool:
    """Whether a table is of the row's protocol, as far as the paper says what that is."""
    one: Any = table.benchmark
    if (row.row == "published, k-reciprocal re-ranking") != (table.rerank is not None):
        return False
    if one.use == "sysu":
        words = f"{one.search}-search, {'single' if one.shots == 1 else 'multi'}-shot"
        return words == row.protocol
    return bool(one.use == "regdb" or one.use == row.protocol.split(", ")[1])


def way(row: PublishedRow) -> tuple[str, str]:
    """The domains of gallery and probe."""
    if row.benchmark == "SYSU-MM01":
        return "VIS", "NIR"
    infrared = "LWIR" if row.benchmark == "RegDB" else "NIR"
    return (infrared, "VIS") if row.protocol.startswith("visible") else ("VIS", infrared)


def comment(study: str) -> str:
    lines = (PIPELINES / f"{study}.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def test_numbers_stand_beside_ours_only_where_their_protocol_is_known(studies: dict[str, Study]) -> None:
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
def test_every_system_is_a_published_row_or_a_point_of_a_sweep(folder: str, studies: dict[str, Study]) -> None:
    rows = [row for row in PUBLISHED if row.benchmark == BENCHMARKS[folder]]
    recipes = [validate(Recipe, {"use": row.recipe, **row.settings}, row.row) for row in rows]
    for name, study in of(studies, folder).items():
        swept = {point.system for points in study.swept.values() for point in points}
        swept |= {sweep.system for sweep in study.sweeps.values()}
        strangers = {n for n, s in study.systems.items() if s.recipe not in recipes} - swept - OURS.get(folder, set())
        assert not strangers, name


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_does_not_say_is_the_recipes(name: str, studies: dict[str, Study]) -> None:
    """Nothing but recipe, weights of ImageNet or LUPerson, and that test images alone are embedded."""
    for system in studies[name].systems.values():
        weights = WEIGHTS[isinstance(system.recipe, CrossModal)]
        begun = {"start_from": system.start_from} if system.start_from else {"weights": weights}
        assert system == System(recipe=system.recipe, splits=["test"], **begun)
        if system.start_from:  # the same weights, tested otherwise
            assert system.recipe.schedule.length == 0


# -- what is shared


@pytest.mark.parametrize("folder", BENCHMARKS)
def test_a_system_is_the_same_in_every_study_of_a_data_set(folder: str, studies: dict[str, Study]) -> None:
    """So that one run folder serves all; and no two names are of one training."""
    base, everywhere = load(folder), dict[str, System]()
    for study in of(studies, folder).values():
        assert (study.dataset, study.manifest) == (base.dataset, base.manifest)
        for name, table in base.tables.items():
            untitled = {"title", "published", "also_published", "published_protocol", "published_note"}
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


def test_a_table_is_either_reranked_or_not(studies: dict[str, Study]) -> None:
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


def test_all_methods_stand_side_by_side(studies: dict[str, Study]) -> None:
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
        again = validate(Study, yaml.safe_load(study.to_yaml()), "again")
        assert again.tables == study.tables
    with pytest.raises(ConfigError, match=r"both-ways\.benchmark: is of split 3, but dataset\.split is 7"):
        load("regdb/dfw-table-1", "dataset.split=7", "evaluate.tables.both-ways.benchmark.split=3")


@pytest.mark.parametrize(("file", "name"), SWEEPS)
def test_a_sweep_varies_its_setting_alone_and_holds_the_papers_best(
    file: str, name: str, studies: dict[str, Study]
) -> None:
    base, values, best = SWEEPS[file, name]
    study = studies[file]
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
    assert {(study, name) for study in STUDIES for name in load(study).sweeps} == SWEEPS.keys()


def test_sweeps_of_dfw_meet_each_other_and_table_1(studies: dict[str, Study]) -> None:
    for folder in ("sysu", "regdb"):
        whole = studies[f"{folder}/dfw-table-1"].systems
        for file, name in (("dfw-threshold", "dfw-weakening"), ("dfw-lambda", "dfw-sln")):
            assert studies[f"{folder}/{file}"].systems[name] == whole[name]
    assert studies["regdb/dfw-separation"].systems["dfw-sln"] == whole["dfw-sln"]
    whole = studies["sysu/dfw-table-1"].systems
    one = studies["sysu/dfw-separation"].systems["dfw-lambda-1"]
    assert studies["sysu/dfw-lambda"].systems["dfw-lambda-1"] == one != whole["dfw-sln"]
