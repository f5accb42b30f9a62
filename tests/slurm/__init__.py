"""A real Slurm of three nodes with two pretended GPUs each, on this machine: five processes and a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from mdfpipe.machine.processes import die_with_parent

HERE = Path(__file__).parent
USER = pwd.getpwuid(os.getuid()).pw_name
NODES = ("n1", "n2", "n3")
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")


def missing() -> list[str]:
    """The programs of Slurm and munge that are not installed."""
    return [name for name in NEEDED if _program(name) is None]


class Cluster:
    """Use as a context. environment: what a process needs, beside its own, to be a client."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the name of a socket has 107 characters
        self.environment = {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._write()
            self._start("munged", *self._munged())
            until(lambda: (self.folder / "munge.sock").exists(), "munged")
            self._start("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            self.await_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.cancel_all()
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            daemon.kill()
            daemon.wait()
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- the nodes

    def start_node(self, name: str, *, hidden: Path | None = None) -> None:
        """hidden: a folder that the node does not have (needs root)."""
        command = [_found("slurmd"), "-D", "-N", name]
        if hidden is not None:
            mount = f'mount -t tmpfs none "{hidden}" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        self._start(f"slurmd {name}", *command)

    def kill_node(self, name: str) -> None:
        """The node is gone, with everything that ran on it, at once."""
        daemon = self._daemons.pop(f"slurmd {name}")
        daemon.kill()
        daemon.wait()
        for process in self.processes(f"SLURMD_NODENAME={name}"):
            with contextlib.suppress(OSError, IndexError):
                parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
                if parent > 1 and "slurmstepd" in Path(f"/proc/{parent}/cmdline").read_text():
                    os.kill(parent, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def processes(self, *variables: str) -> list[int]:
        """Jobs and daemons of this cluster that run, those whose environment has these variables, too."""
        wanted = {f"SLURM_CONF={self.environment['SLURM_CONF']}".encode(), *(name.encode() for name in variables)}
        found = []
        for place in Path("/proc").iterdir():
            if place.name.isdecimal() and int(place.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if wanted <= set((place / "environ").read_bytes().split(b"\0")):
                        found.append(int(place.name))
        return found

    def await_idle(self) -> None:
        """Wait until all nodes are there, and idle."""
        until(self._all_idle, "three idle nodes", 60)

    # -- as a user

    def call(self, *command: str) -> str:
        """What a command of Slurm prints. Raises CalledProcessError."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    def jobs(self, states: str = "all") -> dict[str, str]:
        """State of each job, by its number: 7_0 in an array."""
        lines = self.call("squeue", "-h", "-r", "-t", states, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def cancel_all(self) -> None:
        """No job is left when this returns."""
        self.call("scancel", "--user", USER)
        until(lambda: not self.jobs("pending,running,suspended,completing"), "no job")

    # -- starting it

    def _write(self) -> None:
        for name in ("etc", "munge", "state", "log", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for number in range(2):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        values = {
            "DIR": str(self.folder),
            "HOST": socket.gethostname().partition(".")[0],
            "USER": USER,
        }
        with contextlib.ExitStack() as stack:  # all open at once, or two might be the same
            for number in range(len(NODES) + 1):
                place = stack.enter_context(socket.socket())
                place.bind(("127.0.0.1", 0))
                values[f"PORT{number}"] = str(place.getsockname()[1])
        for path in HERE.glob("*.conf"):
            text = path.read_text()
            for name, value in values.items():
                text = text.replace(f"@{name}@", value)
            (self.folder / "etc" / path.name).write_text(text)

    def _munged(self) -> list[str]:
        place = self.folder
        return [
            *(_found("munged"), "--foreground", "--force", f"--key-file={place}/munge/munge.key"),
            *(f"--socket={place}/munge.sock", f"--pid-file={place}/munged.pid"),
            *(f"--log-file={place}/munge/munged.log", f"--seed-file={place}/munge/seed"),
        ]

    def _start(self, name: str, program: str, *words: str) -> None:
        parent = os.getpid()
        with (self.folder / "log" / f"{name.replace(' ', '-')}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [_found(program), *words],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )

    def _all_idle(self) -> bool:
        dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
        if dead:
            logs = "".join(path.read_text()[-500:] for path in (self.folder / "log").iterdir())
            raise RuntimeError(f"{', '.join(dead)} ended: {logs}")
        with contextlib.suppress(subprocess.SubprocessError):
            return self.call("sinfo", "-h", "-p", "debug", "-o", "%T %D") == f"idle {len(NODES)}"
        return False


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _found(name: str) -> str:
    path = _program(name)
    assert path is not None, name
    return path


def until(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Wait until something holds. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"Slurm: no {what} in {seconds:g} s")
        time.sleep(0.1)
