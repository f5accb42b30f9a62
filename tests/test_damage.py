"""Bad videos among good ones, through the command line: each is named with its reason, and hurts nobody else."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import av
import pytest

from mdfpipe.store.run import Run

from . import clips, runs

GOOD = ("good_a", "good_b", "good_c", "good_frames")
GROUPS = {"g": "6", "bf": "2", "b_strategy": "0", "preset": "ultrafast"}  # groups of 6 pictures, two B frames in a row
FRONT = {"movflags": "+faststart"}

# Name under videos/ -> stage that fails, and what its line must say: which frame, expected, got, what to do.
BAD = {
    "cut_end.mp4": ("detect", r"cut_end\.mp4: expected a video, got a file that FFmpeg cannot open"),
    "cut_front.mp4": ("detect", r"frame \d+ does not decode: the packet is cut short; keep .* detect\.incomplete=keep"),
    "cut_stream.ts": ("detect", r"frame \d+ does not decode: .*; keep .* detect\.incomplete=keep"),
    "cut_group.ts": ("detect", r"frame 7 .*detect\.incomplete=keep"),
    "flipped.mp4": ("detect", r"frame \d+ does not decode"),
    "empty.mp4": ("detect", r"empty\.mp4: the file is empty \(0 bytes\)"),
    "text.mp4": ("detect", r"text\.mp4: expected a video, got a file that FFmpeg cannot open"),
    "short.mp4": ("label", r"short: annotated up to frame 11, but \w+ delivered 8 frames .*label\.short=keep"),
    "more.mp4": ("detect", r"short: 12 frames delivered of 40 that the header declares; .*detect\.incomplete=keep"),
    "gone.mp4": ("detect", r"gone\.mp4: no such file"),
    "damaged_png": (
        "detect",
        r"frame_7\.png: frame 7 does not decode: a checksum of .*detect\.incomplete=keep",
    ),
    "other_size": ("detect", r"frame_5\.png: frame 5: expected 96x64 .* got 112x80 .*detect\.incomplete=keep"),
    "hangs.mp4": ("detect", r"no sign of progress for 6 s \(--deadline\); its process was killed.*; try another"),
}
FAILED = {f"{stage}/videos/{name.split('.')[0]}" for name, (stage, _) in BAD.items()}

# A decoder that hangs as decord does: in native code, holding the interpreter's lock.
HANGING = """
import ctypes
from mdfpipe.video.decoders.pyav import PyAV
read = PyAV.read
def hanging(self, path, stride, threads):
    if path.stem == "hangs":
        ctypes.PyDLL(None).sleep(600)
    return read(self, path, stride, threads)
