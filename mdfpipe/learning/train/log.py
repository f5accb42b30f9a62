"""Log: what a training says while it runs, a line an epoch; for TensorBoard, too, where one asks for it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from mdfpipe.errors import MissingDependency


class Log:
    """JSON lines in `path`; and event files in `board`, an extra that decides nothing. A context: leaving it closes.

    anew: the training begins at its first step, and what is in `board` is another one's. Raises MissingDependency
    where a board is asked for and the package tensorboard is not installed.
    """

    def __init__(self, path: Path, board: Path | None = None, *, anew: bool = True) -> None:
        self.path = path
        if path.is_symlink() or (path.exists() and not path.is_file()):  # what is appended would be written elsewhere
            path.unlink()
        if path.exists() and not path.read_bytes().endswith(b"\n"):  # a kill in the midst of a line: it is lost
            with path.open("a") as file:
                file.write("\n")
        self._writer: Any = None
        if board is not None:
            check_board()
            from torch.utils.tensorboard import SummaryWriter

            for former in board.glob("events.out.tfevents.*") if anew else ():
                former.unlink(missing_ok=True)
            writer: Any = SummaryWriter
            self._writer = writer(str(board))

    def __call__(self, line: dict[str, Any]) -> None:
        """Write an epoch's line; its figures count for the step at which the epoch ended."""
        with self.path.open("a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        if self._writer is not None:
            for name, value in plain(line).items():
                self._writer.add_scalar(name, value, line["step"])
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()


def check_board() -> None:
    """Raise MissingDependency where the package tensorboard is not installed: before hours of work, without torch."""
    if find_spec("tensorboard") is None:
        raise MissingDependency("tensorboard", "--tensorboard", extra="tensorboard")


def once(path: Path, kept: Sequence[dict[str, Any]] = ()) -> str:
    """The lines in a log, each epoch once: a killed process may have written one that was then computed again.

    kept: the lines as the training's state has them, without speeds; of an epoch whose line in the log is lost or says
    otherwise, as after damage, that one is taken, with speeds of 0.
    Speeds are padded, so that the texts of two equal trainings are of one length: a receipt holds it.
    """
    lines: dict[int, str] = {}
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            epoch = json.loads(text)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # cut off by a kill
        if type(epoch) is int:
            lines[epoch] = text
    if kept:
        lines = {line["epoch"]: _agreeing(lines.get(line["epoch"], "{}"), line) for line in kept}
    text = "".join(f"{lines[epoch]}\n" for epoch in sorted(lines))
    return _SPEED.sub(lambda found: found["name"] + found["number"].rjust(12), text)


def _agreeing(text: str, kept: dict[str, Any]) -> str:
    """The line of a log where it holds what was kept and two speeds; else what was kept."""
    found = json.loads(text)
    speeds = {name: found.get(name) for name in _SPEEDS}
    numbers = all(type(value) in (int, float) and 0 <= value < 1e12 for value in speeds.values())
    same = json.dumps({**kept, **speeds}, sort_keys=True)
    if numbers and json.dumps(found, sort_keys=True) == same:
        return same
    return json.dumps({**kept, **_SPEEDS}, sort_keys=True)


_SPEEDS = {"images_per_second": 0.0, "seconds": 0.0}
_SPEED = re.compile(r'(?P<name>"(?:images_per_second|seconds)": )(?P<number>[0-9.]+)')


def plain(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line, those of a section as SECTION/NAME; without the step, at which they are drawn."""
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            found |= plain(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            found[prefix + name] = float(value)
    return found
