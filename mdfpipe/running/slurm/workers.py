"""Workers that are jobs: an array of them for videos, and one job of torchrun for each training."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from mdfpipe.errors import ConfigError, MdfError, counted, one_line
from mdfpipe.learning.train import together
from mdfpipe.machine import devices
from mdfpipe.running.execution import Event, Unit
from mdfpipe.running.leading import JoinedExecutor
from mdfpipe.running.slurm import queue
from mdfpipe.running.slurm.queue import QueuedJob, RefusedError
from mdfpipe.running.slurm.script import LOGS, Asked, JobKind, job_name, training_script, workers_script
from mdfpipe.running.workers import Step, UnitReport
from mdfpipe.running.workers.channels import listed
from mdfpipe.running.workers.joined import PATIENCE_SECONDS, TRIES, Joined, Terms
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run

LONGEST_LOOK_SECONDS = 15.0  # between two looks at the queue; shorter after a submission


class SlurmWorkers(Joined):
    """Joined workers that are jobs. kind: what is submitted once there is a unit: workers, or a training."""

    def __init__(self, run: Run, terms: Terms, connect: str, asked: Asked) -> None:
        super().__init__(run, terms, connect)
        self.asked = asked
        self.kind: JobKind = "work"
        self._guard = queue.Canceller()
        self._jobs: dict[str, QueuedJob] = {}
        self._submitted = self._looked = 0.0
        self._fruitless = 0  # submissions in a row in whose jobs no unit made progress
        self._has_joined = False  # a worker, since the last submission
        self._waiting = self._left = ""  # _left: why the last worker left

    def opened(self) -> None:
        """Cancel the jobs of a leader that was killed together with its guard."""
        for kind in ("work", "train"):
            queue.cancel(queue.named(job_name(self.asked.run, kind)))

    def closing(self) -> None:
        """Cancel all jobs."""
        self._guard.cancel()

    def switch(self, kind: JobKind) -> None:
        """From now on units are of this kind. The jobs of the other kind are cancelled: they would hold their GPUs."""
        if kind == self.kind:
            return
        self.kind = kind
        self.dismiss()

    def dismiss(self) -> None:
        """Let all workers go, and cancel their jobs."""
        for worker in list(self.present):
            self.present.remove(worker)
            if self._gate is not None:
                self._gate.part(worker)
        self._guard.cancel()
        self._jobs = {}

    def waits_for(self) -> str:
        """What the jobs wait for."""
        return self._waiting or f"Slurm to start job {', '.join(self._guard.numbers)}"

    def look(self, wanted: int) -> Iterator[UnitReport]:
        """Workers that came and went; jobs are submitted where a unit waits and there are none."""
        if wanted and not self._guard.numbers:
            yield from self._submit()
        self._said = time.monotonic()  # what the queue says is said below
        if any(worker.was_useful for worker in self.present):
            self._fruitless = 0
        for report in super().look(wanted):
            self._has_joined |= report.kind is Step.JOINED
            if report.kind in (Step.LEFT, Step.REFUSED):
                self._left = f"{report.worker}: {report.value}"
            yield report
        now = time.monotonic()
        if wanted and now - self._looked >= min(LONGEST_LOOK_SECONDS, 1 + (now - self._submitted) / 10):
            self._looked = now
            yield from self._look_at_queue()

    # -- the queue

    def _submit(self) -> Iterator[UnitReport]:
        (self.run.path / LOGS).mkdir(exist_ok=True)
        self._jobs, self._waiting, self._left, self._has_joined = {}, "", "", False
        if self.kind == "train":
            self._guard.watch(queue.submit(training_script(self.asked)))
        else:
            yield from self._submit_workers()
        self._submitted = self._looked = time.monotonic()
        self.run.event("submitted", jobs=self._guard.numbers, kind=self.kind)

    def _submit_workers(self) -> Iterator[UnitReport]:
        """As many arrays as the largest size of one demands; fewer workers where a limit of the user demands that."""
        largest, missing, words = queue.largest_array(), self.asked.wish.jobs, ""
        size = max(largest, 1)
        while missing:
            count = min(size, missing)
            try:
                number = queue.submit(workers_script(self.asked, count, arrays=largest > 0))
            except RefusedError as error:
                if "limit" not in error.words.lower() or (count == 1 and not self._guard.numbers):
                    raise
                words = error.words
                if count == 1:
                    break
                size = count // 2
                continue
            self._guard.watch(number)
            missing -= count
        if missing:
            had = self.asked.wish.jobs - missing
            yield self._says(f"Slurm takes {had} of {self.asked.wish.jobs} jobs: {words}")

    def _look_at_queue(self) -> Iterator[UnitReport]:
        found = queue.jobs(self._guard.numbers)
        if found is None:
            return
        before, self._jobs = self._jobs, {job.number: job for job in found}
        ended = [job for job in found if not job.is_live]
        live = [job for job in found if job.is_live]
        if not live and not self.present:
            self._fruitless += 1  # without a limit they would be submitted for ever, where each worker lacks something
            if not self._has_joined or self._fruitless >= TRIES:
                raise MdfError(self._all_ended(ended))
            yield self._says(f"all jobs of {', '.join(self._guard.numbers)} have ended; others are submitted")
            self._guard.cancel()
            yield from self._submit()
            return
        for job in ended:
            if job.number in before and before[job.number].is_live and job.state not in ("COMPLETED", "CANCELLED"):
                yield self._says(f"{job} ({self._last_words(job)}); {counted(len(live), 'job is', 'jobs are')} left")
        reasons = Counter(job.reason for job in live if job.state == "PENDING")
        pending = ", ".join(f"{count} for {reason}" for reason, count in reasons.items())
        waiting = f"Slurm: {reasons.total()} of {len(found)} jobs are pending: {pending}" if pending else ""
        if waiting != self._waiting or (waiting and not self.present and self._is_time()):
            self._waiting = waiting
            if waiting:
                self._told = time.monotonic()
                yield self._says(waiting)

    _told = 0.0

    def _is_time(self) -> bool:
        return time.monotonic() - self._told >= PATIENCE_SECONDS

    @staticmethod
    def _says(words: str) -> UnitReport:
        return UnitReport(Step.WAITING, (), words)

    def _all_ended(self, ended: list[QueuedJob]) -> str:
        """Why the jobs ended and did nothing."""
        numbers = ", ".join(self._guard.numbers)
        if self._left:
            return (
                f"--on slurm: all jobs of {numbers} have ended, and no unit made progress in any; the last one: "
                f"{self._left}"
            )
        if not ended:
            return f"--on slurm: Slurm does not know job {numbers} any more, and no worker joined from it"
        return (
            f"--on slurm: no worker joined, and the queue has none left of job {numbers}: {ended[0]}; "
            f"{self._last_words(ended[0])}"
        )

    def _last_words(self, job: QueuedJob) -> str:
        """The last line of a job's log, of mdfpipe itself if there is one."""
        folder = self.run.path / LOGS
        path = folder / f"{job.number}.log"
        if path.name not in listed(folder):
            return (
                f"it wrote no log {path}; expected a run folder on a file system that {job.node or 'the node'} and "
                "this machine share"
            )
        return _last_line(path)


def _last_line(path: Path) -> str:
    lines: list[str] = []
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(path.stat().st_size - 20000, 0))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    ours = [line for line in lines[-30:] if line.startswith("mdfpipe: ")]
    last = (ours or lines)[-1:]
    return f"{path} ends with: {one_line(last[0], 300)}" if last else f"{path} is empty"


class SlurmExecutor(JoinedExecutor):
    """Runs units in jobs. Each training has a job of its own, one after the other."""

    def __init__(self, resources: Resources, workers: SlurmWorkers) -> None:
        """resources: of the workers. Raises ConfigError where torchrun started this process."""
        if together.processes() > 1:
            raise ConfigError("--on slurm: torchrun started this command; start it alone: its jobs start torchrun")
        super().__init__(replace(resources, workers=None, per_device=None, device=devices.CPU), workers, on="slurm")
        self.slurm = workers

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        """Run the units; those that processes do together after the others."""
        units = list(units)
        if others := [unit for unit in units if not unit.stage.together]:
            self.slurm.switch("work")
            yield from super().run(others)
        for unit in units:
            if unit.stage.together:
                self.slurm.switch("train")
                try:
                    yield from super().run([unit])
                finally:
                    self.slurm.dismiss()
