"""Channels: messages between a leader and a worker of another machine, over TCP or over files of the run folder.

A message is a JSON object. Nothing is pickled, so that no process that reaches a port can have code run. The folder
`RUN/.crew` is readable by its owner only; it holds the leader's address and the key with which both sides prove that
they may read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import socket
import struct
import threading
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from mdfpipe.store.files import bytes_of, opened

FOLDER = ".crew"
LEADER, KEY = "leader.json", "key"  # below it: the leader's address, and what both sides know
POLL_SECONDS = 0.2  # between two looks at files
LARGEST_BYTES = 1 << 28  # of a message: a unit of a run-level stage names every video
STUCK_SECONDS = 20  # for a message that has begun to come or to go


class Channel(Protocol):
    """A way to send messages to one other process, and to hear of it. A channel that fails is gone for good."""

    @property
    def source(self) -> Any:
        """What becomes readable with the next message, for `multiprocessing.connection.wait`; None for files."""

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message; False where the other side is gone."""

    def receive(self) -> list[dict[str, Any]]:
        """The messages that came since. Raises EOFError where the other side is gone and nothing is left to read."""

    def close(self) -> None:
        """End it."""


class TcpChannel:
    """A connection."""

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            connected.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", STUCK_SECONDS, 0))
        self._connection = Connection(connected.detach())
        self._sending = threading.Lock()
        self._gone = False

    @property
    def source(self) -> Connection:
        """The connection."""
        return self._connection

    def send(self, message: dict[str, Any]) -> bool:
        """Send a message; False where the other side is gone, or does not read."""
        try:
            with self._sending:
                self._connection.send_bytes(_encoded(message))
        except (OSError, ValueError):
            self._gone = True
        return not self._gone

    def receive(self) -> list[dict[str, Any]]:
        """The messages that came. Raises EOFError."""
        found: list[dict[str, Any]] = []
        try:
            while not self._connection.closed and self._connection.poll():
                found.append(_decoded(self._connection.recv_bytes(LARGEST_BYTES)))
        except (EOFError, OSError, ValueError):
            self._gone = True
        if not found and (self._gone or self._connection.closed):
            raise EOFError
        return found

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.close()


class FileChannel:
    """Two files with a message a line. Each side appends to one and reads the other."""

    def __init__(self, mine: Path, theirs: Path) -> None:
        self.mine, self.theirs = mine, theirs
        self._read = 0  # bytes of the other's file
        self._seen = False
        self._sending = threading.Lock()

    @property
    def source(self) -> None:
        """Nothing: files are looked at again and again."""
        return

    def send(self, message: dict[str, Any]) -> bool:
        """Append a message; False where the folder is gone."""
        try:
            with self._sending, self.mine.open("ab") as file:
                file.write(_encoded(message) + b"\n")
        except OSError:
            return False
        return True

    def receive(self) -> list[dict[str, Any]]:
        """The lines that were added. Raises EOFError once a file that was there is gone."""
        try:
            if not self._seen:
                self._seen = self.theirs.name in listed(self.theirs.parent)
                if not self._seen:
                    return []
            with opened(self.theirs) as file:
                file.seek(self._read)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            raise EOFError from None
        except OSError:
            return []  # a server that does not answer is no end
        self._read += len(whole) + len(newline)
        try:
            return [_decoded(line) for line in whole.split(b"\n") if line]
        except ValueError:
            raise EOFError from None

    def close(self) -> None:
        """Remove what this side wrote."""
        with contextlib.suppress(OSError):
            self.mine.unlink(missing_ok=True)


def listed(folder: Path) -> frozenset[str]:
    """The names in a folder. A client of NFS caches that a file is absent until it lists the folder."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()


def proof(key: bytes, *words: str) -> str:
    """What only one who has the key can say of these words."""
    return hmac.new(key, "\0".join(words).encode(), hashlib.sha256).hexdigest()


def proves(key: bytes, said: Any, *words: str) -> bool:
    """Whether `said` is that proof."""
    return isinstance(said, str) and hmac.compare_digest(said.encode(), proof(key, *words).encode())


def addresses(port: int) -> list[tuple[str, int]]:
    """How other machines may reach a port of this one, the likeliest first."""
    host = socket.gethostname()
    names = [socket.getfqdn(), host]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))  # sends nothing: which of our addresses would go out
        names.insert(0, probe.getsockname()[0])
    with contextlib.suppress(OSError):
        names += [str(found[4][0]) for found in socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)]
    return [(name, port) for name in dict.fromkeys([*names, "127.0.0.1"])]


def connected(places: Iterable[tuple[str, int]], seconds: float = 5.0) -> socket.socket | None:
    """A connection to the first of these that answers."""
    for host, port in places:
        with contextlib.suppress(OSError):
            return socket.create_connection((host, port), timeout=seconds)
    return None


def read_json(place: Path) -> dict[str, Any] | None:
    """What a small file holds; None where it is not there, or half written."""
    try:
        return _decoded(bytes_of(place))
    except (OSError, ValueError):
        return None


def _encoded(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _decoded(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("is no object")
    return found