PyAV.read = hanging
"""


def good(data: runs.DataSet) -> None:
    """Three films and a folder of frames, all sound."""
    for name in GOOD[:3]:
        data.good(f"{name}.mp4", options=GROUPS)
    clips.write_images(data.video(GOOD[3]), [clips.picture(n) for n in range(runs.FRAMES)])
    data.annotate(GOOD[3])


def frames(path: Path, *, other_size: int | None = None) -> Path:
    sizes = [(80, 112) if n == other_size else (clips.HEIGHT, clips.WIDTH) for n in range(runs.FRAMES)]
    return clips.write_images(path, [clips.picture(n, *size) for n, size in enumerate(sizes)])


def damaged_frames(path: Path) -> None:
    frames(path)
    clips.flipped(path / "frame_7.png", path / "frame_7.png", [0.5])


def cut_group(stream: Path, path: Path) -> None:
    """The transport stream up to frame 9, which lies before frames 7 and 8: it is shown after them."""
    with av.open(str(stream)) as container:
        at = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(stream.read_bytes()[: at[8]])


def bad(data: runs.DataSet, source: Path) -> None:
    """One video of every kind of damage, each annotated like a sound one."""
    source.mkdir()
    end = clips.write_video(source / "end.mp4", runs.FRAMES, options=GROUPS)
    front = clips.write_video(source / "front.mp4", runs.FRAMES, options=GROUPS, mux=FRONT)
    stream = clips.write_video(source / "stream.ts", runs.FRAMES, options=GROUPS)
    data.bad("cut_end.mp4", lambda path: clips.truncated(end, path, 0.6))
    data.bad("cut_front.mp4", lambda path: clips.truncated(front, path, 0.6))
    data.bad("cut_stream.ts", lambda path: clips.truncated(stream, path, 0.6))
    data.bad("cut_group.ts", lambda path: cut_group(stream, path), 7)
    data.bad("flipped.mp4", lambda path: clips.flipped(front, path, [0.6, 0.65, 0.7, 0.75]))
    data.bad("empty.mp4", Path.touch)
    data.bad("text.mp4", lambda path: path.write_text("this is no video\n" * 50))
    data.bad("short.mp4", lambda path: clips.write_video(path, 8, options=GROUPS))
    data.bad("more.mp4", lambda path: clips.overreporting(end, path, 40))
    data.bad("fewer.mp4", lambda path: clips.overreporting(end, path, 5))  # it lies, and every frame is there
    data.bad("hangs.mp4", lambda path: shutil.copy(end, path))
    data.bad("damaged_png", damaged_frames)
    data.bad("other_size", lambda path: frames(path, other_size=5))
    data.annotate("gone.mp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    made = runs.DataSet(folder / "data")
    good(made)
    bad(made, folder / "source")
    made.write()
    return made.root


@pytest.fixture(scope="module")
def first(data: Path, folder: Path) -> runs.Said:
    """The first call over all videos, one of which hangs its decoder."""
    (folder / "hang").mkdir()
    (folder / "hang" / "sitecustomize.py").write_text(HANGING)
    hang = {"PYTHONPATH": f"{folder / 'hang'}{os.pathsep}{runs.ROOT}"}
    return runs.run(data, folder / "run", "--json", "--deadline", "6", env=hang).calm()


@pytest.fixture
def copy(first: runs.Said, data: Path, folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A data folder and a run folder after the first call, to go on with."""
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "data", tmp_path / "run"


@pytest.mark.parametrize("name", BAD)
def test_a_bad_video_is_listed_with_its_reason(first: runs.Said, folder: Path, name: str) -> None:
    stage, reason = BAD[name]
    key = f"videos/{name.split('.')[0]}"
    message = first.failures.get(f"{stage}/{key}", "not listed as failed")
    assert re.search(reason, message), message
    assert message.isprintable()
    assert re.search(f"failed  {stage}/{key}: ", first.err)
    kept = Run(folder / "run").failure(stage, key)
    assert kept is not None
    assert kept.message == message


def test_the_others_are_finished_as_if_they_were_alone(
    first: runs.Said, data: Path, folder: Path, tmp_path: Path
) -> None:
    alone = runs.DataSet(tmp_path / "data")
    for path in sorted((data / "videos").glob("good_*")):  # the same files: encoding again may give other bytes
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, alone.video(path.name))
        alone.annotate(path.name)
    alone.write()
    assert runs.run(alone.root, tmp_path / "run").code == 0
    keys = [f"videos/{name}" for name in GOOD]
    expected = runs.digests(tmp_path / "run", *keys)
    assert len(expected) == len(GOOD) * 5  # detect, label, crop and two shards
    assert runs.digests(folder / "run", *keys) == expected


def test_nobody_else_fails_and_there_is_no_manifest(first: runs.Said, folder: Path) -> None:
    assert first.code == 3
    assert set(first.failures) == FAILED
    (refused,) = first.json["refused"]
    assert refused.startswith(f"manifest: not made, because {len(BAD)} of {len(BAD) + len(GOOD) + 1} videos are")
    assert "--allow-missing" in refused
    assert not (folder / "run" / "manifest" / "manifest.parquet").exists()


def test_a_header_that_declares_too_few_costs_no_frame(first: runs.Said, folder: Path) -> None:
    seen = runs.facts(folder / "run", "detect", "videos/fewer")
    assert (seen["declared"], seen["delivered"], seen["incomplete"]) == (5, 12, None)
    assert seen["rows"] == {"bodies": 12}


