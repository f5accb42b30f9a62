"""The ledger: receipts of a stage in one file, never trusted over a part that changed, and free to be deleted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from mdfpipe.store import ledger, parquet
from mdfpipe.store.ledger import Ledger
from mdfpipe.store.run import Receipt, Run, read_receipt

TABLE = pa.table({"x": pa.array([1, 2, 3])})
KEYS = ("a/b", "c", "d")
INDEX = ".receipts/odd.index"


def receipt(key: str, overlap: float = 0.5) -> Receipt:
    return Receipt("odd", 1, key, {"min_overlap": overlap}, {"faces": key})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Three parts, and their receipts in an index file."""
    monkeypatch.setattr(ledger, "_SETTLED_SECONDS", -60.0)  # what was made a moment ago is kept, too
    made = Run(tmp_path / "run")
    with made.lock():
        for key in KEYS:
            made.commit(receipt(key), TABLE, {})
        assert [Ledger(made)("odd", key) for key in KEYS] == [made.receipt("odd", key) for key in KEYS]
    assert (made.path / INDEX).is_file()
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts whose footers are read."""
    names = list[str]()

    def noting(path: Path) -> Receipt | None:
        names.append(path.name)
        return read_receipt(path)

    monkeypatch.setattr(ledger, "read_receipt", noting)
    return names


def test_parts_as_they_were_are_not_opened(run: Run, opened: list[str]) -> None:
    known = Ledger(run)
    assert [known("odd", key) for key in KEYS] == [run.receipt("odd", key) for key in KEYS]
    assert opened == []
    settings = [found.settings for key in KEYS if (found := known("odd", key))]
    assert all(one is settings[0] for one in settings)  # shared, however many parts there are
    assert known("odd", "never made") is None
    assert known("nowhere", "a/b") is None


def other(run: Run) -> None:
    run.commit(receipt("c", 0.9), TABLE, {})


def gone(run: Run) -> None:
    run.part("odd", "c").unlink()


def cut(run: Run) -> None:
    part = run.part("odd", "c")
    part.write_bytes(part.read_bytes()[:-9])


def same_size_and_time(run: Run) -> None:
    part = run.part("odd", "c")
    before, data = part.stat(), bytearray(part.read_bytes())
    data[-40] ^= 255  # in the footer
    part.write_bytes(data)
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))


def of_another(run: Run) -> None:
    run.part("odd", "d").replace(run.part("odd", "c"))


@pytest.mark.parametrize("change", [other, gone, cut, same_size_and_time, of_another])
def test_a_part_that_changed_is_read(run: Run, change: Callable[[Run], None]) -> None:
    before = run.receipt("odd", "c")
    change(run)
    found = [Ledger(run)("odd", key) for key in KEYS]
    assert found == [run.receipt("odd", key) for key in KEYS]
    assert found[1] != before


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def no_receipts(path: Path) -> None:
    table = parquet.read_table(path)
    for name in ("settings", "rest"):
        at = table.column_names.index(name)
        table = table.set_column(at, ledger._SCHEMA.field(name), pa.array(["[[1"] * table.num_rows))
    parquet.write_table(path, table)


def other_columns(path: Path) -> None:
    parquet.write_table(path, TABLE)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [Path.unlink, damaged, no_receipts, other_columns, a_folder])
def test_without_a_sound_index_the_answers_are_the_same(
    run: Run, change: Callable[[Path], None], opened: list[str]
) -> None:
    change(run.path / INDEX)
    with run.lock():
        known = Ledger(run)
        assert [known("odd", key) for key in KEYS] == [run.receipt("odd", key) for key in KEYS]
    assert sorted(opened) == ["a__b.parquet", "c.parquet", "d.parquet"]
    opened.clear()
    Ledger(run)("odd", "c")
    assert bool(opened) is (change is a_folder)  # written again, but where something else is in its place


def test_only_who_holds_the_run_folder_writes(run: Run) -> None:
    shutil.rmtree(run.path / ".receipts")
    Ledger(run)("odd", "c")
    assert not (run.path / ".receipts").exists()


def test_a_link_that_leads_elsewhere_is_not_written_through(run: Run, tmp_path: Path) -> None:
    shutil.rmtree(run.path / ".receipts")
    (tmp_path / "theirs").mkdir()
    (run.path / ".receipts").symlink_to(tmp_path / "theirs")
    with run.lock():
        assert Ledger(run)("odd", "c") == run.receipt("odd", "c")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_what_was_made_a_moment_ago_is_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    monkeypatch.setattr(ledger, "_SETTLED_SECONDS", 60.0)
    shutil.rmtree(run.path / ".receipts")
    with run.lock():
        Ledger(run)("odd", "c")
    opened.clear()
    Ledger(run)("odd", "c")
    assert len(opened) == 3


def test_a_stage_is_looked_at_again_when_it_is_forgotten(run: Run) -> None:
    known = Ledger(run)
    before = known("odd", "c")
    other(run)
    assert known("odd", "c") == before
    known.forget("odd")
    assert known("odd", "c") == replace(run.receipt("odd", "c") or receipt("c"))
