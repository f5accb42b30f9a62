"""One odd video never stops a run, and one that is replaced while the run goes on is not used half old, half new."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.running.execution import run_unit
from mdfpipe.stages import Resources
from mdfpipe.stages.crop import Crop
from mdfpipe.stages.detect import Detect
from mdfpipe.video.decoders import Decoder
from mdfpipe.video.probe import probe
from tests import clips, runs
from tests.inline import runner

SIZE = (320, 240)


def patched(suffix: str, *changes: tuple[bytes, int, bytes], codec: str = "libx264") -> Callable[[Path], None]:
    """Writes a sound video with other bytes at places counted from the last of the marks."""

    def make(path: Path) -> None:
        sound = clips.write_video(path.with_suffix(suffix), 4, codec=codec, size=SIZE)
        data = bytearray(sound.read_bytes())
        for mark, behind, value in changes:
            at = data.index(mark) + behind
            data[at : at + len(value)] = value
        path.write_bytes(data)

    return make


def circle(path: Path) -> None:
    path.symlink_to(path.name)


def folder_without_images(path: Path) -> None:
    path.mkdir()


ODD = {
    "fourcc.mp4": (patched(".mp4", (b"avc1\0\0\0\0", 0, b"xxxx")), "a codec that FFmpeg knows"),
    "fourcc_zero.mp4": (patched(".mp4", (b"avc1\0\0\0\0", 0, bytes(4))), "a codec that FFmpeg knows"),
    "codec_id.mkv": (patched(".mkv", (b"V_MPEG4/ISO/AVC", 0, b"V_XXXXX/ISO/YYY")), "a codec that FFmpeg knows"),
    "codec_no_text.mkv": (patched(".mkv", (b"V_MPEG4/ISO/AVC", 2, b"\xff\xfe" * 6)), "a codec that FFmpeg knows"),
    "fourcc.avi": (
        patched(".avi", (b"vids", 4, b"\xff\xfeZZ"), (b"strf", 24, b"\xff\xfeZZ"), codec="mpeg4"),
        "a codec that FFmpeg knows",
    ),
    "raw.avi": (patched(".avi", (b"vids", 4, bytes(4)), (b"strf", 24, bytes(4)), codec="mpeg4"), "does not decode"),
    "count.mp4": (patched(".mp4", (b"stts", 12, b"\xff" * 4)), "short: 4 frames delivered of 4294967295"),
    "sizes.mp4": (patched(".mp4", (b"stsz", 12, b"\xff" * 4)), "MDFPIPE_LARGEST_GB"),
    "circle.mp4": (circle, "round in a circle"),
    "folder.mp4": (folder_without_images, "expected images"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run over a sound video, every odd one, a folder that may not be listed, and a name that is no text."""
    made = runs.DataSet(tmp_path_factory.mktemp("odd") / "data")
    made.good("sound.mp4")
    for name, (make, _) in ODD.items():
        made.bad(name, make)
    clips.write_images(made.video("private"), [clips.picture(0)])
    made.annotate("private")
    made.write()
    with open(os.fsencode(made.root / "videos") + b"/\xff\xfe.mp4", "wb"):  # noqa: PTH123 - a name that is no text
        pass
    patch = pytest.MonkeyPatch()
    for function in ("scandir", "listdir"):  # root may list everything
        patch.setattr(os, function, private(getattr(os, function)))
    try:
        make, _ = runner(made.root, made.root.parent / "run", study=made.root / "study.yaml")
        return make.execute(), made.root
    finally:
        patch.undo()


def private(function: Callable[..., Any]) -> Callable[..., Any]:
    def refusing(path: Any = ".") -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return function(path)

    return refusing


@pytest.mark.parametrize("name", [*ODD, "private"])
def test_an_odd_video_fails_alone_and_by_name(outcome: tuple[Any, Path], name: str) -> None:
    done, data = outcome
    failures = {failure.key: failure for failure in done.failures}
    keys = {f"videos/{name}", f"videos/{Path(name).stem}"}
    (failure,) = (failures[key] for key in keys & failures.keys())
    assert str(data / "videos" / name) in failure.message or "short: " in failure.message
    assert (ODD[name][1] if name in ODD else "Permission denied") in failure.message
    assert "unexpected error" not in failure.message


def test_the_others_go_on(outcome: tuple[Any, Path]) -> None:
    done, _ = outcome
    assert len(done.failures) == len(ODD) + 1
    assert "videos/sound" not in {failure.key for failure in done.failures}
    (said,) = (line for line in done.warnings if "cannot be written into tables" in line)
    assert said.isprintable()


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), OverflowError("x"), TypeError("x")])
def test_what_nobody_foresaw_of_a_library_is_the_files_trouble(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **more: object) -> None:
        raise error

    path = clips.write_video(tmp_path / "a.mp4", 2)
    monkeypatch.setattr("mdfpipe.video.probe._first_frame", fails)
    with pytest.raises(DecodeError, match=rf"a\.mp4: cannot be read: unexpected error: {type(error).__name__}"):
        probe(path)
    monkeypatch.setattr("mdfpipe.video.decoders.pyav._to_pixels", fails)
    with pytest.raises(DecodeError, match=rf"a\.mp4: cannot be decoded: unexpected error: {type(error).__name__}"):
        list(Decoder.variant("auto")().frames(path))


@pytest.mark.parametrize("stage", [Detect, Crop])
@pytest.mark.parametrize("when", ["before", "meanwhile", "gone"])
@pytest.mark.parametrize("kind", ["film", "folder"])
def test_a_video_that_is_replaced_fails_until_the_next_call(
    stage: Any, when: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = runs.DataSet(tmp_path / "data")
    if kind == "film":
        film = data.good("a.mp4")
    else:
        pictures = [clips.picture(n) for n in range(runs.FRAMES)]
        film = clips.write_images(data.video("a"), pictures) / "frame_3.png"
        data.annotate("a")
    data.write()
    content = film.read_bytes()

    def replace() -> None:
        film.unlink() if when == "gone" else film.write_bytes(content)
        if when != "gone":
            os.utime(film, ns=(1, 1))

    process = stage.process

    def replacing(self: Any, *arguments: Any) -> Any:
        if when == "before":
            return process(self, *arguments)
        made = process(self, *arguments) if when == "meanwhile" else None
        replace()
        return made or process(self, *arguments)

    def running(unit: Any, *more: Any) -> Any:
        if when == "before" and unit.stage.name == stage.name:
            replace()
        return run_unit(unit, *more)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "process", replacing)
        patch.setattr("tests.inline.run_unit", running)
        make, _ = runner(data.root, tmp_path / "run", study=data.root / "study.yaml")
        make.resources = Resources(separate=True)
        (failure,) = make.execute().failures
    what = "is no longer there" if when == "gone" and kind == "film" else "has changed"
    assert failure.stage == stage.name
    assert failure.message.endswith(
        f"videos/a{film.suffix if kind == 'film' else ''}: {what} since it was indexed; give the same command again"
    )
    film.write_bytes(content)
    make, inline = runner(data.root, tmp_path / "run", study=data.root / "study.yaml")
    assert make.execute().complete
    assert inline.ran[0].startswith("index/")
