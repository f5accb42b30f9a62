"""The demo as a user gives it, and what must hold of it: recall, names and the honesty guard, against the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import mdfpipe.audit.demo
from mdfpipe.audit.demo import CROPS, PRESET, STUDY
from mdfpipe.study.study import Study
from mdfpipe.synth.presets import DOMAINS, PRESETS, Preset
from tests.runs import Said, call, call_here

DOMAIN_NAMES = [str(domain) for domain in DOMAINS]


@dataclass(frozen=True)
class Size:
    """How much of the demo is drawn and trained, and what must be reached. bodies: in each domain, at least.

    steps: of each training, None as the study says; learned: so many teach a network to recognise people.
    """

    preset: Preset
    crops: int
    steps: int | None
    bodies: int
    precision: float
    names: float
    learned: bool


SIZES = {
    "small": Size(Preset(subjects=6, sessions=1, frames=5, crowd=5, crowd_frames=5), 15, 8, 60, 0.8, 0.95, False),
    "whole": Size(PRESETS[PRESET], CROPS, None, 300, 0.85, 0.99, True),
}


@pytest.fixture(scope="module", params=["small", pytest.param("whole", marks=pytest.mark.slow)])
def size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Size]:
    """The demo as it is, in processes of its own (slow); else few people and steps, within this process."""
    size = SIZES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "small":
            study = yaml.safe_load(STUDY.read_text())
            for system in study["systems"].values():
                system["recipe"]["schedule"] |= {"length": size.steps, "warm_up": 2}
            path = tmp_path_factory.mktemp("study") / STUDY.name
            path.write_text(yaml.safe_dump(study))
            patch.setattr(mdfpipe.audit.demo, "STUDY", path)
            patch.setattr(mdfpipe.audit.demo, "CROPS", size.crops)
            patch.setitem(PRESETS, PRESET, size.preset)
        yield size


def said_by(size: Size, *arguments: str | Path) -> Said:
    if size is SIZES["whole"]:
        return call(*arguments, timeout=900)
    return call_here(*arguments, *(("--workers", "1") if arguments[0] == "demo" else ()))


@pytest.fixture(scope="module")
def demo(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    said = said_by(size, "demo", "--run", folder)
    assert said.code == 0, said
    (folder / "said.txt").write_text(said.out)
    return folder


@pytest.fixture(scope="module")
def measured(size: Size, demo: Path) -> Said:
    return said_by(size, "truth", demo / "run", "--json")


@pytest.mark.parametrize("domain", DOMAIN_NAMES)
def test_bodies_that_can_get_a_name_are_found_and_get_the_right_one(measured: Said, domain: str, size: Size) -> None:
    found = measured.json["truth"]["rows"][domain]
    assert found["recall"]["n"] > size.bodies
    assert found["recall"]["share"] >= 0.9
    assert found["precision"]["share"] >= size.precision
    assert found["names"]["share"] >= size.names


def test_trivial_looks_do_not_recognise_people_in_thermal_light(measured: Said, size: Size) -> None:
    guard = measured.json["guard"]
    assert guard["holds"], [row for row in guard["rows"] if row["split"] == "pooled"]
    judged = [r for r in guard["rows"] if r["split"] == "pooled" and r["probe_domain"][:4] in ("MWIR", "LWIR")]
    assert min(row["n"] for row in judged) >= 0.9 * 2 * size.preset.subjects


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


def test_a_second_call_does_nothing_again(demo: Path, size: Size) -> None:
    before = {p: p.stat().st_mtime_ns for p in (demo / "run").rglob("*.parquet")}
    said = said_by(size, "demo", "--run", demo)
    assert said.code == 0
    assert "(0 drawn now)" in said.out
    assert {p: p.stat().st_mtime_ns for p in (demo / "run").rglob("*.parquet")} == before


def test_no_stage_reads_the_truth(demo: Path, size: Size) -> None:
    truth = demo / "data" / "truth"
    truth.rename(demo / "truth-elsewhere")
    try:
        study, folders = mdfpipe.audit.demo.STUDY, ("--data", demo / "data", "--run", demo / "run")
        said = said_by(size, "run", study, *folders, "--dry-run")
        assert (said.code, said.out) == (0, "nothing is due\n")
    finally:
        (demo / "truth-elsewhere").rename(truth)


def test_the_studies_differ_in_their_names_systems_and_tables_only() -> None:
    settings = []
    for preset in ("tiny", "demo", "study"):
        study = Study.load(STUDY.with_name(f"{preset}.yaml")).model_dump(mode="json")
        assert study.pop("name") == f"synthetic-{preset}"
        del study["systems"], study["evaluate"]
        settings.append(study)
    assert settings[0] == settings[1] == settings[2]


def test_it_ends_with_the_numbers_and_the_report(demo: Path, size: Size) -> None:
    """Pooled infrared Rank-1 of each network with its interval, beside chance; they do better than a guess."""
    rows = json.loads((demo / "run" / "evaluate" / "metrics.json").read_text())["metrics"]
    found = [row for row in rows if (row["metric"], row["probe_domain"]) == ("rank-1", "pooled")]
    assert {row["system"] for row in found} == set(Study.load(STUDY).systems)
    said = (demo / "said.txt").read_text()
    for pooled in found:
        assert pooled["n"] == 3 * size.preset.subjects
        assert pooled["low"] > pooled["chance"] or not size.learned
        assert f"({pooled['k']}/{pooled['n']}, {100 * pooled['low']:.1f}–{100 * pooled['high']:.1f})" in said
    assert str(demo / "run" / "evaluate" / "report" / "report.html") in said
