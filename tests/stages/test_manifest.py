"""The manifest: splits, roles, mates; and what it refuses, with the counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdfpipe.config import validate
from mdfpipe.errors import ConfigError
from mdfpipe.inspecting.things import describe_run
from mdfpipe.protocol import Protocol, read_protocol
from mdfpipe.running.runner import Outcome
from mdfpipe.stages.manifest import GALLERY, NONE, PROBE, TEST, TRAIN, UNUSED, TrackLabels
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.drawn import draw
from tests.inline import DEMO, runner
from tests.runs import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(data, run) of the demo, up to the manifest."""
    folder = tmp_path_factory.mktemp("made")
    draw(folder / "data", frames=16)
    make, _ = runner(folder / "data", folder / "run")
    assert make.execute().complete
    return folder / "data", folder / "run"


@pytest.fixture
def copy(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(made[0], data)
    shutil.copytree(made[1], run)
    return data, run


def again(data: Path, run: Path, protocol: str, *, allow_missing: bool = False) -> Outcome:
    make, _ = runner(data, run, f"manifest.protocol={protocol}")
    return make.execute(allow_missing=allow_missing)


def rows(run: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Run(run).table("manifest", "manifest").to_pylist()
    return found


def test_splits_roles_and_mates(made: tuple[Path, Path]) -> None:
    table = rows(made[1])
    assert table
    for row in table:
        train = row["subject_id"] in ("s01", "s02")
        visible = row["domain"] == "VIS-500m"
        assert row["split"] == ("train" if train else "test")
        assert row["role"] == ("none" if train else "gallery" if visible else "probe")
        assert row["mated"] is (True if row["role"] == "probe" else None)
        assert row["codec"] == ("jpeg" if visible else "png")
        assert row["band"] == row["domain"].split("-")[0]
        assert row["video_id"].startswith("videos/" + row["domain"])
    assert len({row["crop_id"] for row in table}) == len(table)
    counts = Run(made[1]).receipt("manifest", "manifest").facts["counts"]  # type: ignore[union-attr]
    assert sum(c["rows"] for c in counts) == len(table)
    probes = next(c for c in counts if c["role"] == "probe" and c["modality"] == "face")
    assert (probes["subjects"], probes["videos"]) == (2, 1)


def test_rows_are_the_crops_and_their_labels(made: tuple[Path, Path]) -> None:
    run = Run(made[1])
    by_id = {row["crop_id"]: row for row in rows(made[1])}
    seen = set()
    for video in ("VIS-500m_a", "VIS-500m_b", "LWIR-30m_a", "LWIR-30m_b"):
        for label in run.table("label", f"videos/{video}").to_pylist():
            if label["status"] == "labelled":
                assert by_id[label["body_id"]]["subject_id"] == label["subject_id"]
                seen.add(label["body_id"])
    assert seen == {c for c, row in by_id.items() if row["modality"] == "body"}


def test_no_roles(copy: tuple[Path, Path]) -> None:
    assert again(*copy, "no-roles").complete
    assert {(r["split"], r["role"], r["mated"]) for r in rows(copy[1])} == {("test", "none", None)}


def test_domains_outside_of_the_protocol_are_unused_and_counted(copy: tuple[Path, Path]) -> None:
    done = again(*copy, "{name: p, unlisted: test, domains: [VIS-500m, NIR]}")
    assert done.complete
    found = rows(copy[1])
    assert {(r["domain"], r["split"], r["role"]) for r in found} == {
        ("VIS-500m", "test", "none"),
        ("LWIR-30m", "unused", "none"),
    }
    outside = [r for r in found if r["domain"] == "LWIR-30m"]
    subjects = len({r["subject_id"] for r in outside})
    line = (
        f"manifest: LWIR-30m is outside protocol p: {len(outside)} rows of {subjects} subjects in 2 videos unused; "
        "dataset.leave_out.domains keeps such videos from being decoded"
    )
    assert line in done.notes
    assert line in describe_run(copy[1]).notes
    assert "manifest: protocol p names the domain NIR, which no video has" in done.warnings


def test_subjects_outside_of_the_protocol_need_no_list(copy: tuple[Path, Path]) -> None:
    """Everybody is filmed in both domains, so the subjects of the infrared videos are taken for others."""
    data, _ = copy
    table = data / "faces.csv"
    lines = [
        ",".join(["x" + cells[0], *cells[1:]]) if "LWIR" in line and cells[0].startswith("s") else line
        for line in table.read_text().splitlines()
        if (cells := line.split(","))
    ]
    table.write_text("\n".join(lines) + "\n")
    listed = "{name: p, galleries: {'1': train, '2': test}%s}"
    refused = again(*copy, listed % "")
    assert "4 subjects (xs01, xs02, xs03, xs04) with crops in no gallery" in refused.failures[0].message
    done = again(*copy, listed % ", domains: [VIS-500m]")
    assert done.complete, done.failures
    assert {(r["domain"], r["split"]) for r in rows(copy[1])} >= {("VIS-500m", "train"), ("LWIR-30m", "unused")}


def test_a_domain_without_a_role_that_trains_is_said(copy: tuple[Path, Path]) -> None:
    """A study of two domains, where the data hold a third: with `domains` it is out, without them it is a surprise."""
    data, run = copy
    said = again(data, run, f"{{{BASE}, galleries: {{'1': train, '2': test}}}}")
    assert not [line for line in said.warnings if "gives no role" in line]
    domains = "VIS-500m_a: VIS-500m, VIS-500m_b: VIS-500m, LWIR-30m_a: MWIR-30m, LWIR-30m_b: LWIR-30m"
    swapped = f"dataset.domain={{regex: 'videos/(?P<domain>[A-Z]+-[0-9]+m_.)', map: {{{domains}}}}}"
    protocol = f"manifest.protocol={{{BASE}, galleries: {{'1': train, '2': test}}%s}}"
    loose = runner(data, run, swapped, protocol % "")[0].execute()
    assert loose.complete, loose.failures
    third = [r for r in rows(run) if r["domain"] == "MWIR-30m"]
    assert {r["split"] for r in third} == {"train"}
    assert any(f"gives no role to MWIR-30m ({len(third)} rows), which train" in line for line in loose.warnings)
    strict = runner(data, run, swapped, protocol % ", domains: [VIS-500m, LWIR-30m]")[0].execute()
    assert not [line for line in strict.warnings if "gives no role" in line]
    assert {r["split"] for r in rows(run) if r["domain"] == "MWIR-30m"} == {"unused"}
    two = len([r for r in rows(run) if r["split"] == "train"])
    assert two == len([r for r in rows(run) if r["domain"] == "VIS-500m" and r["split"] == "train"])


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_protocol_with_roles_names_its_domains(path: Path) -> None:
    protocol = validate(Protocol, read_protocol(path.stem, [path.parent]), path.stem)
    assert sorted(protocol.domains) == sorted([*protocol.gallery_domains, *protocol.probe_domains])


BASE = "name: p, gallery_domains: [VIS-500m], probe_domains: [LWIR-30m]"


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        (
            "galleries: {'1': train, '2': test}, subjects: {s03: train}",
            "1 subject (s03) in train and in test: a model would be tested",
        ),
        (
            "galleries: {'2': test}",
            "2 subjects (s01, s02) with crops in no gallery or subject table, so whether their probes have a mate is",
        ),
        ("galleries: {'1': train, '2': train}", "domain VIS-500m has no body row to test (2 videos, "),
        (
            "galleries: {'1': train, '2': test}, probe_domains: [LWIR-30m, MWIR-30m]",
            "domain MWIR-30m has no body row to test (0 videos, 0 body crops, 0 of them train); the data set has",
        ),
    ],
)
def test_a_wrong_protocol_is_refused_with_its_reason(copy: tuple[Path, Path], protocol: str, says: str) -> None:
    base = BASE if "probe_domains" not in protocol else BASE.rpartition(", probe")[0]
    outcome = again(*copy, f"{{{base}, {protocol}}}")
    assert [f.kind for f in outcome.failures] == ["ProtocolError"]
    assert says in outcome.failures[0].message
    assert Run(copy[1]).receipt("manifest", "manifest").facts["protocol"] == "drawn"  # type: ignore[union-attr]


