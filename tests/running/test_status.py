"""Status says what it can: where data, boxes or annotation are gone, a note stands for what it cannot say."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from mdfpipe.running.status import Status, status
from mdfpipe.store.owner import Owner
from mdfpipe.store.run import Failure, Run
from tests import clips
from tests.inline import runner
from tests.runs import FRAMES, DataSet, call_here, tree

GOOD, SHORT = "videos/a", "videos/b"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with data/ and a finished run/; the faces of SHORT go on after its end, which is kept."""
    home = tmp_path_factory.mktemp("status")
    data = DataSet(home / "data")
    data.good("a.mp4")
    clips.write_video(data.video("b.mp4"), FRAMES)
    data.annotate("b.mp4", FRAMES + 2)
    study = data.write(label={"short": "keep", "check_alignment": False})
    outcome = runner(home / "data", home / "run", study=study)[0].execute()
    assert outcome.complete, outcome
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change; times are kept."""
    home = Path(shutil.copytree(made, tmp_path / "home"))
    place = home / "run" / "environment.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"data": str(home / "data")}))
    return home


def figures(found: Status) -> dict[str, tuple[int, int, int, int]]:
    """Of each stage: total, done, due, failed."""
    return {s.stage: (s.total, s.done, s.due, s.failed) for s in found.stages}


def notes(found: Status) -> dict[str, str]:
    return {s.stage: s.note for s in found.stages if s.note}


FINISHED = {
    "index": (1, 1, 0, 0),
    "detect": (2, 2, 0, 0),
    "label": (2, 2, 0, 0),
    "crop": (2, 2, 0, 0),
    "manifest": (1, 1, 0, 0),
}
KEPT = [{"stage": "label", "key": SHORT, "reason": "2 faces in frames that were not delivered"}]


def test_what_was_kept_though_incomplete_is_said(home: Path) -> None:
    before = tree(home)
    found = status(home / "run")
    assert (figures(found), notes(found), found.failures) == (FINISHED, {}, [])
    assert found.incomplete == KEPT
    assert tree(home) == before


def test_boxes_that_are_gone_are_a_note(home: Path) -> None:
    rows = status(home / "run").stages[2].rows
    (home / "data" / "boxes.csv").rename(home / "data" / "other.csv")
    found = status(home / "run")
    assert figures(found) == FINISHED
    assert found.stages[2].rows == rows
    assert found.incomplete == KEPT
    said = notes(found)
    assert list(said) == ["detect", "label", "crop", "manifest"]
    assert "boxes.csv" in said["detect"]
    assert said["detect"].endswith("; compared with the settings alone, not with the data")
    assert said["label"] == said["manifest"] == "as detect"
    done = call_here("status", home / "run")
    assert done.code == 0, done
    assert "boxes.csv" in done.out


@pytest.mark.parametrize("mounted", [False, True])
def test_without_its_data_the_receipts_tell(home: Path, mounted: bool) -> None:
    """mounted: the folder is there, and empty, as the place of a disk that is not mounted is."""
    run = Run(home / "run")
    run.discard("detect", GOOD)
    run.record_failure(Failure("detect", GOOD, "DecodeError", "frame 3 does not decode"))
    shutil.rmtree(home / "data")
    if mounted:
        (home / "data").mkdir()
    found = status(home / "run")
    assert figures(found) == {
        "index": (1, 1, 0, 0),
        "detect": (2, 1, 0, 1),
        "label": (2, 1, 1, 0),
        "crop": (2, 1, 1, 0),
        "manifest": (1, 0, 1, 0),
    }
    assert [f["reason"] for f in found.failures] == ["frame 3 does not decode"]
    assert found.incomplete == KEPT
    assert str(home / "data") in notes(found)["index"]
    assert notes(found)["crop"] == "as index"


def test_without_data_and_index_nothing_is_counted(home: Path) -> None:
    shutil.rmtree(home / "data")
    shutil.rmtree(home / "run" / "index")
    found = status(home / "run")
    assert figures(found).pop("index") == (1, 0, 1, 0)
    assert {one for stage, one in figures(found).items() if stage != "index"} == {(0, 0, 0, 0)}
    assert "no such folder" in notes(found)["index"]


def test_a_part_that_failed_later_is_failed(home: Path) -> None:
    """A changed setting whose new part could not be made: the old part lies beside the failure."""
    make, _ = runner(home / "data", home / "run", "detect.stride=2", study=home / "data" / "study.yaml")
    make.run.write("pipeline.yaml", make.study.to_yaml().encode())
    make.run.record_failure(Failure("detect", GOOD, "DecodeError", "frame 3 does not decode"))
    found = status(home / "run")
    assert figures(found)["detect"] == (2, 0, 1, 1)
    assert [f["key"] for f in found.failures] == [GOOD]


def test_who_works_in_it_is_said(home: Path) -> None:
    assert status(home / "run").lock == ""
    with Run(home / "run").lock():
        found = status(home / "run").lock
    assert found.startswith(f"in use by process {os.getpid()} on ")
    owner = replace(Owner.new(), host="n2", machine="m2", boot="b2", job="Slurm job 34")
    record = home / "run" / ".lock-000009"
    record.write_text(json.dumps(asdict(owner)))
    assert status(home / "run").lock == f"in use by {owner}"
    os.utime(record, (time.time() - 3600,) * 2)
    assert status(home / "run").lock.startswith(f"in use by {owner}, which gave no sign of life for 36")
