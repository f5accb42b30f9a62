"""Runner: run what is due of a study in a run folder, and report the outcome."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from mdfpipe import __version__
from mdfpipe.config import texts_of
from mdfpipe.errors import ConfigError, Damaged, DataError, some
from mdfpipe.learning.gpus import fastest_precision
from mdfpipe.learning.system import with_ancestors
from mdfpipe.learning.train.log import check_board
from mdfpipe.learning.train.together import refuse_copies
from mdfpipe.machine.devices import CPU
from mdfpipe.running.engines import with_engine
from mdfpipe.running.execution import Event, Executor, LocalExecutor, TogetherExecutor, Unit, executor_of
from mdfpipe.running.hashing import Hashing, is_for_people
from mdfpipe.running.plan import Item, Plan
from mdfpipe.stages import Resources, Stage
from mdfpipe.stages.crop import Crop
from mdfpipe.stages.detect import Detect
from mdfpipe.stages.embed import Embed
from mdfpipe.stages.evaluate import Evaluate
from mdfpipe.stages.hashing import Hash
from mdfpipe.stages.index import Index
from mdfpipe.stages.label import Label
from mdfpipe.stages.shared_pass import BEFORE
from mdfpipe.stages.track import Track
from mdfpipe.stages.train import Train
from mdfpipe.store.environment import commit
from mdfpipe.store.files import given_path
from mdfpipe.store.run import Failure, Run
from mdfpipe.study.seeds import members
from mdfpipe.study.study import KEPT, Study


@dataclass
class Tally:
    """What became of a stage in one call."""

    total: int = 0
    already: int = 0
    ran: int = 0
    failed: int = 0
    blocked: int = 0
    rows: int = 0
    note: str = ""


@dataclass
class Outcome:
    """Outcome of a call: a tally by stage, failures, refused run-level stages, warnings, notes.

    mended: the parts that were found damaged and made again. workers_lost, given_again: of joined workers, those that
    left before the end, and how often a unit was given to another.
    """

    tallies: dict[str, Tally] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    workers_lost: int = 0
    given_again: int = 0

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is done."""
        return not self.failures and not self.refused and not any(t.blocked for t in self.tallies.values())

    def is_made(self, stage: str) -> bool:
        """Whether every unit of a stage that this call looked at is done now, and there was one."""
        tally = self.tallies.get(stage, Tally())
        return 0 < tally.total == tally.already + tally.ran

    @property
    def failed(self) -> set[tuple[str, str]]:
        """The units that failed in this call: they are not tried twice."""
        return {(failure.stage, failure.key) for failure in self.failures}

    def refuse(self, line: str) -> None:
        """Note that a run-level stage was refused, and why."""
        self.refused = [*(other for other in self.refused if other != line), line]


Listener = Callable[[Event], None]


@dataclass
class Call:
    """One call of the runner: what was asked for, and its outcome so far.

    found, before: the parts that were found damaged in this pass over the stages, and in the passes before it. keys:
    of parts that this call made again in stages before those asked for. ahead: the rows of each part that was made with
    those before it, by stage and key, until the stages before it are reviewed.
    """

    stages: list[Stage]
    only: list[str] | None
    strict: bool
    outcome: Outcome
    listen: Listener
    found: set[tuple[str, str]] = field(default_factory=set)
    before: set[tuple[str, str]] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    ahead: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def retry(self) -> bool:
        """Whether videos that could not be read are looked at again."""
        return self.stages[0].name == "index" and not self.before

    def take(self, damage: Damaged) -> None:
        """Note a part that was found damaged. Raises the error again where it has none, or was found so before."""
        if not damage.stage or (damage.stage, damage.key) in self.before:
            raise damage
        self.found.add((damage.stage, damage.key))

    def begin_again(self) -> None:
        """Another pass over the stages begins."""
        self.before |= self.found
        self.found = set()


