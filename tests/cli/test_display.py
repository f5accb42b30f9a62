"""A run's lines in a log: few, counted, and every failure at once."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from mdfpipe.cli import display
from mdfpipe.inspecting.console import print_table
from mdfpipe.running.execution import Event
from mdfpipe.store.run import Failure


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def drawn(clock: Clock, videos: int, seconds: float, failing: tuple[int, ...] = (), total: int | None = None) -> None:
    """A stage of so many videos, each of which takes so long."""
    with display.Display() as draw:
        draw(Event("stage", "detect", "", total=total or videos))
        for number in range(videos):
            key = f"v{number}"
            draw(Event("started", "detect", key))
            for done in range(10):
                clock.now += seconds / 10
                draw(Event("progress", "detect", key, done, 10))
            failure = Failure("detect", key, "DecodeError", "it breaks off", "")
            if number in failing:
                draw(Event("failed", "detect", key, failure=failure))
            else:
                draw(Event("finished", "detect", key, rows=3, seconds=seconds))
        draw(Event("stage", "label", "", total=0))


def test_eight_hundred_quick_videos_are_a_few_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(clock, 800, 0.02, failing=(7, 300))
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("failed  detect/v")] == [
        "failed  detect/v7: it breaks off",
        "failed  detect/v300: it breaks off",
    ]
    assert 3 <= len(lines) - 2 <= 16 / display.QUIET_SECONDS + 1
    assert lines[-1] == "done    detect: 798 of 800, 2 failed, 2394 rows, 16.0 s"
    assert "left" in lines[-2]


def test_a_slow_video_shows_that_it_goes_on(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(clock, 1, 100.0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("detect/v0: ")
    assert lines[-1] == "done    detect/v0: 3 rows, 100.0 s"


def test_a_training_that_goes_on_counts_its_own_steps_alone(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with display.Display() as draw:
        draw(Event("stage", "train/body", "", total=1))
        draw(Event("started", "train/body", "training"))
        for done, total in [(0, None), (500, 1500), (525, 1500), (550, 1500)]:  # 500 steps were done by another process
            draw(Event("progress", "train/body", "training", done, total))
            clock.now += 25
    assert capsys.readouterr().err.splitlines()[-1] == "train/body/training: 550/1500 1.0/s, 15 min 50 s left"


def test_what_ended_is_said_although_the_rest_waits(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    drawn(clock, 3, 0.5, total=5)
    assert capsys.readouterr().err.splitlines() == ["done    detect: 3 of 5, 9 rows, 1 s left"]


def test_a_terminal_has_bars_and_a_log_has_none() -> None:
    assert display.Display().terminal is display.err.is_terminal


@pytest.mark.parametrize("whole", [True, False])
def test_no_line_of_a_table_ends_in_blanks(whole: bool) -> None:
    table = Table("stage", "units", box=None, pad_edge=False, header_style="bold")
    table.add_row("index", "1", "")
    table.add_row("detect", "40", "waits for a video that is on another disk, and for one that is not there")
    console = Console(file=io.StringIO(), width=30)
    print_table(table, console, whole=whole)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[:2] == ["stage   units", "index   1"]
    assert (len(lines) == 3) == whole
