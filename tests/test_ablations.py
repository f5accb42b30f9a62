"""The study that switches every term off alone: what each row changes, and that its seeds start from one network."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdfpipe.study.study import Study
from tests.benchmark_studies import PIPELINES

SWITCHED = {
    "di2l": {"dpa", "focal", "non-local", "auxiliary"},
    "lccrf": {"angular", "compactness", "non-local", "cmkd"},
    "idkl": {"discriminators", "confusers", "ip", "tgsa", "csa", "mdr"},
    "dfw": {"weakening", "segmented", "overlap", "hetero-centre"},
    "body": {"triplet", "contrastive", "smoothing"},
    "vit": {"stem", "band", "four"},
    "face": {"margin"},
}
STARTS = {"body": "body-pretrained", "face": "face-pretrained", "vit": None}


@pytest.mark.parametrize("form", ["ablations", "ablations-two"])
def test_every_row_changes_one_setting_of_its_method(form: str) -> None:
    study = Study.load(PIPELINES / "synthetic" / f"{form}.yaml")
    rows = {name: system for name, system in study.systems.items() if not name.endswith("pretrained")}
    assert {
        name: {n.partition("-no-")[2] for n in rows if n.startswith(f"{name}-no-")} for name in SWITCHED
    } == SWITCHED
    others = {"dfw-with-gate", "dfw-with-warm-up", "body-with-random-batches", "vit-with-mimetic"}
    assert {name for name in rows if "-no-" not in name} == {*SWITCHED, *others}
    for name, system in rows.items():
        method = name.split("-")[0]
        if name != method:
            found, plain = (flat(each.model_dump(mode="json")) for each in (system, rows[method]))
            section = {key.split(".")[1] for key in found.keys() | plain.keys() if found.get(key) != plain.get(key)}
            assert len(section) == 1, name
        assert (system.seeds, system.start_from) == ([0, 1, 2], STARTS.get(method, "pretrained")), name
        assert bool(system.validation.subjects) == (method != "face"), "figures of what its terms claim"
    tables = {name: table.systems for name, table in study.evaluate.tables.items()}
    assert {name: [n for n in systems if n in rows] for name, systems in tables.items()} == {
        method: [n for n in rows if n.split("-")[0] == method] for method in SWITCHED
    }


def test_the_page_has_words_for_every_row_and_rows_of_the_paper_that_are_printed() -> None:
    ours = runpy.run_path(str(PIPELINES.parent / "scripts" / "ablations_page.py"))
    words = yaml.safe_load(ours["WORDS"].read_text())
    tables = Study.load(PIPELINES / "synthetic" / "ablations.yaml").evaluate.tables
    assert {m: [*about["rows"]] for m, about in words["methods"].items()} == {
        name: [row for row in table.systems if row != name] for name, table in tables.items()
    }
    for about in words["methods"].values():
        told = [row["paper"] for row in about["rows"].values() if "paper" in row]
        assert all("Rank-1" in ours["_paper"](about["recipe"], paper) for paper in told)
    assert ours["_paper"]("dfw", words["methods"]["dfw"]["rows"]["dfw-no-weakening"]["paper"]) == (
        "Rank-1 -3.65, mAP -2.70 (SLN + RE against published; SYSU-MM01, table 1)"
    )
    assert ours["_paper"]("dfw", None) == "-"


@pytest.mark.parametrize(
    ("held", "line"),
    [
        ({}, "expected an evaluated run with evaluate/metrics.parquet, found none; `mdfpipe eval` makes it"),
        (
            {"evaluate/metrics.parquet": "PAR1 cut short"},
            "metrics.parquet: its receipt cannot be read; `mdfpipe run` makes it again",
        ),
    ],
    ids=["nothing", "damaged"],
)
def test_a_run_that_cannot_be_read_is_one_line_and_changes_nothing(
    held: dict[str, str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = runpy.run_path(str(PIPELINES.parent / "scripts" / "ablations_page.py"))
    for name, content in held.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = ours["NUMBERS"].read_bytes()
    assert ours["main"]([str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("scripts/ablations: ")
    assert line in said[0]
    assert ours["NUMBERS"].read_bytes() == before


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
        found |= inner
    return found
