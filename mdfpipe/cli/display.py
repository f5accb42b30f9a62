"""Progress and results for a person: bars on a terminal, plain lines in a log, tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from mdfpipe.errors import counted, one_line, unobeyed
from mdfpipe.inspecting.console import print_table
from mdfpipe.machine.devices import CPU
from mdfpipe.running.execution import Event
from mdfpipe.running.pace import Pace
from mdfpipe.running.runner import Outcome
from mdfpipe.running.status import Status

if TYPE_CHECKING:
    from mdfpipe.audit.demo import Demo
    from mdfpipe.audit.trivial import Guard
    from mdfpipe.audit.truth import Assignment, Truth
    from mdfpipe.running.synthesis import Synthesis
    from mdfpipe.store.results import Results


class _Terminal(Console):
    """Console that strips terminal control sequences from every text, regardless of its source."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Return the text without control characters."""
        return super().render_str(unobeyed(text), **how)


out = _Terminal(highlight=False, soft_wrap=True, emoji=False)  # `:x:` in a name is a name
err = _Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False)


_LOSSES = 10  # lines of status on units that were given again, the last ones
QUIET_SECONDS = 5.0
"""How long a log stays silent about videos that end well. Failures are never held back."""


@dataclass
class _Count:
    """The units of a stage that have ended, of all of them, and their rows."""

    total: int
    ended: int = 0
    failed: int = 0
    rows: int = 0

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.ended - self.failed} of {self.total}{failed}, {counted(self.rows, 'row')}"


def _per_second(rate: float | None) -> str:
    return f"{rate:.1f}/s" if rate is not None else ""


