"""What `mdfpipe work` does: it joins the leader of a run folder, and passes its units to processes of this machine.

Each process here is one worker of the leader, with a channel of its own. A unit whose process dies is reported as lost,
and the worker stays. When the leader is gone, the processes are killed: nothing more is committed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from mdfpipe.errors import ConfigError, CopyError, MdfError, StoreError, counted, one_line
from mdfpipe.learning import gpus
from mdfpipe.learning.train import together
from mdfpipe.machine import devices
from mdfpipe.running.crew import SAVING_SECONDS
from mdfpipe.running.execution import LATE_SECONDS, TogetherExecutor, Unit, run_together, run_unit
from mdfpipe.running.workers import Step, UnitReport
from mdfpipe.running.workers.channels import (
    FOLDER,
    LEADER,
    POLL_SECONDS,
    Channel,
    FileChannel,
    TcpChannel,
    connected,
    listed,
    proof,
    proves,
    read_json,
)
from mdfpipe.running.workers.joined import HELLO_SECONDS, key_of
from mdfpipe.running.workers.messages import of_event, to_unit
from mdfpipe.running.workers.spawned import SpawnedWorker
from mdfpipe.stages import Resources
from mdfpipe.store.environment import code_version
from mdfpipe.store.hashing import bytes_sha256
from mdfpipe.store.lock import BEAT, LEASE, LOOK, Lease
from mdfpipe.store.owner import Life, Owner
from mdfpipe.store.run import Run
from mdfpipe.study.study import KEPT, Study


class _LeaderGoneError(StoreError):
    """The leader ended, or is not heard any more."""


class Work:
    """The workers of one call of `mdfpipe work`. done: the units that ended here.

    resources: as for a run; `device` may name several GPUs. data: where the data set is on this machine; None: where
    the leader has it. say: prints a line. Raises ConfigError where devices and workers contradict each other.
    """

    def __init__(self, run: Path, resources: Resources, data: Path | None, say: Callable[[str], None]) -> None:
        self.path, self.data, self.say, self.done = run, data, say, 0
        self.is_group = together.processes() > 1
        names = devices.named(resources.device)
        if self.is_group:  # the first of its processes: one worker, whose process takes its GPU by its number
            self.names: tuple[str, ...] = (devices.CPU,)
            self.size, self.resources = 1, replace(resources, device=devices.own(names[0]))
            return
        self.names = devices.present(names, gpus.count)
        self.size = devices.size(self.names, resources.workers, resources.per_device)
        self.resources = replace(resources, device=devices.own(self.names[0]))

    def join(self, wait_seconds: float) -> None:
        """Work for leaders until one ends in order; without one, wait so long. Raises MdfError where there is none."""
        until, why = time.monotonic() + wait_seconds, ""
        while True:
            try:
                self._serve(self._leader(until, why))
                return
            except _LeaderGoneError as error:
                why, until = str(error), time.monotonic() + wait_seconds
                if wait_seconds > 0:
                    self.say(f"{why}; waiting {wait_seconds:g} s for another leader")

    def _leader(self, until: float, why: str) -> dict[str, Any]:
        """Who leads. Raises StoreError where no process does."""
        place = self.path / FOLDER / LEADER
        while True:
            if FOLDER in listed(self.path):
                listed(place.parent)
                found = read_json(place)
                if found is not None and Owner(**found["owner"]).life is not Life.DEAD:
                    return found
                with contextlib.suppress(FileNotFoundError):
                    try:
                        key_of(place.parent)
                    except PermissionError:
                        raise StoreError(
                            f"{place.parent}: cannot be read; start the worker as the user who started the leader"
                        ) from None
            if time.monotonic() >= until:
                if why:
                    done = counted(self.done, "unit was", "units were")
                    raise StoreError(f"{why}; {done} done here, and no other leader came")
                got = "found none" if self.path.is_dir() else "found no such folder on this machine"
                raise StoreError(
                    f"{self.path}: expected a leader, {got}; start `mdfpipe run STUDY --data DATA --run RUN --on "
                    "workers` with this run folder, on a file system that both machines share, or give --wait"
                )
            time.sleep(POLL_SECONDS)

    def _serve(self, leader: dict[str, Any]) -> None:
        slots: list[_Slot] = []
        try:
            for number in range(self.size):
                slots.append(_Slot(self, leader, number))  # noqa: PERF401 - those that are there are ended
            host = Owner(**leader["owner"]).host
            self.say(f"joined the leader on {host} with {len(slots)} worker{'s' if len(slots) > 1 else ''}")
            while True:
                sources = [source for slot in slots for source in slot.sources]
                if sources:
                    wait(sources, timeout=0.5 if leader["connect"] == "tcp" else POLL_SECONDS)
                else:
                    time.sleep(POLL_SECONDS)
                for slot in slots:
                    slot.step()
                if all(slot.stopped for slot in slots):
                    self.say(f"{slots[0].stopped}; {counted(self.done, 'unit was', 'units were')} done here")
                    return
        except BaseException as error:
            why = one_line(error, 300)
            if not isinstance(error, MdfError):
                why = f"it was stopped ({why or type(error).__name__})"
            for slot in slots:
                slot.say_bye(why)
            raise
        finally:
            _end(slots)


class _Slot:
    """One worker: its channel to the leader, and its process."""

    def __init__(self, work: Work, leader: dict[str, Any], number: int) -> None:
        self.work, self.leader = work, Owner(**leader["owner"])
        self.device = work.names[number % len(work.names)]
        self.worker = SpawnedWorker(self.device, work.resources.threads)
        self.number = 0  # of the unit
        self.stopped = ""
        self.backlog: list[dict[str, Any]] = []  # messages that came with the welcome
        self.study: tuple[str, Study] | None = None
        owner = Owner.new()
        tail = f".{number}" if work.size > 1 else ""
        self.name = f"{owner.host}-{owner.pid}{tail}"
        self.folder = work.path / FOLDER
        self.heard = self.beaten = self.looked = time.monotonic()
        self.channel = self._connected(leader, f"{owner.label}-{owner.pid}-{number}-{secrets.token_hex(4)}")
        try:
            welcome = self._welcomed(leader, owner)
        except BaseException:
            self.channel.close()
            raise
        self.run = Run(work.path)
        self.run.lease = Lease(work.path, *welcome["lease"])
        self.data = work.data or Path(welcome["data"])
        if not self.data.is_dir():
            self.say_bye(f"its machine has no folder {self.data}")
            self.channel.close()
            raise ConfigError(
                f"{self.data}: expected the data set of the leader, found no such folder; name it with --data"
            )
        self.resources = replace(
            work.resources,
            trust_pickle=bool(welcome["trust_pickle"]),
            tensorboard=bool(welcome["tensorboard"]),
        )

    # -- joining

    def _connected(self, leader: dict[str, Any], name: str) -> Channel:
        if leader["connect"] == "files":
            place = self.folder / f"{name}.said"
            return FileChannel(place, place.with_suffix(".heard"))
        places = [(str(host), int(port)) for host, port in leader["addresses"]]
        if self.leader.host != Owner.new().host:
            places = [place for place in places if not place[0].startswith("127.")] or places
        found = connected(places)
        if found is None:
            raise _LeaderGoneError(
                f"{self.work.path}: the leader on {self.leader.host} does not answer at "
                f"{', '.join(f'{host}:{port}' for host, port in places)}; where machines may not connect, start it "
                "with --connect files"
            )
        return TcpChannel(found)

    def _welcomed(self, leader: dict[str, Any], owner: Owner) -> dict[str, Any]:
        """What the leader lets us know once it has let us in. Raises StoreError where it does not."""
        nonce, mark = secrets.token_hex(16), f"here-{secrets.token_hex(8)}"
        try:
            key = key_of(self.folder)
            (self.folder / mark).touch(exist_ok=False)
        except OSError as error:
            raise StoreError(f"{error.filename}: cannot be used: {error.strerror}; is it the leader's?") from error
        self.channel.send({"here": self.name})
        until = time.monotonic() + 2 * HELLO_SECONDS
        try:
            while time.monotonic() < until:
                self.backlog = self._received()
                while self.backlog:
                    message = self.backlog.pop(0)  # what follows the welcome is a unit
                    if "challenge" in message:
                        hello = {
                            "name": self.name,
                            "owner": asdict(owner),
                            "device": self.device,
                            "code": code_version(),
                            "mark": mark,
                            "nonce": nonce,
                            "proof": proof(key, "worker", str(message["challenge"]), leader["secret"]),
                        }
                        self.channel.send({"hello": hello})
                    elif "refused" in message:
                        raise StoreError(
                            f"{self.work.path}: the leader on {self.leader.host} refuses this worker: "
                            f"{one_line(message['refused'], 500)}"
                        )
                    elif "welcome" in message:
                        if not proves(key, message["welcome"]["proof"], "leader", nonce):
                            raise StoreError(f"{self.work.path}: who answers for the leader does not have its key")
                        return dict(message["welcome"])
                if self.channel.source is None:
                    time.sleep(POLL_SECONDS)
                else:
                    wait([self.channel.source], timeout=0.5)
        finally:
            with contextlib.suppress(OSError):
                (self.folder / mark).unlink()
        raise StoreError(
            f"{self.work.path}: the leader on {self.leader.host} does not answer; is this its run folder, on a file "
            "system that both machines share?"
        )

    # -- working

    @property
    def sources(self) -> list[Any]:
        """What becomes readable."""
        if self.stopped:
            return []
        found = [self.channel.source] if self.channel.source is not None else []
        return [*found, self.worker.source] if self.worker.unit is not None else found

    def step(self) -> None:
        """Pass on what the leader and the process have said. Raises _LeaderGoneError."""
        if self.stopped:
            return
        messages, self.backlog = [*self.backlog, *self._received()], []
        for message in messages:
            self._obey(message)
        now = time.monotonic()
        if now - self.looked >= LOOK:
            self.looked = now
            if not self.stopped and (now - self.heard > LEASE or self.leader.life is Life.DEAD):
                raise self._gone()
        if now - self.beaten >= BEAT:
            self.beaten = now
            self.channel.send({"beat": 1})
        if self.worker.unit is not None and wait([self.worker.source], timeout=0):
            for report in self.worker.hear():
                self._pass_on(report)

    def _received(self) -> list[dict[str, Any]]:
        try:
            messages = self.channel.receive()
        except EOFError:
            raise self._gone() from None
        if messages:
            self.heard = time.monotonic()
        return messages

    def _gone(self) -> _LeaderGoneError:
        return _LeaderGoneError(
            f"{self.work.path}: the leader on {self.leader.host} is gone; nothing more is committed here"
        )

    def _obey(self, message: dict[str, Any]) -> None:
        if "unit" in message:
            self.number = message["unit"]
            try:
                unit = to_unit(message, self._study(message["pipeline"]), self.run, self.data)
            except MdfError as error:
                self.channel.send({"lost": self.number, "words": str(error), "exitcode": None})
                raise
            self.worker.give(run_together if self.work.is_group else run_unit, (unit, self.resources))
        elif "drop" in message and message["drop"] == self.number:
            self._drop()
        elif "save" in message and message["save"] == self.number:
            self.worker.terminate()
        elif "stop" in message:
            self.stopped = f"{self.work.path}: {one_line(message['stop'], 500)}"
            self._drop()

    def _drop(self) -> None:
        """Kill the process that is at a unit, and remove what it left unfinished."""
        if self.worker.unit is None:
            return
        unit: Unit = self.worker.unit[0]
        self.worker.kill()
        unit.inputs.run.clear(unit.stage.name)

    def _study(self, sha256: str) -> Study:
        """The study of the run, as the leader wrote it; on a shared file system it may be late."""
        until = time.monotonic() + LATE_SECONDS
        while self.study is None or self.study[0] != sha256:
            listed(self.work.path)
            found = bytes_sha256(self.work.path / KEPT)
            if found == sha256:
                self.study = found, Study.kept(self.work.path)
            elif time.monotonic() > until:
                raise StoreError(
                    f"{self.work.path / KEPT}: is not what the leader wrote; expected one file system that both share"
                )
            else:
                time.sleep(POLL_SECONDS)
        return self.study[1]

    def _pass_on(self, report: UnitReport) -> None:
        kind, (unit, _), value, _ = report
        if kind is Step.TOLD:
            self.channel.send({"told": self.number, "event": of_event(value)})
            return
        self.work.done += kind is Step.DONE
        if kind is Step.DONE:
            self.channel.send({"ended": self.number, "event": of_event(value)})
        elif kind is Step.LOST:
            if self.work.is_group:  # the others wait for it in vain
                raise MdfError(value.words)
            unit.inputs.run.clear(unit.stage.name)
            self.channel.send({"lost": self.number, "words": value.words, "exitcode": value.exitcode})
        else:
            self.channel.send({"error": self.number, "words": f"{type(value).__name__}: {value}"})

    def say_bye(self, words: str) -> None:
        """Tell the leader that this worker leaves, so that it need not wait for signs of life."""
        with contextlib.suppress(EOFError):
            self.channel.send({"bye": words})


def _end(slots: list[_Slot]) -> None:
    """End the processes; a training saves its state first."""
    asked = [slot.worker for slot in slots if slot.worker.unit is not None and slot.worker.unit[0].stage.together]
    for worker in asked:
        worker.terminate()
    until = time.monotonic() + SAVING_SECONDS
    for worker in asked:
        worker.join(max(until - time.monotonic(), 0))
    for slot in slots:
        slot._drop()
        slot.worker.kill()
        slot.channel.close()


def work(
    run: str | os.PathLike[str],
    *,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    data: Path | None = None,
    wait_seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Join the leader of a run folder and work for it until it ends; return the number of units done here.

    Under `torchrun` all processes are one worker, which trains together: the first joins, the others follow it.
    Raises MdfError where no leader comes in `wait_seconds`, where it refuses, or where it is gone.
    """
    if together.rank() > 0:
        with TogetherExecutor(resources) as executor, contextlib.suppress(CopyError):  # the first one has ended
            executor.follow()
        return 0
    here = Work(Path(run), resources, data, say)
    here.join(wait_seconds)
    return here.done