def run(
    study: str | PathLike[str] | Study,
    *,
    data: str | PathLike[str],
    run: str | PathLike[str],
    first: str | None = None,
    last: str | None = None,
    settings: Sequence[str] = (),
    systems: Sequence[str] = (),
    only: Sequence[str] = (),
    strict: bool = False,
    allow_missing: bool = False,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    listen: Listener = lambda event: None,
) -> Outcome:
    """Run all that is due of a study, from stage `first` to `last`; return the outcome.

    study: a YAML file, a name of `mdfpipe studies`, or a study. data: the data root. run: the run folder.
    settings: such as "detect.stride=2", for a study from a file. systems, only: run only these systems, these
    videos. Raises MdfError if nothing can run; failed videos are in `Outcome.failures`.
    """
    if not isinstance(study, Study):
        study = Study.load(study, texts_of("settings", settings, "detect.stride=2"))
    elif settings:
        raise ConfigError("settings: expected none with a study that is loaded; give them to Study.load")
    folder, root = Run(given_path("run", run)), given_path("data", data)
    named = texts_of("systems", systems, "body")
    made = Runner(study.strict() if strict else study, folder, root, resources, systems=named)
    wanted = texts_of("only", only, "videos/a") or None
    return made.execute(first, last, only=wanted, strict=strict, allow_missing=allow_missing, listen=listen)


