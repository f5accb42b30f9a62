"""Processes of the operating system: who started this one, and what ends with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker


@dataclass(frozen=True)
class Copies:
    """A launcher started this command several times. number: which of them this process is, from 0.

    variable: without it in the environment, this process counts as started once.
    """

    launcher: str
    count: int
    number: int
    variable: str


# launcher, count, number, variable: what each sets in the processes that it starts, and nowhere else. Slurm sets
# SLURM_NTASKS and SLURM_PROCID in a batch script, too, which runs once; SLURM_PTY_PORT where a person types.
_LAUNCHERS = (
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
    ("srun", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"),
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun", "PMI_SIZE", "PMI_RANK", "PMI_SIZE"),
    ("jsrun", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),
)


def copies() -> Copies | None:
    """How often srun or mpirun started this very command; None where once, or where `torchrun` did it."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return None
    for launcher, count, number, variable in _LAUNCHERS:
        found = [os.environ.get(name, "") for name in (count, number)]
        if variable not in os.environ or not all(text.isdecimal() for text in found):
            continue
        if launcher == "srun" and "SLURM_PTY_PORT" in os.environ:
            continue
        return Copies(launcher, int(found[0]), int(found[1]), variable) if int(found[0]) > 1 else None
    return None


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, the process `parent`, dies, however it dies.

    That is Linux's; elsewhere a worker ends with its unit, when the pipe is found closed.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """A process started within never sees Ctrl-C, not even while it loads: the parent does, and ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # started by the first worker, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