def test_unlisted_subjects_may_be_left_out(copy: tuple[Path, Path]) -> None:
    assert again(*copy, f"{{{BASE}, galleries: {{'2': test}}, unlisted: unused}}").complete
    assert {(r["subject_id"], r["split"], r["role"]) for r in rows(copy[1]) if r["split"] == "unused"} == {
        ("s01", "unused", "none"),
        ("s02", "unused", "none"),
    }


def test_a_probe_whose_gallery_video_was_left_out_has_no_known_mate(copy: tuple[Path, Path]) -> None:
    data, run = copy
    (data / "videos" / "VIS-500m_b.mp4").write_bytes(b"damaged")
    text = (data / "faces.csv").read_text()
    text = text.replace("s01,videos/VIS-500m_a.mp4", "s03,videos/VIS-500m_a.mp4")  # one of them stays in the gallery
    (data / "faces.csv").write_text(text)
    protocol = f"{{{BASE}, galleries: {{'1': train, '2': test}}}}"
    outcome = again(data, run, protocol, allow_missing=True)
    said = [f.message for f in outcome.failures if f.kind == "ProtocolError"]
    assert len(said) == 1
    assert "1 probe subject (s04) without a gallery row" in said[0]
    assert "videos/VIS-500m_b" in said[0]
    outcome = again(data, run, protocol.replace("name: p", "name: p, unknown_mates: unmated"), allow_missing=True)
    assert Run(run).receipt("manifest", "manifest").facts["missing"] == ["videos/VIS-500m_b"]  # type: ignore[union-attr]
    assert {(r["subject_id"], r["mated"]) for r in rows(run) if r["role"] == "probe"} == {("s03", True), ("s04", False)}