class Display:
    """Draw the events of a run as they come, on the error stream. Use as a context.

    On a terminal: a bar for the stage, one for each video at work, and a line for each failure. Elsewhere, as in a log:
    a line for each failure, at most one every `QUIET_SECONDS` that counts what has ended, one at the end of each stage,
    and one every ten seconds while nothing ends. Stages that begin together, since they share the pass over a video,
    have a bar each, and one line together.
    """

    def __init__(self) -> None:
        self.terminal = err.is_terminal
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self.stages: dict[str, TaskID] = {}
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.paces: dict[tuple[str, str], Pace] = {}
        self.spoken = self.begun = time.monotonic()
        self.counts: dict[str, _Count] = {}  # of the stages at work
        self.begins = False  # whether further stages may begin with these
        self.unsaid: Event | None = None  # the last that ended well since a line was printed

    def __enter__(self) -> Self:
        if self.terminal:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.terminal:
            self.progress.stop()
        else:
            self._say_unsaid()

    def __call__(self, event: Event) -> None:
        """Draw one event."""
        now, unit = time.monotonic(), (event.stage, event.key)
        if event.kind in ("again", "joined", "left", "refused", "waiting"):
            self.progress.console.print(_of_workers(event))
            self.spoken = now
            if event.kind == "again" and unit in self.tasks:
                self.progress.remove_task(self.tasks.pop(unit))
            return
        if event.kind == "stage":
            self._say_unsaid()
            if event.words:
                self.progress.console.print(f"[yellow]slow[/yellow]    {escape(event.words)}")
            self.begun = now
            self.counts = (self.counts if self.begins else {}) | {event.stage: _Count(event.total or 0)}
        elif event.kind == "started":
            self.paces[unit] = Pace(now)
        elif event.kind == "progress":
            self.paces[unit] = self.paces.get(unit, Pace(now)).at(event.done, event.total, now)
        elif event.kind in ("finished", "failed", "damaged"):
            count = self.counts.setdefault(event.stage, _Count(0))
            count.ended += 1
            count.failed += event.kind == "failed"
            count.rows += event.rows
        rate = self.paces[unit].rate(event.done, now) if unit in self.paces else None
        if self.terminal:
            self._bar(event, unit, rate)
        else:
            self._line(event, rate)
        self.begins = event.kind == "stage"

    def _bar(self, event: Event, unit: tuple[str, str], rate: float | None) -> None:
        if event.kind == "stage":
            for name in self.stages.keys() - self.counts.keys():
                self.progress.remove_task(self.stages.pop(name))
            if event.stage in self.stages:
                self.progress.remove_task(self.stages[event.stage])
            shown = self.progress.add_task(f"[bold]{event.stage}[/bold]", total=event.total, rate="")
            self.stages[event.stage] = shown
        elif event.kind == "started":
            self.tasks[unit] = self.progress.add_task(
                f"  {escape(one_line(event.key, 40))}{_on(event)}", total=None, rate=""
            )
        elif event.kind == "progress" and unit in self.tasks:
            self.progress.update(self.tasks[unit], completed=event.done, total=event.total, rate=_per_second(rate))
        else:
            if unit in self.tasks:
                self.progress.remove_task(self.tasks.pop(unit))
            if event.stage in self.stages:
                self.progress.update(self.stages[event.stage], completed=self.counts[event.stage].ended)
            if event.failure is not None:
                self.progress.console.print(_ended(event))

    def _line(self, event: Event, rate: float | None) -> None:
        if event.kind in ("stage", "started"):
            return
        silent = time.monotonic() - self.spoken
        if event.failure is not None:
            err.print(_ended(event))
        elif event.kind == "finished":
            self.unsaid = event
            all_ended = all(count.ended >= count.total for count in self.counts.values())
            if silent >= QUIET_SECONDS or all_ended or self._is_alone:
                self._say_unsaid()
        elif event.kind == "progress" and silent >= 2 * QUIET_SECONDS:
            share = f"{event.done}/{event.total}" if event.total else f"{event.done}"
            eta = f", {_duration((event.total - event.done) / rate)} left" if event.total and rate else ""
            line = f"{event.stage}/{one_line(event.key, 60)}: {share} {_per_second(rate)}{eta}"
            err.print(escape(line.rstrip()))
            self.spoken = time.monotonic()

    def _say_unsaid(self) -> None:
        """Print what has ended in this stage, if something ended well since the last line about it."""
        event, self.unsaid = self.unsaid, None
        if event is None:
            return
        self.spoken = time.monotonic()
        if self._is_alone:
            err.print(_ended(event))
            return
        elapsed, slowest = self.spoken - self.begun, min(self.counts.values(), key=lambda count: count.ended)
        whole = all(count.ended >= count.total for count in self.counts.values())
        left = elapsed * (slowest.total - slowest.ended) / slowest.ended if slowest.ended else None
        time_text = f"{elapsed:.1f} s" if whole else f"{_duration(left)} left"
        shown = "; ".join(f"{stage}: {count}" for stage, count in self.counts.items())
        err.print(f"[green]done[/green]    {shown}, {time_text}")

    @property
    def _is_alone(self) -> bool:
        """Whether one video is all that there is: it has a line of its own."""
        return all(count.total <= 1 for count in self.counts.values())


def _ended(event: Event) -> str:
    name = escape(f"{event.stage}/{one_line(event.key, 60)}")
    if event.damaged is not None and event.failure is not None:
        return f"[yellow]damaged[/yellow] read by {name}: {escape(event.failure.message)}"
    if event.failure is not None:
        return f"[red]failed[/red]  {name}: {escape(event.failure.message)}"
    if event.stage == "synth":  # it has no rows: its key says what it drew
        return f"[green]done[/green]    synth: {event.rows} {event.key}, {event.seconds:.1f} s"
    if event.stage == "hash":
        return f"[green]done[/green]    videos hashed: {event.rows}, {event.words}, {event.seconds:.1f} s"
    return f"[green]done[/green]    {name}: {counted(event.rows, 'row')}, {event.seconds:.1f} s"


