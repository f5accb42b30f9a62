"""Crew: what its workers report, how they fail, and that no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable

import pytest

from mdfpipe.errors import MdfError, MissingDependency, StoreError
from mdfpipe.running.crew import each


def square(number: int, tell: Callable[[int], None]) -> tuple[int, int]:
    tell(number)
    return number * number, os.getpid()


def fail(kind: str, tell: Callable[[int], None]) -> None:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)
    raise {
        "store": StoreError("no room"),
        "missing": MissingDependency("av", "encode"),
        "os": OSError(28, "No space left on device", "/x"),
        "value": ValueError("a\nb"),
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
        ("missing", Exception, "av"),
        ("os", OSError, "No space left on device"),
        ("value", ValueError, "a\nb"),
        ("killed", MdfError, "its process ended unexpectedly .SIGKILL, perhaps out of memory.; try fewer"),
        ("exit", MdfError, "its process ended unexpectedly .exit code 3."),
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
