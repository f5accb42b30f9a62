"""Status: how far a run is, stage by stage, from its receipts, its events, and what settings and data ask for.

Without the data, or parts of them, their state is taken from the receipts, and a note reports that.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from mdfpipe.errors import MdfError, counted, one_line
from mdfpipe.machine.devices import CPU
from mdfpipe.running.hashing import ALL
from mdfpipe.running.pace import Pace
from mdfpipe.running.plan import Item, Plan, made_without
from mdfpipe.running.runner import Runner
from mdfpipe.stages import Stage
from mdfpipe.stages.hashing import Hash
from mdfpipe.store.environment import read_environment
from mdfpipe.store.files import given_path
from mdfpipe.store.left_out import of_crops, of_stage, without_crops
from mdfpipe.store.run import Failure, Run
from mdfpipe.study.study import Study, open_run

_OFFLINE = "; compared with the settings alone, not with the data"


@dataclass
class StageStatus:
    """One stage: units by state, rows by status, and what the events say of time.

    rate_per_minute: units finished a minute of work. eta_seconds: for what is due, at that rate and the
    number of workers of the last call; None where nothing was timed yet. devices: the units that finished on each
    device, such as cuda:1, where the events tell.
    """

    stage: str
    total: int = 0
    done: int = 0
    due: int = 0
    failed: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    rate_per_minute: float | None = None
    eta_seconds: float | None = None
    active: list[str] = field(default_factory=list)
    devices: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass
class WorkerStatus:
    """A joined worker that is there now. place: host, batch job and device. unit: what it is at; "" while idle.

    rate: in frames (or crops, ...) a second, of the unit that it is at; None before the first sign of it.
    """

    name: str
    place: str
    unit: str = ""
    rate: float | None = None
    finished: int = 0


@dataclass
class Status:
    """A run: its study, data root, stages, and the units that failed with their reasons.

    incomplete: videos done though damaged or short, by detect.incomplete=keep and label.short=keep. left_out: the crops
    that settings leave out, in words. unreadable: a line for each stage whose results are without crops that do not
    decode. lock: who works in it now, or "". workers: those that have joined it and are
    there now. workers_lost, given_again: of the last call, those that left before its end, and units given again.
    losses: of the last call, each unit that was given again: unit, worker, and why (words, with host, job and device).
    """

    name: str
    run: str
    data: str
    stages: list[StageStatus]
    failures: list[dict[str, str]]
    incomplete: list[dict[str, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    lock: str = ""
    workers: list[WorkerStatus] = field(default_factory=list)
    workers_lost: int = 0
    given_again: int = 0
    losses: list[dict[str, str]] = field(default_factory=list)


def status(path: str | PathLike[str]) -> Status:
    """Return the state of the run folder `path`, without a lock. Raises MdfError if it is no run folder."""
    path = given_path("run", path)
    study, run, data = open_run(path)
    holder = run.holder()
    found = Status(study.name, str(path), str(data), [], [], lock=str(holder or ""))
    plan = _plan(study, run, data)
    offline = Plan(study.stages, run, data, made_without(run), offline=True)
    if isinstance(plan, Plan):
        offline.receipts = plan.receipts
    timings = _timings(run)
    if holder is None or holder.silent:
        timings.active.clear()  # what a killed process was at, nobody is at
        timings.workers.clear()
    found.workers = list(timings.workers.values())
    found.workers_lost, found.given_again, found.losses = timings.lost, len(timings.losses), timings.losses
    environment = read_environment(path)
    workers = max(environment.workers if environment else 1, timings.most)
    for stage in study.stages:
        one = _stage_status(stage, plan, offline, found)
        times = [seconds for (name, _), seconds in timings.finished.items() if name == stage.name]
        one.seconds = sum(times)
        if times and one.seconds > 0:
            one.rate_per_minute = 60.0 * len(times) / one.seconds
            one.eta_seconds = one.due * one.seconds / len(times) / max(1, min(workers, one.due))
        own = [unit for unit in timings.active if unit[0] == stage.name]
        hashing = [unit for unit in timings.active if unit == (Hash.name, ALL) and stage.name == "index"]
        one.active = [timings.now(unit) for unit in (*own, *hashing)]
        one.devices = timings.on_devices(stage.name)
        found.stages.append(one)
    return found


def _plan(study: Study, run: Run, data: Path) -> Plan | MdfError:
    """The plan, or why not even its index can be judged."""
    try:
        plan = Runner(study, run, data).plan(allow_missing=made_without(run))
        _ = plan.index
    except MdfError as error:
        return error
    return plan


def _stage_status(stage: Stage, plan: Plan | MdfError, offline: Plan, status: Status) -> StageStatus:
    """The figures of one stage; its failures, and what it kept though incomplete, go into `status`."""
    result = StageStatus(stage.name)
    units = list[tuple[Item, Failure | None]]()
    try:
        if isinstance(plan, MdfError):
            raise plan
        if stage.name != "index" and plan.index.reason is not None:
            result.note = f"waits for index ({plan.index.reason})"
            return result
        units = _planned(stage, plan)
    except MdfError as error:
        words = f"{error}{_OFFLINE}"
        result.note = next((f"as {s.stage}" for s in status.stages if s.note == words), words)
        with contextlib.suppress(MdfError):
            units = _planned(stage, offline) if stage.name == "index" or offline.index.found else []
    done = {item.key: item.found.facts for item, _ in units if item.reason is None and item.found}
    status.unreadable += of_stage(stage.name, done)
    status.left_out += [*of_crops(done), *without_crops(done)] if stage.name == "crop" else []
    rows: Counter[str] = Counter()
    for item, failure in units:
        if failure is not None:
            known = {"stage": stage.name, "key": item.key, "kind": failure.kind, "reason": failure.message}
            status.failures.append(known)
        facts = done.get(item.key, {})
        rows.update(facts.get("rows", {}))
        if stage.per == "video" and (reason := _incomplete(facts)):
            status.incomplete.append({"stage": stage.name, "key": item.key, "reason": reason})
        result.total += 1
        result.done += item.key in done
        result.failed += failure is not None
        result.due += item.key not in done and failure is None
    result.rows = dict(sorted(rows.items()))
    return result


def _planned(stage: Stage, plan: Plan) -> list[tuple[Item, Failure | None]]:
    """The units of a stage, those that are due with their failures. Raises MdfError where they cannot be read."""
    items = plan.items(stage)
    return [(item, plan.run.failure(stage.name, item.key) if item.reason is not None else None) for item in items]


def _incomplete(facts: dict[str, Any]) -> str:
    """What is missing of a video that was kept all the same."""
    beyond = facts.get("faces_beyond_the_end")
    return facts.get("incomplete") or (f"{counted(beyond, 'face')} in frames that were not delivered" if beyond else "")


_Unit: TypeAlias = tuple[str, str]  # stage, key


@dataclass
class Timings:
    """What the events tell. finished: seconds of the last finish of each unit. active: units started and not ended,
    with how far they are. device: where a unit started last. most: the most units at work at once, in the last call.
    workers: joined workers that are there; lost, losses: how many left, and the units given again, in the last call.
    """

    finished: dict[_Unit, float] = field(default_factory=dict)
    active: dict[_Unit, str] = field(default_factory=dict)
    device: dict[_Unit, str] = field(default_factory=dict)
    most: int = 0
    workers: dict[str, WorkerStatus] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)  # of the units that they are at
    lost: int = 0
    losses: list[dict[str, str]] = field(default_factory=list)

    def of_worker(self, event: dict[str, Any]) -> None:
        """Take in what an event tells of a joined worker."""
        kind, unit = event["event"], f"{event.get('stage', '')}/{event.get('key', '')}"
        if kind == "call":
            self.workers, self.lost, self.losses = {}, 0, []
        elif kind == "joined":
            name = one_line(event.get("key", ""), 80)
            self.workers[name] = WorkerStatus(name, one_line(event.get("words", ""), 200))
        elif kind == "left":
            self.workers.pop(event.get("key", ""), None)
            self.lost += 1
        elif kind == "again":
            by, why = one_line(event.get("worker", ""), 80), one_line(event.get("words", ""), 500)
            self.losses.append({"unit": one_line(unit, 200), "worker": by, "words": why})
        worker = self.workers.get(event.get("worker", ""))
        if worker is None:
            return
        if kind == "started":
            worker.unit, worker.rate, self.paces[worker.name] = one_line(unit, 200), None, Pace(event["time"])
        elif kind == "progress":
            now, done = event["time"], event.get("done") or 0
            pace = self.paces[worker.name] = self.paces.get(worker.name, Pace(now)).at(done, event.get("total"), now)
            rate = pace.rate(done, now)
            worker.rate = round(rate, 1) if rate is not None else None
        else:
            worker.unit, worker.rate = "", None
            worker.finished += kind == "finished"

    def now(self, unit: _Unit) -> str:
        """A unit at work, how far it is, and on which GPU."""
        device = self.device.get(unit, CPU)
        return f"{unit[1]} {self.active[unit]}" + ("" if device == CPU else f" on {device}")

    def on_devices(self, stage: str) -> dict[str, int]:
        """The number of units of a stage that finished, by their device."""
        known = (self.device[unit] for unit in self.finished if unit[0] == stage and unit in self.device)
        return dict(sorted(Counter(known).items()))


def _timings(run: Run) -> Timings:
    found = Timings()
    for event in run.events():
        found.of_worker(event)
        unit = (event.get("stage", ""), event.get("key", ""))
        if event["event"] == "call":  # a new call: whatever ran before has ended
            found.active.clear()
            found.most = 0
        elif event["event"] in ("started", "progress"):
            total = f" of {event['total']}" if event.get("total") else ""
            found.active[unit] = f"{event['done']}{total}" if event.get("done") is not None else ""
            found.most = max(found.most, len(found.active))
            if event.get("device"):
                found.device[unit] = event["device"]
        else:
            found.active.pop(unit, None)
            if event["event"] == "finished" and "seconds" in event:
                found.finished[unit] = float(event["seconds"])
    return found
