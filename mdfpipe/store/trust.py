"""Whether weights may be opened with pickle, which can run any code: never, unless a call allows it.

Trust is given to one call (`--trust-pickle`), by the person who types it. It is no setting: a study, a run folder and a
receipt come from others, and cannot give it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


def is_trusted() -> bool:
    """Whether this call trusts who made its weights."""
    return _trusted.get()


@contextmanager
def trusting(pickles: bool) -> Iterator[None]:
    """Trust, or do not, who made the weights that are opened in this context."""
    before = _trusted.set(pickles)
    try:
        yield
    finally:
        _trusted.reset(before)
