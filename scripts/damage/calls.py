"""System calls that fail: a full disk, a damaged one, at one of the calls that write; then the same command."""

from __future__ import annotations

import errno
import os
import random
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage.small import Case, Small, Verdict, run

from mdfpipe.errors import MdfError

CALLS = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "write")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
MOST = 400  # calls of a kind that a whole run makes, at most


def cases(small: Small) -> Callable[[random.Random], Case]:
    """A run from some stage on, one call failing; it must end in one line, and the next run with the same bytes."""
    stages = ("index", "detect", "crop", "manifest", "train", "embed", "evaluate")

    def draw(chance: random.Random) -> Case:
        call, number, first = chance.choice(CALLS), chance.choice(ERRORS), chance.choice(stages)
        which = int(10 ** chance.uniform(0, 2))

        def broken() -> Verdict:
            place = small.copy()
            shutil.rmtree(place / first)
            with failing(call, which, number) as made:
                try:
                    run(small.study, small.data, place)
                except MdfError as error:
                    if not str(error).isprintable():
                        return Verdict("traceback", repr(error))
                except Exception:
                    return Verdict("traceback", traceback.format_exc(limit=-4))
            verdict = small.judge(place)
            return verdict if made() >= which or verdict.what != "survived" else Verdict("survived", "not reached")

        return Case(f"{call} {errno.errorcode[number]}", f"{first}, call {which}", broken)

    return draw


class failing:  # noqa: N801 - used as a context
    """os.CALL fails at its n-th call, below the folder of the case or wherever it has no path."""

    def __init__(self, call: str, which: int, number: int) -> None:
        self.call, self.which, self.number, self.count = call, which, number, 0

    def __enter__(self) -> Callable[[], int]:
        self.real = getattr(os, self.call)

        def instead(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            if self.count == self.which:
                path = arguments[0] if arguments and isinstance(arguments[0], (str, Path)) else None
                raise OSError(self.number, os.strerror(self.number), *([str(path)] if path else []))
            return self.real(*arguments, **named)

        setattr(os, self.call, instead)
        return lambda: self.count

    def __exit__(self, *error: object) -> None:
        setattr(os, self.call, self.real)
