"""The lock holds between processes, machines and file systems; only what dead processes left is cleared."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest

from mdfpipe.errors import StoreError
from mdfpipe.running.execution import LocalExecutor
from mdfpipe.stages import Resources
from mdfpipe.store import lock as locks
from mdfpipe.store import owner
from mdfpipe.store.lock import Lock
from mdfpipe.store.owner import Life, Owner, is_left_over, temporary
from mdfpipe.store.run import Receipt, Run
from tests.running.test_execution import units

HERE = Owner.new()
ELSEWHERE = replace(
    HERE, host="n2", machine="m2", boot="b2", pid=77, job="Slurm job 34", since="2026-11-01T10:00:00+00:00"
)
DEAD = replace(HERE, began="1")  # this process's PID, used before
SAID = "process 77 on n2 (Slurm job 34) since 2026-11-01 10:00:00 UTC"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "run" / "odd").mkdir(parents=True)
    return Run(tmp_path / "run")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.05, "LEASE": 0.4, "LOOK": 0.02, "PATIENCE": 0.1}.items():
        monkeypatch.setattr(locks, name, seconds)


@pytest.fixture(params=["works", "does nothing", "ENOSYS", "no links"])
def flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems: with flock, with one that lets everybody in, without, and without hard links either."""

    def refuse(number: int) -> None:
        raise OSError(number, os.strerror(number))

    if request.param == "does nothing":
        monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    elif request.param != "works":
        monkeypatch.setattr(fcntl, "flock", lambda file, how: refuse(errno.ENOSYS))
    if request.param == "no links":
        monkeypatch.setattr(os, "link", lambda source, target: refuse(errno.EPERM))
    return str(request.param)


def record(run: Run, of: Owner, number: int = 7) -> Path:
    place = run.path / f".lock-{number:06d}"
    whole = run.path / "record"  # as with `link`: a record is never seen half written
    whole.write_text(json.dumps({**asdict(of), "flock": 0}))
    whole.replace(place)
    return place


def records(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.glob(".lock-*"))


def left(run: Run, of: Owner, monkeypatch: pytest.MonkeyPatch, name: str = "x.parquet") -> Path:
    """A file that the process `of` left unfinished in a stage's folder."""
    fields = (of.host, of.machine, of.boot, of.space, of.pid, of.began)
    with monkeypatch.context() as patched:
        patched.setattr("mdfpipe.store.owner._identity", lambda pid: fields)
        place = temporary(run.path / "odd" / name)
    place.write_bytes(b"half")
    return place


# -- one at a time


def test_it_is_held_until_it_is_given_back(run: Run, flock: str) -> None:
    for number in (1, 2, 3):
        with run.lock():
            assert run.holder() is not None
            assert records(run) == [f".lock-{number:06d}"]
            with (
                pytest.raises(StoreError, match=rf"in use by process {os.getpid()} on \S+ .*; wait for it"),
                run.lock(),
            ):
                pass
        assert run.holder() is None