def test_the_next_run_tries_only_the_failed_and_ends_well_once_they_are_mended(copy: tuple[Path, Path]) -> None:
    data, run = copy
    before = len(list(Run(run).events()))
    again = runs.run(data, run, "--json").calm()  # nothing is mended, and the decoder no longer hangs
    assert again.code == 3
    assert set(again.failures) == FAILED - {"detect/videos/hangs"}
    started = {f"{e['stage']}/{e['key']}" for e in list(Run(run).events())[before:] if e["event"] == "started"}
    assert started == FAILED | {"label/videos/hangs", "crop/videos/hangs", "index/videos"}  # it looks again, too

    missing = runs.run(data, run, "--json", "--allow-missing").calm()
    assert missing.code == 3  # they failed again, and the manifest is made without them
    assert not missing.json["refused"]
    assert missing.tally("ran")["manifest"] == 1
    left_out = runs.facts(run, "manifest", "manifest")["missing"]
    assert set(left_out) == {key.partition("/")[2] for key in FAILED} - {"videos/hangs"}

    for name in BAD:
        if "." in name:
            clips.write_video(data / "videos" / name, runs.FRAMES, options=GROUPS)
        else:
            shutil.rmtree(data / "videos" / name)
            frames(data / "videos" / name)
    mended = runs.run(data, run, "--json").calm()
    assert mended.code == 0
    assert mended.json["complete"] is True
    assert mended.tally("already")["detect"] == len(GOOD) + 2
    fresh = runs.run(data, run.with_name("fresh"), "--json")
    assert fresh.code == 0
    assert runs.digests(run) == runs.digests(run.with_name("fresh"))


def test_what_precedes_the_damage_can_be_kept_and_is_told_apart(first: runs.Said, copy: tuple[Path, Path]) -> None:
    data, run = copy
    done = runs.run(data, run, "--json", "--set", "detect.incomplete=keep", "--set", "label.short=keep").calm()
    left = {f"detect/videos/{name}" for name in ("cut_end", "empty", "text", "gone")}
    assert left <= set(done.failures)
    delivered = {"more": 12}
    for name in ("cut_front", "cut_stream", "damaged_png", "other_size"):
        named = re.search(r"frame (\d+)", first.failures.get(f"detect/videos/{name}", ""))
        assert named, name
        delivered[name] = int(named[1])
    for name, number in delivered.items():
        seen = runs.facts(run, "detect", f"videos/{name}")
        assert (seen["delivered"], bool(seen["incomplete"])) == (number, True), name
        assert runs.facts(run, "label", f"videos/{name}")["faces_beyond_the_end"] == 12 - number
    assert runs.facts(run, "label", "videos/short")["faces_beyond_the_end"] == 4
    assert runs.facts(run, "crop", "videos/short")["faces_without_frame"] == 4
    said = runs.call_here("status", run, "--json")
    assert {f"{f['stage']}/{f['key']}" for f in said.json["failures"]} == set(done.failures)
    silent = [name for name in (*delivered, "short") if f"videos/{name}" not in said.out]
    assert not silent, f"status does not say that these were kept incomplete: {silent}"


def test_strict_stops_at_the_first(data: Path, tmp_path: Path) -> None:
    said = runs.run(data, tmp_path / "run", "--json", "--strict", "--set", "detect.decoder={use: pyav}").calm()
    assert said.code == 3
    assert len(said.failures) == 1
    assert set(said.json["tallies"]) == {"index", "detect"}
    ends = [e for e in Run(tmp_path / "run").events() if e["event"] == "failed"]
    assert len(ends) == 1


def test_only_does_nothing_for_the_others(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = runs.run(data, run, "--json", "--only", "videos/good_a", "--only", "videos/empty").calm()
    assert said.code == 3
    assert set(said.failures) == {"detect/videos/empty"}
    assert said.tally("total") == {"index": 1, "detect": 2, "label": 2, "crop": 2, "manifest": 0}
    assert {p.name for p in (run / "detect").glob("*.parquet")} == {"videos__good_a.parquet"}
    assert "--only nix: no such video" in runs.run(data, run, "--only", "nix").line()


def test_a_pipe_named_mp4_fails_alone(tmp_path: Path) -> None:
    """Reading a FIFO that nobody writes to waits for ever."""
    data = runs.DataSet(tmp_path / "data")
    data.good("good.mp4")
    data.bad("pipe.mp4", os.mkfifo)
    base = ("run", data.write(), "--data", data.root, "--run", tmp_path / "run", "--deadline", "20", "--json")
    said = runs.call(*base, timeout=60).calm()
    assert said.code == 3
    assert list(said.failures) == ["detect/videos/pipe"]
    assert "pipe" in said.failures["detect/videos/pipe"].partition("pipe.mp4")[2]
