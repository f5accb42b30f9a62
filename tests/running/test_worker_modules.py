"""What a worker loads: torch only where a network runs, pandas only from label on: each worker has its own copy."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from mdfpipe.running.execution import Event, LocalExecutor, Unit
from mdfpipe.running.runner import Runner
from mdfpipe.running.workers import Step
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
from mdfpipe.study.study import Study
from tests.runs import DataSet

HEAVY = ("torch", "torchvision", "pandas", "scipy", "matplotlib", "onnxruntime")


def loaded(tell: object) -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


class Asking(LocalExecutor):
    """After each stage, asks the worker that did it what it has loaded."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self.found: dict[str, list[str]] = {}

    def run(self, units: Iterable[Unit]) -> Iterator[Event]:
        units = list(units)
        yield from super().run(units)
        if units:
            (self.found[units[0].stage.name],) = (
                report.value for report in self.crew.run(loaded, [()]) if report.kind is Step.DONE
            )


def test_a_worker_without_a_network_loads_no_torch(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    data.good("a.mp4", 6)
    resources = Resources(workers=1, threads=1, separate=True)
    executor = Asking(resources)
    runner = Runner(Study.load(data.write(), []), Run(tmp_path / "run"), data.root, resources, executor)
    outcome = runner.execute(last="crop")
    assert outcome.complete
    without = {stage: sorted({*names} - {"pandas"}) for stage, names in executor.found.items()}
    assert without == {"index": [], "detect": [], "label": [], "crop": []}
    assert executor.found["detect"] == []  # label needs pandas to check whether faces are in step
