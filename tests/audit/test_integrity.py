"""Damage at rest: found by `verify` and by whoever reads it, named, and made again by the same command."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mdfpipe
from mdfpipe.audit.integrity import verify
from mdfpipe.cli.commands import app
from mdfpipe.errors import Damaged, DataError, StoreError
from mdfpipe.inspecting.inspection import inspect
from mdfpipe.running.execution import Event
from mdfpipe.running.plan import Currency, Standing, standing
from mdfpipe.running.runner import Outcome
from mdfpipe.running.status import status
from mdfpipe.running.survey import survey
from mdfpipe.running.synthesis import cut_out
from mdfpipe.stages.evaluate import Evaluate
from mdfpipe.store import lock
from mdfpipe.store.owner import temporary
from mdfpipe.store.run import Failure, Run, read_table
from mdfpipe.synth.crops import write_crops
from tests.systems import VIDEOS, copied, loaded, runner

KINDS = ("flip", "flip", "flip", "half", "zeros", "gone")
SYSTEMS: dict[str, Any] = {"a": {"recipe": loaded()}}
TABLES: dict[str, Any] = {"tables": {"bodies": {"unmated": "exclude", "metrics": ["rank-1"]}}}


@pytest.fixture
def home(labelled: Path, tmp_path: Path) -> Path:
    """A home with data/ and run/ that the test may damage."""
    shutil.copytree(labelled / "run", tmp_path / "run")
    (tmp_path / "data").symlink_to(labelled / "data")
    return tmp_path


@pytest.fixture(scope="module")
def evaluated(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose run has parts of every stage, which nobody changes."""
    home = copied(labelled, tmp_path_factory.mktemp("evaluated") / "home")
    assert runner(home, SYSTEMS, evaluate=TABLES)[0].execute().complete
    return home


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that no study made, which nobody changes: V1 of `score`, and crops of `synthesise`."""
    folder = tmp_path_factory.mktemp("apart")
    subjects = ["p0", "p1", "p2"] * 4
    columns = {
        "subject_id": subjects,
        "domain": (["VIS-10m"] * 3 + ["VIS-500m"] * 3) * 2,
        "video_id": [f"v{n}" for n in range(len(subjects))],
        "vector": list(np.random.default_rng(0).standard_normal((len(subjects), 4))),
    }
    pq.write_table(pa.table(columns), folder / "mine.parquet")
    mdfpipe.score(folder / "mine.parquet", "no-roles", folder / "V1")
    write_crops(folder / "crops", 2, cut=cut_out)
    return folder


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of change and size of everything in a folder, and of the folder itself."""
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in (folder, *folder.rglob("*"))}


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


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("index/videos.parquet", ["index/videos.parquet"]),
        ("index", ["index/videos.parquet"]),
        ("detect/videos__LWIR-30m_a.parquet", ["detect/videos__LWIR-30m_a.parquet"]),
        ("detect", [f"detect/{key.replace('/', '__')}.parquet" for key in VIDEOS]),
        ("label/videos__VIS-500m_a.parquet", ["label/videos__VIS-500m_a.parquet"]),
        ("crop/videos__VIS-500m_b.parquet", ["crop/videos__VIS-500m_b.parquet"]),
        ("manifest", ["manifest/manifest.parquet"]),
        ("train/a/training.parquet", ["train/a/training.parquet"]),
        ("embed/a/videos__LWIR-30m_b.parquet", ["embed/a/videos__LWIR-30m_b.parquet"]),
        ("embed", [f"embed/a/{key.replace('/', '__')}.parquet" for key in VIDEOS]),
    ],
)
def test_what_is_missing_is_named_by_every_call_until_it_is_made_again(
    evaluated: Path, tmp_path: Path, gone: str, missing: list[str]
) -> None:
    home = copied(evaluated, tmp_path / "home")
    run, path = home / "run", home / "run" / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    for _ in range(3):
        found = verify(run)
        assert [one.path for one in (*found.damaged, *found.missing)] == missing
        assert found.noted
    assert app(["verify", str(run)], standalone_mode=False) == 3
    assert not path.exists()
    assert runner(home, SYSTEMS, evaluate=TABLES)[0].execute().complete
    assert verify(run).sound
    assert verify(run).sound


@pytest.mark.parametrize("part", ["index/videos", "detect/videos/VIS-500m_a"])
def test_a_missing_part_that_could_not_be_made_is_a_failure_of_the_run_and_no_damage(home: Path, part: str) -> None:
    run, (stage, _, key) = Run(home / "run"), part.partition("/")
    run.part(stage, key).unlink()
    failure = Failure(stage, key, "DataError", "its file cannot be opened")
    run.record_failure(failure)
    assert verify(home / "run").sound
    assert run.failure(stage, key) == failure


def test_an_index_that_receipts_name_is_missing_also_where_the_study_is_gone(home: Path) -> None:
    shutil.rmtree(home / "run" / "index")
    for name in ("pipeline.yaml", "environment.json"):
        (home / "run" / name).unlink()
    for _ in range(2):
        assert [one.path for one in verify(home / "run").missing] == ["index/videos.parquet"]
    assert not (home / "run" / "index").exists()


@pytest.mark.parametrize("name", ["V1", "crops"])
def test_a_folder_that_no_study_made_is_sound_without_an_index_and_stays_as_it_is(
    apart: Path, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(apart / name, tmp_path / name)
    before = content(folder)
    for _ in range(2):
        found = verify(folder)
        assert (found.sound, found.missing, found.foreign, found.remarks) == (True, [], [], [])
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["flip", "half", "gone"])
@pytest.mark.parametrize(
    "name",
    ["V1/evaluate/metrics.json", "V1/evaluate/searches.parquet", "crops/crop/*.tar", "crops/crop/block-0000.parquet"],
)
def test_damage_in_a_folder_that_no_study_made_is_named_by_every_call(
    apart: Path, tmp_path: Path, name: str, kind: str
) -> None:
    shutil.copytree(apart, tmp_path / "apart")
    (path,) = (tmp_path / "apart").glob(name)
    folder = tmp_path / "apart" / name.partition("/")[0]
    damage(path, kind, random.Random(0))
    for _ in range(3):
        found = verify(folder)
        assert [one.path for one in (*found.damaged, *found.missing)] == [path.relative_to(folder).as_posix()]
    assert not (folder / "index").exists()


def test_scored_numbers_are_current_by_their_version_whatever_verify_noted(
    apart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(apart / "V1", tmp_path / "V1")
    for noted in (False, True):
        if noted:  # as earlier versions did
            Run(folder).damage("index", "videos", "index/videos.parquet: all other parts were made from it")
        assert verify(folder).sound
        assert standing(folder, "evaluate", "metrics") == Standing("V1", Currency.CURRENT)
    monkeypatch.setattr(Evaluate, "version", Evaluate.version + 1)
    assert standing(folder, "evaluate", "metrics").currency is Currency.STALE


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