TAKERS = """
import errno, os, sys, time
from pathlib import Path
from mdfpipe.errors import StoreError
from mdfpipe.store import lock
def one(folder, how, start, done, end):
    taker = lock.Lock(folder)
    lock.fcntl.flock = {"works": lock.fcntl.flock, "nothing": lambda file, way: None}[how]
    if how == "nothing" and os.getpid() % 2:
        lock.os.link = refuse
    os.read(start, 1)
    try:
        taker.take()
    except StoreError as error:
        assert "in use by" in str(error), error
        os.write(done, b"0")
        return
    os.write(done, b"1")
    os.read(end, 1)
def refuse(source, target):
    raise OSError(errno.EPERM, "no links")
for round in range(int(sys.argv[2])):
    folder = Path(sys.argv[1], str(round))
    folder.mkdir()
    if round % 3:
        (folder / ".lock-000004").write_bytes(Path(sys.argv[3]).read_bytes() if round % 3 == 1 else b"released")
    how = ("works", "nothing", "nothing")[round % 3]
    (go, start), (heard, done), (end, ended) = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(8):
        if not (pid := os.fork()):
            os.close(start), os.close(ended)  # else they would wait for each other if this process ended
            one(folder, how, go, done, end)
            os._exit(0)
        children.append(pid)
    os.write(start, b"x" * 8)
    said = b""
    while len(said) < 8:
        said += os.read(heard, 8)
    os.write(ended, b"x" * 8)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert (said.count(b"1"), codes) == (1, [0] * 8), (round, how, said, codes, os.listdir(folder))
print("one each time")
"""


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """Free, of a dead owner, and given back; with and without flock and links. Eight processes, again and again."""
    dead = tmp_path / "dead"
    dead.write_text(json.dumps({**asdict(DEAD), "pid": 2**22 + 1, "flock": 0}))
    command = [sys.executable, "-c", TAKERS, str(tmp_path), "12", str(dead)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "one each time\n", done.stderr


def test_one_who_was_slow_to_look_gets_nothing(run: Run) -> None:
    """Number 7 was followed by 8, that by 9, and 8 cleared: a second 8 would be made without trouble."""
    record(run, replace(HERE, secret="other"), 9)
    taker = Lock(run.path)
    assert taker._make(8, locks._Flock.NONE) is None
    assert records(run) == [".lock-000009"]


# -- who is dead


@pytest.mark.parametrize(
    "former",
    [
        DEAD,
        replace(HERE, pid=2**22 + 1),
        replace(HERE, boot="the boot before", machine="m", space="pid:[4026531836]"),
    ],
    ids=["its PID is used again", "no such PID", "another boot"],
)
def test_a_dead_owner_of_this_machine_holds_nothing(
    run: Run, flock: str, former: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    if former.machine == "m":  # a machine with an id of its own, on which this is no container
        fields = (HERE.host, "m", HERE.boot, former.space, HERE.pid, HERE.began)
        monkeypatch.setattr("mdfpipe.store.owner._identity", lambda pid: fields)
    place = record(run, former)
    assert former.life is Life.DEAD
    assert run.holder() is None
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with run.lock():
        assert records(run) == [".lock-000008"]
    assert not place.exists()


@pytest.mark.parametrize(
    "former",
    [ELSEWHERE, replace(HERE, space="pid:[1]", pid=1), replace(HERE, boot="other", machine="", space="pid:[1]")],
    ids=["another host", "a container here", "a container of this name elsewhere"],
)
def test_an_owner_elsewhere_is_watched(run: Run, former: Owner) -> None:
    """Alive as long as its record changes; silent for a lease, it is taken over, and that is said."""
    place = record(run, former)
    assert former.life is Life.UNKNOWN
    assert run.holder() is not None
    beating = [sys.executable, "-c", "import os, sys, time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.05)", place]
    before = place.stat().st_mtime_ns
    with subprocess.Popen(beating) as process:
        try:
            while place.stat().st_mtime_ns == before:
                assert process.poll() is None
                time.sleep(0.02)
            with pytest.raises(StoreError) as raised, run.lock():
                pass
        finally:
            process.kill()
    assert str(raised.value) == f"{run.path}: in use by {former}; wait for it, end it, or take another --run folder"
    before = time.monotonic()
    with run.lock():
        assert time.monotonic() - before >= 0.4
        assert records(run) == [".lock-000008"]


def test_a_takeover_is_said(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    record(run, ELSEWHERE)
    with run.lock():
        pass
    waiting, taken = (entry.getMessage() for entry in caplog.records)
    assert waiting.startswith(f"mdfpipe: {run.path}: was last used by {SAID}; waiting 0 s")
    assert waiting.endswith(" s for a sign of life")
    assert taken == f"mdfpipe: {run.path}: taken over from {SAID}, which gave no sign of life"


def test_the_flock_of_a_killed_container_tells_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.lock():
        pass
    former, inode = replace(HERE, space="pid:[1]", pid=1), (run.path / ".lock").stat().st_ino
    (run.path / ".lock-000002").write_text(json.dumps({**asdict(former), "flock": inode}))
    monkeypatch.setattr(locks, "LEASE", 60)
    with run.lock():
        assert records(run) == [".lock-000003"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": 3, "pid": "x"}', b"\xff\x00"])
def test_a_record_that_cannot_be_read_is_watched(run: Run, content: bytes) -> None:
    (run.path / ".lock-000002").write_bytes(content)
    before = time.monotonic()
    with run.lock():
        assert time.monotonic() - before >= 0.4


def test_a_version_without_records_is_kept_out_and_keeps_out(run: Run) -> None:
    with (run.path / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 12")
        file.flush()
        assert str(run.holder()) == "in use by process 12"
        with pytest.raises(StoreError, match="in use by process 12; wait for it"), run.lock():
            pass
    assert run.holder() is None
    with run.lock(), (run.path / ".lock").open("a+") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert file.seek(0) == 0
        assert file.read() == f"process {os.getpid()}"


def test_copies_that_srun_started_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_PTY_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        run.lock(),
        pytest.raises(StoreError, match="; srun started this command 2 times: start it once; or "),
        run.lock(),
    ):
        pass


# -- who lost it


def take_over(run: Run) -> None:
    """As if this process had been suspended for long, and another host had gone on."""
    number = int(records(run)[-1].removeprefix(".lock-"))
    record(run, replace(ELSEWHERE, secret="another"), number + 1)


LOST = r"was taken over by process 77 on n2 \(Slurm job 34\).*, as this process gave no sign of life"


def test_who_lost_it_commits_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT", 60)  # no heartbeat tells it in time
    table, receipt = pa.table({"x": [1]}), Receipt("odd", 1, "a", {}, {})
    with run.lock():
        before = run.commit(receipt, table, {})
        assert run.receipt("odd", "a") == before
        take_over(run)
        with pytest.raises(StoreError, match=LOST):
            run.commit(replace(receipt, version=2), table, {})
        with pytest.raises(StoreError, match=LOST):
            run.event("call")
    assert run.receipt("odd", "a") == before
    assert sorted(path.name for path in (run.path / "odd").iterdir()) == ["a.parquet"]
    assert json.loads((run.path / records(run)[-1]).read_text())["host"] == "n2"  # it gave back nothing of another's


@pytest.mark.parametrize("how", ["followed", "deleted", "replaced"])
def test_the_heartbeat_finds_out(run: Run, how: str) -> None:
    with run.lock():
        if how == "followed":
            take_over(run)
        elif how == "deleted":
            (run.path / ".lock-000001").unlink()
        else:
            record(run, ELSEWHERE, 1)
        words = (
            LOST
            if how == "followed"
            else r"this process's record \.lock-000001 was deleted or replaced; this one stops"
        )

        def watch() -> None:
            for _ in range(500):  # a heart that beats every 0.05 s, on a machine that may be busy
                time.sleep(0.02)
                run.check_lock()

        with pytest.raises(StoreError, match=words):
            watch()


def test_a_run_that_lost_it_ends_though_its_workers_are_deep_in_work(run: Run) -> None:
    def work() -> None:
        with run.lock(), LocalExecutor(Resources(1)) as executor:
            for event in executor.run(units(run, "hang")):
                if event.kind == "progress":
                    take_over(run)

    before = time.monotonic()
    with pytest.raises(StoreError, match=LOST):
        work()
    assert time.monotonic() - before < 20  # the unit sleeps for a minute


def test_a_child_that_was_forked_gives_nothing_back(run: Run) -> None:
    lock = Lock(run.path)
    lock.take()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert run.holder() is not None
    lock.release()
    assert run.holder() is None


# -- temporary files


def test_only_what_dead_processes_left_is_cleared(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        alive = left(run, replace(HERE, pid=other.pid, began=began), monkeypatch)
        kept = [
            alive,
            left(run, ELSEWHERE, monkeypatch),
            left(run, replace(HERE, space="pid:[1]", pid=2**22 + 1), monkeypatch),
            run.path / "odd" / ".part-77-of an earlier version",
            run.path / "odd" / ".part-mine",
        ]
        for place in kept:
            place.touch()
        left(run, replace(HERE, pid=2**22 + 1), monkeypatch)
        left(run, replace(HERE, pid=other.pid), monkeypatch)  # its PID is another's now
        with run.lock():
            assert sorted((run.path / "odd").iterdir()) == sorted(kept)
        other.communicate(b"\n")
    assert is_left_over(alive.name)
    with run.lock():
        assert sorted((run.path / "odd").iterdir()) == sorted(kept[1:])


def test_what_an_owner_elsewhere_left_goes_with_its_lock(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = record(run, ELSEWHERE).stat().st_mtime
    places = {name: left(run, ELSEWHERE, monkeypatch, name) for name in ("before", "after")}
    other = left(run, replace(ELSEWHERE, host="n3"), monkeypatch)
    os.utime(places["after"], (ended + 100, ended + 100))  # another process there lived on
    with run.lock():
        assert sorted((run.path / "odd").iterdir()) == sorted([places["after"], other])


@pytest.mark.parametrize("host", ["h" * 64, "knoten-ä.ü/../x", "a b\n'\"$*", "", "."])
@pytest.mark.parametrize("name", ["x.parquet", "ä" * 120 + ".parquet", "\udcff" * 200, "a\\b:c*.tar"])
def test_names_fit_every_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    monkeypatch.setattr("mdfpipe.store.owner._identity", owner._identity.__wrapped__)
    place = temporary(tmp_path / name)
    assert place.parent == tmp_path
    assert place.name.isprintable() or "\udcff" in name
    assert len(os.fsencode(place.name)) <= 143  # the fewest that a file system in use allows
    assert place.suffix == Path(name).suffix
    assert not is_left_over(place.name)
    assert temporary(tmp_path / name) != place
    place.touch()


# -- for real


PRELOADED = """
#define _GNU_SOURCE
#include <errno.h>
int flock(int file, int how) { %s }
"""
COMMAND = """
import sys
from pathlib import Path
from mdfpipe.store import lock
lock.BEAT, lock.LEASE, lock.LOOK = 0.1, 1.0, 0.1
taker = lock.Lock(Path(sys.argv[1]))
try:
    taker.take()
except Exception as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    sys.stdin.readline()
    taker.release()
"""


@pytest.fixture(scope="module", params=["return 0;", "errno = ENOSYS; return -1;"], ids=["no-op", "ENOSYS"])
def without_flock(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that takes flock's place in a whole process."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("NOT TESTED: flock replaced in a whole process, for which one needs Linux and a C compiler, `cc`")
    folder = tmp_path_factory.mktemp("flock")
    (folder / "flock.c").write_text(PRELOADED % request.param)
    made = [compiler, "-shared", "-fPIC", "-o", str(folder / "flock.so"), str(folder / "flock.c")]
    subprocess.run(made, check=True, capture_output=True)
    return folder / "flock.so"


def test_two_machines_and_no_flock(run: Run, without_flock: Path) -> None:
    """One works; one on another host, and one on its own, are refused; it is killed, and both may go on in turn."""

    def command(host: str) -> subprocess.Popen[str]:
        env = {**os.environ, "LD_PRELOAD": str(without_flock), "MDFPIPE_HOST": host, "SLURM_JOB_ID": "34"}
        words = [sys.executable, "-c", COMMAND, str(run.path)]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env, text=True)

    def says(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    with command("n1") as first:
        assert says(first) == "held\n"
        for host in ("n1", "n2"):
            with command(host) as second:
                words = f"{run.path}: in use by process {first.pid} on n1 (Slurm job 34) since "
                assert says(second).startswith(words)
        first.kill()
    with command("n1") as again:
        assert says(again) == "held\n"
        again.kill()
    with command("n2") as other:
        assert says(other) == "held\n"
        other.communicate("\n")
    assert records(run) == [".lock-000003"]
    assert run.holder() is None


def test_an_owner_is_printed_and_not_obeyed() -> None:
    said = str(replace(HERE, host="\x1b]0;P\x07", job="\u2066x\u2069", since="\x1b[2J"))
    assert said.isprintable(), said
