"""Damage at rest: found by `verify` and by whoever reads it, named, and made again by the same command."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest

from mdfpipe.audit.integrity import verify
from mdfpipe.cli.commands import app
from mdfpipe.errors import Damaged, DataError, StoreError
from mdfpipe.inspecting.inspection import inspect
from mdfpipe.running.execution import Event
from mdfpipe.running.runner import Outcome
from mdfpipe.running.status import status
from mdfpipe.running.survey import survey
from mdfpipe.store import lock
from mdfpipe.store.owner import temporary
from mdfpipe.store.run import Run, read_table
from tests.systems import runner

KINDS = ("flip", "flip", "flip", "half", "zeros", "gone")


@pytest.fixture
def home(labelled: Path, tmp_path: Path) -> Path:
    """A home with data/ and run/ that the test may damage."""
    shutil.copytree(labelled / "run", tmp_path / "run")
    (tmp_path / "data").symlink_to(labelled / "data")
    return tmp_path


def made(home: Path) -> dict[str, str]:
    """The digest of everything that a run should leave again."""
    stages = ("index", "detect", "label", "crop", "manifest")
    files = [
        p for stage in stages for p in (home / "run" / stage).rglob("*") if p.is_file() and p.parent.name != "failed"
    ]
    files.append(home / "run" / "pipeline.yaml")
    return {p.relative_to(home / "run").as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def again(home: Path, first: str | None = None) -> tuple[Outcome, list[str]]:
    make, executor = runner(home, {})
    return make.execute(first, "manifest"), executor.ran


def damage(path: Path, kind: str, chance: random.Random) -> None:
    data = path.read_bytes()
    if kind == "flip":
        at = chance.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
    elif kind == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if kind == "half" else bytes(len(data)))


@pytest.mark.parametrize("seed", range(5))
def test_any_damage_to_any_file_is_named_and_made_again(home: Path, seed: int) -> None:
    chance, golden = random.Random(seed), made(home)
    for _ in range(6):
        name, kind = chance.choice(sorted(golden)), chance.choice(KINDS)
        damage(home / "run" / name, kind, chance)
        found = verify(home / "run")
        named = {one.path for one in (*found.damaged, *found.missing)}
        last = name == "manifest/manifest.parquet" and kind == "gone"  # that it was ever made, nothing tells
        assert name in named or last, (name, kind, found)
        assert len(named) <= 1, (name, kind, found)
        outcome, _ = again(home)
        assert outcome.complete, (name, kind, outcome)
        assert made(home) == golden, (name, kind)
        assert verify(home / "run").sound


@pytest.mark.parametrize(
    ("stage", "key", "first"),
    [
        ("index", "videos", "detect"),
        ("detect", "videos/VIS-500m_a", "label"),
        ("label", "videos/VIS-500m_a", "crop"),
        ("crop", "videos/LWIR-30m_b", "manifest"),
    ],
)
def test_a_part_that_its_reader_finds_damaged_is_made_again_in_the_same_call(
    home: Path, stage: str, key: str, first: str
) -> None:
    golden, run = made(home), Run(home / "run")
    sound = run.part(stage, key).read_bytes()
    for at in range(60, 200):  # a byte that matters: some of a page's header do not
        run.part(stage, key).write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        try:
            read_table(run.part(stage, key))
        except Damaged:
            break
    if stage != "index":  # which every call reads
        shutil.rmtree(home / "run" / first)
    outcome, ran = again(home)
    assert outcome.complete, outcome
    assert outcome.mended == [f"{stage}/{key}"]
    assert ran.count(f"{stage}/{key}") == 1
    assert made(home) == golden
    assert [e["event"] for e in run.events()].count("failed") == 0
    assert again(home)[1] == []


@pytest.mark.parametrize("name", ["index/subjects.parquet", "index/faces/videos__VIS-500m_a.parquet"])
def test_a_table_beside_the_index_is_compared_with_what_was_made(home: Path, name: str) -> None:
    golden, path = made(home), home / "run" / name
    path.write_bytes(bytes(path.stat().st_size))
    shutil.rmtree(home / "run" / ("manifest" if "subjects" in name else "label"))
    outcome, _ = again(home)
    assert outcome.complete, outcome
    assert outcome.mended == ["index/videos"]
    assert made(home) == golden


def test_damage_before_what_was_asked_for_is_made_again_by_any_command(home: Path) -> None:
    golden = made(home)
    damage(home / "run" / "label" / "videos__VIS-500m_a.parquet", "zeros", random.Random(0))
    damage(home / "run" / "index" / "subjects.parquet", "gone", random.Random(0))
    shutil.rmtree(home / "run" / "crop")
    make, _ = runner(home, {})
    assert make.due("crop", "crop")[0] == "index/videos: damaged, made again: index/subjects.parquet is missing"
    assert make.due("label", "label") == [
        "index/videos: damaged, made again: index/subjects.parquet is missing",
        "label: every video that the index changes or adds (known once it is made)",
    ]
    outcome, ran = again(home, "crop")
    assert outcome.mended == ["index/videos", "label/videos/VIS-500m_a"]
    assert (outcome.complete, len(ran)) == (True, 6)
    assert made(home) == golden
    assert again(home, "crop")[1] == []


def test_status_and_inspect_say_what_is_damaged_and_what_to_do(home: Path) -> None:
    path = home / "run" / "index" / "videos.parquet"
    data = bytearray(path.read_bytes())
    footer = bytes([*data[:-20], data[-20] ^ 1, *data[-19:]])
    data[30] ^= 1  # in the first page
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"videos\.parquet: cannot be .*; `mdfpipe run` makes index/videos again"):
        survey(home / "run")
    assert status(home / "run").stages[0].due + status(home / "run").stages[0].failed == 1
    path.write_bytes(footer)
    with pytest.raises(DataError, match=r"videos\.parquet: its receipt cannot be read; `mdfpipe run` makes it again"):
        survey(home / "run")
    assert again(home)[0].mended == ["index/videos"]


@pytest.mark.parametrize(
    ("name", "stage", "key"),
    [
        ("manifest/manifest.parquet", "manifest", "manifest"),
        ("crop/videos__VIS-500m_a.parquet", "crop", "videos/VIS-500m_a"),
        ("crop/videos__VIS-500m_a.face.tar", "crop", "videos/VIS-500m_a"),
        ("index/faces/videos__VIS-500m_a.parquet", "index", "videos"),
    ],
)
def test_inspect_notes_what_it_finds_damaged(home: Path, name: str, stage: str, key: str) -> None:
    path, golden = home / "run" / name, made(home)
    inspect(path)
    assert Run(home / "run").failure(stage, key) is None
    data = bytearray(path.read_bytes())
    data[len(data) // 3 if name.endswith(".tar") else 80] ^= 8  # of a table, in its first page
    path.write_bytes(data)
    try:
        notes = inspect(path).notes
    except Damaged as error:
        notes = [str(error)]
    assert any(note.endswith(f"`mdfpipe run` makes {stage}/{key} again") for note in notes), notes
    assert Run(home / "run").failure(stage, key).kind == "Damaged"  # type: ignore[union-attr]
    assert again(home)[0].mended == [f"{stage}/{key}"]
    assert made(home) == golden


def test_an_index_that_is_gone_is_missing(home: Path) -> None:
    golden = made(home)
    (home / "run" / "index" / "videos.parquet").unlink()
    assert [one.path for one in verify(home / "run").missing] == ["index/videos.parquet"]
    assert again(home, "label")[0].complete
    assert made(home) == golden


def test_verify_says_what_is_sound_foreign_and_how_far_it_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run" / "crop" / "notes.txt").write_text("mine")
    told: list[Event] = []
    found = verify(home / "run", told.append)
    assert (found.sound, found.foreign, found.parts) == (True, ["crop/notes.txt"], 14)
    assert told[0].kind == "started"
    assert app(["verify", str(home / "run"), "--json"], standalone_mode=False) in (None, 0)
    assert json.loads(capsys.readouterr().out)["sound"] is True
    damage(home / "run" / "crop" / "videos__VIS-500m_a.body.tar", "flip", random.Random(1))
    assert app(["verify", str(home / "run")], standalone_mode=False) == 3
    assert "damaged  crop/videos__VIS-500m_a.body.tar: its content changed" in capsys.readouterr().out
    with pytest.raises(DataError, match="expected a run folder, found no part in it"):
        verify(home / "data")


def test_a_folder_that_cannot_be_written_is_verified_and_has_nothing_due(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("rename", "replace", "unlink", "mkdir", "link"):
        monkeypatch.setattr(os, name, refuse)
        monkeypatch.setattr(Path, {"rename": "rename"}.get(name, name), refuse, raising=False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    outcome, ran = again(home)
    assert (outcome.complete, ran) == (True, [])
    assert outcome.notes == [f"{home / 'run'} cannot be written; nothing is due"]
    assert verify(home / "run").sound
    damage(home / "run" / "crop" / "videos__VIS-500m_a.body.tar", "flip", random.Random(1))
    found = verify(home / "run")
    assert not found.noted
    assert "cannot be written" in found.lines()[-1]
    with pytest.raises(StoreError, match="cannot be written"):
        Run(home / "run").write("x", b"")


def test_events_of_any_shape_are_read_past(home: Path) -> None:
    with (home / "run" / "events.jsonl").open("ab") as file:
        file.write(
            b'\xff\xfe\n[1]\n{"event": 3}\n{"event": "finished", "time": 1}\n{"event": "x", "time": "y"}\n\0\0\0\n{"a"'
        )
    assert status(home / "run").stages[0].done == 1
    Run(home / "run").event("call")
    assert list(Run(home / "run").events())[-1]["event"] == "call"


def test_a_disk_that_dead_processes_filled_is_cleared_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = temporary(home / "run" / "crop" / "big.tar")
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194303-"))
    left.write_bytes(b"all that there was")
    real = lock._create

    def full(place: Path, data: bytes) -> bool:
        if left.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(place, data)

    monkeypatch.setattr(lock, "_create", full)
    assert again(home)[0].complete
    assert not left.exists()
