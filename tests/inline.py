"""Run a study within the test's own process: fast, and debuggable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from mdfpipe.running.execution import Event, Unit, run_unit
from mdfpipe.running.runner import Runner
from mdfpipe.stages import Context, Resources
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study

DEMO = Path(__file__).parent / "drawn" / "study.yaml"


class Inline:
    """An executor that does each unit at once, here."""

    leads = True

    def __init__(self, resources: Resources | None = None) -> None:
        self.resources = resources or Resources()
        self.ran: list[str] = []

    def follow(self) -> None:
        """Nobody else leads."""

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        for unit in units:
            self.ran.append(str(unit))
            yield Event("started", unit.stage.name, unit.key)
            told: list[Event] = []
            event = run_unit(unit, self.resources, told.append)
            yield from (one for one in told if one.kind != "progress")
            yield event
            if event.kind == "fatal":
                return


def runner(data: Path, run: Path, *overrides: str, study: Path = DEMO) -> tuple[Runner, Inline]:
    """A runner over a study, and the executor that remembers what ran."""
    executor = Inline(Resources(separate=True))  # a unit for each stage: what ran can be counted
    return Runner(Study.load(study, list(overrides)), Run(run), data, executor.resources, executor), executor


def context(data: Path, scratch: Path) -> Context:
    """What a stage works in that is called by itself; its files come below `scratch`."""

    def place(name: str) -> Path:
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        return scratch / name

    return Context(data, Resources(), place)
