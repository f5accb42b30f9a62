"""SIGKILL at any call that changes a file, and the power that fails there; real commands, their workers and groups that
are killed, terminated and interrupted at random moments; then the same command.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from damage import shim
from damage.calls import begun, counted, said_well
from damage.files import damage
from damage.small import Case, Small, Verdict, command, forked, in_child

WHOM = ("command", "worker", "group")
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
STAGES = ("index", "detect", "crop", "train", "embed", "evaluate")
REAL = 0.06  # of all cases: a command in processes of its own takes some seconds
LOST = ("half", "zeros", "empty")


def cases(small: Small) -> Callable[[random.Random], Case]:
    """A run from some stage on that ends anywhere."""
    made = {first: forked(lambda first=first: counted(small, first))[0]["any"] for first in STAGES}  # type: ignore[misc]

    def draw(chance: random.Random) -> Case:
        first = chance.choice(STAGES)
        if chance.random() < REAL:
            whom, name, workers = chance.choice(WHOM), chance.choice(SIGNALS), chance.choice((1, 2))
            after = chance.uniform(0, 4) if chance.random() < 0.7 else chance.uniform(-4, 0)
            where = f"{first} after {after:.2f} s, {workers} workers"
            return Case(f"{name} {whom}", where, lambda: real(small, first, whom, name, workers, after))
        which, lost, seed = chance.randint(1, made[first]), chance.choice((None, *LOST)), chance.random()
        kind = f"power cut, {lost}" if lost else "SIGKILL at a call"
        return Case(kind, f"{first}, call {which}", lambda: _at_call(small, first, which, lost, seed))

    return draw


def _at_call(small: Small, first: str, which: int, lost: str | None, seed: float) -> Verdict:
    """End at that call; then some of the files that nobody synced are not what was written."""
    place, chance = begun(small, first), random.Random(seed)  # noqa: S311 - to be drawn again

    def run() -> None:
        shim.arm(place, "any", which, mode=shim.KILL)
        command("run", small.study, "--data", small.data, "--run", place, "--threads", 1)

    forked(run)
    for path in shim.unsynced(place) if lost else ():
        if chance.random() < 0.7:
            damage(path, lost or "", chance)
    return in_child(lambda: small.judge(place))


def real(small: Small, first: str, whom: str, name: str, workers: int, after: float) -> Verdict:
    """after: seconds from when the work began; below 0, from the process's start, in seconds before its 4th."""
    place = begun(small, first)
    argv = [sys.executable, "-m", "mdfpipe", "run", str(small.study), "--data", str(small.data), "--run", str(place)]
    argv += ["--threads", "1", "--workers", str(workers)]
    (place / "events.jsonl").unlink()
    with subprocess.Popen(argv, stdout=-3, stderr=subprocess.PIPE, start_new_session=True) as process:
        while after > 0 and process.poll() is None and not (place / "events.jsonl").exists():
            time.sleep(0.02)
        time.sleep(after if after > 0 else 4 + after)
        _send(process.pid, whom, signal.Signals[name])
        try:
            said = process.communicate(timeout=120)[1].decode(errors="backslashreplace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Verdict("traceback", "it did not end within 120 s")
    code = process.returncode
    if code >= 0 and (wrong := said_well(code, said, place)):
        return wrong
    return in_child(lambda: small.judge(place))


def _send(pid: int, whom: str, number: int) -> None:
    try:
        if whom == "group":
            os.killpg(pid, number)
        elif whom == "worker":
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, FileNotFoundError):
        pass  # it was quicker
