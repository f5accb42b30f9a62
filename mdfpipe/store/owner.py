"""Owner: which process wrote a temporary file or holds a folder, and whether it still lives.

A process is known by its host, the boot of that host, its PID and its start time. A PID alone says nothing: it is used
again, it means another process on another machine, and in a container it means nothing outside.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from mdfpipe.errors import one_line

TEMPORARY = ".part-"  # how the name of every unfinished file begins
TAIL_BYTES = 80  # of the finished file's name, kept at the end of the temporary one's
HOST_VARIABLE = "MDFPIPE_HOST"  # tests alone set it: the name of the machine that this process takes itself to be on

_FIRST_PID_SPACE = "pid:[4026531836]"  # of every Linux machine: of processes that are in no container
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY)}([A-Za-z0-9_]+)-([0-9]+)-([0-9a-f]{{8}})[0-9a-f]{{8}}-")
_JOBS = {
    "SLURM_JOB_ID": "Slurm job",
    "PBS_JOBID": "PBS job",
    "LSB_JOBID": "LSF job",
    "FLUX_JOB_ID": "Flux job",
    "OAR_JOB_ID": "OAR job",
    "COBALT_JOBID": "Cobalt job",
    "AWS_BATCH_JOB_ID": "AWS Batch job",
    "JOB_ID": "Grid Engine job",  # the last: others use so plain a name, too
}
_TASK = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")


class Life(enum.Enum):
    """Whether a process lives, as far as this one can tell."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # it was on another machine, or in another container


@dataclass(frozen=True)
class Owner:
    """One process, as others can know it again.

    host: name of its machine. machine: hash of the machine's own id, "" if it has none. boot: id of the machine's
    boot, "" where the system has none. space: of PIDs; each container has one. pid, began: PID and start time (ticks
    since boot). job: of the batch system, or "". since: UTC, ISO 8601. secret: random, unlike that of every other.
    """

    host: str
    machine: str
    boot: str
    space: str
    pid: int
    began: str
    job: str = ""
    since: str = ""
    secret: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process of which nothing is known"
        since = f" since {self.since.replace('T', ' ').replace('+00:00', ' UTC')}" if self.since else ""
        job = f" ({self.job})" if self.job else ""
        return one_line(f"process {self.pid} on {self.host}{job}{since}", 300)  # a record may hold anything

    @classmethod
    def new(cls) -> Owner:
        """This process, from now on."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(*_identity(os.getpid()), job=_job(), since=since, secret=secrets.token_hex(8))

    @property
    def life(self) -> Life:
        """Whether it lives. Another boot of its machine ended it; of another machine one cannot tell."""
        here = Owner(*_identity(os.getpid()))
        if (self.boot, self.space) == (here.boot, here.space) and (self.boot or self.host == here.host):
            began = _began(self.pid)
            same = began is not None and (not began or not self.began or began == self.began)
            return Life.ALIVE if same else Life.DEAD
        same_machine = self.host == here.host and self.machine == here.machine and self.machine
        bare = self.space == here.space == _FIRST_PID_SPACE  # a container's image brings names and ids along
        return Life.DEAD if same_machine and bare and self.boot and here.boot else Life.UNKNOWN

    @property
    def label(self) -> str:
        """Its machine (and container) as part of a file name: `node12_3fa9c1`."""
        plain = self.machine and self.space == _FIRST_PID_SPACE
        known = _digest(self.host, self.machine, "" if plain else self.boot + self.space)[:6]
        return f"{re.sub(r'[^A-Za-z0-9]', '_', self.host)[:20]}_{known}"


def temporary(place: Path) -> Path:
    """Where the file that is to be `place` is written: in its folder, named by host, PID and a random part."""
    here = Owner(*_identity(os.getpid()))
    name = f"{TEMPORARY}{here.label}-{here.pid}-{_mark(here.boot, here.began)}{secrets.token_hex(4)}-"
    tail = os.fsencode(place.name)[-TAIL_BYTES:].decode(errors="ignore")  # a name has 255 bytes at most, some fewer
    return place.with_name(name + tail)


def is_left_over(name: str) -> bool:
    """Whether a file name is that of a temporary file whose process was on this machine and is known to be dead."""
    found = _TEMPORARY.match(name)
    here = Owner(*_identity(os.getpid()))
    if found is None or found[1] != here.label:
        return False
    began = _began(int(found[2]))
    return began is None or (began != "" and _mark(here.boot, began) != found[3])


def is_of(name: str, owner: Owner) -> bool:
    """Whether a file name is that of a temporary file of the owner's machine."""
    found = _TEMPORARY.match(name)
    return found is not None and found[1] == owner.label


@cache
def _identity(pid: int) -> tuple[str, str, str, str, int, str]:
    """The first fields of an Owner, of this process, whose PID is `pid`."""
    boot = _read("/proc/sys/kernel/random/boot_id")
    if pretended := os.environ.get(HOST_VARIABLE):
        return pretended, _digest(pretended), f"{boot} {pretended}", _FIRST_PID_SPACE, pid, _began(pid) or ""
    id_of_machine = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id")
    machine = _digest(id_of_machine)[:16] if id_of_machine else ""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - no path
    return socket.gethostname() or "localhost", machine, boot, space, pid, _began(pid) or ""


def _began(pid: int) -> str | None:
    """Start time of the process `pid` of this machine; "" if the system hides it, None if there is no such process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # another user's
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    if len(fields) < 20:
        return ""
    return None if fields[0] in ("Z", "X") else fields[19]  # a zombie has ended


def _job() -> str:
    found = {name: os.environ.get(name, "") for name in (*_JOBS, *_TASK)}
    if all(found[name] for name in _TASK):  # as squeue names it, and its log
        found["SLURM_JOB_ID"] = "_".join(found[name] for name in _TASK)
    jobs = ((kind, found[name]) for name, kind in _JOBS.items() if found[name])
    return next((f"{kind} {re.sub(r'[^!-~]', '?', number)[:60]}" for kind, number in jobs), "")


def _mark(boot: str, began: str) -> str:
    return _digest(boot, began)[:8]


def _digest(*words: str) -> str:
    return hashlib.blake2b("\0".join(words).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError):
        return ""
