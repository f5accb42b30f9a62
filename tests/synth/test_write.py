"""The data set on disk: the same bytes every time, no stage needs the truth, bad folders are refused."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mdfpipe.errors import ConfigError, DataError, MdfError, StoreError
from mdfpipe.store.lock import Lock, is_of_lock
from mdfpipe.store.owner import temporary
from mdfpipe.store.run import read_table
from mdfpipe.synth import write
from mdfpipe.synth.presets import PRESETS
from mdfpipe.synth.write import write_dataset
from mdfpipe.video.decoders.auto import Auto
from tests.started import hearing_signals

SUBJECTS, FRAMES = 2, 3
SHORT = f"""
from dataclasses import replace
from mdfpipe.cli import main
from mdfpipe.synth.presets import PRESETS
PRESETS["tiny"] = replace(PRESETS["tiny"], frames={FRAMES})
main()
"""


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """The preset tiny with few frames; `SHORT` is the command line with the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], frames=FRAMES))
        yield


def digests(folder: Path) -> dict[str, str]:
    """The content hash of every file under `folder`; not of the lock's."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not is_of_lock(p.name))
    assert not [p for p in files if p.name.startswith(".part-")]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "tiny"
    write_dataset(folder, "tiny", subjects=SUBJECTS, seed=5)
    return folder


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
    """With two workers, as with one that nobody disturbed."""
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", SHORT, "synth", str(folder), "--preset", "tiny", "--seed", "5"]
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


def nobody_is_left(group: int) -> bool:
    """Whether every process of a group ends within 5 s (Python's own tracker ends a little after its master)."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_at_once_with_one_line_and_leaves_nothing_half_done(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "mdfpipe", "synth", str(folder), "--workers", str(workers)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hearing_signals
    )
    while process.poll() is None and not list(folder.glob("videos/*/.part-*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the workers, too
    *progress, last = process.communicate(timeout=20)[1].splitlines()
    assert (process.returncode, last) == (130, "mdfpipe: interrupted; the same command resumes from here")
    assert all(line.startswith("synth/frames: ") for line in progress)  # on a busy machine
    assert not list(folder.rglob(".part-*"))
    assert nobody_is_left(process.pid)


def test_what_a_killed_call_left_is_cleared_and_a_damaged_video_drawn_again(tiny: Path) -> None:
    before = digests(tiny)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # of a process that ends
        for place in ("videos/VIS-500m", "truth/parts", "truth", "galleries", "."):
            pool.apply(temporary, (tiny / place / "left",)).write_bytes(b"x")
    videos = sorted((tiny / "videos" / "SWIR-30m").iterdir())
    videos[0].write_bytes(videos[0].read_bytes()[:-1])
    videos[1].write_bytes(b"")
    part = next((tiny / "truth" / "parts").glob("*VIS*faces*"))
    part.write_bytes(part.read_bytes()[:-1])
    assert write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5).drawn == 3
    assert digests(tiny) == before


def test_two_calls_do_not_write_one_folder(tiny: Path) -> None:
    lock = Lock(tiny)
    lock.take()
    try:
        words = rf"in use by process {os.getpid()} on .*; wait for it, end it, or name another folder"
        with pytest.raises(StoreError, match=words):
            write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5)
    finally:
        lock.release()
    assert write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5).drawn == 0


@pytest.mark.parametrize("name", ["videos", "truth", "galleries", "videos/MWIR-30m"])
def test_a_folder_that_leads_out_is_refused(tiny: Path, tmp_path: Path, name: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    (out / "synth.json").write_bytes((tiny / "synth.json").read_bytes())
    elsewhere.mkdir()
    (elsewhere / ".part-mine").touch()
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(elsewhere)
    with pytest.raises(DataError, match="is a symlink to"):
        write_dataset(out, "tiny", subjects=SUBJECTS, seed=5)
    assert [p.name for p in elsewhere.iterdir()] == [".part-mine"]


@pytest.mark.parametrize(
    ("number", "call"), [(errno.ENOSPC, 0), (errno.EROFS, 0), (errno.EACCES, 1), (errno.ENOSPC, 2), (errno.ENOSPC, 5)]
)
def test_a_disk_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: int
) -> None:
    """The write that fails: the description's, a video's, its rows', the next video's."""
    calls, real = [0], os.fsync

    def failing(handle: int) -> None:
        calls[0] += 1
        if calls[0] > call * 2:
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(
            StoreError, match=f"cannot be written: {os.strerror(number)}; .*give the same command again"
        ):
            write_dataset(tmp_path / "out", "tiny", subjects=SUBJECTS, seed=5)
    assert not list(tmp_path.rglob(".part-*"))


def test_an_error_that_nobody_foresaw_is_one_line_that_says_which_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(write, "encode", broken)
    with pytest.raises(
        MdfError,
        match=r"G1-a01.*: cannot be drawn: unexpected error: ZeroDivisionError: division by zero",
    ):
        write_dataset(tmp_path / "out", "tiny", subjects=SUBJECTS)
    assert not list(tmp_path.rglob(".part-*"))


def test_progress_counts_the_frames_that_this_call_draws(tiny: Path) -> None:
    lost = next((tiny / "videos" / "VIS-500m").iterdir())
    lost.unlink()
    told: list[tuple[int, int]] = []
    write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(n, FRAMES) for n in range(FRAMES + 1)]


def test_opencv_keeps_the_callers_threads(tiny: Path) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        next((tiny / "videos" / "LWIR-30m").iterdir()).unlink()
        write_dataset(tiny, "tiny", subjects=SUBJECTS, seed=5)
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


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
        (lambda p: p.write_text("x"), "expected a folder, got a file"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_text("{")), "expected the description"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_text("[" * 100_000)), "expected the description"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_bytes(b"\xff")), "expected the description"),
        (lambda p: (p.mkdir(), (p / "synth.json").mkdir()), "expected the description"),
        (lambda p: (p.mkdir(), (p / "synth.json").write_text('{"seed": 9}')), "holds a data set with preset None"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused(tmp_path: Path, prepare: object, words: str) -> None:
    assert callable(prepare)
    prepare(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=words):
        write_dataset(tmp_path / "out", "tiny")
    assert sorted(tmp_path.rglob("*")) == before  # nothing of ours was put there


def test_wrong_sizes_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of tiny, demo, study, away, bench"):
        write_dataset(tmp_path / "out", "huge")
    for subjects in (-1, 1, 10_000):
        with pytest.raises(ConfigError, match="expected 2 to 9999"):
            write_dataset(tmp_path / "out", "tiny", subjects=subjects)
    with pytest.raises(ConfigError, match="--seed -1: expected 0 or more"):
        write_dataset(tmp_path / "out", "tiny", seed=-1)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_folder_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(write, "VERSION", write.VERSION - 1)
        with pytest.raises(StoreError):
            write_dataset(
                out, "tiny", subjects=SUBJECTS, share=lambda *_: iter(())
            )  # as if killed before the first video
    assert json.loads((out / "synth.json").read_text())["complete"] is False
    with pytest.raises(ConfigError, match=rf"holds a data set with version {write.VERSION - 1}, not {write.VERSION}"):
        write_dataset(out, "tiny", subjects=SUBJECTS)
