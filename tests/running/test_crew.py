"""Crew: what its workers report, how they fail, and that no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from multiprocessing.popen_spawn_posix import Popen
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mdfpipe.errors import MdfError, MissingDependency, StoreError
from mdfpipe.running import crew as crew_file
from mdfpipe.running.crew import Crew, each
from mdfpipe.running.workers import Step
from mdfpipe.running.workers.spawned import Spawned


def square(number: int, tell: Callable[[int], None]) -> tuple[int, int]:
    tell(number)
    return number * number, os.getpid()


def await_file(path: Path, tell: Callable[[int], None]) -> None:
    while not path.exists():
        time.sleep(0.01)


class Strange(Exception):  # noqa: N818 - a library's, which does not come back from its own pickle
    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}, {number}")


def fail(kind: str, tell: Callable[[int], None]) -> object:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)
    if kind == "real-time signal":
        os.kill(os.getpid(), 40)
    if kind == "result":
        return lambda: None
    raise {
        "store": StoreError("no room"),
        "missing": MissingDependency("av", "encode"),
        "os": OSError(28, "No space left on device", "/x"),
        "value": ValueError("a\nb"),
        "strange": Strange("a", 2),
        "memory": MemoryError(),
    }[kind]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_unit_is_done_once(workers: int) -> None:
    told: list[int] = []
    found = list(each(square, [(n,) for n in range(7)], told.append, workers=workers))
    assert sorted(n for n, _ in found) == [n * n for n in range(7)]
    assert sorted(told) == list(range(7))
    assert (os.getpid() in {process for _, process in found}) == (workers == 1)
    assert not multiprocessing.active_children()


def test_nothing_to_do_starts_nobody() -> None:
    assert list(each(square, [], print, workers=4)) == []


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("store", StoreError, "no room"),
        ("missing", MissingDependency, "encode needs the package av"),
        ("os", OSError, r"\[Errno 28\] No space left on device: '/x'"),
        ("value", ValueError, "a\nb"),
        ("strange", RuntimeError, "Strange: a, 2"),
        ("memory", MemoryError, "MemoryError"),
        ("result", Exception, "pickle"),
        ("killed", MdfError, "its process ended unexpectedly .SIGKILL, perhaps out of memory.; try fewer"),
        ("exit", MdfError, "its process ended unexpectedly .exit code 3."),
        ("real-time signal", MdfError, "its process ended unexpectedly .signal 40."),
    ],
)
def test_the_first_failure_ends_it_all(kind: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        list(each(fail, [(kind,)] * 3, print, workers=2))
    assert not multiprocessing.active_children()


def test_a_caller_who_has_enough_leaves_no_process() -> None:
    results = each(square, [(n,) for n in range(50)], lambda number: None, workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_cannot_be_started_is_one_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = 0

    def start(process: BaseProcess) -> Popen:
        nonlocal starts
        starts += 1
        if starts > number:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return Popen(process)

    monkeypatch.setattr(SpawnProcess, "_Popen", staticmethod(start))
    with pytest.raises(MdfError, match="cannot be started: Resource temporarily unavailable; try fewer workers"):
        list(each(square, [(n,) for n in range(3)], print, workers=2))
    assert not multiprocessing.active_children()


def test_time_in_which_the_parent_was_stopped_is_no_workers_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_file, "LONGEST_LOOK_SECONDS", 0.1)
    late = tmp_path / "late"

    def watch() -> None:
        if not late.exists():
            time.sleep(1.2)
            late.touch()

    with Crew(Spawned(1)) as crew:
        assert list(crew.run(await_file, [(tmp_path,)]))[-1].kind is Step.DONE
        crew.deadline_seconds = 1.0  # now that the process is there: how long that takes is the machine's
        assert [report.kind for report in crew.run(await_file, [(late,)], watch)] == [Step.BEGUN, Step.DONE]
