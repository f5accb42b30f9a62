"""The demo: draw a small data set, then run its study over it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mdfpipe.errors import ConfigError
from mdfpipe.inspection import draw_frame, write_page
from mdfpipe.pipeline import SHIPPED, Listener, Outcome, Pipeline, Runner
from mdfpipe.stages import Resources
from mdfpipe.store.run import Run
from mdfpipe.synth.clip import FRAMES, draw

STUDY = SHIPPED / "pipelines" / "demo.yaml"


@dataclass(frozen=True)
class Demo:
    """Where the demo lies: its data, its run folder, and what became of the run."""

    data: Path
    run: Path
    outcome: Outcome
    pages: list[Path]  # what to look at


def demo(folder: Path, resources: Resources, listen: Listener) -> Demo:
    """Draw the data into `folder`/data unless it is there, and run the demo study in `folder`/run."""
    data, run = folder / "data", folder / "run"
    begun = data / ".drawn"
    if data.exists() and any(data.iterdir()) and not begun.exists():
        raise ConfigError(f"--run {folder}: {data} holds files that the demo did not draw; name a new folder")
    if not (data / "boxes.csv").exists():  # written last
        data.mkdir(parents=True, exist_ok=True)
        begun.touch()
        draw(data)
    runner = Runner(Pipeline.load(STUDY), Run(run), data, resources)
    outcome = runner.execute(listen=listen)
    page, frame = folder / "demo.html", folder / "frame.png"
    write_page(run, page, show_people=True)  # they are drawings
    draw_frame(run, "videos/VIS-500m_b", FRAMES // 2, frame, show_people=True)
    return Demo(data, run, outcome, [page, frame])
