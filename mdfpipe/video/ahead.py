"""Decode ahead: run an iterator in a thread of its own, a few items before its consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_DEPTH = 3  # items


def ahead(source: Iterable[T]) -> Iterator[T]:
    """The items of `source`, in order, up to three of them prepared while the consumer works.

    An error of the source is raised here, after the items before it. Closing the iterator stops the thread.
    """
    items, end = iter(source), object()
    with ThreadPoolExecutor(1, "decode-ahead") as thread:
        waiting: deque[Any] = deque(thread.submit(next, items, end) for _ in range(_DEPTH))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item
        finally:
            for one in waiting:
                one.cancel()
