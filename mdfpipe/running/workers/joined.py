"""Joined workers: processes that anyone starts with `mdfpipe work --run RUN`, on any machine that has the run folder.

The leader opens a gate. A worker finds its address in `RUN/.crew`, proves that it has the key, and gets units by name.
It is lost when its connection ends, or when it gives no sign of life for `LEASE` seconds; its unit is given again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import Any

from mdfpipe.errors import StoreError, cannot_write, one_line
from mdfpipe.running.workers import Loss, Step, UnitReport
from mdfpipe.running.workers.channels import (
    FOLDER,
    KEY,
    LEADER,
    POLL_SECONDS,
    Channel,
    FileChannel,
    TcpChannel,
    addresses,
    listed,
    proof,
    proves,
)
from mdfpipe.running.workers.messages import of_unit, to_event
from mdfpipe.store.environment import code_version
from mdfpipe.store.files import bytes_of, write_atomically, write_synced
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.lock import BEAT, LEASE, LOOK
from mdfpipe.store.owner import TEMPORARY, Life, Owner, is_left_over, is_of
from mdfpipe.store.run import Run
from mdfpipe.study.study import KEPT

TRIES = 3  # how often a unit is given: a unit that kills its worker must not kill them all
OF_ITS_MACHINE = ("ConfigError", "MissingDependency")
"""Errors of a unit that end its worker and not the run: the leader has found the same files and packages on its own."""

HELLO_SECONDS = 20.0  # for a process to say who it is, and for what it wrote to become visible
PATIENCE_SECONDS = 60.0  # between two lines about missing workers
PARTING_SECONDS = 3.0  # for workers over files to read that the leader ends


@dataclass(frozen=True)
class Terms:
    """What a leader tells its workers: the data root, and the options of its call that are not each worker's own."""

    data: Path
    trust_pickle: bool = False
    tensorboard: bool = False


