"""The run folder: a part is done if and only if its footer says so; nothing half-written is taken for done."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import StoreError
from mdfpipe.store.run import Failure, Receipt, Run, fingerprint, read_receipt, write_table

RECEIPT = Receipt("odd", 1, "a/b", {"min_overlap": 0.5}, {"faces": "f0"})
TABLE = pa.table({"x": pa.array([1, 2, 3])})


def scratch_file(run: Run, name: str, data: bytes) -> Path:
    path = run.scratch("odd", name)
    path.write_bytes(data)
    return path


def test_a_part_is_its_own_receipt(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    shard = scratch_file(run, "shard", b"12345")
    run.commit(replace(RECEIPT, facts={"n": 3}), TABLE, {"odd/a__b.tar": shard})
    found = run.receipt("odd", "a/b")
    assert found is not None
    assert found.fingerprint == RECEIPT.fingerprint
    assert found.facts == {"n": 3}
    assert found.files == {"odd/a__b.tar": (5, hashlib.sha256(b"12345").hexdigest())}
    assert run.table("odd", "a/b").equals(TABLE)
    assert run.files_in_place(found) is None
    (run.path / "odd" / "a__b.tar").write_bytes(b"123")
    assert run.files_in_place(found) == "odd/a__b.tar has 3 bytes, expected 5"
    (run.path / "odd" / "a__b.tar").unlink()
    assert run.files_in_place(found) == "odd/a__b.tar is missing"


OUTSIDE = ["../P", "odd/../../P", "/P", "odd//P", "odd/./P", "other/P", "odd", "P", "odd/..", "odd\\..\\P"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_file_that_is_not_below_its_stage_is_not_committed(tmp_path: Path, name: str) -> None:
    run = Run(tmp_path / "run")
    made = scratch_file(run, "file", b"mine")
    with pytest.raises(StoreError, match="expected a file below odd/, got"):
        run.commit(RECEIPT, TABLE, {name: made})
    assert run.receipt("odd", "a/b") is None
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_receipt_that_names_files_elsewhere_is_not_ours_and_removes_none(tmp_path: Path, name: str) -> None:
    """As a run folder of somebody else may hold it."""
    run = Run(tmp_path / "a" / "run")
    (run.path / "odd").mkdir(parents=True)
    theirs = [tmp_path / "a" / "P", tmp_path / "P", run.path / "P", run.path / "other" / "P"]
    for place in theirs:
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"theirs")
    write_table(run.part("odd", "a/b"), TABLE, replace(RECEIPT, files={name: (6, "")}, content="c"))
    assert run.receipt("odd", "a/b") is None
    assert read_receipt(run.part("odd", "a/b")) is not None
    assert name in str(run.files_in_place(replace(RECEIPT, files={name: (6, "")})))
    run.commit(RECEIPT, TABLE, {})
    assert [place.read_bytes() for place in theirs] == [b"theirs"] * 4
    assert run.receipt("odd", "a/b") is not None


@pytest.mark.parametrize("link", ["odd", "odd/inner", "odd/failed", "events.jsonl"])
def test_nothing_is_written_or_removed_through_a_link(tmp_path: Path, link: str) -> None:
    run, outside = Run(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "a__b.json").write_bytes(b"theirs")
    place = run.path / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / "new" if link == "events.jsonl" else outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(StoreError, match="symbolic link"), run.lock():
        run.commit(RECEIPT, TABLE, {"odd/inner/x": scratch_file(run, "file", b"mine")})
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


def test_a_key_leads_nowhere(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    for key in ("../../P", "..", "/P"):
        run.record_failure(Failure("odd", key, "X", "no"))
        run.commit(replace(RECEIPT, key=key), TABLE, {})
        assert run.part("odd", key).parent == run.scratch("odd", f"{key}.tar").parent == run.path / "odd"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_facts_do_not_decide_and_everything_else_does() -> None:
    same = replace(RECEIPT, facts={"seconds": 3}, files={"a": (1, "")})
    assert same.fingerprint == RECEIPT.fingerprint
    for change in ({"version": 2}, {"key": "c"}, {"settings": {}}, {"upstream": {"faces": "f1"}}, {"stage": "crop"}):
        assert replace(RECEIPT, **change).fingerprint != RECEIPT.fingerprint


def test_the_same_table_gives_the_same_bytes_however_chunked(tmp_path: Path) -> None:
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    write_table(tmp_path / "a", TABLE, RECEIPT)
    write_table(tmp_path / "b", chunked, RECEIPT)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "no receipt", "edited receipt"])
def test_a_damaged_part_is_not_done(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "part.parquet"
    write_table(path, TABLE, RECEIPT)
    data = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        path.write_text("hello")
    elif damage == "no receipt":
        pq.write_table(TABLE, path)
    else:
        forged = RECEIPT.to_bytes().replace(b"0.5", b"0.7")
        pq.write_table(TABLE.replace_schema_metadata({b"mdfpipe": forged}), path)
    assert read_receipt(path) is None


def test_files_of_the_former_part_go_with_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.commit(RECEIPT, TABLE, {"odd/old.tar": scratch_file(run, "s", b"1")})
    run.commit(replace(RECEIPT, version=2), TABLE, {"odd/new.tar": scratch_file(run, "s", b"2")})
    assert not (run.path / "odd" / "old.tar").exists()
    assert (run.path / "odd" / "new.tar").read_bytes() == b"2"


def test_of_two_writers_of_one_unit_the_first_wins(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    since = run.state("odd", "a/b")
    first = run.commit(RECEIPT, TABLE, {"odd/x.tar": scratch_file(run, "s", b"1")}, since)
    other = pa.concat_tables([TABLE, TABLE])
    assert run.commit(RECEIPT, other, {"odd/x.tar": scratch_file(run, "t", b"2")}, since) == first
    assert run.receipt("odd", "a/b") == first
    assert (run.path / "odd" / "x.tar").read_bytes() == b"1"
    assert not list(run.path.rglob(".part-*"))
    newer = replace(RECEIPT, version=2)
    assert run.commit(newer, other, {}, since).version == 2  # what is there is another unit's
    run.commit(newer, TABLE, {})
    assert run.table("odd", "a/b").equals(TABLE)  # what was there before is replaced


@pytest.mark.parametrize("step", range(12))
def test_a_commit_cut_off_anywhere_leaves_nothing_of_the_former_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """After each single change of the file system in turn: the part is the old one, the new one, or not there."""
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.record_failure(Failure("odd", "a/b", "DecodeError", "once"))
    run.commit(
        RECEIPT, TABLE, {"odd/old.tar": scratch_file(run, "s", b"1"), "odd/both.tar": scratch_file(run, "t", b"2")}
    )
    new, left = replace(RECEIPT, version=2), [step]

    def failing(name: str) -> None:
        real = getattr(Path, name)

        def change(self: Path, *arguments: object, **options: object) -> object:
            if left[0] == 0:
                raise OSError(errno.EIO, "cut off")
            left[0] -= 1
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, name, change)

    with monkeypatch.context():
        failing("unlink")
        failing("replace")
        with contextlib.suppress(StoreError):
            run.commit(new, TABLE, {"odd/both.tar": scratch_file(run, "u", b"33")})
        monkeypatch.undo()
    found = run.receipt("odd", "a/b")
    if found is not None and found.version == 2:
        assert run.files_in_place(found) is None
    elif found is not None:
        assert not (run.path / "odd" / "old.tar").exists() or run.files_in_place(found) is None
    run.commit(new, TABLE, {"odd/both.tar": scratch_file(run, "v", b"33")})
    assert sorted(p.name for p in (run.path / "odd").glob("*.tar")) == ["both.tar"]
    assert run.failure("odd", "a/b") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.commit(RECEIPT, TABLE, {})

    def broken(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match=f"cannot be written: {os.strerror(number)}"):
        run.commit(replace(RECEIPT, version=2), TABLE, {})
    found = run.receipt("odd", "a/b")
    assert found is None or found.version == 1  # never half of the new one


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    """A tmpfs of 64 kB under its own user namespace: the message, and no part taken for done."""
    script = f"""
