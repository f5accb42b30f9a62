"""The data set on disk: the same bytes every time, no stage needs the truth, bad folders are refused."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mdfpipe.errors import ConfigError
from mdfpipe.store.run import read_table
from mdfpipe.synth.write import write_dataset
from mdfpipe.video.decoders.auto import Auto

SUBJECTS = 2


def digests(folder: Path) -> dict[str, str]:
    """The content hash of every file under `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "tiny"
    write_dataset(folder, "tiny", subjects=SUBJECTS, seed=5)
    return folder


def test_the_same_seed_gives_the_same_bytes_with_more_workers(tiny: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", "tiny", subjects=SUBJECTS, seed=5, workers=2)
    assert digests(tmp_path / "again") == digests(tiny)


def test_another_seed_gives_other_videos(tiny: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", "tiny", subjects=SUBJECTS, seed=6)
    ours, theirs = digests(tiny), digests(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours if name.startswith("videos/"))


def test_a_second_call_draws_nothing_and_a_lost_video_is_drawn_again(tiny: Path) -> None:
    before = digests(tiny)
    assert write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5).drawn == 0
    next((tiny / "videos" / "LWIR-30m").iterdir()).unlink()
    assert write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5).drawn == 1
    assert digests(tiny) == before


def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "mdfpipe.cli", "synth", str(folder), "--preset", "tiny", "--seed", "5"]
    command += ["--subjects", str(SUBJECTS), "--workers", "2"]
    for videos in (1, 6):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(list(folder.glob("videos/*/G*"))) < videos:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run([*command, "--json"], check=True, capture_output=True)
    assert json.loads(done.stdout)["dataset"]["drawn"] < 16
    assert digests(folder) == digests(tiny)


def test_faces_lie_in_their_bodies_and_only_where_the_truth_says_so(tiny: Path) -> None:
    truth = {
        (r["video_id"], r["frame"], r["subject_id"]): r
        for r in read_table(tiny / "truth" / "bodies.parquet").to_pylist()
    }
    with (tiny / "faces.csv").open() as file:
        faces = list(csv.DictReader(file))
    named = {(Path(f["FILENAME"]).with_suffix("").as_posix(), int(f["FRAME_NUM"]), f["SUBJECT_ID"]) for f in faces}
    assert named == {key for key, row in truth.items() if row["face_annotated"]}
    assert 0.3 < len(faces) / len(truth) < 0.95  # some turn away
    for face in faces:
        row = truth[Path(face["FILENAME"]).with_suffix("").as_posix(), int(face["FRAME_NUM"]), face["SUBJECT_ID"]]
        x, y = (float(face[f"FACE_{a}"]) + float(face[f"FACE_{b}"]) / 2 for a, b in (("X", "WIDTH"), ("Y", "HEIGHT")))
        assert row["x1"] <= x <= row["x2"]
        assert row["y1"] <= y <= row["y2"]
        assert 0 < row["visible"] <= 1


def test_infrared_is_sixteen_bit_in_every_other_session(tiny: Path) -> None:
    kinds = {}
    for path in sorted((tiny / "videos").glob("*/*")):
        frames = next(iter(Auto().candidates(path)[0].frames(path, batch=2, threads=1)))
        kinds[path.parent.name, path.suffix] = (str(frames.pixels.dtype), frames.pixels.shape[1:3])
    small, large = (144, 256), (360, 640)
    assert kinds == {
        ("VIS-500m", ".mp4"): ("uint8", large),
        ("SWIR-30m", ".mp4"): ("uint8", large),
        ("MWIR-30m", ".mkv"): ("uint16", small),
        ("MWIR-30m", ".mp4"): ("uint8", small),
        ("LWIR-30m", ".mkv"): ("uint16", small),
        ("LWIR-30m", ".mp4"): ("uint8", small),
    }


def test_visible_video_is_coloured_and_infrared_is_not(tiny: Path) -> None:
    for path in sorted((tiny / "videos").glob("*/*.mp4")):
        frames = next(iter(Auto().candidates(path)[0].frames(path, batch=1, threads=1)))
        spread = np.ptp(frames.pixels[0].astype(int), axis=2).mean()
        assert (spread > 4) == path.parent.name.startswith("VIS"), path


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda p: (p.mkdir(), (p / "mine.txt").touch()), "holds files that are no synthetic data set"),
        (lambda p: p.write_text("x"), "expected a folder, found a file"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_text("{")), "expected the description"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_text('{"seed": 9}')), "holds a data set with preset None"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, prepare: object, words: str) -> None:
    assert callable(prepare)
    prepare(tmp_path / "out")
    with pytest.raises(ConfigError, match=words):
        write_dataset(tmp_path / "out", "tiny")


def test_wrong_sizes_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of tiny, demo, study, bench"):
        write_dataset(tmp_path / "out", "huge")
    with pytest.raises(ConfigError, match="expected 2 to 9999"):
        write_dataset(tmp_path / "out", "tiny", subjects=1)
    assert not (tmp_path / "out").exists()
