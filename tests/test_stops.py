"""How a command ends that is stopped, whose output goes nowhere, or that meets an error which nobody foresaw."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mdfpipe.cli import ends, streams
from mdfpipe.machine import stopping

COMMAND = """
import signal, sys, time
for name in {ignored!r}:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
for name in {heard!r}:
    signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
import mdfpipe.running.status
def slow(run):
    sys.stderr.write("ready\\n")
    try:
        {body}
    finally:
        sys.stderr.write("let go\\n")
mdfpipe.running.status.status = slow
from mdfpipe.cli import main
sys.argv = ["mdfpipe", "status", {run!r}, *{more!r}]
main()
"""


def start(
    body: str, run: str = "run", more: tuple[str, ...] = (), ignored: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """`mdfpipe status` with another body, once it is ready. What this process ignores must not decide."""
    heard = [number.name for number in stopping.SIGNALS if number.name not in ignored]
    script = COMMAND.format(ignored=ignored, heard=heard, body=body, run=run, more=more)
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    time.sleep(0.05)  # the line has left its buffer
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what else it said. (Not by `communicate`: what `readline` took too much of would be lost.)"""
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.stdout.read() == ""
        return process.wait(20), said


@pytest.mark.parametrize(
    ("name", "times", "code", "line"),
    [
        ("SIGINT", 6, 130, "mdfpipe: interrupted; the same command resumes from here\n"),
        ("SIGTERM", 2, 143, "mdfpipe: stopped by SIGTERM; the same command resumes from here\n"),
        ("SIGHUP", 1, 143, "mdfpipe: stopped by SIGHUP; the same command resumes from here\n"),
    ],
)
def test_a_stop_is_one_line_and_lets_go_of_everything(name: str, times: int, code: int, line: str) -> None:
    process = start("time.sleep(60)")
    for _ in range(times):
        process.send_signal(getattr(signal, name))
        time.sleep(0.02)
    assert end(process) == (code, "let go\n" + line)


def test_what_its_parent_ignores_stays_ignored() -> None:
    process = start("time.sleep(0.5); sys.exit(7)", ignored=("SIGINT", "SIGHUP"))
    for number in (signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert end(process) == (7, "let go\n")


def test_a_second_ctrl_c_of_one_who_means_it_ends_at_once() -> None:
    process = start("""try: time.sleep(60)
        finally: time.sleep(60)""")
    process.send_signal(signal.SIGINT)
    time.sleep(stopping._PATIENCE + 0.2)
    process.send_signal(signal.SIGINT)
    assert end(process) == (130, "mdfpipe: interrupted; the same command resumes from here\n")


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_nobody_foresaw_is_one_line_and_its_traceback_is_kept(debug: bool, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").touch()
    process = start("{}['no such key']", str(tmp_path), ("--debug",) * debug)
    code, text = end(process)
    said = text.splitlines()
    assert code == 4
    assert said[-1].startswith("mdfpipe: unexpected error: KeyError: 'no such key', at ")
    kept = "\n".join(said) if debug else (tmp_path / "traceback.txt").read_text()
    assert "Traceback (most recent call last)" in kept
    assert len(said) == 2 or debug


@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("> /dev/full", 2, "mdfpipe: standard output cannot be written: No space left on device"),
        ("| true", 141, ""),  # a reader that has gone
        (">&- 2> /dev/full", 0, ""),  # a log is no result
        ("2>&-", 0, ""),
    ],
)
def test_output_that_goes_nowhere(streams: str, code: int, said: str, tmp_path: Path) -> None:
    """More than the 64 kB that a pipe holds."""
    table = tmp_path / "names.py"
    table.write_text("import sys\nfrom mdfpipe.cli.options import say, app\nfrom mdfpipe.cli import main\n"
                     "import mdfpipe.running.status\ndef many(run):\n    sys.stderr.write('a log\\n')\n"
                     "    [say('x' * 1000) for _ in range(200)]\n    sys.exit(0)\n"
                     "mdfpipe.running.status.status = many\nsys.argv = ['mdfpipe', 'status', 'run']\n"
                     "main()\n")  # fmt: skip
    shell = f'({{ "$0" "$1"; echo $? > "$2"; }} {streams})'
    made = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(table), str(tmp_path / "code")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert int((tmp_path / "code").read_text()) == code
    lines = [line for line in made.stderr.splitlines() if line != "a log"]
    assert len(lines) == bool(said)
    assert all(line.startswith(said) for line in lines)


def test_a_terminal_that_closed_is_a_reader_that_has_gone() -> None:
    leader, follower = pty.openpty()
    os.close(leader)
    with pytest.raises(streams.OutputFailed) as caught, streams._Output(follower, "w") as output:
        output.write(b"a table")
    assert ends.explain(caught.value, debug=False) == 141


def test_a_signal_is_held_back_and_delivered_once_the_step_is_done() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with stopping.deferred() as asked:
            assert asked() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked() == signal.SIGTERM
            assert not came
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
