"""What a user names is written whole, in place where it is no regular file, and never over what it is made from."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.learning.train.log import Log
from mdfpipe.store.environment import read_environment
from mdfpipe.store.files import bytes_of, opened, refuse_folder, write_output, writing
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.run import Run, read_receipt
from mdfpipe.study.study import Study
from tests.runs import call_here

ROWS = b'"x"\n1\n2\n'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_a_link_stays_and_what_it_leads_to_is_written(table: Path, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert call_here("inspect", table, "--csv", tmp_path / "link.csv").code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_bytes() == ROWS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.csv", "real.csv", "t.parquet"]


def test_a_pipe_and_a_device_are_written_in_place(table: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert call_here("inspect", table, "--csv", tmp_path / "pipe").code == 0
    reader.join(10)
    assert read == [ROWS]
    assert (tmp_path / "pipe").is_fifo()
    assert call_here("inspect", table, "--csv", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_holds_the_rows_and_nothing_else(table: Path, name: str) -> None:
    said = call_here("inspect", table, "--csv", name)
    assert (said.code, said.out.encode()) == (0, ROWS)
    assert "2 rows" in said.err
    assert not Path("-").exists()


def test_a_file_that_a_shell_opened_is_written_in_place(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w+b") as file:
        write_output(Path(f"/dev/fd/{file.fileno()}"), b"new")
        assert file.read() == b"new"


def test_nothing_is_written_over_what_is_read_or_over_a_part_of_a_run(table: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(table)
    before = table.read_bytes()
    for out in (table, tmp_path / "link"):
        assert "would overwrite what it inspects" in call_here("inspect", table, "--csv", out).line()
    (tmp_path / "run" / "detect").mkdir(parents=True)
    (tmp_path / "run" / "pipeline.yaml").write_text("name: a")
    (tmp_path / "run" / "detect" / "a.parquet").write_bytes(b"part")
    for name in ("pipeline.yaml", "detect/a.parquet"):
        with pytest.raises(ConfigError, match="is a file of a run folder"):
            write_output(tmp_path / "run" / name, b"x")
    write_output(tmp_path / "run" / "page.html", b"x")
    assert table.read_bytes() == before


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "nowhere" / "a.csv"):
        with pytest.raises(StoreError, match="cannot be written"):
            write_output(out, b"x")
    with pytest.raises(TypeError), writing(tmp_path / "a") as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["report", "synth", "eval"])
def test_a_folder_of_many_files_is_no_run_no_device_and_no_file(verb: str, tmp_path: Path) -> None:
    """Each is refused before anything is read or written; a link is judged by what it leads to."""
    run = tmp_path / "run"
    (run / "evaluate").mkdir(parents=True)
    (run / "pipeline.yaml").touch()
    (tmp_path / "link").symlink_to(run)
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    scored = ["eval", "--embeddings", tmp_path / "v.parquet", "--protocol", "market", "--out"]
    command = {"report": ["report", run, "--out"], "synth": ["synth", "--preset", "tiny"], "eval": scored}[verb]
    wrong = {
        "-": "got standard output",
        "/dev/stdout": "got standard output",
        "/dev/null": "got a pipe or a device",
        tmp_path / "pipe": "got a pipe or a device",
        tmp_path / "file": "got a file",
        tmp_path / "lost": "got a symbolic link that leads nowhere",
        run: "got a run folder",
        tmp_path / "link": "got a run folder",
        run / "evaluate" / "new": "got a part of the run",
    }
    for out, what in wrong.items():
        said = call_here(*command, out)
        assert (said.code, said.out) == (2, "")
        assert f"{out}: expected a folder" in said.err
        assert what in said.err
    assert not Path("-").exists()
    assert sorted(p.name for p in run.iterdir()) == ["evaluate", "pipeline.yaml"]
    assert (tmp_path / "file").read_text() == "mine"
    refuse_folder(run / "evaluate" / "report")
    refuse_folder(run / "notes")
    refuse_folder(tmp_path / "new" / "folder")


# -- regular files: a pipe, a device or a folder in the place of a file of a run is refused, and nobody waits for it

ODD: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    names = (
        "x",
        "environment.json",
        "events.jsonl",
        "pipeline.yaml",
        "part.parquet",
        "detect/failed/v.json",
        ".lock-000003",
    )
    (tmp_path / "detect/failed").mkdir(parents=True)
    for name in names:
        ODD[kind](tmp_path / name)
    for read in (opened, bytes_of, bytes_sha256):
        with pytest.raises(OSError, match=r"pipe, socket or device|folder"):
            read(tmp_path / "x")
    run = Run(tmp_path)
    assert read_environment(tmp_path) is None
    assert not list(run.events())
    assert read_receipt(tmp_path / "part.parquet") is None
    failure = run.failure("detect", "v")
    assert failure is not None
    assert failure.kind == "unknown"
    assert run.holder() is None
    with pytest.raises(ConfigError, match=r"pipeline\.yaml: expected the study that a run keeps"):
        Study.kept(tmp_path)
    with pytest.raises(StoreError, match=r"events\.jsonl: expected a file"), run.lock():
        pass


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_the_log_of_a_training_is_written_to_nothing_else(kind: str, tmp_path: Path) -> None:
    ODD[kind](tmp_path / "state.jsonl")
    with Log(tmp_path / "state.jsonl") as log:
        log({"epoch": 0, "step": 1})
    assert (tmp_path / "state.jsonl").read_text() == '{"epoch": 0, "step": 1}\n'
    assert not (tmp_path / "state.jsonl").is_symlink()


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    assert bytes_of(tmp_path / "link") == b"abc"
