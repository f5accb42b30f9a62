"""An annotation that is a frame off: the run stops before crop and names the setting; one video alone fails alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from . import clips, runs

FRAMES = 64  # a verdict wants 30 pairs, and a clear win


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.write_video(tmp_path_factory.mktemp("clip") / "v.mp4", FRAMES)


def data_set(root: Path, clip: Path, offs: list[int], *, last: int = FRAMES, steady: bool = False) -> runs.DataSet:
    """One video for each of `offs`, how far its frame numbers are too high; annotated in its first `last` frames."""
    made = runs.DataSet(root)
    for number, off in enumerate(offs):
        shutil.copy(clip, made.video(f"v{number}.mp4"))
        made.annotate(f"v{number}.mp4", FRAMES, off=off, steady=steady)
        del made.faces[len(made.faces) - FRAMES + last :]  # those of the last frames
    made.faces = [row for row in made.faces if row[2] >= 0]
    made.write(crop={"body_height_px": 48, "body_width_px": 16, "face_size_px": 16})
    return made


def stopped(run: Path, said: runs.Said) -> str:
    """The line with which a run stopped between label and crop."""
    assert said.code == 2, said
    said.calm()
    assert not list((run / "crop").glob("*"))
    assert not (run / "manifest").exists()
    (line,) = [text for text in said.err.splitlines() if text.startswith("mdfpipe: ")]
    assert said.err.splitlines()[-1] == line
    return line


def test_most_videos_off_stop_the_run_before_crop(tmp_path: Path, clip: Path) -> None:
    """A 1-based table, read as 0-based; one video is right all the same."""
    made, run = data_set(tmp_path / "data", clip, [1, 1, 1, 0], last=FRAMES - 4), tmp_path / "run"
    for _ in range(2):  # the same command stops again: nothing was taken for done that is not
        line = stopped(run, runs.run(made.root, run))
        assert "label: in 3 of the 4 videos that can tell, faces fit the bodies better at frame offset +1" in line
        assert "set dataset.frame_base=1 (now 0)" in line
    status = runs.call_here("status", run, "--json").json
    assert {s["stage"]: s["done"] for s in status["stages"]}["crop"] == 0
    mended = runs.run(made.root, run, "--set", "dataset.frame_base=1", "--json").calm()
    assert mended.code == 3
    assert list(mended.failures) == ["label/videos/v3"]
    assert "better at frame offset -1" in mended.failures["label/videos/v3"]
    assert mended.tally("already")["detect"] == 4  # only what the annotation decides runs again
    assert mended.tally("ran")["crop"] == 3


def test_an_annotation_up_to_the_last_frame_stops_it_too(tmp_path: Path, clip: Path) -> None:
    """Read with the wrong base it also reaches one frame beyond the end: that is no short video."""
    made, run = data_set(tmp_path / "data", clip, [1, 1]), tmp_path / "run"
    line = stopped(run, runs.run(made.root, run))
    assert "set dataset.frame_base=1 (now 0)" in line
    mended = runs.run(made.root, run, "--set", "dataset.frame_base=1", "--json").calm()
    assert mended.code == 0
    assert mended.json["warnings"] == []
    assert runs.facts(run, "label", "videos/v0")["alignment"]["verdict"] == "aligned"


def test_frames_that_were_lost_in_front_name_no_setting_that_would_not_help(tmp_path: Path, clip: Path) -> None:
    made, run = data_set(tmp_path / "data", clip, [-1, -1]), tmp_path / "run"
    line = stopped(run, runs.run(made.root, run))
    assert "no dataset.frame_base (now 0) is right" in line
    unchecked = runs.run(made.root, run, "--set", "label.check_alignment=false")
    assert unchecked.code == 0


@pytest.mark.parametrize("last", [FRAMES - 4, FRAMES], ids=["ends early", "up to the last frame"])
def test_one_video_off_fails_and_the_others_go_on(tmp_path: Path, clip: Path, last: int) -> None:
    made, run = data_set(tmp_path / "data", clip, [0, 0, 1], last=last), tmp_path / "run"
    said = runs.run(made.root, run, "--json").calm()
    assert said.code == 3
    assert list(said.failures) == ["label/videos/v2"]
    assert "faces fit the bodies better at frame offset +1" in said.failures["label/videos/v2"]
    assert said.tally("ran")["crop"] == 2
    assert "v2" in said.json["refused"][0]
    again = runs.run(made.root, run, "--json").calm()
    assert again.code == 3
    assert list(again.failures) == ["label/videos/v2"]
    assert again.tally("already") == {"index": 1, "detect": 3, "label": 2, "crop": 2, "manifest": 0}


def test_scenes_that_are_too_slow_give_no_verdict_and_it_is_said(tmp_path: Path, clip: Path) -> None:
    made, run = data_set(tmp_path / "data", clip, [1, 1], last=FRAMES - 4, steady=True), tmp_path / "run"
    said = runs.run(made.root, run)
    assert said.code == 0
    assert "could not be determined in 2 of 2 videos" in said.out
    assert runs.run(made.root, run, "--json").json["warnings"] == []  # said once, when the stage ran
    again = runs.run(made.root, run, "--json", "--set", "label.min_overlap=0.6")
    assert any("could not be determined in 2 of 2 videos" in line for line in again.json["warnings"])
    assert runs.facts(run, "label", "videos/v0")["alignment"]["verdict"] == "too_slow"
