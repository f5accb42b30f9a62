"""Seeds of a system: which trainings they become, who starts from which, what is refused; and a run with them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.reporting.comparison import side_by_side
from mdfpipe.store.results import read_results
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.systems import STRIPED, checkpoint, copied, loaded, runner, study

SYSTEMS: dict[str, Any] = {"a": {"recipe": STRIPED, "seeds": [0, 3]}, "b": {"recipe": loaded()}}


def made(systems: dict[str, Any], **sections: Any) -> Study:
    return validate(Study, study(systems, **sections), "study")


def test_each_seed_is_a_training(tmp_path: Path) -> None:
    child = {"recipe": STRIPED, "start_from": "a", "seeds": [0, 3]}
    one = {"recipe": STRIPED, "start_from": "a-seed-3"}
    swept = {"rate": {"system": "a", "values": {"recipe.optimiser.rate": [0.001]}}}
    found = made({**SYSTEMS, "child": child, "one": one}, sweeps=swept)
    assert {name: (s.seed, s.start_from) for name, s in found.trainings.items()} == {
        "a-seed-0": (0, None),
        "a-seed-3": (3, None),
        "b": (0, None),
        "child-seed-0": (0, "a-seed-0"),
        "child-seed-3": (3, "a-seed-3"),
        "one": (0, "a-seed-3"),
        "rate-0.001-seed-0": (0, None),
        "rate-0.001-seed-3": (3, None),
    }
    alone = made({"plain": {"recipe": STRIPED, "seed": 3}}).trainings["plain"]
    assert alone.weight_settings() == found.trainings["a-seed-3"].weight_settings()  # trained before: not due again
    again = validate(Study, yaml.safe_load(found.to_yaml()), "kept")
    assert again == found


@pytest.mark.parametrize(
    ("systems", "sections", "words"),
    [
        ({"a": {"recipe": STRIPED, "seeds": [0]}}, {}, "at least 2"),
        ({"a": {"recipe": STRIPED, "seeds": [1, 1]}}, {}, "expected different ones, got [1, 1]"),
        ({"a": {"recipe": STRIPED, "seeds": [0, -1]}}, {}, "greater than or equal to 0"),
        ({"a": {"recipe": loaded(), "weights": "w.pt", "seeds": [0, 1]}}, {}, "every seed would give the same"),
        ({**SYSTEMS, "c": {"recipe": STRIPED, "start_from": "a"}}, {}, "give c the same `seeds`, or name one training"),
        ({**SYSTEMS, "a-seed-3": {"recipe": STRIPED}}, {}, "seed 3 of a would have this name"),
        (SYSTEMS, {"evaluate": {"tables": {"t": {"systems": ["a-seed-1"]}}}}, "no system 'a-seed-1'; there are a, b"),
        (
            {**SYSTEMS, "c": {"recipe": STRIPED, "seeds": [1, 2, 3]}},
            {"evaluate": {"tables": {"t": {"fusions": {"f": {"systems": ["a", "c"]}}}}}},
            "evaluate.tables.t.fusions.f: expected systems with as many seeds each, got a 2, c 3",
        ),
    ],
)
def test_what_cannot_be_is_refused(systems: dict[str, Any], sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(systems, **sections)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_trains_each_and_shows_their_mean(labelled: Path, tmp_path: Path) -> None:
    home = copied(labelled, tmp_path / "home")
    tables = {
        "tables": {
            "t": {"unmated": "exclude", "metrics": ["rank-1", "map", "auc"], "fusions": {"f": {"systems": ["a", "b"]}}}
        }
    }
    make, executor = runner(home, SYSTEMS, evaluate=tables)
    outcome = make.execute()
    assert outcome.complete, outcome.failures
    assert [unit for unit in executor.ran if unit.startswith("train")] == [
        f"train/{name}/training" for name in ("a-seed-0", "a-seed-3", "b")
    ]
    first, second = (checkpoint(home, f"a-seed-{seed}").model for seed in (0, 3))
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    make, executor = runner(home, SYSTEMS, evaluate=tables)
    assert make.execute().complete
    assert executor.ran == []

    results = read_results(home / "run")
    rows = {(r["system"], r["metric"]): r for r in results.metrics}
    assert {system for system, _ in rows} == {"a", "b", "f"}
    every = {(r["system"], r["metric"]): r for r in Run(home / "run").table("evaluate", "metrics").to_pylist()}
    for name, metric in itertools.product(("a", "f"), ("rank-1", "map", "auc")):
        each = [every[f"{name}-seed-{seed}", metric]["value"] for seed in (0, 3)]
        row = rows[name, metric]
        assert row["each"] == each
        assert row["value"] == pytest.approx(np.mean(each))
    assert {(r["first"], r["second"]) for r in results.comparisons} == {("a", "b"), ("a", "f"), ("b", "f")}

    other = copied(home, tmp_path / "other")
    together = side_by_side(home / "run", [other / "run"])
    (row,) = [
        r for r in together.comparisons if r["metric"] == "map" and {r["_first"][-2:], r["_second"][-2:]} == {"/a"}
    ]
    assert (row["difference"], row["p"]) == (0, 1) if row["p"] is not None else row["difference"] == 0
    assert {r["_system"] for r in together.metrics} == {
        f"{run}/{name}" for run in ("home/run", "other/run") for name in "abf"
    }