set -e
mount -t tmpfs -o size=64k tmpfs {tmp_path}
.venv/bin/python - <<'PY'
import pyarrow as pa, os
from pathlib import Path
from mdfpipe.store.run import Run, Receipt
from mdfpipe.errors import StoreError
run = Run(Path({str(tmp_path)!r}) / "run"); run.path.mkdir()
table = pa.table({{"x": pa.array([os.urandom(1000) for _ in range(200)])}})
try:
    run.commit(Receipt("odd", 1, "v", {{}}, {{}}), table, {{}})
except StoreError as error:
    print(error); print(run.receipt("odd", "v"))
PY
"""
    root = Path(__file__).parents[2]
    made = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=root, capture_output=True, text=True, check=False
    )
    if (
        "Operation not permitted" in made.stderr
        or "unshare failed" in made.stderr
        or "must be superuser" in made.stderr
    ):
        pytest.skip(f"user namespaces are not to be had here: {made.stderr.strip()}")
    assert "No space left on device; free some space" in made.stdout, made.stderr
    assert made.stdout.strip().endswith("None")


def test_failures_are_kept_until_the_part_is_done(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.record_failure(Failure("odd", "a/b", "DecodeError", "short"))
    assert run.failure("odd", "a/b") == Failure("odd", "a/b", "DecodeError", "short")
    run.commit(RECEIPT, TABLE, {})
    assert run.failure("odd", "a/b") is None


def test_a_cut_off_event_is_passed_over(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.event("started", stage="odd", key="v")
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "fin')
    assert [e["event"] for e in run.events()] == ["started"]
    run.event("finished", stage="odd", key="v")
    assert [e["event"] for e in run.events()] == ["started", "finished"]


def _hold(path: str, ready: str) -> None:
    with Run(Path(path)).lock():
        Run(Path(path)).scratch("odd", "x.parquet").write_bytes(b"half")
        Path(ready).touch()
        time.sleep(60)


def test_the_lock_is_held_by_the_living_only(tmp_path: Path) -> None:
    run, ready = Run(tmp_path / "run"), tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(str(run.path), str(ready)))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.02)
    with pytest.raises(StoreError, match=f"in use by process {process.pid} on "), run.lock():
        pass
    assert run.holder() is not None
    process.kill()
    process.join()
    assert run.holder() is None
    with run.lock():
        assert not list(run.path.rglob(".part-*"))


def test_fingerprints_stay_as_they_are() -> None:
    """A change here makes every user's finished runs due again: it needs a reason and a line in the CHANGELOG."""
    assert fingerprint({"b": [1, 0.5, None, "ä"], "a": True}) == "dd393c4cdd71275f6c98ff1666d9068d"
    assert replace(RECEIPT, stage="label").fingerprint == "be04b7e62881153c1e07618d7e8d6a54"
