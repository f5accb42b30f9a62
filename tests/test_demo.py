"""The demo as a user gives it, and what must hold of it: recall, names and the honesty guard, against the truth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdfpipe.demo import PRESET, STUDY
from mdfpipe.pipeline import Pipeline
from mdfpipe.synth.presets import DOMAINS, PRESETS
from tests.runs import Said, call

DOMAIN_NAMES = [str(domain) for domain in DOMAINS]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    said = call("demo", "--run", folder, "--workers", "2", timeout=900)
    assert said.code == 0, said
    (folder / "said.txt").write_text(said.out)
    return folder


@pytest.fixture(scope="module")
def measured(demo: Path) -> Said:
    return call("truth", demo / "run", "--json", timeout=300)


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_bodies_that_can_get_a_name_are_found_and_get_the_right_one(measured: Said, domain: str) -> None:
    found = measured.json["truth"]["rows"][domain]
    assert found["recall"]["n"] > 300
    assert found["recall"]["share"] >= 0.9
    assert found["precision"]["share"] >= 0.85
    assert found["names"]["share"] >= 0.99


def test_trivial_looks_do_not_recognise_people_in_thermal_light(measured: Said) -> None:
    guard = measured.json["guard"]
    assert guard["holds"], [row for row in guard["rows"] if row["split"] == "pooled"]
    judged = [r for r in guard["rows"] if r["split"] == "pooled" and r["probe_domain"][:4] in ("MWIR", "LWIR")]
    assert min(row["n"] for row in judged) >= 0.9 * 2 * PRESETS[PRESET].subjects


def test_the_other_assignments_lose_labels(measured: Said) -> None:
    rows = {(r["scenes"], r["assignment"]): r for r in measured.json["assignments"]}
    for scenes in ("all", "crowded"):
        kept, best = rows[scenes, "per_detection"], rows[scenes, "mutual_best"]
        assert best["loses"] == kept["labelled"] - best["labelled"] >= 0
        assert best["wrong"]["k"] <= kept["wrong"]["k"]


def test_it_says_what_it_is_and_where_to_look(demo: Path) -> None:
    said = (demo / "said.txt").read_text()
    assert "synthetic data only" in said
    assert "the guard holds" in said
    for name in ("demo.html", "sheet.png", "frame.png"):
        assert str(demo / name) in said
        assert (demo / name).stat().st_size > 20_000


def test_a_second_call_does_nothing_again(demo: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (demo / "run").rglob("*.parquet")}
    said = call("demo", "--run", demo, timeout=300)
    assert said.code == 0
    assert "(0 drawn now)" in said.out
    assert {p: p.stat().st_mtime_ns for p in (demo / "run").rglob("*.parquet")} == before


def test_no_stage_reads_the_truth(demo: Path) -> None:
    truth = demo / "data" / "truth"
    truth.rename(demo / "truth-elsewhere")
    try:
        said = call("run", STUDY, "--data", demo / "data", "--run", demo / "run", "--dry-run")
        assert (said.code, said.out) == (0, "nothing is due\n")
    finally:
        (demo / "truth-elsewhere").rename(truth)


def test_the_studies_differ_in_their_names_systems_and_tables_only() -> None:
    settings = []
    for preset in ("tiny", "demo", "study"):
        study = Pipeline.load(STUDY.with_name(f"{preset}.yaml")).model_dump(mode="json")
        assert study.pop("name") == f"synthetic-{preset}"
        del study["systems"], study["evaluate"]
        settings.append(study)
    assert settings[0] == settings[1] == settings[2]


def test_it_ends_with_the_numbers_and_the_report(demo: Path) -> None:
    """Pooled infrared Rank-1 with its interval, beside chance; the network does better than a guess."""
    (pooled,) = [
        row
        for row in json.loads((demo / "run" / "evaluate" / "metrics.json").read_text())["metrics"]
        if (row["metric"], row["probe_domain"]) == ("rank-1", "pooled")
    ]
    assert pooled["low"] > 2 * pooled["chance"]
    said = (demo / "said.txt").read_text()
    bounds = f"{100 * pooled['low']:.1f}..{100 * pooled['high']:.1f} %"
    assert f"{pooled['k']}/{pooled['n']}  {100 * pooled['value']:.1f} %" in said
    assert bounds in said
    assert str(demo / "run" / "evaluate" / "report" / "report.html") in said
