"""Queue: Slurm's commands, called so that a job does not inherit the one in which this process runs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterable
from typing import IO, NamedTuple

from mdfpipe.errors import ConfigError, MdfError, one_line

PATIENCE_SECONDS = 60.0  # for a command of Slurm to answer
LIVE = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
LIVE |= {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS")


class QueuedJob(NamedTuple):
    """One job of Slurm. number: such as 12, or 12_3 in an array; reason: why it waits, or how it ended; node: or ""."""

    number: str
    state: str
    reason: str
    node: str

    @property
    def is_held(self) -> bool:
        """Whether it waits for somebody to release it, since Slurm could not start it."""
        return self.state == "PENDING" and "launch failed" in self.reason.lower().replace("_", " ")

    @property
    def is_live(self) -> bool:
        """Whether it runs, or will run."""
        return self.state in LIVE and not self.is_held

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        why = f", {self.reason}" if self.reason not in ("", "None") else ""
        return f"job {self.number}{where}: {self.state}{why}"


class RefusedError(ConfigError):
    """Slurm does not take a job. words: its own."""

    def __init__(self, words: str) -> None:
        self.words = words
        super().__init__(
            f"--on slurm: the queue refuses the job: {words}; correct --slurm or the profile "
            "(--dry-run prints the script)"
        )


def environment() -> dict[str, str]:
    """The environment for Slurm's commands: without the variables of a job or of torchrun around this process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in _KEPT}


def submit(script: str) -> str:
    """Give a script to sbatch; the number of the job. Raises RefusedError with sbatch's own words, ConfigError."""
    done = _call("sbatch", "--parsable", given=script)
    found = re.fullmatch(r"(\d+)(;.*)?", done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "")
    if done.returncode or found is None:
        lines = [line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines()]
        raise RefusedError(one_line("; ".join(lines), 400) or f"sbatch ended with code {done.returncode}")
    return found[1]


def jobs(numbers: Iterable[str]) -> list[QueuedJob] | None:
    """The jobs of these numbers that Slurm still knows, each task of an array as one; None if it does not answer."""
    found: list[QueuedJob] = []
    for number in numbers:
        try:
            done = _call("squeue", "-h", "-r", "-t", "all", "-j", number, "-o", "%i|%T|%r|%N")
        except MdfError:
            return None
        if done.returncode and "invalid job id" not in done.stderr.lower():  # long ended: Slurm has forgotten it
            return None
        found += [QueuedJob(*line.split("|", 3)) for line in done.stdout.splitlines() if line.count("|") >= 3]
    return found


def named(name: str) -> list[str]:
    """The numbers of the user's jobs of this name that wait or run; none if Slurm does not answer."""
    done = _call("squeue", "-h", "--me", "--name", name, "-o", "%A")
    return list(dict.fromkeys(done.stdout.split())) if not done.returncode else []


def cancel(numbers: Iterable[str]) -> None:
    """Cancel jobs; those that have ended stay as they are."""
    if given := list(numbers):
        _call("scancel", *given)


def largest_array() -> int:
    """How many jobs one array may have; 0 where the cluster has no arrays."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config").stdout)
    return int(found[1]) if found else 1


class Canceller:
    """Cancels jobs when this process ends, however it ends: a shell that waits for the end of its input."""

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self._shell: subprocess.Popen[str] | None = None

    def watch(self, number: str) -> None:
        """Cancel this job, too."""
        if self._shell is None:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", 'while read -r job; do jobs="$jobs $job"; done; [ -z "$jobs" ] || scancel $jobs'],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,  # Ctrl-C is not for it
                text=True,
            )
        self.numbers.append(number)
        with contextlib.suppress(BrokenPipeError):
            self._input.write(f"{number}\n")
            self._input.flush()

    @property
    def _input(self) -> IO[str]:
        assert self._shell is not None
        assert self._shell.stdin is not None
        return self._shell.stdin

    def cancel(self) -> None:
        """Cancel them all now."""
        shell = self._shell
        if shell is None:
            return
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            shell.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            shell.kill()
            shell.wait()
        self._shell, self.numbers = None, []


def _call(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=given,
            env=environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"--on slurm: expected Slurm's command {command[0]}, found none on PATH; give the command on a login "
            "node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise MdfError(f"--on slurm: {command[0]} does not answer for {PATIENCE_SECONDS:g} s; try again") from None