class JoinedWorker:
    """One worker elsewhere, as its leader knows it. name: host, process and slot; place: host, job and device."""

    def __init__(self, channel: Channel, name: str, owner: Owner, device: str, run: Run) -> None:
        self.channel, self.name, self.owner, self.device, self.run = channel, name, owner, device, run
        self.unit: tuple[Any, ...] | None = None
        self.gone = ""  # why it left
        self._number = 0
        self._heard = self._looked = time.monotonic()
        self._pipeline = ""  # hash of the study that the run keeps; the leader has written it before the first unit
        self._silent_seconds = 0.0
        self._has_progress = self._says_bye = False  # of the unit; of the worker
        self.was_useful = False  # whether any unit made progress here

    @property
    def place(self) -> str:
        """Host, batch job and device."""
        job = f" ({self.owner.job})" if self.owner.job else ""
        return f"{self.owner.host}{job} on {self.device}"

    @property
    def source(self) -> Any:
        """Its connection."""
        return self.channel.source

    def give(self, function: Callable[..., Any], unit: tuple[Any, ...]) -> UnitReport:
        """Send it a unit. It knows the one function there is: `run_unit`."""
        self.unit, self._silent_seconds, self._has_progress = unit, 0.0, False
        self._number += 1
        self._pipeline = self._pipeline or bytes_sha256(self.run.path / KEPT)
        self.channel.send({"unit": self._number, "pipeline": self._pipeline, **of_unit(unit[0])})
        return UnitReport(Step.BEGUN, unit, self.device, self.name)

    def hear(self) -> list[UnitReport]:
        """What it said since the last time. Also while it is idle, so that its end is noticed."""
        reports: list[UnitReport] = []
        try:
            messages = self.channel.receive()
        except EOFError:
            messages, self.gone = [], self.gone or "its connection ended"
        if messages:
            self._heard = time.monotonic()
        elif not self.gone and time.monotonic() - self._heard > LEASE:
            self.gone = f"no sign of life for {LEASE:g} s"
        elif not self.gone and time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self.gone = "its process ended" if self.owner.life is Life.DEAD else ""
        for message in messages:
            try:
                reports += self._understood(message)
            except (TypeError, KeyError, ValueError):
                self.gone = "it sent what is no message"
        if self.gone and self.unit is not None:
            reports.append(self._lost(self.gone))
        return reports

    def _understood(self, message: dict[str, Any]) -> list[UnitReport]:
        if "bye" in message:
            self.gone, self._says_bye = one_line(message["bye"], 500), True
            return []
        number = next((message[kind] for kind in ("told", "ended", "lost", "error") if kind in message), None)
        if self.unit is None or number != self._number:
            return []  # a beat, or of a unit that was taken away
        unit, self._silent_seconds = self.unit, 0.0
        if "told" in message:
            self._has_progress = self.was_useful = True
            return [UnitReport(Step.TOLD, unit, to_event(message["event"]), self.name)]
        if "lost" in message:
            return [self._lost(one_line(message["words"], 500), message["exitcode"])]
        event = to_event(message["event"]) if "ended" in message else None
        if event is not None and event.kind == "fatal" and event.failure and event.failure.kind in OF_ITS_MACHINE:
            self.gone = f"its machine lacks what the unit needs: {event.failure.message}"
            return []  # the unit is lost with it
        self.unit, self.was_useful = None, True
        if event is None:
            return [UnitReport(Step.FAILED, unit, RuntimeError(one_line(message["words"], 2000)), self.name)]
        return [UnitReport(Step.DONE, unit, event, self.name)]

    def overdue(self, passed: float, deadline_seconds: float) -> UnitReport | None:
        """Take its unit away where it shows no progress for the deadline."""
        self._silent_seconds += passed
        if self.unit is None or self._silent_seconds < deadline_seconds:
            return None
        self.channel.send({"drop": self._number})
        return self._lost(f"no sign of progress for {deadline_seconds:g} s (--deadline)")

    def _lost(self, words: str, exitcode: int | None = None) -> UnitReport:
        assert self.unit is not None
        left = self._says_bye
        had_all_its_time = self._has_progress and self._number == 1 and not self.unit[0].stage.together
        counts = not left or had_all_its_time
        loss = Loss(f"{self.name} ({self.place}): {words}", exitcode, left, counts)
        report = UnitReport(Step.LOST, self.unit, loss, self.name)
        self.unit = None
        return report

    def terminate(self) -> None:
        """Ask it to let its training save."""
        self.channel.send({"save": self._number})

    def join(self, seconds: float) -> None:
        """Wait so long for the end of its unit."""
        until = time.monotonic() + seconds
        while self.unit is not None and not self.gone and time.monotonic() < until:
            self.hear()
            time.sleep(0.05)

    def kill(self) -> None:
        """Take its unit away. The worker kills the process that is at it."""
        if self.unit is not None:
            self.channel.send({"drop": self._number})
            self.unit = None


class Joined:
    """The workers that have joined. `open` the gate under the lock of the run folder; `close` removes `RUN/.crew`.

    connect: "tcp" or "files". Another way to bring joined workers about (a batch system) is a subclass with `opened`,
    `closing` and `waits_for`.
    """

    tries = TRIES

    def __init__(self, run: Run, terms: Terms, connect: str = "tcp") -> None:
        self.run, self.terms, self.connect = run, terms, connect
        self.folder = run.path / FOLDER
        self.present: list[JoinedWorker] = []
        self._lost: list[Owner] = []  # workers that left
        self._gate: Gate | None = None
        self._said = -PATIENCE_SECONDS

    # -- what a subclass adds

    def opened(self) -> None:
        """Called once the gate is open: submit workers here."""

    def closing(self) -> None:
        """Called before the gate closes: end what was submitted here."""

    def waits_for(self) -> str:
        """What the loop waits for while there is no worker, and what to do."""
        return f"no worker; start some with `mdfpipe work --run {self.run.path}`"

    # --

    def open(self) -> None:
        """Open the gate. Raises StoreError where `RUN/.crew` cannot be written."""
        try:
            shutil.rmtree(self.folder, ignore_errors=True)  # of a leader that was killed
            self.folder.mkdir(mode=0o700)
            self._gate = Gate(self)
        except OSError as error:
            raise StoreError(cannot_write(self.folder, error)) from error
        self.opened()

    @property
    def sources(self) -> list[Any]:
        """The gate's bell, and idle workers."""
        idle = [worker.source for worker in self.present if worker.unit is None and worker.source is not None]
        return [*idle, *([self._gate.bell] if self._gate else [])]

    @property
    def poll_seconds(self) -> float:
        """How long the loop may wait."""
        return 0.5 if self.connect == "tcp" else POLL_SECONDS

    def look(self, wanted: int) -> Iterator[UnitReport]:
        """Workers that came and went."""
        assert self._gate is not None
        yield from self._gate.arrivals()
        for worker in list(self.present):
            if worker.unit is None:
                worker.hear()
            if worker.gone:
                self.present.remove(worker)
                self._lost.append(worker.owner)
                self._gate.part(worker)
                yield UnitReport(Step.LEFT, (), f"{worker.place}: {worker.gone}", worker.name)
        if wanted and not self.present and time.monotonic() - self._said >= PATIENCE_SECONDS:
            self._said = time.monotonic()
            yield UnitReport(Step.WAITING, (), self.waits_for())

    def close(self) -> None:
        """Tell the workers that the leader ends, and remove what let them find it."""
        gate, self._gate = self._gate, None
        if gate is None:
            return
        self.closing()
        for name in (LEADER, KEY):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        gate.close()
        for worker in self.present:
            worker.channel.send({"stop": "its leader has ended"})
        until = time.monotonic() + (PARTING_SECONDS if self.connect == "files" and self.present else 0)
        while time.monotonic() < until and any(name.endswith(".said") for name in listed(self.folder)):
            time.sleep(0.05)
        for worker in self.present:
            worker.channel.close()
        self.present = []
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lost:
            self._clear()

    def _clear(self) -> None:
        """Remove what lost workers left unfinished. Nothing of another machine is at work here any more."""
        here = Owner.new().label
        elsewhere = {owner.label: owner for owner in self._lost if owner.label != here}.values()
        for path in self.run.path.rglob(f"{TEMPORARY}*"):
            if is_left_over(path.name) or any(is_of(path.name, owner) for owner in elsewhere):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


