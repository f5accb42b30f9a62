"""Folders that are missing, full, read-only or in use: one clear line, and the same command ends well afterwards."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = runs.DataSet(tmp_path_factory.mktemp("places") / "data")
    for name in ("good_a.mp4", "good_b.mp4"):
        made.good(name)
    made.write()
    return made.root


@pytest.fixture(scope="module")
def expected(data: Path) -> dict[str, str]:
    """The tables and shards of a run that nothing hinders."""
    run = data.parent / "expected"
    assert runs.run(data, run).code == 0
    return runs.digests(run)


@pytest.mark.parametrize("what", ["data", "study"])
def test_what_is_not_there_is_named(data: Path, tmp_path: Path, what: str) -> None:
    study = data / "nowhere.yaml" if what == "study" else data / "study.yaml"
    root = {"data": tmp_path / "nowhere", "study": data}[what]
    line = runs.call_here("run", study, "--data", root, "--run", tmp_path / "run").line()
    assert str(study if what == "study" else root) in line
    assert not (tmp_path / "run").exists()


def in_tmpfs(script: str, place: Path) -> str:
    """What a shell script says that runs with a tmpfs of its own at `place`, of a size to be set. Or skips."""
    place.mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=runs.ROOT, capture_output=True, text=True, check=False
    )
    for sign in ("Operation not permitted", "unshare failed", "must be superuser", "unshare: "):
        if sign in done.stderr:
            pytest.skip(f"user namespaces are not to be had here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def command(data: Path, run: Path) -> str:
    return (
        f"{sys.executable} -m mdfpipe run {data}/study.yaml --data {data} --run {run} --threads 1"
        " 2>&1 >/dev/null; echo exit $?"
    )


def errors(said: str) -> list[str]:
    """The lines of a call that are not of finished units, nor of the progress that a slow machine shows."""
    return [line for line in said.splitlines() if not line.startswith("done ") and not re.search(r": \d+/\d+ ", line)]


def test_a_full_disk_is_one_line_and_no_half_part(data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    """Full at every place: settings, face tables, parts, shards. With space, the same command ends as ever."""
    disk, run = tmp_path / "disk", tmp_path / "disk" / "run"
    larger = "".join(
        f"""mount -o remount,size={size} {disk}
        echo ==
        {command(data, run)}
        """
        for size in ("28k", "140k", "64m")
    )
    said = in_tmpfs(
        f"""mount -t tmpfs -o size=8k tmpfs {disk}
        {command(data, run)}
        {larger}
        cp -r {run} {tmp_path}/kept""",
        disk,
    )
    *full, freed = said.split("==\n")
    assert runs.digests(tmp_path / "kept") == expected
    assert not list((tmp_path / "kept").rglob(".part-*"))
    assert errors(freed) == ["exit 0"]
    for one in full:
        line, end = errors(one)
        assert end == "exit 2"
        assert line.startswith("mdfpipe: ")
        assert "cannot be written: " in line
        assert "No space left on device; free some space" in line


@pytest.mark.usefixtures("expected")
def test_a_read_only_folder_is_one_line_and_may_be_looked_at(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    said = in_tmpfs(
        f"""mount -t tmpfs -o size=64m tmpfs {disk}
        cp -r {data.parent / "expected"} {disk / "run"}
        mount -o remount,ro {disk}
        {command(data, disk / "run")}
        echo ==
        {command(data, disk / "other")}
        echo ==
        {sys.executable} -m mdfpipe status {disk}/run 2>&1; echo exit $?""",
        disk,
    )
    again, other, status = said.split("==\n")
    assert errors(again) == ["exit 0"]  # nothing is due
    line, end = errors(other)
    assert end == "exit 2"
    assert line.startswith("mdfpipe: ")
    assert "cannot be written: Read-only file system; choose a --run folder that can be written" in line
    assert status.endswith("exit 0\n")


HELD = """
import sys, time
from pathlib import Path
from mdfpipe.store.run import Run
with Run(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_commands_at_once_the_second_says_who_holds_the_folder(data: Path, tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        line = runs.run(data, tmp_path / "run").line()
        assert f"{tmp_path / 'run'}: in use by process {holder.pid} on " in line
        assert "; wait for it, end it, or take another --run folder" in line
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert runs.run(data, tmp_path / "run").code == 0


def test_a_command_given_twice_at_once_ends_well_once(data: Path, expected: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    base = [sys.executable, "-m", "mdfpipe", "run", str(data / "study.yaml"), "--data", str(data)]
    both = [
        subprocess.Popen([*base, "--run", str(run)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    said = {p.communicate()[1]: p.returncode for p in both}
    assert sorted(said.values()) == [0, 2], said
    (line,) = [text for text, code in said.items() if code == 2]
    assert line.startswith(f"mdfpipe: {run}: in use by ")
    assert line.count("\n") == 1
    assert runs.digests(run) == expected