class Runner:
    """Runs what is due of a study in a run folder."""

    def __init__(
        self,
        study: Study,
        run: Run,
        data: str | PathLike[str],
        resources: Resources = Resources(),  # noqa: B008 - frozen
        executor: Executor | None = None,
        systems: list[str] | None = None,
    ) -> None:
        """systems: of all that the study names, only these and what they start from."""
        data = given_path("data", data)
        if not data.is_dir():
            found = "a file" if data.is_file() else "no such folder"
            raise DataError(f"--data {data}: expected the folder that holds the videos, found {found}")
        if run.path.exists() and not run.path.is_dir():
            raise ConfigError(f"--run {run.path}: expected a folder, found a file")
        if run.path.resolve() == data.resolve():
            raise ConfigError(f"--run {run.path}: expected a folder of its own, got the data folder")
        self.study, self.run, self.resources = study, run, resources
        self.data = Path(os.path.abspath(data))  # noqa: PTH100 - without `..`, and symbolic links as they were given
        self.stages = study.stages
        if systems:
            chosen = with_ancestors(study.trainings, members(systems, study.seeds), study.seeds)
            before = (s for s in self.stages if not isinstance(s, Evaluate))
            kept = (s for s in before if not isinstance(s, (Train, Embed)) or s.system in chosen)
            self.stages = (*kept, *study.evaluating(chosen))
        self.executor = executor or executor_of(resources)

    @property
    def leads(self) -> bool:
        """Whether this process does the planning; under `torchrun` only the first one does."""
        return self.executor.leads

    def plan(self, *, allow_missing: bool = False, retry: bool = False) -> Plan:
        """What is done and what is due, now. retry: videos that could not be read are looked at again."""
        return Plan(self.stages, self.run, self.data, allow_missing, retry)

    def span(self, first: str | None, last: str | None) -> list[Stage]:
        """The stages from `first` to `last`, both included. Raises ConfigError."""
        stages = list(self.stages)
        groups = [stage.name.partition("/")[0] for stage in stages]
        names = list(dict.fromkeys(groups))
        for option, name in (("--from", first), ("--until", last)):
            if name == "evaluate" and (lacking := self._lacking()):
                raise ConfigError(f"--system: {lacking}; name all of a table, or leave --system out")
            if name in ("train", "embed", "evaluate") and name not in names:
                raise ConfigError(f"the study names no systems: there is nothing to {name}; add `systems:`")
            if name == "track" and "detect" in names and name not in names:
                raise ConfigError(f"{option} track: the study has no section track; add `track: {{use: bytetrack}}`")
            if name in ("detect", "track", "label") and name not in names:
                raise ConfigError(
                    f"the study's data set, {self.study.dataset.use}, holds images of one person each: there is "
                    f"nothing to {name}; `mdfpipe run` does the rest"
                )
            if name is not None and name not in names:
                raise ConfigError(f"{option} {name}: expected one of {', '.join(names)}")
        begin = groups.index(first) if first else 0
        end = len(groups) - groups[::-1].index(last) if last else len(groups)
        if begin >= end:
            raise ConfigError(f"--from {first} comes after --until {last}: expected an order of {', '.join(names)}")
        return stages[begin:end]

    def _lacking(self) -> str:
        """What the nearest table needs besides the systems that were asked for; "" where there is a table of them."""
        if any(isinstance(stage, Evaluate) for stage in self.stages) or not self.study.trainings:
            return ""
        return self.study.lacking([stage.system for stage in self.stages if isinstance(stage, Embed)])

    def due(self, first: str | None, last: str | None, only: list[str] | None = None) -> list[str]:
        """A line for each unit that a call would run, and why. Writes nothing, but notes damage that it finds."""
        stages = self.span(first, last)
        self._check_files(stages)
        found = set[tuple[str, str]]()
        while True:
            try:
                return self._due(stages, only)
            except Damaged as error:
                if not error.stage or (error.stage, error.key) in found:
                    raise
                found.add((error.stage, error.key))

    def _due(self, stages: list[Stage], only: list[str] | None) -> list[str]:
        lines, shared, alone = list[str](), dict[tuple[str, str], str](), dict[tuple[str, str], str]()
        plan = self.plan(retry=stages[0].name == "index")
        self._check_only(only, plan)
        for stage in [*self._before(stages), *stages]:
            if stage.name != "index" and plan.index.reason is not None:
                if stage in stages:
                    lines.append(f"{stage.name}: every video that the index changes or adds (known once it is made)")
                continue
            items = [item for item in plan.items(stage) if self._chosen(item, only)]
            items = items if stage in stages else [item for item in items if item.damaged]
            for item in (item for item in items if item.reason):
                later, why = self._then(item, plan, stages)
                shared |= {(up.stage.name, up.key): stage.name for up in later}
                alone |= {("crop", item.key): f"; decodes the video again: {why}"} if why else {}
                first, again = shared.get((stage.name, item.key)), alone.get((stage.name, item.key), "")
                how = f" (with {first})" if first else f" (after {item.blocked}{again})" if item.blocked else ""
                if isinstance(stage, Index):
                    hashing = Hashing(stage, self.run, self.data, item.expected.upstream)
                    how = f" ({hashing})" if hashing.units else ""
                lines.append(f"{item}{how}")
        return lines

    def execute(
        self,
        first: str | None = None,
        last: str | None = None,
        *,
        only: list[str] | None = None,
        strict: bool = False,
        allow_missing: bool = False,
        listen: Listener = lambda event: None,
    ) -> Outcome:
        """Run all that is due from stage `first` to `last`. Raises MdfError if the run cannot continue."""
        stages, outcome = self.span(first, last), Outcome()
        if last is None and (lacking := self._lacking()):
            outcome.notes.append(f"evaluate: nothing to compare: {lacking}")
        if any(stage.together for stage in stages):
            refuse_copies()
        self._check_files(stages)
        if not self.leads:
            with self.executor:
                self.executor.follow()
            return outcome
        if isinstance(self.executor, TogetherExecutor):
            self.executor.listen = listen
        if self.run.is_read_only and not self.due(first, last, only):
            self._count(stages, only, outcome)
            return outcome
        with self.run.lock(), self.executor:
            study = self.study.to_yaml().encode()
            self.run.write(KEPT, study)
            self.run.write("environment.json", self._environment(study))
            self.run.event("call", argv=sys.argv[1:])
            call = Call(stages, only, strict, outcome, listen)
            while True:
                try:
                    if not self._pass(call, self.plan(allow_missing=allow_missing, retry=call.retry)):
                        return outcome
                except Damaged as error:
                    call.take(error)
                call.begin_again()

    def _count(self, stages: list[Stage], only: list[str] | None, outcome: Outcome) -> None:
        """The tallies of a call that has nothing to do."""
        plan = self.plan()
        for stage in stages:
            number = sum(self._chosen(item, only) for item in plan.items(stage))
            outcome.tallies[stage.name] = Tally(number, number)
        outcome.notes.append(f"{self.run.path} cannot be written; nothing is due")

    def _pass(self, call: Call, plan: Plan) -> bool:
        """Do each stage once; whether a part was found damaged, so that one has to begin again."""
        self._check_only(call.only, plan)
        outcome, stages = call.outcome, call.stages
        for stage in self._before(stages):
            if (plan.index.found is not None or stage.name == "index") and self._mend(stage, plan, call):
                return True
        for stage in stages:
            if stage.name != "index" and plan.index.reason is not None:
                raise DataError(
                    f"{self.run.path}: index: {plan.index.reason}; run `mdfpipe detect` or `mdfpipe run` first"
                )
            tally = outcome.tallies.setdefault(stage.name, Tally())
            if stage.per == "run" and stage.name != "index":
                if call.only:
                    tally.note = "not made, because of --only"
                    continue
                if self._refuses(stage, plan, outcome, tally):
                    continue
            if self._run_stage(stage, plan, call):
                return True
            if call.strict and outcome.failures:
                break
        return False

    def _before(self, stages: list[Stage]) -> list[Stage]:
        """The stages before those that were asked for."""
        return list(self.stages[: self.stages.index(stages[0])])

    def _mend(self, stage: Stage, plan: Plan, call: Call) -> bool:
        """Make again what is damaged of a stage before those asked for, and what that makes due; then as `_run_stage`.

        All else that is due there is left to a call that asks for it.
        """
        due = [item for item in plan.items(stage) if item.reason is not None and self._chosen(item, call.only)]
        mended = [i for i in due if i.damaged or i.key in call.keys or (stage.per == "run" and call.keys)]
        if stage.per == "run" and stage.name != "index":
            mended = [] if call.only or (plan.missing(stage) and not plan.allow_missing) else mended
        if not mended:
            if plan.index.found is not None:
                self._review(stage, plan, call)  # a stop holds for whoever starts after it, too
            return False
        call.keys |= {item.key for item in mended}
        return self._run_stage(stage, plan, call, mended)

    def _run_stage(self, stage: Stage, plan: Plan, call: Call, only: list[Item] | None = None) -> bool:
        """Do what is due of a stage, or `only` that; whether a part that it reads was found damaged."""
        outcome, tally = call.outcome, call.outcome.tallies.setdefault(stage.name, Tally())
        if stage.name != "index":
            self._check_only(call.only, plan)
        items = [item for item in plan.items(stage) if self._chosen(item, call.only)]
        due = [item for item in items if item.reason is not None] if only is None else only
        tally.total, tally.already = len(items), max(len(items) - len(due) - tally.ran, 0)
        if any(item.reason is None for item in items):
            stage.tidy(self.run)
        for item in items:
            if item.reason is None and plan.has_failed(stage.name, item.key):
                self.run.forget_failure(stage.name, item.key)  # done under these settings, whatever failed under others
        ready = [item for item in due if item.blocked is None and (stage.name, item.key) not in outcome.failed]
        tally.blocked = sum(item.blocked is not None for item in due)
        tally.note = self._waiting(stage, plan, outcome) if tally.blocked else ""
        before = len(outcome.failures)
        for item in ready:
            if item.problem is not None:
                self._fail(Failure(stage.name, item.key, "DataError", item.problem), call)
        broken = {item.key for item in ready if item.damaged}
        ready = [item for item in ready if item.problem is None]
        settled = stage
        if ready:
            made = [item.found.facts for item in items if item.found is not None]
            settled, notes = with_engine(stage, made, self.run, self.data, self.resources)
            outcome.notes += notes
        if isinstance(stage, Index) and ready:
            self._hash(Hashing(stage, self.run, self.data, ready[0].expected.upstream), call)
        units = [self._unit(item, settled, plan, call if only is None else None) for item in ready]
        if units and only is None:
            units += self._beside(stage, plan, call)
        begun = {one.stage.name: one.stage for unit in units for one in (unit, *unit.then)}
        for name, total in Counter(one.stage.name for unit in units for one in (unit, *unit.then)).items():
            call.listen(Event("stage", name, "", total=total, words=self._slow(begun[name])))
        damaged, ended, again = False, set[tuple[str, str]](), dict[str, list[str]]()
        for event in self._record(self.executor.run(units)):
            if event.kind == "damaged" and event.damaged is not None and event.failure is not None:
                call.take(Damaged(event.failure.message, *event.damaged))
                damaged = True
            elif event.failure is not None and (event.kind == "fatal" or stage.name == "index"):
                raise DataError(event.failure.message)  # nothing can go on: one line, not one more for a video
            if event.kind == "finished":
                if (event.stage, event.key) in ended:
                    continue  # a worker that was lost had said so before
                ended.add((event.stage, event.key))
            call.listen(event)
            outcome.workers_lost += event.kind == "left"
            outcome.given_again += event.kind == "again"
            if event.kind == "finished":
                if event.words:
                    again.setdefault(event.words, []).append(event.key)
                of_stage = outcome.tallies.setdefault(event.stage, Tally())
                of_stage.ran, of_stage.rows = of_stage.ran + 1, of_stage.rows + event.rows
                if event.stage != stage.name:
                    call.ahead[event.stage, event.key] = event.rows
                elif event.key in broken:
                    outcome.mended.append(f"{stage.name}/{event.key}")
            elif event.kind == "failed" and event.failure is not None:
                outcome.failures.append(event.failure)
                if call.strict:
                    break
        for why, keys in again.items():
            lines = outcome.notes if why == BEFORE else outcome.warnings
            lines.append(f"crop decoded {some(keys, 3)} again: {why}")
        plan.retry = False
        if units:
            plan.forget(stage)
        if not damaged and not (call.strict and len(outcome.failures) > before):
            self._review(stage, plan, call)
        tally.failed = sum(failure.stage == stage.name for failure in outcome.failures)
        return damaged

    def _slow(self, stage: Stage) -> str:
        """That this processor lacks what the stage's precision wants, where it does."""
        # Not for workers that join: they have processors of their own.
        here = type(self.executor) in (LocalExecutor, TogetherExecutor) and self.resources.device == CPU
        if not here or stage.precision_asked != "bf16" or fastest_precision(CPU) == "bf16":
            return ""
        return (
            f"{stage.name}: precision bf16: this processor has no instructions for it, and takes some ten times as "
            "long as in fp32; set precision to fp32, or to auto, which takes the faster one"
        )

    def _beside(self, stage: Stage, plan: Plan, call: Call) -> list[Unit]:
        """The trainings after one that wait for nothing: workers that it leaves idle do them meanwhile."""
        if not stage.together:
            return []
        later = (one for one in call.stages[call.stages.index(stage) + 1 :] if one.together)
        items = [plan.run_item(one) for one in later if plan.allow_missing or not plan.missing(one)]
        due = [item for item in items if item.reason and not (item.blocked or item.problem or item.damaged)]
        return [self._unit(i, i.stage, plan, None) for i in due if (i.stage.name, i.key) not in call.outcome.failed]

    def _hash(self, hashing: Hashing, call: Call) -> None:
        """Hash new videos on all workers; what fails there, the index reports."""
        if not hashing.units:
            return
        call.listen(Event("stage", Hash.name, "", total=1))
        for event in self._record(hashing.events(self.executor.run(hashing.units))):
            call.outcome.workers_lost += event.kind == "left"
            call.outcome.given_again += event.kind == "again"
            if is_for_people(event):
                call.listen(event)

    def _unit(self, item: Item, settled: Stage, plan: Plan, call: Call | None) -> Unit:
        """What a process is given for an item, with what it does next of the same video; for no call, nothing more.

        settled: its stage, with the engine that all units of it take.
        """
        later, why = self._then(item, plan, call.stages, call.outcome.failed) if call else ([], "")
        if call and why and (line := f"crop decodes each video again: {why}") not in call.outcome.notes:
            call.outcome.notes.append(line)
        then = [Unit(one.stage, one.expected, plan.inputs(one), self.data) for one in later]
        return Unit(settled, item.expected, plan.inputs(item), self.data, then=tuple(then))

    def _then(
        self, item: Item, plan: Plan, stages: list[Stage], failed: Set[tuple[str, str]] = frozenset()
    ) -> tuple[list[Item], str]:
        """The items of label and of crop of a video that share the pass of detect; and why they do not, if they could
        under other settings.

        A part of detect that is only damaged is likely to be made as it was, so that nothing else is due. Settings of
        crop that choose among all frames of a video need its labels first, and labels along tracks need all its boxes.
        """
        if not isinstance(item.stage, Detect) or self.resources.separate or item.damaged:
            return [], ""
        later = [plan.item(stage, item.key) for stage in stages if isinstance(stage, (Label, Crop))]
        due = [i for i in later if i.reason is not None and i.problem is None and (i.stage.name, i.key) not in failed]
        if len(due) < 2:
            return [], ""
        for one in due:
            if isinstance(one.stage, Crop) and one.stage.chooses:
                return [], "crop.every and crop.per_subject choose among all its frames"
            if isinstance(one.stage, Label) and one.stage.carries:
                return [], "label.tracks names bodies along tracks, which all its boxes make"
        return due, ""

    def _record(self, events: Any) -> Any:
        """Pass events on, writing them to events.jsonl; of the progress, one line in five seconds for each unit.

        The seconds of a unit that was done in shares are those of all of them.
        """
        told: dict[str, float] = {}
        in_shares: dict[tuple[str, str], float] = {}
        for event in events:
            unit = (event.stage, event.key)
            if event.kind == "finished":
                event = replace(event, seconds=event.seconds + in_shares.pop(unit, 0.0))
            if event.kind != "progress":
                detail: dict[str, Any] = {"rows": event.rows, "seconds": round(event.seconds, 3)}
                if event.kind == "started":
                    detail = {"device": event.device} if event.device else {}
                elif event.words:
                    detail = (detail if event.kind == "finished" else {}) | {"words": event.words}
                elif event.failure is not None:  # of a part that is damaged, too
                    detail = {"kind": event.failure.kind, "message": event.failure.message}
                detail |= {"worker": event.worker} if event.worker else {}
                self.run.event(event.kind, stage=event.stage, key=event.key, **detail)
                yield event
                continue
            in_shares[unit] = in_shares.get(unit, 0.0) + event.seconds
            if time.monotonic() - told.get(event.key, 0.0) > 5.0:
                told[event.key] = time.monotonic()
                by = {"worker": event.worker} if event.worker else {}
                self.run.event("progress", stage=event.stage, key=event.key, done=event.done, total=event.total, **by)
            yield event

    def _review(self, stage: Stage, plan: Plan, call: Call) -> None:
        """Let the stage judge all its videos together; what it fails is due again."""
        outcome = call.outcome
        done = {item.key: item.found for item in plan.items(stage) if item.found is not None}
        review = stage.review({key: receipt.facts for key, receipt in done.items()})
        if outcome.tallies.get(stage.name, Tally()).ran:  # said once, not at every call
            outcome.warnings += [line for line in review.warnings if line not in outcome.warnings]
            outcome.notes += [line for line in review.notes if line not in outcome.notes]
        outcome.warnings += [line for line in review.lasting if line not in outcome.warnings]
        if review.stop:
            self._take_back(stage, call)
            self.run.event("stopped", stage=stage.name, message=review.stop)
            raise DataError(f"{stage.name}: {review.stop}")
        if review.failures:
            self._take_back(stage, call, review.failures)
            plan.forget(stage)
        for key, message in review.failures.items():
            self.run.discard(stage.name, key)
            self._fail(Failure(stage.name, key, "Review", message), call)

    def _take_back(self, stage: Stage, call: Call, refused: Iterable[str] = ()) -> None:
        """Remove parts of later stages that were made before the review of a stage: in this call, all or those of the
        `refused` keys; and what a call that was killed has made from a part that is refused now.
        """
        later = [one.name for one in self.stages[self.stages.index(stage) + 1 :] if one.per == "video"]
        contents = {key: found.content for key in refused if (found := self.run.receipt(stage.name, key))}
        former = {(name, key): self.run.receipt(name, key) for name in later for key in contents}
        made = {unit for unit in call.ahead if unit[0] in later and (unit[1] in contents or not contents)}
        made |= {unit for unit, one in former.items() if one and one.upstream.get(stage.name) == contents[unit[1]]}
        for name, key in made:
            self.run.discard(name, key)
            tally, rows = call.outcome.tallies.setdefault(name, Tally()), call.ahead.pop((name, key), None)
            if rows is not None:
                tally.ran, tally.rows = tally.ran - 1, tally.rows - rows

    def _fail(self, failure: Failure, call: Call) -> None:
        """A unit fails without having been run."""
        self.run.record_failure(failure)
        self.run.event("failed", stage=failure.stage, key=failure.key, kind=failure.kind, message=failure.message)
        call.outcome.failures.append(failure)
        call.listen(Event("failed", failure.stage, failure.key, failure=failure))

    def _refuses(self, stage: Stage, plan: Plan, outcome: Outcome, tally: Tally) -> bool:
        tally.note = self._waiting(stage, plan, outcome)
        if tally.note:
            tally.total, tally.blocked = 1, 1
            return True
        missing = sorted({item.key for item in plan.missing(stage)})
        if not missing or plan.allow_missing:
            return False
        tally.total, tally.blocked, tally.note = 1, 1, "refused"
        undone = f"{len(missing)} of {len(plan.catalogue)} videos are not done ({some(missing)})"
        outcome.refuse(
            f"{stage.name}: not made, because {undone}; "
            "mend them and give the same command again, or leave them out with --allow-missing"
        )
        return True

    @staticmethod
    def _waiting(stage: Stage, plan: Plan, outcome: Outcome) -> str:
        """Which run-level part a stage waits for, and why that is not done, where this call has not said it; or ""."""
        waits = plan.waits(stage)
        if waits is None:
            return ""
        said = waits.stage.name in outcome.tallies
        return f"waits for {waits.stage.name}" + ("" if said else f", which is due: {waits.reason}")

    def _check_files(self, stages: list[Stage]) -> None:
        """Raise ConfigError where a file that a whole stage needs is missing: before hours of hashing or training."""
        for stage in stages:
            if isinstance(stage, Detect):
                stage.detector.check(self.data)
            elif isinstance(stage, Track):
                stage.tracker.check(self.data)
            elif isinstance(stage, (Train, Evaluate)):
                stage.identity(self.data, stage.key)
                if isinstance(stage, Train) and self.resources.tensorboard:
                    check_board()

    @staticmethod
    def _chosen(item: Item, only: list[str] | None) -> bool:
        return not only or item.stage.per == "run" or item.key in only

    @staticmethod
    def _check_only(only: list[str] | None, plan: Plan) -> None:
        """Raise ConfigError where --only names a video that is not in the index, if there is one."""
        unknown = sorted(set(only or ()) - plan.catalogue.keys())
        if unknown and plan.catalogue:
            close = difflib.get_close_matches(unknown[0], plan.catalogue, n=3)
            names = f"did you mean {', '.join(close)}?" if close else f"it has {some(list(plan.catalogue), 3)}"
            raise ConfigError(f"--only {unknown[0]}: no such video in the index; {names}")

    def _environment(self, study: bytes) -> bytes:
        # the folders' names say it: importlib.metadata parses every METADATA for it, 0.2 s
        found = (info.stem for place in sys.path for info in Path(place).glob("*.dist-info"))
        packages = sorted({"==".join(name.rsplit("-", 1)) for name in found})
        facts = {
            "mdfpipe": __version__,
            "commit": commit(),
            "python": platform.python_version(),
            "machine": platform.platform(),
            "argv": sys.argv,
            "data": str(self.data),
            "pipeline": hashlib.sha256(study).hexdigest(),  # of pipeline.yaml beside it
            "resources": {n: v for n, v in vars(self.resources).items() if n != "trust_pickle"},
            "packages": packages,
        }
        return json.dumps(facts, indent=1).encode()
