"""Sweeps: which systems they become, what is shared, what reaches the points, what is refused."""

from __future__ import annotations

import copy
import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.reporting.report import report
from mdfpipe.study.study import Study
from mdfpipe.study.sweep import spelled_out, with_points, word
from tests.reporting.test_results_page import check_self_contained
from tests.systems import STRIPED, body, copied, loaded, runner, study, write_study

BASE: dict[str, Any] = {"a": {"recipe": STRIPED}}  # optimiser.rate stands at its default, 0.0004
RATES = {"rate": {"system": "a", "values": {"recipe.optimiser.rate": [0.001, 0.0004, "1e-5"]}}}
GRID = {
    "grid": {"system": "a", "values": {"recipe.test_feature": ["raw", "neck"], "recipe.width": [8, 16]}, "title": "G"}
}


def made(sweeps: dict[str, Any], systems: dict[str, Any] = BASE, **sections: Any) -> Study:
    return validate(Study, study(systems, sweeps=copy.deepcopy(sweeps), **sections), "study")


def refused(sweeps: dict[str, Any], systems: dict[str, Any] = BASE, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        made(sweeps, systems, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- what a sweep becomes


def test_each_value_is_a_system_but_where_one_stands_there_already() -> None:
    found = made(RATES)
    assert list(found.systems) == ["a", "rate-0.001", "rate-1e-05"]
    rates = {name: system.recipe.optimiser.rate for name, system in found.systems.items()}
    assert rates == {"a": 0.0004, "rate-0.001": 0.001, "rate-1e-05": 0.00001}
    plain = {name: system.model_dump() for name, system in found.systems.items()}
    for one in plain.values():
        one["recipe"]["optimiser"].pop("rate")
    assert plain["a"] == plain["rate-0.001"] == plain["rate-1e-05"]
    assert [(point.system, point.values) for point in found.swept["rate"]] == [
        ("rate-0.001", (0.001,)),
        ("a", (0.0004,)),
        ("rate-1e-05", (1e-5,)),
    ]
    assert [stage.name for stage in found.stages if stage.name.startswith("train")] == [
        f"train/{name}" for name in found.systems
    ]


def test_of_two_settings_each_value_meets_each() -> None:
    found = made(GRID)
    assert list(found.systems) == ["a", "grid-raw-16", "grid-neck-8", "grid-neck-16"]
    values = [(s.recipe.model_dump()["test_feature"], s.recipe.model_dump()["width"]) for s in found.systems.values()]
    assert values == [("raw", 8), ("raw", 16), ("neck", 8), ("neck", 16)]
    assert [point.name for point in found.swept["grid"]] == ["grid-raw-8", *list(found.systems)[1:]]


def test_a_point_that_is_like_another_system_is_that_one() -> None:
    """Another line of the study, or a point of another sweep: the same training is not done twice."""
    systems = BASE | {"wide": {"recipe": body(width=16)}}
    both = RATES | {"width": {"system": "a", "values": {"recipe.width": [8, 16, 24]}}} | GRID
    found = made(both, systems)
    assert [point.system for point in found.swept["width"]] == ["a", "wide", "width-24"]
    assert [point.system for point in found.swept["grid"]] == ["a", "wide", "grid-neck-8", "grid-neck-16"]
    assert len({system.model_dump_json() for system in found.systems.values()}) == len(found.systems)


def test_a_section_that_the_system_does_without_is_made() -> None:
    vit = {"v": {"recipe": {**STRIPED, "backbone": "mini", "image_height_px": 64}}}
    del vit["v"]["recipe"]["width"]
    found = made({"rank": {"system": "v", "values": {"recipe.lora.rank": [2, 4]}}}, vit)
    ranks = {name: (system.recipe.model_dump()["lora"] or {}).get("rank") for name, system in found.systems.items()}
    assert ranks == {"v": None, "rank-2": 2, "rank-4": 4}


def test_no_value_is_a_value() -> None:
    found = made({"people": {"system": "a", "values": {"max_subjects": [8, None]}}})
    assert {name: system.max_subjects for name, system in found.systems.items()} == {"a": None, "people-8": 8}


@pytest.mark.parametrize(
    ("value", "name"),
    [(2.0, "2"), (2, "2"), (0.1, "0.1"), (1e22, "1e_22"), (True, "true"), ("a b/ü", "a_b__"), (-0.5, "-0.5")],
)
def test_a_value_in_a_name(value: Any, name: str) -> None:
    assert word(value) == name


def test_the_name_of_a_sweep_in_a_table_stands_for_its_points() -> None:
    tables = {
        "t": {"systems": ["rate"]},
        "u": {"systems": ["a", "rate"]},
        "all": {},
        "one": {"systems": ["rate-0.001"]},
    }
    found = made(RATES, evaluate={"tables": tables})
    (stage,) = found.evaluating(found.systems)
    assert {name: table.systems for name, table in stage.settings.tables.items()} == {
        "t": ["rate-0.001", "a", "rate-1e-05"],
        "u": ["a", "rate-0.001", "rate-1e-05"],
        "all": [],
        "one": ["rate-0.001"],
    }
    (stage,) = found.evaluating(["a", "rate-0.001"])
    assert list(stage.settings.tables) == ["all", "one"]
    assert spelled_out(["x", "rate", "x"], {}) == ["x", "rate"]


# -- again and again


def same(one: Study, other: Study) -> bool:
    return one == other and one.swept == other.swept and one.to_yaml() == other.to_yaml()


def test_what_a_run_folder_keeps_becomes_the_same_study(tmp_path: Path) -> None:
    tables = {"t": {"systems": ["grid"]}, "r": {"systems": ["rate", "a"]}}
    found = made(RATES | GRID, evaluate={"tables": tables})
    kept = tmp_path / "pipeline.yaml"
    kept.write_text(found.to_yaml())
    again = Study.load(kept)
    assert same(found, again)
    assert again.stages == found.stages
    assert list(yaml.safe_load(found.to_yaml())["systems"]) == ["a"]
    assert same(validate(Study, found.model_dump(mode="json"), "whole"), found)  # points written out are the points
    strict = found.strict()
    assert all(system.strict for system in strict.systems.values())
    assert list(strict.systems) == list(found.systems)
    assert strict.swept.keys() == found.swept.keys()


def test_expanding_twice_is_expanding_once() -> None:
    plain = study(BASE, sweeps=RATES | GRID)
    before = copy.deepcopy(plain)
    once = with_points(plain)
    assert plain == before
    assert with_points(once) == once
    assert list(once["systems"]) == ["a", "rate-0.001", "rate-1e-05", "grid-raw-16", "grid-neck-8", "grid-neck-16"]


@settings(max_examples=25, deadline=None)
@given(
    strategies.lists(strategies.floats(1e-6, 1e3), min_size=1, max_size=4, unique_by=word),
    strategies.lists(strategies.integers(0, 9), min_size=1, max_size=3, unique=True),
)
def test_any_grid_has_its_values_and_stays_so(rates: list[float], seeds: list[int]) -> None:
    found = made({"g": {"system": "a", "values": {"recipe.optimiser.rate": rates, "seed": seeds}}})
    wanted = list(itertools.product(rates, seeds))
    assert [point.values for point in found.swept["g"]] == wanted
    systems = [found.systems[point.system] for point in found.swept["g"]]
    assert [(system.recipe.optimiser.rate, system.seed) for system in systems] == wanted
    assert len(found.systems) == len({(0.0004, 0), *wanted})
    assert same(validate(Study, yaml.safe_load(found.to_yaml()), "again"), found)


# -- changes on the command line


@pytest.fixture(params=["the study", "what a run keeps"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = write_study(
        tmp_path / "study.yaml", BASE, sweeps=RATES | GRID, evaluate={"tables": {"t": {"systems": ["rate"]}}}
    )
    if request.param == "what a run keeps":
        kept = Study.load(path).to_yaml()
        path.write_text(kept)
    return path


def test_what_is_changed_in_the_system_is_changed_in_the_points(written: Path) -> None:
    found = Study.load(written, ["systems.a.seed=7", "systems.a.recipe.flip_fusion=false"])
    assert {system.seed for system in found.systems.values()} == {7}
    assert [system.recipe.model_dump()["flip_fusion"] for system in found.systems.values()] == [False] * 6


def test_a_system_that_moves_makes_another_point_its_own(written: Path) -> None:
    found = Study.load(written, ["systems.a.recipe.optimiser.rate=0.001"])
    assert [point.system for point in found.swept["rate"]] == ["a", "rate-0.0004", "rate-1e-05"]
    assert found.tables["t"].systems == ["a", "rate-0.0004", "rate-1e-05"]
    assert found.systems["grid-neck-8"].recipe.optimiser.rate == 0.001


def test_other_values_are_other_points_in_the_tables_too(written: Path) -> None:
    found = Study.load(
        written, ["sweeps.rate.values={recipe.optimiser.rate: [1, 2]}", "sweeps.grid.values.recipe.width=[9]"]
    )
    assert found.tables["t"].systems == ["rate-1", "rate-2"]
    assert set(found.systems) == {"a", "rate-1", "rate-2", "grid-raw-9", "grid-neck-9"}


def test_a_point_alone_cannot_be_changed(written: Path) -> None:
    """It is what the system is, but for its values."""
    with pytest.raises(ConfigError, match=r"systems\.grid-neck-8\.recipe: field required"):
        Study.load(written, ["systems.grid-neck-8.seed=3"])


# -- what is refused


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"system": "b"}, ".system: no system 'b'; there are a"),
        (
            {"values": {"recipe.optimiser.rat": [1]}},
            ": s-1: recipe.optimiser.rat: unknown setting (did you mean rate?)",
        ),
        ({"values": {"recipe.optimiser.rate": [1, -1]}}, ": s--1: recipe.optimiser.rate: input should be greater than"),
        ({"values": {"recipe.optimiser.rate": ["fast"]}}, ": s-fast: recipe.optimiser.rate: input should be a valid n"),
        ({"values": {"recipe.width.x": [1]}}, ": s-1: recipe.width.x: width is a value, not a section"),
        ({"values": {"recipe.use": ["face"]}}, ".values: recipe.use: another recipe has other settings: name a system"),
        ({"values": {"seed": []}}, ".values.seed: list should have at least 1 item"),
        ({"values": {}}, ".values: dictionary should have at least 1 item"),
        (
            {"values": {name: [1] for name in ("seed", "keep", "recipe.width")}},
            ".values: dictionary should have at",
        ),
        ({"values": {"seed": [1, 2, 1.0]}}, ".values: seed: names 1 twice"),
        (
            {"values": {"recipe..width": [1]}},
            ".values: expected a setting such as recipe.schedule.length, got 'recipe.",
        ),
        ({"valeus": {}}, ".valeus: unknown setting"),
        ({"values": {"seed": 3}}, ".values.seed: input should be a valid list"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_line(sweep: dict[str, Any], said: str) -> None:
    assert f"sweeps.s{said}" in refused({"s": {"system": "a", "values": {"seed": [1]}} | sweep})


def test_names_that_clash_are_refused() -> None:
    other = {"rate-0.001": {"recipe": body(width=16)}}
    said = refused(RATES, BASE | other)
    assert "sweeps.rate: there is a system rate-0.001 with other settings already; rename one" in said
    said = refused(RATES, BASE | {"rate": {"recipe": body(width=16)}})
    assert "sweeps.rate: a system has this name, too" in said
    two = {"s": {"system": "a", "values": {"seed": [3]}}, "s-3": {"system": "a", "values": {"seed": [4]}}}
    assert "sweeps.s-3: a" in refused(two)
    assert "sweeps.s-3: a" in refused(dict(reversed(two.items())))
    twice = {"s": {"system": "a", "values": {"train_on": ["x"], "weights": ["a b", "a_b"]}}}
    assert "weights: names a_b twice" in refused(twice)
    assert "[key]: string should match pattern" in refused({"a b": RATES["rate"]})


def test_what_is_wrong_elsewhere_is_said_of_it(tmp_path: Path) -> None:
    assert "systems.a.recipe.batchs: unknown setting" in refused(RATES, {"a": {"recipe": body(batchs=3)}})
    said = refused(RATES, evaluate={"tables": {"t": {"systems": ["rates"]}}})
    assert "evaluate.tables.t: no system 'rates'; there are a, rate-0.001, rate-1e-05, rate" in said


# -- from the videos to the drawing


def test_a_sweep_is_trained_embedded_searched_and_drawn(labelled: Path, tmp_path: Path) -> None:
    home = copied(labelled, tmp_path / "home")
    sweeps = {"feature": {"system": "a", "values": {"recipe.test_feature": ["raw", "neck"]}, "title": "Which feature"}}
    table = {"systems": ["feature"], "metrics": ["rank-1", "map"], "unmated": "exclude"}
    make, executor = runner(home, {"a": {"recipe": loaded()}}, sweeps=sweeps, evaluate={"tables": {"t": table}})
    assert make.execute("train").complete
    assert [unit for unit in executor.ran if unit.startswith("train")] == [
        "train/a/training",
        "train/feature-neck/training",
    ]
    assert make.due(None, None) == []
    shutil.rmtree(home / "run" / "evaluate" / "templates")  # maps of them take their time
    made = report(home / "run", out=tmp_path / "out", allow_stale=True)
    written = [Path(name).relative_to(tmp_path / "out").as_posix() for name in made.files]
    assert written[-2:] == ["sweeps/feature.csv", "sweeps/feature.svg"]
    lines = (tmp_path / "out" / "sweeps" / "feature.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert {tuple(line.split(",")[2:5]) for line in lines[1:]} == {("raw", "a", "yes"), ("neck", "feature-neck", "no")}
    page = (tmp_path / "out" / "report.html").read_text()
    check_self_contained(page)
    assert "Which feature" in page[page.index('id="sweeps"') :]
