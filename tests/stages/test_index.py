"""index: when a video counts as changed, and videos that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.stages import Inputs, Made
from mdfpipe.stages.index import Index
from mdfpipe.store import hashing
from mdfpipe.store.hashing import stamp
from mdfpipe.store.run import Receipt, Run
from tests import clips
from tests.inline import context


def index(run: Run, data: Path, version: int = Index.version) -> dict[str, dict[str, Any]]:
    """Index `data`, commit it as by `version`, and give the rows by video_id."""
    dataset = {"use": "ijb", "faces": [], "videos": ["*"], "domain": {"constant": "VIS"}}
    stage = validate(Index, {"dataset": dataset}, "index")
    made: Made = stage.process(Index.table, Inputs(run), context(data, run.path / "scratch"))
    run.commit(Receipt(Index.name, version, Index.table, stage.decisive(), {}), made.table, made.files)
    assert made.facts["unreadable"] == [r["video_id"] for r in made.table.to_pylist() if r["problem"]]
    return {row["video_id"]: row for row in made.table.to_pylist()}


def test_counts_in_print_that_differ_are_a_warning(run: Run, data: Path) -> None:
    dataset = {"use": "ijb", "faces": [], "videos": ["*"], "domain": {"constant": "VIS"}}
    for count, said in ((2, []), (42, ["index: not as published: published 42 videos of VIS, found 2"])):
        stage = validate(Index, {"dataset": {**dataset, "published": {"videos": {"VIS": count}}}}, "index")
        made: Made = stage.process(Index.table, Inputs(run), context(data, run.path / f"scratch{count}"))
        assert stage.review({Index.table: made.facts}).warnings == said


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("LWIR-30m/a.mp4", True),
        ("VIS-30m/a.mp4", True),
        ("a_mwir.mp4", True),
        ("vis/lwir_a.mp4", False),
        ("nirs/a.mp4", False),
    ],
)
def test_a_path_that_names_another_domain_is_a_warning(name: str, odd: bool, run: Run, tmp_path: Path) -> None:
    (tmp_path / "data" / name).parent.mkdir(parents=True)
    clips.write_video(tmp_path / "data" / name, 2)
    dataset = {"use": "ijb", "faces": [], "videos": ["**/*.mp4"], "domain": {"constant": "VIS-500m"}}
    stage = validate(Index, {"dataset": dataset}, "index")
    made: Made = stage.process(Index.table, Inputs(run), context(tmp_path / "data", run.path / "scratch"))
    said = (
        "index: 1 of 1 video: the path names another domain than the one that it gets "
        f"({name} counts as VIS-500m); dataset.domain decides"
    )
    assert stage.review({Index.table: made.facts}).warnings == [said] * odd


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    clips.write_video(tmp_path / "data/a.mp4", 3)
    clips.write_images(tmp_path / "data/frames", [clips.grey8(n) for n in range(3)])
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def test_the_stamp_of_a_folder_sees_a_swap_and_a_rename(tmp_path: Path) -> None:
    for name, content, seconds in (("1.png", b"aa", 10), ("2.png", b"bb", 20)):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (seconds, seconds))
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before
    (tmp_path / "1.png").rename(tmp_path / "x")
    (tmp_path / "2.png").rename(tmp_path / "1.png")
    (tmp_path / "x").rename(tmp_path / "2.png")
    swapped = stamp(tmp_path)
    (tmp_path / "2.png").rename(tmp_path / "3.png")
    assert len({before, swapped, stamp(tmp_path)}) == 3
    assert stamp(tmp_path / "absent") is None


def test_a_swap_of_two_frames_changes_the_video(run: Run, data: Path) -> None:
    for name, seconds in (("frame_0.png", 10), ("frame_1.png", 20)):
        os.utime(data / "frames" / name, (seconds, seconds))
    before = index(run, data)
    (data / "frames/frame_0.png").rename(data / "x")
    (data / "frames/frame_1.png").rename(data / "frames/frame_0.png")
    (data / "x").rename(data / "frames/frame_1.png")
    after = index(run, data)
    assert before["frames"]["sha256"] != after["frames"]["sha256"]
    assert before["a"] == after["a"]


def test_what_cannot_be_read_is_the_problem_of_its_video_until_it_can(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashing._sha256
    broken = {str(data / "a.mp4"), str(data / "frames/frame_1.png")}

    def refuse(path: str, size: int, mtime_ns: int) -> str:
        if path in broken:
            raise PermissionError(13, "Permission denied", path)
        return real(path, size, mtime_ns)

    monkeypatch.setattr(hashing, "_sha256", refuse)
    rows = index(run, data)
    assert "a.mp4: cannot be read: Permission denied" in rows["a"]["problem"]
    assert "frame_1.png: cannot be read: Permission denied" in rows["frames"]["problem"]
    assert (rows["a"]["sha256"], rows["a"]["stamp"]) == (None, stamp(data / "a.mp4"))
    broken.clear()
    rows = index(run, data)
    assert {r["problem"] for r in rows.values()} == {None}
    assert all(r["sha256"] for r in rows.values())


def test_a_folder_that_cannot_be_listed_is_the_problem_of_its_video(
    run: Run, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = Path.exists

    def refuse(path: Path) -> bool:
        if path == data / "frames":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path)

    monkeypatch.setattr(Path, "exists", refuse)
    rows = index(run, data)
    assert "frames: cannot be read: Permission denied" in rows["frames"]["problem"]
    assert rows["a"]["problem"] is None


def test_frames_whose_order_would_be_a_guess_are_a_problem(run: Run, data: Path) -> None:
    clips.write_images(data / "frames", [clips.grey8(0)], "other_{}.png", [1])
    row = index(run, data)["frames"]
    assert "frame_1.png and other_1.png are both frame number 1" in row["problem"]
    assert row["sha256"]
    (data / "frames/other_1.png").unlink()
    assert index(run, data)["frames"]["n_frames"] == 3


def test_only_rows_that_were_measured_alike_are_kept(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index(run, data)
    measured: list[Path] = []
    monkeypatch.setattr("mdfpipe.stages.index._measure", lambda path, *_: measured.append(path))
    index(run, data)
    assert measured == []
    index(run, data, version=2)  # 3 measured files as it does
    index(run, data)
    assert sorted(measured) == [data / "a.mp4", data / "frames"]