def _of_workers(event: Event) -> str:
    """A line about a worker that is no process of this command."""
    name, words = escape(one_line(event.key, 80)), escape(one_line(event.words, 300))
    if event.kind == "again":
        return f"[yellow]again[/yellow]   {escape(event.stage)}/{name}: {words}"
    if event.kind == "joined":
        return f"joined  {name}: {words}"
    if event.kind == "waiting":
        return f"[yellow]waiting[/yellow] {words}"
    return f"[yellow]{event.kind:<7}[/yellow] {name}: {words}"


def _on(event: Event) -> str:
    """The worker that is not of this machine, and the device that is no CPU."""
    words = [*([event.worker] if event.worker else []), *([event.device] if event.device not in ("", CPU) else [])]
    return f" ({escape(' '.join(words))})" if words else ""


def _stages(*columns: str) -> Table:
    """An empty table with a row for each stage."""
    table = Table("stage", box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show_outcome(outcome: Outcome) -> None:
    """The tally by stage, then what failed and what was refused."""
    table = _stages("units", "done before", "done now", "failed", "waiting", "new rows")
    for name, t in outcome.tallies.items():
        figures = (t.total, t.already, t.ran, t.failed, t.blocked, t.rows)
        table.add_row(name, *(str(n) for n in figures))
    print_table(table, out, whole=True)
    for name, t in outcome.tallies.items():
        if t.note:
            out.print(f"{name}: {escape(t.note)}")
    if outcome.failures:
        out.print(f"\n[bold red]{len(outcome.failures)} failed[/bold red]")
        for failure in outcome.failures:
            out.print(f"  {escape(failure.stage)}/{escape(one_line(failure.key, 80))}: {escape(failure.message)}")
    for line in outcome.mended:
        out.print(escape(f"{line}: damaged, made again"))
    for line in outcome.notes:
        out.print(escape(line))
    if outcome.workers_lost or outcome.given_again:
        out.print(_lost(outcome))
    for line in outcome.warnings:
        out.print(f"\n[yellow]warning[/yellow] {escape(line)}")
    for line in outcome.refused:
        out.print(f"\n[yellow]{escape(line)}[/yellow]")


def show_status(status: Status) -> None:
    """The stages of a run, its rows by status, its failures."""
    out.print(f"[bold]{escape(status.name)}[/bold]  {escape(status.run)}  (data: {escape(status.data)})")
    if status.lock:
        out.print(escape(status.lock))
    table = _stages("units", "done", "due", "failed", "time", "a minute", "left")
    for stage in status.stages:
        rate = f"{stage.rate_per_minute:.1f}" if stage.rate_per_minute else "-"
        left = _duration(stage.eta_seconds) if stage.eta_seconds and stage.due else "-"
        figures = (stage.total, stage.done, stage.due, stage.failed)
        table.add_row(stage.stage, *(str(n) for n in figures), _duration(stage.seconds), rate, left, escape(stage.note))
    print_table(table, out, whole=True)
    for stage in status.stages:
        if stage.rows:
            out.print(f"{stage.stage}: " + ", ".join(f"{n} {name}" for name, n in stage.rows.items()))
        if stage.devices.keys() - {CPU}:
            out.print(f"{stage.stage}: " + ", ".join(f"{n} on {escape(name)}" for name, n in stage.devices.items()))
        for active in stage.active:
            out.print(f"{stage.stage} now: {escape(active)}")
    _show_workers(status)
    for kept in status.incomplete:
        out.print(f"[yellow]incomplete[/yellow] {kept['stage']}/{escape(kept['key'])}: {escape(kept['reason'])}")
    for line in status.left_out:
        out.print(escape(line))
    for line in status.unreadable:
        out.print(f"[yellow]warning[/yellow] {escape(line)}")
    for failure in status.failures:
        out.print(f"[red]failed[/red] {failure['stage']}/{escape(failure['key'])}: {escape(failure['reason'])}")


def _show_workers(status: Status) -> None:
    """The joined workers that are there, and how many were lost."""
    for worker in status.workers:
        rate = f", {worker.rate:g}/s" if worker.rate is not None else ""
        words = f"at {worker.unit}{rate}" if worker.unit else "idle"
        out.print(escape(f"worker {worker.name} ({worker.place}): {words}; {counted(worker.finished, 'unit')} done"))
    if status.workers_lost or status.given_again:
        out.print(_lost(status))
    for loss in status.losses[-_LOSSES:]:
        out.print(escape(f"given again: {loss['unit']}, lost by {loss['words']}"))


def _lost(found: Outcome | Status) -> str:
    workers, units = counted(found.workers_lost, "worker"), counted(found.given_again, "unit")
    return f"{workers} left before the end, {units} given again"


def show_synthesis(done: Synthesis) -> None:
    """Print what was drawn."""
    data = done.dataset
    out.print(
        f"{escape(str(data.folder))}: {counted(data.videos, 'video')} ({data.drawn} drawn now), "
        f"{counted(data.frames, 'frame')}, {counted(data.subjects, 'subject')} in two galleries, "
        f"{counted(data.bodies, 'body')}, {counted(data.faces, 'annotated face')}"
    )
    if done.crops is not None:
        out.print(
            f"{escape(str(done.crops))}: {counted(done.crop_count, 'visible crop')} of "
            f"{counted(done.crop_subjects, 'further subject')}"
        )
    if done.faces is not None:
        out.print(
            f"{escape(str(done.faces))}: {counted(done.face_count, 'visible face')} of {done.face_subjects} of them"
        )
    out.print("Rendered people, not real ones: nothing measured on them says how well real people are recognised.")


def show_truth(truth: Truth, assignments: Iterable[Assignment], guard: Guard | None, splits: bool = True) -> None:
    """Print how correct a run is and how far trivial features get (splits: in each split, else pooled)."""
    from mdfpipe.audit.truth import assignment_lines

    out.print("[bold]Against the truth[/bold]  (IoU >= 0.5; recall of half-visible bodies with an annotated face)")
    out.print(escape("\n".join(truth.lines())))
    out.print("\n[bold]Ways to assign faces[/bold]")
    out.print(escape("\n".join(assignment_lines(assignments))))
    if guard is None:
        out.print("\nTrivial features: not measured; they need a manifest of two domains.")
        return
    out.print("\n[bold]Trivial features[/bold]  (sanity check: nearest neighbour, one template per subject and domain)")
    out.print(escape("\n".join(guard.lines(splits))))


def show_numbers(results: Results) -> None:
    """The tables of an evaluated run, or of several."""
    from mdfpipe.reporting.numbers import MEANING, number_lines

    out.print(f"\n[bold]Numbers[/bold]  ({MEANING})")
    out.print(escape("\n".join(number_lines(results))))
    if results.name and not results.compared:  # not of scores that were written nowhere
        out.print(escape(f"\nall of them: {results.run}/evaluate/metrics.parquet, metrics.json"))


def show_demo(demo: Demo) -> None:
    """The demo's tables, and where to look next."""
    from mdfpipe.store.results import read_results

    out.print(
        "Rendered people, found by a network that was trained on synthetic data only: this shows what each stage does, "
        "and says nothing\nabout how well real people are recognised.\n"
    )
    data = demo.synthesis.dataset
    out.print(
        f"{counted(data.videos, 'video')} ({data.drawn} drawn now), {data.frames} frames, {data.subjects} subjects"
    )
    show_outcome(demo.outcome)
    if demo.truth is not None and demo.guard is not None:
        out.print()
        show_truth(demo.truth, demo.assignments, demo.guard, splits=False)
        show_numbers(read_results(demo.run))
    out.print(f"\ndata: {demo.synthesis.dataset.folder}\nrun:  {demo.run}")
    for page in demo.pages:
        out.print(f"look: {page}")


def _duration(seconds: float | None) -> str:
    """Return a duration as text.

    >>> _duration(7), _duration(95), _duration(7300)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
