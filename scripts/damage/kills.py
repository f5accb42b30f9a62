"""SIGKILL, SIGTERM and Ctrl-C at random moments of a command, its workers, or all of them; then the same command."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from damage.small import Case, Small, Verdict

WHOM = ("command", "worker", "group")
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
SECONDS = 25.0  # that a whole run takes, about


def cases(small: Small) -> Callable[[random.Random], Case]:
    """A run that begins anew, or from some stage on."""
    stages = ("", "detect", "crop", "train", "embed", "evaluate")

    def draw(chance: random.Random) -> Case:
        whom, name, first = chance.choice(WHOM), chance.choice(SIGNALS), chance.choice(stages)
        after, workers = chance.uniform(0, SECONDS if not first else SECONDS / 2), chance.choice((1, 2))

        def killed() -> Verdict:
            place = small.copy()
            shutil.rmtree(place / first)
            command = [sys.executable, "-m", "mdfpipe", "run", str(small.study), "--data", str(small.data), "--run"]
            command += [str(place), "--threads", "1", "--workers", str(workers)]
            with subprocess.Popen(command, stdout=-3, stderr=subprocess.PIPE, text=True, start_new_session=True) as it:
                time.sleep(after)
                _send(it.pid, whom, signal.Signals[name])
                said = it.communicate(timeout=300)[1]
            if "Traceback" in said:
                return Verdict("traceback", said[-1500:])
            return small.judge(place)

        return Case(f"{name} {whom}", f"{first or 'all'} after {after:.2f} s", killed)

    return draw


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