@dataclass(eq=False)
class _Caller:
    """A process at the gate. since: when it came; hello: what it said, once it has."""

    channel: Channel
    nonce: str
    since: float
    hello: dict[str, Any] | None = None


class Gate:
    """Lets workers in, and gives signs of life to all of them, from a thread of its own."""

    def __init__(self, joined: Joined) -> None:
        self.joined, self.folder, self.run = joined, joined.folder, joined.run
        self.key = secrets.token_hex(32).encode()
        self._inside: list[JoinedWorker] = []
        self._arrived: queue.SimpleQueue[JoinedWorker | tuple[str, str]] = queue.SimpleQueue()
        self.bell, self._ring = Pipe(duplex=False)
        self._ended = threading.Event()
        self._listener: socket.socket | None = None
        port = 0
        if joined.connect == "tcp":
            self._listener = socket.create_server(("", 0), backlog=256)
            port = self._listener.getsockname()[1]
        self._known: set[str] = set()  # callers over files
        self._callers: list[_Caller] = []
        write_synced(self.folder / KEY, b"", new=True)
        (self.folder / KEY).chmod(0o600)
        write_synced(self.folder / KEY, self.key)
        assert self.run.lease is not None
        self.secret = secrets.token_hex(8)
        facts = {
            "connect": joined.connect,
            "addresses": addresses(port) if port else [],
            "secret": self.secret,
            "owner": asdict(Owner.new()),
            "code": code_version(),
        }
        write_atomically(self.folder / LEADER, json.dumps(facts, indent=1).encode())
        (self.folder / LEADER).chmod(0o600)
        self._thread = threading.Thread(target=self._keep, name="mdfpipe gate", daemon=True)
        self._thread.start()

    def arrivals(self) -> Iterator[UnitReport]:
        """The workers that were let in since the last call, and the processes that were not."""
        while self.bell.poll():
            self.bell.recv_bytes()
        while not self._arrived.empty():
            found = self._arrived.get()
            if isinstance(found, JoinedWorker):
                self.joined.present.append(found)
                yield UnitReport(Step.JOINED, (), found.place, found.name)
            else:
                yield UnitReport(Step.REFUSED, (), found[1], found[0])

    def part(self, worker: JoinedWorker) -> None:
        """Forget a worker that left."""
        worker.channel.send({"stop": f"its leader took it for lost: {worker.gone}"})
        with contextlib.suppress(ValueError):
            self._inside.remove(worker)
        worker.channel.close()

    def close(self) -> None:
        """Let no more in."""
        self._ended.set()
        self._thread.join(5)
        while not self._arrived.empty():
            found = self._arrived.get()
            if isinstance(found, JoinedWorker):
                self.joined.present.append(found)
        for caller in self._callers:
            caller.channel.send({"stop": "its leader has ended"})
            caller.channel.close()
        if self._listener is not None:
            self._listener.close()
        self.bell.close()
        self._ring.close()

    def _keep(self) -> None:
        beaten = time.monotonic()
        while not self._ended.is_set():
            sources: list[Any] = [caller.channel.source for caller in self._callers if caller.channel.source]
            if self._listener is not None:
                sources.append(self._listener)
            if sources:
                wait(sources, timeout=0.5)
            else:
                self._ended.wait(POLL_SECONDS)
            self._take_callers()
            for caller in list(self._callers):
                try:
                    self._hear(caller)
                except Exception as error:  # of one caller; the gate stays
                    self._refuse(caller, f"it sent what is no message: {one_line(error, 200)}")
            if time.monotonic() - beaten >= BEAT:
                beaten = time.monotonic()
                for worker in list(self._inside):
                    worker.channel.send({"beat": 1})

    def _take_callers(self) -> None:
        if self._listener is not None and wait([self._listener], timeout=0):
            with contextlib.suppress(OSError):
                self._begin(TcpChannel(self._listener.accept()[0]))
        if self._listener is None:
            for name in sorted(listed(self.folder)):
                if name.endswith(".said") and name not in self._known:
                    self._known.add(name)
                    place = self.folder / name
                    self._begin(FileChannel(place.with_suffix(".heard"), place))

    def _begin(self, channel: Channel) -> None:
        caller = _Caller(channel, secrets.token_hex(16), time.monotonic())
        channel.send({"challenge": caller.nonce})
        self._callers.append(caller)

    def _hear(self, caller: _Caller) -> None:
        """Let a process in that has said the right things; send it away where it has said others, or nothing."""
        try:
            for message in caller.channel.receive():
                caller.hello = message.get("hello", caller.hello)
        except EOFError:
            self._callers.remove(caller)
            caller.channel.close()
            return
        late = time.monotonic() - caller.since > HELLO_SECONDS
        if caller.hello is None:
            if late:
                self._refuse(caller, "it did not say who it is")
            return
        hello = caller.hello
        name = one_line(hello["name"], 80)
        if not proves(self.key, hello["proof"], "worker", caller.nonce, self.secret):
            self._refuse(
                caller,
                f"its key is not the one in {self.folder / KEY}; start it again: it may have read an earlier leader's",
                name,
            )
        elif hello["code"] != code_version():
            other = one_line(hello["code"], 80)
            words = f"it has another code version, {other}; the leader has {code_version()}; install the same on both"
            self._refuse(caller, words, name)
        elif hello["mark"] in listed(self.folder):
            self._let_in(caller, name)
        elif late:
            self._refuse(caller, f"its run folder is not {self.run.path} of the leader: they share no file", name)

    def _let_in(self, caller: _Caller, name: str) -> None:
        hello, lease, terms = caller.hello or {}, self.run.lease, self.joined.terms
        assert lease is not None
        worker = JoinedWorker(caller.channel, name, Owner(**hello["owner"]), one_line(hello["device"], 40), self.run)
        welcome = {
            "proof": proof(self.key, "leader", hello["nonce"]),
            "data": os.fspath(terms.data),
            "lease": [lease.number, lease.secret],
            "trust_pickle": terms.trust_pickle,
            "tensorboard": terms.tensorboard,
        }
        self._callers.remove(caller)
        if caller.channel.send({"welcome": welcome}):
            self._inside.append(worker)
            self._tell(worker)

    def _refuse(self, caller: _Caller, words: str, name: str = "") -> None:
        caller.channel.send({"refused": words})
        if caller in self._callers:
            self._callers.remove(caller)
        if isinstance(caller.channel, TcpChannel):  # who reads files has to find the answer
            caller.channel.close()
        self._tell((name or "an unknown process", words))

    def _tell(self, found: JoinedWorker | tuple[str, str]) -> None:
        self._arrived.put(found)
        with contextlib.suppress(OSError):
            self._ring.send_bytes(b"1")


def key_of(folder: Path) -> bytes:
    """The key of a leader. Raises OSError."""
    return bytes_of(folder / KEY)
