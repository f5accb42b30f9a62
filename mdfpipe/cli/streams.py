"""Standard output and error as a command needs them: output that fails ends it, a log that fails does not."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any


class OutputFailed(Exception):  # noqa: N818 - it says what happened
    """Standard output cannot be written. Not an OSError: libraries would turn a pipe that closed into exit code 1."""

    def __init__(self, error: OSError, mode: int = 0) -> None:
        super().__init__(error.strerror)
        is_hung_up = error.errno == errno.EIO and stat.S_ISCHR(mode)  # a terminal that closed
        self.closed = error.errno == errno.EPIPE or is_hung_up


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            mode = os.fstat(self.fileno()).st_mode
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())  # what is left in buffers must not fail again
            raise OutputFailed(error, mode) from None


class _Log(io.FileIO):
    """Progress and messages: a full disk below them, or a reader that has gone, ends no run."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def prepare() -> None:
    """Put these behind sys.stdout and sys.stderr; a name that the terminal cannot show is written escaped."""
    for name, kind in (("stdout", _Output), ("stderr", _Log)):
        stream = getattr(sys, name)
        if stream is None:  # the command was started with it closed
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - for as long as the process lives
        if not isinstance(stream, io.TextIOWrapper):  # a test's, a notebook's, or none
            continue
        raw = getattr(stream.buffer, "raw", stream.buffer)  # there is no buffer under PYTHONUNBUFFERED
        if type(stream) is not io.TextIOWrapper or type(raw) is not io.FileIO:
            stream.reconfigure(errors="backslashreplace")
            continue
        stream.flush()
        ours = io.BufferedWriter(kind(stream.fileno(), "w", closefd=False))
        line, through = name == "stderr" or stream.line_buffering, stream.write_through
        text = io.TextIOWrapper(
            ours, stream.encoding, "backslashreplace", line_buffering=line or through, write_through=through
        )
        setattr(sys, name, text)
