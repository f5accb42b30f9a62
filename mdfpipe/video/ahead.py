"""Decode ahead: run an iterator in a thread of its own, a few items before its consumer; work in one between two."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")
_DEPTH = 3  # items


def ahead(source: Iterable[T], depth: int = _DEPTH) -> Iterator[T]:
    """The items of `source`, in order, up to `depth` of them prepared while the consumer works.

    An error of the source is raised here, after the items before it. Closing the iterator stops the thread.
    """
    items, end = iter(source), object()
    with ThreadPoolExecutor(1, "decode-ahead") as thread:
        waiting: deque[Any] = deque(thread.submit(next, items, end) for _ in range(depth))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            for one in waiting:
                one.cancel()


def in_turn(run: Callable[[S], T], items: Iterable[S]) -> Iterator[tuple[S, T]]:
    """Items and what `run` makes of each, in order. While it runs on one, the next is made and the one before is used.

    An error of `items` is raised here, after the items before it. It runs in one thread, the same for all calls of a
    process: libraries keep threads of their own for each that they are called from. So `run` must not call this one.
    """
    source, end = iter(items), object()
    running: tuple[S, Future[T]] | None = None
    while True:
        trouble: Exception | None = None
        try:
            item: Any = next(source, end)
        except Exception as error:
            item, trouble = end, error
        before = (running[0], running[1].result()) if running else None
        running = None if item is end else (item, _worker().submit(run, item))
        if before is not None:
            yield before
        if trouble is not None:
            raise trouble
        if item is end:
            return


@cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "network")


os.register_at_fork(
    after_in_child=_worker.cache_clear
)  # a child has the pool without its thread, and would wait for it
