"""How a command that failed ends: one line that blames the right thing, and the exit code."""

from __future__ import annotations

import sys
import traceback
from itertools import pairwise
from pathlib import Path

from typer import Abort

from mdfpipe.cli.streams import OutputFailed
from mdfpipe.errors import CopyError, MdfError, one_line
from mdfpipe.store.files import write_atomically


def explain(error: Exception, debug: bool) -> int:
    """Say in one line why the command failed; the exit code."""
    if isinstance(error, OutputFailed):
        if error.closed:
            return 141  # whoever read our output has enough
        return _say(f"standard output cannot be written: {error}; free some space or write elsewhere", 2)
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own: a usage error
        error.show()
        return int(error.exit_code)
    if isinstance(error, Abort):
        return _say("ended by its user", 1)
    if isinstance(error, CopyError) and error.number > 0:
        return 2  # the first of the copies says it
    if isinstance(error, MdfError) and not debug:
        return _say(str(error), 2)
    if isinstance(error, MemoryError) and not debug:
        return _say("out of memory; try a smaller --batch, fewer --workers, or a machine with more", 2)
    if isinstance(error, OSError) and error.filename is not None and not debug:
        return _say(f"{_name(error.filename)}: {error.strerror or one_line(error)}", 2)
    return _unforeseen(error, debug)


def _unforeseen(error: Exception, debug: bool) -> int:
    trace = "".join(traceback.format_exception(error))
    code = 2 if isinstance(error, MdfError) else 4
    if debug:
        sys.stderr.write(trace)
        return _say(str(error) if code == 2 else foreseen_nowhere(error), code)
    line, folder = foreseen_nowhere(error), _run_folder()
    if folder is not None:
        try:
            write_atomically(folder / "traceback.txt", trace.encode(errors="backslashreplace"))
        except OSError:
            pass
        else:
            return _say(f"{line}; the traceback is in {folder / 'traceback.txt'}: please report it", 4)
    return _say(f"{line}; the same command with --debug prints the traceback: please report it", 4)


def foreseen_nowhere(error: BaseException) -> str:
    """Return one line for an unexpected error: kind, text, and its place in our code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "mdfpipe" in Path(frame.filename).parts] or frames
    where = f", at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    text = f": {one_line(error, 200)}" if str(error) else ""
    return f"unexpected error: {type(error).__name__}{text}{where}"


def _run_folder() -> Path | None:
    """The run folder that the command named, if it did and it is there."""
    words = sys.argv[1:]
    named = [b for a, b in pairwise(words) if a == "--run"]
    named += [word.removeprefix("--run=") for word in words if word.startswith("--run=")]
    folders = [Path(word) for word in named or words if not word.startswith("-")]
    return next((folder for folder in folders if (folder / "pipeline.yaml").is_file()), None)


def _name(filename: object) -> str:
    return filename.decode(errors="backslashreplace") if isinstance(filename, bytes) else str(filename)


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"mdfpipe: {one_line(message, 2000)}\n")
    return code
