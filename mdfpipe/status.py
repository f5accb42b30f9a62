"""Status: how far a run is, stage by stage, from its receipts and events alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdfpipe.errors import MdfError
from mdfpipe.pipeline import Runner, open_run
from mdfpipe.plan import Plan
from mdfpipe.stages import Stage
from mdfpipe.store.run import Run


@dataclass
class StageStatus:
    """One stage: units by state, rows by status, and what the events say of time.

    rate_per_minute: units finished a minute of work. eta_seconds: for what is due, at that rate and the
    number of workers of the last call; None where nothing was timed yet.
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
    note: str = ""


@dataclass
class Status:
    """A run: its study, data root, stages, and the units that failed with their reasons."""

    name: str
    run: str
    data: str
    stages: list[StageStatus]
    failures: list[dict[str, str]]
    incomplete: list[dict[str, str]] = field(default_factory=list)


def status(path: Path) -> Status:
    """The state of the run folder `path`. Writes nothing and needs no lock. Raises MdfError."""
    pipeline, run, data = open_run(path)
    plan = Runner(pipeline, run, data).plan()
    finished, active = _timings(run)
    workers = json.loads((path / "environment.json").read_text())["resources"]["workers"]
    failures: list[dict[str, str]] = []
    stages = []
    for stage in plan.stages:
        found = _stage_status(stage, plan, failures)
        times = [seconds for (name, _), seconds in finished.items() if name == stage.name]
        found.seconds = sum(times)
        if times and found.seconds > 0:
            found.rate_per_minute = 60.0 * len(times) / found.seconds
            found.eta_seconds = found.due * found.seconds / len(times) / max(1, min(workers, found.due))
        found.active = [f"{key} {done}" for (name, key), done in active.items() if name == stage.name]
        stages.append(found)
    return Status(pipeline.name, str(path), str(data), stages, failures, _kept_incomplete(plan))


def _stage_status(stage: Stage, plan: Plan, failures: list[dict[str, str]]) -> StageStatus:
    result = StageStatus(stage.name)
    if stage.name != "index" and plan.index.reason is not None:
        result.note = f"waits for index ({plan.index.reason})" if not plan.catalogue else "waits for index"
        return result
    try:
        items = plan.items(stage)
    except MdfError as error:
        result.note = str(error)
        return result
    rows: Counter[str] = Counter()
    for item in items:
        failure = plan.run.failure(stage.name, item.key) if item.reason is not None else None
        if failure is not None:
            failures.append({"stage": stage.name, "key": item.key, "kind": failure.kind, "reason": failure.message})
        if item.found is not None:
            rows.update(item.found.facts.get("rows", {}))
        result.total += 1
        result.done += item.reason is None
        result.failed += failure is not None
        result.due += item.reason is not None and failure is None
    result.rows = dict(sorted(rows.items()))
    return result


def _kept_incomplete(plan: Plan) -> list[dict[str, str]]:
    """The videos that are done though damaged or short, by detect.incomplete=keep and label.short=keep."""
    kept = []
    for stage in plan.stages if plan.index.found else ():
        for item in plan.items(stage) if stage.per == "video" else ():
            facts = item.found.facts if item.found else {}
            beyond = facts.get("faces_beyond_the_end")
            reason = facts.get("incomplete") or (f"{beyond} faces in frames that were not delivered" if beyond else "")
            if reason:
                kept.append({"stage": stage.name, "key": item.key, "reason": reason})
    return kept


def _timings(run: Run) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """Seconds of the last finish of each unit; and units started and not ended, with how far they are."""
    finished: dict[tuple[str, str], float] = {}
    active: dict[tuple[str, str], str] = {}
    for event in run.events():
        unit: Any = (event.get("stage", ""), event.get("key", ""))
        if event["event"] == "call":  # a new call: whatever ran before has ended
            active.clear()
        elif event["event"] in ("started", "progress"):
            total = f" of {event['total']}" if event.get("total") else ""
            active[unit] = f"{event['done']}{total}" if "done" in event else ""
        else:
            active.pop(unit, None)
            if event["event"] == "finished":
                finished[unit] = event["seconds"]
    return finished, active
