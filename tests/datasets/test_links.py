"""Symbolic links under a data root: where they may lead, what is recorded, and those that lead nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdfpipe.config import validate
from mdfpipe.errors import DataError
from mdfpipe.stages import Inputs
from mdfpipe.stages.index import Index
from mdfpipe.store.hashing import stamp
from mdfpipe.store.run import Run
from mdfpipe.video.image_files import numbered_frames
from tests import clips
from tests.inline import context


def index(home: Path, **settings: Any) -> dict[str, dict[str, Any]]:
    dataset = {"use": "ijb", "faces": [], "videos": ["*"], "domain": {"constant": "VIS"}, **settings}
    stage = validate(Index, {"dataset": dataset}, "index")
    made = stage.process(Index.table, Inputs(Run(home.parent / "run")), context(home, home.parent / "scratch"))
    assert stage.identity(home, Index.table)
    return {row["video_id"]: row for row in made.table.to_pylist()}


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """A data root with frames, another disk with a video and frames."""
    (tmp_path / "disk").mkdir()
    clips.write_video(tmp_path / "disk/a.mp4", 3)
    clips.write_images(tmp_path / "disk/night", [clips.grey8(n) for n in range(3)])
    (tmp_path / "data").mkdir()
    clips.write_images(tmp_path / "data/day", [clips.grey8(n) for n in range(3)])
    return tmp_path


def test_a_link_to_a_file_and_to_a_folder(disks: Path) -> None:
    home = disks / "data"
    (home / "a.mp4").symlink_to("../disk/a.mp4")
    (home / "notes.txt").symlink_to("../disk/notes.txt")  # no video: nothing of it is read
    with pytest.raises(DataError, match=r"a.mp4 is a symlink to .*disk/a.mp4, outside .*dataset.links=follow"):
        index(home)
    (home / "night").symlink_to(disks / "disk/night")
    rows = index(home, links="follow")
    assert rows["a"]["real_path"] == str(disks / "disk/a.mp4")
    assert rows["night"]["real_path"] == str(disks / "disk/night")
    assert rows["day"]["real_path"] is None
    assert [row["problem"] for row in rows.values()] == [None] * 3
    before = rows["a"]
    clips.write_video(disks / "disk/a.mp4", 4)  # what is fingerprinted is what the link leads to
    after = index(home, links="follow")["a"]
    assert before["sha256"] != after["sha256"]
    assert before["stamp"] != after["stamp"]


def test_frames_that_are_links_have_one_rule_in_index_and_decoder(disks: Path) -> None:
    home = disks / "data"
    (home / "sister").mkdir()
    for frame in (home / "day").iterdir():
        (home / "sister" / frame.name).symlink_to(f"../day/{frame.name}")
    row = index(home)["sister"]
    assert (row["problem"], row["n_frames"]) == (None, 3)
    assert row["real_path"] == str(home / "day")
    assert len(numbered_frames(home / "sister")) == 3
    (home / "far").mkdir()
    for frame in (disks / "disk/night").iterdir():
        (home / "far" / frame.name).symlink_to(frame)
    assert "outside the data root" in index(home)["far"]["problem"]
    assert "or allow links that lead out" in index(home)["far"]["problem"]
    assert index(home)["sister"]["problem"] is None
    assert index(home, links="follow")["far"]["problem"] is None
    assert len(numbered_frames(home / "far")) == 3


def test_links_that_lead_nowhere_are_one_line_each(disks: Path) -> None:
    home = disks / "data"
    (home / "gone.mp4").symlink_to("../lost/a.mp4")
    (home / "circle.mp4").symlink_to("circle.mp4")
    (home / "annexed.mp4").symlink_to("../.git/annex/objects/1/2/KEY/KEY")
    (home / "round").symlink_to("..")
    (home / "day/frame_9.png").symlink_to("nothing.png")
    (home / "day/notes").symlink_to("notes")
    assert stamp(home / "day")
    assert stamp(home, depth=4)
    for links in ("inside", "follow"):
        if links == "inside":
            (home / "round").unlink()
        rows = index(home, links=links)
        assert "got a link to ../lost/a.mp4, which is not there" in rows["gone"]["problem"]
        assert "got a link that leads round in a circle" in rows["circle"]["problem"]
        assert "git annex get annexed.mp4" in rows["annexed"]["problem"]


def test_two_stars_go_down_linked_folders_and_not_in_circles(disks: Path) -> None:
    home = disks / "data"
    (home / "day/round").symlink_to("..")
    (home / "disk").symlink_to("../disk")
    rows = index(home, links="follow", videos=["**/*.mp4", "**/day"])
    assert sorted(rows) == ["day", "disk/a"]
