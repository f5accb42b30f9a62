"""System calls that fail: each kind, at any time of a command; a disk that is full after so many bytes.

The command runs in this process, so that Arrow, torch and Python meet the same failures. It must end in one line, or
well; then the same command must end with the same bytes.
"""

from __future__ import annotations

import errno
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from damage import shim
from damage.small import Case, Small, Verdict, command, forked, in_child

FAILS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("make", "mkdir", "link"), (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)),
    **dict.fromkeys(("write", "cut"), (errno.ENOSPC, errno.EIO, errno.EDQUOT)),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "rename": (errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC),
    "unlink": (errno.EIO, errno.EROFS, errno.EACCES),
    "close": (errno.EIO, errno.EDQUOT),
    "open": (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE),
    "read": (errno.EIO, errno.ESTALE),
    "list": (errno.EIO, errno.EACCES, errno.ESTALE),
    "stat": (errno.EIO, errno.EACCES, errno.ESTALE),
}
STAGES = ("index", "detect", "crop", "manifest", "train", "embed", "evaluate")


def cases(small: Small) -> Callable[[random.Random], Case]:
    """A run from some stage on, with some call failing, once or from then on."""
    made = {first: forked(lambda first=first: counted(small, first))[0] for first in STAGES}  # type: ignore[misc]

    def draw(chance: random.Random) -> Case:
        first = chance.choice(STAGES)
        if made[first]["room"] and chance.random() < 0.15:
            room = chance.randrange(made[first]["room"])
            return Case("disk full", f"{first}, after {room} bytes", lambda: _broken(small, first, room=room))
        call = chance.choice([name for name in FAILS if made[first][name]])
        number, which = chance.choice(FAILS[call]), chance.randint(1, made[first][call])
        mode = chance.choice((shim.ONCE, shim.ONCE, shim.FROM_THEN_ON))
        where = f"{first}, call {which}{' and all that follow' if mode else ''}"
        return Case(
            f"{call} {errno.errorcode[number]}", where, lambda: _broken(small, first, call, which, number, mode)
        )

    return draw


def begun(small: Small, first: str) -> Path:
    """A copy of the finished run from which one stage and its results are gone."""
    place = small.copy()
    shutil.rmtree(place / first)
    return place


def counted(small: Small, first: str) -> Mapping[str, int]:
    """How many calls of each kind such a run makes."""
    place = begun(small, first)
    shim.arm(place)
    said = command("run", small.study, "--data", small.data, "--run", place, "--threads", 1)
    assert said[0] == 0, said
    return shim.counted()


def _broken(
    small: Small, first: str, call: str = "", which: int = 0, number: int = 0, mode: int = 0, room: int = -1
) -> Verdict:
    place = begun(small, first)

    def run() -> tuple[int, str]:
        shim.arm(place, call, which, number, mode, room)
        try:
            return command("run", small.study, "--data", small.data, "--run", place, "--threads", 1)
        finally:
            shim.disarm()

    said, ended = forked(run)
    if isinstance(said, Verdict):
        return said
    if said is None:
        return Verdict("traceback", f"the process ended: {ended}")
    done = said[0] == 0 and call != "unlink"  # what could not be removed goes with the next call
    return said_well(said[0], said[1], place) or in_child(lambda: small.compared(place) if done else small.judge(place))


def said_well(code: int, said: str, place: Path) -> Verdict | None:
    """None where a command ended with a documented code and printable lines that name a file of the run."""
    if code not in (0, 2, 3, 130, 143) or re.search("Traceback|unexpected error|Exception ignored", said):
        return Verdict("traceback", f"exit {code}: {said[-1500:]}")
    lines = said.splitlines()
    if not all(line.isprintable() for line in lines):
        return Verdict("traceback", f"not printable: {said!r:.600}")
    if code in (2, 3) and not any(place.name in line or "failed" in line for line in lines):
        return Verdict("dead end", f"exit {code}, and no file is named: {said[-600:]}")
    return None
