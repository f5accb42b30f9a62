"""Gathering that is killed, at whatever moment, ends with the bytes of one that nobody disturbed.

A process of its own forks: each child begins the study and gets SIGKILL at one moment of `crop`, in the midst of a
shard, or at each of the writes of its first commit; the next child gives the same command again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdfpipe.store.run import Run
from mdfpipe.store.shards import ShardWriter
from tests.datasets import made_benchmarks as made
from tests.stages.test_gather import digests, pipeline, run

SELF = "import sys; from tests.stages.test_gather_kill import main; main(sys.argv[1])"
IMAGES = (4,)  # of the first unit, which has 10
# What its commit makes durable: 1 the shard (closed) and 2 again (named in the receipt), 3 the table under a temporary
# name, 4 the folder without the former part, 5 the folder with the shard in its place, 6 the same with the table, which
# makes the part valid. 7 is the next unit's. 2 finds what 1 finds.
WRITES = (1, 3, 4, 5, 6, 7)


def main(place: str) -> None:
    """Kill at every moment, finish, and say what happened in a line each."""
    for name, number in [("image", n) for n in IMAGES] + [("write", n) for n in WRITES]:
        home = Path(place) / f"{name}{number}"
        home.mkdir()
        (home / "data").symlink_to(Path(place) / "data")
        killed = forked(lambda home=home, name=name, number=number: run(deadly(name, number), home))
        left = sorted(p.name for p in (home / "run/crop").iterdir())
        again = forked(lambda home=home: run(pipeline("sysu"), home))
        print(f"{name} {number} {killed} {again} {' '.join(left)}", flush=True)


def forked(work: Callable[[], object]) -> int:
    """Do it in a child; 0, or less the signal that ended it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def deadly(name: str, number: int) -> Any:
    """The study, in a process that dies at an image, or at a write of what `crop` makes."""
    add, sync, count = ShardWriter.add, os.fsync, 0

    def die() -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def adds(self: ShardWriter, *arguments: Any) -> tuple[int, int]:
        die()
        return add(self, *arguments)

    def syncs(handle: int) -> None:
        if "/crop" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            die()
        sync(handle)

    if name == "image":
        ShardWriter.add = adds  # type: ignore[method-assign]
    else:
        os.fsync = syncs  # type: ignore[assignment]
    return pipeline("sysu")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    made.write_sysu(tmp_path / "data", train=2, val=1, test=2, images=2, cameras=(1, 2, 3))
    assert run(pipeline("sysu"), tmp_path)[0].complete
    expected = digests(tmp_path / "run")
    (tmp_path / "kills").mkdir()
    (tmp_path / "data").rename(tmp_path / "kills/data")
    done = subprocess.run(
        [sys.executable, "-c", SELF, str(tmp_path / "kills")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:4] for line in lines] == [
        [name, str(n), str(-signal.SIGKILL), "0"]
        for name, kills in (("image", IMAGES), ("write", WRITES))
        for n in kills
    ]
    left = {" ".join(line[:2]): line[4:] for line in lines}
    found = {name: [file.split("-")[0] for file in files] for name, files in left.items()}
    assert found["image 4"] == [".part"]
    assert found["write 4"] == [".part", ".part"]  # nothing is in its place before all of it is on the disk
    assert found["write 5"] == [".part", "cam1.body.tar"]  # the shard, and the table that is still to name it
    assert found["write 6"] == ["cam1.body.tar", "cam1.parquet"]
    for name in left:
        folder = tmp_path / "kills" / name.replace(" ", "") / "run"
        assert digests(folder) == expected, name
        assert not list(folder.rglob(".part-*"))
        assert Run(folder).table("manifest", "manifest").num_rows == 30
