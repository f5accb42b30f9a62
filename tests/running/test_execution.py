"""Workers: what they do when a unit fails, dies, hangs, or the parent goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from mdfpipe.errors import DecodeError
from mdfpipe.running.execution import Event, LocalExecutor, Unit
from mdfpipe.stages import Context, Inputs, Made, Resources, Stage
from mdfpipe.store.run import Receipt, Run


class Odd(Stage):
    """A stage that does what the name of the video says."""

    name: ClassVar[str] = "odd"
    version: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    schema: ClassVar[pa.Schema] = pa.schema([pa.field("x", pa.int64())])

    def process(self, key: str, inputs: Inputs, context: Context) -> Made:
        context.progress(3, 10)
        if key.startswith("hang"):
            time.sleep(60)
        if key.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if key.startswith("killed"):
            context.scratch("half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        if key.startswith("damaged"):
            raise DecodeError("frame 7: does not decode")
        if key.startswith("bug"):
            return Made(pa.table({"x": [1 // 0]}))
        if key.startswith("wrong"):
            return Made(pa.table({"y": [1]}))
        if key.startswith("slow"):
            for n in range(8):
                time.sleep(0.4)
                context.progress(n, 8)
        return Made(pa.table({"x": pa.array([1], pa.int64())}), {"pid": os.getpid()})


def units(run: Run, *keys: str) -> list[Unit]:
    return [Unit(Odd(), Receipt("odd", 1, key, {}, {}), Inputs(run), run.path) for key in keys]


def run_all(path: Path, *keys: str, workers: int = 2) -> tuple[Run, dict[str, Event]]:
    run = Run(path)
    run.path.mkdir(exist_ok=True)
    with LocalExecutor(Resources(workers)) as executor:
        events = list(executor.run(units(run, *keys)))
    ends = {e.key: e for e in events if e.kind in ("finished", "failed")}
    assert [e.key for e in events if e.kind == "started"] == list(keys)
    return run, ends


def test_one_videos_trouble_is_not_anothers(tmp_path: Path) -> None:
    run, ends = run_all(tmp_path / "run", "a", "crash", "b", "killed", "damaged", "bug", "wrong", "c")
    assert {k for k, e in ends.items() if e.kind == "finished"} == {"a", "b", "c"}
    said = {k: e.failure.message for k, e in ends.items() if e.failure}
    assert said["damaged"] == "frame 7: does not decode"
    assert "ended unexpectedly (SIGSEGV) after frame 3" in said["crash"]
    assert "SIGKILL, perhaps out of memory" in said["killed"]
    assert said["bug"] == "unexpected error: ZeroDivisionError: integer division or modulo by zero"
    assert "its schema is" in said["wrong"]
    for key, message in said.items():
        failure = run.failure("odd", key)
        assert failure is not None
        assert failure.message == message
        assert run.receipt("odd", key) is None
    assert not list(run.path.rglob(".part-*"))  # not even of the one that was killed
    bug = run.failure("odd", "bug")
    assert bug is not None
    assert "1 // 0" in bug.traceback


def test_a_hang_is_killed_and_a_slow_one_is_not(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    with LocalExecutor(Resources(2, deadline_seconds=60)) as executor:
        assert {e.key for e in executor.run(units(run, "a", "b")) if e.kind == "finished"} == {"a", "b"}
        executor.crew.deadline_seconds = 2.0  # now that they are there: how long that takes is the machine's
        ends = {e.key: e for e in executor.run(units(run, "hang", "slow")) if e.kind in ("finished", "failed")}
    assert ends["hang"].failure is not None
    assert "no sign of progress for 2 s (--deadline)" in ends["hang"].failure.message
    assert ends["slow"].kind == "finished"


def test_workers_stay_for_the_next_stage(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    with LocalExecutor(Resources(1)) as executor:
        pids = {e.facts["pid"] for key in "abc" for e in executor.run(units(run, key)) if e.kind == "finished"}
    assert len(pids) == 1
    assert not alive(pids.pop())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_execution import units
from mdfpipe.running.execution import LocalExecutor
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
run = Run(Path({run!r}))
executor = LocalExecutor(Resources(2))
if __name__ == "__main__":
    for event in executor.run(units(run, "hang1", "hang2")):
        print(event.kind, *[w.process.pid for w in executor.spawned.present if w.process], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(tests=str(Path(__file__).parent), run=str(run)))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids: set[int] = set()
    progressed = 0
    while progressed < 2:  # both hang inside process()
        kind, *workers = parent.stdout.readline().split()
        progressed += kind == "progress"
        pids |= {int(w) for w in workers}
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)
