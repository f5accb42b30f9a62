"""What a user names is written whole, in place where it is no regular file, and never over what it is made from."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mdfpipe.errors import ConfigError, StoreError
from mdfpipe.store import outputs
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
        outputs.write(Path(f"/dev/fd/{file.fileno()}"), b"new")
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
            outputs.write(tmp_path / "run" / name, b"x")
    outputs.write(tmp_path / "run" / "page.html", b"x")
    assert table.read_bytes() == before


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "nowhere" / "a.csv"):
        with pytest.raises(StoreError, match="cannot be written"):
            outputs.write(out, b"x")
    with pytest.raises(TypeError), outputs.writing(tmp_path / "a") as file:
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
    outputs.refuse_folder(run / "evaluate" / "report")
    outputs.refuse_folder(run / "notes")
    outputs.refuse_folder(tmp_path / "new" / "folder")
