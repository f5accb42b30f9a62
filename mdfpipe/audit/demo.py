"""The demo: draw a synthetic data set, run its study over it, train and embed, and measure it all against the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdfpipe.audit.trivial import Guard, guard
from mdfpipe.audit.truth import Assignment, Truth, assignments, measure
from mdfpipe.inspecting.pictures import draw_frame, draw_sheet, write_page
from mdfpipe.reporting.report import report
from mdfpipe.running.runner import Listener, Outcome, Runner
from mdfpipe.running.synthesis import Synthesis, synthesise
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
from mdfpipe.store.shipped import SHIPPED
from mdfpipe.study.study import Study

PRESET = "demo"
CROPS = 400  # further subjects to train on, in visible light
STUDY = SHIPPED / "pipelines" / "synthetic" / f"{PRESET}.yaml"
FRAME = ("videos/VIS-500m/G2-crowd01", 4)  # shown with its boxes


@dataclass(frozen=True)
class Demo:
    """What the demo made: its data and run folder, the outcome of the run, how right it is, its pages and pictures.

    truth, guard: None where the run did not end well.
    """

    synthesis: Synthesis
    run: Path
    outcome: Outcome
    truth: Truth | None
    guard: Guard | None
    assignments: list[Assignment]
    pages: list[Path]


def demo(folder: Path, resources: Resources, listen: Listener) -> Demo:
    """Draw the data into `folder`/data, or what is missing of it, and run the demo study in `folder`/run.

    Raises ConfigError where `folder`/data holds anything else.
    """
    data, run = folder / "data", folder / "run"
    synthesis = synthesise(data, PRESET, crops=CROPS, workers=resources.workers or 1, listen=listen)
    study = Study.load(STUDY)
    outcome = Runner(study, Run(run), data, resources).execute(listen=listen)
    if not outcome.complete:
        return Demo(synthesis, run, outcome, None, None, [], [])
    results = Path(report(run, show_people=True).files[0])  # they are rendered
    page, sheet, frame = folder / "demo.html", folder / "sheet.png", folder / "frame.png"
    write_page(run, page, show_people=True)
    draw_sheet(run, sheet, show_people=True)
    draw_frame(run, *FRAME, frame, show_people=True)
    done = Run(run)
    right, baselines, ways = measure(done, data), guard(done), assignments(done, data)
    return Demo(synthesis, run, outcome, right, baselines, ways, [results, page, sheet, frame])