def test_a_modality_without_a_gallery_is_refused(copy: tuple[Path, Path]) -> None:
    data, run = copy
    lines = [line for line in (data / "boxes.csv").read_text().splitlines() if "VIS-500m_b" not in line]
    (data / "boxes.csv").write_text("\n".join(lines) + "\n")
    make, _ = runner(data, run)
    assert [f.message for f in make.execute().failures] == [
        "protocol drawn: domain VIS-500m has no body row to test (2 videos, 32 body crops, 32 of them train); "
        "the data set has the domains LWIR-30m, VIS-500m"
    ]


def test_probes_none_of_whom_has_a_mate_are_refused(copy: tuple[Path, Path]) -> None:
    data, run = copy
    text = (data / "faces.csv").read_text()
    for subject in ("s03", "s04"):
        text = text.replace(f"{subject},videos/VIS-500m_b", f"{subject}-VIS,videos/VIS-500m_b")
    (data / "faces.csv").write_text(text)
    outcome = again(data, run, f"{{{BASE}, galleries: {{'1': train}}, unlisted: test}}")
    assert "body probes has a mate in the gallery: probes are of 2 subjects (s03, s04)" in outcome.failures[0].message


@pytest.mark.parametrize(
    ("protocol", "says"),
    [
        ("{name: p, gallery_domains: [VIS]}", "expected both gallery_domains and probe_domains, or neither"),
        (
            "{name: p, gallery_domains: [VIS], probe_domains: [VIS]}",
            "VIS is in gallery_domains and in probe_domains",
        ),
        (
            "{name: p, domains: [VIS], gallery_domains: [VIS], probe_domains: [LWIR]}",
            "LWIR has a role, but is not in domains: VIS",
        ),
        ("{name: p, gallery_domains: [XRAY], probe_domains: [VIS]}", "domain: expected <BAND> or <BAND>-<RANGE>m"),
        ("{name: p, galleries: {'1': trian}}", "manifest.protocol.galleries.1"),
    ],
)
def test_a_protocol_that_cannot_be_meant_is_refused(protocol: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Study.load(DEMO, [f"manifest.protocol={protocol}"])
    assert says in str(caught.value)


def test_a_subject_table_beside_the_protocol(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("unlisted: unused\nsubjects: p.csv\n")
    (tmp_path / "p.csv").write_text("subject_id,split\ns01,train\ns02,test\n")
    pipeline = Study.load(DEMO, [f"manifest.protocol={tmp_path / 'p.yaml'}"])
    assert pipeline.manifest.protocol.subjects == {"s01": "train", "s02": "test"}
    (tmp_path / "p.csv").write_text("subject_id,split\ns01,train\ns01,test\n")
    with pytest.raises(ConfigError, match="row 3: subject 's01' is in train and test"):
        Study.load(DEMO, [f"manifest.protocol={tmp_path / 'p.yaml'}"])
    (tmp_path / "p.csv").write_text("subject,split\n")
    with pytest.raises(ConfigError, match="expected the columns subject_id and split"):
        Study.load(DEMO, [f"manifest.protocol={tmp_path / 'p.yaml'}"])


def test_names_along_tracks_are_kept_out_where_the_study_says_so() -> None:
    splits, roles = [TRAIN, TEST, TEST, TEST, UNUSED] * 2, [NONE, GALLERY, PROBE, NONE, NONE] * 2
    carried = np.arange(10) < 5
    for use, unused in {"train": [0], "gallery": [1, 3], "probe": [2, 3]}.items():
        split, role = np.array(splits), np.array(roles)
        assert TrackLabels(**{use: False}).leave_out(carried, split, role) == {use: len(unused)}
        assert np.flatnonzero(split != splits).tolist() == unused
        assert {*split[unused]} == {UNUSED}
        assert {*role[unused]} == {NONE}
    assert TrackLabels().leave_out(carried, np.array(splits), np.array(roles)) == {}
