"""The command line: parse, call the library, print. The only place with exit codes.

Exit codes: 0 all done; 2 a usage, settings or data error (one line says which); 3 some units failed or wait;
4 an unexpected error (one line, and the traceback in a file of the run or behind --debug);
130 interrupted by Ctrl-C, 141 the reader of the output has gone, 143 stopped by SIGTERM or SIGHUP.

Nothing heavy is imported before a command runs, and nothing at all before a stop signal is one line.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise

from mdfpipe.machine import stopping

NOT_FORESEEN = 4


def main() -> None:
    """The entry point: one clear line and an exit code for every end."""
    stopping.listen()
    debug = "--debug" in sys.argv
    sys.argv[:] = [word for word in sys.argv if word != "--debug"]
    try:
        code = _run(debug)
    except BaseException as error:  # a signal may come out of a library's import as any error
        number = error.number if isinstance(error, stopping.Stopped) else stopping.came()
        if number is None:
            raise
        code = _stopped(number)
    sys.exit(code)


def _run(debug: bool) -> int:
    from mdfpipe.cli import ends, streams

    streams.prepare()
    # torch, asked for by torchvision, makes a folder of this name below TMPDIR, for what `torch.compile` would keep.
    # Nothing is compiled here, so that a folder that is there will do.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.dirname(__file__))  # noqa: PTH120
    try:
        from mdfpipe.cli.commands import app

        _name_the_shell()
        code = app(prog_name="mdfpipe", standalone_mode=False) or 0
        sys.stdout.flush()  # here, where a pipe that closed has its exit code
        return int(code)
    except Exception as error:
        if stopping.came() is not None:
            raise
        return ends.explain(error, debug)


def _name_the_shell() -> None:
    """Let `--show-completion bash` name a shell; without a name Typer takes the one that it runs in.

    Typer has either options that name a shell or options that find it, never both. Its switch between them is this
    variable: without it, `--show-completion zsh` in bash would print what bash reads, and say nothing.
    """
    named = (word for option, word in pairwise(sys.argv) if option in ("--show-completion", "--install-completion"))
    if any(not word.startswith("-") for word in named):
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"


def _stopped(number: int) -> int:
    stopping.leave()
    sys.stderr.write(stopping.line(number))
    return stopping.exit_code(number)


if __name__ == "__main__":
    main()
